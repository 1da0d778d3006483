//! PatchRollbacks at the permit desk: an order that is deleted, or waits for a second person, ends with the next
//! permit.

use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use wardring_api::{DeviceGroup, PatchRollback, PatchRollout};
use wardring_planner::{order_hash, order_parts};
use wardring_protocol::{PermitAnswer, Step};
use wardring_seal::Action;

use crate::support::*;

fn reason(answer: PermitAnswer) -> String {
    match answer {
        PermitAnswer::Granted => "Granted".to_owned(),
        PermitAnswer::Refused { reason, .. } | PermitAnswer::Ended { reason, .. } => reason,
    }
}

#[tokio::test]
async fn an_order_that_is_deleted_or_forbidden_begins_nothing_and_what_began_ends() {
    let site = Site::new().await;
    let rollout = site.rollout().await;
    let (one, two) = (site.device("ws-1").await, site.device("ws-2").await);
    let orders: Api<PatchRollback> = Api::namespaced(site.client.clone(), &site.tenant);
    let order: PatchRollback = object(json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchRollback",
        "metadata": { "name": "erp-down" },
        "spec": { "rollout": "november", "reason": "the ERP does not answer" },
    }));
    let order = put(&orders, &order).await;
    let status = Patch::Merge(json!({ "status": {
        "halted": { "reason": "RollbackOrdered", "message": "m", "at": Timestamp::now() },
        "rollback": {
            "scope": "Device", "stage": "all", "startedAt": Timestamp::now(),
            "order": { "name": "erp-down", "uid": order.uid().unwrap() },
        },
    } }));
    site.rollouts().patch_status("november", &PatchParams::default(), &status).await.unwrap();
    let words = " action=Rollback ordered=yes";
    let first = site.grant_as(&one, &rollout, Action::Rollback, words).await;
    let second = site.grant_as(&two, &rollout, Action::Rollback, words).await;
    let gateway = site.gateway(&[]).await;
    gateway.sees_leader().await;
    assert_eq!(gateway.permit(&one, &first, Step::Uninstall).await, PermitAnswer::Granted);

    let groups: Api<DeviceGroup> = Api::namespaced(site.client.clone(), &site.tenant);
    let group = json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "DeviceGroup",
        "metadata": { "name": "theatre" },
        "spec": {
            "selector": { "matchExpressions": [{ "key": "x", "operator": "DoesNotExist" }] },
            "rollback": "Forbid",
        },
    });
    create(&groups, &object(group)).await;
    let forbidden = gateway.permit(&two, &second, Step::Uninstall).await;
    assert_eq!(reason(forbidden), "RollbackForbidden");
    groups.delete("theatre", &DeleteParams::default()).await.unwrap();

    orders.delete("erp-down", &DeleteParams::default()).await.unwrap();
    let withdrawn = gateway.permit(&two, &second, Step::Uninstall).await;
    assert_eq!(reason(withdrawn), "RollbackWithdrawn");
    assert_eq!(gateway.permit(&one, &first, Step::Reboot).await, PermitAnswer::Granted);
}

/// An order that a second person was asked about, as the controller writes it; `state` and `decided` say what came of it.
fn asking(order: &PatchRollback, rollout: &PatchRollout, state: &str, up_to: u32) -> Value {
    let status = |parts: &[String], hash: &str| {
        let mut asked = json!({
            "round": 1, "hash": hash, "parts": parts, "nonce": "n", "policy": "p", "request": "r",
            "expiresAt": Timestamp::now() + SignedDuration::from_hours(1),
        });
        if state != "Waiting" {
            let decision = if state == "Passed" { "Approve" } else { "Reject" };
            asked["decided"] = json!({
                "decision": decision, "by": "bob", "reason": "r", "at": Timestamp::now(),
                "approval": "a", "uid": "u",
            });
        }
        json!({ "approval": {
            "state": state, "since": Timestamp::now(), "upTo": up_to, "asked": asked,
        } })
    };
    let with = |status: Value| -> PatchRollback {
        let mut order = order.clone();
        order.status = Some(serde_json::from_value(status).unwrap());
        order
    };
    let order = with(status(&[], ""));
    let parts = order_parts(&order, rollout).unwrap();
    let order = with(status(&parts, ""));
    let asked = &order.status.as_ref().unwrap().approval.as_ref().unwrap().asked;
    json!({ "status": status(&parts, &order_hash(&order, rollout, asked)) })
}

#[tokio::test]
async fn an_order_that_asks_gets_no_permit_without_the_word_of_a_second_person_on_exactly_it() {
    let site = Site::new().await;
    let rollout = site.rollout().await;
    let (one, two) = (site.device("ws-1").await, site.device("ws-2").await);
    let orders: Api<PatchRollback> = Api::namespaced(site.client.clone(), &site.tenant);
    let order: PatchRollback = object(json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchRollback",
        "metadata": { "name": "erp-down" },
        "spec": {
            "rollout": "november", "reason": "the ERP does not answer", "authors": ["alice"],
            "approvalAbove": 2,
        },
    }));
    let order = put(&orders, &order).await;
    let status = Patch::Merge(json!({ "status": {
        "planHash": "v1:0",
        "stages": [{ "name": "all", "state": "Completed", "counts": { "total": 8, "rolledBack": 2 } }],
        "halted": { "reason": "RollbackOrdered", "message": "m", "at": Timestamp::now() },
        "rollback": {
            "scope": "Device", "stage": "all", "startedAt": Timestamp::now(),
            "order": { "name": "erp-down", "uid": order.uid().unwrap() },
        },
    } }));
    let params = PatchParams::default();
    let stored = site.rollouts().patch_status("november", &params, &status).await.unwrap();
    let words = " action=Rollback ordered=yes";
    let first = site.grant_as(&one, &rollout, Action::Rollback, words).await;
    let second = site.grant_as(&two, &rollout, Action::Rollback, words).await;
    let gateway = site.gateway(&[]).await;
    gateway.sees_leader().await;
    let write = async |status: &Value| {
        orders.patch_status("erp-down", &params, &Patch::Merge(status)).await.unwrap();
    };
    let asks = async |device, job| reason(gateway.permit(device, job, Step::Uninstall).await);

    // Two are rolled back, and the share is two: nobody was asked; asked; approved by another hash; too late.
    assert_eq!(asks(&one, &first).await, "RollbackAwaitsApproval");
    write(&asking(&order, &stored, "Waiting", 2)).await;
    assert_eq!(asks(&one, &first).await, "RollbackAwaitsApproval");
    let mut forged = asking(&order, &stored, "Passed", 2);
    forged["status"]["approval"]["upTo"] = json!(500);
    write(&forged).await;
    assert_eq!(asks(&one, &first).await, "RollbackAwaitsApproval");
    let mut late = asking(&order, &stored, "Passed", 2);
    late["status"]["approval"]["asked"]["expiresAt"] = json!(Timestamp::now());
    write(&late).await;
    assert_eq!(asks(&one, &first).await, "RollbackAwaitsApproval");

    // Approved for as many as are rolled back already, then for one more.
    write(&asking(&order, &stored, "Passed", 2)).await;
    assert_eq!(asks(&one, &first).await, "RollbackAwaitsApproval");
    write(&asking(&order, &stored, "Passed", 3)).await;
    assert_eq!(asks(&one, &first).await, "Granted");
    // Whoever says no in the middle keeps what has not begun; what has begun comes to its end.
    write(&asking(&order, &stored, "Failed", 3)).await;
    assert_eq!(asks(&two, &second).await, "RollbackRejected");
    assert_eq!(reason(gateway.permit(&one, &first, Step::Reboot).await), "Granted");
}
