//! The four stops. Latches: what a person or the system stopped stays stopped until a person says
//! otherwise, whatever happens to the field that said so. Judging: a budget that is broken halts.

use jiff::{SignedDuration, Timestamp};
use wardring_api::{
    FailureAction, JobAction, Latch, LineState, RollbackScope, RollbackStatus, StageState,
    StageStatus,
    conditions::{self, clip, whole_seconds},
    names,
    reasons::Reason,
};

use crate::{
    EventKind,
    caps::{Rules, later},
    correlated, emergency, explain, freeze, gates,
    line::{Line, Tally},
    order, rollback, tail,
    validate::{Complaint, Run, Scene, Stop},
    wake::Wake,
    windows::{self, Hours},
};

/// What the latches of this pass mean for the order of writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Latched {
    /// The rollout stopped in this pass: its status is written before anything else.
    pub stopped: bool,
    /// A retry is being answered: lines first, then the status.
    pub retried: bool,
}

/// Takes over what people ordered.
pub(crate) fn latch<'a>(run: &mut Run<'a>, scene: &Scene<'a>) -> Latched {
    let spec = &run.rollout.spec;
    let mut latched = Latched::default();
    if let Some(abort) = &spec.abort
        && run.status.aborted.is_none()
    {
        let reason = explain::one_line(&abort.reason);
        let message = format!("A person ended the rollout: {reason}");
        run.status.aborted = Some(set(run, Reason::AbortedByPerson, message.clone(), scene));
        run.emit(EventKind::Warning, Reason::AbortedByPerson, message);
        latched.stopped = true;
    }
    match (spec.suspend, &run.status.suspended) {
        (Some(true), None) => {
            let message =
                "A person suspended the rollout; `spec.suspend: false` resumes it.".to_owned();
            run.status.suspended =
                Some(set(run, Reason::SuspendedByPerson, message.clone(), scene));
            run.emit(EventKind::Normal, Reason::SuspendedByPerson, message);
            latched.stopped = true;
        }
        (Some(false), Some(latch)) => {
            // What a stop in force keeps back stands aside when that one goes.
            let until = stopped_since(run).map_or(scene.now, |stopped| stopped.max(latch.at));
            let since = latch.at;
            stand_aside(run, since, until);
            tail::stand_aside(run, since, until);
            run.status.suspended = None;
            run.gating = true;
            run.emit(EventKind::Normal, Reason::InProgress, "A person resumed the rollout.".into());
        }
        // Absence changes nothing: an applier that strips the field must not resume a rollout.
        _ => {}
    }
    if scene.guard.is_none()
        && run.status.suspended.is_none()
        && let Some(since) = guarded_since(run)
    {
        stand_aside(run, since, scene.now);
        tail::stand_aside(run, since, scene.now);
        if let Some(rollback) = &mut run.status.rollback {
            rollback::stand_aside(rollback, since, scene.now);
        }
        run.gating = true;
    }
    if !latched.stopped {
        latched.retried = retry(run, scene);
    }
    run.stop = stop_of(run);
    run.kept_back_by = emergency::concerned(run, scene);
    if !run.is_kept_back()
        && let Some(since) = stopped_since(run)
    {
        let suspended = run.status.suspended.as_ref().map(|latch| latch.at.max(since));
        let until = suspended.unwrap_or(scene.now);
        stand_aside(run, since, until);
        tail::stand_aside(run, since, until);
        run.gating = true;
    }
    emergency::announce(run);
    let is_watched = !run.is_kept_back() && scene.guard.is_none();
    run.awaits = is_watched.then(|| windows::standing(run, scene)).flatten();
    if run.awaits.is_none()
        && let Some(since) = awaited_since(run)
    {
        stand_aside(run, since, scene.now);
        run.gating = true;
    }
    latched
}

