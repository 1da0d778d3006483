//! The plugin as people run it, against a real API server. No controller runs: statuses are written by
//! hand, so that every state can be had at once.

use std::{
    path::Path,
    process::{Command, Output},
};

use anyhow::Result;
use serde_json::{Value, json};
use wardring_harness::DevCluster;

fn plugin(kubeconfig: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kubectl-wardring"))
        .args(args)
        .env("KUBECONFIG", kubeconfig)
        .env_remove("WARDRING_SYSTEM_NAMESPACE")
        .output()
        .expect("the plugin was built for this test")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("the plugin prints UTF-8")
}

/// The one sentence of a failure.
fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr.clone()).expect("the plugin prints UTF-8");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

async fn with_crds() -> Result<DevCluster> {
    let cluster = DevCluster::start().await?;
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds").display().to_string();
    cluster.kubectl(&["apply", "--server-side", "-f", &crds]).await?.ok()?;
    let established = "--for=condition=Established";
    cluster.kubectl(&["wait", established, "crd", "--all", "--timeout=60s"]).await?.ok()?;
    cluster.kubectl(&["create", "namespace", "patching"]).await?.ok()?;
    Ok(cluster)
}

const ROLLOUT: &str = "
apiVersion: wardring.dev/v1alpha1
kind: PatchRollout
metadata: { name: november, namespace: patching }
spec:
  updates: { select: { release: 2026-11 } }
  stages: [{ name: test, group: test }, { name: production, group: production }]
";

/// A job as a controller makes it, but for its seal, which nobody here opens.
fn job(device: &str) -> String {
    json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchJob",
        "metadata": { "name": device, "namespace": "patching" },
        "spec": {
            "sealed": { "payload": "", "signature": "", "keyId": "", "certificate": "" },
            "rollout": "november", "rolloutUid": "u", "stage": "test", "slice": "s",
            "enrolmentId": "e", "attempt": 1, "sequence": 1, "action": "Install",
            "kbs": ["KB5068787"],
            "startBy": "2026-11-21T04:00:00Z", "finishBy": "2026-11-21T06:00:00Z",
        },
    })
    .to_string()
}

async fn field(cluster: &DevCluster, kind: &str, name: &str, pointer: &str) -> Result<Value> {
    let text = cluster.kubectl(&["get", kind, name, "-n", "patching", "-o", "json"]).await?.ok()?;
    let object: Value = serde_json::from_str(&text)?;
    Ok(object.pointer(pointer).cloned().unwrap_or_default())
}

#[test]
fn without_a_cluster_the_plugin_says_what_to_do() {
    let missing = plugin(Path::new("no-such-file"), &["status", "--kubeconfig", "no-such-file"]);
    assert!(complaint(&missing).contains("cannot use the kubeconfig no-such-file"));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster": { "server": "http://127.0.0.1:1" } }],
        "users": [{ "name": "c", "user": {} }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "c" } }],
    });
    std::fs::write(&file, config.to_string()).unwrap();
    let refused = complaint(&plugin(&file, &["status"]));
    assert!(refused.contains("cannot reach the API server"), "{refused}");
    assert!(refused.contains("is the cluster running"), "{refused}");

    let context = complaint(&plugin(&file, &["status", "--context", "prod"]));
    assert!(context.contains("`kubectl config get-contexts`"), "{context}");
    std::fs::write(&file, "clusters: [").unwrap();
    let garbage = complaint(&plugin(&file, &["status", "--context", "c"]));
    assert!(garbage.contains("`kubectl config get-contexts`"), "{garbage}");

    let usage = plugin(&file, &["abort", "november"]);
    assert_eq!(usage.status.code(), Some(2), "a wrong command line is kubectl's exit code too");
}

#[tokio::test]
async fn a_cluster_without_the_crds_is_told_apart_from_one_without_rollouts() -> Result<()> {
    let bare = DevCluster::start().await?;
    let text = complaint(&plugin(bare.kubeconfig_path(), &["status"]));
    assert!(text.contains("install the chart"), "{text}");
    bare.stop().await?;

    let cluster = with_crds().await?;
    let config = cluster.kubeconfig_path();
    let empty = plugin(config, &["status", "-n", "patching"]);
    assert_eq!(stdout(&empty), "");
    let note = String::from_utf8_lossy(&empty.stderr).into_owned();
    assert_eq!(note, "No rollouts found in namespace patching.\n");
    let missing = complaint(&plugin(config, &["status", "november", "-n", "patching"]));
    assert!(missing.contains("\"november\" not found"), "{missing}");
    let forbidden = complaint(&plugin(config, &["status", "-n", "patching", "--as", "nobody"]));
    assert!(forbidden.contains("you may not do that"), "{forbidden}");
    cluster.stop().await
}

