//! A job's way: mailbox, permits, progress, outcome.

use std::time::{Duration, Instant};

use wardring_api::{JobState, PermitStep};
use wardring_harness::wait_until;
use wardring_protocol::{Mode, PermitAnswer, ReportBody, Step, key_id};
use wardring_seal::{Action, JobKey, JobPayload, OutcomePayload, OutcomeResult};

use crate::support::*;

#[tokio::test]
async fn a_device_is_patched_through_the_gateway() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let gateway = site.gateway(&[]).await;
    gateway.sees_leader().await;
    let rollout = site.rollout().await;

    // Given a long poll without a job, when one is granted, then it arrives at once.
    let waiting = async {
        let began = Instant::now();
        let answer = gateway.job(&agent, "wait=20").await;
        (answer, began.elapsed())
    };
    let granting = async {
        gateway.is_polled().await;
        site.grant(&agent, &rollout).await
    };
    let ((answer, waited), key) = tokio::join!(waiting, granting);
    assert!(waited < Duration::from_secs(10), "{waited:?}");
    assert_eq!(answer.mode, Mode::Manage);
    let sealed = answer.job.unwrap();
    let payload: JobPayload = serde_json::from_str(&sealed.payload).unwrap();
    assert_eq!(payload.key, key);

    // The job it has is not sent again.
    let known = format!("wait=0&seq=7&known={}", key_id(&key));
    assert_eq!(gateway.job(&agent, &known).await.job, None);

    // Progress is written with the permit, not on its own.
    let ack = gateway.report(&agent, vec![(1, progress(&key, "AwaitingInstall"))]).await;
    assert_eq!((ack.acked_through, ack.highest_seen), (0, 1));
    assert!(ack.retry_ms > 0);
    let answer = gateway.permit(&agent, &key, Step::Install).await;
    assert_eq!(answer, PermitAnswer::Granted);
    let status = site.job_status(&agent).await;
    assert_eq!(status.permitted.len(), 1);
    assert_eq!(status.permitted[0].step, PermitStep::Install);
    assert_eq!(status.permitted[0].agent_run, agent.run);
    assert_eq!(status.state, Some(JobState::Installing));
    assert_eq!(status.report_seq, Some(1));
    assert_eq!(status.runs, [agent.run.as_str()]);

    // An answer that got lost is asked for again, and adds nothing.
    assert_eq!(gateway.permit(&agent, &key, Step::Install).await, PermitAnswer::Granted);
    assert_eq!(site.job_status(&agent).await.permitted.len(), 1);
    assert_eq!(gateway.permit(&agent, &key, Step::Reboot).await, PermitAnswer::Granted);

    // The outcome is durable when it is acked, with what came before it.
    let signed = agent.outcome(&key, OutcomeResult::Succeeded);
    let reports = vec![
        (1, progress(&key, "AwaitingInstall")),
        (2, progress(&key, "Verifying")),
        (3, ReportBody::Outcome(signed.clone())),
    ];
    let ack = gateway.report(&agent, reports).await;
    assert_eq!((ack.acked_through, ack.highest_seen, ack.retry_ms), (3, 3, 0));
    let status = site.job_status(&agent).await;
    assert_eq!(status.state, Some(JobState::Done));
    assert_eq!(status.message.as_deref(), Some("now Verifying"));
    let outcome = status.outcome.unwrap();
    assert_eq!((&outcome.payload, &outcome.signature), (&signed.payload, &signed.signature));

    // Sent again, at another gateway: acked, and nothing is written.
    let other = site.gateway(&[]).await;
    let before = site.versions(&agent).await;
    let ack = other.report(&agent, vec![(3, ReportBody::Outcome(signed))]).await;
    assert_eq!(ack.acked_through, 3);
    assert_eq!(site.versions(&agent).await, before);
    // And an answered job is not handed out again.
    assert_eq!(other.job(&agent, "wait=0").await.job, None);
}

#[tokio::test]
async fn a_second_outcome_never_replaces_the_first() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let key = site.grant(&agent, &site.rollout().await).await;
    let gateway = site.gateway(&[]).await;
    let first = agent.outcome(&key, OutcomeResult::Failed);
    let second = agent.outcome(&key, OutcomeResult::Succeeded);
    gateway.report(&agent, vec![(1, ReportBody::Outcome(first.clone()))]).await;
    let ack = gateway.report(&agent, vec![(2, ReportBody::Outcome(second))]).await;
    assert_eq!(ack.acked_through, 2);
    assert_eq!(site.job_status(&agent).await.outcome.unwrap().payload, first.payload);
}

