//! Approvals: nothing opens, ends or passes by a person's word without that word, and a rejection stays.
//! Read off the statuses as they are written, and off the PatchApprovals themselves.

use jiff::Timestamp;
use wardring_api::{
    ApprovalSubject, Decided, Gate, GateApproval, GatePhase, GateState, GateStatus, OrderApproval,
    PatchApproval, PatchRollback, PatchRollbackStatus, PatchRollout, PatchRolloutStatus,
    RollbackApproval, StageState, StageStatus,
};

use super::Replay;
use crate::{
    ApprovalPolicy, RolloutRef, answers_to,
    approvals::{approval_parts, is_account, is_ours, order_parts, rollback_parts},
};

fn state_of<'s>(status: &'s StageStatus, phase: GatePhase, gate: &Gate) -> Option<&'s GateStatus> {
    status.gates.iter().find(|known| known.phase == phase && known.name == gate.name)
}

fn is_rejection(known: &GateStatus) -> bool {
    let said = known.approval.as_ref().and_then(|asked| asked.decided.as_ref());
    known.state == GateState::Failed && said.is_some_and(|said| said.decision == Decided::Reject)
}

/// What an approval must be about to count.
struct About<'s> {
    subject: ApprovalSubject,
    /// Who wrote it, and when.
    authors: &'s [String],
    made: Option<Timestamp>,
    may_author: bool,
    /// What would happen now.
    parts: Option<Vec<String>>,
    /// The asking as it was written before.
    written: Option<&'s GateApproval>,
}

