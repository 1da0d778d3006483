//! What an exercise was told to do and what came of it: one file, from its beginning to its table.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use wardring_protocol::UpdateProgress;
use wardring_seal::{
    Action, HealthChecks, JobKey, JobPayload, OnUnhealthy, OutcomePayload, PAYLOAD_VERSION,
    Preflight, RebootRules, StorePolicy, UnlistedServices, UpdateSource, UpdateTarget,
};

use crate::files::{private_file, replace};
use crate::state::{BootRecord, Me};

const FILE: &str = "exercise.json";
/// An exercise is over within a night, whatever hangs.
pub(super) const BEGINS_WITHIN: SignedDuration = SignedDuration::from_hours(4);
const ENDS_WITHIN: SignedDuration = SignedDuration::from_hours(24);
/// A service that runs on every Windows: it shows that health is read at all. Not one that ours needs, which
/// would end with it.
const SERVICE: &str = "EventLog";
/// A restart that did not happen for so long is stuck.
const STUCK_AFTER_MS: u64 = 15 * 60_000;
/// Samples of health that a settle time is worth.
const SAMPLES: u64 = 18;

/// Whether the device may be restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Restarts {
    /// It is, as often as the update needs it.
    Allowed,
    /// It is not; the exercise ends where it would be.
    LeftOut,
}

/// What whoever began it wished for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wish {
    /// KB of the update; the smallest that can be removed without one.
    pub kb: Option<String>,
    /// Restarts.
    pub restarts: Restarts,
    /// How long Windows comes to rest after an installation or a restart, milliseconds.
    pub settle_ms: u64,
    /// Countdown to a restart, milliseconds.
    pub countdown_ms: u64,
}

/// The update that was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Chosen {
    /// As a job names it.
    pub target: UpdateTarget,
    /// Its title, in the language of the device.
    pub title: String,
    /// Its size.
    pub size_bytes: u64,
}

/// How far one of the two jobs came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ran {
    /// Its end; none where it waits for a restart that is left out.
    pub outcome: Option<OutcomePayload>,
    /// What Windows answered, by update.
    pub results: Vec<UpdateProgress>,
    /// Packages that came with the update.
    pub packages: Vec<String>,
    /// Boots that came while it ran.
    pub boots: Vec<BootRecord>,
}

/// One exercise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Its name, which its jobs bear.
    pub id: String,
    /// Version of the agent that began it.
    pub agent_version: String,
    /// The wish.
    pub wish: Wish,
    /// When it began.
    pub begun_at: Timestamp,
    /// What is the machine's own on which it began, where its firmware tells.
    #[serde(default)]
    pub hardware: Option<String>,
    /// `build.UBR` before it.
    pub build_before: String,
    /// The update.
    pub chosen: Option<Chosen>,
    /// The installation.
    pub install: Option<Ran>,
    /// The removal.
    pub removal: Option<Ran>,
    /// Whether the removed update is hidden now; none where that could not be found out.
    pub is_hidden: Option<bool>,
    /// Why it is over, once it is.
    pub over: Option<String>,
}

