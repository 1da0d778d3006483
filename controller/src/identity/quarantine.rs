//! Says once, at the Device, that it was quarantined: gateways notice it and may write no Events.

use kube::api::Api;
use kube::runtime::events::EventType;
use kube::{Client, Resource};
use wardring_api::Device;
use wardring_api::conditions::{QUARANTINED, Truth};
use wardring_api::reasons::Reason;

use crate::cache::Cache;
use crate::events::Events;

/// Writes an Event for every device that becomes quarantined from now on, until dropped.
pub async fn announce_quarantines(client: Client, cache: Cache, events: Events) {
    // What happened before our term was another leader's to say.
    cache.take_quarantined();
    loop {
        cache.quarantined().await;
        for (namespace, name) in cache.take_quarantined() {
            let devices: Api<Device> = Api::namespaced(client.clone(), &namespace);
            // The row in the cache has neither uid nor words.
            match devices.get_opt(&name).await {
                Ok(Some(device)) => announce(&events, &device).await,
                Ok(None) => {}
                Err(error) => tracing::warn!(
                    namespace,
                    name,
                    error = &error as &dyn std::error::Error,
                    "failed to read a quarantined device; no event says so"
                ),
            }
        }
    }
}

async fn announce(events: &Events, device: &Device) {
    let mut conditions = device.status.iter().flat_map(|status| &status.conditions);
    let found = conditions.find(|condition| {
        condition.type_ == QUARANTINED && condition.status == Truth::True.as_str()
    });
    // Taken back already: the next time is the next transition.
    let Some(condition) = found else { return };
    let about = device.object_ref(&());
    events.publish(&about, EventType::Warning, Reason::Quarantined, &condition.message).await;
}
