//! Looks on and knows better: every change of an object and every irreversible act on a device is held
//! against the rules of design section 12. It sees the truth, which no process in the cluster does.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use wardring_api::{
    AwaitingRebootAction, Batch, Cap, FailureAction, JobAction, LineState, PatchJob, PatchRollout,
    PatchRolloutStatus, PermitStep, SliceLine, Stage,
};
use wardring_planner::{Action, Decision, Plan, Snapshot, StopView, plan};
use wardring_protocol::PERMIT_LIFE_MS;
use wardring_seal::{Action as Sealed, JobKey, OutcomeResult};

use crate::{
    api::{Api, Kind, Object},
    clock::Ms,
    gateway::key_of,
    random::Random,
};

/// An irreversible act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    /// An installation begins.
    Install,
    /// A removal begins.
    Uninstall,
    /// Windows restarts.
    Reboot,
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// When.
    pub at: Ms,
    /// The rule, such as `S2`.
    pub rule: &'static str,
    /// How.
    pub how: String,
}

/// Since when something stands in the way of a start.
#[derive(Clone, Copy, Debug, Default)]
struct Stops {
    /// Nothing at all may start.
    full: Option<Ms>,
    /// Halted: rollbacks may.
    halted: Option<Ms>,
    /// Ended by a person: a restart may, where `onHalt` says Finish.
    aborted: Option<Ms>,
}

/// The onlooker.
#[derive(Debug, Default)]
pub struct Monitor {
    /// What was broken, in order.
    pub broken: Vec<Broken>,
    /// Jobs that were ever created.
    jobs: BTreeSet<JobKey>,
    /// Permits that were ever recorded: device id, attempt, step, agent run, boot.
    permits: BTreeSet<(String, u32, PermitStep, String, String)>,
    /// When a gateway last told a device its permit.
    told: BTreeMap<(String, u32, PermitStep, String, String), Ms>,
    /// Permits that were live when their device lost the network.
    pub cut_off: u32,
    /// Records as they were: slice, then lines.
    lines: BTreeMap<String, Vec<SliceLine>>,
    sequence: i64,
    batch: Option<Batch>,
    stops: BTreeMap<String, Stops>,
    /// EmergencyStops in force, since when.
    brakes: BTreeMap<String, (Ms, StopView)>,
    /// KBs of every job that was ever created.
    kbs: BTreeMap<JobKey, Vec<String>>,
    /// Devices that may not be touched, since when.
    barred: BTreeMap<String, Ms>,
    plan_hashes: BTreeMap<String, String>,
    /// Grants whose device really had everything when it said so.
    proofs: BTreeSet<JobKey>,
    /// Devices that a rollout finished: nothing may begin on them for it again.
    finished: BTreeSet<(String, String)>,
    /// Own restarts per grant.
    reboots: BTreeMap<JobKey, u32>,
    /// Attempts that began to install, per rollout and device.
    tries: BTreeMap<(String, String), BTreeSet<u32>>,
    /// Bad ends of installations, per rollout and device.
    failures: BTreeMap<(String, String), usize>,
    /// A person's retries, per rollout.
    retries: BTreeMap<String, BTreeSet<String>>,
    /// Begun acts, for summaries.
    pub begun: BTreeMap<Act, u32>,
    /// Permits recorded, for summaries.
    pub permitted: u32,
}

impl Monitor {
    /// Notes a broken rule.
    pub fn breaks(&mut self, at: Ms, rule: &'static str, how: String) {
        self.broken.push(Broken { at, rule, how });
    }

