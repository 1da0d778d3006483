//! Holds: nothing is installed where a person keeps it from, whoever decided the grant and when.

use std::collections::BTreeSet;

use wardring_api::{DeviceMode, IncludeSuperseding, PatchAuthority};

use super::Replay;
use crate::Selector;

impl Replay<'_> {
    /// No device gets an installation while it is held, watched only, or an update of the run is barred on it.
    pub(super) fn held(&mut self, uid: &str, device: &str) {
        let (snapshot, now) = (self.snapshot, self.snapshot.now);
        let table = &snapshot.devices;
        let Some(position) = table.find(device) else { return };
        let row = &table.rows()[position];
        let lasts = |until: Option<jiff::Timestamp>| until.is_none_or(|until| now < until);
        let is_held = [&row.hold, &row.paused].into_iter().flatten().any(|hold| lasts(hold.until));
        let mut groups = table.groups_of(position).iter().map(|&at| &table.groups()[at as usize]);
        let is_watched = groups.any(|group| group.spec.patch_authority == PatchAuthority::Observe);
        if is_held || is_watched || row.quarantined || row.mode != DeviceMode::Manage {
            self.breaks("S14", format!("{device} would be granted although it is held"));
        }
        let status = self.rollouts.get(uid).map(|(_, status)| status);
        let resolved = status.into_iter().flat_map(|status| &status.resolved_updates);
        let brought: BTreeSet<&str> = resolved
            .filter(|update| row.product.as_deref() == Some(&*update.product))
            .map(|update| update.kb.as_str())
            .collect();
        for hold in &snapshot.holds {
            let spec = &hold.spec;
            let selects = |selector| Selector::new(selector).matches(&row.labels);
            let is_meant = spec.selector.as_ref().is_none_or(selects)
                && (spec.devices.is_empty() || spec.devices.iter().any(|name| name == device));
            let mut barred: BTreeSet<&str> = spec.kbs.iter().map(|kb| kb.as_str()).collect();
            // What took the place of what is barred, until nothing is added.
            let mut known = 0;
            while spec.include_superseding == IncludeSuperseding::Hold && known < barred.len() {
                known = barred.len();
                let mine = snapshot.updates.iter().filter(|update| {
                    row.product.as_deref() == Some(&*update.product)
                        && barred.contains(update.kb.as_str())
                });
                let newer: Vec<&str> = mine
                    .filter_map(|update| update.superseded_by.as_ref()?.as_str().into())
                    .collect();
                barred.extend(newer);
            }
            if is_meant && let Some(kb) = barred.intersection(&brought).next() {
                let message =
                    format!("{device} would be granted {kb}, which UpdateHold {} bars", hold.name);
                self.violations.push(super::Violation { rule: "S14", message });
            }
        }
    }
}
