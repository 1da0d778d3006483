//! What a rollout's status says after a pass: counters, conditions, and one sentence for everything
//! that waits. It holds nothing that changes while nothing happens, so an idle run is never written.

use std::collections::BTreeMap;

use jiff::Timestamp;
use wardring_api::{
    GateState, PatchRolloutStatus, RollbackApproval, RolloutPhase, StageCounts, StageState,
    Waiting, WindowAction,
    conditions::{self, Truth, clip, whole_seconds},
    reasons::Reason,
};

use crate::{
    Decision, EventKind,
    agenda::Closed,
    approvals, barring,
    caps::later,
    emergency, explain, freeze, gates,
    halt::{self, current_stage, is_completed},
    line::SAMPLE,
    order, tail,
    validate::{Complaint, Run, Scene, Stop},
    windows::{self, StageWindows},
};

/// Fills in the status of a run. Returns whether it differs from what is stored.
pub(crate) fn publish(
    run: &mut Run<'_>,
    decisions: &[Vec<Decision>],
    waits: Option<&Complaint>,
    scene: &Scene<'_>,
    next: Option<Timestamp>,
) -> bool {
    count(run);
    run.status.observed_generation = run.rollout.metadata.generation;
    run.status.progress = progress(run);
    let current = current_stage(run);
    // Behind the last stage only latecomers are left.
    let last_tail = || run.status.stages.iter().rposition(|all| all.state == StageState::Tail);
    run.status.current_stage =
        current.or_else(last_tail).map(|position| run.stages[position].spec.name.clone());
    run.status.waiting_for = waiting_for(run, decisions, waits, scene);
    run.status.phase = Some(phase(run));
    run.status.message = Some(message(run));
    set_conditions(run, decisions, scene);
    run.status.next_evaluation = next.map(whole_seconds);
    is_news(&run.status, &run.before, scene.now)
}

/// Whether anything differs but the next evaluation, which is for people and worth no write alone
/// while the stored one is still ahead.
fn is_news(status: &PatchRolloutStatus, before: &PatchRolloutStatus, now: Timestamp) -> bool {
    let next_evaluation = before.next_evaluation;
    let same = PatchRolloutStatus { next_evaluation, ..status.clone() } == *before;
    let stale = match (before.next_evaluation, status.next_evaluation) {
        (Some(stored), Some(_)) => stored < now,
        (stored, next) => stored.is_some() != next.is_some(),
    };
    !same || stale
}

fn count(run: &mut Run<'_>) {
    for position in 0..run.stages.len() {
        let Some(frozen) = &run.stages[position].frozen else { continue };
        let stage = &run.stages[position];
        let wanted = stage.rules.caps(frozen.lines.len(), stage.tally.applicable);
        let caps = approvals::caps_in_force(run, position, wanted);
        let (stage, status) = (&run.stages[position], &mut run.status.stages[position]);
        status.counts = stage.tally.counts;
        status.caps = Some(caps);
        status.failed_sample = stage
            .tally
            .failed
            .iter()
            .chain(&stage.tally.again)
            .take(SAMPLE)
            .map(|&index| clip(&explain::failed(frozen, index), 256))
            .collect();
    }
}

/// `41/60`: devices with a verdict, of all in the stages that opened.
fn progress(run: &Run<'_>) -> Option<String> {
    let frozen = run.stages.iter().filter(|stage| stage.frozen.is_some());
    let counts: Vec<_> = frozen.map(|stage| stage.tally.counts).collect();
    let total: u32 = counts.iter().map(|counts| counts.total).sum();
    let open: u32 = counts.iter().map(|counts| counts.pending + counts.in_progress).sum();
    (!counts.is_empty()).then(|| format!("{}/{total}", total - open))
}

fn waiting(reason: Reason, message: &str) -> Waiting {
    Waiting {
        reason: reason.as_str().to_owned(),
        message: clip(message, 512),
        devices: None,
        until: None,
    }
}

