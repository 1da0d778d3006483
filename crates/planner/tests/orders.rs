//! PatchRollbacks: a person takes back what a rollout brought, and what nothing of that may do.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use jiff::SignedDuration;
use support::{
    SERVER, World,
    agent::Script,
    orders::{ALL, TWO_STAGES, completed, minutes, phase, uninstalls, world},
    update,
};
use wardring_api::{JobAction, LineState, PermitStep, RollbackPhase, RollbackPolicy, RolloutPhase};
use wardring_planner::{Action, Decision, preview_rollback};

/// States of all devices, in order.
fn states(world: &World) -> Vec<LineState> {
    let mut lines = world.lines();
    lines.sort_by(|a, b| a.2.device.cmp(&b.2.device));
    lines.into_iter().map(|(_, _, line)| line.state).collect()
}

#[test]
fn what_a_completed_rollout_brought_is_taken_back_the_last_stage_first() {
    let mut world = completed();
    world.order(
        "erp-down",
        "{rollout: november, reason: the ERP does not answer, maxConcurrency: 2}",
    );
    let mut most = 0;
    for _ in 0..120 {
        world.minute(|world| {
            let rolling = world.lines().into_iter().filter(|(_, _, line)| {
                line.state == LineState::Granted && line.action == JobAction::Rollback
            });
            most = most.max(rolling.count());
        });
    }
    assert_eq!(most, 2, "never more at once than the order lets");
    assert_eq!(states(&world), [LineState::RolledBack; 5]);
    let order = uninstalls(&world);
    assert!(order[..3].iter().all(|device| device.starts_with("ward")), "{order:?}");

    let status = world.order_status("erp-down");
    assert_eq!(status.phase, Some(RollbackPhase::Completed));
    assert_eq!((status.counts.total, status.counts.rolled_back), (5, 5));
    assert_eq!(status.progress.as_deref(), Some("5/5"));
    assert!(status.completed_at.is_some());
    let rollout = world.status("november");
    assert_eq!(rollout.phase, Some(RolloutPhase::RolledBack));
    assert_eq!(rollout.halted.unwrap().reason, "RollbackOrdered");
    let hold = world.holds.values().next().expect("the update is barred");
    assert!(hold.reason.contains("the ERP does not answer"), "{}", hold.reason);
    assert!(world.plan().actions.is_empty());
}

#[test]
fn one_device_alone_is_taken_back_and_the_rollout_installs_nothing_more() {
    let mut world = world();
    world.settle();
    while world.state("november", "test-1") != Some(LineState::Succeeded) {
        world.minute(|_| {});
    }
    world.agents.get_mut("ward-1").unwrap().script = Script::Good;
    world.permits.clear();
    world.order("one", "{rollout: november, reason: r, devices: [test-1]}");
    minutes(&mut world, 90);
    assert_eq!(world.state("november", "test-1"), Some(LineState::RolledBack));
    assert_eq!(uninstalls(&world), ["test-1"]);
    assert_eq!(world.order_status("one").counts.total, 1);
    let installs = world.permits.iter().filter(|given| given.step == PermitStep::Install);
    assert_eq!(installs.count(), 0, "nothing begins once the order is there");
}

#[test]
fn an_order_reaches_what_was_there_when_it_began_and_nothing_that_came_later() {
    let mut world = completed();
    world.order("ward-3", "{rollout: november, reason: r, selector: {matchLabels: {room: '3'}}}");
    let label = |world: &mut World, device: &str| {
        let row = world.devices.get_mut(device).unwrap();
        std::sync::Arc::make_mut(&mut row.labels).insert("room".to_owned(), "3".to_owned());
    };
    label(&mut world, "ward-1");
    world.minute(|_| {});
    assert!(world.order_status("ward-3").started_at.is_some());
    label(&mut world, "ward-2");
    minutes(&mut world, 60);
    assert_eq!(uninstalls(&world), ["ward-1"]);
    assert_eq!(world.state("november", "ward-2"), Some(LineState::Succeeded));
}

