//! Stories of the days after an installation: what breaks then is seen and told, and left.

use wardring_protocol::HealthFact;
use wardring_seal::{Action, OutcomeResult, UnlistedServices};

use super::bench::{Bench, SERVICE, Script, refused};
use super::stories::install;
use super::*;
use crate::pause::Pause;

const FIVE_MINUTES: u64 = 300_000;

/// A device on which the update was proven.
fn proven() -> Bench {
    let mut bench = Bench::new();
    bench.probes.insert("web".to_owned(), ProbeSample::Good);
    prove(&mut bench);
    bench
}

fn prove(bench: &mut Bench) {
    let outcome = install(bench);
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
}

fn looks(bench: &mut Bench, times: u32) {
    (0..times).for_each(|_| {
        bench.advance(FIVE_MINUTES);
        bench.look();
    });
}

/// The report about the one installation there is.
fn fact(bench: &Bench) -> HealthFact {
    let facts = bench.state.health_facts();
    assert_eq!(facts.len(), 1, "{facts:?}");
    facts.into_iter().next().unwrap()
}

/// What is told to be worse, each with its kind and why.
fn worse(bench: &Bench) -> Vec<String> {
    let found = fact(bench).unhealthy.into_iter();
    found.map(|found| format!("{} {}: {}", found.kind, found.name, found.why)).collect()
}

fn boot(bench: &mut Bench, kind: BootKind) {
    bench.boot_now(kind);
    bench.go_on();
}

#[test]
fn a_service_that_dies_days_after_the_proof_is_told_and_not_touched() {
    let mut bench = proven();
    let ended = bench.wall;
    looks(&mut bench, 3 * 288);
    assert!(worse(&bench).is_empty(), "{:?}", worse(&bench));
    bench.service = ServiceState::Stopped;
    looks(&mut bench, 2);
    assert!(worse(&bench).is_empty(), "somebody may be restarting it");
    looks(&mut bench, 1);
    assert_eq!(worse(&bench), [format!("Service {SERVICE}: it was Running, is Stopped")]);
    let told = fact(&bench);
    assert_eq!((told.rollout_uid.as_str(), told.attempt), ("rollout", 1));
    assert!(told.since >= ended && told.unhealthy[0].since == bench.wall);
    looks(&mut bench, 288);
    assert_eq!(fact(&bench), told, "what is known is not told again with every look");
    assert_eq!((bench.restarts_of_service, bench.removals, bench.outcomes.len()), (0, 0, 1));
}

#[test]
fn a_restart_by_hand_is_not_called_worse_and_what_recovers_is_well_again_after_three_looks() {
    let mut bench = proven();
    for _ in 0..20 {
        bench.service = ServiceState::Stopped;
        looks(&mut bench, 2);
        bench.service = ServiceState::Running;
        bench.pid += 1;
        looks(&mut bench, 1);
        looks(&mut bench, 1);
        assert!(worse(&bench).is_empty(), "{:?}", worse(&bench));
    }
    bench.service = ServiceState::Stopped;
    looks(&mut bench, 3);
    bench.service = ServiceState::Running;
    looks(&mut bench, 2);
    assert_eq!(worse(&bench).len(), 1);
    bench.service = ServiceState::Stopped;
    looks(&mut bench, 1);
    bench.service = ServiceState::Running;
    looks(&mut bench, 2);
    assert_eq!(worse(&bench).len(), 1, "two good looks are no recovery");
    looks(&mut bench, 1);
    assert!(worse(&bench).is_empty());
}

#[test]
fn a_service_that_dies_and_is_started_again_between_any_two_looks_does_not_run() {
    let mut bench = proven();
    looks(&mut bench, 1);
    for _ in 0..3 {
        bench.pid += 1;
        looks(&mut bench, 1);
    }
    let why = "it was started anew since the last look";
    assert_eq!(worse(&bench), [format!("Service {SERVICE}: {why}")]);
}