    /// The last entry of the log is new.
    pub fn changed(&mut self, api: &Api, now: Ms, who: &str) {
        let Some(change) = api.log.last().cloned() else { return };
        match change.now.as_ref().map(|stored| &stored.object) {
            Some(Object::Ledger(ledger)) => {
                let status = ledger.status.clone().unwrap_or_default();
                if status.sequence < self.sequence {
                    self.breaks(now, "S4", format!("{who} lowered the ledger's sequence"));
                }
                self.sequence = status.sequence;
                self.batch = status.batch;
            }
            Some(Object::Slice(slice)) => {
                let lines: Vec<SliceLine> =
                    slice.spec.lines.iter().filter_map(|text| text.parse().ok()).collect();
                let before = self.lines.insert(change.key.1.clone(), lines.clone());
                let uid = slice.spec.rollout_uid.clone();
                for (index, line) in lines.iter().enumerate() {
                    let was = before.as_ref().and_then(|all| all.get(index)).cloned();
                    self.line(api, now, &uid, &slice.spec.stage, was, line);
                }
                self.caps(api, now, &uid, &slice.spec.stage);
            }
            Some(Object::Job(job)) => self.job(api, now, job),
            Some(Object::Rollout(rollout)) => self.rollout(api, now, rollout),
            Some(Object::Device(device)) => {
                let held = device.spec.hold.is_some();
                let bars = held
                    || device.spec.mode == wardring_api::DeviceMode::Observe
                    || crate::gateway::is_quarantined(device);
                self.bar(&change.key.1, bars, now);
            }
            Some(Object::Stop(stop)) => {
                let brake = (now, StopView::new(stop));
                self.brakes.entry(change.key.1.clone()).or_insert(brake);
            }
            None if change.key.0 == Kind::Stop => drop(self.brakes.remove(&change.key.1)),
            None if change.key.0 == Kind::Device => self.bar(&change.key.1, true, now),
            None if change.key.0 == Kind::Rollout => {
                let gone: Vec<String> = self.stops.keys().cloned().collect();
                for uid in gone.iter().filter(|uid| rollout_of(api, uid).is_none()) {
                    let stops = self.stops.entry(uid.clone()).or_default();
                    stops.full.get_or_insert(now);
                }
            }
            _ => {}
        }
    }

    fn bar(&mut self, device: &str, is_barred: bool, now: Ms) {
        if is_barred {
            self.barred.entry(device.to_owned()).or_insert(now);
        } else {
            self.barred.remove(device);
        }
    }

    fn job(&mut self, api: &Api, now: Ms, job: &PatchJob) {
        let Some(key) = key_of(job) else { return };
        self.kbs.insert(key.clone(), job.spec.kbs.clone());
        self.jobs.insert(key);
        let id = job.spec.enrolment_id.clone();
        for permit in job.status.iter().flat_map(|status| &status.permitted) {
            let seen = (
                id.clone(),
                permit.attempt,
                permit.step,
                permit.agent_run.clone(),
                permit.boot_id.clone(),
            );
            self.permitted += u32::from(self.permits.insert(seen));
        }
        self.caps(api, now, &job.spec.rollout_uid, &job.spec.stage);
    }

    fn rollout(&mut self, api: &Api, now: Ms, rollout: &PatchRollout) {
        let uid = rollout.metadata.uid.clone().unwrap_or_default();
        let (spec, status) = (&rollout.spec, rollout.status.clone().unwrap_or_default());
        let full = rollout.metadata.deletion_timestamp.is_some()
            || spec.suspend == Some(true)
            || status.suspended.is_some();
        let stops = self.stops.entry(uid.clone()).or_default();
        let since = |holds: bool, since: Option<Ms>| holds.then(|| since.unwrap_or(now));
        *stops = Stops {
            full: since(full, stops.full),
            halted: since(status.halted.is_some(), stops.halted),
            aborted: since(spec.abort.is_some() || status.aborted.is_some(), stops.aborted),
        };
        let retries = self.retries.entry(uid.clone()).or_default();
        retries.extend(status.last_handled_retry.clone());
        if let Some(hash) = &status.plan_hash {
            let known = self.plan_hashes.entry(uid.clone()).or_insert_with(|| hash.clone());
            if known != hash {
                self.breaks(now, "S12", format!("the plan hash of {uid} changed"));
            }
        }
        for (stage, state) in spec.stages.iter().zip(&status.stages) {
            if !state.state.is_promoted() {
                continue;
            }
            let lines = self.stage_lines(api, &uid, &stage.name);
            let proven = lines.iter().filter(|line| line.state == LineState::Succeeded).count();
            let least = stage.min_proven.unwrap_or(1) as usize;
            // A rollback after the proof takes devices out of it again.
            if proven < least && status.rollback.is_none() {
                let how = format!("stage {} is completed with {proven} proven", stage.name);
                self.breaks(now, "S17", how);
            }
        }
    }

