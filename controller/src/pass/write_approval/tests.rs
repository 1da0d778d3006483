//! The look before a status relies on an approval: whatever is not as the plan saw it ends the plan.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use wardring_api::{
    ApprovalSubject, OrderSubject, PatchApproval, PatchRollback, PatchRollbackStatus, PatchRollout,
    PatchRolloutStatus, approval_policy,
};
use wardring_planner::{Action, ApprovalUse, Plan, RolloutRef};

use crate::{
    approvals::Guardian,
    cache::{Cache, Stored},
    events::tests::{api_server, refusal},
    pass::{
        Memory,
        apply::{Basis, Stop, apply, tests::desk},
    },
};

const CLINIC: &str = "clinic";

fn approval(decision: &str) -> Value {
    json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchApproval",
        "metadata": { "name": "sign-off", "namespace": CLINIC, "uid": "a-1", "resourceVersion": "5" },
        "spec": {
            "rollout": "november", "rolloutUid": "u-1", "approvalHash": "v1:1",
            "subject": { "type": "StageGate", "stageGate": { "stage": "ward", "gate": "board" } },
            "decision": decision, "approver": "bob", "reason": "r",
        },
    })
}

fn rollout() -> Value {
    json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchRollout",
        "metadata": { "name": "november", "namespace": CLINIC, "uid": "u-1", "resourceVersion": "1" },
        "spec": { "updates": { "kbs": ["KB5068787"] }, "stages": [] },
    })
}

fn order(name: &str, uid: &str) -> PatchRollback {
    let object = json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchRollback",
        "metadata": { "name": name, "namespace": CLINIC, "uid": uid, "resourceVersion": "7" },
        "spec": { "rollout": "november", "reason": "r", "approvalAbove": 0, "authors": ["alice"] },
    });
    serde_json::from_value(object).unwrap()
}

fn policy(path: &str) -> Value {
    let kind = match path.contains("validatingadmissionpolicybindings") {
        true => "ValidatingAdmissionPolicyBinding",
        false => "ValidatingAdmissionPolicy",
    };
    let name = path.rsplit('/').next().unwrap_or_default();
    let objects = approval_policy::objects("wardring-system", &[]);
    let mut found = objects
        .into_iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
        .unwrap();
    found["metadata"]["uid"] = json!("p-1");
    found["metadata"]["generation"] = json!(1);
    found["metadata"]["creationTimestamp"] = json!("2026-11-21T02:00:00Z");
    found
}

