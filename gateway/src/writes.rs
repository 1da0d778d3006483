//! The one place that writes statuses from reports: coalesced, in two lanes, within a budget.
//!
//! Outcomes and progress go before facts. Each write is a merge patch of what changed, fenced by the
//! version it was made from, so that neither another gateway nor the controller is overwritten. A wish
//! that fails is given up and its waiters told: the agent still has the report and sends it again.

mod device;
mod job;

pub(crate) use device::wanted;
pub(crate) use job::merged;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::Client;
use tokio::{
    sync::{Notify, oneshot},
    time,
};
use wardring_protocol::Signed;
use wardring_seal::JobKey;

use crate::{
    budget::{Budget, Written},
    cache::{Cache, path},
    lane::{Full, Lane, Slot},
    merge::{FactsReport, ProgressReport},
    metrics::Metrics,
};

/// Slots per lane: a device has one of each at most, and a gateway serves fewer than this at once.
const MOST_WAITING: usize = 50_000;
/// Writes under way at once.
const WORKERS: usize = 16;
/// Conflicts borne before a wish is given up.
const TRIES: usize = 6;
/// A write without an answer after this long is taken for throttling.
const NO_ANSWER: Duration = Duration::from_secs(10);
/// Facts that come right after an outcome travel with those that waited for it.
const AFTER_OUTCOME: Duration = Duration::from_secs(2);

/// `namespace/name` of the device and the grant that is spoken of.
pub type JobSlot = (String, JobKey);

/// What is to be written to a job.
#[derive(Clone, Debug, Default)]
pub struct JobWish {
    /// Newest progress.
    pub progress: Option<ProgressReport>,
    /// The outcome.
    pub outcome: Option<Signed>,
    /// Run that spoke last.
    pub run: Option<String>,
    /// A step the device waits for, and when it asked.
    pub awaited: Option<(wardring_api::PermitStep, Timestamp)>,
}

impl JobWish {
    /// Joins a newer wish into this one.
    pub fn join(&mut self, newer: JobWish) {
        let seq = |wish: &Option<ProgressReport>| wish.as_ref().map_or(0, |report| report.seq);
        if seq(&newer.progress) > seq(&self.progress) {
            self.progress = newer.progress;
            // Progress is the agent's own word and says more than what it asked for before.
            self.awaited = None;
        }
        self.outcome = self.outcome.take().or(newer.outcome);
        self.run = newer.run.or(self.run.take());
        self.awaited = newer.awaited.or(self.awaited.take());
    }
}

/// Why a wish was not written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// Too many wishes wait.
    #[error("too many writes are waiting")]
    Full,
    /// The API server did not take it.
    #[error("the API server did not take the write: {0}")]
    Api(String),
    /// The gateway stops.
    #[error("the gateway is stopping")]
    Stopping,
}

type Ticket = oneshot::Sender<Result<(), WriteError>>;
/// Resolves when a wish is durable, or given up.
pub type Receipt = oneshot::Receiver<Result<(), WriteError>>;

struct Queues {
    jobs: Lane<JobSlot, JobWish, Ticket>,
    facts: Lane<String, FactsReport, Ticket>,
    budget: Budget,
    busy: usize,
}

/// The writer; clones share it.
#[derive(Clone)]
pub struct Writer {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    cache: Arc<Cache>,
    metrics: Arc<Metrics>,
    began: Instant,
    queues: Mutex<Queues>,
    moved: Notify,
}

#[allow(clippy::large_enum_variant, reason = "there is one at a time, for a moment")]
enum Turn {
    Job(JobSlot, Slot<JobWish, Ticket>),
    Facts(String, Slot<FactsReport, Ticket>),
    Wait(Option<Duration>),
}

impl Writer {
    /// A writer with `cap` writes per second; [`Writer::run`] makes it work.
    pub fn new(client: Client, cache: Arc<Cache>, metrics: Arc<Metrics>, cap: u32) -> Writer {
        let queues = Queues {
            jobs: Lane::new(MOST_WAITING),
            facts: Lane::new(MOST_WAITING),
            budget: Budget::new(cap, Duration::ZERO),
            busy: 0,
        };
        Writer {
            shared: Arc::new(Shared {
                client,
                cache,
                metrics,
                began: Instant::now(),
                queues: Mutex::new(queues),
                moved: Notify::new(),
            }),
        }
    }

    /// Wishes facts to be written after `delay` at the latest.
    pub fn facts(
        &self,
        namespace: &str,
        device: &str,
        report: FactsReport,
        delay: Duration,
    ) -> Result<Receipt, WriteError> {
        let (ticket, receipt) = oneshot::channel();
        let due = self.clock() + delay;
        let newest = |old: &mut FactsReport, new: FactsReport| {
            if new.seq > old.seq || new.enrolment_id != old.enrolment_id {
                *old = new;
            }
        };
        let key = path(namespace, device);
        let added = self.queues().facts.add(key, report, due, Some(ticket), newest);
        self.shared.moved.notify_one();
        added.map(|()| receipt).map_err(|Full| WriteError::Full)
    }

    /// Wishes a job's status to be written after `delay` at the latest.
    pub fn job(
        &self,
        slot: JobSlot,
        wish: JobWish,
        delay: Duration,
    ) -> Result<Receipt, WriteError> {
        let (ticket, receipt) = oneshot::channel();
        let due = self.clock() + delay;
        let added = self.queues().jobs.add(slot, wish, due, Some(ticket), JobWish::join);
        self.shared.moved.notify_one();
        added.map(|()| receipt).map_err(|Full| WriteError::Full)
    }

