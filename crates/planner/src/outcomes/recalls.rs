//! Grants that have not begun and go back: why they do, and what they become.

use wardring_api::{JobAction, LineState, RollbackPolicy, reasons::Reason};

use super::{Facts, Turn};
use crate::{
    eligibility::{recall_hold, rollback_policy},
    line::{Line, NONE},
    validate::Stop,
    wake::Wake,
};

impl Facts<'_, '_> {
    /// Whether a rollback that follows from failures needs an approval that is not there.
    fn withheld(&self, line: &Line) -> bool {
        let asks = || {
            line.row != NONE
                && rollback_policy(line.row as usize, self.scene.table) == RollbackPolicy::Ask
        };
        self.consent.recalls(line) || (!self.consent.approved && asks())
    }

    /// Whether a grant that has not begun is taken back because the rollout stands still.
    pub(super) fn is_recalled(&self, line: &Line) -> bool {
        // A grant that cannot begin would only keep a slot from a device that no stop concerns.
        if self.brakes.hold(line, line.action, self.scene) {
            return true;
        }
        // A group that forbids rollbacks forbids those that have not begun, too.
        if line.action == JobAction::Rollback
            && line.row != NONE
            && rollback_policy(line.row as usize, self.scene.table) == RollbackPolicy::Forbid
        {
            return true;
        }
        // So does a group that asks, and a share that is used up, where no approval is there any more.
        if line.action == JobAction::Rollback && !self.ordered && self.withheld(line) {
            return true;
        }
        // Whoever deletes an order wants it ended, not carried out.
        if self.withdrawn && line.ordered && line.action == JobAction::Rollback {
            return true;
        }
        // Nor does what a second person let go on outlive that person's word.
        if self.unassented && line.ordered && line.action == JobAction::Rollback {
            return true;
        }
        match self.stop {
            None => false,
            // A halt is what rollbacks are for.
            Some(Stop::Halted) => line.action != JobAction::Rollback,
            Some(Stop::Suspended | Stop::Aborted | Stop::Deleting) => true,
        }
    }

    /// Whether an installation goes back because its device is kept from it now: somebody bars the update, or
    /// holds the device, after the grant. What is taken back of others needs no such look: a device is not left
    /// broken because of what it broke by.
    pub(super) fn is_kept_back(&self, line: &Line, wake: &mut Wake) -> bool {
        let (table, position) = (self.scene.table, line.row as usize);
        let row = self.scene.row(line).filter(|_| line.action == JobAction::Install);
        let hold =
            row.and_then(|row| recall_hold(row, position, self.spec, self.coverage, table, wake));
        hold.is_some()
    }

    /// A grant that did not begin goes back to where it came from.
    pub(super) fn taken_back(&self, line: &Line, reason: Option<Reason>, job: Option<u32>) -> Turn {
        let mut next = *line;
        match line.action {
            JobAction::Rollback => {
                let state = next.was.take().unwrap_or(LineState::Failed);
                // Why it is to be rolled back outlasts why it was not yet.
                let detail = next.was_reason.take().or(reason).or(line.reason);
                next.set(state, detail, self.scene.now);
            }
            JobAction::Install | JobAction::Download => {
                let late = reason == Some(Reason::StartByPassed);
                let state = if late { LineState::NotStarted } else { LineState::Pending };
                next.set(state, reason, self.scene.now);
            }
        }
        Turn::TakenBack(next, job)
    }
}
