//! A controller process: the Lease, taking over, and carrying plans out one write at a time. It
//! chooses nothing; what it does between two writes is what a crash or a freeze can interrupt.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use wardring_api::{Device, PatchLedger, PatchLedgerStatus, conditions, names, reasons::Reason};
use wardring_planner::{
    Action, DeviceRow, DeviceTable, GrantId, GroupView, Guards, HoldView, JobView, LedgerView,
    Plan, RecordCause, SliceView, Snapshot, StopView, check, plan, take_over,
};

use crate::{
    api::{Answer, Cache, Key, Kind, Lease, Object, Refusal, Stored, Write},
    clock::{MINUTE, Ms, SECOND, skewed, wall},
    hub::{Event, Hub, PATIENCE, Process, Sender, WATCHED},
    seal,
    world::catalogue,
};

mod writes;

/// How often the Lease is looked at.
const RENEW: Ms = 5 * SECOND;
/// A Lease that did not move for this long is free.
const LEASE: Ms = 15 * SECOND;
/// A leader that could not renew acts no longer than this after its last renewal.
const TERM: Ms = 10 * SECOND;
/// Events are collected this long before a pass.
const DEBOUNCE: Ms = 100;
/// Pause after a write that was refused.
const RETRY: Ms = 500;
/// A device that no gateway heard of for this long is offline.
const OFFLINE_AFTER: Ms = 2 * MINUTE;

/// What reaches a controller.
#[derive(Clone, Debug)]
pub enum What {
    /// It looks at the Lease.
    Tick,
    /// A watch delivers.
    Deliver(Kind, usize),
    /// Time for a pass.
    Pass,
    /// The API server answered a write.
    Answer(u64, Box<Answer>),
    /// It did not answer in time.
    GiveUp(u64),
    /// Its fate: it dies before the write after so many.
    DieAfter(u64),
    /// A gateway tells when it last heard of which device.
    Presence(usize, BTreeMap<String, Ms>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Follower,
    /// Raising the sequence before anything else.
    TakingOver,
    Leader,
}

/// A plan that is being carried out.
#[derive(Debug)]
struct Work {
    actions: VecDeque<Action>,
    /// Objects as the plan saw them, moved on only by our own writes.
    pins: BTreeMap<Key, Stored>,
    /// Write under way.
    token: u64,
    /// Devices of the recall under way whose job is gone, and those still to be asked for.
    recalled: Vec<usize>,
    asked: usize,
}

/// A controller.
#[derive(Debug)]
pub struct Controller {
    index: usize,
    life: u64,
    is_alive: bool,
    /// Its clock is so far off.
    skew_ms: i64,
    role: Role,
    cache: Cache,
    seen_lease: Option<(Lease, Ms)>,
    term_end: Ms,
    lease_token: u64,
    lease_sent: Ms,
    tokens: u64,
    uncreated: BTreeSet<GrantId>,
    work: Option<Work>,
    /// When the next pass is due, so that one wake-up is scheduled at a time.
    due: Option<Ms>,
    /// Per gateway: when it was heard, and what it said.
    presence: BTreeMap<usize, (Ms, BTreeMap<String, Ms>)>,
    leads_since: Ms,
    slices: BTreeMap<String, (u64, Arc<SliceView>)>,
    /// Writes after which it dies.
    dies_after: Option<u64>,
}

impl Controller {
    /// A process that is about to start.
    pub fn new(index: usize, skew_ms: i64) -> Controller {
        Controller {
            index,
            life: 0,
            is_alive: false,
            skew_ms,
            role: Role::Follower,
            cache: Cache::default(),
            seen_lease: None,
            term_end: 0,
            lease_token: 0,
            lease_sent: 0,
            tokens: 0,
            uncreated: BTreeSet::new(),
            work: None,
            due: None,
            presence: BTreeMap::new(),
            leads_since: 0,
            slices: BTreeMap::new(),
            dies_after: None,
        }
    }

    /// Starts the process anew: nothing it knew is left.
    pub fn start(&mut self, hub: &mut Hub) {
        let life = self.life + 1;
        *self = Controller { life, is_alive: true, ..Controller::new(self.index, self.skew_ms) };
        for kind in WATCHED {
            self.cache.list_now(&hub.api, kind);
        }
        hub.tell(format!("controller {} starts, life {life}", self.index));
        self.later(hub, 10, What::Tick);
    }

