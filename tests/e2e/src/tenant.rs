//! A namespace with devices, groups and rollouts.

use std::process::Command;

use anyhow::{Context, Result};
use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde_json::Value;

use crate::{Fleet, FleetFile, Installation, binary};

/// A tenant of an installation.
pub struct Tenant<'a> {
    installation: &'a Installation,
    /// Its namespace.
    pub namespace: String,
}

/// What a new enrolment token is good for.
pub struct TokenOptions<'a> {
    /// Name of the token.
    pub name: &'a str,
    /// `key=value`.
    pub labels: &'a [&'a str],
    /// Devices it may admit.
    pub max_uses: usize,
    /// Whether it may give an enrolled device a new key.
    pub may_replace: bool,
}

impl<'a> Tenant<'a> {
    pub(crate) fn new(installation: &'a Installation, namespace: &str) -> Tenant<'a> {
        Tenant { installation, namespace: namespace.to_owned() }
    }

    /// Objects of the tenant.
    pub async fn api<K>(&self) -> Result<Api<K>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Ok(Api::namespaced(self.client().await?, &self.namespace))
    }

    /// A client with the administrator's rights.
    pub async fn client(&self) -> Result<Client> {
        self.installation.cluster.client().await
    }

    /// Runs the plugin in the tenant's namespace; returns what it printed.
    pub async fn plugin(&self, args: &[&str]) -> Result<String> {
        let mut command = tokio::process::Command::from(self.plugin_command(args)?);
        let output = command.output().await.context("failed to start kubectl-wardring")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(
            output.status.success(),
            "`kubectl wardring {}`: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(text)
    }

    fn plugin_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary("kubectl-wardring")?);
        command.envs(self.installation.cluster.environment());
        command.args(args).args(["--namespace", &self.namespace]);
        Ok(command)
    }

    /// Makes an enrolment token for devices in mode Manage, as an operator does; returns its text.
    pub async fn token(&self, options: &TokenOptions<'_>) -> Result<String> {
        let uses = options.max_uses.max(1).to_string();
        let mut args = vec!["enroll", "--name", options.name, "--mode", "Manage", "-o", "json"];
        args.extend(["--max-uses", &uses]);
        if options.may_replace {
            args.push("--may-replace");
        }
        args.extend(options.labels.iter().flat_map(|label| ["--label", label]));
        let answer: Value = serde_json::from_str(&self.plugin(&args).await?)?;
        let token = answer["token"].as_str().context("`enroll` printed no token")?;
        Ok(token.to_owned())
    }

    /// Starts a fleet of agents that know all gateways, and waits until every device is enrolled.
    pub async fn fleet(&self, file: &FleetFile) -> Result<Fleet> {
        self.named_fleet("fleet", file).await
    }

    /// The same, for a tenant with several fleets.
    pub async fn named_fleet(&self, name: &str, file: &FleetFile) -> Result<Fleet> {
        Fleet::start(self.installation, &self.namespace, name, file).await
    }
}