fn waiting_for(
    run: &Run<'_>,
    decisions: &[Vec<Decision>],
    waits: Option<&Complaint>,
    scene: &Scene<'_>,
) -> Vec<Waiting> {
    let mut list = Vec::new();
    for complaint in [scene.guard.as_ref(), run.complaint.as_ref(), waits].into_iter().flatten() {
        list.push(waiting(complaint.reason, &complaint.message));
    }
    let aborted = run.status.aborted.as_ref().filter(|_| !is_completed(run));
    for latch in
        [aborted, run.status.suspended.as_ref(), run.status.halted.as_ref()].into_iter().flatten()
    {
        let reason = Reason::parse(&latch.reason).unwrap_or(Reason::RolloutStopped);
        list.push(waiting(reason, &latch.message));
    }
    for (message, devices) in emergency::told(run, decisions, scene) {
        list.push(Waiting { devices: Some(devices), ..waiting(Reason::EmergencyStop, &message) });
    }
    for message in barring::refusals(run, scene) {
        list.push(waiting(Reason::UpdateHoldRefused, &message));
    }
    if rollback_failed(run) && run.stop != Some(Stop::Aborted) {
        list.push(waiting(
            Reason::RollbackFailed,
            "Devices could not be rolled back; no further rollback begins until a person asks for a \
             retry.",
        ));
    }
    if let Some(known) = unconsented(run) {
        let reason = match known.state {
            GateState::Failed => Reason::RollbackRejected,
            _ => Reason::RollbackAwaitsApproval,
        };
        list.push(Waiting {
            devices: Some(run.consent.waits as u32),
            until: known.asked.expires_at.filter(|_| reason == Reason::RollbackAwaitsApproval),
            ..waiting(reason, &known.message)
        });
    }
    let retry = match order::assent::stands_in_the_way(run) && halt::asks_for_retry(run) {
        true => " The retry that somebody asked for waits until it has ended.",
        false => "",
    };
    for known in order::assent::wanted(run) {
        let message = format!("{}{retry}", known.message);
        list.push(Waiting {
            until: known.asked.expires_at,
            ..waiting(Reason::RollbackAwaitsApproval, &message)
        });
    }
    if run.stop == Some(Stop::Deleting) {
        list.push(waiting(Reason::Deleting, Reason::Deleting.meaning()));
    }
    if let Some(position) = current_stage(run) {
        stage_waits(run, position, scene.now, &mut list);
    }
    group_waits(run, decisions, true, scene, &mut list);
    // The stage that is being proven comes first, then those that are open for latecomers.
    let current = current_stage(run);
    if let Some((position, decisions)) = current.and_then(|at| Some((at, decisions.get(at)?))) {
        device_waits(run, position, decisions, scene, &mut list);
    }
    tail_waits(run, &mut list);
    for (position, decisions) in decisions.iter().enumerate() {
        if current != Some(position) {
            device_waits(run, position, decisions, scene, &mut list);
        }
    }
    group_waits(run, decisions, false, scene, &mut list);
    list.truncate(10);
    list
}

/// The asking that keeps devices from being rolled back.
fn unconsented<'r>(run: &'r Run<'_>) -> Option<&'r RollbackApproval> {
    let is_over = matches!(run.stop, Some(Stop::Aborted | Stop::Deleting));
    let known = run.status.rollback_approval.as_ref()?;
    let waits = run.consent.waits > 0 && !run.consent.approved && run.consent.is_asked_for(run);
    (waits && !is_over && known.state != GateState::Passed).then_some(known)
}

fn stage_waits(run: &Run<'_>, position: usize, now: Timestamp, list: &mut Vec<Waiting>) {
    let (stage, status) = (&run.stages[position], &run.status.stages[position]);
    let name = &stage.spec.name;
    if run.stop.is_some() {
        return;
    }
    let until = status.soak_started_at.map(|since| later(since, stage.rules.soak));
    let soaks = status.state == StageState::Soaking && until.is_none_or(|until| now < until);
    if !soaks && status.state != StageState::Pending {
        list.extend(gates::waits(stage.spec, status));
    }
    if soaks {
        list.push(Waiting {
            until,
            ..waiting(
                Reason::Soaking,
                &format!("Stage {name} is proven and is being watched for its soak time."),
            )
        });
    }
}

