//! Whether an EnrollmentRequest gets a certificate: one function from the request, its token and the
//! device to an answer. No I/O and no clock.

use std::collections::BTreeMap;
use std::error::Error;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use sha2::{Digest, Sha256};
use wardring_api::names::TOKEN_LABEL;
use wardring_api::reasons::Reason;
use wardring_api::{
    Device, DeviceMode, EnrollmentKind, EnrollmentRequest, EnrollmentToken, EnrollmentTokenStatus,
};
use wardring_seal::{
    Authority, CertificateRequest, ClaimError, DeviceIdentity, EnrolmentClaim, RequestError,
    SignedClaim, verify_claim, verify_renewal,
};

/// A claim signed longer than this before it was filed is taken for a replay.
const FRESH_FOR: SignedDuration = SignedDuration::from_hours(1);
/// How far a device's clock may be ahead.
const MAX_AHEAD: SignedDuration = SignedDuration::from_mins(5);
/// How many requests a token remembers as counted.
const COUNTED: usize = 64;
/// Longest sentence of a refusal.
const MAX_MESSAGE: usize = 512;

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Issue(Issue),
    Refuse(Refused),
    /// Not now: the Device is being deleted, and only then can be made again.
    Wait,
}

/// A certificate to be issued, and what must be written before it is handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Issue {
    pub device: String,
    pub enrolment_id: String,
    pub request: CertificateRequest,
    pub bind: Bind,
    /// Whether the token must count this request first.
    pub count: bool,
}

/// How the Device comes to name the enrolment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bind {
    /// It does already: a renewal, or a signer that crashed after binding.
    Already,
    /// It is made, with the token's labels and mode.
    Create { labels: BTreeMap<String, String>, mode: DeviceMode },
    /// It is there without an enrolment, or the token may replace the one it has.
    Set,
}

/// No, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub reason: Reason,
    pub message: String,
}

impl Refused {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Refused {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        Refused { reason, message }
    }
}

/// Decides about one request that has no answer yet. `token` and `device` are those whose names the
/// request gives, as read just now.
pub(super) fn decide(
    request: &EnrollmentRequest,
    token: Option<&EnrollmentToken>,
    device: Option<&Device>,
    authority: &Authority,
    now: Timestamp,
) -> Decision {
    let decided = match request.spec.kind {
        EnrollmentKind::Enroll => enrol(request, token, device, authority, now),
        EnrollmentKind::Renew => renew(request, device, authority, now),
    };
    decided.unwrap_or_else(Decision::Refuse)
}

fn enrol(
    request: &EnrollmentRequest,
    token: Option<&EnrollmentToken>,
    device: Option<&Device>,
    authority: &Authority,
    now: Timestamp,
) -> Result<Decision, Refused> {
    let token = token.ok_or_else(|| {
        token_refused("there is no EnrollmentToken of this name; it may have been revoked")
    })?;
    let claim = prove_enrolment(request, token)?;
    let key = CertificateRequest::parse(&claim.csr).map_err(bad_request)?;
    let namespace = request.namespace().unwrap_or_default();
    let token_uid = token.uid().unwrap_or_default();
    let enrolment_id = authority.enrolment_id(&key, &namespace, &claim.device, &token_uid);
    let bind = match device {
        Some(device) if device.spec.enrolment_id.as_ref() == Some(&enrolment_id) => Bind::Already,
        Some(device) if device.metadata.deletion_timestamp.is_some() => return Ok(Decision::Wait),
        Some(device) if device.spec.enrolment_id.is_some() && !token.spec.may_replace => {
            return Err(Refused::new(
                Reason::MayNotReplace,
                "the device is enrolled with another key and this token may not replace it; use a token with mayReplace, or another name",
            ));
        }
        Some(_) => Bind::Set,
        None => Bind::Create { labels: labels(token), mode: token.spec.mode },
    };
    // A device that is bound to this very key by this token has used it: it may ask again, for it
    // may have missed the answer, but neither counts nor needs the token to be still good.
    let count = match &bind {
        Bind::Already => false,
        Bind::Create { .. } | Bind::Set => must_count(request, token, now)?,
    };
    Ok(Decision::Issue(Issue { device: claim.device, enrolment_id, request: key, bind, count }))
}

fn renew(
    request: &EnrollmentRequest,
    device: Option<&Device>,
    authority: &Authority,
    now: Timestamp,
) -> Result<Decision, Refused> {
    let (claim, identity) = prove_renewal(request, authority, now)?;
    // The Device is found by the gateway's word, which may lie; but a Device that names this
    // enrolment is the right one, whatever it is called.
    let device = device.ok_or_else(|| {
        Refused::new(Reason::NotEnrolled, "the Device was deleted; enrol again with a token")
    })?;
    if device.spec.enrolment_id.as_ref() != Some(&identity.enrolment_id) {
        return Err(Refused::new(
            Reason::NotEnrolled,
            "the device's certificate is not its current one any more: it was enrolled anew or revoked; enrol again with a token",
        ));
    }
    Ok(Decision::Issue(Issue {
        device: device.name_any(),
        enrolment_id: identity.enrolment_id,
        request: CertificateRequest::parse(&claim.csr).map_err(bad_request)?,
        bind: Bind::Already,
        count: false,
    }))
}

