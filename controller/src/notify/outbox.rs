//! The outbox of one sink: what it was told, how its last exchanges went, and when it is its turn.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use wardring_api::{
    AlertKind, Notifier, NotifierStatus, Sink, SinkStatus, SinkType,
    conditions::{self, Truth, clip, whole_seconds},
    reasons::Reason,
};
use wardring_planner::{
    Alert, Alerts, Ended, Message, MessageState, Sight, Telling, Told, ToldState, to_tell,
};

use super::{
    message::label_key,
    send::{Delivered, Parcel, SendError, check, check_template},
};

/// Messages of one turn: whoever has more to be told gets its next turn soon.
const TURN: usize = 20;
/// Turns of a sink begin at least this far apart.
const BETWEEN: Duration = Duration::from_secs(1);
/// First and longest pause after a failure. Short enough that what is urgent does not wait for long
/// behind a failure of an hour ago.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// Alertmanager is told again of what holds this often.
const REPEAT: Duration = Duration::from_secs(60);
/// No turn takes longer: one that seems to was lost.
const LOST: Duration = Duration::from_secs(120);
/// While all is well the last success is written this often.
const SUCCESS_EVERY: SignedDuration = SignedDuration::from_mins(10);
/// Longest error in a status.
const MAX_ERROR: usize = 512;

/// A message that the server refused for what it is.
#[derive(Debug)]
struct Refused {
    told: Told,
    is_over: bool,
    tries: u32,
    not_before: Instant,
}

impl Refused {
    fn is(&self, message: &Message) -> bool {
        self.is_over == is_over(message) && self.told == message.told
    }
}

fn is_over(message: &Message) -> bool {
    matches!(message.state, MessageState::Resolved(_))
}

/// What is known of one sink.
#[derive(Debug, Default)]
pub struct Outbox {
    told: Vec<Told>,
    generation: Option<i64>,
    /// Where it is, hashed.
    target: Option<String>,
    /// Counts the servers that this has been.
    epoch: u64,
    pending: usize,
    failures: u32,
    last_success: Option<Timestamp>,
    last_error: Option<String>,
    is_invalid: bool,
    /// What is wrong with its template.
    template: Option<String>,
    refused: Vec<Refused>,
    /// What the server answered to what it refused last.
    refusal: Option<String>,
    /// Whether it refused to be told again of what holds.
    refuses_held: bool,
    /// Notices that are still to be told.
    unheard: Vec<Told>,
    dropped: u32,
    last_dropped: Option<String>,
    is_busy: bool,
    last_try: Option<Instant>,
    not_before: Option<Instant>,
    repeated: Option<Instant>,
}

/// What a turn goes by.
pub struct Turn<'a> {
    /// Whose sink it is.
    pub notifier: &'a Notifier,
    /// What there is to tell.
    pub alerts: &'a Alerts,
    /// How well devices are seen.
    pub sight: Sight,
    /// The instant.
    pub now: Timestamp,
    /// The same on the clock of pauses.
    pub clock: Instant,
    /// How something ended that was told.
    pub ended: &'a dyn Fn(&Told) -> (Ended, &'static str),
    /// Whether a device claims the name of another one.
    pub is_disputed: &'a dyn Fn(&str) -> bool,
}

impl Outbox {
    /// Goes on from what a status says. What cannot be read is told once more.
    pub fn recall(status: Option<&SinkStatus>) -> Outbox {
        let Some(status) = status else { return Outbox::default() };
        Outbox {
            told: status.told.iter().filter_map(|text| text.parse().ok()).collect(),
            target: status.target.clone(),
            failures: status.failures,
            last_success: status.last_success,
            last_error: status.last_error.clone().filter(|_| status.failures > 0),
            dropped: status.dropped,
            last_dropped: status.last_dropped.clone(),
            ..Outbox::default()
        }
    }

    /// Takes note of the Notifier's generation: what somebody changed is tried at once, and what cannot
    /// work is said before the night in which it is needed.
    pub fn renew(&mut self, generation: Option<i64>, sink: &Sink) {
        if self.generation == generation {
            return;
        }
        self.generation = generation;
        let target = Some(target_of(sink));
        if self.target != target {
            // Another server, which was told nothing yet, and whose answers are still to come.
            let epoch = self.epoch + 1;
            *self = Outbox { generation, target, epoch, ..Outbox::default() };
        }
        self.not_before = None;
        self.is_invalid = false;
        self.refused.clear();
        self.template = check_template(sink).err().map(|error| error.to_string());
        if let Err(error) = check(sink) {
            self.failures = self.failures.max(1);
            self.last_error = Some(clip(&error.to_string(), MAX_ERROR));
            self.is_invalid = true;
        }
    }

    /// Which server it is, of those that it has been.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether an exchange is under way.
    pub fn is_busy(&self, now: Instant) -> bool {
        self.is_busy && self.last_try.is_some_and(|at| now.duration_since(at) < LOST)
    }

