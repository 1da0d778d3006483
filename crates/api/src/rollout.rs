//! PatchRollout: one run of a set of updates over device groups, in stages. What people write.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AutonomousRollback, Cap, CorrelatedFailures, Health, LabelSelector, PatchRolloutStatus,
    Predownload, Reboot, Span, StageGates, UpdatePackage,
};

/// One run: which updates, which devices in which order, and what must hold on the way.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "wardring.dev",
    version = "v1alpha1",
    kind = "PatchRollout",
    plural = "patchrollouts",
    shortname = "prollout",
    category = "wardring",
    namespaced,
    status = "PatchRolloutStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct PatchRolloutSpec {
    /// Which updates. Resolved once at start; immutable.
    pub updates: UpdateSelection,
    /// Stages, in order. Append-only.
    #[schemars(length(min = 1, max = 20))]
    pub stages: Vec<Stage>,
    /// Downloads ahead of maintenance windows. Without it, devices download what they install when they
    /// may install it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predownload: Option<Predownload>,
    /// Checks before anything is deployed to a device.
    #[serde(default)]
    pub preflight: Preflight,
    /// What must be healthy on a device after the update.
    #[serde(default)]
    pub health: Health,
    /// How a device restarts.
    #[serde(default)]
    pub reboot: Reboot,
    /// What happens when a device or a stage fails.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// When failures that are alike halt the rollout, though the stages' budgets bear them.
    #[serde(default)]
    pub correlated_failures: CorrelatedFailures,
    /// What happens at a halt to devices that installed and have not restarted.
    #[serde(default)]
    pub on_halt: OnHalt,
    /// What devices may take back by themselves. Default nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autonomous_rollback: Option<AutonomousRollback>,
    /// Which of two rollouts gets a device, or the last place that a group has for one, first: the
    /// higher one; of equal ones the older. Nothing is kept free for it. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: Option<i32>,
    /// What a fix that cannot wait leaves out, in every stage in which a person approved just that: in those
    /// with an enforced gate of type Approval in `gates.before`. Setting, changing or removing it asks anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expedite: Option<Expedite>,
    /// User names of all who wrote the rollout, as the API server knows them. Needed where a stage has a gate
    /// of type Approval: whoever makes the rollout or changes its stages must be among them, and may not
    /// approve. It may only grow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub authors: Vec<String>,
    /// Name of an older rollout of this namespace whose place this one takes. When the first stage of this one
    /// has opened, the older one is halted: nothing begins there any more, and what is at work comes to its
    /// end. When it is quiet, it is over. Needs a second person: an enforced gate of type Approval in
    /// `gates.before` of the first stage, without `authorMayApprove`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub supersedes: Option<String>,
    /// A person's pause. Latches: only an explicit `false` resumes, absence changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// A person's end of the run. One-way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<Abort>,
}

/// Which updates a rollout brings: exactly one of `select`, `kbs` and `packages`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateSelection {
    /// By properties: the normal form, since one Patch Tuesday is many KBs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<UpdateSelect>,
    /// By KB number, such as `KB5068787`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub kbs: Vec<KbId>,
    /// By address, for fixes that no update service offers. Devices install them in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub packages: Vec<UpdatePackage>,
    /// Where devices look for updates.
    #[serde(default)]
    pub source: UpdateSource,
    /// Whether the agent may accept licence terms on the operator's behalf.
    #[serde(default)]
    pub accept_eula: bool,
}

/// Updates by their properties; every given property must match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateSelect {
    /// Release month, `2026-11`.
    #[schemars(regex(pattern = r"^[0-9]{4}-(0[1-9]|1[0-2])$"), length(max = 64))]
    pub release: String,
    /// Kinds; default Quality and DotNet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub kinds: Vec<UpdateKind>,
    /// Microsoft's classifications by name, such as `Security Updates`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 64)))]
    pub classifications: Vec<String>,
    /// Products, such as `Windows Server 2022`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 128)))]
    pub products: Vec<String>,
    /// Microsoft severities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub msrc_severities: Vec<MsrcSeverity>,
    /// KBs that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub exclude: Vec<KbId>,
}

/// A KB number with its prefix: `KB5068787`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KbId(String);

/// Why a text is not a [`KbId`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a KB number like `KB5068787`")]
pub struct KbIdError {
    /// The refused text.
    pub text: String,
}

impl KbId {
    /// The number with its prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for KbId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::str::FromStr for KbId {
    type Err = KbIdError;

    fn from_str(text: &str) -> Result<Self, KbIdError> {
        match text.strip_prefix("KB") {
            Some(digits)
                if (5..=8).contains(&digits.len())
                    && digits.bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                Ok(KbId(text.to_owned()))
            }
            _ => Err(KbIdError { text: text.to_owned() }),
        }
    }
}

