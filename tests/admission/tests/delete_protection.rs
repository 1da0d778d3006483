//! The policy that keeps people's hands off the records, as the chart installs it.

use std::{fs, path::Path, time::Duration};

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, PostParams},
};
use serde_json::{Value, json};
use wardring_admission::{fixtures, install, resource_of};
use wardring_api::crd::all_crds;
use wardring_harness::{DevCluster, cluster::client_from, wait_until_ok};

const SYSTEM: &str = "wardring-system";
const ACCOUNT: &str = "wardring-controller";
const REFUSAL: &str =
    "only Wardring's controller deletes PatchJobs, PatchRolloutSlices and PatchLedgers";
const PATIENCE: Duration = Duration::from_secs(120);

/// Kinds under protection, each with a fixture that makes one.
const RECORDS: [(&str, &str); 3] = [
    ("PatchJob", "patchjob/a-permit-and-a-state"),
    ("PatchRolloutSlice", "patchrolloutslice/lines-fold-in"),
    ("PatchLedger", "patchledger/a-batch-is-opened"),
];

/// The chart's policy for a release in [`SYSTEM`], without the help of Helm.
fn policy() -> Result<String> {
    let path = "../../charts/wardring/templates/delete-protection.yaml";
    let template = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))?;
    let manifests: Vec<&str> = template.lines().filter(|line| !line.starts_with("{{-")).collect();
    let rendered = manifests
        .join("\n")
        .replace(
            "{{ include \"wardring.controllerServiceAccount\" . }}",
            &format!("system:serviceaccount:{SYSTEM}:{ACCOUNT}"),
        )
        .replace("{{- include \"wardring.labels\" . | nindent 4 }}", "app: wardring");
    if rendered.contains("{{") {
        bail!("the policy's template has more in it than this test replaces:\n{rendered}");
    }
    Ok(rendered)
}

async fn prepare(cluster: &DevCluster, client: &Client) -> Result<()> {
    install(client, &all_crds()).await?;
    let account = json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": SYSTEM } },
        { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "tenant" } },
        { "apiVersion": "v1", "kind": "ServiceAccount",
          "metadata": { "name": ACCOUNT, "namespace": SYSTEM } },
        { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
          "metadata": { "name": ACCOUNT },
          "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                       "name": "cluster-admin" },
          "subjects": [{ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": SYSTEM }] },
    ]});
    for manifests in [account.to_string(), policy()?] {
        let output = cluster.kubectl_apply(&manifests).await?;
        if !output.succeeded() {
            bail!("kubectl apply failed: {}", output.stderr);
        }
    }
    let fixtures = fixtures()?;
    for (kind, name) in RECORDS {
        let Some(fixture) = fixtures.iter().find(|fixture| fixture.name == name) else {
            bail!("there is no fixture {name}");
        };
        let mut object: Value = fixture.first.clone();
        object.as_object_mut().map(|object| object.remove("status"));
        let object: DynamicObject = serde_json::from_value(object)?;
        records(client, kind)?.create(&PostParams::default(), &object).await?;
    }
    Ok(())
}

fn records(client: &Client, kind: &str) -> Result<Api<DynamicObject>> {
    Ok(Api::namespaced_with(client.clone(), "tenant", &resource_of(kind)?))
}

async fn name_of_the_one(api: &Api<DynamicObject>) -> Result<String> {
    let list = api.list(&ListParams::default()).await?;
    match list.items.as_slice() {
        [one] => Ok(one.metadata.name.clone().unwrap_or_default()),
        other => bail!("{} objects instead of one", other.len()),
    }
}

/// Why the API server does not delete the object; an error if it would.
async fn refusal(api: &Api<DynamicObject>, params: &DeleteParams) -> Result<String> {
    match api.delete(&name_of_the_one(api).await?, params).await {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(status.message.clone()),
        Err(error) => bail!("another failure: {error}"),
        Ok(_) => bail!("it was deleted"),
    }
}

#[tokio::test]
async fn only_the_controller_and_the_end_of_the_namespace_delete_records() {
    let cluster = DevCluster::start().await.unwrap();
    let admin = cluster.client().await.unwrap();
    prepare(&cluster, &admin).await.unwrap();
    // A policy works some moments after it was stored; a dry run asks it without the risk.
    let jobs = records(&admin, "PatchJob").unwrap();
    wait_until_ok(PATIENCE, "the policy", async || {
        refusal(&jobs, &DeleteParams::default().dry_run()).await
    })
    .await
    .unwrap();

    for (kind, _) in RECORDS {
        let api = records(&admin, kind).unwrap();
        for params in [DeleteParams::background(), DeleteParams::foreground()] {
            let message = refusal(&api, &params).await.unwrap();
            assert!(message.contains(REFUSAL), "{kind}: {message}");
        }
        let all = api.delete_collection(&DeleteParams::default(), &ListParams::default()).await;
        assert!(all.is_err(), "{kind}: a collection was deleted");
        assert!(name_of_the_one(&api).await.is_ok(), "{kind}: it is gone");
    }

    let kubeconfig = cluster.service_account_kubeconfig(SYSTEM, ACCOUNT).await.unwrap();
    let controller = client_from(&kubeconfig).await.unwrap();
    let jobs = records(&controller, "PatchJob").unwrap();
    let job = name_of_the_one(&jobs).await.unwrap();
    jobs.delete(&job, &DeleteParams::default()).await.unwrap();
    assert!(jobs.get_opt(&job).await.unwrap().is_none());

    let namespaces: Api<Namespace> = Api::all(admin.clone());
    namespaces.delete("tenant", &DeleteParams::default()).await.unwrap();
    wait_until_ok(PATIENCE, "the end of the namespace with its slice and ledger", async || {
        match namespaces.get_opt("tenant").await {
            Ok(None) => Ok(()),
            Ok(Some(left)) => Err(format!("{:?}", left.status)),
            Err(error) => Err(error.to_string()),
        }
    })
    .await
    .unwrap();
}