/// Since when an EmergencyStop keeps something of the run back, as the last written status says it.
fn stopped_since(run: &Run<'_>) -> Option<Timestamp> {
    let mut all = run.before.conditions.iter();
    let stopped = all.find(|condition| condition.type_ == conditions::EMERGENCY_STOPPED)?;
    (stopped.status == "True").then_some(stopped.last_transition_time.0)
}

/// Since when all that the current stage still has to do waits for a window, as the last written status
/// says it.
fn awaited_since(run: &Run<'_>) -> Option<Timestamp> {
    let mut all = run.before.conditions.iter();
    let waits = all.find(|condition| condition.type_ == conditions::AWAITING_WINDOW)?;
    (waits.status == "True").then_some(waits.last_transition_time.0)
}

/// Time from `since` to `until` in which the rollout stood still is not the devices' lack of progress:
/// the deadline of the stage that was open counts from so much later.
pub(crate) fn stand_aside(run: &mut Run<'_>, since: Timestamp, until: Timestamp) {
    let Some(position) = current_stage(run) else { return };
    let opened = run.status.stages[position].started_at;
    let Some(started) = opened.or_else(|| could_open_since(run, position)) else { return };
    let status = &mut run.status.stages[position];
    let still = until.duration_since(since.max(started)).max(SignedDuration::ZERO);
    let progress = status.progress_since.unwrap_or(started).max(started);
    // Whatever of it counted already for another reason counts once.
    status.progress_since = Some(whole_seconds(later(progress, still).min(until.max(progress))));
}

/// How long the rollout stood still since the stage opened or was last retried.
pub(crate) fn stood_still(status: &StageStatus) -> SignedDuration {
    match (status.started_at, status.progress_since) {
        (Some(started), Some(progress)) => {
            progress.duration_since(started).max(SignedDuration::ZERO)
        }
        _ => SignedDuration::ZERO,
    }
}

/// Since when a guard kept the whole namespace from moving, as the last written status says it.
fn guarded_since(run: &Run<'_>) -> Option<Timestamp> {
    let guards = [Reason::RestoredFromBackup, Reason::ClockSkew];
    let stalled = run.before.conditions.iter().find(|all| all.type_ == conditions::STALLED)?;
    let is_guard = guards.iter().any(|reason| reason.as_str() == stalled.reason);
    (is_guard && stalled.status == "True").then_some(stalled.last_transition_time.0)
}

/// The strongest stop that holds.
pub(crate) fn stop_of(run: &Run<'_>) -> Option<Stop> {
    // An order goes on where everything else of the run is over. It halted the run before it began.
    let is_ordered = run.status.halted.is_some()
        && run.status.rollback.as_ref().is_some_and(|rollback| rollback.ordered().is_some());
    if run.is_deleting() {
        Some(Stop::Deleting)
    } else if run.status.aborted.is_some() && !is_ordered {
        Some(Stop::Aborted)
    } else if run.status.suspended.is_some() {
        Some(Stop::Suspended)
    } else if run.status.halted.is_some() {
        Some(Stop::Halted)
    } else {
        None
    }
}

/// A latch that begins now.
pub(crate) fn latched(run: &Run<'_>, reason: Reason, message: &str, scene: &Scene<'_>) -> Latch {
    set(run, reason, message.to_owned(), scene)
}

fn set(run: &Run<'_>, reason: Reason, message: String, scene: &Scene<'_>) -> Latch {
    Latch {
        reason: reason.as_str().to_owned(),
        message: clip(&message, 1024),
        at: whole_seconds(scene.now),
        stage: current_stage(run).map(|position| run.stages[position].spec.name.clone()),
        uninstalls_nothing: false,
    }
}

/// Position of the first stage that is not proven yet.
pub(crate) fn current_stage(run: &Run<'_>) -> Option<usize> {
    run.status.stages.iter().position(|stage| !stage.state.is_promoted())
}

/// Whether every stage is done, latecomers included.
pub(crate) fn is_completed(run: &Run<'_>) -> bool {
    let mut stages = run.status.stages.iter();
    !run.status.stages.is_empty() && stages.all(|stage| stage.state == StageState::Completed)
}

