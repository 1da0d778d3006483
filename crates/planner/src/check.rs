//! A second opinion on every plan, before it is carried out. It shares no arithmetic with the
//! planner: it replays the plan's writes over the snapshot, in order, and looks at what stands there
//! at every moment, because a process may die between any two writes.

mod apart;
mod approvals;
mod batches;
mod ends;
mod gates;
mod holds;
mod rollbacks;

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use wardring_api::{
    Cap, JobAction, LineState, OfflineAction, PatchRollout, PatchRolloutStatus, SliceLine, Stage,
    StageState, StageStatus, reasons::Reason,
};

use batches::Flight;

use crate::{
    Action, ApprovalUse, JobView, NewJob, Plan, RecordCause, SliceView, Snapshot, expedite,
};

/// A rule that a plan would break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule's number, such as `S2`.
    pub rule: &'static str,
    /// What would break it.
    pub message: String,
}

/// Replays a plan and returns every rule it would break; an empty list is a plan to carry out.
pub fn check<'a>(snapshot: &'a Snapshot, plan: &'a Plan) -> Vec<Violation> {
    let mut replay = Replay::new(snapshot);
    for action in &plan.actions {
        replay.apply(action);
    }
    replay.violations
}

/// Whether the line has no verdict yet.
fn is_undone(line: &SliceLine) -> bool {
    matches!(line.state, LineState::Pending | LineState::Granted | LineState::NotStarted)
}

