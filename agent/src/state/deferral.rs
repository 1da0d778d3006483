//! Asking people whether a restart may come now, and how often they may put it off.
//!
//! Nothing in here brings a restart forward under somebody who did not agree to it: a "later" buys a part
//! of the time that is left until the deadline, and the deadline alone ends the wait. All times are
//! counted as the deadline is, so that neither a moved clock nor a restarted agent makes more or fewer.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::surroundings::{self, LOOK_EVERY_MS, REMIND_EVERY_MS, Surroundings};
use super::{Ask, Awaits, JobRun, Move};

/// A question is open for so long: long enough to be seen by somebody who is busy, short enough that the
/// device soon looks again who is there.
const OPEN_MS: u64 = 5 * 60_000;
/// So much later whoever asks has no answer; by itself the question ends with its time.
const SLACK_MS: u64 = 30_000;
/// Shortest time between two questions, however little is left until the deadline.
const SHORTEST_MS: u64 = 15 * 60_000;
/// The countdown begins so soon after an agreement, or there was none: a device that slept in between, or
/// whose agent stood still, wakes up under somebody who expects nothing.
const AGREED_FOR_MS: u64 = 2 * 60_000;

/// What people who work at the device are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Text of the rollout, if it has one.
    pub message: Option<String>,
    /// The countdown that begins when they agree, milliseconds.
    pub countdown_ms: u64,
    /// How long the question is open, milliseconds.
    pub open_ms: u64,
    /// When they are asked again if they put the restart off, milliseconds from now; never where that is
    /// the last time.
    pub again_ms: Option<u64>,
    /// When the restart waits for them no longer, milliseconds from now.
    pub within_ms: u64,
}

/// What they answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Everybody agrees who works in these sessions, and they are all that were asked.
    Now(BTreeSet<u32>),
    /// Somebody puts the restart off.
    Later,
    /// Nobody puts it off, and not everybody agrees.
    Nothing,
}

/// An agreement to the restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agreement {
    /// The sessions of those who agreed.
    sessions: BTreeSet<u32>,
    /// When, on this run's clock.
    at_mono_ms: u64,
}

/// How often people may still put the restart of this job off. Nobody is asked about a rollback that the
/// device began by itself: it is in need of it.
fn left(job: &JobRun) -> u8 {
    let deferrals = job.payload.reboot.deferrals;
    let left = deferrals.saturating_sub(job.waiting.deferred);
    if job.own_rollback.is_some() { 0 } else { left }
}

/// The part of the time until the deadline that one "later" buys.
fn share(left_ms: u64, deferrals: u8) -> u64 {
    (left_ms / u64::from(deferrals.max(1))).max(SHORTEST_MS)
}

/// The same where nobody answers: they are asked again as often as people are reminded without deferrals.
fn unanswered(share_ms: u64) -> u64 {
    share_ms.min(REMIND_EVERY_MS)
}

/// Whether all who are there agreed a moment ago. Who came since was not asked.
pub(super) fn is_agreed(mv: &Move, job: &JobRun, seen: &Surroundings) -> bool {
    let Some((agreement, people)) = job.waiting.agreed.as_ref().zip(seen.people) else {
        return false;
    };
    let since = mv.now.mono_ms.saturating_sub(agreement.at_mono_ms);
    // How long a countdown counts that is over, is decided with the permit.
    (job.warned_mono_ms.is_some() || since <= AGREED_FOR_MS)
        && u32::try_from(seen.sessions.len()) == Ok(people.active)
        && seen.sessions.is_subset(&agreement.sessions)
}

/// What a device that waits for people does about them.
pub(super) enum Turn {
    /// They cannot put the restart off, or not any more.
    Told,
    /// They are asked again after so many milliseconds.
    Waits(u64),
    /// They are asked now.
    Asks(Question),
}

/// What is left of the time until the deadline in which a yes still comes before the end of the job.
fn within_job(mv: &Move, job: &JobRun, left_ms: u64) -> u64 {
    let job_ms = job.payload.finish_by.duration_since(mv.now.wall).as_millis();
    let job_ms = u64::try_from(job_ms).unwrap_or(0);
    left_ms.min(job_ms.saturating_sub(job.payload.reboot.countdown_ms))
}

