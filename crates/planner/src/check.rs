//! A second opinion on every plan, before it is carried out. It shares no arithmetic with the
//! planner: it replays the plan's writes over the snapshot, in order, and looks at what stands there
//! at every moment, because a process may die between any two writes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use wardring_api::{
    Cap, JobAction, LineState, PatchRollout, PatchRolloutStatus, SliceLine, StageState,
};

use crate::{Action, JobView, NewJob, Plan, RecordCause, SliceView, Snapshot};

/// A rule that a plan would break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule's number, such as `S2`.
    pub rule: &'static str,
    /// What would break it.
    pub message: String,
}

/// Replays a plan and returns every rule it would break; an empty list is a plan to carry out.
pub fn check(snapshot: &Snapshot, plan: &Plan) -> Vec<Violation> {
    let mut replay = Replay::new(snapshot);
    for action in &plan.actions {
        replay.apply(action);
    }
    replay.violations
}

/// What stands in the API server while the plan's writes happen.
struct Replay<'a> {
    snapshot: &'a Snapshot,
    rollouts: BTreeMap<&'a str, (&'a PatchRollout, PatchRolloutStatus)>,
    slices: BTreeMap<&'a str, &'a SliceView>,
    /// Lines that differ from the slices.
    changed: BTreeMap<(&'a str, usize), SliceLine>,
    jobs: BTreeMap<String, Option<&'a JobView>>,
    sequence: i64,
    /// What is in flight, by rollout uid and stage; added up when it is first asked for.
    flights: BTreeMap<(String, String), Flight>,
    /// The last batch, and whether its lines are still to be written.
    batch: Option<(wardring_api::Batch, bool)>,
    violations: Vec<Violation>,
}

/// Devices of one stage that count against its limits.
#[derive(Default)]
struct Flight {
    size: usize,
    /// Failures before this were answered by a person's retry.
    since: Option<Timestamp>,
    installing: BTreeSet<String>,
    rolling: BTreeSet<String>,
    failed: BTreeSet<String>,
}

impl Flight {
    fn note(&mut self, line: &SliceLine, has_begun: bool, most_tries: u32) {
        let since = self.since;
        let mut mark = |set: fn(&mut Flight) -> &mut BTreeSet<String>, holds: bool| {
            if holds {
                set(self).insert(line.device.clone());
            } else {
                set(self).remove(&line.device);
            }
        };
        let granted = line.state == LineState::Granted;
        let waits = matches!(line.state, LineState::Pending | LineState::NotStarted);
        let rollback = line.action == JobAction::Rollback;
        mark(|all| &mut all.installing, (granted && !rollback) || (waits && has_begun));
        mark(|all| &mut all.rolling, granted && rollback);
        let failed = line.state == LineState::Failed && line.tries > 0;
        let counts = since.is_none_or(|since| line.at.is_none_or(|at| at >= since));
        mark(|all| &mut all.failed, failed && counts && line.tries >= most_tries);
    }
}

impl<'a> Replay<'a> {
    fn new(snapshot: &'a Snapshot) -> Replay<'a> {
        let by_uid = |rollout: &'a PatchRollout| {
            let uid = rollout.metadata.uid.as_deref().unwrap_or_default();
            (uid, (rollout, rollout.status.clone().unwrap_or_default()))
        };
        Replay {
            snapshot,
            rollouts: snapshot.rollouts.iter().map(|rollout| by_uid(rollout)).collect(),
            slices: snapshot.slices.iter().map(|slice| (slice.name.as_str(), &**slice)).collect(),
            changed: BTreeMap::new(),
            jobs: snapshot.jobs.iter().map(|job| (job.device.clone(), Some(&**job))).collect(),
            sequence: snapshot.ledger.sequence,
            flights: BTreeMap::new(),
            batch: snapshot.ledger.batch.clone().map(|batch| (batch, true)),
            violations: Vec::new(),
        }
    }

