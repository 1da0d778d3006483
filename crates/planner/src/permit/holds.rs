//! What people and groups hold: barred updates, and restarts while too many devices are away.

use wardring_api::{PatchRollout, PermitStep, reasons::Reason};

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

/// Whoever bars an update means it from that moment on, before the controller has taken back what it granted.
/// What is installed already may restart, and a rollback is for what is barred. Asked before the job's bounds,
/// like the stops.
pub(super) fn update_hold(facts: &PermitFacts<'_>) -> Option<PermitVerdict> {
    if facts.request.step != PermitStep::Install {
        return None;
    }
    let (job, row) = (facts.job?, facts.device?);
    let status = facts.rollout.and_then(|rollout| rollout.status.as_ref());
    let updates = status.map(|status| &*status.resolved_updates).unwrap_or_default();
    let told = bars::barred_by(facts.holds, job, row, updates, facts.updates)?;
    refused_because(Reason::UpdateHeld, told, ASK_LATER)
}

/// The same for a group of which its owners said that others patch it.
pub(super) fn watched(facts: &PermitFacts<'_>) -> Option<PermitVerdict> {
    let group = facts.watched_by.filter(|_| facts.request.step == PermitStep::Install)?;
    let told = format!("Group {group} has patchAuthority Observe: nothing is installed on it.");
    refused_because(Reason::PatchAuthority, told, ASK_LATER)
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
