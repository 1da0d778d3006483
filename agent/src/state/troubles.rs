//! Stories of devices that crash, hang, refuse or fall silent, and of people who wait for them.

use jiff::SignedDuration;
use wardring_seal::{Action, OutcomeResult};

use super::bench::{Bench, Script, refused};
use super::*;

fn offer(bench: &mut Bench) {
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
}

fn phase(bench: &Bench) -> &'static str {
    bench.state.job.as_ref().map_or("Idle", |job| job.phase.word())
}

fn reason(outcome: &OutcomePayload) -> (OutcomeResult, Option<&str>) {
    (outcome.result, outcome.reason.as_deref())
}

#[test]
fn after_a_crash_the_boot_must_outlive_any_loop_before_it_is_called_good() {
    let mut bench = Bench::new().with("KB1", Script { crashes: 1, ..Script::default() });
    let outcome = bench.carry_out_job(bench.job(1, Action::Install));
    assert_eq!(outcome.result, OutcomeResult::Succeeded);
    assert!(outcome.message.contains("crashed or lost power once"), "{}", outcome.message);
    assert!(bench.mono_ms - bench.booted_mono_ms > 600_000);
}

#[test]
fn a_settle_time_shorter_than_the_loop_does_not_hide_it_once_it_showed() {
    // The clock is set between the crashes, and the rollout hardly wants to wait.
    let mut bench = Bench::new();
    let mut job = bench.job(1, Action::Install);
    job.health.settle_ms = 20;
    bench.take(Event::Offered(Box::new(job)));
    bench.go_until(|bench| phase(bench) == "Settling");
    for _ in 0..2 {
        bench.wall += SignedDuration::from_hours(5);
        bench.boot_now(BootKind::Crash);
        bench.go_on();
        for _ in 0..4 {
            bench.go_on();
        }
    }
    assert_eq!(reason(&bench.outcomes[0]), (OutcomeResult::Failed, Some("BootLoop")));
}

#[test]
fn a_crash_while_an_earlier_attempt_is_looked_at_speaks_against_it() {
    let mut bench = Bench::new().with("KB1", Script { stops_service: true, ..Script::default() });
    bench.carry_out_job(bench.job(1, Action::Install));
    bench.service = ServiceState::Running;
    bench.take(Event::Offered(Box::new(bench.job(2, Action::Install))));
    bench.go_until(|bench| phase(bench) == "Settling");
    for _ in 0..2 {
        bench.wall += SignedDuration::from_hours(5);
        bench.boot_now(BootKind::Dirty);
        bench.go_on();
    }
    let outcome = bench.outcomes.last().unwrap();
    assert_eq!(reason(outcome), (OutcomeResult::Failed, Some("BootLoop")));
    assert!(!outcome.started, "this attempt touched nothing");
}

#[test]
fn a_crash_before_the_removal_is_in_force_does_not_speak_against_it() {
    let mut bench = Bench::new();
    bench.carry_out_job(bench.job(1, Action::Install));
    bench.take(Event::Offered(Box::new(bench.job(2, Action::Rollback))));
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    bench.boot_now(BootKind::Crash);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes.last().unwrap().result, OutcomeResult::RolledBack);
    assert!(bench.mono_ms - bench.booted_mono_ms < 600_000, "nothing is held against it");

    // After that restart it does.
    bench.take(Event::Offered(Box::new(bench.job(3, Action::Install))));
    bench.go_until(|bench| phase(bench) == "Settling");
    bench.boot_now(BootKind::Crash);
    bench.go_until(|bench| bench.state.job.is_none());
    assert!(bench.mono_ms - bench.booted_mono_ms > 600_000);
}

#[test]
fn a_crash_after_a_removal_that_needs_no_restart_speaks_against_it() {
    let script = Script { reboot_required: false, ..Script::default() };
    let mut bench = Bench::new().with("KB1", script);
    bench.carry_out_job(bench.job(1, Action::Install));
    bench.take(Event::Offered(Box::new(bench.job(2, Action::Rollback))));
    bench.go_until(|bench| phase(bench) == "Settling");
    bench.boot_now(BootKind::Crash);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes.last().unwrap().result, OutcomeResult::RolledBack);
    assert!(bench.mono_ms - bench.booted_mono_ms > 600_000);
}

#[test]
fn a_crash_in_the_middle_of_a_removal_is_not_forgotten_when_it_turns_out_to_be_done() {
    let script = Script { reboot_required: false, ..Script::default() };
    let mut bench = Bench::new().with("KB1", script);
    bench.carry_out_job(bench.job(1, Action::Install));
    bench.take(Event::Offered(Box::new(bench.job(2, Action::Rollback))));
    bench.go_until(|bench| phase(bench) == "Uninstalling" && bench.removals == 1);
    bench.boot_now(BootKind::Crash);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes.last().unwrap().result, OutcomeResult::RolledBack);
    assert!(bench.mono_ms - bench.booted_mono_ms > 600_000);
}

#[test]
fn an_installation_that_was_taken_back_is_not_answered_as_a_success_again() {
    let mut bench = Bench::new();
    let mut install = bench.job(1, Action::Install);
    assert_eq!(bench.carry_out_job(install.clone()).result, OutcomeResult::Succeeded);
    bench.carry_out_job(bench.job(2, Action::Rollback));

    // The cluster forgot the removal and grants the installation anew.
    install.sequence = 9;
    bench.take(Event::Offered(Box::new(install.clone())));
    let answer = bench.outcomes.last().unwrap();
    assert_eq!((answer.result, answer.sequence), (OutcomeResult::RolledBack, 9));
    assert_eq!(answer.key, install.key);
    assert_eq!(bench.installs_begun(), 1, "nothing is installed for a grant that was answered");
}

