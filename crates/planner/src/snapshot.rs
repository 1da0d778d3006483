//! What the planner sees of one namespace at one instant. Plain values: the shell observes, this
//! crate decides. Nothing here reads a clock, a file or a network.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use wardring_api::{
    Batch, JobAction, JobState, PatchApproval, PatchRollback, PatchRollout, PatchRolloutSlice,
    Permit, SliceLine, UpdateHold, UpdateHoldSpec, UpdateSpec, reasons::Reason,
};

use crate::{
    ApprovalPolicy, DeviceTable, Measurement, NamesDigest, StopView, WindowView, names_digest,
};

/// Everything one pass may look at. The order of the lists does not matter.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Namespace: a tenant and a shard.
    pub namespace: String,
    /// The instant of the pass.
    pub now: Timestamp,
    /// Circumstances in which nothing may be granted.
    pub guards: Guards,
    /// The write-ahead record.
    pub ledger: LedgerView,
    /// Every PatchRollout of the namespace.
    pub rollouts: Vec<Arc<PatchRollout>>,
    /// Every slice of the namespace.
    pub slices: Vec<Arc<SliceView>>,
    /// Every PatchJob of the namespace.
    pub jobs: Vec<Arc<JobView>>,
    /// Devices and groups.
    pub devices: Arc<DeviceTable>,
    /// The catalogue.
    pub updates: Vec<Arc<UpdateSpec>>,
    /// Updates that are barred.
    pub holds: Vec<HoldView>,
    /// Every PatchRollback of the namespace.
    pub orders: Vec<Arc<PatchRollback>>,
    /// Every PatchApproval of the namespace.
    pub approvals: Vec<Arc<PatchApproval>>,
    /// Whether what they say can be believed.
    pub approval_policy: ApprovalPolicy,
    /// Made up for this snapshot, of at most 64 characters: what is asked with it cannot have been
    /// answered before.
    pub nonce: String,
    /// Every MaintenanceWindow of the namespace.
    pub windows: Vec<Arc<WindowView>>,
    /// Every EmergencyStop of the cluster.
    pub stops: Vec<Arc<StopView>>,
    /// The newest measurement of each gate, as far as this process has taken one. An older one besides it
    /// does no harm.
    pub measurements: Vec<Measurement>,
    /// Grants of this leader's own term for which it knows that no create request for the job was
    /// ever sent. Every other Granted line without a job is repaired: somebody may have deleted it.
    pub uncreated: BTreeSet<GrantId>,
    /// Grants whose job the API server refuses for good (a permanent 4xx), with its words.
    pub cannot_create: BTreeMap<GrantId, String>,
    /// UpdateHolds that the API server refused when this process last asked for them, by name.
    pub refused_holds: BTreeMap<String, RefusedHold>,
}

/// An UpdateHold that the API server does not take, for a quota or somebody's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedHold {
    /// Rollout that it belongs to.
    pub rollout_uid: String,
    /// The API server's words.
    pub words: String,
}

/// Circumstances in which nothing may be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guards {
    /// This process's clock and the API server's agree within 30 s.
    pub clock_trusted: bool,
    /// Agents hold a sequence that the ledger never gave (the highest such), and nobody confirmed it
    /// yet.
    pub restored_from_backup: Option<i64>,
    /// A new leader has not heard yet what the agents hold, so it cannot know whether the cluster was
    /// restored.
    pub unheard: Option<Unheard>,
    /// The namespace is being deleted: only finalizers are removed.
    pub namespace_terminating: bool,
}

impl Default for Guards {
    fn default() -> Guards {
        Guards {
            clock_trusted: true,
            restored_from_backup: None,
            unheard: None,
            namespace_terminating: false,
        }
    }
}

/// Whom a new leader still listens for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unheard {
    /// Devices that are said to be in contact and have not presented their sequence.
    pub devices: usize,
    /// The first few of them, by name.
    pub names: Vec<String>,
    /// When those that stay silent are judged offline; none while no gateway has reported.
    pub until: Option<Timestamp>,
}

/// The namespace's PatchLedger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerView {
    /// False while there is no ledger: nothing is granted before the shell has made one (take-over).
    pub present: bool,
    /// Highest sequence written.
    pub sequence: i64,
    /// The last batch; it is open while one of its lines does not carry its sequence.
    pub batch: Option<Batch>,
}

/// Which grant: device and attempt, within one rollout.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrantId {
    /// Uid of the rollout.
    pub rollout_uid: String,
    /// Device.
    pub device: String,
    /// Attempt.
    pub attempt: u32,
}

