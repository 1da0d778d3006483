//! The one thing that the agent does without a permit: taking back what this very job installed.
//!
//! A device that crashes again and again may never reach a gateway, and one whose network an update
//! killed reaches none, so nobody could permit it. The sealed job must ask for it, the agent judges its own roles, and it happens once per job. From
//! there on it is the rollback that a gateway would have permitted: journalled before every act,
//! with its own bound of restarts, and called good only when the updates are verifiably gone.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use wardring_protocol::{Mode, PermitAnswer};
use wardring_seal::{Action, OutcomePayload, OutcomeResult};

use super::end::End;
use super::{
    BootKind, BootRecord, Contact, Inspection, JobRun, Move, Phase, UpdateRun, UpdateState,
    UpdateStatus, proof, reboot, rollback, verify,
};

/// Crashes and losses of power since the update that it must answer for. One is bad luck.
const CRASHES: u32 = 2;
/// WU_S_ALREADY_INSTALLED: somebody else was faster, so it is not this job's to take back.
const ALREADY_INSTALLED: u32 = 0x0024_0006;
/// Reason of a rollback that an answer from the network calls off.
pub(super) const NETWORK_LOST: &str = "NetworkLost";
/// Roles whose devices never do it, in the words of the facts: others depend on them, and what they
/// hold must not go back in time by their own judgement.
/// One that cannot read what it is may be one of them.
const NEVER: [(&str, &str); 3] = [
    ("DomainController", "a domain controller"),
    ("ClusterNode", "a node of a failover cluster"),
    ("Unknown", "a device that cannot tell its roles"),
];

/// A rollback that nobody permitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnRollback {
    /// Reason word of the API.
    pub reason: String,
    /// What made the device do it, a sentence without its end.
    pub why: String,
    /// What this job had ordered and nobody else: only that is removed.
    pub kbs: BTreeSet<String>,
    /// Boots since its first removal was ordered. What crashes before is what it is for: every boot is
    /// another chance to get that far.
    pub boots: Vec<BootRecord>,
    /// Own restarts before it.
    pub reboots_before: u32,
    /// The job as it was, where an answer from the network calls it off before the first removal.
    #[serde(default)]
    pub was: Option<Box<JobRun>>,
}

/// Whether a boot counts towards a rollback without a permit. Clean restarts never do, and neither
/// do those that nobody can explain.
pub(super) fn counts(kind: BootKind) -> bool {
    matches!(kind, BootKind::Crash | BootKind::Dirty)
}

/// The role that keeps a device from it, in words.
pub(super) fn forbidding_role(roles: &[String]) -> Option<&'static str> {
    NEVER.iter().find(|(role, _)| roles.iter().any(|own| own == role)).map(|(_, words)| *words)
}

/// The device restarts again and again: it takes back what it installed where that is asked for and
/// allowed, and ends the job otherwise.
pub(super) fn looped(mv: &mut Move, job: JobRun, sentence: String) -> Option<JobRun> {
    // A rollback takes nothing back itself, whatever its payload says.
    let asked = job.payload.key.action == Action::Install
        && job.payload.autonomous_rollback.as_ref().is_some_and(|asked| asked.boot_loop);
    let few =
        |crashes| format!("crashes and losses of power count, {CRASHES} of them, not {crashes}");
    let too_few = || (job.crashes < CRASHES).then(|| few(job.crashes));
    let refusal = if asked { refusal(mv, &job).or_else(too_few) } else { None };
    let sentence = match refusal {
        None if asked => return begin(mv, job, "BootLoop", sentence),
        None => sentence,
        Some(refusal) => format!("{sentence}; it does not roll back by itself: {refusal}"),
    };
    let end = End::stopped(&job, "BootLoop", sentence);
    mv.close(job, end)
}

/// Why the device must not do it, whatever the job asks for.
pub(super) fn refusal(mv: &Move, job: &JobRun) -> Option<String> {
    if job.own_rollback.is_some() {
        return Some("it did so once".to_owned());
    }
    if let Some(role) = &job.forbidding_role {
        return Some(format!("it is {role}"));
    }
    if mv.state.mode == Mode::Observe {
        return Some("it is in mode Observe".to_owned());
    }
    if mv.state.paused.is_some() {
        return Some("an administrator paused the agent".to_owned());
    }
    if mv.now.wall > job.payload.finish_by {
        return Some("the time of the job is over".to_owned());
    }
    ordered(job).is_empty().then(|| "this job installed nothing".to_owned())
}

