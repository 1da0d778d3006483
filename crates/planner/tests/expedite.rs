//! A fix that cannot wait: a stage leaves out its soak and its windows where a person approved just that,
//! and nothing else, and not a moment longer.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use jiff::Timestamp;
use support::{SERVER, World, agent::Script, explained};
use wardring_api::{Decided, GateApproval, LineState, PermitStep, RolloutPhase, StageState};
use wardring_planner::{Assumptions, ForecastEnd, forecast};

// The world begins on Friday, 2026-11-20, at 22:00 UTC.
const SATURDAY: &str = "{type: Allow, allows: [Install, Reboot, Uninstall], schedule: {cron: 0 20 * * SAT}, duration: 4h, timeZone: UTC}";

const SPEC: &str = "
updates: {select: {release: 2026-11}}
authors: [alice]
expedite: {reason: CVE-2026-1234, skipSoak: true, ignoreWindows: true}
stages:
- name: test
  group: test
  maxConcurrency: 1
  soak: 3d
  windows: [saturday]
  gates: {before: [{name: sign-off, type: Approval}]}";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn world(spec: &str) -> World {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    world.device("test-2", "test", SERVER);
    world.window("saturday", SATURDAY);
    world.rollout("november", spec);
    world.settle();
    world
}

fn asked(world: &World) -> GateApproval {
    world.status("november").stages[0].gates[0].approval.clone().unwrap()
}

fn approve(world: &mut World, by: &str) {
    let name = asked(world).request;
    let spec = &mut world.approvals.get_mut(&name).expect("the controller asks").spec;
    spec.decision = Some(Decided::Approve);
    spec.approver = Some(by.to_owned());
    spec.reason = Some("it is exploited".to_owned());
    world.settle();
}

fn minutes(world: &mut World, count: usize) {
    for _ in 0..count {
        world.minute(|_| {});
    }
}

#[test]
fn what_was_approved_in_a_hurry_waits_for_no_window_and_no_soak() {
    let mut world = world(SPEC);
    let message = world.status("november").waiting_for[0].message.clone();
    let haste = "Expedited: it is not watched for its soak, and windows do not keep it back \
                 (CVE-2026-1234).";
    assert!(message.ends_with(haste), "{message}");
    minutes(&mut world, 30);
    assert!(world.permits.is_empty(), "nobody has approved it");

    approve(&mut world, "bob");
    let told = world.status("november").stages[0].gates[0].message.clone().unwrap();
    let expected = format!("Stage test: bob approved it (gate sign-off): it is exploited. {haste}");
    assert_eq!(told, expected);
    minutes(&mut world, 120);
    let status = world.status("november");
    assert_eq!(status.phase, Some(RolloutPhase::Completed), "{:?}", status.message);
    let restarts = world.permits.iter().filter(|given| given.step == PermitStep::Reboot);
    assert_eq!(restarts.count(), 2);
    assert!(world.permits.iter().all(|given| given.at < at("2026-11-21T20:00:00Z")));
}

#[test]
fn only_what_is_named_is_left_out() {
    let mut soaks = world(&SPEC.replace("skipSoak: true, ", ""));
    approve(&mut soaks, "bob");
    minutes(&mut soaks, 120);
    assert_eq!(soaks.permits.len(), 4, "both were installed and restarted");
    assert_eq!(soaks.status("november").stages[0].state, StageState::Soaking);

    let mut waits = world(&SPEC.replace(", ignoreWindows: true", ""));
    approve(&mut waits, "bob");
    minutes(&mut waits, 120);
    assert!(waits.permits.is_empty());
    assert_eq!(waits.status("november").waiting_for[0].reason, "OutsideWindow");
}

#[test]
fn a_freeze_stays_a_freeze() {
    let mut world = world(SPEC);
    world.window(
        "freeze",
        "{type: Deny, reason: surgery, schedule: {once: {from: 2026-11-20T00:00:00Z, until: 2026-11-21T06:00:00Z}}}",
    );
    approve(&mut world, "bob");
    minutes(&mut world, 60);
    assert!(world.permits.is_empty());
    assert_eq!(world.status("november").waiting_for[0].reason, "Frozen");
    assert!(explained(&world).contains("MaintenanceWindow freeze"), "{}", explained(&world));
}

