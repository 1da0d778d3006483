//! Rollouts while single writes of the controller are lost, doubled, late, refused, or carried out
//! without an answer: whatever happens to one write, the end is the same, each device has one job, and
//! the caps hold. The controller is the real process under its own service account; only the network
//! between it and the real API server is bent, and gateway and devices are
//! played.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod devices;
mod gateway;
mod place;
mod proxy;
mod record;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use wardring_api::conditions::{ONLINE, is_true};
use wardring_api::names::RELEASE_ANNOTATION;
use wardring_api::{Device, PatchJob};
use wardring_harness::{DevCluster, Process, cluster, wait_until, wait_until_ok};

use crate::devices::play_devices;
use crate::gateway::{InContact, play_gateway};
use crate::place::{Shape, create};
use crate::proxy::{Fault, Proxy};
use crate::record::{Ending, Record};

const SYSTEM: &str = "wardring-system";
/// For one rollout without faults.
const SHORT: Duration = Duration::from_secs(60);
/// For all rollouts with faults, which run side by side.
const LONG: Duration = Duration::from_secs(240);
/// How many writes more than without a fault a rollout may take: what was lost is written again, and
/// the status tells of devices one by one where it told of two at once.
const MORE_WRITES: usize = 12;
/// Counters that change close together are one write, so a run may make a few writes less. A fault laid
/// on a write that was never made meets nothing; every other one has to be met.
const FEWER_WRITES: usize = 6;

/// The cluster with the chart, the bent network, and one controller behind it.
struct World {
    cluster: DevCluster,
    admin: Client,
    proxy: Proxy,
    record: Record,
    controller: Process,
    in_contact: InContact,
}

impl World {
    async fn start() -> Result<World> {
        let cluster = DevCluster::start().await?;
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/wardring");
        let chart = chart.display().to_string();
        let install = ["install", "wardring", &chart, "--namespace", SYSTEM, "--create-namespace"];
        cluster.helm(&install).await?.ok()?;
        let account = cluster.service_account_kubeconfig(SYSTEM, "wardring-controller").await?;
        let proxy = Proxy::start(cluster::client_from(&account).await?).await?;
        // Swept with the cluster.
        let folder = cluster.folder().context("the cluster was started here")?.to_owned();
        let kubeconfig = folder.join("bent.kubeconfig");
        std::fs::write(&kubeconfig, proxy.kubeconfig())?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_wardring-controller"));
        command.env("KUBECONFIG", kubeconfig).args(["--concurrency", "16"]);
        for listen in ["--http-listen", "--presence-listen"] {
            command.args([listen, "127.0.0.1:0"]);
        }
        let log = folder.join("controller.log");
        let mut controller = Process::spawn("controller", command, &log)?;
        let ready = controller.wait_for_line(SHORT, "\"ready\":true").await?;
        let ready: serde_json::Value = serde_json::from_str(&ready)?;
        let admin = cluster.client().await?;
        let record = Record::begin(&admin);
        let roots = play_devices(&admin, SYSTEM).await?;
        let port = ready["presence"].as_u64().context("the port is on the ready line")?;
        let account = cluster.service_account_kubeconfig(SYSTEM, "wardring-gateway").await?;
        let in_contact = play_gateway(&account, u16::try_from(port)?, &roots).await?;
        Ok(World { cluster, admin, proxy, record, controller, in_contact })
    }

    async fn create(&self, namespace: &str, shape: Shape) -> Result<()> {
        let devices = shape.devices().iter().map(|(name, _)| (*name).to_owned());
        self.in_contact.lock().unwrap().extend(devices.map(|name| (namespace.to_owned(), name)));
        create(&self.admin, namespace, shape).await
    }

    /// Runs a shape without faults; gives its end and the number of writes it took.
    async fn without_faults(&self, shape: Shape) -> Result<(Ending, usize)> {
        let namespace = format!("{}-plain", shape.name());
        self.create(&namespace, shape).await?;
        wait_until(SHORT, "the rollout without faults", async || {
            self.record.is_over(&namespace).then_some(())
        })
        .await?;
        Ok((self.record.ending(&namespace), self.proxy.writes(&namespace)))
    }

    /// Runs the shape once per fault and write, all at once, and compares every end with `plain`.
    async fn with_faults(
        &mut self,
        shape: Shape,
        faults: impl Fn(usize) -> Vec<Fault>,
        plain: &(Ending, usize),
    ) -> Result<()> {
        let mut runs = BTreeMap::new();
        for number in 1..=plain.1 {
            for fault in faults(number) {
                let namespace = format!("{}-{}-{number}", shape.name(), fault.name());
                self.proxy.bend(&namespace, number, fault);
                self.create(&namespace, shape).await?;
                runs.insert(namespace, (fault, number));
            }
        }
        println!("{} rollouts of shape {}", runs.len(), shape.name());
        wait_until_ok(LONG, "the rollouts with faults", async || {
            let open: Vec<_> = runs
                .keys()
                .filter(|namespace| !self.record.has_ended(namespace, &plain.0))
                .map(|namespace| format!("{namespace}: {}", self.record.summary(namespace)))
                .collect();
            if open.is_empty() { Ok(()) } else { Err(open.join("\n")) }
        })
        .await?;
        for (namespace, (fault, number)) in &runs {
            let writes = self.proxy.writes(namespace);
            let was_saved = writes < *number && number + FEWER_WRITES > plain.1;
            assert!(self.proxy.has_bent(namespace) || was_saved, "{namespace} met no fault");
            assert_eq!(self.record.ending(namespace), plain.0, "{namespace}");
            self.record.assert_caps_kept(namespace, shape.caps());
            assert!(writes <= plain.1 + MORE_WRITES, "{namespace}, {fault:?}: {writes} writes");
        }
        assert!(self.controller.is_running());
        Ok(())
    }
}

