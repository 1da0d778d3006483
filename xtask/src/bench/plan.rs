//! The planner: every pass over a fleet of the target's size has to stay far below a second.

use anyhow::Result;

use super::{
    program,
    table::{Limit, Measure},
};

/// A pass over 100,000 devices; the design's figure.
const LIMIT_MS: f64 = 20.0;

/// Runs `crates/planner/benches/plan.rs`.
pub fn run() -> Result<Vec<Measure>> {
    let outcome = program::run("wardring-planner", "plan")?;
    let ms = |field, name, limit| outcome.measure(field, name, "ms", limit);
    let ratio = "plan: after one event, to a scan";
    Ok(vec![
        ms("coldMs", "plan: cold", Limit::AtMost(LIMIT_MS))?,
        ms("afterOneEventMs", "plan: after one event", Limit::AtMost(LIMIT_MS))?,
        ms("idleMs", "plan: nothing to do", Limit::None)?,
        ms("opensStageMs", "plan: opening a stage of 33,333", Limit::None)?,
        ms("checkMs", "plan: check of the plan", Limit::None)?,
        ms("scanMs", "plan: bare scan of its rows", Limit::None)?,
        outcome.measure("eventToScan", ratio, "times", Limit::None)?,
    ])
}
