//! UpdateHolds at the permit desk: in force with the next permit to install, and never skipped because they
//! cannot be read.

use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use wardring_api::{PatchJob, PatchRollout, Update, UpdateHold};
use wardring_harness::wait_until;
use wardring_protocol::{PermitAnswer, Step};
use wardring_seal::JobKey;

use crate::{emergency::blind, support::*};

const KB: &str = "KB5068787";

async fn bar(site: &Site, name: &str, spec: Value) {
    let hold: UpdateHold = object(json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "UpdateHold",
        "metadata": { "name": name, "namespace": site.tenant }, "spec": spec,
    }));
    let api: Api<UpdateHold> = Api::namespaced(site.client.clone(), &site.tenant);
    api.create(&PostParams::default(), &hold).await.unwrap();
}

async fn lift(site: &Site, name: &str) {
    let api: Api<UpdateHold> = Api::namespaced(site.client.clone(), &site.tenant);
    api.delete(name, &DeleteParams::default()).await.unwrap();
}

fn refusal(answer: PermitAnswer) -> (String, String) {
    let PermitAnswer::Refused { reason, message, .. } = answer else { panic!("{answer:?}") };
    (reason, message)
}

#[tokio::test]
async fn what_was_granted_before_a_bar_does_not_begin_under_it_and_what_began_restarts() {
    let site = Site::new().await;
    let rollout = site.rollout().await;
    let (one, two) = (site.device("ws-1").await, site.device("ws-2").await);
    let (first, second) = (site.grant(&one, &rollout).await, site.grant(&two, &rollout).await);
    let (here, there) = (site.gateway(&[]).await, site.gateway(&[]).await);
    here.sees_leader().await;
    there.sees_leader().await;
    assert_eq!(here.permit(&one, &first, Step::Install).await, PermitAnswer::Granted);

    bar(&site, "printing", json!({ "kbs": [KB], "reason": "It breaks printing" })).await;
    for gateway in [&here, &there] {
        let (reason, message) = refusal(gateway.permit(&two, &second, Step::Install).await);
        assert_eq!(reason, "UpdateHeld");
        assert_eq!(message, format!("UpdateHold printing bars {KB}: It breaks printing."));
    }
    assert!(site.job_status(&two).await.permitted.is_empty());
    assert_eq!(there.permit(&one, &first, Step::Reboot).await, PermitAnswer::Granted);

    lift(&site, "printing").await;
    bar(&site, "elsewhere", json!({ "kbs": [KB], "reason": "r", "devices": [one.name] })).await;
    assert_eq!(there.permit(&two, &second, Step::Install).await, PermitAnswer::Granted);
}

#[tokio::test]
async fn a_group_that_comes_to_watch_only_lets_nothing_begin_that_was_granted_before() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    group_of(&site, &agent, "controllers", json!({ "patchAuthority": "Observe" })).await;
    let key = site.grant(&agent, &site.rollout().await).await;
    let gateway = site.gateway(&[]).await;
    gateway.sees_leader().await;
    let (reason, message) = refusal(gateway.permit(&agent, &key, Step::Install).await);
    assert_eq!(reason, "PatchAuthority");
    assert!(message.contains("controllers"), "{message}");
    groups(&site).delete("controllers", &DeleteParams::default()).await.unwrap();
    assert_eq!(gateway.permit(&agent, &key, Step::Install).await, PermitAnswer::Granted);
}

