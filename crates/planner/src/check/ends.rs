//! Ends: a rollout ends by a person's word, or because another one took its place, and stays ended. Another
//! one takes it by a second person's word only, which is read off the PatchApprovals when its first stage opens.

use wardring_api::{
    Gate, GateMode, GatePhase, GateStatus, GateType, JobAction, LineState, PatchRollout,
    PatchRolloutStatus, StageState, reasons::Reason,
};

use super::Replay;
use crate::supersede;

/// Whether another rollout's place is what the rollout was stopped for.
fn gives_way(status: &PatchRolloutStatus) -> bool {
    let latch = status.halted.as_ref();
    latch.is_some_and(|latch| latch.reason == Reason::SupersededByRollout.as_str())
}

impl Replay<'_> {
    pub(super) fn ends(
        &mut self,
        rollout: &PatchRollout,
        before: &PatchRolloutStatus,
        status: &PatchRolloutStatus,
    ) {
        let name = rollout.metadata.name.clone().unwrap_or_default();
        if before.aborted.is_some() && status.aborted.is_none() {
            self.breaks("S13", format!("rollout {name} would go on after its end"));
        }
        // As it was read: what the plan writes to the other one changes nothing.
        let takes_its_place = |newer: &PatchRollout| {
            newer.spec.supersedes.as_ref() == Some(&name)
                && supersede::is_older(rollout, newer)
                && newer.status.as_ref().is_some_and(|all| {
                    let by = all.takeover.as_ref();
                    let is_approved =
                        by.is_some_and(|by| by.rollout == name && !by.approvals.is_empty());
                    supersede::is_in_command(newer, all, before)
                        && (is_approved || gives_way(before))
                })
        };
        let is_replaced = self.snapshot.rollouts.iter().any(|newer| takes_its_place(newer));
        if !gives_way(before) && gives_way(status) && !is_replaced {
            self.breaks("S13", format!("rollout {name} would halt for another one unasked"));
        }
        if before.aborted.is_some() || status.aborted.is_none() || rollout.spec.abort.is_some() {
            return;
        }
        if !supersede::is_superseded(status) || !is_replaced {
            self.breaks("S13", format!("rollout {name} would end and nobody ordered it"));
        }
        let is_rolling = before.rollback.as_ref().is_some_and(|all| all.completed_at.is_none());
        if before.halted.is_none() || is_rolling {
            let message =
                format!("rollout {name} would end before it is halted, or in its rollback");
            self.breaks("S13", message);
        }
        let uid = rollout.metadata.uid.clone().unwrap_or_default();
        for stage in &before.stages {
            let lines = self.lines_of(&uid, &stage.name, stage.freeze_id.as_deref());
            let is_taken_back = |line: &&wardring_api::SliceLine| {
                line.state == LineState::Granted && line.action == JobAction::Rollback
            };
            if let Some(line) = lines.iter().find(is_taken_back) {
                let message =
                    format!("rollout {name} would end while {} is taken back", line.device);
                self.breaks("S13", message);
            }
        }
    }

    /// A rollout that takes another one's place opens its first stage by the word of somebody else than its
    /// authors, and keeps whose word that was.
    pub(super) fn takeover(
        &mut self,
        rollout: &PatchRollout,
        before: &PatchRolloutStatus,
        status: &PatchRolloutStatus,
    ) {
        let name = rollout.metadata.name.as_deref().unwrap_or_default();
        let opens = {
            let waits = |status: &PatchRolloutStatus| {
                let first = status.stages.first().map(|stage| stage.state);
                matches!(first, None | Some(StageState::Pending | StageState::Gated))
            };
            waits(before) && !waits(status)
        };
        let is_kept = before.takeover == status.takeover;
        if !opens || rollout.spec.supersedes.is_none() {
            if !is_kept {
                let message = format!("rollout {name} would take another one's place unseen");
                self.breaks("S13", message);
            }
            return;
        }
        if let Some(why) = self.takeover_doubt(rollout, before, status) {
            let message = format!("rollout {name} would take another one's place: {why}");
            self.breaks("S13", message);
        }
    }

    fn takeover_doubt(
        &self,
        rollout: &PatchRollout,
        before: &PatchRolloutStatus,
        status: &PatchRolloutStatus,
    ) -> Option<&'static str> {
        let (Some(stage), Some(now)) = (rollout.spec.stages.first(), status.stages.first()) else {
            return Some("it has no stage");
        };
        let Some(takeover) = &status.takeover else { return Some("nobody's word is noted") };
        if Some(&takeover.rollout) != rollout.spec.supersedes.as_ref() {
            return Some("it is not the one that it names");
        }
        let needs_two = |gate: &&Gate| {
            gate.kind == GateType::Approval
                && gate.mode == GateMode::Enforce
                && !gate.approval.as_ref().is_some_and(|all| all.author_may_approve)
        };
        let asked: Vec<&Gate> = stage.gates.before.iter().filter(needs_two).collect();
        if asked.is_empty() || asked.len() != takeover.approvals.len() {
            return Some("not everybody is asked and noted");
        }
        let earlier = before.stages.iter().find(|earlier| earlier.name == now.name);
        for (gate, said) in asked.into_iter().zip(&takeover.approvals) {
            let is_it =
                |known: &&GateStatus| known.phase == GatePhase::Before && known.name == gate.name;
            let known = now.gates.iter().find(is_it).and_then(|known| known.approval.as_ref());
            let Some(known) = known.filter(|known| known.decided.as_ref() == Some(said)) else {
                return Some("what is noted is not what was said");
            };
            let written = earlier.and_then(|earlier| earlier.gates.iter().find(is_it));
            let written = written.and_then(|written| written.approval.as_ref());
            let doubt = self.stage_doubt(rollout, status, (&now.name, gate), written, known);
            if doubt.is_some() {
                return doubt;
            }
        }
        None
    }
}
