//! Who may say what: the policies that the chart installs for PatchApprovals and for the authors of rollouts,
//! tried by several people, a GitOps service account, and impostors.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use kube::Api;
use serde_json::{Value, json};
use wardring_admission::install;
use wardring_api::{approval_policy, crd::all_crds};
use wardring_harness::{DevCluster, wait_until_ok};

const SYSTEM: &str = "wardring-system";
const FLUX: &str = "system:serviceaccount:flux-system:kustomize-controller";
const CONTROLLER: &str = "system:serviceaccount:wardring-system:wardring-controller";
const GATEWAY: &str = "system:serviceaccount:wardring-system:wardring-gateway";
const PATIENCE: Duration = Duration::from_secs(120);

/// The chart's policies, filled in as Helm does it.
fn policies() -> Result<String> {
    let path = "../../charts/wardring/files/approval-policies.yaml";
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))?;
    let (namespace, accounts) = approval_policy::CHART;
    Ok(text.replace(namespace, SYSTEM).replace(accounts, FLUX))
}

/// A cluster with the CRDs, the policies, and people who may write everything of ours.
struct Clinic {
    cluster: DevCluster,
}

impl Clinic {
    async fn open() -> Result<Clinic> {
        let cluster = DevCluster::start().await?;
        install(&cluster.client().await?, &all_crds()).await?;
        let user = |name: &str| json!({ "kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io" });
        let people = ["alice", "bob", "carol", FLUX, CONTROLLER, GATEWAY, "system:anonymous"];
        let setup = json!({ "apiVersion": "v1", "kind": "List", "items": [
            { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "ward" } },
            { "apiVersion": "v1", "kind": "ServiceAccount",
              "metadata": { "name": "robot", "namespace": "ward" } },
            { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
              "metadata": { "name": "patching" },
              "rules": [{ "apiGroups": ["wardring.dev"], "resources": ["*"], "verbs": ["*"] }] },
            { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
              "metadata": { "name": "patching" },
              "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "patching" },
              "subjects": people.iter().map(|name| user(name)).chain([
                  json!({ "kind": "ServiceAccount", "name": "robot", "namespace": "ward" })
              ]).collect::<Vec<_>>() },
        ]});
        for manifests in [setup.to_string(), policies()?] {
            let output = cluster.kubectl_apply(&manifests).await?;
            if !output.succeeded() {
                bail!("kubectl apply failed: {}", output.stderr);
            }
        }
        let clinic = Clinic { cluster };
        // A policy works some moments after it was stored.
        wait_until_ok(PATIENCE, "the policies", async || {
            let forged = clinic.create("bob", &approval("trial", "carol", "Approve")).await;
            let written = clinic.create("bob", &rollout("trial", &["carol"], &gate("24h"))).await;
            match (forged, written) {
                (Err(one), Err(other))
                    if one.contains("spec.approver") && other.contains("spec.authors") =>
                {
                    Ok(())
                }
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
        Ok(clinic)
    }

    async fn kubectl(&self, user: &str, verb: &str, object: &Value) -> Result<(), String> {
        let args = [verb, "--as", user, "-n", "ward", "-f", "-"];
        let output = self.cluster.kubectl_with_input(&args, &object.to_string()).await;
        let output = output.map_err(|error| error.to_string())?;
        if output.succeeded() { Ok(()) } else { Err(output.stderr) }
    }

    async fn delete(&self, user: &str, name: &str) -> Result<(), String> {
        let args = ["delete", "patchapproval", name, "--as", user, "-n", "ward"];
        let output = self.cluster.kubectl(&args).await.map_err(|error| error.to_string())?;
        if output.succeeded() { Ok(()) } else { Err(output.stderr) }
    }

    async fn create(&self, user: &str, object: &Value) -> Result<(), String> {
        self.kubectl(user, "create", object).await
    }

    /// Applies a change to an object's spec, or to its status.
    async fn patch(
        &self,
        user: &str,
        what: [&str; 2],
        change: &Value,
        more: &[&str],
    ) -> Result<(), String> {
        let change = change.to_string();
        let args =
            ["patch", what[0], what[1], "--as", user, "-n", "ward", "--type=merge", "-p", &change];
        let output = self
            .cluster
            .kubectl(&[&args[..], more].concat())
            .await
            .map_err(|error| error.to_string())?;
        if output.succeeded() { Ok(()) } else { Err(output.stderr) }
    }
}

fn request(name: &str, authors: &[&str]) -> Value {
    json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchApproval", "metadata": { "name": name },
        "spec": {
            "rollout": "november", "rolloutUid": "u-1", "authors": authors,
            "subject": { "type": "StageGate", "stageGate": { "stage": "ward", "gate": "sign-off" } },
            "approvalHash": format!("v1:{}", "0".repeat(64)),
        },
    })
}

