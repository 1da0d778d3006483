//! Gates in words. The same sentence stands in the status, in what the rollout waits for, in events and
//! in explanations.

use wardring_api::{
    Gate, GatePhase, GateResult, GateState, GateStatus, GateType, Stage, StageState, StageStatus,
    Waiting, conditions::clip, reasons::Reason,
};

use jiff::Timestamp;

use super::{is_enforced, orphaned_rejection, soaked_from, status_of};
use crate::validate::Complaint;

/// Writes the sentence about the gate into its status.
pub(super) fn tell(stage: &Stage, gate: &Gate, status: &mut GateStatus, why: Option<&str>) {
    status.message = Some(sentence(stage, gate, status, why));
}

/// Where a gate stands, in one sentence.
pub(super) fn sentence(
    stage: &Stage,
    gate: &Gate,
    status: &GateStatus,
    why: Option<&str>,
) -> String {
    let dry = if is_enforced(gate) { "" } else { " (DryRun, nothing follows from it)" };
    let subject = format!("Stage {}: gate {}{dry}", stage.name, gate.name);
    let why = why.map(crate::explain::one_line).filter(|why| !why.is_empty());
    let seen = seen(status, why.as_deref());
    let needs = status
        .threshold
        .as_deref()
        .map_or(String::new(), |text| format!("; it passes by `{text}`"));
    let text = match status.state {
        GateState::Passed => format!("{subject} passed{seen}."),
        GateState::Failed if status.consecutive_successes > 0 => {
            format!("{subject} failed and has not recovered yet{seen}{}.", counted(gate, status))
        }
        GateState::Failed => format!("{subject} failed{seen}{needs}{}.", borne(gate, status)),
        GateState::Error => format!("{subject} cannot be measured{seen}."),
        GateState::Waiting if status.measured_at.is_none() => {
            format!("{subject} waits for its first measurement{}.", source(gate))
        }
        GateState::Waiting => {
            format!("{subject} has not passed yet{seen}{needs}{}.", counted(gate, status))
        }
    };
    clip(&text, 512)
}

/// What was measured last, and when.
fn seen(status: &GateStatus, why: Option<&str>) -> String {
    let speaks = status.result != Some(GateResult::Error) && status.state != GateState::Error;
    let value = status.value.as_ref().filter(|_| speaks);
    let told = match (value, why) {
        (Some(value), Some(why)) => format!("{value}, {why}"),
        (Some(value), None) => value.clone(),
        (None, Some(why)) => why.to_owned(),
        (None, None) => return String::new(),
    };
    let at = status.measured_at.map_or(String::new(), |at| format!(", at {at}"));
    format!(": {told}{at}")
}

/// How often it may fail, where it may.
fn borne(gate: &Gate, status: &GateStatus) -> String {
    match gate.failure_limit.unwrap_or(0) {
        0 => String::new(),
        limit => format!("; it failed {} times, and failureLimit allows {limit}", status.failures),
    }
}

/// How many measurements it still needs, where one is not enough.
fn counted(gate: &Gate, status: &GateStatus) -> String {
    let count = gate.count.unwrap_or(1);
    let row = gate.consecutive_success_limit.unwrap_or(1);
    let counts = status.phase != GatePhase::During && status.state != GateState::Failed;
    if counts && count > 1 && status.answers < count {
        return format!("; {} of {count} measurements", status.answers);
    }
    if row > 1 {
        return format!("; {} of {row} passes in a row", status.consecutive_successes);
    }
    String::new()
}

fn source(gate: &Gate) -> String {
    let provider = match gate.kind {
        GateType::Prometheus => gate.prometheus.as_ref().map(|all| &all.provider),
        GateType::Alertmanager => gate.alertmanager.as_ref().map(|all| &all.provider),
        GateType::Webhook => gate.webhook.as_ref().map(|all| &all.provider),
        GateType::Tickets => gate.tickets.as_ref().map(|all| &all.provider),
        GateType::DeviceHealth | GateType::Cel | GateType::Approval => None,
    };
    provider.map_or(String::new(), |name| format!(" by GateProvider {name}"))
}

