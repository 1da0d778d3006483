//! What monitoring is told of devices in flight.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use support::{ONE_STAGE, SERVER, World, agent::Script};
use wardring_planner::{Activity, Doings, activities};

fn world(script: Script) -> World {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER).hostname = Some("srv-4711".into());
    world.agents.get_mut("test-1").unwrap().script = script;
    world.rollout("november", ONE_STAGE);
    world.settle();
    world
}

fn told(world: &World) -> Vec<Activity> {
    activities(&world.snapshot(), &world.plan())
}

/// What the one device goes through, minute by minute, without repetitions.
fn story(world: &mut World, minutes: usize) -> Vec<Option<Doings>> {
    let mut story = Vec::new();
    for _ in 0..minutes {
        let now = told(world).first().map(|activity| activity.doing);
        if story.last() != Some(&now) {
            story.push(now);
        }
        world.minute(|_| {});
    }
    story
}

#[test]
fn a_device_is_told_of_from_its_first_permit_to_its_outcome() {
    let mut world = world(Script::Good);
    let story = story(&mut world, 90);
    assert_eq!(story.first(), Some(&None), "a job alone is no activity");
    assert_eq!(story.last(), Some(&None));
    let seen: Vec<Doings> = story.into_iter().flatten().collect();
    assert_eq!(seen.first(), Some(&Doings::Installing), "{seen:?}");
    assert!(seen.contains(&Doings::Rebooting), "{seen:?}");
    assert!(!seen.contains(&Doings::Unreachable), "{seen:?}");
}

#[test]
fn a_restart_says_until_when_it_is_expected_and_then_the_device_is_unreachable() {
    let mut world = world(Script::Silent);
    while told(&world).first().is_none_or(|one| one.doing != Doings::Rebooting) {
        world.minute(|_| {});
    }
    let restart = told(&world).remove(0);
    assert_eq!(
        (restart.hostname.as_str(), restart.kbs),
        ("srv-4711", vec!["KB5068787".to_owned()])
    );
    assert!(!restart.is_slow);
    let until = restart.until.unwrap();
    while world.now < until {
        assert_eq!(told(&world)[0].doing, Doings::Rebooting, "{}", world.now);
        world.minute(|_| {});
    }
    let silent = told(&world).remove(0);
    assert_eq!((silent.doing, silent.until), (Doings::Unreachable, None));
    assert_eq!(silent.stage, "test");
}

#[test]
fn a_plan_that_ends_a_line_tells_no_more_of_its_device() {
    let mut world = world(Script::Good);
    while world.jobs.values().all(|job| job.outcome == wardring_planner::JobOutcome::None) {
        world.now += jiff::SignedDuration::from_mins(1);
        world.run_agents();
        let ended = |world: &World| {
            world.jobs.values().any(|job| job.outcome != wardring_planner::JobOutcome::None)
        };
        if !ended(&world) {
            world.settle();
        }
    }
    assert!(told(&world).is_empty(), "the plan records the outcome: {:?}", told(&world));
}

#[test]
fn a_device_does_not_go_by_the_name_of_another_device() {
    let mut world = world(Script::Silent);
    world.device("dc-1", "other", SERVER);
    world.devices.get_mut("test-1").unwrap().hostname = Some("dc-1".into());
    while told(&world).is_empty() {
        world.minute(|_| {});
    }
    assert_eq!(
        told(&world)[0].hostname,
        "test-1",
        "its restart must not hush up alerts about dc-1"
    );
}
