//! Whose word on an order counts, and what voids it.

use super::*;

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
