//! Gates that are measured from what the planner sees anyway: the stage's devices and counters.

use std::collections::BTreeMap;

use wardring_api::{
    Gate, GateResult, GateType, HealthSignal, LineState, NoData, StageCounts, conditions::clip,
    reasons::Reason,
};

use crate::{
    Measurement,
    condition::{self, ConditionValue, Judgement, Variables},
    gates::gate_definition,
    line::Line,
    validate::{Run, Scene},
};

/// Devices that a measurement names.
const NAMED: usize = 3;

/// Measures a gate that needs nobody outside.
pub(super) fn measure(
    gate: &Gate,
    run: &Run<'_>,
    position: usize,
    scene: &Scene<'_>,
) -> Option<Measurement> {
    let (judged, named) = match gate.kind {
        GateType::Cel => (condition::measure(gate, &counters(run, position)), String::new()),
        _ => health(gate, run, position, scene),
    };
    let Judgement { mut result, value, message } = judged;
    // Counters are always there. What they do not say yet is no blindness that would keep devices from
    // starting, and with that from saying it.
    if result == GateResult::Error || result == GateResult::NoData && gate.no_data == NoData::Wait {
        result = GateResult::Inconclusive;
    }
    let query = gate.cel.as_ref().map(|cel| cel.expression.clone());
    Some(Measurement {
        rollout_uid: run.id.uid.clone(),
        stage: run.stages[position].spec.name.clone(),
        gate: gate.name.clone(),
        definition: gate_definition(gate),
        at: scene.now,
        result,
        query,
        value,
        message: clip(&format!("{message}{named}"), 256),
    })
}

/// What is wrong with a gate over counters whatever they are: a name that no counter has, say.
pub(super) fn unanswerable(gate: &Gate) -> Option<String> {
    if gate.kind != GateType::Cel {
        return None;
    }
    let ConditionValue::Map(mut some) = by_name(&StageCounts::default()) else { return None };
    // Different from each other and from zero: neither a quotient nor a difference of them is none.
    for (number, value) in (1_i64..).map(|number| number * number).zip(some.values_mut()) {
        *value = ConditionValue::Int(number);
    }
    let some = ConditionValue::Map(some);
    let counters =
        Variables::from([("stage".to_owned(), some.clone()), ("rollout".to_owned(), some)]);
    let judged = condition::measure(gate, &counters);
    (judged.result == GateResult::Error).then_some(judged.message)
}

fn by_name(counts: &StageCounts) -> ConditionValue {
    ConditionValue::from(serde_json::to_value(counts).expect("counters are plain JSON"))
}

/// Counters of the stage and of the whole run, by the names that the status has for them.
fn counters(run: &Run<'_>, position: usize) -> Variables {
    let of = by_name;
    let stage = of(&run.stages[position].tally.counts);
    let mut sums: BTreeMap<String, ConditionValue> = BTreeMap::new();
    for each in &run.stages {
        let ConditionValue::Map(fields) = of(&each.tally.counts) else { continue };
        for (name, value) in fields {
            let sum = sums.entry(name).or_insert(ConditionValue::Int(0));
            if let (ConditionValue::Int(sum), ConditionValue::Int(more)) = (sum, value) {
                *sum += more;
            }
        }
    }
    BTreeMap::from([("stage".to_owned(), stage), ("rollout".to_owned(), ConditionValue::Map(sums))])
}

/// The share of devices that are not well, of those that came to an end in the stage.
fn health(gate: &Gate, run: &Run<'_>, position: usize, scene: &Scene<'_>) -> (Judgement, String) {
    let signals = gate.device_health.as_ref().map(|all| all.signals.as_slice()).unwrap_or_default();
    let is_default = |signal| signals.is_empty() && signal != HealthSignal::Silent;
    let asks = |signal| is_default(signal) || signals.contains(&signal);
    let since = run.status.stages[position].started_at;
    let (mut total, mut unhealthy, mut names) = (0_u32, 0_u32, Vec::new());
    if let Some(frozen) = &run.stages[position].frozen {
        for (index, line) in frozen.lines.iter().enumerate() {
            // Bad ends from before a person's retry were answered by it.
            let is_answered = line.state != LineState::Succeeded && line.at < since;
            if !has_ended(line) || is_answered {
                continue;
            }
            total += 1;
            if signal(line, scene).is_some_and(asks) {
                unhealthy += 1;
                if names.len() < NAMED {
                    names.push(frozen.record(index).device.as_str());
                }
            }
        }
    }
    let mut variables = Variables::from([
        ("unhealthy".to_owned(), ConditionValue::Int(unhealthy.into())),
        ("total".to_owned(), ConditionValue::Int(total.into())),
    ]);
    if total > 0 {
        let share = f64::from(unhealthy) / f64::from(total);
        variables.insert("result".to_owned(), ConditionValue::Number(share));
    }
    let mut judged = condition::judge(gate, &variables);
    if total == 0 {
        judged.message = "no device has come to an end yet".to_owned();
    }
    let more = if unhealthy as usize > names.len() { " and more" } else { "" };
    let named = match names.as_slice() {
        [] => String::new(),
        names => format!("{unhealthy} of {total} are not well: {}{more}", names.join(", ")),
    };
    (judged, named)
}

/// Whether the update was tried on the device and came to an end there.
fn has_ended(line: &Line) -> bool {
    matches!(
        line.state,
        LineState::Succeeded
            | LineState::Failed
            | LineState::Unreachable
            | LineState::RevertedByWindows
            | LineState::RolledBack
            | LineState::NotReversible
            | LineState::RollbackFailed
    )
}

/// What is not well about a device, if anything is.
fn signal(line: &Line, scene: &Scene<'_>) -> Option<HealthSignal> {
    let by_reason = |reason: Option<Reason>| match reason? {
        Reason::ServiceDown => Some(HealthSignal::Service),
        Reason::ProbeFailed => Some(HealthSignal::Probe),
        Reason::BootLoop | Reason::RevertedByWindows => Some(HealthSignal::UnexpectedReboot),
        Reason::NotBack | Reason::NetworkLost => Some(HealthSignal::Silent),
        _ => None,
    };
    let row = scene.row(line);
    match line.state {
        LineState::Succeeded if row.is_some_and(|row| row.online == Some(false)) => {
            Some(HealthSignal::Silent)
        }
        LineState::Succeeded => None,
        LineState::RevertedByWindows => Some(HealthSignal::UnexpectedReboot),
        LineState::Unreachable => Some(HealthSignal::Silent),
        _ => by_reason(line.reason).or_else(|| by_reason(line.was_reason)),
    }
}
