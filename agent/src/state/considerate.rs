//! Stories of restarts on devices where people work.

use jiff::SignedDuration;
use wardring_protocol::PermitAnswer;
use wardring_seal::{Action, OutcomeResult};

use super::bench::{Bench, ended_because, refused};
use super::*;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

fn phase(bench: &Bench) -> &'static str {
    bench.state.job.as_ref().map_or("Idle", |job| job.phase.word())
}

fn message(bench: &Bench) -> &str {
    bench.state.job.as_ref().map_or("", |job| job.message.as_str())
}

fn active(active: u32) -> Option<People> {
    Some(People { active, disconnected: 0 })
}

fn among(people: Option<People>) -> Surroundings {
    Surroundings { people, ..Surroundings::CLEAR }
}

/// A device on which an update waits for its restart, and somebody works.
fn with_people(people: Option<People>) -> Bench {
    let mut bench = Bench { around: among(people), ..Bench::new() };
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    bench
}

fn waits(bench: &Bench) -> bool {
    message(bench).starts_with("waiting: ")
}

/// Goes on until the restart; how long it took.
fn until_the_restart(bench: &mut Bench) -> u64 {
    let begun = bench.mono_ms;
    bench.go_until(|bench| bench.is_down);
    bench.mono_ms - begun
}

#[test]
fn a_restart_waits_for_people_and_says_for_how_many_and_how_long() {
    let mut bench = with_people(active(2));
    bench.go_until(waits);
    let said = "waiting: 2 people are logged on; restarts by 04:00 UTC at the latest";
    assert_eq!(message(&bench), said);
    assert_eq!((bench.asked_to_leave, bench.announced), (1, 0));
    // It says the same as long as it waits, so that nobody is written to every minute.
    let reports = bench.states.len();
    bench.go_until(|bench| bench.mono_ms >= HOUR_MS);
    assert_eq!((message(&bench), bench.states.len()), (said, reports));
    bench.around.people = active(1);
    bench.go_until(|bench| message(bench).contains("1 person is logged on"));

    bench.around.people = Some(People { active: 0, disconnected: 2 });
    let took = until_the_restart(&mut bench);
    assert!(took <= 2 * MINUTE_MS, "{took}: who left a session open is not waited for");
    assert_eq!((bench.announced, bench.reboots_made()), (1, 1));
    bench.around.people = Some(People::NOBODY);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded);
}

#[test]
fn the_deadline_ends_the_wait_after_one_more_countdown() {
    let mut bench = with_people(active(1));
    let took = until_the_restart(&mut bench);
    assert_eq!(took, 2 * HOUR_MS + MINUTE_MS);
    assert_eq!((bench.announced, bench.asked_to_leave), (1, 2), "reminded once an hour");
    assert_eq!(bench.forced, [false], "nothing is ended unless the rollout says so");
}

#[test]
fn windows_that_does_not_tell_who_is_there_is_taken_for_somebody() {
    let mut bench = with_people(None);
    bench.go_until(waits);
    assert!(message(&bench).contains("does not tell who is logged on"), "{}", message(&bench));
    assert!(until_the_restart(&mut bench) > HOUR_MS);

    // Where the question is never answered, nothing is known at all.
    let mut bench = with_people(active(0));
    bench.is_silent = true;
    bench.go_until(waits);
    assert!(message(&bench).contains("does not tell whether it is plugged in"));
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(
        (bench.outcomes[0].reason.as_deref(), bench.reboots_made()),
        (Some("FinishByPassed"), 0)
    );
}

#[test]
fn whoever_comes_during_the_countdown_is_waited_for_too() {
    let mut bench = with_people(active(0));
    bench.go_until(|bench| bench.announced == 1);
    bench.around.people = active(1);
    bench.go_until(waits);
    assert_eq!(bench.reboots_made(), 0);
    bench.around.people = active(0);
    bench.go_until(|bench| bench.is_down);
    assert_eq!(bench.announced, 2, "with a countdown of its own");
}

