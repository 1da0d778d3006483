//! What there is to tell, minute by minute, in words.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

#[path = "alerts/brakes.rs"]
mod brakes;
mod support;

use jiff::SignedDuration;
use support::{SERVER, World, agent::Script, good_answer};
use wardring_api::{
    AlertKind, DeviceMode, FailureAction, Hold, JobAction, RollbackPolicy, reasons::Reason,
};
use wardring_planner::{
    Alert, Alerts, Ended, Evidence, JobOutcome, Outcome, OutcomeResult, Told, ToldState, alerts,
    is_in_trouble,
};

/// A stage of `devices` devices that go through `script`, all at once.
fn world(devices: usize, script: Script) -> World {
    let mut world = World::new();
    world.group("test");
    for number in 1..=devices {
        let name = format!("test-{number}");
        world.device(&name, "test", SERVER);
        world.agents.get_mut(&name).unwrap().script = script;
    }
    let spec = format!(
        "updates: {{select: {{release: 2026-11}}}}
stages: [{{name: test, group: test, maxConcurrency: {devices}, rebootSlowAfter: 20m, rebootDeadline: 1h}}]"
    );
    world.rollout("november", &spec);
    world.settle();
    world
}

fn told(world: &World) -> Alerts {
    alerts(&world.snapshot())
}

fn of_kind(alerts: &[Alert], kind: AlertKind) -> Vec<Alert> {
    alerts.iter().filter(|alert| alert.kind == kind).cloned().collect()
}

/// Plays until an alert of that kind is active, and returns all of that kind.
fn until(world: &mut World, kind: AlertKind) -> Vec<Alert> {
    for _ in 0..600 {
        let found = of_kind(&told(world).active, kind);
        if !found.is_empty() {
            return found;
        }
        world.minute(|_| {});
    }
    panic!("no {kind:?}: {:#?}", told(world));
}

#[test]
fn a_restart_is_expected_then_slow_then_the_device_did_not_return() {
    let mut world = world(1, Script::Silent);
    let expected = until(&mut world, AlertKind::DeviceRebootExpected).remove(0);
    world.now += SignedDuration::from_mins(14) - world.now.duration_since(expected.since);
    let expected = of_kind(&told(&world).active, AlertKind::DeviceRebootExpected).remove(0);
    let until_clock = expected.until.unwrap().strftime("%H:%M UTC").to_string();
    assert_eq!(
        expected.summary,
        format!(
            "test-1 is Offline — Post-Patch Reboot Pending (KB5068787, rollout november, stage test, \
             rebooting for 14 min, expected back by {until_clock})"
        )
    );
    let slow = until(&mut world, AlertKind::DeviceOffline).remove(0);
    assert!(slow.summary.contains("Post-Patch Reboot Pending"), "{}", slow.summary);
    let expected = of_kind(&told(&world).active, AlertKind::DeviceRebootExpected);
    assert_eq!(expected.len(), 1, "until its deadline");
    assert_eq!(expected[0].since, slow.since, "the permit, whatever was reported since");
    let lost = until(&mut world, AlertKind::DeviceDidNotReturn).remove(0);
    assert_eq!((lost.device.as_str(), lost.stage.as_str()), ("test-1", "test"));
    assert!(
        lost.summary.starts_with(
            "test-1 is Offline — Did Not Return After Patch (KB5068787, rollout november, stage test, \
             since "
        ),
        "{}",
        lost.summary
    );
    assert!(of_kind(&told(&world).active, AlertKind::DeviceOffline).is_empty());
    assert!(of_kind(&told(&world).active, AlertKind::DeviceRebootExpected).is_empty());
    let halted = until(&mut world, AlertKind::StageHalted).remove(0);
    assert!(halted.summary.starts_with("Rollout november is Halted in stage test — "));
}

