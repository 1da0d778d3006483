//! Maintenance windows at the permit desk: what was granted inside of one begins only inside of one.

use jiff::{SignedDuration, Timestamp};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use wardring_api::{MaintenanceWindow, PatchRollout};
use wardring_planner::{approval_hash, approval_parts};
use wardring_protocol::{PermitAnswer, Step};

use crate::support::*;

async fn window(site: &Site, name: &str, spec: Value) {
    let api: Api<MaintenanceWindow> = Api::namespaced(site.client.clone(), &site.tenant);
    let window: MaintenanceWindow = object(json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "MaintenanceWindow",
        "metadata": { "name": name, "namespace": site.tenant }, "spec": spec,
    }));
    api.create(&PostParams::default(), &window).await.unwrap();
}

/// From an hour ago, or in an hour, for an hour.
fn once(from_minutes: i64) -> Value {
    let from = Timestamp::now() + SignedDuration::from_mins(from_minutes);
    let from = from.round(jiff::Unit::Second).unwrap();
    json!({ "once": { "from": from, "until": from + SignedDuration::from_hours(1) } })
}

fn refusal(answer: PermitAnswer) -> (String, String, u64) {
    let PermitAnswer::Refused { reason, message, retry_ms } = answer else { panic!("{answer:?}") };
    (reason, message, retry_ms)
}

#[tokio::test]
async fn nothing_begins_in_a_freeze_and_it_is_asked_again_in_time() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let key = site.grant(&agent, &site.rollout().await).await;
    let gateway = site.gateway(&[]).await;
    gateway.sees_leader().await;
    let freeze = json!({ "type": "Deny", "reason": "surgery", "schedule": once(-30) });
    window(&site, "freeze", freeze).await;
    for step in [Step::Install, Step::Reboot] {
        let (reason, message, retry_ms) = refusal(gateway.permit(&agent, &key, step).await);
        assert_eq!(reason, "Frozen");
        assert!(message.ends_with(": surgery."), "{message}");
        assert_eq!(retry_ms, 300_000, "windows are edited, too");
    }
    assert!(site.job_status(&agent).await.permitted.is_empty());
    let api: Api<MaintenanceWindow> = Api::namespaced(site.client.clone(), &site.tenant);
    api.delete("freeze", &DeleteParams::default()).await.unwrap();
    assert_eq!(gateway.permit(&agent, &key, Step::Install).await, PermitAnswer::Granted);
}

#[tokio::test]
async fn a_group_s_window_holds_at_the_desk_whatever_the_rollout_says() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    group_of(&site, &agent, "controllers", json!({ "windows": ["tonight"] })).await;
    let key = site.grant(&agent, &site.rollout().await).await;
    let gateway = site.gateway(&[]).await;
    gateway.sees_leader().await;

    let (reason, message, _) = refusal(gateway.permit(&agent, &key, Step::Install).await);
    assert_eq!(reason, "WindowNotFound");
    assert_eq!(message, "MaintenanceWindow tonight does not exist.");
    window(&site, "tonight", json!({ "type": "Allow", "schedule": once(60) })).await;
    let (reason, _, _) = refusal(gateway.permit(&agent, &key, Step::Install).await);
    assert_eq!(reason, "OutsideWindow");
    let api: Api<MaintenanceWindow> = Api::namespaced(site.client.clone(), &site.tenant);
    let open = Patch::Merge(json!({ "spec": { "schedule": once(-30) } }));
    api.patch("tonight", &PatchParams::default(), &open).await.unwrap();
    assert_eq!(gateway.permit(&agent, &key, Step::Install).await, PermitAnswer::Granted);
    assert_eq!(gateway.permit(&agent, &key, Step::Reboot).await, PermitAnswer::Granted);
}

#[tokio::test]
async fn a_stage_whose_group_was_deleted_begins_and_restarts_nothing_until_it_is_back_and_counted()
{
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let groups = groups(&site);
    let limits = json!({ "windows": ["tonight"], "maxUnavailable": 1 });
    let group = group_of(&site, &agent, "prod", limits).await;
    let counted =
        Patch::Merge(json!({ "status": { "devices": 1, "unavailable": 0, "reboots": "Open" } }));
    let (make, change) = (PostParams::default(), PatchParams::default());
    groups.patch_status("prod", &change, &counted).await.unwrap();
    window(&site, "tonight", json!({ "type": "Allow", "schedule": once(-30) })).await;
    let rollout: PatchRollout = object(json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchRollout",
        "metadata": { "name": "november" },
        "spec": {
            "updates": { "kbs": ["KB5068787"] },
            "stages": [{ "name": "all", "group": "prod" }],
        },
    }));
    let rollout = site.rollouts().create(&make, &rollout).await.unwrap();
    let key = site.grant(&agent, &rollout).await;
    let gateway = site.gateway(&[]).await;
    gateway.sees_leader().await;
    let gone = async |step: Step| {
        let (reason, message, _) = refusal(gateway.permit(&agent, &key, step).await);
        assert_eq!(reason, "GroupNotFound");
        assert!(
            message.starts_with("Stage all names DeviceGroup prod, which does not exist"),
            "{message}"
        );
    };

    groups.delete("prod", &DeleteParams::default()).await.unwrap();
    gone(Step::Install).await;
    groups.create(&make, &group).await.unwrap();
    assert_eq!(gateway.permit(&agent, &key, Step::Install).await, PermitAnswer::Granted);
    groups.delete("prod", &DeleteParams::default()).await.unwrap();
    gone(Step::Reboot).await;
    groups.create(&make, &group).await.unwrap();
    let (reason, message, _) = refusal(gateway.permit(&agent, &key, Step::Reboot).await);
    assert_eq!(reason, "RebootsHeld", "nobody has counted its devices: {message}");
    groups.patch_status("prod", &change, &counted).await.unwrap();
    assert_eq!(gateway.permit(&agent, &key, Step::Reboot).await, PermitAnswer::Granted);
}

