//! Kubernetes Events: few, on transitions only, and never in the way of a pass.
//!
//! Every transition is an Event of its own. Its name follows from what it says about which version of
//! which object, so that the same one written twice is still one.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event as KubeEvent},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
    runtime::events::EventType,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use wardring_api::{GROUP, VERSION, names::CONTROLLER_MANAGER, reasons::Reason};
use wardring_planner::{Event, EventKind};

use crate::limit::Limit;

/// Events in a burst, and then one per [`REFILL`]: a controller in trouble must not drown the API
/// server in words about it.
const BURST: u32 = 50;
const REFILL: Duration = Duration::from_millis(500);

/// Longest note the API takes, bytes.
const MAX_NOTE: usize = 1024;

/// Longest part of an Event's name that repeats the object's.
const MAX_NAME: usize = 200;

/// No Event is waited for longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Events whose repetitions are counted. Beyond that the count begins anew.
const COUNTED: usize = 1024;

/// Writes Events; clones share the limit.
#[derive(Clone)]
pub struct Events {
    client: Client,
    holder: Arc<str>,
    /// How often each repeated Event was told, by name.
    repeated: Arc<Mutex<BTreeMap<String, i32>>>,
    limit: Arc<Mutex<Limit>>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// Events in the name of `holder`.
    pub fn new(client: Client, holder: &str) -> Events {
        Events {
            client,
            holder: holder.into(),
            repeated: Arc::default(),
            limit: Arc::new(Mutex::new(Limit::new(BURST, REFILL, Instant::now()))),
        }
    }

    /// Events with a budget of their own, so that nobody's flood leaves out what these say.
    pub fn with_limit(&self, burst: u32, refill: Duration) -> Events {
        let limit = Arc::new(Mutex::new(Limit::new(burst, refill, Instant::now())));
        Events { limit, ..self.clone() }
    }

    /// Writes an Event that a plan asks for, about the rollout as it is since `version`.
    pub async fn emit(&self, namespace: &str, version: u64, event: Event) {
        let about = ObjectReference {
            api_version: Some(format!("{GROUP}/{VERSION}")),
            kind: Some("PatchRollout".to_owned()),
            name: Some(event.rollout.name.clone()),
            namespace: Some(namespace.to_owned()),
            uid: Some(event.rollout.uid.clone()),
            resource_version: Some(version.to_string()),
            ..ObjectReference::default()
        };
        let kind = match event.kind {
            EventKind::Normal => EventType::Normal,
            EventKind::Warning => EventType::Warning,
        };
        self.publish(&about, kind, event.reason, &event.note).await;
    }

    /// Writes one Event. Failing is not worth more than a log line: the status says the same.
    pub async fn publish(
        &self,
        about: &ObjectReference,
        kind: EventType,
        reason: Reason,
        note: &str,
    ) {
        let (namespace, name) = (about.namespace.as_deref(), about.name.as_deref());
        let taken =
            self.limit.lock().unwrap_or_else(PoisonError::into_inner).take(1, Instant::now());
        if taken == 0 {
            tracing::warn!(namespace, name, "too many events; one is left out");
            return;
        }
        let event = self.event(about, kind, reason, note);
        match tokio::time::timeout(PATIENCE, self.write(&event)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(namespace, name, %error, "an event was not written"),
            Err(_) => tracing::warn!(namespace, name, "an event took too long to write"),
        }
    }

    fn event(
        &self,
        about: &ObjectReference,
        kind: EventType,
        reason: Reason,
        note: &str,
    ) -> KubeEvent {
        let kind = match kind {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        };
        KubeEvent {
            metadata: ObjectMeta {
                name: Some(name_of(about, reason, note)),
                namespace: about.namespace.clone(),
                ..ObjectMeta::default()
            },
            action: Some("Reconcile".to_owned()),
            event_time: Some(MicroTime(Timestamp::now())),
            note: Some(wardring_api::conditions::clip(note, MAX_NOTE)),
            reason: Some(reason.as_str().to_owned()),
            regarding: Some(about.clone()),
            reporting_controller: Some(CONTROLLER_MANAGER.to_owned()),
            reporting_instance: Some(self.holder.to_string()),
            type_: Some(kind.to_owned()),
            ..KubeEvent::default()
        }
    }

