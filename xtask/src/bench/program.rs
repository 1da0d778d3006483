//! Benchmarks that are programs of the crate they measure.
//!
//! Such a program ends with one JSON object on its standard output; a field of it that is an array of
//! numbers is a measure, one number for each round.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::table::{Limit, Measure};
use crate::shell::{cargo, output};

/// What such a program printed last.
pub struct Outcome(Value);

/// Builds and runs benchmark `bench` of `package`.
pub fn run(package: &str, bench: &str) -> Result<Outcome> {
    let text = output(&mut cargo(&["bench", "--quiet", "--package", package, "--bench", bench]))?;
    let last = text.lines().rev().find(|line| line.starts_with('{'));
    let last = last.context("the benchmark printed no result")?;
    Ok(Outcome(serde_json::from_str(last).context("the benchmark's result is not JSON")?))
}

impl Outcome {
    /// The measure that the program printed as `field`.
    pub fn measure(
        &self,
        field: &str,
        name: &str,
        unit: &'static str,
        limit: Limit,
    ) -> Result<Measure> {
        let rounds = self.0[field].as_array().map(Vec::as_slice).unwrap_or_default();
        let values: Vec<f64> = rounds.iter().filter_map(Value::as_f64).collect();
        if values.is_empty() || values.len() < rounds.len() {
            bail!("the benchmark printed no numbers as {field}");
        }
        Ok(Measure::of(name, unit, values, limit))
    }
}
