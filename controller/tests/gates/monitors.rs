use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use wardring_api::{AlertmanagerGate, GatePhase, PrometheusGate};
use wardring_controller::{
    gates::{Context, Found, Member, Provider, Reading, alertmanager, prometheus},
    outbound::Endpoint,
};
use wardring_harness::{MetricsPage, Monitor, monitoring::Setup, wait_until_ok};
use wardring_planner::condition::ConditionValue;

const SOON: Duration = Duration::from_secs(60);

fn endpoint(kind: &str, monitor: &Monitor) -> Endpoint {
    let spec = json!({
        "type": kind, "url": monitor.url(), "allowHttp": true, "allowedNetworks": ["127.0.0.1"],
        "namespaces": ["*"],
    });
    let spec = serde_json::from_value(spec).unwrap();
    Provider::new(&spec, None, Arc::new(Semaphore::new(1))).unwrap().endpoint
}

fn context(stage_began: Timestamp) -> Context {
    let member = |name: &str| Member { device: name.into(), aliases: Vec::new() };
    Context {
        namespace: "clinic".into(),
        rollout: "november".into(),
        rollout_uid: "u-1".into(),
        stage: "pilot".into(),
        phase: GatePhase::During,
        gate: "g".into(),
        definition: "d".into(),
        stage_began,
        gate_began: stage_began,
        now: Timestamp::now(),
        population: vec![member("web-1"), member("web-2")],
    }
}

fn result(found: &Found) -> Option<f64> {
    let Found::Values(values) = found else { return None };
    match values["result"] {
        ConditionValue::Number(number) => Some(number),
        ConditionValue::Int(number) => Some(number as f64),
        _ => None,
    }
}

/// Reads until the answer is this number: the servers need a moment to see what was shown to them.
async fn until(what: &str, expected: f64, read: impl AsyncFn() -> Reading) {
    let found = wait_until_ok(SOON, what, async || {
        let reading = read().await;
        if result(&reading.found) == Some(expected) { Ok(()) } else { Err(format!("{reading:?}")) }
    });
    found.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_gives_one_number_or_nothing_that_could_pass() {
    let page = MetricsPage::start().await.unwrap();
    page.show("errors{instance_name=\"web-1\"} 0\nerrors{instance_name=\"other\"} 100\n");
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: page\n  static_configs: [{{targets: ['{}']}}]\n",
        page.address()
    );
    let server = Monitor::prometheus(Setup { config: &config, ..Setup::default() }).await.unwrap();
    let endpoint = endpoint("Prometheus", &server);
    let began = Timestamp::now();
    let ask = async |gate: Value| {
        let mut gate = gate;
        gate["provider"] = json!("prometheus");
        let gate: PrometheusGate = serde_json::from_value(gate).unwrap();
        prometheus::read(&endpoint, &gate, &context(began)).await
    };
    let becomes = async |gate: Value, expected: f64| {
        until(&format!("{gate} to become {expected}"), expected, async || ask(gate.clone()).await)
            .await;
    };

    let of_the_stage = json!({ "query": "sum(errors{instance_name=~\"{{devices}}\"})" });
    becomes(of_the_stage.clone(), 0.0).await;
    page.show("errors{instance_name=\"web-1\"} 7\nerrors{instance_name=\"other\"} 100\n");
    becomes(of_the_stage, 7.0).await;
    becomes(json!({ "query": "vector(0.25)" }), 0.25).await;
    becomes(json!({ "query": "scalar(vector(3))" }), 3.0).await;
    let range = json!({ "over": "20s", "step": "1s", "reduce": "Max" });
    becomes(json!({ "query": "max(errors)", "range": range }), 100.0).await;

    // The server's own clock as the metric: what it was before tells at which time that was asked.
    for (baseline, ago) in [
        (json!({ "offset": "1h" }), 3_600.0..3_600.1),
        (json!({ "offset": "45s" }), 45.0..45.1),
        // Since the stage began, which is a moment ago.
        (json!({}), 0.0..600.0),
    ] {
        let gate = json!({ "query": "vector(time())", "baseline": baseline });
        let found = ask(gate.clone()).await.found;
        let Found::Values(values) = &found else { panic!("{gate}: {found:?}") };
        let [ConditionValue::Number(now), ConditionValue::Number(then)] =
            [&values["result"], &values["baseline"]]
        else {
            panic!("{gate}: {found:?}")
        };
        assert!(ago.contains(&(now - then)), "{gate}: {now} and {then}");
    }

    let nothing = [
        json!({ "query": "no_such_metric" }),
        json!({ "query": "no_such_metric", "range": range }),
        json!({ "query": "sum(errors)", "baseline": { "offset": "7d" } }),
    ];
    for gate in nothing {
        let found = ask(gate.clone()).await.found;
        assert!(matches!(found, Found::Nothing(_)), "{gate}: {found:?}");
    }
    let faults = [
        json!({ "query": "errors" }),
        json!({ "query": "errors", "range": range }),
        json!({ "query": "vector(0) / 0" }),
        json!({ "query": "vector(1) / 0" }),
        json!({ "query": "-vector(1) / 0" }),
        json!({ "query": "vector(0) / 0", "range": range }),
        json!({ "query": "\"0\"" }),
        json!({ "query": "errors[1m]" }),
        json!({ "query": "sum(errors" }),
    ];
    for gate in faults {
        let found = ask(gate.clone()).await.found;
        assert!(matches!(found, Found::Fault(_)), "{gate}: {found:?}");
    }
}

