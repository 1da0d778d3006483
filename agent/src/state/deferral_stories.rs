//! Stories of people who are asked whether their device may restart.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use proptest::prelude::*;
use wardring_seal::{Action, OutcomeResult};

use super::bench::{Bench, Says, ended_because, refused};
use super::*;
use crate::pause::Pause;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

fn phase(bench: &Bench) -> &'static str {
    bench.state.job.as_ref().map_or("Idle", |job| job.phase.word())
}

fn message(bench: &Bench) -> &str {
    bench.state.job.as_ref().map_or("", |job| job.message.as_str())
}

fn among(active: u32) -> Surroundings {
    let people = Some(People { active, disconnected: 0 });
    Surroundings { people, ..Surroundings::CLEAR }
}

fn deferred(bench: &Bench) -> u8 {
    bench.state.job.as_ref().unwrap().waiting.deferred
}

/// One person works on a device whose restart may be put off so often; what she says to the questions, each
/// after so many minutes.
fn asked(deferrals: u8, replies: &[(Says, u64)]) -> Bench {
    among_people(1, deferrals, replies)
}

fn among_people(active: u32, deferrals: u8, replies: &[(Says, u64)]) -> Bench {
    let replies = replies.iter().map(|(says, minutes)| (*says, minutes * MINUTE_MS));
    let (around, replies) = (among(active), replies.collect());
    let mut bench = Bench { around, deferrals, replies, ..Bench::new() };
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    bench
}

fn is_open(bench: &Bench) -> bool {
    bench
        .asked
        .iter()
        .any(|(_, turn, ask)| *turn == bench.state.turn && matches!(ask, Ask::AskPeople { .. }))
}

/// Goes on until the restart; how long it took.
fn until_the_restart(bench: &mut Bench) -> u64 {
    let begun = bench.mono_ms;
    bench.go_until(|bench| bench.is_down);
    assert!(bench.is_down, "it never restarts: {}", message(bench));
    bench.mono_ms - begun
}

/// Minutes after the first question at which people were asked.
fn asked_at(bench: &Bench) -> Vec<u64> {
    let first = bench.questions[0].0;
    bench.questions.iter().map(|(at, _)| (at - first) / MINUTE_MS).collect()
}

#[test]
fn without_deferrals_nobody_is_asked() {
    let mut bench = asked(0, &[(Says::Now, 0)]);
    let took = until_the_restart(&mut bench);
    assert_eq!((took, bench.questions.len()), (2 * HOUR_MS + MINUTE_MS, 0));
}

#[test]
fn a_yes_begins_the_countdown_and_the_permit_still_comes_at_its_end() {
    let mut bench = asked(3, &[(Says::Now, 2)]);
    bench.go_until(is_open);
    assert_eq!(
        message(&bench),
        "waiting: 1 person is logged on; asks now; restarts by 04:00 UTC at the latest"
    );
    let permits = bench.permits_asked;
    let took = until_the_restart(&mut bench);
    assert_eq!(took, 3 * MINUTE_MS, "two to think, and the whole countdown");
    assert_eq!((bench.announced, bench.permits_asked - permits), (1, 1));
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded);
}

#[test]
fn each_later_buys_its_part_of_the_time_that_is_left_and_the_last_one_all_of_it() {
    let mut bench = asked(3, &[(Says::Later, 0), (Says::Later, 0), (Says::Later, 0)]);
    bench.go_until(|bench| message(bench).contains("put off 1"));
    assert_eq!(
        message(&bench),
        "waiting: 1 person is logged on; put off 1 of 3 times; asks again at 02:40 UTC; restarts by 04:00 UTC \
         at the latest"
    );
    // It says the same as long as it waits, so that nobody is written to every minute.
    let reports = bench.states.len();
    bench.go_until(|bench| bench.questions.len() == 2);
    assert_eq!(bench.states.len(), reports + 1, "that it asks again");
    bench.go_until(|bench| message(bench).contains("put off 3"));
    assert_eq!(
        message(&bench),
        "waiting: 1 person is logged on; put off 3 of 3 times; restarts by 04:00 UTC at the latest"
    );
    bench.go_until(|bench| bench.is_down);
    assert_eq!(asked_at(&bench), [0, 40, 80]);
    let again = |at: usize| bench.questions[at].1.again_ms.map(|ms| ms / MINUTE_MS);
    assert_eq!([again(0), again(1), again(2)], [Some(40), Some(40), None], "each was told when");
    assert_eq!((bench.announced, bench.put_off), (1, 3), "one whole countdown at the end");
    assert!((120..=122).contains(&(bench.mono_ms / MINUTE_MS)), "{}", bench.mono_ms);
}

