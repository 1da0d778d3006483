//! Gates that wait for a person: whose word counts for what, and for how long.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

#[path = "../support/mod.rs"]
mod support;
mod trust;

use jiff::SignedDuration;
use support::{SERVER, World};
use wardring_api::{
    ApprovalPhase, Cap, Decided, GateApproval, GateState, GateStatus, LineState, PatchApproval,
    PatchApprovalSpec, RolloutPhase, StageState, conditions, reasons::Reason,
};
use wardring_planner::{Action, ApprovalPolicy, check, plan};

const ASKS: &str = "before: [{name: sign-off, type: Approval, approval: {expiresAfter: 24h}}]";

/// Two devices in one stage, with gates as the YAML says. alice wrote it.
fn gated(gates: &str) -> World {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    world.device("test-2", "test", SERVER);
    rollout(&mut world, gates);
    world.settle();
    world
}

fn rollout(world: &mut World, gates: &str) {
    let spec = format!(
        "{{updates: {{select: {{release: 2026-11}}}}, authors: [alice], stages: [{{name: test, \
         group: test, maxConcurrency: 1, gates: {{{gates}}}}}]}}"
    );
    world.rollout("november", &spec);
}

fn gate(world: &World) -> GateStatus {
    world.status("november").stages[0].gates[0].clone()
}

fn asked(world: &World) -> GateApproval {
    gate(world).approval.unwrap()
}

fn stage(world: &World) -> StageState {
    world.status("november").stages[0].state
}

fn request(world: &mut World) -> &mut PatchApproval {
    let name = asked(world).request;
    world.approvals.get_mut(&name).expect("the controller asks")
}

/// Somebody fills in the request that stands.
fn decide(world: &mut World, decision: Decided, by: &str) {
    let spec = &mut request(world).spec;
    spec.decision = Some(decision);
    spec.approver = Some(by.to_owned());
    spec.reason = Some("looked at it".to_owned());
}

/// Somebody, or Git, makes a whole object.
fn make(world: &mut World, name: &str, spec: PatchApprovalSpec) {
    let mut approval = PatchApproval::new(name, spec);
    world.next_uid += 1;
    approval.metadata.uid = Some(format!("{:08x}-{name}", world.next_uid));
    approval.metadata.creation_timestamp = Some(support::api_time(world.now));
    world.approvals.insert(name.to_owned(), approval);
}

/// A whole object that answers exactly what is asked now.
fn answer(world: &mut World, decision: Decided, by: &str) -> PatchApprovalSpec {
    let mut spec = request(world).spec.clone();
    spec.decision = Some(decision);
    spec.approver = Some(by.to_owned());
    spec.reason = Some("looked at it".to_owned());
    spec
}

fn phase(world: &World, name: &str) -> (ApprovalPhase, String) {
    let status = world.approvals[name].status.clone().unwrap();
    (status.phase.unwrap(), status.message.unwrap())
}

fn minutes(world: &mut World, count: usize) {
    for _ in 0..count {
        world.minute(|_| {});
    }
}

#[test]
fn a_stage_opens_only_with_a_persons_word() {
    let mut world = gated(ASKS);
    assert_eq!(stage(&world), StageState::Gated);
    let status = world.status("november");
    assert!(conditions::is_true(&status.conditions, conditions::AWAITING_APPROVAL));
    assert_eq!(status.waiting_for[0].reason, "AwaitingApproval");
    assert!(status.waiting_for[0].message.contains("2 devices"), "{:?}", status.waiting_for);
    assert!(status.waiting_for[0].until.is_some());
    assert_eq!(phase(&world, &asked(&world).request).0, ApprovalPhase::Asked);
    assert_eq!(request(&mut world).spec.authors, ["alice"]);
    minutes(&mut world, 30);
    assert_eq!(stage(&world), StageState::Gated);

    decide(&mut world, Decided::Approve, "bob");
    world.settle();
    assert_eq!(stage(&world), StageState::Open);
    let message = gate(&world).message.unwrap();
    assert_eq!(message, "Stage test: bob approved it (gate sign-off): looked at it.");
    assert_eq!(phase(&world, &asked(&world).request).0, ApprovalPhase::Used);
    let status = world.status("november");
    assert!(!conditions::is_true(&status.conditions, conditions::AWAITING_APPROVAL));
    // After use it may go; nothing depends on it any more.
    world.approvals.clear();
    minutes(&mut world, 600);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
}

