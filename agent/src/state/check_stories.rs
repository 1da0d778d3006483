//! Stories of probes and hooks.

use wardring_seal::{Action, Hook, HookMoment, OutcomeResult, UnlistedServices};

use super::bench::{Bench, Script, ended_because, refused};
use super::*;

fn phase(bench: &Bench) -> &'static str {
    bench.state.job.as_ref().map_or("Idle", |job| job.phase.word())
}

fn reason(outcome: &OutcomePayload) -> (OutcomeResult, Option<&str>) {
    (outcome.result, outcome.reason.as_deref())
}

fn hook(moment: HookMoment, program: &str) -> Hook {
    Hook { moment, program: program.to_owned(), timeout_ms: 600_000 }
}

/// A device that is taken out of service and brought back by hooks.
fn with_hooks() -> Bench {
    let mut bench = Bench::new();
    bench.hooks = vec![
        hook(HookMoment::BeforeInstall, "drain.ps1"),
        hook(HookMoment::BeforeReboot, "fail-over.cmd"),
        hook(HookMoment::AfterHealthy, "resume.exe"),
    ];
    bench
}

fn failing(why: &str) -> ProbeSample {
    ProbeSample::Failed(why.to_owned())
}

fn with_probe(sample: ProbeSample) -> Bench {
    let mut bench = Bench::new();
    bench.probes.insert("web".to_owned(), sample);
    bench
}

fn offer(bench: &mut Bench) {
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
}

/// A device with services that no job names: one that Windows starts, and one that people start.
fn with_unlisted(unlisted: UnlistedServices) -> Bench {
    let mut bench = Bench { unlisted, ..Bench::new() };
    let people = ServiceSample { start: StartType::Demand, ..unlisted::ran() };
    bench.others.insert("Manual".to_owned(), people);
    bench.others.insert("Orders".to_owned(), unlisted::ran());
    bench
}

/// The update is installed, and after its restart those services are gone with this Win32 error.
fn ends_with(bench: &mut Bench, exit: u32) {
    offer(bench);
    bench.go_until(|bench| phase(bench) == "Settling");
    for sample in bench.others.values_mut() {
        (sample.state, sample.exit) = (ServiceState::Stopped, Some(exit));
    }
}

#[test]
fn a_service_that_nobody_named_and_that_died_with_the_update_is_told_and_judged_where_that_is_asked()
 {
    let told = "service Orders: Running, now Stopped (error 1067)".to_owned();
    let mut bench = with_unlisted(UnlistedServices::Report);
    ends_with(&mut bench, 1067);
    bench.go_until(|bench| phase(bench) == "Verifying");
    bench.go_on();
    bench.go_on();
    assert_eq!(bench.state.job.as_ref().unwrap().changes[1..], [told]);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded);
    assert_eq!(bench.restarts_of_service, 0, "it is told, and left");

    let mut bench = with_unlisted(UnlistedServices::Judge);
    ends_with(&mut bench, 1067);
    bench.go_until(|bench| bench.state.job.is_none());
    let outcome = &bench.outcomes[0];
    assert_eq!(reason(outcome), (OutcomeResult::Failed, Some("ServiceDown")));
    let why = "not healthy after 2 restart attempts: Orders (it was Running, is Stopped)";
    assert_eq!(outcome.message, why, "and nothing of the one that people start");

    let mut bench = Bench { restart_helps: true, ..with_unlisted(UnlistedServices::Judge) };
    ends_with(&mut bench, 1067);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded, "{}", bench.outcomes[0].message);
    assert_eq!(bench.restarts_of_service, 1);
}

#[test]
fn a_service_that_nobody_named_and_that_ended_by_itself_or_did_not_run_is_not_missed() {
    let mut bench = with_unlisted(UnlistedServices::Judge);
    ends_with(&mut bench, 0);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded, "{}", bench.outcomes[0].message);

    let mut bench = with_unlisted(UnlistedServices::Judge);
    for sample in bench.others.values_mut() {
        sample.state = ServiceState::Stopped;
    }
    ends_with(&mut bench, 1067);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded, "{}", bench.outcomes[0].message);
    assert_eq!(bench.restarts_of_service, 0);
}