#[test]
fn every_bad_end_is_told_under_its_own_name_and_is_over_once_the_device_is_rolled_back() {
    for (script, kind) in [
        (Script::ServiceDown, AlertKind::DeviceServiceDown),
        (Script::InstallFails, AlertKind::DeviceFailed),
        (Script::Reverted, AlertKind::DeviceReverted),
    ] {
        let mut world = world(1, script);
        let told = until(&mut world, kind).remove(0);
        assert_eq!(told.kbs, ["KB5068787"], "{told:?}");
        assert!(told.summary.starts_with("test-1 is "), "{told:?}");
    }
    let mut world = world(1, Script::ServiceDown);
    world.edit("november", |spec| {
        spec.on_failure.action = wardring_api::FailureAction::Rollback;
    });
    for _ in 0..300 {
        world.minute(|_| {});
    }
    let told = told(&world);
    assert!(of_kind(&told.active, AlertKind::DeviceServiceDown).is_empty(), "{told:#?}");
    assert_eq!(of_kind(&told.notices, AlertKind::RollbackStarted).len(), 1);
    assert_eq!(of_kind(&told.notices, AlertKind::RollbackFinished).len(), 1);
    assert_eq!(of_kind(&told.notices, AlertKind::HoldPlaced).len(), 1);
}

/// Answers the first device's job, whose agent says nothing any more.
fn answered(world: &mut World, result: OutcomeResult, reason: Option<Reason>) {
    let message = "Windows restarted twice within 5 minutes".to_owned();
    let outcome = Outcome { result, reason, message, ..good_answer(world) };
    world.jobs.get_mut("test-1").unwrap().outcome = JobOutcome::Verified(outcome);
    world.agents.remove("test-1");
    world.settle();
}

#[test]
fn a_boot_loop_and_a_rollback_that_failed_wake_somebody_and_are_told_as_what_they_are() {
    let mut looping = world(1, Script::Good);
    while !looping.jobs["test-1"].may_have_begun() {
        looping.minute(|_| {});
    }
    answered(&mut looping, OutcomeResult::Failed, Some(Reason::BootLoop));
    let mut damaged = world(1, Script::ServiceDown);
    damaged.edit("november", |spec| spec.on_failure.action = FailureAction::Rollback);
    let rolls = |world: &World| {
        world.jobs.get("test-1").is_some_and(|job| job.action == JobAction::Rollback)
    };
    while !rolls(&damaged) {
        damaged.minute(|_| {});
    }
    answered(&mut damaged, OutcomeResult::RollbackFailed, None);
    for (world, kind, what) in [
        (looping, AlertKind::DeviceBootLoop, "in a Boot Loop — Failed After Patch"),
        (damaged, AlertKind::RollbackFailed, "in Doubt — Its Rollback Failed"),
    ] {
        let device: Vec<Alert> =
            told(&world).active.into_iter().filter(|alert| alert.device == "test-1").collect();
        assert_eq!(device.len(), 1, "{device:#?}");
        assert_eq!((device[0].kind, device[0].is_urgent()), (kind, true));
        let start = format!("test-1 is {what} (KB5068787, rollout november, stage test, since ");
        assert!(device[0].summary.starts_with(&start), "{}", device[0].summary);
    }
}

#[test]
fn a_service_that_is_down_is_told_although_attempts_are_left_and_a_harmless_failure_is_not() {
    for (script, kind, is_told) in [
        (Script::ServiceDown, AlertKind::DeviceServiceDown, true),
        (Script::Reverted, AlertKind::DeviceReverted, true),
        (Script::InstallFails, AlertKind::DeviceFailed, false),
    ] {
        let mut world = world(1, script);
        world.edit("november", |spec| {
            let retry = serde_yaml::from_str("{maxAttempts: 3, backoff: 12h}").unwrap();
            spec.stages[0].retry = retry;
        });
        for _ in 0..120 {
            world.minute(|_| {});
        }
        let told = of_kind(&told(&world).active, kind);
        assert_eq!(told.len(), usize::from(is_told), "{script:?}");
    }
}

#[test]
fn a_run_that_goes_well_tells_its_stages_and_its_end_and_no_trouble() {
    let mut world = world(3, Script::Good);
    for _ in 0..200 {
        let told = told(&world);
        let troubled = |alert: &&Alert| alert.kind != AlertKind::DeviceRebootExpected;
        assert_eq!(told.active.iter().find(troubled), None);
        world.minute(|_| {});
    }
    let kinds: Vec<AlertKind> = told(&world).notices.iter().map(|notice| notice.kind).collect();
    assert_eq!(kinds.len(), 3, "{kinds:?}");
    assert_eq!(kinds[0], AlertKind::StageStarted);
    assert!(kinds.contains(&AlertKind::StageCompleted));
    assert!(kinds.contains(&AlertKind::RolloutCompleted));
}

