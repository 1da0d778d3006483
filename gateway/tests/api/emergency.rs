//! EmergencyStops at the permit desk: in force at every gateway with the next permit, and never skipped
//! because they cannot be read.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{sync::Notify, time};
use wardring_api::EmergencyStop;
use wardring_harness::wait_until;
use wardring_protocol::{PermitAnswer, Step};

use crate::support::{before::Event, *};

fn told(answer: PermitAnswer) -> (String, String) {
    match answer {
        PermitAnswer::Granted => ("Granted".to_owned(), String::new()),
        PermitAnswer::Refused { reason, message, .. } => (reason, message),
        PermitAnswer::Ended { reason, .. } => panic!("the job ended: {reason}"),
    }
}

/// A stop of this test's own devices: the others in the cluster are other tests'.
async fn stop(site: &Site, name: &str) -> EmergencyStop {
    let stop = object(json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "EmergencyStop",
        "metadata": { "name": format!("{name}-{}", site.tenant) },
        "spec": {
            "reason": "the ERP does not answer",
            "selector": { "matchLabels": { "site": site.tenant } },
        },
    }));
    let api: Api<EmergencyStop> = Api::all(site.client.clone());
    api.create(&PostParams::default(), &stop).await.unwrap()
}

async fn lift(site: &Site, stop: &EmergencyStop) {
    let api: Api<EmergencyStop> = Api::all(site.client.clone());
    api.delete(&stop.name_any(), &DeleteParams::default()).await.unwrap();
}

async fn label(site: &Site, agent: &Agent) {
    let labels = Patch::Merge(json!({ "metadata": { "labels": { "site": site.tenant } } }));
    site.devices().patch(&agent.name, &PatchParams::default(), &labels).await.unwrap();
}

/// Takes the right to read a resource from the gateways of the site.
pub async fn blind(site: &Site, resource: &str) {
    let roles: Api<ClusterRole> = Api::all(site.client.clone());
    let bindings: Api<ClusterRoleBinding> = Api::all(site.client.clone());
    let params = PostParams::default();
    let mut blind = roles.get("wardring-gateway").await.unwrap();
    let name = format!("blind-{}", site.system);
    blind.metadata = kube::api::ObjectMeta { name: Some(name.clone()), ..Default::default() };
    let rules = blind.rules.as_mut().unwrap();
    let before = rules.len();
    rules.retain(|rule| !rule.resources.iter().flatten().any(|all| all == resource));
    assert_eq!(rules.len(), before - 1);
    roles.create(&params, &blind).await.unwrap();
    let bound = format!("wardring-gateway-{}", site.system);
    let mut binding = bindings.get(&bound).await.unwrap();
    bindings.delete(&bound, &DeleteParams::default()).await.unwrap();
    binding.metadata = kube::api::ObjectMeta { name: Some(bound), ..Default::default() };
    binding.role_ref.name = name;
    bindings.create(&params, &binding).await.unwrap();
}

#[tokio::test]
async fn the_next_permit_at_every_gateway_is_refused_under_a_stop_and_granted_after_the_lift() {
    let site = Site::new().await;
    let rollout = site.rollout().await;
    let (one, two) = (site.device("ws-1").await, site.device("ws-2").await);
    label(&site, &one).await;
    label(&site, &two).await;
    let (first_key, second_key) =
        (site.grant(&one, &rollout).await, site.grant(&two, &rollout).await);
    let (here, there) = (site.gateway(&[]).await, site.gateway(&[]).await);
    here.sees_leader().await;
    there.sees_leader().await;
    // One device has begun.
    assert_eq!(here.permit(&one, &first_key, Step::Install).await, PermitAnswer::Granted);

    let stop = stop(&site, "erp-down").await;
    let name = stop.name_any();
    for gateway in [&here, &there] {
        for (agent, key, step) in
            [(&two, &second_key, Step::Install), (&one, &first_key, Step::Reboot)]
        {
            let (reason, message) = told(gateway.permit(agent, key, step).await);
            assert_eq!(reason, "EmergencyStop", "{message}");
            let sentence = format!("EmergencyStop {name} is in force: the ERP does not answer.");
            assert_eq!(message, sentence);
        }
        // Nor is what was permitted before permitted again.
        let again = gateway.permit(&one, &first_key, Step::Install).await;
        assert_eq!(told(again).0, "EmergencyStop");
    }
    assert_eq!(site.job_status(&one).await.permitted.len(), 1);
    assert!(site.job_status(&two).await.permitted.is_empty());

    lift(&site, &stop).await;
    assert_eq!(there.permit(&two, &second_key, Step::Install).await, PermitAnswer::Granted);
    assert_eq!(here.permit(&one, &first_key, Step::Reboot).await, PermitAnswer::Granted);
}

