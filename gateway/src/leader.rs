//! Whether a leader is at work, by our own monotonic clock, and where it takes presence.
//!
//! A permit needs a leader that has renewed its Lease lately: without one nobody would notice a halt.
//! The Lease's own times are another machine's wall clock, so only the moment *we* saw it move counts.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::coordination::v1::Lease;
use tokio::sync::watch;
use wardring_api::presence::PRESENCE_URL_ANNOTATION;

/// Used if the Lease does not say.
const DEFAULT_DURATION: Duration = Duration::from_secs(15);

/// What the Lease tells.
#[derive(Debug)]
pub struct Leader {
    seen: Mutex<Option<Seen>>,
    url: watch::Sender<Option<String>>,
}

#[derive(Debug)]
struct Seen {
    /// Holder and time of renewal, as written in the Lease.
    renewal: Renewal,
    /// When it moved; none while we have seen only one value, of unknown age.
    moved: Option<Instant>,
    duration: Duration,
}

#[derive(Debug, PartialEq, Eq)]
struct Renewal {
    holder: String,
    time: Option<jiff::Timestamp>,
}

impl Default for Leader {
    fn default() -> Leader {
        Leader { seen: Mutex::new(None), url: watch::Sender::new(None) }
    }
}

impl Leader {
    /// Takes in a version of the Lease that arrived now.
    pub fn put(&self, lease: &Lease) {
        let now = Instant::now();
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        let duration = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(DEFAULT_DURATION, Duration::from_secs);
        let renewal = Renewal { time: spec.renew_time.map(|time| time.0), holder };
        let is_held = !renewal.holder.is_empty();
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let moved = match seen.as_ref() {
                Some(old) if old.renewal == renewal => old.moved,
                Some(_) => Some(now),
                None => None,
            };
            *seen = Some(Seen { renewal, moved: moved.filter(|_| is_held), duration });
        }
        let annotations = lease.metadata.annotations.as_ref();
        let url = annotations.and_then(|all| all.get(PRESENCE_URL_ANNOTATION)).cloned();
        self.url.send_if_modified(|current| {
            let url = url.filter(|_| is_held);
            let is_new = *current != url;
            *current = url;
            is_new
        });
    }

    /// Takes in that there is no Lease.
    pub fn remove(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.url.send_replace(None);
    }

    /// Whether the Lease moved within its own duration.
    pub fn is_fresh(&self) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.as_ref()
            .is_some_and(|seen| seen.moved.is_some_and(|moved| moved.elapsed() < seen.duration))
    }

    /// Where the leader takes presence.
    pub fn url(&self) -> watch::Receiver<Option<String>> {
        self.url.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::{
        api::coordination::v1::LeaseSpec, apimachinery::pkg::apis::meta::v1::MicroTime,
    };

    fn lease(holder: &str, second: i64, duration: i32) -> Lease {
        Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                renew_time: Some(MicroTime(jiff::Timestamp::from_second(second).unwrap())),
                lease_duration_seconds: Some(duration),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_lease_counts_only_after_it_was_seen_to_move() {
        let leader = Leader::default();
        assert!(!leader.is_fresh());
        leader.put(&lease("a", 1, 15));
        assert!(!leader.is_fresh(), "its age is unknown");
        leader.put(&lease("a", 1, 15));
        assert!(!leader.is_fresh(), "a repeated event is no renewal");
        leader.put(&lease("a", 2, 15));
        assert!(leader.is_fresh());
    }

    #[test]
    fn a_lease_that_stands_still_or_is_released_is_not_fresh() {
        let leader = Leader::default();
        leader.put(&lease("a", 1, 0));
        leader.put(&lease("a", 2, 0));
        assert!(!leader.is_fresh(), "its duration has passed");
        leader.put(&lease("a", 3, 15));
        assert!(leader.is_fresh());
        leader.put(&lease("", 4, 15));
        assert!(!leader.is_fresh(), "nobody holds it");
        leader.put(&lease("b", 5, 15));
        leader.remove();
        assert!(!leader.is_fresh());
    }
}
