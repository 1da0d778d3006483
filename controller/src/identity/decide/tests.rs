//! Every way to a certificate, and every refusal.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use wardring_api::{DeviceSpec, EnrollmentRequestSpec, EnrollmentTokenSpec};
use wardring_seal::{DeviceKey, PAYLOAD_VERSION, Token};

use super::*;

const NAMESPACE: &str = "hospital";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    at("2026-03-10T02:00:00Z")
}

fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

/// A root, a token with its object, and a device that has not asked yet.
struct World {
    authority: Authority,
    secret: Token,
    token: EnrollmentToken,
    key: DeviceKey,
    claim: EnrolmentClaim,
}

fn world() -> World {
    let authority = Authority::create(now() - hours(24)).unwrap();
    let secret = Token::generate(NAMESPACE, "ward-3", authority.roots().fingerprint()).unwrap();
    let mut token = EnrollmentToken::new(
        "ward-3",
        EnrollmentTokenSpec {
            public_key: secret.public_key(),
            expires_at: now() + hours(24),
            max_uses: 2,
            labels: BTreeMap::from([("ward".to_owned(), "3".to_owned())]),
            mode: DeviceMode::Manage,
            may_replace: false,
        },
    );
    token.metadata.namespace = Some(NAMESPACE.to_owned());
    token.metadata.uid = Some("token-uid".to_owned());
    let key = DeviceKey::generate().unwrap();
    let claim = claim_of(&key, Some("ward-3"));
    World { authority, secret, token, key, claim }
}

fn claim_of(key: &DeviceKey, token: Option<&str>) -> EnrolmentClaim {
    EnrolmentClaim {
        version: PAYLOAD_VERSION,
        namespace: NAMESPACE.to_owned(),
        device: "ws-17".to_owned(),
        token: token.map(str::to_owned),
        csr: key.csr("ws-17").unwrap(),
        at: now(),
    }
}

fn filed(kind: EnrollmentKind, signed: SignedClaim, at: Timestamp) -> EnrollmentRequest {
    let mut request = EnrollmentRequest::new(
        &request_name(&signed.claim),
        EnrollmentRequestSpec {
            kind,
            claim: signed.claim,
            proof: signed.proof,
            certificate: signed.certificate,
            token: (kind == EnrollmentKind::Enroll).then(|| "ward-3".to_owned()),
            device: "ws-17".to_owned(),
        },
    );
    request.metadata.namespace = Some(NAMESPACE.to_owned());
    request.metadata.creation_timestamp = Some(Time(at));
    request
}

impl World {
    fn request(&self) -> EnrollmentRequest {
        let signed = self.secret.sign_claim(&self.claim);
        filed(EnrollmentKind::Enroll, signed, now())
    }

    fn decide(&self, request: &EnrollmentRequest, device: Option<&Device>) -> Decision {
        decide(request, Some(&self.token), device, &self.authority, now())
    }

    fn enrolment_id(&self) -> String {
        let request = CertificateRequest::parse(&self.claim.csr).unwrap();
        self.authority.enrolment_id(&request, NAMESPACE, "ws-17", "token-uid")
    }

    /// A renewal by this world's device, with a certificate issued for `enrolment_id` at `issued`.
    fn renewal(&self, enrolment_id: &str, issued: Timestamp) -> EnrollmentRequest {
        let request = CertificateRequest::parse(&self.claim.csr).unwrap();
        let certificate = self
            .authority
            .issue_device(&request, NAMESPACE, enrolment_id, "ws-17", issued, hours(90 * 24))
            .unwrap();
        let next = DeviceKey::generate().unwrap();
        let signed = self.key.sign_renewal(&claim_of(&next, None), &certificate).unwrap();
        filed(EnrollmentKind::Renew, signed, now())
    }
}

fn device(enrolment_id: Option<&str>) -> Device {
    Device::new(
        "ws-17",
        DeviceSpec { enrolment_id: enrolment_id.map(str::to_owned), ..DeviceSpec::default() },
    )
}

#[track_caller]
fn issued(decision: Decision) -> Issue {
    match decision {
        Decision::Issue(issue) => issue,
        other => panic!("no certificate: {other:?}"),
    }
}

