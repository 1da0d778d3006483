//! The policies as an API server may hold them, and what is believed then.

use serde_json::json;

use super::*;
use crate::events::tests::{api_server, refusal};

const UID: &str = "0c9ad8a7";

/// What the API server says about the object of this name and kind.
type Answer = fn(&mut Value) -> u16;

/// Exactly what the chart installs, stored, but for what `spoil` does to one of them.
fn stored(path: &str, spoiled: &str, spoil: Answer) -> (u16, Value) {
    let objects = approval_policy::objects("wardring-system", &[]);
    let kind = match path.contains("validatingadmissionpolicybindings") {
        true => "ValidatingAdmissionPolicyBinding",
        false => "ValidatingAdmissionPolicy",
    };
    let name = path.rsplit('/').next().unwrap_or_default();
    let mut found = objects
        .into_iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
        .unwrap();
    found["metadata"]["uid"] = json!(UID);
    found["metadata"]["generation"] = json!(1);
    found["metadata"]["creationTimestamp"] = json!("2026-11-21T02:00:00Z");
    let code = if format!("{kind} {name}") == spoiled { spoil(&mut found) } else { 200 };
    if code == 404 { refusal(404, "NotFound") } else { (code, found) }
}

/// What is believed while one object is spoiled, and a decision in nobody's name is answered like this.
async fn believed(spoiled: &'static str, spoil: Answer, enforced: bool) -> ApprovalPolicy {
    let (client, _) = api_server(move |path, body| {
        if path.ends_with("/patchapprovals") {
            match enforced {
                true => refusal(403, approval_policy::NOT_YOU),
                false => (201, body),
            }
        } else {
            stored(path, spoiled, spoil)
        }
    });
    let guardian = Guardian::new(client, "wardring-system", &[]).settling(Duration::ZERO);
    // The first look only notes since when they stand.
    guardian.look_again("clinic").await;
    guardian.look_again("clinic").await
}

fn fingerprint(policy: ApprovalPolicy) -> String {
    match policy {
        ApprovalPolicy::Intact { fingerprint, .. } => fingerprint,
        other => panic!("{other:?}"),
    }
}

fn why(policy: ApprovalPolicy) -> String {
    match policy {
        ApprovalPolicy::Broken { why } | ApprovalPolicy::Unknown { why } => why,
        ApprovalPolicy::Intact { .. } => panic!("it is believed"),
    }
}

#[tokio::test]
async fn exactly_the_charts_policies_are_believed_and_any_change_of_one_gives_another_fingerprint()
{
    let intact = fingerprint(believed("", |_| 200, true).await);
    let changes: [Answer; 2] = [
        |found| {
            found["metadata"]["generation"] = json!(3);
            found["metadata"]["managedFields"] = json!([{ "time": "2026-11-21T02:00:00Z" }]);
            200
        },
        |found| {
            found["metadata"]["uid"] = json!("another");
            200
        },
    ];
    for change in changes {
        for object in [
            "ValidatingAdmissionPolicy wardring-approvals",
            "ValidatingAdmissionPolicyBinding wardring-approvals",
            "ValidatingAdmissionPolicy wardring-approval-records",
            "ValidatingAdmissionPolicyBinding wardring-approval-records",
            "ValidatingAdmissionPolicy wardring-rollout-authors",
            "ValidatingAdmissionPolicyBinding wardring-rollout-authors",
        ] {
            assert_ne!(fingerprint(believed(object, change, true).await), intact, "{object}");
        }
    }
}

#[tokio::test]
async fn a_policy_that_is_missing_weaker_or_going_is_named() {
    let policy = "ValidatingAdmissionPolicy wardring-approvals";
    let binding = "ValidatingAdmissionPolicyBinding wardring-rollout-authors";
    let cases: [(&str, Answer, &str); 7] = [
        (policy, |_| 404, "is missing"),
        (binding, |_| 404, "is missing"),
        (
            policy,
            |found| {
                found["spec"]["failurePolicy"] = json!("Ignore");
                200
            },
            "is not what",
        ),
        (
            policy,
            |found| {
                found["spec"]["validations"].as_array_mut().unwrap().pop();
                200
            },
            "is not what",
        ),
        (
            policy,
            |found| {
                found["spec"]["matchConditions"] =
                    json!([{ "name": "never", "expression": "false" }]);
                200
            },
            "is not what",
        ),
        (
            binding,
            |found| {
                found["spec"]["validationActions"] = json!(["Audit"]);
                200
            },
            "is not what",
        ),
        (
            binding,
            |found| {
                found["metadata"]["deletionTimestamp"] = json!("2026-11-21T02:00:00Z");
                200
            },
            "is being deleted",
        ),
    ];
    for (object, spoil, words) in cases {
        let why = why(believed(object, spoil, true).await);
        assert!(why.contains(object) && why.contains(words), "{object}, {words}: {why}");
    }
}

#[tokio::test]
async fn policies_that_stand_and_are_not_enforced_are_not_believed() {
    let why = why(believed("", |_| 200, false).await);
    assert!(why.contains("does not enforce"), "{why}");
}

#[tokio::test]
async fn policies_count_only_after_they_have_stood_for_a_while() {
    let (client, _) = api_server(|path, _| match path.ends_with("/patchapprovals") {
        true => refusal(403, approval_policy::NOT_YOU),
        false => stored(path, "", |_| 200),
    });
    let guardian = Guardian::new(client, "wardring-system", &[]);
    for _ in 0..2 {
        let why = why(guardian.look_again("clinic").await);
        assert!(why.contains("a few seconds old"), "{why}");
    }
}

#[tokio::test]
async fn authors_count_from_the_last_change_of_a_policy_on_and_not_from_its_making() {
    let since = |policy: ApprovalPolicy| match policy {
        ApprovalPolicy::Intact { since, .. } => since,
        other => panic!("{other:?}"),
    };
    let binding = "ValidatingAdmissionPolicyBinding wardring-rollout-authors";
    let put_back: Answer = |found| {
        found["metadata"]["generation"] = json!(3);
        found["metadata"]["managedFields"] = json!([
            { "time": "2026-11-21T05:00:00Z" },
            { "time": "2026-11-21T09:00:00Z", "subresource": "status" },
        ]);
        200
    };
    let made = since(believed("", |_| 200, true).await);
    assert_eq!(made, "2026-11-21T02:00:10Z".parse().unwrap());
    let changed = since(believed(binding, put_back, true).await);
    assert_eq!(changed, "2026-11-21T05:00:10Z".parse().unwrap());
    let hidden: Answer = |found| {
        found["metadata"]["generation"] = json!(3);
        200
    };
    assert!(why(believed(binding, hidden, true).await).contains("nobody can tell when"));
}

#[tokio::test]
async fn trouble_of_one_namespace_is_nobody_elses() {
    let (client, _) = api_server(|path, _| match path {
        path if path.contains("/ward-a/") => refusal(403, "the namespace is being terminated"),
        path if path.ends_with("/patchapprovals") => refusal(403, approval_policy::NOT_YOU),
        path => stored(path, "", |_| 200),
    });
    let guardian = Guardian::new(client, "wardring-system", &[]).settling(Duration::ZERO);
    guardian.look("ward-b").await;
    for _ in 0..2 {
        let here = guardian.look("ward-a").await;
        assert!(
            matches!(&here, ApprovalPolicy::Unknown { why } if !why.contains("ward-a")),
            "{here:?}"
        );
        assert!(matches!(guardian.look("ward-b").await, ApprovalPolicy::Intact { .. }));
    }
}
