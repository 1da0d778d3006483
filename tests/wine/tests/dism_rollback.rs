//! A whole rollback by the Windows build of the agent under Wine: packages removed by identity, the
//! restart, and the proof after it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::json;
use wardring_protocol::Step;
use wardring_seal::{Action, JobPayload, OutcomeResult};
use wardring_wine_tests::fakewua::FakeWua;
use wardring_wine_tests::gateway::{Seen, TestGateway};
use wardring_wine_tests::jobs::job;
use wardring_wine_tests::prefix::{Agent, Prefix, build_agent};
use wardring_wine_tests::programs::compile;

const DISM: &str = r"SOFTWARE\WardringTests\Dism";
const CURRENT_VERSION: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
const CBS: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing";
const ROLLUP: &str = "Package_for_RollupFix~31bf3856ad364e35~amd64~~20348.2762.1.12";
const STACK: &str = "Package_for_ServicingStack_2755~31bf3856ad364e35~amd64~~20348.2755.1.1";

/// A server with the update of November, as it came by hand: nobody saw it being installed.
fn server() -> anyhow::Result<(Prefix, FakeWua)> {
    let prefix = Prefix::create(&build_agent()?)?;
    let update = json!({
        "id": "aaaaaaaa-0000-0000-0000-000000000001", "revision": 200, "isInstalled": true,
        "title": "Update (KB5068787)", "kbs": ["5068787"],
    });
    let fake = FakeWua::install(&prefix, &json!({ "updates": [update] }))?;
    compile("dism.c", &prefix.drive().join("windows/system32/dism.exe"))?;
    let overrides = r"HKCU\Software\Wine\DllOverrides";
    prefix.wine(["reg", "add", overrides, "/v", "dism.exe", "/d", "native", "/f"])?;
    prefix.set(CURRENT_VERSION, "ProductName", "REG_SZ", "Windows Server 2022 Datacenter")?;
    prefix.set(CURRENT_VERSION, "InstallationType", "REG_SZ", "Server")?;
    prefix.set(CURRENT_VERSION, "CurrentBuild", "REG_SZ", "20348")?;
    prefix.set(CURRENT_VERSION, "UBR", "REG_DWORD", "2762")?;
    for (package, state) in [(ROLLUP, "0x70"), (STACK, "0x80")] {
        let key = format!(r"{CBS}\Packages\{package}");
        prefix.set(&key, "CurrentState", "REG_DWORD", state)?;
        prefix.set(&key, "Visibility", "REG_DWORD", "1")?;
    }
    Ok((prefix, fake))
}

fn start(prefix: &Prefix, gateway: &TestGateway) -> Agent {
    let (url, token) = (gateway.url(), gateway.token.reveal());
    let fixed = ["--name", "srv-1", "--data-dir", r"C:\wardring\data", "--poll-wait", "5"];
    let given = ["run", "--gateway", &url, "--token", &token];
    prefix.start_agent(given.into_iter().chain(fixed)).unwrap()
}

fn rollback(sequence: i64) -> JobPayload {
    let mut job = job(sequence, Action::Rollback);
    job.health.services.clear();
    // Wine takes the order to restart and leaves it at that; the test restarts.
    job.reboot.stuck_after_ms = 600_000;
    job
}

