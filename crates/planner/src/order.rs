//! PatchRollbacks: a person's order to take back what a rollout brought.
//!
//! An order halts its rollout, then marks the lines that it reaches, and begins with the status write
//! that names it: from then on the procedure of `rollback.rs` takes marked devices back like those that
//! failed. Whoever deletes the order withdraws it: what had not begun is left as it is.
//! One that asks a second person begins and goes on by that person's word; whoever rejects it ends it.

pub(crate) mod assent;
mod told;

use jiff::Timestamp;
use wardring_api::{
    JobAction, Latch, LineState, PatchRollback, PatchRollbackSpec, PatchRollout, RollbackOrder,
    RollbackPolicy, RollbackScope, RollbackStatus, conditions::whole_seconds, reasons::Reason,
};

pub use told::{RollbackPreview, preview_rollback};
pub(crate) use told::{write_rejections, write_statuses};

use crate::{
    Action, DeviceRow, DeviceTable, EventKind, Selector, Snapshot, approvals, barring,
    eligibility::rollback_policy,
    explain::one_line,
    halt,
    line::{Frozen, Line},
    plan::Lanes,
    validate::{Run, Scene, Stop},
};

/// The order that is being carried out on the run, unless it was withdrawn.
pub(crate) fn in_force<'a>(run: &Run<'_>, scene: &Scene<'a>) -> Option<&'a PatchRollback> {
    let named = run.status.rollback.as_ref()?.ordered()?;
    let stands = |order: &PatchRollback| !is_deleting(order) && !assent::is_rejected(order);
    scene.orders.iter().copied().find(|order| uid(order) == named.uid && stands(order))
}

/// Whether the order that the run carries out was deleted, or rejected.
pub(crate) fn is_withdrawn(run: &Run<'_>, scene: &Scene<'_>) -> bool {
    run.status.rollback.as_ref().is_some_and(|rollback| rollback.ordered().is_some())
        && in_force(run, scene).is_none()
}

/// Whether an order of the run has begun, and its last word is not written yet.
pub(crate) fn is_open(run: &Run<'_>, scene: &Scene<'_>) -> bool {
    let Some(named) = run.status.rollback.as_ref().and_then(|all| all.order.as_ref()) else {
        return false;
    };
    let mut orders = scene.orders.iter();
    orders.any(|order| uid(order) == named.uid && !is_over(order)) || is_withdrawn(run, scene)
}

/// Whether the device is one that the order in force takes back.
pub(crate) fn reaches(run: &Run<'_>, line: &Line, scene: &Scene<'_>) -> bool {
    line.ordered && in_force(run, scene).is_some()
}

/// Whether an order is being carried out, withdrawn or not. Only what it marked is taken back meanwhile:
/// whoever names one device means no other, whatever failures once asked for.
pub(crate) fn is_carried_out(run: &Run<'_>) -> bool {
    run.status.rollback.as_ref().is_some_and(|rollback| rollback.ordered().is_some())
}

/// Whether a rollback that followed from failures goes on. It comes to its end first, unless a person
/// ended the rollout and it with it.
pub(crate) fn waits_for_failures(run: &Run<'_>) -> bool {
    // Nor does it go on while something is wrong with the run.
    run.status.aborted.is_none()
        && run.complaint.is_none()
        && run
            .status
            .rollback
            .as_ref()
            .is_some_and(|rollback| rollback.completed_at.is_none() && rollback.order.is_none())
}

