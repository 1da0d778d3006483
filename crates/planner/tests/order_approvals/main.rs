//! PatchRollbacks that wait for a second person: how far they go by themselves, whose word lets them go on, and
//! what voids it.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod stops;
mod stories;
#[path = "../support/mod.rs"]
mod support;
mod words;

use jiff::SignedDuration;
use support::{
    World,
    orders::{completed, minutes, phase, uninstalls, world},
};
use wardring_api::{
    AlertKind, ApprovalPhase, Cap, Decided, GateState, LineState, OrderApproval, PatchApproval,
    PermitStep, RollbackPhase, RolloutPhase, StageState, SubjectType, conditions,
};
use wardring_planner::{Action, ApprovalPolicy, alerts, check};

/// alice orders that everything is taken back, and `above` says when a second person is asked.
fn ordered(world: &mut World, above: &str) {
    order(world, "erp-down", above, "");
}

fn order(world: &mut World, name: &str, above: &str, more: &str) {
    let spec = format!(
        "{{rollout: november, reason: the ERP does not answer, authors: [alice], approvalAbove: {above}, \
         maxConcurrency: 100%{more}}}"
    );
    world.order(name, &spec);
}

/// Five healthy devices of a rollout that is done, and an order for all of them that asks.
fn asked() -> World {
    let mut world = completed();
    ordered(&mut world, "4");
    minutes(&mut world, 2);
    world
}

fn asking(world: &World) -> OrderApproval {
    world.order_status("erp-down").approval.expect("the order asks")
}

fn request(world: &mut World) -> &mut PatchApproval {
    let name = asking(world).asked.request;
    world.approvals.get_mut(&name).expect("the controller asks")
}

fn decide(world: &mut World, decision: Decided, by: &str) {
    let spec = &mut request(world).spec;
    spec.decision = Some(decision);
    spec.approver = Some(by.to_owned());
    spec.reason = Some("looked at it".to_owned());
}

fn count(world: &World, state: LineState) -> usize {
    world.lines().into_iter().filter(|(_, _, line)| line.state == state).count()
}

fn told(world: &World) -> (ApprovalPhase, String) {
    let status = world.approvals.values().next().unwrap().status.clone().unwrap();
    (status.phase.unwrap(), status.message.unwrap())
}

fn wanted(world: &World) -> Vec<String> {
    let all = alerts(&world.snapshot());
    let all = all.active.into_iter().filter(|alert| alert.kind == AlertKind::ApprovalWanted);
    all.map(|alert| alert.summary).collect()
}

#[test]
fn at_the_share_an_order_goes_as_it_always_did() {
    // All of them, or a number that large, asks nobody.
    for above in ["5", "100%"] {
        let mut world = completed();
        ordered(&mut world, above);
        minutes(&mut world, 120);
        assert_eq!(phase(&world, "erp-down"), RollbackPhase::Completed, "{above}");
        assert_eq!(world.order_status("erp-down").approval, None);
        assert!(world.approvals.is_empty());
    }
    let mut world = completed();
    order(&mut world, "erp-down", "40%", ", devices: [ward-1, ward-2]");
    minutes(&mut world, 120);
    assert_eq!(uninstalls(&world).len(), 2);
}

#[test]
fn above_the_share_nothing_of_an_order_begins_until_a_second_person_says_yes() {
    for above in ["4", "99%", "0"] {
        let mut world = completed();
        ordered(&mut world, above);
        minutes(&mut world, 60);
        assert!(world.permits.is_empty() && world.jobs.is_empty(), "{above}");
        assert_eq!(count(&world, LineState::Succeeded), 5);
        assert!(world.holds.is_empty(), "nothing is barred either");
        let rollout = world.status("november");
        assert!(rollout.rollback.is_none() && rollout.halted.is_none(), "it is done, and stays so");

        let status = world.order_status("erp-down");
        assert_eq!(status.phase, Some(RollbackPhase::Waiting));
        let message = status.message.unwrap();
        assert!(message.contains("taken back from 5 devices in all"), "{message}");
        assert!(
            message.contains("kubectl wardring approve november --order erp-down"),
            "{message}"
        );
        assert!(conditions::is_true(&status.conditions, conditions::AWAITING_APPROVAL));
        assert!(conditions::is_true(&status.conditions, conditions::STALLED));
        let waits = rollout.waiting_for.iter().find(|all| all.reason == "RollbackAwaitsApproval");
        assert!(waits.is_some_and(|waits| waits.until.is_some()));
        assert_eq!(wanted(&world).len(), 1, "{:?}", wanted(&world));
        assert!(wanted(&world)[0].contains("PatchRollback erp-down"), "{:?}", wanted(&world));
        let spec = request(&mut world).spec.clone();
        assert_eq!(
            (spec.authors, spec.subject.kind),
            (vec!["alice".to_owned()], SubjectType::Order)
        );
        assert_eq!(told(&world).0, ApprovalPhase::Asked);

        decide(&mut world, Decided::Approve, "bob");
        minutes(&mut world, 120);
        assert_eq!(count(&world, LineState::RolledBack), 5);
        assert_eq!(phase(&world, "erp-down"), RollbackPhase::Completed);
        let (standing, message) = told(&world);
        assert_eq!(standing, ApprovalPhase::Used);
        assert!(
            message.contains("bob approved PatchRollback erp-down for up to 5 devices"),
            "{message}"
        );
        assert!(wanted(&world).is_empty());
        let status = world.order_status("erp-down");
        assert!(!conditions::is_true(&status.conditions, conditions::AWAITING_APPROVAL));
        assert_eq!(world.status("november").phase, Some(RolloutPhase::RolledBack));
        assert!(world.plan().actions.is_empty());
    }
}

