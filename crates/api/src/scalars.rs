//! Small value types of the API: spans of time, caps and label selectors.

use std::{borrow::Cow, fmt, str::FromStr};

use jiff::SignedDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// A span of time as people write it in manifests: `90s`, `30m`, `2h`, `1d12h`. Never negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub SignedDuration);

/// Why a text is not a [`Span`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a span of time like `90s`, `30m`, `2h` or `1d12h`")]
pub struct SpanError {
    /// The refused text.
    pub text: String,
}

impl Span {
    /// A span of whole seconds.
    pub const fn from_secs(seconds: u32) -> Span {
        Span(SignedDuration::from_secs(seconds as i64))
    }

    /// A span of whole minutes.
    pub const fn from_mins(minutes: u32) -> Span {
        Span(SignedDuration::from_secs(minutes as i64 * 60))
    }

    /// A span of whole hours.
    pub const fn from_hours(hours: u32) -> Span {
        Span(SignedDuration::from_secs(hours as i64 * 3600))
    }

    /// The span as a duration.
    pub fn duration(self) -> SignedDuration {
        self.0
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let error = || SpanError { text: text.to_owned() };
        let mut millis: i64 = 0;
        let mut rest = text;
        if rest.is_empty() || rest.len() > 32 {
            return Err(error());
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: i64 = rest[..digits].parse().map_err(|_| error())?;
            rest = &rest[digits..];
            let unit = rest.bytes().take_while(u8::is_ascii_lowercase).count();
            let factor: i64 = match &rest[..unit] {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(error()),
            };
            rest = &rest[unit..];
            millis = number
                .checked_mul(factor)
                .and_then(|part| millis.checked_add(part))
                .ok_or_else(error)?;
        }
        Ok(Span(SignedDuration::from_millis(millis)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = self.0.as_millis();
        if millis == 0 {
            return out.write_str("0s");
        }
        for (unit, factor) in
            [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)]
        {
            if millis >= factor {
                write!(out, "{}{unit}", millis / factor)?;
                millis %= factor;
            }
        }
        Ok(())
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Spans as manifests may write them: each unit once, the largest first. Narrower than what
/// [`Span::from_str`] reads, so that an instant plus a span never leaves the calendar.
const SPAN_PATTERN: &str =
    "^([0-9]{1,4}d)?([0-9]{1,5}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?([0-9]{1,9}ms)?$";

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 2,
            "maxLength": 32,
            "pattern": SPAN_PATTERN,
            "x-kubernetes-validations": [{
                "rule": format!("self.matches('{SPAN_PATTERN}')"),
                "message": "must be a span of time like `90s`, `30m`, `2h` or `1d12h`",
            }],
        })
    }
}

/// A cap on devices: a whole number, or a percentage (`10%`) of a frozen size, rounded down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cap {
    /// So many devices.
    Count(u32),
    /// So many percent of the frozen size, 0–100.
    Percent(u8),
}

/// Why a text is not a [`Cap`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is neither a whole number nor a percentage from `0%` to `100%`")]
pub struct CapError {
    /// The refused text.
    pub text: String,
}

impl Cap {
    /// Devices that the cap allows out of `size`, rounded down. Callers that need a minimum of one
    /// (concurrency) apply it themselves; a failure budget of zero is a real zero.
    pub fn of(self, size: usize) -> usize {
        match self {
            Cap::Count(count) => count as usize,
            Cap::Percent(percent) => size * usize::from(percent) / 100,
        }
    }
}

impl FromStr for Cap {
    type Err = CapError;

    fn from_str(text: &str) -> Result<Self, CapError> {
        let error = || CapError { text: text.to_owned() };
        match text.strip_suffix('%') {
            Some(number) => match number.parse() {
                Ok(percent @ 0..=100) => Ok(Cap::Percent(percent)),
                _ => Err(error()),
            },
            None => text.parse().map(Cap::Count).map_err(|_| error()),
        }
    }
}

impl fmt::Display for Cap {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cap::Count(count) => write!(out, "{count}"),
            Cap::Percent(percent) => write!(out, "{percent}%"),
        }
    }
}

impl Serialize for Cap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Cap::Count(count) => serializer.serialize_u32(*count),
            Cap::Percent(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Cap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Count(u32),
            Text(String),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Count(count) => Ok(Cap::Count(count)),
            Raw::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

impl JsonSchema for Cap {
    fn schema_name() -> Cow<'static, str> {
        "Cap".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "minimum": 0,
            "maximum": 1_000_000,
            "maxLength": 4,
            "pattern": "^(100|[0-9]{1,2})%$",
            "x-kubernetes-validations": [{
                "rule": "type(self) == int || self.matches('^(100|[0-9]{1,2})%$')",
                "message": "must be a number of devices such as `5`, or a percentage from `0%` to `100%`",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_reads_back_as_it_is_written() {
        for text in ["0s", "90s", "30m", "2h", "1d12h", "250ms"] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string().parse::<Span>().unwrap(), span, "{text}");
        }
        for text in ["", "5", "m", "-5m", "5 m", "1y", "99999999999999999d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_longest_span_of_a_manifest_fits_the_calendar() {
        let longest: Span = "9999d99999h999999m99999999s".parse().unwrap();
        let now: jiff::Timestamp = "2199-12-31T23:59:59Z".parse().unwrap();
        assert!(now.checked_add(longest.duration()).is_ok());
    }

    #[test]
    fn a_percentage_rounds_down_and_a_count_stands() {
        assert_eq!("25%".parse::<Cap>().unwrap().of(7), 1);
        assert_eq!("0%".parse::<Cap>().unwrap().of(7), 0);
        assert_eq!("3".parse::<Cap>().unwrap().of(1), 3);
        for text in ["101%", "-1", "%", "ten"] {
            assert!(text.parse::<Cap>().is_err(), "{text}");
        }
    }
}
