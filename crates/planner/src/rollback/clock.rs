//! How long a rollback may take: time in which people or the calendar keep it back is not the devices'.

use jiff::{SignedDuration, Timestamp};
use wardring_api::{LineState, RollbackStatus, conditions::whole_seconds};

use super::{is_running, is_target};
use crate::{
    approvals,
    caps::later,
    emergency,
    line::Line,
    order,
    validate::{Run, Scene},
    wake::Wake,
    windows,
};

/// After as long as a stage may take, devices that could not be reached or were held keep what they
/// have: a procedure that never ends would block a person's next decision.
pub(super) fn is_over_time(run: &Run<'_>, scene: &Scene<'_>, wake: &mut Wake) -> bool {
    let Some(rollback) = &run.status.rollback else { return false };
    let Some(stage) = run.stages.iter().find(|stage| stage.spec.name == rollback.stage) else {
        return false;
    };
    if stands(run, scene, wake) {
        return false;
    }
    let mut since = rollback.progress_since.unwrap_or(rollback.started_at);
    if let Some(said) = approvals::rollback_approved_at(run) {
        // Whoever approves gives the whole time to what is approved, and to what breaks under it later.
        since = since.max(said).max(last_failure(run, scene).unwrap_or(said));
    }
    let deadline = later(since, stage.rules.progress_deadline);
    if rollback.completed_at.is_none() {
        wake.at(deadline);
    }
    scene.now >= deadline
}

/// When the last device failed that is to be taken back.
fn last_failure(run: &Run<'_>, scene: &Scene<'_>) -> Option<Timestamp> {
    let stages = run.stages.iter().enumerate();
    let lines = stages.flat_map(|(position, stage)| {
        let lines = stage.frozen.iter().flat_map(|all| &all.lines).enumerate();
        lines.map(move |(index, line)| (position, index, line))
    });
    let failed =
        |line: &Line| matches!(line.state, LineState::Failed | LineState::RevertedByWindows);
    lines
        .filter(|(position, index, line)| {
            failed(line) && is_target(run, *position, *index, line, scene)
        })
        .filter_map(|(.., line)| line.at)
        .max()
}

/// Whether people or the calendar keep the procedure from going on. That time is not the devices'.
fn stands(run: &Run<'_>, scene: &Scene<'_>, wake: &mut Wake) -> bool {
    let waits_for_people = order::assent::is_awaited(run, scene);
    if run.status.suspended.is_some() || waits_for_people || emergency::stops_rollback(run) {
        return true;
    }
    let waits = windows::rollback_waits(run, scene, |position, index, line| {
        is_target(run, position, index, line, scene)
    });
    if let Some(until) = waits {
        wake.at(until);
    }
    waits.is_some()
}

/// Keeps the procedure's time: its deadline counts from so much later as it stood still.
pub(super) fn keep_time(run: &mut Run<'_>, scene: &Scene<'_>, wake: &mut Wake) {
    let stands = is_running(run) && stands(run, scene, wake);
    let now = whole_seconds(scene.now);
    let Some(rollback) = run.status.rollback.as_mut().filter(|all| all.completed_at.is_none())
    else {
        return;
    };
    match (stands, rollback.stands_since) {
        (true, None) => rollback.stands_since = Some(now),
        (false, Some(since)) => {
            rollback.stands_since = None;
            let progress = rollback.progress_since.unwrap_or(rollback.started_at);
            let still = now.duration_since(since).max(SignedDuration::ZERO);
            rollback.progress_since = Some(later(progress, still));
        }
        _ => {}
    }
}

/// Time in which the whole namespace was kept from moving, from `since` on, is not the devices' either.
pub(crate) fn stand_aside(rollback: &mut RollbackStatus, since: Timestamp, now: Timestamp) {
    if rollback.completed_at.is_none() && rollback.stands_since.is_none() {
        let still = now.duration_since(since.max(rollback.started_at)).max(SignedDuration::ZERO);
        let progress = rollback.progress_since.unwrap_or(rollback.started_at);
        rollback.progress_since = Some(whole_seconds(later(progress, still)));
    }
}
