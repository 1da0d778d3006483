//! `status`: who this device is and what it is doing.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::Value;

#[derive(Args)]
pub struct Status {
    #[command(flatten)]
    data: DataFolder,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Where the data is.
#[derive(Args)]
pub struct DataFolder {
    /// Folder of journal and identity.
    #[cfg_attr(windows, doc = "Without it, the installed agent's.")]
    #[arg(long, env = "WARDRING_DATA_DIR", required = cfg!(not(windows)))]
    data_dir: Option<PathBuf>,
}

impl DataFolder {
    /// The folder named, or the usual one.
    pub fn get(&self) -> anyhow::Result<PathBuf> {
        if let Some(folder) = &self.data_dir {
            return Ok(folder.clone());
        }
        usual_folder()
    }
}

#[cfg(windows)]
fn usual_folder() -> anyhow::Result<PathBuf> {
    wardring_agent::service::used_folder().context("failed to find the data folder")
}

#[cfg(not(windows))]
fn usual_folder() -> anyhow::Result<PathBuf> {
    anyhow::bail!("name the data folder with --data-dir")
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A few lines for people.
    Text,
    /// A document.
    Json,
}

/// Prints the status. A folder that nobody may look into is an error, not an empty one.
pub fn show(status: &Status) -> anyhow::Result<()> {
    let folder = status.data.get()?;
    readable(&folder)?;
    let read = wardring_agent::status::read(&folder)?;
    let text = match status.output {
        Format::Json => serde_json::to_string_pretty(&read.document)? + "\n",
        Format::Text => lines(&read.document),
    };
    // A reader that has seen enough, like `head`, is no reason to panic.
    std::io::stdout().write_all(text.as_bytes()).context("failed to print the status")?;
    read.trouble.map_or(Ok(()), |trouble| Err(anyhow::Error::msg(trouble)))
}

/// Without this, a missing right would look like a device that was never enrolled.
fn readable(folder: &Path) -> anyhow::Result<()> {
    match std::fs::read_dir(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let folder = folder.display().to_string();
            Err(error).context(format!("failed to look into {folder}; are you an administrator?"))
        }
        _ => Ok(()),
    }
}

fn lines(status: &Value) -> String {
    let (identity, journal) = (&status["identity"], &status["journal"]);
    let text = |value: &Value| value.as_str().map_or_else(|| "-".to_owned(), str::to_owned);
    let mut lines = Vec::new();
    lines.push(match (&identity["enrolled"], &identity["asking"]) {
        (Value::Bool(true), _) => format!(
            "device       {} in {}\ncertificate  until {}",
            text(&identity["device"]),
            text(&identity["namespace"]),
            text(&identity["certificateEnds"])
        ),
        (_, Value::String(name)) => format!("device       {name}, waits for its enrolment"),
        _ => "device       not enrolled".to_owned(),
    });
    if let Some(paused) = status["paused"]["sentence"].as_str() {
        lines.push(format!("paused       {paused}"));
    }
    if journal["state"] == "found" {
        lines.push(format!("mode         {}", text(&journal["mode"])));
        lines.push(format!("build        {}", text(&journal["build"])));
        let job = &journal["job"];
        lines.push(match job {
            Value::Null => "job          none".to_owned(),
            job => format!(
                "job          {} attempt {}: {}; {}",
                text(&job["rollout"]),
                job["attempt"],
                text(&job["phase"]),
                text(&job["message"])
            ),
        });
        let last = &journal["lastOutcome"];
        if !last.is_null() {
            lines.push(format!(
                "last job     {}: {}",
                text(&last["result"]),
                text(&last["message"])
            ));
        }
        let watches = journal["watches"].as_array().map(Vec::as_slice).unwrap_or_default();
        lines.extend(watches.iter().map(watched));
        if journal["reportsWaiting"] == true {
            lines.push("reports      wait for a gateway".to_owned());
        }
    } else {
        lines.push(format!("journal      {}", text(&journal["state"])));
    }
    let update = &status["agentUpdate"];
    if let Some(stage) = update["underway"]["stage"].as_str() {
        lines.push(format!("update       to {}: {stage}", text(&update["underway"]["version"])));
    } else if update["last"].is_object() {
        let last = &update["last"];
        let (version, end, why) = (text(&last["version"]), text(&last["end"]), text(&last["why"]));
        lines.push(format!("update       to {version}: {end}; {why}"));
    }
    lines.join("\n") + "\n"
}

/// What is looked at further after an installation, and how it is.
fn watched(watch: &Value) -> String {
    let names = |field: &str| -> Vec<&str> {
        let named = watch[field].as_array().map(Vec::as_slice).unwrap_or_default();
        named.iter().filter_map(Value::as_str).collect()
    };
    let mut looked_at = names("services");
    looked_at.extend(names("probes"));
    let worse = watch["unhealthy"].as_array().map(Vec::as_slice).unwrap_or_default();
    let worse: Vec<String> = worse
        .iter()
        .map(|worse| {
            let text = |field: &str| worse[field].as_str().unwrap_or_default();
            format!("{} {} ({})", text("kind"), text("name"), text("why"))
        })
        .collect();
    let found = match (worse.as_slice(), &watch["blind"]) {
        ([], Value::Bool(true)) => "cannot be looked at".to_owned(),
        ([], _) => "as before it".to_owned(),
        (worse, _) => format!("worse: {}", worse.join(", ")),
    };
    let until = watch["until"].as_str().unwrap_or("-");
    let what = if looked_at.is_empty() { "restarts".to_owned() } else { looked_at.join(", ") };
    format!("looked at    {what}, after an installation, until {until}: {found}")
}
