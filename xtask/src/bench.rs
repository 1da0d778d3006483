//! `cargo xtask bench [NAME]`: measurements against the limits that the project has set itself.
//!
//! A benchmark is a program of the crate it measures and ends with one JSON object; here it is run, and
//! compared. A limit that is missed is shown and is a failure: it is never adjusted here to fit.

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::shell::{cargo, output};

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Which; without it, all
    name: Option<Bench>,
}

/// The benchmarks.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// A pass of the planner over 100,000 devices
    Plan,
}

/// One line of the table.
struct Row {
    name: String,
    min: f64,
    median: f64,
    max: f64,
    unit: &'static str,
    /// Largest median that is accepted, where there is a limit.
    limit: Option<f64>,
}

/// Runs the benchmarks and prints one table.
pub fn run(args: &Args) -> Result<()> {
    let mut rows = Vec::new();
    for bench in Bench::value_variants() {
        if args.name.is_none_or(|name| name == *bench) {
            rows.extend(bench.run()?);
        }
    }
    println!("{:<34} {:>9} {:>9} {:>9}  {:<5} limit", "benchmark", "min", "median", "max", "unit");
    for row in &rows {
        let limit = match row.limit {
            Some(limit) if row.holds() => format!("≤ {limit} ✓"),
            Some(limit) => format!("≤ {limit} ✗ missed"),
            None => "-".to_owned(),
        };
        let Row { name, min, median, max, unit, .. } = row;
        println!("{name:<34} {min:>9.2} {median:>9.2} {max:>9.2}  {unit:<5} {limit}");
    }
    let missed: Vec<_> = rows.iter().filter(|row| !row.holds()).map(|row| &*row.name).collect();
    if !missed.is_empty() {
        bail!("limits were missed: {}", missed.join(", "));
    }
    Ok(())
}

impl Bench {
    fn run(self) -> Result<Vec<Row>> {
        match self {
            Bench::Plan => plan(),
        }
    }
}

impl Row {
    fn holds(&self) -> bool {
        self.limit.is_none_or(|limit| self.median <= limit)
    }
}

/// The planner: every pass over a fleet of the target's size has to stay far below a second.
fn plan() -> Result<Vec<Row>> {
    const LIMIT_MS: f64 = 20.0;
    let result = measured(&["bench", "--package", "wardring-planner", "--bench", "plan"])?;
    let row = |field: &str, name: &str, limit| -> Result<Row> {
        let span = &result[field];
        let number = |part: &str| {
            span[part].as_f64().with_context(|| format!("the benchmark printed no {field}.{part}"))
        };
        let (min, median, max) = (number("min")?, number("median")?, number("max")?);
        Ok(Row { name: name.to_owned(), min, median, max, unit: "ms", limit })
    };
    let mut rows = vec![
        row("coldMs", "plan: cold", Some(LIMIT_MS))?,
        row("afterOneEventMs", "plan: after one event", Some(LIMIT_MS))?,
        row("idleMs", "plan: nothing to do", None)?,
        row("checkMs", "plan: check of the plan", None)?,
        row("scanMs", "plan: bare scan of its rows", None)?,
    ];
    let scan = rows.last().map_or(f64::NAN, |scan| scan.median);
    let event = &rows[1];
    rows.push(Row {
        name: "plan: after one event, to a scan".to_owned(),
        min: event.min / scan,
        median: event.median / scan,
        max: event.max / scan,
        unit: "times",
        limit: None,
    });
    Ok(rows)
}

/// The JSON object that a benchmark prints last.
fn measured(args: &[&str]) -> Result<Value> {
    let text = output(&mut cargo(args))?;
    let last = text.lines().rev().find(|line| line.starts_with('{'));
    let last = last.context("the benchmark printed no result")?;
    serde_json::from_str(last).context("the benchmark's result is not JSON")
}
