//! A cluster put back to an older backup: what was granted since is forgotten there, and remembered
//! by the agents. Nothing is granted until a person has looked.

use anyhow::{Context, Result};
use serde_json::json;
use tokio::time::timeout;
use wardring_api::{
    LineState, PatchLedger, PatchRollout, PatchRolloutStatus, RolloutPhase, StageState, conditions,
    names::{LEDGER_NAME, RESTORE_CONFIRMED_ANNOTATION},
};
use wardring_harness::cluster::Revisions;

use crate::support::{
    CONTROLLER, GATEWAY, History, LONG, Place, Plan,
    history::Change,
    install,
    journal::count,
    manifests::with,
    place::{ROLLOUT, stage_of},
    rollout, stage, world,
};

#[tokio::test]
async fn after_a_restore_from_an_older_backup_nothing_is_granted_until_a_person_confirms()
-> Result<()> {
    is_survived("restore", Revisions::JumpAhead, Processes::GoOn).await
}

#[tokio::test]
async fn a_controller_that_never_knew_the_time_before_a_restore_hears_of_it_from_the_agents()
-> Result<()> {
    is_survived("restore-new", Revisions::JumpAhead, Processes::BeginAnew).await
}

/// What etcd's documentation warns of: watches cannot tell the new versions from those that were undone,
/// so whoever watched has to begin anew.
#[tokio::test]
async fn after_a_restore_that_gives_resource_versions_out_again_nothing_is_mixed_up() -> Result<()>
{
    is_survived("restore-plain", Revisions::GoBack, Processes::BeginAnew).await
}

/// What becomes of the controller and the gateways that knew the time before the restore.
#[derive(PartialEq, Eq)]
enum Processes {
    /// They go on with what they remember.
    GoOn,
    /// Others begin, to whom only the agents can tell.
    BeginAnew,
}

/// Restores a cluster in the middle of a run, and confirms it.
async fn is_survived(name: &str, revisions: Revisions, processes: Processes) -> Result<()> {
    let mut installation = install(name, &CONTROLLER).await?;
    let plan = Plan::default().group("test", 2, &world()).group("production", 12, &world());
    let (place, fleet) = Place::open(&installation, name, &plan).await?;
    let backup = installation.folder.join("backup");
    let mut before = History::begin(&place.client, &place.namespace).await;
    // A device that the restore meets between installation and restart looks like any other that
    // Windows wants to restart.
    let restart = json!({ "preflight": { "pendingReboot": "RebootFirst" } });
    // An agent whose job is forgotten before it began has not started, and answers so to the same
    // attempt of the restored cluster; the next attempt need not wait as long as it does by default.
    let again = json!({ "retry": { "backoff": "1s" } });
    let stages = ["test", "production"].map(|name| with(stage(name), again.clone()));
    place.create::<PatchRollout>(rollout(&stages, restart)).await?;
    place
        .until_status(LONG, "to be done with the first stage", |status| {
            stage_of(status, "test").state == StageState::Completed
        })
        .await?;
    installation.cluster.etcd_snapshot(&backup).await?;
    // A device is granted, patched and proven that the backup knows nothing of.
    let known = before.sequences().into_iter().max().unwrap_or(0);
    let is_lost = |change: &Change| {
        matches!(change, Change::Job(job) if job.spec.sequence > known
            && job.status.as_ref().is_some_and(|status| status.outcome.is_some()))
    };
    timeout(LONG, before.next(is_lost)).await?;
    drop(before);

    if processes == Processes::BeginAnew {
        installation.controllers.pop().context("a controller runs")?.process.kill()?;
    }
    installation.cluster.etcd_restore(&backup, revisions).await?;
    if processes == Processes::BeginAnew {
        installation.start_controller(&CONTROLLER).await?;
        for index in 0..installation.gateways.len() {
            installation.gateways[index].process.kill()?;
            installation.replace_gateway(index, &GATEWAY).await?;
        }
    }
    let history = History::begin(&place.client, &place.namespace).await;
    let stalled = place
        .until_status(LONG, "to notice the restore", |status| is_stalled(status).is_some())
        .await?;
    let message = is_stalled(&stalled).unwrap_or_default();
    // Agents ask again and again meanwhile, and a pass runs at each of their reports.
    let permits = history.permit_count();
    // What the sentence asks for, as often as it asks: agents that come later hold higher numbers.
    let mut asked = message.clone();
    for _ in 0..5 {
        assert_eq!(history.permit_count(), permits, "a permit was given after the restore");
        let opened = batches_since(&history, known);
        assert!(opened.is_empty(), "batches were opened after the restore: {opened:?}");
        let confirm = json!({ "metadata": { "annotations": {
            RESTORE_CONFIRMED_ANNOTATION: number_asked_for(&asked),
        } } });
        place.patch::<PatchLedger>(LEDGER_NAME, confirm).await?;
        let answer = place
            .until_status(LONG, "to answer the confirmation", |status| {
                is_stalled(status).is_none_or(|message| message != asked)
            })
            .await?;
        match is_stalled(&answer) {
            Some(message) => asked = message,
            None => break,
        }
    }
    let status = place.until_phase(RolloutPhase::Completed).await?;

    assert!(is_stalled(&status).is_none(), "{status:?}");
    for (_, device, _) in &plan.devices {
        assert_eq!(count(&fleet, device, "install")?, 1, "{device}");
        assert_eq!(count(&fleet, device, "reboot")?, 1, "{device}");
    }
    for (device, line) in place.lines().await? {
        // The restored cluster cannot know by whom the lost part of the run was done.
        let good = [LineState::Succeeded, LineState::AlreadyInstalled, LineState::PatchedOutside];
        assert!(good.contains(&line.state), "{device}: {line}");
    }
    let lost: i64 = number_asked_for(&message).parse()?;
    let given = batches_since(&history, known);
    assert!(!given.is_empty() && given.iter().all(|number| *number > lost), "{lost}: {given:?}");
    assert!(history.most_in_flight("production") <= 2);
    assert_eq!(place.api::<PatchRollout>().get(ROLLOUT).await?.status.unwrap().halted, None);
    Ok(())
}

/// Sequences of the batches that were opened above `known`.
fn batches_since(history: &History, known: i64) -> Vec<i64> {
    let batches = history.events().into_iter().filter_map(|event| match event.change {
        Change::Ledger(ledger) => Some(ledger.status?.batch?.sequence),
        _ => None,
    });
    batches.filter(|sequence| *sequence > known).collect()
}

/// The number that the sentence of a restore tells a person to write.
fn number_asked_for(message: &str) -> String {
    let assignment = format!("{RESTORE_CONFIRMED_ANNOTATION}=");
    let number = message.split_once(&assignment).map_or("", |(_, rest)| rest);
    number.chars().take_while(char::is_ascii_digit).collect()
}

/// The sentence of Stalled=RestoredFromBackup.
fn is_stalled(status: &PatchRolloutStatus) -> Option<String> {
    let mut stalled = status.conditions.iter().filter(|condition| {
        condition.type_ == conditions::STALLED
            && condition.status == "True"
            && condition.reason == "RestoredFromBackup"
    });
    stalled.next().map(|condition| condition.message.clone())
}
