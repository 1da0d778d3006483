//! A frozen stage while a pass works on it: one small copyable value per device, so that a stage of
//! 100,000 is a walk over one array.

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use wardring_api::{
    JobAction, JobState, LineState, SLICE_SIZE, SliceLine, StageCounts, conditions::whole_seconds,
    is_downloading, reasons::Reason,
};

use crate::{SliceView, caps::Rules, downloads::only_downloads, validate::Scene};

/// "No such row" or "no such job" in [`Line`].
pub(crate) const NONE: u32 = u32::MAX;

/// The working copy of a slice line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line {
    pub state: LineState,
    pub action: JobAction,
    pub reason: Option<Reason>,
    pub was: Option<LineState>,
    pub was_reason: Option<Reason>,
    /// The rollout's last PatchRollback reaches the device.
    pub ordered: bool,
    pub attempt: u32,
    pub tries: u32,
    /// Grants to download ahead, of `attempt`.
    pub downloads: u32,
    /// It has nothing left to download.
    pub downloaded: bool,
    pub sequence: i64,
    pub at: Option<Timestamp>,
    /// Position of the device in the table, or [`NONE`].
    pub row: u32,
    /// Position of the device's job in the scene, of whatever rollout, or [`NONE`].
    pub job: u32,
    /// Changed by this pass. A line moves once per pass, so that every write stands for itself.
    pub moved: bool,
    /// Granted by this pass: no job can exist, and the enrolment id is the device's current one.
    pub granted_now: bool,
}

impl Line {
    /// Moves the line to a state, from now on.
    pub fn set(&mut self, state: LineState, reason: Option<Reason>, now: Timestamp) {
        self.state = state;
        self.reason = reason;
        self.at = Some(whole_seconds(now));
        self.moved = true;
    }

    /// Keeps what the last attempt came to, before the next one: the record is the audit of the run. What
    /// a rollback followed says more than the rollback.
    pub fn remember(&mut self) {
        match self.state {
            LineState::Failed | LineState::RevertedByWindows => {
                (self.was, self.was_reason) = (Some(self.state), self.reason);
            }
            LineState::RolledBack if failed_before(self.was).is_none() => {
                (self.was, self.was_reason) = (Some(LineState::RolledBack), self.reason);
            }
            _ => {}
        }
    }

    /// Whether a grant to download ahead is in force.
    pub fn is_downloading(&self) -> bool {
        is_downloading(self.state, self.action, self.reason)
    }

    /// Whether a grant is in force, of whatever kind: the device has a job, or gets one.
    pub fn is_in_force(&self) -> bool {
        self.state == LineState::Granted || self.is_downloading()
    }

    /// Grants that were to change something.
    pub fn grants(&self) -> u32 {
        self.attempt.saturating_sub(self.downloads)
    }

    /// Whether the device failed in an earlier attempt and no later one has ended.
    pub fn failed_and_goes_on(&self) -> bool {
        self.action == JobAction::Install
            && failed_before(self.was).is_some()
            && matches!(self.state, LineState::Pending | LineState::NotStarted | LineState::Granted)
    }

    /// Whether the job of the running grant was missing once and made anew: somebody may have deleted
    /// one that had begun.
    pub fn was_remade(&self) -> bool {
        self.state == LineState::Granted && self.reason == Some(Reason::NoSuchJob)
    }

    /// Whether the device failed for a reason that another attempt may mend.
    pub fn may_try_again(&self, rules: &Rules) -> bool {
        matches!(self.state, LineState::Failed | LineState::RevertedByWindows)
            && self.action == JobAction::Install
            && !rules.is_closed
            && self.spent() < rules.max_attempts
            && !matches!(
                self.reason,
                Some(
                    Reason::Replaced
                        | Reason::Released
                        | Reason::OfflineTooLong
                        | Reason::CannotCreate
                        | Reason::NotReversible
                        | Reason::BootLoop
                        | Reason::BuildFamilyChanged
                        | Reason::FeatureUpgrade
                        | Reason::NetworkLost
                )
            )
    }

    /// What counts against `maxAttempts`. Where no attempt ever began (no room, no download), every
    /// grant counts: otherwise a device that fails before it begins would never be called failed.
    fn spent(&self) -> u32 {
        if self.tries > 0 { self.tries } else { self.grants() }
    }

    /// Whether the line still waits for a grant (again).
    pub fn waits(&self, rules: &Rules) -> bool {
        matches!(self.state, LineState::Pending | LineState::NotStarted)
            || self.may_try_again(rules)
    }

    /// Left the run before anything was asked of it.
    pub fn was_removed(&self) -> bool {
        self.state == LineState::Failed && self.reason == Some(Reason::Replaced) && self.tries == 0
    }

