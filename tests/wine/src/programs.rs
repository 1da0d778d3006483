//! Programs that stand in for parts of Windows in a prefix, and the agent's platform act by act.

use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::prefix::{COMPILER, LIMIT, Prefix, build};

/// Has a program of the agent alone take a library of the tests in the place of Wine's.
pub(crate) const OWN_LIBRARIES: &str =
    r"HKCU\Software\Wine\AppDefaults\wardring-agent.exe\DllOverrides";

/// The signal of a program that touched memory which is not there.
const SIGSEGV: i32 = 11;
const SIGKILL: i32 = 9;
/// A small program written in C, next to this crate.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/programs");

/// Compiles one of the programs to a place in the prefix.
///
/// # Errors
/// The compiler is missing or refuses.
pub fn compile(source: &str, program: &Path) -> anyhow::Result<()> {
    compile_with(&[], source, program)
}

/// Compiles one of the libraries to a place in the prefix.
///
/// # Errors
/// The compiler is missing or refuses.
pub fn compile_library(source: &str, library: &Path) -> anyhow::Result<()> {
    compile_with(&["-shared"], source, library)
}

/// Compiles one of the libraries in `shim` that are preloaded into Wine itself.
///
/// # Errors
/// The compiler is missing or refuses.
pub(crate) fn compile_preloaded(source: &str, library: &Path) -> anyhow::Result<()> {
    let built = Command::new("cc")
        .args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
        .arg(library)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("shim").join(source))
        .arg("-ldl")
        .status()
        .context("failed to start cc")?;
    ensure!(built.success(), "{source} does not build");
    Ok(())
}

fn compile_with(more: &[&str], source: &str, to: &Path) -> anyhow::Result<()> {
    let built = Command::new(COMPILER)
        .args(["-O1", "-Wall", "-Werror", "-o"])
        .arg(to)
        .args(more)
        .arg(Path::new(FOLDER).join(source))
        .arg("-ladvapi32")
        .status()
        .with_context(|| format!("failed to start {COMPILER}"))?;
    ensure!(built.success(), "{source} does not build");
    Ok(())
}

/// A Windows of its own whose platform can be told what to do.
///
/// # Errors
/// A tool is missing, or Wine does not work.
pub fn prefix() -> anyhow::Result<Prefix> {
    Prefix::create(&build(["--example", "platform"])?)
}

/// Lets the platform carry out one act and returns what came of it.
///
/// # Errors
/// It cannot be carried out at all.
pub fn act<const N: usize>(prefix: &Prefix, arguments: [&str; N]) -> anyhow::Result<Value> {
    let mut line = vec![r"C:\wardring\wardring-agent.exe"];
    line.extend(arguments);
    let begun = Instant::now();
    let (status, text) = prefix.ended(&line)?;
    // Wine now and then loses its way when a program ends beside threads of its own, and its server kills
    // what takes longer than a second to end. What it had to tell is its last act, and told. One that we
    // killed ourselves stood still.
    let is_lost = match status.signal() {
        Some(SIGSEGV) => true,
        Some(SIGKILL) => begun.elapsed() < LIMIT,
        _ => false,
    };
    let has_told = is_lost && text.ends_with('\n');
    ensure!(status.success() || has_told, "{arguments:?} ended with {status}: {text}");
    if has_told {
        // It may be a fault of ours all the same. Past the capture of tests, which hides what passes.
        let _ = writeln!(io::stderr(), "{arguments:?} told all, and then ended with {status}");
    }
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).with_context(|| format!("{arguments:?} printed {text:?}"))
}
