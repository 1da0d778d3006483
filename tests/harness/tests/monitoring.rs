//! The real Prometheus and Alertmanager of the tests: they start, see what a test shows, speak to each
//! other, and leave nothing behind.

#![expect(clippy::unwrap_used, reason = "helpers of tests may, as tests do")]

use std::process::Command;
use std::time::Duration;

use wardring_harness::monitoring::Setup;
use wardring_harness::process::is_alive;
use wardring_harness::{MetricsPage, Monitor, wait_until_ok};

const LIMIT: Duration = Duration::from_secs(60);

const NO_RECEIVER: &str = "route: {receiver: none}\nreceivers: [{name: none}]\n";

fn scraping(page: &MetricsPage, alertmanager: &Monitor) -> String {
    let (target, alertmanager) = (page.address(), alertmanager.address());
    format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
         rule_files: [rules.yml]\n\
         scrape_configs:\n- job_name: page\n  static_configs: [{{targets: ['{target}']}}]\n\
         alerting:\n  alertmanagers:\n  - static_configs: [{{targets: ['{alertmanager}']}}]\n"
    )
}

async fn prints(program: &str, arguments: &[&str], expected: &str) {
    wait_until_ok(LIMIT, &format!("{program} to print {expected:?}"), async || {
        let output = Command::new(program).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if text.contains(expected) { Ok(()) } else { Err(text + &said) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_page_shows_reaches_prometheus_and_its_alert_alertmanager() {
    let page = MetricsPage::start().await.unwrap();
    page.show("rooms 0\n");
    let alertmanager =
        Monitor::alertmanager(Setup { config: NO_RECEIVER, ..Setup::default() }).await.unwrap();
    let rules = "groups: [{name: rooms, rules: [{alert: RoomsFull, expr: rooms > 5}]}]\n";
    let prometheus = Monitor::prometheus(Setup {
        config: &scraping(&page, &alertmanager),
        files: &[("rules.yml", rules)],
        tls: None,
    })
    .await
    .unwrap();
    prints("promtool", &["query", "instant", &prometheus.url(), "rooms"], "=> 0 @").await;

    page.show("rooms 7\n");

    let url = format!("--alertmanager.url={}", alertmanager.url());
    prints("amtool", &[&url, "alert", "query", "--output=json"], "RoomsFull").await;
    let pids = [prometheus.process.pid(), alertmanager.process.pid()];
    drop((prometheus, alertmanager));
    assert!(!pids.into_iter().any(is_alive));
}

#[tokio::test]
async fn a_configuration_that_is_wrong_is_an_error_with_what_the_server_said() {
    let wrong = Setup { config: "route: {receiver: nobody}\n", ..Setup::default() };

    let error = Monitor::alertmanager(wrong).await.unwrap_err();

    assert!(format!("{error:#}").contains("undefined receiver"), "{error:#}");
}
