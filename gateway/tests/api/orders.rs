//! PatchRollbacks at the permit desk: an order that is deleted ends with the next permit.

use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use wardring_api::{DeviceGroup, PatchRollback};
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