#[test]
fn a_probe_that_fails_later_is_told_and_one_that_failed_before_is_not() {
    let failed = || ProbeSample::Failed("status 503".to_owned());
    let mut bench = Bench::new();
    bench.probes.insert("web".to_owned(), ProbeSample::Good);
    bench.probes.insert("old".to_owned(), failed());
    prove(&mut bench);
    looks(&mut bench, 5);
    assert!(worse(&bench).is_empty());
    bench.probes.insert("web".to_owned(), failed());
    looks(&mut bench, 3);
    assert_eq!(worse(&bench), ["Probe web: status 503"]);
    bench.probes.insert("web".to_owned(), ProbeSample::Failed("status 500".to_owned()));
    let told = fact(&bench);
    looks(&mut bench, 3);
    assert_eq!(fact(&bench), told, "other words are no news");
}

#[test]
fn a_service_that_stops_by_design_or_did_not_run_before_is_not_told() {
    let mut bench = Bench { is_triggered: true, ..Bench::new() };
    prove(&mut bench);
    bench.service = ServiceState::Stopped;
    looks(&mut bench, 10);
    assert!(worse(&bench).is_empty());

    let mut bench = Bench { service: ServiceState::Stopped, ..Bench::new() };
    bench.updates.get_mut("KB1").unwrap().stops_service = true;
    prove(&mut bench);
    looks(&mut bench, 10);
    assert!(worse(&bench).is_empty());
}

#[test]
fn services_that_nobody_named_are_looked_at_where_the_job_judges_them() {
    for (unlisted, is_told) in [(UnlistedServices::Judge, true), (UnlistedServices::Report, false)]
    {
        let mut bench = Bench { unlisted, ..Bench::new() };
        bench.others.insert("Orders".to_owned(), unlisted::ran());
        prove(&mut bench);
        let dead =
            ServiceSample { state: ServiceState::Stopped, exit: Some(1067), ..unlisted::ran() };
        bench.others.insert("Orders".to_owned(), dead);
        looks(&mut bench, 3);
        assert_eq!(!worse(&bench).is_empty(), is_told, "{unlisted:?}");
    }
}

#[test]
fn crashes_and_losses_of_power_after_the_end_are_counted_and_clean_restarts_are_not() {
    let mut bench = proven();
    for kind in [BootKind::Foreign, BootKind::Unknown, BootKind::Expected] {
        boot(&mut bench, kind);
    }
    assert_eq!((fact(&bench).restarts, fact(&bench).last_restart), (0, None));
    boot(&mut bench, BootKind::Crash);
    looks(&mut bench, 100);
    boot(&mut bench, BootKind::Dirty);
    let told = fact(&bench);
    assert_eq!(told.restarts, 2);
    let last = told.last_restart.unwrap();
    assert_eq!((last.kind.as_str(), last.boot_id), ("Dirty", bench.state.boot.clone()));
    // Another run of the agent is no boot.
    bench.start(false);
    assert_eq!(fact(&bench).restarts, 2);
}

#[test]
fn services_get_their_time_after_a_boot_and_keep_what_is_known_of_them() {
    let mut bench = proven();
    bench.service = ServiceState::Stopped;
    looks(&mut bench, 2);
    boot(&mut bench, BootKind::Foreign);
    bench.service = ServiceState::StartPending;
    looks(&mut bench, 2);
    assert!(worse(&bench).is_empty(), "the looks before the boot do not count any more");
    looks(&mut bench, 1);
    assert_eq!(worse(&bench), [format!("Service {SERVICE}: it is still starting")]);
    boot(&mut bench, BootKind::Foreign);
    assert_eq!(worse(&bench).len(), 1, "a boot alone makes nothing well");
    looks(&mut bench, 3);
    assert!(worse(&bench).is_empty());
}

#[test]
fn a_device_that_does_not_let_itself_be_looked_at_says_so() {
    let mut bench = proven();
    let refuse = |bench: &mut Bench| {
        bench.take_look(Err("the service manager does not answer".to_owned()));
    };
    refuse(&mut bench);
    refuse(&mut bench);
    assert!(!fact(&bench).blind);
    refuse(&mut bench);
    assert!(fact(&bench).blind);
    let told = bench.state.clone();
    refuse(&mut bench);
    assert_eq!(bench.state, told, "it costs no write of the journal every time");
    looks(&mut bench, 1);
    assert!(!fact(&bench).blind);
}

