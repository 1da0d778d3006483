//! Tokens, claims, renewals, and what a device takes from the answer.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::*;
use wardring_seal::*;

fn token(authority: &Authority) -> Token {
    Token::generate(NAMESPACE, "ward-3", authority.roots().fingerprint()).unwrap()
}

#[test]
fn a_token_reads_back_from_its_text_and_hides_its_seed() {
    let token = token(&authority());
    let text = token.reveal();

    let read = Token::parse(&format!("  {text}\n")).unwrap();

    assert_eq!(read, token);
    assert_eq!(read.public_key().len(), 44);
    let seed = text.split('.').nth(1).unwrap();
    assert!(!format!("{token:?}").contains(seed));
}

#[test]
fn damaged_tokens_are_refused_without_repeating_them() {
    let text = token(&authority()).reveal();
    let parts: Vec<_> = text.split('.').collect();
    let cases = [
        ("", TokenError::Shape),
        ("one.two", TokenError::Shape),
        (&format!("ward-3.{}.{}", parts[1], parts[2]), TokenError::Shape),
        (&format!("Hospital/ward.{}.{}", parts[1], parts[2]), TokenError::Name),
        (&format!("hospital/.{}.{}", parts[1], parts[2]), TokenError::Name),
        (&text.replace(parts[1], "c2hvcnQ"), TokenError::Seed),
        (&text[..text.len() - 1], TokenError::Root),
    ];
    for (text, error) in cases {
        assert_eq!(Token::parse(text), Err(error), "{text}");
    }
}

#[test]
fn a_claim_signed_by_the_token_verifies_by_its_public_key_alone() {
    let token = token(&authority());
    let claim = claim(&DeviceKey::generate().unwrap(), Some("ward-3"));

    let read = verify_claim(&token.sign_claim(&claim), &token.public_key());

    assert_eq!(read, Ok(claim));
}

#[test]
fn a_claim_is_refused_when_altered_or_signed_by_another_token() {
    let authority = authority();
    let token = token(&authority);
    let signed = token.sign_claim(&claim(&DeviceKey::generate().unwrap(), Some("ward-3")));
    let other = Token::generate(NAMESPACE, "ward-3", token.root()).unwrap();
    let altered = SignedClaim { claim: signed.claim.replace("ws-17", "dc-01"), ..signed.clone() };

    assert_eq!(verify_claim(&altered, &token.public_key()), Err(ClaimError::Proof));
    assert_eq!(verify_claim(&signed, &other.public_key()), Err(ClaimError::Proof));
    assert_eq!(verify_claim(&signed, "AAAA"), Err(ClaimError::PublicKey));
}

#[test]
fn a_claim_with_an_impossible_device_name_is_refused() {
    let token = token(&authority());
    for device in ["", "WS-17", "ws_17", "-ws", "a.b", "ws-17\n", &"a".repeat(64)] {
        let claim = EnrolmentClaim {
            device: device.into(),
            ..claim(&DeviceKey::generate().unwrap(), Some("ward-3"))
        };
        let refused = verify_claim(&token.sign_claim(&claim), &token.public_key());
        assert_eq!(refused, Err(ClaimError::DeviceName), "{device:?}");
    }
}

#[test]
fn a_claim_of_a_newer_version_is_refused_as_such() {
    let token = token(&authority());
    let claim = claim(&DeviceKey::generate().unwrap(), Some("ward-3"));
    let newer = EnrolmentClaim { version: 9, ..claim };

    let refused = verify_claim(&token.sign_claim(&newer), &token.public_key());

    assert_eq!(refused, Err(ClaimError::Payload(PayloadError::NewerVersion { found: 9 })));
}

#[test]
fn a_renewal_is_proven_by_the_current_key_also_with_a_certificate_expired_for_half_a_year() {
    let authority = authority();
    let device = enrolled(&authority);
    let claim = claim(&DeviceKey::generate().unwrap(), None);
    let signed = device.key.sign_renewal(&claim, &device.certificate).unwrap();

    for now in [now(), now() + LIFE + days(180)] {
        let (read, identity) = verify_renewal(&signed, authority.roots(), now).unwrap();
        assert_eq!(read, claim);
        assert_eq!(identity.enrolment_id, ENROLMENT);
    }
}

