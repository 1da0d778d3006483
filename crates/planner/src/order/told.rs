//! What a PatchRollback's status says, and what it would reach.

use std::collections::{BTreeMap, BTreeSet};

use wardring_api::{
    GateState, JobAction, LineState, MsrcSeverity, PatchRollback, PatchRollbackSpec,
    PatchRollbackStatus, RollbackCounts, RollbackPhase, RollbackStatus, UpdateKind, UpdateSpec,
    conditions::{self, Truth, clip, whole_seconds},
    reasons::Reason,
};

use super::{assent, is_deleting, is_for, is_over, reached, uid};
use crate::{
    Action, Decision, Snapshot, approvals,
    explain::{self, devices, lower_first},
    grants::Decisions,
    halt::is_completed,
    line::{Line, SAMPLE},
    plan::Lanes,
    validate::{Run, Scene, Stop, validate},
};

/// What an order would reach, were it made now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RollbackPreview {
    /// Stage and device, in order.
    pub devices: Vec<(String, String)>,
    /// Devices of the rollout from which its updates were taken back already, or are.
    pub taken: usize,
    /// Devices from which they were taken back and that a retry let begin anew; `approvalAbove` counts them, too.
    pub before: usize,
    /// Devices of the stages of the rollout that have opened.
    pub size: usize,
    /// Devices that a group of theirs keeps from it.
    pub forbidden: u32,
    /// Devices that it names and cannot reach: silent, enrolled anew, broken by an earlier rollback, or
    /// without a record that is whole.
    pub beyond: u32,
    /// Security fixes that devices are left without.
    pub missing_fixes: Vec<String>,
}

/// What `spec` would reach of the snapshot's rollout with that name; none if there is no such rollout.
pub fn preview_rollback(snapshot: &Snapshot, spec: &PatchRollbackSpec) -> Option<RollbackPreview> {
    let (scene, runs) = validate(snapshot);
    let run = runs.iter().find(|run| run.id.name == spec.rollout)?;
    let reached = reached(run, spec, &scene);
    let name = |&(position, index): &(usize, usize)| {
        let stage = &run.stages[position];
        let frozen = stage.frozen.as_ref()?;
        Some((stage.spec.name.clone(), frozen.record(index).device.clone()))
    };
    let (taken, size) = assent::taken_of(run, |_| false);
    let lines = || reached.lines.iter().filter_map(|(stage, index)| line(run, *stage, *index));
    Some(RollbackPreview {
        missing_fixes: missing_fixes(run, lines(), &scene),
        devices: reached.lines.iter().filter_map(name).collect(),
        forbidden: reached.forbidden,
        beyond: reached.beyond,
        taken,
        before: run.status.rolled_back_before as usize,
        size,
    })
}

fn line<'r>(run: &'r Run<'_>, position: usize, index: usize) -> Option<&'r Line> {
    run.stages[position].frozen.as_ref()?.lines.get(index)
}

