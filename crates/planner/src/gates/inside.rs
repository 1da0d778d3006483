//! Gates that are measured from what the planner sees anyway: the stage's devices and counters.

use std::collections::BTreeMap;

use jiff::Timestamp;
use wardring_api::{
    Gate, GateResult, GateType, HealthSignal, Hold, LineState, NoData, StageCounts,
    conditions::clip, reasons::Reason,
};

use crate::{
    Measurement,
    condition::{self, ConditionValue, Judgement, Variables},
    devices::LiveHealth,
    gates::gate_definition,
    line::Line,
    validate::{Run, Scene},
};

/// Devices that a measurement names.
const NAMED: usize = 3;

const SIGNALS: [HealthSignal; 4] = [
    HealthSignal::Service,
    HealthSignal::Probe,
    HealthSignal::UnexpectedReboot,
    HealthSignal::Silent,
];

/// Measures a gate that needs nobody outside, and that began at `began`.
pub(super) fn measure(
    gate: &Gate,
    run: &Run<'_>,
    position: usize,
    scene: &Scene<'_>,
    began: Timestamp,
) -> Option<Measurement> {
    let (judged, named) = match gate.kind {
        GateType::Cel => (condition::measure(gate, &counters(run, position)), String::new()),
        _ => health(gate, run, position, scene, began),
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
fn health(
    gate: &Gate,
    run: &Run<'_>,
    position: usize,
    scene: &Scene<'_>,
    began: Timestamp,
) -> (Judgement, String) {
    let signals = gate.device_health.as_ref().map(|all| all.signals.as_slice()).unwrap_or_default();
    let is_default = |signal| signals.is_empty() && signal != HealthSignal::Silent;
    let asks = |signal| is_default(signal) || signals.contains(&signal);
    let since = run.status.stages[position].started_at;
    let retried = retried_at(run, position, began);
    let (mut total, mut unhealthy, mut names) = (0_u32, 0_u32, Vec::new());
    if let Some(frozen) = &run.stages[position].frozen {
        for (index, line) in frozen.lines.iter().enumerate() {
            // Bad ends from before a person's retry were answered by it.
            let is_answered = line.state != LineState::Succeeded && line.at < since;
            if !has_ended(line) || is_answered {
                continue;
            }
            total += 1;
            let live = Live::of(line, run, scene, retried);
            if SIGNALS.into_iter().any(|signal| asks(signal) && shows(line, signal, live)) {
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

/// Whether a device shows this. A device that was proven shows what its agent sees since; of one that is
/// silent nobody knows that it is well again.
fn shows(line: &Line, signal: HealthSignal, live: Live<'_>) -> bool {
    let by_reason = |reason: Option<Reason>| match reason? {
        Reason::ServiceDown => Some(HealthSignal::Service),
        Reason::ProbeFailed => Some(HealthSignal::Probe),
        Reason::BootLoop | Reason::RevertedByWindows => Some(HealthSignal::UnexpectedReboot),
        Reason::NotBack | Reason::NetworkLost => Some(HealthSignal::Silent),
        _ => None,
    };
    let has = |is_so: fn(&LiveHealth) -> bool| live.health.is_some_and(is_so);
    match line.state {
        LineState::Succeeded => match signal {
            HealthSignal::Service => has(|health| health.service),
            HealthSignal::Probe => has(|health| health.probe),
            HealthSignal::UnexpectedReboot => {
                // What came before a person's retry was answered by it.
                let restarted = live.health.and_then(|health| health.restarted);
                restarted.is_some_and(|at| live.retried.is_none_or(|retried| at >= retried))
            }
            HealthSignal::Silent => live.is_offline || has(|health| health.blind),
        },
        LineState::RevertedByWindows => signal == HealthSignal::UnexpectedReboot,
        LineState::Unreachable => signal == HealthSignal::Silent,
        _ => by_reason(line.reason).or_else(|| by_reason(line.was_reason)) == Some(signal),
    }
}

/// What is known of a device beside its line.
#[derive(Clone, Copy, Default)]
struct Live<'a> {
    /// How it is since the line's installation, where its agent looks at that.
    health: Option<&'a LiveHealth>,
    /// No agent is in contact.
    is_offline: bool,
    /// When a person last answered what the gate said, if anybody did.
    retried: Option<Timestamp>,
}

impl<'a> Live<'a> {
    fn of(line: &Line, run: &Run<'_>, scene: &Scene<'a>, retried: Option<Timestamp>) -> Live<'a> {
        // Of a device that a person holds he knows how it is; its line's own end counts all the same.
        let is_held = |hold: &Hold| hold.until.is_none_or(|until| scene.now < until);
        let row = scene.row(line).filter(|row| !row.hold.as_deref().is_some_and(is_held));
        // A later attempt that began ends the look, so what is there is of the last one that did: a grant
        // that was taken back leaves its number behind and no installation.
        let is_of_line = |health: &&LiveHealth| {
            *health.rollout_uid == *run.id.uid && health.attempt <= line.attempt
        };
        Live {
            health: row.and_then(|row| row.health.iter().find(is_of_line)),
            is_offline: row.is_some_and(|row| row.online == Some(false)),
            retried,
        }
    }
}

/// When a person's retry last began the gate anew, if one may have. Devices' clocks are not compared with
/// anything before that: one that is behind would hide a crash.
fn retried_at(run: &Run<'_>, position: usize, began: Timestamp) -> Option<Timestamp> {
    run.status.last_handled_retry.as_ref()?;
    let status = &run.status.stages[position];
    // Not every retry moves the stage's start, and none moves when its devices were frozen.
    let last = status.started_at.map_or(began, |started| started.max(began));
    status.frozen_at.is_none_or(|frozen| last > frozen).then_some(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wardring_api::{JobAction, SliceLine};

    fn hour(hour: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + hour * 3600).unwrap()
    }

    /// What a line in this state shows, for these reasons.
    fn shown(state: LineState, reason: Option<Reason>, was: Option<Reason>) -> Vec<HealthSignal> {
        let line = Line { reason, was_reason: was, ..line(state) };
        all(&line, Live::default())
    }

    fn all(line: &Line, live: Live<'_>) -> Vec<HealthSignal> {
        SIGNALS.into_iter().filter(|signal| shows(line, *signal, live)).collect()
    }

    fn line(state: LineState) -> Line {
        let record = SliceLine { state, action: JobAction::Install, ..SliceLine::pending("ws-1") };
        crate::explain::working_copy(&record)
    }

    #[test]
    fn each_bad_end_is_the_sign_that_its_reason_says() {
        use HealthSignal::{Probe, Service, Silent, UnexpectedReboot};
        use LineState::{
            Failed, NotReversible, RevertedByWindows, RollbackFailed, RolledBack, Unreachable,
        };
        let of = |reason| Some(reason);
        for (reason, signal) in [
            (Reason::ServiceDown, vec![Service]),
            (Reason::ProbeFailed, vec![Probe]),
            (Reason::BootLoop, vec![UnexpectedReboot]),
            (Reason::RevertedByWindows, vec![UnexpectedReboot]),
            (Reason::NotBack, vec![Silent]),
            (Reason::NetworkLost, vec![Silent]),
            // The update did not get as far as the device's health.
            (Reason::InstallFailed, vec![]),
            (Reason::HookFailed, vec![]),
        ] {
            for state in [Failed, RolledBack, NotReversible, RollbackFailed] {
                assert_eq!(shown(state, of(reason), None), signal, "{state:?} {reason:?}");
                assert_eq!(shown(state, None, of(reason)), signal, "{state:?}, was {reason:?}");
            }
            assert_eq!(shown(RevertedByWindows, of(reason), None), [UnexpectedReboot]);
            assert_eq!(shown(Unreachable, of(reason), None), [Silent]);
        }
    }

    #[test]
    fn a_proven_device_shows_what_its_agent_sees_since_and_nothing_that_was_answered() {
        use HealthSignal::{Probe, Service, Silent, UnexpectedReboot};
        let well = LiveHealth {
            rollout_uid: "u".into(),
            attempt: 1,
            service: false,
            probe: false,
            restarted: None,
            blind: false,
        };
        let restarted = |at| LiveHealth { restarted: Some(hour(at)), ..well.clone() };
        let worst = LiveHealth { service: true, probe: true, blind: true, ..restarted(3) };
        let proven = line(LineState::Succeeded);
        for (health, is_offline, signals) in [
            (None, false, vec![]),
            (None, true, vec![Silent]),
            (Some(well.clone()), false, vec![]),
            (Some(well.clone()), true, vec![Silent]),
            (Some(LiveHealth { service: true, ..well.clone() }), false, vec![Service]),
            (Some(LiveHealth { service: true, ..well.clone() }), true, vec![Service, Silent]),
            (Some(LiveHealth { probe: true, ..well.clone() }), false, vec![Probe]),
            (Some(LiveHealth { blind: true, ..well.clone() }), false, vec![Silent]),
            (Some(restarted(2)), false, vec![UnexpectedReboot]),
            // Before the retry.
            (Some(restarted(1)), false, vec![]),
            (Some(worst.clone()), false, vec![Service, Probe, UnexpectedReboot, Silent]),
        ] {
            let live = Live { health: health.as_ref(), is_offline, retried: Some(hour(2)) };
            assert_eq!(all(&proven, live), signals, "{health:?}, offline: {is_offline}");
        }
        // Nobody retried: however far behind the device's clock is, it crashed.
        let ancient = restarted(-9_000);
        let live = Live { health: Some(&ancient), ..Live::default() };
        assert_eq!(all(&proven, live), [UnexpectedReboot]);
        // One that ended otherwise shows that end: what its agent saw before is of another attempt.
        let live = Live { health: Some(&worst), is_offline: true, retried: None };
        assert!(all(&line(LineState::Failed), live).is_empty());
    }
}
