//! A rollout ends another one by the word of a second person: who is asked, what is kept of it, and what
//! becomes of it afterwards.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use jiff::SignedDuration;
use support::{SERVER, World};
use wardring_api::{
    ApprovalPhase, Decided, GateMode, Latch, PatchRolloutStatus, PermitStep, RolloutPhase,
    StageState,
};
use wardring_planner::{Action, Plan, RolloutRef, Snapshot, check, plan};

const GATES: &str = "gates: {before: [{name: sign-off, type: Approval}]}";

/// Two servers that have begun one after the other with November's update.
fn world(minutes: u32) -> World {
    let mut world = World::new();
    world.group("test");
    for name in ["test-1", "test-2"] {
        world.device(name, "test", SERVER);
    }
    world.device("prod-1", "production", SERVER);
    world.rollout(
        "november",
        "{updates: {select: {release: 2026-11}}, stages: [{name: test, group: test, maxConcurrency: 1}]}",
    );
    world.settle();
    pass(&mut world, minutes);
    world
}

fn fix(gates: &str) -> String {
    format!(
        "
authors: [alice]
updates: {{kbs: [KB5068787]}}
supersedes: november
stages:
- {{name: first, group: test, maxConcurrency: 2, minProven: 0, {gates}}}
- {{name: second, selector: {{matchLabels: {{stage: production}}}}, minProven: 0, {GATES}}}"
    )
}

fn pass(world: &mut World, minutes: u32) {
    for _ in 0..minutes {
        world.minute(|_| {});
    }
}

fn is_stopped(world: &World) -> bool {
    let status = world.status("november");
    status.halted.is_some() || status.aborted.is_some()
}

fn installs(world: &World, rollout: &str) -> usize {
    let uid = world.rollouts[rollout].metadata.uid.clone().unwrap();
    let installs = world.permits.iter().filter(|given| given.step == PermitStep::Install);
    installs.filter(|given| given.rollout == rollout || given.rollout == uid).count()
}

fn waits(world: &World) -> (String, String) {
    let first = world.status("fix").waiting_for[0].clone();
    (first.reason, first.message)
}

#[test]
fn where_nobody_else_is_asked_before_the_first_device_nothing_starts_and_nobody_ends() {
    let cases = [
        ("no gate", "minDevices: 1".to_owned()),
        ("on trial", GATES.replace("Approval", "Approval, mode: DryRun")),
        (
            "by its author",
            GATES.replace("Approval", "Approval, approval: {authorMayApprove: true}"),
        ),
        ("too late", GATES.replace("before", "after")),
    ];
    for (why, gates) in cases {
        let mut world = world(1);
        world.approved_rollout("fix", &fix(&gates));
        let (reason, message) = waits(&world);
        assert_eq!(reason, "SupersedesUnapproved", "{why}");
        assert_eq!(
            message,
            "It would end rollout november, and that needs a second person. Nothing starts; give its first stage \
             an enforced gate of type Approval in `gates.before`, without `authorMayApprove`, or make it anew \
             with one.",
            "{why}"
        );
        pass(&mut world, 180);
        assert_eq!(installs(&world, "fix"), 0, "{why}");
        assert!(!is_stopped(&world), "{why}");
        assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed), "{why}");
    }
}

#[test]
fn a_gate_that_is_added_mends_it() {
    let mut world = world(1);
    world.approved_rollout("fix", &fix("minDevices: 1"));
    let whole: wardring_api::PatchRolloutSpec = serde_yaml::from_str(&fix(GATES)).unwrap();
    world.edit("fix", |spec| spec.stages[0].gates = whole.stages[0].gates.clone());
    world.settle();
    assert_eq!(waits(&world).0, "AwaitingApproval");
    assert!(!is_stopped(&world));
    world.say_yes("fix", "bob");
    world.settle();
    assert!(is_stopped(&world));
}

#[test]
fn until_somebody_else_has_agreed_the_older_one_goes_on() {
    for by in [None, Some("alice"), Some("system:serviceaccount:wardring:wardring-controller")] {
        let mut world = world(1);
        world.rollout("fix", &fix(GATES));
        world.settle();
        if let Some(by) = by {
            world.say_yes("fix", by);
        }
        pass(&mut world, 180);
        assert_eq!(world.status("fix").stages[0].state, StageState::Gated, "{by:?}");
        assert!(!is_stopped(&world), "{by:?}");
        assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed), "{by:?}");
    }
}

