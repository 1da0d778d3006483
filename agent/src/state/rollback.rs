//! Taking updates back, in reverse order, and proving that they are gone.

use wardring_protocol::{PermitAnswer, Step};
use wardring_seal::{HookMoment, OutcomeResult};

use crate::hresult::Hresult;

use super::end::End;
use super::permits::{self, Permitted};
use super::retry::{self, Next};
use super::{
    AfterHook, Ask, Inspection, InstallFound, JobRun, Move, Phase, Power, RebootWhy, Reversible,
    UpdateState, UpdateStatus, Waiting, autonomous, hooks, proof, reboot, surroundings, verify,
};

/// Removal of a package may take as long as its installation.
const UNINSTALL_LIMIT_MS: u64 = 3 * 3_600_000;
/// Looks at a device whose Windows is busy before the rollback fails.
const MAX_BUSY_CHECKS: u32 = 40;
/// What DISM answers for a package that cannot be removed.
const CBS_E_CANNOT_UNINSTALL: Hresult = Hresult(0x800F_0825);

/// Begins: health will be measured against the baseline from before the first attempt.
pub(super) fn begin(mv: &mut Move, mut job: JobRun) -> Option<JobRun> {
    if let Some(record) = mv.record_of(&job.payload.key.rollout_uid) {
        job.baseline.clone_from(&record.baseline);
    }
    survey(mv, job)
}

/// Finds out what is there to remove; also after a crash, which removes nothing twice.
pub(super) fn survey(mv: &mut Move, mut job: JobRun) -> Option<JobRun> {
    mv.enter(&mut job, Phase::Surveying { checks: 0 });
    look(mv, job)
}

/// Looks at the device.
pub(super) fn look(mv: &mut Move, job: JobRun) -> Option<JobRun> {
    verify::look(mv, job)
}

/// The device was looked at.
pub(super) fn surveyed(
    mv: &mut Move,
    mut job: JobRun,
    checks: u32,
    seen: Inspection,
) -> Option<JobRun> {
    if seen.busy {
        if checks >= MAX_BUSY_CHECKS {
            let sentence = "Windows is busy installing and does not come to rest";
            let end = End::failed(&job, "InstallFailed", sentence);
            return mv.finish(job, end);
        }
        mv.enter(&mut job, Phase::Surveying { checks: checks + 1 });
        "waiting: Windows is at work on something else".clone_into(&mut job.message);
        let wait = verify::busy_pause(&job, checks);
        mv.pause(&mut job, wait);
        return Some(job);
    }
    if job.own_rollback.is_none()
        && let Some(what) = surroundings::obstacle_to_removal(mv, &mut job, &seen.surroundings)
    {
        if let Some(end) = permits::barred(mv, &job) {
            return mv.finish(job, end);
        }
        job.message = format!("waiting: {what}");
        mv.enter(&mut job, Phase::Surveying { checks });
        mv.pause(&mut job, surroundings::LOOK_EVERY_MS);
        return Some(job);
    }
    job.waiting = Waiting::default();
    if job.may_be_called_off() && seen.surroundings.power != Power::PluggedIn {
        // Somebody carries it around, or may: where it is now, nobody answers anyway.
        return autonomous::call_off(mv, job);
    }
    job.message.clear();
    if let Some(end) = upgraded(mv, &job, &seen) {
        return mv.finish(job, end);
    }
    if let Some(end) = autonomous::nothing_left(&job, &seen) {
        return mv.finish(job, end);
    }
    let (mut restart_finishes, mut was_done) = (false, false);
    let own = job.own_rollback.as_ref().map(|own| &own.kbs);
    for (run, target) in job.updates.iter_mut().zip(&job.payload.updates) {
        if own.is_some_and(|own| !own.contains(&run.kb)) {
            continue;
        }
        let status = proof::status(target, &seen);
        restart_finishes |= status == UpdateStatus::Removing;
        match status {
            UpdateStatus::Installed(Reversible::No)
            | UpdateStatus::PendingReboot(Reversible::No) => {
                let sentence = format!("{} cannot be removed from this Windows", run.kb);
                return mv.finish(job, End::of(OutcomeResult::NotReversible, sentence));
            }
            UpdateStatus::Installed(_) | UpdateStatus::PendingReboot(_) => {
                run.state = UpdateState::Waiting;
            }
            // Ordered by us in an earlier run, and gone or going now.
            _ if run.state == UpdateState::Running => {
                was_done |= status != UpdateStatus::Removing;
                run.state = UpdateState::Ended(super::ServicingResult {
                    code: 2,
                    hresult: 0,
                    reboot_required: status == UpdateStatus::Removing,
                    packages: Vec::new(),
                });
            }
            _ if matches!(run.state, UpdateState::Ended(_)) => {}
            _ => run.state = UpdateState::Skipped("not installed".to_owned()),
        }
    }
    job.reboot_required |= restart_finishes;
    // It may have been in force already when the device crashed, once or more often: that is no reason
    // to stop taking back, and one to look longer.
    if std::mem::take(&mut job.shaken) > 0 && was_done {
        job.strikes = job.strikes.max(1);
    }
    if job.next_update().is_none() && restart_finishes {
        return reboot::count_down(mv, job, RebootWhy::Finish, false, 0);
    }
    next(mv, job)
}

