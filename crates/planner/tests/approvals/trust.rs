//! What must not move, open or vanish although somebody tries, or something is out of order.

use jiff::SignedDuration;
use wardring_api::{
    AlertKind, ApprovalPhase, Cap, Decided, GateState, PatchRolloutSpec, StageState,
};
use wardring_planner::{Action, ApprovalPolicy, Assumptions, alerts, approval_parts, forecast};

use super::*;

/// Every field of a stage that its schema has, with a value other than the default.
const FIELDS: &[(&str, &str)] = &[
    ("group", "other"),
    ("selector", "{matchLabels: {ward: '3'}}"),
    ("maxConcurrency", "7"),
    ("maxFailures", "3"),
    ("maxUnreachable", "3"),
    ("minDevices", "0"),
    ("minProven", "0"),
    ("minCoverage", "50%"),
    ("requireProven", "true"),
    ("soak", "1h"),
    ("progressDeadline", "30d"),
    ("startWithin", "12h"),
    ("silenceDeadline", "365d"),
    ("rebootSlowAfter", "1h"),
    ("rebootDeadline", "365d"),
    ("deviceDeadline", "30d"),
    ("offline", "{action: Fail}"),
    ("retry", "{maxAttempts: 9}"),
    ("windows", "[night]"),
    ("gates", "{before: [{name: sign-off, type: Approval, approval: {expiresAfter: 1h}}]}"),
];

#[test]
fn whatever_field_of_the_stage_changes_needs_another_word() {
    let crd = wardring_api::crd::all_crds().remove(0);
    let crd = serde_json::to_value(crd).unwrap();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let fields = &spec["properties"]["stages"]["items"]["properties"];
    let fields: Vec<&String> = fields.as_object().unwrap().keys().collect();
    let tried: Vec<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
    let world = gated(ASKS);
    let before = approval_parts(&world.rollouts["november"], "test").unwrap();
    for field in fields.into_iter().filter(|name| *name != "name") {
        let at = tried.iter().position(|name| name == field);
        let value = FIELDS[at.unwrap_or_else(|| panic!("try a value for {field}"))].1;
        let mut changed = world.rollouts["november"].clone();
        let mut stage = serde_json::to_value(&changed.spec.stages[0]).unwrap();
        stage[field] = serde_yaml::from_str(value).unwrap();
        changed.spec.stages[0] = serde_json::from_value(stage).unwrap();
        assert_ne!(approval_parts(&changed, "test").unwrap(), before, "{field}");
    }
    for change in
        [(|all: &mut PatchRolloutSpec| all.authors.push("bob".to_owned())) as fn(&mut _), |all| {
            all.correlated_failures = serde_yaml::from_str("{devices: 9}").unwrap()
        }]
    {
        let mut changed = world.rollouts["november"].clone();
        change(&mut changed.spec);
        assert_ne!(changed.spec, world.rollouts["november"].spec);
        assert_ne!(approval_parts(&changed, "test").unwrap(), before);
    }
}

#[test]
fn a_budget_that_nobody_approved_disarms_nothing() {
    let mut world = gated(ASKS);
    decide(&mut world, Decided::Approve, "bob");
    world.agents.get_mut("test-1").unwrap().script = support::agent::Script::ServiceDown;
    while world.permits.is_empty() {
        world.minute(|_| {});
    }
    world.edit("november", |spec| spec.stages[0].max_failures = Some(Cap::Count(100)));
    for _ in 0..300 {
        world.minute(|_| {});
    }
    let status = world.status("november");
    assert!(status.halted.is_some_and(|halt| halt.reason == "FailureBudgetSpent"));
    assert_eq!(status.stages[0].caps.unwrap().max_failures, 0);
}

#[test]
fn a_no_to_something_else_is_no_no_to_this() {
    let mut world = gated(ASKS);
    decide(&mut world, Decided::Approve, "bob");
    let mut typo = answer(&mut world, Decided::Reject, "carol");
    typo.subject = wardring_api::ApprovalSubject::stage_gate("test", "typo");
    make(&mut world, "typo", typo);
    world.settle();
    assert_eq!(stage(&world), StageState::Open);
    assert_eq!(phase(&world, "typo").0, ApprovalPhase::Void);
}

#[test]
fn where_only_a_service_account_wrote_it_nobody_knows_who_did() {
    let mut world = gated(ASKS);
    world.edit("november", |spec| {
        spec.authors = vec!["system:serviceaccount:flux-system:kustomize-controller".to_owned()];
    });
    world.settle();
    decide(&mut world, Decided::Approve, "alice");
    world.settle();
    assert_eq!(stage(&world), StageState::Gated);
    let (_, why) = phase(&world, &asked(&world).request);
    assert!(why.contains("nobody knows which person wrote it"), "{why}");
}

