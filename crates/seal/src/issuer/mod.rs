//! The issuing side: the certificate authority, and the key that seals jobs. The controller alone.

mod authority;
mod job_signer;
mod request;
mod serving;

use jiff::{SignedDuration, Timestamp};
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType, SerialNumber,
    date_time_ymd,
};
use ring::rand::{SecureRandom, SystemRandom};
use x509_parser::prelude::X509Certificate;

use crate::key::{KeyError, common_name};

pub use authority::Authority;
pub use job_signer::{JOB_SIGNER_LIFE, JobSigner};
pub use request::{CertificateRequest, RequestError};
pub use serving::ServingCertificate;

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

/// Whether more than a third of a certificate's life is left: enough time to notice that renewing
/// does not work.
fn is_fresh(certificate: &X509Certificate<'_>, now: Timestamp) -> bool {
    let begin = certificate.validity().not_before.timestamp();
    let end = certificate.validity().not_after.timestamp();
    begin <= now.as_second() && (end - now.as_second()) * 3 > end - begin
}