#[test]
fn a_stage_that_nobody_was_asked_about_takes_its_time() {
    let spec = SPEC.replace("gates: {before: [{name: sign-off, type: Approval}]}", "minDevices: 1");
    let production = "
- name: production
  group: production
  gates: {before: [{name: sign-off, type: Approval}]}";
    let mut world = world(&format!("{spec}{production}"));
    world.group("production");
    world.device("production-1", "production", SERVER);
    minutes(&mut world, 120);
    assert!(world.permits.is_empty());
    assert_eq!(world.status("november").waiting_for[0].reason, "OutsideWindow");
}

#[test]
fn a_gate_that_is_tried_out_only_lets_nothing_be_left_out() {
    let spec = SPEC.replace("type: Approval}", "type: Approval, mode: DryRun}");
    let mut world = world(&spec);
    approve(&mut world, "bob");
    minutes(&mut world, 60);
    assert!(world.permits.is_empty());
}

#[test]
fn whoever_wrote_it_cannot_make_it_hurry() {
    let mut world = world(SPEC);
    approve(&mut world, "alice");
    minutes(&mut world, 60);
    assert!(world.permits.is_empty());
    assert_eq!(world.status("november").stages[0].state, StageState::Gated);
}

#[test]
fn haste_that_was_added_after_the_approval_is_asked_for_anew() {
    let calm = SPEC.replace("expedite:", "onHalt: {}\n#");
    let mut world = world(&calm);
    approve(&mut world, "bob");
    assert_eq!(world.status("november").stages[0].state, StageState::Open);
    let hurried: wardring_api::PatchRolloutSpec = serde_yaml::from_str(SPEC).unwrap();
    world.edit("november", |spec| spec.expedite = hurried.expedite);
    minutes(&mut world, 60);
    assert!(world.permits.is_empty());
    let because = asked(&world).because.unwrap();
    assert!(because.contains("the haste changed"), "{because}");
    approve(&mut world, "bob");
    minutes(&mut world, 120);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
}

#[test]
fn two_people_are_needed_whatever_the_gate_says_of_one() {
    let spec =
        SPEC.replace("type: Approval}", "type: Approval, approval: {authorMayApprove: true}}");
    for by in ["alice", "bob"] {
        let mut world = world(&spec);
        approve(&mut world, by);
        assert_eq!(world.status("november").stages[0].state, StageState::Open);
        minutes(&mut world, 60);
        assert!(world.permits.is_empty(), "{by}");
    }
}

#[test]
fn a_device_that_has_to_restart_first_does_not_wait_for_a_window_either() {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER).hard_pending_reboot = true;
    world.window("saturday", SATURDAY);
    world.rollout("november", &format!("{SPEC}\npreflight: {{pendingReboot: RebootFirst}}"));
    world.settle();
    approve(&mut world, "bob");
    minutes(&mut world, 60);
    assert!(!world.permits.is_empty(), "{:?}", world.status("november").waiting_for);
}

fn steps(world: &World) -> Vec<PermitStep> {
    world.permits.iter().map(|given| given.step).collect()
}

/// The window of the stage, edited.
fn window(world: &mut World, schedule: &str) {
    let allows = "type: Allow, allows: [Install, Reboot, Uninstall], overrun: {action: Hold}";
    world.window("saturday", &format!("{{{allows}, {schedule}}}"));
}

/// The approval was for another version of the stage.
fn edit_caps(world: &mut World) {
    let two = Some(wardring_api::Cap::Count(2));
    world.edit("november", |spec| spec.stages[0].max_concurrency = two);
}

