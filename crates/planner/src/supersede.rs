//! `spec.supersedes`: a rollout takes the place of an older one of its namespace. The older one ends, by the
//! same latch as if a person had aborted it, in the pass after the newer one's first stage has opened: until
//! then the newer one may still turn out to be unable to do anything. What is at work in the older one may
//! come to its end there, restart included, unless a stop held it back before.

use std::collections::BTreeSet;

use jiff::Timestamp;
use wardring_api::{
    JobAction, LineState, PatchRollout, PatchRolloutStatus, StageState, conditions::clip,
    reasons::Reason,
};

use crate::{
    EventKind, explain, freeze,
    halt::{self, Latched},
    line::Line,
    validate::{Complaint, Run, Scene, Stop},
};

/// Devices that a sentence names.
const NAMED: usize = 5;

/// Whether the rollout ended because another one took its place.
pub(crate) fn is_superseded(status: &PatchRolloutStatus) -> bool {
    let ended = status.aborted.as_ref();
    ended.is_some_and(|latch| latch.reason == Reason::SupersededByRollout.as_str())
}

/// Whether devices that installed in a rollout that was superseded may restart: nothing held them back when
/// it ended, and nobody stopped it since.
pub(crate) fn lets_finish(rollout: &PatchRollout, status: &PatchRolloutStatus) -> bool {
    is_superseded(status)
        && rollout.spec.abort.is_none()
        && rollout.spec.suspend != Some(true)
        && status.suspended.is_none()
        && status.halted.is_none()
}

/// Whether `newer` may take the place of `older`, as far as their ages go. Of two that were made in the same
/// second and name each other, neither may.
pub(crate) fn is_older(older: &PatchRollout, newer: &PatchRollout) -> bool {
    let made = |rollout: &PatchRollout| -> Option<Timestamp> {
        rollout.metadata.creation_timestamp.as_ref().map(|time| time.0)
    };
    let is_mutual = older.spec.supersedes.is_some()
        && older.spec.supersedes == newer.metadata.name
        && made(older) == made(newer);
    older.metadata.uid != newer.metadata.uid && made(older) <= made(newer) && !is_mutual
}

/// Whether a stage of the rollout has opened, as the status says it: its devices are known and enough, and
/// whoever had to be asked said yes.
pub(crate) fn has_opened(status: &PatchRolloutStatus) -> bool {
    let is_open = |state| !matches!(state, StageState::Pending | StageState::Gated);
    status.stages.iter().any(|stage| is_open(stage.state))
}

/// Whether nothing of the rollout can be superseded: it is over, or in the middle of taking updates back.
pub(crate) fn is_out_of_reach(status: &PatchRolloutStatus) -> bool {
    let takes_back = status.rollback.as_ref().is_some_and(|all| all.completed_at.is_none());
    let is_completed = !status.stages.is_empty()
        && status.stages.iter().all(|stage| stage.state == StageState::Completed);
    status.aborted.is_some() || takes_back || is_completed
}

