//! Which updates a selection means, per product. Resolved once, at the start of a run, and written
//! down: a catalogue that changes later changes nothing about a run that has begun.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use wardring_api::{
    KbId, PatchRolloutSpec, ResolvedUpdate, Reversible, UpdateKind, UpdateSelect, UpdateSpec,
    reasons::Reason,
};

use crate::{
    DeviceRow, DeviceTable, HoldView, NO_PRODUCT, Selector,
    bars::{self, Bar},
    canary, freeze, packages,
    validate::{Complaint, Run, Scene},
};

/// Most updates that a run may resolve to (the status holds no more).
const MAX_UPDATES: usize = 64;

/// The updates that the selection means now, sorted by product and order of installation. Packages
/// that the rollout brings itself need no Update object.
pub fn resolve(
    spec: &PatchRolloutSpec,
    catalogue: &[&UpdateSpec],
) -> Result<Vec<ResolvedUpdate>, (Reason, String)> {
    if !spec.updates.packages.is_empty() {
        return Ok(packages::resolved(&spec.updates.packages));
    }
    let mut chosen: Vec<&UpdateSpec> = match &spec.updates.select {
        Some(select) => {
            catalogue.iter().copied().filter(|update| selects(select, update)).collect()
        }
        None => by_number(&spec.updates.kbs, catalogue)?,
    };
    if chosen.is_empty() {
        return Err((Reason::NothingSelected, nothing_selected(spec)));
    }
    // An update whose successor is in the run too would only be refused by Windows.
    let all = chosen.clone();
    chosen.retain(|update| {
        update.superseded_by.as_ref().is_none_or(|newer| {
            !all.iter().any(|other| &other.kb == newer && other.product == update.product)
        })
    });
    chosen.sort_by(|a, b| order(a).cmp(&order(b)));
    chosen.dedup_by(|a, b| a.product == b.product && a.kb == b.kb);
    if chosen.len() > MAX_UPDATES {
        return Err((
            Reason::InvalidSpec,
            format!(
                "The selection means {} updates, and a rollout takes {MAX_UPDATES}: narrow it by \
                 product or kind.",
                chosen.len()
            ),
        ));
    }
    Ok(chosen.into_iter().map(resolved).collect())
}

/// The servicing stack goes first: the cumulative update may need it.
fn order(update: &UpdateSpec) -> (&str, u8, &KbId) {
    let rank = match update.kind {
        UpdateKind::ServicingStack => 0,
        UpdateKind::Quality => 1,
        _ => 2,
    };
    (&update.product, rank, &update.kb)
}

fn resolved(update: &UpdateSpec) -> ResolvedUpdate {
    ResolvedUpdate {
        product: update.product.clone(),
        kb: update.kb.clone(),
        kind: update.kind,
        title: Some(update.title.clone()).filter(|title| !title.is_empty()),
        target_build: update.target_build.clone(),
        identities: update.identities.clone(),
        package: None,
    }
}

fn selects(select: &UpdateSelect, update: &UpdateSpec) -> bool {
    let kind = match select.kinds.as_slice() {
        [] => matches!(update.kind, UpdateKind::Quality | UpdateKind::DotNet),
        kinds => kinds.contains(&update.kind),
    };
    let severity = update.msrc_severity.unwrap_or(wardring_api::MsrcSeverity::Unspecified);
    kind && update.release == select.release
        && !select.exclude.contains(&update.kb)
        && (select.products.is_empty() || select.products.contains(&update.product))
        && (select.msrc_severities.is_empty() || select.msrc_severities.contains(&severity))
        && (select.classifications.is_empty()
            || update
                .classification
                .as_ref()
                .is_some_and(|name| select.classifications.contains(name)))
}

