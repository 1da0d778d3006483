//! Devices that do as they should: they ask the permit rule before every step, take the time that is
//! assumed, and prove what was asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use wardring_api::{
    JobAction, JobState, PatchAuthority, Permit, PermitStep, RollbackPolicy, SliceLine,
};

use super::world::World;
use crate::{
    Circumstances, DeviceRow, GroupView, JobOutcome, JobView, Outcome, OutcomeResult, PermitFacts,
    PermitRequest, PermitVerdict, missing_group, permit,
};

/// What is waited for after a restart where the job does not tell.
const SETTLES: SignedDuration = SignedDuration::from_mins(10);
/// Who is refused waits for something that the plan wakes for; this is for what it does not.
const ASKS_AGAIN: SignedDuration = SignedDuration::from_hours(1);
/// How long a download ahead takes: it is not the question, and nothing waits for it.
const DOWNLOADS: SignedDuration = SignedDuration::from_mins(30);
/// The run of an agent that took its job in this forecast.
const RUN: &str = "forecast";

/// When each device does its next step.
#[derive(Default)]
pub(super) struct Fleet {
    due: BTreeSet<(Timestamp, String)>,
    when: BTreeMap<String, Timestamp>,
    settle: BTreeMap<String, SignedDuration>,
    /// Who was refused asks again at whatever instant is looked at next.
    refused: BTreeSet<String>,
}

impl Fleet {
    /// The next step of any device.
    pub fn next(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    pub fn settles(&mut self, device: &str, settle: SignedDuration) {
        self.settle.insert(device.to_owned(), settle);
    }

    pub fn forgets(&mut self, device: &str) {
        if let Some(at) = self.when.remove(device) {
            self.due.remove(&(at, device.to_owned()));
        }
    }

    fn notes(&mut self, device: &str, at: Option<Timestamp>) {
        self.forgets(device);
        if let Some(at) = at {
            self.when.insert(device.to_owned(), at);
            self.due.insert((at, device.to_owned()));
        }
    }

    fn pop(&mut self, now: Timestamp) -> Option<String> {
        let (at, device) = self.due.first().filter(|(at, _)| *at <= now)?.clone();
        self.due.remove(&(at, device.clone()));
        self.when.remove(&device);
        Some(device)
    }
}

/// What a device does next about its job.
enum Next {
    Asks(PermitStep),
    /// Is in this state once so much time has passed.
    Comes(SignedDuration, JobState),
    Ends(SignedDuration),
}

impl World {
    /// A device finds its job, or goes on with it.
    pub(super) fn takes_up(&mut self, device: &str) {
        let at = self.due(device);
        self.fleet.notes(device, at);
    }

    /// Every step that has come.
    pub(super) fn work(&mut self) {
        for device in std::mem::take(&mut self.fleet.refused) {
            let at = self.due(&device);
            self.fleet.notes(&device, at);
        }
        while let Some(device) = self.fleet.pop(self.now()) {
            let at = self.act(&device);
            self.fleet.notes(&device, at);
        }
    }

    /// Nothing for a job that is answered, or whose answer only the controller can read.
    fn next_of(&self, job: &JobView) -> Option<Next> {
        if job.outcome != JobOutcome::None || job.state == Some(JobState::Done) {
            return None;
        }
        let begins = match job.action {
            JobAction::Download => return Some(Next::Ends(DOWNLOADS)),
            JobAction::Rollback => PermitStep::Uninstall,
            JobAction::Install => PermitStep::Install,
        };
        let mut permitted = job.permitted.iter().filter(|permit| permit.attempt == job.attempt);
        let has_begun = permitted.any(|permit| permit.step == begins);
        let restart = self.assumptions.restart;
        let settle = self.fleet.settle.get(&job.device).copied().unwrap_or(SETTLES);
        Some(match job.state {
            // A restart before the installation, of a Windows that waited for one.
            Some(JobState::RebootFirst | JobState::AwaitingReboot) if !has_begun => {
                Next::Asks(PermitStep::Reboot)
            }
            Some(JobState::Rebooting) if !has_begun => Next::Comes(restart, JobState::Accepted),
            _ if !has_begun => Next::Asks(begins),
            Some(JobState::AwaitingReboot) => Next::Asks(PermitStep::Reboot),
            Some(JobState::Rebooting) => Next::Comes(restart, JobState::Verifying),
            Some(JobState::Settling | JobState::Verifying | JobState::Remediating) => {
                Next::Ends(settle)
            }
            _ => Next::Comes(self.assumptions.install, JobState::AwaitingReboot),
        })
    }

    /// When the device acts on its job, unless it cannot: who is away stays so. A device that restarts
    /// with a permit counts as in contact until its `rebootDeadline`.
    fn due(&self, device: &str) -> Option<Timestamp> {
        let job = self.job(device)?;
        let next = self.next_of(job)?;
        if !self.device(device).is_some_and(DeviceRow::is_online) {
            return None;
        }
        let since = job.updated_at.unwrap_or(self.now());
        let takes = match next {
            Next::Asks(_) => return Some(self.now()),
            Next::Comes(takes, _) | Next::Ends(takes) => takes,
        };
        since.checked_add(takes).ok().map(|at| at.max(self.now()))
    }

