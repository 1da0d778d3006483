//! What a device may take back by itself, without anybody's permit.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Span;
use crate::health::HOST;

/// When a device takes back, without a permit and once per job, what this rollout's job installed
/// on it. Domain controllers, cluster nodes and devices of groups that do not allow rollbacks never
/// do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutonomousRollback {
    /// What makes it do so.
    #[schemars(length(min = 1, max = 4))]
    pub triggers: Vec<AutonomousTrigger>,
    /// For the trigger NetworkLost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_lost: Option<NetworkLost>,
}

/// What makes a device roll back by itself.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum AutonomousTrigger {
    /// It crashed or lost power twice since the update. Clean restarts by anybody do not count.
    BootLoop,
    /// It lost the network since the update: nothing answers any more that answered before the
    /// installation, for as long as `networkLost.after` says. One that answers is enough to keep it
    /// from it, and silence of our gateways alone never counts.
    NetworkLost,
}

/// When a device takes its network for lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkLost {
    /// How long nothing must have answered in the boot that runs, from 15m to 12h; default 1h. Each
    /// device waits up to twice as long, by chance, so that they do not act at one moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Span>,
    /// Ports of other devices that count beside the gateways of Wardring, the default gateways and the
    /// DNS servers of the device. Taking a connection is an answer, and refusing one is, too. Only a default
    /// gateway that answers, or a port listed by its IP address, gives silence a meaning: dead DNS servers
    /// alone take nothing back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub witnesses: Vec<Witness>,
}

/// A port of another device that tells whether the network is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Witness {
    /// Where.
    #[schemars(length(min = 1, max = 253), regex(pattern = HOST))]
    pub host: String,
    /// Port.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: u32,
}
