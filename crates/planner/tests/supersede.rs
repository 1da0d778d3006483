//! A rollout that takes the place of an older one (`spec.supersedes`).
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use jiff::SignedDuration;
use support::{
    SERVER, World,
    agent::{Agent, Script},
};
use wardring_api::{Latch, LineState, PermitStep, RolloutPhase, StageState, reasons::Reason};
use wardring_planner::{Action, Decision, check, plan};

const OLD: &str = "
updates: {select: {release: 2026-11}}
stages:
- {name: test, group: test, maxConcurrency: 1}
- {name: production, group: production, maxConcurrency: 1}";

const FIX: &str = "
authors: [alice]
updates: {kbs: [KB5068787]}
supersedes: november
stages:
- {name: all, selector: {matchExpressions: [{key: stage, operator: Exists}]}, maxConcurrency: 2, minProven: 0, gates: {before: [{name: sign-off, type: Approval}]}}";

/// Three test servers and one of production, some minutes into the rollout of November.
fn world(minutes: u32) -> World {
    old(OLD, minutes)
}

fn old(spec: &str, minutes: u32) -> World {
    let mut world = World::new();
    world.group("test");
    world.group("production");
    for name in ["test-1", "test-2", "test-3"] {
        world.device(name, "test", SERVER);
    }
    world.device("prod-1", "production", SERVER);
    world.rollout("november", spec);
    world.settle();
    pass(&mut world, minutes);
    world
}

fn pass(world: &mut World, minutes: u32) {
    for _ in 0..minutes {
        world.minute(|_| {});
    }
}

fn phase(world: &World, rollout: &str) -> Option<RolloutPhase> {
    world.status(rollout).phase
}

fn end(world: &World) -> Option<Latch> {
    world.status("november").aborted
}

/// Permits for the step that the rollout's devices got.
fn permits(world: &World, rollout: &str, step: PermitStep) -> usize {
    let uid = world.rollouts.get(rollout).map(|all| all.metadata.uid.clone().unwrap());
    let mine = world.permits.iter().filter(|given| {
        given.step == step && (given.rollout == rollout || Some(&given.rollout) == uid.as_ref())
    });
    mine.count()
}

#[test]
fn the_older_one_ends_when_the_newer_one_opens_and_says_so() {
    let mut world = world(0);
    assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
    world.approved_rollout("fix", FIX);
    let latch = end(&world).unwrap();
    assert_eq!(latch.reason, "SupersededByRollout");
    assert_eq!(latch.message, "Rollout fix took its place, as bob approved.");
    assert_eq!(phase(&world, "november"), Some(RolloutPhase::Aborted));
    pass(&mut world, 60);
    assert_eq!(permits(&world, "november", PermitStep::Install), 0);
    assert_eq!(phase(&world, "fix"), Some(RolloutPhase::Completed));
    assert_eq!(world.status("november").stages[1].state, StageState::Pending);
    let writes = world.writes;
    pass(&mut world, 60);
    assert_eq!(world.writes, writes, "and then nothing is written any more");
}

#[test]
fn what_is_at_work_is_waited_for_and_restarts_under_the_newer_ones_limits() {
    let mut world = world(4);
    assert!(world.jobs["test-1"].may_have_begun());
    world.approved_rollout("fix", FIX);
    let plan = world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
    let halted = world.status("november").halted.unwrap();
    assert_eq!(
        halted.message,
        "Rollout fix takes its place, as bob approved: nothing begins here any more, and what is at work comes to its end."
    );
    assert!(end(&world).is_none(), "it is not quiet yet");
    let fix = plan.rollouts.iter().find(|all| all.rollout.name == "fix").unwrap();
    assert_eq!(fix.stages[0].decisions[1], Decision::Hold(Reason::Busy), "test-1 is at work");
    for _ in 0..60 {
        world.minute(|world| {
            let granted =
                world.lines().into_iter().filter(|(.., line)| line.state == LineState::Granted);
            let mut names: Vec<_> = granted.map(|(.., line)| line.device).collect();
            names.sort();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all, "one device, one rollout");
        });
    }
    assert!(end(&world).is_some());
    assert_eq!(permits(&world, "november", PermitStep::Install), 1);
    assert_eq!(permits(&world, "november", PermitStep::Reboot), 0, "that is the newer one's now");
    assert_eq!(phase(&world, "fix"), Some(RolloutPhase::Completed));
}