#[test]
fn a_probe_that_fails_after_the_update_fails_the_device_and_is_named() {
    let mut bench = with_probe(ProbeSample::Good);
    offer(&mut bench);
    bench.go_until(|bench| phase(bench) == "Settling");
    bench.probes.insert("web".to_owned(), failing("status 503"));
    bench.go_until(|bench| phase(bench) == "Verifying");
    bench.go_on();
    bench.go_on();
    let job = bench.state.job.clone().unwrap();
    assert_eq!(job.unhealthy, ["probe web: status 503"]);
    assert!(job.changes.contains(&"probe web: good, now failing: status 503".to_owned()));
    bench.go_until(|bench| bench.state.job.is_none());
    let outcome = &bench.outcomes[0];
    assert_eq!(reason(outcome), (OutcomeResult::Failed, Some("ProbeFailed")));
    assert!(outcome.message.contains("probe web (status 503)"), "{}", outcome.message);
    assert_eq!(bench.restarts_of_service, 0, "no service is restarted for it");
}

#[test]
fn a_probe_that_failed_before_the_update_is_not_blamed_on_it() {
    let mut bench = with_probe(failing("refused"));
    let outcome = bench.carry_out_job(bench.job(1, Action::Install));
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
}

#[test]
fn what_answers_late_after_a_restart_has_time_and_then_three_good_samples() {
    let mut bench = with_probe(ProbeSample::Good);
    offer(&mut bench);
    bench.go_until(|bench| phase(bench) == "Settling");
    bench.probes.insert("web".to_owned(), failing("refused"));
    bench.go_until(|bench| bench.looks >= 12);
    assert_eq!(phase(&bench), "Verifying");
    bench.probes.insert("web".to_owned(), ProbeSample::Good);
    let looks = bench.looks;
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded);
    assert!(bench.looks >= looks + 3, "{looks} and then {}", bench.looks);
}

#[test]
fn a_rollback_is_measured_with_the_probes_from_before_the_installation() {
    let mut bench = with_probe(ProbeSample::Good);
    bench.carry_out_job(bench.job(1, Action::Install));
    bench.probes.insert("web".to_owned(), failing("refused"));
    let outcome = bench.carry_out_job(bench.job(2, Action::Rollback));
    assert_eq!(reason(&outcome), (OutcomeResult::RollbackFailed, Some("ProbeFailed")));
}

#[test]
fn hooks_run_in_their_order_around_installation_and_restart() {
    let mut bench = with_hooks();
    let outcome = bench.carry_out_job(bench.job(1, Action::Install));
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    assert_eq!(bench.hooks_run, ["drain.ps1", "fail-over.cmd", "resume.exe"]);
    assert!(bench.states.contains(&"RunningHook".to_owned()));

    let outcome = bench.carry_out_job(bench.job(2, Action::Rollback));
    assert_eq!(outcome.result, OutcomeResult::RolledBack, "{}", outcome.message);
    assert_eq!(bench.hooks_run[3..], ["drain.ps1", "fail-over.cmd", "resume.exe"]);
}

#[test]
fn no_hook_runs_while_the_rollout_stands_still() {
    let mut bench = with_hooks();
    bench.permits = (0..9).map(|_| refused("SuspendedByPerson", 60_000)).collect();
    bench.permits.push_back(ended_because("AbortedByPerson"));
    let outcome = bench.carry_out_job(bench.job(1, Action::Install));
    assert_eq!(outcome.result, OutcomeResult::NotStarted);
    assert!(bench.hooks_run.is_empty(), "{:?}", bench.hooks_run);
}

#[test]
fn a_hook_that_fails_keeps_the_installation_away_and_the_device_comes_back() {
    let mut bench = with_hooks();
    bench.hook_ends.push_back(Err("it ended with exit code 1".to_owned()));
    let outcome = bench.carry_out_job(bench.job(1, Action::Install));
    assert_eq!(reason(&outcome), (OutcomeResult::NotStarted, Some("HookFailed")));
    assert!(outcome.message.contains("drain.ps1"), "{}", outcome.message);
    assert_eq!(bench.installs_begun(), 0);
    assert_eq!(bench.hooks_run, ["drain.ps1", "resume.exe"], "half a drain is undone, too");
}