#[test]
fn a_rollout_that_waits_for_nobody_restarts_at_once() {
    let mut bench = Bench { around: among(active(3)), ..Bench::new() };
    let mut job = bench.job(1, Action::Install);
    job.reboot.wait_ms = 0;
    job.reboot.force = true;
    bench.take(Event::Offered(Box::new(job)));
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    assert_eq!(until_the_restart(&mut bench), MINUTE_MS);
    assert_eq!((bench.asked_to_leave, bench.announced), (0, 1));
    assert_eq!(bench.forced, [true]);
}

#[test]
fn neither_a_moved_clock_nor_a_restarted_agent_brings_the_deadline_forward() {
    let mut bench = with_people(active(1));
    bench.go_until(|bench| bench.mono_ms >= HOUR_MS);
    bench.wall += SignedDuration::from_hours(9);
    bench.start(false);
    let took = until_the_restart(&mut bench);
    // The minute in which the agent was away does not count.
    assert!((HOUR_MS..=HOUR_MS + 3 * MINUTE_MS).contains(&took), "{took}");
}

#[test]
fn hours_asleep_are_no_time_in_which_people_were_asked() {
    let mut bench = with_people(active(1));
    bench.go_until(waits);
    bench.advance(5 * HOUR_MS);
    let took = until_the_restart(&mut bench);
    assert!(took > HOUR_MS + 50 * MINUTE_MS, "{took}");
}

#[test]
fn a_first_restart_waits_for_people_too_and_then_clears_the_way() {
    let around = among(active(1));
    let mut bench = Bench { around, pending_reboot: true, ..Bench::new() };
    let mut job = bench.job(1, Action::Install);
    job.preflight.reboot_first = true;
    bench.take(Event::Offered(Box::new(job)));
    bench.go_until(waits);
    assert_eq!((phase(&bench), bench.reboots_made()), ("RebootFirst", 0));
    bench.go_until(|bench| bench.mono_ms >= HOUR_MS);
    assert_eq!((phase(&bench), waits(&bench), bench.reboots_made()), ("RebootFirst", true, 0));
    bench.around.people = active(0);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded);
    assert_eq!(bench.reboots_made(), 2);
}

#[test]
fn an_agent_that_dies_at_any_journal_write_waits_for_people_all_the_same() {
    let story = |die_at: usize| {
        let mut bench = with_people(active(1));
        let (begun, mut written) = (bench.mono_ms, 0);
        while !bench.is_down {
            written += 1;
            if written == die_at {
                bench.without_effects();
                bench.start(false);
            } else {
                bench.go_on();
            }
        }
        let waited = bench.mono_ms - begun;
        bench.around.people = active(0);
        bench.go_until(|bench| bench.state.job.is_none());
        (bench, written, waited)
    };
    let (_, writes, undisturbed) = story(usize::MAX);
    assert!(writes > 100, "{writes}");
    for die_at in 1..=writes {
        let (bench, _, waited) = story(die_at);
        assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded, "died at write {die_at}");
        assert_eq!(bench.reboots_made(), 1, "died at write {die_at}");
        let bounds = 2 * HOUR_MS..=undisturbed + 4 * MINUTE_MS;
        assert!(bounds.contains(&waited), "died at write {die_at}: {waited} of {undisturbed}");
    }
}

#[test]
fn a_job_that_ends_before_the_deadline_says_so_and_does_not_restart() {
    let mut bench = Bench { around: among(active(1)), ..Bench::new() };
    let mut job = bench.job(1, Action::Install);
    job.finish_by = bench.wall + SignedDuration::from_hours(1);
    bench.take(Event::Offered(Box::new(job)));
    bench.go_until(waits);
    assert!(message(&bench).contains("the job ends at 03:00 UTC without a restart"));
    bench.go_until(|bench| bench.state.job.is_none());
    let outcome = &bench.outcomes[0];
    assert_eq!(outcome.reason.as_deref(), Some("FinishByPassed"));
    assert_eq!(bench.reboots_made(), 0);
}

#[test]
fn a_persons_own_restart_is_the_restart_and_nobody_waits_any_more() {
    let mut bench = with_people(active(1));
    bench.go_until(waits);
    bench.boot_now(BootKind::Foreign);
    bench.go_until(|bench| bench.state.job.is_none());
    let outcome = &bench.outcomes[0];
    assert_eq!((outcome.result, outcome.reboots), (OutcomeResult::Succeeded, 0));
    assert_eq!(bench.reboots_made(), 0);
}

