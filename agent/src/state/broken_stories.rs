//! Jobs that are interrupted, fail half-way, or are taken back.

use jiff::SignedDuration;
use wardring_seal::{Action, OutcomeResult, StorePolicy};

use super::bench::{Bench, Script, refused};
use super::stories::{install, phase, reason};
use super::*;

#[test]
fn a_lost_journal_is_answered_and_never_guessed_at() {
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    bench.start(true);
    bench.take(Event::ModeSet(Mode::Manage));
    let outcome = bench.carry_out_job(bench.job(1, Action::Install));
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("StateLost")));
    assert!(outcome.started, "it may have begun");
    assert_eq!(bench.installs_begun(), 1);
    // The next attempt is a job like any other.
    bench.boot_now(BootKind::Foreign);
    bench.start(false);
    let next = bench.carry_out_job(bench.job(2, Action::Install));
    assert_eq!(next.result, OutcomeResult::AlreadyInstalled);
}

#[test]
fn a_restarted_agent_asks_in_the_name_of_the_run_that_accepted_the_job() {
    let asked_as = |bench: &Bench| {
        bench.asked.iter().rev().find_map(|(_, _, ask)| match ask {
            Ask::Permit { accepted_in, .. } => Some(accepted_in.clone()),
            _ => None,
        })
    };
    let mut bench = Bench::new();
    bench.start(false);
    let accepted_in = bench.state.run.clone();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| asked_as(bench).is_some());
    assert_eq!(asked_as(&bench), Some(accepted_in.clone()));

    bench.asked.clear();
    bench.start(false);
    assert_ne!(bench.state.run, accepted_in);
    bench.go_until(|bench| asked_as(bench).is_some());
    assert_eq!(asked_as(&bench), Some(accepted_in));
}

#[test]
fn an_agent_that_is_killed_during_an_installation_finds_its_result() {
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "Installing");
    bench.start(false);
    assert!(matches!(bench.asked.front(), Some((_, _, Ask::FindInstall { .. }))));
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!((bench.outcomes[0].result, bench.installs_begun()), (OutcomeResult::Succeeded, 1));
}

#[test]
fn a_restart_by_somebody_else_counts_as_the_restart() {
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    bench.boot_now(BootKind::Foreign);
    bench.go_until(|bench| bench.state.job.is_none());
    let outcome = &bench.outcomes[0];
    assert_eq!((outcome.result, outcome.reboots), (OutcomeResult::Succeeded, 0));
}

#[test]
fn the_second_update_is_not_begun_when_the_first_one_fails() {
    let failing = Script { fails: true, ..Script::default() };
    let mut bench = Bench::new().with("KB1", failing).with("KB2", Script::default());
    let outcome = install(&mut bench);
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("InstallFailed")));
    assert!(
        outcome.message.starts_with("KB1 failed with 0x80070643 ERROR_INSTALL_FAILURE: "),
        "{}",
        outcome.message
    );
    assert_eq!((bench.installs_begun(), bench.reboots_made()), (1, 0));
}

#[test]
fn what_was_installed_before_a_failure_is_finished_and_verified_and_still_a_failure() {
    let failing = Script { fails: true, ..Script::default() };
    let mut bench = Bench::new().with("KB2", failing);
    let outcome = install(&mut bench);
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("InstallFailed")));
    assert_eq!(bench.reboots_made(), 1);
    assert!(bench.is_in_force("KB1"));
}

#[test]
fn every_further_update_needs_a_living_permit() {
    let mut bench = Bench::new().with("KB2", Script::default());
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "Installing");
    // The first one takes an hour; a halt comes meanwhile.
    bench.advance(3_600_000);
    bench.permits = (0..10).map(|_| refused("RolloutStopped", 1_000)).collect();
    bench.go_until(|bench| bench.permits.is_empty());
    assert_eq!((phase(&bench), bench.installs_begun()), ("AwaitingInstall", 1));
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!((bench.outcomes[0].result, bench.installs_begun()), (OutcomeResult::Succeeded, 2));
}

