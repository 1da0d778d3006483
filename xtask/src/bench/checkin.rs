//! The gateway: what a check-in without news costs, against a server that only sends the same bytes.

use anyhow::Result;

use super::{
    program,
    table::{Limit, Measure},
};

/// Check-ins per second of CPU, to those of the bare server; the figure.
const LIMIT: f64 = 0.80;

/// Runs `gateway/benches/checkin.rs`.
pub fn run() -> Result<Vec<Measure>> {
    let outcome = program::run("wardring-gateway", "checkin")?;
    Ok(vec![
        outcome.measure("ours", "checkin: by the gateway", "/CPU s", Limit::None)?,
        outcome.measure("bare", "checkin: bare axum and rustls", "/CPU s", Limit::None)?,
        outcome.measure("ratio", "checkin: gateway to bare", "ratio", Limit::AtLeast(LIMIT))?,
    ])
}
