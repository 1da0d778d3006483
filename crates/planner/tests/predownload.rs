//! Downloads ahead of a window: they begin in time and under their own cap, stop where people stop things,
//! count against nothing, and give way to whoever installs.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use support::{SERVER, World, agent::Fetch, agent::Script, explained, good_answer};
use wardring_api::{
    Cap, DeviceMode, JobAction, LineState, Permit, PermitStep, RolloutPhase, SliceLine,
    StageCounts, StageState, reasons::Reason,
};
use wardring_planner::{
    Action, Assumptions, ForecastEnd, JobOutcome, JobView, Outcome, OutcomeResult, Plan, Snapshot,
    check, forecast, take_over,
};

// The world begins on Friday, 2026-11-20, at 22:00 UTC.
const SATURDAY: &str = "
type: Allow
schedule: {cron: 0 20 * * SAT}
duration: 4h
timeZone: UTC";
const OPENS: &str = "2026-11-21T20:00:00Z";
/// Twelve hours ahead.
const BEGINS: &str = "2026-11-21T08:00:00Z";

const SPEC: &str = "
updates: {select: {release: 2026-11}}
predownload: {ahead: 12h, maxConcurrency: 2}
stages: [{name: test, group: test, maxConcurrency: 1, windows: [saturday]}]";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn world(spec: &str, devices: usize) -> World {
    let mut world = World::new();
    world.group("test");
    for number in 1..=devices {
        world.device(&format!("test-{number}"), "test", SERVER);
    }
    world.window("saturday", SATURDAY);
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

fn counts(world: &World) -> StageCounts {
    world.status("november").stages[0].counts
}

fn downloads(world: &World) -> usize {
    let at_work = |job: &&JobView| job.outcome == JobOutcome::None;
    let jobs = world.jobs.values().filter(at_work);
    jobs.filter(|job| job.action == JobAction::Download).count()
}

fn fetches(world: &World) -> u32 {
    world.agents.values().map(|agent| agent.fetches).sum()
}

fn bring(world: &mut World, fetch: Fetch) {
    world.agents.values_mut().for_each(|agent| agent.fetch = fetch);
}

#[test]
fn downloads_begin_in_time_within_their_cap_and_the_window_finds_everything_there() {
    let mut world = world(SPEC, 5);
    let plan = world.settle();
    assert_eq!(plan.next_evaluation, Some(at(BEGINS)), "it wakes for the first downloads");
    until(&mut world, "2026-11-21T07:59:00Z");
    assert!(world.jobs.is_empty());
    until(&mut world, BEGINS);
    assert_eq!(downloads(&world), 2);
    let told = counts(&world);
    assert_eq!((told.pending, told.in_progress, told.downloading), (5, 0, 2));
    let waits = world.status("november").waiting_for;
    let told: Vec<&str> = waits.iter().map(|all| all.message.as_str()).collect();
    assert!(
        told.contains(&"Stage test: 2 devices download ahead of the window; 0 of 5 are done."),
        "{told:?}"
    );
    assert!(told.iter().any(|text| text.contains("saturday opens at 2026-11-21T20:00:00Z and ")));
    assert_eq!(
        explained(&world),
        "test-1 does not start: MaintenanceWindow saturday opens at 2026-11-21T20:00:00Z and closes at \
         2026-11-22T00:00:00Z. It downloads its updates meanwhile."
    );
    for _ in 0..120 {
        world.minute(|world| assert!(downloads(world) <= 2));
    }
    let told = counts(&world);
    assert_eq!((told.pending, told.downloading, told.downloaded), (5, 0, 5));
    assert!(explained(&world).ends_with(" Its updates are downloaded."), "{}", explained(&world));
    assert!(world.permits.is_empty() && world.jobs.is_empty());
    until(&mut world, "2026-11-21T23:59:00Z");
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
    assert!(world.permits.iter().all(|given| given.at >= at(OPENS)));
    for agent in world.agents.values() {
        assert_eq!((agent.fetches, agent.unprepared, agent.begun), (1, 0, 1), "{}", agent.name);
    }
}

#[test]
fn without_being_asked_nothing_is_downloaded_ahead() {
    let mut world = world(&SPEC.replace("predownload", "#"), 2);
    until(&mut world, "2026-11-21T19:59:00Z");
    assert_eq!(fetches(&world), 0);
}

