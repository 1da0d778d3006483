//! `POST /v1/enroll` and `POST /v1/renew`: files the device's wish as an EnrollmentRequest and hands
//! out the signer's answer. Decides nothing about tokens; that is the signer's alone.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use axum::{Json, extract::State};
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use rand::RngExt;
use sha2::{Digest, Sha256};
use tokio::time;
use wardring_api::{EnrollmentKind, EnrollmentRequest, EnrollmentRequestSpec, reasons::Reason};
use wardring_protocol::{EnrolAnswer, EnrolRequest};
use wardring_seal::{EnrolmentClaim, SignedClaim, parse_device_certificate, verify_renewal};

use crate::{Gateway, answer::Refusal, body::Message, cache::path, identity::wait_for_binding};

/// The signer answers within its next pass, unless many wait for it.
const RETRY_MS: u64 = 700;
/// Where many do, who has waited for long pauses for this, and for up to half as much by chance: answers are
/// kept for agents that fetch them within seconds.
const PATIENT_RETRY_MS: u64 = 3_000;
/// For a find, a create and a look at the cache.
const PATIENCE: Duration = Duration::from_secs(12);
const MAX_CLAIM: usize = 8_192;
const MAX_PROOF: usize = 256;
const MAX_CERTIFICATE: usize = 4_096;

/// `POST /v1/enroll`: the claim is signed by a token's seed.
pub async fn enroll(
    State(gateway): State<Arc<Gateway>>,
    Message(request): Message<EnrolRequest>,
) -> Result<Json<EnrolAnswer>, Refusal> {
    if request.certificate.is_some() {
        return Err(Refusal::malformed("an enrolment carries no certificate; renew at /v1/renew"));
    }
    let claim = read(&request)?;
    let Some(token) = claim.token.clone().filter(|token| is_token_name(token)) else {
        return Err(Refusal::malformed("an enrolment names its token"));
    };
    let spec = EnrollmentRequestSpec {
        kind: EnrollmentKind::Enroll,
        claim: request.claim,
        proof: request.proof,
        certificate: None,
        token: Some(token),
        device: claim.device,
    };
    file_in_time(&gateway, &claim.namespace, spec).await.map(Json)
}

/// `POST /v1/renew`: the claim is signed by the key of the current certificate, which may have expired.
pub async fn renew(
    State(gateway): State<Arc<Gateway>>,
    Message(request): Message<EnrolRequest>,
) -> Result<Json<EnrolAnswer>, Refusal> {
    let claim = read(&request)?;
    let Some(roots) = gateway.roots.current() else {
        return Err(Refusal::not_now("the roots are not known yet"));
    };
    let signed = SignedClaim {
        claim: request.claim,
        proof: request.proof,
        certificate: request.certificate,
    };
    // The signer verifies again; here it keeps strangers from filling the API server.
    let (_, identity) = verify_renewal(&signed, &roots, Timestamp::now())
        .map_err(|error| Refusal::unproven(sentence(&error)))?;
    let key = path(&identity.namespace, &identity.enrolment_id);
    if wait_for_binding(&gateway, &key).await.is_none() {
        return Err(Refusal::forbidden(
            "no Device carries this enrolment id any more; enrol again with a token",
        ));
    }
    let spec = EnrollmentRequestSpec {
        kind: EnrollmentKind::Renew,
        claim: signed.claim,
        proof: signed.proof,
        certificate: signed.certificate,
        token: None,
        device: claim.device,
    };
    file_in_time(&gateway, &claim.namespace, spec).await.map(Json)
}

/// Reads the claim far enough to know where it goes.
fn read(request: &EnrolRequest) -> Result<EnrolmentClaim, Refusal> {
    let sizes = [
        (request.claim.len(), MAX_CLAIM),
        (request.proof.len(), MAX_PROOF),
        (request.certificate.as_deref().map_or(0, str::len), MAX_CERTIFICATE),
    ];
    if sizes.iter().any(|(length, max)| length > max) {
        return Err(Refusal::malformed("claim, proof or certificate is too long"));
    }
    if request.claim.chars().any(char::is_control) {
        return Err(Refusal::malformed("the claim contains control characters"));
    }
    let claim: EnrolmentClaim = serde_json::from_str(&request.claim)
        .map_err(|_| Refusal::malformed("the claim cannot be read"))?;
    if !is_name(&claim.namespace) || !is_name(&claim.device) {
        return Err(Refusal::malformed(
            "namespace and device must be lower-case letters, digits and `-`, at most 63 of them",
        ));
    }
    Ok(claim)
}

async fn file_in_time(
    gateway: &Gateway,
    namespace: &str,
    spec: EnrollmentRequestSpec,
) -> Result<EnrolAnswer, Refusal> {
    let late = || Refusal::not_now("the API server does not answer; ask again");
    time::timeout(PATIENCE, file(gateway, namespace, spec)).await.unwrap_or_else(|_| Err(late()))
}

