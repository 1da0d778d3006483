//! `cargo xtask demo`: from nothing to a staged rollout on a real API server, and a look at how it ended.
//!
//! Everything that is claimed at the end was read through the Kubernetes API.

mod fleet;
mod report;
mod scenario;
mod screen;
mod watch;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use wardring_e2e::{Fleet, Installation};
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
    runtime.block_on(play(args))
}

async fn play(args: &Args) -> Result<()> {
    let scratch = shell::target_dir().join("demo");
    std::fs::create_dir_all(&scratch)
        .with_context(|| format!("failed to make the folder {}", scratch.display()))?;
    let folder = tempfile::Builder::new().prefix("run-").tempdir_in(&scratch)?;
    let screen = Screen::new();
    let result = tokio::select! {
        played = stories(args, folder.path(), &screen) => match played {
            Ok(played) => played.finish(args, &screen).await,
            Err(error) => Err(error),
        },
        _ = tokio::signal::ctrl_c() => Err(interrupted()),
    };
    if result.is_err() {
        // Logs are worth keeping only if something has to be found out.
        screen.say(&format!("logs are in {}", folder.keep().display()));
    }
    result
}

fn interrupted() -> anyhow::Error {
    anyhow!("interrupted; processes are ended, and the dev cluster with them")
}

/// The stories at their end, with everything still running.
struct Played {
    installation: Installation,
    fleets: Vec<Fleet>,
    reports: Vec<Report>,
    elapsed: Duration,
}

async fn stories(args: &Args, folder: &Path, screen: &Screen) -> Result<Played> {
    let started = Instant::now();
    let installation = install(args, folder, screen).await?;
    let (mut reports, mut fleets) = (Vec::new(), Vec::new());
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
    Ok(Played { installation, fleets, reports, elapsed: started.elapsed() })
}

impl Played {
    /// Says how it went, stays if asked to, and takes everything away again.
    async fn finish(self, args: &Args, screen: &Screen) -> Result<()> {
        if args.keep {
            self.say_what_to_try(screen)?;
        }
        if args.json {
            println!("{}", Report::json(&self.reports, self.elapsed));
        }
        if args.keep {
            tokio::signal::ctrl_c().await.context("failed to wait for Ctrl-C")?;
        }
        drop(self.fleets);
        leave(self.installation).await?;
        let failed = self.reports.iter().filter(|report| !report.holds_true());
        let failed: Vec<_> = failed.map(|report| report.scenario).collect();
        if !failed.is_empty() {
            bail!("not everything was observed as it should be: {}", failed.join(", "));
        }
        Ok(())
    }

    fn say_what_to_try(&self, screen: &Screen) -> Result<()> {
        let kubectl = tools::kubectl()?.path;
        let plugin = wardring_e2e::binary("kubectl-wardring")?;
        let folder = |path: &Path| path.parent().unwrap_or(path).display().to_string();
        let namespace = self.reports.last().map_or("", |report| report.scenario);
        let config = self.installation.cluster.kubeconfig_path().display();
        for line in [
            "\nEverything keeps running until Ctrl-C. In another terminal:\n".to_owned(),
            format!("  export KUBECONFIG={config}"),
            format!("  export PATH={}:{}:$PATH", folder(&kubectl), folder(&plugin)),
            "  kubectl wardring status -A".to_owned(),
            format!("  kubectl wardring explain rollout patch-tuesday -n demo-{namespace}"),
            format!("  kubectl wardring explain device test-001 -n demo-{namespace}"),
            "  kubectl get wdev -A".to_owned(),
            "  kubectl get uhold -A -o yaml".to_owned(),
        ] {
            screen.say(&line);
        }
        Ok(())
    }
}

/// Cluster, chart, controller and two gateways.
async fn install(args: &Args, folder: &Path, screen: &Screen) -> Result<Installation> {
    let cluster = DevCluster::obtain(args.kubeconfig.as_deref()).await?;
    screen.step(if cluster.is_own() {
        "dev cluster: kube-apiserver, etcd and kube-controller-manager run"
    } else {
        "using the cluster that exists"
    });
    if !cluster.is_own() {
        refuse_to_take_over(&cluster).await?;
    }
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

/// The demo's controller leads for every namespace, and at its end the demo uninstalls the chart: on a
/// cluster that is in real use both would do harm.
async fn refuse_to_take_over(cluster: &DevCluster) -> Result<()> {
    let role = ["get", "clusterrole", "wardring-controller", "--ignore-not-found", "-o", "name"];
    if !cluster.kubectl(&role).await?.ok()?.trim().is_empty() {
        bail!(
            "Wardring is installed on this cluster already and the demo would take it over; use another cluster, or unset KUBECONFIG to start one here (an interrupted demo is removed with `helm uninstall wardring -n {}`)",
            wardring_e2e::SYSTEM_NAMESPACE
        );
    }
    let rollouts = cluster.kubectl(&["get", "patchrollouts", "-A", "-o", "name"]).await?;
    // Without the CRDs kubectl fails, and there are none.
    if rollouts.succeeded() && !rollouts.stdout.trim().is_empty() {
        bail!(
            "this cluster holds PatchRollouts, which the demo's controller would act on; use another cluster, or unset KUBECONFIG to start one here"
        );
    }
    Ok(())
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
