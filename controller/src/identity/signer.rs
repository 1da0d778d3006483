//! The signer: answers EnrollmentRequests, in three writes that may be cut off anywhere.
//!
//! First the token counts the request (CAS; once per request name), then the Device is made, or
//! names the enrolment (CAS), then the request gets its answer. The enrolment id is a function of
//! the key that asks, so a signer that begins again finds its own traces and goes on from there. Two
//! signers at once exclude each other at every write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::sync::Notify;
use wardring_api::names::CONTROLLER_MANAGER;
use wardring_api::reasons::Reason;
use wardring_api::{
    Device, DeviceSpec, EnrollmentKind, EnrollmentRequest, EnrollmentRequestStatus,
    EnrollmentToken, Refusal,
};

use super::decide::{Bind, Decision, Issue, Refused, count, decide, is_over};
use super::{Identity, Keys};
use crate::clock::ClockWatch;

/// Requests of one token that are counted in one write; half of what a token remembers as counted,
/// so that a batch that was cut off is still remembered when the next one is counted.
const BATCH: usize = 32;
/// Writes at a time within a batch.
const CONCURRENCY: usize = 8;
/// Batches of different tokens or namespaces at a time.
const BATCHES: usize = 4;
/// Pause before requests that could not be answered are tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often answered requests are looked through for those to remove.
const SWEEP: Duration = Duration::from_secs(60);

/// What the signer is to do its work by.
#[derive(Clone, Debug)]
pub struct SignerSettings {
    /// Life of device certificates.
    pub certificate_life: SignedDuration,
    /// Certificates carry times: with a clock that is off, none is issued.
    pub clock: ClockWatch,
}