/// The stamp of a person's retry that was not answered yet.
fn unanswered(run: &Run<'_>) -> Option<String> {
    let annotations = run.rollout.metadata.annotations.as_ref()?;
    let stamp = clip(annotations.get(names::RETRY_ANNOTATION)?, 256);
    let is_answered = run.status.last_handled_retry.as_ref() == Some(&stamp);
    (!is_answered && !run.is_deleting()).then_some(stamp)
}

/// Whether a person asked for a retry that was not answered yet.
pub(crate) fn asks_for_retry(run: &Run<'_>) -> bool {
    unanswered(run).is_some()
}

/// Answers a person's retry, once per stamp: the halt is lifted, what is not proven begins anew with
/// fresh attempts, and every deadline and budget counts from now.
fn retry(run: &mut Run<'_>, scene: &Scene<'_>) -> bool {
    // What of an earlier beginning is not written yet, whatever became of the stamp.
    let taken = taken_back(run);
    order::assent::settle_taken(run, taken);
    let Some(stamp) = unanswered(run) else { return false };
    // Nothing is decided of any device before that is over, and the answer is about all of them.
    if scene.guard.is_some() {
        return false;
    }
    // A device in the middle of its rollback must come to an end first.
    let mut lines = run.stages.iter().flat_map(|stage| &stage.frozen).flat_map(|all| &all.lines);
    if lines.any(|line| line.state == LineState::Granted && line.action == JobAction::Rollback) {
        return false;
    }
    // What a person ordered comes to its end first, and is said; also what waits for a second person: it would
    // halt again what the retry lets go on.
    if order::is_open(run, scene) || order::assent::stands_in_the_way(run) {
        return false;
    }
    run.gating = true;
    let begins = run.status.aborted.is_none() && run.successor.is_none();
    // What orders may take back without a second person does not begin anew.
    if begins && !order::assent::note_taken(run, taken) {
        return false;
    }
    run.status.last_handled_retry = Some(stamp);
    if run.status.aborted.is_some() {
        return true;
    }
    if run.successor.is_some() {
        let message = "A person asked for a retry, and another rollout took this one's place.";
        run.emit(EventKind::Warning, Reason::SupersededByRollout, message.to_owned());
        return true;
    }
    let halted = run.status.halted.take();
    if let Some(halt) = &halted {
        tail::stand_aside(run, halt.at, scene.now);
    }
    let halted = halted.and_then(|halt| halt.stage);
    (run.status.rollback, run.status.rollback_approval) = (None, None);
    run.status.rolled_back_anew = 0;
    let uid = run.uid().to_owned();
    for (stage, status) in run.stages.iter_mut().zip(&mut run.status.stages) {
        let Some(frozen) = &mut stage.frozen else { continue };
        let mut reopens = false;
        for (index, line) in frozen.lines.iter_mut().enumerate() {
            let is_late = is_late(line) && status.tail.is_some();
            // What a tail waits for begins by itself, and what it closed on stays out.
            if is_late && (line.state == LineState::NotStarted || !tail::is_open(status)) {
                continue;
            }
            if begins_anew(line, &uid, scene) {
                reopens |= !is_late;
                run.status.rolled_back_before += u32::from(line.state == LineState::RolledBack);
                line.remember();
                line.set(LineState::Pending, None, scene.now);
                (line.action, line.tries) = (JobAction::Install, 0);
                frozen.retried.insert(index);
            }
        }
        if status.state != StageState::Completed || !frozen.retried.is_empty() {
            gates::begin_anew(status, scene.now);
        }
        if status.state == StageState::Gated {
            continue;
        }
        // A stage that has nothing to try again and broke nothing keeps its times.
        let is_answered =
            status.state == StageState::Open || reopens || halted.as_ref() == Some(&status.name);
        if is_answered {
            (status.started_at, status.progress_since) = (Some(whole_seconds(scene.now)), None);
        }
        if reopens {
            status.state = StageState::Open;
            (status.soak_started_at, status.completed_at, status.tail) = (None, None, None);
            // Nobody's word holds over a retry, so nothing is expedited either.
            stage.rules = Rules::of(stage.spec, status);
            stage.hours = Hours::new(stage.spec, None);
        }
    }
    run.emit(EventKind::Normal, Reason::InProgress, "A person asked for a retry.".to_owned());
    true
}

