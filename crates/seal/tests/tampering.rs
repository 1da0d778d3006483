//! Properties: whatever is flipped never verifies, and nothing that is read ever panics.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use std::sync::LazyLock;

use common::*;
use proptest::prelude::*;
use wardring_seal::*;

struct World {
    authority: Authority,
    sealed: Sealed,
    signed: Signed,
    claim: SignedClaim,
    renewal: SignedClaim,
    public_key: String,
    csr: String,
    key_id: String,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let authority = authority();
    let device = enrolled(&authority);
    let token = Token::generate(NAMESPACE, "ward-3", authority.roots().fingerprint()).unwrap();
    World {
        sealed: authority.issue_job_signer(now()).unwrap().seal(&job()).unwrap(),
        signed: device.key.sign_outcome(&outcome(), &device.certificate).unwrap(),
        claim: token.sign_claim(&claim(&device.key, Some("ward-3"))),
        renewal: device.key.sign_renewal(&claim(&device.key, None), &device.certificate).unwrap(),
        public_key: token.public_key(),
        csr: device.key.csr("ws-17").unwrap(),
        key_id: device.key.key_id(),
        authority,
    }
});

/// Flips one bit of the text's bytes; `None` when the result is no longer text (it could not even
/// stand in a message).
fn flip_text(text: &str, at: prop::sample::Index, bit: u8) -> Option<String> {
    let mut bytes = text.as_bytes().to_vec();
    let index = at.index(bytes.len());
    bytes[index] ^= 1 << bit;
    String::from_utf8(bytes).ok()
}

/// Flips one bit of what a base64 text stands for.
fn flip_base64(text: &str, at: prop::sample::Index, bit: u8) -> String {
    let mut bytes = from_base64(text);
    let index = at.index(bytes.len());
    bytes[index] ^= 1 << bit;
    base64(&bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_flipped_bit_never_verifies(at: prop::sample::Index, bit in 0u8..8, part in 0u8..10) {
        let world = &*WORLD;
        let roots = world.authority.roots();
        let job_refused = |sealed: Sealed| verify_job(&sealed, roots, recipient(), now()).is_err();
        let outcome_refused = |signed: Signed| {
            verify_outcome(&signed, roots, NAMESPACE, &key(), now()).is_err()
        };
        let claim_refused = |claim: SignedClaim| verify_claim(&claim, &world.public_key).is_err();
        let renewal_refused =
            |claim: SignedClaim| verify_renewal(&claim, roots, now()).is_err();
        let (sealed, signed) = (world.sealed.clone(), world.signed.clone());
        let (claim, renewal) = (world.claim.clone(), world.renewal.clone());
        let flipped_text = |text: &str| flip_text(text, at, bit).unwrap_or_default();
        let flipped = |text: &str| flip_base64(text, at, bit);
        let refused = match part {
            0 => job_refused(Sealed { payload: flipped_text(&sealed.payload), ..sealed }),
            1 => job_refused(Sealed { signature: flipped(&sealed.signature), ..sealed }),
            2 => job_refused(Sealed { certificate: flipped(&sealed.certificate), ..sealed }),
            3 => outcome_refused(Signed { payload: flipped_text(&signed.payload), ..signed }),
            4 => outcome_refused(Signed { signature: flipped(&signed.signature), ..signed }),
            5 => outcome_refused(Signed { certificate: flipped(&signed.certificate), ..signed }),
            6 => claim_refused(SignedClaim { claim: flipped_text(&claim.claim), ..claim }),
            7 => claim_refused(SignedClaim { proof: flipped(&claim.proof), ..claim }),
            8 => renewal_refused(SignedClaim { claim: flipped_text(&renewal.claim), ..renewal }),
            _ => {
                let certificate = renewal.certificate.as_deref().map(flipped);
                renewal_refused(SignedClaim { certificate, ..renewal })
            }
        };
        prop_assert!(refused);
    }

    #[test]
    fn a_certificate_or_request_with_flipped_bits_never_panics(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..20),
        cut: prop::sample::Index,
    ) {
        let world = &*WORLD;
        for text in [&world.signed.certificate, &world.csr] {
            let mut text = text.clone();
            for (at, bit) in &flips {
                text = flip_base64(&text, *at, *bit);
            }
            let mut der = from_base64(&text);
            let _ = parse_device_certificate(&der);
            // The outermost wrapper of a request is not signed; the key, all that is taken, is.
            let key = CertificateRequest::parse(&text).map(|request| request.key_id());
            prop_assert!(key.is_err() || key.as_ref() == Ok(&world.key_id), "{key:?}");
            der.truncate(cut.index(der.len()));
            let _ = parse_device_certificate(&der);
            let _ = CertificateRequest::parse(&base64(&der));
            let _ = Roots::from_der(vec![der]);
        }
    }

    #[test]
    fn random_bytes_never_panic_and_are_never_accepted(bytes: Vec<u8>, text: String) {
        let world = &*WORLD;
        let roots = world.authority.roots();
        prop_assert!(parse_device_certificate(&bytes).is_err());
        prop_assert!(CertificateRequest::parse(&base64(&bytes)).is_err());
        prop_assert!(Roots::from_der(vec![bytes.clone()]).is_err());
        prop_assert!(Roots::from_pem(&text).is_err());
        prop_assert!(Token::parse(&text).is_err());
        prop_assert!(DeviceKey::from_pem(&text).is_err());
        let sealed = Sealed {
            payload: text.clone(),
            signature: base64(&bytes),
            key_id: text.clone(),
            certificate: base64(&bytes),
        };
        prop_assert!(verify_job(&sealed, roots, recipient(), now()).is_err());
        let claim = SignedClaim {
            claim: text.clone(),
            proof: base64(&bytes),
            certificate: Some(base64(&bytes)),
        };
        prop_assert!(verify_claim(&claim, &world.public_key).is_err());
        prop_assert!(verify_renewal(&claim, roots, now()).is_err());
    }

    #[test]
    fn a_validly_signed_text_that_is_no_claim_is_refused_without_a_panic(text: String) {
        // The seed is the operator's, but its holder may be hostile: parse what it signs with care.
        use ring::signature::{Ed25519KeyPair, KeyPair};
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let message = [b"wardring claim v1\0".as_slice(), text.as_bytes()].concat();
        let claim = SignedClaim {
            claim: text,
            proof: base64(pair.sign(&message).as_ref()),
            certificate: None,
        };
        let refused = verify_claim(&claim, &base64(pair.public_key().as_ref()));
        prop_assert!(matches!(refused, Err(ClaimError::Payload(_))), "{refused:?}");
    }
}
