//! What a restart would be in the way of, and how long it waits for that.
//!
//! A restart waits for people, but not for ever: the rollout says how long. Time that it waited is
//! counted on a clock that nobody sets, and is kept when the agent is started anew, so that neither a
//! moved clock nor a restarted agent brings the deadline forward, or puts it off without end.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use wardring_seal::Preflight;

use super::deferral::{self, Agreement, Question, Turn};
use super::{Effect, JobRun, Move};

/// Pause between two looks at who is there.
pub(super) const LOOK_EVERY_MS: u64 = 60_000;
/// People are told again that the device waits for them.
pub(super) const REMIND_EVERY_MS: u64 = 60 * 60_000;
/// Longest that a restart or a removal waits only because Windows does not tell whether a person must be
/// there; longer where people have longer. What answers that may be just what the update broke.
const UNKNOWN_LIMIT_MS: u64 = 2 * 60 * 60_000;
/// A gateway that refuses a permit lets the next question wait so long at the most.
const LONGEST_REFUSAL_MS: u64 = 10 * 60_000;
/// A moment told to people moves when it is off by more than this; looks come a little late each time.
const KEPT: SignedDuration = SignedDuration::from_mins(5);

/// What is around the device at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// People who are logged on; `None` where Windows does not tell, which counts as somebody.
    pub people: Option<People>,
    /// The sessions in which they work, by Windows' numbers.
    pub sessions: BTreeSet<u32>,
    /// The hour of the device's day at which its active hours end, while they last.
    pub active_until: Option<u8>,
    /// What it runs on.
    pub power: Power,
    /// What happens at its next start.
    pub startup: Startup,
}

impl Surroundings {
    /// Nothing is in the way of anything.
    pub const CLEAR: Surroundings = Surroundings {
        people: Some(People::NOBODY),
        sessions: BTreeSet::new(),
        active_until: None,
        power: Power::PluggedIn,
        startup: Startup::Unattended,
    };
}

/// What a device runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Power {
    /// Power from outside.
    PluggedIn,
    /// Its battery, with so many percent left where that is known.
    Battery(Option<u8>),
    /// Cannot be told.
    #[default]
    Unknown,
}

/// What happens when a device starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Startup {
    /// It starts by itself.
    Unattended,
    /// It waits for a person, because of key protectors of these kinds.
    Attended(Vec<String>),
    /// Cannot be told, for this reason.
    Unknown(String),
    /// Nobody looked.
    #[default]
    Unseen,
}

/// People who are logged on, by numbers alone: who they are is nobody's business.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct People {
    /// Sessions in which somebody works, on the spot or remotely.
    pub active: u32,
    /// Sessions that somebody left open and is not connected to.
    pub disconnected: u32,
}

impl People {
    /// Nobody is logged on.
    pub const NOBODY: People = People { active: 0, disconnected: 0 };
}

/// A restart that is due: how it waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// How long it has waited so far.
    pub waited_ms: u64,
    /// When it began to wait without a break, or was last seen to wait; on this run's clock.
    pub seen_mono_ms: Option<u64>,
    /// When people were last told that the device waits for them; on this run's clock.
    pub told_mono_ms: Option<u64>,
    /// People saw it being called off: the countdown that they were told of is void.
    pub is_called_off: bool,
    /// When it ends at the latest, as people were told.
    pub until: Option<Timestamp>,
    /// It waited for an administrator who had paused the agent; only a word of the end depends on it.
    #[serde(default)]
    pub was_paused: bool,
    /// How often people put it off.
    #[serde(default)]
    pub deferred: u8,
    /// They are asked again when it has waited so long.
    #[serde(default)]
    pub ask_at_ms: u64,
    /// When that is, as people were told.
    #[serde(default)]
    pub asks_at: Option<Timestamp>,
    /// People agreed that it comes now.
    #[serde(default)]
    pub agreed: Option<Agreement>,
}

/// What a restart waits for.
pub(super) struct Obstacle {
    /// A sentence.
    pub sentence: String,
    /// What people are asked about it at this moment.
    pub question: Option<Question>,
}

