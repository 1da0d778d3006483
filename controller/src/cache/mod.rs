//! What the controller knows of the cluster: one watch per kind, decoded once into what the planner
//! reads, sorted by namespace. Nothing here decides anything.
//!
//! Three rules keep it honest. An event never replaces something newer. After a consistent list of a
//! namespace (a *fence*) events from before it are ignored, so what a new leader has read stays true
//! whatever a slow watch still delivers. And what a list says stands against everything that was known
//! before it, also against a newer version: then the cluster was restored from a backup.

mod approval;
mod device;
mod fence;
mod intern;
mod kinds;
mod namespace;
mod rollback;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kube::ResourceExt;
use tokio::sync::Notify;

use crate::stops::Known;

pub use device::SlimDevice;
pub use fence::{FenceError, fence};
pub use intern::Interner;
pub use kinds::{Cached, Kind};
pub use namespace::{CachedJob, Namespace, Stored};
pub use watch::{Pause, watch_all};

/// Handle on the cache; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    state: Arc<Mutex<State>>,
    dirty: Arc<Notify>,
    quarantined: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    kinds: BTreeMap<Kind, KindState>,
    namespaces: BTreeMap<String, Namespace>,
    dirty: BTreeSet<String>,
    stops: Known,
    pool: Interner,
}

/// Where the watch of one kind stands.
#[derive(Debug, Default)]
struct KindState {
    /// Highest version any event of the kind had. Events of one kind come in the order of versions,
    /// over all namespaces, so everything up to here is in the cache.
    seen: u64,
    /// The first full list is in.
    synced: bool,
    /// The full list being read, with what it has named so far.
    listing: Option<BTreeSet<(String, String)>>,
    /// Counts full lists.
    lists: u64,
}

/// Resource versions are comparable numbers since Kubernetes 1.35. One that is no number (which no
/// supported API server sends) reads as 0: always older, never trusted.
pub fn version_number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

impl Cache {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether every kind's first list is in.
    pub fn is_synced(&self) -> bool {
        let state = self.state();
        let is_synced = |kind| state.kinds.get(kind).is_some_and(|kind| kind.synced);
        Kind::ALL.iter().all(is_synced) && state.stops.is_synced()
    }

    /// Reads the EmergencyStops.
    pub fn stops<T>(&self, read: impl FnOnce(&Known) -> T) -> T {
        read(&self.state().stops)
    }

    /// Changes what is known of the EmergencyStops. What `change` calls news concerns every namespace.
    pub fn change_stops(&self, change: impl FnOnce(&mut Known) -> bool) {
        let mut state = self.state();
        if change(&mut state.stops) {
            let State { namespaces, dirty, .. } = &mut *state;
            dirty.extend(
                namespaces.iter().filter(|(_, all)| all.is_active()).map(|(n, _)| n.clone()),
            );
            drop(state);
            self.dirty.notify_one();
        }
    }

    /// Counter of what people want in the namespace, EmergencyStops included.
    pub fn intent(&self, namespace: &str) -> u64 {
        let state = self.state();
        state.namespaces.get(namespace).map_or(0, |space| space.intent) + state.stops.changes()
    }

    /// Reads one namespace.
    pub fn read<T>(&self, namespace: &str, read: impl FnOnce(Option<&Namespace>) -> T) -> T {
        read(self.state().namespaces.get(namespace))
    }

    /// Names of the namespaces for which `keep` holds.
    pub fn namespaces(&self, keep: impl Fn(&Namespace) -> bool) -> Vec<String> {
        let state = self.state();
        state.namespaces.iter().filter(|(_, space)| keep(space)).map(|(n, _)| n.clone()).collect()
    }

    /// Everything of this kind in this namespace up to this version is in the cache.
    pub fn seen(&self, namespace: &str, kind: Kind) -> u64 {
        let state = self.state();
        let watched = state.kinds.get(&kind).map_or(0, |kind| kind.seen);
        let listed = state.namespaces.get(namespace).map_or(0, |space| space.floor(kind));
        watched.max(listed)
    }

    /// Something that a pass over the namespace reads elsewhere changed.
    pub fn touch(&self, namespace: &str) {
        self.state().dirty.insert(namespace.to_owned());
        self.dirty.notify_one();
    }

