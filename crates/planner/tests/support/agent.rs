//! A scripted agent: takes its job, asks the permit rule, installs, restarts, proves, answers.

use std::collections::BTreeMap;

use wardring_api::{
    JobAction, JobState, LineState, PatchAuthority, Permit, PermitStep, RollbackPolicy, SliceLine,
    reasons::Reason,
};
use wardring_planner::{
    Circumstances, GroupView, JobOutcome, Outcome, OutcomeResult, PermitFacts, PermitRequest,
    PermitVerdict, missing_group, permit,
};

use super::World;

/// What happens on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub enum Script {
    Good,
    AlreadyInstalled,
    NotOffered,
    /// A service does not run after the restart.
    ServiceDown,
    /// The first attempt fails, the next succeeds.
    FailsOnce,
    InstallFails,
    /// Never comes back from the restart.
    Silent,
    /// Comes back from the restart after three hours.
    Slow,
    /// A person switches it off right before it begins, for four hours. The next attempt is a good one.
    SwitchedOff,
    Reverted,
    /// Becomes another version of Windows.
    Upgraded,
    /// Cannot begin today (on battery).
    NotStarted,
    /// Claims success without the restart its updates asked for.
    Liar,
    /// Answers with a signature that does not verify.
    Forger,
    /// Fails, and the rollback fails too.
    Damaged,
}

impl Script {
    pub const ALL: &'static [Script] = &[
        Script::Good,
        Script::AlreadyInstalled,
        Script::NotOffered,
        Script::ServiceDown,
        Script::FailsOnce,
        Script::InstallFails,
        Script::Silent,
        Script::Slow,
        Script::SwitchedOff,
        Script::Reverted,
        Script::Upgraded,
        Script::NotStarted,
        Script::Liar,
        Script::Forger,
        Script::Damaged,
    ];
}

/// How a download ahead ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    Good,
    Fails,
    Hangs,
}

/// Minutes that a download takes.
pub const FETCHES: u32 = 3;

type Key = (String, u32, JobAction);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Idle,
    WaitsToBegin,
    Fetching(u32),
    Working(u32),
    WaitsToReboot,
    Rebooting(u32),
    Verifying,
}

#[derive(Clone, Debug)]
pub struct Agent {
    pub name: String,
    pub script: Script,
    step: Step,
    key: Option<Key>,
    boot: u32,
    installed_in: Option<u32>,
    failed_once: bool,
    answers: BTreeMap<Key, (OutcomeResult, Option<Reason>, bool, Option<u32>)>,
    pub fetch: Fetch,
    /// Downloads ahead that began.
    pub fetches: u32,
    /// Its updates are there.
    pub fetched: bool,
    /// Installations that began without it.
    pub unprepared: u32,
    /// What is really on the device.
    pub installed: bool,
    /// Installations that really began.
    pub begun: u32,
    pub reboots: u32,
}

impl Agent {
    pub fn new(name: &str) -> Agent {
        Agent {
            name: name.to_owned(),
            script: Script::Good,
            step: Step::Idle,
            key: None,
            boot: 1,
            installed_in: None,
            failed_once: false,
            answers: BTreeMap::new(),
            fetch: Fetch::Good,
            fetches: 0,
            fetched: false,
            unprepared: 0,
            installed: false,
            begun: 0,
            reboots: 0,
        }
    }

    /// Whether something irreversible is going on.
    pub fn is_working(&self) -> bool {
        matches!(self.step, Step::Working(_) | Step::Rebooting(_) | Step::Verifying)
    }

    pub fn is_fetching(&self) -> bool {
        matches!(self.step, Step::Fetching(_))
    }

