//! Outages of ours: API server and gateways go and come back. Devices at work go on with what they
//! may, nobody is taken for offline, nothing is reported in vain and nothing is rolled back.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use kube::ResourceExt;
use serde_json::json;
use tokio::time::timeout;
use wardring_api::{PatchRollout, RolloutPhase, conditions};
use wardring_harness::wait_until;

use crate::{
    crashes::{assert_each_device_once, assert_like_undisturbed},
    support::{
        CONTROLLER, GATEWAY, History, LONG, Place, Plan, history::Change, install, manifests::with,
        rollout, stage, world, world_with,
    },
};

/// What a gateway's silence takes to be noticed, and some more.
const GATEWAYS_SILENT_AFTER: Duration = Duration::from_secs(15);

#[tokio::test]
async fn an_api_server_that_restarts_in_the_middle_changes_nothing_of_the_end() -> Result<()> {
    let installation = install("apiserver", &CONTROLLER).await?;
    let plan = Plan::default().group("test", 4, &world()).group("production", 6, &world());
    let (place, fleet) = Place::open(&installation, "apiserver", &plan).await?;
    let mut history = History::begin(&place.client, &place.namespace).await;

    let stages = [stage("test"), stage("production")];
    place.create::<PatchRollout>(rollout(&stages, json!({}))).await?;
    for _ in 0..2 {
        // Devices are at work, and have more to ask and to report.
        timeout(LONG, history.next(has_permit)).await?;
        installation.cluster.restart_apiserver().await?;
    }
    place.until_phase(RolloutPhase::Completed).await?;

    assert_nobody_was_offline(&history);
    assert_like_undisturbed(&place, &fleet, &plan, &history, &[("test", 2), ("production", 2)])
        .await
}

#[tokio::test]
async fn gateways_that_are_killed_and_replaced_lose_no_report() -> Result<()> {
    let flags: Vec<&str> = CONTROLLER.iter().copied().chain(["--offline-after", "30s"]).collect();
    let mut installation = install("gateways", &flags).await?;
    let plan = Plan::default().group("test", 4, &world()).group("production", 8, &world());
    let (place, fleet) = Place::open(&installation, "gateways", &plan).await?;
    let mut history = History::begin(&place.client, &place.namespace).await;

    let stages = [stage("test"), stage("production")];
    place.create::<PatchRollout>(rollout(&stages, json!({}))).await?;
    for turn in 0..4 {
        timeout(LONG, history.next(has_permit)).await?;
        installation.gateways[turn % 2].process.kill()?;
        // The other one serves alone for a while.
        timeout(LONG, history.next(has_permit)).await?;
        installation.replace_gateway(turn % 2, &GATEWAY).await?;
    }
    place.until_phase(RolloutPhase::Completed).await?;

    assert_nobody_was_offline(&history);
    assert_like_undisturbed(&place, &fleet, &plan, &history, &[("test", 2), ("production", 2)])
        .await
}

#[tokio::test]
async fn without_any_gateway_for_long_nobody_is_offline_and_nothing_is_rolled_back() -> Result<()> {
    let offline_after = Duration::from_secs(5);
    let flags: Vec<&str> = CONTROLLER.iter().copied().chain(["--offline-after", "5s"]).collect();
    let mut installation = install("dark", &flags).await?;
    let plan = Plan::default().group("test", 6, &world()).group("production", 4, &world());
    let (place, fleet) = Place::open(&installation, "dark", &plan).await?;
    let mut history = History::begin(&place.client, &place.namespace).await;

    let rollback = json!({ "onFailure": { "action": "Rollback", "scope": "AllStages" } });
    let first = with(stage("test"), json!({ "maxConcurrency": 3 }));
    place.create::<PatchRollout>(rollout(&[first, stage("production")], rollback)).await?;
    timeout(LONG, history.next(has_permit)).await?;
    for gateway in &mut installation.gateways {
        gateway.process.kill()?;
    }
    // Only the passing of time can be waited for: it is what must change nothing.
    tokio::time::sleep(GATEWAYS_SILENT_AFTER + 2 * offline_after).await;
    assert_nobody_was_offline(&history);
    for index in 0..installation.gateways.len() {
        installation.replace_gateway(index, &GATEWAY).await?;
    }
    place.until_phase(RolloutPhase::Completed).await?;

    // Agents come back one by one within a minute, which is longer than `--offline-after` is here, and who
    // is silent is not granted: a stage need not get to use its cap.
    assert_each_device_once(&place, &fleet, &plan, &history, &[("test", 3), ("production", 2)])
        .await
}

#[tokio::test]
async fn a_device_that_really_falls_silent_is_marked_offline() -> Result<()> {
    // What the tests above rely on: silence is noticed where it is the device's.
    let flags: Vec<&str> = CONTROLLER.iter().copied().chain(["--offline-after", "2s"]).collect();
    let installation = install("silence", &flags).await?;
    let plan = Plan::default().group("test", 2, &world());
    let (place, mut fleet) = Place::open(&installation, "silence", &plan).await?;
    let history = History::begin(&place.client, &place.namespace).await;

    fleet.process.kill()?;

    wait_until(LONG, "both devices to be marked offline", async || {
        (offline(&history).len() == 2).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_device_that_never_returns_from_its_restart_is_offline_once_it_is_unreachable()
-> Result<()> {
    let flags: Vec<&str> = CONTROLLER.iter().copied().chain(["--offline-after", "2s"]).collect();
    let installation = install("unreachable", &flags).await?;
    let plan = Plan::default().group("test", 1, &world_with(json!({ "neverReturn": true })));
    let (place, _fleet) = Place::open(&installation, "unreachable", &plan).await?;
    let history = History::begin(&place.client, &place.namespace).await;

    let stages = [with(stage("test"), json!({ "rebootDeadline": "8s" }))];
    place.create::<PatchRollout>(rollout(&stages, json!({}))).await?;
    place.until_phase(RolloutPhase::Halted).await?;

    wait_until(LONG, "the device to be marked offline", async || {
        (offline(&history).len() == 1).then_some(())
    })
    .await
}

/// Whether a job shows a permit.
fn has_permit(change: &Change) -> bool {
    matches!(change, Change::Job(job)
    if job.status.as_ref().is_some_and(|status| {
        !status.permitted.is_empty() && status.outcome.is_none()
    }))
}

#[track_caller]
fn assert_nobody_was_offline(history: &History) {
    assert_eq!(offline(history), BTreeSet::new());
}

/// Devices of which a stored version says that they are offline.
fn offline(history: &History) -> BTreeSet<String> {
    let events = history.events().into_iter();
    let offline = events.filter_map(|event| match event.change {
        Change::Device(device) => {
            let mut online = device.status.iter().flat_map(|status| &status.conditions);
            let is_offline = online.any(|condition| {
                condition.type_ == conditions::ONLINE && condition.status == "False"
            });
            is_offline.then(|| device.name_any())
        }
        _ => None,
    });
    offline.collect()
}
