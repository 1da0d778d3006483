//! A stage's tail (`offline.action: CatchUp`): latecomers for which a proven stage stays open while the
//! rollout goes on.
//!
//! Who proves the stage does not change: `minProven`, `minCoverage`, the soak and the gates hold as in
//! every stage. What changes is whom the stage waits for. Its late devices are under the stage's own caps,
//! budgets and gates as before, and a failure among them halts the rollout.

use jiff::{SignedDuration, Timestamp};
use wardring_api::{
    Cap, JobAction, OfflineAction, Stage, StageState, StageStatus, TailStatus,
    conditions::whole_seconds, reasons::Reason,
};

use crate::{
    EventKind,
    caps::{Rules, later},
    explain, halt, rollback,
    validate::{Run, Scene},
    wake::Wake,
};

/// Why the stage's tail could never be what it is meant to be.
pub(crate) fn complaint(stage: &Stage) -> Option<String> {
    if stage.offline.action != OfflineAction::CatchUp {
        return None;
    }
    let (name, rules) = (&stage.name, Rules::new(stage));
    let is_share = match stage.min_coverage {
        None | Some(Cap::Count(0)) => false,
        Some(Cap::Count(_)) => true,
        Some(Cap::Percent(percent)) => (1..100).contains(&percent),
    };
    if !is_share || stage.min_proven == Some(0) {
        return Some(format!(
            "Stage {name}: `offline.action: CatchUp` needs a `minCoverage` from 1% to 99%, or a number, \
             and a `minProven` of at least 1."
        ));
    }
    if rules.offline_after >= rules.progress_deadline {
        return Some(format!(
            "Stage {name}: `offline.after` must be shorter than `progressDeadline`, or the stage halts \
             before it goes on without latecomers."
        ));
    }
    (rules.close_after <= rules.soak).then(|| {
        format!(
            "Stage {name}: `offline.closeAfter` must be longer than `soak`, or the stage closes for \
             latecomers before later stages go on."
        )
    })
}

/// Whether the stage is still open for latecomers.
pub(crate) fn is_open(status: &StageStatus) -> bool {
    let goes_on = matches!(status.state, StageState::Open | StageState::Soaking | StageState::Tail);
    goes_on && status.tail.is_some_and(|tail| tail.closed_at.is_none())
}

/// Whether its time for latecomers is over.
pub(crate) fn is_closed(status: &StageStatus) -> bool {
    status.tail.is_some_and(|tail| tail.closed_at.is_some())
}

/// Whether devices of the stage may begin, as far as its state goes.
pub(crate) fn takes_devices(status: &StageStatus) -> bool {
    match status.state {
        StageState::Open => !is_closed(status),
        StageState::Soaking | StageState::Tail => is_open(status),
        StageState::Pending | StageState::Gated | StageState::Completed => false,
    }
}

/// Whether it is the stage's turn: every stage before it is proven. With a retry an earlier one may have
/// become unproven again.
pub(crate) fn is_its_turn(run: &Run<'_>, position: usize) -> bool {
    halt::current_stage(run).is_none_or(|current| position <= current)
        && run.status.stages[position].state != StageState::Completed
}

/// Whether the stage still waits for devices before it can be proven.
pub(crate) fn waits_for_devices(run: &Run<'_>, position: usize, wake: &mut Wake) -> bool {
    halt::is_waiting_for_devices(run, position)
        && run.status.stages[position].tail.is_none()
        && !may_begin(run, position, wake)
}

/// Whether the stage has waited long enough for everybody, and those who are done are enough.
fn may_begin(run: &Run<'_>, position: usize, wake: &mut Wake) -> bool {
    let (rules, status) = (&run.stages[position].rules, &run.status.stages[position]);
    if rules.offline != OfflineAction::CatchUp {
        return false;
    }
    // By the clock, windows or not: whoever writes a day means a day.
    let since = status.started_at;
    let is_over = match status.state {
        StageState::Open => {
            since.is_some_and(|since| wake.is_due(later(since, rules.offline_after)))
        }
        // Nobody was waited for when the watch began.
        StageState::Soaking => true,
        _ => false,
    };
    is_over && halt::shortfall(run, position).is_none()
}

/// The stage is proven: whoever is not done is late from now on.
pub(crate) fn begin(run: &mut Run<'_>, position: usize, scene: &Scene<'_>) {
    if !halt::is_waiting_for_devices(run, position) || run.status.stages[position].tail.is_some() {
        return;
    }
    let since = whole_seconds(scene.now);
    let closes_at = whole_seconds(later(since, run.stages[position].rules.close_after));
    let tail = TailStatus { since, closes_at, promoted_at: None, closed_at: None };
    run.status.stages[position].tail = Some(tail);
    run.gating = true;
    let (name, late) = (&run.stages[position].spec.name, left(run, position));
    let note = format!(
        "Stage {name} no longer waits for {late}; it stays open for them until {closes_at}."
    );
    run.emit(EventKind::Normal, Reason::CatchingUp, note);
}

