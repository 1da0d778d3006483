//! Devices that an update left damaged: quarantined by the leader, until a person lets go of them.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use jiff::{SignedDuration, Timestamp};
use support::{ONE_STAGE, SERVER, World, agent::Script, good_answer};
use wardring_api::{AlertKind, JobAction, LineState, reasons::Reason};
use wardring_planner::{Action, Decision, JobOutcome, Outcome, OutcomeResult, Plan, alerts};

const NOVEMBER: &str = "
updates: {select: {release: 2026-11}}
stages: [{name: test, group: test, maxConcurrency: 1}]
onFailure: {action: Rollback}";

const NEXT: &str = "
updates: {select: {release: 2026-11}}
stages: [{name: test, group: test, maxConcurrency: 2, minProven: 0}]";

/// Two servers; the first fails, and is being rolled back.
fn rolling_back() -> World {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    world.device("test-2", "test", SERVER);
    world.agents.get_mut("test-1").unwrap().script = Script::ServiceDown;
    world.rollout("november", NOVEMBER);
    world.settle();
    let is_rolling = |world: &World| {
        let job = world.jobs.get("test-1");
        job.is_some_and(|job| job.action == JobAction::Rollback && job.may_have_begun())
    };
    for _ in 0..60 {
        if is_rolling(&world) {
            return world;
        }
        world.minute(|_| {});
    }
    panic!("no rollback: {:#?}", world.status("november"));
}

/// What the first device answers to its job; nothing has been read of it yet.
fn answers(mut world: World, result: OutcomeResult, message: &str) -> World {
    world.now += SignedDuration::from_secs(30);
    let message = message.to_owned();
    let mut outcome = Outcome { result, reason: None, message, ..good_answer(&world) };
    let job = world.jobs.get_mut("test-1").unwrap();
    if result == OutcomeResult::NotReversible && job.action == JobAction::Rollback {
        // It is found before anything begins.
        outcome.started = false;
        job.permitted.clear();
    }
    job.outcome = JobOutcome::Verified(outcome);
    // The answer is the device's last word, whatever its script says.
    world.agents.remove("test-1");
    world
}

/// A device whose rollback failed, before anybody read that.
fn failed() -> World {
    answers(rolling_back(), OutcomeResult::RollbackFailed, "removing KB5068787 failed")
}

fn pass(world: &mut World, minutes: u32) {
    for _ in 0..minutes {
        world.minute(|_| {});
    }
}

fn damaged_since(world: &World) -> Option<Timestamp> {
    let row = &world.devices["test-1"];
    assert!(row.quarantined || row.damaged_since.is_none());
    row.damaged_since
}

fn release(world: &mut World) {
    world.now += SignedDuration::from_mins(5);
    world.devices.get_mut("test-1").unwrap().release_requested_at = Some(world.now);
}

fn is_mark(action: &Action) -> bool {
    matches!(action, Action::WriteQuarantine { .. })
}

/// Works on without ever getting a condition written.
fn settle_unmarked(world: &mut World) {
    for _ in 0..20 {
        let plan = world.plan();
        let mut left = plan.actions.iter().filter(|action| !is_mark(action)).peekable();
        if left.peek().is_none() {
            return;
        }
        left.for_each(|action| world.apply(action));
    }
    panic!("plans do not come to rest");
}

fn decision(plan: &Plan, rollout: &str) -> Decision {
    let of = plan.rollouts.iter().find(|all| all.rollout.name == rollout).unwrap();
    of.stages[0].devices().find(|(device, _)| *device == "test-1").unwrap().1
}

#[test]
fn a_device_whose_rollback_failed_is_quarantined_once_and_says_what_to_do() {
    let mut world = failed();
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::RollbackFailed));
    let line = world.line("november", "test-1").unwrap();
    assert_eq!(damaged_since(&world), line.at, "since then, whenever it is written");
    pass(&mut world, 120);
    assert_eq!(
        world.quarantines,
        ["test-1 RollbackFailed The rollback of KB5068787 failed (rollout november, stage test): \
          removing KB5068787 failed. Look at the device; nothing begins on it before somebody says \
          `kubectl wardring release device test-1`."]
    );
    assert!(!world.devices["test-2"].quarantined);
}

