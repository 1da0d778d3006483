//! What a forecast foretells: who starts when and why not, where it ends, what to know before.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use support::{SERVER, World, agent::Script, start};
use wardring_api::{Abort, DeviceMode, LineState, Reversible, RolloutPhase, reasons::Reason};
use wardring_planner::{Assumptions, DeviceForecast, Forecast, ForecastEnd, JobOutcome, forecast};

const TWO_STAGES: &str = "
updates: {select: {release: 2026-11}}
stages:
- {name: test, group: test, maxConcurrency: 1, soak: 1h}
- {name: production, group: production, maxConcurrency: 2}";

/// Two test servers and three of production.
fn world() -> World {
    let mut world = World::new();
    for (group, devices) in [("test", 2), ("production", 3)] {
        world.group(group);
        for number in 1..=devices {
            world.device(&format!("{group}-{number}"), group, SERVER);
        }
    }
    world
}

fn told(world: &World, assumptions: &Assumptions) -> Forecast {
    let uid = world.rollouts["november"].metadata.uid.clone().unwrap();
    forecast(&world.snapshot(), &uid, assumptions).unwrap()
}

fn foretold(world: &World) -> Forecast {
    told(world, &Assumptions::default())
}

fn of<'a>(forecast: &'a Forecast, device: &str) -> &'a DeviceForecast {
    forecast.devices.iter().find(|all| all.device == device).unwrap()
}

fn after(minutes: i64) -> Timestamp {
    start() + SignedDuration::from_mins(minutes)
}

#[test]
fn every_device_has_its_start_and_its_end_in_the_order_of_stages_and_caps() {
    let mut world = world();
    world.rollout("november", TWO_STAGES);
    let forecast = foretold(&world);

    let ForecastEnd::Completed(end) = forecast.end else { panic!("{:?}", forecast.end) };
    let starts: Vec<Timestamp> =
        forecast.devices.iter().map(|device| device.starts.unwrap()).collect();
    assert_eq!(forecast.devices.len(), 5);
    assert!(forecast.devices.iter().all(|device| {
        device.held.is_none() && device.done.is_some_and(|(_, state)| state == LineState::Succeeded)
    }));
    // One at a time, each with its 40 minutes and the time to settle.
    let [first, second] = [of(&forecast, "test-1"), of(&forecast, "test-2")];
    assert_eq!(first.starts, Some(after(0)));
    assert_eq!(second.starts, first.done.map(|(at, _)| at));
    assert!(first.done.unwrap().0 >= after(40));
    assert_eq!(second.waited_for, Some(Reason::SlotsTaken));
    let [test, production] = &forecast.stages[..] else { panic!("{:?}", forecast.stages) };
    assert_eq!(test.held[0].0, Reason::SlotsTaken);
    assert!(test.held[0].1 >= SignedDuration::from_mins(40), "{:?}", test.held);
    // The soak lies between them.
    let soaked = second.done.unwrap().0 + SignedDuration::from_hours(1);
    assert!(test.completes.unwrap() >= soaked && production.opens.unwrap() >= soaked);
    assert_eq!(production.devices, Some(3));
    assert_eq!(starts.iter().filter(|at| **at == production.opens.unwrap()).count(), 2);
    assert!(end >= forecast.devices.iter().map(|device| device.done.unwrap().0).max().unwrap());
    assert!(world.rollouts["november"].status.is_none(), "nothing was written");
}

#[test]
fn a_device_starts_with_its_window_and_says_what_it_waited_for() {
    let mut world = world();
    world.window(
        "saturday",
        "{type: Allow, schedule: {cron: 0 22 * * SAT}, duration: 6h, timeZone: UTC}",
    );
    world.rollout("november", &TWO_STAGES.replace("maxConcurrency: 2", "windows: [saturday]"));
    let forecast = foretold(&world);

    let production = of(&forecast, "production-1");
    assert_eq!(production.starts, Some("2026-11-21T22:00:00Z".parse().unwrap()));
    assert_eq!(production.waited_for, Some(Reason::OutsideWindow));
    assert!(matches!(forecast.end, ForecastEnd::Completed(_)), "{:?}", forecast.end);
}

