//! Probes and hooks, from the manifest to the device and back.

use anyhow::Result;
use serde_json::{Value, json};
use wardring_api::{
    Device, DeviceGroup, HealthSince, LineState, PatchRollout, RolloutPhase, StageState,
    conditions, reasons::Reason,
};

use crate::support::{
    History, LONG, Place, Plan,
    history::Change,
    journal::{acts, count},
    manifests::with,
    place::stage_of,
    rollout, shared, stage, world, world_with,
};

/// The world with what an administrator put on the device.
fn prepared(world: &Value) -> Value {
    with(
        world.clone(),
        json!({
            "hooks": { "drain.ps1": { "takesMs": 50 }, "resume.ps1": {} },
            // It failed before the update, too.
            "failingProbes": ["legacy"],
        }),
    )
}

#[tokio::test]
async fn hooks_surround_the_update_and_a_probe_that_it_breaks_halts_the_rollout() -> Result<()> {
    let broken = world_with(json!({ "failProbes": ["shop"] }));
    let plan =
        Plan::default().group("test", 2, &prepared(&world())).group("work", 2, &prepared(&broken));
    let (place, fleet) = Place::open(shared().await?, "checks", &plan).await?;
    for group in plan.groups() {
        let spec = json!({ "spec": {
            "healthPresets": ["SqlServer"],
            "hooks": {
                "beforeInstall": { "program": "drain.ps1", "timeout": "1m" },
                "beforeReboot": { "program": "drain.ps1" },
                "afterHealthy": { "program": "resume.ps1" },
            },
        }});
        place.patch::<DeviceGroup>(&group, spec).await?;
    }
    let history = History::begin(&place.client, &place.namespace).await;

    let health = json!({ "health": {
        "settle": "200ms",
        "sampleInterval": "100ms",
        "probes": [
            { "name": "shop", "type": "Http", "http": { "url": "https://localhost/health" } },
            { "name": "legacy", "type": "Tcp", "tcp": { "port": 8080 } },
        ],
    }});
    place.create::<PatchRollout>(rollout(&[stage("test"), stage("work")], health)).await?;
    let status = place.until_phase(RolloutPhase::Halted).await?;

    assert_eq!(stage_of(&status, "test").state, StageState::Completed);
    for device in plan.names("test") {
        let moments: Vec<String> = acts(&fleet, &device)?
            .iter()
            .filter_map(|act| act["moment"].as_str().or(act["event"].as_str()).map(str::to_owned))
            .collect();
        let order = ["beforeInstall", "install", "beforeReboot", "reboot", "boot", "afterHealthy"];
        assert_eq!(moments, order, "{device}");
        // Its agent goes on looking at what the proof was about.
        place
            .until::<Device>(LONG, &device, "to be as before the update", |device| {
                device.status.as_ref().is_some_and(|status| {
                    let well = |since: &HealthSince| !since.blind && since.unhealthy.is_empty();
                    conditions::is_true(&status.conditions, conditions::HEALTHY)
                        && status.health.iter().map(|since| since.attempt).eq([1])
                        && status.health.iter().all(well)
                })
            })
            .await?;
    }
    let lines = place
        .until_lines("the failures in the record", |lines| !plan_failed(lines).is_empty())
        .await?;
    let failed: Vec<&String> = plan_failed(&lines);
    for device in failed {
        assert_eq!(lines[device].reason, Some(Reason::ProbeFailed), "{device}");
        assert_eq!(count(&fleet, device, "hook")?, 2, "{device} is not brought back into service");
    }
    let tells = |text: &str| {
        history.events().iter().any(|event| {
            matches!(&event.change, Change::Job(job) if job.status.as_ref().is_some_and(|status| {
                status.unhealthy.iter().chain(&status.changes).any(|line| line.contains(text))
            }))
        })
    };
    assert!(tells("probe shop: good, now failing"), "the job tells what changed");
    assert!(tells("build: "), "the job tells what changed");
    assert!(!tells("legacy"), "what failed before is not spoken of");
    Ok(())
}

fn plan_failed(
    lines: &std::collections::BTreeMap<String, wardring_api::SliceLine>,
) -> Vec<&String> {
    let failed = lines.iter().filter(|(_, line)| line.state == LineState::Failed);
    failed.map(|(device, _)| device).collect()
}
