//! What is signed between the controller and devices, and the certificates behind it.
//!
//! Payloads are signed and verified as exact bytes: whoever verifies reads the very text that was
//! signed. Every kind of payload has its own prefix, so a signature over one is worth nothing for
//! another. This crate does no I/O, reads no clock, and knows neither the API types nor an async
//! runtime; the time is always an argument.

mod bytes;
mod certificate;
mod claim;
mod envelope;
#[cfg(fuzzing)]
pub mod fuzz;
mod health;
mod issued;
#[cfg(feature = "issuer")]
mod issuer;
mod key;
mod payload;
mod roots;
#[cfg(feature = "tls")]
pub mod tls;
mod token;
mod verify;

pub use bytes::PayloadError;
pub use certificate::{
    CertificateError, DeviceIdentity, EXPIRED_GRACE, certificate_expiry, parse_device_certificate,
    verify_device_certificate,
};
pub use claim::{ClaimError, verify_claim, verify_renewal};
pub use envelope::{Sealed, Signed, SignedClaim};
pub use health::*;
pub use issued::{IssuedError, Trust, accept_issued};
#[cfg(feature = "issuer")]
pub use issuer::{
    Authority, CertificateRequest, IssueError, JOB_SIGNER_LIFE, JobSigner, RequestError,
    ServingCertificate,
};
pub use key::{DeviceKey, KeyError};
pub use payload::*;
pub use roots::{Fingerprint, Roots, RootsError};
pub use token::{Token, TokenError};
pub use verify::{JobError, OutcomeError, Recipient, verify_job, verify_outcome};
