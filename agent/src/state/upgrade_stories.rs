//! Windows that becomes another version, by an update or beside it.

use std::collections::BTreeMap;

use wardring_seal::{Action, JobKey, JobPayload, OutcomeResult, UpdateKind};

use super::bench::{Bench, Script, Stand};
use super::stories::{install, phase, reason};
use super::*;

/// A device that becomes another Windows with the update.
fn upgraded() -> Bench {
    Bench { new_build: "26100.2314", ..Bench::new() }
}

#[test]
fn a_feature_upgrade_that_came_as_a_quality_update_is_a_failure_of_its_own() {
    // Without the build that is expected there is nothing else to notice it by.
    let mut bench = upgraded();
    let mut job = bench.job(1, Action::Install);
    job.updates[0].target_build = None;
    let outcome = bench.carry_out_job(job.clone());
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("BuildFamilyChanged")));
    let said = "Windows is another version since KB1: the build was 20348.2700 and is 26100.2314";
    assert!(outcome.message.starts_with(said), "{}", outcome.message);
    assert!(outcome.started);

    // Another attempt finds the new Windows, and does not take it for what was there before.
    let again = JobPayload { key: JobKey { attempt: 2, ..job.key.clone() }, sequence: 2, ..job };
    let outcome = bench.carry_out_job(again);
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("BuildFamilyChanged")));
    assert_eq!(bench.installs_begun(), 1);
}

#[test]
fn a_build_that_windows_does_not_tell_for_a_moment_is_no_verdict() {
    for hidden_from in ["Preflight", "Settling", "Verifying"] {
        let mut bench = Bench::new();
        bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
        bench.go_until(|bench| phase(bench) == hidden_from);
        bench.hides_build = 2;
        bench.go_until(|bench| !bench.outcomes.is_empty());
        assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded, "{:?}", bench.outcomes[0]);
        assert_eq!(bench.hides_build, 0);
    }
    // One that it never tells is said, and nothing is begun.
    let mut bench = Bench { hides_build: u32::MAX, ..Bench::new() };
    let outcome = install(&mut bench);
    assert_eq!(reason(&outcome), (OutcomeResult::NotStarted, Some("PreflightFailed")));
    assert!(outcome.message.contains("does not tell its build"), "{}", outcome.message);
}

#[test]
fn a_restart_that_comes_first_finishes_no_upgrade_that_somebody_else_staged() {
    let upgrade = Some("Feature update to Windows Server 2025 (2222/1)");
    let mut bench = Bench { pending_upgrade: upgrade, pending_reboot: true, ..Bench::new() };
    let mut job = bench.job(1, Action::Install);
    job.preflight.reboot_first = true;
    let outcome = bench.carry_out_job(job.clone());
    assert_eq!(reason(&outcome), (OutcomeResult::NotStarted, Some("PendingReboot")));
    assert!(outcome.message.contains("upgrade to another version"), "{}", outcome.message);
    assert_eq!((bench.reboots_made(), bench.installs_begun()), (0, 0));

    bench.pending_upgrade = None;
    let key = JobKey { attempt: 2, ..job.key.clone() };
    let outcome = bench.carry_out_job(JobPayload { key, sequence: 2, ..job });
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "another restart may come first");
}

#[test]
fn an_upgrade_by_its_owner_between_two_attempts_is_no_failure_of_the_second() {
    let script = Script { stops_service: true, ..Script::default() };
    let mut bench = Bench::new().with("KB1", script);
    let job = bench.job(1, Action::Install);
    assert_eq!(bench.carry_out_job(job.clone()).reason.as_deref(), Some("ServiceDown"));

    let fresh = Script::default();
    bench.updates.insert("KB1".to_owned(), fresh);
    bench.service = ServiceState::Running;
    (bench.new_build, bench.keeps_build) = ("26100.2314", true);
    let mut again =
        JobPayload { key: JobKey { attempt: 2, ..job.key.clone() }, sequence: 2, ..job };
    again.updates[0].target_build = Some("26100.2314".to_owned());
    let outcome = bench.carry_out_job(again);
    assert_ne!(outcome.reason.as_deref(), Some("BuildFamilyChanged"), "{}", outcome.message);
}

