//! Facts on their way into the Device's status.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use serde_json::json;
use wardring_api::{DeviceStatus, conditions};
use wardring_harness::wait_until;
use wardring_protocol::{Facts, HealthFact, RebootSource, ReportBody, ServiceFact};

use crate::support::*;

#[tokio::test]
async fn facts_become_status_and_conditions_once() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let gateway = site.gateway(&[]).await;
    let full = Facts {
        hostname: "WS-1".to_owned(),
        product: "Windows 11".to_owned(),
        build: "26100.6899".to_owned(),
        agent_version: "0.1.0".to_owned(),
        agent_update_failed: Some("0.2.0 was taken back".to_owned()),
        roles: vec!["HyperVHost".to_owned()],
        pending_reboot: vec![RebootSource { source: "Cbs".to_owned(), hard: true }],
        services: vec![ServiceFact { name: "W32Time".to_owned(), state: "Running".to_owned() }],
        health: vec![HealthFact {
            rollout_uid: "u".to_owned(),
            attempt: 1,
            since: "2026-11-21T02:00:00Z".parse().unwrap(),
            blind: false,
            names_nothing: false,
            unhealthy: Vec::new(),
            restarts: 0,
            last_restart: None,
        }],
        ..Facts::default()
    };
    let body = ReportBody::Facts(Box::new(full));
    let ack = gateway.report(&agent, vec![(1, body.clone())]).await;
    assert_eq!((ack.acked_through, ack.highest_seen, ack.retry_ms), (1, 1, 0));
    let status = site.status(&agent).await;
    assert_eq!(status.identity.as_ref().unwrap().hostname, "WS-1");
    assert_eq!(status.boot_id.as_deref(), Some("boot-1"));
    assert_eq!(status.agent_update_failed.as_deref(), Some("0.2.0 was taken back"));
    assert!(conditions::is_true(&status.conditions, conditions::PENDING_REBOOT));
    assert!(conditions::is_true(&status.conditions, conditions::HEALTHY));

    // The same facts under a new number, here or elsewhere, are no write.
    let before = site.versions(&agent).await;
    let other = site.gateway(&[]).await;
    assert_eq!(gateway.report(&agent, vec![(2, body.clone())]).await.acked_through, 2);
    assert_eq!(other.report(&agent, vec![(3, body.clone())]).await.acked_through, 3);
    assert_eq!(site.versions(&agent).await, before);

    // What goes is removed.
    gateway.report(&agent, vec![(4, facts("WS-1"))]).await;
    let status = site.status(&agent).await;
    assert!(status.pending_reboot.is_empty() && status.services.is_empty());
    assert!(status.health.is_empty());
    assert!(!conditions::is_true(&status.conditions, conditions::HEALTHY));
    assert!(status.agent_update_failed.is_none());
    assert!(!conditions::is_true(&status.conditions, conditions::PENDING_REBOOT));
    // A late copy of the first changes nothing, also at a gateway that never saw the second.
    let before = site.versions(&agent).await;
    assert_eq!(other.report(&agent, vec![(1, body)]).await.acked_through, 1);
    assert_eq!(site.versions(&agent).await, before);
}

#[tokio::test]
async fn an_agent_that_lost_its_journal_learns_the_highest_number() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let gateway = site.gateway(&[]).await;
    gateway.report(&agent, vec![(57, facts("WS-1"))]).await;
    let other = site.gateway(&[]).await;
    let ack = other.report(&agent, vec![(1, facts("WS-1-AGAIN"))]).await;
    assert_eq!(ack.highest_seen, 57);
    assert_eq!(site.status(&agent).await.identity.unwrap().hostname, "WS-1");
    other.report(&agent, vec![(58, facts("WS-1-AGAIN"))]).await;
    assert_eq!(site.status(&agent).await.identity.unwrap().hostname, "WS-1-AGAIN");
}

/// Sets Online as the controller does: on a fresh read, fenced by its version.
async fn set_online(site: &Site, message: &str) {
    loop {
        let device = site.devices().get("ws-1").await.unwrap();
        let mut list = device.status.clone().unwrap_or_default().conditions;
        let (truth, reason) = (conditions::Truth::False, wardring_api::reasons::Reason::Offline);
        let now = jiff::Timestamp::now();
        conditions::set(&mut list, conditions::ONLINE, truth, reason, message, None, now);
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": device.metadata.resource_version },
            "status": { "conditions": list },
        }));
        match site.devices().patch_status("ws-1", &PatchParams::default(), &patch).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn conditions_that_the_controller_writes_meanwhile_survive() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let gateway = site.gateway(&["--write-cap", "0"]).await;
    let connection = gateway.client(&agent);
    for round in 0..40 {
        let message = format!("round {round}");
        let batch = agent.batch(vec![(round + 1, facts(&format!("WS-{round}")))]);
        let report = connection.post(gateway.url("/v1/reports")).json(&batch).send();
        // The two meet: whoever comes second has read an old version.
        let ((), ack) = tokio::join!(set_online(&site, &message), report);
        assert!(ack.unwrap().status().is_success());
        let status = site.status(&agent).await;
        let online = status.conditions.iter().find(|c| c.type_ == conditions::ONLINE);
        assert_eq!(online.map(|online| online.message.as_str()), Some(message.as_str()));
        assert_eq!(status.identity.unwrap().hostname, format!("WS-{round}"));
    }
}

#[tokio::test]
async fn facts_of_a_device_at_work_wait_for_its_outcome() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let key = site.grant(&agent, &site.rollout().await).await;
    let gateway = site.gateway(&["--facts-delay", "10m"]).await;
    gateway.sees_job(&agent).await;
    let ack = gateway.report(&agent, vec![(1, facts("WS-1"))]).await;
    assert_eq!(ack.acked_through, 0);
    assert!(ack.retry_ms > 0, "it stays with the agent until it is durable");
    assert_eq!(site.status(&agent).await, DeviceStatus::default());

    let outcome = agent.outcome(&key, wardring_seal::OutcomeResult::Succeeded);
    gateway.report(&agent, vec![(2, ReportBody::Outcome(outcome))]).await;
    wait_until(Duration::from_secs(20), "the facts", async || {
        site.status(&agent).await.identity.filter(|identity| identity.hostname == "WS-1")
    })
    .await
    .unwrap();
    assert_eq!(gateway.report(&agent, vec![(1, facts("WS-1"))]).await.acked_through, 1);
}

#[tokio::test]
async fn a_new_gateway_writes_nothing_to_devices() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let first = site.gateway(&[]).await;
    first.report(&agent, vec![(1, facts("WS-1"))]).await;
    first.running.stop().await;
    let before = site.versions(&agent).await;
    let second = site.gateway(&[]).await;
    second.job(&agent, "wait=0").await;
    second.report(&agent, vec![(2, facts("WS-1"))]).await;
    second.job(&agent, "wait=1").await;
    assert_eq!(site.versions(&agent).await, before);
}
