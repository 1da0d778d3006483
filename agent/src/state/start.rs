//! The beginning of a run: which boot this is, and where the job goes on.

use super::boots::is_strike;
use super::end::End;
use super::{
    AfterHook, Contact, JobRun, MAX_BOOTS, Move, Phase, RebootWhy, Start, UpdateState, Waiting,
    autonomous, hooks, install, off, preflight, reboot, retry, rollback, verify, watch,
};

/// Boots that a job remembers: enough to tell a loop, bounded because a loop has no end.
const MAX_JOB_BOOTS: usize = 8;

/// Takes up work where the journal left it.
pub(super) fn started(mv: &mut Move, start: Start) {
    let is_new_boot = mv.state.boot != start.boot.boot_id;
    let was_enrolled_as = mv.state.me.replace(start.me.clone());
    let ended = std::mem::replace(&mut mv.state.boot, start.boot.boot_id.clone());
    mv.state.build = start.build;
    mv.state.refuses = start.refuses;
    mv.state.roles = start.roles;
    mv.state.paused = start.paused;
    mv.state.lost |= start.lost;
    mv.state.turn += 1;
    mv.state.run = start.run;
    mv.state.run_began_mono_ms = mv.now.mono_ms;
    if is_new_boot {
        mv.state.boots.push(start.boot.clone());
        let surplus = mv.state.boots.len().saturating_sub(MAX_BOOTS);
        mv.state.boots.drain(..surplus);
        watch::booted(mv, &start.boot);
    }
    let is_another = was_enrolled_as.is_some_and(|me| me != start.me);
    if is_another {
        mv.state.watches.clear();
    }
    let Some(mut job) = mv.state.job.take() else { return };
    if is_another {
        // Enrolled anew: the old job belongs to an identity that no longer speaks for this device.
        let sentence = "the device was enrolled anew";
        let end = End::stopped(&job, "Replaced", sentence);
        mv.close(job, end);
        return;
    }
    // Its clock was another run's.
    job.permit_until_mono_ms = None;
    job.warned_mono_ms = None;
    job.ordered_mono_ms = None;
    job.waiting.take_up();
    job.contact.take_up();
    if let Some(role) = autonomous::forbidding_role(&mv.state.roles) {
        job.forbidding_role = Some(role.to_owned());
    }
    if is_new_boot {
        // Windows started every service anew.
        job.pids.clear();
        job.waiting = Waiting::default();
        job.contact = Contact::default();
        let is_blamed = is_blamed(&job, &ended);
        let is_struck = is_blamed && is_strike(start.boot.kind, job.phase.is_proof());
        job.strikes += u32::from(is_struck);
        // In the middle of a removal: whether it was done then, the survey tells.
        let is_removing = job.is_rollback() && job.is_removing() && !job.reboot_required;
        job.shaken += u32::from(!is_struck && is_removing && is_strike(start.boot.kind, false));
        job.crashes += u32::from(is_blamed && autonomous::counts(start.boot.kind));
        let is_about_to = job.is_about_to_roll_back();
        if let Some(own) = job.own_rollback.as_mut().filter(|_| !is_about_to) {
            own.boots.push(start.boot.clone());
        }
        job.boots.push(start.boot);
        let surplus = job.boots.len().saturating_sub(MAX_JOB_BOOTS);
        job.boots.drain(..surplus);
        if mv.loops(&job) {
            let sentence = match job.strikes {
                0 => format!("{} boots since the job was accepted", job.boots.len()),
                strikes => format!(
                    "{} boots since the job was accepted, {strikes} of them after a crash or a \
                     loss of power",
                    job.boots.len()
                ),
            };
            mv.state.job = autonomous::looped(mv, job, sentence);
            return;
        }
    }
    if is_new_boot && job.may_be_called_off() {
        // The silence was another boot's.
        mv.state.job = autonomous::call_off(mv, job);
        return;
    }
    mv.state.job = if is_new_boot { new_boot(mv, job) } else { same_boot(mv, job) };
}

