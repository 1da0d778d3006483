//! Devices that a group keeps apart, and which of two rollouts goes first.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use std::{collections::BTreeMap, sync::Arc};

use support::{SERVER, World, agent::Script};
use wardring_api::{AntiAffinity, Cap, LineState, Reboots, RolloutPhase, reasons::Reason};
use wardring_planner::{Action, Decision, check, plan};

const ALL_AT_ONCE: &str = "
updates: {select: {release: 2026-11}}
stages:
- {name: nodes, group: nodes, maxConcurrency: 100%}";

/// Two clusters of two nodes each, and a server that belongs to none.
fn world() -> World {
    let mut world = World::new();
    let group = world.group("nodes");
    group.spec.anti_affinity = vec![AntiAffinity { key: "cluster".to_owned(), max: None }];
    for (name, cluster) in [("a-1", "a"), ("a-2", "a"), ("b-1", "b"), ("b-2", "b"), ("c", "")] {
        let row = world.device(name, "nodes", SERVER);
        let mut labels = BTreeMap::from([("stage".to_owned(), "nodes".to_owned())]);
        if !cluster.is_empty() {
            labels.insert("cluster".to_owned(), cluster.to_owned());
        }
        row.labels = Arc::new(labels);
    }
    world
}

fn granted(world: &World) -> Vec<String> {
    let lines = world.lines().into_iter().filter(|(.., line)| line.state == LineState::Granted);
    lines.map(|(.., line)| line.device).collect()
}

#[test]
fn of_one_cluster_only_one_node_is_at_work_and_all_are_done_in_the_end() {
    let mut world = world();
    world.rollout("november", ALL_AT_ONCE);
    let plan = world.settle();
    assert_eq!(granted(&world), ["a-1", "b-1", "c"], "whoever has no such label is not kept apart");
    assert_eq!(plan.rollouts[0].stages[0].decisions[1], Decision::Hold(Reason::KeptApart));
    for _ in 0..60 {
        world.minute(|world| {
            let at_work = granted(world);
            for cluster in ["a-", "b-"] {
                assert!(at_work.iter().filter(|name| name.starts_with(cluster)).count() <= 1);
            }
        });
    }
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
}

#[test]
fn a_node_waits_while_the_other_one_is_offline_and_the_group_says_what_is_full() {
    let mut world = world();
    world.set_online("a-2", false);
    world.rollout("november", ALL_AT_ONCE);
    world.settle();
    assert_eq!(granted(&world), ["b-1", "c"]);
    let full = &world.groups["nodes"].status.full;
    let told: Vec<_> =
        full.iter().map(|full| (full.value.as_str(), full.unavailable, full.max)).collect();
    assert_eq!(told, [("a", 1, 1), ("b", 1, 1)]);
}

#[test]
fn nodes_are_kept_apart_across_rollouts() {
    let mut world = world();
    for (name, first) in [("one", "a-1"), ("two", "a-2")] {
        let labels = Arc::make_mut(&mut world.devices.get_mut(first).unwrap().labels);
        labels.insert("half".to_owned(), name.to_owned());
        world.rollout(
            name,
            &format!(
                "{{updates: {{select: {{release: 2026-11}}}}, stages: [{{name: half, maxConcurrency: \
                 100%, selector: {{matchLabels: {{half: {name}}}}}}}]}}"
            ),
        );
    }
    world.settle();
    assert_eq!(granted(&world), ["a-1"]);
}

#[test]
fn the_second_opinion_counts_nodes_by_itself() {
    let mut world = world();
    world.groups.get_mut("nodes").unwrap().spec.anti_affinity[0].max = Some(2);
    world.rollout("november", ALL_AT_ONCE);
    loop {
        let snapshot = world.snapshot();
        let plan = plan(&snapshot);
        if plan.actions.iter().any(|action| matches!(action, Action::OpenBatch { .. })) {
            assert_eq!(check(&snapshot, &plan), []);
            // The same plan, where the group allows one node only.
            world.groups.get_mut("nodes").unwrap().spec.anti_affinity[0].max = None;
            let violations = check(&world.snapshot(), &plan);
            assert_eq!(violations.len(), 2, "{violations:#?}");
            let told = "a-2 would be granted, and with it 2 devices with cluster=a are unavailable";
            assert!(violations[0].message.contains(told), "{violations:#?}");
            return;
        }
        plan.actions.iter().for_each(|action| world.apply(action));
    }
}