/// Whether the device did nothing yet: in a stage with a tail, that unproves nothing.
fn is_late(line: &Line) -> bool {
    matches!(line.state, LineState::NotStarted | LineState::Deferred | LineState::PoweredOff)
}

/// Devices from which the updates were taken back: a retry lets no more of them begin anew. Whether one of them
/// would at this moment is not asked, because that changes between a retry that was cut and the look after it.
fn taken_back(run: &Run<'_>) -> u32 {
    let lines = run.stages.iter().flat_map(|stage| &stage.frozen).flat_map(|all| &all.lines);
    lines.filter(|line| line.state == LineState::RolledBack).count() as u32
}

/// Whether a retry gives the device a new attempt. What fell silent or could not be rolled back keeps
/// its job as a lock, and stays.
fn begins_anew(line: &Line, uid: &str, scene: &Scene<'_>) -> bool {
    // An answer that is still there would be read again, as one to the new beginning. That of a damaged
    // device is, until a person releases it.
    let has_answer = scene.own_job(line, uid).is_some_and(|job| job.may_have_begun());
    !has_answer && scene.row(line).is_some() && is_to_begin_anew(line)
}

fn is_to_begin_anew(line: &Line) -> bool {
    matches!(
        line.state,
        LineState::Failed
            | LineState::RevertedByWindows
            | LineState::RolledBack
            | LineState::NotOffered
            | LineState::NotStarted
            | LineState::Deferred
            | LineState::PoweredOff
    )
}

/// Adds up every stage.
pub(crate) fn add_up(run: &mut Run<'_>, scene: &Scene<'_>) {
    for position in 0..run.stages.len() {
        let (stage, status) = (&mut run.stages[position], &run.status.stages[position]);
        let Some(frozen) = &stage.frozen else { continue };
        stage.tally = Tally::of(frozen, &stage.rules, status.started_at, scene);
        let wanted = stage.rules.caps(frozen.lines.len(), stage.tally.applicable);
        let caps = crate::approvals::caps_in_force(run, position, wanted);
        run.status.stages[position].caps = Some(caps);
    }
}