/// A slice with its lines parsed, made once per version of the object.
#[derive(Clone, Debug, PartialEq)]
pub struct SliceView {
    /// Object name.
    pub name: String,
    /// Name of the rollout.
    pub rollout: String,
    /// Uid of the rollout.
    pub rollout_uid: String,
    /// Name of the stage.
    pub stage: String,
    /// Position in the stage, from 0.
    pub index: u32,
    /// Number of slices of the stage.
    pub of: u32,
    /// Freeze id of the stage's list.
    pub freeze_id: String,
    /// Lines in frozen order (by name).
    pub lines: Vec<SliceLine>,
    /// Why the object cannot be read, if a line is malformed.
    pub damaged: Option<String>,
    /// When the object was created.
    pub created_at: Option<Timestamp>,
    /// The device names of `lines`.
    pub names_digest: NamesDigest,
}

impl SliceView {
    /// The view of a slice that a plan wanted made, as it is right after its creation at `created`: what
    /// forecasts, simulators and models put in the place of the API server's object.
    pub fn fresh(new: &crate::NewSlice, created: Timestamp) -> SliceView {
        SliceView {
            name: new.name.clone(),
            rollout: new.rollout.name.clone(),
            rollout_uid: new.rollout.uid.clone(),
            stage: new.stage.clone(),
            index: new.index,
            of: new.of,
            freeze_id: new.freeze_id.clone(),
            names_digest: names_digest(new.lines.iter().map(|line| line.device.as_str())),
            lines: new.lines.clone(),
            damaged: None,
            created_at: Some(created),
        }
    }

    /// Parses a slice. A malformed line makes the whole record unusable, and it says so.
    pub fn new(slice: &PatchRolloutSlice) -> SliceView {
        let mut lines = Vec::with_capacity(slice.spec.lines.len());
        let mut damaged = None;
        for text in &slice.spec.lines {
            match text.parse::<SliceLine>() {
                Ok(line) => lines.push(line),
                Err(error) => damaged = Some(error.to_string()),
            }
        }
        SliceView {
            name: slice.metadata.name.clone().unwrap_or_default(),
            rollout: slice.spec.rollout.clone(),
            rollout_uid: slice.spec.rollout_uid.clone(),
            stage: slice.spec.stage.clone(),
            index: slice.spec.index,
            of: slice.spec.of,
            freeze_id: slice.spec.freeze_id.clone(),
            names_digest: names_digest(lines.iter().map(|line| line.device.as_str())),
            lines,
            damaged,
            created_at: slice.metadata.creation_timestamp.as_ref().map(|time| time.0),
        }
    }
}

/// What the planner and the permit rule need of a PatchJob.
#[derive(Clone, Debug, PartialEq)]
pub struct JobView {
    /// Device, which is also the object's name.
    pub device: String,
    /// Name of the rollout.
    pub rollout: String,
    /// Uid of the rollout.
    pub rollout_uid: String,
    /// Name of the stage.
    pub stage: String,
    /// Slice that holds the line.
    pub slice: String,
    /// Enrolment id at the grant.
    pub enrolment_id: String,
    /// Attempt.
    pub attempt: u32,
    /// Ledger sequence sealed into the job.
    pub sequence: i64,
    /// What is asked.
    pub action: JobAction,
    /// KBs concerned.
    pub kbs: Vec<String>,
    /// No install or uninstall permit after this.
    pub start_by: Timestamp,
    /// No permit at all after this.
    pub finish_by: Timestamp,
    /// When the object was created.
    pub created_at: Option<Timestamp>,
    /// Permits given.
    pub permitted: Vec<Permit>,
    /// What the device does, by its own unsigned word, about this attempt.
    pub state: Option<JobState>,
    /// When a gateway last heard of the job.
    pub updated_at: Option<Timestamp>,
    /// A sentence from the agent.
    pub message: Option<String>,
    /// Services that do not run and probes that fail, as last reported.
    pub unhealthy: Vec<String>,
    /// Made again because somebody deleted it: counts as permitted, is never recalled.
    pub repaired: bool,
    /// The object is being deleted.
    pub deleting: bool,
    /// The signed answer.
    pub outcome: JobOutcome,
}

impl JobView {
    /// A job that a plan wanted made, as it is right after its creation at `created`: what simulators,
    /// models and tests put in the place of the API server's object.
    pub fn fresh(new: &crate::NewJob, created: Timestamp) -> JobView {
        JobView {
            device: new.device.clone(),
            rollout: new.rollout.name.clone(),
            rollout_uid: new.rollout.uid.clone(),
            stage: new.stage.clone(),
            slice: new.slice.clone(),
            enrolment_id: new.enrolment_id.clone(),
            attempt: new.attempt,
            sequence: new.sequence,
            action: new.action,
            kbs: new.updates.iter().map(|update| update.kb.as_str().to_owned()).collect(),
            start_by: new.start_by,
            finish_by: new.finish_by,
            created_at: Some(created),
            permitted: Vec::new(),
            state: None,
            updated_at: None,
            message: None,
            unhealthy: Vec::new(),
            repaired: new.repaired,
            deleting: false,
            outcome: JobOutcome::None,
        }
    }

