//! How far a rollback goes without asking anybody: devices up to `onFailure.approvalAbove`, broken ones
//! first. Beyond that, and in groups that say Ask, a person's approval lets it go on.
//!
//! Takes nothing back and asks nothing; it only counts. Whatever it cannot count waits.

use std::collections::BTreeSet;

use wardring_api::{GateState, JobAction, LineState, RollbackPolicy};

use super::{is_failure_target, is_in_scope};
use crate::{
    ApprovalPolicy, approvals,
    eligibility::rollback_policy,
    line::{Line, NONE},
    order,
    validate::{Run, Scene},
};

/// What of a rollback that follows from failures may go on. Nothing, unless it was counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Consent {
    /// The rollout says how far it goes without asking.
    pub share: Option<usize>,
    /// Devices from which the updates were, or are being, taken back.
    pub taken: usize,
    /// The same with all that are to follow, and with those at work that may.
    pub reach: usize,
    /// More are to be taken back than the share.
    over: bool,
    /// Broken devices within the share, by stage and position in it.
    free: BTreeSet<(usize, usize)>,
    /// A person approved exactly this, and still does.
    pub approved: bool,
    /// Devices that wait for a person, or would without the approval.
    pub waits: usize,
    /// Something was begun that needed an approval.
    pub is_used: bool,
    /// More was begun than is let now, and nobody vouches for it.
    is_overdrawn: bool,
    /// Nobody approved it, and that is known.
    is_unvouched: bool,
    is_counted: bool,
}

impl Consent {
    /// Counts.
    pub fn of(run: &Run<'_>, scene: &Scene<'_>) -> Consent {
        let Some(cap) = run.rollout.spec.on_failure.approval_above else {
            return Consent { is_counted: true, ..Consent::default() };
        };
        let stages = run.stages.iter().zip(&run.status.stages);
        let opened = stages.filter(|(_, status)| status.state.has_opened());
        let size = opened.flat_map(|(all, _)| &all.frozen).map(|all| all.lines.len()).sum();
        let share = cap.of(size);
        let mut all = Consent { share: Some(share), is_counted: true, ..Consent::default() };
        let (mut targets, mut asking, mut at_work, mut broken) = (0, 0, 0, Vec::new());
        // Later stages go first, as they do in the procedure.
        for (position, stage) in run.stages.iter().enumerate().rev() {
            let lines = stage.frozen.iter().flat_map(|frozen| &frozen.lines).enumerate();
            let is_in_scope = is_in_scope(run, position);
            for (index, line) in lines {
                if is_taken(line) {
                    all.taken += 1;
                    all.is_used |= policy(line, scene) == Some(RollbackPolicy::Ask);
                } else if is_failure_target(run, position, line, scene) {
                    match policy(line, scene) {
                        Some(RollbackPolicy::Allow) => targets += 1,
                        Some(RollbackPolicy::Ask) => {
                            asking += 1;
                            continue;
                        }
                        Some(RollbackPolicy::Forbid) | None => continue,
                    }
                    if matches!(line.state, LineState::Failed | LineState::RevertedByWindows) {
                        let is_online = scene.row(line).is_some_and(|row| row.is_online());
                        broken.push((!is_online, position, index));
                    }
                } else if is_in_scope && line.state == LineState::Granted {
                    at_work += 1;
                }
            }
        }
        let known = run.status.rollback_approval.as_ref();
        let is_rejected = known.is_some_and(|known| known.state == GateState::Failed);
        // Whoever rejects it leaves the healthy ones as they are, also where they would fit now.
        all.over = all.taken + targets > share || is_rejected;
        all.is_used |= all.taken > share;
        all.reach = all.taken + targets + asking + at_work;
        if all.over {
            // One that is switched off keeps no other one broken.
            broken.sort_by_key(|(is_offline, ..)| *is_offline);
            let left = share.saturating_sub(all.taken);
            all.free = broken.into_iter().take(left).map(|(_, at, index)| (at, index)).collect();
        }
        all.waits = asking + if all.over { targets - all.free.len() } else { 0 };
        all.approved = approvals::lets_roll_back(run, all.reach, scene);
        // Where nobody can tell for a moment, what was granted stays.
        let is_unknown = matches!(scene.snapshot.approval_policy, ApprovalPolicy::Unknown { .. });
        all.is_unvouched = !all.approved && !is_unknown;
        all.is_overdrawn = all.taken > share && all.is_unvouched;
        all
    }

    /// Whether a rollback that was granted and has not begun is taken back: more was granted than is let now,
    /// or the device is healthy, and those wait for a person.
    pub fn recalls(&self, line: &Line) -> bool {
        let is_healthy = matches!(line.was, Some(LineState::Succeeded | LineState::Granted));
        self.is_overdrawn || (self.over && self.is_unvouched && is_healthy)
    }

    /// Whether a device with this policy of its groups may be taken back for a failure.
    pub fn lets(&self, policy: RollbackPolicy, at: (usize, usize)) -> bool {
        match policy {
            _ if !self.is_counted => false,
            RollbackPolicy::Allow => !self.over || self.approved || self.free.contains(&at),
            RollbackPolicy::Ask => self.approved,
            RollbackPolicy::Forbid => false,
        }
    }

    /// Whether the rollout asks for approvals of rollbacks, so that one is what a device waits for.
    pub fn is_asked_for(&self, run: &Run<'_>) -> bool {
        // After a person's order it is a person who goes on.
        let is_ordered = run.status.rollback.as_ref().is_some_and(|all| all.order.is_some());
        self.share.is_some() && !is_ordered && !order::is_carried_out(run)
    }
}

fn policy(line: &Line, scene: &Scene<'_>) -> Option<RollbackPolicy> {
    let is_there = line.row != NONE && scene.row(line).is_some();
    is_there.then(|| rollback_policy(line.row as usize, scene.table))
}

/// Whether a rollback of the device was begun, whatever came of it, or the device itself took the update
/// back.
pub(crate) fn is_taken(line: &Line) -> bool {
    match line.state {
        LineState::RolledBack | LineState::RollbackFailed | LineState::NotReversible => true,
        LineState::Granted | LineState::Unreachable => line.action == JobAction::Rollback,
        _ => false,
    }
}