#[test]
fn nobody_who_answers_uses_up_nothing_and_is_asked_again_after_an_hour_at_the_most() {
    let mut bench = asked(2, &[(Says::Nothing, 9), (Says::Later, 1), (Says::Now, 1)]);
    bench.go_until(|bench| message(bench).contains("asks again"));
    let said = "waiting: 1 person is logged on; asks again at 03:0";
    assert!(message(&bench).starts_with(said), "{}", message(&bench));
    assert_eq!(deferred(&bench), 0);
    bench.go_until(|bench| bench.questions.len() == 2);
    assert!((62..=65).contains(&asked_at(&bench)[1]), "{:?}", asked_at(&bench));
    bench.go_until(|bench| bench.questions.len() == 3);
    assert_eq!(deferred(&bench), 1);
    until_the_restart(&mut bench);
    assert!(bench.mono_ms < 2 * HOUR_MS, "she agreed before the deadline");
}

#[test]
fn whoever_leaves_while_she_is_asked_or_between_is_waited_for_no_longer() {
    let mut bench = asked(3, &[(Says::Nothing, 4)]);
    bench.go_until(is_open);
    bench.around.people = Some(People { active: 0, disconnected: 1 });
    assert!(until_the_restart(&mut bench) <= 6 * MINUTE_MS);
    let mut bench = asked(3, &[(Says::Later, 0)]);
    bench.go_until(|bench| message(bench).contains("put off 1"));
    bench.around.people = Some(People::NOBODY);
    assert!(until_the_restart(&mut bench) <= 2 * MINUTE_MS);
}

#[test]
fn whoever_comes_after_the_yes_of_another_is_asked_too() {
    for sessions in [BTreeSet::from([1, 2]), BTreeSet::from([2])] {
        let mut bench = asked(3, &[(Says::Now, 0), (Says::Later, 0), (Says::Now, 0)]);
        bench.go_until(|bench| bench.announced == 1);
        // Somebody else sits down there, beside the first one or in her place.
        bench.around = Surroundings {
            sessions: sessions.clone(),
            ..among(u32::try_from(sessions.len()).unwrap())
        };
        bench.go_until(|bench| bench.questions.len() == 2);
        assert_eq!(bench.reboots_made(), 0, "{sessions:?}");
        bench.go_until(|bench| message(bench).contains("put off 1"));
        until_the_restart(&mut bench);
        assert_eq!(bench.announced, 2, "with a countdown of its own");
        assert_eq!(asked_at(&bench)[..2], [0, 15], "not at once, {sessions:?}");
    }
}

#[test]
fn whoever_did_not_agree_has_the_whole_countdown_of_the_deadline() {
    let nobody = |times| vec![(Says::Nothing, 5 * MINUTE_MS); times];
    let replies = nobody(3).into_iter().chain([(Says::Now, MINUTE_MS)]).collect();
    let mut bench = Bench { around: among(1), deferrals: 3, replies, ..Bench::new() };
    let mut job = bench.job(1, Action::Install);
    job.reboot.countdown_ms = 40 * MINUTE_MS;
    bench.take(Event::Offered(Box::new(job)));
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    let begun = bench.mono_ms;
    // She agrees shortly before the deadline; somebody else comes in her countdown, in which the deadline ends.
    bench.go_until(|bench| bench.announced == 1);
    assert!(bench.mono_ms - begun > 80 * MINUTE_MS && bench.mono_ms - begun < 2 * HOUR_MS);
    bench.around = among(2);
    bench.go_until(|bench| bench.announced == 2);
    let announced = bench.mono_ms;
    until_the_restart(&mut bench);
    assert!(bench.mono_ms - announced >= 40 * MINUTE_MS);
    assert!(bench.mono_ms - begun <= 3 * HOUR_MS);
}

#[test]
fn active_hours_are_not_the_people_s_to_end() {
    let mut bench = asked(3, &[(Says::Now, 0)]);
    bench.go_until(is_open);
    bench.around.active_until = Some(17);
    bench.go_until(|bench| bench.mono_ms >= HOUR_MS);
    assert_eq!((bench.questions.len(), bench.announced), (1, 0), "a yes would change nothing");
    let said = "waiting: 1 person is logged on; restarts by 04:00 UTC";
    assert!(message(&bench).starts_with(said), "{}", message(&bench));
    // When they are over, people are asked about what is left.
    bench.around.active_until = None;
    bench.replies.push_back((Says::Now, 0));
    assert!(until_the_restart(&mut bench) <= 3 * MINUTE_MS);
    assert_eq!(bench.questions.len(), 2);
}