    /// Whether it may have its turn.
    pub fn is_due(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|not_before| now >= not_before)
    }

    /// When it had its last turn.
    pub fn last_try(&self) -> Option<Instant> {
        self.last_try
    }

    /// What is to be delivered in this turn, if anything is.
    pub fn parcel(&mut self, sink: &Sink, turn: &Turn<'_>) -> Option<Parcel> {
        let (notifier, clock) = (turn.notifier, turn.clock);
        let since = notifier.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let since = since.unwrap_or(Timestamp::UNIX_EPOCH);
        let wanted = wanted(notifier);
        let Telling { mut messages, mut holding, waiting } =
            to_tell(turn.alerts, &mut self.told, &wanted, turn.sight, since, turn.now, turn.ended);
        self.note_dropped(&messages, &waiting, &wanted);
        self.pending = messages.len() + waiting.len();
        self.refused.retain(|refused| messages.iter().any(|message| refused.is(message)));
        let standing = standing(&messages, &holding);
        let is_aside = |message: &Message| {
            self.refused.iter().any(|refused| refused.is(message) && clock < refused.not_before)
        };
        messages.retain(|message| !is_aside(message));
        messages.truncate(TURN);
        let is_late = self.repeated.is_none_or(|at| clock.duration_since(at) >= REPEAT);
        if sink.kind != SinkType::Alertmanager || !is_late {
            holding.clear();
        }
        if messages.is_empty() && holding.is_empty() {
            return None;
        }
        self.is_busy = true;
        self.last_try = Some(clock);
        let namespace = notifier.metadata.namespace.clone().unwrap_or_default();
        let disputed = disputed(&messages, turn.is_disputed);
        Some(Parcel { namespace, sink: sink.clone(), messages, holding, standing, disputed })
    }

    /// Counts what happened and will never be told: too long ago by now, or gone with its rollout.
    fn note_dropped(&mut self, messages: &[Message], waiting: &[Told], wanted: &[AlertKind]) {
        let notices = messages.iter().map(|message| &message.told).chain(waiting);
        let unheard: Vec<Told> = notices.filter(|told| !told.is_firing()).cloned().collect();
        for before in std::mem::replace(&mut self.unheard, unheard) {
            let is_left = self.unheard.contains(&before) || self.told.contains(&before);
            if !is_left && wanted.contains(&before.kind) {
                self.dropped = self.dropped.saturating_add(1);
                self.last_dropped = Some(clip(&before.to_string(), MAX_ERROR));
            }
        }
    }

    /// Takes in what became of a parcel.
    pub fn settle(&mut self, parcel: &Parcel, delivered: &Delivered, at: Timestamp, now: Instant) {
        self.is_busy = false;
        for message in delivered.told.iter().map(|index| &parcel.messages[*index]) {
            self.refused.retain(|refused| !refused.is(message));
            self.told.retain(|told| *told != message.told);
            let state = if is_over(message) { ToldState::Over } else { message.told.state };
            self.told.push(Told { state, ..message.told.clone() });
        }
        self.pending = self.pending.saturating_sub(delivered.told.len());
        for message in delivered.refused.iter().map(|index| &parcel.messages[*index]) {
            self.put_aside(message, now);
        }
        if let Some(refusal) = &delivered.refusal {
            self.refusal = Some(refusal.to_string());
        }
        if !delivered.told.is_empty() || !delivered.refused.is_empty() {
            self.template = delivered.template.as_ref().map(ToString::to_string);
        }
        match &delivered.error {
            None => {
                self.failures = 0;
                self.last_error = None;
                self.is_invalid = false;
                self.not_before = Some(now + BETWEEN);
                if delivered.refused.is_empty() {
                    self.last_success = Some(whole_seconds(at));
                }
                if !parcel.holding.is_empty() || self.repeated.is_none() {
                    self.repeated = Some(now);
                    self.refuses_held = delivered.refuses_held;
                }
            }
            // The sink did nothing wrong, and the term may be renewed.
            Some(SendError::TermOver) => self.not_before = Some(now + BETWEEN),
            Some(error) => {
                // Who takes some of it, such as a chat that limits the rate, is not dead.
                let before = if delivered.told.is_empty() { self.failures } else { 0 };
                self.failures = before.saturating_add(1);
                self.last_error = Some(clip(&error.to_string(), MAX_ERROR));
                self.is_invalid = error.is_invalid();
                self.not_before = Some(now + pause(self.failures));
            }
        }
    }

    /// Lets the others go first. It is tried again for as long as it holds: the server may be mended.
    fn put_aside(&mut self, message: &Message, now: Instant) {
        let known = self.refused.iter_mut().find(|refused| refused.is(message));
        let tries = known.as_ref().map_or(1, |refused| refused.tries.saturating_add(1));
        let not_before = now + pause(tries);
        match known {
            Some(refused) => (refused.tries, refused.not_before) = (tries, not_before),
            None => self.refused.push(Refused {
                told: message.told.clone(),
                is_over: is_over(message),
                tries,
                not_before,
            }),
        }
    }

    /// What is wrong, and whether only a person can mend it.
    fn trouble(&self) -> Option<(Reason, String)> {
        if let Some(error) = self.last_error.as_ref().filter(|_| self.failures > 0) {
            let reason = if self.is_invalid { Reason::SinkInvalid } else { Reason::SinkNotTold };
            return Some((reason, error.clone()));
        }
        if !self.refused.is_empty() {
            let refusal = self.refusal.as_deref().unwrap_or("the server refused");
            let count = self.refused.len();
            let text = format!("{refusal} to {count} of the messages; each is tried again");
            return Some((Reason::SinkNotTold, clip(&text, MAX_ERROR)));
        }
        if self.refuses_held {
            let text = "the server refused to be told again of what holds".to_owned();
            return Some((Reason::SinkNotTold, text));
        }
        let template = self.template.as_ref()?;
        let text = format!("template: {template}; all that is known is sent in its place");
        Some((Reason::SinkInvalid, clip(&text, MAX_ERROR)))
    }

    fn status(&self, name: &str, before: Option<&SinkStatus>) -> SinkStatus {
        let written = before.and_then(|before| before.last_success);
        // A success every minute is no news.
        let is_news = match (written, self.last_success) {
            (Some(old), Some(new)) => {
                new.duration_since(old) >= SUCCESS_EVERY
                    || before.is_some_and(|before| before.failures > 0)
            }
            _ => true,
        };
        let mut told: Vec<String> = self.told.iter().map(Told::to_string).collect();
        told.sort();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        SinkStatus {
            name: name.to_owned(),
            target: self.target.clone(),
            pending: count(self.pending),
            failures: self.failures,
            refused: count(self.refused.len()),
            dropped: self.dropped,
            last_dropped: self.last_dropped.clone(),
            last_success: if is_news { self.last_success } else { written },
            last_error: self.trouble().map(|(_, text)| text),
            told,
        }
    }
}

