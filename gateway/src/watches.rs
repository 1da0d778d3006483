//! The watches that feed the cache: one per kind, none with a list in a loop.

use std::{
    collections::HashSet,
    fmt::Debug,
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures::StreamExt;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        coordination::v1::Lease,
        core::v1::{ConfigMap, Secret},
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use wardring_api::{
    Device, EmergencyStop, PatchJob,
    names::{GATEWAY_TLS_SECRET, LEASE_NAME, ROOTS_CONFIGMAP},
};
use wardring_seal::Roots;

use crate::{
    cache::Cache, cache::path, leader::Leader, roots::TrustedRoots, stops::Followed, tls::Serving,
};

/// Between log lines of one watch that breaks again and again.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// What must be known before devices are served.
#[derive(Debug, Default)]
pub struct Readiness {
    known: AtomicU32,
}

const DEVICES: u32 = 1;
const JOBS: u32 = 2;
const ROOTS: u32 = 4;
const CERTIFICATE: u32 = 8;
const ALL: [(u32, &str); 4] = [
    (DEVICES, "the list of Devices"),
    (JOBS, "the list of PatchJobs"),
    (ROOTS, "ConfigMap wardring-roots"),
    (CERTIFICATE, "Secret wardring-gateway-tls"),
];

impl Readiness {
    /// What is still missing; empty when devices can be served.
    pub fn missing(&self) -> Vec<&'static str> {
        let known = self.known.load(Ordering::Acquire);
        ALL.iter().filter(|(bit, _)| known & bit == 0).map(|(_, name)| *name).collect()
    }

    /// Whether devices can be served.
    pub fn is_ready(&self) -> bool {
        self.missing().is_empty()
    }

    fn note(&self, bit: u32) {
        self.known.fetch_or(bit, Ordering::AcqRel);
    }
}

/// Everything that the watches feed.
#[derive(Clone)]
pub struct Sinks {
    /// Devices and jobs.
    pub cache: Arc<Cache>,
    /// The leader.
    pub leader: Arc<Leader>,
    /// EmergencyStops.
    pub stops: Arc<Followed>,
    /// Roots.
    pub roots: Arc<TrustedRoots>,
    /// Serving certificate.
    pub serving: Arc<Serving>,
    /// What is known.
    pub readiness: Arc<Readiness>,
}

/// Runs all watches for ever.
pub async fn run(client: Client, system_namespace: &str, sinks: Sinks) {
    let everywhere = watcher::Config::default();
    let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    let system = system_namespace;
    tokio::join!(
        devices(Api::all(client.clone()), everywhere.clone(), &sinks),
        jobs(Api::all(client.clone()), everywhere.clone(), &sinks),
        stops(Api::all(client.clone()), everywhere, &sinks.stops),
        single(Api::<Lease>::namespaced(client.clone(), system), named(LEASE_NAME), |lease| {
            match lease {
                Some(lease) => sinks.leader.put(&lease),
                None => sinks.leader.remove(),
            }
        }),
        single(
            Api::<ConfigMap>::namespaced(client.clone(), system),
            named(ROOTS_CONFIGMAP),
            |roots| take_roots(roots, &sinks),
        ),
        single(
            Api::<Secret>::namespaced(client.clone(), system),
            named(GATEWAY_TLS_SECRET),
            |secret| take_certificate(secret, &sinks),
        ),
    );
}

fn take_roots(roots: Option<ConfigMap>, sinks: &Sinks) {
    // Without the ConfigMap the last roots stay: an accidental deletion must not lock devices out.
    let Some(pem) = roots.and_then(|roots| roots.data?.remove("roots.pem")) else { return };
    match Roots::from_pem(&pem) {
        Ok(roots) => {
            sinks.roots.replace(roots);
            sinks.readiness.note(ROOTS);
        }
        Err(error) => tracing::error!(%error, "ConfigMap {ROOTS_CONFIGMAP} holds no usable roots"),
    }
}

