//! cargo-deny: banned crates, licences, sources.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::Result;

use crate::shell::{cargo, root, step, target_dir};

/// Pinned, so that a new release of the tool cannot fail an old commit.
const VERSION: &str = "0.20.2";

/// Checks the dependency tree against `deny.toml`.
pub fn check() -> Result<()> {
    let tool = ensure()?;
    let mut command = Command::new(tool);
    // Not advisories: their database has to be fetched, and a check must work without it.
    command.current_dir(root()).args(["--log-level", "error", "--all-features", "check"]).args([
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]);
    step("dependencies (cargo-deny)", &mut command)
}

/// Builds the tool once, next to the other build results.
fn ensure() -> Result<PathBuf> {
    let folder = target_dir().join("tools");
    let tool = folder.join("bin").join("cargo-deny");
    let present =
        Command::new(&tool).arg("--version").stderr(Stdio::null()).output().is_ok_and(|output| {
            String::from_utf8_lossy(&output.stdout).trim() == format!("cargo-deny {VERSION}")
        });
    if !present {
        let mut install = cargo(&["install", "--locked", "--force", "--profile", "dev"]);
        install
            .arg(format!("cargo-deny@{VERSION}"))
            .arg("--root")
            .arg(&folder)
            .arg("--target-dir")
            .arg(target_dir().join("tools-build"))
            // Speed of building matters here, not of running.
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("CARGO_INCREMENTAL", "0");
        step("build cargo-deny (once, a few minutes)", &mut install)?;
    }
    Ok(tool)
}
