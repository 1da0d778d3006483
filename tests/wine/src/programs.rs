//! Programs that stand in for parts of Windows in a prefix, and the agent's platform act by act.

use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::prefix::{COMPILER, Ended, LIMIT, Prefix, build};

/// Has a program of the agent alone take a library of the tests in the place of Wine's.
pub(crate) const OWN_LIBRARIES: &str =
    r"HKCU\Software\Wine\AppDefaults\wardring-agent.exe\DllOverrides";

/// The signal of a program that touched memory which is not there.
const SIGSEGV: i32 = 11;
const SIGKILL: i32 = 9;
/// What the platform prints before it does anything.
const BEGUN: &str = "begun";
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

/// Lets the platform carry out one act and returns what came of it. One that has not begun when its program
/// ends is tried up to three times: on a busy machine Wine's programs end without a word once in a long
/// while.
///
/// # Errors
/// It cannot be carried out at all.
pub fn act<const N: usize>(prefix: &Prefix, arguments: [&str; N]) -> anyhow::Result<Value> {
    let mut line = vec![r"C:\wardring\wardring-agent.exe"];
    line.extend(arguments);
    let run = || {
        let began = Instant::now();
        prefix.ended(&line).map(|ended| (began.elapsed(), ended))
    };
    let (mut took, mut ended) = run()?;
    for _ in 0..2 {
        // One that we killed ourselves would stand still again.
        if ended.has_printed(BEGUN) || took >= LIMIT {
            break;
        }
        tell(&format!("{arguments:?} has not begun, and {ended}"));
        (took, ended) = run()?;
    }
    told(took, &ended).with_context(|| format!("{arguments:?} {ended}"))
}

/// What an act that took so long told about what came of it.
fn told(took: Duration, ended: &Ended) -> anyhow::Result<Value> {
    // Wine now and then loses its way when a program ends beside threads of its own, and its server kills
    // what takes longer than a second to end. What it had to tell is its last act, and told. One that we
    // killed ourselves stood still.
    let is_lost = match ended.status.signal() {
        Some(SIGSEGV) => true,
        Some(SIGKILL) => took < LIMIT,
        _ => false,
    };
    let told = ended.output.strip_suffix('\n').and_then(|text| text.lines().last());
    let told = told.filter(|line| !line.ends_with(BEGUN));
    ensure!(ended.status.success() || is_lost && told.is_some(), "the act failed");
    if !ended.status.success() {
        tell(&format!("an act told all, and then {ended}"));
    }
    serde_json::from_str(told.unwrap_or_default()).context("the act did not say what came of it")
}

/// Past the capture of tests, which hides what passes: it may be a fault of ours all the same.
fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
