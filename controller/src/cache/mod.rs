//! What the controller knows of the cluster: one watch per kind, decoded once into what the planner
//! reads, sorted by namespace. Nothing here decides anything.
//!
//! Two rules keep it honest. An event never replaces something newer. And after a consistent list of
//! a namespace (a *fence*) events from before it are ignored, so what a new leader has read stays
//! true whatever a slow watch still delivers.

mod device;
mod fence;
mod intern;
mod kinds;
mod namespace;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kube::ResourceExt;
use tokio::sync::Notify;

pub use device::SlimDevice;
pub use fence::{FenceError, fence};
pub use intern::Interner;
pub use kinds::{Cached, Kind};
pub use namespace::{CachedJob, Namespace, Stored};
pub use watch::watch_all;

/// Handle on the cache; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    state: Arc<Mutex<State>>,
    dirty: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    kinds: BTreeMap<Kind, KindState>,
    namespaces: BTreeMap<String, Namespace>,
    dirty: BTreeSet<String>,
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
        Kind::ALL.iter().all(|kind| state.kinds.get(kind).is_some_and(|kind| kind.synced))
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

    /// Namespaces that changed since the last call.
    pub fn take_dirty(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.state().dirty)
    }

    /// Resolves when a namespace became dirty; one listener.
    pub async fn dirtied(&self) {
        self.dirty.notified().await;
    }

    /// An object was added or changed.
    fn apply<K: Cached>(&self, object: K) {
        let (namespace, name) = place(&object);
        let version = version_of(&object);
        let mut state = self.state();
        let State { kinds, namespaces, pool, dirty } = &mut *state;
        let kind = kinds.entry(K::KIND).or_default();
        kind.seen = kind.seen.max(version);
        if let Some(listing) = &mut kind.listing {
            listing.insert((namespace.clone(), name));
        }
        let space = namespaces.entry(namespace.clone()).or_default();
        if version > space.floor(K::KIND) && object.put(space, pool, version) {
            dirty.insert(namespace);
            drop(state);
            self.dirty.notify_one();
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
        let State { kinds, namespaces, dirty, pool } = &mut *state;
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

fn place<K: Cached>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn version_of<K: Cached>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().map_or(0, version_number)
}