/// Stages that stay open for latecomers, and what their gates say against it.
fn tail_waits(run: &Run<'_>, list: &mut Vec<Waiting>) {
    if run.stop.is_some() {
        return;
    }
    for (stage, status) in run.stages.iter().zip(&run.status.stages) {
        if status.state == StageState::Tail {
            list.extend(gates::waits(stage.spec, status));
        }
        let (Some(tail), Some(told)) = (status.tail, tail::tail_sentence(status)) else { continue };
        let late = stage.tally.counts.pending + stage.tally.counts.in_progress;
        list.push(Waiting {
            devices: Some(late),
            until: tail.closed_at.is_none().then_some(tail.closes_at),
            ..waiting(Reason::CatchingUp, &told)
        });
    }
}

/// Stages whose group does not exist: those that froze their devices, or those that did not yet.
fn group_waits(
    run: &Run<'_>,
    decisions: &[Vec<Decision>],
    frozen: bool,
    scene: &Scene<'_>,
    list: &mut Vec<Waiting>,
) {
    if matches!(run.stop, Some(Stop::Aborted | Stop::Deleting)) {
        return;
    }
    for (position, stage) in run.status.stages.iter().enumerate() {
        if stage.freeze_id.is_some() != frozen {
            continue;
        }
        let here = decisions.get(position).into_iter().flatten();
        let held = here.filter(|all| **all == Decision::Hold(Reason::GroupNotFound)).count();
        if held == 0 && stage.state == StageState::Completed {
            continue;
        }
        let Some(missing) = freeze::missing_group(run, position, scene) else { continue };
        if !list.iter().any(|told| told.message == missing.message) {
            let devices = (held > 0).then_some(held as u32);
            list.push(Waiting { devices, ..waiting(missing.reason, &missing.message) });
        }
    }
}

/// What devices of a stage wait for, the most frequent reason first.
fn device_waits(
    run: &Run<'_>,
    position: usize,
    decisions: &[Decision],
    scene: &Scene<'_>,
    list: &mut Vec<Waiting>,
) {
    let mut reasons: BTreeMap<Reason, u32> = BTreeMap::new();
    for decision in decisions {
        if let Decision::Hold(reason) = decision {
            *reasons.entry(*reason).or_default() += 1;
        }
    }
    // What one pass has to finish for the next to go on is not worth telling.
    reasons.remove(&Reason::WriteInFlight);
    // Told once for the whole stage, or for all of them.
    reasons.remove(&Reason::GroupNotFound);
    reasons.remove(&Reason::EmergencyStop);
    for told in [
        Reason::GateWaiting,
        Reason::GateFailed,
        Reason::GateError,
        Reason::AwaitingApproval,
        Reason::ApprovalRejected,
        Reason::ApprovalPolicyBroken,
        Reason::RollbackAwaitsApproval,
        Reason::RollbackRejected,
    ] {
        reasons.remove(&told);
    }
    if matches!(run.stop, Some(Stop::Aborted | Stop::Deleting)) {
        // What is over waits for nothing but for what is still at work.
        reasons.clear();
    }
    let (name, tally) = (&run.stages[position].spec.name, &run.stages[position].tally.counts);
    if tally.in_progress > 0 {
        let slow = match tally.reboot_slow {
            0 => String::new(),
            slow => format!(", {slow} of them restart slowly"),
        };
        let work = if tally.in_progress == 1 { "device is" } else { "devices are" };
        list.push(Waiting {
            devices: Some(tally.in_progress),
            ..waiting(
                Reason::InProgress,
                &format!("Stage {name}: {} {work} at work{slow}.", tally.in_progress),
            )
        });
    }
    if tally.downloading > 0 {
        list.push(Waiting {
            devices: Some(tally.downloading),
            ..waiting(Reason::Downloading, &downloads(name, tally))
        });
    }
    let mut sorted: Vec<(Reason, u32)> = reasons.into_iter().collect();
    sorted.sort_by_key(|(reason, devices)| (std::cmp::Reverse(*devices), *reason));
    for (reason, devices) in sorted {
        let mut message = explain::held(name, reason, devices as usize);
        let closed = closed(run, position, decisions, reason, scene);
        if let Some(closed) = &closed {
            message.push(' ');
            message.push_str(&closed.message);
        }
        let unheard = scene.snapshot.guards.unheard.as_ref();
        let unheard = unheard.filter(|_| reason == Reason::AgentsUnheard);
        if let Some(unheard) = unheard {
            message.push_str(&explain::not_heard(unheard));
        }
        list.push(Waiting {
            devices: Some(devices),
            until: unheard
                .and_then(|unheard| unheard.until)
                .map(whole_seconds)
                .or(closed.and_then(|closed| closed.until)),
            ..waiting(reason, &message)
        });
    }
}

