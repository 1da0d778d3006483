//! What devices report of themselves keeps them from a job that would stop before it begins.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use support::{ONE_STAGE, SERVER, World, explained};
use wardring_api::{
    ComponentStore, ComponentStorePolicy, Hold, JobAction, LineState, PatchAuthority, UpdateKind,
    reasons::Reason,
};
use wardring_planner::{DeviceRow, OutcomeResult, explain_rollout};

/// A stage of one device that reports what `reports` sets, under these rules.
fn world(rules: &str, reports: impl FnOnce(&mut DeviceRow)) -> World {
    let mut world = World::new();
    world.group("test");
    reports(world.device("test-1", "test", SERVER));
    world.rollout("november", &format!("{ONE_STAGE}\npreflight: {{{rules}}}"));
    world
}

/// Why the device is not granted, as the rollout's status names it.
fn hold(rules: &str, reports: impl FnOnce(&mut DeviceRow)) -> Option<String> {
    let mut world = world(rules, reports);
    world.settle();
    match world.state("november", "test-1") {
        Some(LineState::Granted) => None,
        state => {
            assert_eq!(state, Some(LineState::Pending));
            Some(world.status("november").waiting_for[0].reason.clone())
        }
    }
}

#[test]
fn a_full_disk_is_a_hold_and_what_is_not_reported_is_left_to_the_device() {
    let free = |gb| move |row: &mut DeviceRow| row.free_disk_gb = gb;
    let low = Some("LowDiskSpace".to_owned());
    assert_eq!(hold("minFreeDiskGb: 20", free(Some(19))), low);
    assert_eq!(hold("minFreeDiskGb: 20", free(Some(20))), None);
    assert_eq!(hold("minFreeDiskGb: 20", free(None)), None, "every agent looks for itself");
    assert_eq!(hold("", free(Some(0))), None, "nobody asked for room");
}

#[test]
fn a_damaged_component_store_is_a_hold_and_not_to_know_is_one_where_that_is_asked_for() {
    use ComponentStore::{Damaged, Healthy, Repairable, Unknown};
    let damaged = Some("ComponentStoreDamaged".to_owned());
    let unknown = Some("ComponentStoreUnknown".to_owned());
    for (store, usual, strict) in [
        (None, None, unknown.clone()),
        (Some(Unknown), None, unknown),
        (Some(Healthy), None, None),
        (Some(Repairable), damaged.clone(), damaged.clone()),
        (Some(Damaged), damaged.clone(), damaged),
    ] {
        let says = |row: &mut DeviceRow| row.component_store = store;
        assert_eq!(hold("", says), usual, "{store:?}");
        assert_eq!(hold("componentStore: Require", says), strict, "{store:?}");
        assert_eq!(hold("componentStore: Ignore", says), None, "{store:?}");
    }
}

#[test]
fn a_device_that_is_paused_on_the_spot_is_held_with_its_administrators_words() {
    let until = "2026-12-24T06:00:00Z".parse().unwrap();
    let paused = |why: &'static str| {
        move |row: &mut DeviceRow| {
            row.paused = Some(Box::new(Hold { reason: why.to_owned(), until: Some(until) }));
        }
    };
    assert_eq!(hold("", paused("")), Some("Paused".to_owned()));
    let mut world = world("", paused("disk swap"));
    world.settle();
    let told = "test-1 does not start: an administrator paused the agent on it until \
                2026-12-24T06:00:00Z: disk swap. `wardring-agent resume` on the device lets it go on.";
    assert_eq!(explained(&world), told);
    world.devices.get_mut("test-1").unwrap().paused = None;
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
}

