//! What people do to objects in the middle of a run. Nothing of it installs, uninstalls or restarts
//! anything that was not on its way already.

use std::time::Duration;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PropagationPolicy},
};
use serde_json::json;
use tokio::time::timeout;
use wardring_api::{
    Device, DeviceGroup, LineState, PatchRollout, PatchRolloutStatus, RolloutPhase, StageState,
    reasons::Reason,
};
use wardring_e2e::Fleet;
use wardring_harness::wait_until;

use crate::support::{
    History, LONG, Place, Plan, SHORT,
    history::Change,
    journal::{acts, count, touched},
    manifests::with,
    place::{ROLLOUT, stage_of},
    rollout, shared, stage, world,
};

/// A permit that a gateway was deciding on at the deletion may still be stored: it decides for so long.
const ON_ITS_WAY: SignedDuration = SignedDuration::from_secs(10);

#[tokio::test]
async fn a_rollout_deleted_in_the_background_moves_no_device_any_more() -> Result<()> {
    delete_rollout("deleted-behind", PropagationPolicy::Background).await
}

#[tokio::test]
async fn a_rollout_deleted_in_the_foreground_moves_no_device_any_more() -> Result<()> {
    delete_rollout("deleted-in-front", PropagationPolicy::Foreground).await
}

async fn delete_rollout(namespace: &str, policy: PropagationPolicy) -> Result<()> {
    let plan = Plan::default().group("test", 10, &world());
    let (place, fleet) = Place::open(shared().await?, namespace, &plan).await?;
    let mut history = History::begin(&place.client, &place.namespace).await;
    // What waits for its restart never gets it, and is waited for only so long.
    let first = with(stage("test"), json!({ "deviceDeadline": "15s" }));
    place.create::<PatchRollout>(rollout(&[first], json!({}))).await?;
    timeout(LONG, history.next(has_permit)).await?;

    let params = DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
    place.api::<PatchRollout>().delete(ROLLOUT, &params).await?;
    let deleted = Timestamp::now();
    place.until_gone::<PatchRollout>(LONG, ROLLOUT).await?;

    for (device, permits) in history.permits() {
        for permit in permits {
            let late = permit.at.duration_since(deleted) > ON_ITS_WAY;
            assert!(!late, "{device} got {permit:?} after the deletion at {deleted}");
        }
    }
    assert_moved_only_with_permits(&plan, &fleet, &history)?;
    // The record outlives the rollout, and holds no grant.
    let lines = place.lines().await?;
    assert_eq!(lines.len(), 10);
    assert!(lines.values().all(|line| line.state != LineState::Granted), "{lines:?}");
    assert!(lines.values().any(|line| line.state == LineState::Pending), "{lines:?}");
    Ok(())
}

#[tokio::test]
async fn a_namespace_deleted_in_the_middle_goes_and_no_device_moves_any_more() -> Result<()> {
    // The rollout itself shows no deletion for some seconds: one device would install within them, the
    // other one restart.
    let (mut downloads, mut installs) = (world(), world());
    downloads["updates"][0]["downloadMs"] = json!(8_000);
    installs["updates"][0]["installMs"] = json!(8_000);
    let plan = Plan::default().group("test", 1, &installs).group("test", 1, &downloads);
    let (place, fleet) = Place::open(shared().await?, "deleted-namespace", &plan).await?;
    let mut history = History::begin(&place.client, &place.namespace).await;
    place.create::<PatchRollout>(rollout(&[stage("test")], json!({}))).await?;
    timeout(LONG, history.next(has_permit)).await?;

    let namespaces: Api<Namespace> = Api::all(place.client.clone());
    namespaces.delete(&place.namespace, &DeleteParams::default()).await?;
    let deleted = Timestamp::now();
    wait_until(LONG, "the namespace to go", async || {
        matches!(namespaces.get_opt(&place.namespace).await, Ok(None)).then_some(())
    })
    .await?;

    for (device, permits) in history.permits() {
        for permit in permits {
            let late = permit.at.duration_since(deleted) > ON_ITS_WAY;
            assert!(!late, "{device} got {permit:?} after the deletion at {deleted}");
        }
    }
    for (_, device, _) in &plan.devices {
        assert_eq!(count(&fleet, device, "reboot")?, 0, "{device} restarted");
    }
    assert_eq!(touched(&fleet, [&"test-2".to_owned()])?, Vec::<String>::new());
    assert_moved_only_with_permits(&plan, &fleet, &history)
}

