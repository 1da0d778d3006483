//! What it explains that somebody switched the device off in the middle of an installation's job: that it did
//! not begin in time. Nothing else. What has begun is proven or has failed, and a removal is told as it is:
//! half of one is no matter of a power switch.

use jiff::Timestamp;
use wardring_seal::{Action, OutcomeResult};

use super::end::End;
use super::{BootKind, JobRun, Off, permits};

/// Reason word.
const REASON: &str = "PoweredOff";

/// The end of a job that has not begun and may not begin any more, where the last moment to begin passed while
/// the device was off. Of one that has begun nobody knows what it came to before that is proven.
pub(super) fn missed(job: &JobRun) -> Option<End> {
    if job.is_answerable() || !is_sound(job) {
        return None;
    }
    let off = over(job, job.payload.start_by)?;
    let message = format!("{off}, and the last moment to begin passed meanwhile");
    Some(End::because(OutcomeResult::PoweredOff, REASON, message))
}

/// The same ending, told as one that came too late where the device crashed since: while the hooks ran that bring it
/// back into service.
pub(super) fn still(job: &JobRun, ending: End) -> End {
    if ending.result == OutcomeResult::PoweredOff && !is_sound(job) {
        return permits::too_late(ending.message);
    }
    ending
}

/// Whether this moment of the job passed while the device was off, as a sentence.
pub(super) fn over(job: &JobRun, moment: Timestamp) -> Option<String> {
    let mut all = job.boots.iter().rev().filter_map(|boot| boot.off);
    all.find(|off| off.covers(moment)).map(sentence)
}

/// Whether it was off before the running boot, as a sentence.
pub(super) fn last(job: &JobRun) -> Option<String> {
    job.boots.last()?.off.map(sentence)
}

/// Whether nothing happened in this job but clean restarts and switching off.
fn is_sound(job: &JobRun) -> bool {
    let is_clean = |kind: BootKind| matches!(kind, BootKind::Expected | BootKind::Foreign);
    job.payload.key.action == Action::Install
        && !job.is_rollback()
        && job.boots.iter().all(|boot| is_clean(boot.kind))
}

fn sentence(off: Off) -> String {
    format!("the device was switched off from {} to {}", off.since, off.until)
}