#[test]
fn deleting_an_order_ends_it_and_takes_nothing_back() {
    let mut world = completed();
    world.order("erp-down", ALL);
    world.settle();
    let granted = |world: &World| {
        world.lines().iter().filter(|(_, _, line)| line.state == LineState::Granted).count()
    };
    assert_eq!(granted(&world), 1, "one at a time unless told otherwise");
    let before = world.status("november").rollback.unwrap();
    assert_eq!(before.order.unwrap().name, "erp-down");
    world.orders.clear();
    world.settle();
    assert_eq!(granted(&world), 0, "the grant that had not begun is taken back");
    assert!(world.jobs.is_empty());
    minutes(&mut world, 60);
    assert_eq!(states(&world), [LineState::Succeeded; 5]);
    assert!(world.permits.is_empty());
    let rollout = world.status("november");
    assert!(rollout.rollback.unwrap().completed_at.is_some());
    assert_eq!(world.holds.len(), 1, "the bar stays until a person lifts it");
}

#[test]
fn what_had_begun_when_the_order_was_deleted_comes_to_its_end() {
    let mut world = completed();
    world.order("erp-down", ALL);
    while world.permits.is_empty() {
        world.minute(|_| {});
    }
    world.orders.clear();
    minutes(&mut world, 60);
    assert_eq!(uninstalls(&world).len(), 1);
    let taken = states(&world).into_iter().filter(|state| *state == LineState::RolledBack);
    assert_eq!(taken.count(), 1);
    assert!(world.events.iter().any(|event| event.starts_with("RollbackWithdrawn")));
}

#[test]
fn a_rollout_made_anew_under_the_same_name_is_not_what_an_older_order_meant() {
    let mut world = completed();
    world.order("erp-down", ALL);
    minutes(&mut world, 120);
    assert_eq!(phase(&world, "erp-down"), RollbackPhase::Completed);
    // Git applies the same rollout again: to the one that is there it means nothing.
    world.edit("november", |spec| spec.suspend = None);
    minutes(&mut world, 30);
    assert_eq!(states(&world), [LineState::RolledBack; 5]);
    // And a new one is barred by the hold, and not rolled back by the old order.
    world.delete_rollout("november");
    world.settle();
    world.holds.values_mut().for_each(|hold| assert!(hold.selector.is_none()));
    world.rollout("november", TWO_STAGES);
    world.permits.clear();
    minutes(&mut world, 30);
    assert!(world.permits.is_empty());
    let status = world.status("november");
    assert!(status.waiting_for.iter().any(|all| all.reason == "UpdateHeld"), "{status:#?}");
    world.holds.clear();
    minutes(&mut world, 90);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
    assert!(uninstalls(&world).is_empty());

    world.order("from-git", ALL);
    world.orders.get_mut("from-git").unwrap().metadata.creation_timestamp =
        Some(support::api_time(support::start()));
    minutes(&mut world, 5);
    let told = world.order_status("from-git");
    assert_eq!(told.phase, Some(RollbackPhase::Waiting));
    assert!(told.message.unwrap().contains("older than this order"));
    assert!(uninstalls(&world).is_empty());
}

