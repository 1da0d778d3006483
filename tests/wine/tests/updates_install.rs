//! Whole jobs of the Windows build of the agent under Wine, over the COM interfaces of Windows
//! Update: what is installed once, what is never begun, and what is told of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use serde_json::{Value, json};
use wardring_protocol::Step;
use wardring_seal::{Action, OutcomeResult, UpdateKind, UpdateSource, UpdateTarget};
use wardring_wine_tests::fakewua::in_ms;
use wardring_wine_tests::gateway::Seen;
use wardring_wine_tests::rig::{ID, Rig, world};

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

    let rig = rig.restart("2762").await;
    let outcome = rig.outcome().await;
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    assert_ne!(outcome.installed_in_boot.as_ref(), Some(&outcome.boot_id));
    assert_eq!((outcome.build.as_str(), outcome.reboots), ("20348.2762", 1));
    assert_eq!((rig.installs(), rig.fake.calls("Commit").len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_was_downloaded_ahead_is_installed_later_without_another_download() {
    let mut rig =
        Rig::new(world(&json!({"install": {"takesMs": 300, "needsReboot": false}}))).await;
    rig.give(None, |job| job.key.action = Action::Download);
    let outcome = rig.outcome().await;
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    assert_eq!((rig.fake.calls("Download").len(), rig.installs()), (1, 0));
    assert!(rig.gateway.seen("srv-1").granted.is_empty(), "nothing that a person would notice");

    rig.give(None, |_| {});
    let outcome = rig.outcome().await;
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    assert_eq!((rig.fake.calls("Download").len(), rig.installs()), (1, 1));
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
async fn an_update_that_must_be_alone_is_installed_in_a_call_of_its_own_beside_another_one() {
    let update = |number: u32, is_exclusive: bool| {
        json!({"id": format!("aaaaaaaa-0000-0000-0000-00000000000{number}"), "revision": 1,
               "kbs": [format!("506000{number}")], "isExclusive": is_exclusive})
    };
    let world = json!({"updates": [update(1, false), update(2, true), update(3, false)]});
    let mut rig = Rig::new(world).await;
    rig.give(None, |job| {
        let target = |kb: &str| UpdateTarget { kb: kb.to_owned(), ..job.updates[0].clone() };
        job.updates = ["KB5060001", "KB5060002", "KB5060003"].map(target).to_vec();
    });
    let outcome = rig.outcome().await;
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    let calls = rig.fake.calls("Install");
    let ends: Vec<char> =
        calls.iter().filter_map(|call| call["update"].as_str()?.chars().last()).collect();
    assert_eq!(ends, ['1', '2', '3'], "one update per call: {calls:?}");
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
