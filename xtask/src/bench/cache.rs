//! The controller: what a device weighs in its cache, against the device's JSON.

use anyhow::Result;

use super::{
    program,
    table::{Limit, Measure},
};

/// Bytes of heap per byte of JSON; the design's figure.
const LIMIT: f64 = 0.35;

/// Runs `controller/benches/cache.rs`.
pub fn run() -> Result<Vec<Measure>> {
    let outcome = program::run("wardring-controller", "cache")?;
    let own = "cache: to JSON, each with a label of its own";
    Ok(vec![
        outcome.measure("cached", "cache: heap per device", "bytes", Limit::None)?,
        outcome.measure("json", "cache: JSON per device", "bytes", Limit::None)?,
        outcome.measure("ratio", "cache: heap to JSON", "ratio", Limit::AtMost(LIMIT))?,
        outcome.measure("ownLabelsRatio", own, "ratio", Limit::None)?,
        outcome.measure("peakToSteady", "cache: peak of the first list", "ratio", Limit::None)?,
    ])
}
