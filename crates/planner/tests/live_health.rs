//! Gates over the devices' health after the proof: what counts, and what answers it.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use jiff::SignedDuration;
use support::{SERVER, World, story::falls_ill};
use wardring_api::{GateState, GateStatus, Hold, LineState, RolloutPhase, StageState};

fn gate(world: &World) -> GateStatus {
    world.status("november").stages[0].gates[0].clone()
}

fn stage(world: &World) -> StageState {
    world.status("november").stages[0].state
}

fn minutes(world: &mut World, minutes: u32) {
    (0..minutes).for_each(|_| drop(world.minute(|_| {})));
}

/// One device that was proven, in a soak with a gate over its health that halts.
fn soaking() -> World {
    soaking_with("Halt")
}

fn soaking_with(on_failure: &str) -> World {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    let spec = format!(
        "{{updates: {{select: {{release: 2026-11}}}}, stages: [{{name: test, group: test, soak: 1d, \
         gates: {{during: [{{name: health, type: DeviceHealth, deviceHealth: {{}}, interval: 1m, \
         onFailure: {on_failure}}}]}}}}]}}"
    );
    world.rollout("november", &spec);
    minutes(&mut world, 30);
    assert_eq!(stage(&world), StageState::Soaking);
    world
}

#[test]
fn what_a_device_tells_of_another_rollout_or_attempt_is_not_held_against_this_one() {
    let mut world = soaking();
    falls_ill(&mut world, "test-1", |health, _| health.service = true);
    let own = world.devices["test-1"].health.clone();
    for (uid, attempt) in [("another", 1), (&*own[0].rollout_uid, 2)] {
        let mut other = own.clone();
        (other[0].rollout_uid, other[0].attempt) = (uid.into(), attempt);
        world.devices.get_mut("test-1").unwrap().health = other;
        world.minute(|_| {});
        assert_eq!(gate(&world).state, GateState::Passed, "{uid} {attempt}");
    }
    world.devices.get_mut("test-1").unwrap().health = own;
    world.minute(|_| {});
    assert_eq!(gate(&world).state, GateState::Failed);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Halted));
    assert_eq!(
        world.state("november", "test-1"),
        Some(LineState::Succeeded),
        "no line moves by it"
    );
}

#[test]
fn a_persons_retry_answers_a_crash_and_no_service_that_is_still_down() {
    let mut world = soaking();
    falls_ill(&mut world, "test-1", |health, now| health.restarted = Some(now));
    world.minute(|_| {});
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Halted));
    world.minute(|_| {});
    world.retry("november");
    minutes(&mut world, 3);
    assert_eq!(gate(&world).state, GateState::Passed, "{:?}", gate(&world));
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Progressing));

    falls_ill(&mut world, "test-1", |health, _| health.service = true);
    minutes(&mut world, 2);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Halted));
    world.retry("november");
    minutes(&mut world, 3);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Halted));
    falls_ill(&mut world, "test-1", |health, _| health.service = false);
    world.retry("november");
    minutes(&mut world, 3);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Progressing));
}

#[test]
fn a_retry_answers_a_crash_also_where_the_gate_only_holds() {
    let mut world = soaking_with("Hold");
    falls_ill(&mut world, "test-1", |health, now| health.restarted = Some(now));
    minutes(&mut world, 2);
    assert_eq!(gate(&world).state, GateState::Failed);
    world.retry("november");
    minutes(&mut world, 3);
    assert_eq!(gate(&world).state, GateState::Passed, "{:?}", gate(&world));
    // What comes after it counts.
    falls_ill(&mut world, "test-1", |health, now| health.restarted = Some(now));
    minutes(&mut world, 2);
    assert_eq!(gate(&world).state, GateState::Failed);
}

#[test]
fn a_device_whose_clock_is_behind_hides_no_crash_that_nobody_answered() {
    let mut world = soaking();
    let behind = SignedDuration::from_hours(9);
    falls_ill(&mut world, "test-1", |health, now| health.restarted = Some(now - behind));
    minutes(&mut world, 2);
    assert_eq!(gate(&world).state, GateState::Failed);
}

#[test]
fn a_rollback_that_never_began_does_not_make_its_device_unseen() {
    let mut world = soaking();
    falls_ill(&mut world, "test-1", |health, _| health.service = true);
    let told = world.devices["test-1"].health.clone();
    world.devices.get_mut("test-1").unwrap().health = Box::default();
    world.order("undo", "{rollout: november, scope: AllStages, reason: crashes}");
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
    world.orders.clear();
    world.settle();
    world.retry("november");
    minutes(&mut world, 5);
    let line = world.lines().remove(0).2;
    assert_eq!((line.state, line.attempt), (LineState::Succeeded, 2), "its number stays behind");
    assert_eq!(gate(&world).state, GateState::Passed);
    world.devices.get_mut("test-1").unwrap().health = told;
    minutes(&mut world, 2);
    assert_eq!(gate(&world).state, GateState::Failed);
}

#[test]
fn a_device_that_a_person_holds_is_judged_by_its_end_alone() {
    let mut world = soaking_with("Hold");
    falls_ill(&mut world, "test-1", |health, _| health.service = true);
    minutes(&mut world, 2);
    assert_eq!(gate(&world).state, GateState::Failed);
    let until = world.now + SignedDuration::from_mins(30);
    world.devices.get_mut("test-1").unwrap().hold =
        Some(Box::new(Hold { reason: "taken out of service".to_owned(), until: Some(until) }));
    minutes(&mut world, 3);
    assert_eq!(gate(&world).state, GateState::Passed, "{:?}", gate(&world));
    world.now = until;
    minutes(&mut world, 2);
    assert_eq!(gate(&world).state, GateState::Failed, "the hold is over");
}