#[test]
fn who_never_starts_is_held_with_its_reason_and_what_waits_for_it_is_told() {
    let mut world = world();
    world.devices.get_mut("test-2").unwrap().mode = DeviceMode::Observe;
    world.set_online("production-3", false);
    world.rollout("november", TWO_STAGES);
    let forecast = foretold(&world);

    let watched = of(&forecast, "test-2");
    assert_eq!((watched.starts, watched.done), (None, None));
    assert_eq!(watched.held.as_ref().unwrap().reason, Reason::ObserveMode);
    let ForecastEnd::Waits { since, sentences } = &forecast.end else { panic!("it waits") };
    assert_eq!(*since, start() + SignedDuration::from_hours(7 * 24), "its progressDeadline");
    assert!(sentences.iter().any(|text| text.contains("test")), "{sentences:?}");
    assert_eq!(forecast.stages[1].opens, None, "production does not open");

    world.devices.get_mut("test-2").unwrap().mode = DeviceMode::Manage;
    let away = of(&foretold(&world), "production-3").clone();
    assert_eq!((away.starts, away.held.unwrap().reason), (None, Reason::Offline));
    let online = told(&world, &Assumptions { all_online: true, ..Assumptions::default() });
    assert!(matches!(online.end, ForecastEnd::Completed(_)), "{:?}", online.end);
}

#[test]
fn what_no_stage_proves_and_no_update_is_for_is_told_before() {
    let mut world = world();
    world.device("production-4", "production", "Windows 11 24H2");
    world.device("production-5", "production", "Windows Server 2016");
    world.updates[0].reversible = Reversible::No;
    world.rollout("november", TWO_STAGES);
    let forecast = foretold(&world);

    let notes = forecast.notes.join("\n");
    assert!(notes.contains("No update of this rollout is for Windows Server 2016."), "{notes}");
    assert!(
        notes.contains("Stage production: no earlier stage proved product Windows 11"),
        "{notes}"
    );
    assert_eq!(of(&forecast, "test-1").reversible, Reversible::No);
    assert_eq!(of(&forecast, "production-4").reversible, Reversible::Unknown);
}

#[test]
fn a_rollout_under_way_goes_on_from_where_it_is() {
    let mut world = world();
    world.rollout("november", TWO_STAGES);
    world.settle();
    // The first device asks, installs and restarts.
    for _ in 0..5 {
        world.minute(|_| {});
    }
    let before = world.snapshot();
    let forecast = foretold(&world);

    let granted = world.line("november", "test-1").unwrap().at;
    assert_eq!(of(&forecast, "test-1").starts, granted, "it is at work already");
    assert!(granted.unwrap() < world.now);
    assert!(matches!(forecast.end, ForecastEnd::Completed(_)), "{:?}", forecast.end);
    assert_eq!(format!("{before:?}"), format!("{:?}", world.snapshot()));
}

#[test]
fn a_gate_that_is_measured_outside_is_assumed_to_pass() {
    let mut world = world();
    let gate = "name: errors, type: Prometheus, prometheus: {provider: prom, query: errors}, \
                interval: 1m, successCondition: result < 0.05";
    let gates = format!("gates: {{before: [{{{gate}}}], after: [{{{gate}}}]}}");
    world.rollout("november", &TWO_STAGES.replace("maxConcurrency: 2", &gates));
    assert!(matches!(foretold(&world).end, ForecastEnd::Completed(_)), "{:?}", foretold(&world));
}

#[test]
fn a_rollout_that_means_nothing_says_so() {
    let mut world = world();
    world.rollout("november", &TWO_STAGES.replace("2026-11", "2019-01"));
    let forecast = foretold(&world);
    let ForecastEnd::Waits { since, sentences } = &forecast.end else { panic!("it waits") };
    assert_eq!(*since, start());
    assert!(sentences.join(" ").contains("2019-01"), "{sentences:?}");
    // Nobody can tell whom updates would be for that nobody knows.
    assert_eq!(forecast.devices.len(), 5);
    assert!(forecast.devices.iter().all(|device| {
        let held = device.held.as_ref().unwrap();
        held.reason == Reason::StageNotOpen
            && held.message.contains("2019-01")
            && device.reversible == Reversible::Unknown
    }));
}

