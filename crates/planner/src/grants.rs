//! Grants, written ahead: the ledger names them, then the slice lines say Granted, then jobs are
//! made. An open batch of a leader that died is closed first.

use wardring_api::{
    AwaitingRebootAction, Batch, JobAction, LineState, StageState, conditions::whole_seconds,
    reasons::Reason,
};

use crate::{
    Action, BATCH_SIZE, Decision, LineChange, RecordCause,
    eligibility::{Claims, line_hold},
    line::{Frozen, Line, Tally},
    plan::Lanes,
    rollback,
    validate::{Run, Scene, Stop},
    wake::Wake,
};

/// Batches in one plan at most, so that one pass stays short and a halt never waits behind it.
const BATCHES_PER_PLAN: usize = 32;

/// What was decided for each line of each stage, parallel to the lines.
pub(crate) type Decisions = Vec<Vec<Decision>>;

/// The next sequence, and how many batches this plan may still open.
pub(crate) struct Pen {
    sequence: i64,
    batches: usize,
}

impl Pen {
    pub fn new(scene: &Scene<'_>) -> Pen {
        Pen { sequence: scene.snapshot.ledger.sequence, batches: BATCHES_PER_PLAN }
    }
}

/// Closes a batch whose lines were not written. Its author may still be about to write them, so the
/// slice must be written in any case: only a lost compare-and-swap stops that author. Where the
/// rollout goes on, the grants are made; where it stands still, the lines are left ungranted.
pub(crate) fn close_open_batch(runs: &mut [Run<'_>], scene: &Scene<'_>, lanes: &mut Lanes) {
    let Some(batch) = &scene.snapshot.ledger.batch else { return };
    let mut is_known = false;
    for run in runs.iter_mut() {
        let may_grant = run.stop.is_none() && run.complaint.is_none();
        let may_roll_back = matches!(run.stop, None | Some(Stop::Halted));
        let (uid, now) = (run.id.uid.clone(), scene.now);
        for frozen in run.stages.iter_mut().filter_map(|stage| stage.frozen.as_mut()) {
            let Some(slice) = frozen.slices.iter().position(|slice| slice.name == batch.slice)
            else {
                continue;
            };
            is_known = true;
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
                    JobAction::Rollback => may_roll_back,
                    JobAction::Install | JobAction::Download => may_grant,
                };
                if row.is_some() && allowed {
                    grant(&mut line, action, attempt, batch.sequence, now);
                } else {
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
    let named = |line: &wardring_api::SliceLine| {
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
            let line =
                wardring_api::SliceLine { attempt, sequence: batch.sequence, ..line.clone() };
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
        line.was = match action {
            JobAction::Rollback => Some(line.state),
            JobAction::Install | JobAction::Download => None,
        };
    }
    line.state = LineState::Granted;
    line.reason = None;
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

/// Whether a run may get grants for `action` in this pass.
fn may_grant(run: &Run<'_>, scene: &Scene<'_>, action: JobAction) -> bool {
    let ready = scene.guard.is_none()
        && scene.snapshot.ledger.present
        && run.complaint.is_none()
        && run.has_finalizer()
        && !run.gating;
    ready
        && match action {
            JobAction::Rollback => matches!(run.stop, None | Some(Stop::Halted)),
            JobAction::Install | JobAction::Download => run.stop.is_none(),
        }
}

/// Decides about every device of a run and writes the grants ahead.
pub(crate) fn admit<'a>(
    run: &mut Run<'a>,
    scene: &Scene<'a>,
    claims: &mut Claims,
    pen: &mut Pen,
    lanes: &mut Lanes,
    wake: &mut Wake,
) -> Decisions {
    let current = crate::halt::current_stage(run);
    let rollback = rollback::Round::new(run, scene, wake);
    let mut decisions = Vec::with_capacity(run.stages.len());
    for position in 0..run.stages.len() {
        let Some(frozen) = run.stages[position].frozen.take() else {
            decisions.push(Vec::new());
            continue;
        };
        let is_current = current == Some(position);
        let open = is_current
            && run.status.stages[position].state == StageState::Open
            && may_grant(run, scene, JobAction::Install);
        let slots = free_slots(run, position);
        let starts = Vec::new();
        let mut desk = Desk { run, scene, claims, wake, position, is_current, open, slots, starts };
        let mut here = desk.decide(&frozen, &rollback);
        let starts = desk.starts;
        let mut frozen = frozen;
        let written = write_ahead(&mut frozen, &run.id.uid, &starts, scene, pen, lanes);
        for &(index, ..) in &starts[written..] {
            here[index] = Decision::Hold(Reason::WriteInFlight);
        }
        if !starts.is_empty() {
            let stage = &mut run.stages[position];
            let since = run.status.stages[position].started_at;
            stage.tally = Tally::of(&frozen, &stage.rules, since, scene);
        }
        run.stages[position].frozen = Some(frozen);
        decisions.push(here);
    }
    decisions
}

/// A grant that was decided: line, attempt, action.
type Start = (usize, u32, JobAction);

/// Decides about the lines of one stage.
struct Desk<'d, 'a> {
    run: &'d Run<'a>,
    scene: &'d Scene<'a>,
    claims: &'d mut Claims,
    wake: &'d mut Wake,
    position: usize,
    is_current: bool,
    open: bool,
    slots: usize,
    starts: Vec<Start>,
}

/// Slots of a stage that nobody holds.
fn free_slots(run: &Run<'_>, position: usize) -> usize {
    let caps = run.status.stages[position].caps.unwrap_or_default();
    (caps.max_concurrency as usize).saturating_sub(run.stages[position].tally.installing)
}

impl Desk<'_, '_> {
    fn decide(&mut self, frozen: &Frozen<'_>, rollback: &rollback::Round) -> Vec<Decision> {
        let mut rollback_slots = rollback.slots;
        // Devices that came back take their slots before anybody new does.
        let mut returned = Vec::new();
        for (index, line) in frozen.lines.iter().enumerate() {
            if self.is_back(line) && self.take_slot(line, &mut rollback_slots) {
                self.start(index, line, line.attempt, line.action);
                returned.push(index);
            }
        }
        let mut decisions = Vec::with_capacity(frozen.lines.len());
        for (index, line) in frozen.lines.iter().enumerate() {
            let decision = if returned.binary_search(&index).is_ok() || line.granted_now {
                Decision::Start
            } else if rollback.wants(self.run, self.position, line, self.scene) {
                self.roll_back(index, line, rollback, &mut rollback_slots)
            } else {
                self.install(index, line)
            };
            decisions.push(decision);
        }
        self.starts.sort_unstable_by_key(|start| start.0);
        decisions
    }

    /// Whether a device that was given up is in contact again and still has time to finish.
    fn is_back(&self, line: &Line) -> bool {
        if line.state != LineState::Unreachable || line.moved {
            return false;
        }
        let stop = self.run.stop;
        let finishes =
            self.run.rollout.spec.on_halt.installed_awaiting_reboot == AwaitingRebootAction::Finish;
        let allowed = match line.action {
            JobAction::Rollback => may_grant(self.run, self.scene, JobAction::Rollback),
            _ if stop == Some(Stop::Halted) => {
                finishes && may_grant(self.run, self.scene, JobAction::Rollback)
            }
            _ => may_grant(self.run, self.scene, JobAction::Install),
        };
        let job = self.scene.own_job(line, self.run.uid());
        allowed
            && self.scene.row(line).is_some_and(|row| {
                row.is_online()
                    && job.is_some_and(|job| {
                        row.enrolment_id.as_deref() == Some(job.enrolment_id.as_str())
                            && job.updated_at > line.at
                            && self.scene.now < job.finish_by
                    })
            })
    }

    fn take_slot(&mut self, line: &Line, rollback_slots: &mut usize) -> bool {
        let slots =
            if line.action == JobAction::Rollback { rollback_slots } else { &mut self.slots };
        let free = *slots > 0;
        *slots = slots.saturating_sub(1);
        free
    }

    fn start(&mut self, index: usize, line: &Line, attempt: u32, action: JobAction) {
        // A silent or working device is already counted as unavailable.
        let counted = matches!(line.state, LineState::Unreachable | LineState::Granted);
        self.claims.take(line.row as usize, counted, self.scene.table);
        self.starts.push((index, attempt, action));
    }

    fn roll_back(
        &mut self,
        index: usize,
        line: &Line,
        rollback: &rollback::Round,
        slots: &mut usize,
    ) -> Decision {
        let allowed = may_grant(self.run, self.scene, JobAction::Rollback);
        let hold = match self.scene.row(line) {
            None => Some(Reason::Replaced),
            Some(_) if !allowed => Some(Reason::RolloutStopped),
            Some(_) if rollback.is_braked => Some(Reason::RollbackFailed),
            // Later stages go first.
            Some(_) if !rollback.is_turn_of(self.position) => Some(Reason::RollingBack),
            Some(row) => crate::eligibility::rollback_hold(row, self.wake)
                .or_else(|| rollback::claim_hold(line, self.run, self.claims, self.scene)),
        };
        if let Some(reason) = hold {
            return Decision::Hold(reason);
        }
        let row = line.row as usize;
        if line.state != LineState::Granted && !self.claims.has_room(row, self.scene.table) {
            return Decision::Hold(Reason::GroupUnavailable);
        }
        if *slots == 0 {
            return Decision::Hold(Reason::SlotsTaken);
        }
        *slots -= 1;
        self.start(index, line, line.attempt + 1, JobAction::Rollback);
        Decision::Start
    }

    fn install(&mut self, index: usize, line: &Line) -> Decision {
        let stage = &self.run.stages[self.position];
        if line.state == LineState::Granted {
            return Decision::Continue;
        }
        if !line.waits(&stage.rules) {
            return Decision::Done(line.state);
        }
        if line.moved {
            return Decision::Hold(line.reason.unwrap_or(Reason::WriteInFlight));
        }
        let hold = line_hold(line, self.run, &stage.rules, self.claims, self.scene, self.wake);
        if let Some(reason) = hold {
            return Decision::Hold(reason);
        }
        if self.run.stop.is_some() || self.run.complaint.is_some() || self.scene.guard.is_some() {
            return Decision::Hold(Reason::RolloutStopped);
        }
        if !self.open {
            let waits = if self.is_current { Reason::WriteInFlight } else { Reason::StageNotOpen };
            return Decision::Hold(waits);
        }
        if self.slots == 0 {
            return Decision::Hold(Reason::SlotsTaken);
        }
        self.slots -= 1;
        self.start(index, line, line.attempt + 1, JobAction::Install);
        Decision::Start
    }
}

/// Turns decided starts into batches of one slice each: ledger first, then the lines. Returns how
/// many of them this plan writes; the next one goes on.
fn write_ahead<'a>(
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
        pen.sequence += 1;
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
