//! Boots: what they were, and when several of them are a loop.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use wardring_protocol::Boot;

/// Boots of one job that are normal: an update may restart twice by itself.
const BOOTS_PER_JOB: usize = 3;
/// A crash this soon after a boot is not bad luck any more when it happens twice; and a boot that
/// follows a crash must hold so long before anything good is said of it.
pub(super) const SHORT_UPTIME: SignedDuration = SignedDuration::from_mins(10);
/// Crashes since something was installed or removed that are a loop, however far apart the clock
/// says they were: it may have been set between them.
const STRIKES: u32 = 2;
/// Boots nobody ordered within this time are a loop, whatever caused them.
const BURST: SignedDuration = SignedDuration::from_mins(30);
const BURST_BOOTS: usize = 3;

/// Why a device booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootKind {
    /// The restart we asked for.
    Expected,
    /// Somebody else's clean restart.
    Foreign,
    /// A crash.
    Crash,
    /// Power loss or reset.
    Dirty,
    /// Cannot be told.
    Unknown,
}

impl BootKind {
    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            BootKind::Expected => "Expected",
            BootKind::Foreign => "Foreign",
            BootKind::Crash => "Crash",
            BootKind::Dirty => "Dirty",
            BootKind::Unknown => "Unknown",
        }
    }
}

/// One boot, as the agent first saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootRecord {
    /// Identity.
    pub boot_id: String,
    /// When the agent first ran in it, by the device's clock.
    pub at: Timestamp,
    /// Why.
    pub kind: BootKind,
    /// How long it had been off before, where somebody had switched it off. No layout of its own: without it
    /// an agent says of a job that it was not done in time, and does nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub off: Option<Off>,
}

/// A time in which a device was off, because somebody had shut it down cleanly, in whole seconds by the
/// device's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Off {
    /// Its end of work.
    pub since: Timestamp,
    /// Its next start.
    pub until: Timestamp,
}

impl Off {
    /// A shorter time may be a restart that took long: firmware that tests its memory, a start that waits at a
    /// prompt for a moment, Windows that is at work on updates outside of any boot that logs.
    const SHORTEST: SignedDuration = SignedDuration::from_mins(30);
    /// A longer time is rather a clock that was set.
    const LONGEST: SignedDuration = SignedDuration::from_hours(366 * 24);

    /// The time between the end of one boot and the beginning of the next, where it says that the device was
    /// off. A clock that was set back in between says nothing.
    pub fn between(end: Timestamp, begin: Timestamp) -> Option<Off> {
        let whole = |at: Timestamp| Timestamp::from_second(at.as_second()).unwrap_or(at);
        let span = begin.duration_since(end);
        (Off::SHORTEST..=Off::LONGEST)
            .contains(&span)
            .then(|| Off { since: whole(end), until: whole(begin) })
    }

    /// Whether this moment passed meanwhile.
    pub fn covers(&self, moment: Timestamp) -> bool {
        (self.since..=self.until).contains(&moment)
    }
}

impl BootRecord {
    /// The same for a report.
    pub fn report(&self) -> Boot {
        Boot { boot_id: self.boot_id.clone(), at: self.at, kind: self.kind.as_str().to_owned() }
    }
}

/// Whether a job in hand meets a loop. `all` are the device's last boots, oldest first; the last
/// `of_job` of them came after the job was accepted. `strikes` are the boots that speak against
/// what the job did, see [`is_strike`].
///
/// A device in a loop makes no restart of its own. Restarts we ordered count only against the
/// job's bound: two quick jobs in a row are not a loop.
pub fn is_loop(all: &[BootRecord], of_job: usize, strikes: u32) -> bool {
    let since = all.len().saturating_sub(of_job);
    of_job > BOOTS_PER_JOB
        || strikes >= STRIKES
        || quick_crashes(all, since) >= 2
        || is_burst(&all[since..])
}

/// Whether the device restarts so often that nothing new is begun on it. One that has been up for
/// long enough (`held`, on a clock that nobody sets) has come to rest, whatever was before.
pub fn is_restless(all: &[BootRecord], held: SignedDuration) -> bool {
    // The first record is not a boot that was seen to happen: it is how the device was found.
    let seen = all.get(1..).unwrap_or_default();
    held < BURST && (quick_crashes(all, all.len().saturating_sub(2)) >= 2 || is_burst(seen))
}

/// Whether a boot speaks against what was just installed or removed. While it is being proven, a
/// boot that nobody ordered and nobody can explain does, too.
pub fn is_strike(kind: BootKind, is_being_proven: bool) -> bool {
    match kind {
        BootKind::Crash | BootKind::Dirty => true,
        BootKind::Unknown => is_being_proven,
        BootKind::Expected | BootKind::Foreign => false,
    }
}

/// Crashes shortly after the boot before them, from the record `since` on.
fn quick_crashes(all: &[BootRecord], since: usize) -> usize {
    let is_hard = |boot: &BootRecord| matches!(boot.kind, BootKind::Crash | BootKind::Dirty);
    let is_soon =
        |index: usize| index > 0 && all[index].at.duration_since(all[index - 1].at) < SHORT_UPTIME;
    (since..all.len()).filter(|&index| is_hard(&all[index]) && is_soon(index)).count()
}

