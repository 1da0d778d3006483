//! Who counts as silent: pure, on a clock that the caller moves.
//!
//! Gateways report contact; this module decides what it means. A device is offline only when it left
//! every gateway's set and stayed away for the whole timeout while gateways were there to see it.
//! Whatever looks like our own fault (all gateways gone, many idle devices silent at once) marks
//! nobody: job deadlines run on regardless, so a real outage still counts where it matters.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use wardring_api::presence::PresenceBatch;
use wardring_planner::mark;

/// Namespace and name of a device.
pub type DeviceRef = (String, String);

/// Three missed heartbeats: the gateway is gone, or we are cut off from it.
pub const GATEWAY_SILENT_AFTER: Duration = Duration::from_secs(15);
/// Devices that fall silent within this span are looked at together.
pub const MASS_WINDOW: Duration = Duration::from_secs(60);
/// Fewer silent devices than this are never our fault as such.
pub const MASS_MIN: usize = 20;
/// Marks that are told apart in a namespace. Ledgers remember fewer; an agent that makes numbers up must
/// not fill our memory.
const MARKS: usize = 1_000;
/// Mass silence begins at one in so many idle devices (2 %).
pub const MASS_ONE_IN: usize = 50;

/// What presence knows of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// In contact, or away for less than the timeout, or away by what looks like our own fault.
    Online {
        /// Since when, on the judge's clock.
        since: Duration,
    },
    /// Judged offline.
    Offline {
        /// Since when it was out of contact.
        since: Duration,
    },
    /// Not known yet: keep whatever was known before.
    Unknown,
}

/// How well devices are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// For the whole timeout already.
    Clear,
    /// Not for the whole timeout yet.
    Settling,
    /// Nobody is here to see them.
    Blind {
        /// Since when.
        since: Duration,
    },
}

/// Why a batch cannot be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewSessionNeeded;

#[derive(Debug)]
struct Session {
    id: String,
    next: u64,
    heard: Duration,
    complete: bool,
    /// Devices this gateway holds contact with, as far as we know.
    devices: BTreeSet<usize>,
    /// Of them, those named in this session; the rest is from the session before, until complete.
    confirmed: BTreeSet<usize>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// Gateways that hold contact.
    holders: u32,
    /// When the last of them lost it.
    gone: Duration,
    verdict: Verdict,
    since: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Online,
    /// Silent together with many others: not marked offline until it was seen again.
    Excused,
    /// Silent for the whole timeout.
    Offline,
}

/// Sealed sequences that agents of a namespace presented: the highest, and by the mark of the term
/// that gave them the lowest and the highest.
#[derive(Debug, Default)]
struct Presented {
    highest: i64,
    marks: BTreeMap<i64, (i64, i64)>,
}

impl Presented {
    /// Says whether that was news.
    fn note(&mut self, sequence: i64) -> bool {
        let highest = self.highest.max(sequence);
        let is_higher = std::mem::replace(&mut self.highest, highest) != highest;
        let has_room = self.marks.len() < MARKS;
        match self.marks.get_mut(&mark(sequence)) {
            Some((low, high)) => {
                let before = (*low, *high);
                (*low, *high) = (sequence.min(*low), sequence.max(*high));
                is_higher || before != (*low, *high)
            }
            None if has_room => {
                self.marks.insert(mark(sequence), (sequence, sequence));
                true
            }
            None => is_higher,
        }
    }
}

/// The judgement over all devices.
#[derive(Debug)]
pub struct Judge {
    timeout: Duration,
    sessions: BTreeMap<String, Session>,
    /// Positions in `names` and `states`, by namespace and name.
    index: HashMap<String, HashMap<String, usize>>,
    names: Vec<DeviceRef>,
    states: Vec<State>,
    busy: HashMap<String, BTreeSet<String>>,
    sequences: HashMap<String, Presented>,
    /// Idle devices that fell silent lately, oldest first.
    silent: VecDeque<(Duration, usize)>,
    /// Since when nobody is here to see devices.
    blind: Option<Duration>,
    /// Since when at least one gateway with a complete set has been here without a gap.
    watching: Option<Duration>,
    changed: BTreeSet<String>,
}

