//! Devices that somebody switched off in the middle of a job, and that say so when they are back.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use jiff::SignedDuration;
use support::{World, explained, good_answer, granted, orders};
use wardring_api::{Cap, JobState, LineState, Permit, PermitStep, reasons::Reason};
use wardring_planner::{JobOutcome, Outcome, OutcomeResult};

/// The first device answers that it was switched off.
fn answers(world: &mut World, started: bool) {
    let outcome = Outcome {
        result: OutcomeResult::PoweredOff,
        reason: Some(Reason::PoweredOff),
        message: "the device was switched off".to_owned(),
        started,
        ..good_answer(world)
    };
    world.jobs.get_mut("test-1").unwrap().outcome = JobOutcome::Verified(outcome);
    world.settle();
}

fn end(world: &World) -> (LineState, Option<Reason>, u32) {
    let line = world.line("november", "test-1").unwrap();
    (line.state, line.reason, line.tries)
}

fn attempts(most: u32) -> World {
    let mut world = granted();
    world.edit("november", |spec| {
        spec.stages[0].max_concurrency = Some(Cap::Count(2));
        spec.stages[0].retry.max_attempts = Some(most);
    });
    world.settle();
    world
}

#[test]
fn a_device_that_began_nothing_gets_a_new_attempt_and_is_no_failure() {
    let mut world = attempts(1);
    // The permit was given, and the device went off before it could use it.
    let permit = Permit {
        step: PermitStep::Install,
        at: world.now,
        attempt: 1,
        boot_id: "boot-1".to_owned(),
        agent_run: "run-1".to_owned(),
        accepted_in: "run-1".to_owned(),
        expedited: false,
    };
    world.jobs.get_mut("test-1").unwrap().permitted.push(permit);
    answers(&mut world, false);
    assert_eq!(end(&world), (LineState::NotStarted, Some(Reason::PoweredOff), 0));
    let told = explained(&world);
    assert!(told.contains("a person shut the device down cleanly"), "{told}");
    world.now += SignedDuration::from_mins(11);
    world.settle();
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.attempt), (LineState::Granted, 2));
    assert!(world.status("november").halted.is_none());
}

#[test]
fn a_device_that_was_given_up_gets_its_attempt_back_when_it_says_that_it_was_off() {
    let mut world = attempts(1);
    world.edit("november", |spec| spec.stages[0].max_unreachable = Some(Cap::Count(1)));
    while world.jobs["test-1"].state != Some(JobState::Installing) {
        world.minute(|_| {});
    }
    // The other one keeps the stage open.
    for name in ["test-1", "test-2"] {
        world.agents.remove(name);
    }
    world.set_online("test-1", false);
    orders::minutes(&mut world, 90);
    assert_eq!(end(&world), (LineState::Unreachable, Some(Reason::Unreachable), 1));
    world.set_online("test-1", true);
    answers(&mut world, false);
    assert_eq!(end(&world), (LineState::NotStarted, Some(Reason::PoweredOff), 0));
    let counts = world.status("november").stages[0].counts;
    assert_eq!((counts.unreachable, counts.failed, counts.pending), (0, 0, 1));
    world.now += SignedDuration::from_mins(11);
    world.settle();
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.attempt), (LineState::Granted, 2));
}

#[test]
fn a_device_that_failed_before_has_still_failed_before() {
    let mut world = attempts(2);
    let outcome = Outcome {
        result: OutcomeResult::Failed,
        reason: Some(Reason::InstallFailed),
        ..good_answer(&world)
    };
    world.jobs.get_mut("test-1").unwrap().outcome = JobOutcome::Verified(outcome);
    world.settle();
    world.now += SignedDuration::from_mins(11);
    world.settle();
    assert_eq!(world.line("november", "test-1").unwrap().attempt, 2);
    answers(&mut world, false);
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.tries), (LineState::NotStarted, 1));
    assert_eq!(line.was, Some(LineState::Failed));
}

#[test]
fn a_device_that_was_given_up_leaves_the_count_when_it_says_that_it_was_off() {
    let mut world = attempts(2);
    world.edit("november", |spec| spec.stages[0].max_unreachable = Some(Cap::Count(1)));
    while world.jobs["test-1"].state != Some(JobState::Installing) {
        world.minute(|_| {});
    }
    world.agents.remove("test-1");
    world.set_online("test-1", false);
    orders::minutes(&mut world, 90);
    assert_eq!(world.state("november", "test-1"), Some(LineState::Unreachable));
    assert_eq!(world.status("november").stages[0].counts.unreachable, 1);
    world.set_online("test-1", true);
    answers(&mut world, false);
    // The stage is proven without it, and past.
    assert_eq!(end(&world), (LineState::PoweredOff, Some(Reason::PoweredOff), 0));
    let counts = world.status("november").stages[0].counts;
    assert_eq!((counts.unreachable, counts.deferred, counts.failed), (0, 1, 0));
    let told = explained(&world);
    assert!(told.starts_with("test-1 is PoweredOff since "), "{told}");
}

#[test]
fn a_device_that_is_switched_off_every_evening_is_asked_again_each_time() {
    let mut world = attempts(1);
    world.edit("november", |spec| spec.stages[0].max_unreachable = Some(Cap::Count(1)));
    let away = world.agents.remove("test-2");
    assert!(away.is_some(), "the other one keeps the stage open");
    for evening in 1..4 {
        let agent = world.agents.get("test-1").cloned();
        while world.jobs["test-1"].state != Some(JobState::Installing) {
            world.minute(|_| {});
        }
        world.agents.remove("test-1");
        world.set_online("test-1", false);
        orders::minutes(&mut world, 90);
        assert_eq!(world.state("november", "test-1"), Some(LineState::Unreachable), "{evening}");
        world.set_online("test-1", true);
        answers(&mut world, false);
        assert_eq!(end(&world), (LineState::NotStarted, Some(Reason::PoweredOff), 0), "{evening}");
        world.agents.insert("test-1".to_owned(), agent.unwrap());
        world.now += SignedDuration::from_mins(11);
        world.settle();
        let line = world.line("november", "test-1").unwrap();
        assert_eq!((line.state, line.attempt), (LineState::Granted, evening + 1));
    }
}