impl Waiting {
    /// Another run of the agent: its clock begins anew.
    pub(super) fn take_up(&mut self) {
        self.seen_mono_ms = None;
        self.told_mono_ms = None;
        self.agreed = None;
    }
}

/// Why nothing may begin, neither an installation nor a restart: the reason word of the API, and the
/// sentence. No deadline ends it, since a device without power or without its person is lost.
pub(super) fn bar(rules: &Preflight, seen: &Surroundings) -> Option<(&'static str, String)> {
    let power = match seen.power {
        Power::PluggedIn => None,
        Power::Battery(Some(percent)) => {
            Some(format!("the device runs on its battery ({percent} % left)"))
        }
        Power::Battery(None) => Some("the device runs on its battery".to_owned()),
        Power::Unknown => Some("the device does not tell whether it is plugged in".to_owned()),
    };
    let startup = match &seen.startup {
        Startup::Unattended => None,
        Startup::Attended(kinds) => {
            let kinds = kinds.join(", ");
            Some(format!("BitLocker would wait for a person at the next start ({kinds})"))
        }
        Startup::Unknown(why) => {
            Some(format!("it is not known whether the device starts without a person: {why}"))
        }
        Startup::Unseen => {
            Some("it is not known whether the device starts without a person".to_owned())
        }
    };
    let power = power.filter(|_| !rules.ignore_battery).map(|what| ("OnBattery", what));
    let startup = startup.filter(|_| !rules.ignore_attended_boot);
    power.or_else(|| startup.map(|what| ("AttendedBoot", what)))
}

/// Whether all that is in the way is that nobody knows what happens at the next start.
fn is_only_unknown(rules: &Preflight, seen: &Surroundings) -> bool {
    let known = Surroundings { startup: Startup::Unattended, ..seen.clone() };
    matches!(seen.startup, Startup::Unknown(_) | Startup::Unseen) && bar(rules, &known).is_none()
}

/// Why a removal may not begin yet, if so. Not to know has an end where what began must be ended; a PIN
/// that is known, and a battery, have none but the job's.
pub(super) fn obstacle_to_removal(
    mv: &Move,
    job: &mut JobRun,
    seen: &Surroundings,
) -> Option<String> {
    let rules = &job.payload.preflight;
    let (_, what) = bar(rules, seen)?;
    if is_only_unknown(rules, seen) {
        count(mv, job, 2 * LOOK_EVERY_MS);
        if job.waiting.waited_ms >= UNKNOWN_LIMIT_MS.max(job.payload.reboot.wait_ms) {
            return None;
        }
        job.waiting.seen_mono_ms = Some(mv.now.mono_ms);
    }
    Some(what)
}

/// Counts the time since the last look that saw something in the way, up to the longest that may lie
/// between two. A device that slept meanwhile has not asked anybody: its clock went on, and nobody was
/// there.
pub(super) fn count(mv: &Move, job: &mut JobRun, longest_ms: u64) {
    let before = job.waiting.seen_mono_ms.take();
    let since = before.map_or(0, |before| mv.now.mono_ms.saturating_sub(before));
    job.waiting.waited_ms += since.min(longest_ms);
}

/// Longest time between two looks: it may lie in a countdown, or in the wait for a permit after one.
fn longest(job: &JobRun) -> u64 {
    let countdown_ms = job.payload.reboot.countdown_ms.max(LONGEST_REFUSAL_MS);
    2 * LOOK_EVERY_MS + if job.warned_mono_ms.is_some() { countdown_ms } else { 0 }
}

