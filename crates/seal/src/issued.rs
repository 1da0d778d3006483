//! What a device checks before it takes a certificate, and roots, from a gateway's answer.

use jiff::{SignedDuration, Timestamp};

use crate::bytes::from_base64;
use crate::certificate::{CertificateError, DeviceIdentity, verify_device_certificate};
use crate::key::DeviceKey;
use crate::roots::{Fingerprint, Roots, RootsError};

/// What a device trusts while it asks for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// First enrolment: the root that the token names.
    Pinned(Fingerprint),
    /// Renewal: the roots it has.
    Roots(Roots),
}

/// Why the answer to an enrolment or renewal is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuedError {
    /// The roots that came along.
    #[error("failed to read the roots of the answer")]
    Roots(#[source] RootsError),
    /// None of them is trusted.
    #[error("the answer does not contain the root that the token names")]
    RootMissing,
    /// The certificate.
    #[error("failed to verify the new certificate")]
    Certificate(#[source] CertificateError),
    /// For somebody else.
    #[error("the new certificate is for another key, namespace or enrolment")]
    OtherDevice,
}

/// Verifies an issued certificate (base64 of DER) for `key` and decides which roots to trust from
/// now on.
///
/// The gateway is trusted with nothing, so it may not introduce a root: of the offered roots, only
/// those are taken that the certificate itself names, and the certificate must stand under a root
/// that was trusted before. `enrolment_id` is the current one at a renewal.
pub fn accept_issued(
    certificate: &str,
    offered_roots: &[String],
    key: &DeviceKey,
    trust: &Trust,
    namespace: &str,
    enrolment_id: Option<&str>,
    now: Timestamp,
) -> Result<(DeviceIdentity, Roots), IssuedError> {
    let offered = Roots::from_base64(offered_roots).map_err(IssuedError::Roots)?;
    let trusted = match trust {
        Trust::Roots(roots) => roots.clone(),
        Trust::Pinned(pin) => select(&offered, |root| root == *pin)?,
    };
    let identity = from_base64(certificate)
        .ok_or(CertificateError::Unreadable)
        .and_then(|der| verify_device_certificate(&der, &trusted, now, SignedDuration::ZERO))
        .map_err(IssuedError::Certificate)?;
    let is_ours = identity.key_id == key.key_id()
        && identity.namespace == namespace
        && enrolment_id.is_none_or(|id| id == identity.enrolment_id);
    if !is_ours {
        return Err(IssuedError::OtherDevice);
    }
    let roots = select(&offered, |root| identity.roots.contains(&root))?;
    Ok((identity, roots))
}

fn select(offered: &Roots, take: impl Fn(Fingerprint) -> bool) -> Result<Roots, IssuedError> {
    let taken: Vec<_> = offered
        .certificates()
        .iter()
        .filter(|root| take(Fingerprint::of(root)))
        .map(|root| root.to_vec())
        .collect();
    if taken.is_empty() {
        return Err(IssuedError::RootMissing);
    }
    Roots::from_der(taken).map_err(IssuedError::Roots)
}