/// Why these devices are held, in this order.
fn reasons<const N: usize>(forecast: &Forecast, devices: [&str; N]) -> [Reason; N] {
    devices.map(|device| of(forecast, device).held.as_ref().unwrap().reason)
}

#[test]
fn a_stage_that_does_not_open_tells_of_each_device_whether_it_could_start_and_why_it_does_not_open()
{
    let mut world = world();
    world.devices.get_mut("test-2").unwrap().mode = DeviceMode::Observe;
    world.devices.get_mut("production-2").unwrap().mode = DeviceMode::Observe;
    world.set_online("production-3", false);
    world.device("production-4", "production", "Windows Server 2016");
    world.device("production-5", "production", "Windows 11 24H2").deleting = true;
    world.updates[0].reversible = Reversible::No;
    world.rollout("november", TWO_STAGES);
    let forecast = foretold(&world);

    let [test, production] = &forecast.stages[..] else { panic!("{:?}", forecast.stages) };
    assert_eq!(test.does_not_open, None);
    assert_eq!((production.devices, production.opens), (Some(4), None));
    let why = production.does_not_open.as_ref().unwrap();
    assert!(why.starts_with("Stage production does not open: stage test comes first. "), "{why}");
    assert!(why.contains("Stage test was not proven within its progressDeadline"), "{why}");
    assert_eq!(
        reasons(&forecast, ["production-1", "production-2", "production-3", "production-4"]),
        [Reason::StageNotOpen, Reason::ObserveMode, Reason::Offline, Reason::NotApplicable]
    );
    let ready = of(&forecast, "production-1");
    let told = &ready.held.as_ref().unwrap().message;
    assert!(told.starts_with("production-1 could start, and when is unknown. "), "{told}");
    assert!(told.ends_with(&**why), "{told}");
    assert_eq!((ready.starts, ready.done, ready.reversible), (None, None, Reversible::No));
    assert_eq!(of(&forecast, "production-4").reversible, Reversible::Unknown);
    assert_eq!(forecast.devices.len(), 6, "who is being deleted would not be in it");
    assert!(world.rollouts["november"].status.is_none(), "nothing was written");
}

#[test]
fn a_window_that_never_opens_is_told_of_a_stage_that_does_not_open_and_a_closed_one_is_not() {
    let mut world = world();
    world.devices.get_mut("test-2").unwrap().mode = DeviceMode::Observe;
    for (name, cron) in [("saturday", "0 22 * * SAT"), ("never", "0 22 30 2 *")] {
        let schedule = format!("schedule: {{cron: {cron}}}, duration: 4h, timeZone: UTC");
        world.window(name, &format!("{{type: Allow, {schedule}}}"));
    }
    for (window, reason) in
        [("saturday", Reason::StageNotOpen), ("never", Reason::WindowNeverOpens)]
    {
        let windows = format!("windows: [{window}]");
        world.rollout("november", &TWO_STAGES.replace("maxConcurrency: 2", &windows));
        assert_eq!(reasons(&foretold(&world), ["production-1"]), [reason]);
    }
}

#[test]
fn a_stage_whose_gates_do_not_pass_does_not_open_and_neither_do_those_behind_it() {
    let mut world = world();
    world.devices.get_mut("production-2").unwrap().mode = DeviceMode::Observe;
    let gate = "name: nobody, type: Cel, cel: {expression: stage.pending}, \
                successCondition: result == 0";
    let gates = format!("gates: {{before: [{{{gate}}}]}}");
    world.rollout("november", &TWO_STAGES.replace("maxConcurrency: 1", &gates));
    let forecast = foretold(&world);

    let [test, production] = &forecast.stages[..] else { panic!("{:?}", forecast.stages) };
    assert_eq!((test.devices, test.opens), (Some(2), None));
    let why = test.does_not_open.as_ref().unwrap();
    assert!(why.starts_with("Stage test does not open: "), "{why}");
    assert!(why.contains("gate nobody"), "{why}");
    assert!(production.does_not_open.as_ref().unwrap().contains("gate nobody"));
    assert_eq!(reasons(&forecast, ["test-1"]), [Reason::GateFailed]);
    assert_eq!(
        reasons(&forecast, ["production-1", "production-2"]),
        [Reason::StageNotOpen, Reason::ObserveMode]
    );
    // Its own gates are the stage's matter, and no device is held for them.
    world.devices.get_mut("test-2").unwrap().mode = DeviceMode::Observe;
    world.rollout("november", &TWO_STAGES.replace("maxConcurrency: 2", &gates));
    assert_eq!(reasons(&foretold(&world), ["production-1"]), [Reason::StageNotOpen]);
}

