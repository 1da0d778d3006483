//! A consistent list of one namespace, and from then on nothing older.

use std::collections::BTreeSet;

use kube::{Api, Client, api::ListParams};
use wardring_api::{
    DeviceGroup, MaintenanceWindow, PatchApproval, PatchJob, PatchLedger, PatchRollback,
    PatchRollout, PatchRolloutSlice,
};

use super::{Cache, Cached, Kind, State, supersede, version_number, version_of};

/// Why a namespace could not be fenced.
#[derive(Debug, thiserror::Error)]
#[error("failed to list every {kind} of the namespace")]
pub struct FenceError {
    /// Kind.
    pub kind: &'static str,
    /// The cause.
    #[source]
    pub source: kube::Error,
}

/// Objects per page.
const PAGE: u32 = 500;

/// Reads ledger, rollouts, orders, approvals, slices, jobs, groups and windows of the namespace as they are now (a list
/// without a version is a consistent read) and lets the cache ignore older events from here on.
pub async fn fence(client: &Client, cache: &Cache, namespace: &str) -> Result<(), FenceError> {
    fence_kind::<PatchLedger>(client, cache, namespace).await?;
    fence_kind::<PatchRollout>(client, cache, namespace).await?;
    fence_kind::<PatchRollback>(client, cache, namespace).await?;
    fence_kind::<PatchApproval>(client, cache, namespace).await?;
    fence_kind::<PatchRolloutSlice>(client, cache, namespace).await?;
    fence_kind::<PatchJob>(client, cache, namespace).await?;
    fence_kind::<MaintenanceWindow>(client, cache, namespace).await?;
    fence_kind::<DeviceGroup>(client, cache, namespace).await
}

async fn fence_kind<K: Cached>(
    client: &Client,
    cache: &Cache,
    namespace: &str,
) -> Result<(), FenceError> {
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    loop {
        // A full list of the watch that began before ours would take back what we are about to
        // read, so we wait for it, and read again if one began meanwhile.
        let lists = cache.quiet_lists(K::KIND).await;
        let (objects, version) =
            list_all(&api).await.map_err(|source| FenceError { kind: K::KIND.as_str(), source })?;
        if cache.take_list(namespace, objects, version, lists) {
            return Ok(());
        }
    }
}

async fn list_all<K: Cached>(api: &Api<K>) -> Result<(Vec<K>, u64), kube::Error> {
    let mut params = ListParams::default().limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = api.list(&params).await?;
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            // Every page is of the first page's version.
            None => {
                let version = page.metadata.resource_version.as_deref().map_or(0, version_number);
                return Ok((objects, version));
            }
        }
    }
}

impl Cache {
    /// Waits until no full list of the kind is being read; answers how many there were.
    async fn quiet_lists(&self, kind: Kind) -> u64 {
        loop {
            {
                let state = self.state();
                if let Some(kind) = state.kinds.get(&kind)
                    && kind.synced
                    && kind.listing.is_none()
                {
                    return kind.lists;
                }
            }
            // A list takes milliseconds to seconds, and fences are rare: no need for a signal.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Takes over a list of a namespace made at `version`, unless the watch began a full list of its
    /// own since there were `lists` of them.
    pub(super) fn take_list<K: Cached>(
        &self,
        namespace: &str,
        objects: Vec<K>,
        version: u64,
        lists: u64,
    ) -> bool {
        let mut state = self.state();
        let State { kinds, namespaces, pool, .. } = &mut *state;
        let kind = kinds.entry(K::KIND).or_default();
        if kind.listing.is_some() || kind.lists != lists {
            return false;
        }
        let space = namespaces.entry(namespace.to_owned()).or_default();
        let mut listed = BTreeSet::new();
        for object in objects {
            let name = object.meta().name.clone().unwrap_or_default();
            let own = version_of(&object);
            supersede::<K>(space, &name, own, version);
            object.put(space, pool, own);
            listed.insert(name);
        }
        // The watch may be ahead of the list; what it brought since then is not judged by it.
        if kind.seen <= version {
            for name in K::names_in(space) {
                if !listed.contains(&name) {
                    K::drop_from(space, &name);
                }
            }
        }
        let floor = space.floors.entry(K::KIND).or_default();
        *floor = version.max(*floor);
        true
    }
}