impl Replay<'_> {
    /// A rejection stays until a retry, whatever became of the gate in the spec.
    pub(super) fn rejections(
        &mut self,
        was: Option<&StageStatus>,
        now: &StageStatus,
        before: &PatchRolloutStatus,
        status: &PatchRolloutStatus,
    ) {
        if before.last_handled_retry != status.last_handled_retry {
            return;
        }
        for rejected in was.iter().flat_map(|was| &was.gates).filter(|gate| is_rejection(gate)) {
            let stays = |gate: &GateStatus| {
                (gate.phase, &gate.name) == (rejected.phase, &rejected.name) && is_rejection(gate)
            };
            if !now.gates.iter().any(stays) {
                let (gate, stage) = (&rejected.name, &now.name);
                self.breaks(
                    "S7",
                    format!("the rejection by gate {gate} of stage {stage} would vanish"),
                );
            }
        }
    }

    /// One gate of type Approval in a status that is written.
    pub(super) fn approval(
        &mut self,
        rollout: &PatchRollout,
        was: Option<&StageStatus>,
        now: &StageStatus,
        phase: GatePhase,
        gate: &Gate,
        status: &PatchRolloutStatus,
    ) {
        let earlier = was.and_then(|was| state_of(was, phase, gate));
        let known = state_of(now, phase, gate);
        let Some(known) = known.filter(|known| known.state == GateState::Passed) else { return };
        let Some(asked) = known.approval.as_ref() else {
            let message = format!("gate {} of stage {} would pass unasked", gate.name, now.name);
            self.breaks("S7", message);
            return;
        };
        let had = earlier.filter(|earlier| earlier.state == GateState::Passed);
        let is_same = had.and_then(|had| had.approval.as_ref()).is_some_and(|had| {
            had.hash == asked.hash
                && had.decided.as_ref().map(|said| &said.uid)
                    == asked.decided.as_ref().map(|said| &said.uid)
        });
        let was_state = was.map_or(StageState::Pending, |was| was.state);
        let begins = match phase {
            GatePhase::Before => {
                matches!(was_state, StageState::Pending | StageState::Gated)
                    && matches!(now.state, StageState::Open | StageState::Soaking)
            }
            GatePhase::During | GatePhase::After => {
                let ended = |state| {
                    use StageState::{Gated, Open, Pending, Soaking};
                    !matches!(state, Pending | Gated | Open | Soaking)
                };
                !ended(was_state) && ended(now.state)
            }
        };
        // What is halted in the same write begins nothing, and is asked anew.
        if (is_same && !begins) || status.halted.is_some() {
            return;
        }
        let written = earlier.and_then(|earlier| earlier.approval.as_ref());
        if let Some(why) = self.stage_doubt(rollout, status, (&now.name, gate), written, asked) {
            let message = format!("gate {} of stage {} would pass: {why}", gate.name, now.name);
            self.breaks("S7", message);
        }
    }

    /// Why the approval that a stage's asking names is none. `written` is the asking as it was before.
    pub(super) fn stage_doubt(
        &self,
        rollout: &PatchRollout,
        status: &PatchRolloutStatus,
        (stage, gate): (&str, &Gate),
        written: Option<&GateApproval>,
        asked: &GateApproval,
    ) -> Option<&'static str> {
        let mut with_status = rollout.clone();
        with_status.status = Some(status.clone());
        let about = About {
            subject: ApprovalSubject::stage_gate(stage, &gate.name),
            authors: &rollout.spec.authors,
            made: rollout.metadata.creation_timestamp.as_ref().map(|time| time.0),
            may_author: gate.approval.as_ref().is_some_and(|all| all.author_may_approve),
            parts: approval_parts(&with_status, stage),
            written,
        };
        self.doubt(rollout, &about, asked)
    }

    /// A rollback goes beyond its share by a person's word only.
    pub(super) fn rollback_approval(
        &mut self,
        rollout: &PatchRollout,
        before: &PatchRolloutStatus,
        status: &PatchRolloutStatus,
    ) {
        let was = before.rollback_approval.as_ref();
        let is_rejected = |known: &RollbackApproval| known.state == GateState::Failed;
        let now = status.rollback_approval.as_ref();
        let is_retried = before.last_handled_retry != status.last_handled_retry;
        if was.is_some_and(is_rejected) && !now.is_some_and(is_rejected) && !is_retried {
            self.breaks("S7", "the rejection of a rollback would vanish".to_owned());
        }
        let passes = |known: &&RollbackApproval| known.state == GateState::Passed;
        let Some(now) = now.filter(passes) else { return };
        let uid =
            |known: &RollbackApproval| known.asked.decided.as_ref().map(|said| said.uid.clone());
        let had = was.filter(passes);
        if had.is_some_and(|had| had.asked.hash == now.asked.hash && uid(had) == uid(now)) {
            return;
        }
        let mut written = rollout.clone();
        written.status = Some(status.clone());
        let about = About {
            subject: now.subject(),
            authors: &rollout.spec.authors,
            made: rollout.metadata.creation_timestamp.as_ref().map(|time| time.0),
            may_author: false,
            parts: rollback_parts(&written),
            written: was.map(|was| &was.asked),
        };
        if let Some(why) = self.doubt(rollout, &about, &now.asked) {
            self.breaks("S7", format!("a rollback would count as approved: {why}"));
        }
    }

    /// An order goes beyond its share by a second person's word only, and whoever says no ends it.
    pub(super) fn order_approval(&mut self, uid: &str, status: &PatchRollbackStatus) {
        let mut orders = self.snapshot.orders.iter().map(AsRef::as_ref);
        let is_it = |order: &&PatchRollback| order.metadata.uid.as_deref() == Some(uid);
        let Some(order) = orders.find(is_it) else { return };
        let was = order.status.as_ref().and_then(|status| status.approval.as_ref());
        let now = status.approval.as_ref();
        let is_rejected = |known: &OrderApproval| known.state == GateState::Failed;
        if was.is_some_and(is_rejected) && !now.is_some_and(is_rejected) {
            self.breaks("S7", "the rejection of an order would vanish".to_owned());
        }
        if was.is_some() && now.is_none() {
            self.breaks("S7", "what a second person is asked would vanish".to_owned());
        }
        let passes = |known: &&OrderApproval| known.state == GateState::Passed;
        let said =
            |known: &OrderApproval| known.asked.decided.as_ref().map(|said| said.uid.clone());
        let Some(now) = now.filter(passes) else { return };
        let had = was.filter(passes);
        if had.is_some_and(|had| had.asked.hash == now.asked.hash && said(had) == said(now)) {
            return;
        }
        let named = self
            .rollouts
            .values()
            .find(|(rollout, _)| rollout.metadata.name.as_ref() == Some(&order.spec.rollout));
        let Some((rollout, written)) = named.cloned() else {
            return self.breaks("S7", "an order of no rollout would count as approved".to_owned());
        };
        let mut rollout_then = rollout.clone();
        rollout_then.status = Some(written);
        let mut order_then = order.clone();
        order_then.status = Some(status.clone());
        let about = About {
            subject: now.subject(order),
            authors: &order.spec.authors,
            made: order.metadata.creation_timestamp.as_ref().map(|time| time.0),
            may_author: false,
            parts: order_parts(&order_then, &rollout_then),
            written: was.map(|was| &was.asked),
        };
        if let Some(why) = self.doubt(rollout, &about, &now.asked) {
            self.breaks("S7", format!("an order would count as approved: {why}"));
        }
    }

    /// Why the approval that an asking names is none.
    fn doubt(
        &self,
        rollout: &PatchRollout,
        about: &About<'_>,
        asked: &GateApproval,
    ) -> Option<&'static str> {
        let may_author = about.may_author;
        let said = asked.decided.as_ref().filter(|said| said.decision == Decided::Approve);
        let Some(said) = said else { return Some("nobody approved it") };
        // It must have been asked, durably, before anybody could answer.
        if about.written.is_none_or(|written| written.hash.is_empty() || written.hash != asked.hash)
        {
            return Some("what it asks was not written before");
        }
        let (fingerprint, since) = match &self.snapshot.approval_policy {
            ApprovalPolicy::Intact { fingerprint, since } => (fingerprint, *since),
            ApprovalPolicy::Broken { .. } | ApprovalPolicy::Unknown { .. } => {
                return Some("nobody vouches for approvals");
            }
        };
        if *fingerprint != asked.policy {
            return Some("the admission policies are others than when it was asked");
        }
        if about.parts.as_ref() != Some(&asked.parts) {
            return Some("what was approved is not what would happen");
        }
        let id = RolloutRef {
            name: rollout.metadata.name.clone().unwrap_or_default(),
            uid: rollout.metadata.uid.clone().unwrap_or_default(),
        };
        let is_about_it =
            |approval: &&PatchApproval| answers_to(approval, &id, &about.subject, &asked.hash);
        let all = || self.snapshot.approvals.iter().map(AsRef::as_ref).filter(is_about_it);
        if all().any(|approval| approval.spec.decision == Some(Decided::Reject)) {
            return Some("somebody rejected it");
        }
        let Some(approval) =
            all().find(|approval| approval.metadata.uid.as_ref() == Some(&said.uid))
        else {
            return Some("there is no such approval");
        };
        let expires = asked.expires_at.into_iter().chain(approval.spec.expires_at).min();
        let by = approval.spec.approver.as_deref().unwrap_or_default();
        let (authors, made) = (about.authors, about.made);
        if approval.spec.decision != Some(Decided::Approve) || by.is_empty() {
            Some("it is no approval")
        } else if is_ours(by) {
            Some("one of our own processes approved it")
        } else if approval.metadata.deletion_timestamp.is_some() {
            Some("it is being deleted")
        } else if expires.is_none_or(|expires| expires <= self.snapshot.now) {
            Some("it has expired")
        } else if !may_author && (authors.is_empty() || authors.iter().any(|all| all == by)) {
            Some("its author approved it, or nobody knows its authors")
        } else if !may_author
            && (authors.iter().all(|all| is_account(all)) || made.is_none_or(|made| made <= since))
        {
            Some("nobody vouches for its authors")
        } else if !self.confirmed.iter().any(|one| one.uid == said.uid && one.hash == asked.hash) {
            Some("the approval is not read anew before")
        } else {
            None
        }
    }
}