#[tokio::test]
async fn what_took_the_place_of_a_barred_update_does_not_begin_where_the_bar_says_so() {
    let site = Site::new().await;
    let rollout = site.rollout().await;
    let agent = site.device("ws-1").await;
    let key = site.grant(&agent, &rollout).await;
    let gateway = site.gateway(&[]).await;
    gateway.sees_leader().await;
    let rollouts: Api<PatchRollout> = Api::namespaced(site.client.clone(), &site.tenant);
    let resolved = json!({ "status": { "resolvedUpdates": [
        { "product": "Windows 11 24H2", "kb": KB, "kind": "Quality" },
    ] } });
    let name = rollout.metadata.name.as_deref().unwrap();
    let params = PatchParams::default();
    rollouts.patch_status(name, &params, &Patch::Merge(resolved)).await.unwrap();
    let old: Update = object(json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "Update",
        "metadata": { "name": "kb5000001", "namespace": site.tenant },
        "spec": {
            "kb": "KB5000001", "title": "the month before", "product": "Windows 11 24H2",
            "kind": "Quality", "release": "2026-10", "supersededBy": KB,
        },
    }));
    let updates: Api<Update> = Api::namespaced(site.client.clone(), &site.tenant);
    updates.create(&PostParams::default(), &old).await.unwrap();

    let all = json!({ "kbs": ["KB5000001"], "reason": "r", "includeSuperseding": "Hold" });
    bar(&site, "with-all", all).await;
    for step in [Step::Install, Step::Reboot] {
        let (reason, message) = refusal(gateway.permit(&agent, &key, step).await);
        assert_eq!(reason, "UpdateHeld", "the restart before an installation begins it");
        assert_eq!(message, format!("UpdateHold with-all bars {KB}: r."));
    }
    lift(&site, "with-all").await;
    bar(&site, "alone", json!({ "kbs": ["KB5000001"], "reason": "r" })).await;
    assert_eq!(gateway.permit(&agent, &key, Step::Install).await, PermitAnswer::Granted);
}

#[tokio::test]
async fn a_permit_of_an_earlier_attempt_lets_nothing_begin_under_a_bar() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let first = site.grant(&agent, &site.rollout().await).await;
    let gateway = site.gateway(&[]).await;
    gateway.sees_leader().await;
    assert_eq!(gateway.permit(&agent, &first, Step::Install).await, PermitAnswer::Granted);

    // It is granted again, and its new job is left with the permit of the first attempt.
    let line = format!("ws-1 2 Granted 2026-11-21T02:00:00Z eid={} seq=7", agent.enrolment_id);
    let (params, granted) = (PatchParams::default(), json!({ "spec": { "lines": [line] } }));
    site.slices().patch("november-ws-1", &params, &Patch::Merge(granted)).await.unwrap();
    let before = site.jobs().get(&agent.name).await.unwrap();
    site.jobs().delete(&agent.name, &DeleteParams::default()).await.unwrap();
    let mut again = PatchJob::new(&agent.name, before.spec);
    again.spec.attempt = 2;
    create(&site.jobs(), &again).await;
    let permitted = json!({ "status": { "permitted": before.status.unwrap().permitted } });
    site.jobs().patch_status(&agent.name, &params, &Patch::Merge(permitted)).await.unwrap();
    let second = JobKey { attempt: 2, ..first };
    bar(&site, "printing", json!({ "kbs": [KB], "reason": "r" })).await;
    for step in [Step::Reboot, Step::Install] {
        let (reason, _) = refusal(gateway.permit(&agent, &second, step).await);
        assert_eq!(reason, "UpdateHeld");
    }
    assert_eq!(site.job_status(&agent).await.permitted.len(), 1);
    lift(&site, "printing").await;
    assert_eq!(gateway.permit(&agent, &second, Step::Reboot).await, PermitAnswer::Granted);
}

#[tokio::test]
async fn a_gateway_that_may_not_read_the_bars_lets_nothing_begin() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let rollout = site.rollout().await;
    let key = site.grant(&agent, &rollout).await;
    let other = site.device("ws-2").await;
    let installed = site.grant(&other, &rollout).await;
    let gateway = site.gateway(&[]).await;
    gateway.sees_leader().await;
    assert_eq!(gateway.permit(&other, &installed, Step::Install).await, PermitAnswer::Granted);
    blind(&site, "updateholds").await;
    // Roles reach the API server's authorizer a moment later.
    let answer = wait_until(PATIENCE, "the rights to go", async || {
        let answer = gateway.permit(&agent, &key, Step::Install).await;
        (answer != PermitAnswer::Granted).then_some(answer)
    })
    .await
    .unwrap();
    assert_eq!(refusal(answer).0, "ApiUnavailable");
    let (reason, _) = refusal(gateway.permit(&agent, &key, Step::Reboot).await);
    assert_eq!(reason, "ApiUnavailable", "the restart before an installation begins it");

    // What is installed restarts without them.
    assert_eq!(gateway.permit(&other, &installed, Step::Reboot).await, PermitAnswer::Granted);
}
