//! Rolling back: a procedure with its own order, concurrency and brake.
//!
//! Failed devices are rolled back one by one as they fail; a broken failure budget widens the scope
//! to the stage or the whole run, later stages first. Silence never rolls back anybody else, and
//! when rollbacks themselves fail, no further one begins until a person has looked.

mod clock;
mod consent;

use std::collections::BTreeSet;

use wardring_api::{
    AwaitingRebootAction, Cap, FailureAction, GateState, JobAction, LineState, RollbackPolicy,
    RollbackScope, RollbackStatus, WindowAction, conditions::whole_seconds, reasons::Reason,
};

pub(crate) use clock::stand_aside;
use clock::{is_over_time, keep_time};
pub(crate) use consent::{Consent, is_taken};

use crate::{
    EventKind, JobOutcome, approvals, barring,
    eligibility::{Claims, rollback_hold, rollback_policy},
    explain, freeze,
    line::{Doing, Frozen, Line, doing},
    order,
    plan::Lanes,
    validate::{Run, Scene, Stop},
    wake::Wake,
    windows::{self, StageWindows},
};

/// What one pass may do about rollbacks of a run.
pub(crate) struct Round {
    /// Stage whose devices go now; later stages go first.
    turn: Option<usize>,
    /// Rollbacks that may begin now.
    pub slots: usize,
    /// Too many rollbacks failed.
    pub is_braked: bool,
    is_open: bool,
}

impl Round {
    pub fn new(run: &Run<'_>, claims: &Claims, scene: &Scene<'_>, wake: &mut Wake) -> Round {
        let is_open = is_running(run) && !is_over_time(run, scene, wake);
        let mut stages = (0..run.stages.len()).rev().filter(|_| is_open);
        let turn = stages.find(|&position| goes_on(run, position, claims, scene, wake));
        let running: usize = run.stages.iter().map(|stage| stage.tally.rolling_back).sum();
        let running = running + unrecorded(run, scene);
        let ordered = order::in_force(run, scene).and_then(|order| order.spec.max_concurrency);
        let cap = ordered.or(run.rollout.spec.on_failure.max_concurrency).unwrap_or(Cap::Count(1));
        let size = turn.map_or(0, |position| {
            run.stages[position].frozen.as_ref().map_or(0, |frozen| frozen.lines.len())
        });
        Round {
            turn,
            slots: cap.of(size).max(1).saturating_sub(running),
            is_braked: is_braked(run),
            is_open,
        }
    }

