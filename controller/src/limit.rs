//! A budget that refills: so many at once, and then one per span.

use std::time::{Duration, Instant};

/// What is left of the budget.
#[derive(Debug)]
pub struct Limit {
    burst: u32,
    refill: Duration,
    left: u32,
    refilled: Instant,
}

impl Limit {
    /// A full budget.
    pub fn new(burst: u32, refill: Duration, now: Instant) -> Limit {
        Limit { burst, refill, left: burst, refilled: now }
    }

    /// Takes up to `wanted` of what is left; says how many it were.
    pub fn take(&mut self, wanted: usize, now: Instant) -> usize {
        let earned = now.duration_since(self.refilled).as_nanos() / self.refill.as_nanos().max(1);
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(earned).min(self.burst);
            // What is left of the span counts for the next one.
            self.refilled = match self.refill.checked_mul(earned) {
                Some(spent) if self.left < self.burst => self.refilled + spent,
                _ => now,
            };
        }
        let taken = u32::try_from(wanted).unwrap_or(u32::MAX).min(self.left);
        self.left -= taken;
        taken as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFILL: Duration = Duration::from_millis(500);

    #[test]
    fn a_burst_is_cut_off_and_recovers_at_the_pace_of_the_refill() {
        let start = Instant::now();
        let mut limit = Limit::new(50, REFILL, start);
        assert_eq!(limit.take(100, start), 50);
        assert_eq!(limit.take(1, start + REFILL / 2), 0);
        assert_eq!(limit.take(3, start + REFILL * 3 / 2), 1);
        assert_eq!(limit.take(3, start + REFILL * 2), 1, "half a span was carried over");
        assert_eq!(limit.take(100, start + REFILL * 1_000), 50);
    }
}
