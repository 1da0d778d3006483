//! Gates: what counts as a measurement, what follows from it, and what must never pass.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use proptest::{collection::vec, prelude::*, sample::select};
use support::{Meter, SERVER, World, explained};
use wardring_api::{
    GateResult, GateState, GateStatus, LineState, RollbackScope, RolloutPhase, StageState,
    conditions, reasons::Reason,
};
use wardring_planner::{Action, Decision, Measurement, check, gate_definition, plan};

/// One device, and gates as the YAML says.
fn gated(gates: &str) -> World {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    world.device("test-2", "test", SERVER);
    let spec = format!(
        "{{updates: {{select: {{release: 2026-11}}}}, stages: [{{name: test, group: test, \
         maxConcurrency: 1, gates: {{{gates}}}}}]}}"
    );
    world.rollout("november", &spec);
    world
}

const ERRORS: &str = "name: errors, type: Prometheus, prometheus: {provider: prom, query: errors}, \
                      interval: 1m, successCondition: result < 0.05";

fn before(more: &str) -> World {
    gated(&format!("before: [{{{ERRORS}{more}}}]"))
}

fn during(more: &str) -> World {
    gated(&format!("during: [{{{ERRORS}{more}}}]"))
}

fn gate(world: &World) -> GateStatus {
    world.status("november").stages[0].gates[0].clone()
}

fn stage(world: &World) -> StageState {
    world.status("november").stages[0].state
}

/// A measurement of the gate, as the shell would hand it in.
fn measured(world: &World, at: Timestamp, result: GateResult) -> Measurement {
    let rollout = &world.rollouts["november"];
    let gates = &rollout.spec.stages[0].gates;
    let gate = gates.all().next().unwrap().1;
    Measurement {
        rollout_uid: rollout.metadata.uid.clone().unwrap(),
        stage: "test".to_owned(),
        gate: "errors".to_owned(),
        definition: gate_definition(gate),
        at,
        result,
        query: None,
        value: Some("0.01".to_owned()),
        message: String::new(),
    }
}

fn hand_in(world: &mut World, measured: Measurement) {
    let key = (measured.rollout_uid.clone(), measured.stage.clone(), measured.gate.clone());
    world.measurements.insert(key, measured);
}

#[test]
fn one_measurement_counts_once_however_often_it_is_seen() {
    let mut world = before(", consecutiveSuccessLimit: 2");
    world.settle();
    let once = measured(&world, world.now, GateResult::Pass);
    hand_in(&mut world, once);
    for _ in 0..2 {
        world.minute(|_| {});
        assert_eq!(gate(&world).consecutive_successes, 1);
    }
    assert_eq!(stage(&world), StageState::Gated);
    let again = measured(&world, world.now, GateResult::Pass);
    hand_in(&mut world, again);
    world.settle();
    assert_eq!(stage(&world), StageState::Open);
}

#[test]
fn a_gate_is_first_measured_after_its_initial_delay() {
    let mut world = before(", initialDelay: 10m");
    world.meters.insert("errors".to_owned(), Meter::Value(0.01));
    let plan = world.settle();
    let started = gate(&world).started_at;
    assert_eq!(plan.measure[0].due, started + SignedDuration::from_mins(10));
    for _ in 0..9 {
        world.minute(|_| {});
        assert_eq!((gate(&world).measured_at, stage(&world)), (None, StageState::Gated));
    }
    world.minute(|_| {});
    assert_eq!(gate(&world).measured_at, Some(started + SignedDuration::from_mins(10)));
    assert_eq!(stage(&world), StageState::Open);
}

#[test]
fn a_during_gate_is_not_missed_before_its_initial_delay_has_passed() {
    // Nobody measures it: without the delay it would be an error after two and a half minutes.
    let mut world = during(", initialDelay: 10m");
    world.settle();
    for minute in 1..=12 {
        world.minute(|_| {});
        assert_ne!(gate(&world).state, GateState::Error, "{minute}");
    }
    world.minute(|_| {});
    assert_eq!(gate(&world).state, GateState::Error);
}

#[test]
fn a_gate_that_needs_a_count_of_answers_takes_failures_within_its_limit_as_answers() {
    let mut world = before(", count: 3, failureLimit: 1");
    let mut answers = |result| {
        world.minute(|_| {});
        let one = measured(&world, world.now, result);
        hand_in(&mut world, one);
        world.settle();
        (gate(&world).answers, stage(&world))
    };
    assert_eq!(answers(GateResult::Pass), (1, StageState::Gated), "one is not enough");
    assert_eq!(answers(GateResult::Inconclusive), (1, StageState::Gated), "no answer");
    assert_eq!(answers(GateResult::Error), (1, StageState::Gated), "no answer either");
    assert_eq!(answers(GateResult::Fail), (2, StageState::Gated));
    assert_eq!(answers(GateResult::Pass), (3, StageState::Open));
}