#[test]
fn a_no_is_remembered_also_while_nothing_may_move_at_all() {
    let mut world = gated(ASKS);
    world.guards.clock_trusted = false;
    decide(&mut world, Decided::Reject, "carol");
    world.settle();
    world.approvals.clear();
    world.guards.clock_trusted = true;
    minutes(&mut world, 3);
    assert_eq!(gate(&world).state, GateState::Failed);
}

#[test]
fn a_no_outlives_its_gate_becoming_another_one() {
    let mut world = gated(ASKS);
    decide(&mut world, Decided::Reject, "carol");
    world.settle();
    world.edit("november", |spec| {
        spec.stages[0].gates.before = serde_yaml::from_str(
            "[{name: sign-off, type: Cel, cel: {expression: stage.failed}, successCondition: result == 0}]",
        )
        .unwrap();
    });
    minutes(&mut world, 30);
    assert_eq!(gate(&world).state, GateState::Failed);
    assert_eq!(stage(&world), StageState::Gated);
}

#[test]
fn while_nobody_can_tell_what_was_said_stays_and_nothing_begins_by_it() {
    let mut world = gated(AND_A_PROBE);
    decide(&mut world, Decided::Approve, "bob");
    world.settle();
    let (known, told) = (world.approval_policy.clone(), world.events.len());
    world.approval_policy = ApprovalPolicy::default();
    world.meters.insert("errors".to_owned(), support::Meter::Value(0.0));
    minutes(&mut world, 10);
    assert_eq!(gate(&world).state, GateState::Passed);
    assert_eq!(stage(&world), StageState::Gated);
    let waits = world.status("november").waiting_for[0].message.clone();
    assert!(waits.contains("cannot be done now: nobody has looked"), "{waits}");
    world.approval_policy = known;
    minutes(&mut world, 3);
    assert_eq!(stage(&world), StageState::Open);
    assert!(world.events[told..].iter().all(|event| !event.contains("none counts now")));
}

#[test]
fn another_version_of_the_controller_takes_nothing_back_that_is_under_way() {
    let mut world = gated(ASKS);
    decide(&mut world, Decided::Approve, "bob");
    world.settle();
    let status = world.rollouts.get_mut("november").unwrap().status.as_mut().unwrap();
    let known = status.stages[0].gates[0].approval.as_mut().unwrap();
    known.parts = vec!["form=another".to_owned(), "caps=other".to_owned()];
    let mut edited = world.clone();
    world.settle();
    assert_eq!(gate(&world).state, GateState::Passed);
    world.edit("november", |spec| spec.stages[0].max_concurrency = Some(Cap::Count(2)));
    world.settle();
    assert_eq!(gate(&world).state, GateState::Waiting, "from then on a change is seen again");

    // Nor does a change slip through that was made while the one took the other's place.
    let old = edited.status("november").stages[0].caps.unwrap();
    edited.edit("november", |spec| {
        spec.stages[0].max_concurrency = Some(Cap::Count(2));
        spec.stages[0].max_failures = Some(Cap::Count(2));
    });
    edited.settle();
    assert_eq!(gate(&edited).state, GateState::Waiting);
    assert_eq!(edited.status("november").stages[0].caps.unwrap().max_failures, old.max_failures);
    // Also one of a time at which nothing was looked at.
    let mut stopped = edited.clone();
    decide(&mut stopped, Decided::Approve, "bob");
    stopped.settle();
    assert_eq!(gate(&stopped).state, GateState::Passed);
    stopped.edit("november", |spec| spec.suspend = Some(true));
    stopped.settle();
    stopped.edit("november", |spec| spec.stages[0].max_concurrency = Some(Cap::Count(9)));
    stopped.settle();
    let status = stopped.rollouts.get_mut("november").unwrap().status.as_mut().unwrap();
    let known = status.stages[0].gates[0].approval.as_mut().unwrap();
    known.parts = vec!["form=another".to_owned(), "caps=other".to_owned()];
    stopped.edit("november", |spec| spec.suspend = Some(false));
    stopped.settle();
    assert_eq!(gate(&stopped).state, GateState::Waiting);
}

#[test]
fn what_another_version_asked_and_nobody_used_is_asked_anew_and_says_why() {
    let mut world = gated(ASKS);
    let before = asked(&world);
    decide(&mut world, Decided::Approve, "bob");
    let status = world.rollouts.get_mut("november").unwrap().status.as_mut().unwrap();
    let known = status.stages[0].gates[0].approval.as_mut().unwrap();
    known.parts[0] = "form=another".to_owned();
    world.settle();
    assert_eq!(stage(&world), StageState::Gated);
    assert_ne!(asked(&world).hash, before.hash);
    let why = "the version of the controller changed since it was last asked";
    assert_eq!(asked(&world).because.as_deref(), Some(why));
    let (_, void) = phase(&world, &before.request);
    assert!(void.contains("version of the controller"), "{void}");
}