#[test]
fn the_devices_of_later_stages_are_listed_once_and_by_the_stage_that_would_have_them() {
    let mut world = world();
    world.devices.get_mut("test-2").unwrap().mode = DeviceMode::Observe;
    let both =
        "selector: {matchExpressions: [{key: stage, operator: In, values: [test, production]}]}";
    let rest = "selector: {matchExpressions: [{key: stage, operator: Exists}]}";
    world.device("spare-1", "spare", SERVER);
    let spec = TWO_STAGES.replace("group: production", both);
    world.rollout("november", &format!("{spec}\n- {{name: rest, {rest}}}"));
    let forecast = foretold(&world);

    let devices: Vec<_> =
        forecast.devices.iter().map(|all| (all.stage.as_str(), all.device.as_str())).collect();
    let production = ["production-1", "production-2", "production-3"];
    let mut expected = vec![("test", "test-1"), ("test", "test-2")];
    expected.extend(production.map(|device| ("production", device)));
    expected.push(("rest", "spare-1"));
    assert_eq!(devices, expected);
    let counts: Vec<_> = forecast.stages.iter().map(|stage| stage.devices).collect();
    assert_eq!(counts, [Some(2), Some(3), Some(1)]);
    let why = forecast.stages[2].does_not_open.as_ref().unwrap();
    assert!(why.starts_with("Stage rest does not open: stage test comes first."), "{why}");
}

#[test]
fn a_stage_whose_group_is_missing_says_so_and_one_before_it_lists_its_devices() {
    let mut world = world();
    world.groups.remove("production");
    world.rollout("november", TWO_STAGES);
    let forecast = foretold(&world);
    let missing = "Stage production names DeviceGroup production, which does not exist.";
    let [test, production] = &forecast.stages[..] else { panic!("{:?}", forecast.stages) };
    assert_eq!(
        production.does_not_open,
        Some(format!("Stage production does not open: {missing}"))
    );
    assert_eq!((test.devices, production.devices), (Some(2), None));
    let both = [Reason::StageNotOpen, Reason::StageNotOpen];
    assert_eq!(reasons(&forecast, ["test-1", "test-2"]), both);
    assert!(of(&forecast, "test-1").held.as_ref().unwrap().message.contains(missing));
}

#[test]
fn an_aborted_rollout_still_tells_what_holds_the_devices_of_its_later_stages() {
    let mut world = world();
    world.devices.get_mut("production-2").unwrap().mode = DeviceMode::Observe;
    world.rollout("november", TWO_STAGES);
    world.settle();
    world.edit("november", |spec| spec.abort = Some(Abort { reason: "enough".to_owned() }));
    let forecast = foretold(&world);
    assert_eq!(
        reasons(&forecast, ["production-1", "production-2"]),
        [Reason::StageNotOpen, Reason::ObserveMode]
    );
    let why = forecast.stages[1].does_not_open.as_ref().unwrap();
    assert!(why.contains("enough"), "{why}");
}

#[test]
fn what_lies_beyond_the_horizon_goes_on_and_is_not_called_stuck() {
    let mut world = world();
    world.rollout("november", &TWO_STAGES.replace("soak: 1h", "soak: 30d"));
    let week = SignedDuration::from_hours(7 * 24);
    let forecast = told(&world, &Assumptions { horizon: week, ..Assumptions::default() });
    let ForecastEnd::GoesOn { looked_until, .. } = forecast.end else {
        panic!("{:?}", forecast.end)
    };
    assert!(looked_until <= start() + week);
    let why = forecast.stages[1].does_not_open.clone().unwrap();
    let day = looked_until.strftime("%Y-%m-%d");
    assert!(why.starts_with(&format!("Stage production does not open by {day}")), "{why}");
    assert!(why.contains("soak"), "{why}");
    assert_eq!(reasons(&forecast, ["production-1"]), [Reason::StageNotOpen]);
    assert!(matches!(foretold(&world).end, ForecastEnd::Completed(_)));
}