#[tokio::test]
async fn progress_that_nothing_else_carries_is_written_after_its_delay_and_then_acked() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let key = site.grant(&agent, &site.rollout().await).await;
    let gateway = site.gateway(&[]).await;
    for (seq, state) in [(1, "Accepted"), (2, "Preflight"), (3, "Downloading")] {
        gateway.report(&agent, vec![(seq, progress(&key, state))]).await;
    }
    let is_there = |status: &wardring_api::PatchJobStatus| status.report_seq == Some(3);
    let status = job_until(&site, &agent, "the progress", is_there).await;
    assert_eq!(status.state, Some(JobState::Downloading));
    let ack = gateway.report(&agent, vec![(3, progress(&key, "Downloading"))]).await;
    assert_eq!((ack.acked_through, ack.retry_ms), (3, 0));
}

#[tokio::test]
async fn a_poll_whose_connection_breaks_is_not_counted_any_more() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let gateway = site.gateway(&[]).await;
    let (client, url) =
        (gateway.client(&agent), gateway.url(&format!("/v1/job?run={}&boot=b&wait=50", agent.run)));
    let poll = tokio::spawn(async move { client.get(url).send().await });
    gateway.is_polled().await;

    poll.abort();
    wait_until(PATIENCE, "the end of the poll", async || {
        (gateway.running.gateway.cache.sizes().polled_for == 0).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_stopping_gateway_ends_long_polls_and_writes_what_waits() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let gateway = site.gateway(&["--progress-delay", "10m"]).await;
    let key = site.grant(&agent, &site.rollout().await).await;
    gateway.sees_job(&agent).await;
    gateway.report(&agent, vec![(1, progress(&key, "Downloading"))]).await;

    let began = Instant::now();
    let known = format!("wait=60&seq=7&known={}", key_id(&key));
    let (client, url) =
        (gateway.client(&agent), gateway.url(&format!("/v1/job?run={}&boot=b&{known}", agent.run)));
    let poll = tokio::spawn(async move { client.get(url).send().await });
    gateway.is_polled().await;
    gateway.running.stop().await;

    let answer = poll.await.unwrap().unwrap();
    assert!(answer.status().is_success());
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(site.job_status(&agent).await.state, Some(JobState::Downloading));
}

#[tokio::test]
async fn a_grant_given_anew_is_offered_again_and_an_answer_to_the_forgotten_one_is_not_stored() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let key = site.grant(&agent, &site.rollout().await).await;
    let gateway = site.gateway(&[]).await;
    gateway.sees_job(&agent).await;

    // The agent has the same grant from before a restore, under a lower sequence.
    let known = format!("wait=0&seq=6&known={}", key_id(&key));
    assert!(gateway.job(&agent, &known).await.job.is_some());
    let signed = agent.outcome(&key, OutcomeResult::Succeeded);
    let payload: OutcomePayload = serde_json::from_str(&signed.payload).unwrap();
    let forgotten = OutcomePayload { sequence: 6, ..payload };
    let forgotten = agent.key.sign_outcome(&forgotten, &agent.certificate).unwrap();
    let ack = gateway.report(&agent, vec![(1, ReportBody::Outcome(forgotten))]).await;
    assert_eq!(ack.acked_through, 1, "it must not stand in the way of what follows");
    assert_eq!(site.job_status(&agent).await.outcome, None);

    gateway.report(&agent, vec![(2, ReportBody::Outcome(signed.clone()))]).await;
    assert_eq!(site.job_status(&agent).await.outcome.unwrap().payload, signed.payload);
}

#[tokio::test]
async fn a_download_ahead_reaches_its_device_is_permitted_nothing_and_is_answered() {
    let site = Site::new().await;
    let agent = site.device("ws-1").await;
    let gateway = site.gateway(&[]).await;
    gateway.sees_leader().await;
    let key = site.grant_download(&agent, &site.rollout().await).await;
    let sealed = gateway.job(&agent, "wait=20").await.job.unwrap();
    let payload: JobPayload = serde_json::from_str(&sealed.payload).unwrap();
    assert_eq!(payload.key, key);

    gateway.report(&agent, vec![(1, progress(&key, "Downloading"))]).await;
    let loads = |status: &wardring_api::PatchJobStatus| status.state == Some(JobState::Downloading);
    job_until(&site, &agent, "Downloading", loads).await;
    // Neither for what it is, nor as what it is not.
    let install = JobKey { action: Action::Install, ..key.clone() };
    for (key, step) in [(&key, Step::Install), (&key, Step::Reboot), (&install, Step::Install)] {
        let answer = gateway.permit(&agent, key, step).await;
        assert!(
            matches!(&answer, PermitAnswer::Ended { reason, .. } if reason == "NoSuchJob"),
            "{answer:?}"
        );
    }
    let signed = agent.outcome(&key, OutcomeResult::Succeeded);
    gateway.report(&agent, vec![(2, ReportBody::Outcome(signed))]).await;
    let status = site.job_status(&agent).await;
    assert_eq!((status.state, status.permitted.len()), (Some(JobState::Done), 0));
}