#[test]
fn whoever_suspends_for_an_upgrade_is_not_asked_anew() {
    let mut world = gated(ASKS);
    decide(&mut world, Decided::Approve, "bob");
    world.settle();
    world.edit("november", |spec| spec.suspend = Some(true));
    world.settle();
    let status = world.rollouts.get_mut("november").unwrap().status.as_mut().unwrap();
    status.stages[0].gates[0].approval.as_mut().unwrap().parts = vec!["form=another".to_owned()];
    world.settle();
    world.edit("november", |spec| spec.suspend = Some(false));
    world.settle();
    assert_eq!(gate(&world).state, GateState::Passed);
}

#[test]
fn a_restart_of_the_controller_asks_nobody_anew() {
    let mut world = gated(ASKS);
    decide(&mut world, Decided::Approve, "bob");
    world.settle();
    world.edit("november", |spec| spec.priority = Some(1));
    world.settle();
    let before = asked(&world);
    assert_eq!(before.generation, world.rollouts["november"].metadata.generation);
    let status = world.rollouts.get_mut("november").unwrap().status.as_mut().unwrap();
    status.stages[0].gates[0].approval.as_mut().unwrap().parts = vec!["form=another".to_owned()];
    world.settle();
    assert_eq!(asked(&world), before);
}

#[test]
fn two_who_are_asked_at_once_prolong_the_deadline_once() {
    let mut world = gated(
        "before: [{name: one, type: Approval, approval: {}}, {name: two, type: Approval, approval: {}}]",
    );
    let yes = |world: &mut World| {
        for name in world.approvals.keys().cloned().collect::<Vec<_>>() {
            let spec = &mut world.approvals.get_mut(&name).unwrap().spec;
            if spec.decision.is_none() {
                (spec.decision, spec.approver) = (Some(Decided::Approve), Some("bob".to_owned()));
                spec.reason = Some("yes".to_owned());
            }
        }
        world.settle();
    };
    yes(&mut world);
    assert_eq!(stage(&world), StageState::Open);
    minutes(&mut world, 10);
    assert_eq!(stage(&world), StageState::Open);
    world.edit("november", |spec| spec.stages[0].max_concurrency = Some(Cap::Count(2)));
    world.settle();
    minutes(&mut world, 5);
    yes(&mut world);
    let status = world.status("november");
    let (started, since) = (status.stages[0].started_at, status.stages[0].progress_since);
    let stood = since.unwrap().duration_since(started.unwrap());
    assert!((5..=6).contains(&stood.as_mins()), "it stood still for {stood:#}");
}

#[test]
fn a_person_who_decides_while_another_one_suspends_prolongs_the_deadline_once() {
    let mut world = gated(ASKS);
    decide(&mut world, Decided::Approve, "bob");
    world.settle();
    world.edit("november", |spec| spec.stages[0].max_concurrency = Some(Cap::Count(2)));
    world.settle();
    minutes(&mut world, 60);
    world.edit("november", |spec| spec.suspend = Some(true));
    world.settle();
    minutes(&mut world, 60);
    world.edit("november", |spec| spec.suspend = Some(false));
    world.settle();
    decide(&mut world, Decided::Approve, "bob");
    world.settle();
    assert_eq!(gate(&world).state, GateState::Passed);
    let since = world.status("november").stages[0].progress_since.unwrap();
    assert!(since <= world.now, "{since} lies ahead of {}", world.now);
}

#[test]
fn no_permit_is_given_while_what_begins_is_not_approved() {
    let mut world = gated(ASKS);
    decide(&mut world, Decided::Approve, "bob");
    world.settle();
    assert_eq!(world.jobs.len(), 1);
    world.edit("november", |spec| spec.stages[0].max_failures = Some(Cap::Count(2)));
    world.settle();
    let permits = world.permits.len();
    minutes(&mut world, 30);
    let installs = world.permits[permits..].iter();
    assert_eq!(installs.filter(|given| given.step == wardring_api::PermitStep::Install).count(), 0);
}

#[test]
fn what_a_person_writes_reaches_nobody_as_a_control_character() {
    let mut world = gated(ASKS);
    decide(&mut world, Decided::Reject, "carol");
    request(&mut world).spec.reason = Some(format!("no\n\u{1b}[31m{}", "x".repeat(65_536)));
    world.settle();
    let status = world.status("november");
    let text = serde_json::to_string(&status).unwrap();
    assert!(text.len() < 8_192, "{}", text.len());
    let message = gate(&world).message.unwrap();
    assert!(!message.chars().any(char::is_control), "{message:?}");
    assert!(message.contains("carol rejected it"), "{message}");
}

