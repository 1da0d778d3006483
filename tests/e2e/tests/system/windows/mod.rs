//! Stories of the agent for Windows, end to end: its real program, installed as a service in a
//! Windows under Wine, with a Windows Update and a DISM of the test's own; real controllers and
//! gateways; and what people see of it. A restart ends that Windows and starts it again.

mod apart;
mod killed;
mod loops;
mod packages;
mod site;

use anyhow::Result;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};
use wardring_api::{
    LineState, PatchRollout, PermitStep, RolloutPhase, Update, UpdateHold, reasons::Reason,
};
use wardring_wine_tests::{
    registry::Changes,
    server::{Ends, installed, removed, service_refuses, waits_for_restart},
};

use crate::support::{
    manifests::{BUILDS, KB, PRODUCT, with},
    place::{LONG, ROLLOUT, stage_of},
    stage,
};
use site::{GROUP, LONGEST, ROLLUP, Site, UBRS, rollup};

/// An installation that asks for a restart.
fn restarts() -> Value {
    json!({ "takesMs": 300, "needsReboot": true })
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_is_patched_restarted_and_proven_and_a_service_that_stood_still_before_is_not_blamed()
-> Result<()> {
    let site = Site::open("win-clean", &[rollup(restarts())]).await?;
    site.until_reported("to report what is missing", |status| status.missing == [KB]).await?;
    site.roll_out(json!({})).await?;

    site.server.until_restarts_ordered(1).await?;
    site.server.restart(UBRS[1], Ends::Installed, installed(Changes::new(), ROLLUP))?;
    let status = site.until_phase(LONG, RolloutPhase::Completed).await?;

    assert_eq!(stage_of(&status, GROUP).counts.succeeded, 1);
    let line = site.line().await?;
    assert_eq!((line.state, line.attempt), (LineState::Succeeded, 1), "{line:?}");
    assert_eq!(site.permitted(), [PermitStep::Install, PermitStep::Reboot]);
    assert_eq!((site.installs(), site.server.updates.calls("Commit").len()), (1, 1));
    assert!(site.a_job_told(&format!("build: {}, now {}", BUILDS[0], BUILDS[1])));
    assert!(!site.a_job_told("Reports"), "it stood still before");
    site.until_reported("to report the new build", |status| {
        let is_new = status.os.as_ref().is_some_and(|os| os.build == BUILDS[1]);
        let runs = |service: &wardring_api::ServiceStatus| {
            service.name == "MSSQLSERVER" && format!("{:?}", service.state) == "Running"
        };
        is_new && status.missing.is_empty() && status.services.iter().any(runs)
    })
    .await?;
    site.until_told("Completed").await
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_takes_an_update_back_after_which_a_database_does_not_start_and_hides_it()
-> Result<()> {
    let hangs = json!({ "hangs": true, "needsReboot": true });
    let site = Site::open("win-broken", &[rollup(hangs)]).await?;
    site.roll_out(json!({ "onFailure": { "action": "Rollback" } })).await?;

    site.server.until_called("Install", 1).await?;
    site.server.end_installation(ROLLUP)?;
    site.server.until_restarts_ordered(1).await?;
    let broken = service_refuses(installed(Changes::new(), ROLLUP), "MSSQLSERVER", 42);
    site.server.restart(UBRS[1], Ends::Installed, broken)?;
    // The agent restarts the service in vain, the controller halts and grants the rollback, DISM
    // removes the package; Windows finishes that while it starts.
    site.server.until_restarts_ordered(2).await?;
    let removals = site.server.removals();
    assert_eq!(removals.len(), 1, "{removals:?}");
    assert!(removals[0].contains(ROLLUP), "{removals:?}");
    let mended = service_refuses(removed(Changes::new(), ROLLUP), "MSSQLSERVER", 0);
    site.server.restart(UBRS[0], Ends::Offered, mended)?;
    let status = site.until_phase(LONG, RolloutPhase::RolledBack).await?;

    assert_eq!(status.halted.map(|halted| halted.reason).as_deref(), Some("FailureBudgetSpent"));
    let line = site.line().await?;
    assert_eq!((line.state, line.was), (LineState::RolledBack, Some(LineState::Failed)));
    assert_eq!(line.was_reason, Some(Reason::ServiceDown), "{line:?}");
    use PermitStep::{Install, Reboot, Uninstall};
    assert_eq!(site.permitted(), [Install, Reboot, Uninstall, Reboot]);
    assert!(site.a_job_told("MSSQLSERVER"), "the job names the cause");
    assert!(!site.a_job_told("Reports"), "it stood still before");
    let log = site.server.log();
    assert!(log.contains("not healthy after 2 restart attempts: MSSQLSERVER"), "{log}");
    site.until_told("FailureBudgetSpent").await?;
    site.until_told("RollbackSucceeded").await?;

    // It is offered again, and nobody installs it: Windows hides it, and a hold bars it.
    site.until_reported("to be as it was, without the update", |status| {
        status.os.as_ref().is_some_and(|os| os.build == BUILDS[0]) && status.missing.is_empty()
    })
    .await?;
    let update = &site.server.updates.world()?["updates"][0];
    assert_eq!((&update["isInstalled"], &update["isHidden"]), (&json!(false), &json!(true)));
    let holds = site.place.api::<UpdateHold>().list(&ListParams::default()).await?.items;
    let [hold] = &holds[..] else { panic!("{holds:?}") };
    assert!(hold.spec.kbs.iter().any(|kb| kb.as_str() == KB), "{hold:?}");
    assert_eq!((site.installs(), site.server.removals().len()), (1, 1));

    // The database's maker mends its part, a person lifts the hold, and another rollout brings it.
    let name = hold.metadata.name.clone().unwrap_or_default();
    site.place.api::<UpdateHold>().delete(&name, &DeleteParams::default()).await?;
    site.place.api::<PatchRollout>().delete(ROLLOUT, &DeleteParams::default()).await?;
    site.place.until_gone::<PatchRollout>(LONG, ROLLOUT).await?;
    let mut world = site.server.updates.world()?;
    world["updates"][0]["install"] = restarts();
    site.server.updates.set_world(&world)?;
    site.roll_out(json!({})).await?;
    site.server.until_restarts_ordered(3).await?;
    site.server.restart(UBRS[1], Ends::Installed, installed(Changes::new(), ROLLUP))?;
    let status = site.until_phase(LONG, RolloutPhase::Completed).await?;
    assert_eq!(
        stage_of(&status, GROUP).counts.succeeded,
        1,
        "the bar is gone, and so is the hiding"
    );
    assert_eq!(site.installs(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_waits_for_a_restart_is_held_and_restarted_first_where_that_is_asked_for()
-> Result<()> {
    let waits = waits_for_restart(Changes::new());
    let site = Site::open_with("win-pending", &[rollup(restarts())], waits).await?;
    site.until_reported("to report the sign", |status| {
        status.pending_reboot.iter().any(|sign| sign.hard)
    })
    .await?;
    site.roll_out(json!({})).await?;
    let word = Reason::PendingReboot.as_str();
    site.place
        .until_status(LONG, "to hold the device", |status| {
            status.waiting_for.iter().any(|waiting| waiting.reason == word)
        })
        .await?;
    assert_eq!((site.installs(), site.permitted().len()), (0, 0));

    // What a rollout demands of devices is not changed afterwards; another one asks for less.
    let rollouts = site.place.api::<PatchRollout>();
    rollouts.delete(ROLLOUT, &DeleteParams::default()).await?;
    site.place.until_gone::<PatchRollout>(LONG, ROLLOUT).await?;
    site.roll_out(json!({ "preflight": { "pendingReboot": "RebootFirst" } })).await?;
    site.server.until_restarts_ordered(1).await?;
    assert_eq!(site.installs(), 0, "the restart comes first");
    site.server.restart(UBRS[0], Ends::Installed, Changes::new())?;
    site.server.until_restarts_ordered(2).await?;
    site.server.restart(UBRS[1], Ends::Installed, installed(Changes::new(), ROLLUP))?;
    let status = site.until_phase(LONG, RolloutPhase::Completed).await?;

    assert_eq!(stage_of(&status, GROUP).counts.succeeded, 1);
    use PermitStep::{Install, Reboot};
    assert_eq!(site.permitted(), [Reboot, Install, Reboot]);
    assert_eq!(site.installs(), 1);
    site.until_reported("to wait for no restart", |status| status.pending_reboot.is_empty())
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_reverts_an_update_while_it_starts_is_told_from_one_that_fails() -> Result<()>
{
    let site = Site::open("win-reverted", &[rollup(restarts())]).await?;
    site.roll_out(json!({})).await?;

    site.server.until_restarts_ordered(1).await?;
    site.server.restart(UBRS[0], Ends::Offered, Changes::new())?;
    let status = site.until_phase(LONG, RolloutPhase::Halted).await?;

    assert_eq!(status.halted.map(|halted| halted.reason).as_deref(), Some("FailureBudgetSpent"));
    let line = site.line().await?;
    assert_eq!(line.state, LineState::RevertedByWindows, "{line:?}");
    let note = line.note.unwrap_or_default();
    assert!(note.contains(&format!("expected {}, found {}", BUILDS[1], BUILDS[0])), "{note}");
    assert_eq!((site.installs(), site.server.removals().len()), (1, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_never_comes_back_halts_the_rollout_as_unreachable() -> Result<()> {
    let site = Site::open("win-hangs", &[rollup(restarts())]).await?;
    // Even where failures roll back: silence is none.
    site.roll_out(json!({
        "stages": [with(stage(GROUP), json!({ "rebootDeadline": "15s" }))],
        "onFailure": { "action": "Rollback" },
    }))
    .await?;

    site.server.until_restarts_ordered(1).await?;
    site.server.prefix.switch_off()?;
    let status = site
        .place
        .until_status(LONG, "to halt", |status| {
            status.phase == Some(RolloutPhase::Halted)
                && stage_of(status, GROUP).counts.in_progress == 0
        })
        .await?;

    let halted = status.halted.clone().map(|halted| halted.reason);
    assert_eq!(halted.as_deref(), Some("UnreachableBudgetSpent"));
    assert_eq!(stage_of(&status, GROUP).counts.unreachable, 1);
    assert_eq!(site.line().await?.state, LineState::Unreachable);
    assert_eq!(site.permitted(), [PermitStep::Install, PermitStep::Reboot]);
    site.until_told("UnreachableBudgetSpent").await?;
    assert!(site.place.api::<UpdateHold>().list(&ListParams::default()).await?.items.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_tries_a_failure_that_may_pass_again_and_tells_of_the_one_that_does_not()
-> Result<()> {
    const KBS: [&str; 2] = ["KB5060001", "KB5060002"];
    // Somebody has a file open; and the update cannot be installed as it is.
    let ends = [json!({ "fails": "0x80070020", "failsLeft": 1 }), json!({ "fails": "0x8024200B" })];
    let updates: Vec<Value> = KBS
        .iter()
        .zip(ends)
        .map(|(kb, install)| {
            json!({
                "id": format!("bbbbbbbb-0000-0000-0000-00000{}", &kb[2..]), "revision": 1,
                "title": format!("Update ({kb})"), "kbs": [&kb[2..]], "install": install,
            })
        })
        .collect();
    let site = Site::open("win-two", &updates).await?;
    for kb in KBS {
        let spec = json!({
            "kb": kb, "title": "Update", "product": PRODUCT, "kind": "Other", "release": "2026-11",
        });
        let name = kb.to_lowercase();
        site.place.create::<Update>(json!({ "metadata": { "name": name }, "spec": spec })).await?;
    }
    site.roll_out(json!({ "updates": { "kbs": KBS } })).await?;
    let status = site.until_phase(LONGEST, RolloutPhase::Halted).await?;

    assert_eq!(stage_of(&status, GROUP).counts.failed, 1);
    let line = site.line().await?;
    assert_eq!(line.reason, Some(Reason::InstallFailed), "{line:?}");
    let note = line.note.unwrap_or_default();
    assert!(note.contains(KBS[1]) && note.contains("0x8024200B"), "{note}");
    let installs = site.server.updates.calls("Install");
    let of = |digit: char| {
        let ids = installs.iter().filter_map(|call| call["update"].as_str());
        ids.filter(|id| id.ends_with(digit)).count()
    };
    assert_eq!((of('1'), of('2')), (2, 1), "{installs:?}");
    site.until_reported("to report the update that failed", |status| status.failed == [KBS[1]])
        .await?;
    Ok(())
}
