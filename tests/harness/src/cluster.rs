//! A cluster to test on: the dev cluster, started here and ended with us, or one that exists.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use crate::command::{self, Output};
use crate::tools;

mod control;

use control::Control;

/// Service-account tokens last longer than any test; an existing cluster may grant less.
const TOKEN_SECONDS: i64 = 24 * 60 * 60;

/// How resource versions go on after a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revisions {
    /// They go back with the data and are given out a second time: a plain `etcdctl restore`.
    GoBack,
    /// They jump ahead of everything that was ever given out, as etcd's documentation advises.
    JumpAhead,
}

/// A cluster with the administrator's credentials for it.
///
/// A cluster that was started here ends when this value is dropped, and also when this process is
/// killed.
#[derive(Debug)]
pub struct DevCluster {
    kubeconfig: PathBuf,
    server: String,
    /// For kubeconfigs and the caches of kubectl and Helm.
    scratch: TempDir,
    control: Option<Control>,
}

impl DevCluster {
    /// Builds the dev cluster if need be, starts it and waits until it is ready.
    pub async fn start() -> Result<DevCluster> {
        let control = Control::start().await.context("failed to start the dev cluster")?;
        // Within the run's directory, which is swept even if nobody is left to remove this.
        let scratch = TempDir::with_prefix_in("scratch-", control.folder())?;
        let kubeconfig = control.kubeconfig().to_owned();
        let server = control.server().to_owned();
        Ok(DevCluster { kubeconfig, server, scratch, control: Some(control) })
    }

    /// Uses the cluster that the kubeconfig file's current context leads to.
    pub async fn existing(kubeconfig: &Path) -> Result<DevCluster> {
        let client = client_from(kubeconfig).await?;
        let advice = || {
            let file = kubeconfig.display();
            format!("the cluster of {file} does not answer; unset KUBECONFIG to start one here")
        };
        client.apiserver_version().await.with_context(advice)?;
        let (server, _) = current_cluster(kubeconfig)?;
        let kubeconfig = fs::canonicalize(kubeconfig)?;
        Ok(DevCluster { kubeconfig, server, scratch: TempDir::new()?, control: None })
    }