#[test]
fn the_device_is_granted_as_soon_as_it_reports_that_the_trouble_is_over() {
    let mut world = world("minFreeDiskGb: 20", |row| {
        row.free_disk_gb = Some(4);
        row.component_store = Some(ComponentStore::Repairable);
    });
    world.settle();
    let told =
        "test-1 does not start: the drive of Windows has 4 GB free, and minFreeDiskGb asks for 20.";
    assert_eq!(explained(&world), told);

    world.devices.get_mut("test-1").unwrap().free_disk_gb = Some(40);
    world.settle();
    assert!(explained(&world).contains("RestoreHealth"), "{}", explained(&world));

    world.devices.get_mut("test-1").unwrap().component_store = Some(ComponentStore::Damaged);
    world.settle();
    assert!(explained(&world).contains("cannot be repaired"), "{}", explained(&world));

    world.devices.get_mut("test-1").unwrap().component_store = Some(ComponentStore::Healthy);
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
}

#[test]
fn what_no_agent_takes_back_is_held_by_its_kind_where_that_is_asked_for() {
    for kind in [UpdateKind::ServicingStack, UpdateKind::FeatureUpdate, UpdateKind::Driver] {
        let mut world = World::new();
        world.group("test");
        world.device("test-1", "test", SERVER);
        world.updates[0].kind = kind;
        let spec = ONE_STAGE.replace("select: {release: 2026-11}", "kbs: [KB5068787]");
        world.rollout("november", &format!("{spec}\npreflight: {{requireReversible: true}}"));
        world.settle();
        assert_eq!(world.state("november", "test-1"), Some(LineState::Pending), "{kind:?}");
        assert_eq!(world.status("november").waiting_for[0].reason, "NotReversible");
    }
}

#[test]
fn an_update_that_is_marked_as_irreversible_is_held_where_that_is_asked_for() {
    use wardring_api::Reversible::{Expected, No, Unknown};
    for (reversible, rule, is_held) in
        [(No, true, true), (Unknown, true, false), (Expected, true, false), (No, false, false)]
    {
        let mut world = World::new();
        world.group("test");
        world.device("test-1", "test", SERVER);
        world.updates[0].reversible = reversible;
        let preflight = format!("{ONE_STAGE}\npreflight: {{requireReversible: {rule}}}");
        world.rollout("november", &preflight);
        world.settle();
        let state = if is_held { LineState::Pending } else { LineState::Granted };
        assert_eq!(world.state("november", "test-1"), Some(state), "{reversible:?} {rule}");
        if is_held {
            assert_eq!(world.status("november").waiting_for[0].reason, "NotReversible");
        }
    }
}

fn pause() -> Option<Box<Hold>> {
    Some(Box::new(Hold { reason: "disk swap".to_owned(), until: None }))
}

#[test]
fn the_hold_of_a_pause_ends_with_its_time_also_before_the_device_has_said_so() {
    let mut world = world("", |row| row.paused = pause());
    let until = world.now + jiff::SignedDuration::from_hours(1);
    world.devices.get_mut("test-1").unwrap().paused.as_mut().unwrap().until = Some(until);
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Pending));
    assert!(world.status("november").next_evaluation.is_some_and(|next| next <= until));
    world.now = until;
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
}

#[test]
fn a_pause_in_the_middle_of_a_job_stops_its_clock_and_takes_no_other_device_back() {
    let mut world = support::granted();
    while world.jobs["test-1"].permitted.is_empty() {
        world.minute(|_| {});
    }
    world.devices.get_mut("test-1").unwrap().paused = pause();
    world.now = world.jobs["test-1"].finish_by + jiff::SignedDuration::from_hours(1);
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Granted), "the clock stands");

    // It goes on, and its restart comes too late: no word about the update.
    let mut answer = support::good_answer(&world);
    (answer.result, answer.reason) = (OutcomeResult::Failed, Some(Reason::Paused));
    world.jobs.get_mut("test-1").unwrap().outcome = wardring_planner::JobOutcome::Verified(answer);
    world.devices.get_mut("test-1").unwrap().paused = None;
    world.settle();
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.reason), (LineState::Unreachable, Some(Reason::Paused)));
    world.settle();
    assert_eq!(world.line("november", "test-1").unwrap(), line, "it is told once");
}