    async fn write(&self, event: &KubeEvent) -> Result<(), kube::Error> {
        let (name, namespace) = (&event.metadata.name, &event.metadata.namespace);
        let name = name.as_deref().unwrap_or_default();
        let api: Api<KubeEvent> =
            Api::namespaced(self.client.clone(), namespace.as_deref().unwrap_or("default"));
        match api.create(&PostParams::default(), event).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                let about = event.regarding.as_ref();
                if about.is_some_and(|about| about.resource_version.is_some()) {
                    // The very same transition.
                    return Ok(());
                }
                let series = json!({ "series": {
                    "count": self.repeat(name),
                    "lastObservedTime": MicroTime(Timestamp::now()),
                } });
                api.patch(name, &PatchParams::default(), &Patch::Merge(series)).await.map(|_| ())
            }
            Err(error) => Err(error),
        }
    }

    /// How often the Event was told, this time included.
    fn repeat(&self, name: &str) -> i32 {
        let mut repeated = self.repeated.lock().unwrap_or_else(PoisonError::into_inner);
        if repeated.len() >= COUNTED && !repeated.contains_key(name) {
            repeated.clear();
        }
        let count = repeated.entry(name.to_owned()).or_insert(1);
        *count = count.saturating_add(1);
        *count
    }
}

/// The name of the Event that says this about that version of the object.
fn name_of(about: &ObjectReference, reason: Reason, note: &str) -> String {
    let mut hash = Sha256::new();
    let (uid, version) = (about.uid.as_deref(), about.resource_version.as_deref());
    for part in [uid.unwrap_or_default(), version.unwrap_or_default(), reason.as_str(), note] {
        hash.update(part);
        hash.update([0]);
    }
    let object: String = about.name.iter().flat_map(|name| name.chars()).take(MAX_NAME).collect();
    let mut name = format!("{}.", object.trim_end_matches(['.', '-']));
    for byte in hash.finalize().iter().take(8) {
        write!(name, "{byte:02x}").expect("a String takes everything");
    }
    name
}

