//! `selftest --exercise`: what only doing shows, on a device that may be lost.

use clap::Args;
use wardring_agent::exercise::{Consent, Record, Restarts, Wish, rows};
use wardring_agent::selftest::Row;
use wardring_agent::service::exercise as service;

#[derive(Args)]
pub struct Exercise {
    /// Really do it, on a device that may be lost: install one update, restart, prove it, remove it,
    /// restart, and prove that it is gone. It goes on by itself after each restart; the same line again
    /// shows how it stands, or ended.
    ///
    /// Never beside an agent: not on a device that is enrolled or was, nor on one with a role that others
    /// need.
    #[arg(long)]
    pub exercise: bool,
    /// The update; the smallest that says of itself that it can be removed without one.
    #[arg(long, requires = "exercise", value_parser = kb)]
    kb: Option<String>,
    /// Stop where the device would be restarted first.
    #[arg(long, requires = "exercise")]
    no_restart: bool,
    /// How long Windows gets to come to rest after an installation or a restart, seconds.
    #[arg(long, requires = "exercise", default_value_t = 180,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    settle: u64,
    /// Countdown before a restart, for whoever works there, seconds.
    #[arg(long, requires = "exercise", default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    countdown: u64,
    /// This device may be lost, and whoever works on it may lose work.
    #[arg(long = "yes-this-device-may-be-lost", requires = "exercise")]
    consent: bool,
    /// End the exercise of this device wherever it is and remove its record. What it installed and did
    /// not remove yet stays.
    #[arg(long, requires = "exercise")]
    forget: bool,
}

fn kb(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("KB").unwrap_or(text);
    let is_kb = (5..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_kb { Ok(format!("KB{digits}")) } else { Err("write it as KB5068787".to_owned()) }
}

/// Does what was asked; the record to show, unless it was to be forgotten.
pub fn run(asked: Exercise) -> anyhow::Result<Option<Record>> {
    if asked.forget {
        service::forget()?;
        println!("The exercise is ended, and its record is gone.");
        return Ok(None);
    }
    if let Some(record) = service::record()? {
        let restarts = asked.no_restart.then_some(Restarts::LeftOut);
        if let Some(why) = record.contradicts(asked.kb.as_deref(), restarts) {
            anyhow::bail!(
                "an exercise is on this device already, and {why}; leave the wish out to see it, or end it \
                 with --forget first"
            );
        }
    } else {
        let wish = Wish {
            kb: asked.kb,
            restarts: if asked.no_restart { Restarts::LeftOut } else { Restarts::Allowed },
            settle_ms: asked.settle * 1_000,
            countdown_ms: asked.countdown * 1_000,
        };
        service::begin(wish, if asked.consent { Consent::Given } else { Consent::Missing })?;
        eprintln!("The exercise has begun. After a restart, the same line shows how it stands.");
    }
    Ok(Some(service::follow(|state| eprintln!("{state}"))?))
}

/// The table, and what the whole of it is called in the document.
pub fn told(record: &Record) -> (Vec<Row>, serde_json::Value) {
    let update = record.chosen.as_ref().map(|chosen| &chosen.target.kb);
    let document = serde_json::json!({
        "begunAt": record.begun_at,
        "update": update,
        "over": record.over,
        "install": record.install,
        "removal": record.removal,
    });
    (rows(record), document)
}

/// Is the service.
pub fn serve() -> anyhow::Result<()> {
    Ok(service::host()?)
}