/// Halts the run that an order is for, and once that is durable, marks the devices that it reaches and
/// bars the updates. Returns whether it halted now.
pub(crate) fn begin(run: &mut Run<'_>, scene: &Scene<'_>, lanes: &mut Lanes) -> bool {
    let cannot = run.gating || scene.guard.is_some();
    if cannot || run.stop == Some(Stop::Deleting) || !run.has_finalizer() || is_open(run, scene) {
        return false;
    }
    // One that waits for a second person keeps no other one waiting.
    let next = || scene.orders.iter().copied().filter(|order| is_next(order, run));
    let goes = |order: &&PatchRollback| !assent::waits(run, order);
    let takes = |order: &&PatchRollback| !reached(run, &order.spec, scene).lines.is_empty();
    // Nor does one that reaches nothing, and cannot end while something is wrong with the run.
    let order = next().filter(goes).find(takes).or_else(|| next().find(goes));
    let Some(order) = order.or_else(|| next().next()) else { return false };
    let waits = assent::waits(run, order);
    let name = order.metadata.name.clone().unwrap_or_default();
    let reached = reached(run, &order.spec, scene);
    if (reached.lines.is_empty() || waits) && halt::is_completed(run) {
        // What is completed brings nothing any more, and there is nothing to take back, or not yet.
        return false;
    }
    if run.status.halted.is_none() {
        let reason = one_line(&order.spec.reason);
        let message = format!("A person ordered the rollback (PatchRollback {name}): {reason}");
        run.status.halted = Some(Latch {
            // One that says whom it asks takes nothing back by way of its halt, whatever becomes of it.
            uninstalls_nothing: order.spec.approval_above.is_some(),
            ..halt::latched(run, Reason::RollbackOrdered, &message, scene)
        });
        run.stop = halt::stop_of(run);
        run.emit(EventKind::Warning, Reason::RollbackOrdered, message);
        return true;
    }
    // A recall may be refused, and then its line is written as it was: the mark would be lost.
    let waits = waits || is_taking_back(run) || waits_for_failures(run) || !may_go_on(run);
    if reached.lines.is_empty() || waits {
        return false;
    }
    // Read once more before anything of it is written: marks, the bar, and the status that names it.
    let used = assent::of(run, order).and_then(|assent| approvals::use_of_order(run, assent, true));
    lanes.orders.extend(used.map(|used| Action::ConfirmApproval(Box::new(used))));
    mark(run, &reached.lines);
    let first = reached.lines.first().map_or(0, |(stage, _)| *stage);
    // One that is at work since before an abort may still fail, and is none of the order's devices.
    let tallies = run.stages.iter().map(|stage| &stage.tally);
    let failed_before = tallies.map(|all| (all.rollback_bad + all.rolling_back) as u32).sum();
    run.status.rollback = Some(RollbackStatus {
        scope: RollbackScope::Device,
        stage: run.stages[first].spec.name.clone(),
        started_at: whole_seconds(scene.now),
        completed_at: None,
        progress_since: None,
        stands_since: None,
        order: Some(RollbackOrder {
            name: name.clone(),
            uid: uid(order).to_owned(),
            windows: order.spec.windows,
            failed_before,
        }),
    });
    // Barred before the first device loses it: nothing brings it back in between.
    lanes.holds.push(barring::ordered_hold(run, order, scene));
    run.stop = halt::stop_of(run);
    run.gating = true;
    let count = crate::explain::devices(reached.lines.len());
    run.emit(
        EventKind::Warning,
        Reason::RollingBack,
        format!("PatchRollback {name} takes back what is on {count}."),
    );
    false
}

/// Whether what is wrong with the run, if something is, leaves orders a way: stages whose record is whole
/// can be taken back without the others, and whoever may not end another rollout may take back what it brought.
pub(crate) fn may_go_on(run: &Run<'_>) -> bool {
    let leaves_a_way = [Reason::RecordLost, Reason::SupersedesUnapproved];
    run.complaint.as_ref().is_none_or(|complaint| leaves_a_way.contains(&complaint.reason))
}

/// Whether grants are being taken back in this pass: a permit may still win.
pub(crate) fn is_taking_back(run: &Run<'_>) -> bool {
    run.stages.iter().flat_map(|stage| &stage.frozen).any(|frozen| !frozen.recalls.is_empty())
}

