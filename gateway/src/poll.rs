//! `GET /v1/job`: check-in and mailbox. Answered from the cache alone; costs the API server nothing.

use std::{str::FromStr, sync::Arc, time::Duration};

use axum::{
    Json,
    http::{Method, StatusCode, Uri, header::ALLOW},
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
        Err(refusal) if refusal.status() == StatusCode::METHOD_NOT_ALLOWED => {
            ([(ALLOW, "GET")], refusal).into_response()
        }
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
    let (mut known, mut wait, mut run, mut boot, mut seq) = (None, None, None, None, None);
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        match &*name {
            "known" => once(&mut known, value.into_owned())?,
            "wait" => once(&mut wait, number(&value)?)?,
            "run" => once(&mut run, value.into_owned())?,
            "boot" => once(&mut boot, value.into_owned())?,
            "seq" => once(&mut seq, number(&value)?)?,
            // A newer agent may say more.
            _ => {}
        }
    }
    let query = JobQuery {
        known,
        wait: wait.unwrap_or_default(),
        run: run.unwrap_or_default(),
        boot: boot.unwrap_or_default(),
        seq: seq.unwrap_or_default(),
    };
    check_poll(&query).map_err(|malformed| Refusal::malformed(malformed.to_string()))?;
    Ok(query)
}

/// Which of two values would count is a guess, so there may be one.
fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Refusal> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refusal::malformed("the query says something twice")),
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|_| Refusal::malformed("the query cannot be read"))
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
    // The same grant under a higher sequence was given anew by a restored cluster, which counts only
    // an answer to that.
    let is_known =
        query.known.as_deref() == Some(&job.key_id) && job.job.spec.sequence <= query.seq;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_with_what_a_newer_agent_adds() {
        let query = read("run=r%201&boot=b+2&seq=41&wait=30&known=u.e.1.Install&colour=%E2%9C%93");

        let known = Some("u.e.1.Install".to_owned());
        let (run, boot) = ("r 1".to_owned(), "b 2".to_owned());
        assert_eq!(query, Ok(JobQuery { known, wait: 30, run, boot, seq: 41 }));
        let least = read("run=r&boot=b").unwrap();
        assert_eq!((least.known, least.wait, least.seq), (None, 0, 0));
    }

    #[test]
    fn a_query_that_leaves_open_what_it_means_is_refused() {
        for query in [
            "",
            "run=r",
            "boot=b",
            "run=&boot=b",
            "run=r&boot=b&run=r",
            "run=r&boot=b&seq=7&seq=8",
            "run=r&boot=b&known=a&known=a",
            "run=r&boot=b&wait=1&w%61it=1",
            "run=r&boot=b&wait=",
            "run=r&boot=b&wait=-1",
            "run=r&boot=b&wait=18446744073709551616",
            "run=r&boot=b&wait=999999",
            "run=r&boot=b&seq=-1",
            "run=r&boot=b&seq=1e3",
            "run=r%0A&boot=b",
            "run=%1B[2J&boot=b",
            "run=r&boot=b&known=",
            "RUN=r&boot=b",
        ] {
            let refusal = read(query).unwrap_err();
            assert_eq!(refusal.status(), StatusCode::BAD_REQUEST, "{query}");
        }
    }
}