fn decision(by: &str, word: &str) -> Value {
    json!({ "spec": { "decision": word, "approver": by, "reason": "looked at it" } })
}

fn approval(name: &str, by: &str, word: &str) -> Value {
    let mut object = request(name, &["alice"]);
    for (key, value) in decision(by, word)["spec"].as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    object
}

fn gate(expires: &str) -> Value {
    json!({ "before": [{ "name": "sign-off", "type": "Approval", "approval": { "expiresAfter": expires } }] })
}

fn rollout(name: &str, authors: &[&str], gates: &Value) -> Value {
    json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchRollout", "metadata": { "name": name },
        "spec": {
            "updates": { "kbs": ["KB5068787"] }, "authors": authors,
            "stages": [{ "name": "ward", "group": "ward", "maxConcurrency": 1, "gates": gates }],
        },
    })
}

fn refused(result: Result<(), String>, words: &str) {
    let error = result.expect_err("it was taken");
    assert!(error.contains(words), "{error}");
}

#[tokio::test]
async fn nobody_decides_in_another_name_and_no_author_approves() {
    let clinic = Clinic::open().await.unwrap();
    // The controller asks; nobody else makes an empty request, and the controller decides nothing.
    refused(clinic.create("bob", &request("asked", &[])).await, "only Wardring's controller asks");
    clinic.create(CONTROLLER, &request("asked", &["alice"])).await.unwrap();
    let asked = ["patchapproval", "asked"];
    let not_you = "must be the user name of whoever decides";
    refused(clinic.patch("bob", asked, &decision("carol", "Approve"), &[]).await, not_you);
    refused(clinic.patch("bob", asked, &decision("carol", "Reject"), &[]).await, not_you);
    let ours = "own processes decide nothing";
    for account in [CONTROLLER, GATEWAY] {
        refused(clinic.patch(account, asked, &decision(account, "Approve"), &[]).await, ours);
    }
    let robot = "system:serviceaccount:ward:robot";
    let unnamed = "only if the chart's";
    for account in [robot, "system:anonymous"] {
        // Only robot has no role by this name: it is bound by its own.
        let said = clinic.patch(account, asked, &decision(account, "Approve"), &[]).await;
        refused(said, unnamed);
    }
    let author = "may not approve it; somebody else has to look";
    refused(clinic.patch("alice", asked, &decision("alice", "Approve"), &[]).await, author);
    let mine = json!({ "spec": { "authors": [] , "decision": "Approve", "approver": "alice", "reason": "r" } });
    refused(clinic.patch("alice", asked, &mine, &[]).await, "spec.authors: cannot change");

    clinic.patch("bob", asked, &decision("bob", "Approve"), &[]).await.unwrap();
    for (by, word) in [("bob", "Reject"), ("carol", "Approve"), ("carol", "Reject")] {
        let said = clinic.patch(by, asked, &decision(by, word), &[]).await;
        refused(said, "spec.decision: was made and stays");
    }
    // Labels are nobody's word: they may change.
    let label = json!({ "metadata": { "labels": { "example.com/change": "4711" } } });
    clinic.patch("carol", asked, &label, &[]).await.unwrap();

    // An author may say no.
    clinic.create("alice", &approval("no", "alice", "Reject")).await.unwrap();
    // Git brings whole objects, by the service account that the chart names and no other.
    clinic.create(FLUX, &approval("git", FLUX, "Approve")).await.unwrap();
    refused(clinic.create(FLUX, &approval("forged", "bob", "Approve")).await, not_you);
    refused(clinic.create(robot, &approval("robot", robot, "Approve")).await, unnamed);

    // What became of it is the controller's to say.
    let status = json!({ "status": { "phase": "Used", "message": "m" } });
    let as_status = ["--subresource=status"];
    refused(
        clinic.patch("bob", asked, &status, &as_status).await,
        "written by Wardring's controller alone",
    );
    clinic.patch(CONTROLLER, asked, &status, &as_status).await.unwrap();

    // What was decided is a record. An approval that is not used yet is its approver's to withdraw.
    let record = "a decision is a record";
    for (user, name) in [("bob", "asked"), ("carol", "asked"), ("alice", "no"), ("bob", "git")] {
        refused(clinic.delete(user, name).await, record);
    }
    clinic.delete(FLUX, "git").await.unwrap();
    clinic.create(CONTROLLER, &request("open", &[])).await.unwrap();
    clinic.delete("bob", "open").await.unwrap();
    // Nor does a record hold up a namespace that goes.
    let gone = ["delete", "namespace", "ward", "--timeout=60s"];
    clinic.cluster.kubectl(&gone).await.unwrap().ok().unwrap();
}

