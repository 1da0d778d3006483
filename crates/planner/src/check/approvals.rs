//! Approvals: nothing opens, ends or passes by a person's word without that word, and a rejection stays.
//! Read off the statuses as they are written, and off the PatchApprovals themselves.

use wardring_api::{
    Decided, Gate, GateApproval, GatePhase, GateState, GateStatus, PatchApproval, PatchRollout,
    PatchRolloutStatus, StageState, StageStatus,
};

use super::Replay;
use crate::ApprovalPolicy;

fn state_of<'s>(status: &'s StageStatus, phase: GatePhase, gate: &Gate) -> Option<&'s GateStatus> {
    status.gates.iter().find(|known| known.phase == phase && known.name == gate.name)
}

impl Replay<'_> {
    /// One gate of type Approval in a status that is written.
    #[allow(clippy::too_many_arguments)] // Two versions of a stage, and of the rollout around it.
    pub(super) fn approval(
        &mut self,
        rollout: &PatchRollout,
        was: Option<&StageStatus>,
        now: &StageStatus,
        phase: GatePhase,
        gate: &Gate,
        before: &PatchRolloutStatus,
        status: &PatchRolloutStatus,
    ) {
        let earlier = was.and_then(|was| state_of(was, phase, gate));
        let known = state_of(now, phase, gate);
        let rejected = |known: &&GateStatus| {
            let said = known.approval.as_ref().and_then(|asked| asked.decided.as_ref());
            known.state == GateState::Failed
                && said.is_some_and(|said| said.decision == Decided::Reject)
        };
        let is_retried = before.last_handled_retry != status.last_handled_retry;
        if earlier.filter(rejected).is_some() && known.filter(rejected).is_none() && !is_retried {
            let message =
                format!("the rejection by gate {} of stage {} would vanish", gate.name, now.name);
            self.breaks("S7", message);
        }
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
        if let Some(why) = self.doubt(rollout, &now.name, gate, earlier, asked) {
            let message = format!("gate {} of stage {} would pass: {why}", gate.name, now.name);
            self.breaks("S7", message);
        }
    }

    /// Why the approval that a gate names is none.
    fn doubt(
        &self,
        rollout: &PatchRollout,
        stage: &str,
        gate: &Gate,
        earlier: Option<&GateStatus>,
        asked: &GateApproval,
    ) -> Option<&'static str> {
        let said = asked.decided.as_ref().filter(|said| said.decision == Decided::Approve);
        let Some(said) = said else { return Some("nobody approved it") };
        // It must have been asked, durably, before anybody could answer.
        let written = earlier.and_then(|earlier| earlier.approval.as_ref());
        if written.is_none_or(|written| written.hash.is_empty() || written.hash != asked.hash) {
            return Some("what it asks was not written before");
        }
        let fingerprint = match &self.snapshot.approval_policy {
            ApprovalPolicy::Intact { fingerprint, .. } => fingerprint,
            ApprovalPolicy::Broken { .. } => return Some("nobody vouches for approvals"),
        };
        if *fingerprint != asked.policy {
            return Some("the admission policies are others than when it was asked");
        }
        let is_about_it = |approval: &&PatchApproval| {
            let (spec, meta) = (&approval.spec, &rollout.metadata);
            let of = spec.subject.stage_gate.as_ref();
            meta.uid.as_ref().is_some_and(|uid| *uid == spec.rollout_uid)
                && meta.name.as_ref() == Some(&spec.rollout)
                && of.is_some_and(|of| of.stage == stage && of.gate == gate.name)
                && spec.approval_hash == asked.hash
        };
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
        let may_author = gate.approval.as_ref().is_some_and(|all| all.author_may_approve);
        if approval.spec.decision != Some(Decided::Approve) || by.is_empty() {
            Some("it is no approval")
        } else if approval.metadata.deletion_timestamp.is_some() {
            Some("it is being deleted")
        } else if expires.is_none_or(|expires| expires <= self.snapshot.now) {
            Some("it has expired")
        } else if !may_author
            && (rollout.spec.authors.is_empty() || rollout.spec.authors.iter().any(|all| all == by))
        {
            Some("its author approved it, or nobody knows its authors")
        } else if !self.confirmed.iter().any(|one| one.uid == said.uid && one.hash == asked.hash) {
            Some("the approval is not read anew before")
        } else {
            None
        }
    }
}
