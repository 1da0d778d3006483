//! What a rollout costs the API server, by the API server's own count.

use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;
use wardring_api::{PatchRollout, RolloutPhase};
use wardring_e2e::writes;

use crate::support::{
    CONTROLLER, Place, Plan, install_with,
    manifests::{BUILDS, with},
    rollout, stage, world,
};

/// What opening, soaking and closing a stage may cost: its slice, its statuses, its group.
const PER_STAGE: u64 = 10;

#[tokio::test]
async fn a_patched_device_costs_six_writes_and_a_batch_of_them_three() -> Result<()> {
    // Nobody else's writes, and gateways that save writes as they do in production.
    let installation = install_with("writes", &CONTROLLER, &[]).await?;
    let plan = Plan::default().group("test", 6, &world()).group("production", 24, &world());
    let (place, _fleet) = Place::open(&installation, "writes", &plan).await?;
    let before = writes::count(&place.client).await?.context("our own API server hides nothing")?;
    let began = Instant::now();

    let production = with(stage("production"), json!({ "maxConcurrency": 6 }));
    place.create::<PatchRollout>(rollout(&[stage("test"), production], json!({}))).await?;
    place.until_phase(RolloutPhase::Completed).await?;
    place.until_builds(|builds| builds.values().all(|build| build == BUILDS[1])).await?;

    let after = writes::count(&place.client).await?.context("our own API server hides nothing")?;
    let seconds = began.elapsed().as_secs();
    let mut writes = writes::since(&before, after);
    // Events have a limit of their own.
    writes.remove("events");
    let of = |resource: &str| writes.get(resource).copied().unwrap_or(0);
    let devices = plan.devices.len() as u64;
    // Job made and deleted; two permits and the outcome; the facts. A conflict now and then is borne.
    let own = of("patchjobs") + of("patchjobs/status") + of("devices/status");
    assert!(own <= 6 * devices + devices / 10, "{own} for {devices} devices: {writes:?}");
    // Ledger, grants and outcomes. Counters for people come by the clock, not by the device.
    let limit = 6 * devices + 3 * of("patchledgers/status") + 2 * PER_STAGE + seconds;
    let total: u64 = writes.values().sum();
    assert!(total <= limit, "{total} of {limit} writes in {seconds} s: {writes:?}");
    installation.cluster.stop().await
}
