//! What a sink was told, as a line of text in its Notifier's status.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use wardring_api::AlertKind;

use super::{Alert, is_silence, is_urgent, subject};

/// Entries that are remembered of what a sink was told. What has no room waits.
pub const TOLD: usize = 256;

/// Something that a sink was told. As text: `Firing DeviceReverted november/production/srv-1
/// 2026-11-21T02:14:09Z`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    /// Whether it holds until the sink is told otherwise.
    pub is_firing: bool,
    /// What it was.
    pub kind: AlertKind,
    /// Rollout.
    pub rollout: String,
    /// Stage.
    pub stage: String,
    /// Device; empty for several together.
    pub device: String,
    /// Since when it held, or when it happened.
    pub since: Timestamp,
}

/// A text that is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an entry of what a sink was told")]
pub struct NotTold;

impl fmt::Display for Told {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.is_firing { "Firing" } else { "Notice" };
        let subject = subject(self.kind, &self.rollout, &self.stage, &self.device);
        write!(out, "{word} {subject} {}", self.since)
    }
}

impl FromStr for Told {
    type Err = NotTold;

    fn from_str(text: &str) -> Result<Told, NotTold> {
        let words: Vec<&str> = text.split(' ').collect();
        let [word, kind, place, since] = words[..] else { return Err(NotTold) };
        let place: Vec<&str> = place.split('/').collect();
        let [rollout, stage, device] = place[..] else { return Err(NotTold) };
        Ok(Told {
            is_firing: match word {
                "Firing" => true,
                "Notice" => false,
                _ => return Err(NotTold),
            },
            kind: AlertKind::parse(kind).ok_or(NotTold)?,
            rollout: rollout.to_owned(),
            stage: stage.to_owned(),
            device: device.to_owned(),
            since: since.parse().map_err(|_| NotTold)?,
        })
    }
}

impl Told {
    /// The entry of an alert.
    pub fn of(alert: &Alert, is_firing: bool) -> Told {
        Told {
            is_firing,
            kind: alert.kind,
            rollout: alert.rollout.clone(),
            stage: alert.stage.clone(),
            device: alert.device.clone(),
            since: alert.since,
        }
    }

    /// Whether the device was told to be away.
    pub fn is_absence(&self) -> bool {
        self.kind == AlertKind::DeviceRebootExpected || is_silence(self.kind)
    }

    /// Whether somebody may have had to get up for it.
    pub fn is_urgent(&self) -> bool {
        is_urgent(self.kind)
    }

    /// Whether it stands for several devices of a stage.
    pub fn is_together(&self) -> bool {
        self.is_firing
            && self.device.is_empty()
            && !self.stage.is_empty()
            && is_of_devices(self.kind)
    }

    /// Whether it is about the same as the alert, whenever that was.
    pub fn is_about(&self, alert: &Alert) -> bool {
        self.kind == alert.kind
            && self.device == alert.device
            && self.stage == alert.stage
            && self.rollout == alert.rollout
    }
}

/// Kinds of which devices have one each.
pub(super) fn is_of_devices(kind: AlertKind) -> bool {
    matches!(
        kind,
        AlertKind::DeviceRebootExpected
            | AlertKind::DeviceOffline
            | AlertKind::DeviceDidNotReturn
            | AlertKind::DeviceBootLoop
            | AlertKind::DeviceReverted
            | AlertKind::DeviceServiceDown
            | AlertKind::DeviceFailed
            | AlertKind::RollbackFailed
    )
}
