//! What the tests of everything else take for granted about the dev cluster.

#![expect(clippy::unwrap_used, reason = "helpers of tests may, as tests do")]

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::OnceCell;
use wardring_harness::cluster::{Revisions, client_from};
use wardring_harness::{DevCluster, wait_until, wait_until_ok};

const LIMIT: Duration = Duration::from_secs(60);

/// One cluster for the tests that only use it. It ends with this process.
async fn shared() -> &'static DevCluster {
    static SHARED: OnceCell<DevCluster> = OnceCell::const_new();
    SHARED.get_or_init(async || DevCluster::start().await.unwrap()).await
}

fn object<T: DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

async fn new_namespace(client: &Client, name: &str) {
    let namespace: Namespace = object(json!({ "metadata": { "name": name } }));
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
}

async fn new_config_map(maps: &Api<ConfigMap>, name: &str) -> ConfigMap {
    let map: ConfigMap = object(json!({ "metadata": { "name": name } }));
    maps.create(&PostParams::default(), &map).await.unwrap()
}

fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("not an answer of the API server: {other}"),
    }
}

#[tokio::test]
async fn kubectl_and_the_api_server_know_their_version() {
    let answer = shared().await.kubectl(&["version", "-o", "json"]).await.unwrap().ok().unwrap();

    let versions: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(versions["clientVersion"]["gitVersion"], versions["serverVersion"]["gitVersion"]);
    assert!(versions["serverVersion"]["gitVersion"].as_str().unwrap().starts_with("v1.36."));
}

#[tokio::test]
async fn kubectl_reports_a_failure_by_its_exit_code_and_says_why() {
    let output = shared().await.kubectl(&["get", "namespace", "nowhere"]).await.unwrap();

    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("NotFound"), "{}", output.stderr);
    assert!(output.ok().unwrap_err().to_string().contains("kubectl get namespace nowhere"));
}

#[tokio::test]
async fn a_service_account_may_do_nothing_until_a_role_allows_it() {
    let cluster = shared().await;
    new_namespace(&cluster.client().await.unwrap(), "rbac").await;
    let account = "
        { apiVersion: v1, kind: ServiceAccount, metadata: { name: clerk, namespace: rbac } }";
    cluster.kubectl_apply(account).await.unwrap().ok().unwrap();
    let kubeconfig = cluster.service_account_kubeconfig("rbac", "clerk").await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client_from(&kubeconfig).await.unwrap(), "rbac");

    let refusal = maps.list(&Default::default()).await.unwrap_err();

    assert_eq!(code(&refusal), 403, "{refusal}");
    assert!(refusal.to_string().contains("system:serviceaccount:rbac:clerk"), "{refusal}");

    let binding = ["create", "rolebinding", "clerk", "-n", "rbac", "--clusterrole=view"];
    let subject = ["--serviceaccount=rbac:clerk"];
    cluster.kubectl(&[&binding[..], &subject[..]].concat()).await.unwrap().ok().unwrap();
    wait_until_ok(LIMIT, "the role to allow it", async || maps.list(&Default::default()).await)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_wrong_token_is_refused() {
    let cluster = shared().await;
    let kubeconfig = cluster.service_account_kubeconfig("default", "default");
    let kubeconfig = kubeconfig_when_there_is_an_account(cluster, kubeconfig).await;
    let forged = kubeconfig.with_extension("forged");
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&kubeconfig).unwrap()).unwrap();
    let token = config["users"][0]["user"]["token"].as_str().unwrap();
    let cut = &token[..token.rfind('.').unwrap()];
    config["users"][0]["user"]["token"] = json!(format!("{cut}.c2lnbmVkIGJ5IG5vYm9keQ"));
    std::fs::write(&forged, config.to_string()).unwrap();

    let client = client_from(&forged).await.unwrap();
    let refusal = client.apiserver_version().await.unwrap_err();

    assert_eq!(code(&refusal), 401, "{refusal}");
}

/// The account `default` is made by a controller a moment after the cluster is ready.
async fn kubeconfig_when_there_is_an_account(
    cluster: &DevCluster,
    asked: impl Future<Output = Result<std::path::PathBuf>>,
) -> std::path::PathBuf {
    let accounts: Api<ServiceAccount> = Api::default_namespaced(cluster.client().await.unwrap());
    wait_until_ok(LIMIT, "the account `default`", async || accounts.get("default").await)
        .await
        .unwrap();
    asked.await.unwrap()
}

#[tokio::test]
async fn a_namespace_that_is_deleted_takes_its_objects_with_it() {
    let client = shared().await.client().await.unwrap();
    new_namespace(&client, "short-lived").await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "short-lived");
    new_config_map(&maps, "inside").await;

    let namespaces: Api<Namespace> = Api::all(client);
    namespaces.delete("short-lived", &DeleteParams::default()).await.unwrap();

    wait_until(LIMIT, "the namespace to be gone", async || {
        namespaces.get_opt("short-lived").await.unwrap().is_none().then_some(())
    })
    .await
    .unwrap();
    assert!(maps.get_opt("inside").await.unwrap().is_none());
}

