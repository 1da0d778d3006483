//! A stage that waits for its maintenance window, and goes on by itself when that opens.

use anyhow::Result;
use jiff::{SignedDuration, Timestamp, Unit};
use serde_json::json;
use wardring_api::{MaintenanceWindow, PatchRollout, RolloutPhase, conditions, reasons::Reason};

use crate::support::{
    History, LONG, Place, Plan, SHORT,
    journal::{count, downloads},
    manifests::with,
    place::stage_of,
    rollout, shared, stage, world,
};

#[tokio::test]
async fn a_stage_begins_when_its_window_opens_and_not_before() -> Result<()> {
    let plan = Plan::default().group("night", 2, &world());
    let (place, _fleet) = Place::open(shared().await?, "calendar", &plan).await?;
    let history = History::begin(&place.client, &place.namespace).await;
    let opens = (Timestamp::now() + SignedDuration::from_hours(1)).round(Unit::Second)?;
    let closes = opens + SignedDuration::from_hours(1);
    place
        .create::<MaintenanceWindow>(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "MaintenanceWindow",
            "metadata": { "name": "tonight" },
            "spec": {
                "type": "Allow",
                "schedule": { "once": { "from": opens, "until": closes } },
            },
        }))
        .await?;
    let named = with(stage("night"), json!({ "windows": ["tonight"] }));
    place.create::<PatchRollout>(rollout(&[named], json!({}))).await?;
    place
        .until::<PatchRollout>(SHORT, "november", "to say which window it waits for", |rollout| {
            let Some(status) = &rollout.status else { return false };
            let sentence =
                format!("MaintenanceWindow tonight opens at {opens} and closes at {closes}.");
            let told = status.waiting_for.iter().any(|waiting| {
                waiting.reason == Reason::OutsideWindow.as_str()
                    && waiting.message.ends_with(&sentence)
                    && waiting.until == Some(opens)
            });
            told && conditions::is_true(&status.conditions, conditions::AWAITING_WINDOW)
        })
        .await?;
    let opens = open_now(&place).await?;
    place.until_phase(RolloutPhase::Completed).await?;
    let permits = history.permits();
    assert!(!permits.is_empty());
    assert!(permits.values().flatten().all(|permit| permit.at >= opens), "{permits:?}");
    place
        .until::<MaintenanceWindow>(SHORT, "tonight", "to be shown as open", |window| {
            window.status.as_ref().is_some_and(|status| {
                status.open && conditions::is_true(&status.conditions, conditions::READY)
            })
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn updates_are_downloaded_ahead_and_installed_in_the_window_without_another_download()
-> Result<()> {
    let plan = Plan::default().group("night", 3, &world());
    let (place, fleet) = Place::open(shared().await?, "ahead", &plan).await?;
    let history = History::begin(&place.client, &place.namespace).await;
    let opens = (Timestamp::now() + SignedDuration::from_hours(1)).round(Unit::Second)?;
    place
        .create::<MaintenanceWindow>(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "MaintenanceWindow",
            "metadata": { "name": "tonight" },
            "spec": {
                "type": "Allow",
                "schedule": { "once": { "from": opens, "until": opens + SignedDuration::from_hours(1) } },
            },
        }))
        .await?;
    let named = with(stage("night"), json!({ "windows": ["tonight"] }));
    let ahead = json!({ "predownload": { "ahead": "48h", "maxConcurrency": 2 } });
    place.create::<PatchRollout>(rollout(&[named], ahead)).await?;
    let status = place
        .until_status(LONG, "to have downloaded everything", |status| {
            stage_of(status, "night").counts.downloaded == 3
        })
        .await?;
    assert_eq!(stage_of(&status, "night").counts.pending, 3);
    assert!(history.permits().is_empty());
    for device in plan.names("night") {
        assert_eq!(downloads(&fleet, &device)?, 1, "{device}");
    }

    let opens = open_now(&place).await?;
    place.until_phase(RolloutPhase::Completed).await?;
    let permits = history.permits();
    assert!(permits.values().flatten().all(|permit| permit.at >= opens), "{permits:?}");
    for device in plan.names("night") {
        let events = [downloads(&fleet, &device)?, count(&fleet, &device, "install")?];
        assert_eq!(events, [1, 1], "{device}");
    }
    Ok(())
}

/// Opens the window now; returns since when it is open.
async fn open_now(place: &Place) -> Result<Timestamp> {
    let opens = Timestamp::from_second(Timestamp::now().as_second())?;
    let once = json!({ "from": opens, "until": opens + SignedDuration::from_hours(1) });
    let schedule = json!({ "spec": { "schedule": { "once": once } } });
    place.patch::<MaintenanceWindow>("tonight", schedule).await?;
    Ok(opens)
}
