//! The permit rule: may this device take this irreversible step now? Pure; the gateway evaluates it
//! on a fresh read right before it appends to `permitted`.

mod holds;
mod hours;

pub use holds::{begins_installation, missing_group};

use jiff::{SignedDuration, Timestamp};
use wardring_api::{
    AwaitingRebootAction, DeviceMode, GateState, JobAction, LineState, PatchRollback, PatchRollout,
    Permit, PermitStep, SliceLine, StageState, StageStatus, UpdateSpec, reasons::Reason,
};

use std::sync::Arc;

use crate::{
    DeviceRow, HoldView, JobView, StopView, WindowView, emergency, explain::one_line, gates,
    order_is_approved, order_is_rejected, rollback_is_approved, supersede,
};

/// Everything the rule looks at. Objects are as just read from the API server.
#[derive(Clone, Debug)]
pub struct PermitFacts<'a> {
    /// The instant.
    pub now: Timestamp,
    /// What the agent asks for.
    pub request: PermitRequest<'a>,
    /// The device's job, if there is one.
    pub job: Option<&'a JobView>,
    /// The device's line in the slice that the job names, if there is one.
    pub line: Option<&'a SliceLine>,
    /// The job's rollout, found by name; a different uid counts as absent.
    pub rollout: Option<&'a PatchRollout>,
    /// The device.
    pub device: Option<&'a DeviceRow>,
    /// Name of a group of the device whose reboots are held, if there is one.
    pub reboots_held_by: Option<&'a str>,
    /// Name of the group that the job's stage names, if there is no such group ([`missing_group`]).
    pub missing_group: Option<&'a str>,
    /// Name of a group of the device that only watches, if there is one.
    pub watched_by: Option<&'a str>,
    /// Name of a group of the device that forbids rollbacks, if there is one.
    pub rollbacks_forbidden_by: Option<&'a str>,
    /// Name of a group of the device that asks a person before a rollback, if there is one.
    pub rollbacks_asked_by: Option<&'a str>,
    /// The PatchRollback that the rollout's status names, found by name, if it names one.
    pub order: Option<&'a PatchRollback>,
    /// What the device's groups name as their windows, each list for itself.
    pub group_windows: &'a [&'a [String]],
    /// Every MaintenanceWindow of the namespace.
    pub windows: &'a [Arc<WindowView>],
    /// Every EmergencyStop of the cluster.
    pub stops: &'a [Arc<StopView>],
    /// Every UpdateHold of the namespace; needed only where the step begins an installation
    /// ([`begins_installation`]).
    pub holds: &'a [HoldView],
    /// Every Update of the namespace; of no use, and therefore not needed, where the step does not begin an
    /// installation, or no hold bars successors on the device ([`crate::bars_successors`]).
    pub updates: &'a [Arc<UpdateSpec>],
    /// The circumstances.
    pub circumstances: Circumstances,
}

/// What an agent asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermitRequest<'a> {
    /// Uid of the rollout, from the job's key.
    pub rollout_uid: &'a str,
    /// Enrolment id, from the client certificate.
    pub enrolment_id: &'a str,
    /// Attempt, from the job's key.
    pub attempt: u32,
    /// Action, from the job's key.
    pub action: JobAction,
    /// The irreversible step.
    pub step: PermitStep,
    /// Run of the agent's process.
    pub agent_run: &'a str,
    /// Run in which the agent accepted the job, from its journal.
    pub accepted_in: &'a str,
    /// Boot in which it asks.
    pub boot_id: &'a str,
}

/// Circumstances of the gateway that evaluates the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// The leader's Lease was renewed lately, by the gateway's own monotonic clock.
    pub leader_fresh: bool,
    /// Every object was read from the API server just now.
    pub api_read: bool,
    /// Another live run of an agent uses the same key.
    pub second_live_run: bool,
    /// The gateway's clock and the API server's agree within 30 s.
    pub clock_trusted: bool,
    /// The namespace was restored from a backup and nobody confirmed it yet.
    pub restored_from_backup: bool,
    /// The namespace is being deleted, or is gone already.
    pub namespace_deleting: bool,
}

impl Circumstances {
    /// Nothing is in the way.
    pub const GOOD: Circumstances = Circumstances {
        leader_fresh: true,
        api_read: true,
        second_live_run: false,
        clock_trusted: true,
        restored_from_backup: false,
        namespace_deleting: false,
    };
}

/// Answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PermitVerdict {
    /// Yes, once it is appended to `permitted`.
    Granted {
        /// The same run already holds this permit: nothing needs to be appended.
        repeated: bool,
        /// What [`Permit::expedited`] of the permit that is appended has to say.
        expedited: bool,
    },
    /// Not now; ask again.
    Refused {
        /// Reason word.
        reason: Reason,
        /// The sentence.
        message: String,
        /// When to ask again.
        retry_after: SignedDuration,
    },
    /// Never for this job; the agent ends it.
    Ended {
        /// Reason word.
        reason: Reason,
        /// The sentence.
        message: String,
    },
}

/// Permits that one job may collect, over all steps and boots.
pub const MAX_PERMITS: usize = 8;

/// How long an agent waits before it asks again when a person or the run is in the way.
const ASK_LATER: SignedDuration = SignedDuration::from_secs(30);
/// The same when only a moment is needed: a leader, a read, a slice write.
const ASK_SOON: SignedDuration = SignedDuration::from_secs(5);

/// May the device take this step now? Everything that can say no is asked before anything says yes.
pub fn permit(facts: &PermitFacts<'_>) -> PermitVerdict {
    let refusal = circumstances(&facts.circumstances)
        .or_else(|| namespace(&facts.circumstances))
        .or_else(|| job(facts))
        .or_else(|| device(facts))
        .or_else(|| line(facts))
        .or_else(|| rollout(facts))
        .or_else(|| emergency_stop(facts))
        .or_else(|| holds::update_hold(facts))
        .or_else(|| holds::watched(facts))
        .or_else(|| rollback(facts))
        .or_else(|| gate(facts))
        .or_else(|| holds::stage_without_group(facts))
        .or_else(|| bounds(facts))
        .or_else(|| hours::window(facts))
        .or_else(|| holds::group(facts))
        .or_else(|| another_agent(facts));
    refusal.unwrap_or_else(|| grant(facts))
}

fn refused(reason: Reason, retry_after: SignedDuration) -> Option<PermitVerdict> {
    refused_because(reason, reason.meaning().to_owned(), retry_after)
}

fn refused_because(
    reason: Reason,
    message: String,
    retry_after: SignedDuration,
) -> Option<PermitVerdict> {
    Some(PermitVerdict::Refused { reason, message, retry_after })
}

fn ended(reason: Reason, message: &str) -> Option<PermitVerdict> {
    Some(PermitVerdict::Ended { reason, message: message.to_owned() })
}

/// A gateway that cannot see, or sees something impossible, permits nothing.
fn circumstances(circumstances: &Circumstances) -> Option<PermitVerdict> {
    if !circumstances.api_read {
        return refused(Reason::ApiUnavailable, ASK_SOON);
    }
    if !circumstances.clock_trusted {
        return refused(Reason::ClockSkew, ASK_LATER);
    }
    if circumstances.restored_from_backup {
        return refused(Reason::RestoredFromBackup, ASK_LATER);
    }
    if !circumstances.leader_fresh {
        return refused(Reason::NoLeader, ASK_SOON);
    }
    if circumstances.second_live_run {
        return refused(Reason::TwoAgents, ASK_LATER);
    }
    None
}

/// The rollout of a namespace that goes shows no deletion until its turn comes, seconds later.
fn namespace(circumstances: &Circumstances) -> Option<PermitVerdict> {
    if circumstances.namespace_deleting {
        return ended(Reason::Deleting, "The namespace is being deleted.");
    }
    None
}

fn job(facts: &PermitFacts<'_>) -> Option<PermitVerdict> {
    let request = &facts.request;
    let job = facts.job.filter(|job| {
        !job.deleting
            && job.rollout_uid == request.rollout_uid
            && job.enrolment_id == request.enrolment_id
            && job.attempt == request.attempt
            && job.action == request.action
    });
    if job.is_none() {
        return ended(Reason::NoSuchJob, Reason::NoSuchJob.meaning());
    }
    let belongs = match request.step {
        PermitStep::Install => request.action == JobAction::Install,
        PermitStep::Uninstall => request.action == JobAction::Rollback,
        PermitStep::Reboot => request.action != JobAction::Download,
    };
    if belongs { None } else { ended(Reason::NoSuchJob, "The job does not ask for this step.") }
}

