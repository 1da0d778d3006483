//! The watch of EmergencyStops, which are of no namespace.

use futures::StreamExt;
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use wardring_api::EmergencyStop;

use crate::cache::{Cache, Pause};

/// Keeps the cache's stops up to date until dropped.
pub async fn watch_stops(client: Client, cache: Cache) {
    let api: Api<EmergencyStop> = Api::all(client);
    let config = watcher::Config::default();
    let mut events = Box::pin(watcher(api, config).backoff(Pause::default()));
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(stop) | watcher::Event::InitApply(stop)) => {
                cache.change_stops(|known| known.put(stop));
            }
            Ok(watcher::Event::Delete(stop)) => {
                cache.change_stops(|known| known.drop(&stop.name_any()));
            }
            Ok(watcher::Event::Init) => cache.change_stops(|known| {
                known.list_began();
                false
            }),
            Ok(watcher::Event::InitDone) => cache.change_stops(|known| known.list_ended()),
            Err(error) => {
                tracing::warn!(kind = "EmergencyStop", %error, "a watch broke and is taken up again");
            }
        }
    }
}
