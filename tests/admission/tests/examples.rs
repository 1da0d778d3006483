//! The examples are what people copy first, so they have to work as they stand.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
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
    let folders = [examples(), examples().join("gates")];
    let mut said = String::new();
    // Those of the demo are rollouts of one name, one after the other: they are looked at and not kept.
    let demo = [examples().join("demo")];
    for (folder, how) in folders
        .iter()
        .map(|folder| (folder, "none"))
        .chain(demo.iter().map(|demo| (demo, "server")))
    {
        let (folder, how) = (folder.to_str().unwrap(), format!("--dry-run={how}"));
        let apply = ["apply", &how, "--validate=strict", "-f", folder];
        let output = cluster.kubectl(&apply).await.unwrap();
        assert!(output.succeeded(), "{}", output.stderr);
        said += &output.stdout;
    }

    for kind in [
        "patchrollout",
        "devicegroup",
        "update",
        "device",
        "maintenancewindow",
        "patchrollback",
        "patchapproval",
        "notifier",
        "gateprovider",
        "emergencystop",
    ] {
        let accepted = format!("{kind}.wardring.dev/");
        assert!(said.contains(&accepted), "no {kind} in:\n{said}");
    }
    let stored = async |kind: &str| {
        let got = cluster.kubectl(&["get", kind, "-A", "-o", "json"]).await.unwrap();
        assert!(got.succeeded(), "{}", got.stderr);
        serde_json::from_str::<Value>(&got.stdout).unwrap()["items"].take()
    };
    let rollouts = stored("patchrollouts").await;
    let stages = all(&rollouts).flat_map(|rollout| all(&rollout["spec"]["stages"]));
    let of = |stage: &Value| ["before", "during", "after"].map(|when| stage["gates"][when].clone());
    let gates: Vec<Value> =
        stages.flat_map(of).flat_map(|gates| all(&gates).cloned().collect::<Vec<_>>()).collect();
    let types: BTreeSet<&str> = gates.iter().filter_map(|gate| gate["type"].as_str()).collect();
    let known =
        ["Alertmanager", "Approval", "Cel", "DeviceHealth", "Prometheus", "Tickets", "Webhook"];
    assert_eq!(types, BTreeSet::from(known), "one example of each gate");

    let windows = stored("maintenancewindows").await;
    let schedules: BTreeSet<&String> = all(&windows)
        .filter_map(|window| window["spec"]["schedule"].as_object())
        .flat_map(|schedule| schedule.keys())
        .collect();
    let known = ["cron", "monthly", "once", "patchTuesday"].map(str::to_owned);
    assert_eq!(schedules, known.iter().collect(), "one example of each schedule");
    let kinds: BTreeSet<&str> =
        all(&windows).filter_map(|window| window["spec"]["type"].as_str()).collect();
    assert_eq!(kinds, BTreeSet::from(["Allow", "Deny"]));
}

fn all(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

#[test]
fn the_example_of_a_rollout_fits_fifteen_lines() {
    let text = std::fs::read_to_string(examples().join("rollout.yaml")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!(lines <= 15, "{lines} lines");
}
