//! A cluster with the chart installed, and requests that are filed as the gateways file them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use sha2::{Digest, Sha256};
use wardring_api::{
    Device, DeviceMode, EnrollmentKind, EnrollmentRequest, EnrollmentRequestSpec,
    EnrollmentRequestStatus, EnrollmentToken, EnrollmentTokenSpec,
};
use wardring_controller::clock::ClockWatch;
use wardring_controller::events::Events;
use wardring_controller::identity::{CaError, Identity, SignerSettings, answer_requests, open};
use wardring_controller::metrics::Metrics;
use wardring_harness::{DevCluster, cluster, wait_until, wait_until_ok};
use wardring_seal::{
    DeviceKey, EnrolmentClaim, PAYLOAD_VERSION, Roots, SignedClaim, Token, Trust, accept_issued,
};

pub const SYSTEM: &str = "wardring-system";
pub const TENANT: &str = "hospital";
pub const SOON: Duration = Duration::from_secs(60);

/// A cluster with the chart installed; clients of the administrator, controller and gateway.
pub struct World {
    pub cluster: DevCluster,
    pub admin: Client,
    pub controller: Client,
    pub gateway: Client,
    pub metrics: Metrics,
}

impl World {
    pub async fn start() -> Result<World> {
        let cluster = DevCluster::start().await?;
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/wardring");
        let chart = chart.display().to_string();
        cluster
            .helm(&["install", "wardring", &chart, "--namespace", SYSTEM, "--create-namespace"])
            .await?
            .ok()?;
        let admin = cluster.client().await?;
        let namespaces: Api<Namespace> = Api::all(admin.clone());
        let metadata = ObjectMeta { name: Some(TENANT.to_owned()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        namespaces.create(&PostParams::default(), &namespace).await?;
        let account = async |name| {
            let kubeconfig = cluster.service_account_kubeconfig(SYSTEM, name).await?;
            cluster::client_from(&kubeconfig).await
        };
        let controller = account("wardring-controller").await?;
        let gateway = account("wardring-gateway").await?;
        let world = World { cluster, admin, controller, gateway, metrics: Metrics::new() };
        world.wait_for_policies().await?;
        Ok(world)
    }

    /// The API server takes up policies a moment after they are made.
    async fn wait_for_policies(&self) -> Result<()> {
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let spec = EnrollmentRequestSpec {
            kind: EnrollmentKind::Enroll,
            claim: "x".to_owned(),
            proof: "x".to_owned(),
            certificate: None,
            token: Some("t-1".to_owned()),
            device: "ws-1".to_owned(),
        };
        let stray = EnrollmentRequest::new("anything", spec);
        wait_until_ok(SOON, "the chart's policies to be in force", async || {
            match self.requests().create(&params, &stray).await {
                Err(error) if error.to_string().contains("hexadecimal digits") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    pub async fn identity(&self) -> Result<Identity, CaError> {
        open(&self.controller, SYSTEM, Timestamp::now()).await
    }

    /// A signer that works until the handle is aborted or the test ends.
    pub fn sign(&self, identity: &Identity) -> tokio::task::JoinHandle<()> {
        let settings = SignerSettings {
            certificate_life: SignedDuration::from_hours(90 * 24),
            clock: ClockWatch::default(),
            metrics: self.metrics.clone(),
            events: Events::new(self.controller.clone(), "controller-test"),
        };
        tokio::spawn(answer_requests(self.controller.clone(), identity.clone(), settings))
    }

    pub async fn token(
        &self,
        identity: &Identity,
        name: &str,
        edit: impl FnOnce(&mut EnrollmentTokenSpec),
    ) -> Result<Token> {
        let token = Token::generate(TENANT, name, identity.roots().fingerprint())?;
        let mut spec = EnrollmentTokenSpec {
            public_key: token.public_key(),
            expires_at: Timestamp::now() + SignedDuration::from_hours(1),
            max_uses: 100,
            labels: BTreeMap::from([("ward".to_owned(), "3".to_owned())]),
            mode: DeviceMode::Manage,
            may_replace: false,
        };
        edit(&mut spec);
        self.tokens().create(&PostParams::default(), &EnrollmentToken::new(name, spec)).await?;
        Ok(token)
    }

    pub fn tokens(&self) -> Api<EnrollmentToken> {
        Api::namespaced(self.admin.clone(), TENANT)
    }

    pub fn requests(&self) -> Api<EnrollmentRequest> {
        Api::namespaced(self.gateway.clone(), TENANT)
    }

    pub fn devices(&self) -> Api<Device> {
        Api::namespaced(self.admin.clone(), TENANT)
    }

    pub async fn uses(&self, token: &str) -> Result<u32> {
        Ok(self.tokens().get(token).await?.status.unwrap_or_default().uses)
    }

    /// Files a request as a gateway does, and gives its name.
    pub async fn file(
        &self,
        device: &str,
        token: Option<&str>,
        signed: SignedClaim,
    ) -> Result<String> {
        let digest = hex(&Sha256::digest(signed.claim.as_bytes()));
        let name = format!("er-{}", &digest[..40]);
        let kind = match token {
            Some(_) => EnrollmentKind::Enroll,
            None => EnrollmentKind::Renew,
        };
        let spec = EnrollmentRequestSpec {
            kind,
            claim: signed.claim,
            proof: signed.proof,
            certificate: signed.certificate,
            token: token.map(str::to_owned),
            device: device.to_owned(),
        };
        let request = EnrollmentRequest::new(&name, spec);
        self.requests().create(&PostParams::default(), &request).await?;
        Ok(name)
    }

    pub async fn answer(&self, request: &str) -> Result<EnrollmentRequestStatus> {
        wait_until(SOON, "the signer's answer", async || {
            let request = self.requests().get(request).await.ok()?;
            request.status.filter(|status| status.answered_at.is_some())
        })
        .await
    }

    /// Enrols with `key` and gives the answer.
    pub async fn enrol(
        &self,
        token: &Token,
        key: &DeviceKey,
        device: &str,
    ) -> Result<EnrollmentRequestStatus> {
        let signed = token.sign_claim(&claim(key, device, Some(token.name())));
        let name = self.file(device, Some(token.name()), signed).await?;
        self.answer(&name).await
    }
}

pub fn claim(key: &DeviceKey, device: &str, token: Option<&str>) -> EnrolmentClaim {
    EnrolmentClaim {
        version: PAYLOAD_VERSION,
        namespace: TENANT.to_owned(),
        device: device.to_owned(),
        token: token.map(str::to_owned),
        csr: key.csr(device).unwrap(),
        at: Timestamp::now(),
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn decoded(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

/// Takes an answer as the agent does; gives the enrolment id, the certificate and the roots.
#[track_caller]
pub fn accepted(
    status: &EnrollmentRequestStatus,
    key: &DeviceKey,
    trust: &Trust,
    enrolment: Option<&str>,
) -> (String, Vec<u8>, Roots) {
    assert_eq!(status.refused, None);
    let certificate = status.certificate.as_deref().unwrap();
    let (identity, roots) =
        accept_issued(certificate, &status.roots, key, trust, TENANT, enrolment, Timestamp::now())
            .unwrap();
    (identity.enrolment_id, decoded(certificate), roots)
}

#[track_caller]
pub fn refused(status: &EnrollmentRequestStatus) -> &str {
    assert_eq!(status.certificate, None);
    &status.refused.as_ref().unwrap().reason
}
