//! Rollbacks that wait for a person: how far they go by themselves, whose word lets them go on, and what voids it.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use std::collections::BTreeSet;

use jiff::SignedDuration;
use proptest::{collection::vec, prelude::*, sample::select};
use support::{
    SERVER, World,
    agent::Script,
    orders::{minutes, uninstalls},
};
use wardring_api::{
    AlertKind, ApprovalPhase, Cap, Decided, GateState, LineState, PatchApproval, RollbackApproval,
    RollbackPolicy, RolloutPhase, SubjectType, conditions,
};
use wardring_planner::{Action, ApprovalPolicy, JobOutcome, alerts, check};

/// Eight devices in one stage, of which the first are broken by the update. alice wrote it.
fn broken(count: usize, on_failure: &str, stage: &str) -> World {
    let mut world = World::new();
    world.group("ward");
    for number in 1..=8 {
        let name = format!("ward-{number}");
        world.device(&name, "ward", SERVER);
        if number <= count {
            world.agents.get_mut(&name).unwrap().script = Script::ServiceDown;
        }
    }
    world.rollout(
        "november",
        &format!(
            "{{updates: {{select: {{release: 2026-11}}}}, authors: [alice], \
             onFailure: {{action: Rollback, maxConcurrency: 100%, {on_failure}}}, \
             stages: [{{name: ward, group: ward, maxConcurrency: 100%, {stage}}}]}}"
        ),
    );
    world.settle();
    minutes(&mut world, 90);
    world
}

/// The failed devices alone, as they fail; the stage bears them all.
fn devices(count: usize, share: &str) -> World {
    broken(count, &format!("scope: Device, approvalAbove: {share}"), "maxFailures: 100%")
}

/// One broken device breaks the budget, and the whole stage is to be taken back.
fn stage(share: &str) -> World {
    broken(1, &format!("scope: Stage, approvalAbove: {share}"), "maxFailures: 0")
}

fn asked(world: &World) -> RollbackApproval {
    world.status("november").rollback_approval.expect("the rollout asks")
}

fn request(world: &mut World) -> &mut PatchApproval {
    let name = asked(world).asked.request;
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

fn breaks(world: &mut World, device: &str) {
    world.agents.get_mut(device).unwrap().script = Script::ServiceDown;
}

#[test]
fn what_stays_within_the_share_is_taken_back_without_asking_anybody() {
    for world in [devices(2, "2"), devices(2, "25%"), stage("100%")] {
        assert_eq!(count(&world, LineState::Failed), 0);
        assert!(count(&world, LineState::RolledBack) >= 2);
        assert_eq!(world.status("november").rollback_approval, None);
        assert!(world.approvals.is_empty());
    }
}

#[test]
fn broken_devices_up_to_the_share_are_mended_at_once_and_the_next_one_waits_for_a_person() {
    let mut world = devices(4, "2");
    assert_eq!(uninstalls(&world).len(), 2);
    assert_eq!((count(&world, LineState::RolledBack), count(&world, LineState::Failed)), (2, 2));
    let status = world.status("november");
    let waits = status.waiting_for.iter().find(|all| all.reason == "RollbackAwaitsApproval");
    let waits = waits.unwrap();
    assert_eq!((waits.devices, waits.until.is_some()), (Some(2), true));
    assert!(waits.message.contains("2 of 4 devices wait"), "{}", waits.message);
    assert!(conditions::is_true(&status.conditions, conditions::AWAITING_APPROVAL));
    assert_eq!(wanted(&world).len(), 1, "{:?}", wanted(&world));
    let spec = &request(&mut world).spec;
    assert_eq!(
        (spec.authors.clone(), spec.subject.kind),
        (vec!["alice".to_owned()], SubjectType::Rollback)
    );
    assert_eq!(told(&world).0, ApprovalPhase::Asked);
    // However long nobody answers, nothing more goes.
    world.now += SignedDuration::from_hours(50);
    minutes(&mut world, 30);
    assert_eq!(uninstalls(&world).len(), 2);

    decide(&mut world, Decided::Approve, "bob");
    minutes(&mut world, 60);
    assert_eq!((count(&world, LineState::RolledBack), count(&world, LineState::Failed)), (4, 0));
    assert_eq!(told(&world).0, ApprovalPhase::Used);
    assert!(told(&world).1.contains("bob approved taking the updates back from up to 4 devices"));
    assert!(wanted(&world).is_empty());
    let status = world.status("november");
    assert!(!conditions::is_true(&status.conditions, conditions::AWAITING_APPROVAL));
    assert!(world.plan().actions.is_empty());
}

#[test]
fn healthy_devices_of_a_wider_scope_wait_until_somebody_approved_and_the_halt_waits_for_nobody() {
    let mut world = stage("3");
    let status = world.status("november");
    assert!(status.halted.is_some());
    assert_eq!(uninstalls(&world), ["ward-1"], "only what is broken");
    assert_eq!(count(&world, LineState::Succeeded), 7);
    assert_eq!(status.phase, Some(RolloutPhase::Halted), "it is not rolled back yet");
    assert!(!conditions::is_true(&status.conditions, conditions::ROLLED_BACK));
    assert_eq!((asked(&world).up_to, asked(&world).stage.as_deref()), (8, Some("ward")));
    decide(&mut world, Decided::Approve, "bob");
    minutes(&mut world, 60);
    assert_eq!(count(&world, LineState::RolledBack), 8);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::RolledBack));
}