#[tokio::test]
async fn verbs_write_one_field_each_and_formats_are_those_of_kubectl() -> Result<()> {
    let cluster = with_crds().await?;
    let config = cluster.kubeconfig_path().to_owned();
    let run = |args: &[&str]| stdout(&plugin(&config, &[args, &["-n", "patching"]].concat()));
    cluster.kubectl_apply(ROLLOUT).await?.ok()?;

    assert!(run(&["status"]).contains("november        Unplanned"));
    assert_eq!(run(&["status", "-o", "name"]), "patchrollout.wardring.dev/november\n");
    let one: Value = serde_json::from_str(&run(&["status", "november", "-o", "json"]))?;
    assert_eq!(one["kind"], "PatchRollout");
    let list: Value = serde_yaml::from_str(&run(&["status", "-o", "yaml"]))?;
    assert_eq!(list["items"][0]["metadata"]["name"], "november");

    let said = run(&["suspend", "november"]);
    assert!(said.starts_with("patchrollout.wardring.dev/november suspended"), "{said}");
    assert_eq!(field(&cluster, "prollout", "november", "/spec/suspend").await?, true);
    let manager = "jsonpath={.metadata.managedFields[*].manager}";
    let managers =
        ["get", "prollout", "november", "-n", "patching", "--show-managed-fields", "-o", manager];
    let managers = cluster.kubectl(&managers).await?.ok()?;
    assert!(managers.split(' ').any(|name| name == "wardring"), "{managers}");
    run(&["resume", "november"]);
    // An explicit no: the suspension latches, so that absence would change nothing.
    assert_eq!(field(&cluster, "prollout", "november", "/spec/suspend").await?, false);
    run(&["retry", "november"]);
    let stamp = "/metadata/annotations/wardring.dev~1retry-requested-at";
    assert!(field(&cluster, "prollout", "november", stamp).await?.is_string());
    assert_eq!(
        run(&["abort", "november", "--reason", "wrong month", "-o", "name"]),
        "patchrollout.wardring.dev/november\n"
    );
    assert_eq!(field(&cluster, "prollout", "november", "/spec/abort/reason").await?, "wrong month");

    let device = "apiVersion: wardring.dev/v1alpha1\nkind: Device\nmetadata: {name: srv-01, namespace: patching}\nspec: {mode: Manage}\n";
    cluster.kubectl_apply(device).await?.ok()?;
    let idle = complaint(&plugin(&config, &["release", "device", "srv-01", "-n", "patching"]));
    assert!(idle.contains("srv-01 has no job; nothing to release"), "{idle}");
    let nobody = complaint(&plugin(&config, &["release", "device", "srv-02", "-n", "patching"]));
    assert!(nobody.contains("\"srv-02\" not found; `kubectl get wdev -A`"), "{nobody}");
    let nowhere = complaint(&plugin(&config, &["explain", "device", "srv-02", "-n", "nowhere"]));
    assert!(nowhere.contains("`kubectl get wdev -A` shows every device"), "{nowhere}");
    let stamp = "/metadata/annotations/wardring.dev~1release-requested-at";
    assert!(field(&cluster, "wdev", "srv-01", stamp).await?.is_null());
    cluster.kubectl_apply(&job("srv-01")).await?.ok()?;
    assert!(run(&["release", "device", "srv-01"]).contains("device.wardring.dev/srv-01 released"));
    assert!(field(&cluster, "wdev", "srv-01", stamp).await?.is_string());
    let text = run(&["explain", "device", "srv-01"]);
    assert!(text.contains("srv-01 is not enrolled"), "{text}");
    let told: Value = serde_json::from_str(&run(&["explain", "device", "srv-01", "-o", "json"]))?;
    assert_eq!(told["object"], "device.wardring.dev/srv-01");
    let sentences = told["sentences"].as_array().map_or(0, Vec::len);
    assert_eq!(sentences, text.lines().count(), "{told}");
    let rollout: Value =
        serde_yaml::from_str(&run(&["explain", "rollout", "november", "-o", "yaml"]))?;
    assert_eq!(rollout["object"], "patchrollout.wardring.dev/november");
    assert!(rollout["sentences"][0].is_string(), "{rollout}");
    cluster.stop().await
}

