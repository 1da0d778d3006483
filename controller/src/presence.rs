//! Which devices are in contact, as the gateways say: the endpoint they stream to, and the handle the
//! passes read.
//!
//! All of it lives in memory and belongs to the leader. It is a hint and never proof: nothing counts
//! as an outcome because of it.

mod endpoint;
pub mod judge;
mod review;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use wardring_api::conditions;
use wardring_planner::Sight;

pub use endpoint::{PresenceError, serve};
pub use judge::DeviceRef;
use judge::Judge;

/// Gateways that are gone for longer are told of: a restart of all of them is no event.
const BLIND_AFTER: Duration = Duration::from_secs(120);

/// What presence knows of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// In contact, or away for less than the timeout, or away by what looks like our own fault.
    Online {
        /// Since when.
        since: Timestamp,
    },
    /// Judged offline.
    Offline {
        /// Since when it was out of contact.
        since: Timestamp,
    },
    /// Not known yet (a new leader, or no gateway has reported): the Device's own condition stands.
    Unknown,
}

/// Handle on the presence of all devices; clones share it.
#[derive(Clone, Debug)]
pub struct Presence {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    judge: Mutex<Judge>,
    changed: Notify,
    leading: AtomicBool,
    timeout: Duration,
    began: Instant,
}

/// The devices of one namespace at one moment. Whoever has one must ask the [`Presence`] for nothing else:
/// that would wait for this to be dropped.
#[derive(Debug)]
pub struct Roll<'a> {
    judge: MutexGuard<'a, Judge>,
    namespace: &'a str,
    clock: Duration,
    now: Timestamp,
}

impl Roll<'_> {
    /// What is known of a device.
    pub fn contact(&self, device: &str) -> Contact {
        let instant = |since: Duration| {
            let ago = self.clock.saturating_sub(since);
            let ago = SignedDuration::try_from(ago).unwrap_or_default();
            self.now.checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH)
        };
        match self.judge.contact(self.namespace, device, self.clock) {
            judge::Contact::Online { since } => Contact::Online { since: instant(since) },
            judge::Contact::Offline { since } => Contact::Offline { since: instant(since) },
            judge::Contact::Unknown => Contact::Unknown,
        }
    }
}

impl Presence {
    /// A device is marked offline after it was out of contact for `timeout` (10 minutes by default).
    pub fn new(timeout: Duration) -> Presence {
        Presence {
            shared: Arc::new(Shared {
                judge: Mutex::new(Judge::new(timeout)),
                changed: Notify::new(),
                leading: AtomicBool::new(false),
                timeout,
                began: Instant::now(),
            }),
        }
    }

    /// Tells the endpoint whether this process leads. Only the leader takes batches; both edges forget
    /// everybody, because what an earlier leader knew may be old.
    pub fn set_leading(&self, leading: bool) {
        if self.shared.leading.swap(leading, Ordering::SeqCst) != leading {
            *self.judge() = Judge::new(self.shared.timeout);
            self.shared.changed.notify_one();
        }
    }

    /// What is known of a device.
    pub fn contact(&self, namespace: &str, device: &str) -> Contact {
        self.roll(namespace).contact(device)
    }

    /// What is known of the devices of a namespace, for whoever asks of many of them.
    pub fn roll<'a>(&'a self, namespace: &'a str) -> Roll<'a> {
        Roll { judge: self.judge(), namespace, clock: self.clock(), now: Timestamp::now() }
    }

    /// Whether the device is known to be in contact.
    pub fn online(&self, namespace: &str, device: &str) -> bool {
        matches!(self.contact(namespace, device), Contact::Online { .. })
    }

    /// Sealed sequences that agents of the namespace presented. One that the ledger did not give says
    /// that the cluster was restored from an older backup.
    pub fn sequences(&self, namespace: &str) -> Vec<i64> {
        self.judge().sequences(namespace)
    }

    /// When devices that nobody has heard since this leader began count as offline; nothing while no
    /// gateway has told whom it sees.
    pub fn hears_until(&self) -> Option<Timestamp> {
        let until = self.judge().hears_until()?;
        let left = SignedDuration::try_from(until.saturating_sub(self.clock())).ok()?;
        Timestamp::now().checked_add(left).ok()
    }

    /// How well this leader sees devices. A new one is not called blind before a gateway could have come.
    pub fn sight(&self) -> Sight {
        let now = self.clock();
        match self.judge().sight(now) {
            judge::View::Clear => Sight::Clear,
            judge::View::Blind { since } if now.saturating_sub(since) >= BLIND_AFTER => {
                let ago = SignedDuration::try_from(now.saturating_sub(since)).unwrap_or_default();
                let since = Timestamp::now().checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH);
                Sight::Blind { since: conditions::whole_seconds(since) }
            }
            judge::View::Settling | judge::View::Blind { .. } => Sight::Settling,
        }
    }

    /// Gateways heard lately.
    pub fn gateways(&self) -> usize {
        self.judge().gateways()
    }

    /// Devices in contact with a gateway right now.
    pub fn in_contact(&self) -> usize {
        self.judge().in_contact()
    }

    /// Names the devices of a namespace that have a job; their silence is expected and is left out
    /// of the mass-silence rule. Call it after each pass over the namespace.
    pub fn set_jobs(&self, namespace: &str, devices: BTreeSet<String>) {
        self.judge().set_jobs(namespace, devices);
    }

    /// Resolves when something changed; one listener. Changes before the call are not lost.
    pub async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Namespaces in which contact or the highest sequence changed since the last call.
    pub fn take_changes(&self) -> BTreeSet<String> {
        self.judge().take_changes()
    }

    /// Takes a batch as if a gateway had sent it.
    #[cfg(test)]
    pub(crate) fn hear(&self, batch: wardring_api::presence::PresenceBatch) {
        assert!(self.act(|judge, now| judge.take(batch, now)).is_ok(), "the session goes on");
    }

    fn is_leading(&self) -> bool {
        self.shared.leading.load(Ordering::SeqCst)
    }

    fn clock(&self) -> Duration {
        self.shared.began.elapsed()
    }

    fn judge(&self) -> MutexGuard<'_, Judge> {
        self.shared.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `act` on the judge and wakes the listener if that changed something.
    fn act<T>(&self, act: impl FnOnce(&mut Judge, Duration) -> T) -> T {
        let now = self.clock();
        let mut judge = self.judge();
        let result = act(&mut judge, now);
        if judge.has_changes() {
            self.shared.changed.notify_one();
        }
        result
    }
}
