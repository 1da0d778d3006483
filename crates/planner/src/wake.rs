//! The next instant at which a plan can change without an event. A deadline that is not noted here
//! is a rollout that hangs until somebody touches it.

use jiff::Timestamp;

/// Collects instants after `now` and keeps the first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wake {
    now: Timestamp,
    next: Option<Timestamp>,
}

impl Wake {
    pub fn new(now: Timestamp) -> Wake {
        Wake { now, next: None }
    }

    /// Notes an instant. What lies in the past has been acted upon in this pass.
    pub fn at(&mut self, instant: Timestamp) {
        if instant > self.now && instant != Timestamp::MAX {
            self.next = Some(self.next.map_or(instant, |next| next.min(instant)));
        }
    }

    /// Whether the instant has come; notes it if it has not.
    pub fn is_due(&mut self, instant: Timestamp) -> bool {
        self.at(instant);
        self.now >= instant
    }

    pub fn next(&self) -> Option<Timestamp> {
        self.next
    }
}
