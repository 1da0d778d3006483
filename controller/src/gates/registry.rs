//! The GateProviders of the cluster: watched, read with their Secrets, and told whether they can be
//! used.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt,
    api::PostParams,
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::{Semaphore, watch};
use wardring_api::{
    GateProvider, GateProviderStatus, ProviderAuth,
    conditions::{self, Truth},
    names::{CONTROLLER_MANAGER, GATE_HOST_ANNOTATION},
    reasons::Reason,
};

use super::provider::{Provider, SecretData, Tenants, Unusable, turns};
use crate::{cache::Pause, outbound::Target};

/// Secrets are read again this often: nobody tells us that one changed, because watching Secrets would
/// be a right to read more than one.
const AGAIN: Duration = Duration::from_secs(60);
/// A Secret of this type opens the API server.
const ACCOUNT_TOKEN: &str = "kubernetes.io/service-account-token";
/// What Wardring's own Secrets begin with; none of them is anybody's credential for a gate.
const OWN: &str = "wardring-";

/// The providers by name; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    known: Arc<Mutex<Known>>,
    is_synced: Arc<watch::Sender<bool>>,
}

#[derive(Debug, Default)]
struct Known {
    providers: BTreeMap<String, Standing>,
    /// Kept when a provider changes, so that a change is no way around its limit.
    turns: BTreeMap<String, (usize, Arc<Semaphore>)>,
}

/// What is known of a provider.
#[derive(Clone, Debug)]
pub enum Standing {
    /// There is none of this name.
    Missing,
    /// It cannot be used by these namespaces; its status says why.
    Unusable(Tenants),
    /// It can be asked.
    Usable(Arc<Provider>),
}

impl Registry {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of the provider `name`.
    pub fn find(&self, name: &str) -> Standing {
        self.known().providers.get(name).cloned().unwrap_or(Standing::Missing)
    }

    /// Resolves once the first list is read.
    pub async fn synced(&self) {
        let mut is_synced = self.is_synced.subscribe();
        // The sender lives as long as this.
        let _ = is_synced.wait_for(|is_synced| *is_synced).await;
    }

    /// Knows nothing any more: the next term reads for itself.
    pub fn forget(&self) {
        self.is_synced.send_replace(false);
        *self.known() = Known::default();
    }

    /// Knows these providers, too, as if they had been read.
    #[cfg(test)]
    pub fn know(&self, providers: BTreeMap<String, Arc<Provider>>) {
        let standing = |(name, provider)| (name, Standing::Usable(provider));
        self.known().providers.extend(providers.into_iter().map(standing));
        self.is_synced.send_replace(true);
    }

    fn turns(&self, object: &GateProvider) -> Arc<Semaphore> {
        let (name, wanted) = (object.name_any(), turns(&object.spec));
        let mut known = self.known();
        let fresh = || (wanted, Arc::new(Semaphore::new(wanted)));
        let entry = known.turns.entry(name).or_insert_with(fresh);
        if entry.0 != wanted {
            *entry = fresh();
        }
        entry.1.clone()
    }

    fn put(
        &self,
        object: &GateProvider,
        secret: Result<Option<SecretData>, Unusable>,
    ) -> GateProviderStatus {
        let turns = self.turns(object);
        let read = secret.and_then(|data| Provider::new(&object.spec, data.as_ref(), turns));
        let status = status(object, read.as_ref().err(), Timestamp::now());
        let standing = match read {
            Ok(provider) => Standing::Usable(Arc::new(provider)),
            Err(_) => Standing::Unusable(Tenants::new(&object.spec)),
        };
        self.known().providers.insert(object.name_any(), standing);
        status
    }

    fn drop_all_but(&self, names: &BTreeMap<String, GateProvider>) {
        let mut known = self.known();
        known.providers.retain(|name, _| names.contains_key(name));
        known.turns.retain(|name, _| names.contains_key(name));
    }
}

fn status(
    object: &GateProvider,
    unusable: Option<&Unusable>,
    now: Timestamp,
) -> GateProviderStatus {
    let generation = object.metadata.generation;
    let mut list = object.status.clone().unwrap_or_default().conditions;
    let (truth, reason, message) = match unusable {
        None => (Truth::True, Reason::ProviderUsable, "Gates may be measured at it.".to_owned()),
        Some(unusable) => (Truth::False, unusable.reason(), format!("{unusable}.")),
    };
    conditions::set(&mut list, conditions::READY, truth, reason, &message, generation, now);
    GateProviderStatus { observed_generation: generation, conditions: list }
}

