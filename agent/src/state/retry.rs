//! What a code of Windows means for the job in hand: whether the same update is tried again in it.
//!
//! Only an end that Windows itself called failed is tried again. Where nobody saw the end, the
//! installation may still run, and a second one beside it would be worse than any failure.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::hresult::{Class, Hresult};

use super::{JobRun, Move, ServicingResult, UpdateState, install};

/// Pauses before an update is tried again. What passes by itself mostly passes within minutes; a
/// device that is being patched counts as unavailable, so it does not wait for hours.
const PAUSES_MS: [u64; 3] = [60_000, 5 * 60_000, 15 * 60_000];
/// OperationResultCode of an installation that Windows saw fail. Aborted ones (5) have no known end.
const FAILED: i32 = 4;

/// Tries of one update that failed, where another one may follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tries {
    /// How many failed.
    pub failed: u32,
    /// The device was restarted for it, or is about to be.
    pub restarted: bool,
    /// How the last one ended.
    pub last: ServicingResult,
}

/// What follows from an installation or a removal that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The same update again, after a pause.
    Again { after_ms: u64 },
    /// The same update again, after a restart.
    AfterRestart,
    /// The next update: this one has no business here, which says nothing about the others.
    Others,
    /// Nothing more: a person must change something, or no try would end otherwise.
    Nothing,
}

/// Decides by the class of the code, within the bounds of the job.
pub(super) fn next(mv: &Move, job: &JobRun, kb: &str, result: &ServicingResult) -> Next {
    if result.code != FAILED {
        return Next::Nothing;
    }
    let before = job.tries.get(kb);
    match Hresult(result.hresult).class() {
        Class::Retry => {
            let failed = before.map_or(0, |tries| tries.failed);
            let pause = usize::try_from(failed).ok().and_then(|failed| PAUSES_MS.get(failed));
            let is_in_time = |after_ms: u64| {
                let pause =
                    SignedDuration::from_millis(i64::try_from(after_ms).unwrap_or(i64::MAX));
                mv.now.wall.checked_add(pause).is_ok_and(|then| then < job.payload.finish_by)
            };
            match pause.copied().filter(|after_ms| is_in_time(*after_ms)) {
                Some(after_ms) => Next::Again { after_ms },
                None => Next::Nothing,
            }
        }
        Class::AfterReboot => {
            // A restart of its own is only for a rollout that allows one before the installation, or
            // for a device that this job restarts anyway, as every rollback may.
            let allows = job.payload.preflight.reboot_first || job.is_rollback();
            let may_restart = allows || job.reboot_required;
            let is_new = !before.is_some_and(|tries| tries.restarted);
            if may_restart && is_new && job.may_reboot() {
                Next::AfterRestart
            } else {
                Next::Nothing
            }
        }
        Class::NotForThisDevice => Next::Others,
        Class::Done
        | Class::DoneAfterReboot
        | Class::Repair
        | Class::DeviceState
        | Class::Operator
        | Class::Permanent => Next::Nothing,
    }
}

/// Remembers a try that failed; the update waits for the next one.
pub(super) fn note(job: &mut JobRun, index: usize, result: ServicingResult, restarted: bool) {
    let update = &mut job.updates[index];
    update.state = UpdateState::Waiting;
    let before = job.tries.get(&update.kb);
    let tries = Tries {
        failed: before.map_or(0, |tries| tries.failed) + 1,
        restarted: restarted || before.is_some_and(|tries| tries.restarted),
        last: result,
    };
    job.tries.insert(update.kb.clone(), tries);
}

/// Number of the next try of an update; the first is 0. Each has a name of its own on the platform.
pub(super) fn number(job: &JobRun, index: usize) -> u32 {
    job.tries.get(&job.updates[index].kb).map_or(0, |tries| tries.failed)
}

/// Ends an update that waits for another try and does not get one: its last try is how it ended.
/// False when it was never tried.
pub(super) fn give_up(job: &mut JobRun, index: usize, why: &str) -> bool {
    let kb = job.updates[index].kb.clone();
    let Some(tries) = job.tries.get(&kb) else { return false };
    let what = format!("failed with {}; not tried again: {why}", tries.last.explanation());
    job.updates[index].state = UpdateState::Ended(tries.last.clone());
    install::note_trouble(&mut job.trouble, &kb, &what);
    true
}

