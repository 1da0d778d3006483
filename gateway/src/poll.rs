//! `GET /v1/job`: check-in and mailbox. Answered from the cache alone; costs the API server nothing.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use jiff::Timestamp;
use rand::RngExt;
use tokio::time::{self, Instant};
use wardring_api::DeviceMode;
use wardring_protocol::{JobAnswer, JobQuery, MAX_POLL_WAIT_S, Mode, check_poll};

use crate::{
    Gateway,
    answer::Refusal,
    cache::{Bound, KnownDevice, KnownJob},
    identity::Speaker,
};

/// An agent at work on a job comes back this soon.
const BUSY_POLL: Duration = Duration::from_secs(5);
/// Agents of a gateway that stops find another within this time.
const RECONNECT: Duration = Duration::from_secs(5);

/// Answers a poll, at once if there is news, else when there is or the wait is over.
pub async fn poll(
    State(gateway): State<Arc<Gateway>>,
    speaker: Speaker,
    query: Result<Query<JobQuery>, QueryRejection>,
) -> Result<Json<JobAnswer>, Refusal> {
    let Query(query) = query.map_err(|_| Refusal::malformed("the query cannot be read"))?;
    check_poll(&query).map_err(|malformed| Refusal::malformed(malformed.to_string()))?;
    speaker.peer.note_sequence(query.seq);
    gateway.note_run(&speaker, &query.run);
    let job = news(&gateway, &speaker.device, &speaker, &query);
    if job.is_some() || query.wait == 0 {
        return Ok(Json(answer(&gateway, &speaker.device, &query, job)));
    }
    wait(&gateway, &speaker, &query).await.map(Json)
}

async fn wait(
    gateway: &Gateway,
    speaker: &Speaker,
    query: &JobQuery,
) -> Result<JobAnswer, Refusal> {
    let _polling = speaker.peer.poll();
    // Spread the ends of waits that began together, as after a restart of this gateway.
    let longest = Duration::from_secs(query.wait.min(MAX_POLL_WAIT_S));
    let until = Instant::now() + longest.mul_f64(rand::rng().random_range(0.8..1.0));
    let notify = gateway.cache.changes_of(&speaker.device);
    let answer = loop {
        let changed = notify.notified();
        let device = match gateway.cache.bound(&speaker.peer.key) {
            Bound::Device(device) => device,
            Bound::Nobody | Bound::Several => {
                break Err(Refusal::forbidden(
                    "this enrolment no longer speaks for the device; enrol again",
                ));
            }
        };
        let job = news(gateway, &device, speaker, query);
        let draining = gateway.draining.is_cancelled();
        if job.is_some() || device.mode != speaker.device.mode || draining {
            break Ok(answer(gateway, &device, query, job));
        }
        tokio::select! {
            () = changed => {}
            () = gateway.draining.cancelled() => {}
            () = time::sleep_until(until) => break Ok(answer(gateway, &device, query, None)),
        }
    };
    gateway.peers.heard(&speaker.peer);
    gateway.cache.stop_waiting(&speaker.device, notify);
    answer
}

/// The device's job, if it is another one than the agent has and is not answered yet.
fn news(
    gateway: &Gateway,
    device: &KnownDevice,
    speaker: &Speaker,
    query: &JobQuery,
) -> Option<Arc<KnownJob>> {
    let job = gateway.cache.job(device)?;
    let is_theirs = job.key.device_id == speaker.enrolment_id();
    let is_known = query.known.as_deref() == Some(&job.key_id);
    (is_theirs && !is_known && !job.is_answered()).then_some(job)
}

fn answer(
    gateway: &Gateway,
    device: &KnownDevice,
    query: &JobQuery,
    job: Option<Arc<KnownJob>>,
) -> JobAnswer {
    let (pause, spread) = if gateway.draining.is_cancelled() {
        // Thousands of polls end at this moment; the other replicas take them one after the other.
        (RECONNECT, 0.0..1.0)
    } else if job.is_some() || query.known.is_some() {
        (BUSY_POLL.min(gateway.settings.poll_interval), 0.8..1.2)
    } else if query.wait > 0 {
        // A long poll that ended without news is simply asked again.
        (Duration::ZERO, 0.8..1.2)
    } else {
        (gateway.settings.poll_interval, 0.8..1.2)
    };
    let pause = pause.mul_f64(rand::rng().random_range(spread));
    JobAnswer {
        job: job.map(|job| job.sealed.clone()),
        mode: match device.mode {
            DeviceMode::Observe => Mode::Observe,
            DeviceMode::Manage => Mode::Manage,
        },
        next_poll_ms: u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
        now: Timestamp::now(),
    }
}