    /// Does the step that has come; returns when the next one does.
    fn act(&mut self, device: &str) -> Option<Timestamp> {
        match self.next_of(self.job(device)?)? {
            Next::Asks(step) => match self.ask(device, step)? {
                PermitVerdict::Granted { expedited, .. } => {
                    let state = match step {
                        PermitStep::Install => JobState::Installing,
                        PermitStep::Uninstall => JobState::Uninstalling,
                        PermitStep::Reboot => JobState::Rebooting,
                    };
                    self.permit(device, step, state, expedited);
                }
                PermitVerdict::Refused { .. } => {
                    self.fleet.refused.insert(device.to_owned());
                    return self.now().checked_add(ASKS_AGAIN).ok();
                }
                PermitVerdict::Ended { .. } => self.end(device, OutcomeResult::NotStarted),
            },
            Next::Comes(_, state) => {
                if state == JobState::Accepted {
                    self.has_restarted(device);
                }
                self.report(device, state);
            }
            Next::Ends(_) => {
                let action = self.job(device)?.action;
                let result = match action {
                    JobAction::Rollback => OutcomeResult::RolledBack,
                    JobAction::Install | JobAction::Download => OutcomeResult::Succeeded,
                };
                self.end(device, result);
            }
        }
        self.due(device)
    }

    fn ask(&self, device: &str, step: PermitStep) -> Option<PermitVerdict> {
        let (job, row) = (self.job(device)?, self.device(device)?);
        let is_mine = |line: &&SliceLine| line.device == device;
        let line = self.slice(&job.slice).and_then(|slice| slice.lines.iter().find(is_mine));
        let table = &self.snapshot.devices;
        let position = table.find(device)?;
        let groups: Vec<&GroupView> = table
            .groups_of(position)
            .iter()
            .map(|&group| &table.groups()[group as usize])
            .collect();
        let held = groups.iter().find(|group| group.holds_reboots_of(&row.labels));
        let watches =
            groups.iter().find(|group| group.spec.patch_authority == PatchAuthority::Observe);
        let asks = groups.iter().find(|group| group.spec.rollback == RollbackPolicy::Ask);
        let forbids = groups.iter().find(|group| group.spec.rollback == RollbackPolicy::Forbid);
        let rollout = self.named(&job.rollout);
        let status = rollout.and_then(|rollout| rollout.status.as_ref());
        let ordered = status.and_then(|status| status.rollback.as_ref()?.ordered());
        let order = ordered.and_then(|ordered| {
            let mut orders = self.snapshot.orders.iter();
            orders.find(|order| order.metadata.name.as_deref() == Some(&*ordered.name))
        });
        let lists: Vec<&[String]> = groups.iter().map(|group| &*group.spec.windows).collect();
        Some(permit(&PermitFacts {
            now: self.now(),
            request: PermitRequest {
                rollout_uid: &job.rollout_uid,
                enrolment_id: &job.enrolment_id,
                attempt: job.attempt,
                action: job.action,
                step,
                agent_run: RUN,
                accepted_in: accepted_in(job),
                boot_id: RUN,
            },
            job: Some(job),
            line,
            rollout,
            device: Some(row),
            reboots_held_by: held.map(|group| group.name.as_str()),
            missing_group: missing_group(
                rollout,
                Some(job),
                table.groups().iter().map(|group| &group.name),
            ),
            watched_by: watches.map(|group| group.name.as_str()),
            rollbacks_forbidden_by: forbids.map(|group| group.name.as_str()),
            rollbacks_asked_by: asks.map(|group| group.name.as_str()),
            order: order.map(|order| &**order),
            group_windows: &lists,
            windows: self.windows(),
            stops: self.stops(),
            holds: self.holds(),
            updates: &self.snapshot.updates,
            circumstances: Circumstances::GOOD,
        }))
    }

    fn permit(&mut self, device: &str, step: PermitStep, state: JobState, expedited: bool) {
        let at = self.now();
        self.report(device, state);
        let Some(job) = self.jobs.get_mut(device) else { return };
        let job = Arc::make_mut(job);
        job.permitted.push(Permit {
            step,
            at,
            attempt: job.attempt,
            boot_id: RUN.to_owned(),
            agent_run: RUN.to_owned(),
            accepted_in: accepted_in(job).to_owned(),
            expedited,
        });
    }

    fn report(&mut self, device: &str, state: JobState) {
        let now = self.now();
        let Some(job) = self.jobs.get_mut(device) else { return };
        let job = Arc::make_mut(job);
        (job.state, job.updated_at) = (Some(state), Some(now));
    }

    /// Windows waits for no restart any more.
    fn has_restarted(&mut self, device: &str) {
        let Some(row) = self.device(device).cloned() else { return };
        let table = Arc::make_mut(&mut self.snapshot.devices);
        table.upsert(DeviceRow { hard_pending_reboot: false, ..row });
    }

    fn end(&mut self, device: &str, result: OutcomeResult) {
        self.report(device, JobState::Done);
        let Some(job) = self.jobs.get_mut(device) else { return };
        let job = Arc::make_mut(job);
        let started = result != OutcomeResult::NotStarted && job.action != JobAction::Download;
        job.outcome = JobOutcome::Verified(Outcome {
            rollout_uid: job.rollout_uid.clone(),
            enrolment_id: job.enrolment_id.clone(),
            attempt: job.attempt,
            action: job.action,
            sequence: job.sequence,
            result,
            reason: None,
            message: String::new(),
            boot_id: "after".to_owned(),
            installed_in_boot: started.then(|| RUN.to_owned()),
            reboot_required: started,
            started,
            build: String::new(),
        });
    }
}

/// The run that took the job: who goes on with it is no second agent.
fn accepted_in(job: &JobView) -> &str {
    let mut known = job.permitted.iter().map(|permit| permit.accepted_in.as_str());
    known.find(|run| !run.is_empty()).unwrap_or(RUN)
}