#[test]
fn of_two_who_are_asked_both_have_to_agree() {
    let gates =
        "gates: {before: [{name: change-board, type: Approval}, {name: on-call, type: Approval}]}";
    let mut world = world(1);
    world.rollout("fix", &fix(gates));
    world.settle();
    let asked = world.status("fix").stages[0].gates[0].approval.clone().unwrap();
    let spec = &mut world.approvals.get_mut(&asked.request).unwrap().spec;
    (spec.decision, spec.approver) = (Some(Decided::Approve), Some("bob".to_owned()));
    spec.reason = Some("CHG-1".to_owned());
    pass(&mut world, 5);
    assert!(!is_stopped(&world));
    world.say_yes("fix", "carol");
    world.settle();
    let takeover = world.status("fix").takeover.unwrap();
    let by: Vec<&str> = takeover.approvals.iter().map(|said| said.by.as_str()).collect();
    assert_eq!(by, ["bob", "carol"]);
    let halted = world.status("november").halted.unwrap().message;
    assert!(
        halted.starts_with("Rollout fix takes its place, as bob and carol approved: "),
        "{halted}"
    );
}

#[test]
fn whoever_is_asked_reads_what_ends_and_the_record_keeps_whose_word_it_was() {
    let mut world = world(1);
    world.rollout("fix", &fix(GATES));
    world.settle();
    let asked = world.status("fix").stages[0].gates[0].clone();
    let ends = "shows what is asked. Rollout november ends once the stage opens.";
    assert!(asked.message.as_ref().unwrap().contains(ends), "{:?}", asked.message);
    let asked = asked.approval.unwrap();
    assert!(asked.parts.iter().any(|part| part.starts_with("superseded rollout=")), "{asked:?}");

    world.say_yes("fix", "bob");
    world.settle();
    let takeover = world.status("fix").takeover.unwrap();
    assert_eq!(takeover.rollout, "november");
    let said = &takeover.approvals[0];
    assert_eq!((&*said.by, &*said.reason, &said.approval), ("bob", "INC-4711", &asked.request));
    let approval = world.approvals[&asked.request].status.clone().unwrap();
    assert_eq!(approval.phase, Some(ApprovalPhase::Used));
    assert_eq!(
        approval.message.unwrap(),
        "Stage first: bob approved it (gate sign-off), and that rollout november ends for it: INC-4711."
    );
    let told = "It takes the place of rollout november, as bob approved.";
    assert!(world.events.iter().any(|event| event.ends_with(told)), "{:?}", world.events);

    // The next stage's approval is about that stage alone.
    pass(&mut world, 90);
    let second = world.status("fix").stages[1].gates[0].clone();
    assert!(!second.message.clone().unwrap().contains("november"), "{:?}", second.message);
    let kept = world.status("fix").takeover;
    assert_eq!(kept, Some(takeover), "what happened stays in the record");
}

#[test]
fn what_becomes_of_the_word_after_the_opening_changes_nothing_for_the_older_one() {
    type Change = fn(&mut World);
    let changes: [(&str, Change); 6] = [
        ("edited", |world| {
            world.edit("fix", |spec| {
                spec.stages[0].max_concurrency = Some(wardring_api::Cap::Count(1))
            })
        }),
        ("deleted", |world| world.approvals.clear()),
        ("an author now", |world| world.edit("fix", |spec| spec.authors.push("bob".to_owned()))),
        ("asked anew", |world| world.retry("fix")),
        ("expired", |world| world.now += SignedDuration::from_hours(24 * 8)),
        ("policies gone", |world| {
            let why = "somebody deleted them".to_owned();
            world.approval_policy = wardring_planner::ApprovalPolicy::Broken { why };
        }),
    ];
    for (how, change) in changes {
        // test-1 is at work, so the older one takes a while to end; or the stage has opened in this very moment.
        for at_once in [false, true] {
            let mut world = world(4);
            assert!(world.jobs["test-1"].may_have_begun());
            world.rollout("fix", &fix(GATES));
            world.settle();
            world.say_yes("fix", "bob");
            if at_once {
                until_it_opens(&mut world);
                assert!(!is_stopped(&world), "{how}");
            } else {
                world.settle();
                assert!(world.status("november").halted.is_some(), "{how}");
            }
            assert!(world.status("november").aborted.is_none(), "{how}");
            change(&mut world);
            let begun = installs(&world, "november");
            pass(&mut world, 240);
            assert_eq!(installs(&world, "november"), begun, "{how}");
            assert!(world.status("november").aborted.is_some(), "{how} {at_once}");
        }
    }
}

