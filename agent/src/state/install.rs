//! Download, permit, install: one update per call, a permit in hand for each.

use wardring_protocol::{PermitAnswer, Step};
use wardring_seal::{Action, HookMoment, OutcomeResult};

use super::end::End;
use super::job::Trouble;
use super::permits::{self, Permitted};
use super::retry::{self, Next};
use super::{
    AfterHook, Ask, DownloadFailure, InstallFound, JobRun, Move, Phase, RebootWhy, ServicingResult,
    UpdateState, hooks, pause, preflight, reboot, verify,
};

/// Windows Update has no time limits of its own.
const DOWNLOAD_LIMIT_MS: u64 = 4 * 3_600_000;
const INSTALL_LIMIT_MS: u64 = 3 * 3_600_000;
/// Pauses before a download is tried again.
const DOWNLOAD_RETRY_MS: [u64; 2] = [30_000, 5 * 60_000];
/// A device that waits longer than this for its permit is looked at again before it begins.
const BASELINE_LIFE_S: i64 = 600;

/// Downloads what waits.
pub(super) fn download(mv: &mut Move, mut job: JobRun, tries: u32) -> Option<JobRun> {
    if let Some(end) = permits::barred(mv, &job) {
        return mv.finish(job, end);
    }
    mv.enter(&mut job, Phase::Downloading { tries });
    if pause::holds(mv, &mut job) {
        return Some(job);
    }
    let waiting = job.payload.updates.iter().zip(&job.updates);
    let updates = waiting
        .filter(|(_, run)| run.state == UpdateState::Waiting)
        .map(|(target, _)| target.clone())
        .collect();
    let key = job.payload.key.clone();
    mv.ask(&mut job, Ask::Download { key, updates }, DOWNLOAD_LIMIT_MS);
    Some(job)
}

/// The download ended.
pub(super) fn downloaded(
    mv: &mut Move,
    mut job: JobRun,
    tries: u32,
    result: Result<(), DownloadFailure>,
) -> Option<JobRun> {
    match result {
        Ok(()) if job.payload.key.action == Action::Download => {
            let end = End::of(OutcomeResult::Succeeded, "downloaded; nothing was installed");
            mv.finish(job, end)
        }
        Ok(()) => begin(mv, job),
        Err(failure) => {
            let pause = usize::try_from(tries).ok().and_then(|tries| DOWNLOAD_RETRY_MS.get(tries));
            match pause.filter(|_| failure.may_pass()) {
                Some(pause) => {
                    mv.enter(&mut job, Phase::Downloading { tries: tries + 1 });
                    job.message =
                        format!("the download failed and is tried again: {}", failure.sentence);
                    mv.pause(&mut job, *pause);
                    Some(job)
                }
                None => {
                    let times = match tries {
                        0 => String::new(),
                        tries => format!(" {} times", tries + 1),
                    };
                    let sentence = format!("the download failed{times}: {}", failure.sentence);
                    mv.finish(job, End::because(OutcomeResult::Failed, "DownloadFailed", sentence))
                }
            }
        }
    }
}

/// Begins the next update: at once with a permit in hand, else by asking for one.
pub(super) fn begin(mv: &mut Move, mut job: JobRun) -> Option<JobRun> {
    let Some(index) = job.next_update() else { return wrap_up(mv, job) };
    let in_hand = job.permit_until_mono_ms.filter(|until| mv.now.mono_ms < *until);
    match in_hand {
        Some(until_mono_ms) => {
            let (before, next) = (HookMoment::BeforeInstall, AfterHook::Install);
            if hooks::run(mv, &mut job, before, next, Some(until_mono_ms)) {
                return Some(job);
            }
            install(mv, job, index, until_mono_ms)
        }
        None => {
            mv.enter(&mut job, Phase::AwaitingInstall);
            permits::ask(mv, job, Step::Install)
        }
    }
}

/// Asks again after a refusal. A baseline from long ago may describe another device.
pub(super) fn ask_again(mv: &mut Move, mut job: JobRun) -> Option<JobRun> {
    let is_old = |at| mv.now.wall.duration_since(at).as_secs() > BASELINE_LIFE_S;
    if !job.touched && job.baseline.as_ref().is_some_and(|baseline| is_old(baseline.at)) {
        return preflight::begin(mv, job);
    }
    mv.enter(&mut job, Phase::AwaitingInstall);
    permits::ask(mv, job, Step::Install)
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
            begin(mv, job)
        }
        Permitted::AskAgain => {
            mv.enter(&mut job, Phase::AwaitingInstall);
            permits::ask(mv, job, Step::Install)
        }
        Permitted::Wait { after_ms } => {
            mv.pause(&mut job, after_ms);
            Some(job)
        }
        Permitted::TooLate(message) if !job.begun() => {
            let end = permits::told_too_late(&job, message);
            mv.finish(job, end)
        }
        Permitted::TooLate(message) => {
            skip_the_rest(&mut job, "StartByPassed", &message);
            wrap_up(mv, job)
        }
        Permitted::Over(end) => mv.finish(job, end),
    }
}

