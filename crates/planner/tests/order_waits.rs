//! What a person's order waits for, and what it does not wait for.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use jiff::SignedDuration;
use support::{
    World,
    agent::Script,
    orders::{ALL, completed, minutes, phase, uninstalls, world},
};
use wardring_api::{
    FailureAction, JobAction, LineState, RollbackPhase, RollbackPolicy, RollbackScope, SliceLine,
};
use wardring_planner::{
    Action, Decision, JobOutcome, LineChange, Plan, RecordCause, check, preview_rollback,
};

/// The decision for a device.
fn decision(world: &World, stage: usize, index: usize) -> Decision {
    world.plan().rollouts[0].stages[stage].decisions[index]
}

#[test]
fn devices_that_cannot_move_keep_no_earlier_stage_waiting_and_say_why_themselves() {
    let mut world = completed();
    world.set_online("ward-1", false);
    let hold = "{reason: operating theatre}";
    world.devices.get_mut("ward-2").unwrap().hold = Some(serde_yaml::from_str(hold).unwrap());
    world.order("erp-down", ALL);
    minutes(&mut world, 90);
    assert_eq!(uninstalls(&world), ["ward-3", "test-1", "test-2"], "later stages first");
    assert_eq!(phase(&world, "erp-down"), RollbackPhase::RollingBack);
    let reason = |decision| match decision {
        Decision::Hold(reason) => reason.as_str(),
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(decision(&world, 1, 0)), "Offline");
    assert_eq!(reason(decision(&world, 1, 1)), "DeviceHeld");

    world.set_online("ward-1", true);
    world.devices.get_mut("ward-2").unwrap().hold = None;
    minutes(&mut world, 90);
    assert_eq!(phase(&world, "erp-down"), RollbackPhase::Completed);
}

#[test]
fn a_later_stage_that_can_move_again_goes_first_again() {
    let mut world = completed();
    for device in ["ward-1", "ward-2", "ward-3"] {
        world.set_online(device, false);
    }
    world.order("erp-down", ALL);
    for _ in 0..30 {
        if uninstalls(&world).is_empty() {
            world.minute(|_| {});
        }
    }
    assert_eq!(uninstalls(&world), ["test-1"]);
    for device in ["ward-1", "ward-2", "ward-3"] {
        world.set_online(device, true);
    }
    minutes(&mut world, 120);
    assert_eq!(uninstalls(&world), ["test-1", "ward-1", "ward-2", "ward-3", "test-2"]);
}

#[test]
fn a_device_that_never_comes_ends_the_order_at_its_deadline() {
    let mut world = completed();
    world.edit("november", |spec| {
        for stage in &mut spec.stages {
            stage.progress_deadline = Some("1d".parse().unwrap());
        }
    });
    world.set_online("ward-1", false);
    world.order("erp-down", ALL);
    minutes(&mut world, 90);
    assert_eq!(uninstalls(&world).len(), 4);
    world.now += SignedDuration::from_hours(24);
    minutes(&mut world, 2);
    assert_eq!(phase(&world, "erp-down"), RollbackPhase::Incomplete);
    assert_eq!(world.order_status("erp-down").counts.left, 1);
}

#[test]
fn time_under_a_stop_a_suspension_or_a_closed_window_uses_up_no_deadline() {
    let closed = "
type: Deny
allows: [Install]
reason: quarter end
schedule: {once: {from: '2026-12-01T00:00:00Z', until: '2027-03-01T00:00:00Z'}}";
    for way in ["stop", "suspend", "window"] {
        let mut world = completed();
        world.edit("november", |spec| {
            for stage in &mut spec.stages {
                stage.progress_deadline = Some("1d".parse().unwrap());
            }
        });
        match way {
            "stop" => world.stop("theatre", "{reason: operating, rollbacks: Stop}"),
            "suspend" => world.edit("november", |spec| spec.suspend = Some(true)),
            _ => world.window("quarter-end", closed),
        }
        let windows = if way == "window" { "Respect" } else { "Ignore" };
        world.order("later", &format!("{{rollout: november, reason: r, windows: {windows}}}"));
        minutes(&mut world, 5);
        assert!(world.permits.is_empty(), "{way}");
        world.now = "2027-03-01T00:00:30Z".parse().unwrap();
        world.settle();
        assert!(world.plan().actions.is_empty(), "{way}: what stands writes nothing");
        match way {
            "stop" => world.stops.clear(),
            "suspend" => world.edit("november", |spec| spec.suspend = Some(false)),
            _ => {}
        }
        minutes(&mut world, 120);
        assert_eq!(phase(&world, "later"), RollbackPhase::Completed, "{way}");
    }
}

