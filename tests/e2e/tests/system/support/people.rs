//! People with rights of their own: alice writes rollouts and takes them back, bob and carol may approve what she
//! wrote.

use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use kube::Api;
use serde_json::{Value, json};
use wardring_api::{
    ApprovalPhase, GateApproval, GateState, PatchApproval, PatchRollout, PatchRolloutStatus,
    approval_policy,
};
use wardring_e2e::Installation;
use wardring_harness::wait_until_ok;

use super::{LONG, Place, SHORT};

/// alice writes rollouts and takes them back, bob and carol may approve.
async fn people(installation: &Installation, place: &Place) -> Result<()> {
    let bind = |name: &str, role: &str, user: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": { "name": name, "namespace": place.namespace },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io" }],
        })
    };
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
          "metadata": { "name": "writes-rollouts" },
          "rules": [{ "apiGroups": ["wardring.dev"], "resources": ["patchrollouts"], "verbs": ["*"] }] },
        bind("alice-writes", "writes-rollouts", "alice"),
        bind("alice-takes-back", "wardring-rollback", "alice"),
        bind("alice-approves", "wardring-approve", "alice"),
        bind("bob-approves", "wardring-approve", "bob"),
        bind("carol-approves", "wardring-approve", "carol"),
    ]});
    installation.cluster.kubectl_apply(&list.to_string()).await?.ok()?;
    Ok(())
}

/// Nobody vouches for the authors of what is made in the first seconds of a policy.
pub async fn policies_in_force(place: &Place) -> Result<()> {
    let policies = Api::<ValidatingAdmissionPolicyBinding>::all(place.client.clone());
    wait_until_ok(SHORT, "the policies to be in force everywhere", async || {
        let found =
            policies.get(approval_policy::AUTHORS).await.map_err(|error| error.to_string())?;
        let made = found.metadata.creation_timestamp.ok_or("no time")?.0;
        let old = Timestamp::now().duration_since(made).as_secs();
        if old > 11 { Ok(()) } else { Err(format!("{old} s old")) }
    })
    .await
}

/// alice makes her rollout.
pub async fn write(installation: &Installation, place: &Place, mut object: Value) -> Result<()> {
    people(installation, place).await?;
    policies_in_force(place).await?;
    object["apiVersion"] = json!("wardring.dev/v1alpha1");
    object["kind"] = json!("PatchRollout");
    let args = ["create", "--as", "alice", "-n", &place.namespace, "-f", "-"];
    installation.cluster.kubectl_with_input(&args, &object.to_string()).await?.ok()?;
    Ok(())
}

/// What a stage asks now.
fn asks(status: &PatchRolloutStatus, stage: &str) -> Option<GateApproval> {
    let gate = status.stages.iter().find(|known| known.name == stage)?.gates.first()?;
    let asked = gate.approval.clone().filter(|asked| !asked.hash.is_empty())?;
    (gate.state == GateState::Waiting).then_some(asked)
}

/// Waits until the request for what a stage asks is there, other than `before`.
pub async fn request(
    place: &Place,
    rollout: &str,
    stage: &str,
    before: &str,
) -> Result<GateApproval> {
    let asked = wait_until_ok(LONG, "the request to appear", async || {
        let rollout = place.api::<PatchRollout>().get(rollout).await;
        let status = rollout.map_err(|error| error.to_string())?.status.unwrap_or_default();
        let Some(asked) = asks(&status, stage).filter(|asked| asked.hash != before) else {
            return Err(format!("{:?}", status.waiting_for));
        };
        let found = place.api::<PatchApproval>().get_opt(&asked.request).await;
        found
            .map_err(|error| error.to_string())?
            .ok_or("no object yet")
            .map(|_| asked)
            .map_err(Into::into)
    })
    .await?;
    Ok(asked)
}

/// Waits until a request is judged so, and returns the sentence that says why.
pub async fn phase(place: &Place, name: &str, wanted: ApprovalPhase) -> Result<String> {
    let approval = place
        .until::<PatchApproval>(SHORT, name, "to be judged", |approval| {
            approval.status.as_ref().is_some_and(|status| status.phase == Some(wanted))
        })
        .await?;
    Ok(approval.status.unwrap_or_default().message.unwrap_or_default())
}