fn device(facts: &PermitFacts<'_>) -> Option<PermitVerdict> {
    let enrolled =
        facts.device.filter(|row| row.enrolment_id.as_deref() == Some(facts.request.enrolment_id));
    let Some(row) = enrolled else {
        return ended(Reason::Replaced, Reason::Replaced.meaning());
    };
    if row.quarantined {
        return refused(Reason::Quarantined, ASK_LATER);
    }
    if row.mode != DeviceMode::Manage {
        return refused(Reason::ObserveMode, ASK_LATER);
    }
    if row.paused.as_ref().is_some_and(|pause| pause.until.is_none_or(|until| facts.now < until)) {
        return refused(Reason::Paused, ASK_LATER);
    }
    match &row.hold {
        Some(hold) if hold.until.is_none_or(|until| facts.now < until) => refused_because(
            Reason::DeviceHeld,
            format!("A person holds the device: {}.", one_line(&hold.reason)),
            ASK_LATER,
        ),
        _ => None,
    }
}

/// The slice line is the record: only it says that the grant is in force.
fn line(facts: &PermitFacts<'_>) -> Option<PermitVerdict> {
    let request = &facts.request;
    let not_granted = |retry| refused(Reason::NotGranted, retry);
    let Some(line) = facts.line else { return not_granted(ASK_LATER) };
    let is_same = line.attempt == request.attempt
        && line.action == request.action
        && line.enrolment_id.as_deref() == Some(request.enrolment_id);
    match line.state {
        LineState::Granted if is_same => None,
        // A device that was given up takes a slot again before it goes on.
        LineState::Unreachable if is_same => not_granted(ASK_LATER),
        _ if line.attempt > request.attempt => {
            ended(Reason::NotGranted, "A newer attempt took this one's place.")
        }
        // The line may be about to be written, or the job about to be deleted.
        _ => not_granted(ASK_SOON),
    }
}

/// The stops. What a person just wrote counts at once, before the controller has latched it.
fn rollout(facts: &PermitFacts<'_>) -> Option<PermitVerdict> {
    let uid = Some(facts.request.rollout_uid);
    let Some(rollout) = facts.rollout.filter(|all| all.metadata.uid.as_deref() == uid) else {
        return ended(Reason::NoSuchJob, "The rollout does not exist any more.");
    };
    if rollout.metadata.deletion_timestamp.is_some() {
        return ended(Reason::Deleting, Reason::Deleting.meaning());
    }
    let status = rollout.status.as_ref();
    let finishes = facts.request.step == PermitStep::Reboot
        && facts.request.action == JobAction::Install
        && rollout.spec.on_halt.installed_awaiting_reboot == AwaitingRebootAction::Finish;
    let is_aborted =
        rollout.spec.abort.is_some() || status.is_some_and(|status| status.aborted.is_some());
    // What an aborted rollout brought may still be taken back, on a person's order.
    let is_ordered = facts.request.action == JobAction::Rollback
        && facts.line.is_some_and(|line| line.ordered)
        && status.and_then(|status| status.rollback.as_ref()?.ordered()).is_some();
    if is_aborted && !finishes && !is_ordered {
        let gave_way = status.filter(|status| supersede::is_superseded(status));
        if let (Some(latch), None) =
            (gave_way.and_then(|status| status.aborted.as_ref()), &rollout.spec.abort)
        {
            return ended(Reason::SupersededByRollout, &latch.message);
        }
        return ended(Reason::AbortedByPerson, Reason::AbortedByPerson.meaning());
    }
    let is_suspended = rollout.spec.suspend == Some(true)
        || status.is_some_and(|status| status.suspended.is_some());
    if is_suspended {
        return refused(Reason::SuspendedByPerson, ASK_LATER);
    }
    let halted = status.and_then(|status| status.halted.as_ref());
    match halted {
        // Taking updates back is what a halt is for.
        Some(_) if finishes || facts.request.action == JobAction::Rollback => None,
        Some(latch) => refused_because(Reason::RolloutStopped, latch.message.clone(), ASK_LATER),
        None => None,
    }
}

/// A person's brake over every rollout, `onHalt: Finish` included: what an update does at the next start
/// of Windows may be the very thing that is to be stopped. Asked before the job's bounds, so that
/// nothing ends for good while it cannot go on.
fn emergency_stop(facts: &PermitFacts<'_>) -> Option<PermitVerdict> {
    let stop = emergency::stopping(facts.stops, facts.job?, &facts.device?.labels)?;
    refused_because(Reason::EmergencyStop, stop.sentence(), ASK_LATER)
}

