//! A tenant with devices, a gateway in front of it, and a pretended leader.

pub mod before;
mod groups;

pub use groups::*;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use clap::Parser;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{ConfigMap, Secret},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use reqwest::{Response, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::OnceCell, task::AbortHandle, time};
use tokio_rustls::{TlsConnector, client::TlsStream};
use wardring_api::{
    Device, DeviceStatus, PatchJob, PatchJobStatus, PatchRollout, PatchRolloutSlice, crd::all_crds,
    names,
};
use wardring_gateway::{
    config::Settings,
    presence::TokenSource,
    start::{Running, start_with},
};
use wardring_harness::{DevCluster, wait_until, wait_until_ok};
use wardring_protocol::{
    Facts, JobAnswer, PermitAnswer, PermitRequest, Progress, Report, ReportAck, ReportBatch,
    ReportBody, Signed, Step,
};
use wardring_seal::{
    Action, Authority, CertificateRequest, DeviceKey, JobKey, JobPayload, OutcomePayload,
    OutcomeResult, Roots, tls::client_config,
};

pub const PATIENCE: Duration = Duration::from_secs(60);

/// One cluster for all tests. It ends with this process.
async fn cluster() -> &'static DevCluster {
    static CLUSTER: OnceCell<DevCluster> = OnceCell::const_new();
    CLUSTER
        .get_or_init(async || {
            let cluster = DevCluster::obtain(None).await.unwrap();
            let client = cluster.client().await.unwrap();
            let api: Api<CustomResourceDefinition> = Api::all(client);
            let params = PatchParams::apply("wardring-test").force();
            for crd in all_crds() {
                api.patch(&crd.name_any(), &params, &Patch::Apply(&crd)).await.unwrap();
            }
            for crd in all_crds() {
                wait_until(PATIENCE, "the CRDs", async || {
                    let found = api.get(&crd.name_any()).await.ok()?;
                    let conditions = found.status?.conditions?;
                    conditions
                        .iter()
                        .any(|c| c.type_ == "Established" && c.status == "True")
                        .then_some(())
                })
                .await
                .unwrap();
            }
            cluster
        })
        .await
}

/// The gateway's roles and service account as the chart makes them, for one system namespace.
async fn roles(system: &str) -> String {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    let template = TEMPLATE
        .get_or_init(async || {
            let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/wardring");
            let args = ["template", "wardring", chart, "-n", "the-system"];
            let files = ["-s", "templates/gateway-roles.yaml"];
            let all: Vec<&str> = args.into_iter().chain(files).collect();
            cluster().await.helm(&all).await.unwrap().ok().unwrap()
        })
        .await;
    // Each test has an installation of its own in the same cluster.
    let binding = "kind: ClusterRoleBinding\nmetadata:\n  name: wardring-gateway";
    template.replace(binding, &format!("{binding}-{system}")).replace("the-system", system)
}

/// A tenant namespace and an installation of its own.
pub struct Site {
    pub client: Client,
    pub system: String,
    pub tenant: String,
    pub authority: Authority,
    cluster: &'static DevCluster,
    leader: Option<AbortHandle>,
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(leader) = self.leader.take() {
            leader.abort();
        }
    }
}

impl Site {
    /// An installation with a live leader.
    pub async fn new() -> Site {
        let mut site = Site::without_leader().await;
        site.start_leader(60).await;
        site
    }

    /// An installation whose leader is gone.
    pub async fn without_leader() -> Site {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cluster = cluster().await;
        let client = cluster.client().await.unwrap();
        let site = Site {
            client,
            system: format!("system-{number}-{}", std::process::id()),
            tenant: format!("tenant-{number}-{}", std::process::id()),
            authority: Authority::create(Timestamp::now()).unwrap(),
            cluster,
            leader: None,
        };
        let (system, tenant) = (&site.system, &site.tenant);
        site.apply(&format!(
            "{{ apiVersion: v1, kind: Namespace, metadata: {{ name: {system} }} }}\n---\n\
             {{ apiVersion: v1, kind: Namespace, metadata: {{ name: {tenant} }} }}\n---\n\
             {{ apiVersion: v1, kind: ServiceAccount,\n\
                metadata: {{ name: wardring-gateway, namespace: {system} }} }}\n"
        ))
        .await;
        site.apply(&roles(system).await).await;
        site.until_roles_are_in_force().await;
        site.publish_roots(site.authority.roots()).await;
        site.publish_certificate(&["localhost", "127.0.0.1"]).await;
        site
    }