#[test]
fn the_next_rollout_leaves_it_alone_also_when_nothing_else_is_left_of_the_failure() {
    let mut world = failed();
    world.settle();
    world.now += SignedDuration::from_hours(31 * 24);
    world.settle();
    assert!(!world.jobs.contains_key("test-1"), "the lock is given up after a month");
    world.delete_rollout("november");
    world.settle();
    world.rollout("december", NEXT);
    world.settle();
    assert_eq!(decision(&world.plan(), "december"), Decision::Hold(Reason::Quarantined));
    pass(&mut world, 120);
    assert_eq!(world.state("december", "test-1"), Some(LineState::Pending));
    assert_eq!(world.state("december", "test-2"), Some(LineState::Succeeded));
    let waits = world.status("december").waiting_for;
    assert!(waits.iter().any(|wait| wait.reason == "Quarantined"), "{waits:?}");
    assert_eq!(world.quarantines.len(), 1);
}

#[test]
fn a_rollout_that_takes_the_place_of_the_failed_one_leaves_it_alone_too() {
    let mut world = failed();
    world.settle();
    let gates = "minProven: 0, gates: {before: [{name: sign-off, type: Approval}]}";
    let fix = NEXT.replace("stages", "authors: [alice]\nsupersedes: november\nstages");
    world.approved_rollout("fix", &fix.replace("minProven: 0", gates));
    pass(&mut world, 120);
    assert!(world.status("november").aborted.is_some());
    world.now += SignedDuration::from_hours(72);
    pass(&mut world, 10);
    assert_eq!(decision(&world.plan(), "fix"), Decision::Hold(Reason::Quarantined));
    assert_eq!(world.state("fix", "test-2"), Some(LineState::Succeeded));
}

#[test]
fn whichever_write_the_leader_dies_after_the_device_is_quarantined_exactly_once() {
    let mut whole = failed();
    whole.settle();
    let writes = failed().plan().actions.len();
    assert!(writes > 1, "{writes}");
    for written in 0..=writes {
        let mut world = failed();
        world.crash_after(written, |_| {});
        world.settle();
        pass(&mut world, 30);
        assert_eq!(world.quarantines, whole.quarantines, "died after {written} writes");
        assert_eq!(damaged_since(&world), damaged_since(&whole));
    }
}

#[test]
fn nothing_is_said_of_damage_that_is_not_recorded_yet() {
    let actions = failed().plan().actions;
    let record = actions.iter().position(|action| matches!(action, Action::RecordLines { .. }));
    let mark = actions.iter().position(is_mark);
    assert!(record.is_some() && record < mark, "{actions:#?}");
}

#[test]
fn a_write_that_was_lost_is_made_again_with_the_same_words_and_the_same_time() {
    let mut world = failed();
    settle_unmarked(&mut world);
    assert_eq!(world.state("november", "test-1"), Some(LineState::RollbackFailed));
    let marks = |world: &World| {
        let actions = world.plan().actions.into_iter();
        actions.filter(is_mark).collect::<Vec<_>>()
    };
    let first = marks(&world);
    world.now += SignedDuration::from_hours(3);
    assert_eq!(marks(&world), first);
    assert_eq!(first.len(), 1);
}

#[test]
fn a_release_frees_the_device_for_good() {
    let mut world = failed();
    world.settle();
    release(&mut world);
    world.settle();
    assert!(!world.devices["test-1"].quarantined);
    assert!(world.quarantines[1].starts_with("test-1 Released A person released the device at "));
    assert!(!world.jobs.contains_key("test-1"));
    pass(&mut world, 60);
    world.retry("november");
    world.settle();
    world.rollout("december", NEXT);
    world.device("test-1", "test", SERVER).release_requested_at = Some(world.now);
    for _ in 0..120 {
        world.minute(|_| {});
        assert!(!world.devices["test-1"].quarantined);
    }
    assert_eq!(world.quarantines.len(), 2, "{:?}", world.quarantines);
}

