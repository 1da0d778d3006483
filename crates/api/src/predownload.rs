//! Downloads ahead of maintenance windows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Cap, Span};

/// Downloads ahead of maintenance windows: a device whose stage has its turn and that waits for nothing
/// but a window fetches its updates meanwhile. Nothing is installed by it, and whatever becomes of it, it
/// counts against no budget: a device that has not fetched them does so when it installs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Predownload {
    /// How long before the window opens for a device, or a freeze lets it go on, its download may begin,
    /// such as `48h`.
    pub ahead: Span,
    /// Devices of one stage that download at once; rounded down, at least 1. Default 10 %.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<Cap>,
}
