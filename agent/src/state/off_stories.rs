//! Devices that somebody switches off in the middle of a job.

use jiff::SignedDuration;
use wardring_seal::{Action, OutcomePayload, OutcomeResult};

use super::bench::{Bench, Script, ended_because, refused};
use super::stories::{phase, reason};
use super::*;

const SWITCHED_OFF: (OutcomeResult, Option<&str>) = (OutcomeResult::PoweredOff, Some("PoweredOff"));

/// A job that has come so far.
fn until(mut bench: Bench, action: Action, word: &str) -> Bench {
    bench.take(Event::Offered(Box::new(bench.job(1, action))));
    bench.go_until(|bench| phase(bench) == word);
    assert_eq!(phase(&bench), word);
    bench
}

/// A job that is refused its permit to install.
fn refused_to_install(mut bench: Bench) -> Bench {
    bench.permits = (0..3).map(|_| refused("RolloutStopped", 600_000)).collect();
    let mut bench = until(bench, Action::Install, "AwaitingInstall");
    bench.go_on();
    bench
}

fn end(bench: &mut Bench) -> OutcomePayload {
    bench.go_until(|bench| bench.state.job.is_none());
    bench.outcomes.last().expect("the job has ended").clone()
}

fn two_updates() -> Bench {
    Bench::new().with("KB2", Script::default())
}

#[test]
fn a_device_that_is_off_until_it_is_too_late_to_begin_says_so_and_begins_nothing() {
    let mut bench = refused_to_install(Bench::new());
    let since = bench.wall;
    bench.switch_off(10);
    let outcome = end(&mut bench);
    assert_eq!(reason(&outcome), SWITCHED_OFF);
    assert!(!outcome.started && bench.installs.is_empty() && bench.reboots_made() == 0);
    let until = since + SignedDuration::from_hours(10);
    let told = format!("switched off from {} to {}", whole(since), whole(until));
    assert!(outcome.message.contains(&told), "{}", outcome.message);
}

fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap()
}

#[test]
fn a_gateway_that_says_first_that_it_is_too_late_changes_nothing_about_why() {
    let mut bench = refused_to_install(Bench::new());
    bench.switch_off(10);
    // Its clock is behind that of the gateway, which the log's times are not measured by.
    bench.go_on();
    bench.wall -= SignedDuration::from_hours(7);
    bench.permits.push_front(ended_because("TooLate"));
    assert_eq!(reason(&end(&mut bench)), SWITCHED_OFF);
}

#[test]
fn a_time_that_was_over_before_or_that_went_on_after_is_not_blamed_on_the_switch() {
    let too_late = (OutcomeResult::NotStarted, Some("StartByPassed"));
    // Off and on again an hour before the end, and nobody permitted it until then.
    let mut bench = refused_to_install(Bench::new());
    bench.permits.extend((0..60).map(|_| refused("RolloutStopped", 600_000)));
    bench.switch_off(2);
    assert_eq!(reason(&end(&mut bench)), too_late);
    // It slept over the end, and was switched off after.
    let mut bench = refused_to_install(Bench::new());
    bench.wall += SignedDuration::from_hours(5);
    bench.switch_off(2);
    assert_eq!(reason(&end(&mut bench)), too_late);
}

#[test]
fn what_a_device_can_still_prove_it_proves_however_long_it_was_off() {
    for place in ["Installing", "AwaitingReboot", "Settling", "Verifying"] {
        let mut bench = until(Bench::new(), Action::Install, place);
        bench.switch_off(40);
        let outcome = end(&mut bench);
        assert_eq!(outcome.result, OutcomeResult::Succeeded, "{place}: {}", outcome.message);
        assert_eq!(bench.installs_begun(), 1, "{place}");
        let is_its_own = matches!(place, "Settling" | "Verifying");
        assert_eq!(
            bench.reboots_made(),
            u32::from(is_its_own),
            "{place}: the start is the restart"
        );
    }
}

#[test]
fn what_has_begun_and_is_not_complete_has_failed_and_says_that_it_was_switched_off() {
    let mut bench = until(two_updates(), Action::Install, "Installing");
    bench.switch_off(2);
    let outcome = end(&mut bench);
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("InstallFailed")));
    assert!(outcome.message.starts_with("KB2 was not begun: the device was switched off from "));
    assert!(bench.is_in_force("KB1") && !bench.is_in_force("KB2"));

    let next = bench.carry_out_job(bench.job(2, Action::Install));
    assert_eq!(next.result, OutcomeResult::Succeeded, "{}", next.message);
    assert_eq!(bench.installs_begun(), 2, "each update once");
}

