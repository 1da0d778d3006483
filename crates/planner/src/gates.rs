//! Gates of the current stage, and of those that stay open for latecomers: which are active, what measurements make of them, and what follows.
//!
//! A measurement counts once, and only while it is fresh and from after the beginning of its phase. What
//! it is not — an error, missing data, something old — never passes. What the shell has to measure
//! outside goes into the plan as orders; the rest is measured here, from counters.

mod counting;
mod inside;
mod told;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use wardring_api::{
    Decided, Gate, GateFailure, GateMode, GatePhase, GateState, GateStatus, GateType, Stage,
    StageState, StageStatus, conditions::whole_seconds, reasons::Reason,
};

use crate::{
    EventKind, MeasureOrder, Measurement, Population, approvals,
    caps::later,
    halt::{self, current_stage},
    validate::{Complaint, Run, Scene},
    wake::Wake,
};

pub(crate) use told::{bars_starts, held, waits};

/// What a measurement and the passes around it may take besides two intervals.
const SLACK: SignedDuration = SignedDuration::from_secs(30);

/// Digest of what a gate says.
pub fn gate_definition(gate: &Gate) -> String {
    let text = serde_json::to_vec(gate).expect("a gate is plain JSON");
    format!("v1:{}", &hex::encode(Sha256::digest(text))[..16])
}

/// Until when a measurement that began at `at` says something.
pub(crate) fn fresh_until(gate: &Gate, at: Timestamp) -> Timestamp {
    let interval = gate.interval().duration();
    later(later(later(at, interval), interval), SLACK)
}

/// Stages whose gates say something: those that are open for latecomers, and the current one.
pub(crate) fn followed(run: &Run<'_>) -> Vec<usize> {
    let current = current_stage(run);
    let mut positions: Vec<usize> = (0..run.stages.len()).collect();
    positions.retain(|&position| {
        current == Some(position) || run.status.stages[position].state == StageState::Tail
    });
    positions
}

/// Follows every active gate of the run, and orders what is to be measured outside. Returns whether a
/// gate changed its state, which later grants rely on.
pub(crate) fn follow(
    run: &mut Run<'_>,
    scene: &Scene<'_>,
    wake: &mut Wake,
    orders: &mut Vec<MeasureOrder>,
) -> bool {
    let mut moved = false;
    for position in followed(run) {
        moved |= follow_stage(run, position, scene, wake, orders);
    }
    moved
}

