//! Every way to a certificate, the authority behind them, and what it publishes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::Notify;
use wardring_api::{Device, DeviceMode};
use wardring_controller::identity::{Identity, keep_published};
use wardring_seal::{
    Authority, DeviceKey, EnrolmentClaim, Roots, SignedClaim, Token, Trust, certificate_expiry,
};

use crate::world::{SOON, SYSTEM, TENANT, World, accepted, claim, refused};

#[tokio::test]
async fn a_device_enrols_renews_and_loses_its_certificate_when_it_is_replaced() -> Result<()> {
    let world = World::start().await?;
    let identity = world.identity().await?;
    let _signer = world.sign(&identity);
    let token = world.token(&identity, "ward-3", |_| {}).await?;
    let key = DeviceKey::generate()?;
    let pinned = Trust::Pinned(token.root());

    // It enrols, and its Device is as the token says.
    let answer = world.enrol(&token, &key, "ws-17").await?;
    let (id, certificate, roots) = accepted(&answer, &key, &pinned, None);
    let device = world.devices().get("ws-17").await?;
    assert_eq!(device.spec.enrolment_id.as_ref(), Some(&id));
    assert_eq!(device.spec.mode, DeviceMode::Manage);
    assert_eq!(device.labels().get("ward").map(String::as_str), Some("3"));

    // It asks again with a new claim, as if it had missed the answer: same enrolment, not counted.
    let again = world.enrol(&token, &key, "ws-17").await?;
    assert_eq!(accepted(&again, &key, &pinned, None).0, id);
    assert_eq!(world.uses("ward-3").await?, 1);

    // It renews with a new key.
    let next = DeviceKey::generate()?;
    let signed = key.sign_renewal(&claim(&next, "ws-17", None), &certificate)?;
    let name = world.file("ws-17", None, signed).await?;
    let trust = Trust::Roots(roots);
    let (renewed, next_certificate, _) =
        accepted(&world.answer(&name).await?, &next, &trust, Some(&id));
    assert_eq!(renewed, id);

    // Another machine of the same name is refused, until a token may replace.
    let stranger = DeviceKey::generate()?;
    let answer = world.enrol(&token, &stranger, "ws-17").await?;
    assert_eq!(refused(&answer), "MayNotReplace");
    let replacing = world.token(&identity, "replacing", |spec| spec.may_replace = true).await?;
    let answer = world.enrol(&replacing, &stranger, "ws-17").await?;
    let (replaced, _, _) = accepted(&answer, &stranger, &pinned, None);
    assert_ne!(replaced, id);

    // The replaced one renews no more.
    let signed = next.sign_renewal(&claim(&next, "ws-17", None), &next_certificate)?;
    let name = world.file("ws-17", None, signed).await?;
    assert_eq!(refused(&world.answer(&name).await?), "NotEnrolled");

    // A revoked token admits nobody.
    world.tokens().delete("ward-3", &DeleteParams::default()).await?;
    let answer = world.enrol(&token, &DeviceKey::generate()?, "ws-18").await?;
    assert_eq!(refused(&answer), "TokenRefused");
    assert!(world.devices().get_opt("ws-18").await?.is_none());
    world.cluster.stop().await
}

