//! A stage that stays open for latecomers while the rollout goes on (`offline.action: CatchUp`).
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use jiff::SignedDuration;
use support::{Meter, SERVER, World, agent::Script, start, story::falls_ill};
use wardring_api::{
    Cap, GateState, LineState, RolloutPhase, StageState, StageStatus, TailStatus, conditions,
    reasons::Reason,
};
use wardring_planner::{Action, Decision, RolloutRef, check, plan};

const ROLLOUT: &str = "
updates: {select: {release: 2026-11}}
stages:
- {name: laptops, group: laptops, maxConcurrency: 2, minCoverage: 50%, soak: 10m, offline: {action: CatchUp, after: 1h, closeAfter: 4h}}
- {name: production, group: production, maxConcurrency: 1}";

/// Six laptops, of which the last three are away, and three servers behind them.
fn world(rollout: &str) -> World {
    let mut world = World::new();
    world.group("laptops");
    world.group("production");
    for name in ["lap-1", "lap-2", "lap-3", "lap-4", "lap-5", "lap-6"] {
        world.device(name, "laptops", "Windows 11 24H2");
    }
    for name in ["lap-4", "lap-5", "lap-6"] {
        world.set_online(name, false);
    }
    for name in ["srv-1", "srv-2", "srv-3"] {
        world.device(name, "production", SERVER);
    }
    world.rollout("november", rollout);
    world.settle();
    world
}

fn minutes(world: &mut World, minutes: u32) {
    for _ in 0..minutes {
        world.minute(|_| {});
    }
}

fn stage(world: &World, position: usize) -> StageStatus {
    world.status("november").stages[position].clone()
}

fn tail(world: &World) -> TailStatus {
    stage(world, 0).tail.unwrap()
}

/// The world right after the laptops let production go on.
fn promoted(rollout: &str) -> World {
    let mut world = world(rollout);
    for _ in 0..200 {
        world.minute(|_| {});
        if stage(&world, 0).state == StageState::Tail {
            return world;
        }
    }
    panic!("the stage never lets go: {:#?}", world.status("november"));
}

fn at_work(world: &World) -> Vec<String> {
    let lines = world.lines().into_iter().filter(|(.., line)| line.state == LineState::Granted);
    lines.map(|(.., line)| line.device).collect()
}

#[test]
fn a_stage_waits_for_everybody_first_then_for_its_coverage_and_its_soak() {
    let mut world = world(ROLLOUT);
    minutes(&mut world, 59);
    assert_eq!(
        stage(&world, 0).state,
        StageState::Open,
        "half of them are done, and it still waits"
    );
    assert_eq!(stage(&world, 0).counts.succeeded, 3);
    minutes(&mut world, 1);
    assert_eq!(stage(&world, 0).state, StageState::Soaking);
    assert_eq!(stage(&world, 1).state, StageState::Pending);
    let tail = tail(&world);
    assert_eq!(tail.since, start() + SignedDuration::from_hours(1));
    assert_eq!(tail.closes_at, start() + SignedDuration::from_hours(5));
    minutes(&mut world, 10);
    assert_eq!(stage(&world, 0).state, StageState::Tail);
    assert_eq!(stage(&world, 1).state, StageState::Open);
    let status = world.status("november");
    assert_eq!(status.current_stage.as_deref(), Some("production"));
    let told: Vec<_> = status.waiting_for.iter().filter(|all| all.reason == "CatchingUp").collect();
    assert_eq!((told.len(), told[0].devices, told[0].until), (1, Some(3), Some(tail.closes_at)));
}

#[test]
fn below_its_coverage_it_promotes_nothing_and_says_so_in_the_end() {
    let mut world = world(&ROLLOUT.replace("50%", "67%, progressDeadline: 3h"));
    minutes(&mut world, 179);
    assert_eq!(stage(&world, 0).state, StageState::Open);
    minutes(&mut world, 2);
    let halted = world.status("november").halted.unwrap();
    assert_eq!(halted.reason, Reason::ProgressDeadlineExceeded.as_str());
    assert_eq!(stage(&world, 1).state, StageState::Pending);
}

#[test]
fn nothing_is_promoted_on_devices_that_had_it_already() {
    let mut world = world(ROLLOUT);
    for name in ["lap-1", "lap-2", "lap-3"] {
        world.agents.get_mut(name).unwrap().script = Script::AlreadyInstalled;
    }
    minutes(&mut world, 120);
    assert_eq!(stage(&world, 0).state, StageState::Open);
    assert_eq!(stage(&world, 0).counts.already_installed, 3);
    assert_eq!(stage(&world, 1).state, StageState::Pending);
}

