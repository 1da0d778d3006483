//! `GET /v1/job`: check-in and mailbox. Answered from the cache alone; costs the API server nothing.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    http::{Method, Uri},
    response::{IntoResponse, Response},
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
    identity::{Connection, Speaker},
};

/// An agent at work on a job comes back this soon.
const BUSY_POLL: Duration = Duration::from_secs(5);
/// Agents of a gateway that stops find another within this time.
const RECONNECT: Duration = Duration::from_secs(5);

/// Answers a check-in, at once if there is news, else when there is or the wait is over.
pub async fn check_in(
    gateway: &Gateway,
    connection: &Connection,
    method: &Method,
    uri: &Uri,
) -> Response {
    match answer_to(gateway, connection, method, uri).await {
        Ok(answer) => Json(answer).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn answer_to(
    gateway: &Gateway,
    connection: &Connection,
    method: &Method,
    uri: &Uri,
) -> Result<JobAnswer, Refusal> {
    if method != Method::GET {
        return Err(Refusal::method());
    }
    let now = Timestamp::now();
    let speaker = Speaker::of(connection, gateway, now).await?;
    let query = read(uri.query().unwrap_or_default())?;
    gateway.note(&speaker, &query.run, query.seq);
    let job = news(gateway, &speaker.device, &speaker, &query);
    if job.is_some() || query.wait == 0 {
        return Ok(answer(gateway, &speaker.device, &query, job, now));
    }
    Box::pin(wait(gateway, &speaker, &query)).await
}

/// Reads a query by hand: it is small, and read more often than anything else.
fn read(text: &str) -> Result<JobQuery, Refusal> {
    let malformed = || Refusal::malformed("the query cannot be read");
    let mut query = JobQuery::default();
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        match &*name {
            "known" => query.known = Some(value.into_owned()),
            "wait" => query.wait = value.parse().map_err(|_| malformed())?,
            "run" => query.run = value.into_owned(),
            "boot" => query.boot = value.into_owned(),
            "seq" => query.seq = value.parse().map_err(|_| malformed())?,
            // A newer agent may say more.
            _ => {}
        }
    }
    check_poll(&query).map_err(|malformed| Refusal::malformed(malformed.to_string()))?;
    Ok(query)
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
            break Ok(answer(gateway, &device, query, job, Timestamp::now()));
        }
        tokio::select! {
            () = changed => {}
            () = gateway.draining.cancelled() => {}
            () = time::sleep_until(until) => {
                break Ok(answer(gateway, &device, query, None, Timestamp::now()));
            }
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
    now: Timestamp,
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
        now,
    }
}
