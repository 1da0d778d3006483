//! What keeps devices back besides their rollout: a person's EmergencyStop, a freeze, a window, and the
//! providers that gates ask. Each is a step of somebody outside, at any moment.
//!
//! A provider that is asked lets the gate pass sooner or later; that it answers something else, or not
//! at all, is a fault. Its answer lies with the leader that asked, and is lost with it.

use std::sync::Arc;

use wardring_api::{
    EmergencyStop, Gate, GatePhase, GateResult, GateState, GateStatus, MaintenanceWindow,
    PatchRollout, PatchRolloutStatus, StageState, StageStatus,
};
use wardring_planner::{MeasureOrder, Measurement, Plan, StopView, WindowView, gate_definition};

use super::{
    Step, Tenant,
    cluster::{self, Object, UID, minutes, wall},
    flaw::Flaw,
    size::{Gates, TICK},
    state::{Cluster, Leader, Role, State},
};

/// What a provider answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// The gate passes.
    Pass,
    /// The gate fails.
    Fail,
    /// It knows nothing.
    NoData,
    /// It does not answer.
    Error,
}

impl Answer {
    /// Answers that need not come.
    pub const DOUBTS: [Answer; 3] = [Answer::Fail, Answer::NoData, Answer::Error];

    fn result(self) -> GateResult {
        match self {
            Answer::Pass => GateResult::Pass,
            Answer::Fail => GateResult::Fail,
            Answer::NoData => GateResult::NoData,
            Answer::Error => GateResult::Error,
        }
    }
}

/// An answer that a leader holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sample {
    /// Minute in which it was asked for.
    pub at: u32,
    /// The answer.
    pub answer: Answer,
}

/// Minutes between two measurements of a gate. An answer counts for twice that and half a minute more,
/// which is less than what passes at once.
const INTERVAL: u32 = 4;

/// Minutes after which an answer says nothing any more.
pub const STALE: u32 = 2 * INTERVAL + 1;

/// What there may be in the cluster besides the rollout.
pub struct Around {
    stop: [Arc<StopView>; 1],
    /// The window, if there is one, and then the freeze.
    windows: Vec<Arc<WindowView>>,
    /// Digests of what the gates say, by phase.
    definitions: [String; 3],
}

const PHASES: [GatePhase; 3] = [GatePhase::Before, GatePhase::During, GatePhase::After];

/// The gates of a stage.
fn gate(phase: GatePhase, gates: &Gates) -> Option<serde_json::Value> {
    let on_failure = match phase {
        GatePhase::Before => gates.before.then_some("Hold".to_owned()),
        GatePhase::During => gates.during.map(|follows| format!("{follows:?}")),
        GatePhase::After => gates.after.then_some("Hold".to_owned()),
    };
    Some(serde_json::json!({
        "name": format!("{phase:?}").to_lowercase(), "type": "Webhook",
        "webhook": {"provider": "monitoring"}, "interval": format!("{INTERVAL}m"),
        "failureLimit": 0, "consecutiveErrorLimit": 0, "onFailure": on_failure?,
    }))
}

/// What a stage's spec says of its gates and windows.
pub fn stage_spec(gates: &Gates, window: bool) -> (serde_json::Value, serde_json::Value) {
    let list = |phase| gate(phase, gates).into_iter().collect::<Vec<_>>();
    let gates = serde_json::json!({
        "before": list(GatePhase::Before), "during": list(GatePhase::During),
        "after": list(GatePhase::After),
    });
    (gates, if window { serde_json::json!(["night"]) } else { serde_json::json!([]) })
}

impl Around {
    /// What there may be around a rollout with these gates.
    pub fn new(gates: &Gates, window: bool) -> Around {
        let read = |spec| serde_json::from_value(spec).expect("the window reads");
        let night = serde_json::json!({
            "type": "Allow", "schedule": {"cron": "10,40 * * * *"}, "timeZone": "UTC",
            "duration": format!("{TICK}m"), "overrun": {"action": "Hold"},
        });
        let freeze = serde_json::json!({
            "type": "Deny", "reason": "the ward moves",
            "schedule": {"once": {"from": wall(0), "until": wall(1_000_000)}},
        });
        let view =
            |name, spec| Arc::new(WindowView::new(&MaintenanceWindow::new(name, read(spec))));
        let mut windows = vec![view("freeze", freeze)];
        if window {
            windows.insert(0, view("night", night));
        }
        let stop = serde_json::json!({"reason": "the ward's software does not start"});
        let stop = serde_json::from_value(stop).expect("the stop reads");
        let definitions = PHASES.map(|phase| {
            let gate = gate(phase, gates);
            gate.map_or(String::new(), |gate| {
                gate_definition(&serde_json::from_value::<Gate>(gate).expect("the gate reads"))
            })
        });
        let stop = [Arc::new(StopView::new(&EmergencyStop::new("ward", stop)))];
        Around { stop, windows, definitions }
    }
}

