//! What a measurement makes of a gate: counters, limits, and the state that follows.

use jiff::Timestamp;
use wardring_api::{
    Gate, GateFailure, GateMode, GatePhase, GateResult, GateState, GateStatus,
    conditions::{clip, whole_seconds},
};

use crate::{Measurement, condition};

/// Measurements without an answer in a row that a gate bears, where it says nothing.
const ERRORS: u32 = 4;

/// Counts one measurement.
pub(super) fn fold(gate: &Gate, status: &mut GateStatus, measured: &Measurement, now: Timestamp) {
    debug_assert!(measured.at <= now, "whoever calls sees to it");
    status.measured_at = Some(whole_seconds(measured.at));
    status.result = Some(measured.result);
    status.query = measured.query.as_deref().map(|query| clip(query, 512));
    status.value = measured.value.as_deref().map(|value| clip(value, 128));
    let result = condition::counted(gate, measured.result);
    match result {
        GateResult::Pass => {
            status.answers = status.answers.saturating_add(1);
            status.consecutive_successes = status.consecutive_successes.saturating_add(1);
            status.consecutive_errors = 0;
        }
        GateResult::Fail => {
            status.answers = status.answers.saturating_add(1);
            status.failures = status.failures.saturating_add(1);
            (status.consecutive_successes, status.consecutive_errors) = (0, 0);
        }
        GateResult::Inconclusive => {
            (status.consecutive_successes, status.consecutive_errors) = (0, 0);
        }
        GateResult::NoData | GateResult::Error => {
            status.consecutive_successes = 0;
            status.consecutive_errors = status.consecutive_errors.saturating_add(1);
        }
    }
    status.state = state(gate, status, result);
}

fn state(gate: &Gate, status: &mut GateStatus, result: GateResult) -> GateState {
    let has_failed = status.failures > gate.failure_limit.unwrap_or(0);
    let in_a_row = status.consecutive_successes >= gate.consecutive_success_limit.unwrap_or(1);
    // What halts stays failed until a person has answered it.
    let recovers = gate.on_failure == GateFailure::Hold || gate.mode == GateMode::DryRun;
    match result {
        GateResult::Pass if has_failed && !(in_a_row && recovers) => GateState::Failed,
        GateResult::Pass => {
            if has_failed {
                // It has recovered, and is counted from its recovery on.
                (status.failures, status.answers) = (0, status.consecutive_successes);
            }
            let is_enough =
                status.phase == GatePhase::During || status.answers >= gate.count.unwrap_or(1);
            if in_a_row && is_enough { GateState::Passed } else { GateState::Waiting }
        }
        _ if has_failed => GateState::Failed,
        GateResult::NoData | GateResult::Error
            if status.consecutive_errors > gate.consecutive_error_limit.unwrap_or(ERRORS)
                || status.state == GateState::Error =>
        {
            GateState::Error
        }
        _ => GateState::Waiting,
    }
}
