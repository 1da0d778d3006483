//! Ends: a rollout ends by a person's word, or because another one took its place, and stays ended.

use wardring_api::{JobAction, LineState, PatchRollout, PatchRolloutStatus};

use super::Replay;
use crate::supersede;

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
        if before.aborted.is_some() || status.aborted.is_none() || rollout.spec.abort.is_some() {
            return;
        }
        // As it was read: what the plan writes to the other one changes nothing.
        let takes_its_place = |newer: &PatchRollout| {
            newer.spec.supersedes.as_ref() == Some(&name)
                && supersede::is_older(rollout, newer)
                && newer.status.as_ref().is_some_and(|all| supersede::is_in_command(newer, all))
        };
        let mut others = self.snapshot.rollouts.iter();
        if !supersede::is_superseded(status) || !others.any(|newer| takes_its_place(newer)) {
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
}
