//! What a leader hears of devices in contact.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Json, Router, extract::State, http::HeaderMap, routing::post};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use reqwest::StatusCode;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use wardring_api::{
    names,
    presence::{PRESENCE_PATH, PRESENCE_URL_ANNOTATION, PresenceBatch},
};
use wardring_harness::wait_until;
use wardring_seal::tls::{Clients, server_config};

use crate::support::*;

/// A leader's endpoint that remembers what it was told.
#[derive(Clone, Default)]
struct Ear {
    heard: Arc<Mutex<Vec<PresenceBatch>>>,
    deaf: Arc<Mutex<bool>>,
}

async fn hear(
    State(ear): State<Ear>,
    headers: HeaderMap,
    Json(batch): Json<PresenceBatch>,
) -> StatusCode {
    assert!(headers["authorization"].to_str().unwrap().starts_with("Bearer ey"));
    if std::mem::take(&mut *ear.deaf.lock().unwrap()) {
        return StatusCode::CONFLICT;
    }
    ear.heard.lock().unwrap().push(batch);
    StatusCode::NO_CONTENT
}

impl Ear {
    async fn open(site: &Site) -> Ear {
        let ear = Ear::default();
        let (now, life) = (Timestamp::now(), SignedDuration::from_hours(24));
        let hosts = ["localhost".to_owned()];
        let serving = site.authority.issue_serving(&hosts, now, life).unwrap();
        let config =
            server_config(Clients::Anonymous, &serving.chain_pem, &serving.key_pem).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().route(PRESENCE_PATH, post(hear)).with_state(ear.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = TowerToHyperService::new(router);
                    let http = Builder::new(TokioExecutor::new());
                    drop(http.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        let annotations = json!({ PRESENCE_URL_ANNOTATION: format!("https://localhost:{port}") });
        let patch = Patch::Merge(json!({ "metadata": { "annotations": annotations } }));
        let leases: Api<k8s_openapi::api::coordination::v1::Lease> =
            Api::namespaced(site.client.clone(), &site.system);
        leases.patch(names::LEASE_NAME, &PatchParams::default(), &patch).await.unwrap();
        ear
    }

    fn batches(&self) -> Vec<PresenceBatch> {
        self.heard.lock().unwrap().clone()
    }

    async fn until(&self, what: &str, check: impl Fn(&[PresenceBatch]) -> bool) {
        wait_until(PATIENCE, what, async || check(&self.batches()).then_some(())).await.unwrap();
    }
}

#[tokio::test]
async fn the_leader_hears_who_comes_who_goes_and_begins_anew_when_it_asks() {
    let site = Site::new().await;
    let (one, two) = (site.device("ws-1").await, site.device("ws-2").await);
    let gateway = site.gateway(&["--poll-interval", "1s"]).await;
    gateway.poll(&one, "wait=0&seq=7").await;
    // It counts as present for a few seconds after each poll.
    let (client, url) = (
        gateway.client(&one),
        gateway.url(&format!("/v1/job?run={}&boot=b&wait=0&seq=7", one.run)),
    );
    let polling = tokio::spawn(async move {
        loop {
            let _ = client.get(&url).send().await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    let ear = Ear::open(&site).await;

    // The full set first, complete with its last batch.
    let is_online = |batches: &[PresenceBatch], agent: &Agent, sequence: i64| {
        let entry = (agent.namespace.clone(), agent.name.clone(), sequence);
        batches.iter().any(|batch| batch.online.contains(&entry))
    };
    ear.until("the full set", |batches| is_online(batches, &one, 7)).await;
    polling.abort();
    let first = &ear.batches()[0];
    assert_eq!((first.number, first.complete), (0, true));

    // Then changes: one comes with a long poll, and one goes.
    let (client, url) =
        (gateway.client(&two), gateway.url(&format!("/v1/job?run={}&boot=b&wait=20", two.run)));
    let open = tokio::spawn(async move { client.get(url).send().await });
    ear.until("the new one", |batches| is_online(batches, &two, 0)).await;
    let gone = (one.namespace.clone(), one.name.clone());
    ear.until("the one that left", |batches| {
        batches.iter().any(|batch| batch.offline.contains(&gone))
    })
    .await;
    let still = (two.namespace.clone(), two.name.clone());
    assert!(!ear.batches().iter().any(|batch| batch.offline.contains(&still)));
    ear.until("a sign of life", |batches| {
        batches.iter().any(|batch| batch.online.is_empty() && batch.offline.is_empty())
    })
    .await;

    // A leader that lost track gets a new session with the full set.
    let before = ear.batches().len();
    *ear.deaf.lock().unwrap() = true;
    ear.until("a new session", |batches| {
        batches[before..]
            .iter()
            .any(|batch| batch.number == 0 && is_online(std::slice::from_ref(batch), &two, 0))
    })
    .await;
    open.abort();
    drop(tokio::time::timeout(Duration::from_secs(9), gateway.running.stop()).await);
}
