//! MaintenanceWindow: when devices may be installed on and restarted, and when they must not be.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{LabelSelector, Span};

/// Times in which work on devices may begin (`Allow`, where a stage or a group names it), or in which
/// it must not (`Deny`, a freeze: everywhere it selects, named or not). Deny wins.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "wardring.dev",
    version = "v1alpha1",
    kind = "MaintenanceWindow",
    plural = "maintenancewindows",
    shortname = "mwindow",
    category = "wardring",
    namespaced,
    status = "MaintenanceWindowStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct MaintenanceWindowSpec {
    /// Whether work may begin in it, or must not.
    #[serde(rename = "type")]
    pub kind: WindowType,
    /// What it is for; whoever waits for a freeze to end reads it. A Deny needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub reason: Option<String>,
    /// Devices concerned; without it, every device of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// What may begin while it is open. Default for Allow: Install and Reboot; for Deny: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    pub allows: Vec<WindowAction>,
    /// When it opens: exactly one of the fields.
    pub schedule: WindowSchedule,
    /// How long it stays open, counted from the instant at which it opens, so that a change of clocks
    /// neither lengthens nor shortens it. Not for `once`. At most 31d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Span>,
    /// Zone of the schedule: an IANA name such as `Europe/Berlin`, or `Device` for each device's own
    /// (`spec.timeZone` of the Device). Not for `once`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
    /// So long before the end nothing begins any more. Default 0s. For Allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_cutoff: Option<Span>,
    /// What becomes of a device that installed in the window and has not restarted when it closes.
    #[serde(default)]
    pub overrun: Overrun,
}

/// Whether work may begin in a window, or must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WindowType {
    /// Work may begin.
    Allow,
    /// A freeze: nothing begins but what `allows` names.
    Deny,
}

/// What a window speaks of. Each needs a permit of its own.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum WindowAction {
    /// Installing, and the download before it.
    Install,
    /// Restarting.
    Reboot,
    /// Taking updates back, where `onFailure.windows` says Respect.
    Uninstall,
}

/// When a window opens: exactly one field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WindowSchedule {
    /// A cron expression of five fields: `0 20 * * SAT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 9, max = 128))]
    pub cron: Option<String>,
    /// Days after the second Tuesday of the month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_tuesday: Option<PatchTuesday>,
    /// The nth weekday of the month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monthly: Option<MonthlyWeekday>,
    /// One time only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub once: Option<OnceSpan>,
}

/// Days after the second Tuesday of each month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PatchTuesday {
    /// Days after it; 0 is that Tuesday itself.
    #[serde(default)]
    #[schemars(with = "i32", range(min = 0, max = 31))]
    pub plus_days: u8,
    /// Local time, `22:00`.
    pub at: TimeOfDay,
}

/// The nth weekday of each month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MonthlyWeekday {
    /// Which of them.
    pub week: WeekOfMonth,
    /// The day of the week.
    pub day: Weekday,
    /// Local time, `22:00`.
    pub at: TimeOfDay,
}

/// Which of a month's days of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum WeekOfMonth {
    First,
    Second,
    Third,
    Fourth,
    Last,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum Weekday {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

/// A window that opens one time only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OnceSpan {
    /// When it opens.
    pub from: Timestamp,
    /// When it closes.
    pub until: Timestamp,
}

/// What becomes of a device that installed in the window and has not restarted when it closes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Overrun {
    /// What to do. Default Finish.
    #[serde(default)]
    pub action: OverrunAction,
    /// For Finish: so long after the end the restart may still begin. Default 1h, at most 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Span>,
}

/// What becomes of a device that installed in a window and has not restarted when it closes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OverrunAction {
    /// It may restart for a while: half installed is the worst place to be.
    #[default]
    Finish,
    /// It restarts in the next window that allows it.
    Hold,
}

/// What the controller says of a window. With `timeZone: Device`, over the zones of all its devices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MaintenanceWindowStatus {
    /// Generation this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Whether it is open.
    #[serde(default)]
    pub open: bool,
    /// When it opens next; absent if it never does within five years.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_open: Option<Timestamp>,
    /// When it closes: the present opening, or else the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_close: Option<Timestamp>,
    /// Ready: its schedule can be read and opens some day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
}

/// A local time of day, `22:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay {
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
}

/// Why a text is not a [`TimeOfDay`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a time of day like `22:00`")]
pub struct TimeOfDayError {
    /// The refused text.
    pub text: String,
}

impl TryFrom<String> for TimeOfDay {
    type Error = TimeOfDayError;

    fn try_from(text: String) -> Result<TimeOfDay, TimeOfDayError> {
        let parsed = || {
            let (hour, minute) = text.split_once(':')?;
            let digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
            let (hour, minute) = (digits(hour) && digits(minute))
                .then_some((hour.parse().ok()?, minute.parse().ok()?))?;
            (hour < 24 && minute < 60).then_some(TimeOfDay { hour, minute })
        };
        parsed().ok_or(TimeOfDayError { text: text.clone() })
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> String {
        format!("{:02}:{:02}", time.hour, time.minute)
    }
}

impl JsonSchema for TimeOfDay {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TimeOfDay".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "maxLength": 5,
            "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$",
            "x-kubernetes-validations": [{
                "rule": "self.matches('^([01][0-9]|2[0-3]):[0-5][0-9]$')",
                "message": "must be a time of day like `22:00`",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::TimeOfDay;

    #[test]
    fn a_time_of_day_reads_back_and_nothing_else_is_one() {
        for text in ["00:00", "09:05", "23:59"] {
            let time = TimeOfDay::try_from(text.to_owned()).unwrap();
            assert_eq!(String::from(time), text);
        }
        for text in ["24:00", "9:05", "12:60", "", ":", "12", "+1:00", "12:00:00"] {
            assert!(TimeOfDay::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