#[test]
fn a_rollback_removes_in_reverse_restarts_and_proves_health_against_the_first_baseline() {
    let script = Script { stops_service: true, ..Script::default() };
    let mut bench = Bench::new().with("KB1", script).with("KB2", Script::default());
    assert_eq!(install(&mut bench).result, OutcomeResult::Failed);
    bench.take(Event::Offered(Box::new(bench.job(2, Action::Rollback))));
    let mut order = Vec::new();
    while bench.state.job.is_some() {
        if let Some(Phase::Uninstalling { index }) =
            bench.state.job.as_ref().map(|job| job.phase.clone())
        {
            order.push(index);
        }
        bench.go_on();
    }
    order.dedup();
    assert_eq!(order, [1, 0]);
    let outcome = bench.outcomes.last().unwrap();
    assert_eq!(outcome.result, OutcomeResult::RolledBack, "{}", outcome.message);
    assert_eq!((bench.removals, outcome.reboots), (2, 1));
}

#[test]
fn what_cannot_be_removed_is_said_before_anything_is_touched() {
    let script = Script { uninstallable: false, stops_service: true, ..Script::default() };
    let mut bench = Bench::new().with("KB1", script.clone()).with("KB2", Script::default());
    install(&mut bench);
    let outcome = bench.carry_out_job(bench.job(2, Action::Rollback));
    assert_eq!((outcome.result, bench.removals), (OutcomeResult::NotReversible, 0));

    let mut bench = Bench::new().with("KB1", script);
    let mut job = bench.job(1, Action::Install);
    job.preflight.require_reversible = true;
    let outcome = bench.carry_out_job(job);
    assert_eq!(reason(&outcome), (OutcomeResult::NotStarted, Some("NotReversible")));
    assert_eq!(bench.installs_begun(), 0);
}

#[test]
fn what_the_rollout_does_not_want_to_begin_with_is_given_back_untouched() {
    use StoreState::{Damaged, Repairable, Unknown};
    let unknown = || Unknown("DISM does not answer".to_owned());
    let bench = |store| Bench { component_store: Some(store), ..Bench::new() };
    let full = Bench { free_disk_gb: Some(9), ..Bench::new() };
    let others = Bench { other_patch_sources: vec!["ConfigMgr".to_owned()], ..Bench::new() };
    for (mut bench, policy, expected) in [
        (full, StorePolicy::Block, Some("LowDiskSpace")),
        (others, StorePolicy::Block, Some("PatchAuthority")),
        (bench(Repairable), StorePolicy::Block, Some("ComponentStoreDamaged")),
        (bench(Damaged), StorePolicy::Require, Some("ComponentStoreDamaged")),
        (bench(unknown()), StorePolicy::Require, Some("ComponentStoreUnknown")),
        (bench(unknown()), StorePolicy::Block, None),
        (bench(Damaged), StorePolicy::Ignore, None),
        (Bench { component_store: None, ..Bench::new() }, StorePolicy::Block, None),
        (
            Bench { component_store: None, ..Bench::new() },
            StorePolicy::Require,
            Some("ComponentStoreUnknown"),
        ),
    ] {
        let mut job = bench.job(1, Action::Install);
        job.preflight.component_store = policy;
        job.preflight.sole_source = true;
        let outcome = bench.carry_out_job(job);
        let begun = bench.installs_begun();
        match expected {
            None => assert_eq!(outcome.result, OutcomeResult::Succeeded, "{policy:?}"),
            Some(_) => {
                assert_eq!(reason(&outcome), (OutcomeResult::NotStarted, expected));
                assert_eq!((begun, outcome.started), (0, false), "{expected:?}");
            }
        }
    }
    let mut shared = Bench { other_patch_sources: vec!["ConfigMgr".to_owned()], ..Bench::new() };
    let job = shared.job(1, Action::Install);
    assert_eq!(shared.carry_out_job(job).result, OutcomeResult::Succeeded, "nobody minds");
}