#[test]
fn what_was_measured_too_early_or_is_too_old_does_not_pass() {
    let mut world = before("");
    world.settle();
    let early = measured(&world, world.now - SignedDuration::from_secs(1), GateResult::Pass);
    hand_in(&mut world, early);
    world.settle();
    assert_eq!(stage(&world), StageState::Gated, "from before the devices were frozen");

    let old = measured(&world, world.now, GateResult::Pass);
    world.now += SignedDuration::from_secs(151);
    hand_in(&mut world, old);
    world.settle();
    assert_eq!(stage(&world), StageState::Gated, "older than two intervals and half a minute");
}

#[test]
fn a_gate_that_is_edited_begins_anew() {
    let mut world = before("");
    world.settle();
    let stale = measured(&world, world.now, GateResult::Pass);
    world.edit("november", |spec| {
        spec.stages[0].gates.before[0].success_condition = Some("result < 0.01".to_owned());
    });
    hand_in(&mut world, stale);
    world.settle();
    assert_eq!(stage(&world), StageState::Gated, "what was asked before says nothing about it");
}

#[test]
fn a_gate_that_passed_stays_passed_across_leaders_and_answers() {
    let mut world = before("");
    world.meters.insert("errors".to_owned(), Meter::Value(0.01));
    world.settle();
    assert_eq!(stage(&world), StageState::Open);
    let passed = gate(&world);
    world.measurements.clear();
    world.meters.insert("errors".to_owned(), Meter::Value(0.9));
    for _ in 0..30 {
        world.minute(|_| {});
    }
    assert_eq!(gate(&world), passed, "with its value and its time");
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
}

#[test]
fn nothing_starts_before_its_gate_and_the_device_says_why() {
    let mut world = before("");
    world.meters.insert("errors".to_owned(), Meter::Value(0.3));
    let plan = world.settle();
    assert_eq!(
        plan.rollouts[0].stages[0].decisions,
        [Decision::Hold(Reason::GateFailed), Decision::Hold(Reason::GateFailed)]
    );
    let shown = gate(&world);
    assert_eq!(shown.value.as_deref(), Some("0.3"));
    assert_eq!(shown.threshold.as_deref(), Some("result < 0.05"));
    assert_eq!(shown.since, world.now, "it failed at once");
    let told = gate(&world).message.unwrap();
    assert!(told.contains("0.3") && told.contains("result < 0.05"), "{told}");
    let status = world.status("november");
    assert_eq!(status.message.as_ref(), Some(&told));
    assert_eq!(status.waiting_for[0].message, told);
    assert_eq!(status.waiting_for[0].until, gate(&world).next);
    assert_eq!(explained(&world), format!("test-1 does not start: {told}"));
    let failed_at = world.now;
    for _ in 0..10 {
        world.minute(|_| {});
    }
    assert_eq!(gate(&world).since, failed_at, "it fails as it did");
}

#[test]
fn a_failed_gate_halts_by_the_first_write_of_the_plan() {
    let mut world = during(", onFailure: Halt");
    world.meters.insert("errors".to_owned(), Meter::Value(0.01));
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
    world.now += SignedDuration::from_mins(1);
    let bad = measured(&world, world.now, GateResult::Fail);
    hand_in(&mut world, bad);

    let plan = world.plan();

    let Action::WriteStatus { status, .. } = &plan.actions[0] else { panic!("{plan:#?}") };
    assert_eq!(status.halted.as_ref().unwrap().reason, "GateFailed");
    assert!(!plan.actions.iter().any(|action| matches!(action, Action::OpenBatch { .. })));
    assert!(status.rollback.is_none(), "nothing is taken back unless the gate says so");
}

#[test]
fn a_gate_that_rolls_back_reaches_at_least_its_stage() {
    let mut world = during(", onFailure: Rollback");
    world.meters.insert("errors".to_owned(), Meter::Value(0.3));
    world.settle();
    let rollback = world.status("november").rollback.unwrap();
    assert_eq!(rollback.scope, RollbackScope::Stage);
}

