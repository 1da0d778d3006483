use std::{path::Path, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use wardring_api::{GateProvider, conditions, names::GATE_HOST_ANNOTATION};
use wardring_controller::gates::{Registry, Standing, keep};
use wardring_harness::{DevCluster, cluster::client_from, wait_until_ok};

const SYSTEM: &str = "wardring-system";
const SOON: Duration = Duration::from_secs(60);

async fn create(api: &Api<GateProvider>, name: &str, changes: Value) {
    let mut spec = json!({
        "type": "Prometheus", "url": "https://prometheus.example.com", "namespaces": ["clinic"],
        "caBundle": include_str!("../../src/outbound/tests/root.pem"),
    });
    for (field, value) in changes.as_object().unwrap() {
        spec[field] = value.clone();
    }
    let object = GateProvider::new(name, serde_json::from_value(spec).unwrap());
    api.create(&PostParams::default(), &object).await.unwrap();
}

async fn becomes(api: &Api<GateProvider>, name: &str, truth: &str, words: &str) {
    wait_until_ok(SOON, &format!("{name} to be ready={truth}: {words}"), async || {
        let object = api.get(name).await.map_err(|error| error.to_string())?;
        let list = object.status.clone().unwrap_or_default().conditions;
        let is = |list: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]| {
            list.iter().any(|condition| {
                condition.type_ == conditions::READY
                    && condition.status == truth
                    && condition.message.contains(words)
                    && condition.observed_generation == object.metadata.generation
            })
        };
        if is(&list) { Ok(()) } else { Err(format!("{list:?}")) }
    })
    .await
    .unwrap();
}

async fn put_secret(client: &Client, name: &str, host: &str) {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), SYSTEM);
    let secret = serde_json::from_value(json!({
        "metadata": { "name": name, "annotations": { GATE_HOST_ANNOTATION: host } },
        "stringData": { "token": "t0ken" },
    }));
    secrets.create(&PostParams::default(), &secret.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_says_whether_it_can_be_used_and_only_listed_secrets_are_read() {
    let cluster = DevCluster::start().await.unwrap();
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/wardring");
    let chart = chart.display().to_string();
    let install = [
        "install",
        "wardring",
        &chart,
        "--namespace",
        SYSTEM,
        "--create-namespace",
        "--set",
        "controller.gateSecrets={prometheus-token}",
    ];
    cluster.helm(&install).await.unwrap().ok().unwrap();
    let admin = cluster.client().await.unwrap();
    let kubeconfig = cluster.service_account_kubeconfig(SYSTEM, "wardring-controller").await;
    let controller = client_from(&kubeconfig.unwrap()).await.unwrap();
    let registry = Registry::default();
    let keeper = tokio::spawn(keep(controller, SYSTEM.to_owned(), registry.clone()));
    let api: Api<GateProvider> = Api::all(admin.clone());
    let bearer = |secret: &str| json!({ "auth": { "type": "Bearer", "secret": secret } });

    create(&api, "open", json!({})).await;
    becomes(&api, "open", "True", "").await;
    assert!(matches!(registry.find("open"), Standing::Usable(_)));
    create(&api, "listed", bearer("prometheus-token")).await;
    becomes(&api, "listed", "False", "it does not exist").await;
    assert!(matches!(registry.find("listed"), Standing::Unusable(_)));
    put_secret(&admin, "prometheus-token", "prometheus.example.com").await;
    put_secret(&admin, "other", "prometheus.example.com").await;
    // Looked at again each minute, or when the provider changes.
    let patch = Patch::Merge(json!({ "spec": { "timeout": "5s" } }));
    api.patch("listed", &PatchParams::default(), &patch).await.unwrap();
    becomes(&api, "listed", "True", "").await;
    // Another host does not get what was given for this one.
    let mut elsewhere = bearer("prometheus-token");
    elsewhere["url"] = json!("https://prometheus.example.com:8443");
    create(&api, "elsewhere", elsewhere).await;
    becomes(&api, "elsewhere", "False", "gate-host: prometheus.example.com:8443").await;
    create(&api, "unlisted", bearer("other")).await;
    becomes(&api, "unlisted", "False", "may not read it").await;
    create(&api, "inward", json!({ "url": "https://0x7f000001" })).await;
    becomes(&api, "inward", "False", "neither a DNS name").await;

    let told = serde_json::to_string(&api.list(&Default::default()).await.unwrap()).unwrap();
    assert!(!told.contains("t0ken"), "{told}");
    api.delete("open", &Default::default()).await.unwrap();
    wait_until_ok(SOON, "the deleted provider to be forgotten", async || {
        match registry.find("open") {
            Standing::Missing => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    keeper.abort();
}
