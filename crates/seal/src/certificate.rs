//! Certificates: whose they are, what for, and whether a root of ours stands behind them.

use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::ring::ECDSA_P256_SHA256;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::bytes::{Domain, from_base64, sha256_hex};
use crate::roots::{Fingerprint, Roots};

/// How long after its end a device's certificate still proves who signed a renewal or an outcome:
/// a laptop may come back from a year's leave. A connection is never accepted with it.
pub const EXPIRED_GRACE: SignedDuration = SignedDuration::from_hours(365 * 24);

pub(crate) const DEVICE_URI: &str = "wardring://device/";
pub(crate) const ROOT_URI: &str = "wardring://root/";
pub(crate) const JOB_SIGNER_URI: &str = "wardring://signer/jobs";

/// What a certificate may be used for. Purposes exclude each other by their extended key usage, so
/// that no certificate of ours passes for another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Device,
    JobSigner,
}

impl Purpose {
    /// Encoded object identifier of the extended key usage.
    fn key_usage(self) -> KeyUsage {
        match self {
            // id-kp-clientAuth and id-kp-codeSigning.
            Purpose::Device => KeyUsage::required(&[43, 6, 1, 5, 5, 7, 3, 2]),
            Purpose::JobSigner => KeyUsage::required(&[43, 6, 1, 5, 5, 7, 3, 3]),
        }
    }
}

/// Who a device certificate speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceIdentity {
    /// Namespace (tenant).
    pub namespace: String,
    /// Enrolment that speaks for the device.
    pub enrolment_id: String,
    /// Name of the device when the certificate was issued; for people.
    pub name: String,
    /// Begin of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// SHA-256 of the public key, hex.
    pub key_id: String,
    /// The roots that the device shall trust, by the word of the issuing root.
    pub roots: Vec<Fingerprint>,
}

/// Why a certificate is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not base64 or not a certificate.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// No trusted root behind it, or not for this purpose.
    #[error("the certificate is not one that a trusted root issued for this purpose")]
    Untrusted,
    /// Not yet valid.
    #[error("the certificate is valid only from {not_before}; check the clock")]
    NotYetValid {
        /// Begin of validity.
        not_before: Timestamp,
    },
    /// No longer valid.
    #[error("the certificate expired at {not_after}")]
    Expired {
        /// End of validity.
        not_after: Timestamp,
    },
    /// The names in it are not those of its purpose.
    #[error("the certificate does not carry the names of its purpose")]
    WrongNames,
}

/// Reads the identity from a device certificate (DER) **without** verifying it: only for a
/// certificate that TLS or [`verify_device_certificate`] has already accepted, or one's own.
pub fn parse_device_certificate(der: &[u8]) -> Result<DeviceIdentity, CertificateError> {
    Leaf::read(der)?.device()
}

/// Verifies a device certificate (DER) up to one of `roots` and reads its identity. An expired one
/// is accepted for [`EXPIRED_GRACE`] more if `grace` says so.
pub fn verify_device_certificate(
    der: &[u8],
    roots: &Roots,
    now: Timestamp,
    grace: SignedDuration,
) -> Result<DeviceIdentity, CertificateError> {
    Leaf::verify(der, roots, Purpose::Device, now, grace)?.device()
}

/// When a certificate (DER) ends, for people and dashboards: **nothing is verified**.
pub fn certificate_expiry(der: &[u8]) -> Result<Timestamp, CertificateError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| CertificateError::Unreadable)?;
    Timestamp::from_second(certificate.validity().not_after.timestamp())
        .map_err(|_| CertificateError::Unreadable)
}

/// A certificate, taken apart.
pub(crate) struct Leaf {
    der: CertificateDer<'static>,
    uris: Vec<String>,
    common_name: String,
    not_before: Timestamp,
    not_after: Timestamp,
    pub(crate) key_id: String,
}

