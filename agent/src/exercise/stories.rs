//! Exercises on the scripted Windows, through driver, journal and restarts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::path::Path;
use std::sync::Arc;

use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::sync::watch;
use wardring_seal::{OutcomeResult, UpdateKind, UpdateTarget};

use super::record::BEGINS_WITHIN;
use super::{Chosen, Paused, Record, Restarts, Wish, conduct};
use crate::journal::{Durability, Journal, Loaded};
use crate::platform::scripted::{Scripted, World};
use crate::platform::{Machine, wall_clock};

const KB: &str = "KB5068787";

struct Rig {
    folder: tempfile::TempDir,
    device: Arc<Scripted>,
    record: Record,
    chosen: Chosen,
}

impl Rig {
    fn new(effects: Value, restarts: Restarts) -> Rig {
        Rig::switched_off(effects, restarts, Value::Null)
    }

    /// One that somebody switches off in the middle.
    fn switched_off(effects: Value, restarts: Restarts, switched_off: Value) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let world: World = serde_json::from_value(json!({
            "product": "Windows Server 2022", "build": "20348.2700", "rebootMs": 20,
            "services": {"RpcSs": "Running", "EventLog": "Running"},
            "updates": [{"kb": KB, "targetBuild": "20348.2762", "installMs": 10, "effects": effects}],
            "switchedOff": switched_off,
        }))
        .unwrap();
        let device = Scripted::open("exercise", Arc::new(world), folder.path()).unwrap();
        let wish = Wish { kb: None, restarts, settle_ms: 20, countdown_ms: 10 };
        let mut record = Record::begin("e1".to_owned(), wish, wall_clock());
        record.build_before = device.build();
        let target = UpdateTarget {
            kb: KB.to_owned(),
            product: String::new(),
            kind: UpdateKind::Quality,
            target_build: Some("20348.2762".to_owned()),
            identities: Vec::new(),
            package: None,
        };
        let chosen = Chosen { target, title: KB.to_owned(), size_bytes: 1 };
        Rig { folder, device: Arc::new(device), record, chosen }
    }

    /// One life of the program in one boot.
    async fn one_run(&mut self, forbidden: Option<&'static str>) -> Paused {
        self.device.up().await;
        // As a service that starts anew: from the file.
        self.record.save(self.folder.path()).unwrap();
        self.record = Record::load(self.folder.path()).unwrap().unwrap();
        let (_stop, stopped) = watch::channel(false);
        let forbidden = move || forbidden.map(str::to_owned);
        let (folder, device) = (self.folder.path(), Arc::clone(&self.device));
        let done = conduct(folder, &mut self.record, &self.chosen, device, forbidden, stopped);
        done.await.unwrap()
    }

    async fn finish(&mut self) -> u32 {
        let mut downs = 0;
        while self.one_run(None).await == Paused::DeviceDown {
            downs += 1;
        }
        downs
    }

    fn results(&self) -> [Option<OutcomeResult>; 2] {
        [&self.record.install, &self.record.removal]
            .map(|ran| ran.as_ref().and_then(|ran| Some(ran.outcome.as_ref()?.result)))
    }
}

fn has_job(folder: &Path) -> bool {
    match Journal::new(folder, Durability::Disk).load() {
        Loaded::Found(saved) => saved.state.job.is_some(),
        _ => false,
    }
}

#[tokio::test]
async fn an_update_is_installed_proven_and_removed_again_over_its_restarts() {
    let mut rig = Rig::new(json!({}), Restarts::Allowed);
    assert_eq!(rig.finish().await, 2);
    assert_eq!(rig.results(), [Some(OutcomeResult::Succeeded), Some(OutcomeResult::RolledBack)]);
    assert_eq!(rig.device.build(), "20348.2700");
    let boots = |ran: &Option<super::Ran>| ran.as_ref().unwrap().boots.len();
    assert_eq!((boots(&rig.record.install), boots(&rig.record.removal)), (1, 1));
    assert_eq!(rig.record.over.as_deref(), Some("both jobs are done"));
    // Over is over.
    assert_eq!(rig.one_run(None).await, Paused::Over);
    assert_eq!(rig.device.build(), "20348.2700");
}

#[tokio::test]
async fn what_windows_takes_back_by_itself_is_told_and_nothing_of_it_stays() {
    let mut rig = Rig::new(json!({"revertAtBoot": true}), Restarts::Allowed);
    rig.finish().await;
    let [install, _] = rig.results();
    assert_eq!(install, Some(OutcomeResult::RevertedByWindows));
    assert_eq!(rig.device.build(), "20348.2700");
    assert!(!has_job(rig.folder.path()));
}

#[tokio::test]
async fn a_device_that_is_off_until_it_is_too_late_says_that_and_from_when_to_when() {
    let off = json!({"after": "Download", "forMs": 3_000});
    let mut rig = Rig::switched_off(json!({}), Restarts::Allowed, off);
    // The last moment to begin comes while it is off.
    rig.record.begun_at = wall_clock() - BEGINS_WITHIN + SignedDuration::from_millis(1_500);
    assert_eq!(rig.finish().await, 1);
    let install = rig.record.install.clone().unwrap();
    let outcome = install.outcome.unwrap();
    let end = (outcome.result, outcome.reason.as_deref(), outcome.started);
    assert_eq!(end, (OutcomeResult::PoweredOff, Some("PoweredOff"), false));
    let off = install.boots[0].off.unwrap();
    let told = format!("switched off from {} to {}", off.since, off.until);
    assert!(outcome.message.contains(&told), "{}", outcome.message);
    assert_eq!((rig.device.build().as_str(), rig.record.removal), ("20348.2700", None));
}

#[tokio::test]
async fn the_start_after_it_was_switched_off_is_the_restart_that_was_due() {
    let off = json!({"after": "Install", "forMs": 50});
    let mut rig = Rig::switched_off(json!({}), Restarts::Allowed, off);
    rig.finish().await;
    let install = rig.record.install.unwrap().outcome.unwrap();
    assert_eq!((install.result, install.reboots), (OutcomeResult::Succeeded, 0));
}

#[tokio::test]
async fn without_restarts_the_exercise_ends_before_the_first_one() {
    let mut rig = Rig::new(json!({}), Restarts::LeftOut);
    assert_eq!(rig.one_run(None).await, Paused::Over);
    let install = rig.record.install.clone().unwrap();
    assert_eq!((install.outcome, install.boots.len()), (None, 0));
    assert_eq!(install.results[0].operation_result_code, 2);
    assert!(rig.record.over.as_deref().unwrap().contains("waits for a restart"));
    assert_eq!(rig.record.removal, None);
}

#[tokio::test]
async fn nothing_is_begun_on_a_device_that_became_an_agents() {
    let mut rig = Rig::new(json!({}), Restarts::Allowed);
    assert_eq!(rig.one_run(Some("the agent was installed meanwhile")).await, Paused::Over);
    let [install, removal] = rig.results();
    assert_eq!((install, removal), (Some(OutcomeResult::NotStarted), None));
    assert_eq!(rig.device.build(), "20348.2700");
    assert_eq!(rig.record.over.as_deref(), Some("the installation did not begin"));
}