#[test]
fn a_restart_is_held_when_the_other_node_goes_away_meanwhile() {
    let mut world = world();
    world.rollout("november", ALL_AT_ONCE);
    for _ in 0..3 {
        world.minute(|_| {});
    }
    world.set_online("a-2", false);
    for _ in 0..10 {
        world.minute(|_| {});
    }
    assert_eq!(world.agents["a-1"].reboots, 0, "its cluster would be down");
    assert_eq!(world.groups["nodes"].status.reboots, Reboots::Open, "others may restart");
    assert_eq!(world.state("november", "b-1"), Some(LineState::Succeeded));
    world.set_online("a-2", true);
    for _ in 0..10 {
        world.minute(|_| {});
    }
    assert_eq!(world.state("november", "a-1"), Some(LineState::Succeeded));
}

/// Two rollouts over the same devices, of which one may be unavailable at a time.
fn rivals(first: i32, second: i32) -> World {
    let mut world = World::new();
    world.group("ward").spec.max_unavailable = Some(Cap::Count(1));
    for name in ["ward-1", "ward-2", "ward-3", "ward-4"] {
        let row = world.device(name, "ward", SERVER);
        let labels = Arc::make_mut(&mut row.labels);
        let half = if name < "ward-3" { "a" } else { "b" };
        labels.insert("half".to_owned(), half.to_owned());
    }
    for (name, half, priority) in [("first", "a", first), ("second", "b", second)] {
        world.rollout(
            name,
            &format!(
                "{{updates: {{select: {{release: 2026-11}}}}, priority: {priority}, stages: [{{name: \
                 half, maxConcurrency: 100%, selector: {{matchLabels: {{half: {half}}}}}}}]}}"
            ),
        );
    }
    world
}

fn until_completed(world: &mut World, rollout: &str) -> bool {
    for _ in 0..90 {
        world.minute(|_| {});
        if world.status(rollout).phase == Some(RolloutPhase::Completed) {
            return true;
        }
    }
    false
}

#[test]
fn the_last_place_of_a_group_goes_to_the_rollout_with_the_higher_priority() {
    let mut world = rivals(0, 10);
    world.settle();
    assert_eq!(granted(&world), ["ward-3"]);
    assert!(until_completed(&mut world, "second"));
    assert_eq!(world.status("first").stages[0].counts.succeeded, 0);
    assert!(until_completed(&mut world, "first"), "who waits is served in the end");
}

#[test]
fn of_two_equal_rollouts_the_older_one_goes_first_whatever_their_names() {
    let mut world = rivals(0, 0);
    let older = world.rollouts["second"].metadata.creation_timestamp.clone().unwrap().0;
    let later = older + jiff::SignedDuration::from_mins(1);
    let first = world.rollouts.get_mut("first").unwrap();
    first.metadata.creation_timestamp = serde_json::from_value(later.to_string().into()).unwrap();
    world.settle();
    assert_eq!(granted(&world), ["ward-3"]);
}

#[test]
fn a_rollout_of_high_priority_that_cannot_move_keeps_nothing_from_the_others() {
    for stuck in ["suspended", "offline", "halted"] {
        let mut world = rivals(0, 10);
        match stuck {
            "suspended" => world.edit("second", |spec| spec.suspend = Some(true)),
            "offline" => {
                world.groups.get_mut("ward").unwrap().spec.max_unavailable = Some(Cap::Count(3));
                world.set_online("ward-3", false);
                world.set_online("ward-4", false);
            }
            _ => world.agents.get_mut("ward-3").unwrap().script = Script::ServiceDown,
        }
        assert!(until_completed(&mut world, "first"), "{stuck}");
        assert_ne!(world.status("second").phase, Some(RolloutPhase::Completed), "{stuck}");
    }
}
