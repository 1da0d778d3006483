//! Orders that would begin in the very pass in which something stops their rollout: the stop is written first, and
//! the order begins after it.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use support::{
    World,
    agent::Script,
    orders::{ALL, completed, minutes, phase, uninstalls, world},
};
use wardring_api::{Abort, FailureAction, RollbackPhase, RollbackScope, RolloutPhase};

/// What stops a rollout.
type Stop = fn(&mut World);

const ABORT: Stop = |world| {
    world.edit("november", |spec| spec.abort = Some(Abort { reason: "enough".to_owned() }));
};
const SUSPEND: Stop = |world| world.edit("november", |spec| spec.suspend = Some(true));

/// Carries out so many plans.
fn passes(world: &mut World, count: usize) {
    for _ in 0..count {
        let plan = world.plan();
        plan.actions.iter().for_each(|action| world.apply(action));
    }
}

fn resume(world: &mut World) {
    world.edit("november", |spec| spec.suspend = Some(false));
}

#[test]
fn an_abort_ends_what_failures_asked_for_and_the_order_that_waited_for_it_begins() {
    let mut world = world();
    world.edit("november", |spec| {
        spec.on_failure.action = FailureAction::Rollback;
        spec.on_failure.scope = RollbackScope::AllStages;
    });
    world.agents.get_mut("ward-1").unwrap().script = Script::ServiceDown;
    world.settle();
    while uninstalls(&world).is_empty() {
        world.minute(|_| {});
    }
    world.order("erp-down", ALL);
    minutes(&mut world, 2);
    assert_eq!(phase(&world, "erp-down"), RollbackPhase::Waiting);
    ABORT(&mut world);
    minutes(&mut world, 120);
    assert!(world.status("november").aborted.is_some());
    // The abort ended the one that was at work, which is none that the order could reach.
    let counts = world.order_status("erp-down").counts;
    assert_eq!((counts.total, counts.rolled_back), (4, 4), "{counts:?}");
}

#[test]
fn a_stop_that_comes_with_the_order_is_written_first() {
    for (name, stop) in [("abort", ABORT), ("suspend", SUSPEND)] {
        // Between the passes in which the order halts the rollout, begins and goes on.
        for between in 0..4 {
            let mut world = completed();
            // What an earlier order marked is marked still.
            world.order("one", "{rollout: november, reason: r, devices: [test-1]}");
            minutes(&mut world, 60);
            world.order("erp-down", ALL);
            passes(&mut world, between);
            stop(&mut world);
            minutes(&mut world, 90);
            let status = world.status("november");
            if name == "suspend" {
                assert!(status.suspended.is_some());
                assert_eq!(uninstalls(&world), ["test-1"], "{between}: it stands still");
                resume(&mut world);
                minutes(&mut world, 120);
            } else {
                assert!(status.aborted.is_some());
            }
            assert_eq!(phase(&world, "erp-down"), RollbackPhase::Completed, "{name}, {between}");
            assert_eq!(uninstalls(&world).len(), 5, "{name}, {between}");
        }
    }
}

#[test]
fn an_order_for_a_rollout_whose_place_another_one_takes_begins_once_that_halt_is_written() {
    for between in 0..8 {
        let mut world = world();
        world.settle();
        while uninstalls(&world).is_empty()
            && world.status("november").current_stage.as_deref() != Some("ward")
        {
            world.minute(|_| {});
        }
        world.rollout(
            "fix",
            "
authors: [alice]
updates: {kbs: [KB5068787]}
supersedes: november
stages:
- {name: all, group: ward, minProven: 0, gates: {before: [{name: sign-off, type: Approval}]}}",
        );
        world.settle();
        world.say_yes("fix", "bob");
        passes(&mut world, between);
        world.order(
            "erp-down",
            "{rollout: november, reason: r, devices: [test-1, test-2], maxConcurrency: 2}",
        );
        minutes(&mut world, 120);
        assert_eq!(world.status("november").phase, Some(RolloutPhase::Aborted), "{between}");
        assert_eq!(phase(&world, "erp-down"), RollbackPhase::Completed, "{between}");
        assert_eq!(uninstalls(&world).len(), 2, "{between}");
    }
}