#[test]
fn a_device_that_found_out_that_nothing_could_be_taken_back_is_not_asked_again_and_again() {
    let mut world = support::granted();
    world.edit("november", |spec| spec.preflight.require_reversible = true);
    let mut answer = support::good_answer(&world);
    (answer.result, answer.reason) = (OutcomeResult::NotStarted, Some(Reason::NotReversible));
    answer.started = false;
    world.jobs.get_mut("test-1").unwrap().outcome = wardring_planner::JobOutcome::Verified(answer);
    world.settle();
    world.now += jiff::SignedDuration::from_hours(1);
    world.settle();
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.attempt), (LineState::NotStarted, 1));
    let told = explain_rollout(&world.rollouts["november"]).join("\n");
    assert!(told.contains("cannot be removed"), "{told}");
}

#[test]
fn what_a_device_finds_on_the_spot_is_told_and_asked_less_and_less_often() {
    let mut world = world("", |_| {});
    world.settle();
    let mut grants = 0;
    for hour in 0..=24 {
        for job in world.jobs.clone().into_values().filter(|job| job.device == "test-1") {
            grants += 1;
            let mut answer = support::good_answer(&world);
            (answer.result, answer.reason) =
                (OutcomeResult::NotStarted, Some(Reason::LowDiskSpace));
            answer.started = false;
            let outcome = wardring_planner::JobOutcome::Verified(answer);
            world.jobs.get_mut(&job.device).unwrap().outcome = outcome;
        }
        world.settle();
        let line = world.line("november", "test-1").unwrap();
        if line.state == LineState::NotStarted {
            let waits = world.status("november").waiting_for;
            assert!(waits.iter().any(|told| told.reason == "LowDiskSpace"), "{hour}: {waits:#?}");
        }
        world.now += jiff::SignedDuration::from_mins(60);
        world.settle();
    }
    // With the usual pause of ten minutes it would have been asked every time.
    assert!((5..=9).contains(&grants), "{grants}");
}

#[test]
fn a_device_that_somebody_else_patches_is_held_in_an_exclusive_group() {
    use PatchAuthority::{Exclusive, Shared};
    for (authority, others, is_held) in
        [(Exclusive, true, true), (Exclusive, false, false), (Shared, true, false)]
    {
        let mut world = world("", |row| row.other_patch_sources = others);
        world.groups.get_mut("test").unwrap().spec.patch_authority = authority;
        world.settle();
        let state = if is_held { LineState::Pending } else { LineState::Granted };
        assert_eq!(world.state("november", "test-1"), Some(state), "{authority:?} {others}");
        if is_held {
            assert_eq!(world.status("november").waiting_for[0].reason, "PatchAuthority");
            world.devices.get_mut("test-1").unwrap().other_patch_sources = false;
            world.settle();
            assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
        }
    }
}

#[test]
fn a_device_that_names_another_source_of_updates_counts_as_patched_by_somebody_else() {
    let device = |sources: &[&str]| -> wardring_api::Device {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "Device",
            "metadata": { "name": "test-1" }, "spec": {},
            "status": { "otherPatchSources": sources },
        }))
        .unwrap()
    };
    assert!(DeviceRow::new(&device(&["ConfigMgr"])).other_patch_sources);
    assert!(!DeviceRow::new(&device(&[])).other_patch_sources);
}

#[test]
fn the_job_of_an_exclusive_group_tells_the_device_to_look_for_others_as_well() {
    for (authority, looks) in [(PatchAuthority::Exclusive, true), (PatchAuthority::Shared, false)] {
        let mut world = world("", |_| {});
        world.groups.get_mut("test").unwrap().spec.patch_authority = authority;
        world.settle();
        world.jobs.clear();
        let plan = wardring_planner::plan(&world.snapshot());
        let made = plan.actions.iter().find_map(|action| match action {
            wardring_planner::Action::CreateJob(job) => Some(job.preflight.sole_source),
            _ => None,
        });
        assert_eq!(made, Some(looks), "{authority:?}");
    }
}

