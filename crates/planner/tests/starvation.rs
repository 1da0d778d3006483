//! One huge rollout never delays another's halt (L6): what stops a rollout is written before anything
//! else of the plan, whatever else there is to do, and the plan stays short.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use support::{SERVER, World, agent::Script};
use wardring_api::{LineState, RolloutPhase, reasons::Reason};
use wardring_planner::{Action, Plan};

/// More devices than one plan grants.
const DEVICES: usize = 5_000;

/// Everybody at once.
const HUGE: &str = "
updates: {select: {release: 2026-11}}
stages: [{name: all, group: wards, maxConcurrency: 100%, maxFailures: 100%}]
priority: 1000";

/// A small rollout whose second of two devices has just failed; nobody has read that yet. It comes
/// last by name, by age and by priority.
fn about_to_halt() -> World {
    let mut world = World::new();
    world.group("wards");
    world.group("test");
    for device in ["zz-1", "zz-2"] {
        world.device(device, "test", SERVER);
    }
    world.agents.get_mut("zz-2").unwrap().script = Script::ServiceDown;
    world.rollout(
        "small",
        "{updates: {select: {release: 2026-11}}, stages: [{name: test, group: test, maxConcurrency: 1}]}",
    );
    world.settle();
    let has_answered = |world: &World| {
        let job = world.jobs.get("zz-2").filter(|job| job.may_have_begun());
        job.is_some_and(|job| job.outcome != wardring_planner::JobOutcome::None)
    };
    for _ in 0..60 {
        world.now += jiff::SignedDuration::from_mins(1);
        world.run_agents();
        if has_answered(&world) {
            assert_eq!(world.status("small").halted, None);
            return world;
        }
        world.settle();
    }
    panic!("it never answers");
}

/// The wards, with their devices, and a rollout over them.
fn add_huge(world: &mut World, name: &str) {
    for number in 0..DEVICES {
        world.device(&format!("ws-{number:04}"), "wards", SERVER);
    }
    world.rollout(name, HUGE);
}

fn is_about_small(action: &Action) -> bool {
    match action {
        Action::WriteStatus { rollout, .. } => rollout.name == "small",
        Action::RecordLines { slice, .. } | Action::Recall { slice, .. } => {
            slice.starts_with("small")
        }
        Action::DeleteJob { device, .. } => device.starts_with("zz"),
        _ => false,
    }
}

/// The first plan with such a write, of passes that get everything written but what is about the small
/// rollout.
fn plan_that(world: &mut World, writes: fn(&Action) -> bool) -> Plan {
    for _ in 0..10 {
        let plan = world.plan();
        if plan.actions.iter().any(writes) {
            return plan;
        }
        let others = plan.actions.iter().filter(|action| !is_about_small(action));
        others.for_each(|action| world.apply(action));
    }
    panic!("there is no such plan: {:#?}", world.plan().actions);
}

/// The halt is the first write, and the other rollout has something to write, too.
fn assert_halt_comes_first(plan: &Plan, other: fn(&Action) -> bool) {
    let Some(Action::WriteStatus { rollout, status }) = plan.actions.first() else {
        panic!("the first write is {:?}", plan.actions.first());
    };
    assert_eq!(rollout.name, "small");
    assert_eq!(status.phase, Some(RolloutPhase::Halted));
    assert_eq!(status.halted.as_ref().unwrap().reason, Reason::FailureBudgetSpent.as_str());
    assert!(plan.actions.iter().any(other), "the huge one goes on");
}

#[test]
fn a_halt_is_written_before_thousands_of_grants_and_jobs_of_another_rollout() {
    let mut world = about_to_halt();
    add_huge(&mut world, "all-wards");
    let plan = plan_that(&mut world, |action| matches!(action, Action::CreateJob(_)));
    assert_halt_comes_first(&plan, |action| matches!(action, Action::CreateJob(_)));
    assert_halt_comes_first(&plan, |action| matches!(action, Action::OpenBatch { .. }));
    world.apply(&plan.actions[0]);
    world.settle();
    assert_eq!(world.state("small", "zz-2"), Some(LineState::Failed));
    assert_eq!(world.state("all-wards", "ws-4999"), Some(LineState::Granted), "nobody starves");
}

#[test]
fn a_halt_is_written_before_a_huge_list_is_frozen_and_before_new_rollouts_are_taken_up() {
    let mut world = about_to_halt();
    add_huge(&mut world, "all-wards");
    for number in 0..50 {
        world.rollout(&format!("again-{number}"), HUGE);
    }
    let plan = world.plan();
    assert_halt_comes_first(&plan, |action| matches!(action, Action::AddFinalizer(_)));
    plan.actions.iter().for_each(|action| world.apply(action));
    assert_eq!(world.status("small").phase, Some(RolloutPhase::Halted));

    let mut world = about_to_halt();
    add_huge(&mut world, "all-wards");
    let plan = plan_that(&mut world, |action| matches!(action, Action::CreateSlice(_)));
    assert_halt_comes_first(&plan, |action| matches!(action, Action::CreateSlice(_)));
}

#[test]
fn one_plan_grants_a_part_of_a_huge_rollout_so_that_the_next_halt_does_not_wait_for_all_of_it() {
    let mut world = World::new();
    world.group("wards");
    add_huge(&mut world, "all-wards");
    let mut most = 0;
    for _ in 0..20 {
        let plan = world.plan();
        let jobs = plan.actions.iter().filter(|all| matches!(all, Action::CreateJob(_))).count();
        most = most.max(jobs);
        plan.actions.iter().for_each(|action| world.apply(action));
    }
    assert_eq!(world.jobs.len(), DEVICES, "all of them in the end");
    assert!(most <= 2_048, "{most} jobs in one plan");
}
