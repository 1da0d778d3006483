//! A namespace whose one device is a Windows Server of its own, with the agent installed as an
//! administrator does it.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use wardring_api::{
    Device, LineState, PatchJob, PatchRollout, PatchRolloutStatus, PermitStep, RolloutPhase,
    SliceLine,
};
use wardring_harness::wait_until_ok;
use wardring_wine_tests::{registry::Changes, server::Server};

use crate::support::{
    History, LONG, Place, SHORT,
    history::Change,
    manifests::{BUILDS, KB},
    relay::Relay,
    rollout, shared, stage,
};

/// The device.
pub const DEVICE: &str = "win-1";
/// Its group, and the only stage.
pub const GROUP: &str = "test";
/// UBR before and after the update.
pub const UBRS: [u32; 2] = [4294, 4405];
/// The package that the update brings.
pub const ROLLUP: &str = "Package_for_RollupFix~31bf3856ad364e35~amd64~~20348.4405.1.12";

/// The place and its server.
pub struct Site {
    pub place: Place,
    pub server: Server,
    pub history: History,
    /// The device's way to the one gateway that it knows, where it has one of its own.
    relay: Option<Relay>,
}

impl Site {
    /// A server whose Windows Update offers these updates, enrolled and in contact.
    pub async fn open(namespace: &str, updates: &[Value]) -> Result<Site> {
        Site::open_with(namespace, updates, Changes::new()).await
    }

    /// The same with a registry that is changed before the agent is installed.
    pub async fn open_with(namespace: &str, updates: &[Value], changes: Changes) -> Result<Site> {
        let updates = updates.to_vec();
        let create = move || Server::create(UBRS[0], &updates, changes);
        Site::begin(namespace, create, None).await
    }

    /// A site whose agent can be killed.
    pub async fn open_mortal(namespace: &str, updates: &[Value]) -> Result<Site> {
        let updates = updates.to_vec();
        let create = move || Server::create_mortal(UBRS[0], &updates, Changes::new());
        Site::begin(namespace, create, None).await
    }

    /// A site apart: the device has a router and a way to a gateway of its own, and time of its own.
    pub async fn open_apart(namespace: &str, updates: &[Value]) -> Result<Site> {
        let relay = Relay::open(&shared().await?.gateway_urls()[0]).await?;
        let updates = updates.to_vec();
        let create = move || Server::create_apart(UBRS[0], &updates, Changes::new());
        Site::begin(namespace, create, Some(relay)).await
    }

    async fn begin(
        namespace: &str,
        create: impl FnOnce() -> Result<Server> + Send + 'static,
        relay: Option<Relay>,
    ) -> Result<Site> {
        assert_eq!(BUILDS, UBRS.map(|ubr| format!("20348.{ubr}")), "the catalogue's builds");
        let installation = shared().await?;
        let (tenant, place) = Place::prepare(installation, namespace).await?;
        let token = place.group(&tenant, GROUP, 1).await?;
        let server = tokio::task::spawn_blocking(create).await??;
        let gateways = relay.as_ref().map(|relay| vec![relay.url()]);
        let gateways = gateways.unwrap_or_else(|| installation.gateway_urls());
        server.install_agent(&gateways, &token, DEVICE)?;
        place.until_heard(LONG, DEVICE).await?;
        let history = History::begin(&place.client, namespace).await;
        Ok(Site { place, server, history, relay })
    }

    /// Cuts the device's way to its gateway, or mends it.
    pub async fn reach_gateway(&mut self, can: bool) -> Result<()> {
        let relay = self.relay.as_mut().context("this site is not apart")?;
        if can {
            return relay.mend().await;
        }
        relay.cut().await;
        Ok(())
    }

    /// Rolls the update out; `more` is merged into the spec.
    pub async fn roll_out(&self, more: Value) -> Result<PatchRollout> {
        let mut spec = json!({
            "health": {
                "services": ["MSSQLSERVER", "Reports"],
                // Services start after the agent's own.
                "settle": "3s",
                "sampleInterval": "300ms",
                "restartAttempts": 2,
            },
            // Wine does not tell who is logged on, and nobody is.
            "reboot": { "countdown": "200ms", "deadline": "0s" },
        });
        if let (Value::Object(spec), Value::Object(more)) = (&mut spec, more) {
            spec.extend(more);
        }
        let stages = spec.get("stages").and_then(Value::as_array).cloned();
        let stages = stages.unwrap_or_else(|| vec![stage(GROUP)]);
        self.place.create::<PatchRollout>(rollout(&stages, spec)).await
    }