#[test]
fn one_that_cannot_begin_ends_nobody() {
    let selector = "selector: {matchExpressions: [{key: stage, operator: Exists}]}";
    let fixes = [
        ("nobody is selected", FIX.replace(selector, "selector: {matchLabels: {no: such}}")),
        ("too few", FIX.replace("minProven: 0", "minDevices: 40")),
        ("no such group", FIX.replace(selector, "group: tset")),
        ("no such update", FIX.replace("KB5068787", "KB1111111")),
        ("suspended", format!("{FIX}\nsuspend: true")),
    ];
    for (why, fix) in fixes {
        let mut world = world(1);
        world.approved_rollout("fix", &fix);
        pass(&mut world, 180);
        assert!(end(&world).is_none(), "{why}: {:?}", end(&world));
        assert_eq!(phase(&world, "november"), Some(RolloutPhase::Completed), "{why}");
    }
}

#[test]
fn a_halted_one_gives_its_devices_free_and_restarts_none() {
    let mut world = old(&OLD.replace("maxConcurrency: 1}", "maxConcurrency: 3}"), 0);
    world.agents.get_mut("test-1").unwrap().script = Script::InstallFails;
    // test-2 and test-3 have installed and ask for their restarts when test-1 fails.
    for _ in 0..60 {
        world.minute(|_| {});
        if world.status("november").halted.is_some() {
            break;
        }
    }
    assert!(world.status("november").halted.is_some());
    let restarts = permits(&world, "november", PermitStep::Reboot);
    world.agents.get_mut("test-1").unwrap().script = Script::Good;
    world.approved_rollout("fix", FIX);
    pass(&mut world, 180);
    assert!(end(&world).is_some());
    assert_eq!(permits(&world, "november", PermitStep::Reboot), restarts);
    assert_eq!(
        phase(&world, "fix"),
        Some(RolloutPhase::Completed),
        "{:?}",
        world.status("fix").waiting_for
    );
}

#[test]
fn a_rollback_comes_to_its_end_first() {
    let mut world = old(&format!("{OLD}\nonFailure: {{action: Rollback}}"), 0);
    world.agents.get_mut("test-1").unwrap().script = Script::ServiceDown;
    for _ in 0..120 {
        world.minute(|_| {});
        if world.status("november").rollback.is_some() {
            break;
        }
    }
    assert!(world.status("november").rollback.unwrap().completed_at.is_none());
    world.approved_rollout("fix", FIX);
    assert!(end(&world).is_none(), "what is broken is taken back first");
    pass(&mut world, 180);
    assert_eq!(world.state("november", "test-1"), Some(LineState::RolledBack));
    assert!(end(&world).is_some());
}

#[test]
fn a_rollback_within_the_budget_does_not_let_the_older_one_go_on() {
    let spec = OLD.replace("maxConcurrency: 1}", "maxConcurrency: 1, maxFailures: 1}");
    let mut world = old(&format!("{spec}\nonFailure: {{action: Rollback}}"), 0);
    world.agents.get_mut("test-1").unwrap().script = Script::ServiceDown;
    while world.status("november").rollback.is_none() {
        world.minute(|_| {});
    }
    world.approved_rollout("fix", FIX);
    let begun = permits(&world, "november", PermitStep::Install);
    assert!(world.status("november").halted.is_some());
    pass(&mut world, 240);
    assert_eq!(permits(&world, "november", PermitStep::Install), begun);
    assert_eq!(world.state("november", "test-1"), Some(LineState::RolledBack));
    assert!(end(&world).is_some());
}

#[test]
fn what_fails_after_the_handover_is_taken_back_and_the_others_do_not_restart() {
    let spec = OLD.replace("maxConcurrency: 1}", "maxConcurrency: 3}");
    let mut world = old(&format!("{spec}\nonFailure: {{action: Rollback}}"), 0);
    for name in ["test-1", "test-2", "test-3"] {
        world.agents.get_mut(name).unwrap().script = Script::ServiceDown;
    }
    while permits(&world, "november", PermitStep::Reboot) == 0 {
        world.minute(|_| {});
    }
    let restarts = permits(&world, "november", PermitStep::Reboot);
    let fix = FIX.replace(
        "all, selector: {matchExpressions: [{key: stage, operator: Exists}]}",
        "production, group: production",
    );
    world.approved_rollout("fix", &fix);
    assert!(end(&world).is_none());
    pass(&mut world, 300);
    let installs = world.permits.iter().filter(|given| given.rollout.contains("november"));
    let again = installs.filter(|given| given.step == PermitStep::Reboot).count();
    let taken_back = world
        .lines()
        .iter()
        .filter(|(of, _, line)| of.contains("november") && line.state == LineState::RolledBack)
        .count();
    assert_eq!(taken_back, restarts, "whoever restarted into it is mended");
    assert!(again <= 2 * restarts, "and no other restarted: {again}");
    assert!(end(&world).is_some());
}

