//! Controllers that die, freeze and come back. Whatever they were doing, no device is granted twice
//! and no cap is exceeded; the API server's watch history and the devices' journals are the witnesses.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use wardring_api::{JobAction, LineState, PatchRollout, RolloutPhase, names::LEASE_NAME};
use wardring_e2e::{Controller, Fleet, Installation, SYSTEM_NAMESPACE};
use wardring_harness::{wait_until, wait_until_ok};

use crate::support::{
    CONTROLLER, History, LONG, Place, Plan, SHORT,
    history::Change,
    install,
    journal::{acts, count},
    manifests::with,
    place::{ROLLOUT, stage_of},
    rollout, stage, world,
};

/// The restarts of a rollout that the issue asks for.
const CRASHES: usize = 10;

#[tokio::test]
async fn a_controller_killed_ten_times_ends_where_an_undisturbed_one_ends() -> Result<()> {
    let mut installation = install("killed", &CONTROLLER).await?;
    let plan = Plan::default().group("test", 6, &world()).group("production", 12, &world());
    let (place, fleet) = Place::open(&installation, "killed", &plan).await?;
    let mut history = History::begin(&place.client, &place.namespace).await;
    let production = with(stage("production"), json!({ "maxConcurrency": 3 }));

    place.create::<PatchRollout>(rollout(&[stage("test"), production], json!({}))).await?;
    let mut dice = Dice::new();
    for crash in 0..CRASHES {
        let moment = dice.within(1..=7);
        let write = timeout(LONG, history.next_decisions(moment)).await;
        write.with_context(|| format!("waited for decision {moment} before crash {crash}"))?;
        installation.controllers.pop().context("a controller runs")?.process.kill()?;
        installation.start_controller(&CONTROLLER).await?;
    }
    let under_way = place.api::<PatchRollout>().get(ROLLOUT).await?.status.unwrap_or_default();
    assert_ne!(under_way.phase, Some(RolloutPhase::Completed), "it ended before the last crash");
    place.until_phase(RolloutPhase::Completed).await?;

    assert!(history.leaders().len() > CRASHES / 2, "{:?}", history.leaders());
    assert_like_undisturbed(&place, &fleet, &plan, &history, &[("test", 2), ("production", 3)])
        .await
}

#[tokio::test]
async fn leaders_that_freeze_and_wake_by_turns_grant_nothing_twice() -> Result<()> {
    let mut installation = install("frozen", &named("a")).await?;
    installation.start_controller(&named("b")).await?;
    let plan = Plan::default().group("test", 4, &world()).group("production", 9, &world());
    let (place, fleet) = Place::open(&installation, "frozen", &plan).await?;
    let mut history = History::begin(&place.client, &place.namespace).await;
    let production = with(stage("production"), json!({ "maxConcurrency": 3 }));

    place.create::<PatchRollout>(rollout(&[stage("test"), production], json!({}))).await?;
    let mut dice = Dice::new();
    for _ in 0..4 {
        timeout(LONG, history.next_decisions(dice.within(1..=8))).await?;
        let old = leader(&installation).await?;
        old.process.freeze()?;
        until_another_leads(&installation, old).await?;
        // The new leader is at work when the old one wakes in the middle of what it was doing.
        timeout(LONG, history.next_decisions(dice.within(1..=3))).await?;
        old.process.thaw()?;
        until_it_knows(old).await?;
    }
    place.until_phase(RolloutPhase::Completed).await?;

    assert!(history.leaders().len() >= 4, "{:?}", history.leaders());
    assert_like_undisturbed(&place, &fleet, &plan, &history, &[("test", 2), ("production", 3)])
        .await
}

#[tokio::test]
async fn a_leader_that_wakes_after_an_abort_lets_no_device_begin() -> Result<()> {
    let mut installation = install("late", &named("a")).await?;
    installation.start_controller(&named("b")).await?;
    let plan = Plan::default().group("test", 12, &world());
    let (place, fleet) = Place::open(&installation, "late", &plan).await?;
    let mut history = History::begin(&place.client, &place.namespace).await;

    let wide = with(stage("test"), json!({ "maxConcurrency": 4 }));
    // Those that have begun may finish, so that the end is an end.
    let finish = json!({ "onHalt": { "installedAwaitingReboot": "Finish" } });
    place.create::<PatchRollout>(rollout(&[wide], finish)).await?;
    // In the middle of handing out a batch: its ledger entry is written, and not all of the rest.
    timeout(LONG, history.next(has_batch)).await?;
    let old = leader(&installation).await?;
    old.process.freeze()?;
    // Before the next leader hands out more.
    let abort = json!({ "spec": { "abort": { "reason": "a wrong update" } } });
    place.patch::<PatchRollout>(ROLLOUT, abort).await?;
    until_another_leads(&installation, old).await?;
    place
        .until_status(LONG, "to be aborted with nothing under way", |status| {
            status.phase == Some(RolloutPhase::Aborted)
                && stage_of(status, "test").counts.in_progress == 0
        })
        .await?;
    let (permits, lines) = (history.permits(), place.lines().await?);
    old.process.thaw()?;
    until_it_knows(old).await?;

    // What it had on its way is answered by now; nothing of it counts.
    assert_eq!(place.lines().await?, lines);
    assert_eq!(history.permits(), permits);
    for (_, device, _) in &plan.devices {
        let permitted = permits.contains_key(device);
        let acts = acts(&fleet, device)?;
        assert!(permitted || acts.is_empty(), "{device}: {acts:?}");
    }
    let unpermitted = plan.devices.iter().filter(|(_, device, _)| !permits.contains_key(device));
    assert!(unpermitted.count() >= 8, "the abort came too late to show anything: {permits:?}");
    Ok(())
}

