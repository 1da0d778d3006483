//! What failed stays told: through the rollback, and through a person's retry.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use jiff::SignedDuration;
use support::{World, explained, good_answer, granted};
use wardring_api::{Cap, JobAction, LineState, reasons::Reason};
use wardring_planner::{JobOutcome, Outcome, OutcomeResult};

/// One device that fails with these words and is rolled back.
fn failing(message: &str) -> World {
    let mut world = granted();
    world.edit("november", |spec| {
        spec.on_failure.action = wardring_api::FailureAction::Rollback;
    });
    let outcome = Outcome {
        result: OutcomeResult::Failed,
        reason: Some(Reason::ServiceDown),
        message: message.to_owned(),
        ..good_answer(&world)
    };
    world.jobs.get_mut("test-1").unwrap().outcome = JobOutcome::Verified(outcome);
    world.settle();
    assert_eq!(world.line("november", "test-1").unwrap().action, JobAction::Rollback);
    world
}

fn rolled_back(world: &mut World, result: OutcomeResult, message: &str) {
    let outcome = Outcome {
        result,
        reason: None,
        message: message.to_owned(),
        started: result != OutcomeResult::NotStarted,
        ..good_answer(world)
    };
    world.jobs.get_mut("test-1").unwrap().outcome = JobOutcome::Verified(outcome);
    world.settle();
}

#[test]
fn what_failed_is_told_through_the_whole_rollback() {
    let told = |world: &World| world.status("november").stages[0].failed_sample[0].clone();
    let mut world = failing("MSSQLSERVER did not start after 3 restarts");
    let what = "test-1: MSSQLSERVER did not start after 3 restarts (Failed/ServiceDown)";
    assert_eq!(told(&world), format!("{what}, being rolled back"));
    // A rollback that cannot begin yet is granted again, and forgets nothing.
    rolled_back(&mut world, OutcomeResult::NotStarted, "on battery");
    assert_eq!(told(&world), format!("{what}, being rolled back"));
    assert_eq!(world.line("november", "test-1").unwrap().attempt, 3);

    let mut fails = world.clone();
    rolled_back(&mut fails, OutcomeResult::RollbackFailed, "the package is gone");
    assert_eq!(told(&fails), format!("{what}, then RollbackFailed"));

    rolled_back(&mut world, OutcomeResult::RolledBack, "taken back");
    assert_eq!(told(&world), format!("{what}, rolled back"));
    let hold = world.holds.values().next().expect("the update is barred");
    assert_eq!(hold.evidence, [format!("{what}, rolled back")]);
    let ended = world.events.iter().find(|event| event.starts_with("RollbackSucceeded")).unwrap();
    assert!(ended.contains(what), "{ended}");
    let halted = world.events.iter().find(|event| event.starts_with("FailureBudget")).unwrap();
    assert!(halted.contains(what), "{halted}");
}

/// A device that failed and was rolled back, and whose rollout a person retried.
fn retried() -> World {
    let mut world = failing("MSSQLSERVER did not start");
    rolled_back(&mut world, OutcomeResult::RolledBack, "");
    world.holds.clear();
    world.retry("november");
    world
}

#[test]
fn a_retry_keeps_the_record_of_what_failed_before() {
    let mut world = retried();
    world.settle();
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.tries), (LineState::Granted, 0));
    assert_eq!(line.was, Some(LineState::Failed));
    assert_eq!(line.was_reason, Some(Reason::ServiceDown));
    assert_eq!(line.note.as_deref(), Some("MSSQLSERVER did not start"));
    let stage = world.status("november").stages[0].clone();
    assert_eq!((stage.counts.failed, stage.counts.in_progress), (0, 1));
    let what = "test-1: MSSQLSERVER did not start (Failed/ServiceDown)";
    assert_eq!(stage.failed_sample, [format!("{what}, being tried again")]);
    let told = explained(&world);
    let before = " It was Failed before: ";
    assert!(told.contains(before) && told.contains("MSSQLSERVER did not start"), "{told}");

    let mut proven = world.clone();
    let outcome = good_answer(&proven);
    proven.jobs.get_mut("test-1").unwrap().outcome = JobOutcome::Verified(outcome);
    proven.settle();
    let line = proven.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.was), (LineState::Succeeded, Some(LineState::Failed)));
    assert!(proven.status("november").stages[0].failed_sample.is_empty());

    let outcome = Outcome {
        result: OutcomeResult::Failed,
        reason: Some(Reason::InstallFailed),
        message: "0x80070643".to_owned(),
        ..good_answer(&world)
    };
    world.jobs.get_mut("test-1").unwrap().outcome = JobOutcome::Verified(outcome);
    world.settle();
    let told = world.status("november").stages[0].failed_sample[0].clone();
    assert_eq!(told, "test-1: 0x80070643 (Failed/InstallFailed), being rolled back");
}

#[test]
fn a_retry_that_is_followed_by_an_abort_leaves_the_failure_on_record() {
    let mut world = retried();
    world.devices.get_mut("test-1").unwrap().online = Some(false);
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Pending));
    world.edit("november", |spec| {
        spec.abort = Some(wardring_api::Abort { reason: "enough".to_owned() });
    });
    world.settle();
    let line = world.line("november", "test-1").unwrap();
    assert!(line.to_string().ends_with(" was=Failed/ServiceDown note=MSSQLSERVER did not start"));
    assert_eq!(world.status("november").stages[0].failed_sample.len(), 1);
    assert!(explained(&world).contains("It was Failed before"), "{}", explained(&world));
}

#[test]
fn a_retried_device_has_its_attempts_anew_and_counts_when_they_are_spent() {
    let mut world = retried();
    world.edit("november", |spec| {
        spec.stages[0].max_concurrency = Some(Cap::Count(2));
        spec.stages[0].retry.max_attempts = Some(2);
    });
    world.settle();
    let fail = |world: &mut World| {
        let outcome = Outcome {
            result: OutcomeResult::Failed,
            reason: Some(Reason::InstallFailed),
            ..good_answer(world)
        };
        world.jobs.get_mut("test-1").unwrap().outcome = JobOutcome::Verified(outcome);
        world.settle();
    };
    fail(&mut world);
    assert!(world.status("november").halted.is_none(), "it has another attempt");
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.note), (LineState::Failed, None));
    world.now += SignedDuration::from_mins(11);
    world.settle();
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.was_reason), (LineState::Granted, Some(Reason::InstallFailed)));
    fail(&mut world);
    assert!(world.status("november").halted.is_some(), "both are spent");
}

#[test]
fn a_device_cannot_write_control_characters_or_a_novel_into_the_status() {
    let world = failing(&format!("a\u{1b}[2J\nb {}", "x".repeat(5_000)));
    let told = &world.status("november").stages[0].failed_sample[0];
    assert!(!told.chars().any(char::is_control), "{told:?}");
    assert!(told.starts_with("test-1: a [2J b xxx"), "{told}");
    assert!(told.len() < 256, "{}", told.len());
}