/// What the restart of this job waits for at this moment; `None` when it may begin.
pub(super) fn obstacle(mv: &mut Move, job: &mut JobRun, seen: &Surroundings) -> Option<Obstacle> {
    let now = mv.now.mono_ms;
    // A rollback of its own has no end by time, and the device starts again and again anyway.
    let bar = bar(&job.payload.preflight, seen).filter(|_| job.own_rollback.is_none());
    let wait_ms = job.payload.reboot.wait_ms;
    let mut people_alone = false;
    let (what, limit_ms) = match bar {
        Some((_, what)) if is_only_unknown(&job.payload.preflight, seen) => {
            (what, UNKNOWN_LIMIT_MS.max(wait_ms))
        }
        Some((_, what)) => {
            job.waiting.seen_mono_ms = None;
            return Some(Obstacle { sentence: format!("waiting: {what}"), question: None });
        }
        None => match in_the_way(seen, deferral::is_agreed(mv, job, seen)) {
            Some(what) => {
                // While its active hours last, nobody can let it restart.
                people_alone = seen.people.is_some() && seen.active_until.is_none();
                (what, wait_ms)
            }
            // Who agreed is still there: the time until the restart is theirs as well.
            None if seen.people.is_none_or(|people| people.active > 0) => {
                count(mv, job, longest(job));
                job.waiting.seen_mono_ms = Some(now);
                return None;
            }
            None => {
                job.waiting.seen_mono_ms = None;
                return None;
            }
        },
    };
    count(mv, job, longest(job));
    let left_ms = limit_ms.saturating_sub(job.waiting.waited_ms);
    if left_ms == 0 {
        // Others agreed to the countdown that runs; those who are there have the whole one of the deadline.
        if job.waiting.agreed.take().is_some() {
            job.warned_mono_ms = None;
        }
        return None;
    }
    job.waiting.seen_mono_ms = Some(now);
    let turn = if people_alone { deferral::turn(mv, job, left_ms) } else { Turn::Told };
    if matches!(turn, Turn::Told) {
        tell(mv, job, left_ms);
    }
    let what = what + &deferral::note(mv, job, &turn);
    let until = about(mv, job.waiting.until, left_ms);
    job.waiting.until = Some(until);
    let finish_by = job.payload.finish_by;
    let sentence = if until < finish_by {
        format!("waiting: {what}; restarts by {} at the latest", clock(until, mv.now.wall))
    } else {
        let end = clock(finish_by, mv.now.wall);
        format!("waiting: {what}; the job ends at {end} without a restart")
    };
    Some(Obstacle { sentence, question: turn.into_question() })
}

/// What is in the way, in words. People who agreed are not, and active hours are all the same: they are
/// not theirs to end.
fn in_the_way(seen: &Surroundings, is_agreed: bool) -> Option<String> {
    let hours = |hour| format!("its active hours last until {hour:02}:00 by its own clock");
    match seen.people {
        None => Some("Windows does not tell who is logged on".to_owned()),
        Some(People { active, .. }) if active == 0 || is_agreed => seen.active_until.map(hours),
        Some(People { active: 1, .. }) => Some("1 person is logged on".to_owned()),
        Some(People { active, .. }) => Some(format!("{active} people are logged on")),
    }
}

/// Asks those who are there to let the device restart, now and then.
fn tell(mv: &mut Move, job: &mut JobRun, left_ms: u64) {
    let is_due = job
        .waiting
        .told_mono_ms
        .is_none_or(|told| mv.now.mono_ms.saturating_sub(told) >= REMIND_EVERY_MS);
    if is_due {
        job.waiting.told_mono_ms = Some(mv.now.mono_ms);
        let message = job.payload.reboot.message.clone();
        mv.effects.push(Effect::AskToLeave { message, within_ms: left_ms });
    }
}

/// The moment told to people, so far from now: the one told before as long as that is about right.
pub(super) fn about(mv: &Move, told: Option<Timestamp>, in_ms: u64) -> Timestamp {
    let span = SignedDuration::from_millis(i64::try_from(in_ms).unwrap_or(i64::MAX));
    let at = mv.now.wall.checked_add(span).unwrap_or(Timestamp::MAX);
    let is_about = |told: &Timestamp| told.duration_since(at).abs() <= KEPT;
    told.filter(is_about).unwrap_or(at)
}

/// `22:00 UTC`, with the day where it is another one.
pub(super) fn clock(at: Timestamp, now: Timestamp) -> String {
    let (at, now) = (at.to_zoned(jiff::tz::TimeZone::UTC), now.to_zoned(jiff::tz::TimeZone::UTC));
    let format = if at.date() == now.date() { "%H:%M UTC" } else { "%Y-%m-%d %H:%M UTC" };
    at.strftime(format).to_string()
}
