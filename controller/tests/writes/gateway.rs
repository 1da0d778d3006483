//! A gateway that says who is in contact: without one the leader grants nothing, since it could not
//! hear from the devices that the cluster was restored.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use reqwest::StatusCode;
use secrecy::ExposeSecret;
use wardring_api::presence::{PRESENCE_PATH, PresenceBatch};
use wardring_seal::Roots;
use wardring_seal::tls::client_config;

/// Often enough not to be taken for a gateway that died.
const EVERY: Duration = Duration::from_millis(250);

/// Devices in contact, by namespace and name.
pub type InContact = Arc<Mutex<BTreeSet<(String, String)>>>;

/// Reports everybody in the set until the test ends.
pub async fn play_gateway(account: &Path, port: u16, roots: &Roots) -> Result<InContact> {
    let options = KubeConfigOptions::default();
    let kubeconfig = Kubeconfig::read_from(account)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    let token = config.auth_info.token.context("the service account has a token")?;
    let http = reqwest::Client::builder()
        .tls_backend_preconfigured(client_config(roots, None)?)
        .build()?;
    let url = format!("https://localhost:{port}{PRESENCE_PATH}");
    let in_contact = InContact::default();
    let shared = in_contact.clone();
    tokio::spawn(async move {
        let (mut session, mut number, mut told) = (0, 0, BTreeSet::new());
        loop {
            let all = shared.lock().unwrap().clone();
            let online =
                all.difference(&told).map(|(space, name)| (space.clone(), name.clone(), 0));
            let batch = PresenceBatch {
                gateway: "gateway-1".to_owned(),
                session: format!("session-{session}"),
                number,
                complete: true,
                online: online.collect(),
                offline: Vec::new(),
            };
            let post = http.post(&url).bearer_auth(token.expose_secret()).json(&batch);
            match post.send().await.map(|answer| answer.status()) {
                Ok(StatusCode::NO_CONTENT) => (number, told) = (number + 1, all),
                // It wants everything anew, or does not lead yet.
                Ok(_) | Err(_) => (session, number, told) = (session + 1, 0, BTreeSet::new()),
            }
            tokio::time::sleep(EVERY).await;
        }
    });
    Ok(in_contact)
}
