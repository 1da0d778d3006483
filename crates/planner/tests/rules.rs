//! Single rules, each in the smallest world that can break it.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use std::sync::Arc;

use jiff::SignedDuration;
use support::{ONE_STAGE, SERVER, World, agent::Script, good_answer, granted, update};
use wardring_api::{
    Batch, Cap, JobAction, JobState, LineState, RollbackPolicy, RolloutPhase, conditions,
    reasons::Reason,
};
use wardring_planner::{
    Action, Decision, GrantId, JobEnd, JobOutcome, Outcome, OutcomeResult, Plan, Unheard, resolve,
};

fn answered(spoil: impl FnOnce(&mut Outcome)) -> (LineState, Option<Reason>) {
    let mut world = granted();
    let mut outcome = good_answer(&world);
    spoil(&mut outcome);
    world.jobs.get_mut("test-1").unwrap().outcome = JobOutcome::Verified(outcome);
    world.settle();
    let line = world.line("november", "test-1").unwrap();
    (line.state, line.reason)
}

fn has_grant(plan: &Plan) -> bool {
    plan.actions.iter().any(|action| matches!(action, Action::OpenBatch { .. }))
}

#[test]
fn an_answer_to_another_grant_never_counts() {
    assert_eq!(answered(|_| {}).0, LineState::Succeeded);
    assert_eq!(answered(|all| all.attempt = 2).0, LineState::Granted);
    assert_eq!(answered(|all| all.rollout_uid = "other".to_owned()).0, LineState::Granted);
    assert_eq!(answered(|all| all.enrolment_id = "other".to_owned()).0, LineState::Granted);
    assert_eq!(answered(|all| all.action = JobAction::Rollback).0, LineState::Granted);
    assert_eq!(answered(|all| all.sequence = 99).0, LineState::Granted);
}

#[test]
fn success_without_the_required_restart_is_a_failure() {
    let failed = (LineState::Failed, Some(Reason::RebootStuck));
    assert_eq!(answered(|all| all.boot_id = "boot-1".to_owned()), failed);
    assert_eq!(answered(|all| all.installed_in_boot = None), failed);
    assert_eq!(answered(|all| all.boot_id = String::new()), failed);
    let no_restart_needed = answered(|all| {
        all.reboot_required = false;
        all.installed_in_boot = None;
    });
    assert_eq!(no_restart_needed.0, LineState::Succeeded);
}

#[test]
fn success_without_an_installation_is_not_proof() {
    assert_eq!(answered(|all| all.started = false).0, LineState::AlreadyInstalled);
}

#[test]
fn a_device_that_needs_a_person_at_its_start_is_granted_only_where_somebody_will_be_there() {
    for (policy, attended, plain) in [
        ("Require", LineState::Pending, LineState::Granted),
        ("Ignore", LineState::Granted, LineState::Pending),
    ] {
        let mut world = World::new();
        world.group("test");
        world.device("test-1", "test", SERVER).attended_boot = true;
        world.device("test-2", "test", SERVER);
        let spec = format!("{ONE_STAGE}\npreflight: {{unattendedBoot: {policy}}}");
        world.rollout("november", &spec);
        world.settle();
        let states = ["test-1", "test-2"].map(|name| world.state("november", name));
        assert_eq!(states, [Some(attended), Some(plain)], "{policy}");
    }
}

#[test]
fn a_lost_or_damaged_record_stalls_the_run() {
    for damage in [0, 1, 2] {
        let mut world = granted();
        let name = world.slices.keys().next().unwrap().clone();
        let lines = &mut world.slices.get_mut(&name).unwrap().spec.lines;
        match damage {
            0 => {
                world.slices.clear();
            }
            1 => lines[1] = "test-2 0 Perhaps".to_owned(),
            _ => lines[1] = "test-9 0 Pending".to_owned(),
        }
        world.settle();
        let status = world.status("november");
        assert!(conditions::is_true(&status.conditions, conditions::STALLED));
        assert_eq!(status.waiting_for[0].reason, "RecordLost");
        assert!(world.jobs.contains_key("test-1"), "a job that may be at work is left alone");
    }
}

/// A new leader that has not heard what the agents hold.
fn listening(world: &mut World) {
    let until = world.now + SignedDuration::from_mins(10);
    world.guards.unheard =
        Some(Unheard { devices: 1, names: vec!["test-9".to_owned()], until: Some(until) });
}