    /// Whether the device counts against `maxFailures`: it failed, whatever a rollback made of it.
    pub fn is_bad(&self, rules: &Rules) -> bool {
        let failed = |state| {
            matches!(
                state,
                LineState::Failed
                    | LineState::RevertedByWindows
                    | LineState::NotReversible
                    | LineState::RollbackFailed
            )
        };
        match self.state {
            LineState::RollbackFailed | LineState::NotReversible => true,
            // The device took the update back by itself, because it broke it.
            LineState::RolledBack if self.action == JobAction::Install => true,
            // What follows a rollback counts by what the rollback followed.
            LineState::Granted | LineState::Unreachable | LineState::RolledBack => {
                self.action == JobAction::Rollback && self.was.is_some_and(failed)
            }
            state => failed(state) && !self.may_try_again(rules) && !self.was_removed(),
        }
    }
}

/// What went before, if that was a failure or was taken back.
pub(crate) fn failed_before(was: Option<LineState>) -> Option<LineState> {
    was.filter(|was| !matches!(was, LineState::Granted | LineState::Succeeded))
}

/// Whether the note of a line tells of its own state; otherwise it tells of what went before.
pub(crate) fn notes_itself(state: LineState, action: JobAction) -> bool {
    action == JobAction::Install
        && matches!(
            state,
            LineState::Failed | LineState::RevertedByWindows | LineState::RollbackFailed
        )
}

/// A stage whose membership is frozen.
#[derive(Debug)]
pub(crate) struct Frozen<'a> {
    pub slices: Vec<&'a Arc<SliceView>>,
    /// First line of each slice.
    pub starts: Vec<usize>,
    pub lines: Vec<Line>,
    /// Lines that outcomes, deadlines or facts changed.
    pub outcomes: BTreeSet<usize>,
    /// Lines that a person's retry reset.
    pub retried: BTreeSet<usize>,
    /// Lines that a PatchRollback marks or leaves.
    pub ordered: BTreeSet<usize>,
    /// Lines to take back, with the attempt of the job that goes first.
    pub recalls: BTreeMap<usize, Option<u32>>,
    /// What answers of this pass say about the failures they tell of.
    pub notes: BTreeMap<usize, String>,
}

impl<'a> Frozen<'a> {
    /// Slice and position in it.
    pub fn locate(&self, index: usize) -> (usize, usize) {
        // All slices but the last are full, unless somebody else made them.
        let guess = index / SLICE_SIZE;
        let from = guess * SLICE_SIZE;
        let is_start = |slice, start| self.starts.get(slice) == Some(&start);
        let ends = |slice: usize| self.starts.get(slice + 1).is_none_or(|next| index < *next);
        if is_start(guess, from) && ends(guess) {
            return (guess, index - from);
        }
        let slice = self.starts.partition_point(|start| *start <= index) - 1;
        (slice, index - self.starts[slice])
    }

    /// Whether this plan takes the line's grant back by deleting its job.
    pub fn is_being_recalled(&self, index: usize) -> bool {
        matches!(self.recalls.get(&index), Some(Some(_)))
    }

    /// The line as it is recorded.
    pub fn record(&self, index: usize) -> &'a SliceLine {
        let (slice, position) = self.locate(index);
        let slice: &'a SliceView = self.slices[slice];
        &slice.lines[position]
    }

    /// What failed on the line's device, in its own words: of this pass, or as recorded before as long
    /// as the line still tells of that failure.
    pub fn note(&self, index: usize) -> Option<&str> {
        let (line, record) = (&self.lines[index], self.record(index));
        let is_new = || self.notes.get(&index).map(String::as_str);
        // What failed before stays told until the device fails anew.
        let is_same = line.action == JobAction::Rollback
            || (line.was.is_some() && !notes_itself(line.state, line.action))
            || (line.state, line.reason, line.was) == (record.state, record.reason, record.was);
        // What a rollback followed stays its evidence, whatever the rollback itself said.
        let recorded = record.note.as_deref().filter(|_| is_same);
        if line.action == JobAction::Rollback {
            recorded.or_else(is_new)
        } else {
            is_new().or(recorded)
        }
    }

    /// The line as this pass leaves it.
    pub fn rewritten(&self, index: usize, scene: &Scene<'a>) -> SliceLine {
        let (line, record) = (self.lines[index], self.record(index));
        let enrolment_id = if line.granted_now {
            scene.row(&line).and_then(|row| row.enrolment_id.as_deref()).map(str::to_owned)
        } else {
            record.enrolment_id.clone()
        };
        SliceLine {
            device: record.device.clone(),
            attempt: line.attempt,
            state: line.state,
            at: line.at,
            action: line.action,
            tries: line.tries,
            downloads: line.downloads,
            downloaded: line.downloaded,
            enrolment_id,
            sequence: line.sequence,
            reason: line.reason,
            was: line.was,
            was_reason: line.was_reason,
            ordered: line.ordered,
            note: self.note(index).map(str::to_owned),
        }
    }
}

/// What a walk over a stage's lines adds up to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub counts: StageCounts,
    /// Devices that count against `maxFailures`.
    pub bad: usize,
    /// Devices that count against `maxUnreachable`.
    pub silent: usize,
    /// Devices that coverage is over.
    pub applicable: usize,
    /// Of them, those with a verdict.
    pub done: usize,
    /// Install grants in flight.
    pub installing: usize,
    /// Rollback grants in flight.
    pub rolling_back: usize,
    /// Rollbacks that failed or fell silent.
    pub rollback_bad: usize,
    /// The first failed devices, by position.
    pub failed: Vec<usize>,
    /// The first devices that failed and are being tried again, by position.
    pub again: Vec<usize>,
}