#[test]
fn what_installed_in_haste_may_restart_whatever_was_edited_since() {
    for edit in ["caps", "window", "window gone", "version"] {
        let mut world = world(SPEC);
        approve(&mut world, "bob");
        while world.permits.is_empty() {
            world.minute(|_| {});
        }
        assert!(world.jobs["test-1"].permitted[0].expedited);
        let soon = world.permits[0].at + jiff::SignedDuration::from_secs(30);
        match edit {
            // By now it looks as though it had begun in its window.
            "window" => window(
                &mut world,
                &format!("schedule: {{once: {{from: 2026-11-20T20:00:00Z, until: '{soon}'}}}}"),
            ),
            "window gone" => world.windows.clear(),
            _ => {}
        }
        if edit == "version" {
            let stages =
                &mut world.rollouts.get_mut("november").unwrap().status.as_mut().unwrap().stages;
            let asked = stages[0].gates[0].approval.as_mut().unwrap();
            asked.parts[0] = "form=of-an-older-version".to_owned();
        } else {
            edit_caps(&mut world);
        }
        for _ in 0..90 {
            world.minute(|_| {});
            let told = explained(&world);
            assert!(!told.contains("waits with its restart"), "{edit}: {told}");
        }
        assert_eq!(asked(&world).decided, None, "{edit}: it is asked anew");
        let expected = [PermitStep::Install, PermitStep::Reboot];
        assert_eq!(steps(&world), expected, "{edit}: and nobody else began");
        assert_eq!(world.state("november", "test-1"), Some(LineState::Succeeded), "{edit}");
    }
}

#[test]
fn haste_that_nobody_approved_lets_no_device_restart_outside_of_its_windows() {
    let calm =
        SPEC.replace("expedite:", "onHalt: {}\n#").replace("[saturday]", "[saturday, sunday]");
    let mut world = world(&calm);
    let apart = |allows: &str, cron: &str| {
        format!(
            "{{type: Allow, allows: [{allows}], schedule: {{cron: {cron}}}, duration: 4h, timeZone: UTC}}"
        )
    };
    world.window("saturday", &apart("Install", "0 20 * * SAT"));
    world.window("sunday", &apart("Reboot", "0 8 * * SUN"));
    approve(&mut world, "bob");
    world.now = at("2026-11-21T20:00:00Z");
    minutes(&mut world, 30);
    assert_eq!(steps(&world), [PermitStep::Install]);

    // Alice is in a hurry, nobody has agreed, and the window in which it installed is moved.
    let hurried: wardring_api::PatchRolloutSpec = serde_yaml::from_str(SPEC).unwrap();
    world.edit("november", |spec| spec.expedite = hurried.expedite);
    world.window("saturday", &apart("Install", "0 20 * * WED"));
    minutes(&mut world, 180);
    assert_eq!(steps(&world), [PermitStep::Install]);
    assert!(explained(&world).contains("MaintenanceWindow sunday opens"), "{}", explained(&world));
    world.now = at("2026-11-22T08:00:00Z");
    minutes(&mut world, 60);
    assert_eq!(steps(&world), [PermitStep::Install, PermitStep::Reboot]);
}

#[test]
fn haste_that_was_not_needed_to_begin_is_none_to_restart() {
    let mut world = world(SPEC);
    window(
        &mut world,
        "schedule: {once: {from: 2026-11-20T21:00:00Z, until: 2026-11-20T22:05:00Z}}",
    );
    approve(&mut world, "bob");
    while world.permits.is_empty() {
        world.minute(|_| {});
    }
    assert!(world.now < at("2026-11-20T22:05:00Z"), "it installs in its window");
    assert!(!world.jobs["test-1"].permitted[0].expedited);
    edit_caps(&mut world);
    world.now = at("2026-11-20T22:05:00Z");
    window(&mut world, "schedule: {cron: 0 20 * * SAT}, duration: 4h, timeZone: UTC");
    minutes(&mut world, 90);
    assert_eq!(steps(&world), [PermitStep::Install]);
}

#[test]
fn whoever_takes_the_haste_back_has_the_restarts_wait_for_a_window_again() {
    // The next window may be further away than a device usually has time.
    for (day, opens) in [("SAT", "2026-11-21T20:00:00Z"), ("THU", "2026-11-26T20:00:00Z")] {
        let mut world = world(SPEC);
        world.window("saturday", &SATURDAY.replace("SAT", day));
        approve(&mut world, "bob");
        while world.permits.is_empty() {
            world.minute(|_| {});
        }
        world.edit("november", |spec| spec.expedite = None);
        minutes(&mut world, 90);
        assert_eq!(steps(&world), [PermitStep::Install]);
        let told = explained(&world);
        assert!(told.contains("MaintenanceWindow saturday opens"), "{told}");
        world.now = at(opens);
        minutes(&mut world, 30);
        let steps = steps(&world);
        assert_eq!(steps.get(..2), Some(&[PermitStep::Install, PermitStep::Reboot][..]), "{day}");
    }
}

