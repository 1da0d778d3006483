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
    // Those of the demo are rollouts of one name, one after the other: they are looked at and not kept.
    let mut folders = BTreeSet::from([(examples(), "none")]);
    for entry in std::fs::read_dir(examples()).unwrap().map(Result::unwrap) {
        let how = if entry.file_name() == "demo" { "server" } else { "none" };
        if entry.path().is_dir() {
            folders.insert((entry.path(), how));
        }
    }
    let mut said = String::new();
    for (folder, how) in &folders {
        let (folder, how) = (folder.to_str().unwrap(), format!("--dry-run={how}"));
        let apply = ["apply", &how, "--validate=strict", "-f", folder];
        let output = cluster.kubectl(&apply).await.unwrap();
        assert!(output.succeeded(), "{}", output.stderr);
        said += &output.stdout;
    }
    // Nothing was there before, so what is not created has the name of another example.
    let twice: Vec<&str> = said
        .lines()
        .filter(|line| !line.ends_with(" created") && !line.ends_with("(server dry run)"))
        .collect();
    assert!(twice.is_empty(), "{twice:?}");

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
    let gate = "/stages/items/properties/gates/properties/before/items/properties/type/enum";
    let known = spec("PatchRollout").pointer(gate).cloned().unwrap();
    let known: BTreeSet<&str> = all(&known).filter_map(Value::as_str).collect();
    assert_eq!(types, known, "one example of each gate");

    let windows = stored("maintenancewindows").await;
    let schedules: BTreeSet<&String> = all(&windows)
        .filter_map(|window| window["spec"]["schedule"].as_object())
        .flat_map(|schedule| schedule.keys())
        .collect();
    let window = spec("MaintenanceWindow");
    let known = window["schedule"]["properties"].as_object().unwrap();
    assert_eq!(schedules, known.keys().collect(), "one example of each schedule");
    let kinds: BTreeSet<&str> =
        all(&windows).filter_map(|window| window["spec"]["type"].as_str()).collect();
    assert_eq!(kinds, BTreeSet::from(["Allow", "Deny"]));
}

/// The fields of a kind's `spec`, as the API server knows them.
fn spec(kind: &str) -> Value {
    let crd = all_crds().into_iter().find(|crd| crd.spec.names.kind == kind);
    let crd = crd.expect("the kind is one of ours");
    let schema = serde_json::to_value(&crd.spec.versions[0].schema).expect("a schema is JSON");
    schema["openAPIV3Schema"]["properties"]["spec"]["properties"].clone()
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