/// Whether the order is the one that the run takes up next. Orders are in the order of their making.
fn is_next(order: &PatchRollback, run: &Run<'_>) -> bool {
    is_for(order, run)
        && !is_deleting(order)
        && !assent::is_rejected(order)
        && order.status.as_ref().is_none_or(|status| status.started_at.is_none())
        && !is_over(order)
        && run.status.rollback.as_ref().and_then(|all| all.order.as_ref()).map(|all| &*all.uid)
            != Some(uid(order))
}

/// Whether the order means this very rollout: not one that was made later under the same name.
pub(crate) fn is_for(order: &PatchRollback, run: &Run<'_>) -> bool {
    let rollout = &run.rollout.metadata;
    let made = rollout.creation_timestamp.as_ref().map(|time| time.0);
    let status = order.status.as_ref();
    let known = status.and_then(|status| status.rollout_uid.as_deref());
    order.spec.rollout == run.id.name
        && match known {
            Some(known) => known == run.uid(),
            None => made_at(order) >= made,
        }
}

pub(crate) fn uid(order: &PatchRollback) -> &str {
    order.metadata.uid.as_deref().unwrap_or_default()
}

fn is_deleting(order: &PatchRollback) -> bool {
    order.metadata.deletion_timestamp.is_some()
}

fn is_over(order: &PatchRollback) -> bool {
    order.status.as_ref().is_some_and(|status| status.completed_at.is_some())
}

/// Orders in the order of their making.
pub(crate) fn sorted(orders: &[std::sync::Arc<PatchRollback>]) -> Vec<&PatchRollback> {
    let mut orders: Vec<&PatchRollback> = orders.iter().map(AsRef::as_ref).collect();
    orders.sort_by(|a, b| (made_at(a), &a.metadata.name).cmp(&(made_at(b), &b.metadata.name)));
    orders
}

