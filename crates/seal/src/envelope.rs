//! Signed bytes on their way: verbatim text, signature and the certificate behind it.

use serde::{Deserialize, Serialize};

/// Exact bytes sealed by the controller, passed through by the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sealed {
    /// JSON text of a [`crate::JobPayload`].
    pub payload: String,
    /// Signature, base64.
    pub signature: String,
    /// SHA-256 of the signer's public key, hex. For people and logs; nothing is decided by it.
    pub key_id: String,
    /// The signer's certificate (DER, base64).
    pub certificate: String,
}

/// Exact bytes signed by the device, passed through by the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Signed {
    /// JSON text of an [`crate::OutcomePayload`].
    pub payload: String,
    /// Signature, base64.
    pub signature: String,
    /// The device's certificate (DER, base64).
    pub certificate: String,
}

/// A claim with its proof: the body of an enrolment or renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedClaim {
    /// JSON text of an [`crate::EnrolmentClaim`].
    pub claim: String,
    /// Signature over it, base64: by the token's seed, or by the current key.
    pub proof: String,
    /// The current certificate (DER, base64); renewal only.
    pub certificate: Option<String>,
}