#[test]
fn what_a_plan_intends_is_told_by_nobody_before_it_is_written() {
    let mut world = world(1, Script::Silent);
    until(&mut world, AlertKind::DeviceRebootExpected);
    world.now += SignedDuration::from_hours(2);
    let plan = world.plan();
    assert!(!plan.actions.is_empty(), "the device is given up and the rollout halts");
    for _ in 0..3 {
        let told = told(&world);
        assert!(of_kind(&told.active, AlertKind::DeviceDidNotReturn).is_empty(), "{told:#?}");
        assert!(of_kind(&told.active, AlertKind::StageHalted).is_empty(), "{told:#?}");
        // A write that was lost, a leader that died: later, another one plans the same.
        world.now += SignedDuration::from_mins(7);
    }
    world.settle();
    let lost = of_kind(&told(&world).active, AlertKind::DeviceDidNotReturn).remove(0);
    let recorded = world.line("november", "test-1").unwrap();
    assert_eq!(Some(lost.since), recorded.at, "the instant that is written down");
    world.now += SignedDuration::from_mins(9);
    world.settle();
    let again = of_kind(&told(&world).active, AlertKind::DeviceDidNotReturn).remove(0);
    assert_eq!(Told::of(&again, ToldState::Firing), Told::of(&lost, ToldState::Firing));
}

/// How something that was told of test-1 ended, by what is written down.
fn ended(world: &World, alert: &Alert) -> (Ended, &'static str) {
    let snapshot = world.snapshot();
    let rollout =
        snapshot.rollouts.iter().find(|one| one.metadata.name.as_deref() == Some("november"));
    let mut lines = snapshot.slices.iter().flat_map(|slice| &slice.lines);
    let row = |line: &wardring_api::SliceLine| snapshot.devices.get(&line.device);
    let still = lines.clone().filter(|line| is_in_trouble(alert.kind, line, row(line))).count();
    let evidence = Evidence {
        still,
        rollout: rollout.map(|rollout| &**rollout),
        line: lines.find(|line| line.device == alert.device),
        job: snapshot.jobs.iter().find(|job| job.device == alert.device).map(|job| &**job),
        row: snapshot.devices.get(&alert.device),
        stopped_since: None,
    };
    evidence.of(&Told::of(alert, ToldState::Firing))
}

#[test]
fn a_device_that_comes_back_proven_is_back() {
    let mut world = world(1, Script::Good);
    let expected = until(&mut world, AlertKind::DeviceRebootExpected).remove(0);
    assert_eq!(ended(&world, &expected).0, Ended::Unwatched, "nobody saw it yet");
    for _ in 0..60 {
        world.minute(|_| {});
    }
    assert!(of_kind(&told(&world).active, AlertKind::DeviceRebootExpected).is_empty());
    assert_eq!(ended(&world, &expected), (Ended::Back, "the device is proven"));
}

#[test]
fn a_device_that_was_given_up_is_lost_and_is_back_once_it_is_in_contact() {
    let mut world = world(1, Script::Silent);
    let expected = until(&mut world, AlertKind::DeviceRebootExpected).remove(0);
    let lost = until(&mut world, AlertKind::DeviceDidNotReturn).remove(0);
    assert_eq!(ended(&world, &expected).0, Ended::Lost);
    world.now += SignedDuration::from_mins(3);
    world.set_online("test-1", false);
    let still = of_kind(&told(&world).active, AlertKind::DeviceDidNotReturn);
    assert_eq!(
        still,
        std::slice::from_ref(&lost),
        "that its silence is written down is no second loss"
    );
    world.now += SignedDuration::from_mins(10);
    world.set_online("test-1", true);
    assert!(of_kind(&told(&world).active, AlertKind::DeviceDidNotReturn).is_empty());
    assert_eq!(ended(&world, &lost).0, Ended::Back);
    world.now += SignedDuration::from_hours(1);
    world.set_online("test-1", false);
    assert_eq!(of_kind(&told(&world).active, AlertKind::DeviceDidNotReturn).len(), 1);
}

fn recoveries(world: &World) -> Vec<Alert> {
    of_kind(&told(world).active, AlertKind::DeviceNeedsRecovery)
}