#[test]
fn what_was_seen_before_a_long_pause_is_not_told_as_how_the_device_is() {
    let mut bench = proven();
    looks(&mut bench, 1);
    bench.take(Event::Paused(Some(Pause::new("surgery", None, bench.wall).unwrap())));
    looks(&mut bench, 12);
    assert!(!fact(&bench).blind, "an hour of work is no news");
    looks(&mut bench, 1);
    assert!(fact(&bench).blind);
    let told = bench.state.clone();
    looks(&mut bench, 10);
    assert_eq!(bench.state.watches, told.watches, "it costs no write of the journal every time");
    bench.take(Event::Paused(None));
    assert!(fact(&bench).blind);
    looks(&mut bench, 1);
    assert!(!fact(&bench).blind);
    // Each pause has its own hour.
    bench.take(Event::Paused(Some(Pause::new("more", None, bench.wall).unwrap())));
    looks(&mut bench, 12);
    assert!(!fact(&bench).blind);
    // A pause without an end does not keep it for ever.
    bench.wall += SignedDuration::from_hours(14 * 24);
    looks(&mut bench, 1);
    assert!(bench.state.watches.is_empty());
}

#[test]
fn looks_before_and_after_a_pause_are_no_row() {
    let mut bench = proven();
    bench.service = ServiceState::Stopped;
    looks(&mut bench, 2);
    bench.take(Event::Paused(Some(Pause::new("surgery", None, bench.wall).unwrap())));
    looks(&mut bench, 12);
    bench.take(Event::Paused(None));
    looks(&mut bench, 2);
    assert!(worse(&bench).is_empty(), "{:?}", worse(&bench));
    looks(&mut bench, 1);
    assert_eq!(worse(&bench), [format!("Service {SERVICE}: it was Running, is Stopped")]);
}

#[test]
fn a_job_that_names_nothing_leaves_only_restarts_to_be_told() {
    let mut bench = Bench::new();
    let mut job = bench.job(1, Action::Install);
    job.health.services.clear();
    job.health.probes.clear();
    assert_eq!(bench.carry_out_job(job).result, OutcomeResult::Succeeded);
    assert!(fact(&bench).names_nothing);
    boot(&mut bench, BootKind::Crash);
    looks(&mut bench, 1);
    assert_eq!((fact(&bench).restarts, fact(&bench).blind), (1, false));
    assert!(!fact(&proven()).names_nothing);
    // Services that the job did not name and judges all the same are something to look at.
    let mut bench = Bench { unlisted: UnlistedServices::Judge, ..Bench::new() };
    bench.others.insert("Orders".to_owned(), unlisted::ran());
    let mut job = bench.job(1, Action::Install);
    job.health.services.clear();
    assert_eq!(bench.carry_out_job(job).result, OutcomeResult::Succeeded);
    assert!(!fact(&bench).names_nothing);
}

#[test]
fn what_is_stopped_by_hooks_or_by_another_job_or_while_the_agent_is_paused_is_nobodys_fault() {
    // An administrator works on the device.
    let mut bench = proven();
    bench.take(Event::Paused(Some(Pause::new("surgery", None, bench.wall).unwrap())));
    bench.service = ServiceState::Stopped;
    looks(&mut bench, 10);
    boot(&mut bench, BootKind::Dirty);
    assert!(worse(&bench).is_empty() && fact(&bench).restarts == 0);
    bench.take(Event::Paused(None));
    bench.service = ServiceState::Stopped;
    looks(&mut bench, 3);
    assert_eq!(worse(&bench).len(), 1);

    // Another rollout installs; what it breaks is its own to tell.
    let mut bench = proven().with("KB2", Script { crashes: 1, ..Script::default() });
    let mut job = bench.job(2, Action::Install);
    job.key.rollout_uid = "other".to_owned();
    job.updates.retain(|update| update.kb == "KB2");
    bench.take(Event::Offered(Box::new(job)));
    bench.go_until(|bench| bench.reboots_made() == 2);
    bench.service = ServiceState::Stopped;
    looks(&mut bench, 10);
    bench.service = ServiceState::Running;
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[1].result, OutcomeResult::Succeeded);
    let facts = bench.state.health_facts();
    let uids: Vec<&str> = facts.iter().map(|fact| fact.rollout_uid.as_str()).collect();
    assert_eq!(uids, ["rollout", "other"]);
    assert!(facts.iter().all(|fact| fact.unhealthy.is_empty() && fact.restarts == 0), "{facts:?}");
    // From here on each tells by itself.
    boot(&mut bench, BootKind::Crash);
    assert!(bench.state.health_facts().iter().all(|fact| fact.restarts == 1));
}