#[test]
fn a_group_that_asks_waits_for_a_person_and_one_that_forbids_is_never_reached() {
    let mut world = world();
    world.groups.get_mut("test").unwrap().spec.rollback = RollbackPolicy::Ask;
    world.agents.get_mut("test-1").unwrap().script = Script::ServiceDown;
    world.edit("november", |spec| {
        spec.on_failure.action = wardring_api::FailureAction::Rollback;
        spec.on_failure.scope = wardring_api::RollbackScope::Stage;
    });
    world.settle();
    minutes(&mut world, 60);
    assert!(uninstalls(&world).is_empty());
    let status = world.status("november");
    let asks = status.waiting_for.iter().find(|all| all.reason == "RollbackAsks").unwrap();
    assert_eq!(asks.devices, Some(2), "the broken one, and the rest of the stage");
    assert!(
        world
            .events
            .iter()
            .any(|event| { event.contains("2 devices wait for a person's PatchRollback") })
    );

    let mut forbids = world.clone();
    forbids.groups.get_mut("test").unwrap().spec.rollback = RollbackPolicy::Forbid;
    forbids.order("mend", ALL);
    minutes(&mut forbids, 60);
    assert!(uninstalls(&forbids).is_empty());
    let told = forbids.order_status("mend");
    assert_eq!((told.counts.total, told.counts.forbidden), (0, 2));
    assert!(told.message.unwrap().contains("forbids rollbacks"));
    assert_eq!(told.phase, Some(RollbackPhase::Incomplete));

    world.order("mend", ALL);
    minutes(&mut world, 60);
    assert_eq!(phase(&world, "mend"), RollbackPhase::Completed);
    let mut taken = uninstalls(&world);
    taken.sort_unstable();
    assert_eq!(taken, ["test-1", "test-2"]);
}

#[test]
fn an_aborted_rollout_can_be_taken_back_and_a_suspended_one_once_it_is_resumed() {
    let mut world = completed();
    let mut aborted = world.clone();
    aborted.edit("november", |spec| {
        spec.abort = Some(wardring_api::Abort { reason: "enough".to_owned() });
    });
    minutes(&mut aborted, 2);
    aborted.order("erp-down", ALL);
    minutes(&mut aborted, 120);
    assert_eq!(states(&aborted), [LineState::RolledBack; 5]);

    world.edit("november", |spec| spec.suspend = Some(true));
    minutes(&mut world, 2);
    world.order("erp-down", ALL);
    minutes(&mut world, 30);
    assert!(world.permits.is_empty());
    let told = world.order_status("erp-down").message.unwrap();
    assert!(told.contains("suspended"), "{told}");
    world.edit("november", |spec| spec.suspend = Some(false));
    minutes(&mut world, 120);
    assert_eq!(states(&world), [LineState::RolledBack; 5]);
}

#[test]
fn rollbacks_that_fail_stop_the_rest_and_another_order_begins_with_a_fresh_brake() {
    let mut world = completed();
    for agent in world.agents.values_mut() {
        agent.script = Script::Damaged;
    }
    world.order("first", ALL);
    minutes(&mut world, 90);
    let status = world.order_status("first");
    assert_eq!(status.phase, Some(RollbackPhase::Incomplete));
    assert_eq!((status.counts.failed, status.counts.left), (1, 4), "{status:#?}");
    assert_eq!(status.failed_sample.len(), 1);
    assert_eq!(uninstalls(&world).len(), 1);

    for agent in world.agents.values_mut() {
        agent.script = Script::Good;
    }
    world.now += SignedDuration::from_mins(1);
    world.order("second", ALL);
    minutes(&mut world, 120);
    let status = world.order_status("second");
    assert_eq!(status.phase, Some(RollbackPhase::Incomplete), "{status:#?}");
    let counts = status.counts;
    assert_eq!(
        (counts.total, counts.rolled_back, counts.beyond),
        (4, 4, 1),
        "the broken one stays"
    );
}

#[test]
fn an_emergency_stop_lets_orders_go_on_unless_it_names_rollbacks() {
    let mut world = completed();
    world.order("erp-down", ALL);
    let mut stopped = world.clone();
    stopped.stop("theatre", "{reason: operating, rollbacks: Stop}");
    minutes(&mut stopped, 60);
    assert!(stopped.permits.is_empty());
    let told = stopped.order_status("erp-down");
    assert_eq!(told.phase, Some(RollbackPhase::RollingBack));
    stopped.stops.clear();
    minutes(&mut stopped, 120);
    assert_eq!(phase(&stopped, "erp-down"), RollbackPhase::Completed);

    world.stop("erp", "reason: the ERP does not answer");
    minutes(&mut world, 120);
    assert_eq!(phase(&world, "erp-down"), RollbackPhase::Completed);
}