/// Carries out a plan that relies on the approval while the API server holds `there`, under policies that
/// are those of the asking or others. Returns how it ended and how many statuses were written.
async fn carried_out(there: Vec<Value>, same_policies: bool) -> (Result<(), Stop>, usize) {
    let written = Arc::new(AtomicUsize::new(0));
    let counter = written.clone();
    let tries = AtomicUsize::new(0);
    let (client, _) = api_server(move |path, body| {
        if path.contains("admissionregistration") {
            (200, policy(path))
        } else if path.ends_with("/patchapprovals") && body.is_object() {
            tries.fetch_add(1, Ordering::SeqCst);
            refusal(403, approval_policy::NOT_YOU)
        } else if path.ends_with("/patchapprovals") {
            // The first try is before the plan.
            let is_late = tries.load(Ordering::SeqCst) > 1;
            let goes = |all: &Value| all["metadata"]["labels"]["goes"].is_string() && is_late;
            let left: Vec<_> = there.iter().filter(|all| !goes(all)).collect();
            (
                200,
                json!({ "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchApprovalList",
                "metadata": { "resourceVersion": "9" }, "items": left }),
            )
        } else {
            counter.fetch_add(1, Ordering::SeqCst);
            (200, rollout())
        }
    });
    let cache = Cache::default();
    let guardian = Guardian::new(client.clone(), "wardring-system", &[]).settling(Duration::ZERO);
    guardian.look_again(CLINIC).await;
    let fingerprint = match guardian.look_again(CLINIC).await {
        wardring_planner::ApprovalPolicy::Intact { fingerprint, .. } => fingerprint,
        other => panic!("{other:?}"),
    };
    let desk = crate::pass::Desk { guardian, ..desk(client, &cache) };
    let stored: PatchRollout = serde_json::from_value(rollout()).unwrap();
    let planned: PatchApproval = serde_json::from_value(approval("Approve")).unwrap();
    let mut second = stored.clone();
    second.metadata.name = Some("december".to_owned());
    second.metadata.uid = Some("u-2".to_owned());
    let other = RolloutRef { name: "december".to_owned(), uid: "u-2".to_owned() };
    let basis = Basis {
        rollouts: BTreeMap::from([
            ("november".to_owned(), Stored { uid: "u-1".into(), version: 1, value: stored.into() }),
            ("december".to_owned(), Stored { uid: "u-2".into(), version: 1, value: second.into() }),
        ]),
        approvals: BTreeMap::from([(
            "sign-off".to_owned(),
            Stored { uid: "a-1".into(), version: 5, value: planned.into() },
        )]),
        ..Basis::default()
    };
    let id = RolloutRef { name: "november".to_owned(), uid: "u-1".to_owned() };
    let used = ApprovalUse {
        rollout: id.clone(),
        subject: ApprovalSubject::stage_gate("ward", "board"),
        name: "sign-off".to_owned(),
        uid: "a-1".to_owned(),
        hash: "v1:1".to_owned(),
        approver: "bob".to_owned(),
        policy: if same_policies { fingerprint } else { "another".to_owned() },
    };
    let actions = vec![
        Action::ConfirmApproval(Box::new(used)),
        Action::WriteStatus { rollout: id, status: Box::new(PatchRolloutStatus::default()) },
        Action::WriteStatus { rollout: other, status: Box::new(PatchRolloutStatus::default()) },
    ];
    let plan = Plan { actions, ..Plan::default() };
    let mut memory = Memory::default();
    let end = apply(&desk, CLINIC, &mut memory, basis, plan, desk.intent(CLINIC)).await;
    (end, written.load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_status_that_relies_on_an_approval_is_written_while_it_stands() {
    // Somebody's no to something else is nobody's no to this.
    let mut other = approval("Reject");
    other["metadata"]["uid"] = json!("a-3");
    other["spec"]["subject"]["stageGate"]["gate"] = json!("typo");
    let (end, written) = carried_out(vec![approval("Approve"), other], true).await;
    assert!(end.is_ok(), "{end:?}");
    assert_eq!(written, 2);
}

#[tokio::test]
async fn a_status_that_relies_on_an_approval_is_not_written_once_that_is_gone_or_another() {
    let change = |change: fn(&mut Value)| {
        let mut object = approval("Approve");
        change(&mut object);
        object
    };
    let mut no = approval("Reject");
    no["metadata"]["name"] = json!("no");
    no["metadata"]["uid"] = json!("a-2");
    let mut late = approval("Approve");
    late["metadata"]["labels"] = json!({ "goes": "while the policies are looked at" });
    let cases = [
        ("it goes while the policies are looked at", vec![late], true),
        ("it is gone", vec![], true),
        ("it was made anew", vec![change(|all| all["metadata"]["uid"] = json!("a-9"))], true),
        ("it rejects", vec![approval("Reject")], true),
        ("somebody rejects besides", vec![approval("Approve"), no], true),
        (
            "it is by somebody else",
            vec![change(|all| all["spec"]["approver"] = json!("eve"))],
            true,
        ),
        (
            "it is being deleted",
            vec![change(|all| {
                all["metadata"]["deletionTimestamp"] = json!("2026-11-21T02:00:00Z")
            })],
            true,
        ),
        ("the policies are others", vec![approval("Approve")], false),
    ];
    for (what, there, same_policies) in cases {
        let (end, written) = carried_out(there, same_policies).await;
        // Only this rollout's status is left out; another one's is written.
        assert!(end.is_ok(), "{what}: {end:?}");
        assert_eq!(written, 1, "{what}");
    }
}

/// Writes the statuses of two orders, the first of which relies on an approval. Returns what was put where.
async fn written_orders(said: &'static str) -> Vec<(String, Value)> {
    let written = Arc::new(std::sync::Mutex::new(Vec::new()));
    let notes = written.clone();
    let mut there = approval(said);
    let subject = json!({ "type": "Order", "order": { "name": "erp", "uid": "o-1", "upTo": 8 } });
    there["spec"]["subject"] = subject;
    let planned = {
        let mut planned = there.clone();
        planned["spec"]["decision"] = json!("Approve");
        planned
    };
    let (client, _) = api_server(move |path, body| {
        if path.contains("admissionregistration") {
            (200, policy(path))
        } else if path.ends_with("/patchapprovals") && body.is_object() {
            refusal(403, approval_policy::NOT_YOU)
        } else if path.ends_with("/patchapprovals") {
            (
                200,
                json!({ "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchApprovalList",
                "metadata": { "resourceVersion": "9" }, "items": [there] }),
            )
        } else {
            notes.lock().unwrap().push((path.to_owned(), body.clone()));
            match path.ends_with("/updateholds") {
                true => (201, body),
                false => (200, serde_json::to_value(order("erp", "o-1")).unwrap()),
            }
        }
    });
    let cache = Cache::default();
    let guardian = Guardian::new(client.clone(), "wardring-system", &[]).settling(Duration::ZERO);
    guardian.look_again(CLINIC).await;
    let policy = match guardian.look_again(CLINIC).await {
        wardring_planner::ApprovalPolicy::Intact { fingerprint, .. } => fingerprint,
        other => panic!("{other:?}"),
    };
    let desk = crate::pass::Desk { guardian, ..desk(client, &cache) };
    let stored = |name: &str, uid: &str| {
        let value = Arc::new(order(name, uid));
        (name.to_owned(), Stored { uid: uid.into(), version: 7, value })
    };
    let planned: PatchApproval = serde_json::from_value(planned).unwrap();
    let basis = Basis {
        orders: BTreeMap::from([stored("erp", "o-1"), stored("other", "o-2")]),
        approvals: BTreeMap::from([(
            "sign-off".to_owned(),
            Stored { uid: "a-1".into(), version: 5, value: planned.into() },
        )]),
        ..Basis::default()
    };
    let of = OrderSubject { name: "erp".to_owned(), uid: "o-1".to_owned(), up_to: 8 };
    let used = ApprovalUse {
        rollout: RolloutRef { name: "november".to_owned(), uid: "u-1".to_owned() },
        subject: ApprovalSubject::order(of),
        name: "sign-off".to_owned(),
        uid: "a-1".to_owned(),
        hash: "v1:1".to_owned(),
        approver: "bob".to_owned(),
        policy,
    };
    let write = |name: &str, uid: &str| Action::WriteRollbackStatus {
        rollback: name.to_owned(),
        uid: uid.to_owned(),
        // Another rollout's: nobody's word holds up others.
        rollout_uid: Some(format!("of-{uid}")),
        status: Box::new(PatchRollbackStatus::default()),
    };
    let bar = |name: &str, rollout: &str| Action::CreateHold {
        name: name.to_owned(),
        rollout_uid: rollout.to_owned(),
        spec: Box::new(
            serde_json::from_value(json!({ "kbs": ["KB5068787"], "reason": "r" })).unwrap(),
        ),
    };
    let actions = vec![
        Action::ConfirmApproval(Box::new(used)),
        write("erp", "o-1"),
        write("other", "o-2"),
        // What tells that the rollout carries it out, and the bar that goes with that.
        Action::WriteRollbackStatus {
            rollback: "other".to_owned(),
            uid: "o-2".to_owned(),
            rollout_uid: Some("u-1".to_owned()),
            status: Box::new(PatchRollbackStatus::default()),
        },
        bar("of-another", "u-2"),
        bar("bar", "u-1"),
        // One that was made anew meanwhile is another order.
        write("other", "o-9"),
    ];
    let plan = Plan { actions, ..Plan::default() };
    let mut memory = Memory::default();
    apply(&desk, CLINIC, &mut memory, basis, plan, desk.intent(CLINIC)).await.unwrap();
    let written = written.lock().unwrap();
    written.clone()
}

#[tokio::test]
async fn the_status_of_an_order_relies_on_an_approval_that_stands_and_replaces_what_the_plan_saw() {
    let written = written_orders("Approve").await;
    let names: Vec<&str> =
        written.iter().map(|(path, _)| path.rsplit('/').nth(1).unwrap_or_default()).collect();
    assert_eq!(names, ["erp", "other", "other", CLINIC, CLINIC], "{written:?}");
    for (path, body) in &written[..3] {
        assert!(path.ends_with("/status"), "{path}");
        // An older leader's write, or one that comes twice, meets a newer version and is refused.
        assert_eq!(body["metadata"]["resourceVersion"], "7");
        assert_eq!(
            body["kind"], "PatchRollback",
            "the whole object, so that nothing old stays in it"
        );
    }
    // Somebody rejected it meanwhile: what relies on it is left out, and nothing else.
    let written = written_orders("Reject").await;
    assert_eq!(written.len(), 2, "{written:?}");
    assert!(written[0].0.contains("/other/"), "{written:?}");
    assert_eq!(written[1].1["metadata"]["name"], "of-another", "{written:?}");
}