/// Whether enough of the devices that the updates are for have a verdict.
fn is_covered(stage: &Stage, lines: &[SliceLine]) -> bool {
    let is_meant = |line: &&SliceLine| {
        let left = line.state == LineState::Failed
            && line.reason == Some(Reason::Replaced)
            && line.tries == 0;
        let elsewhere = matches!(
            line.state,
            LineState::NotApplicable
                | LineState::NotOffered
                | LineState::Superseded
                | LineState::PatchedOutside
        );
        !left && !elsewhere
    };
    let is_left_out =
        |line: &SliceLine| matches!(line.state, LineState::Deferred | LineState::PoweredOff);
    let meant: Vec<&SliceLine> = lines.iter().filter(is_meant).collect();
    let done = meant.iter().filter(|line| !is_undone(line) && !is_left_out(line)).count();
    match stage.min_coverage.unwrap_or(Cap::Percent(100)) {
        Cap::Count(count) => done >= meant.len().min(count as usize),
        Cap::Percent(percent) => done * 100 >= meant.len() * usize::from(percent),
    }
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
    /// Devices whose recall may be refused, because a permit came first, by the rollout whose they were.
    doubtful: BTreeSet<(String, String)>,
    /// What is in flight, by rollout uid and stage; added up when it is first asked for.
    flights: BTreeMap<(String, String), Flight>,
    /// Unavailable devices that groups keep apart; added up when a batch first opens.
    crowds: Option<apart::Crowds>,
    /// The last batch, and whether its lines are still to be written.
    batch: Option<(wardring_api::Batch, bool)>,
    /// Approvals that are read anew before the writes that follow.
    confirmed: Vec<&'a ApprovalUse>,
    violations: Vec<Violation>,
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
            doubtful: BTreeSet::new(),
            flights: BTreeMap::new(),
            crowds: None,
            batch: snapshot.ledger.batch.clone().map(|batch| (batch, true)),
            confirmed: Vec::new(),
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

    fn apply(&mut self, action: &'a Action) {
        match action {
            Action::WriteStatus { rollout, status } => self.status(&rollout.uid, status),
            Action::ConfirmApproval(approval) => self.confirmed.push(approval),
            Action::WriteRollbackStatus { uid, status, .. } => self.order_approval(uid, status),
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
            | Action::WriteQuarantine { .. }
            | Action::WriteGroupStatus { .. }
            | Action::WriteWindowStatus { .. }
            | Action::CreateApproval(_)
            | Action::WriteApprovalStatus { .. }
            | Action::DeleteApproval { .. }
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
        self.ends(rollout, &before, status);
        self.takeover(rollout, &before, status);
        self.order_begins(uid, &before, status);
        for (position, stage) in status.stages.iter().enumerate() {
            let was = before.stages.iter().find(|known| known.name == stage.name);
            let was_state = was.map_or(StageState::Pending, |known| known.state);
            if stage.state != was_state && stage.state.is_promoted() {
                self.proof(uid, rollout, position, stage, was_state);
            }
            if was.is_some_and(|known| {
                known.freeze_id.is_some() && known.freeze_id != stage.freeze_id
            }) {
                self.breaks("S3", format!("the frozen list of stage {} would change", stage.name));
            }
            let opens = stage.freeze_id.is_some() && was.is_none_or(|all| all.freeze_id.is_none());
            if opens && status.stages[..position].iter().any(|all| !all.state.is_promoted()) {
                self.breaks("S3", format!("stage {} would open before its turn", stage.name));
            }
        }
        self.gates(rollout, &before, status);
        self.rollback_approval(rollout, &before, status);
        if let Some((_, known)) = self.rollouts.get_mut(uid) {
            *known = status.clone();
        }
    }

    /// A stage lets later ones go on, and is completed, on proof only.
    fn proof(
        &mut self,
        uid: &str,
        rollout: &PatchRollout,
        position: usize,
        status: &StageStatus,
        was: StageState,
    ) {
        let Some(stage) = rollout.spec.stages.get(position) else { return };
        let lines = self.lines_of(uid, &stage.name, status.freeze_id.as_deref());
        let is_tail = status.state == StageState::Tail;
        if !is_tail || stage.offline.action != OfflineAction::CatchUp || status.tail.is_none() {
            let open = lines.iter().find(|line| is_undone(line));
            if let Some(line) = open {
                let message =
                    format!("stage {} would pass although {} is open", stage.name, line.device);
                self.breaks("S3", message);
            }
        }
        // What was proven before may have been taken back, or failed, since.
        if was == StageState::Tail {
            return;
        }
        if is_tail && !is_covered(stage, &lines) {
            self.breaks("S3", format!("stage {} would pass without its coverage", stage.name));
        }
        let known = self.rollouts.get(uid).map(|(_, status)| status);
        let expedite = known.and_then(|status| expedite::in_force(rollout, status, stage));
        let skips = expedite.is_some_and(|expedite| expedite.skip_soak);
        let soak = stage.soak.filter(|_| !skips);
        let soak = soak.map_or(SignedDuration::ZERO, |span| span.duration());
        let soaked = status.soak_started_at.and_then(|since| since.checked_add(soak).ok());
        if is_tail && soaked.is_none_or(|soaked| self.snapshot.now < soaked) {
            self.breaks("S3", format!("stage {} would pass before its soak is over", stage.name));
        }
        let proven = lines.iter().filter(|line| line.state == LineState::Succeeded).count();
        let least = stage.min_proven.unwrap_or(1).max(u32::from(is_tail));
        if proven < least as usize {
            self.breaks("S17", format!("stage {} would pass with {proven} proven", stage.name));
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
        if line.ordered != before.ordered && self.is_carried_out(slice) {
            self.breaks("S13", format!("an order would reach {} afterwards", line.device));
        }
        if line.state == LineState::Granted && line.action == JobAction::Download {
            self.breaks("S2", format!("{} could act on a download", line.device));
        }
        if line.action == JobAction::Download && line.state != LineState::Pending {
            self.breaks("S9", format!("{} would be judged by a download", line.device));
        }
        if line.downloaded && !before.downloaded && !self.is_downloaded(&before) {
            self.breaks("S9", format!("{} would count as downloaded without proof", line.device));
        }
        let becomes_granted =
            line.is_in_force() && (!before.is_in_force() || before.attempt != line.attempt);
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
            if let Some(view) = self.slices.get(slice).copied()
                && let Some(rollout) = self.rollouts.get(view.rollout_uid.as_str()).map(|all| all.0)
            {
                self.limits(rollout, view, &line.device);
                self.emergency(&view.rollout_uid, &line.device, line.action);
                if line.action == JobAction::Rollback {
                    self.may_be_taken_back(view, &before);
                }
                // A device that fell silent in the middle comes back to what it had begun.
                let returns =
                    before.state == LineState::Unreachable && before.attempt == line.attempt;
                // What is only downloaded ahead of a window waits for none.
                if !returns && line.action != JobAction::Download {
                    self.windows(rollout, view, &line.device, line.action);
                }
                if !returns && line.action != JobAction::Rollback {
                    self.held(&view.rollout_uid, &line.device);
                }
            }
        }
        // A rollback that did not begin leaves a proven device as it was.
        let restored =
            before.action == JobAction::Rollback && before.was == Some(LineState::Succeeded);
        if line.state == LineState::Succeeded && before.state != LineState::Succeeded && !restored {
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
                    && outcome.action == JobAction::Install
                    && line.action == JobAction::Install
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

    /// Whether the device answered to exactly this grant to download.
    fn is_downloaded(&self, line: &SliceLine) -> bool {
        let job = self.jobs.get(&line.device).copied().flatten();
        job.is_some_and(|job| match &job.outcome {
            crate::JobOutcome::Verified(outcome) => {
                outcome.action == JobAction::Download
                    && line.is_downloading()
                    && outcome.attempt == line.attempt
                    && outcome.rollout_uid == job.rollout_uid
                    && Some(outcome.enrolment_id.as_str()) == line.enrolment_id.as_deref()
            }
            _ => false,
        })
    }

    fn recall(&mut self, slice: &str, line: &crate::RecallLine) {
        let device = &line.change.line.device;
        let job = self.jobs.get(device).copied().flatten();
        let before = self.line(slice, line.change.index);
        let only_downloads = before.as_ref().is_some_and(SliceLine::is_downloading);
        let was_remade = before.as_ref().is_some_and(|line| line.reason == Some(Reason::NoSuchJob));
        if line.job_attempt.is_some() && (was_remade || job.is_some_and(JobView::may_have_begun)) {
            self.breaks("S2", format!("{device} would be recalled although it may have begun"));
        }
        if line.change.line.is_in_force() {
            self.breaks("S2", format!("{device} would be recalled into a grant"));
        }
        if line.job_attempt.is_some() {
            self.jobs.insert(device.clone(), None);
        }
        // No permit can be had with a download, so none can win against its deletion.
        if line.job_attempt.is_some() && !only_downloads {
            let uid = self.slices.get(slice).map(|view| view.rollout_uid.clone());
            self.doubtful.insert((uid.unwrap_or_default(), device.clone()));
        }
        self.record(slice, RecordCause::Outcomes, line.change.index, &line.change.line);
    }

    fn create(&mut self, job: &NewJob) {
        let line = self.slices.get(job.slice.as_str()).and_then(|slice| {
            let index = slice.lines.iter().position(|line| line.device == job.device)?;
            self.line(&slice.name, index)
        });
        let granted = line.is_some_and(|line| {
            line.is_in_force()
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
            // A download may be deleted at any time.
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