/// Whether the window is open in a minute, by a reckoning of its own.
pub fn is_open(minute: u32) -> bool {
    (TICK..2 * TICK).contains(&(minute % (3 * TICK)))
}

/// Number of a gate, over all stages.
pub fn number(stage: usize, phase: GatePhase) -> usize {
    3 * stage + phase as usize
}

/// What is recorded of the gate of a phase.
pub fn recorded(status: &StageStatus, phase: GatePhase) -> Option<GateState> {
    status.gates.iter().find(|gate| gate.phase == phase).map(|gate| gate.state)
}

impl Tenant {
    /// The windows that there are.
    pub fn windows(&self, api: &Cluster) -> &[Arc<WindowView>] {
        let all = &self.around.windows;
        &all[..all.len() - usize::from(!api.denied)]
    }

    /// The EmergencyStops that there are.
    pub fn stops(&self, api: &Cluster) -> &[Arc<StopView>] {
        &self.around.stop[..usize::from(api.stopped)]
    }

    /// The gate that an order is about, and from which minute on it is to be measured.
    pub fn ordered(&self, order: &MeasureOrder) -> (u8, u32) {
        (number(self.stage_named(&order.stage), order.phase) as u8, minutes(order.due))
    }

    /// Stage of a name.
    fn stage_named(&self, name: &str) -> usize {
        let number = name.strip_prefix("stage-").and_then(|number| number.parse().ok());
        number.expect("stages are numbered")
    }

    /// What the leader had measured, for its planner.
    pub fn measurements(&self, now: u32, leader: &Leader) -> Vec<Measurement> {
        let taken = leader.samples.iter().map(|(gate, sample)| {
            let (stage, phase) = (gate / 3, PHASES[usize::from(gate % 3)]);
            let told = match self.flaw {
                Some(Flaw::ErrorPasses) if sample.answer != Answer::Fail => Answer::Pass,
                _ => sample.answer,
            };
            Measurement {
                rollout_uid: UID.to_owned(),
                stage: format!("stage-{stage}"),
                gate: format!("{phase:?}").to_lowercase(),
                definition: self.around.definitions[phase as usize].clone(),
                at: wall(if self.flaw == Some(Flaw::OldSample) { now } else { sample.at }),
                result: told.result(),
                query: None,
                value: None,
                message: String::new(),
            }
        });
        taken.collect()
    }

    /// Gates that a plan says have passed by an answer that was not counted before.
    pub fn passes(&self, before: Option<&PatchRolloutStatus>, plan: &Plan) -> Vec<u8> {
        let mut passes = Vec::new();
        let Some(rollout) = plan.rollouts.first() else { return passes };
        for (index, stage) in rollout.status.stages.iter().enumerate() {
            let was = before.and_then(|status| status.stages.get(index));
            let passed = |gate: &&GateStatus| gate.state == GateState::Passed;
            let measured = stage.gates.iter().filter(|gate| gate.approval.is_none());
            for gate in measured.filter(passed) {
                let mut known = was.iter().flat_map(|stage| &stage.gates);
                let is_known = known.any(|known| {
                    (known.phase, known.state) == (gate.phase, GateState::Passed)
                        && known.measured_at == gate.measured_at
                });
                if !is_known {
                    passes.push(number(index, gate.phase) as u8);
                }
            }
        }
        passes
    }

    /// Gates that the leader has to have measured now.
    fn asked_for(&self, state: &State) -> Vec<u8> {
        let Some(holder) = state.holder else { return Vec::new() };
        let leader = &state.leaders[usize::from(holder)];
        if leader.role != Role::Leader || self.size.gates == Gates::default() {
            return Vec::new();
        }
        let planned = self.planned(state, leader);
        let is_new = |gate: &u8| leader.samples.get(gate).is_none_or(|all| all.at < state.now);
        let due = planned.measure.iter().filter(|(_, due)| *due <= state.now);
        due.map(|(gate, _)| *gate).filter(is_new).collect()
    }

