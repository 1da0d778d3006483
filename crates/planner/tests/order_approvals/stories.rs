//! The second look, and stories of many orders, of lost writes and of whatever people say.

use proptest::prelude::*;

use super::*;

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
