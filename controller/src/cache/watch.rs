//! One watch per kind, over all namespaces, into the cache.

use std::time::Duration;

use futures::StreamExt;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, utils::Backoff, watcher},
};
use tokio::task::JoinSet;
use wardring_api::{
    DeviceGroup, MaintenanceWindow, PatchApproval, PatchJob, PatchLedger, PatchRollback,
    PatchRollout, PatchRolloutSlice, Update, UpdateHold,
};

use super::{Cache, Cached, SlimDevice};
use crate::stops::watch_stops;

/// Starts every watch. They end when the set is dropped.
pub fn watch_all(client: &Client, cache: &Cache) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(watch::<PatchLedger>(client.clone(), cache.clone()));
    tasks.spawn(watch::<PatchRollout>(client.clone(), cache.clone()));
    tasks.spawn(watch::<PatchRolloutSlice>(client.clone(), cache.clone()));
    tasks.spawn(watch::<PatchJob>(client.clone(), cache.clone()));
    tasks.spawn(watch::<SlimDevice>(client.clone(), cache.clone()));
    tasks.spawn(watch::<DeviceGroup>(client.clone(), cache.clone()));
    tasks.spawn(watch::<Update>(client.clone(), cache.clone()));
    tasks.spawn(watch::<UpdateHold>(client.clone(), cache.clone()));
    tasks.spawn(watch::<MaintenanceWindow>(client.clone(), cache.clone()));
    tasks.spawn(watch::<PatchRollback>(client.clone(), cache.clone()));
    tasks.spawn(watch::<PatchApproval>(client.clone(), cache.clone()));
    tasks.spawn(watch_stops(client.clone(), cache.clone()));
    tasks
}

async fn watch<K: Cached>(client: Client, cache: Cache) {
    let api: Api<K> = Api::all(client);
    // Full lists are consistent reads (not "any version"): the cache never goes back in time.
    let config = watcher::Config::default();
    let mut events = Box::pin(watcher(api, config).backoff(Pause::default()));
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                cache.apply(object);
            }
            Ok(watcher::Event::Delete(object)) => cache.delete(&object),
            Ok(watcher::Event::Init) => cache.list_began::<K>(),
            Ok(watcher::Event::InitDone) => cache.list_ended::<K>(),
            Err(error) => {
                tracing::warn!(kind = K::KIND.as_str(), %error, "a watch broke and is taken up again");
            }
        }
    }
}

/// Pause between attempts to take up a broken watch: doubled from 200 ms to 5 s, with a random part
/// so that watches of many processes do not come back at one instant. Short enough that a restarted
/// API server is in use again within ten seconds.
#[derive(Debug, Default)]
pub struct Pause {
    failures: u32,
}

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let full = 200u64.saturating_mul(1 << self.failures.min(6)).min(5_000);
        self.failures += 1;
        Some(Duration::from_millis(full / 2 + rand::random_range(0..=full / 2)))
    }
}

impl Backoff for Pause {
    fn reset(&mut self) {
        self.failures = 0;
    }
}