impl Leaf {
    pub(crate) fn read(der: &[u8]) -> Result<Self, CertificateError> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| CertificateError::Unreadable)?;
        if !rest.is_empty() {
            return Err(CertificateError::Unreadable);
        }
        let alternative_name = certificate
            .subject_alternative_name()
            .map_err(|_| CertificateError::Unreadable)?
            .ok_or(CertificateError::WrongNames)?;
        let uris = alternative_name
            .value
            .general_names
            .iter()
            .map(|name| match name {
                GeneralName::URI(uri) => Ok((*uri).to_owned()),
                _ => Err(CertificateError::WrongNames),
            })
            .collect::<Result<_, _>>()?;
        let mut names = certificate.subject().iter_common_name();
        let (Some(name), None) = (names.next(), names.next()) else {
            return Err(CertificateError::WrongNames);
        };
        let time =
            |seconds| Timestamp::from_second(seconds).map_err(|_| CertificateError::Unreadable);
        Ok(Self {
            der: CertificateDer::from(der.to_vec()),
            uris,
            common_name: name.as_str().map_err(|_| CertificateError::WrongNames)?.to_owned(),
            not_before: time(certificate.validity().not_before.timestamp())?,
            not_after: time(certificate.validity().not_after.timestamp())?,
            key_id: sha256_hex(&certificate.public_key().subject_public_key.data),
        })
    }

    pub(crate) fn verify(
        der: &[u8],
        roots: &Roots,
        purpose: Purpose,
        now: Timestamp,
        grace: SignedDuration,
    ) -> Result<Self, CertificateError> {
        let leaf = Self::read(der)?;
        if now < leaf.not_before {
            return Err(CertificateError::NotYetValid { not_before: leaf.not_before });
        }
        if now.duration_since(leaf.not_after) > grace {
            return Err(CertificateError::Expired { not_after: leaf.not_after });
        }
        // Within the grace, the certificate is judged as of its last valid second.
        let seconds = now.min(leaf.not_after).as_second();
        let seconds = u64::try_from(seconds).map_err(|_| CertificateError::Unreadable)?;
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        leaf.end_entity()?
            .verify_for_usage(
                &[ECDSA_P256_SHA256],
                &roots.anchors(),
                // Roots issue leaves directly; there are no intermediates.
                &[],
                at,
                purpose.key_usage(),
                None,
                None,
            )
            .map_err(|_| CertificateError::Untrusted)?;
        Ok(leaf)
    }

    /// Whether `signature` (base64) by this certificate's key covers `payload` in `domain`.
    pub(crate) fn has_signed(&self, domain: Domain, payload: &str, signature: &str) -> bool {
        let Some(signature) = from_base64(signature) else { return false };
        self.end_entity().is_ok_and(|certificate| {
            certificate
                .verify_signature(ECDSA_P256_SHA256, &domain.message(payload), &signature)
                .is_ok()
        })
    }

    pub(crate) fn is_job_signer(&self) -> bool {
        self.uris == [JOB_SIGNER_URI]
    }

    pub(crate) fn device(&self) -> Result<DeviceIdentity, CertificateError> {
        let mut devices = self.uris.iter().filter_map(|uri| uri.strip_prefix(DEVICE_URI));
        let (Some(path), None) = (devices.next(), devices.next()) else {
            return Err(CertificateError::WrongNames);
        };
        let (namespace, enrolment_id) = path.split_once('/').ok_or(CertificateError::WrongNames)?;
        let roots = self
            .uris
            .iter()
            .filter_map(|uri| uri.strip_prefix(ROOT_URI))
            .map(|text| text.parse().map_err(|_| CertificateError::WrongNames))
            .collect::<Result<Vec<Fingerprint>, _>>()?;
        let all_known = self.uris.len() == roots.len() + 1;
        if !all_known || !is_label(namespace) || !is_enrolment_id(enrolment_id) {
            return Err(CertificateError::WrongNames);
        }
        Ok(DeviceIdentity {
            namespace: namespace.to_owned(),
            enrolment_id: enrolment_id.to_owned(),
            name: self.common_name.clone(),
            not_before: self.not_before,
            not_after: self.not_after,
            key_id: self.key_id.clone(),
            roots,
        })
    }

    fn end_entity(&self) -> Result<EndEntityCert<'_>, CertificateError> {
        EndEntityCert::try_from(&self.der).map_err(|_| CertificateError::Unreadable)
    }
}

/// A Kubernetes label of DNS: what namespaces and device names are.
pub(crate) fn is_label(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(is_inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

pub(crate) fn is_enrolment_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
}