#[tokio::test]
async fn a_gateway_gets_no_certificate_by_itself() -> Result<()> {
    let world = World::start().await?;
    let identity = world.identity().await?;
    let _signer = world.sign(&identity);
    let token = world.token(&identity, "ward-3", |spec| spec.may_replace = true).await?;
    let key = DeviceKey::generate()?;
    let answer = world.enrol(&token, &key, "ws-17").await?;
    let (id, certificate, _) = accepted(&answer, &key, &Trust::Pinned(token.root()), None);

    let own = DeviceKey::generate()?;
    let forger = Token::generate(TENANT, "ward-3", token.root())?;
    let forged = forger.sign_claim(&claim(&own, "ws-66", Some("ward-3")));
    let honest = token.sign_claim(&claim(&key, "ws-18", Some("ward-3")));
    let altered = SignedClaim { claim: honest.claim.replace("ws-18", "dc-01"), ..honest.clone() };
    let stolen = own.sign_renewal(&claim(&own, "ws-17", None), &certificate)?;
    let an_hour_ago = Timestamp::now() - SignedDuration::from_mins(61);
    let replayed = EnrolmentClaim { at: an_hour_ago, ..claim(&own, "ws-17", Some("ward-3")) };
    let replayed = token.sign_claim(&replayed);
    for (device, filed_under, signed, reason) in [
        ("ws-66", Some("ward-3"), forged, "BadProof"),
        ("dc-01", Some("ward-3"), altered, "BadProof"),
        ("dc-02", Some("ward-3"), honest, "BadProof"),
        ("ws-17", Some("ward-3"), replayed, "StaleClaim"),
        ("ws-17", None, stolen, "BadProof"),
    ] {
        let name = world.file(device, filed_under, signed).await?;
        assert_eq!(refused(&world.answer(&name).await?), reason, "{device}");
    }

    // Nor can it answer for the signer, or touch a Device's spec.
    let fake = json!({ "status": { "answeredAt": Timestamp::now(), "certificate": "AAAA" } });
    let name = world.requests().list(&ListParams::default()).await?.items[0].name_any();
    let patched =
        world.requests().patch_status(&name, &PatchParams::default(), &Patch::Merge(&fake)).await;
    assert!(matches!(patched, Err(kube::Error::Api(status)) if status.is_forbidden()));
    let devices: Api<Device> = Api::namespaced(world.gateway.clone(), TENANT);
    let rebind = json!({ "spec": { "enrolmentId": "ffffffffffffffff" } });
    let patched = devices.patch("ws-17", &PatchParams::default(), &Patch::Merge(&rebind)).await;
    assert!(matches!(patched, Err(kube::Error::Api(status)) if status.is_forbidden()));

    // The status is its to write, and nothing that travels along.
    let along = json!({
        "metadata": { "labels": { "ward": "4" }, "annotations": { "a": "b" } },
        "status": { "agentVersion": "1" },
    });
    devices.patch_status("ws-17", &PatchParams::default(), &Patch::Merge(&along)).await?;
    let device = world.devices().get("ws-17").await?;
    assert_eq!(device.labels().get("ward").map(String::as_str), Some("3"));
    assert!(device.annotations().is_empty());

    let all = world.devices().list(&ListParams::default()).await?;
    let names: Vec<_> = all.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["ws-17"]);
    assert_eq!(all.items[0].spec.enrolment_id.as_ref(), Some(&id));
    assert_eq!(world.uses("ward-3").await?, 1);
    world.cluster.stop().await
}

#[tokio::test]
async fn signers_that_race_and_are_cut_off_admit_exactly_as_many_as_the_token_says() -> Result<()> {
    const ASKING: usize = 60;
    const ADMITTED: u32 = 45;
    let world = World::start().await?;
    let identity = world.identity().await?;
    let token = world.token(&identity, "ward-3", |spec| spec.max_uses = ADMITTED).await?;
    let mut filed = Vec::new();
    for number in 0..ASKING {
        let (key, device) = (DeviceKey::generate()?, format!("ws-{number}"));
        let signed = token.sign_claim(&claim(&key, &device, Some("ward-3")));
        filed.push((world.file(&device, Some("ward-3"), signed).await?, key, device));
    }

    // Two signers at a time, each cut off after an ever longer moment, wherever it is just then.
    for millis in (10..200).step_by(10) {
        let signers = [world.sign(&identity), world.sign(&identity)];
        tokio::time::sleep(Duration::from_millis(millis)).await;
        signers.iter().for_each(tokio::task::JoinHandle::abort);
    }
    let _signers = [world.sign(&identity), world.sign(&identity)];

    let mut admitted = BTreeSet::new();
    for (request, key, device) in &filed {
        let answer = world.answer(request).await?;
        if answer.refused.is_some() {
            assert_eq!(refused(&answer), "TokenRefused");
            continue;
        }
        let (id, _, _) = accepted(&answer, key, &Trust::Pinned(token.root()), None);
        let found = world.devices().get(device).await?;
        assert_eq!(found.spec.enrolment_id.as_ref(), Some(&id));
        admitted.insert(device.clone());
    }
    assert_eq!(admitted.len(), ADMITTED as usize);
    let devices = world.devices().list(&ListParams::default()).await?;
    assert_eq!(devices.iter().map(ResourceExt::name_any).collect::<BTreeSet<_>>(), admitted);
    assert_eq!(world.uses("ward-3").await?, ADMITTED);
    world.cluster.stop().await
}