    fn breaks(&mut self, rule: &'static str, message: String) {
        self.violations.push(Violation { rule, message });
    }

    fn line(&self, slice: &str, index: usize) -> Option<SliceLine> {
        let view = self.slices.get(slice)?;
        let changed = self.changed.get(&(view.name.as_str(), index));
        changed.or_else(|| view.lines.get(index)).cloned()
    }

    fn apply(&mut self, action: &Action) {
        match action {
            Action::WriteStatus { rollout, status } => self.status(&rollout.uid, status),
            Action::OpenBatch { expected_sequence, batch } => self.open(*expected_sequence, batch),
            Action::RecordLines { slice, cause, changes } => {
                for change in changes {
                    self.record(slice, *cause, change.index, &change.line);
                }
                if *cause == RecordCause::Grants
                    && let Some((batch, is_open)) = &mut self.batch
                    && batch.slice == *slice
                {
                    *is_open = false;
                }
            }
            Action::Recall { slice, lines } => {
                for line in lines {
                    self.recall(slice, line);
                }
            }
            Action::CreateJob(job) => self.create(job),
            Action::DeleteJob { device, attempt, .. } => self.delete(device, *attempt),
            Action::AddFinalizer(_)
            | Action::RemoveFinalizer(_)
            | Action::CreateSlice(_)
            | Action::DeleteSlice { .. }
            | Action::CreateHold { .. }
            | Action::WriteGroupStatus { .. }
            | Action::Emit(_) => {}
        }
    }

    fn status(&mut self, uid: &str, status: &PatchRolloutStatus) {
        let Some((rollout, before)) = self.rollouts.get(uid).cloned() else { return };
        let name = rollout.metadata.name.clone().unwrap_or_default();
        if before.plan_hash.is_some()
            && (before.plan_hash != status.plan_hash
                || before.resolved_updates != status.resolved_updates)
        {
            self.breaks("S12", format!("the resolved updates of rollout {name} would change"));
        }
        for (position, stage) in status.stages.iter().enumerate() {
            let was = before.stages.iter().find(|known| known.name == stage.name);
            let was_completed = was.is_some_and(|known| known.state == StageState::Completed);
            if stage.state == StageState::Completed && !was_completed {
                self.proof(uid, rollout, position, stage.freeze_id.as_deref());
            }
            if was.is_some_and(|known| {
                known.freeze_id.is_some() && known.freeze_id != stage.freeze_id
            }) {
                self.breaks("S3", format!("the frozen list of stage {} would change", stage.name));
            }
            let opens = stage.freeze_id.is_some() && was.is_none_or(|all| all.freeze_id.is_none());
            if opens
                && status.stages[..position].iter().any(|all| all.state != StageState::Completed)
            {
                self.breaks("S3", format!("stage {} would open before its turn", stage.name));
            }
        }
        if let Some((_, known)) = self.rollouts.get_mut(uid) {
            *known = status.clone();
        }
    }

    /// A stage is completed on proof only.
    fn proof(&mut self, uid: &str, rollout: &PatchRollout, position: usize, freeze: Option<&str>) {
        let Some(stage) = rollout.spec.stages.get(position) else { return };
        let lines = self.lines_of(uid, &stage.name, freeze);
        let proven = lines.iter().filter(|line| line.state == LineState::Succeeded).count();
        if proven < stage.min_proven.unwrap_or(1) as usize {
            self.breaks("S17", format!("stage {} would pass with {proven} proven", stage.name));
        }
        let open = |line: &&SliceLine| {
            matches!(line.state, LineState::Pending | LineState::Granted | LineState::NotStarted)
        };
        if let Some(line) = lines.iter().find(open) {
            let message =
                format!("stage {} would pass although {} is open", stage.name, line.device);
            self.breaks("S3", message);
        }
    }

