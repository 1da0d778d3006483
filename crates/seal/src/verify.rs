//! Jobs and outcomes, verified: the only ways to get a payload out of its envelope.

use jiff::{SignedDuration, Timestamp};

use crate::bytes::{Domain, PayloadError, from_base64, read_payload};
use crate::certificate::{CertificateError, EXPIRED_GRACE, Leaf, Purpose};
use crate::envelope::{Sealed, Signed};
use crate::payload::{JobKey, JobPayload, OutcomePayload};
use crate::roots::Roots;

/// Whom a sealed job must be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient<'a> {
    /// Namespace of the device.
    pub namespace: &'a str,
    /// Enrolment id of the device.
    pub enrolment_id: &'a str,
}

/// Why a sealed job is not acted on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// The signer's certificate.
    #[error("failed to verify the certificate of the job's signer")]
    Certificate(#[source] CertificateError),
    /// The signature.
    #[error("the job was altered, or was not sealed by the controller")]
    Signature,
    /// The payload.
    #[error("failed to read the job")]
    Payload(#[source] PayloadError),
    /// Somebody else's job.
    #[error("the job was sealed for another device")]
    OtherDevice,
}

/// Verifies a sealed job for `recipient` and reads it.
///
/// Whether the job is still current (its sequence, its key, `startBy`) is for the caller to judge:
/// that needs the caller's memory.
pub fn verify_job(
    sealed: &Sealed,
    roots: &Roots,
    recipient: Recipient<'_>,
    now: Timestamp,
) -> Result<JobPayload, JobError> {
    let signer = from_base64(&sealed.certificate)
        .ok_or(CertificateError::Unreadable)
        .and_then(|der| Leaf::verify(&der, roots, Purpose::JobSigner, now, SignedDuration::ZERO))
        .map_err(JobError::Certificate)?;
    if !signer.is_job_signer() {
        return Err(JobError::Certificate(CertificateError::WrongNames));
    }
    if !signer.has_signed(Domain::Job, &sealed.payload, &sealed.signature) {
        return Err(JobError::Signature);
    }
    let job: JobPayload = read_payload(&sealed.payload).map_err(JobError::Payload)?;
    let is_for_us =
        job.namespace == recipient.namespace && job.key.device_id == recipient.enrolment_id;
    if is_for_us { Ok(job) } else { Err(JobError::OtherDevice) }
}

/// Why an outcome is not counted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutcomeError {
    /// The device's certificate.
    #[error("failed to verify the device certificate behind the outcome")]
    Certificate(#[source] CertificateError),
    /// The certificate is another device's, or an earlier enrolment's.
    #[error("the outcome was signed by another enrolment than the one the job was granted to")]
    OtherDevice,
    /// The signature.
    #[error("the outcome was altered, or was not signed by the device")]
    Signature,
    /// The payload.
    #[error("failed to read the outcome")]
    Payload(#[source] PayloadError),
    /// An answer to another grant.
    #[error("the outcome answers another rollout, attempt or action")]
    OtherGrant,
}

/// Verifies that the device enrolled as `granted.device_id` in `namespace` gave this outcome for
/// exactly the grant `granted`, and reads it.
///
/// A certificate that expired less than [`EXPIRED_GRACE`] ago still counts: the outcome may have
/// waited in the device or in its job for longer than the certificate lived, and whoever holds the
/// key could renew with it anyway.
pub fn verify_outcome(
    signed: &Signed,
    roots: &Roots,
    namespace: &str,
    granted: &JobKey,
    now: Timestamp,
) -> Result<OutcomePayload, OutcomeError> {
    let leaf = from_base64(&signed.certificate)
        .ok_or(CertificateError::Unreadable)
        .and_then(|der| Leaf::verify(&der, roots, Purpose::Device, now, EXPIRED_GRACE))
        .map_err(OutcomeError::Certificate)?;
    let device = leaf.device().map_err(OutcomeError::Certificate)?;
    if device.namespace != namespace || device.enrolment_id != granted.device_id {
        return Err(OutcomeError::OtherDevice);
    }
    if !leaf.has_signed(Domain::Outcome, &signed.payload, &signed.signature) {
        return Err(OutcomeError::Signature);
    }
    let outcome: OutcomePayload = read_payload(&signed.payload).map_err(OutcomeError::Payload)?;
    let answers_grant = outcome.namespace == namespace && outcome.key == *granted;
    if answers_grant { Ok(outcome) } else { Err(OutcomeError::OtherGrant) }
}
