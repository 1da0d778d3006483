//! Failures that are alike halt a rollout, though the budgets of its stages bear them.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use support::{SERVER, World, agent::Script};
use wardring_api::{LineState, RolloutPhase};

const BEARS_HALF: &str = "
updates: {select: {release: 2026-11}}
stages:
- {name: ward, group: ward, maxConcurrency: 100%, maxFailures: 50%, maxUnreachable: 50%}
- {name: theatre, group: theatre}";

/// A ward whose devices come to these ends, and a theatre behind it.
fn world(ends: &[(Script, &str)]) -> World {
    let mut world = World::new();
    world.group("ward");
    world.group("theatre");
    for (number, (script, model)) in ends.iter().enumerate() {
        let name = format!("ward-{number:02}");
        let row = world.device(&name, "ward", SERVER);
        row.model = Some((*model).into());
        world.agents.get_mut(&name).unwrap().script = *script;
    }
    world.device("theatre-1", "theatre", SERVER);
    world.rollout("november", BEARS_HALF);
    world
}

fn run(world: &mut World, minutes: u32) {
    for _ in 0..minutes {
        world.minute(|_| {});
    }
}

fn halt(world: &World) -> Option<(String, String)> {
    world.status("november").halted.map(|halted| (halted.reason, halted.message))
}

fn alike() -> Vec<(Script, &'static str)> {
    let mut ends = vec![(Script::ServiceDown, "a"), (Script::ServiceDown, "b")];
    ends.extend([(Script::ServiceDown, "c"), (Script::Good, "d"), (Script::Good, "e")]);
    ends.extend([(Script::Good, "f"); 3]);
    ends
}

#[test]
fn three_devices_that_fail_for_one_reason_halt_the_rollout_within_its_budget() {
    let mut world = world(&alike());
    run(&mut world, 30);
    let (reason, message) = halt(&world).expect("it halted");
    assert_eq!(reason, "CorrelatedFailure");
    let common =
        "what they have in common is ServiceDown on 3 of 8 tried; correlatedFailures halts at 3";
    assert!(message.contains(common), "{message}");
    assert!(message.contains("ward-02: MSSQLSERVER did not start"), "{message}");
    assert_eq!(world.state("november", "theatre-1"), None);
}

#[test]
fn with_the_brake_turned_off_the_same_failures_reach_the_next_stage() {
    let mut world = world(&alike());
    world.edit("november", |spec| spec.correlated_failures.devices = Some(0));
    run(&mut world, 60);
    assert_eq!(world.state("november", "theatre-1"), Some(LineState::Succeeded));
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
}

#[test]
fn failures_of_different_kinds_are_the_budgets_business() {
    let mut ends = vec![(Script::ServiceDown, "a"), (Script::InstallFails, "b")];
    ends.extend([(Script::Reverted, "c"), (Script::Good, "d"), (Script::Good, "e")]);
    ends.extend([(Script::Good, "f"); 3]);
    let mut world = world(&ends);
    run(&mut world, 60);
    assert_eq!(halt(&world), None, "product and build are everybody's, and explain nothing");
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
}

#[test]
fn a_model_whose_devices_fail_each_in_its_own_way_is_named() {
    let ends = [
        (Script::ServiceDown, "R640"),
        (Script::InstallFails, "R640"),
        (Script::Reverted, "R640"),
        (Script::Good, "R640"),
        (Script::Good, "R740"),
        (Script::Good, "R740"),
        (Script::Good, "R750"),
    ];
    let mut world = world(&ends);
    run(&mut world, 60);
    let (reason, message) = halt(&world).expect("it halted");
    assert_eq!(reason, "CorrelatedFailure");
    assert!(message.contains("model R640 on 3 of 4 tried, and 0 of 3 others"), "{message}");
    assert!(!message.contains("product"), "everybody has it: {message}");
}

#[test]
fn a_build_whose_devices_fail_each_in_its_own_way_is_named() {
    let bad = [Script::ServiceDown, Script::InstallFails, Script::Reverted, Script::Good];
    let ends: Vec<_> = bad.into_iter().chain([Script::Good; 4]).map(|end| (end, "any")).collect();
    let mut world = world(&ends);
    for number in 0..ends.len() {
        let row = world.devices.get_mut(&format!("ward-{number:02}")).unwrap();
        // What follows the dot is the last update's.
        let family = if number < bad.len() { 20_348 } else { 26_100 };
        row.build = Some(format!("{family}.{}", 2_000 + number).into());
    }
    run(&mut world, 60);
    let (reason, message) = halt(&world).expect("it halted");
    assert_eq!(reason, "CorrelatedFailure");
    assert!(message.contains("build 20348 on 3 of 4 tried, and 0 of 4 others"), "{message}");
}

