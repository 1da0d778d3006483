//! Why something that was told holds no longer. A device is back only where somebody saw it back.

use jiff::Timestamp;
use wardring_api::{
    AlertKind, JobState, LineState, PatchRollout, RolloutPhase, SliceLine, reasons::Reason,
};

use super::Told;
use crate::{DeviceRow, JobView, supersede};

/// How something ended that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The device was seen back.
    Back,
    /// The device did not return in time; that is told in its place.
    Lost,
    /// The device is away still or again, and that is told in its place.
    Away,
    /// Nobody looks any more: whether the device is back is not known.
    Unwatched,
    /// The Notifier does not name the event any more.
    NotWanted,
    /// It holds no longer.
    Over,
}

impl Ended {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Ended::Back => "Back",
            Ended::Lost => "Lost",
            Ended::Away => "Away",
            Ended::Unwatched => "Unwatched",
            Ended::NotWanted => "NotWanted",
            Ended::Over => "Over",
        }
    }
}

/// What is written down about the subject of something that was told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// The rollout of that name.
    pub rollout: Option<&'a PatchRollout>,
    /// The device's line in that rollout's stage.
    pub line: Option<&'a SliceLine>,
    /// The device's job, if it is that rollout's.
    pub job: Option<&'a JobView>,
    /// The device.
    pub row: Option<&'a DeviceRow>,
    /// Devices of the stage whose lines are in that trouble, where it stands for several.
    pub still: usize,
    /// Since when the EmergencyStop of that name is in force.
    pub stopped_since: Option<Timestamp>,
}

impl Evidence<'_> {
    /// How `entry` ended, and why in words.
    pub fn of(&self, entry: &Told) -> (Ended, &'static str) {
        if entry.kind == AlertKind::EmergencyStop {
            // One of the same name that was made later is another one.
            let is_there = self.stopped_since.is_some_and(|since| since <= entry.since);
            let why = if is_there { "it matches no device here any more" } else { "it was lifted" };
            return (Ended::Over, why);
        }
        if entry.is_together() {
            return match (self.rollout, self.still) {
                (None, _) => (Ended::Unwatched, "the rollout is gone"),
                (Some(_), 0) => (Ended::Over, "none of them is in that state any more"),
                (Some(_), _) => (Ended::Unwatched, "the rollout has ended"),
            };
        }
        let ended = match entry.is_absence() && !entry.device.is_empty() {
            true if self.is_in_contact_since(entry.since) => Ended::Back,
            true if self.is_lost(entry) => Ended::Lost,
            true if self.is_heard_after(entry.since) => Ended::Back,
            true => Ended::Unwatched,
            false => Ended::Over,
        };
        (ended, self.why(entry))
    }

    fn is_lost(&self, entry: &Told) -> bool {
        !super::is_loss(entry.kind)
            && self.line.is_some_and(|line| line.state == LineState::Unreachable)
    }

    fn is_in_contact_since(&self, since: Timestamp) -> bool {
        let contact = self.row.filter(|row| row.online == Some(true));
        contact.is_some_and(|row| row.online_since.is_some_and(|online| online > since))
    }

    /// Whether the device reported work after `since`, or gave an answer that only a device that runs can
    /// give.
    fn is_heard_after(&self, since: Timestamp) -> bool {
        let waits = [JobState::RebootFirst, JobState::AwaitingReboot, JobState::Rebooting];
        let reports = self.job.is_some_and(|job| {
            let is_new = job.updated_at.is_some_and(|at| at > since);
            is_new && job.state.is_some_and(|state| !waits.contains(&state))
        });
        reports || self.line.is_some_and(|line| line.at > Some(since) && is_answer(line))
    }

    fn why(&self, entry: &Told) -> &'static str {
        let Some(rollout) = self.rollout else { return "the rollout is gone" };
        if entry.kind == AlertKind::StageHalted {
            let status = rollout.status.as_ref();
            return match status.and_then(|status| status.phase) {
                Some(RolloutPhase::Aborted) if status.is_some_and(supersede::is_superseded) => {
                    "another rollout took its place"
                }
                Some(RolloutPhase::Aborted) => "a person ended the rollout",
                Some(RolloutPhase::RolledBack) => "the rollback has ended",
                Some(RolloutPhase::Completed) => "the rollout is done",
                _ => "the rollout goes on",
            };
        }
        if entry.kind == AlertKind::StageHeld {
            let status = rollout.status.as_ref();
            return match status {
                Some(status) if status.halted.is_some() => "the rollout was halted",
                Some(status) if super::has_ended(status) => "the rollout has ended",
                _ => "its gates let the stage go on",
            };
        }
        let Some(line) = self.line else { return "nobody waits for it any more" };
        match (line.state, line.reason) {
            (_, Some(Reason::Released | Reason::Replaced)) => "the device was taken out of the run",
            (LineState::Granted | LineState::Pending | LineState::NotStarted, _) => {
                "the run goes on"
            }
            (LineState::Succeeded | LineState::AlreadyInstalled, _) => "the device is proven",
            (LineState::RolledBack, _) => "the updates were taken back",
            (LineState::Unreachable, _) => "the device did not return in time",
            (LineState::Failed, Some(Reason::BootLoop)) => "the device restarts again and again",
            (LineState::PoweredOff, _) => "somebody had switched the device off, and it is back",
            _ => "nobody waits for it any more",
        }
    }
}

/// Whether a line is in the trouble that an alert of `kind` tells, and its device was not seen back.
pub fn is_in_trouble(kind: AlertKind, line: &SliceLine, row: Option<&DeviceRow>) -> bool {
    let is_out = matches!(line.reason, Some(Reason::Released | Reason::Replaced));
    let is_it = match super::is_loss(kind) {
        true => line.state == LineState::Unreachable,
        false => super::kind_of(line) == Some(kind),
    };
    is_it && !is_out && !super::has_returned(line, row)
}

/// Whether only a device that runs can have brought the line to this.
fn is_answer(line: &SliceLine) -> bool {
    match line.state {
        LineState::Succeeded
        | LineState::AlreadyInstalled
        | LineState::RevertedByWindows
        | LineState::RolledBack
        | LineState::PoweredOff => true,
        LineState::Failed => line.reason == Some(Reason::ServiceDown),
        _ => false,
    }
}