#[test]
fn the_author_and_our_own_processes_approve_nothing() {
    for by in ["alice", "system:serviceaccount:wardring-system:wardring-controller", ""] {
        let mut world = gated(ASKS);
        decide(&mut world, Decided::Approve, by);
        world.settle();
        assert_eq!(stage(&world), StageState::Gated, "{by}");
        assert_eq!(phase(&world, &asked(&world).request).0, ApprovalPhase::Void, "{by}");
    }
    let mut world =
        gated("before: [{name: sign-off, type: Approval, approval: {authorMayApprove: true}}]");
    assert!(request(&mut world).spec.authors.is_empty());
    decide(&mut world, Decided::Approve, "alice");
    world.settle();
    assert_eq!(stage(&world), StageState::Open);
}

#[test]
fn a_rollout_whose_authors_nobody_vouches_for_needs_to_be_made_anew() {
    let mut world = gated(ASKS);
    // In the same second nobody knows what came first.
    let since = world.now;
    world.approval_policy = ApprovalPolicy::Intact { fingerprint: "policies-1".to_owned(), since };
    decide(&mut world, Decided::Approve, "bob");
    world.settle();
    assert_eq!(stage(&world), StageState::Gated);
    let (_, why) = phase(&world, &asked(&world).request);
    assert!(why.contains("older than the admission policies"), "{why}");
}

#[test]
fn an_approval_of_another_rollout_or_an_older_one_of_that_name_counts_for_nothing() {
    let mut world = gated(ASKS);
    let old = answer(&mut world, Decided::Approve, "bob");
    world.delete_rollout("november");
    world.settle();
    rollout(&mut world, ASKS);
    world.settle();
    let new = answer(&mut world, Decided::Approve, "bob");
    assert_ne!(old.approval_hash, new.approval_hash);
    make(&mut world, "old", old.clone());
    // Nor one that mixes what is asked with another rollout, stage or gate.
    let mixed = |change: fn(&mut PatchApprovalSpec)| {
        let mut spec = new.clone();
        change(&mut spec);
        spec
    };
    let wrong = [
        mixed(|spec| spec.rollout = "december".to_owned()),
        mixed(|spec| spec.rollout_uid = "00000001-november".to_owned()),
        mixed(|spec| spec.subject = wardring_api::ApprovalSubject::stage_gate("prod", "sign-off")),
        mixed(|spec| spec.subject = wardring_api::ApprovalSubject::stage_gate("test", "other")),
        PatchApprovalSpec { approval_hash: old.approval_hash.clone(), ..new.clone() },
    ];
    for (index, spec) in wrong.into_iter().enumerate() {
        make(&mut world, &format!("wrong-{index}"), spec);
    }
    world.settle();
    assert_eq!(stage(&world), StageState::Gated);
    for name in ["wrong-0", "wrong-2", "wrong-3", "wrong-4"] {
        assert_eq!(phase(&world, name).0, ApprovalPhase::Void, "{name}");
    }
    // What names no rollout that is known is worth no write, and not kept for long.
    for name in ["old", "wrong-1"] {
        assert_eq!(world.approvals[name].status, None, "{name}");
    }
    let mut later = world.clone();
    later.now += SignedDuration::from_hours(1);
    later.settle();
    assert!(!later.approvals.contains_key("old") && later.approvals.contains_key("wrong-0"));
    make(&mut world, "right", new);
    world.settle();
    assert_eq!(stage(&world), StageState::Open);
}

