//! Whether our clock can be trusted, compared with the API server's. Permits carry times that other
//! processes read, so a gateway whose clock is off gives none; it says that the fault is its own.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use jiff::SignedDuration;
use kube::Client;
use tokio::time;

use crate::fresh::{self, SKEW_BORNE};

/// How often the API server is asked for the time.
const EVERY: Duration = Duration::from_secs(30);

/// The difference as last measured.
#[derive(Debug)]
pub struct Clock {
    gateway: String,
    /// Positive: ours is ahead.
    ahead_millis: AtomicI64,
}

impl Clock {
    /// The clock of this gateway, trusted until it is measured.
    pub fn new(gateway: &str) -> Clock {
        Clock { gateway: gateway.to_owned(), ahead_millis: AtomicI64::new(0) }
    }

    /// What is wrong with our clock, if it is off by more than is borne.
    pub fn fault(&self) -> Option<String> {
        let ahead = SignedDuration::from_millis(self.ahead_millis.load(Ordering::Relaxed));
        (ahead.abs() > SKEW_BORNE).then(|| {
            let side = if ahead.is_positive() { "ahead of" } else { "behind" };
            let (gateway, span) = (&self.gateway, roughly(ahead.abs()));
            format!(
                "The clock of gateway {gateway} is {span} {side} the API server's: it permits nothing until its machine's clock is set right."
            )
        })
    }

    /// Takes in how far our clock is ahead, and says so when that changes whether it is trusted.
    pub fn note(&self, ahead: SignedDuration) {
        let was_off = self.fault().is_some();
        let millis = i64::try_from(ahead.as_millis()).unwrap_or(i64::MAX);
        self.ahead_millis.store(millis, Ordering::Relaxed);
        match self.fault() {
            Some(fault) if !was_off => tracing::error!("{fault}"),
            None if was_off => tracing::info!("our clock and the API server's agree again"),
            _ => {}
        }
    }

    /// Measures again and again, for ever.
    pub async fn keep_measuring(&self, client: &Client) {
        loop {
            time::sleep(EVERY).await;
            match fresh::server_clock(client).await {
                Ok(Some(ahead)) => self.note(ahead),
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "failed to read the API server's clock"),
            }
        }
    }
}

/// A span as people say it: hours matter more than their seconds.
fn roughly(span: SignedDuration) -> String {
    match span.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7_200 => format!("{} min", (seconds + 30) / 60),
        seconds => format!("{} h", (seconds + 1_800) / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_is_this_gateways_fault_by_name() {
        let clock = Clock::new("gw-1");
        assert_eq!(clock.fault(), None);
        for (ahead, said) in [
            (SignedDuration::from_secs(31), "gateway gw-1 is 31 s ahead of the API server's"),
            (SignedDuration::from_hours(5), "gateway gw-1 is 5 h ahead of"),
            (SignedDuration::from_mins(-10), "gateway gw-1 is 10 min behind the"),
        ] {
            clock.note(ahead);
            let fault = clock.fault().unwrap();
            assert!(fault.contains(said), "{fault}");
        }
        clock.note(SignedDuration::from_secs(-30));
        assert_eq!(clock.fault(), None);
    }
}