#[test]
fn a_download_that_fails_fails_nothing_and_is_tried_again_less_and_less_often() {
    let mut world = world(SPEC, 1);
    bring(&mut world, Fetch::Fails);
    let (mut last, mut pauses) = (at(BEGINS), Vec::new());
    until(&mut world, BEGINS);
    while world.now < at("2026-11-21T19:00:00Z") {
        let before = fetches(&world);
        world.minute(|_| {});
        if fetches(&world) > before {
            pauses.push(world.now.duration_since(last).as_mins());
            last = world.now;
        }
    }
    // Each time some minutes go by from the grant until it has failed.
    assert_eq!(pauses.iter().map(|mins| mins / 60).collect::<Vec<_>>(), [0, 1, 2, 4]);
    assert_eq!((counts(&world).failed, counts(&world).pending), (0, 1));
    assert!(
        explained(&world).ends_with(
            " Its download ahead failed: the download failed: no route; it downloads when it installs, at the latest."
        ),
        "{}",
        explained(&world)
    );
    until(&mut world, "2026-11-21T23:59:00Z");
    let status = world.status("november");
    assert_eq!(status.phase, Some(RolloutPhase::Completed), "{:?}", status.message);
    assert!(status.halted.is_none());
    assert_eq!(world.agents["test-1"].unprepared, 1);
}

#[test]
fn a_device_is_asked_five_times_at_most() {
    let spec = SPEC.replace("12h", "90d").replace("SAT", "MON");
    let mut world = world(&spec, 1);
    bring(&mut world, Fetch::Fails);
    world.window("saturday", &SATURDAY.replace("0 20 * * SAT", "0 20 31 12 *"));
    until(&mut world, "2026-12-20T00:00:00Z");
    assert_eq!(fetches(&world), 5);
    assert_eq!(world.line("november", "test-1").unwrap().downloads, 5);
}

#[test]
fn what_is_not_offered_or_there_already_is_found_by_the_installation_alone() {
    for (script, ends) in [
        (Script::AlreadyInstalled, LineState::AlreadyInstalled),
        (Script::NotOffered, LineState::NotOffered),
    ] {
        let mut world = world(&SPEC.replace("windows", "minProven: 0, windows"), 1);
        world.agents.get_mut("test-1").unwrap().script = script;
        until(&mut world, "2026-11-21T19:00:00Z");
        assert_eq!(world.state("november", "test-1"), Some(LineState::Pending));
        until(&mut world, "2026-11-21T23:59:00Z");
        assert_eq!(world.state("november", "test-1"), Some(ends));
    }
}

#[test]
fn whoever_stops_installing_stops_new_downloads() {
    type Stop = fn(&mut World);
    let stops: [(&str, Stop); 9] = [
        ("suspend", |world| world.edit("november", |spec| spec.suspend = Some(true))),
        ("abort", |world| {
            world.edit("november", |spec| {
                spec.abort = Some(wardring_api::Abort { reason: "enough".to_owned() });
            });
        }),
        ("deleted", |world| world.delete_rollout("november")),
        ("emergency", |world| world.stop("all", "{reason: ward closed}")),
        ("hold of the update", |world| {
            let spec = serde_yaml::from_str("{kbs: [KB5068787], reason: bad}").unwrap();
            world.holds.insert("bad".to_owned(), spec);
        }),
        ("hold of the device", |world| {
            let hold = wardring_api::Hold { reason: "demo".to_owned(), until: None };
            for row in world.devices.values_mut() {
                row.hold = Some(Box::new(hold.clone()));
            }
        }),
        ("observe", |world| {
            world.devices.values_mut().for_each(|row| row.mode = DeviceMode::Observe);
        }),
        ("group is gone", |world| drop(world.groups.remove("test"))),
        ("not asked for any more", |world| {
            world.edit("november", |spec| spec.predownload = None);
        }),
    ];
    for (what, stop) in stops {
        let mut world = world(SPEC, 3);
        until(&mut world, "2026-11-21T07:00:00Z");
        stop(&mut world);
        until(&mut world, "2026-11-21T19:59:00Z");
        assert_eq!(fetches(&world), 0, "{what}");
    }
}