#[test]
fn a_retry_asks_anew_and_what_was_used_opens_nothing_again() {
    let mut world = gated(ASKS);
    let first = asked(&world);
    let spec = answer(&mut world, Decided::Approve, "bob");
    make(&mut world, "bobs", spec);
    world.settle();
    assert_eq!(stage(&world), StageState::Open);
    world.agents.get_mut("test-1").unwrap().script = support::agent::Script::InstallFails;
    for _ in 0..600 {
        world.minute(|_| {});
        if world.status("november").halted.is_some() {
            break;
        }
    }
    assert!(world.status("november").halted.is_some(), "the failure halts the rollout");
    world.agents.get_mut("test-1").unwrap().script = support::agent::Script::Good;
    world.now += SignedDuration::from_mins(1);
    world.retry("november");
    minutes(&mut world, 120);
    let again = asked(&world);
    assert_eq!(again.round, 2);
    assert_ne!(again.hash, first.hash);
    assert_ne!(world.state("november", "test-2"), Some(LineState::Granted));
    assert_eq!(gate(&world).state, GateState::Waiting);
    assert!(again.because.unwrap().contains("retry"));
    assert!(world.jobs.is_empty(), "nothing starts meanwhile");

    decide(&mut world, Decided::Approve, "bob");
    // The time to decide is not lack of progress, however long it took.
    minutes(&mut world, 600);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
}

#[test]
fn a_changed_cap_voids_an_approval_and_says_so() {
    let mut world = gated(ASKS);
    let name = asked(&world).request;
    world.edit("november", |spec| spec.stages[0].max_concurrency = Some(Cap::Count(2)));
    // What was reviewed before the edit arrives after it.
    let spec = world.approvals.get_mut(&name).map(|all| &mut all.spec).unwrap();
    spec.decision = Some(Decided::Approve);
    spec.approver = Some("bob".to_owned());
    spec.reason = Some("one at a time is fine".to_owned());
    world.settle();
    assert_eq!(stage(&world), StageState::Gated);
    let (state, why) = phase(&world, &name);
    assert_eq!((state, why.contains("the caps changed")), (ApprovalPhase::Void, true), "{why}");
    let message = gate(&world).message.unwrap();
    assert!(message.contains("because the caps changed"), "{message}");
    assert_ne!(asked(&world).request, name);

    // Also in a stage that is open: what begins from then on needs another word.
    decide(&mut world, Decided::Approve, "bob");
    world.settle();
    assert_eq!(stage(&world), StageState::Open);
    let started = world.jobs.len();
    world.edit("november", |spec| spec.stages[0].max_concurrency = Some(Cap::Count(9)));
    minutes(&mut world, 600);
    assert_eq!(gate(&world).state, GateState::Waiting);
    assert!(world.lines().iter().filter(|(_, _, line)| line.attempt > 0).count() <= started.max(2));
}

#[test]
fn a_rejection_stays_whatever_becomes_of_its_object() {
    for deleted in [true, false] {
        let mut world = gated(ASKS);
        decide(&mut world, Decided::Reject, "carol");
        let yes = answer(&mut world, Decided::Approve, "bob");
        make(&mut world, "aaa-sooner", yes.clone());
        world.settle();
        assert_eq!(gate(&world).state, GateState::Failed, "a rejection goes before an approval");
        if deleted {
            world.approvals.clear();
        }
        make(&mut world, "later", yes);
        minutes(&mut world, 30);
        assert_eq!(stage(&world), StageState::Gated);
        let status = world.status("november");
        assert_eq!(status.waiting_for[0].reason, "ApprovalRejected");
        assert!(status.waiting_for[0].message.contains("carol rejected it"), "{status:?}");
        // Nor does another cap, or a gate that is taken out, do away with it.
        world.edit("november", |spec| spec.stages[0].max_concurrency = Some(Cap::Count(2)));
        minutes(&mut world, 3);
        assert_eq!(gate(&world).state, GateState::Failed);
        world.edit("november", |spec| spec.stages[0].gates.before.clear());
        minutes(&mut world, 3);
        assert_eq!(stage(&world), StageState::Gated);
        assert_eq!(world.status("november").waiting_for[0].reason, "ApprovalRejected");
    }
}

