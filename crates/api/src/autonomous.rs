//! What a device may take back by itself, without anybody's permit.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When a device takes back, without a permit and once per job, what this rollout's job installed
/// on it. Domain controllers, cluster nodes and devices of groups that do not allow rollbacks never
/// do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutonomousRollback {
    /// What makes it do so.
    #[schemars(length(min = 1, max = 4))]
    pub triggers: Vec<AutonomousTrigger>,
}

/// What makes a device roll back by itself.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum AutonomousTrigger {
    /// It crashed or lost power twice since the update. Clean restarts by anybody do not count.
    BootLoop,
}
