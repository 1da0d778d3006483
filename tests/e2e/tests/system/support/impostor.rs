//! A captured gateway: it has the gateways' own serving certificate and their service account's
//! rights, hands out whatever jobs it likes, permits everything and swallows every report.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use axum::{
    Extension, Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;
use wardring_api::names::{GATEWAY_TLS_SECRET, ROOTS_CONFIGMAP};
use wardring_e2e::{Installation, SYSTEM_NAMESPACE};
use wardring_harness::{cluster::client_from, wait_until_ok};
use wardring_protocol::{JobAnswer, Mode, PermitAnswer, ReportAck, ReportBatch, Sealed};
use wardring_seal::{
    Roots, parse_device_certificate,
    tls::{Clients, server_config},
};

/// The captured gateway.
pub struct Impostor {
    /// Where agents find it.
    pub url: String,
    /// What it may do at the API server.
    pub client: Client,
    shared: Arc<Mutex<Mail>>,
    serving: AbortHandle,
}

/// What each device is still to be handed.
#[derive(Default)]
struct Mail {
    boxes: BTreeMap<String, Mailbox>,
}

#[derive(Default)]
struct Mailbox {
    jobs: VecDeque<Sealed>,
    /// The last answer was a job. The next one is none, so that the agent's pauses stay short.
    rests: bool,
}

/// The device that a connection's certificate names.
#[derive(Clone)]
struct Peer(Option<String>);

impl Drop for Impostor {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Impostor {
    /// Takes a gateway's place with everything that a gateway has.
    pub async fn start(installation: &Installation) -> Result<Impostor> {
        let account = installation
            .cluster
            .service_account_kubeconfig(SYSTEM_NAMESPACE, "wardring-gateway")
            .await?;
        let client = client_from(Path::new(&account)).await?;
        let secrets: Api<Secret> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
        let secret = secrets.get(GATEWAY_TLS_SECRET).await?.data.unwrap_or_default();
        let pem = |key: &str| -> Result<String> {
            let bytes = secret.get(key).with_context(|| format!("the Secret has no {key}"))?;
            Ok(String::from_utf8(bytes.0.clone())?)
        };
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
        let roots = maps.get(ROOTS_CONFIGMAP).await?.data.unwrap_or_default();
        let roots = Roots::from_pem(&roots["roots.pem"])?;
        let tls = server_config(Clients::Devices(&roots), &pem("tls.crt")?, &pem("tls.key")?)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("https://{}", listener.local_addr()?);
        let shared = Arc::new(Mutex::new(Mail::default()));
        let router = Router::new()
            .route("/v1/job", get(job))
            .route("/v1/permits", post(async || Json(PermitAnswer::Granted)))
            .route("/v1/reports", post(report))
            .with_state(shared.clone());
        let serving = tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), router));
        Ok(Impostor { url, client, shared, serving: serving.abort_handle() })
    }

    /// Hands these to a device, one after the other.
    pub fn hand_out(&self, device: &str, jobs: impl IntoIterator<Item = Sealed>) {
        lock(&self.shared).boxes.entry(device.to_owned()).or_default().jobs.extend(jobs);
    }

    /// Waits until every device has judged all it was handed.
    pub async fn until_all_judged(&self, limit: Duration) -> Result<()> {
        wait_until_ok(limit, "the agents to judge all jobs", async || {
            let mail = lock(&self.shared);
            let left = mail.boxes.iter().filter(|(_, left)| !left.jobs.is_empty() || left.rests);
            let left: Vec<_> = left.map(|(device, left)| (device, left.jobs.len())).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await
    }
}

fn lock(mail: &Mutex<Mail>) -> MutexGuard<'_, Mail> {
    mail.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, router: Router) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(converse(stream, acceptor.clone(), router.clone()));
    }
}

async fn converse(stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let device = leaf.and_then(|der| parse_device_certificate(der).ok());
    let peer = Peer(device.map(|device| device.name));
    let service = TowerToHyperService::new(router.layer(Extension(peer)));
    // Agents that end cut their connections.
    let _ =
        Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn job(
    State(shared): State<Arc<Mutex<Mail>>>,
    Extension(peer): Extension<Peer>,
) -> Result<Json<JobAnswer>, StatusCode> {
    let device = peer.0.ok_or(StatusCode::UNAUTHORIZED)?;
    let mut mail = lock(&shared);
    let own = mail.boxes.entry(device).or_default();
    let job = if own.rests { None } else { own.jobs.pop_front() };
    own.rests = job.is_some();
    Ok(Json(JobAnswer { job, mode: Mode::Manage, next_poll_ms: 200, now: Timestamp::now() }))
}

async fn report(Json(batch): Json<ReportBatch>) -> Json<ReportAck> {
    let last = batch.reports.last().map_or(0, |report| report.seq);
    Json(ReportAck { acked_through: last, highest_seen: last, retry_ms: 0 })
}
