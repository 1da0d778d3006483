//! PatchApproval: a person's word on something that waits for one.

use jiff::Timestamp;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{GateState, PatchRollback, RollbackScope};

/// A person's word, bound to exactly what was asked. The controller asks by making one without a
/// decision; the decision is filled in once, by whoever decides, and stays. Also the whole object may be
/// made by a person or by Git, with the hash that the rollout's status shows. Deleting one that was not
/// used yet withdraws it; a rejection that the controller has read stays whatever becomes of the object.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "wardring.dev",
    version = "v1alpha1",
    kind = "PatchApproval",
    plural = "patchapprovals",
    shortname = "papproval",
    category = "wardring",
    namespaced,
    status = "PatchApprovalStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct PatchApprovalSpec {
    /// PatchRollout of this namespace.
    #[schemars(length(min = 1, max = 63))]
    pub rollout: String,
    /// Its uid: a rollout that is made later under the same name is not meant.
    #[schemars(length(min = 1, max = 64))]
    pub rollout_uid: String,
    /// What the word is about.
    pub subject: ApprovalSubject,
    /// What exactly was asked, as `status.stages[].gates[].approval.hash` of the rollout says, or its
    /// `status.rollbackApproval.asked.hash`, or `status.approval.asked.hash` of the PatchRollback. It covers the
    /// updates, the frozen devices, caps, windows and gates of the stage, or how far the rollback or the order
    /// may go, and is a new one with every asking.
    #[schemars(length(min = 67, max = 67))]
    pub approval_hash: String,
    /// Who wrote what is asked about and may not approve it. The controller fills it in; it looks at the
    /// rollout's own authors besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub authors: Vec<String>,
    /// An approval that is not used by then counts no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The word. Once written it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decided>,
    /// Who decided: the user name under which the API server knows whoever writes the decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub approver: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub reason: Option<String>,
}

/// What an approval is about: exactly the field that `type` names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalSubject {
    /// Kind of thing.
    #[serde(rename = "type")]
    pub kind: SubjectType,
    /// For type StageGate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage_gate: Option<StageGateSubject>,
    /// For type Rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackSubject>,
    /// For type Order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderSubject>,
}

impl ApprovalSubject {
    /// A gate of a stage.
    pub fn stage_gate(stage: &str, gate: &str) -> ApprovalSubject {
        let of = StageGateSubject { stage: stage.to_owned(), gate: gate.to_owned() };
        let kind = SubjectType::StageGate;
        ApprovalSubject { kind, stage_gate: Some(of), rollback: None, order: None }
    }

    /// Taking the rollout's updates back.
    pub fn rollback(of: RollbackSubject) -> ApprovalSubject {
        let kind = SubjectType::Rollback;
        ApprovalSubject { kind, stage_gate: None, rollback: Some(of), order: None }
    }

    /// What a person ordered with a PatchRollback.
    pub fn order(of: OrderSubject) -> ApprovalSubject {
        let kind = SubjectType::Order;
        ApprovalSubject { kind, stage_gate: None, rollback: None, order: Some(of) }
    }
}

/// Kinds of things that are approved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SubjectType {
    /// A gate of type Approval.
    StageGate,
    /// A rollback that goes beyond `onFailure.approvalAbove`, or that reaches devices whose group says Ask.
    Rollback,
    /// A PatchRollback that goes beyond its `approvalAbove`.
    Order,
}

/// A gate of a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageGateSubject {
    /// Name of the stage.
    #[schemars(length(min = 1, max = 63))]
    pub stage: String,
    /// Name of the gate.
    #[schemars(length(min = 1, max = 63))]
    pub gate: String,
}

/// A rollback that follows from failures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollbackSubject {
    /// Which devices it reaches.
    pub scope: RollbackScope,
    /// The stage that it is about, for scope Stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub stage: Option<String>,
    /// Devices from which it may take the updates back in all, those included from which they are taken back
    /// already.
    #[schemars(range(min = 1))]
    pub up_to: u32,
}

/// A PatchRollback that waits for a second person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderSubject {
    /// Name of the PatchRollback.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Its uid: one that is made later under the same name is not meant.
    #[schemars(length(min = 1, max = 64))]
    pub uid: String,
    /// Devices from which the updates may be taken back in all of the rollout, those included from which they
    /// were taken back before.
    #[schemars(range(min = 1))]
    pub up_to: u32,
}

/// A person's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Decided {
    /// Go on.
    Approve,
    /// Do not.
    Reject,
}