    /// What the agent does in one minute.
    pub fn minute(&mut self, world: &mut World) {
        let name = self.name.clone();
        let Some(row) = world.devices.get(&name) else { return };
        if let Step::Rebooting(left) = self.step {
            return self.reboot(left, world);
        }
        if row.online != Some(true) {
            // Work goes on without contact; asking does not.
            if let Step::Working(left) = self.step {
                self.step = Step::Working(left.saturating_sub(1));
            }
            return;
        }
        let enrolment = row.enrolment_id.as_deref().unwrap_or_default().to_owned();
        let job = world.jobs.get(&name).filter(|job| job.enrolment_id == enrolment);
        let key = job.map(|job| (job.rollout_uid.clone(), job.attempt, job.action));
        if let Some(key) = &key
            && self.answers.contains_key(key)
        {
            return self.answer(key.clone(), world);
        }
        if key.is_some() && key != self.key && !self.is_working() {
            self.key = key;
            self.step = Step::WaitsToBegin;
            return self.report(JobState::Accepted, world);
        }
        self.go_on(world);
    }

    fn action(&self) -> JobAction {
        self.key.as_ref().map_or(JobAction::Install, |key| key.2)
    }

    fn go_on(&mut self, world: &mut World) {
        match self.step {
            Step::Idle | Step::Rebooting(_) => {}
            Step::WaitsToBegin if self.action() == JobAction::Download => self.fetch(world),
            Step::WaitsToBegin => self.begin(world),
            Step::Fetching(_) if self.fetch == Fetch::Hangs => {}
            Step::Fetching(0) => {
                let (result, reason) = match self.fetch {
                    Fetch::Fails => (OutcomeResult::Failed, Some(Reason::DownloadFailed)),
                    Fetch::Good | Fetch::Hangs => (OutcomeResult::Succeeded, None),
                };
                self.fetched |= result == OutcomeResult::Succeeded;
                self.end(result, reason, world);
            }
            Step::Fetching(left) => self.step = Step::Fetching(left - 1),
            Step::Working(0) => self.worked(world),
            Step::Working(left) => self.step = Step::Working(left - 1),
            Step::WaitsToReboot => match self.ask(PermitStep::Reboot, world) {
                PermitVerdict::Granted { .. } => {
                    self.report(JobState::Rebooting, world);
                    self.reboots += 1;
                    self.step = Step::Rebooting(match self.script {
                        Script::Slow => 180,
                        Script::Silent if self.action() == JobAction::Install => u32::MAX,
                        _ => 2,
                    });
                }
                PermitVerdict::Refused { .. } => self.report(JobState::AwaitingReboot, world),
                PermitVerdict::Ended { reason, .. } => {
                    self.end(OutcomeResult::Failed, Some(reason), world);
                }
            },
            Step::Verifying => self.verify(world),
        }
    }

    fn fetch(&mut self, world: &mut World) {
        let result = match self.script {
            Script::AlreadyInstalled => Some(OutcomeResult::AlreadyInstalled),
            Script::NotOffered => Some(OutcomeResult::NotOffered),
            Script::NotStarted => Some(OutcomeResult::NotStarted),
            _ if self.installed => Some(OutcomeResult::AlreadyInstalled),
            _ => None,
        };
        if let Some(result) = result {
            return self.end(result, None, world);
        }
        self.fetches += 1;
        self.step = Step::Fetching(FETCHES);
        self.report(JobState::Downloading, world);
    }

    fn begin(&mut self, world: &mut World) {
        let install = self.action() == JobAction::Install;
        let result = match self.script {
            Script::AlreadyInstalled if install => Some(OutcomeResult::AlreadyInstalled),
            Script::NotOffered if install => Some(OutcomeResult::NotOffered),
            Script::NotStarted if install => Some(OutcomeResult::NotStarted),
            _ if install && self.installed => Some(OutcomeResult::AlreadyInstalled),
            _ => None,
        };
        if let Some(result) = result {
            return self.end(result, None, world);
        }
        let step = if install { PermitStep::Install } else { PermitStep::Uninstall };
        match self.ask(step, world) {
            PermitVerdict::Granted { .. } if install && self.script == Script::SwitchedOff => {
                world.set_online(&self.name, false);
                self.step = Step::Rebooting(240);
            }
            PermitVerdict::Granted { .. } => {
                self.begun += u32::from(install);
                self.unprepared += u32::from(install && !self.fetched);
                self.installed_in = Some(self.boot);
                self.step = Step::Working(2);
                let state = if install { JobState::Installing } else { JobState::Uninstalling };
                self.report(state, world);
            }
            PermitVerdict::Refused { .. } => {}
            PermitVerdict::Ended { .. } => self.end(OutcomeResult::NotStarted, None, world),
        }
    }