#[tokio::test]
async fn verbs_confirm_only_what_happens() -> Result<()> {
    let cluster = with_crds().await?;
    let config = cluster.kubeconfig_path().to_owned();
    let verb = |args: &[&str]| plugin(&config, &[args, &["november", "-n", "patching"]].concat());
    cluster.kubectl_apply(ROLLOUT).await?.ok()?;

    set_phase(&cluster, "Progressing").await?;
    assert!(stdout(&verb(&["resume"])).contains("november is not suspended"));
    set_phase(&cluster, "Progressing").await?;
    let healthy = complaint(&verb(&["retry"]));
    assert!(healthy.contains("november has no failed devices; nothing to retry"), "{healthy}");
    let stamp = "/metadata/annotations/wardring.dev~1retry-requested-at";
    assert!(field(&cluster, "prollout", "november", stamp).await?.is_null());

    set_phase(&cluster, "Completed").await?;
    let done = complaint(&verb(&["suspend"]));
    assert!(done.contains("november is Completed; there is nothing to suspend"), "{done}");
    assert_eq!(field(&cluster, "prollout", "november", "/spec/suspend").await?, false);
    let done = complaint(&verb(&["abort", "--reason", "late"]));
    assert!(done.contains("november is Completed; there is nothing to abort"), "{done}");
    assert!(field(&cluster, "prollout", "november", "/spec/abort").await?.is_null());

    // Nobody may have to read before a rollout can be stopped.
    let role = ["create", "role", "stopper", "-n", "patching", "--verb=patch"];
    let role = [&role[..], &["--resource=patchrollouts.wardring.dev"]].concat();
    cluster.kubectl(&role).await?.ok()?;
    let binding = ["create", "rolebinding", "stopper", "-n", "patching", "--role=stopper"];
    cluster.kubectl(&[&binding[..], &["--user=night"]].concat()).await?.ok()?;
    set_phase(&cluster, "Progressing").await?;
    let night = stdout(&verb(&["suspend", "--as", "night"]));
    assert!(night.contains("november suspended;"), "{night}");
    assert_eq!(field(&cluster, "prollout", "november", "/spec/suspend").await?, true);
    set_latch(&cluster, "Suspended", "suspended").await?;
    assert!(stdout(&verb(&["suspend"])).contains("november is suspended already"));

    assert!(stdout(&verb(&["abort", "--reason", "wrong month"])).contains("november aborted;"));
    set_latch(&cluster, "Aborted", "aborted").await?;
    for (words, answer) in [
        (&["suspend"], "november is Aborted; there is nothing to suspend"),
        (&["resume"], "november is Aborted; make a new rollout"),
        (&["retry"], "november is Aborted; make a new rollout"),
    ] {
        let text = complaint(&verb(words));
        assert!(text.contains(answer), "{text}");
    }
    let again = stdout(&verb(&["abort", "--reason", "another"]));
    assert!(again.contains("november is aborted already"), "{again}");
    assert_eq!(field(&cluster, "prollout", "november", "/spec/abort/reason").await?, "wrong month");
    cluster.stop().await
}

#[tokio::test]
async fn enroll_makes_a_token_whose_secret_is_only_in_the_line_it_prints() -> Result<()> {
    let cluster = with_crds().await?;
    let config = cluster.kubeconfig_path().to_owned();
    let enroll = [
        "enroll",
        "-n",
        "patching",
        "--name",
        "servers",
        "--label",
        "group=servers",
        "--ttl",
        "8h",
        "--max-uses",
        "5",
    ];
    let too_early = complaint(&plugin(&config, &enroll));
    assert!(too_early.contains("ConfigMap wardring-roots"), "{too_early}");

    let hash = "ab".repeat(32);
    let roots = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: wardring-roots, namespace: wardring-system}}\ndata: {{rootSha256: {hash}}}\n"
    );
    cluster.kubectl(&["create", "namespace", "wardring-system"]).await?.ok()?;
    cluster.kubectl_apply(&roots).await?.ok()?;
    let wrong = plugin(&config, &[&enroll[..], &["--gateway", "http://gw.example"]].concat());
    assert_eq!(wrong.status.code(), Some(2));
    let wrong = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(wrong.contains("https://HOST:PORT"), "{wrong}");
    let gateway = ["--gateway", "https://gw.example:8443"];
    let nowhere = complaint(&plugin(&config, &["enroll", "-n", "nowhere"]));
    assert!(nowhere.contains("`kubectl get namespaces` shows every namespace"), "{nowhere}");
    // The name is still free: nothing was made for the wrong address.
    let line = stdout(&plugin(&config, &[&enroll[..], &gateway].concat()));

    assert!(
        line.starts_with(
            "wardring-agent install --gateway https://gw.example:8443 --token patching/servers."
        ),
        "{line}"
    );
    assert!(line.trim_end().ends_with(&hash), "{line}");
    let spec = field(&cluster, "etoken", "servers", "/spec").await?;
    assert_eq!(spec["labels"], json!({ "group": "servers" }));
    assert_eq!(spec["mode"], "Observe");
    let seed = line.rsplit('.').nth(1).unwrap();
    assert!(!spec.to_string().contains(seed), "the seed is stored in the cluster");

    let expiry: jiff::Timestamp = serde_json::from_value(spec["expiresAt"].clone())?;
    assert_eq!(expiry.subsec_nanosecond(), 0, "{expiry}");

    let named = plugin(&config, &["enroll", "-n", "patching", "--name", "laptops", "-o", "name"]);
    assert_eq!(stdout(&named), "enrollmenttoken.wardring.dev/laptops\n");
    assert!(String::from_utf8_lossy(&named.stderr).contains("--token patching/laptops."));

    let unnamed = plugin(&config, &["enroll", "-n", "patching"]);
    assert!(stdout(&unnamed).contains("--gateway https://GATEWAY:8443 --token"));
    let note = String::from_utf8_lossy(&unnamed.stderr).into_owned();
    assert!(note.contains("Replace GATEWAY by the address of your gateways"), "{note}");

    let again = complaint(&plugin(&config, &enroll));
    assert!(again.contains("already exists"), "{again}");
    cluster.stop().await
}

