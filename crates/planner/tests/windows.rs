//! Maintenance windows and freezes: nothing starts outside of them, what waits says why and until when,
//! and time spent waiting is nobody's lack of progress.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use jiff::Timestamp;
use support::{SERVER, World, explained};
use wardring_api::{LineState, PermitStep, RolloutPhase, conditions, reasons::Reason};
use wardring_planner::{Plan, WindowView};

// The world begins on Friday, 2026-11-20, at 22:00 UTC.
const SATURDAY: &str = "
type: Allow
schedule: {cron: 0 20 * * SAT}
duration: 4h
timeZone: UTC";

const SPEC: &str = "
updates: {select: {release: 2026-11}}
stages: [{name: test, group: test, maxConcurrency: 1, windows: [saturday]}]";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn world(spec: &str) -> World {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    world.device("test-2", "test", SERVER);
    world.rollout("november", spec);
    world
}

/// Lets time pass, minute by minute where agents are at work, to the next event elsewhere.
fn until(world: &mut World, instant: &str) -> Plan {
    let mut last = world.settle();
    while world.now < at(instant) {
        let next = last.next_evaluation.unwrap_or(Timestamp::MAX);
        if world.jobs.is_empty() && next > world.now {
            world.now = next.min(at(instant));
            last = world.settle();
        } else {
            last = world.minute(|_| {});
        }
    }
    last
}

fn waiting(world: &World) -> (String, String, Option<Timestamp>) {
    let first = world.status("november").waiting_for.into_iter().next().unwrap();
    (first.reason, first.message, first.until)
}

#[test]
fn nothing_starts_before_the_window_opens_and_all_is_done_within_it() {
    let mut world = world(SPEC);
    world.window("saturday", SATURDAY);
    until(&mut world, "2026-11-21T20:00:00Z");
    assert!(world.permits.is_empty());
    let plan = until(&mut world, "2026-11-21T23:59:00Z");
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
    assert!(world.permits.iter().all(|given| given.at >= at("2026-11-21T20:00:00Z")));
    assert_eq!(plan.next_evaluation, Some(at("2026-11-22T00:00:00Z")), "when the window closes");
}

#[test]
fn what_waits_says_for_which_window_and_until_when() {
    let mut world = world(SPEC);
    world.window("saturday", SATURDAY);
    let plan = world.settle();
    let opens = at("2026-11-21T20:00:00Z");
    assert_eq!(plan.next_evaluation, Some(opens));
    let (reason, message, until) = waiting(&world);
    assert_eq!(reason, "OutsideWindow");
    let sentence = "MaintenanceWindow saturday opens at 2026-11-21T20:00:00Z and closes at 2026-11-22T00:00:00Z.";
    assert!(message.ends_with(sentence), "{message}");
    assert_eq!(until, Some(opens));
    let told = explained(&world);
    assert_eq!(told, format!("test-1 does not start: {sentence}"));
    let status = world.status("november");
    assert!(conditions::is_true(&status.conditions, conditions::AWAITING_WINDOW));
    let window = world.windows["saturday"].status.clone().unwrap();
    assert!(!window.open);
    assert_eq!(window.next_open, Some(opens));
    assert_eq!(window.next_close, Some(at("2026-11-22T00:00:00Z")));
    assert!(conditions::is_true(&window.conditions, conditions::READY));
}

#[test]
fn weeks_between_windows_are_nobodys_lack_of_progress() {
    let spec = SPEC.replace("windows:", "progressDeadline: 6h, windows:");
    let mut world = world(&spec);
    // One device each time: the other one begins too late.
    world.window("saturday", &SATURDAY.replace("4h", "7m"));
    until(&mut world, "2026-11-28T21:00:00Z");
    let status = world.status("november");
    assert!(status.halted.is_none(), "{:?}", status.halted);
    assert_eq!(status.phase, Some(RolloutPhase::Completed), "{:?}", status.message);
    let installs = world.permits.iter().filter(|given| given.step == PermitStep::Install);
    let days: Vec<String> = installs.map(|given| given.at.to_string()[..10].to_owned()).collect();
    assert_eq!(days, ["2026-11-21", "2026-11-28"]);
}

#[test]
fn a_freeze_wins_over_an_open_window_and_over_none_at_all() {
    for spec in [SPEC.to_owned(), SPEC.replace(", windows: [saturday]", "")] {
        let mut world = world(&spec);
        world.window("saturday", SATURDAY);
        world.window(
            "black-friday",
            "
type: Deny
reason: the shop sells
schedule: {once: {from: 2026-11-20T00:00:00Z, until: 2026-11-21T21:00:00Z}}",
        );
        world.settle();
        let (reason, message, frees) = waiting(&world);
        assert_eq!(reason, "Frozen");
        let told = "MaintenanceWindow black-friday is a freeze until 2026-11-21T21:00:00Z: the shop sells.";
        assert!(message.ends_with(told), "{message}");
        assert_eq!(frees, Some(at("2026-11-21T21:00:00Z")));
        until(&mut world, "2026-11-21T20:59:00Z");
        assert!(world.permits.is_empty());
        until(&mut world, "2026-11-21T23:59:00Z");
        assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
    }
}