#[test]
fn a_newer_one_that_fails_itself_stalls_nobody() {
    for wait in 0..24 {
        let spec = OLD.replace("maxConcurrency: 1}", "maxConcurrency: 1, maxFailures: 1}");
        let mut world = old(&format!("{spec}\nonFailure: {{action: Rollback}}"), 0);
        world.agents.get_mut("test-1").unwrap().script = Script::ServiceDown;
        while world.status("november").rollback.is_none() {
            world.minute(|_| {});
        }
        world.agents.get_mut("prod-1").unwrap().script = Script::InstallFails;
        pass(&mut world, wait / 8);
        let fix = FIX.replace(
            "all, selector: {matchExpressions: [{key: stage, operator: Exists}]}",
            "production, group: production",
        );
        world.approved_rollout("fix", &fix);
        pass(&mut world, wait % 8);
        // Every plan on the way passes the second look, or the world says so.
        pass(&mut world, 240);
        assert_eq!(phase(&world, "fix"), Some(RolloutPhase::Halted), "{wait}");
        assert!(end(&world).is_some(), "{wait}: what it opened stays opened");
    }
}

#[test]
fn of_three_in_a_row_only_the_newest_goes_on() {
    let mut world = world(1);
    world.rollout("a-mend", FIX);
    world.rollout("fix", &FIX.replace("november", "a-mend"));
    world.settle();
    world.say_yes("a-mend", "bob");
    world.say_yes("fix", "bob");
    world.settle();
    pass(&mut world, 240);
    assert!(end(&world).is_some());
    assert!(world.status("a-mend").aborted.is_some());
    assert_eq!(phase(&world, "fix"), Some(RolloutPhase::Completed));
}

#[test]
fn a_retry_brings_nothing_back_and_loses_no_failure() {
    let spec = OLD.replace("maxConcurrency: 1}", "maxConcurrency: 1, maxFailures: 1}");
    let mut world = old(&spec, 0);
    world.agents.get_mut("test-1").unwrap().script = Script::InstallFails;
    // The second one is at work.
    while permits(&world, "november", PermitStep::Install) < 2 {
        world.minute(|_| {});
    }
    world.approved_rollout("fix", FIX);
    let before = world.status("november").halted.unwrap();
    assert!(end(&world).is_none());
    world.retry("november");
    world.settle();
    assert_eq!(world.status("november").halted, Some(before));
    assert!(world.status("november").last_handled_retry.is_some());
    assert_eq!(world.state("november", "test-1"), Some(LineState::Failed), "an order reaches it");
    pass(&mut world, 120);
    assert!(end(&world).is_some());
}

#[test]
fn a_name_that_nobody_older_has_starts_nothing() {
    let mut world = world(1);
    world.approved_rollout("fix", &FIX.replace("november", "novmeber"));
    let status = world.status("fix");
    assert_eq!(status.waiting_for[0].reason, "SupersedesNotFound");
    pass(&mut world, 180);
    assert_eq!(phase(&world, "november"), Some(RolloutPhase::Completed));
    assert_eq!(permits(&world, "fix", PermitStep::Install), 0);
}

#[test]
fn once_it_has_begun_nobody_misses_the_older_one() {
    let mut world = world(0);
    world.approved_rollout("fix", FIX);
    pass(&mut world, 3);
    world.delete_rollout("november");
    pass(&mut world, 120);
    assert_eq!(phase(&world, "fix"), Some(RolloutPhase::Completed));
}

#[test]
fn a_later_rollout_of_the_same_name_is_another_one() {
    let mut world = world(0);
    world.approved_rollout("fix", FIX);
    pass(&mut world, 3);
    world.delete_rollout("november");
    pass(&mut world, 3);
    world.rollout("november", &OLD.replace("maxConcurrency: 1", "maxConcurrency: 1, minProven: 0"));
    world.settle();
    pass(&mut world, 300);
    assert!(end(&world).is_none());
    assert_eq!(phase(&world, "november"), Some(RolloutPhase::Completed));
}

#[test]
fn two_that_name_each_other_end_at_most_the_older_one() {
    for minutes in [0, 1] {
        let mut world = World::new();
        world.group("test");
        world.device("test-1", "test", SERVER);
        let spec = "{authors: [alice], updates: {select: {release: 2026-11}}, stages: [{name: test, group: test, minProven: 0, gates: {before: [{name: sign-off, type: Approval}]}}], supersedes: NAME}";
        world.rollout("november", &spec.replace("NAME", "fix"));
        world.now += SignedDuration::from_mins(minutes);
        world.approved_rollout("fix", &spec.replace("NAME", "november"));
        world.say_yes("november", "bob");
        world.settle();
        pass(&mut world, 60);
        assert!(world.status("fix").aborted.is_none(), "{minutes}");
        if minutes == 0 {
            assert!(end(&world).is_none());
        }
    }
}