#[test]
fn a_share_of_nothing_asks_before_the_first_device() {
    // A tenth of eight devices is none.
    for share in ["0", "10%"] {
        let world = devices(1, share);
        assert!(uninstalls(&world).is_empty());
        assert_eq!(asked(&world).up_to, 1);
    }
}

#[test]
fn a_decision_waits_a_week_and_is_still_carried_out() {
    let short = "maxFailures: 0, progressDeadline: 12h";
    let mut world = broken(1, "scope: Stage, approvalAbove: 3", short);
    world.now += SignedDuration::from_hours(6 * 24 + 20);
    minutes(&mut world, 3);
    decide(&mut world, Decided::Approve, "bob");
    for _ in 0..60 {
        world.minute(|world| {
            let is_done = count(world, LineState::RolledBack) == 8;
            let says = world.status("november").phase == Some(RolloutPhase::RolledBack);
            assert!(is_done || !says, "it is called done when it is");
        });
    }
    assert_eq!(count(&world, LineState::RolledBack), 8);
}

#[test]
fn nobody_is_asked_anew_for_every_further_device_but_beyond_the_bound() {
    let mut world = World::new();
    world.group("ward");
    for number in 1..=9 {
        world.device(&format!("ward-{number}"), "ward", SERVER);
    }
    world.rollout(
        "november",
        "{updates: {select: {release: 2026-11}}, authors: [alice], \
         correlatedFailures: {devices: 0}, \
         onFailure: {action: Rollback, maxConcurrency: 100%, approvalAbove: 2}, \
         stages: [{name: ward, group: ward, maxConcurrency: 1, maxFailures: 100%}]}",
    );
    for number in 1..=9 {
        breaks(&mut world, &format!("ward-{number}"));
    }
    world.settle();
    let mut askings = Vec::new();
    let mut approved = 0;
    for _ in 0..900 {
        world.minute(|_| {});
        let Some(known) = world.status("november").rollback_approval else { continue };
        if !askings.contains(&known.up_to) {
            askings.push(known.up_to);
        }
        if known.state == GateState::Waiting
            && known.up_to <= 4
            && world.approvals.contains_key(&known.asked.request)
        {
            decide(&mut world, Decided::Approve, "bob");
            approved = known.up_to;
        }
    }
    assert_eq!(askings, [4, 8, 9], "three devices, then the fifth, then the ninth");
    assert_eq!(approved, 4);
    assert_eq!(uninstalls(&world).len(), 4, "no more than somebody approved");
    let because = asked(&world).asked.because.unwrap();
    assert!(because.contains("the number of devices"), "{because}");
}