#[tokio::test]
async fn whoever_may_not_impersonate_cannot_approve_as_somebody_else() {
    let clinic = Clinic::open().await.unwrap();
    clinic.create(CONTROLLER, &request("asked", &["alice"])).await.unwrap();
    // The robot has every right on our objects, and a real token.
    let kubeconfig = clinic.cluster.service_account_kubeconfig("ward", "robot").await.unwrap();
    let text = kubeconfig.display().to_string();
    let change = decision("bob", "Approve").to_string();
    let patch = ["patch", "patchapproval", "asked", "-n", "ward", "--type=merge", "-p", &change];
    for more in [&["--as", "bob"][..], &["--as", "robot", "--as-group", "system:masters"][..]] {
        let args = [&["--kubeconfig", &text][..], &patch, more].concat();
        let output = clinic.cluster.kubectl(&args).await.unwrap();
        assert!(!output.succeeded(), "{}", output.stdout);
        assert!(output.stderr.contains("cannot impersonate"), "{}", output.stderr);
    }
    let output =
        clinic.cluster.kubectl(&[&["--kubeconfig", &text][..], &patch].concat()).await.unwrap();
    assert!(
        output.stderr.contains("must be the user name of whoever decides"),
        "{}",
        output.stderr
    );
}

#[tokio::test]
async fn a_rollout_that_asks_names_everybody_who_wrote_it() {
    let clinic = Clinic::open().await.unwrap();
    let authors = "names everybody who wrote it";
    refused(clinic.create("alice", &rollout("november", &[], &gate("24h"))).await, authors);
    refused(clinic.create("alice", &rollout("november", &["bob"], &gate("24h"))).await, authors);
    clinic.create("alice", &rollout("november", &["alice"], &gate("24h"))).await.unwrap();
    let november = ["patchrollout", "november"];
    let stages = |cap: u32, gates: &Value, more: Value| {
        let mut stages = rollout("november", &[], gates)["spec"]["stages"].clone();
        stages[0]["maxConcurrency"] = json!(cap);
        let mut change = json!({ "spec": { "stages": stages } });
        if !more.is_null() {
            change["spec"]["authors"] = more;
        }
        change
    };
    let asks = gate("24h");
    // Whoever changes what is approved becomes one of its authors; the others stay.
    let said = clinic.patch("bob", november, &stages(9, &asks, Value::Null), &[]).await;
    refused(said, authors);
    let said = clinic.patch("bob", november, &stages(9, &asks, json!(["bob"])), &[]).await;
    refused(said, "spec.authors: may only grow");
    clinic.patch("bob", november, &stages(9, &asks, json!(["alice", "bob"])), &[]).await.unwrap();
    // Nobody shuts out others by naming them.
    let all = stages(9, &asks, json!(["alice", "bob", "carol"]));
    refused(clinic.patch("bob", november, &all, &[]).await, "add yourself and nobody else");
    // A question cannot be taken back, nor put in other words.
    let dodged = "cannot be changed or taken out";
    let more = json!(["alice", "bob"]);
    for gates in [json!({}), gate("1h")] {
        let said = clinic.patch("alice", november, &stages(9, &gates, more.clone()), &[]).await;
        refused(said, dodged);
    }
    // What brakes the stages is part of what is approved.
    let brake = json!({ "spec": { "correlatedFailures": { "devices": 9 } } });
    refused(clinic.patch("carol", november, &brake, &[]).await, authors);
    clinic.patch("alice", november, &brake, &[]).await.unwrap();
    // A gate after the stage is kept as well.
    let after = json!({ "after": asks["before"] });
    refused(clinic.create("carol", &rollout("after", &["bob"], &after)).await, authors);
    clinic.create("alice", &rollout("after", &["alice"], &after)).await.unwrap();
    let without = stages(1, &json!({}), json!(["alice"]));
    let said = clinic.patch("alice", ["patchrollout", "after"], &without, &[]).await;
    refused(said, dodged);
    // Where a stage stands is the controller's word alone, and once it is open its deadlines stay.
    let open = json!({ "status": { "stages": [{ "name": "ward", "state": "Open" }] } });
    let as_status = ["--subresource=status"];
    let said = clinic.patch("alice", november, &open, &as_status).await;
    refused(said, "written by Wardring's controller alone");
    clinic.patch(CONTROLLER, november, &open, &as_status).await.unwrap();
    let kept = [
        ("progressDeadline", json!("30d")),
        ("startWithin", json!("12h")),
        ("silenceDeadline", json!("365d")),
        ("rebootSlowAfter", json!("1h")),
        ("rebootDeadline", json!("365d")),
        ("deviceDeadline", json!("30d")),
        ("windows", json!(["night"])),
    ];
    for (field, value) in kept {
        let mut change = stages(9, &asks, more.clone());
        change["spec"]["stages"][0][field] = value;
        let said = clinic.patch("alice", november, &change, &[]).await;
        refused(said, "cannot change while a stage that a person approved is open");
    }
    let brake = json!({ "spec": { "correlatedFailures": { "devices": 0 } } });
    let said = clinic.patch("alice", november, &brake, &[]).await;
    refused(said, "cannot change while a stage that a person approved is open");
    let sooner = json!({ "spec": { "correlatedFailures": { "devices": 2 } } });
    clinic.patch("alice", november, &sooner, &[]).await.unwrap();
    clinic.patch("alice", november, &stages(8, &asks, more.clone()), &[]).await.unwrap();
    // Haste is written as much as stages are.
    let haste = json!({ "spec": { "expedite": { "reason": "CVE-2026-1234", "skipSoak": true } } });
    refused(clinic.patch("carol", november, &haste, &[]).await, authors);
    clinic.patch("alice", november, &haste, &[]).await.unwrap();
    let calm = json!({ "spec": { "expedite": null } });
    refused(clinic.patch("carol", november, &calm, &[]).await, authors);
    // What is over brakes nothing.
    let done = json!({ "status": { "stages": [{ "name": "ward", "state": "Completed" }] } });
    clinic.patch(CONTROLLER, november, &done, &as_status).await.unwrap();
    clinic.patch("alice", november, &brake, &[]).await.unwrap();
    // What is not approved stays free: a stop must need nobody.
    let stop = json!({ "spec": { "suspend": true } });
    clinic.patch("carol", november, &stop, &[]).await.unwrap();
    // Without such a gate nobody has to say who wrote it.
    clinic.create("carol", &rollout("plain", &[], &json!({}))).await.unwrap();
}

