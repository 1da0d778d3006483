//! PatchRollout's status: the controller's word, in counters that do not grow with the fleet.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    CanaryGap, GateDecision, GateStatus, KbId, PackageSource, RollbackApproval, RollbackScope,
    RollbackWindows, UpdateKind,
};

/// Where a rollout stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PatchRolloutStatus {
    /// Generation this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One word for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<RolloutPhase>,
    /// One line for people and for the `MESSAGE` column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// Ready, Reconciling, Stalled (kstatus), Progressing, Completed, Halted, Suspended, RolledBack.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// Name of the first stage that is not completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub current_stage: Option<String>,
    /// Hash over updates, actions and health, with a version prefix (`v1:`); never recomputed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80))]
    pub plan_hash: Option<String>,
    /// Devices of the open stages that are done, of all in them, for the `DONE` column: `41/60`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub progress: Option<String>,
    /// What the selection resolved to at start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub resolved_updates: Vec<ResolvedUpdate>,
    /// Products among the stages' devices that no selected update covers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 128)))]
    pub uncovered_products: Vec<String>,
    /// What people should know and nothing waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), inner(length(max = 512)))]
    pub warnings: Vec<String>,
    /// Next instant at which the plan can change without an event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_evaluation: Option<Timestamp>,
    /// What the rollout waits for, most important first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub waiting_for: Vec<Waiting>,
    /// Stages in the order of the spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub stages: Vec<StageStatus>,
    /// The latched suspension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<Latch>,
    /// The latched halt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<Latch>,
    /// The latched end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborted: Option<Latch>,
    /// Whose place the rollout took, and by whose word. Written with the opening of its first stage, and never
    /// changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takeover: Option<Takeover>,
    /// The rollback procedure, once it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackStatus>,
    /// The approval that a rollback waits for, or waited for since the last retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_approval: Option<RollbackApproval>,
    /// Devices from which the updates were taken back and that a retry lets begin anew, added up over all
    /// retries. `approvalAbove` of a PatchRollback counts them.
    #[serde(default, skip_serializing_if = "crate::device::is_zero")]
    pub rolled_back_before: u32,
    /// Devices that are taken back while a retry is under way, which may let them begin anew. Noted before their
    /// record changes; `rolledBackBefore` has those that did once the retry is answered.
    #[serde(default, skip_serializing_if = "crate::device::is_zero")]
    pub rolled_back_anew: u32,
    /// Value of the retry annotation that was answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub last_handled_retry: Option<String>,
}

/// That a rollout took another one's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Takeover {
    /// The older rollout, as `spec.supersedes` names it.
    #[schemars(length(max = 63))]
    pub rollout: String,
    /// The approvals that it was by, one for each gate of the first stage that asks somebody else than the
    /// authors.
    #[schemars(length(max = 8))]
    pub approvals: Vec<GateDecision>,
    /// When the first stage opened.
    pub at: Timestamp,
}

/// One word for people; machines read conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RolloutPhase {
    /// Accepted, nothing granted yet.
    Pending,
    /// Devices move or a stage soaks.
    Progressing,
    /// A person suspended it.
    Suspended,
    /// The system stopped it.
    Halted,
    /// Devices are being rolled back.
    RollingBack,
    /// The rollback procedure ended.
    RolledBack,
    /// Every stage is done.
    Completed,
    /// A person ended it.
    Aborted,
    /// It cannot be carried out as written.
    Invalid,
}

/// One update of the resolved selection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedUpdate {
    /// Product it is for.
    #[schemars(length(max = 128))]
    pub product: String,
    /// KB number.
    pub kb: KbId,
    /// Kind, which decides how it is proven.
    pub kind: UpdateKind,
    /// Title for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub title: Option<String>,
    /// `build.UBR` after a proven install, such as `20348.4405`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub target_build: Option<String>,
    /// Update identities, `<UpdateID>/<revision>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 64)))]
    pub identities: Vec<String>,
    /// Its package, where the rollout brings it itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<PackageSource>,
}

/// Something the rollout waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// Reason word.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// The sentence that explains it.
    #[schemars(length(max = 512))]
    pub message: String,
    /// Devices concerned, if it is about devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<u32>,
    /// When it may end by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Something that happened once and stays until a person changes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Latch {
    /// Reason word.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// The sentence that explains it.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// Since when.
    pub at: Timestamp,
    /// Stage in which it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub stage: Option<String>,
    /// `onHalt: Uninstall` does not follow from this halt: the order that halted says whom it asks before anything
    /// is taken back (`approvalAbove`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uninstalls_nothing: bool,
}

/// The rollback procedure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollbackStatus {
    /// Which devices it reaches.
    pub scope: RollbackScope,
    /// Stage whose failure started it.
    #[schemars(length(max = 63))]
    pub stage: String,
    /// Since when.
    pub started_at: Timestamp,
    /// When the last device was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// From when its deadline counts, where it stood still since it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_since: Option<Timestamp>,
    /// Since when a window, an EmergencyStop or a suspension lets nothing be taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stands_since: Option<Timestamp>,
    /// The PatchRollback that reaches further devices, if a person ordered one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<RollbackOrder>,
}

/// A PatchRollback that has begun. The devices that it reaches are marked in the slices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollbackOrder {
    /// Name of the PatchRollback.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Its uid.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// Whether it waits for maintenance windows and freezes.
    #[serde(default)]
    pub windows: RollbackWindows,
    /// Rollbacks that had failed before, or were still at work: its brake counts from there.
    #[serde(default)]
    pub failed_before: u32,
}