#[test]
fn the_author_our_own_processes_and_unvouched_authors_approve_nothing() {
    for by in ["alice", "system:serviceaccount:wardring-system:wardring-controller", ""] {
        let mut world = stage("3");
        decide(&mut world, Decided::Approve, by);
        minutes(&mut world, 30);
        assert_eq!(count(&world, LineState::Succeeded), 7, "{by}");
        assert_eq!(told(&world).0, ApprovalPhase::Void, "{by}");
    }
    let mut world = stage("3");
    let since = world.now;
    world.approval_policy = ApprovalPolicy::Intact { fingerprint: "policies-1".to_owned(), since };
    decide(&mut world, Decided::Approve, "bob");
    minutes(&mut world, 30);
    assert_eq!(count(&world, LineState::Succeeded), 7);
}

#[test]
fn a_rejection_stays_whatever_becomes_of_its_object_until_a_retry() {
    let mut world = stage("3");
    decide(&mut world, Decided::Reject, "carol");
    minutes(&mut world, 2);
    let mut yes = request(&mut world).clone();
    world.approvals.clear();
    yes.spec.decision = Some(Decided::Approve);
    yes.spec.approver = Some("bob".to_owned());
    yes.metadata.uid = Some("another".to_owned());
    world.approvals.insert("later".to_owned(), yes);
    minutes(&mut world, 60);
    assert_eq!(count(&world, LineState::Succeeded), 7);
    let status = world.status("november");
    let waits = status.waiting_for.iter().find(|all| all.reason == "RollbackRejected").unwrap();
    assert!(waits.message.contains("carol rejected"), "{}", waits.message);
    assert!(wanted(&world).is_empty());
    world.agents.get_mut("ward-1").unwrap().script = Script::Good;
    world.holds.clear();
    world.now += SignedDuration::from_mins(1);
    world.retry("november");
    minutes(&mut world, 120);
    let status = world.status("november");
    assert_eq!((status.rollback_approval, status.phase), (None, Some(RolloutPhase::Completed)));
}

#[test]
fn a_rejection_is_remembered_also_while_the_rollout_is_suspended() {
    let mut world = stage("3");
    world.edit("november", |spec| spec.suspend = Some(true));
    world.settle();
    decide(&mut world, Decided::Reject, "carol");
    world.settle();
    world.approvals.clear();
    world.edit("november", |spec| spec.suspend = Some(false));
    minutes(&mut world, 5);
    assert_eq!(asked(&world).state, GateState::Failed);
}

/// One after the other, approved, and the first of the healthy ones is at it.
fn under_way() -> World {
    let mut world = stage("3");
    world.edit("november", |spec| spec.on_failure.max_concurrency = Some(Cap::Count(1)));
    minutes(&mut world, 3);
    decide(&mut world, Decided::Approve, "bob");
    while uninstalls(&world).len() < 5 {
        world.minute(|_| {});
    }
    world
}

/// What makes an approval count no more.
type Void = fn(&mut World);