    /// What a role allows is allowed a moment later.
    async fn until_roles_are_in_force(&self) {
        let who = format!("--as=system:serviceaccount:{}:wardring-gateway", self.system);
        let roots = format!("configmaps/{}", names::ROOTS_CONFIGMAP);
        for args in [
            ["auth", "can-i", "get", &roots, "-n", &self.system, &who],
            ["auth", "can-i", "watch", "patchjobs", "-n", &self.tenant, &who],
        ] {
            wait_until(PATIENCE, "the gateway's roles", async || {
                let said = self.cluster.kubectl(&args).await.ok()?;
                said.succeeded().then_some(())
            })
            .await
            .unwrap();
        }
    }

    async fn apply(&self, manifests: &str) {
        wait_until_ok(PATIENCE, "the manifests to be applied", async || {
            let output = self.cluster.kubectl_apply(manifests).await.unwrap();
            // Tests that run beside this one apply the same roles.
            match output.stderr.contains("AlreadyExists") {
                true => Err(output.stderr),
                false => Ok(output.ok().unwrap()),
            }
        })
        .await
        .unwrap();
    }

    pub async fn publish_roots(&self, roots: &Roots) {
        let map: ConfigMap = object(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": names::ROOTS_CONFIGMAP },
            "data": { "roots.pem": roots.to_pem() },
        }));
        put(&Api::namespaced(self.client.clone(), &self.system), &map).await;
    }

    pub async fn publish_certificate(&self, hosts: &[&str]) {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let (now, life) = (Timestamp::now(), SignedDuration::from_hours(24));
        let serving = self.authority.issue_serving(&hosts, now, life).unwrap();
        let secret: Secret = object(json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": names::GATEWAY_TLS_SECRET },
            "stringData": { "tls.crt": serving.chain_pem, "tls.key": serving.key_pem },
        }));
        put(&Api::namespaced(self.client.clone(), &self.system), &secret).await;
    }

    /// Renews the Lease ever after, like a controller that leads; once that ends, it is over in so many
    /// seconds.
    pub async fn start_leader(&mut self, seconds: i32) {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.system);
        let renew = async move |leases: &Api<Lease>| {
            let lease: Lease = object(json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": { "name": names::LEASE_NAME },
                "spec": {
                    "holderIdentity": "controller-1",
                    "leaseDurationSeconds": seconds,
                    "renewTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(
                        Timestamp::now()
                    ),
                },
            }));
            put(leases, &lease).await;
        };
        renew(&leases).await;
        let renewing = tokio::spawn(async move {
            loop {
                time::sleep(Duration::from_millis(500)).await;
                renew(&leases).await;
            }
        });
        self.leader = Some(renewing.abort_handle());
    }

    pub fn stop_leader(&mut self) {
        self.leader.take().unwrap().abort();
    }

    /// A gateway with short delays, running with its own service account's rights.
    pub async fn gateway(&self, flags: &[&str]) -> Gateway {
        self.gateway_after(flags, Arc::new(|_, _| Box::pin(async {}))).await
    }

    /// The same, whose requests to the API server are each sent after an event.
    pub async fn gateway_after(&self, flags: &[&str], event: before::Event) -> Gateway {
        let kubeconfig = self.kubeconfig().await;
        let loaded = Kubeconfig::read_from(&kubeconfig).unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(loaded, &options).await.unwrap();
        let token = {
            use secrecy::ExposeSecret;
            config.auth_info.token.as_ref().unwrap().expose_secret().to_owned()
        };
        let fixed = [
            "wardring-gateway",
            "--system-namespace",
            &self.system,
            "--listen",
            "127.0.0.1:0",
            "--http-listen",
            "127.0.0.1:0",
            "--progress-delay",
            "300ms",
            "--facts-delay",
            "2s",
            "--poll-interval",
            "2s",
            "--drain",
            "5s",
            "--device-rate",
            "1000",
        ];
        let settings = Settings::parse_from(fixed.iter().chain(flags));
        let client = ClientBuilder::try_from(config).unwrap();
        let client = client.with_layer(&before::Before(event)).build();
        let token = Some(TokenSource::Text(token));
        let running = start_with(settings, client, token).await.unwrap();
        time::timeout(PATIENCE, running.ready()).await.unwrap().unwrap();
        Gateway { running, roots: self.authority.roots().clone() }
    }

    pub async fn kubeconfig(&self) -> PathBuf {
        self.cluster.service_account_kubeconfig(&self.system, "wardring-gateway").await.unwrap()
    }

    /// An enrolled device in mode Manage.
    pub async fn device(&self, name: &str) -> Agent {
        let agent = self.stranger(name, &format!("{:016x}", fnv(name)));
        self.bind(&agent).await;
        agent
    }

    /// A certificate holder whose Device does not exist.
    pub fn stranger(&self, name: &str, enrolment_id: &str) -> Agent {
        let life = SignedDuration::from_hours(24 * 90);
        self.certified(&self.authority, name, enrolment_id, Timestamp::now(), life)
    }

    pub fn certified(
        &self,
        authority: &Authority,
        name: &str,
        enrolment_id: &str,
        since: Timestamp,
        life: SignedDuration,
    ) -> Agent {
        let key = DeviceKey::generate().unwrap();
        let request = CertificateRequest::parse(&key.csr(name).unwrap()).unwrap();
        let certificate = authority
            .issue_device(&request, &self.tenant, enrolment_id, name, since, life)
            .unwrap();
        Agent {
            namespace: self.tenant.clone(),
            name: name.to_owned(),
            enrolment_id: enrolment_id.to_owned(),
            run: format!("run-{name}-1"),
            accepted_in: format!("run-{name}-1"),
            boot: "boot-1".to_owned(),
            key,
            certificate,
        }
    }

    /// Makes or changes the Device so that the agent's enrolment speaks for it.
    pub async fn bind(&self, agent: &Agent) {
        let device: Device = object(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "Device",
            "metadata": { "name": agent.name },
            "spec": { "mode": "Manage", "enrolmentId": agent.enrolment_id },
        }));
        put(&self.devices(), &device).await;
    }

    pub fn devices(&self) -> Api<Device> {
        Api::namespaced(self.client.clone(), &self.tenant)
    }

    pub fn jobs(&self) -> Api<PatchJob> {
        Api::namespaced(self.client.clone(), &self.tenant)
    }

    pub fn rollouts(&self) -> Api<PatchRollout> {
        Api::namespaced(self.client.clone(), &self.tenant)
    }

    pub fn slices(&self) -> Api<PatchRolloutSlice> {
        Api::namespaced(self.client.clone(), &self.tenant)
    }

    pub async fn status(&self, agent: &Agent) -> DeviceStatus {
        self.devices().get(&agent.name).await.unwrap().status.unwrap_or_default()
    }

    pub async fn job_status(&self, agent: &Agent) -> PatchJobStatus {
        self.jobs().get(&agent.name).await.unwrap().status.unwrap_or_default()
    }

    /// A rollout that is under way.
    pub async fn rollout(&self) -> PatchRollout {
        let rollout: PatchRollout = object(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchRollout",
            "metadata": { "name": "november" },
            "spec": {
                "updates": { "kbs": ["KB5068787"] },
                "stages": [{ "name": "all", "selector": { "matchLabels": { "ring": "all" } } }],
            },
        }));
        put(&self.rollouts(), &rollout).await
    }

    /// Grants an agent its first attempt at installing: slice line and job.
    pub async fn grant(&self, agent: &Agent, rollout: &PatchRollout) -> JobKey {
        self.grant_as(agent, rollout, Action::Install, "").await
    }

    /// Grants a device a download ahead: its line waits on.
    pub async fn grant_download(&self, agent: &Agent, rollout: &PatchRollout) -> JobKey {
        let key = self.grant_as(agent, rollout, Action::Download, "").await;
        let line = format!(
            "{} 1 Pending 2026-11-21T02:00:00Z action=Download downloads=1 eid={} seq=7 reason=Downloading",
            agent.name, key.device_id
        );
        let lines = Patch::Merge(json!({ "spec": { "lines": [line] } }));
        let slice = format!("november-{}", agent.name);
        self.slices().patch(&slice, &PatchParams::default(), &lines).await.unwrap();
        key
    }

    /// The same for any action, with further words in the line.
    pub async fn grant_as(
        &self,
        agent: &Agent,
        rollout: &PatchRollout,
        action: Action,
        more: &str,
    ) -> JobKey {
        let key = JobKey {
            rollout_uid: rollout.uid().unwrap(),
            device_id: agent.enrolment_id.clone(),
            attempt: 1,
            action,
        };
        let (name, rollout_name) = (&agent.name, rollout.name_any());
        let slice_name = format!("november-{name}");
        let slice: PatchRolloutSlice = object(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchRolloutSlice",
            "metadata": { "name": slice_name },
            "spec": {
                "rollout": rollout_name, "rolloutUid": key.rollout_uid, "stage": "all",
                "index": 0, "of": 1, "freezeId": "v1:0",
                "lines": [format!(
                    "{name} 1 Granted 2026-11-21T02:00:00Z eid={} seq=7{more}", key.device_id
                )],
            },
        }));
        put(&self.slices(), &slice).await;
        let (start_by, finish_by) = (hours(4), hours(8));
        let signer = self.authority.issue_job_signer(Timestamp::now()).unwrap();
        let sealed = signer.seal(&self.payload(agent, &key, start_by, finish_by)).unwrap();
        let job: PatchJob = object(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchJob",
            "metadata": { "name": name },
            "spec": {
                "sealed": sealed, "rollout": rollout_name, "rolloutUid": key.rollout_uid,
                "stage": "all", "slice": slice_name, "enrolmentId": key.device_id, "attempt": 1,
                "sequence": 7, "action": action, "kbs": ["KB5068787"],
                "startBy": start_by, "finishBy": finish_by,
            },
        }));
        put(&self.jobs(), &job).await;
        key
    }

    fn payload(
        &self,
        agent: &Agent,
        key: &JobKey,
        start_by: Timestamp,
        finish_by: Timestamp,
    ) -> JobPayload {
        object(json!({
            "version": 1, "namespace": agent.namespace, "device": agent.name,
            "rollout": "november", "stage": "all", "slice": format!("november-{}", agent.name),
            "key": key, "sequence": 7,
            "updates": [{ "kb": "KB5068787", "product": "Windows 11", "kind": "Quality" }],
            "source": "Default", "acceptEula": false, "startBy": start_by, "finishBy": finish_by,
            "preflight": { "rebootFirst": false, "minFreeDiskGb": 0, "requireReversible": false },
            "health": {
                "services": [], "settleMs": 0, "restartAttempts": 0, "sampleIntervalMs": 1000,
            },
            "reboot": { "countdownMs": 0, "stuckAfterMs": 3600000 },
            "onUnhealthy": "Report",
        }))
    }

    /// How often the API server stored a new version of anything of this tenant.
    pub async fn versions(&self, agent: &Agent) -> (String, Option<String>) {
        let version = |meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
            meta.resource_version.clone().unwrap()
        };
        let device = self.devices().get(&agent.name).await.unwrap();
        let job = self.jobs().get_opt(&agent.name).await.unwrap();
        (version(device.meta()), job.map(|job| version(job.meta())))
    }
}