impl RollbackStatus {
    /// The person's order that is being carried out.
    pub fn ordered(&self) -> Option<&RollbackOrder> {
        self.order.as_ref().filter(|_| self.completed_at.is_none())
    }
}

/// Where a stage stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageStatus {
    /// Name, as in the spec.
    #[schemars(length(max = 63))]
    pub name: String,
    /// State.
    pub state: StageState,
    /// Hash of the frozen list; slices with another one are garbage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80))]
    pub freeze_id: Option<String>,
    /// Caps resolved against the frozen size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caps: Option<ResolvedCaps>,
    /// Counters over the frozen list.
    #[serde(default)]
    pub counts: StageCounts,
    /// When its devices were frozen, where it had to wait for gates after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_at: Option<Timestamp>,
    /// When the stage opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// From when `progressDeadline` counts, if not from `startedAt`: later by every time in which the
    /// rollout stood still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_since: Option<Timestamp>,
    /// When the soak began; our own stamp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak_started_at: Option<Timestamp>,
    /// When the stage was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// The devices that the stage does not wait for and stays open for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<TailStatus>,
    /// Products, models and roles of the stage's devices that no earlier stage proved, at most 20; before
    /// the stage opens, those that no earlier stage has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub canary_gaps: Vec<CanaryGap>,
    /// At most 20 failed devices: what failed, in the device's own signed words, and what came of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 256)))]
    pub failed_sample: Vec<String>,
    /// Gates that are or were measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24))]
    pub gates: Vec<GateStatus>,
}

/// A stage's tail: latecomers for which it stays open while the rollout goes on. Who they are the stage's
/// counters tell, `pending` and `inProgress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TailStatus {
    /// Since when the stage waits for nobody any more.
    pub since: Timestamp,
    /// When it closes. Later by every time in which the rollout was stopped.
    pub closes_at: Timestamp,
    /// When the stage let later ones go on: proven, watched, its gates passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted_at: Option<Timestamp>,
    /// When it closed. Devices that had not begun by then are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<Timestamp>,
}

/// State of a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StageState {
    /// Not open.
    #[default]
    Pending,
    /// Its devices are frozen, and nothing starts before its gates have passed.
    Gated,
    /// Devices are granted and proven.
    Open,
    /// Proven; being watched.
    Soaking,
    /// Proven, and later stages go on; still open for latecomers.
    Tail,
    /// Done.
    Completed,
}

impl StageState {
    /// Whether anything could begin in it: shares of the run are of the devices of such stages.
    pub fn has_opened(self) -> bool {
        !matches!(self, StageState::Pending | StageState::Gated)
    }

    /// Whether later stages may go on.
    pub fn is_promoted(self) -> bool {
        matches!(self, StageState::Tail | StageState::Completed)
    }
}

/// Caps in whole devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedCaps {
    /// Frozen size of the stage.
    pub size: u32,
    /// In flight at most.
    pub max_concurrency: u32,
    /// Failures borne.
    pub max_failures: u32,
    /// Unreachable devices borne.
    pub max_unreachable: u32,
    /// Applicable devices that must be done.
    pub min_coverage: u32,
    /// Devices that must be proven.
    pub min_proven: u32,
}

/// Counters of a stage. Every frozen device is in exactly one of the fields up to `removed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageCounts {
    /// Frozen size.
    #[serde(default)]
    pub total: u32,
    /// Not granted yet.
    #[serde(default)]
    pub pending: u32,
    /// Granted, no outcome yet.
    #[serde(default)]
    pub in_progress: u32,
    /// Installed and proven.
    #[serde(default)]
    pub succeeded: u32,
    /// It was there already.
    #[serde(default)]
    pub already_installed: u32,
    /// Outside of the updates' scope, not offered, superseded, or patched by somebody else.
    #[serde(default)]
    pub not_applicable: u32,
    /// Left out: never contacted, or switched off by a person.
    #[serde(default)]
    pub deferred: u32,
    /// Failed, or reverted by Windows.
    #[serde(default)]
    pub failed: u32,
    /// Fell silent after it started.
    #[serde(default)]
    pub unreachable: u32,
    /// Rolled back, verified.
    #[serde(default)]
    pub rolled_back: u32,
    /// Rollback failed or is impossible.
    #[serde(default)]
    pub rollback_failed: u32,
    /// Deleted or enrolled anew meanwhile.
    #[serde(default)]
    pub removed: u32,
    /// Of `pending`: their updates are downloaded ahead.
    #[serde(default, skip_serializing_if = "is_none")]
    pub downloaded: u32,
    /// Of `pending`: downloading ahead now.
    #[serde(default, skip_serializing_if = "is_none")]
    pub downloading: u32,
    /// Of `inProgress`: installed, restart outstanding.
    #[serde(default)]
    pub installed_awaiting_reboot: u32,
    /// Of `inProgress`: restarting now.
    #[serde(default)]
    pub rebooting: u32,
    /// Of `inProgress`: restarting for longer than `rebootSlowAfter`.
    #[serde(default)]
    pub reboot_slow: u32,
}

/// Whether a counter says nothing: rollouts that download nothing ahead look as they always did.
fn is_none(count: &u32) -> bool {
    *count == 0
}
