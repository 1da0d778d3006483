//! When a permit is refused, whatever the cache believes.

use std::sync::{Arc, Mutex};

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use wardring_api::{JobState, conditions};
use wardring_harness::wait_until;
use wardring_protocol::{PermitAnswer, Step};

use crate::support::*;

fn reason(answer: PermitAnswer) -> String {
    match answer {
        PermitAnswer::Granted => "Granted".to_owned(),
        PermitAnswer::Refused { reason, .. } | PermitAnswer::Ended { reason, .. } => reason,
    }
}

#[tokio::test]
async fn without_a_leader_that_renews_its_lease_nothing_is_permitted() {
    let mut site = Site::without_leader().await;
    let agent = site.device("ws-1").await;
    let key = site.grant(&agent, &site.rollout().await).await;
    let gateway = site.gateway(&[]).await;
    assert_eq!(reason(gateway.permit(&agent, &key, Step::Install).await), "NoLeader");

    site.start_leader(3).await;
    gateway.sees_leader().await;
    assert_eq!(gateway.permit(&agent, &key, Step::Install).await, PermitAnswer::Granted);

    // When the leader falls silent, the last renewal carries for its own duration and no longer.
    site.stop_leader();
    wait_until(PATIENCE, "the Lease to grow old", async || {
        (!gateway.running.gateway.leader.is_fresh()).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(reason(gateway.permit(&agent, &key, Step::Reboot).await), "NoLeader");
    assert_eq!(site.job_status(&agent).await.permitted.len(), 1);
}

#[tokio::test]
async fn a_permit_is_decided_on_a_fresh_read_of_every_object() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let rollout = site.rollout().await;
    let key = site.grant(&agent, &rollout).await;
    let gateway = site.gateway(&[]).await;
    gateway.sees_leader().await;
    let params = PatchParams::default();

    // The rollout is suspended; the watch of rollouts does not even exist here.
    let suspend = |value: bool| Patch::Merge(json!({ "spec": { "suspend": value } }));
    site.rollouts().patch("november", &params, &suspend(true)).await.unwrap();
    assert_eq!(reason(gateway.permit(&agent, &key, Step::Install).await), "SuspendedByPerson");
    site.rollouts().patch("november", &params, &suspend(false)).await.unwrap();

    // The line is no longer granted.
    let slice = format!("november-{}", agent.name);
    let line = |text: String| Patch::Merge(json!({ "spec": { "lines": [text] } }));
    let recalled = line(format!("{} 1 Pending", agent.name));
    site.slices().patch(&slice, &params, &recalled).await.unwrap();
    assert_eq!(reason(gateway.permit(&agent, &key, Step::Install).await), "NotGranted");
    let granted = format!("{} 1 Granted 2026-11-21T02:00:00Z eid={}", agent.name, key.device_id);
    site.slices().patch(&slice, &params, &line(granted)).await.unwrap();

    // A person holds the device.
    let hold = Patch::Merge(json!({ "spec": { "hold": { "reason": "audit" } } }));
    site.devices().patch(&agent.name, &params, &hold).await.unwrap();
    assert_eq!(reason(gateway.permit(&agent, &key, Step::Install).await), "DeviceHeld");
    let lift = Patch::Merge(json!({ "spec": { "hold": null } }));
    site.devices().patch(&agent.name, &params, &lift).await.unwrap();

    // The device is shown waiting, although it never said so itself.
    let waits =
        |status: &wardring_api::PatchJobStatus| status.state == Some(JobState::AwaitingInstall);
    job_until(&site, &agent, "AwaitingInstall", waits).await;
    assert!(site.job_status(&agent).await.permitted.is_empty());

    // The group's reboots are held.
    let group = json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "DeviceGroup",
        "metadata": { "name": "all" },
        "spec": { "selector": { "matchExpressions": [{ "key": "x", "operator": "DoesNotExist" }] } },
    });
    let groups: kube::Api<wardring_api::DeviceGroup> =
        kube::Api::namespaced(site.client.clone(), &site.tenant);
    create(&groups, &object(group)).await;
    let held = Patch::Merge(json!({ "status": { "reboots": "Held" } }));
    groups.patch_status("all", &params, &held).await.unwrap();
    assert_eq!(gateway.permit(&agent, &key, Step::Install).await, PermitAnswer::Granted);
    assert_eq!(reason(gateway.permit(&agent, &key, Step::Reboot).await), "RebootsHeld");

    // The job is gone: this alone ends a job at an agent.
    site.jobs().delete(&agent.name, &DeleteParams::default()).await.unwrap();
    let answer = gateway.permit(&agent, &key, Step::Reboot).await;
    assert!(matches!(&answer, PermitAnswer::Ended { reason, .. } if reason == "NoSuchJob"));
}

