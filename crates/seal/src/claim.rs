//! Claims: who asks for a certificate, and by what right.

use jiff::Timestamp;
use ring::signature::{ED25519, UnparsedPublicKey};

use crate::bytes::{Domain, PayloadError, from_base64, read_payload};
use crate::certificate::{
    CertificateError, DeviceIdentity, EXPIRED_GRACE, Leaf, Purpose, is_label,
};
use crate::envelope::SignedClaim;
use crate::payload::EnrolmentClaim;
use crate::roots::Roots;

/// Why a claim gives no right to a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The token's public key is not one.
    #[error("the token's public key is not 32 bytes in base64")]
    PublicKey,
    /// The proof does not fit.
    #[error("the claim was altered, or was not signed by the key it needs")]
    Proof,
    /// The text.
    #[error("failed to read the claim")]
    Payload(#[source] PayloadError),
    /// Not a claim of this kind.
    #[error("an enrolment names its token and a renewal does not")]
    Kind,
    /// The device's name cannot be one.
    #[error(
        "the device name must be lower-case letters, digits and `-`, at most 63 characters, beginning and ending with a letter or digit"
    )]
    DeviceName,
    /// A renewal without its certificate.
    #[error("a renewal carries the current certificate")]
    NoCertificate,
    /// The current certificate.
    #[error("failed to verify the current certificate")]
    Certificate(#[source] CertificateError),
    /// The claim is for another namespace than the certificate.
    #[error("a device renews only in its own namespace")]
    OtherNamespace,
}

/// Verifies the claim of a first enrolment against the public key (base64) of its token.
///
/// Whether the token is alive, and the claim fresh, is for the caller to judge.
pub fn verify_claim(signed: &SignedClaim, public_key: &str) -> Result<EnrolmentClaim, ClaimError> {
    let public_key =
        from_base64(public_key).filter(|bytes| bytes.len() == 32).ok_or(ClaimError::PublicKey)?;
    let proof = from_base64(&signed.proof).ok_or(ClaimError::Proof)?;
    UnparsedPublicKey::new(&ED25519, public_key)
        .verify(&Domain::Claim.message(&signed.claim), &proof)
        .map_err(|_| ClaimError::Proof)?;
    let claim = read_claim(&signed.claim)?;
    if claim.token.is_none() { Err(ClaimError::Kind) } else { Ok(claim) }
}

/// Verifies the claim of a renewal: signed by the key of a certificate of ours that may have
/// expired less than [`EXPIRED_GRACE`] ago. Returns the claim and who asks.
///
/// Whether that enrolment is still the device's current one is for the caller to judge.
pub fn verify_renewal(
    signed: &SignedClaim,
    roots: &Roots,
    now: Timestamp,
) -> Result<(EnrolmentClaim, DeviceIdentity), ClaimError> {
    let certificate = signed.certificate.as_deref().ok_or(ClaimError::NoCertificate)?;
    let leaf = from_base64(certificate)
        .ok_or(CertificateError::Unreadable)
        .and_then(|der| Leaf::verify(&der, roots, Purpose::Device, now, EXPIRED_GRACE))
        .map_err(ClaimError::Certificate)?;
    let identity = leaf.device().map_err(ClaimError::Certificate)?;
    if !leaf.has_signed(Domain::Renewal, &signed.claim, &signed.proof) {
        return Err(ClaimError::Proof);
    }
    let claim = read_claim(&signed.claim)?;
    if claim.token.is_some() {
        return Err(ClaimError::Kind);
    }
    if claim.namespace != identity.namespace {
        return Err(ClaimError::OtherNamespace);
    }
    Ok((claim, identity))
}

fn read_claim(text: &str) -> Result<EnrolmentClaim, ClaimError> {
    let claim: EnrolmentClaim = read_payload(text).map_err(ClaimError::Payload)?;
    if is_label(&claim.device) { Ok(claim) } else { Err(ClaimError::DeviceName) }
}
