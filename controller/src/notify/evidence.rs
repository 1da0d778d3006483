//! What is known, at this moment, of something that a sink was told and that holds no longer.

use std::sync::Arc;

use wardring_api::{PatchRollout, SliceLine};
use wardring_planner::{DeviceRow, Ended, Evidence, JobView, SliceView, Told, is_in_trouble};

use crate::cache::{Cache, Namespace};

#[derive(Default)]
struct Known {
    rollout: Option<Arc<PatchRollout>>,
    slices: Vec<Arc<SliceView>>,
    job: Option<Arc<JobView>>,
    row: Option<DeviceRow>,
    still: usize,
}

/// How `entry` ended, and why in words.
pub fn ended(cache: &Cache, namespace: &str, entry: &Told) -> (Ended, &'static str) {
    let known = cache.read(namespace, |space| space.map(|space| known(space, entry)));
    let known = known.unwrap_or_default();
    // Searched without the cache's lock: a stage may have many devices.
    let lines = known.slices.iter().flat_map(|slice| &slice.lines);
    let line = lines.filter(|line| line.device == entry.device).max_by_key(|line| line.at);
    Evidence {
        rollout: known.rollout.as_deref(),
        line,
        job: known.job.as_deref(),
        row: known.row.as_ref(),
        still: known.still,
        stopped_since: cache.stops(|known| known.since(&entry.stage)),
    }
    .of(entry)
}

/// Whether a device says that it is called like another Device, or like another one says.
pub fn is_disputed(cache: &Cache, namespace: &str, device: &str) -> bool {
    cache.read(namespace, |space| {
        let Some(space) = space else { return false };
        let Some(row) = space.devices.get(device) else { return false };
        let claimed = row.hostname().to_owned();
        let mut others = space.devices.rows().iter().filter(|row| *row.name != *device);
        others.any(|other| *other.name == *claimed || other.hostname() == claimed)
    })
}

fn known(space: &Namespace, entry: &Told) -> Known {
    let rollout = space.rollouts.get(&entry.rollout);
    let mut known = Known { rollout: rollout.map(|one| one.value.clone()), ..Known::default() };
    if entry.is_together() {
        known.still = still(space, entry);
        return known;
    }
    if entry.device.is_empty() {
        return known;
    }
    known.row = space.devices.get(&entry.device).cloned();
    if let Some(rollout) = rollout {
        let is_here =
            |slice: &SliceView| slice.rollout_uid == *rollout.uid && slice.stage == entry.stage;
        let slices = space.slices.values().map(|stored| &stored.value);
        known.slices = slices.filter(|slice| is_here(slice)).cloned().collect();
        let job = space.jobs.get(&entry.device).map(|stored| &stored.value.view);
        known.job = job.filter(|job| job.rollout_uid == *rollout.uid).cloned();
    }
    known
}

/// Devices of a stage that are in the trouble that they were told of together for.
fn still(space: &Namespace, entry: &Told) -> usize {
    let Some(rollout) = space.rollouts.get(&entry.rollout) else { return 0 };
    let slices = space.slices.values().map(|stored| &stored.value);
    let here =
        slices.filter(|slice| slice.rollout_uid == *rollout.uid && slice.stage == entry.stage);
    let lines = here.flat_map(|slice| &slice.lines);
    let row = |line: &SliceLine| space.devices.get(&line.device);
    lines.filter(|line| is_in_trouble(entry.kind, line, row(line))).count()
}
