//! Health after an update, by the Windows build of the agent under Wine: services of their own program,
//! which die, flap or refuse, under the names that people know.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use serde_json::json;
use wardring_protocol::HealthFact;
use wardring_seal::{JobPayload, OutcomeResult, UnlistedServices};
use wardring_wine_tests::rig::{Rig, behaves, serve, stands, world};

const AGENT: &str = r"C:\wardring\wardring-agent.exe";

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stops_by_design_is_left_one_that_dies_is_restarted_and_one_that_flaps_fails()
 {
    let quick = json!({"install": {"hangs": true, "needsReboot": false}});
    let mut rig = Rig::new(world(&quick)).await;
    serve(&rig.prefix, "wuauserv", "demand");
    let trigger = r"SYSTEM\CurrentControlSet\Services\wuauserv\TriggerInfo\0";
    rig.prefix.set(trigger, "Action", "REG_DWORD", "1").unwrap();
    serve(&rig.prefix, "Spooler", "auto");
    let watched = |job: &mut JobPayload| {
        job.health.services = vec!["wuauserv".to_owned(), "Spooler".to_owned()];
    };

    rig.give(None, watched);
    rig.called("Install", 1).await;
    behaves(&rig.prefix, "wuauserv", "CrashMs", "1");
    rig.fake.end_installations().unwrap();
    let outcome = rig.outcome().await;
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    assert!(stands(&rig.prefix, "wuauserv").contains("STOPPED"), "nobody starts it");
    assert!(stands(&rig.prefix, "Spooler").contains("RUNNING"));

    rig.give(Some(&world(&quick)), watched);
    rig.called("Install", 2).await;
    behaves(&rig.prefix, "Spooler", "CrashMs", "1");
    rig.fake.end_installations().unwrap();
    let outcome = rig.outcome().await;
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    assert!(stands(&rig.prefix, "Spooler").contains("RUNNING"), "it was restarted");
    // From the proof on the device tells that it is looked at for this rollout; nothing is found so far.
    let seen = rig.gateway.wait_for("srv-1", "to be looked at", |seen| {
        let mut health = seen.facts.iter().flat_map(|facts| &facts.health);
        health.any(|since| since.rollout_uid == "rollout-2")
    });
    let facts = seen.await.facts.unwrap();
    let well =
        |since: &HealthFact| !since.blind && !since.names_nothing && since.unhealthy.is_empty();
    assert!(facts.health.iter().all(well), "{:?}", facts.health);
    let told = rig.prefix.wine([AGENT, "status", "--data-dir", r"C:\wardring\data"]).unwrap();
    let line = told.lines().find(|line| line.starts_with("looked at")).unwrap_or_default();
    let says = |words: &str| line.contains(words);
    assert!(says("wuauserv, Spooler, after an installation, until 20"), "{told}");
    assert!(line.ends_with(": as before it"), "{told}");

    // Looks that meet it between two of its processes see it stopped, and cost an attempt: where that
    // happens too often, it is down instead, and another job tries again.
    for number in 3.. {
        rig.prefix.start_service("Spooler").unwrap();
        rig.give(Some(&world(&quick)), |job| {
            watched(job);
            job.health.restart_attempts = 2;
            job.health.sample_interval_ms = 4_000;
        });
        rig.called("Install", number).await;
        behaves(&rig.prefix, "Spooler", "Flap", "1");
        behaves(&rig.prefix, "Spooler", "CrashMs", "6000");
        rig.fake.end_installations().unwrap();
        let outcome = rig.outcome().await;
        let found = (outcome.result, outcome.reason.as_deref());
        assert_eq!(found, (OutcomeResult::Failed, Some("ServiceDown")), "{}", outcome.message);
        assert!(outcome.message.contains("Spooler"), "{}", outcome.message);
        if outcome.message.contains("it starts again and again") {
            break;
        }
        assert!(number < 12, "{}", outcome.message);
        behaves(&rig.prefix, "Spooler", "CrashMs", "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_nobody_named_and_that_dies_is_told_and_where_that_is_asked_mended_or_blamed()
 {
    let quick = json!({"install": {"hangs": true, "needsReboot": false}});
    let mut rig = Rig::new(world(&quick)).await;
    serve(&rig.prefix, "Orders", "auto");
    serve(&rig.prefix, "Helper", "demand");
    let judged = |job: &mut JobPayload| job.health.unlisted = UnlistedServices::Judge;

    rig.give(None, |_| {});
    rig.called("Install", 1).await;
    behaves(&rig.prefix, "Orders", "CrashMs", "1");
    behaves(&rig.prefix, "Helper", "CrashMs", "1");
    rig.fake.end_installations().unwrap();
    let outcome = rig.outcome().await;
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    let changes = rig.gateway.seen("srv-1").progress.unwrap().changes;
    let told = "service Orders: Running, now Stopped (error 1067)".to_owned();
    assert!(changes.contains(&told), "{changes:?}");
    assert!(!changes.concat().contains("Helper"), "nobody but people starts it: {changes:?}");
    assert!(stands(&rig.prefix, "Orders").contains("STOPPED"), "it is told, and left");

    rig.prefix.start_service("Orders").unwrap();
    rig.give(Some(&world(&quick)), judged);
    rig.called("Install", 2).await;
    behaves(&rig.prefix, "Orders", "CrashMs", "1");
    rig.fake.end_installations().unwrap();
    let outcome = rig.outcome().await;
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    assert!(stands(&rig.prefix, "Orders").contains("RUNNING"), "it was restarted");

    rig.give(Some(&world(&json!({"install": {"needsReboot": true}}))), judged);
    rig.called("Commit", 1).await;
    behaves(&rig.prefix, "Orders", "Refuse", "42");
    let rig = rig.restart("2701").await;
    let outcome = rig.outcome().await;
    let found = (outcome.result, outcome.reason.as_deref());
    assert_eq!(found, (OutcomeResult::Failed, Some("ServiceDown")), "{}", outcome.message);
    assert!(outcome.message.contains("Orders"), "{}", outcome.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_guide_a_database_that_must_run_a_spooler_left_off_and_updates_on_demand()
 {
    let quick = json!({"install": {"hangs": true, "needsReboot": false}});
    let mut rig = Rig::new(world(&quick)).await;
    serve(&rig.prefix, "MSSQLSERVER", "auto");
    // Somebody stopped it on this server, though it starts with Windows.
    serve(&rig.prefix, "Spooler", "auto");
    rig.prefix.stop_service("Spooler").unwrap();
    // It runs while there is work, and stops by itself.
    serve(&rig.prefix, "wuauserv", "demand");
    let trigger = r"SYSTEM\CurrentControlSet\Services\wuauserv\TriggerInfo\0";
    rig.prefix.set(trigger, "Action", "REG_DWORD", "1").unwrap();
    let watched = |job: &mut JobPayload| {
        job.health.services = ["MSSQLSERVER", "Spooler", "wuauserv"].map(str::to_owned).to_vec();
        job.health.unlisted = UnlistedServices::Judge;
    };

    rig.give(None, watched);
    rig.called("Install", 1).await;
    rig.prefix.stop_service("wuauserv").unwrap();
    behaves(&rig.prefix, "MSSQLSERVER", "Refuse", "42");
    behaves(&rig.prefix, "MSSQLSERVER", "CrashMs", "1");
    rig.fake.end_installations().unwrap();
    let outcome = rig.outcome().await;
    let found = (outcome.result, outcome.reason.as_deref());
    assert_eq!(found, (OutcomeResult::Failed, Some("ServiceDown")), "{}", outcome.message);
    let said = &outcome.message;
    assert!(said.starts_with("not healthy after 2 restart attempts: MSSQLSERVER ("), "{said}");
    assert!(!said.contains("Spooler") && !said.contains("wuauserv"), "{said}");
    for name in ["Spooler", "wuauserv"] {
        assert!(stands(&rig.prefix, name).contains("STOPPED"), "nobody starts {name}");
    }

    behaves(&rig.prefix, "MSSQLSERVER", "Refuse", "0");
    rig.prefix.start_service("MSSQLSERVER").unwrap();
    rig.give(Some(&world(&quick)), watched);
    rig.called("Install", 2).await;
    behaves(&rig.prefix, "MSSQLSERVER", "CrashMs", "1");
    rig.fake.end_installations().unwrap();
    let outcome = rig.outcome().await;
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    assert!(stands(&rig.prefix, "MSSQLSERVER").contains("RUNNING"), "it was restarted");
}