/// Statuses that differ from what was last written. What is over is not looked at again: a later retry
/// tells another story.
pub(crate) fn write_statuses(
    runs: &[Run<'_>],
    decisions: &[Decisions],
    scene: &Scene<'_>,
    lanes: &mut Lanes,
) {
    for order in scene.orders.iter().copied().filter(|all| !is_over(all) && !is_deleting(all)) {
        let position = runs.iter().position(|run| is_for(order, run));
        let status = match position {
            Some(position) => status(order, &runs[position], &decisions[position], scene),
            None => orphan(order, scene),
        };
        if Some(&status) != order.status.as_ref() {
            // Nothing relies on a word that is not read anew before.
            let run = position.map(|position| &runs[position]);
            let used =
                run.and_then(|run| approvals::use_of_order(run, assent::of(run, order)?, false));
            lanes.groups.extend(used.map(|used| Action::ConfirmApproval(Box::new(used))));
            let rollback = order.metadata.name.clone().unwrap_or_default();
            let (uid, status) = (uid(order).to_owned(), Box::new(status));
            let rollout_uid = run.map(|run| run.uid().to_owned());
            let write = Action::WriteRollbackStatus { rollback, uid, rollout_uid, status };
            lanes.groups.push(write);
        }
    }
}

/// Rejections that were just given while nothing moves: their objects may be gone when it does.
pub(crate) fn write_rejections(runs: &[Run<'_>], scene: &Scene<'_>, lanes: &mut Lanes) {
    let namespace_goes = scene.snapshot.guards.namespace_terminating;
    for (run, assent) in runs.iter().flat_map(|run| run.assents.iter().map(move |one| (run, one))) {
        let failed = assent.approval.as_ref().filter(|known| known.state == GateState::Failed);
        let was = assent.order.status.as_ref().and_then(|status| status.approval.as_ref());
        if namespace_goes || failed.is_none() || failed == was {
            continue;
        }
        let mut status = assent.order.status.clone().unwrap_or_default();
        status.approval = assent.approval.clone();
        lanes.groups.push(Action::WriteRollbackStatus {
            rollback: assent.order.metadata.name.clone().unwrap_or_default(),
            uid: uid(assent.order).to_owned(),
            rollout_uid: Some(run.uid().to_owned()),
            status: Box::new(status),
        });
    }
}

/// The order's status as it was, for the newest generation.
fn known(order: &PatchRollback) -> PatchRollbackStatus {
    let mut status = order.status.clone().unwrap_or_default();
    status.observed_generation = order.metadata.generation;
    status
}

/// No rollout is meant: it is not there yet, or was deleted meanwhile.
fn orphan(order: &PatchRollback, scene: &Scene<'_>) -> PatchRollbackStatus {
    let mut status = known(order);
    let rollout = &order.spec.rollout;
    if status.started_at.is_some() {
        let message = format!("PatchRollout {rollout} is gone; what had not begun was left.");
        status.counts.left += status.counts.pending + status.counts.in_progress;
        (status.counts.pending, status.counts.in_progress) = (0, 0);
        end(&mut status, order, Reason::RolloutNotFound, message, scene);
        return status;
    }
    let message = format!(
        "There is no PatchRollout {rollout} that is older than this order; for one that was made later, \
         make another PatchRollback."
    );
    stand(&mut status, order, Reason::RolloutNotFound, message, scene);
    status
}

fn status(
    order: &PatchRollback,
    run: &Run<'_>,
    decisions: &Decisions,
    scene: &Scene<'_>,
) -> PatchRollbackStatus {
    let mut status = known(order);
    if let Some(assent) = assent::of(run, order) {
        status.approval = assent.approval.clone();
    }
    let rollback = run.status.rollback.as_ref();
    let named =
        |all: &&RollbackStatus| all.order.as_ref().is_some_and(|named| named.uid == uid(order));
    let Some(rollback) = rollback.filter(named) else {
        if status.started_at.is_some() {
            let message = "The rollout has moved on since; see its record.".to_owned();
            end(&mut status, order, Reason::RolloutStopped, message, scene);
            return status;
        }
        waiting(&mut status, order, run, scene);
        return status;
    };
    let is_first = status.started_at.is_none();
    status.rollout_uid = Some(run.uid().to_owned());
    status.started_at = status.started_at.or(Some(rollback.started_at));
    let is_ended = rollback.completed_at.is_some();
    let rejected = rejected(&status);
    let (mut forbidden, mut beyond) = (status.counts.forbidden, status.counts.beyond);
    if is_first {
        let lines = marked(run).map(|(_, _, line)| line);
        status.missing_fixes = missing_fixes(run, lines, scene);
        let reached = reached(run, &order.spec, scene);
        (forbidden, beyond) = (reached.forbidden, reached.beyond);
    }
    let (counts, holds) = count(run, decisions, is_ended);
    status.counts = RollbackCounts { forbidden, beyond, ..counts };
    status.progress = Some(format!("{}/{}", counts.rolled_back, counts.total));
    status.failed_sample = failed_sample(run);
    if is_ended {
        let whole = is_whole(&status.counts);
        let reason = if whole { Reason::RollbackSucceeded } else { Reason::RollbackFailed };
        let (reason, message) = match rejected {
            Some(rejected) => {
                (Reason::RollbackRejected, format!("{rejected} {}", at_work(&status.counts)))
            }
            None => (reason, ended(&status.counts)),
        };
        end(&mut status, order, reason, message, scene);
        return status;
    }
    let mut message = at_work(&status.counts);
    if assent::waits(run, order) {
        if let Some(known) = &status.approval {
            message = format!("{} {message}", known.message);
        }
        status.phase = Some(RollbackPhase::RollingBack);
        say(&mut status, order, Reason::RollbackAwaitsApproval, message, scene);
        return status;
    }
    if run.stop == Some(Stop::Suspended) {
        message.push_str(
            " The rollout is suspended; when it is resumed, this goes on and nothing is installed.",
        );
    }
    if let Some((reason, devices)) =
        holds.into_iter().max_by_key(|(reason, count)| (*count, std::cmp::Reverse(*reason)))
    {
        let verb = if devices == 1 { "waits" } else { "wait" };
        let why = lower_first(reason.meaning());
        message.push_str(&format!(" {} {verb}: {why}", explain::devices(devices as usize)));
    }
    status.phase = Some(RollbackPhase::RollingBack);
    say(&mut status, order, Reason::RollingBack, message, scene);
    status
}

/// Why an order has not begun, or that there is nothing for it to do.
fn waiting(
    status: &mut PatchRollbackStatus,
    order: &PatchRollback,
    run: &Run<'_>,
    scene: &Scene<'_>,
) {
    let reached = reached(run, &order.spec, scene);
    (status.counts.forbidden, status.counts.beyond) = (reached.forbidden, reached.beyond);
    if let Some(rejected) = rejected(status) {
        status.rollout_uid = Some(run.uid().to_owned());
        status.counts.left = reached.lines.len() as u32;
        status.counts.total = status.counts.left;
        end(status, order, Reason::RollbackRejected, rejected, scene);
        return;
    }
    let waits = |reason: Reason, message: &str| (reason, message.to_owned());
    let asked = status.approval.as_ref().filter(|_| assent::waits(run, order));
    let asked = asked.map(|known| known.message.clone()).filter(|message| !message.is_empty());
    let is_idle = run.complaint.is_none() && !run.gating && run.stop != Some(Stop::Deleting);
    let is_halted = run.before.halted.is_some() || is_completed(run);
    let is_quiet = !super::is_open(run, scene) && !super::is_taking_back(run);
    if is_idle && is_halted && is_quiet && reached.lines.is_empty() {
        status.rollout_uid = Some(run.uid().to_owned());
        let mut message = Reason::NothingToRollBack.meaning().to_owned();
        if !is_whole(&status.counts) {
            message = format!("Nothing is taken back.{}", kept_from(&status.counts));
        }
        end(status, order, Reason::NothingToRollBack, message, scene);
        return;
    }
    let is_barred = reached.lines.is_empty() || !super::may_go_on(run);
    let (reason, message) = if let Some(complaint) = run.complaint.as_ref().filter(|_| is_barred) {
        (complaint.reason, complaint.message.clone())
    } else if run.stop == Some(Stop::Deleting) {
        waits(Reason::Deleting, Reason::Deleting.meaning())
    } else if let Some(asked) = asked {
        (Reason::RollbackAwaitsApproval, asked)
    } else if super::is_open(run, scene) {
        (Reason::Busy, busy(run, scene))
    } else if super::waits_for_failures(run) {
        waits(
            Reason::RollingBack,
            "What the rollout rolls back by itself comes to its end first; `abort` ends it at once.",
        )
    } else {
        waits(Reason::WriteInFlight, "It begins once the rollout is halted.")
    };
    stand(status, order, reason, message, scene);
}

/// Which order keeps this one waiting, and what ends that.
fn busy(run: &Run<'_>, scene: &Scene<'_>) -> String {
    let other = super::in_force(run, scene).filter(|other| assent::waits(run, other));
    match other.and_then(|other| other.metadata.name.as_deref()) {
        Some(name) => format!(
            "PatchRollback {name} of the same rollout comes to its end first, and waits for a second person's \
             approval; `kubectl delete patchrollback {name}` ends it."
        ),
        None => "Another PatchRollback of the same rollout comes to its end first.".to_owned(),
    }
}

/// What a second person's no is in words, if there was one.
fn rejected(status: &PatchRollbackStatus) -> Option<String> {
    let known = status.approval.as_ref()?;
    (known.state == GateState::Failed).then(|| known.message.clone())
}

/// Every line that the run's last order reaches.
fn marked<'r>(run: &'r Run<'_>) -> impl Iterator<Item = (usize, usize, &'r Line)> {
    let stages = run.stages.iter().enumerate();
    let lines = stages.flat_map(|(position, stage)| {
        let lines = stage.frozen.iter().flat_map(|frozen| frozen.lines.iter().enumerate());
        lines.map(move |(index, line)| (position, index, line))
    });
    lines.filter(|(_, _, line)| line.ordered)
}

fn count(
    run: &Run<'_>,
    decisions: &Decisions,
    is_ended: bool,
) -> (RollbackCounts, BTreeMap<Reason, u32>) {
    let (mut counts, mut holds) = (RollbackCounts::default(), BTreeMap::new());
    for (position, index, line) in marked(run) {
        counts.total += 1;
        match line.state {
            LineState::RolledBack => counts.rolled_back += 1,
            LineState::Granted if line.action == JobAction::Rollback => counts.in_progress += 1,
            LineState::NotReversible | LineState::RollbackFailed => counts.failed += 1,
            LineState::Unreachable => counts.unreachable += 1,
            LineState::Granted | LineState::Succeeded if !is_ended => counts.pending += 1,
            LineState::Failed | LineState::RevertedByWindows if !is_ended && line.tries > 0 => {
                counts.pending += 1;
            }
            _ => counts.left += 1,
        }
        let decision = decisions.get(position).and_then(|here| here.get(index));
        if let Some(Decision::Hold(reason)) = decision
            && !matches!(reason, Reason::SlotsTaken | Reason::WriteInFlight | Reason::RollingBack)
        {
            *holds.entry(*reason).or_default() += 1;
        }
    }
    (counts, holds)
}

fn failed_sample(run: &Run<'_>) -> Vec<String> {
    let failed = marked(run).filter(|(_, _, line)| {
        matches!(
            line.state,
            LineState::NotReversible | LineState::RollbackFailed | LineState::Unreachable
        )
    });
    let told = failed.filter_map(|(position, index, _)| {
        let frozen = run.stages[position].frozen.as_ref()?;
        Some(clip(&explain::failed(frozen, index), 256))
    });
    told.take(SAMPLE).collect()
}

/// KBs with security fixes that devices of these lines lose, each with the number of devices.
fn missing_fixes<'r>(
    run: &Run<'_>,
    lines: impl Iterator<Item = &'r Line>,
    scene: &Scene<'_>,
) -> Vec<String> {
    let mut products: BTreeMap<&str, usize> = BTreeMap::new();
    for product in lines.filter_map(|line| scene.row(line)?.product.as_deref()) {
        *products.entry(product).or_default() += 1;
    }
    let mut fixes = BTreeSet::new();
    for update in &run.status.resolved_updates {
        let Some(count) = products.get(update.product.as_str()) else { continue };
        let mut catalogue = scene.snapshot.updates.iter();
        let known =
            catalogue.find(|known| known.kb == update.kb && known.product == update.product);
        if let Some(kind) = fix(update.kind, known.map(AsRef::as_ref)) {
            let text =
                format!("{} for {} ({kind}): {}", update.kb, update.product, devices(*count));
            fixes.insert(clip(&text, 256));
        }
    }
    fixes.into_iter().take(SAMPLE).collect()
}