#[test]
fn whoever_stops_the_rollout_calls_off_what_downloads() {
    type Stop = fn(&mut World);
    let stops: [(&str, Stop); 10] = [
        ("hold of the update", |world| {
            let spec = serde_yaml::from_str("{kbs: [KB5068787], reason: bad}").unwrap();
            world.holds.insert("bad".to_owned(), spec);
        }),
        ("hold of the device", |world| {
            let hold = wardring_api::Hold { reason: "surgery".to_owned(), until: None };
            for row in world.devices.values_mut() {
                row.hold = Some(Box::new(hold.clone()));
            }
        }),
        ("quarantine", |world| {
            world.devices.values_mut().for_each(|row| row.quarantined = true);
        }),
        ("observe", |world| {
            world.devices.values_mut().for_each(|row| row.mode = DeviceMode::Observe);
        }),
        ("forged permits", |world| {
            forge(world);
            world.edit("november", |spec| spec.suspend = Some(true));
        }),
        ("suspend", |world| world.edit("november", |spec| spec.suspend = Some(true))),
        ("abort", |world| {
            world.edit("november", |spec| {
                spec.abort = Some(wardring_api::Abort { reason: "enough".to_owned() });
            });
        }),
        ("deleted", |world| world.delete_rollout("november")),
        ("emergency", |world| world.stop("all", "{reason: ward closed}")),
        ("not asked for any more", |world| {
            world.edit("november", |spec| spec.predownload = None);
        }),
    ];
    for (what, stop) in stops {
        let mut world = world(SPEC, 3);
        bring(&mut world, Fetch::Hangs);
        until(&mut world, BEGINS);
        assert_eq!(downloads(&world), 2, "{what}");
        stop(&mut world);
        world.settle();
        assert_eq!(downloads(&world), 0, "{what}");
        assert_eq!(world.rollouts.contains_key("november"), what != "deleted", "it may go");
    }
}

#[test]
fn a_failed_device_that_halts_the_rollout_stops_downloads_too() {
    let mut world = world(SPEC, 4);
    world.group("canary");
    world.device("canary-1", "canary", SERVER);
    world.agents.get_mut("canary-1").unwrap().script = Script::InstallFails;
    // A tail keeps the first stage at work while the second one waits for its window.
    world.edit("november", |spec| {
        let stage = "{name: canary, group: canary}";
        spec.stages.insert(0, serde_yaml::from_str(stage).unwrap());
    });
    until(&mut world, "2026-11-21T19:59:00Z");
    assert!(world.status("november").halted.is_some());
    assert_eq!(fetches(&world), 0, "and its turn never came");
}

#[test]
fn a_gate_that_waits_lets_nothing_be_downloaded() {
    let spec = SPEC.replace(
        "windows:",
        "gates: {before: [{name: yes, type: Approval, approval: {}}]}, windows:",
    );
    let spec = format!("authors: [anna]{spec}");
    let mut world = world(&spec, 2);
    until(&mut world, "2026-11-21T19:59:00Z");
    assert_eq!(fetches(&world), 0);
}

#[test]
fn in_a_freeze_downloads_go_on() {
    let mut world = world(&SPEC.replace(", windows: [saturday]", ""), 2);
    world.window(
        "black-friday",
        "
type: Deny
reason: the shop sells
schedule: {once: {from: 2026-11-20T00:00:00Z, until: 2026-11-21T20:00:00Z}}",
    );
    until(&mut world, "2026-11-21T19:00:00Z");
    assert_eq!((counts(&world).downloaded, world.permits.len()), (2, 0));
}

#[test]
fn the_window_does_not_wait_for_a_download_that_hangs() {
    let mut world = world(SPEC, 3);
    bring(&mut world, Fetch::Hangs);
    until(&mut world, "2026-11-21T19:59:00Z");
    assert_eq!(downloads(&world), 2);
    world.minute(|_| {});
    // One slot: one of them is called off and begins; the other one goes on until its turn comes.
    assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
    assert_eq!(world.jobs["test-1"].action, JobAction::Install);
    assert_eq!(downloads(&world), 1);
    until(&mut world, "2026-11-21T23:59:00Z");
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
}

