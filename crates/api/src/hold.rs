//! UpdateHold: an update barred on some devices, with the reason and the evidence.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{KbId, LabelSelector};

/// A bar. Written by the controller after a rollback, or by a person; lifted only by a person, by
/// deleting it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "wardring.dev",
    version = "v1alpha1",
    kind = "UpdateHold",
    plural = "updateholds",
    shortname = "uhold",
    category = "wardring",
    namespaced,
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct UpdateHoldSpec {
    /// KBs barred.
    #[schemars(length(min = 1, max = 50))]
    pub kbs: Vec<KbId>,
    /// Devices concerned; without it, every device of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Devices concerned, by name; without any, all that `selector` matches. With both, a device must be
    /// among these and match. The controller names a device that took the update back by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(min = 1, max = 63)))]
    pub devices: Vec<String>,
    /// What it means for updates that contain a barred one: those that the catalogue says took its place,
    /// one after the other. Default Warn.
    #[serde(default)]
    pub include_superseding: IncludeSuperseding,
    /// Why.
    #[schemars(length(min = 1, max = 512))]
    pub reason: String,
    /// What was seen, at most 10 sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), inner(length(max = 256)))]
    pub evidence: Vec<String>,
    /// Rollout whose rollback wrote this, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub rollout: Option<String>,
}

/// What a bar means for updates that took the place of a barred one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IncludeSuperseding {
    /// They may go; the rollout that brings one says that it contains a barred update.
    #[default]
    Warn,
    /// They are barred, too.
    Hold,
}