    /// The process dies; what it sent is still under way.
    pub fn crash(&mut self, hub: &mut Hub) {
        hub.tell(format!("controller {} dies", self.index));
        self.is_alive = false;
        self.life += 1;
    }

    /// The life that events must name.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// Whether it runs.
    pub fn is_alive(&self) -> bool {
        self.is_alive
    }

    fn later(&self, hub: &mut Hub, delay: Ms, what: What) {
        hub.after(delay, Event::Controller(self.index, self.life, what));
    }

    fn sender(&self) -> Sender {
        Sender { process: Process::Controller(self.index), life: self.life }
    }

    /// Takes an event.
    pub fn take(&mut self, hub: &mut Hub, what: What) {
        match what {
            What::Tick => self.tick(hub),
            What::Deliver(kind, until) => {
                if self.cache.deliver(&hub.api, kind, until) {
                    self.pass_in(hub, DEBOUNCE);
                }
            }
            What::Pass => {
                // A process that stood still finds its wake-ups late.
                if self.due.is_some_and(|due| due <= hub.now) {
                    self.due = None;
                    self.pass(hub);
                }
            }
            What::Answer(token, answer) => self.answered(hub, token, *answer),
            What::GiveUp(token) => {
                if self.work.as_ref().is_some_and(|work| work.token == token) {
                    hub.tell(format!("controller {} gives a write up", self.index));
                    self.work = None;
                    self.pass_in(hub, RETRY);
                }
            }
            What::DieAfter(writes) => self.dies_after = Some(writes),
            What::Presence(gateway, heard) => {
                self.presence.insert(gateway, (hub.now, heard));
            }
        }
    }

    /// Sends a write and waits for its answer.
    fn send(&mut self, hub: &mut Hub, write: Write) -> u64 {
        self.tokens += 1;
        let token = self.tokens;
        hub.write(self.sender(), token, write);
        self.later(hub, PATIENCE, What::GiveUp(token));
        token
    }

    fn tick(&mut self, hub: &mut Hub) {
        self.later(hub, RENEW, What::Tick);
        let now = hub.now;
        let read = hub.api.get(Kind::Lease, "lease").cloned();
        let Some(stored) = read else {
            let lease = Lease { holder: self.index, renewals: 0 };
            return self.claim(hub, Write::Create(Object::Lease(lease)));
        };
        let Object::Lease(lease) = stored.object.clone() else { return };
        let since = match &self.seen_lease {
            Some((seen, since)) if *seen == lease => *since,
            _ => now,
        };
        self.seen_lease = Some((lease.clone(), since));
        if self.role != Role::Follower && now >= self.term_end {
            hub.tell(format!("controller {} no longer leads", self.index));
            self.role = Role::Follower;
        }
        if lease.holder == self.index || now - since >= LEASE {
            let object = Object::Lease(Lease { holder: self.index, renewals: lease.renewals + 1 });
            self.claim(hub, Write::Replace { uid: stored.uid, version: stored.version, object });
        }
        if self.role == Role::TakingOver && self.work.is_none() {
            self.take_over(hub);
        }
        if self.role == Role::Leader {
            self.publish_presence(hub);
        }
    }

    fn claim(&mut self, hub: &mut Hub, write: Write) {
        self.lease_sent = hub.now;
        self.tokens += 1;
        self.lease_token = self.tokens;
        hub.write(self.sender(), self.lease_token, write);
    }

    fn answered(&mut self, hub: &mut Hub, token: u64, answer: Answer) {
        if token == self.lease_token {
            if answer.is_ok() {
                self.term_end = self.lease_sent + TERM;
                if self.role == Role::Follower && hub.now < self.term_end {
                    hub.tell(format!("controller {} leads", self.index));
                    self.role = Role::TakingOver;
                    (self.work, self.leads_since) = (None, hub.now);
                    self.uncreated.clear();
                    self.take_over(hub);
                }
            }
            return;
        }
        let Some(work) = &self.work else { return };
        if work.token != token {
            return;
        }
        if self.role == Role::TakingOver {
            self.work = None;
            if answer.is_ok() {
                // Only what is read after the sequence was raised may be acted upon.
                for kind in [Kind::Ledger, Kind::Rollout, Kind::Slice, Kind::Job, Kind::Group] {
                    self.cache.list_now(&hub.api, kind);
                }
                self.role = Role::Leader;
                self.pass_in(hub, 0);
            }
            return;
        }
        self.wrote(hub, answer);
    }