#[test]
fn a_rollout_that_may_begin_takes_a_device_from_one_that_only_downloads() {
    for action in ["install", "roll back"] {
        let mut world = world(SPEC, 1);
        world.rollout(
            "urgent",
            "{updates: {kbs: [KB5068787]}, stages: [{name: urgent, group: test, maxConcurrency: 1}]}",
        );
        if action == "install" {
            world.edit("urgent", |spec| spec.suspend = Some(true));
        }
        bring(&mut world, Fetch::Hangs);
        until(&mut world, "2026-11-21T07:00:00Z");
        // As if something of the rollout were left to download.
        world.agents.get_mut("test-1").unwrap().installed = false;
        until(&mut world, "2026-11-21T08:10:00Z");
        assert_eq!(downloads(&world), 1, "{action}");
        if action == "install" {
            world.edit("urgent", |spec| spec.suspend = Some(false));
        } else {
            world.order("back", "{rollout: urgent, reason: the ERP is down}");
        }
        world.minute(|_| {});
        let expected = if action == "install" { JobAction::Install } else { JobAction::Rollback };
        assert_eq!(world.jobs["test-1"].action, expected, "{action}");
        assert_eq!(downloads(&world), 0);
        // What was called off does not come back at once.
        for _ in 0..40 {
            world.minute(|world| assert_eq!(downloads(world), 0, "{action}"));
        }
    }
}

#[test]
fn a_device_that_downloads_is_there_for_its_group() {
    let mut world = world(&SPEC.replace("maxConcurrency: 1", "maxConcurrency: 3"), 3);
    world.group("test").spec.max_unavailable = Some(Cap::Count(1));
    bring(&mut world, Fetch::Hangs);
    until(&mut world, BEGINS);
    assert_eq!(downloads(&world), 2);
    assert_eq!(world.groups["test"].status.unavailable, 0);
}

#[test]
fn a_device_that_goes_away_leaves_its_place_to_the_next() {
    let mut world = world(SPEC, 3);
    bring(&mut world, Fetch::Hangs);
    until(&mut world, BEGINS);
    for device in ["test-1", "test-2"] {
        world.set_online(device, false);
    }
    for _ in 0..70 {
        world.minute(|_| {});
    }
    assert!(!world.jobs.contains_key("test-1") && world.jobs.contains_key("test-3"));
    assert_eq!((counts(&world).unreachable, counts(&world).pending), (0, 3));
}

#[test]
fn downloads_are_no_attempts() {
    let spec = SPEC.replace("windows", "retry: {maxAttempts: 2}, windows");
    let mut world = world(&spec, 1);
    until(&mut world, "2026-11-21T19:00:00Z");
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.attempt, line.downloads), (1, 1));
    let agent = world.agents.remove("test-1").unwrap();
    until(&mut world, OPENS);
    // It fails before it begins: then grants count, and a download is none of them.
    let answer = good_answer(&world);
    let answer = Outcome { result: OutcomeResult::Failed, started: false, ..answer };
    world.jobs.get_mut("test-1").unwrap().outcome = JobOutcome::Verified(answer);
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Failed));
    assert!(world.status("november").halted.is_none());
    world.agents.insert("test-1".to_owned(), agent);
    until(&mut world, "2026-11-21T23:59:00Z");
    assert_eq!(world.state("november", "test-1"), Some(LineState::Succeeded));
    assert_eq!(world.line("november", "test-1").unwrap().attempt, 3);
}

#[test]
fn a_controller_that_dies_anywhere_downloads_no_more_and_loses_nothing() {
    for writes in 0..12 {
        let mut world = world(SPEC, 3);
        until(&mut world, "2026-11-21T07:59:00Z");
        world.now = at(BEGINS);
        world.crash_after(writes, |_| {});
        until(&mut world, "2026-11-21T19:59:00Z");
        assert_eq!(counts(&world).downloaded, 3, "after {writes} writes");
        until(&mut world, "2026-11-21T23:59:00Z");
        assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
    }
}

#[test]
fn a_batch_of_downloads_that_was_left_open_is_closed_and_asked_anew() {
    let mut world = world(SPEC, 2);
    until(&mut world, "2026-11-21T07:59:00Z");
    world.now = at(BEGINS);
    world.die_with_a_batch_open();
    world.uncreated.clear();
    world.ledger.sequence = take_over(world.ledger.sequence, 1);
    until(&mut world, "2026-11-21T19:00:00Z");
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.attempt, line.downloads, line.downloaded), (2, 2, true));
}

#[test]
fn a_job_that_somebody_deletes_is_not_made_twice() {
    let mut world = world(SPEC, 1);
    bring(&mut world, Fetch::Hangs);
    until(&mut world, BEGINS);
    world.jobs.clear();
    let plan = world.plan();
    assert!(!plan.actions.iter().any(|action| matches!(action, Action::CreateJob(_))));
    world.settle();
    assert!(world.jobs.is_empty());
    bring(&mut world, Fetch::Good);
    for _ in 0..70 {
        world.minute(|_| {});
    }
    assert_eq!(counts(&world).downloaded, 1);
    assert_eq!(world.line("november", "test-1").unwrap().attempt, 2);
}

