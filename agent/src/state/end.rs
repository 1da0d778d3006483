//! The end of a job: its outcome, and what is remembered of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wardring_seal::{Action, OutcomePayload, OutcomeResult, PAYLOAD_VERSION};

use super::{
    Effect, InstallRecord, JobRun, MAX_FINISHED, Move, UpdateState, autonomous, hooks, watch,
};

/// Reason word of an installation after which Windows is another version.
pub(super) const BUILD_FAMILY_CHANGED: &str = "BuildFamilyChanged";

/// Longest sentence in an outcome or a progress report, bytes.
const MAX_SENTENCE: usize = 256;

/// The end of a job, in the words of the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// The result.
    pub result: OutcomeResult,
    /// Reason word, if there is one.
    pub reason: Option<String>,
    /// The sentence.
    pub message: String,
}

impl End {
    pub(super) fn of(result: OutcomeResult, message: impl Into<String>) -> End {
        End { result, reason: None, message: message.into() }
    }

    pub(super) fn because(result: OutcomeResult, reason: &str, message: impl Into<String>) -> End {
        End { result, reason: Some(reason.to_owned()), message: message.into() }
    }

    /// Failed, or in a rollback RollbackFailed: it began and did not end well.
    pub(super) fn failed(job: &JobRun, reason: &str, message: impl Into<String>) -> End {
        let result =
            if job.is_rollback() { OutcomeResult::RollbackFailed } else { OutcomeResult::Failed };
        End::because(result, reason, message)
    }

    /// NotStarted as long as nothing began, Failed after; also when an earlier attempt began it.
    pub(super) fn stopped(job: &JobRun, reason: &str, message: impl Into<String>) -> End {
        if job.is_answerable() {
            End::failed(job, reason, message)
        } else {
            End::because(OutcomeResult::NotStarted, reason, message)
        }
    }
}

impl Move {
    /// Ends a job. A device that a hook took out of service, and that nothing was done to, is brought
    /// back first.
    pub(super) fn finish(&mut self, job: JobRun, end: End) -> Option<JobRun> {
        if hooks::is_owed(&job) { hooks::healthy(self, job, end) } else { self.close(job, end) }
    }

    /// Ends a job at once: its outcome is kept for repetition and goes to the outbox, and what it did
    /// is remembered for a later attempt or a rollback.
    pub(super) fn close(&mut self, job: JobRun, end: End) -> Option<JobRun> {
        let mut outcome = OutcomePayload {
            version: PAYLOAD_VERSION,
            key: job.payload.key.clone(),
            sequence: job.payload.sequence,
            namespace: job.payload.namespace.clone(),
            device: job.payload.device.clone(),
            result: end.result,
            reason: end.reason,
            message: end.message,
            boot_id: self.state.boot.clone(),
            installed_in_boot: job.installed_in_boot.clone().filter(|_| job.is_answerable()),
            reboot_required: job.reboot_required,
            started: job.begun(),
            build: self.state.build.clone(),
            reboots: job.reboots,
            at: self.now.wall,
        };
        autonomous::explain(&job, &mut outcome);
        outcome.message = sentence(&outcome.message);
        self.remember(&job, end.result, outcome.reason.as_deref());
        watch::ended(self, &job, end.result);
        // Answers to what this job asked must not reach the next one.
        self.state.turn += 1;
        self.announce(outcome);
        None
    }

    /// Keeps an outcome and sends it.
    pub(super) fn announce(&mut self, outcome: OutcomePayload) {
        self.state.finished.retain(|kept| kept.key != outcome.key);
        self.state.finished.push(outcome.clone());
        let surplus = self.state.finished.len().saturating_sub(MAX_FINISHED);
        self.state.finished.drain(..surplus);
        self.effects.push(Effect::Outcome(Box::new(outcome)));
    }

    /// Remembers what a job did, for a later attempt or a rollback.
    pub(super) fn remember(&mut self, job: &JobRun, result: OutcomeResult, reason: Option<&str>) {
        let rollout_uid = &job.payload.key.rollout_uid;
        if result == OutcomeResult::RolledBack {
            self.state.records.retain(|record| record.rollout_uid != *rollout_uid);
        }
        if job.is_rollback() || !job.begun() {
            return;
        }
        let mut packages: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for update in &job.updates {
            if let UpdateState::Ended(result) = &update.state {
                packages.insert(update.kb.clone(), result.packages.clone());
            }
        }
        let upgraded = reason == Some(BUILD_FAMILY_CHANGED) || self.upgraded_by(rollout_uid);
        let earlier = self.record_of(rollout_uid).cloned();
        if let Some(earlier) = &earlier {
            packages.extend(earlier.packages.clone());
        }
        let record = InstallRecord {
            rollout_uid: rollout_uid.clone(),
            baseline: earlier.and_then(|earlier| earlier.baseline).or(job.baseline.clone()),
            packages,
            installed_in_boot: job.installed_in_boot.clone(),
            reboot_required: job.reboot_required,
            upgraded,
        };
        self.state.records.retain(|kept| kept.rollout_uid != *rollout_uid);
        self.state.records.push(record);
        let surplus = self.state.records.len().saturating_sub(MAX_FINISHED);
        self.state.records.drain(..surplus);
    }

    /// Whether an installation of this rollout made Windows another version.
    pub(super) fn upgraded_by(&self, rollout_uid: &str) -> bool {
        // An older agent left that in its outcome alone.
        let mut told = self.state.finished.iter().filter(|outcome| {
            outcome.key.rollout_uid == rollout_uid && outcome.key.action == Action::Install
        });
        self.record_of(rollout_uid).is_some_and(|record| record.upgraded)
            || told.any(|outcome| outcome.reason.as_deref() == Some(BUILD_FAMILY_CHANGED))
    }

    /// What an earlier job of this rollout left.
    pub(super) fn record_of(&self, rollout_uid: &str) -> Option<&InstallRecord> {
        self.state.records.iter().find(|record| record.rollout_uid == rollout_uid)
    }
}

/// The text as a report may carry it: one line, and not too long.
pub(crate) fn sentence(text: &str) -> String {
    // What turns a line around or hides parts of it is as unwelcome as a control character.
    let is_unprintable = |char: char| {
        char.is_control()
            || matches!(char, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}')
            || matches!(char, '\u{2066}'..='\u{2069}' | '\u{FEFF}')
    };
    let mut line = text.replace(is_unprintable, " ");
    let end = (0..=MAX_SENTENCE.min(line.len())).rev().find(|end| line.is_char_boundary(*end));
    line.truncate(end.unwrap_or(0));
    line
}
