//! Devices that an update left damaged: taking it back failed, or it broke the device and there is no
//! way back. Nothing begins on them, for whatever rollout, before a person has looked.
//!
//! The record is the slice line with the job that was answered; the condition Quarantined of the Device
//! follows from it and carries the line's time. So a write that is lost, doubled or late changes nothing,
//! and a release that is newer than the damage settles it for good. The job stays as lock and evidence, so
//! nobody else has the device before the condition is seen, and one that is edited away comes back.

use jiff::Timestamp;
use wardring_api::{
    JobAction, LineState, SliceLine,
    conditions::{clip, whole_seconds},
    reasons::Reason,
};

use crate::{
    Action, DeviceRow, JobOutcome, JobView, OutcomeResult,
    explain::{lower_first, one_line},
    line::{Line, failed_before},
    outcomes::is_released,
    plan::Lanes,
    validate::{Run, Scene},
};

/// KBs that a message names.
const NAMED: usize = 3;
/// Longest words of a device in a message, bytes: a Device's status is small.
const MAX_WORDS: usize = 160;

/// A device that is damaged, with what tells of it.
struct Damage<'a> {
    row: &'a DeviceRow,
    job: &'a JobView,
    since: Timestamp,
}

/// What a line says that may mean damage.
struct Verdict {
    state: LineState,
    action: JobAction,
    reason: Option<Reason>,
    was: Option<LineState>,
}

impl Verdict {
    fn is_damage(&self) -> bool {
        match self.state {
            LineState::RollbackFailed => {
                // Without a job nothing was tried, and whoever let go of it has looked.
                !matches!(
                    self.reason,
                    Some(Reason::Replaced | Reason::Released | Reason::CannotCreate)
                )
            }
            // A device that was well stays well with an update that cannot go.
            LineState::NotReversible => {
                matches!(self.was, Some(LineState::Failed | LineState::RevertedByWindows))
            }
            // It wanted to take the update back by itself, and cannot.
            LineState::Failed => {
                self.action == JobAction::Install && self.reason == Some(Reason::NotReversible)
            }
            _ => false,
        }
    }
}

/// Whether the recorded line tells of a damaged device.
pub(crate) fn is_told_by(line: &SliceLine) -> bool {
    let SliceLine { state, action, reason, was, tries, .. } = *line;
    Verdict { state, action, reason, was }.is_damage() && tries > 0
}

/// Whether a person let go of the damaged device that the line tells of.
pub(crate) fn is_settled(line: &SliceLine, row: Option<&DeviceRow>) -> bool {
    let released = row.and_then(|row| row.release_requested_at);
    is_told_by(line) && released.is_some_and(|released| line.at.is_some_and(|at| at <= released))
}

/// The reason that Quarantined has for a damaged device.
fn reason_of(line: &Line) -> Reason {
    match line.state {
        LineState::RollbackFailed => Reason::RollbackFailed,
        _ => Reason::NotReversible,
    }
}

fn find<'a>(run: &Run<'_>, line: &Line, scene: &Scene<'a>) -> Option<Damage<'a>> {
    let Line { state, action, reason, was, .. } = *line;
    if !(Verdict { state, action, reason, was }).is_damage() {
        return None;
    }
    let row = scene.row(line)?;
    // Somebody who deletes it has looked, and an old record without it says nothing about today.
    let job = scene.own_job(line, run.uid())?;
    let is_sound = match state {
        LineState::Failed => !found_no_way(job),
        // A device that was well and to which nothing was done is as well as before.
        LineState::RollbackFailed => failed_before(was).is_none() && did_nothing(job),
        _ => false,
    };
    if is_sound || row.enrolment_id.as_deref() != Some(job.enrolment_id.as_str()) {
        return None;
    }
    (!is_released(row, line)).then_some(Damage { row, job, since: line.at? })
}

/// Whether the device tried to take an installation back and answered that there is no way. A line that ends
/// because its device never began may have the same reason.
fn found_no_way(job: &JobView) -> bool {
    let JobOutcome::Verified(outcome) = &job.outcome else { return false };
    outcome.result == OutcomeResult::NotReversible
}

/// Whether the device answered that its removal never began.
fn did_nothing(job: &JobView) -> bool {
    let JobOutcome::Verified(outcome) = &job.outcome else { return false };
    outcome.action == JobAction::Rollback && !outcome.started
}

/// Whether the line's device is damaged and nobody has released it: its job stays, as lock and as evidence.
pub(crate) fn is_damaged(run: &Run<'_>, line: &Line, scene: &Scene<'_>) -> bool {
    find(run, line, scene).is_some()
}

/// Whether the line's device is damaged and its condition does not say so yet.
pub(crate) fn is_unsaid(run: &Run<'_>, line: &Line, scene: &Scene<'_>) -> bool {
    find(run, line, scene).is_some_and(|damage| damage.row.damaged_since < Some(damage.since))
}

/// Writes Quarantined where a device is damaged, and takes back what a person has released.
pub(crate) fn write(runs: &[Run<'_>], scene: &Scene<'_>, lanes: &mut Lanes) {
    for run in runs {
        for stage in &run.stages {
            let lines = stage.frozen.iter().flat_map(|frozen| &frozen.lines);
            for line in lines.filter(|line| is_unsaid(run, line, scene)) {
                let Some(damage) = find(run, line, scene) else { continue };
                // What somebody else quarantined it for would be forgotten.
                if damage.row.quarantined && damage.row.damaged_since.is_none() {
                    continue;
                }
                lanes.quarantines.push(Action::WriteQuarantine {
                    device: damage.row.name.to_string(),
                    quarantined: true,
                    reason: reason_of(line),
                    message: words(&damage, line, run, &stage.spec.name),
                    since: damage.since,
                });
            }
        }
    }
    let table = scene.table;
    for position in (0..table.rows().len()).filter(|&position| !table.is_clear(position)) {
        let row = &table.rows()[position];
        let (Some(since), Some(released)) = (row.damaged_since, row.release_requested_at) else {
            continue;
        };
        if released >= since {
            lanes.quarantines.push(Action::WriteQuarantine {
                device: row.name.to_string(),
                quarantined: false,
                reason: Reason::Released,
                message: format!("A person released the device at {released}."),
                since: whole_seconds(released.min(scene.now)),
            });
        }
    }
}

/// `The rollback of KB5068787 failed (rollout november, stage test): the package is gone. …`
fn words(damage: &Damage<'_>, line: &Line, run: &Run<'_>, stage: &str) -> String {
    let kbs = &damage.job.kbs;
    let named: Vec<&str> = kbs.iter().take(NAMED).map(String::as_str).collect();
    let updates = match kbs.len() {
        0 => "its updates".to_owned(),
        1..=NAMED => named.join(", "),
        _ => format!("{} and more", named.join(", ")),
    };
    // It may have been removed, and something else was wrong after that.
    let what = match line.state {
        LineState::RollbackFailed => format!("The rollback of {updates} failed"),
        _ => format!("The device is broken, and {updates} cannot be taken back"),
    };
    let said = match &damage.job.outcome {
        JobOutcome::Verified(outcome) if !outcome.message.is_empty() => one_line(&outcome.message),
        _ => lower_first(line.reason.unwrap_or(reason_of(line)).meaning()),
    };
    let said = clip(said.trim_end_matches('.'), MAX_WORDS);
    format!(
        "{what} (rollout {}, stage {stage}): {said}. Look at the device; nothing begins on it before \
         somebody says `kubectl wardring release device {}`.",
        run.id.name, damage.row.name
    )
}
