//! What is known, at this moment, of something that a sink was told and that holds no longer.

use std::sync::Arc;

use wardring_api::PatchRollout;
use wardring_planner::{DeviceRow, Ended, Evidence, JobView, SliceView, Told};

use crate::cache::{Cache, Namespace};

#[derive(Default)]
struct Known {
    rollout: Option<Arc<PatchRollout>>,
    slices: Vec<Arc<SliceView>>,
    job: Option<Arc<JobView>>,
    row: Option<DeviceRow>,
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
    }
    .of(entry)
}

fn known(space: &Namespace, entry: &Told) -> Known {
    let rollout = space.rollouts.get(&entry.rollout);
    let mut known = Known { rollout: rollout.map(|one| one.value.clone()), ..Known::default() };
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