#[test]
fn what_is_foretold_comes_true_where_devices_do_as_they_should() {
    let mut world = world();
    world.window(
        "saturday",
        "{type: Allow, schedule: {cron: 0 22 * * SAT}, duration: 6h, timeZone: UTC}",
    );
    let spec = TWO_STAGES.replace("maxConcurrency: 2", "windows: [saturday], maxConcurrency: 2");
    world.rollout("november", &format!("{spec}\nhealth: {{settle: 1m}}"));
    let minutes = SignedDuration::from_mins;
    let quick = Assumptions { install: minutes(3), restart: minutes(3), ..Assumptions::default() };
    let foretold = told(&world, &quick);

    let ForecastEnd::Completed(end) = foretold.end else { panic!("{:?}", foretold.end) };
    world.settle();
    let mut starts = std::collections::BTreeMap::new();
    while world.now < end + minutes(15) {
        world.minute(|_| {});
        for device in world.jobs.keys() {
            starts.entry(device.clone()).or_insert(world.now);
        }
    }
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
    let done = world.status("november").stages.iter().filter_map(|all| all.completed_at).max();
    assert!(done.unwrap().duration_since(end).abs() <= minutes(15), "{done:?} {end}");
    for device in &foretold.devices {
        let off = starts[&device.device].duration_since(device.starts.unwrap()).abs();
        assert!(off <= minutes(15), "{device:?} {}", starts[&device.device]);
    }
}

#[test]
fn who_did_not_come_back_is_not_foretold_to_come_back() {
    let mut world = world();
    world.rollout("november", &TWO_STAGES.replace("maxConcurrency: 1", "maxConcurrency: 2"));
    world.agents.get_mut("test-2").unwrap().script = Script::Silent;
    world.settle();
    for _ in 0..12 {
        world.minute(|_| {});
    }
    assert_eq!(world.devices["test-2"].online, Some(false));
    let forecast = foretold(&world);
    let lost = of(&forecast, "test-2");
    assert!(lost.done.is_none_or(|(_, state)| state == LineState::Unreachable), "{lost:?}");
    assert!(lost.held.is_some(), "{lost:?}");
    assert_eq!(of(&forecast, "test-1").done.unwrap().1, LineState::Succeeded);
}

#[test]
fn a_rollback_that_failed_is_not_foretold_to_succeed() {
    let mut world = world();
    let rollback = "onFailure: {action: Rollback, scope: Stage}";
    world.rollout("november", &format!("{TWO_STAGES}\n{rollback}"));
    world.agents.get_mut("test-1").unwrap().script = Script::Damaged;
    world.settle();
    for _ in 0..60 {
        world.minute(|_| {});
    }
    assert_eq!(world.state("november", "test-1"), Some(LineState::RollbackFailed));
    // As somebody reads it who cannot tell whether an answer is the device's own.
    let mut snapshot = world.snapshot();
    for job in &mut snapshot.jobs {
        Arc::make_mut(job).outcome = JobOutcome::None;
    }
    let uid = world.rollouts["november"].metadata.uid.clone().unwrap();
    let forecast = forecast(&snapshot, &uid, &Assumptions::default()).unwrap();
    assert_eq!(of(&forecast, "test-1").done.unwrap().1, LineState::RollbackFailed);
    assert!(matches!(forecast.end, ForecastEnd::Waits { .. }), "{:?}", forecast.end);
}