#[test]
fn a_leader_that_has_not_heard_the_agents_grants_nothing_and_says_so() {
    let mut world = granted();
    world.edit("november", |spec| spec.stages[0].max_concurrency = Some(Cap::Count(2)));
    listening(&mut world);

    let plan = world.settle();
    assert_eq!(world.state("november", "test-2"), Some(LineState::Pending));
    assert_eq!(
        plan.rollouts[0].stages[0].decisions[1],
        Decision::Hold(Reason::AgentsUnheard),
        "no silent hold"
    );
    let until = world.guards.unheard.as_ref().unwrap().until;
    assert_eq!(plan.next_evaluation, until, "it looks again when the silent count as offline");
    let status = world.status("november");
    let waits = status.waiting_for.iter().find(|all| all.reason == "AgentsUnheard").unwrap();
    assert!(waits.message.contains("Not heard yet: test-9;"), "{}", waits.message);
    assert_eq!(waits.until, until, "and until when");
    assert!(!conditions::is_true(&status.conditions, conditions::STALLED), "that is no fault");

    world.guards.unheard = None;
    world.settle();
    assert_eq!(world.state("november", "test-2"), Some(LineState::Granted));
}

#[test]
fn a_leader_that_has_not_heard_the_agents_closes_an_open_batch_without_granting() {
    let mut world = granted();
    world.jobs.clear();
    let slice = world.slices.values_mut().next().unwrap();
    slice.spec.lines[0] = "test-1 0 Pending".to_owned();
    let slice = slice.metadata.name.clone().unwrap();
    let uid = world.rollouts["november"].metadata.uid.clone().unwrap();
    world.ledger.batch = Some(Batch {
        sequence: world.ledger.sequence,
        rollout_uid: uid,
        slice,
        grants: vec!["test-1 1 Install".to_owned()],
    });
    listening(&mut world);

    world.settle();
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.attempt), (LineState::Pending, 1));
    assert_eq!(line.sequence, world.ledger.sequence, "its author's write fails");
    assert!(world.jobs.is_empty());
}

#[test]
fn a_leader_that_has_not_heard_the_agents_still_halts_and_takes_answers() {
    let mut world = granted();
    listening(&mut world);
    let outcome = Outcome {
        result: OutcomeResult::Failed,
        reason: Some(Reason::InstallFailed),
        ..good_answer(&world)
    };
    world.jobs.get_mut("test-1").unwrap().outcome = JobOutcome::Verified(outcome);
    world.settle();
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Halted));
    assert!(world.jobs.is_empty());
}

#[test]
fn a_device_that_returns_waits_for_its_slot_until_the_agents_were_heard() {
    let mut world = granted();
    world.edit("november", |spec| spec.stages[0].max_unreachable = Some(Cap::Count(1)));
    world.agents.get_mut("test-1").unwrap().script = Script::Slow;
    world.set_online("test-2", false);
    while world.state("november", "test-1") != Some(LineState::Unreachable) {
        world.minute(|_| {});
    }
    listening(&mut world);
    while world.jobs["test-1"].state != Some(JobState::Verifying) {
        world.minute(|_| {});
    }
    assert_eq!(world.state("november", "test-1"), Some(LineState::Unreachable));

    world.guards.unheard = None;
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
}

#[test]
fn a_batch_that_a_dead_leader_left_open_is_closed_by_writing_its_lines() {
    let mut world = granted();
    world.jobs.clear();
    let slice = world.slices.values_mut().next().unwrap();
    slice.spec.lines[0] = "test-1 0 Pending".to_owned();
    let slice = slice.metadata.name.clone().unwrap();
    let uid = world.rollouts["november"].metadata.uid.clone().unwrap();
    world.ledger.sequence = 8;
    world.ledger.batch = Some(Batch {
        sequence: 7,
        rollout_uid: uid,
        slice,
        grants: vec!["test-1 1 Install".to_owned()],
    });
    let mut suspended = world.clone();

    world.settle();
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.sequence), (LineState::Granted, 7));
    assert_eq!(world.state("november", "test-2"), Some(LineState::Pending), "the slot is taken");
    assert!(!world.jobs["test-1"].repaired, "no job can have existed");

    suspended.edit("november", |spec| spec.suspend = Some(true));
    suspended.settle();
    let line = suspended.line("november", "test-1").unwrap();
    // The line is written all the same: the dead leader's own write must lose.
    assert_eq!((line.state, line.attempt, line.sequence), (LineState::Pending, 1, 7));
    assert!(suspended.jobs.is_empty());
}