    /// Whether the line's device is to be rolled back, now or in its turn.
    pub fn wants(
        &self,
        run: &Run<'_>,
        (position, frozen, index): (usize, &Frozen<'_>, usize),
        scene: &Scene<'_>,
    ) -> bool {
        let line = &frozen.lines[index];
        self.is_open && !line.moved && is_wanted(run, (position, frozen, index), line, scene)
    }

    /// Whether it is the stage's turn.
    pub fn is_turn_of(&self, position: usize) -> bool {
        self.turn == Some(position)
    }

    /// Whether a later stage is at it.
    pub fn is_before_turn(&self, position: usize) -> bool {
        self.turn.is_some_and(|turn| position < turn)
    }
}

/// Rollbacks of stages whose record is lost: they may be at work.
fn unrecorded(run: &Run<'_>, scene: &Scene<'_>) -> usize {
    if run.complaint.is_none() {
        return 0;
    }
    let slices = || run.stages.iter().flat_map(|stage| &stage.frozen).flat_map(|all| &all.slices);
    let ours = scene.jobs.iter().filter(|job| job.rollout_uid == run.uid());
    let rollbacks = ours.filter(|job| {
        let is_done = matches!(job.outcome, JobOutcome::Verified(_)) || scene.now >= job.finish_by;
        job.action == JobAction::Rollback && !is_done
    });
    rollbacks.filter(|job| !slices().any(|slice| slice.name == job.slice)).count()
}

/// Whether a device of the stage is being rolled back, or can begin now. One that is switched off, held
/// or busy keeps no earlier stage waiting.
fn goes_on(
    run: &Run<'_>,
    position: usize,
    claims: &Claims,
    scene: &Scene<'_>,
    wake: &mut Wake,
) -> bool {
    let Some(frozen) = &run.stages[position].frozen else { return false };
    let has_limits = freeze::missing_group(run, position, scene).is_none();
    let mut windows = StageWindows::new(scene, run.stages[position].hours);
    frozen.lines.iter().enumerate().any(|(index, line)| {
        is_rolling(line)
            || (has_limits
                && is_wanted(run, (position, frozen, index), line, scene)
                // What moved in this pass, and whose own old job is about to go, begins in a moment.
                && (line.moved
                    || begin_hold(run, line, claims, scene, &mut windows, wake).is_none_or(
                        |reason| matches!(reason, Reason::WriteInFlight | Reason::InProgress),
                    )))
    })
}

/// Why a device that is to be rolled back cannot begin now, looking at the device, its groups and its
/// windows.
pub(crate) fn begin_hold(
    run: &Run<'_>,
    line: &Line,
    claims: &Claims,
    scene: &Scene<'_>,
    windows: &mut StageWindows<'_>,
    wake: &mut Wake,
) -> Option<Reason> {
    let Some(row) = scene.row(line) else { return Some(Reason::Replaced) };
    if run.brakes.hold(line, JobAction::Rollback, scene) {
        return Some(Reason::EmergencyStop);
    }
    if let Some(reason) = rollback_hold(row, wake) {
        return Some(reason);
    }
    if order::assent::is_awaited(run, scene) {
        return Some(Reason::RollbackAwaitsApproval);
    }
    if let Some(reason) = claim_hold(line, run, claims, scene) {
        return Some(reason);
    }
    if windows::rollbacks_wait(run)
        && let Err(closed) = windows.say(WindowAction::Uninstall, line.row as usize)
    {
        if let Some(until) = closed.until {
            wake.at(until);
        }
        return Some(closed.reason);
    }
    // What is granted is counted as unavailable already.
    let is_counted = line.state == LineState::Granted;
    if is_counted { None } else { claims.crowd(line.row as usize, scene.table) }
}

fn is_rolling(line: &Line) -> bool {
    line.state == LineState::Granted && line.action == JobAction::Rollback
}

/// More rollbacks failed than the stage may have failures.
fn is_braked(run: &Run<'_>) -> bool {
    let failed: usize = run.stages.iter().map(|stage| stage.tally.rollback_bad).sum();
    let stage = run.status.rollback.as_ref().map(|rollback| &rollback.stage);
    let status = run.status.stages.iter().find(|status| Some(&status.name) == stage);
    let borne = status.and_then(|status| status.caps).map_or(0, |caps| caps.max_failures as usize);
    // Whoever orders a rollback knows of those that failed before.
    let order = run.status.rollback.as_ref().and_then(|rollback| rollback.ordered());
    let known = order.map_or(0, |order| order.failed_before as usize);
    failed.saturating_sub(known) > borne
}

/// Whether the device carries something that is to be taken back: a person ordered it, or it follows from
/// a failure and its groups let that be. While an order is carried out, nothing else is taken back.
fn is_target(run: &Run<'_>, position: usize, index: usize, line: &Line, scene: &Scene<'_>) -> bool {
    let frozen = run.stages[position].frozen.as_ref();
    frozen.is_some_and(|frozen| is_wanted(run, (position, frozen, index), line, scene))
}

/// The same while the stage's lines are in somebody's hands.
fn is_wanted(
    run: &Run<'_>,
    (position, frozen, index): (usize, &Frozen<'_>, usize),
    line: &Line,
    scene: &Scene<'_>,
) -> bool {
    if scene.row(line).is_none() {
        return false;
    }
    let policy = || rollback_policy(line.row as usize, scene.table);
    if order::is_carried_out(run) {
        return order::reaches(run, line, scene)
            && is_ordered_target(run, line, scene)
            && policy() != RollbackPolicy::Forbid
            && order::is_same_machine(frozen, index, line, scene);
    }
    is_failure_target(run, position, line, scene) && run.consent.lets(policy(), (position, index))
}

/// Lines of a slice whose devices are to be taken back, by position in it.
pub(crate) fn wanted(run: &Run<'_>, slice: &str, scene: &Scene<'_>) -> BTreeSet<usize> {
    let mut wanted = BTreeSet::new();
    for (position, stage) in run.stages.iter().enumerate() {
        let Some(frozen) = &stage.frozen else { continue };
        let Some(found) = frozen.slices.iter().position(|known| known.name == slice) else {
            continue;
        };
        let start = frozen.starts[found];
        let lines = frozen.lines[start..].iter().take(frozen.slices[found].lines.len());
        let targets = lines
            .enumerate()
            .filter(|(index, line)| is_target(run, position, start + index, line, scene));
        wanted.extend(targets.map(|(index, _)| index));
    }
    wanted
}

/// Why a person is asked before what follows from a failure, if one is: a group of the device says so, or
/// the rollback would go beyond its share.
pub(crate) fn asks(
    run: &Run<'_>,
    position: usize,
    index: usize,
    line: &Line,
    scene: &Scene<'_>,
) -> Option<Reason> {
    let is_over = matches!(run.stop, Some(Stop::Deleting | Stop::Aborted));
    if is_over
        || line.state == LineState::Granted
        || scene.row(line).is_none()
        || order::is_carried_out(run)
        || !is_failure_target(run, position, line, scene)
    {
        return None;
    }
    let policy = rollback_policy(line.row as usize, scene.table);
    if policy == RollbackPolicy::Forbid || run.consent.lets(policy, (position, index)) {
        return None;
    }
    if !run.consent.is_asked_for(run) {
        return (policy == RollbackPolicy::Ask).then_some(Reason::RollbackAsks);
    }
    let known = run.status.rollback_approval.as_ref();
    Some(if known.is_some_and(|known| known.state == GateState::Failed) {
        Reason::RollbackRejected
    } else {
        Reason::RollbackAwaitsApproval
    })
}

/// What a person ordered and is still there.
fn is_ordered_target(run: &Run<'_>, line: &Line, scene: &Scene<'_>) -> bool {
    match line.state {
        LineState::Succeeded => true,
        LineState::Failed | LineState::RevertedByWindows => {
            line.tries > 0 && !matches!(line.reason, Some(Reason::Replaced | Reason::Released))
        }
        LineState::Granted => is_held_installed(run, line, scene),
        _ => false,
    }
}

/// What failed, or is in the scope of a failure.
fn is_failure_target(run: &Run<'_>, position: usize, line: &Line, scene: &Scene<'_>) -> bool {
    let on_failure = &run.rollout.spec.on_failure;
    let stage = &run.stages[position];
    match line.state {
        LineState::Failed | LineState::RevertedByWindows => {
            (on_failure.action == FailureAction::Rollback || is_in_scope(run, position))
                && line.tries > 0
                && !line.may_try_again(&stage.rules)
                // One that said that its updates cannot go would say it again.
                && !matches!(
                    line.reason,
                    Some(Reason::Replaced | Reason::Released | Reason::NotReversible)
                )
        }
        LineState::Succeeded => is_in_scope(run, position),
        LineState::Granted => {
            let on_halt = run.rollout.spec.on_halt.installed_awaiting_reboot;
            let halted = run.status.halted.as_ref();
            on_halt == AwaitingRebootAction::Uninstall
                && halted.is_none_or(|halt| !halt.uninstalls_nothing)
                && is_held_installed(run, line, scene)
        }
        _ => false,
    }
}

/// Whether failures ask for a rollback that has not begun yet.
pub(crate) fn is_due(run: &Run<'_>, scene: &Scene<'_>) -> bool {
    run.status.rollback.is_none()
        && run.stages.iter().enumerate().any(|(position, stage)| {
            let lines = stage.frozen.iter().flat_map(|frozen| &frozen.lines);
            lines.enumerate().any(|(index, line)| is_target(run, position, index, line, scene))
        })
}

/// Whether the whole stage is being rolled back.
fn is_in_scope(run: &Run<'_>, position: usize) -> bool {
    run.status.rollback.as_ref().is_some_and(|rollback| match rollback.scope {
        RollbackScope::Device => false,
        RollbackScope::Stage => rollback.stage == run.stages[position].spec.name,
        RollbackScope::AllStages => true,
    })
}

/// Installed at the halt, restart outstanding.
fn is_held_installed(run: &Run<'_>, line: &Line, scene: &Scene<'_>) -> bool {
    run.stop == Some(Stop::Halted)
        && line.action == JobAction::Install
        && scene
            .own_job(line, run.uid())
            .is_some_and(|job| !job.repaired && doing(job) == Doing::AwaitingReboot)
}

/// Why another grant keeps the device from being rolled back.
fn claim_hold(line: &Line, run: &Run<'_>, claims: &Claims, scene: &Scene<'_>) -> Option<Reason> {
    if line.state == LineState::Granted {
        // Its own installation is what is replaced.
        return None;
    }
    claims.hold(line, run.uid(), scene)
}

/// Begins and ends the procedure. Each is one status write that later grants rely on.
pub(crate) fn steer(run: &mut Run<'_>, scene: &Scene<'_>, wake: &mut Wake, lanes: &mut Lanes) {
    if run.gating || scene.guard.is_some() {
        return;
    }
    keep_time(run, scene, wake);
    let is_over = matches!(run.stop, Some(Stop::Deleting | Stop::Aborted | Stop::Suspended));
    let rolling = run.stages.iter().any(|stage| stage.tally.rolling_back > 0);
    // What was taken back before a person ended the rollout stays barred, too.
    let is_ended = matches!(run.stop, Some(Stop::Deleting | Stop::Aborted)) && run.has_finalizer();
    if is_ended && is_running(run) && !rolling && run.status.halted.is_some() && taken_back(run) > 0
    {
        return complete(run, scene, lanes);
    }
    // A person's order comes to its end whatever is wrong with the run.
    if is_over || (run.complaint.is_some() && !order::is_carried_out(run)) {
        return;
    }
    let first = first_target(run, scene);
    if is_running(run) {
        let is_done = first.is_none() && !may_get_targets(run, scene);
        if !rolling && (is_done || is_braked(run) || is_over_time(run, scene, wake)) {
            complete(run, scene, lanes);
        }
    } else if let Some(position) = first
        // After a person's order it is a person who goes on, with a retry.
        && run.status.rollback.as_ref().is_none_or(|rollback| rollback.order.is_none())
        && !is_braked(run)
        && (run.status.rollback.is_none()
            || approvals::is_newer_than_rollback(run)
            || !is_over_time(run, scene, wake))
    {
        let stage = run.stages[position].spec.name.clone();
        let started_at = whole_seconds(scene.now);
        let rollback = run.status.rollback.take().unwrap_or(RollbackStatus {
            scope: RollbackScope::Device,
            stage,
            started_at,
            completed_at: None,
            progress_since: None,
            stands_since: None,
            order: None,
        });
        run.status.rollback = Some(RollbackStatus {
            started_at,
            completed_at: None,
            progress_since: None,
            stands_since: None,
            ..rollback
        });
        run.gating = true;
        let frozen = run.stages[position].frozen.as_ref();
        let failed = &run.stages[position].tally.failed;
        let note = match frozen.filter(|_| !failed.is_empty()) {
            Some(frozen) => {
                let failed = explain::sample(frozen, failed);
                format!("Devices are being rolled back. What failed: {failed}.")
            }
            None => "Devices are being rolled back.".to_owned(),
        };
        run.emit(EventKind::Warning, Reason::RollingBack, note);
    }
}

fn first_target(run: &Run<'_>, scene: &Scene<'_>) -> Option<usize> {
    (0..run.stages.len()).find(|&position| {
        let lines = run.stages[position].frozen.iter().flat_map(|frozen| &frozen.lines);
        let mut lines = lines.enumerate().filter(|(_, line)| !line.moved || !is_rolling(line));
        lines.any(|(index, line)| is_target(run, position, index, line, scene))
    })
}

/// Whether a device that is still at work belongs to the scope once it is done.
fn may_get_targets(run: &Run<'_>, scene: &Scene<'_>) -> bool {
    if run.status.halted.is_none() {
        return false;
    }
    let is_ordered = order::is_carried_out(run);
    let lines = run.stages.iter().flat_map(|stage| &stage.frozen).flat_map(|all| &all.lines);
    let mut granted = lines.filter(|line| {
        let is_at_work = line.state == LineState::Granted
            || (line.ordered && is_ordered && scene.leftover(line));
        is_at_work && (line.ordered || !is_ordered)
    });
    granted.any(|line| {
        let job = scene.own_job(line, run.uid());
        job.is_none_or(|job| doing(job) != Doing::AwaitingReboot)
    })
}

/// Devices that are rolled back.
fn taken_back(run: &Run<'_>) -> u32 {
    run.stages.iter().map(|stage| stage.tally.counts.rolled_back).sum()
}

fn complete(run: &mut Run<'_>, scene: &Scene<'_>, lanes: &mut Lanes) {
    let (braked, withdrawn) = (is_braked(run), order::is_withdrawn(run, scene));
    let (waits, why) = asking(run, scene);
    let taken_back = taken_back(run);
    let is_ordered = order::is_carried_out(run);
    if run.status.halted.is_some() && taken_back > 0 && !is_ordered {
        lanes.holds.push(barring::hold(run, scene));
    }
    if let Some(rollback) = &mut run.status.rollback {
        rollback.completed_at = Some(whole_seconds(scene.now));
        rollback.stands_since = None;
    }
    run.gating = true;
    let (kind, reason) = if braked {
        (EventKind::Warning, Reason::RollbackFailed)
    } else if withdrawn {
        (EventKind::Warning, Reason::RollbackWithdrawn)
    } else if waits > 0 {
        (EventKind::Warning, why)
    } else {
        (EventKind::Normal, Reason::RollbackSucceeded)
    };
    let evidence = barring::evidence(run);
    let told = match evidence.first() {
        Some(first) if evidence.len() > 1 => format!(" ({first}; and more)"),
        Some(first) => format!(" ({first})"),
        None => String::new(),
    };
    let count = explain::devices(taken_back as usize);
    let asked = match (waits, why) {
        (0, _) => String::new(),
        (1, Reason::RollbackAsks) => {
            " 1 device waits for a person's PatchRollback: its group asks.".to_owned()
        }
        (waits, Reason::RollbackAsks) => {
            format!(" {waits} devices wait for a person's PatchRollback: their group asks.")
        }
        (waits, Reason::RollbackRejected) => {
            format!(" {} left as they are: a person rejected it.", explain::devices(waits))
        }
        (1, _) => " 1 device waits for a person's approval.".to_owned(),
        (waits, _) => format!(" {waits} devices wait for a person's approval."),
    };
    run.emit(kind, reason, format!("The rollback ended; rolled back: {count}{told}.{asked}"));
}

/// Devices for which a person is asked before they are rolled back, and what of the person.
fn asking(run: &Run<'_>, scene: &Scene<'_>) -> (usize, Reason) {
    let stages = run.stages.iter().enumerate();
    let lines = stages.flat_map(|(position, stage)| {
        let lines = stage.frozen.iter().flat_map(|all| &all.lines).enumerate();
        lines.map(move |(index, line)| (position, index, line))
    });
    let mut why =
        lines.filter_map(|(position, index, line)| asks(run, position, index, line, scene));
    let first = why.next();
    (usize::from(first.is_some()) + why.count(), first.unwrap_or(Reason::RollbackAsks))
}

/// Whether the procedure has something to do in the stage. What it does in another one does not keep the
/// stage from being proven: a latecomer of an earlier stage may be away for a week.
pub(crate) fn concerns(run: &Run<'_>, position: usize, scene: &Scene<'_>) -> bool {
    let Some(frozen) = run.stages[position].frozen.as_ref().filter(|_| is_running(run)) else {
        return false;
    };
    let mut lines = frozen.lines.iter().enumerate();
    lines.any(|(index, line)| is_rolling(line) || is_target(run, position, index, line, scene))
}

/// Whether a stage still has devices that the procedure wants.
pub(crate) fn is_running(run: &Run<'_>) -> bool {
    run.status.rollback.as_ref().is_some_and(|rollback| rollback.completed_at.is_none())
}
