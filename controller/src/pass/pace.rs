//! What may wait a moment: counters that people read. A fleet at work changes them many times a second,
//! and each write of a status competes with grants and outcomes for the API server.
//!
//! Whatever a person or a later pass acts on is never held back: a halt, a phase, a stage that moves, a
//! reason, a failure. Only this leader's own writes are counted, so a new leader writes at once.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use wardring_api::{DeviceGroupStatus, PatchRolloutStatus, StageCounts, conditions::PROGRESSING};

/// A rollout's counters are written this often at most: about as often as people look again.
pub const ROLLOUT_EVERY: Duration = Duration::from_secs(2);
/// A group's counters are for orientation only; its flag that holds restarts is written at once.
pub const GROUP_EVERY: Duration = Duration::from_secs(5);

/// When this leader last wrote what.
#[derive(Debug, Default)]
pub struct Pace {
    written: BTreeMap<String, (Instant, Duration)>,
    due: Option<Instant>,
}

impl Pace {
    /// A pass begins: what was held back is decided anew.
    pub fn begin(&mut self, now: Instant) {
        self.due = None;
        self.written.retain(|_, (at, every)| now.duration_since(*at) < *every);
    }

    /// Whether a write of counters has to wait, because `key` was written less than `every` ago.
    pub fn holds_back(&mut self, key: &str, every: Duration) -> bool {
        let Some((at, _)) = self.written.get(key) else { return false };
        self.look_again(*at + every);
        true
    }

    /// Has the namespace looked at again by then, whatever happens.
    pub fn look_again(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |known| known.min(at)));
    }

    /// Takes note of a write.
    pub fn wrote(&mut self, key: &str, every: Duration, now: Instant) {
        self.written.insert(key.to_owned(), (now, every));
    }

    /// When something that was held back in this pass may be written.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }
}

/// Whether two statuses of a rollout differ in nothing but counters and the sentences around them.
pub fn is_only_progress(before: &PatchRolloutStatus, after: &PatchRolloutStatus) -> bool {
    without_progress(before) == without_progress(after)
}

/// Whether two statuses of a group differ in nothing but counters.
pub fn is_only_load(before: &DeviceGroupStatus, after: &DeviceGroupStatus) -> bool {
    // Which restarts are held is no counter.
    let held = |status: &DeviceGroupStatus| {
        let over = status.full.iter().filter(|full| full.unavailable > full.max);
        over.map(|full| (full.key.clone(), full.value.clone())).collect::<Vec<_>>()
    };
    before.reboots == after.reboots && held(before) == held(after)
}

fn without_progress(status: &PatchRolloutStatus) -> PatchRolloutStatus {
    let mut rest = status.clone();
    rest.progress = None;
    rest.next_evaluation = None;
    // The message repeats what is waited for first; where that counts devices, it is progress.
    if rest.waiting_for.first().is_some_and(|first| first.devices.is_some()) {
        rest.message = None;
        for condition in rest.conditions.iter_mut().filter(|one| one.type_ == PROGRESSING) {
            condition.message.clear();
        }
    }
    for waiting in rest.waiting_for.iter_mut().filter(|waiting| waiting.devices.is_some()) {
        waiting.devices = None;
        waiting.message.clear();
    }
    for stage in &mut rest.stages {
        stage.counts = trouble(&stage.counts);
    }
    rest
}

/// The counters that are news.
fn trouble(counts: &StageCounts) -> StageCounts {
    StageCounts {
        failed: counts.failed,
        unreachable: counts.unreachable,
        rolled_back: counts.rolled_back,
        rollback_failed: counts.rollback_failed,
        reboot_slow: counts.reboot_slow,
        ..StageCounts::default()
    }
}

#[cfg(test)]
mod tests {
    use wardring_api::{FullValue, Reboots, RolloutPhase, StageStatus, Waiting};

    use super::*;

    fn at_work(succeeded: u32, in_progress: u32) -> PatchRolloutStatus {
        let message = format!("Stage test: {in_progress} devices are at work.");
        let waiting = Waiting {
            reason: "InProgress".to_owned(),
            message: message.clone(),
            devices: Some(in_progress),
            until: None,
        };
        let counts = StageCounts { succeeded, in_progress, ..StageCounts::default() };
        PatchRolloutStatus {
            phase: Some(RolloutPhase::Progressing),
            message: Some(message),
            progress: Some(format!("{succeeded}/10")),
            waiting_for: vec![waiting],
            stages: vec![StageStatus { counts, ..StageStatus::default() }],
            ..PatchRolloutStatus::default()
        }
    }

    #[test]
    fn counters_of_devices_at_work_are_progress() {
        assert!(is_only_progress(&at_work(1, 5), &at_work(3, 4)));
    }

    #[test]
    fn a_phase_a_reason_and_a_failure_are_news() {
        let before = at_work(1, 5);
        let halted = PatchRolloutStatus { phase: Some(RolloutPhase::Halted), ..before.clone() };
        assert!(!is_only_progress(&before, &halted));
        let mut reason = before.clone();
        reason.waiting_for[0].reason = "GroupUnavailable".to_owned();
        assert!(!is_only_progress(&before, &reason));
        let mut failed = before.clone();
        failed.stages[0].counts.failed = 1;
        assert!(!is_only_progress(&before, &failed));
        let mut words = before.clone();
        words.waiting_for[0].devices = None;
        words.message = Some("Another sentence.".to_owned());
        assert!(!is_only_progress(&before, &words));
    }

    #[test]
    fn the_flag_of_a_group_is_news_and_its_load_is_not() {
        let before = DeviceGroupStatus { devices: 9, unavailable: 1, ..Default::default() };
        let load = DeviceGroupStatus { unavailable: 2, ..before.clone() };
        assert!(is_only_load(&before, &load));
        let held = DeviceGroupStatus { reboots: Reboots::Held, ..load.clone() };
        assert!(!is_only_load(&before, &held));
        let value = |unavailable| FullValue {
            key: "site".to_owned(),
            value: "north".to_owned(),
            unavailable,
            max: 1,
        };
        let full = DeviceGroupStatus { full: vec![value(1)], ..load.clone() };
        assert!(is_only_load(&before, &full), "nobody's restart is held by that");
        let over = DeviceGroupStatus { full: vec![value(2)], ..load };
        assert!(!is_only_load(&before, &over));
    }

    #[test]
    fn what_was_held_back_is_due_and_then_written() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        pace.begin(start);
        assert!(!pace.holds_back("a", ROLLOUT_EVERY));
        pace.wrote("a", ROLLOUT_EVERY, start);
        let soon = start + Duration::from_millis(10);
        pace.begin(soon);
        assert!(pace.holds_back("a", ROLLOUT_EVERY));
        assert_eq!(pace.due(), Some(start + ROLLOUT_EVERY));
        pace.begin(start + ROLLOUT_EVERY);
        assert!(!pace.holds_back("a", ROLLOUT_EVERY));
        assert_eq!(pace.due(), None);
    }
}
