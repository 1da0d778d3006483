//! `wardring-agent`: the agent of one device.

mod commands;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tokio::sync::watch;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use wardring_agent::hresult::{self, Hresult};
use wardring_agent::journal::Durability;
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
    /// Install the agent as a service of this device and start it, or bring an installed one up to date.
    #[cfg(windows)]
    Install(commands::install::Install),
    /// Stop the service and remove it.
    #[cfg(windows)]
    Uninstall(commands::install::Uninstall),
    /// Be the service; only Windows starts this.
    #[cfg(windows)]
    #[command(hide = true)]
    Service(commands::install::Service),
    /// Bring a new program; it takes over when it has shown that it works, and the present one stays
    /// otherwise.
    #[cfg(windows)]
    Update(commands::update::Update),
    /// Be tried; only the agent before it starts this.
    #[cfg(windows)]
    #[command(hide = true)]
    Trial(commands::update::Trial),
    /// Run in the foreground until stopped.
    Run(Run),
    /// Begin nothing on this device until `resume`: no download, installation, removal or restart. It is
    /// still looked at, proven and reported. For an administrator of the device.
    Pause(commands::pause::Pause),
    /// Go on after a `pause`.
    Resume(commands::pause::Resume),
    /// Show who this device is and what it is doing.
    Status(commands::status::Status),
    /// Write what the agent knows and did into an archive, without secrets, for whoever helps.
    SupportBundle(commands::support::SupportBundle),
    /// Say what a code of Windows means and what to do about it; without one, list all that are known.
    Explain(Explain),
    /// Check what the agent needs and assumes of this Windows, without changing it; or, with --exercise,
    /// by changing it.
    ///
    /// Ends with 0 when all is as believed, 1 when something differs, 2 when something that the agent
    /// needs could not be told.
    #[cfg(windows)]
    Selftest(commands::selftest::Selftest),
    /// Go on with an exercise; only Windows starts this.
    #[cfg(windows)]
    #[command(hide = true)]
    ExerciseService,
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

fn main() -> ExitCode {
    let cli = Cli::parse();
    #[cfg(windows)]
    let is_service =
        matches!(cli.command, Command::Service(_) | Command::Trial(_) | Command::ExerciseService);
    #[cfg(not(windows))]
    let is_service = false;
    // A service has nobody at its standard error and writes files.
    if !is_service {
        log_to_stderr();
    }
    let result = match cli.command {
        #[cfg(windows)]
        Command::Install(install) => commands::install::install(install),
        #[cfg(windows)]
        Command::Uninstall(uninstall) => commands::install::uninstall(&uninstall),
        #[cfg(windows)]
        Command::Service(service) => commands::install::serve(service),
        #[cfg(windows)]
        Command::Update(update) => commands::update::update(update),
        #[cfg(windows)]
        Command::Trial(trial) => commands::update::trial(&trial),
        Command::Run(run) => carry(run),
        Command::Pause(asked) => commands::pause::pause(&asked),
        Command::Resume(asked) => commands::pause::resume(&asked),
        Command::Status(status) => commands::status::show(&status),
        Command::SupportBundle(support) => commands::support::write(&support),
        Command::Explain(explain) => tell(&explain),
        #[cfg(windows)]
        Command::Selftest(selftest) => match commands::selftest::run(selftest) {
            Ok(code) => return ExitCode::from(code),
            Err(error) => Err(error),
        },
        #[cfg(windows)]
        Command::ExerciseService => commands::exercise::serve(),
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

fn log_to_stderr() {
    let lines = tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr);
    let filter = wardring_agent::log::filter(LevelFilter::INFO);
    tracing_subscriber::registry().with(filter).with(lines).init();
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
    if wardring_agent::service::exercise::is_under_way() {
        anyhow::bail!(
            "an exercise is under way on this device, and no agent runs beside it; end it with \
             `wardring-agent selftest --exercise --forget`"
        );
    }
    // First: what is read there must be ours.
    wardring_agent::folder::secure(&run.data_dir)?;
    let device =
        wardring_agent::platform::windows::Windows::open(&run.data_dir, run.proxy.as_deref())?;
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
