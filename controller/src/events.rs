//! Kubernetes Events about rollouts: few, on transitions only, and never in the way of a pass.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event as KubeEvent, EventType, Recorder, Reporter},
};
use wardring_api::{GROUP, VERSION};
use wardring_planner::{Event, EventKind};

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

#[derive(Debug)]
struct Limit {
    left: u32,
    refilled: Instant,
}

impl Limit {
    fn take(&mut self, now: Instant) -> bool {
        let earned = now.duration_since(self.refilled).as_millis() / REFILL.as_millis();
        if earned > 0 {
            self.left = self.left.saturating_add(u32::try_from(earned).unwrap_or(BURST)).min(BURST);
            self.refilled = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
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
            limit: Arc::new(Mutex::new(Limit { left: BURST, refilled: Instant::now() })),
        }
    }

    /// Writes one Event. Failing is not worth more than a log line: the status says the same.
    pub async fn emit(&self, namespace: &str, event: Event) {
        let may = self.limit.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        if !may {
            tracing::warn!(
                namespace,
                rollout = event.rollout.name,
                "too many events; one is left out"
            );
            return;
        }
        let about = ObjectReference {
            api_version: Some(format!("{GROUP}/{VERSION}")),
            kind: Some("PatchRollout".to_owned()),
            name: Some(event.rollout.name.clone()),
            namespace: Some(namespace.to_owned()),
            uid: Some(event.rollout.uid.clone()),
            ..ObjectReference::default()
        };
        let words = KubeEvent {
            type_: match event.kind {
                EventKind::Normal => EventType::Normal,
                EventKind::Warning => EventType::Warning,
            },
            reason: event.reason.as_str().to_owned(),
            note: Some(wardring_api::conditions::clip(&event.note, MAX_NOTE)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&words, &about).await {
            tracing::warn!(namespace, rollout = event.rollout.name, %error, "an event was not written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_events_is_cut_off_and_recovers() {
        let start = Instant::now();
        let mut limit = Limit { left: BURST, refilled: start };
        let written = (0..BURST * 2).filter(|_| limit.take(start)).count();
        assert_eq!(written, BURST as usize);
        assert!(limit.take(start + REFILL));
        assert!(!limit.take(start + REFILL));
    }
}
