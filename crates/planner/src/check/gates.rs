//! Gates: nothing starts, passes or ends without the measurement that it needs. Read off the statuses as
//! they are written, with arithmetic of its own.

use jiff::Timestamp;
use wardring_api::{
    Gate, GateMode, GatePhase, GateResult, GateState, GateStatus, GateType, NoData, PatchRollout,
    PatchRolloutStatus, StageState, StageStatus,
};

use super::Replay;

/// Seconds besides two intervals for which a measurement says something.
const SLACK: i128 = 30;

fn state_of<'s>(status: &'s StageStatus, phase: GatePhase, gate: &Gate) -> Option<&'s GateStatus> {
    status.gates.iter().find(|known| known.phase == phase && known.name == gate.name)
}

/// The first enforced gate of the list that has not passed.
fn unpassed<'g>(gates: &'g [Gate], phase: GatePhase, status: &StageStatus) -> Option<&'g Gate> {
    gates.iter().filter(|gate| gate.mode == GateMode::Enforce).find(|gate| {
        state_of(status, phase, gate).is_none_or(|known| known.state != GateState::Passed)
    })
}

/// The first enforced gate of `during` that was measured last before the soak began.
fn older<'g>(
    gates: &'g [Gate],
    status: &StageStatus,
    soaked: Option<Timestamp>,
) -> Option<&'g Gate> {
    let soaked = soaked?.as_second();
    gates.iter().filter(|gate| gate.mode == GateMode::Enforce).find(|gate| {
        let known = state_of(status, GatePhase::During, gate);
        let at = known.and_then(|known| known.measured_at);
        at.is_none_or(|at| at.as_second() < soaked)
    })
}

impl Replay<'_> {
    /// A stage that opens or ends, and every gate that says it passed.
    pub(super) fn gates(
        &mut self,
        rollout: &PatchRollout,
        before: &PatchRolloutStatus,
        status: &PatchRolloutStatus,
    ) {
        for stage in &rollout.spec.stages {
            let Some(now) = status.stages.iter().find(|known| known.name == stage.name) else {
                continue;
            };
            let was = before.stages.iter().find(|known| known.name == stage.name);
            let was_state = was.map_or(StageState::Pending, |was| was.state);
            let opens = matches!(was_state, StageState::Pending | StageState::Gated)
                && matches!(now.state, StageState::Open | StageState::Soaking | StageState::Tail);
            if opens && let Some(gate) = unpassed(&stage.gates.before, GatePhase::Before, now) {
                let message = format!("stage {} would open before gate {}", stage.name, gate.name);
                self.breaks("S7", message);
            }
            if now.state.is_promoted() && !was_state.is_promoted() {
                let soaked = was.and_then(|was| was.soak_started_at).or(now.soak_started_at);
                let during = unpassed(&stage.gates.during, GatePhase::During, now)
                    .or_else(|| older(&stage.gates.during, now, soaked));
                let after = unpassed(&stage.gates.after, GatePhase::After, now);
                if let Some(gate) = during.or(after) {
                    let message = format!(
                        "stage {} would end although gate {} has not passed",
                        stage.name, gate.name
                    );
                    self.breaks("S7", message);
                }
            }
            self.rejections(was, now, before, status);
            for (phase, gate) in stage.gates.all() {
                if gate.kind == GateType::Approval {
                    self.approval(rollout, was, now, phase, gate, status);
                    continue;
                }
                let known = state_of(now, phase, gate);
                let Some(known) = known.filter(|known| known.state == GateState::Passed) else {
                    continue;
                };
                let earlier = was.and_then(|was| state_of(was, phase, gate));
                let has_passed = earlier.is_some_and(|earlier| {
                    earlier.state == GateState::Passed
                        && earlier.definition == known.definition
                        && earlier.started_at == known.started_at
                });
                if !has_passed && !self.is_measured(rollout, &stage.name, gate, known, earlier) {
                    let message = format!(
                        "gate {} of stage {} would pass without a fresh measurement",
                        gate.name, stage.name
                    );
                    self.breaks("S7", message);
                }
            }
        }
    }

    /// Whether a passing measurement of the gate is there that was not counted before and is not old.
    fn is_measured(
        &self,
        rollout: &PatchRollout,
        stage: &str,
        gate: &Gate,
        known: &GateStatus,
        earlier: Option<&GateStatus>,
    ) -> bool {
        let now = self.snapshot.now;
        let seconds = |at: Timestamp| at.as_second();
        if matches!(gate.kind, GateType::DeviceHealth | GateType::Cel) {
            return known.measured_at.map(seconds) == Some(seconds(now));
        }
        let last = earlier.and_then(|earlier| earlier.measured_at).map(seconds);
        let bound = 2 * gate.interval().duration().as_millis() + SLACK * 1000;
        self.snapshot.measurements.iter().any(|measured| {
            let passes = match measured.result {
                GateResult::Pass => true,
                GateResult::NoData => gate.no_data == NoData::Pass,
                GateResult::Fail | GateResult::Inconclusive | GateResult::Error => false,
            };
            passes
                && Some(measured.rollout_uid.as_str()) == rollout.metadata.uid.as_deref()
                && measured.stage == stage
                && measured.gate == gate.name
                && measured.definition == known.definition
                && measured.at <= now
                && now.duration_since(measured.at).as_millis() < bound
                && seconds(measured.at) >= seconds(known.started_at)
                && last.is_none_or(|last| seconds(measured.at) > last)
        })
    }

    /// A device starts only where nothing that the gates say is in the way.
    pub(super) fn gated(
        &mut self,
        rollout: &PatchRollout,
        status: &PatchRolloutStatus,
        stage: &str,
        device: &str,
    ) {
        let spec = rollout.spec.stages.iter().find(|known| known.name == stage);
        let known = status.stages.iter().find(|known| known.name == stage);
        let (Some(spec), Some(known)) = (spec, known) else { return };
        let blind = spec.gates.during.iter().find(|gate| {
            gate.mode == GateMode::Enforce
                && state_of(known, GatePhase::During, gate).is_some_and(|status| {
                    matches!(status.state, GateState::Failed | GateState::Error)
                })
        });
        if let Some(gate) = unpassed(&spec.gates.before, GatePhase::Before, known).or(blind) {
            let message = format!("{device} would be granted although gate {} says no", gate.name);
            self.breaks("S7", message);
        }
    }
}