    /// One line as it is now and as it was.
    fn line(
        &mut self,
        api: &Api,
        now: Ms,
        uid: &str,
        stage: &str,
        was: Option<SliceLine>,
        line: &SliceLine,
    ) {
        let Some(was) = was else { return };
        let device = &line.device;
        if line.attempt < was.attempt || line.sequence < was.sequence || line.device != was.device {
            self.breaks(now, "S4", format!("the line of {device} went back: {was} -> {line}"));
        }
        let is_granted = line.state == LineState::Granted
            && (was.state != LineState::Granted || was.attempt != line.attempt);
        if is_granted {
            self.granted(api, now, uid, stage, &was, line);
        }
        let has_failed = matches!(line.state, LineState::Failed | LineState::RevertedByWindows)
            && was.state == LineState::Granted
            && was.action == JobAction::Install;
        if has_failed && let Some(rollout) = rollout_of(api, uid) {
            let failures = self.failures.entry((uid.to_owned(), device.clone())).or_default();
            *failures += 1;
            let (failures, most) = (*failures, self.most_attempts(uid, rollout));
            if failures > most {
                self.breaks(now, "S8", format!("{device} failed {failures} times of {most}"));
            }
        }
        // A rollback that did not begin leaves a proven device as it was.
        let is_news = was.state != LineState::Succeeded && was.was != Some(LineState::Succeeded);
        if line.state == LineState::Succeeded && is_news {
            let id = line.enrolment_id.clone().unwrap_or_default();
            let key = JobKey {
                rollout_uid: uid.to_owned(),
                device_id: id.clone(),
                attempt: line.attempt,
                action: Sealed::Install,
            };
            if !self.proofs.contains(&key) {
                self.breaks(now, "S9", format!("{device} succeeded without proof"));
            }
            self.finished.insert((uid.to_owned(), id));
        }
    }

    fn granted(
        &mut self,
        api: &Api,
        now: Ms,
        uid: &str,
        stage: &str,
        was: &SliceLine,
        line: &SliceLine,
    ) {
        let Some(rollout) = rollout_of(api, uid) else {
            return self.breaks(
                now,
                "S13",
                format!("{line} was granted for a rollout that is gone"),
            );
        };
        let status = rollout.status.clone().unwrap_or_default();
        let returns = was.state == LineState::Unreachable && was.attempt == line.attempt;
        let is_install = line.action == JobAction::Install;
        if was.state == LineState::Succeeded && is_install {
            self.breaks(now, "S8", format!("{line} was granted although it had succeeded"));
        }
        let position = rollout.spec.stages.iter().position(|all| all.name == stage).unwrap_or(0);
        let earlier = status.stages.iter().take(position);
        if is_install && !returns && earlier.clone().any(|stage| !stage.state.is_promoted()) {
            self.breaks(now, "S3", format!("{line} was granted before its stage's turn"));
        }
        let state = status.stages.get(position);
        let since = state.and_then(|state| state.started_at);
        let Some(rules) = rollout.spec.stages.get(position) else { return };
        let lines = self.stage_lines(api, uid, stage);
        if is_install && !returns {
            let failed = lines.iter().filter(|line| is_failed(line, rules, since)).count();
            let budget = allowed(rules.max_failures.unwrap_or(Cap::Count(0)), lines.len());
            if failed > budget {
                let how = format!("{line} was granted with {failed} failed of {budget} allowed");
                self.breaks(now, "S6", how);
            }
            let silent = lines
                .iter()
                .filter(|line| line.state == LineState::Unreachable && is_since(line, since));
            let cap = rules.max_unreachable.or(rules.max_failures).unwrap_or(Cap::Count(0));
            let (silent, budget) = (silent.count(), allowed(cap, lines.len()));
            if silent > budget {
                let how = format!("{line} was granted with {silent} silent of {budget} allowed");
                self.breaks(now, "S6", how);
            }
        }
    }