/// What became of an approval. The controller's word.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PatchApprovalStatus {
    /// Generation this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One word for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<ApprovalPhase>,
    /// One line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// What its hash covers, each with a digest, so that a change can be named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 64)))]
    pub parts: Vec<String>,
    /// When the controller first counted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_at: Option<Timestamp>,
}

/// Where an approval stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApprovalPhase {
    /// Nobody has decided yet.
    Asked,
    /// It approves, and what it is for has not begun yet.
    Approved,
    /// It approved, and what it was for has begun.
    Used,
    /// It rejects, and the rollout remembers it.
    Rejected,
    /// It counts for nothing; the message says why.
    Void,
}

/// A gate that waits for a person's approval: a PatchApproval for exactly what the stage is about to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalGate {
    /// How long an answer is waited for, and an approval may wait to be used, before it is asked for anew.
    /// Default 7d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_after: Option<crate::Span>,
    /// Whether those whom `spec.authors` of the rollout names may approve.
    #[serde(default)]
    pub author_may_approve: bool,
}

impl ApprovalGate {
    /// How long an asking holds, with its default.
    pub fn expires_after(&self) -> crate::Span {
        self.expires_after.unwrap_or(crate::Span::from_hours(7 * 24))
    }
}

/// What a gate of type Approval asked for, and what was said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateApproval {
    /// Counts from 1; every retry asks anew.
    #[serde(default)]
    pub round: u32,
    /// What is asked, as a PatchApproval must name it; empty while nothing is asked.
    #[serde(default)]
    #[schemars(length(max = 67))]
    pub hash: String,
    /// What the hash covers, each with a digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 64)))]
    pub parts: Vec<String>,
    /// Generation of the rollout when the parts were last found to be what would happen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Made up for this asking, so that nobody could have answered it before.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub nonce: String,
    /// The admission policies under which it was asked.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub policy: String,
    /// Name of the PatchApproval that the controller makes for it.
    #[serde(default)]
    #[schemars(length(max = 63))]
    pub request: String,
    /// When it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_at: Option<Timestamp>,
    /// When it is asked anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Why it was asked anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub because: Option<String>,
    /// What was said. A rejection stays until a person asks for a retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<GateDecision>,
}

/// A rollback that waits for a person's approval, or waited for one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollbackApproval {
    /// Where the asking stands: Waiting, Passed (approved), Failed (rejected) or Error (no approval can count).
    pub state: GateState,
    /// Since when.
    pub since: Timestamp,
    /// One sentence for people.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub message: String,
    /// Which devices are asked about.
    pub scope: RollbackScope,
    /// The stage, for scope Stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub stage: Option<String>,
    /// Devices in all from which an approval lets the updates be taken back. More are asked about anew.
    #[serde(default)]
    pub up_to: u32,
    /// Groups with devices of the rollout that say `rollback: Ask`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub groups: Vec<String>,
    /// What was asked, and what was said.
    #[serde(default)]
    pub asked: GateApproval,
}

impl RollbackApproval {
    /// What a PatchApproval must say that it is about.
    pub fn subject(&self) -> ApprovalSubject {
        let (scope, stage, up_to) = (self.scope, self.stage.clone(), self.up_to);
        ApprovalSubject::rollback(RollbackSubject { scope, stage, up_to })
    }
}

/// A PatchRollback that waits for a second person's approval, or waited for one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderApproval {
    /// Where the asking stands: Waiting, Passed (approved), Failed (rejected) or Error (no approval can count).
    pub state: GateState,
    /// Since when.
    pub since: Timestamp,
    /// One sentence for people.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub message: String,
    /// Devices in all of the rollout from which an approval lets the updates be taken back. More are asked about
    /// anew.
    #[serde(default)]
    pub up_to: u32,
    /// What was asked, and what was said.
    #[serde(default)]
    pub asked: GateApproval,
}

impl OrderApproval {
    /// What a PatchApproval must say that it is about.
    pub fn subject(&self, order: &PatchRollback) -> ApprovalSubject {
        ApprovalSubject::order(OrderSubject {
            name: order.metadata.name.clone().unwrap_or_default(),
            uid: order.metadata.uid.clone().unwrap_or_default(),
            up_to: self.up_to,
        })
    }
}

/// What a person said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateDecision {
    /// The word.
    pub decision: Decided,
    /// Who.
    #[schemars(length(max = 253))]
    pub by: String,
    /// Why.
    #[schemars(length(max = 256))]
    pub reason: String,
    /// When the controller counted it.
    pub at: Timestamp,
    /// Name of the PatchApproval.
    #[schemars(length(max = 253))]
    pub approval: String,
    /// Its uid.
    #[schemars(length(max = 64))]
    pub uid: String,
}
