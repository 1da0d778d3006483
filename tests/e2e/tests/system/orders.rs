//! What people order the morning after, from the order to the devices.

use anyhow::Result;
use kube::{
    ResourceExt,
    api::{ListParams, PostParams},
};
use serde_json::json;
use wardring_api::{
    LineState, PatchRollback, PatchRollbackSpec, PatchRollout, RollbackPhase, RolloutPhase,
    UpdateHold,
};
use wardring_harness::wait_until_ok;

use crate::support::{LONG, Place, Plan, journal::count, rollout, shared, stage, world};

#[tokio::test]
async fn a_completed_rollout_is_taken_back_on_a_persons_order_and_nowhere_else() -> Result<()> {
    let plan = Plan::default().group("test", 1, &world()).group("production", 2, &world());
    let (place, fleet) = Place::open(shared().await?, "order", &plan).await?;
    let stages = [stage("test"), stage("production")];
    place.create::<PatchRollout>(rollout(&stages, json!({}))).await?;
    place.until_phase(RolloutPhase::Completed).await?;

    let rollouts = place.api::<PatchRollout>().list(&ListParams::default()).await?.items;
    let spec: PatchRollbackSpec = serde_json::from_value(json!({
        "rollout": rollouts[0].name_any(), "reason": "the ERP does not answer",
        "group": "production", "maxConcurrency": 2,
    }))?;
    let orders = place.api::<PatchRollback>();
    orders.create(&PostParams::default(), &PatchRollback::new("erp-down", spec)).await?;
    let status = wait_until_ok(LONG, "the order to end", async || {
        let order = orders.get("erp-down").await.map_err(|error| error.to_string())?;
        match order.status {
            Some(status) if status.completed_at.is_some() => Ok(status),
            status => Err(format!("{status:?}")),
        }
    })
    .await?;

    assert_eq!(status.phase, Some(RollbackPhase::Completed), "{status:?}");
    assert_eq!((status.counts.total, status.counts.rolled_back), (2, 2), "{status:?}");
    for (device, line) in place.lines().await? {
        let is_reached = device.contains("production");
        let state = if is_reached { LineState::RolledBack } else { LineState::Succeeded };
        assert_eq!((line.state, line.ordered), (state, is_reached), "{device}");
        let uninstalls = count(&fleet, &device, "uninstall")?;
        assert_eq!(uninstalls, usize::from(is_reached), "{device}");
    }
    let holds = place.api::<UpdateHold>().list(&ListParams::default()).await?.items;
    assert!(holds[0].spec.reason.contains("the ERP does not answer"), "{holds:?}");
    Ok(())
}
