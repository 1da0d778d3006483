//! What there is to tell about a namespace: alerts that hold now, and notices of what happened, each
//! with what Wardring did. Derived from what is written down and from nothing that a plan intends: what a
//! write that was lost would have said is told by nobody, and every leader derives the same.

mod ended;
mod stops;
mod telling;
mod told;
mod words;

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use wardring_api::{
    AlertKind, FailureAction, GateState, GateStatus, JobAction, LineState, PatchRollback,
    PatchRollout, PatchRolloutStatus, RollbackPolicy, RolloutPhase, SliceLine, StageState,
    conditions::{self, whole_seconds},
    reasons::Reason,
};

use crate::{
    Activity, DeviceRow, Doings, JobView, Snapshot,
    activity::{Record, of_record},
    caps::{Rules, later},
    damage,
    eligibility::{rollback_hold, rollback_policy},
    explain::{devices, working_copy},
    gates::is_enforced,
    order,
    wake::Wake,
};

pub use ended::{Ended, Evidence, is_in_trouble};
pub use telling::{Message, MessageState, Telling, to_tell};
pub use told::{OVER, TOLD, Told, ToldState};

/// Devices of one stage that are told of one by one for the same kind; more are one alert together. Nobody
/// reads a hundred pages in a night.
pub const ONE_BY_ONE: usize = 5;

/// What happened to devices of a run that is over is told this long.
const AFTER_THE_END: SignedDuration = SignedDuration::from_hours(24);

/// How well the leader sees devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Gateways are there and have been for long enough: silence is a device's own.
    Clear,
    /// Not yet, or not again: silence says nothing about a device.
    Settling,
    /// No gateway is there: it is Wardring who sees nobody.
    Blind {
        /// Since when.
        since: Timestamp,
    },
}

/// What there is to tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Alerts {
    /// What holds now, device by device.
    pub active: Vec<Alert>,
    /// What happened, with its time in `since`.
    pub notices: Vec<Alert>,
    /// Devices at work.
    pub in_flight: usize,
}

/// One thing to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// What it is.
    pub kind: AlertKind,
    /// Rollout.
    pub rollout: String,
    /// Stage, if it is about one; the object, if it is about an UpdateHold, an EmergencyStop or a PatchRollback.
    pub stage: String,
    /// Device, if it is about a single one.
    pub device: String,
    /// Name that other systems know that device by.
    pub hostname: String,
    /// KBs concerned.
    pub kbs: Vec<String>,
    /// Since when it holds, or when it happened. Part of its identity.
    pub since: Timestamp,
    /// When it is expected to be over.
    pub until: Option<Timestamp>,
    /// Devices concerned.
    pub devices: usize,
    /// The sentence.
    pub summary: String,
}

impl Alert {
    /// What it is about, apart from when: `DeviceReverted november/production/srv-1`.
    pub fn subject(&self) -> String {
        subject(self.kind, &self.rollout, &self.stage, &self.device)
    }

    /// Whether it says that a device cannot be seen. Only with a clear sight that says something.
    pub fn is_silence(&self) -> bool {
        is_silence(self.kind)
    }

    /// Whether somebody may have to get up for it.
    pub fn is_urgent(&self) -> bool {
        is_urgent(self.kind)
    }
}

fn subject(kind: AlertKind, rollout: &str, stage: &str, device: &str) -> String {
    format!("{} {rollout}/{stage}/{device}", kind.as_str())
}

fn is_silence(kind: AlertKind) -> bool {
    kind == AlertKind::DeviceOffline || is_loss(kind)
}

/// Whether it says that a device was given up because it is silent.
fn is_loss(kind: AlertKind) -> bool {
    matches!(kind, AlertKind::DeviceDidNotReturn | AlertKind::DeviceNeedsRecovery)
}

/// Whether somebody may have to get up for it: it goes first, and room is kept for it.
fn is_urgent(kind: AlertKind) -> bool {
    matches!(
        kind,
        AlertKind::ContactLost
            | AlertKind::StageHalted
            | AlertKind::DeviceDidNotReturn
            | AlertKind::DeviceBootLoop
            | AlertKind::DeviceServiceDown
            | AlertKind::RollbackFailed
            | AlertKind::DeviceNeedsRecovery
    )
}