#[tokio::test]
async fn watching_a_rollout_ends_with_it_and_only_completion_is_a_success() -> Result<()> {
    let cluster = with_crds().await?;
    let config = cluster.kubeconfig_path().to_owned();
    cluster.kubectl_apply(ROLLOUT).await?.ok()?;
    for (phase, code) in [("Halted", 1), ("Completed", 0)] {
        set_phase(&cluster, "Progressing").await?;
        let mut watch = Command::new(env!("CARGO_BIN_EXE_kubectl-wardring"));
        watch.args(["status", "november", "-w", "-n", "patching"]).env("KUBECONFIG", &config);
        let mut watch = watch.stdout(std::process::Stdio::piped()).spawn()?;
        set_phase(&cluster, phase).await?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut watch.stdout.take().unwrap(), &mut text)?;
        assert_eq!(watch.wait()?.code(), Some(code), "{phase}: {text}");
        assert!(text.contains(&format!("november        {phase}")), "{text}");
    }
    cluster.stop().await
}

async fn set_phase(cluster: &DevCluster, phase: &str) -> Result<()> {
    set_status(cluster, json!({ "phase": phase })).await
}

/// The status in which a person's order of this name is latched.
async fn set_latch(cluster: &DevCluster, phase: &str, latch: &str) -> Result<()> {
    let at = "2026-11-21T02:05:00Z";
    let order = json!({ "reason": "ByPerson", "message": "A person did it.", "at": at });
    set_status(cluster, json!({ "phase": phase, latch: order })).await
}

async fn set_status(cluster: &DevCluster, mut status: Value) -> Result<()> {
    status["observedGeneration"] =
        field(cluster, "prollout", "november", "/metadata/generation").await?;
    let patch = json!({ "status": status }).to_string();
    let object = ["patch", "prollout", "november", "-n", "patching"];
    let change = ["--subresource=status", "--type=merge", "-p", &patch];
    cluster.kubectl(&[&object[..], &change].concat()).await?.ok()?;
    Ok(())
}