#[tokio::test]
async fn a_rollout_that_is_stopped_while_the_rest_is_read_permits_nothing() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let key = site.grant(&agent, &site.rollout().await).await;
    // A person suspends the rollout when the gateway has begun to read what this path names.
    let awaited: Arc<Mutex<Option<String>>> = Arc::default();
    let (rollouts, armed) = (site.rollouts(), awaited.clone());
    let suspend = |value: bool| Patch::Merge(json!({ "spec": { "suspend": value } }));
    let gateway = site.gateway_after(
        &[],
        Arc::new(move |method, path| {
            let is_it = |awaited: &mut String| method == "GET" && path.ends_with(awaited.as_str());
            let is_now = armed.lock().unwrap().take_if(is_it).is_some();
            let rollouts = rollouts.clone();
            Box::pin(async move {
                if is_now {
                    let params = PatchParams::default();
                    rollouts.patch("november", &params, &suspend(true)).await.unwrap();
                }
            })
        }),
    );
    let gateway = gateway.await;
    gateway.sees_leader().await;
    let lists = ["/updateholds", "/devicegroups", "/maintenancewindows", "/emergencystops"];
    // Bars are for what has not begun.
    for (is_repeated, lists) in [(false, &lists[..]), (true, &lists[1..])] {
        for read in lists {
            *awaited.lock().unwrap() = Some((*read).to_owned());
            let answer = reason(gateway.permit(&agent, &key, Step::Install).await);
            assert_eq!(answer, "SuspendedByPerson", "{read}, repeated: {is_repeated}");
            assert!(awaited.lock().unwrap().is_none(), "{read} was not read");
            let resume = suspend(false);
            site.rollouts().patch("november", &PatchParams::default(), &resume).await.unwrap();
        }
        assert_eq!(gateway.permit(&agent, &key, Step::Install).await, PermitAnswer::Granted);
    }
}

#[tokio::test]
async fn in_a_namespace_that_is_being_deleted_nothing_is_permitted() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let key = site.grant(&agent, &site.rollout().await).await;
    let gateway = site.gateway(&[]).await;
    gateway.sees_leader().await;
    assert_eq!(gateway.permit(&agent, &key, Step::Install).await, PermitAnswer::Granted);

    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> =
        kube::Api::all(site.client.clone());
    namespaces.delete(&site.tenant, &DeleteParams::default()).await.unwrap();

    for step in [Step::Install, Step::Reboot] {
        let answer = gateway.permit(&agent, &key, step).await;
        assert!(matches!(&answer, PermitAnswer::Ended { reason, .. } if reason == "Deleting"));
    }
}

#[tokio::test]
async fn an_agent_that_holds_a_newer_job_than_the_cluster_gets_nothing() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let key = site.grant(&agent, &site.rollout().await).await;
    let gateway = site.gateway(&[]).await;
    gateway.sees_leader().await;
    let mut request = agent.ask(&key, Step::Install);
    request.highest_sequence = 8;
    let answer = read(gateway.post(&agent, "/v1/permits", &request).await).await;
    assert_eq!(reason(answer), "RestoredFromBackup");
}