#[test]
fn whatever_voids_an_approval_stops_what_has_not_begun() {
    let voids: [(&str, Void); 5] = [
        ("withdrawn", |world| world.approvals.clear()),
        ("policy broken", |world| {
            world.approval_policy = ApprovalPolicy::Broken { why: "it is missing".to_owned() };
        }),
        ("policy put back", |world| {
            if let ApprovalPolicy::Intact { fingerprint, .. } = &mut world.approval_policy {
                *fingerprint = "policies-2".to_owned();
            }
        }),
        ("author", |world| {
            world.edit("november", |spec| spec.authors.push("bob".to_owned()));
        }),
        ("a group asks", |world| {
            world.groups.get_mut("ward").unwrap().spec.rollback = RollbackPolicy::Ask;
        }),
    ];
    for (name, void) in voids {
        let mut world = under_way();
        let begun = uninstalls(&world).len();
        void(&mut world);
        minutes(&mut world, 120);
        assert_eq!(uninstalls(&world).len(), begun, "{name}");
        assert!(
            !world.lines().iter().any(|(_, _, line)| line.state == LineState::Granted),
            "{name}"
        );
    }
    // A grant that nobody began on is taken back at once.
    let mut world = stage("3");
    decide(&mut world, Decided::Approve, "bob");
    world.settle();
    assert_eq!(count(&world, LineState::Granted), 7);
    world.approvals.clear();
    world.settle();
    assert_eq!((count(&world, LineState::Granted), world.jobs.len()), (0, 0));
    // Where nobody can tell for a moment, nothing is lost.
    let mut world = under_way();
    world.approval_policy = ApprovalPolicy::Unknown { why: "it is restarting".to_owned() };
    minutes(&mut world, 3);
    assert_eq!(asked(&world).state, GateState::Passed);
}

#[test]
fn an_edit_that_widens_what_was_approved_asks_anew_and_says_what_changed() {
    let mut world = devices(4, "2");
    decide(&mut world, Decided::Approve, "bob");
    world.edit("november", |spec| spec.authors.push("bob".to_owned()));
    minutes(&mut world, 30);
    assert_eq!(uninstalls(&world).len(), 2);
    assert!(
        told(&world).1.contains("the authors changed") || told(&world).0 == ApprovalPhase::Void
    );
    assert!(asked(&world).asked.because.unwrap().contains("the authors"));
}

#[test]
fn an_asking_that_nobody_answers_is_asked_anew_after_a_week() {
    let mut world = stage("3");
    let first = asked(&world).asked;
    world.now += SignedDuration::from_hours(7 * 24 + 1);
    minutes(&mut world, 3);
    let again = asked(&world).asked;
    assert_ne!(again.hash, first.hash);
    // The old word answers nothing.
    let spec = &mut world.approvals.get_mut(&first.request).unwrap().spec;
    (spec.decision, spec.approver) = (Some(Decided::Approve), Some("bob".to_owned()));
    minutes(&mut world, 30);
    assert_eq!(uninstalls(&world).len(), 1);
}

#[test]
fn a_group_that_asks_is_released_by_the_same_approval_and_by_an_order() {
    let mut world = group_asks("100%");
    assert!(uninstalls(&world).is_empty());
    assert_eq!(asked(&world).groups, ["ward"]);
    assert!(asked(&world).message.contains("Group ward asks first"), "{}", asked(&world).message);
    let mut ordered = world.clone();
    decide(&mut world, Decided::Approve, "bob");
    minutes(&mut world, 60);
    assert_eq!(uninstalls(&world).len(), 3);
    assert_eq!(count(&world, LineState::RolledBack), 3);

    ordered.order("mend", "{rollout: november, reason: r, devices: [ward-1]}");
    minutes(&mut ordered, 60);
    assert_eq!(uninstalls(&ordered), ["ward-1"]);
    assert!(wanted(&ordered).is_empty(), "a person has decided");

    // Without a share nobody is asked, and only an order takes anything back.
    let mut plain = group_asks("");
    assert_eq!(plain.status("november").rollback_approval, None);
    assert!(plain.status("november").waiting_for.iter().any(|all| all.reason == "RollbackAsks"));
    minutes(&mut plain, 60);
    assert!(uninstalls(&plain).is_empty());
}

