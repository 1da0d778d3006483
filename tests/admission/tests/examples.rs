//! The examples are what people copy first, so they have to work as they stand.

use std::path::Path;

use wardring_admission::install;
use wardring_api::crd::all_crds;
use wardring_harness::DevCluster;

fn examples() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

#[tokio::test]
async fn the_api_server_takes_every_example_and_knows_every_field_of_it() {
    let cluster = DevCluster::start().await.unwrap();
    install(&cluster.client().await.unwrap(), &all_crds()).await.unwrap();
    let folder = examples();
    let folder = folder.to_str().unwrap();

    let output = cluster
        .kubectl(&["apply", "--dry-run=server", "--validate=strict", "--recursive", "-f", folder])
        .await
        .unwrap();

    assert!(output.succeeded(), "{}", output.stderr);
    for kind in [
        "patchrollout",
        "devicegroup",
        "update",
        "device",
        "maintenancewindow",
        "patchrollback",
        "patchapproval",
        "notifier",
    ] {
        let accepted = format!("{kind}.wardring.dev/");
        assert!(output.stdout.contains(&accepted), "no {kind} in:\n{}", output.stdout);
    }
}

#[test]
fn the_example_of_a_rollout_fits_fifteen_lines() {
    let text = std::fs::read_to_string(examples().join("rollout.yaml")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!(lines <= 15, "{lines} lines");
}
