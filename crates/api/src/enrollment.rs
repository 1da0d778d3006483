//! EnrollmentToken and EnrollmentRequest: how a device gets its certificate.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::DeviceMode;

/// Admits devices. Holds only the public half of the seed that the operator hands out.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "wardring.dev",
    version = "v1alpha1",
    kind = "EnrollmentToken",
    plural = "enrollmenttokens",
    shortname = "etoken",
    category = "wardring",
    namespaced,
    status = "EnrollmentTokenStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct EnrollmentTokenSpec {
    /// Public key of the seed (Ed25519, 32 bytes, base64).
    #[schemars(length(min = 44, max = 44), regex(pattern = r"^[A-Za-z0-9+/]{43}=$"))]
    pub public_key: String,
    /// No enrolment after this instant.
    pub expires_at: Timestamp,
    /// Devices it may admit.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_uses: u32,
    /// Labels put on a device that is created by this token.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16), inner(length(max = 63)))]
    pub labels: BTreeMap<String, String>,
    /// Mode of a device that is created by this token. Default Observe.
    #[serde(default)]
    pub mode: DeviceMode,
    /// Whether it may give a device that exists, and is enrolled, a new key.
    #[serde(default)]
    pub may_replace: bool,
}

/// Uses so far; counted by the signer alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnrollmentTokenStatus {
    /// Certificates issued.
    #[serde(default)]
    pub uses: u32,
    /// Names of the requests counted last, at most 64: counting is idempotent per request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub counted: Vec<String>,
}

/// A device's wish for a certificate, filed by a gateway, answered by the controller's signer.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "wardring.dev",
    version = "v1alpha1",
    kind = "EnrollmentRequest",
    plural = "enrollmentrequests",
    shortname = "ereq",
    category = "wardring",
    namespaced,
    status = "EnrollmentRequestStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct EnrollmentRequestSpec {
    /// First certificate or next one.
    pub kind: EnrollmentKind,
    /// The claim, verbatim JSON text (`wardring_seal::EnrolmentClaim`).
    #[schemars(length(max = 8192))]
    pub claim: String,
    /// Signature over the claim: by the token's seed (Enroll) or by the current key (Renew), base64.
    #[schemars(length(max = 256))]
    pub proof: String,
    /// The current certificate (DER, base64); Renew only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub certificate: Option<String>,
    /// Token used; Enroll only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub token: Option<String>,
    /// Name the device asks for; for people, the claim decides.
    #[schemars(length(max = 63))]
    pub device: String,
}

/// First certificate or next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EnrollmentKind {
    /// By token.
    Enroll,
    /// By the current key.
    Renew,
}

/// The signer's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnrollmentRequestStatus {
    /// The certificate (DER, base64).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub certificate: Option<String>,
    /// Root certificates to trust from now on (DER, base64), at most 2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), inner(length(max = 4096)))]
    pub roots: Vec<String>,
    /// Why there is no certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
    /// When the signer answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_at: Option<Timestamp>,
}

/// Why the signer refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// Reason word.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// The sentence.
    #[schemars(length(max = 512))]
    pub message: String,
}