/// As [`assert_each_device_once`], and every stage had as many devices at work as it may.
pub async fn assert_like_undisturbed(
    place: &Place,
    fleet: &Fleet,
    plan: &Plan,
    history: &History,
    caps: &[(&str, usize)],
) -> Result<()> {
    assert_each_device_once(place, fleet, plan, history, caps).await?;
    for (stage, cap) in caps {
        let most = history.most_in_flight(stage);
        assert!(most == *cap || !history.is_whole(), "{stage} uses its cap of {cap}: {most}");
    }
    Ok(())
}

/// Every device succeeded with one installation and one restart, no cap was exceeded at any moment,
/// and the sequence only grew.
pub async fn assert_each_device_once(
    place: &Place,
    fleet: &Fleet,
    plan: &Plan,
    history: &History,
    caps: &[(&str, usize)],
) -> Result<()> {
    let lines = place.lines().await?;
    assert_eq!(lines.len(), plan.devices.len());
    for (device, line) in &lines {
        assert_eq!((line.state, line.action), (LineState::Succeeded, JobAction::Install), "{line}");
        assert_eq!(line.tries, 1, "{line}");
        for (event, times) in [("install", 1), ("reboot", 1), ("uninstall", 0)] {
            let acts = acts(fleet, device)?;
            assert_eq!(count(fleet, device, event)?, times, "{event} of {device}: {acts:?}");
        }
    }
    for (stage, cap) in caps {
        let most = history.most_in_flight(stage);
        assert!(most <= *cap, "{stage} keeps its cap of {cap}: {most}");
    }
    let sequences = history.sequences();
    assert!(sequences.is_sorted(), "{sequences:?}");
    Ok(())
}

fn has_batch(change: &Change) -> bool {
    matches!(change, Change::Ledger(ledger)
        if ledger.status.as_ref().is_some_and(|status| status.batch.is_some()))
}

fn named(identity: &str) -> Vec<&str> {
    CONTROLLER.iter().copied().chain(["--identity", identity]).collect()
}

/// The name that the leader was given.
async fn holder(installation: &Installation) -> Result<Option<String>> {
    let leases: Api<Lease> =
        Api::namespaced(installation.cluster.client().await?, SYSTEM_NAMESPACE);
    let lease = leases.get_opt(LEASE_NAME).await?;
    let holder = lease.and_then(|lease| lease.spec).and_then(|spec| spec.holder_identity);
    // Each process adds a part of its own.
    Ok(holder.map(|holder| holder.split('_').next().unwrap_or_default().to_owned()))
}

/// The controller that leads.
async fn leader(installation: &Installation) -> Result<&Controller> {
    match holder(installation).await?.as_deref() {
        Some("a") => Ok(&installation.controllers[0]),
        Some("b") => Ok(&installation.controllers[1]),
        other => bail!("{other:?} leads"),
    }
}

async fn until_another_leads(installation: &Installation, old: &Controller) -> Result<()> {
    wait_until(SHORT, "another controller to lead", async || {
        let now = leader(installation).await.ok()?;
        (now.http != old.http).then_some(())
    })
    .await
}

/// Waits until a controller has noticed that it does not lead any more.
async fn until_it_knows(controller: &Controller) -> Result<()> {
    wait_until_ok(SHORT, "the old leader to notice that it was replaced", async || {
        let metrics = get(&format!("{}/metrics", controller.http)).await;
        let metrics = metrics.map_err(|error| format!("{error:#}"))?;
        let leads = metrics.lines().find(|line| line.starts_with("wardring_controller_leader "));
        match leads {
            Some("wardring_controller_leader 0") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

/// GET over plain HTTP.
async fn get(url: &str) -> Result<String> {
    let rest = url.strip_prefix("http://").context("health is plain HTTP")?;
    let (address, path) = rest.split_once('/').context("the URL has a path")?;
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET /{path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    timeout(Duration::from_secs(5), stream.read_to_string(&mut text)).await??;
    Ok(text)
}

/// Chance, with a seed that is printed.
struct Dice(u64);

impl Dice {
    fn new() -> Dice {
        let seed = std::env::var("WARDRING_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
        println!("WARDRING_SEED={seed} chooses the same moments again");
        Dice(seed)
    }

    fn within(&mut self, range: std::ops::RangeInclusive<usize>) -> usize {
        // Knuth's linear congruential generator; its high bits are good enough to pick a moment.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        range.start() + (self.0 >> 33) as usize % (range.end() - range.start() + 1)
    }
}
