//! Races that the exhaustive model found (`crates/sim`): what a plan may rely on while its own writes
//! and the writes of others are still under way.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use jiff::SignedDuration;
use support::{SERVER, World, explained};
use wardring_api::{JobState, LineState, reasons::Reason};
use wardring_planner::{Action, Plan};

/// Two devices and one slot; the first device is granted and has its job.
fn granted() -> World {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    world.device("test-2", "test", SERVER);
    world.rollout(
        "november",
        "{updates: {select: {release: 2026-11}}, stages: [{name: test, group: test, \
         maxConcurrency: 1, startWithin: 15m}]}",
    );
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
    world
}

fn position(plan: &Plan, is_it: impl Fn(&Action) -> bool) -> Option<usize> {
    plan.actions.iter().position(is_it)
}

fn recalls(plan: &Plan) -> bool {
    position(plan, |action| matches!(action, Action::Recall { .. })).is_some()
}

#[test]
fn a_slot_is_not_given_away_in_the_plan_that_asks_for_it_back() {
    let mut world = granted();
    world.now += SignedDuration::from_mins(15);

    let plan = world.plan();

    assert!(recalls(&plan));
    let grants = position(&plan, |action| matches!(action, Action::OpenBatch { .. }));
    assert_eq!(grants, None, "a permit may still win against the deletion");
    plan.actions.iter().for_each(|action| world.apply(action));
    world.settle();
    let granted = ["test-1", "test-2"].map(|device| world.state("november", device));
    assert!(granted.contains(&Some(LineState::Granted)), "the next plan gives it: {granted:?}");
}

#[test]
fn a_missing_job_is_noted_in_the_line_before_it_is_made_anew() {
    let mut world = granted();
    world.jobs.remove("test-1");

    let plan = world.plan();

    let note = position(&plan, |action| match action {
        Action::RecordLines { changes, .. } => {
            changes.iter().any(|change| change.line.reason == Some(Reason::NoSuchJob))
        }
        _ => false,
    });
    let job = position(
        &plan,
        |action| matches!(action, Action::CreateJob(new) if new.repaired && new.attempt == 1),
    );
    assert!(note.is_some() && note < job, "{:#?}", plan.actions);
}

#[test]
fn a_late_create_request_does_not_make_a_device_at_work_look_untouched() {
    let mut world = granted();
    let first = world.jobs.remove("test-1").unwrap();
    world.settle();
    // The device begins on the job that was made anew, a person deletes that one too, and the request
    // for the first one lands now.
    assert!(world.jobs["test-1"].repaired && !first.may_have_begun());
    world.jobs.insert("test-1".to_owned(), first);
    world.edit("november", |spec| spec.suspend = Some(true));
    world.now += SignedDuration::from_mins(15);

    world.settle_watched(|world| {
        assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
    });

    assert!(world.jobs.contains_key("test-1"), "only an answer or a deadline ends it");
}

#[test]
fn the_slot_of_a_device_at_work_is_not_free_because_a_person_released_it() {
    let mut world = granted();
    while world.jobs["test-1"].state != Some(JobState::Installing) {
        world.minute(|_| {});
    }
    world.devices.get_mut("test-1").unwrap().release_requested_at = Some(world.now);
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
    assert_eq!(world.state("november", "test-2"), Some(LineState::Pending), "one at a time");
    assert!(explained(&world).contains("A person asked to release it"), "{}", explained(&world));

    let mut gone = world.clone();
    gone.set_online("test-1", false);
    gone.settle();
    let line = gone.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.reason), (LineState::Failed, Some(Reason::Released)));

    while world.state("november", "test-1") == Some(LineState::Granted) {
        world.minute(|world| {
            let granted = |device| world.state("november", device) == Some(LineState::Granted);
            assert!(!(granted("test-1") && granted("test-2")), "two at once");
        });
    }
    assert_eq!(world.state("november", "test-1"), Some(LineState::Succeeded), "its word counts");
}
