//! The bare client: as many writes of the same kinds and sizes as a stage of Wardring took, with the same
//! accounts, under the same policies, on an API server of its own where nobody else does anything.
//!
//! A device's writes follow each other as they must (a job is created before its status is written), and
//! as many devices as Wardring has writers take turns at once.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Value, json};
use wardring_api::{
    Device, DeviceGroup, PatchJob, PatchJobStatus, PatchLedger, PatchRollout, PatchRolloutSlice,
    names::LEDGER_NAME,
};
use wardring_e2e::{Installation, SYSTEM_NAMESPACE, writes::Writes};
use wardring_harness::{DevCluster, cluster::client_from};

/// Writers at once: as many as two gateways have.
const WRITERS: usize = 32;
/// Set-up that is not measured.
const SETTERS: usize = 16;

/// An API server with the chart and nothing that runs.
pub struct Bare {
    installation: Installation,
    controller: Client,
    gateway: Client,
}

/// Real objects of a stage, to write their like.
pub struct Samples {
    /// A job with its outcome.
    pub job: PatchJob,
    /// A device that was patched.
    pub device: Device,
    /// The stage's slices.
    pub slices: Vec<PatchRolloutSlice>,
    /// The ledger.
    pub ledger: PatchLedger,
    /// The rollout, completed.
    pub rollout: PatchRollout,
}

impl Bare {
    /// Starts the API server.
    pub async fn open(folder: &Path) -> Result<Bare> {
        std::fs::create_dir_all(folder).context("failed to make a folder")?;
        let installation = Installation::install(DevCluster::start().await?, folder).await?;
        let client = async |name: &str| {
            let config =
                installation.cluster.service_account_kubeconfig(SYSTEM_NAMESPACE, name).await?;
            client_from(&config).await
        };
        let (controller, gateway) =
            (client("wardring-controller").await?, client("wardring-gateway").await?);
        Ok(Bare { installation, controller, gateway })
    }

    /// Makes the writes; answers how long that took.
    pub async fn run(
        &self,
        round: usize,
        devices: usize,
        writes: &Writes,
        samples: &Samples,
    ) -> Result<Duration> {
        let namespace = format!("bare-{round}");
        self.installation.tenant(&namespace).await?;
        let admin = self.installation.cluster.client().await?;
        let versions = prepare(&admin, &namespace, devices, samples).await?;
        let shop = Shop::new(self, &namespace, samples);
        let began = Instant::now();
        let chains = stream::iter(versions).map(|(name, version)| {
            let shop = &shop;
            async move { shop.patch_device(&name, version).await }
        });
        let chains = chains.buffer_unordered(WRITERS).try_collect::<Vec<()>>();
        let rest = shop.rest(devices, writes);
        tokio::try_join!(chains, rest)?;
        Ok(began.elapsed())
    }
}

/// Devices, records and a rollout to write to; answers the devices' versions.
async fn prepare(
    admin: &Client,
    namespace: &str,
    devices: usize,
    samples: &Samples,
) -> Result<Vec<(String, Option<String>)>> {
    let api: Api<Device> = Api::namespaced(admin.clone(), namespace);
    let made = stream::iter(1..=devices).map(|number| {
        let (api, mut device) = (api.clone(), samples.device.clone());
        device.metadata = named(&format!("device-{number:05}"));
        device.status = None;
        async move { api.create(&PostParams::default(), &device).await }
    });
    let made: Vec<Device> = made.buffer_unordered(SETTERS).try_collect().await?;
    let ledgers: Api<PatchLedger> = Api::namespaced(admin.clone(), namespace);
    let ledger =
        PatchLedger { metadata: named(LEDGER_NAME), status: None, ..samples.ledger.clone() };
    ledgers.create(&PostParams::default(), &ledger).await?;
    let rollouts: Api<PatchRollout> = Api::namespaced(admin.clone(), namespace);
    let rollout =
        PatchRollout { metadata: named("rollout"), status: None, ..samples.rollout.clone() };
    rollouts.create(&PostParams::default(), &rollout).await?;
    let groups: Api<DeviceGroup> = Api::namespaced(admin.clone(), namespace);
    let group = json!({ "metadata": { "name": "group" }, "spec": { "selector": {
        "matchLabels": { "group": "fleet" },
    } } });
    groups.create(&PostParams::default(), &serde_json::from_value(group)?).await?;
    let version = |device: Device| {
        (device.metadata.name.unwrap_or_default(), device.metadata.resource_version)
    };
    Ok(made.into_iter().map(version).collect())
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

/// Everything that is written, ready.
struct Shop<'a> {
    jobs: Api<PatchJob>,
    job_statuses: Api<PatchJob>,
    devices: Api<Device>,
    ledgers: Api<PatchLedger>,
    slices: Api<PatchRolloutSlice>,
    rollouts: Api<PatchRollout>,
    groups: Api<DeviceGroup>,
    samples: &'a Samples,
    steps: [PatchJobStatus; 2],
    outcome: Value,
    device: Value,
}