/// Lets later stages go on while late devices are left. Returns whether there are any.
pub(crate) fn promote(run: &mut Run<'_>, position: usize, scene: &Scene<'_>) -> bool {
    if !halt::is_waiting_for_devices(run, position) {
        return false;
    }
    let status = &mut run.status.stages[position];
    let Some(tail) = &mut status.tail else { return false };
    tail.promoted_at = Some(whole_seconds(scene.now));
    status.state = StageState::Tail;
    run.gating = true;
    let (name, late) = (&run.stages[position].spec.name, left(run, position));
    let proven = explain::devices(run.stages[position].tally.counts.succeeded as usize);
    let is_last = position + 1 == run.stages.len();
    let on = if is_last { "" } else { " Later stages go on." };
    let follow =
        if is_closed(&run.status.stages[position]) { "are still at work" } else { "may follow" };
    let note =
        format!("Stage {name} is proven: {proven} succeeded.{on} Late: {late}; these {follow}.");
    run.emit(EventKind::Normal, Reason::CatchingUp, note);
    true
}

/// Closes tails whose time has come, and completes stages of which nobody is left. What of a tail has
/// begun comes to its end first.
pub(crate) fn follow(run: &mut Run<'_>, scene: &Scene<'_>, wake: &mut Wake) {
    for position in 0..run.stages.len() {
        let status = &run.status.stages[position];
        let Some(tail) = status.tail else { continue };
        // Time in which a stop kept devices back is given to them when it is lifted.
        let may_close = is_open(status) && !is_stopped(run, position, scene);
        if may_close && wake.is_due(tail.closes_at) {
            close(run, position, scene);
        }
        let is_over = !halt::is_waiting_for_devices(run, position)
            && !rollback::concerns(run, position, scene);
        if run.status.stages[position].state == StageState::Tail && is_over {
            complete(run, position, scene);
        }
    }
}

/// Whether an EmergencyStop keeps one of the stage's late devices back.
fn is_stopped(run: &Run<'_>, position: usize, scene: &Scene<'_>) -> bool {
    let stage = &run.stages[position];
    let mut lines = stage.frozen.iter().flat_map(|frozen| &frozen.lines);
    run.is_kept_back()
        && lines.any(|line| {
            line.waits(&stage.rules) && run.brakes.hold(line, JobAction::Install, scene)
        })
}

fn close(run: &mut Run<'_>, position: usize, scene: &Scene<'_>) {
    if let Some(tail) = &mut run.status.stages[position].tail {
        tail.closed_at = Some(whole_seconds(scene.now));
    }
    run.gating = true;
    let (name, counts) = (&run.stages[position].spec.name, run.stages[position].tally.counts);
    let left_out = explain::devices(counts.pending as usize);
    let note = match counts.in_progress {
        0 => format!("Stage {name} is no longer open for latecomers: {left_out} left out."),
        working => format!(
            "Stage {name} is no longer open for latecomers: {left_out} left out, {working} still at work."
        ),
    };
    run.emit(EventKind::Normal, Reason::TailClosed, note);
}

fn complete(run: &mut Run<'_>, position: usize, scene: &Scene<'_>) {
    let now = whole_seconds(scene.now);
    let status = &mut run.status.stages[position];
    status.state = StageState::Completed;
    status.completed_at = Some(now);
    status.gates.iter_mut().for_each(|gate| gate.next = None);
    if let Some(tail) = &mut status.tail {
        tail.closed_at.get_or_insert(now);
    }
    run.gating = true;
    let (name, counts) = (&run.stages[position].spec.name, run.stages[position].tally.counts);
    let note = format!(
        "Stage {name} is done with its latecomers: {} succeeded, {} left out.",
        explain::devices(counts.succeeded as usize),
        counts.deferred
    );
    run.emit(EventKind::Normal, Reason::Completed, note);
}

fn left(run: &Run<'_>, position: usize) -> String {
    let counts = &run.stages[position].tally.counts;
    explain::devices((counts.pending + counts.in_progress) as usize)
}

/// Time from `since` to `until` in which the rollout was stopped is given to its latecomers. From a halt
/// on, the retry that answers it does that.
pub(crate) fn stand_aside(run: &mut Run<'_>, since: Timestamp, until: Timestamp) {
    let halted = run.status.halted.as_ref().map(|latch| latch.at);
    let until = halted.map_or(until, |halted| halted.min(until));
    for status in run.status.stages.iter_mut().filter(|status| is_open(status)) {
        let Some(tail) = &mut status.tail else { continue };
        let still = until.duration_since(since.max(tail.since)).max(SignedDuration::ZERO);
        tail.closes_at = whole_seconds(later(tail.closes_at, still));
    }
}

/// What the stage still waits for, in one sentence, while it is open for latecomers.
pub fn tail_sentence(stage: &StageStatus) -> Option<String> {
    let tail = stage.tail.filter(|_| stage.state != StageState::Completed)?;
    let counts = &stage.counts;
    let left = counts.pending + counts.in_progress;
    let (late, are) = (explain::devices(left as usize), if left == 1 { "is" } else { "are" });
    let name = &stage.name;
    Some(match tail.closed_at {
        Some(at) => {
            format!("Stage {name} closed for latecomers at {at}; {late} {are} not done yet.")
        }
        None => format!(
            "Stage {name}: {late} {are} late ({} at work); it stays open for them until {}.",
            counts.in_progress, tail.closes_at
        ),
    })
}