/// Why a record cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system.
    #[error("failed to access the record of the exercise in {folder}")]
    Access {
        /// Where.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a record.
    #[error("the record of the exercise in {folder} cannot be read; begin anew after --forget")]
    Damaged {
        /// Where.
        folder: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

impl Record {
    /// A new one.
    pub fn begin(id: String, wish: Wish, begun_at: Timestamp) -> Record {
        Record {
            id,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            wish,
            begun_at,
            hardware: None,
            build_before: String::new(),
            chosen: None,
            install: None,
            removal: None,
            is_hidden: None,
            over: None,
        }
    }

    /// Reads the record of a folder, if there is one.
    ///
    /// # Errors
    /// There is one, and it cannot be read.
    pub fn load(folder: &Path) -> Result<Option<Record>, RecordError> {
        let read = |folder: &Path| match fs::read(folder.join(FILE)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RecordError::Access { folder: folder.to_owned(), source }),
        };
        let damaged = |source| RecordError::Damaged { folder: folder.to_owned(), source };
        read(folder)?.map(|bytes| serde_json::from_slice(&bytes).map_err(damaged)).transpose()
    }

    /// Puts this one in its place, through to the disk.
    ///
    /// # Errors
    /// The file system refuses; the one before is still there.
    pub fn save(&self, folder: &Path) -> Result<(), RecordError> {
        let bytes = serde_json::to_vec_pretty(self).expect("a record has only string keys");
        let (file, new) = (folder.join(FILE), folder.join("exercise.new"));
        let written = private_file(&new).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        });
        written
            .and_then(|()| replace(&new, &file))
            .map_err(|source| RecordError::Access { folder: folder.to_owned(), source })
    }

    /// Who the device is to the jobs of this exercise: nobody that any gateway knows.
    pub fn me(&self) -> Me {
        Me {
            namespace: "exercise".to_owned(),
            device: "exercise".to_owned(),
            device_id: self.id.clone(),
        }
    }

    /// After this, nothing more is begun.
    pub fn ends(&self) -> Timestamp {
        self.begun_at + ENDS_WITHIN
    }

    /// What a new order wishes that this exercise was not begun with, if anything.
    pub fn contradicts(&self, kb: Option<&str>, restarts: Option<Restarts>) -> Option<String> {
        let own =
            self.wish.kb.as_deref().or(self.chosen.as_ref().map(|own| own.target.kb.as_str()));
        if kb.is_some() && kb != own {
            return Some(format!("it takes {}", own.unwrap_or("another update")));
        }
        let differs = restarts.is_some_and(|wanted| wanted != self.wish.restarts);
        differs.then(|| "it was begun with restarts".to_owned())
    }

    /// What stays on the device when it ends now, as the end of a sentence.
    pub fn leftover(&self) -> Option<String> {
        let is_there = self
            .install
            .as_ref()
            .is_none_or(|ran| ran.outcome.as_ref().is_none_or(|it| it.started));
        let kb = &self.chosen.as_ref()?.target.kb;
        (is_there && self.removal.is_none()).then(|| format!("{kb} may still be installed"))
    }

    /// The job that installs the update, or the one that removes it again.
    pub(super) fn job(&self, chosen: &Chosen, action: Action) -> JobPayload {
        let me = self.me();
        let settle_ms = self.wish.settle_ms;
        JobPayload {
            version: PAYLOAD_VERSION,
            namespace: me.namespace,
            device: me.device,
            rollout: "exercise".to_owned(),
            stage: "exercise".to_owned(),
            slice: "exercise".to_owned(),
            key: self.key(action),
            sequence: if action == Action::Rollback { 2 } else { 1 },
            updates: vec![chosen.target.clone()],
            source: UpdateSource::Default,
            accept_eula: false,
            // Both from the beginning of the whole: what was switched off in the middle must not go on weeks later.
            start_by: match action {
                Action::Rollback => self.ends(),
                _ => self.begun_at + BEGINS_WITHIN,
            },
            finish_by: self.ends(),
            preflight: Preflight {
                // What waits for a restart is somebody else's work, which is not to be exercised.
                reboot_first: false,
                min_free_disk_gb: 1,
                require_reversible: true,
                // Whoever began it can type a PIN, and BitLocker of a new machine may not answer.
                ignore_attended_boot: true,
                ignore_battery: false,
                component_store: StorePolicy::Block,
                sole_source: false,
            },
            health: HealthChecks {
                services: vec![SERVICE.to_owned()],
                probes: Vec::new(),
                unlisted: UnlistedServices::Report,
                settle_ms,
                // What breaks is told, and nothing is mended: that is not what is exercised.
                restart_attempts: 0,
                sample_interval_ms: settle_ms / SAMPLES,
            },
            reboot: RebootRules {
                countdown_ms: self.wish.countdown_ms,
                message: Some("wardring-agent selftest --exercise".to_owned()),
                stuck_after_ms: STUCK_AFTER_MS,
                wait_ms: 0,
                deferrals: 0,
                force: false,
                active_hours: None,
            },
            on_unhealthy: OnUnhealthy::Report,
            hooks: Vec::new(),
            autonomous_rollback: None,
        }
    }

    /// Key of one of the two jobs.
    pub(super) fn key(&self, action: Action) -> JobKey {
        JobKey {
            rollout_uid: format!("exercise-{}", self.id),
            device_id: self.id.clone(),
            attempt: 1,
            action,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_jobs_end_with_the_day_in_which_the_whole_began() {
        let wish = Wish { kb: None, restarts: Restarts::Allowed, settle_ms: 0, countdown_ms: 0 };
        let record = Record::begin("e1".to_owned(), wish, Timestamp::UNIX_EPOCH);
        let target = UpdateTarget {
            kb: "KB5060001".to_owned(),
            product: String::new(),
            kind: wardring_seal::UpdateKind::Other,
            target_build: None,
            identities: Vec::new(),
            package: None,
        };
        let chosen = Chosen { target, title: String::new(), size_bytes: 0 };
        for action in [Action::Install, Action::Rollback] {
            let job = record.job(&chosen, action);
            assert!(job.start_by <= job.finish_by && job.finish_by == record.ends());
        }
        assert_eq!(record.ends(), Timestamp::UNIX_EPOCH + ENDS_WITHIN);
        assert_eq!(record.contradicts(None, None), None);
        assert!(record.contradicts(Some("KB5060001"), None).is_some());
        assert!(record.contradicts(None, Some(Restarts::LeftOut)).is_some());
        assert_eq!(record.contradicts(None, Some(Restarts::Allowed)), None);
    }
}
