//! Walks through many seeds, or replays one: `cargo run -p wardring-sim -- --seed 17 --trace`. Searches
//! the exhaustive model, with the sizes that take minutes: `cargo run -p wardring-sim -- --model`.

use std::ops::Range;

use anyhow::bail;
use clap::Parser;
use wardring_sim::{
    Setup, Verdict,
    clock::MINUTE,
    model::{
        search::{exhaust, walk},
        size::Size,
    },
    simulate,
};

/// A fleet on virtual time, with seeded faults.
#[derive(Parser)]
struct Options {
    /// How many seeds to try.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// First seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Most devices.
    #[arg(long, default_value_t = 8)]
    devices: usize,
    /// Try this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Print everything that happens.
    #[arg(long)]
    trace: bool,
    /// Nothing goes wrong in the cluster.
    #[arg(long)]
    no_faults: bool,
    /// Nobody interferes.
    #[arg(long)]
    no_people: bool,
    /// Devices lose the network just when they were permitted something.
    #[arg(long)]
    cuts: bool,
    /// Search the exhaustive model, and walk through what is too large for that, once per seed.
    #[arg(long)]
    model: bool,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let seeds = match options.seed {
        Some(seed) => seed..seed + 1,
        None => options.from..options.from + options.seeds,
    };
    if options.model {
        return search(seeds);
    }
    let mut failed = 0_u64;
    for seed in seeds {
        let verdict = simulate(Setup {
            seed,
            devices: options.devices,
            faults: !options.no_faults,
            people: !options.no_people,
            cuts: options.cuts,
            prints: options.trace,
        });
        failed += u64::from(!verdict.broken.is_empty());
        tell(&verdict, &options);
    }
    if failed > 0 {
        bail!("{failed} seeds broke a rule");
    }
    Ok(())
}

fn search(seeds: Range<u64>) -> anyhow::Result<()> {
    let mut failed = 0;
    for size in [Size::HUGE, Size::GUARDED_BY_PEOPLE] {
        let walked = walk(size, None, seeds.clone());
        println!("{walked}");
        failed += usize::from(walked.broken.is_some());
    }
    for size in Size::ALL.into_iter().chain(Size::LARGE) {
        let found = exhaust(size, None);
        println!("{found}");
        failed += usize::from(!found.broken.is_empty());
    }
    if failed > 0 {
        bail!("{failed} models broke a rule");
    }
    Ok(())
}

fn tell(verdict: &Verdict, options: &Options) {
    let Verdict { seed, devices, lines, lasted, hash, phases, begun, .. } = verdict;
    println!(
        "seed {seed}: {devices} devices, {lines} lines, {} min, {phases:?}, {begun:?}, {hash:016x}",
        lasted / MINUTE
    );
    for broken in &verdict.broken {
        println!("  {} at {} min: {}", broken.rule, broken.at / MINUTE, broken.how);
    }
    if !verdict.broken.is_empty() {
        println!(
            "  replay: cargo run -p wardring-sim -- --devices {} --seed {seed} --trace{}{}{}",
            options.devices,
            if options.no_faults { " --no-faults" } else { "" },
            if options.no_people { " --no-people" } else { "" },
            if options.cuts { " --cuts" } else { "" },
        );
    }
}