/// Whose turn it is, where people alone are in the way for `left_ms` at the most.
pub(super) fn turn(mv: &Move, job: &JobRun, left_ms: u64) -> Turn {
    let deferrals = left(job);
    let countdown_ms = job.payload.reboot.countdown_ms;
    let left_ms = within_job(mv, job, left_ms);
    let in_ms = job.waiting.ask_at_ms.saturating_sub(job.waiting.waited_ms);
    if deferrals == 0 || in_ms + LOOK_EVERY_MS >= left_ms {
        return Turn::Told;
    }
    if in_ms > 0 {
        return Turn::Waits(in_ms);
    }
    let rules = &job.payload.reboot;
    let again_ms = share(left_ms, deferrals);
    Turn::Asks(Question {
        message: rules.message.clone(),
        countdown_ms,
        open_ms: OPEN_MS.min(left_ms),
        again_ms: Some(again_ms).filter(|again| deferrals > 1 && again + LOOK_EVERY_MS < left_ms),
        within_ms: left_ms,
    })
}

impl Turn {
    pub(super) fn into_question(self) -> Option<Question> {
        match self {
            Turn::Asks(question) => Some(question),
            Turn::Told | Turn::Waits(_) => None,
        }
    }
}

/// How people stand to the restart, to follow the sentence that they are there.
pub(super) fn note(mv: &Move, job: &mut JobRun, turn: &Turn) -> String {
    let waiting = &mut job.waiting;
    let often = match waiting.deferred {
        0 => String::new(),
        times => format!("; put off {times} of {} times", job.payload.reboot.deferrals),
    };
    waiting.asks_at = match turn {
        Turn::Waits(in_ms) => Some(surroundings::about(mv, waiting.asks_at, *in_ms)),
        Turn::Told | Turn::Asks(_) => None,
    };
    let next = match (turn, waiting.asks_at) {
        (Turn::Asks(_), _) => "; asks now".to_owned(),
        (_, Some(at)) => format!("; asks again at {}", surroundings::clock(at, mv.now.wall)),
        _ => String::new(),
    };
    often + &next
}

/// Asks people, on the spot and for a while; everything that ends a wait for time ends this one, too.
pub(super) fn ask(mv: &mut Move, job: &mut JobRun, question: Question) {
    // An agent that is started anew meanwhile cannot hear the answer, and does not ask at every start.
    job.waiting.ask_at_ms =
        job.waiting.waited_ms + unanswered(share(question.within_ms, left(job)));
    let limit_ms = question.open_ms + SLACK_MS;
    mv.ask(job, Ask::AskPeople { question }, limit_ms);
    job.awaits = Awaits::People;
}

/// Takes an answer into account; whoever calls looks who is there next.
pub(super) fn replied(mv: &Move, job: &mut JobRun, reply: Reply) {
    surroundings::count(mv, job, OPEN_MS + 2 * LOOK_EVERY_MS);
    let waiting = &mut job.waiting;
    waiting.seen_mono_ms = Some(mv.now.mono_ms);
    // They have just heard how long it waits.
    waiting.told_mono_ms = Some(mv.now.mono_ms);
    let left_ms = job.payload.reboot.wait_ms.saturating_sub(waiting.waited_ms);
    let left_ms = within_job(mv, job, left_ms);
    let share_ms = share(left_ms, left(job));
    let waiting = &mut job.waiting;
    match reply {
        Reply::Now(sessions) => {
            // Whatever comes between: nobody is asked again at once.
            waiting.ask_at_ms = waiting.waited_ms + SHORTEST_MS;
            waiting.agreed = Some(Agreement { sessions, at_mono_ms: mv.now.mono_ms });
        }
        Reply::Later => {
            waiting.deferred = waiting.deferred.saturating_add(1);
            waiting.ask_at_ms = waiting.waited_ms + share_ms;
        }
        Reply::Nothing => waiting.ask_at_ms = waiting.waited_ms + unanswered(share_ms),
    }
}