/// What there is to tell, by what is written down.
pub fn alerts(snapshot: &Snapshot) -> Alerts {
    let record = Record::written(snapshot);
    let in_flight = of_record(&record, snapshot);
    let mut active: Vec<Alert> = Vec::new();
    for activity in &in_flight {
        let of = |one: &&Arc<PatchRollout>| one.metadata.name.as_ref() == Some(&activity.rollout);
        let stages = snapshot.rollouts.iter().find(of).map(|one| one.spec.stages.as_slice());
        let stage = stages.and_then(|all| all.iter().find(|one| one.name == activity.stage));
        if let Some(stage) = stage {
            active.extend(of_activity(activity, &Rules::new(stage), snapshot));
        }
    }
    for slice in &snapshot.slices {
        let Some((rollout, stage)) = record.stage(&slice.rollout_uid, &slice.stage) else {
            continue;
        };
        let status = rollout.status.as_ref();
        let mut known = status.into_iter().flat_map(|status| &status.stages);
        let known = known.find(|known| known.name == stage.name).cloned().unwrap_or_default();
        let rules = Rules::of(stage, &known);
        for line in slice.lines.iter().filter(|line| is_trouble(line.state)) {
            if is_settled(line, status, &rules, snapshot) {
                continue;
            }
            let also = needs_recovery(line, rollout, snapshot);
            let also = also.then_some(AlertKind::DeviceNeedsRecovery);
            for kind in kind_of(line).into_iter().chain(also) {
                active.extend(of_line(kind, line, rollout, &stage.name, snapshot));
            }
        }
    }
    let mut notices = Vec::new();
    for rollout in &snapshot.rollouts {
        active.extend(halted(rollout));
        active.extend(held(rollout));
        active.extend(wanted(rollout));
        notices.extend(milestones(rollout));
    }
    active.extend(snapshot.orders.iter().filter_map(|order| wanted_of_order(order)));
    active.extend(stops::in_force(snapshot, &in_flight));
    notices.extend(words::holds(&snapshot.holds));
    // A device is told of once for each kind, also where two jobs of two rollouts crossed.
    let active: BTreeMap<String, Alert> =
        active.into_iter().map(|alert| (alert.subject(), alert)).collect();
    notices.sort_by_key(|notice| (notice.since, notice.subject()));
    Alerts { active: active.into_values().collect(), notices, in_flight: in_flight.len() }
}

fn is_trouble(state: LineState) -> bool {
    matches!(
        state,
        LineState::Failed
            | LineState::Unreachable
            | LineState::RevertedByWindows
            | LineState::NotReversible
            | LineState::RollbackFailed
    )
}

/// Whether nobody needs to hear of a line in trouble (any more).
fn is_settled(
    line: &SliceLine,
    status: Option<&PatchRolloutStatus>,
    rules: &Rules,
    snapshot: &Snapshot,
) -> bool {
    // A person took the device out; a rollout that is over is a matter of record.
    let is_released = matches!(line.reason, Some(Reason::Released | Reason::Replaced));
    let ended = status.is_some_and(has_ended);
    let last = line.at.max(status.and_then(ended_at));
    let is_old = last.is_none_or(|at| later(at, AFTER_THE_END) <= snapshot.now);
    // A service that is down hurts now, whether or not another attempt may come.
    let is_harmless = kind_of(line) == Some(AlertKind::DeviceFailed);
    let row = snapshot.devices.get(&line.device);
    is_released
        || damage::is_settled(line, row)
        || (is_harmless && working_copy(line).may_try_again(rules))
        || (ended && is_old)
        || has_returned(line, row)
}

/// Whether a device that was given up is in contact again, though its job has no answer yet.
fn has_returned(line: &SliceLine, row: Option<&DeviceRow>) -> bool {
    let row = row.filter(|row| row.online == Some(true));
    line.state == LineState::Unreachable
        && row.is_some_and(|row| row.online_since.is_some_and(|since| line.at < Some(since)))
}

