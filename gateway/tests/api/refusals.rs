//! Hostile and broken requests: each refused with the right status, nothing written, others unaffected.

use std::{sync::Arc, time::Duration};

use axum::body::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use kube::api::DeleteParams;
use reqwest::StatusCode;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};
use wardring_harness::wait_until;
use wardring_protocol::{MAX_BODY, ReportBody, Step};
use wardring_seal::{Authority, DeviceKey, OutcomeResult};

use crate::support::*;

/// Every path that needs an identity answers the same way.
async fn all_refused(
    gateway: &Gateway,
    agent: &Agent,
    key: &wardring_seal::JobKey,
    code: StatusCode,
) {
    refusal(gateway.poll(agent, "wait=0").await, code).await;
    let report = agent.batch(vec![(1, facts("EVIL"))]);
    refusal(gateway.post(agent, "/v1/reports", &report).await, code).await;
    let ask = agent.ask(key, Step::Install);
    refusal(gateway.post(agent, "/v1/permits", &ask).await, code).await;
}

#[tokio::test]
async fn certificates_that_prove_nothing_open_nothing() {
    let site = Site::new().await;
    let victim = site.device("ws-1").await;
    let key = site.grant(&victim, &site.rollout().await).await;
    let gateway = site.gateway(&[]).await;
    gateway.sees_job(&victim).await;
    let before = site.versions(&victim).await;
    let id = &victim.enrolment_id;
    let (now, life) = (Timestamp::now(), SignedDuration::from_hours(24));
    let past = now - SignedDuration::from_hours(48);
    let future = now + SignedDuration::from_hours(48);

    // Issued by somebody else for the very same device; expired; not yet valid.
    let foreign = Authority::create(now).unwrap();
    let foreign = site.certified(&foreign, "ws-1", id, now, life);
    let expired = site.certified(&site.authority, "ws-1", id, past, life);
    let early = site.certified(&site.authority, "ws-1", id, future, life);
    for agent in [&foreign, &expired, &early] {
        all_refused(&gateway, agent, &key, StatusCode::UNAUTHORIZED).await;
    }
    // A serving certificate and a job signer's are ours, but no device's.
    let hosts = ["localhost".to_owned()];
    let serving = site.authority.issue_serving(&hosts, now, life).unwrap();
    let serving = Agent {
        key: DeviceKey::from_pem(&serving.key_pem).unwrap(),
        certificate: der(&serving.chain_pem),
        ..site.stranger("ws-1", id)
    };
    let signer = site.authority.issue_job_signer(now).unwrap();
    let signer = Agent {
        key: DeviceKey::from_pem(&signer.key_pem()).unwrap(),
        certificate: signer.certificate().to_vec(),
        ..site.stranger("ws-1", id)
    };
    for agent in [&serving, &signer] {
        all_refused(&gateway, agent, &key, StatusCode::UNAUTHORIZED).await;
    }
    // Without any certificate.
    let url = gateway.url("/v1/job?run=r&boot=b&wait=0");
    let sent = gateway.anonymous().get(url).send().await.unwrap();
    refusal(sent, StatusCode::UNAUTHORIZED).await;

    // A stolen certificate without its key does not even get through the handshake.
    let url = gateway.url("/v1/job?run=r&boot=b&wait=0");
    let thief = thief(&gateway, &victim.certificate);
    assert!(thief.get(url).send().await.is_err());

    assert_eq!(site.versions(&victim).await, before);
    assert_eq!(gateway.poll(&victim, "wait=0").await.status(), StatusCode::OK);
}

/// A client that presents a certificate and signs with another key.
fn thief(gateway: &Gateway, stolen: &[u8]) -> reqwest::Client {
    let key = DeviceKey::generate().unwrap().to_pkcs8();
    let key = rustls::crypto::ring::sign::any_ecdsa_type(&key.into()).unwrap();
    let chain = vec![stolen.to_vec().into()];
    let mut config = wardring_seal::tls::client_config(&gateway.roots, None).unwrap();
    config.client_auth_cert_resolver =
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)));
    reqwest::Client::builder().tls_backend_preconfigured(config).build().unwrap()
}

