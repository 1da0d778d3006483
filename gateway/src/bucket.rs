//! A token bucket, pure: the caller brings the time.

use std::time::Duration;

/// Lets through `rate` requests per second, and `burst` at once after a pause.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    tokens: f64,
    at: Duration,
}

/// The shape of a bucket, shared by all of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    per_second: f64,
    burst: f64,
}

impl Rate {
    /// `per_second` requests, ten times as many after a pause.
    pub fn new(per_second: f64) -> Rate {
        Rate { per_second: per_second.max(0.001), burst: (per_second * 10.0).max(1.0) }
    }
}

impl Bucket {
    /// A full bucket.
    pub fn full(rate: Rate, now: Duration) -> Bucket {
        Bucket { tokens: rate.burst, at: now }
    }

    /// Takes one token, or says after how long there will be one.
    pub fn take(&mut self, rate: Rate, now: Duration) -> Result<(), Duration> {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed * rate.per_second).min(rate.burst);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            Ok(())
        } else {
            Err(Duration::from_secs_f64((1.0 - self.tokens) / rate.per_second))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_only_the_rate() {
        let (rate, mut now) = (Rate::new(5.0), Duration::ZERO);
        let mut bucket = Bucket::full(rate, now);
        assert_eq!((0..100).filter(|_| bucket.take(rate, now).is_ok()).count(), 50);
        assert_eq!(bucket.take(rate, now), Err(Duration::from_millis(200)));
        let mut passed = 0;
        for _ in 0..1_000 {
            now += Duration::from_millis(10);
            passed += usize::from(bucket.take(rate, now).is_ok());
        }
        assert!((49..=51).contains(&passed), "{passed} in 10 s");
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_gives_nothing() {
        let rate = Rate::new(1.0);
        let mut bucket = Bucket::full(rate, Duration::from_secs(100));
        for _ in 0..10 {
            assert!(bucket.take(rate, Duration::from_secs(100)).is_ok());
        }
        assert!(bucket.take(rate, Duration::from_secs(50)).is_err());
        assert!(bucket.take(rate, Duration::from_secs(100)).is_err());
    }
}
