//! `cargo xtask fuzz`: what agents read from others, under arbitrary bytes, guided by the code reached.

use std::process::Command;

use anyhow::{Context, Result};

use crate::shell::{cargo, output, step, target_dir};

/// The fuzzers, each a program of `fuzz/`.
const FUZZERS: [&str; 5] = ["journal", "dism", "job", "hresult", "probes"];

/// How libFuzzer sees which code an input reaches. Codegen options rather than a sanitizer, which
/// only a nightly compiler offers: there is no unsafe code in what is called.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
    --cfg fuzzing";

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Args {
    /// Only these fuzzers
    #[arg(value_parser = FUZZERS)]
    only: Vec<String>,
    /// Seconds for each
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Seed of the search; random if left out
    #[arg(long, default_value_t = 0)]
    seed: u32,
}

/// Runs the fuzzers one after the other and stops at the first that finds something.
pub fn run(args: &Args) -> Result<()> {
    let wanted = |name: &&str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let bound = format!("-max_total_time={}", args.seconds);
    all(FUZZERS.into_iter().filter(wanted), "corpus", &[&bound, &format!("-seed={}", args.seed)])
}

/// Each fuzzer briefly and always in the same way, as a test: as many inputs on every machine, from
/// the seeds alone.
pub fn briefly() -> Result<()> {
    let fresh = target_dir().join("fuzz/brief");
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh).context("failed to clear the last brief run")?;
    }
    all(FUZZERS.into_iter(), "brief", &["-runs=200000", "-seed=1"])
}

fn all(fuzzers: impl Iterator<Item = &'static str>, corpora: &str, bounds: &[&str]) -> Result<()> {
    let host = output(Command::new("rustc").arg("-vV"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("`rustc -vV` names no host")?.to_owned();
    let folder = target_dir().join("fuzz");
    let mut build = cargo(&["build", "--quiet", "--package", "wardring-fuzz", "--profile", "fuzz"]);
    // With a target the flags do not reach what runs while cargo builds.
    build.args(["--target", &host]).env("RUSTFLAGS", FLAGS).env("CARGO_TARGET_DIR", &folder);
    step("fuzzers", &mut build)?;
    let programs = folder.join(&host).join("fuzz");
    for name in fuzzers {
        let corpus = folder.join(corpora).join(name);
        std::fs::create_dir_all(&corpus)
            .with_context(|| format!("failed to make {}", corpus.display()))?;
        let mut fuzzer = Command::new(programs.join(format!("fuzz-{name}")));
        fuzzer.args([
            "-rss_limit_mb=1024".to_owned(),
            "-timeout=60".to_owned(),
            "-max_len=16384".to_owned(),
            "-verbosity=0".to_owned(),
            "-print_final_stats=1".to_owned(),
            "-print_funcs=0".to_owned(),
            format!("-artifact_prefix={}/found-{name}-", folder.display()),
        ]);
        step(
            &format!("fuzz {name}"),
            fuzzer.args(bounds).arg(&corpus).env("WARDRING_SEEDS", &corpus),
        )?;
    }
    Ok(())
}