    fn lines_of(&self, uid: &str, stage: &str, freeze: Option<&str>) -> Vec<SliceLine> {
        let slices = self.slices.values().filter(|slice| {
            slice.rollout_uid == uid && slice.stage == stage && Some(&*slice.freeze_id) == freeze
        });
        slices
            .flat_map(|slice| (0..slice.lines.len()).map(move |index| (slice, index)))
            .filter_map(|(slice, index)| self.line(&slice.name, index))
            .collect()
    }

    fn open(&mut self, expected: i64, batch: &wardring_api::Batch) {
        let guards = &self.snapshot.guards;
        if !guards.clock_trusted
            || guards.restored_from_backup.is_some()
            || guards.namespace_terminating
        {
            self.breaks("S7", "a batch would open although nothing may be granted".to_owned());
        }
        if expected != self.sequence || batch.sequence <= expected {
            let message = format!("sequence {} would follow {}", batch.sequence, self.sequence);
            self.breaks("S4", message);
        }
        if batch.grants.is_empty() || batch.grants.len() > crate::BATCH_SIZE {
            self.breaks("S2", format!("a batch of {} grants", batch.grants.len()));
        }
        if let Some((open, true)) = &self.batch
            && self.is_unwritten(open)
        {
            self.breaks("S2", "a batch would open over one whose lines are not written".to_owned());
        }
        self.sequence = batch.sequence;
        self.batch = Some((batch.clone(), true));
        for text in &batch.grants {
            self.grant(batch, text);
        }
        self.caps(batch);
    }

    /// Whether a line of the batch still lacks its sequence.
    fn is_unwritten(&self, batch: &wardring_api::Batch) -> bool {
        let Some(slice) = self.slices.get(batch.slice.as_str()) else { return false };
        if slice.damaged.is_some() {
            return false;
        }
        (0..slice.lines.len()).filter_map(|index| self.line(&batch.slice, index)).any(|line| {
            line.sequence < batch.sequence
                && batch.grants.iter().any(|text| {
                    let mut words = text.split(' ');
                    words.next() == Some(line.device.as_str())
                        && words.next().and_then(|word| word.parse().ok()) >= Some(line.attempt)
                })
        })
    }

    fn grant(&mut self, batch: &wardring_api::Batch, text: &str) {
        let mut words = text.split(' ');
        let device = words.next().unwrap_or_default().to_owned();
        let attempt: u32 = words.next().and_then(|word| word.parse().ok()).unwrap_or_default();
        let action = words.next().and_then(JobAction::parse);
        let Some(slice) = self.slices.get(batch.slice.as_str()).copied() else {
            return self.breaks("S2", format!("{device} would be granted in an unknown slice"));
        };
        let index = slice.lines.iter().position(|line| line.device == device);
        let Some(line) = index.and_then(|index| self.line(&slice.name, index)) else {
            return self.breaks("S2", format!("{device} is not in slice {}", slice.name));
        };
        let returns = line.state == LineState::Unreachable && attempt == line.attempt;
        if attempt != line.attempt + 1 && !returns {
            self.breaks(
                "S4",
                format!("{device} would go from attempt {} to {attempt}", line.attempt),
            );
        }
        let Some((rollout, status)) = self.rollouts.get(slice.rollout_uid.as_str()).cloned() else {
            return self.breaks("S1", format!("{device} would be granted for an unknown rollout"));
        };
        self.stopped(rollout, &status, &device, action, returns);
        self.stage_order(rollout, &status, slice, &device, action);
        self.eligible(&device);
        if action == Some(JobAction::Install) && !returns {
            let stage = rollout.spec.stages.iter().find(|stage| stage.name == slice.stage);
            let most = stage.and_then(|stage| stage.retry.max_attempts).unwrap_or(1);
            if matches!(line.state, LineState::Succeeded | LineState::AlreadyInstalled)
                || line.tries >= most
            {
                self.breaks("S8", format!("{device} would be installed again"));
            }
        }
    }

