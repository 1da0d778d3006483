//! What a gateway remembers of each enrolment it talks with: request budget, agent runs, contact.
//! All of it may be lost at any time.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    bucket::{Bucket, Rate},
    runs::{Runs, Sighting},
};

/// Every enrolment that was heard lately, by `namespace/enrolmentId`.
#[derive(Debug)]
pub struct Peers {
    rate: Rate,
    began: Instant,
    known: Mutex<HashMap<Box<str>, Arc<Peer>>>,
}

/// One enrolment.
#[derive(Debug)]
pub struct Peer {
    /// `namespace/enrolmentId`.
    pub key: Box<str>,
    polling: AtomicU32,
    memory: Mutex<Memory>,
}

#[derive(Debug)]
struct Memory {
    bucket: Bucket,
    runs: Runs,
    heard: Duration,
    /// Highest sealed sequence presented, once there was any word of it.
    sequence: Option<i64>,
    highest_report: u64,
    facts: u64,
}

/// What presence tells the leader about one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// In contact now, and it has presented what it holds: a leader that is told of a device may rely
    /// on its sequence.
    pub online: bool,
    /// Highest sealed sequence its agent presented.
    pub sequence: i64,
}

impl Peers {
    /// Nobody yet; each peer may send `rate` requests.
    pub fn new(rate: Rate) -> Peers {
        Peers { rate, began: Instant::now(), known: Mutex::new(HashMap::new()) }
    }

    /// The peer with this key, made if it is new.
    pub fn peer(&self, key: &str) -> Arc<Peer> {
        let mut known = self.known();
        if let Some(peer) = known.get(key) {
            return peer.clone();
        }
        let now = self.began.elapsed();
        let peer = Arc::new(Peer {
            key: key.into(),
            polling: AtomicU32::new(0),
            memory: Mutex::new(Memory {
                bucket: Bucket::full(self.rate, now),
                runs: Runs::default(),
                heard: now,
                sequence: None,
                highest_report: 0,
                facts: 0,
            }),
        });
        known.insert(key.into(), peer.clone());
        peer
    }

    /// Counts a request of `peer` as contact, or says when to come again.
    pub fn admit(&self, peer: &Peer) -> Result<(), Duration> {
        let now = self.began.elapsed();
        let mut memory = peer.memory();
        memory.heard = now;
        memory.bucket.take(self.rate, now)
    }

    /// Takes note of the run that speaks and of the highest sealed sequence that it presents.
    pub fn note(&self, peer: &Peer, run: &str, sequence: i64) -> Sighting {
        let mut memory = peer.memory();
        memory.sequence = memory.sequence.max(Some(sequence));
        // `heard` is this request's own instant: the clock is not read twice.
        let now = memory.heard;
        memory.runs.note(run, now)
    }

    /// Takes note of contact.
    pub fn heard(&self, peer: &Peer) {
        peer.memory().heard = self.began.elapsed();
    }

    /// Visits every peer with its contact; one that was not heard for `grace` is not online. Peers
    /// that nobody speaks for any more are forgotten afterwards.
    pub fn visit(&self, grace: Duration, mut visit: impl FnMut(&Peer, Heard)) {
        let now = self.began.elapsed();
        self.known().retain(|_, peer| {
            let (heard, sequence) = {
                let memory = peer.memory();
                (memory.heard, memory.sequence)
            };
            let away = now.saturating_sub(heard);
            let here = peer.polling.load(Ordering::Relaxed) > 0 || away < grace;
            let online = here && sequence.is_some();
            visit(peer, Heard { online, sequence: sequence.unwrap_or(0) });
            here || away < 2 * grace || Arc::strong_count(peer) > 1
        });
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Peer>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    /// Takes note of a report's number; answers with the highest so far.
    pub fn note_report(&self, number: u64) -> u64 {
        let mut memory = self.memory();
        memory.highest_report = memory.highest_report.max(number);
        memory.highest_report
    }

    /// Number of the newest facts that changed nothing, so that an older copy changes nothing either.
    pub fn facts(&self) -> u64 {
        self.memory().facts
    }

    /// Takes note of facts that changed nothing.
    pub fn note_facts(&self, number: u64) {
        let mut memory = self.memory();
        memory.facts = memory.facts.max(number);
    }

    /// Counts as in contact as long as the guard lives.
    pub fn poll(self: &Arc<Peer>) -> Polling {
        self.polling.fetch_add(1, Ordering::Relaxed);
        Polling { peer: self.clone() }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A poll that is open.
#[derive(Debug)]
pub struct Polling {
    peer: Arc<Peer>,
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.peer.polling.fetch_sub(1, Ordering::Relaxed);
    }
}
