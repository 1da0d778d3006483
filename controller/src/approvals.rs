//! Whether the admission policies that vouch for approvals stand and are enforced. Without them whoever may
//! write a PatchApproval could approve in anybody's name, so without them nothing counts.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use serde_json::Value;
use sha2::{Digest, Sha256};
use wardring_api::{
    ApprovalSubject, Decided, PatchApproval, PatchApprovalSpec, approval_policy,
    names::CONTROLLER_MANAGER,
};
use wardring_planner::ApprovalPolicy;

/// Passes look again after this long.
const FRESH: Duration = Duration::from_secs(5);
/// A policy that was just stored is not at work in every API server yet; nor is one that was put back.
const SETTLES: Duration = Duration::from_secs(10);

/// Looks at the policies.
#[derive(Clone)]
pub struct Guardian {
    client: Client,
    expected: Arc<Vec<Value>>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// What was found last, and when.
    last: Option<(Instant, ApprovalPolicy)>,
    /// The fingerprint that was seen last, and since when.
    seen: Option<(String, Instant)>,
}

/// What stands in the cluster, before anybody asks whether it is at work.
struct Found {
    fingerprint: String,
    since: Timestamp,
}

impl Guardian {
    /// Expects what the chart installs in `system_namespace`, with these service accounts that may approve.
    pub fn new(client: Client, system_namespace: &str, accounts: &[String]) -> Guardian {
        let expected = Arc::new(approval_policy::objects(system_namespace, accounts));
        Guardian { client, expected, state: Arc::default() }
    }

    /// What was found lately; looks again where that is too old.
    pub async fn look(&self, namespace: &str) -> ApprovalPolicy {
        if let Some((at, known)) = &self.state().last
            && at.elapsed() < FRESH
        {
            return known.clone();
        }
        self.look_again(namespace).await
    }

    /// Reads the policies as they are now, and tries in `namespace` whether they are enforced.
    pub async fn look_again(&self, namespace: &str) -> ApprovalPolicy {
        let policy = match self.judge(namespace).await {
            Ok(policy) => policy,
            Err(why) => ApprovalPolicy::Broken { why },
        };
        let mut state = self.state();
        let before = state.last.replace((Instant::now(), policy.clone()));
        if before.as_ref().map(|(_, before)| before) != Some(&policy) {
            match &policy {
                ApprovalPolicy::Intact { fingerprint, .. } => {
                    tracing::info!(
                        fingerprint,
                        "the admission policies for approvals are enforced"
                    );
                }
                ApprovalPolicy::Broken { why } => {
                    tracing::warn!(why, "no approval counts");
                }
            }
        }
        policy
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn judge(&self, namespace: &str) -> Result<ApprovalPolicy, String> {
        let Found { fingerprint, since } = self.find().await?;
        let settled = {
            let mut state = self.state();
            match &state.seen {
                Some((known, at)) if *known == fingerprint => at.elapsed() >= SETTLES,
                _ => {
                    state.seen = Some((fingerprint.clone(), Instant::now()));
                    false
                }
            }
        };
        if !settled {
            let wait = SETTLES.as_secs();
            return Err(format!(
                "the admission policies were made or changed lately, or this controller began lately; it waits {wait} s until every API server has them"
            ));
        }
        self.attempt(namespace).await?;
        Ok(ApprovalPolicy::Intact { fingerprint, since })
    }

    /// Exactly the expected objects, read now.
    async fn find(&self) -> Result<Found, String> {
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(self.client.clone());
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(self.client.clone());
        let mut digest = Sha256::new();
        let mut since = Timestamp::MIN;
        for expected in self.expected.iter() {
            let kind = expected["kind"].as_str().unwrap_or_default();
            let name = expected["metadata"]["name"].as_str().unwrap_or_default();
            let unread = |error| format!("{kind} {name} cannot be read ({error})");
            let (meta, is_same) = if kind == "ValidatingAdmissionPolicy" {
                let wanted: ValidatingAdmissionPolicy = parsed(expected)?;
                let found = policies.get_opt(name).await.map_err(unread)?;
                let found = found.ok_or_else(|| missing(kind, name))?;
                (found.metadata, found.spec == wanted.spec)
            } else {
                let wanted: ValidatingAdmissionPolicyBinding = parsed(expected)?;
                let found = bindings.get_opt(name).await.map_err(unread)?;
                let found = found.ok_or_else(|| missing(kind, name))?;
                (found.metadata, found.spec == wanted.spec)
            };
            if !is_same {
                return Err(format!(
                    "{kind} {name} is not what this version's chart installs (with `approvals.serviceAccounts` as this controller knows them)"
                ));
            }
            note(&mut digest, &meta, kind, name)?;
            since = since.max(meta.creation_timestamp.as_ref().map_or(Timestamp::MAX, |at| at.0));
        }
        let fingerprint = hex::encode(digest.finalize())[..32].to_owned();
        Ok(Found { fingerprint, since })
    }

    /// Tries to approve in nobody's name, dry. It must be refused, and by the policy.
    async fn attempt(&self, namespace: &str) -> Result<(), String> {
        let spec = PatchApprovalSpec {
            rollout: "nothing".to_owned(),
            rollout_uid: "nothing".to_owned(),
            subject: ApprovalSubject::stage_gate("nothing", "nothing"),
            approval_hash: format!("v1:{}", "0".repeat(64)),
            authors: Vec::new(),
            expires_at: None,
            decision: Some(Decided::Approve),
            approver: Some("wardring:nobody".to_owned()),
            reason: Some("a trial of the admission policies".to_owned()),
        };
        let api: Api<PatchApproval> = Api::namespaced(self.client.clone(), namespace);
        let params =
            PostParams { dry_run: true, field_manager: Some(CONTROLLER_MANAGER.to_owned()) };
        match api.create(&params, &PatchApproval::new("wardring-trial", spec)).await {
            Ok(_) => Err("the API server does not enforce the admission policies".to_owned()),
            Err(kube::Error::Api(status)) if status.message.contains(approval_policy::NOT_YOU) => {
                Ok(())
            }
            Err(error) => {
                Err(format!("whether the admission policies work cannot be tried ({error})"))
            }
        }
    }
}

fn parsed<K: serde::de::DeserializeOwned>(expected: &Value) -> Result<K, String> {
    serde_json::from_value(expected.clone()).map_err(|error| error.to_string())
}

fn missing(kind: &str, name: &str) -> String {
    format!("{kind} {name} is missing; the chart installs it")
}

/// The uid changes when an object is made anew, the generation whenever what it says changes, also back.
fn note(digest: &mut Sha256, meta: &ObjectMeta, kind: &str, name: &str) -> Result<(), String> {
    if meta.deletion_timestamp.is_some() {
        return Err(format!("{kind} {name} is being deleted"));
    }
    let (Some(uid), Some(generation)) = (&meta.uid, meta.generation) else {
        return Err(format!("{kind} {name} has no generation"));
    };
    digest.update(format!("{uid} {generation}\n"));
    Ok(())
}
