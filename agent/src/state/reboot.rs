//! Restarts: countdown first, the permit at its end, and never more of them than the bound.

use wardring_protocol::{PermitAnswer, Step};
use wardring_seal::HookMoment;

use super::job::End;
use super::permits::{self, Permitted};
use super::{AfterHook, Ask, Effect, JobRun, MAX_REBOOTS, Move, Phase, RebootWhy, hooks};

/// Calls for one restart before it is called stuck.
const MAX_TRIES: u32 = 2;
/// Pause after Windows refused a restart: it may be starting, or shutting down already.
const REFUSED_RETRY_MS: u64 = 60_000;
/// A warning older than this is forgotten by the people who saw it: they get another one, and the
/// whole countdown, before the device restarts under them.
const WARNING_LIFE_MS: u64 = 10 * 60_000;

/// Tells people, counts down, and asks for the permit at the end. `counted` and `tries` belong to
/// a restart that was ordered before and did not happen.
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
    let countdown_ms = job.payload.reboot.countdown_ms;
    let message = job.payload.reboot.message.clone();
    mv.effects.push(Effect::Announce { message, countdown_ms });
    mv.pause(&mut job, countdown_ms);
    Some(job)
}

/// Asks for the permit: the countdown is over, or it is time to ask again.
pub(super) fn ask(mv: &mut Move, mut job: JobRun) -> Option<JobRun> {
    job.warned_mono_ms.get_or_insert(mv.now.mono_ms);
    permits::ask(mv, job, Step::Reboot)
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
            let (key, limit_ms) = (job.payload.key.clone(), job.payload.reboot.stuck_after_ms);
            let ask = Ask::Reboot { key, boot_before, not_after_mono_ms: until_mono_ms };
            mv.ask(&mut job, ask, limit_ms);
            Some(job)
        }
        Permitted::AskAgain => ask(mv, job),
        Permitted::Wait { after_ms } => {
            mv.pause(&mut job, after_ms);
            Some(job)
        }
        Permitted::TooLate(message) => {
            let end = End::stopped(&job, "FinishByPassed", message);
            mv.finish(job, end)
        }
        Permitted::Over(end) => mv.finish(job, end),
    }
}

/// Whether the countdown was over so long ago that nobody expects the restart any more.
fn is_forgotten(mv: &Move, job: &JobRun) -> bool {
    let warned = job.warned_mono_ms.unwrap_or(mv.now.mono_ms);
    mv.now.mono_ms.saturating_sub(warned) > WARNING_LIFE_MS
}

/// The order was lost with the run that gave it, or came too late: the same restart, a new permit.
pub(super) fn again(mv: &mut Move, mut job: JobRun, why: RebootWhy, tries: u32) -> Option<JobRun> {
    mv.enter(&mut job, Phase::AwaitingReboot { why, counted: true, tries });
    ask(mv, job)
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
