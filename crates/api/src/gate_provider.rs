//! GateProvider: where gates may connect to, and who may use it. An administrator's object: whoever
//! writes rollouts names a provider and never an address.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Span;

/// A server that gates are measured at, such as a Prometheus. Of the whole cluster; only the controller
/// connects to it, with nothing but what stands here.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "wardring.dev",
    version = "v1alpha1",
    kind = "GateProvider",
    plural = "gateproviders",
    shortname = "gprovider",
    category = "wardring",
    status = "GateProviderStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct GateProviderSpec {
    /// What it speaks. Gates of this type may name it.
    #[serde(rename = "type")]
    pub kind: GateProviderType,
    /// Where it is: `https://HOST[:PORT][/PATH]`, without user, query and fragment. No redirection is
    /// followed, no proxy used.
    #[schemars(length(min = 9, max = 512))]
    pub url: String,
    /// Certificates (PEM) of the authorities that its own certificate may come from. Without it, the
    /// public ones that the controller's system knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32768))]
    pub ca_bundle: Option<String>,
    /// How the controller proves who it is. Without it, it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<ProviderAuth>,
    /// Networks such as `10.20.0.0/16` that the host may be in beside public addresses: loopback,
    /// private, link-local and other special addresses are refused unless they are listed. At least /8
    /// for IPv4 and /16 for IPv6. Metadata services of clouds are refused always.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 3, max = 49)))]
    pub allowed_networks: Vec<String>,
    /// Takes an address that begins with `http://`, too, inside of `allowedNetworks` alone. Everybody
    /// on the way can then answer in the provider's place.
    #[serde(default)]
    pub allow_http: bool,
    /// Namespaces whose rollouts may use it; `*` for every one.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63)))]
    pub namespaces: Vec<String>,
    /// Longest time for one answer. Default 10s, at most 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Largest answer that is read, in bytes. Default 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 1_048_576))]
    pub max_answer_bytes: Option<u32>,
    /// Measurements at the same time; others wait their turn and delay nobody else's. Default 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub max_concurrency: Option<u32>,
}

/// What a provider speaks.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum GateProviderType {
    /// The HTTP API of Prometheus, or of what answers like it.
    Prometheus,
    /// The API v2 of Alertmanager.
    Alertmanager,
    /// A service that is told of a stage once and then asked for its verdict.
    Webhook,
    /// A service that counts tickets.
    Tickets,
}

/// How the controller proves who it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderAuth {
    /// Which way, and so which keys the Secret has: `token` for Bearer, `username` and `password` for
    /// Basic, `tls.crt` and `tls.key` for ClientCertificate.
    #[serde(rename = "type")]
    pub kind: ProviderAuthType,
    /// The Secret in the controller's own namespace. The chart's `controller.gateSecrets` must name it,
    /// or the controller may not read it.
    #[schemars(length(min = 1, max = 253))]
    pub secret: String,
}

/// A way to prove who one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProviderAuthType {
    /// `Authorization: Bearer`.
    Bearer,
    /// `Authorization: Basic`.
    Basic,
    /// A certificate in the TLS handshake.
    ClientCertificate,
}

/// What the controller says of a provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateProviderStatus {
    /// Generation this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: address, certificates and credentials can be used. Whether the server answers stands in
    /// the gates that ask it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
}