#[test]
fn an_update_for_an_older_windows_is_not_for_this_device_and_no_upgrade() {
    let mut bench = Bench::new();
    let mut job = bench.job(1, Action::Install);
    job.updates[0].target_build = Some("17763.6532".to_owned());
    let outcome = bench.carry_out_job(job);
    assert_eq!(outcome.result, OutcomeResult::NotApplicable, "{}", outcome.message);
    assert_eq!(bench.installs_begun(), 0);
}

#[test]
fn a_feature_upgrade_that_the_rollout_names_is_none_in_disguise() {
    let mut bench = upgraded();
    let mut job = bench.job(1, Action::Install);
    job.updates[0].target_build = None;
    job.updates[0].kind = UpdateKind::FeatureUpdate;
    assert_eq!(bench.carry_out_job(job).result, OutcomeResult::Succeeded);
}

#[test]
fn a_service_that_is_down_does_not_hide_that_windows_is_another_one() {
    let script = Script { stops_service: true, ..Script::default() };
    let mut bench = Bench { new_build: "26100.2314", ..Bench::new().with("KB1", script) };
    let outcome = install(&mut bench);
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("BuildFamilyChanged")));
}

#[test]
fn nothing_of_an_upgrade_in_disguise_is_begun_where_it_can_be_told_before() {
    let classified = "its source classifies it as an upgrade".to_owned();
    let upgrades = BTreeMap::from([("KB1".to_owned(), classified)]);
    let mut by_class = Bench { upgrades, ..Bench::new() };
    let job = by_class.job(1, Action::Install);
    let mut by_build = Bench::new();
    let mut other = by_build.job(1, Action::Install);
    other.updates[0].target_build = Some("26100.2314".to_owned());
    for (bench, job, said) in [
        (&mut by_class, job, "classifies it as an upgrade"),
        (&mut by_build, other, "the build is 20348.2700, and 26100.2314 is expected"),
    ] {
        let outcome = bench.carry_out_job(job);
        assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("FeatureUpgrade")));
        assert!(outcome.message.contains(said), "{}", outcome.message);
        assert_eq!((bench.installs_begun(), bench.reboots_made()), (0, 0));
        assert!(!outcome.started);
    }
}

#[test]
fn a_rollback_after_an_upgrade_removes_nothing_of_the_new_windows() {
    let mut bench = upgraded();
    let mut job = bench.job(1, Action::Install);
    job.updates[0].target_build = None;
    bench.carry_out_job(job);
    // The new Windows came with an update of its own, which the rollback's job names.
    assert_eq!(bench.updates["KB1"].stand, Stand::InForce);
    // The outcome that told of it was forgotten long ago.
    bench.state.finished.clear();
    let outcome = bench.carry_out_job(bench.job(2, Action::Rollback));
    assert_eq!(reason(&outcome), (OutcomeResult::NotReversible, Some("BuildFamilyChanged")));
    assert_eq!((bench.removals, bench.reboots_made()), (0, 1));
}

#[test]
fn a_rollback_that_finds_nothing_of_an_upgrade_does_not_say_that_it_was_taken_back() {
    let mut bench = upgraded();
    let mut job = bench.job(1, Action::Install);
    job.updates[0].target_build = None;
    bench.carry_out_job(job);
    // The new Windows knows nothing of the old one's updates.
    bench.updates.get_mut("KB1").unwrap().stand = Stand::NotOffered;
    bench.keeps_build = true;
    let outcome = bench.carry_out_job(bench.job(2, Action::Rollback));
    assert_eq!(reason(&outcome), (OutcomeResult::NotReversible, Some("BuildFamilyChanged")));
    assert_eq!(bench.removals, 0);
}