/// Writes until the first stage of the newer one has opened, and not a write further.
fn until_it_opens(world: &mut World) {
    for _ in 0..40 {
        for action in &world.plan().actions {
            world.apply(action);
            if world.status("fix").stages[0].state == StageState::Open {
                return;
            }
        }
    }
    panic!("it does not open: {:#?}", world.status("fix"));
}

/// As an older version left it, which asked nobody.
fn of_an_older_version(world: &mut World) {
    let rollout = world.rollouts.get_mut("fix").unwrap();
    rollout.spec.stages[0].gates = Default::default();
    let status = rollout.status.as_mut().unwrap();
    (status.takeover, status.stages[0].gates) = (None, Vec::new());
}

#[test]
fn what_an_older_version_began_is_brought_to_its_end() {
    let mut world = world(4);
    world.approved_rollout("fix", &fix(GATES));
    assert!(is_stopped(&world) && world.status("november").aborted.is_none());
    of_an_older_version(&mut world);
    pass(&mut world, 120);
    let ended = world.status("november").aborted.unwrap();
    assert_eq!(ended.message, "Rollout fix took its place.");
    assert_eq!(world.status("fix").stages[0].state, StageState::Completed);
}

#[test]
fn one_that_an_older_version_opened_and_that_ended_nobody_yet_waits_for_a_person() {
    // The older one goes on, or has halted for a reason of its own and holds its devices.
    for reason in [None, Some("FailureBudgetSpent")] {
        let mut world = world(4);
        world.rollout("fix", &fix(GATES));
        world.settle();
        world.say_yes("fix", "bob");
        until_it_opens(&mut world);
        of_an_older_version(&mut world);
        let (at, status) = (world.now, &mut world.rollouts.get_mut("november").unwrap().status);
        status.as_mut().unwrap().halted = reason.map(|reason| Latch {
            reason: reason.to_owned(),
            message: "Too many failed.".to_owned(),
            at,
            stage: None,
            uninstalls_nothing: false,
        });
        world.settle();
        assert!(world.status("november").aborted.is_none());
        let (reason, message) = waits(&world);
        assert_eq!(reason, "SupersedesUnapproved");
        assert!(message.contains("abort rollout november yourself"), "{message}");
        pass(&mut world, 3);
        assert_eq!(installs(&world, "fix"), 0);
        let abort = wardring_api::Abort { reason: "r".to_owned() };
        world.edit("november", |spec| spec.abort = Some(abort));
        pass(&mut world, 120);
        assert_eq!(world.status("fix").stages[0].state, StageState::Completed);
    }
}

/// The first plan that does it, with what it was made from.
fn plan_that(
    world: &mut World,
    does: impl Fn(&PatchRolloutStatus, &str) -> bool,
) -> (Snapshot, Plan) {
    for _ in 0..20 {
        let snapshot = world.snapshot();
        let plan = plan(&snapshot);
        assert_eq!(check(&snapshot, &plan), []);
        let is_it = |action: &Action| matches!(action, Action::WriteStatus { rollout, status } if does(status, &rollout.name));
        if plan.actions.iter().any(is_it) {
            return (snapshot, plan);
        }
        plan.actions.iter().for_each(|action| world.apply(action));
    }
    panic!("no plan does it: {:#?}", world.status("fix"));
}

/// What the second look says of a plan in which the rollout's status is written otherwise.
fn doubts(
    snapshot: &Snapshot,
    plan: &Plan,
    of: &str,
    change: impl Fn(&mut PatchRolloutStatus),
) -> Vec<String> {
    let mut forged = plan.clone();
    for action in &mut forged.actions {
        if let Action::WriteStatus { rollout: RolloutRef { name, .. }, status } = action
            && name == of
        {
            change(status);
        }
    }
    check(snapshot, &forged)
        .into_iter()
        .map(|all| format!("{} {}", all.rule, all.message))
        .collect()
}

fn asked() -> World {
    let mut world = world(1);
    world.rollout("fix", &fix(GATES));
    world.settle();
    world.say_yes("fix", "bob");
    world
}