#[test]
fn what_is_wrong_with_one_stage_keeps_no_order_from_the_others() {
    let mut world = completed();
    let mut groupless = world.clone();
    world.slices.retain(|_, slice| slice.spec.stage != "ward");
    world.settle();
    let spec = serde_yaml::from_str(ALL).unwrap();
    let preview = preview_rollback(&world.snapshot(), &spec).unwrap();
    assert_eq!((preview.devices.len(), preview.beyond), (2, 3));
    world.order("erp-down", ALL);
    minutes(&mut world, 90);
    assert_eq!(uninstalls(&world), ["test-1", "test-2"]);
    let told = world.order_status("erp-down");
    assert_eq!(told.phase, Some(RollbackPhase::Incomplete), "{told:?}");
    assert_eq!((told.counts.total, told.counts.beyond), (2, 3));
    assert_eq!(world.status("november").halted.unwrap().reason, "RollbackOrdered");

    // Nobody knows what the group that is gone forbids.
    groupless.groups.remove("ward");
    groupless.order("erp-down", ALL);
    minutes(&mut groupless, 90);
    assert_eq!(uninstalls(&groupless), ["test-1", "test-2"]);
    assert_eq!(phase(&groupless, "erp-down"), RollbackPhase::RollingBack);
}

#[test]
fn a_record_that_is_lost_on_the_way_ends_no_order_and_frees_no_place() {
    let mut world = completed();
    world.order("erp-down", ALL);
    while uninstalls(&world).is_empty() {
        world.minute(|_| {});
    }
    let running = world.jobs.values().filter(|job| job.action == JobAction::Rollback);
    assert_eq!(running.count(), 1);
    world.agents.remove("ward-1");
    world.slices.retain(|_, slice| slice.spec.stage != "ward");
    minutes(&mut world, 3);
    assert_eq!(uninstalls(&world), ["ward-1"], "one at a time, whoever counts it");
    world.orders.clear();
    minutes(&mut world, 3);
    let ended = world.status("november").rollback.unwrap().completed_at;
    assert!(ended.is_some(), "and a withdrawn one comes to its end");
}

#[test]
fn an_order_that_is_gone_and_a_group_that_forbids_count_before_the_controller_has_read_them() {
    for way in ["deleted", "forbids"] {
        let mut world = completed();
        world.order("erp-down", "{rollout: november, reason: r, maxConcurrency: 100%}");
        world.settle();
        assert_eq!(world.jobs.len(), 3, "granted, and nobody has begun");
        if way == "deleted" {
            world.orders.clear();
        } else {
            world.groups.get_mut("ward").unwrap().spec.rollback = RollbackPolicy::Forbid;
        }
        // No controller passes: agents ask all the same.
        for _ in 0..30 {
            world.now += SignedDuration::from_mins(1);
            world.run_agents();
        }
        assert!(world.permits.is_empty(), "{way}: {:?}", world.permits);
    }
}

#[test]
fn a_device_that_fell_silent_in_a_rollback_that_an_abort_ended_does_not_come_back_to_it() {
    let mut world = world();
    world.edit("november", |spec| {
        spec.on_failure.action = FailureAction::Rollback;
        spec.on_failure.scope = RollbackScope::AllStages;
    });
    world.agents.get_mut("ward-1").unwrap().script = Script::ServiceDown;
    world.settle();
    while uninstalls(&world).is_empty() {
        world.minute(|_| {});
    }
    let silent = uninstalls(&world)[0].to_owned();
    assert_eq!(silent, "ward-1", "its own old job hands the turn to no other stage");
    world.set_online(&silent, false);
    world.agents.remove(&silent);
    while world.state("november", &silent) != Some(LineState::Unreachable) {
        world.minute(|_| {});
    }
    world.edit("november", |spec| {
        spec.abort = Some(wardring_api::Abort { reason: "enough".to_owned() });
    });
    minutes(&mut world, 2);
    world.order("one", "{rollout: november, reason: r, devices: [test-1], maxConcurrency: 5}");
    minutes(&mut world, 2);
    world.set_online(&silent, true);
    let now = world.now;
    if let Some(job) = world.jobs.get_mut(&silent) {
        job.updated_at = Some(now);
    }
    minutes(&mut world, 3);
    assert_eq!(world.state("november", &silent), Some(LineState::Unreachable));
}

