//! The permit rule: may this device take this irreversible step now? Pure; the gateway evaluates it
//! on a fresh read right before it appends to `permitted`.

use jiff::{SignedDuration, Timestamp};
use wardring_api::{JobAction, PatchRollout, PermitStep, SliceLine, reasons::Reason};

use crate::{DeviceRow, JobView};

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
}

impl Circumstances {
    /// Nothing is in the way.
    pub const GOOD: Circumstances = Circumstances {
        leader_fresh: true,
        api_read: true,
        second_live_run: false,
        clock_trusted: true,
        restored_from_backup: false,
    };
}

/// Answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PermitVerdict {
    /// Yes, once it is appended to `permitted`.
    Granted {
        /// The same run already holds this permit: nothing needs to be appended.
        repeated: bool,
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
