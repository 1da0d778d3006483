//! EmergencyStops: what stands still under one, what goes on, and that nothing is lost by it.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use jiff::SignedDuration;
use support::{ONE_STAGE, SERVER, World, agent::Script, explained, granted};
use wardring_api::{JobState, LineState, PermitStep, RolloutPhase, conditions, reasons::Reason};
use wardring_planner::Plan;

const ALL: &str = "reason: the ERP does not answer";

fn minutes(world: &mut World, count: u32) -> Plan {
    let mut last = Plan::default();
    for _ in 0..count {
        last = world.minute(|_| {});
    }
    last
}

fn is_stopped(world: &World) -> bool {
    conditions::is_true(&world.status("november").conditions, conditions::EMERGENCY_STOPPED)
}

fn waits(world: &World) -> Vec<(String, Option<u32>)> {
    let waiting = world.status("november").waiting_for;
    waiting.into_iter().map(|waiting| (waiting.reason, waiting.devices)).collect()
}

/// One stage of two, the first of which has installed and waits with its restart.
fn mid_flight(spec: &str) -> World {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    world.device("test-2", "test", SERVER);
    world.rollout("november", spec);
    world.settle();
    while world.permits.is_empty() {
        world.minute(|_| {});
    }
    world.stop("erp-down", ALL);
    minutes(&mut world, 10);
    assert_eq!(world.jobs["test-1"].state, Some(JobState::AwaitingReboot));
    world
}

#[test]
fn a_grant_that_has_not_begun_is_taken_back_and_nothing_new_is_granted() {
    let mut world = granted();
    world.stop("erp-down", ALL);
    let plan = world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Pending));
    assert!(world.jobs.is_empty());
    assert_eq!(world.line("november", "test-1").unwrap().tries, 0, "it costs no attempt");
    minutes(&mut world, 60);
    assert!(world.permits.is_empty());
    let sentence = "EmergencyStop erp-down is in force: the ERP does not answer.";
    let status = world.status("november");
    assert_eq!(waits(&world), [("EmergencyStop".to_owned(), Some(2))]);
    assert_eq!(status.message, Some(format!("{sentence} 2 devices do not start.")));
    assert_eq!(explained(&world), format!("test-1 does not start: {sentence}"));
    assert_eq!(plan.stops[0].held, 2);
    assert_eq!((plan.stops[0].mid_flight, plan.stops[0].rollouts), (0, 1));

    world.stops.clear();
    minutes(&mut world, 40);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
}

#[test]
fn what_had_begun_ends_its_step_and_does_not_restart_until_the_lift() {
    let mut world = mid_flight(ONE_STAGE);
    assert!(world.permits.iter().all(|given| given.step == PermitStep::Install));
    assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
    let plan = world.settle();
    let stop = &plan.stops[0];
    assert_eq!((stop.held, stop.mid_flight, stop.awaiting_reboot), (1, 1, 1));
    assert_eq!(stop.sample, ["test-1 is AwaitingReboot (rollout november, stage test)"]);
    assert!(explained(&world).starts_with("test-1 waits with its restart: EmergencyStop erp-down"));

    world.stops.clear();
    minutes(&mut world, 40);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
    assert_eq!(world.agents["test-1"].begun, 1, "nothing was installed twice");
}

#[test]
fn a_stop_is_told_once_when_it_begins_and_once_when_it_is_over() {
    let mut world = granted();
    world.events.clear();
    world.stop("erp-down", ALL);
    minutes(&mut world, 5);
    assert!(is_stopped(&world));
    world.stop("and-more", "reason: ward 3 too");
    minutes(&mut world, 5);
    assert_eq!(
        world.events,
        ["EmergencyStop EmergencyStop erp-down is in force: the ERP does not answer."]
    );
    world.stops.clear();
    minutes(&mut world, 1);
    assert!(!is_stopped(&world));
    assert_eq!(
        world.events[1..],
        ["InProgress No EmergencyStop keeps the rollout back any more; it goes on."]
    );
}

#[test]
fn time_under_a_stop_is_nobodys_lack_of_progress() {
    let spec = "
updates: {select: {release: 2026-11}}
stages: [{name: test, group: test, maxConcurrency: 1, progressDeadline: 2h}]";
    let mut world = mid_flight(spec);
    for _ in 0..10 {
        world.now += SignedDuration::from_hours(1);
        world.settle();
        assert!(world.status("november").halted.is_none());
    }
    world.stops.clear();
    minutes(&mut world, 40);
    let status = world.status("november");
    assert_eq!(status.phase, Some(RolloutPhase::Completed), "{:?}", status.message);
}

#[test]
fn a_suspension_under_a_stop_does_not_stop_the_clock_twice() {
    for lifted_first in [true, false] {
        let mut world = mid_flight(ONE_STAGE);
        let since = world.status("november").stages[0].started_at.unwrap();
        let stopped = world.now;
        world.now += SignedDuration::from_hours(1);
        world.edit("november", |spec| spec.suspend = Some(true));
        world.settle();
        world.now += SignedDuration::from_hours(3);
        let lift = |world: &mut World| {
            world.stops.clear();
            world.settle();
        };
        let resume = |world: &mut World| {
            world.edit("november", |spec| spec.suspend = Some(false));
            world.settle();
        };
        if lifted_first {
            lift(&mut world)
        } else {
            resume(&mut world)
        }
        world.now += SignedDuration::from_hours(5);
        if lifted_first {
            resume(&mut world)
        } else {
            lift(&mut world)
        }
        let moved = world.status("november").stages[0].progress_since.unwrap();
        let still = moved.duration_since(since);
        let whole = world.now.duration_since(stopped);
        let off = still.as_secs().abs_diff(whole.as_secs());
        assert!(off <= 11 * 60, "lifted first: {lifted_first}: {still:#} of {whole:#}");
    }
}