fn take_certificate(secret: Option<Secret>, sinks: &Sinks) {
    let Some(data) = secret.and_then(|secret| secret.data) else { return };
    let (Some(chain), Some(key)) = (data.get("tls.crt"), data.get("tls.key")) else { return };
    match sinks.serving.replace(&chain.0, &key.0) {
        Ok(()) => sinks.readiness.note(CERTIFICATE),
        Err(error) => tracing::error!(%error, "Secret {GATEWAY_TLS_SECRET} cannot be used"),
    }
}

async fn devices(api: Api<Device>, config: watcher::Config, sinks: &Sinks) {
    let mut listed = HashSet::new();
    let mut began = Instant::now();
    follow(api, config, |event| match event {
        Event::Init => {
            began = Instant::now();
            listed.clear();
        }
        Event::InitApply(device) => {
            listed.insert(location(&device));
            sinks.cache.put_listed_device(&device, began);
        }
        Event::InitDone => {
            sinks.cache.retain_devices(&std::mem::take(&mut listed));
            sinks.readiness.note(DEVICES);
        }
        Event::Apply(device) => sinks.cache.put_device(&device),
        Event::Delete(device) => {
            let (namespace, name) = (device.namespace().unwrap_or_default(), device.name_any());
            sinks.cache.remove_device(&namespace, &name);
        }
    })
    .await;
}

async fn jobs(api: Api<PatchJob>, config: watcher::Config, sinks: &Sinks) {
    let mut listed = HashSet::new();
    let mut began = Instant::now();
    follow(api, config, |event| match event {
        Event::Init => {
            began = Instant::now();
            listed.clear();
        }
        Event::InitApply(job) => {
            listed.insert(location(&job));
            sinks.cache.put_listed_job(job, began);
        }
        Event::InitDone => {
            sinks.cache.retain_jobs(&std::mem::take(&mut listed));
            sinks.readiness.note(JOBS);
        }
        Event::Apply(job) => sinks.cache.put_job(job),
        Event::Delete(job) => {
            let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
            sinks.cache.remove_job(&namespace, &name, job.metadata.uid.as_deref());
        }
    })
    .await;
}

async fn stops(api: Api<EmergencyStop>, config: watcher::Config, known: &Followed) {
    let mut listed = HashSet::new();
    follow(api, config, |event| match event {
        Event::Init => listed.clear(),
        Event::InitApply(stop) => {
            listed.insert(stop.name_any());
            known.put(&stop);
        }
        Event::InitDone => known.retain(&std::mem::take(&mut listed)),
        Event::Apply(stop) => known.put(&stop),
        Event::Delete(stop) => known.remove(&stop.name_any()),
    })
    .await;
}

/// Follows one object by name.
async fn single<K>(api: Api<K>, config: watcher::Config, mut take: impl FnMut(Option<K>))
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    let mut found = false;
    follow(api, config, |event| match event {
        Event::Init => found = false,
        Event::InitApply(object) | Event::Apply(object) => {
            found = true;
            take(Some(object));
        }
        Event::InitDone if found => {}
        Event::InitDone | Event::Delete(_) => take(None),
    })
    .await;
}

async fn follow<K>(api: Api<K>, config: watcher::Config, mut take: impl FnMut(Event<K>))
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut said: Option<Instant> = None;
    watcher(api, config)
        .default_backoff()
        .for_each(|event| {
            match event {
                Ok(event) => take(event),
                // While the API server is gone this comes several times a second.
                Err(error) if said.is_none_or(|at| at.elapsed() >= SAY_EVERY) => {
                    said = Some(Instant::now());
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "a watch broke and is retried"
                    );
                }
                Err(error) => tracing::debug!(%error, "a watch broke and is retried"),
            }
            ready(())
        })
        .await;
}

fn location<K: Resource>(object: &K) -> String {
    let meta = object.meta();
    path(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}
