//! What a device accepts as a job, and what it does not.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::*;
use wardring_seal::*;

#[test]
fn a_sealed_job_reads_back_on_its_device() {
    let authority = authority();
    let sealed = authority.issue_job_signer(now()).unwrap().seal(&job()).unwrap();

    let read = verify_job(&sealed, authority.roots(), recipient(), now()).unwrap();

    assert_eq!(read, job());
}

#[test]
fn a_job_signer_that_was_stored_seals_as_before() {
    let authority = authority();
    let signer = authority.issue_job_signer(now()).unwrap();
    let stored = JobSigner::from_pem(&signer.certificate_pem(), &signer.key_pem()).unwrap();

    let sealed = stored.seal(&job()).unwrap();

    assert!(verify_job(&sealed, authority.roots(), recipient(), now()).is_ok());
}

#[test]
fn a_job_for_another_device_or_namespace_is_refused() {
    let authority = authority();
    let sealed = authority.issue_job_signer(now()).unwrap().seal(&job()).unwrap();

    for recipient in [
        Recipient { namespace: NAMESPACE, enrolment_id: "ffffffffffffffff" },
        Recipient { namespace: "school", enrolment_id: ENROLMENT },
    ] {
        let refused = verify_job(&sealed, authority.roots(), recipient, now());
        assert_eq!(refused, Err(JobError::OtherDevice));
    }
}

#[test]
fn an_altered_job_is_refused() {
    let authority = authority();
    let sealed = authority.issue_job_signer(now()).unwrap().seal(&job()).unwrap();
    let altered =
        Sealed { payload: sealed.payload.replace("KB5068787", "KB5000000"), ..sealed.clone() };
    // Even white space counts: bytes are signed, not meaning.
    let spaced = Sealed { payload: format!("{} ", sealed.payload), ..sealed };

    for tampered in [altered, spaced] {
        let refused = verify_job(&tampered, authority.roots(), recipient(), now());
        assert_eq!(refused, Err(JobError::Signature));
    }
}

#[test]
fn a_job_under_another_root_is_refused() {
    let ours = authority();
    let theirs = authority();
    let sealed = theirs.issue_job_signer(now()).unwrap().seal(&job()).unwrap();

    let refused = verify_job(&sealed, ours.roots(), recipient(), now());

    assert_eq!(refused, Err(JobError::Certificate(CertificateError::Untrusted)));
}

#[test]
fn a_job_is_accepted_under_either_of_two_overlapping_roots() {
    let old = authority();
    let new = authority();
    let both = Authority::from_pem(
        &new.certificate_pem(),
        new.key_pem(),
        Some(old.certificate_pem().as_str()),
    )
    .unwrap();

    for authority in [&old, &new] {
        let sealed = authority.issue_job_signer(now()).unwrap().seal(&job()).unwrap();
        assert!(verify_job(&sealed, both.roots(), recipient(), now()).is_ok());
    }
}

#[test]
fn a_job_sealed_with_an_expired_or_future_certificate_is_refused() {
    let authority = authority();
    let sealed = authority.issue_job_signer(now()).unwrap().seal(&job()).unwrap();

    let later = verify_job(&sealed, authority.roots(), recipient(), now() + days(366));
    let earlier = verify_job(&sealed, authority.roots(), recipient(), now() - days(1));

    assert!(matches!(later, Err(JobError::Certificate(CertificateError::Expired { .. }))));
    assert!(matches!(earlier, Err(JobError::Certificate(CertificateError::NotYetValid { .. }))));
}

#[test]
fn a_device_cannot_seal_a_job_with_its_own_certificate() {
    let authority = authority();
    let device = enrolled(&authority);
    let certificate = pem("CERTIFICATE", &device.certificate);
    let signer = JobSigner::from_pem(&certificate, &device.key.to_pem()).unwrap();

    let refused = verify_job(&signer.seal(&job()).unwrap(), authority.roots(), recipient(), now());

    assert_eq!(refused, Err(JobError::Certificate(CertificateError::Untrusted)));
}

#[test]
fn a_gateway_cannot_seal_a_job_with_its_serving_certificate() {
    let authority = authority();
    let hosts = ["gateway.example".to_owned()];
    let serving = authority.issue_serving(&hosts, now(), LIFE).unwrap();
    let signer = JobSigner::from_pem(&serving.chain_pem, &serving.key_pem).unwrap();

    let refused = verify_job(&signer.seal(&job()).unwrap(), authority.roots(), recipient(), now());

    assert!(matches!(refused, Err(JobError::Certificate(_))), "{refused:?}");
}

#[test]
fn a_certificate_of_the_right_purpose_but_another_name_seals_no_job() {
    let authority = authority();
    let root_key = rcgen::KeyPair::from_pem(authority.key_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&authority.certificate_pem(), root_key).unwrap();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Something else");
    let name = "wardring://signer/other".try_into().unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(name)];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let signer = JobSigner::from_pem(&certificate.pem(), &key.serialize_pem()).unwrap();

    let refused = verify_job(&signer.seal(&job()).unwrap(), authority.roots(), recipient(), now());

    assert_eq!(refused, Err(JobError::Certificate(CertificateError::WrongNames)));
}

#[test]
fn an_outcome_is_not_accepted_as_a_job_even_with_the_signers_key() {
    let authority = authority();
    let signer = authority.issue_job_signer(now()).unwrap();
    let key = DeviceKey::from_pem(&signer.key_pem()).unwrap();
    let signed = key.sign_outcome(&outcome(), signer.certificate()).unwrap();
    let sealed = Sealed {
        payload: signed.payload,
        signature: signed.signature,
        key_id: String::new(),
        certificate: signed.certificate,
    };

    let refused = verify_job(&sealed, authority.roots(), recipient(), now());

    assert_eq!(refused, Err(JobError::Signature));
}

#[test]
fn a_job_of_a_newer_version_is_refused_as_such() {
    let authority = authority();
    let newer = JobPayload { version: PAYLOAD_VERSION + 1, ..job() };
    let sealed = authority.issue_job_signer(now()).unwrap().seal(&newer).unwrap();

    let refused = verify_job(&sealed, authority.roots(), recipient(), now());

    assert_eq!(refused, Err(JobError::Payload(PayloadError::NewerVersion { found: 2 })));
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", base64(der))
}

#[test]
fn only_a_job_that_judges_unlisted_services_names_them_so_that_older_agents_take_all_others() {
    let mut job = job();
    assert!(!serde_json::to_string(&job).unwrap().contains("unlisted"));

    job.health.unlisted = UnlistedServices::Judge;
    let text = serde_json::to_string(&job).unwrap();
    assert!(text.contains(r#""unlisted":"Judge""#), "{text}");
    assert_eq!(serde_json::from_str::<JobPayload>(&text).unwrap(), job);
}