#[track_caller]
fn assert_refused(decision: Decision, reason: Reason, words: &str) {
    match decision {
        Decision::Refuse(refused) => {
            assert_eq!(refused.reason, reason, "{}", refused.message);
            assert!(refused.message.contains(words), "{}", refused.message);
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_new_device_is_made_with_the_labels_and_mode_of_its_token_and_counted() {
    let world = world();

    let issue = issued(world.decide(&world.request(), None));

    let labels = [("ward", "3"), (TOKEN_LABEL, "ward-3")];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    assert_eq!(issue.bind, Bind::Create { labels, mode: DeviceMode::Manage });
    assert_eq!(issue.device, "ws-17");
    assert_eq!(issue.request.key_id(), world.key.key_id());
    assert!(issue.count);
}

#[test]
fn a_device_that_a_person_prepared_is_bound_and_keeps_its_labels_and_mode() {
    let world = world();

    let issue = issued(world.decide(&world.request(), Some(&device(None))));

    assert_eq!(issue.bind, Bind::Set);
    assert!(issue.count);
}

#[test]
fn a_request_decided_again_after_every_write_comes_to_the_same_enrolment_and_counts_once() {
    let mut world = world();
    let request = world.request();
    let first = issued(world.decide(&request, None));

    // Cut off after the count.
    count(world.token.status.get_or_insert_default(), &request.name_any());
    let second = issued(world.decide(&request, None));
    assert_eq!(second, Issue { count: false, ..first.clone() });

    // Cut off after the Device was made.
    let bound = device(Some(&first.enrolment_id));
    let third = issued(world.decide(&request, Some(&bound)));
    assert_eq!(third, Issue { bind: Bind::Already, ..second });
}

#[test]
fn a_device_that_missed_its_answer_gets_it_with_a_new_claim_even_from_a_spent_token() {
    let mut world = world();
    let bound = device(Some(&world.enrolment_id()));
    world.token.spec.expires_at = now() - hours(1);
    world.claim.at = now() - SignedDuration::from_mins(1);

    let issue = issued(world.decide(&world.request(), Some(&bound)));

    assert_eq!(issue.bind, Bind::Already);
    assert!(!issue.count);
}

#[test]
fn a_key_that_comes_back_with_another_token_is_another_enrolment() {
    let mut world = world();
    let bound = device(Some(&world.enrolment_id()));
    world.token.metadata.uid = Some("later-token".to_owned());

    let decision = world.decide(&world.request(), Some(&bound));

    assert_refused(decision, Reason::MayNotReplace, "mayReplace");
}

#[test]
fn an_unknown_or_revoked_token_is_refused() {
    let world = world();
    let decision = decide(&world.request(), None, None, &world.authority, now());
    assert_refused(decision, Reason::TokenRefused, "revoked");
}

#[test]
fn an_expired_token_is_refused() {
    let mut world = world();
    world.token.spec.expires_at = now();
    assert_refused(world.decide(&world.request(), None), Reason::TokenRefused, "expired");
}

#[test]
fn a_spent_token_is_refused() {
    let mut world = world();
    let status = world.token.status.get_or_insert_default();
    count(status, "er-one");
    count(status, "er-two");
    assert_refused(world.decide(&world.request(), None), Reason::TokenRefused, "all 2 devices");
}

#[test]
fn another_seed_than_the_tokens_is_refused() {
    let mut world = world();
    world.secret = Token::generate(NAMESPACE, "ward-3", world.secret.root()).unwrap();
    assert_refused(world.decide(&world.request(), None), Reason::BadProof, "signed");
}

#[test]
fn a_claim_altered_by_the_gateway_is_refused() {
    let world = world();
    let mut request = world.request();
    request.spec.claim = request.spec.claim.replace("ws-17", "dc-01");
    request.metadata.name = Some(request_name(&request.spec.claim));
    request.spec.device = "dc-01".to_owned();
    assert_refused(world.decide(&request, None), Reason::BadProof, "altered");
}

#[test]
fn a_request_filed_under_another_device_token_namespace_or_name_is_refused() {
    let world = world();
    let mut other_device = world.request();
    other_device.spec.device = "dc-01".to_owned();
    let mut other_namespace = world.request();
    other_namespace.metadata.namespace = Some("school".to_owned());
    let mut other_name = world.request();
    other_name.metadata.name = Some("er-again".to_owned());
    assert_refused(world.decide(&other_device, None), Reason::BadProof, "device name");
    assert_refused(world.decide(&other_namespace, None), Reason::BadProof, "namespace");
    assert_refused(world.decide(&other_name, None), Reason::BadProof, "name that its claim");

    let mut twin = world.token.clone();
    twin.metadata.name = Some("ward-4".to_owned());
    let decision = decide(&world.request(), Some(&twin), None, &world.authority, now());
    assert_refused(decision, Reason::BadProof, "another token");
}

#[test]
fn a_claim_signed_long_before_it_was_filed_or_in_the_future_is_refused() {
    let world = world();
    let signed = world.secret.sign_claim(&world.claim);
    for when in [now() + SignedDuration::from_mins(61), now() - SignedDuration::from_mins(6)] {
        let request = filed(EnrollmentKind::Enroll, signed.clone(), when);
        assert_refused(world.decide(&request, None), Reason::StaleClaim, "clock");
    }
    let request = filed(EnrollmentKind::Enroll, signed, now() + SignedDuration::from_mins(59));
    issued(world.decide(&request, None));
}

#[test]
fn a_request_that_waited_long_for_a_signer_is_still_good() {
    let world = world();
    let later = now() + hours(20);
    let token = Some(&world.token);
    issued(decide(&world.request(), token, None, &world.authority, later));
}

#[test]
fn an_enrolled_device_is_not_given_another_key_unless_the_token_says_so() {
    let mut world = world();
    let enrolled = device(Some("0123456789abcdef"));

    let decision = world.decide(&world.request(), Some(&enrolled));
    assert_refused(decision, Reason::MayNotReplace, "mayReplace");

    world.token.spec.may_replace = true;
    let issue = issued(world.decide(&world.request(), Some(&enrolled)));
    assert_eq!(issue.bind, Bind::Set);
    assert_ne!(issue.enrolment_id, "0123456789abcdef");
}

#[test]
fn a_device_that_is_being_deleted_is_waited_for() {
    let world = world();
    let mut going = device(Some("0123456789abcdef"));
    going.metadata.deletion_timestamp = Some(Time(now()));
    assert_eq!(world.decide(&world.request(), Some(&going)), Decision::Wait);
}

#[test]
fn a_signing_request_that_its_key_did_not_sign_is_refused() {
    let mut world = world();
    world.claim.csr = world.claim.csr.replace('A', "B");
    assert_refused(world.decide(&world.request(), None), Reason::BadProof, "signing request");
}

#[test]
fn a_claim_of_a_newer_version_is_refused_with_the_versions() {
    let mut world = world();
    world.claim.version = 9;
    assert_refused(world.decide(&world.request(), None), Reason::BadProof, "version 9");
}

#[test]
fn a_renewal_keeps_the_enrolment_and_counts_nothing_also_half_a_year_after_expiry() {
    let world = world();
    let id = world.enrolment_id();
    for issued_at in [now() - hours(24), now() - hours((90 + 180) * 24)] {
        let request = world.renewal(&id, issued_at);
        let decision = decide(&request, None, Some(&device(Some(&id))), &world.authority, now());
        let issue = issued(decision);
        assert_eq!(issue.enrolment_id, id);
        assert_eq!((issue.bind, issue.count), (Bind::Already, false));
        assert_ne!(issue.request.key_id(), world.key.key_id());
    }
}

#[test]
fn a_renewal_follows_the_enrolment_to_a_device_that_a_person_renamed() {
    let world = world();
    let id = world.enrolment_id();
    let mut renamed = device(Some(&id));
    renamed.metadata.name = Some("ward-pc-4".to_owned());
    let mut request = world.renewal(&id, now());
    request.spec.device = "ward-pc-4".to_owned();
    let issue = issued(decide(&request, None, Some(&renamed), &world.authority, now()));
    assert_eq!(issue.device, "ward-pc-4");
}

#[test]
fn a_renewal_of_an_enrolment_that_was_replaced_revoked_or_deleted_is_refused() {
    let world = world();
    let request = world.renewal(&world.enrolment_id(), now());
    let replaced = device(Some("0123456789abcdef"));
    let revoked = device(None);
    for (device, words) in [
        (Some(&replaced), "not its current"),
        (Some(&revoked), "not its current"),
        (None, "deleted"),
    ] {
        let decision = decide(&request, None, device, &world.authority, now());
        assert_refused(decision, Reason::NotEnrolled, words);
    }
}

#[test]
fn a_renewal_more_than_a_year_after_expiry_is_refused() {
    let world = world();
    let id = world.enrolment_id();
    let authority = Authority::create(now() - hours(3 * 365 * 24)).unwrap();
    let world = World { authority, ..world };
    let request = world.renewal(&id, now() - hours((90 + 366) * 24));
    let decision = decide(&request, None, Some(&device(Some(&id))), &world.authority, now());
    assert_refused(decision, Reason::BadProof, "expired");
}

#[test]
fn a_renewal_with_a_certificate_of_another_root_is_refused() {
    let world = world();
    let id = world.enrolment_id();
    let request = world.renewal(&id, now());
    let other = Authority::create(now()).unwrap();
    let decision = decide(&request, None, Some(&device(Some(&id))), &other, now());
    assert_refused(decision, Reason::BadProof, "trusted root");
}

#[test]
fn a_renewal_replayed_later_is_refused() {
    let world = world();
    let id = world.enrolment_id();
    let mut request = world.renewal(&id, now());
    request.metadata.creation_timestamp = Some(Time(now() + hours(2)));
    let decision = decide(&request, None, Some(&device(Some(&id))), &world.authority, now());
    assert_refused(decision, Reason::StaleClaim, "clock");
}

#[test]
fn a_token_remembers_the_requests_counted_last_and_counts_each_once() {
    let mut status = EnrollmentTokenStatus::default();
    for number in 0..100 {
        count(&mut status, &format!("er-{number}"));
        count(&mut status, &format!("er-{number}"));
    }
    assert_eq!(status.uses, 100);
    assert_eq!(status.counted.len(), 64);
    assert_eq!(status.counted.last().map(String::as_str), Some("er-99"));
}
