//! Benchmarks that are programs of the crate they measure.
//!
//! Such a program ends with one JSON object on its standard output; a field of it that is an array of
//! numbers is a measure, one number for each round.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    converge::Options,
    table::{Limit, Measure},
};
use crate::shell::{cargo, output, step};

/// What such a program printed last.
pub struct Outcome(Value);

/// Builds and runs benchmark `bench` of `package`.
pub fn run(package: &str, bench: &str) -> Result<Outcome> {
    let text = output(&mut cargo(&["bench", "--quiet", "--package", package, "--bench", bench]))?;
    last_object(&text)
}

/// The same for one that measures other programs, which it builds as it needs them.
pub fn run_beside(package: &str, bench: &str) -> Result<Outcome> {
    let mut bench = cargo(&["bench", "--quiet", "--package", package, "--bench", bench]);
    last_object(&output(bench.args(["--profile", "dev"]))?)
}

/// Builds our programs optimised, and lets an optimised xtask measure with them.
pub fn optimised(bench: &str, options: Options) -> Result<Outcome> {
    let mut build = cargo(&["build", "--quiet", "--release", "--bins"]);
    for name in ["controller", "gateway", "agent"] {
        build.args(["--package", &format!("wardring-{name}")]);
    }
    build.args(["--package", "kubectl-wardring"]);
    step("build", &mut build)?;
    let mut inside = cargo(&["run", "--quiet", "--release", "--package", "xtask", "--"]);
    inside.args(["bench", bench, "--inside"]);
    for (flag, value) in [
        ("--devices", options.devices),
        ("--connected", options.connected),
        ("--at-work", options.at_work),
        ("--rounds", options.rounds),
    ] {
        inside.args(value.map(|value| format!("{flag}={value}")));
    }
    last_object(&output(&mut inside)?)
}

fn last_object(text: &str) -> Result<Outcome> {
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
