//! Which DISM a removal waits for.
//!
//! DISM goes on when the agent that began it is killed, and the next one must not begin another beside
//! it. So the agent writes down which process removes, right after it was started. One that was being
//! started when its agent died is not written down: it may be there for good and never run, since a
//! process is made first and set going by whoever made it ("CreateProcessW", Microsoft Learn; seen under
//! Wine). Nobody can tell it from one that was set going and not written down, or that somebody else
//! began: those are waited for as long as they are young.

use std::fmt;

/// As long as the agent waits for a removal of its own before it calls that a failure.
const HANGS_AFTER_MS: u64 = 3 * 3_600_000;
/// Ticks of 100 ns in a minute: longer than DISM takes to tell something, and what one that never runs
/// costs.
const YOUNG: u64 = 60 * 10_000_000;

/// A process, as nothing else is called until the next boot: numbers are given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its number.
    pub pid: u32,
    /// When it was made: ticks of 100 ns since 1601, by the clock as it was then.
    pub made: u64,
}

/// The DISM that an agent of this boot set going last to remove something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Begun {
    /// Which one.
    pub process: Process,
    /// Milliseconds between the computer's start and its own.
    pub uptime_ms: u64,
}

/// The moment of a look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// By the clock, in the unit of [`Process::made`].
    pub clock: u64,
    /// Milliseconds since the computer was started.
    pub uptime_ms: u64,
}

impl fmt::Display for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.process.pid, self.process.made, self.uptime_ms)
    }
}

impl Begun {
    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Begun> {
        let mut words = text.split(' ');
        let process =
            Process { pid: words.next()?.parse().ok()?, made: words.next()?.parse().ok()? };
        let uptime_ms = words.next()?.parse().ok()?;
        words.next().is_none().then_some(Begun { process, uptime_ms })
    }
}

/// Whether a removal waits for this DISM, which runs or seems to.
pub(crate) fn is_waited_for(running: Process, begun: Option<Begun>, now: Now) -> bool {
    match begun.filter(|begun| begun.process == running) {
        Some(begun) => now.uptime_ms.saturating_sub(begun.uptime_ms) < HANGS_AFTER_MS,
        // The clock may have been set since, to either side.
        None => now.clock.abs_diff(running.made) < YOUNG,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADE: u64 = 134_000_000_000_000_000;
    const OURS: Begun = Begun { process: Process { pid: 4711, made: MADE }, uptime_ms: 60_000 };

    fn after(minutes: u64) -> Now {
        Now { clock: MADE + minutes * 600_000_000, uptime_ms: 60_000 + minutes * 60_000 }
    }

    #[test]
    fn what_was_begun_is_waited_for_as_long_as_a_removal_may_take_whatever_the_clock_says() {
        let waits = |now| is_waited_for(OURS.process, Some(OURS), now);
        assert!(waits(after(0)) && waits(after(179)) && !waits(after(180)));
        assert!(waits(Now { clock: 0, ..after(179) }));
    }

    #[test]
    fn a_dism_that_nobody_wrote_down_costs_a_minute_and_never_more() {
        let other_number = Process { pid: 4712, ..OURS.process };
        let number_given_again = Process { made: MADE + 1, ..OURS.process };
        for (running, begun) in
            [(OURS.process, None), (other_number, Some(OURS)), (number_given_again, Some(OURS))]
        {
            assert!(is_waited_for(running, begun, after(0)), "{running:?}");
            assert!(!is_waited_for(running, begun, after(1)), "{running:?}");
        }
        // A clock that was set back must not make it young for years.
        assert!(!is_waited_for(OURS.process, None, Now { clock: MADE / 2, uptime_ms: 0 }));
    }

    #[test]
    fn what_is_written_down_is_read_again_and_nothing_else_is() {
        assert_eq!(Begun::parse(&OURS.to_string()), Some(OURS));
        for other in ["", "1", "1 2", "1 2 3 4", "-1 2 3", "1  2 3", "1 2 x"] {
            assert_eq!(Begun::parse(other), None, "{other:?}");
        }
    }
}