/// Halts the run if a budget is broken, a gate failed or a deadline has passed. Returns whether it halted
/// now.
pub(crate) fn judge(run: &mut Run<'_>, scene: &Scene<'_>, wake: &mut Wake) -> bool {
    // A run that is being resumed or retried is judged by what the next pass reads back.
    let is_over = matches!(run.stop, Some(Stop::Deleting | Stop::Aborted));
    if run.gating || is_over || run.status.halted.is_some() || scene.guard.is_some() {
        return false;
    }
    // Several stages may have something to say. What asks for a rollback is not lost behind what only halts.
    let by_gate = gates::followed(run)
        .into_iter()
        .filter_map(|position| gates::verdict(run, position).map(|verdict| (position, verdict)));
    let by_gate = foremost(by_gate.collect(), |(_, (_, rolls_back))| *rolls_back);
    let by_budget = (0..run.stages.len()).filter_map(|position| {
        verdict(run, position, scene, wake).map(|verdict| (position, (verdict, false)))
    });
    let takes_back = run.rollout.spec.on_failure.action == FailureAction::Rollback;
    let by_budget = foremost(by_budget.collect(), |(_, (complaint, _))| {
        takes_back && complaint.reason == Reason::FailureBudgetSpent
    });
    let by_budget = by_budget.or_else(|| {
        correlated::verdict(run, scene).map(|(position, verdict)| (position, (verdict, false)))
    });
    // Where both speak at once, the one that asks for a rollback is not lost behind the other.
    let by_gate_first = by_gate.as_ref().is_some_and(|(_, (_, rolls_back))| *rolls_back);
    let verdict = if by_gate_first { by_gate } else { by_budget.or(by_gate) };
    let Some((position, (Complaint { reason, message }, gate_rolls_back))) = verdict else {
        return false;
    };
    let stage = run.stages[position].spec.name.clone();
    run.status.halted =
        Some(Latch { stage: Some(stage.clone()), ..set(run, reason, message.clone(), scene) });
    let on_failure = &run.rollout.spec.on_failure;
    // Silence and lateness only halt: an outage of ours must uninstall nothing.
    let is_failure = matches!(reason, Reason::FailureBudgetSpent | Reason::CorrelatedFailure);
    let budget_rolls_back = is_failure && on_failure.action == FailureAction::Rollback;
    if budget_rolls_back || gate_rolls_back {
        let scope = match (gate_rolls_back, reason) {
            // No single device is what failed a gate.
            (true, _) => on_failure.scope.max(RollbackScope::Stage),
            // What devices have in common is partly their own unsigned word, and the budget bears the
            // failures: nothing is taken back where it is proven.
            (false, Reason::CorrelatedFailure) => RollbackScope::Device,
            (false, _) => on_failure.scope,
        };
        run.status.rollback = Some(RollbackStatus {
            scope,
            stage,
            started_at: whole_seconds(scene.now),
            completed_at: None,
            progress_since: None,
            stands_since: None,
            order: None,
        });
    }
    run.emit(EventKind::Warning, reason, message);
    run.stop = stop_of(run);
    true
}

/// The first that is urgent, or else the first.
fn foremost<T>(mut all: Vec<T>, is_urgent: impl Fn(&T) -> bool) -> Option<T> {
    let position = all.iter().position(is_urgent).unwrap_or(0);
    (!all.is_empty()).then(|| all.swap_remove(position))
}

/// Why the stage halts the run, if it does.
fn verdict(
    run: &Run<'_>,
    position: usize,
    scene: &Scene<'_>,
    wake: &mut Wake,
) -> Option<Complaint> {
    let (stage, status) = (&run.stages[position], &run.status.stages[position]);
    let Some(frozen) = &stage.frozen else { return unopened(run, position, scene, wake) };
    let (tally, caps) = (&stage.tally, status.caps?);
    let name = &stage.spec.name;
    if tally.bad > caps.max_failures as usize {
        return Some(Complaint::new(
            Reason::FailureBudgetSpent,
            format!(
                "Stage {name}: {} of {} devices failed, and maxFailures allows {}: {}.",
                tally.bad,
                caps.size,
                caps.max_failures,
                explain::sample(frozen, &tally.failed)
            ),
        ));
    }
    if tally.silent > caps.max_unreachable as usize {
        return Some(Complaint::new(
            Reason::UnreachableBudgetSpent,
            format!(
                "Stage {name}: {} of {} devices fell silent after they began, and maxUnreachable \
                 allows {}: {}.",
                tally.silent,
                caps.size,
                caps.max_unreachable,
                explain::sample(frozen, &tally.failed)
            ),
        ));
    }
    // A person who suspended the run, or stopped devices of it, has stopped its clock, too.
    let stands = run.is_kept_back()
        || run.awaits.is_some()
        || crate::approvals::awaited(stage.spec, status).is_some();
    if status.state != StageState::Open || run.stop.is_some() || stands {
        return None;
    }
    let shortfall = shortfall(run, position);
    let is_waiting = tail::waits_for_devices(run, position, wake);
    if !is_waiting && shortfall.is_none() {
        return None;
    }
    // What is short may be what is just being finished.
    if status.tail.is_some() && tally.counts.in_progress > 0 {
        return None;
    }
    let since = status.progress_since.max(status.started_at)?;
    let deadline = later(since, stage.rules.progress_deadline);
    if !wake.is_due(deadline) {
        return None;
    }
    let halt = shortfall.filter(|_| !is_waiting);
    Some(halt.unwrap_or_else(|| {
        Complaint::new(
            Reason::ProgressDeadlineExceeded,
            format!(
                "Stage {name} was not proven within its progressDeadline: {} of {} devices are \
                 not done.",
                tally.counts.pending + tally.counts.in_progress,
                caps.size
            ),
        )
    }))
}

