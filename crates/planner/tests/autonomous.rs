//! Devices that take an update back by themselves: whose job lets them, and what their answer is.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use jiff::SignedDuration;
use support::{ONE_STAGE, SERVER, World, explained, good_answer};
use wardring_api::{
    AutonomousRollback, AutonomousTrigger, Cap, DeviceRole, FailureAction, IncludeSuperseding,
    LineState, RollbackPolicy, RolloutPhase, reasons::Reason,
};
use wardring_planner::{
    Action, JobAutonomy, JobOutcome, NewJob, NoAutonomy, Outcome, OutcomeResult, RecordCause,
};

/// A rollout that lets devices help themselves, before its first pass.
fn asked() -> World {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    world.device("test-2", "test", SERVER);
    world.rollout("november", ONE_STAGE);
    world.edit("november", |spec| {
        let triggers = vec![AutonomousTrigger::BootLoop];
        spec.autonomous_rollback = Some(AutonomousRollback { triggers, network_lost: None });
    });
    world
}

/// The jobs that the passes of a settling world make.
fn jobs(mut world: World) -> Vec<NewJob> {
    let mut made = Vec::new();
    for _ in 0..10 {
        let plan = world.plan();
        for action in &plan.actions {
            if let Action::CreateJob(job) = action {
                made.push((**job).clone());
            }
            world.apply(action);
        }
    }
    made
}

#[test]
fn a_job_lets_its_device_roll_back_only_where_neither_role_nor_group_forbids_it() {
    let made = jobs(asked());
    assert!(matches!(made[0].autonomy, JobAutonomy::Allowed(_)), "{:?}", made[0].autonomy);

    let mut unasked = asked();
    unasked.edit("november", |spec| spec.autonomous_rollback = None);
    assert_eq!(jobs(unasked)[0].autonomy, JobAutonomy::NotAsked);

    let mut controller = asked();
    let role = DeviceRole::DomainController;
    // The group declares the role, or the device would not be granted at all.
    controller.group("test").spec.roles = vec![role];
    controller.device("test-1", "test", SERVER).roles = vec![role].into();
    let made = jobs(controller);
    let of = |device: &str| &made.iter().find(|job| job.device == device).unwrap().autonomy;
    assert_eq!(of("test-1"), &JobAutonomy::Refused(NoAutonomy::Role(role)));

    let mut forbidden = asked();
    forbidden.group("test").spec.rollback = RollbackPolicy::Forbid;
    assert_eq!(jobs(forbidden)[0].autonomy, JobAutonomy::Refused(NoAutonomy::Group));
}

/// The first device answers that it rolled back by itself, or failed to.
fn answered(mut world: World, result: OutcomeResult) -> World {
    world.settle();
    let outcome = Outcome {
        result,
        reason: Some(Reason::BootLoop),
        message: "it rolled back by itself (2 crashes): removed and verified".to_owned(),
        ..good_answer(&world)
    };
    world.jobs.get_mut("test-1").unwrap().outcome = JobOutcome::Verified(outcome);
    world.settle();
    world
}

#[test]
fn a_device_that_took_the_update_back_by_itself_halts_the_rollout_as_a_failure_does() {
    let world = answered(asked(), OutcomeResult::RolledBack);
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.was), (LineState::RolledBack, Some(LineState::Failed)));
    assert_eq!(line.was_reason, Some(Reason::BootLoop));
    let status = world.status("november");
    assert_eq!(status.phase, Some(RolloutPhase::Halted));
    assert_eq!(status.stages[0].counts.rolled_back, 1);
    let halt = status.halted.unwrap().message;
    assert!(halt.contains("rolled back by itself (2 crashes)"), "{halt}");
    assert!(explained(&world).contains("rolled back by itself"), "{}", explained(&world));
    assert_ne!(world.state("november", "test-2"), Some(LineState::Granted), "the next one waits");
}

#[test]
fn a_device_whose_own_rollback_failed_halts_the_rollout_and_is_left_alone() {
    let world = answered(asked(), OutcomeResult::RollbackFailed);
    assert_eq!(world.state("november", "test-1"), Some(LineState::RollbackFailed));
    assert!(world.status("november").halted.is_some());
}

#[test]
fn a_rollback_of_the_rollout_does_not_remove_twice_what_a_device_took_back_by_itself() {
    let mut world = asked();
    world.edit("november", |spec| spec.on_failure.action = FailureAction::Rollback);
    let world = answered(world, OutcomeResult::RolledBack);
    assert_eq!(world.state("november", "test-1"), Some(LineState::RolledBack));
    let hold = world.holds.values().next().expect("the update is barred");
    assert!(hold.evidence[0].contains("rolled back by itself"), "{:?}", hold.evidence);
}