fn follow_stage(
    run: &mut Run<'_>,
    position: usize,
    scene: &Scene<'_>,
    wake: &mut Wake,
    orders: &mut Vec<MeasureOrder>,
) -> bool {
    let stage = run.stages[position].spec;
    if stage.gates.is_empty() && run.status.stages[position].gates.is_empty() {
        return false;
    }
    let latched = approvals::latch(run, position, scene);
    let stands = run.stop.is_some() || run.complaint.is_some() || scene.guard.is_some();
    if stands || run.status.stages[position].freeze_id.is_none() {
        for gate in &mut run.status.stages[position].gates {
            gate.next = None;
        }
        approvals::keep_words(run, position);
        return latched;
    }
    let begins = Begins::of(&run.status.stages[position], run, position);
    let mut known = std::mem::take(&mut run.status.stages[position].gates);
    let is_tail = run.status.stages[position].state == StageState::Tail;
    let (mut population, mut moved) = (None, false);
    let mut statuses = Vec::new();
    for (phase, gate) in stage.gates.all() {
        let old = known.iter().position(|known| known.name == gate.name && known.phase == phase);
        let old = old.map(|index| known.swap_remove(index));
        if let Some(rejected) = old.as_ref().filter(|old| is_rejection(old)) {
            // It stays, however the gate is written by now, and also where a soak begins anew.
            statuses.push(rejected.clone());
            continue;
        }
        let Some(began) = begins.of_phase(phase, scene.now) else {
            // What let the stage pass stays told while it is open for latecomers.
            statuses.extend(old.filter(|_| is_tail).map(|old| GateStatus { next: None, ..old }));
            continue;
        };
        let mut status = entry(gate, phase, old, began, scene);
        if gate.kind == GateType::Approval {
            moved |= asks(gate, &mut status, &statuses, run, position, scene, wake);
            statuses.push(status);
            continue;
        }
        let soaked =
            soaked_from(&run.status.stages[position]).filter(|_| phase == GatePhase::During);
        if status.phase == GatePhase::During || status.state != GateState::Passed {
            let before = status.state;
            let due = due(gate, &status, soaked);
            let measured = match gate.kind {
                GateType::DeviceHealth | GateType::Cel if scene.now >= due => {
                    inside::measure(gate, run, position, scene, status.started_at)
                }
                GateType::DeviceHealth | GateType::Cel => None,
                _ => arrived(gate, &status, run, stage, scene).cloned(),
            };
            if let Some(measured) = measured {
                counting::fold(gate, &mut status, &measured, scene.now);
                told::tell(stage, gate, &mut status, Some(&measured.message));
            }
            expire(stage, gate, &mut status, wake);
            if status.state != before {
                status.since = whole_seconds(scene.now);
                moved = true;
                announce(run, stage, gate, &status, before);
            }
        }
        let is_over = phase != GatePhase::During && status.state == GateState::Passed;
        status.next = (!is_over).then(|| due(gate, &status, soaked));
        if let Some(next) = status.next {
            wake.at(next);
            if !matches!(gate.kind, GateType::DeviceHealth | GateType::Cel) {
                let people = population.get_or_insert_with(|| everybody(run, position));
                orders.push(order(run, stage, gate, &status, people));
            }
        }
        statuses.push(status);
    }
    // A rejection stays, also where somebody took its gate out of the spec.
    statuses.extend(known.into_iter().filter(is_rejection));
    run.status.stages[position].gates = statuses;
    latched || moved
}

/// Takes over rejections in the run's current stage. Returns whether there was one.
pub(crate) fn latch(run: &mut Run<'_>, scene: &Scene<'_>) -> bool {
    current_stage(run).is_some_and(|position| approvals::latch(run, position, scene))
}

/// Follows a gate that waits for a person. Returns whether it changed its state.
fn asks(
    gate: &Gate,
    status: &mut GateStatus,
    done: &[GateStatus],
    run: &mut Run<'_>,
    position: usize,
    scene: &Scene<'_>,
    wake: &mut Wake,
) -> bool {
    let (before, since) = (status.state, status.since);
    let asked = status.approval.as_ref().map(|asked| asked.hash.clone());
    approvals::follow(gate, status, run, position, scene, wake);
    let expires = status.approval.as_ref().and_then(|asked| asked.expires_at);
    status.next = expires.filter(|_| status.state == GateState::Waiting);
    if status.state != before {
        status.since = whole_seconds(scene.now);
        announce(run, run.stages[position].spec, gate, status, before);
        if before != GateState::Passed {
            // A person's time to decide is not the devices' lack of progress. Time in which two were asked
            // counts once.
            let others = run.status.stages[position].gates.iter().chain(done);
            let counted =
                others.filter(|other| other.approval.is_some() && other.name != gate.name);
            let counted = counted.filter(|other| other.state == GateState::Passed);
            let since =
                counted.map(|other| other.since).max().map_or(since, |last| since.max(last));
            halt::stand_aside(run, since, scene.now);
        }
    }
    status.state != before || asked != status.approval.as_ref().map(|asked| asked.hash.clone())
}

/// Whether the status is that of a gate that a person rejected.
fn is_rejection(status: &GateStatus) -> bool {
    status.state == GateState::Failed
        && status
            .approval
            .as_ref()
            .and_then(|asked| asked.decided.as_ref())
            .is_some_and(|said| said.decision == Decided::Reject)
}

