//! When failures that are alike halt a rollout, though the stages' budgets bear them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Failures that have something in common, over all stages of a rollout. Devices that share a code,
/// a role, a model, a product or a build are compared with those that do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CorrelatedFailures {
    /// So many devices that fail alike halt the rollout; 0 turns this off. Default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub devices: Option<u32>,
}
