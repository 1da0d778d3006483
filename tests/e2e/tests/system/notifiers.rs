//! Notifiers over a whole installation, with the real Alertmanager and a webhook: who does not return
//! from its restart pages once, with what was done to it, whoever leads, and it is said when it is back.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use k8s_openapi::api::{
    core::v1::Secret,
    rbac::v1::{Role, RoleBinding},
};
use ring::hmac;
use serde_json::{Value, json};
use wardring_api::{Notifier, PatchRollout, RolloutPhase};
use wardring_harness::{
    Monitor,
    https::{self, HttpsServer, Received, reply},
    monitoring::Setup,
    wait_until_ok,
};

use crate::{
    monitoring::Pager,
    support::{LONG, Place, Plan, install, manifests::with, rollout, stage, world},
};

const KEY: &str = "a key that nobody sees";

#[tokio::test]
async fn a_device_that_does_not_return_pages_once_whoever_leads_and_its_return_is_told()
-> Result<()> {
    // A term that a busy machine does not end; nobody waits for the first leader's but once.
    let flags = [
        "--lease-duration",
        "15s",
        "--lease-renew",
        "2s",
        "--offline-after",
        "5s",
        "--notify-network",
        "127.0.0.1",
    ];
    let mut installation = install("notifiers", &flags).await?;
    let mut late = world();
    late["rebootMs"] = json!(90_000);
    let plan = Plan::default().group("lost", 1, &late);
    let (place, _fleet) = Place::open(&installation, "notifiers", &plan).await?;
    let pager = Pager::start().await?;
    let pems = https::pems()?;
    let alertmanager = alertmanager(&pager, &pems).await?;
    let chat = HttpsServer::start(|_| reply(204, "text/plain", "")).await?;
    tell(&place, &alertmanager, &pems, &chat).await?;

    let stage = with(stage("lost"), json!({ "rebootSlowAfter": "3s", "rebootDeadline": "15s" }));
    place.create::<PatchRollout>(rollout(&[stage], json!({}))).await?;
    wait_until_ok(LONG, "the page", async || {
        let pages = of_state(&pager, "firing");
        if pages.is_empty() { Err(format!("{:?}", events(&chat))) } else { Ok(()) }
    })
    .await?;
    // In the middle of telling.
    installation.controllers.pop().context("a controller runs")?.process.kill()?;
    installation.start_controller(&flags).await?;
    wait_until_ok(2 * LONG, "it to be told that the device is back", async || {
        let is_told =
            !of_state(&pager, "resolved").is_empty() && events(&chat).contains_key("DeviceBack");
        if is_told { Ok(()) } else { Err(format!("{:?} {:?}", pager.pages(), events(&chat))) }
    })
    .await?;

    let pages = of_state(&pager, "firing");
    assert_eq!(pages.len(), 1, "{pages:#?}");
    assert_eq!(of_state(&pager, "resolved").len(), 1, "{:#?}", pager.pages());
    let context = "KB5068787, rollout november, stage lost";
    let sentence = pages[0]["annotations"]["summary"].as_str().unwrap_or_default();
    let begin = format!("lost-1 is Offline — Did Not Return After Patch ({context}, since ");
    assert!(sentence.starts_with(&begin), "{sentence}");

    let told = events(&chat);
    for (event, ids) in &told {
        // Told again with the same id where the first leader died before it had noted it.
        let expected = if event == "DeviceBack" { 1..=3 } else { 1..=2 };
        assert!(expected.contains(&ids.len()), "{event}: {told:#?}");
    }
    for event in ["StageHalted", "DeviceDidNotReturn", "StageStarted"] {
        assert_eq!(told[event].len(), 1, "{event}: {told:#?}");
    }
    let slow = first(&chat, "DeviceOffline").context("the slow restart")?;
    let sentence = slow["summary"].as_str().unwrap_or_default();
    let begin = format!("lost-1 is Offline — Post-Patch Reboot Pending ({context}, rebooting for ");
    assert!(sentence.starts_with(&begin), "{sentence}");
    assert!(sentence.contains(", expected back by ") && sentence.ends_with(" UTC)"), "{sentence}");
    let expected = first(&chat, "DeviceRebootExpected").context("the restart")?;
    assert_eq!(expected["names"][0], "lost-1");
    assert!(expected["until"].as_str().is_some_and(|until| until.ends_with('Z')), "{expected}");
    place.until_phase(RolloutPhase::Halted).await?;
    for received in chat.received() {
        assert!(is_signed(&received), "{received:?}");
    }
    Ok(())
}

