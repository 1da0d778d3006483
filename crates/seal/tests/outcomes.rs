//! Which outcomes are counted.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::*;
use jiff::Timestamp;
use wardring_seal::*;

fn verify(
    signed: &Signed,
    authority: &Authority,
    now: Timestamp,
) -> Result<OutcomePayload, OutcomeError> {
    verify_outcome(signed, authority.roots(), NAMESPACE, &key(), now)
}

#[test]
fn a_signed_outcome_reads_back() {
    let authority = authority();
    let device = enrolled(&authority);
    let signed = device.key.sign_outcome(&outcome(), &device.certificate).unwrap();

    assert_eq!(verify(&signed, &authority, now()), Ok(outcome()));
}

#[test]
fn an_altered_outcome_is_refused() {
    let authority = authority();
    let device = enrolled(&authority);
    let failed = OutcomePayload { result: OutcomeResult::Failed, ..outcome() };
    let signed = device.key.sign_outcome(&failed, &device.certificate).unwrap();
    let altered = Signed { payload: signed.payload.replace("Failed", "Succeeded"), ..signed };

    assert_eq!(verify(&altered, &authority, now()), Err(OutcomeError::Signature));
}

#[test]
fn the_outcome_of_another_device_is_refused_even_if_it_names_ours() {
    let authority = authority();
    let other = enrol(&authority, NAMESPACE, "ffffffffffffffff");
    let signed = other.key.sign_outcome(&outcome(), &other.certificate).unwrap();

    assert_eq!(verify(&signed, &authority, now()), Err(OutcomeError::OtherDevice));
}

#[test]
fn the_outcome_of_the_same_enrolment_id_in_another_namespace_is_refused() {
    let authority = authority();
    let other = enrol(&authority, "school", ENROLMENT);
    let signed = other.key.sign_outcome(&outcome(), &other.certificate).unwrap();

    assert_eq!(verify(&signed, &authority, now()), Err(OutcomeError::OtherDevice));
}

#[test]
fn our_own_certificate_with_another_devices_signature_is_refused() {
    let authority = authority();
    let device = enrolled(&authority);
    let other = DeviceKey::generate().unwrap();
    let signed = other.sign_outcome(&outcome(), &device.certificate).unwrap();

    assert_eq!(verify(&signed, &authority, now()), Err(OutcomeError::Signature));
}

#[test]
fn an_outcome_replayed_for_another_grant_is_refused() {
    let authority = authority();
    let device = enrolled(&authority);
    let signed = device.key.sign_outcome(&outcome(), &device.certificate).unwrap();

    for granted in [
        JobKey { attempt: 2, ..key() },
        JobKey { rollout_uid: "9999".into(), ..key() },
        JobKey { action: Action::Rollback, ..key() },
    ] {
        let refused = verify_outcome(&signed, authority.roots(), NAMESPACE, &granted, now());
        assert_eq!(refused, Err(OutcomeError::OtherGrant));
    }
}

#[test]
fn an_outcome_under_another_root_is_refused() {
    let authority_of_others = authority();
    let device = enrolled(&authority_of_others);
    let signed = device.key.sign_outcome(&outcome(), &device.certificate).unwrap();

    let refused = verify(&signed, &authority(), now());

    assert_eq!(refused, Err(OutcomeError::Certificate(CertificateError::Untrusted)));
}

#[test]
fn the_controllers_job_signer_does_not_pass_for_a_device() {
    let authority = authority();
    let signer = authority.issue_job_signer(now()).unwrap();
    let key = DeviceKey::from_pem(&signer.key_pem()).unwrap();
    let signed = key.sign_outcome(&outcome(), signer.certificate()).unwrap();

    let refused = verify(&signed, &authority, now());

    assert_eq!(refused, Err(OutcomeError::Certificate(CertificateError::Untrusted)));
}

#[test]
fn a_renewal_signed_by_the_device_is_no_outcome() {
    let authority = authority();
    let device = enrolled(&authority);
    let claim = claim(&device.key, None);
    let renewal = device.key.sign_renewal(&claim, &device.certificate).unwrap();
    let signed = Signed {
        payload: renewal.claim,
        signature: renewal.proof,
        certificate: base64(&device.certificate),
    };

    assert_eq!(verify(&signed, &authority, now()), Err(OutcomeError::Signature));
}

#[test]
fn an_outcome_counts_until_a_year_after_its_certificate_expired() {
    let authority = authority();
    let device = enrolled(&authority);
    let signed = device.key.sign_outcome(&outcome(), &device.certificate).unwrap();

    assert!(verify(&signed, &authority, now() + LIFE + days(364)).is_ok());
    let too_late = verify(&signed, &authority, now() + LIFE + days(366));
    assert!(matches!(too_late, Err(OutcomeError::Certificate(CertificateError::Expired { .. }))));
}