/// Two devices, of which the first did not return and is out of contact.
fn lost(action: FailureAction) -> World {
    let mut world = world(2, Script::Good);
    world.agents.get_mut("test-1").unwrap().script = Script::Silent;
    world.edit("november", |spec| spec.on_failure.action = action);
    until(&mut world, AlertKind::DeviceDidNotReturn);
    world.set_online("test-1", false);
    world
}

#[test]
fn a_device_to_roll_back_that_is_out_of_reach_needs_somebody_outside() {
    assert!(recoveries(&lost(FailureAction::Halt)).is_empty(), "the rollout only halts");
    let mut world = lost(FailureAction::Rollback);
    let wanted = recoveries(&world);
    assert_eq!(wanted.len(), 1, "{wanted:#?}");
    assert_eq!(wanted[0].device, "test-1");
    assert_eq!(wanted[0].kbs, ["KB5068787"]);
    assert!(
        wanted[0].summary.starts_with(
            "test-1 is Out of Reach — Its Rollback Has to Come From Outside (KB5068787, rollout november, \
             stage test, since "
        ),
        "{}",
        wanted[0].summary
    );
    assert!(wanted[0].is_silence(), "who is blind must not call for recoveries");
    world.now += SignedDuration::from_mins(10);
    world.set_online("test-1", true);
    assert!(recoveries(&world).is_empty(), "it is back");
    assert_eq!(ended(&world, &wanted[0]).0, Ended::Back);
}

#[test]
fn nobody_outside_is_asked_for_what_wardring_would_not_do_itself() {
    let asked = |change: &dyn Fn(&mut World)| {
        let mut world = lost(FailureAction::Rollback);
        change(&mut world);
        !recoveries(&world).is_empty()
    };
    assert!(asked(&|_| {}));
    for policy in [RollbackPolicy::Ask, RollbackPolicy::Forbid] {
        assert!(!asked(&|world| world.group("test").spec.rollback = policy), "{policy:?}");
    }
    assert!(
        !asked(&|world| world.devices.get_mut("test-1").unwrap().quarantined = true),
        "damaged already"
    );
    assert!(
        !asked(&|world| world.devices.get_mut("test-1").unwrap().mode = DeviceMode::Observe),
        "not ours"
    );
    assert!(!asked(&|world| {
        let hold = Hold { reason: "I look at it".to_owned(), until: None };
        world.devices.get_mut("test-1").unwrap().hold = Some(Box::new(hold));
    }));
    assert!(
        !asked(&|world| world.devices.get_mut("test-1").unwrap().online = None),
        "nobody knows"
    );
    assert!(!asked(&|world| world.jobs.get_mut("test-1").unwrap().permitted.clear()), "no permit");
    for (rollbacks, is_asked) in [("Stop", false), ("Continue", true)] {
        let spec = format!("{{reason: the ERP is down, rollbacks: {rollbacks}}}");
        assert_eq!(asked(&|world| world.stop("erp-down", &spec)), is_asked, "{rollbacks}");
    }
    assert!(!asked(&|world| {
        world.edit("november", |spec| spec.suspend = Some(true));
        world.settle();
    }));
    assert!(!asked(&|world| {
        world.edit("november", |spec| {
            spec.abort = Some(wardring_api::Abort { reason: "enough".to_owned() });
        });
        world.settle();
    }));
}

#[test]
fn a_device_whose_rollout_was_deleted_is_not_said_to_be_back() {
    let mut world = world(1, Script::Silent);
    let expected = until(&mut world, AlertKind::DeviceRebootExpected).remove(0);
    world.rollouts.clear();
    assert!(told(&world).active.is_empty());
    assert_eq!(ended(&world, &expected), (Ended::Unwatched, "the rollout is gone"));
}

#[test]
fn a_halt_that_a_rollback_ended_is_over() {
    let mut world = world(1, Script::ServiceDown);
    world.edit("november", |spec| {
        spec.on_failure.action = wardring_api::FailureAction::Rollback;
    });
    let halted = until(&mut world, AlertKind::StageHalted).remove(0);
    for _ in 0..300 {
        world.minute(|_| {});
    }
    assert!(of_kind(&told(&world).active, AlertKind::StageHalted).is_empty());
    assert_eq!(ended(&world, &halted), (Ended::Over, "the rollback has ended"));
}

