//! The admission policies that vouch for who approved and who wrote what is approved. The chart installs
//! them, and the controller counts no approval unless exactly these stand in the cluster.

use serde_json::{Value, json};

/// Policy on PatchApprovals.
pub const APPROVALS: &str = "wardring-approvals";
/// Policy on who writes PatchRollouts with gates of type Approval.
pub const AUTHORS: &str = "wardring-rollout-authors";
/// Every one of them; each has a binding of the same name.
pub const NAMES: [&str; 2] = [APPROVALS, AUTHORS];

/// Part of the refusal of a decision in somebody else's name; the controller tries that, dry, before it
/// believes that the policies are enforced.
pub const NOT_YOU: &str = "spec.approver: must be the user name of whoever decides";

/// What a namespace and the service accounts stand as in the chart's copy.
pub const CHART: (&str, &str) = ("RELEASE_NAMESPACE", "APPROVAL_ACCOUNTS");

/// Service accounts of this installation, whose word is nobody's.
fn own(system_namespace: &str) -> [String; 2] {
    ["wardring-controller", "wardring-gateway"]
        .map(|name| format!("system:serviceaccount:{system_namespace}:{name}"))
}

fn validation(expression: &str, message: &str) -> Value {
    json!({ "expression": expression, "message": message, "reason": "Forbidden" })
}

fn policy(name: &str, resources: Value, variables: Value, validations: Value) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": { "name": name },
        // Defaults are spelled out, so that the stored object can be compared with this one.
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "matchPolicy": "Equivalent",
                "namespaceSelector": {},
                "objectSelector": {},
                "resourceRules": [{
                    "apiGroups": ["wardring.dev"],
                    "apiVersions": ["*"],
                    "operations": ["CREATE", "UPDATE"],
                    "resources": resources,
                    "scope": "*",
                }],
            },
            "variables": variables,
            "validations": validations,
        },
    })
}

fn binding(name: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": { "name": name },
        "spec": { "policyName": name, "validationActions": ["Deny"] },
    })
}

/// The policies and their bindings, for an installation in `system_namespace` that lets the service accounts
/// with these full names (`system:serviceaccount:NAMESPACE:NAME`) approve.
pub fn objects(system_namespace: &str, accounts: &[String]) -> Vec<Value> {
    let [controller, gateway] = own(system_namespace);
    let accounts = accounts.join(",");
    let approvals = policy(
        APPROVALS,
        json!(["patchapprovals", "patchapprovals/status"]),
        json!([
            { "name": "user", "expression": "request.userInfo.username" },
            { "name": "isController", "expression": format!("variables.user == '{controller}'") },
            { "name": "isStatus",
              "expression": "has(request.subResource) && request.subResource == 'status'" },
            { "name": "decides",
              "expression": "has(object.spec.decision) && (oldObject == null || !has(oldObject.spec.decision))" },
        ]),
        json!([
            validation(
                "!variables.isStatus || variables.isController",
                "status: is written by Wardring's controller alone",
            ),
            validation(
                "has(object.spec.decision) || oldObject != null || variables.isController",
                "spec.decision: only Wardring's controller asks for approvals; decide with `decision`, `approver` and `reason`",
            ),
            validation(
                "!variables.decides || object.spec.approver == variables.user",
                &format!("{NOT_YOU} (`kubectl auth whoami` tells yours)"),
            ),
            validation(
                &format!("!variables.decides || !(variables.user in ['{controller}','{gateway}'])"),
                "spec.approver: Wardring's own processes decide nothing that a person is asked for",
            ),
            validation(
                &format!(
                    "!variables.decides || variables.user in \"{accounts}\".split(',') || \
                     !(variables.user.startsWith('system:serviceaccount:') || variables.user.startsWith('system:node:') || variables.user == 'system:anonymous')"
                ),
                "spec.approver: a service account decides only if the chart's `approvals.serviceAccounts` names it",
            ),
            validation(
                "!variables.decides || object.spec.decision != 'Approve' || !has(object.spec.authors) || \
                 !(variables.user in object.spec.authors)",
                "spec.approver: whoever wrote the rollout may not approve it; somebody else has to look",
            ),
        ]),
    );
    let asks = |object: &str| {
        let phase = |phase: &str| {
            format!("(has(s.gates.{phase}) && s.gates.{phase}.exists(g, g.type == 'Approval'))")
        };
        format!(
            "{object}.spec.stages.exists(s, has(s.gates) && ({} || {}))",
            phase("before"),
            phase("after")
        )
    };
    let kept = |phase: &str| {
        format!(
            "(!has(o.gates.{phase}) || o.gates.{phase}.all(g, g.type != 'Approval' || \
             object.spec.stages.exists(s, s.name == o.name && has(s.gates) && has(s.gates.{phase}) && \
             s.gates.{phase}.exists(n, n == g))))"
        )
    };
    let authors = policy(
        AUTHORS,
        json!(["patchrollouts"]),
        json!([
            { "name": "user", "expression": "request.userInfo.username" },
            { "name": "asks", "expression": asks("object") },
            { "name": "writes",
              "expression": "oldObject == null || object.spec.stages != oldObject.spec.stages || \
                             object.spec.correlatedFailures != oldObject.spec.correlatedFailures" },
        ]),
        json!([
            validation(
                "!variables.asks || !variables.writes || \
                 (has(object.spec.authors) && variables.user in object.spec.authors)",
                "spec.authors: a rollout with a gate of type Approval names everybody who wrote it; add your user name (`kubectl auth whoami` tells it)",
            ),
            validation(
                &format!(
                    "oldObject == null || oldObject.spec.stages.all(o, !has(o.gates) || ({} && {}))",
                    kept("before"),
                    kept("after")
                ),
                "spec.stages[].gates: a gate of type Approval cannot be changed or taken out, or its question could be dodged; make a new PatchRollout",
            ),
        ]),
    );
    vec![approvals, binding(APPROVALS), authors, binding(AUTHORS)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_has_its_binding_and_refuses_where_it_cannot_be_evaluated() {
        let objects = objects("wardring-system", &[]);
        for name in NAMES {
            let of = |kind: &str| {
                objects
                    .iter()
                    .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
                    .unwrap_or_else(|| panic!("{kind} {name}"))
            };
            assert_eq!(of("ValidatingAdmissionPolicy")["spec"]["failurePolicy"], "Fail");
            let binding = of("ValidatingAdmissionPolicyBinding");
            assert_eq!(binding["spec"]["policyName"], name);
            assert_eq!(binding["spec"]["validationActions"], json!(["Deny"]));
        }
    }
}