/// Finds or files the request, and answers with what the signer made of it.
async fn file(
    gateway: &Gateway,
    namespace: &str,
    spec: EnrollmentRequestSpec,
) -> Result<EnrolAnswer, Refusal> {
    let api: Api<EnrollmentRequest> = Api::namespaced(gateway.client.clone(), namespace);
    // The same claim is the same request, so repeating it is safe.
    let digest = hex::encode(Sha256::digest(spec.claim.as_bytes()));
    let name = format!("er-{}", &digest[..40]);
    if let Some(request) = api.get_opt(&name).await.map_err(unavailable)? {
        return answer(gateway, request).await;
    }
    admit(gateway)?;
    let metadata = ObjectMeta { name: Some(name), ..Default::default() };
    let request = EnrollmentRequest { metadata, spec, status: None };
    match api.create(&PostParams::default(), &request).await {
        Ok(_) => Ok(pending(SignedDuration::ZERO)),
        Err(kube::Error::Api(status)) => match status.code {
            // Another gateway filed it meanwhile.
            409 if status.reason == "AlreadyExists" => Ok(pending(SignedDuration::ZERO)),
            // The namespace: an unknown tenant and an unknown token look the same from outside.
            403 | 404 | 409 => Ok(EnrolAnswer::Refused {
                reason: Reason::TokenRefused.as_str().to_owned(),
                message: Reason::TokenRefused.meaning().to_owned(),
            }),
            400 | 422 => Err(Refusal::malformed("the API server refuses this request's form")),
            _ => Err(unavailable(kube::Error::Api(status))),
        },
        Err(error) => Err(unavailable(error)),
    }
}

async fn answer(gateway: &Gateway, request: EnrollmentRequest) -> Result<EnrolAnswer, Refusal> {
    let status = request.status.unwrap_or_default();
    if let Some(refusal) = status.refused {
        return Ok(EnrolAnswer::Refused { reason: refusal.reason, message: refusal.message });
    }
    let Some(certificate) = status.certificate else {
        let filed = request.metadata.creation_timestamp.map(|filed| filed.0);
        let waited = filed.map(|filed| Timestamp::now().duration_since(filed));
        return Ok(pending(waited.unwrap_or_default()));
    };
    // The agent's next request comes with this certificate; let our watch see its device first.
    if let Some(key) = enrolment_of(&certificate) {
        wait_for_binding(gateway, &key).await;
    }
    Ok(EnrolAnswer::Issued { certificate, roots: status.roots })
}

fn enrolment_of(certificate: &str) -> Option<String> {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let der = BASE64_STANDARD.decode(certificate).ok()?;
    let identity = parse_device_certificate(&der).ok()?;
    Some(path(&identity.namespace, &identity.enrolment_id))
}

/// Anybody may ask to be enrolled, so new requests have a budget of their own.
fn admit(gateway: &Gateway) -> Result<(), Refusal> {
    let now = gateway.began.elapsed();
    let mut bucket = gateway.enrolments.lock().unwrap_or_else(PoisonError::into_inner);
    bucket.take(gateway.enrol_rate, now).map_err(Refusal::too_often)
}

/// Whoever has waited for long looks less often: the looks of thousands that wait together would take from
/// the signer what it needs to answer them.
fn pending(waited: SignedDuration) -> EnrolAnswer {
    let waited_ms = u64::try_from(waited.as_millis().max(0)).unwrap_or(u64::MAX);
    let retry_ms = (waited_ms / 2).clamp(RETRY_MS, PATIENT_RETRY_MS);
    let jitter = rand::rng().random_range(0..retry_ms / 2);
    EnrolAnswer::Pending { retry_ms: retry_ms + jitter }
}

fn unavailable(error: kube::Error) -> Refusal {
    tracing::warn!(error = &error as &dyn std::error::Error, "failed to file an enrolment request");
    Refusal::not_now("the API server cannot be reached; ask again")
}

fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// What an EnrollmentToken is called: labels, joined by dots.
fn is_token_name(text: &str) -> bool {
    text.len() <= 63 && text.split('.').all(is_name)
}

/// A DNS label: what namespaces and devices are called.
fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_somebody_waits_the_less_often_it_looks_but_within_seconds() {
        let pause = |waited| match pending(waited) {
            EnrolAnswer::Pending { retry_ms } => retry_ms,
            other => panic!("{other:?}"),
        };
        // Our clock may be behind the API server's, or ahead of it.
        for new in [SignedDuration::ZERO, SignedDuration::from_secs(-30), SignedDuration::MIN] {
            assert!((700..1_050).contains(&pause(new)));
        }
        assert!((2_000..3_000).contains(&pause(SignedDuration::from_secs(4))));
        for old in [SignedDuration::from_secs(30), SignedDuration::MAX] {
            assert!((3_000..4_500).contains(&pause(old)));
        }
    }
}