#[test]
fn who_is_dropped_is_named() {
    let mut world = world(1);
    world.device("old-1", "test", "Windows Server 2019");
    world.approved_rollout(
        "fix",
        &FIX.replace(
            "all, selector: {matchExpressions: [{key: stage, operator: Exists}]}",
            "production, group: production",
        ),
    );
    let message = end(&world).unwrap().message;
    assert!(world.events.iter().any(|event| event.contains("test-1, test-2, test-3")));
    assert!(
        message.ends_with("Left out: 3 devices had not begun and are not updated by that one: test-1, test-2, test-3."),
        "{message}"
    );
    let told = world.events.iter().any(|event| event.ends_with(&message));
    assert!(told, "a warning says it");
}

#[test]
fn a_device_that_fell_silent_is_free_once_its_job_is_over() {
    let mut world = world(0);
    world.agents.get_mut("test-1").unwrap().script = Script::Silent;
    pass(&mut world, 240);
    assert_eq!(world.state("november", "test-1"), Some(LineState::Unreachable));
    world.approved_rollout("fix", FIX);
    assert!(world.jobs.contains_key("test-1"), "until then its answer is waited for");
    world.now += SignedDuration::from_hours(30);
    // Somebody set it up anew; it has the certificate that it had.
    world.agents.insert("test-1".to_owned(), Agent::new("test-1"));
    world.set_online("test-1", true);
    pass(&mut world, 120);
    assert_eq!(
        phase(&world, "fix"),
        Some(RolloutPhase::Completed),
        "{:?}",
        world.status("fix").waiting_for
    );
}

#[test]
fn a_device_that_could_not_be_mended_is_not_handed_over() {
    let mut world = old(&format!("{OLD}\nonFailure: {{action: Rollback}}"), 0);
    world.agents.get_mut("test-1").unwrap().script = Script::Damaged;
    while world.state("november", "test-1") != Some(LineState::RollbackFailed) {
        world.minute(|_| {});
    }
    world.approved_rollout("fix", FIX);
    pass(&mut world, 60);
    assert!(end(&world).is_some());
    world.now += SignedDuration::from_hours(72);
    pass(&mut world, 60);
    assert_eq!(world.state("fix", "test-1"), Some(LineState::Pending), "a person looks first");
    assert_ne!(world.state("fix", "test-2"), Some(LineState::Pending));
}

#[test]
fn a_person_who_stops_the_older_one_as_well_stops_its_restarts() {
    let mut world = world(4);
    world.approved_rollout("fix", FIX);
    assert!(world.jobs["test-1"].may_have_begun());
    world.edit("november", |spec| spec.suspend = Some(true));
    world.settle();
    // Appliers strip what others wrote; a stop stays.
    world.edit("november", |spec| spec.suspend = None);
    pass(&mut world, 120);
    assert_eq!(permits(&world, "november", PermitStep::Reboot), 0);
    assert_ne!(world.state("november", "test-1"), Some(LineState::Granted), "and it is let go");
}

#[test]
fn whatever_dies_in_between_no_plan_is_refused_and_nobody_ends_unasked() {
    for writes in 0..14 {
        let mut world = world(3);
        world.rollout("fix", FIX);
        world.settle();
        world.say_yes("fix", "bob");
        world.crash_after(writes, |_| {});
        world.settle();
        pass(&mut world, 120);
        assert_eq!(phase(&world, "fix"), Some(RolloutPhase::Completed), "{writes}");
        assert!(end(&world).is_some());
    }
}

#[test]
fn the_second_opinion_refuses_an_end_that_nobody_ordered() {
    let mut world = world(1);
    world.rollout("fix", FIX);
    world.settle();
    world.say_yes("fix", "bob");
    let mut plans = Vec::new();
    for _ in 0..20 {
        let snapshot = world.snapshot();
        let plan = plan(&snapshot);
        if plan.actions.is_empty() {
            break;
        }
        for action in &plan.actions {
            world.apply(action);
        }
        plans.push((snapshot, plan));
    }
    let ends = |plan: &wardring_planner::Plan| {
        plan.actions.iter().any(|action| {
            matches!(action, Action::WriteStatus { status, .. } if status.aborted.is_some())
        })
    };
    let (snapshot, plan) = plans.into_iter().find(|(_, plan)| ends(plan)).unwrap();
    assert_eq!(check(&snapshot, &plan), []);
    let mut alone = snapshot.clone();
    alone.rollouts.retain(|all| all.metadata.name.as_deref() != Some("fix"));
    let november = |action: &Action| matches!(action, Action::WriteStatus { rollout, .. } if rollout.name == "november");
    let mut forged = plan;
    forged.actions.retain(november);
    assert!(check(&alone, &forged).iter().any(|all| all.rule == "S13"));
}
