//! Whether our clock can be trusted: it is compared with the API server's `Date`. Every deadline is
//! wall-clock time that other processes read, so a process whose clock is off must not plan.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use kube::{Client, client::Body};

/// A larger difference between two clocks is taken for a broken one. Permits live a minute, so half
/// of that keeps the order of events.
pub const MAX_SKEW: SignedDuration = SignedDuration::from_secs(30);

/// The last measured difference; clones share it.
#[derive(Clone, Debug, Default)]
pub struct ClockWatch {
    skew_millis: Arc<AtomicI64>,
}

impl ClockWatch {
    /// How far our clock is behind the API server's (negative: ahead), as last measured.
    pub fn skew(&self) -> SignedDuration {
        SignedDuration::from_millis(self.skew_millis.load(Ordering::Relaxed))
    }

    /// Whether plans may be made with our clock.
    pub fn is_trusted(&self) -> bool {
        self.skew().abs() <= MAX_SKEW
    }

    /// Asks the API server for the time and remembers the difference.
    pub async fn measure(&self, client: &Client) -> Result<SignedDuration, kube::Error> {
        let request =
            http::Request::get("/version").body(Body::empty()).map_err(kube::Error::HttpError)?;
        let sent = Timestamp::now();
        let answer = client.send(request).await?;
        let received = Timestamp::now();
        let date = answer.headers().get(http::header::DATE).and_then(|value| value.to_str().ok());
        let Some(date) = date.and_then(parse_date) else { return Ok(self.skew()) };
        let skew = skew_between(sent, received, date);
        self.skew_millis.store(skew.as_millis() as i64, Ordering::Relaxed);
        Ok(skew)
    }

    /// Measures again and again, until dropped.
    pub async fn keep_measuring(&self, client: Client, every: Duration) {
        let mut was_trusted = self.is_trusted();
        loop {
            tokio::time::sleep(every).await;
            if let Err(error) = self.measure(&client).await {
                tracing::debug!(%error, "failed to read the API server's clock");
                continue;
            }
            let is_trusted = self.is_trusted();
            if was_trusted && !is_trusted {
                tracing::error!(
                    skew_seconds = self.skew().as_secs(),
                    "our clock and the API server's differ by more than 30 s: planning stops"
                );
            }
            was_trusted = is_trusted;
        }
    }
}

fn parse_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

/// How far the clock that read `sent` and `received` is behind a server that said `date` in between.
/// `date` has whole seconds, so the server's instant lies within the second that begins there; what
/// that and the round trip explain is no skew.
fn skew_between(sent: Timestamp, received: Timestamp, date: Timestamp) -> SignedDuration {
    let earliest = date;
    let latest = date + SignedDuration::from_secs(1);
    if earliest > received {
        earliest.duration_since(received)
    } else if latest < sent {
        latest.duration_since(sent)
    } else {
        SignedDuration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_slow_answer_and_whole_seconds_are_no_skew() {
        let skew = skew_between(
            at("2026-11-21T02:00:00.9Z"),
            at("2026-11-21T02:00:04Z"),
            at("2026-11-21T02:00:00Z"),
        );
        assert_eq!(skew, SignedDuration::ZERO);
    }

    #[test]
    fn a_clock_that_runs_behind_or_ahead_is_measured() {
        let now = at("2026-11-21T02:00:00Z");
        assert_eq!(
            skew_between(now, now, at("2026-11-21T02:05:00Z")),
            SignedDuration::from_mins(5)
        );
        assert_eq!(
            skew_between(now, now, at("2026-11-21T01:59:00Z")),
            SignedDuration::from_secs(-59)
        );
    }

    #[test]
    fn the_date_header_of_http_is_read() {
        assert_eq!(parse_date("Sat, 21 Nov 2026 03:38:30 GMT"), Some(at("2026-11-21T03:38:30Z")));
    }

    #[test]
    fn a_clock_more_than_thirty_seconds_off_is_not_trusted() {
        let watch = ClockWatch::default();
        assert!(watch.is_trusted());
        watch.skew_millis.store(30_001, Ordering::Relaxed);
        assert!(!watch.is_trusted());
        watch.skew_millis.store(-30_001, Ordering::Relaxed);
        assert!(!watch.is_trusted());
    }
}
