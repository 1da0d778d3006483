//! Messages between agent and gateway, JSON over HTTPS, with their limits.
//!
//! Identity never stands in a message: it comes from the client certificate alone. This crate knows
//! neither the API types nor the kube client.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wardring_seal::JobKey;
pub use wardring_seal::{Sealed, Signed};

/// Largest body either side accepts, bytes.
pub const MAX_BODY: usize = 64 * 1024;
/// Protocol version in the path (`/v1/…`) and in reports; a higher one is refused with 400.
pub const PROTOCOL_VERSION: u32 = 1;
/// Life of a permit on the agent's monotonic clock, from the moment it asked, milliseconds.
pub const PERMIT_LIFE_MS: u64 = 60_000;
/// Longest wait of a long poll, seconds.
pub const MAX_POLL_WAIT_S: u64 = 300;
/// Most reports in one batch.
pub const MAX_REPORTS: usize = 32;
/// Longest a gateway holds a batch while it makes it durable, milliseconds; an agent's timeout is longer.
pub const MAX_REPORT_WAIT_MS: u64 = 15_000;

/// Most updates that facts tell more about.
pub const MAX_OFFERED: usize = 32;

/// Most installations after which facts tell how the device is.
pub const MAX_WATCHES: usize = 4;

/// Most services and probes that facts call worse than before one installation.
pub const MAX_UNHEALTHY: usize = 8;

/// Most bytes of the name of one of them, and of why it is worse.
pub const MAX_UNHEALTHY_TEXT: usize = 128;

mod limits;

pub use limits::{Malformed, check_batch, check_permit, check_poll};

/// `POST /v1/enroll` and `POST /v1/renew`. Idempotent: the agent repeats it until it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnrolRequest {
    /// JSON text of a [`wardring_seal::EnrolmentClaim`].
    pub claim: String,
    /// Signature over it, base64.
    pub proof: String,
    /// Current certificate (DER, base64); renewal only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

/// Answer to an [`EnrolRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum EnrolAnswer {
    /// Filed; ask again after so many milliseconds.
    #[serde(rename_all = "camelCase")]
    Pending {
        /// Milliseconds until the next try.
        retry_ms: u64,
    },
    /// Here it is.
    #[serde(rename_all = "camelCase")]
    Issued {
        /// Device certificate (DER, base64).
        certificate: String,
        /// Roots to trust (DER, base64).
        roots: Vec<String>,
    },
    /// No.
    #[serde(rename_all = "camelCase")]
    Refused {
        /// Reason word.
        reason: String,
        /// The sentence.
        message: String,
    },
}

/// `GET /v1/job?known=<key id>&wait=<seconds>&run=<agent run>&boot=<boot id>&seq=<highest sequence>`
/// answer: 200. `known` is [`key_id`] of the job the agent has; the call returns early when another
/// one is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobAnswer {
    /// The job, if it is another one than `known`. Absence means nothing: watches lag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Sealed>,
    /// Mode that people set on the device.
    pub mode: Mode,
    /// Milliseconds until the next poll should begin.
    pub next_poll_ms: u64,
    /// Gateway's clock, for skew.
    pub now: Timestamp,
}

/// Query of `GET /v1/job`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobQuery {
    /// [`key_id`] of the job the agent has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<String>,
    /// Seconds the gateway may hold the call, at most [`MAX_POLL_WAIT_S`].
    #[serde(default)]
    pub wait: u64,
    /// Run of the agent's process (random per start).
    pub run: String,
    /// Running boot.
    pub boot: String,
    /// Highest sealed sequence the agent has seen.
    #[serde(default)]
    pub seq: i64,
}

/// What an agent may do, as people set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Scan and report.
    Observe,
    /// Carry out jobs.
    Manage,
}

/// A short, stable text for a key, usable in a query string.
pub fn key_id(key: &JobKey) -> String {
    format!("{}.{}.{}.{:?}", key.rollout_uid, key.device_id, key.attempt, key.action)
}

/// An irreversible step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Step {
    /// Begin to install.
    Install,
    /// Restart.
    Reboot,
    /// Begin to uninstall.
    Uninstall,
}

/// `POST /v1/permits`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PermitRequest {
    /// Which grant.
    pub key: JobKey,
    /// Which step.
    pub step: Step,
    /// Running boot.
    pub boot_id: String,
    /// Run of the agent's process.
    pub agent_run: String,
    /// Run in which the agent accepted the job, from its journal: a restarted agent repeats it, an
    /// agent on a copy of its disk cannot.
    #[serde(default)]
    pub accepted_in: String,
    /// Highest sealed sequence the agent has seen.
    pub highest_sequence: i64,
    /// The device's clock.
    pub now: Timestamp,
}