/// What others may find of a device at work. A restart is one alert from its permit on, however often the
/// device reports before it goes down.
fn of_activity(activity: &Activity, rules: &Rules, snapshot: &Snapshot) -> Vec<Alert> {
    let row = snapshot.devices.get(&activity.device);
    let offline = row.filter(|row| row.online == Some(false)).and_then(|row| row.online_since);
    let restarts = match activity.doing {
        Doings::Rebooting => activity.ordered.or(activity.since),
        // Permitted; people may be warned for a moment.
        Doings::AwaitingReboot => {
            let is_soon = |at: &Timestamp| snapshot.now < later(*at, rules.reboot_slow_after);
            activity.ordered.filter(is_soon)
        }
        _ => None,
    };
    let alert = |kind, since: Timestamp, shown: Timestamp, until: Option<Timestamp>| Alert {
        kind,
        rollout: activity.rollout.clone(),
        stage: activity.stage.clone(),
        device: activity.device.clone(),
        hostname: activity.hostname.clone(),
        kbs: activity.kbs.clone(),
        since: whole_seconds(since),
        until: until.map(whole_seconds),
        devices: 1,
        summary: words::activity(activity, restarts.is_some(), shown, until, snapshot.now),
    };
    if let Some(since) = restarts {
        let shown = activity.since.unwrap_or(since);
        let until = activity.until.unwrap_or_else(|| later(shown, rules.reboot_deadline));
        let mut told = vec![alert(AlertKind::DeviceRebootExpected, since, shown, Some(until))];
        if activity.is_slow {
            told.push(alert(AlertKind::DeviceOffline, since, shown, Some(until)));
        }
        return told;
    }
    match (activity.doing, offline) {
        // Its line tells that.
        (Doings::Unreachable, _) | (_, None) => Vec::new(),
        (_, Some(since)) => vec![alert(AlertKind::DeviceOffline, since, since, None)],
    }
}

/// Whether a device that was given up is one to roll back, so that somebody else has to do it: its own
/// failure says so, a person's order means it, or it fell silent while it was rolled back. Nobody outside
/// is asked for what Wardring would not do itself if only it reached the device: it was permitted to begin,
/// is out of contact, and neither a person, its groups nor a stop keep it from being rolled back.
fn needs_recovery(line: &SliceLine, rollout: &PatchRollout, snapshot: &Snapshot) -> bool {
    let table = &snapshot.devices;
    let (Some(position), Some(status)) = (table.find(&line.device), &rollout.status) else {
        return false;
    };
    let row = &table.rows()[position];
    let is_out_of_reach = line.state == LineState::Unreachable && row.online == Some(false);
    let is_left_alone = status.suspended.is_some() || status.aborted.is_some();
    let held = rollback_hold(row, &mut Wake::new(snapshot.now));
    if !is_out_of_reach || is_left_alone || held != Some(Reason::Offline) {
        return false;
    }
    let is_its = |job: &&Arc<JobView>| {
        job.device == line.device && Some(&job.rollout_uid) == rollout.metadata.uid.as_ref()
    };
    let Some(job) = snapshot.jobs.iter().find(is_its).filter(|job| job.may_have_begun()) else {
        return false;
    };
    let kbs = || job.kbs.iter().map(String::as_str);
    if snapshot.stops.iter().any(|stop| stop.stops(JobAction::Rollback, kbs(), &row.labels)) {
        return false;
    }
    let is_failure = rollout.spec.on_failure.action == FailureAction::Rollback
        || line.action == JobAction::Rollback;
    match (rollback_policy(position, table), is_failure) {
        (RollbackPolicy::Forbid, _) => false,
        (RollbackPolicy::Allow, true) => true,
        // Whoever gives an order has been asked.
        _ => order::means(rollout, position, line.at, snapshot),
    }
}

/// What a line that ended badly is told as.
fn kind_of(line: &SliceLine) -> Option<AlertKind> {
    match (line.state, line.reason) {
        (LineState::Unreachable, _) => Some(AlertKind::DeviceDidNotReturn),
        (LineState::RevertedByWindows, _) => Some(AlertKind::DeviceReverted),
        (LineState::NotReversible | LineState::RollbackFailed, _) => {
            Some(AlertKind::RollbackFailed)
        }
        // By itself the device found no way back.
        (LineState::Failed, _) if damage::is_told_by(line) => Some(AlertKind::RollbackFailed),
        (LineState::Failed, Some(Reason::BootLoop)) => Some(AlertKind::DeviceBootLoop),
        (LineState::Failed, Some(Reason::ServiceDown)) => Some(AlertKind::DeviceServiceDown),
        (LineState::Failed, _) => Some(AlertKind::DeviceFailed),
        _ => None,
    }
}