/// Whether this job must answer for the end of that boot. What waits for its restart is not in force
/// yet: a removal has not helped, and an update has not harmed. A removal without a restart helps at
/// once, and all of them are done when their proof begins.
fn is_blamed(job: &JobRun, ended: &str) -> bool {
    let is_since = job.installed_in_boot.as_deref() != Some(ended);
    let rests = matches!(
        job.phase,
        Phase::AwaitingReboot { .. }
            | Phase::AwaitingInstall
            | Phase::RunningHook { next: AfterHook::Reboot { .. } | AfterHook::Install, .. }
    );
    let waits = if job.is_rollback() {
        job.reboot_required || !job.phase.is_proof()
    } else {
        rests && job.reboot_required
    };
    // What crashes before the first removal is what the rollback is for.
    job.is_answerable() && !job.is_about_to_roll_back() && (is_since || !waits)
}

/// The agent was killed or restarted; Windows was not.
fn same_boot(mv: &mut Move, job: JobRun) -> Option<JobRun> {
    match job.phase.clone() {
        Phase::Preflight { .. } | Phase::Downloading { .. } => preflight::begin(mv, job),
        Phase::AwaitingInstall if job.begun() => install::begin(mv, job),
        Phase::AwaitingInstall => preflight::begin(mv, job),
        Phase::Installing { index } => install::find(mv, job, index),
        Phase::AwaitingReboot { why, counted, tries } => {
            reboot::count_down(mv, job, why, counted, tries)
        }
        // The call may never have been made: ask again, and repeat it under the same intent.
        Phase::Rebooting { why, tries, .. } => reboot::again(mv, job, why, tries),
        Phase::Settling { .. }
        | Phase::Verifying { .. }
        | Phase::AwaitingContact { .. }
        | Phase::Remediating { .. } => verify::settle(mv, job),
        Phase::RunningHook { next, .. } => hooks::resume(mv, job, next, false),
        Phase::Surveying { .. } | Phase::AwaitingUninstall | Phase::Uninstalling { .. } => {
            rollback::survey(mv, job)
        }
    }
}

/// Windows was restarted, by us or by anybody.
fn new_boot(mv: &mut Move, mut job: JobRun) -> Option<JobRun> {
    match job.phase.clone() {
        Phase::RunningHook { next, .. } if next != AfterHook::Install || !job.begun() => {
            hooks::resume(mv, job, next, true)
        }
        Phase::AwaitingReboot { why: RebootWhy::First, .. }
        | Phase::Rebooting { why: RebootWhy::First, .. } => preflight::begin(mv, job),
        Phase::Preflight { .. } | Phase::Downloading { .. } => preflight::begin(mv, job),
        Phase::AwaitingInstall if !job.begun() => preflight::begin(mv, job),
        Phase::AwaitingInstall | Phase::Installing { .. } | Phase::RunningHook { .. } => {
            // Somebody restarted in the middle. What waits is not begun any more; what runs is
            // judged by what the device looks like when it has settled.
            for index in 0..job.updates.len() {
                let waits = job.updates[index].state == UpdateState::Waiting;
                if !waits || retry::give_up(&mut job, index, "a restart came first") {
                    continue;
                }
                let why = off::last(&job).unwrap_or_else(|| "a restart came first".to_owned());
                let update = &mut job.updates[index];
                update.state = UpdateState::Skipped("interrupted by a restart".to_owned());
                install::note_trouble(
                    &mut job.trouble,
                    &update.kb,
                    &format!("was not begun: {why}"),
                );
            }
            verify::settle(mv, job)
        }
        Phase::AwaitingReboot { .. }
        | Phase::Rebooting { .. }
        | Phase::Settling { .. }
        | Phase::Verifying { .. }
        | Phase::AwaitingContact { .. }
        | Phase::Remediating { .. } => verify::settle(mv, job),
        Phase::Surveying { .. } | Phase::AwaitingUninstall | Phase::Uninstalling { .. } => {
            rollback::survey(mv, job)
        }
    }
}
