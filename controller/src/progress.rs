//! Whether passes move on. The Lease is renewed only while they do: a leader that hangs must lose
//! its office, while one namespace that fails or hangs must not cost the others their leader.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A pass that takes longer counts as stuck: the slowest honest one (a huge stage being frozen)
/// takes seconds, and each of its requests has its own time limit.
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// The scheduler beats every second; without a beat for this long its thread is starved or dead.
const BEAT_LIMIT: Duration = Duration::from_secs(15);

/// Shared record of beats and running passes.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Last beat; none while there is no scheduler (a follower is always fine).
    beat: Option<Instant>,
    workers: usize,
    running: BTreeMap<String, Instant>,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The scheduler begins, with room for `workers` passes at once.
    pub fn begin(&self, workers: usize) {
        *self.lock() = Inner { beat: Some(Instant::now()), workers, running: BTreeMap::new() };
    }

    /// The scheduler is gone.
    pub fn end(&self) {
        *self.lock() = Inner::default();
    }

    /// The scheduler is alive.
    pub fn beat(&self) {
        self.lock().beat = Some(Instant::now());
    }

    /// A pass over `namespace` begins.
    pub fn pass_began(&self, namespace: &str) {
        self.lock().running.insert(namespace.to_owned(), Instant::now());
    }

    /// A pass over `namespace` ended, well or not.
    pub fn pass_ended(&self, namespace: &str) {
        self.lock().running.remove(namespace);
    }

    /// Whether passes move on.
    pub fn is_moving(&self) -> bool {
        self.lock().is_moving(Instant::now())
    }
}

impl Inner {
    fn is_moving(&self, now: Instant) -> bool {
        let Some(beat) = self.beat else { return true };
        let stuck =
            self.running.values().filter(|began| now.duration_since(**began) > STUCK_AFTER).count();
        now.duration_since(beat) <= BEAT_LIMIT && (self.workers == 0 || stuck < self.workers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inner(now: Instant, workers: usize, running: &[(&str, u64)]) -> Inner {
        Inner {
            beat: Some(now),
            workers,
            running: running
                .iter()
                .map(|(name, age)| ((*name).to_owned(), now - Duration::from_secs(*age)))
                .collect(),
        }
    }

    #[test]
    fn one_namespace_that_hangs_does_not_stop_the_others() {
        let now = Instant::now() + Duration::from_secs(1000);
        assert!(inner(now, 2, &[("a", 300), ("b", 1)]).is_moving(now));
    }

    #[test]
    fn nothing_moves_when_every_worker_hangs() {
        let now = Instant::now() + Duration::from_secs(1000);
        assert!(!inner(now, 2, &[("a", 300), ("b", 300)]).is_moving(now));
    }

    #[test]
    fn a_scheduler_that_stops_beating_does_not_move() {
        let now = Instant::now() + Duration::from_secs(1000);
        let inner = inner(now, 2, &[]);
        assert!(!inner.is_moving(now + BEAT_LIMIT + Duration::from_secs(1)));
    }
}