    /// Raises the sequence: from here on the old leader's next batch fails.
    fn take_over(&mut self, hub: &mut Hub) {
        let write = match hub.api.get(Kind::Ledger, names::LEDGER_NAME).cloned() {
            None => {
                let mut ledger = PatchLedger::new(names::LEDGER_NAME, Default::default());
                ledger.status = Some(PatchLedgerStatus { sequence: 1, ..Default::default() });
                Write::Create(ledger.into())
            }
            Some(Stored { uid, version, object }) => {
                let Some(ledger) = object.ledger() else { return };
                let mut ledger = (**ledger).clone();
                let status = ledger.status.get_or_insert_default();
                // Another mark for every life of every controller.
                let draw = self.tokens as u32 * 10 + self.index as u32;
                status.sequence = take_over(status.sequence, draw);
                status.take_overs.push(status.sequence);
                Write::Replace { uid, version, object: ledger.into() }
            }
        };
        let token = self.send(hub, write);
        self.work = Some(Work {
            actions: VecDeque::new(),
            pins: BTreeMap::new(),
            token,
            recalled: Vec::new(),
            asked: 0,
        });
    }

    /// Asks for a pass after `delay`, unless one is due before.
    fn pass_in(&mut self, hub: &mut Hub, delay: Ms) {
        let at = hub.now + delay;
        if self.due.is_none_or(|due| at < due) {
            self.due = Some(at);
            self.later(hub, delay, What::Pass);
        }
    }

    /// Observe, plan, and begin to apply.
    fn pass(&mut self, hub: &mut Hub) {
        if self.role != Role::Leader || self.work.is_some() || hub.now >= self.term_end {
            if self.role == Role::Leader {
                self.pass_in(hub, RETRY);
            }
            return;
        }
        let snapshot = self.snapshot(hub);
        let plan = plan(&snapshot);
        let violations = check(&snapshot, &plan);
        if let Some(violation) = violations.first() {
            let (rule, message) = (violation.rule, &violation.message);
            hub.monitor.breaks(hub.now, rule, format!("the plan check says: {message}"));
            return;
        }
        hub.monitor.planned(hub.now, &snapshot, &plan, &mut hub.random);
        self.begin(hub, plan);
    }

    fn begin(&mut self, hub: &mut Hub, plan: Plan) {
        if let Some(next) = plan.next_evaluation {
            let until = next.duration_since(skewed(hub.now, self.skew_ms)).as_millis();
            self.pass_in(hub, u64::try_from(until).unwrap_or(0).max(1) + 1);
        }
        if plan.actions.is_empty() {
            return;
        }
        let pins = WATCHED
            .into_iter()
            .flat_map(|kind| self.cache.list(kind))
            .map(|stored| ((stored.object.kind(), stored.object.name().to_owned()), stored.clone()))
            .collect();
        let actions = plan.actions.into();
        self.work = Some(Work { actions, pins, token: 0, recalled: Vec::new(), asked: 0 });
        self.go_on(hub);
    }

    fn snapshot(&mut self, hub: &Hub) -> Snapshot {
        let now = skewed(hub.now, self.skew_ms);
        let ledger = self.cache.get(Kind::Ledger, names::LEDGER_NAME);
        let status = ledger.and_then(|stored| stored.object.ledger()?.status.clone());
        let slices: Vec<_> = self.cache.list(Kind::Slice).cloned().collect();
        let mut views = Vec::with_capacity(slices.len());
        for stored in &slices {
            let Some(slice) = stored.object.slice() else { continue };
            let name = stored.object.name();
            let known = self.slices.get(name).filter(|(version, _)| *version == stored.version);
            let view = match known {
                Some((_, view)) => view.clone(),
                None => Arc::new(SliceView::new(slice)),
            };
            self.slices.insert(name.to_owned(), (stored.version, view.clone()));
            views.push(view);
        }
        let all = |kind| self.cache.list(kind).map(|stored| &stored.object);
        Snapshot {
            namespace: seal::NAMESPACE.to_owned(),
            now,
            guards: Guards { clock_trusted: self.skew_ms.abs() <= 30_000, ..Guards::default() },
            ledger: LedgerView {
                present: status.is_some(),
                sequence: status.as_ref().map_or(0, |status| status.sequence),
                batch: status.and_then(|status| status.batch),
            },
            rollouts: all(Kind::Rollout).filter_map(Object::rollout).cloned().collect(),
            slices: views,
            jobs: all(Kind::Job)
                .filter_map(Object::job)
                .map(|job| Arc::new(JobView::new(job, seal::verified(job))))
                .collect(),
            devices: Arc::new(DeviceTable::new(
                all(Kind::Device)
                    .filter_map(Object::device)
                    .map(|device| DeviceRow::new(device))
                    .collect(),
                all(Kind::Group)
                    .filter_map(Object::group)
                    .map(|group| GroupView::new(group))
                    .collect(),
            )),
            updates: catalogue().into_iter().map(Arc::new).collect(),
            holds: all(Kind::Hold)
                .filter_map(Object::hold)
                .map(|hold| HoldView {
                    name: hold.metadata.name.clone().unwrap_or_default(),
                    created_at: hold.metadata.creation_timestamp.as_ref().map(|time| time.0),
                    spec: hold.spec.clone(),
                })
                .collect(),
            windows: Vec::new(),
            measurements: Vec::new(),
            orders: Vec::new(),
            approvals: Vec::new(),
            approval_policy: Default::default(),
            nonce: String::new(),
            stops: all(Kind::Stop)
                .filter_map(Object::stop)
                .map(|stop| Arc::new(StopView::new(stop)))
                .collect(),
            uncreated: self.uncreated.clone(),
            cannot_create: BTreeMap::new(),
            refused_holds: BTreeMap::new(),
        }
    }

