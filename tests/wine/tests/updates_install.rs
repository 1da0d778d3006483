//! Whole jobs of the Windows build of the agent under Wine, over the COM interfaces of Windows
//! Update: what is installed once, what is never begun, and what is told of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Value, json};
use wardring_protocol::Step;
use wardring_seal::{
    Action, JobPayload, OutcomePayload, OutcomeResult, UpdateKind, UpdateSource, UpdateTarget,
};
use wardring_wine_tests::fakewua::{FakeWua, in_ms};
use wardring_wine_tests::gateway::{Seen, TestGateway};
use wardring_wine_tests::jobs::job;
use wardring_wine_tests::prefix::{Agent, Prefix, build_agent};
use wardring_wine_tests::programs::compile;

const CURRENT_VERSION: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
const ID: &str = "aaaaaaaa-0000-0000-0000-000000000001";

/// A device with its Windows Update, its gateway and its agent.
struct Rig {
    gateway: TestGateway,
    prefix: Prefix,
    fake: FakeWua,
    agent: Option<Agent>,
    jobs: i64,
}

impl Rig {
    async fn new(world: Value) -> Rig {
        let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
        let made = tokio::task::spawn_blocking(move || {
            let prefix = Prefix::create(&build_agent()?)?;
            let fake = FakeWua::install(&prefix, &world)?;
            prefix.set(
                CURRENT_VERSION,
                "ProductName",
                "REG_SZ",
                "Windows Server 2022 Datacenter",
            )?;
            prefix.set(CURRENT_VERSION, "InstallationType", "REG_SZ", "Server")?;
            prefix.set(CURRENT_VERSION, "CurrentBuild", "REG_SZ", "20348")?;
            prefix.set(CURRENT_VERSION, "UBR", "REG_DWORD", "2700")?;
            anyhow::Ok((prefix, fake))
        });
        let (prefix, fake) = made.await.unwrap().unwrap();
        let mut rig = Rig { gateway, prefix, fake, agent: None, jobs: 0 };
        rig.start().await;
        rig
    }

    /// Starts the agent, and waits until it polls.
    async fn start(&mut self) {
        let (url, token) = (self.gateway.url(), self.gateway.token.reveal());
        let fixed = ["--name", "srv-1", "--data-dir", r"C:\wardring\data", "--poll-wait", "5"];
        let given = ["run", "--gateway", &url, "--token", &token];
        let runs = self.gateway.seen("srv-1").runs.len();
        self.agent = Some(self.prefix.start_agent(given.into_iter().chain(fixed)).unwrap());
        self.gateway.wait_for("srv-1", "a run", |seen| seen.runs.len() > runs).await;
    }

    /// Ends the agent in the middle of whatever it does.
    fn kill(&mut self) {
        self.agent = None;
    }

    /// Makes the world this one and gives a job of a rollout of its own.
    fn give(&mut self, world: Option<&Value>, change: impl FnOnce(&mut JobPayload)) {
        if let Some(world) = world {
            self.fake.set_world(world).unwrap();
        }
        self.jobs += 1;
        let mut job = job(self.jobs, Action::Install);
        job.key.rollout_uid = format!("rollout-{}", self.jobs);
        job.updates[0].kind = UpdateKind::Other;
        job.updates[0].target_build = None;
        job.health.services.clear();
        change(&mut job);
        self.gateway.give("srv-1", job);
    }

    /// The outcome of the newest job.
    async fn outcome(&self) -> OutcomePayload {
        let attempt = u32::try_from(self.jobs).unwrap();
        let find = |outcomes: &[OutcomePayload]| {
            outcomes.iter().find(|outcome| outcome.key.attempt == attempt).cloned()
        };
        let ended =
            self.gateway.wait_for("srv-1", "an outcome", |seen| find(&seen.outcomes).is_some());
        find(&ended.await.outcomes).unwrap()
    }

    fn installs(&self) -> usize {
        self.fake.calls("Install").len()
    }

    /// Waits until Windows Update was called so many times.
    async fn called(&self, name: &str, times: usize) {
        let called = async {
            while self.fake.calls(name).len() < times {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), called).await.unwrap();
    }
}