#[test]
fn nobody_is_asked_where_windows_does_not_tell_who_is_there_or_power_is_what_is_missing() {
    let unknown = Surroundings { people: None, ..Surroundings::CLEAR };
    let battery = Surroundings { power: Power::Battery(Some(43)), ..among(1) };
    for around in [unknown, battery] {
        let mut bench = asked(3, &[(Says::Now, 0)]);
        bench.around = around;
        bench.go_until(|bench| bench.mono_ms >= HOUR_MS);
        assert_eq!((bench.questions.len(), bench.reboots_made()), (0, 0));
    }
}

#[test]
fn a_yes_does_not_outlive_the_restart_that_it_was_given_for() {
    // Permits are refused for hours after it: who agreed then is asked again, and nobody is surprised.
    let mut bench = asked(3, &[(Says::Now, 0), (Says::Later, 0)]);
    bench.permits = (0..20).map(|_| refused("RolloutStopped", 5 * MINUTE_MS)).collect();
    bench.go_until(|bench| bench.questions.len() == 2);
    assert_eq!((bench.reboots_made(), bench.permits.len()), (0, 0));
    bench.go_until(|bench| message(bench).contains("put off 1"));

    // A device that slept right after it.
    let mut bench = asked(3, &[(Says::Now, 0), (Says::Later, 0)]);
    bench.go_until(is_open);
    bench.without_effects();
    bench.advance(3 * HOUR_MS);
    bench.start(false);
    bench.go_until(|bench| message(bench).contains("put off 1"));
    assert_eq!(bench.announced, 0);
    let mut bench = asked(3, &[(Says::Now, 0), (Says::Later, 0)]);
    bench.go_until(|bench| bench.agreed.is_some());
    bench.advance(3 * HOUR_MS);
    bench.go_until(|bench| message(bench).contains("put off 1"));
    assert_eq!(bench.announced, 0);
}

#[test]
fn a_halt_while_people_are_asked_acts_at_once_and_their_answer_comes_to_nothing() {
    let late = |bench: &mut Bench| {
        let open = bench.asked.iter().position(|(.., ask)| matches!(ask, Ask::AskPeople { .. }));
        let (_, turn, _) = bench.asked.remove(open.unwrap()).unwrap();
        let answer = Answer::PeopleSaid(Reply::Now(BTreeSet::from([1])));
        bench.take(Event::Answered { turn, answer });
    };
    // An administrator pauses the agent.
    let mut bench = asked(3, &[(Says::Later, 1)]);
    bench.go_until(is_open);
    let pause = Pause::new("surgery", None, bench.wall).unwrap();
    bench.take(Event::Paused(Some(pause)));
    assert!(message(&bench).starts_with("waiting: an administrator paused"), "{}", message(&bench));
    late(&mut bench);
    bench.go_until(|bench| bench.mono_ms >= HOUR_MS);
    assert_eq!((bench.announced, bench.questions.len()), (0, 1));
    bench.take(Event::Paused(None));
    bench.go_until(|bench| bench.questions.len() == 2);
    assert_eq!(deferred(&bench), 0);

    // The rollout is taken back, and the question was about its restart.
    let mut bench = asked(3, &[(Says::Now, 1)]);
    bench.go_until(is_open);
    bench.take(Event::Offered(Box::new(bench.job(2, Action::Rollback))));
    assert_eq!(bench.outcomes[0].reason.as_deref(), Some("NoSuchJob"));
    late(&mut bench);
    assert_ne!(phase(&bench), "AwaitingReboot");

    // A person aborts it: that is noticed before the restart, whatever people say.
    let mut bench = asked(3, &[(Says::Now, 0)]);
    bench.permits.push_back(ended_because("AbortedByPerson"));
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].reason.as_deref(), Some("AbortedByPerson"));
    assert_eq!(bench.reboots_made(), 0);
}

#[test]
fn an_answer_to_an_earlier_question_is_none_to_the_next() {
    let mut bench = asked(3, &[]);
    bench.go_until(is_open);
    let first = bench.state.turn;
    bench.go_until(|bench| bench.questions.len() == 2);
    for reply in [Reply::Later, Reply::Now(BTreeSet::from([1]))] {
        bench.take(Event::Answered { turn: first, answer: Answer::PeopleSaid(reply) });
        assert_eq!((deferred(&bench), is_open(&bench)), (0, true));
    }
}

