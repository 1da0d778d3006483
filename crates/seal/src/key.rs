//! The device's own key: made on the device, never leaving it.

use std::fmt;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey,
};
use rustls_pki_types::PrivatePkcs8KeyDer;

use crate::bytes::{Domain, sha256_hex, to_base64, write_payload};
use crate::envelope::{Signed, SignedClaim};
use crate::payload::{EnrolmentClaim, OutcomePayload};

/// An ECDSA P-256 key of a device.
pub struct DeviceKey(KeyPair);

/// Why a key cannot be made, read or used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No randomness.
    #[error("failed to make a new key: the operating system gave no random bytes")]
    Generate,
    /// Not a P-256 key in PKCS#8 PEM.
    #[error("the stored key is not an ECDSA P-256 key in PKCS#8 PEM")]
    Unreadable,
    /// The name cannot stand in a signing request, or the key did not sign.
    #[error("failed to make a certificate signing request")]
    Request,
    /// The key did not sign.
    #[error("failed to sign with the key")]
    Sign,
}

impl DeviceKey {
    /// Makes a new key.
    pub fn generate() -> Result<Self, KeyError> {
        generate_p256().map(Self)
    }

    /// Reads a key from PKCS#8 PEM.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        read_p256(pem).map(Self)
    }

    /// The key as PKCS#8 PEM: a secret.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The key for a TLS configuration.
    pub fn to_pkcs8(&self) -> PrivatePkcs8KeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der())
    }

    /// SHA-256 of the public key, hex.
    pub fn key_id(&self) -> String {
        sha256_hex(self.0.public_key_raw())
    }

    /// A certificate signing request (DER, base64) for `device`.
    pub fn csr(&self, device: &str) -> Result<String, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(device);
        let request = params.serialize_request(&self.0).map_err(|_| KeyError::Request)?;
        Ok(to_base64(request.der()))
    }

    /// Signs an outcome. `certificate` (DER) is the device's current one and travels along.
    pub fn sign_outcome(
        &self,
        outcome: &OutcomePayload,
        certificate: &[u8],
    ) -> Result<Signed, KeyError> {
        let payload = write_payload(outcome);
        let signature = sign(&self.0, Domain::Outcome, &payload)?;
        Ok(Signed { payload, signature, certificate: to_base64(certificate) })
    }

    /// Signs the claim of a renewal with this, the current key. The claim's signing request is for
    /// the next key, which may be the same.
    pub fn sign_renewal(
        &self,
        claim: &EnrolmentClaim,
        certificate: &[u8],
    ) -> Result<SignedClaim, KeyError> {
        let text = write_payload(claim);
        let proof = sign(&self.0, Domain::Renewal, &text)?;
        Ok(SignedClaim { claim: text, proof, certificate: Some(to_base64(certificate)) })
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceKey({})", self.key_id())
    }
}

pub(crate) fn generate_p256() -> Result<KeyPair, KeyError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|_| KeyError::Generate)
}

pub(crate) fn read_p256(pem: &str) -> Result<KeyPair, KeyError> {
    KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256)
        .map_err(|_| KeyError::Unreadable)
}

pub(crate) fn sign(key: &KeyPair, domain: Domain, payload: &str) -> Result<String, KeyError> {
    let signature = key.sign(&domain.message(payload)).map_err(|_| KeyError::Sign)?;
    Ok(to_base64(&signature))
}

pub(crate) fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::CommonName, name);
    distinguished_name
}
