//! Windows Update as the Windows build of the agent sees it through COM, under Wine.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use jiff::SignedDuration;
use serde_json::{Value, json};
use wardring_protocol::{Offered, RebootBehavior};
use wardring_wine_tests::fakewua::FakeWua;
use wardring_wine_tests::gateway::{Seen, TestGateway};
use wardring_wine_tests::prefix::{Agent, Prefix, build_agent};

const POLICY: &str = r"SOFTWARE\Policies\Microsoft\Windows\WindowsUpdate";

fn start(prefix: &Prefix, gateway: &TestGateway) -> Agent {
    let (url, token) = (gateway.url(), gateway.token.reveal());
    let fixed = ["--name", "srv-1", "--data-dir", r"C:\wardring\data", "--poll-wait", "5"];
    let given = ["run", "--gateway", &url, "--token", &token];
    prefix.start_agent(given.into_iter().chain(fixed)).unwrap()
}

async fn device(world: Value) -> (Prefix, FakeWua) {
    let made = tokio::task::spawn_blocking(move || {
        let prefix = Prefix::create(&build_agent()?)?;
        let fake = FakeWua::install(&prefix, &world)?;
        anyhow::Ok((prefix, fake))
    });
    made.await.unwrap().unwrap()
}

fn world() -> Value {
    let definitions = "E0789628-CE08-4437-BE74-2495B842F43B";
    let security = "0FA1201D-4330-4FA8-8AE9-B877473B6441";
    json!({
        "updates": [
            {"id": "AAAAAAAA-0000-0000-0000-000000000001", "revision": 200, "kbs": ["5068787"],
             "title": "2026-11 Kumulatives Update für Windows Server (KB5068787) (20348.2762)",
             "severity": "Critical", "size": 734_003_200_u64, "changed": 46_000.0,
             "categories": [security], "isUninstallable": true, "rebootBehavior": 1},
            {"id": "aaaaaaaa-0000-0000-0000-000000000002", "revision": 1, "kbs": ["5060000"],
             "isInstalled": true, "changed": 45_900.0},
            {"id": "aaaaaaaa-0000-0000-0000-000000000003", "revision": 1, "kbs": ["5061000"],
             "isInstalled": true, "changed": 45_950.0},
            {"id": "aaaaaaaa-0000-0000-0000-000000000004", "revision": 1, "kbs": ["5062000"]},
            {"id": "aaaaaaaa-0000-0000-0000-000000000005", "revision": 7, "kbs": ["2267602"],
             "categories": [definitions]},
            {"id": "aaaaaaaa-0000-0000-0000-000000000006", "revision": 1, "kbs": ["5063000"],
             "isHidden": true},
            {"id": "aaaaaaaa-0000-0000-0000-000000000007", "revision": 1, "kbs": ["5064000"],
             "isDriver": true},
        ],
        "history": [
            {"id": "aaaaaaaa-0000-0000-0000-000000000002", "revision": 1, "operation": 1, "code": 2,
             "hresult": "0x00000000", "date": 45_901.0},
            {"id": "aaaaaaaa-0000-0000-0000-000000000004", "revision": 1, "operation": 1, "code": 4,
             "hresult": "0x80070643", "date": 45_960.0},
        ],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn in_observe_mode_the_agent_reports_what_windows_update_says_and_touches_nothing() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let (prefix, fake) = device(world()).await;
    let prefix = tokio::task::spawn_blocking(move || {
        prefix.set(POLICY, "WUServer", "REG_SZ", "http://wsus.corp:8530")?;
        prefix.set(&format!(r"{POLICY}\AU"), "UseWUServer", "REG_DWORD", "1")?;
        prefix.set(&format!(r"{POLICY}\AU"), "AUOptions", "REG_DWORD", "4")?;
        anyhow::Ok(prefix)
    });
    let prefix = prefix.await.unwrap().unwrap();

    let agent = start(&prefix, &gateway);
    let has_scan = |seen: &Seen| seen.facts.as_ref().is_some_and(|facts| facts.last_scan.is_some());
    let seen = gateway.wait_for("srv-1", "a scan", has_scan).await;
    let facts = seen.facts.unwrap();
    let scan = facts.last_scan.unwrap();
    assert_eq!(
        (scan.source.as_str(), scan.result.as_str()),
        ("WSUS http://wsus.corp:8530", "0x00000000")
    );
    assert_eq!(facts.missing, ["KB5068787", "KB5062000"]);
    let cumulative = Offered {
        kb: "KB5068787".to_owned(),
        classification: Some("Security Updates".to_owned()),
        msrc_severity: Some("Critical".to_owned()),
        size_bytes: 734_003_200,
        uninstallable: true,
        reboot: RebootBehavior::Always,
        released: Some("2025-12-09T00:00:00Z".parse().unwrap()),
    };
    assert_eq!(facts.offered[0], cumulative);
    let silent = &facts.offered[1];
    assert_eq!((silent.kb.as_str(), silent.reboot), ("KB5062000", RebootBehavior::Never));
    assert_eq!((&silent.classification, silent.released), (&None, None));
    assert_eq!(facts.installed, ["KB5061000", "KB5060000"], "newest first");
    assert_eq!(facts.failed, ["KB5062000"]);
    assert!(
        facts.other_patch_sources.iter().any(|other| other.contains("AUOptions 4")),
        "{:?}",
        facts.other_patch_sources
    );

    // A new run of the agent has it from the file, and asks the source no second time.
    drop(agent);
    let agent = start(&prefix, &gateway);
    gateway.wait_for("srv-1", "a second run", |seen| seen.runs.len() == 2).await;
    let seen = gateway.wait_for("srv-1", "a scan", has_scan).await;
    assert_eq!(seen.facts.unwrap().missing, ["KB5068787", "KB5062000"]);
    assert_eq!(fake.calls("SearchOnline").len(), 1);
    for act in ["Install", "Download", "AcceptEula", "Hide", "Commit"] {
        assert_eq!(fake.calls(act), Vec::<Value>::new());
    }
    drop(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_does_not_answer_is_reported_with_its_code() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let mut silent = world();
    silent["searchFails"] = json!("0x8024402C");
    let (prefix, fake) = device(silent).await;

    let agent = start(&prefix, &gateway);
    let failed = gateway.wait_for("srv-1", "a failed scan", |seen| {
        let scan = seen.facts.as_ref().and_then(|facts| facts.last_scan.as_ref());
        scan.is_some_and(|scan| scan.result == "0x8024402C")
    });
    let facts = failed.await.facts.unwrap();
    assert_eq!(facts.missing, Vec::<String>::new());
    assert_eq!(fake.calls("SearchOnline").len(), 1, "it is asked again later, not at once");
    drop(agent);
    drop(prefix);
}