fn downloads(stage: &str, counts: &StageCounts) -> String {
    let verb = if counts.downloading == 1 { "downloads" } else { "download" };
    let devices = explain::devices(counts.downloading as usize);
    let have = counts.downloaded;
    format!(
        "Stage {stage}: {devices} {verb} ahead of the window; {have} of {} are done.",
        counts.total
    )
}

/// What windows say of the first device that they keep back for this reason.
fn closed(
    run: &Run<'_>,
    position: usize,
    decisions: &[Decision],
    reason: Reason,
    scene: &Scene<'_>,
) -> Option<Closed> {
    if !windows::is_reason(reason) {
        return None;
    }
    let stage = &run.stages[position];
    let first = decisions.iter().position(|all| *all == Decision::Hold(reason))?;
    let line = stage.frozen.as_ref()?.lines.get(first)?;
    let action =
        if line.waits(&stage.rules) { WindowAction::Install } else { WindowAction::Uninstall };
    scene.row(line)?;
    let mut windows = StageWindows::new(scene, stage.hours);
    windows.say(action, line.row as usize).err()
}

/// The procedure has ended, and nothing of it waits for a person, or for its beginning once one approved.
fn rolled_back(run: &Run<'_>) -> bool {
    (run.consent.waits == 0 || !run.consent.is_asked_for(run))
        && run.status.rollback.as_ref().is_some_and(|rollback| rollback.completed_at.is_some())
        && run.stages.iter().any(|stage| stage.tally.counts.rolled_back > 0)
}

fn rollback_failed(run: &Run<'_>) -> bool {
    run.status.rollback.is_some() && run.stages.iter().any(|stage| stage.tally.rollback_bad > 0)
}

fn phase(run: &Run<'_>) -> RolloutPhase {
    let rolling = run.status.rollback.as_ref().is_some_and(|all| all.completed_at.is_none());
    match run.stop {
        // What is finished stays finished, though nothing of it moves any more.
        Some(Stop::Aborted) if is_completed(run) => return RolloutPhase::Completed,
        Some(Stop::Aborted) => return RolloutPhase::Aborted,
        Some(Stop::Suspended) => return RolloutPhase::Suspended,
        Some(Stop::Halted) if rolling => return RolloutPhase::RollingBack,
        Some(Stop::Halted) if rolled_back(run) && !rollback_failed(run) => {
            return RolloutPhase::RolledBack;
        }
        Some(Stop::Halted) => return RolloutPhase::Halted,
        Some(Stop::Deleting) | None => {}
    }
    let is_open = run.status.stages.iter().any(|stage| stage.freeze_id.is_some());
    if run.complaint.is_some() {
        RolloutPhase::Invalid
    } else if is_completed(run) {
        RolloutPhase::Completed
    } else if is_open {
        RolloutPhase::Progressing
    } else {
        RolloutPhase::Pending
    }
}

fn message(run: &Run<'_>) -> String {
    let text = match run.status.waiting_for.first() {
        Some(first) => first.message.clone(),
        None if is_completed(run) => proven(run),
        None => "Planned.".to_owned(),
    };
    clip(&text, 1024)
}

