//! Ends: a rollout ends by a person's word, or because another one took its place, and stays ended.

use wardring_api::{PatchRollout, PatchRolloutStatus};

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
        let takes_its_place = |newer: &PatchRollout, known: &PatchRolloutStatus| {
            newer.spec.supersedes.as_ref() == Some(&name)
                && supersede::is_older(rollout, newer)
                && supersede::has_opened(known)
                && newer.metadata.deletion_timestamp.is_none()
                && newer.spec.abort.is_none()
                && known.aborted.is_none()
                && known.suspended.is_none()
                && known.halted.is_none()
        };
        let mut others = self.rollouts.values();
        if !supersede::is_superseded(status)
            || supersede::is_out_of_reach(before)
            || !others.any(|(newer, known)| takes_its_place(newer, known))
        {
            self.breaks("S13", format!("rollout {name} would end and nobody ordered it"));
        }
    }
}