#[tokio::test]
async fn a_stop_is_made_once_tells_who_is_mid_flight_and_is_lifted_on_confirmation() -> Result<()> {
    let cluster = with_crds().await?;
    let config = cluster.kubeconfig_path().to_owned();
    let run = |args: &[&str]| stdout(&plugin(&config, args));
    cluster.kubectl_apply(ROLLOUT).await?.ok()?;
    for (device, ward) in [("srv-01", "3"), ("srv-02", "4")] {
        let manifest = json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "Device",
            "metadata": { "name": device, "namespace": "patching", "labels": { "ward": ward } },
            "spec": { "mode": "Manage" },
        });
        cluster.kubectl_apply(&manifest.to_string()).await?.ok()?;
        cluster.kubectl_apply(&job(device)).await?.ok()?;
        let permit = json!({
            "step": "Install", "at": "2026-11-21T02:00:00Z", "attempt": 1, "bootId": "b",
            "agentRun": "r",
        });
        let status = json!({ "status": { "state": "Installing", "permitted": [permit] } });
        let status = status.to_string();
        let patch =
            ["patch", "pjob", device, "-n", "patching", "--subresource=status", "--type=merge"];
        cluster.kubectl(&[&patch[..], &["-p", &status]].concat()).await?.ok()?;
    }

    let one = ["stop", "--reason", "the ERP does not answer", "-n", "patching"];
    let misread = complaint(&plugin(&config, &one));
    assert!(misread.contains("in every namespace, not in patching alone"), "{misread}");
    let dry = run(&["stop", "--reason", "the ERP does not answer", "--dry-run"]);
    assert!(dry.contains("all would be in force (dry run)"), "{dry}");
    assert!(dry.contains("2 devices are mid-flight"), "{dry}");
    let none = complaint(&plugin(&config, &["lift", "all", "--yes"]));
    assert!(none.contains("`kubectl get estop` shows every emergency stop"), "{none}");

    let said = run(&["stop", "5068787", "-l", "ward=3", "--reason", "ward 3 is in surgery"]);
    assert!(said.starts_with("emergencystop.wardring.dev/kb5068787-"), "{said}");
    assert!(said.contains("1 device is mid-flight"), "{said}");
    assert!(said.contains("patching/srv-01: Installing (rollout november, stage test)"), "{said}");
    assert!(!said.contains("srv-02"), "{said}");
    let again = run(&[
        "stop",
        "KB5068787",
        "-A",
        "-n",
        "patching",
        "-l",
        "ward=3",
        "--reason",
        "said again",
    ]);
    assert!(again.contains("is in force already"), "{again}");
    let name = run(&["stop", "KB5068787", "-l", "ward=3", "--reason", "r", "-o", "name"]);
    let name = name.trim().trim_start_matches("emergencystop.wardring.dev/").to_owned();
    let reason = cluster.kubectl(&["get", "estop", &name, "-o", "jsonpath={.spec.reason}"]).await?;
    assert_eq!(reason.ok()?, "ward 3 is in surgery", "saying it again changes nothing");
    let other = complaint(&plugin(&config, &["stop", "--name", &name, "--reason", "everything"]));
    assert!(other.contains("stops something else; give this one another --name"), "{other}");

    let told = run(&["explain", "device", "srv-02", "-n", "patching"]);
    assert!(!told.contains("EmergencyStop"), "{told}");
    // Who may not read the stops still gets an explanation.
    let role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\n\
                metadata: {name: look, namespace: patching}\n\
                roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: look}\n\
                subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: helpdesk}]\n---\n\
                apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\n\
                metadata: {name: look}\n\
                rules: [{apiGroups: [wardring.dev], resources: ['*'], verbs: [get, list]}]\n";
    cluster.kubectl_apply(role).await?.ok()?;
    let helpdesk = ["explain", "device", "srv-01", "-n", "patching", "--as", "helpdesk"];
    assert!(run(&helpdesk).contains("srv-01"));

    // Nobody can answer here.
    let asked = complaint(&plugin(&config, &["lift", &name]));
    assert!(asked.contains("ward 3 is in surgery") && asked.contains("--yes"), "{asked}");
    cluster.kubectl(&["get", "estop", &name]).await?.ok()?;
    let lifted = run(&["lift", &name, "--yes"]);
    assert!(lifted.contains("is lifted; what it kept back goes on"), "{lifted}");
    assert!(!cluster.kubectl(&["get", "estop", &name]).await?.succeeded());
    cluster.stop().await
}

/// Gives an object of the namespace a status.
async fn report(cluster: &DevCluster, kind: &str, name: &str, status: Value) -> Result<()> {
    let patch = json!({ "status": status }).to_string();
    let object = ["patch", kind, name, "-n", "patching", "--subresource=status"];
    cluster.kubectl(&[&object[..], &["--type=merge", "-p", &patch]].concat()).await?.ok()?;
    Ok(())
}