#[tokio::test]
async fn a_lost_certificate_authority_is_not_replaced_while_devices_are_enrolled() -> Result<()> {
    let world = World::start().await?;

    // Several controllers that start at once agree on one authority.
    let (one, two) = tokio::join!(world.identity(), world.identity());
    let identity = one?;
    assert_eq!(identity.roots(), two?.roots());
    let secrets: Api<Secret> = Api::namespaced(world.admin.clone(), SYSTEM);
    let backup = secrets.get("wardring-ca").await?;

    // Nobody is enrolled yet: a lost Secret is simply made anew.
    secrets.delete("wardring-ca", &DeleteParams::default()).await?;
    assert_ne!(world.identity().await?.roots(), identity.roots());
    restore(&secrets, &backup).await?;
    assert_eq!(world.identity().await?.roots(), identity.roots());

    let signer = world.sign(&identity);
    let token = world.token(&identity, "ward-3", |_| {}).await?;
    world.enrol(&token, &DeviceKey::generate()?, "ws-17").await?;
    signer.abort();

    secrets.delete("wardring-ca", &DeleteParams::default()).await?;
    let error = world.identity().await.map(|_| ()).unwrap_err();
    let sentence = error.to_string();
    assert!(sentence.contains("Secret wardring-system/wardring-ca is missing"), "{sentence}");
    assert!(sentence.contains("hospital/ws-17"), "{sentence}");
    assert_eq!(error.reason().map(|reason| reason.as_str()), Some("CaMissing"));
    assert!(secrets.get_opt("wardring-ca").await?.is_none());

    // Restored, without the job signer, which is made anew under the same root.
    let mut root_only = backup.clone();
    root_only.data.as_mut().unwrap().retain(|name, _| name.starts_with("root."));
    restore(&secrets, &root_only).await?;
    assert_eq!(world.identity().await?.roots(), identity.roots());
    assert!(secrets.get("wardring-ca").await?.data.unwrap().contains_key("jobs.key"));
    world.cluster.stop().await
}

async fn restore(secrets: &Api<Secret>, backup: &Secret) -> Result<()> {
    // Gone already, in one of the cases.
    secrets.delete("wardring-ca", &DeleteParams::default()).await.ok();
    let secret = Secret {
        metadata: ObjectMeta { name: backup.metadata.name.clone(), ..ObjectMeta::default() },
        data: backup.data.clone(),
        ..Secret::default()
    };
    secrets.create(&PostParams::default(), &secret).await?;
    Ok(())
}

#[tokio::test]
async fn roots_and_serving_certificate_are_published_kept_and_renewed() -> Result<()> {
    let world = World::start().await?;
    let identity = world.identity().await?;
    let maps: Api<ConfigMap> = Api::namespaced(world.admin.clone(), SYSTEM);
    let secrets: Api<Secret> = Api::namespaced(world.admin.clone(), SYSTEM);
    let tls = async || secrets.get("wardring-gateway-tls").await;

    publish_once(&world, &identity, &["gateway.example"]).await?;
    let map = maps.get("wardring-roots").await?.data.unwrap();
    assert_eq!(Roots::from_pem(&map["roots.pem"])?, identity.roots());
    assert_eq!(map["rootSha256"], identity.roots().fingerprint().to_string());
    let root = certificate_expiry(&identity.roots().certificates()[0])?.as_second();
    let metric = "wardring_controller_certificate_expiry_timestamp_seconds";
    for line in [
        format!("{metric}{{certificate=\"root\"}} {root}"),
        format!("{metric}{{certificate=\"jobs\"}}"),
        format!("{metric}{{certificate=\"gateway\"}}"),
    ] {
        let numbers = world.metrics.encode()?;
        assert!(numbers.contains(&line), "{line}\n{numbers}");
    }
    let first = tls().await?;
    assert_eq!(first.type_.as_deref(), Some("kubernetes.io/tls"));

    // Nothing is written while nothing changes; other hosts get another certificate.
    publish_once(&world, &identity, &["gateway.example"]).await?;
    assert_eq!(tls().await?.resource_version(), first.resource_version());
    publish_once(&world, &identity, &["gateway.example", "10.0.0.7"]).await?;
    let second = tls().await?;
    assert_ne!(second.data, first.data);

    // A person adds the next root: it is published, and what is issued still stands under the first.
    let next = Authority::create(Timestamp::now())?;
    let patch = json!({ "stringData": { "next.crt": next.certificate_pem() } });
    secrets.patch("wardring-ca", &PatchParams::default(), &Patch::Merge(&patch)).await?;
    let before = identity.roots();
    publish_once(&world, &identity, &["gateway.example", "10.0.0.7"]).await?;
    assert_eq!(identity.roots().fingerprint(), before.fingerprint());
    assert_eq!(identity.roots().fingerprints().len(), 2);
    let map = maps.get("wardring-roots").await?.data.unwrap();
    assert_eq!(Roots::from_pem(&map["roots.pem"])?, identity.roots());
    assert_eq!(tls().await?.data, second.data);
    world.cluster.stop().await
}

async fn publish_once(world: &World, identity: &Identity, hosts: &[&str]) -> Result<()> {
    let done = Arc::new(Notify::new());
    let published = Arc::clone(&done);
    let keep = tokio::spawn(keep_published(
        world.controller.clone(),
        SYSTEM.to_owned(),
        identity.clone(),
        hosts.iter().map(|&host| host.to_owned()).collect(),
        world.metrics.clone(),
        move || published.notify_one(),
    ));
    tokio::time::timeout(SOON, done.notified()).await?;
    keep.abort();
    Ok(())
}