/// Tells one server from the next, and neither what it is called nor where it is.
fn target_of(sink: &Sink) -> String {
    let mut hash = Sha256::new();
    let key = sink.url_from.as_ref().map(|key| format!("{}/{}", key.name, key.key));
    let source = sink.alertmanager.as_ref().and_then(|sink| sink.source.clone());
    let kind = format!("{:?}", sink.kind);
    for part in [Some(kind), sink.url.clone(), key, source] {
        hash.update(part.unwrap_or_default());
        hash.update([0]);
    }
    hex::encode(&hash.finalize()[..8])
}

/// What stands at an Alertmanager once all of this is told: an end of the same must not be sent.
fn standing(messages: &[Message], holding: &[Alert]) -> BTreeSet<String> {
    let firing = messages.iter().filter(|message| message.state == MessageState::Firing);
    firing.map(|message| &message.alert).chain(holding).map(label_key).collect()
}

fn disputed(messages: &[Message], is_disputed: &dyn Fn(&str) -> bool) -> BTreeSet<String> {
    let devices = messages.iter().map(|message| &message.alert.device);
    devices.filter(|device| !device.is_empty() && is_disputed(device)).cloned().collect()
}

fn pause(failures: u32) -> Duration {
    let full = BACKOFF.0.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(BACKOFF.1);
    full / 2 + full.mul_f64(rand::random::<f64>() / 2.0)
}

/// The kinds that a Notifier tells.
fn wanted(notifier: &Notifier) -> Vec<AlertKind> {
    if !notifier.spec.events.is_empty() {
        return notifier.spec.events.clone();
    }
    let by_name = [AlertKind::DeviceRebootExpected, AlertKind::DeviceNeedsRecovery];
    AlertKind::ALL.iter().copied().filter(|kind| !by_name.contains(kind)).collect()
}

/// The status of a Notifier with these outboxes.
pub fn status(
    notifier: &Notifier,
    outboxes: &BTreeMap<String, Outbox>,
    before: &NotifierStatus,
    now: Timestamp,
) -> NotifierStatus {
    let generation = notifier.metadata.generation;
    let mut status = NotifierStatus {
        observed_generation: generation,
        conditions: before.conditions.clone(),
        sinks: Vec::new(),
    };
    let mut trouble = None;
    for sink in &notifier.spec.sinks {
        let Some(outbox) = outboxes.get(&sink.name) else { continue };
        let old = before.sinks.iter().find(|known| known.name == sink.name);
        status.sinks.push(outbox.status(&sink.name, old));
        if let Some((reason, text)) = outbox.trouble()
            && trouble.is_none()
        {
            trouble = Some((reason, format!("Sink {}: {text}.", sink.name)));
        }
    }
    let (truth, reason, message) = match &trouble {
        Some((reason, message)) => (Truth::False, *reason, message.as_str()),
        None if status.sinks.iter().all(|sink| sink.last_success.is_some()) => {
            (Truth::True, Reason::Planned, "Every sink takes what it is told.")
        }
        None => (Truth::True, Reason::Planned, "There was nothing to tell some sinks yet."),
    };
    let list = &mut status.conditions;
    conditions::set(list, conditions::READY, truth, reason, message, generation, now);
    status
}

#[cfg(test)]
mod tests;