    /// Steps outside that somebody takes sooner or later: providers answer, and what a person began
    /// ends.
    pub fn progress_outside(&self, state: &State, steps: &mut Vec<Step>) {
        steps
            .extend(self.asked_for(state).into_iter().map(|gate| Step::Answer(gate, Answer::Pass)));
        if state.api.stopped {
            steps.push(Step::Lift);
        }
        if state.api.denied {
            steps.push(Step::EndFreeze);
        }
    }

    /// Steps outside that happen only so often.
    pub fn faults_outside(&self, state: &State, steps: &mut Vec<Step>) {
        if state.left.doubts > 0 {
            for gate in self.asked_for(state) {
                steps.extend(Answer::DOUBTS.map(|answer| Step::Answer(gate, answer)));
            }
        }
        if state.left.stops > 0 && !state.api.stopped {
            steps.push(Step::Stop);
        }
        if state.left.denials > 0 && !state.api.denied {
            steps.push(Step::BeginFreeze);
        }
    }

    /// A provider answers the leader.
    pub fn answered(&self, state: &mut State, gate: u8, answer: Answer) {
        if answer != Answer::Pass {
            state.left.doubts -= 1;
        }
        let Some(holder) = state.holder else { return };
        let sample = Sample { at: state.now, answer };
        state.leaders[usize::from(holder)].samples.insert(gate, sample);
        self.hears_answer(state, gate, answer);
    }

    /// A person puts a stop in force, or begins a freeze, or takes it back.
    pub fn decide(&self, state: &mut State, step: Step) {
        let now = state.now;
        match step {
            Step::Stop => {
                state.left.stops -= 1;
                (state.api.stopped, state.truth.stopped_at) = (true, Some(now));
            }
            Step::Lift => (state.api.stopped, state.truth.stopped_at) = (false, None),
            Step::BeginFreeze => {
                state.left.denials -= 1;
                (state.api.denied, state.truth.denied_at) = (true, Some(now));
            }
            Step::EndFreeze => (state.api.denied, state.truth.denied_at) = (false, None),
            _ => {}
        }
    }

    /// Drops answers that were counted, and those of whoever leads no more.
    pub fn settle_samples(&self, state: &mut State, leader: usize) {
        if state.leaders[leader].samples.is_empty() {
            return;
        }
        if state.leaders[leader].role != Role::Leader {
            state.leaders[leader].samples.clear();
            return;
        }
        let status = state.api.rollout.shared();
        let stages = status.status.iter().flat_map(|status| status.stages.iter().enumerate());
        for (index, stage) in stages {
            for gate in &stage.gates {
                let number = number(index, gate.phase) as u8;
                let Some(counted) = gate.measured_at.map(minutes) else { continue };
                let samples = &mut state.leaders[leader].samples;
                if samples.get(&number).is_some_and(|sample| sample.at <= counted) {
                    samples.remove(&number);
                }
            }
        }
    }

    /// The planner is told that gates have passed that have not.
    pub fn forge(&self, status: &mut PatchRolloutStatus) {
        let (state, phase) = match self.flaw {
            Some(Flaw::UngatedBefore) => (StageState::Gated, GatePhase::Before),
            _ => (StageState::Soaking, GatePhase::After),
        };
        let stages = status.stages.iter_mut().filter(|stage| stage.state == state);
        for gate in stages.flat_map(|stage| &mut stage.gates).filter(|all| all.phase == phase) {
            gate.state = GateState::Passed;
        }
    }

    /// A gateway does not see what windows and gates say.
    pub fn deafen(&self, rollout: &mut PatchRollout) {
        if self.flaw == Some(Flaw::PermitOutsideWindow) {
            rollout.spec.stages.iter_mut().for_each(|stage| stage.windows.clear());
            return;
        }
        let stages = rollout.status.iter_mut().flat_map(|status| &mut status.stages);
        for gate in stages.flat_map(|stage| &mut stage.gates) {
            if self.flaw == Some(Flaw::PermitPastGates) || gate.approval.is_some() {
                gate.state = GateState::Passed;
            }
        }
    }

    /// A new leader's first write empties what gates said.
    pub fn forget_latches(&self, state: &mut State) {
        let object = PatchRollout::clone(&state.api.rollout);
        let Some(mut status) = object.status.clone() else { return };
        status.stages.iter_mut().for_each(|stage| stage.gates.clear());
        state.api.rollout = cluster::rollout(object, Some(status));
        self.aged(state, Object::Rollout);
    }
}