#[test]
fn an_order_waits_for_windows_only_where_it_says_so() {
    let mut world = completed();
    let freeze = "
type: Deny
allows: [Install]
reason: quarter end
schedule: {once: {from: '2026-12-01T00:00:00Z', until: '2026-12-31T00:00:00Z'}}";
    world.window("quarter-end", freeze);
    let mut waits = world.clone();
    waits.order("later", "{rollout: november, reason: r, windows: Respect}");
    minutes(&mut waits, 60);
    assert!(waits.permits.is_empty());
    let told = waits.order_status("later").message.unwrap();
    assert!(told.contains("freeze"), "{told}");

    world.order("now", ALL);
    minutes(&mut world, 120);
    assert_eq!(phase(&world, "now"), RollbackPhase::Completed);
}

#[test]
fn fixes_that_go_missing_are_named_before_and_after() {
    let mut world = completed();
    let mut known = update("KB5068787", SERVER);
    known.classification = Some("Security Updates".to_owned());
    known.msrc_severity = Some(wardring_api::MsrcSeverity::Critical);
    world.updates[0] = known;
    let fix = "KB5068787 for Windows Server 2022 (Security Updates, Critical): 5 devices";
    let spec = serde_yaml::from_str(ALL).unwrap();
    let preview = preview_rollback(&world.snapshot(), &spec).unwrap();
    assert_eq!(preview.missing_fixes, [fix]);
    assert_eq!(preview.devices.len(), 5);
    assert_eq!(preview.devices[0], ("test".to_owned(), "test-1".to_owned()));
    world.order("erp-down", ALL);
    minutes(&mut world, 5);
    assert_eq!(world.order_status("erp-down").missing_fixes, [fix]);
}

#[test]
fn an_order_for_nothing_says_so_and_halts_no_completed_rollout() {
    let mut world = completed();
    world.order("typo", "{rollout: november, reason: r, devices: [nobody]}");
    world.order("other", "{rollout: octber, reason: r}");
    minutes(&mut world, 5);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
    let told = world.order_status("typo");
    assert_eq!(told.phase, Some(RollbackPhase::Completed));
    assert!(told.message.unwrap().contains("has anything of the rollout"));
    assert_eq!(phase(&world, "other"), RollbackPhase::Waiting);
}

#[test]
fn a_retry_waits_until_the_order_is_over_and_then_the_bar_holds() {
    let mut world = completed();
    world.order("erp-down", ALL);
    world.settle();
    world.retry("november");
    minutes(&mut world, 1);
    assert!(world.status("november").rollback.is_some(), "the order is not forgotten");
    minutes(&mut world, 120);
    assert_eq!(phase(&world, "erp-down"), RollbackPhase::Completed);
    world.permits.clear();
    minutes(&mut world, 60);
    assert!(world.permits.is_empty(), "what was taken back is barred");
    assert!(uninstalls(&world).is_empty(), "and the order does not begin again");
}

#[test]
fn a_controller_that_dies_anywhere_in_an_order_is_followed_by_one_that_ends_it() {
    for writes in 1..12 {
        let mut world = completed();
        world.order("erp-down", "{rollout: november, reason: r, maxConcurrency: 100%}");
        for _ in 0..6 {
            world.crash_after(writes, |_| {});
            world.now += SignedDuration::from_mins(1);
            world.run_agents();
        }
        minutes(&mut world, 120);
        assert_eq!(phase(&world, "erp-down"), RollbackPhase::Completed, "{writes}");
        assert_eq!(states(&world), [LineState::RolledBack; 5], "{writes}");
        let mut taken = uninstalls(&world);
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), 5);
    }
}

