//! What a pass decided: exact actions for the shell, and a decision for every device.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use wardring_api::{
    ActiveHours, Batch, ComponentStorePolicy, DeviceGroupStatus, JobAction, LineState,
    MaintenanceWindowStatus, PatchApprovalSpec, PatchApprovalStatus, PatchRollbackStatus,
    PatchRolloutStatus, Probe, ResolvedUpdate, SliceLine, UnlistedServices, UpdateHoldSpec,
    UpdateSource, reasons::Reason,
};

use crate::{ApprovalUse, JobAutonomy, MeasureOrder, SliceView};

/// The answer to one snapshot.
///
/// The shell carries out `actions` **in order** and stops at the first write that is refused or
/// whose fate it does not know; the next pass starts from what is then there. The order carries the
/// write-ahead rule: ledger, then slice, then job, so whatever prefix was applied, nothing that a
/// device may act on is unrecorded. Consecutive actions of one kind that touch different objects
/// (`CreateJob`, `DeleteJob`, `CreateSlice`, `DeleteSlice`, `CreateHold`, `WriteGroupStatus`, `WriteQuarantine`)
/// may run side by side. A `CreateHold` that is refused and that `Snapshot::refused_holds` names does not stop the rest.
/// A failed `CreateJob`, `DeleteJob`, `DeleteSlice`, `WriteQuarantine`, `WriteGroupStatus`, `WriteWindowStatus`,
/// `WriteRollbackStatus`, `CreateApproval`, `WriteApprovalStatus`, `DeleteApproval` or `Emit` does not
/// stop the rest: nothing later in the plan builds on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Writes, in order.
    pub actions: Vec<Action>,
    /// What was decided about every rollout, by name.
    pub rollouts: Vec<RolloutDecisions>,
    /// What each EmergencyStop keeps back here, by name.
    pub stops: Vec<StopTally>,
    /// Gates that are active and measured outside.
    pub measure: Vec<MeasureOrder>,
    /// Next instant at which the answer can change without an event. The shell plans again no later.
    pub next_evaluation: Option<Timestamp>,
}

/// What one EmergencyStop keeps back in one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopTally {
    /// Name of the stop.
    pub name: Arc<str>,
    /// Rollouts with a device that is held or at work.
    pub rollouts: u32,
    /// Devices that do not start because of it.
    pub held: u32,
    /// Devices that had begun and have no outcome yet.
    pub mid_flight: u32,
    /// Of them, devices whose restart is kept back.
    pub awaiting_reboot: u32,
    /// The first few that are mid-flight, with what they do.
    pub sample: Vec<String>,
}

