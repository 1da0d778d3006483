//! The DISM that a removal waits for.
//!
//! DISM goes on when the agent that began it is killed, and the next one must not begin another beside
//! it. So the agent writes down which process removes, right after it was set going, and not before: one
//! that was being started when its agent died may be there for good and never run, since a process is
//! made first and set going by whoever made it (seen under Wine). Who waits for that waits in vain.

use std::fmt;

/// As long as the agent waits for a removal of its own before it calls that a failure.
const HANGS_AFTER_MS: u64 = 3 * 3_600_000;

/// The DISM that an agent of this boot set going last to remove something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Begun {
    /// Number of its process, which is given again after its end.
    pub pid: u32,
    /// When that was made: ticks of 100 ns since 1601, by the clock as it was then.
    pub made: u64,
    /// Milliseconds between the computer's start and then.
    pub uptime_ms: u64,
}

impl fmt::Display for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.pid, self.made, self.uptime_ms)
    }
}

impl Begun {
    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Begun> {
        let mut words = text.split(' ');
        let (pid, made) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let uptime_ms = words.next()?.parse().ok()?;
        words.next().is_none().then_some(Begun { pid, made, uptime_ms })
    }

    /// Whether a removal waits for it: a process of this number, which was made at `made`, runs
    /// `uptime_ms` after the computer's start. The clock may have been set since, and is not asked.
    pub fn is_waited_for(&self, made: u64, uptime_ms: u64) -> bool {
        made == self.made && uptime_ms.saturating_sub(self.uptime_ms) < HANGS_AFTER_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADE: u64 = 134_000_000_000_000_000;
    const OURS: Begun = Begun { pid: 4711, made: MADE, uptime_ms: 60_000 };

    #[test]
    fn it_is_waited_for_as_long_as_a_removal_may_take_and_never_for_another_of_its_number() {
        let waits = |made, minutes: u64| OURS.is_waited_for(made, 60_000 + minutes * 60_000);
        assert!(waits(MADE, 0) && waits(MADE, 179));
        assert!(!waits(MADE, 180));
        assert!(!waits(MADE + 1, 0) && !waits(0, 0));
    }

    #[test]
    fn what_is_written_down_is_read_again_and_nothing_else_is() {
        assert_eq!(Begun::parse(&OURS.to_string()), Some(OURS));
        for other in ["", "1", "1 2", "1 2 3 4", "-1 2 3", "1  2 3", "1 2 x"] {
            assert_eq!(Begun::parse(other), None, "{other:?}");
        }
    }
}