#[tokio::test]
async fn a_damaged_device_is_released_and_one_with_two_agents_is_not() -> Result<()> {
    let cluster = with_crds().await?;
    let config = cluster.kubeconfig_path().to_owned();
    let run = |args: &[&str]| stdout(&plugin(&config, &[args, &["-n", "patching"]].concat()));
    let fails = |args: &[&str]| complaint(&plugin(&config, &[args, &["-n", "patching"]].concat()));
    let at = "2026-11-21T02:05:00Z";
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": "True", "reason": reason, "message": message,
            "lastTransitionTime": at,
        })
    };
    let online = condition("Online", "AgentInContact", "an agent is in contact");
    let stamp = "/metadata/annotations/wardring.dev~1release-requested-at";
    for (name, reason) in [("srv-01", "RollbackFailed"), ("srv-02", "TwoAgents")] {
        let device = json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "Device",
            "metadata": { "name": name, "namespace": "patching" }, "spec": { "mode": "Manage" },
        });
        cluster.kubectl_apply(&device.to_string()).await?.ok()?;
        let quarantined = condition("Quarantined", reason, "KB5068787 could not be taken back.");
        report(&cluster, "wdev", name, json!({ "conditions": [online, quarantined] })).await?;
    }
    let told = run(&["explain", "device", "srv-01"]);
    assert!(told.contains("Quarantined is True: KB5068787 could not be taken back."), "{told}");

    let two = fails(&["release", "device", "srv-02"]);
    assert!(two.contains("is quarantined for a reason that no release lifts"), "{two}");
    assert!(field(&cluster, "wdev", "srv-02", stamp).await?.is_null());

    run(&["hold", "device", "srv-01", "--reason", "audit"]);
    let held = run(&["release", "device", "srv-01"]);
    assert!(held.contains("held no longer (audit); it stays quarantined"), "{held}");
    assert!(field(&cluster, "wdev", "srv-01", stamp).await?.is_null());

    // In contact, and with the job of the rollback that it answered.
    cluster.kubectl_apply(&job("srv-01")).await?.ok()?;
    let permit =
        json!({ "step": "Uninstall", "at": at, "attempt": 1, "bootId": "b", "agentRun": "r" });
    let working = json!({ "attempt": 1, "permitted": [permit] });
    report(&cluster, "pjob", "srv-01", working).await?;
    let works = fails(&["release", "device", "srv-01"]);
    assert!(works.contains("is in contact and at work"), "{works}");
    let signed = json!({ "payload": "", "signature": "", "keyId": "", "certificate": "" });
    report(&cluster, "pjob", "srv-01", json!({ "outcome": signed })).await?;
    let released = run(&["release", "device", "srv-01"]);
    assert!(released.contains("srv-01 released; it is quarantined no longer"), "{released}");
    assert!(field(&cluster, "wdev", "srv-01", stamp).await?.is_string());

    // And without it, once it is given up.
    cluster.kubectl(&["delete", "pjob", "srv-01", "-n", "patching"]).await?.ok()?;
    let again = run(&["release", "device", "srv-01"]);
    assert!(again.contains("srv-01 released; it is quarantined no longer"), "{again}");
    cluster.stop().await
}

#[tokio::test]
async fn holds_are_put_and_lifted_and_an_order_is_looked_at_before_it_is_made() -> Result<()> {
    let cluster = with_crds().await?;
    let config = cluster.kubeconfig_path().to_owned();
    let run = |args: &[&str]| stdout(&plugin(&config, &[args, &["-n", "patching"]].concat()));
    let fails = |args: &[&str]| complaint(&plugin(&config, &[args, &["-n", "patching"]].concat()));
    cluster.kubectl_apply(ROLLOUT).await?.ok()?;
    let device = json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "Device",
        "metadata": { "name": "srv-01", "namespace": "patching" }, "spec": { "mode": "Manage" },
    });
    cluster.kubectl_apply(&device.to_string()).await?.ok()?;
    cluster.kubectl_apply(&job("srv-01")).await?.ok()?;

    let held = run(&["hold", "device", "srv-01", "--reason", "audit", "--until", "4h"]);
    assert!(held.contains("srv-01 held until 2"), "{held}");
    run(&["hold", "device", "srv-01", "--reason", "audit"]);
    let hold = field(&cluster, "wdev", "srv-01", "/spec/hold").await?;
    assert_eq!(hold, json!({ "reason": "audit" }), "an end that is not given is none");
    assert!(run(&["release", "device", "srv-01"]).contains("is held no longer (audit)"));
    assert!(field(&cluster, "wdev", "srv-01", "/spec/hold").await?.is_null());
    let stamp = "/metadata/annotations/wardring.dev~1release-requested-at";
    assert!(field(&cluster, "wdev", "srv-01", stamp).await?.is_null(), "its job is not given up");

    let bar = ["hold", "update", "5068787", "KB5068791", "--reason", "label printers"];
    assert!(run(&bar).contains("updatehold.wardring.dev/kb5068787-kb5068791 bars"));
    assert!(run(&bar).contains("bars it already"));
    let asks = fails(&["release", "update", "5068787"]);
    assert!(asks.contains("label printers") && asks.contains("--yes"), "{asks}");
    let kept = run(&["release", "update", "5068787", "--yes"]);
    assert!(kept.contains("still bars KB5068791"), "{kept}");
    assert!(run(&["release", "update", "5068791", "--yes"]).contains("is gone"));
    let none = fails(&["release", "update", "5068791", "--yes"]);
    assert!(none.contains("no UpdateHold in namespace patching bars KB5068791"), "{none}");

    let order = ["rollback", "november", "--device", "srv-01", "--reason", "the ERP is down"];
    for (wrong, hint) in [
        (["rollback", "octber", "--device", "srv-01"], "kubectl wardring status -A"),
        (["rollback", "november", "--device", "srv-1"], "kubectl get wdev -A"),
        (["rollback", "november", "--group", "wrd"], "kubectl get dgroup -A"),
    ] {
        let told = fails(&[&wrong[..], &["--reason", "r"]].concat());
        assert!(told.contains("not found") && told.contains(hint), "{told}");
    }
    let dry = run(&[&order[..], &["--dry-run"]].concat());
    assert!(dry.contains("would be made (dry run)") && dry.contains("reaches no device"), "{dry}");
    assert!(
        !cluster
            .kubectl(&["get", "prollback", "-n", "patching"])
            .await?
            .stdout
            .contains("november")
    );
    let made = run(&[&order[..], &["--order-name", "erp-down", "--superseding"]].concat());
    assert!(made.contains("patchrollback.wardring.dev/erp-down is made"), "{made}");
    assert!(made.contains("kubectl delete patchrollback erp-down -n patching"), "{made}");
    assert_eq!(field(&cluster, "prollback", "erp-down", "/spec/devices/0").await?, "srv-01");
    assert_eq!(field(&cluster, "prollback", "erp-down", "/spec/includeSuperseding").await?, "Hold");
    let stranger = fails(&[&order[..], &["--as", "stranger"]].concat());
    assert!(stranger.contains("you may not do that"), "{stranger}");
    cluster.stop().await
}

