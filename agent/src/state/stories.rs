//! One story per thing that may happen to a device.

use wardring_protocol::{PermitAnswer, Step};
use wardring_seal::{Action, OutcomeResult};

use super::bench::{Bench, SERVICE, Script, Stand, ended, ended_because, refused};
use super::*;

pub(super) fn install(bench: &mut Bench) -> OutcomePayload {
    bench.carry_out_job(bench.job(1, Action::Install))
}

pub(super) fn reason(outcome: &OutcomePayload) -> (OutcomeResult, Option<&str>) {
    (outcome.result, outcome.reason.as_deref())
}

pub(super) fn phase(bench: &Bench) -> &'static str {
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
fn a_service_that_windows_starts_again_and_again_fails_the_job() {
    let mut bench = Bench { deaths_left: 1_000, ..Bench::new() };
    let outcome = install(&mut bench);
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("ServiceDown")));
    assert!(outcome.message.contains("it starts again and again"), "{}", outcome.message);
    assert_eq!(bench.restarts_of_service, 2, "it was tried to help it");

    // Our own restart ends it, and is not taken for one more death.
    let mut bench = Bench { deaths_left: 4, restart_helps: true, ..Bench::new() };
    assert_eq!(install(&mut bench).result, OutcomeResult::Succeeded);
    assert_eq!(bench.restarts_of_service, 1);
}

#[test]
fn a_service_that_is_started_anew_once_or_twice_delays_the_verdict_and_is_left_alone() {
    // The first death comes before the first look, which shows no change.
    for (deaths, looks) in [(0, 3), (2, 5), (3, 6)] {
        let mut bench = Bench { deaths_left: deaths, ..Bench::new() };
        bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
        bench.go_until(|bench| phase(bench) == "Verifying");
        let before = bench.looks;
        bench.go_until(|bench| bench.state.job.is_none());
        assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded);
        assert_eq!(bench.looks - before, looks, "three good looks at one process");
        assert_eq!(bench.restarts_of_service, 0);
    }
}

#[test]
fn a_service_that_stops_by_design_or_did_not_run_may_come_and_go() {
    let triggered = Bench { is_triggered: true, ..Bench::new() };
    let stopped = Bench { service: ServiceState::Stopped, ..Bench::new() };
    for mut bench in [triggered, stopped] {
        bench.deaths_left = 1_000;
        assert_eq!(install(&mut bench).result, OutcomeResult::Succeeded);
        assert_eq!(bench.restarts_of_service, 0);
    }
    for (is_triggered, result) in [(true, OutcomeResult::Succeeded), (false, OutcomeResult::Failed)]
    {
        let script = Script { stops_service: true, ..Script::default() };
        let mut bench = Bench { is_triggered, ..Bench::new() }.with("KB1", script);
        let outcome = install(&mut bench);
        assert_eq!(outcome.result, result, "{}", outcome.message);
        assert_eq!(bench.restarts_of_service == 0, is_triggered);
    }
}

#[test]
fn each_restart_attempt_waits_longer_than_the_one_before() {
    let script = Script { stops_service: true, ..Script::default() };
    let mut bench = Bench::new().with("KB1", script);
    let mut job = bench.job(1, Action::Install);
    job.health.restart_attempts = 5;
    bench.take(Event::Offered(Box::new(job)));
    let mut at = Vec::new();
    for attempt in 1..=5 {
        bench.go_until(|bench| bench.restarts_of_service == attempt);
        at.push(bench.mono_ms);
    }
    bench.go_until(|bench| bench.state.job.is_none());
    at.push(bench.mono_ms);
    let pauses: Vec<u64> = at.windows(2).map(|pair| (pair[1] - pair[0]) / 1_000).collect();
    assert_eq!(pauses, [20, 40, 80, 120, 120], "also before the last word");
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