fn install(mv: &mut Move, mut job: JobRun, index: usize, until_mono_ms: u64) -> Option<JobRun> {
    mv.enter(&mut job, Phase::Installing { index });
    job.touched = true;
    job.updates[index].state = UpdateState::Running;
    job.installed_in_boot = Some(mv.state.boot.clone());
    let (key, update) = (job.payload.key.clone(), job.payload.updates[index].clone());
    let tries = retry::number(&job, index);
    let ask = Ask::Install { key, update, tries, not_after_mono_ms: until_mono_ms };
    mv.ask(&mut job, ask, INSTALL_LIMIT_MS);
    Some(job)
}

/// A run of the agent ended during an installation: find out, begin nothing.
pub(super) fn find(mv: &mut Move, mut job: JobRun, index: usize) -> Option<JobRun> {
    mv.enter(&mut job, Phase::Installing { index });
    let (key, update) = (job.payload.key.clone(), job.payload.updates[index].clone());
    let tries = retry::number(&job, index);
    mv.ask(&mut job, Ask::FindInstall { key, update, tries }, INSTALL_LIMIT_MS);
    Some(job)
}

/// The installation of one update ended.
pub(super) fn installed(
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
            job.reboot_required |= result.wants_restart();
            if !result.is_success() {
                return failed(mv, job, index, result);
            }
            job.updates[index].state = UpdateState::Ended(result);
        }
    }
    begin(mv, job)
}

/// One update failed: its code says whether this job tries it again.
fn failed(mv: &mut Move, mut job: JobRun, index: usize, result: ServicingResult) -> Option<JobRun> {
    let kb = job.updates[index].kb.clone();
    let what = retry::failed_with(&job, index, &result);
    match retry::next(mv, &job, &kb, &result) {
        Next::Again { after_ms } => {
            retry::note(&mut job, index, result, false);
            job.message = format!("in {} min again: {kb} {what}", after_ms / 60_000);
            mv.enter(&mut job, Phase::AwaitingInstall);
            mv.pause(&mut job, after_ms);
            Some(job)
        }
        Next::AfterRestart => {
            retry::note(&mut job, index, result, true);
            job.message = format!("restarting first: {kb} {what}");
            reboot::count_down(mv, job, RebootWhy::First, false, 0)
        }
        next @ (Next::Others | Next::Nothing) => {
            note_trouble(&mut job.trouble, &kb, &what);
            job.updates[index].state = UpdateState::Ended(result);
            if next == Next::Nothing {
                // The rest is not begun: what broke one update may break the next.
                skip_the_rest(&mut job, "InstallFailed", "an update before it failed");
            }
            begin(mv, job)
        }
    }
}

/// The installation does not end. It cannot be stopped safely, so it is left alone and named.
pub(super) fn hangs(mv: &mut Move, job: JobRun) -> Option<JobRun> {
    let sentence = "the installation is not over after 3 hours; it is left running";
    let end = End::because(OutcomeResult::Failed, "InstallFailed", sentence);
    mv.finish(job, end)
}

/// All that will be installed is: restart if an update asks for it, then prove.
fn wrap_up(mv: &mut Move, job: JobRun) -> Option<JobRun> {
    let any_success = job
        .updates
        .iter()
        .any(|update| matches!(&update.state, UpdateState::Ended(result) if result.is_success()));
    match &job.trouble {
        Some(trouble) if !any_success && !job.reboot_required => {
            let end = End::because(OutcomeResult::Failed, &trouble.reason, trouble.message.clone());
            mv.finish(job, end)
        }
        _ if job.reboot_required => reboot::count_down(mv, job, RebootWhy::Finish, false, 0),
        _ => verify::settle(mv, job),
    }
}

/// Remembers that an update failed; the first one is the one that is told.
pub(super) fn note_trouble(trouble: &mut Option<Trouble>, kb: &str, what: &str) {
    trouble.get_or_insert_with(|| Trouble {
        reason: "InstallFailed".to_owned(),
        message: format!("{kb} {what}"),
    });
}

fn skip_the_rest(job: &mut JobRun, reason: &str, why: &str) {
    for index in 0..job.updates.len() {
        if job.updates[index].state != UpdateState::Waiting || retry::give_up(job, index, why) {
            continue;
        }
        let update = &mut job.updates[index];
        update.state = UpdateState::Skipped(why.to_owned());
        job.trouble.get_or_insert_with(|| Trouble {
            reason: reason.to_owned(),
            message: format!("{} was not begun: {why}", update.kb),
        });
    }
}
