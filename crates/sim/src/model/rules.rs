//! The rules of design section 12, held against every step by an onlooker who sees what no process
//! sees. A broken rule is part of the state, so that the search finds the way to it.

use std::collections::BTreeSet;

use stateright::Property;
use wardring_api::{
    GateFailure, GatePhase, GateState, LineState, PatchRolloutStatus, PermitStep, SliceLine,
    StageState, StageStatus,
};
use wardring_planner::JobOutcome;

use super::{
    Tenant,
    brakes::{Answer, STALE, is_open, number, recorded},
    cluster::minutes,
    size::Gates,
    state::{Asked, Cluster, Role, State, Truth},
};

impl Truth {
    /// Whether the provider ever let a gate pass, by number.
    fn has_passed(&self, gate: usize) -> bool {
        self.passed & (1 << gate) != 0
    }
}

impl State {
    /// Notes the first rule that is broken.
    pub fn breaks(&mut self, rule: &'static str) {
        self.truth.broken.get_or_insert(rule);
    }
}

impl Tenant {
    /// What the search looks for.
    pub fn rules(&self) -> Vec<Property<Tenant>> {
        fn keeps(rule: &'static str, state: &State) -> bool {
            state.truth.broken != Some(rule)
        }
        vec![
            Property::always("S2", |_, state| keeps("S2", state)),
            Property::always("S3", |_, state| keeps("S3", state)),
            Property::always("S4", |_, state| keeps("S4", state)),
            Property::always("S5", |_, state| keeps("S5", state)),
            Property::always("S7", |_, state| keeps("S7", state)),
            Property::always("S8", |_, state| keeps("S8", state)),
            Property::always("S14", |_, state| keeps("S14", state)),
            Property::always("S15", |_, state| keeps("S15", state)),
            Property::always("plan check", |_, state| keeps("plan check", state)),
            Property::always("L1", |tenant: &Tenant, state: &State| {
                !state.rests || tenant.ends_well(state)
            }),
        ]
    }

    /// Everything that was written in one step, against what was there before.
    pub fn written(&self, before: &Cluster, state: &mut State) {
        let sequence = |api: &Cluster| api.ledger.as_ref().map_or(0, |ledger| ledger.sequence);
        if sequence(&state.api) < sequence(before) {
            state.breaks("S4");
        }
        let status = state.api.rollout.status.as_ref();
        let halted = status.is_some_and(|status| status.halted.is_some());
        match (halted, state.truth.halted_at) {
            (true, None) => state.truth.halted_at = Some(state.now),
            (false, Some(_)) => state.truth.halted_at = None,
            _ => {}
        }
        self.gates_written(before, state);
        self.approvals_written(before, state);
        if (0..state.agents.len()).any(|device| self.is_uncounted(state, device)) {
            state.breaks("S2");
        }
        for stage in 0..state.api.slices.len() {
            if state.api.slices[stage] != before.slices[stage] {
                self.lines_written(before, state, stage);
            }
            if self.in_flight(&state.api, stage) > self.cap_of(state, stage) {
                state.breaks("S2");
            }
        }
    }

    /// A stage opens and ends only behind what its provider really said, and what a gate of `during`
    /// says against it is remembered.
    fn gates_written(&self, before: &Cluster, state: &mut State) {
        if self.size.gates == Gates::default() {
            return;
        }
        let now = state.api.rollout.shared();
        let Some(status) = &now.status else { return };
        for (stage, status) in status.stages.iter().enumerate() {
            let was = before.rollout.status.as_ref().and_then(|status| status.stages.get(stage));
            let was = was.map_or(StageState::Pending, |was| was.state);
            let passed = |phase| state.truth.has_passed(number(stage, phase));
            let is_open = !matches!(status.state, StageState::Pending | StageState::Gated);
            let gates = &self.size.gates;
            let opens = is_open && matches!(was, StageState::Pending | StageState::Gated);
            let ends = status.state == StageState::Completed && was != StageState::Completed;
            let unseen = gates.during.is_some() && !self.is_watched(state, stage, status);
            if opens && gates.before && !passed(GatePhase::Before) || ends && unseen {
                state.breaks("S7");
            } else if ends && gates.after && !passed(GatePhase::After) {
                state.breaks("S3");
            }
            let recorded = recorded(status, GatePhase::During);
            // Where it has just let the gate pass, the record comes after.
            let recovers = state.truth.answers[number(stage, GatePhase::During)]
                .is_some_and(|(at, last)| last == Answer::Pass && state.now < at + STALE)
                && !self.is_final(recorded);
            let says_no = status.state == StageState::Open
                && matches!(recorded, Some(GateState::Failed | GateState::Error))
                && !recovers;
            if says_no {
                state.truth.barred[stage].get_or_insert(state.now);
            }
        }
    }