#[test]
fn a_rollback_by_a_gate_is_not_lost_behind_a_budget_that_breaks_with_it() {
    let mut world = during(", onFailure: Rollback");
    world.agents.get_mut("test-2").unwrap().script = support::agent::Script::ServiceDown;
    world.meters.insert("errors".to_owned(), Meter::Value(0.01));
    world.settle();
    loop {
        world.now += SignedDuration::from_mins(1);
        world.run_agents();
        if world.plan().rollouts[0].status.halted.is_some() {
            break;
        }
        world.settle();
    }
    let bad = measured(&world, world.now, GateResult::Fail);
    hand_in(&mut world, bad);
    world.meters.clear();
    world.settle();
    let rollback = world.status("november").rollback.expect("the gate asked for it");
    assert_eq!(rollback.scope, RollbackScope::Stage);
}

#[test]
fn what_counts_silence_halts_and_takes_nothing_back() {
    let mut world = gated(
        "during: [{name: errors, type: Cel, cel: {expression: stage.inProgress}, interval: 1m, \
         successCondition: result == 0, onFailure: Rollback}]",
    );
    world.settle();
    world.minute(|_| {});
    let status = world.status("november");
    assert_eq!(status.halted.map(|halt| halt.reason), Some("GateFailed".into()));
    assert!(status.rollback.is_none());
}

#[test]
fn a_rollback_by_a_gate_reaches_the_devices_that_failed_too() {
    let mut world = during(", onFailure: Rollback");
    world.edit("november", |spec| spec.stages[0].max_failures = Some(wardring_api::Cap::Count(1)));
    world.agents.get_mut("test-1").unwrap().script = support::agent::Script::ServiceDown;
    world.meters.insert("errors".to_owned(), Meter::Value(0.01));
    world.settle();
    while world.state("november", "test-1") != Some(LineState::Failed) {
        world.minute(|_| {});
    }
    world.meters.insert("errors".to_owned(), Meter::Value(0.3));
    for _ in 0..60 {
        world.minute(|_| {});
    }
    assert_eq!(world.state("november", "test-1"), Some(LineState::RolledBack));
}

#[test]
fn a_gate_that_halts_stays_failed_until_a_person_answers() {
    let mut world = during(", onFailure: Halt");
    world.settle();
    let bad = measured(&world, world.now, GateResult::Fail);
    hand_in(&mut world, bad);
    // The same pass resumes the rollout, so that it cannot judge yet.
    world.edit("november", |spec| spec.suspend = Some(true));
    let suspended = world.plan();
    suspended.actions.iter().for_each(|action| world.apply(action));
    world.edit("november", |spec| spec.suspend = Some(false));
    let resumed = world.plan();
    resumed.actions.iter().for_each(|action| world.apply(action));
    world.now += SignedDuration::from_secs(61);
    let good = measured(&world, world.now, GateResult::Pass);
    hand_in(&mut world, good);
    world.settle();
    assert_eq!(world.status("november").halted.map(|halt| halt.reason), Some("GateFailed".into()));
}

#[test]
fn a_retry_answers_what_the_gate_said_and_begins_it_anew() {
    let mut world = during(", onFailure: Halt");
    world.meters.insert("errors".to_owned(), Meter::Value(0.3));
    world.settle();
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Halted));
    world.now += SignedDuration::from_secs(10);
    world.retry("november");
    world.settle();
    assert_eq!(world.status("november").halted.map(|halt| halt.reason), Some("GateFailed".into()));

    world.meters.insert("errors".to_owned(), Meter::Value(0.01));
    world.now += SignedDuration::from_secs(10);
    world.retry("november");
    world.settle();
    assert!(world.status("november").halted.is_none());
    assert_eq!(gate(&world).state, GateState::Passed);
}

#[test]
fn who_cannot_be_measured_starts_nothing_and_takes_nothing_back() {
    let mut world = during(", onFailure: Rollback, consecutiveErrorLimit: 1");
    world.meters.insert("errors".to_owned(), Meter::Refuses);
    for _ in 0..20 {
        world.minute(|_| {});
    }
    let status = world.status("november");
    assert_eq!(gate(&world).state, GateState::Error);
    assert!(status.halted.is_none() && status.rollback.is_none(), "that is no failure");
    let states = ["test-1", "test-2"].map(|device| world.state("november", device).unwrap());
    assert_eq!(states, [LineState::Granted, LineState::Pending], "and no permit is given");
    assert!(!conditions::is_true(&status.conditions, conditions::STALLED));
    assert_eq!(status.waiting_for[0].reason, "GateError");
}

