//! Many scripted devices in one process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use wardring_agent::journal::Durability;
use wardring_agent::platform::scripted::World;
use wardring_agent::run::{Setup, live_scripted};

/// Runs many scripted devices against real gateways.
#[derive(Parser)]
#[command(version, name = "wardring-fleet")]
struct Cli {
    /// Address of a gateway, https://HOST:PORT; may be repeated or separated by commas.
    #[arg(long = "gateway", env = "WARDRING_GATEWAY", value_delimiter = ',', required = true)]
    gateways: Vec<String>,
    /// Fleet file.
    #[arg(long)]
    fleet: PathBuf,
    /// Folder with one folder per device.
    #[arg(long)]
    data_dir: PathBuf,
    /// Milliseconds between the starts of two devices.
    #[arg(long, default_value_t = 5)]
    stagger_ms: u64,
    /// Longest a gateway is asked to hold a poll, seconds.
    #[arg(long, default_value_t = 55, value_parser = clap::value_parser!(u64).range(1..=300))]
    poll_wait: u64,
}

/// A fleet file, YAML or JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fleet {
    /// Token of every device that has none of its own.
    #[serde(default)]
    token: Option<String>,
    /// Worlds by name.
    worlds: BTreeMap<String, World>,
    devices: Vec<Devices>,
}

/// One device, or `count` of them named `<name>1`, `<name>2`, …
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Devices {
    name: String,
    #[serde(default)]
    count: Option<usize>,
    world: String,
    #[serde(default)]
    token: Option<String>,
}

struct Member {
    name: String,
    world: Arc<World>,
    token: Option<String>,
}

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let lines = tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr);
    let filter = wardring_agent::log::filter(LevelFilter::ERROR);
    tracing_subscriber::registry().with(filter).with(lines).init();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wardring-fleet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(cli: Cli) -> anyhow::Result<()> {
    let members = read(&cli.fleet)?;
    let total = members.len();
    // A signal ends the process; what the devices were doing stands in their journals.
    let stop = watch::Sender::new(false);
    let enrolled = Arc::new(AtomicUsize::new(0));
    let (all_enrolled, mut enrolled_all) = watch::channel(total == 0);
    let mut devices = JoinSet::new();
    for member in members {
        let setup = Setup {
            gateways: cli.gateways.clone(),
            proxy: None,
            token: member.token,
            folder: cli.data_dir.join(&member.name),
            name: member.name.clone(),
            durability: Durability::Process,
            poll_wait_s: cli.poll_wait,
            enrol_within: Duration::from_secs(600),
        };
        let (enrolled, all_enrolled) = (Arc::clone(&enrolled), all_enrolled.clone());
        let arrived = move || {
            if enrolled.fetch_add(1, Ordering::Relaxed) + 1 == total {
                all_enrolled.send_replace(true);
            }
        };
        let stopped = stop.subscribe();
        devices.spawn(async move {
            let lived = live_scripted(setup, member.world, stopped, arrived).await;
            lived.with_context(|| format!("device {} cannot take part", member.name))
        });
        tokio::time::sleep(Duration::from_millis(cli.stagger_ms)).await;
    }
    let ready = async {
        if enrolled_all.wait_for(|all| *all).await.is_ok() {
            println!("{}", serde_json::json!({ "ready": true, "devices": total }));
        }
        std::future::pending().await
    };
    let ended = async {
        while let Some(ended) = devices.join_next().await {
            ended??;
        }
        Ok(())
    };
    tokio::select! {
        never = ready => never,
        ended = ended => ended,
        () = stop_signal() => Ok(()),
    }
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(_) => std::future::pending().await,
    }
}

/// Reads the fleet file into one member per device.
fn read(path: &Path) -> anyhow::Result<Vec<Member>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("failed to read the fleet file {}", path.display()))?;
    let fleet: Fleet = serde_yaml::from_str(&text)
        .with_context(|| format!("failed to understand the fleet file {}", path.display()))?;
    let mut worlds = BTreeMap::new();
    for (name, world) in fleet.worlds {
        world.check().with_context(|| format!("world {name} is wrong"))?;
        worlds.insert(name, Arc::new(world));
    }
    let mut members = Vec::new();
    for devices in &fleet.devices {
        let Some(world) = worlds.get(&devices.world) else {
            bail!("device {} names world {}, which does not exist", devices.name, devices.world);
        };
        let names: Vec<String> = match devices.count {
            None => vec![devices.name.clone()],
            Some(count) => (1..=count).map(|number| format!("{}{number}", devices.name)).collect(),
        };
        let token = devices.token.as_ref().or(fleet.token.as_ref());
        members.extend(names.into_iter().map(|name| Member {
            name,
            world: Arc::clone(world),
            token: token.cloned(),
        }));
    }
    Ok(members)
}