fn der(pem: &str) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[tokio::test]
async fn unknown_revoked_and_replaced_devices_are_forbidden() {
    let site = Site::new().await;
    let gateway = site.gateway(&[]).await;
    let rollout = site.rollout().await;
    let (mut agents, mut keys) = (Vec::new(), Vec::new());
    for name in ["deleted", "replaced", "bystander"] {
        agents.push(site.device(name).await);
        keys.push(site.grant(&agents[agents.len() - 1], &rollout).await);
        gateway.sees_job(&agents[agents.len() - 1]).await;
    }
    let [deleted, replaced, bystander] = &agents[..] else { unreachable!() };
    let unknown = site.stranger("unknown", "e0");
    all_refused(&gateway, &unknown, &keys[0], StatusCode::FORBIDDEN).await;

    // The same connection is refused as soon as the watch has the news.
    let client = gateway.client(deleted);
    let url = gateway.url("/v1/job?run=r&boot=b&wait=0");
    assert_eq!(client.get(&url).send().await.unwrap().status(), StatusCode::OK);
    site.devices().delete("deleted", &DeleteParams::default()).await.unwrap();
    wait_until(PATIENCE, "the refusal", async || {
        let status = client.get(&url).send().await.unwrap().status();
        (status == StatusCode::FORBIDDEN).then_some(())
    })
    .await
    .unwrap();
    all_refused(&gateway, deleted, &keys[0], StatusCode::FORBIDDEN).await;

    // Enrolled anew while a long poll was open: the poll ends, and the old key is out.
    let url = gateway.url("/v1/job?run=r&boot=b&wait=60&known=none");
    let client = gateway.client(replaced);
    let known = format!("{url}&x=1").replace("known=none", &known_of(&keys[1]));
    let open = tokio::spawn(async move { client.get(known).send().await.unwrap() });
    gateway.is_polled().await;
    let successor = site.stranger("replaced", "e-new".replace('-', "").as_str());
    site.bind(&successor).await;
    let ended = time::timeout(Duration::from_secs(20), open).await.unwrap().unwrap();
    refusal(ended, StatusCode::FORBIDDEN).await;
    all_refused(&gateway, replaced, &keys[1], StatusCode::FORBIDDEN).await;
    // The new key speaks for the device, and the old attempt's job is not its.
    let answer = gateway.job(&successor, "wait=0").await;
    assert_eq!(answer.job, None);

    assert_eq!(gateway.poll(bystander, "wait=0").await.status(), StatusCode::OK);
    assert_eq!(site.status(bystander).await.report_seq, None);
}

fn known_of(key: &wardring_seal::JobKey) -> String {
    format!("seq=7&known={}", wardring_protocol::key_id(key))
}