    fn stopped(
        &mut self,
        rollout: &PatchRollout,
        status: &PatchRolloutStatus,
        device: &str,
        action: Option<JobAction>,
        returns: bool,
    ) {
        let is_install = action != Some(JobAction::Rollback);
        let over = rollout.metadata.deletion_timestamp.is_some()
            || rollout.spec.abort.is_some()
            || status.aborted.is_some()
            || rollout.spec.suspend == Some(true)
            || status.suspended.is_some();
        let finishes = returns
            && rollout.spec.on_halt.installed_awaiting_reboot
                == wardring_api::AwaitingRebootAction::Finish;
        if over {
            self.breaks(
                "S13",
                format!("{device} would be granted although its rollout is stopped"),
            );
        }
        if status.halted.is_some() && is_install && !finishes {
            self.breaks("S6", format!("{device} would be granted although its rollout is halted"));
        }
    }

    fn stage_order(
        &mut self,
        rollout: &PatchRollout,
        status: &PatchRolloutStatus,
        slice: &SliceView,
        device: &str,
        action: Option<JobAction>,
    ) {
        let position = rollout.spec.stages.iter().position(|stage| stage.name == slice.stage);
        let stages = &status.stages;
        let stage = position.and_then(|position| stages.get(position));
        if stage.is_none_or(|stage| stage.freeze_id.as_ref() != Some(&slice.freeze_id)) {
            self.breaks("S3", format!("{device} is not in a frozen stage"));
        }
        let earlier = &stages[..position.unwrap_or(0).min(stages.len())];
        if action == Some(JobAction::Install)
            && earlier.iter().any(|stage| stage.state != StageState::Completed)
        {
            self.breaks("S3", format!("{device} would be granted before the stages ahead of it"));
        }
        if status.plan_hash.is_none() {
            self.breaks(
                "S12",
                format!("{device} would be granted before the updates are resolved"),
            );
        }
    }

    fn eligible(&mut self, device: &str) {
        let now = self.snapshot.now;
        let Some(row) = self.snapshot.devices.get(device) else {
            return self.breaks("S1", format!("{device} does not exist"));
        };
        let held = row.hold.as_ref().is_some_and(|hold| hold.until.is_none_or(|until| now < until));
        if row.mode != wardring_api::DeviceMode::Manage
            || row.enrolment_id.is_none()
            || row.quarantined
            || held
            || row.online != Some(true)
        {
            self.breaks("S14", format!("{device} may not be touched now"));
        }
    }

    /// Whether the device's job may have begun although its line says that nothing is granted.
    fn has_begun(&self, uid: &str, line: &SliceLine) -> bool {
        self.jobs.get(&line.device).copied().flatten().is_some_and(|job| {
            job.rollout_uid == uid && job.attempt == line.attempt && job.may_have_begun()
        })
    }

    /// Adds up a stage once; every line written afterwards is noted.
    fn flight(&self, rollout: &PatchRollout, slice: &SliceView) -> Flight {
        let status = self.rollouts.get(slice.rollout_uid.as_str()).map(|(_, status)| status);
        let stage = status.and_then(|all| all.stages.iter().find(|all| all.name == slice.stage));
        let since = stage.and_then(|stage| stage.started_at);
        let mut flight = Flight { since, ..Flight::default() };
        let most = most_tries(rollout, &slice.stage);
        let same = |other: &&&SliceView| {
            other.rollout_uid == slice.rollout_uid
                && other.stage == slice.stage
                && other.freeze_id == slice.freeze_id
        };
        for view in self.slices.values().filter(same) {
            for (index, line) in view.lines.iter().enumerate() {
                flight.size += 1;
                let changed = self.changed.get(&(view.name.as_str(), index));
                let line = changed.unwrap_or(line);
                flight.note(line, self.has_begun(&slice.rollout_uid, line), most);
            }
        }
        flight
    }