/// Two groups, each with a device in contact, an update for them and a window for production.
const FLEET: &str = "
apiVersion: wardring.dev/v1alpha1
kind: DeviceGroup
metadata: { name: test, namespace: patching }
spec: { selector: { matchLabels: { ring: test } } }
---
apiVersion: wardring.dev/v1alpha1
kind: DeviceGroup
metadata: { name: production, namespace: patching }
spec: { selector: { matchLabels: { ring: production } } }
---
apiVersion: wardring.dev/v1alpha1
kind: Update
metadata: { name: kb5068787, namespace: patching }
spec: { kb: KB5068787, title: November, product: Windows Server 2022, kind: Quality, release: 2026-11, reversible: Expected }
---
apiVersion: wardring.dev/v1alpha1
kind: Device
metadata: { name: test-1, namespace: patching, labels: { ring: test } }
spec: { mode: Manage, enrolmentId: e1 }
---
apiVersion: wardring.dev/v1alpha1
kind: Device
metadata: { name: prod-1, namespace: patching, labels: { ring: production } }
spec: { mode: Manage, enrolmentId: e2 }
---
apiVersion: wardring.dev/v1alpha1
kind: Device
metadata: { name: prod-2, namespace: patching, labels: { ring: production } }
spec: { mode: Observe, enrolmentId: e3 }
";