/// Whether the newest boot is the last of many that nobody ordered, within a short time.
fn is_burst(boots: &[BootRecord]) -> bool {
    let Some(newest) = boots.last() else { return false };
    let unordered = boots
        .iter()
        .filter(|boot| boot.kind != BootKind::Expected)
        .filter(|boot| newest.at.duration_since(boot.at) < BURST);
    newest.kind != BootKind::Expected && unordered.count() >= BURST_BOOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boots(of: &[(i64, BootKind)]) -> Vec<BootRecord> {
        let at = |minute: i64| Timestamp::from_second(1_790_000_000 + minute * 60).unwrap();
        of.iter()
            .map(|(minute, kind)| BootRecord {
                boot_id: format!("boot-{minute}"),
                at: at(*minute),
                kind: *kind,
                off: None,
            })
            .collect()
    }

    #[test]
    fn our_own_quick_restarts_are_no_loop() {
        let expected = BootKind::Expected;
        assert!(!is_loop(&boots(&[(0, expected), (1, expected), (2, expected)]), 3, 0));
    }

    #[test]
    fn a_fourth_boot_within_one_job_is_a_loop() {
        let expected = BootKind::Expected;
        let four = boots(&[(0, expected), (60, expected), (120, expected), (180, expected)]);
        assert!(is_loop(&four, 4, 0));
        assert!(!is_loop(&four, 3, 0));
    }

    #[test]
    fn two_crashes_shortly_after_boots_are_a_loop_and_rare_ones_are_not() {
        let (expected, crash) = (BootKind::Expected, BootKind::Crash);
        assert!(is_loop(&boots(&[(0, expected), (2, crash), (4, crash)]), 2, 0));
        assert!(!is_loop(&boots(&[(0, expected), (60, crash), (180, crash)]), 2, 0));
    }

    #[test]
    fn three_restarts_that_nobody_ordered_within_half_an_hour_are_a_loop() {
        let foreign = BootKind::Foreign;
        let found = boots(&[(0, foreign), (5, foreign), (9, foreign)]);
        let looping = boots(&[(0, foreign), (5, foreign), (9, foreign), (14, foreign)]);
        let moment = SignedDuration::from_mins(1);
        assert!(!is_restless(&found, moment));
        assert!(is_restless(&looping, moment));
        assert!(is_loop(&looping, 3, 0));
        assert!(!is_loop(&looping, 2, 0), "the first two came before the job");
    }

    #[test]
    fn two_quick_crashes_keep_new_work_away() {
        let (expected, crash) = (BootKind::Expected, BootKind::Crash);
        let crashing = boots(&[(0, expected), (4, crash), (8, crash)]);
        assert!(is_restless(&crashing, SignedDuration::ZERO));
        assert!(!is_restless(&boots(&[(0, expected), (90, crash), (95, crash)]), BURST));
    }

    #[test]
    fn a_device_that_has_been_up_for_half_an_hour_has_come_to_rest() {
        let foreign = BootKind::Foreign;
        let looped = boots(&[(0, foreign), (5, foreign), (9, foreign), (14, foreign)]);
        assert!(is_restless(&looped, SignedDuration::from_mins(29)));
        assert!(!is_restless(&looped, SignedDuration::from_mins(30)));
    }

    #[test]
    fn two_crashes_since_the_update_are_a_loop_whatever_the_clock_says() {
        let (expected, crash) = (BootKind::Expected, BootKind::Crash);
        let set_forward = boots(&[(0, expected), (300, crash), (9_000, crash)]);
        assert!(!is_loop(&set_forward, 3, 0));
        assert!(is_loop(&set_forward, 3, 2));
        assert!(is_strike(crash, false) && is_strike(BootKind::Dirty, false));
        assert!(is_strike(BootKind::Unknown, true) && !is_strike(BootKind::Unknown, false));
        assert!(!is_strike(expected, true) && !is_strike(BootKind::Foreign, true));
    }

    #[test]
    fn only_a_long_time_that_no_clock_made_up_is_one_in_which_it_was_off() {
        let at = |minutes: i64| Timestamp::from_second(1_790_000_000 + minutes * 60).unwrap();
        for minutes in [-600, 0, 29, 366 * 24 * 60 + 1] {
            assert_eq!(Off::between(at(0), at(minutes)), None, "{minutes} minutes");
        }
        for minutes in [30, 366 * 24 * 60] {
            let off = Off { since: at(0), until: at(minutes) };
            assert_eq!(Off::between(at(0), at(minutes)), Some(off), "{minutes} minutes");
        }
        let night = Off::between(at(0), at(600)).unwrap();
        assert!(night.covers(at(0)) && night.covers(at(300)) && night.covers(at(600)));
        assert!(!night.covers(at(-1)) && !night.covers(at(601)));
    }
}
