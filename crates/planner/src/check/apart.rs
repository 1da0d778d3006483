//! Devices that groups keep apart, counted value by value from what stands in the API server.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use wardring_api::{Batch, LineState};

use super::Replay;
use crate::DeviceRow;

/// Unavailable devices by position of the group, key and value of the label.
pub(super) type Crowds = BTreeMap<(usize, String, String), BTreeSet<String>>;

impl Replay<'_> {
    /// No batch makes more devices with one value unavailable than their group allows.
    pub(super) fn apart(&mut self, batch: &Batch) {
        let groups = self.snapshot.devices.groups();
        if groups.iter().all(|group| group.spec.anti_affinity.is_empty()) {
            return;
        }
        let mut crowds = match self.crowds.take() {
            Some(crowds) => crowds,
            None => self.crowds(),
        };
        // Who only downloads stays available.
        for text in batch.grants.iter().filter(|text| !text.ends_with("Download")) {
            let device = text.split(' ').next().unwrap_or_default();
            let Some(row) = self.snapshot.devices.get(device) else { continue };
            // Who fell silent was unavailable before, and stays so.
            let was_silent = self.slices.get(batch.slice.as_str()).is_some_and(|slice| {
                slice
                    .lines
                    .iter()
                    .any(|line| line.device == device && line.state == LineState::Unreachable)
            });
            for ((group, key, value), max) in self.values(row) {
                let crowd = crowds.entry((group, key.clone(), value.clone())).or_default();
                let is_new = crowd.insert(device.to_owned());
                if is_new && !was_silent && crowd.len() > max {
                    let message = format!(
                        "{device} would be granted, and with it {} devices with {key}={value} are \
                         unavailable, of which group {} allows {max}",
                        crowd.len(),
                        groups[group].name
                    );
                    self.breaks("S2", message);
                }
            }
        }
        self.crowds = Some(crowds);
    }

    /// What the device's groups keep it apart by, with their limits.
    fn values(&self, row: &DeviceRow) -> Vec<((usize, String, String), usize)> {
        let table = &self.snapshot.devices;
        let Some(position) = table.find(&row.name) else { return Vec::new() };
        let groups = table.groups_of(position).iter().map(|&group| usize::from(group));
        let rules = groups.flat_map(|group| {
            let rules = table.groups()[group].spec.anti_affinity.iter();
            rules.map(move |rule| (group, rule))
        });
        rules
            .filter_map(|(group, rule)| {
                let value = row.labels.get(&rule.key)?.clone();
                Some(((group, rule.key.clone(), value), rule.max.unwrap_or(1) as usize))
            })
            .collect()
    }

    /// Offline, or granted in a stage that its rollout names.
    fn crowds(&self) -> Crowds {
        let mut unavailable: BTreeSet<&str> = BTreeSet::new();
        let rows = self.snapshot.devices.rows().iter();
        let away = |row: &&Arc<DeviceRow>| row.online != Some(true) && row.enrolment_id.is_some();
        unavailable.extend(rows.filter(away).map(|row| &*row.name));
        for view in self.slices.values() {
            let status = self.rollouts.get(view.rollout_uid.as_str()).map(|(_, status)| status);
            let is_named = status.is_some_and(|status| {
                status.stages.iter().any(|stage| {
                    stage.name == view.stage && stage.freeze_id.as_ref() == Some(&view.freeze_id)
                })
            });
            for (index, line) in view.lines.iter().enumerate().filter(|_| is_named) {
                let changed = self.changed.get(&(view.name.as_str(), index));
                if changed.unwrap_or(line).state == LineState::Granted {
                    unavailable.insert(&line.device);
                }
            }
        }
        let mut crowds = Crowds::new();
        for device in unavailable {
            let Some(row) = self.snapshot.devices.get(device) else { continue };
            for (value, _) in self.values(row) {
                crowds.entry(value).or_default().insert(device.to_owned());
            }
        }
        crowds
    }
}
