//! The certificate authority.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{CertificateRequest, IssueError, base_params, leaf_usage, uri};
use crate::bytes::sha256_hex;
use crate::certificate::{DEVICE_URI, ROOT_URI, is_enrolment_id, is_label};
use crate::key::{generate_p256, read_p256};
use crate::roots::{Roots, to_pem};

/// Life of a root certificate. Roots are replaced by a person, with an overlap, so long before.
const ROOT_LIFE: SignedDuration = SignedDuration::from_hours(20 * 365 * 24);
/// The certificate authority: a root with its key, and possibly a second root that is trusted too.
pub struct Authority {
    roots: Roots,
    issuer: Issuer<'static, KeyPair>,
    key_pem: String,
}

impl Authority {
    /// Makes a new root.
    pub fn create(now: Timestamp) -> Result<Self, IssueError> {
        let key = generate_p256().map_err(IssueError::RootKey)?;
        // The name holds a part of the key's hash: two roots that overlap are told apart by it.
        let key_id = sha256_hex(key.public_key_raw());
        let mut params = base_params(&format!("Wardring root {}", &key_id[..8]), now, ROOT_LIFE)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(|_| IssueError::Certificate)?;
        Self::load(certificate.der().to_vec(), key, None)
    }

    /// Reads a root and its key from PEM; `second` is another root certificate (PEM) that is
    /// trusted beside it: the previous one, or the next.
    pub fn from_pem(
        certificate: &str,
        key: &str,
        second: Option<&str>,
    ) -> Result<Self, IssueError> {
        let read = |pem: &str| {
            CertificateDer::from_pem_slice(pem.as_bytes())
                .map(|der| der.to_vec())
                .map_err(|_| IssueError::RootCertificate)
        };
        let key = read_p256(key).map_err(IssueError::RootKey)?;
        Self::load(read(certificate)?, key, second.map(read).transpose()?)
    }

    fn load(root: Vec<u8>, key: KeyPair, second: Option<Vec<u8>>) -> Result<Self, IssueError> {
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&root).map_err(|_| IssueError::RootCertificate)?;
        if parsed.public_key().subject_public_key.data != key.public_key_raw() {
            return Err(IssueError::Mismatch);
        }
        let key_pem = key.serialize_pem();
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(root.as_slice()), key)
            .map_err(|_| IssueError::RootCertificate)?;
        let roots = Roots::from_der(std::iter::once(root).chain(second).collect())
            .map_err(|_| IssueError::RootCertificate)?;
        Ok(Self { roots, issuer, key_pem })
    }

    /// The trusted roots, the issuing one first.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The issuing root, PEM.
    pub fn certificate_pem(&self) -> String {
        to_pem("CERTIFICATE", &self.roots.certificates()[0])
    }

    /// The root's key as PKCS#8 PEM: the secret of secrets.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The enrolment id that the key of `request` gets as `device` in `namespace` by the token with
    /// this uid. It is a function of these, so that a signer that crashed half-way, or a device that
    /// never saw the answer and asks again, comes to the same id; and keyed, so that nobody can
    /// search for a given id. Another token makes another enrolment: the old certificates are dead.
    pub fn enrolment_id(
        &self,
        request: &CertificateRequest,
        namespace: &str,
        device: &str,
        token_uid: &str,
    ) -> String {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, self.issuer.key().serialized_der());
        let key_id = request.key_id();
        let message =
            format!("wardring enrolment id v1\0{namespace}/{device}/{key_id}/{token_uid}");
        hex::encode(&ring::hmac::sign(&key, message.as_bytes()).as_ref()[..8])
    }

    /// Issues a device certificate (DER).
    pub fn issue_device(
        &self,
        request: &CertificateRequest,
        namespace: &str,
        enrolment_id: &str,
        device: &str,
        now: Timestamp,
        life: SignedDuration,
    ) -> Result<Vec<u8>, IssueError> {
        let checks = [
            (is_label(namespace), namespace),
            (is_enrolment_id(enrolment_id), enrolment_id),
            (is_label(device), device),
        ];
        for (is_fine, name) in checks {
            if !is_fine {
                return Err(IssueError::Name { name: name.to_owned() });
            }
        }
        let mut params = base_params(device, now, life)?;
        params.subject_alt_names = vec![uri(format!("{DEVICE_URI}{namespace}/{enrolment_id}"))?];
        for root in self.roots.fingerprints() {
            params.subject_alt_names.push(uri(format!("{ROOT_URI}{root}"))?);
        }
        leaf_usage(&mut params, ExtendedKeyUsagePurpose::ClientAuth);
        self.sign(&params, request)
    }

    pub(super) fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<Vec<u8>, IssueError> {
        let certificate =
            params.signed_by(key, &self.issuer).map_err(|_| IssueError::Certificate)?;
        Ok(certificate.der().to_vec())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("roots", &self.roots).finish_non_exhaustive()
    }
}