/// The status of a rollout whose only stage somebody approved, as it is written now.
fn approved(rollout: &PatchRollout) -> Value {
    let gate = |approval: Value| {
        json!({ "planHash": "v1:0", "stages": [{
            "name": "all", "state": "Open", "counts": {}, "freezeId": "v1:0",
            "gates": [{
                "name": "sign-off", "phase": "Before", "state": "Passed", "definition": "v1",
                "since": "2026-11-20T22:00:00Z", "startedAt": "2026-11-20T22:00:00Z",
                "approval": approval,
            }],
        }] })
    };
    let said = json!({
        "decision": "Approve", "by": "bob", "reason": "r", "at": "2026-11-20T22:00:00Z",
        "approval": "a", "uid": "u",
    });
    let mut asked = json!({ "round": 1, "nonce": "n", "decided": said });
    let mut rollout = rollout.clone();
    rollout.status = Some(object(gate(asked.clone())));
    asked["parts"] = json!(approval_parts(&rollout, "all").unwrap());
    let hash = approval_hash(&rollout, "all", "sign-off", &object(asked.clone()));
    asked["hash"] = json!(hash);
    json!({ "status": gate(asked) })
}

#[tokio::test]
async fn a_permit_outside_of_windows_says_that_it_was_given_in_haste_and_its_restart_goes_by_that()
{
    let site = Site::new().await;
    let rollout: PatchRollout = object(json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchRollout",
        "metadata": { "name": "november" },
        "spec": {
            "updates": { "kbs": ["KB5068787"] }, "authors": ["alice"],
            "expedite": { "reason": "it is exploited", "ignoreWindows": true },
            "stages": [{
                "name": "all", "selector": { "matchLabels": { "ring": "all" } }, "windows": ["tonight"],
                "gates": { "before": [{ "name": "sign-off", "type": "Approval", "approval": {} }] },
            }],
        },
    }));
    let (make, change) = (PostParams::default(), PatchParams::default());
    let rollout = site.rollouts().create(&make, &rollout).await.unwrap();
    window(&site, "tonight", json!({ "type": "Allow", "schedule": once(60) })).await;
    let (hasty, calm) = (site.device("ws-1").await, site.device("ws-2").await);
    let (first, second) = (site.grant(&hasty, &rollout).await, site.grant(&calm, &rollout).await);
    let gateway = site.gateway(&[]).await;
    gateway.sees_leader().await;

    let (reason, ..) = refusal(gateway.permit(&hasty, &first, Step::Install).await);
    assert_eq!(reason, "OutsideWindow", "nobody has approved the haste");
    let approval = Patch::Merge(approved(&rollout));
    site.rollouts().patch_status("november", &change, &approval).await.unwrap();
    for _ in 0..2 {
        // The answer may be lost, and the agent asks again.
        let answer = gateway.permit(&hasty, &first, Step::Install).await;
        assert_eq!(answer, PermitAnswer::Granted);
    }
    let permitted = site.job_status(&hasty).await.permitted;
    assert_eq!(permitted.iter().map(|permit| permit.expedited).collect::<Vec<_>>(), [true]);

    // The window opens: what begins now needs no haste.
    let api: Api<MaintenanceWindow> = Api::namespaced(site.client.clone(), &site.tenant);
    let schedule = async |schedule: Value| {
        let edit = Patch::Merge(
            json!({ "spec": { "schedule": schedule, "overrun": { "action": "Hold" } } }),
        );
        api.patch("tonight", &change, &edit).await.unwrap();
    };
    schedule(once(-30)).await;
    assert_eq!(gateway.permit(&calm, &second, Step::Install).await, PermitAnswer::Granted);
    assert!(!site.job_status(&calm).await.permitted[0].expedited);

    // It closes, and an edit has ended the haste.
    schedule(once(60)).await;
    let gone = Patch::Merge(json!({ "status": { "stages": [] } }));
    site.rollouts().patch_status("november", &change, &gone).await.unwrap();
    let (reason, ..) = refusal(gateway.permit(&calm, &second, Step::Reboot).await);
    assert_eq!(reason, "OutsideWindow");
    assert_eq!(gateway.permit(&hasty, &first, Step::Reboot).await, PermitAnswer::Granted);
}
