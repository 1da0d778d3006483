//! The connection to a cluster, from kubectl's flags.

use std::fmt::Debug;

use anyhow::{Context, Result};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Config, Resource,
    api::{ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::de::DeserializeOwned;
use wardring_api::names::PLUGIN_MANAGER;

use crate::args::Connection;

/// The next step when a configuration does not fit.
const SHOW_CONTEXTS: &str = "see what is there with `kubectl config get-contexts`";

/// A client, the namespace in question, and where it all is (for messages).
pub struct Cluster {
    client: Client,
    /// The namespace of the flags, or the context's.
    pub namespace: String,
    /// Whether a flag named it.
    pub is_named: bool,
}

impl Cluster {
    /// Reads the configuration as kubectl does. Nothing is sent yet.
    pub async fn connect(flags: &Connection) -> Result<Cluster> {
        let options = KubeConfigOptions {
            context: flags.context.clone(),
            cluster: flags.cluster.clone(),
            user: flags.user.clone(),
        };
        let named =
            options.context.is_some() || options.cluster.is_some() || options.user.is_some();
        let mut config = match &flags.kubeconfig {
            Some(path) => {
                let unusable = || {
                    let path = path.display();
                    format!("cannot use the kubeconfig {path} ({SHOW_CONTEXTS})")
                };
                let file = Kubeconfig::read_from(path).with_context(unusable)?;
                Config::from_custom_kubeconfig(file, &options).await.with_context(unusable)?
            }
            None if named => Config::from_kubeconfig(&options)
                .await
                .context(format!("cannot use that context, cluster or user ({SHOW_CONTEXTS})"))?,
            // The default of kubectl: KUBECONFIG, ~/.kube/config, the pod's service account.
            None => Config::infer().await.context(
                "found no cluster; set KUBECONFIG or give --kubeconfig FILE (try `kubectl cluster-info`)",
            )?,
        };
        if let Some(user) = &flags.impersonate {
            config.auth_info.impersonate = Some(user.clone());
        }
        if !flags.impersonate_groups.is_empty() {
            config.auth_info.impersonate_groups = Some(flags.impersonate_groups.clone());
        }
        config.connect_timeout = flags.limit();
        let namespace = flags.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let url = config.cluster_url.to_string();
        let client = Client::try_from(config)
            .with_context(|| format!("cannot set up a connection to {url}"))?;
        Ok(Cluster { client, namespace, is_named: flags.namespace.is_some() })
    }

    /// Objects of the namespace in question.
    pub fn here<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Objects of another namespace.
    pub fn within<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Objects of every namespace.
    pub fn everywhere<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// Merges `change` into one object, under the plugin's own field manager.
    pub async fn merge<K>(&self, name: &str, change: &serde_json::Value) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let params = PatchParams {
            field_manager: Some(PLUGIN_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        Ok(self.here::<K>().patch(name, &params, &Patch::Merge(change)).await?)
    }
}

/// Objects per page.
const PAGE: u32 = 500;

/// Every object, a page at a time, each turned into what is wanted of it.
pub async fn pages<K, T>(
    api: &Api<K>,
    params: ListParams,
    view: impl Fn(K) -> T,
) -> kube::Result<Vec<T>>
where
    K: Clone + Debug + DeserializeOwned,
{
    let mut params = params.limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = api.list(&params).await?;
        objects.extend(page.items.into_iter().map(&view));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(objects),
        }
    }
}