#[test]
fn a_device_that_waits_under_a_stop_is_neither_late_nor_offline_for_too_long() {
    let mut world = mid_flight(
        "
updates: {select: {release: 2026-11}}
stages: [{name: test, group: test, maxConcurrency: 1, deviceDeadline: 2h,
  offline: {action: Fail, after: 1h}}]",
    );
    world.set_online("test-2", false);
    world.now += SignedDuration::from_hours(5);
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
    assert_eq!(world.state("november", "test-2"), Some(LineState::Pending));
    assert!(world.status("november").halted.is_none());

    // After the lift it has its hour, like everybody.
    world.stops.clear();
    world.settle();
    assert_eq!(world.state("november", "test-2"), Some(LineState::Pending));
}

#[test]
fn a_broken_device_is_rolled_back_under_a_stop_unless_the_stop_names_rollbacks() {
    for (spec, state) in
        [("reason: r", LineState::RolledBack), ("{reason: r, rollbacks: Stop}", LineState::Failed)]
    {
        let mut world = World::new();
        world.group("test");
        world.device("test-1", "test", SERVER);
        world.agents.get_mut("test-1").unwrap().script = Script::ServiceDown;
        let text = format!("{ONE_STAGE}\nonFailure: {{action: Rollback, scope: Device}}");
        world.rollout("november", &text);
        world.settle();
        while world.agents["test-1"].reboots == 0 {
            world.minute(|_| {});
        }
        world.stop("erp-down", spec);
        minutes(&mut world, 60);
        assert_eq!(world.state("november", "test-1"), Some(state), "{spec}");
        if state == LineState::Failed {
            assert!(is_stopped(&world));
            // Nor does the procedure run out of time meanwhile.
            world.now += SignedDuration::from_hours(24 * 30);
            world.settle();
            assert!(world.status("november").rollback.unwrap().completed_at.is_none());
            let ended = |event: &String| event.contains("The rollback ended");
            assert!(!world.events.iter().any(ended), "{:?}", world.events);
            world.stops.clear();
            minutes(&mut world, 60);
            assert_eq!(world.state("november", "test-1"), Some(LineState::RolledBack));
        }
    }
}

#[test]
fn a_rollback_that_runs_under_a_stop_of_rollbacks_does_not_restart() {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    world.agents.get_mut("test-1").unwrap().script = Script::ServiceDown;
    let text = format!("{ONE_STAGE}\nonFailure: {{action: Rollback, scope: Device}}");
    world.rollout("november", &text);
    world.settle();
    while !world.permits.iter().any(|given| given.step == PermitStep::Uninstall) {
        world.minute(|_| {});
    }
    let reboots = world.agents["test-1"].reboots;
    world.stop("erp-down", "{reason: r, rollbacks: Stop}");
    minutes(&mut world, 60);
    assert_eq!(world.agents["test-1"].reboots, reboots);
    assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
    world.stops.clear();
    minutes(&mut world, 20);
    assert_eq!(world.state("november", "test-1"), Some(LineState::RolledBack));
}

#[test]
fn a_stop_of_some_devices_keeps_no_slot_from_the_others() {
    let mut world = granted();
    let labels = [("stage", "test"), ("ward", "3")];
    world.devices.get_mut("test-1").unwrap().labels = labels
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into_iter()
        .collect::<std::collections::BTreeMap<_, _>>()
        .into();
    world.stop("ward-3", "{reason: surgery, selector: {matchLabels: {ward: '3'}}}");
    minutes(&mut world, 20);
    assert_eq!(world.state("november", "test-1"), Some(LineState::Pending));
    assert_eq!(world.state("november", "test-2"), Some(LineState::Succeeded));
    assert!(is_stopped(&world));
}

#[test]
fn a_stop_of_another_update_concerns_nobody() {
    let mut world = granted();
    world.stop("other", "{reason: r, kbs: [KB5068791]}");
    minutes(&mut world, 40);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
    assert!(world.events.iter().all(|event| !event.contains("EmergencyStop")));
}

#[test]
fn a_batch_that_a_dead_leader_left_open_is_closed_without_grants_under_a_stop() {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    world.rollout("november", ONE_STAGE);
    world.die_with_a_batch_open();
    world.stop("erp-down", ALL);
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Pending));
    let batch = world.ledger.batch.clone().unwrap();
    assert_eq!(world.line("november", "test-1").unwrap().sequence, batch.sequence);
}

#[test]
fn a_device_back_from_silence_gets_no_slot_under_a_stop() {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    world.agents.get_mut("test-1").unwrap().script = Script::Slow;
    world.rollout(
        "november",
        "
updates: {select: {release: 2026-11}}
stages: [{name: test, group: test, maxConcurrency: 1, maxUnreachable: 1, rebootDeadline: 1h}]",
    );
    world.settle();
    minutes(&mut world, 90);
    assert_eq!(world.state("november", "test-1"), Some(LineState::Unreachable));
    world.stop("erp-down", ALL);
    minutes(&mut world, 115);
    let line = world.line("november", "test-1").unwrap();
    assert_ne!(line.state, LineState::Granted);
    assert_ne!(line.reason, Some(Reason::EmergencyStop));
}