/// A rejection by a gate that the spec does not have any more.
pub(crate) fn orphaned_rejection<'s>(
    stage: &Stage,
    status: &'s StageStatus,
) -> Option<&'s GateStatus> {
    let has = |known: &GateStatus| {
        stage.gates.all().any(|(phase, gate)| phase == known.phase && gate.name == known.name)
    };
    status.gates.iter().find(|known| is_rejection(known) && !has(known))
}

/// When the phases of a stage began, as far as they have.
struct Begins {
    frozen: Option<Timestamp>,
    started: Option<Timestamp>,
    soaked: Option<Timestamp>,
}

impl Begins {
    fn of(status: &StageStatus, run: &Run<'_>, position: usize) -> Begins {
        let soak = run.stages[position].rules.soak;
        let soaking = status.soak_started_at.filter(|_| status.state == StageState::Soaking);
        Begins {
            frozen: status.frozen_at.or(status.started_at),
            started: status.started_at.filter(|_| status.state != StageState::Gated),
            soaked: soaking.map(|since| later(since, soak)),
        }
    }

    fn of_phase(&self, phase: GatePhase, now: Timestamp) -> Option<Timestamp> {
        match phase {
            GatePhase::Before => self.frozen,
            GatePhase::During => self.started,
            GatePhase::After => self.soaked.filter(|soaked| now >= *soaked),
        }
    }
}

/// The gate's status to go on with. One that says something else now, or whose phase began anew, begins
/// anew.
fn entry(
    gate: &Gate,
    phase: GatePhase,
    old: Option<GateStatus>,
    began: Timestamp,
    scene: &Scene<'_>,
) -> GateStatus {
    let definition = gate_definition(gate);
    let is_approval = gate.kind == GateType::Approval;
    let started_at = match &old {
        // What was asked and said is held against what would happen, not against how the gate is written.
        Some(old) if is_approval => return old.clone(),
        Some(old) if old.definition == definition && old.started_at >= began => {
            return old.clone();
        }
        Some(old) if old.definition != definition => whole_seconds(scene.now),
        _ => whole_seconds(began),
    };
    GateStatus {
        name: gate.name.clone(),
        phase,
        state: GateState::Waiting,
        since: whole_seconds(scene.now),
        started_at,
        definition,
        query: None,
        value: None,
        threshold: Some(crate::condition::threshold(gate)).filter(|text| !text.is_empty()),
        result: None,
        // A measurement that was counted is not counted again.
        measured_at: old.and_then(|old| old.measured_at),
        next: None,
        answers: 0,
        failures: 0,
        consecutive_successes: 0,
        consecutive_errors: 0,
        message: None,
        approval: None,
    }
}

/// When the gate is to be measured next: at once when the stage's watch begins, and in its own time else.
fn due(gate: &Gate, status: &GateStatus, soaked_from: Option<Timestamp>) -> Timestamp {
    let delay = gate.initial_delay.map_or(SignedDuration::ZERO, |span| span.duration());
    let first = later(status.started_at, delay);
    let again = status.measured_at.filter(|at| *at >= status.started_at);
    let next = again.map_or(first, |at| later(at, gate.interval().duration()).max(first));
    match soaked_from {
        Some(from) if !is_measured_since(status, from) => next.min(from.max(first)),
        _ => next,
    }
}

/// Since when the stage is being watched, if it is.
pub(crate) fn soaked_from(status: &StageStatus) -> Option<Timestamp> {
    status.soak_started_at.filter(|_| status.state == StageState::Soaking)
}

fn is_measured_since(status: &GateStatus, since: Timestamp) -> bool {
    status.measured_at.is_some_and(|at| at >= since)
}

/// Whether a gate of the stage says that the watch is no watch: it failed, or nobody can say.
pub(crate) fn interrupt_the_soak(stage: &Stage, status: &StageStatus) -> bool {
    stage.gates.during.iter().filter(|gate| is_enforced(gate)).any(|gate| {
        status_of(status, GatePhase::During, gate)
            .is_some_and(|known| matches!(known.state, GateState::Failed | GateState::Error))
    })
}