impl Judge {
    /// A judge that knows nobody.
    pub fn new(timeout: Duration) -> Judge {
        Judge {
            timeout,
            sessions: BTreeMap::new(),
            index: HashMap::new(),
            names: Vec::new(),
            states: Vec::new(),
            busy: HashMap::new(),
            sequences: HashMap::new(),
            silent: VecDeque::new(),
            blind: None,
            watching: None,
            changed: BTreeSet::new(),
        }
    }

    /// What is known of a device at `now`.
    pub fn contact(&self, namespace: &str, device: &str, now: Duration) -> Contact {
        let Some(state) = self.position(namespace, device).map(|at| self.states[at]) else {
            // Nobody has mentioned it since this leader began. It is offline once gateways had the
            // whole timeout to mention it.
            return match self.watching {
                Some(since) if now.saturating_sub(since) >= self.timeout => {
                    Contact::Offline { since }
                }
                _ => Contact::Unknown,
            };
        };
        match state.verdict {
            Verdict::Offline => Contact::Offline { since: state.since },
            Verdict::Online | Verdict::Excused => Contact::Online { since: state.since },
        }
    }

    /// Sealed sequences that agents of the namespace presented, enough of them to tell whether all
    /// belong to one history.
    pub fn sequences(&self, namespace: &str) -> Vec<i64> {
        let presented = self.sequences.get(namespace);
        presented.map_or_else(Vec::new, |presented| {
            let ends = presented.marks.values().flat_map(|(low, high)| [*low, *high]);
            ends.chain([presented.highest]).collect()
        })
    }

    /// When whoever has not been heard since this leader began counts as offline; nothing while no
    /// gateway with a complete set is here.
    pub fn hears_until(&self) -> Option<Duration> {
        self.watching.map(|since| since + self.timeout)
    }

    /// How well devices are seen at `now`.
    pub fn sight(&self, now: Duration) -> View {
        match self.watching {
            None => View::Blind { since: self.blind.unwrap_or(now) },
            Some(since) if now.saturating_sub(since) < self.timeout => View::Settling,
            Some(_) => View::Clear,
        }
    }

    /// Gateways heard lately.
    pub fn gateways(&self) -> usize {
        self.sessions.len()
    }

    /// Devices in contact with at least one gateway.
    pub fn in_contact(&self) -> usize {
        self.states.iter().filter(|state| state.holders > 0).count()
    }

    /// Devices of a namespace that have a job: their silence is expected and says nothing about us.
    pub fn set_jobs(&mut self, namespace: &str, devices: BTreeSet<String>) {
        self.busy.insert(namespace.to_owned(), devices);
    }

