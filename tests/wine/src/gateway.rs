//! A gateway in the test's own process: it enrols devices, hands out one job each, answers permits
//! as it is told, and remembers every report. TLS, certificates and seals are real.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use jiff::{SignedDuration, Timestamp};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use wardring_protocol::{
    EnrolAnswer, EnrolRequest, Facts, JobAnswer, JobQuery, Mode, PermitAnswer, PermitRequest,
    Progress, ReportAck, ReportBatch, ReportBody, Step, check_batch, check_permit, check_poll,
    key_id,
};
use wardring_seal::tls::{Clients, server_config};
use wardring_seal::{
    Authority, CertificateRequest, DeviceIdentity, JobPayload, JobSigner, OutcomePayload, Sealed,
    SignedClaim, Token, parse_device_certificate, verify_claim, verify_outcome, verify_renewal,
};

/// Namespace of every device here.
pub const NAMESPACE: &str = "tests";

/// The gateway and everything behind it.
pub struct TestGateway {
    /// Where it listens.
    pub address: SocketAddr,
    /// A token that enrols any device.
    pub token: Token,
    shared: Arc<Shared>,
}

struct Shared {
    authority: Authority,
    signer: JobSigner,
    public_key: String,
    life: SignedDuration,
    devices: Mutex<BTreeMap<String, Seen>>,
    /// Changes with every change of `devices`.
    changed: watch::Sender<u64>,
}

/// What is known of one device, by its name.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Its enrolment.
    pub enrolment_id: String,
    /// Claims it handed in.
    pub claims: usize,
    /// Certificates issued to it.
    pub certificates: usize,
    /// Newest facts.
    pub facts: Option<Facts>,
    /// State words of its progress, in order, without repetition.
    pub states: Vec<String>,
    /// Newest progress.
    pub progress: Option<Progress>,
    /// Verified outcomes, once each.
    pub outcomes: Vec<OutcomePayload>,
    /// Steps that permits were granted for.
    pub granted: Vec<Step>,
    /// Runs of the agent that polled.
    pub runs: Vec<String>,
    /// Highest number of a report.
    pub highest: u64,
    mode: Option<Mode>,
    job: Option<(String, JobPayload, Sealed)>,
    /// Answers for the next permits; granted when it is empty.
    permits: VecDeque<PermitAnswer>,
}

impl TestGateway {
    /// Starts on a free port of the loopback interface; certificates live for `life`.
    pub async fn start(life: SignedDuration) -> anyhow::Result<TestGateway> {
        let now = Timestamp::now();
        let authority = Authority::create(now)?;
        let signer = authority.issue_job_signer(now)?;
        let hosts = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let serving = authority.issue_serving(&hosts, now, SignedDuration::from_hours(24))?;
        let token = Token::generate(NAMESPACE, "any", authority.roots().fingerprint())?;
        let clients = Clients::Devices(authority.roots());
        let mut tls = server_config(clients, &serving.chain_pem, &serving.key_pem)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let shared = Arc::new(Shared {
            public_key: token.public_key(),
            authority,
            signer,
            life,
            devices: Mutex::default(),
            changed: watch::Sender::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), router(&shared)));
        Ok(TestGateway { address, token, shared })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// What is known of a device.
    pub fn seen(&self, device: &str) -> Seen {
        self.shared.devices().get(device).cloned().unwrap_or_default()
    }

    /// Waits until what is known of a device meets a condition.
    ///
    /// # Panics
    /// It does not within two minutes.
    pub async fn wait_for(&self, device: &str, what: &str, met: impl Fn(&Seen) -> bool) -> Seen {
        let mut changed = self.shared.changed.subscribe();
        let wait = changed.wait_for(|_| met(&self.seen(device)));
        let is_met = tokio::time::timeout(Duration::from_secs(120), wait).await.is_ok();
        let seen = self.seen(device);
        assert!(is_met, "{device}: {what} did not come; seen so far: {seen:#?}");
        seen
    }

    /// Gives a device its job, sealed for its enrolment.
    ///
    /// # Panics
    /// The job cannot be sealed.
    pub fn give(&self, device: &str, mut job: JobPayload) {
        self.shared.change(device, |seen| {
            job.key.device_id.clone_from(&seen.enrolment_id);
            let sealed = self.shared.signer.seal(&job).expect("the signer's key signs");
            seen.mode = Some(Mode::Manage);
            seen.job = Some((key_id(&job.key), job, sealed));
        });
    }

    /// Gives a device a job with altered text under the true signature.
    pub fn give_altered(&self, device: &str, job: JobPayload) {
        self.give(device, job);
        self.shared.change(device, |seen| {
            if let Some((_, _, sealed)) = &mut seen.job {
                sealed.payload = sealed.payload.replace("KB", "XX");
            }
        });
    }

    /// Grants the device's permits from now on.
    pub fn grant_permits(&self, device: &str) {
        self.shared.change(device, |seen| seen.permits.clear());
    }

    /// Answers the device's next permits like this.
    pub fn answer_permits(&self, device: &str, answers: impl IntoIterator<Item = PermitAnswer>) {
        self.shared.change(device, |seen| seen.permits.extend(answers));
    }
}

impl Shared {
    fn devices(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, device: &str, change: impl FnOnce(&mut Seen) -> T) -> T {
        let result = change(self.devices().entry(device.to_owned()).or_default());
        self.changed.send_modify(|count| *count += 1);
        result
    }
}

type Refusal = (StatusCode, String);

fn router(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/enroll", post(enroll))
        .route("/v1/renew", post(renew))
        .route("/v1/job", get(job))
        .route("/v1/permits", post(permit))
        .route("/v1/reports", post(report))
        .with_state(Arc::clone(shared))
}

