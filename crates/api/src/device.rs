//! Device: one Windows machine with our agent. Spec is people's, status the gateways'.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::MsrcSeverity;

/// What people decide about a device.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "wardring.dev",
    version = "v1alpha1",
    kind = "Device",
    plural = "devices",
    shortname = "wdev",
    category = "wardring",
    namespaced,
    status = "DeviceStatus",
    derive = "PartialEq",
    derive = "Default"
)]
#[serde(rename_all = "camelCase")]
pub struct DeviceSpec {
    /// Observe (scan and report, touch nothing) or Manage.
    #[serde(default)]
    pub mode: DeviceMode,
    /// Which enrolment speaks for this device. Written by the signer or a person, never a gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub enrolment_id: Option<String>,
    /// IANA time zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub time_zone: Option<String>,
    /// A person's hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Who answers for the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub owner: Option<String>,
}

/// What an agent may do.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum DeviceMode {
    /// Scan and report; touch nothing.
    #[default]
    Observe,
    /// Carry out jobs.
    Manage,
}

/// A person's hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// Why.
    #[schemars(length(min = 1, max = 256))]
    pub reason: String,
    /// Until when; without it, until a person lifts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// What an agent reports; at most 3 KB, written on change, never a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceStatus {
    /// Online (controller), PendingReboot, Healthy, UpToDate, SolePatchSource, Quarantined (controller: an
    /// update left it damaged; gateway: two agents).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 12))]
    pub conditions: Vec<Condition>,
    /// Who the device says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<OperatingSystem>,
    /// Version of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub agent_version: Option<String>,
    /// Why the last update of the agent was taken back, where it was; the version beside it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 192))]
    pub agent_update_failed: Option<String>,
    /// Identity of the running boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub boot_id: Option<String>,
    /// When Windows was last asked for updates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scan: Option<LastScan>,
    /// Counters over updates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updates: Option<UpdateCounts>,
    /// KBs that are offered and not installed, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 10)))]
    pub missing: Vec<String>,
    /// What the device's source says about the gravest of `missing`, at most 8; fewer where the
    /// status would grow beyond 3 KB.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub offered: Vec<OfferedUpdate>,
    /// KBs whose last installation failed, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 10)))]
    pub failed: Vec<String>,
    /// Sources that say Windows waits for a restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 12))]
    pub pending_reboot: Vec<PendingRebootSource>,
    /// Whether the device starts without a person, as far as it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<Startup>,
    /// Free space on the drive of Windows in gigabytes, rounded down, in steps that grow with it. Never
    /// more than there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_disk_gb: Option<u32>,
    /// What Windows' servicing says of its own component store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component_store: Option<ComponentStore>,
    /// A pause that an administrator ordered on the device itself (`wardring-agent pause`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// Watched services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub services: Vec<ServiceStatus>,
    /// How the device is since installations that ended well, for two weeks after each, oldest first.
    /// Gates of type DeviceHealth count it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub health: Vec<HealthSince>,
    /// Others that patch this device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 128)))]
    pub other_patch_sources: Vec<String>,
    /// Number of the report these facts are from: late copies of older ones change nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub report_seq: Option<i64>,
}

/// Who the device says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Computer name.
    #[schemars(length(max = 63))]
    pub hostname: String,
    /// Fully qualified name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub fqdn: Option<String>,
    /// IP addresses, at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 45)))]
    pub addresses: Vec<String>,
    /// Serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub serial: Option<String>,
    /// Model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub model: Option<String>,
    /// Roles it reports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub roles: Vec<DeviceRole>,
}

/// A role that makes a restart delicate.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum DeviceRole {
    /// Active Directory domain controller.
    DomainController,
    /// Node of a failover cluster.
    ClusterNode,
    /// Hyper-V host.
    HyperVHost,
    /// Remote Desktop session host.
    RdsHost,
    /// Any of these, or one that this version does not know: the device cannot tell, or its agent is newer.
    /// It is held like a role that no group declares.
    Unknown,
}

/// Windows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatingSystem {
    /// Product, such as `Windows Server 2022`: what updates are matched by.
    #[schemars(length(max = 128))]
    pub product: String,
    /// `build.UBR`, such as `20348.2762`.
    #[schemars(length(max = 32))]
    pub build: String,
}

