//! Notifiers: what happens in a namespace is told to sinks outside of the cluster, by the leader.
//!
//! There is no queue. What a sink is to be told next follows from what is written down about rollouts and
//! devices and from what it was told, which stands in the Notifier's status. So nothing is told of a write
//! that failed, a sink that is dead for a day costs a few bytes and one attempt a minute, and another
//! leader goes on where this one stopped. Passes only put down what they read; nothing here makes one wait.

mod evidence;
mod message;
mod outbox;
mod send;
mod template;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use jiff::Timestamp;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, reflector, watcher},
};
use serde_json::{Value, json};
use tokio::{sync::Notify, task::JoinSet, time::Instant};
use wardring_api::{Notifier, NotifierStatus, names::CONTROLLER_MANAGER};
use wardring_planner::Alerts;

use self::{
    outbox::{Outbox, Turn},
    send::{Courier, Delivered, Parcel, deliver},
};
use crate::{
    cache::{Cache, Pause},
    outbound::Allowed,
    presence::Presence,
};

/// Exchanges at the same time in all; a namespace that has none may begin one in any case, so that nobody
/// waits for the slow sinks of other tenants.
const EXCHANGES: usize = 64;
/// Exchanges at the same time of one namespace, and of one Notifier.
const SHARES: (usize, usize) = (8, 4);
/// How often the outboxes are looked at without any news.
const BEAT: Duration = Duration::from_secs(1);
/// A Notifier's status is written this often at most.
const WRITE_EVERY: Duration = Duration::from_secs(2);
/// No write is waited for longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What there is to tell in every namespace, as the last passes saw it; clones share it. Losing it is
/// safe: passes fill it anew.
#[derive(Clone, Debug, Default)]
pub struct Bulletin {
    seen: Arc<Mutex<BTreeMap<String, Arc<Alerts>>>>,
    changed: Arc<Notify>,
}

impl Bulletin {
    fn seen(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Alerts>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pass looked at a namespace.
    pub fn note(&self, namespace: &str, alerts: Alerts) {
        self.seen().insert(namespace.to_owned(), Arc::new(alerts));
        self.changed.notify_one();
    }

    /// Forgets everything: another process leads now, and it tells.
    pub fn forget(&self) {
        self.seen().clear();
    }

    fn of(&self, namespace: &str) -> Option<Arc<Alerts>> {
        self.seen().get(namespace).cloned()
    }
}

/// Namespace and name of a Notifier.
type Place = (String, String);

/// What a task came back with.
enum Ended {
    Sent { place: Place, who: Who, parcel: Box<Parcel>, delivered: Delivered },
    Written { place: Place, status: Option<NotifierStatus> },
}

/// Whose parcel it was: a Notifier that was made anew, and another server, was told nothing by it.
struct Who {
    uid: String,
    sink: String,
    epoch: u64,
}

/// One Notifier, as this leader knows it.
#[derive(Debug, Default)]
struct Desk {
    uid: String,
    outboxes: BTreeMap<String, Outbox>,
    /// As last written.
    written: Option<NotifierStatus>,
    is_writing: bool,
    not_before: Option<Instant>,
}

/// What telling needs.
#[derive(Clone)]
pub struct Office {
    /// The API server.
    pub client: Client,
    /// What is known.
    pub cache: Cache,
    /// How well devices are seen.
    pub presence: Presence,
    /// Where Notifiers may connect.
    pub allowed: Allowed,
    /// What there is to tell.
    pub bulletin: Bulletin,
    /// Whether this process leads.
    pub in_office: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// Tells every sink of every Notifier, until dropped.
pub async fn keep(office: Office) {
    let client = office.client.clone();
    let mut watch = JoinSet::new();
    let (store, writer) = reflector::store();
    let api: Api<Notifier> = Api::all(client.clone());
    watch.spawn(async move {
        let events = watcher(api, watcher::Config::default()).backoff(Pause::default());
        let mut events = Box::pin(events.reflect(writer));
        while let Some(event) = events.next().await {
            if let Err(error) = event {
                tracing::warn!(kind = "Notifier", %error, "a watch broke and is taken up again");
            }
        }
    });
    if store.wait_until_ready().await.is_err() {
        return;
    }
    let mut desks: BTreeMap<Place, Desk> = BTreeMap::new();
    let mut running: JoinSet<Ended> = JoinSet::new();
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = beat.tick() => {}
            () = office.bulletin.changed.notified() => {}
            Some(ended) = running.join_next() => match ended {
                Ok(ended) => settle(&mut desks, ended),
                // Its sink has its next turn after a while. The log shows the bug.
                Err(error) => tracing::error!(%error, "a delivery panicked"),
            }
        }
        if !(office.in_office)() {
            // The term may be renewed yet; meanwhile another process may tell.
            continue;
        }
        let notifiers = store.state();
        take_stock(&mut desks, &notifiers);
        send_due(&office, &notifiers, &mut desks, &mut running);
        write_due(&client, &notifiers, &mut desks, &mut running);
    }
}

