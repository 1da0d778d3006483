//! A pause that an administrator of the device ordered: from here on nothing begins that cannot be
//! stopped half-way. What is under way is brought to its end, and the device is looked at, proven and
//! reported as before.

use wardring_seal::OutcomeResult;

use super::end::End;
use super::{Awaits, Effect, JobRun, Move, Phase, off, wake};
use crate::pause::Pause;

/// Pause between two looks whether it is over. The end of the job's time is noticed at them, too.
const LOOK_EVERY_MS: u64 = 60_000;

/// The mark was set, changed or taken away. A job that has not begun is given back, so that others need
/// not wait for it; one that has keeps its place, and its restart is taken back as long as it can be.
pub(super) fn set(mv: &mut Move, pause: Option<Pause>) {
    mv.state.paused = pause;
    let Some(mut job) = mv.state.job.take() else { return };
    let Some(pause) = mv.state.paused.clone() else {
        mv.state.job = match job.awaits {
            Awaits::Resume => wake::pause_is_over(mv, job),
            _ => Some(job),
        };
        return;
    };
    // What is begun next asks anew.
    job.permit_until_mono_ms = None;
    if !job.begun() && !job.phase.is_irreversible() {
        mv.state.job = mv.finish(job, paused(&pause));
        return;
    }
    match job.phase.clone() {
        Phase::Rebooting { why, tries, .. } => {
            mv.effects.push(Effect::TakeBackRestart);
            // Windows may be past the point: then the next boot finds the job where it waits for one.
            mv.enter(&mut job, Phase::AwaitingReboot { why, counted: true, tries });
            job.waiting.is_called_off = true;
            hold(mv, &mut job, &pause);
        }
        Phase::AwaitingReboot { .. } => hold(mv, &mut job, &pause),
        // A permit that is on its way here is worth nothing any more. A wait goes on to its end.
        Phase::AwaitingInstall | Phase::AwaitingUninstall if job.awaits != Awaits::Time => {
            hold(mv, &mut job, &pause);
        }
        _ => {}
    }
    mv.state.job = Some(job);
}

/// Keeps the job where it is, if the agent is paused: it waits and looks again.
pub(super) fn holds(mv: &mut Move, job: &mut JobRun) -> bool {
    let Some(pause) = mv.state.paused.clone() else { return false };
    hold(mv, job, &pause);
    true
}

fn hold(mv: &mut Move, job: &mut JobRun, pause: &Pause) {
    job.message = format!("waiting: {}", pause.sentence());
    job.waiting.was_paused = true;
    // Whoever was warned of a restart is warned again, with the whole countdown.
    job.warned_mono_ms = None;
    job.waiting.agreed = None;
    mv.pause(job, LOOK_EVERY_MS);
    job.awaits = Awaits::Resume;
}

/// The end of a job that was not done in its time. One that waited for an administrator says so: neither
/// the update nor the device is to blame.
pub(super) fn too_late(job: &JobRun) -> End {
    if job.waiting.was_paused {
        let sentence = "an administrator paused the agent on the device, and the job's time was over before it \
                        could go on";
        return End::failed(job, "Paused", sentence);
    }
    let sentence = "the job was not done by the end of its time";
    let sentence = match off::over(job, job.payload.finish_by) {
        Some(off) => format!("{sentence}: {off}"),
        None => sentence.to_owned(),
    };
    End::failed(job, "FinishByPassed", sentence)
}

/// The end of a job that may not begin.
pub(super) fn paused(pause: &Pause) -> End {
    End::because(OutcomeResult::NotStarted, "Paused", pause.sentence())
}
