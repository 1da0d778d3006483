//! Looks that may hang in Windows, one at a time: one that does must not cost a thread with every try, and
//! of two at once the older could end last.

use std::time::{Duration, Instant};

/// What has not ended for so long hangs.
const HUNG: Duration = Duration::from_secs(600);

/// Looks of one kind.
#[derive(Debug, Default)]
pub(super) struct OneAtATime {
    /// Since when one is under way.
    since: Option<Instant>,
    /// Another was asked for meanwhile.
    is_wanted: bool,
    is_told: bool,
}

impl OneAtATime {
    /// Whether one begins now; else one is wanted after that under way.
    pub fn begin(&mut self, now: Instant) -> bool {
        let begins = self.since.is_none();
        if begins {
            self.since = Some(now);
        }
        self.is_wanted |= !begins;
        begins
    }

    /// It ended: whether another is wanted.
    pub fn end(&mut self) -> bool {
        std::mem::take(self).is_wanted
    }

    /// Whether one is under way.
    pub fn is_under_way(&self) -> bool {
        self.since.is_some()
    }

    /// Whether the one under way hangs.
    pub fn is_hung(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now.duration_since(since) >= HUNG)
    }

    /// The same, once for each that does.
    pub fn tells_hung(&mut self, now: Instant) -> bool {
        self.is_hung(now) && !std::mem::replace(&mut self.is_told, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_hangs_keeps_all_others_back_and_one_follows_it() {
        let mut looks = OneAtATime::default();
        let began = Instant::now();
        assert!(looks.begin(began));
        let asked = (1..=1000_u64).map(|minutes| began + Duration::from_secs(60 * minutes));
        let told: Vec<u64> = asked
            .filter(|now| !looks.begin(*now) && looks.tells_hung(*now))
            .map(|now| now.duration_since(began).as_secs() / 60)
            .collect();
        assert_eq!(told, [10], "told once");
        assert!(looks.end(), "one is wanted");
        let later = began + Duration::from_secs(100_000);
        assert!(looks.begin(later) && !looks.begin(later));
        assert!(looks.end());
    }

    #[test]
    fn none_follows_where_nobody_asked_meanwhile() {
        let mut looks = OneAtATime::default();
        let now = Instant::now();
        assert!(looks.begin(now) && !looks.is_hung(now));
        assert!(!looks.end());
        assert!(looks.begin(now), "the next may begin at once");
    }
}