    /// Whether a gate of `during` stays failed, whatever its provider says from now on.
    fn is_final(&self, recorded: Option<GateState>) -> bool {
        recorded == Some(GateState::Failed) && self.size.gates.during == Some(GateFailure::Halt)
    }

    /// Whether the gate of `during` was let pass, and was asked since the stage's watch began.
    fn is_watched(&self, state: &State, stage: usize, status: &StageStatus) -> bool {
        let gate = number(stage, GatePhase::During);
        let soaked = status.soak_started_at.map_or(0, minutes);
        state.truth.has_passed(gate)
            && state.truth.answers[gate].is_some_and(|last| last.0 >= soaked)
    }

    /// A provider answers a gate.
    pub fn hears_answer(&self, state: &mut State, gate: u8, answer: Answer) {
        let gate = usize::from(gate);
        state.truth.answers[gate] = Some((state.now, answer));
        if answer != Answer::Pass {
            return;
        }
        state.truth.passed |= 1 << gate;
        let stage = gate / 3;
        let status = state.api.rollout.status.as_ref();
        let recorded = status
            .and_then(|status| status.stages.get(stage))
            .and_then(|status| recorded(status, GatePhase::During));
        let stays = self.is_final(recorded);
        if gate == number(stage, GatePhase::During) && !stays {
            state.truth.barred[stage] = None;
        }
    }

    /// A plan says that gates passed: each by an answer that says so and is not old.
    pub fn counts(&self, state: &mut State, passes: &[u8]) {
        let is_true = |gate: &u8| {
            let last = state.truth.answers[usize::from(*gate)];
            last.is_some_and(|(at, answer)| answer == Answer::Pass && state.now < at + STALE)
        };
        if !passes.iter().all(is_true) {
            state.breaks("S7");
        }
    }

    /// Whether a device is at work, and the record says that nothing was begun.
    fn is_uncounted(&self, state: &State, device: usize) -> bool {
        let agent = &state.agents[device];
        let Some(task) = agent.task.filter(|_| agent.is_at_work()) else { return false };
        let (stage, position) = self.place(device);
        let waits = state.api.line(stage, position).is_none_or(|line| {
            line.attempt <= task.attempt
                && matches!(line.state, LineState::Pending | LineState::NotStarted)
        });
        let is_left_over = state.api.jobs[device].as_ref().is_some_and(|job| {
            job.attempt == task.attempt && (job.repaired || !job.permitted.is_empty())
        });
        waits && !is_left_over
    }

    fn lines_written(&self, before: &Cluster, state: &mut State, stage: usize) {
        let Some(slice) = state.api.slices[stage].clone() else { return };
        for (position, line) in slice.lines.iter().enumerate() {
            let fresh = SliceLine::pending(&line.device);
            let was = before.line(stage, position).unwrap_or(&fresh);
            if line.attempt < was.attempt || line.sequence < was.sequence {
                state.breaks("S4");
            }
            let is_granted = line.state == LineState::Granted
                && (was.state != LineState::Granted || was.attempt != line.attempt);
            if !is_granted {
                continue;
            }
            // Whoever writes it, the ledger must have named it before anything else.
            let text = format!("{} {} {}", line.device, line.attempt, line.action.as_str());
            let is_named = state.api.ledger.as_ref().is_some_and(|ledger| {
                ledger.batch.as_ref().is_some_and(|batch| {
                    batch.sequence == line.sequence
                        && batch.slice == slice.name
                        && batch.grants.contains(&text)
                })
            });
            if !is_named {
                state.breaks("S15");
            }
            if was.state == LineState::Succeeded {
                state.breaks("S8");
            }
            if !self.is_turn_of(state, stage) {
                state.breaks("S3");
            }
        }
    }

    /// Whether the stages before are proven: by their record, and in truth.
    fn is_turn_of(&self, state: &State, stage: usize) -> bool {
        (0..stage).all(|earlier| {
            let status = state.api.rollout.status.as_ref();
            let recorded = status
                .and_then(|status| status.stages.get(earlier))
                .is_some_and(|status| status.state.is_promoted());
            let mut devices = self.devices_of(earlier);
            let gated =
                !self.size.gates.after || state.truth.has_passed(number(earlier, GatePhase::After));
            recorded && gated && devices.any(|device| state.agents[device].is_proven())
        })
    }

    /// Devices of a stage that may be at work as far as anybody can know: named by the open batch,
    /// granted, or permitted whatever their line says.
    fn in_flight(&self, api: &Cluster, stage: usize) -> usize {
        let Some(slice) = &api.slices[stage] else { return 0 };
        let mut flying: BTreeSet<usize> = BTreeSet::new();
        let batch = api.ledger.as_ref().and_then(|ledger| ledger.batch.as_ref());
        for (position, device) in self.devices_of(stage).enumerate() {
            let Some(line) = slice.lines.get(position) else { continue };
            let is_named = batch.is_some_and(|batch| {
                batch.slice == slice.name
                    && line.sequence < batch.sequence
                    && batch
                        .grants
                        .iter()
                        .any(|text| text.starts_with(&format!("{} ", line.device)))
            });
            let is_left_over = api.jobs[device].as_ref().is_some_and(|job| {
                matches!(line.state, LineState::Pending | LineState::NotStarted)
                    && job.attempt == line.attempt
                    && !job.permitted.is_empty()
                    && job.outcome == JobOutcome::None
            });
            let is_answered = api.jobs[device]
                .as_ref()
                .is_some_and(|job| job.attempt == line.attempt && job.outcome != JobOutcome::None);
            let is_granted = line.state == LineState::Granted && !is_answered;
            if is_granted || is_named || is_left_over {
                flying.insert(device);
            }
        }
        flying.len()
    }

