//! What a gateway's answer means for the step that waits for it.

use jiff::SignedDuration;
use wardring_protocol::{Mode, PERMIT_LIFE_MS, PermitAnswer, Step};
use wardring_seal::OutcomeResult;

use super::end::End;
use super::{Ask, JobRun, Move, accept, autonomous, contact, off, pause};

/// First and longest pause after no gateway could be reached; the driver tried all of them before it
/// said so. It doubles: an outage of hours must not fill the log and wear the disk.
const UNANSWERED_RETRY_MS: (u64, u64) = (5_000, 60_000);
/// Pause after a gateway said that the job is gone while the device is in the middle of it. The
/// controller makes such a job again, so the agent rests and asks, and moves nothing meanwhile.
const ENDED_RETRY_MS: u64 = 30_000;
/// Shortest and longest pause that a gateway's hint may ask for.
const RETRY_MS: std::ops::RangeInclusive<u64> = 200..=600_000;
/// Reasons that no later question can change: the end of the job's times by the gateway's clock.
const TOO_LATE: [&str; 2] = ["TooLate", "FinishByPassed"];

/// Reason of an end that may be a mistake.
const NO_SUCH_JOB: &str = "NoSuchJob";

/// What to do about a permit's answer.
pub(super) enum Permitted {
    /// Begin, before this moment of the monotonic clock.
    Go { until_mono_ms: u64 },
    /// Ask again at once: the answer took longer than the permit lives.
    AskAgain,
    /// Ask again later.
    Wait { after_ms: u64 },
    /// It is too late to begin.
    TooLate(String),
    /// The grant is over: stop, and tell how far it came.
    Over(End),
}

/// Reads an answer. Sets the job's message to what people should know.
pub(super) fn read(
    mv: &Move,
    job: &mut JobRun,
    asked_mono_ms: u64,
    answer: Option<PermitAnswer>,
) -> Permitted {
    let until_mono_ms = asked_mono_ms.saturating_add(PERMIT_LIFE_MS);
    job.unanswered = if answer.is_none() { job.unanswered.saturating_add(1) } else { 0 };
    match answer {
        Some(PermitAnswer::Granted) if mv.now.mono_ms < until_mono_ms => {
            job.message.clear();
            Permitted::Go { until_mono_ms }
        }
        Some(PermitAnswer::Granted) => Permitted::AskAgain,
        Some(
            PermitAnswer::Refused { reason, message, .. } | PermitAnswer::Ended { reason, message },
        ) if TOO_LATE.contains(&reason.as_str()) => Permitted::TooLate(message),
        Some(PermitAnswer::Refused { message, retry_ms, .. }) => {
            job.message = message;
            Permitted::Wait { after_ms: retry_ms.clamp(*RETRY_MS.start(), *RETRY_MS.end()) }
        }
        // Somebody deleted the job; the controller makes it again where it is still wanted.
        Some(PermitAnswer::Ended { reason, message }) if job.begun() && reason == NO_SUCH_JOB => {
            job.message = format!("waiting: {message}");
            Permitted::Wait { after_ms: ENDED_RETRY_MS }
        }
        Some(PermitAnswer::Ended { reason, message }) => {
            Permitted::Over(End::stopped(job, &reason, message))
        }
        None => {
            "no gateway answers the request for a permit".clone_into(&mut job.message);
            let (first, longest) = UNANSWERED_RETRY_MS;
            let doubled = first.saturating_mul(1 << (job.unanswered - 1).min(10));
            Permitted::Wait { after_ms: doubled.min(longest) }
        }
    }
}

/// Asks for a permit, unless the job's own bounds forbid the step by this device's clock.
pub(super) fn ask(mv: &mut Move, mut job: JobRun, step: Step) -> Option<JobRun> {
    if let Some(end) = barred(mv, &job) {
        return mv.finish(job, end);
    }
    if pause::holds(mv, &mut job) {
        return Some(job);
    }
    if job.may_be_called_off() && step == Step::Uninstall {
        return contact::look(mv, job);
    }
    if autonomous::grants(&job) {
        return autonomous::go_on(mv, job);
    }
    let (key, accepted_in) = (job.payload.key.clone(), job.accepted_in.clone());
    // An answer that takes longer is worth nothing.
    mv.ask(&mut job, Ask::Permit { key, step, accepted_in }, PERMIT_LIFE_MS);
    Some(job)
}

/// Why no step of this job may begin any more, if so: by its own bounds and this device's clock, or
/// because people took the device back before anything began, perhaps during a restart.
pub(super) fn barred(mv: &Move, job: &JobRun) -> Option<End> {
    let payload = &job.payload;
    if !job.begun() && mv.state.mode == Mode::Observe {
        return Some(accept::observing());
    }
    if let Some(pause) = mv.state.paused.as_ref().filter(|_| !job.begun()) {
        return Some(pause::paused(pause));
    }
    if !job.begun() && mv.now.wall > payload.start_by {
        if let Some(end) = off::missed(job) {
            return Some(end);
        }
        let late = mv.now.wall.duration_since(payload.start_by);
        return Some(too_late(format!(
            "by this device's clock the last moment to begin passed {} ago",
            rough(late)
        )));
    }
    // Whoever works on the device has stopped its clock, too: what the job comes to is judged after.
    if mv.state.paused.is_some() {
        return None;
    }
    // A rollback that nobody permitted begins within the time of its job, and is then brought to its
    // end: half of it is worse than either.
    (mv.now.wall > payload.finish_by && job.own_rollback.is_none()).then(|| pause::too_late(job))
}

/// The end of a job that could not begin in time, by a gateway's clock.
pub(super) fn told_too_late(job: &JobRun, message: String) -> End {
    off::missed(job).unwrap_or_else(|| too_late(message))
}

/// The end of a job that could not begin in time.
pub(super) fn too_late(message: String) -> End {
    End::because(OutcomeResult::NotStarted, "StartByPassed", message)
}

fn rough(span: SignedDuration) -> String {
    match span.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}
