//! The long poll: one question after the other, at the pace the gateways set.

use std::time::Duration;

use std::sync::Arc;
use tokio::sync::oneshot;
use wardring_protocol::JobQuery;

use super::{Msg, Run};
use crate::chance;
use crate::gateway::{Gateway, GatewayError};
use crate::platform::Platform;

/// First and longest pause after no gateway answered.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// First and longest pause while a gateway offers a job that is not taken: it would offer the same
/// one at once again.
const REFUSED: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// Tells the poll whether the job it brought was taken.
pub(super) type Taken = oneshot::Sender<bool>;

/// What a poll tells the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// The job in hand.
    pub known: Option<String>,
    /// Highest sequence.
    pub seq: i64,
}

impl<P: Platform, G: Gateway> Run<'_, P, G> {
    /// Polls until the run ends.
    pub(super) fn spawn_poll(&mut self) {
        let (view, tx) = (self.view.subscribe(), self.tx.clone());
        let (gateway, wait) = (Arc::clone(&self.agent.gateway), self.agent.poll_wait_s);
        let (run, boot) = (self.id.clone(), self.saved.state.boot.clone());
        self.tasks.spawn(async move {
            let mut pauses = Pauses::default();
            loop {
                let View { known, seq } = view.borrow().clone();
                let (run, boot) = (run.clone(), boot.clone());
                let answer = gateway.poll(&JobQuery { known, wait, run, boot, seq }).await;
                let pause = match answer {
                    Ok(answer) => {
                        let next = Duration::from_millis(answer.next_poll_ms);
                        let has_job = answer.job.is_some();
                        let (taken, is_taken) = oneshot::channel();
                        if tx.send(Msg::Polled(Box::new(answer), taken)).is_err() {
                            return;
                        }
                        let is_refused = has_job && !is_taken.await.unwrap_or(false);
                        next.max(pauses.answered(is_refused))
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the poll failed");
                        asked_pause(&error).unwrap_or(Duration::ZERO).max(pauses.failed())
                    }
                };
                if !pause.is_zero() {
                    tokio::time::sleep(chance::around(pause)).await;
                }
            }
        });
    }
}

/// Pauses that double.
#[derive(Default)]
struct Pauses {
    failures: u32,
    refusals: u32,
}

impl Pauses {
    fn failed(&mut self) -> Duration {
        self.failures += 1;
        doubled(RETRY, self.failures)
    }

    fn answered(&mut self, is_refused: bool) -> Duration {
        self.failures = 0;
        self.refusals = if is_refused { self.refusals + 1 } else { 0 };
        if is_refused { doubled(REFUSED, self.refusals) } else { Duration::ZERO }
    }
}

fn doubled((first, longest): (Duration, Duration), times: u32) -> Duration {
    first.saturating_mul(1 << times.saturating_sub(1).min(10)).min(longest)
}

/// The pause that a busy gateway asks for.
pub(super) fn asked_pause(error: &GatewayError) -> Option<Duration> {
    match error {
        GatewayError::Busy { retry_after_s, .. } => {
            retry_after_s.map(|seconds| Duration::from_secs(seconds.min(600)))
        }
        _ => None,
    }
}
