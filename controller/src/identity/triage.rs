//! Which EnrollmentRequests are worth an answer now, which wait, and which are removed: one function
//! from what is there to the work of one round. No I/O and no clock.
//!
//! A gateway may file what it likes, so what it files must cost little. Requests with a proof that
//! fits come first; a flood of others gets answers at a fixed pace, takes turns between namespaces,
//! and beyond a fixed number is removed unanswered. An agent whose request was removed files it
//! again with its next question.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use wardring_api::{EnrollmentKind, EnrollmentRequest};

/// How long an answered request is kept for the agent to fetch.
const KEPT_FOR: SignedDuration = SignedDuration::from_hours(1);
/// How long a request may stay open, for instance because its Device is being deleted. By then the
/// agent has signed a new claim, many times.
const OPEN_FOR: SignedDuration = SignedDuration::from_hours(24);
/// Proven requests of one token (or the renewals of a namespace) in one round: with the writes they
/// need, about two seconds of work.
const PROVEN: usize = 128;
/// Proven requests that may wait: many more than a fleet's agents ask for at once, since gateways
/// limit those, and few enough for the API server's memory and ours.
const PROVEN_OPEN: usize = 4_096;
/// Unproven requests that may wait for their refusal.
const UNPROVEN_OPEN: usize = 512;
/// Certificates that are kept for agents to fetch, which they do within seconds: a whole fleet that
/// enrols at once takes longer to issue so many.
const ISSUED: usize = 2_048;
/// Refusals that are kept. Anybody can cause these; at the pace of their answers it takes seconds to
/// have so many.
const REFUSED: usize = 512;
/// Removals in one round, so that a round ends soon and the next looks at who came meanwhile.
const REMOVALS: usize = 512;

/// Requests that are decided and counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BatchKey {
    pub namespace: String,
    /// `None` for renewals.
    pub token: Option<String>,
}

impl BatchKey {
    pub(super) fn of(request: &EnrollmentRequest) -> BatchKey {
        let token = match request.spec.kind {
            EnrollmentKind::Enroll => Some(request.spec.token.clone().unwrap_or_default()),
            EnrollmentKind::Renew => None,
        };
        BatchKey { namespace: request.namespace().unwrap_or_default(), token }
    }
}

/// Why a request is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// Its answer was there long enough.
    Answered,
    /// More are there than may be.
    Surplus,
    /// It could not be answered for too long.
    Old,
}

/// The work of one round.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// Proven requests, by what they share.
    pub proven: BTreeMap<BatchKey, Vec<Arc<EnrollmentRequest>>>,
    /// Requests that get a refusal, most likely.
    pub unproven: BTreeMap<BatchKey, Vec<Arc<EnrollmentRequest>>>,
    pub removals: Vec<(Arc<EnrollmentRequest>, Removal)>,
    /// Whether something is left for another round.
    pub leaves: bool,
    pub open: usize,
    pub answered: usize,
}

/// Sorts `requests`. `is_proven` says who has a proof that fits, `has_waited` who could not be
/// answered the last time and lets others go first; `pace` is how many unproven ones may be answered
/// now, and is asked for only if there are any. Without a `now` that can be trusted nothing is
/// removed for its age.
pub(super) fn triage(
    requests: Vec<Arc<EnrollmentRequest>>,
    is_proven: impl Fn(&EnrollmentRequest) -> bool,
    has_waited: impl Fn(&EnrollmentRequest) -> bool,
    pace: impl FnOnce(usize) -> usize,
    now: Option<Timestamp>,
) -> Round {
    let mut round = Round::default();
    let is_older =
        |since: Timestamp, limit| now.is_some_and(|now| now.duration_since(since) > limit);
    let (mut proven, mut unproven) = (Vec::new(), Vec::new());
    let (mut issued, mut refused) = (Vec::new(), Vec::new());
    for request in requests {
        if request.metadata.deletion_timestamp.is_some() {
            continue;
        }
        match answered_at(&request) {
            Some(at) if is_older(at, KEPT_FOR) => {
                round.removals.push((request, Removal::Answered));
            }
            Some(_) if is_refused(&request) => refused.push(request),
            Some(_) => issued.push(request),
            None if is_older(filed_at(&request), OPEN_FOR) => {
                round.removals.push((request, Removal::Old));
            }
            None if is_proven(&request) => proven.push(request),
            None => unproven.push(request),
        }
    }
    round.open = proven.len() + unproven.len();
    round.answered = issued.len() + refused.len();

    // The oldest first, and of answers the youngest: those are still waited for.
    proven.sort_by_key(|request| (has_waited(request), filed_at(request)));
    unproven.sort_by_key(|request| (has_waited(request), filed_at(request)));
    for answers in [&mut issued, &mut refused] {
        answers.sort_by_key(|request| Reverse(answered_at(request)));
    }
    let mut proven = in_turns(proven, BatchKey::of);
    let namespace = |request: &EnrollmentRequest| request.namespace().unwrap_or_default();
    let mut unproven = in_turns(unproven, namespace);
    let mut issued = in_turns(issued, namespace);
    let mut refused = in_turns(refused, namespace);
    let surplus = [
        split_off(&mut proven, PROVEN_OPEN),
        split_off(&mut unproven, UNPROVEN_OPEN),
        split_off(&mut issued, ISSUED),
        split_off(&mut refused, REFUSED),
    ];
    let surplus = surplus.into_iter().flatten();
    round.removals.extend(surplus.map(|request| (request, Removal::Surplus)));

    let now_answered = if unproven.is_empty() { 0 } else { pace(unproven.len()) };
    round.leaves = unproven.len() > now_answered || round.removals.len() > REMOVALS;
    round.removals.truncate(REMOVALS);
    for request in unproven.into_iter().take(now_answered) {
        round.unproven.entry(BatchKey::of(&request)).or_default().push(request);
    }
    for request in proven {
        let batch = round.proven.entry(BatchKey::of(&request)).or_default();
        if batch.len() < PROVEN {
            batch.push(request);
        } else {
            round.leaves = true;
        }
    }
    round
}

pub(super) fn answered_at(request: &EnrollmentRequest) -> Option<Timestamp> {
    request.status.as_ref()?.answered_at
}

fn is_refused(request: &EnrollmentRequest) -> bool {
    request.status.as_ref().is_some_and(|status| status.refused.is_some())
}

fn filed_at(request: &EnrollmentRequest) -> Timestamp {
    request.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |time| time.0)
}

/// Everybody's first, then everybody's second, and so on.
fn in_turns<K: Ord>(
    requests: Vec<Arc<EnrollmentRequest>>,
    whose: impl Fn(&EnrollmentRequest) -> K,
) -> Vec<Arc<EnrollmentRequest>> {
    let mut turns: BTreeMap<K, usize> = BTreeMap::new();
    let mut ranked: Vec<_> = requests
        .into_iter()
        .map(|request| {
            let turn = turns.entry(whose(&request)).or_default();
            *turn += 1;
            (*turn, request)
        })
        .collect();
    ranked.sort_by_key(|(turn, _)| *turn);
    ranked.into_iter().map(|(_, request)| request).collect()
}

fn split_off<T>(list: &mut Vec<T>, at: usize) -> Vec<T> {
    list.split_off(at.min(list.len()))
}

#[cfg(test)]
mod tests;
