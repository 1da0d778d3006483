//! What every device in flight is going through, for monitoring that sees it from outside: whoever
//! finds a device down can tell an expected restart from one that did not come back.

use std::collections::BTreeMap;

use jiff::Timestamp;
use wardring_api::{JobAction, JobState, LineState, PatchRollout, PermitStep, SliceLine, Stage};

use crate::{
    Action, JobView, Plan, SliceView, Snapshot,
    caps::{Rules, later},
    line::{Doing, doing},
};

/// What a device is going through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Doings {
    /// It installs, or does what belongs to that before the restart.
    Installing,
    /// Installed; its restart is not permitted yet.
    AwaitingReboot,
    /// Restarting, within the time that its stage gives it.
    Rebooting,
    /// Back from its restart; its health is being proven.
    Verifying,
    /// Updates are being taken back.
    RollingBack,
    /// It fell silent, or did not return from its restart in time.
    Unreachable,
}

impl Doings {
    /// The word, as it stands in the label of the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Doings::Installing => "installing",
            Doings::AwaitingReboot => "awaiting_reboot",
            Doings::Rebooting => "rebooting",
            Doings::Verifying => "verifying",
            Doings::RollingBack => "rolling_back",
            Doings::Unreachable => "unreachable",
        }
    }
}

/// One device that is in flight.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Activity {
    /// Device.
    pub device: String,
    /// Name that other systems know it by.
    pub hostname: String,
    /// Rollout.
    pub rollout: String,
    /// Stage.
    pub stage: String,
    /// What it is going through.
    pub doing: Doings,
    /// Since when, if that is known.
    pub since: Option<Timestamp>,
    /// When a restart must be over.
    pub until: Option<Timestamp>,
    /// When the restart was permitted that may be under way.
    pub ordered: Option<Timestamp>,
    /// Whether the restart takes longer than its stage calls normal.
    pub is_slow: bool,
    /// KBs concerned.
    pub kbs: Vec<String>,
}

/// The devices in flight, as they stand once the plan is carried out, by name.
///
/// A device whose job has not begun is left alone so far and is not among them.
pub fn activities(snapshot: &Snapshot, plan: &Plan) -> Vec<Activity> {
    of_record(&Record::new(snapshot, plan), snapshot)
}

/// The devices in flight of a record, by name.
pub(crate) fn of_record(record: &Record<'_>, snapshot: &Snapshot) -> Vec<Activity> {
    let mut found: Vec<Activity> =
        snapshot.jobs.iter().filter_map(|job| activity(job, record, snapshot)).collect();
    found.sort();
    found
}

/// When the last restart was permitted, unless another step was permitted after it: then it is over.
fn ordered(job: &JobView) -> Option<Timestamp> {
    let last = job.permitted.iter().max_by_key(|permit| permit.at)?;
    (last.step == PermitStep::Reboot).then_some(last.at)
}

fn activity(job: &JobView, record: &Record<'_>, snapshot: &Snapshot) -> Option<Activity> {
    let line = record.line(job)?;
    let (rollout, stage) = record.stage(&job.rollout_uid, &job.stage)?;
    let rules = Rules::new(stage);
    let (mut since, mut until) = (None, None);
    let mut is_slow = false;
    let doing = match (line.state, doing(job)) {
        (LineState::Unreachable, _) => {
            since = line.at;
            Doings::Unreachable
        }
        (LineState::Granted, Doing::NotBegun) => return None,
        (LineState::Granted, Doing::Rebooting(at)) => {
            is_slow = snapshot.now >= later(at, rules.reboot_slow_after);
            (since, until) = (Some(at), Some(later(at, rules.reboot_deadline)));
            Doings::Rebooting
        }
        (LineState::Granted, _) if job.action == JobAction::Rollback => Doings::RollingBack,
        (LineState::Granted, Doing::AwaitingReboot) => Doings::AwaitingReboot,
        (LineState::Granted, Doing::Working) => match job.state {
            Some(JobState::Settling | JobState::Verifying | JobState::Remediating) => {
                Doings::Verifying
            }
            _ => Doings::Installing,
        },
        _ => return None,
    };
    // A device says what it is called. It does not get to speak for one that is another Device.
    let claimed = snapshot.devices.get(&job.device).map(|row| row.hostname());
    let claimed = claimed.filter(|name| snapshot.devices.get(name).is_none());
    Some(Activity {
        device: job.device.clone(),
        hostname: claimed.unwrap_or(&job.device).to_owned(),
        rollout: rollout.metadata.name.clone().unwrap_or_default(),
        stage: stage.name.clone(),
        doing,
        since,
        until,
        ordered: ordered(job),
        is_slow,
        kbs: job.kbs.clone(),
    })
}

/// The record of the runs.
pub(crate) struct Record<'a> {
    slices: BTreeMap<&'a str, &'a SliceView>,
    changes: BTreeMap<&'a str, BTreeMap<usize, &'a SliceLine>>,
    rollouts: BTreeMap<&'a str, &'a PatchRollout>,
}

impl<'a> Record<'a> {
    /// The record as it is once the plan is carried out.
    pub fn new(snapshot: &'a Snapshot, plan: &'a Plan) -> Record<'a> {
        let mut all: BTreeMap<&str, BTreeMap<usize, &SliceLine>> = BTreeMap::new();
        for action in &plan.actions {
            let (slice, lines): (_, Vec<_>) = match action {
                Action::RecordLines { slice, changes, .. } => (slice, changes.iter().collect()),
                Action::Recall { slice, lines } => {
                    (slice, lines.iter().map(|line| &line.change).collect())
                }
                _ => continue,
            };
            for change in lines {
                all.entry(slice).or_default().insert(change.index, &change.line);
            }
        }
        Record { changes: all, ..Record::written(snapshot) }
    }

    /// The record as it is written now, whatever any plan intends.
    pub fn written(snapshot: &'a Snapshot) -> Record<'a> {
        let uid = |rollout: &'a PatchRollout| rollout.metadata.uid.as_deref().unwrap_or_default();
        Record {
            slices: snapshot.slices.iter().map(|slice| (slice.name.as_str(), &**slice)).collect(),
            changes: BTreeMap::new(),
            rollouts: snapshot.rollouts.iter().map(|one| (uid(one), &**one)).collect(),
        }
    }

    /// The line that a job belongs to, if it is of the same attempt.
    fn line(&self, job: &JobView) -> Option<&'a SliceLine> {
        let slice = self.slices.get(job.slice.as_str())?;
        let index = slice.lines.iter().position(|line| line.device == job.device)?;
        let line = self.lines(slice).nth(index)?;
        (slice.rollout_uid == job.rollout_uid && line.attempt == job.attempt).then_some(line)
    }

    /// The lines of a slice.
    pub fn lines(&self, slice: &'a SliceView) -> impl Iterator<Item = &'a SliceLine> {
        let changes = self.changes.get(slice.name.as_str());
        let changed = move |index| changes.and_then(|all| all.get(&index)).copied();
        slice.lines.iter().enumerate().map(move |(index, line)| changed(index).unwrap_or(line))
    }

    /// A rollout and one of its stages.
    pub fn stage(&self, uid: &str, stage: &str) -> Option<(&'a PatchRollout, &'a Stage)> {
        let rollout = *self.rollouts.get(uid)?;
        Some((rollout, rollout.spec.stages.iter().find(|one| one.name == stage)?))
    }
}
