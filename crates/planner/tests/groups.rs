//! Groups that are not there: what a deleted or misspelt group takes with it is never permission.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use support::{SERVER, World, agent::Script};
use wardring_api::{Cap, LineState, PatchAuthority, PermitStep, RolloutPhase, reasons::Reason};
use wardring_planner::{Action, Decision};

const TWO_STAGES: &str = "
updates: {select: {release: 2026-11}}
stages:
- {name: test, group: test, maxConcurrency: 1, soak: 1m}
- {name: ward, group: ward, maxConcurrency: 100%, soak: 1m}";

fn world() -> World {
    let mut world = World::new();
    world.group("test");
    world.group("ward");
    for name in ["test-1", "test-2"] {
        world.device(name, "test", SERVER);
    }
    for number in 0..5 {
        world.device(&format!("ward-{number}"), "ward", SERVER);
    }
    world
}

/// Runs until a device of the ward is granted.
fn ward_opens(world: &mut World) {
    for _ in 0..60 {
        world.minute(|_| {});
        if granted(world, "ward") > 0 {
            return;
        }
    }
    panic!("the ward does not open: {:#?}", world.status("november"));
}

fn granted(world: &World, stage: &str) -> usize {
    let lines = world.lines().into_iter();
    lines.filter(|(_, of, line)| of == stage && line.state == LineState::Granted).count()
}

fn told(world: &World) -> Vec<String> {
    let waiting = world.status("november").waiting_for.into_iter();
    waiting.filter(|all| all.reason == "GroupNotFound").map(|all| all.message).collect()
}

/// Truth and reason of a condition.
fn condition(world: &World, kind: &str) -> (String, String) {
    let conditions = world.status("november").conditions;
    let found = conditions.into_iter().find(|condition| condition.type_ == kind);
    found.map_or(("absent".to_owned(), String::new()), |all| (all.status, all.reason))
}

#[test]
fn a_group_deleted_in_mid_run_lifts_none_of_its_limits() {
    let mut world = world();
    world.groups.get_mut("ward").unwrap().spec.max_unavailable = Some(Cap::Count(1));
    world.rollout("november", TWO_STAGES);
    ward_opens(&mut world);
    assert_eq!(granted(&world, "ward"), 1);
    let group = world.groups.remove("ward").unwrap();
    let plan = world.settle();
    assert_eq!(granted(&world, "ward"), 1, "only what was granted before");
    assert_eq!(plan.rollouts[0].stages[1].decisions[1], Decision::Hold(Reason::GroupNotFound));
    let told_now = told(&world);
    assert_eq!(told_now.len(), 1);
    assert!(told_now[0].contains("DeviceGroup ward does not exist any more"), "{told_now:?}");
    assert_eq!(condition(&world, "Stalled"), ("True".to_owned(), "GroupNotFound".to_owned()));
    assert_eq!(condition(&world, "Ready"), ("False".to_owned(), "GroupNotFound".to_owned()));

    for _ in 0..30 {
        world.minute(|_| {});
    }
    let states = |world: &World, state| {
        let lines = world.lines().into_iter();
        lines.filter(|(_, of, line)| of == "ward" && line.state == state).count()
    };
    assert_eq!(states(&world, LineState::Succeeded), 0, "nobody knows its windows");
    assert_eq!(granted(&world, "ward"), 1);
    assert!(world.permits.iter().all(|given| given.device.starts_with("test")));
    assert_eq!(states(&world, LineState::Pending), 4);
    assert_eq!(condition(&world, "Progressing").0, "False");

    world.groups.insert("ward".to_owned(), group);
    for _ in 0..60 {
        world.minute(|world| assert!(granted(world, "ward") <= 1));
    }
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
    assert_eq!(told(&world), [""; 0]);
    assert_eq!(condition(&world, "Ready").0, "True");
    assert_eq!(condition(&world, "Stalled").0, "absent");
}

#[test]
fn a_group_that_only_watches_and_is_deleted_does_not_set_its_devices_free() {
    let mut world = world();
    world.groups.get_mut("test").unwrap().spec.patch_authority = PatchAuthority::Observe;
    world.rollout("november", TWO_STAGES);
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Pending));
    world.groups.remove("test");
    world.minute(|_| {});
    assert_eq!(granted(&world, "test"), 0);
    assert!(world.jobs.is_empty());
}