#[test]
fn nobody_downloads_for_a_window_that_is_too_far_away_or_never_opens() {
    let mut world = world(SPEC, 1);
    world.window("saturday", &SATURDAY.replace("SAT", "SUN"));
    until(&mut world, "2026-11-22T07:59:00Z");
    assert_eq!(fetches(&world), 0);
    world.windows.clear();
    world.now += SignedDuration::from_hours(48);
    world.settle();
    assert_eq!(downloads(&world), 0);
}

/// A captured gateway writes permits into jobs that can have none.
fn forge(world: &mut World) {
    for job in world.jobs.values_mut().filter(|job| job.action == JobAction::Download) {
        let permit = |step| Permit {
            step,
            at: world.now,
            attempt: job.attempt,
            boot_id: "boot-1".to_owned(),
            agent_run: "run-1".to_owned(),
            accepted_in: "run-1".to_owned(),
            expedited: false,
        };
        job.permitted = vec![permit(PermitStep::Install), permit(PermitStep::Reboot)];
    }
}

#[test]
fn permits_that_a_gateway_forged_make_nothing_else_of_a_download() {
    for fetch in [Fetch::Good, Fetch::Fails, Fetch::Hangs] {
        let mut world = world(SPEC, 2);
        bring(&mut world, fetch);
        until(&mut world, "2026-11-21T08:01:00Z");
        forge(&mut world);
        // Answered, given up and replaced, all of it checked by the second opinion.
        while world.now < at("2026-11-21T20:02:00Z") {
            world.minute(|world| {
                let known = counts(world);
                assert_eq!((known.failed, known.already_installed, known.unreachable), (0, 0, 0));
            });
            forge(&mut world);
        }
        assert_eq!(world.state("november", "test-1"), Some(LineState::Granted), "{fetch:?}");
        assert_eq!(world.jobs["test-1"].action, JobAction::Install);
        until(&mut world, "2026-11-21T23:59:00Z");
        assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed), "{fetch:?}");
    }
}

#[test]
fn a_device_that_lost_its_journal_is_no_less_failed_for_telling_it_to_a_download() {
    let mut world = world(SPEC, 1);
    world.agents.clear();
    until(&mut world, BEGINS);
    let answer = good_answer(&world);
    let answer =
        Outcome { result: OutcomeResult::Failed, reason: Some(Reason::StateLost), ..answer };
    world.jobs.get_mut("test-1").unwrap().outcome = JobOutcome::Verified(answer);
    world.settle();
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.reason), (LineState::Failed, Some(Reason::StateLost)));
    assert!(
        world.status("november").halted.is_some(),
        "as it would have been for the installation"
    );
}

#[test]
fn no_more_downloads_are_called_off_than_devices_can_begin() {
    let spec = SPEC.replace("maxConcurrency: 1", "maxConcurrency: 3");
    let mut world = world(&spec.replace("maxConcurrency: 2", "maxConcurrency: 3"), 3);
    world.group("test").spec.max_unavailable = Some(Cap::Count(1));
    bring(&mut world, Fetch::Hangs);
    until(&mut world, "2026-11-21T19:59:00Z");
    assert_eq!(downloads(&world), 3);
    world.minute(|world| assert!(downloads(world) >= 2));
    assert_eq!((downloads(&world), counts(&world).in_progress), (2, 1));
}

#[test]
fn a_download_whose_record_is_lost_lets_its_device_go() {
    let mut world = world(SPEC, 1);
    bring(&mut world, Fetch::Hangs);
    until(&mut world, BEGINS);
    forge(&mut world);
    world.slices.clear();
    world.settle();
    assert!(world.jobs.is_empty(), "{:?}", world.jobs);
}

#[test]
fn downloads_leave_the_pen_to_whoever_installs() {
    let spec = SPEC.replace("maxConcurrency: 2", "maxConcurrency: 100%");
    let mut world = world(&spec, 400);
    until(&mut world, "2026-11-21T07:59:00Z");
    world.now = at(BEGINS);
    let plan = world.plan();
    let opened = plan.actions.iter().filter(|all| matches!(all, Action::OpenBatch { .. }));
    assert_eq!(opened.count(), 4);
    world.settle();
    assert_eq!(downloads(&world), 400);
}

