//! The ledger: grants are named there before a slice line says Granted, and a batch that a leader
//! left open is closed before anything else is granted.

use wardring_api::{
    Batch, JobAction, LineState, SliceLine, WindowAction, conditions::whole_seconds,
    reasons::Reason,
};

use crate::{
    Action, BATCH_SIZE, LineChange, RecordCause,
    eligibility::recall_hold,
    freeze,
    line::{Frozen, Line},
    plan::Lanes,
    rollback,
    sequence::next_batch,
    validate::{Run, Scene, Stop},
    wake::Wake,
    windows::{self, StageWindows},
};

/// Batches in one plan at most, so that one pass stays short and a halt never waits behind it.
const BATCHES_PER_PLAN: usize = 32;

/// A grant that was decided: line, attempt, action.
pub(crate) type Start = (usize, u32, JobAction);

/// Of downloads ahead, so that they take nothing from whoever installs or takes back.
const DOWNLOAD_BATCHES: usize = 4;

/// The next sequence, and how many batches this plan may still open.
pub(crate) struct Pen {
    sequence: i64,
    batches: usize,
    downloads: usize,
}

impl Pen {
    pub fn new(scene: &Scene<'_>) -> Pen {
        Pen {
            sequence: scene.snapshot.ledger.sequence,
            batches: BATCHES_PER_PLAN,
            downloads: DOWNLOAD_BATCHES,
        }
    }

    /// The same pen, for downloads ahead.
    pub fn of_downloads(&self) -> Pen {
        Pen { sequence: self.sequence, batches: self.downloads, downloads: 0 }
    }

    /// Goes on after downloads were written with it.
    pub fn take_back(&mut self, share: Pen) {
        (self.sequence, self.downloads) = (share.sequence, share.batches);
    }
}

/// Closes a batch whose lines were not written. Its author may still be about to write them, so the
/// slice must be written in any case: only a lost compare-and-swap stops that author. Where the
/// rollout goes on, the grants are made; where it stands still, the lines are left ungranted.
pub(crate) fn close_open_batch(
    runs: &mut [Run<'_>],
    scene: &Scene<'_>,
    lanes: &mut Lanes,
    wake: &mut Wake,
) {
    let Some(batch) = &scene.snapshot.ledger.batch else { return };
    let mut is_known = false;
    for run in runs.iter_mut() {
        let has_heard = scene.snapshot.guards.unheard.is_none();
        let may_grant = has_heard && run.stop.is_none() && run.complaint.is_none();
        let may_roll_back = has_heard && matches!(run.stop, None | Some(Stop::Halted));
        let (uid, now) = (run.id.uid.clone(), scene.now);
        let respects = windows::rollbacks_wait(run);
        let limits: Vec<bool> = (0..run.stages.len())
            .map(|position| freeze::missing_group(run, position, scene).is_none())
            .collect();
        // What was to be taken back may be wanted no more: a person withdrew it.
        let wanted = rollback::wanted(run, &batch.slice, scene);
        for (stage, has_limits) in run.stages.iter_mut().zip(limits) {
            let Some(frozen) = stage.frozen.as_mut() else { continue };
            let Some(slice) = frozen.slices.iter().position(|slice| slice.name == batch.slice)
            else {
                continue;
            };
            is_known = true;
            let mut windows = StageWindows::new(scene, stage.hours);
            let mut changes = Vec::new();
            for (device, attempt, action) in batch.grants.iter().filter_map(|text| entry(text)) {
                let lines = &frozen.slices[slice].lines;
                let Some(position) = lines.iter().position(|line| line.device == device) else {
                    continue;
                };
                let index = frozen.starts[slice] + position;
                let mut line = frozen.lines[index];
                if uid != batch.rollout_uid
                    || line.sequence >= batch.sequence
                    || line.attempt > attempt
                {
                    continue;
                }
                let row = scene.row(&line).filter(|row| row.enrolment_id.is_some());
                let allowed = match action {
                    JobAction::Rollback if attempt > line.attempt => {
                        may_roll_back && wanted.contains(&position)
                    }
                    JobAction::Rollback => may_roll_back,
                    JobAction::Install => may_grant,
                    // It waits for the next pass, which looks whether it is still ahead of anything.
                    JobAction::Download => false,
                };
                let is_stopped = run.brakes.hold(&line, action, scene);
                // What began already comes back to it; what would begin must be let.
                let begins = match action {
                    _ if attempt == line.attempt => None,
                    JobAction::Rollback => respects.then_some(WindowAction::Uninstall),
                    JobAction::Install => Some(WindowAction::Install),
                    JobAction::Download => None,
                };
                let is_shut = row.is_some()
                    && begins.is_some_and(|begins| windows.say(begins, line.row as usize).is_err());
                let spec = &run.rollout.spec;
                let mut is_held = |row| {
                    let at = line.row as usize;
                    recall_hold(row, at, spec, &run.coverage, scene.table, wake).is_some()
                };
                // Who was kept back meanwhile is not granted first and asked then.
                let is_held =
                    begins == Some(WindowAction::Install) && row.is_some_and(&mut is_held);
                let may_go = !is_stopped && !is_shut && !is_held;
                if row.is_some() && allowed && has_limits && may_go {
                    grant(&mut line, action, attempt, batch.sequence, now);
                } else {
                    line.downloads += u32::from(action == JobAction::Download);
                    (line.sequence, line.attempt, line.moved) = (batch.sequence, attempt, true);
                }
                frozen.lines[index] = line;
                changes.push((position, index));
            }
            if !changes.is_empty() {
                lanes.fences.push(record(frozen, slice, &changes, RecordCause::Grants, scene));
            }
        }
    }
    if !is_known {
        lanes.fences.extend(close_unused(batch, scene));
    }
}

/// Closes a batch of a slice that no rollout uses any more, granting nothing. A slice that cannot be
/// read is left alone: whoever opened the batch cannot have read it either.
fn close_unused(batch: &Batch, scene: &Scene<'_>) -> Option<Action> {
    let mut slices = scene.snapshot.slices.iter();
    let slice = slices.find(|slice| slice.name == batch.slice && slice.damaged.is_none())?;
    let named = |line: &SliceLine| {
        batch.grants.iter().filter_map(|text| entry(text)).find_map(|(device, attempt, _)| {
            let is_open = line.sequence < batch.sequence && line.attempt <= attempt;
            (device == line.device && is_open).then_some(attempt)
        })
    };
    let changes: Vec<LineChange> = slice
        .lines
        .iter()
        .enumerate()
        .filter_map(|(index, line)| {
            let attempt = named(line)?;
            let line = SliceLine { attempt, sequence: batch.sequence, ..line.clone() };
            Some(LineChange { index, line })
        })
        .collect();
    (!changes.is_empty()).then(|| Action::RecordLines {
        slice: slice.name.clone(),
        cause: RecordCause::Grants,
        changes,
    })
}

/// Reads `device attempt action`.
fn entry(text: &str) -> Option<(&str, u32, JobAction)> {
    let mut words = text.split(' ');
    let entry = (words.next()?, words.next()?.parse().ok()?, JobAction::parse(words.next()?)?);
    words.next().is_none().then_some(entry)
}

/// Turns a line into a grant. The same attempt again is a device that came back.
fn grant(line: &mut Line, action: JobAction, attempt: u32, sequence: i64, now: jiff::Timestamp) {
    if attempt > line.attempt {
        line.granted_now = true;
        match action {
            JobAction::Rollback => (line.was, line.was_reason) = (Some(line.state), line.reason),
            JobAction::Install => line.remember(),
            JobAction::Download => line.downloads += 1,
        }
    }
    (line.state, line.reason) = match action {
        // It waits on: nothing may be changed with such a grant.
        JobAction::Download => (LineState::Pending, Some(Reason::Downloading)),
        JobAction::Install | JobAction::Rollback => (LineState::Granted, None),
    };
    line.at = Some(whole_seconds(now));
    (line.action, line.attempt, line.sequence, line.moved) = (action, attempt, sequence, true);
}

fn record<'a>(
    frozen: &Frozen<'a>,
    slice: usize,
    changes: &[(usize, usize)],
    cause: RecordCause,
    scene: &Scene<'a>,
) -> Action {
    Action::RecordLines {
        slice: frozen.slices[slice].name.clone(),
        cause,
        changes: changes
            .iter()
            .map(|&(index, line)| LineChange { index, line: frozen.rewritten(line, scene) })
            .collect(),
    }
}