#[test]
fn a_hook_that_fails_before_the_restart_keeps_it_away() {
    let mut bench = with_hooks();
    bench.hook_ends.extend([Ok(()), Err("it is not there".to_owned())]);
    let outcome = bench.carry_out_job(bench.job(1, Action::Install));
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("HookFailed")));
    assert!(outcome.message.contains("fail-over.cmd"), "{}", outcome.message);
    assert_eq!((bench.installs_begun(), bench.reboots_made()), (1, 0));
}

#[test]
fn a_device_that_is_sound_but_not_back_in_service_is_no_success() {
    let mut bench = with_hooks();
    bench.hook_ends.extend([Ok(()), Ok(()), Err("it ended with exit code 2".to_owned())]);
    let outcome = bench.carry_out_job(bench.job(1, Action::Install));
    assert_eq!(reason(&outcome), (OutcomeResult::Failed, Some("HookFailed")));
    assert!(outcome.message.contains("resume.exe"), "{}", outcome.message);
    assert!(outcome.message.contains("installed and proven"), "{}", outcome.message);
}

#[test]
fn a_hook_that_outlasts_its_permit_is_followed_by_another_one_or_undone() {
    let mut bench = with_hooks();
    offer(&mut bench);
    bench.go_until(|bench| phase(bench) == "RunningHook");
    bench.advance(20 * 60_000);
    bench.permits.push_back(ended_because("AbortedByPerson"));
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::NotStarted);
    assert_eq!(bench.installs_begun(), 0, "an old permit installs nothing");
    assert_eq!(bench.hooks_run, ["drain.ps1", "resume.exe"]);
}

#[test]
fn the_baseline_is_from_before_the_device_was_taken_out_of_service() {
    let stops = Script { stops_service: true, ..Script::default() };
    let mut bench = with_hooks().with("KB1", stops);
    offer(&mut bench);
    bench.go_until(|bench| phase(bench) == "RunningHook");
    // The hook moves the service to a partner, and the rollout stands still for an hour after it.
    bench.service = ServiceState::Stopped;
    bench.permits = (0..60).map(|_| refused("SuspendedByPerson", 60_000)).collect();
    bench.advance(2 * 60_000);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(reason(&bench.outcomes[0]), (OutcomeResult::Failed, Some("ServiceDown")));
}

#[test]
fn an_agent_that_dies_under_a_hook_runs_it_again_and_installs_once() {
    for hooks_before in 1..=3 {
        let mut bench = with_hooks();
        offer(&mut bench);
        bench.go_until(|bench| bench.hooks_run.len() == hooks_before);
        let died_under = bench.hooks_run.last().unwrap().clone();
        bench.start(false);
        bench.go_until(|bench| bench.state.job.is_none());
        assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded, "{died_under}");
        assert_eq!((bench.installs_begun(), bench.reboots_made()), (1, 1), "{died_under}");
        let runs = bench.hooks_run.iter().filter(|run| **run == died_under).count();
        assert_eq!(runs, 2, "{died_under}: {:?}", bench.hooks_run);
    }
}

#[test]
fn a_hook_that_is_never_heard_of_again_has_failed() {
    let mut bench = with_hooks();
    offer(&mut bench);
    bench.go_until(|bench| phase(bench) == "RunningHook");
    bench.is_silent = true;
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(reason(&bench.outcomes[0]), (OutcomeResult::NotStarted, Some("HookFailed")));
}

#[test]
fn people_who_take_the_device_back_during_a_hook_get_it_back_in_service() {
    let mut bench = with_hooks();
    offer(&mut bench);
    bench.go_until(|bench| phase(bench) == "RunningHook");
    bench.take(Event::ModeSet(Mode::Observe));
    assert_eq!(phase(&bench), "RunningHook", "it is not torn away");
    bench.advance(2 * 60_000);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(reason(&bench.outcomes[0]), (OutcomeResult::NotStarted, Some("ObserveMode")));
    assert_eq!(bench.hooks_run, ["drain.ps1", "resume.exe"]);
    assert_eq!(bench.installs_begun(), 0);
}