#[test]
fn a_freeze_of_some_devices_leaves_the_others_alone() {
    let mut world = world(
        "
updates: {select: {release: 2026-11}}
stages: [{name: test, group: test, maxConcurrency: 2}]",
    );
    let labels = [("stage", "test"), ("ward", "3")];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    world.devices.get_mut("test-1").unwrap().labels = std::sync::Arc::new(labels.into());
    world.window(
        "ward-3",
        "
type: Deny
reason: surgery
selector: {matchLabels: {ward: \"3\"}}
schedule: {once: {from: 2026-11-20T00:00:00Z, until: 2026-12-01T00:00:00Z}}",
    );
    until(&mut world, "2026-11-21T00:00:00Z");
    assert_eq!(world.state("november", "test-1"), Some(LineState::Pending));
    assert_eq!(world.state("november", "test-2"), Some(LineState::Succeeded));
}

#[test]
fn a_group_s_windows_hold_whatever_the_stage_names() {
    let mut world = world(&SPEC.replace(", windows: [saturday]", ""));
    world.window("saturday", SATURDAY);
    world.groups.get_mut("test").unwrap().spec.windows = vec!["saturday".to_owned()];
    until(&mut world, "2026-11-21T19:59:00Z");
    assert!(world.permits.is_empty());
    assert_eq!(waiting(&world).0, "OutsideWindow");
    until(&mut world, "2026-11-21T23:59:00Z");
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
}

#[test]
fn each_device_s_own_clock_opens_its_window() {
    let mut world = world(
        "
updates: {select: {release: 2026-11}}
stages: [{name: test, group: test, maxConcurrency: 2, windows: [night]}]",
    );
    world.devices.get_mut("test-1").unwrap().time_zone = Some("Asia/Tokyo".into());
    world.devices.get_mut("test-2").unwrap().time_zone = Some("America/New_York".into());
    world.window(
        "night",
        "{type: Allow, schedule: {cron: 0 22 * * *}, duration: 4h, timeZone: Device}",
    );
    until(&mut world, "2026-11-22T12:00:00Z");
    let mut began: Vec<(String, String)> = Vec::new();
    for given in world.permits.iter().filter(|given| given.step == PermitStep::Install) {
        began.push((given.device.clone(), given.at.to_string()[..13].to_owned()));
    }
    began.sort();
    let expected = [("test-1", "2026-11-21T13"), ("test-2", "2026-11-21T03")];
    assert_eq!(began, expected.map(|(device, at)| (device.to_owned(), at.to_owned())));
}

#[test]
fn what_can_never_open_is_said_at_once_and_halts_in_the_end() {
    let night = "{type: Allow, schedule: {cron: 0 22 * * *}, duration: 4h, timeZone: Device}";
    let never = "{type: Allow, schedule: {cron: 0 22 30 2 *}, duration: 4h, timeZone: UTC}";
    let no_restart = SATURDAY.replace("type: Allow", "type: Allow\nallows: [Install]");
    let others =
        SATURDAY.replace("type: Allow", "type: Allow\nselector: {matchLabels: {ward: \"9\"}}");
    let zone = "{type: Allow, schedule: {cron: 0 22 * * *}, duration: 4h, timeZone: Mars/Base}";
    for (window, reason) in [
        (Some(night), Reason::NoTimeZone),
        (Some(never), Reason::WindowNeverOpens),
        (Some(&*no_restart), Reason::WindowNeverOpens),
        (Some(&*others), Reason::WindowNeverOpens),
        (Some(zone), Reason::InvalidWindow),
        (None, Reason::WindowNotFound),
    ] {
        let mut world = world(SPEC);
        if let Some(window) = window {
            world.window("saturday", window);
        }
        until(&mut world, "2026-11-21T20:30:00Z");
        assert_eq!(waiting(&world).0, reason.as_str(), "{window:?}");
        assert!(world.permits.is_empty(), "{window:?}");
        until(&mut world, "2026-11-29T00:00:00Z");
        let halted = world.status("november").halted;
        let reason = halted.map(|latch| latch.reason);
        assert_eq!(reason.as_deref(), Some("ProgressDeadlineExceeded"), "{window:?}");
    }
}

#[test]
fn a_freeze_that_cannot_be_read_is_in_force() {
    let mut world = world(&SPEC.replace(", windows: [saturday]", ""));
    world.window(
        "freeze",
        "{type: Deny, reason: r, schedule: {cron: every day}, duration: 4h, timeZone: UTC}",
    );
    until(&mut world, "2026-11-21T20:30:00Z");
    assert!(world.permits.is_empty());
    assert_eq!(waiting(&world).0, "InvalidWindow");
}

#[test]
fn a_window_that_stays_open_is_never_written_again() {
    let mut world = world(SPEC);
    world.window("saturday", SATURDAY);
    until(&mut world, "2026-11-21T21:00:00Z");
    world.settle();
    let status = world.windows["saturday"].status.clone();
    until(&mut world, "2026-11-21T23:00:00Z");
    assert_eq!(world.windows["saturday"].status, status);
    assert!(status.unwrap().open);
    let view = WindowView::new(&world.windows["saturday"]);
    assert_eq!(view.problem(), None);
}

#[test]
fn a_batch_that_a_dead_leader_left_open_is_closed_without_grants_in_a_freeze() {
    let mut world = world(&SPEC.replace(", windows: [saturday]", ""));
    world.die_with_a_batch_open();
    let freeze = "{type: Deny, reason: r, schedule: {once: {from: 2026-11-20T00:00:00Z, until: 2026-11-22T00:00:00Z}}}";
    world.window("freeze", freeze);
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Pending));
    let batch = world.ledger.batch.clone().unwrap();
    assert_eq!(world.line("november", "test-1").unwrap().sequence, batch.sequence);
    world.windows.clear();
    until(&mut world, "2026-11-21T02:00:00Z");
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
}