    /// Waits until the rollout has reached a phase; the agent's log tells why it does not.
    pub async fn until_phase(
        &self,
        limit: Duration,
        phase: RolloutPhase,
    ) -> Result<PatchRolloutStatus> {
        let what = format!("to be {phase:?}");
        let reached =
            self.place.until_status(limit, &what, |status| status.phase == Some(phase)).await;
        reached.with_context(|| {
            let events = self.history.events().into_iter();
            let mut jobs = events.filter_map(|event| match event.change {
                Change::Job(job) => Some(json!(job.status).to_string()),
                _ => None,
            });
            let job = jobs.next_back().unwrap_or_default();
            format!("the job: {job}; the agent's log: {}", self.server.log())
        })
    }

    /// The device's line in the record of the rollout, once it has its outcome: a halt is written before
    /// what it follows from.
    pub async fn line(&self) -> Result<SliceLine> {
        wait_until_ok(SHORT, "the outcome in the record", async || {
            let mut lines = self.place.lines().await.map_err(|error| error.to_string())?;
            let line = lines.remove(DEVICE).ok_or_else(|| format!("{DEVICE} has no line"))?;
            if line.state == LineState::Granted { Err(format!("{line:?}")) } else { Ok(line) }
        })
        .await
    }

    /// Waits until the device has reported something.
    pub async fn until_reported(
        &self,
        what: &str,
        check: impl Fn(&wardring_api::DeviceStatus) -> bool,
    ) -> Result<Device> {
        let is_so = |device: &Device| device.status.as_ref().is_some_and(&check);
        self.place.until(LONG, DEVICE, what, is_so).await
    }

    /// Waits until an Event of the namespace tells of this.
    pub async fn until_told(&self, reason: &str) -> Result<()> {
        let events: Api<Event> = Api::namespaced(self.place.client.clone(), &self.place.namespace);
        wait_until_ok(SHORT, &format!("an Event {reason}"), async || {
            let events = events.list(&ListParams::default()).await;
            let events = events.map_err(|error| error.to_string())?.items;
            let told: Vec<String> = events.into_iter().filter_map(|event| event.reason).collect();
            if told.iter().any(|told| told == reason) { Ok(()) } else { Err(format!("{told:?}")) }
        })
        .await
    }

    /// What was permitted, in order.
    pub fn permitted(&self) -> Vec<PermitStep> {
        let mut permits = self.history.permits().remove(DEVICE).unwrap_or_default();
        permits.sort_by_key(|permit| permit.at);
        permits.iter().map(|permit| permit.step).collect()
    }

    /// Whether some version of the device's jobs told this of what is unhealthy or changed.
    pub fn a_job_told(&self, text: &str) -> bool {
        self.history.events().iter().any(|event| {
            matches!(&event.change, Change::Job(job) if job.status.as_ref().is_some_and(|status| {
                status.unhealthy.iter().chain(&status.changes).any(|line| line.contains(text))
            }))
        })
    }

    /// Waits until some version of the device's job shows so many boots of the newest kind.
    pub async fn until_boots(&self, kind: &str, count: usize) -> Result<()> {
        wait_until_ok(LONG, &format!("{count} boots of kind {kind} in the job"), async || {
            let jobs = self.place.api::<PatchJob>().list(&ListParams::default()).await;
            let jobs = jobs.map_err(|error| error.to_string())?.items;
            let status = jobs.first().and_then(|job| job.status.clone()).unwrap_or_default();
            let boots = status.boots.iter().filter(|boot| format!("{:?}", boot.kind) == kind);
            if boots.count() >= count {
                return Ok(());
            }
            Err(format!("{status:?}; the agent's log: {}", self.server.log()))
        })
        .await
    }

    /// How often an installation began.
    pub fn installs(&self) -> usize {
        self.server.updates.calls("Install").len()
    }
}

/// The cumulative update as Windows Update offers it; its installation goes like this.
pub fn rollup(install: Value) -> Value {
    json!({
        "id": "aaaaaaaa-0000-0000-0000-000000000001", "revision": 200, "kbs": [&KB[2..]],
        "title": format!("2026-11 Cumulative Update ({KB}) ({})", BUILDS[1]), "install": install,
    })
}

/// What takes longest: the agent waits a minute before it tries an update again.
pub const LONGEST: Duration = Duration::from_secs(240);
