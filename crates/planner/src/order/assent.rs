//! Orders that wait for a second person: how many devices they take, and whether somebody let them go on.
//!
//! Takes nothing back; it only counts. What it cannot count waits.

use jiff::Timestamp;
use wardring_api::{
    GateState, OrderApproval, PatchRollback, conditions::whole_seconds, reasons::Reason,
};

use super::{is_deleting, is_for, is_next, is_over, may_go_on, reached, uid};
use crate::{
    EventKind, approvals,
    halt::is_completed,
    line::Line,
    rollback::is_taken,
    validate::{Run, Scene, Stop},
    wake::Wake,
};

/// What an order with `approvalAbove` may do, as this pass counts it.
#[derive(Clone, Debug)]
pub(crate) struct Assent<'a> {
    pub order: &'a PatchRollback,
    /// Devices from which the updates are, were or are to be taken back.
    pub reach: usize,
    /// Of them, those that nobody is asked about.
    pub share: usize,
    /// Devices of the run.
    pub size: usize,
    /// Whether somebody is asked. Once asked it stays so, whatever becomes of the devices.
    pub asks: bool,
    /// Whether the order goes on: nobody is asked, or somebody approved exactly this and still does.
    pub is_let: bool,
    /// What is asked and was said, as this pass will write it.
    pub approval: Option<OrderApproval>,
}

/// Counts every order of the run that has an `approvalAbove` and is not over.
pub(crate) fn weigh<'a>(run: &Run<'_>, scene: &Scene<'a>) -> Vec<Assent<'a>> {
    let open = scene.orders.iter().copied().filter(|order| {
        order.spec.approval_above.is_some()
            && !is_over(order)
            && !is_deleting(order)
            && is_for(order, run)
    });
    open.filter_map(|order| weighed(run, order, scene)).collect()
}

fn weighed<'a>(run: &Run<'_>, order: &'a PatchRollback, scene: &Scene<'a>) -> Option<Assent<'a>> {
    let cap = order.spec.approval_above?;
    let (reach, size, is_empty) = count(run, order, scene);
    let share = cap.of(size);
    let approval = order.status.as_ref().and_then(|status| status.approval.clone());
    let asks = approval.is_some() || (reach > share && !is_empty);
    let is_let = !asks || approvals::order_is_let(run, order, reach, scene);
    Some(Assent { order, reach, share, size, asks, is_let, approval })
}

/// Devices from which the updates are, were or are to be taken back once the order is carried out, and devices
/// of the run; and whether it would take back nothing. What was taken back before counts, by whatever: many small
/// orders are one large one.
fn count(run: &Run<'_>, order: &PatchRollback, scene: &Scene<'_>) -> (usize, usize, bool) {
    let begun = run.status.rollback.as_ref().and_then(|all| all.order.as_ref());
    let has_begun = begun.is_some_and(|begun| begun.uid == uid(order));
    let (taken, size) = taken_of(run, |line| has_begun && line.ordered);
    // A retry makes nothing of what was taken back undone.
    let taken = taken + run.status.rolled_back_before as usize;
    let reached = if has_begun { 0 } else { reached(run, &order.spec, scene).lines.len() };
    (reached + taken, size, !has_begun && reached == 0)
}

/// Devices of the run from which the updates are, or were, taken back, with those that are meant; and devices of
/// its stages that have opened.
pub(crate) fn taken_of(run: &Run<'_>, is_meant: impl Fn(&Line) -> bool) -> (usize, usize) {
    let (mut size, mut taken) = (0, 0);
    for (stage, status) in run.stages.iter().zip(&run.status.stages) {
        match &stage.frozen {
            Some(frozen) => {
                size += if status.state.has_opened() { frozen.lines.len() } else { 0 };
                let lines = frozen.lines.iter();
                taken += lines.filter(|line| is_taken(line) || is_meant(line)).count();
            }
            // Of a record that is lost only the counters are left. Its devices make the share no larger.
            None => taken += (status.counts.rolled_back + status.counts.rollback_failed) as usize,
        }
    }
    (taken, size)
}

/// Notes how many devices were taken back, which a retry may let begin anew, and says whether that is durable. Their lines
/// and the rollout's status are written one after the other: without the note a process that dies between the two, or
/// a person who edits the rollout then, would make the next order smaller than it is.
pub(crate) fn note_taken(run: &mut Run<'_>, taken: u32) -> bool {
    run.status.rolled_back_anew = taken;
    taken <= run.before.rolled_back_anew
}

/// Counts what was noted and is taken back no more: its lines were written, and the status that says so was not.
/// `taken` devices are taken back still.
pub(crate) fn settle_taken(run: &mut Run<'_>, taken: u32) {
    let begun = run.before.rolled_back_anew.saturating_sub(taken);
    run.status.rolled_back_before += begun;
    run.status.rolled_back_anew -= begun;
}