/// A gateway in this process.
pub struct Gateway {
    pub running: Running,
    pub roots: Roots,
}

impl Gateway {
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.running.listen.port())
    }

    /// A client without a certificate.
    pub fn anonymous(&self) -> reqwest::Client {
        self.connect(None)
    }

    /// A client with the agent's certificate.
    pub fn client(&self, agent: &Agent) -> reqwest::Client {
        self.connect(Some((&agent.certificate, &agent.key)))
    }

    fn connect(&self, identity: Option<(&[u8], &DeviceKey)>) -> reqwest::Client {
        let config = client_config(&self.roots, identity).unwrap();
        reqwest::Client::builder().tls_backend_preconfigured(config).build().unwrap()
    }

    /// A connection of the agent's on which every byte is the test's own.
    pub async fn raw(&self, agent: &Agent) -> TlsStream<TcpStream> {
        let identity = Some((agent.certificate.as_slice(), &agent.key));
        let config = client_config(&self.roots, identity).unwrap();
        let stream = TcpStream::connect(self.running.listen).await.unwrap();
        let name = "localhost".to_owned().try_into().unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    pub async fn poll(&self, agent: &Agent, query: &str) -> Response {
        let (run, boot) = (&agent.run, &agent.boot);
        let url = self.url(&format!("/v1/job?run={run}&boot={boot}&{query}"));
        self.client(agent).get(url).send().await.unwrap()
    }

    pub async fn job(&self, agent: &Agent, query: &str) -> JobAnswer {
        read(self.poll(agent, query).await).await
    }

    pub async fn post(&self, agent: &Agent, path: &str, body: &impl Serialize) -> Response {
        self.client(agent).post(self.url(path)).json(body).send().await.unwrap()
    }

    pub async fn report(&self, agent: &Agent, reports: Vec<(u64, ReportBody)>) -> ReportAck {
        read(self.post(agent, "/v1/reports", &agent.batch(reports)).await).await
    }

    pub async fn permit(&self, agent: &Agent, key: &JobKey, step: Step) -> PermitAnswer {
        read(self.post(agent, "/v1/permits", &agent.ask(key, step)).await).await
    }

    /// Waits until the gateway has seen the leader renew its Lease.
    pub async fn sees_leader(&self) {
        wait_until(PATIENCE, "a fresh Lease", async || {
            self.running.gateway.leader.is_fresh().then_some(())
        })
        .await
        .unwrap();
    }

    /// Waits until the gateway holds a long poll.
    pub async fn is_polled(&self) {
        wait_until(PATIENCE, "a long poll", async || {
            (self.running.gateway.cache.sizes().polled_for > 0).then_some(())
        })
        .await
        .unwrap();
    }

    /// Waits until the gateway delivers a job.
    pub async fn sees_job(&self, agent: &Agent) {
        wait_until(PATIENCE, "the job", async || self.job(agent, "wait=0").await.job)
            .await
            .unwrap();
    }
}

