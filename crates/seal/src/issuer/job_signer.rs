//! The key that seals jobs.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use rcgen::{ExtendedKeyUsagePurpose, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{Authority, IssueError, base_params, is_fresh, leaf_usage, uri};
use crate::bytes::{Domain, sha256_hex, to_base64, write_payload};
use crate::certificate::{JOB_SIGNER_URI, Leaf, Purpose};
use crate::envelope::Sealed;
use crate::key::{KeyError, generate_p256, read_p256, sign};
use crate::payload::JobPayload;
use crate::roots::{Roots, to_pem};

/// Life of a job-signing certificate; a new one is made when a third of it is left.
pub const JOB_SIGNER_LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
/// The key that seals jobs, with its certificate.
pub struct JobSigner {
    key: KeyPair,
    certificate: Vec<u8>,
}

impl Authority {
    /// Makes a key that seals jobs, and certifies it.
    pub fn issue_job_signer(&self, now: Timestamp) -> Result<JobSigner, IssueError> {
        let mut params = base_params("Wardring jobs", now, JOB_SIGNER_LIFE)?;
        params.subject_alt_names = vec![uri(JOB_SIGNER_URI.to_owned())?];
        leaf_usage(&mut params, ExtendedKeyUsagePurpose::CodeSigning);
        let key = generate_p256().map_err(IssueError::Key)?;
        let certificate = self.sign(&params, &key)?;
        Ok(JobSigner { key, certificate })
    }

    /// Whether a job signer may stay: certified by the issuing root, and with more than a third of
    /// its life left.
    pub fn keeps_job_signer(&self, signer: &JobSigner, now: Timestamp) -> bool {
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(&signer.certificate) else {
            return false;
        };
        let issuing = Roots::from_der(vec![self.roots().certificates()[0].to_vec()])
            .expect("the issuing root was read before as one of our roots");
        let purpose = Purpose::JobSigner;
        is_fresh(&parsed, now)
            && Leaf::verify(&signer.certificate, &issuing, purpose, now, SignedDuration::ZERO)
                .is_ok_and(|leaf| leaf.is_job_signer())
    }
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
