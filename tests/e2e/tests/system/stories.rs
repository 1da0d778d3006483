//! The three stories: a good month, an update that breaks a service, and devices that never return.

use anyhow::Result;
use kube::{ResourceExt, api::ListParams};
use serde_json::json;
use wardring_api::{
    JobAction, LineState, PatchRollout, PatchRolloutStatus, RolloutPhase, StageState, UpdateHold,
};
use wardring_e2e::Fleet;

use crate::support::{
    History, LONG, Place, Plan,
    history::{Change, Event},
    journal::{acts, count, touched},
    manifests::{BUILDS, KB, with},
    place::stage_of,
    rollout, shared, stage, world, world_with,
};

#[tokio::test]
async fn a_good_update_reaches_production_stage_by_stage_and_only_on_proof() -> Result<()> {
    let plan = Plan::default().group("test", 3, &world()).group("work", 3, &world()).group(
        "production",
        3,
        &world(),
    );
    let (place, fleet) = Place::open(shared().await?, "good", &plan).await?;
    let history = History::begin(&place.client, &place.namespace).await;

    let stages = [stage("test"), stage("work"), stage("production")];
    place.create::<PatchRollout>(rollout(&stages, json!({}))).await?;
    let status = place.until_phase(RolloutPhase::Completed).await?;

    for group in plan.groups() {
        assert_eq!(stage_of(&status, &group).counts.succeeded, 3, "{group}");
        assert_eq!(history.most_in_flight(&group), 2, "{group} uses its cap and keeps it");
    }
    for (_, device, _) in &plan.devices {
        assert_eq!(count(&fleet, device, "install")?, 1, "{device}");
        assert_eq!(count(&fleet, device, "reboot")?, 1, "{device}");
    }
    assert_stages_opened_on_proof(&history, &["test", "work", "production"]);
    place.until_builds(|builds| builds.values().all(|build| build == BUILDS[1])).await?;
    assert!(place.api::<UpdateHold>().list(&ListParams::default()).await?.items.is_empty());
    Ok(())
}

/// When a job of a stage was stored for the first time, the stage before was completed.
fn assert_stages_opened_on_proof(history: &History, stages: &[&str]) {
    let mut status = PatchRolloutStatus::default();
    let mut opened = Vec::new();
    for event in history.events() {
        match event.change {
            Change::Rollout(rollout) => status = rollout.status.unwrap_or_default(),
            Change::Job(job) if !opened.contains(&job.spec.stage) => {
                if let Some(before) = opened.last() {
                    assert_eq!(stage_of(&status, before).state, StageState::Completed, "{before}");
                }
                opened.push(job.spec.stage.clone());
            }
            _ => {}
        }
    }
    assert_eq!(opened, stages);
}

#[tokio::test]
async fn an_update_that_breaks_a_service_halts_at_the_first_stage_and_is_taken_back() -> Result<()>
{
    let broken = world_with(json!({
        "afterReboot": [{ "stopService": "MSSQLSERVER", "refusesRestart": true }],
    }));
    let plan = Plan::default().group("test", 4, &broken).group("work", 2, &world()).group(
        "production",
        2,
        &world(),
    );
    let (place, fleet) = Place::open(shared().await?, "bad", &plan).await?;
    let history = History::begin(&place.client, &place.namespace).await;

    let first = with(stage("test"), json!({ "maxFailures": 1 }));
    let rollback = json!({ "onFailure": { "action": "Rollback", "scope": "Stage" } });
    let stages = [first, stage("work"), stage("production")];
    place.create::<PatchRollout>(rollout(&stages, rollback)).await?;
    let status = place.until_phase(RolloutPhase::RolledBack).await?;

    let halted = status.halted.as_ref().unwrap();
    assert_eq!(halted.reason, "FailureBudgetSpent");
    let counts = stage_of(&status, "test").counts;
    assert!(counts.rolled_back >= 2, "{counts:?}");
    assert_eq!(counts.rollback_failed, 0, "{counts:?}");
    assert_eq!(counts.rolled_back + counts.pending, 4, "{counts:?}");
    let holds = place.api::<UpdateHold>().list(&ListParams::default()).await?.items;
    let [hold] = &holds[..] else { panic!("{holds:?}") };
    assert!(hold.spec.kbs.iter().any(|kb| kb.as_str() == KB), "{hold:?}");
    assert!(!hold.spec.evidence.is_empty(), "{hold:?}");
    assert!(history.events().iter().any(names_the_service), "the jobs name the cause");
    for (device, line) in place.lines().await? {
        if line.state == LineState::RolledBack {
            assert_eq!(count(&fleet, &device, "install")?, 1, "{device}");
            assert_eq!(count(&fleet, &device, "restartService")?, 1, "{device} was restarted");
            assert_eq!(count(&fleet, &device, "uninstall")?, 1, "{device}");
        }
    }
    place.until_builds(|builds| builds.values().all(|build| build == BUILDS[0])).await?;
    assert_untouched(&plan, &fleet, &history, &["work", "production"])
}