    /// Namespaces in which something changed since the last call.
    pub fn take_changes(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed)
    }

    /// Whether [`Judge::take_changes`] has something.
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Takes a gateway's batch.
    pub fn take(&mut self, batch: PresenceBatch, now: Duration) -> Result<(), NewSessionNeeded> {
        let gateway = batch.gateway;
        let known = self.sessions.remove(&gateway);
        let mut session = match known {
            Some(session) if session.id == batch.session && session.next == batch.number => session,
            known if batch.number == 0 => Session {
                id: batch.session,
                next: 0,
                heard: now,
                complete: false,
                // Contact of the old session stands until the new set is complete or the gateway
                // falls silent: a reconnecting gateway must not look like an outage.
                devices: known.map(|session| session.devices).unwrap_or_default(),
                confirmed: BTreeSet::new(),
            },
            known => {
                self.sessions.extend(known.map(|session| (gateway, session)));
                return Err(NewSessionNeeded);
            }
        };
        session.next += 1;
        session.heard = now;
        for (namespace, name, sequence) in batch.online {
            self.note_sequence(&namespace, sequence);
            let device = self.intern((namespace, name), now);
            session.confirmed.insert(device);
            if session.devices.insert(device) {
                self.gain(device, now);
            }
        }
        for (namespace, name) in batch.offline {
            let Some(device) = self.position(&namespace, &name) else { continue };
            session.confirmed.remove(&device);
            if session.devices.remove(&device) {
                self.lose(device, now);
            }
        }
        if batch.complete && !session.complete {
            session.complete = true;
            for device in session.devices.difference(&session.confirmed) {
                self.lose(*device, now);
            }
            session.devices = std::mem::take(&mut session.confirmed);
        }
        if session.complete {
            session.confirmed.clear();
            self.watching.get_or_insert(now);
        }
        self.sessions.insert(gateway, session);
        Ok(())
    }

    /// Moves the clock: drops silent gateways, excuses mass silence, marks devices offline.
    pub fn tick(&mut self, now: Duration) {
        self.drop_silent_gateways(now);
        self.excuse_mass_silence(now);
        match self.watching {
            Some(_) => self.blind = None,
            None => _ = self.blind.get_or_insert(now),
        }
        let Some(watching) = self.watching else { return };
        for device in 0..self.states.len() {
            let state = &mut self.states[device];
            let away = now.saturating_sub(state.gone.max(watching));
            if state.holders == 0 && state.verdict == Verdict::Online && away >= self.timeout {
                state.verdict = Verdict::Offline;
                state.since = state.gone;
                self.changed.insert(self.names[device].0.clone());
            }
        }
    }

    fn drop_silent_gateways(&mut self, now: Duration) {
        let silent = |session: &Session| now.saturating_sub(session.heard) > GATEWAY_SILENT_AFTER;
        let (gone, here) =
            std::mem::take(&mut self.sessions).into_iter().partition(|(_, s)| silent(s));
        self.sessions = here;
        let gone: BTreeMap<String, Session> = gone;
        for device in gone.into_values().flat_map(|session| session.devices) {
            self.lose(device, now);
        }
        // With nobody to see them, devices are not silent: we are blind. When a gateway is back, each
        // gets the whole timeout again.
        if !self.sessions.values().any(|session| session.complete) {
            self.watching = None;
        }
    }

    fn excuse_mass_silence(&mut self, now: Duration) {
        while self.silent.front().is_some_and(|(at, _)| now.saturating_sub(*at) > MASS_WINDOW) {
            self.silent.pop_front();
        }
        let excused =
            || (0..self.states.len()).filter(|&d| self.states[d].verdict == Verdict::Excused);
        if self.silent.is_empty() && excused().next().is_none() {
            return;
        }
        let idle = (0..self.states.len())
            .filter(|&d| self.states[d].verdict != Verdict::Offline && !self.is_busy(d))
            .count();
        let mass = MASS_MIN.max(idle.div_ceil(MASS_ONE_IN));
        let lately: BTreeSet<usize> = (self.silent.iter())
            .filter(|(at, d)| {
                let state = &self.states[*d];
                let judged = state.verdict == Verdict::Offline;
                state.holders == 0 && state.gone == *at && !judged && !self.is_busy(*d)
            })
            .map(|(_, device)| *device)
            .collect();
        if lately.len() >= mass {
            for device in lately {
                self.states[device].verdict = Verdict::Excused;
            }
            return;
        }
        let excused: Vec<usize> = excused().collect();
        if excused.len() < mass {
            // The others are back, so these few are silent on their own account, from now on.
            for device in excused {
                self.states[device].verdict = Verdict::Online;
                self.states[device].gone = now;
            }
        }
    }

    fn is_busy(&self, device: usize) -> bool {
        let (namespace, name) = &self.names[device];
        self.busy.get(namespace).is_some_and(|devices| devices.contains(name))
    }

    fn note_sequence(&mut self, namespace: &str, sequence: i64) {
        if self.sequences.entry(namespace.to_owned()).or_default().note(sequence) {
            self.changed.insert(namespace.to_owned());
        }
    }

    fn position(&self, namespace: &str, device: &str) -> Option<usize> {
        self.index.get(namespace)?.get(device).copied()
    }

    fn intern(&mut self, (namespace, name): DeviceRef, now: Duration) -> usize {
        if let Some(known) = self.position(&namespace, &name) {
            return known;
        }
        let at = self.names.len();
        self.changed.insert(namespace.clone());
        self.index.entry(namespace.clone()).or_default().insert(name.clone(), at);
        self.names.push((namespace, name));
        self.states.push(State { holders: 0, gone: now, verdict: Verdict::Online, since: now });
        at
    }

    fn gain(&mut self, device: usize, now: Duration) {
        let state = &mut self.states[device];
        state.holders += 1;
        if state.verdict == Verdict::Offline {
            state.since = now;
            self.changed.insert(self.names[device].0.clone());
        }
        state.verdict = Verdict::Online;
    }

    fn lose(&mut self, device: usize, now: Duration) {
        let state = &mut self.states[device];
        state.holders -= 1;
        if state.holders == 0 {
            state.gone = now;
            self.silent.push_back((now, device));
        }
    }
}

#[cfg(test)]
mod tests;
