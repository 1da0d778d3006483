//! `cargo xtask demo`: from nothing to a staged rollout on a real API server, and a look at how it ended.
//!
//! Everything that is claimed at the end was read through the Kubernetes API.

mod fleet;
mod report;
mod scenario;
mod screen;
mod watch;
mod writes;

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use wardring_e2e::Installation;
use wardring_harness::{DevCluster, tools};

use crate::shell;
use report::Report;
use scenario::Scenario;
use screen::Screen;

/// Smaller fleets have too few test servers for the failures to be told from bad luck.
const FEWEST_DEVICES: i64 = 12;

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct Args {
    /// Which story
    #[arg(long, value_enum, default_value_t = Choice::All)]
    scenario: Choice,
    /// How many devices
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(FEWEST_DEVICES..=5_000))]
    devices: u16,
    /// Leave everything running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// End standard output with one JSON object
    #[arg(long)]
    json: bool,
    /// Use the cluster of this file (default: KUBECONFIG, else a dev cluster is started)
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// Which story.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// Three stages, all proven
    Good,
    /// An update breaks SQL Server on the test servers
    Bad,
    /// Two workstations never come back
    Silent,
    /// One after the other
    All,
}

impl Choice {
    fn scenarios(self) -> &'static [Scenario] {
        match self {
            Choice::Good => &[Scenario::Good],
            Choice::Bad => &[Scenario::Bad],
            Choice::Silent => &[Scenario::Silent],
            Choice::All => &[Scenario::Good, Scenario::Bad, Scenario::Silent],
        }
    }
}

/// Runs the demo. An error means that the story did not end as it should.
pub fn run(args: &Args) -> Result<()> {
    shell::build_binaries()?;
    let runtime = tokio::runtime::Runtime::new().context("failed to start the async runtime")?;
    runtime.block_on(async {
        tokio::select! {
            result = play(args) => result,
            _ = tokio::signal::ctrl_c() => bail!("interrupted; everything that was started is ended"),
        }
    })
}

async fn play(args: &Args) -> Result<()> {
    let scratch = shell::target_dir().join("demo");
    std::fs::create_dir_all(&scratch)
        .with_context(|| format!("failed to make the folder {}", scratch.display()))?;
    let folder = tempfile::Builder::new().prefix("run-").tempdir_in(&scratch)?;
    let screen = Screen::new();
    let result = stories(args, folder.path(), &screen).await;
    match &result {
        // Logs are worth keeping only if something has to be found out.
        Err(_) => screen.say(&format!("logs are in {}", folder.keep().display())),
        Ok(()) => drop(folder),
    }
    result
}

async fn stories(args: &Args, folder: &std::path::Path, screen: &Screen) -> Result<()> {
    let started = Instant::now();
    let installation = install(args, folder, screen).await?;
    let mut reports = Vec::new();
    let mut fleets = Vec::new();
    for scenario in args.scenario.scenarios() {
        let (report, fleet) = scenario
            .play(&installation, args.devices.into(), screen)
            .await
            .with_context(|| format!("the story `{}` broke off", scenario.name()))?;
        report.print(screen);
        reports.push(report);
        if args.keep {
            fleets.push(fleet);
        }
    }
    let failed: Vec<_> = reports
        .iter()
        .filter(|report| !report.holds_true())
        .map(|report| report.scenario)
        .collect();
    if args.keep {
        stay(&installation, screen).await?;
    }
    drop(fleets);
    if args.json {
        println!("{}", Report::json(&reports, started.elapsed()));
    }
    if !failed.is_empty() {
        bail!("not everything was observed as it should be: {}", failed.join(", "));
    }
    leave(installation).await
}

/// Cluster, chart, controller and two gateways.
async fn install(args: &Args, folder: &std::path::Path, screen: &Screen) -> Result<Installation> {
    let cluster = DevCluster::obtain(args.kubeconfig.as_deref()).await?;
    screen.step(if cluster.is_own() {
        "dev cluster: kube-apiserver, etcd and kube-controller-manager run"
    } else {
        "using the cluster that exists"
    });
    let mut installation = Installation::install(cluster, folder).await?;
    screen.step("chart installed: CRDs, service accounts, roles, policies");
    installation.start_controller(&["--lease-duration", "5s", "--lease-renew", "1s"]).await?;
    screen.step("controller leads, certificate authority made");
    for _ in 0..2 {
        installation.start_gateway(&[]).await?;
    }
    screen.step("two gateways listen for agents (mTLS)");
    Ok(installation)
}

/// Says what to try, and waits for Ctrl-C (which ends the whole demo).
async fn stay(installation: &Installation, screen: &Screen) -> Result<()> {
    let kubectl = tools::kubectl()?.path;
    let folder = |path: &std::path::Path| path.parent().unwrap_or(path).display().to_string();
    let plugin = wardring_e2e::binary("kubectl-wardring")?;
    screen.say("\nEverything keeps running until Ctrl-C. In another terminal:\n");
    screen
        .say(&format!("  export KUBECONFIG={}", installation.cluster.kubeconfig_path().display()));
    screen.say(&format!("  export PATH={}:{}:$PATH", folder(&kubectl), folder(&plugin)));
    for line in [
        "kubectl wardring status -A",
        "kubectl wardring explain rollout patch-tuesday -n demo-bad",
        "kubectl get wdev -A",
        "kubectl get uhold -A -o yaml",
    ] {
        screen.say(&format!("  {line}"));
    }
    std::future::pending().await
}

/// Takes everything away again: our own cluster whole, from one that exists only what we put there.
async fn leave(installation: Installation) -> Result<()> {
    let Installation { cluster, controllers, gateways, .. } = installation;
    if !cluster.is_own() {
        for scenario in Choice::All.scenarios() {
            let namespace = scenario.namespace();
            let delete =
                ["delete", "namespace", &namespace, "--ignore-not-found", "--timeout=120s"];
            cluster.kubectl(&delete).await?.ok()?;
        }
        let uninstall = ["uninstall", "wardring", "--namespace", wardring_e2e::SYSTEM_NAMESPACE];
        cluster.helm(&uninstall).await?.ok()?;
    }
    drop((controllers, gateways));
    cluster.stop().await
}