fn names_the_service(event: &Event) -> bool {
    matches!(&event.change, Change::Job(job) if job.status.as_ref().is_some_and(|status| {
        status.unhealthy.iter().any(|service| service.contains("MSSQLSERVER"))
    }))
}

#[tokio::test]
async fn devices_that_never_return_halt_their_stage_and_nothing_is_taken_back() -> Result<()> {
    let silent = world_with(json!({ "neverReturn": true }));
    let plan = Plan::default()
        .group("test", 2, &world())
        .group("work", 2, &silent)
        .group("work", 2, &world())
        .group("production", 3, &world());
    let (place, fleet) = Place::open(shared().await?, "silent", &plan).await?;
    let history = History::begin(&place.client, &place.namespace).await;

    let work = with(
        stage("work"),
        json!({ "maxConcurrency": 4, "maxUnreachable": 1, "rebootDeadline": "30s" }),
    );
    // Even where a failure rolls everything back: silence may be our own fault.
    let rollback = json!({ "onFailure": { "action": "Rollback", "scope": "AllStages" } });
    let stages = [stage("test"), work, stage("production")];
    place.create::<PatchRollout>(rollout(&stages, rollback)).await?;
    let status = place
        .until_status(LONG, "to halt with everybody's outcome", |status| {
            let counts = stage_of(status, "work").counts;
            status.phase == Some(RolloutPhase::Halted) && counts.in_progress == 0
        })
        .await?;

    assert_eq!(status.halted.as_ref().unwrap().reason, "UnreachableBudgetSpent");
    assert_eq!(stage_of(&status, "test").state, StageState::Completed);
    let counts = stage_of(&status, "work").counts;
    assert_eq!((counts.unreachable, counts.succeeded), (2, 2), "{counts:?}");
    for (_, device, _) in &plan.devices {
        assert_eq!(count(&fleet, device, "uninstall")?, 0, "{:?}", acts(&fleet, device)?);
    }
    assert!(place.api::<UpdateHold>().list(&ListParams::default()).await?.items.is_empty());
    for event in history.events() {
        if let Change::Job(job) = event.change {
            assert_eq!(job.spec.action, JobAction::Install, "{}", job.name_any());
        }
    }
    assert_untouched(&plan, &fleet, &history, &["production"])
}

/// Devices of these groups never had a job, and nothing happened to them.
fn assert_untouched(plan: &Plan, fleet: &Fleet, history: &History, groups: &[&str]) -> Result<()> {
    for group in groups {
        let names = plan.names(group);
        assert_eq!(touched(fleet, &names)?, Vec::<String>::new());
        for event in history.events() {
            if let Change::Job(job) = event.change {
                assert!(!names.contains(&job.name_any()), "{} had a job", job.name_any());
            }
        }
    }
    Ok(())
}