    /// Writes who is in contact, as far as gateways said. Without any gateway nobody is judged.
    fn publish_presence(&mut self, hub: &mut Hub) {
        let now = hub.now;
        let watched = now.saturating_sub(self.leads_since) >= OFFLINE_AFTER;
        let fresh = self.presence.values().filter(|(at, _)| now - at <= LEASE);
        let mut heard: BTreeMap<&str, Ms> = BTreeMap::new();
        let mut gateways = 0;
        for (_, devices) in fresh {
            gateways += 1;
            for (device, at) in devices {
                let newest = heard.entry(device).or_default();
                *newest = (*newest).max(*at);
            }
        }
        if gateways == 0 {
            // We are blind; when somebody sees again, every device gets its whole time anew.
            self.leads_since = now;
            return;
        }
        let mut writes = Vec::new();
        for stored in self.cache.list(Kind::Device) {
            let Some(device) = stored.object.device() else { continue };
            let id = device.spec.enrolment_id.as_deref().unwrap_or_default();
            let at = heard.get(id).copied();
            let is_online = match at {
                Some(at) if now - at <= OFFLINE_AFTER => true,
                _ if watched => false,
                _ => continue,
            };
            if DeviceRow::new(device).online != Some(is_online) {
                writes.push(online(stored, device, is_online, now));
            }
        }
        for write in writes {
            // Nothing waits for these: the next tick looks again.
            self.tokens += 1;
            hub.write(self.sender(), self.tokens, write);
        }
    }

    /// Grants of our own term whose job was certainly never asked for.
    fn note_grants(&mut self, slice: &str, cause: RecordCause, devices: &[&str]) {
        if cause != RecordCause::Grants {
            return;
        }
        let Some(stored) = self.cache.get(Kind::Slice, slice) else { return };
        let Some(view) = stored.object.slice().map(|slice| SliceView::new(slice)) else { return };
        for line in view
            .lines
            .iter()
            .filter(|line| line.is_in_force() && devices.contains(&line.device.as_str()))
        {
            self.uncreated.insert(GrantId {
                rollout_uid: view.rollout_uid.clone(),
                device: line.device.clone(),
                attempt: line.attempt,
            });
        }
    }
}

fn online(stored: &Stored, device: &Device, is_online: bool, now: Ms) -> Write {
    let mut device = device.clone();
    let status = device.status.get_or_insert_default();
    conditions::set(
        &mut status.conditions,
        conditions::ONLINE,
        is_online.into(),
        if is_online { Reason::Planned } else { Reason::Offline },
        "",
        None,
        wall(now),
    );
    Write::Replace { uid: stored.uid.clone(), version: stored.version, object: device.into() }
}

/// What a refusal means for the write that was asked for.
fn is_same_grant(refusal: &Refusal, new: &wardring_planner::NewJob) -> bool {
    let Refusal::Exists(stored) = refusal else { return false };
    stored.object.job().is_some_and(|job| {
        job.spec.rollout_uid == new.rollout.uid
            && job.spec.attempt == new.attempt
            && job.spec.action == new.action
    })
}
