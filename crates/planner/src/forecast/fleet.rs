//! Devices that do as they should: they ask the permit rule before every step, take the time that is
//! assumed, and prove what was asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use wardring_api::{JobAction, JobState, Permit, PermitStep, RollbackPolicy, SliceLine};

use super::world::World;
use crate::{
    Circumstances, DeviceRow, GroupView, JobOutcome, JobView, Outcome, OutcomeResult, PermitFacts,
    PermitRequest, PermitVerdict, permit,
};

/// What is waited for after a restart where the job does not tell.
const SETTLES: SignedDuration = SignedDuration::from_mins(10);
/// The run of an agent that took its job in this forecast.
const RUN: &str = "forecast";

/// When each device does its next step.
#[derive(Default)]
pub(super) struct Fleet {
    due: BTreeSet<(Timestamp, String)>,
    when: BTreeMap<String, Timestamp>,
    settle: BTreeMap<String, SignedDuration>,
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
        while let Some(device) = self.fleet.pop(self.now()) {
            let at = self.act(&device);
            self.fleet.notes(&device, at);
        }
    }

    fn next_of(&self, job: &JobView) -> Option<Next> {
        if job.outcome != JobOutcome::None {
            return None;
        }
        let begins = match job.action {
            JobAction::Rollback => PermitStep::Uninstall,
            JobAction::Install | JobAction::Download => PermitStep::Install,
        };
        let settle = self.fleet.settle.get(&job.device).copied().unwrap_or(SETTLES);
        let install = self.assumptions.install;
        Some(match job.state {
            Some(JobState::Installing | JobState::Uninstalling) => {
                Next::Comes(install, JobState::AwaitingReboot)
            }
            Some(JobState::AwaitingReboot) => Next::Asks(PermitStep::Reboot),
            Some(JobState::Rebooting) => Next::Comes(self.assumptions.restart, JobState::Verifying),
            Some(JobState::Settling | JobState::Verifying | JobState::Remediating) => {
                Next::Ends(settle)
            }
            Some(JobState::Done) => Next::Ends(SignedDuration::ZERO),
            _ => Next::Asks(begins),
        })
    }

    /// When the device acts on its job, unless it cannot.
    fn due(&self, device: &str) -> Option<Timestamp> {
        let job = self.job(device)?;
        let since = job.updated_at.unwrap_or(self.now());
        let takes = match self.next_of(job)? {
            // Who is away cannot ask; who restarts comes back.
            Next::Asks(_) if !self.device(device).is_some_and(DeviceRow::is_online) => return None,
            Next::Asks(_) => return Some(self.now()),
            Next::Comes(takes, _) | Next::Ends(takes) => takes,
        };
        since.checked_add(takes).ok().map(|at| at.max(self.now()))
    }

    /// Does the step that has come; returns when the next one does.
    fn act(&mut self, device: &str) -> Option<Timestamp> {
        let now = self.now();
        match self.next_of(self.job(device)?)? {
            Next::Asks(step) => match self.ask(device, step)? {
                PermitVerdict::Granted { .. } => {
                    let state = match step {
                        PermitStep::Install => JobState::Installing,
                        PermitStep::Uninstall => JobState::Uninstalling,
                        PermitStep::Reboot => JobState::Rebooting,
                    };
                    self.permit(device, step, state);
                }
                PermitVerdict::Refused { retry_after, .. } => {
                    return now.checked_add(retry_after).ok();
                }
                PermitVerdict::Ended { .. } => self.end(device, OutcomeResult::NotStarted),
            },
            Next::Comes(_, state) => {
                if state == JobState::Verifying {
                    self.is_back(device);
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
            rollbacks_forbidden_by: forbids.map(|group| group.name.as_str()),
            order: order.map(|order| &**order),
            group_windows: &lists,
            windows: self.windows(),
            stops: self.stops(),
            circumstances: Circumstances::GOOD,
        }))
    }

    fn permit(&mut self, device: &str, step: PermitStep, state: JobState) {
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
        });
    }

    fn report(&mut self, device: &str, state: JobState) {
        let now = self.now();
        let Some(job) = self.jobs.get_mut(device) else { return };
        let job = Arc::make_mut(job);
        (job.state, job.updated_at) = (Some(state), Some(now));
    }

    /// Who was away for its restart is in contact again.
    fn is_back(&mut self, device: &str) {
        let now = self.now();
        let Some(row) = self.device(device).filter(|row| !row.is_online()).cloned() else { return };
        let table = Arc::make_mut(&mut self.snapshot.devices);
        table.upsert(DeviceRow { online: Some(true), online_since: Some(now), ..row });
    }

    fn end(&mut self, device: &str, result: OutcomeResult) {
        self.report(device, JobState::Done);
        let Some(job) = self.jobs.get_mut(device) else { return };
        let job = Arc::make_mut(job);
        let started = result != OutcomeResult::NotStarted;
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