fn made_at(order: &PatchRollback) -> Option<Timestamp> {
    order.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// What an order reaches.
pub(crate) struct Reached {
    /// Stage and position in it, in order.
    pub lines: Vec<(usize, usize)>,
    /// Devices that a group of theirs keeps from it.
    pub forbidden: u32,
    /// Devices that it names and that cannot be reached: silent, enrolled anew, broken by an earlier
    /// rollback, or without a record that is whole.
    pub beyond: u32,
}

/// The devices of the run that carry something of it and that the order names.
pub(crate) fn reached(run: &Run<'_>, spec: &PatchRollbackSpec, scene: &Scene<'_>) -> Reached {
    let selector = spec.selector.as_ref().map(Selector::new);
    let mut reached = Reached { lines: Vec::new(), forbidden: 0, beyond: unrecorded(run, spec) };
    for (position, stage) in run.stages.iter().enumerate() {
        let Some(frozen) = &stage.frozen else { continue };
        for (index, line) in frozen.lines.iter().enumerate() {
            let (carries, is_lost) = (carries(line, scene), is_lost(line));
            let Some(row) = scene.row(line).filter(|_| carries || is_lost) else { continue };
            if !names(spec, selector.as_ref(), line.row as usize, row, scene.table) {
                continue;
            }
            if rollback_policy(line.row as usize, scene.table) == RollbackPolicy::Forbid {
                reached.forbidden += 1;
            } else if is_lost || !is_same_machine(frozen, index, line, scene) {
                reached.beyond += 1;
            } else {
                reached.lines.push((position, index));
            }
        }
    }
    reached
}

/// Whether an order says that it means a device; `selector` is its own.
fn names(
    spec: &PatchRollbackSpec,
    selector: Option<&Selector>,
    position: usize,
    row: &DeviceRow,
    table: &DeviceTable,
) -> bool {
    let mut groups = table.groups_of(position).iter().map(|&group| &table.groups()[group as usize]);
    (spec.devices.is_empty() || spec.devices.iter().any(|name| **name == *row.name))
        && spec.group.as_ref().is_none_or(|name| groups.any(|group| group.name == *name))
        && selector.is_none_or(|selector| selector.matches(&row.labels))
}

/// Whether a person's order for the rollout, begun or ended but not withdrawn, means the device at
/// `position`, whether it can reach it or not. What became of a device after the order had ended was never
/// meant by it.
pub(crate) fn means(
    rollout: &PatchRollout,
    position: usize,
    lost_at: Option<Timestamp>,
    snapshot: &Snapshot,
) -> bool {
    let meta = &rollout.metadata;
    let created = meta.creation_timestamp.as_ref().map(|time| time.0);
    // An older rollout of that name is another one.
    let is_for_it = |order: &PatchRollback| {
        let status = order.status.as_ref();
        let bound = status.and_then(|status| status.rollout_uid.as_ref());
        let ended = status.and_then(|status| status.completed_at);
        meta.name.as_ref() == Some(&order.spec.rollout)
            && ended.is_none_or(|ended| lost_at.is_some_and(|lost| lost <= ended))
            && bound.map_or(made_at(order) >= created, |uid| meta.uid.as_ref() == Some(uid))
    };
    let mut orders = snapshot.orders.iter().filter(|order| !is_deleting(order) && is_for_it(order));
    orders.any(|order| {
        let selector = order.spec.selector.as_ref().map(Selector::new);
        let row = &snapshot.devices.rows()[position];
        names(&order.spec, selector.as_ref(), position, row, &snapshot.devices)
    })
}

/// Devices that the order may mean and of which no whole record is left. Whom a group or a selector means
/// among them nobody can say, so all of them count.
fn unrecorded(run: &Run<'_>, spec: &PatchRollbackSpec) -> u32 {
    let stages = run.stages.iter().zip(&run.status.stages);
    let lost =
        stages.filter(|(stage, status)| stage.frozen.is_none() && status.freeze_id.is_some());
    let lost: u32 = lost.map(|(_, status)| status.counts.total).sum();
    if lost == 0 || spec.devices.is_empty() {
        return lost;
    }
    let slices = || run.stages.iter().flat_map(|stage| &stage.frozen).flat_map(|all| &all.slices);
    let is_recorded =
        |name: &&String| slices().any(|all| all.lines.iter().any(|line| line.device == **name));
    let unknown = spec.devices.iter().filter(|name| !is_recorded(name)).count();
    lost.min(unknown as u32)
}

/// Whether something of the rollout is on the device, or may be in a moment.
fn carries(line: &Line, scene: &Scene<'_>) -> bool {
    match line.state {
        LineState::Succeeded => true,
        LineState::Granted => line.action == JobAction::Install,
        LineState::Pending | LineState::NotStarted => scene.leftover(line),
        LineState::Failed | LineState::RevertedByWindows => {
            line.tries > 0 && !matches!(line.reason, Some(Reason::Replaced | Reason::Released))
        }
        _ => false,
    }
}

/// Whether something of the rollout may be on a device that no order can reach.
fn is_lost(line: &Line) -> bool {
    matches!(
        line.state,
        LineState::Unreachable | LineState::RollbackFailed | LineState::NotReversible
    )
}

/// Whether the device is still the machine that the grant was for: another one of its name never had
/// what the rollout brought.
pub(crate) fn is_same_machine(
    frozen: &Frozen<'_>,
    index: usize,
    line: &Line,
    scene: &Scene<'_>,
) -> bool {
    let enrolled = scene.row(line).and_then(|row| row.enrolment_id.as_deref());
    enrolled.is_some() && frozen.record(index).enrolment_id.as_deref() == enrolled
}

/// Marks exactly these lines.
fn mark(run: &mut Run<'_>, lines: &[(usize, usize)]) {
    for (position, stage) in run.stages.iter_mut().enumerate() {
        let Some(frozen) = &mut stage.frozen else { continue };
        for (index, line) in frozen.lines.iter_mut().enumerate() {
            let ordered = lines.binary_search(&(position, index)).is_ok();
            if line.ordered == ordered {
                continue;
            }
            line.ordered = ordered;
            // What is written anyway carries the mark.
            if !frozen.outcomes.contains(&index) {
                frozen.ordered.insert(index);
            }
        }
    }
}