impl TryFrom<String> for KbId {
    type Error = KbIdError;

    fn try_from(text: String) -> Result<Self, KbIdError> {
        text.parse()
    }
}

impl From<KbId> for String {
    fn from(kb: KbId) -> String {
        kb.0
    }
}

impl JsonSchema for KbId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "KbId".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "maxLength": 10,
            "pattern": "^KB[0-9]{5,8}$",
            "x-kubernetes-validations": [{
                "rule": "self.matches('^KB[0-9]{5,8}$')",
                "message": "must be a KB number with its prefix, such as `KB5068787`",
            }],
        })
    }
}

/// What an update is, in words that decide how it is proven and undone.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum UpdateKind {
    /// Cumulative quality update of Windows (LCU).
    Quality,
    /// .NET Framework or .NET.
    DotNet,
    /// Servicing stack alone.
    ServicingStack,
    /// Another package of Windows.
    Other,
    /// Upgrade to another Windows version; only when named.
    FeatureUpdate,
    /// Driver; only when named.
    Driver,
    /// Defender definitions; only when named.
    Definition,
}

/// Microsoft's severity of a security update.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum MsrcSeverity {
    /// Critical.
    Critical,
    /// Important.
    Important,
    /// Moderate.
    Moderate,
    /// Low.
    Low,
    /// None given.
    Unspecified,
}

/// Where a device looks for updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpdateSource {
    /// What the device's policy says.
    #[default]
    Default,
    /// The WSUS server of the device's policy.
    #[serde(rename = "WSUS")]
    Wsus,
    /// Windows Update.
    WindowsUpdate,
    /// Microsoft Update.
    MicrosoftUpdate,
}

/// One stage: devices that go together, under common limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    /// Name, unique in the rollout.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// A DeviceGroup of this namespace. Exactly one of `group` and `selector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub group: Option<String>,
    /// Devices by label. Exactly one of `group` and `selector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Devices granted and not yet proven at any moment; rounded down, at least 1. Default 10 %, so
    /// that a forgotten field is not a whole fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<Cap>,
    /// Failed devices the stage bears; strictly more halt it. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<Cap>,
    /// Unreachable devices the stage bears; default as `maxFailures`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unreachable: Option<Cap>,
    /// Fewer selected devices than this are taken for a typo. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub min_devices: Option<u32>,
    /// Devices that must really be installed and proven before the next stage opens. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub min_proven: Option<u32>,
    /// Share of the applicable devices that must be done before the next stage opens. Default 100%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_coverage: Option<Cap>,
    /// Holds devices of a product, a model or a role of which no earlier stage proved one.
    #[serde(default)]
    pub require_proven: bool,
    /// Watch time after the last proof, before the next stage opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak: Option<Span>,
    /// Longest time from the stage's opening until it is proven; time in which the rollout stood still
    /// does not count. Default 7d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_deadline: Option<Span>,
    /// Longest time from a grant until the device must have begun (bounds the install permit). Default 4h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_within: Option<Span>,
    /// Longest silence of a device that has begun, outside of a restart. Default 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence_deadline: Option<Span>,
    /// A restart that takes longer is called slow. Default 30m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot_slow_after: Option<Span>,
    /// A restart that takes longer counts as unreachable. Default 2h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot_deadline: Option<Span>,
    /// Longest time from a grant until the device must be done (bounds the reboot permit). Default 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_deadline: Option<Span>,
    /// What becomes of devices that no agent is in contact with.
    #[serde(default)]
    pub offline: Offline,
    /// Attempts for one device.
    #[serde(default)]
    pub retry: Retry,
    /// MaintenanceWindows of type Allow; one of them must be open for a device before it begins. Without
    /// any, it may begin at all times, freezes aside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 63)))]
    pub windows: Vec<String>,
    /// What must hold before the stage starts, while it runs, and before the next one opens.
    #[serde(default, skip_serializing_if = "StageGates::is_empty")]
    pub gates: StageGates,
}

/// Policy for devices that nobody is in contact with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Offline {
    /// What to do.
    #[serde(default)]
    pub action: OfflineAction,
    /// After how long; time in which the rollout stood still does not count. For CatchUp, how long the
    /// stage waits for everybody before `minCoverage` is enough: by the clock, from its opening on,
    /// whatever windows and stops say meanwhile. Default 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Span>,
    /// For CatchUp: how long the stage stays open for latecomers, from the moment on in which it no
    /// longer waits for them. Default 14d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub close_after: Option<Span>,
}

/// What becomes of devices that nobody is in contact with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OfflineAction {
    /// Wait until the stage's deadline.
    #[default]
    Wait,
    /// Leave it out of this run, visibly.
    Defer,
    /// Go on without those who are late once `minCoverage` is reached, and stay open for them: under the
    /// same gates, budgets and caps, while later stages run.
    CatchUp,
    /// Count it as failed.
    Fail,
}

