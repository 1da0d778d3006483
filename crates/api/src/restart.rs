//! How a device restarts, and what a restart waits for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Span;

/// How a device restarts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reboot {
    /// The agent's own countdown before a restart, during which people are told. Default 1m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub countdown: Option<Span>,
    /// Text shown to people who are logged on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 500))]
    pub message: Option<String>,
    /// Longest that a restart waits while somebody works at the device, or while its active hours
    /// last; then it comes after one more countdown. Default 2h, at most 24h; `0s` waits for nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
    /// How often people who work at the device may put its restart off, 0 to 10. They are asked whether it
    /// may come now; each "later" lasts until they are asked again, the last one until `deadline`, and
    /// never less than a quarter of an hour. Default 0: nobody is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 0, max = 10))]
    pub deferrals: Option<u8>,
    /// End programs that refuse to end, and with them what is not saved. Without it, a program that
    /// objects keeps the device from restarting, and the job ends as RebootStuck.
    #[serde(default)]
    pub force: bool,
    /// Hours of the day in which a restart waits, up to `deadline`. None unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_hours: Option<ActiveHours>,
}

/// Hours of the day in which a restart waits. Exactly the field that `type` names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActiveHours {
    /// Whose hours.
    #[serde(rename = "type")]
    pub kind: ActiveHoursType,
    /// For type Fixed: the same hours on every device, by its own clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed: Option<HoursOfDay>,
}

/// Whose active hours count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ActiveHoursType {
    /// Those that Windows Update has on the device, by policy or by its user.
    Device,
    /// Those of this rollout.
    Fixed,
}

/// A part of the day, by the device's local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoursOfDay {
    /// First hour, such as 8 for 08:00.
    #[schemars(with = "i32", range(min = 0, max = 23))]
    pub start: u8,
    /// First hour that is free again, such as 17 for 17:00; below `start`, it is one of the next day.
    #[schemars(with = "i32", range(min = 0, max = 23))]
    pub end: u8,
}
