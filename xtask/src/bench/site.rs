//! A whole installation with a fleet that patches as fast as is wanted, for what is measured on a real
//! API server.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use jiff::Timestamp;
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};
use wardring_api::{Device, DeviceGroup, PatchJob, PatchRollout, RolloutPhase, Update, conditions};
use wardring_e2e::{Fleet, FleetFile, Installation, Tenant, TokenOptions};
use wardring_harness::{DevCluster, wait_until_ok};

/// Name of the namespace, of the one group, and of the one stage of every rollout.
pub const FLEET: &str = "fleet";

const PRODUCT: &str = "Windows Server 2022";
/// The scripted Windows on which the faulty updates fail.
const FAULTY: &str = "faulty";
/// Longest time until every device has reported what it runs.
const REPORT_LIMIT: Duration = Duration::from_secs(300);

/// Programs for a benchmark write as fast as they can, and enrol as many at once as come.
const GATEWAY: [&str; 6] = ["--write-cap", "0", "--enrol-rate", "1000", "--device-rate", "50"];

/// Devices in one process of the fleet at most, which are enrolled together: more would crowd the API server
/// with claims, and a process may not hold more than some thousands of files open.
const PER_PROCESS: usize = 1_000;

/// Which devices a benchmark wants, and which updates they are offered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Crew {
    /// Devices that rollouts are about.
    pub devices: usize,
    /// Devices that are connected and that no rollout is about.
    pub bystanders: usize,
    /// How long an installation takes on each.
    pub install_ms: u64,
    /// Updates 1 to this ask for a restart, and go well everywhere.
    pub updates: usize,
    /// As many updates after them ask for none, and fail on [`FAULTY`].
    pub faulty_updates: usize,
    /// As many updates after those ask for no restart either, and go well everywhere.
    pub quick_updates: usize,
}

impl Crew {
    /// Number of all updates.
    fn all_updates(&self) -> usize {
        self.updates + self.faulty_updates + self.quick_updates
    }

    /// Number of the device on which the faulty updates fail: it gets its job while most of the others
    /// wait for theirs.
    fn faulty(&self) -> usize {
        (self.devices / 4).max(1)
    }
}

/// Label of the devices that no rollout is about.
const BYSTANDERS: &str = "bystanders";

/// An installation with a controller, two gateways and enrolled devices that have reported.
pub struct Site {
    _installation: Installation,
    pub client: Client,
    pub crew: Crew,
    _fleets: Vec<Fleet>,
}

impl Site {
    /// Sets everything up.
    pub async fn open(folder: &Path, crew: Crew) -> Result<Site> {
        let cluster = DevCluster::start().await?;
        let mut installation = Installation::install(cluster, folder).await?;
        installation.start_controller(&[]).await?;
        for _ in 0..2 {
            installation.start_gateway(&GATEWAY).await?;
        }
        let tenant = installation.tenant(FLEET).await?;
        let client = tenant.client().await?;
        let selector = json!({ "matchLabels": { "group": FLEET } });
        let group = json!({ "metadata": { "name": FLEET }, "spec": { "selector": selector } });
        create::<DeviceGroup>(&client, group).await?;
        for round in 1..=crew.all_updates() {
            create::<Update>(&client, update(round)).await?;
        }
        let fleets = enrol(&tenant, crew).await?;
        let site = Site { client, crew, _fleets: fleets, _installation: installation };
        site.until_builds(&build(0), "group", crew.devices + crew.bystanders).await?;
        Ok(site)
    }

    /// Objects of the tenant.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), FLEET)
    }

    /// Name of the device on which the faulty updates fail.
    pub fn faulty(&self) -> String {
        device_name(self.crew.faulty())
    }

    /// Applies the rollout of one update over the whole fleet, with these gates; returns its name.
    pub async fn roll_out(&self, round: usize, concurrency: usize, gates: Value) -> Result<String> {
        let name = format!("round-{round}");
        let stage = json!({
            "name": FLEET, "group": FLEET, "maxConcurrency": concurrency, "gates": gates,
        });
        let spec = json!({
            "updates": { "kbs": [kb(round)] },
            "stages": [stage],
            "health": { "services": ["W32Time"], "settle": "1ms", "sampleInterval": "1ms" },
            "reboot": { "countdown": "1ms" },
        });
        create::<PatchRollout>(&self.client, json!({ "metadata": { "name": name }, "spec": spec }))
            .await?;
        Ok(name)
    }

    /// Waits until a rollout is completed.
    pub async fn until_completed(&self, name: &str, limit: Duration) -> Result<()> {
        let rollouts = self.api::<PatchRollout>();
        wait_until_ok(limit, "the rollout to be completed", async || {
            let rollout = rollouts.get(name).await.map_err(|error| error.to_string())?;
            let status = rollout.status.unwrap_or_default();
            if status.phase == Some(RolloutPhase::Completed) {
                return Ok(());
            }
            // Often enough to time it, seldom enough not to weigh on what is timed.
            tokio::time::sleep(Duration::from_millis(100)).await;
            Err(json!(status).to_string())
        })
        .await
    }

    /// Waits until every device that rollouts are about is in contact and has reported that it runs the
    /// update of a round.
    pub async fn until_patched(&self, round: usize) -> Result<()> {
        self.until_builds(&build(round), &format!("group={FLEET}"), self.crew.devices).await
    }

    /// How many bystanders are in contact and have been all the time since then, as their condition Online
    /// says: what was measured was measured beside those. A silence of minutes is no loss of contact yet.
    pub async fn bystanders_in_contact_since(&self, then: Timestamp) -> Result<usize> {
        let params = ListParams::default().labels(&format!("group={BYSTANDERS}"));
        let list = self.api::<Device>().list(&params).await;
        let list = list.context("failed to list the bystanders")?;
        let stayed = list.items.iter().filter(|device| {
            let conditions = device.status.iter().flat_map(|status| &status.conditions);
            conditions.into_iter().any(|condition| {
                condition.type_ == conditions::ONLINE
                    && condition.status == "True"
                    && condition.last_transition_time.0 <= then
            })
        });
        Ok(stayed.count())
    }

    /// Waits until no job is left: the last writes of a rollout.
    pub async fn until_swept(&self) -> Result<()> {
        let jobs = self.api::<PatchJob>();
        let params = ListParams::default().match_any();
        wait_until_ok(REPORT_LIMIT, "the jobs to be deleted", async || {
            match jobs.list(&params).await.map_err(|error| error.to_string())?.items.len() {
                0 => Ok(()),
                left => Err(format!("{left} are left")),
            }
        })
        .await
    }

    async fn until_builds(&self, build: &str, labels: &str, all: usize) -> Result<()> {
        let devices = self.api::<Device>();
        // From the API server's memory: it is asked again and again.
        let params = ListParams::default().match_any().labels(labels);
        wait_until_ok(REPORT_LIMIT, "every device to report", async || {
            let list = devices.list(&params).await.map_err(|error| error.to_string())?;
            let reported = list.items.iter().filter(|device| {
                device.status.as_ref().is_some_and(|status| {
                    let is_online = conditions::is_true(&status.conditions, conditions::ONLINE);
                    is_online && status.os.as_ref().is_some_and(|os| os.build == build)
                })
            });
            let reported = reported.count();
            if reported == all {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            Err(format!("{reported} of {all} did"))
        })
        .await
    }
}