#[test]
fn a_device_that_looped_takes_work_again_once_it_has_been_up_for_half_an_hour() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        bench.advance(60_000);
        bench.boot_now(BootKind::Foreign);
        bench.go_on();
    }
    // A clock that is set forward makes no device calm.
    bench.wall += SignedDuration::from_hours(48);
    let outcome = bench.carry_out_job(bench.job(1, Action::Install));
    assert_eq!(reason(&outcome), (OutcomeResult::NotStarted, Some("BootLoop")));
    bench.advance(30 * 60_000);
    let outcome = bench.carry_out_job(bench.job(2, Action::Install));
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
}

#[test]
fn people_are_warned_anew_when_the_restart_they_were_warned_of_did_not_come() {
    let mut bench = Bench::new();
    offer(&mut bench);
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    bench.permits = (0..9).map(|_| refused("SuspendedByPerson", 60_000)).collect();
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!((bench.announced, bench.reboots_made()), (1, 1), "nine minutes are remembered");

    let mut bench = Bench::new();
    offer(&mut bench);
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    bench.permits = (0..60).map(|_| refused("SuspendedByPerson", 60_000)).collect();
    bench.go_until(|bench| bench.permits.is_empty());
    let resumed = bench.mono_ms;
    bench.go_until(|bench| bench.is_down);
    assert_eq!((bench.announced, bench.reboots_made()), (2, 1));
    assert!(bench.mono_ms - resumed >= 60_000, "with the whole countdown");
}

#[test]
fn a_download_that_never_ends_is_given_up_in_the_end() {
    let mut bench = Bench::new();
    let mut job = bench.job(1, Action::Install);
    job.start_by += SignedDuration::from_hours(100);
    job.finish_by += SignedDuration::from_hours(100);
    bench.take(Event::Offered(Box::new(job)));
    bench.go_until(|bench| phase(bench) == "Downloading");
    bench.is_silent = true;
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(reason(&bench.outcomes[0]), (OutcomeResult::Failed, Some("DownloadFailed")));
}

#[test]
fn a_service_whose_restart_hangs_does_not_hang_the_job() {
    let mut bench = Bench::new().with("KB1", Script { stops_service: true, ..Script::default() });
    offer(&mut bench);
    bench.go_until(|bench| phase(bench) == "Remediating");
    bench.is_silent = true;
    bench.go_until(|bench| phase(bench) == "Verifying");
    bench.is_silent = false;
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(reason(&bench.outcomes[0]), (OutcomeResult::Failed, Some("ServiceDown")));
}

#[test]
fn a_windows_that_refuses_to_restart_is_asked_once_more_a_minute_later() {
    let mut bench = Bench { ignores_reboots: true, ..Bench::new() };
    offer(&mut bench);
    let mut orders = Vec::new();
    for _ in 0..2 {
        bench.go_until(|bench| phase(bench) == "Rebooting");
        orders.push(bench.mono_ms);
        let refusal = "error 1115, a shutdown is in progress".to_owned();
        let answer = Answer::RebootRefused(refusal);
        bench.take(Event::Answered { turn: bench.state.turn, answer });
    }
    assert!(orders[1] - orders[0] >= 60_000, "{orders:?}");
    let outcome = &bench.outcomes[0];
    assert_eq!(reason(outcome), (OutcomeResult::Failed, Some("RebootStuck")));
    assert!(outcome.message.contains("1115"), "{}", outcome.message);
}

#[test]
fn windows_is_not_restarted_in_the_middle_of_its_work() {
    let mut bench = Bench::new();
    offer(&mut bench);
    bench.go_until(|bench| phase(bench) == "Settling");
    bench.is_busy = true;
    bench.pending_reboot = true;
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(reason(&bench.outcomes[0]), (OutcomeResult::Failed, Some("InstallFailed")));
    assert_eq!(bench.reboots_made(), 1, "the one that finishes the update");
    assert!(bench.mono_ms - bench.booted_mono_ms > 3_600_000, "it had time");
}

#[test]
fn a_lost_journal_is_told_whatever_the_device_may_do_now() {
    let mut bench = Bench::new();
    offer(&mut bench);
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    bench.start(true);
    assert_eq!(bench.state.mode, Mode::Observe);
    offer(&mut bench);
    assert_eq!(reason(&bench.outcomes[0]), (OutcomeResult::Failed, Some("StateLost")));
}

#[test]
fn gateways_that_are_gone_are_asked_ever_less_often() {
    let mut bench = Bench::new();
    bench.cut_off_until_mono_ms = 600_000;
    offer(&mut bench);
    bench.go_until(|bench| phase(bench) == "AwaitingInstall");
    let mut asked = 0;
    while bench.mono_ms < 600_000 {
        bench.go_on();
        asked += u32::from(bench.asked.iter().any(|(_, _, ask)| matches!(ask, Ask::Permit { .. })));
    }
    assert!((10..16).contains(&asked), "{asked} questions in ten minutes");
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded);
}
