//! Boots: what they were, and when several of them are a loop.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use wardring_protocol::Boot;

/// Boots of one job that are normal: an update may restart twice by itself.
const BOOTS_PER_JOB: usize = 3;
/// A crash this soon after a boot is not bad luck any more when it happens twice.
const SHORT_UPTIME: SignedDuration = SignedDuration::from_mins(10);
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
}

impl BootRecord {
    /// The same for a report.
    pub fn report(&self) -> Boot {
        Boot { boot_id: self.boot_id.clone(), at: self.at, kind: self.kind.as_str().to_owned() }
    }
}

/// Whether these boots are a loop. `all` are the device's last boots, oldest first; the last
/// `of_job` of them came after the job was accepted.
///
/// A device in a loop makes no restart of its own. Restarts we ordered count only against the
/// job's bound: two quick jobs in a row are not a loop.
pub fn is_loop(all: &[BootRecord], of_job: usize) -> bool {
    let since = all.len().saturating_sub(of_job);
    if of_job > BOOTS_PER_JOB {
        return true;
    }
    let hard = |boot: &BootRecord| matches!(boot.kind, BootKind::Crash | BootKind::Dirty);
    let soon =
        |index: usize| index > 0 && all[index].at.duration_since(all[index - 1].at) < SHORT_UPTIME;
    let quick_crashes =
        (since..all.len()).filter(|&index| hard(&all[index]) && soon(index)).count();
    if quick_crashes >= 2 {
        return true;
    }
    let Some(newest) = all.last() else { return false };
    // The first record is not a boot that was seen to happen: it is how the device was found.
    let unordered = all
        .iter()
        .skip(1)
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
            })
            .collect()
    }

    #[test]
    fn our_own_quick_restarts_are_no_loop() {
        let expected = BootKind::Expected;
        assert!(!is_loop(&boots(&[(0, expected), (1, expected), (2, expected)]), 3));
    }

    #[test]
    fn a_fourth_boot_within_one_job_is_a_loop() {
        let expected = BootKind::Expected;
        let four = boots(&[(0, expected), (60, expected), (120, expected), (180, expected)]);
        assert!(is_loop(&four, 4));
        assert!(!is_loop(&four, 3));
    }

    #[test]
    fn two_crashes_shortly_after_boots_are_a_loop_and_rare_ones_are_not() {
        let (expected, crash) = (BootKind::Expected, BootKind::Crash);
        assert!(is_loop(&boots(&[(0, expected), (2, crash), (4, crash)]), 2));
        assert!(!is_loop(&boots(&[(0, expected), (60, crash), (180, crash)]), 2));
    }

    #[test]
    fn three_restarts_that_nobody_ordered_within_half_an_hour_are_a_loop() {
        let foreign = BootKind::Foreign;
        assert!(!is_loop(&boots(&[(0, foreign), (5, foreign), (9, foreign)]), 0));
        assert!(is_loop(&boots(&[(0, foreign), (5, foreign), (9, foreign), (14, foreign)]), 0));
    }
}