fn place(notifier: &Notifier) -> Place {
    (notifier.namespace().unwrap_or_default(), notifier.name_any())
}

/// Takes in what people wrote, and lets go of what is gone.
fn take_stock(desks: &mut BTreeMap<Place, Desk>, notifiers: &[Arc<Notifier>]) {
    let there: BTreeSet<Place> = notifiers.iter().map(|notifier| place(notifier)).collect();
    desks.retain(|place, _| there.contains(place));
    for notifier in notifiers {
        let uid = notifier.uid().unwrap_or_default();
        let desk = desks.entry(place(notifier)).or_default();
        if desk.uid != uid {
            let written = notifier.status.clone();
            *desk = Desk { uid, written, ..Desk::default() };
        }
        let names: BTreeSet<&str> =
            notifier.spec.sinks.iter().map(|sink| sink.name.as_str()).collect();
        desk.outboxes.retain(|name, _| names.contains(name.as_str()));
        for sink in &notifier.spec.sinks {
            let mut told = notifier.status.iter().flat_map(|status| &status.sinks);
            let outbox = desk.outboxes.entry(sink.name.clone());
            let outbox = outbox
                .or_insert_with(|| Outbox::recall(told.find(|status| status.name == sink.name)));
            outbox.renew(notifier.metadata.generation, sink);
        }
    }
}

/// Starts deliveries, whoever waited longest first.
fn send_due(
    office: &Office,
    notifiers: &[Arc<Notifier>],
    desks: &mut BTreeMap<Place, Desk>,
    running: &mut JoinSet<Ended>,
) {
    let now = Instant::now();
    let mut busy = Busy::default();
    let mut due: Vec<(Option<Instant>, usize, usize)> = Vec::new();
    for (index, notifier) in notifiers.iter().enumerate() {
        let at = place(notifier);
        let Some(desk) = desks.get(&at) else { continue };
        for (position, sink) in notifier.spec.sinks.iter().enumerate() {
            let Some(outbox) = desk.outboxes.get(&sink.name) else { continue };
            if outbox.is_busy(now) {
                busy.add(&at);
            } else if outbox.is_due(now) {
                due.push((outbox.last_try(), index, position));
            }
        }
    }
    due.sort();
    let sight = office.presence.sight();
    for (_, index, position) in due {
        let notifier = &notifiers[index];
        let at = place(notifier);
        if !busy.has_room(&at) {
            continue;
        }
        let Some(alerts) = office.what_there_is(&at.0) else { continue };
        let sink = &notifier.spec.sinks[position];
        let outbox = desks.get_mut(&at).and_then(|desk| desk.outboxes.get_mut(&sink.name));
        let parcel = outbox.and_then(|outbox| {
            let turn = Turn {
                notifier,
                alerts: &alerts,
                sight,
                now: Timestamp::now(),
                clock: now,
                ended: &|entry| evidence::ended(&office.cache, &at.0, entry),
                is_disputed: &|device| evidence::is_disputed(&office.cache, &at.0, device),
            };
            outbox.parcel(sink, &turn)
        });
        let Some(parcel) = parcel else { continue };
        busy.add(&at);
        let courier = Courier {
            client: office.client.clone(),
            allowed: office.allowed.clone(),
            in_office: office.in_office.clone(),
        };
        let Some(desk) = desks.get(&at) else { continue };
        let epoch = desk.outboxes.get(&sink.name).map(Outbox::epoch).unwrap_or_default();
        let who = Who { uid: desk.uid.clone(), sink: sink.name.clone(), epoch };
        running.spawn(async move {
            let delivered = deliver(&courier, &parcel).await;
            Ended::Sent { place: at, who, parcel: Box::new(parcel), delivered }
        });
    }
}

