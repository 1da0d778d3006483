//! Hooks: an administrator's programs around what the job does. The state machine says when; which
//! file that is, and whether it may run at all, is the platform's to find out.
//!
//! A hook runs only while a permit for its step is in hand, so that a rollout that stands still
//! drains no node. It may take longer than the permit lives, so the permit is asked for again after
//! it. It may run twice: when the agent dies under it, and in every boot anew.

use serde::{Deserialize, Serialize};
use wardring_seal::{HookMoment, OutcomeResult};

use super::end::End;
use super::{
    Ask, JobRun, Move, Phase, RebootWhy, install, off, permits, preflight, reboot, rollback, verify,
};

/// Time beyond a hook's own in which it is ended and told of.
const GRACE_MS: u64 = 60_000;

/// One start of a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HookRun {
    /// When it runs.
    pub moment: HookMoment,
    /// Its file.
    pub program: String,
    /// Boot in which it was started.
    pub boot: String,
    /// It ended well.
    pub is_done: bool,
}

/// What a hook is in the way of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "next", rename_all_fields = "camelCase")]
pub enum AfterHook {
    /// The next installation.
    Install,
    /// The next removal.
    Uninstall,
    /// A restart.
    Reboot {
        /// Why.
        why: RebootWhy,
        /// It counts in the job's bound already.
        counted: bool,
        /// Calls that did not lead to a restart.
        tries: u32,
    },
    /// The end of the job.
    End,
}

/// Starts the next hook of `moment` that has not done its work in this boot; false when none is left
/// and the job goes on.
pub(super) fn run(
    mv: &mut Move,
    job: &mut JobRun,
    moment: HookMoment,
    next: AfterHook,
    until_mono_ms: Option<u64>,
) -> bool {
    let Some(index) = due(mv, job, moment) else { return false };
    // Nobody permitted this rollback, and a device that is broken has nothing left to hand over.
    if job.own_rollback.is_some() && moment != HookMoment::AfterHealthy {
        return false;
    }
    let hook = job.payload.hooks[index].clone();
    mv.enter(job, Phase::RunningHook { index, next });
    job.message = format!("running the {} hook {}", moment.as_str(), hook.program);
    job.hooks.retain(|run| !(run.moment == moment && run.program == hook.program));
    let (program, boot) = (hook.program.clone(), mv.state.boot.clone());
    job.hooks.push(HookRun { moment, program, boot, is_done: false });
    let limit_ms = hook.timeout_ms.saturating_add(GRACE_MS);
    mv.ask(job, Ask::RunHook { hook, not_after_mono_ms: until_mono_ms }, limit_ms);
    true
}

fn due(mv: &Move, job: &JobRun, moment: HookMoment) -> Option<usize> {
    let is_done = |program: &str| {
        job.hooks.iter().any(|run| {
            run.is_done
                && run.moment == moment
                && run.program == program
                && run.boot == mv.state.boot
        })
    };
    let mut hooks = job.payload.hooks.iter();
    hooks.position(|hook| hook.moment == moment && !is_done(&hook.program))
}

/// A hook ended; one that failed keeps its step from happening.
pub(super) fn ended(
    mv: &mut Move,
    mut job: JobRun,
    index: usize,
    next: AfterHook,
    result: Result<(), String>,
) -> Option<JobRun> {
    let Some(hook) = job.payload.hooks.get(index).cloned() else { return Some(job) };
    job.message.clear();
    if let Err(why) = result {
        let moment = hook.moment.as_str();
        return failed(mv, job, next, format!("the {moment} hook {} failed: {why}", hook.program));
    }
    for run in &mut job.hooks {
        run.is_done |= run.moment == hook.moment && run.program == hook.program;
    }
    go_on(mv, job, next)
}

/// The permit was over before the hook began, or the run that began it ended: from the question for
/// the permit on.
pub(super) fn go_on(mv: &mut Move, job: JobRun, next: AfterHook) -> Option<JobRun> {
    match next {
        AfterHook::Install | AfterHook::Uninstall => {
            // The permit may still live, but people may have taken the device back under the hook.
            if let Some(end) = permits::barred(mv, &job) {
                return mv.finish(job, end);
            }
            if next == AfterHook::Install {
                install::begin(mv, job)
            } else {
                rollback::next(mv, job)
            }
        }
        AfterHook::Reboot { why, counted, tries } => {
            let mut job = job;
            mv.enter(&mut job, Phase::AwaitingReboot { why, counted, tries });
            reboot::look(mv, job)
        }
        AfterHook::End => end(mv, job),
    }
}

fn failed(mv: &mut Move, mut job: JobRun, next: AfterHook, why: String) -> Option<JobRun> {
    if next != AfterHook::End {
        let end = End::stopped(&job, "HookFailed", why);
        return mv.finish(job, end);
    }
    let ending = job.ending.take()?;
    let ending = off::still(&job, ending);
    let is_good = matches!(
        ending.result,
        OutcomeResult::Succeeded | OutcomeResult::AlreadyInstalled | OutcomeResult::RolledBack
    );
    let message = format!("{why}; {}", ending.message);
    let end = if is_good {
        // The device is sound, but what was to bring it back into service did not.
        End::failed(&job, "HookFailed", message)
    } else {
        End { message, ..ending }
    };
    mv.close(job, end)
}

/// Ends the job once the hooks for a healthy device have run.
pub(super) fn healthy(mv: &mut Move, mut job: JobRun, ending: End) -> Option<JobRun> {
    job.ending = Some(ending);
    end(mv, job)
}

fn end(mv: &mut Move, mut job: JobRun) -> Option<JobRun> {
    if run(mv, &mut job, HookMoment::AfterHealthy, AfterHook::End, None) {
        return Some(job);
    }
    let ending = job.ending.take()?;
    let ending = off::still(&job, ending);
    mv.close(job, ending)
}

/// Whether a device that nothing was done to must be brought back into service: a hook took it out,
/// and the job ends before anything began.
pub(super) fn is_owed(job: &JobRun) -> bool {
    let took_out = |run: &HookRun| run.moment != HookMoment::AfterHealthy;
    !job.touched && job.hooks.iter().any(took_out)
}

/// The run of the agent under which a hook ran is over, and perhaps the boot.
pub(super) fn resume(
    mv: &mut Move,
    mut job: JobRun,
    next: AfterHook,
    is_new_boot: bool,
) -> Option<JobRun> {
    match next {
        AfterHook::Install if !job.begun() => preflight::begin(mv, job),
        AfterHook::Uninstall => rollback::survey(mv, job),
        AfterHook::Reboot { why: RebootWhy::First, .. } if is_new_boot => preflight::begin(mv, job),
        AfterHook::Reboot { .. } if is_new_boot => verify::settle(mv, job),
        AfterHook::Reboot { why, counted, tries } => {
            reboot::count_down(mv, job, why, counted, tries)
        }
        AfterHook::End if job.is_answerable() => {
            // What was proven was another boot, or what an earlier run of the agent saw of this one.
            job.ending = None;
            verify::settle(mv, job)
        }
        AfterHook::Install | AfterHook::End => go_on(mv, job, next),
    }
}