#[tokio::test]
async fn a_plan_shows_what_would_happen_and_writes_nothing() -> Result<()> {
    let cluster = with_crds().await?;
    let config = cluster.kubeconfig_path().to_owned();
    let plan = |args: &[&str]| plugin(&config, &[&["plan", "-n", "patching"], args].concat());
    cluster.kubectl_apply(FLEET).await?.ok()?;
    for device in ["test-1", "prod-1", "prod-2"] {
        let status = json!({ "status": {
            "os": { "product": "Windows Server 2022", "build": "20348.4294", "edition": "" },
            "conditions": [{ "type": "Online", "status": "True", "reason": "InContact",
                "message": "", "lastTransitionTime": "2026-11-01T00:00:00Z" }],
        }});
        let status = status.to_string();
        let patch = ["patch", "wdev", device, "-n", "patching", "--subresource=status"];
        let patch = [&patch[..], &["--type=merge", "-p", &status]].concat();
        cluster.kubectl(&patch).await?.ok()?;
    }
    let folder = tempfile::tempdir()?;
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };

    // Before it is applied.
    let manifest = file("november.yaml", ROLLOUT);
    let text = stdout(&plan(&["-f", &manifest]));
    assert!(text.starts_with("patchrollout.wardring.dev/november in namespace patching"), "{text}");
    assert!(text.contains("1 device is not patched in the end"), "{text}");
    assert!(text.contains("prod-2 does not start: the device is in mode Observe"), "{text}");
    assert!(text.contains("It does not complete by itself"), "{text}");
    let document: Value = serde_json::from_str(&stdout(&plan(&["-f", &manifest, "-o", "json"])))?;
    let states: Vec<_> =
        document["devices"].as_array().unwrap().iter().map(|d| &d["state"]).collect();
    assert_eq!(json!(states), json!(["Succeeded", "Succeeded", null]), "{document}");
    assert_eq!(document["devices"][0]["reversible"], "Expected");
    let wide = stdout(&plan(&["-f", &manifest, "-o", "wide"]));
    assert!(wide.lines().any(|line| line.starts_with("prod-1 ")), "{wide}");
    // The other way round the second stage does not open, and its device is listed all the same.
    let stages = "stages: [{ name: production, group: production }, { name: test, group: test }]";
    let before = "stages: [{ name: test, group: test }, { name: production, group: production }]";
    let reversed = file("reversed.yaml", &ROLLOUT.replace(before, stages));
    let text = stdout(&plan(&["-f", &reversed]));
    let why = "Stage test does not open: stage production comes first.";
    assert!(text.contains(why), "{text}");
    assert!(text.contains("1 device could start once stage test opens."), "{text}");
    let wide = stdout(&plan(&["-f", &reversed, "-o", "wide"]));
    let line = wide.lines().find(|line| line.starts_with("test-1 ")).unwrap();
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(cells, ["test-1", "test", "unknown", "-", "Expected", "StageNotOpen"]);
    let document: Value = serde_json::from_str(&stdout(&plan(&["-f", &reversed, "-o", "json"])))?;
    let last = &document["devices"][2];
    assert_eq!((&last["name"], &last["starts"]), (&json!("test-1"), &Value::Null), "{document}");
    assert!(last["startUnknown"].as_str().unwrap().starts_with(why), "{document}");
    let absent = complaint(&plan(&["november"]));
    assert!(absent.contains("\"november\" not found"), "nothing was written: {absent}");

    // Once it is there, suspended, and as another manifest would make it.
    cluster.kubectl_apply(ROLLOUT).await?.ok()?;
    stdout(&plugin(&config, &["suspend", "november", "-n", "patching"]));
    cluster
        .kubectl(&[
            "patch",
            "wdev",
            "prod-2",
            "-n",
            "patching",
            "--type=merge",
            "-p",
            r#"{"spec":{"mode":"Manage"}}"#,
        ])
        .await?
        .ok()?;
    let text = stdout(&plan(&["november"]));
    assert!(text.contains("It is suspended; this is what happens once it is resumed."), "{text}");
    assert!(text.contains("with 3 of 3 devices"), "{text}");
    let version = field(&cluster, "prollout", "november", "/metadata/resourceVersion").await?;
    let other = ROLLOUT.replace("group: production }", "group: production, maxConcurrency: 1 }");
    let text = stdout(&plan(&["-f", &file("other.yaml", &other)]));
    assert!(text.contains("It exists; this is what happens once the file is applied."), "{text}");
    assert!(text.contains("SlotsTaken 4"), "one after the other: {text}");
    let after = field(&cluster, "prollout", "november", "/metadata/resourceVersion").await?;
    assert_eq!(version, after, "nothing was written");

    // What `kubectl apply` would refuse is refused in its words, in one sentence.
    let other = file("other.yaml", &ROLLOUT.replace("2026-11 }", "2019-01 }"));
    let refused = complaint(&plan(&["-f", &other]));
    assert!(refused.contains("spec.updates: cannot change"), "{refused}");
    let none = complaint(&plan(&["-f", &file("none.yaml", "kind: ConfigMap")]));
    assert!(none.contains("none.yaml: there is no PatchRollout"), "{none}");
    let elsewhere = ROLLOUT.replace("namespace: patching", "namespace: other");
    let elsewhere = complaint(&plan(&["-f", &file("elsewhere.yaml", &elsewhere)]));
    assert!(elsewhere.contains("is for namespace other"), "{elsewhere}");
    let missing = complaint(&plan(&["-f", "no-such-file.yaml"]));
    assert!(missing.contains("cannot read no-such-file.yaml"), "{missing}");
    let forbidden = complaint(&plan(&["november", "--as", "nobody"]));
    assert!(forbidden.contains("you may not do that"), "{forbidden}");
    cluster.stop().await
}