#[test]
fn what_was_taken_back_before_a_person_ended_the_rollout_stays_barred() {
    for way in ["deleted", "aborted"] {
        let mut world = world();
        world.edit("november", |spec| {
            spec.on_failure.action = FailureAction::Rollback;
            spec.on_failure.scope = RollbackScope::AllStages;
        });
        world.agents.get_mut("ward-1").unwrap().script = Script::ServiceDown;
        world.settle();
        while !world.lines().iter().any(|(_, _, line)| line.state == LineState::RolledBack) {
            world.minute(|_| {});
        }
        assert!(world.holds.is_empty(), "it goes on");
        if way == "deleted" {
            world.delete_rollout("november");
        } else {
            world.edit("november", |spec| {
                spec.abort = Some(wardring_api::Abort { reason: "enough".to_owned() });
            });
        }
        minutes(&mut world, 60);
        assert_eq!(world.holds.len(), 1, "{way}");
        assert!(uninstalls(&world).len() < 5, "{way}");
    }
}

#[test]
fn what_failures_asked_for_does_not_begin_again_after_an_order() {
    let mut world = world();
    world.edit("november", |spec| {
        spec.on_failure.action = FailureAction::Rollback;
        for stage in &mut spec.stages {
            stage.progress_deadline = Some("1d".parse().unwrap());
        }
    });
    world.agents.get_mut("ward-1").unwrap().script = Script::ServiceDown;
    world.settle();
    while world.state("november", "ward-1") != Some(LineState::Failed) {
        world.now += SignedDuration::from_mins(1);
        world.run_agents();
        let failed = world.jobs.get("ward-1").is_some_and(|job| job.outcome != JobOutcome::None);
        world.set_online("ward-1", !failed);
        world.settle();
    }
    world.now += SignedDuration::from_hours(25);
    minutes(&mut world, 2);
    assert!(world.status("november").rollback.unwrap().completed_at.is_some(), "it gave up");
    world.order("one", "{rollout: november, reason: r, devices: [test-1]}");
    minutes(&mut world, 30);
    assert_eq!(phase(&world, "one"), RollbackPhase::Completed);
    world.set_online("ward-1", true);
    minutes(&mut world, 30);
    assert_eq!(uninstalls(&world), ["test-1"]);
}

#[test]
fn a_plan_that_takes_back_from_another_machine_of_the_name_is_refused() {
    let mut world = completed();
    world.order("erp-down", ALL);
    let mut plan = world.plan();
    let grants = |action: &Action| matches!(action, Action::OpenBatch { .. });
    while !plan.actions.iter().any(grants) {
        plan.actions.iter().for_each(|action| world.apply(action));
        plan = world.plan();
    }
    for row in world.devices.values_mut() {
        row.enrolment_id = Some("eid-new".into());
    }
    let violations = check(&world.snapshot(), &plan);
    assert!(violations.iter().any(|all| all.message.contains("nobody ordered it")));
}

#[test]
fn a_device_whose_grant_was_taken_back_although_it_had_begun_is_never_called_untouched() {
    let mut world = world();
    world.settle();
    while !world.jobs["test-1"].may_have_begun() {
        world.now += SignedDuration::from_mins(1);
        world.run_agents();
    }
    for text in world.slices.values_mut().flat_map(|slice| &mut slice.spec.lines) {
        let mut line: SliceLine = text.parse().unwrap();
        if line.device == "test-1" {
            line.state = LineState::Pending;
            *text = line.to_string();
        }
    }
    world.order("early", "{rollout: november, reason: r, devices: [test-1]}");
    minutes(&mut world, 120);
    let told = world.order_status("early");
    assert_eq!((told.phase, told.counts.total), (Some(RollbackPhase::Incomplete), 1), "{told:?}");
}

#[test]
fn a_mark_that_is_set_after_the_order_began_is_refused() {
    let mut world = completed();
    world.order("one", "{rollout: november, reason: r, devices: [test-1]}");
    world.settle();
    let ward = world.slices.iter().find(|(_, slice)| slice.spec.stage == "ward").unwrap();
    let mut line: SliceLine = ward.1.spec.lines[0].parse().unwrap();
    line.ordered = true;
    let actions = vec![Action::RecordLines {
        slice: ward.0.clone(),
        cause: RecordCause::Order,
        changes: vec![LineChange { index: 0, line }],
    }];
    let violations = check(&world.snapshot(), &Plan { actions, ..Plan::default() });
    assert!(violations.iter().any(|all| all.message.contains("afterwards")), "{violations:#?}");
}
