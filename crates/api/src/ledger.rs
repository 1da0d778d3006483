//! PatchLedger: the write-ahead record of a namespace; its sequence fences stale leaders.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One per namespace, named `ledger`, the controller's alone.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "wardring.dev",
    version = "v1alpha1",
    kind = "PatchLedger",
    plural = "patchledgers",
    shortname = "pledger",
    category = "wardring",
    namespaced,
    status = "PatchLedgerStatus",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct PatchLedgerSpec {}

/// What the controller is about to grant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PatchLedgerStatus {
    /// Raised by every batch and every take-over; sealed into every job. Only grows. Its last six
    /// digits are drawn anew by every take-over, so that no number is used twice, not even by a
    /// cluster that was restored from an older backup.
    #[schemars(range(min = 0))]
    pub sequence: i64,
    /// Sequences of the latest take-overs, oldest first: which numbers belong to this history.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub take_overs: Vec<i64>,
    /// Who raised it last (identity of the leader), for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub holder: Option<String>,
    /// The open batch, until its slice lines are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
}

/// Devices that are about to be granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Batch {
    /// Sequence of this batch.
    pub sequence: i64,
    /// Uid of the rollout.
    #[schemars(length(max = 64))]
    pub rollout_uid: String,
    /// Name of the slice whose lines will be granted.
    #[schemars(length(max = 253))]
    pub slice: String,
    /// `device attempt action`, at most 64.
    #[schemars(length(max = 64), inner(length(max = 96)))]
    pub grants: Vec<String>,
}