fn group_asks(share: &str) -> World {
    let mut world = World::new();
    world.group("ward");
    world.groups.get_mut("ward").unwrap().spec.rollback = RollbackPolicy::Ask;
    for number in 1..=8 {
        world.device(&format!("ward-{number}"), "ward", SERVER);
    }
    for number in 1..=3 {
        breaks(&mut world, &format!("ward-{number}"));
    }
    let share = if share.is_empty() { String::new() } else { format!("approvalAbove: {share}") };
    world.rollout(
        "november",
        &format!(
            "{{updates: {{select: {{release: 2026-11}}}}, authors: [alice], \
             onFailure: {{action: Rollback, maxConcurrency: 100%, {share}}}, \
             stages: [{{name: ward, group: ward, maxConcurrency: 100%, maxFailures: 100%}}]}}"
        ),
    );
    world.settle();
    minutes(&mut world, 90);
    world
}

#[test]
fn an_order_goes_past_what_waits_for_an_approval() {
    let mut world = stage("3");
    let mut one = world.clone();
    one.order("one", "{rollout: november, reason: r, devices: [ward-2]}");
    minutes(&mut one, 60);
    assert_eq!(count(&one, LineState::RolledBack), 2);
    let waits: Vec<String> =
        one.status("november").waiting_for.into_iter().map(|all| all.reason).collect();
    assert_eq!(waits, ["FailureBudgetSpent"], "nobody is asked any more: a person has decided");
    world.order("mend", "{rollout: november, reason: r, maxConcurrency: 8}");
    minutes(&mut world, 60);
    assert_eq!(count(&world, LineState::RolledBack), 8);
    assert!(wanted(&world).is_empty());
}

#[test]
fn the_second_look_refuses_a_plan_that_goes_beyond_the_share_unapproved() {
    let mut world = stage("3");
    let mut lax = world.clone();
    lax.edit("november", |spec| spec.on_failure.approval_above = None);
    for _ in 0..20 {
        let plan = lax.plan();
        let grants = plan.actions.iter().any(|all| matches!(all, Action::OpenBatch { .. }));
        if grants {
            // The same plan, for the rollout as it is written.
            let mut strict = lax.clone();
            strict.edit("november", |spec| spec.on_failure.approval_above = Some(Cap::Count(3)));
            let found = check(&strict.snapshot(), &plan);
            assert!(
                found
                    .iter()
                    .any(|all| all.rule == "S13" && all.message.contains("nobody approved")),
                "{found:?}"
            );
            world.settle();
            return;
        }
        for action in &plan.actions {
            lax.apply(action);
        }
    }
    panic!("the lax rollout goes on");
}

#[test]
fn a_status_relies_on_an_approval_only_if_that_is_read_anew_before() {
    let mut world = stage("3");
    decide(&mut world, Decided::Approve, "bob");
    let mut plan = world.plan();
    assert!(check(&world.snapshot(), &plan).is_empty());
    let before = plan.actions.len();
    plan.actions.retain(|all| !matches!(all, Action::ConfirmApproval(_)));
    assert_eq!(plan.actions.len(), before - 1);
    let found = check(&world.snapshot(), &plan);
    assert!(found.iter().any(|all| all.message.contains("not read anew")), "{found:?}");
}

#[test]
fn an_approval_gives_its_whole_time_also_beside_a_broken_device_that_is_switched_off() {
    let mut world = World::new();
    world.group("ward");
    for number in 1..=8 {
        world.device(&format!("ward-{number}"), "ward", SERVER);
    }
    breaks(&mut world, "ward-1");
    world.rollout(
        "november",
        "{updates: {select: {release: 2026-11}}, authors: [alice], \
         onFailure: {action: Rollback, scope: Stage, approvalAbove: 3}, \
         stages: [{name: ward, group: ward, maxConcurrency: 100%, maxFailures: 0, progressDeadline: 12h}]}",
    );
    world.settle();
    for _ in 0..90 {
        world.now += SignedDuration::from_mins(1);
        world.run_agents();
        let job = world.jobs.values().find(|job| job.device == "ward-1");
        if job.is_some_and(|job| matches!(job.outcome, JobOutcome::Verified(_))) {
            world.set_online("ward-1", false);
        }
        world.settle();
    }
    let rollback = world.status("november").rollback.unwrap();
    assert_eq!(rollback.completed_at, None, "it waits for the broken one");
    world.now = rollback.started_at + SignedDuration::from_mins(11 * 60 + 50);
    minutes(&mut world, 2);
    decide(&mut world, Decided::Approve, "bob");
    minutes(&mut world, 10 * 60);
    assert_eq!((count(&world, LineState::RolledBack), count(&world, LineState::Failed)), (7, 1));
    world.set_online("ward-1", true);
    minutes(&mut world, 60);
    assert_eq!(count(&world, LineState::RolledBack), 8);
}