/// `failed with`, or after several tries how many there were.
pub(super) fn failed_with(job: &JobRun, index: usize, result: &ServicingResult) -> String {
    match number(job, index) {
        0 => format!("failed with {}", result.explanation()),
        before => format!("failed {} times, last with {}", before + 1, result.explanation()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::Bench;
    use super::*;
    use wardring_seal::Action;

    const TIMEOUT: u32 = 0x8007_2EE2;
    const NOT_ALLOWED: u32 = 0x8024_0016;

    fn failed(hresult: u32) -> ServicingResult {
        ServicingResult { code: FAILED, hresult, reboot_required: false, packages: Vec::new() }
    }

    /// What follows from `result`, in a job that `change` prepared.
    fn after(result: &ServicingResult, change: impl FnOnce(&mut JobRun)) -> Next {
        let mut bench = Bench::new();
        bench.take(super::super::Event::Offered(Box::new(bench.job(1, Action::Install))));
        let mut job = bench.state.job.clone().unwrap();
        change(&mut job);
        let now = super::super::Now { wall: bench.wall, mono_ms: bench.mono_ms };
        let mv = Move { state: bench.state, now, effects: Vec::new() };
        next(&mv, &job, "KB1", result)
    }

    #[test]
    fn the_class_of_the_code_says_what_follows() {
        use Next::{AfterRestart, Again, Nothing, Others};
        for (hresult, with_restart, without) in [
            (TIMEOUT, Again { after_ms: 60_000 }, Again { after_ms: 60_000 }),
            (0x8007_0020, Again { after_ms: 60_000 }, Again { after_ms: 60_000 }),
            (NOT_ALLOWED, AfterRestart, Nothing),
            (0x8024_0017, Others, Others),
            // Repair, device state, operator, permanent.
            (0x8007_3712, Nothing, Nothing),
            (0x8007_0070, Nothing, Nothing),
            (0x8007_0643, Nothing, Nothing),
            (0x8024_200B, Nothing, Nothing),
            // A success code of a failed installation proves nothing either way.
            (0x0024_0006, Nothing, Nothing),
            (0, Nothing, Nothing),
        ] {
            let restarts = after(&failed(hresult), |job| job.payload.preflight.reboot_first = true);
            assert_eq!(restarts, with_restart, "{hresult:#X}");
            assert_eq!(after(&failed(hresult), |_| ()), without, "{hresult:#X}");
        }
    }

    #[test]
    fn an_end_that_nobody_saw_is_never_tried_again() {
        for code in [0, 1, 5] {
            let result = ServicingResult { code, ..failed(TIMEOUT) };
            assert_eq!(after(&result, |_| ()), Next::Nothing, "{code}");
        }
    }

    #[test]
    fn the_pauses_grow_and_end() {
        let mut pauses = Vec::new();
        for failed_before in 0..5 {
            let tries = Tries { failed: failed_before, restarted: false, last: failed(TIMEOUT) };
            pauses.push(after(&failed(TIMEOUT), |job| {
                job.tries.insert("KB1".to_owned(), tries);
            }));
        }
        let again = |minutes: u64| Next::Again { after_ms: minutes * 60_000 };
        assert_eq!(pauses, [again(1), again(5), again(15), Next::Nothing, Next::Nothing]);
    }

    #[test]
    fn no_try_begins_after_the_time_of_the_job() {
        let soon = |job: &mut JobRun| {
            job.payload.finish_by = job.accepted_at + SignedDuration::from_secs(59);
        };
        assert_eq!(after(&failed(TIMEOUT), soon), Next::Nothing);
    }

    #[test]
    fn an_update_gets_one_restart_and_none_beyond_the_bound_of_the_job() {
        let restarted = |job: &mut JobRun| {
            job.reboot_required = true;
            let tries = Tries { failed: 1, restarted: true, last: failed(NOT_ALLOWED) };
            job.tries.insert("KB1".to_owned(), tries);
        };
        assert_eq!(after(&failed(NOT_ALLOWED), restarted), Next::Nothing);
        let spent = |job: &mut JobRun| {
            job.reboot_required = true;
            job.reboots = super::super::MAX_REBOOTS;
        };
        assert_eq!(after(&failed(NOT_ALLOWED), spent), Next::Nothing);
        let anyway = |job: &mut JobRun| job.reboot_required = true;
        assert_eq!(after(&failed(NOT_ALLOWED), anyway), Next::AfterRestart);
    }
}