/// A rollout by name and uid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RolloutRef {
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Add our finalizer (with the rollout's resourceVersion).
    AddFinalizer(RolloutRef),
    /// Remove our finalizer: nothing of the run can start any more.
    RemoveFinalizer(RolloutRef),
    /// Write the whole status (with the rollout's resourceVersion). Later actions rely on it.
    WriteStatus {
        /// Which rollout.
        rollout: RolloutRef,
        /// The whole status.
        status: Box<PatchRolloutStatus>,
    },
    /// Create a slice of a stage that is being frozen. One that exists with the same freeze id is
    /// already the right one.
    CreateSlice(Box<NewSlice>),
    /// Delete a slice that no rollout names, or whose retention is over.
    DeleteSlice {
        /// Name of the object.
        name: String,
    },
    /// CAS the ledger: `batch.sequence` becomes its sequence, `batch` its open batch.
    OpenBatch {
        /// Sequence the ledger must still have.
        expected_sequence: i64,
        /// The batch: grants of one slice, at most [`BATCH_SIZE`].
        batch: Batch,
    },
    /// CAS lines of one slice.
    RecordLines {
        /// Name of the slice.
        slice: String,
        /// Why.
        cause: RecordCause,
        /// The new lines, by position.
        changes: Vec<LineChange>,
    },
    /// Take back grants that have not begun. For each line: delete its job (if there is one) with
    /// uid and resourceVersion; then CAS the slice with the changes of those lines whose job is
    /// gone. A delete that is refused (a permit came first) drops only that line's change.
    Recall {
        /// Name of the slice.
        slice: String,
        /// The lines to take back.
        lines: Vec<RecallLine>,
    },
    /// Create a job. "Already exists" is success if it is the same grant.
    CreateJob(Box<NewJob>),
    /// Delete a job with uid and resourceVersion.
    DeleteJob {
        /// Device, the name of the object.
        device: String,
        /// Attempt of the job that is meant.
        attempt: u32,
        /// Uid of the job's rollout.
        rollout_uid: String,
        /// Why.
        why: JobEnd,
    },
    /// Create an UpdateHold. "Already exists" is success.
    CreateHold {
        /// Name of the object.
        name: String,
        /// Uid of the rollout, for the label.
        rollout_uid: String,
        /// What is barred where, and why.
        spec: Box<UpdateHoldSpec>,
    },
    /// Set the condition Quarantined of a Device, which an update left damaged or a person released. Said
    /// twice, it is the same.
    WriteQuarantine {
        /// The device.
        device: String,
        /// Whether it is to be quarantined.
        quarantined: bool,
        /// Reason of the condition.
        reason: Reason,
        /// The sentence.
        message: String,
        /// Time of the transition, whole seconds: that of the record it follows from.
        since: Timestamp,
    },
    /// Write a group's status.
    WriteGroupStatus {
        /// Name of the group.
        group: String,
        /// The whole status.
        status: DeviceGroupStatus,
    },
    /// Write a window's status.
    WriteWindowStatus {
        /// Name of the window.
        window: String,
        /// The whole status.
        status: MaintenanceWindowStatus,
    },
    /// Write a PatchRollback's status.
    WriteRollbackStatus {
        /// Name of the PatchRollback.
        rollback: String,
        /// Its uid.
        uid: String,
        /// Uid of the rollout that it is about, if there is one: what its status says rests on that one's.
        rollout_uid: Option<String>,
        /// The whole status.
        status: Box<PatchRollbackStatus>,
    },
    /// Read a PatchApproval and the admission policies anew, and end the plan here unless all of it is still
    /// so: the status that comes next relies on it.
    ConfirmApproval(Box<ApprovalUse>),
    /// Create a PatchApproval that asks. "Already exists" is success.
    CreateApproval(Box<NewApproval>),
    /// Write a PatchApproval's status.
    WriteApprovalStatus {
        /// Name of the PatchApproval.
        name: String,
        /// Its uid.
        uid: String,
        /// The whole status.
        status: Box<PatchApprovalStatus>,
    },
    /// Delete a PatchApproval whose retention is over.
    DeleteApproval {
        /// Name of the object.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// Emit a Kubernetes Event about a rollout.
    Emit(Event),
}

impl Action {
    /// Name of the UpdateHold that it makes.
    pub fn hold(&self) -> Option<&str> {
        match self {
            Action::CreateHold { name, .. } => Some(name),
            _ => None,
        }
    }
}

/// A PatchApproval to create, without a decision.
#[derive(Clone, Debug, PartialEq)]
pub struct NewApproval {
    /// Name of the object.
    pub name: String,
    /// The rollout, for the labels.
    pub rollout: RolloutRef,
    /// Name of the stage that it is about, if it is about one, for the label.
    pub stage: Option<String>,
    /// What is asked.
    pub spec: PatchApprovalSpec,
}

/// Devices per batch.
pub const BATCH_SIZE: usize = 64;

/// Why lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordCause {
    /// Outcomes, deadlines, and what needs no job.
    Outcomes,
    /// A person's retry: lines that are not proven begin anew.
    Retry,
    /// A person's PatchRollback: the lines that it reaches.
    Order,
    /// The grants of the open batch: this closes it.
    Grants,
}

/// One line of a slice, rewritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineChange {
    /// Position in the slice.
    pub index: usize,
    /// The new line.
    pub line: SliceLine,
}

/// A grant to take back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecallLine {
    /// The line after its job is gone.
    pub change: LineChange,
    /// Attempt of the job that must be deleted first; `None` if there is no job.
    pub job_attempt: Option<u32>,
}

/// Why a job is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobEnd {
    /// Its outcome is recorded.
    Done,
    /// A newer grant takes its place.
    Stale,
    /// Nothing refers to it any more.
    Garbage,
    /// A person released the device, or the device is gone.
    Released,
}

/// A slice to create, with every line Pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSlice {
    /// Name of the object.
    pub name: String,
    /// The rollout.
    pub rollout: RolloutRef,
    /// Name of the stage.
    pub stage: String,
    /// Position in the stage.
    pub index: u32,
    /// Number of slices of the stage.
    pub of: u32,
    /// Freeze id of the whole list.
    pub freeze_id: String,
    /// The lines.
    pub lines: Vec<SliceLine>,
}

