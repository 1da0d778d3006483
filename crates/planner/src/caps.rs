//! A stage's limits with their defaults, and the published arithmetic that turns them into devices.
//!
//! Percentages are of the frozen size. Concurrency is rounded down and at least 1; budgets are
//! rounded down and a zero is a zero; coverage is rounded up. A budget is broken by strictly more.

use jiff::{SignedDuration, Timestamp};
use wardring_api::{
    Cap, Expedite, OfflineAction, ResolvedCaps, Span, Stage, StageState, StageStatus,
};

use crate::tail;

/// Concurrency of a stage that names none: a tenth, so that a forgotten field is not a whole fleet.
pub const DEFAULT_CONCURRENCY: Cap = Cap::Percent(10);

/// A stage's limits, defaults filled in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    max_concurrency: Cap,
    max_failures: Cap,
    max_unreachable: Cap,
    pub min_devices: usize,
    min_proven: u32,
    min_coverage: Cap,
    pub soak: SignedDuration,
    pub progress_deadline: SignedDuration,
    pub start_within: SignedDuration,
    pub silence_deadline: SignedDuration,
    pub reboot_slow_after: SignedDuration,
    pub reboot_deadline: SignedDuration,
    pub device_deadline: SignedDuration,
    pub offline: OfflineAction,
    pub offline_after: SignedDuration,
    pub close_after: SignedDuration,
    /// The stage's tail has closed: nothing of it begins any more, not a second attempt either.
    pub is_closed: bool,
    /// Nobody begins in the stage any more: it is proven, and not open for latecomers.
    pub is_past: bool,
    pub max_attempts: u32,
    pub backoff: SignedDuration,
}

impl Rules {
    pub fn new(stage: &Stage) -> Rules {
        let span = |span: Option<Span>, default: Span| span.unwrap_or(default).duration();
        // A stage that does not wait for everybody opens nothing on nobody.
        let least = u32::from(stage.offline.action == OfflineAction::CatchUp);
        let max_failures = stage.max_failures.unwrap_or(Cap::Count(0));
        Rules {
            max_concurrency: stage.max_concurrency.unwrap_or(DEFAULT_CONCURRENCY),
            max_failures,
            max_unreachable: stage.max_unreachable.unwrap_or(max_failures),
            min_devices: stage.min_devices.unwrap_or(1) as usize,
            min_proven: stage.min_proven.unwrap_or(1).max(least),
            min_coverage: stage.min_coverage.unwrap_or(Cap::Percent(100)),
            soak: span(stage.soak, Span::from_secs(0)),
            progress_deadline: span(stage.progress_deadline, Span::from_hours(7 * 24)),
            start_within: span(stage.start_within, Span::from_hours(4)),
            silence_deadline: span(stage.silence_deadline, Span::from_hours(1)),
            reboot_slow_after: span(stage.reboot_slow_after, Span::from_mins(30)),
            reboot_deadline: span(stage.reboot_deadline, Span::from_hours(2)),
            device_deadline: span(stage.device_deadline, Span::from_hours(24)),
            offline: stage.offline.action,
            offline_after: span(stage.offline.after, Span::from_hours(24)),
            close_after: span(stage.offline.close_after, Span::from_hours(14 * 24)),
            is_closed: false,
            is_past: false,
            max_attempts: stage.retry.max_attempts.unwrap_or(1),
            backoff: span(stage.retry.backoff, Span::from_mins(10)),
        }
    }

    /// The rules for a stage that has come this far.
    pub fn of(stage: &Stage, status: &StageStatus) -> Rules {
        let is_proven =
            matches!(status.state, StageState::Soaking | StageState::Tail | StageState::Completed);
        Rules {
            is_closed: tail::is_closed(status),
            is_past: is_proven && !tail::is_open(status),
            ..Rules::new(stage)
        }
    }

    /// The same without what an expedited stage leaves out.
    pub fn expedited(self, by: Option<&Expedite>) -> Rules {
        let skips = by.is_some_and(|expedite| expedite.skip_soak);
        Rules { soak: if skips { SignedDuration::ZERO } else { self.soak }, ..self }
    }

    /// The caps in whole devices, for a stage of `size` frozen devices of which `applicable` count
    /// for coverage.
    pub fn caps(&self, size: usize, applicable: usize) -> ResolvedCaps {
        let least = usize::from(self.offline == OfflineAction::CatchUp);
        let whole = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        ResolvedCaps {
            size: whole(size),
            max_concurrency: whole(self.max_concurrency.of(size).max(1)),
            max_failures: whole(self.max_failures.of(size)),
            max_unreachable: whole(self.max_unreachable.of(size)),
            min_coverage: whole(share_of(self.min_coverage, applicable).max(least)),
            min_proven: self.min_proven,
        }
    }
}

/// A demanded share: rounded up, because rounding down would ask for less than was written.
fn share_of(cap: Cap, size: usize) -> usize {
    match cap {
        Cap::Count(count) => (count as usize).min(size),
        Cap::Percent(percent) => (size * usize::from(percent)).div_ceil(100),
    }
}

/// Devices of a group of `size` that may be unavailable: a percentage is at least 1, so that a
/// small group can be patched at all; a literal 0 is a real zero.
pub(crate) fn group_limit(cap: Cap, size: usize) -> usize {
    match cap {
        Cap::Count(count) => count as usize,
        Cap::Percent(0) => 0,
        Cap::Percent(_) => cap.of(size).max(1),
    }
}

/// `instant + span`, at the end of time when that overflows.
pub(crate) fn later(instant: Timestamp, span: SignedDuration) -> Timestamp {
    instant.checked_add(span).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(yaml: serde_json::Value) -> Rules {
        let mut stage = serde_json::json!({ "name": "test", "group": "test" });
        stage.as_object_mut().unwrap().extend(yaml.as_object().unwrap().clone());
        Rules::new(&serde_json::from_value(stage).unwrap())
    }

    #[test]
    fn concurrency_rounds_down_but_is_at_least_one() {
        let rules = rules(serde_json::json!({ "maxConcurrency": "25%" }));
        assert_eq!(rules.caps(7, 7).max_concurrency, 1);
        assert_eq!(rules.caps(8, 8).max_concurrency, 2);
        assert_eq!(rules.caps(0, 0).max_concurrency, 1);
    }

    #[test]
    fn budgets_round_down_and_a_zero_is_a_zero() {
        let rules = rules(serde_json::json!({ "maxFailures": "10%" }));
        assert_eq!(rules.caps(9, 9).max_failures, 0);
        assert_eq!(rules.caps(20, 20).max_failures, 2);
        assert_eq!(rules.caps(20, 20).max_unreachable, 2, "defaults to maxFailures");
    }

    #[test]
    fn coverage_rounds_up_over_what_is_applicable() {
        let rules = rules(serde_json::json!({ "minCoverage": "90%" }));
        assert_eq!(rules.caps(20, 11).min_coverage, 10);
    }

    #[test]
    fn a_group_of_three_with_ten_percent_may_still_lose_one() {
        assert_eq!(group_limit(Cap::Percent(10), 3), 1);
        assert_eq!(group_limit(Cap::Count(0), 3), 0);
    }
}
