//! Canary gaps: kinds of devices in a stage that no earlier stage proved.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A kind of device in a stage that no earlier stage proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CanaryGap {
    /// What is new.
    pub what: CanaryKind,
    /// The product, the model or the role.
    #[schemars(length(max = 128))]
    pub value: String,
    /// Devices of the stage that have it.
    pub devices: u32,
}

/// What a device can be the first of.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum CanaryKind {
    /// Of its product.
    Product,
    /// Of its model.
    Model,
    /// With its role.
    Role,
}

impl std::fmt::Display for CanaryGap {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.what {
            CanaryKind::Product => "product",
            CanaryKind::Model => "model",
            CanaryKind::Role => "role",
        };
        let plural = if self.devices == 1 { "" } else { "s" };
        write!(out, "{what} {} ({} device{plural})", self.value, self.devices)
    }
}