/// Everything that a job and its sealed payload need.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJob {
    /// Device, the name of the object.
    pub device: String,
    /// The rollout.
    pub rollout: RolloutRef,
    /// Name of the stage.
    pub stage: String,
    /// Slice that holds the line.
    pub slice: String,
    /// Enrolment id frozen in the line.
    pub enrolment_id: String,
    /// Attempt.
    pub attempt: u32,
    /// Ledger sequence of the grant.
    pub sequence: i64,
    /// What is asked.
    pub action: JobAction,
    /// Updates for the device's product, in order of installation.
    pub updates: Vec<ResolvedUpdate>,
    /// Where the device looks for updates.
    pub source: UpdateSource,
    /// Whether licence terms may be accepted.
    pub accept_eula: bool,
    /// No install or uninstall begins after this.
    pub start_by: Timestamp,
    /// No step begins after this.
    pub finish_by: Timestamp,
    /// Checks before anything happens.
    pub preflight: JobPreflight,
    /// What must be healthy afterwards.
    pub health: JobHealth,
    /// How to restart.
    pub reboot: JobReboot,
    /// Programs that run around installation and restarts, in order.
    pub hooks: Vec<JobHook>,
    /// Whether the device may take the updates back by itself.
    pub autonomy: JobAutonomy,
    /// Somebody may have deleted this grant's job before: mark it as repaired.
    pub repaired: bool,
}

/// Checks before anything happens, with defaults resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobPreflight {
    /// Restart first if Windows waits for a restart.
    pub reboot_first: bool,
    /// Free space needed, gigabytes.
    pub min_free_disk_gb: u32,
    /// Refuse what cannot be taken back.
    pub require_reversible: bool,
    /// Go on although the device would wait for a person at its next start.
    pub ignore_attended_boot: bool,
    /// Go on although the device runs on battery.
    pub ignore_battery: bool,
    /// What a damaged component store means.
    pub component_store: ComponentStorePolicy,
    /// Refuse a device that something else patches, too.
    pub sole_source: bool,
}

/// What must be healthy, with defaults resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobHealth {
    /// Services that must run.
    pub services: Vec<String>,
    /// What becomes of services that nobody named.
    pub unlisted: UnlistedServices,
    /// Questions that must be answered well.
    pub probes: Vec<Probe>,
    /// Shortest time after the boot before a good verdict.
    pub settle: SignedDuration,
    /// Restart attempts per service.
    pub restart_attempts: u32,
    /// Time between samples.
    pub sample_interval: SignedDuration,
}

/// How to restart, with defaults resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobReboot {
    /// The agent's countdown.
    pub countdown: SignedDuration,
    /// Text for people who are logged on.
    pub message: Option<String>,
    /// After this long without a restart the device is stuck.
    pub stuck_after: SignedDuration,
    /// Longest that a restart waits for people and for active hours.
    pub wait: SignedDuration,
    /// How often people may put it off.
    pub deferrals: u8,
    /// End programs that refuse to end.
    pub force: bool,
    /// Hours in which a restart waits.
    pub active_hours: Option<ActiveHours>,
}

/// A program of the agent's hooks folder, with defaults resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobHook {
    /// When.
    pub moment: HookMoment,
    /// File name.
    pub program: String,
    /// Longest time it may take.
    pub timeout: SignedDuration,
}

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookMoment {
    /// Before anything is installed or removed.
    BeforeInstall,
    /// Before every restart by the agent.
    BeforeReboot,
    /// Once the device is healthy.
    AfterHealthy,
}

/// A Kubernetes Event about a rollout; only on transitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The rollout.
    pub rollout: RolloutRef,
    /// Normal or Warning.
    pub kind: EventKind,
    /// Reason word.
    pub reason: Reason,
    /// The sentence.
    pub note: String,
}

/// Kind of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventKind {
    /// As intended.
    Normal,
    /// A person should look.
    Warning,
}

/// What was decided about one rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutDecisions {
    /// Which.
    pub rollout: RolloutRef,
    /// Stages that are frozen, in order.
    pub stages: Vec<StageDecisions>,
    /// The status as this pass sees it (written only where it differs).
    pub status: Box<PatchRolloutStatus>,
}

/// What was decided about one frozen stage.
#[derive(Clone, Debug, PartialEq)]
pub struct StageDecisions {
    /// Name.
    pub stage: String,
    /// Its verdict in one sentence.
    pub verdict: String,
    /// The record the decisions are about, in order.
    pub slices: Vec<Arc<SliceView>>,
    /// One decision per line of `slices`, in order.
    pub decisions: Vec<Decision>,
}

impl StageDecisions {
    /// Every frozen device with its decision.
    pub fn devices(&self) -> impl Iterator<Item = (&str, Decision)> {
        let names = self.slices.iter().flat_map(|slice| &slice.lines);
        names.map(|line| line.device.as_str()).zip(self.decisions.iter().copied())
    }
}

/// What one pass decided for one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decision {
    /// Granted by this plan.
    Start,
    /// Granted before, no outcome yet.
    Continue,
    /// Does not move, with the reason.
    Hold(Reason),
    /// Has its outcome.
    Done(LineState),
}