#[test]
fn a_rejection_is_remembered_also_while_the_rollout_is_suspended() {
    let mut world = gated(ASKS);
    world.edit("november", |spec| spec.suspend = Some(true));
    world.settle();
    decide(&mut world, Decided::Reject, "carol");
    world.settle();
    world.approvals.clear();
    world.edit("november", |spec| spec.suspend = Some(false));
    minutes(&mut world, 3);
    assert_eq!(gate(&world).state, GateState::Failed);
}

#[test]
fn a_rejection_halts_where_the_gate_says_so_and_a_retry_asks_anew() {
    let mut world =
        gated("before: [{name: sign-off, type: Approval, onFailure: Halt, approval: {}}]");
    decide(&mut world, Decided::Reject, "carol");
    world.settle();
    let halted = world.status("november").halted.unwrap();
    assert_eq!(halted.reason, Reason::ApprovalRejected.as_str());
    assert!(halted.message.contains("carol rejected it"), "{halted:?}");
    world.now += SignedDuration::from_mins(1);
    world.retry("november");
    world.settle();
    assert_eq!(world.status("november").halted, None);
    assert_eq!(gate(&world).state, GateState::Waiting);
    assert_eq!(asked(&world).round, 2);
    decide(&mut world, Decided::Approve, "bob");
    world.settle();
    assert_eq!(stage(&world), StageState::Open);
}

const AND_A_PROBE: &str = "before: [{name: sign-off, type: Approval, approval: {expiresAfter: 24h}}, \
     {name: errors, type: Prometheus, prometheus: {provider: prom, query: q}, \
     successCondition: result < 1}]";

#[test]
fn deleting_an_approval_before_its_use_withdraws_it() {
    let mut world = gated(AND_A_PROBE);
    decide(&mut world, Decided::Approve, "bob");
    world.settle();
    assert_eq!(gate(&world).state, GateState::Passed);
    assert_eq!(phase(&world, &asked(&world).request).0, ApprovalPhase::Approved);
    world.approvals.clear();
    world.settle();
    assert_eq!(gate(&world).state, GateState::Waiting);
    assert_eq!(request(&mut world).spec.decision, None, "it is asked again");
}

#[test]
fn an_approval_that_is_not_used_in_time_expires_by_the_snapshots_clock() {
    let mut world = gated(AND_A_PROBE);
    decide(&mut world, Decided::Approve, "bob");
    world.settle();
    let name = asked(&world).request;
    world.now += SignedDuration::from_hours(24) - SignedDuration::from_secs(1);
    world.settle();
    assert_eq!(gate(&world).state, GateState::Passed);
    let next = world.plan().next_evaluation.unwrap();
    assert!(next <= world.now + SignedDuration::from_secs(1), "nobody would look again in time");
    world.now += SignedDuration::from_secs(1);
    world.settle();
    assert_eq!(gate(&world).state, GateState::Waiting);
    assert_ne!(asked(&world).request, name);
    assert!(asked(&world).because.unwrap().contains("expired"));

    let mut spec = answer(&mut world, Decided::Approve, "bob");
    spec.expires_at = Some(world.now);
    make(&mut world, "late", spec);
    world.settle();
    assert_eq!(gate(&world).state, GateState::Waiting, "by its own end, too");
}