#[cfg(test)]
pub(crate) mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::Value;
    use wardring_planner::RolloutRef;

    use super::*;

    /// Events that an API server stored, by name.
    pub(crate) type Told = Arc<Mutex<BTreeMap<String, Value>>>;

    /// An API server that keeps Events and leaves everything else to `answer`, which is given the
    /// path and the body of a request.
    pub(crate) fn api_server(
        answer: impl Fn(&str, Value) -> (u16, Value) + Send + Sync + 'static,
    ) -> (Client, Told) {
        let told = Told::default();
        let (kept, answer) = (told.clone(), Arc::new(answer));
        let service = tower::service_fn(move |request: Request<Body>| {
            let (kept, answer) = (kept.clone(), answer.clone());
            async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect_bytes().await.unwrap();
                let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                let (code, object) = match path.rsplit_once("/events") {
                    Some((_, "")) => create(&mut kept.lock().unwrap(), body),
                    Some((_, name)) => patch(&mut kept.lock().unwrap(), &name[1..], &body),
                    None => answer(&path, body),
                };
                let bytes = Body::from(serde_json::to_vec(&object).unwrap());
                let response = Response::builder().status(code).body(bytes).unwrap();
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        (Client::new(service, "clinic"), told)
    }

    /// How the API server says no.
    pub(crate) fn refusal(code: u16, reason: &str) -> (u16, Value) {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure",
            "message": reason, "reason": reason, "code": code });
        (code, status)
    }

    fn create(kept: &mut BTreeMap<String, Value>, event: Value) -> (u16, Value) {
        let name = event["metadata"]["name"].as_str().unwrap().to_owned();
        if kept.contains_key(&name) {
            return refusal(409, "AlreadyExists");
        }
        kept.insert(name, event.clone());
        (201, event)
    }

    fn patch(kept: &mut BTreeMap<String, Value>, name: &str, change: &Value) -> (u16, Value) {
        let event = kept.get_mut(name).unwrap();
        event["series"] = change["series"].clone();
        (200, event.clone())
    }

    /// The notes that were told, in alphabetical order.
    pub(crate) fn notes(told: &Told) -> Vec<String> {
        let told = told.lock().unwrap();
        let mut notes: Vec<_> =
            told.values().map(|event| event["note"].as_str().unwrap().to_owned()).collect();
        notes.sort();
        notes
    }

    pub(crate) fn event(reason: Reason, note: &str) -> Event {
        Event {
            rollout: RolloutRef { name: "november".to_owned(), uid: "u-1".to_owned() },
            kind: EventKind::Normal,
            reason,
            note: note.to_owned(),
        }
    }

    fn played() -> (Events, Told) {
        let (client, told) = api_server(|path, _| panic!("nobody asked for {path}"));
        (Events::new(client, "controller-1"), told)
    }

    #[tokio::test]
    async fn every_stage_that_opens_and_the_end_are_events_of_their_own() {
        let (events, told) = played();
        let stages = ["test-servers", "workstations", "production"];
        for (version, stage) in (1..).zip(stages) {
            let opened = event(Reason::InProgress, &format!("Stage {stage} opened."));
            events.emit("clinic", version, opened).await;
        }
        events.emit("clinic", 4, event(Reason::Completed, "Every stage is proven.")).await;
        let expected = [
            "Every stage is proven.",
            "Stage production opened.",
            "Stage test-servers opened.",
            "Stage workstations opened.",
        ];
        assert_eq!(notes(&told), expected);
        let told = told.lock().unwrap();
        assert!(told.values().all(|event| event.get("series").is_none()));
    }

    #[tokio::test]
    async fn a_transition_told_twice_is_one_event_and_one_that_happens_again_is_another() {
        let (events, told) = played();
        let suspended = || event(Reason::SuspendedByPerson, "A person suspended the rollout.");
        events.emit("clinic", 7, suspended()).await;
        events.emit("clinic", 7, suspended()).await;
        assert_eq!(told.lock().unwrap().len(), 1);
        assert!(told.lock().unwrap().values().all(|event| event.get("series").is_none()));
        events.emit("clinic", 9, suspended()).await;
        assert_eq!(told.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn what_is_said_again_about_no_version_in_particular_is_counted() {
        let (events, told) = played();
        let about = ObjectReference {
            name: Some("ws-17".to_owned()),
            namespace: Some("clinic".to_owned()),
            uid: Some("u-17".to_owned()),
            ..ObjectReference::default()
        };
        for note in ["no certificate", "no certificate", "another reason", "no certificate"] {
            events.publish(&about, EventType::Warning, Reason::TokenRefused, note).await;
        }
        assert_eq!(notes(&told), ["another reason", "no certificate"]);
        let told = told.lock().unwrap();
        let counts: Vec<_> =
            told.values().filter_map(|one| one["series"]["count"].as_i64()).collect();
        assert_eq!(counts, [3]);
    }

    #[tokio::test]
    async fn beyond_the_budget_events_are_left_out() {
        let (events, told) = played();
        let events = events.with_limit(2, Duration::from_secs(3600));
        for version in 1..5 {
            events.emit("clinic", version, event(Reason::InProgress, "Stage a opened.")).await;
        }
        assert_eq!(told.lock().unwrap().len(), 2);
    }

    #[test]
    fn names_of_events_are_names_whatever_the_object_is_called() {
        let name = format!("{}.november", "a".repeat(MAX_NAME - 1));
        let about = ObjectReference { name: Some(name), ..ObjectReference::default() };
        let name = name_of(&about, Reason::Completed, "Every stage is proven.");
        assert!(name.len() <= 253 && !name.contains(".."), "{name}");
    }
}