/// A device's side.
pub struct Agent {
    pub namespace: String,
    pub name: String,
    pub enrolment_id: String,
    pub run: String,
    pub accepted_in: String,
    pub boot: String,
    pub key: DeviceKey,
    pub certificate: Vec<u8>,
}

impl Agent {
    pub fn batch(&self, reports: Vec<(u64, ReportBody)>) -> ReportBatch {
        ReportBatch {
            version: 1,
            agent_run: self.run.clone(),
            boot_id: self.boot.clone(),
            now: Timestamp::now(),
            uptime_ms: 60_000,
            reports: reports.into_iter().map(|(seq, body)| Report { seq, body }).collect(),
        }
    }

    pub fn ask(&self, key: &JobKey, step: Step) -> PermitRequest {
        PermitRequest {
            key: key.clone(),
            step,
            boot_id: self.boot.clone(),
            agent_run: self.run.clone(),
            accepted_in: self.accepted_in.clone(),
            highest_sequence: 7,
            now: Timestamp::now(),
        }
    }

    pub fn outcome(&self, key: &JobKey, result: OutcomeResult) -> Signed {
        let outcome = OutcomePayload {
            version: 1,
            key: key.clone(),
            sequence: 7,
            namespace: self.namespace.clone(),
            device: self.name.clone(),
            result,
            reason: None,
            message: "Proven.".to_owned(),
            boot_id: "boot-2".to_owned(),
            installed_in_boot: Some("boot-1".to_owned()),
            reboot_required: true,
            started: true,
            build: "26100.7171".to_owned(),
            reboots: 1,
            at: Timestamp::now(),
        };
        self.key.sign_outcome(&outcome, &self.certificate).unwrap()
    }
}

