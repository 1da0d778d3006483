//! `spec.supersedes`: a rollout takes the place of an older one of its namespace, once a stage of it has
//! opened: until then it may still turn out to be unable to do anything. The older one is halted, like by a
//! failure: nothing begins, what is at work comes to its end and is judged, and rollbacks go on. When it is
//! quiet, it ends, by the same latch as if a person had aborted it; devices that wait for their restart are
//! free then for the newer one, and restart under its limits.

use std::collections::BTreeSet;

use jiff::Timestamp;
use wardring_api::{
    AwaitingRebootAction, JobAction, LineState, PatchRollout, PatchRolloutStatus, StageState,
    reasons::Reason,
};

use crate::{
    EventKind, explain, freeze,
    halt::{self, Latched},
    line::{Doing, Line, doing},
    rollback,
    validate::{Complaint, Run, Scene},
};

/// Devices that a sentence names.
const NAMED: usize = 5;

/// Whether the rollout ended because another one took its place.
pub(crate) fn is_superseded(status: &PatchRolloutStatus) -> bool {
    let ended = status.aborted.as_ref();
    ended.is_some_and(|latch| latch.reason == Reason::SupersededByRollout.as_str())
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

/// Whether the rollout is one that takes the places of others: a stage of it has opened, so its devices are
/// known and enough, and whoever had to be asked said yes. What became of it since changes nothing.
pub(crate) fn is_in_command(rollout: &PatchRollout, status: &PatchRolloutStatus) -> bool {
    let is_open = |stage: &wardring_api::StageStatus| {
        !matches!(stage.state, StageState::Pending | StageState::Gated) && stage.counts.total > 0
    };
    rollout.metadata.deletion_timestamp.is_none()
        && rollout.spec.abort.is_none()
        && status.aborted.is_none()
        && status.stages.iter().any(is_open)
}

/// Finds out whose place is taken, and says where a name leads nowhere.
pub(crate) fn find(runs: &mut [Run<'_>]) {
    for newer in 0..runs.len() {
        let Some(name) = runs[newer].rollout.spec.supersedes.clone() else { continue };
        let older = runs
            .iter()
            .position(|run| run.id.name == name && is_older(run.rollout, runs[newer].rollout));
        let has_begun = runs[newer].before.stages.iter().any(|stage| stage.freeze_id.is_some());
        match older {
            Some(older) if is_in_command(runs[newer].rollout, &runs[newer].before) => {
                runs[older].successor = Some(newer);
            }
            Some(_) => {}
            // Later it may be deleted, or made anew for another purpose.
            None if has_begun => {}
            None => {
                runs[newer].complaint.get_or_insert_with(|| not_found(&name));
            }
        }
    }
}

/// Halts rollouts whose place another one took, and ends those that have become quiet.
pub(crate) fn latch(runs: &mut [Run<'_>], latched: &mut [Latched], scene: &Scene<'_>) {
    if scene.guard.is_some() {
        return;
    }
    for older in 0..runs.len() {
        let Some(newer) = runs[older].successor else { continue };
        let run = &runs[older];
        let is_over = run.is_deleting() || run.status.aborted.is_some() || halt::is_completed(run);
        if is_over || run.before.halted.is_none() && run.status.halted.is_some() {
            continue;
        }
        if run.status.halted.is_none() {
            halt(runs, older, newer, scene);
            latched[older].stopped = true;
        } else if is_quiet(run, scene) {
            end(runs, older, newer, scene);
            latched[older].stopped = true;
        }
    }
}

/// Whether nothing is at work, is being taken back or is about to be: what is left are devices that never
/// began, and those that a halt holds.
fn is_quiet(run: &Run<'_>, scene: &Scene<'_>) -> bool {
    let finishes =
        run.rollout.spec.on_halt.installed_awaiting_reboot == AwaitingRebootAction::Finish;
    let is_held = |line: &Line| {
        let job = scene.own_job(line, run.uid());
        !finishes
            && line.action == JobAction::Install
            && job.is_some_and(|job| doing(job) == Doing::AwaitingReboot)
    };
    let mut lines = run.stages.iter().flat_map(|stage| &stage.frozen).flat_map(|all| &all.lines);
    let is_still = lines.all(|line| line.state != LineState::Granted || is_held(line));
    is_still && !rollback::is_running(run) && !rollback::is_due(run, scene)
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

fn halt(runs: &mut [Run<'_>], older: usize, newer: usize, scene: &Scene<'_>) {
    let left = left_out(&runs[older], &runs[newer], scene);
    let message = format!(
        "Rollout {} takes its place: nothing begins here any more, and what is at work comes to its end.{}",
        runs[newer].id.name,
        told(&left)
    );
    let kind = if left.is_empty() { EventKind::Normal } else { EventKind::Warning };
    let run = &mut runs[older];
    let latch = halt::latched(run, Reason::SupersededByRollout, &message, scene);
    run.status.halted = Some(latch);
    run.stop = halt::stop_of(run);
    run.emit(kind, Reason::SupersededByRollout, message);
}

fn end(runs: &mut [Run<'_>], older: usize, newer: usize, scene: &Scene<'_>) {
    let left = left_out(&runs[older], &runs[newer], scene);
    let message = format!("Rollout {} took its place.{}", runs[newer].id.name, told(&left));
    let run = &mut runs[older];
    let latch = halt::latched(run, Reason::SupersededByRollout, &message, scene);
    run.status.aborted = Some(latch);
    run.stop = halt::stop_of(run);
    run.emit(EventKind::Normal, Reason::SupersededByRollout, message);
}

/// Devices that are left out, as a further sentence.
fn told(left: &BTreeSet<&str>) -> String {
    if left.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = left.iter().take(NAMED).copied().collect();
    let more = left.len().checked_sub(NAMED).filter(|more| *more > 0);
    format!(
        " Left out: {} had not begun and {} not updated by that one: {}{}.",
        explain::devices(left.len()),
        if left.len() == 1 { "is" } else { "are" },
        names.join(", "),
        more.map_or(String::new(), |more| format!(" and {more} more"))
    )
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
                // It may have come far by the time in which the older one has become quiet.
                let takes = |line: &&Line| {
                    let is_proven =
                        matches!(line.state, LineState::Succeeded | LineState::AlreadyInstalled);
                    is_proven || line.state == LineState::Granted || line.waits(&stage.rules)
                };
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
