//! The signer: answers EnrollmentRequests, in three writes that may be cut off anywhere.
//!
//! First the token counts the request (CAS; once per request name), then the Device is made, or
//! names the enrolment (CAS), then the request gets its answer. The enrolment id is a function of
//! the key that asks, so a signer that begins again finds its own traces and goes on from there. Two
//! signers at once exclude each other at every write.
//!
//! It works in rounds of bounded size, whatever is filed: [`super::triage`] says what is in one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use kube::api::Api;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tokio::sync::Notify;
use wardring_api::{
    Device, EnrollmentKind, EnrollmentRequest, EnrollmentRequestStatus, EnrollmentToken, Refusal,
};

use super::decide::{Decision, Issue, Refused, count, decide, is_proven};
use super::told::Teller;
use super::triage::{BatchKey, Removal, Round, answered_at, triage};
use super::write::Bound;
use super::{Identity, Keys};
use crate::clock::ClockWatch;
use crate::events::Events;
use crate::limit::Limit;
use crate::metrics::Metrics;

/// Requests of one token that are counted in one write; half of what a token remembers as counted,
/// so that a batch that was cut off is still remembered when the next one is counted.
const BATCH: usize = 32;
/// Writes at a time within a batch.
pub(super) const CONCURRENCY: usize = 8;
/// Batches of different tokens or namespaces at a time.
const BATCHES: usize = 4;
/// Removals at a time: more than the API server lets gateways file at a time (the chart's flow
/// schema), so that a flood is outrun.
const REMOVERS: usize = 32;
/// Requests without a proof that fits: so many answers at once, and then one per span. Each costs up
/// to three requests, and whoever sends them by mistake sends few.
const UNPROVEN: (u32, Duration) = (64, Duration::from_millis(16));
/// Pause between rounds while there is more to do.
const SOON: Duration = Duration::from_millis(20);
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
    /// Numbers.
    pub metrics: Metrics,
    /// Kubernetes Events.
    pub events: Events,
}

/// Why a batch of requests is not answered yet.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignerError {
    #[error("failed to {action}")]
    Api { action: &'static str, source: kube::Error },
    #[error("failed to issue a certificate")]
    Issue(#[source] wardring_seal::IssueError),
}

/// Answers requests until dropped. Only the leader runs this, but nothing breaks if two do.
pub async fn answer_requests(client: Client, identity: Identity, settings: SignerSettings) {
    let changed = Arc::new(Notify::new());
    let (requests, watch_requests) = watched::<EnrollmentRequest>(&client, changed.clone());
    let (tokens, watch_tokens) = watched::<EnrollmentToken>(&client, changed.clone());
    let signer = Signer {
        client,
        identity,
        teller: Teller::new(settings.metrics, &settings.events),
        certificate_life: settings.certificate_life,
        clock: settings.clock,
        pace: Mutex::new(Limit::new(UNPROVEN.0, UNPROVEN.1, Instant::now())),
    };
    tokio::select! {
        () = watch_requests => {}
        () = watch_tokens => {}
        () = signer.run(&requests, &tokens, &changed) => {}
    }
}

/// A store of every object of a kind, and the watch that fills it.
fn watched<K>(
    client: &Client,
    changed: Arc<Notify>,
) -> (Store<K>, impl Future<Output = ()> + use<K>)
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let watch = watcher(Api::<K>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .modify(|object| object.meta_mut().managed_fields = None)
        .reflect(writer)
        .for_each(move |event| {
            if let Err(error) = event {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "failed to watch {}; trying again",
                    K::plural(&())
                );
            }
            changed.notify_one();
            std::future::ready(())
        });
    (store, watch)
}

pub(super) struct Signer {
    pub(super) client: Client,
    identity: Identity,
    teller: Teller,
    certificate_life: SignedDuration,
    clock: ClockWatch,
    pace: Mutex<Limit>,
}

/// What the signer remembers from round to round, by uid. Losing it is safe.
#[derive(Default)]
struct Memory {
    /// Answered here, but perhaps not yet in the watch's store.
    answered: BTreeSet<String>,
    /// Removed here, but perhaps still in the store.
    removed: BTreeSet<String>,
    /// Could not be answered in the last round.
    waited: BTreeSet<String>,
    /// Whether the proof fits, so that it is verified once.
    proven: BTreeMap<String, bool>,
}