/// A device whose line ended badly.
fn of_line(
    kind: AlertKind,
    line: &SliceLine,
    rollout: &PatchRollout,
    stage: &str,
    snapshot: &Snapshot,
) -> Option<Alert> {
    let row = snapshot.devices.get(&line.device);
    let product = row.and_then(|row| row.product.as_deref());
    let updates = rollout.status.iter().flat_map(|status| &status.resolved_updates);
    let here = updates.filter(|update| Some(update.product.as_str()) == product);
    let mut alert = Alert {
        kind,
        rollout: rollout.metadata.name.clone().unwrap_or_default(),
        stage: stage.to_owned(),
        device: line.device.clone(),
        hostname: hostname(&line.device, snapshot),
        kbs: here.map(|update| update.kb.as_str().to_owned()).collect(),
        since: whole_seconds(line.at?),
        until: None,
        devices: 1,
        summary: String::new(),
    };
    alert.summary = words::line(&alert, line, row, snapshot.now);
    Some(alert)
}

/// What a device says it is called, unless that is the name of another Device.
fn hostname(device: &str, snapshot: &Snapshot) -> String {
    let claimed = snapshot.devices.get(device).map(|row| row.hostname());
    let claimed = claimed.filter(|name| snapshot.devices.get(name).is_none());
    claimed.unwrap_or(device).to_owned()
}

fn has_ended(status: &PatchRolloutStatus) -> bool {
    status.phase.is_some_and(|phase| {
        matches!(phase, RolloutPhase::Completed | RolloutPhase::Aborted | RolloutPhase::RolledBack)
    })
}

fn ended_at(status: &PatchRolloutStatus) -> Option<Timestamp> {
    let mut all = status.conditions.iter();
    let completed = all.find(|one| one.type_ == conditions::COMPLETED && one.status == "True");
    let completed = completed.map(|condition| condition.last_transition_time.0);
    let rolled_back = status.rollback.as_ref().and_then(|rollback| rollback.completed_at);
    completed.max(status.aborted.as_ref().map(|latch| latch.at)).max(rolled_back)
}

fn halted(rollout: &PatchRollout) -> Option<Alert> {
    let latch = rollout.status.as_ref().filter(|status| !has_ended(status))?.halted.as_ref()?;
    if latch.reason == Reason::SupersededByRollout.as_str() {
        // Somebody's wish, not a failure.
        return None;
    }
    let stage = latch.stage.as_deref().unwrap_or_default();
    let name = rollout.metadata.name.as_deref().unwrap_or_default();
    let place = if stage.is_empty() { String::new() } else { format!(" in stage {stage}") };
    let summary = format!("Rollout {name} is Halted{place} — {}", latch.message);
    Some(words::about(AlertKind::StageHalted, name, stage, latch.at, summary))
}

/// Stages that gates keep from going on without a halt. Nobody else tells of it: every device may be well.
fn held(rollout: &PatchRollout) -> Vec<Alert> {
    let name = rollout.metadata.name.as_deref().unwrap_or_default();
    let Some(status) = rollout.status.as_ref().filter(|status| !has_ended(status)) else {
        return Vec::new();
    };
    let is_told_of = status.halted.is_some() || status.aborted.is_some();
    if is_told_of || rollout.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let stages = rollout.spec.stages.iter().filter_map(|stage| {
        let mut known = status.stages.iter().filter(|known| known.state != StageState::Completed);
        let known = known.find(|known| known.name == stage.name)?;
        let holds = |known: &&GateStatus| {
            let mut gates = stage.gates.all();
            let gate =
                gates.find(|(phase, gate)| (*phase, &gate.name) == (known.phase, &known.name));
            // The answer of a person is no news to people.
            let counts = gate.is_some_and(|(_, gate)| is_enforced(gate) && gate.approval.is_none());
            counts && matches!(known.state, GateState::Failed | GateState::Error)
        };
        let holding: Vec<&GateStatus> = known.gates.iter().filter(holds).collect();
        let since = holding.iter().map(|gate| gate.since).min()?;
        let why: Vec<&str> = holding.iter().filter_map(|gate| gate.message.as_deref()).collect();
        let summary = format!("Rollout {name} is held — {}", why.join(" "));
        Some(words::about(AlertKind::StageHeld, name, &stage.name, since, summary))
    });
    stages.collect()
}

