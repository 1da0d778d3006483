//! PatchJob: one device's part of a rollout. Its name is the device's name, so creating one is the
//! per-device lock.

use jiff::Timestamp;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What one device may do: sealed bytes for the agent, and the same in columns for people.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "wardring.dev",
    version = "v1alpha1",
    kind = "PatchJob",
    plural = "patchjobs",
    shortname = "pjob",
    category = "wardring",
    namespaced,
    status = "PatchJobStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct PatchJobSpec {
    /// What the agent reads and verifies; nothing else of this object reaches it.
    pub sealed: SealedBytes,
    /// Name of the rollout.
    #[schemars(length(max = 63))]
    pub rollout: String,
    /// Uid of the rollout.
    #[schemars(length(max = 64))]
    pub rollout_uid: String,
    /// Name of the stage.
    #[schemars(length(max = 63))]
    pub stage: String,
    /// Slice that holds the device's line.
    #[schemars(length(max = 253))]
    pub slice: String,
    /// Enrolment id of the device at the grant.
    #[schemars(length(max = 64))]
    pub enrolment_id: String,
    /// Attempt.
    #[schemars(range(min = 1))]
    pub attempt: u32,
    /// Ledger sequence of the grant.
    pub sequence: i64,
    /// What is to be done.
    pub action: JobAction,
    /// KBs concerned, for people.
    #[schemars(length(max = 64), inner(length(max = 10)))]
    pub kbs: Vec<String>,
    /// No install permit after this instant.
    pub start_by: Timestamp,
    /// No permit at all after this instant.
    pub finish_by: Timestamp,
    /// Whether the device may roll back by itself: by what, or why it must not. Absent where the
    /// rollout does not ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub autonomous_rollback: Option<String>,
}

/// Exact bytes with a signature over them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SealedBytes {
    /// The payload, verbatim JSON text.
    #[schemars(length(max = 32_768))]
    pub payload: String,
    /// Signature over the payload's bytes, base64.
    #[schemars(length(max = 256))]
    pub signature: String,
    /// SHA-256 of the signer's public key, hex.
    #[schemars(length(max = 64))]
    pub key_id: String,
    /// The signer's certificate (DER, base64), issued by the root.
    #[schemars(length(max = 4096))]
    pub certificate: String,
}

/// The closed set of things a job may ask for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum JobAction {
    /// Fetch the updates, install nothing.
    Download,
    /// Install and prove.
    Install,
    /// Take the updates back and prove it.
    Rollback,
}

impl JobAction {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            JobAction::Download => "Download",
            JobAction::Install => "Install",
            JobAction::Rollback => "Rollback",
        }
    }

    /// The action with this word.
    pub fn parse(word: &str) -> Option<JobAction> {
        [JobAction::Download, JobAction::Install, JobAction::Rollback]
            .into_iter()
            .find(|action| action.as_str() == word)
    }
}

/// What the gateways know of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PatchJobStatus {
    /// Permits given, oldest first. Appended by compare-and-swap before the answer leaves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub permitted: Vec<Permit>,
    /// What the device is doing, by its own unsigned word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// Attempt that `state` and the rest speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// A sentence from the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub message: Option<String>,
    /// When a gateway last heard of this job: moves with `state`, not with every contact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
    /// Result per update.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub updates: Vec<UpdateResult>,
    /// Restarts the agent saw, at most the last 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub boots: Vec<BootRecord>,
    /// Services that do not run and probes that fail, as last reported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 256)))]
    pub unhealthy: Vec<String>,
    /// What differs from the device's own baseline: build, services, probes, listening ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 256)))]
    pub changes: Vec<String>,
    /// The outcome, signed by the device. The controller counts nothing without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<SignedBytes>,
    /// Number of the report that `state` and the rest are from: late copies of older ones change
    /// nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub report_seq: Option<i64>,
    /// Runs of the agent that spoke of this attempt, one entry per change of speaker, at most the last
    /// 8. A run that comes back means two agents with one key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 64)))]
    pub runs: Vec<String>,
}

/// One permit that left a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Permit {
    /// The irreversible step.
    pub step: PermitStep,
    /// When.
    pub at: Timestamp,
    /// Attempt it was for.
    pub attempt: u32,
    /// Boot in which the agent asked.
    #[schemars(length(max = 64))]
    pub boot_id: String,
    /// Run of the agent's process that asked.
    #[schemars(length(max = 64))]
    pub agent_run: String,
    /// Run of the agent's process that accepted the job. Another one with the same key gets no
    /// permit of this attempt.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub accepted_in: String,
    /// Maintenance windows would have kept the installation back, had its stage not been expedited with
    /// somebody's approval. Its restart waits for no window either, as long as the rollout says
    /// `expedite.ignoreWindows`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expedited: bool,
}

/// An irreversible step.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum PermitStep {
    /// Begin to install.
    Install,
    /// Restart Windows.
    Reboot,
    /// Begin to uninstall.
    Uninstall,
}

/// What a device is doing with a job, by its own word.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum JobState {
    /// Read and verified.
    Accepted,
    /// Taking the baseline and checking.
    Preflight,
    /// Restarting before the installation.
    RebootFirst,
    /// Downloading.
    Downloading,
    /// Waiting for the permit to install.
    AwaitingInstall,
    /// Installing.
    Installing,
    /// Installed; waiting for the restart.
    AwaitingReboot,
    /// Restarting.
    Rebooting,
    /// Back; waiting for Windows to come to rest.
    Settling,
    /// Checking health.
    Verifying,
    /// Restarting services.
    Remediating,
    /// Running an administrator's program.
    RunningHook,
    /// Removing updates.
    Uninstalling,
    /// The outcome is final.
    Done,
}

/// Result of one update on one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateResult {
    /// KB number.
    #[schemars(length(max = 10))]
    pub kb: String,
    /// Microsoft's OperationResultCode, 0–5.
    #[schemars(range(min = 0, max = 5))]
    pub operation_result_code: i32,
    /// HRESULT, `0x%08X`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10))]
    pub hresult: Option<String>,
    /// Symbolic name and meaning of the HRESULT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub name: Option<String>,
    /// Whether the update asked for a restart.
    #[serde(default)]
    pub reboot_required: bool,
}

/// One boot of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootRecord {
    /// Identity of the boot.
    #[schemars(length(max = 64))]
    pub boot_id: String,
    /// When the agent first ran in it, by the device's clock.
    pub at: Timestamp,
    /// Why, as far as the agent can tell.
    pub kind: BootKind,
}

/// Why a device booted.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum BootKind {
    /// The restart we asked for.
    Expected,
    /// Somebody else's clean restart.
    Foreign,
    /// A crash.
    Crash,
    /// Power loss or reset.
    Dirty,
    /// Cannot be told.
    Unknown,
}

/// Exact bytes signed with a device's key, and the certificate for that key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignedBytes {
    /// The payload, verbatim JSON text.
    #[schemars(length(max = 16_384))]
    pub payload: String,
    /// Signature over the payload's bytes, base64.
    #[schemars(length(max = 256))]
    pub signature: String,
    /// The device's certificate (DER, base64), issued by the root.
    #[schemars(length(max = 4096))]
    pub certificate: String,
}
