//! The admission policies that vouch for who approved and who wrote what is approved. The chart installs
//! them, and the controller counts no approval unless exactly these stand in the cluster.

use serde_json::{Value, json};

/// Policy on PatchApprovals.
pub const APPROVALS: &str = "wardring-approvals";
/// Policy on who writes PatchRollouts with gates of type Approval.
pub const AUTHORS: &str = "wardring-rollout-authors";
/// Policy on who writes PatchRollbacks with `approvalAbove`.
pub const ORDERS: &str = "wardring-order-authors";
/// Policy on who deletes PatchApprovals.
pub const RECORDS: &str = "wardring-approval-records";
/// Every one of them; each has a binding of the same name.
pub const NAMES: [&str; 4] = [APPROVALS, RECORDS, AUTHORS, ORDERS];

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

fn policy(
    name: &str,
    operations: Value,
    resources: Value,
    variables: Value,
    validations: Value,
) -> Value {
    let mut policy = json!({
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
                    "operations": operations,
                    "resources": resources,
                    "scope": "*",
                }],
            },
            "validations": validations,
        },
    });
    // An empty list is stored as none.
    if variables.as_array().is_some_and(|list| !list.is_empty()) {
        policy["spec"]["variables"] = variables;
    }
    policy
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
        json!(["CREATE", "UPDATE"]),
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
                "spec.approver: whoever wrote the rollout, or the PatchRollback, may not approve it; somebody else has to look",
            ),
        ]),
    );
    let records = policy(
        RECORDS,
        json!(["DELETE"]),
        json!(["patchapprovals"]),
        json!([]),
        json!([validation(
            &format!(
                "request.userInfo.username in ['{controller}','system:serviceaccount:kube-system:namespace-controller'] || \
                 !has(oldObject.spec.decision) || \
                 (oldObject.spec.decision == 'Approve' && oldObject.spec.approver == request.userInfo.username && \
                 !(has(oldObject.status) && has(oldObject.status.phase) && oldObject.status.phase == 'Used'))"
            ),
            "a decision is a record: an approval is withdrawn by its approver alone, before it is used; a rejection stays",
        )]),
    );
    let asks = |object: &str| {
        let phase = |phase: &str| {
            format!("(has(s.gates.{phase}) && s.gates.{phase}.exists(g, g.type == 'Approval'))")
        };
        // Who may not approve a rollback is written when the rollout is: `onFailure` cannot change.
        format!(
            "({object}.spec.stages.exists(s, has(s.gates) && ({} || {})) || \
             (has({object}.spec.onFailure) && has({object}.spec.onFailure.approvalAbove)))",
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
    let free = "!has(o.gates) || !has(o.gates.before) || !o.gates.before.exists(g, g.type == 'Approval') || \
                !oldObject.status.stages.exists(t, t.name == o.name && !(t.state in ['Pending','Gated','Completed']))";
    // What halts sooner may be said at any time; 3 is the default, and 0 turns it off.
    let stricter = "(object.spec.correlatedFailures == oldObject.spec.correlatedFailures || \
                     (has(object.spec.correlatedFailures.devices) && object.spec.correlatedFailures.devices > 0 && \
                     (has(oldObject.spec.correlatedFailures.devices) ? \
                     oldObject.spec.correlatedFailures.devices == 0 || object.spec.correlatedFailures.devices <= oldObject.spec.correlatedFailures.devices : \
                     object.spec.correlatedFailures.devices <= 3)))";
    let same = [
        "progressDeadline",
        "startWithin",
        "silenceDeadline",
        "rebootSlowAfter",
        "rebootDeadline",
        "deviceDeadline",
        "windows",
    ]
    .map(|field| {
        format!("(has(o.{field}) ? has(s.{field}) && o.{field} == s.{field} : !has(s.{field}))")
    })
    .join(" && ");
    let authors = policy(
        AUTHORS,
        json!(["CREATE", "UPDATE"]),
        json!(["patchrollouts", "patchrollouts/status"]),
        json!([
            { "name": "user", "expression": "request.userInfo.username" },
            { "name": "isStatus",
              "expression": "has(request.subResource) && request.subResource == 'status'" },
            { "name": "asks", "expression": asks("object") },
            { "name": "writes",
              "expression": "oldObject == null || object.spec.stages != oldObject.spec.stages || \
                             object.spec.correlatedFailures != oldObject.spec.correlatedFailures || \
                             has(object.spec.expedite) != has(oldObject.spec.expedite) || \
                             (has(object.spec.expedite) && object.spec.expedite != oldObject.spec.expedite)" },
        ]),
        json!([
            validation(
                &format!(
                    "!variables.isStatus || !variables.asks || variables.user == '{controller}'"
                ),
                "status: of a rollout with a gate of type Approval or `onFailure.approvalAbove` is written by Wardring's controller alone, because it says what was approved",
            ),
            validation(
                "oldObject == null || !has(object.spec.authors) || \
                 variables.user.startsWith('system:serviceaccount:') || \
                 object.spec.authors.all(a, a == variables.user || (has(oldObject.spec.authors) && a in oldObject.spec.authors))",
                "spec.authors: add yourself and nobody else, because whoever stands there may not approve",
            ),
            validation(
                &format!(
                    "oldObject == null || !has(oldObject.status) || !has(oldObject.status.stages) || oldObject.spec.stages.all(o, {free} || ({stricter} && object.spec.stages.exists(s, s.name == o.name && {same})))"
                ),
                "spec: deadlines and windows of a stage, and `correlatedFailures`, cannot change while a stage that a person approved is open, because they would take effect before anybody looks; abort it and make a new PatchRollout",
            ),
            validation(
                "!variables.asks || !variables.writes || \
                 (has(object.spec.authors) && variables.user in object.spec.authors)",
                "spec.authors: a rollout with a gate of type Approval or `onFailure.approvalAbove` names everybody who wrote it; add your user name (`kubectl auth whoami` tells it)",
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
    let orders = policy(
        ORDERS,
        json!(["CREATE", "UPDATE"]),
        json!(["patchrollbacks", "patchrollbacks/status"]),
        json!([
            { "name": "user", "expression": "request.userInfo.username" },
            { "name": "isStatus",
              "expression": "has(request.subResource) && request.subResource == 'status'" },
            { "name": "asks", "expression": "has(object.spec.approvalAbove)" },
        ]),
        json!([
            validation(
                &format!(
                    "!variables.isStatus || !variables.asks || variables.user == '{controller}'"
                ),
                "status: of a PatchRollback with `approvalAbove` is written by Wardring's controller alone, because it says what was approved",
            ),
            // It cannot change afterwards.
            validation(
                "!variables.asks || oldObject != null || \
                 (has(object.spec.authors) && variables.user in object.spec.authors)",
                "spec.authors: a PatchRollback with `approvalAbove` names whoever wrote it; add your user name (`kubectl auth whoami` tells it)",
            ),
        ]),
    );
    [(approvals, APPROVALS), (records, RECORDS), (authors, AUTHORS), (orders, ORDERS)]
        .into_iter()
        .flat_map(|(policy, name)| [policy, binding(name)])
        .collect()
}

/// Policy that demands of PatchRollbacks that they ask a second person. It vouches for nothing, so the controller
/// does not look at it.
pub const DEMAND: &str = "wardring-order-demand";

/// What the demand stands as in the chart's copy.
pub const CHART_DEMAND: &str = "ORDER_APPROVAL_ABOVE";

/// The policy, with its binding, that refuses PatchRollbacks which say nothing of `approvalAbove`, or more than
/// `most`: `any`, a number of devices or a share such as `10%`. A number is held against numbers and a share
/// against shares, and nothing (`0`) is less than both.
pub fn demand(most: &str) -> Vec<Value> {
    let policy = policy(
        DEMAND,
        json!(["CREATE"]),
        json!(["patchrollbacks"]),
        json!([
            { "name": "most", "expression": format!("'{most}'") },
            { "name": "given",
              "expression": "has(object.spec.approvalAbove) ? string(object.spec.approvalAbove) : ''" },
        ]),
        json!([validation(
            "variables.given != '' && (variables.most == 'any' || int(variables.given.replace('%', '')) == 0 || \
             (variables.given.endsWith('%') == variables.most.endsWith('%') && \
             int(variables.given.replace('%', '')) <= int(variables.most.replace('%', ''))))",
            &format!(
                "spec.approvalAbove: is demanded in this cluster (the chart's `rollbacks.approvalAbove`), and at most {most}, in the same unit, or 0"
            ),
        )]),
    );
    vec![policy, binding(DEMAND)]
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
