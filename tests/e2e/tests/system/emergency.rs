//! An emergency in the middle of a patch night: nothing begins under the stop, and after the lift the
//! rollout goes on by itself.

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use tokio::time::timeout;
use wardring_api::{
    EmergencyStop, PatchJob, PatchRollout, PermitStep, RolloutPhase, conditions, reasons::Reason,
};
use wardring_harness::wait_until_ok;

use crate::support::{
    History, LONG, Place, Plan, SHORT, history::Change, journal::count, manifests::with, rollout,
    shared, stage, world,
};

#[tokio::test]
async fn under_an_emergency_stop_nothing_begins_and_after_the_lift_the_rollout_completes()
-> Result<()> {
    // Slow enough to be met in the middle.
    let mut slow = world();
    slow["updates"][0]["installMs"] = json!(15_000);
    let plan = Plan::default().group("estop", 4, &slow);
    let (place, fleet) = Place::open(shared().await?, "emergency", &plan).await?;
    let mut history = History::begin(&place.client, &place.namespace).await;
    let two = with(stage("estop"), json!({ "maxConcurrency": 2 }));
    place.create::<PatchRollout>(rollout(&[two], json!({}))).await?;
    timeout(LONG, history.next(installs)).await?;

    // The other tests' devices have other labels.
    let stops: Api<EmergencyStop> = Api::all(place.client.clone());
    let stop: EmergencyStop = serde_json::from_value(json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "EmergencyStop",
        "metadata": { "name": "erp-down" },
        "spec": {
            "reason": "the ERP does not answer",
            "selector": { "matchLabels": { "group": "estop" } },
        },
    }))?;
    stops.create(&PostParams::default(), &stop).await?;
    let stopped = Timestamp::now();

    // What had begun ends its step and waits; the stop and the rollout say so.
    let sentence = "EmergencyStop erp-down is in force: the ERP does not answer.";
    place
        .until::<PatchRollout>(SHORT, "november", "to say what stops it", |rollout| {
            let Some(status) = &rollout.status else { return false };
            let stopped = status.waiting_for.iter().any(|waiting| {
                waiting.reason == Reason::EmergencyStop.as_str()
                    && waiting.message.starts_with(sentence)
            });
            stopped && conditions::is_true(&status.conditions, conditions::EMERGENCY_STOPPED)
        })
        .await?;
    let told = wait_until_ok(LONG, "the stop to tell who waits with the restart", async || {
        let stop = stops.get("erp-down").await.map_err(|error| error.to_string())?;
        let status = stop.status.unwrap_or_default();
        let is_told = conditions::is_true(&status.conditions, conditions::READY)
            && status.awaiting_reboot > 0
            && status.awaiting_reboot == status.mid_flight
            && status.held + status.mid_flight == 4;
        if is_told { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await?;
    assert_eq!(told.rollouts, 1);
    assert_eq!(told.mid_flight_sample.len(), told.mid_flight as usize, "{told:?}");
    assert!(told.mid_flight_sample[0].starts_with("emergency/estop-"), "{told:?}");

    for name in plan.names("estop") {
        assert_eq!(count(&fleet, &name, "reboot")?, 0, "{name}");
    }
    let lifted = Timestamp::now();
    stops.delete("erp-down", &DeleteParams::default()).await?;
    place.until_phase(RolloutPhase::Completed).await?;
    for name in plan.names("estop") {
        assert_eq!(count(&fleet, &name, "install")?, 1, "{name}");
        assert_eq!(count(&fleet, &name, "reboot")?, 1, "{name}");
    }
    // A permit that was being decided when the stop came may carry an instant behind it, by as much as a
    // gateway takes at most to decide.
    let moment = SignedDuration::from_secs(10);
    let permits = history.permits();
    for permit in permits.values().flatten() {
        let under = permit.at > stopped + moment && permit.at < lifted;
        assert!(!under, "{permit:?} under the stop from {stopped} to {lifted}");
    }
    assert!(permits.values().flatten().any(|permit| permit.at > lifted), "the stop came too late");
    let rollout: PatchRollout = place.api().get("november").await?;
    let status = rollout.status.clone().unwrap_or_default();
    assert!(!conditions::is_true(&status.conditions, conditions::EMERGENCY_STOPPED));
    assert!(place.api::<PatchJob>().list(&Default::default()).await?.items.is_empty());
    let events: Api<k8s_openapi::api::core::v1::Event> = place.api();
    let events = events.list(&Default::default()).await?.items;
    let of_stop = events.iter().filter(|event| {
        event.involved_object.uid == rollout.uid()
            && event.reason.as_deref() == Some(Reason::EmergencyStop.as_str())
    });
    assert_eq!(of_stop.count(), 1, "told once");
    Ok(())
}

/// Whether a job shows the permit to install and no later one.
fn installs(change: &Change) -> bool {
    let Change::Job(job) = change else { return false };
    job.status.as_ref().is_some_and(|status| {
        let mut steps = status.permitted.iter().map(|permit| permit.step);
        steps.next() == Some(PermitStep::Install) && steps.next().is_none()
    })
}
