//! Jobs that somebody deletes by hand.

use anyhow::Result;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Preconditions},
};
use serde_json::json;
use tokio::time::timeout;
use wardring_api::{PatchJob, PatchRollout, PermitStep, RolloutPhase, names::REPAIRED_ANNOTATION};
use wardring_harness::wait_until_ok;

use crate::{
    crashes::assert_like_undisturbed,
    support::{
        CONTROLLER, History, LONG, Place, Plan, SHORT, history::Change, install, manifests::with,
        rollout, stage, world,
    },
};

#[tokio::test]
async fn a_job_deleted_by_hand_is_refused_and_where_it_is_not_it_comes_back_and_installs_once()
-> Result<()> {
    let installation = install("jobs", &CONTROLLER).await?;
    // Slow enough to be met in the middle.
    let mut slow = world();
    slow["updates"][0]["installMs"] = json!(4_000);
    let plan = Plan::default().group("test", 4, &slow);
    let (place, fleet) = Place::open(&installation, "jobs", &plan).await?;
    let mut history = History::begin(&place.client, &place.namespace).await;
    let two = with(stage("test"), json!({ "maxConcurrency": 2 }));
    place.create::<PatchRollout>(rollout(&[two], json!({}))).await?;
    timeout(LONG, history.next(installs)).await?;
    let job = installing(&history);

    let args = ["delete", "pjob", &job.name_any(), "-n", &place.namespace];
    let refused = installation.cluster.kubectl(&args).await?;
    assert!(!refused.succeeded());
    let sentence = "only Wardring's controller deletes PatchJobs";
    assert!(refused.stderr.contains(sentence), "{}", refused.stderr);
    assert!(refused.stderr.contains("suspend or abort the rollout instead"), "{}", refused.stderr);

    let policy = ["delete", "validatingadmissionpolicybinding", "wardring-delete-protection"];
    installation.cluster.kubectl(&policy).await?.ok()?;
    let deleted = delete_while_it_installs(&place.api(), &history).await?;
    let repaired = place
        .until::<PatchJob>(SHORT, &deleted.name_any(), "to be made again", |job| {
            job.uid() != deleted.uid() && job.annotations().contains_key(REPAIRED_ANNOTATION)
        })
        .await?;
    assert_eq!(repaired.spec.attempt, deleted.spec.attempt);
    place.until_phase(RolloutPhase::Completed).await?;

    assert_like_undisturbed(&place, &fleet, &plan, &history, &[("test", 2)]).await
}

/// The policy is gone a moment after its binding; the device must still be at it then.
async fn delete_while_it_installs(jobs: &Api<PatchJob>, history: &History) -> Result<PatchJob> {
    wait_until_ok(LONG, "a job to be deleted in the middle of its installation", async || {
        let known = installing(history);
        let job = jobs.get(&known.name_any()).await.map_err(|error| error.to_string())?;
        let is_at_it = installs(&Change::Job(Box::new(job.clone())));
        if !is_at_it {
            return Err(format!("{} does not install any more", job.name_any()));
        }
        let only_this = Preconditions { uid: job.uid(), resource_version: job.resource_version() };
        let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
        let deleted = jobs.delete(&job.name_any(), &params).await;
        deleted.map(|_| job).map_err(|error| error.to_string())
    })
    .await
}

/// The job that was permitted to install last.
fn installing(history: &History) -> PatchJob {
    let events = history.events();
    let mut latest = events.into_iter().rev().filter_map(|event| match event.change {
        change @ Change::Job(_) if installs(&change) => match change {
            Change::Job(job) => Some(*job),
            _ => None,
        },
        _ => None,
    });
    latest.next().expect("a job was seen to install")
}

/// Whether a job shows the permit to install and no later one.
fn installs(change: &Change) -> bool {
    let Change::Job(job) = change else { return false };
    job.status.as_ref().is_some_and(|status| {
        status.permitted.iter().all(|permit| permit.step == PermitStep::Install)
            && !status.permitted.is_empty()
            && status.outcome.is_none()
    })
}
