//! What Helm renders, without a cluster.

use std::{path::Path, process::Command};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

/// The chart's folder.
fn chart() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/wardring").display().to_string()
}

/// Runs Helm with caches of its own; returns whether it succeeded, and everything it printed.
fn helm(args: &[&str]) -> Result<(bool, String)> {
    let home = tempfile::tempdir()?;
    let output = Command::new(wardring_harness::tools::helm()?.path)
        .args(args)
        .env("HELM_CACHE_HOME", home.path())
        .env("HELM_CONFIG_HOME", home.path())
        .env("HELM_DATA_HOME", home.path())
        .output()
        .context("failed to start Helm")?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

/// The rendered objects.
fn template(args: &[&str]) -> Result<Vec<Value>> {
    let chart = chart();
    let fixed = [
        "template",
        "wardring",
        &chart,
        "--namespace",
        "wardring-system",
        "--kube-version",
        "1.36.0",
    ];
    let (succeeded, text) = helm(&[&fixed[..], args].concat())?;
    anyhow::ensure!(succeeded, "{text}");
    let documents = serde_yaml::Deserializer::from_str(&text).map(Value::deserialize);
    let objects = documents.collect::<Result<Vec<_>, _>>()?;
    Ok(objects.into_iter().filter(|object| !object.is_null()).collect())
}

fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("the chart renders no {kind} {name}"))
}

#[test]
fn the_chart_passes_strict_lint() {
    let (succeeded, text) =
        helm(&["lint", "--strict", "--kube-version", "1.36.0", &chart()]).unwrap();
    assert!(succeeded, "{text}");
}

#[test]
fn a_value_that_does_not_exist_or_has_the_wrong_type_is_refused_by_name() {
    for (setting, word) in [
        ("gatway.replicas=2", "gatway"),
        ("gateway.replica=2", "replica"),
        ("gateway.replicas=two", "replicas"),
        ("gateway.service.type=Loadbalancer", "type"),
        ("crds.keep=maybe", "keep"),
    ] {
        let error = template(&["--set", setting]).unwrap_err().to_string();
        assert!(error.contains(word), "{setting}: {error}");
    }
}

#[test]
fn hosts_of_the_gateways_are_dns_names_or_addresses() {
    for host in ["bad host", "https://patch.clinic", "patch.clinic:8443", "patch..clinic", "", "-a"]
    {
        let set = format!("gateway.hosts={{{host}}}");
        let error = template(&["--set", &set]).unwrap_err().to_string();
        assert!(error.contains("/gateway/hosts/0"), "{host}: {error}");
    }
    let hosts = "gateway.hosts={patch.clinic,PATCH_01,*.clinic,10.0.0.7,fd00::7,fe80::}";
    let objects = template(&["--set", hosts]).unwrap();
    let pod = &named(&objects, "Deployment", "wardring-controller")["spec"]["template"]["spec"];
    let args = pod["containers"][0]["args"].as_array().unwrap();
    for host in ["patch.clinic", "PATCH_01", "*.clinic", "10.0.0.7", "fd00::7", "fe80::"] {
        let arg = Value::from(format!("--gateway-host={host}"));
        assert!(args.contains(&arg), "{host}: {args:?}");
    }
}

#[test]
fn the_notes_say_where_images_must_be_when_no_registry_is_named() {
    let notes = |registry: &str| {
        let (chart, registry) = (chart(), format!("image.registry={registry}"));
        let dry = ["install", "wardring", &chart, "--dry-run=client", "--set", &registry];
        let (succeeded, text) = helm(&dry).unwrap();
        assert!(succeeded, "{text}");
        text.split_once("NOTES:").unwrap().1.to_owned()
    };
    let hint = "No image.registry is set: the nodes themselves must hold wardring-controller:";
    assert!(notes("").contains(hint), "{}", notes(""));
    assert!(!notes("registry.clinic/wardring").contains("image.registry"));
}

#[test]
fn a_cluster_that_is_too_old_is_refused() {
    let (succeeded, text) =
        helm(&["template", "wardring", &chart(), "--kube-version", "1.33.9"]).unwrap();
    assert!(!succeeded && text.contains("1.34"), "{text}");
}