impl Memory {
    /// Forgets what the store has overtaken; gives what is left to look at.
    fn look(&mut self, state: Vec<Arc<EnrollmentRequest>>) -> Vec<Arc<EnrollmentRequest>> {
        let uid = |request: &Arc<EnrollmentRequest>| request.uid().unwrap_or_default();
        let all: BTreeSet<_> = state.iter().map(uid).collect();
        let open: BTreeSet<_> =
            state.iter().filter(|request| answered_at(request).is_none()).map(uid).collect();
        self.removed.retain(|uid| all.contains(uid));
        self.answered.retain(|uid| open.contains(uid));
        self.waited.retain(|uid| open.contains(uid));
        self.proven.retain(|uid, _| open.contains(uid));
        let is_done = |request: &Arc<EnrollmentRequest>| {
            let uid = uid(request);
            self.removed.contains(&uid) || self.answered.contains(&uid)
        };
        state.into_iter().filter(|request| !is_done(request)).collect()
    }
}

impl Signer {
    async fn run(
        &self,
        requests: &Store<EnrollmentRequest>,
        tokens: &Store<EnrollmentToken>,
        changed: &Notify,
    ) {
        let mut memory = Memory::default();
        loop {
            let round = self.next_round(requests, tokens, &mut memory);
            self.teller.began(&round);
            let Round { proven, unproven, removals, leaves, .. } = round;
            let (answered, removed) =
                tokio::join!(self.answer(proven, unproven), self.remove_all(removals));
            let waits = answered.waits || removed.waits;
            memory.waited = answered.waiting;
            memory.answered.extend(answered.done);
            memory.removed.extend(removed.done);
            let pause = match (waits, leaves) {
                (true, _) => RETRY,
                (false, true) => SOON,
                (false, false) => SWEEP,
            };
            tokio::select! {
                () = changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn next_round(
        &self,
        requests: &Store<EnrollmentRequest>,
        tokens: &Store<EnrollmentToken>,
        memory: &mut Memory,
    ) -> Round {
        let open = memory.look(requests.state());
        let (keys, now) = (self.identity.keys(), Timestamp::now());
        for request in open.iter().filter(|request| answered_at(request).is_none()) {
            let uid = request.uid().unwrap_or_default();
            if memory.proven.contains_key(&uid) {
                continue;
            }
            let token = request.spec.token.as_deref().and_then(|name| {
                let namespace = request.namespace().unwrap_or_default();
                tokens.get(&ObjectRef::new(name).within(&namespace))
            });
            // A token that is not in the store yet may come.
            if token.is_some() || request.spec.kind == EnrollmentKind::Renew {
                let fits = is_proven(request, token.as_deref(), &keys.authority, now);
                memory.proven.insert(uid, fits);
            }
        }
        let uid = |request: &EnrollmentRequest| request.uid().unwrap_or_default();
        triage(
            open,
            |request| memory.proven.get(&uid(request)).copied().unwrap_or(false),
            |request| memory.waited.contains(&uid(request)),
            |wanted| {
                let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
                pace.take(wanted, Instant::now())
            },
            self.clock.is_trusted().then_some(now),
        )
    }

    /// Answers what is in the round.
    async fn answer(
        &self,
        proven: BTreeMap<BatchKey, Vec<Arc<EnrollmentRequest>>>,
        unproven: BTreeMap<BatchKey, Vec<Arc<EnrollmentRequest>>>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        if proven.is_empty() && unproven.is_empty() {
            return outcome;
        }
        if !self.clock.is_trusted() {
            tracing::warn!("no certificates are issued while our clock is off");
            outcome.waits = true;
            return outcome;
        }
        let proven = proven.into_iter().map(|(key, requests)| (key, requests, true));
        let unproven = unproven.into_iter().map(|(key, requests)| (key, requests, false));
        let done: Vec<_> = stream::iter(proven.chain(unproven))
            .map(|(key, requests, is_proven)| async move {
                let mut done = Vec::new();
                // One after the other: they share a token.
                for batch in requests.chunks(BATCH) {
                    done.push(self.answer_batch(&key, batch, is_proven).await);
                }
                done
            })
            .buffer_unordered(BATCHES)
            .concat()
            .await;
        for result in done {
            match result {
                Ok(batch) => outcome.add(batch),
                Err(error) => outcome.failed(&error),
            }
        }
        outcome
    }

    async fn answer_batch(
        &self,
        key: &BatchKey,
        requests: &[Arc<EnrollmentRequest>],
        is_proven: bool,
    ) -> Result<Outcome, SignerError> {
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
            decided.push(Decided { request: Arc::clone(request), device, decision, is_proven });
        }
        if let (true, Some(token)) = (counted, &token) {
            self.write_count(token).await?;
        }
        let (keys, token) = (&keys, token.as_ref());
        let results: Vec<_> = stream::iter(decided)
            .map(|decided| async move {
                let uid = decided.request.uid().unwrap_or_default();
                (uid, self.carry_out(keys, token, decided, now).await)
            })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        let mut outcome = Outcome::default();
        for (uid, result) in results {
            match result {
                Ok(true) => outcome.done.push(uid),
                Ok(false) => {
                    outcome.waits = true;
                    outcome.waiting.insert(uid);
                }
                // One request that cannot be answered does not hold up the others.
                Err(error) => outcome.failed(&error),
            }
        }
        Ok(outcome)
    }

    /// Binds and answers one request whose token has counted it. Says whether it is answered.
    async fn carry_out(
        &self,
        keys: &Keys,
        token: Option<&EnrollmentToken>,
        decided: Decided,
        now: Timestamp,
    ) -> Result<bool, SignerError> {
        let Decided { request, device, decision, is_proven } = decided;
        let (status, newly) = match decision {
            Decision::Wait => return Ok(false),
            Decision::Refuse(refused) => (refusal(&request, refused, now), None),
            Decision::Issue(issue) => match self.bind(&request, device.as_ref(), &issue).await? {
                Bound::No => return Ok(false),
                Bound::Never(refused) => (refusal(&request, refused, now), None),
                Bound::Already => (self.issue(keys, &request, &issue, now)?, None),
                Bound::Newly(device) => (self.issue(keys, &request, &issue, now)?, Some(device)),
            },
        };
        if !self.write_answer(&request, &status).await? {
            return Ok(false);
        }
        match &status.refused {
            None => self.teller.issued(&request, newly.as_deref()).await,
            Some(refusal) => {
                self.teller.refused(&request, device.as_ref(), token, refusal, is_proven).await;
            }
        }
        Ok(true)
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
                self.certificate_life,
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

    /// Removes what the round says; what fails is left to the next one.
    async fn remove_all(&self, removals: Vec<(Arc<EnrollmentRequest>, Removal)>) -> Outcome {
        let results: Vec<_> = stream::iter(removals)
            .map(|(request, why)| async move {
                let result = self.remove(&request).await;
                if result.is_ok() {
                    self.teller.removed(why);
                }
                (request.uid().unwrap_or_default(), result)
            })
            .buffer_unordered(REMOVERS)
            .collect()
            .await;
        let mut outcome = Outcome::default();
        for (uid, result) in results {
            match result {
                Ok(()) => outcome.done.push(uid),
                Err(error) => outcome.failed(&error),
            }
        }
        outcome
    }
}

/// A request with what is to become of it.
struct Decided {
    request: Arc<EnrollmentRequest>,
    device: Option<Device>,
    decision: Decision,
    is_proven: bool,
}

/// What came of some work: the uids of those it is done for, of those that must wait, and whether
/// another try is due.
#[derive(Default)]
struct Outcome {
    done: Vec<String>,
    waiting: BTreeSet<String>,
    waits: bool,
}

impl Outcome {
    fn add(&mut self, other: Outcome) {
        self.done.extend(other.done);
        self.waiting.extend(other.waiting);
        self.waits |= other.waits;
    }

    fn failed(&mut self, error: &SignerError) {
        self.waits = true;
        tracing::warn!(
            error = error as &dyn std::error::Error,
            "failed to work off enrolment requests; trying again"
        );
    }
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

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
