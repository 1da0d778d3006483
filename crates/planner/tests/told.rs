//! What a status and an explanation say once a rollout is over.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use support::{SERVER, World, agent::Script, explained, granted};
use wardring_api::{Cap, JobAction, LineState, PermitStep, RolloutPhase, UpdateHoldSpec};

fn abort(world: &mut World) {
    world.edit("november", |spec| {
        spec.abort = Some(wardring_api::Abort { reason: "enough".to_owned() });
    });
    world.settle();
}

/// Bars the update of every device.
fn bar(world: &mut World) {
    let hold = UpdateHoldSpec {
        kbs: vec!["KB5068787".parse().unwrap()],
        selector: None,
        devices: Vec::new(),
        include_superseding: Default::default(),
        reason: "It breaks printing.".to_owned(),
        evidence: Vec::new(),
        rollout: None,
    };
    world.holds.insert("printing".to_owned(), hold);
    world.settle();
}

fn waits(world: &World) -> Vec<String> {
    world.status("november").waiting_for.into_iter().map(|waiting| waiting.reason).collect()
}

#[test]
fn after_an_abort_nothing_waits_for_anything_but_the_devices_at_work() {
    let mut world = granted();
    while !world.jobs["test-1"].may_have_begun() {
        world.minute(|_| {});
    }
    bar(&mut world);
    assert!(waits(&world).contains(&"UpdateHeld".to_owned()), "{:?}", waits(&world));
    abort(&mut world);
    assert_eq!(waits(&world), ["AbortedByPerson", "InProgress"]);
    while world.state("november", "test-1") == Some(LineState::Granted) {
        world.minute(|_| {});
    }
    assert_eq!(waits(&world), ["AbortedByPerson"]);
}

#[test]
fn after_an_abort_a_device_names_the_abort_and_not_what_held_it_before() {
    let mut world = granted();
    bar(&mut world);
    abort(&mut world);
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.action), (LineState::Pending, JobAction::Install));
    assert_eq!(explained(&world), "test-1 does not start: A person ended the rollout: enough");
}

#[test]
fn what_a_person_wrote_stands_on_one_line_and_changes_no_terminal() {
    let mut world = granted();
    world.edit("november", |spec| {
        spec.abort =
            Some(wardring_api::Abort { reason: "\u{1b}[31mwrong\r\nmonth \u{7}\n".into() });
    });
    world.settle();
    let message = world.status("november").aborted.unwrap().message;
    assert_eq!(message, "A person ended the rollout: [31mwrong month");
}

#[test]
fn a_completed_rollout_says_how_many_failed_within_its_budgets() {
    let mut world = granted();
    world.edit("november", |spec| spec.stages[0].max_failures = Some(Cap::Count(1)));
    world.agents.get_mut("test-1").unwrap().script = Script::ServiceDown;
    for _ in 0..60 {
        world.minute(|_| {});
    }
    let status = world.status("november");
    assert_eq!(status.phase, Some(RolloutPhase::Completed));
    assert_eq!(
        status.message.as_deref(),
        Some("Every stage is proven: 1 device succeeded; 1 failed, within the stages' budgets.")
    );
}

#[test]
fn a_superseded_rollout_calls_nobody_left_out_whom_the_newer_one_proved_meanwhile() {
    let mut world = World::new();
    world.group("test");
    for name in ["test-1", "test-2"] {
        world.device(name, "test", SERVER);
    }
    world.agents.get_mut("test-1").unwrap().script = Script::Slow;
    let stages = "stages: [{name: test, group: test, maxConcurrency: 1, minProven: 0}]";
    world.rollout("november", &format!("{{updates: {{kbs: [KB5068787]}}, {stages}}}"));
    while !world.permits.iter().any(|given| given.step == PermitStep::Reboot) {
        world.minute(|_| {});
    }
    let stages = "stages: [{name: test, group: test, maxConcurrency: 1, minProven: 0, gates: {before: [{name: sign-off, type: Approval}]}}]";
    let newer = format!(
        "{{authors: [alice], updates: {{kbs: [KB5068787]}}, supersedes: november, {stages}}}"
    );
    world.approved_rollout("fix", &newer);
    for _ in 0..60 {
        world.minute(|_| {});
    }
    assert_eq!(world.state("fix", "test-2"), Some(LineState::Succeeded));
    let status = world.status("november");
    assert!(status.halted.is_some() && status.aborted.is_none(), "test-1 is restarting");
    for _ in 0..180 {
        world.minute(|_| {});
    }
    let message = world.status("november").aborted.unwrap().message;
    assert_eq!(message, "Rollout fix took its place, as bob approved.");
}
