//! The enrolment token: what an operator hands to a device so that it may ask for a certificate.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::bytes::{Domain, to_base64, write_payload};
use crate::certificate::is_label;
use crate::envelope::SignedClaim;
use crate::payload::EnrolmentClaim;
use crate::roots::Fingerprint;

/// A token: `<namespace>/<name>.<seed>.<fingerprint of the root>`. The seed is an Ed25519 seed
/// whose public half stands in the EnrollmentToken object; the fingerprint tells the agent which
/// root to trust before it knows anything else.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    namespace: String,
    name: String,
    seed: [u8; 32],
    root: Fingerprint,
}

/// Why a token cannot be used. No variant repeats any of its text: it is a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Wrong number of parts.
    #[error("a token has the form <namespace>/<name>.<seed>.<fingerprint>; copy it whole")]
    Shape,
    /// Namespace or name is not one.
    #[error("the token does not begin with a namespace and the name of an EnrollmentToken")]
    Name,
    /// The seed is not 32 bytes of base64url.
    #[error("the token's seed is damaged; copy the token again")]
    Seed,
    /// The fingerprint is not one.
    #[error("the token's root fingerprint is damaged; copy the token again")]
    Root,
    /// No randomness.
    #[error("the operating system gave no random bytes for a new token")]
    Random,
}

impl Token {
    /// Makes a new token for the EnrollmentToken `namespace/name`.
    pub fn generate(namespace: &str, name: &str, root: Fingerprint) -> Result<Self, TokenError> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| TokenError::Random)?;
        Self::new(namespace, name, seed, root)
    }

    /// Reads a token from its text.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        // From the right, since the name of an object may hold dots.
        let mut parts = text.trim().rsplitn(3, '.');
        let (Some(root), Some(seed), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Shape);
        };
        let (namespace, name) = path.split_once('/').ok_or(TokenError::Shape)?;
        let seed = URL_SAFE_NO_PAD
            .decode(seed)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(TokenError::Seed)?;
        Self::new(namespace, name, seed, root.parse().map_err(|_| TokenError::Root)?)
    }

    fn new(
        namespace: &str,
        name: &str,
        seed: [u8; 32],
        root: Fingerprint,
    ) -> Result<Self, TokenError> {
        let is_name = name.len() <= 63 && name.split('.').all(is_label);
        if !is_label(namespace) || !is_name {
            return Err(TokenError::Name);
        }
        Ok(Self { namespace: namespace.into(), name: name.into(), seed, root })
    }

    /// The whole text, secret included: for the one line that is handed to a device.
    pub fn reveal(&self) -> String {
        let seed = URL_SAFE_NO_PAD.encode(self.seed);
        format!("{}/{}.{seed}.{}", self.namespace, self.name, self.root)
    }

    /// Namespace of the EnrollmentToken.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Name of the EnrollmentToken.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The root to trust at first contact.
    pub fn root(&self) -> Fingerprint {
        self.root
    }

    /// Public half of the seed, base64: `spec.publicKey` of the EnrollmentToken.
    pub fn public_key(&self) -> String {
        to_base64(self.key_pair().public_key().as_ref())
    }

    /// Signs a claim with the seed.
    pub fn sign_claim(&self, claim: &EnrolmentClaim) -> SignedClaim {
        let text = write_payload(claim);
        let proof = self.key_pair().sign(&Domain::Claim.message(&text));
        SignedClaim { claim: text, proof: to_base64(proof.as_ref()), certificate: None }
    }

    fn key_pair(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&self.seed)
            .expect("any 32 bytes are an Ed25519 seed, and the seed has 32")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}/{}, seed hidden, root {})", self.namespace, self.name, self.root)
    }
}