/// Ends rollouts whose place another one took, and says where a name leads nowhere.
pub(crate) fn latch(runs: &mut [Run<'_>], latched: &mut [Latched], scene: &Scene<'_>) {
    if scene.guard.is_some() {
        return;
    }
    for newer in 0..runs.len() {
        let Some(name) = runs[newer].rollout.spec.supersedes.clone() else { continue };
        let older = runs
            .iter()
            .position(|run| run.id.name == name && is_older(run.rollout, runs[newer].rollout));
        let has_begun = runs[newer].before.stages.iter().any(|stage| stage.freeze_id.is_some());
        let Some(older) = older else {
            // Later it may be deleted, or made anew for another purpose.
            if !has_begun {
                runs[newer].complaint.get_or_insert_with(|| not_found(&name));
            }
            continue;
        };
        let can_act = runs[newer].stop.is_none()
            && runs[newer].complaint.is_none()
            && !halt::is_completed(&runs[newer])
            && has_opened(&runs[newer].before);
        let is_free = !runs[older].is_deleting()
            && !is_out_of_reach(&runs[older].before)
            && !is_out_of_reach(&runs[older].status)
            && !is_taking_back(&runs[older]);
        if can_act && is_free {
            end(runs, older, newer, scene);
            latched[older].stopped = true;
        }
    }
}

fn is_taking_back(run: &Run<'_>) -> bool {
    let mut lines = run.stages.iter().flat_map(|stage| &stage.frozen).flat_map(|all| &all.lines);
    lines.any(|line| line.state == LineState::Granted && line.action == JobAction::Rollback)
}

fn not_found(name: &str) -> Complaint {
    Complaint::new(
        Reason::SupersedesNotFound,
        format!(
            "`supersedes` names rollout {name}, and this namespace has none of that name that is older. \
             Nothing starts; make a new rollout with the right name, or without `supersedes`."
        ),
    )
}

fn end(runs: &mut [Run<'_>], older: usize, newer: usize, scene: &Scene<'_>) {
    let left = left_out(&runs[older], &runs[newer], scene);
    let is_held = !matches!(runs[older].stop, None | Some(Stop::Aborted));
    let rest = if is_held {
        "nothing begins here any more, restarts included"
    } else {
        "nothing begins here any more, and what has begun comes to its end"
    };
    let mut message = format!("Rollout {} takes its place: {rest}.", runs[newer].id.name);
    if !left.is_empty() {
        let names: Vec<&str> = left.iter().take(NAMED).copied().collect();
        let more = left.len().checked_sub(NAMED).filter(|more| *more > 0);
        message.push_str(&format!(
            " Left out: {} had not begun and {} not updated by that one: {}{}.",
            explain::devices(left.len()),
            if left.len() == 1 { "is" } else { "are" },
            names.join(", "),
            more.map_or(String::new(), |more| format!(" and {more} more"))
        ));
    }
    let kind = if left.is_empty() { EventKind::Normal } else { EventKind::Warning };
    let run = &mut runs[older];
    let latch = halt::latched(run, Reason::SupersededByRollout, &clip(&message, 1024), scene);
    run.status.aborted = Some(latch);
    run.stop = halt::stop_of(run);
    run.emit(kind, Reason::SupersededByRollout, message);
}

/// Devices that were still to be updated by the older rollout and that the newer one does not update: no
/// stage of it has them or may take them, or it has no update for their Windows.
fn left_out<'a>(older: &Run<'_>, newer: &Run<'_>, scene: &Scene<'a>) -> BTreeSet<&'a str> {
    let rows = scene.table.rows();
    let mut left = BTreeSet::new();
    for (position, stage) in older.stages.iter().enumerate() {
        match &stage.frozen {
            Some(frozen) => {
                let begun = |line: &Line| {
                    scene.own_job(line, older.uid()).is_some_and(|job| job.may_have_begun())
                };
                let waits = |line: &&Line| match line.state {
                    LineState::Granted => !begun(line),
                    _ => line.waits(&stage.rules),
                };
                let waiting = frozen.lines.iter().filter(waits);
                left.extend(waiting.filter_map(|line| scene.row(line)).map(|row| &*row.name));
            }
            None => {
                let members = freeze::members(older, position, scene).unwrap_or_default();
                left.extend(members.into_iter().map(|row| &*rows[row].name));
            }
        }
    }
    let covers = |row: usize| {
        let mut updates = newer.status.resolved_updates.iter();
        updates.any(|update| rows[row].product.as_deref() == Some(&*update.product))
    };
    for (position, stage) in newer.stages.iter().enumerate() {
        match &stage.frozen {
            Some(frozen) => {
                let takes =
                    |line: &&Line| line.state == LineState::Granted || line.waits(&stage.rules);
                for line in frozen.lines.iter().filter(takes) {
                    if let Some(row) = scene.row(line).filter(|_| covers(line.row as usize)) {
                        left.remove(&*row.name);
                    }
                }
            }
            None => {
                for row in freeze::members(newer, position, scene).unwrap_or_default() {
                    if covers(row) {
                        left.remove(&*rows[row].name);
                    }
                }
            }
        }
    }
    left
}