#[test]
fn a_device_that_somebody_switches_off_while_it_waits_is_proven_when_it_is_back() {
    let mut bench = with_people(active(1));
    bench.go_until(waits);
    bench.boot_now(BootKind::Foreign);
    bench.advance(9 * HOUR_MS);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded);
}

/// A device that goes down half a minute after the order.
fn in_its_grace() -> Bench {
    let mut bench = Bench { grace_ms: 30_000, ..Bench::new() };
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| bench.is_ending);
    bench
}

#[test]
fn a_halt_during_the_grace_takes_the_restart_back() {
    let mut bench = in_its_grace();
    bench.permits = (0..5).map(|_| refused("RolloutStopped", MINUTE_MS)).collect();
    bench.go_until(|bench| bench.taken_back == 1);
    assert_eq!((phase(&bench), bench.reboots_made()), ("AwaitingReboot", 0));
    assert_eq!(message(&bench), "refused: RolloutStopped");
    bench.go_until(|bench| bench.permits.is_empty());
    assert_eq!(bench.reboots_made(), 0);
    // It goes on: people are warned anew, and it is still the same restart.
    let announced = bench.announced;
    bench.go_until(|bench| bench.state.job.is_none());
    let outcome = &bench.outcomes[0];
    assert_eq!((outcome.result, outcome.reboots), (OutcomeResult::Succeeded, 1));
    assert_eq!((bench.announced, bench.reboots_made()), (announced + 1, 1));
}

#[test]
fn an_abort_during_the_grace_ends_the_job_without_a_restart() {
    let mut bench = in_its_grace();
    bench.permits.push_back(ended_because("AbortedByPerson"));
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].reason.as_deref(), Some("AbortedByPerson"));
    assert_eq!((bench.taken_back, bench.reboots_made()), (1, 0));
}

#[test]
fn gateways_that_fall_silent_during_the_grace_take_nothing_back() {
    for answer in [None, Some(PermitAnswer::Granted)] {
        let mut bench = in_its_grace();
        bench.permits = (0..9).map(|_| answer.clone()).collect();
        bench.go_until(|bench| bench.is_down);
        assert!((bench.taken_back, bench.reboots_made()) == (0, 1), "{answer:?}");
        assert!(bench.permits.len() < 9, "it asked again");
    }
}

#[test]
fn a_restart_waits_for_the_end_of_the_active_hours_and_not_beyond_its_deadline() {
    let mut bench = with_people(active(0));
    bench.around.active_until = Some(17);
    bench.go_until(waits);
    let said = "waiting: its active hours last until 17:00 by its own clock; restarts by 04:00 UTC";
    assert!(message(&bench).starts_with(said), "{}", message(&bench));
    bench.go_until(|bench| bench.mono_ms >= HOUR_MS);
    bench.around.active_until = None;
    assert!(until_the_restart(&mut bench) <= 3 * MINUTE_MS);

    let mut bench = with_people(active(0));
    bench.around.active_until = Some(17);
    assert!((2 * HOUR_MS..=2 * HOUR_MS + 2 * MINUTE_MS).contains(&until_the_restart(&mut bench)));
}

fn battery() -> Surroundings {
    Surroundings { power: Power::Battery(Some(43)), ..Surroundings::CLEAR }
}

fn with_pin() -> Surroundings {
    let startup = Startup::Attended(vec!["TpmAndPin".to_owned()]);
    Surroundings { startup, ..Surroundings::CLEAR }
}