/// What this job installed or may have installed.
fn ordered(job: &JobRun) -> BTreeSet<String> {
    let may_be_there = |run: &&UpdateRun| match &run.state {
        UpdateState::Running => true,
        UpdateState::Ended(result) => result.is_success() && result.hresult != ALREADY_INSTALLED,
        UpdateState::Unseen | UpdateState::Waiting | UpdateState::Skipped(_) => false,
    };
    job.updates.iter().filter(may_be_there).map(|run| run.kb.clone()).collect()
}

/// From here on the job is a rollback. What it did until now is remembered as if it had ended, so
/// that the rollback finds its packages and the baseline from before its first attempt.
pub(super) fn begin(mv: &mut Move, mut job: JobRun, reason: &str, why: String) -> Option<JobRun> {
    let was = (reason == NETWORK_LOST).then(|| Box::new(job.clone()));
    mv.remember(&job, OutcomeResult::Failed, None);
    let kbs = ordered(&job);
    for run in &mut job.updates {
        run.state = match kbs.contains(&run.kb) {
            true => UpdateState::Unseen,
            false => UpdateState::Skipped("not installed by this job".to_owned()),
        };
    }
    let reason = reason.to_owned();
    let (boots, reboots_before) = (Vec::new(), job.reboots);
    job.own_rollback = Some(OwnRollback { reason, why, kbs, boots, reboots_before, was });
    job.already = false;
    job.reboot_required = false;
    (job.strikes, job.crashes) = (0, 0);
    job.trouble = None;
    job.ending = None;
    job.tries.clear();
    job.remediations.clear();
    job.pids.clear();
    rollback::begin(mv, job)
}

/// The reason for it is gone, and nothing was removed yet: the job goes on as the installation that it
/// was, and proves it anew.
pub(super) fn call_off(mv: &mut Move, job: JobRun) -> Option<JobRun> {
    let JobRun { payload, boots, forbidding_role, own_rollback, .. } = job;
    let was = own_rollback.and_then(|own| own.was)?;
    let contact = Contact::default();
    let (ending, message) = (None, String::new());
    let back = JobRun { payload, boots, forbidding_role, contact, ending, message, ..*was };
    verify::settle(mv, back)
}

impl JobRun {
    /// Whether an answer from the network would still call a rollback off.
    pub(super) fn may_be_called_off(&self) -> bool {
        self.own_rollback.as_ref().is_some_and(|own| own.was.is_some())
    }

    /// Whether a rollback concerns this update.
    pub(super) fn takes_back(&self, kb: &str) -> bool {
        self.own_rollback.as_ref().is_none_or(|own| own.kbs.contains(kb))
    }

    /// Whether this is a rollback that nobody permitted, and none of its removals was ordered yet.
    pub(super) fn is_about_to_roll_back(&self) -> bool {
        let is_ordered =
            |run: &UpdateRun| matches!(run.state, UpdateState::Running | UpdateState::Ended(_));
        self.own_rollback.is_some() && self.tries.is_empty() && !self.updates.iter().any(is_ordered)
    }
}

/// The end of a rollback that has nothing to do, because Windows did it first.
pub(super) fn nothing_left(job: &JobRun, seen: &Inspection) -> Option<End> {
    let is_there = |status| {
        matches!(
            status,
            UpdateStatus::Installed(_) | UpdateStatus::PendingReboot(_) | UpdateStatus::Removing
        )
    };
    let targets = job.payload.updates.iter().filter(|target| job.takes_back(&target.kb));
    let is_left = targets.map(|target| proof::status(target, seen)).any(is_there);
    (job.is_about_to_roll_back() && !is_left).then(|| {
        let sentence = format!("Windows took back what was installed; the build is {}", seen.build);
        End::of(OutcomeResult::RevertedByWindows, sentence)
    })
}

/// Whether the agent grants the next step itself: a removal of this rollback, or its restart.
pub(super) fn grants(job: &JobRun) -> bool {
    let is_step = matches!(job.phase, Phase::AwaitingUninstall | Phase::AwaitingReboot { .. });
    job.own_rollback.is_some() && is_step
}

/// Goes on as after a gateway's permit, which lives no longer here than there.
pub(super) fn go_on(mv: &mut Move, job: JobRun) -> Option<JobRun> {
    let (asked, answer) = (mv.now.mono_ms, Some(PermitAnswer::Granted));
    match job.phase {
        Phase::AwaitingReboot { why, counted, tries } => {
            reboot::permit_answered(mv, job, (why, counted, tries), asked, answer)
        }
        _ => rollback::permit_answered(mv, job, asked, answer),
    }
}

/// Tells in the outcome why the device did it.
pub(super) fn explain(job: &JobRun, outcome: &mut OutcomePayload) {
    let Some(own) = &job.own_rollback else { return };
    outcome.reason.get_or_insert_with(|| own.reason.clone());
    outcome.message = format!("it rolled back by itself ({}): {}", own.why, outcome.message);
}
