//! What a candidate does next, from what it has observed of the Lease. Pure: instants come from a
//! monotonic clock as durations since the process began, so wall clocks never decide.

use std::time::Duration;

/// What the Lease says, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Version of the object; every renewal changes it.
    pub resource_version: String,
    /// Who holds it; empty when it was released.
    pub holder: String,
    /// How long the holder asks others to wait after its last renewal.
    pub duration: Duration,
}

/// The Lease as last read, and when this version of it was first seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What it says.
    pub record: Record,
    /// When this version was first seen by us.
    pub since: Duration,
}

impl Observation {
    /// The observation after reading `record` at `now`: the age of an unchanged version goes on.
    pub fn next(previous: Option<Observation>, record: Record, now: Duration) -> Observation {
        match previous {
            Some(previous) if previous.record.resource_version == record.resource_version => {
                previous
            }
            _ => Observation { record, since: now },
        }
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is no Lease: create it.
    Create,
    /// It is ours: renew it.
    Renew,
    /// It is free or expired: take it, by compare-and-swap.
    Take,
    /// Somebody else holds it.
    Wait,
}

/// Decides the next step of the candidate `me` at `now`.
///
/// A Lease expires when its version did not change for its whole duration *on our own clock*: the
/// times written in it come from other clocks and are for people.
pub fn decide(me: &str, observed: Option<&Observation>, now: Duration) -> Step {
    let Some(observed) = observed else { return Step::Create };
    let record = &observed.record;
    if record.holder == me {
        Step::Renew
    } else if record.holder.is_empty() || now.saturating_sub(observed.since) >= record.duration {
        Step::Take
    } else {
        Step::Wait
    }
}

/// Until when a leader may act after a renewal that was *sent* at `sent`. It ends before others may
/// take over, so that a leader cut off from the API server stops first.
pub fn term_end(sent: Duration, duration: Duration) -> Duration {
    sent + duration * 2 / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_secs(15);

    fn record(holder: &str, version: &str) -> Record {
        Record {
            resource_version: version.to_owned(),
            holder: holder.to_owned(),
            duration: DURATION,
        }
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn without_a_lease_it_is_created() {
        assert_eq!(decide("a", None, secs(0)), Step::Create);
    }

    #[test]
    fn a_released_lease_is_taken_at_once() {
        let seen = Observation { record: record("", "1"), since: secs(5) };
        assert_eq!(decide("a", Some(&seen), secs(5)), Step::Take);
    }

    #[test]
    fn a_lease_is_taken_only_after_a_whole_duration_without_renewal() {
        let seen = Observation { record: record("b", "1"), since: secs(5) };
        assert_eq!(decide("a", Some(&seen), secs(19)), Step::Wait);
        assert_eq!(decide("a", Some(&seen), secs(20)), Step::Take);
    }

    #[test]
    fn a_renewal_by_the_holder_starts_the_wait_anew() {
        let seen = Observation::next(None, record("b", "1"), secs(0));
        let seen = Observation::next(Some(seen), record("b", "1"), secs(10));
        assert_eq!(seen.since, secs(0));
        let seen = Observation::next(Some(seen), record("b", "2"), secs(14));
        assert_eq!(decide("a", Some(&seen), secs(20)), Step::Wait);
    }

    #[test]
    fn the_holder_renews_even_when_it_was_late() {
        let seen = Observation { record: record("a", "1"), since: secs(0) };
        assert_eq!(decide("a", Some(&seen), secs(100)), Step::Renew);
    }

    #[test]
    fn a_leader_stops_before_another_may_begin() {
        let sent = secs(100);
        assert!(term_end(sent, DURATION) < sent + DURATION);
    }
}