async fn post(server: &Monitor, path: &str, body: Value) {
    let client = reqwest::Client::new();
    let answer = client.post(format!("{}{path}", server.url())).json(&body).send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_alertmanager_shows_what_is_new_and_our_own_silences_hide_nothing() {
    // reqwest asks the process for its TLS, also where it speaks none.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = "route: {receiver: none}\nreceivers: [{name: none}]\n";
    let server = Monitor::alertmanager(Setup { config, ..Setup::default() }).await.unwrap();
    let endpoint = endpoint("Alertmanager", &server);
    let began = Timestamp::now() - SignedDuration::from_mins(10);
    let alert = |name: &str, instance: &str, since: Timestamp| {
        json!({
            "labels": { "alertname": name, "instance": instance, "severity": "critical" },
            "startsAt": since,
        })
    };
    let (old, new) = (began - SignedDuration::from_hours(1), Timestamp::now());
    let alerts = [
        alert("Down", "web-1:9182", new),
        alert("Down", "WEB-2", new),
        alert("Slow", "web-2:9182", new),
        alert("Down", "web-3:9182", new),
        alert("Disk", "web-1:9182", old),
        json!({ "labels": { "alertname": "Watchdog" }, "startsAt": old }),
    ];
    post(&server, "/api/v2/alerts", json!(alerts)).await;
    let counted = async |gate: Value, expected: f64| {
        let mut gate = gate;
        gate["provider"] = json!("alertmanager");
        let gate: AlertmanagerGate = serde_json::from_value(gate).unwrap();
        let read = async || alertmanager::read(&endpoint, &gate, &context(began)).await;
        until(&format!("{expected} alerts"), expected, read).await;
    };
    let watched = json!({ "watchdog": "alertname=\"Watchdog\"" });
    counted(watched.clone(), 3.0).await;
    counted(json!({ "matchers": ["alertname=\"Down\"", "severity=~\"crit.*\""] }), 2.0).await;
    counted(json!({ "matchers": ["severity=\"warning\""] }), 0.0).await;

    let silence = |author: &str, alert: &str| {
        json!({
            "matchers": [{ "name": "alertname", "value": alert, "isRegex": false, "isEqual": true }],
            "startsAt": Timestamp::now(),
            "endsAt": Timestamp::now() + SignedDuration::from_hours(1),
            "createdBy": author, "comment": "patch night",
        })
    };
    post(&server, "/api/v2/silences", silence("amtool", "Slow")).await;
    post(&server, "/api/v2/silences", silence("wardring", "Down")).await;
    counted(watched, 2.0).await;

    let read = async |gate: Value| {
        let gate: AlertmanagerGate = serde_json::from_value(gate).unwrap();
        alertmanager::read(&endpoint, &gate, &context(began)).await.found
    };
    let found = read(json!({ "provider": "a", "watchdog": "alertname=\"NoSuchAlert\"" })).await;
    assert!(matches!(found, Found::Nothing(_)), "{found:?}");
    let found = read(json!({ "provider": "a", "matchers": ["no matcher at all"] })).await;
    assert!(matches!(found, Found::Fault(_)), "{found:?}");
}