/// Answer to a [`PermitRequest`]: always 200 when it could be decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "answer")]
pub enum PermitAnswer {
    /// Go, within [`PERMIT_LIFE_MS`] of asking.
    Granted,
    /// Not now; ask again.
    #[serde(rename_all = "camelCase")]
    Refused {
        /// Reason word.
        reason: String,
        /// The sentence.
        message: String,
        /// Milliseconds until asking again makes sense.
        retry_ms: u64,
    },
    /// This grant is over (NoSuchJob after a quorum read): drop the job.
    #[serde(rename_all = "camelCase")]
    Ended {
        /// Reason word.
        reason: String,
        /// The sentence.
        message: String,
    },
}

/// `POST /v1/reports`: the agent's outbox, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportBatch {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// Run of the agent's process.
    pub agent_run: String,
    /// Running boot.
    pub boot_id: String,
    /// The device's clock.
    pub now: Timestamp,
    /// Milliseconds since the boot.
    pub uptime_ms: u64,
    /// Reports, ascending `seq`.
    pub reports: Vec<Report>,
}

/// One report of the outbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Number in the device's own sequence; only grows, also over a lost journal.
    pub seq: u64,
    /// What is reported.
    pub body: ReportBody,
}

/// What is reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type", content = "data")]
pub enum ReportBody {
    /// Everything known about the device; the newest wins.
    Facts(Box<Facts>),
    /// Where the job stands; the newest of a key wins.
    Progress(Progress),
    /// The end of a grant.
    Outcome(Signed),
}

/// Answer to a [`ReportBatch`].
///
/// Nothing is acked before it is durable (or dropped for good). What is not acked stays in the outbox
/// and goes out again with the next batch, at the latest after `retry_ms`: gateways write facts and
/// progress of a device that is being patched late on purpose, together with other writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportAck {
    /// Every report up to here is durable (or dropped for good) and may leave the outbox.
    pub acked_through: u64,
    /// Highest number ever seen of this device. An agent whose own last number is lower has lost its
    /// journal: it jumps above it, and its `Facts` and open reports go out anew with higher numbers,
    /// because a report with an old number counts as a late copy.
    pub highest_seen: u64,
    /// Milliseconds until what is not acked should be sent again; 0 if all is.
    #[serde(default)]
    pub retry_ms: u64,
}

/// Everything known about a device. Sizes are capped by the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// Computer name.
    pub hostname: String,
    /// Fully qualified name.
    #[serde(default)]
    pub fqdn: Option<String>,
    /// IP addresses.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Serial number.
    #[serde(default)]
    pub serial: Option<String>,
    /// Model.
    #[serde(default)]
    pub model: Option<String>,
    /// Roles, in the API's words (`DomainController`, `ClusterNode`, `HyperVHost`, `RdsHost`).
    #[serde(default)]
    pub roles: Vec<String>,
    /// Windows product, `Windows Server 2022`.
    pub product: String,
    /// `build.UBR`.
    pub build: String,
    /// Version of the agent.
    pub agent_version: String,
    /// Why the last update of the agent was taken back, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_update_failed: Option<String>,
    /// Last scan.
    #[serde(default)]
    pub last_scan: Option<Scan>,
    /// KBs installed (newest first, capped).
    #[serde(default)]
    pub installed: Vec<String>,
    /// Number installed in all.
    #[serde(default)]
    pub installed_count: u32,
    /// KBs offered and not installed.
    #[serde(default)]
    pub missing: Vec<String>,
    /// More about the first of `missing`, at most [`MAX_OFFERED`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offered: Vec<Offered>,
    /// KBs whose last installation failed.
    #[serde(default)]
    pub failed: Vec<String>,
    /// Sources of a pending restart.
    #[serde(default)]
    pub pending_reboot: Vec<RebootSource>,
    /// Watched services.
    #[serde(default)]
    pub services: Vec<ServiceFact>,
    /// What happens when the device starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<StartupFact>,
    /// Free space on the drive of Windows, gigabytes, rounded down; absent where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_disk_gb: Option<u32>,
    /// State of the component store, in the API's words (`Healthy`, `Repairable`, `Damaged`, `Unknown`);
    /// absent where nobody looked yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component_store: Option<String>,
    /// Others that patch this device.
    #[serde(default)]
    pub other_patch_sources: Vec<String>,
    /// An administrator of the device paused the agent there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<PauseFact>,
    /// How the device is since installations that ended well, at most [`MAX_WATCHES`], oldest first; an
    /// agent that does not look after the end of a job tells nothing here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub health: Vec<HealthFact>,
}