#[test]
fn one_that_waits_keeps_no_smaller_one_from_going_and_what_that_took_counts() {
    let mut world = asked();
    order(&mut world, "one", "4", ", devices: [ward-1]");
    minutes(&mut world, 60);
    assert_eq!(uninstalls(&world), ["ward-1"]);
    assert_eq!(phase(&world, "one"), RollbackPhase::Completed);
    // Four that are left, and one that is gone: still five in all, so the asking stands.
    assert_eq!(asking(&world).state, GateState::Waiting);
    assert_eq!(asking(&world).asked.because, None);
    decide(&mut world, Decided::Approve, "bob");
    minutes(&mut world, 120);
    assert_eq!(count(&world, LineState::RolledBack), 5);
}

#[test]
fn many_small_orders_are_one_large_one() {
    let mut world = completed();
    for device in ["test-1", "test-2", "ward-1", "ward-2", "ward-3"] {
        order(&mut world, device, "2", &format!(", devices: [{device}]"));
        minutes(&mut world, 60);
    }
    assert_eq!(uninstalls(&world).len(), 2, "the third would be beyond the share");
    assert_eq!(phase(&world, "ward-1"), RollbackPhase::Waiting);
}

/// Carries out plans, write by write, until the order's status says that it is approved.
fn counted(world: &mut World) {
    for _ in 0..20 {
        let plan = world.plan();
        for action in &plan.actions {
            world.apply(action);
        }
        if asking(world).state == GateState::Passed {
            let begun = world.status("november").rollback.and_then(|all| all.order);
            assert!(begun.is_none_or(|begun| begun.name != "erp-down"), "it has not begun yet");
            return;
        }
    }
    panic!("nobody's word was counted");
}

#[test]
fn a_record_that_is_lost_makes_no_order_smaller_and_stops_no_plan() {
    for (above, goes) in [("2", false), ("3", true)] {
        let mut world = completed();
        order(&mut world, "one", "100%", ", devices: [test-1]");
        minutes(&mut world, 60);
        assert_eq!(uninstalls(&world), ["test-1"]);
        world.slices.retain(|_, slice| slice.spec.stage != "test");
        order(&mut world, "erp-down", above, ", devices: [ward-1, ward-2]");
        minutes(&mut world, 60);
        assert_eq!(uninstalls(&world).len(), if goes { 3 } else { 1 }, "{above}");
        if !goes {
            decide(&mut world, Decided::Approve, "bob");
            minutes(&mut world, 60);
            assert_eq!(uninstalls(&world).len(), 3);
        }
    }
}

#[test]
fn whoever_waits_behind_an_order_that_waits_learns_its_name() {
    let mut world = under_way();
    world.approvals.clear();
    minutes(&mut world, 60);
    order(&mut world, "other", "100%", ", devices: [test-1]");
    minutes(&mut world, 2);
    let message = world.order_status("other").message.unwrap();
    assert!(message.contains("kubectl delete patchrollback erp-down"), "{message}");
}

/// One after the other, approved, and the first of them is at it.
fn under_way() -> World {
    let mut world = completed();
    world.order(
        "erp-down",
        "{rollout: november, reason: r, authors: [alice], approvalAbove: 0, maxConcurrency: 1}",
    );
    minutes(&mut world, 2);
    decide(&mut world, Decided::Approve, "bob");
    while uninstalls(&world).len() < 2 {
        world.minute(|_| {});
    }
    world
}