    /// At the moment a batch is open: granted lines, its grants, and jobs that may have begun.
    fn caps(&mut self, batch: &wardring_api::Batch) {
        let Some(slice) = self.slices.get(batch.slice.as_str()).copied() else { return };
        let Some((rollout, _)) = self.rollouts.get(slice.rollout_uid.as_str()).cloned() else {
            return;
        };
        let Some(stage) = rollout.spec.stages.iter().find(|stage| stage.name == slice.stage) else {
            return;
        };
        let key = (slice.rollout_uid.clone(), slice.stage.clone());
        let mut flight = self.flights.remove(&key).unwrap_or_else(|| self.flight(rollout, slice));
        for text in &batch.grants {
            let mut words = text.split(' ');
            let device = words.next().unwrap_or_default().to_owned();
            if text.ends_with("Rollback") {
                flight.installing.remove(&device);
                flight.rolling.insert(device);
            } else {
                flight.installing.insert(device);
            }
        }
        let share = |cap: Cap| match cap {
            Cap::Count(count) => (count as usize).max(1),
            Cap::Percent(percent) => (flight.size * percent as usize / 100).max(1),
        };
        let has = |word: &str| batch.grants.iter().any(|text| text.ends_with(word));
        let (installs, rollbacks) = (flight.installing.len(), flight.rolling.len());
        let most = share(stage.max_concurrency.unwrap_or(Cap::Percent(10)));
        if has("Install") && installs > most {
            self.breaks("S2", format!("{installs} devices in flight, and {most} are allowed"));
        }
        let most = share(rollout.spec.on_failure.max_concurrency.unwrap_or(Cap::Count(1)));
        if has("Rollback") && rollbacks > most {
            self.breaks("S2", format!("{rollbacks} rollbacks in flight, and {most} are allowed"));
        }
        let most = match stage.max_failures.unwrap_or(Cap::Count(0)) {
            Cap::Count(count) => count as usize,
            Cap::Percent(percent) => flight.size * percent as usize / 100,
        };
        if has("Install") && flight.failed.len() > most {
            self.breaks("S6", format!("a grant in stage {} over its failure budget", stage.name));
        }
        self.flights.insert(key, flight);
    }

    /// Keeps the sums of a stage true after one of its lines was written.
    fn note(&mut self, view: &SliceView, line: &SliceLine) {
        let has_begun = self.has_begun(&view.rollout_uid, line);
        let rollout = self.rollouts.get(view.rollout_uid.as_str()).map(|(rollout, _)| *rollout);
        let most = rollout.map_or(1, |rollout| most_tries(rollout, &view.stage));
        let key = (view.rollout_uid.clone(), view.stage.clone());
        if let Some(flight) = self.flights.get_mut(&key) {
            flight.note(line, has_begun, most);
        }
    }

    fn record(&mut self, slice: &str, cause: RecordCause, index: usize, line: &SliceLine) {
        let Some(before) = self.line(slice, index) else {
            return self.breaks("S2", format!("slice {slice} has no line {index}"));
        };
        if before.device != line.device {
            self.breaks("S12", format!("the line of {} would be overwritten", before.device));
        }
        if line.attempt < before.attempt || line.sequence < before.sequence {
            self.breaks("S4", format!("the attempt of {} would shrink", line.device));
        }
        let becomes_granted = line.state == LineState::Granted
            && (before.state != LineState::Granted || before.attempt != line.attempt);
        if becomes_granted {
            let text = format!("{} {} {}", line.device, line.attempt, line.action.as_str());
            let written_ahead = cause == RecordCause::Grants
                && self.batch.as_ref().is_some_and(|(batch, is_open)| {
                    *is_open
                        && batch.slice == slice
                        && batch.sequence == line.sequence
                        && batch.grants.contains(&text)
                });
            if !written_ahead {
                self.breaks("S2", format!("{} would be granted without a batch", line.device));
            }
        }
        if line.state == LineState::Succeeded && before.state != LineState::Succeeded {
            self.proven(&before);
        }
        if let Some(view) = self.slices.get(slice).copied() {
            self.changed.insert((view.name.as_str(), index), line.clone());
            self.note(view, line);
        }
    }