#[test]
fn the_component_store_is_asked_for_before_an_installation_and_at_no_other_look() {
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    let asks = |bench: &Bench| bench.state.job.as_ref().map(JobRun::looks_at_store);
    assert_eq!(asks(&bench), Some(true));
    bench.go_until(|bench| phase(bench) == "Settling");
    assert_eq!(asks(&bench), Some(false));
}

#[test]
fn a_rollback_that_leaves_the_service_down_has_failed() {
    let script = Script { stops_service: true, ..Script::default() };
    let mut bench = Bench::new().with("KB1", script);
    install(&mut bench);
    bench.take(Event::Offered(Box::new(bench.job(2, Action::Rollback))));
    bench.go_until(|bench| bench.is_down);
    bench.go_on();
    bench.service = ServiceState::Stopped;
    bench.go_until(|bench| bench.state.job.is_none());
    let outcome = bench.outcomes.last().unwrap();
    assert_eq!(reason(outcome), (OutcomeResult::RollbackFailed, Some("ServiceDown")));
}

#[test]
fn a_rollback_of_nothing_is_verified_and_moves_nothing() {
    let mut bench = Bench::new();
    let outcome = bench.carry_out_job(bench.job(1, Action::Rollback));
    assert_eq!(outcome.result, OutcomeResult::RolledBack);
    assert!(!outcome.started);
    assert_eq!((bench.removals, bench.reboots_made()), (0, 0));
}

#[test]
fn a_download_installs_nothing() {
    let mut bench = Bench::new();
    let outcome = bench.carry_out_job(bench.job(1, Action::Download));
    assert_eq!((outcome.result, outcome.started), (OutcomeResult::Succeeded, false));
    assert_eq!(bench.installs_begun(), 0);
}

#[test]
fn a_download_does_not_hide_that_the_journal_was_lost() {
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    bench.start(true);
    bench.take(Event::ModeSet(Mode::Manage));
    let outcome = bench.carry_out_job(bench.job(2, Action::Download));
    assert_eq!(reason(&outcome), (OutcomeResult::NotStarted, Some("StateLost")));
    let outcome = bench.carry_out_job(bench.job(3, Action::Install));
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("StateLost")));
}

#[test]
fn an_installation_takes_the_place_of_a_download_and_takes_its_own_baseline() {
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Download))));
    bench.go_until(|bench| phase(bench) == "Downloading");
    // What people change before the window is no fault of the update.
    bench.service = ServiceState::Stopped;
    let outcome = bench.carry_out_job(bench.job(2, Action::Install));
    assert_eq!(reason(&bench.outcomes[0]), (OutcomeResult::NotStarted, Some("NoSuchJob")));
    assert!(!bench.outcomes[0].started);
    assert_eq!((outcome.result, bench.installs_begun()), (OutcomeResult::Succeeded, 1));
}

#[test]
fn a_device_that_cannot_be_looked_at_is_never_called_healthy() {
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "Verifying");
    for _ in 0..200 {
        let Some((due, turn, ask)) = bench.asked.pop_front() else { break };
        bench.advance(due.saturating_sub(bench.mono_ms));
        let answer = match ask {
            Ask::Inspect { .. } => Answer::Blind("the service manager does not answer".to_owned()),
            _ => Answer::Woke,
        };
        bench.take(Event::Answered { turn, answer });
    }
    let outcome = &bench.outcomes[0];
    assert_eq!(outcome.result, OutcomeResult::Failed);
    assert!(outcome.message.contains("does not answer"), "{}", outcome.message);
}

#[test]
fn a_clock_that_jumps_past_the_end_gives_an_unbegun_job_back() {
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "Downloading");
    bench.wall += SignedDuration::from_hours(24 * 30);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(reason(&bench.outcomes[0]), (OutcomeResult::NotStarted, Some("StartByPassed")));
}