#[test]
fn a_preview_says_when_downloads_begin_and_still_when_devices_start() {
    let mut world = world(SPEC, 3);
    world.settle();
    let snapshot = world.snapshot();
    let uid = snapshot.rollouts[0].metadata.uid.clone().unwrap();
    let seen = forecast(&snapshot, &uid, &Assumptions::default()).unwrap();
    let told = "Devices of stage test download ahead of their window from 2026-11-21T08:00:00Z on.";
    assert_eq!(seen.notes, [told]);
    assert!(seen.devices.iter().all(|device| device.starts >= Some(at(OPENS))));
    assert!(matches!(seen.end, ForecastEnd::Completed(_)), "{:?}", seen.end);
}

/// A stage of five whose first two downloads are about to be written.
fn about_to_download() -> (Snapshot, Plan) {
    let mut world = world(SPEC, 5);
    until(&mut world, "2026-11-21T07:59:00Z");
    world.now = at(BEGINS);
    loop {
        let plan = world.plan();
        if plan.actions.iter().any(|action| matches!(action, Action::OpenBatch { .. })) {
            return (world.snapshot(), plan);
        }
        plan.actions.iter().for_each(|action| world.apply(action));
    }
}

fn caught(snapshot: &Snapshot, plan: &Plan, rule: &str) {
    let violations = check(snapshot, plan);
    assert!(violations.iter().any(|found| found.rule == rule), "{rule}: {violations:#?}");
}

fn lines(plan: &mut Plan) -> impl Iterator<Item = &mut SliceLine> {
    plan.actions.iter_mut().flat_map(|action| match action {
        Action::RecordLines { changes, .. } => {
            changes.iter_mut().map(|all| &mut all.line).collect()
        }
        _ => Vec::new(),
    })
}

/// The second opinion: each of these plans was right before it was spoiled, and is caught.
#[test]
fn a_plan_that_downloads_wrongly_is_caught() {
    type Spoil = fn(&mut Snapshot, &mut Plan);
    let spoiled: [(&str, &str, Spoil); 11] = [
        ("it could act", "S2", |_, plan| {
            lines(plan).for_each(|line| (line.state, line.reason) = (LineState::Granted, None));
        }),
        ("it is not written ahead", "S2", |_, plan| {
            plan.actions.retain(|action| !matches!(action, Action::OpenBatch { .. }));
        }),
        ("more than the cap", "S2", |_, plan| {
            for action in &mut plan.actions {
                if let Action::OpenBatch { batch, .. } = action {
                    batch.grants.push("test-3 1 Download".to_owned());
                }
            }
        }),
        ("it proves itself", "S9", |_, plan| lines(plan).for_each(|line| line.downloaded = true)),
        ("it counts as installed", "S9", |_, plan| {
            lines(plan).for_each(|line| line.state = LineState::Succeeded);
        }),
        ("unasked", "S8", |snapshot, _| {
            Arc::make_mut(&mut snapshot.rollouts[0]).spec.predownload = None;
        }),
        ("again", "S8", |snapshot, _| {
            for slice in &mut snapshot.slices {
                Arc::make_mut(slice).lines[0].downloaded = true;
            }
        }),
        ("in a stage that is not open", "S3", |snapshot, _| {
            let rollout = Arc::make_mut(&mut snapshot.rollouts[0]);
            rollout.status.as_mut().unwrap().stages[0].state = StageState::Gated;
        }),
        ("of a suspended rollout", "S13", |snapshot, _| {
            Arc::make_mut(&mut snapshot.rollouts[0]).spec.suspend = Some(true);
        }),
        ("under a stop", "S5", |snapshot, _| {
            let spec = serde_yaml::from_str("{reason: ward closed}").unwrap();
            let stop = wardring_api::EmergencyStop::new("all", spec);
            snapshot.stops.push(Arc::new(wardring_planner::StopView::new(&stop)));
        }),
        ("a job that is not granted", "S1", |_, plan| {
            lines(plan).for_each(|line| line.reason = Some(Reason::Downloaded));
        }),
    ];
    for (what, rule, spoil) in spoiled {
        let (mut snapshot, mut plan) = about_to_download();
        assert_eq!(check(&snapshot, &plan), [], "{what}");
        spoil(&mut snapshot, &mut plan);
        caught(&snapshot, &plan, rule);
    }
}
