//! An administrator pauses the agent on the device.

use wardring_seal::{Action, AutonomousRollback, OutcomeResult};

use super::bench::{Bench, Script};
use super::stories::{install, phase, reason};
use super::*;
use crate::pause::Pause;

fn pause(bench: &mut Bench) {
    let pause = Pause::new("surgery", None, bench.wall).unwrap();
    bench.take(Event::Paused(Some(pause)));
}

fn resume(bench: &mut Bench) {
    bench.take(Event::Paused(None));
}

fn for_hours(bench: &mut Bench, hours: u64) {
    let until = bench.mono_ms + hours * 3_600_000;
    bench.go_until(|bench| bench.state.job.is_none() || bench.mono_ms >= until);
}

#[test]
fn a_paused_device_takes_no_job_and_says_who_paused_it_and_why() {
    for action in [Action::Install, Action::Download, Action::Rollback] {
        let mut bench = Bench::new();
        pause(&mut bench);
        let outcome = bench.carry_out_job(bench.job(1, action));
        assert_eq!(reason(&outcome), (OutcomeResult::NotStarted, Some("Paused")));
        let why = "an administrator paused the agent on the device at ";
        assert!(outcome.message.starts_with(why), "{}", outcome.message);
        assert!(outcome.message.ends_with(": surgery"), "{}", outcome.message);
        resume(&mut bench);
        let next = bench.carry_out_job(bench.job(2, Action::Install));
        assert_eq!(next.result, OutcomeResult::Succeeded, "{}", next.message);
    }
}

#[test]
fn wherever_a_job_is_nothing_more_begins_while_the_device_is_paused_and_it_ends_well_after() {
    // An update that asks for a restart before its next try is downloaded once more.
    let restarts_first = Script { failures: vec![0x8024_0016], ..Script::default() };
    let new = |first: &Script| {
        let mut bench = Bench::new().with("KB1", first.clone()).with("KB2", Script::default());
        bench.grace_ms = 30_000;
        bench
    };
    let plain = Script::default();
    for (is_rollback, first) in [(false, &plain), (true, &plain), (false, &restarts_first)] {
        for steps in 0.. {
            let mut bench = new(first);
            if is_rollback {
                assert_eq!(install(&mut bench).result, OutcomeResult::Succeeded);
            }
            let action = if is_rollback { Action::Rollback } else { Action::Install };
            let mut job = bench.job(2, action);
            job.preflight.reboot_first = true;
            bench.take(Event::Offered(Box::new(job)));
            (0..steps).for_each(|_| {
                bench.go_on();
            });
            let before =
                |bench: &Bench| (bench.installs_begun(), bench.removals, bench.reboots_made());
            let (counts, at) = (before(&bench), phase(&bench));
            if at == "Idle" {
                break;
            }
            pause(&mut bench);
            for_hours(&mut bench, 3);
            assert_eq!(before(&bench), counts, "{at} after {steps} steps");
            // It is a matter of the file, not of this run of the agent.
            if bench.state.job.is_some() {
                bench.start(false);
                for_hours(&mut bench, 3);
                assert_eq!(before(&bench), counts, "{at} after {steps} steps, in another run");
            }
            resume(&mut bench);
            bench.go_until(|bench| bench.state.job.is_none());
            let outcome = bench.outcomes.last().unwrap();
            let begun = if is_rollback { counts.1 > 0 } else { counts.0 > 0 };
            let good =
                if is_rollback { OutcomeResult::RolledBack } else { OutcomeResult::Succeeded };
            match (begun, reason(outcome)) {
                (false, (OutcomeResult::NotStarted, Some("Paused"))) => {}
                (_, (result, _)) => assert_eq!(result, good, "{at}, {steps}: {}", outcome.message),
            }
        }
    }
}

#[test]
fn a_countdown_ends_a_restart_under_way_is_taken_back_and_people_are_warned_anew() {
    let mut bench = Bench::new();
    bench.grace_ms = 30_000;
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "Rebooting");
    let warned = bench.announced;
    pause(&mut bench);
    assert_eq!((bench.taken_back, phase(&bench)), (1, "AwaitingReboot"));
    let message = bench.state.job.as_ref().unwrap().message.clone();
    assert!(message.starts_with("waiting: an administrator paused the agent"), "{message}");
    for_hours(&mut bench, 2);
    assert_eq!((bench.announced, bench.reboots_made()), (warned, 0), "nobody is warned of nothing");
    resume(&mut bench);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded);
    assert_eq!((bench.announced, bench.reboots_made()), (warned + 1, 1));
}

#[test]
fn what_an_administrator_stops_during_a_pause_is_neither_started_nor_held_against_the_update() {
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "Verifying");
    pause(&mut bench);
    bench.service = ServiceState::Stopped;
    for_hours(&mut bench, 2);
    assert_eq!((phase(&bench), bench.restarts_of_service), ("Verifying", 0));
    bench.service = ServiceState::Running;
    resume(&mut bench);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded);
}

#[test]
fn the_clock_of_a_job_stands_during_a_pause_and_a_restart_that_came_too_late_is_nobodys_failure() {
    let until = |wanted: &'static str| {
        let mut bench = Bench::new();
        bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
        bench.go_until(|bench| phase(bench) == wanted);
        pause(&mut bench);
        bench.service = ServiceState::Stopped;
        (0..3).for_each(|_| for_hours(&mut bench, 10));
        assert_eq!((phase(&bench), bench.restarts_of_service), (wanted, 0), "the time is over");
        bench
    };
    // It is installed and in force: whether the device is healthy needs no more time of the job.
    let mut bench = until("Verifying");
    bench.service = ServiceState::Running;
    resume(&mut bench);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded);

    let mut bench = until("AwaitingReboot");
    resume(&mut bench);
    bench.go_until(|bench| bench.state.job.is_none());
    let outcome = &bench.outcomes[0];
    assert_eq!(reason(outcome), (OutcomeResult::Failed, Some("Paused")));
    assert!(outcome.started && bench.reboots_made() == 0, "{}", outcome.message);
}

#[test]
fn a_job_that_waits_goes_on_the_moment_the_pause_is_over() {
    let mut bench = Bench::new();
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    pause(&mut bench);
    bench.advance(1_000);
    bench.asked.clear();
    resume(&mut bench);
    let asks = |(_, _, ask): &(u64, u64, Ask)| matches!(ask, Ask::LookAround { .. });
    assert!(bench.asked.iter().any(asks), "{:?}", bench.asked);
    // What waits for something else is not hurried.
    resume(&mut bench);
    assert_eq!(bench.asked.iter().filter(|ask| asks(ask)).count(), 1);
}

#[test]
fn a_paused_device_takes_nothing_back_by_itself() {
    let rules = AutonomousRollback { boot_loop: true, network_lost: None };
    for is_paused in [false, true] {
        let script = Script { crashes: 2, ..Script::default() };
        let mut bench =
            Bench { autonomous: Some(rules.clone()), ..Bench::new() }.with("KB1", script);
        bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
        bench.go_until(|bench| bench.is_down);
        if is_paused {
            bench.state.paused = Some(Pause::new("", None, bench.wall).unwrap());
        }
        bench.go_until(|bench| bench.state.job.is_none());
        assert_eq!(bench.removals, u32::from(!is_paused), "{}", bench.outcomes[0].message);
        assert_eq!(bench.outcomes[0].message.contains("an administrator paused"), is_paused);
    }
}
