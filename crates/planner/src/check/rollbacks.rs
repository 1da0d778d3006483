//! Nothing is taken back that neither failed, nor is in the scope of a failure, nor was ordered by a
//! person whose order is still there and means this very device.

use wardring_api::{
    AwaitingRebootAction, Cap, Decided, FailureAction, GateState, JobAction, JobState, LineState,
    PatchRollback, PatchRollout, PatchRolloutStatus, RollbackPolicy, RollbackScope, SliceLine,
    StageStatus,
};

use super::Replay;
use crate::{Selector, SliceView, freeze_id, order_is_approved, rollback_is_approved};

impl<'a> Replay<'a> {
    /// The order that the rollout's status names and that nobody deleted.
    pub(super) fn order_of(&self, uid: &str) -> Option<&'a PatchRollback> {
        let (_, status) = self.rollouts.get(uid)?;
        self.named(status)
    }

    fn named(&self, status: &PatchRolloutStatus) -> Option<&'a PatchRollback> {
        let rollback = status.rollback.as_ref().filter(|all| all.completed_at.is_none())?;
        let named = rollback.order.as_ref()?.uid.as_str();
        let mut orders = self.snapshot.orders.iter();
        let order = orders.find(|order| order.metadata.uid.as_deref() == Some(named))?;
        order.metadata.deletion_timestamp.is_none().then_some(order)
    }

    /// Whether an order has begun on the rollout of this slice: what it reaches is frozen.
    pub(super) fn is_carried_out(&self, slice: &str) -> bool {
        let uid = self.slices.get(slice).map_or("", |view| view.rollout_uid.as_str());
        let rollback = self.rollouts.get(uid).and_then(|(_, status)| status.rollback.as_ref());
        rollback.is_some_and(|all| all.completed_at.is_none() && all.order.is_some())
    }

    /// An order begins with a status that names it: the marks that stand then are devices that it means.
    pub(super) fn order_begins(
        &mut self,
        uid: &str,
        before: &PatchRolloutStatus,
        status: &PatchRolloutStatus,
    ) {
        let name = |status: &PatchRolloutStatus| {
            Some(status.rollback.as_ref()?.order.as_ref()?.uid.clone())
        };
        if name(status).is_none() || name(status) == name(before) {
            return;
        }
        let Some(order) = self.named(status) else {
            return self.breaks("S13", "an order would begin that nobody made".to_owned());
        };
        if status.halted.is_none() {
            self.breaks("S13", "an order would begin before its rollout is halted".to_owned());
        }
        self.second_person(uid, order, Some(status), None);
        let slices: Vec<&SliceView> = self.slices.values().copied().collect();
        let is_whole = |view: &SliceView| {
            let same = |other: &&&SliceView| {
                (&other.rollout_uid, &other.stage, &other.freeze_id)
                    == (&view.rollout_uid, &view.stage, &view.freeze_id)
            };
            let found = slices.iter().filter(same);
            found.filter(|view| view.damaged.is_none()).count() == view.of as usize
        };
        // What is left of a lost record keeps its old marks, and nothing is granted from it.
        let ours = slices.iter().filter(|view| view.rollout_uid == uid && is_whole(view));
        for view in ours.copied().collect::<Vec<_>>() {
            for index in 0..view.lines.len() {
                let line = self.line(&view.name, index).filter(|line| line.ordered);
                if let Some(line) = line.filter(|line| !self.means(order, &line.device)) {
                    let device = &line.device;
                    self.breaks("S13", format!("an order that does not name {device} reaches it"));
                }
            }
        }
    }

    /// Whether the order names the device.
    fn means(&self, order: &PatchRollback, device: &str) -> bool {
        let (spec, table) = (&order.spec, &self.snapshot.devices);
        let Some(row) = table.find(device) else { return false };
        let labels = &table.rows()[row].labels;
        let mut groups = table.groups_of(row).iter().map(|&group| &table.groups()[group as usize]);
        (spec.devices.is_empty() || spec.devices.iter().any(|name| name == device))
            && spec.group.as_ref().is_none_or(|name| groups.any(|group| group.name == *name))
            && spec.selector.as_ref().is_none_or(|all| Selector::new(all).matches(labels))
    }

    /// Whether the line that a rollback is granted for may be taken back.
    pub(super) fn may_be_taken_back(&mut self, view: &SliceView, before: &SliceLine) {
        // It fell silent in the middle of its rollback, and comes back to it.
        if before.state == LineState::Unreachable {
            return;
        }
        let Some((rollout, status)) = self.rollouts.get(view.rollout_uid.as_str()).cloned() else {
            return;
        };
        let on_failure = &rollout.spec.on_failure;
        let scope = status.rollback.as_ref().filter(|all| all.completed_at.is_none());
        let on_halt = rollout.spec.on_halt.installed_awaiting_reboot;
        let is_covered = scope.is_some_and(|rollback| match rollback.scope {
            RollbackScope::Device => false,
            RollbackScope::Stage => rollback.stage == view.stage,
            RollbackScope::AllStages => true,
        });
        let follows = match before.state {
            LineState::Succeeded => is_covered,
            LineState::Granted => {
                let halted = status.halted.as_ref();
                on_halt == AwaitingRebootAction::Uninstall
                    && halted.is_none_or(|halt| !halt.uninstalls_nothing)
            }
            _ => on_failure.action == FailureAction::Rollback || is_covered,
        };
        let table = &self.snapshot.devices;
        let row = table.find(&before.device);
        let groups = row.map(|row| table.groups_of(row)).unwrap_or_default();
        let says = |policy| {
            groups.iter().any(|&group| table.groups()[group as usize].spec.rollback == policy)
        };
        let enrolled = row.and_then(|row| table.rows()[row].enrolment_id.as_deref());
        let job = self.jobs.get(&before.device).copied().flatten();
        let waits = job.is_some_and(|job| {
            !job.repaired && matches!(job.state, Some(JobState::AwaitingReboot))
        });
        let may = if self.is_carried_out(&view.name) {
            before.ordered
                && self.order_of(&view.rollout_uid).is_some()
                && before.enrolment_id.as_deref() == enrolled
                && (before.state != LineState::Granted || (waits && status.halted.is_some()))
        } else {
            follows && (!says(RollbackPolicy::Ask) || self.is_approved(&view.rollout_uid))
        };
        if !may || says(RollbackPolicy::Forbid) {
            let device = &before.device;
            self.breaks("S13", format!("{device} would be rolled back, and nobody ordered it"));
        }
        let is_healthy = matches!(before.state, LineState::Succeeded | LineState::Granted);
        if !self.is_carried_out(&view.name) && is_healthy && waits_for_a_person(rollout, &status) {
            let device = &before.device;
            let message = format!("{device} is healthy, and a person was to say yes first");
            self.breaks("S13", message);
        }
        if !self.is_carried_out(&view.name) {
            self.share(rollout, view, &before.device);
        } else if let Some(order) = self.order_of(&view.rollout_uid) {
            self.second_person(&view.rollout_uid, order, None, Some(&before.device));
        }
    }

    /// Whether the status that stands says that a person approved the rollback, and that approval is there.
    fn is_approved(&self, uid: &str) -> bool {
        let Some((rollout, status)) = self.rollouts.get(uid) else { return false };
        let mut written = (*rollout).clone();
        written.status = Some(status.clone());
        let said = status.rollback_approval.as_ref().and_then(|all| all.asked.decided.as_ref());
        let mut approvals = self.snapshot.approvals.iter();
        let is_there = approvals.any(|approval| {
            said.is_some_and(|said| approval.metadata.uid.as_ref() == Some(&said.uid))
                && approval.spec.decision == Some(Decided::Approve)
        });
        is_there && rollback_is_approved(&written, self.snapshot.now)
    }

    /// Without a second person's word an order takes back no more devices than its share, with those that were
    /// taken back before; with one no more than were asked about. `begins` is the status that it begins with,
    /// `device` the one that is about to be taken back.
    fn second_person(
        &mut self,
        uid: &str,
        order: &PatchRollback,
        begins: Option<&PatchRolloutStatus>,
        device: Option<&str>,
    ) {
        let known = order.status.as_ref().and_then(|status| status.approval.as_ref());
        let name = order.metadata.name.as_deref().unwrap_or_default();
        if known.is_some_and(|known| known.state == GateState::Failed) {
            return self
                .breaks("S13", format!("PatchRollback {name} was rejected and would go on"));
        }
        let Some(cap) = order.spec.approval_above else { return };
        let Some((rollout, status)) = self.rollouts.get(uid).cloned() else { return };
        let (size, counted) = self
            .taken_with(uid, &status, |line| line.ordered || device == Some(line.device.as_str()));
        // Of a record that is lost only the counters are left, and a retry undoes nothing.
        let stages = status.stages.iter().filter(|stage| self.whole(uid, stage).is_none());
        let lost: u32 =
            stages.map(|stage| stage.counts.rolled_back + stage.counts.rollback_failed).sum();
        let taken = counted + (lost + status.rolled_back_before) as usize;
        let most = match cap {
            Cap::Count(count) => count as usize,
            Cap::Percent(percent) => size * usize::from(percent) / 100,
        };
        let asked = known.map_or(0, |known| known.up_to as usize);
        let mut written = rollout.clone();
        written.status = Some(begins.unwrap_or(&status).clone());
        let said = known.and_then(|known| known.asked.decided.as_ref());
        let is_there = said.is_some_and(|said| {
            let mut approvals = self.snapshot.approvals.iter();
            approvals.any(|approval| {
                approval.metadata.uid.as_ref() == Some(&said.uid)
                    && approval.spec.decision == Some(Decided::Approve)
            })
        });
        // It begins by a word that is read once more right before.
        let is_read = begins.is_none()
            || said.is_some_and(|said| self.confirmed.iter().any(|one| one.uid == said.uid));
        let is_let = is_there
            && is_read
            && taken <= asked
            && order_is_approved(order, &written, self.snapshot.now);
        if (taken > most || known.is_some()) && !is_let {
            let message = format!(
                "PatchRollback {name} would take back what is on {taken} devices, and nobody approved more than {most}"
            );
            self.breaks("S13", message);
        }
    }

    /// The slices of a stage, if all of them are there and say what was frozen.
    fn whole(&self, uid: &str, stage: &StageStatus) -> Option<Vec<&'a SliceView>> {
        let id = stage.freeze_id.as_ref()?;
        let is_its = |slice: &&&SliceView| {
            slice.rollout_uid == uid && slice.stage == stage.name && slice.freeze_id == *id
        };
        let mut found: Vec<&SliceView> = self.slices.values().filter(is_its).copied().collect();
        found.sort_by_key(|slice| slice.index);
        let digests = found.iter().map(|slice| slice.names_digest.digest());
        let is_whole = found.iter().all(|slice| slice.damaged.is_none())
            && found.first().is_some_and(|first| first.of as usize == found.len())
            && freeze_id(digests) == *id;
        is_whole.then_some(found)
    }

    /// Lines of the rollout, and those of them that are, or were, taken back, or are meant.
    fn taken_with(
        &self,
        uid: &str,
        status: &PatchRolloutStatus,
        is_meant: impl Fn(&SliceLine) -> bool,
    ) -> (usize, usize) {
        let (mut size, mut taken) = (0, 0);
        let stages = status.stages.iter();
        let whole = stages.filter_map(|stage| Some((stage, self.whole(uid, stage)?)));
        for (stage, slice) in
            whole.flat_map(|(stage, all)| all.into_iter().map(move |one| (stage, one)))
        {
            for index in 0..slice.lines.len() {
                size += usize::from(stage.state.has_opened());
                let Some(line) = self.line(&slice.name, index) else { continue };
                taken += usize::from(is_meant(&line) || is_taken(&line));
            }
        }
        (size, taken)
    }

    /// Without an approval no more devices are taken back than the rollout's share, and with one no more than
    /// were asked about.
    fn share(&mut self, rollout: &PatchRollout, view: &SliceView, device: &str) {
        let Some(cap) = rollout.spec.on_failure.approval_above else { return };
        let uid = view.rollout_uid.as_str();
        let Some((_, status)) = self.rollouts.get(uid) else { return };
        let (size, taken) = self.taken_with(uid, status, |line| line.device == device);
        let most = match cap {
            Cap::Count(count) => count as usize,
            Cap::Percent(percent) => size * usize::from(percent) / 100,
        };
        let asked = status.rollback_approval.as_ref().map_or(0, |all| all.up_to as usize);
        if taken > most && !(self.is_approved(uid) && taken <= asked) {
            let message = format!(
                "{device} would be rolled back, and nobody approved more than {most} devices"
            );
            self.breaks("S13", message);
        }
    }
}

fn is_taken(line: &SliceLine) -> bool {
    match line.state {
        LineState::RolledBack | LineState::RollbackFailed | LineState::NotReversible => true,
        LineState::Granted | LineState::Unreachable => line.action == JobAction::Rollback,
        _ => false,
    }
}

/// Whether the healthy devices of the scope wait: somebody said no, or was asked for no other reason than the
/// share. A group that asks says nothing of the others.
fn waits_for_a_person(rollout: &PatchRollout, status: &PatchRolloutStatus) -> bool {
    let known = status.rollback_approval.as_ref();
    rollout.spec.on_failure.approval_above.is_some()
        && known.is_some_and(|known| match known.state {
            GateState::Failed => true,
            GateState::Passed => false,
            _ => known.groups.is_empty(),
        })
}
