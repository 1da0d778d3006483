//! Virtual time: milliseconds since the beginning of a simulation.

use jiff::{SignedDuration, Timestamp};

/// An instant or a span of virtual time, in milliseconds.
pub type Ms = u64;

/// A second.
pub const SECOND: Ms = 1000;
/// A minute.
pub const MINUTE: Ms = 60 * SECOND;
/// An hour.
pub const HOUR: Ms = 60 * MINUTE;

/// What a right clock shows at `now`: the evening of a Friday in November.
pub fn wall(now: Ms) -> Timestamp {
    skewed(now, 0)
}

/// What a clock shows that is off by `skew_ms`.
pub fn skewed(now: Ms, skew_ms: i64) -> Timestamp {
    let start = Timestamp::from_second(1_795_212_000).expect("the year 2026 is a valid time");
    start + SignedDuration::from_millis(now as i64 + skew_ms)
}