/// Why the next stage, which selects too few devices to open, halts the run in the end: even a typo
/// must come to a named end.
fn unopened(
    run: &Run<'_>,
    position: usize,
    scene: &Scene<'_>,
    wake: &mut Wake,
) -> Option<Complaint> {
    // A person who suspended the run has stopped its clock, too.
    let is_its_turn = current_stage(run) == Some(position) && run.stop.is_none();
    if !is_its_turn || run.status.plan_hash.is_none() {
        return None;
    }
    let rules = run.stages[position].rules;
    let since = could_open_since(run, position).max(run.status.stages[position].progress_since)?;
    // Only a stage that has waited this long is counted again here.
    let deadline = later(since, rules.progress_deadline);
    if scene.now < deadline {
        wake.at(deadline);
        return None;
    }
    let selected = freeze::members(run, position, scene).ok()?.len();
    (selected < rules.min_devices).then(|| too_few(run, position, selected))
}

/// Since when nothing but its selection keeps a stage from opening.
fn could_open_since(run: &Run<'_>, position: usize) -> Option<Timestamp> {
    let before = position.checked_sub(1).and_then(|before| {
        let stage = &run.status.stages[before];
        stage.tail.and_then(|tail| tail.promoted_at).or(stage.completed_at)
    });
    let created = run.rollout.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let retried = run.status.last_handled_retry.as_ref().and_then(|stamp| stamp.parse().ok());
    before.or(created).max(retried)
}

/// A stage that selects fewer devices than `minDevices`.
pub(crate) fn too_few(run: &Run<'_>, position: usize, selected: usize) -> Complaint {
    let stage = &run.stages[position];
    Complaint::new(
        Reason::TooFewDevices,
        format!(
            "Stage {} selects {}, and minDevices asks for {}: check its group or selector.",
            stage.spec.name,
            explain::devices(selected),
            stage.rules.min_devices
        ),
    )
}

/// Whether devices of the stage still have something to do.
pub(crate) fn is_waiting_for_devices(run: &Run<'_>, position: usize) -> bool {
    let counts = &run.stages[position].tally.counts;
    counts.pending + counts.in_progress > 0
}

/// What a stage lacks to be proven once its devices are done: nothing opens on "nothing to install".
pub(crate) fn shortfall(run: &Run<'_>, position: usize) -> Option<Complaint> {
    let (stage, status) = (&run.stages[position], &run.status.stages[position]);
    let (tally, caps) = (&stage.tally, status.caps?);
    let name = &stage.spec.name;
    if tally.counts.succeeded < caps.min_proven {
        let way_on = if tally.counts.already_installed == tally.counts.total {
            " If that is meant, set the stage's `minProven: 0`."
        } else {
            ""
        };
        return Some(Complaint::new(
            Reason::NotEnoughProven,
            format!(
                "Stage {name}: {} of {} devices were really installed and proven, and minProven \
                 asks for {}; {} had it already, {} had nothing to install. Nothing opens.{way_on}",
                tally.counts.succeeded,
                caps.size,
                caps.min_proven,
                tally.counts.already_installed,
                tally.counts.not_applicable,
            ),
        ));
    }
    if tally.done < caps.min_coverage as usize {
        return Some(Complaint::new(
            Reason::CoverageTooLow,
            format!(
                "Stage {name}: {} of {} applicable devices are done, and minCoverage asks for {}; \
                 {} were left out.",
                tally.done, tally.applicable, caps.min_coverage, tally.counts.deferred
            ),
        ));
    }
    None
}