#[test]
fn latecomers_come_under_the_caps_of_their_own_stage_beside_the_open_one() {
    let mut world = promoted(ROLLOUT);
    for name in ["lap-4", "lap-5", "lap-6"] {
        world.set_online(name, true);
    }
    let mut together = 0;
    for _ in 0..60 {
        world.minute(|world| {
            let all = at_work(world);
            let laptops = all.iter().filter(|name| name.starts_with("lap")).count();
            assert!(laptops <= 2 && all.len() - laptops <= 1, "{all:?}");
            together = together.max(all.len());
        });
    }
    assert_eq!(together, 3, "both stages are at work at the same time");
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
    assert_eq!(stage(&world, 0).counts.succeeded, 6);
}

#[test]
fn a_group_over_both_stages_counts_latecomers_as_unavailable() {
    let mut world = promoted(ROLLOUT);
    for row in world.devices.values_mut() {
        std::sync::Arc::make_mut(&mut row.labels).insert("site".to_owned(), "hq".to_owned());
    }
    let site = world.group("hq");
    site.spec.selector = serde_json::from_str(r#"{"matchLabels": {"site": "hq"}}"#).unwrap();
    // Two are still away, so one more may be unavailable.
    site.spec.max_unavailable = Some(Cap::Count(3));
    world.set_online("lap-4", true);
    minutes(&mut world, 1);
    for _ in 0..60 {
        world.minute(|world| assert!(at_work(world).len() <= 1, "{:?}", at_work(world)));
    }
    assert_eq!(world.state("november", "lap-4"), Some(LineState::Succeeded));
}

#[test]
fn a_device_that_returns_while_the_stage_is_watched_does_not_begin_the_watch_anew() {
    let mut world = world(&ROLLOUT.replace("soak: 10m", "soak: 2h"));
    minutes(&mut world, 70);
    let soaked = stage(&world, 0).soak_started_at;
    assert_eq!(stage(&world, 0).state, StageState::Soaking);
    world.set_online("lap-4", true);
    minutes(&mut world, 30);
    assert_eq!(world.state("november", "lap-4"), Some(LineState::Succeeded));
    assert_eq!(stage(&world, 0).soak_started_at, soaked);
}

#[test]
fn a_failure_of_a_latecomer_halts_the_rollout_by_its_own_stages_budget() {
    let mut world = promoted(ROLLOUT);
    world.agents.get_mut("lap-5").unwrap().script = Script::ServiceDown;
    world.set_online("lap-5", true);
    minutes(&mut world, 30);
    let status = world.status("november");
    let halted = status.halted.unwrap();
    assert_eq!(halted.reason, Reason::FailureBudgetSpent.as_str());
    assert_eq!(halted.stage.as_deref(), Some("laptops"));
    assert!(halted.message.contains("1 of 6 devices"), "of the frozen size: {}", halted.message);
    let begun = world.permits.len();
    world.set_online("lap-6", true);
    minutes(&mut world, 30);
    assert_eq!(world.permits.len(), begun, "nothing starts in either stage");
}

#[test]
fn a_latecomer_that_falls_silent_spends_the_budget_for_silence() {
    let mut world = promoted(ROLLOUT);
    world.agents.get_mut("lap-5").unwrap().script = Script::Silent;
    world.set_online("lap-5", true);
    minutes(&mut world, 150);
    let halted = world.status("november").halted.unwrap();
    assert_eq!(halted.reason, Reason::UnreachableBudgetSpent.as_str());
    assert_eq!(halted.stage.as_deref(), Some("laptops"));
}

#[test]
fn a_broken_budget_of_the_tail_takes_its_whole_stage_back_where_that_is_asked_for() {
    let mut world = promoted(&format!("{ROLLOUT}\nonFailure: {{action: Rollback, scope: Stage}}"));
    for agent in world.agents.values_mut() {
        agent.script = if agent.name == "lap-5" { Script::ServiceDown } else { agent.script };
    }
    world.set_online("lap-5", true);
    minutes(&mut world, 120);
    for name in ["lap-1", "lap-2", "lap-3", "lap-5"] {
        assert_eq!(world.state("november", name), Some(LineState::RolledBack), "{name}");
    }
    assert!(!at_work(&world).iter().any(|name| name.starts_with("srv")));
    let servers = world.lines().into_iter().filter(|(_, stage, _)| stage == "production");
    assert!(servers.into_iter().all(|(.., line)| line.state != LineState::RolledBack));
}

#[test]
fn what_has_not_begun_when_it_closes_is_left_out_and_what_has_begun_ends() {
    let mut world = promoted(ROLLOUT);
    let closes = tail(&world).closes_at;
    while world.now < closes - SignedDuration::from_mins(2) {
        world.minute(|_| {});
    }
    assert_ne!(
        world.status("november").phase,
        Some(RolloutPhase::Completed),
        "production is done, and the tail is open"
    );
    assert_eq!(stage(&world, 1).state, StageState::Completed);
    world.set_online("lap-4", true);
    minutes(&mut world, 2);
    assert_eq!(at_work(&world), ["lap-4"]);
    assert_eq!(stage(&world, 0).state, StageState::Tail, "one is still at work");
    for name in ["lap-5", "lap-6"] {
        let line = world.line("november", name).unwrap();
        assert_eq!((line.state, line.reason), (LineState::Deferred, Some(Reason::TailClosed)));
    }
    // Too late.
    world.set_online("lap-5", true);
    minutes(&mut world, 30);
    assert_eq!(world.state("november", "lap-4"), Some(LineState::Succeeded));
    assert_eq!(world.state("november", "lap-5"), Some(LineState::Deferred));
    let status = world.status("november");
    assert_eq!(status.phase, Some(RolloutPhase::Completed));
    assert!(conditions::is_true(&status.conditions, conditions::COMPLETED));
    assert_eq!(stage(&world, 0).counts.deferred, 2);
    let writes = world.writes;
    minutes(&mut world, 60);
    assert_eq!(world.writes, writes, "and then nothing is written any more");
}

#[test]
fn a_second_attempt_that_the_tail_has_no_time_for_counts_as_the_failure_that_it_is() {
    let spec =
        ROLLOUT.replace("closeAfter: 4h}", "closeAfter: 4h}, retry: {maxAttempts: 2, backoff: 3h}");
    let mut world = promoted(&spec);
    while world.now < tail(&world).closes_at - SignedDuration::from_mins(40) {
        world.minute(|_| {});
    }
    world.agents.get_mut("lap-4").unwrap().script = Script::InstallFails;
    world.set_online("lap-4", true);
    minutes(&mut world, 30);
    assert_eq!(world.state("november", "lap-4"), Some(LineState::Failed));
    assert!(world.status("november").halted.is_none(), "it has another attempt");
    minutes(&mut world, 15);
    let halted = world.status("november").halted.unwrap();
    assert_eq!(halted.reason, Reason::FailureBudgetSpent.as_str(), "it will not get it");
}

#[test]
fn time_in_which_a_person_had_stopped_the_rollout_is_given_to_latecomers() {
    let mut world = promoted(ROLLOUT);
    let closes = tail(&world).closes_at;
    world.edit("november", |spec| spec.suspend = Some(true));
    minutes(&mut world, 300);
    assert!(world.now > closes);
    assert_eq!(stage(&world, 0).state, StageState::Tail, "nobody could come");
    world.edit("november", |spec| spec.suspend = Some(false));
    minutes(&mut world, 1);
    assert_eq!(tail(&world).closes_at, closes + SignedDuration::from_mins(300));
    world.stop("ward", "{reason: look first}");
    minutes(&mut world, 400);
    assert_eq!(tail(&world).closed_at, None, "nor under an EmergencyStop");
    world.stops.clear();
    minutes(&mut world, 1);
    assert_eq!(tail(&world).closes_at, closes + SignedDuration::from_mins(700));
    world.set_online("lap-4", true);
    minutes(&mut world, 30);
    assert_eq!(world.state("november", "lap-4"), Some(LineState::Succeeded));
}

#[test]
fn a_retry_after_a_halt_proves_the_tails_stage_anew_before_anything_else_starts() {
    let mut world = promoted(ROLLOUT);
    world.agents.get_mut("lap-5").unwrap().script = Script::ServiceDown;
    world.set_online("lap-5", true);
    while world.status("november").halted.is_none() {
        world.minute(|_| {});
    }
    minutes(&mut world, 20);
    let servers = |world: &World| {
        let permits = world.permits.iter().filter(|given| given.device.starts_with("srv"));
        permits.filter(|given| given.step == wardring_api::PermitStep::Install).count()
    };
    let before = servers(&world);
    world.agents.get_mut("lap-5").unwrap().script = Script::Good;
    world.retry("november");
    minutes(&mut world, 40);
    let proven = world.state("november", "lap-5");
    assert_eq!(proven, Some(LineState::AlreadyInstalled), "somebody repaired its service");
    assert_eq!(stage(&world, 0).state, StageState::Open, "it waits for everybody again");
    assert_eq!(servers(&world), before);
    minutes(&mut world, 60);
    assert_eq!(stage(&world, 0).state, StageState::Tail);
    minutes(&mut world, 60);
    assert_eq!(stage(&world, 1).state, StageState::Completed);
}

const GATED: &str = "
updates: {select: {release: 2026-11}}
stages:
- name: laptops
  group: laptops
  maxConcurrency: 2
  minCoverage: 50%
  offline: {action: CatchUp, after: 1h, closeAfter: 4h}
  gates:
    during: [{name: tickets, type: Prometheus, interval: 1m, successCondition: result < 5, onFailure: Hold, prometheus: {provider: mimir, query: tickets}}]
    after: [{name: calm, type: Prometheus, interval: 1m, successCondition: result < 5, prometheus: {provider: mimir, query: calm}}]
- {name: production, group: production, maxConcurrency: 1}";

fn gated(on_failure: &str) -> World {
    let spec = GATED.replace("onFailure: Hold", &format!("onFailure: {on_failure}"));
    let mut world = world(&spec);
    world.meters.insert("tickets".to_owned(), Meter::Value(1.0));
    world.meters.insert("calm".to_owned(), Meter::Value(1.0));
    while stage(&world, 0).state != StageState::Tail {
        world.minute(|_| {});
    }
    world
}

#[test]
fn a_gate_of_the_tail_holds_latecomers_and_not_the_open_stage() {
    let mut world = gated("Hold");
    world.meters.insert("tickets".to_owned(), Meter::Value(9.0));
    world.meters.remove("calm");
    minutes(&mut world, 2);
    world.set_online("lap-4", true);
    minutes(&mut world, 20);
    assert_eq!(world.state("november", "lap-4"), Some(LineState::Pending));
    assert!(stage(&world, 1).counts.succeeded >= 1, "{:?}", stage(&world, 1).counts);
    let gates = stage(&world, 0).gates;
    assert_eq!(gates.len(), 2, "the gate that let it pass stays told: {gates:?}");
    let told = world.status("november").waiting_for;
    assert!(told.iter().any(|all| all.reason == "GateFailed"), "{told:?}");
    world.meters.insert("tickets".to_owned(), Meter::Value(1.0));
    minutes(&mut world, 30);
    assert_eq!(world.state("november", "lap-4"), Some(LineState::Succeeded));
}

#[test]
fn a_retry_answers_a_crash_in_the_tail() {
    let gate = "offline: {action: CatchUp, after: 1h, closeAfter: 4h}, gates: {during: [{name: health, \
                type: DeviceHealth, deviceHealth: {}, interval: 1m}]}";
    let laptops = ROLLOUT.replace("offline: {action: CatchUp, after: 1h, closeAfter: 4h}", gate);
    let mut world = promoted(&laptops);
    let state = |world: &World| (stage(world, 0).state, stage(world, 0).gates[0].state);
    assert_eq!(state(&world), (StageState::Tail, GateState::Passed));
    falls_ill(&mut world, "lap-1", |health, now| health.restarted = Some(now));
    minutes(&mut world, 2);
    assert_eq!(state(&world), (StageState::Tail, GateState::Failed));
    world.retry("november");
    minutes(&mut world, 3);
    assert_eq!(state(&world), (StageState::Tail, GateState::Passed));
}

#[test]
fn a_gate_of_the_tail_halts_the_rollout_where_it_says_so() {
    let mut world = gated("Halt");
    world.meters.insert("tickets".to_owned(), Meter::Value(9.0));
    minutes(&mut world, 3);
    let halted = world.status("november").halted.unwrap();
    assert_eq!((halted.reason.as_str(), halted.stage.as_deref()), ("GateFailed", Some("laptops")));
}

#[test]
fn a_tail_of_the_last_stage_keeps_the_rollout_from_being_completed_and_an_order_halts_it() {
    let spec = "
updates: {select: {release: 2026-11}}
stages:
- {name: laptops, group: laptops, maxConcurrency: 2, minCoverage: 50%, offline: {action: CatchUp, after: 1h}}";
    let mut world = promoted(spec);
    let status = world.status("november");
    assert_eq!(status.phase, Some(RolloutPhase::Progressing));
    assert_eq!(status.current_stage.as_deref(), Some("laptops"));
    assert_eq!(tail(&world).closes_at, tail(&world).since + SignedDuration::from_hours(14 * 24));
    world.order("back", "{rollout: november, reason: the ERP is down, devices: [lap-6]}");
    minutes(&mut world, 1);
    assert!(world.status("november").halted.is_some(), "it would bring the update to others yet");
}

#[test]
fn a_controller_that_dies_between_any_two_writes_changes_nothing_about_it() {
    let mut world = world(ROLLOUT);
    for minute in 0..420 {
        if minute == 100 {
            world.set_online("lap-4", true);
        }
        world.crash_after(minute as usize % 3, |_| {});
        world.minute(|_| {});
    }
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
    assert_eq!(world.agents["lap-4"].begun, 1);
    assert_eq!(stage(&world, 0).counts.deferred, 2);
}

#[test]
fn a_device_that_returns_from_silence_in_the_tail_finishes_what_it_began() {
    let mut world = promoted(&ROLLOUT.replace("minCoverage", "maxUnreachable: 1, minCoverage"));
    world.agents.get_mut("lap-5").unwrap().script = Script::Slow;
    world.set_online("lap-5", true);
    let mut was_lost = false;
    for _ in 0..220 {
        world.minute(|_| {});
        was_lost |= world.state("november", "lap-5") == Some(LineState::Unreachable);
    }
    assert!(was_lost);
    assert_eq!(world.state("november", "lap-5"), Some(LineState::Succeeded));
}

#[test]
fn the_second_opinion_lets_no_stage_go_on_without_its_coverage_its_soak_or_its_leave() {
    let mut world = world(ROLLOUT);
    minutes(&mut world, 61);
    assert_eq!(stage(&world, 0).state, StageState::Soaking);
    let promoted = |world: &World, change: fn(&mut World)| {
        let mut world = world.clone();
        change(&mut world);
        let mut snapshot = world.snapshot();
        let mut spoiled = plan(&snapshot);
        let rollout = &snapshot.rollouts[0];
        let uid = rollout.metadata.uid.clone().unwrap();
        let mut status = rollout.status.clone().unwrap();
        status.stages[0].state = StageState::Tail;
        let rollout = RolloutRef { name: "november".to_owned(), uid };
        spoiled.actions = vec![Action::WriteStatus { rollout, status: Box::new(status) }];
        snapshot.now = world.now;
        check(&snapshot, &spoiled).into_iter().map(|all| all.message).collect::<Vec<_>>()
    };
    let later = |world: &mut World| world.now += SignedDuration::from_mins(10);
    assert_eq!(promoted(&world, later), Vec::<String>::new());
    assert!(promoted(&world, |_| {})[0].contains("before its soak is over"));
    let less = |world: &mut World| {
        world.now += SignedDuration::from_mins(10);
        world.edit("november", |spec| spec.stages[0].min_coverage = Some(Cap::Percent(51)));
    };
    assert!(promoted(&world, less)[0].contains("without its coverage"));
    let waits = |world: &mut World| {
        world.now += SignedDuration::from_mins(10);
        world.edit("november", |spec| spec.stages[0].offline = Default::default());
    };
    assert!(promoted(&world, waits)[0].contains("would pass although lap-4 is open"));
}

#[test]
fn the_second_opinion_grants_nothing_in_a_tail_that_closed() {
    let mut world = promoted(ROLLOUT);
    world.set_online("lap-4", true);
    loop {
        let snapshot = world.snapshot();
        let plan = plan(&snapshot);
        let is_late = |action: &Action| match action {
            Action::OpenBatch { batch, .. } => batch.grants.iter().any(|all| all.contains("lap-4")),
            _ => false,
        };
        if plan.actions.iter().any(is_late) {
            assert_eq!(check(&snapshot, &plan), []);
            let rollout = world.rollouts.get_mut("november").unwrap();
            let status = rollout.status.as_mut().unwrap();
            status.stages[0].tail.as_mut().unwrap().closed_at = Some(world.now);
            let snapshot = world.snapshot();
            let mut old = plan;
            old.actions.retain(|all| !matches!(all, Action::WriteStatus { .. }));
            let found = check(&snapshot, &old);
            assert!(found.iter().any(|all| all.rule == "S3"), "{found:?}");
            return;
        }
        plan.actions.iter().for_each(|action| world.apply(action));
    }
}

#[test]
fn a_device_that_waits_in_a_tail_says_why() {
    let mut world = promoted(ROLLOUT);
    let plan = world.settle();
    assert_eq!(plan.rollouts[0].stages[0].decisions[3], Decision::Hold(Reason::Offline));
    for name in ["lap-4", "lap-5", "lap-6"] {
        world.set_online(name, true);
    }
    let plan = world.minute(|_| {});
    assert_eq!(plan.rollouts[0].stages[0].decisions[5], Decision::Hold(Reason::SlotsTaken));
}

#[test]
fn a_server_that_returns_while_the_laptops_are_proven_anew_finishes_what_it_began() {
    let spec = ROLLOUT.replace("group: production,", "group: production, maxUnreachable: 1,");
    let mut world = promoted(&spec);
    for name in ["srv-1", "srv-2", "srv-3"] {
        world.agents.get_mut(name).unwrap().script = Script::Slow;
    }
    while world.state("november", "srv-1") != Some(LineState::Unreachable) {
        world.minute(|_| {});
    }
    world.agents.get_mut("lap-5").unwrap().script = Script::InstallFails;
    world.set_online("lap-5", true);
    while world.status("november").halted.is_none() {
        world.minute(|_| {});
    }
    world.agents.get_mut("lap-5").unwrap().script = Script::Good;
    world.retry("november");
    world.minute(|_| {});
    assert_eq!(stage(&world, 0).state, StageState::Open);
    // Every plan is checked: one that is refused would keep the whole namespace from moving.
    minutes(&mut world, 120);
    assert_eq!(world.state("november", "srv-1"), Some(LineState::Succeeded));
}

#[test]
fn a_device_that_a_person_holds_is_not_taken_back_from_silence() {
    let mut world = promoted(&ROLLOUT.replace("minCoverage", "maxUnreachable: 1, minCoverage"));
    world.agents.get_mut("lap-5").unwrap().script = Script::Slow;
    world.set_online("lap-5", true);
    while world.state("november", "lap-5") != Some(LineState::Unreachable) {
        world.minute(|_| {});
    }
    let hold = wardring_api::Hold { reason: "at the workbench".to_owned(), until: None };
    world.devices.get_mut("lap-5").unwrap().hold = Some(Box::new(hold));
    // Every plan is checked: one that is refused would keep the whole namespace from moving.
    for _ in 0..120 {
        world.minute(|world| {
            assert_ne!(world.state("november", "lap-5"), Some(LineState::Granted));
        });
    }
    assert_eq!(world.state("november", "lap-5"), Some(LineState::Succeeded), "its answer counts");
}

/// The laptops bear one failure, and what failed is taken back.
fn bearing(production: &str) -> World {
    let spec = ROLLOUT
        .replace("minCoverage", "maxFailures: 1, minCoverage")
        .replace("group: production,", &format!("group: production, {production}"));
    let mut world = promoted(&format!("{spec}\nonFailure: {{action: Rollback}}"));
    world.agents.get_mut("lap-6").unwrap().script = Script::ServiceDown;
    world
}

#[test]
fn a_rollout_is_not_done_before_its_last_latecomer_is_rolled_back() {
    let mut world = bearing("");
    for name in ["lap-4", "lap-5"] {
        world.set_online(name, true);
    }
    minutes(&mut world, 60);
    world.set_online("lap-6", true);
    let mut done = false;
    for _ in 0..60 {
        world.minute(|world| {
            done = stage(world, 0).state == StageState::Completed;
            let state = world.state("november", "lap-6");
            assert!(!done || state == Some(LineState::RolledBack), "{state:?}");
        });
    }
    assert!(done);
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
}

#[test]
fn a_broken_latecomer_that_is_gone_again_keeps_no_later_stage_from_being_proven() {
    let mut world = bearing("soak: 1h, ");
    while stage(&world, 1).state != StageState::Soaking {
        world.minute(|_| {});
    }
    let soaked = stage(&world, 1).soak_started_at;
    world.set_online("lap-6", true);
    let mut broken = false;
    while !broken {
        world.minute(|world| {
            broken |= world.state("november", "lap-6") == Some(LineState::Failed);
        });
    }
    world.set_online("lap-6", false);
    minutes(&mut world, 70);
    assert_eq!(stage(&world, 1).state, StageState::Completed);
    assert_eq!(stage(&world, 1).soak_started_at, soaked);
    assert_eq!(stage(&world, 0).state, StageState::Tail);
}

#[test]
fn a_retry_for_another_stage_proves_no_laptops_anew_and_leaves_out_who_was_left_out() {
    let mut world = promoted(ROLLOUT);
    world.agents.get_mut("lap-4").unwrap().script = Script::NotStarted;
    world.set_online("lap-4", true);
    for name in ["srv-1", "srv-2", "srv-3"] {
        world.agents.get_mut(name).unwrap().script = Script::InstallFails;
    }
    minutes(&mut world, 20);
    assert!(world.status("november").halted.is_some());
    assert_eq!(world.state("november", "lap-4"), Some(LineState::NotStarted));
    let before = tail(&world).promoted_at;
    world.retry("november");
    minutes(&mut world, 1);
    assert_eq!(stage(&world, 0).state, StageState::Tail);
    assert_eq!(tail(&world).promoted_at, before);
    // It fails again, the tail closes after the next retry, and another one revives nobody.
    world.agents.get_mut("lap-4").unwrap().script = Script::Good;
    for name in ["srv-1", "srv-2", "srv-3"] {
        world.set_online(name, false);
    }
    minutes(&mut world, 30);
    world.retry("november");
    while stage(&world, 0).state != StageState::Completed {
        world.minute(|_| {});
    }
    world.set_online("srv-1", true);
    minutes(&mut world, 30);
    assert!(world.status("november").halted.is_some());
    world.retry("november");
    minutes(&mut world, 5);
    assert_eq!(stage(&world, 0).state, StageState::Completed);
    assert_eq!(world.state("november", "lap-6"), Some(LineState::Deferred));
}

#[test]
fn the_wait_for_everybody_is_by_the_clock_whatever_windows_say() {
    let spec = ROLLOUT
        .replace("after: 1h, closeAfter: 4h}", "after: 12h, closeAfter: 9d}, windows: [night]");
    let mut world = World::new();
    world.window(
        "night",
        "{type: Allow, schedule: {cron: '0 22 * * *'}, duration: 4h, timeZone: UTC}",
    );
    let laid_out = self::world(&spec);
    (world.devices, world.groups, world.agents) =
        (laid_out.devices, laid_out.groups, laid_out.agents);
    world.rollout("november", &spec);
    world.settle();
    minutes(&mut world, 12 * 60 - 1);
    assert_eq!(stage(&world, 0).state, StageState::Open);
    assert_eq!(stage(&world, 0).counts.succeeded, 3);
    minutes(&mut world, 1);
    assert_eq!(stage(&world, 0).state, StageState::Soaking, "in the middle of the day");
    // Who comes by day waits for the night.
    world.set_online("lap-4", true);
    minutes(&mut world, 60);
    assert_eq!(world.state("november", "lap-4"), Some(LineState::Pending));
    minutes(&mut world, 12 * 60);
    assert_eq!(world.state("november", "lap-4"), Some(LineState::Succeeded));
}

#[test]
fn a_stop_of_one_laptop_keeps_no_stage_from_being_proven_and_one_of_servers_no_tail_open() {
    let mut stopped = world(ROLLOUT);
    let labels = std::sync::Arc::make_mut(&mut stopped.devices.get_mut("lap-6").unwrap().labels);
    labels.insert("ward".to_owned(), "3".to_owned());
    stopped.stop("ward", "{reason: surgery, selector: {matchLabels: {ward: '3'}}}");
    minutes(&mut stopped, 60);
    assert_eq!(stage(&stopped, 0).state, StageState::Soaking);
    minutes(&mut stopped, 60);
    assert_eq!(stage(&stopped, 1).state, StageState::Completed);

    let mut world = promoted(ROLLOUT);
    world.stop("servers", "{reason: audit, selector: {matchLabels: {stage: production}}}");
    let closes = tail(&world).closes_at;
    while world.now < closes {
        world.minute(|_| {});
    }
    assert_eq!(stage(&world, 0).state, StageState::Completed);
}

#[test]
fn what_asks_for_a_rollback_is_not_lost_behind_a_tail_that_only_halts() {
    let gate = |on_failure: &str| {
        format!(
            "gates: {{during: [{{name: tickets, type: Prometheus, interval: 1m, onFailure: {on_failure}, \
             successCondition: result < 5, prometheus: {{provider: mimir, query: tickets}}}}]}}"
        )
    };
    let spec = ROLLOUT
        .replace("offline:", &format!("{}, offline:", gate("Halt")))
        .replace("group: production,", &format!("group: production, {},", gate("Rollback")));
    let mut world = world(&spec);
    world.meters.insert("tickets".to_owned(), Meter::Value(1.0));
    while stage(&world, 1).counts.succeeded == 0 {
        world.minute(|_| {});
    }
    assert_eq!(stage(&world, 0).state, StageState::Tail);
    world.meters.insert("tickets".to_owned(), Meter::Value(9.0));
    minutes(&mut world, 3);
    let status = world.status("november");
    assert_eq!(status.halted.unwrap().stage.as_deref(), Some("production"));
    assert_eq!(status.rollback.unwrap().stage, "production");
}

#[test]
fn a_tail_that_could_not_be_one_is_refused() {
    for (wrong, told) in [
        ("minCoverage: 0", "`minCoverage` from 1% to 99%"),
        ("minCoverage: 0%", "`minCoverage` from 1% to 99%"),
        ("minCoverage: 100%", "`minCoverage` from 1% to 99%"),
        ("minDevices: 1", "`minCoverage` from 1% to 99%"),
        ("minCoverage: 50%, minProven: 0", "`minProven` of at least 1"),
        ("minCoverage: 50%, progressDeadline: 1h", "shorter than `progressDeadline`"),
        ("minCoverage: 50%, progressDeadline: 30m", "shorter than `progressDeadline`"),
    ] {
        let world = world(&ROLLOUT.replace("minCoverage: 50%", wrong));
        let status = world.status("november");
        assert_eq!(status.phase, Some(RolloutPhase::Invalid), "{wrong}");
        assert!(status.message.clone().unwrap().contains(told), "{wrong}: {:?}", status.message);
    }
    let world = world(&ROLLOUT.replace("soak: 10m", "soak: 4h"));
    assert!(world.status("november").message.unwrap().contains("longer than `soak`"));
}

#[test]
fn a_device_that_returns_while_everybody_else_is_watched_does_not_begin_the_watch_anew() {
    let spec = ROLLOUT
        .replace("minCoverage", "maxUnreachable: 1, minCoverage")
        .replace("soak: 10m", "soak: 3h")
        .replace("after: 1h", "after: 3h");
    let mut world = world(&spec);
    for name in ["lap-4", "lap-5", "lap-6"] {
        world.set_online(name, true);
    }
    world.agents.get_mut("lap-6").unwrap().script = Script::Slow;
    while stage(&world, 0).state != StageState::Soaking {
        world.minute(|_| {});
    }
    assert_eq!(stage(&world, 0).tail, None, "everybody has a verdict");
    let soaked = stage(&world, 0).soak_started_at;
    while world.state("november", "lap-6") != Some(LineState::Succeeded) {
        world.minute(|_| {});
    }
    assert_eq!(
        (stage(&world, 0).state, stage(&world, 0).soak_started_at),
        (StageState::Soaking, soaked)
    );
}

#[test]
fn a_latecomer_whose_gate_fails_after_the_grant_gets_no_permit() {
    for soak in ["", "soak: 5h"] {
        let spec = GATED.replace("minCoverage: 50%", &format!("minCoverage: 50%\n  {soak}"));
        let spec = spec.replace("closeAfter: 4h", "closeAfter: 9h");
        let mut world = world(&spec);
        world.meters.insert("tickets".to_owned(), Meter::Value(1.0));
        world.meters.insert("calm".to_owned(), Meter::Value(1.0));
        minutes(&mut world, 70);
        let expected = if soak.is_empty() { StageState::Tail } else { StageState::Soaking };
        assert_eq!(stage(&world, 0).state, expected);
        world.set_online("lap-4", true);
        world.settle();
        assert_eq!(world.state("november", "lap-4"), Some(LineState::Granted));
        world.meters.insert("tickets".to_owned(), Meter::Value(9.0));
        minutes(&mut world, 30);
        assert_eq!(world.agents["lap-4"].begun, 0, "{soak}");
    }
}

#[test]
fn time_until_a_halt_is_answered_is_given_to_latecomers() {
    let mut world = gated("Halt");
    let closes = tail(&world).closes_at;
    world.meters.insert("tickets".to_owned(), Meter::Value(9.0));
    while world.status("november").halted.is_none() {
        world.minute(|_| {});
    }
    let halted = world.now;
    world.meters.insert("tickets".to_owned(), Meter::Value(1.0));
    minutes(&mut world, 300);
    assert_eq!(stage(&world, 0).state, StageState::Tail);
    world.retry("november");
    world.settle();
    assert_eq!(tail(&world).closes_at, closes + world.now.duration_since(halted));
}