/// What a completed run came to, with the devices that its budgets bore.
fn proven(run: &Run<'_>) -> String {
    let sum = |count: fn(&StageCounts) -> u32| -> u32 {
        run.stages.iter().map(|stage| count(&stage.tally.counts)).sum()
    };
    let succeeded = sum(|counts| counts.succeeded);
    let failed = sum(|counts| counts.failed + counts.rolled_back + counts.rollback_failed);
    let silent = sum(|counts| counts.unreachable);
    let borne = match (failed, silent) {
        (0, 0) => String::new(),
        (failed, 0) => format!("; {failed} failed, within the stages' budgets"),
        (0, silent) => format!("; {silent} fell silent, within the stages' budgets"),
        (failed, silent) => {
            format!("; {failed} failed and {silent} fell silent, within the stages' budgets")
        }
    };
    format!("Every stage is proven: {} succeeded{borne}.", explain::devices(succeeded as usize))
}

fn set_conditions(run: &mut Run<'_>, decisions: &[Vec<Decision>], scene: &Scene<'_>) {
    let generation = run.rollout.metadata.generation;
    let message = run.status.message.clone().unwrap_or_default();
    let complaint = scene.guard.clone().or_else(|| run.complaint.clone());
    // A reference that is invalid stalls the run also when it became so on the way.
    let missing = missing_group(run, scene);
    let no_way_on = current_stage(run).filter(|_| missing.is_some()).is_some_and(|position| {
        let is_missing = |position| freeze::missing_group(run, position, scene).is_some();
        // Who is at work there gets no further than its next permit.
        let at_work = (0..run.stages.len()).any(|position| {
            run.stages[position].tally.counts.in_progress > 0 && !is_missing(position)
        });
        !at_work && is_missing(position)
    });
    let completed = is_completed(run);
    let (stop, halted, suspended) =
        (run.stop, run.status.halted.clone(), run.status.suspended.clone());
    let (is_rolled_back, is_rollback_failed) = (rolled_back(run), rollback_failed(run));
    let rolling = run.status.rollback.as_ref().is_some_and(|all| all.completed_at.is_none());
    let soaking = run.status.stages.iter().any(|stage| stage.state == StageState::Soaking);
    let catches_up = current_stage(run).is_none() && !completed;
    let stands = current_stage(run).is_some_and(|position| {
        let here = decisions.get(position).map(Vec::as_slice).unwrap_or_default();
        emergency::stands(run, position, here)
    });
    let (is_braked, stops) = (run.is_kept_back(), emergency::sentences(run));
    let awaits = run.awaits.clone();
    let unbarred = barring::refusals(run, scene).into_iter().next();
    let asks = current_stage(run).filter(|_| stop.is_none()).and_then(|position| {
        let status = &run.status.stages[position];
        let awaited = approvals::awaited(run.stages[position].spec, status)?;
        let message = || awaited.message.clone().unwrap_or_default();
        (awaited.state == GateState::Waiting).then(|| (Reason::AwaitingApproval, message()))
    });
    let of_rollback = unconsented(run).filter(|known| known.state == GateState::Waiting);
    let of_order = order::assent::wanted(run).find(|known| known.state == GateState::Waiting);
    let of_rollback = of_rollback.map(|known| &known.message);
    let wanted = of_rollback.or(of_order.map(|known| &known.message));
    let asks = wanted.map(|text| (Reason::RollbackAwaitsApproval, text.clone())).or(asks);
    let list = &mut run.status.conditions;
    let mut set = |kind: &str, truth: Truth, reason: Reason, message: &str| {
        conditions::set(list, kind, truth, reason, message, generation, scene.now);
    };
    match complaint.as_ref().or(missing.as_ref()) {
        Some(Complaint { reason, message }) => {
            set(conditions::READY, Truth::False, *reason, message)
        }
        None => set(conditions::READY, Truth::True, Reason::Planned, "Accepted and in command."),
    }
    let progress = if completed {
        (false, Reason::Completed)
    } else if stop.is_some() || complaint.is_some() || no_way_on {
        (false, if rolling { Reason::RollingBack } else { Reason::RolloutStopped })
    } else if stands {
        (false, Reason::EmergencyStop)
    } else if let Some(closed) = &awaits {
        (true, closed.reason)
    } else if soaking {
        (true, Reason::Soaking)
    } else if catches_up {
        (true, Reason::CatchingUp)
    } else {
        (true, Reason::InProgress)
    };
    set(conditions::PROGRESSING, progress.0.into(), progress.1, &message);
    let stalled = complaint
        .map(|complaint| (complaint.reason, complaint.message))
        .or_else(|| {
            is_rollback_failed.then(|| {
                (
                    Reason::RollbackFailed,
                    "Devices could not be rolled back; see failedSample.".to_owned(),
                )
            })
        })
        .or_else(|| {
            halted.as_ref().map(|latch| {
                (
                    Reason::parse(&latch.reason).unwrap_or(Reason::RolloutStopped),
                    latch.message.clone(),
                )
            })
        })
        .or_else(|| missing.map(|complaint| (complaint.reason, complaint.message)))
        .or_else(|| unbarred.map(|message| (Reason::UpdateHoldRefused, message)))
        // A person who ended the run has answered whatever stalled it.
        .filter(|_| !matches!(stop, Some(Stop::Aborted | Stop::Deleting)));
    if let Some((reason, message)) = &stalled {
        set(conditions::STALLED, Truth::True, *reason, message);
    }
    if completed {
        set(conditions::COMPLETED, Truth::True, Reason::Completed, &message);
    }
    if let Some(latch) = &halted {
        let reason = Reason::parse(&latch.reason).unwrap_or(Reason::RolloutStopped);
        set(conditions::HALTED, Truth::True, reason, &latch.message);
    }
    if let Some(latch) = &suspended {
        set(conditions::SUSPENDED, Truth::True, Reason::SuspendedByPerson, &latch.message);
    }
    if is_braked {
        set(conditions::EMERGENCY_STOPPED, Truth::True, Reason::EmergencyStop, &stops);
    }
    if let Some(closed) = &awaits {
        set(conditions::AWAITING_WINDOW, Truth::True, closed.reason, &closed.message);
    }
    if let Some((reason, asks)) = &asks {
        set(conditions::AWAITING_APPROVAL, Truth::True, *reason, asks);
    }
    if is_rolled_back {
        let (truth, reason) = if is_rollback_failed {
            (Truth::False, Reason::RollbackFailed)
        } else {
            (Truth::True, Reason::RollbackSucceeded)
        };
        set(conditions::ROLLED_BACK, truth, reason, reason.meaning());
    }
    for (kind, holds) in [
        (conditions::STALLED, stalled.is_some()),
        (conditions::COMPLETED, completed),
        (conditions::HALTED, halted.is_some()),
        (conditions::SUSPENDED, suspended.is_some()),
        (conditions::EMERGENCY_STOPPED, is_braked),
        (conditions::AWAITING_WINDOW, awaits.is_some()),
        (conditions::AWAITING_APPROVAL, asks.is_some()),
        (conditions::ROLLED_BACK, is_rolled_back),
        (conditions::RECONCILING, false),
    ] {
        if !holds {
            conditions::clear(list, kind);
        }
    }
}

/// The first group that a stage still needs and that does not exist any more.
fn missing_group(run: &Run<'_>, scene: &Scene<'_>) -> Option<Complaint> {
    if matches!(run.stop, Some(Stop::Aborted | Stop::Deleting)) {
        return None;
    }
    let stages = run.status.stages.iter().enumerate();
    let mut open = stages.filter(|(_, stage)| stage.state != StageState::Completed);
    open.find_map(|(position, _)| freeze::missing_group(run, position, scene))
}

/// Tells the transitions to completed and to waiting for a window, once.
pub(crate) fn announce(run: &mut Run<'_>) {
    let was = conditions::is_true(&run.before.conditions, conditions::COMPLETED);
    if is_completed(run) && !was {
        let note = "Every stage is proven.".to_owned();
        run.emit(EventKind::Normal, Reason::Completed, note);
    }
    let waited = conditions::is_true(&run.before.conditions, conditions::AWAITING_WINDOW);
    if let Some(closed) = run.awaits.clone().filter(|_| !waited) {
        run.emit(EventKind::Normal, closed.reason, closed.message);
    }
}