    fn worked(&mut self, world: &mut World) {
        let install = self.action() == JobAction::Install;
        match self.script {
            Script::InstallFails if install => {
                return self.end(OutcomeResult::Failed, Some(Reason::InstallFailed), world);
            }
            Script::Damaged if !install => {
                return self.end(OutcomeResult::RollbackFailed, None, world);
            }
            Script::Liar if install => {
                self.installed = true;
                return self.end(OutcomeResult::Succeeded, None, world);
            }
            _ => {}
        }
        self.installed = install;
        self.step = Step::WaitsToReboot;
        self.report(JobState::AwaitingReboot, world);
    }

    fn reboot(&mut self, left: u32, world: &mut World) {
        if left == u32::MAX {
            return world.set_online(&self.name, false);
        }
        if left > 0 {
            self.step = Step::Rebooting(left - 1);
            return;
        }
        self.boot += 1;
        if self.script == Script::SwitchedOff && self.action() == JobAction::Install {
            world.set_online(&self.name, true);
            self.script = Script::Good;
            self.step = Step::WaitsToBegin;
            return self.end(OutcomeResult::PoweredOff, Some(Reason::PoweredOff), world);
        }
        self.step = Step::Verifying;
        if self.script == Script::Reverted && self.action() == JobAction::Install {
            self.installed = false;
        }
        self.report(JobState::Verifying, world);
    }

    /// A silent device is repaired by hand: it boots at last.
    pub fn repair(&mut self, world: &mut World) {
        if matches!(self.step, Step::Rebooting(_)) {
            world.set_online(&self.name, true);
            self.script = Script::Good;
            self.reboot(0, world);
        }
    }

    fn verify(&mut self, world: &mut World) {
        if self.action() == JobAction::Rollback {
            return self.end(OutcomeResult::RolledBack, None, world);
        }
        let (result, reason) = match self.script {
            Script::ServiceDown | Script::Damaged => {
                (OutcomeResult::Failed, Some(Reason::ServiceDown))
            }
            Script::FailsOnce if !self.failed_once => {
                self.failed_once = true;
                self.installed = false;
                (OutcomeResult::Failed, Some(Reason::ServiceDown))
            }
            Script::Reverted => (OutcomeResult::RevertedByWindows, None),
            Script::Upgraded => (OutcomeResult::Failed, Some(Reason::BuildFamilyChanged)),
            _ => (OutcomeResult::Succeeded, None),
        };
        self.end(result, reason, world);
    }

    fn end(&mut self, result: OutcomeResult, reason: Option<Reason>, world: &mut World) {
        let Some(key) = self.key.clone() else { return };
        let started = !matches!(self.step, Step::WaitsToBegin | Step::Fetching(_));
        self.answers.insert(key.clone(), (result, reason, started, self.installed_in));
        self.step = Step::Idle;
        self.answer(key, world);
    }

    fn answer(&self, key: Key, world: &mut World) {
        let (result, reason, started, installed_in) = self.answers[&key];
        let now = world.now;
        let Some(job) = world.jobs.get_mut(&self.name) else { return };
        if (job.rollout_uid.clone(), job.attempt, job.action) != key
            || job.outcome != JobOutcome::None
        {
            return;
        }
        job.state = Some(JobState::Done);
        job.updated_at = Some(now);
        job.outcome = if self.script == Script::Forger {
            JobOutcome::BadSignature
        } else {
            JobOutcome::Verified(Outcome {
                rollout_uid: job.rollout_uid.clone(),
                enrolment_id: job.enrolment_id.clone(),
                attempt: job.attempt,
                action: job.action,
                sequence: job.sequence,
                result,
                reason,
                message: match reason {
                    Some(Reason::ServiceDown) => {
                        "MSSQLSERVER did not start after 3 restarts".to_owned()
                    }
                    Some(Reason::DownloadFailed) => "the download failed: no route".to_owned(),
                    Some(Reason::BuildFamilyChanged) => {
                        "Windows is another version since KB5068787: the build was 20348.2700 and is \
                         26100.2314; the rollout names no feature upgrade"
                            .to_owned()
                    }
                    _ => String::new(),
                },
                boot_id: format!("boot-{}", self.boot),
                installed_in_boot: installed_in.map(|boot| format!("boot-{boot}")),
                reboot_required: started,
                started,
                build: "20348.4405".to_owned(),
            })
        };
    }