#[tokio::test]
async fn a_group_deleted_in_the_middle_of_its_stage_ends_nothing_and_a_missing_one_opens_nothing()
-> Result<()> {
    let plan = Plan::default().group("test", 4, &world()).group("production", 2, &world());
    let (place, fleet) = Place::open(shared().await?, "deleted-groups", &plan).await?;
    let mut history = History::begin(&place.client, &place.namespace).await;
    let stages = [stage("test"), stage("production")];
    place.create::<PatchRollout>(rollout(&stages, json!({}))).await?;
    timeout(LONG, history.next(has_permit)).await?;

    let groups = place.api::<DeviceGroup>();
    let mut again = Vec::new();
    for name in ["test", "production"] {
        let group = groups.get(name).await?;
        again.push(json!({ "metadata": { "name": name }, "spec": group.spec }));
        groups.delete(name, &DeleteParams::default()).await?;
    }
    place
        .until_status(LONG, "to miss its groups", |status| says(status, Reason::GroupNotFound))
        .await?;
    place.create::<DeviceGroup>(again.remove(0)).await?;
    let status = place
        .until_status(LONG, "to miss its second group", |status| {
            stage_of(status, "test").state == StageState::Completed
                && says(status, Reason::GroupNotFound)
        })
        .await?;
    assert_eq!(stage_of(&status, "test").counts.succeeded, 4, "the frozen list is kept");
    assert_eq!(touched(&fleet, &plan.names("production"))?, Vec::<String>::new());

    place.create::<DeviceGroup>(again.remove(0)).await?;
    place.until_phase(RolloutPhase::Completed).await?;
    assert_moved_only_with_permits(&plan, &fleet, &history)
}

#[tokio::test]
async fn a_device_deleted_in_the_middle_of_its_job_fails_as_replaced_and_the_others_go_on()
-> Result<()> {
    // Long enough for the deletion to come in between.
    let mut slow = world();
    slow["updates"][0]["installMs"] = json!(15_000);
    let plan = Plan::default().group("test", 4, &slow);
    let (place, fleet) = Place::open(shared().await?, "deleted-device", &plan).await?;
    let mut history = History::begin(&place.client, &place.namespace).await;
    let first = with(stage("test"), json!({ "maxFailures": 1, "minCoverage": "50%" }));
    place.create::<PatchRollout>(rollout(&[first], json!({}))).await?;
    timeout(LONG, history.next(has_permit)).await?;

    let (device, _) = history.permits().pop_first().expect("a permit was seen");
    place.api::<Device>().delete(&device, &DeleteParams::default()).await?;
    place.until_phase(RolloutPhase::Completed).await?;

    let lines = place.lines().await?;
    let replaced = &lines[&device];
    assert_eq!((replaced.state, replaced.reason), (LineState::Failed, Some(Reason::Replaced)));
    let others = lines.values().filter(|line| line.device != device);
    assert!(others.into_iter().all(|line| line.state == LineState::Succeeded), "{lines:?}");
    assert_moved_only_with_permits(&plan, &fleet, &history)
}