#[test]
fn the_second_opinion_refuses_an_opening_without_a_word_that_it_read_itself() {
    let opens =
        |status: &PatchRolloutStatus, name: &str| name == "fix" && status.takeover.is_some();
    let (snapshot, plan) = plan_that(&mut asked(), opens);
    let says = |all: Vec<String>, why: &str| {
        assert!(all.iter().any(|one| one.contains(why)), "{why}: {all:?}")
    };
    says(
        doubts(&snapshot, &plan, "fix", |all| all.takeover = None),
        "S13 rollout fix would take another one's place: nobody's word is noted",
    );
    says(
        doubts(&snapshot, &plan, "fix", |all| all.takeover.as_mut().unwrap().approvals.clear()),
        "not everybody is asked and noted",
    );
    says(
        doubts(&snapshot, &plan, "fix", |all| {
            all.takeover.as_mut().unwrap().rollout = "october".to_owned()
        }),
        "it is not the one that it names",
    );
    says(
        doubts(&snapshot, &plan, "fix", |all| {
            all.takeover.as_mut().unwrap().approvals[0].by = "carol".to_owned()
        }),
        "what is noted is not what was said",
    );
    let mut unread = snapshot.clone();
    unread.approvals.clear();
    says(
        doubts(&unread, &plan, "fix", |_| {}),
        "S13 rollout fix would take another one's place: there is no such approval",
    );
    let mut dry = snapshot.clone();
    let newer =
        dry.rollouts.iter_mut().find(|all| all.metadata.name.as_deref() == Some("fix")).unwrap();
    std::sync::Arc::make_mut(newer).spec.stages[0].gates.before[0].mode = GateMode::DryRun;
    says(
        doubts(&dry, &plan, "fix", |_| {}),
        "S13 rollout fix would take another one's place: not everybody is asked and noted",
    );
    let mut forged = plan.clone();
    forged.actions.retain(|action| !matches!(action, Action::ConfirmApproval(_)));
    says(
        doubts(&snapshot, &forged, "fix", |_| {}),
        "S13 rollout fix would take another one's place: the approval is not read anew before",
    );
}

#[test]
fn the_second_opinion_refuses_a_halt_and_an_end_for_a_rollout_that_nobody_approved() {
    let stops =
        |status: &PatchRolloutStatus, name: &str| name == "november" && status.halted.is_some();
    let mut world = asked();
    let (snapshot, plan) = plan_that(&mut world, stops);
    let unasked = |snapshot: &Snapshot| {
        let mut unasked = snapshot.clone();
        let newer =
            unasked.rollouts.iter_mut().find(|all| all.metadata.name.as_deref() == Some("fix"));
        let newer = std::sync::Arc::make_mut(newer.unwrap());
        newer.status.as_mut().unwrap().takeover = None;
        unasked
    };
    let november = |plan: &Plan| {
        let is_it = |action: &Action| matches!(action, Action::WriteStatus { rollout, .. } if rollout.name == "november");
        let mut alone = plan.clone();
        alone.actions.retain(is_it);
        alone
    };
    assert_eq!(check(&snapshot, &november(&plan)), []);
    let found = check(&unasked(&snapshot), &november(&plan));
    assert!(
        found
            .iter()
            .any(|all| all.message == "rollout november would halt for another one unasked"),
        "{found:?}"
    );

    // One that halted for a reason of its own is ended without such a halt.
    let budget = |snapshot: &Snapshot| {
        let mut halted = snapshot.clone();
        let older =
            halted.rollouts.iter_mut().find(|all| all.metadata.name.as_deref() == Some("november"));
        let status = std::sync::Arc::make_mut(older.unwrap()).status.as_mut().unwrap();
        status.halted.as_mut().unwrap().reason = "FailureBudgetSpent".to_owned();
        halted
    };
    let (snapshot, plan) =
        plan_that(&mut world, |status, name| name == "november" && status.aborted.is_some());
    assert_eq!(check(&budget(&snapshot), &november(&plan)), []);
    let found = check(&unasked(&budget(&snapshot)), &november(&plan));
    assert!(
        found.iter().any(|all| all.message == "rollout november would end and nobody ordered it"),
        "{found:?}"
    );
}

#[test]
fn what_is_kept_of_a_takeover_is_never_written_otherwise() {
    let mut world = asked();
    let (snapshot, plan) = plan_that(&mut world, |status, name| {
        name == "fix" && status.stages[0].counts.in_progress > 0
    });
    let unseen = "S13 rollout fix would take another one's place unseen".to_owned();
    assert!(doubts(&snapshot, &plan, "fix", |all| all.takeover = None).contains(&unseen));
    assert!(
        doubts(&snapshot, &plan, "fix", |all| all.takeover.as_mut().unwrap().rollout =
            "x".to_owned())
        .contains(&unseen)
    );
}
