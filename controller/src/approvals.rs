//! Whether the admission policies that vouch for approvals stand and are enforced. Without them whoever may
//! write a PatchApproval could approve in anybody's name, so without them nothing counts.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
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
/// How long it is remembered of a namespace that the policies are enforced there.
const KEPT: Duration = Duration::from_secs(60);
/// How long API servers may take to enforce a policy that was stored.
const IN_FORCE: SignedDuration = SignedDuration::from_secs(10);
/// A policy that was just stored is not at work in every API server yet; nor is one that was put back.
const SETTLES: Duration = Duration::from_secs(10);

/// Looks at the policies.
#[derive(Clone)]
pub struct Guardian {
    client: Client,
    expected: Arc<Vec<Value>>,
    settles: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The policies as they were read last, and when.
    found: Option<(Instant, Result<Found, ApprovalPolicy>)>,
    /// The fingerprint that was seen last, and since when.
    seen: Option<(String, Instant)>,
    /// Whether they are enforced, by namespace: one tenant's trouble is nobody else's.
    tried: BTreeMap<String, (Instant, String, Result<(), ApprovalPolicy>)>,
}

/// What stands in the cluster, before anybody asks whether it is at work.
#[derive(Clone)]
struct Found {
    fingerprint: String,
    since: Timestamp,
}

fn broken(why: String) -> ApprovalPolicy {
    ApprovalPolicy::Broken { why }
}

/// Nobody can tell now; the log says more than tenants need to read.
fn unknown(why: &str) -> ApprovalPolicy {
    ApprovalPolicy::Unknown { why: why.to_owned() }
}

impl Guardian {
    /// Expects what the chart installs in `system_namespace`, with these service accounts that may approve.
    pub fn new(client: Client, system_namespace: &str, accounts: &[String]) -> Guardian {
        let expected = Arc::new(approval_policy::objects(system_namespace, accounts));
        Guardian { client, expected, settles: SETTLES, state: Arc::default() }
    }

    /// Believes policies after another time.
    #[cfg(test)]
    pub(crate) fn settling(self, settles: Duration) -> Guardian {
        Guardian { settles, ..self }
    }

    /// What was found lately; looks again where that is too old.
    pub async fn look(&self, namespace: &str) -> ApprovalPolicy {
        self.judge(namespace, FRESH).await.unwrap_or_else(|policy| policy)
    }

