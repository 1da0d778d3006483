//! Restarts: people first, then the countdown, the permit at its end, and never more of them than
//! the bound.
//!
//! Windows waits a moment between the order and the end of the boot. In it the permit is asked for
//! again, and a restart that is no longer wanted is taken back.

use wardring_protocol::{PermitAnswer, Step};
use wardring_seal::HookMoment;

use super::deferral::{self, Reply};
use super::end::End;
use super::permits::{self, Permitted};
use super::surroundings::{self, Surroundings};
use super::{
    AfterHook, Ask, Awaits, Effect, JobRun, MAX_REBOOTS, Move, Phase, RebootWhy, hooks, pause,
};

/// Calls for one restart before it is called stuck.
const MAX_TRIES: u32 = 2;
/// Pause after Windows refused a restart: it may be starting, or shutting down already.
const REFUSED_RETRY_MS: u64 = 60_000;
/// A warning older than this is forgotten by the people who saw it: they get another one, and the
/// whole countdown, before the device restarts under them.
const WARNING_LIFE_MS: u64 = 10 * 60_000;
/// Longest that a look at who is there may take; without an answer somebody is.
const LOOK_LIMIT_MS: u64 = 60_000;
/// Longest between asking for a restart and the end of the boot: Windows waits 30 s after the order, as the
/// platform asks it to, and what comes before the order may take as long.
const GRACE_MS: u64 = 60_000;
/// Pause between two questions for the permit in that time.
const GRACE_LOOK_MS: u64 = 10_000;

/// Begins a restart. `counted` and `tries` belong to one that was ordered before and did not happen.
pub(super) fn count_down(
    mv: &mut Move,
    mut job: JobRun,
    why: RebootWhy,
    counted: bool,
    tries: u32,
) -> Option<JobRun> {
    if mv.loops(&job) {
        let sentence = "the device restarts again and again; the agent adds no restart to it";
        let end = End::stopped(&job, "BootLoop", sentence);
        return mv.finish(job, end);
    }
    if !counted && !job.may_reboot() {
        let sentence = format!("Windows still asks for a restart after {MAX_REBOOTS} of them");
        let end = End::stopped(&job, "PendingReboot", sentence);
        return mv.finish(job, end);
    }
    mv.enter(&mut job, Phase::AwaitingReboot { why, counted, tries });
    job.warned_mono_ms = None;
    // Whoever agreed to an earlier one is asked anew.
    job.waiting.agreed = None;
    look(mv, job)
}

/// Looks who is there: before the countdown, at its end, and whenever it waited for something.
pub(super) fn look(mv: &mut Move, mut job: JobRun) -> Option<JobRun> {
    if let Some(end) = permits::barred(mv, &job) {
        return mv.finish(job, end);
    }
    let hours = job.payload.reboot.active_hours;
    mv.ask(&mut job, Ask::LookAround { hours }, LOOK_LIMIT_MS);
    job.awaits = Awaits::Surroundings;
    Some(job)
}

/// Waits for those who are there, tells them and counts down, or asks for the permit: the countdown
/// is over.
pub(super) fn looked(mv: &mut Move, mut job: JobRun, seen: &Surroundings) -> Option<JobRun> {
    if pause::holds(mv, &mut job) {
        return Some(job);
    }
    if let Some(obstacle) = surroundings::obstacle(mv, &mut job, seen) {
        job.message = obstacle.sentence;
        // Whoever is there when it goes on is warned, with the whole countdown.
        job.warned_mono_ms = None;
        job.waiting.agreed = None;
        match obstacle.question {
            Some(question) => deferral::ask(mv, &mut job, question),
            None => mv.pause(&mut job, surroundings::LOOK_EVERY_MS),
        }
        return Some(job);
    }
    match job.warned_mono_ms {
        Some(over) if over <= mv.now.mono_ms => permits::ask(mv, job, Step::Reboot),
        _ => {
            job.message.clear();
            let countdown_ms = job.payload.reboot.countdown_ms;
            let message = job.payload.reboot.message.clone();
            mv.effects.push(Effect::Announce { message, countdown_ms });
            job.warned_mono_ms = Some(mv.now.mono_ms.saturating_add(countdown_ms));
            job.waiting.is_called_off = false;
            mv.pause(&mut job, countdown_ms);
            Some(job)
        }
    }
}

/// People answered, or did not: whoever is there now decides what follows.
pub(super) fn people_said(mv: &mut Move, mut job: JobRun, reply: Reply) -> Option<JobRun> {
    deferral::replied(mv, &mut job, reply);
    look(mv, job)
}

/// Whether the countdown was over so long ago that nobody expects the restart any more.
fn is_forgotten(mv: &Move, job: &JobRun) -> bool {
    let over = job.warned_mono_ms.unwrap_or(mv.now.mono_ms);
    job.waiting.is_called_off || mv.now.mono_ms.saturating_sub(over) > WARNING_LIFE_MS
}