/// Turns decided starts into batches of one slice each: ledger first, then the lines. Returns how
/// many of them this plan writes; the next one goes on.
pub(crate) fn write_ahead<'a>(
    frozen: &mut Frozen<'a>,
    uid: &str,
    starts: &[Start],
    scene: &Scene<'a>,
    pen: &mut Pen,
    lanes: &mut Lanes,
) -> usize {
    let mut rest = starts;
    while let Some(&(first, ..)) = rest.first() {
        let (slice, _) = frozen.locate(first);
        let end = frozen.starts.get(slice + 1).copied().unwrap_or(frozen.lines.len());
        let length = rest.iter().take_while(|start| start.0 < end).count().min(BATCH_SIZE);
        if pen.batches == 0 {
            return starts.len() - rest.len();
        }
        pen.batches -= 1;
        let (batch, later) = rest.split_at(length);
        rest = later;
        let expected_sequence = pen.sequence;
        pen.sequence = next_batch(pen.sequence);
        let mut changes = Vec::with_capacity(batch.len());
        let mut grants = Vec::with_capacity(batch.len());
        for &(index, attempt, action) in batch {
            grant(&mut frozen.lines[index], action, attempt, pen.sequence, scene.now);
            changes.push((index - frozen.starts[slice], index));
            let device = &frozen.record(index).device;
            grants.push(format!("{device} {attempt} {}", action.as_str()));
        }
        let slice_name = frozen.slices[slice].name.clone();
        lanes.batches.push(Action::OpenBatch {
            expected_sequence,
            batch: Batch {
                sequence: pen.sequence,
                rollout_uid: uid.to_owned(),
                slice: slice_name,
                grants,
            },
        });
        lanes.batches.push(record(frozen, slice, &changes, RecordCause::Grants, scene));
    }
    starts.len()
}