/// Why a batch of requests is not answered yet.
#[derive(Debug, thiserror::Error)]
enum SignerError {
    #[error("failed to {action}")]
    Api { action: &'static str, source: kube::Error },
    #[error("failed to issue a certificate")]
    Issue(#[source] wardring_seal::IssueError),
}

/// Requests that are decided and counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct BatchKey {
    namespace: String,
    /// `None` for renewals.
    token: Option<String>,
}

/// Answers requests until dropped. Only the leader runs this, but nothing breaks if two do.
pub async fn answer_requests(client: Client, identity: Identity, settings: SignerSettings) {
    let changed = Arc::new(Notify::new());
    let (store, writer) = reflector::store();
    let requests: Api<EnrollmentRequest> = Api::all(client.clone());
    let watch = watcher(requests, watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .for_each(|event| {
            if let Err(error) = event {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "failed to watch enrolment requests; trying again"
                );
            }
            changed.notify_one();
            std::future::ready(())
        });
    let signer = Signer { client, identity, settings };
    let answer = signer.run(&store, &changed);
    tokio::select! {
        () = watch => {}
        () = answer => {}
    }
}

struct Signer {
    client: Client,
    identity: Identity,
    settings: SignerSettings,
}

impl Signer {
    async fn run(&self, store: &Store<EnrollmentRequest>, changed: &Notify) {
        // Answered here, but perhaps not yet in the watch's store.
        let mut answered = BTreeSet::new();
        loop {
            let state = store.state();
            let waits = self.pass(&state, &mut answered).await;
            self.sweep(&state, Timestamp::now()).await;
            let pause = if waits { RETRY } else { SWEEP };
            tokio::select! {
                () = changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Answers what is open; says whether something is left for another try.
    async fn pass(
        &self,
        requests: &[Arc<EnrollmentRequest>],
        answered: &mut BTreeSet<String>,
    ) -> bool {
        let open: Vec<_> = requests.iter().filter(|request| is_open(request)).collect();
        let still_open: BTreeSet<_> = open.iter().filter_map(|request| request.uid()).collect();
        answered.retain(|uid| still_open.contains(uid));
        let mut batches: BTreeMap<BatchKey, Vec<Arc<EnrollmentRequest>>> = BTreeMap::new();
        for request in open {
            if !answered.contains(&request.uid().unwrap_or_default()) {
                batches.entry(batch_key(request)).or_default().push(Arc::clone(request));
            }
        }
        if batches.is_empty() {
            return false;
        }
        if !self.settings.clock.is_trusted() {
            tracing::warn!("no certificates are issued while our clock is off");
            return true;
        }
        let done: Vec<_> = stream::iter(batches)
            .map(|(key, requests)| async move {
                let mut done = Vec::new();
                // One after the other: they share a token.
                for batch in requests.chunks(BATCH) {
                    done.push(self.answer_batch(&key, batch).await);
                }
                done
            })
            .buffer_unordered(BATCHES)
            .concat()
            .await;
        let mut waits = false;
        for result in done {
            match result {
                Ok(batch) => {
                    waits |= batch.waits;
                    answered.extend(batch.answered);
                }
                Err(error) => {
                    waits = true;
                    warn_unanswered(&error);
                }
            }
        }
        waits
    }

    async fn answer_batch(
        &self,
        key: &BatchKey,
        requests: &[Arc<EnrollmentRequest>],
    ) -> Result<Answered, SignerError> {
        let mut token = self.read_token(key).await?;
        let devices = self.read_devices(&key.namespace, requests).await?;
        let keys = self.identity.keys();
        let now = Timestamp::now();
        let mut decided = Vec::with_capacity(requests.len());
        let mut counted = false;
        let mut names = BTreeSet::new();
        for (request, device) in requests.iter().zip(devices) {
            // Of two requests for one device, the second is decided when the first is written:
            // refused then, it does not use the token.
            let decision = if names.insert(&request.spec.device) {
                decide(request, token.as_ref(), device.as_ref(), &keys.authority, now)
            } else {
                Decision::Wait
            };
            if let (Decision::Issue(Issue { count: true, .. }), Some(token)) =
                (&decision, token.as_mut())
            {
                // The next decision of this batch sees it counted.
                count(token.status.get_or_insert_default(), &request.name_any());
                counted = true;
            }
            decided.push((Arc::clone(request), device, decision));
        }
        if let (true, Some(token)) = (counted, &token) {
            self.write_count(token).await?;
        }
        let results: Vec<_> = stream::iter(decided)
            .map(|(request, device, decision)| {
                self.carry_out(&keys, request, device, decision, now)
            })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        let mut batch = Answered { answered: Vec::new(), waits: false };
        for result in results {
            match result {
                Ok(Some(uid)) => batch.answered.push(uid),
                Ok(None) => batch.waits = true,
                // One request that cannot be answered does not hold up the others.
                Err(error) => {
                    batch.waits = true;
                    warn_unanswered(&error);
                }
            }
        }
        Ok(batch)
    }

    /// Binds and answers one request whose token has counted it. Gives its uid when it is answered.
    async fn carry_out(
        &self,
        keys: &Keys,
        request: Arc<EnrollmentRequest>,
        device: Option<Device>,
        decision: Decision,
        now: Timestamp,
    ) -> Result<Option<String>, SignerError> {
        let status = match decision {
            Decision::Wait => return Ok(None),
            Decision::Refuse(refused) => refusal(&request, refused, now),
            Decision::Issue(issue) => match self.bind(&request, device.as_ref(), &issue).await? {
                Bound::No => return Ok(None),
                Bound::Never(refused) => refusal(&request, refused, now),
                Bound::Yes => self.issue(keys, &request, &issue, now)?,
            },
        };
        self.write_answer(&request, &status).await
    }

    fn issue(
        &self,
        keys: &Keys,
        request: &EnrollmentRequest,
        issue: &Issue,
        now: Timestamp,
    ) -> Result<EnrollmentRequestStatus, SignerError> {
        let namespace = request.namespace().unwrap_or_default();
        let certificate = keys
            .authority
            .issue_device(
                &issue.request,
                &namespace,
                &issue.enrolment_id,
                &issue.device,
                now,
                self.settings.certificate_life,
            )
            .map_err(SignerError::Issue)?;
        tracing::info!(
            namespace,
            device = issue.device,
            enrolment = issue.enrolment_id,
            kind = ?request.spec.kind,
            "issued a device certificate"
        );
        Ok(EnrollmentRequestStatus {
            certificate: Some(base64(&certificate)),
            roots: keys.authority.roots().to_base64(),
            refused: None,
            answered_at: Some(now),
        })
    }

    async fn bind(
        &self,
        request: &EnrollmentRequest,
        device: Option<&Device>,
        issue: &Issue,
    ) -> Result<Bound, SignerError> {
        let namespace = request.namespace().unwrap_or_default();
        let devices: Api<Device> = Api::namespaced(self.client.clone(), &namespace);
        let written = match (&issue.bind, device) {
            (Bind::Already, _) => return Ok(Bound::Yes),
            (Bind::Create { labels, mode }, _) => {
                let mut device = Device::new(
                    &issue.device,
                    DeviceSpec {
                        mode: *mode,
                        enrolment_id: Some(issue.enrolment_id.clone()),
                        ..DeviceSpec::default()
                    },
                );
                device.metadata.labels = Some(labels.clone());
                devices.create(&post_params(), &device).await
            }
            (Bind::Set, device) => {
                // With the version that was decided on: who changed the Device since is heard first.
                let version = device.and_then(ResourceExt::resource_version);
                let patch = json!({
                    "metadata": { "resourceVersion": version },
                    "spec": { "enrolmentId": issue.enrolment_id },
                });
                devices.patch(&issue.device, &patch_params(), &Patch::Merge(patch)).await
            }
        };
        match written {
            Ok(_) => Ok(Bound::Yes),
            Err(error) if is_race(&error) => Ok(Bound::No),
            // The token's labels, most likely; no later try would be answered differently.
            Err(kube::Error::Api(status)) if status.is_invalid() => {
                let message = format!(
                    "the API server does not accept a Device as the token describes it; check the token's labels ({})",
                    status.message
                );
                Ok(Bound::Never(Refused::new(Reason::TokenRefused, message)))
            }
            Err(source) => Err(SignerError::Api { action: "bind the device", source }),
        }
    }

    async fn read_token(&self, key: &BatchKey) -> Result<Option<EnrollmentToken>, SignerError> {
        let Some(name) = &key.token else { return Ok(None) };
        let tokens: Api<EnrollmentToken> = Api::namespaced(self.client.clone(), &key.namespace);
        get(&tokens, name, "read the enrolment token").await
    }

    async fn read_devices(
        &self,
        namespace: &str,
        requests: &[Arc<EnrollmentRequest>],
    ) -> Result<Vec<Option<Device>>, SignerError> {
        let devices: Api<Device> = Api::namespaced(self.client.clone(), namespace);
        let devices = &devices;
        // Owned items: a stream over borrowed ones could not be spawned.
        stream::iter(requests.to_vec())
            .map(|request| async move {
                get(devices, &request.spec.device, "read the device").await
            })
            .buffered(CONCURRENCY)
            .try_collect()
            .await
    }

    async fn write_count(&self, token: &EnrollmentToken) -> Result<(), SignerError> {
        let namespace = token.namespace().unwrap_or_default();
        let tokens: Api<EnrollmentToken> = Api::namespaced(self.client.clone(), &namespace);
        let patch = json!({
            "metadata": { "resourceVersion": token.resource_version() },
            "status": token.status,
        });
        tokens
            .patch_status(&token.name_any(), &patch_params(), &Patch::Merge(patch))
            .await
            .map(|_| ())
            .map_err(|source| SignerError::Api { action: "count the uses of a token", source })
    }

    async fn write_answer(
        &self,
        request: &EnrollmentRequest,
        status: &EnrollmentRequestStatus,
    ) -> Result<Option<String>, SignerError> {
        let namespace = request.namespace().unwrap_or_default();
        let requests: Api<EnrollmentRequest> = Api::namespaced(self.client.clone(), &namespace);
        let patch = json!({
            "metadata": { "resourceVersion": request.resource_version() },
            "status": status,
        });
        let name = request.name_any();
        match requests.patch_status(&name, &patch_params(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(request.uid()),
            // Answered by another signer, or gone: the watch will tell.
            Err(error) if is_race(&error) => Ok(None),
            Err(source) => Err(SignerError::Api { action: "answer the request", source }),
        }
    }

    /// Removes answered requests that were kept long enough.
    async fn sweep(&self, requests: &[Arc<EnrollmentRequest>], now: Timestamp) {
        for request in requests {
            if !request.status.as_ref().is_some_and(|status| is_over(status, now)) {
                continue;
            }
            let namespace = request.namespace().unwrap_or_default();
            let api: Api<EnrollmentRequest> = Api::namespaced(self.client.clone(), &namespace);
            let preconditions =
                Preconditions { uid: request.uid(), resource_version: request.resource_version() };
            let params =
                DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            match api.delete(&request.name_any(), &params).await {
                Ok(_) => {}
                Err(error) if is_race(&error) => {}
                Err(error) => {
                    // The next sweep tries again; nobody waits for this.
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "failed to remove an answered enrolment request"
                    );
                    return;
                }
            }
        }
    }
}

/// What came of a batch: the uids of the answered, and whether others need another try.
struct Answered {
    answered: Vec<String>,
    waits: bool,
}

/// Whether the Device names the enrolment now.
enum Bound {
    Yes,
    /// Somebody was faster; decide again.
    No,
    /// It cannot.
    Never(Refused),
}

fn warn_unanswered(error: &SignerError) {
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "failed to answer an enrolment request; trying again"
    );
}

fn is_open(request: &EnrollmentRequest) -> bool {
    request.status.as_ref().is_none_or(|status| status.answered_at.is_none())
        && request.metadata.deletion_timestamp.is_none()
}

fn batch_key(request: &EnrollmentRequest) -> BatchKey {
    let token = match request.spec.kind {
        EnrollmentKind::Enroll => Some(request.spec.token.clone().unwrap_or_default()),
        EnrollmentKind::Renew => None,
    };
    BatchKey { namespace: request.namespace().unwrap_or_default(), token }
}

fn refusal(
    request: &EnrollmentRequest,
    refused: Refused,
    now: Timestamp,
) -> EnrollmentRequestStatus {
    let Refused { reason, message } = refused;
    tracing::warn!(
        namespace = request.namespace(),
        request = request.name_any(),
        reason = reason.as_str(),
        message,
        "refused a device certificate"
    );
    EnrollmentRequestStatus {
        refused: Some(Refusal { reason: reason.as_str().to_owned(), message }),
        answered_at: Some(now),
        ..EnrollmentRequestStatus::default()
    }
}

/// An object by a name that a gateway chose: one that cannot be a name has no object.
async fn get<K>(api: &Api<K>, name: &str, action: &'static str) -> Result<Option<K>, SignerError>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    // The name becomes part of a path; anything but plain characters could ask for something else.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    if name.is_empty() || !name.bytes().all(is_plain) || name.starts_with('.') {
        return Ok(None);
    }
    api.get_opt(name).await.map_err(|source| SignerError::Api { action, source })
}

/// Whether a write lost to another one: the object changed, appeared or went away in between.
fn is_race(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status)
        if status.is_conflict() || status.is_already_exists() || status.is_not_found())
}

fn post_params() -> PostParams {
    PostParams { field_manager: Some(CONTROLLER_MANAGER.to_owned()), ..PostParams::default() }
}

fn patch_params() -> PatchParams {
    PatchParams { field_manager: Some(CONTROLLER_MANAGER.to_owned()), ..PatchParams::default() }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
