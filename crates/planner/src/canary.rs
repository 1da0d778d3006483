//! Canary gaps: products, models and roles of a stage that no earlier stage proved. A warning, unless
//! the stage asks for proof (`requireProven`).
//!
//! Only what this very run installed and proved counts. What a device does not report is no kind.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use wardring_api::{CanaryGap, CanaryKind, DeviceRole, LineState, StageState, StageStatus};

use crate::{
    DeviceRow, freeze,
    validate::{Run, Scene},
};

/// Gaps that a status has room for.
const MOST_TOLD: usize = 20;

/// Kinds of devices.
#[derive(Debug, Default)]
pub(crate) struct Kinds<'a> {
    products: BTreeSet<&'a str>,
    models: BTreeSet<&'a str>,
    roles: BTreeSet<DeviceRole>,
    last: Option<&'a DeviceRow>,
}

impl<'a> Kinds<'a> {
    /// Takes in the kinds of one device.
    pub fn add(&mut self, row: &'a DeviceRow) {
        // Neighbours are mostly alike, and then share their texts.
        if self.last.is_some_and(|last| is_alike(last, row)) {
            return;
        }
        self.last = Some(row);
        self.products.extend(row.product.as_deref());
        self.models.extend(row.model.as_deref());
        self.roles.extend(row.roles.iter());
    }

    /// Whether all that the device is of is known.
    pub fn cover(&self, row: &DeviceRow) -> bool {
        row.product.as_deref().is_none_or(|product| self.products.contains(product))
            && row.model.as_deref().is_none_or(|model| self.models.contains(model))
            && row.roles.iter().all(|role| self.roles.contains(role))
    }

    /// What of the devices is new, the most frequent first.
    pub fn gaps(&self, rows: impl Iterator<Item = &'a DeviceRow>) -> Vec<CanaryGap> {
        let mut counts: BTreeMap<(CanaryKind, String), u32> = BTreeMap::new();
        for row in rows.filter(|row| !self.cover(row)) {
            for (what, value) in self.new_in(row) {
                *counts.entry((what, value)).or_default() += 1;
            }
        }
        let gap = |((what, value), devices)| CanaryGap { what, value, devices };
        let mut gaps: Vec<CanaryGap> = counts.into_iter().map(gap).collect();
        gaps.sort_by_key(|gap| (gap.what, std::cmp::Reverse(gap.devices)));
        gaps.truncate(MOST_TOLD);
        gaps
    }

    fn new_in(&self, row: &DeviceRow) -> Vec<(CanaryKind, String)> {
        let mut new = Vec::new();
        if let Some(product) = row.product.as_deref().filter(|all| !self.products.contains(all)) {
            new.push((CanaryKind::Product, product.to_owned()));
        }
        if let Some(model) = row.model.as_deref().filter(|all| !self.models.contains(all)) {
            new.push((CanaryKind::Model, model.to_owned()));
        }
        let roles = row.roles.iter().filter(|role| !self.roles.contains(role));
        new.extend(roles.map(|role| (CanaryKind::Role, format!("{role:?}"))));
        new
    }
}

fn is_alike(one: &DeviceRow, other: &DeviceRow) -> bool {
    let same = |one: &Option<Arc<str>>, other: &Option<Arc<str>>| match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    };
    same(&one.product, &other.product)
        && same(&one.model, &other.model)
        && Arc::ptr_eq(&one.roles, &other.roles)
}

/// What the stages before `position` proved.
pub(crate) fn proven<'a>(run: &Run<'_>, position: usize, scene: &Scene<'a>) -> Kinds<'a> {
    let mut kinds = Kinds::default();
    let frozen = run.stages[..position].iter().flat_map(|stage| &stage.frozen);
    for line in frozen.flat_map(|frozen| &frozen.lines) {
        if line.state == LineState::Succeeded
            && let Some(row) = scene.row(line)
        {
            kinds.add(row);
        }
    }
    kinds
}

/// What of a stage that opens with `members` no earlier stage proved.
pub(crate) fn unproven(
    run: &Run<'_>,
    position: usize,
    members: &[usize],
    scene: &Scene<'_>,
) -> Vec<CanaryGap> {
    if position == 0 {
        return Vec::new();
    }
    let rows = scene.table.rows();
    proven(run, position, scene).gaps(members.iter().map(|&member| &*rows[member]))
}

/// What of the stages to come no earlier stage even has: told before the first device is touched.
pub(crate) fn foresee(run: &mut Run<'_>, scene: &Scene<'_>) {
    let rows = scene.table.rows();
    let mut kinds = Kinds::default();
    for position in 0..run.stages.len() {
        let members = freeze::members(run, position, scene).unwrap_or_default();
        let status = &mut run.status.stages[position];
        if position > 0 && status.state == StageState::Pending {
            status.canary_gaps = kinds.gaps(members.iter().map(|&member| &*rows[member]));
        }
        members.iter().for_each(|&member| kinds.add(&rows[member]));
    }
}

/// Whether the stage's status names a kind of the device as a gap.
pub(crate) fn is_named(status: &StageStatus, row: &DeviceRow) -> bool {
    status.canary_gaps.iter().any(|gap| match gap.what {
        CanaryKind::Product => row.product.as_deref() == Some(&*gap.value),
        CanaryKind::Model => row.model.as_deref() == Some(&*gap.value),
        CanaryKind::Role => row.roles.iter().any(|role| format!("{role:?}") == gap.value),
    })
}

/// The gaps of a stage in one sentence.
pub fn canary_gaps(stage: &StageStatus) -> Option<String> {
    let gaps: Vec<String> = stage.canary_gaps.iter().map(ToString::to_string).collect();
    let verb = if stage.state == StageState::Pending { "has" } else { "proved" };
    (!gaps.is_empty())
        .then(|| format!("Stage {}: no earlier stage {verb} {}.", stage.name, gaps.join(", ")))
}