    /// Reads the policies as they are now, and tries in `namespace` whether they are enforced.
    pub async fn look_again(&self, namespace: &str) -> ApprovalPolicy {
        self.judge(namespace, Duration::ZERO).await.unwrap_or_else(|policy| policy)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn judge(
        &self,
        namespace: &str,
        fresh: Duration,
    ) -> Result<ApprovalPolicy, ApprovalPolicy> {
        let known = self.state().found.clone().filter(|(at, _)| at.elapsed() < fresh);
        let found = match known {
            Some((_, found)) => found,
            None => {
                let found = self.find().await;
                self.note(&found);
                found
            }
        };
        let Found { fingerprint, since } = found?;
        let settled = {
            let mut state = self.state();
            match &state.seen {
                Some((known, at)) if *known == fingerprint => at.elapsed() >= self.settles,
                _ => {
                    state.seen = Some((fingerprint.clone(), Instant::now()));
                    false
                }
            }
        };
        if !settled {
            return Err(unknown(
                "the admission policies or this controller are a few seconds old, and every API server has to have them",
            ));
        }
        let known = self.state().tried.get(namespace).cloned();
        let known = known.filter(|(at, of, _)| at.elapsed() < fresh && *of == fingerprint);
        let tried = match known {
            Some((.., tried)) => tried,
            None => {
                let tried = self.attempt(namespace).await;
                let mut state = self.state();
                state.tried.retain(|_, (at, ..)| at.elapsed() < KEPT);
                let entry = (Instant::now(), fingerprint.clone(), tried.clone());
                state.tried.insert(namespace.to_owned(), entry);
                tried
            }
        };
        tried?;
        Ok(ApprovalPolicy::Intact { fingerprint, since })
    }

    fn note(&self, found: &Result<Found, ApprovalPolicy>) {
        let before = self.state().found.replace((Instant::now(), found.clone()));
        if let Err(ApprovalPolicy::Broken { why }) = found
            && !matches!(before, Some((_, Err(_))))
        {
            tracing::warn!(why, "no approval counts");
        }
    }

    /// Exactly the expected objects, read now.
    async fn find(&self) -> Result<Found, ApprovalPolicy> {
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(self.client.clone());
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(self.client.clone());
        let mut digest = Sha256::new();
        let mut since = Timestamp::MIN;
        for expected in self.expected.iter() {
            let kind = expected["kind"].as_str().unwrap_or_default();
            let name = expected["metadata"]["name"].as_str().unwrap_or_default();
            let unread = |error: kube::Error| {
                tracing::warn!(kind, name, %error, "an admission policy cannot be read");
                unknown("the admission policies cannot be read at the moment")
            };
            let missing = || broken(format!("{kind} {name} is missing; the chart installs it"));
            let (meta, is_same) = if kind == "ValidatingAdmissionPolicy" {
                let wanted: ValidatingAdmissionPolicy = parsed(expected).map_err(broken)?;
                let found = policies.get_opt(name).await.map_err(unread)?.ok_or_else(missing)?;
                (found.metadata, found.spec == wanted.spec)
            } else {
                let wanted: ValidatingAdmissionPolicyBinding = parsed(expected).map_err(broken)?;
                let found = bindings.get_opt(name).await.map_err(unread)?.ok_or_else(missing)?;
                (found.metadata, found.spec == wanted.spec)
            };
            if !is_same {
                return Err(broken(format!(
                    "{kind} {name} is not what this version's chart installs (with `approvals.serviceAccounts` as this controller knows them)"
                )));
            }
            let changed = note(&mut digest, &meta, kind, name).map_err(broken)?;
            since = since.max(changed);
        }
        // Each API server takes a policy over with a delay; what was written until then it may have missed.
        let since = since.checked_add(IN_FORCE).unwrap_or(Timestamp::MAX);
        let fingerprint = hex::encode(digest.finalize())[..32].to_owned();
        Ok(Found { fingerprint, since })
    }

    /// Tries to approve in nobody's name, dry. It must be refused, and by the policy.
    async fn attempt(&self, namespace: &str) -> Result<(), ApprovalPolicy> {
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
            Ok(_) => {
                Err(broken("the API server does not enforce the admission policies".to_owned()))
            }
            Err(kube::Error::Api(status)) if status.message.contains(approval_policy::NOT_YOU) => {
                Ok(())
            }
            Err(error) => {
                tracing::warn!(namespace, %error, "the admission policies cannot be tried");
                Err(unknown("whether the admission policies are enforced cannot be tried here"))
            }
        }
    }
}

fn parsed<K: serde::de::DeserializeOwned>(expected: &Value) -> Result<K, String> {
    serde_json::from_value(expected.clone()).map_err(|error| error.to_string())
}

/// When the object was last made or changed. Its uid changes when it is made anew, its generation whenever
/// what it says changes, also back.
fn note(
    digest: &mut Sha256,
    meta: &ObjectMeta,
    kind: &str,
    name: &str,
) -> Result<Timestamp, String> {
    if meta.deletion_timestamp.is_some() {
        return Err(format!("{kind} {name} is being deleted"));
    }
    let (Some(uid), Some(generation)) = (&meta.uid, meta.generation) else {
        return Err(format!("{kind} {name} has no generation"));
    };
    digest.update(format!("{uid} {generation}\n"));
    let made = meta.creation_timestamp.as_ref().map(|at| at.0);
    // The status is the API server's own; whoever else wrote it may have changed what it says.
    let writers = meta.managed_fields.iter().flatten();
    let writers = writers.filter(|writer| writer.subresource.as_deref().unwrap_or_default() == "");
    let changed = writers.filter_map(|writer| writer.time.as_ref().map(|at| at.0)).max();
    if generation > 1 && changed.is_none() {
        return Err(format!(
            "{kind} {name} was changed, and nobody can tell when; make it anew with the chart"
        ));
    }
    made.max(changed).ok_or_else(|| format!("{kind} {name} does not say when it was made"))
}
