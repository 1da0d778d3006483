//! What one sink is to be told next, given what it was told: nothing twice, nothing left standing that
//! is over, the urgent first. What was told is all the state there is, so another leader goes on from it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use wardring_api::AlertKind;

use super::{
    Alert, Alerts, Ended, ONE_BY_ONE, OVER, Sight, TOLD, Told, ToldState, is_silence, words,
};
use crate::caps::later;

/// Of [`TOLD`], what only urgent alerts may fill.
const RESERVE: usize = 64;

/// Restarts that a sink is told of at the same time.
const RESTARTS: usize = 128;

/// What happened longer ago is not told any more: a sink that comes back after a day is no flood.
const NEWS: SignedDuration = SignedDuration::from_hours(1);

/// Several devices that were told of together are told of anew when more than [`ONE_BY_ONE`] joined them,
/// and at the earliest after this.
const GROWS_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// After this, for any that joined: whoever got up for the first ones has gone to bed again.
const QUIET: SignedDuration = SignedDuration::from_hours(1);

/// What a message says about its alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageState {
    /// It holds.
    Firing,
    /// It is over.
    Resolved(Ended),
    /// It happened.
    Notice,
}

impl MessageState {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            MessageState::Firing => "firing",
            MessageState::Resolved(_) => "resolved",
            MessageState::Notice => "notice",
        }
    }
}

/// One thing to tell one sink.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Whether it holds, is over, or happened.
    pub state: MessageState,
    /// What it is about.
    pub alert: Alert,
    /// What is remembered once it is told; what a resolved one takes away.
    pub told: Told,
}

/// What one sink is to be told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Telling {
    /// What is new, the most urgent first.
    pub messages: Vec<Message>,
    /// What it was told and what holds: some have to be told again and again.
    pub holding: Vec<Alert>,
    /// What waits until there is room for it.
    pub waiting: Vec<Told>,
}