/// Failed devices that a status shows.
pub(crate) const SAMPLE: usize = 20;

impl Tally {
    /// Adds up a stage. Bad ends before `since` were answered by a person's retry and do not count.
    pub fn of(
        frozen: &Frozen<'_>,
        rules: &Rules,
        since: Option<Timestamp>,
        scene: &Scene<'_>,
    ) -> Tally {
        let mut tally = Tally::default();
        for (index, line) in frozen.lines.iter().enumerate() {
            tally.add(index, line, rules, since, scene);
            // A permit may still win against the deletion that a recall begins with: the slot is free
            // once the job is really gone.
            if frozen.is_being_recalled(index) && !only_downloads(line) {
                match line.action {
                    JobAction::Rollback => tally.rolling_back += 1,
                    JobAction::Install | JobAction::Download => tally.installing += 1,
                }
            }
        }
        let counts = &mut tally.counts;
        counts.total = frozen.lines.len() as u32;
        tally.applicable = (counts.total - counts.not_applicable - counts.removed) as usize;
        tally.done =
            tally.applicable - (counts.pending + counts.in_progress + counts.deferred) as usize;
        tally
    }

    fn add(
        &mut self,
        index: usize,
        line: &Line,
        rules: &Rules,
        since: Option<Timestamp>,
        scene: &Scene<'_>,
    ) {
        let counts = &mut self.counts;
        match line.state {
            LineState::Succeeded => counts.succeeded += 1,
            LineState::AlreadyInstalled => counts.already_installed += 1,
            LineState::NotApplicable
            | LineState::NotOffered
            | LineState::Superseded
            | LineState::PatchedOutside => counts.not_applicable += 1,
            LineState::Deferred | LineState::PoweredOff => counts.deferred += 1,
            LineState::Pending | LineState::NotStarted => {
                counts.pending += 1;
                counts.downloaded += u32::from(line.downloaded);
                counts.downloading += u32::from(line.is_downloading());
                if scene.leftover(line) {
                    self.installing += 1;
                }
            }
            LineState::Granted => {
                counts.in_progress += 1;
                match line.action {
                    JobAction::Rollback => self.rolling_back += 1,
                    JobAction::Install | JobAction::Download => self.installing += 1,
                }
                scene.count_reboots(line, rules, counts);
            }
            LineState::Failed | LineState::RevertedByWindows => {
                if line.was_removed() {
                    counts.removed += 1;
                } else if line.may_try_again(rules) {
                    counts.pending += 1;
                } else {
                    counts.failed += 1;
                }
            }
            LineState::Unreachable => counts.unreachable += 1,
            LineState::RolledBack => counts.rolled_back += 1,
            LineState::NotReversible | LineState::RollbackFailed => counts.rollback_failed += 1,
        }
        if line.failed_and_goes_on() && self.again.len() < SAMPLE {
            self.again.push(index);
        }
        // A grant of a rollback keeps the failure it followed; only ended lines can be forgiven.
        let counted = line.state == LineState::Granted
            || since.is_none_or(|since| line.at.is_none_or(|at| at >= since));
        if counted
            && line.action == JobAction::Rollback
            && matches!(line.state, LineState::RollbackFailed | LineState::Unreachable)
        {
            self.rollback_bad += 1;
        }
        if counted && line.is_bad(rules) {
            self.bad += 1;
            if self.failed.len() < SAMPLE {
                self.failed.push(index);
            }
        } else if counted && line.state == LineState::Unreachable {
            self.silent += 1;
            if self.failed.len() < SAMPLE {
                self.failed.push(index);
            }
        }
    }
}

/// What a running grant is doing, as far as its job says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// No step may have begun.
    NotBegun,
    /// Something irreversible may be going on.
    Working,
    /// Installed; no restart permitted yet.
    AwaitingReboot,
    /// Restarting since then.
    Rebooting(Timestamp),
}

/// Reads what a grant is doing off its job.
pub(crate) fn doing(job: &crate::JobView) -> Doing {
    if !job.may_have_begun() {
        return Doing::NotBegun;
    }
    let reboot_permit = job
        .permitted
        .iter()
        .filter(|permit| permit.step == wardring_api::PermitStep::Reboot)
        .map(|permit| permit.at)
        .max();
    match job.state {
        Some(JobState::Rebooting) => {
            // A report made before the permit was given cannot say that the restart is under way.
            let since = job.updated_at.max(reboot_permit);
            since.map_or(Doing::Working, Doing::Rebooting)
        }
        // Before its restart is ordered it may wait for people, for hours.
        Some(JobState::AwaitingReboot | JobState::RebootFirst) => match reboot_permit {
            Some(at) if job.updated_at.is_none_or(|heard| heard <= at) => Doing::Rebooting(at),
            _ => Doing::AwaitingReboot,
        },
        _ => Doing::Working,
    }
}
