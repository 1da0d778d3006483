//! `cargo xtask bench [NAME]`: measurements against the limits that the project has set itself.
//!
//! One table for all: a benchmark gives [`Measure`]s, of which some have a limit. A limit that is missed
//! is shown and is a failure; it is never adjusted here to fit. Machines differ and are shared, so a
//! limit is a ratio to something bare in the same run wherever that is possible.
//!
//! To add a benchmark: a file here with `pub fn run() -> Result<Vec<Measure>>`, a variant of [`Bench`]
//! whose doc sentence is its help, and its arm in [`Bench::run`]. What can be measured inside one crate
//! is a program in that crate's `benches` folder that ends with one JSON object, see [`program`]; what
//! needs processes and an API server is played here, as the demo is.

mod agent;
mod bare;
mod cache;
mod checkin;
mod converge;
mod halt;
mod load;
mod plan;
mod program;
mod site;
mod table;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use table::Measure;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Which; without it, all
    name: Option<Bench>,
    #[command(flatten)]
    options: converge::Options,
    /// Measure in this very program and print one JSON object
    #[arg(long, hide = true)]
    inside: bool,
}

/// The benchmarks, in the order of the table.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// A pass of the planner over 100,000 devices
    Plan,
    /// Check-ins without news, of a gateway against a bare server
    Checkin,
    /// What a device weighs in the controller's cache
    Cache,
    /// A stage of 2,000 devices on a real API server, against a bare client's same writes
    Converge,
    /// From a suspension to the last permit that is still granted
    Halt,
    /// The agent: the size of its program, and what it takes of an idle device
    Agent,
}

impl Bench {
    fn run(self, options: converge::Options) -> Result<Vec<Measure>> {
        match self {
            Bench::Plan => plan::run(),
            Bench::Checkin => checkin::run(),
            Bench::Cache => cache::run(),
            Bench::Converge => converge::run(options),
            Bench::Halt => halt::run(options),
            Bench::Agent => agent::run(),
        }
    }
}

/// Measures in this program, which is the optimised one.
fn run_inside(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("failed to start the async runtime")?;
    runtime.block_on(async {
        match args.name {
            Some(Bench::Converge) => converge::measure(args.options).await,
            Some(Bench::Halt) => halt::measure(args.options).await,
            _ => bail!("this benchmark is no part of xtask"),
        }
    })
}

/// Runs the benchmarks one after the other and prints one table.
pub fn run(args: &Args) -> Result<()> {
    if args.inside {
        return run_inside(args);
    }
    let mut measures = Vec::new();
    for bench in Bench::value_variants() {
        if args.name.is_none_or(|name| name == *bench) {
            let value = bench.to_possible_value().expect("no benchmark is hidden");
            let name = value.get_name();
            eprintln!("── bench {name}");
            measures.extend(
                bench.run(args.options).with_context(|| format!("benchmark {name} failed"))?,
            );
        }
    }
    println!("{}", table::print(&measures));
    table::judge(&measures)
}