/// Keeps the providers in order until dropped.
pub async fn keep(client: Client, system: String, registry: Registry) {
    let api: Api<GateProvider> = Api::all(client.clone());
    let keeper =
        Keeper { secrets: Api::namespaced(client, &system), api: api.clone(), system, registry };
    let mut events = Box::pin(watcher(api, watcher::Config::default()).backoff(Pause::default()));
    let mut objects: BTreeMap<String, GateProvider> = BTreeMap::new();
    let mut listing = None;
    let mut again = tokio::time::interval(AGAIN);
    again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = again.tick() => {
                for object in objects.values_mut() {
                    keeper.look(object).await;
                }
                continue;
            }
        };
        match event {
            Some(Ok(watcher::Event::Init)) => listing = Some(BTreeMap::new()),
            Some(Ok(watcher::Event::InitApply(object))) => {
                if let Some(listing) = &mut listing {
                    listing.insert(object.name_any(), object);
                }
            }
            Some(Ok(watcher::Event::InitDone)) => {
                objects = listing.take().unwrap_or_default();
                keeper.registry.drop_all_but(&objects);
                for object in objects.values_mut() {
                    keeper.look(object).await;
                }
                keeper.registry.is_synced.send_replace(true);
            }
            Some(Ok(watcher::Event::Apply(mut object))) => {
                let name = object.name_any();
                // Our own word about it is no reason to read its Secret again.
                let is_same = |known: &GateProvider| known.spec == object.spec;
                if objects.get(&name).is_some_and(is_same) {
                    objects.insert(name, object);
                } else {
                    // Nobody asks by what stood there before while its Secret is read.
                    let unusable = Standing::Unusable(Tenants::new(&object.spec));
                    keeper.registry.known().providers.insert(name.clone(), unusable);
                    keeper.look(&mut object).await;
                    objects.insert(name, object);
                }
            }
            Some(Ok(watcher::Event::Delete(object))) => {
                objects.remove(&object.name_any());
                keeper.registry.drop_all_but(&objects);
            }
            Some(Err(error)) => {
                tracing::warn!(kind = "GateProvider", %error, "a watch broke and is taken up again");
            }
            None => return,
        }
    }
}

struct Keeper {
    api: Api<GateProvider>,
    secrets: Api<Secret>,
    system: String,
    registry: Registry,
}

impl Keeper {
    /// Reads a provider with its Secret, and says in its status whether it can be used.
    async fn look(&self, object: &mut GateProvider) {
        let secret = match &object.spec.auth {
            None => Ok(None),
            Some(auth) => self.secret(auth, &object.spec.url).await.map(Some),
        };
        let status = self.registry.put(object, secret);
        if object.status.as_ref() == Some(&status) {
            return;
        }
        let name = object.name_any();
        let params = PostParams {
            field_manager: Some(CONTROLLER_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let told = GateProvider { status: Some(status), ..object.clone() };
        match self.api.replace_status(&name, &params, &told).await {
            Ok(written) => *object = written,
            // The watch brings what changed, or that it is gone.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                tracing::debug!(name, "a GateProvider changed meanwhile");
            }
            Err(error) => {
                tracing::warn!(name, %error, "failed to say whether a GateProvider is ready")
            }
        }
    }

    async fn secret(&self, auth: &ProviderAuth, url: &str) -> Result<SecretData, Unusable> {
        let host = Target::parse(url)?.authority();
        // The rules of the kind say so, too; this stands where they are not installed.
        if auth.secret.starts_with(OWN) {
            return Err(Unusable::OwnSecret);
        }
        let unusable = |why: String| Unusable::Secret {
            name: auth.secret.clone(),
            namespace: self.system.clone(),
            why,
        };
        match self.secrets.get_opt(&auth.secret).await {
            // Whoever may write providers could else have it sent to a server of their own.
            Ok(Some(secret)) if secret.annotations().get(GATE_HOST_ANNOTATION) != Some(&host) => {
                Err(unusable(format!("it must have the annotation {GATE_HOST_ANNOTATION}: {host}")))
            }
            Ok(Some(secret)) if secret.type_.as_deref() == Some(ACCOUNT_TOKEN) => {
                Err(unusable("a service account's token is no credential for a gate".to_owned()))
            }
            Ok(Some(secret)) => {
                let data = secret.data.unwrap_or_default();
                Ok(data.into_iter().map(|(key, value)| (key, value.0)).collect())
            }
            Ok(None) => Err(unusable("it does not exist".to_owned())),
            Err(kube::Error::Api(status)) if status.code == 403 => Err(unusable(
                "the controller may not read it; name it in the chart's `controller.gateSecrets`"
                    .to_owned(),
            )),
            Err(error) => {
                tracing::warn!(secret = auth.secret, %error, "failed to read a Secret");
                Err(unusable("it cannot be read at the moment".to_owned()))
            }
        }
    }
}