    /// Namespaces that changed since the last call.
    pub fn take_dirty(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.state().dirty)
    }

    /// Resolves when a namespace became dirty; one listener.
    pub async fn dirtied(&self) {
        self.dirty.notified().await;
    }

    /// Devices that became quarantined since the last call, `(namespace, name)`.
    pub fn take_quarantined(&self) -> Vec<(String, String)> {
        let mut state = self.state();
        let spaces = state.namespaces.iter_mut();
        let taken = spaces.flat_map(|(namespace, space)| {
            let names = std::mem::take(&mut space.quarantined);
            names.into_iter().map(move |name| (namespace.clone(), name))
        });
        taken.collect()
    }

    /// Resolves when a device became quarantined; one listener.
    pub async fn quarantined(&self) {
        self.quarantined.notified().await;
    }

    /// An object was added or changed, or is named by a full list.
    pub(crate) fn apply<K: Cached>(&self, object: K) {
        let (namespace, name) = place(&object);
        let version = version_of(&object);
        let mut state = self.state();
        let State { kinds, namespaces, pool, dirty, .. } = &mut *state;
        let kind = kinds.entry(K::KIND).or_default();
        kind.seen = kind.seen.max(version);
        let space = namespaces.entry(namespace.clone()).or_default();
        // A fence waits for the end of a full list, so one that is being read is younger than every
        // fence, and than every event before it.
        let is_listed = kind.listing.is_some();
        if let Some(listing) = &mut kind.listing {
            supersede::<K>(space, &name, version, u64::MAX);
            listing.insert((namespace.clone(), name));
        }
        let is_news = is_listed || version > space.floor(K::KIND);
        if is_news && object.put(space, pool, version) {
            let quarantined = !space.quarantined.is_empty();
            dirty.insert(namespace);
            drop(state);
            self.dirty.notify_one();
            if quarantined {
                self.quarantined.notify_one();
            }
        }
    }

    /// An object is gone.
    fn delete<K: Cached>(&self, object: &K) {
        let (namespace, name) = place(object);
        let version = version_of(object);
        let mut state = self.state();
        let State { kinds, namespaces, dirty, .. } = &mut *state;
        let kind = kinds.entry(K::KIND).or_default();
        kind.seen = kind.seen.max(version);
        if let Some(space) = namespaces.get_mut(&namespace)
            && version > space.floor(K::KIND)
            && K::drop_from(space, &name)
        {
            dirty.insert(namespace);
            drop(state);
            self.dirty.notify_one();
        }
    }

    /// A full list begins.
    fn list_began<K: Cached>(&self) {
        let mut state = self.state();
        let kind = state.kinds.entry(K::KIND).or_default();
        kind.listing = Some(BTreeSet::new());
        kind.lists += 1;
    }

    /// A full list ended: what it did not name is gone.
    fn list_ended<K: Cached>(&self) {
        let mut state = self.state();
        let State { kinds, namespaces, dirty, pool, .. } = &mut *state;
        let kind = kinds.entry(K::KIND).or_default();
        let listed = kind.listing.take().unwrap_or_default();
        kind.synced = true;
        for (namespace, space) in namespaces.iter_mut() {
            for name in K::names_in(space) {
                let place = (namespace.clone(), name);
                if !listed.contains(&place) && K::drop_from(space, &place.1) {
                    dirty.insert(namespace.clone());
                }
            }
        }
        pool.forget_unused();
        drop(state);
        self.dirty.notify_one();
    }
}

/// Lets the older `version` of an object take the place of a newer one up to `horizon`: a list at that
/// version says that the newer one never was.
fn supersede<K: Cached>(space: &mut Namespace, name: &str, version: u64, horizon: u64) {
    if let Some(known) = K::known(space, name)
        && (version + 1..=horizon).contains(known)
    {
        *known = 0;
    }
}

fn place<K: Cached>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn version_of<K: Cached>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().map_or(0, version_number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wardring_api::PatchLedger;

    fn ledger(version: u64, sequence: i64) -> PatchLedger {
        serde_json::from_value(serde_json::json!({
            "metadata": {
                "name": "ledger", "namespace": "lab", "resourceVersion": version.to_string(),
            },
            "spec": {},
            "status": { "sequence": sequence },
        }))
        .expect("a ledger")
    }

    fn sequence(cache: &Cache) -> i64 {
        cache.read("lab", |space| {
            let stored = space.and_then(|space| space.ledger.as_ref());
            stored.and_then(|stored| stored.value.status.as_ref()).map_or(0, |all| all.sequence)
        })
    }

    #[test]
    fn a_late_event_never_replaces_something_newer() {
        let cache = Cache::default();
        cache.apply(ledger(7, 2));
        cache.apply(ledger(5, 1));
        assert_eq!(sequence(&cache), 2);
    }

    #[test]
    fn what_a_list_says_stands_against_a_future_that_a_restore_undid() {
        let cache = Cache::default();
        cache.apply(ledger(7, 2));
        cache.list_began::<PatchLedger>();
        cache.apply(ledger(5, 1));
        cache.list_ended::<PatchLedger>();
        assert_eq!(sequence(&cache), 1);
    }

    #[test]
    fn a_fence_takes_back_what_is_older_than_it_and_not_what_came_since() {
        let cache = Cache::default();
        cache.apply(ledger(7, 2));
        assert!(cache.take_list("lab", vec![ledger(5, 1)], 6, 0));
        assert_eq!(sequence(&cache), 2, "the watch is ahead of the list");
        assert!(cache.take_list("lab", vec![ledger(5, 1)], 1_000_000, 0));
        assert_eq!(sequence(&cache), 1);
    }
}