/// Who is at the other end, by its certificate.
#[derive(Clone)]
struct Peer(Option<DeviceIdentity>);

impl Peer {
    fn device(&self) -> Result<DeviceIdentity, Refusal> {
        self.0.clone().ok_or_else(|| (StatusCode::UNAUTHORIZED, "no certificate".to_owned()))
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, router: Router) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(stream, acceptor.clone(), router.clone()));
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let peer = Peer(certificate.and_then(|der| parse_device_certificate(der).ok()));
    let service = TowerToHyperService::new(router.layer(Extension(peer)));
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    // An agent that is killed ends its connection with an error; the next one is a new connection.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

fn malformed(error: impl std::fmt::Display) -> Refusal {
    (StatusCode::BAD_REQUEST, error.to_string())
}

async fn enroll(
    State(shared): State<Arc<Shared>>,
    Json(request): Json<EnrolRequest>,
) -> Result<Json<EnrolAnswer>, Refusal> {
    let signed = SignedClaim { claim: request.claim, proof: request.proof, certificate: None };
    let claim = verify_claim(&signed, &shared.public_key).map_err(malformed)?;
    let claims = shared.change(&claim.device, |seen| {
        seen.claims += 1;
        seen.claims
    });
    if claims == 1 {
        // A real controller needs a moment; the device must ask again with the same key.
        return Ok(Json(EnrolAnswer::Pending { retry_ms: 100 }));
    }
    issue(&shared, &claim.csr, &claim.device, None).map(Json)
}

async fn renew(
    State(shared): State<Arc<Shared>>,
    Json(request): Json<EnrolRequest>,
) -> Result<Json<EnrolAnswer>, Refusal> {
    let EnrolRequest { claim, proof, certificate } = request;
    let signed = SignedClaim { claim, proof, certificate };
    let (claim, identity) =
        verify_renewal(&signed, shared.authority.roots(), Timestamp::now()).map_err(malformed)?;
    issue(&shared, &claim.csr, &claim.device, Some(identity.enrolment_id)).map(Json)
}

fn issue(
    shared: &Shared,
    csr: &str,
    device: &str,
    enrolment_id: Option<String>,
) -> Result<EnrolAnswer, Refusal> {
    let request = CertificateRequest::parse(csr).map_err(malformed)?;
    let id = enrolment_id
        .unwrap_or_else(|| shared.authority.enrolment_id(&request, NAMESPACE, device, "token"));
    let der = shared
        .authority
        .issue_device(&request, NAMESPACE, &id, device, Timestamp::now(), shared.life)
        .map_err(malformed)?;
    shared.change(device, |seen| {
        seen.enrolment_id = id;
        seen.certificates += 1;
    });
    let roots = shared.authority.roots().to_base64();
    Ok(EnrolAnswer::Issued { certificate: STANDARD.encode(der), roots })
}

async fn job(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    Query(query): Query<JobQuery>,
) -> Result<Json<JobAnswer>, Refusal> {
    let device = peer.device()?.name;
    check_poll(&query).map_err(malformed)?;
    shared.change(&device, |seen| {
        if !seen.runs.contains(&query.run) {
            seen.runs.push(query.run.clone());
        }
    });
    let news = |seen: &Seen| seen.job.clone().filter(|(id, _, _)| query.known.as_ref() != Some(id));
    let mut changed = shared.changed.subscribe();
    let other = changed.wait_for(|_| shared.devices().get(&device).and_then(news).is_some());
    // Nothing new within the wait is an answer too. A gateway waits for 0.8 to 1.0 of what is asked.
    let wait = Duration::from_secs(query.wait).mul_f64(0.9);
    let _ = tokio::time::timeout(wait, other).await;
    let seen = shared.devices().get(&device).cloned().unwrap_or_default();
    let job = news(&seen).map(|(_, _, sealed)| sealed);
    Ok(Json(JobAnswer {
        mode: seen.mode.unwrap_or(Mode::Observe),
        // As a gateway does: a long poll that ended without news is simply asked again.
        next_poll_ms: if job.is_some() || query.known.is_some() { 10 } else { 0 },
        job,
        now: Timestamp::now(),
    }))
}

async fn permit(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    Json(request): Json<PermitRequest>,
) -> Result<Json<PermitAnswer>, Refusal> {
    let device = peer.device()?.name;
    check_permit(&request).map_err(malformed)?;
    Ok(Json(shared.change(&device, |seen| {
        let answer = seen.permits.pop_front().unwrap_or(PermitAnswer::Granted);
        if answer == PermitAnswer::Granted {
            seen.granted.push(request.step);
        }
        answer
    })))
}

async fn report(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    Json(batch): Json<ReportBatch>,
) -> Result<Json<ReportAck>, Refusal> {
    let device = peer.device()?.name;
    check_batch(&batch).map_err(malformed)?;
    let roots = shared.authority.roots();
    Ok(Json(shared.change(&device, |seen| {
        for report in batch.reports {
            if report.seq <= seen.highest {
                continue;
            }
            seen.highest = report.seq;
            match report.body {
                ReportBody::Facts(facts) => seen.facts = Some(*facts),
                ReportBody::Progress(progress) => {
                    if seen.states.last() != Some(&progress.state) {
                        seen.states.push(progress.state.clone());
                    }
                    seen.progress = Some(progress);
                }
                ReportBody::Outcome(signed) => {
                    let Some((_, job, _)) = &seen.job else { continue };
                    let now = Timestamp::now();
                    if let Ok(outcome) = verify_outcome(&signed, roots, NAMESPACE, &job.key, now)
                        && !seen.outcomes.contains(&outcome)
                    {
                        seen.outcomes.push(outcome);
                    }
                }
            }
        }
        ReportAck { acked_through: seen.highest, highest_seen: seen.highest, retry_ms: 0 }
    })))
}