/// A measurement that counts for the gate and was not counted yet.
fn arrived<'a>(
    gate: &Gate,
    status: &GateStatus,
    run: &Run<'_>,
    stage: &Stage,
    scene: &Scene<'a>,
) -> Option<&'a Measurement> {
    let mine = scene.snapshot.measurements.iter().filter(|measured| {
        measured.rollout_uid == run.id.uid
            && measured.stage == stage.name
            && measured.gate == gate.name
            && measured.definition == status.definition
    });
    let fresh = mine.filter(|measured| {
        let at = whole_seconds(measured.at);
        at >= status.started_at
            && status.measured_at.is_none_or(|last| at > last)
            && measured.at <= scene.now
            && scene.now < fresh_until(gate, measured.at)
    });
    fresh.max_by_key(|measured| (measured.at, measured.result as u8))
}

/// A gate of `during` that nobody has measured for too long cannot be measured.
fn expire(stage: &Stage, gate: &Gate, status: &mut GateStatus, wake: &mut Wake) {
    if status.phase != GatePhase::During || status.state == GateState::Failed {
        return;
    }
    let delay = gate.initial_delay.map_or(SignedDuration::ZERO, |span| span.duration());
    let first = later(status.started_at, delay);
    let last = status.measured_at.map_or(first, |at| at.max(first));
    if wake.is_due(fresh_until(gate, last)) && status.state != GateState::Error {
        status.state = GateState::Error;
        status.consecutive_successes = 0;
        told::tell(stage, gate, status, Some("no measurement has come in for too long"));
    }
}

fn announce(run: &mut Run<'_>, stage: &Stage, gate: &Gate, status: &GateStatus, was: GateState) {
    let (kind, reason) = match (status.state, was) {
        // The halt tells it.
        (GateState::Failed, _) if is_enforced(gate) && gate.on_failure != GateFailure::Hold => {
            return;
        }
        (GateState::Failed, _) if gate.kind == GateType::Approval => {
            (EventKind::Warning, Reason::ApprovalRejected)
        }
        (GateState::Error, _) if gate.kind == GateType::Approval => {
            (EventKind::Warning, Reason::ApprovalPolicyBroken)
        }
        (GateState::Passed, _) if gate.kind == GateType::Approval => {
            (EventKind::Normal, Reason::Approved)
        }
        (GateState::Failed, _) => (EventKind::Warning, Reason::GateFailed),
        (GateState::Error, _) => (EventKind::Warning, Reason::GateError),
        (GateState::Passed, GateState::Failed | GateState::Error) => {
            (EventKind::Normal, Reason::GatePassed)
        }
        (GateState::Passed, _) if status.phase != GatePhase::During => {
            (EventKind::Normal, Reason::GatePassed)
        }
        _ => return,
    };
    let text = status.message.clone().unwrap_or_else(|| told::sentence(stage, gate, status, None));
    run.emit(kind, reason, text);
}

/// The frozen devices of the stage, for whoever measures.
fn everybody(run: &Run<'_>, position: usize) -> Population {
    let stage = &run.stages[position];
    let slices = stage.frozen.iter().flat_map(|frozen| &frozen.slices);
    Population {
        slices: Arc::new(slices.map(|slice| Arc::clone(slice)).collect()),
        counts: stage.tally.counts,
    }
}

fn order(
    run: &Run<'_>,
    stage: &Stage,
    gate: &Gate,
    status: &GateStatus,
    population: &Population,
) -> MeasureOrder {
    let of = run.status.stages.iter().find(|status| status.name == stage.name);
    let began = of.and_then(|status| status.started_at.or(status.frozen_at));
    MeasureOrder {
        rollout: run.id.clone(),
        stage: stage.name.clone(),
        phase: status.phase,
        gate: gate.clone(),
        due: status.next.unwrap_or(status.started_at),
        stage_began: began.unwrap_or(status.started_at),
        status: status.clone(),
        population: population.clone(),
    }
}

