//! What an administrator reads of a job in the event log.

use wardring_seal::{Action, OutcomeResult};

use super::bench::Bench;
use super::*;
use crate::milestone::{Milestone, passed};

/// Carries out a job and returns what an administrator reads of it.
fn read_of(action: Action, sequence: i64, bench: &mut Bench) -> Vec<(Milestone, String)> {
    let payload = bench.job(sequence, action);
    let mut read = Vec::new();
    let mut before = bench.state.clone();
    bench.take(Event::Offered(Box::new(payload)));
    loop {
        read.extend(passed(&before, &bench.state));
        before = bench.state.clone();
        if bench.state.job.is_none() || !bench.go_on() {
            return read;
        }
    }
}

#[test]
fn a_patch_and_its_rollback_read_like_a_story() {
    let mut bench = Bench::new();
    let read = read_of(Action::Install, 1, &mut bench);
    let kinds: Vec<Milestone> = read.iter().map(|(milestone, _)| *milestone).collect();
    let whole =
        [Milestone::JobAccepted, Milestone::Installed, Milestone::Rebooting, Milestone::Outcome];
    assert_eq!(kinds, whole, "{read:#?}");
    assert!(read[0].1.contains("Install of KB1, attempt 1"), "{read:#?}");
    assert!(read[1].1.starts_with("KB1 was installed"), "{read:#?}");
    let ended = format!("rollout 2026-11, attempt 1, ended as {:?}: ", OutcomeResult::Succeeded);
    assert!(read[3].1.contains(&ended), "{read:#?}");

    let read = read_of(Action::Rollback, 2, &mut bench);
    assert!(read.iter().any(|(_, text)| text.starts_with("KB1 was removed")), "{read:#?}");
    assert!(read.last().unwrap().1.contains("RolledBack"), "{read:#?}");
}

#[test]
fn a_pause_and_its_end_are_told_and_one_that_lasts_is_not_told_again() {
    let mut bench = Bench::new();
    let pause = crate::pause::Pause::new("disk swap", None, bench.wall).unwrap();
    let mut told = Vec::new();
    for event in [Some(pause.clone()), Some(pause), None, None] {
        let before = bench.state.clone();
        bench.take(Event::Paused(event));
        told.extend(passed(&before, &bench.state));
    }
    let kinds: Vec<Milestone> = told.iter().map(|(milestone, _)| *milestone).collect();
    assert_eq!(kinds, [Milestone::Paused, Milestone::Resumed]);
    assert!(told[0].1.ends_with(": disk swap."), "{told:?}");
}

#[test]
fn nothing_is_told_twice() {
    let mut bench = Bench::new();
    read_of(Action::Install, 1, &mut bench);
    assert_eq!(passed(&bench.state, &bench.state), []);
    let again = bench.job(1, Action::Install);
    let now = Now { wall: bench.wall, mono_ms: bench.mono_ms };
    let (after, _) = step(&bench.state, now, Event::Offered(Box::new(again))).unwrap();
    assert_eq!(passed(&bench.state, &after), []);
}