#[test]
fn what_breaks_later_under_an_approved_bound_is_taken_back_too() {
    let mut world = World::new();
    world.group("ward");
    for number in 1..=9 {
        world.device(&format!("ward-{number}"), "ward", SERVER);
        breaks(&mut world, &format!("ward-{number}"));
    }
    world.rollout(
        "november",
        "{updates: {select: {release: 2026-11}}, authors: [alice], correlatedFailures: {devices: 0}, \
         onFailure: {action: Rollback, maxConcurrency: 100%, approvalAbove: 2}, \
         stages: [{name: ward, group: ward, maxConcurrency: 1, maxFailures: 100%, progressDeadline: 12h}]}",
    );
    world.settle();
    while world.status("november").rollback_approval.is_none_or(|all| all.asked.request.is_empty())
    {
        world.minute(|_| {});
    }
    let script = |world: &mut World, script| {
        world.agents.values_mut().for_each(|agent| agent.script = script);
    };
    script(&mut world, Script::Slow);
    minutes(&mut world, 1);
    assert_eq!(asked(&world).up_to, 4);
    decide(&mut world, Decided::Approve, "bob");
    minutes(&mut world, 13 * 60);
    let rollback = world.status("november").rollback.unwrap();
    assert!(rollback.completed_at.is_some());
    assert!(world.now.duration_since(rollback.started_at) > SignedDuration::from_hours(12));
    assert_eq!(count(&world, LineState::RolledBack), 3);
    script(&mut world, Script::ServiceDown);
    while count(&world, LineState::Failed) == 0 && count(&world, LineState::RolledBack) == 3 {
        world.minute(|_| {});
    }
    script(&mut world, Script::Good);
    minutes(&mut world, 60);
    assert_eq!((count(&world, LineState::RolledBack), count(&world, LineState::Failed)), (4, 0));
    assert_eq!(world.approvals.len(), 1, "nobody is asked anew");
}

#[test]
fn healthy_devices_are_recalled_when_nobody_approves_any_more_also_within_the_share() {
    let voids: [Void; 3] = [
        |world| decide(world, Decided::Reject, "bob"),
        |world| world.approvals.clear(),
        |world| {
            world.approval_policy = ApprovalPolicy::Broken { why: "it is missing".to_owned() };
        },
    ];
    for (index, void) in voids.into_iter().enumerate() {
        let mut world = stage("5");
        world.edit("november", |spec| spec.on_failure.max_concurrency = Some(Cap::Count(2)));
        minutes(&mut world, 3);
        decide(&mut world, Decided::Approve, "bob");
        world.settle();
        assert_eq!(count(&world, LineState::Granted), 2);
        void(&mut world);
        world.settle();
        assert_eq!((count(&world, LineState::Granted), world.jobs.len()), (0, 0), "{index}");
        minutes(&mut world, 120);
        assert_eq!(uninstalls(&world), ["ward-1"], "{index}: three of five, and they are healthy");
    }
}