/// Pages of that state.
fn of_state(pager: &Pager, state: &str) -> Vec<Value> {
    pager.pages().into_iter().filter(|page| page["status"] == state).collect()
}

fn bodies(chat: &HttpsServer) -> Vec<Value> {
    let received = chat.received();
    received.iter().filter_map(|one| serde_json::from_slice(&one.body).ok()).collect()
}

/// The ids of what the webhook was told, by event; what holds and what is over apart.
fn events(chat: &HttpsServer) -> BTreeMap<String, BTreeSet<String>> {
    let mut events: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for body in bodies(chat) {
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let is_over = text("state") == "resolved" && text("event") != "DeviceBack";
        let event = text("event") + if is_over { " over" } else { "" };
        events.entry(event).or_default().insert(text("id"));
    }
    events
}

fn first(chat: &HttpsServer, event: &str) -> Option<Value> {
    let mut all = bodies(chat).into_iter();
    all.find(|body| body["event"] == event && body["state"] == "firing")
}

fn is_signed(received: &Received) -> bool {
    let header = |name| received.header(name).unwrap_or_default();
    let signed = [header("x-wardring-timestamp").as_bytes(), b".", &received.body].concat();
    let given = header("x-wardring-signature").trim_start_matches("sha256=");
    let key = hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes());
    hex::decode(given).is_ok_and(|given| hmac::verify(&key, &signed, &given).is_ok())
}

/// A Notifier with both sinks, and the right to read the one Secret that it needs.
async fn tell(
    place: &Place,
    alertmanager: &Monitor,
    pems: &https::Pems,
    chat: &HttpsServer,
) -> Result<()> {
    let host = chat.url().trim_start_matches("https://").to_owned();
    place
        .create::<Secret>(json!({
            "metadata": {
                "name": "chat", "annotations": { "wardring.dev/notify-host": host },
            },
            "stringData": { "key": KEY },
        }))
        .await?;
    place
        .create::<Role>(json!({
            "metadata": { "name": "chat" },
            "rules": [{
                "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["chat"],
                "verbs": ["get"],
            }],
        }))
        .await?;
    place
        .create::<RoleBinding>(json!({
            "metadata": { "name": "chat" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "chat" },
            "subjects": [{
                "kind": "ServiceAccount", "name": "wardring-controller",
                "namespace": "wardring-system",
            }],
        }))
        .await?;
    let of_people = json!({
        "metadata": { "name": "on-call" },
        "spec": {
            "events": ["DeviceDidNotReturn"],
            "sinks": [{
                "name": "on-call", "type": "Alertmanager", "url": alertmanager.url(),
                "caBundle": pems.ca,
            }],
        },
    });
    place.create::<Notifier>(of_people).await?;
    let everything = json!({
        "metadata": { "name": "chat" },
        "spec": {
            "events": [
                "DeviceRebootExpected", "DeviceOffline", "DeviceDidNotReturn", "StageStarted",
                "StageHalted",
            ],
            "sinks": [{
                "name": "chat", "type": "Webhook", "url": chat.url(), "caBundle": chat.ca(),
                "webhook": { "signature": { "name": "chat", "key": "key" } },
            }],
        },
    });
    place.create::<Notifier>(everything).await?;
    Ok(())
}

async fn alertmanager(pager: &Pager, pems: &https::Pems) -> Result<Monitor> {
    let url = format!("http://{}/", pager.address);
    let config = format!(
        "route: {{receiver: on-call, group_by: [alertname, device], group_wait: 1s, group_interval: 1s}}\n\
         receivers: [{{name: on-call, webhook_configs: [{{url: '{url}', send_resolved: true}}]}}]\n"
    );
    let tls = Some((pems.chain.as_str(), pems.key.as_str()));
    Monitor::alertmanager(Setup { config: &config, tls, ..Setup::default() }).await
}