#[test]
fn no_data_is_what_the_gate_says_it_is() {
    for (means, state) in
        [("Wait", GateState::Waiting), ("Fail", GateState::Failed), ("Pass", GateState::Passed)]
    {
        let mut world = before(&format!(", noData: {means}"));
        world.meters.insert("errors".to_owned(), Meter::NoData);
        world.settle();
        assert_eq!(gate(&world).state, state, "{means}");
    }
}

#[test]
fn a_condition_that_does_not_read_is_told_before_the_first_device_is_touched() {
    let mut world = gated(
        "after: [{name: counters, type: Cel, cel: {expression: stage.failed}, \
         successCondition: 'result.all(x, x < 1)'}]",
    );
    world.settle();
    assert!(world.jobs.is_empty());
    let status = world.status("november");
    assert_eq!(status.phase, Some(RolloutPhase::Invalid));
    let told = status.message.unwrap();
    assert!(told.contains("gate counters: successCondition cannot be used"), "{told}");
}

#[test]
fn health_that_nobody_can_tell_yet_keeps_nobody_from_starting() {
    let mut world =
        gated("during: [{name: health, type: DeviceHealth, deviceHealth: {}, interval: 1m}]");
    world.devices.values_mut().for_each(|row| row.hold = hold());
    for _ in 0..15 {
        world.minute(|_| {});
    }
    world.devices.values_mut().for_each(|row| row.hold = None);
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
}

fn hold() -> Option<Box<wardring_api::Hold>> {
    Some(Box::new(wardring_api::Hold { reason: "busy".to_owned(), until: None }))
}

#[test]
fn the_second_opinion_catches_a_gate_that_passes_on_nothing() {
    let mut world = before("");
    world.settle();
    let good = measured(&world, world.now, GateResult::Pass);
    hand_in(&mut world, good);
    let mut snapshot = world.snapshot();
    let opens = plan(&snapshot);
    assert!(check(&snapshot, &opens).is_empty());
    snapshot.measurements.clear();
    let found = check(&snapshot, &opens);
    assert!(found.iter().any(|all| all.rule == "S7"), "{found:#?}");
}

#[test]
fn the_second_opinion_catches_a_grant_against_a_gate() {
    let mut world = before("");
    world.settle();
    let good = measured(&world, world.now, GateResult::Pass);
    hand_in(&mut world, good);
    let grants = loop {
        let next = world.plan();
        if next.actions.iter().any(|action| matches!(action, Action::OpenBatch { .. })) {
            break next;
        }
        next.actions.iter().for_each(|action| world.apply(action));
    };
    let mut snapshot = world.snapshot();
    let rollout = std::sync::Arc::make_mut(&mut snapshot.rollouts[0]);
    rollout.status.as_mut().unwrap().stages[0].gates[0].state = GateState::Failed;
    let found = check(&snapshot, &grants);
    assert!(found.iter().any(|all| all.rule == "S7"), "{found:#?}");
}

/// Something that is handed in as a measurement.
#[derive(Clone, Debug)]
struct Odd {
    /// Seconds before now; negative is the future.
    age: i64,
    result: GateResult,
    is_of_another_gate: bool,
    again: bool,
}

