//! DeviceGroup: a selector with the limits that hold for its devices across all rollouts.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Cap, DeviceRole, HealthPreset, Hooks, LabelSelector};

/// Devices by label, and what may be done to them. Never a list.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "wardring.dev",
    version = "v1alpha1",
    kind = "DeviceGroup",
    plural = "devicegroups",
    shortname = "dgroup",
    category = "wardring",
    namespaced,
    status = "DeviceGroupStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct DeviceGroupSpec {
    /// Labels that people put on devices.
    pub selector: LabelSelector,
    /// Who else may patch these devices.
    #[serde(default)]
    pub patch_authority: PatchAuthority,
    /// Roles the group's devices may have; one with another role is held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub roles: Vec<DeviceRole>,
    /// Devices unavailable at once, over all rollouts: granted and unproven, or known to be offline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<Cap>,
    /// Labels that keep devices apart: of those with one value of a label, at most so many are
    /// unavailable at once, over all rollouts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub anti_affinity: Vec<AntiAffinity>,
    /// Whether the group's devices may be rolled back. Default Allow.
    #[serde(default)]
    pub rollback: RollbackPolicy,
    /// What must be healthy on the group's devices after every update, beside what a rollout says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub health_presets: Vec<HealthPreset>,
    /// MaintenanceWindows of type Allow; one of them must be open for a device of the group before it
    /// begins, whatever the rollout's stage names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 63)))]
    pub windows: Vec<String>,
    /// Programs on the group's devices that run around installations and restarts.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
}

/// A label that keeps devices apart, such as that of a cluster or a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AntiAffinity {
    /// Key of the label. Devices without it are not kept apart.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// Devices with one value that may be unavailable at once: granted and unproven, or known to be
    /// offline. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max: Option<u32>,
}

/// Who else may patch the devices of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PatchAuthority {
    /// Others are known and borne.
    #[default]
    Shared,
    /// A device that something else patches is held.
    Exclusive,
    /// Wardring only watches: no device of the group is ever granted.
    Observe,
}

/// Whether a group's devices may be rolled back.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum RollbackPolicy {
    /// Yes.
    #[default]
    Allow,
    /// Only on a person's order, a PatchRollback.
    Ask,
    /// Never, by nobody.
    Forbid,
}

/// What the controller says of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceGroupStatus {
    /// Devices that match.
    #[serde(default)]
    pub devices: u32,
    /// Of them, unavailable: granted and unproven, or offline.
    #[serde(default)]
    pub unavailable: u32,
    /// Whether gateways may give reboot permits.
    #[serde(default)]
    pub reboots: Reboots,
    /// Values of `antiAffinity` labels of which no further device may become unavailable, at most 32.
    /// Where more than `max` are, the restarts of devices with that value are held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub full: Vec<FullValue>,
}

/// A value of an `antiAffinity` label of which no further device may become unavailable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FullValue {
    /// Key of the label.
    #[schemars(length(max = 317))]
    pub key: String,
    /// Its value.
    #[schemars(length(max = 63))]
    pub value: String,
    /// Devices with it that are unavailable.
    pub unavailable: u32,
    /// Devices with it that may be.
    pub max: u32,
}

/// Whether gateways may give reboot permits in a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Reboots {
    /// Yes.
    #[default]
    Open,
    /// No: too many devices are unavailable.
    Held,
}