impl<'a> Shop<'a> {
    fn new(bare: &Bare, namespace: &str, samples: &'a Samples) -> Shop<'a> {
        let (controller, gateway) = (bare.controller.clone(), bare.gateway.clone());
        let last = samples.job.status.clone().unwrap_or_default();
        let step = |permits: usize| {
            let permitted = last.permitted.iter().take(permits).cloned().collect();
            PatchJobStatus { permitted, outcome: None, state: None, ..last.clone() }
        };
        Shop {
            jobs: Api::namespaced(controller.clone(), namespace),
            job_statuses: Api::namespaced(gateway.clone(), namespace),
            devices: Api::namespaced(gateway, namespace),
            ledgers: Api::namespaced(controller.clone(), namespace),
            slices: Api::namespaced(controller.clone(), namespace),
            rollouts: Api::namespaced(controller.clone(), namespace),
            groups: Api::namespaced(controller, namespace),
            samples,
            steps: [step(1), step(2)],
            outcome: json!({ "outcome": last.outcome, "state": last.state, "updates": last.updates }),
            device: json!(samples.device.status),
        }
    }

    /// The six writes of one device.
    async fn patch_device(&self, name: &str, version: Option<String>) -> Result<()> {
        let (post, merge) = (PostParams::default(), PatchParams::default());
        let mut job = self.samples.job.clone();
        let labels = job.metadata.labels.take();
        job.metadata = ObjectMeta { labels, ..named(name) };
        job.status = None;
        let mut job = self.jobs.create(&post, &job).await?;
        for step in &self.steps {
            job.status = Some(step.clone());
            job.meta_mut().managed_fields = None;
            job = self.job_statuses.replace_status(name, &post, &job).await?;
        }
        let patch = json!({
            "metadata": { "resourceVersion": job.metadata.resource_version },
            "status": self.outcome,
        });
        let job = self.job_statuses.patch_status(name, &merge, &Patch::Merge(&patch)).await?;
        let patch = json!({ "metadata": { "resourceVersion": version }, "status": self.device });
        self.devices.patch_status(name, &merge, &Patch::Merge(&patch)).await?;
        let (uid, resource_version) = (job.metadata.uid, job.metadata.resource_version);
        let preconditions = Some(Preconditions { uid, resource_version });
        self.jobs.delete(name, &DeleteParams { preconditions, ..DeleteParams::default() }).await?;
        Ok(())
    }

    /// Everything that is not a device's, one after the other, as many as Wardring took.
    async fn rest(&self, devices: usize, writes: &Writes) -> Result<()> {
        let times = |resource: &str| writes.get(resource).copied().unwrap_or(0);
        let (post, merge) = (PostParams::default(), PatchParams::default());
        for slice in &self.samples.slices {
            let slice = PatchRolloutSlice {
                metadata: named(slice.metadata.name.as_deref().unwrap_or("slice")),
                ..slice.clone()
            };
            self.slices.create(&post, &slice).await?;
        }
        for sequence in 1..=times("patchledgers/status") {
            let mut status = json!(self.samples.ledger.status);
            status["sequence"] = json!(sequence);
            let patch = json!({ "status": status });
            self.ledgers.patch_status(LEDGER_NAME, &merge, &Patch::Merge(&patch)).await?;
        }
        let slices = Arc::new(&self.samples.slices);
        let rewritten = times("patchrolloutslices").saturating_sub(slices.len() as u64);
        for (number, slice) in (0..rewritten).zip(slices.iter().cycle()) {
            let tag = format!("tries={}", number + 1);
            let lines: Vec<String> =
                slice.spec.lines.iter().map(|line| retried(line, &tag)).collect();
            let patch = json!({ "spec": { "lines": lines } });
            let name = slice.metadata.name.as_deref().unwrap_or("slice");
            self.slices.patch(name, &merge, &Patch::Merge(&patch)).await?;
        }
        let mut rollout = self.rollouts.get("rollout").await?;
        for number in 0..times("patchrollouts/status") {
            rollout.status = self.samples.rollout.status.clone();
            if let Some(status) = &mut rollout.status {
                status.progress = Some(format!("{number}/{devices}"));
            }
            rollout.meta_mut().managed_fields = None;
            rollout = self.rollouts.replace_status("rollout", &post, &rollout).await?;
        }
        for number in 0..times("devicegroups/status") {
            let patch = json!({ "status": { "devices": devices, "unavailable": number } });
            self.groups.patch_status("group", &merge, &Patch::Merge(&patch)).await?;
        }
        Ok(())
    }
}

/// The line with another number of tries, so that it differs.
fn retried(line: &str, tag: &str) -> String {
    let words = line.split(' ').map(|word| if word.starts_with("tries=") { tag } else { word });
    words.collect::<Vec<_>>().join(" ")
}