#[test]
fn a_release_that_comes_before_the_condition_is_written_wins() {
    let mut world = failed();
    settle_unmarked(&mut world);
    release(&mut world);
    world.settle();
    pass(&mut world, 60);
    assert_eq!(world.quarantines, Vec::<String>::new());
}

#[test]
fn damage_that_is_newer_than_the_last_release_counts() {
    let mut world = rolling_back();
    world.devices.get_mut("test-1").unwrap().release_requested_at =
        Some(world.now - SignedDuration::from_hours(1));
    let mut world = answers(world, OutcomeResult::RollbackFailed, "removing KB5068787 failed");
    world.settle();
    assert!(damaged_since(&world).is_some());
}

#[test]
fn a_broken_device_whose_update_cannot_go_is_damaged_and_a_sound_one_is_not() {
    let no_way = "KB5068787 cannot be removed from this Windows";
    let mut broken = answers(rolling_back(), OutcomeResult::NotReversible, no_way);
    broken.settle();
    assert_eq!(broken.state("november", "test-1"), Some(LineState::NotReversible));
    assert_eq!(
        broken.quarantines,
        ["test-1 NotReversible The device is broken, and KB5068787 cannot be taken back (rollout \
          november, stage test): KB5068787 cannot be removed from this Windows. Look at the device; \
          nothing begins on it before somebody says `kubectl wardring release device test-1`."]
    );
    assert!(broken.jobs.contains_key("test-1"), "nobody else has it");
    release(&mut broken);
    broken.settle();
    assert!(!broken.jobs.contains_key("test-1") && !broken.devices["test-1"].quarantined);

    let mut sound = World::new();
    sound.group("test");
    sound.device("test-1", "test", SERVER);
    sound.rollout("november", ONE_STAGE);
    sound.settle();
    pass(&mut sound, 30);
    assert_eq!(sound.state("november", "test-1"), Some(LineState::Succeeded));
    sound.order("back", "{rollout: november, reason: the ERP is slow}");
    while sound.jobs.get("test-1").is_none_or(|job| !job.may_have_begun()) {
        sound.minute(|_| {});
    }
    let mut sound = answers(sound, OutcomeResult::NotReversible, no_way);
    sound.settle();
    assert_eq!(sound.state("november", "test-1"), Some(LineState::NotReversible));
    assert_eq!(sound.quarantines, Vec::<String>::new());
    assert!(!sound.jobs.contains_key("test-1"));
}

/// A device that is well, and whose update a person wants back, with its answer.
fn ordered(result: OutcomeResult, started: bool) -> World {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    world.rollout("november", ONE_STAGE);
    world.settle();
    pass(&mut world, 30);
    assert_eq!(world.state("november", "test-1"), Some(LineState::Succeeded));
    world.order("back", "{rollout: november, reason: the ERP is slow}");
    while world.jobs.get("test-1").is_none_or(|job| !job.may_have_begun()) {
        world.minute(|_| {});
    }
    let mut world = answers(world, result, "Windows is busy installing");
    if let JobOutcome::Verified(outcome) = &mut world.jobs.get_mut("test-1").unwrap().outcome {
        outcome.started = started;
    }
    world.settle();
    world
}

#[test]
fn a_sound_device_is_damaged_by_a_rollback_that_began_and_by_no_other() {
    let begun = ordered(OutcomeResult::RollbackFailed, true);
    assert!(damaged_since(&begun).is_some());
    let untouched = ordered(OutcomeResult::RollbackFailed, false);
    assert_eq!(untouched.state("november", "test-1"), Some(LineState::RollbackFailed));
    assert_eq!(untouched.quarantines, Vec::<String>::new());
    let all = alerts(&untouched.snapshot()).active;
    assert!(!all.iter().any(|alert| alert.summary.contains("quarantined")), "{all:?}");
    // One that was broken before is, whatever was begun.
    let mut broken = failed();
    if let JobOutcome::Verified(outcome) = &mut broken.jobs.get_mut("test-1").unwrap().outcome {
        outcome.started = false;
    }
    broken.settle();
    assert!(damaged_since(&broken).is_some());
}