#[test]
fn an_open_batch_of_a_rollout_that_is_gone_does_not_block_the_others() {
    let mut world = granted();
    let slice = world.slices.values_mut().next().unwrap();
    slice.spec.lines[0] = "test-1 0 Pending".to_owned();
    let slice = slice.metadata.name.clone().unwrap();
    let gone = world.rollouts.remove("november").unwrap();
    world.ledger.sequence = 8;
    world.ledger.batch = Some(Batch {
        sequence: 7,
        rollout_uid: gone.metadata.uid.unwrap(),
        slice: slice.clone(),
        grants: vec!["test-1 1 Install".to_owned()],
    });
    world.rollout("december", ONE_STAGE);
    world.settle();
    assert_eq!(world.slices[&slice].spec.lines[0], "test-1 1 Pending seq=7");
    assert_eq!(world.state("december", "test-1"), Some(LineState::Granted));
}

#[test]
fn guards_grant_nothing_and_say_so() {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    world.rollout("november", ONE_STAGE);
    world.settle();
    world.jobs.clear();
    let mut skewed = world.clone();
    skewed.guards.clock_trusted = false;
    assert!(!has_grant(&skewed.plan()));
    skewed.settle();
    assert_eq!(skewed.status("november").waiting_for[0].reason, "ClockSkew");
    let mut unledgered = world.clone();
    unledgered.ledger.present = false;
    assert!(!has_grant(&unledgered.plan()));
    let mut terminating = world;
    terminating.guards.namespace_terminating = true;
    let plan = terminating.plan();
    assert!(matches!(plan.actions.as_slice(), [Action::RemoveFinalizer(_)]));
}

#[test]
fn a_repaired_job_is_never_recalled() {
    let mut world = granted();
    world.jobs.clear();
    world.settle();
    assert!(world.jobs["test-1"].repaired);
    world.edit("november", |spec| spec.suspend = Some(true));
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
    assert!(world.jobs.contains_key("test-1"));
}

#[test]
fn a_grant_whose_job_was_never_asked_for_is_not_repaired_but_made() {
    let mut world = granted();
    let job = world.jobs.remove("test-1").unwrap();
    world.uncreated.insert(GrantId {
        rollout_uid: job.rollout_uid,
        device: "test-1".to_owned(),
        attempt: 1,
    });
    world.settle();
    assert!(!world.jobs["test-1"].repaired);
}

#[test]
fn suspending_recalls_what_has_not_begun_and_resuming_is_a_new_attempt() {
    let mut world = granted();
    world.edit("november", |spec| spec.suspend = Some(true));
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Pending));
    assert!(world.jobs.is_empty());
    world.edit("november", |spec| spec.suspend = Some(false));
    world.settle();
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.attempt, line.tries), (2, 0));
}

#[test]
fn a_device_in_two_stages_belongs_to_the_first() {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    world.rollout(
        "november",
        "{updates: {select: {release: 2026-11}}, stages: [{name: one, group: test}, \
         {name: two, selector: {matchLabels: {stage: test}}, minDevices: 0, minProven: 0}]}",
    );
    for _ in 0..30 {
        world.minute(|_| {});
    }
    let status = world.status("november");
    assert_eq!(status.phase, Some(RolloutPhase::Completed));
    assert_eq!((status.stages[0].counts.total, status.stages[1].counts.total), (1, 0));
    assert_eq!(world.agents["test-1"].begun, 1);
}

#[test]
fn a_group_that_forbids_it_is_not_rolled_back() {
    let mut world = granted();
    world.groups.get_mut("test").unwrap().spec.rollback = RollbackPolicy::Forbid;
    world.edit("november", |spec| {
        spec.on_failure.action = wardring_api::FailureAction::Rollback;
    });
    world.agents.get_mut("test-1").unwrap().script = Script::ServiceDown;
    for _ in 0..60 {
        world.minute(|_| {});
    }
    assert_eq!(world.state("november", "test-1"), Some(LineState::Failed));
    assert!(world.holds.is_empty());
}

