//! `selftest`: what the agent needs and assumes of this Windows.

use std::io::Write;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::json;
use wardring_agent::platform::windows::selftest::checks;
use wardring_agent::selftest;

use super::exercise::{self, Exercise};

#[derive(Args)]
pub struct Selftest {
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    exercise: Exercise,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for people.
    Text,
    /// A document.
    Json,
}

/// Runs every check, or the exercise, and prints what came of it; the exit code.
pub fn run(asked: Selftest) -> anyhow::Result<u8> {
    let (rows, of_exercise) = if asked.exercise.exercise {
        let Some(record) = exercise::run(asked.exercise)? else { return Ok(0) };
        let (rows, document) = exercise::told(&record);
        (rows, Some(document))
    } else {
        (selftest::run(checks()), None)
    };
    let code = selftest::exit_code(&rows);
    let text = match asked.output {
        // An exercise is told in its order.
        Format::Text if of_exercise.is_some() => selftest::in_order(&rows),
        Format::Text => selftest::text(&rows),
        Format::Json => {
            let mut document = json!({
                "agentVersion": env!("CARGO_PKG_VERSION"),
                "exitCode": code,
                "checks": rows,
            });
            if let Some(exercise) = of_exercise {
                document["exercise"] = exercise;
            }
            format!("{}\n", serde_json::to_string_pretty(&document)?)
        }
    };
    // A reader that has seen enough, like `head`, is no reason to panic.
    std::io::stdout().write_all(text.as_bytes()).context("failed to print the result")?;
    Ok(code)
}