#[test]
fn nothing_is_begun_on_battery_or_where_a_person_must_be_there_or_nobody_knows() {
    let unknown_power = Surroundings { power: Power::Unknown, ..Surroundings::CLEAR };
    let startup = Startup::Unknown("access denied".to_owned());
    let unknown_startup = Surroundings { startup, ..Surroundings::CLEAR };
    for (around, reason, said) in [
        (battery(), "OnBattery", "the device runs on its battery (43 % left)"),
        (unknown_power, "OnBattery", "does not tell whether it is plugged in"),
        (
            with_pin(),
            "AttendedBoot",
            "BitLocker would wait for a person at the next start (TpmAndPin)",
        ),
        (unknown_startup, "AttendedBoot", "starts without a person: access denied"),
    ] {
        let mut bench = Bench { around: around.clone(), ..Bench::new() };
        let outcome = bench.carry_out_job(bench.job(1, Action::Install));
        assert_eq!(
            (outcome.result, outcome.reason.as_deref()),
            (OutcomeResult::NotStarted, Some(reason))
        );
        assert!(outcome.message.contains(said), "{}", outcome.message);
        assert_eq!((bench.installs_begun(), bench.reboots_made()), (0, 0));

        // A pending restart is not cleared there, either.
        let mut bench = Bench { around: around.clone(), pending_reboot: true, ..Bench::new() };
        let mut job = bench.job(1, Action::Install);
        job.preflight.reboot_first = true;
        assert_eq!(bench.carry_out_job(job).reason.as_deref(), Some(reason));
        assert_eq!(bench.reboots_made(), 0);

        // The rollout may say that it does not matter, and a download harms nobody.
        let mut bench = Bench { around, ..Bench::new() };
        let mut job = bench.job(1, Action::Install);
        job.preflight.ignore_battery = reason == "OnBattery";
        job.preflight.ignore_attended_boot = reason == "AttendedBoot";
        bench.is_careless = true;
        assert_eq!(bench.carry_out_job(job).result, OutcomeResult::Succeeded);
        let download = bench.carry_out_job(bench.job(2, Action::Download));
        assert_eq!(download.result, OutcomeResult::AlreadyInstalled);
    }
}

#[test]
fn a_restart_waits_for_power_and_for_whoever_knows_the_pin_whatever_the_deadline() {
    for around in [battery(), with_pin()] {
        let mut bench = with_people(active(0));
        bench.around = around;
        bench.go_until(waits);
        bench.go_until(|bench| bench.mono_ms >= 5 * HOUR_MS);
        assert_eq!((bench.reboots_made(), bench.announced, waits(&bench)), (0, 0, true));
        bench.around = Surroundings::CLEAR;
        assert!(until_the_restart(&mut bench) <= 3 * MINUTE_MS);
    }
}

#[test]
fn a_windows_that_stops_telling_whether_it_needs_a_person_holds_up_nothing_for_ever() {
    let startup = Startup::Unknown("WMI is broken".to_owned());
    let unknown = Surroundings { startup, ..Surroundings::CLEAR };
    let mut bench = with_people(active(0));
    bench.around = unknown.clone();
    bench.go_until(waits);
    assert!(message(&bench).contains("; restarts by 04:"), "{}", message(&bench));
    let took = until_the_restart(&mut bench);
    assert!((2 * HOUR_MS..2 * HOUR_MS + 5 * MINUTE_MS).contains(&took), "{took}");
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded);

    // A rollback waits as long before it removes anything, also where people are not waited for.
    let mut job = bench.job(2, Action::Rollback);
    job.reboot.wait_ms = 0;
    let begun = bench.mono_ms;
    bench.take(Event::Offered(Box::new(job)));
    bench.go_until(|bench| bench.removals == 1);
    assert!(bench.mono_ms - begun >= 2 * HOUR_MS);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[1].result, OutcomeResult::RolledBack);
}

#[test]
fn a_rollback_waits_for_power_before_it_removes_anything() {
    let mut bench = Bench::new();
    bench.carry_out_job(bench.job(1, Action::Install));
    bench.around = battery();
    bench.take(Event::Offered(Box::new(bench.job(2, Action::Rollback))));
    bench.go_until(waits);
    assert_eq!(bench.removals, 0);
    bench.around = Surroundings::CLEAR;
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[1].result, OutcomeResult::RolledBack);

    bench.around = battery();
    bench.carry_out_job(bench.job(3, Action::Rollback));
    let end = bench.outcomes[2].clone();
    assert_eq!(
        (end.result, end.reason.as_deref()),
        (OutcomeResult::NotStarted, Some("StartByPassed"))
    );
}
