//! `cargo xtask check`: what has to hold before anything is committed, in a few minutes.

mod claims;
mod crate_table;
mod deny;

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    crds,
    shell::{cargo, part, step},
};

/// Options of `cargo xtask check`.
#[derive(clap::Args)]
pub struct Args {
    /// Only this part (repeatable)
    #[arg(long, value_enum)]
    only: Vec<Part>,
}

/// One part of the check, in the order in which they run: what is quick and fails often comes first.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// rustfmt
    Format,
    /// CRDs, their copies and the reference pages are what types and tables say
    Generated,
    /// Who may know whom
    Crates,
    /// The tests that docs/security.md names exist
    Claims,
    /// Banned crates, licences, sources
    Deny,
    /// clippy
    Lints,
    /// Unit tests
    Unit,
}

/// Runs the parts asked for, or all of them, and stops at the first that fails.
pub fn run(args: &Args) -> Result<()> {
    for part in Part::value_variants() {
        if args.only.is_empty() || args.only.contains(part) {
            part.run()?;
        }
    }
    Ok(())
}

/// Runs all parts.
pub fn all() -> Result<()> {
    run(&Args { only: Vec::new() })
}

impl Part {
    fn run(self) -> Result<()> {
        let lints = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
        match self {
            Part::Format => step("format", &mut cargo(&["fmt", "--all", "--check"])),
            Part::Generated => part("generated files", || crds::generate(true)),
            Part::Crates => part("crate table", crate_table::check),
            Part::Claims => part("claims", claims::check),
            Part::Deny => deny::check(),
            Part::Lints => step("lints", &mut cargo(&lints)),
            Part::Unit => step("unit tests", &mut unit_tests()),
        }
    }
}

/// The tests inside the crates. What needs a cluster, Wine or Helm lies in crates under `tests/`.
fn unit_tests() -> std::process::Command {
    let mut command = cargo(&["test", "--quiet", "--lib", "--bins"]);
    for package in [
        "wardring-api",
        "wardring-planner",
        "wardring-seal",
        "wardring-protocol",
        "wardring-controller",
        "wardring-gateway",
        "wardring-agent",
        "kubectl-wardring",
        "xtask",
    ] {
        command.args(["--package", package]);
    }
    command
}
