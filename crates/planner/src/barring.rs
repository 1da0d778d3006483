//! The bars that follow from rollbacks: what was taken back does not come again until a person deletes
//! the UpdateHold. What the API server does not take is asked for again, and holds up nothing else.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use wardring_api::{
    IncludeSuperseding, JobAction, KbId, LineState, PatchRollback, UpdateHoldSpec,
    conditions::clip, reasons::Reason,
};

use crate::{
    Action,
    caps::later,
    explain,
    line::{Frozen, Line},
    order,
    plan::Lanes,
    validate::{Run, Scene, Stop},
    wake::Wake,
};

/// Devices that an UpdateHold shows as evidence.
const EVIDENCE: usize = 10;

/// Refused bars that a status names.
const REFUSALS: usize = 3;

/// When a bar that the API server refused is asked for again, without an event: a quota is raised and a
/// webhook mended by somebody who is waiting for it.
const ASK_AGAIN: SignedDuration = SignedDuration::from_secs(30);

/// The bar that keeps the updates from coming back until a person lifts it.
pub(crate) fn hold(run: &Run<'_>, scene: &Scene<'_>) -> Action {
    let halt = run.status.halted.as_ref().map_or("", |halt| halt.message.as_str());
    let reason = format!("Rollout {} was rolled back. {halt}", run.id.name);
    let kbs = barred(run, |line| line.state == LineState::RolledBack, scene);
    create(run, bar_name(run, run.uid()), bar(run, kbs, &reason, IncludeSuperseding::Warn))
}

/// The same for an order: it bars what is on the devices that it reaches.
pub(crate) fn ordered_hold(run: &Run<'_>, order: &PatchRollback, scene: &Scene<'_>) -> Action {
    let name = order.metadata.name.as_deref().unwrap_or_default();
    let why = explain::one_line(&order.spec.reason);
    let reason = format!("PatchRollback {name} takes rollout {} back: {why}", run.id.name);
    let kbs = barred(run, |line| line.ordered, scene);
    let spec = bar(run, kbs, &reason, order.spec.include_superseding);
    create(run, bar_name(run, order::uid(order)), spec)
}

/// The same for each device that took the update back by itself: for that device alone, because the
/// rollout may bear it. Otherwise the next one would bring the update to it again.
pub(crate) fn own_holds(run: &Run<'_>, scene: &Scene<'_>) -> Vec<Action> {
    let mut holds = Vec::new();
    for frozen in run.stages.iter().filter_map(|stage| stage.frozen.as_ref()) {
        for (index, line) in frozen.lines.iter().enumerate() {
            if !is_unbarred(run, frozen, index, scene) {
                continue;
            }
            let device = frozen.record(index).device.clone();
            let told = explain::failed(frozen, index);
            let reason = format!(
                "Device {device} took back by itself what rollout {} brought.",
                run.id.name
            );
            let kbs = barred(run, |other| std::ptr::eq(other, line), scene);
            let name = own_name(run, &device);
            let spec = UpdateHoldSpec {
                devices: vec![device],
                evidence: vec![clip(&told, 256)],
                // Next month's cumulative update contains what crashed it.
                ..bar(run, kbs, &reason, IncludeSuperseding::Hold)
            };
            holds.push(create(run, name, spec));
        }
    }
    holds
}

/// Whether the device of a line took the update back by itself, and nothing bars it there yet. The job
/// with its answer stays until something does: it is the record of that, and nobody else gets the device
/// meanwhile.
pub(crate) fn is_unbarred(
    run: &Run<'_>,
    frozen: &Frozen<'_>,
    index: usize,
    scene: &Scene<'_>,
) -> bool {
    let line = &frozen.lines[index];
    line.state == LineState::RolledBack
        && line.action == JobAction::Install
        && run.stop != Some(Stop::Deleting)
        && scene.own_job(line, run.uid()).is_some()
        && !exists(&own_name(run, &frozen.record(index).device), scene)
}

