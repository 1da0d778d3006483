//! How many writes per second the API server gets from us. Pure: the caller brings the time.
//!
//! Additive increase, multiplicative decrease: halve when the API server says 429 or has become slow,
//! grow by a twentieth of the cap every ten seconds while all is well.

use std::time::Duration;

/// A write that takes longer than this is slow.
const SLOW: Duration = Duration::from_secs(1);
/// So many of the last [`WINDOW`] writes may be slow before we back off.
const SLOW_BORNE: u32 = 4;
const WINDOW: u32 = 64;
/// A decrease has to show its effect before the next.
const PAUSE: Duration = Duration::from_secs(2);
const GROW_EVERY: Duration = Duration::from_secs(10);
/// Never below this share of the cap: outcomes must get through a slow API server too.
const FLOOR: f64 = 0.1;

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Answered after so long.
    After(Duration),
    /// 429, or no answer in time.
    Throttled,
}

/// The budget. A cap of 0 is none.
#[derive(Clone, Debug)]
pub struct Budget {
    cap: f64,
    rate: f64,
    tokens: f64,
    at: Duration,
    lowered: Option<Duration>,
    grown: Duration,
    seen: u32,
    slow: u32,
}

impl Budget {
    /// At most `cap` writes per second.
    pub fn new(cap: u32, now: Duration) -> Budget {
        let cap = f64::from(cap);
        Budget { cap, rate: cap, tokens: cap, at: now, lowered: None, grown: now, seen: 0, slow: 0 }
    }

    /// Takes one write out, or says after how long there will be one.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        if self.cap == 0.0 {
            return Ok(());
        }
        self.refill(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            Ok(())
        } else {
            Err(Duration::from_secs_f64((1.0 - self.tokens) / self.rate))
        }
    }

    /// Takes a write that cannot wait; the others pay for it.
    pub fn take_in_advance(&mut self, now: Duration) {
        if self.cap != 0.0 {
            self.refill(now);
            self.tokens = (self.tokens - 1.0).max(-self.cap);
        }
    }

    /// Learns from a write.
    pub fn learn(&mut self, written: Written, now: Duration) {
        let is_slow = match written {
            Written::Throttled => {
                self.lower(now);
                return;
            }
            Written::After(latency) => latency > SLOW,
        };
        self.seen += 1;
        self.slow += u32::from(is_slow);
        if self.slow > SLOW_BORNE {
            self.lower(now);
        }
        if self.seen >= WINDOW {
            (self.seen, self.slow) = (0, 0);
        }
        if now.saturating_sub(self.grown) >= GROW_EVERY {
            self.grown = now;
            self.rate = (self.rate + self.cap / 20.0).min(self.cap);
        }
    }

    /// Writes per second now.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    fn lower(&mut self, now: Duration) {
        (self.seen, self.slow) = (0, 0);
        if self.lowered.is_none_or(|at| now.saturating_sub(at) >= PAUSE) {
            (self.lowered, self.grown) = (Some(now), now);
            self.rate = (self.rate / 2.0).max(self.cap * FLOOR);
        }
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        // A tenth of a second's worth at once keeps bursts short without starving slow timers.
        self.tokens = (self.tokens + passed * self.rate).min((self.rate / 10.0).max(1.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn writes_in(budget: &mut Budget, from: u64, until: u64) -> usize {
        (from..until).filter(|now| budget.take(ms(*now)).is_ok()).count()
    }

    #[test]
    fn the_cap_holds() {
        let mut budget = Budget::new(100, Duration::ZERO);
        let written = writes_in(&mut budget, 0, 10_000);
        assert!((990..=1_110).contains(&written), "{written}");
    }

    #[test]
    fn a_cap_of_zero_is_none() {
        let mut budget = Budget::new(0, Duration::ZERO);
        assert_eq!(writes_in(&mut budget, 0, 1_000), 1_000);
    }

    #[test]
    fn throttling_halves_once_and_recovery_is_slow() {
        let mut budget = Budget::new(100, Duration::ZERO);
        for _ in 0..10 {
            budget.learn(Written::Throttled, ms(100));
        }
        assert_eq!(budget.rate(), 50.0);
        for second in 1..=20 {
            budget.learn(Written::After(ms(3)), ms(100 + second * 1_000));
        }
        assert_eq!(budget.rate(), 60.0);
    }

    #[test]
    fn slowness_lowers_the_rate_but_never_to_nothing() {
        let mut budget = Budget::new(100, Duration::ZERO);
        for second in 0..200 {
            budget.learn(Written::After(ms(1_500)), ms(second * 1_000));
        }
        assert_eq!(budget.rate(), 10.0);
    }

    #[test]
    fn what_cannot_wait_is_paid_for_later() {
        let mut budget = Budget::new(10, Duration::ZERO);
        (0..20).for_each(|_| budget.take_in_advance(Duration::ZERO));
        assert!(budget.take(ms(500)).is_err());
        assert!(budget.take(ms(2_000)).is_ok());
    }
}