#[tokio::test]
async fn a_selector_that_matches_nothing_opens_nothing() -> Result<()> {
    let plan = Plan::default().group("production", 2, &world());
    let (place, fleet) = Place::open(shared().await?, "nobody", &plan).await?;
    let nobody = json!({ "name": "nobody", "selector": { "matchLabels": { "group": "tset" } } });
    place.create::<PatchRollout>(rollout(&[nobody, stage("production")], json!({}))).await?;

    let status = place
        .until_status(SHORT, "to say that its first stage selects nobody", |status| {
            says(status, Reason::TooFewDevices)
        })
        .await?;

    assert_eq!(stage_of(&status, "nobody").state, StageState::Pending);
    assert_eq!(stage_of(&status, "production").state, StageState::Pending);
    assert_eq!(touched(&fleet, &plan.names("production"))?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_device_in_two_stages_belongs_to_the_first() -> Result<()> {
    let plan = Plan::default().group("test", 2, &world()).group("production", 2, &world());
    let (place, fleet) = Place::open(shared().await?, "twice", &plan).await?;
    let everybody = json!({
        "name": "everybody",
        "selector": { "matchExpressions": [{ "key": "group", "operator": "Exists" }] },
    });
    place.create::<PatchRollout>(rollout(&[stage("test"), everybody], json!({}))).await?;

    let status = place.until_phase(RolloutPhase::Completed).await?;

    assert_eq!(stage_of(&status, "test").counts.total, 2);
    assert_eq!(stage_of(&status, "everybody").counts.total, 2);
    for (_, device, _) in &plan.devices {
        assert_eq!(count(&fleet, device, "install")?, 1, "{device}");
    }
    Ok(())
}

#[tokio::test]
async fn two_rollouts_that_want_the_same_devices_take_turns() -> Result<()> {
    let plan = Plan::default().group("test", 3, &world());
    let (place, fleet) = Place::open(shared().await?, "contested", &plan).await?;
    let history = History::begin(&place.client, &place.namespace).await;
    let first = rollout(&[stage("test")], json!({}));
    // Somebody else has it done already by the time it is this one's turn.
    let mut second = rollout(&[with(stage("test"), json!({ "minProven": 0 }))], json!({}));
    second["metadata"]["name"] = json!("second");
    place.create::<PatchRollout>(first).await?;
    place.create::<PatchRollout>(second).await?;

    for name in [ROLLOUT, "second"] {
        place
            .until::<PatchRollout>(LONG, name, "to complete", |rollout| {
                let phase = rollout.status.as_ref().and_then(|status| status.phase);
                phase == Some(RolloutPhase::Completed)
            })
            .await?;
    }

    for (_, device, _) in &plan.devices {
        assert_eq!(count(&fleet, device, "install")?, 1, "{device}");
        assert_eq!(count(&fleet, device, "reboot")?, 1, "{device}");
    }
    // A job is a lock: it never changed hands without going first.
    let mut owners = std::collections::BTreeMap::new();
    for event in history.events() {
        match event.change {
            Change::Job(job) => {
                let owner = owners.entry(job.name_any()).or_insert(job.spec.rollout.clone());
                assert_eq!(*owner, job.spec.rollout, "{}", job.name_any());
            }
            Change::JobGone(device) => drop(owners.remove(&device)),
            _ => {}
        }
    }
    Ok(())
}

#[tokio::test]
async fn updates_that_are_offered_nowhere_prove_nothing_and_open_nothing() -> Result<()> {
    let mut nothing = world();
    nothing["updates"][0]["availability"] = json!("NotOffered");
    let plan = Plan::default().group("test", 3, &nothing).group("production", 2, &world());
    let (place, fleet) = Place::open(shared().await?, "not-offered", &plan).await?;
    let stages = [stage("test"), stage("production")];
    place.create::<PatchRollout>(rollout(&stages, json!({}))).await?;

    let status = place
        .until_status(LONG, "to say that nothing was proven", |status| {
            stage_of(status, "test").counts.not_applicable == 3
                && says(status, Reason::NotEnoughProven)
        })
        .await?;

    assert_eq!(stage_of(&status, "production").state, StageState::Pending);
    assert_eq!(touched(&fleet, &plan.names("production"))?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn after_the_end_nothing_is_written_any_more() -> Result<()> {
    /// Longer than every period in the processes of these tests.
    const WATCHED: Duration = Duration::from_secs(8);
    let plan = Plan::default().group("test", 3, &world());
    let (place, _fleet) = Place::open(shared().await?, "quiet", &plan).await?;
    let history = History::begin(&place.client, &place.namespace).await;
    place.create::<PatchRollout>(rollout(&[stage("test")], json!({}))).await?;
    place.until_phase(RolloutPhase::Completed).await?;
    // The last facts of the devices, and the jobs that go.
    wait_until(LONG, "the namespace to come to rest", async || {
        let before = history.events().len();
        tokio::time::sleep(Duration::from_secs(3)).await;
        (history.events().len() == before).then_some(())
    })
    .await?;
    let before = history.events().len();

    // Only the passing of time can be waited for: nothing is what must happen in it.
    tokio::time::sleep(WATCHED).await;

    let after = history.events();
    assert_eq!(after.len(), before, "{:?}", &after[before..]);
    Ok(())
}

fn has_permit(change: &Change) -> bool {
    matches!(change, Change::Job(job)
        if job.status.as_ref().is_some_and(|status| !status.permitted.is_empty()))
}

/// Whether the status names a reason: as what it waits for, or in a condition.
fn says(status: &PatchRolloutStatus, reason: Reason) -> bool {
    let word = reason.as_str();
    status.waiting_for.iter().any(|waiting| waiting.reason == word)
        || status.conditions.iter().any(|condition| condition.reason == word)
}

/// No device was installed on or restarted without a permit, none twice, and nothing was taken back.
fn assert_moved_only_with_permits(plan: &Plan, fleet: &Fleet, history: &History) -> Result<()> {
    let permits = history.permits();
    for (_, device, _) in &plan.devices {
        let acts = acts(fleet, device)?;
        assert!(acts.is_empty() || permits.contains_key(device), "{device}: {acts:?}");
        assert!(count(fleet, device, "install")? <= 1, "{device}: {acts:?}");
        assert!(count(fleet, device, "reboot")? <= 1, "{device}: {acts:?}");
        assert_eq!(count(fleet, device, "uninstall")?, 0, "{device}: {acts:?}");
    }
    Ok(())
}