fn failing(failures: &[u32]) -> Script {
    Script { failures: failures.to_vec(), ..Script::default() }
}

#[test]
fn of_two_updates_the_retryable_failure_is_tried_again_and_the_permanent_one_is_not() {
    let retryable = failing(&[0x8007_2EE2, 0x8007_0020]);
    let mut bench = Bench::new().with("KB1", retryable).with("KB2", failing(&[0x8024_200B]));
    let began = bench.mono_ms;
    let outcome = install(&mut bench);
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("InstallFailed")));
    assert!(
        outcome.message.starts_with("KB2 failed with 0x8024200B WU_E_UH_INSTALLERFAILURE"),
        "{}",
        outcome.message
    );
    assert!(bench.is_in_force("KB1") && !bench.is_in_force("KB2"));
    let tries: Vec<&str> = bench.installs.keys().map(|(_, kb)| kb.as_str()).collect();
    assert_eq!(tries, ["KB1", "KB1 again 1", "KB1 again 2", "KB2"]);
    assert!(bench.mono_ms - began >= 6 * 60_000, "a minute, then five");
    assert_eq!(outcome.reboots, 1, "what was installed is finished and proven");
}

#[test]
fn a_failure_that_does_not_pass_ends_the_job_after_four_tries() {
    let mut bench = Bench::new().with("KB1", failing(&[0x8024_0009; 9]));
    let outcome = install(&mut bench);
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("InstallFailed")));
    assert!(
        outcome.message.starts_with("KB1 failed 4 times, last with 0x80240009 WU_E_OPERATION"),
        "{}",
        outcome.message
    );
    assert_eq!(bench.installs_begun(), 4);
}

#[test]
fn while_an_update_waits_for_its_next_try_people_read_why() {
    let mut bench = Bench::new().with("KB1", failing(&[0x8007_0020]));
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| {
        let job = bench.state.job.as_ref().unwrap();
        !job.tries.is_empty() && job.awaits == Awaits::Time
    });
    let message = bench.state.job.as_ref().unwrap().message.clone();
    assert!(
        message.starts_with("in 1 min again: KB1 failed with 0x80070020 ERROR_SHARING_VIOLATION"),
        "{message}"
    );
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded);
}

#[test]
fn an_update_that_needs_a_restart_first_gets_one_where_the_rollout_allows_it() {
    let mut bench = Bench::new().with("KB1", failing(&[0x8024_0016]));
    let outcome = install(&mut bench);
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("InstallFailed")));
    assert_eq!(bench.reboots_made(), 0, "nobody allowed a restart before the installation");

    let mut bench = Bench::new().with("KB1", failing(&[0x8024_0016]));
    let mut job = bench.job(1, Action::Install);
    job.preflight.reboot_first = true;
    let outcome = bench.carry_out_job(job);
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    assert_eq!((bench.installs_begun(), bench.reboots_made()), (2, 2));

    let mut bench = Bench::new().with("KB1", failing(&[0x8024_0016; 3]));
    let mut job = bench.job(1, Action::Install);
    job.preflight.reboot_first = true;
    let outcome = bench.carry_out_job(job);
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("InstallFailed")));
    assert_eq!((bench.installs_begun(), bench.reboots_made()), (2, 1), "one restart, not a loop");
}

#[test]
fn an_update_that_is_not_for_this_device_does_not_keep_the_others() {
    let mut bench =
        Bench::new().with("KB1", failing(&[0x8024_0017])).with("KB2", Script::default());
    let outcome = install(&mut bench);
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("InstallFailed")));
    assert!(outcome.message.contains("WU_E_NOT_APPLICABLE"), "{}", outcome.message);
    assert!(bench.is_in_force("KB2"), "it says nothing about the others");
}