/// What of security an update brings, as far as is known. A cumulative update without a word about it is
/// taken for one that does.
fn fix(kind: UpdateKind, known: Option<&UpdateSpec>) -> Option<String> {
    let severity = known.and_then(|known| known.msrc_severity);
    let severity = severity.filter(|severity| *severity != MsrcSeverity::Unspecified);
    let class = known.and_then(|known| known.classification.as_deref());
    match (class, severity) {
        (Some(class), Some(severity)) => Some(format!("{class}, {severity:?}")),
        (None, Some(severity)) => Some(format!("{severity:?}")),
        (Some(class), None) => class.contains("Security").then(|| class.to_owned()),
        (None, None) => (kind == UpdateKind::Quality)
            .then(|| "cumulative; the catalogue does not say what it fixes".to_owned()),
    }
}

fn at_work(counts: &RollbackCounts) -> String {
    let mut text =
        format!("{} of {} rolled back", counts.rolled_back, devices(counts.total as usize));
    for (count, word) in [
        (counts.in_progress, "at work"),
        (counts.pending, "not begun"),
        (counts.failed, "failed"),
        (counts.unreachable, "unreachable"),
        (counts.left, "left as they are"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {word}"));
        }
    }
    text.push('.');
    text + &kept_from(counts)
}

/// Whether nothing that the order names still has what was to be taken back.
fn is_whole(counts: &RollbackCounts) -> bool {
    counts.rolled_back == counts.total && counts.forbidden == 0 && counts.beyond == 0
}