#[test]
fn a_device_that_may_have_to_wait_for_its_restart_has_its_time_from_then_on() {
    let mut world = world(SPEC);
    world.window("saturday", SATURDAY);
    until(&mut world, "2026-11-21T20:00:00Z");
    world.settle();
    let job = world.jobs.values().next().unwrap();
    assert_eq!(job.start_by, at("2026-11-22T00:00:00Z"), "the window is shorter than four hours");
    assert_eq!(job.finish_by, at("2026-11-29T20:00:00Z"), "a day from when it may restart again");
}

#[test]
fn windows_that_never_meet_are_no_opening_to_wait_for() {
    let mut world = world(SPEC);
    world.window("saturday", SATURDAY);
    world
        .window("noon", "{type: Allow, schedule: {cron: 0 12 * * *}, duration: 2h, timeZone: UTC}");
    world.groups.get_mut("test").unwrap().spec.windows = vec!["noon".to_owned()];
    world.settle();
    let (reason, message, when) = waiting(&world);
    assert_eq!((reason.as_str(), when), ("WindowNeverOpens", None), "{message}");
    until(&mut world, "2026-11-29T00:00:00Z");
    let halted = world.status("november").halted.map(|latch| latch.reason);
    assert_eq!(halted.as_deref(), Some("ProgressDeadlineExceeded"));
}

#[test]
fn a_device_that_is_away_while_nobody_may_begin_is_not_counted_as_absent() {
    let spec = SPEC.replace("windows:", "offline: {action: Fail, after: 6h}, windows:");
    let mut world = world(&spec);
    world.window("saturday", SATURDAY);
    world.settle();
    world.set_online("test-2", false);
    until(&mut world, "2026-11-21T19:59:00Z");
    assert_eq!(world.state("november", "test-2"), Some(LineState::Pending));
    assert!(world.status("november").halted.is_none());
}

#[test]
fn a_device_that_restarts_first_begins_only_where_it_may_restart() {
    let spec = SPEC.replace("windows: [saturday]", "windows: [day, saturday]")
        + "\npreflight: {pendingReboot: RebootFirst}";
    let mut world = world(&spec);
    world.devices.get_mut("test-1").unwrap().hard_pending_reboot = true;
    world.devices.remove("test-2");
    world.window("saturday", SATURDAY);
    world.window(
        "day",
        "{type: Allow, allows: [Install], schedule: {cron: 0 8 * * *}, duration: 8h, timeZone: UTC}",
    );
    until(&mut world, "2026-11-21T19:59:00Z");
    assert_eq!(world.line("november", "test-1").unwrap().attempt, 0, "it took no slot by day");
    until(&mut world, "2026-11-21T23:59:00Z");
    assert_eq!(world.state("november", "test-1"), Some(LineState::Succeeded));
}

#[test]
fn slots_that_wait_for_a_restart_window_stop_the_stage_s_clock() {
    let spec = "
updates: {select: {release: 2026-11}}
stages: [{name: test, group: test, maxConcurrency: 1, progressDeadline: 2d, windows: [day, sunday]}]";
    let mut world = world(spec);
    world.window(
        "day",
        "{type: Allow, allows: [Install], schedule: {cron: 0 8 * * *}, duration: 8h, timeZone: UTC}",
    );
    world.window(
        "sunday",
        "{type: Allow, allows: [Reboot], schedule: {monthly: {week: Last, day: Sunday, at: '02:30'}}, duration: 3h, timeZone: UTC}",
    );
    // Both, a month apart; in between nothing happens but that time passes.
    for (jump, end) in [
        ("2026-11-21T07:59:00Z", "2026-11-21T09:00:00Z"),
        ("2026-11-29T02:29:00Z", "2026-11-29T09:00:00Z"),
        ("2026-12-27T02:29:00Z", "2026-12-27T06:00:00Z"),
    ] {
        world.now = at(jump);
        until(&mut world, end);
    }
    let status = world.status("november");
    assert!(status.halted.is_none(), "{:?}", status.halted);
    assert_eq!(status.phase, Some(RolloutPhase::Completed), "{:?}", status.message);
}
