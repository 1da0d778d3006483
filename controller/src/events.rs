//! Kubernetes Events: few, on transitions only, and never in the way of a pass.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event as KubeEvent, EventType, Recorder, Reporter},
};
use wardring_api::{GROUP, VERSION, reasons::Reason};
use wardring_planner::{Event, EventKind};

use crate::limit::Limit;

/// Events in a burst, and then one per [`REFILL`]: a controller in trouble must not drown the API
/// server in words about it.
const BURST: u32 = 50;
const REFILL: Duration = Duration::from_millis(500);

/// Longest note the API takes, bytes.
const MAX_NOTE: usize = 1024;

/// Writes Events; clones share the limit.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
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
        let reporter = Reporter {
            controller: "wardring-controller".into(),
            instance: Some(holder.to_owned()),
        };
        Events {
            recorder: Recorder::new(client, reporter),
            limit: Arc::new(Mutex::new(Limit::new(BURST, REFILL, Instant::now()))),
        }
    }

    /// Events with a budget of their own, so that nobody's flood leaves out what these say.
    pub fn with_limit(&self, burst: u32, refill: Duration) -> Events {
        Events {
            recorder: self.recorder.clone(),
            limit: Arc::new(Mutex::new(Limit::new(burst, refill, Instant::now()))),
        }
    }

    /// Writes an Event that a plan asks for.
    pub async fn emit(&self, namespace: &str, event: Event) {
        let about = ObjectReference {
            api_version: Some(format!("{GROUP}/{VERSION}")),
            kind: Some("PatchRollout".to_owned()),
            name: Some(event.rollout.name.clone()),
            namespace: Some(namespace.to_owned()),
            uid: Some(event.rollout.uid.clone()),
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
        let words = KubeEvent {
            type_: kind,
            reason: reason.as_str().to_owned(),
            note: Some(wardring_api::conditions::clip(note, MAX_NOTE)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&words, about).await {
            tracing::warn!(namespace, name, %error, "an event was not written");
        }
    }
}
