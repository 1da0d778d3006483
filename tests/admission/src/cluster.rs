//! A cluster with our CRDs, and namespaces of our own in it.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::{
    api::core::v1::Namespace,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::json;
use wardring_api::{GROUP, VERSION, crd::all_crds};
use wardring_harness::wait_until_ok;

const PATIENCE: Duration = Duration::from_secs(30);

/// Installs `crds` and waits until they are served.
pub async fn install(client: &Client, crds: &[CustomResourceDefinition]) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let params = PatchParams::apply("wardring-admission").force();
    for crd in crds {
        let name = crd.name_any();
        api.patch(&name, &params, &Patch::Apply(crd))
            .await
            .with_context(|| format!("the API server refuses the CRD {name}"))?;
    }
    for crd in crds {
        let name = crd.name_any();
        wait_until_ok(PATIENCE, &format!("the CRD {name}"), async || {
            let found = api.get(&name).await.map_err(|error| error.to_string())?;
            let conditions = found.status.and_then(|status| status.conditions).unwrap_or_default();
            match conditions.iter().find(|condition| condition.type_ == "Established") {
                Some(condition) if condition.status == "True" => Ok(()),
                _ => Err(format!("{conditions:?}")),
            }
        })
        .await?;
    }
    Ok(())
}

/// How the API server calls the objects of one of our kinds.
pub fn resource_of(kind: &str) -> Result<ApiResource> {
    let gvk = GroupVersionKind::gvk(GROUP, VERSION, kind);
    Ok(ApiResource::from_gvk_with_plural(&gvk, &crd_of(kind)?.spec.names.plural))
}

/// The objects of one of our kinds in `namespace`, or everywhere if they are of no namespace.
pub fn objects_of(client: &Client, namespace: &str, kind: &str) -> Result<Api<DynamicObject>> {
    let resource = resource_of(kind)?;
    Ok(match crd_of(kind)?.spec.scope.as_str() {
        "Cluster" => Api::all_with(client.clone(), &resource),
        _ => Api::namespaced_with(client.clone(), namespace, &resource),
    })
}

fn crd_of(kind: &str) -> Result<CustomResourceDefinition> {
    let mut crds = all_crds().into_iter();
    crds.find(|crd| crd.spec.names.kind == kind)
        .with_context(|| format!("there is no kind {kind:?}"))
}

/// Runs `test` with a fresh namespace, which is deleted afterwards.
pub async fn in_own_namespace<T>(
    client: &Client,
    test: impl AsyncFnOnce(&str) -> Result<T>,
) -> Result<T> {
    let api: Api<Namespace> = Api::all(client.clone());
    let wanted = serde_json::from_value(json!({ "metadata": { "generateName": "admission-" } }))?;
    let name = api.create(&PostParams::default(), &wanted).await?.name_any();
    let outcome = test(&name).await;
    api.delete(&name, &DeleteParams::default()).await?;
    outcome
}