/// Updates by KB number. A number that nothing is known about stops the run before it begins: the
/// operator named it, so leaving it out would not be what was asked.
fn by_number<'a>(
    kbs: &[KbId],
    catalogue: &[&'a UpdateSpec],
) -> Result<Vec<&'a UpdateSpec>, (Reason, String)> {
    let unknown: Vec<&str> = kbs
        .iter()
        .filter(|kb| !catalogue.iter().any(|update| update.kb == **kb))
        .map(KbId::as_str)
        .collect();
    if !unknown.is_empty() {
        return Err((
            Reason::NothingSelected,
            format!("There is no Update object for {}.", unknown.join(", ")),
        ));
    }
    Ok(catalogue.iter().copied().filter(|update| kbs.contains(&update.kb)).collect())
}

fn nothing_selected(spec: &PatchRolloutSpec) -> String {
    match &spec.updates.select {
        Some(select) => format!(
            "No Update object matches the selection for release {}; see `kubectl get updates`.",
            select.release
        ),
        None => "spec.updates.kbs names nothing.".to_owned(),
    }
}

/// Hash over everything that decides what happens on a device. Stored once, with its version; a
/// controller that would compute it differently never compares.
pub fn plan_hash(spec: &PatchRolloutSpec, updates: &[ResolvedUpdate]) -> String {
    let content = serde_json::json!({
        "updates": updates,
        "source": spec.updates.source,
        "acceptEula": spec.updates.accept_eula,
        "preflight": spec.preflight,
        "health": spec.health,
        "reboot": spec.reboot,
        "onFailure": spec.on_failure,
        "onHalt": spec.on_halt,
    });
    let hex = hex::encode(Sha256::digest(content.to_string()));
    format!("v1:{}", &hex[..40])
}

/// Resolves a run that has not been resolved yet.
pub(crate) fn resolve_run(run: &mut Run<'_>, scene: &Scene<'_>) {
    let (spec, snapshot) = (&run.rollout.spec, scene.snapshot);
    if run.status.plan_hash.is_none() && run.complaint.is_none() && run.stop.is_none() {
        let catalogue: Vec<&UpdateSpec> = snapshot.updates.iter().map(AsRef::as_ref).collect();
        match resolve(spec, &catalogue) {
            Ok(updates) => {
                run.status.plan_hash = Some(plan_hash(spec, &updates));
                run.status.uncovered_products = uncovered(run, &updates, scene);
                run.status.resolved_updates = updates;
                canary::foresee(run, scene);
                run.gating = true;
            }
            Err((reason, message)) => run.complaint = Some(Complaint::new(reason, message)),
        }
    }
    let catalogue: Vec<&UpdateSpec> = snapshot.updates.iter().map(AsRef::as_ref).collect();
    let updates = &run.status.resolved_updates;
    run.coverage = Coverage::new(updates, &catalogue, &snapshot.holds, scene.table);
    let mut warnings = bars::warnings(updates, &snapshot.holds, &catalogue);
    warnings.truncate(MAX_WARNINGS);
    run.status.warnings = warnings;
}

/// Products among the devices of all stages that no update is for.
fn uncovered(run: &Run<'_>, updates: &[ResolvedUpdate], scene: &Scene<'_>) -> Vec<String> {
    let mut seen = vec![false; scene.table.products().len()];
    for position in 0..run.stages.len() {
        for row in freeze::members(run, position, scene).unwrap_or_default() {
            let product = scene.table.product_of(row);
            if product != NO_PRODUCT {
                seen[product as usize] = true;
            }
        }
    }
    let mut names: Vec<String> = scene
        .table
        .products()
        .iter()
        .zip(seen)
        .filter(|(product, seen)| {
            *seen && !updates.iter().any(|update| *update.product == ***product)
        })
        .map(|(product, _)| product.to_string())
        .collect();
    names.sort();
    names.truncate(20);
    names
}

/// Warnings that a status has room for.
const MAX_WARNINGS: usize = 10;

/// What a run's updates mean for each product that devices report.
#[derive(Clone, Debug, Default)]
pub(crate) struct Coverage {
    /// By product id.
    products: Vec<Covered>,
    /// Whom the holds concern that bar at least one of the run's updates, those apart that name devices.
    holds: Vec<Option<Selector>>,
}