/// Whoever deletes an order, or forbids rollbacks, means it from that moment on, before the controller
/// has read it. What has begun comes to its end.
fn rollback(facts: &PermitFacts<'_>) -> Option<PermitVerdict> {
    let job = facts.job.filter(|job| job.action == JobAction::Rollback)?;
    if job.permitted.iter().any(|permit| permit.attempt == job.attempt) {
        return None;
    }
    if let Some(group) = facts.rollbacks_forbidden_by {
        let message = format!("Group {group} forbids rollbacks of its devices.");
        return refused_because(Reason::RollbackForbidden, message, ASK_LATER);
    }
    let rollout = facts.rollout?;
    let named = rollout.status.as_ref().and_then(|all| all.rollback.as_ref()?.ordered());
    let is_ordered = facts.line.is_some_and(|line| line.ordered);
    let Some(named) = named.filter(|_| is_ordered) else { return unapproved(facts, rollout) };
    let is_it = |order: &&PatchRollback| {
        order.metadata.uid.as_ref() == Some(&named.uid)
            && order.metadata.deletion_timestamp.is_none()
    };
    match facts.order.filter(is_it) {
        Some(order) => second_person(facts, rollout, order),
        None => refused(Reason::RollbackWithdrawn, ASK_LATER),
    }
}

/// What goes beyond an order's own share begins by the word of a second person only, and what that person
/// rejected not at all. The order says whether one was asked; the counters never tell more than there was.
fn second_person(
    facts: &PermitFacts<'_>,
    rollout: &PatchRollout,
    order: &PatchRollback,
) -> Option<PermitVerdict> {
    let name = order.metadata.name.as_deref().unwrap_or_default();
    if order_is_rejected(order) {
        let message = format!("A person rejected PatchRollback {name}.");
        return refused_because(Reason::RollbackRejected, message, ASK_LATER);
    }
    let share = order.spec.approval_above?;
    let refused =
        |message: String| refused_because(Reason::RollbackAwaitsApproval, message, ASK_LATER);
    let (size, taken) = counted(rollout);
    let before = rollout.status.as_ref().map_or(0, |status| status.rolled_back_before);
    let taken = taken + before as usize;
    let marked = order.status.as_ref().map_or(0, |status| status.counts.total as usize);
    match order.status.as_ref().and_then(|status| status.approval.as_ref()) {
        Some(_) if !order_is_approved(order, rollout, facts.now) => {
            refused(format!("PatchRollback {name} waits for a second person's approval."))
        }
        Some(known) if taken >= known.up_to as usize => {
            let up_to = known.up_to;
            refused(format!("A second person approved PatchRollback {name} for {up_to} devices."))
        }
        Some(_) => None,
        // One that nobody was asked about is within its share, or whoever began it does not know the field.
        None if taken >= share.of(size) || marked > share.of(size) => refused(format!(
            "PatchRollback {name} takes back no more than {share} without a second person's approval."
        )),
        None => None,
    }
}

/// Devices of the run, and those of them whose rollback has ended.
fn counted(rollout: &PatchRollout) -> (usize, usize) {
    let stages = || rollout.status.iter().flat_map(|status| &status.stages);
    let opened = stages().filter(|stage| stage.state.has_opened());
    let total: u32 = opened.map(|stage| stage.counts.total).sum();
    let taken = |stage: &StageStatus| stage.counts.rolled_back + stage.counts.rollback_failed;
    (total as usize, stages().map(|stage| taken(stage) as usize).sum())
}

