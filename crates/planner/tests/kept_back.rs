//! What is granted and has not begun when somebody keeps the device from it: it goes back, and costs nothing.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use std::sync::Arc;

use support::{ONE_STAGE, SERVER, World, agent::Script, explained, granted};
use wardring_api::{
    DeviceMode, DeviceRole, Hold, LineState, PatchAuthority, PermitStep, RolloutPhase,
    reasons::Reason,
};
use wardring_planner::{Action, Decision};

const BAR: &str = "{kbs: [KB5068787], reason: It breaks printing}";

fn minutes(world: &mut World, count: u32) {
    for _ in 0..count {
        world.minute(|_| {});
    }
}

fn held() -> Option<Box<Hold>> {
    Some(Box::new(Hold { reason: "surgery".to_owned(), until: None }))
}

#[test]
fn a_bar_takes_back_what_is_granted_and_has_not_begun_and_its_lift_lets_it_go_on() {
    let mut world = granted();
    world.bar("printing", BAR);
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Pending));
    assert!(world.jobs.is_empty(), "nobody works on it any more");
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.tries, line.reason), (0, None), "it costs no attempt");
    minutes(&mut world, 300);
    assert!(world.permits.is_empty());
    assert!(world.status("november").halted.is_none());
    assert!(explained(&world).starts_with("test-1 does not start: "), "{}", explained(&world));

    world.holds.clear();
    minutes(&mut world, 60);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
    assert_eq!(world.line("november", "test-1").unwrap().tries, 1);
}

#[test]
fn what_people_decide_of_a_device_after_its_grant_takes_the_grant_back() {
    type Keep = fn(&mut World);
    let table: &[(Reason, Keep)] = &[
        (Reason::UpdateHeld, |world| {
            world.bar("one", "{kbs: [KB5068787], reason: r, devices: [test-1]}")
        }),
        (Reason::DeviceHeld, |world| world.devices.get_mut("test-1").unwrap().hold = held()),
        (Reason::Paused, |world| world.devices.get_mut("test-1").unwrap().paused = held()),
        (Reason::Quarantined, |world| world.devices.get_mut("test-1").unwrap().quarantined = true),
        (Reason::ObserveMode, |world| {
            world.devices.get_mut("test-1").unwrap().mode = DeviceMode::Observe;
        }),
        (Reason::PatchAuthority, |world| {
            world.groups.get_mut("test").unwrap().spec.patch_authority = PatchAuthority::Observe;
        }),
        (Reason::UndeclaredRole, |world| {
            let roles = Arc::from([DeviceRole::DomainController]);
            world.devices.get_mut("test-1").unwrap().roles = roles;
        }),
    ];
    for (reason, keep) in table {
        let mut world = granted();
        keep(&mut world);
        let plan = world.settle();
        assert_eq!(world.state("november", "test-1"), Some(LineState::Pending), "{reason:?}");
        assert!(!world.jobs.contains_key("test-1"), "{reason:?}");
        let decisions = &plan.rollouts[0].stages[0].decisions;
        assert_eq!(decisions[0], Decision::Hold(*reason));
        if *reason != Reason::PatchAuthority {
            // The slot is somebody else's meanwhile.
            assert_eq!(world.state("november", "test-2"), Some(LineState::Granted), "{reason:?}");
        }
    }
}

#[test]
fn what_a_device_shows_for_a_moment_takes_nothing_back() {
    type Show = fn(&mut World);
    let table: &[(&str, Show)] = &[
        ("offline", |world| world.set_online("test-1", false)),
        ("no facts", |world| world.devices.get_mut("test-1").unwrap().product = None),
        ("restart", |world| world.devices.get_mut("test-1").unwrap().hard_pending_reboot = true),
        ("disk", |world| {
            world.edit("november", |spec| spec.preflight.min_free_disk_gb = Some(10));
            world.devices.get_mut("test-1").unwrap().free_disk_gb = Some(3);
        }),
        ("component store", |world| {
            world.devices.get_mut("test-1").unwrap().component_store =
                Some(wardring_api::ComponentStore::Damaged);
        }),
    ];
    for (name, show) in table {
        let mut world = granted();
        let before = world.jobs["test-1"].clone();
        show(&mut world);
        world.settle();
        assert_eq!(world.state("november", "test-1"), Some(LineState::Granted), "{name}");
        assert_eq!(world.jobs["test-1"], before, "{name}");
    }
}