/// What a sink that was told `told` is to be told now. `wanted` are the kinds it is told of; notices from
/// before `since` were never its business. Forgets what needs not be remembered.
pub fn to_tell(
    alerts: &Alerts,
    told: &mut Vec<Told>,
    wanted: &[AlertKind],
    sight: Sight,
    since: Timestamp,
    now: Timestamp,
    evidence: &dyn Fn(&Told) -> (Ended, &'static str),
) -> Telling {
    let is_fresh = |at: Timestamp| later(at, NEWS) > now;
    told.retain(|entry| entry.state != ToldState::Notice || is_fresh(entry.since));
    forget_old_ends(told);
    let mut telling = Telling::default();
    let active = together(alerts, told, wanted, sight, now);
    let mut fresh = Vec::new();
    for alert in &active {
        if told.iter().any(|entry| stands_for(entry, alert)) {
            continue;
        }
        let is_seen = sight == Sight::Clear || !alert.is_silence();
        if is_seen {
            let entry = anew(alert, told);
            let alert = Alert { since: entry.since, ..alert.clone() };
            fresh.push(Message { state: MessageState::Firing, alert, told: entry });
        }
    }
    for entry in told.iter().filter(|entry| entry.is_firing()) {
        match active.iter().find(|alert| stands_for(entry, alert)) {
            // As it was told: labels and start are its identity where it goes.
            Some(alert) => telling.holding.push(Alert { since: entry.since, ..alert.clone() }),
            // The record knows nothing of it while nobody is sure yet.
            None if entry.kind == AlertKind::ContactLost && sight != Sight::Clear => {
                telling.holding.push(words::contact_lost(entry.since, alerts.in_flight));
            }
            None => fresh.push(over(entry, &active, wanted, evidence)),
        }
    }
    for notice in alerts.notices.iter().filter(|notice| wanted.contains(&notice.kind)) {
        let entry = Told::of(notice, ToldState::Notice);
        if notice.since >= since && is_fresh(notice.since) && !told.contains(&entry) {
            fresh.push(Message { state: MessageState::Notice, alert: notice.clone(), told: entry });
        }
    }
    fresh.sort_by_key(urgency);
    let mut room = told.iter().filter(|entry| entry.state != ToldState::Over).count();
    for message in fresh {
        let limit = if message.told.is_urgent() { TOLD } else { TOLD - RESERVE };
        let takes_room = !matches!(message.state, MessageState::Resolved(_));
        if takes_room && room >= limit {
            telling.waiting.push(message.told);
            continue;
        }
        room += usize::from(takes_room);
        telling.messages.push(message);
    }
    telling
}

/// Lower is told earlier.
fn urgency(message: &Message) -> u8 {
    match (message.state, message.told.is_urgent()) {
        (MessageState::Firing, true) => 0,
        // That a page is over matters next to the page itself.
        (MessageState::Resolved(_), true) => 1,
        // Other monitoring waits for these; the end of one restart goes before the next one.
        (MessageState::Resolved(_), _) if message.told.is_absence() => 2,
        (MessageState::Firing, _) if message.told.is_absence() => 3,
        (MessageState::Firing, false) => 4,
        (MessageState::Resolved(_), false) => 5,
        (MessageState::Notice, _) => 6,
    }
}

/// Whether what was told is this alert. Our own blindness is one, whichever leader noticed it.
fn stands_for(entry: &Told, alert: &Alert) -> bool {
    let is_one = entry.kind == AlertKind::ContactLost;
    entry.is_firing() && entry.is_about(alert) && (is_one || entry.since >= alert.since)
}

/// The entry of an alert that is to be told. Where the sink was told that the very same is over, this is
/// another one: receivers drop what has the identity of something that they know.
fn anew(alert: &Alert, told: &[Told]) -> Told {
    let mut entry = Told::of(alert, ToldState::Firing);
    let ended = told.iter().filter(|known| known.state == ToldState::Over && known.is_about(alert));
    if let Some(last) = ended.map(|known| known.since).max()
        && last >= entry.since
    {
        entry.since = later(last, SignedDuration::from_secs(1));
    }
    entry
}

/// Keeps the newest [`OVER`], those of pages before all others.
fn forget_old_ends(told: &mut Vec<Told>) {
    let mut ends: Vec<Told> =
        told.iter().filter(|entry| entry.state == ToldState::Over).cloned().collect();
    if let Some(excess) = ends.len().checked_sub(OVER).filter(|excess| *excess > 0) {
        ends.sort_by_key(|entry| (entry.is_urgent(), entry.since));
        ends.truncate(excess);
        told.retain(|entry| !ends.contains(entry));
    }
}

/// Whether those who were told of together have become so many more that it is news.
fn has_grown(entry: &Told, all: &[&Alert], now: Timestamp) -> bool {
    let joined = all.iter().filter(|alert| alert.since > entry.since).count();
    let is_past = |span| later(entry.since, span) <= now;
    (joined > ONE_BY_ONE && is_past(GROWS_AFTER)) || (joined > 0 && is_past(QUIET))
}

/// What holds and is wanted, with devices of the same trouble taken together where they are many. Who was
/// told of by name stays told of by name; nobody leaves a group to be told of by name. A group is as old as
/// the newest of those who were told of.
fn together(
    alerts: &Alerts,
    told: &[Told],
    wanted: &[AlertKind],
    sight: Sight,
    now: Timestamp,
) -> Vec<Alert> {
    let mut active: Vec<Alert> = Vec::new();
    let mut stages: BTreeMap<(AlertKind, &str, &str), Vec<&Alert>> = BTreeMap::new();
    for alert in alerts.active.iter().filter(|alert| wanted.contains(&alert.kind)) {
        if alert.kind.is_of_devices() {
            let stage = (alert.kind, alert.rollout.as_str(), alert.stage.as_str());
            stages.entry(stage).or_default().push(alert);
        } else {
            active.push(alert.clone());
        }
    }
    if let Sight::Blind { since } = sight
        && wanted.contains(&AlertKind::ContactLost)
        && alerts.in_flight > 0
    {
        active.push(words::contact_lost(since, alerts.in_flight));
    }
    let is_restart =
        |entry: &&Told| entry.is_firing() && entry.kind == AlertKind::DeviceRebootExpected;
    let mut restarts = RESTARTS.saturating_sub(told.iter().filter(is_restart).count());
    for ((kind, rollout, stage), all) in stages {
        let (named, mut others): (Vec<&Alert>, Vec<&Alert>) =
            all.into_iter().partition(|alert| told.iter().any(|entry| stands_for(entry, alert)));
        others.sort_by(|a, b| a.since.cmp(&b.since).then_with(|| a.device.cmp(&b.device)));
        if kind == AlertKind::DeviceRebootExpected {
            // Whoever keeps monitoring silent by these needs each by its name.
            others.truncate(restarts);
            restarts -= others.len();
            active.extend(named.into_iter().chain(others).cloned());
            continue;
        }
        let group = told.iter().find(|entry| {
            entry.is_firing()
                && entry.is_together()
                && entry.kind == kind
                && entry.rollout == rollout
                && entry.stage == stage
        });
        let is_many = named.len() + others.len() > ONE_BY_ONE;
        if let Some(newest) = others.last().filter(|_| group.is_some() || is_many) {
            let since = match group {
                Some(entry) if !has_grown(entry, &others, now) => entry.since,
                _ => newest.since,
            };
            active.push(Alert { since, ..words::together(&others, !named.is_empty(), now) });
            others.clear();
        }
        active.extend(named.into_iter().chain(others).cloned());
    }
    active
}

/// What says that something is over.
fn over(
    entry: &Told,
    active: &[Alert],
    wanted: &[AlertKind],
    evidence: &dyn Fn(&Told) -> (Ended, &'static str),
) -> Message {
    let is_away = |alert: &Alert| {
        let is_absence = alert.kind == AlertKind::DeviceRebootExpected || is_silence(alert.kind);
        is_absence && !alert.device.is_empty() && alert.device == entry.device
    };
    let (mut ended, mut why) = evidence(entry);
    if !wanted.contains(&entry.kind) {
        (ended, why) = (Ended::NotWanted, "the Notifier does not name this event any more");
    } else if entry.kind == AlertKind::ContactLost {
        (ended, why) = (Ended::Over, "gateways hear the devices again");
    } else if entry.is_together() && active.iter().any(|alert| entry.is_about(alert)) {
        (ended, why) = (Ended::Away, "more joined, which is told in its place");
    } else if entry.is_absence() && ended != Ended::Lost && active.iter().any(is_away) {
        (ended, why) = (Ended::Away, "the device is away again");
    }
    Message {
        state: MessageState::Resolved(ended),
        alert: Alert {
            kind: entry.kind,
            rollout: entry.rollout.clone(),
            stage: entry.stage.clone(),
            device: entry.device.clone(),
            hostname: entry.device.clone(),
            kbs: Vec::new(),
            since: entry.since,
            until: None,
            devices: usize::from(!entry.device.is_empty()),
            summary: words::over(entry, ended, why),
        },
        told: entry.clone(),
    }
}

#[cfg(test)]
mod tests;