pub fn facts(hostname: &str) -> ReportBody {
    ReportBody::Facts(Box::new(Facts {
        hostname: hostname.to_owned(),
        product: "Windows 11".to_owned(),
        build: "26100.6899".to_owned(),
        agent_version: "0.1.0".to_owned(),
        ..Facts::default()
    }))
}

pub fn progress(key: &JobKey, state: &str) -> ReportBody {
    ReportBody::Progress(Progress {
        key: key.clone(),
        state: state.to_owned(),
        message: format!("now {state}"),
        updates: Vec::new(),
        boots: Vec::new(),
        unhealthy: Vec::new(),
        changes: Vec::new(),
    })
}

pub fn hours(hours: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_hours(hours)
}

pub fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// Creates or replaces an object as a person would.
pub async fn put<K>(api: &Api<K>, object: &K) -> K
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Serialize,
{
    let params = PatchParams::apply("wardring-test").force();
    let name = object.meta().name.clone().unwrap();
    api.patch(&name, &params, &Patch::Apply(object)).await.unwrap()
}

/// Reads an answer with status 200.
pub async fn read<T: DeserializeOwned>(response: Response) -> T {
    let status = response.status();
    let text = response.text().await.unwrap();
    assert_eq!(status, StatusCode::OK, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// The sentence of a refusal with this status.
pub async fn refusal(response: Response, status: StatusCode) -> String {
    let (found, text) = (response.status(), response.text().await.unwrap());
    assert_eq!(found, status, "{text}");
    let body: Value = serde_json::from_str(&text).unwrap();
    body["error"].as_str().unwrap().to_owned()
}

/// Waits until the job's status satisfies `check`.
pub async fn job_until(
    site: &Site,
    agent: &Agent,
    what: &str,
    check: impl Fn(&PatchJobStatus) -> bool,
) -> PatchJobStatus {
    wait_until_ok(PATIENCE, what, async || {
        let status = site.job_status(agent).await;
        if check(&status) { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await
    .unwrap()
}

/// Creates an object that must not be there yet.
pub async fn create<K>(api: &Api<K>, object: &K) -> K
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Serialize,
{
    api.create(&PostParams::default(), object).await.unwrap()
}

fn fnv(text: &str) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, mix)
}