#[test]
fn what_was_approved_while_the_policies_were_weak_does_not_count_when_they_are_put_back() {
    let mut world = gated(ASKS);
    let before = asked(&world);
    world.approval_policy = ApprovalPolicy::Broken { why: "wardring-approvals is missing".into() };
    decide(&mut world, Decided::Approve, "boss");
    world.settle();
    assert_eq!(stage(&world), StageState::Gated);
    let waits = world.status("november").waiting_for[0].clone();
    assert_eq!(waits.reason, "ApprovalPolicyBroken");
    assert!(waits.message.contains("wardring-approvals is missing"), "{waits:?}");

    let since = world.now;
    world.approval_policy = ApprovalPolicy::Intact {
        fingerprint: "policies-3".to_owned(),
        since: support::start() - SignedDuration::from_hours(1),
    };
    let _ = since;
    minutes(&mut world, 3);
    assert_eq!(stage(&world), StageState::Gated);
    assert_ne!(asked(&world).hash, before.hash);
    assert_eq!(phase(&world, &before.request).0, ApprovalPhase::Void);
    assert!(asked(&world).because.unwrap().contains("policies were changed"));
}

#[test]
fn also_if_nobody_looked_while_they_were_weak() {
    let mut world = gated(ASKS);
    decide(&mut world, Decided::Approve, "boss");
    world.approval_policy = ApprovalPolicy::Intact {
        fingerprint: "policies-3".to_owned(),
        since: support::start() - SignedDuration::from_hours(1),
    };
    minutes(&mut world, 3);
    assert_eq!(stage(&world), StageState::Gated);
}

#[test]
fn nothing_is_asked_that_could_be_answered_before() {
    let world = gated(ASKS);
    let mut snapshot = world.snapshot();
    snapshot.nonce.clear();
    let mut fresh = (*snapshot.rollouts[0]).clone();
    fresh.status.as_mut().unwrap().stages[0].gates.clear();
    snapshot.rollouts[0] = fresh.into();
    let plan = plan(&snapshot);
    let writes = plan.actions.iter().filter_map(|action| match action {
        Action::WriteStatus { status, .. } => Some(status.stages[0].gates[0].approval.clone()),
        _ => None,
    });
    assert!(writes.flatten().all(|asked| asked.hash.is_empty()));
}

#[test]
fn an_approval_is_read_anew_before_the_write_that_relies_on_it() {
    let mut world = gated(ASKS);
    decide(&mut world, Decided::Approve, "bob");
    let mut confirmed = 0;
    while stage(&world) != StageState::Open {
        let plan = world.plan();
        let position = |wanted: fn(&Action) -> bool| plan.actions.iter().position(wanted);
        let confirm = position(|all| matches!(all, Action::ConfirmApproval(_)));
        let write = position(|all| matches!(all, Action::WriteStatus { .. })).unwrap();
        confirmed += usize::from(confirm.is_some_and(|confirm| confirm < write));
        // Without it, the plan is refused.
        let mut without = plan.clone();
        without.actions.retain(|all| !matches!(all, Action::ConfirmApproval(_)));
        let violations = check(&world.snapshot(), &without);
        assert_eq!(confirm.is_some(), !violations.is_empty(), "{violations:?}");
        plan.actions.iter().for_each(|action| world.apply(action));
    }
    assert_eq!(confirmed, 2, "when it passes, and when the stage opens");
}

