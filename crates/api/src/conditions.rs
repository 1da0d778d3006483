//! Condition types, and the one way to set a condition.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::reasons::Reason;

/// Accepted and in command, whatever the rollout waits for.
pub const READY: &str = "Ready";
/// The newest generation is not planned yet (kstatus: InProgress).
pub const RECONCILING: &str = "Reconciling";
/// A person is needed (kstatus: Failed).
pub const STALLED: &str = "Stalled";
/// Devices are moving.
pub const PROGRESSING: &str = "Progressing";
/// Every stage is done.
pub const COMPLETED: &str = "Completed";
/// The system stopped the rollout.
pub const HALTED: &str = "Halted";
/// A person stopped the rollout.
pub const SUSPENDED: &str = "Suspended";
/// All that the current stage still has to do waits for a maintenance window or a freeze.
pub const AWAITING_WINDOW: &str = "AwaitingWindow";
/// The current stage waits for a person's approval.
pub const AWAITING_APPROVAL: &str = "AwaitingApproval";
/// An EmergencyStop keeps devices of the rollout back.
pub const EMERGENCY_STOPPED: &str = "EmergencyStopped";
/// The rollback procedure has ended.
pub const ROLLED_BACK: &str = "RolledBack";
/// Device: an agent is in contact (the controller's word).
pub const ONLINE: &str = "Online";
/// Device: Windows waits for a restart.
pub const PENDING_REBOOT: &str = "PendingReboot";
/// Device: what the last installations' health checks named is as before; Unknown when nobody looks.
pub const HEALTHY: &str = "Healthy";
/// Device: nothing is missing; Unknown when the scan is older than 48 h.
pub const UP_TO_DATE: &str = "UpToDate";
/// Device: nobody else patches it.
pub const SOLE_PATCH_SOURCE: &str = "SolePatchSource";
/// Device: an update left it damaged, two agents run with one key, or a person said so; it gets no job until
/// a person looks.
pub const QUARANTINED: &str = "Quarantined";

/// Value of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// Status `True`.
    True,
    /// Status `False`.
    False,
    /// Status `Unknown`.
    Unknown,
}

impl Truth {
    /// The word Kubernetes uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Truth::True => "True",
            Truth::False => "False",
            Truth::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Truth {
    fn from(value: bool) -> Truth {
        if value { Truth::True } else { Truth::False }
    }
}

/// Longest condition message the schema takes.
pub const MAX_MESSAGE: usize = 1024;

/// Sets a condition in `conditions`, which stays ordered by type. The transition time moves only when
/// the status flips: otherwise every pass would be a write.
pub fn set(
    conditions: &mut Vec<Condition>,
    kind: &str,
    truth: Truth,
    reason: Reason,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) {
    let message = clip(message, MAX_MESSAGE);
    match conditions.iter_mut().find(|condition| condition.type_ == kind) {
        Some(condition) => {
            if condition.status != truth.as_str() {
                condition.last_transition_time = Time(whole_seconds(now));
                condition.status = truth.as_str().to_owned();
            }
            condition.reason = reason.as_str().to_owned();
            condition.message = message;
            condition.observed_generation = generation;
        }
        None => {
            conditions.push(Condition {
                last_transition_time: Time(whole_seconds(now)),
                message,
                observed_generation: generation,
                reason: reason.as_str().to_owned(),
                status: truth.as_str().to_owned(),
                type_: kind.to_owned(),
            });
            conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        }
    }
}

/// Removes a condition; kstatus wants abnormal-true conditions absent when all is well.
pub fn clear(conditions: &mut Vec<Condition>, kind: &str) {
    conditions.retain(|condition| condition.type_ != kind);
}

/// Whether the condition is there and True.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

/// `text` cut at a character boundary so that it has at most `max` bytes.
pub fn clip(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

/// The instant without its fraction: the API server stores condition times in whole seconds.
pub fn whole_seconds(instant: Timestamp) -> Timestamp {
    Timestamp::from_second(instant.as_second()).unwrap_or(instant)
}