/// Every gate in the way, each with its sentence.
pub(crate) fn waits(stage: &Stage, status: &StageStatus) -> Vec<Waiting> {
    let told = |(next, complaint): (Option<Timestamp>, Complaint)| Waiting {
        reason: complaint.reason.as_str().to_owned(),
        message: complaint.message,
        devices: None,
        until: next,
    };
    in_the_way(stage, status, takes_devices(status)).map(told).collect()
}

/// Why no device of the stage may start, or why the stage may not end, as far as gates are concerned:
/// the first gate in the way.
pub(crate) fn held(stage: &Stage, status: &StageStatus) -> Option<Complaint> {
    in_the_way(stage, status, takes_devices(status)).next().map(|(_, complaint)| complaint)
}

/// Why no device of the stage may start, also while it is being watched and open for latecomers.
pub(crate) fn bars_starts(stage: &Stage, status: &StageStatus) -> Option<Complaint> {
    in_the_way(stage, status, true).next().map(|(_, complaint)| complaint)
}

/// Whether what the stage does next is to start devices; otherwise it is to end.
fn takes_devices(status: &StageStatus) -> bool {
    matches!(status.state, StageState::Gated | StageState::Open | StageState::Tail)
}

/// The gates in the way of starts, or of the stage's end.
fn in_the_way<'s>(
    stage: &'s Stage,
    status: &'s StageStatus,
    starts: bool,
) -> impl Iterator<Item = (Option<Timestamp>, Complaint)> + 's {
    let gates = stage.gates.all().filter(|(_, gate)| is_enforced(gate));
    // What was measured while devices were still being patched says nothing about how they do since.
    let soaked = soaked_from(status);
    let is_from_before = move |known: Option<&GateStatus>| {
        soaked.is_some_and(|from| known.and_then(|known| known.measured_at) < Some(from))
    };
    let orphan = orphaned_rejection(stage, status).into_iter().map(|known| {
        let message = known.message.clone().unwrap_or_default();
        (None, Complaint::new(Reason::ApprovalRejected, message))
    });
    let others = gates.filter_map(move |(phase, gate)| {
        let known = status_of(status, phase, gate);
        let state = known.map_or(GateState::Waiting, |known| known.state);
        let is_in_the_way = match phase {
            GatePhase::Before => state != GateState::Passed,
            GatePhase::During if starts => {
                status.state != StageState::Gated
                    && matches!(state, GateState::Failed | GateState::Error)
            }
            GatePhase::During => state != GateState::Passed || is_from_before(known),
            GatePhase::After => !starts && state != GateState::Passed,
        };
        if !is_in_the_way {
            return None;
        }
        let reason = match state {
            GateState::Failed if gate.kind == GateType::Approval => Reason::ApprovalRejected,
            GateState::Error if gate.kind == GateType::Approval => Reason::ApprovalPolicyBroken,
            _ if gate.kind == GateType::Approval => Reason::AwaitingApproval,
            GateState::Failed => Reason::GateFailed,
            GateState::Error => Reason::GateError,
            GateState::Waiting | GateState::Passed => Reason::GateWaiting,
        };
        let first = if state == GateState::Passed {
            "first measurement of the soak"
        } else {
            "first measurement"
        };
        let told = known.filter(|_| state != GateState::Passed);
        let first = if gate.kind == GateType::Approval { "approval" } else { first };
        let message = told.and_then(|known| known.message.clone()).unwrap_or_else(|| {
            format!(
                "Stage {}: gate {} waits for its {first}{}.",
                stage.name,
                gate.name,
                source(gate)
            )
        });
        Some((known.and_then(|known| known.next), Complaint::new(reason, message)))
    });
    orphan.chain(others)
}
