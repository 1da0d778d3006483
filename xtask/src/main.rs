//! The project's chores: `cargo xtask check`, `test`, `demo`, `bench`, `fuzz`, `package`, `gen`.
//!
//! Chores are Rust, so that they run the same everywhere and are checked like everything else. They
//! must not decide anything about patching: they build, start and look.

mod bench;
mod check;
mod crds;
mod demo;
mod fuzz;
mod r#gen;
mod package;
mod shell;
mod test;
mod tools;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Chores of the Wardring project")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The quick part: format, lints, licences, crate table, drift of generated files, unit tests
    Check(check::Args),
    /// Everything: the quick part, then every test on the dev cluster, under Wine and with Helm
    Test(test::Args),
    /// Plays a patch Tuesday on a real API server with real agents, and checks how it ends
    Demo(demo::Args),
    /// Measures against the project's limits
    Bench(bench::Args),
    /// Packs the Windows agent for devices, signed on request, under target/package
    Package(package::Args),
    /// Tries arbitrary bytes on what agents read from others
    Fuzz(fuzz::Args),
    /// Writes the generated files (crds/ and its copy in the chart)
    Gen {
        /// Only say whether they are up to date
        #[arg(long)]
        check: bool,
    },
}

fn main() -> std::process::ExitCode {
    let result = match Args::parse().command {
        Command::Check(args) => check::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Package(args) => package::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Gen { check } => crds::generate(check),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