#[test]
fn what_is_not_proven_when_its_time_is_over_is_not_excused() {
    // Windows wants another restart, and nobody knows yet whether the update holds.
    let reverts = Script { reverts: true, ..Script::default() };
    let stops = Script { stops_service: true, ..Script::default() };
    let fails = Script { fails: true, ..Script::default() };
    for script in [Script::default(), reverts, stops, fails] {
        for place in ["Installing", "AwaitingReboot"] {
            let bench = Bench { pends_forever: true, ..Bench::new() }.with("KB1", script.clone());
            if script.fails && place == "AwaitingReboot" {
                continue;
            }
            let mut bench = until(bench, Action::Install, place);
            bench.switch_off(40);
            let outcome = end(&mut bench);
            let wanted = (OutcomeResult::Failed, Some("FinishByPassed"));
            assert_eq!(reason(&outcome), wanted, "{place}: {script:?}");
            assert!(outcome.message.contains("was switched off from "), "{}", outcome.message);
        }
    }
    // With time left, the restart is made as ever.
    let bench = Bench { pends_forever: true, ..Bench::new() };
    let mut bench = until(bench, Action::Install, "AwaitingReboot");
    bench.switch_off(2);
    bench.go_on();
    bench.pends_forever = false;
    assert_eq!(end(&mut bench).result, OutcomeResult::Succeeded);
    assert_eq!(bench.reboots_made(), 1);
}

#[test]
fn what_failed_is_not_hidden_behind_the_switch() {
    let failed = |reason| (OutcomeResult::Failed, Some(reason));
    let reverts = Script { reverts: true, ..Script::default() };
    let stops = Script { stops_service: true, ..Script::default() };
    let fails = Script { fails: true, ..Script::default() };
    let cases = [
        ("Windows took it back", reverts, (OutcomeResult::RevertedByWindows, None)),
        ("a service does not come back", stops, failed("ServiceDown")),
        ("an installation failed", fails, failed("InstallFailed")),
    ];
    for (what, script, wanted) in cases {
        let mut bench = until(two_updates().with("KB1", script), Action::Install, "Installing");
        // The permit of the first update is over: the second waits for its own.
        bench.advance(120_000);
        bench.go_until(|bench| phase(bench) == "AwaitingInstall");
        bench.switch_off(40);
        let outcome = end(&mut bench);
        assert_eq!(reason(&outcome), wanted, "{what}: {}", outcome.message);
    }
    // Nobody saw how an installation ended, and it is not there; the other one was not begun.
    let fails = Script { fails: true, ..Script::default() };
    let mut bench = until(two_updates().with("KB1", fails), Action::Install, "Installing");
    bench.switch_off(40);
    let outcome = end(&mut bench);
    assert_eq!(reason(&outcome), failed("InstallFailed"));
}

#[test]
fn an_update_that_failed_and_waits_for_its_next_try_has_failed() {
    let failures = vec![0x8007_2EE2; 2];
    let bench = Bench::new().with("KB1", Script { failures, ..Script::default() });
    let mut bench = until(bench, Action::Install, "Installing");
    bench.go_until(|bench| bench.state.job.as_ref().is_some_and(|job| !job.tries.is_empty()));
    bench.switch_off(40);
    assert_eq!(reason(&end(&mut bench)), (OutcomeResult::Failed, Some("InstallFailed")));
}

#[test]
fn a_device_that_crashed_or_lost_power_was_not_switched_off() {
    let wanted = (OutcomeResult::NotStarted, Some("StartByPassed"));
    for kind in [BootKind::Crash, BootKind::Dirty, BootKind::Unknown] {
        // A long time down that began with it.
        let mut bench = refused_to_install(Bench::new());
        bench.boot_now(kind);
        bench.advance(10 * 3_600_000);
        assert_eq!(reason(&end(&mut bench)), wanted, "{kind:?}");
        // Switched off in the same job.
        let mut bench = refused_to_install(Bench::new());
        bench.boot_now(kind);
        bench.go_on();
        bench.switch_off(10);
        assert_eq!(reason(&end(&mut bench)), wanted, "{kind:?}");
    }
}

#[test]
fn a_clean_restart_in_the_middle_is_told_as_before() {
    let mut bench = until(two_updates(), Action::Install, "Installing");
    bench.boot_now(BootKind::Foreign);
    let outcome = end(&mut bench);
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("InstallFailed")));
    assert!(outcome.message.contains("a restart came first"), "{}", outcome.message);
}

#[test]
fn a_removal_is_told_as_it_is() {
    let removing = |bench: &mut Bench| {
        bench.carry_out_job(bench.job(1, Action::Install));
        bench.take(Event::Offered(Box::new(bench.job(2, Action::Rollback))));
    };
    let mut bench = Bench::new();
    removing(&mut bench);
    bench.switch_off(10);
    assert_eq!(reason(&end(&mut bench)), (OutcomeResult::NotStarted, Some("StartByPassed")));

    let mut bench = Bench::new();
    removing(&mut bench);
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    bench.pends_forever = true;
    bench.switch_off(40);
    assert_eq!(reason(&end(&mut bench)), (OutcomeResult::RollbackFailed, Some("FinishByPassed")));
}

#[test]
fn a_boot_of_an_older_journal_was_not_off_and_one_that_was_not_is_written_as_before() {
    let text = r#"{"bootId":"b","at":"2026-11-21T02:00:00Z","kind":"Foreign"}"#;
    let boot: BootRecord = serde_json::from_str(text).unwrap();
    assert_eq!((boot.off, serde_json::to_string(&boot).unwrap()), (None, text.to_owned()));
}