#[tokio::test]
async fn two_devices_with_one_enrolment_id_are_both_forbidden_until_a_person_decides() {
    let site = Site::new().await;
    let one = site.device("ws-1").await;
    let copy = Agent { name: "ws-2".to_owned(), ..site.stranger("ws-2", &one.enrolment_id) };
    site.bind(&copy).await;
    let gateway = site.gateway(&[]).await;
    refusal(gateway.poll(&one, "wait=0").await, StatusCode::FORBIDDEN).await;
    site.devices().delete("ws-2", &DeleteParams::default()).await.unwrap();
    wait_until(PATIENCE, "the device", async || {
        (gateway.poll(&one, "wait=0").await.status() == StatusCode::OK).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn another_devices_job_is_out_of_reach() {
    let site = Site::new().await;
    let (victim, evil) = (site.device("ws-1").await, site.device("ws-2").await);
    let key = site.grant(&victim, &site.rollout().await).await;
    let gateway = site.gateway(&[]).await;
    gateway.sees_leader().await;
    gateway.sees_job(&victim).await;
    let before = site.versions(&victim).await;

    assert_eq!(gateway.job(&evil, "wait=0").await.job, None);
    let ask = evil.ask(&key, Step::Install);
    refusal(gateway.post(&evil, "/v1/permits", &ask).await, StatusCode::FORBIDDEN).await;
    // Reports about it are taken off its hands and dropped.
    let outcome = evil.outcome(&key, OutcomeResult::Succeeded);
    let forged = vec![(1, progress(&key, "Done")), (2, ReportBody::Outcome(outcome))];
    assert_eq!(gateway.report(&evil, forged).await.acked_through, 2);
    // An outcome under its own id for a grant that was never made, too.
    let own = wardring_seal::JobKey { device_id: evil.enrolment_id.clone(), ..key.clone() };
    let outcome = evil.outcome(&own, OutcomeResult::Succeeded);
    let ack = gateway.report(&evil, vec![(3, ReportBody::Outcome(outcome))]).await;
    assert_eq!(ack.acked_through, 3);

    assert_eq!(site.versions(&victim).await, before);
}

#[tokio::test]
async fn oversized_malformed_and_future_messages_are_refused_by_their_status() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let bystander = site.device("ws-2").await;
    let gateway = site.gateway(&[]).await;
    let before = site.versions(&agent).await;
    let client = gateway.client(&agent);
    let post = async |path: &str, body: Vec<u8>| {
        client.post(gateway.url(path)).body(body).send().await.unwrap()
    };

    let large = vec![b' '; MAX_BODY + 1];
    for path in ["/v1/reports", "/v1/permits", "/v1/enroll", "/v1/renew"] {
        refusal(post(path, large.clone()).await, StatusCode::PAYLOAD_TOO_LARGE).await;
        refusal(post(path, b"{".to_vec()).await, StatusCode::BAD_REQUEST).await;
        refusal(post(path, vec![0xff; 64]).await, StatusCode::BAD_REQUEST).await;
        refusal(post(path, b"[]".to_vec()).await, StatusCode::BAD_REQUEST).await;
    }
    // Also when the size is not announced.
    let chunk = |_| Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![b' '; 1_024])));
    let stream = StreamBody::new(futures::stream::iter((0..80).map(chunk)));
    let stream = reqwest::Body::wrap(stream);
    let sent = client.post(gateway.url("/v1/reports")).body(stream).send().await.unwrap();
    refusal(sent, StatusCode::PAYLOAD_TOO_LARGE).await;

    let mut future = agent.batch(vec![(1, facts("WS-1"))]);
    future.version = 2;
    let sent = gateway.post(&agent, "/v1/reports", &future).await;
    let sentence = refusal(sent, StatusCode::BAD_REQUEST).await;
    assert!(sentence.contains("version 2"), "{sentence}");
    let escape = agent.batch(vec![(1, facts("WS-1\u{1b}[2J"))]);
    let sent = gateway.post(&agent, "/v1/reports", &escape).await;
    let sentence = refusal(sent, StatusCode::BAD_REQUEST).await;
    assert!(!sentence.contains('\u{1b}'), "{sentence}");
    let unordered = agent.batch(vec![(2, facts("B")), (1, facts("A"))]);
    let sent = gateway.post(&agent, "/v1/reports", &unordered).await;
    refusal(sent, StatusCode::BAD_REQUEST).await;
    let many = agent.batch((1..=33).map(|seq| (seq, facts("A"))).collect());
    refusal(gateway.post(&agent, "/v1/reports", &many).await, StatusCode::BAD_REQUEST).await;

    let get = async |path: &str| client.get(gateway.url(path)).send().await.unwrap();
    refusal(get("/v1/job").await, StatusCode::BAD_REQUEST).await;
    let endless = "/v1/job?run=r&boot=b&wait=999999";
    refusal(get(endless).await, StatusCode::BAD_REQUEST).await;
    refusal(get("/v1/job?run=r&boot=b&wait=x").await, StatusCode::BAD_REQUEST).await;
    refusal(get("/v1/reports").await, StatusCode::METHOD_NOT_ALLOWED).await;
    refusal(get("/metrics").await, StatusCode::NOT_FOUND).await;

    assert_eq!(site.versions(&agent).await, before);
    assert_eq!(gateway.poll(&bystander, "wait=0").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_device_that_asks_too_often_is_told_when_to_come_back_and_others_are_not_slowed() {
    let site = Site::new().await;
    let (eager, calm) = (site.device("ws-1").await, site.device("ws-2").await);
    let gateway = site.gateway(&["--device-rate", "1"]).await;
    let client = gateway.client(&eager);
    let url = gateway.url("/v1/job?run=r&boot=b&wait=0");
    let refused = async {
        loop {
            let answer = client.get(&url).send().await.unwrap();
            if answer.status() != StatusCode::OK {
                break answer;
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert_eq!(refused.headers()["retry-after"], "1");
    refusal(refused, StatusCode::TOO_MANY_REQUESTS).await;
    // A new connection does not buy a new budget.
    let sent = gateway.client(&eager).get(&url).send().await.unwrap();
    refusal(sent, StatusCode::TOO_MANY_REQUESTS).await;
    assert_eq!(gateway.poll(&calm, "wait=0").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn roots_and_serving_certificate_change_without_a_restart() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let gateway = site.gateway(&[]).await;
    let client = gateway.client(&agent);
    let url = gateway.url("/v1/job?run=r&boot=b&wait=0");
    assert_eq!(client.get(&url).send().await.unwrap().status(), StatusCode::OK);

    // The root is exchanged: the open connection is judged anew.
    let other = Authority::create(Timestamp::now()).unwrap();
    site.publish_roots(other.roots()).await;
    wait_until(PATIENCE, "the new root", async || {
        let status = client.get(&url).send().await.unwrap().status();
        (status == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await
    .unwrap();
    // Two roots overlap: both are good.
    let both: Vec<_> = [&other, &site.authority]
        .map(|authority| authority.roots().certificates()[0].to_vec())
        .into();
    site.publish_roots(&wardring_seal::Roots::from_der(both).unwrap()).await;
    wait_until(PATIENCE, "both roots", async || {
        (client.get(&url).send().await.unwrap().status() == StatusCode::OK).then_some(())
    })
    .await
    .unwrap();

    // A renewed serving certificate is presented to the next connection.
    site.publish_certificate(&["gateway.example"]).await;
    wait_until(PATIENCE, "the new certificate", async || {
        // It no longer answers to localhost.
        gateway.client(&agent).get(&url).send().await.err().map(|_| ())
    })
    .await
    .unwrap();
    assert_eq!(client.get(&url).send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once_and_the_others_live_on() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let gateway = site.gateway(&["--max-connections", "3"]).await;
    let client = gateway.client(&agent);
    let url = gateway.url("/v1/job?run=r&boot=b&wait=0");
    assert_eq!(client.get(&url).send().await.unwrap().status(), StatusCode::OK);
    // Two that say nothing take the other places.
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(TcpStream::connect(gateway.running.listen).await.unwrap());
    }
    let closed = async || {
        let mut one = TcpStream::connect(gateway.running.listen).await.ok()?;
        drop(one.write_all(b"hello").await);
        let mut byte = [0];
        let read = time::timeout(Duration::from_millis(200), one.read(&mut byte)).await.ok()?;
        matches!(read, Ok(0) | Err(_)).then_some(())
    };
    wait_until(PATIENCE, "a refused connection", closed).await.unwrap();
    assert_eq!(client.get(&url).send().await.unwrap().status(), StatusCode::OK);
    drop(silent);
    wait_until(PATIENCE, "a free place", async || {
        gateway.client(&agent).get(&url).send().await.ok().map(|_| ())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_gateways_own_account_cannot_touch_any_spec() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    site.grant(&agent, &site.rollout().await).await;
    let gateway = site.gateway(&[]).await;
    let client = gateway.running.gateway.client.clone();
    let patch = kube::api::Patch::Merge(json!({ "spec": { "attempt": 9 } }));
    let jobs: kube::Api<wardring_api::PatchJob> = kube::Api::namespaced(client, &site.tenant);
    let error = jobs.patch("ws-1", &kube::api::PatchParams::default(), &patch).await.unwrap_err();
    assert!(matches!(error, kube::Error::Api(status) if status.code == 403));
}