/// Begins every gate anew that has not passed for good: a person has answered what it said. A stage that
/// was being watched is watched anew from then on.
pub(crate) fn begin_anew(status: &mut StageStatus, now: Timestamp) {
    if status.state == StageState::Soaking && !status.gates.is_empty() {
        status.soak_started_at = Some(whole_seconds(now));
    }
    for gate in &mut status.gates {
        // Nobody asks again what let a stage pass that is only open for latecomers.
        if gate.phase != GatePhase::After || status.state != StageState::Tail {
            approvals::begin_anew(gate);
        }
        let is_asked = match gate.phase {
            GatePhase::Before => gate.state != GateState::Passed,
            GatePhase::During => true,
            GatePhase::After => status.state != StageState::Tail,
        };
        if !is_asked {
            continue;
        }
        (gate.state, gate.since) = (GateState::Waiting, whole_seconds(now));
        gate.started_at = whole_seconds(now);
        (gate.answers, gate.failures) = (0, 0);
        (gate.consecutive_successes, gate.consecutive_errors) = (0, 0);
        (gate.result, gate.value, gate.message) = (None, None, None);
    }
}

/// The status of a gate in a stage, by name.
pub(crate) fn status_of<'s>(
    status: &'s StageStatus,
    phase: GatePhase,
    gate: &Gate,
) -> Option<&'s GateStatus> {
    status.gates.iter().find(|known| known.phase == phase && known.name == gate.name)
}

/// Whether every gate of the phase that is enforced has passed.
pub(crate) fn have_passed(stage: &Stage, status: &StageStatus, phase: GatePhase) -> bool {
    let mut gates = stage.gates.all().filter(|(of, gate)| *of == phase && is_enforced(gate));
    orphaned_rejection(stage, status).is_none()
        && gates.all(|(phase, gate)| {
            status_of(status, phase, gate).is_some_and(|known| known.state == GateState::Passed)
        })
}

pub(crate) fn is_enforced(gate: &Gate) -> bool {
    gate.mode == GateMode::Enforce
}

/// The gate that failed and halts the run, with the sentence, and whether it rolls back.
pub(crate) fn verdict(run: &Run<'_>, position: usize) -> Option<(Complaint, bool)> {
    let (stage, status) = (run.stages[position].spec, &run.status.stages[position]);
    if status.state == StageState::Completed {
        return None;
    }
    stage.gates.all().find_map(|(phase, gate)| {
        let known = status_of(status, phase, gate)?;
        let halts = is_enforced(gate) && gate.on_failure != GateFailure::Hold;
        if !halts || known.state != GateState::Failed {
            return None;
        }
        let message = known.message.clone().unwrap_or_default();
        // Counters hold silence, too, and silence takes nothing back: an outage of ours would uninstall.
        let is_outside = !matches!(gate.kind, GateType::DeviceHealth | GateType::Cel);
        let rolls_back =
            gate.on_failure == GateFailure::Rollback && phase != GatePhase::Before && is_outside;
        let reason = match gate.kind {
            GateType::Approval => Reason::ApprovalRejected,
            _ => Reason::GateFailed,
        };
        // A person's no takes nothing back.
        Some((Complaint::new(reason, message), rolls_back && gate.kind != GateType::Approval))
    })
}

/// What is wrong with a gate of the stage before it was ever measured.
pub(crate) fn unreadable(run: &Run<'_>, position: usize) -> Option<Complaint> {
    let stage = run.stages[position].spec;
    stage.gates.all().find_map(|(_, gate)| {
        let told = crate::condition::unreadable(gate).or_else(|| inside::unanswerable(gate))?;
        let message = format!("Stage {}, gate {}: {told}.", stage.name, gate.name);
        Some(Complaint::new(Reason::InvalidSpec, message))
    })
}