#[test]
fn a_halted_rollout_waits_for_a_person_also_beside_a_window_that_opens_every_week() {
    let mut world = world();
    world.window(
        "saturday",
        "{type: Allow, schedule: {cron: 0 22 * * SAT}, duration: 6h, timeZone: UTC}",
    );
    world.agents.get_mut("test-1").unwrap().script = Script::ServiceDown;
    world.rollout("november", TWO_STAGES);
    world.settle();
    for _ in 0..60 {
        world.minute(|_| {});
    }
    assert!(world.status("november").halted.is_some());
    let forecast = foretold(&world);
    let ForecastEnd::Waits { since, .. } = forecast.end else { panic!("{:?}", forecast.end) };
    assert_eq!(since, world.now);
    assert!(of(&forecast, "test-1").held.is_some(), "it failed, and that is told");
}

#[test]
fn who_is_left_out_is_told_though_the_rollout_completes() {
    let mut world = world();
    world.set_online("production-3", false);
    let offline = "offline: {action: Defer, after: 24h}, minCoverage: 50%";
    world.rollout("november", &TWO_STAGES.replace("maxConcurrency: 2", offline));
    let forecast = foretold(&world);
    assert!(matches!(forecast.end, ForecastEnd::Completed(_)), "{:?}", forecast.end);
    let left = of(&forecast, "production-3");
    assert_eq!(left.done.unwrap().1, LineState::Deferred);
    assert!(left.held.is_some() && of(&forecast, "production-1").held.is_none());
}

#[test]
fn a_stage_with_a_tail_goes_on_without_who_stays_away_and_says_when_it_closes() {
    let mut world = world();
    world.set_online("test-1", false);
    world.set_online("test-2", true);
    let offline = "offline: {action: CatchUp, after: 24h, closeAfter: 7d}, minCoverage: 50%";
    world.rollout(
        "november",
        &TWO_STAGES.replacen("name: test,", &format!("name: test, {offline},"), 1),
    );
    let forecast = foretold(&world);
    let (test, production) = (&forecast.stages[0], &forecast.stages[1]);
    let goes_on = test.goes_on.expect("it does not wait for test-1");
    assert_eq!(production.opens, Some(goes_on));
    assert!(production.completes.unwrap() < test.completes.unwrap());
    let ForecastEnd::Completed(at) = forecast.end else { panic!("{:?}", forecast.end) };
    assert_eq!(Some(at), test.completes, "the tail is what the rollout waits for");
    assert_eq!(of(&forecast, "test-1").done.unwrap().1, LineState::Deferred);
}

#[test]
fn a_restart_before_the_installation_is_followed_by_the_installation() {
    let mut world = world();
    world.devices.get_mut("test-1").unwrap().hard_pending_reboot = true;
    world.rollout("november", &format!("{TWO_STAGES}\npreflight: {{pendingReboot: RebootFirst}}"));
    let forecast = foretold(&world);
    let twice = of(&forecast, "test-1");
    let took = twice.done.unwrap().0.duration_since(twice.starts.unwrap());
    assert!(took >= SignedDuration::from_mins(50), "two restarts and an installation: {took}");
    assert!(matches!(forecast.end, ForecastEnd::Completed(_)), "{:?}", forecast.end);
}

#[test]
fn a_rollout_that_is_being_deleted_has_no_forecast() {
    let mut world = world();
    world.rollout("november", TWO_STAGES);
    world.settle();
    world.delete_rollout("november");
    let uid = world.rollouts["november"].metadata.uid.clone().unwrap();
    assert_eq!(forecast(&world.snapshot(), &uid, &Assumptions::default()), None);
}

#[test]
fn a_gate_over_a_long_soak_is_looked_at_now_and_then() {
    let mut world = world();
    let gate = "name: errors, type: Prometheus, prometheus: {provider: prom, query: errors}, \
                interval: 1m, successCondition: result < 0.05";
    let soak = format!("soak: 30d, gates: {{during: [{{{gate}}}]}}");
    world.rollout("november", &TWO_STAGES.replace("soak: 1h", &soak));
    let forecast = foretold(&world);
    let ForecastEnd::Completed(end) = forecast.end else { panic!("{:?}", forecast.end) };
    let hours = end.duration_since(start()).as_hours();
    // Two at a time, and the end of the soak to one part in five hundred.
    assert!((30 * 24..30 * 24 + 8).contains(&hours), "{hours}");
}
