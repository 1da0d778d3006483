//! What operators see of the signer's work.

use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, ObjectReference};
use kube::Resource;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::runtime::events::EventType;
use serde_json::json;
use wardring_api::reasons::Reason;
use wardring_api::{Device, DeviceSpec};
use wardring_controller::cache::{Cache, watch_all};
use wardring_controller::events::Events;
use wardring_controller::identity::announce_quarantines;
use wardring_harness::wait_until;
use wardring_planner::{EventKind, RolloutRef};
use wardring_seal::{DeviceKey, Token};

use crate::world::{SOON, TENANT, World, claim, refused};

/// Waits for an Event about an object, and returns its note.
async fn event(world: &World, kind: &str, name: &str, reason: &str) -> Result<Event> {
    let events: Api<Event> = Api::namespaced(world.admin.clone(), TENANT);
    let about = format!("involvedObject.kind={kind},involvedObject.name={name},reason={reason}");
    let what = format!("the event {reason} about {kind} {name}");
    wait_until(SOON, &what, async || {
        events.list(&ListParams::default().fields(&about)).await.ok()?.items.pop()
    })
    .await
}

#[tokio::test]
async fn enrolments_and_refusals_are_told_at_the_object_a_person_looks_at() -> Result<()> {
    let world = World::start().await?;
    let identity = world.identity().await?;
    let _signer = world.sign(&identity);
    let token = world.token(&identity, "ward-3", |_| {}).await?;
    let spent = world.token(&identity, "ward-4", |spec| spec.max_uses = 1).await?;
    let forger = Token::generate(TENANT, "ward-3", token.root())?;

    world.enrol(&token, &DeviceKey::generate()?, "ws-17").await?;
    world.enrol(&spent, &DeviceKey::generate()?, "ws-18").await?;
    let stranger = DeviceKey::generate()?;
    assert_eq!(refused(&world.enrol(&token, &stranger, "ws-17").await?), "MayNotReplace");
    assert_eq!(refused(&world.enrol(&spent, &stranger, "ws-19").await?), "TokenRefused");
    let forged = forger.sign_claim(&claim(&stranger, "ws-20", Some("ward-3")));
    let name = world.file("ws-20", Some("ward-3"), forged).await?;
    assert_eq!(refused(&world.answer(&name).await?), "BadProof");

    let enrolled = event(&world, "Device", "ws-17", "Issued").await?;
    let device = world.devices().get("ws-17").await?;
    assert_eq!(enrolled.involved_object.uid, device.metadata.uid, "`kubectl describe` finds it");
    assert_eq!(enrolled.type_.as_deref(), Some("Normal"));
    assert!(enrolled.message.unwrap().contains("token ward-3"));
    let replaced = event(&world, "Device", "ws-17", "MayNotReplace").await?;
    assert_eq!(replaced.type_.as_deref(), Some("Warning"));
    let spent = event(&world, "EnrollmentToken", "ward-4", "TokenRefused").await?;
    assert!(spent.message.unwrap().contains("device ws-19: the token has admitted all 1 devices"));
    event(&world, "EnrollmentToken", "ward-3", "BadProof").await?;

    let numbers = world.metrics.encode()?;
    for line in [
        "wardring_controller_enrolment_answers_total{kind=\"Enroll\",reason=\"Issued\"} 2",
        "wardring_controller_enrolment_answers_total{kind=\"Enroll\",reason=\"BadProof\"} 1",
        "wardring_controller_enrolment_answers_total{kind=\"Enroll\",reason=\"MayNotReplace\"} 1",
        "wardring_controller_certificates_issued_total{certificate=\"device\"} 2",
    ] {
        assert!(numbers.contains(line), "{line}\n{numbers}");
    }
    world.cluster.stop().await
}

#[tokio::test]
async fn a_quarantine_is_told_once_at_the_device() -> Result<()> {
    let world = World::start().await?;
    let identity = world.identity().await?;
    let _signer = world.sign(&identity);
    let token = world.token(&identity, "ward-3", |_| {}).await?;
    for device in ["ws-17", "ws-18"] {
        world.enrol(&token, &DeviceKey::generate()?, device).await?;
    }
    let cache = Cache::default();
    let _watches = watch_all(&world.controller, &cache);
    wait_until(SOON, "the cache", async || cache.is_synced().then_some(())).await?;
    let events = Events::new(world.controller.clone(), "controller-test");
    tokio::spawn(announce_quarantines(world.controller.clone(), cache.clone(), events));

    // As a gateway writes it when two agents speak with one key, and then something else.
    let gateway: Api<Device> = Api::namespaced(world.gateway.clone(), TENANT);
    let quarantine = |version: &str| {
        json!({ "status": { "agentVersion": version, "conditions": [{
            "type": "Quarantined", "status": "True", "reason": "TwoAgents",
            "message": "Two live agents speak with this enrolment.",
            "lastTransitionTime": Timestamp::now(),
        }] } })
    };
    for (device, version) in [("ws-17", "1"), ("ws-17", "2"), ("ws-18", "1")] {
        let patch = Patch::Merge(quarantine(version));
        gateway.patch_status(device, &PatchParams::default(), &patch).await?;
        event(&world, "Device", device, "Quarantined").await?;
    }

    // They are told in order, so by now nothing more comes about the first.
    let told = event(&world, "Device", "ws-17", "Quarantined").await?;
    assert_eq!(told.message.as_deref(), Some("Two live agents speak with this enrolment."));
    assert!(told.series.is_none(), "{:?}", told.series);
    world.cluster.stop().await
}

#[tokio::test]
async fn the_api_server_takes_an_event_per_transition_and_counts_what_is_only_repeated()
-> Result<()> {
    let world = World::start().await?;
    let events = Events::new(world.controller.clone(), "controller-test");
    let transition = |note: &str| wardring_planner::Event {
        rollout: RolloutRef { name: "november".to_owned(), uid: "u-1".to_owned() },
        kind: EventKind::Normal,
        reason: Reason::InProgress,
        note: note.to_owned(),
    };
    for (version, note) in [(1, "Stage a opened."), (2, "Stage b opened."), (2, "Stage b opened.")]
    {
        events.emit(TENANT, version, transition(note)).await;
    }
    let device = Device::new("ws-17", DeviceSpec::default());
    let about = ObjectReference { namespace: Some(TENANT.to_owned()), ..device.object_ref(&()) };
    for _ in 0..3 {
        events.publish(&about, EventType::Warning, Reason::TokenRefused, "no certificate").await;
    }

    let told: Api<Event> = Api::namespaced(world.admin.clone(), TENANT);
    let mut told: Vec<_> = told
        .list(&ListParams::default())
        .await?
        .items
        .into_iter()
        .map(|event| (event.message, event.series.and_then(|series| series.count)))
        .collect();
    told.sort();
    let expected =
        [("Stage a opened.", None), ("Stage b opened.", None), ("no certificate", Some(3))];
    assert_eq!(told, expected.map(|(note, count)| (Some(note.to_owned()), count)));
    world.cluster.stop().await
}
