//! EmergencyStop: a person's brake over every namespace. While one is in force, no gateway permits
//! what it matches.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{KbId, LabelSelector};

/// Stops installs and restarts on every device that matches, in every namespace, from the next permit
/// on. In force as long as it exists; whoever deletes it lets the rollouts go on.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "wardring.dev",
    version = "v1alpha1",
    kind = "EmergencyStop",
    plural = "emergencystops",
    shortname = "estop",
    category = "wardring",
    status = "EmergencyStopStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct EmergencyStopSpec {
    /// Why: everybody who waits reads it.
    #[schemars(length(min = 1, max = 512))]
    pub reason: String,
    /// Only jobs for one of these KBs; without it, jobs for whatever update.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub kbs: Vec<KbId>,
    /// Only devices with these labels; without it, every device of every namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// What becomes of rollbacks. Default Continue.
    #[serde(default)]
    pub rollbacks: StoppedRollbacks,
}

/// What an EmergencyStop means for rollbacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StoppedRollbacks {
    /// Updates are taken back all the same, with the restarts that this needs: it mends devices.
    #[default]
    Continue,
    /// They stop like everything else.
    Stop,
}

/// What a stop keeps back, over all namespaces. The controller's word; gateways never wait for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmergencyStopStatus {
    /// Generation this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Rollouts with a device that is held or at work.
    #[serde(default)]
    pub rollouts: u32,
    /// Devices that do not start because of this stop.
    #[serde(default)]
    pub held: u32,
    /// Devices that had begun and have no outcome yet.
    #[serde(default)]
    pub mid_flight: u32,
    /// Of them, devices that installed and whose restart is kept back.
    #[serde(default)]
    pub awaiting_reboot: u32,
    /// The first few that are mid-flight, with what they do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 256)))]
    pub mid_flight_sample: Vec<String>,
    /// Ready: the controller counts with it. Reconciling: some namespaces are not looked at yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
}
