//! Certificate signing requests, of which nothing is taken but the key.

use rcgen::PublicKeyData;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256,
};
use x509_parser::prelude::FromDer;

use crate::bytes::{from_base64, sha256_hex};

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
