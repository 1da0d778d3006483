//! A captured gateway that files as much as it can, with the gateways' own service account.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;
use wardring_api::{Device, EnrollmentKind, EnrollmentRequest, EnrollmentRequestSpec};
use wardring_harness::{wait_until, wait_until_ok};
use wardring_seal::{DeviceKey, Trust};

use crate::world::{SOON, TENANT, World, accepted};

/// Requests at a time that the captured gateway keeps in the air.
const AT_ONCE: usize = 48;
/// What the signer lets lie: 512 that wait, 512 refusals, and what comes while it removes. Requests
/// are filed faster than this in seconds.
const KEPT: usize = 512 + 512;
const IN_BETWEEN: usize = 1_500;
/// Honest devices that enrol meanwhile, one after the other.
const HONEST: usize = 8;
/// Each of them within this, also on a busy machine with two cores. Without the flood it is well
/// under a second.
const PATIENCE: Duration = Duration::from_secs(15);

/// Garbage of the largest size, no two alike.
fn garbage(number: usize) -> EnrollmentRequest {
    let spec = EnrollmentRequestSpec {
        kind: EnrollmentKind::Enroll,
        claim: "x".repeat(8_000),
        proof: "x".repeat(200),
        certificate: None,
        // Half of them under the token that honest devices use.
        token: Some(if number.is_multiple_of(2) { "ward-3".into() } else { format!("t-{number}") }),
        device: format!("ws-{number}"),
    };
    EnrollmentRequest::new(&format!("er-{number:040x}"), spec)
}

/// Files garbage until it is dropped, and counts it.
fn flood(gateway: &Client, filed: &Arc<AtomicUsize>) -> JoinSet<()> {
    let mut all = JoinSet::new();
    let numbers = Arc::new(AtomicUsize::new(0));
    for _ in 0..AT_ONCE {
        let requests: Api<EnrollmentRequest> = Api::namespaced(gateway.clone(), TENANT);
        let (numbers, filed) = (numbers.clone(), filed.clone());
        all.spawn(async move {
            loop {
                let request = garbage(numbers.fetch_add(1, Ordering::Relaxed));
                if requests.create(&PostParams::default(), &request).await.is_ok() {
                    filed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    all
}

async fn stored(world: &World) -> Result<usize> {
    let page = ListParams::default().limit(1);
    let all: Api<EnrollmentRequest> = Api::all(world.admin.clone());
    let list = all.list_metadata(&page).await?;
    let rest = list.metadata.remaining_item_count.unwrap_or(0);
    Ok(list.items.len() + usize::try_from(rest)?)
}

#[tokio::test]
async fn a_flood_of_requests_fills_nothing_and_honest_devices_enrol_meanwhile() -> Result<()> {
    let world = World::start().await?;
    let identity = world.identity().await?;
    let _signer = world.sign(&identity);
    let token = world.token(&identity, "ward-3", |_| {}).await?;
    // What a pass does: a write under the controller's account, to measure how long it takes.
    let passes: Api<Device> = Api::namespaced(world.controller.clone(), TENANT);
    world.enrol(&token, &DeviceKey::generate()?, "ws-1").await?;

    let filed = Arc::new(AtomicUsize::new(0));
    let mut attack = flood(&world.gateway, &filed);
    let what = "the flood to be larger than what may be kept";
    wait_until(SOON * 2, what, async || (filed.load(Ordering::Relaxed) > 2 * KEPT).then_some(()))
        .await?;
    let (mut slowest, mut longest_pass, mut most) = (Duration::ZERO, Duration::ZERO, 0);
    for number in 0..HONEST {
        let (key, began) = (DeviceKey::generate()?, Instant::now());
        let answer = world.enrol(&token, &key, &format!("honest-{number}")).await?;
        accepted(&answer, &key, &Trust::Pinned(token.root()), None);
        slowest = slowest.max(began.elapsed());
        let began = Instant::now();
        let touch = json!({ "status": { "agentVersion": number.to_string() } });
        passes.patch_status("ws-1", &PatchParams::default(), &Patch::Merge(touch)).await?;
        longest_pass = longest_pass.max(began.elapsed());
        most = most.max(stored(&world).await?);
    }
    attack.shutdown().await;
    let filed = filed.load(Ordering::Relaxed);
    println!(
        "{filed} filed, at most {most} stored, {slowest:?} to enrol, {longest_pass:?} to write"
    );

    assert!(most <= KEPT + HONEST + IN_BETWEEN, "{most} of {filed} were stored");
    assert!(slowest < PATIENCE, "an honest device waited {slowest:?}");
    assert!(longest_pass < Duration::from_secs(5), "a write took {longest_pass:?}");
    wait_until_ok(SOON, "the flood to be worked off", async || match stored(&world).await {
        Ok(left) if left <= KEPT + HONEST + 1 => Ok(()),
        Ok(left) => Err(format!("{left} requests")),
        Err(error) => Err(error.to_string()),
    })
    .await?;
    let devices = world.devices().list(&ListParams::default()).await?;
    let names: BTreeSet<_> = devices.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names.len(), HONEST + 1, "{names:?}");
    assert_eq!(world.uses("ward-3").await?, u32::try_from(HONEST + 1)?);
    world.cluster.stop().await
}

#[tokio::test]
async fn a_request_that_would_resist_removal_or_is_called_anything_is_not_taken() -> Result<()> {
    let world = World::start().await?;
    let name = format!("er-{:040x}", 1);
    let meta = |name: &str| ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let big = [("note".to_owned(), "x".repeat(200_000))];
    let owner = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "b", "blockOwnerDeletion": true,
    }))?;
    for (metadata, word) in [
        (meta("anything"), "40 hexadecimal digits"),
        (meta(&format!("{name}00")), "40 hexadecimal digits"),
        (
            ObjectMeta { finalizers: Some(vec!["a.example/stay".into()]), ..meta(&name) },
            "can always be removed",
        ),
        (ObjectMeta { annotations: Some(big.into()), ..meta(&name) }, "stays small"),
        (
            ObjectMeta { labels: Some([("a".into(), "b".into())].into()), ..meta(&name) },
            "stays small",
        ),
        (ObjectMeta { owner_references: Some(vec![owner]), ..meta(&name) }, "owner references"),
    ] {
        let request = EnrollmentRequest { metadata, ..garbage(1) };
        let created = world.requests().create(&PostParams::default(), &request).await;
        let Err(kube::Error::Api(status)) = created else { panic!("{created:?}") };
        assert!(status.message.contains(word), "{}", status.message);
    }
    world.requests().create(&PostParams::default(), &garbage(1)).await?;
    world.cluster.stop().await
}