/// A rollback that waits for a person, as the controller asks for it.
fn of_rollback(name: &str, subject: &Value) -> Value {
    let mut object = request(name, &["alice"]);
    object["spec"]["subject"] = subject.clone();
    object
}

#[tokio::test]
async fn a_rollback_is_approved_by_somebody_who_did_not_write_its_rollout() {
    let clinic = Clinic::open().await.unwrap();
    let whole =
        json!({ "type": "Rollback", "rollback": { "scope": "Stage", "stage": "ward", "upTo": 8 } });
    let said = clinic.create("bob", &of_rollback("asked", &whole)).await;
    refused(said, "only Wardring's controller asks");
    clinic.create(CONTROLLER, &of_rollback("asked", &whole)).await.unwrap();
    for subject in [
        json!({ "type": "Rollback" }),
        json!({ "type": "StageGate", "rollback": whole["rollback"] }),
        json!({ "type": "Rollback", "rollback": whole["rollback"],
                "stageGate": { "stage": "ward", "gate": "sign-off" } }),
    ] {
        let said = clinic.create(CONTROLLER, &of_rollback("mixed", &subject)).await;
        refused(said, "give exactly the field that `type` names");
    }
    let none = json!({ "type": "Rollback", "rollback": { "scope": "Device", "upTo": 0 } });
    refused(clinic.create(CONTROLLER, &of_rollback("none", &none)).await, "upTo");
    let asked = ["patchapproval", "asked"];
    // What is asked cannot grow under whoever looks at it.
    let more = json!({ "spec": { "subject": { "rollback": { "upTo": 500 } } } });
    refused(clinic.patch("bob", asked, &more, &[]).await, "spec.subject: cannot change");
    let author = "may not approve it; somebody else has to look";
    refused(clinic.patch("alice", asked, &decision("alice", "Approve"), &[]).await, author);
    let not_you = "must be the user name of whoever decides";
    refused(clinic.patch("bob", asked, &decision("carol", "Approve"), &[]).await, not_you);
    clinic.patch("bob", asked, &decision("bob", "Approve"), &[]).await.unwrap();
    let said = clinic.patch("carol", asked, &decision("carol", "Reject"), &[]).await;
    refused(said, "spec.decision: was made and stays");

    // Who may not approve is written when the rollout is, and how far it goes by itself never changes.
    let limited = |name: &str, authors: &[&str]| {
        let mut object = rollout(name, authors, &json!({}));
        object["spec"]["onFailure"] = json!({ "action": "Rollback", "approvalAbove": "10%" });
        object
    };
    let authors = "names everybody who wrote it";
    refused(clinic.create("alice", &limited("november", &[])).await, authors);
    refused(clinic.create("alice", &limited("november", &["bob"])).await, authors);
    clinic.create("alice", &limited("november", &["alice"])).await.unwrap();
    let november = ["patchrollout", "november"];
    for above in [json!("50%"), Value::Null] {
        let change = json!({ "spec": { "onFailure": { "approvalAbove": above } } });
        refused(
            clinic.patch("alice", november, &change, &[]).await,
            "cannot change after creation",
        );
    }
    let stages =
        json!({ "spec": { "stages": [{ "name": "ward", "group": "ward", "maxConcurrency": 9 }] } });
    refused(clinic.patch("bob", november, &stages, &[]).await, authors);
    // That somebody approved it is the controller's word alone.
    let approved = json!({ "status": { "rollbackApproval": {
        "state": "Passed", "since": "2026-11-21T02:00:00Z", "scope": "AllStages", "upTo": 500 } } });
    let as_status = ["--subresource=status"];
    let said = clinic.patch("alice", november, &approved, &as_status).await;
    refused(said, "written by Wardring's controller alone");
    clinic.patch(CONTROLLER, november, &approved, &as_status).await.unwrap();
}

