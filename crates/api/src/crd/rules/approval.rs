//! Rules of PatchApprovals: what was asked cannot change, and what was said stays.

use super::{FIXED, Rule, SHORT_NAME, rule};

pub(super) const RULES: &[Rule] = &[
    rule(
        "",
        SHORT_NAME,
        "metadata.name: must have at most 63 characters, because sentences about the approval name it",
    ),
    rule("spec.rollout", FIXED, "spec.rollout: cannot change; make another PatchApproval"),
    rule("spec.rolloutUid", FIXED, "spec.rolloutUid: cannot change; make another PatchApproval"),
    rule("spec.subject", FIXED, "spec.subject: cannot change; make another PatchApproval"),
    rule(
        "spec.subject",
        "has(self.stageGate) == (self.type == 'StageGate') && has(self.rollback) == (self.type == 'Rollback') && \
         has(self.order) == (self.type == 'Order')",
        "spec.subject: give exactly the field that `type` names, `stageGate` for type StageGate, `rollback` for type Rollback, `order` for type Order",
    ),
    rule(
        "spec.approvalHash",
        FIXED,
        "spec.approvalHash: cannot change; make another PatchApproval",
    ),
    rule(
        "spec.approvalHash",
        "self.matches('^v1:[0-9a-f]{64}$')",
        "spec.approvalHash: must be what the rollout's `status.stages[].gates[].approval.hash` says, or its `status.rollbackApproval.asked.hash`, or the PatchRollback's `status.approval.asked.hash`",
    ),
    rule(
        "spec",
        "has(self.authors) == has(oldSelf.authors) && (!has(self.authors) || self.authors == oldSelf.authors)",
        "spec.authors: cannot change; make another PatchApproval",
    ),
    rule(
        "spec",
        "has(self.expiresAt) == has(oldSelf.expiresAt) && (!has(self.expiresAt) || self.expiresAt == oldSelf.expiresAt)",
        "spec.expiresAt: cannot change; make another PatchApproval",
    ),
    rule(
        "spec",
        "has(self.decision) == has(self.approver) && has(self.decision) == has(self.reason)",
        "spec: `decision`, `approver` and `reason` belong together: give all three, or none while nobody has decided",
    ),
    rule(
        "spec",
        "!has(oldSelf.decision) || (has(self.decision) && self.decision == oldSelf.decision && \
         self.approver == oldSelf.approver && self.reason == oldSelf.reason)",
        "spec.decision: was made and stays, with `approver` and `reason`; delete the PatchApproval to withdraw one that was not used yet",
    ),
    rule(
        "spec.reason",
        "self.matches('[^ \\t\\r\\n]') && !self.matches('[\\\\p{C}\\\\p{Zl}\\\\p{Zp}]')",
        "spec.reason: must say why, in one line without control characters and such as are not seen",
    ),
];