/// Removes the next update, or goes on to the restart and the proof.
pub(super) fn next(mv: &mut Move, mut job: JobRun) -> Option<JobRun> {
    let Some(index) = job.next_update() else {
        let in_same_boot = job.installed_in_boot.as_deref() == Some(mv.state.boot.as_str());
        return if job.reboot_required && in_same_boot {
            reboot::count_down(mv, job, RebootWhy::Finish, false, 0)
        } else {
            verify::settle(mv, job)
        };
    };
    match job.permit_until_mono_ms.filter(|until| mv.now.mono_ms < *until) {
        Some(until_mono_ms) => {
            let (before, next) = (HookMoment::BeforeInstall, AfterHook::Uninstall);
            if hooks::run(mv, &mut job, before, next, Some(until_mono_ms)) {
                return Some(job);
            }
            uninstall(mv, job, index, until_mono_ms)
        }
        None => {
            job.permit_until_mono_ms = None;
            ask_again(mv, job)
        }
    }
}

/// Asks for the permit.
pub(super) fn ask_again(mv: &mut Move, mut job: JobRun) -> Option<JobRun> {
    mv.enter(&mut job, Phase::AwaitingUninstall);
    permits::ask(mv, job, Step::Uninstall)
}

/// A gateway answered.
pub(super) fn permit_answered(
    mv: &mut Move,
    mut job: JobRun,
    asked_mono_ms: u64,
    answer: Option<PermitAnswer>,
) -> Option<JobRun> {
    match permits::read(mv, &mut job, asked_mono_ms, answer) {
        Permitted::Go { until_mono_ms } => {
            job.permit_until_mono_ms = Some(until_mono_ms);
            next(mv, job)
        }
        Permitted::AskAgain => ask_again(mv, job),
        Permitted::Wait { after_ms } => {
            mv.pause(&mut job, after_ms);
            Some(job)
        }
        Permitted::TooLate(message) => {
            let end = End::stopped(&job, "StartByPassed", message);
            mv.finish(job, end)
        }
        Permitted::Over(end) => mv.finish(job, end),
    }
}

fn uninstall(mv: &mut Move, mut job: JobRun, index: usize, until_mono_ms: u64) -> Option<JobRun> {
    let update = job.payload.updates[index].clone();
    let record = mv.record_of(&job.payload.key.rollout_uid);
    let packages =
        record.and_then(|record| record.packages.get(&update.kb).cloned()).unwrap_or_default();
    mv.enter(&mut job, Phase::Uninstalling { index });
    job.touched = true;
    job.updates[index].state = UpdateState::Running;
    if let Some(own) = &mut job.own_rollback {
        // Half of it is worse than either: no answer stops it any more.
        own.was = None;
    }
    job.installed_in_boot = Some(mv.state.boot.clone());
    job.shaken = 0;
    let key = job.payload.key.clone();
    let tries = retry::number(&job, index);
    let ask = Ask::Uninstall { key, update, packages, tries, not_after_mono_ms: until_mono_ms };
    mv.ask(&mut job, ask, UNINSTALL_LIMIT_MS);
    Some(job)
}

/// The removal of one update ended.
pub(super) fn uninstalled(
    mv: &mut Move,
    mut job: JobRun,
    index: usize,
    found: InstallFound,
) -> Option<JobRun> {
    match found {
        InstallFound::NotBegun => {
            job.updates[index].state = UpdateState::Waiting;
            job.permit_until_mono_ms = None;
        }
        InstallFound::Ended(result) => {
            let (is_success, hresult) = (result.is_success(), Hresult(result.hresult));
            let what = result.explanation();
            job.reboot_required |= result.wants_restart();
            let kb = job.updates[index].kb.clone();
            let following =
                if is_success { Next::Nothing } else { retry::next(mv, &job, &kb, &result) };
            match following {
                Next::Again { after_ms } => {
                    retry::note(&mut job, index, result, false);
                    job.message = format!(
                        "in {} min again: removing {kb} failed with {what}",
                        after_ms / 60_000
                    );
                    mv.enter(&mut job, Phase::AwaitingUninstall);
                    mv.pause(&mut job, after_ms);
                    return Some(job);
                }
                Next::AfterRestart => {
                    retry::note(&mut job, index, result, true);
                    job.message = format!("restarting first: removing {kb} failed with {what}");
                    return reboot::count_down(mv, job, RebootWhy::First, false, 0);
                }
                Next::Others | Next::Nothing => {}
            }
            job.updates[index].state = UpdateState::Ended(result);
            if hresult == CBS_E_CANNOT_UNINSTALL {
                let sentence = format!("{kb} cannot be removed: Windows answered {what}");
                return mv.finish(job, End::of(OutcomeResult::NotReversible, sentence));
            }
            if !is_success {
                let sentence = format!("removing {kb} failed with {what}");
                let end = End::failed(&job, "InstallFailed", sentence);
                return mv.finish(job, end);
            }
        }
    }
    next(mv, job)
}

/// The end of a rollback on a device whose Windows became another version with the updates. Whatever of
/// the job is there now is the new Windows' own, and its removal would take nothing back.
fn upgraded(mv: &Move, job: &JobRun, seen: &Inspection) -> Option<End> {
    let is_ours = job.own_rollback.is_some() || mv.upgraded_by(&job.payload.key.rollout_uid);
    let sentence = proof::another_windows(job, seen, is_ours).filter(|_| is_ours)?;
    let sentence = format!("{sentence}; removing an update does not take that back");
    Some(End::because(OutcomeResult::NotReversible, "BuildFamilyChanged", sentence))
}

/// The removal does not end.
pub(super) fn hangs(mv: &mut Move, job: JobRun) -> Option<JobRun> {
    let sentence = "the removal is not over after 3 hours; it is left running";
    let end = End::failed(&job, "InstallFailed", sentence);
    mv.finish(job, end)
}