/// The last scan for updates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastScan {
    /// When it ended.
    pub time: Timestamp,
    /// Where it asked.
    #[schemars(length(max = 64))]
    pub source: String,
    /// HRESULT, `0x%08X`; `0x00000000` is success.
    #[schemars(length(max = 10))]
    pub result: String,
}

/// Counters over updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateCounts {
    /// Installed.
    pub installed: u32,
    /// Offered and not installed.
    pub missing: u32,
    /// Last installation failed.
    pub failed: u32,
}

/// What a device's source says about an update that it offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfferedUpdate {
    /// KB number.
    #[schemars(length(max = 10))]
    pub kb: String,
    /// Microsoft's classification, such as `Security Updates`, where it is a known one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub classification: Option<String>,
    /// Microsoft's severity, where it gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub msrc_severity: Option<MsrcSeverity>,
    /// Largest size of its download in megabytes, rounded up.
    pub size_mb: u32,
    /// Day on which its publisher last changed it, such as `2026-11-10`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10))]
    pub released: Option<String>,
    /// Whether it can be removed, by its own word. Only its packages prove it, after the
    /// installation.
    pub uninstallable: bool,
    /// Whether it restarts the device, by its own word.
    pub reboot: RebootBehavior,
}

/// Whether an update restarts the device: Microsoft's InstallationRebootBehavior.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RebootBehavior {
    /// It never does.
    Never,
    /// It always does.
    Always,
    /// It may; also where the update says nothing.
    CanRequest,
}

/// One source that says Windows waits for a restart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingRebootSource {
    /// Name of the source, such as `ComponentBasedServicing`.
    #[schemars(length(max = 64))]
    pub source: String,
    /// Whether it blocks an installation.
    pub hard: bool,
}

/// What happens when a device starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Startup {
    /// Whether anybody must be there.
    pub attendance: Attendance,
    /// What says so: kinds of key protectors of the system drive by Microsoft's names, such as
    /// `TpmAndPin`; never a key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 64)))]
    pub protectors: Vec<String>,
}

/// Whether a person must be there when a device starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Attendance {
    /// Nobody.
    NotNeeded,
    /// BitLocker asks for a PIN, a password or a key.
    Needed,
    /// The device cannot tell.
    Unknown,
}

/// A pause that an administrator ordered on the device itself: nothing is begun there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Paused {
    /// Why, in that person's words; may be empty.
    #[schemars(length(max = 128))]
    pub reason: String,
    /// Since when, by the device's clock.
    pub since: Timestamp,
    /// When it ends by itself, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// How a device is since one installation that ended well: the services and probes that its job named,
/// compared with how they were before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthSince {
    /// Rollout of the job.
    #[schemars(length(max = 64))]
    pub rollout_uid: String,
    /// Attempt of the job.
    pub attempt: u32,
    /// When the job ended, by the device's clock.
    pub since: Timestamp,
    /// The agent cannot look at the device, or does not for more than an hour; what stands here is how it was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blind: bool,
    /// The first of what is worse than before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub unhealthy: Vec<Unhealthy>,
    /// Crashes and losses of power since, as far as no other job is to answer for them. One loss of power
    /// alone is not counted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: u32,
    /// When the agent first ran after the last of them, by the device's clock, and not after its report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_restart: Option<Timestamp>,
}

pub(crate) fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Something that is worse than before an installation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Unhealthy {
    /// What it is.
    pub kind: UnhealthyKind,
    /// Its name, or the beginning of it.
    #[schemars(length(max = 64))]
    pub name: String,
    /// Since when it is called worse, by the device's clock.
    pub since: Timestamp,
}

/// What may be worse than before an installation.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum UnhealthyKind {
    /// A service.
    Service,
    /// A probe.
    Probe,
}

/// State of the component store, which every update is installed from and removed with.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum ComponentStore {
    /// Nothing marked it as damaged.
    Healthy,
    /// Damaged; Windows says that it can be repaired.
    Repairable,
    /// Damaged; Windows says that it cannot be repaired.
    Damaged,
    /// The device cannot tell.
    Unknown,
}

/// One watched service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// Service name (not the display name).
    #[schemars(length(max = 256))]
    pub name: String,
    /// State.
    pub state: ServiceState,
}

/// State of a Windows service, in Microsoft's words.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum ServiceState {
    /// Running.
    Running,
    /// Stopped.
    Stopped,
    /// Starting.
    StartPending,
    /// Stopping.
    StopPending,
    /// Paused.
    Paused,
    /// There is no such service.
    Missing,
}
