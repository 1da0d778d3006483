//! Runs other programs as visible steps.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};

/// The workspace's folder.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies one folder below the workspace")
        .to_owned()
}

/// The folder that cargo builds into.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A cargo that acts on the workspace.
pub fn cargo(args: &[&str]) -> Command {
    // The cargo that runs us, so that a toolchain override holds for its children too.
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(args);
    command
}

/// Runs `command` under a heading; its output goes to the terminal.
pub fn step(name: &str, command: &mut Command) -> Result<()> {
    let started = begin(name);
    let status = command.stdin(Stdio::null()).status().with_context(|| cannot_start(command))?;
    if !status.success() {
        bail!("{name} failed: `{}` ended with {status}", shown(command));
    }
    end(name, started);
    Ok(())
}

/// Builds every program of ours, so that nothing that starts one has to wait for a compiler.
pub fn build_binaries() -> Result<()> {
    let mut build = cargo(&["build", "--quiet", "--bins"]);
    for name in ["wardring-controller", "wardring-gateway", "wardring-agent", "kubectl-wardring"] {
        build.args(["--package", name]);
    }
    step("build", &mut build)
}

/// Runs `work` under a heading.
pub fn part(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let started = begin(name);
    work().with_context(|| format!("{name} failed"))?;
    end(name, started);
    Ok(())
}

/// What `command` prints on its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| cannot_start(command))?;
    if !output.status.success() {
        bail!("`{}` ended with {}", shown(command), output.status);
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` printed something that is not UTF-8", shown(command)))
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn cannot_start(command: &Command) -> String {
    format!("failed to start `{}`; is it installed?", shown(command))
}

fn begin(name: &str) -> Instant {
    eprintln!("── {name}");
    Instant::now()
}

fn end(name: &str, started: Instant) {
    eprintln!("   {name}: fine ({:.1} s)", started.elapsed().as_secs_f64());
}
