//! How a device is since installations that ended well: facts → status and condition.

use jiff::Timestamp;
use wardring_api::{
    HealthSince, Unhealthy, UnhealthyKind,
    conditions::{self, Truth, clip},
    reasons::Reason,
};
use wardring_protocol::{HealthFact, MAX_UNHEALTHY, MAX_WATCHES, UnhealthyFact};

use super::facts::parse;

/// What an agent calls a start after the power was lost or the power button held.
const LOST_POWER: &str = "Dirty";

/// How the device is since installations, as seen `now`.
pub(super) fn health(facts: &[HealthFact], now: Timestamp) -> Vec<HealthSince> {
    let restarted = |fact: &HealthFact| {
        let last = fact.last_restart.as_ref().filter(|_| !lost_power_once(fact));
        // A clock that is ahead must not put it behind every retry to come.
        last.map(|boot| conditions::whole_seconds(boot.at.min(now)))
    };
    let of = |fact: &HealthFact| HealthSince {
        rollout_uid: clip(&fact.rollout_uid, 64),
        attempt: fact.attempt,
        since: conditions::whole_seconds(fact.since),
        blind: fact.blind,
        unhealthy: fact.unhealthy.iter().take(MAX_UNHEALTHY).map(unhealthy).collect(),
        restarts: if lost_power_once(fact) { 0 } else { fact.restarts },
        last_restart: restarted(fact),
    };
    facts.iter().take(MAX_WATCHES).map(of).collect()
}

/// One loss of power and nothing else: a battery that ran empty, a held power button. It is told, and is no
/// sign of an update's doing; a second one is, and so is a kind of restart that we do not know.
fn lost_power_once(fact: &HealthFact) -> bool {
    fact.restarts == 1 && fact.last_restart.as_ref().is_some_and(|boot| boot.kind == LOST_POWER)
}

fn unhealthy(found: &UnhealthyFact) -> Unhealthy {
    Unhealthy {
        // A word we do not know is not "well".
        kind: parse(&found.kind).unwrap_or(UnhealthyKind::Service),
        name: clip(&found.name, 64),
        since: conditions::whole_seconds(found.since),
    }
}

/// Whether the device is as it was before the last installations, as far as its agent looks at that.
pub(super) fn healthy(health: &[HealthSince], facts: &[HealthFact]) -> (Truth, Reason, String) {
    let has = |kind| health.iter().flat_map(|all| &all.unhealthy).any(|found| found.kind == kind);
    let mut worse: Vec<String> = Vec::new();
    for found in facts.iter().flat_map(|health| &health.unhealthy) {
        let what = if parse(&found.kind) == Some(UnhealthyKind::Probe) { "probe " } else { "" };
        let text = format!("{what}{} ({})", clip(&found.name, 40), clip(&found.why, 40));
        if !worse.contains(&text) {
            worse.push(text);
        }
    }
    let restarts = health.iter().map(|since| since.restarts).max().unwrap_or_default();
    let last = health.iter().filter_map(|since| since.last_restart).max();
    let crashed = match (restarts, last) {
        (0, _) => None,
        (1, Some(at)) => Some(format!("It crashed or lost power, and came back at {at}.")),
        (_, Some(at)) => {
            Some(format!("It crashed or lost power {restarts} times, and came back at {at}."))
        }
        (_, None) => Some(format!("It crashed or lost power {restarts} times.")),
    };
    if !worse.is_empty() {
        let services = has(UnhealthyKind::Service);
        let reason = if services { Reason::ServiceDown } else { Reason::ProbeFailed };
        let worse: Vec<&str> = worse.iter().map(String::as_str).collect();
        let shown = worse.iter().take(2).copied().collect::<Vec<_>>().join(", ");
        let more = match worse.len().saturating_sub(2) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let crashed = crashed.map(|text| format!(" {text}")).unwrap_or_default();
        return (Truth::False, reason, format!("Worse than before: {shown}{more}.{crashed}"));
    }
    if let Some(crashed) = crashed {
        return (Truth::False, Reason::UnexpectedRestart, crashed);
    }
    if health.is_empty() {
        let message = "No health checks are looked at now.".to_owned();
        return (Truth::Unknown, Reason::NotWatched, message);
    }
    if health.iter().any(|since| since.blind) {
        let message = "Services and probes are not looked at: the agent cannot, is paused, or another job is \
                       at work for more than an hour.";
        return (Truth::Unknown, Reason::NotWatched, message.to_owned());
    }
    if facts.iter().all(|fact| fact.names_nothing) {
        let message =
            "Health checks named no service and no probe: only crashes are counted.".to_owned();
        return (Truth::Unknown, Reason::NotWatched, message);
    }
    let lost_power = facts.iter().any(lost_power_once);
    let once = if lost_power { " It lost power once." } else { "" };
    (Truth::True, Reason::AsBefore, format!("What health checks named is as before.{once}"))
}

/// Drops one of what is worse than before, where more than one is: a device that is not well must not look
/// as if it were.
pub(super) fn shorten(health: &mut [HealthSince]) -> bool {
    let longest = health.iter_mut().max_by_key(|since| since.unhealthy.len());
    let Some(longest) = longest.filter(|since| since.unhealthy.len() > 1) else { return false };
    longest.unhealthy.pop().is_some()
}
