//! A real installation. No kubelet runs here, so pods are stored and never started: what is tested is
//! that the API server takes every object and that the roles mean what they say.

use std::path::Path;

use anyhow::Result;
use wardring_harness::DevCluster;

const NAMESPACE: &str = "wardring-system";

fn chart() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/wardring").display().to_string()
}

/// What a service account may do, as the API server judges it.
async fn may(cluster: &DevCluster, account: &str, question: &[&str]) -> Result<bool> {
    let user = format!("--as=system:serviceaccount:{NAMESPACE}:{account}");
    let args = [&["auth", "can-i", user.as_str()], question].concat();
    let output = cluster.kubectl(&args).await?;
    Ok(output.stdout.trim() == "yes")
}

#[tokio::test]
async fn the_chart_installs_upgrades_and_leaves_the_records_when_it_goes() -> Result<()> {
    let cluster = DevCluster::start().await?;
    let chart = chart();
    let install = ["install", "wardring", &chart, "--namespace", NAMESPACE, "--create-namespace"];
    let notes = cluster.helm(&install).await?.ok()?;
    assert!(notes.contains("kubectl wardring"), "{notes}");

    for (account, question, expected) in [
        (
            "wardring-gateway",
            &["update", "devices.wardring.dev", "--subresource=status", "-n", "a"][..],
            true,
        ),
        ("wardring-gateway", &["update", "devices.wardring.dev", "-n", "a"], false),
        ("wardring-gateway", &["create", "patchjobs.wardring.dev", "-n", "a"], false),
        ("wardring-gateway", &["delete", "patchjobs.wardring.dev", "-n", "a"], false),
        (
            "wardring-gateway",
            &["update", "enrollmentrequests.wardring.dev", "--subresource=status", "-n", "a"],
            false,
        ),
        ("wardring-gateway", &["get", "namespaces/a"], true),
        ("wardring-gateway", &["list", "namespaces"], false),
        ("wardring-gateway", &["get", "secrets/wardring-gateway-tls", "-n", NAMESPACE], true),
        ("wardring-gateway", &["get", "secrets/wardring-ca", "-n", NAMESPACE], false),
        ("wardring-controller", &["get", "secrets/wardring-ca", "-n", NAMESPACE], true),
        ("wardring-controller", &["get", "secrets/other", "-n", NAMESPACE], false),
        ("wardring-controller", &["get", "secrets/wardring-ca", "-n", "a"], false),
        ("wardring-controller", &["create", "patchjobs.wardring.dev", "-n", "a"], true),
        ("wardring-controller", &["delete", "devices.wardring.dev", "-n", "a"], false),
        ("wardring-controller", &["delete", "patchrollouts.wardring.dev", "-n", "a"], false),
        ("wardring-controller", &["create", "tokenreviews.authentication.k8s.io"], true),
    ] {
        assert_eq!(may(&cluster, account, question).await?, expected, "{account} {question:?}");
    }

    // A second application of the same thing, as Git does it all day, changes nothing and fails nowhere.
    let before = versions(&cluster).await?;
    cluster.helm(&["upgrade", "wardring", &chart, "--namespace", NAMESPACE]).await?.ok()?;
    assert_eq!(versions(&cluster).await?, before);

    cluster.kubectl(&["create", "namespace", "a"]).await?.ok()?;
    let group = "apiVersion: wardring.dev/v1alpha1\nkind: DeviceGroup\nmetadata: {name: servers, namespace: a}\nspec: {selector: {matchLabels: {group: servers}}}\n";
    cluster.kubectl_apply(group).await?.ok()?;
    cluster.helm(&["uninstall", "wardring", "--namespace", NAMESPACE]).await?.ok()?;
    cluster.kubectl(&["get", "devicegroup", "servers", "-n", "a"]).await?.ok()?;
    assert!(
        !may(&cluster, "wardring-controller", &["create", "patchjobs.wardring.dev", "-n", "a"])
            .await?
    );
    cluster.stop().await
}

/// Generations of everything the chart made: they move only when a spec changes.
async fn versions(cluster: &DevCluster) -> Result<String> {
    let columns = "custom-columns=KIND:.kind,NAME:.metadata.name,GENERATION:.metadata.generation";
    let kinds =
        "crds,deployments,services,serviceaccounts,clusterroles,roles,validatingadmissionpolicies";
    let label = "app.kubernetes.io/name=wardring";
    let list = cluster.kubectl(&["get", kinds, "-A", "-l", label, "-o", columns]).await?.ok()?;
    assert!(list.contains("wardring-gateway"), "{list}");
    Ok(list)
}