#[test]
fn a_plan_that_opens_by_nobodys_word_is_refused() {
    let mut world = gated(ASKS);
    decide(&mut world, Decided::Approve, "bob");
    let snapshot = world.snapshot();
    let plan = plan(&snapshot);
    assert!(check(&snapshot, &plan).is_empty());
    let refuses = |spoil: &dyn Fn(&mut wardring_planner::Snapshot)| {
        let mut other = snapshot.clone();
        spoil(&mut other);
        !check(&other, &plan).is_empty()
    };
    let change = |change: fn(&mut PatchApproval)| {
        move |snapshot: &mut wardring_planner::Snapshot| {
            let mut approval = (*snapshot.approvals[0]).clone();
            change(&mut approval);
            snapshot.approvals[0] = approval.into();
        }
    };
    assert!(refuses(&|snapshot| snapshot.approvals.clear()));
    assert!(refuses(&change(|all| all.spec.decision = Some(Decided::Reject))));
    assert!(refuses(&change(|all| all.spec.decision = None)));
    assert!(refuses(&change(|all| all.spec.approver = Some("alice".to_owned()))));
    assert!(refuses(&change(|all| all.spec.rollout_uid = "another".to_owned())));
    assert!(refuses(&change(|all| all.spec.approval_hash = "v1:0".to_owned())));
    assert!(refuses(&change(|all| all.metadata.uid = Some("another".to_owned()))));
    assert!(refuses(&|snapshot| snapshot.approval_policy = ApprovalPolicy::default()));
    assert!(refuses(&|snapshot| snapshot.now += SignedDuration::from_hours(24)));
    let says = |spoil: &dyn Fn(&mut wardring_planner::Snapshot)| {
        let mut other = snapshot.clone();
        spoil(&mut other);
        check(&other, &plan).into_iter().map(|all| all.message).collect::<String>()
    };
    let ours = "system:serviceaccount:wardring-system:wardring-gateway";
    let ours = says(&|snapshot| {
        let mut approval = (*snapshot.approvals[0]).clone();
        approval.spec.approver = Some(ours.to_owned());
        snapshot.approvals[0] = approval.into();
    });
    assert!(ours.contains("one of our own processes approved it"), "{ours}");
    let another = says(&|snapshot| {
        let mut rollout = (*snapshot.rollouts[0]).clone();
        rollout.spec.stages[0].soak = Some(wardring_api::Span::from_hours(1));
        snapshot.rollouts[0] = rollout.into();
    });
    assert!(another.contains("is not what would happen"), "{another}");
}

#[test]
fn the_next_stage_waits_for_an_approval_after_the_one_before() {
    let mut world = gated("after: [{name: done, type: Approval, approval: {}}]");
    minutes(&mut world, 600);
    assert_eq!(stage(&world), StageState::Soaking);
    assert_eq!(world.status("november").waiting_for[0].reason, "AwaitingApproval");
    decide(&mut world, Decided::Approve, "bob");
    minutes(&mut world, 3);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
    assert_eq!(phase(&world, &asked(&world).request).0, ApprovalPhase::Used);
}

#[test]
fn what_was_said_after_a_soak_does_not_count_after_the_next_one() {
    let mut world = gated(
        "during: [{name: errors, type: Prometheus, interval: 1m, prometheus: {provider: p, query: q}, \
         successCondition: result < 1}], after: [{name: done, type: Approval, approval: {}}, \
         {name: calm, type: Prometheus, prometheus: {provider: p, query: q}, successCondition: result < 1}]",
    );
    world.meters.insert("errors".to_owned(), support::Meter::Value(0.0));
    minutes(&mut world, 600);
    let gates = |world: &World| world.status("november").stages[0].gates.clone();
    let done = |world: &World| gates(world).into_iter().find(|gate| gate.name == "done").unwrap();
    let say = |world: &mut World, decision| {
        let request = done(world).approval.unwrap().request;
        let spec = &mut world.approvals.get_mut(&request).unwrap().spec;
        (spec.decision, spec.approver) = (Some(decision), Some("bob".to_owned()));
        spec.reason = Some("calm".to_owned());
        world.settle();
    };
    let worry = |world: &mut World, errors: f64| {
        world.meters.insert("errors".to_owned(), support::Meter::Value(errors));
        minutes(world, 10);
    };
    let first = done(&world).approval.unwrap();
    say(&mut world, Decided::Approve);
    assert_eq!(done(&world).state, GateState::Passed);
    worry(&mut world, 5.0);
    assert_eq!(stage(&world), StageState::Open, "the soak is no soak");
    worry(&mut world, 0.0);
    assert_eq!(stage(&world), StageState::Soaking);
    assert_eq!(done(&world).state, GateState::Waiting);
    assert_ne!(done(&world).approval.unwrap().hash, first.hash);

    say(&mut world, Decided::Reject);
    world.approvals.clear();
    worry(&mut world, 5.0);
    worry(&mut world, 0.0);
    assert_eq!(done(&world).state, GateState::Failed, "a no outlives the soak");
}