/// What people do, and what befalls the world, in some minute.
#[derive(Clone, Debug)]
enum Event {
    Approve,
    Reject,
    Withdraw,
    PoliciesBreak,
    PoliciesAreBack,
    GroupAsks,
    GroupAllows,
    Offline(usize),
    Online(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Approve),
        1 => Just(Event::Reject),
        1 => Just(Event::Withdraw),
        1 => Just(Event::PoliciesBreak),
        2 => Just(Event::PoliciesAreBack),
        1 => Just(Event::GroupAsks),
        1 => Just(Event::GroupAllows),
        1 => (1..7usize).prop_map(Event::Offline),
        2 => (1..7usize).prop_map(Event::Online),
    ]
}

impl Event {
    fn happens(&self, world: &mut World) {
        match self {
            Event::Approve | Event::Reject => {
                let known = world.status("november").rollback_approval;
                let request = known.map(|known| known.asked.request).unwrap_or_default();
                let open =
                    world.approvals.get(&request).is_some_and(|all| all.spec.decision.is_none());
                if open {
                    let is_yes = matches!(self, Event::Approve);
                    decide(world, if is_yes { Decided::Approve } else { Decided::Reject }, "bob");
                }
            }
            Event::Withdraw => {
                world.approvals.retain(|_, all| all.spec.decision != Some(Decided::Approve));
            }
            Event::PoliciesBreak => {
                world.approval_policy = ApprovalPolicy::Broken { why: "one is missing".to_owned() };
            }
            Event::PoliciesAreBack => world.approval_policy = World::new().approval_policy,
            Event::GroupAsks => {
                world.groups.get_mut("ward").unwrap().spec.rollback = RollbackPolicy::Ask;
            }
            Event::GroupAllows => {
                world.groups.get_mut("ward").unwrap().spec.rollback = RollbackPolicy::Allow;
            }
            Event::Offline(number) => world.set_online(&format!("ward-{number}"), false),
            Event::Online(number) => world.set_online(&format!("ward-{number}"), true),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// The devices' own permits are the witness; every plan is looked at a second time on the way.
    #[test]
    fn no_more_devices_are_taken_back_than_the_share_or_an_approval_lets(
        scripts in vec(select(&[Script::Good, Script::Good, Script::ServiceDown, Script::Reverted, Script::Damaged]), 6),
        share in 0..5usize,
        scope in select(&["Device", "Stage"]),
        failures in 0..4usize,
        at_once in 1..4usize,
        events in vec((0..200u32, event()), 0..12),
    ) {
        let mut world = World::new();
        world.group("ward");
        for (index, script) in scripts.iter().enumerate() {
            let name = format!("ward-{}", index + 1);
            world.device(&name, "ward", SERVER);
            world.agents.get_mut(&name).unwrap().script = *script;
        }
        world.rollout("november", &format!(
            "{{updates: {{select: {{release: 2026-11}}}}, authors: [alice], correlatedFailures: {{devices: 0}}, \
             onFailure: {{action: Rollback, scope: {scope}, maxConcurrency: {at_once}, approvalAbove: {share}}}, \
             stages: [{{name: ward, group: ward, maxConcurrency: {at_once}, maxFailures: {failures}}}]}}"
        ));
        let mut approved = 0;
        for minute in 0..240 {
            for (_, event) in events.iter().filter(|(at, _)| *at == minute) {
                event.happens(&mut world);
            }
            let known = world.status("november").rollback_approval;
            let passed = known.filter(|known| known.state == GateState::Passed);
            approved = approved.max(passed.map_or(0, |known| known.up_to as usize));
            world.minute(|_| {});
            let known = world.status("november").rollback_approval;
            let passed = known.filter(|known| known.state == GateState::Passed);
            approved = approved.max(passed.map_or(0, |known| known.up_to as usize));
            let taken: BTreeSet<&str> = uninstalls(&world).into_iter().collect();
            prop_assert!(taken.len() <= share.max(approved), "{taken:?}, {share} or {approved}");
        }
    }
}