/// Where nobody ordered it, a rollback beyond the rollout's share, or of a device whose group asks, begins by a
/// person's approval only. The counters tell what has ended, so they never tell more than there was.
fn unapproved(facts: &PermitFacts<'_>, rollout: &PatchRollout) -> Option<PermitVerdict> {
    let refused =
        |message: String| refused_because(Reason::RollbackAwaitsApproval, message, ASK_LATER);
    let (total, taken) = counted(rollout);
    let known = rollout.status.as_ref().and_then(|status| status.rollback_approval.as_ref());
    if rollback_is_approved(rollout, facts.now) {
        let up_to = known.map_or(0, |known| known.up_to as usize);
        return (taken >= up_to)
            .then(|| refused(format!("A person approved a rollback of {up_to} devices at most.")))
            .flatten();
    }
    if let Some(group) = facts.rollbacks_asked_by {
        return refused(format!("Group {group} asks a person before its devices are rolled back."));
    }
    let share = rollout.spec.on_failure.approval_above?.of(total);
    // Where more is to be taken back than the share, what is healthy waits, also where there would be room. A
    // group that asks says nothing of the others.
    let is_healthy = facts
        .line
        .is_some_and(|line| matches!(line.was, Some(LineState::Succeeded | LineState::Granted)));
    let waits = known.is_some_and(|known| match known.state {
        GateState::Failed => true,
        GateState::Passed => false,
        _ => known.groups.is_empty(),
    });
    if is_healthy && waits {
        let message = "The device is healthy, and nobody approved to take its updates back.";
        return refused(message.to_owned());
    }
    (taken >= share)
        .then(|| refused(format!("More than {share} devices are rolled back by an approval only.")))
        .flatten()
}

/// A gate that failed or cannot be measured lets nothing more begin in its stage, whatever was granted
/// before. What is installed already may restart: half installed is the worst place to be.
fn gate(facts: &PermitFacts<'_>) -> Option<PermitVerdict> {
    if facts.request.step != PermitStep::Install {
        return None;
    }
    let (job, rollout) = (facts.job?, facts.rollout?);
    let stage = rollout.spec.stages.iter().find(|stage| stage.name == job.stage)?;
    let stages = &rollout.status.as_ref()?.stages;
    let status = stages.iter().find(|known| known.name == job.stage)?;
    let is_open = matches!(status.state, StageState::Open | StageState::Soaking | StageState::Tail);
    let held = gates::bars_starts(stage, status).filter(|_| is_open)?;
    refused_because(held.reason, held.message, ASK_LATER)
}

fn bounds(facts: &PermitFacts<'_>) -> Option<PermitVerdict> {
    let job = facts.job?;
    if facts.now >= job.finish_by {
        return ended(Reason::FinishByPassed, Reason::FinishByPassed.meaning());
    }
    let begins = facts.request.step != PermitStep::Reboot;
    if begins && facts.now >= job.start_by {
        return ended(Reason::TooLate, Reason::TooLate.meaning());
    }
    None
}

/// A restarted agent remembers which run accepted the job; two that accepted it are two agents with
/// one key, and the one that was permitted first goes on alone.
fn another_agent(facts: &PermitFacts<'_>) -> Option<PermitVerdict> {
    let request = &facts.request;
    let other = facts.job?.permitted.iter().find(|permit| {
        // Empty where an older gateway or CRD kept no note of it.
        permit.attempt == request.attempt
            && !permit.accepted_in.is_empty()
            && permit.accepted_in != request.accepted_in
    })?;
    refused_because(
        Reason::TwoAgents,
        format!(
            "Another agent with the same key accepted this job and was permitted to begin at {:.0}.",
            other.at
        ),
        ASK_LATER,
    )
}

/// Yes: once per run and boot, and not without end. One from when windows let it begin does not tell that haste
/// alone does now, so another is noted: once, should the note get lost, and never the one that the restart needs.
fn grant(facts: &PermitFacts<'_>) -> PermitVerdict {
    let given = facts.job.map(|job| job.permitted.as_slice()).unwrap_or_default();
    let (request, expedited) = (&facts.request, hours::is_expedited(facts));
    let is_mine = |permit: &&Permit| {
        permit.step == request.step
            && permit.attempt == request.attempt
            && permit.agent_run == request.agent_run
            && permit.boot_id == request.boot_id
    };
    let mine = given.iter().filter(is_mine);
    let is_noted = mine.clone().any(|permit| permit.expedited);
    let has_room = mine.clone().count() == 1 && given.len() + 1 < MAX_PERMITS;
    let tells_more = expedited && !is_noted && has_room;
    let repeated = mine.count() > 0 && !tells_more;
    if !repeated && given.len() >= MAX_PERMITS {
        return PermitVerdict::Ended {
            reason: Reason::BootLoop,
            message: format!("The job has had its {MAX_PERMITS} permits."),
        };
    }
    PermitVerdict::Granted { repeated, expedited }
}