/// How a device is since one installation that ended well: what the health checks of its job named, as
/// compared with how it was before that installation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthFact {
    /// Rollout of the job.
    pub rollout_uid: String,
    /// Attempt of the job.
    pub attempt: u32,
    /// When the job ended, by the device's clock.
    pub since: Timestamp,
    /// The device cannot be looked at, or is not for more than an hour; what stands here is how it was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blind: bool,
    /// The job named nothing to look at: only restarts are counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub names_nothing: bool,
    /// The first of what is worse than before, at most [`MAX_UNHEALTHY`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unhealthy: Vec<UnhealthyFact>,
    /// Crashes and losses of power since then, as far as no other job is to answer for them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: u32,
    /// The boot after the last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_restart: Option<Boot>,
}

/// Something that is worse than before an installation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnhealthyFact {
    /// What it is, in the API's words (`Service`, `Probe`).
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What is worse.
    #[serde(default)]
    pub why: String,
    /// Since when it is called worse, by the device's clock.
    pub since: Timestamp,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A pause that an administrator ordered on the device itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PauseFact {
    /// Why, in that person's words; may be empty.
    #[serde(default)]
    pub reason: String,
    /// Since when, by the device's clock.
    pub since: Timestamp,
    /// When it ends by itself, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// What happens when a device starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartupFact {
    /// Whether a person must be there, in the API's words (`NotNeeded`, `Needed`, `Unknown`).
    pub attendance: String,
    /// Kinds of key protectors that say so; never a key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protectors: Vec<String>,
}

/// What the device's source says about an update that it offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offered {
    /// KB number.
    pub kb: String,
    /// Microsoft's classification by its English name (`Security Updates`), where it is a known one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classification: Option<String>,
    /// Microsoft's severity (`Critical`, …); absent where it gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub msrc_severity: Option<String>,
    /// Largest size of its download, bytes.
    #[serde(default)]
    pub size_bytes: u64,
    /// Whether it can be removed, by its own word. Only packages prove it.
    #[serde(default)]
    pub uninstallable: bool,
    /// Whether it restarts the device, by its own word.
    pub reboot: RebootBehavior,
    /// When its publisher last changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Timestamp>,
}

/// Whether an update restarts the device: Microsoft's InstallationRebootBehavior.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RebootBehavior {
    /// It never does.
    Never,
    /// It always does.
    Always,
    /// It may; also where the update says nothing.
    #[default]
    CanRequest,
}

/// A scan for updates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scan {
    /// When it ended, by the device's clock.
    pub time: Timestamp,
    /// Where it asked.
    pub source: String,
    /// HRESULT, `0x%08X`.
    pub result: String,
}

/// A source of a pending restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RebootSource {
    /// Name.
    pub source: String,
    /// Whether it blocks an installation.
    pub hard: bool,
}

/// A watched service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceFact {
    /// Service name.
    pub name: String,
    /// State, in the API's words (`Running`, `Stopped`, …, `Missing`).
    pub state: String,
}

/// Where a job stands, unsigned: shown to people, never counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Which grant.
    pub key: JobKey,
    /// State, in the API's words (`Accepted`, `Installing`, …).
    pub state: String,
    /// A sentence.
    #[serde(default)]
    pub message: String,
    /// Result per update so far.
    #[serde(default)]
    pub updates: Vec<UpdateProgress>,
    /// Boots seen.
    #[serde(default)]
    pub boots: Vec<Boot>,
    /// Services that do not run and probes that fail.
    #[serde(default)]
    pub unhealthy: Vec<String>,
    /// What differs from the baseline.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
}

/// Result of one update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateProgress {
    /// KB number.
    pub kb: String,
    /// Microsoft's OperationResultCode.
    pub operation_result_code: i32,
    /// HRESULT, `0x%08X`.
    #[serde(default)]
    pub hresult: Option<String>,
    /// Symbolic name of the HRESULT.
    #[serde(default)]
    pub name: Option<String>,
    /// Whether a restart is needed.
    #[serde(default)]
    pub reboot_required: bool,
}

/// One boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Boot {
    /// Identity of the boot.
    pub boot_id: String,
    /// When the agent first ran in it.
    pub at: Timestamp,
    /// Kind, in the API's words (`Expected`, `Foreign`, `Crash`, `Dirty`, `Unknown`).
    pub kind: String,
}
