//! Canary gaps: kinds of devices that no earlier stage proved.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use support::{SERVER, World, agent::Script};
use wardring_api::{DeviceRole, LineState, RolloutPhase};
use wardring_planner::canary_gaps;

const TWO_STAGES: &str = "
updates: {select: {release: 2026-11}}
stages:
- {name: test, group: test, maxConcurrency: 100%, maxFailures: 1}
- {name: ward, group: ward, maxConcurrency: 100%}";

/// A test device of each script, all of model R640, and a ward with one device of another model.
fn world(test: &[Script]) -> World {
    let mut world = World::new();
    for group in ["test", "ward"] {
        world.group(group).spec.roles = vec![DeviceRole::RdsHost];
    }
    for (number, script) in test.iter().enumerate() {
        let name = format!("test-{number}");
        world.device(&name, "test", SERVER).model = Some("R640".into());
        world.agents.get_mut(&name).unwrap().script = *script;
    }
    for (name, model) in [("ward-1", "R640"), ("ward-2", "R750")] {
        world.device(name, "ward", SERVER).model = Some(model.into());
    }
    world
}

fn gaps(world: &World) -> Option<String> {
    canary_gaps(&world.status("november").stages[1])
}

fn run(world: &mut World) {
    for _ in 0..60 {
        world.minute(|_| {});
    }
}

fn ask_for_proof(world: &mut World) {
    world.edit("november", |spec| spec.stages[1].require_proven = true);
}

#[test]
fn a_model_that_only_a_later_stage_has_is_told_before_the_first_device_is_touched() {
    let mut world = world(&[Script::Good]);
    world.rollout("november", TWO_STAGES);
    world.settle();
    assert_eq!(gaps(&world).unwrap(), "Stage ward: no earlier stage has model R750 (1 device).");
    assert!(world.agents["test-0"].begun == 0);
}

#[test]
fn a_gap_is_a_warning_and_holds_nobody_unless_the_stage_asks_for_proof() {
    let mut world = world(&[Script::Good]);
    world.rollout("november", TWO_STAGES);
    run(&mut world);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
    assert_eq!(gaps(&world).unwrap(), "Stage ward: no earlier stage proved model R750 (1 device).");
    let warned = |event: &&String| event.starts_with("CanaryGap Stage ward");
    assert_eq!(world.events.iter().filter(warned).count(), 1, "{:#?}", world.events);
}

#[test]
fn where_a_stage_asks_for_proof_devices_of_a_new_model_do_not_start() {
    let mut world = world(&[Script::Good]);
    world.rollout("november", TWO_STAGES);
    ask_for_proof(&mut world);
    run(&mut world);
    assert_eq!(world.state("november", "ward-1"), Some(LineState::Succeeded));
    assert_eq!(world.state("november", "ward-2"), Some(LineState::Pending));
    let waiting = world.status("november").waiting_for;
    assert!(waiting.iter().any(|all| all.reason == "CanaryGap"), "{waiting:#?}");
}

#[test]
fn what_a_test_device_had_already_or_failed_at_proves_nothing_for_the_next_stage() {
    for script in [Script::AlreadyInstalled, Script::InstallFails] {
        let mut world = world(&[Script::Good, script]);
        world.devices.get_mut("test-1").unwrap().model = Some("R750".into());
        world.rollout("november", TWO_STAGES);
        ask_for_proof(&mut world);
        world.settle();
        assert_eq!(gaps(&world), None, "a test device has it");
        run(&mut world);
        assert!(gaps(&world).unwrap().contains("proved model R750"), "{script:?}");
        assert_eq!(world.state("november", "ward-2"), Some(LineState::Pending), "{script:?}");
    }
}

#[test]
fn a_role_and_a_product_need_proof_as_a_model_does() {
    for kind in ["role", "product"] {
        let mut world = world(&[Script::Good]);
        let row = world.devices.get_mut("ward-2").unwrap();
        row.model = Some("R640".into());
        match kind {
            "role" => row.roles = [DeviceRole::RdsHost].into(),
            _ => row.product = Some("Windows 11 24H2".into()),
        }
        world.rollout("november", TWO_STAGES);
        ask_for_proof(&mut world);
        run(&mut world);
        assert!(gaps(&world).unwrap().contains(kind), "{:?}", gaps(&world));
        assert_eq!(world.state("november", "ward-2"), Some(LineState::Pending), "{kind}");
        // What a device does not report is no kind.
        let row = world.devices.get_mut("ward-2").unwrap();
        (row.model, row.roles, row.product) = (None, [].into(), Some(SERVER.into()));
        run(&mut world);
        assert_eq!(world.state("november", "ward-2"), Some(LineState::Succeeded), "{kind}");
    }
}
