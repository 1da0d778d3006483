//! The agent: how large its program is, and what it takes of a device that has nothing to do.

use anyhow::Result;

use super::{
    program,
    table::{Limit, Measure},
};
use crate::tools;

/// A million bytes in MiB, as the table shows sizes.
const MB: f64 = 1_000_000.0 / 1_048_576.0;
/// The project's figures: 5 MB of program, 15 MB of memory and two wake-ups a minute.
const SIZE: f64 = 5.0 * MB;
const MEMORY: f64 = 15.0 * MB;
const WAKEUPS: f64 = 2.0;

/// What the peak of memory may grow by when Windows Update knows 2,000 updates instead of 20, MiB: eight
/// kilobytes for each of them, with the copy that the tests' Windows Update holds in the same process.
const SCAN: f64 = 16.0;

/// Runs `tests/wine/benches/agent.rs`.
pub fn run() -> Result<Vec<Measure>> {
    tools::prepare_wine()?;
    let outcome = program::run_beside("wardring-wine-tests", "agent")?;
    let measure = |field, name, unit, limit| outcome.measure(field, name, unit, limit);
    Ok(vec![
        measure("size", "agent: program for Windows", "MiB", Limit::AtMost(SIZE))?,
        measure("resident", "agent: idle, memory", "MiB", Limit::AtMost(MEMORY))?,
        measure("woken", "agent: idle, wake-ups", "1/min", Limit::AtMost(WAKEUPS))?,
        measure("watchedWoken", "agent: looked after, wake-ups", "1/min", Limit::None)?,
        measure("scanGrowth", "agent: scan of 2,000 updates, growth", "MiB", Limit::AtMost(SCAN))?,
        measure("wineResident", "agent: idle under Wine, memory", "MiB", Limit::None)?,
        measure("wineWoken", "agent: idle under Wine, wake-ups", "1/min", Limit::None)?,
    ])
}
