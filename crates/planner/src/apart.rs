//! Devices that a group keeps apart: of those with one value of a label, such as the two nodes of a
//! cluster, only so many are unavailable at once, whichever rollouts want them.

use std::collections::BTreeMap;

use wardring_api::FullValue;

use crate::{DeviceTable, GroupView};

/// Values that a group's status has room for.
const MOST_TOLD: usize = 32;

/// How many devices with each value are unavailable, by position of the group.
#[derive(Debug, Default)]
pub(crate) struct Apart {
    groups: Vec<Vec<Crowds>>,
    /// By list of groups: whether one of them keeps devices apart. Nearly none does, and then no row
    /// is visited.
    lists: Vec<bool>,
}

/// The values of one label.
#[derive(Debug)]
struct Crowds {
    key: String,
    max: usize,
    unavailable: BTreeMap<String, usize>,
}

impl Apart {
    /// Nobody is unavailable yet.
    pub fn new(table: &DeviceTable) -> Apart {
        let crowds = |group: &GroupView| {
            let rules = group.spec.anti_affinity.iter();
            let crowds = rules.map(|rule| Crowds {
                key: rule.key.clone(),
                max: rule.max.unwrap_or(1) as usize,
                unavailable: BTreeMap::new(),
            });
            crowds.collect()
        };
        let groups: Vec<Vec<Crowds>> = table.groups().iter().map(crowds).collect();
        let keeps = |group: &u16| !groups[*group as usize].is_empty();
        let lists = table.memberships().iter().map(|list| list.iter().any(keeps)).collect();
        Apart { groups, lists }
    }

    /// Counts the device at `row` as unavailable.
    pub fn add(&mut self, row: usize, table: &DeviceTable) {
        if !self.lists[table.membership_of(row)] {
            return;
        }
        let labels = &table.rows()[row].labels;
        for &group in table.groups_of(row) {
            for crowds in &mut self.groups[group as usize] {
                if let Some(value) = labels.get(&crowds.key) {
                    *crowds.unavailable.entry(value.clone()).or_default() += 1;
                }
            }
        }
    }

    /// Whether the device at `row` may become unavailable, too.
    pub fn has_room(&self, row: usize, table: &DeviceTable) -> bool {
        if !self.lists[table.membership_of(row)] {
            return true;
        }
        let labels = &table.rows()[row].labels;
        table.groups_of(row).iter().flat_map(|&group| &self.groups[group as usize]).all(|crowds| {
            let here = labels.get(&crowds.key).and_then(|value| crowds.unavailable.get(value));
            here.is_none_or(|unavailable| *unavailable < crowds.max)
        })
    }

    /// What a group's status says: values that are full, those that are over their limit first; and
    /// whether there are more of these than it can say.
    pub fn told(&self, group: usize) -> (Vec<FullValue>, bool) {
        let whole = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let full = self.groups[group].iter().flat_map(|crowds| {
            let full = crowds.unavailable.iter().filter(|(_, all)| **all >= crowds.max);
            full.map(|(value, unavailable)| FullValue {
                key: crowds.key.clone(),
                value: value.clone(),
                unavailable: whole(*unavailable),
                max: whole(crowds.max),
            })
        });
        let mut full: Vec<FullValue> = full.collect();
        full.sort_by_key(|all| all.unavailable <= all.max);
        let more = full.get(MOST_TOLD).is_some_and(|next| next.unavailable > next.max);
        full.truncate(MOST_TOLD);
        (full, more)
    }
}
