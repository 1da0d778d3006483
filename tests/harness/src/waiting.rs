//! Waiting for a condition, so that no test has to guess how long something takes.

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep, timeout_at};

/// Short against what is waited for, long against what a question costs the API server.
const POLL: Duration = Duration::from_millis(50);

/// Asks `probe` again and again until it has a value, and fails once `limit` is over.
///
/// `what` completes the sentence "waited for …".
pub async fn wait_until<T>(
    limit: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> Result<T> {
    ask(limit, what, async || probe().await.ok_or(None::<String>)).await
}

/// Like [`wait_until`], for a probe that can say what it saw instead: the last such answer is part
/// of the failure.
pub async fn wait_until_ok<T, E: Display>(
    limit: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T> {
    ask(limit, what, async || probe().await.map_err(|seen| Some(seen.to_string()))).await
}

async fn ask<T>(
    limit: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<T, Option<String>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut last_seen = None;
    loop {
        // A probe may hang as well as answer no: a stopped API server accepts no connection.
        match timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => last_seen = seen.or(last_seen),
            Err(_) if last_seen.is_none() => last_seen = Some("no answer".to_owned()),
            Err(_) => {}
        }
        if Instant::now() >= deadline {
            let seen = last_seen.map(|seen| format!("; last seen: {seen}")).unwrap_or_default();
            return Err(anyhow!("waited {limit:?} for {what}, in vain{seen}"));
        }
        sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_probe_that_has_a_value_ends_the_waiting() {
        let mut asked = 0;

        let value = wait_until(Duration::from_secs(5), "the third question", async || {
            asked += 1;
            (asked == 3).then_some(asked)
        })
        .await;

        assert_eq!(value.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_wait_in_vain_says_for_what_and_what_was_there_instead() {
        let outcome: Result<()> =
            wait_until_ok(Duration::from_millis(1), "a pass", async || Err("phase is Halted"))
                .await;

        let message = outcome.unwrap_err().to_string();
        assert_eq!(message, "waited 1ms for a pass, in vain; last seen: phase is Halted");
    }

    #[tokio::test]
    async fn a_probe_that_hangs_does_not_outlast_the_limit() {
        let outcome = wait_until(Duration::from_millis(1), "an answer", async || {
            std::future::pending::<()>().await;
            Some(())
        })
        .await;

        assert!(outcome.is_err());
    }
}
