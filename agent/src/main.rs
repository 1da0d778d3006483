//! `wardring-agent`: the agent of one device.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tokio::sync::watch;
use wardring_agent::hresult::{self, Hresult};
use wardring_agent::identity::{IdentityFile, Known};
use wardring_agent::journal::{Durability, Journal, Loaded, SCHEMA};
use wardring_agent::run::Setup;

/// Patches this device on behalf of a Wardring controller, and proves it.
#[derive(Parser)]
#[command(version, name = "wardring-agent")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run in the foreground until stopped.
    Run(Run),
    /// Show who this device is and what it is doing.
    Status(Status),
    /// Say what a code of Windows means and what to do about it; without one, list all that are known.
    Explain(Explain),
    /// Print the version.
    Version,
}

#[derive(Args)]
struct Explain {
    /// The code, such as 0x80070643, 3010 or -2145124329.
    #[arg(allow_negative_numbers = true)]
    code: Option<Hresult>,
}

#[derive(Args)]
struct Run {
    /// Address of a gateway, https://HOST:PORT; may be repeated.
    #[arg(long = "gateway", env = "WARDRING_GATEWAY", value_delimiter = ',', required = true)]
    gateways: Vec<String>,
    /// Enrolment token; needed until the device is enrolled.
    #[arg(long, env = "WARDRING_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Name of the device.
    #[arg(long, env = "WARDRING_NAME")]
    name: String,
    /// Folder of journal and identity.
    #[arg(long, env = "WARDRING_DATA_DIR")]
    data_dir: PathBuf,
    /// Proxy for the connection to the gateways, http://HOST:PORT.
    #[arg(long, env = "WARDRING_PROXY")]
    proxy: Option<String>,
    /// Longest a gateway is asked to hold a poll, seconds.
    #[arg(long, default_value_t = 55, value_parser = clap::value_parser!(u64).range(1..=300))]
    poll_wait: u64,
    /// How long a device that is not enrolled yet tries before it gives up, seconds.
    #[arg(long, default_value_t = 600)]
    enrol_within: u64,
    /// World file of the scripted device.
    #[cfg(all(feature = "scripted", not(windows)))]
    #[arg(long)]
    world: PathBuf,
}

#[derive(Args)]
struct Status {
    /// Folder of journal and identity.
    #[arg(long, env = "WARDRING_DATA_DIR")]
    data_dir: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("WARDRING_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    let result = match cli.command {
        Command::Run(run) => carry(run),
        Command::Status(status) => show(&status),
        Command::Explain(explain) => tell(&explain),
        Command::Version => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wardring-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry(run: Run) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    runtime.block_on(async {
        let stop = watch::Sender::new(false);
        let stopped = stop.subscribe();
        tokio::spawn(async move {
            stop_signal().await;
            tracing::info!("stopping");
            stop.send_replace(true);
        });
        live(run, stopped).await
    })
}

impl Run {
    fn setup(&self) -> Setup {
        Setup {
            gateways: self.gateways.clone(),
            proxy: self.proxy.clone(),
            token: self.token.clone(),
            name: self.name.clone(),
            folder: self.data_dir.clone(),
            durability: Durability::Disk,
            poll_wait_s: self.poll_wait,
            enrol_within: Duration::from_secs(self.enrol_within),
        }
    }
}

/// One line on standard output once the device is enrolled, for whoever started the agent.
fn print_ready(name: &str) {
    println!("{}", serde_json::json!({ "ready": true, "device": name }));
}

#[cfg(windows)]
async fn live(run: Run, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let device = wardring_agent::platform::windows::Windows::open(&run.data_dir)?;
    let ready = run.setup().prepare().await?;
    print_ready(&run.name);
    ready.run(std::sync::Arc::new(device), ready.gateway(), stop).await;
    Ok(())
}

#[cfg(all(feature = "scripted", not(windows)))]
async fn live(run: Run, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    use wardring_agent::platform::scripted::World;
    let world = std::sync::Arc::new(World::read(&run.world)?);
    wardring_agent::run::live_scripted(run.setup(), world, stop, || print_ready(&run.name)).await?;
    Ok(())
}

#[cfg(all(not(feature = "scripted"), not(windows)))]
async fn live(_run: Run, _stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    anyhow::bail!(
        "this build has no device to look after: build it for Windows, or with the feature `scripted`"
    )
}

#[cfg(unix)]
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = signal(SignalKind::terminate());
    match terminate {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

#[cfg(not(unix))]
async fn stop_signal() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without a console there is nobody to press the keys.
        std::future::pending::<()>().await;
    }
}

fn tell(explain: &Explain) -> anyhow::Result<()> {
    let line = |hresult: Hresult| {
        let source =
            hresult.known().map_or("unknown; judged by its facility", |known| known.source.page());
        format!("{}\n    {source}\n", hresult.explanation())
    };
    let text = match explain.code {
        Some(code) => line(code),
        None => hresult::all().iter().map(|known| line(Hresult(known.code))).collect(),
    };
    // A reader that has seen enough, like `head`, is no reason to panic.
    std::io::stdout().write_all(text.as_bytes()).context("failed to print the explanation")
}

fn show(status: &Status) -> anyhow::Result<()> {
    let known = IdentityFile::new(&status.data_dir).load()?;
    let identity = match &known {
        Known::Nothing => serde_json::json!({ "enrolled": false }),
        Known::Applicant(applicant) => {
            serde_json::json!({ "enrolled": false, "asking": applicant.device })
        }
        Known::Enrolled(identity) => serde_json::json!({
            "enrolled": true,
            "namespace": identity.me.namespace,
            "device": identity.me.device,
            "enrolmentId": identity.me.device_id,
            "certificateEnds": identity.details.not_after,
        }),
    };
    let folder = status.data_dir.display();
    let loaded = Journal::new(&status.data_dir, Durability::Disk).load();
    let trouble = match &loaded {
        Loaded::Lost(why) => Some(format!(
            "the journal in {folder} is damaged ({why}); start the agent: it tells the controller \
             that the job in hand is lost and begins a new journal"
        )),
        Loaded::Newer(found) => Some(format!(
            "the journal in {folder} was written by a newer agent (layout {found}; this one reads \
             {SCHEMA}); use the newer agent"
        )),
        Loaded::Fresh | Loaded::Found(_) => None,
    };
    let journal = match loaded {
        Loaded::Fresh => serde_json::json!({ "state": "none" }),
        Loaded::Lost(why) => serde_json::json!({ "state": "lost", "why": why }),
        Loaded::Newer(found) => serde_json::json!({ "state": "newer", "layout": found }),
        Loaded::Found(saved) => serde_json::json!({
            "state": "found",
            "mode": saved.state.mode,
            "boot": saved.state.boot,
            "build": saved.state.build,
            "job": saved.state.job.as_ref().map(|job| serde_json::json!({
                "rollout": job.payload.rollout,
                "attempt": job.payload.key.attempt,
                "phase": job.phase.word(),
                "message": job.message,
            })),
            "lastOutcome": saved.state.finished.last(),
            "reportsWaiting": !saved.outbox.is_empty(),
        }),
    };
    let text = serde_json::json!({ "identity": identity, "journal": journal });
    // A reader that has seen enough, like `head`, is no reason to panic.
    writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&text)?)
        .context("failed to print the status")?;
    trouble.map_or(Ok(()), |trouble| Err(anyhow::Error::msg(trouble)))
}