#[test]
fn a_renewal_is_refused_a_year_after_the_certificate_expired() {
    let authority = authority();
    let device = enrolled(&authority);
    let signed = device.key.sign_renewal(&claim(&device.key, None), &device.certificate).unwrap();

    let refused = verify_renewal(&signed, authority.roots(), now() + LIFE + days(366));

    assert!(matches!(refused, Err(ClaimError::Certificate(CertificateError::Expired { .. }))));
}

#[test]
fn a_stolen_certificate_without_its_key_renews_nothing() {
    let authority = authority();
    let device = enrolled(&authority);
    let thief = DeviceKey::generate().unwrap();
    let signed = thief.sign_renewal(&claim(&thief, None), &device.certificate).unwrap();

    assert_eq!(verify_renewal(&signed, authority.roots(), now()), Err(ClaimError::Proof));
}

#[test]
fn a_device_does_not_renew_into_another_namespace() {
    let authority = authority();
    let device = enrol(&authority, "school", ENROLMENT);
    let signed = device.key.sign_renewal(&claim(&device.key, None), &device.certificate).unwrap();

    let refused = verify_renewal(&signed, authority.roots(), now());

    assert_eq!(refused, Err(ClaimError::OtherNamespace));
}

#[test]
fn enrolment_and_renewal_are_not_taken_for_each_other() {
    let authority = authority();
    let token = token(&authority);
    let device = enrolled(&authority);
    let renewal_by_seed = token.sign_claim(&claim(&device.key, None));
    let enrolment_by_key =
        device.key.sign_renewal(&claim(&device.key, Some("ward-3")), &device.certificate).unwrap();

    let refused = verify_claim(&renewal_by_seed, &token.public_key());
    assert_eq!(refused, Err(ClaimError::Kind));
    let refused = verify_renewal(&enrolment_by_key, authority.roots(), now());
    assert_eq!(refused, Err(ClaimError::Kind));
}

#[test]
fn an_issued_certificate_speaks_for_the_device_and_carries_nothing_the_device_chose() {
    let authority = authority();
    let key = DeviceKey::generate().unwrap();
    let csr = CertificateRequest::parse(&key.csr("anything").unwrap()).unwrap();

    let der = authority.issue_device(&csr, NAMESPACE, ENROLMENT, "ws-17", now(), LIFE).unwrap();

    let identity = parse_device_certificate(&der).unwrap();
    assert_eq!((identity.namespace.as_str(), identity.name.as_str()), (NAMESPACE, "ws-17"));
    assert_eq!(identity.enrolment_id, ENROLMENT);
    assert_eq!(identity.key_id, key.key_id());
    assert_eq!(identity.not_after, now() + LIFE);
    assert_eq!(identity.roots, authority.roots().fingerprints());
}

#[test]
fn a_signing_request_must_be_p256_and_signed_by_its_own_key() {
    let key = DeviceKey::generate().unwrap();
    let mut forged = from_base64(&key.csr("ws-17").unwrap());
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let other =
        |key| base64(rcgen::CertificateParams::default().serialize_request(key).unwrap().der());

    assert_eq!(CertificateRequest::parse(&base64(&forged)), Err(RequestError::Signature));
    assert_eq!(CertificateRequest::parse(&other(&ed25519)), Err(RequestError::Algorithm));
    assert_eq!(CertificateRequest::parse(&other(&p384)), Err(RequestError::Algorithm));
    assert_eq!(CertificateRequest::parse("no"), Err(RequestError::Unreadable));
}

#[test]
fn a_device_takes_the_pinned_root_and_its_own_certificate() {
    let authority = authority();
    let device = enrolled(&authority);
    let trust = Trust::Pinned(authority.roots().fingerprint());

    let (identity, roots) = accept_issued(
        &base64(&device.certificate),
        &authority.roots().to_base64(),
        &device.key,
        &trust,
        NAMESPACE,
        None,
        now(),
    )
    .unwrap();

    assert_eq!(identity.enrolment_id, ENROLMENT);
    assert_eq!(&roots, authority.roots());
}

