//! The presence endpoint over TLS, with tokens that a real API server reviews.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kube::config::{KubeConfigOptions, Kubeconfig};
use reqwest::StatusCode;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wardring_api::presence::{MAX_PRESENCE_BODY, PRESENCE_PATH, PresenceBatch};
use wardring_controller::presence::{Contact, Presence, serve};
use wardring_harness::{DevCluster, wait_until};
use wardring_seal::{
    Authority,
    tls::{Clients, client_config, server_config},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// The token of a service account in namespace `wardring-system`.
async fn token(cluster: &DevCluster, account: &str) -> String {
    use secrecy::ExposeSecret;
    let manifest = format!(
        "{{ apiVersion: v1, kind: ServiceAccount, \
            metadata: {{ name: {account}, namespace: wardring-system }} }}"
    );
    cluster.kubectl_apply(&manifest).await.unwrap().ok().unwrap();
    let path = cluster.service_account_kubeconfig("wardring-system", account).await.unwrap();
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    config.auth_info.token.unwrap().expose_secret().to_owned()
}

fn batch(number: u64, online: &[(&str, i64)], offline: &[&str]) -> PresenceBatch {
    let place = |name: &str| ("acme".to_owned(), name.to_owned());
    PresenceBatch {
        gateway: "gateway-1".to_owned(),
        session: "session-1".to_owned(),
        number,
        complete: true,
        online: online.iter().map(|(name, seq)| (place(name).0, place(name).1, *seq)).collect(),
        offline: offline.iter().map(|name| place(name)).collect(),
    }
}

#[tokio::test]
async fn gateways_and_nobody_else_tell_the_leader_who_is_in_contact() {
    let cluster = DevCluster::obtain(None).await.unwrap();
    let namespace = "{ apiVersion: v1, kind: Namespace, metadata: { name: wardring-system } }";
    cluster.kubectl_apply(namespace).await.unwrap().ok().unwrap();
    let gateway = token(&cluster, "wardring-gateway").await;
    let stranger = token(&cluster, "default").await;

    let authority = Authority::create(Timestamp::now()).unwrap();
    let life = SignedDuration::from_hours(1);
    let serving =
        authority.issue_serving(&["localhost".to_owned()], Timestamp::now(), life).unwrap();
    let tls = server_config(Clients::Anonymous, &serving.chain_pem, &serving.key_pem).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}{PRESENCE_PATH}", listener.local_addr().unwrap().port());
    let presence = Presence::new(Duration::from_millis(300));
    let stop = CancellationToken::new();
    let client = cluster.client().await.unwrap();
    let serving = tokio::spawn({
        let (presence, stop) = (presence.clone(), stop.clone());
        async move { serve(presence, listener, Arc::new(tls), client, "wardring-system", stop).await }
    });
    let http = reqwest::Client::builder()
        .tls_backend_preconfigured(client_config(authority.roots(), None).unwrap())
        .build()
        .unwrap();
    let post = async |token: &str, batch: &PresenceBatch| {
        http.post(&url).bearer_auth(token).json(batch).send().await.unwrap().status()
    };

    // Only a leader listens.
    let first = batch(0, &[("ws-1", 41), ("ws-2", 7)], &[]);
    assert_eq!(post(&gateway, &first).await, StatusCode::SERVICE_UNAVAILABLE);
    presence.set_leading(true);
    // Only a gateway speaks.
    assert_eq!(post(&stranger, &first).await, StatusCode::FORBIDDEN);
    assert_eq!(post("no-token-at-all", &first).await, StatusCode::UNAUTHORIZED);
    let bare = http.post(&url).json(&first).send().await.unwrap().status();
    assert_eq!(bare, StatusCode::UNAUTHORIZED);
    let request = http.post(&url).bearer_auth(&gateway);
    assert_eq!(request.body("{").send().await.unwrap().status(), StatusCode::BAD_REQUEST);
    let large = json!({ "gateway": "x".repeat(MAX_PRESENCE_BODY) }).to_string();
    let request = http.post(&url).bearer_auth(&gateway).body(large);
    assert_eq!(request.send().await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(presence.contact("acme", "ws-1"), Contact::Unknown);

    assert_eq!(post(&gateway, &first).await, StatusCode::NO_CONTENT);
    assert!(presence.online("acme", "ws-1") && presence.online("acme", "ws-2"));
    assert!(presence.sequences("acme").contains(&41));
    presence.changed().await;
    assert!(presence.take_changes().contains("acme"));
    // A batch out of order asks for a new session.
    assert_eq!(post(&gateway, &batch(5, &[], &[])).await, StatusCode::CONFLICT);

    // Out of contact for the whole timeout: offline, and the listener is woken.
    assert_eq!(post(&gateway, &batch(1, &[], &["ws-1"])).await, StatusCode::NO_CONTENT);
    wait_until(PATIENCE, "ws-1 to be offline", async || {
        matches!(presence.contact("acme", "ws-1"), Contact::Offline { .. }).then_some(())
    })
    .await
    .unwrap();
    assert!(presence.online("acme", "ws-2"));
    presence.changed().await;
    assert!(presence.take_changes().contains("acme"));

    // A leader that is replaced forgets: the next one hears everything anew.
    presence.set_leading(false);
    assert_eq!(presence.contact("acme", "ws-2"), Contact::Unknown);
    stop.cancel();
    serving.await.unwrap().unwrap();
    cluster.stop().await.unwrap();
}