/// Whether whoever files this has a proof that fits: the token's seed, or the key of a certificate of
/// ours. Says nothing about whether that is enough.
pub(super) fn is_proven(
    request: &EnrollmentRequest,
    token: Option<&EnrollmentToken>,
    authority: &Authority,
    now: Timestamp,
) -> bool {
    match request.spec.kind {
        EnrollmentKind::Enroll => {
            token.is_some_and(|token| prove_enrolment(request, token).is_ok())
        }
        EnrollmentKind::Renew => prove_renewal(request, authority, now).is_ok(),
    }
}

fn prove_enrolment(
    request: &EnrollmentRequest,
    token: &EnrollmentToken,
) -> Result<EnrolmentClaim, Refused> {
    let claim = verify_claim(&signed_claim(request), &token.spec.public_key).map_err(bad_proof)?;
    check_filing(request, &claim)?;
    if claim.token.as_deref() != Some(token.name_any().as_str()) {
        return Err(misfiled("the request was filed under another token than the claim names"));
    }
    if claim.device != request.spec.device {
        return Err(misfiled("the request was filed under another device name than the claim's"));
    }
    Ok(claim)
}

fn prove_renewal(
    request: &EnrollmentRequest,
    authority: &Authority,
    now: Timestamp,
) -> Result<(EnrolmentClaim, DeviceIdentity), Refused> {
    let (claim, identity) =
        verify_renewal(&signed_claim(request), authority.roots(), now).map_err(bad_proof)?;
    check_filing(request, &claim)?;
    Ok((claim, identity))
}

/// Whether the request must be counted (or was before); refuses when the token admits no more.
fn must_count(
    request: &EnrollmentRequest,
    token: &EnrollmentToken,
    now: Timestamp,
) -> Result<bool, Refused> {
    if token.spec.expires_at <= now {
        let expired = token.spec.expires_at;
        return Err(token_refused(format!("the token expired at {expired}; make a new one")));
    }
    let status = token.status.clone().unwrap_or_default();
    if status.counted.contains(&request.name_any()) {
        return Ok(false);
    }
    if status.uses >= token.spec.max_uses {
        let max_uses = token.spec.max_uses;
        return Err(token_refused(format!(
            "the token has admitted all {max_uses} devices that it may; make a new one"
        )));
    }
    Ok(true)
}

/// Counts a request at its token; a request that is counted already changes nothing.
pub(super) fn count(status: &mut EnrollmentTokenStatus, request: &str) {
    if status.counted.iter().any(|counted| counted == request) {
        return;
    }
    status.uses = status.uses.saturating_add(1);
    status.counted.push(request.to_owned());
    let surplus = status.counted.len().saturating_sub(COUNTED);
    status.counted.drain(..surplus);
}

/// The checks that enrolment and renewal share: the request is what the claim says, and was filed
/// soon after the claim was signed.
fn check_filing(request: &EnrollmentRequest, claim: &EnrolmentClaim) -> Result<(), Refused> {
    if request.namespace().as_deref() != Some(claim.namespace.as_str()) {
        return Err(misfiled("the claim is for another namespace"));
    }
    // One claim, one name: filing a claim twice cannot count it twice.
    if request.name_any() != request_name(&request.spec.claim) {
        return Err(misfiled("the request does not bear the name that its claim leads to"));
    }
    // Compared with the API server's stamp, not with now: a request that waits for a signer stays
    // good, and one that is filed again later does not.
    let filed = request.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let age = filed.unwrap_or(Timestamp::MIN).duration_since(claim.at);
    if age > FRESH_FOR || age < -MAX_AHEAD {
        return Err(Refused::new(
            Reason::StaleClaim,
            "the claim was signed more than an hour before it was filed, or in the future; check the device's clock and try again",
        ));
    }
    Ok(())
}

/// The name of the request that a claim is filed under.
pub(super) fn request_name(claim: &str) -> String {
    let digest = Sha256::digest(claim.as_bytes());
    let hex: String = digest.iter().take(20).map(|byte| format!("{byte:02x}")).collect();
    format!("er-{hex}")
}

fn labels(token: &EnrollmentToken) -> BTreeMap<String, String> {
    let mut labels = token.spec.labels.clone();
    labels.insert(TOKEN_LABEL.to_owned(), token.name_any());
    labels
}

fn signed_claim(request: &EnrollmentRequest) -> SignedClaim {
    SignedClaim {
        claim: request.spec.claim.clone(),
        proof: request.spec.proof.clone(),
        certificate: request.spec.certificate.clone(),
    }
}

fn token_refused(message: impl Into<String>) -> Refused {
    Refused::new(Reason::TokenRefused, message)
}

fn misfiled(message: &str) -> Refused {
    Refused::new(Reason::BadProof, message)
}

fn bad_proof(error: ClaimError) -> Refused {
    Refused::new(Reason::BadProof, in_words(&error))
}

fn bad_request(error: RequestError) -> Refused {
    Refused::new(Reason::BadProof, in_words(&error))
}

/// An error with its sources, in one sentence.
fn in_words(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        words.push_str(": ");
        words.push_str(&error.to_string());
        source = error.source();
    }
    words
}

#[cfg(test)]
mod tests;