#[test]
fn a_plan_that_takes_back_what_nobody_ordered_is_refused() {
    let mut world = completed();
    world.order("erp-down", ALL);
    let mut plan = world.plan();
    for _ in 0..10 {
        if plan.actions.iter().any(|action| matches!(action, Action::OpenBatch { .. })) {
            break;
        }
        plan.actions.iter().for_each(|action| world.apply(action));
        plan = world.plan();
    }
    assert!(plan.rollouts[0].stages[1].decisions.contains(&Decision::Start));
    world.orders.clear();
    let violations = wardring_planner::check(&world.snapshot(), &plan);
    assert!(violations.iter().any(|all| all.rule == "S13"), "{violations:#?}");
}

#[test]
fn a_group_that_comes_to_forbid_rollbacks_keeps_back_what_has_not_begun() {
    let mut world = completed();
    world.order("erp-down", ALL);
    while world.permits.is_empty() {
        world.minute(|_| {});
    }
    for group in world.groups.values_mut() {
        group.spec.rollback = RollbackPolicy::Forbid;
    }
    minutes(&mut world, 60);
    assert_eq!(uninstalls(&world).len(), 1);
    assert_eq!(phase(&world, "erp-down"), RollbackPhase::Incomplete);
}

/// Two of five failed and are to be rolled back with everything else, one at a time, inside of windows.
fn failing_everywhere() -> World {
    let mut world = world();
    world.window(
        "closed",
        "
type: Allow
allows: [Install, Reboot]
schedule: {once: {from: '2026-11-20T00:00:00Z', until: '2027-11-20T00:00:00Z'}}",
    );
    world.edit("november", |spec| {
        spec.on_failure.action = wardring_api::FailureAction::Rollback;
        spec.on_failure.scope = wardring_api::RollbackScope::AllStages;
        spec.on_failure.windows = wardring_api::RollbackWindows::Respect;
        for stage in &mut spec.stages {
            stage.windows = vec!["closed".to_owned()];
        }
    });
    world.agents.get_mut("ward-1").unwrap().script = Script::ServiceDown;
    world.settle();
    minutes(&mut world, 60);
    assert!(world.status("november").rollback.unwrap().completed_at.is_none());
    assert!(uninstalls(&world).is_empty(), "no window lets anything be taken back");
    world
}

#[test]
fn an_order_for_one_device_revives_no_rollback_that_an_abort_ended() {
    let mut world = failing_everywhere();
    world.edit("november", |spec| {
        spec.abort = Some(wardring_api::Abort { reason: "enough".to_owned() });
    });
    minutes(&mut world, 5);
    world.order("one", "{rollout: november, reason: r, devices: [test-1], maxConcurrency: 100%}");
    minutes(&mut world, 90);
    assert_eq!(uninstalls(&world), ["test-1"]);
    assert_eq!(phase(&world, "one"), RollbackPhase::Completed);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Aborted));
}

#[test]
fn an_order_lends_neither_its_windows_nor_its_cap_to_what_failed() {
    let mut world = failing_everywhere();
    world.order("one", "{rollout: november, reason: r, devices: [test-1], maxConcurrency: 100%}");
    minutes(&mut world, 90);
    assert!(uninstalls(&world).is_empty());
    let told = world.order_status("one");
    assert_eq!(told.phase, Some(RollbackPhase::Waiting));
    assert!(told.message.unwrap().contains("comes to its end first"));
}

#[test]
fn an_order_restarts_no_rollback_that_was_braked_or_over() {
    let mut world = world();
    world.edit("november", |spec| {
        spec.on_failure.action = wardring_api::FailureAction::Rollback;
        spec.stages[0].max_failures = Some(wardring_api::Cap::Count(0));
    });
    for device in ["test-1", "test-2"] {
        world.agents.get_mut(device).unwrap().script = Script::Damaged;
    }
    world.device("test-3", "test", SERVER);
    world.settle();
    minutes(&mut world, 90);
    assert_eq!(uninstalls(&world).len(), 1, "the brake holds after the first that failed");
    world.permits.clear();
    world.order("one", "{rollout: november, reason: r, devices: [test-3]}");
    minutes(&mut world, 90);
    assert_eq!(uninstalls(&world), ["test-3"]);
    assert_eq!(phase(&world, "one"), RollbackPhase::Completed);
}