#[test]
fn a_model_that_fails_no_more_than_others_is_not_to_blame() {
    let mut ends = vec![(Script::ServiceDown, "R640"), (Script::InstallFails, "R640")];
    ends.extend([(Script::Reverted, "R640"), (Script::Good, "R640"), (Script::Good, "R640")]);
    ends.extend([(Script::Good, "R640"), (Script::ServiceDown, "R740")]);
    ends.extend([(Script::InstallFails, "R740"), (Script::Good, "R740"), (Script::Good, "R740")]);
    let mut world = world(&ends);
    run(&mut world, 60);
    assert_eq!(halt(&world), None);
}

#[test]
fn three_failures_among_many_proven_devices_are_what_every_month_brings() {
    let mut ends = vec![(Script::Good, "a"); 28];
    ends.extend([(Script::FailsOnce, "a"); 3]);
    let mut world = world(&ends);
    // The failures come last, when most devices are proven.
    for name in ["ward-28", "ward-29", "ward-30"] {
        world.set_online(name, false);
    }
    run(&mut world, 20);
    for name in ["ward-28", "ward-29", "ward-30"] {
        world.set_online(name, true);
    }
    run(&mut world, 30);
    assert_eq!(world.state("november", "ward-29"), Some(LineState::Failed));
    assert_eq!(halt(&world), None);
}

#[test]
fn a_retry_answers_what_failed_alike() {
    let mut world = world(&alike());
    run(&mut world, 30);
    assert!(halt(&world).is_some());
    for name in ["ward-00", "ward-01", "ward-02"] {
        world.agents.get_mut(name).unwrap().script = Script::Good;
    }
    world.retry("november");
    run(&mut world, 60);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
}

#[test]
fn silence_that_devices_have_in_common_halts_and_takes_nothing_back() {
    let mut ends = vec![(Script::Silent, "R640"); 3];
    ends.extend([(Script::Good, "R740"); 4]);
    let mut world = world(&ends);
    let rollout = world.rollouts.get_mut("november").unwrap();
    rollout.spec.on_failure.action = wardring_api::FailureAction::Rollback;
    rollout.spec.on_failure.scope = wardring_api::RollbackScope::AllStages;
    run(&mut world, 180);
    let (reason, message) = halt(&world).expect("it halted");
    assert_eq!(reason, "CorrelatedSilence");
    assert!(message.contains("model R640 on 3 of 3 tried, and 0 of 4 others"), "{message}");
    assert_eq!(world.status("november").rollback, None);
    assert_eq!(world.state("november", "ward-04"), Some(LineState::Succeeded));
}

#[test]
fn what_failed_alike_is_rolled_back_and_what_is_proven_stays_whatever_the_scope() {
    let mut world = world(&alike());
    let rollout = world.rollouts.get_mut("november").unwrap();
    rollout.spec.on_failure.action = wardring_api::FailureAction::Rollback;
    rollout.spec.on_failure.scope = wardring_api::RollbackScope::AllStages;
    run(&mut world, 90);
    assert_eq!(halt(&world).unwrap().0, "CorrelatedFailure");
    assert_eq!(world.state("november", "ward-00"), Some(LineState::RolledBack));
    assert_eq!(world.state("november", "ward-04"), Some(LineState::Succeeded));
}

#[test]
fn one_other_device_is_no_comparison() {
    let mut ends = vec![(Script::ServiceDown, "R640"), (Script::InstallFails, "R640")];
    ends.extend([(Script::Reverted, "R640"), (Script::Good, "R640"), (Script::Good, "R640")]);
    ends.extend([(Script::Good, "R640"), (Script::Good, "R740")]);
    let mut world = world(&ends);
    run(&mut world, 60);
    assert_eq!(halt(&world), None);
}

#[test]
fn silence_that_a_retry_answered_does_not_halt_again() {
    let mut ends = vec![(Script::Silent, "R640"); 3];
    ends.extend([(Script::Good, "R740"); 4]);
    let mut world = world(&ends);
    run(&mut world, 180);
    assert_eq!(halt(&world).unwrap().0, "CorrelatedSilence");
    world.retry("november");
    run(&mut world, 30);
    assert_eq!(halt(&world), None);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
}
