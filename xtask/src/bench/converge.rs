//! A whole stage: how fast it converges, and with how many writes, against a bare client that does the
//! same writes on an API server of its own.
//!
//! Both take turns within one run. The time of a stage goes from the rollout's creation until the
//! rollout is completed, every device's facts are stored and the last job is deleted; enrolment is not
//! part of it.

use std::{
    collections::BTreeMap,
    num::NonZero,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use kube::{
    Client,
    api::{WatchEvent, WatchParams},
};
use serde_json::json;
use wardring_api::{
    Device, PatchJob, PatchLedger, PatchRollout, PatchRolloutSlice, names::LEDGER_NAME,
};
use wardring_e2e::writes::{self, Writes};

use super::{
    bare::{Bare, Samples},
    program,
    site::{Crew, Site},
    table::{Limit, Measure},
};

/// Time of the bare client to ours; the figure.
const RATIO: f64 = 0.70;
/// Writes per patched device beyond those per batch; the design's figures.
const PER_DEVICE: f64 = 6.0;
const PER_BATCH: f64 = 3.0;
/// Devices of the stage that are at work at any moment, as a share of all.
const SHARE: usize = 4;

/// How it is measured.
#[derive(Clone, Copy, clap::Args)]
pub struct Options {
    /// Devices of the stage, or agents that ask for permits (converge, halt)
    #[arg(long)]
    pub devices: Option<NonZero<usize>>,
    /// Agents that are connected in the second half (halt)
    #[arg(long)]
    pub connected: Option<NonZero<usize>>,
    /// Devices that have a job at the same time, instead of all at once (halt)
    #[arg(long)]
    pub at_work: Option<NonZero<usize>>,
    /// How often it is measured (converge, halt)
    #[arg(long)]
    pub rounds: Option<NonZero<usize>>,
}

/// Measures in optimised programs; returns what the table shows.
pub fn run(options: Options) -> Result<Vec<Measure>> {
    let outcome = program::optimised("converge", options)?;
    let measure = |field, name: &str, unit, limit| {
        outcome.measure(field, &format!("converge: {name}"), unit, limit)
    };
    Ok(vec![
        measure("seconds", "a stage, by Wardring", "s", Limit::None)?,
        measure("bareSeconds", "the same writes, by a bare client", "s", Limit::None)?,
        measure("ratio", "bare to Wardring", "ratio", Limit::AtLeast(RATIO))?,
        measure("writesPerDevice", "writes per device, all", "writes", Limit::None)?,
        measure("batches", "batches of grants", "batches", Limit::None)?,
        measure(
            "beyondBatches",
            "writes per device, beyond 3 per batch",
            "writes",
            Limit::AtMost(PER_DEVICE),
        )?,
    ])
}

/// The measuring itself; prints one JSON object.
pub async fn measure(options: Options) -> Result<()> {
    let devices = options.devices.map_or(2_000, NonZero::get);
    let rounds = options.rounds.map_or(3, NonZero::get);
    let folder = tempfile::tempdir().context("failed to make a folder")?;
    let bare = Bare::open(&folder.path().join("bare")).await?;
    let crew = Crew { devices, install_ms: 1, updates: rounds, ..Crew::default() };
    let site = Site::open(&folder.path().join("site"), crew).await?;
    eprintln!("   {devices} devices enrolled");
    let mut results: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 1..=rounds {
        let ours = stage(&site, round).await?;
        let bare = bare.run(round, devices, &ours.writes, &ours.samples).await?;
        let total: u64 = ours.writes.values().sum();
        let batches = ours.writes.get("patchledgers/status").copied().unwrap_or(0) as f64;
        let devices = devices as f64;
        eprintln!(
            "   round {round}: {:.1} s, bare {:.1} s; {:?}",
            ours.took.as_secs_f64(),
            bare.as_secs_f64(),
            ours.writes
        );
        for (field, value) in [
            ("seconds", ours.took.as_secs_f64()),
            ("bareSeconds", bare.as_secs_f64()),
            ("ratio", bare.as_secs_f64() / ours.took.as_secs_f64()),
            ("writesPerDevice", total as f64 / devices),
            ("batches", batches),
            ("beyondBatches", (total as f64 - PER_BATCH * batches) / devices),
        ] {
            results.entry(field).or_default().push(value);
        }
    }
    println!("{}", json!(results));
    Ok(())
}

/// What one stage took.
struct Stage {
    took: Duration,
    writes: Writes,
    samples: Samples,
}

async fn stage(site: &Site, round: usize) -> Result<Stage> {
    let before = count(&site.client).await?;
    let job = Arc::new(Mutex::new(None));
    let watch = tokio::spawn(watch_one_job(site.api(), job.clone()));
    let began = Instant::now();
    let rollout = site.roll_out(round, (site.crew.devices / SHARE).max(1), json!({})).await?;
    let limit = Duration::from_secs(120) + Duration::from_millis(200) * site.crew.devices as u32;
    site.until_completed(&rollout, limit).await?;
    site.until_patched(round).await?;
    site.until_swept().await?;
    let took = began.elapsed();
    watch.abort();
    let writes = writes::since(&before, count(&site.client).await?);
    let job = job.lock().unwrap_or_else(PoisonError::into_inner).take();
    let slices = site.api::<PatchRolloutSlice>();
    let slices = slices.list(&kube::api::ListParams::default()).await?.items;
    let of_this = slices.into_iter().filter(|slice| slice.spec.rollout == rollout);
    let samples = Samples {
        job: job.context("no job was seen to its end")?,
        device: site.api::<Device>().get("device-00001").await?,
        slices: of_this.collect(),
        ledger: site.api::<PatchLedger>().get(LEDGER_NAME).await?,
        rollout: site.api::<PatchRollout>().get(&rollout).await?,
    };
    Ok(Stage { took, writes, samples })
}

/// Writes so far, without Events: they are limited by themselves and shown nowhere here.
async fn count(client: &Client) -> Result<Writes> {
    let counted = writes::count(client).await?.context("the API server's metrics are closed")?;
    Ok(counted.into_iter().filter(|(resource, _)| resource != "events").collect())
}

/// Keeps the last version of one device's job.
async fn watch_one_job(api: kube::Api<PatchJob>, last: Arc<Mutex<Option<PatchJob>>>) -> Result<()> {
    let params = WatchParams::default().fields("metadata.name=device-00001");
    let mut events = api.watch(&params, "0").await?.boxed();
    while let Some(event) = events.try_next().await? {
        if let WatchEvent::Added(job) | WatchEvent::Modified(job) = event {
            *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
        }
    }
    Ok(())
}