fn world(update: &Value) -> Value {
    let mut whole = json!({
        "id": ID, "revision": 200, "title": "Update (KB5068787)", "kbs": ["5068787"],
    });
    for (name, value) in update.as_object().unwrap() {
        whole[name] = value.clone();
    }
    json!({ "updates": [whole] })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_downloaded_installed_once_and_proven_after_the_restart() {
    let mut rig = Rig::new(world(&json!({"install": {"takesMs": 300, "needsReboot": true}}))).await;
    rig.give(None, |job| {
        job.updates[0].kind = UpdateKind::Quality;
        job.updates[0].target_build = Some("20348.2762".to_owned());
    });

    // The installations of the boot are committed right before the restart, which Wine only accepts.
    rig.called("Commit", 1).await;
    assert!(rig.gateway.seen("srv-1").granted.contains(&Step::Reboot));
    assert_eq!((rig.fake.calls("Download").len(), rig.installs()), (1, 1));
    let client = rig.fake.calls("Install")[0]["client"].as_str().unwrap().to_owned();
    assert!(client.starts_with("Wardring-"), "{client}");

    rig.kill();
    let Rig { gateway, prefix, fake, jobs, .. } = rig;
    let (prefix, fake) = tokio::task::spawn_blocking(move || {
        fake.finish_at_boot()?;
        prefix.set(CURRENT_VERSION, "UBR", "REG_DWORD", "2762")?;
        prefix.restart()?;
        anyhow::Ok((prefix, fake))
    })
    .await
    .unwrap()
    .unwrap();
    let mut rig = Rig { gateway, prefix, fake, agent: None, jobs };
    rig.start().await;
    let outcome = rig.outcome().await;
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    assert_ne!(outcome.installed_in_boot.as_ref(), Some(&outcome.boot_id));
    assert_eq!((outcome.build.as_str(), outcome.reboots), ("20348.2762", 1));
    assert_eq!((rig.installs(), rig.fake.calls("Commit").len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_of_windows_under_the_number_of_a_quality_update_is_not_begun() {
    const UPGRADES: &str = "3689BDC8-B205-4AF4-8D4A-A63924C5E9D5";
    let upgrade = json!({"title": "Windows Server 2025", "categories": [UPGRADES]});
    let mut rig = Rig::new(world(&upgrade)).await;
    rig.give(None, |job| job.updates[0].kind = UpdateKind::Quality);
    let outcome = rig.outcome().await;
    assert_eq!(outcome.result, OutcomeResult::Failed);
    assert_eq!(outcome.reason.as_deref(), Some("FeatureUpgrade"), "{}", outcome.message);
    assert!(outcome.message.contains("classifies"), "{}", outcome.message);
    assert_eq!((rig.fake.calls("Download").len(), rig.installs()), (0, 0));

    // Beside it stands what was meant: that alone is installed.
    let meant = "aaaaaaaa-0000-0000-0000-000000000002";
    let mut both = world(&upgrade);
    let quality =
        json!({"id": meant, "revision": 1, "title": "2026-11 (20348.2762)", "kbs": ["5068787"]});
    both["updates"].as_array_mut().unwrap().push(quality);
    rig.give(Some(&both), |job| job.updates[0].kind = UpdateKind::Quality);
    let outcome = rig.outcome().await;
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    let installs = rig.fake.calls("Install");
    assert_eq!(installs.len(), 1);
    assert!(installs[0].to_string().contains(meant), "{}", installs[0]);

    // Named for what it is, it is installed.
    rig.give(Some(&world(&upgrade)), |job| job.updates[0].kind = UpdateKind::FeatureUpdate);
    let outcome = rig.outcome().await;
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    assert_eq!(rig.installs(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_of_an_installation_is_told_apart_and_none_begins_twice() {
    let mut rig = Rig::new(json!({ "updates": [] })).await;

    rig.give(None, |_| {});
    assert_eq!(rig.outcome().await.result, OutcomeResult::NotOffered);

    rig.give(Some(&world(&json!({"isInstalled": true}))), |_| {});
    assert_eq!(rig.outcome().await.result, OutcomeResult::AlreadyInstalled);

    // A source that the device does not have yet is registered for the job that names it.
    rig.give(None, |job| job.source = UpdateSource::MicrosoftUpdate);
    assert_eq!(rig.outcome().await.result, OutcomeResult::AlreadyInstalled);
    assert_eq!(rig.fake.calls("AddService2 7").len(), 1);

    let newer = json!({"updates": [
        {"id": "aaaaaaaa-0000-0000-0000-000000000002", "revision": 1, "kbs": ["5070000"],
         "title": "Newer", "supersedes": [ID]},
    ]});
    rig.give(Some(&newer), |job| job.updates[0].identities = vec![format!("{ID}/200")]);
    assert_eq!(rig.outcome().await.result, OutcomeResult::Superseded);

    rig.give(Some(&world(&json!({}))), |job| {
        job.updates[0].identities = vec![format!("{ID}/199")];
    });
    assert_eq!(rig.outcome().await.result, OutcomeResult::NotOffered, "another revision");

    rig.give(Some(&world(&json!({"needsEula": true}))), |_| {});
    // No other try would accept the terms, so there is none.
    let outcome = rig.outcome().await;
    assert_eq!(outcome.reason.as_deref(), Some("DownloadFailed"));
    assert!(outcome.message.contains("0x80240023"), "{}", outcome.message);
    assert_eq!((rig.installs(), rig.fake.calls("AcceptEula").len()), (0, 0));

    rig.give(Some(&world(&json!({"needsEula": true}))), |job| job.accept_eula = true);
    let outcome = rig.outcome().await;
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    assert_eq!((rig.installs(), rig.fake.calls("AcceptEula").len()), (1, 1));

    rig.give(Some(&world(&json!({"install": {"fails": "0x80070643"}}))), |_| {});
    let outcome = rig.outcome().await;
    assert_eq!(outcome.result, OutcomeResult::Failed);
    assert!(outcome.message.contains("0x80070643"), "{}", outcome.message);
    assert_eq!(rig.installs(), 2);

    let mut busy = world(&json!({}));
    busy["busyUntil"] = json!(in_ms(3_000));
    rig.give(Some(&busy), |job| job.health.sample_interval_ms = 500);
    let outcome = rig.outcome().await;
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    assert_eq!(rig.installs(), 3);

    // The agent dies in the middle; what it began goes on without it and is found, not repeated.
    rig.give(Some(&world(&json!({"install": {"takesMs": 4_000}}))), |_| {});
    rig.called("Install", 4).await;
    rig.kill();
    rig.start().await;
    let outcome = rig.outcome().await;
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    assert_eq!(rig.installs(), 4);

    // One that hangs keeps nobody from reporting, and a new run of the agent begins it no second
    // time either.
    rig.give(Some(&world(&json!({"install": {"hangs": true}}))), |_| {});
    rig.called("Install", 5).await;
    rig.kill();
    rig.start().await;
    let highest = rig.gateway.seen("srv-1").highest;
    rig.gateway.wait_for("srv-1", "a report", |seen| seen.highest > highest).await;
    assert_eq!(rig.installs(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_failures_the_one_that_may_pass_is_tried_again_and_the_other_one_is_not() {
    let update = |number: u32, install: Value| {
        json!({"id": format!("aaaaaaaa-0000-0000-0000-00000000000{number}"), "revision": 1,
               "kbs": [format!("506000{number}")], "install": install})
    };
    let busy = json!({"fails": "0x80070020", "failsLeft": 1});
    let world = json!({"updates": [update(1, busy), update(2, json!({"fails": "0x8024200B"}))]});
    let mut rig = Rig::new(world).await;
    rig.give(None, |job| {
        let target = |kb: &str| UpdateTarget { kb: kb.to_owned(), ..job.updates[0].clone() };
        job.updates = vec![target("KB5060001"), target("KB5060002")];
    });

    let waits = |seen: &Seen| {
        let message = seen.progress.as_ref().map_or("", |progress| progress.message.as_str());
        message.starts_with("in 1 min again: KB5060001 failed with 0x80070020")
    };
    rig.gateway.wait_for("srv-1", "the pause before the next try", waits).await;
    assert_eq!(rig.installs(), 1);
    // A new run of the agent asks for a permit and goes on with the next try.
    rig.kill();
    rig.start().await;
    let outcome = rig.outcome().await;
    assert_eq!(outcome.result, OutcomeResult::Failed);
    assert!(outcome.message.starts_with("KB5060002 failed with 0x8024200B"), "{}", outcome.message);
    let began: Vec<Value> = rig.fake.calls("Install");
    let ids: Vec<&str> = began.iter().map(|call| call["update"].as_str().unwrap()).collect();
    assert_eq!(ids.iter().filter(|id| id.ends_with('1')).count(), 2, "{ids:?}");
    assert_eq!(ids.iter().filter(|id| id.ends_with('2')).count(), 1, "{ids:?}");
    assert_ne!(began[0]["client"], began[1]["client"], "each try has a name of its own");
    let world = rig.fake.world().unwrap();
    assert_eq!(world["updates"][0]["isInstalled"], json!(true));
}

/// Puts a service of the tests in the place of Windows' own and starts it.
fn replace_service(prefix: &Prefix, name: &str, start: &str) {
    let _ = prefix.wine(["sc", "delete", name]);
    let program = format!(r"C:\wardring\service.exe {name}");
    prefix.create_service(&[name, "binPath=", &program, "start=", start]).unwrap();
    prefix.wine(["sc", "start", name]).unwrap();
}

fn state(prefix: &Prefix, name: &str) -> String {
    prefix.wine(["sc", "query", name]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stops_by_design_is_left_one_that_dies_is_restarted_and_one_that_flaps_fails()
 {
    let quick = json!({"install": {"takesMs": 1500, "needsReboot": false}});
    let mut rig = Rig::new(world(&quick)).await;
    compile("service.c", &rig.prefix.drive().join("wardring/service.exe")).unwrap();
    replace_service(&rig.prefix, "wuauserv", "demand");
    let trigger = r"SYSTEM\CurrentControlSet\Services\wuauserv\TriggerInfo\0";
    rig.prefix.set(trigger, "Action", "REG_DWORD", "1").unwrap();
    replace_service(&rig.prefix, "Spooler", "auto");
    let watched = |job: &mut JobPayload| {
        job.health.services = vec!["wuauserv".to_owned(), "Spooler".to_owned()];
    };
    let crash = |prefix: &Prefix, name: &str, after_ms: &str| {
        let key = format!(r"SOFTWARE\WardringTests\{name}");
        prefix.set(&key, "CrashMs", "REG_DWORD", after_ms).unwrap();
    };

    rig.give(None, watched);
    rig.called("Install", 1).await;
    crash(&rig.prefix, "wuauserv", "1");
    let outcome = rig.outcome().await;
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    assert!(state(&rig.prefix, "wuauserv").contains("STOPPED"), "nobody starts it");
    assert!(state(&rig.prefix, "Spooler").contains("RUNNING"));

    rig.give(Some(&world(&quick)), watched);
    rig.called("Install", 2).await;
    crash(&rig.prefix, "Spooler", "1");
    let outcome = rig.outcome().await;
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    assert!(state(&rig.prefix, "Spooler").contains("RUNNING"), "it was restarted");

    rig.give(Some(&world(&quick)), |job| {
        watched(job);
        job.health.restart_attempts = 0;
        job.health.sample_interval_ms = 1_500;
    });
    rig.called("Install", 3).await;
    let key = r"SOFTWARE\WardringTests\Spooler";
    rig.prefix.set(key, "Flap", "REG_DWORD", "1").unwrap();
    crash(&rig.prefix, "Spooler", "1000");
    let outcome = rig.outcome().await;
    let found = (outcome.result, outcome.reason.as_deref());
    assert_eq!(found, (OutcomeResult::Failed, Some("ServiceDown")), "{}", outcome.message);
    assert!(outcome.message.contains("Spooler"), "{}", outcome.message);
}