#[test]
fn nobody_is_asked_twice_for_a_device_that_comes_back_and_beyond_the_bound_it_is_asked_anew() {
    let mut world = completed();
    order(&mut world, "erp-down", "2", ", selector: {matchLabels: {room: '3'}}");
    let label = |world: &mut World, device: &str| {
        let row = world.devices.get_mut(device).unwrap();
        std::sync::Arc::make_mut(&mut row.labels).insert("room".to_owned(), "3".to_owned());
    };
    for device in ["ward-1", "ward-2", "ward-3"] {
        label(&mut world, device);
    }
    minutes(&mut world, 2);
    let first = asking(&world);
    assert_eq!(first.up_to, 4, "three, and room for one more");
    label(&mut world, "test-1");
    minutes(&mut world, 2);
    assert_eq!(asking(&world).asked.hash, first.asked.hash);
    decide(&mut world, Decided::Approve, "bob");
    label(&mut world, "test-2");
    minutes(&mut world, 60);
    assert!(world.permits.is_empty(), "five are more than anybody approved");
    let now = asking(&world);
    assert_eq!((now.up_to, now.state), (5, GateState::Waiting));
    let because = now.asked.because.unwrap();
    assert!(because.contains("the number of devices"), "{because}");
}

#[test]
fn more_than_was_approved_begins_nothing_also_where_the_word_was_counted_already() {
    let mut world = completed();
    order(&mut world, "erp-down", "1", ", selector: {matchLabels: {room: '3'}}");
    let label = |world: &mut World, device: &str| {
        let row = world.devices.get_mut(device).unwrap();
        std::sync::Arc::make_mut(&mut row.labels).insert("room".to_owned(), "3".to_owned());
    };
    for device in ["ward-1", "ward-2"] {
        label(&mut world, device);
    }
    minutes(&mut world, 2);
    decide(&mut world, Decided::Approve, "bob");
    counted(&mut world);
    assert_eq!(asking(&world).up_to, 2);
    label(&mut world, "ward-3");
    minutes(&mut world, 30);
    assert!(world.permits.is_empty());
    assert_eq!((asking(&world).up_to, asking(&world).state), (4, GateState::Waiting));
}

#[test]
fn an_order_that_is_deleted_while_it_waits_leaves_everything_as_it_was() {
    let mut world = asked();
    decide(&mut world, Decided::Approve, "bob");
    let uid = world.orders["erp-down"].metadata.uid.clone();
    world.orders.clear();
    minutes(&mut world, 30);
    assert!(world.permits.is_empty() && wanted(&world).is_empty());
    assert_eq!(told(&world).0, ApprovalPhase::Void);
    // One of the same name is another one.
    ordered(&mut world, "4");
    assert_ne!(world.orders["erp-down"].metadata.uid, uid);
    minutes(&mut world, 30);
    assert!(world.permits.is_empty());
}

#[test]
fn a_stage_that_waits_behind_its_gate_makes_no_share_larger() {
    let mut world = world();
    world.edit("november", |spec| {
        spec.authors = vec!["alice".to_owned()];
        let gates = "{before: [{name: sign-off, type: Approval}]}";
        spec.stages[1].gates = serde_yaml::from_str(gates).unwrap();
    });
    world.settle();
    minutes(&mut world, 60);
    let ward = world.status("november").stages[1].clone();
    assert_eq!((ward.state, ward.counts.total), (StageState::Gated, 3));
    // Of five devices that would be two, which is all that the order reaches.
    ordered(&mut world, "50%");
    minutes(&mut world, 60);
    assert!(uninstalls(&world).is_empty());
    assert_eq!(asking(&world).up_to, 2);
    decide(&mut world, Decided::Approve, "bob");
    minutes(&mut world, 60);
    assert_eq!(uninstalls(&world).len(), 2);
}

#[test]
fn an_order_that_reaches_nothing_keeps_no_later_one_waiting_and_asks_nobody() {
    let mut world = completed();
    order(&mut world, "first", "1", ", devices: [ward-3]");
    minutes(&mut world, 60);
    assert_eq!(uninstalls(&world), ["ward-3"]);
    // It cannot end: nobody knows what its devices carry.
    world.slices.retain(|_, slice| slice.spec.stage != "test");
    order(&mut world, "one", "0", ", devices: [test-1]");
    minutes(&mut world, 5);
    assert_eq!(phase(&world, "one"), RollbackPhase::Waiting);
    assert_eq!(world.order_status("one").approval, None);
    world.order("two", "{rollout: november, reason: r, devices: [ward-1]}");
    minutes(&mut world, 60);
    assert_eq!(phase(&world, "two"), RollbackPhase::Completed);
    assert_eq!(uninstalls(&world), ["ward-3", "ward-1"]);
}