#[test]
fn a_job_that_has_not_begun_yet_does_not_make_the_device_unwatched() {
    let mut bench = proven().with("KB2", Script::default());
    let mut job = bench.job(2, Action::Install);
    job.key.rollout_uid = "other".to_owned();
    bench.permits.extend(std::iter::repeat_n(refused("WindowClosed", 600_000), 3));
    bench.take(Event::Offered(Box::new(job)));
    bench.go_until(|bench| {
        bench.state.job.as_ref().is_some_and(|job| job.phase == Phase::AwaitingInstall)
    });
    bench.service = ServiceState::Stopped;
    looks(&mut bench, 3);
    assert_eq!(worse(&bench).len(), 1);
}

#[test]
fn an_end_that_is_none_of_success_or_a_rollback_ends_the_look() {
    let mut failing = Bench::new();
    failing.updates.get_mut("KB1").unwrap().stops_service = true;
    assert_eq!(install(&mut failing).result, OutcomeResult::Failed);
    assert!(failing.state.health_facts().is_empty(), "the outcome says it");

    let mut bench = proven();
    let rolled_back = bench.carry_out_job(bench.job(2, Action::Rollback));
    assert_eq!(rolled_back.result, OutcomeResult::RolledBack);
    assert!(bench.state.health_facts().is_empty());

    let mut bench = proven();
    let downloaded = bench.carry_out_job(bench.job(2, Action::Download));
    assert_eq!(fact(&bench).attempt, 1, "{downloaded:?}");
}

#[test]
fn looking_ends_after_two_weeks_also_when_the_clock_is_set() {
    let days = |bench: &mut Bench, days: i64| bench.wall += SignedDuration::from_hours(24 * days);
    let mut bench = proven();
    days(&mut bench, 13);
    looks(&mut bench, 1);
    assert_eq!(bench.state.watches.len(), 1);
    days(&mut bench, 1);
    looks(&mut bench, 1);
    assert!(bench.state.watches.is_empty() && bench.state.lookouts().is_empty());

    let mut bench = proven();
    days(&mut bench, -900);
    looks(&mut bench, 1);
    days(&mut bench, 14);
    looks(&mut bench, 1);
    assert!(bench.state.watches.is_empty(), "a clock that was far ahead");
}

#[test]
fn the_journal_keeps_four_installations_and_forgets_them_with_the_enrolment() {
    let mut bench = proven();
    for number in 2..8 {
        let mut job = bench.job(number, Action::Install);
        job.key.rollout_uid = format!("rollout-{number}");
        bench.updates.get_mut("KB1").unwrap().stand = super::bench::Stand::Offered;
        let outcome = bench.carry_out_job(job);
        assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    }
    let facts = bench.state.health_facts();
    let uids: Vec<&str> = facts.iter().map(|fact| fact.rollout_uid.as_str()).collect();
    assert_eq!(uids, ["rollout-4", "rollout-5", "rollout-6", "rollout-7"]);
    bench.state.me.as_mut().unwrap().device_id = "id-0".to_owned();
    bench.start(false);
    assert!(bench.state.watches.is_empty());
}

#[test]
fn no_name_and_no_answer_makes_a_report_that_a_gateway_refuses() {
    let mut bench = Bench::new();
    for number in 0..12 {
        bench.probes.insert(format!("{number}{}", "ß".repeat(200)), ProbeSample::Good);
    }
    prove(&mut bench);
    for sample in bench.probes.values_mut() {
        *sample = ProbeSample::Failed(format!("\u{202e}line\nline {}", "x".repeat(2_000)));
    }
    looks(&mut bench, 3);
    let facts =
        wardring_protocol::Facts { health: bench.state.health_facts(), ..Default::default() };
    assert_eq!(facts.health[0].unhealthy.len(), wardring_protocol::MAX_UNHEALTHY);
    let batch = wardring_protocol::ReportBatch {
        version: wardring_protocol::PROTOCOL_VERSION,
        agent_run: "r".to_owned(),
        boot_id: "b".to_owned(),
        now: bench.wall,
        uptime_ms: 0,
        reports: vec![wardring_protocol::Report {
            seq: 1,
            body: wardring_protocol::ReportBody::Facts(Box::new(facts)),
        }],
    };
    assert_eq!(wardring_protocol::check_batch(&batch), Ok(()));
}