#[test]
fn what_a_device_took_back_by_itself_is_barred_there_and_only_there_while_the_rollout_goes_on() {
    let mut world = asked();
    world.edit("november", |spec| spec.stages[0].max_failures = Some(Cap::Count(1)));
    let mut world = answered(world, OutcomeResult::RolledBack);
    assert!(world.status("november").halted.is_none(), "the rollout bears one failure");
    assert_eq!(world.state("november", "test-2"), Some(LineState::Granted), "and goes on");
    let (name, hold) = world.holds.first_key_value().expect("the update is barred");
    assert!(name.ends_with("-test-1"), "{name}");
    assert_eq!((hold.devices.as_slice(), hold.kbs.len()), (["test-1".to_owned()].as_slice(), 1));
    assert!(hold.evidence[0].contains("rolled back by itself"), "{:?}", hold.evidence);
    assert_eq!(world.holds.len(), 1);
    assert_eq!(hold.include_superseding, IncludeSuperseding::Hold, "next month's contains it");

    // A later rollout brings what contains it to everybody else, although this device comes first.
    let mut before = asked();
    before.settle();
    let job = world.jobs.get_mut("test-2").unwrap();
    job.outcome = JobOutcome::Verified(Outcome {
        enrolment_id: job.enrolment_id.clone(),
        sequence: job.sequence,
        ..good_answer(&before)
    });
    world.settle();
    world.updates[0].superseded_by = Some("KB5070000".parse().unwrap());
    let mut next = support::update("KB5070000", SERVER);
    next.release = "2026-12".to_owned();
    world.updates.push(next);
    world.rollout("december", &ONE_STAGE.replace("2026-11", "2026-12"));
    world.settle();
    assert_eq!(world.state("december", "test-2"), Some(LineState::Granted));
    assert_eq!(world.status("december").warnings, Vec::<String>::new(), "no matter of the rollout");
    assert_eq!(world.state("december", "test-1"), Some(LineState::Pending));
    let waits: Vec<String> =
        world.status("december").waiting_for.into_iter().map(|waiting| waiting.reason).collect();
    assert!(waits.contains(&Reason::UpdateHeld.as_str().to_owned()), "{waits:?}");
}

#[test]
fn the_bar_of_a_device_is_there_before_its_outcome_is_recorded() {
    let mut world = asked();
    world.settle();
    let outcome = Outcome {
        result: OutcomeResult::RolledBack,
        reason: Some(Reason::BootLoop),
        ..good_answer(&world)
    };
    world.jobs.get_mut("test-1").unwrap().outcome = JobOutcome::Verified(outcome);
    let plan = world.plan();
    let bar = plan.actions.iter().position(|action| matches!(action, Action::CreateHold { .. }));
    let record = plan.actions.iter().position(|action| {
        matches!(action, Action::RecordLines { cause: RecordCause::Outcomes, .. })
    });
    assert!(bar.unwrap() < record.unwrap(), "{:?}", plan.actions);
    // The controller dies in between: the next pass makes the same bar again, which changes nothing.
    world.apply(&plan.actions[bar.unwrap()]);
    world.settle();
    assert_eq!(world.holds.len(), 1);
}

#[test]
fn a_bar_that_the_api_server_refuses_holds_up_nothing_but_its_own_device() {
    let mut world = asked();
    world.edit("november", |spec| spec.stages[0].max_failures = Some(Cap::Count(1)));
    world.refuses_holds = Some("exceeded quota: bars");
    let mut world = answered(world, OutcomeResult::RolledBack);
    let line = world.line("november", "test-1").unwrap();
    assert_eq!(line.state, LineState::RolledBack, "the failure counts at once");
    assert_eq!(world.state("november", "test-2"), Some(LineState::Granted), "the others go on");
    assert!(world.jobs.contains_key("test-1"), "nobody else gets the device before its bar");
    let status = world.status("november");
    let told = status.waiting_for.iter().find(|told| told.reason == "UpdateHoldRefused").unwrap();
    for words in ["UpdateHold november-", "-test-1 ", "exceeded quota: bars"] {
        assert!(told.message.contains(words), "{}", told.message);
    }
    let stalled = status.conditions.iter().find(|condition| condition.type_ == "Stalled").unwrap();
    assert_eq!(stalled.reason, "UpdateHoldRefused");
    let next = world.plan().next_evaluation.unwrap();
    assert!(next <= world.now + SignedDuration::from_mins(1), "it is asked for again: {next}");

    // The next leader does not know of the refusal, and makes the bar as soon as it can.
    world.refused_holds.clear();
    world.refuses_holds = None;
    world.settle();
    assert_eq!(world.holds.len(), 1);
    assert!(!world.jobs.contains_key("test-1"), "and the device is free");
    let status = world.status("november");
    assert!(status.conditions.iter().all(|condition| condition.type_ != "Stalled"), "{status:?}");
}

#[test]
fn a_bar_of_a_rollback_that_the_api_server_refuses_is_made_up_for_by_the_next_leader() {
    let mut world = asked();
    world.edit("november", |spec| spec.on_failure.action = FailureAction::Rollback);
    world.refuses_holds = Some("exceeded quota: bars");
    let mut world = answered(world, OutcomeResult::RolledBack);
    let status = world.status("november");
    assert_eq!(status.phase, Some(RolloutPhase::RolledBack), "the rollback itself is over");
    let about = |world: &World| {
        let waits = world.status("november").waiting_for;
        waits.iter().filter(|told| told.reason == "UpdateHoldRefused").count()
    };
    assert_eq!(about(&world), 2, "the rollout's bar and the device's");

    world.refused_holds.clear();
    world.settle();
    assert_eq!((world.holds.len(), about(&world)), (0, 2), "still refused");
    world.refused_holds.clear();
    world.refuses_holds = None;
    world.settle();
    assert_eq!((world.holds.len(), about(&world)), (2, 0));

    // A person who lifts them has the last word.
    world.holds.clear();
    world.settle();
    assert_eq!(world.holds.len(), 0);
}

#[test]
fn a_retry_gives_a_device_that_helped_itself_a_new_attempt_once_the_bar_is_lifted() {
    let mut world = asked();
    world.edit("november", |spec| spec.stages[0].max_concurrency = Some(Cap::Count(2)));
    let mut world = answered(world, OutcomeResult::RolledBack);
    world.retry("november");
    world.settle();
    assert_ne!(world.state("november", "test-1"), Some(LineState::Granted), "it is barred");
    world.holds.clear();
    world.settle();
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.was), (LineState::Granted, Some(LineState::Failed)));
    assert!(world.status("november").halted.is_none());
}