/// An order that asks a second person, above `above`, by these authors.
fn order(name: &str, authors: &[&str], above: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchRollback", "metadata": { "name": name },
        "spec": { "rollout": "november", "reason": "the ERP is down", "authors": authors },
    });
    if !above.is_null() {
        object["spec"]["approvalAbove"] = above.clone();
    }
    object
}

#[tokio::test]
async fn an_order_that_asks_is_approved_by_somebody_who_did_not_write_it() {
    let clinic = Clinic::open().await.unwrap();
    // Whoever makes it stands in it. Another policy may be at work sooner than this one.
    let authors = "names whoever wrote it";
    wait_until_ok(PATIENCE, "the policy for orders", async || {
        match clinic.create("alice", &order("trial", &["bob"], &json!("10%"))).await {
            Err(error) if error.contains(authors) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    refused(clinic.create("alice", &order("nobody", &[], &json!(0))).await, authors);
    clinic.create("alice", &order("erp-down", &["alice"], &json!("10%"))).await.unwrap();
    clinic.create(FLUX, &order("git", &[FLUX, "alice"], &json!(3))).await.unwrap();
    // At 8:01 an order that asks nobody needs no author.
    clinic.create("carol", &order("plain", &[], &Value::Null)).await.unwrap();

    // What it asks, of whom, and how fast it goes never changes.
    let erp = ["patchrollback", "erp-down"];
    for (field, value) in [
        ("approvalAbove", json!("50%")),
        ("approvalAbove", json!(10)),
        ("approvalAbove", Value::Null),
        ("authors", json!(["alice", "carol"])),
        ("authors", Value::Null),
        ("maxConcurrency", json!(9)),
    ] {
        let change = json!({ "spec": { field: value } });
        for user in ["alice", "bob", CONTROLLER] {
            refused(clinic.patch(user, erp, &change, &[]).await, "cannot change");
        }
    }
    let demand = json!({ "spec": { "approvalAbove": 0 } });
    refused(
        clinic.patch("alice", ["patchrollback", "plain"], &demand, &[]).await,
        "spec.approvalAbove: cannot change",
    );
    let faster = json!({ "spec": { "maxConcurrency": 9 } });
    clinic.patch("carol", ["patchrollback", "plain"], &faster, &[]).await.unwrap();

    // That somebody approved it is the controller's word alone.
    let approved = json!({ "status": { "approval": {
        "state": "Passed", "since": "2026-11-21T02:00:00Z", "upTo": 500 } } });
    let as_status = ["--subresource=status"];
    for user in ["alice", "bob", GATEWAY] {
        refused(
            clinic.patch(user, erp, &approved, &as_status).await,
            "written by Wardring's controller alone",
        );
    }
    clinic.patch(CONTROLLER, erp, &approved, &as_status).await.unwrap();

    // The asking names the order, and its author does not answer it.
    let subject =
        json!({ "type": "Order", "order": { "name": "erp-down", "uid": "o-1", "upTo": 8 } });
    refused(
        clinic.create("bob", &of_rollback("asked", &subject)).await,
        "only Wardring's controller asks",
    );
    clinic.create(CONTROLLER, &of_rollback("asked", &subject)).await.unwrap();
    for mixed in [
        json!({ "type": "Order" }),
        json!({ "type": "Rollback", "order": subject["order"] }),
        json!({ "type": "Order", "order": subject["order"],
                "stageGate": { "stage": "ward", "gate": "sign-off" } }),
    ] {
        let said = clinic.create(CONTROLLER, &of_rollback("mixed", &mixed)).await;
        refused(said, "give exactly the field that `type` names");
    }
    let asked = ["patchapproval", "asked"];
    let more = json!({ "spec": { "subject": { "order": { "upTo": 500 } } } });
    refused(clinic.patch("bob", asked, &more, &[]).await, "spec.subject: cannot change");
    refused(
        clinic.patch("alice", asked, &decision("alice", "Approve"), &[]).await,
        "may not approve it",
    );
    clinic.patch("bob", asked, &decision("bob", "Approve"), &[]).await.unwrap();
}

/// The chart's demand, filled in as Helm does it.
fn demanded(most: &str) -> Result<String> {
    let path = "../../charts/wardring/files/order-demand.yaml";
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))?;
    Ok(text.replace(approval_policy::CHART_DEMAND, most))
}

#[tokio::test]
async fn a_cluster_can_demand_that_orders_ask_a_second_person() {
    let clinic = Clinic::open().await.unwrap();
    let demand = "spec.approvalAbove: is demanded in this cluster";
    let plain = order("plain", &[], &Value::Null);
    for (most, taken, too_much) in [
        ("any", vec![json!("100%"), json!(5000), json!(0)], vec![]),
        ("10%", vec![json!("10%"), json!("0%"), json!(0)], vec![json!("11%"), json!(1)]),
        ("25", vec![json!(25), json!(3), json!("0%")], vec![json!(26), json!("1%")]),
    ] {
        let output = clinic.cluster.kubectl_apply(&demanded(most).unwrap()).await.unwrap();
        assert!(output.succeeded(), "{}", output.stderr);
        wait_until_ok(PATIENCE, "the demand", async || {
            let dry = ["create", "--as", "carol", "-n", "ward", "--dry-run=server", "-f", "-"];
            let output = clinic.cluster.kubectl_with_input(&dry, &plain.to_string()).await;
            let error = output.map_err(|error| error.to_string())?.stderr;
            let says = error.contains(demand) && error.contains(&format!("at most {most}"));
            if says { Ok(()) } else { Err(error) }
        })
        .await
        .unwrap();
        for (number, above) in taken.iter().enumerate() {
            let name = format!("taken-{number}-{}", most.replace('%', "p"));
            clinic.create("alice", &order(&name, &["alice"], above)).await.unwrap();
        }
        for above in &too_much {
            refused(clinic.create("alice", &order("more", &["alice"], above)).await, demand);
        }
        // One that is there already ends as it was made.
        let name = format!("taken-0-{}", most.replace('%', "p"));
        let label = json!({ "metadata": { "labels": { "example.com/change": "4711" } } });
        clinic.patch("carol", ["patchrollback", &name], &label, &[]).await.unwrap();
    }
    let stored = Api::<ValidatingAdmissionPolicy>::all(clinic.cluster.client().await.unwrap());
    let found = stored.get(approval_policy::DEMAND).await.unwrap();
    let warnings = found.status.and_then(|status| status.type_checking);
    let warnings = warnings.and_then(|checked| checked.expression_warnings).unwrap_or_default();
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[tokio::test]
async fn the_stored_policies_are_equal_to_those_that_the_controller_expects() {
    let clinic = Clinic::open().await.unwrap();
    let client = clinic.cluster.client().await.unwrap();
    for wanted in approval_policy::objects(SYSTEM, &[FLUX.to_owned()]) {
        let name = wanted["metadata"]["name"].as_str().context("a name").unwrap().to_owned();
        if wanted["kind"] == "ValidatingAdmissionPolicy" {
            let wanted: ValidatingAdmissionPolicy = serde_json::from_value(wanted).unwrap();
            let found =
                Api::<ValidatingAdmissionPolicy>::all(client.clone()).get(&name).await.unwrap();
            assert_eq!(found.spec, wanted.spec);
            assert_eq!(found.metadata.generation, Some(1));
            let warnings = found.status.and_then(|status| status.type_checking);
            let warnings = warnings.and_then(|checked| checked.expression_warnings);
            assert!(warnings.unwrap_or_default().is_empty());
        } else {
            let wanted: ValidatingAdmissionPolicyBinding = serde_json::from_value(wanted).unwrap();
            let all = Api::<ValidatingAdmissionPolicyBinding>::all(client.clone());
            let found = all.get(&name).await.unwrap();
            assert_eq!(found.spec, wanted.spec);
            assert_eq!(found.metadata.generation, Some(1));
        }
    }
}