/// Attempts for one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Started attempts at most; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub max_attempts: Option<u32>,
    /// Pause before the next attempt; default 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Span>,
}

/// Checks before anything is deployed to a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Preflight {
    /// What a pending restart means.
    #[serde(default)]
    pub pending_reboot: PendingRebootPolicy,
    /// Free space the drive of Windows needs, in gigabytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub min_free_disk_gb: Option<u32>,
    /// Only devices that can take the update back.
    #[serde(default)]
    pub require_reversible: bool,
    /// What it means that the device would wait for a person at every start.
    #[serde(default)]
    pub unattended_boot: UnattendedBootPolicy,
    /// What it means that the device runs on battery.
    #[serde(default)]
    pub on_battery: OnBattery,
    /// What it means that Windows' component store is damaged.
    #[serde(default)]
    pub component_store: ComponentStorePolicy,
}

/// What it means that Windows' component store is damaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ComponentStorePolicy {
    /// A device that says so is held: its updates may fail half-way, and may not be removable.
    #[default]
    Block,
    /// A device that does not say that it is sound is held, too.
    Require,
    /// It goes on all the same.
    Ignore,
}

/// What it means that BitLocker asks for a PIN, a password or a key at every start of a device, or
/// that the device cannot tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UnattendedBootPolicy {
    /// Nothing is begun there, and nothing restarts into the question.
    #[default]
    Require,
    /// Somebody will be there to answer it.
    Ignore,
}

/// What it means that a device runs on battery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnBattery {
    /// Nothing is begun there, and a restart waits until it is plugged in.
    #[default]
    Hold,
    /// It goes on all the same.
    Ignore,
}

/// What a restart that Windows already waits for means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PendingRebootPolicy {
    /// The device is held.
    #[default]
    Block,
    /// The agent restarts first, within the same job and caps.
    RebootFirst,
}

/// What happens when devices fail.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OnFailure {
    /// Halt only, or roll back too. Default Halt.
    #[serde(default)]
    pub action: FailureAction,
    /// Which devices a rollback reaches. Default Device.
    #[serde(default)]
    pub scope: RollbackScope,
    /// Devices rolled back at once; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<Cap>,
    /// Devices from which the updates are taken back without asking anybody, in all of the run; a share is of
    /// the devices of the stages that have opened, rounded down. Beyond it a person approves first
    /// (PatchApproval), and devices of groups that say `rollback: Ask` are asked about in the same way.
    /// Without it nobody is asked, and those groups wait for a PatchRollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval_above: Option<Cap>,
    /// Whether rollbacks wait for maintenance windows and freezes. Default Ignore.
    #[serde(default)]
    pub windows: RollbackWindows,
}

/// Whether rollbacks wait for maintenance windows and freezes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RollbackWindows {
    /// No: a broken device is mended at once.
    #[default]
    Ignore,
    /// Yes: taking back and the restart after it begin where Uninstall and Reboot may.
    Respect,
}

/// What a failure leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailureAction {
    /// Stop and wait for a person.
    #[default]
    Halt,
    /// Stop and take the updates back within `scope`.
    Rollback,
}

/// Which devices a rollback reaches.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum RollbackScope {
    /// Devices that failed.
    #[default]
    Device,
    /// Every updated device of the failing stage.
    Stage,
    /// Every updated device of the rollout.
    AllStages,
}

/// What happens at a halt to devices that installed and have not restarted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OnHalt {
    /// Hold them as they are, let them finish, or uninstall. Default Hold.
    #[serde(default)]
    pub installed_awaiting_reboot: AwaitingRebootAction,
}

/// What becomes of an installed device whose restart is outstanding at a halt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AwaitingRebootAction {
    /// No restart by us until a person decides.
    #[default]
    Hold,
    /// It may restart and be proven.
    Finish,
    /// It is rolled back.
    Uninstall,
}

/// What a fix that cannot wait leaves out. Caps, budgets, gates, checks, holds and freezes stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Expedite {
    /// Why, for whoever approves it and for the record.
    #[schemars(length(min = 1, max = 500))]
    pub reason: String,
    /// A stage is done as soon as it is proven, without its `soak`.
    #[serde(default)]
    pub skip_soak: bool,
    /// Installations and their restarts begin outside of maintenance windows, too, be they the stage's or
    /// those of its devices' groups. What freezes (type Deny) stays frozen.
    #[serde(default)]
    pub ignore_windows: bool,
}

/// A person's end of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Abort {
    /// Why.
    #[schemars(length(min = 1, max = 500))]
    pub reason: String,
}
