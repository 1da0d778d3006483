//! What the gateways need: the roots in a ConfigMap, and their serving certificate in a Secret.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, PostParams};
use wardring_api::names::{CONTROLLER_MANAGER, GATEWAY_TLS_SECRET, ROOTS_CONFIGMAP};
use wardring_seal::{IssueError, ServingCertificate};

use super::ca::{self, CaError};
use super::{Identity, SERVING_LIFE};

/// How often the published objects are compared with what they should be. A person who replaces a
/// root, or deletes one of the objects by mistake, sees the effect within this time.
const CHECK_EVERY: Duration = Duration::from_secs(60);

/// Hosts that every serving certificate carries, for probes and for trying things out.
const LOCAL_HOSTS: [&str; 2] = ["localhost", "127.0.0.1"];

/// Why roots or the gateways' certificate could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The authority itself.
    #[error("failed to read the certificate authority")]
    Authority(#[source] CaError),
    /// A new certificate.
    #[error("failed to issue the gateways' serving certificate")]
    Issue(#[source] IssueError),
    /// The API server.
    #[error("failed to {action}")]
    Api {
        /// What we were doing.
        action: &'static str,
        /// The client's error.
        source: kube::Error,
    },
}

/// Publishes once and then keeps everything as it should be, until dropped. `published` is called
/// after each time that all of it was found or made right.
pub async fn keep_published(
    client: Client,
    system_namespace: String,
    identity: Identity,
    gateway_hosts: Vec<String>,
    mut published: impl FnMut(),
) {
    let hosts = with_local_hosts(gateway_hosts);
    loop {
        match publish(&client, &system_namespace, &identity, &hosts, Timestamp::now()).await {
            Ok(()) => published(),
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "failed to keep the certificates in order; trying again"
            ),
        }
        tokio::time::sleep(CHECK_EVERY).await;
    }
}

fn with_local_hosts(mut hosts: Vec<String>) -> Vec<String> {
    for local in LOCAL_HOSTS {
        if !hosts.iter().any(|host| host == local) {
            hosts.push(local.to_owned());
        }
    }
    hosts
}

async fn publish(
    client: &Client,
    namespace: &str,
    identity: &Identity,
    hosts: &[String],
    now: Timestamp,
) -> Result<(), PublishError> {
    ca::refresh(client, namespace, identity, now).await.map_err(PublishError::Authority)?;
    publish_roots(client, namespace, identity).await?;
    publish_serving(client, namespace, identity, hosts, now).await
}

async fn publish_roots(
    client: &Client,
    namespace: &str,
    identity: &Identity,
) -> Result<(), PublishError> {
    let roots = identity.roots();
    let wanted = BTreeMap::from([
        ("roots.pem".to_owned(), roots.to_pem()),
        ("rootSha256".to_owned(), roots.fingerprint().to_string()),
    ]);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let found = maps.get_opt(ROOTS_CONFIGMAP).await.map_err(api("read the roots' ConfigMap"))?;
    let written = match found {
        Some(map) if map.data.as_ref() == Some(&wanted) => return Ok(()),
        Some(map) => {
            let map = ConfigMap { data: Some(wanted), ..map };
            maps.replace(ROOTS_CONFIGMAP, &ours(), &map).await
        }
        None => {
            let metadata = named(namespace, ROOTS_CONFIGMAP);
            let map = ConfigMap { metadata, data: Some(wanted), ..ConfigMap::default() };
            maps.create(&ours(), &map).await
        }
    };
    written.map(|_| ()).map_err(api("write the roots' ConfigMap"))
}

async fn publish_serving(
    client: &Client,
    namespace: &str,
    identity: &Identity,
    hosts: &[String],
    now: Timestamp,
) -> Result<(), PublishError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found =
        secrets.get_opt(GATEWAY_TLS_SECRET).await.map_err(api("read the gateways' Secret"))?;
    let keys = identity.keys();
    let is_kept = found
        .as_ref()
        .and_then(read_serving)
        .is_some_and(|serving| keys.authority.keeps_serving(&serving, hosts, now));
    if is_kept {
        return Ok(());
    }
    let serving =
        keys.authority.issue_serving(hosts, now, SERVING_LIFE).map_err(PublishError::Issue)?;
    let data = BTreeMap::from([
        ("tls.crt".to_owned(), ByteString(serving.chain_pem.into_bytes())),
        ("tls.key".to_owned(), ByteString(serving.key_pem.into_bytes())),
    ]);
    let written = match found {
        Some(secret) => {
            let secret = Secret { data: Some(data), ..secret };
            secrets.replace(GATEWAY_TLS_SECRET, &ours(), &secret).await
        }
        None => {
            let secret = Secret {
                metadata: named(namespace, GATEWAY_TLS_SECRET),
                type_: Some("kubernetes.io/tls".to_owned()),
                data: Some(data),
                ..Secret::default()
            };
            secrets.create(&ours(), &secret).await
        }
    };
    written.map_err(api("write the gateways' Secret"))?;
    tracing::info!(?hosts, "issued the gateways' serving certificate");
    Ok(())
}

fn read_serving(secret: &Secret) -> Option<ServingCertificate> {
    let text = |name: &str| {
        let bytes = secret.data.as_ref()?.get(name)?;
        String::from_utf8(bytes.0.clone()).ok()
    };
    Some(ServingCertificate { chain_pem: text("tls.crt")?, key_pem: text("tls.key")? })
}

fn named(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    }
}

fn ours() -> PostParams {
    PostParams { field_manager: Some(CONTROLLER_MANAGER.to_owned()), ..PostParams::default() }
}

fn api(action: &'static str) -> impl FnOnce(kube::Error) -> PublishError {
    move |source| PublishError::Api { action, source }
}