#[tokio::test]
async fn a_stop_that_comes_after_the_stops_were_read_permits_nothing() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    label(&site, &agent).await;
    let key = site.grant(&agent, &site.rollout().await).await;
    // Before it reads the rollout for the second time, the gateway waits.
    let (reached, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (at, on, asked) = (reached.clone(), go.clone(), AtomicUsize::new(0));
    let before: Event = Arc::new(move |method, path| {
        let is_it = method == "GET" && path.ends_with("/patchrollouts/november");
        let is_second = is_it && asked.fetch_add(1, Ordering::SeqCst) == 1;
        let (at, on) = (at.clone(), on.clone());
        Box::pin(async move {
            if is_second {
                at.notify_one();
                on.notified().await;
            }
        })
    });
    let gateway = site.gateway_after(&[], before).await;
    gateway.sees_leader().await;

    let followed = &gateway.running.gateway.followed_stops;
    let until_told = async |stop: &EmergencyStop, is_here: bool| {
        wait_until(PATIENCE, "the watch to tell of the stop", async || {
            (followed.knows(&stop.name_any()) == is_here).then_some(())
        })
        .await
        .unwrap();
    };
    // The watch is at work.
    let other = stop(&site, "other").await;
    until_told(&other, true).await;
    lift(&site, &other).await;
    until_told(&other, false).await;

    let stopping = async {
        time::timeout(PATIENCE, reached.notified()).await.expect("the rollout was not read twice");
        let stop = stop(&site, "erp-down").await;
        until_told(&stop, true).await;
        go.notify_one();
        stop
    };
    let (answer, stop) = tokio::join!(gateway.permit(&agent, &key, Step::Install), stopping);

    let (reason, message) = told(answer);
    let name = stop.name_any();
    assert_eq!(reason, "EmergencyStop", "{message}");
    let sentence = format!("EmergencyStop {name} is in force: the ERP does not answer.");
    assert_eq!(message, sentence);
    assert!(site.job_status(&agent).await.permitted.is_empty());
    // Once it is lifted it holds up nobody, although the watch may tell so later.
    lift(&site, &stop).await;
    assert_eq!(gateway.permit(&agent, &key, Step::Install).await, PermitAnswer::Granted);
}

#[tokio::test]
async fn a_stop_concerns_only_what_it_selects() {
    let site = Site::new().await;
    let rollout = site.rollout().await;
    let (one, two) = (site.device("ws-1").await, site.device("ws-2").await);
    label(&site, &one).await;
    let (first_key, second_key) =
        (site.grant(&one, &rollout).await, site.grant(&two, &rollout).await);
    let gateway = site.gateway(&[]).await;
    gateway.sees_leader().await;
    let stop = stop(&site, "one-ward").await;
    assert_eq!(told(gateway.permit(&one, &first_key, Step::Install).await).0, "EmergencyStop");
    assert_eq!(gateway.permit(&two, &second_key, Step::Install).await, PermitAnswer::Granted);
    lift(&site, &stop).await;
}

#[tokio::test]
async fn a_gateway_that_may_not_read_the_stops_permits_nothing() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let key = site.grant(&agent, &site.rollout().await).await;
    let gateway = site.gateway(&[]).await;
    gateway.sees_leader().await;

    blind(&site, "emergencystops").await;

    // Roles reach the API server's authorizer a moment later.
    let answer = wait_until(PATIENCE, "the rights to go", async || {
        let answer = gateway.permit(&agent, &key, Step::Install).await;
        (answer != PermitAnswer::Granted).then_some(answer)
    })
    .await
    .unwrap();
    assert_eq!(told(answer).0, "ApiUnavailable");
    for _ in 0..3 {
        let (reason, _) = told(gateway.permit(&agent, &key, Step::Reboot).await);
        assert_eq!(reason, "ApiUnavailable");
    }
}
