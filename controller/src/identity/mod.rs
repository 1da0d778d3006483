//! Who is who: the certificate authority, the enrolment signer, the sealing of jobs and the proof of
//! outcomes.
//!
//! The controller alone holds the keys used here. What leaves this module is certificates, sealed
//! jobs and verdicts; never a key, save the gateways' own serving key in its Secret. Nothing here
//! decides what a device may do.

mod ca;
mod decide;
mod publish;
mod quarantine;
mod signer;
mod told;
mod triage;
mod write;

use std::sync::{Arc, PoisonError, RwLock};

use jiff::{SignedDuration, Timestamp};
use wardring_seal::{
    Authority, IssueError, JobKey, JobPayload, JobSigner, KeyError, OutcomeError, OutcomePayload,
    Roots, Sealed, ServingCertificate, Signed,
};

pub use ca::{CaError, open};
pub use publish::{PublishError, keep_published};
pub use quarantine::announce_quarantines;
pub use signer::{SignerSettings, answer_requests};

/// Life of serving certificates; they are renewed when a third of it is left.
const SERVING_LIFE: SignedDuration = SignedDuration::from_hours(90 * 24);

/// The keys of this installation, ready for use; clones share them.
#[derive(Clone, Debug)]
pub struct Identity {
    keys: Arc<RwLock<Arc<Keys>>>,
}

#[derive(Debug)]
struct Keys {
    authority: Authority,
    jobs: JobSigner,
}

impl Identity {
    /// An identity from its keys.
    pub fn new(authority: Authority, jobs: JobSigner) -> Identity {
        Identity { keys: Arc::new(RwLock::new(Arc::new(Keys { authority, jobs }))) }
    }

    /// Seals a job for the one device that it names.
    pub fn seal(&self, job: &JobPayload) -> Result<Sealed, KeyError> {
        self.keys().jobs.seal(job)
    }

    /// Verifies that the device to which `granted` was granted signed this outcome for that grant.
    pub fn verify_outcome(
        &self,
        signed: &Signed,
        namespace: &str,
        granted: &JobKey,
        now: Timestamp,
    ) -> Result<OutcomePayload, OutcomeError> {
        wardring_seal::verify_outcome(signed, &self.roots(), namespace, granted, now)
    }

    /// The roots that are trusted now, the issuing one first.
    pub fn roots(&self) -> Roots {
        self.keys().authority.roots().clone()
    }

    /// A certificate, with a new key, for a server of this process that answers to `hosts`.
    pub fn serving_certificate(
        &self,
        hosts: &[String],
        now: Timestamp,
    ) -> Result<ServingCertificate, IssueError> {
        self.keys().authority.issue_serving(hosts, now, SERVING_LIFE)
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, keys: Keys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }
}