#[test]
fn windows_that_never_answers_the_question_holds_up_nothing() {
    let mut bench = asked(3, &[]);
    bench.go_until(is_open);
    bench.is_silent = true;
    let begun = bench.mono_ms;
    bench.go_until(|bench| !is_open(bench));
    assert!(bench.mono_ms - begun <= 6 * MINUTE_MS);
    bench.is_silent = false;
    bench.asked.clear();
    bench.start(false);
    bench.replies.push_back((Says::Now, 0));
    until_the_restart(&mut bench);
}

#[test]
fn an_agent_that_dies_at_any_journal_write_neither_gains_nor_loses_a_deferral() {
    let story = |die_at: usize| {
        let mut bench = asked(2, &[(Says::Later, 1), (Says::Later, 1)]);
        let (begun, mut written) = (bench.mono_ms, 0);
        while !bench.is_down {
            written += 1;
            if written == die_at {
                bench.without_effects();
                bench.start(false);
            } else {
                bench.go_on();
            }
            let job = bench.state.job.as_ref();
            let counted = job.map_or(0, |job| u32::from(job.waiting.deferred));
            assert!(bench.is_down || counted == bench.put_off, "died at write {die_at}");
        }
        let waited = bench.mono_ms - begun;
        bench.around.people = Some(People::NOBODY);
        bench.go_until(|bench| bench.state.job.is_none());
        (bench, written, waited)
    };
    let (undisturbed, writes, long) = story(usize::MAX);
    assert!(writes > 100 && undisturbed.put_off == 2, "{writes}");
    for die_at in 1..=writes {
        let (bench, _, waited) = story(die_at);
        assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded, "died at write {die_at}");
        assert_eq!(bench.reboots_made(), 1, "died at write {die_at}");
        // A question that nobody heard the answer to comes later, perhaps with the deadline.
        assert!((1..=2).contains(&bench.put_off), "died at write {die_at}: {}", bench.put_off);
        let bounds = 2 * HOUR_MS..=long + 10 * MINUTE_MS;
        assert!(bounds.contains(&waited), "died at write {die_at}: {waited} of {long}");
    }
}

#[test]
fn a_first_restart_is_put_off_too_and_its_deferrals_are_not_those_of_the_next() {
    let mut bench = Bench { around: among(1), deferrals: 1, pending_reboot: true, ..Bench::new() };
    bench.replies = [(Says::Later, 0), (Says::Later, 0)].into();
    let mut job = bench.job(1, Action::Install);
    job.preflight.reboot_first = true;
    bench.take(Event::Offered(Box::new(job)));
    bench.go_until(|bench| bench.put_off == 1);
    assert_eq!(phase(&bench), "RebootFirst");
    bench.go_until(|bench| bench.put_off == 2);
    assert_eq!((phase(&bench), bench.reboots_made()), ("AwaitingReboot", 1));
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded);
}

fn says() -> impl Strategy<Value = (Says, u64)> {
    let says = prop_oneof![1 => Just(Says::Now), 4 => Just(Says::Later), 3 => Just(Says::Nothing)];
    (says, 0..9_u64)
}

proptest! {
    /// Whatever people say, and whenever: it does not restart under them before the deadline unless they
    /// agree, it does not wait beyond it, and it asks no more often than it was told to.
    #[test]
    fn the_deadline_bounds_whatever_people_say(
        deferrals in 0..=10_u8,
        deadline_min in 15..1_440_u64,
        replies in prop::collection::vec(says(), 0..40),
        active in 1..4_u32,
        clock_h in -30..30_i64,
    ) {
        let replies = replies.into_iter().map(|(says, minutes)| (says, minutes * MINUTE_MS)).collect();
        let mut bench = Bench { around: among(active), deferrals, replies, ..Bench::new() };
        let mut job = bench.job(1, Action::Install);
        job.finish_by = bench.wall + SignedDuration::from_hours(100);
        job.reboot.wait_ms = deadline_min * MINUTE_MS;
        bench.take(Event::Offered(Box::new(job)));
        bench.go_until(|bench| phase(bench) == "AwaitingReboot");
        let begun = bench.mono_ms;
        bench.wall += SignedDuration::from_hours(clock_h);
        let mut agreed = None;
        while !bench.is_down {
            agreed = bench.agreed.as_ref().map(|(at, _)| *at);
            prop_assert!(bench.go_on() && bench.state.job.is_some());
            prop_assert!(message(&bench).len() <= 200, "{}", message(&bench));
        }
        let took = bench.mono_ms - begun;
        prop_assert!(took <= (deadline_min + 5) * MINUTE_MS, "{took} of {deadline_min} min");
        prop_assert!(agreed.is_some_and(|at| bench.mono_ms - at <= 3 * MINUTE_MS) || took >= deadline_min * MINUTE_MS, "{took}");
        prop_assert!(bench.put_off <= u32::from(deferrals), "{} of {deferrals}", bench.put_off);
        prop_assert_eq!(bench.announced, 1);
        let apart = bench.questions.windows(2).map(|two| two[1].0 - two[0].0);
        prop_assert!(apart.clone().all(|ms| ms >= 15 * MINUTE_MS), "{:?}", apart.collect::<Vec<_>>());
    }
}

