//! One story per thing that may happen to a device.

use jiff::SignedDuration;
use wardring_protocol::{PermitAnswer, Step};
use wardring_seal::{Action, OutcomeResult};

use super::bench::{Bench, SERVICE, Script, Stand, ended, ended_because, refused};
use super::*;

fn install(bench: &mut Bench) -> OutcomePayload {
    bench.carry_out_job(bench.job(1, Action::Install))
}

fn reason(outcome: &OutcomePayload) -> (OutcomeResult, Option<&str>) {
    (outcome.result, outcome.reason.as_deref())
}

fn phase(bench: &Bench) -> &'static str {
    bench.state.job.as_ref().map_or("Idle", |job| job.phase.word())
}

#[test]
fn a_cumulative_update_succeeds_only_after_the_restart_and_three_good_samples() {
    let mut bench = Bench::new();
    let outcome = install(&mut bench);
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    assert_eq!(outcome.installed_in_boot.as_deref(), Some("boot-1"));
    assert_eq!((outcome.boot_id.as_str(), outcome.build.as_str()), ("boot-2", "20348.2762"));
    assert!(outcome.started && outcome.reboot_required);
    assert_eq!((bench.installs_begun(), bench.reboots_made()), (1, 1));
    let words: Vec<&str> = bench.states.iter().map(String::as_str).collect();
    let mut steps = words.clone();
    steps.dedup();
    assert_eq!(
        steps,
        [
            "Preflight",
            "Downloading",
            "AwaitingInstall",
            "Installing",
            "AwaitingReboot",
            "Rebooting",
            "Settling",
            "Verifying"
        ]
    );
}

#[test]
fn an_update_without_a_restart_is_proven_in_the_same_boot() {
    let script = Script { reboot_required: false, ..Script::default() };
    let mut bench = Bench::new().with("KB1", script);
    let outcome = install(&mut bench);
    assert_eq!(outcome.result, OutcomeResult::Succeeded);
    assert_eq!((outcome.boot_id.as_str(), bench.reboots_made()), ("boot-1", 0));
}

#[test]
fn nothing_to_install_is_told_apart_and_never_a_success() {
    for (stand, result) in [
        (Stand::InForce, OutcomeResult::AlreadyInstalled),
        (Stand::NotOffered, OutcomeResult::NotOffered),
        (Stand::Superseded, OutcomeResult::Superseded),
        (Stand::NotApplicable, OutcomeResult::NotApplicable),
    ] {
        let mut bench = Bench::new().with("KB1", Script { stand, ..Script::default() });
        let outcome = install(&mut bench);
        assert_eq!(outcome.result, result, "{}", outcome.message);
        assert!(!outcome.started);
        assert_eq!((bench.installs_begun(), bench.reboots_made()), (0, 0));
    }
}

#[test]
fn an_update_for_another_product_is_not_applicable() {
    let mut bench = Bench::new();
    let mut job = bench.job(1, Action::Install);
    job.updates[0].product = "Windows 11 24H2".to_owned();
    assert_eq!(bench.carry_out_job(job).result, OutcomeResult::NotApplicable);
}

#[test]
fn an_update_that_somebody_installs_while_we_wait_is_patched_outside() {
    let mut bench = Bench::new();
    bench.permits = (0..100).map(|_| refused("RolloutStopped", 600_000)).collect();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| bench.permits.len() == 98);
    bench.updates.get_mut("KB1").unwrap().stand = Stand::InForce;
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::PatchedOutside);
    assert_eq!(bench.installs_begun(), 0);
}

#[test]
fn a_pending_restart_blocks_the_job_unless_it_may_restart_first() {
    let mut bench = Bench { pending_reboot: true, ..Bench::new() };
    let outcome = install(&mut bench);
    assert_eq!(reason(&outcome), (OutcomeResult::NotStarted, Some("PendingReboot")));
    assert_eq!(bench.reboots_made(), 0);

    let mut bench = Bench { pending_reboot: true, ..Bench::new() };
    let mut job = bench.job(1, Action::Install);
    job.preflight.reboot_first = true;
    let outcome = bench.carry_out_job(job);
    assert_eq!(outcome.result, OutcomeResult::Succeeded);
    assert_eq!((bench.reboots_made(), outcome.reboots), (2, 2));
    assert!(bench.states.contains(&"RebootFirst".to_owned()));
}

