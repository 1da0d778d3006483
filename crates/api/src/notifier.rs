//! Notifier: whom the controller tells what happens in a namespace, and what came of telling.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Tells sinks outside of the cluster what Wardring does to the namespace's devices. The controller's
/// leader connects, over HTTPS only, and only to addresses that the administrator allows.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "wardring.dev",
    version = "v1alpha1",
    kind = "Notifier",
    plural = "notifiers",
    shortname = "wnotifier",
    category = "wardring",
    namespaced,
    status = "NotifierStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct NotifierSpec {
    /// What is told. Without it, everything but `DeviceRebootExpected`, which is told of every restart, and
    /// `DeviceNeedsRecovery`, which somebody acts on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 40))]
    pub events: Vec<AlertKind>,
    /// Whom it is told to.
    #[schemars(length(min = 1, max = 8))]
    pub sinks: Vec<Sink>,
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// What a Notifier tells.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
        )]
        pub enum AlertKind { $($(#[doc = $doc])+ $name,)+ }

        impl AlertKind {
            /// Every kind.
            pub const ALL: &'static [AlertKind] = &[$(AlertKind::$name,)+];

            /// The word.
            pub fn as_str(self) -> &'static str {
                match self { $(AlertKind::$name => stringify!($name),)+ }
            }

            /// The kind with this word.
            pub fn parse(word: &str) -> Option<AlertKind> {
                AlertKind::ALL.iter().copied().find(|kind| kind.as_str() == word)
            }
        }
    };
}

kinds! {
    /// A device restarts; whatever finds it down until then may stay silent.
    DeviceRebootExpected,
    /// A device at work is out of contact, or its restart takes longer than its stage calls normal.
    DeviceOffline,
    /// A device fell silent, or did not return from its restart in time.
    DeviceDidNotReturn,
    /// A device restarts again and again.
    DeviceBootLoop,
    /// Windows took the update back at boot.
    DeviceReverted,
    /// A service does not run after the update, also after it was started again.
    DeviceServiceDown,
    /// A device failed otherwise.
    DeviceFailed,
    /// An update could not be taken back from a device.
    RollbackFailed,
    /// A device that is to be rolled back is out of reach: only somebody outside can restore it, such as
    /// its hypervisor.
    DeviceNeedsRecovery,
    /// Wardring itself hears no device: told once, in place of every device's silence.
    ContactLost,
    /// A stage opened.
    StageStarted,
    /// The system stopped a rollout in a stage.
    StageHalted,
    /// A gate keeps a stage from going on: it failed, or cannot be measured. Over when it passes.
    StageHeld,
    /// A stage is done.
    StageCompleted,
    /// A rollout is done.
    RolloutCompleted,
    /// Devices are being rolled back.
    RollbackStarted,
    /// The rollback has ended.
    RollbackFinished,
    /// An update was barred.
    HoldPlaced,
    /// A stage waits for a person's approval.
    ApprovalWanted,
    /// An EmergencyStop is in force that matches devices of the namespace. Over when it is lifted.
    EmergencyStop,
}

impl AlertKind {
    /// Whether each device has its own.
    pub fn is_of_devices(self) -> bool {
        matches!(
            self,
            AlertKind::DeviceRebootExpected
                | AlertKind::DeviceOffline
                | AlertKind::DeviceDidNotReturn
                | AlertKind::DeviceBootLoop
                | AlertKind::DeviceReverted
                | AlertKind::DeviceServiceDown
                | AlertKind::DeviceFailed
                | AlertKind::RollbackFailed
                | AlertKind::DeviceNeedsRecovery
        )
    }
}

/// Where something is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sink {
    /// Name, by which the status speaks of it.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// What it speaks.
    #[serde(rename = "type")]
    pub kind: SinkType,
    /// Its address, `https://…`. For Alertmanager without `/api/v2/alerts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub url: Option<String>,
    /// Its address, where that is a secret itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_from: Option<SecretKey>,
    /// Certificates in PEM that its own must chain to; without them, the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16384))]
    pub ca_bundle: Option<String>,
    /// A token that is sent as `Authorization: Bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<SecretKey>,
    /// For type Alertmanager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alertmanager: Option<AlertmanagerSink>,
    /// For type Webhook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookSink>,
}

/// What a sink speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SinkType {
    /// Alertmanager's API, version 2.
    Alertmanager,
    /// A POST for everything that is told.
    Webhook,
}

/// A key of a Secret in the Notifier's namespace. The controller may read only Secrets that the namespace
/// lets it read, and uses only those whose annotation `wardring.dev/notify-host` names the sink's host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// An Alertmanager.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertmanagerSink {
    /// A label of every alert, by which routes tell installations apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub source: Option<String>,
}

/// A server that takes a POST.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookSink {
    /// The JSON body, as a template (minijinja): `{"text": {{ summary }}}`. Every value is written as
    /// JSON. Without a template, all that is known is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub template: Option<String>,
    /// Key of the signature: `X-Wardring-Signature: sha256=…` is the HMAC over `X-Wardring-Timestamp`, a
    /// dot and the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<SecretKey>,
}

/// What came of telling. The controller's word.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotifierStatus {
    /// Generation this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: every sink takes what it is told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
    /// The sinks, in the order of the spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub sinks: Vec<SinkStatus>,
}

/// The outbox of one sink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SinkStatus {
    /// Name of the sink.
    #[schemars(length(max = 63))]
    pub name: String,
    /// A hash of where it is, as the spec says: another server was told nothing yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub target: Option<String>,
    /// What waits to be told.
    #[serde(default)]
    pub pending: u32,
    /// Attempts that failed since the last success.
    #[serde(default)]
    pub failures: u32,
    /// Messages that the server refused for what they are; each is tried again by itself.
    #[serde(default)]
    pub refused: u32,
    /// Things that happened and were never told: there was no room, or nobody took them for an hour.
    #[serde(default)]
    pub dropped: u32,
    /// The last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub last_dropped: Option<String>,
    /// When something was told last; written at most every ten minutes while all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<Timestamp>,
    /// What is wrong, in the controller's own words: why the last attempt failed, what the server refused,
    /// or what the template cannot do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub last_error: Option<String>,
    /// What was told and is not over, or was told or was over lately: another leader goes on from here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 320), inner(length(max = 512)))]
    pub told: Vec<String>,
}