#[tokio::test]
async fn an_object_whose_owner_is_deleted_is_collected() {
    let client = shared().await.client().await.unwrap();
    new_namespace(&client, "garbage").await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "garbage");
    let owner = new_config_map(&maps, "owner").await;
    let reference = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.uid().unwrap(),
    });
    let owned: ConfigMap =
        object(json!({ "metadata": { "name": "owned", "ownerReferences": [reference] } }));
    maps.create(&PostParams::default(), &owned).await.unwrap();

    maps.delete("owner", &DeleteParams::background()).await.unwrap();

    wait_until(LIMIT, "the owned object to be gone", async || {
        maps.get_opt("owned").await.unwrap().is_none().then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn helm_installs_a_chart() {
    let cluster = shared().await;
    let chart = tempfile::tempdir().unwrap();
    let templates = chart.path().join("templates");
    std::fs::create_dir(&templates).unwrap();
    std::fs::write(
        chart.path().join("Chart.yaml"),
        "{ apiVersion: v2, name: small, version: 0.1.0 }",
    )
    .unwrap();
    std::fs::write(
        templates.join("map.yaml"),
        "{ apiVersion: v1, kind: ConfigMap, metadata: { name: from-chart } }",
    )
    .unwrap();
    let folder = chart.path().to_str().unwrap();

    let install = ["install", "small", folder, "--namespace", "helm", "--create-namespace"];
    cluster.helm(&install).await.unwrap().ok().unwrap();

    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await.unwrap(), "helm");
    let labels = maps.get("from-chart").await.unwrap().metadata.labels.unwrap_or_default();
    assert_eq!(labels["app.kubernetes.io/managed-by"], "Helm");
}

#[tokio::test]
async fn admission_policies_refuse_with_their_own_words() {
    let cluster = shared().await;
    let policy = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: { name: no-forbidden-maps }
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
    - { apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps] }
  validations:
  - { expression: "object.metadata.name != 'forbidden'", message: "this name is forbidden here" }
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: { name: no-forbidden-maps }
spec: { policyName: no-forbidden-maps, validationActions: [Deny] }
"#;
    cluster.kubectl_apply(policy).await.unwrap().ok().unwrap();

    // A policy takes effect a moment after it is stored; a dry run leaves nothing behind until then.
    let words = wait_until_ok(LIMIT, "the policy to take effect", async || {
        let create = ["create", "configmap", "forbidden", "--dry-run=server"];
        let output = cluster.kubectl(&create).await.unwrap();
        if output.succeeded() { Err(output.stdout) } else { Ok(output.stderr) }
    })
    .await
    .unwrap();

    assert!(words.contains("this name is forbidden here"), "{words}");
}

#[tokio::test]
async fn an_existing_cluster_is_used_and_left_alone() {
    let cluster = shared().await;

    let existing = DevCluster::obtain(Some(cluster.kubeconfig_path())).await.unwrap();

    assert_eq!(existing.server_url(), cluster.server_url());
    let refusal = existing.stop_apiserver().await.unwrap_err().to_string();
    assert!(refusal.contains("was not started here"), "{refusal}");
    existing.stop().await.unwrap();
    cluster.client().await.unwrap().apiserver_version().await.unwrap();
}

#[tokio::test]
async fn an_existing_cluster_that_does_not_answer_is_one_clear_error() {
    let cluster = shared().await;
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("kubeconfig");
    let config = std::fs::read_to_string(cluster.kubeconfig_path()).unwrap();
    // Port 1 is privileged and unused.
    std::fs::write(&nowhere, config.replace(cluster.server_url(), "https://127.0.0.1:1")).unwrap();

    let error = DevCluster::existing(&nowhere).await.unwrap_err().to_string();

    assert!(error.contains("does not answer; unset KUBECONFIG"), "{error}");
}

#[tokio::test]
async fn objects_outlive_a_restart_of_the_api_server() {
    let cluster = DevCluster::start().await.unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client().await.unwrap());
    let before = new_config_map(&maps, "kept").await;
    let pids = cluster.pids().await.unwrap();

    cluster.stop_apiserver().await.unwrap();
    let while_stopped = cluster.kubectl(&["get", "configmaps"]).await.unwrap();
    cluster.start_apiserver().await.unwrap();
    cluster.restart_apiserver().await.unwrap();

    assert!(while_stopped.stderr.contains("refused"), "{}", while_stopped.stderr);
    // A connection may still meet the end of the server before.
    let after = wait_until_ok(LIMIT, "an answer", async || maps.get("kept").await).await.unwrap();
    assert_eq!(after.uid(), before.uid());
    assert_eq!(after.resource_version(), before.resource_version());
    assert_ne!(cluster.pids().await.unwrap()["apiserver"], pids["apiserver"]);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_restore_brings_back_the_older_state() {
    let cluster = DevCluster::start().await.unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client().await.unwrap());
    let snapshot = cluster.folder().unwrap().join("snapshot.db");
    let old = new_config_map(&maps, "old").await;
    cluster.etcd_snapshot(&snapshot).await.unwrap();
    new_config_map(&maps, "lost").await;
    maps.delete("old", &DeleteParams::default()).await.unwrap();

    cluster.etcd_restore(&snapshot, Revisions::GoBack).await.unwrap();

    assert_eq!(maps.get("old").await.unwrap().uid(), old.uid());
    assert!(maps.get_opt("lost").await.unwrap().is_none());
    let reused = new_config_map(&maps, "after").await;

    cluster.etcd_restore(&snapshot, Revisions::JumpAhead).await.unwrap();

    let ahead = new_config_map(&maps, "after").await;
    let version = |map: &ConfigMap| map.resource_version().unwrap().parse::<u64>().unwrap();
    assert!(version(&ahead) > version(&reused) + 1_000_000);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_bad_snapshot_leaves_the_cluster_as_it_is() {
    let cluster = shared().await;
    let folder = tempfile::tempdir().unwrap();
    let snapshot = folder.path().join("snapshot.db");
    std::fs::write(&snapshot, "not a snapshot").unwrap();
    let before = cluster.pids().await.unwrap();

    let error = cluster.etcd_restore(&snapshot, Revisions::GoBack).await.unwrap_err().to_string();

    assert!(error.contains("failed to restore the snapshot"), "{error}");
    assert_eq!(cluster.pids().await.unwrap(), before);
}
