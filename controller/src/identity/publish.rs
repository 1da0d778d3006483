//! What the gateways need: the roots in a ConfigMap, and their serving certificate in a Secret.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, PostParams};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use wardring_api::names::{CONTROLLER_MANAGER, GATEWAY_TLS_SECRET, ROOTS_CONFIGMAP};
use wardring_seal::{IssueError, ServingCertificate, certificate_expiry};

use super::ca::{self, CaError};
use super::{Identity, Keys, SERVING_LIFE};
use crate::metrics::{CertificateLabels, Metrics};

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
    metrics: Metrics,
    mut published: impl FnMut(),
) {
    let hosts = with_local_hosts(gateway_hosts);
    loop {
        match publish(&client, &system_namespace, &identity, &hosts, &metrics).await {
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
    metrics: &Metrics,
) -> Result<(), PublishError> {
    let now = Timestamp::now();
    ca::refresh(client, namespace, identity, now).await.map_err(PublishError::Authority)?;
    publish_roots(client, namespace, identity).await?;
    let serving = publish_serving(client, namespace, identity, hosts, metrics, now).await?;
    show_expiries(metrics, &identity.keys(), &serving);
    Ok(())
}

/// Nobody has to act on these but for a root: what issues them also renews them. A number that comes
/// near shows that renewing fails.
fn show_expiries(metrics: &Metrics, keys: &Keys, serving: &ServingCertificate) {
    let roots = keys.authority.roots().certificates();
    let gateway = CertificateDer::from_pem_slice(serving.chain_pem.as_bytes()).ok();
    for (certificate, der) in [
        ("root", roots.first().map(AsRef::as_ref)),
        ("second-root", roots.get(1).map(AsRef::as_ref)),
        ("jobs", Some(keys.jobs.certificate())),
        ("gateway", gateway.as_ref().map(AsRef::as_ref)),
    ] {
        let labels = CertificateLabels { certificate };
        match der.map(certificate_expiry) {
            Some(Ok(expiry)) => {
                metrics.certificate_expiry.get_or_create(&labels).set(expiry.as_second());
            }
            // A root that was taken away is no longer shown.
            Some(Err(_)) | None => drop(metrics.certificate_expiry.remove(&labels)),
        }
    }
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
    metrics: &Metrics,
    now: Timestamp,
) -> Result<ServingCertificate, PublishError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found =
        secrets.get_opt(GATEWAY_TLS_SECRET).await.map_err(api("read the gateways' Secret"))?;
    let keys = identity.keys();
    let kept = found
        .as_ref()
        .and_then(read_serving)
        .filter(|serving| keys.authority.keeps_serving(serving, hosts, now));
    if let Some(serving) = kept {
        return Ok(serving);
    }
    let serving =
        keys.authority.issue_serving(hosts, now, SERVING_LIFE).map_err(PublishError::Issue)?;
    let data = BTreeMap::from([
        ("tls.crt".to_owned(), ByteString(serving.chain_pem.clone().into_bytes())),
        ("tls.key".to_owned(), ByteString(serving.key_pem.clone().into_bytes())),
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
    let labels = CertificateLabels { certificate: "gateway" };
    metrics.certificates_issued.get_or_create(&labels).inc();
    tracing::info!(?hosts, "issued the gateways' serving certificate");
    Ok(serving)
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