#[test]
fn silence_over_its_budget_never_rolls_back_another_device() {
    let mut world = World::new();
    world.group("test").spec.max_unavailable = Some(Cap::Count(9));
    for name in ["test-1", "test-2", "test-3"] {
        world.device(name, "test", SERVER);
    }
    world.agents.get_mut("test-2").unwrap().script = Script::Silent;
    world.rollout(
        "november",
        "{updates: {select: {release: 2026-11}}, stages: [{name: test, group: test}], \
         onFailure: {action: Rollback, scope: AllStages}}",
    );
    for _ in 0..300 {
        world.minute(|_| {});
    }
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Halted));
    assert_eq!(world.state("november", "test-1"), Some(LineState::Succeeded));
    assert_eq!(world.state("november", "test-2"), Some(LineState::Unreachable));
    assert!(world.agents["test-1"].installed && world.status("november").rollback.is_none());
}

#[test]
fn the_job_of_a_silent_device_stays_until_it_is_released_or_its_retention_ends() {
    let mut world = granted();
    world.agents.get_mut("test-1").unwrap().script = Script::Silent;
    for _ in 0..300 {
        world.minute(|_| {});
    }
    assert_eq!(world.state("november", "test-1"), Some(LineState::Unreachable));
    assert!(world.jobs.contains_key("test-1"));
    let mut old = world.clone();
    old.now += SignedDuration::from_hours(31 * 24);
    old.settle();
    assert!(old.jobs.is_empty());
    world.devices.get_mut("test-1").unwrap().release_requested_at = Some(world.now);
    let plan = world.plan();
    assert!(
        plan.actions
            .iter()
            .any(|action| { matches!(action, Action::DeleteJob { why: JobEnd::Released, .. }) })
    );
    world.settle();
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.reason), (LineState::Unreachable, Some(Reason::Released)));
}

#[test]
fn a_job_that_cannot_be_created_ends_its_line() {
    let mut world = granted();
    let job = world.jobs.remove("test-1").unwrap();
    let mut snapshot = world.snapshot();
    let grant = GrantId { rollout_uid: job.rollout_uid, device: "test-1".to_owned(), attempt: 1 };
    snapshot.cannot_create.insert(grant, "the payload is too large".to_owned());
    let plan = wardring_planner::plan(&snapshot);
    let ends = plan.actions.iter().any(|action| match action {
        Action::RecordLines { changes, .. } => {
            changes.iter().any(|change| change.line.reason == Some(Reason::CannotCreate))
        }
        _ => false,
    });
    assert!(ends);
}

#[test]
fn a_stop_is_written_before_anything_else() {
    let mut halts = granted();
    let failed = Outcome { result: OutcomeResult::Failed, ..good_answer(&halts) };
    halts.jobs.get_mut("test-1").unwrap().outcome = JobOutcome::Verified(failed);
    let mut suspends = granted();
    suspends.edit("november", |spec| spec.suspend = Some(true));
    for world in [halts, suspends] {
        let plan = world.plan();
        assert!(plan.actions.len() > 1);
        let Action::WriteStatus { status, .. } = &plan.actions[0] else {
            panic!("{:#?}", plan.actions);
        };
        assert!(status.halted.is_some() || status.suspended.is_some());
    }
}

#[test]
fn deleting_a_rollout_recalls_at_once_what_has_not_begun() {
    let mut world = granted();
    world.set_online("test-1", false);
    world.delete_rollout("november");
    world.settle();
    assert!(world.jobs.is_empty() && world.rollouts.is_empty());
    assert!(world.permits.is_empty());
    let line = &world.slices.values().next().unwrap().spec.lines[0];
    assert!(line.starts_with("test-1 1 Pending"), "the record stays: {line}");
}

#[test]
fn a_deleted_rollout_does_not_wait_for_a_silent_device_with_a_forged_answer() {
    let mut world = granted();
    world.agents.get_mut("test-1").unwrap().script = Script::Forger;
    for minute in 0..(26 * 60) {
        if minute == 3 {
            world.delete_rollout("november");
        }
        if minute == 7 {
            world.set_online("test-1", false);
        }
        world.minute(|_| {});
    }
    assert!(world.rollouts.is_empty());
}

#[test]
fn every_frozen_device_has_a_decision() {
    let world = granted();
    let plan = world.plan();
    let told: Vec<(String, Decision)> = plan.rollouts[0].stages[0]
        .devices()
        .map(|(name, decision)| (name.to_owned(), decision))
        .collect();
    assert_eq!(
        told,
        [
            ("test-1".to_owned(), Decision::Continue),
            ("test-2".to_owned(), Decision::Hold(Reason::SlotsTaken)),
        ]
    );
}