    /// Success comes from a verified answer to exactly this grant, after the boot it needed.
    fn proven(&mut self, line: &SliceLine) {
        let job = self.jobs.get(&line.device).copied().flatten();
        let proven = job.is_some_and(|job| match &job.outcome {
            crate::JobOutcome::Verified(outcome) => {
                outcome.result == crate::OutcomeResult::Succeeded
                    && outcome.attempt == line.attempt
                    && outcome.action == line.action
                    && Some(outcome.enrolment_id.as_str()) == line.enrolment_id.as_deref()
                    && outcome.rollout_uid == job.rollout_uid
                    && (!outcome.reboot_required
                        || outcome
                            .installed_in_boot
                            .as_deref()
                            .is_some_and(|boot| boot != outcome.boot_id))
            }
            _ => false,
        });
        if !proven {
            self.breaks("S9", format!("{} would count as succeeded without proof", line.device));
        }
    }

    fn recall(&mut self, slice: &str, line: &crate::RecallLine) {
        let device = &line.change.line.device;
        let job = self.jobs.get(device).copied().flatten();
        if line.job_attempt.is_some() && job.is_some_and(JobView::may_have_begun) {
            self.breaks("S2", format!("{device} would be recalled although it may have begun"));
        }
        if line.change.line.state == LineState::Granted {
            self.breaks("S2", format!("{device} would be recalled into a grant"));
        }
        if line.job_attempt.is_some() {
            self.jobs.insert(device.clone(), None);
        }
        self.record(slice, RecordCause::Outcomes, line.change.index, &line.change.line);
    }

    fn create(&mut self, job: &NewJob) {
        let line = self.slices.get(job.slice.as_str()).and_then(|slice| {
            let index = slice.lines.iter().position(|line| line.device == job.device)?;
            self.line(&slice.name, index)
        });
        let granted = line.is_some_and(|line| {
            line.state == LineState::Granted
                && line.attempt == job.attempt
                && line.action == job.action
                && line.sequence == job.sequence
                && line.enrolment_id.as_deref() == Some(&*job.enrolment_id)
        });
        if !granted {
            self.breaks("S1", format!("a job for {} without its grant", job.device));
        }
        if self.jobs.get(&job.device).is_some_and(Option::is_some) {
            self.breaks("S2", format!("a second job for {}", job.device));
        }
        let status = self.rollouts.get(job.rollout.uid.as_str()).map(|(_, status)| status);
        let resolved = |status: &&PatchRolloutStatus| {
            job.updates.iter().all(|update| status.resolved_updates.contains(update))
        };
        if !status.as_ref().is_some_and(resolved) {
            self.breaks("S12", format!("{} would get updates nobody resolved", job.device));
        }
    }

    fn delete(&mut self, device: &str, attempt: u32) {
        let job = self.jobs.get(device).copied().flatten();
        if let Some(job) = job.filter(|job| job.attempt == attempt) {
            let line = self.slices.get(job.slice.as_str()).and_then(|slice| {
                let index = slice.lines.iter().position(|line| line.device == device)?;
                self.line(&slice.name, index)
            });
            let in_force = line.is_some_and(|line| {
                line.state == LineState::Granted
                    && line.attempt == attempt
                    && job.rollout_uid == self.slices[job.slice.as_str()].rollout_uid
            });
            if in_force {
                self.breaks("S2", format!("the job of {device} would be deleted in mid-flight"));
            }
        }
        self.jobs.insert(device.to_owned(), None);
    }
}

fn most_tries(rollout: &PatchRollout, stage: &str) -> u32 {
    let stage = rollout.spec.stages.iter().find(|known| known.name == stage);
    stage.and_then(|stage| stage.retry.max_attempts).unwrap_or(1)
}