#[test]
fn another_machine_under_the_old_name_loses_nothing() {
    let mut world = completed();
    world.devices.get_mut("ward-1").unwrap().enrolment_id = Some("eid-new".into());
    let mut later = world.clone();
    world.order("erp-down", "{rollout: november, reason: r, maxConcurrency: 100%}");
    minutes(&mut world, 120);
    assert!(!uninstalls(&world).contains(&"ward-1"));
    let told = world.order_status("erp-down");
    assert_eq!((told.counts.total, told.counts.beyond), (4, 1));
    assert_eq!(told.phase, Some(RollbackPhase::Incomplete));

    later.devices.get_mut("ward-1").unwrap().enrolment_id = Some("eid-ward-1".into());
    later.order("erp-down", ALL);
    while later.order_status("erp-down").started_at.is_none() {
        later.settle();
    }
    later.devices.get_mut("ward-3").unwrap().enrolment_id = Some("eid-new".into());
    minutes(&mut later, 120);
    assert!(!uninstalls(&later).contains(&"ward-3"));
}

#[test]
fn a_device_on_the_edge_of_installing_is_not_lost() {
    for devices in [&["test-1"][..], &["test-1", "test-2"]] {
        let mut world = world();
        let agent = world.agents.remove("test-1").unwrap();
        world.settle();
        while world.state("november", "test-2") != Some(LineState::Succeeded) {
            world.minute(|_| {});
        }
        world.agents.insert("test-1".to_owned(), agent);
        let mut begun = world.clone();
        while !begun.jobs["test-1"].may_have_begun() {
            begun.now += SignedDuration::from_mins(1);
            begun.run_agents();
        }
        // The permit came first, and wins against the recall that follows from the halt: its line is
        // written as it was, and the rest of the plan is carried out.
        let named = devices.join(", ");
        world.order("early", &format!("{{rollout: november, reason: r, devices: [{named}]}}"));
        world.now = begun.now;
        let mut has_won = false;
        while !has_won {
            for action in &world.plan().actions {
                match action {
                    Action::Recall { .. } => {
                        world.jobs = begun.jobs.clone();
                        world.agents = begun.agents.clone();
                        has_won = true;
                    }
                    action => world.apply(action),
                }
            }
            let told = world.order_status("early");
            assert!(told.completed_at.is_none(), "{told:?}");
        }
        assert!(world.jobs["test-1"].may_have_begun(), "the permit won");
        minutes(&mut world, 120);
        for device in devices {
            assert_eq!(world.state("november", device), Some(LineState::RolledBack));
        }
        assert_eq!(phase(&world, "early"), RollbackPhase::Completed);
        assert_eq!(world.order_status("early").counts.total, devices.len() as u32);
    }
}

#[test]
fn a_mark_that_the_order_does_not_mean_is_refused() {
    let mut world = completed();
    world.order("one", "{rollout: november, reason: r, devices: [test-1]}");
    let mut plan = world.plan();
    let marks = |action: &Action| {
        matches!(action, Action::RecordLines { cause: wardring_planner::RecordCause::Order, .. })
    };
    for _ in 0..10 {
        if plan.actions.iter().any(marks) {
            break;
        }
        plan.actions.iter().for_each(|action| world.apply(action));
        plan = world.plan();
    }
    world.orders.get_mut("one").unwrap().spec.devices = vec!["test-2".to_owned()];
    let violations = wardring_planner::check(&world.snapshot(), &plan);
    assert!(
        violations.iter().any(|all| all.message.contains("does not name test-1")),
        "{violations:#?}"
    );
}