/// A gateway answered.
pub(super) fn permit_answered(
    mv: &mut Move,
    mut job: JobRun,
    (why, counted, tries): (RebootWhy, bool, u32),
    asked_mono_ms: u64,
    answer: Option<PermitAnswer>,
) -> Option<JobRun> {
    match permits::read(mv, &mut job, asked_mono_ms, answer) {
        Permitted::Go { .. } if is_forgotten(mv, &job) => count_down(mv, job, why, counted, tries),
        Permitted::Go { until_mono_ms } => {
            let next = AfterHook::Reboot { why, counted, tries };
            let until = Some(until_mono_ms);
            if hooks::run(mv, &mut job, HookMoment::BeforeReboot, next, until) {
                return Some(job);
            }
            // One order may be repeated and still is one restart: it names the boot it ends.
            job.reboots += u32::from(!counted);
            let boot_before = mv.state.boot.clone();
            mv.enter(&mut job, Phase::Rebooting { why, boot_before: boot_before.clone(), tries });
            let (key, force) = (job.payload.key.clone(), job.payload.reboot.force);
            let ask = Ask::Reboot { key, boot_before, force, not_after_mono_ms: until_mono_ms };
            job.ordered_mono_ms = Some(mv.now.mono_ms);
            let limit_ms = GRACE_LOOK_MS.min(job.payload.reboot.stuck_after_ms);
            mv.ask(&mut job, ask, limit_ms);
            Some(job)
        }
        Permitted::AskAgain => look(mv, job),
        Permitted::Wait { after_ms } => {
            mv.pause(&mut job, after_ms);
            Some(job)
        }
        Permitted::TooLate(_) if job.waiting.was_paused => {
            let end = pause::too_late(&job);
            mv.finish(job, end)
        }
        Permitted::TooLate(message) => {
            let end = End::stopped(&job, "FinishByPassed", message);
            mv.finish(job, end)
        }
        Permitted::Over(end) => mv.finish(job, end),
    }
}

/// The order was lost with the run that gave it, or came too late: the same restart, a new permit.
pub(super) fn again(mv: &mut Move, mut job: JobRun, why: RebootWhy, tries: u32) -> Option<JobRun> {
    mv.enter(&mut job, Phase::AwaitingReboot { why, counted: true, tries });
    look(mv, job)
}

/// The restart was ordered a while ago and this boot still runs: as long as it can be taken back, the
/// permit is asked for again; after that the device is given its time.
pub(super) fn still_here(
    mv: &mut Move,
    mut job: JobRun,
    why: RebootWhy,
    tries: u32,
) -> Option<JobRun> {
    let since = mv.now.mono_ms.saturating_sub(*job.ordered_mono_ms.get_or_insert(mv.now.mono_ms));
    let stuck_after_ms = job.payload.reboot.stuck_after_ms;
    if since >= stuck_after_ms {
        return stuck(mv, job, why, tries);
    }
    // Nobody permitted a rollback of its own, and nobody can take that back.
    if since >= GRACE_MS || job.own_rollback.is_some() {
        mv.pause(&mut job, stuck_after_ms - since);
        return Some(job);
    }
    let (key, accepted_in) = (job.payload.key.clone(), job.accepted_in.clone());
    mv.ask(&mut job, Ask::Permit { key, step: Step::Reboot, accepted_in }, GRACE_LOOK_MS);
    Some(job)
}

/// A gateway was asked once more for the restart under way. Only a gateway that says no takes it
/// back: silence may be the network that goes down first.
pub(super) fn confirmed(
    mv: &mut Move,
    mut job: JobRun,
    (why, tries): (RebootWhy, u32),
    asked_mono_ms: u64,
    answer: Option<PermitAnswer>,
) -> Option<JobRun> {
    if !matches!(answer, Some(PermitAnswer::Refused { .. } | PermitAnswer::Ended { .. })) {
        mv.pause(&mut job, GRACE_LOOK_MS);
        return Some(job);
    }
    mv.effects.push(Effect::TakeBackRestart);
    // Windows may be past the point: then the next boot finds the job where it waits for one.
    mv.enter(&mut job, Phase::AwaitingReboot { why, counted: true, tries });
    // Nobody is told of the next one before it is permitted.
    job.waiting.is_called_off = true;
    permit_answered(mv, job, (why, true, tries), asked_mono_ms, answer)
}

/// Windows refused the order: it is given once more, a while later.
pub(super) fn refused(
    mv: &mut Move,
    mut job: JobRun,
    why: RebootWhy,
    tries: u32,
    refusal: &str,
) -> Option<JobRun> {
    if tries + 1 >= MAX_TRIES {
        let sentence = format!("Windows refuses to restart: {refusal}");
        let end = End::stopped(&job, "RebootStuck", sentence);
        return mv.finish(job, end);
    }
    mv.enter(&mut job, Phase::AwaitingReboot { why, counted: true, tries: tries + 1 });
    job.message = format!("Windows refused to restart and is asked again: {refusal}");
    mv.pause(&mut job, REFUSED_RETRY_MS);
    Some(job)
}

/// Windows accepted the order and still runs the same boot.
pub(super) fn stuck(mv: &mut Move, job: JobRun, why: RebootWhy, tries: u32) -> Option<JobRun> {
    // The next one needs a permit of its own, and after the end there must be none: an order that
    // waits behind somebody's dialog would restart the device whenever that is closed.
    mv.effects.push(Effect::TakeBackRestart);
    if tries + 1 >= MAX_TRIES {
        let sentence = format!("Windows was told to restart {MAX_TRIES} times and did not");
        let end = End::stopped(&job, "RebootStuck", sentence);
        return mv.finish(job, end);
    }
    again(mv, job, why, tries + 1)
}