/// What the run knows of the order, where that has an `approvalAbove`.
pub(crate) fn of<'r, 'a>(run: &'r Run<'a>, order: &PatchRollback) -> Option<&'r Assent<'a>> {
    run.assents.iter().find(|assent| uid(assent.order) == uid(order))
}

/// Whether a second person keeps the order from going on.
pub(crate) fn waits(run: &Run<'_>, order: &PatchRollback) -> bool {
    order.spec.approval_above.is_some() && of(run, order).is_none_or(|assent| !assent.is_let)
}

/// Whether the order that is being carried out waits for a second person.
pub(crate) fn is_awaited(run: &Run<'_>, scene: &Scene<'_>) -> bool {
    super::in_force(run, scene).is_some_and(|order| waits(run, order))
}

/// Whether an order of the run that waits for a second person keeps a retry waiting.
pub(crate) fn stands_in_the_way(run: &Run<'_>) -> bool {
    run.assents.iter().any(|assent| !assent.is_let && !is_rejected(assent.order))
}

/// What is asked about an order of the run that keeps it from going on.
pub(crate) fn wanted<'r>(run: &'r Run<'_>) -> impl Iterator<Item = &'r OrderApproval> {
    let waiting = run.assents.iter().filter(|assent| assent.asks && !assent.is_let);
    waiting.filter_map(|assent| assent.approval.as_ref()).filter(|known| {
        matches!(known.state, GateState::Waiting | GateState::Error) && !known.message.is_empty()
    })
}

/// Asks, counts an answer, latches a rejection, or asks anew where what was asked is no longer what would
/// happen.
pub(crate) fn follow(run: &mut Run<'_>, scene: &Scene<'_>, wake: &mut Wake) {
    let mut assents = std::mem::take(&mut run.assents);
    for assent in assents.iter_mut().filter(|assent| assent.asks) {
        let known = assent.approval.clone();
        if known.as_ref().is_some_and(|known| known.state == GateState::Failed) {
            continue;
        }
        let rejected = known
            .as_ref()
            .and_then(|known| approvals::rejection_of_order(run, assent.order, known, scene));
        assent.approval = match rejected {
            Some(rejected) => Some(rejected),
            None if may_ask(run, assent, scene) => {
                approvals::approval_of_order(run, assent, scene, wake)
            }
            None => known.clone(),
        };
        tell(run, known.as_ref(), assent.approval.as_ref());
    }
    run.assents = assents;
}

/// Latches rejections, whatever else stands still: the object may be gone in the next moment.
pub(crate) fn latch(run: &mut Run<'_>, scene: &Scene<'_>) {
    let mut assents = std::mem::take(&mut run.assents);
    for assent in &mut assents {
        let open = assent.approval.as_ref().filter(|known| known.state != GateState::Failed);
        let no =
            open.and_then(|known| approvals::rejection_of_order(run, assent.order, known, scene));
        assent.approval = no.or_else(|| assent.approval.clone());
    }
    run.assents = assents;
}

/// Whether it is known what the order would do: nothing more is brought to any device, so that the answer is
/// about what will happen.
fn may_ask(run: &Run<'_>, assent: &Assent<'_>, scene: &Scene<'_>) -> bool {
    let order = assent.order;
    let stands = run.before.halted.is_some() && run.status.halted.is_some();
    let is_ours = is_next(order, run)
        || super::in_force(run, scene).is_some_and(|named| uid(named) == uid(order));
    run.stop != Some(Stop::Deleting)
        && may_go_on(run)
        && run.has_finalizer()
        && is_ours
        && (stands || is_completed(run))
        && (!is_next(order, run) || !reached(run, &order.spec, scene).lines.is_empty())
}

/// Tells what has changed, once.
fn tell(run: &mut Run<'_>, before: Option<&OrderApproval>, next: Option<&OrderApproval>) {
    let Some(next) = next else { return };
    let is_new = before.is_none_or(|before| before.state != next.state);
    let is_asked = !next.asked.hash.is_empty()
        && before.is_none_or(|before| before.asked.hash != next.asked.hash);
    let (kind, reason) = match next.state {
        GateState::Passed if is_new => (EventKind::Normal, Reason::Approved),
        GateState::Failed if is_new => (EventKind::Warning, Reason::RollbackRejected),
        GateState::Error if is_new => (EventKind::Warning, Reason::ApprovalPolicyBroken),
        GateState::Waiting if is_asked => (EventKind::Warning, Reason::RollbackAwaitsApproval),
        _ => return,
    };
    run.emit(kind, reason, next.message.clone());
}

/// Since when an asking stands as it does.
pub(crate) fn since(before: Option<&OrderApproval>, state: GateState, now: Timestamp) -> Timestamp {
    let same = before.filter(|before| before.state == state);
    same.map_or(whole_seconds(now), |before| before.since)
}

/// Whether somebody rejected the order.
pub(crate) fn is_rejected(order: &PatchRollback) -> bool {
    let status = order.status.as_ref();
    let known = status.and_then(|status| status.approval.as_ref());
    known.is_some_and(|known| known.state == GateState::Failed)
}