#[test]
fn a_hold_that_runs_out_keeps_nothing_back_any_more() {
    let mut world = granted();
    let until = Some(world.now + jiff::SignedDuration::from_hours(1));
    world.devices.get_mut("test-1").unwrap().hold =
        Some(Box::new(Hold { reason: "surgery".to_owned(), until }));
    let plan = world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Pending));
    assert!(plan.next_evaluation.is_some_and(|at| Some(at) <= until), "somebody looks then");
    minutes(&mut world, 120);
    assert_eq!(world.state("november", "test-1"), Some(LineState::Succeeded));
}

#[test]
fn what_may_have_begun_is_not_abandoned_and_restarts_in_spite_of_the_bar() {
    let mut world = granted();
    while world.permits.is_empty() {
        world.minute(|_| {});
    }
    world.bar("printing", BAR);
    minutes(&mut world, 60);
    assert_eq!(world.state("november", "test-1"), Some(LineState::Succeeded));
    assert_eq!(world.agents["test-1"].begun, 1);
    assert!(world.permits.iter().any(|given| given.step == PermitStep::Reboot));
    assert_eq!(world.state("november", "test-2"), Some(LineState::Pending), "it had not begun");
    assert!(world.permits.iter().all(|given| given.device == "test-1"));
}

#[test]
fn a_device_is_taken_back_although_its_update_is_barred_and_its_group_only_watches() {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    world.agents.get_mut("test-1").unwrap().script = Script::ServiceDown;
    let text = format!("{ONE_STAGE}\nonFailure: {{action: Rollback, scope: Device}}");
    world.rollout("november", &text);
    world.settle();
    let is_granted_back = |world: &World| {
        world.line("november", "test-1").is_some_and(|line| {
            line.state == LineState::Granted && line.action == wardring_api::JobAction::Rollback
        })
    };
    while !is_granted_back(&world) {
        world.minute(|_| {});
    }
    world.bar("printing", BAR);
    world.groups.get_mut("test").unwrap().spec.patch_authority = PatchAuthority::Observe;
    world.settle();
    assert!(is_granted_back(&world), "it is not taken back for that");
    minutes(&mut world, 60);
    assert_eq!(world.state("november", "test-1"), Some(LineState::RolledBack));
}

#[test]
fn a_batch_that_a_dead_leader_left_open_grants_nothing_that_was_kept_back_meanwhile() {
    type Keep = fn(&mut World);
    let table: &[Keep] = &[
        |world| world.bar("printing", BAR),
        |world| world.devices.get_mut("test-1").unwrap().hold = held(),
        |world| {
            world.groups.get_mut("test").unwrap().spec.patch_authority = PatchAuthority::Observe;
        },
    ];
    for keep in table {
        let mut world = World::new();
        world.group("test");
        world.device("test-1", "test", SERVER);
        world.rollout("november", ONE_STAGE);
        world.die_with_a_batch_open();
        keep(&mut world);
        let is_granted = |action: &Action| match action {
            Action::RecordLines { changes, .. } => {
                changes.iter().any(|change| change.line.state == LineState::Granted)
            }
            _ => false,
        };
        assert!(!world.plan().actions.iter().any(is_granted), "not even for a moment");
        world.settle_watched(|world| {
            assert_ne!(world.state("november", "test-1"), Some(LineState::Granted));
        });
        assert_eq!(world.state("november", "test-1"), Some(LineState::Pending));
        assert!(world.jobs.is_empty());
        let batch = world.ledger.batch.clone().unwrap();
        assert_eq!(world.line("november", "test-1").unwrap().sequence, batch.sequence);
    }
}