#[test]
fn trouble_of_a_run_that_is_over_is_told_for_a_day() {
    let mut world = world(1, Script::InstallFails);
    until(&mut world, AlertKind::DeviceFailed);
    world.edit("november", |spec| {
        spec.abort = Some(wardring_api::Abort { reason: "enough".to_owned() });
    });
    world.settle();
    assert_eq!(of_kind(&told(&world).active, AlertKind::DeviceFailed).len(), 1);
    world.now += SignedDuration::from_hours(25);
    assert!(of_kind(&told(&world).active, AlertKind::DeviceFailed).is_empty());
}

#[test]
fn of_many_who_are_still_away_nobody_says_that_it_is_over() {
    let mut world = world(40, Script::Silent);
    let mut lost = until(&mut world, AlertKind::DeviceDidNotReturn);
    assert_eq!(lost.len(), 40);
    let together = Alert { device: String::new(), devices: 40, ..lost.remove(0) };
    // Long after, a person ends the rollout: its devices are told of for a day from then.
    world.now += SignedDuration::from_hours(40);
    world.edit("november", |spec| {
        spec.abort = Some(wardring_api::Abort { reason: "enough".to_owned() });
    });
    world.settle();
    assert_eq!(of_kind(&told(&world).active, AlertKind::DeviceDidNotReturn).len(), 40);
    world.now += SignedDuration::from_hours(25);
    assert!(of_kind(&told(&world).active, AlertKind::DeviceDidNotReturn).is_empty());
    assert_eq!(ended(&world, &together), (Ended::Unwatched, "the rollout has ended"));
    for number in 1..=40 {
        let name = format!("test-{number}");
        world.set_online(&name, false);
        world.now += SignedDuration::from_secs(1);
        world.set_online(&name, true);
    }
    assert_eq!(ended(&world, &together), (Ended::Over, "none of them is in that state any more"));
    world.rollouts.clear();
    assert_eq!(ended(&world, &together), (Ended::Unwatched, "the rollout is gone"));
}

#[test]
fn a_persons_order_that_cannot_reach_a_device_asks_somebody_outside() {
    let mut world = world(3, Script::Good);
    for name in ["test-1", "test-2"] {
        world.agents.get_mut(name).unwrap().script = Script::Silent;
    }
    until(&mut world, AlertKind::DeviceDidNotReturn);
    for name in ["test-1", "test-2"] {
        world.set_online(name, false);
    }
    world.group("test").spec.rollback = RollbackPolicy::Ask;
    world.order("undo", "{rollout: november, devices: [test-1], reason: it does not boot}");
    let wanted = until(&mut world, AlertKind::DeviceNeedsRecovery);
    let devices: Vec<&str> = wanted.iter().map(|alert| alert.device.as_str()).collect();
    assert_eq!(devices, ["test-1"], "the order means no other");
    world.group("test").spec.rollback = RollbackPolicy::Forbid;
    assert!(recoveries(&world).is_empty());
    // An order that ended before the device was lost never meant this.
    world.group("test").spec.rollback = RollbackPolicy::Ask;
    let mut status = world.order_status("undo");
    status.completed_at = Some("2020-01-01T00:00:00Z".parse().unwrap());
    world.orders.get_mut("undo").unwrap().status = Some(status);
    assert!(recoveries(&world).is_empty());
}

#[test]
fn the_bars_of_devices_that_helped_themselves_are_one_notice_and_any_other_bar_is_its_own() {
    let mut world = World::new();
    let bar = |text: &str| serde_yaml::from_str(text).unwrap();
    for device in ["a", "b", "c"] {
        let of = format!("{{kbs: [KB5068787], reason: r, rollout: november, devices: [{device}]}}");
        world.holds.insert(format!("november-1-{device}"), bar(&of));
    }
    let kind = AlertKind::HoldPlaced;
    let told_of = of_kind(&told(&world).notices, kind);
    let [one] = &told_of[..] else { panic!("{told_of:#?}") };
    assert_eq!((one.devices, &*one.rollout), (3, "november"));
    assert!(one.summary.contains("bar KB5068787 on 3 devices, a first"), "{}", one.summary);

    world.holds.insert("fleet".to_owned(), bar("{kbs: [KB5068787], reason: printers}"));
    world.holds.insert("one".to_owned(), bar("{kbs: [KB5068787], reason: r, devices: [a]}"));
    assert_eq!(of_kind(&told(&world).notices, kind).len(), 3);
}