    fn stage_lines(&self, api: &Api, uid: &str, stage: &str) -> Vec<SliceLine> {
        let freeze = rollout_of(api, uid).and_then(|rollout| {
            let status = rollout.status.as_ref()?;
            status.stages.iter().find(|all| all.name == stage)?.freeze_id.clone()
        });
        api.list(Kind::Slice)
            .filter_map(|stored| stored.object.slice())
            .filter(|slice| {
                let spec = &slice.spec;
                spec.rollout_uid == uid
                    && spec.stage == stage
                    && freeze.as_ref().is_none_or(|freeze| *freeze == spec.freeze_id)
            })
            .flat_map(|slice| slice.spec.lines.iter().filter_map(|text| text.parse().ok()))
            .collect()
    }

    /// In flight, whoever leads: granted lines, the open batch, and jobs that may have begun whatever
    /// their line says.
    fn caps(&mut self, api: &Api, now: Ms, uid: &str, stage: &str) {
        let Some(rollout) = rollout_of(api, uid) else { return };
        let Some(rules) = rollout.spec.stages.iter().find(|all| all.name == stage) else { return };
        let lines = self.stage_lines(api, uid, stage);
        let begun = |line: &SliceLine| {
            let job = api.get(Kind::Job, &line.device).and_then(|stored| stored.object.job());
            job.is_some_and(|job| {
                job.spec.rollout_uid == uid
                    && job.spec.attempt == line.attempt
                    && matches!(line.state, LineState::Pending | LineState::NotStarted)
                    && job.status.as_ref().is_some_and(|status| {
                        !status.permitted.is_empty() && status.outcome.is_none()
                    })
            })
        };
        let flies = |line: &&SliceLine, action| {
            (line.state == LineState::Granted && line.action == action)
                || (action == JobAction::Install && begun(line))
        };
        let installs = lines.iter().filter(|line| flies(line, JobAction::Install)).count();
        let cap = rules.max_concurrency.unwrap_or(wardring_planner::DEFAULT_CONCURRENCY);
        if installs > cap.of(lines.len()).max(1) {
            let how = format!("{installs} devices of stage {stage} are in flight");
            self.breaks(now, "S2", how);
        }
        let rollbacks = lines.iter().filter(|line| flies(line, JobAction::Rollback)).count();
        let cap = rollout.spec.on_failure.max_concurrency.unwrap_or(Cap::Count(1));
        if rollbacks > cap.of(lines.len()).max(1) {
            self.breaks(now, "S2", format!("{rollbacks} rollbacks of stage {stage} are in flight"));
        }
        let allows = rollout.spec.on_failure.action == FailureAction::Rollback
            || rollout.spec.on_halt.installed_awaiting_reboot == AwaitingRebootAction::Uninstall;
        if rollbacks > 0 && !allows {
            self.breaks(now, "S13", "a rollback that nobody asked for".to_owned());
        }
    }

    /// A gateway tells a device that it may. The permit lives from the asking on, so no longer than this.
    pub fn told(&mut self, now: Ms, key: &JobKey, step: PermitStep, run: &str, boot: &str) {
        let permit = (key.device_id.clone(), key.attempt, step, run.to_owned(), boot.to_owned());
        self.told.insert(permit, now);
    }

    /// A device loses the network.
    pub fn lost_contact(&mut self, now: Ms, device_id: &str) {
        let live = self
            .told
            .iter()
            .filter(|(permit, told)| permit.0 == device_id && now < **told + PERMIT_LIFE_MS);
        self.cut_off += live.count() as u32;
    }

