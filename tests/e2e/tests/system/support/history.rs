//! The API server's watch history of a namespace: every version of every record, in the order in
//! which it was stored.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::StreamExt;
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, task::JoinSet};
use wardring_api::{
    Device, LineState, PatchJob, PatchLedger, PatchRollout, PatchRolloutSlice, Permit, SliceLine,
    names::STAGE_LABEL,
};

/// One stored version of one object.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its resource version: one counter over all kinds, because one etcd stores them all.
    pub version: u64,
    /// What was stored.
    pub change: Change,
}

/// What was stored.
#[derive(Clone, Debug)]
pub enum Change {
    Ledger(Box<PatchLedger>),
    Slice(Box<PatchRolloutSlice>),
    SliceGone(String),
    Job(Box<PatchJob>),
    JobGone(String),
    Rollout(Box<PatchRollout>),
    Device(Box<Device>),
    Gone,
}

/// A recorder; it records until it is dropped.
pub struct History {
    events: Arc<Mutex<Vec<Event>>>,
    blind: Arc<Mutex<Vec<RangeInclusive<u64>>>>,
    changed: watch::Receiver<usize>,
    _watches: JoinSet<()>,
}

/// Kinds that are recorded.
const KINDS: usize = 5;

/// A kind that is recorded.
trait Recorded: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug {
    fn stored(self) -> Change;
    fn gone(name: String) -> Change;
}

macro_rules! recorded {
    ($($kind:ty, $stored:path, $gone:expr;)+) => {
        $(impl Recorded for $kind {
            fn stored(self) -> Change { $stored(Box::new(self)) }
            fn gone(name: String) -> Change { $gone(name) }
        })+
    };
}

recorded! {
    PatchLedger, Change::Ledger, |_| Change::Gone;
    PatchRolloutSlice, Change::Slice, Change::SliceGone;
    PatchJob, Change::Job, Change::JobGone;
    PatchRollout, Change::Rollout, |_| Change::Gone;
    Device, Change::Device, |_| Change::Gone;
}

struct Recorder {
    events: Arc<Mutex<Vec<Event>>>,
    /// Versions among which some may be missing, because a watch was interrupted.
    blind: Arc<Mutex<Vec<RangeInclusive<u64>>>>,
    changed: Arc<watch::Sender<usize>>,
    /// Kinds whose records so far are known.
    listed: Arc<watch::Sender<usize>>,
}

impl History {
    /// Begins to record a namespace; what is there already is recorded when this returns.
    pub async fn begin(client: &Client, namespace: &str) -> History {
        let events = Arc::new(Mutex::new(Vec::new()));
        let blind = Arc::new(Mutex::new(Vec::new()));
        let (sender, changed) = watch::channel(0);
        let sender = Arc::new(sender);
        let listed = Arc::new(watch::Sender::new(0));
        let mut watches = JoinSet::new();
        let recorder = || Recorder {
            events: events.clone(),
            blind: blind.clone(),
            changed: sender.clone(),
            listed: listed.clone(),
        };
        watches.spawn(recorder().record::<PatchLedger>(client.clone(), namespace.to_owned()));
        watches.spawn(recorder().record::<PatchRolloutSlice>(client.clone(), namespace.to_owned()));
        watches.spawn(recorder().record::<PatchJob>(client.clone(), namespace.to_owned()));
        watches.spawn(recorder().record::<PatchRollout>(client.clone(), namespace.to_owned()));
        watches.spawn(recorder().record::<Device>(client.clone(), namespace.to_owned()));
        // The recorders live as long as this does.
        let _ = listed.subscribe().wait_for(|kinds| *kinds == KINDS).await;
        History { events, blind, changed, _watches: watches }
    }

    /// Everything so far, in order.
    pub fn events(&self) -> Vec<Event> {
        let mut events = lock(&self.events).clone();
        events.sort_by_key(|event| event.version);
        events
    }

