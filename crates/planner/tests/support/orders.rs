//! Worlds in which a person takes back what a rollout brought.

use jiff::SignedDuration;
use wardring_api::{PermitStep, RollbackPhase, RolloutPhase};

use super::{SERVER, World};

pub const TWO_STAGES: &str = "
updates: {select: {release: 2026-11}}
stages:
- {name: test, group: test, maxConcurrency: 100%}
- {name: ward, group: ward, maxConcurrency: 100%}";

pub const ALL: &str = "{rollout: november, reason: the ERP does not answer}";

/// Two devices for the test, three for the ward.
pub fn world() -> World {
    let mut world = World::new();
    for (group, count) in [("test", 2), ("ward", 3)] {
        world.group(group);
        for number in 1..=count {
            world.device(&format!("{group}-{number}"), group, SERVER);
        }
    }
    world.rollout("november", TWO_STAGES);
    world
}

pub fn minutes(world: &mut World, count: u32) {
    for _ in 0..count {
        world.minute(|_| {});
    }
}

/// Everything is proven, long ago.
pub fn completed() -> World {
    let mut world = world();
    world.settle();
    minutes(&mut world, 60);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
    world.now += SignedDuration::from_hours(30 * 24);
    world.permits.clear();
    world.events.clear();
    world
}

pub fn uninstalls(world: &World) -> Vec<&str> {
    let all = world.permits.iter().filter(|given| given.step == PermitStep::Uninstall);
    all.map(|given| given.device.as_str()).collect()
}

pub fn phase(world: &World, order: &str) -> RollbackPhase {
    world.order_status(order).phase.unwrap()
}