proptest! {
    /// People who agree, and are not the ones who are there when the countdown is over: each of them is asked,
    /// and all of that is time that they have had.
    #[test]
    fn the_deadline_bounds_people_who_come_and_go_and_agree_all_the_time(
        deferrals in 1..=10_u8,
        deadline_min in 15..600_u64,
        countdown_min in 1..45_u64,
        refused_every in 1..5_usize,
    ) {
        let mut bench = Bench { around: among(1), deferrals, ..Bench::new() };
        let mut job = bench.job(1, Action::Install);
        job.finish_by = bench.wall + SignedDuration::from_hours(100);
        job.reboot.wait_ms = deadline_min * MINUTE_MS;
        job.reboot.countdown_ms = countdown_min * MINUTE_MS;
        bench.take(Event::Offered(Box::new(job)));
        bench.go_until(|bench| phase(bench) == "AwaitingReboot");
        bench.replies = std::iter::repeat_n((Says::Now, 0), 99).collect();
        let (begun, mut announced) = (bench.mono_ms, bench.announced);
        while !bench.is_down {
            prop_assert!(bench.go_on() && bench.state.job.is_some());
            if bench.announced > announced {
                announced = bench.announced;
                // Somebody else has come in her place.
                bench.around.sessions = BTreeSet::from([announced + 1]);
                let is_due = (announced as usize).is_multiple_of(refused_every);
                if is_due && bench.permits.is_empty() {
                    bench.permits.push_back(refused("RolloutStopped", 5 * MINUTE_MS));
                }
            }
        }
        let took = bench.mono_ms - begun;
        let bound = deadline_min + 2 * countdown_min + 20;
        prop_assert!(took <= bound * MINUTE_MS, "{took} of {deadline_min} min");
    }
}

#[test]
fn nobody_is_asked_about_a_rollback_that_the_device_began_by_itself() {
    let mut bench = asked(3, &[]);
    bench.go_until(is_open);
    let own = OwnRollback {
        reason: "BootLoop".to_owned(),
        why: String::new(),
        kbs: BTreeSet::new(),
        boots: Vec::new(),
        reboots_before: 0,
        was: None,
    };
    bench.state.job.as_mut().unwrap().own_rollback = Some(own);
    bench.start(false);
    bench.go_until(|bench| bench.mono_ms >= 90 * MINUTE_MS || bench.is_down);
    assert_eq!((bench.questions.len(), bench.reboots_made()), (1, 0));
}

#[test]
fn an_agent_that_is_started_again_and_again_does_not_ask_at_every_start() {
    let mut bench = asked(3, &[]);
    bench.go_until(is_open);
    for _ in 0..5 {
        bench.start(false);
        let until = bench.mono_ms + 4 * MINUTE_MS;
        bench.go_until(|bench| bench.mono_ms >= until);
    }
    assert_eq!((bench.questions.len(), deferred(&bench)), (1, 0));
}

#[test]
fn nobody_is_asked_for_a_yes_that_comes_after_the_end_of_the_job() {
    let mut bench = Bench { around: among(1), deferrals: 3, ..Bench::new() };
    let mut job = bench.job(1, Action::Install);
    job.finish_by = bench.wall + SignedDuration::from_mins(3);
    bench.take(Event::Offered(Box::new(job)));
    bench.go_until(|bench| bench.state.job.is_none());
    let asked = &bench.questions;
    assert!(asked.iter().all(|(_, question)| question.open_ms <= 2 * MINUTE_MS), "{asked:?}");
    assert_eq!(bench.outcomes[0].reason.as_deref(), Some("FinishByPassed"));
}