    /// An irreversible act begins on a device.
    #[allow(clippy::too_many_arguments)]
    pub fn begins(
        &mut self,
        api: &Api,
        now: Ms,
        device: &str,
        key: &JobKey,
        act: Act,
        kb: &str,
        run: &str,
        boot: &str,
    ) {
        *self.begun.entry(act).or_default() += 1;
        let step = match act {
            Act::Install => PermitStep::Install,
            Act::Uninstall => PermitStep::Uninstall,
            Act::Reboot => PermitStep::Reboot,
        };
        let what = format!("{act:?} {kb} on {device}, attempt {}", key.attempt);
        if !self.jobs.contains(key) {
            self.breaks(now, "S1", format!("{what}: no such job was ever made"));
        }
        let permit = (key.device_id.clone(), key.attempt, step, run.to_owned(), boot.to_owned());
        if !self.permits.contains(&permit) {
            self.breaks(now, "S1", format!("{what}: without a permit"));
        }
        if self.told.get(&permit).is_none_or(|told| now >= told + PERMIT_LIFE_MS) {
            self.breaks(now, "S5", format!("{what}: after its permit's life"));
        }
        let stops = self.stops.get(&key.rollout_uid).copied().unwrap_or_default();
        let rollout = rollout_of(api, &key.rollout_uid);
        let finishes = act == Act::Reboot
            && key.action == Sealed::Install
            && rollout.is_some_and(|rollout| {
                rollout.spec.on_halt.installed_awaiting_reboot == AwaitingRebootAction::Finish
            });
        let is_rollback = key.action == Sealed::Rollback;
        let late = |since: Option<Ms>| since.is_some_and(|since| now >= since + PERMIT_LIFE_MS);
        if late(stops.full)
            || (late(stops.aborted) && !finishes)
            || (late(stops.halted) && !finishes && !is_rollback)
        {
            let rule = if rollout.is_none() { "S13" } else { "S5" };
            self.breaks(now, rule, format!("{what}: after the rollout was stopped"));
        }
        if late(self.barred.get(device).copied()) {
            self.breaks(now, "S5", format!("{what}: the device is held or gone"));
        }
        let labels = api.get(Kind::Device, device).and_then(|stored| stored.object.device());
        let labels = labels.and_then(|device| device.metadata.labels.clone()).unwrap_or_default();
        let kbs = || self.kbs.get(key).into_iter().flatten().map(String::as_str);
        let mut brakes = self.brakes.values().filter(|(since, _)| late(Some(*since)));
        let action = crate::seal::job_action(key.action);
        if let Some((_, stop)) = brakes.find(|(_, stop)| stop.stops(action, kbs(), &labels)) {
            let how = format!("{what}: under EmergencyStop {}", stop.name);
            self.breaks(now, "S5", how);
        }
        let of = (key.rollout_uid.clone(), key.device_id.clone());
        if act == Act::Install {
            if self.finished.contains(&of) {
                self.breaks(now, "S8", format!("{what}: it had succeeded"));
            }
            let tries = self.tries.entry(of).or_default();
            tries.insert(key.attempt);
            let tries = tries.len();
            let most = rollout.map(|rollout| self.most_attempts(&key.rollout_uid, rollout));
            if most.is_some_and(|most| tries > most) {
                self.breaks(now, "S8", format!("{what}: {tries} attempts, of {most:?}"));
            }
        }
        if act == Act::Reboot {
            let reboots = self.reboots.entry(key.clone()).or_default();
            *reboots += 1;
            if *reboots > wardring_agent::state::MAX_REBOOTS {
                self.breaks(now, "S8", format!("{what}: one restart too many"));
            }
        }
    }

    /// Attempts that one device may have begun by now.
    fn most_attempts(&self, uid: &str, rollout: &PatchRollout) -> usize {
        let all = rollout.spec.stages.iter();
        let most = all.map(|stage| stage.retry.max_attempts.unwrap_or(1)).max().unwrap_or(1);
        most as usize * (1 + self.retries.get(uid).map_or(0, BTreeSet::len))
    }

