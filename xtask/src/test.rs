//! `cargo xtask test`: everything there is.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use anyhow::{Context, Result, bail};

use crate::{
    check, fuzz,
    shell::{self, cargo, output, part, shown},
    tools,
};

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// Only tests whose name contains this; the quick checks are left out
    filter: Option<String>,
}

/// Runs the quick checks, then every test of every crate, and ends with one line that counts them.
pub fn run(args: &Args) -> Result<()> {
    tools::prepare()?;
    if args.filter.is_none() {
        check::all()?;
        fuzz::briefly()?;
    }
    shell::build_binaries()?;
    build_for_windows()?;
    let counts = run_tests(args.filter.as_deref())?;
    println!("{} passed, {} failed, {} ignored", counts.passed, counts.failed, counts.ignored);
    if counts.failed > 0 || !counts.success {
        bail!("some tests failed");
    }
    Ok(())
}

/// What tests start under Wine, as they build it themselves: a compiler at work beside them would take
/// the time that they measure.
fn build_for_windows() -> Result<()> {
    let programs: [&[&str]; 3] = [
        &["--package", "wardring-agent", "--bin", "wardring-agent"],
        &["--package", "wardring-agent", "--example", "platform"],
        &["--package", "wardring-fakewua"],
    ];
    part("build for Windows", || {
        programs.iter().try_for_each(|program| {
            let mut build = cargo(&["build", "--quiet", "--target", tools::WINDOWS]);
            output(build.args(*program)).map(drop)
        })
    })
}

/// What the test runners said, summed up.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
    success: bool,
}

fn run_tests(filter: Option<&str>) -> Result<Counts> {
    let mut command = cargo(&["test", "--workspace", "--no-fail-fast"]);
    command.args(filter);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start `{}`", shown(&command)))?;
    let output = child.stdout.take().expect("standard output was asked for as a pipe");
    let mut counts = Counts::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("failed to read what the tests print")?;
        println!("{line}");
        counts.add(&line);
    }
    counts.success = child.wait().context("failed to wait for the tests")?.success();
    Ok(counts)
}

impl Counts {
    /// Adds a line such as `test result: ok. 12 passed; 0 failed; 0 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some((_, parts)) =
            line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in parts.split("; ") {
            let mut words = part.split(' ');
            let number = words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
            match words.next() {
                Some("passed") => self.passed += number,
                Some("failed") => self.failed += number,
                Some("ignored") => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn the_last_line_sums_up_what_every_runner_said() {
        let mut counts = Counts::default();
        for line in [
            "running 3 tests",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.02s",
        ] {
            counts.add(line);
        }
        assert_eq!(counts, Counts { passed: 14, failed: 1, ignored: 1, success: false });
    }
}