#[test]
fn the_baseline_is_from_before_the_restart_that_clears_the_way() {
    let mut bench = Bench { pending_reboot: true, ..Bench::new() };
    let mut job = bench.job(1, Action::Install);
    job.preflight.reboot_first = true;
    bench.take(Event::Offered(Box::new(job)));
    bench.go_until(|bench| bench.is_down);
    // The restart itself breaks the service: it ran before, so it counts.
    bench.go_on();
    bench.service = ServiceState::Stopped;
    bench.go_until(|bench| phase(bench) == "Installing");
    let baseline = bench.state.job.as_ref().unwrap().baseline.as_ref().unwrap();
    assert_eq!(baseline.services[SERVICE].state, ServiceState::Running);
}

#[test]
fn a_service_that_does_not_come_back_is_restarted_as_often_as_told_and_then_fails_the_job() {
    let script = Script { stops_service: true, ..Script::default() };
    let mut bench = Bench::new().with("KB1", script.clone());
    let outcome = install(&mut bench);
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("ServiceDown")));
    assert!(outcome.message.contains(SERVICE), "{}", outcome.message);
    assert_eq!(bench.restarts_of_service, 2);
    assert!(bench.states.contains(&"Remediating".to_owned()));

    let mut bench = Bench { restart_helps: true, ..Bench::new() }.with("KB1", script);
    assert_eq!(install(&mut bench).result, OutcomeResult::Succeeded);
    assert_eq!(bench.restarts_of_service, 1);
}

#[test]
fn a_service_that_was_stopped_before_is_not_blamed_on_the_update() {
    let script = Script { stops_service: true, ..Script::default() };
    let mut bench = Bench { service: ServiceState::Stopped, ..Bench::new() }.with("KB1", script);
    assert_eq!(install(&mut bench).result, OutcomeResult::Succeeded);
    assert_eq!(bench.restarts_of_service, 0);
}

#[test]
fn a_retry_does_not_take_what_the_first_attempt_broke_for_healthy() {
    let script = Script { stops_service: true, ..Script::default() };
    let mut bench = Bench::new().with("KB1", script);
    install(&mut bench);
    let again = bench.carry_out_job(bench.job(2, Action::Install));
    assert_eq!(reason(&again), (OutcomeResult::Failed, Some("ServiceDown")));
    bench.service = ServiceState::Running;
    let healed = bench.carry_out_job(bench.job(3, Action::Install));
    assert_eq!(healed.result, OutcomeResult::AlreadyInstalled);
    assert_eq!(bench.installs_begun(), 1);
}

#[test]
fn an_update_that_windows_takes_back_at_boot_is_reverted() {
    let mut bench = Bench::new().with("KB1", Script { reverts: true, ..Script::default() });
    let outcome = install(&mut bench);
    assert_eq!(outcome.result, OutcomeResult::RevertedByWindows);
    assert!(outcome.message.contains("expected 20348.2762, found 20348.2700"));
}

#[test]
fn a_device_that_crashes_again_and_again_fails_without_a_restart_of_our_own() {
    let mut bench = Bench::new().with("KB1", Script { crashes: 9, ..Script::default() });
    let outcome = install(&mut bench);
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("BootLoop")));
    assert_eq!(bench.reboots_made(), 1, "only the one that finishes the update");
    let next = bench.carry_out_job(bench.job(2, Action::Install));
    assert_eq!(reason(&next), (OutcomeResult::NotStarted, Some("BootLoop")));
}

#[test]
fn a_restart_that_does_not_happen_is_ordered_twice_and_then_stuck() {
    let mut bench = Bench { ignores_reboots: true, ..Bench::new() };
    let outcome = install(&mut bench);
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("RebootStuck")));
    assert_eq!(outcome.reboots, 1, "one restart, ordered twice");
    assert_eq!(bench.taken_back, 2, "no order outlives its permit, or the job");
}