    /// An agent ends a job: what it says, and what is true.
    pub fn concluded(
        &mut self,
        key: &JobKey,
        result: OutcomeResult,
        is_proven: bool,
        carries_any: bool,
    ) {
        match result {
            OutcomeResult::Succeeded if is_proven => drop(self.proofs.insert(key.clone())),
            OutcomeResult::Succeeded => {
                self.breaks(0, "S9", format!("attempt {} claims what is not there", key.attempt));
            }
            OutcomeResult::RolledBack if carries_any => {
                self.breaks(0, "S9", format!("attempt {} claims to have removed", key.attempt));
            }
            _ => {}
        }
    }

    /// A plan was made: every device that does not move says why, and nothing changes before the next
    /// evaluation.
    pub fn planned(&mut self, now: Ms, snapshot: &Snapshot, plan_: &Plan, random: &mut Random) {
        if !plan_.actions.is_empty() {
            return;
        }
        for rollout in &plan_.rollouts {
            let decisions = rollout.stages.iter().flat_map(|stage| &stage.decisions);
            let waits = decisions
                .filter(|decision| matches!(decision, Decision::Hold(_) | Decision::Continue))
                .count();
            if waits > 0 && rollout.status.waiting_for.is_empty() {
                let how =
                    format!("{} has {waits} devices that wait for nothing", rollout.rollout.name);
                self.breaks(now, "L3", how);
            }
        }
        if !random.chance(200) {
            return;
        }
        // No wake-up may be lost: with nothing but time passing, nothing changes until then.
        let end = plan_.next_evaluation.unwrap_or_else(|| later(snapshot.now, 40 * 24 * 3600));
        let span = end.duration_since(snapshot.now).as_millis().max(1);
        let span = u64::try_from(span).unwrap_or(1);
        let until = random.within(0..span);
        let then =
            snapshot.now + jiff::SignedDuration::from_millis(i64::try_from(until).unwrap_or(0));
        let same = plan(&Snapshot { now: then, ..snapshot.clone() });
        if same.actions.iter().any(|action| !is_for_people(snapshot, action)) {
            let how = format!(
                "at {then}, before the next evaluation at {:?}, the plan is {:?}",
                plan_.next_evaluation, same.actions
            );
            self.breaks(now, "L3", how);
        }
    }
}

/// A status that differs in the shown instant of the next evaluation alone.
fn is_for_people(snapshot: &Snapshot, action: &Action) -> bool {
    let Action::WriteStatus { rollout, status } = action else { return false };
    let stored =
        snapshot.rollouts.iter().find(|all| all.metadata.uid.as_ref() == Some(&rollout.uid));
    stored.and_then(|all| all.status.as_ref()).is_some_and(|stored| {
        let next_evaluation = status.next_evaluation;
        PatchRolloutStatus { next_evaluation, ..stored.clone() } == **status
    })
}

fn later(from: Timestamp, seconds: i64) -> Timestamp {
    from + jiff::SignedDuration::from_secs(seconds)
}

fn rollout_of<'a>(api: &'a Api, uid: &str) -> Option<&'a PatchRollout> {
    let mut all = api.list(Kind::Rollout).filter(|stored| stored.uid == uid);
    all.next().and_then(|stored| stored.object.rollout()).map(std::sync::Arc::as_ref)
}

/// Budgets round down, and a zero is a zero.
fn allowed(cap: Cap, size: usize) -> usize {
    cap.of(size)
}

fn is_since(line: &SliceLine, since: Option<Timestamp>) -> bool {
    since.is_none_or(|since| line.at.is_none_or(|at| at >= since))
}

fn is_failed(line: &SliceLine, rules: &Stage, since: Option<Timestamp>) -> bool {
    let spent = line.tries >= rules.retry.max_attempts.unwrap_or(1);
    is_since(line, since)
        && match line.state {
            LineState::Failed | LineState::RevertedByWindows => spent,
            LineState::RollbackFailed | LineState::NotReversible => true,
            _ => false,
        }
}
