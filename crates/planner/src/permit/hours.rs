//! Maintenance windows at the desk: what they keep back, and what begins only because its stage is expedited.

use jiff::SignedDuration;
use wardring_api::{
    JobAction, PatchRollout, Permit, PermitStep, RollbackWindows, Stage, WindowAction,
    reasons::Reason,
};

use super::{ASK_LATER, PermitFacts, PermitVerdict, refused, refused_because};
use crate::{
    DeviceRow, JobView,
    agenda::Agenda,
    expedite,
    windows::{self, Hours, installed_at},
};

/// The longest that an agent waits for a window before it asks again: windows are edited, too.
const ASK_AT_LAST: SignedDuration = SignedDuration::from_mins(5);

/// Nothing starts outside a window, whatever was granted inside it.
pub(super) fn window(facts: &PermitFacts<'_>) -> Option<PermitVerdict> {
    let (job, row, rollout) = (facts.job?, facts.device?, facts.rollout?);
    let spec = &rollout.spec;
    let is_ordered = facts.line.is_some_and(|line| line.ordered);
    let status = rollout.status.as_ref().filter(|_| is_ordered);
    let of_rollbacks = windows::of_rollbacks(spec, status);
    if job.action == JobAction::Rollback && of_rollbacks == RollbackWindows::Ignore {
        return None;
    }
    let Some(stage) = stage_of(rollout, job) else {
        // Nobody knows what windows it has to keep to.
        return refused(Reason::NotGranted, ASK_LATER);
    };
    let known = rollout.status.as_ref().filter(|_| job.action != JobAction::Rollback);
    let expedite = known.and_then(|status| expedite::in_force(rollout, status, stage));
    let mut hours = Hours::new(stage, expedite);
    if job.action == JobAction::Install && facts.request.step == PermitStep::Reboot {
        hours = hours.of_restart(spec.expedite.as_ref(), job);
    }
    let agenda = agenda(facts, hours, job, row);
    let closed = match facts.request.step {
        PermitStep::Install => agenda.may_begin(WindowAction::Install, facts.now).err(),
        PermitStep::Uninstall => agenda.may_begin(WindowAction::Uninstall, facts.now).err(),
        PermitStep::Reboot => agenda.may_restart(installed_at(job), facts.now).err(),
    }?;
    let until = closed.until.map_or(ASK_LATER, |until| until.duration_since(facts.now));
    refused_because(closed.reason, closed.message, until.clamp(ASK_LATER, ASK_AT_LAST))
}

/// Whether an installation that [`window`] lets begin does so in haste alone: without it, the same windows would
/// keep it back. Noted at the permit, because nobody can tell later what they said.
pub(super) fn is_expedited(facts: &PermitFacts<'_>) -> bool {
    let is_install = facts.request.step == PermitStep::Install;
    let (Some(job), Some(row), Some(rollout)) =
        (facts.job.filter(|_| is_install), facts.device, facts.rollout)
    else {
        return false;
    };
    stage_of(rollout, job).is_some_and(|stage| {
        let agenda = agenda(facts, Hours::new(stage, None), job, row);
        agenda.may_begin(WindowAction::Install, facts.now).is_err()
    })
}

fn stage_of<'a>(rollout: &'a PatchRollout, job: &JobView) -> Option<&'a Stage> {
    rollout.spec.stages.iter().find(|stage| stage.name == job.stage)
}

/// The windows that concern the device with what it asks for: no cutoff keeps it from going on.
fn agenda<'a>(
    facts: &PermitFacts<'a>,
    hours: Hours<'a>,
    job: &JobView,
    row: &'a DeviceRow,
) -> Agenda<'a> {
    let agenda = hours.agenda(facts.windows, facts.group_windows.iter().copied(), row);
    let goes_on =
        |permit: &Permit| permit.attempt == job.attempt && permit.step == facts.request.step;
    if job.permitted.iter().any(goes_on) { agenda.begun() } else { agenda }
}