#[test]
fn every_crd_comes_with_the_chart_and_outlives_it() {
    let objects = template(&[]).unwrap();
    let crds: Vec<_> =
        objects.iter().filter(|object| object["kind"] == "CustomResourceDefinition").collect();

    let files = std::fs::read_dir(Path::new(&chart()).join("../../crds")).unwrap().count();
    assert_eq!(crds.len(), files);
    assert!(crds.len() >= 10, "{} CRDs", crds.len());
    for crd in &crds {
        let name = &crd["metadata"]["name"];
        let policy = &crd["metadata"]["annotations"]["helm.sh/resource-policy"];
        assert_eq!(policy, "keep", "{name}");
    }
    let gone = template(&["--set", "crds.install=false"]).unwrap();
    assert!(gone.iter().all(|object| object["kind"] != "CustomResourceDefinition"));
    let unkept = template(&["--set", "crds.keep=false"]).unwrap();
    let crd = named(&unkept, "CustomResourceDefinition", "patchrollouts.wardring.dev");
    assert!(crd["metadata"]["annotations"]["helm.sh/resource-policy"].is_null());
}

#[test]
fn pods_meet_the_restricted_standard() {
    let objects = template(&[]).unwrap();
    for name in ["wardring-controller", "wardring-gateway"] {
        let pod = &named(&objects, "Deployment", name)["spec"]["template"]["spec"];
        assert_eq!(pod["serviceAccountName"], name);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        for container in pod["containers"].as_array().unwrap() {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert_eq!(context["readOnlyRootFilesystem"], true);
            assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
        }
    }
}

