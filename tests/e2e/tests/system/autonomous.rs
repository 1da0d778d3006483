//! A device that crashes under its update and takes it back by itself, from the manifest to the
//! record of the run; and a domain controller beside it, which does not.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::json;
use wardring_api::{
    DeviceGroup, LineState, PatchJob, PatchRollout, PatchRolloutStatus, PermitStep, RolloutPhase,
    SliceLine, reasons::Reason,
};

use crate::support::{
    History, Place, Plan,
    history::Change,
    journal::count,
    manifests::{BUILDS, with},
    place::{LONG, stage_of},
    rollout, shared, stage, world_with,
};

#[tokio::test]
async fn a_device_that_crashes_takes_the_update_back_by_itself_and_a_domain_controller_does_not()
-> Result<()> {
    let crashing = world_with(json!({ "bootLoop": 2 }));
    let controller = with(crashing.clone(), json!({ "roles": ["DomainController"] }));
    let plan = Plan::default().group("test", 1, &crashing).group("test", 1, &controller);
    let (place, fleet) = Place::open(shared().await?, "autonomous", &plan).await?;
    let roles = json!({ "spec": { "roles": ["DomainController"] } });
    place.patch::<DeviceGroup>("test", roles).await?;
    let history = History::begin(&place.client, &place.namespace).await;

    let asked = json!({ "autonomousRollback": { "triggers": ["BootLoop"] } });
    let stages = [with(stage("test"), json!({ "maxFailures": 1 }))];
    place.create::<PatchRollout>(rollout(&stages, asked)).await?;
    place.until_phase(RolloutPhase::Halted).await?;
    let is_back = |status: &PatchRolloutStatus| stage_of(status, "test").counts.rolled_back == 1;
    let status = place.until_status(LONG, "to have a device rolled back", is_back).await?;
    let ends = |lines: &BTreeMap<String, SliceLine>| {
        let ends = |device, state| lines.get(device).is_some_and(|line| line.state == state);
        ends("test-1", LineState::RolledBack) && ends("test-2", LineState::Failed)
    };
    let lines = place.until_lines("both outcomes in the record", ends).await?;
    assert_eq!(stage_of(&status, "test").counts.rolled_back, 1, "{lines:?}");
    let (own, other) = (&lines["test-1"], &lines["test-2"]);
    assert_eq!((own.state, own.was), (LineState::RolledBack, Some(LineState::Failed)));
    assert_eq!(own.was_reason, Some(Reason::BootLoop));
    let note = own.note.as_deref().unwrap_or_default();
    assert!(note.contains("rolled back by itself"), "{note}");
    assert_eq!((other.state, other.reason), (LineState::Failed, Some(Reason::BootLoop)));

    let acts = |device: &str| -> Result<[usize; 3]> {
        let count = |event| count(&fleet, device, event);
        Ok([count("install")?, count("uninstall")?, count("reboot")?])
    };
    assert_eq!(acts("test-1")?, [1, 1, 2], "one restart for each direction");
    assert_eq!(acts("test-2")?, [1, 0, 1]);
    place
        .until_builds(|builds| [builds["test-1"].as_str(), builds["test-2"].as_str()] == BUILDS)
        .await?;

    let events = history.events();
    let jobs: Vec<&PatchJob> = events
        .iter()
        .filter_map(|event| match &event.change {
            Change::Job(job) => Some(&**job),
            _ => None,
        })
        .collect();
    let told = |device: &str| {
        let mut of = jobs.iter().filter(|job| job.metadata.name.as_deref() == Some(device));
        of.next().and_then(|job| job.spec.autonomous_rollback.clone()).unwrap_or_default()
    };
    assert_eq!(told("test-1"), "Allowed: BootLoop");
    assert!(told("test-2").starts_with("Refused: the device reports the role DomainController"));
    let permits = jobs.iter().filter_map(|job| job.status.as_ref()).flat_map(|job| &job.permitted);
    assert!(permits.clone().count() > 0);
    let uninstalls = permits.filter(|permit| permit.step == PermitStep::Uninstall);
    assert_eq!(uninstalls.count(), 0, "nobody was asked");
    Ok(())
}