fn kb(round: usize) -> String {
    format!("KB50{round:05}")
}

fn build(round: usize) -> String {
    format!("20348.{}", 1_000 + round)
}

fn update(round: usize) -> Value {
    json!({
        "metadata": { "name": kb(round).to_lowercase() },
        "spec": {
            "kb": kb(round), "title": format!("Update {round}"), "product": PRODUCT,
            "kind": "Quality", "release": "2026-11", "targetBuild": build(round),
        },
    })
}

fn device_name(number: usize) -> String {
    format!("device-{number:05}")
}

/// Enrols everybody, a process of the fleet for each thousand.
async fn enrol(tenant: &Tenant<'_>, crew: Crew) -> Result<Vec<Fleet>> {
    let mut members: Vec<(String, String, &str)> = Vec::new();
    let token = token(tenant, FLEET, crew.devices).await?;
    for number in 1..=crew.devices {
        let is_faulty = crew.faulty_updates > 0 && number == crew.faulty();
        let world = if is_faulty { FAULTY } else { PRODUCT };
        members.push((device_name(number), token.clone(), world));
    }
    if crew.bystanders > 0 {
        let token = self::token(tenant, BYSTANDERS, crew.bystanders).await?;
        let names = (1..=crew.bystanders).map(|number| format!("bystander-{number:05}"));
        members.extend(names.map(|name| (name, token.clone(), PRODUCT)));
    }
    let mut fleets = Vec::new();
    for (part, members) in members.chunks(PER_PROCESS).enumerate() {
        let mut file = FleetFile::default();
        file.world(PRODUCT, world(crew, false));
        file.world(FAULTY, world(crew, true));
        for (name, token, world) in members {
            file.device(name, world, token);
        }
        fleets.push(tenant.named_fleet(&format!("fleet-{part}"), &file).await?);
    }
    Ok(fleets)
}

async fn token(tenant: &Tenant<'_>, group: &str, uses: usize) -> Result<String> {
    let label = format!("group={group}");
    let options =
        TokenOptions { name: group, labels: &[&label], max_uses: uses, may_replace: false };
    tenant.token(&options).await
}

/// A Windows that takes every update, the faulty ones aside, and restarts within milliseconds.
fn world(crew: Crew, is_faulty: bool) -> Value {
    let sound = (1..=crew.updates)
        .map(|round| json!({ "kb": kb(round), "targetBuild": build(round), "installMs": crew.install_ms }));
    let quick = (crew.updates + 1..=crew.all_updates()).map(|round| {
        let fails = is_faulty && round <= crew.updates + crew.faulty_updates;
        let effects = if fails { json!({ "failInstall": "0x80070643" }) } else { json!({}) };
        json!({
            "kb": kb(round), "targetBuild": build(round), "installMs": crew.install_ms, "rebootRequired": false,
            "effects": effects,
        })
    });
    json!({
        "product": PRODUCT,
        "build": build(0),
        "services": { "W32Time": "Running" },
        "updates": sound.chain(quick).collect::<Vec<_>>(),
        "rebootMs": 1,
    })
}

async fn create<K>(client: &Client, object: Value) -> Result<()>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let mut whole = json!({ "apiVersion": K::api_version(&()), "kind": K::kind(&()) });
    if let (Value::Object(whole), Value::Object(given)) = (&mut whole, object) {
        whole.extend(given);
    }
    let object: K = serde_json::from_value(whole).context("the manifest is wrong")?;
    let api: Api<K> = Api::namespaced(client.clone(), FLEET);
    let created = api.create(&PostParams::default(), &object).await;
    created.with_context(|| format!("failed to create a {}", K::kind(&())))?;
    Ok(())
}
