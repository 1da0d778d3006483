//! What the requests of a gateway share.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use wardring_api::{DeviceGroup, PatchRollout, PatchRolloutSlice, UpdateSpec};
use wardring_planner::{HoldView, WindowView};

use crate::{
    bucket::{Bucket, Rate},
    cache::{self, path},
    clock::Clock,
    config::Settings,
    fresh::Fresh,
    identity::Speaker,
    leader,
    merge::is_quarantined,
    metrics, peers, roots,
    runs::Sighting,
    shared::Shared,
    stops, tls,
    watches::{Readiness, Sinks},
    writes,
};

/// How many requests of unknown enrolments may wait for the watch at once.
const UNBOUND: usize = 256;

/// How many permits are decided at once. Whoever waits for a turn has read nothing yet: however many
/// devices ask, a permit is granted within moments of the reads it rests on, and a halt stops the rest.
const PERMITS_AT_ONCE: usize = 8;

/// Everything that requests share.
pub struct Gateway {
    /// What the operator set.
    pub settings: Settings,
    /// The API server.
    pub client: Client,
    /// Devices and jobs.
    pub cache: Arc<cache::Cache>,
    /// Whether a leader is at work.
    pub leader: Arc<leader::Leader>,
    /// EmergencyStops, as a watch tells of them.
    pub followed_stops: Arc<stops::Followed>,
    /// Trusted roots.
    pub roots: Arc<roots::TrustedRoots>,
    /// Serving certificate.
    pub serving: Arc<tls::Serving>,
    /// Whether our clock and the API server's agree.
    pub clock: Clock,
    /// What is known so far.
    pub readiness: Arc<Readiness>,
    /// Enrolments heard lately.
    pub peers: peers::Peers,
    /// Status writes.
    pub writer: writes::Writer,
    /// Metrics.
    pub metrics: Arc<metrics::Metrics>,
    /// Cancelled when the gateway begins to stop: long polls end at once.
    pub draining: CancellationToken,
    pub(crate) slices: Shared<Fresh<PatchRolloutSlice>>,
    pub(crate) rollouts: Shared<Fresh<PatchRollout>>,
    pub(crate) groups: Shared<Vec<DeviceGroup>>,
    pub(crate) namespaces: Shared<Fresh<Namespace>>,
    pub(crate) windows: Shared<Vec<Arc<WindowView>>>,
    pub(crate) stops: Shared<stops::Listed>,
    pub(crate) holds: Shared<Vec<HoldView>>,
    pub(crate) updates: Shared<Vec<Arc<UpdateSpec>>>,
    pub(crate) began: Instant,
    pub(crate) unbound: Semaphore,
    pub(crate) permits: Semaphore,
    pub(crate) enrolments: Mutex<Bucket>,
    pub(crate) enrol_rate: Rate,
}

impl Gateway {
    /// A gateway that knows nothing yet.
    pub fn new(settings: Settings, client: Client) -> Gateway {
        let cache = Arc::new(cache::Cache::default());
        let metrics = Arc::new(metrics::Metrics::new());
        let began = Instant::now();
        let enrol_rate = Rate::new(settings.enrol_rate);
        let writer =
            writes::Writer::new(client.clone(), cache.clone(), metrics.clone(), settings.write_cap);
        Gateway {
            client,
            cache,
            leader: Arc::default(),
            followed_stops: Arc::default(),
            roots: Arc::default(),
            serving: Arc::default(),
            readiness: Arc::default(),
            clock: Clock::new(settings.name.as_deref().unwrap_or_default()),
            peers: peers::Peers::new(Rate::new(settings.device_rate)),
            writer,
            metrics,
            draining: CancellationToken::new(),
            slices: Shared::default(),
            rollouts: Shared::default(),
            groups: Shared::default(),
            namespaces: Shared::default(),
            windows: Shared::default(),
            stops: Shared::default(),
            holds: Shared::default(),
            updates: Shared::default(),
            began,
            unbound: Semaphore::new(UNBOUND),
            permits: Semaphore::new(PERMITS_AT_ONCE),
            enrolments: Mutex::new(Bucket::full(enrol_rate, began.elapsed())),
            enrol_rate,
            settings,
        }
    }

    /// Where the watches deliver.
    pub fn sinks(&self) -> Sinks {
        Sinks {
            cache: self.cache.clone(),
            leader: self.leader.clone(),
            stops: self.followed_stops.clone(),
            roots: self.roots.clone(),
            serving: self.serving.clone(),
            readiness: self.readiness.clone(),
        }
    }

    /// Takes note of the run that speaks and the highest sealed sequence that it presents, and
    /// quarantines its device if two live agents take turns.
    pub(crate) fn note(&self, speaker: &Speaker, run: &str, sequence: i64) -> Sighting {
        let sighting = self.peers.note(&speaker.peer, run, sequence);
        if sighting == Sighting::Two {
            self.quarantine(speaker);
        }
        sighting
    }

    pub(crate) fn quarantine(&self, speaker: &Speaker) {
        let device = path(&speaker.device.namespace, &speaker.device.name);
        let known = self.cache.device_at(&device);
        if known.is_some_and(|device| is_quarantined(&device.conditions())) {
            return;
        }
        let (writer, enrolment_id) = (self.writer.clone(), speaker.enrolment_id().to_owned());
        tokio::spawn(async move {
            tracing::warn!(device, "two live agents speak with one key");
            if let Err(error) = writer.quarantine(&device, &enrolment_id).await {
                // The next request of either agent tries again.
                tracing::warn!(device, %error, "a device could not be quarantined");
            }
        });
    }
}