#[tokio::test]
async fn two_live_agents_with_one_key_are_both_held() {
    let site = Site::new().await;
    let mut agent = site.device("ws-1").await;
    let other = site.device("ws-2").await;
    let rollout = site.rollout().await;
    let key = site.grant(&agent, &rollout).await;
    let other_key = site.grant(&other, &rollout).await;
    // Each of the two clones has found another gateway.
    let (one, two) = (site.gateway(&[]).await, site.gateway(&[]).await);
    one.sees_leader().await;
    two.sees_leader().await;
    let first = agent.run.clone();

    one.report(&agent, vec![(1, progress(&key, "Accepted"))]).await;
    job_until(&site, &agent, "the first run", |status| status.runs.len() == 1).await;
    agent.run = "run-of-the-clone".to_owned();
    two.report(&agent, vec![(2, progress(&key, "Preflight"))]).await;
    job_until(&site, &agent, "the second run", |status| status.runs.len() == 2).await;
    // The first comes back: no permit for either, and its asking is recorded.
    agent.run = first.clone();
    assert_eq!(reason(one.permit(&agent, &key, Step::Install).await), "TwoAgents");
    job_until(&site, &agent, "the return", |status| status.runs.len() == 3).await;
    agent.run = "run-of-the-clone".to_owned();
    assert_eq!(reason(two.permit(&agent, &key, Step::Install).await), "TwoAgents");
    job_until(&site, &agent, "the second's return", |status| status.runs.len() == 4).await;
    assert!(!conditions::is_true(&site.status(&agent).await.conditions, conditions::QUARANTINED));
    // Once more, and it is certain.
    agent.run = first;
    assert_eq!(reason(one.permit(&agent, &key, Step::Install).await), "TwoAgents");
    wait_until(PATIENCE, "the quarantine", async || {
        let status = site.status(&agent).await;
        conditions::is_true(&status.conditions, conditions::QUARANTINED).then_some(())
    })
    .await
    .unwrap();
    assert!(site.job_status(&agent).await.permitted.is_empty());
    // Nobody else is affected.
    assert_eq!(one.permit(&other, &other_key, Step::Install).await, PermitAnswer::Granted);
}

#[tokio::test]
async fn a_copy_of_an_agent_is_not_permitted_what_the_other_one_was() {
    let site = Site::new().await;
    let mut agent = site.device("ws-1").await;
    let key = site.grant(&agent, &site.rollout().await).await;
    let (one, two) = (site.gateway(&[]).await, site.gateway(&[]).await);
    one.sees_leader().await;
    two.sees_leader().await;
    assert_eq!(one.permit(&agent, &key, Step::Install).await, PermitAnswer::Granted);
    let first = std::mem::replace(&mut agent.run, "run-of-the-copy".to_owned());

    // Restarted, it still knows in which run it accepted the job.
    assert_eq!(two.permit(&agent, &key, Step::Install).await, PermitAnswer::Granted);
    agent.run = "run-of-the-other-copy".to_owned();
    let accepted_in = std::mem::replace(&mut agent.accepted_in, agent.run.clone());
    assert_eq!(reason(two.permit(&agent, &key, Step::Install).await), "TwoAgents");
    assert_eq!(reason(two.permit(&agent, &key, Step::Reboot).await), "TwoAgents");

    let permitted = site.job_status(&agent).await.permitted;
    assert_eq!(permitted.len(), 2);
    assert_eq!(permitted[0].agent_run, first);
    assert!(permitted.iter().all(|permit| permit.accepted_in == accepted_in));
}

#[tokio::test]
async fn a_restarted_agent_is_not_taken_for_two() {
    let site = Site::new().await;
    let mut agent = site.device("ws-1").await;
    let key = site.grant(&agent, &site.rollout().await).await;
    let gateway = site.gateway(&[]).await;
    gateway.sees_leader().await;
    for number in 0..6 {
        agent.run = format!("run-{number}");
        gateway.report(&agent, vec![(number + 1, progress(&key, "Accepted"))]).await;
        let runs = usize::try_from(number).unwrap() + 1;
        job_until(&site, &agent, "the run", |status| status.runs.len() == runs).await;
    }
    assert_eq!(gateway.permit(&agent, &key, Step::Install).await, PermitAnswer::Granted);
}

#[tokio::test]
async fn gateways_that_are_asked_at_once_record_every_permit_they_give() {
    let site = Site::new().await;
    let rollout = site.rollout().await;
    let (one, two) = (site.gateway(&[]).await, site.gateway(&[]).await);
    one.sees_leader().await;
    two.sees_leader().await;
    // Several devices, because two requests do not always meet.
    for number in 0..8 {
        let agent = site.device(&format!("ws-{number}")).await;
        let key = site.grant(&agent, &rollout).await;
        one.sees_job(&agent).await;
        two.sees_job(&agent).await;
        let (first, second) = tokio::join!(
            one.permit(&agent, &key, Step::Install),
            two.permit(&agent, &key, Step::Reboot)
        );
        assert_eq!((first, second), (PermitAnswer::Granted, PermitAnswer::Granted));
        assert_eq!(site.job_status(&agent).await.permitted.len(), 2);
    }
}
