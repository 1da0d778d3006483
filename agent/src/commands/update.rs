//! `update`, and being the program that is tried.

use std::path::PathBuf;

use clap::Args;
use wardring_agent::service::{
    self,
    update::{self, Order, Terms, Updated},
};

use super::install::told;

#[derive(Args)]
pub struct Update {
    /// The new program: a file on this device, or on a share that this account may read.
    #[arg(long)]
    from: PathBuf,
    /// Its sum, as in SHA256SUMS; needed where the installed agent is not signed.
    #[arg(long, value_parser = sum)]
    sha256: Option<String>,
    /// Within which the new program must report, seconds.
    #[arg(long, default_value_t = update::WITHIN_S,
        value_parser = clap::value_parser!(u64).range(10..=3600))]
    report_within: u64,
    /// It may be older than the installed one.
    #[arg(long)]
    allow_downgrade: bool,
    /// It may be one that was tried before and taken back.
    #[arg(long)]
    retry: bool,
}

fn sum(text: &str) -> Result<String, String> {
    let is_sum = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_sum { Ok(text.to_lowercase()) } else { Err("a sum has 64 hexadecimal digits".to_owned()) }
}

#[derive(Args)]
pub struct Trial {
    #[arg(long)]
    data_dir: PathBuf,
}

/// Updates and says what came of it.
pub fn update(update: Update) -> anyhow::Result<()> {
    let Update { from, sha256, report_within, allow_downgrade, retry } = update;
    let terms = Terms { sha256, allow_downgrade, retry };
    let order = Order { from, terms, within_s: report_within };
    match told("updated", service::update::update(&order))? {
        Updated::Already(version) => println!("This very program, {version}, runs already."),
        Updated::Done(version) => println!("The agent is updated and runs as version {version}."),
    }
    Ok(())
}

/// Is tried.
pub fn trial(trial: &Trial) -> anyhow::Result<()> {
    Ok(service::trial(&trial.data_dir)?)
}