#[test]
fn a_gateway_cannot_slip_a_root_of_its_own_into_the_answer() {
    let authority = authority();
    let device = enrolled(&authority);
    let evil = common::authority();
    let offered = [authority.roots().to_base64(), evil.roots().to_base64()].concat();

    for trust in
        [Trust::Pinned(authority.roots().fingerprint()), Trust::Roots(authority.roots().clone())]
    {
        let certificate = base64(&device.certificate);
        let (_, roots) =
            accept_issued(&certificate, &offered, &device.key, &trust, NAMESPACE, None, now())
                .unwrap();
        assert_eq!(&roots, authority.roots());
    }
}

#[test]
fn a_device_refuses_a_certificate_from_another_root_or_for_another_key() {
    let authority = authority();
    let device = enrolled(&authority);
    let evil = common::authority();
    let forged = evil
        .issue_device(&request(&device.key), NAMESPACE, ENROLMENT, "ws-17", now(), LIFE)
        .unwrap();
    let others = enrolled(&authority);
    let accept = |certificate: &[u8], offered: &Authority, enrolment| {
        accept_issued(
            &base64(certificate),
            &offered.roots().to_base64(),
            &device.key,
            &Trust::Pinned(authority.roots().fingerprint()),
            NAMESPACE,
            enrolment,
            now(),
        )
    };

    let refused = accept(&forged, &evil, None);
    assert_eq!(refused, Err(IssuedError::RootMissing));
    let refused = accept(&forged, &authority, None);
    assert_eq!(refused, Err(IssuedError::Certificate(CertificateError::Untrusted)));
    let refused = accept(&others.certificate, &authority, None);
    assert_eq!(refused, Err(IssuedError::OtherDevice));
    let refused = accept(&device.certificate, &authority, Some("ffffffffffffffff"));
    assert_eq!(refused, Err(IssuedError::OtherDevice));
}

#[test]
fn a_new_root_reaches_devices_while_the_old_one_still_issues() {
    let old = authority();
    let next = authority();
    let overlapping = Authority::from_pem(
        &old.certificate_pem(),
        old.key_pem(),
        Some(next.certificate_pem().as_str()),
    )
    .unwrap();
    let device = enrolled(&overlapping);

    let (_, roots) = accept_issued(
        &base64(&device.certificate),
        &overlapping.roots().to_base64(),
        &device.key,
        &Trust::Roots(old.roots().clone()),
        NAMESPACE,
        Some(ENROLMENT),
        now(),
    )
    .unwrap();

    assert_eq!(&roots, overlapping.roots());
}

#[test]
fn an_authority_and_a_device_key_survive_being_stored() {
    let authority = authority();
    let stored =
        Authority::from_pem(&authority.certificate_pem(), authority.key_pem(), None).unwrap();
    let key = DeviceKey::generate().unwrap();

    assert_eq!(stored.roots(), authority.roots());
    let id = |authority: &Authority, device, token| {
        authority.enrolment_id(&request(&key), NAMESPACE, device, token)
    };
    assert_eq!(id(&stored, "ws-17", "token-1"), id(&authority, "ws-17", "token-1"));
    assert_ne!(id(&stored, "ws-17", "token-1"), id(&stored, "ws-18", "token-1"));
    assert_ne!(id(&stored, "ws-17", "token-1"), id(&stored, "ws-17", "token-2"));
    assert_eq!(DeviceKey::from_pem(&key.to_pem()).unwrap().key_id(), key.key_id());
    let roots = Roots::from_pem(&authority.roots().to_pem()).unwrap();
    assert_eq!(&roots, authority.roots());
    let device = enrolled(&stored);
    let verified =
        verify_device_certificate(&device.certificate, authority.roots(), now(), days(0));
    assert!(verified.is_ok());
}

#[test]
fn a_root_with_the_key_of_another_is_refused() {
    let (one, two) = (authority(), authority());

    let refused = Authority::from_pem(&one.certificate_pem(), two.key_pem(), None);

    assert_eq!(refused.map(|_| ()), Err(IssueError::Mismatch));
}
