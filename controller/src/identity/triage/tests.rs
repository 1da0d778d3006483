//! Floods of every kind, and who gets through them.

use std::cell::Cell;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use wardring_api::{EnrollmentRequestSpec, EnrollmentRequestStatus, Refusal};

use super::*;

fn now() -> Timestamp {
    "2026-03-10T02:00:00Z".parse().unwrap()
}

/// A request that was filed `age` seconds ago.
fn filed(namespace: &str, name: &str, age: i64) -> EnrollmentRequest {
    let mut request = EnrollmentRequest::new(
        name,
        EnrollmentRequestSpec {
            kind: EnrollmentKind::Enroll,
            claim: String::new(),
            proof: "no".to_owned(),
            certificate: None,
            token: Some("ward-3".to_owned()),
            device: "ws-17".to_owned(),
        },
    );
    request.metadata.namespace = Some(namespace.to_owned());
    request.metadata.uid = Some(format!("{namespace}/{name}"));
    request.metadata.creation_timestamp = Some(Time(now() - SignedDuration::from_secs(age)));
    request
}

fn proven(namespace: &str, name: &str, age: i64) -> EnrollmentRequest {
    let mut request = filed(namespace, name, age);
    request.spec.proof = "yes".to_owned();
    request
}

/// A request that was answered `age` seconds ago.
fn answered(namespace: &str, name: &str, age: i64) -> EnrollmentRequest {
    let mut request = filed(namespace, name, age);
    request.status = Some(EnrollmentRequestStatus {
        answered_at: Some(now() - SignedDuration::from_secs(age)),
        ..EnrollmentRequestStatus::default()
    });
    request
}

fn refused(namespace: &str, name: &str, age: i64) -> EnrollmentRequest {
    let mut request = answered(namespace, name, age);
    let refusal = Refusal { reason: "BadProof".to_owned(), message: "no".to_owned() };
    request.status.as_mut().unwrap().refused = Some(refusal);
    request
}

fn flood(
    count: usize,
    make: impl Fn(&str, &str, i64) -> EnrollmentRequest,
    namespace: &str,
) -> Vec<EnrollmentRequest> {
    (0..count).map(|number| make(namespace, &format!("er-{number}"), 60)).collect()
}

/// A round with a pace of 64.
fn round(requests: Vec<EnrollmentRequest>) -> Round {
    let requests = requests.into_iter().map(Arc::new).collect();
    triage(requests, |request| request.spec.proof == "yes", |_| false, |_| 64, Some(now()))
}

fn count(batches: &BTreeMap<BatchKey, Vec<Arc<EnrollmentRequest>>>) -> usize {
    batches.values().map(Vec::len).sum()
}

fn names(
    batches: &BTreeMap<BatchKey, Vec<Arc<EnrollmentRequest>>>,
    namespace: &str,
) -> Vec<String> {
    let own = batches.iter().filter(|(key, _)| key.namespace == namespace);
    own.flat_map(|(_, requests)| requests.iter().map(|request| request.name_any())).collect()
}

#[test]
fn proven_requests_are_answered_at_once_whatever_else_is_filed() {
    let mut requests = flood(10_000, filed, "hospital");
    requests.push(proven("hospital", "honest", 0));

    let round = round(requests);

    assert_eq!(names(&round.proven, "hospital"), ["honest"]);
    assert_eq!(count(&round.unproven), 64);
}

#[test]
fn what_a_flood_leaves_behind_has_a_bound_and_a_round_does_too() {
    let first = round(flood(10_000, filed, "hospital"));

    assert_eq!(first.removals.len(), REMOVALS);
    assert!(first.removals.iter().all(|(_, why)| *why == Removal::Surplus));
    assert!(first.leaves, "the next round removes more");
    let few = round(flood(UNPROVEN_OPEN, filed, "hospital"));
    assert!(few.removals.is_empty(), "nobody is sent away before there are too many");
    let answers = round(flood(REFUSED + 3, refused, "hospital"));
    assert_eq!(answers.removals.len(), 3);
    let answers = round(flood(ISSUED + 3, answered, "hospital"));
    assert_eq!(answers.removals.len(), 3);
}

#[test]
fn namespaces_take_turns_for_refusals_and_for_what_is_kept() {
    let mut requests = flood(10_000, filed, "flooded");
    requests.extend(flood(2, filed, "hospital"));
    requests.push(refused("hospital", "told", 600));
    requests.extend(flood(REFUSED, refused, "flooded"));

    let round = round(requests);

    assert_eq!(names(&round.unproven, "hospital"), ["er-0", "er-1"]);
    let is_hospital = |(request, _): &(Arc<EnrollmentRequest>, Removal)| {
        request.namespace().as_deref() == Some("hospital")
    };
    assert!(!round.removals.iter().any(is_hospital));
}

#[test]
fn a_flood_with_one_token_does_not_hold_up_another_token() {
    let mut requests = flood(PROVEN_OPEN * 2, proven, "hospital");
    let mut other = proven("hospital", "other", 0);
    other.spec.token = Some("ward-4".to_owned());
    requests.push(other);

    let round = round(requests);

    let sizes: Vec<_> = round.proven.values().map(Vec::len).collect();
    assert_eq!(sizes, [PROVEN, 1]);
    assert!(round.leaves);
}

#[test]
fn requests_that_could_not_be_answered_let_others_go_first() {
    let mut requests = flood(PROVEN, proven, "hospital");
    requests.push(proven("hospital", "honest", 0));
    let requests = requests.into_iter().map(Arc::new).collect();

    let is_stuck = |request: &EnrollmentRequest| request.name_any() != "honest";
    let round = triage(requests, |_| true, is_stuck, |_| 64, Some(now()));

    assert_eq!(names(&round.proven, "hospital")[0], "honest");
}

#[test]
fn answers_are_kept_for_an_hour_and_open_requests_for_a_day() {
    const HOUR: i64 = 60 * 60;
    let requests = vec![
        answered("hospital", "fresh", HOUR),
        answered("hospital", "fetched", HOUR + 1),
        proven("hospital", "waiting", 24 * HOUR),
        proven("hospital", "forgotten", 24 * HOUR + 1),
    ];

    let round = round(requests);

    let removals: Vec<_> =
        round.removals.iter().map(|(request, why)| (request.name_any(), *why)).collect();
    let expected = [("fetched", Removal::Answered), ("forgotten", Removal::Old)];
    assert_eq!(removals, expected.map(|(name, why)| (name.to_owned(), why)));
    assert_eq!((round.open, round.answered), (1, 1));
}

#[test]
fn a_clock_that_cannot_be_trusted_removes_nothing_for_its_age() {
    let old = vec![Arc::new(answered("hospital", "fetched", 1_000_000))];

    let round = triage(old, |_| true, |_| false, |_| 64, None);

    assert!(round.removals.is_empty());
}

#[test]
fn the_pace_is_not_spent_when_nobody_needs_it_and_what_exceeds_it_waits() {
    let asked = Cell::new(0);
    let pace = |wanted| {
        asked.set(wanted);
        1
    };
    let two = flood(2, filed, "hospital").into_iter().map(Arc::new).collect();

    let slow = triage(two, |_| false, |_| false, pace, Some(now()));

    assert_eq!((count(&slow.unproven), asked.get(), slow.leaves), (1, 2, true));
    let none = triage(Vec::new(), |_| false, |_| false, |_| panic!("not needed"), Some(now()));
    assert!(!none.leaves);
}