    /// A gateway decides to permit: on a fresh read the grant is in force.
    pub fn permits(&self, state: &mut State, asked: &Asked) {
        let (stage, position) = self.place(usize::from(asked.device));
        let in_force = state
            .api
            .line(stage, position)
            .is_some_and(|line| line.state == LineState::Granted && line.attempt == asked.attempt);
        if !in_force {
            state.breaks("S15");
        }
    }

    /// An irreversible step begins on a device.
    pub fn begins(&self, state: &mut State, device: usize, step: PermitStep) {
        let is_long_past = |since: Option<u32>| since.is_some_and(|since| since < state.now);
        let truth = &state.truth;
        let stops = [truth.halted_at, truth.unled_since, truth.stopped_at];
        let is_frozen = is_long_past(truth.denied_at);
        let (stage, _) = self.place(device);
        let is_install = step == PermitStep::Install;
        let is_barred = is_install && is_long_past(truth.barred[stage]);
        let is_unapproved = is_install && is_long_past(state.people.barred[stage]);
        if stops.into_iter().any(is_long_past) {
            state.breaks("S5");
        }
        if is_frozen || (self.size.window && !is_open(state.now)) {
            state.breaks("S14");
        }
        if is_unapproved {
            state.breaks("S7");
        }
        if is_barred {
            // A gate that halts is a halt from the moment in which its failure is written.
            let halts = self.size.gates.during == Some(GateFailure::Halt);
            state.breaks(if halts { "S5" } else { "S7" });
        }
        if !self.is_turn_of(state, stage) {
            state.breaks("S3");
        }
        if state.agents[device].is_proven() {
            state.breaks("S8");
        }
    }

    /// An irreversible step has begun on a device.
    pub fn under_way(&self, state: &mut State, device: usize) {
        let agent = &state.agents[device];
        if u32::from(agent.installs) > self.size.attempts || agent.restarts > 1 {
            state.breaks("S8");
        }
        let (stage, _) = self.place(device);
        let devices = self.devices_of(stage);
        let working = devices.filter(|&device| state.agents[device].is_at_work());
        if working.count() > self.cap_of(state, stage) {
            state.breaks("S2");
        }
    }

    /// Whether the rollout has come to an end and nothing of it is left to do.
    pub fn is_over(&self, state: &State) -> bool {
        let is_done = |status: &PatchRolloutStatus| {
            let mut stages = status.stages.iter();
            status.halted.is_some() || stages.all(|stage| stage.state == StageState::Completed)
        };
        state.api.rollout.status.as_ref().is_some_and(is_done) && self.has_landed(state)
    }

    /// Whether no device is granted, and no job is there.
    pub fn has_landed(&self, state: &State) -> bool {
        let mut lines = state.api.slices.iter().flatten().flat_map(|slice| &slice.lines);
        lines.all(|line| line.state != LineState::Granted)
            && state.api.jobs.iter().all(Option::is_none)
    }

    /// The rollout is completed, or something that befell it halted it, or it waits for people who said no
    /// or nothing; and nothing is left over.
    pub fn ends_well(&self, state: &State) -> bool {
        let Some(status) = &state.api.rollout.status else { return false };
        let completed = !status.stages.is_empty()
            && status.stages.iter().all(|stage| stage.state == StageState::Completed);
        let gate_halts = self.size.gates.during == Some(GateFailure::Halt)
            && state.left.doubts < self.size.faults.doubts;
        let befell = (state.truth.hurried && !self.size.patient)
            || state.left.failures < self.size.faults.failures
            || gate_halts;
        let halted = status.halted.is_some() && befell;
        let lines = state.api.slices.iter().flatten().flat_map(|slice| &slice.lines);
        let mut flying = lines.filter(|line| line.state == LineState::Granted);
        let at_rest = state
            .leaders
            .iter()
            .all(|leader| leader.work.is_none() && leader.role != Role::TakingOver);
        let waits = status.halted.is_none() && self.waits_for_people(state);
        (completed || halted || waits)
            && flying.next().is_none()
            && at_rest
            && state.agents.iter().all(|agent| !agent.is_at_work())
            && (!(completed || waits) || state.api.jobs.iter().all(Option::is_none))
    }
}
