//! `cargo xtask check`: what has to hold before anything is committed, in a few minutes.

mod crate_table;
mod deny;

use anyhow::Result;

use crate::{
    crds,
    shell::{cargo, part, step},
};

/// Runs every quick check and stops at the first that fails.
pub fn run() -> Result<()> {
    step("format", &mut cargo(&["fmt", "--all", "--check"]))?;
    part("generated files", || crds::generate(true))?;
    part("crate table", crate_table::check)?;
    deny::check()?;
    step(
        "lints",
        &mut cargo(&["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]),
    )?;
    step("unit tests", &mut unit_tests())
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