#[test]
fn no_rollback_begins_after_the_group_that_may_forbid_it_is_deleted() {
    let mut world = world();
    world.agents.get_mut("test-1").unwrap().script = Script::ServiceDown;
    world.groups.get_mut("test").unwrap().spec.rollback = wardring_api::RollbackPolicy::Forbid;
    world.rollout("november", &format!("{TWO_STAGES}\nonFailure: {{action: Rollback}}"));
    for _ in 0..60 {
        world.minute(|_| {});
    }
    assert_eq!(world.state("november", "test-1"), Some(LineState::Failed));
    world.groups.remove("test");
    for _ in 0..10 {
        world.minute(|_| {});
    }
    assert_eq!(world.state("november", "test-1"), Some(LineState::Failed));
    assert_eq!(told(&world).len(), 1);
}

#[test]
fn a_device_that_comes_back_gets_no_grant_from_a_stage_whose_group_is_deleted() {
    let mut world = world();
    world.rollout("november", TWO_STAGES);
    world.edit("november", |spec| spec.stages[0].max_unreachable = Some(Cap::Count(1)));
    for minute in 0..600 {
        if minute == 3 {
            world.set_online("test-1", false);
        }
        world.minute(|_| {});
    }
    assert_eq!(world.state("november", "test-1"), Some(LineState::Unreachable));
    assert_eq!(granted(&world, "test"), 0, "a slot is free");
    let group = world.groups.remove("test").unwrap();
    world.set_online("test-1", true);
    for _ in 0..5 {
        world.minute(|_| {});
    }
    assert_eq!(world.state("november", "test-1"), Some(LineState::Unreachable));
    world.groups.insert("test".to_owned(), group);
    world.minute(|_| {});
    assert_ne!(world.state("november", "test-1"), Some(LineState::Unreachable));
}

#[test]
fn a_batch_that_a_dead_leader_left_open_is_closed_without_grants_once_the_group_is_gone() {
    let mut world = world();
    world.rollout("november", TWO_STAGES);
    loop {
        let plan = world.plan();
        let writes = plan.actions.iter();
        let before = writes.take_while(|all| !matches!(all, Action::OpenBatch { .. })).count();
        if before < plan.actions.len() {
            world.crash_after(before + 1, |_| {});
            break;
        }
        plan.actions.iter().for_each(|action| world.apply(action));
    }
    world.groups.remove("test");
    world.settle();
    assert_eq!(granted(&world, "test"), 0);
    assert!(world.jobs.is_empty());
}

#[test]
fn what_installed_restarts_only_once_the_group_with_its_windows_and_limits_is_back() {
    let mut world = world();
    world.rollout("november", TWO_STAGES);
    world.edit("november", |spec| {
        spec.stages[1].device_deadline = Some("2h".parse().unwrap());
        spec.stages[1].max_unreachable = Some(Cap::Count(0));
    });
    ward_opens(&mut world);
    while !world.permits.iter().any(|given| given.device.starts_with("ward")) {
        world.minute(|_| {});
    }
    let group = world.groups.remove("ward").unwrap();
    let restarts = |world: &World| {
        let given = world.permits.iter();
        given.filter(|all| all.step == PermitStep::Reboot && all.device.starts_with("ward")).count()
    };
    for _ in 0..300 {
        world.minute(|_| {});
    }
    assert_eq!(restarts(&world), 0);
    let begun = world.jobs.values().filter(|job| job.stage == "ward" && job.may_have_begun());
    let waiting: Vec<String> = begun.map(|job| job.device.clone()).collect();
    assert!(!waiting.is_empty());
    for device in &waiting {
        let state = world.state("november", device);
        assert_eq!(state, Some(LineState::Granted), "{device}: the clock is not its own");
    }
    assert!(world.status("november").halted.is_none());
    world.groups.insert("ward".to_owned(), group);
}

#[test]
fn a_misspelt_group_of_a_later_stage_is_told_before_anything_opens() {
    let mut world = world();
    let group = world.groups.remove("ward").unwrap();
    world.rollout("november", TWO_STAGES);
    world.settle();
    let status = world.status("november");
    assert!(status.stages.iter().all(|stage| stage.freeze_id.is_none()));
    assert_eq!(told(&world), ["Stage ward names DeviceGroup ward, which does not exist."]);

    world.groups.insert("ward".to_owned(), group);
    world.settle();
    assert_eq!(granted(&world, "test"), 1);
    // Once a stage is open, it goes on, and what comes next is told all the same.
    world.groups.remove("ward");
    for _ in 0..20 {
        world.minute(|_| {});
    }
    assert_eq!(world.state("november", "test-2"), Some(LineState::Succeeded));
    assert_eq!(told(&world), ["Stage ward names DeviceGroup ward, which does not exist."]);
}