#[test]
fn the_reboot_permit_is_asked_at_the_end_of_the_countdown() {
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    let begun = bench.mono_ms;
    let asks_now = |bench: &Bench| {
        bench.asked.iter().any(|(_, turn, ask)| {
            *turn == bench.state.turn && matches!(ask, Ask::Permit { step: Step::Reboot, .. })
        })
    };
    assert!(!asks_now(&bench));
    bench.go_until(asks_now);
    assert_eq!(bench.mono_ms - begun, 60_000);
}

#[test]
fn a_halt_during_the_installation_stops_the_restart() {
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    bench.permits = (0..20).map(|_| refused("RolloutStopped", 60_000)).collect();
    bench.go_until(|bench| bench.permits.is_empty());
    assert_eq!(bench.reboots_made(), 0);
    assert_eq!(bench.state.job.as_ref().unwrap().message, "refused: RolloutStopped");
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded);
}

#[test]
fn a_permit_that_arrives_after_its_minute_is_worth_nothing() {
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "AwaitingInstall");
    let asked_mono_ms = bench.mono_ms;
    bench.advance(60_000);
    let answer = Answer::Permit { asked_mono_ms, answer: Some(PermitAnswer::Granted) };
    bench.take(Event::Answered { turn: bench.state.turn, answer });
    assert_eq!((phase(&bench), bench.installs_begun()), ("AwaitingInstall", 0));
}

#[test]
fn a_reboot_permit_that_arrives_after_its_minute_restarts_nothing() {
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    bench.go_on();
    let asked_mono_ms = bench.mono_ms;
    bench.advance(60_000);
    let answer = Answer::Permit { asked_mono_ms, answer: Some(PermitAnswer::Granted) };
    bench.take(Event::Answered { turn: bench.state.turn, answer });
    assert_eq!((phase(&bench), bench.reboots_made()), ("AwaitingReboot", 0));
}

#[test]
fn a_restart_that_an_update_asks_for_is_made_even_when_no_sign_of_it_shows() {
    let mut bench = Bench { hides_pending: true, ..Bench::new() };
    let outcome = install(&mut bench);
    assert_eq!((outcome.result, bench.reboots_made()), (OutcomeResult::Succeeded, 1));
}

#[test]
fn a_sign_that_no_restart_clears_ends_the_job_after_three_of_them() {
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "Installing");
    bench.pends_forever = true;
    bench.go_until(|bench| bench.state.job.is_none());
    let outcome = &bench.outcomes[0];
    assert_eq!(reason(outcome), (OutcomeResult::Failed, Some("PendingReboot")));
    assert_eq!((bench.reboots_made(), outcome.reboots), (MAX_REBOOTS, MAX_REBOOTS));
}

#[test]
fn an_act_whose_permit_ran_out_while_the_journal_was_written_is_asked_for_again() {
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "AwaitingInstall");
    let answer =
        Answer::Permit { asked_mono_ms: bench.mono_ms, answer: Some(PermitAnswer::Granted) };
    let turn = bench.state.turn;
    bench.take_without_effects(Event::Answered { turn, answer });
    assert_eq!(phase(&bench), "Installing");
    let turn = bench.state.turn;
    bench.take(Event::Answered { turn, answer: Answer::PermitExpired });
    assert_eq!(
        (phase(&bench), bench.state.job.as_ref().unwrap().begun()),
        ("AwaitingInstall", false)
    );
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!((bench.outcomes[0].result, bench.installs_begun()), (OutcomeResult::Succeeded, 1));
}

#[test]
fn a_job_that_cannot_begin_in_time_is_given_back() {
    let mut bench = Bench::new();
    bench.permits = (0..500).map(|_| refused("RolloutStopped", 600_000)).collect();
    let outcome = install(&mut bench);
    assert_eq!(reason(&outcome), (OutcomeResult::NotStarted, Some("StartByPassed")));

    let mut bench = Bench::new();
    bench.permits.push_back(ended_because("TooLate"));
    assert_eq!(reason(&install(&mut bench)), (OutcomeResult::NotStarted, Some("StartByPassed")));
}

