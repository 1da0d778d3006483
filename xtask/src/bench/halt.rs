//! How long a person's stop takes to stop: from the suspension of a rollout in full swing to the last
//! permit that any gateway still granted.
//!
//! Seen from outside, by a watch on the jobs, so the API server's and the watch's own delay count too.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::StreamExt;
use kube::{
    Api,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use wardring_api::{PatchJob, PatchRollout};
use wardring_harness::wait_until_ok;

use super::{
    converge::Options,
    program,
    site::Site,
    table::{Limit, Measure},
};

/// Suspension to last permit; the design's figure for agents that are connected.
const LIMIT_S: f64 = 2.0;
/// Every device of a rollout gets two permits, for the installation and for the restart; a rollout is
/// suspended when these shares of them are granted.
const SUSPENDED_AT: [f64; 2] = [0.3, 0.65];
/// No permit for so long means that there will be none.
const QUIET: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(600);

/// Measures in optimised programs; returns what the table shows.
pub fn run(options: Options) -> Result<Vec<Measure>> {
    let outcome = program::optimised("halt", options)?;
    let name = "halt: suspension to last permit";
    let ninety_nine = format!("{name}, 99th percentile");
    Ok(vec![
        outcome.measure("seconds", name, "s", Limit::AtMost(LIMIT_S))?,
        outcome.measure("p99", &ninety_nine, "s", Limit::AtMost(LIMIT_S))?,
        outcome.measure("late", "halt: permits after the suspension", "permits", Limit::None)?,
    ])
}

/// The measuring itself; prints one JSON object.
pub async fn measure(options: Options) -> Result<()> {
    let devices = options.devices.unwrap_or(1_000);
    let halts = options.rounds.unwrap_or(12);
    let rollouts = halts.div_ceil(SUSPENDED_AT.len());
    let folder = tempfile::tempdir().context("failed to make a folder")?;
    let site = Site::open(folder.path(), devices, rollouts).await?;
    eprintln!("   {devices} devices enrolled");
    let (mut seconds, mut late) = (Vec::new(), Vec::new());
    for round in 1..=rollouts {
        let permits = Permits::watch(site.api());
        let rollout = site.roll_out(round, devices).await?;
        for share in SUSPENDED_AT.into_iter().take(halts - seconds.len()) {
            let wanted = (share * 2.0 * devices as f64) as usize;
            permits.until(wanted).await?;
            let (took, more) = halt(&site.api(), &rollout, &permits).await?;
            eprintln!("   suspended at {wanted} permits: {more} more, within {took:.3} s");
            seconds.push(took);
            late.push(more);
            suspend(&site.api(), &rollout, false).await?;
        }
        site.until_completed(&rollout, LIMIT).await?;
        site.until_patched(round).await?;
    }
    let mut sorted = seconds.clone();
    sorted.sort_by(f64::total_cmp);
    let p99 = sorted[(sorted.len() * 99).div_ceil(100) - 1];
    println!("{}", json!({ "seconds": seconds, "late": late, "p99": [p99] }));
    Ok(())
}

/// Suspends; answers after how many seconds the last permit was seen, and how many were.
async fn halt(
    rollouts: &Api<PatchRollout>,
    rollout: &str,
    permits: &Permits,
) -> Result<(f64, f64)> {
    let (began, before) = (Instant::now(), permits.lock().total);
    suspend(rollouts, rollout, true).await?;
    loop {
        let (last, total) = {
            let seen = permits.lock();
            (seen.last.map_or(began, |last| last.max(began)), seen.total)
        };
        if last.elapsed() > QUIET {
            return Ok((last.duration_since(began).as_secs_f64(), (total - before) as f64));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn suspend(rollouts: &Api<PatchRollout>, rollout: &str, suspend: bool) -> Result<()> {
    let patch = Patch::Merge(json!({ "spec": { "suspend": suspend } }));
    let patched = rollouts.patch(rollout, &PatchParams::default(), &patch).await;
    patched.context("failed to suspend or resume the rollout")?;
    Ok(())
}

/// The permits that were seen on jobs, until this is dropped.
struct Permits {
    seen: Arc<Mutex<Seen>>,
    watch: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    /// Number of permits by the job's uid.
    jobs: BTreeMap<String, usize>,
    total: usize,
    last: Option<Instant>,
}

impl Permits {
    fn watch(jobs: Api<PatchJob>) -> Permits {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let notes = seen.clone();
        let watch = tokio::spawn(async move {
            let events = watcher(jobs, watcher::Config::default()).default_backoff();
            let mut jobs = pin!(events.applied_objects());
            while let Some(job) = jobs.next().await {
                // A watch that breaks begins anew by itself.
                if let Ok(job) = job {
                    notes.lock().unwrap_or_else(PoisonError::into_inner).note(&job);
                }
            }
        });
        Permits { seen, watch }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn until(&self, wanted: usize) -> Result<()> {
        wait_until_ok(LIMIT, "enough permits", async || match self.lock().total {
            total if total >= wanted => Ok(()),
            total => Err(format!("{total} of {wanted}")),
        })
        .await
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Seen {
    fn note(&mut self, job: &PatchJob) {
        let uid = job.metadata.uid.clone().unwrap_or_default();
        let permits = job.status.as_ref().map_or(0, |status| status.permitted.len());
        let known = self.jobs.entry(uid).or_default();
        if permits > *known {
            self.total += permits - *known;
            self.last = Some(Instant::now());
            *known = permits;
        }
    }
}
