//! A cluster put back to an older backup: what was granted since is forgotten there, and remembered
//! by the agents. Nothing is granted until a person has looked.

use anyhow::Result;
use serde_json::json;
use tokio::time::timeout;
use wardring_api::{
    LineState, PatchLedger, PatchRollout, PatchRolloutStatus, RolloutPhase, StageState, conditions,
    names::{LEDGER_NAME, RESTORE_CONFIRMED_ANNOTATION},
};
use wardring_harness::cluster::Revisions;

use crate::support::{
    CONTROLLER, History, LONG, Place, Plan,
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
    let installation = install("restore", &CONTROLLER).await?;
    let plan = Plan::default().group("test", 2, &world()).group("production", 12, &world());
    let (place, fleet) = Place::open(&installation, "restore", &plan).await?;
    let backup = installation.folder.join("backup");
    let mut before = History::begin(&place.client, &place.namespace);
    // A grant that the restored cluster gives anew is one that the agent has answered already; it is
    // taken back when nobody begins, and the next attempt is answered.
    let patient = json!({
        "startWithin": "8s", "retry": { "maxAttempts": 3, "backoff": "1s" },
    });
    let stages = [stage("test"), with(stage("production"), patient)];
    // A device that the restore meets between installation and restart looks like any other that
    // Windows wants to restart.
    let restart = json!({ "preflight": { "pendingReboot": "RebootFirst" } });
    place.create::<PatchRollout>(rollout(&stages, restart)).await?;
    place
        .until_status(LONG, "to be done with the first stage", |status| {
            stage_of(status, "test").state == StageState::Completed
        })
        .await?;
    installation.cluster.etcd_snapshot(&backup).await?;
    // Devices are granted, patched and proven that the backup knows nothing of.
    let known = before.sequences().into_iter().max().unwrap_or(0);
    let is_lost = |change: &Change| {
        matches!(change, Change::Job(job) if job.spec.sequence > known + 2
            && job.status.as_ref().is_some_and(|status| status.outcome.is_some()))
    };
    timeout(LONG, before.next(is_lost)).await?;
    let highest = before.sequences().into_iter().max().unwrap_or(0);
    drop(before);

    installation.cluster.etcd_restore(&backup, Revisions::JumpAhead).await?;
    let history = History::begin(&place.client, &place.namespace);
    let stalled = place
        .until_status(LONG, "to notice the restore", |status| is_stalled(status).is_some())
        .await?;
    // Agents ask again and again meanwhile, and a pass runs at each of their reports.
    let message = is_stalled(&stalled).unwrap();
    assert!(message.contains(RESTORE_CONFIRMED_ANNOTATION), "{message}");
    let granted = history.permit_count();
    let ledger = place.api::<PatchLedger>().get(LEDGER_NAME).await?.status.unwrap_or_default();
    let value = (highest.max(ledger.sequence) + 100).to_string();
    let confirm = json!({ "metadata": { "annotations": { RESTORE_CONFIRMED_ANNOTATION: value } } });
    assert_eq!(history.permit_count(), granted, "a permit was given after the restore");
    place.patch::<PatchLedger>(LEDGER_NAME, confirm).await?;
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
    let sequences = history.sequences();
    assert!(sequences.last().is_some_and(|last| *last > highest + 100), "{sequences:?}");
    assert!(history.most_in_flight("production") <= 2);
    assert_eq!(place.api::<PatchRollout>().get(ROLLOUT).await?.status.unwrap().halted, None);
    Ok(())
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