#[test]
fn an_update_for_which_it_is_too_late_is_left_out_and_the_one_before_it_is_finished() {
    let mut bench = Bench::new().with("KB2", Script::default());
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "Installing");
    bench.advance(3_600_000);
    bench.permits.push_back(ended_because("TooLate"));
    bench.go_until(|bench| bench.state.job.is_none());
    let outcome = &bench.outcomes[0];
    assert_eq!(reason(outcome), (OutcomeResult::Failed, Some("StartByPassed")));
    assert_eq!((bench.installs_begun(), bench.reboots_made()), (1, 1));
    assert!(bench.is_in_force("KB1"));
}

#[test]
fn a_job_that_a_person_aborts_in_the_middle_stops_and_tells_so() {
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    bench.permits.push_back(ended_because("AbortedByPerson"));
    bench.go_until(|bench| bench.state.job.is_none());
    let outcome = &bench.outcomes[0];
    assert_eq!(reason(outcome), (OutcomeResult::Failed, Some("AbortedByPerson")));
    assert!(outcome.started && outcome.reboot_required);
    assert_eq!(bench.reboots_made(), 0);
}

#[test]
fn a_restart_for_which_it_is_too_late_is_not_waited_for() {
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    bench.permits.push_back(ended_because("FinishByPassed"));
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(reason(&bench.outcomes[0]), (OutcomeResult::Failed, Some("FinishByPassed")));
    assert_eq!(bench.reboots_made(), 0);
}

#[test]
fn a_job_that_ended_before_it_began_is_dropped_and_not_begun_when_it_is_offered_again() {
    let mut bench = Bench::new();
    bench.permits.push_back(ended());
    let outcome = install(&mut bench);
    assert_eq!(reason(&outcome), (OutcomeResult::NotStarted, Some("NoSuchJob")));
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    assert_eq!(bench.outcomes.len(), 2, "it is answered again");
    assert!(bench.state.job.is_none());
    assert_eq!(bench.installs_begun(), 0);
}

#[test]
fn a_job_that_is_deleted_in_the_middle_rests_until_it_is_made_again() {
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    bench.permits.extend([ended(), ended()]);
    bench.go_until(|bench| bench.permits.is_empty());
    assert_eq!((phase(&bench), bench.reboots_made()), ("AwaitingReboot", 0));
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded);
    assert_eq!(bench.installs_begun(), 1);
}

#[test]
fn a_newer_job_takes_the_place_of_one_that_rests_and_waits_for_one_that_acts() {
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "Installing");
    bench.take(Event::Offered(Box::new(bench.job(2, Action::Rollback))));
    assert_eq!(bench.unexpected, [Unexpected::Busy { phase: "Installing" }]);
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    let outcome = bench.carry_out_job(bench.job(2, Action::Rollback));
    assert_eq!(outcome.result, OutcomeResult::RolledBack, "{}", outcome.message);
    assert_eq!(reason(&bench.outcomes[0]), (OutcomeResult::Failed, Some("NoSuchJob")));
    assert!(!bench.is_in_force("KB1"));
}

#[test]
fn older_sequences_and_other_devices_jobs_are_refused() {
    let mut bench = Bench::new();
    bench.carry_out_job(bench.job(7, Action::Install));
    bench.take(Event::Offered(Box::new(bench.job(6, Action::Rollback))));
    assert_eq!(bench.unexpected, [Unexpected::OldSequence { offered: 6, highest: 7 }]);
    let mut foreign = bench.job(9, Action::Install);
    foreign.key.device_id = "id-2".to_owned();
    bench.take(Event::Offered(Box::new(foreign)));
    assert!(matches!(bench.unexpected[1], Unexpected::NotMine { .. }));
    assert_eq!(bench.removals, 0);
}

#[test]
fn a_device_that_only_observes_touches_nothing() {
    let mut bench = Bench::new();
    bench.take(Event::ModeSet(Mode::Observe));
    let outcome = install(&mut bench);
    assert_eq!(reason(&outcome), (OutcomeResult::NotStarted, Some("ObserveMode")));
    bench.take(Event::ModeSet(Mode::Manage));
    bench.take(Event::Offered(Box::new(bench.job(2, Action::Install))));
    bench.go_until(|bench| phase(bench) == "AwaitingInstall");
    bench.take(Event::ModeSet(Mode::Observe));
    assert_eq!(phase(&bench), "Idle");
    assert_eq!(bench.installs_begun(), 0);
}

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
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("NotReversible")));
    assert!(!outcome.started);
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
