//! PatchRollbacks that wait for a second person: how far they go by themselves, whose word lets them go on, and
//! what voids it.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use jiff::SignedDuration;
use proptest::prelude::*;
use support::{
    World,
    orders::{completed, minutes, phase, uninstalls, world},
};
use wardring_api::{
    AlertKind, ApprovalPhase, Cap, Decided, GateState, LineState, OrderApproval, PatchApproval,
    PermitStep, RollbackPhase, RolloutPhase, SubjectType, conditions,
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
    // 99% of five devices is four; all of them, or a number that large, asks nobody.
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
fn an_order_that_waits_halts_what_is_under_way_at_once() {
    let mut world = world();
    world.settle();
    while world.state("november", "test-1") != Some(LineState::Succeeded) {
        world.minute(|_| {});
    }
    world.permits.clear();
    ordered(&mut world, "0");
    minutes(&mut world, 90);
    let rollout = world.status("november");
    assert_eq!(rollout.halted.unwrap().reason, "RollbackOrdered");
    let begun = world.permits.iter().filter(|given| given.step != PermitStep::Reboot);
    assert_eq!(begun.count(), 0, "nothing is installed any more, and nothing taken back");
    decide(&mut world, Decided::Approve, "bob");
    minutes(&mut world, 120);
    assert_eq!(uninstalls(&world).len(), 2);
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

#[test]
fn a_retry_between_small_orders_makes_them_no_smaller() {
    let mut world = completed();
    for (number, device) in ["test-1", "ward-1", "ward-2"].into_iter().enumerate() {
        order(&mut world, device, "2", &format!(", devices: [{device}]"));
        minutes(&mut world, 60);
        let is_beyond = number == 2;
        assert_eq!(uninstalls(&world).len(), number + usize::from(!is_beyond), "{device}");
        if is_beyond {
            assert_eq!(phase(&world, device), RollbackPhase::Waiting);
            break;
        }
        // Somebody lifts the bar, and the rollout brings the updates again.
        world.holds.clear();
        world.now += SignedDuration::from_mins(1);
        world.retry("november");
        minutes(&mut world, 90);
        assert_eq!(world.state("november", device), Some(LineState::Succeeded));
        assert_eq!(world.status("november").rolled_back_before, number as u32 + 1);
    }
}

/// Carries out plans, write by write, until the order's status says that it is approved.
fn counted(world: &mut World) {
    for _ in 0..20 {
        let plan = world.plan();
        for action in &plan.actions {
            world.apply(action);
        }
        if asking(world).state == GateState::Passed {
            assert!(world.status("november").rollback.is_none(), "it has not begun yet");
            return;
        }
    }
    panic!("nobody's word was counted");
}

#[test]
fn what_another_version_asked_is_asked_anew_before_an_order_begins() {
    let mut world = asked();
    decide(&mut world, Decided::Approve, "bob");
    counted(&mut world);
    // The same words as an older version would have made them.
    let rollout = world.rollouts["november"].clone();
    let order = world.orders.get_mut("erp-down").unwrap();
    let mut asked = order.status.as_ref().unwrap().approval.as_ref().unwrap().asked.clone();
    let was = asked.hash.clone();
    let form = asked.parts.iter_mut().find(|part| part.starts_with("form=")).unwrap();
    *form = "form=0123456789abcdef".to_owned();
    asked.hash = wardring_planner::order_hash(order, &rollout, &asked);
    let hash = asked.hash.clone();
    order.status.as_mut().unwrap().approval.as_mut().unwrap().asked = asked;
    for approval in world.approvals.values_mut().filter(|all| all.spec.approval_hash == was) {
        approval.spec.approval_hash = hash.clone();
    }
    minutes(&mut world, 30);
    assert!(world.permits.is_empty() && world.holds.is_empty());
    assert!(world.status("november").rollback.is_none(), "it has not begun");
    let because = asking(&world).asked.because.unwrap();
    assert!(because.contains("the version of the controller"), "{because}");
    decide(&mut world, Decided::Approve, "bob");
    minutes(&mut world, 120);
    assert_eq!(count(&world, LineState::RolledBack), 5);
}

#[test]
fn the_word_that_was_counted_first_is_the_one_that_an_order_begins_by() {
    let mut world = asked();
    // dave's own object; the controller's request, which is older, is filled in by bob a moment later.
    let mut own = request(&mut world).clone();
    (own.metadata.name, own.metadata.uid) = (Some("own".to_owned()), Some("own".to_owned()));
    own.metadata.creation_timestamp = Some(support::api_time(world.now));
    own.spec.decision = Some(Decided::Approve);
    (own.spec.approver, own.spec.reason) = (Some("dave".to_owned()), Some("r".to_owned()));
    world.approvals.insert("own".to_owned(), own);
    counted(&mut world);
    assert_eq!(asking(&world).asked.decided.unwrap().by, "dave");
    decide(&mut world, Decided::Approve, "bob");
    minutes(&mut world, 120);
    assert_eq!(count(&world, LineState::RolledBack), 5);
    assert_eq!(asking(&world).asked.decided.unwrap().by, "dave");
    // Where that one goes before the beginning, the other one is counted first, and then it begins.
    let mut world = asked();
    let mut own = request(&mut world).clone();
    (own.metadata.name, own.metadata.uid) = (Some("own".to_owned()), Some("own".to_owned()));
    own.spec.decision = Some(Decided::Approve);
    (own.spec.approver, own.spec.reason) = (Some("dave".to_owned()), Some("r".to_owned()));
    world.approvals.insert("own".to_owned(), own);
    counted(&mut world);
    world.approvals.remove("own");
    decide(&mut world, Decided::Approve, "bob");
    minutes(&mut world, 120);
    assert_eq!(count(&world, LineState::RolledBack), 5);
    assert_eq!(asking(&world).asked.decided.unwrap().by, "bob");
}

#[test]
fn an_order_begins_only_while_somebody_vouches_for_its_approval_and_that_is_read_first() {
    let mut world = asked();
    decide(&mut world, Decided::Approve, "bob");
    counted(&mut world);
    let intact = world.approval_policy.clone();
    world.approval_policy = ApprovalPolicy::Unknown { why: "it is restarting".to_owned() };
    minutes(&mut world, 10);
    assert!(world.permits.is_empty() && world.holds.is_empty() && world.jobs.is_empty());
    assert_eq!(asking(&world).state, GateState::Passed, "what was said is not lost");
    world.approval_policy = intact;
    for _ in 0..10 {
        let plan = world.plan();
        let position = |is_it: fn(&Action) -> bool| plan.actions.iter().position(is_it);
        let read = position(|all| matches!(all, Action::ConfirmApproval(_)));
        let marks = position(|all| {
            matches!(all, Action::RecordLines { cause: wardring_planner::RecordCause::Order, .. })
        });
        if let Some(marks) = marks {
            let bar = position(|all| matches!(all, Action::CreateHold { .. })).unwrap();
            assert!(read.unwrap() < marks && read.unwrap() < bar, "{:#?}", plan.actions);
            return;
        }
        for action in &plan.actions {
            world.apply(action);
        }
    }
    panic!("it did not begin");
}

#[test]
fn an_order_that_waits_takes_nothing_back_by_way_of_its_halt() {
    let mut world = world();
    world.edit("november", |spec| {
        spec.on_halt = serde_yaml::from_str("{installedAwaitingReboot: Uninstall}").unwrap();
    });
    world.settle();
    let waits = |world: &World| {
        world.jobs.values().any(|job| job.state == Some(wardring_api::JobState::AwaitingReboot))
    };
    for _ in 0..60 {
        if waits(&world) {
            break;
        }
        world.minute(|_| {});
    }
    assert!(waits(&world), "a device has installed and waits for its restart");
    ordered(&mut world, "0");
    // The halt is there before the device asks for its restart.
    world.settle();
    assert!(waits(&world) && world.status("november").halted.is_some());
    minutes(&mut world, 60);
    assert!(waits(&world), "it waits for its restart still");
    assert!(uninstalls(&world).is_empty());
    assert!(world.holds.is_empty());
    // Nor does somebody's no take anything back.
    if let Some(known) = world.order_status("erp-down").approval
        && !known.asked.hash.is_empty()
    {
        decide(&mut world, Decided::Reject, "carol");
    }
    minutes(&mut world, 60);
    assert!(uninstalls(&world).is_empty());
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
fn a_retry_waits_for_an_order_that_waits_and_is_carried_out_once_that_is_gone() {
    let mut world = world();
    world.settle();
    while world.state("november", "test-1") != Some(LineState::Succeeded) {
        world.minute(|_| {});
    }
    ordered(&mut world, "0");
    minutes(&mut world, 60);
    world.retry("november");
    let stamp = world.now.to_string();
    minutes(&mut world, 30);
    assert!(world.status("november").halted.is_some());
    assert_ne!(world.status("november").last_handled_retry.as_ref(), Some(&stamp));
    let waits = world.status("november").waiting_for;
    let told = waits.iter().find(|all| all.reason == "RollbackAwaitsApproval").unwrap();
    assert!(told.message.contains("The retry that somebody asked for waits"), "{}", told.message);
    decide(&mut world, Decided::Reject, "carol");
    minutes(&mut world, 90);
    assert_eq!(world.status("november").last_handled_retry, Some(stamp));
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
}

#[test]
fn a_rejection_is_remembered_also_while_nothing_moves() {
    let mut world = asked();
    world.guards.clock_trusted = false;
    decide(&mut world, Decided::Reject, "carol");
    world.settle();
    assert_eq!(asking(&world).state, GateState::Failed);
    world.approvals.clear();
    world.guards.clock_trusted = true;
    minutes(&mut world, 30);
    assert_eq!(phase(&world, "erp-down"), RollbackPhase::Incomplete);
    assert!(world.permits.is_empty());
}

#[test]
fn an_approval_that_ends_sooner_than_its_asking_is_looked_at_when_it_does() {
    let mut world = asked();
    decide(&mut world, Decided::Approve, "bob");
    counted(&mut world);
    let soon = world.now + SignedDuration::from_mins(10);
    request(&mut world).spec.expires_at = Some(soon);
    world.settle();
    assert!(count(&world, LineState::Granted) > 0);
    assert!(world.plan().next_evaluation.is_some_and(|next| next <= soon));
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

#[test]
fn whoever_wrote_the_order_and_our_own_processes_approve_nothing() {
    for by in ["alice", "system:serviceaccount:wardring-system:wardring-controller", ""] {
        let mut world = asked();
        decide(&mut world, Decided::Approve, by);
        minutes(&mut world, 30);
        assert!(world.permits.is_empty(), "{by}");
        assert_eq!(told(&world).0, ApprovalPhase::Void, "{by}");
    }
    let mut world = asked();
    let since = world.now;
    world.approval_policy = ApprovalPolicy::Intact { fingerprint: "policies-1".to_owned(), since };
    decide(&mut world, Decided::Approve, "bob");
    minutes(&mut world, 30);
    assert!(world.permits.is_empty());
    assert!(told(&world).1.contains("the PatchRollback is older than"), "{}", told(&world).1);
    // Who wrote the rollout is another matter.
    let mut world = completed();
    world.edit("november", |spec| spec.authors = vec!["bob".to_owned()]);
    ordered(&mut world, "0");
    minutes(&mut world, 2);
    decide(&mut world, Decided::Approve, "bob");
    minutes(&mut world, 120);
    assert_eq!(count(&world, LineState::RolledBack), 5);
}

#[test]
fn an_order_without_authors_or_by_a_service_account_alone_counts_no_approval() {
    for authors in ["[]", "['system:serviceaccount:flux-system:kustomize-controller']"] {
        let mut world = completed();
        let spec =
            format!("{{rollout: november, reason: r, approvalAbove: 0, authors: {authors}}}");
        world.order("erp-down", &spec);
        minutes(&mut world, 2);
        decide(&mut world, Decided::Approve, "bob");
        minutes(&mut world, 30);
        assert!(world.permits.is_empty(), "{authors}");
        assert_eq!(told(&world).0, ApprovalPhase::Void);
    }
}

#[test]
fn a_rejection_ends_the_order_for_good() {
    let mut world = asked();
    decide(&mut world, Decided::Reject, "carol");
    minutes(&mut world, 2);
    assert_eq!(told(&world).0, ApprovalPhase::Rejected);
    let status = world.order_status("erp-down");
    assert_eq!(status.phase, Some(RollbackPhase::Incomplete));
    assert!(status.completed_at.is_some());
    let message = status.message.unwrap();
    assert!(
        message.starts_with("carol rejected PatchRollback erp-down: looked at it."),
        "{message}"
    );
    // Whatever becomes of the object, and whatever anybody says later.
    let mut yes = request(&mut world).clone();
    world.approvals.clear();
    yes.spec.decision = Some(Decided::Approve);
    yes.spec.approver = Some("bob".to_owned());
    yes.metadata.uid = Some("another".to_owned());
    world.approvals.insert("later".to_owned(), yes);
    minutes(&mut world, 60);
    assert_eq!(count(&world, LineState::Succeeded), 5);
    assert!(world.permits.is_empty() && wanted(&world).is_empty());
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
    // The next one asks anew.
    order(&mut world, "again", "4", "");
    minutes(&mut world, 2);
    assert_eq!(phase(&world, "again"), RollbackPhase::Waiting);
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
fn a_rejection_in_the_middle_ends_what_has_not_begun() {
    let mut world = under_way();
    let mut no = request(&mut world).clone();
    (no.metadata.name, no.metadata.uid) = (Some("no".to_owned()), Some("another".to_owned()));
    no.spec.decision = Some(Decided::Reject);
    no.spec.approver = Some("carol".to_owned());
    world.approvals.insert("no".to_owned(), no);
    minutes(&mut world, 120);
    assert_eq!(uninstalls(&world).len(), 2);
    let status = world.order_status("erp-down");
    assert_eq!((status.phase, status.counts.left), (Some(RollbackPhase::Incomplete), 3));
    assert!(status.message.unwrap().contains("carol rejected"));
    assert_eq!(count(&world, LineState::Granted), 0);
}

/// What makes an approval count no more.
type Void = fn(&mut World);

#[test]
fn whatever_voids_an_approval_stops_what_has_not_begun_and_it_is_asked_anew() {
    let voids: [(&str, Void); 4] = [
        ("withdrawn", |world| world.approvals.clear()),
        ("policy broken", |world| {
            world.approval_policy = ApprovalPolicy::Broken { why: "it is missing".to_owned() };
        }),
        ("policy put back", |world| {
            if let ApprovalPolicy::Intact { fingerprint, .. } = &mut world.approval_policy {
                *fingerprint = "policies-2".to_owned();
            }
        }),
        ("a cap", |world| {
            let order = world.orders.get_mut("erp-down").unwrap();
            order.spec.max_concurrency = Some(Cap::Percent(100));
        }),
    ];
    for (name, void) in voids {
        let mut world = under_way();
        void(&mut world);
        minutes(&mut world, 120);
        assert_eq!(uninstalls(&world).len(), 2, "{name}");
        assert_eq!(count(&world, LineState::Granted), 0, "{name}");
        let status = world.order_status("erp-down");
        assert_eq!(status.phase, Some(RollbackPhase::RollingBack), "{name}: it waits");
        if name == "policy broken" {
            assert_eq!(asking(&world).state, GateState::Error);
            continue;
        }
        // However long it stood still, that time was not the devices'.
        world.now += SignedDuration::from_hours(20 * 24);
        minutes(&mut world, 2);
        decide(&mut world, Decided::Approve, "bob");
        minutes(&mut world, 200);
        assert_eq!(count(&world, LineState::RolledBack), 5, "{name}");
    }
    // A grant that nobody began on is taken back at once.
    let mut world = asked();
    decide(&mut world, Decided::Approve, "bob");
    world.settle();
    assert!(count(&world, LineState::Granted) > 0);
    world.approvals.clear();
    world.settle();
    assert_eq!((count(&world, LineState::Granted), world.jobs.len()), (0, 0));
    // Where nobody can tell for a moment, nothing is lost.
    let mut world = under_way();
    world.approval_policy = ApprovalPolicy::Unknown { why: "it is restarting".to_owned() };
    minutes(&mut world, 60);
    assert!(uninstalls(&world).len() > 2);
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
fn the_pass_that_sees_an_approval_gone_grants_nothing_by_it() {
    let mut world = completed();
    ordered(&mut world, "0");
    for device in ["ward-1", "ward-2", "ward-3", "test-1"] {
        world.set_online(device, false);
    }
    minutes(&mut world, 2);
    decide(&mut world, Decided::Approve, "bob");
    minutes(&mut world, 60);
    assert_eq!(uninstalls(&world), ["test-2"], "the only one that is there");
    for device in ["ward-1", "ward-2", "ward-3", "test-1"] {
        world.set_online(device, true);
    }
    let would = world.plan();
    assert!(would.actions.iter().any(|action| matches!(action, Action::OpenBatch { .. })));
    world.approvals.clear();
    let plan = world.plan();
    assert!(!plan.actions.iter().any(|action| matches!(action, Action::OpenBatch { .. })));
}

#[test]
fn no_two_orders_are_asked_about_by_the_same_hash() {
    let world = asked();
    let (rollout, order) = (&world.rollouts["november"], &world.orders["erp-down"]);
    let asked = asking(&world).asked;
    let hash = |order: &wardring_api::PatchRollback, rollout: &wardring_api::PatchRollout| {
        wardring_planner::order_hash(order, rollout, &asked)
    };
    assert_eq!(hash(order, rollout), asked.hash);
    let mut other = order.clone();
    other.metadata.uid = Some("another".to_owned());
    assert_ne!(hash(&other, rollout), asked.hash);
    let mut renamed = order.clone();
    renamed.metadata.name = Some("another".to_owned());
    assert_ne!(hash(&renamed, rollout), asked.hash);
    let mut anew = rollout.clone();
    anew.metadata.uid = Some("another".to_owned());
    assert_ne!(hash(order, &anew), asked.hash);
}

#[test]
fn an_approval_that_is_not_used_in_time_is_asked_for_anew() {
    let mut world = asked();
    let first = asking(&world).asked.hash;
    world.now += SignedDuration::from_hours(7 * 24 + 1);
    minutes(&mut world, 2);
    assert_ne!(asking(&world).asked.hash, first);
    assert!(asking(&world).asked.because.unwrap().contains("expired"));
    // The old one says nothing about the new asking.
    let old = world.approvals.values_mut().find(|all| all.spec.approval_hash == first).unwrap();
    old.spec.decision = Some(Decided::Approve);
    (old.spec.approver, old.spec.reason) = (Some("bob".to_owned()), Some("late".to_owned()));
    minutes(&mut world, 30);
    assert!(world.permits.is_empty());
}

#[test]
fn a_retry_of_the_rollout_answers_nothing_that_an_order_asks() {
    let mut world = asked();
    world.now += SignedDuration::from_mins(1);
    world.retry("november");
    minutes(&mut world, 30);
    assert!(world.permits.is_empty());
    assert_eq!(asking(&world).state, GateState::Waiting);
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
fn an_order_on_an_aborted_rollout_asks_as_well() {
    let mut world = completed();
    world.edit("november", |spec| {
        spec.abort = Some(serde_yaml::from_str("{reason: r}").expect("an end"));
    });
    minutes(&mut world, 2);
    assert!(world.status("november").aborted.is_some());
    ordered(&mut world, "0");
    minutes(&mut world, 30);
    assert!(world.permits.is_empty());
    decide(&mut world, Decided::Approve, "bob");
    minutes(&mut world, 120);
    assert_eq!(count(&world, LineState::RolledBack), 5);
}

#[test]
fn the_second_look_lets_no_order_begin_or_go_on_without_its_second_person() {
    let mut world = asked();
    decide(&mut world, Decided::Approve, "bob");
    let (mut begins, mut counted, mut granted) = (false, false, false);
    for _ in 0..20 {
        let snapshot = world.snapshot();
        let plan = world.plan();
        let mut unread = plan.clone();
        unread.actions.retain(|action| !matches!(action, Action::ConfirmApproval(_)));
        if unread.actions.len() < plan.actions.len() {
            assert!(!check(&snapshot, &unread).is_empty(), "it is read once more");
            let begins_now = plan.actions.iter().any(|action| {
                matches!(action, Action::WriteStatus { status, .. } if status.rollback.is_some())
            });
            if begins_now {
                // Nobody was asked, and it is beyond the share.
                let mut unasked = snapshot.clone();
                let order = std::sync::Arc::make_mut(&mut unasked.orders[0]);
                order.status.as_mut().unwrap().approval = None;
                assert!(!check(&unasked, &plan).is_empty());
                // A retry made nothing of what was taken back undone: more than bob approved.
                let mut more = snapshot.clone();
                let rollout = std::sync::Arc::make_mut(&mut more.rollouts[0]);
                rollout.status.as_mut().unwrap().rolled_back_before = 1;
                assert!(!check(&more, &plan).is_empty());
            }
            begins |= begins_now;
            counted |= plan.actions.iter().any(|action| {
                matches!(action, Action::WriteRollbackStatus { status, .. }
                    if status.approval.as_ref().is_some_and(|all| all.state == GateState::Passed))
            });
        }
        if plan.actions.iter().any(|action| matches!(action, Action::OpenBatch { .. })) {
            granted = true;
            // The same grants by orders that nobody approved, or that somebody rejected.
            for state in [GateState::Waiting, GateState::Failed] {
                let mut other = snapshot.clone();
                let order = std::sync::Arc::make_mut(&mut other.orders[0]);
                let known = order.status.as_mut().unwrap().approval.as_mut().unwrap();
                known.state = state;
                assert!(!check(&other, &plan).is_empty(), "{state:?}");
            }
            let mut none = snapshot.clone();
            none.approvals.clear();
            assert!(!check(&none, &plan).is_empty());
            let mut unasked = snapshot.clone();
            std::sync::Arc::make_mut(&mut unasked.orders[0]).status.as_mut().unwrap().approval =
                None;
            assert!(!check(&unasked, &plan).is_empty());
        }
        for action in &plan.actions {
            world.apply(action);
        }
    }
    assert!(begins && counted && granted);
}

/// What happens between two moments of a story.
#[derive(Clone, Debug)]
enum Happens {
    /// An order for these devices, with this `approvalAbove`.
    Order(Vec<usize>, Cap),
    /// Somebody answers what the newest order asks.
    Answer(&'static str, Decided),
    /// Whoever approved takes it back.
    Withdrawn,
    /// The newest order is deleted.
    Deleted,
    /// The bars go, and the rollout begins anew.
    Retry,
    /// The policies are put back.
    Policies,
    Minutes(u32),
}

fn happens() -> impl Strategy<Value = Happens> {
    let cap = prop_oneof![(0_u32..5).prop_map(Cap::Count), (0_u8..=100).prop_map(Cap::Percent)];
    prop_oneof![
        4 => (prop::collection::btree_set(0_usize..5, 1..=5), cap)
            .prop_map(|(devices, cap)| Happens::Order(devices.into_iter().collect(), cap)),
        4 => prop::sample::select(vec![("bob", Decided::Approve), ("dave", Decided::Approve),
            ("alice", Decided::Approve), ("carol", Decided::Reject)])
            .prop_map(|(by, word)| Happens::Answer(by, word)),
        1 => Just(Happens::Withdrawn),
        1 => Just(Happens::Deleted),
        2 => Just(Happens::Retry),
        1 => Just(Happens::Policies),
        6 => (1_u32..40).prop_map(Happens::Minutes),
    ]
}

const DEVICES: [&str; 5] = ["test-1", "test-2", "ward-1", "ward-2", "ward-3"];

/// Whenever a device is about to be taken back: it is within the share of its order, with all that was taken back
/// before it, or somebody else than alice approved that many.
fn assert_assented(world: &World, taken: &mut Vec<(String, u32)>) {
    let lines = world.lines();
    let rolls = lines.iter().filter(|(_, _, line)| {
        line.state == LineState::Granted && line.action == wardring_api::JobAction::Rollback
    });
    for (_, _, line) in rolls {
        let grant = (line.device.clone(), line.attempt);
        if taken.contains(&grant) {
            continue;
        }
        taken.push(grant);
        let named = world.status("november").rollback.unwrap().order.unwrap().name;
        let order = &world.orders[&named];
        let share = match order.spec.approval_above.unwrap() {
            Cap::Count(count) => count as usize,
            Cap::Percent(percent) => 5 * usize::from(percent) / 100,
        };
        // What goes back without having begun is no device that was taken back.
        let now = lines.iter().filter(|(_, _, line)| match line.state {
            LineState::RolledBack | LineState::RollbackFailed | LineState::NotReversible => true,
            LineState::Granted => line.action == wardring_api::JobAction::Rollback,
            _ => false,
        });
        let count = now.count() + world.status("november").rolled_back_before as usize;
        let approval = order.status.as_ref().and_then(|status| status.approval.as_ref());
        let said = approval.filter(|known| known.state == GateState::Passed);
        let by = said.and_then(|known| known.asked.decided.as_ref()).map(|said| said.by.as_str());
        let is_approved = by.is_some_and(|by| by == "bob" || by == "dave")
            && said.is_some_and(|known| count <= known.up_to as usize);
        assert!(count <= share || is_approved, "{count} devices, {share} go unasked: {order:#?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// However many orders, whoever answers what and when, with retries and policies that change: no device is
    /// taken back beyond the share of its order without the word of somebody else.
    #[test]
    fn no_order_goes_beyond_its_share_without_somebody_elses_word(
        story in prop::collection::vec(happens(), 1..14),
    ) {
        let mut world = completed();
        let (mut taken, mut newest) = (Vec::new(), None::<String>);
        let begun = world.rollouts["november"].status.as_ref().unwrap().rolled_back_before;
        prop_assert_eq!(begun, 0);
        for (number, happening) in story.into_iter().chain([Happens::Minutes(60)]).enumerate() {
            let known = newest.as_ref().and_then(|name| world.order_status(name).approval);
            match happening {
                Happens::Order(devices, cap) => {
                    let names: Vec<&str> = devices.iter().map(|&index| DEVICES[index]).collect();
                    let name = format!("order-{number}");
                    order(&mut world, &name, &cap.to_string(), &format!(", devices: [{}]", names.join(", ")));
                    newest = Some(name);
                }
                Happens::Answer(by, word) => {
                    let asked = known.map(|known| known.asked.request);
                    let open = asked.and_then(|name| world.approvals.get_mut(&name));
                    if let Some(open) = open.filter(|open| open.spec.decision.is_none()) {
                        open.spec.decision = Some(word);
                        open.spec.approver = Some(by.to_owned());
                        open.spec.reason = Some("r".to_owned());
                    }
                }
                Happens::Withdrawn => world.approvals.retain(|_, all| all.spec.decision != Some(Decided::Approve)),
                Happens::Deleted => {
                    if let Some(name) = newest.take() {
                        world.orders.remove(&name);
                    }
                }
                Happens::Retry => {
                    world.holds.clear();
                    world.now += SignedDuration::from_secs(1);
                    world.retry("november");
                }
                Happens::Policies => {
                    let fingerprint = format!("policies-{number}");
                    let since = support::start() - SignedDuration::from_hours(24);
                    world.approval_policy = ApprovalPolicy::Intact { fingerprint, since };
                }
                Happens::Minutes(count) => {
                    for _ in 0..count {
                        world.minute(|world| assert_assented(world, &mut taken));
                    }
                }
            }
        }
    }
}

/// Whether a write that is left to a later pass may be lost without a word.
fn may_be_lost(action: &Action) -> bool {
    matches!(
        action,
        Action::WriteRollbackStatus { .. }
            | Action::CreateApproval(_)
            | Action::WriteApprovalStatus { .. }
    )
}

#[test]
fn whichever_write_about_an_order_is_lost_it_begins_by_the_same_word_and_ends_the_same() {
    let mut lost = 0;
    loop {
        let mut world = completed();
        ordered(&mut world, "4");
        let (mut seen, mut is_lost) = (0, false);
        for _ in 0..160 {
            world.run_agents();
            let plan = world.plan();
            for action in &plan.actions {
                seen += usize::from(may_be_lost(action));
                if may_be_lost(action) && seen == lost + 1 && !is_lost {
                    is_lost = true;
                    continue;
                }
                world.apply(action);
            }
            let asked = world.order_status("erp-down").approval;
            if asked.is_some_and(|known| {
                known.state == GateState::Waiting
                    && world.approvals.contains_key(&known.asked.request)
            }) {
                assert!(world.permits.is_empty(), "{lost}");
                decide(&mut world, Decided::Approve, "bob");
            }
            world.now += SignedDuration::from_secs(30);
        }
        assert_eq!(phase(&world, "erp-down"), RollbackPhase::Completed, "{lost}");
        assert_eq!(uninstalls(&world).len(), 5, "{lost}");
        assert_eq!(world.approvals.len(), 1, "{lost}: nobody is asked twice");
        assert_eq!(told(&world).0, ApprovalPhase::Used, "{lost}");
        if !is_lost {
            break;
        }
        lost += 1;
    }
    assert!(lost > 8, "{lost}");
}