#[test]
fn a_mark_keeps_nobody_else_waiting() {
    let mut world = failed();
    world.group("other");
    world.device("other-1", "other", SERVER);
    world.rollout("clinic", &ONE_STAGE.replace("group: test", "group: other"));
    // Everything but the answer of the damaged device gets written until the job is to be made.
    for _ in 0..10 {
        let plan = world.plan();
        let created = plan.actions.iter().position(|one| matches!(one, Action::CreateJob(_)));
        if let Some(created) = created {
            let marked = plan.actions.iter().position(is_mark).expect("it is to be marked");
            assert!(created < marked, "{:#?}", plan.actions);
            return;
        }
        plan.actions.iter().filter(|one| !is_mark(one)).for_each(|one| world.apply(one));
    }
    panic!("no job is made");
}

/// The first device wanted to take the update back by itself, and could not.
fn helpless() -> World {
    let mut world = support::granted();
    world.edit("november", |spec| {
        spec.on_failure.action = wardring_api::FailureAction::Rollback;
    });
    while !world.jobs["test-1"].may_have_begun() {
        world.minute(|_| {});
    }
    answers(world, OutcomeResult::NotReversible, "KB5068787 cannot be removed")
}

#[test]
fn a_device_that_found_no_way_back_by_itself_is_quarantined_and_not_asked_again() {
    let mut world = helpless();
    world.settle();
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.reason), (LineState::Failed, Some(Reason::NotReversible)));
    assert!(damaged_since(&world).is_some());
    release(&mut world);
    world.settle();
    pass(&mut world, 60);
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.attempt), (LineState::Failed, 1), "no rollback follows");
    assert_eq!(world.quarantines.len(), 2, "{:?}", world.quarantines);
}

#[test]
fn until_it_is_marked_its_job_keeps_everybody_else_from_it() {
    let no_way = "KB5068787 cannot be removed from this Windows";
    let broken = answers(rolling_back(), OutcomeResult::NotReversible, no_way);
    for mut world in [failed(), broken, helpless()] {
        settle_unmarked(&mut world);
        world.rollout("december", NEXT);
        settle_unmarked(&mut world);
        assert!(world.jobs.contains_key("test-1"));
        assert_eq!(decision(&world.plan(), "december"), Decision::Hold(Reason::Busy));
        world.settle();
        assert_eq!(decision(&world.plan(), "december"), Decision::Hold(Reason::Quarantined));
    }
}

#[test]
fn neither_a_retry_nor_a_deletion_makes_it_forgotten() {
    let mut retried = helpless();
    settle_unmarked(&mut retried);
    retried.retry("november");
    settle_unmarked(&mut retried);
    assert_eq!(retried.state("november", "test-1"), Some(LineState::Failed));
    retried.settle();
    assert!(damaged_since(&retried).is_some());
    assert_eq!(retried.state("november", "test-1"), Some(LineState::Failed));
    release(&mut retried);
    retried.settle();
    retried.retry("november");
    retried.settle();
    assert_eq!(retried.state("november", "test-1"), Some(LineState::Granted), "it was let go");

    let no_way = "KB5068787 cannot be removed from this Windows";
    let broken = answers(rolling_back(), OutcomeResult::NotReversible, no_way);
    for mut deleted in [failed(), helpless(), broken] {
        settle_unmarked(&mut deleted);
        deleted.delete_rollout("november");
        settle_unmarked(&mut deleted);
        assert!(deleted.rollouts.contains_key("november"), "it waits for the mark");
        deleted.settle();
        assert!(deleted.rollouts.is_empty());
        assert!(damaged_since(&deleted).is_some());
    }
}

#[test]
fn a_rollout_that_is_deleted_waits_no_longer_than_its_jobs_for_a_mark_that_is_refused() {
    let mut world = failed();
    settle_unmarked(&mut world);
    world.delete_rollout("november");
    world.now += SignedDuration::from_hours(48);
    settle_unmarked(&mut world);
    assert!(world.rollouts.is_empty());
}

