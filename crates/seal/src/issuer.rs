//! The issuing side: the certificate authority, and the key that seals jobs. The controller alone.

use std::fmt;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, date_time_ymd,
};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256,
};
use x509_parser::prelude::FromDer;

use crate::bytes::{Domain, from_base64, sha256_hex, to_base64, write_payload};
use crate::certificate::{DEVICE_URI, JOB_SIGNER_URI, ROOT_URI, is_enrolment_id, is_label};
use crate::envelope::Sealed;
use crate::key::{KeyError, common_name, generate_p256, read_p256, sign};
use crate::payload::JobPayload;
use crate::roots::{Roots, to_pem};

/// Life of a root certificate. Roots are replaced by a person, with an overlap, so long before.
const ROOT_LIFE: SignedDuration = SignedDuration::from_hours(20 * 365 * 24);
/// Life of a job-signing certificate; a new one is made when a third of it is left.
pub const JOB_SIGNER_LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Certificates begin a little in the past, so that a device whose clock is somewhat behind can
/// use its certificate at once.
const BACKDATED: SignedDuration = SignedDuration::from_hours(1);

/// Why the authority cannot issue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The root's certificate.
    #[error("the root certificate cannot be read")]
    RootCertificate,
    /// The root's key.
    #[error("the root's private key cannot be used")]
    RootKey(#[source] KeyError),
    /// Certificate and key are not a pair.
    #[error("the certificate and the private key do not belong together")]
    Mismatch,
    /// A name that cannot stand in a certificate.
    #[error("the name {name:?} cannot stand in a certificate")]
    Name {
        /// The name.
        name: String,
    },
    /// A key for the new certificate.
    #[error("failed to make or read the key of a certificate")]
    Key(#[source] KeyError),
    /// No randomness.
    #[error("the operating system gave no random bytes for a serial number")]
    Random,
    /// The certificate could not be made.
    #[error("failed to make the certificate")]
    Certificate,
}

/// Why a certificate signing request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not base64 of a PKCS#10 request.
    #[error("the certificate signing request cannot be read")]
    Unreadable,
    /// Not P-256.
    #[error("the certificate signing request must be for an ECDSA P-256 key, signed with SHA-256")]
    Algorithm,
    /// Not signed by its own key.
    #[error("the certificate signing request is not signed by its own key")]
    Signature,
}

/// A certificate signing request whose key signed it. Nothing but the key is taken from it: names
/// and purposes are the signer's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    point: Vec<u8>,
}

impl CertificateRequest {
    /// Reads and verifies a request (DER, base64).
    pub fn parse(text: &str) -> Result<Self, RequestError> {
        let der = from_base64(text).ok_or(RequestError::Unreadable)?;
        let (rest, request) =
            X509CertificationRequest::from_der(&der).map_err(|_| RequestError::Unreadable)?;
        if !rest.is_empty() {
            return Err(RequestError::Unreadable);
        }
        let info = &request.certification_request_info;
        let key_algorithm = &info.subject_pki.algorithm;
        let curve = key_algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
        let is_p256 = key_algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
            && curve.is_some_and(|oid| oid == OID_EC_P256)
            && request.signature_algorithm.algorithm == OID_SIG_ECDSA_WITH_SHA256;
        if !is_p256 {
            return Err(RequestError::Algorithm);
        }
        let point = info.subject_pki.subject_public_key.data.to_vec();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &point)
            .verify(info.raw, &request.signature_value.data)
            .map_err(|_| RequestError::Signature)?;
        Ok(Self { point })
    }

    /// SHA-256 of the public key, hex.
    pub fn key_id(&self) -> String {
        sha256_hex(&self.point)
    }
}

impl PublicKeyData for CertificateRequest {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// The certificate authority: a root with its key, and possibly a second root that is trusted too.
pub struct Authority {
    roots: Roots,
    issuer: Issuer<'static, KeyPair>,
    key_pem: String,
}

/// A server's certificate chain and key, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct ServingCertificate {
    /// Leaf, then root.
    pub chain_pem: String,
    /// PKCS#8 key: a secret.
    pub key_pem: String,
    /// End of validity.
    pub not_after: Timestamp,
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

    /// The enrolment id for the request with this uid. It is a function of the uid, so that a
    /// signer that crashed half-way gives the same answer again; and keyed, so that it cannot be
    /// foreseen by who can choose nothing but see uids.
    pub fn enrolment_id(&self, request_uid: &str) -> String {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, self.issuer.key().serialized_der());
        let message = format!("wardring enrolment id v1\0{request_uid}");
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