/// Whom it names and does not reach.
fn kept_from(counts: &RollbackCounts) -> String {
    let mut text = String::new();
    if counts.forbidden > 0 {
        text.push_str(&format!(" {}", forbidden(counts.forbidden)));
    }
    if counts.beyond > 0 {
        let number = devices(counts.beyond as usize);
        text.push_str(&format!(
            " Out of reach: {number}, silent, enrolled anew, broken by an earlier rollback or without a whole record."
        ));
    }
    text
}

fn ended(counts: &RollbackCounts) -> String {
    format!("It has ended: {}", at_work(counts))
}

fn forbidden(count: u32) -> String {
    let (verb, whose) = if count == 1 { ("is", "its") } else { ("are", "their") };
    let devices = devices(count as usize);
    format!("{devices} {verb} not reached: a DeviceGroup of {whose} own forbids rollbacks.")
}

/// It has not begun.
fn stand(
    status: &mut PatchRollbackStatus,
    order: &PatchRollback,
    reason: Reason,
    message: String,
    scene: &Scene<'_>,
) {
    status.phase = Some(RollbackPhase::Waiting);
    say(status, order, reason, message, scene);
}

/// It has ended.
fn end(
    status: &mut PatchRollbackStatus,
    order: &PatchRollback,
    reason: Reason,
    message: String,
    scene: &Scene<'_>,
) {
    status.completed_at = Some(whole_seconds(scene.now));
    status.phase = Some(if is_whole(&status.counts) {
        RollbackPhase::Completed
    } else {
        RollbackPhase::Incomplete
    });
    say(status, order, reason, message, scene);
}

fn say(
    status: &mut PatchRollbackStatus,
    order: &PatchRollback,
    reason: Reason,
    message: String,
    scene: &Scene<'_>,
) {
    let generation = order.metadata.generation;
    let message = clip(&message, conditions::MAX_MESSAGE);
    let phase = status.phase;
    let list = &mut status.conditions;
    let mut set = |kind: &str, truth: Truth| {
        conditions::set(list, kind, truth, reason, &message, generation, scene.now);
    };
    set(conditions::READY, (reason != Reason::RolloutNotFound).into());
    set(conditions::COMPLETED, status.completed_at.is_some().into());
    if status.approval.is_some() {
        set(conditions::AWAITING_APPROVAL, (reason == Reason::RollbackAwaitsApproval).into());
    }
    let needs_a_person = phase == Some(RollbackPhase::Incomplete)
        || reason == Reason::RollbackAwaitsApproval
        || (phase == Some(RollbackPhase::Waiting)
            && !matches!(reason, Reason::Busy | Reason::WriteInFlight | Reason::RollingBack));
    if needs_a_person {
        set(conditions::STALLED, Truth::True);
    } else {
        conditions::clear(list, conditions::STALLED);
    }
    status.message = Some(message);
}
