//! Follows one rollout and its jobs through the Kubernetes API, and remembers what was seen on the way.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use kube::{
    ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use wardring_api::{JobAction, PatchJob, PatchRollout, PermitStep};
use wardring_e2e::Tenant;

use super::screen::Screen;

/// What was seen of the jobs of one device.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Actions of its jobs.
    pub actions: BTreeSet<JobAction>,
    /// Permits it was given.
    pub permits: BTreeSet<PermitStep>,
    /// Sentences of its signed outcomes.
    pub said: BTreeSet<String>,
}

/// A rollout at its end, and what was seen on the way.
#[derive(Debug)]
pub struct Story {
    /// The rollout.
    pub rollout: PatchRollout,
    /// Jobs by device.
    pub jobs: BTreeMap<String, Seen>,
}

/// Follows the rollout until `ended` says so.
pub async fn follow(
    tenant: &Tenant<'_>,
    name: &str,
    limit: Duration,
    screen: &Screen,
    ended: impl Fn(&PatchRollout) -> bool,
) -> Result<Story> {
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut rollouts = watcher(tenant.api::<PatchRollout>().await?, only)
        .default_backoff()
        .applied_objects()
        .boxed();
    let all = watcher::Config::default();
    let mut job_events =
        watcher(tenant.api::<PatchJob>().await?, all).default_backoff().applied_objects().boxed();
    let deadline = Instant::now() + limit;
    let mut jobs: BTreeMap<String, Seen> = BTreeMap::new();
    let mut last = None;
    loop {
        let next = async {
            tokio::select! {
                rollout = rollouts.try_next() => anyhow::Ok((rollout?, None)),
                job = job_events.try_next() => anyhow::Ok((None, job?)),
            }
        };
        let Ok(event) = timeout_at(deadline, next).await else {
            let state = last.as_ref().map(summary).unwrap_or_default();
            bail!("the rollout did not end within {} s; {state}", limit.as_secs());
        };
        match event.context("failed to watch the rollout")? {
            (_, Some(job)) => jobs.entry(job.name_any()).or_default().learn(&job),
            (Some(rollout), _) => {
                screen.show(&rollout);
                if ended(&rollout) {
                    screen.settle();
                    return Ok(Story { rollout, jobs });
                }
                last = Some(rollout);
            }
            (None, None) => bail!("the API server ended the watch"),
        }
    }
}

impl Seen {
    fn learn(&mut self, job: &PatchJob) {
        self.actions.insert(job.spec.action);
        let Some(status) = &job.status else { return };
        self.permits.extend(status.permitted.iter().map(|permit| permit.step));
        let outcome = status.outcome.as_ref();
        let outcome =
            outcome.and_then(|signed| serde_json::from_str::<Value>(&signed.payload).ok());
        self.said
            .extend(outcome.and_then(|payload| payload["message"].as_str().map(str::to_owned)));
    }
}

/// Where a rollout stands, for the message of a story that breaks off.
fn summary(rollout: &PatchRollout) -> String {
    let status = rollout.status.clone().unwrap_or_default();
    let waits: Vec<_> = status.waiting_for.iter().map(|waiting| waiting.message.as_str()).collect();
    format!(
        "it is {:?} at stage {}: {} {}",
        status.phase,
        status.current_stage.unwrap_or_default(),
        status.message.unwrap_or_default(),
        waits.join("; ")
    )
}