    fn report(&self, state: JobState, world: &mut World) {
        let now = world.now;
        if let Some(job) = world.jobs.get_mut(&self.name)
            && job.state != Some(state)
        {
            job.state = Some(state);
            job.updated_at = Some(now);
        }
    }

    fn ask(&self, step: PermitStep, world: &mut World) -> PermitVerdict {
        let boot_id = format!("boot-{}", self.boot);
        let Some((uid, attempt, action)) = &self.key else {
            unreachable!("an agent asks only about a job");
        };
        let row = &world.devices[&self.name];
        let enrolment = row.enrolment_id.as_deref().unwrap_or_default().to_owned();
        let job = world.jobs.get(&self.name);
        let line: Option<SliceLine> = job.and_then(|job| {
            let slice = world.slices.get(&job.slice)?;
            let lines = slice.spec.lines.iter().filter_map(|text| text.parse::<SliceLine>().ok());
            lines.into_iter().find(|line| line.device == self.name)
        });
        let mine = |group: &&GroupView| {
            let labels = group.spec.selector.match_labels.iter().flatten();
            labels.into_iter().all(|(key, value)| row.labels.get(key) == Some(value))
        };
        let groups: Vec<&GroupView> = world.groups.values().filter(mine).collect();
        let held = groups.iter().find(|group| group.holds_reboots_of(&row.labels));
        let watches =
            groups.iter().find(|group| group.spec.patch_authority == PatchAuthority::Observe);
        let asks = groups.iter().find(|group| group.spec.rollback == RollbackPolicy::Ask);
        let forbids = groups.iter().find(|group| group.spec.rollback == RollbackPolicy::Forbid);
        let rollout = job.and_then(|job| world.rollouts.get(&job.rollout));
        let status = rollout.and_then(|rollout| rollout.status.as_ref());
        let named = status.and_then(|status| status.rollback.as_ref()?.ordered());
        let order = named.and_then(|named| world.orders.get(&named.name));
        let lists: Vec<&[String]> = groups.iter().map(|group| &*group.spec.windows).collect();
        let verdict = permit(&PermitFacts {
            now: world.now,
            request: PermitRequest {
                rollout_uid: uid,
                enrolment_id: &enrolment,
                attempt: *attempt,
                action: *action,
                step,
                agent_run: "run-1",
                accepted_in: "run-1",
                boot_id: &boot_id,
            },
            job,
            line: line.as_ref(),
            rollout: job.and_then(|job| world.rollouts.get(&job.rollout)),
            device: Some(row),
            reboots_held_by: held.map(|group| group.name.as_str()),
            missing_group: missing_group(rollout, job, world.groups.keys()),
            watched_by: watches.map(|group| group.name.as_str()),
            rollbacks_forbidden_by: forbids.map(|group| group.name.as_str()),
            rollbacks_asked_by: asks.map(|group| group.name.as_str()),
            order,
            group_windows: &lists,
            windows: &world.windows(),
            stops: &world.stops(),
            holds: &world.holds(),
            updates: &world.updates(),
            circumstances: Circumstances {
                restored_from_backup: world.guards.restored_from_backup.is_some(),
                clock_trusted: world.guards.clock_trusted,
                ..Circumstances::GOOD
            },
        });
        if let PermitVerdict::Granted { repeated: false, expedited } = verdict {
            assert!(line.is_some_and(|line| line.state == LineState::Granted));
            let at = world.now;
            let job = world.jobs.get_mut(&self.name).expect("a permit names its job");
            let (rollout, device) = (job.rollout.clone(), self.name.clone());
            let action = *action;
            world.permits.push(super::Given { rollout, device, step, action, at });
            job.permitted.push(Permit {
                step,
                at,
                attempt: *attempt,
                boot_id,
                agent_run: "run-1".to_owned(),
                accepted_in: "run-1".to_owned(),
                expedited,
            });
        }
        verdict
    }
}