#[test]
fn what_a_person_writes_says_what_it_seems_to_say() {
    let mut world = gated(ASKS);
    decide(&mut world, Decided::Approve, "bob");
    request(&mut world).spec.reason =
        Some("f\u{200b}i\u{202e}n\u{ad}e\u{2028}\u{e0041}indeed".to_owned());
    world.settle();
    let message = gate(&world).message.unwrap();
    assert_eq!(message, "Stage test: bob approved it (gate sign-off): fine indeed.");
}

#[test]
fn an_approval_of_what_was_ended_before_it_began_says_so() {
    for deletes in [false, true] {
        let mut world = gated(AND_A_PROBE);
        decide(&mut world, Decided::Approve, "bob");
        world.settle();
        let name = asked(&world).request;
        assert_eq!(phase(&world, &name).0, ApprovalPhase::Approved);
        if deletes {
            world.delete_rollout("november");
        } else {
            world.edit("november", |spec| {
                spec.abort = serde_yaml::from_str("{reason: no}").unwrap()
            });
        }
        world.settle();
        assert_eq!(phase(&world, &name).0, ApprovalPhase::Void, "deleted: {deletes}");
    }
}

#[test]
fn whoever_makes_many_holds_up_no_pass() {
    let mut world = gated(ASKS);
    let word = answer(&mut world, Decided::Approve, "alice");
    for index in 0..120 {
        let strange = PatchApprovalSpec { rollout_uid: "another".to_owned(), ..word.clone() };
        make(&mut world, &format!("strange-{index}"), strange);
        make(&mut world, &format!("word-{index}"), word.clone());
    }
    let count = |plan: &wardring_planner::Plan, wanted: fn(&Action) -> bool| {
        plan.actions.iter().filter(|all| wanted(all)).count()
    };
    let plan = world.plan();
    assert_eq!(count(&plan, |all| matches!(all, Action::WriteApprovalStatus { .. })), 50);
    assert_eq!(plan.next_evaluation, Some(world.now + SignedDuration::from_secs(1)));
    world.settle();
    assert!((0..120).all(|index| phase(&world, &format!("word-{index}")).0 == ApprovalPhase::Void));

    world.now += SignedDuration::from_hours(1);
    let going = world.approvals.get_mut("strange-7").unwrap();
    going.metadata.deletion_timestamp = Some(support::api_time(world.now));
    let plan = world.plan();
    assert_eq!(count(&plan, |all| matches!(all, Action::DeleteApproval { .. })), 50);
    world.settle();
    let left: Vec<_> = world.approvals.keys().filter(|all| all.starts_with("strange")).collect();
    assert_eq!(left, ["strange-7"], "what is going already is not deleted over and over");
}

#[test]
fn approvals_are_the_audit_and_outlive_their_rollout() {
    let mut world = gated(ASKS);
    decide(&mut world, Decided::Approve, "bob");
    minutes(&mut world, 600);
    let name = asked(&world).request;
    world.delete_rollout("november");
    world.settle();
    assert_eq!(phase(&world, &name).0, ApprovalPhase::Used);
    assert!(phase(&world, &name).1.contains("bob approved it"));
    world.now += SignedDuration::from_hours(24 * 91);
    world.settle();
    assert!(world.approvals.is_empty());
}

#[test]
fn an_alert_says_that_a_person_is_wanted_and_ends_with_the_answer() {
    let mut world = gated(ASKS);
    let wanted = |world: &World| {
        let told = alerts(&world.snapshot()).active;
        told.into_iter().filter(|alert| alert.kind == AlertKind::ApprovalWanted).collect::<Vec<_>>()
    };
    let told = wanted(&world);
    assert_eq!(told.len(), 1);
    assert!(told[0].summary.contains("waits for a person's approval in stage test (2 devices"));
    minutes(&mut world, 10);
    assert_eq!(wanted(&world), told, "told once");
    decide(&mut world, Decided::Reject, "carol");
    world.settle();
    assert!(wanted(&world).is_empty());
}

#[test]
fn a_preview_says_that_a_person_is_waited_for_and_goes_on() {
    let world = gated(ASKS);
    let snapshot = world.snapshot();
    let uid = world.rollouts["november"].metadata.uid.clone().unwrap();
    let told = forecast(&snapshot, &uid, &Assumptions::default()).unwrap();
    assert!(
        told.notes
            .iter()
            .any(|note| note.contains("waits for a person's approval (gate sign-off)")),
        "{:?}",
        told.notes
    );
    assert!(told.stages[0].completes.is_some());
}