    /// Waits for the next version that is stored from now on and meets a condition.
    pub async fn next(&mut self, wanted: impl Fn(&Change) -> bool) {
        let mut seen = lock(&self.events).len();
        loop {
            {
                let events = lock(&self.events);
                if events[seen..].iter().any(|event| wanted(&event.change)) {
                    return;
                }
                seen = events.len();
            }
            // The recorders live as long as this does.
            let _ = self.changed.changed().await;
        }
    }

    /// Waits until the controller has written so many times more.
    pub async fn next_decisions(&mut self, count: usize) {
        for _ in 0..count {
            self.next(|change| match change {
                Change::Ledger(_) | Change::Slice(_) | Change::Rollout(_) | Change::JobGone(_) => {
                    true
                }
                // Later versions of a job are the gateways'.
                Change::Job(job) => job.status.is_none(),
                Change::SliceGone(_) | Change::Device(_) | Change::Gone => false,
            })
            .await;
        }
    }

    /// The most devices of a stage that were in flight at any moment, as the records say it: in the
    /// open batch, or granted, or with a permit, and without an outcome.
    pub fn most_in_flight(&self, stage: &str) -> usize {
        let mut records = Records::default();
        let blind = lock(&self.blind).clone();
        let mut most = 0;
        for event in self.events() {
            records.apply(event.change);
            // Records of different moments together say nothing.
            if !blind.iter().any(|versions| versions.contains(&event.version)) {
                most = most.max(records.in_flight(stage).len());
            }
        }
        most
    }

    /// Whether every version since the beginning was recorded.
    pub fn is_whole(&self) -> bool {
        lock(&self.blind).iter().all(|versions| *versions.start() == 0)
    }

    /// Every permit that any job ever showed, by device.
    pub fn permits(&self) -> BTreeMap<String, Vec<Permit>> {
        let mut permits: BTreeMap<String, Vec<Permit>> = BTreeMap::new();
        for event in self.events() {
            let Change::Job(job) = event.change else { continue };
            let seen = permits.entry(job.name_any()).or_default();
            for permit in job.status.iter().flat_map(|status| &status.permitted) {
                if !seen.contains(permit) {
                    seen.push(permit.clone());
                }
            }
        }
        permits.retain(|_, permits| !permits.is_empty());
        permits
    }

    /// Number of permits ever given.
    pub fn permit_count(&self) -> usize {
        self.permits().values().map(Vec::len).sum()
    }

    /// The ledger's sequences in the order in which they were stored.
    pub fn sequences(&self) -> Vec<i64> {
        let ledgers = self.events().into_iter().filter_map(|event| match event.change {
            Change::Ledger(ledger) => ledger.status.map(|status| status.sequence),
            _ => None,
        });
        ledgers.collect()
    }

    /// Who raised the ledger's sequence, each change of hands once.
    pub fn leaders(&self) -> Vec<String> {
        let mut leaders: Vec<String> = Vec::new();
        for event in self.events() {
            let Change::Ledger(ledger) = event.change else { continue };
            let holder = ledger.status.and_then(|status| status.holder);
            if let Some(holder) = holder.filter(|holder| leaders.last() != Some(holder)) {
                leaders.push(holder);
            }
        }
        leaders
    }
}