#[tokio::test]
async fn a_rollout_ends_the_same_whichever_write_is_lost_doubled_or_left_without_an_answer()
-> Result<()> {
    let mut world = World::start().await?;
    let plain = world.without_faults(Shape::Good).await?;
    println!("without faults: {} writes, {:?}", plain.1, plain.0);

    let always = [Fault::Lost, Fault::Unanswered];
    let in_turn = [
        Fault::Doubled,
        Fault::Refused(500),
        Fault::Refused(409),
        Fault::Refused(429),
        Fault::Late,
        Fault::AnsweredBy(504),
    ];
    let faults = |number: usize| {
        let third = in_turn[number % in_turn.len()];
        let fourth = in_turn[(number + 3) % in_turn.len()];
        always.into_iter().chain([third, fourth]).collect()
    };
    world.with_faults(Shape::Good, faults, &plain).await?;
    world.cluster.stop().await
}

#[tokio::test]
async fn a_rollback_ends_the_same_whichever_write_is_lost_or_left_without_an_answer() -> Result<()>
{
    let mut world = World::start().await?;
    let plain = world.without_faults(Shape::Bad).await?;
    println!("without faults: {} writes, {:?}", plain.1, plain.0);

    world.with_faults(Shape::Bad, |_| vec![Fault::Lost, Fault::Unanswered], &plain).await?;
    world.cluster.stop().await
}

/// Marked once, and never taken back or said in other words since.
const MARKED: [&str; 2] = ["none", "True RollbackFailed"];

#[tokio::test]
async fn a_damaged_device_is_quarantined_once_whichever_write_is_lost_until_it_is_released()
-> Result<()> {
    let world = World::start().await?;
    let shape = Shape::Damaged;
    let is_marked = |namespace: &str| {
        let told = world.record.quarantines(namespace, "test-2");
        (world.record.damaged(namespace) == 1 && told.len() > 1).then_some(())
    };
    world.create("damaged-plain", shape).await?;
    wait_until(SHORT, "the mark without faults", async || is_marked("damaged-plain")).await?;
    assert_eq!(world.record.quarantines("damaged-plain", "test-2"), MARKED);
    let writes = world.proxy.writes("damaged-plain");
    println!("without faults: {writes} writes");

    let mut runs = Vec::new();
    for number in 1..=writes {
        for fault in [Fault::Lost, Fault::Unanswered, Fault::Refused(500)] {
            let namespace = format!("damaged-{}-{number}", fault.name());
            world.proxy.bend(&namespace, number, fault);
            world.create(&namespace, shape).await?;
            runs.push(namespace);
        }
    }
    wait_until_ok(LONG, "the marks with faults", async || {
        let open: Vec<_> = runs.iter().filter(|run| is_marked(run).is_none()).collect();
        if open.is_empty() { Ok(()) } else { Err(format!("{open:?}")) }
    })
    .await?;
    for namespace in &runs {
        assert_eq!(world.record.quarantines(namespace, "test-2"), MARKED, "{namespace}");
        assert_eq!(world.record.quarantines(namespace, "test-1"), ["none"], "{namespace}");
    }

    // Contact that comes and goes is another write of the controller to the same list.
    let devices: Api<Device> = Api::namespaced(world.admin.clone(), "damaged-plain");
    let mut device = devices.get("test-2").await?;
    let list = &mut device.status.as_mut().context("it has a status")?.conditions;
    let online = list.iter_mut().find(|one| one.type_ == ONLINE).context("it was online")?;
    online.status = "False".to_owned();
    let patch = Patch::Merge(json!({ "status": { "conditions": list } }));
    devices.patch_status("test-2", &PatchParams::default(), &patch).await?;
    wait_until(SHORT, "the device to be online again", async || {
        let status = devices.get("test-2").await.ok()?.status?;
        is_true(&status.conditions, ONLINE).then_some(())
    })
    .await?;
    assert_eq!(world.record.quarantines("damaged-plain", "test-2"), MARKED);

    // A person looked.
    let now = jiff::Timestamp::now();
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { RELEASE_ANNOTATION: now } } }));
    devices.patch("test-2", &PatchParams::default(), &patch).await?;
    let jobs: Api<PatchJob> = Api::namespaced(world.admin.clone(), "damaged-plain");
    wait_until(SHORT, "the device to be free", async || {
        let told = world.record.quarantines("damaged-plain", "test-2");
        let is_free = told.last().is_some_and(|last| last == "False Released");
        (is_free && jobs.get_opt("test-2").await.ok()?.is_none()).then_some(())
    })
    .await?;
    let told = world.record.quarantines("damaged-plain", "test-2");
    assert_eq!(told, ["none", "True RollbackFailed", "False Released"]);
    world.cluster.stop().await
}
