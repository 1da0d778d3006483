//! All devices of all namespaces: what gateways and agents would write to a job, with signatures under
//! the installation's own authority.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use wardring_api::names::CA_SECRET;
use wardring_api::{JobAction, PatchJob};
use wardring_seal::{
    Action, Authority, CertificateRequest, DeviceKey, JobKey, OutcomePayload, OutcomeResult,
    PAYLOAD_VERSION, Roots,
};

use crate::place::BUILDS;

/// How long a device works on a job, so that another one could be granted meanwhile if a cap broke.
const WORK: Duration = Duration::from_millis(150);

/// What the devices have in common.
struct Devices {
    client: Client,
    authority: Authority,
    /// One key for all: what tells devices apart is their enrolment.
    key: DeviceKey,
}

/// Plays the devices until the test ends; gives the roots that everybody trusts.
pub async fn play_devices(client: &Client, system_namespace: &str) -> Result<Roots> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), system_namespace);
    let data = secrets.get(CA_SECRET).await?.data.context("the authority's Secret is empty")?;
    let text = |entry: &str| String::from_utf8(data[entry].0.clone());
    let authority = Authority::from_pem(&text("root.crt")?, &text("root.key")?, None)?;
    let roots = authority.roots().clone();
    let key = DeviceKey::generate()?;
    let devices = Arc::new(Devices { client: client.clone(), authority, key });
    let watch = watcher(Api::<PatchJob>::all(client.clone()), watcher::Config::default());
    tokio::spawn(async move {
        let mut seen = BTreeSet::new();
        let mut jobs = watch.default_backoff().applied_objects().boxed();
        while let Some(job) = jobs.next().await {
            let Ok(job) = job else { continue };
            if seen.insert(job.uid()) {
                let devices = devices.clone();
                tokio::spawn(async move { devices.work(&job).await.unwrap() });
            }
        }
    });
    Ok(roots)
}

impl Devices {
    async fn work(&self, job: &PatchJob) -> Result<()> {
        let step = if job.spec.action == JobAction::Rollback { "Uninstall" } else { "Install" };
        let permitted = [json!({
            "step": step, "at": Timestamp::now(), "attempt": job.spec.attempt, "bootId": "boot-1",
            "agentRun": "run-1",
        })];
        self.report(job, json!({ "permitted": permitted, "state": "Installing" })).await?;
        tokio::time::sleep(WORK).await;
        self.report(job, json!({ "state": "Done", "outcome": self.outcome(job)? })).await
    }

    async fn report(&self, job: &PatchJob, mut status: Value) -> Result<()> {
        status["attempt"] = json!(job.spec.attempt);
        let namespace = job.namespace().unwrap_or_default();
        let jobs: Api<PatchJob> = Api::namespaced(self.client.clone(), &namespace);
        let patch = Patch::Merge(json!({ "metadata": { "uid": job.uid() }, "status": status }));
        match jobs.patch_status(&job.name_any(), &PatchParams::default(), &patch).await {
            Ok(_) => Ok(()),
            // The controller took it back, and may.
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn outcome(&self, job: &PatchJob) -> Result<Value> {
        let (namespace, device) = (job.namespace().unwrap_or_default(), job.name_any());
        let is_damaged = namespace.starts_with("damaged-") && device == "test-2";
        let is_bad = is_damaged || (namespace.starts_with("bad-") && device == "test-2");
        let (action, result, build) = match job.spec.action {
            JobAction::Rollback if is_damaged => {
                (Action::Rollback, OutcomeResult::RollbackFailed, BUILDS[1])
            }
            JobAction::Rollback => (Action::Rollback, OutcomeResult::RolledBack, BUILDS[0]),
            _ if is_bad => (Action::Install, OutcomeResult::Failed, BUILDS[1]),
            _ => (Action::Install, OutcomeResult::Succeeded, BUILDS[1]),
        };
        let payload = OutcomePayload {
            version: PAYLOAD_VERSION,
            key: JobKey {
                rollout_uid: job.spec.rollout_uid.clone(),
                device_id: job.spec.enrolment_id.clone(),
                attempt: job.spec.attempt,
                action,
            },
            sequence: job.spec.sequence,
            namespace: namespace.clone(),
            device: device.clone(),
            result,
            reason: is_bad.then(|| "ServiceDown".to_owned()),
            message: "as the test says".to_owned(),
            boot_id: "boot-2".to_owned(),
            installed_in_boot: Some("boot-1".to_owned()),
            reboot_required: true,
            started: true,
            build: build.to_owned(),
            reboots: 1,
            at: Timestamp::now(),
        };
        let request = CertificateRequest::parse(&self.key.csr(&device)?)?;
        let certificate = self.authority.issue_device(
            &request,
            &namespace,
            &job.spec.enrolment_id,
            &device,
            Timestamp::now(),
            SignedDuration::from_hours(24),
        )?;
        Ok(json!(self.key.sign_outcome(&payload, &certificate)?))
    }
}