    /// Issues a certificate, with a new key, for a server that answers to `hosts` (DNS names and IP
    /// addresses).
    pub fn issue_serving(
        &self,
        hosts: &[String],
        now: Timestamp,
        life: SignedDuration,
    ) -> Result<ServingCertificate, IssueError> {
        let name = hosts.first().map_or("wardring", |host| host.as_str());
        // A common name has at most 64 characters; servers are known by their alternative names.
        let mut params = base_params(name.get(..64).unwrap_or(name), now, life)?;
        params.subject_alt_names = hosts
            .iter()
            .map(|host| match host.parse::<IpAddr>() {
                Ok(address) => Ok(SanType::IpAddress(address)),
                Err(_) => ia5(host.clone()).map(SanType::DnsName),
            })
            .collect::<Result<_, _>>()?;
        leaf_usage(&mut params, ExtendedKeyUsagePurpose::ServerAuth);
        let key = generate_p256().map_err(IssueError::Key)?;
        let leaf = self.sign(&params, &key)?;
        Ok(ServingCertificate {
            chain_pem: to_pem("CERTIFICATE", &leaf) + &self.certificate_pem(),
            key_pem: key.serialize_pem(),
            not_after: now + life,
        })
    }

    /// Makes a key that seals jobs, and certifies it.
    pub fn issue_job_signer(&self, now: Timestamp) -> Result<JobSigner, IssueError> {
        let mut params = base_params("Wardring jobs", now, JOB_SIGNER_LIFE)?;
        params.subject_alt_names = vec![uri(JOB_SIGNER_URI.to_owned())?];
        leaf_usage(&mut params, ExtendedKeyUsagePurpose::CodeSigning);
        let key = generate_p256().map_err(IssueError::Key)?;
        let certificate = self.sign(&params, &key)?;
        Ok(JobSigner { key, certificate })
    }

    fn sign(
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

impl fmt::Debug for ServingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServingCertificate")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// The key that seals jobs, with its certificate.
pub struct JobSigner {
    key: KeyPair,
    certificate: Vec<u8>,
}

impl JobSigner {
    /// Reads key and certificate from PEM.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, IssueError> {
        let key = read_p256(key).map_err(IssueError::Key)?;
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| IssueError::Certificate)?
            .to_vec();
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|_| IssueError::Certificate)?;
        if parsed.public_key().subject_public_key.data != key.public_key_raw() {
            return Err(IssueError::Mismatch);
        }
        Ok(Self { key, certificate })
    }

    /// The certificate, PEM.
    pub fn certificate_pem(&self) -> String {
        to_pem("CERTIFICATE", &self.certificate)
    }

    /// The key as PKCS#8 PEM: a secret.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Seals a job: the device it names, and no other, will act on it.
    pub fn seal(&self, job: &JobPayload) -> Result<Sealed, KeyError> {
        let payload = write_payload(job);
        let signature = sign(&self.key, Domain::Job, &payload)?;
        Ok(Sealed {
            payload,
            signature,
            key_id: sha256_hex(self.key.public_key_raw()),
            certificate: to_base64(&self.certificate),
        })
    }
}

impl fmt::Debug for JobSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobSigner({})", sha256_hex(self.key.public_key_raw()))
    }
}

fn base_params(
    name: &str,
    now: Timestamp,
    life: SignedDuration,
) -> Result<CertificateParams, IssueError> {
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| IssueError::Random)?;
    // Serial numbers are positive and their first byte is not zero.
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = common_name(name);
    params.use_authority_key_identifier_extension = true;
    let epoch = date_time_ymd(1970, 1, 1);
    let since_epoch = |at: Timestamp| {
        let seconds = u64::try_from(at.as_second()).map_err(|_| IssueError::Certificate)?;
        Ok(std::time::Duration::from_secs(seconds))
    };
    params.not_before = epoch + since_epoch(now - BACKDATED)?;
    params.not_after = epoch + since_epoch(now + life)?;
    Ok(params)
}

fn leaf_usage(params: &mut CertificateParams, purpose: ExtendedKeyUsagePurpose) {
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
}

fn uri(text: String) -> Result<SanType, IssueError> {
    ia5(text).map(SanType::URI)
}

fn ia5(text: String) -> Result<Ia5String, IssueError> {
    Ia5String::try_from(text.clone()).map_err(|_| IssueError::Name { name: text })
}