/// Bars of rollbacks that the API server refused so far; what they follow from went on without them.
pub(crate) fn make_up(run: &Run<'_>, scene: &Scene<'_>, lanes: &mut Lanes, wake: &mut Wake) {
    if scene.snapshot.refused_holds.values().any(|refused| refused.rollout_uid == run.uid()) {
        wake.at(later(scene.now, ASK_AGAIN));
    }
    let is_told = |name: &str| lanes.holds.iter().any(|action| action.hold() == Some(name));
    let is_missing = |name: &str| is_refused(run, name, scene) && !is_told(name);
    let Some(rollback) = &run.status.rollback else { return };
    let made = match &rollback.order {
        None => {
            let is_owed = rollback.completed_at.is_some() && run.status.halted.is_some();
            (is_owed && is_missing(&bar_name(run, run.uid()))).then(|| hold(run, scene))
        }
        Some(named) => {
            let order = scene.orders.iter().find(|order| order::uid(order) == named.uid);
            let order = order.filter(|_| is_missing(&bar_name(run, &named.uid)));
            order.map(|order| ordered_hold(run, order, scene))
        }
    };
    lanes.holds.extend(made);
}

/// What the API server says to the bars of the run that it refuses.
pub(crate) fn refusals(run: &Run<'_>, scene: &Scene<'_>) -> Vec<String> {
    let all = scene.snapshot.refused_holds.iter();
    let of_run =
        all.filter(|(name, refused)| refused.rollout_uid == run.uid() && !exists(name, scene));
    let told = of_run.map(|(name, refused)| {
        format!(
            "{}is refused, so that it bars nothing yet; it is tried again. The API server says: {}",
            subject(name),
            explain::one_line(&refused.words)
        )
    });
    told.take(REFUSALS).collect()
}

/// How a sentence about the bar begins, so that the next leader finds it in the status.
fn subject(name: &str) -> String {
    format!("UpdateHold {name} ")
}

/// Whether the API server refused the bar, as this leader knows or another one has written down.
fn is_refused(run: &Run<'_>, name: &str, scene: &Scene<'_>) -> bool {
    let (reason, subject) = (Reason::UpdateHoldRefused.as_str(), subject(name));
    let mut told = run.before.waiting_for.iter();
    let is_known = scene.snapshot.refused_holds.contains_key(name)
        || told.any(|told| told.reason == reason && told.message.starts_with(&subject));
    is_known && !exists(name, scene)
}

fn exists(name: &str, scene: &Scene<'_>) -> bool {
    scene.snapshot.holds.iter().any(|hold| hold.name == name)
}

/// KBs of the run for the products of these lines' devices.
fn barred(run: &Run<'_>, is_meant: impl Fn(&Line) -> bool, scene: &Scene<'_>) -> Vec<KbId> {
    let lines = run.stages.iter().flat_map(|stage| &stage.frozen).flat_map(|all| &all.lines);
    let products: BTreeSet<_> = lines
        .filter(|line| is_meant(line))
        .filter_map(|line| scene.row(line)?.product.clone())
        .collect();
    let updates = &run.status.resolved_updates;
    let of_products = updates
        .iter()
        .filter(|update| products.iter().any(|product| **product == *update.product))
        .map(|update| update.kb.clone());
    let mut kbs: Vec<_> = of_products.collect();
    if kbs.is_empty() {
        kbs = updates.iter().map(|update| update.kb.clone()).collect();
    }
    kbs.sort();
    kbs.dedup();
    kbs.truncate(50);
    kbs
}

fn create(run: &Run<'_>, name: String, spec: UpdateHoldSpec) -> Action {
    Action::CreateHold { name, rollout_uid: run.uid().to_owned(), spec: Box::new(spec) }
}

fn own_name(run: &Run<'_>, device: &str) -> String {
    format!("{}-{device}", bar_name(run, run.uid()))
}

/// The same name however often the bar is made.
fn bar_name(run: &Run<'_>, author: &str) -> String {
    let uid: String = author.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    format!("{}-{}", run.id.name, uid.to_ascii_lowercase())
}

fn bar(
    run: &Run<'_>,
    kbs: Vec<KbId>,
    reason: &str,
    include_superseding: IncludeSuperseding,
) -> UpdateHoldSpec {
    UpdateHoldSpec {
        kbs,
        selector: None,
        devices: Vec::new(),
        include_superseding,
        reason: clip(reason, 512),
        evidence: evidence(run),
        rollout: Some(run.id.name.clone()),
    }
}

/// What was seen on the first few devices that were rolled back.
pub(crate) fn evidence(run: &Run<'_>) -> Vec<String> {
    let frozen = run.stages.iter().filter_map(|stage| stage.frozen.as_ref());
    let told = frozen.flat_map(|frozen| {
        let lines = frozen.lines.iter().enumerate();
        let taken_back = lines.filter(|(_, line)| line.state == LineState::RolledBack);
        taken_back.map(|(index, _)| clip(&explain::failed(frozen, index), 256))
    });
    told.take(EVIDENCE).collect()
}
