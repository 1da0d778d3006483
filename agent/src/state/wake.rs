//! What it means that time is over: the end of a pause, or of the limit that an answer had.
//!
//! Every question has a limit. Windows Update has none of its own, and a search or a service that
//! never answers would otherwise keep a job, and everybody who waits for it, forever.

use super::{
    Awaits, JobRun, Move, Phase, Reply, Surroundings, contact, hooks, install, preflight, reboot,
    rollback, verify,
};

/// Longest that a search for updates, and with it a look at the device, may take.
pub(super) const LOOK_LIMIT_MS: u64 = 30 * 60_000;
/// Looks that one without an answer counts for: after three of them nobody hopes for the fourth.
const OVERDUE_LOOK: u32 = 14;
/// Longest that a service and those that depend on it may take to restart.
pub(super) const SERVICE_LIMIT_MS: u64 = 10 * 60_000;

/// Goes on where the job waited.
pub(super) fn woke(mv: &mut Move, job: JobRun) -> Option<JobRun> {
    match job.awaits {
        Awaits::Time | Awaits::Resume => pause_is_over(mv, job),
        Awaits::Surroundings if matches!(job.phase, Phase::AwaitingReboot { .. }) => {
            reboot::looked(mv, job, &Surroundings::default())
        }
        Awaits::People if matches!(job.phase, Phase::AwaitingReboot { .. }) => {
            reboot::people_said(mv, job, Reply::Nothing)
        }
        Awaits::Contact => contact::unknown(mv, job),
        Awaits::Answer | Awaits::Surroundings | Awaits::People => answer_is_overdue(mv, job),
    }
}

pub(super) fn pause_is_over(mv: &mut Move, job: JobRun) -> Option<JobRun> {
    match job.phase {
        Phase::Preflight { .. } => preflight::look(mv, job),
        Phase::Downloading { tries } => install::download(mv, job, tries),
        Phase::AwaitingInstall => install::ask_again(mv, job),
        Phase::AwaitingReboot { .. } => reboot::look(mv, job),
        Phase::Settling { .. } | Phase::Verifying { .. } => verify::look(mv, job),
        Phase::AwaitingContact { .. } => contact::look(mv, job),
        Phase::Surveying { .. } => rollback::look(mv, job),
        Phase::AwaitingUninstall => rollback::ask_again(mv, job),
        // These begin with their question and are left with its answer.
        Phase::Installing { .. }
        | Phase::Rebooting { .. }
        | Phase::Remediating { .. }
        | Phase::RunningHook { .. }
        | Phase::Uninstalling { .. } => answer_is_overdue(mv, job),
    }
}

fn answer_is_overdue(mv: &mut Move, job: JobRun) -> Option<JobRun> {
    match job.phase.clone() {
        Phase::Preflight { .. }
        | Phase::Settling { .. }
        | Phase::Verifying { .. }
        | Phase::Surveying { .. } => {
            let minutes = LOOK_LIMIT_MS / 60_000;
            let why = format!("Windows gave no answer within {minutes} minutes");
            verify::blind(mv, job, &why, OVERDUE_LOOK)
        }
        Phase::AwaitingContact { .. } => contact::unknown(mv, job),
        Phase::Downloading { tries } => {
            let error = "it was not over after 4 hours".to_owned();
            install::downloaded(mv, job, tries, Err(error.into()))
        }
        Phase::AwaitingInstall => install::permit_answered(mv, job, 0, None),
        Phase::AwaitingReboot { why, counted, tries } => {
            reboot::permit_answered(mv, job, (why, counted, tries), 0, None)
        }
        Phase::AwaitingUninstall => rollback::permit_answered(mv, job, 0, None),
        Phase::Installing { .. } => install::hangs(mv, job),
        Phase::Uninstalling { .. } => rollback::hangs(mv, job),
        Phase::Rebooting { why, tries, .. } => reboot::still_here(mv, job, why, tries),
        Phase::RunningHook { index, next } => {
            let error = "it was not over in time".to_owned();
            hooks::ended(mv, job, index, next, Err(error))
        }
        Phase::Remediating { service, samples } => {
            let minutes = SERVICE_LIMIT_MS / 60_000;
            let error = format!("restarting {service} was not over after {minutes} minutes");
            verify::restarted(mv, job, samples, Err(error))
        }
    }
}