fn removals(prefix: &Prefix) -> usize {
    let log = std::fs::read_to_string(prefix.drive().join("dism.log")).unwrap_or_default();
    log.lines().filter(|line| line.contains("/Remove-Package")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_taken_back_restarted_and_proven_to_be_gone() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let (prefix, fake) = tokio::task::spawn_blocking(server).await.unwrap().unwrap();
    let agent = start(&prefix, &gateway);
    gateway.wait_for("srv-1", "a run", |seen| !seen.runs.is_empty()).await;
    gateway.give("srv-1", rollback(1));

    let asked = |seen: &Seen| seen.granted.contains(&Step::Reboot);
    let seen = gateway.wait_for("srv-1", "a permit to restart", asked).await;
    assert_eq!(seen.granted, [Step::Uninstall, Step::Reboot]);
    assert!(seen.outcomes.is_empty());
    assert_eq!(removals(&prefix), 1);
    let query = ["reg", "query", r"HKLM\SOFTWARE\Wardring", "/v", "OrderedRestartOf"];
    let ordered = async {
        while prefix.wine(query).is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ordered).await.unwrap();
    drop(agent);

    // Windows finishes the removal while it starts.
    let restarted = tokio::task::spawn_blocking(move || {
        prefix.wine(["reg", "delete", &format!(r"HKLM\{CBS}\Packages\{ROLLUP}"), "/f"])?;
        prefix.set(CURRENT_VERSION, "UBR", "REG_DWORD", "2700")?;
        fake.set_world(&json!({ "updates": [] }))?;
        prefix.restart()?;
        anyhow::Ok(prefix)
    });
    let prefix = restarted.await.unwrap().unwrap();
    let agent = start(&prefix, &gateway);
    let ended = |seen: &Seen| !seen.outcomes.is_empty();
    let seen = gateway.wait_for("srv-1", "an outcome", ended).await;
    let outcome = &seen.outcomes[0];
    assert_eq!(outcome.result, OutcomeResult::RolledBack, "{}", outcome.message);
    assert_eq!((outcome.build.as_str(), outcome.reboots), ("20348.2700", 1));
    assert_eq!(removals(&prefix), 1);
    drop(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_for_good_is_said_before_anything_is_touched() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let made = tokio::task::spawn_blocking(|| {
        let (prefix, _) = server()?;
        let key = format!(r"{CBS}\Packages\{ROLLUP}");
        prefix.set(&key, "CurrentState", "REG_DWORD", "0x80")?;
        anyhow::Ok(prefix)
    });
    let prefix = made.await.unwrap().unwrap();
    let agent = start(&prefix, &gateway);
    gateway.wait_for("srv-1", "a run", |seen| !seen.runs.is_empty()).await;
    gateway.give("srv-1", rollback(1));
    let seen = gateway.wait_for("srv-1", "an outcome", |seen| !seen.outcomes.is_empty()).await;
    assert_eq!(seen.outcomes[0].result, OutcomeResult::NotReversible);
    assert_eq!((seen.granted.len(), removals(&prefix)), (0, 0));
    drop(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_outlives_a_killed_agent_is_waited_for_and_not_begun_beside_itself() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let made = tokio::task::spawn_blocking(|| {
        let (prefix, fake) = server()?;
        prefix.set(DISM, "TakesMs", "REG_DWORD", "600000")?;
        anyhow::Ok((prefix, fake))
    });
    let (prefix, _fake) = made.await.unwrap().unwrap();
    let agent = start(&prefix, &gateway);
    gateway.wait_for("srv-1", "a run", |seen| !seen.runs.is_empty()).await;
    gateway.give("srv-1", rollback(1));
    // Which process removes stands there once it was set going, and not before.
    let noted = ["reg", "query", r"HKLM\SOFTWARE\Wardring\Boot", "/v", "Removal"];
    let removes = async {
        while removals(&prefix) == 0 || prefix.wine(noted).is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), removes).await.expect("DISM runs");
    drop(agent);

    // Longer than a permit lives: it goes back, and is asked for anew.
    let before = gateway.seen("srv-1").granted.len();
    let agent = start(&prefix, &gateway);
    gateway.wait_for("srv-1", "two permits", |seen| seen.granted.len() >= before + 2).await;
    let second = async {
        while removals(&prefix) == 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let second = tokio::time::timeout(Duration::from_secs(5), second).await;
    assert!(second.is_err(), "another DISM was begun beside the first");

    prefix.set(DISM, "TakesMs", "REG_DWORD", "0").unwrap();
    let asked = |seen: &Seen| seen.granted.contains(&Step::Reboot);
    let seen = gateway.wait_for("srv-1", "a permit to restart", asked).await;
    assert_eq!((seen.outcomes.len(), removals(&prefix)), (0, 1), "what the first did is found");
    drop(agent);
}