impl Recorder {
    async fn record<K>(self, client: Client, namespace: String)
    where
        K: Recorded + Resource<Scope = k8s_openapi::NamespaceResourceScope> + Send + 'static,
    {
        let api: Api<K> = Api::namespaced(client, &namespace);
        let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
        let mut known: BTreeSet<String> = BTreeSet::new();
        let mut listed: BTreeSet<String> = BTreeSet::new();
        let mut broken = None;
        let mut has_listed = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Apply(object)) => {
                    // Taken up where it broke, nothing is missing.
                    broken = None;
                    known.insert(object.name_any());
                    self.add(version(&object), object.stored());
                }
                Ok(watcher::Event::Delete(object)) => {
                    broken = None;
                    known.remove(&object.name_any());
                    self.add(version(&object), K::gone(object.name_any()));
                }
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(object)) => {
                    listed.insert(object.name_any());
                    self.add(version(&object), object.stored());
                }
                // What went while the watch was interrupted.
                Ok(watcher::Event::InitDone) => {
                    let latest = lock(&self.events).iter().map(|event| event.version).max();
                    for name in known.difference(&listed) {
                        self.add(latest.unwrap_or(0), K::gone(name.clone()));
                    }
                    known = listed.clone();
                    let from = broken.take().unwrap_or(0);
                    lock(&self.blind).push(from..=latest.unwrap_or(0));
                    if !std::mem::replace(&mut has_listed, true) {
                        self.listed.send_modify(|kinds| *kinds += 1);
                    }
                }
                // It begins anew by itself; until then versions may be missing.
                Err(_) => {
                    let latest = lock(&self.events).iter().map(|event| event.version).max();
                    broken.get_or_insert(latest.unwrap_or(0));
                }
            }
        }
    }

    fn add(&self, version: u64, change: Change) {
        lock(&self.events).push(Event { version, change });
        self.changed.send_modify(|changes| *changes += 1);
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn version(object: &impl Resource) -> u64 {
    object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The records as they stood at one moment.
#[derive(Default)]
struct Records {
    ledger: Option<PatchLedger>,
    slices: BTreeMap<String, PatchRolloutSlice>,
    jobs: BTreeMap<String, PatchJob>,
}

impl Records {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Ledger(ledger) => self.ledger = Some(*ledger),
            Change::Slice(slice) => drop(self.slices.insert(slice.name_any(), *slice)),
            Change::SliceGone(name) => drop(self.slices.remove(&name)),
            Change::Job(job) => drop(self.jobs.insert(job.name_any(), *job)),
            Change::JobGone(name) => drop(self.jobs.remove(&name)),
            Change::Rollout(_) | Change::Device(_) | Change::Gone => {}
        }
    }

    fn in_flight(&self, stage: &str) -> BTreeSet<String> {
        let mut flying = BTreeSet::new();
        for slice in self.slices.values().filter(|slice| slice.spec.stage == stage) {
            for line in lines(slice) {
                let batched = self.batched_attempt(slice, &line.device);
                if batched.is_some_and(|attempt| attempt > line.attempt)
                    || (line.state == LineState::Granted && !self.is_answered(&line))
                {
                    flying.insert(line.device);
                }
            }
        }
        let jobs = self.jobs.values().filter(|job| {
            let status = job.status.as_ref();
            job.labels().get(STAGE_LABEL).is_some_and(|label| label == stage)
                && status
                    .is_some_and(|status| !status.permitted.is_empty() && status.outcome.is_none())
        });
        flying.extend(jobs.map(ResourceExt::name_any));
        flying
    }

    /// The attempt of a device in the open batch.
    fn batched_attempt(&self, slice: &PatchRolloutSlice, device: &str) -> Option<u32> {
        let batch = self.ledger.as_ref()?.status.as_ref()?.batch.as_ref()?;
        let grants = batch.grants.iter().filter(|_| batch.slice == slice.name_any());
        grants.into_iter().find_map(|grant| {
            let mut words = grant.split(' ');
            let is_it = words.next() == Some(device);
            words.next().filter(|_| is_it).and_then(|attempt| attempt.parse().ok())
        })
    }

    fn is_answered(&self, line: &SliceLine) -> bool {
        self.jobs.get(&line.device).is_some_and(|job| {
            job.spec.attempt == line.attempt
                && job.status.as_ref().is_some_and(|status| status.outcome.is_some())
        })
    }
}

/// The lines of a slice.
pub fn lines(slice: &PatchRolloutSlice) -> Vec<SliceLine> {
    slice.spec.lines.iter().map(|line| line.parse().expect("the controller writes lines")).collect()
}
