//! A rollout that takes the place of another one (`spec.supersedes`).
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use support::{SERVER, World, agent::Script};
use wardring_api::{
    Handover, LineState, PermitStep, RolloutPhase, StageState, conditions, reasons::Reason,
};
use wardring_planner::{Action, Decision, check, plan};

const OLD: &str = "
updates: {select: {release: 2026-11}}
stages:
- {name: test, group: test, maxConcurrency: 1}
- {name: production, group: production, maxConcurrency: 1}";

const FIX: &str = "
updates: {kbs: [KB5068787]}
supersedes: november
stages:
- {name: all, selector: {matchExpressions: [{key: stage, operator: Exists}]}, maxConcurrency: 2, minProven: 0}";

/// Three test servers and one of production, some minutes into the rollout of November.
fn world(minutes: u32) -> World {
    let mut world = World::new();
    world.group("test");
    world.group("production");
    for name in ["test-1", "test-2", "test-3"] {
        world.device(name, "test", SERVER);
    }
    world.device("prod-1", "production", SERVER);
    world.rollout("november", OLD);
    world.settle();
    pass(&mut world, minutes);
    world
}

fn pass(world: &mut World, minutes: u32) {
    for _ in 0..minutes {
        world.minute(|_| {});
    }
}

fn phase(world: &World, rollout: &str) -> Option<RolloutPhase> {
    world.status(rollout).phase
}

/// Installations of the rollout that were permitted.
fn begun(world: &World, rollout: &str) -> usize {
    let uid = world.rollouts.get(rollout).map(|all| all.metadata.uid.clone().unwrap());
    let mine = world.permits.iter().filter(|given| {
        given.step == PermitStep::Install
            && (given.rollout == rollout || Some(&given.rollout) == uid.as_ref())
    });
    mine.count()
}

#[test]
fn what_has_not_begun_is_handed_over_at_once_and_both_say_so() {
    let mut world = world(0);
    assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
    world.rollout("fix", FIX);
    world.settle();
    for name in ["test-1", "test-2", "test-3"] {
        let line = world.line("november", name).unwrap();
        assert_eq!((line.state, line.reason), (LineState::Deferred, Some(Reason::HandedOver)));
    }
    let old = world.status("november");
    assert_eq!(old.phase, Some(RolloutPhase::Superseded));
    assert_eq!(old.superseded_by.as_ref().unwrap().rollout, "fix");
    assert!(!conditions::is_true(&old.conditions, conditions::STALLED));
    assert_eq!(world.status("fix").took_over.unwrap().rollout, "november");
    pass(&mut world, 60);
    assert_eq!(begun(&world, "november"), 0);
    assert_eq!(phase(&world, "fix"), Some(RolloutPhase::Completed));
    assert_eq!(world.status("november").stages[1].state, StageState::Pending);
    let writes = world.writes;
    pass(&mut world, 60);
    assert_eq!(world.writes, writes, "and then nothing is written any more");
}

#[test]
fn what_has_begun_comes_to_its_end_there_and_nobody_has_a_device_twice() {
    let mut world = world(4);
    assert!(world.jobs["test-1"].may_have_begun());
    world.rollout("fix", FIX);
    let plan = world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
    let fix = plan.rollouts.iter().find(|all| all.rollout.name == "fix").unwrap();
    assert_eq!(fix.stages[0].decisions[1], Decision::Hold(Reason::Busy), "test-1 is at work");
    for _ in 0..60 {
        world.minute(|world| {
            let granted =
                world.lines().into_iter().filter(|(.., line)| line.state == LineState::Granted);
            let mut names: Vec<_> = granted.map(|(.., line)| line.device).collect();
            names.sort();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all, "one device, one rollout");
        });
    }
    assert_eq!(world.state("november", "test-1"), Some(LineState::Succeeded));
    assert_eq!(begun(&world, "november"), 1);
    assert_eq!(phase(&world, "november"), Some(RolloutPhase::Superseded));
    assert_eq!(phase(&world, "fix"), Some(RolloutPhase::Completed));
}

#[test]
fn nothing_of_the_new_one_starts_before_the_old_one_gave_way_whatever_dies_in_between() {
    for writes in 0..12 {
        let mut world = world(1);
        world.rollout("fix", FIX);
        let look = |world: &World| {
            let uid = world.rollouts["fix"].metadata.uid.clone().unwrap();
            let starts =
                world.lines().into_iter().any(|(of, _, line)| of == uid && line.attempt > 0);
            let gave_way = world.status("november").superseded_by.is_some();
            assert!(!starts || gave_way, "both rollouts would start devices");
        };
        for _ in 0..4 {
            world.crash_after(writes, look);
            world.settle_watched(look);
        }
        pass(&mut world, 60);
        assert_eq!(phase(&world, "fix"), Some(RolloutPhase::Completed), "after {writes} writes");
        assert_eq!(phase(&world, "november"), Some(RolloutPhase::Superseded));
    }
}

