//! What a sink was told, as a line of text in its Notifier's status.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use wardring_api::AlertKind;

use super::{Alert, is_silence, is_urgent, subject};

/// Entries that are remembered of what a sink was told and holds, or happened lately. What has no room
/// waits.
pub const TOLD: usize = 256;

/// Entries that are remembered beside them of what is over: what begins anew is another alert, and must not
/// look like a repetition of the first one.
pub const OVER: usize = 64;

/// What became of something that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ToldState {
    /// It holds until the sink is told otherwise.
    Firing,
    /// It happened.
    Notice,
    /// It held, and the sink was told that it is over.
    Over,
}

impl ToldState {
    fn as_str(self) -> &'static str {
        match self {
            ToldState::Firing => "Firing",
            ToldState::Notice => "Notice",
            ToldState::Over => "Over",
        }
    }
}

/// Something that a sink was told. As text: `Firing DeviceReverted november/production/srv-1
/// 2026-11-21T02:14:09Z`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    /// What became of it.
    pub state: ToldState,
    /// What it was.
    pub kind: AlertKind,
    /// Rollout.
    pub rollout: String,
    /// Stage.
    pub stage: String,
    /// Device; empty for several together.
    pub device: String,
    /// Since when it held, or when it happened. A second later for each time that the same began anew.
    pub since: Timestamp,
}

/// A text that is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an entry of what a sink was told")]
pub struct NotTold;

impl fmt::Display for Told {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.state.as_str();
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
            state: match word {
                "Firing" => ToldState::Firing,
                "Notice" => ToldState::Notice,
                "Over" => ToldState::Over,
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
    pub fn of(alert: &Alert, state: ToldState) -> Told {
        Told {
            state,
            kind: alert.kind,
            rollout: alert.rollout.clone(),
            stage: alert.stage.clone(),
            device: alert.device.clone(),
            since: alert.since,
        }
    }

    /// Whether it holds, by what the sink was told.
    pub fn is_firing(&self) -> bool {
        self.state == ToldState::Firing
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
        self.is_firing()
            && self.device.is_empty()
            && !self.stage.is_empty()
            && self.kind.is_of_devices()
    }

    /// Whether it is about the same as the alert, whenever that was.
    pub fn is_about(&self, alert: &Alert) -> bool {
        self.kind == alert.kind
            && self.device == alert.device
            && self.stage == alert.stage
            && self.rollout == alert.rollout
    }
}
