//! What people and groups hold: barred updates, and restarts while too many devices are away.

use wardring_api::{JobAction, PatchRollout, Permit, PermitStep, reasons::Reason};

use super::{ASK_LATER, PermitFacts, PermitVerdict, refused_because};
use crate::{JobView, bars};

/// Name of the group that the job's stage names, if it is none of `groups`, which are all of the namespace.
pub fn missing_group<'r>(
    rollout: Option<&'r PatchRollout>,
    job: Option<&JobView>,
    groups: impl IntoIterator<Item = impl AsRef<str>>,
) -> Option<&'r str> {
    let (stages, job) = (&rollout?.spec.stages, job?);
    let stage = stages.iter().find(|stage| stage.name == job.stage)?;
    let name = stage.group.as_deref()?;
    (!groups.into_iter().any(|group| group.as_ref() == name)).then_some(name)
}

/// Whether the step begins an installation, and so must not be permitted without knowing what bars it. The restart
/// that goes before an installation begins it, too. A job that was made again has lost its permits, and may well be
/// installed.
pub fn begins_installation(step: PermitStep, job: &JobView) -> bool {
    let goes_before = || job.action == JobAction::Install && !job.repaired && !may_be_in(job);
    match step {
        PermitStep::Install => true,
        PermitStep::Reboot => goes_before(),
        PermitStep::Uninstall => false,
    }
}

/// Whoever bars an update means it from that moment on, before the controller has taken back what it granted.
/// What is installed already may restart, and a rollback is for what is barred. Asked before the job's bounds,
/// like the stops.
pub(super) fn update_hold(facts: &PermitFacts<'_>) -> Option<PermitVerdict> {
    let (job, row) = (beginning(facts)?, facts.device?);
    let status = facts.rollout.and_then(|rollout| rollout.status.as_ref());
    let updates = status.map(|status| &*status.resolved_updates).unwrap_or_default();
    let told = bars::barred_by(facts.holds, job, row, updates, facts.updates)?;
    kept_back(job, Reason::UpdateHeld, told)
}

/// The same for a group of which its owners said that others patch it.
pub(super) fn watched(facts: &PermitFacts<'_>) -> Option<PermitVerdict> {
    let (job, group) = (beginning(facts)?, facts.watched_by?);
    let told = format!("Group {group} has patchAuthority Observe: nothing is installed on it.");
    kept_back(job, Reason::PatchAuthority, told)
}

/// The job, if the step that is asked for begins its installation.
fn beginning<'a>(facts: &PermitFacts<'a>) -> Option<&'a JobView> {
    facts.job.filter(|job| begins_installation(facts.request.step, job))
}

/// Whether an update of the job may be installed.
fn may_be_in(job: &JobView) -> bool {
    let installs =
        |permit: &Permit| permit.attempt == job.attempt && permit.step == PermitStep::Install;
    job.permitted.iter().any(installs)
}

/// A permit is asked for before each update of a job. Where the first may be in, the agent leaves out the rest,
/// restarts and proves that one, as when it is too late for another; it knows whether any is.
fn kept_back(job: &JobView, reason: Reason, told: String) -> Option<PermitVerdict> {
    match may_be_in(job) {
        true => super::ended(Reason::TooLate, &told),
        false => refused_because(reason, told, ASK_LATER),
    }
}

/// A group that is not there names no windows, holds no restarts and forbids no rollbacks, so nobody knows what
/// the stage's devices are to keep to. A rollback that has begun goes on until its restart.
pub(super) fn stage_without_group(facts: &PermitFacts<'_>) -> Option<PermitVerdict> {
    let (name, job) = (facts.missing_group?, facts.job?);
    let has_begun = job.permitted.iter().any(|permit| permit.attempt == job.attempt);
    if facts.request.step == PermitStep::Uninstall && has_begun {
        return None;
    }
    let told = format!(
        "Stage {} names DeviceGroup {name}, which does not exist: nobody knows its windows and limits.",
        job.stage
    );
    refused_because(Reason::GroupNotFound, told, ASK_LATER)
}

pub(super) fn group(facts: &PermitFacts<'_>) -> Option<PermitVerdict> {
    let group = facts.reboots_held_by.filter(|_| facts.request.step == PermitStep::Reboot)?;
    refused_because(
        Reason::RebootsHeld,
        format!(
            "Too many devices of group {group} are unavailable, or they are not counted yet; its reboots are held."
        ),
        ASK_LATER,
    )
}