impl Office {
    /// What there is to tell in a namespace, once a pass of this leader has looked at it. Of one that is
    /// not there (any more) nothing is.
    fn what_there_is(&self, namespace: &str) -> Option<Arc<Alerts>> {
        let is_there = self.cache.read(namespace, |space| space.is_some());
        self.bulletin.of(namespace).or_else(|| (!is_there).then(Arc::default))
    }
}

/// Exchanges under way.
#[derive(Debug, Default)]
struct Busy {
    all: usize,
    namespaces: BTreeMap<String, usize>,
    notifiers: BTreeMap<Place, usize>,
}

impl Busy {
    fn add(&mut self, at: &Place) {
        self.all += 1;
        *self.namespaces.entry(at.0.clone()).or_default() += 1;
        *self.notifiers.entry(at.clone()).or_default() += 1;
    }

    fn has_room(&self, at: &Place) -> bool {
        let here = self.namespaces.get(&at.0).copied().unwrap_or_default();
        let own = self.notifiers.get(at).copied().unwrap_or_default();
        here < SHARES.0 && own < SHARES.1 && (here == 0 || self.all < EXCHANGES)
    }
}

fn settle(desks: &mut BTreeMap<Place, Desk>, ended: Ended) {
    match ended {
        Ended::Sent { place, who, parcel, delivered } => {
            if let Some(error) = &delivered.error {
                let ((namespace, name), sink) = (&place, &who.sink);
                tracing::warn!(namespace, name, sink, %error, "a sink was not told");
            }
            let desk = desks.get_mut(&place).filter(|desk| desk.uid == who.uid);
            let outbox = desk.and_then(|desk| desk.outboxes.get_mut(&who.sink));
            if let Some(outbox) = outbox.filter(|outbox| outbox.epoch() == who.epoch) {
                outbox.settle(&parcel, &delivered, Timestamp::now(), Instant::now());
            }
        }
        Ended::Written { place, status } => {
            if let Some(desk) = desks.get_mut(&place) {
                desk.is_writing = false;
                desk.written = status.or(desk.written.take());
            }
        }
    }
}

/// Writes the statuses that differ from what was written.
fn write_due(
    client: &Client,
    notifiers: &[Arc<Notifier>],
    desks: &mut BTreeMap<Place, Desk>,
    running: &mut JoinSet<Ended>,
) {
    let now = Instant::now();
    for notifier in notifiers {
        let at = place(notifier);
        let Some(desk) = desks.get_mut(&at) else { continue };
        if desk.is_writing || desk.not_before.is_some_and(|not_before| now < not_before) {
            continue;
        }
        let before = desk.written.clone().unwrap_or_default();
        let status = outbox::status(notifier, &desk.outboxes, &before, Timestamp::now());
        if desk.written.as_ref() == Some(&status) {
            continue;
        }
        desk.is_writing = true;
        desk.not_before = Some(now + WRITE_EVERY);
        let client = client.clone();
        // A leader whose term is over must not undo what its successor wrote.
        let version = notifier.metadata.resource_version.clone();
        let basis = json!({ "uid": desk.uid, "resourceVersion": version });
        running.spawn(async move {
            let written = write(&client, &at, basis, &status).await;
            Ended::Written { place: at, status: written.then_some(status) }
        });
    }
}

async fn write(client: &Client, at: &Place, basis: Value, status: &NotifierStatus) -> bool {
    let (namespace, name) = at;
    let api: Api<Notifier> = Api::namespaced(client.clone(), namespace);
    let params = PatchParams {
        field_manager: Some(CONTROLLER_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    // Fields that are left out of a merge patch would stay: so they are named.
    let mut whole = json!({ "observedGeneration": null, "conditions": null, "sinks": null });
    if let (Some(whole), Ok(Value::Object(fields))) =
        (whole.as_object_mut(), serde_json::to_value(status))
    {
        whole.extend(fields);
    }
    let patch = Patch::Merge(json!({ "metadata": basis, "status": whole }));
    match tokio::time::timeout(PATIENCE, api.patch_status(name, &params, &patch)).await {
        Ok(Ok(_)) => true,
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => false,
        Ok(Err(error)) => {
            tracing::warn!(namespace, name, %error, "failed to write a Notifier's status");
            false
        }
        Err(_) => false,
    }
}
