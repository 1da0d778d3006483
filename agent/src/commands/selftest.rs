//! `selftest`: what the agent needs and assumes of this Windows.

use std::io::Write;

use anyhow::Context;
use clap::{Args, ValueEnum};
use wardring_agent::platform::windows::selftest::checks;
use wardring_agent::selftest;

#[derive(Args)]
pub struct Selftest {
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for people.
    Text,
    /// A document.
    Json,
}

/// Runs every check and prints what came of it; the exit code.
pub fn run(asked: &Selftest) -> anyhow::Result<u8> {
    let rows = selftest::run(checks());
    let code = selftest::exit_code(&rows);
    let text = match asked.output {
        Format::Text => selftest::text(&rows),
        Format::Json => {
            let document = serde_json::json!({
                "agentVersion": env!("CARGO_PKG_VERSION"),
                "exitCode": code,
                "checks": rows,
            });
            format!("{}\n", serde_json::to_string_pretty(&document)?)
        }
    };
    // A reader that has seen enough, like `head`, is no reason to panic.
    std::io::stdout().write_all(text.as_bytes()).context("failed to print the result")?;
    Ok(code)
}
