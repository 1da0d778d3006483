//! The rules of the guide on the real Prometheus and Alertmanager, over a whole installation: a
//! restart that Wardring ordered wakes nobody, and a device that does not return from it pages once,
//! with its context.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result};
use axum::{Json, Router, routing::post};
use serde_json::{Value, json};
use wardring_api::{LineState, PatchJob, PatchRollout, PermitStep};
use wardring_harness::{MetricsPage, Monitor, monitoring::Setup, wait_until, wait_until_ok};

use crate::support::{
    LONG, Place, Plan, manifests::with, rollout, shared, stage, world, world_with,
};

const RULES: &str = include_str!("../../../../docs/guide/alerts/prometheus-rules.yml");
const ROUTES: &str = include_str!("../../../../docs/guide/alerts/alertmanager.yml");

/// The rule that people have already, which knows nothing of Wardring. The guide asks for its `for`: a
/// group that is there already does not wait for `group_wait` again, so of two hosts that restart one
/// after the other the second would page before its restart was scraped.
const OWN_RULE: &str =
    r#"groups: [{name: own, rules: [{alert: HostDown, expr: probe_success == 0, for: 5s}]}]"#;

#[tokio::test]
async fn an_expected_restart_pages_nobody_and_a_device_that_does_not_return_pages_once()
-> Result<()> {
    let installation = shared().await?;
    let mut returns = world();
    returns["rebootMs"] = json!(15_000);
    let plan = Plan::default().group("returns", 1, &returns).group(
        "lost",
        1,
        &world_with(json!({ "neverReturn": true })),
    );
    let (place, _fleet) = Place::open(installation, "monitoring", &plan).await?;
    let pager = Pager::start().await?;
    let hosts = MetricsPage::start().await?;
    let controller = installation.controllers[0].http.trim_start_matches("http://").to_owned();
    let alertmanager = alertmanager(&pager).await?;
    let _prometheus = prometheus(&controller, &hosts, &alertmanager).await?;
    let down = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = tokio::spawn(watch_hosts(place.clone(), hosts, down.clone()));

    let late = with(stage("lost"), json!({ "rebootDeadline": "8s" }));
    let stages = [stage("returns"), late];
    place.create::<PatchRollout>(rollout(&stages, json!({}))).await?;

    // The first one restarts: it is down, the rule of old fires, and it is held back.
    wait_until_ok(LONG, "HostDown of returns-1 to be inhibited", async || {
        let alerts = alerts(&alertmanager).await.map_err(|error| error.to_string())?;
        let is_inhibited = alerts.iter().any(|alert| {
            alert["labels"]["alertname"] == "HostDown"
                && alert["labels"]["hostname"] == "returns-1"
                && alert["status"]["inhibitedBy"].as_array().is_some_and(|by| !by.is_empty())
        });
        if is_inhibited { Ok(()) } else { Err(format!("{alerts:?}")) }
    })
    .await?;
    // The second one never returns.
    wait_until(LONG, "the page", async || (!pager.pages().is_empty()).then_some(())).await?;
    // A host that is none of Wardring's pages as ever; so nothing is left on its way before it.
    down.lock().unwrap().insert("printer-1".to_owned());
    let pages = wait_until_ok(LONG, "the printer's page", async || {
        let pages = pager.pages();
        if pages.iter().any(|page| page["labels"]["hostname"] == "printer-1") {
            Ok(pages)
        } else {
            Err(format!("{pages:?}"))
        }
    })
    .await?;
    seen.abort();

    let names: Vec<_> = pages.iter().map(|page| &page["labels"]["alertname"]).collect();
    assert_eq!(names, ["WardringDeviceDidNotReturn", "HostDown"], "{pages:#?}");
    let page = &pages[0];
    assert_eq!(page["labels"]["hostname"], "lost-1");
    assert_eq!(
        page["annotations"]["summary"],
        "lost-1 is Offline: it did not return from its post-patch reboot (rollout november, stage lost)"
    );
    Ok(())
}

/// What people see of the hosts from outside: down from the moment their restart is permitted, until
/// they are back.
async fn watch_hosts(place: Place, page: MetricsPage, down: Arc<Mutex<BTreeSet<String>>>) {
    loop {
        let jobs = place.api::<PatchJob>().list(&Default::default()).await;
        let lines = place.lines().await.unwrap_or_default();
        for job in jobs.map(|jobs| jobs.items).unwrap_or_default() {
            let restarts = job.status.is_some_and(|status| {
                status.permitted.iter().any(|permit| permit.step == PermitStep::Reboot)
            });
            if restarts {
                down.lock().unwrap().insert(job.metadata.name.unwrap_or_default());
            }
        }
        for line in lines.into_values().filter(|line| line.state == LineState::Succeeded) {
            down.lock().unwrap().remove(&line.device);
        }
        let text: String = ["returns-1", "lost-1", "printer-1"]
            .map(|host| {
                let is_up = u8::from(!down.lock().unwrap().contains(host));
                format!("probe_success{{hostname=\"{host}\"}} {is_up}\n")
            })
            .concat();
        page.show(&text);
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
}

async fn prometheus(
    controller: &str,
    hosts: &MetricsPage,
    alertmanager: &Monitor,
) -> Result<Monitor> {
    let (hosts, alertmanager) = (hosts.address(), alertmanager.address());
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
         rule_files: [own.yml, wardring.yml]\n\
         scrape_configs:\n\
         - {{job_name: hosts, static_configs: [{{targets: ['{hosts}']}}]}}\n\
         - {{job_name: wardring, honor_labels: true, static_configs: [{{targets: ['{controller}']}}]}}\n\
         alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{alertmanager}']}}]}}]}}\n"
    );
    let files = [("own.yml", OWN_RULE), ("wardring.yml", RULES)];
    Monitor::prometheus(Setup { config: &config, files: &files, tls: None }).await
}

async fn alertmanager(pager: &Pager) -> Result<Monitor> {
    // Quicker than people want it.
    let config = ROUTES.replace("group_wait: 30s", "group_wait: 5s");
    let config = config.replace("group_interval: 5m", "group_interval: 1s");
    let url = format!("http://{}/", pager.address);
    let config = format!("{config}  webhook_configs: [{{url: '{url}', send_resolved: false}}]\n");
    Monitor::alertmanager(Setup { config: &config, ..Setup::default() }).await
}

async fn alerts(alertmanager: &Monitor) -> Result<Vec<Value>> {
    let mut query = tokio::process::Command::new("amtool");
    query.arg(format!("--alertmanager.url={}", alertmanager.url()));
    query.args(["alert", "query", "--inhibited", "--active", "--output=json"]);
    let output = query.output().await.context("failed to start amtool")?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Whoever is on call.
pub struct Pager {
    pub address: SocketAddr,
    pages: Arc<Mutex<Vec<Value>>>,
}

impl Pager {
    pub async fn start() -> Result<Pager> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let pages = Arc::<Mutex<Vec<Value>>>::default();
        let kept = pages.clone();
        let page = async move |Json(page): Json<Value>| {
            let alerts = page["alerts"].as_array().cloned().unwrap_or_default();
            kept.lock().unwrap().extend(alerts);
        };
        tokio::spawn(async { axum::serve(listener, Router::new().route("/", post(page))).await });
        Ok(Pager { address, pages })
    }

    /// Every alert that it was told, firing or resolved.
    pub fn pages(&self) -> Vec<Value> {
        self.pages.lock().unwrap().clone()
    }
}