    /// Takes what waits for a job, so that it travels with a permit; [`Riding::settle`] tells the
    /// waiters.
    pub fn ride(&self, slot: &JobSlot) -> Riding {
        Riding { slot: self.queues().jobs.take(slot) }
    }

    /// Counts a write that was made elsewhere, and what came of it.
    pub fn count(&self, kind: &'static str, written: Written) {
        self.shared.metrics.wrote(kind, written);
        let now = self.clock();
        let mut queues = self.queues();
        queues.budget.take_in_advance(now);
        queues.budget.learn(written, now);
    }

    /// Makes a device's facts due soon: its job has ended.
    pub fn hurry_facts(&self, device: &str) {
        let due = self.clock() + AFTER_OUTCOME;
        self.queues().facts.hurry(&device.to_owned(), due);
        self.shared.moved.notify_one();
    }

    /// Writes until `stop` resolves, then what still waits.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let stopping = tokio_util::sync::CancellationToken::new();
        let workers: Vec<_> =
            (0..WORKERS).map(|_| tokio::spawn(self.clone().work(stopping.clone()))).collect();
        stop.await;
        let now = self.clock();
        {
            let mut queues = self.queues();
            queues.jobs.hurry_all(now);
            queues.facts.hurry_all(now);
        }
        stopping.cancel();
        self.shared.moved.notify_waiters();
        for worker in workers {
            if let Err(error) = worker.await {
                tracing::error!(%error, "a writer ended early");
            }
        }
    }

    async fn work(self, stopping: tokio_util::sync::CancellationToken) {
        loop {
            let moved = self.shared.moved.notified();
            let turn = self.next();
            match turn {
                Turn::Job(slot, Slot { wish, tickets, .. }) => {
                    let ends = wish.outcome.is_some();
                    let written = job::write(&self, &slot, wish).await;
                    if ends {
                        self.hurry_facts(&slot.0);
                    }
                    settle(tickets, written);
                }
                Turn::Facts(device, Slot { wish, tickets, .. }) => {
                    settle(tickets, device::write(&self, &device, wish).await);
                }
                Turn::Wait(until) => {
                    let idle = {
                        let queues = self.queues();
                        queues.jobs.is_empty() && queues.facts.is_empty()
                    };
                    if stopping.is_cancelled() && idle {
                        return;
                    }
                    let pause = until.map_or(Duration::from_secs(5), |at| {
                        at.saturating_sub(self.clock()).max(Duration::from_millis(1))
                    });
                    tokio::select! {
                        () = moved => {}
                        () = time::sleep(pause) => {}
                    }
                    continue;
                }
            }
            self.queues().busy -= 1;
        }
    }

    /// The next wish that is due and within the budget, or until when there is nothing to do.
    fn next(&self) -> Turn {
        let now = self.clock();
        let mut queues = self.queues();
        let next = [queues.jobs.next_due(), queues.facts.next_due()].into_iter().flatten().min();
        if next.is_none_or(|due| due > now) {
            return Turn::Wait(next);
        }
        if let Err(wait) = queues.budget.take(now) {
            return Turn::Wait(Some(now + wait));
        }
        queues.busy += 1;
        if let Some((key, slot)) = queues.jobs.take_due(now) {
            return Turn::Job(key, slot);
        }
        match queues.facts.take_due(now) {
            Some((key, slot)) => Turn::Facts(key, slot),
            None => {
                queues.busy -= 1;
                Turn::Wait(None)
            }
        }
    }

    /// What waits, is under way, and may be written per second.
    pub fn load(&self) -> (usize, usize, f64) {
        let queues = self.queues();
        (queues.jobs.len() + queues.facts.len(), queues.busy, queues.budget.rate())
    }

    fn clock(&self) -> Duration {
        self.shared.began.elapsed()
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.shared.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one API call within the time we give it, and lets the budget learn from it.
    async fn call<T>(
        &self,
        kind: &'static str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, WriteError> {
        let began = Instant::now();
        let answer = time::timeout(NO_ANSWER, call).await;
        let written = match &answer {
            Err(_) => Written::Throttled,
            Ok(Err(kube::Error::Api(status))) if status.code == 429 => Written::Throttled,
            Ok(_) => Written::After(began.elapsed()),
        };
        self.shared.metrics.wrote(kind, written);
        let now = self.clock();
        self.queues().budget.learn(written, now);
        match answer {
            Ok(answer) => answer.map_err(|error| WriteError::Api(error.to_string())),
            Err(_) => Err(WriteError::Api("no answer in time".to_owned())),
        }
    }
}

fn settle(tickets: Vec<Ticket>, written: Result<(), WriteError>) {
    if let Err(error) = &written {
        tracing::warn!(%error, "a status was not written; the agent will send the report again");
    }
    for ticket in tickets {
        // Nobody waits any more: the agent hung up, and finds the report acked next time.
        drop(ticket.send(written.clone()));
    }
}

/// A wish that travels with another write.
pub struct Riding {
    slot: Option<Slot<JobWish, Ticket>>,
}

impl Riding {
    /// What to write along.
    pub fn wish(&self) -> JobWish {
        self.slot.as_ref().map(|slot| slot.wish.clone()).unwrap_or_default()
    }

    /// Tells the waiters, or puts the wish back if it was not written.
    pub fn settle(self, writer: &Writer, key: JobSlot, written: bool) {
        let Some(slot) = self.slot else { return };
        if written {
            settle(slot.tickets, Ok(()));
        } else {
            writer.queues().jobs.put_back(key, slot, JobWish::join);
            writer.shared.moved.notify_one();
        }
    }
}