#[test]
fn a_device_that_became_another_windows_is_not_tried_again() {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    world.agents.get_mut("test-1").unwrap().script = support::agent::Script::Upgraded;
    let retry = "maxConcurrency: 1, retry: {maxAttempts: 3, backoff: 1m}";
    world.rollout("november", &ONE_STAGE.replace("maxConcurrency: 1", retry));
    for _ in 0..60 {
        world.minute(|_| {});
    }
    let line = world.line("november", "test-1").unwrap();
    assert_eq!((line.state, line.attempt), (LineState::Failed, 1));
    assert_eq!(line.reason, Some(Reason::BuildFamilyChanged));
}

#[test]
fn a_device_that_cannot_tell_what_happens_at_its_start_is_held_like_one_that_needs_a_person() {
    let row = |attendance: &str| {
        let device = serde_json::json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "Device",
            "metadata": {"name": "test-1"}, "spec": {},
            "status": {"startup": {"attendance": attendance}},
        });
        DeviceRow::new(&serde_json::from_value(device).unwrap())
    };
    for (attendance, expected) in [("Needed", true), ("Unknown", true), ("NotNeeded", false)] {
        assert_eq!(row(attendance).attended_boot, expected, "{attendance}");
    }
    let unknown = |device: &mut DeviceRow| device.attended_boot = row("Unknown").attended_boot;
    assert_eq!(hold("", unknown), Some("AttendedBoot".to_owned()));
    assert_eq!(hold("unattendedBoot: Ignore", unknown), None);
}

#[test]
fn the_job_of_a_rollback_asks_for_nothing_that_an_older_agent_does_not_know() {
    let mut world = World::new();
    world.group("test").spec.patch_authority = PatchAuthority::Exclusive;
    world.device("test-1", "test", SERVER);
    world.devices.get_mut("test-1").unwrap().component_store = Some(ComponentStore::Healthy);
    world.agents.get_mut("test-1").unwrap().script = support::agent::Script::ServiceDown;
    let rules = "preflight: {componentStore: Require}\nreboot: {deferrals: 3}\nonFailure: {action: Rollback}";
    world.rollout("november", &format!("{ONE_STAGE}\n{rules}"));
    for _ in 0..60 {
        world.minute(|_| {});
        if world.jobs.get("test-1").is_some_and(|job| job.action == JobAction::Rollback) {
            break;
        }
    }
    world.jobs.clear();
    let plan = wardring_planner::plan(&world.snapshot());
    let made = plan.actions.iter().find_map(|action| match action {
        wardring_planner::Action::CreateJob(job) => Some(job),
        _ => None,
    });
    let job = made.unwrap();
    assert_eq!(job.action, JobAction::Rollback);
    assert_eq!(job.preflight.component_store, ComponentStorePolicy::Block);
    assert!(!job.preflight.sole_source);
    assert_eq!(job.reboot.deferrals, 0);
}

#[test]
fn the_job_of_an_installation_says_how_often_people_may_put_its_restart_off() {
    for (rules, deferrals) in [("", 0), ("\nreboot: {deadline: 4h, deferrals: 3}", 3)] {
        let mut world = World::new();
        world.group("test");
        world.device("test-1", "test", SERVER);
        world.rollout("november", &format!("{ONE_STAGE}{rules}"));
        world.settle();
        world.jobs.clear();
        let plan = wardring_planner::plan(&world.snapshot());
        let made = plan.actions.iter().find_map(|action| match action {
            wardring_planner::Action::CreateJob(job) => Some((job.action, job.reboot.deferrals)),
            _ => None,
        });
        assert_eq!(made, Some((JobAction::Install, deferrals)));
    }
}