#[test]
fn a_halt_of_the_old_one_stays_and_the_new_one_tells_it() {
    let mut world = world(0);
    world.agents.get_mut("test-1").unwrap().script = Script::InstallFails;
    while world.status("november").halted.is_none() {
        world.minute(|_| {});
    }
    let halted = world.status("november").halted;
    world.rollout("fix", FIX);
    pass(&mut world, 5);
    let old = world.status("november");
    assert_eq!((old.halted.clone(), old.phase), (halted.clone(), Some(RolloutPhase::Halted)));
    assert!(old.superseded_by.is_some());
    assert_eq!(world.state("november", "test-2"), Some(LineState::Deferred));
    assert!(world.status("fix").took_over.unwrap().message.contains(&halted.unwrap().message));
    world.retry("november");
    world.edit("november", |spec| spec.suspend = Some(false));
    pass(&mut world, 60);
    assert!(world.status("november").halted.is_some(), "nor does a retry lift it");
    assert_eq!(begun(&world, "november"), 1);
}

#[test]
fn a_device_that_fails_after_the_handover_halts_the_old_one_and_is_taken_back_there() {
    let mut world = world(0);
    world.edit("november", |spec| {
        spec.on_failure = serde_json::from_str(r#"{"action": "Rollback"}"#).unwrap();
    });
    world.agents.get_mut("test-1").unwrap().script = Script::ServiceDown;
    pass(&mut world, 4);
    world.rollout("fix", FIX);
    pass(&mut world, 60);
    let old = world.status("november");
    assert_eq!(old.halted.unwrap().reason, Reason::FailureBudgetSpent.as_str());
    assert_eq!(world.state("november", "test-1"), Some(LineState::RolledBack));
    assert_eq!(old.phase, Some(RolloutPhase::RolledBack));
}

#[test]
fn a_failure_that_would_have_been_tried_again_halts_nothing_by_being_handed_over() {
    let mut world = world(0);
    world.edit("november", |spec| {
        spec.stages[0].retry =
            serde_json::from_str(r#"{"maxAttempts": 3, "backoff": "1h"}"#).unwrap();
        spec.on_failure =
            serde_json::from_str(r#"{"action": "Rollback", "scope": "AllStages"}"#).unwrap();
    });
    world.agents.get_mut("test-1").unwrap().script = Script::FailsOnce;
    while world.state("november", "test-1") != Some(LineState::Failed) {
        world.minute(|_| {});
    }
    world.rollout("fix", FIX);
    pass(&mut world, 90);
    let old = world.status("november");
    assert!(old.halted.is_none(), "{:?}", old.halted);
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.was), (LineState::Deferred, Some(LineState::Failed)));
}

#[test]
fn a_name_that_nobody_has_is_said_and_nothing_starts_until_somebody_has_it() {
    let mut world = world(0);
    world.delete_rollout("november");
    pass(&mut world, 3);
    world.rollout("fix", FIX);
    pass(&mut world, 10);
    let status = world.status("fix");
    assert_eq!(status.phase, Some(RolloutPhase::Invalid));
    assert!(status.message.unwrap().contains("names rollout november"));
    assert_eq!(begun(&world, "fix"), 0);
    world.edit("fix", |spec| spec.supersedes = None);
    pass(&mut world, 60);
    assert_eq!(phase(&world, "fix"), Some(RolloutPhase::Completed));
}

#[test]
fn rollouts_that_supersede_each_other_say_so_and_start_nothing() {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    for (name, other) in [("a", "b"), ("b", "c"), ("c", "a")] {
        world.rollout(name, &FIX.replace("november", other));
    }
    pass(&mut world, 10);
    for name in ["a", "b", "c"] {
        let status = world.status(name);
        assert_eq!(status.phase, Some(RolloutPhase::Invalid), "{name}");
        let stalled = status.conditions.iter().find(|all| all.type_ == conditions::STALLED);
        assert_eq!(stalled.unwrap().reason, Reason::SupersedesInCircle.as_str());
        assert!(status.message.unwrap().contains(&format!("({name} supersedes ")), "{name}");
    }
    world.rollout("d", &FIX.replace("november", "a"));
    pass(&mut world, 30);
    assert_eq!(phase(&world, "d"), Some(RolloutPhase::Completed), "it is in no circle");
    for name in ["a", "b", "c"] {
        assert_eq!((phase(&world, name), begun(&world, name)), (Some(RolloutPhase::Superseded), 0));
    }
}

#[test]
fn deleting_the_new_one_does_not_bring_the_old_one_back() {
    let mut world = world(0);
    world.rollout("fix", FIX);
    world.settle();
    pass(&mut world, 2);
    world.delete_rollout("fix");
    pass(&mut world, 60);
    assert!(!world.rollouts.contains_key("fix"));
    world.edit("november", |spec| spec.suspend = Some(false));
    world.retry("november");
    pass(&mut world, 60);
    assert_eq!(phase(&world, "november"), Some(RolloutPhase::Superseded));
    assert_eq!(begun(&world, "november"), 0);
}

#[test]
fn deleting_the_old_one_keeps_the_new_one_from_nothing_and_made_again_it_gives_way_again() {
    let mut world = world(0);
    world.rollout("fix", FIX);
    world.settle();
    pass(&mut world, 2);
    world.delete_rollout("november");
    pass(&mut world, 2);
    assert!(!world.rollouts.contains_key("november"));
    // Whoever keeps manifests in Git has it back in a minute.
    world.rollout("november", OLD);
    pass(&mut world, 60);
    assert_eq!(phase(&world, "fix"), Some(RolloutPhase::Completed));
    assert_eq!(phase(&world, "november"), Some(RolloutPhase::Superseded));
    assert_eq!(begun(&world, "november"), 0);
}

#[test]
fn a_rollout_that_cannot_start_itself_stops_no_other() {
    for wrong in [
        FIX.replace(
            "selector: {matchExpressions: [{key: stage, operator: Exists}]}",
            "group: nobody",
        ),
        FIX.replace("KB5068787", "KB5999999"),
        format!("{FIX}\nsuspend: true"),
    ] {
        let mut world = world(1);
        world.rollout("fix", &wrong);
        pass(&mut world, 90);
        assert_eq!(phase(&world, "november"), Some(RolloutPhase::Completed), "{wrong}");
        assert!(world.status("november").superseded_by.is_none());
    }
}

#[test]
fn whom_the_new_one_leaves_out_is_named() {
    let mut world = world(1);
    let narrow =
        FIX.replace("{key: stage, operator: Exists}", "{key: stage, operator: In, values: [test]}");
    world.rollout("fix", &narrow);
    world.settle();
    let message = world.status("november").superseded_by.unwrap().message;
    assert!(message.contains("1 device of it is in no stage of that one: prod-1."), "{message}");
}

#[test]
fn the_newest_of_three_takes_the_place_of_all() {
    let mut world = world(0);
    world.rollout("fix", FIX);
    world.rollout("fix-2", &FIX.replace("supersedes: november", "supersedes: fix"));
    world.settle();
    pass(&mut world, 60);
    for name in ["november", "fix"] {
        assert_eq!(phase(&world, name), Some(RolloutPhase::Superseded), "{name}");
        assert_eq!(begun(&world, name), 0, "{name}");
    }
    assert_eq!(phase(&world, "fix-2"), Some(RolloutPhase::Completed));
}

#[test]
fn a_completed_rollout_stays_what_it_is() {
    let mut world = world(60);
    assert_eq!(phase(&world, "november"), Some(RolloutPhase::Completed));
    world.rollout("fix", FIX);
    pass(&mut world, 60);
    assert_eq!(phase(&world, "november"), Some(RolloutPhase::Completed));
    assert!(world.status("november").superseded_by.is_none());
    assert_eq!(phase(&world, "fix"), Some(RolloutPhase::Completed));
}

#[test]
fn the_second_opinion_lets_nobody_start_or_come_back_around_a_handover() {
    let mut world = world(1);
    world.rollout("fix", FIX);
    world.settle();
    let gave = Handover {
        rollout: "fix".to_owned(),
        uid: "1".to_owned(),
        at: world.now,
        message: String::new(),
    };
    // The plan of a leader that has not read the handover.
    let mut blind = World::new();
    blind.group("test");
    blind.device("test-1", "test", SERVER);
    blind.rollout(
        "november",
        "{updates: {select: {release: 2026-11}}, stages: [{name: test, group: test}]}",
    );
    loop {
        let snapshot = blind.snapshot();
        let plan = plan(&snapshot);
        let opens = |action: &Action| matches!(action, Action::OpenBatch { .. });
        if plan.actions.iter().any(opens) {
            let mut plan = plan;
            plan.actions.retain(|all| !matches!(all, Action::WriteStatus { .. }));
            assert_eq!(check(&snapshot, &plan), []);
            let rollout = blind.rollouts.get_mut("november").unwrap();
            rollout.status.as_mut().unwrap().superseded_by = Some(gave.clone());
            assert!(check(&blind.snapshot(), &plan).iter().any(|all| all.rule == "S5"));
            let rollout = blind.rollouts.get_mut("november").unwrap();
            rollout.status.as_mut().unwrap().superseded_by = None;
            rollout.spec.supersedes = Some("october".to_owned());
            assert!(check(&blind.snapshot(), &plan).iter().any(|all| all.rule == "S5"));
            break;
        }
        plan.actions.iter().for_each(|action| blind.apply(action));
    }
    // A plan that lifts the latch.
    let snapshot = world.snapshot();
    let mut lifts = plan(&snapshot);
    let old = snapshot.rollouts.iter().find(|all| all.metadata.name.as_deref() == Some("november"));
    let mut status = old.unwrap().status.clone().unwrap();
    status.superseded_by = None;
    let uid = old.unwrap().metadata.uid.clone().unwrap();
    let rollout = wardring_planner::RolloutRef { name: "november".to_owned(), uid };
    lifts.actions = vec![Action::WriteStatus { rollout, status: Box::new(status) }];
    assert!(check(&snapshot, &lifts).iter().any(|all| all.message.contains("come back")));
}
