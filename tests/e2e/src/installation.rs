//! Chart, controllers and gateways.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{Api, api::PostParams};
use serde_json::Value;
use wardring_api::names::ROOTS_CONFIGMAP;
use wardring_harness::{DevCluster, Process, wait_until};

use crate::{Tenant, binary};

/// Where the chart goes.
pub const SYSTEM_NAMESPACE: &str = "wardring-system";

/// How long a process of ours may take to be ready. Many times what it needs on an idle machine.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// An installation whose processes run here: the dev cluster starts no pods.
///
/// Fields are public so that a test can take a process, freeze it, kill it, and start another.
pub struct Installation {
    /// The cluster it is installed on.
    pub cluster: DevCluster,
    /// Folder for logs and data.
    pub folder: PathBuf,
    /// Controllers, in the order of their start.
    pub controllers: Vec<Controller>,
    /// Gateways, in the order of their start.
    pub gateways: Vec<Gateway>,
    started: usize,
}

/// A controller.
pub struct Controller {
    /// The process.
    pub process: Process,
    /// Base URL of health and metrics.
    pub http: String,
}

/// A gateway.
pub struct Gateway {
    /// The process.
    pub process: Process,
    /// URL for agents.
    pub url: String,
    /// Base URL of health and metrics.
    pub http: String,
}

impl Installation {
    /// Installs the chart: CRDs, roles, service accounts, policies. No process is started.
    pub async fn install(cluster: DevCluster, folder: &Path) -> Result<Installation> {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/wardring");
        let chart = chart.display().to_string();
        // Without pods: the processes run here, and nobody built images.
        let no_pods = "controller.replicas=0,gateway.replicas=0";
        let namespace = ["--namespace", SYSTEM_NAMESPACE, "--create-namespace"];
        let install = ["upgrade", "--install", "wardring", &chart, "--set", no_pods];
        cluster.helm(&[&install[..], &namespace].concat()).await?.ok()?;
        let wait = ["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"];
        cluster.kubectl(&wait).await?.ok()?;
        Ok(Installation {
            cluster,
            folder: folder.to_owned(),
            controllers: Vec::new(),
            gateways: Vec::new(),
            started: 0,
        })
    }

    /// Starts a controller with its own service account's token and waits until it is ready and has
    /// published the root certificates.
    pub async fn start_controller(&mut self, more: &[&str]) -> Result<()> {
        let mut command = self.command("wardring-controller").await?;
        command.args(["--presence-listen", "127.0.0.1:0", "--advertise-host", "127.0.0.1"]);
        command.args(more);
        let (process, ready) = self.spawn("controller", command).await?;
        let http = url("http", &ready, "listen")?;
        self.controllers.push(Controller { process, http });
        let roots: Api<ConfigMap> = Api::namespaced(self.cluster.client().await?, SYSTEM_NAMESPACE);
        wait_until(READY_LIMIT, "the controller to publish its root certificates", async || {
            roots.get_opt(ROOTS_CONFIGMAP).await.ok().flatten()
        })
        .await?;
        Ok(())
    }

    /// Starts a gateway with its own service account's token and waits until it is ready.
    pub async fn start_gateway(&mut self, more: &[&str]) -> Result<()> {
        let gateway = self.new_gateway("127.0.0.1:0", more).await?;
        self.gateways.push(gateway);
        Ok(())
    }

    /// Starts a gateway in the place of one that has ended, at its address: agents know no other.
    pub async fn replace_gateway(&mut self, index: usize, more: &[&str]) -> Result<()> {
        let url = self.gateways[index].url.clone();
        let address = url.strip_prefix("https://").context("gateways speak HTTPS")?;
        self.gateways[index] = self.new_gateway(address, more).await?;
        Ok(())
    }

    async fn new_gateway(&mut self, listen: &str, more: &[&str]) -> Result<Gateway> {
        let mut command = self.command("wardring-gateway").await?;
        command.args(["--listen", listen]).args(more);
        let (process, ready) = self.spawn("gateway", command).await?;
        let http = url("http", &ready, "httpListen")?;
        Ok(Gateway { process, url: url("https", &ready, "listen")?, http })
    }

    /// URLs for agents.
    pub fn gateway_urls(&self) -> Vec<String> {
        self.gateways.iter().map(|gateway| gateway.url.clone()).collect()
    }

    /// Makes a tenant: a namespace of its own.
    pub async fn tenant(&self, namespace: &str) -> Result<Tenant<'_>> {
        let namespaces: Api<Namespace> = Api::all(self.cluster.client().await?);
        let wanted = serde_json::json!({ "metadata": { "name": namespace } });
        let wanted = serde_json::from_value(wanted).context("a namespace has a name")?;
        namespaces
            .create(&PostParams::default(), &wanted)
            .await
            .with_context(|| format!("failed to create namespace {namespace}"))?;
        Ok(self.tenant_in(namespace))
    }

    /// The tenant in a namespace that exists.
    pub fn tenant_in(&self, namespace: &str) -> Tenant<'_> {
        Tenant::new(self, namespace)
    }

    async fn command(&self, name: &str) -> Result<Command> {
        let kubeconfig = self.cluster.service_account_kubeconfig(SYSTEM_NAMESPACE, name).await?;
        let mut command = Command::new(binary(name)?);
        command.env("KUBECONFIG", kubeconfig);
        command.args(["--system-namespace", SYSTEM_NAMESPACE, "--http-listen", "127.0.0.1:0"]);
        Ok(command)
    }

    /// Starts a process and returns what it printed when it was ready.
    async fn spawn(&mut self, name: &str, command: Command) -> Result<(Process, Value)> {
        self.started += 1;
        let name = format!("{name}-{}", self.started);
        let log = self.folder.join(format!("{name}.log"));
        let mut process = Process::spawn(&name, command, &log)?;
        let line = process.wait_for_line(READY_LIMIT, "\"ready\":true").await?;
        let ready = serde_json::from_str(&line)
            .with_context(|| format!("{name} printed {line:?}, which is not JSON"))?;
        Ok((process, ready))
    }
}

/// The URL of the address in one field of the ready line.
fn url(scheme: &str, ready: &Value, field: &str) -> Result<String> {
    let address = ready[field].as_str().with_context(|| format!("{ready} names no {field}"))?;
    Ok(format!("{scheme}://{address}"))
}
