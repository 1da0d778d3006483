//! A stage that waits for its maintenance window, and goes on by itself when that opens.

use anyhow::Result;
use jiff::{SignedDuration, Timestamp, Unit};
use serde_json::json;
use wardring_api::{MaintenanceWindow, PatchRollout, RolloutPhase, conditions, reasons::Reason};

use crate::support::{History, Place, Plan, SHORT, manifests::with, rollout, shared, stage, world};

#[tokio::test]
async fn a_stage_begins_when_its_window_opens_and_not_before() -> Result<()> {
    let plan = Plan::default().group("night", 2, &world());
    let (place, _fleet) = Place::open(shared().await?, "calendar", &plan).await?;
    let history = History::begin(&place.client, &place.namespace);
    let opens = (Timestamp::now() + SignedDuration::from_secs(20)).round(Unit::Second)?;
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
    place.create::<PatchRollout>(rollout(&[named], json!({}))).await?;
    place
        .until::<PatchRollout>(SHORT, "november", "to say which window it waits for", |rollout| {
            let Some(status) = &rollout.status else { return false };
            let sentence = format!("MaintenanceWindow tonight opens at {opens}.");
            let told = status.waiting_for.iter().any(|waiting| {
                waiting.reason == Reason::OutsideWindow.as_str()
                    && waiting.message.ends_with(&sentence)
                    && waiting.until == Some(opens)
            });
            told && conditions::is_true(&status.conditions, conditions::AWAITING_WINDOW)
        })
        .await?;
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