fn odd() -> impl Strategy<Value = Odd> {
    let results = vec![
        GateResult::Pass,
        GateResult::Pass,
        GateResult::Fail,
        GateResult::Inconclusive,
        GateResult::NoData,
        GateResult::Error,
    ];
    let ages = prop_oneof![Just(0_i64), -90..400_i64];
    (ages, select(results), any::<bool>(), any::<bool>()).prop_map(
        |(age, result, is_of_another_gate, again)| Odd { age, result, is_of_another_gate, again },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_stage_opens_without_as_many_fresh_passes_as_its_gate_asks_for(
        needed in 1..4_u32,
        odds in vec(odd(), 1..40),
    ) {
        let mut world = before(&format!(", consecutiveSuccessLimit: {needed}"));
        world.settle();
        let frozen = world.now;
        let mut good = BTreeSet::new();
        let mut last: Option<Measurement> = None;
        for odd in &odds {
            world.now += SignedDuration::from_secs(45);
            let at = world.now - SignedDuration::from_secs(odd.age);
            let mut handed = measured(&world, at, odd.result);
            if odd.is_of_another_gate {
                handed.definition = "v1:another".to_owned();
            }
            if odd.again && let Some(last) = &last {
                handed = last.clone();
            }
            let age = world.now.duration_since(handed.at).as_secs();
            let is_good = handed.result == GateResult::Pass
                && handed.definition != "v1:another"
                && (0..150).contains(&age)
                && handed.at >= frozen;
            if is_good {
                good.insert(handed.at);
            }
            last = Some(handed.clone());
            hand_in(&mut world, handed);
            world.settle();
            let opened = stage(&world) != StageState::Gated;
            prop_assert!(!opened || good.len() >= needed as usize, "{odd:?} of {good:?}");
            prop_assert!(opened || world.jobs.is_empty());
        }
    }
}

/// Minutes until the stage is done, of so many at most.
fn minutes_until_completed(world: &mut World, most: u32) -> Option<u32> {
    (0..most).find(|_| {
        world.minute(|_| {});
        stage(world) == StageState::Completed
    })
}

#[test]
fn a_stage_does_not_end_on_what_was_measured_before_it_was_patched() {
    let seldom = ERRORS.replace("interval: 1m", "interval: 10h");
    let mut world = gated(&format!("during: [{{{seldom}, onFailure: Hold}}]"));
    world.meters.insert("errors".to_owned(), Meter::Value(0.01));
    world.settle();
    assert_eq!(gate(&world).state, GateState::Passed, "of devices that nobody has touched yet");
    world.meters.insert("errors".to_owned(), Meter::Value(0.3));
    assert_eq!(minutes_until_completed(&mut world, 120), None, "the update doubled the errors");
    assert_eq!(gate(&world).state, GateState::Failed);
    assert!(world.jobs.is_empty(), "every device is done");
}

#[test]
fn a_soak_in_which_a_gate_fails_begins_anew_when_it_recovers() {
    let mut world = during(", onFailure: Hold");
    world.rollouts.get_mut("november").unwrap().spec.stages[0].soak = Some("60m".parse().unwrap());
    world.meters.insert("errors".to_owned(), Meter::Value(0.01));
    world.settle();
    while stage(&world) != StageState::Soaking {
        world.minute(|_| {});
    }
    for _ in 0..50 {
        world.minute(|_| {});
    }
    world.meters.insert("errors".to_owned(), Meter::Value(0.3));
    for _ in 0..5 {
        world.minute(|_| {});
    }
    assert_eq!(stage(&world), StageState::Open, "that is no watch");
    assert_eq!(world.status("november").waiting_for[0].reason, "GateFailed");
    world.meters.insert("errors".to_owned(), Meter::Value(0.01));
    let minutes = minutes_until_completed(&mut world, 120).expect("it goes on");
    assert!(minutes >= 58, "the hour is whole again, not {minutes} minutes");
}

#[test]
fn a_retry_after_a_halt_in_the_soak_begins_the_soak_anew() {
    let mut world = during(", onFailure: Halt");
    world.rollouts.get_mut("november").unwrap().spec.stages[0].soak = Some("60m".parse().unwrap());
    world.meters.insert("errors".to_owned(), Meter::Value(0.01));
    world.settle();
    while stage(&world) != StageState::Soaking {
        world.minute(|_| {});
    }
    world.meters.insert("errors".to_owned(), Meter::Value(0.3));
    for _ in 0..5 {
        world.minute(|_| {});
    }
    assert!(world.status("november").halted.is_some());
    world.now += SignedDuration::from_hours(70);
    world.meters.insert("errors".to_owned(), Meter::Value(0.01));
    world.retry("november");
    let minutes = minutes_until_completed(&mut world, 120).expect("it goes on");
    assert!(minutes >= 58, "nobody watched while it stood: {minutes} minutes");
}

#[test]
fn a_counter_that_does_not_exist_is_told_before_the_first_device_is_touched() {
    for wrong in ["stage.faild", "rollout.failed + sum"] {
        let mut world = gated(&format!(
            "during: [{{name: counters, type: Cel, cel: {{expression: {wrong}}}, \
             successCondition: result == 0}}]"
        ));
        world.settle();
        assert!(world.jobs.is_empty());
        let status = world.status("november");
        assert_eq!(status.phase, Some(RolloutPhase::Invalid), "{wrong}");
        assert!(status.message.unwrap().contains("gate counters"), "{wrong}");
    }
    let mut world = gated(
        "during: [{name: share, type: Cel, cel: {expression: 'double(stage.failed) / \
         double(stage.total - stage.pending)'}, successCondition: result < 0.1}]",
    );
    world.settle();
    assert!(!world.jobs.is_empty(), "what cannot be told yet keeps nobody from starting");
}