    /// The cluster of the given kubeconfig file, else of the variable KUBECONFIG, else a new one.
    pub async fn obtain(kubeconfig: Option<&Path>) -> Result<DevCluster> {
        let from_env = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty());
        match kubeconfig.map(Path::to_owned).or(from_env.map(PathBuf::from)) {
            Some(file) => DevCluster::existing(&file).await,
            None => DevCluster::start().await,
        }
    }

    /// Whether the cluster was started here, so that its API server may be stopped.
    pub fn is_own(&self) -> bool {
        self.control.is_some()
    }

    /// The administrator's kubeconfig file.
    pub fn kubeconfig_path(&self) -> &Path {
        &self.kubeconfig
    }

    /// The API server's URL. It stays the same over restarts.
    pub fn server_url(&self) -> &str {
        &self.server
    }

    /// A new client with the administrator's rights.
    pub async fn client(&self) -> Result<Client> {
        client_from(&self.kubeconfig).await
    }

    /// Process ids of the cluster's components by name, and of their parent, `up`.
    pub async fn pids(&self) -> Result<BTreeMap<String, u32>> {
        self.control()?.pids().await
    }

    /// The directory of a cluster that was started here, with the logs of its components.
    pub fn folder(&self) -> Option<&Path> {
        self.control.as_ref().map(Control::folder)
    }

    /// Ends the cluster and waits until it is gone. One that was not started here is left alone.
    pub async fn stop(mut self) -> Result<()> {
        match self.control.take() {
            Some(control) => control.stop().await,
            None => Ok(()),
        }
    }

    /// Stops the API server; connections are refused until it is started again.
    pub async fn stop_apiserver(&self) -> Result<()> {
        self.control()?.ask("stop-apiserver").await
    }

    /// Starts the API server again, at the same address, and waits until it is ready.
    pub async fn start_apiserver(&self) -> Result<()> {
        self.control()?.ask("start-apiserver").await
    }

    /// Stops the API server and starts it again.
    pub async fn restart_apiserver(&self) -> Result<()> {
        self.control()?.ask("restart-apiserver").await
    }

    /// Saves everything the cluster stores to a file, as a backup would.
    pub async fn etcd_snapshot(&self, file: &Path) -> Result<()> {
        let file = std::path::absolute(file)?;
        self.control()?.ask(&format!("etcd-snapshot {}", one_word(&file)?)).await
    }

    /// Puts the cluster back to what the snapshot holds and waits until it is ready again.
    pub async fn etcd_restore(&self, file: &Path, revisions: Revisions) -> Result<()> {
        let file = std::path::absolute(file)?;
        let bump = match revisions {
            Revisions::GoBack => "",
            // More than any run writes.
            Revisions::JumpAhead => " 1000000000",
        };
        self.control()?.ask(&format!("etcd-restore {}{bump}", one_word(&file)?)).await
    }

    /// Writes a kubeconfig with a fresh token of the service account and returns its path. The
    /// file lives as long as this value.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, namespace);
        let spec =
            TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..Default::default() };
        let request = TokenRequest { spec: Some(spec), ..Default::default() };
        let issued = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .with_context(|| {
                format!("failed to get a token of service account {namespace}/{name}")
            })?;
        let token = issued.status.context("the API server answered without a token")?.token;
        let (_, cluster) = current_cluster(&self.kubeconfig)?;
        // JSON is YAML too.
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "cluster", "cluster": cluster }],
            "users": [{ "name": name, "user": { "token": token } }],
            "contexts": [{
                "name": "context",
                "context": { "cluster": "cluster", "user": name, "namespace": namespace },
            }],
            "current-context": "context",
        });
        let path = self.scratch.path().join(format!("{namespace}.{name}.kubeconfig"));
        write_private(&path, &serde_json::to_vec_pretty(&config)?)?;
        Ok(path)
    }

    /// Runs kubectl as the administrator.
    pub async fn kubectl<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Output> {
        self.kubectl_with_input(args, "").await
    }

    /// Runs `kubectl apply` on manifests given as text.
    pub async fn kubectl_apply(&self, manifests: &str) -> Result<Output> {
        self.kubectl_with_input(&["apply", "-f", "-"], manifests).await
    }

    /// Runs kubectl as the administrator with a text on its standard input.
    pub async fn kubectl_with_input<S: AsRef<OsStr>>(
        &self,
        args: &[S],
        input: &str,
    ) -> Result<Output> {
        self.run(tools::kubectl, args, input).await
    }

    /// Runs Helm as the administrator, with caches of this cluster's own.
    pub async fn helm<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Output> {
        self.run(tools::helm, args, "").await
    }

    async fn run<S: AsRef<OsStr>>(
        &self,
        tool: fn() -> Result<tools::Tool>,
        args: &[S],
        input: &str,
    ) -> Result<Output> {
        // It may have to be built, which takes its time.
        let tool = tokio::task::spawn_blocking(tool).await??;
        let mut command = Command::new(tool.path);
        command.args(args).envs(self.environment());
        command::run(command, input).await
    }

    /// The variables under which kubectl, its plugins and Helm talk to this cluster, and leave the
    /// user's own settings and caches alone. A cache keyed by address is worse than none here: a
    /// new cluster may get the port, but not the CRDs, of an old one.
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let scratch = self.scratch.path();
        vec![
            ("KUBECONFIG", self.kubeconfig.clone()),
            ("KUBECACHEDIR", scratch.join("kube-cache")),
            ("HELM_CACHE_HOME", scratch.join("helm-cache")),
            ("HELM_CONFIG_HOME", scratch.join("helm-config")),
            ("HELM_DATA_HOME", scratch.join("helm-data")),
        ]
    }

    fn control(&self) -> Result<&Control> {
        self.control.as_ref().context(
            "this cluster was not started here, so its API server and data are left alone; unset \
             KUBECONFIG for tests that stop them",
        )
    }
}

/// A new client with the credentials of a kubeconfig file's current context.
pub async fn client_from(kubeconfig: &Path) -> Result<Client> {
    let shown = kubeconfig.display();
    let loaded = Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("failed to read the kubeconfig {shown}"))?;
    let config = Config::from_custom_kubeconfig(loaded, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("failed to use the kubeconfig {shown}"))?;
    Ok(Client::try_from(config)?)
}

/// The server's URL and the whole cluster entry of the current context.
fn current_cluster(kubeconfig: &Path) -> Result<(String, serde_json::Value)> {
    let config = Kubeconfig::read_from(kubeconfig)?;
    let wanted = config.current_context.as_deref().unwrap_or_default();
    let context = config.contexts.iter().find(|context| context.name == wanted);
    let name = context.and_then(|context| context.context.as_ref()).map(|context| &context.cluster);
    let cluster = config.clusters.iter().find(|cluster| Some(&cluster.name) == name);
    let Some(cluster) = cluster.and_then(|cluster| cluster.cluster.as_ref()) else {
        bail!("kubeconfig {} has no cluster for its current context", kubeconfig.display());
    };
    Ok((cluster.server.clone().unwrap_or_default(), serde_json::to_value(cluster)?))
}

/// The control socket takes lines of words.
fn one_word(file: &Path) -> Result<&str> {
    let text = file.to_str().filter(|text| !text.contains(char::is_whitespace));
    text.with_context(|| format!("the path {} must have no white space", file.display()))
}

/// Writes a file that only its owner may read.
fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content).with_context(|| format!("failed to write {}", path.display()))
}
