//! Hooks: programs that an administrator of the devices put into the agent's hooks folder, called
//! by name. What they contain never comes from the cluster.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Span;

/// Programs of the agent's hooks folder that run at set moments. One that fails keeps its moment
/// from coming.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hooks {
    /// Before anything is installed or removed, such as draining a cluster node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_install: Option<Hook>,
    /// Before every restart by the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_reboot: Option<Hook>,
    /// Once the device is proven healthy, such as resuming a cluster node; also when nothing was
    /// installed although `beforeInstall` had run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_healthy: Option<Hook>,
}

impl Hooks {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Hooks::default()
    }
}

/// One program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hook {
    /// File name in the hooks folder, with one of the extensions .exe, .cmd and .ps1.
    #[schemars(
        length(min = 5, max = 64),
        regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9_-]*\.(exe|cmd|ps1)$")
    )]
    pub program: String,
    /// Longest time it may take, at most 2h; default 10m. It is ended then, and has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
}