#[test]
fn a_selection_resolves_per_product_without_what_is_superseded_or_excluded() {
    let mut old = update("KB5068780", SERVER);
    old.superseded_by = Some("KB5068787".parse().unwrap());
    let mut elsewhere = update("KB5068781", "Windows Server 2019");
    elsewhere.superseded_by = Some("KB5068787".parse().unwrap());
    let mut driver = update("KB5068799", SERVER);
    driver.kind = wardring_api::UpdateKind::Driver;
    let mut past = update("KB5060000", SERVER);
    past.release = "2026-10".to_owned();
    let all =
        [update("KB5068787", SERVER), old, elsewhere, driver, past, update("KB5068782", SERVER)];
    let catalogue: Vec<_> = all.iter().collect();
    let yaml = "updates: {select: {release: 2026-11, exclude: [KB5068782]}}\n\
                stages: [{name: a, group: b}]";
    let resolved = resolve(&serde_yaml::from_str(yaml).unwrap(), &catalogue).unwrap();
    let told: Vec<_> =
        resolved.iter().map(|update| (update.product.as_str(), update.kb.as_str())).collect();
    assert_eq!(told, [("Windows Server 2019", "KB5068781"), (SERVER, "KB5068787")]);

    let yaml = "updates: {kbs: [KB5068787, KB5011111]}\nstages: [{name: a, group: b}]";
    let (reason, message) = resolve(&serde_yaml::from_str(yaml).unwrap(), &catalogue).unwrap_err();
    assert_eq!(reason, Reason::NothingSelected);
    assert!(message.contains("KB5011111") && !message.contains("KB5068787"), "{message}");
}

#[test]
fn a_malformed_object_is_named_and_does_not_panic() {
    let mut world = granted();
    let mut snapshot = world.snapshot();
    let mut rollout = (*snapshot.rollouts[0]).clone();
    rollout.spec.stages.clear();
    rollout.metadata.name = None;
    snapshot.rollouts.push(Arc::new(rollout));
    let plan = wardring_planner::plan(&snapshot);
    assert!(plan.rollouts.iter().any(|told| {
        told.status.waiting_for.first().is_some_and(|first| first.reason == "InvalidSpec")
    }));
    world.settle();
}

#[test]
fn a_probe_that_asks_nothing_grants_nothing() {
    let mut world = World::new();
    world.group("g");
    world.device("srv-1", "g", SERVER);
    world.rollout(
        "november",
        "updates: {select: {release: 2026-11}}
stages: [{name: g, group: g}]
health: {probes: [{name: web, type: Http}]}",
    );
    world.settle();
    assert!(world.jobs.is_empty());
    let told = world.status("november").waiting_for;
    assert_eq!(told[0].message, "Probe web lacks the field that its type Http names.");
}

/// A rollout whose only stage is proven.
fn completed() -> World {
    let mut world = granted();
    for _ in 0..(30 * 60) {
        world.minute(|_| {});
        if world.status("november").phase == Some(RolloutPhase::Completed) {
            return world;
        }
    }
    panic!("it does not complete: {:#?}", world.status("november"));
}

#[test]
fn a_completed_rollout_that_is_aborted_stays_completed() {
    let mut world = completed();
    let message = world.status("november").message;
    world.edit("november", |spec| {
        spec.abort = Some(wardring_api::Abort { reason: "enough".to_owned() });
    });
    world.settle();
    let status = world.status("november");
    assert_eq!(status.phase, Some(RolloutPhase::Completed));
    assert_eq!(status.message, message);
    assert!(status.aborted.is_some(), "and nothing of it moves any more");
    assert!(conditions::is_true(&status.conditions, conditions::COMPLETED));
}

#[test]
fn a_retry_that_has_nothing_to_try_again_leaves_the_times_of_a_completed_stage() {
    let mut world = completed();
    let stages = world.status("november").stages;
    world.retry("november");
    world.settle();
    let status = world.status("november");
    assert!(status.last_handled_retry.is_some());
    assert_eq!(status.stages, stages);
}

#[test]
fn a_stage_that_has_everything_already_says_how_to_go_on() {
    let mut world = granted();
    for agent in world.agents.values_mut() {
        agent.script = Script::AlreadyInstalled;
    }
    for _ in 0..60 {
        world.minute(|_| {});
    }
    let first = world.status("november").waiting_for[0].clone();
    assert_eq!(first.reason, "NotEnoughProven");
    assert!(first.message.contains("`minProven: 0`"), "{}", first.message);
}