#[test]
fn a_restart_by_somebody_ends_the_tries_and_the_failure_is_told() {
    let mut bench = Bench::new().with("KB1", failing(&[0x8007_2EE2]));
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| bench.state.job.as_ref().is_some_and(|job| !job.tries.is_empty()));
    bench.boot_now(BootKind::Foreign);
    bench.go_until(|bench| bench.state.job.is_none());
    let outcome = &bench.outcomes[0];
    assert_eq!(reason(outcome), (OutcomeResult::Failed, Some("InstallFailed")));
    assert!(outcome.message.contains("ERROR_WINHTTP_TIMEOUT"), "{}", outcome.message);
    assert_eq!(bench.installs_begun(), 1);
}

#[test]
fn a_download_is_tried_again_only_when_its_code_may_pass() {
    let fail = |bench: &mut Bench, hresult: Option<u32>| {
        bench.go_until(|bench| phase(bench) == "Downloading" && is_asked(bench));
        let hresult = hresult.map(crate::hresult::Hresult);
        let failure = DownloadFailure { sentence: "it failed".to_owned(), hresult };
        let answer = Answer::Downloaded(Err(failure));
        bench.take(Event::Answered { turn: bench.state.turn, answer });
    };
    fn is_asked(bench: &Bench) -> bool {
        bench.state.job.as_ref().is_some_and(|job| job.awaits == Awaits::Answer)
    }
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    fail(&mut bench, Some(0x8024_4018));
    assert_eq!(reason(&bench.outcomes[0]), (OutcomeResult::Failed, Some("DownloadFailed")));

    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    for hresult in [Some(0x8007_2EE2), None, Some(0x8024_401C)] {
        assert!(bench.outcomes.is_empty(), "{hresult:X?}");
        fail(&mut bench, hresult);
    }
    assert_eq!(reason(&bench.outcomes[0]), (OutcomeResult::Failed, Some("DownloadFailed")));
    assert!(bench.outcomes[0].message.contains("3 times"), "{}", bench.outcomes[0].message);
}

#[test]
fn a_removal_is_tried_again_when_its_code_may_pass_and_after_a_restart_when_it_needs_one() {
    let roll_back = |failures: &[u32]| {
        let script = Script { removal_failures: failures.to_vec(), ..Script::default() };
        let mut bench = Bench::new().with("KB1", script);
        install(&mut bench);
        let outcome = bench.carry_out_job(bench.job(2, Action::Rollback));
        (outcome, bench.removals)
    };
    let (outcome, removals) = roll_back(&[0x800F_0902, 0x8007_0020]);
    assert_eq!((outcome.result, removals), (OutcomeResult::RolledBack, 3), "{}", outcome.message);
    let (outcome, removals) = roll_back(&[0x800F_0806]);
    assert_eq!((outcome.result, removals), (OutcomeResult::RolledBack, 2), "{}", outcome.message);
    assert_eq!(outcome.reboots, 2, "one to clear the way, one to finish");
    let (outcome, removals) = roll_back(&[0x8007_3712]);
    assert_eq!((outcome.result, removals), (OutcomeResult::RollbackFailed, 1));
    assert!(outcome.message.contains("ERROR_SXS_COMPONENT_STORE_CORRUPT"), "{}", outcome.message);
    let (outcome, removals) = roll_back(&[0x800F_0902; 9]);
    assert_eq!((outcome.result, removals), (OutcomeResult::RollbackFailed, 4));
}

#[test]
fn a_drive_that_tells_nothing_of_its_room_is_said_as_that() {
    let mut bench = Bench { free_disk_gb: None, ..Bench::new() };
    let outcome = install(&mut bench);
    assert_eq!(reason(&outcome), (OutcomeResult::NotStarted, Some("LowDiskSpace")));
    assert!(outcome.message.contains("does not tell how much"), "{}", outcome.message);
    let mut bench = Bench { free_disk_gb: None, ..Bench::new() };
    let mut job = bench.job(1, Action::Install);
    job.preflight.min_free_disk_gb = 0;
    assert_eq!(bench.carry_out_job(job).result, OutcomeResult::Succeeded, "nobody asked for room");
}
