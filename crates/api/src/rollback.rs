//! PatchRollback: a person's order to take back what a rollout brought.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Cap, IncludeSuperseding, LabelSelector, OrderApproval, RollbackWindows};

/// Takes back what a rollout brought to devices, also long after it was completed. It halts the
/// rollout. Which devices it reaches is frozen when it begins; deleting it ends it, and what had not
/// begun stays as it is.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "wardring.dev",
    version = "v1alpha1",
    kind = "PatchRollback",
    plural = "patchrollbacks",
    shortname = "prollback",
    category = "wardring",
    namespaced,
    status = "PatchRollbackStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct PatchRollbackSpec {
    /// PatchRollout of this namespace. It must be older than the order: one that is made later under the
    /// same name is not meant.
    #[schemars(length(min = 1, max = 63))]
    pub rollout: String,
    /// Why: the rollout, its Events and the UpdateHold say it.
    #[schemars(length(min = 1, max = 512))]
    pub reason: String,
    /// Only these devices. At most one of `devices`, `group` and `selector`; without any, every device
    /// that the rollout updated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub devices: Vec<String>,
    /// Only devices of this DeviceGroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub group: Option<String>,
    /// Only devices with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Devices rolled back at once; default what the rollout's `onFailure` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<Cap>,
    /// Whether it waits for maintenance windows and freezes. Default Ignore.
    #[serde(default)]
    pub windows: RollbackWindows,
    /// What the UpdateHold that it leaves means for updates that contain the barred ones. Default Warn.
    #[serde(default)]
    pub include_superseding: IncludeSuperseding,
    /// Devices from which the updates may be taken back before a second person approves (PatchApproval): those
    /// that the order reaches and those of the whole rollout from which they were taken back already, by
    /// whatever. A share is of the devices of the stages that have opened, rounded down. Beyond it nothing of the
    /// order begins until somebody approves who is none of `authors`. Without it nobody is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval_above: Option<Cap>,
    /// User names of whoever wrote the order, and may not approve it. An admission policy sees to it that whoever
    /// makes an order with `approvalAbove` stands here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub authors: Vec<String>,
}

/// How far the order is. The controller's word.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PatchRollbackStatus {
    /// Generation this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One word for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<RollbackPhase>,
    /// One line for people and for the `MESSAGE` column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// Devices that are rolled back, of all that it reaches, for the `DONE` column: `3/5`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub progress: Option<String>,
    /// Uid of the rollout that was meant when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub rollout_uid: Option<String>,
    /// When the devices that it reaches were frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When the last device was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// Counters over the devices that it reaches.
    #[serde(default)]
    pub counts: RollbackCounts,
    /// At most 20 devices that could not be rolled back, with what they said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 256)))]
    pub failed_sample: Vec<String>,
    /// Security fixes that devices are left without, as far as the catalogue tells.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 256)))]
    pub missing_fixes: Vec<String>,
    /// What a second person is asked, and said, if the order is beyond its `approvalAbove`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<OrderApproval>,
    /// Ready: accepted. Completed: it has ended. Stalled: a person is needed. AwaitingApproval: a second person
    /// is asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
}

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RollbackPhase {
    /// It has not begun.
    Waiting,
    /// Devices are being rolled back.
    RollingBack,
    /// Every device that it reaches is rolled back.
    Completed,
    /// It ended, and devices still have what was to be taken back.
    Incomplete,
}

/// Counters of an order. Every device that it reaches is in exactly one field up to `left`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollbackCounts {
    /// Devices that it reaches.
    #[serde(default)]
    pub total: u32,
    /// Not begun.
    #[serde(default)]
    pub pending: u32,
    /// At work.
    #[serde(default)]
    pub in_progress: u32,
    /// Rolled back, verified.
    #[serde(default)]
    pub rolled_back: u32,
    /// Rollback failed or is impossible.
    #[serde(default)]
    pub failed: u32,
    /// Fell silent.
    #[serde(default)]
    pub unreachable: u32,
    /// Left as they are: the order ended before their turn, or there was nothing to take back.
    #[serde(default)]
    pub left: u32,
    /// Devices that it does not reach although it names them, because a group of theirs forbids
    /// rollbacks.
    #[serde(default)]
    pub forbidden: u32,
    /// Devices that it names and cannot reach: silent, enrolled anew, broken by an earlier rollback, or
    /// without a whole record.
    #[serde(default)]
    pub beyond: u32,
}
