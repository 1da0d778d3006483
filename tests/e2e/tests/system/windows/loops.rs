//! Windows that starts again and again after an update, told by its System log.

use anyhow::Result;
use kube::api::ListParams;
use serde_json::{Value, json};
use wardring_api::{
    LineState, PatchRolloutStatus, PermitStep, RolloutPhase, UpdateHold, reasons::Reason,
};
use wardring_wine_tests::{
    eventlog::Came,
    registry::Changes,
    server::{Ends, installed, removed},
};

use super::{
    restarts,
    site::{DEVICE, GROUP, ROLLUP, Site, UBRS, rollup},
};
use crate::support::{
    manifests::{BUILDS, KB},
    place::{LONG, stage_of},
};

/// What a rollout says that lets a device help itself.
fn by_itself() -> Value {
    json!({ "autonomousRollback": { "triggers": ["BootLoop"] } })
}

/// A site whose device has installed the update, and stopped twice with a bug check since.
async fn crashed_twice(namespace: &str, rollout: Value) -> Result<Site> {
    let site = Site::open(namespace, &[rollup(restarts())]).await?;
    site.roll_out(rollout).await?;
    site.server.until_restarts_ordered(1).await?;
    let there = installed(Changes::new(), ROLLUP);
    site.server.restart_as(Came::AfterBugCheck, UBRS[1], Ends::Installed, there)?;
    site.until_boots("Crash", 1).await?;
    site.server.comes_again(Came::AfterBugCheck)?;
    Ok(site)
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_crashes_again_takes_the_update_back_by_itself_once_where_that_is_asked_for()
-> Result<()> {
    let site = crashed_twice("win-loop", by_itself()).await?;
    site.server.until_restarts_ordered(2).await?;
    let removals = site.server.removals();
    assert_eq!(removals.len(), 1, "{removals:?}");
    assert!(removals[0].contains(ROLLUP), "{removals:?}");
    site.server.restart(UBRS[0], Ends::Offered, removed(Changes::new(), ROLLUP))?;
    let is_back = |status: &PatchRolloutStatus| stage_of(status, GROUP).counts.rolled_back == 1;
    site.place.until_status(LONG, "to have the device rolled back", is_back).await?;

    let line = site.line().await?;
    assert_eq!((line.state, line.was), (LineState::RolledBack, Some(LineState::Failed)));
    assert_eq!(line.was_reason, Some(Reason::BootLoop), "{line:?}");
    use PermitStep::{Install, Reboot};
    assert_eq!(site.permitted(), [Install, Reboot], "nobody was asked for what it did by itself");
    assert_eq!((site.installs(), site.server.removals().len()), (1, 1));
    assert_eq!(site.server.restarts_ordered(), 2, "one for each direction");
    let holds = site.place.api::<UpdateHold>().list(&ListParams::default()).await?.items;
    let [hold] = &holds[..] else { panic!("{holds:?}") };
    assert_eq!(hold.spec.devices, [DEVICE], "it is barred there, and nowhere else");
    site.until_reported("to be as it was", |status| {
        status.os.as_ref().is_some_and(|os| os.build == BUILDS[0])
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_crashes_again_makes_no_restart_of_its_own_and_waits_for_people() -> Result<()>
{
    let site = crashed_twice("win-crash", json!({})).await?;
    let status = site.until_phase(LONG, RolloutPhase::Halted).await?;

    assert_eq!(status.halted.map(|halted| halted.reason).as_deref(), Some("FailureBudgetSpent"));
    let line = site.line().await?;
    assert_eq!((line.state, line.reason), (LineState::Failed, Some(Reason::BootLoop)), "{line:?}");
    let note = line.note.unwrap_or_default();
    assert!(note.contains("2 of them after a crash"), "{note}");
    assert_eq!((site.server.restarts_ordered(), site.server.removals().len()), (1, 0));
    assert_eq!(site.permitted(), [PermitStep::Install, PermitStep::Reboot]);
    site.until_told("FailureBudgetSpent").await
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_a_person_restarts_again_and_again_uninstalls_nothing() -> Result<()> {
    let site = Site::open("win-hands", &[rollup(restarts())]).await?;
    let mut rollout = by_itself();
    // Somebody is at work before anything could be proven.
    rollout["health"] = json!({ "settle": "30m" });
    site.roll_out(rollout).await?;
    site.server.until_restarts_ordered(1).await?;
    let there = installed(Changes::new(), ROLLUP);
    site.server.restart(UBRS[1], Ends::Installed, there)?;
    site.until_boots("Expected", 1).await?;
    for restarts in 1..=2 {
        site.server.comes_again(Came::BY_PERSON)?;
        site.until_boots("Foreign", restarts).await?;
    }
    site.server.comes_again(Came::BY_PERSON)?;
    let status = site.until_phase(LONG, RolloutPhase::Halted).await?;

    assert_eq!(status.halted.map(|halted| halted.reason).as_deref(), Some("FailureBudgetSpent"));
    let line = site.line().await?;
    assert_eq!((line.state, line.reason), (LineState::Failed, Some(Reason::BootLoop)), "{line:?}");
    let note = line.note.unwrap_or_default();
    assert!(note.contains("it does not roll back by itself: crashes"), "{note}");
    assert_eq!((site.server.restarts_ordered(), site.server.removals().len()), (1, 0));
    let holds = site.place.api::<UpdateHold>().list(&ListParams::default()).await?.items;
    assert!(holds.is_empty(), "{KB} is barred: {holds:?}");
    Ok(())
}