/// Every `(resource, verb)` that the roles of `name` grant.
fn grants(objects: &[Value], name: &str) -> Vec<(String, String)> {
    let words = |value: &Value| -> Vec<String> {
        let list = value.as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut grants = Vec::new();
    for kind in ["ClusterRole", "Role"] {
        for rule in named(objects, kind, name)["rules"].as_array().into_iter().flatten() {
            for resource in words(&rule["resources"]) {
                grants
                    .extend(words(&rule["verbs"]).into_iter().map(|verb| (resource.clone(), verb)));
            }
        }
    }
    grants
}

#[test]
fn the_gateway_may_write_status_and_file_requests_and_nothing_else() {
    let objects = template(&[]).unwrap();
    let reads = ["get", "list", "watch"];
    let writes: Vec<_> = grants(&objects, "wardring-gateway")
        .into_iter()
        .filter(|(_, verb)| !reads.contains(&verb.as_str()))
        .collect();

    for (resource, verb) in &writes {
        let is_status = resource.ends_with("/status") && (verb == "update" || verb == "patch");
        let files_request = resource == "enrollmentrequests" && verb == "create";
        assert!(is_status || files_request, "the gateway may {verb} {resource}");
    }
    assert!(grants(&objects, "wardring-gateway").iter().all(|(_, verb)| verb != "*"));
}

#[test]
fn the_gateway_reads_what_bars_updates_and_makes_or_lifts_no_bar() {
    let grants = grants(&template(&[]).unwrap(), "wardring-gateway");
    for wanted in ["updateholds", "updates"] {
        let of_it = grants.iter().filter(|(resource, _)| resource.starts_with(wanted));
        let verbs: Vec<&str> = of_it.map(|(_, verb)| verb.as_str()).collect();
        assert!(verbs.contains(&"list"), "{wanted}: {verbs:?}");
        let reads = |verb: &&str| ["get", "list", "watch"].contains(verb);
        assert!(verbs.iter().all(reads), "{wanted}: {verbs:?}");
    }
}

/// A permit under a stop that the gateway cannot see would be a stop that stops nothing.
#[test]
fn gateway_and_controller_read_emergency_stops_and_neither_makes_or_lifts_one() {
    let objects = template(&[]).unwrap();
    for name in ["wardring-controller", "wardring-gateway"] {
        let grants = grants(&objects, name);
        let verbs: Vec<&str> = grants
            .iter()
            .filter(|(resource, _)| resource == "emergencystops")
            .map(|(_, verb)| verb.as_str())
            .collect();
        // A list before every permit, a watch for what comes after it.
        assert!(verbs.contains(&"list") && verbs.contains(&"watch"), "{name}: {verbs:?}");
        assert!(
            verbs.iter().all(|verb| ["get", "list", "watch"].contains(verb)),
            "{name}: {verbs:?}"
        );
    }
    let people = &named(&objects, "ClusterRole", "wardring-emergency-stop")["rules"];
    assert!(people.to_string().contains("create") && people.to_string().contains("delete"));
    let bound = objects.iter().filter(|object| object["kind"] == "ClusterRoleBinding");
    for binding in bound {
        assert!(!binding["roleRef"]["name"].as_str().unwrap().contains("emergency"), "{binding}");
    }
}

#[test]
fn nobody_of_us_orders_rollbacks_and_whoever_may_is_bound_by_people() {
    let objects = template(&[]).unwrap();
    let verbs = |name: &str| {
        let grants = grants(&objects, name).into_iter();
        let of = grants.filter(|(resource, _)| resource == "patchrollbacks");
        of.map(|(_, verb)| verb).collect::<Vec<_>>()
    };
    assert_eq!(verbs("wardring-controller"), ["get", "list", "watch"]);
    assert_eq!(verbs("wardring-gateway"), ["get"]);
    let people = named(&objects, "ClusterRole", "wardring-rollback")["rules"].to_string();
    assert!(people.contains("create") && people.contains("delete"), "{people}");
    let on_call = named(&objects, "ClusterRole", "wardring-emergency-stop")["rules"].to_string();
    assert!(on_call.contains("patchrollbacks"), "{on_call}");
    for object in objects.iter().filter(|all| !all["roleRef"].is_null()) {
        assert_ne!(object["roleRef"]["name"], "wardring-rollback");
    }
}

#[test]
fn the_controller_deletes_only_records_and_answered_requests() {
    let objects = template(&[]).unwrap();
    let grants = grants(&objects, "wardring-controller");
    let deleted: Vec<_> = grants
        .iter()
        .filter(|(_, verb)| verb == "delete")
        .map(|(resource, _)| resource.as_str())
        .collect();

    assert_eq!(
        deleted,
        ["patchjobs", "patchrolloutslices", "patchapprovals", "enrollmentrequests"]
    );
    assert!(
        grants.iter().all(|(resource, verb)| verb != "*" && resource != "*" && verb != "escalate")
    );
}

#[test]
fn of_all_secrets_the_controller_reads_those_that_gates_were_given_and_writes_none_of_them() {
    let objects =
        template(&["--set", "controller.gateSecrets={prometheus-token,helpdesk}"]).unwrap();
    let rules = named(&objects, "Role", "wardring-controller")["rules"].as_array().unwrap();
    let of_gates: Vec<_> = rules
        .iter()
        .filter(|rule| rule["resourceNames"].to_string().contains("helpdesk"))
        .collect();
    assert_eq!(of_gates.len(), 1);
    assert_eq!(of_gates[0]["resourceNames"], serde_json::json!(["prometheus-token", "helpdesk"]));
    assert_eq!(of_gates[0]["verbs"], serde_json::json!(["get"]));
    for own in ["wardring-ca", "wardring-gateway-tls", "-x", "A"] {
        let error = template(&["--set", &format!("controller.gateSecrets={{{own}}}")]).unwrap_err();
        assert!(error.to_string().contains("/controller/gateSecrets/0"), "{own}: {error}");
    }
}

#[test]
fn notifiers_reach_the_networks_that_the_administrator_lists() {
    let args = |set: &[&str]| {
        let objects = template(set).unwrap();
        let pod = &named(&objects, "Deployment", "wardring-controller")["spec"]["template"]["spec"];
        pod["containers"][0]["args"].to_string()
    };
    assert!(!args(&[]).contains("--notify-network"));
    let listed = args(&["--set", "controller.notify.networks={10.20.0.0/16}"]);
    assert!(listed.contains("\"--notify-network=10.20.0.0/16\""), "{listed}");
}

#[test]
fn the_policies_for_approvals_are_those_that_the_controller_expects_with_the_same_accounts() {
    for accounts in [&[][..], &["system:serviceaccount:flux:sync", "system:serviceaccount:argo:cd"]]
    {
        let set = format!("approvals.serviceAccounts={{{}}}", accounts.join(","));
        let args: Vec<&str> = if accounts.is_empty() { vec![] } else { vec!["--set", &set] };
        let objects = template(&args).unwrap();
        let pod = &named(&objects, "Deployment", "wardring-controller")["spec"]["template"]["spec"];
        let args = pod["containers"][0]["args"].to_string();
        let accounts: Vec<String> = accounts.iter().map(ToString::to_string).collect();
        for account in &accounts {
            assert!(args.contains(&format!("--approval-account={account}")), "{args}");
        }
        for wanted in wardring_api::approval_policy::objects("wardring-system", &accounts) {
            let (kind, name) = (&wanted["kind"], &wanted["metadata"]["name"]);
            let found = named(&objects, kind.as_str().unwrap(), name.as_str().unwrap());
            assert_eq!(found["spec"], wanted["spec"], "{kind} {name}");
        }
    }
    let error = template(&["--set", "approvals.serviceAccounts={bob}"]).unwrap_err().to_string();
    assert!(error.contains("serviceAccounts"), "{error}");
}

#[test]
fn nobody_of_us_approves_and_whoever_may_is_bound_by_people() {
    let objects = template(&[]).unwrap();
    let bound = objects.iter().filter(|object| object["roleRef"]["name"] == "wardring-approve");
    assert_eq!(bound.count(), 0);
    let role = named(&objects, "ClusterRole", "wardring-approve")["rules"].to_string();
    assert!(role.contains("patchapprovals") && !role.contains("status"), "{role}");
    let gateway = grants(&objects, "wardring-gateway");
    assert!(!gateway.iter().any(|(resource, _)| resource.contains("patchapprovals")));
    let controller = grants(&objects, "wardring-controller");
    let verbs: Vec<_> =
        controller.iter().filter(|(resource, _)| resource == "patchapprovals").collect();
    assert!(verbs.iter().all(|(_, verb)| verb != "patch" && verb != "update"), "{verbs:?}");
}

#[test]
fn secrets_are_reached_by_name_only() {
    let objects = template(&[]).unwrap();
    for name in ["wardring-controller", "wardring-gateway"] {
        let cluster_wide = &named(&objects, "ClusterRole", name)["rules"];
        assert!(!cluster_wide.to_string().contains("secrets"), "{name} reads secrets everywhere");
        for rule in named(&objects, "Role", name)["rules"].as_array().unwrap() {
            let creates_only = rule["verbs"] == serde_json::json!(["create"]);
            let names_secrets = rule["resources"].to_string().contains("secrets");
            if names_secrets && !creates_only {
                assert!(rule["resourceNames"].is_array(), "{name}: {rule}");
                let ca = rule["resourceNames"].to_string().contains("wardring-ca");
                assert!(!ca || name == "wardring-controller", "the gateway reads the CA's key");
            }
        }
    }
}

#[test]
fn orders_are_asked_for_a_second_person_only_where_the_values_say_so() {
    use wardring_api::approval_policy::{DEMAND, demand};
    let policies = |args: &[&str]| -> Vec<serde_json::Value> {
        let objects = template(args).unwrap();
        objects.into_iter().filter(|object| object["metadata"]["name"] == DEMAND).collect()
    };
    assert!(policies(&[]).is_empty());
    for most in ["any", "10%", "25"] {
        let found = policies(&["--set", &format!("rollbacks.approvalAbove={most}")]);
        let wanted = demand(most);
        assert_eq!(found.len(), wanted.len());
        for object in wanted {
            let same = found
                .iter()
                .any(|one| (&one["kind"], &one["spec"]) == (&object["kind"], &object["spec"]));
            assert!(same, "{most}: {}", object["kind"]);
        }
    }
    for wrong in ["0", "-1", "101%", "half", "'; true"] {
        let set = format!("rollbacks.approvalAbove={wrong}");
        let error = template(&["--set", &set]).unwrap_err().to_string();
        assert!(error.contains("approvalAbove"), "{wrong}: {error}");
    }
}
