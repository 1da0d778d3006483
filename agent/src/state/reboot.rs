//! Restarts: countdown first, the permit at its end, and never more of them than the bound.

use wardring_protocol::{PermitAnswer, Step};

use super::job::End;
use super::permits::{self, Permitted};
use super::{Ask, Effect, JobRun, MAX_REBOOTS, Move, Phase, RebootWhy};

/// Calls for one restart before it is called stuck.
const MAX_TRIES: u32 = 2;

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
    let rules = &job.payload.reboot;
    mv.effects.push(Effect::Announce {
        message: rules.message.clone(),
        countdown_ms: rules.countdown_ms,
    });
    mv.wake_after(rules.countdown_ms);
    Some(job)
}

/// Asks for the permit: the countdown is over, or it is time to ask again.
pub(super) fn ask(mv: &mut Move, job: JobRun) -> Option<JobRun> {
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
        Permitted::Go { until_mono_ms } => {
            // One order may be repeated and still is one restart: it names the boot it ends.
            job.reboots += u32::from(!counted);
            let boot_before = mv.state.boot.clone();
            mv.enter(&mut job, Phase::Rebooting { why, boot_before: boot_before.clone(), tries });
            mv.ask(Ask::Reboot {
                key: job.payload.key.clone(),
                boot_before,
                not_after_mono_ms: until_mono_ms,
            });
            mv.wake_after(job.payload.reboot.stuck_after_ms);
            Some(job)
        }
        Permitted::AskAgain => ask(mv, job),
        Permitted::Wait { after_ms } => {
            mv.wake_after(after_ms);
            Some(job)
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
    ask(mv, job)
}

/// Windows accepted the order, or refused it, and still runs the same boot.
pub(super) fn stuck(mv: &mut Move, job: JobRun, why: RebootWhy, tries: u32) -> Option<JobRun> {
    if tries + 1 >= MAX_TRIES {
        let sentence = format!("Windows was told to restart {MAX_TRIES} times and did not");
        let end = End::stopped(&job, "RebootStuck", sentence);
        return mv.finish(job, end);
    }
    again(mv, job, why, tries + 1)
}