#[derive(Clone, Debug, Default)]
struct Covered {
    /// Whether any update is for the product.
    covered: bool,
    /// Whether one of them is known not to be removable.
    irreversible: bool,
    /// Positions in `Coverage::holds` that bar one of them.
    holds: Vec<usize>,
    /// Devices that a hold names which bars one of them, with the selectors of these holds: looked up, because
    /// there may be as many as devices that helped themselves.
    named: BTreeMap<String, Vec<Option<Selector>>>,
}

/// Devices that these holds name, each with the selector of the hold.
fn named<'a>(holds: impl Iterator<Item = &'a HoldView>) -> BTreeMap<String, Vec<Option<Selector>>> {
    let mut named: BTreeMap<String, Vec<Option<Selector>>> = BTreeMap::new();
    for hold in holds {
        for device in &hold.spec.devices {
            let selector = hold.spec.selector.as_ref().map(Selector::new);
            named.entry(device.clone()).or_default().push(selector);
        }
    }
    named
}

impl Coverage {
    pub fn new(
        updates: &[ResolvedUpdate],
        catalogue: &[&UpdateSpec],
        holds: &[HoldView],
        table: &DeviceTable,
    ) -> Coverage {
        let is_barred = |hold: &HoldView, update: &ResolvedUpdate| {
            bars::bar(hold, update, catalogue) == Some(Bar::Barred)
        };
        let relevant =
            holds.iter().filter(|hold| updates.iter().any(|update| is_barred(hold, update)));
        let (relevant, of_devices): (Vec<&HoldView>, Vec<&HoldView>) =
            relevant.partition(|hold| hold.spec.devices.is_empty());
        let products = table
            .products()
            .iter()
            .map(|product| {
                let here: Vec<&ResolvedUpdate> =
                    updates.iter().filter(|update| *update.product == **product).collect();
                Covered {
                    covered: !here.is_empty(),
                    irreversible: here.iter().any(|update| {
                        // Of these no agent takes one back, whatever somebody wrote of it.
                        let by_kind = matches!(
                            update.kind,
                            UpdateKind::ServicingStack
                                | UpdateKind::FeatureUpdate
                                | UpdateKind::Driver
                                | UpdateKind::Definition
                        );
                        by_kind
                            || catalogue.iter().any(|known| {
                                known.kb == update.kb
                                    && known.product == update.product
                                    && known.reversible == Reversible::No
                            })
                    }),
                    holds: (0..relevant.len())
                        .filter(|&hold| here.iter().any(|update| is_barred(relevant[hold], update)))
                        .collect(),
                    named: named(
                        of_devices
                            .iter()
                            .copied()
                            .filter(|hold| here.iter().any(|update| is_barred(hold, update))),
                    ),
                }
            })
            .collect();
        let holds =
            relevant.iter().map(|hold| hold.spec.selector.as_ref().map(Selector::new)).collect();
        Coverage { products, holds }
    }

    /// Whether any of the run's updates is for the product.
    pub fn covers(&self, product: u16) -> bool {
        self.products.get(product as usize).is_some_and(|here| here.covered)
    }

    /// Whether one of the product's updates is known not to be removable.
    pub fn is_irreversible(&self, product: u16) -> bool {
        self.products.get(product as usize).is_some_and(|here| here.irreversible)
    }

    /// Whether an UpdateHold bars one of the product's updates on the device.
    pub fn is_held(&self, product: u16, row: &DeviceRow) -> bool {
        let is_meant = |selector: &Option<Selector>| {
            selector.as_ref().is_none_or(|selector| selector.matches(&row.labels))
        };
        self.products.get(product as usize).is_some_and(|here| {
            here.named.get(&*row.name).is_some_and(|holds| holds.iter().any(is_meant))
                || here.holds.iter().any(|&hold| is_meant(&self.holds[hold]))
        })
    }
}