    /// The slim form of a job. `outcome` is what the shell's verification made of
    /// `status.outcome`; gateways and the plugin, which do not need it, pass `JobOutcome::None`.
    pub fn new(job: &wardring_api::PatchJob, outcome: JobOutcome) -> JobView {
        let spec = &job.spec;
        let status = job.status.clone().unwrap_or_default();
        // Reports of an earlier attempt say nothing about this one.
        let speaks = status.attempt.is_none_or(|attempt| attempt == spec.attempt);
        JobView {
            device: job.metadata.name.clone().unwrap_or_default(),
            rollout: spec.rollout.clone(),
            rollout_uid: spec.rollout_uid.clone(),
            stage: spec.stage.clone(),
            slice: spec.slice.clone(),
            enrolment_id: spec.enrolment_id.clone(),
            attempt: spec.attempt,
            sequence: spec.sequence,
            action: spec.action,
            kbs: spec.kbs.clone(),
            start_by: spec.start_by,
            finish_by: spec.finish_by,
            created_at: job.metadata.creation_timestamp.as_ref().map(|time| time.0),
            permitted: status.permitted,
            state: status.state.filter(|_| speaks),
            updated_at: status.updated_at.filter(|_| speaks),
            message: status.message.filter(|_| speaks),
            unhealthy: if speaks { status.unhealthy } else { Vec::new() },
            repaired: job
                .metadata
                .annotations
                .as_ref()
                .is_some_and(|all| all.contains_key(wardring_api::names::REPAIRED_ANNOTATION)),
            deleting: job.metadata.deletion_timestamp.is_some(),
            outcome,
        }
    }

    /// Whether an irreversible step may have begun: a permit left a gateway, or one may have. Nothing of
    /// that kind begins with a download, whatever a gateway wrote into it.
    pub fn may_have_begun(&self) -> bool {
        self.action != JobAction::Download && (self.repaired || !self.permitted.is_empty())
    }
}

/// What the verification of a job's signed answer said.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum JobOutcome {
    /// There is none yet.
    #[default]
    None,
    /// Signed by the device that the job names.
    Verified(Outcome),
    /// There is one, and it does not verify; never counted.
    BadSignature,
}

/// A verified answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Uid of the rollout it answers.
    pub rollout_uid: String,
    /// Enrolment that signed it.
    pub enrolment_id: String,
    /// Attempt it answers.
    pub attempt: u32,
    /// Action it answers.
    pub action: JobAction,
    /// Sequence of the grant it answers.
    pub sequence: i64,
    /// The result.
    pub result: OutcomeResult,
    /// Detail.
    pub reason: Option<Reason>,
    /// A sentence for people.
    pub message: String,
    /// Boot in which the result was found.
    pub boot_id: String,
    /// Boot in which the installation ended.
    pub installed_in_boot: Option<String>,
    /// Whether an update asked for a restart.
    pub reboot_required: bool,
    /// Whether installing or uninstalling really began.
    pub started: bool,
    /// `build.UBR` at the end.
    pub build: String,
}

macro_rules! results {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Result of a grant, by the device's own proof. The words are those of the sealed payload.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum OutcomeResult { $($(#[doc = $doc])+ $name,)+ }

        impl OutcomeResult {
            /// Every result.
            pub const ALL: &'static [OutcomeResult] = &[$(OutcomeResult::$name,)+];

            /// The word.
            pub fn as_str(self) -> &'static str {
                match self { $(OutcomeResult::$name => stringify!($name),)+ }
            }

            /// The result with this word.
            pub fn parse(word: &str) -> Option<OutcomeResult> {
                OutcomeResult::ALL.iter().copied().find(|result| result.as_str() == word)
            }
        }
    };
}

results! {
    /// Installed and proven.
    Succeeded,
    /// It was there already.
    AlreadyInstalled,
    /// Out of scope for this Windows.
    NotApplicable,
    /// The device's source does not offer it.
    NotOffered,
    /// A newer update took its place.
    Superseded,
    /// Did not begin.
    NotStarted,
    /// Somebody else installed it.
    PatchedOutside,
    /// A person switched the device off cleanly.
    PoweredOff,
    /// Failed.
    Failed,
    /// Windows took it back at boot.
    RevertedByWindows,
    /// Taken back, verified.
    RolledBack,
    /// Cannot be taken back.
    NotReversible,
    /// Taking it back failed.
    RollbackFailed,
}

/// An UpdateHold.
#[derive(Clone, Debug, PartialEq)]
pub struct HoldView {
    /// Object name.
    pub name: String,
    /// When the object was created.
    pub created_at: Option<Timestamp>,
    /// What is barred where.
    pub spec: UpdateHoldSpec,
}

impl HoldView {
    /// Reads an UpdateHold. One that is being deleted is in force until it is gone.
    pub fn new(hold: &UpdateHold) -> HoldView {
        HoldView {
            name: hold.metadata.name.clone().unwrap_or_default(),
            created_at: hold.metadata.creation_timestamp.as_ref().map(|created| created.0),
            spec: hold.spec.clone(),
        }
    }
}