#[test]
fn what_somebody_else_quarantined_it_for_is_not_forgotten() {
    let mut world = failed();
    world.devices.get_mut("test-1").unwrap().quarantined = true;
    world.settle();
    pass(&mut world, 10);
    assert_eq!(world.quarantines, Vec::<String>::new());
    world.devices.get_mut("test-1").unwrap().quarantined = false;
    world.settle();
    assert!(damaged_since(&world).is_some());
    assert_eq!(world.quarantines.len(), 1);
}

#[test]
fn a_device_that_never_began_for_lack_of_a_way_back_is_sound() {
    let mut world = support::granted();
    world.edit("november", |spec| spec.preflight.require_reversible = true);
    world.agents.remove("test-1");
    for _ in 0..200 {
        world.now += SignedDuration::from_hours(13);
        world.settle();
        if world.state("november", "test-1") == Some(LineState::Failed) {
            break;
        }
        if !world.jobs.contains_key("test-1") {
            world.retry("november");
            continue;
        }
        let (result, reason) = (OutcomeResult::NotStarted, Some(Reason::NotReversible));
        let outcome = Outcome { result, reason, started: false, ..good_answer(&world) };
        world.jobs.get_mut("test-1").unwrap().outcome = JobOutcome::Verified(outcome);
        // Its answered job may still be there when it is given up.
        for _ in 0..3 {
            let plan = world.plan();
            let stays = |action: &&Action| !matches!(action, Action::DeleteJob { .. });
            plan.actions.iter().filter(stays).for_each(|action| world.apply(action));
        }
        if world.state("november", "test-1") == Some(LineState::Failed) {
            assert!(world.jobs.contains_key("test-1"));
        }
        world.settle();
    }
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.reason), (LineState::Failed, Some(Reason::NotReversible)));
    assert_eq!(world.quarantines, Vec::<String>::new());
}

#[test]
fn a_condition_that_somebody_edits_away_comes_back() {
    for mut world in [failed(), helpless()] {
        world.settle();
        pass(&mut world, 60);
        let row = world.devices.get_mut("test-1").unwrap();
        (row.quarantined, row.damaged_since) = (false, None);
        world.settle();
        assert!(damaged_since(&world).is_some());
    }
}

#[test]
fn a_machine_that_took_its_place_is_not_damaged() {
    for mut world in [failed(), helpless()] {
        settle_unmarked(&mut world);
        world.devices.get_mut("test-1").unwrap().enrolment_id = Some("eid-other".into());
        world.settle();
        pass(&mut world, 10);
        assert_eq!(world.quarantines, Vec::<String>::new());
    }
}

#[test]
fn an_old_record_without_its_job_says_nothing_about_today() {
    let mut world = failed();
    settle_unmarked(&mut world);
    world.jobs.remove("test-1");
    world.settle();
    pass(&mut world, 10);
    assert_eq!(world.quarantines, Vec::<String>::new());
}

#[test]
fn people_are_told_of_the_rollback_that_failed_until_the_device_is_released() {
    let told = |world: &World| {
        let all = alerts(&world.snapshot()).active.into_iter();
        all.filter(|alert| alert.kind == AlertKind::RollbackFailed).collect::<Vec<_>>()
    };
    let no_way = "KB5068787 cannot be removed from this Windows";
    let broken = answers(rolling_back(), OutcomeResult::NotReversible, no_way);
    for mut world in [failed(), broken, helpless()] {
        world.settle();
        let told_of = told(&world);
        assert_eq!(told_of.len(), 1, "{told_of:?}");
        let summary = &told_of[0].summary;
        let state = world.state("november", "test-1");
        let what = match state {
            Some(LineState::RollbackFailed) => "in Doubt",
            _ => "Still Patched",
        };
        let start = format!(
            "test-1 is {what} — Its Rollback Failed (KB5068787, rollout november, stage test, since 2"
        );
        assert!(summary.starts_with(&start), "{summary}");
        assert!(
            summary.ends_with(
                "; quarantined until somebody looked and says `kubectl wardring release device test-1`)"
            ),
            "{summary}"
        );
        release(&mut world);
        world.settle();
        assert!(told(&world).is_empty(), "{:?}", told(&world));
    }
}