/// Approvals that a stage or a rollback waits for. Each asking is an alert of its own, which ends with the answer.
fn wanted(rollout: &PatchRollout) -> Vec<Alert> {
    let name = rollout.metadata.name.as_deref().unwrap_or_default();
    let Some(status) = &rollout.status else { return Vec::new() };
    if rollout.metadata.deletion_timestamp.is_some() || status.aborted.is_some() {
        return Vec::new();
    }
    let asking = |state| matches!(state, GateState::Waiting | GateState::Error);
    let stages = status.stages.iter().filter(|_| !has_ended(status));
    let gates = stages.flat_map(|stage| stage.gates.iter().map(move |gate| (stage, gate)));
    let of_gates = gates.filter(|(_, gate)| asking(gate.state)).filter_map(|(stage, gate)| {
        let asked = gate.approval.as_ref().filter(|asked| !asked.hash.is_empty())?;
        let what = devices(stage.counts.total as usize);
        let of = &stage.name;
        let summary = format!(
            "Rollout {name} waits for a person's approval in stage {of} ({what}, gate {}): \
             `kubectl wardring approve {name} --stage {of}`",
            gate.name
        );
        let at = asked.asked_at?;
        Some(words::about(AlertKind::ApprovalWanted, name, of, at, summary))
    });
    // Broken devices wait for it, also where every stage is done.
    let known = status.rollback_approval.as_ref().filter(|known| asking(known.state));
    let of_rollback = known.filter(|known| !known.asked.hash.is_empty()).and_then(|known| {
        let summary = format!(
            "Rollout {name} waits for a person's approval to take its updates back from up to {}: \
             `kubectl wardring approve {name} --rollback`",
            devices(known.up_to as usize)
        );
        // A stage of the same run may ask at the same time.
        Some(words::about(AlertKind::ApprovalWanted, name, "", known.asked.asked_at?, summary))
    });
    of_gates.chain(of_rollback).collect()
}

/// The same for a person's order, also on a rollout that has ended.
fn wanted_of_order(order: &PatchRollback) -> Option<Alert> {
    let status = order.status.as_ref().filter(|status| status.completed_at.is_none())?;
    let known = status.approval.as_ref()?;
    let is_open = matches!(known.state, GateState::Waiting | GateState::Error);
    if !is_open || known.asked.hash.is_empty() || order.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let (name, rollout) = (order.metadata.name.as_deref().unwrap_or_default(), &order.spec.rollout);
    let summary = format!(
        "PatchRollback {name} waits for a second person's approval to take the updates of rollout {rollout} back \
         from up to {}: `kubectl wardring approve {rollout} --order {name}`",
        devices(known.up_to as usize)
    );
    // Several orders of one rollout may ask, and each answer ends its own.
    let at = known.asked.asked_at?;
    Some(words::about(AlertKind::ApprovalWanted, rollout, name, at, summary))
}

fn milestones(rollout: &PatchRollout) -> Vec<Alert> {
    let Some(status) = &rollout.status else { return Vec::new() };
    let name = rollout.metadata.name.as_deref().unwrap_or_default();
    let mut told = Vec::new();
    let mut tell = |kind, stage: &str, at: Option<Timestamp>, summary: String| {
        told.extend(at.map(|at| words::about(kind, name, stage, at, summary)));
    };
    for stage in &status.stages {
        let (counts, of) = (&stage.counts, &stage.name);
        let opened =
            format!("Rollout {name} opened stage {of} ({})", devices(counts.total as usize));
        tell(AlertKind::StageStarted, of, stage.started_at, opened);
        let proven = counts.succeeded + counts.already_installed;
        let done = format!(
            "Rollout {name} completed stage {of} ({proven} of {} devices are proven)",
            counts.total
        );
        tell(AlertKind::StageCompleted, of, stage.completed_at, done);
    }
    if let Some(rollback) = &status.rollback {
        let stage = &rollback.stage;
        let why = match &rollback.order {
            Some(order) => format!("as PatchRollback {} orders", order.name),
            None => format!("after stage {stage} failed"),
        };
        let began = format!("Rollout {name} takes its updates back {why}");
        tell(AlertKind::RollbackStarted, stage, Some(rollback.started_at), began);
        let failed: u32 = status.stages.iter().map(|stage| stage.counts.rollback_failed).sum();
        let taken: u32 = status.stages.iter().map(|stage| stage.counts.rolled_back).sum();
        let ended = format!(
            "The rollback of rollout {name} has ended ({} rolled back, {failed} not)",
            devices(taken as usize)
        );
        tell(AlertKind::RollbackFinished, stage, rollback.completed_at, ended);
    }
    let mut all = status.conditions.iter();
    let completed = all.find(|one| one.type_ == conditions::COMPLETED && one.status == "True");
    let at = completed.map(|condition| condition.last_transition_time.0);
    tell(AlertKind::RolloutCompleted, "", at, format!("Rollout {name} is done"));
    told
}
