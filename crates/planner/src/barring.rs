//! The bars that follow from rollbacks: what was taken back does not come again until a person deletes
//! the UpdateHold.

use std::collections::BTreeSet;

use wardring_api::{
    IncludeSuperseding, JobAction, KbId, LineState, PatchRollback, UpdateHoldSpec, conditions::clip,
};

use crate::{
    Action, explain,
    line::Line,
    order,
    validate::{Run, Scene},
};

/// Devices that an UpdateHold shows as evidence.
const EVIDENCE: usize = 10;

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

/// The same for each device that took the update back by itself, as this pass has learnt: for that
/// device alone, because the rollout may bear it. Otherwise the next one would bring the update to it
/// again.
pub(crate) fn own_holds(run: &Run<'_>, scene: &Scene<'_>) -> Vec<Action> {
    let mut holds = Vec::new();
    for frozen in run.stages.iter().filter_map(|stage| stage.frozen.as_ref()) {
        for &index in &frozen.outcomes {
            let line = &frozen.lines[index];
            if line.state != LineState::RolledBack || line.action != JobAction::Install {
                continue;
            }
            let device = frozen.record(index).device.clone();
            let told = explain::failed(frozen, index);
            let reason = format!(
                "Device {device} took back by itself what rollout {} brought.",
                run.id.name
            );
            let kbs = barred(run, |other| std::ptr::eq(other, line), scene);
            let name = format!("{}-{device}", bar_name(run, run.uid()));
            let spec = UpdateHoldSpec {
                devices: vec![device],
                evidence: vec![clip(&told, 256)],
                ..bar(run, kbs, &reason, IncludeSuperseding::Warn)
            };
            holds.push(create(run, name, spec));
        }
    }
    holds
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