#[test]
fn haste_that_was_added_while_the_controller_was_upgraded_was_not_approved() {
    let calm = SPEC.replace("expedite:", "onHalt: {}\n#");
    let mut world = world(&calm);
    approve(&mut world, "bob");
    let rollout = world.rollouts.get_mut("november").unwrap();
    let stages = &mut rollout.status.as_mut().unwrap().stages;
    stages[0].gates[0].approval.as_mut().unwrap().parts[0] = "form=of-an-older-version".to_owned();
    let hurried: wardring_api::PatchRolloutSpec = serde_yaml::from_str(SPEC).unwrap();
    world.edit("november", |spec| spec.expedite = hurried.expedite);
    minutes(&mut world, 120);
    assert!(world.permits.is_empty());
    assert!(asked(&world).decided.is_none(), "it is asked anew");
}

#[test]
fn after_an_upgrade_haste_is_asked_for_anew() {
    let mut world = world(SPEC);
    approve(&mut world, "bob");
    assert_eq!(world.status("november").stages[0].state, StageState::Open);
    let rollout = world.rollouts.get_mut("november").unwrap();
    let stages = &mut rollout.status.as_mut().unwrap().stages;
    stages[0].gates[0].approval.as_mut().unwrap().parts[0] = "form=of-an-older-version".to_owned();
    world.settle();
    assert!(asked(&world).decided.is_none());
    approve(&mut world, "bob");
    minutes(&mut world, 120);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
}

#[test]
fn an_edit_of_what_was_approved_ends_the_haste_at_once() {
    for edit in ["haste", "caps", "gone"] {
        let mut world = world(SPEC);
        approve(&mut world, "bob");
        assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
        world.edit("november", |spec| match edit {
            "haste" => spec.expedite.as_mut().unwrap().reason = "because".to_owned(),
            "caps" => spec.stages[0].max_concurrency = Some(wardring_api::Cap::Count(2)),
            _ => spec.expedite = None,
        });
        // The agents ask before the controller has seen the edit.
        world.run_agents();
        assert!(world.permits.is_empty(), "{edit}: the gateway goes by what is written now");
        minutes(&mut world, 60);
        assert!(world.permits.is_empty(), "{edit}");
        let started = world.state("november", "test-2");
        assert_eq!(started, Some(LineState::Pending), "{edit}");
    }
}

#[test]
fn taking_back_waits_for_windows_where_it_shall() {
    let spec = format!("{SPEC}\nonFailure: {{action: Rollback, windows: Respect}}");
    let mut world = world(&spec);
    world.agents.get_mut("test-1").unwrap().script = Script::ServiceDown;
    approve(&mut world, "bob");
    minutes(&mut world, 180);
    assert_eq!(world.state("november", "test-1"), Some(LineState::Failed));
    let uninstalls = world.permits.iter().filter(|given| given.step == PermitStep::Uninstall);
    assert_eq!(uninstalls.count(), 0, "Saturday's window is still closed");
    world.now = at("2026-11-21T20:00:00Z");
    minutes(&mut world, 120);
    let state = world.state("november", "test-1");
    assert_eq!(state, Some(LineState::RolledBack), "{:?}", world.status("november").waiting_for);
}

#[test]
fn the_preview_tells_what_haste_saves() {
    let world = world(SPEC);
    let uid = world.rollouts["november"].metadata.uid.clone().unwrap();
    let told = forecast(&world.snapshot(), &uid, &Assumptions::default()).unwrap();
    let ForecastEnd::Completed(end) = told.end else { panic!("{:?}", told.end) };
    assert!(end < at("2026-11-21T12:00:00Z"), "{end}");
}
