//! One job in hand: its phase, and what happened so far.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wardring_protocol::{Progress, UpdateProgress};
use wardring_seal::{Action, JobPayload, StorePolicy, UpdateTarget};

use crate::hresult::Hresult;

use super::end::{End, sentence};
use super::{
    AfterHook, Baseline, BootRecord, Contact, HookRun, MAX_REBOOTS, OwnRollback, ServicingResult,
    Tries, Waiting,
};

/// A job in hand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobRun {
    /// What was sealed.
    pub payload: JobPayload,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Run of the agent that accepted it.
    #[serde(default)]
    pub accepted_in: String,
    /// Where it stands.
    pub phase: Phase,
    /// What the device was like before.
    pub baseline: Option<Baseline>,
    /// One per update of the payload, in its order.
    pub updates: Vec<UpdateRun>,
    /// An installation or removal was ordered at least once; the baseline is final from here on.
    pub touched: bool,
    /// Everything was installed by an earlier attempt; only the proof is left.
    pub already: bool,
    /// Boots since the job was accepted.
    pub boots: Vec<BootRecord>,
    /// Boots that speak against what this job did: crashes, power losses, and unexplained ones.
    pub strikes: u32,
    /// Of them, crashes and losses of power.
    #[serde(default)]
    pub crashes: u32,
    /// The role, in words, for which this device must not roll back by itself; also one that only an
    /// earlier run of the agent saw.
    #[serde(default)]
    pub forbidding_role: Option<String>,
    /// The rollback that the device began by itself.
    #[serde(default)]
    pub own_rollback: Option<OwnRollback>,
    /// Crashes and losses of power since the last removal was ordered whose end is not known yet.
    #[serde(default)]
    pub shaken: u32,
    /// How long nobody on the network has answered in this boot.
    #[serde(default)]
    pub contact: Contact,
    /// Own restarts.
    pub reboots: u32,
    /// Boot in which the last installation or removal was ordered.
    pub installed_in_boot: Option<String>,
    /// An update asked for a restart.
    pub reboot_required: bool,
    /// Restart attempts per service.
    pub remediations: BTreeMap<String, u32>,
    /// Process of each service and how often it changed, to see flapping.
    pub pids: BTreeMap<String, (u32, u32)>,
    /// Services that do not run and probes that fail, with the reason.
    pub unhealthy: Vec<String>,
    /// What differs from the baseline, as last seen.
    #[serde(default)]
    pub changes: Vec<String>,
    /// The last start of each hook.
    #[serde(default)]
    pub hooks: Vec<HookRun>,
    /// How the job ends once the last hooks have run.
    #[serde(default)]
    pub ending: Option<End>,
    /// Tries that failed, by KB, where another one may follow or followed.
    #[serde(default)]
    pub tries: BTreeMap<String, Tries>,
    /// An update failed: the job will end as Failed, once the device is at rest.
    pub trouble: Option<Trouble>,
    /// The install permit in hand: its end on this run's monotonic clock.
    pub permit_until_mono_ms: Option<u64>,
    /// Questions for a permit in a row that no gateway answered.
    pub unanswered: u32,
    /// When the last countdown to a restart is over, on this run's monotonic clock.
    pub warned_mono_ms: Option<u64>,
    /// When the restart under way was ordered, on this run's monotonic clock.
    #[serde(default)]
    pub ordered_mono_ms: Option<u64>,
    /// How the restart that is due in this boot waits for people.
    #[serde(default)]
    pub waiting: Waiting,
    /// What the next waking means.
    pub awaits: Awaits,
    /// A sentence for people.
    pub message: String,
}

/// What a job waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Awaits {
    /// The end of a pause.
    Time,
    /// That an administrator lets the agent go on; when time is over first, it is looked whether one did.
    Resume,
    /// An answer; when time is over first, there is none.
    Answer,
    /// The answer who is there; when time is over first, somebody may be.
    Surroundings,
    /// The answer of people; when time is over first, they said nothing.
    People,
    /// The answer who on the network answers; when time is over first, nothing is known.
    Contact,
}

/// Why a job will end as Failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Reason word of the API.
    pub reason: String,
    /// The sentence.
    pub message: String,
}

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all_fields = "camelCase")]
pub enum Phase {
    /// Looking at the device; so many looks found Windows busy.
    Preflight {
        /// Looks so far.
        checks: u32,
    },
    /// Downloading.
    Downloading {
        /// Failed tries so far.
        tries: u32,
    },
    /// Waiting for the permit to install the next update.
    AwaitingInstall,
    /// Installing one update.
    Installing {
        /// Index of the update.
        index: usize,
    },
    /// Counting down to a restart, then asking for the permit.
    AwaitingReboot {
        /// Why.
        why: RebootWhy,
        /// This restart counts in the job's bound already.
        counted: bool,
        /// Calls that did not lead to a restart.
        tries: u32,
    },
    /// The restart was ordered.
    Rebooting {
        /// Why.
        why: RebootWhy,
        /// Boot that is to end.
        boot_before: String,
        /// Calls that did not lead to a restart.
        tries: u32,
    },
    /// Waiting for Windows to come to rest.
    Settling {
        /// Looks so far.
        checks: u32,
    },
    /// Sampling health.
    Verifying {
        /// Good samples in a row.
        good: u32,
        /// Samples in all.
        samples: u32,
    },
    /// The end of the job is known, and nobody on the network answers: waiting for contact before it.
    AwaitingContact {
        /// The device is healthy, and its last hooks run before the end.
        is_healthy: bool,
    },
    /// Restarting a service.
    Remediating {
        /// Which.
        service: String,
        /// Samples in all.
        samples: u32,
    },
    /// Running a hook.
    RunningHook {
        /// Index of the hook in the payload.
        index: usize,
        /// What comes after it.
        next: AfterHook,
    },
    /// Rollback: finding out what is there to remove.
    Surveying {
        /// Looks so far.
        checks: u32,
    },
    /// Rollback: waiting for the permit to remove the next update.
    AwaitingUninstall,
    /// Rollback: removing one update.
    Uninstalling {
        /// Index of the update.
        index: usize,
    },
}

/// What a restart is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RebootWhy {
    /// To clear a pending restart before the installation.
    First,
    /// To finish what was installed or removed.
    Finish,
}

impl Phase {
    /// The state word of the API.
    pub fn word(&self) -> &'static str {
        match self {
            Phase::Preflight { .. } => "Preflight",
            Phase::Downloading { .. } => "Downloading",
            Phase::AwaitingInstall => "AwaitingInstall",
            Phase::Installing { .. } => "Installing",
            Phase::AwaitingReboot { why: RebootWhy::First, .. } => "RebootFirst",
            Phase::AwaitingReboot { .. } => "AwaitingReboot",
            Phase::Rebooting { .. } => "Rebooting",
            Phase::Settling { .. } => "Settling",
            Phase::Verifying { .. } | Phase::AwaitingContact { .. } => "Verifying",
            Phase::Remediating { .. } => "Remediating",
            Phase::RunningHook { .. } => "RunningHook",
            Phase::Surveying { .. } => "Accepted",
            Phase::AwaitingUninstall | Phase::Uninstalling { .. } => "Uninstalling",
        }
    }

    /// Whether an act may be running right now that must be waited for.
    pub fn is_irreversible(&self) -> bool {
        matches!(
            self,
            Phase::Installing { .. }
                | Phase::Uninstalling { .. }
                | Phase::Rebooting { .. }
                | Phase::RunningHook { .. }
        )
    }

    /// Whether what was installed or removed is being proven.
    pub(super) fn is_proof(&self) -> bool {
        matches!(
            self,
            Phase::Settling { .. }
                | Phase::Verifying { .. }
                | Phase::AwaitingContact { .. }
                | Phase::Remediating { .. }
                | Phase::RunningHook { next: AfterHook::End, .. }
        )
    }
}

/// One update of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateRun {
    /// KB number.
    pub kb: String,
    /// Where it stands.
    pub state: UpdateState,
}

/// Where one update of a job stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateState {
    /// Not looked at yet.
    Unseen,
    /// To be installed or removed.
    Waiting,
    /// Nothing to do; the word says why (`NotOffered`, …).
    Skipped(String),
    /// Ordered; the result is not known.
    Running,
    /// Done.
    Ended(ServicingResult),
}

/// What an earlier job of a rollout did: what a later attempt or a rollback is measured against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstallRecord {
    /// Rollout.
    pub rollout_uid: String,
    /// What the device was like before the first attempt.
    pub baseline: Option<Baseline>,
    /// Packages by KB.
    pub packages: BTreeMap<String, Vec<String>>,
    /// Boot in which the installation was ordered.
    pub installed_in_boot: Option<String>,
    /// An update asked for a restart.
    pub reboot_required: bool,
    /// An installation of the rollout made Windows another version.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub upgraded: bool,
}

impl JobRun {
    /// A job that was just accepted.
    pub(super) fn accepted(
        payload: JobPayload,
        (at, run): (Timestamp, &str),
        phase: Phase,
    ) -> JobRun {
        let waiting =
            |update: &UpdateTarget| UpdateRun { kb: update.kb.clone(), state: UpdateState::Unseen };
        JobRun {
            updates: payload.updates.iter().map(waiting).collect(),
            payload,
            accepted_at: at,
            accepted_in: run.to_owned(),
            phase,
            baseline: None,
            touched: false,
            already: false,
            boots: Vec::new(),
            strikes: 0,
            shaken: 0,
            crashes: 0,
            forbidding_role: None,
            own_rollback: None,
            contact: Contact::default(),
            reboots: 0,
            installed_in_boot: None,
            reboot_required: false,
            remediations: BTreeMap::new(),
            pids: BTreeMap::new(),
            unhealthy: Vec::new(),
            changes: Vec::new(),
            hooks: Vec::new(),
            ending: None,
            tries: BTreeMap::new(),
            trouble: None,
            permit_until_mono_ms: None,
            unanswered: 0,
            warned_mono_ms: None,
            ordered_mono_ms: None,
            waiting: Waiting::default(),
            awaits: Awaits::Time,
            message: String::new(),
        }
    }

    /// Whether this job takes updates back.
    pub fn is_rollback(&self) -> bool {
        self.payload.key.action == Action::Rollback || self.own_rollback.is_some()
    }

    /// Whether the next look asks for the state of the component store: before an installation, where
    /// the rollout does not say that it is all the same.
    pub fn looks_at_store(&self) -> bool {
        matches!(self.phase, Phase::Preflight { .. })
            && self.payload.key.action == Action::Install
            && self.payload.preflight.component_store != StorePolicy::Ignore
    }

    /// Whether an installation or removal really began.
    pub fn begun(&self) -> bool {
        // One that waits for its next try has begun, too.
        !self.tries.is_empty()
            || self.own_rollback.is_some()
            || self
                .updates
                .iter()
                .any(|update| matches!(update.state, UpdateState::Running | UpdateState::Ended(_)))
    }

    /// Whether a removal or installation was ordered whose end is not known.
    pub(super) fn is_removing(&self) -> bool {
        self.updates.iter().any(|update| update.state == UpdateState::Running)
    }

    /// Whether the device carries something that this job must answer for.
    pub(super) fn is_answerable(&self) -> bool {
        self.begun() || self.already
    }

    /// The first update that waits; `backwards` for a rollback.
    pub(super) fn next_update(&self) -> Option<usize> {
        let waits = |index: &usize| self.updates[*index].state == UpdateState::Waiting;
        let indices = 0..self.updates.len();
        if self.is_rollback() { indices.rev().find(waits) } else { indices.into_iter().find(waits) }
    }

    /// Whether another own restart is within the job's bound.
    pub(super) fn may_reboot(&self) -> bool {
        let before = self.own_rollback.as_ref().map_or(0, |own| own.reboots_before);
        self.reboots.saturating_sub(before) < MAX_REBOOTS
    }

    /// Where the job stands, for people.
    pub fn progress(&self) -> Progress {
        Progress {
            key: self.payload.key.clone(),
            state: match self.phase {
                Phase::Surveying { .. } if self.own_rollback.is_some() => "Uninstalling".to_owned(),
                _ => self.phase.word().to_owned(),
            },
            message: sentence(&self.message),
            updates: self.updates.iter().filter_map(UpdateRun::progress).collect(),
            boots: self.boots.iter().rev().take(8).rev().map(BootRecord::report).collect(),
            changes: self.changes.iter().map(|text| sentence(text)).collect(),
            unhealthy: self.unhealthy.iter().map(|text| sentence(text)).collect(),
        }
    }
}

impl UpdateRun {
    fn progress(&self) -> Option<UpdateProgress> {
        let blank = UpdateProgress {
            kb: self.kb.clone(),
            operation_result_code: 0,
            hresult: None,
            name: None,
            reboot_required: false,
        };
        match &self.state {
            UpdateState::Unseen | UpdateState::Waiting => None,
            UpdateState::Skipped(why) => Some(UpdateProgress { name: Some(why.clone()), ..blank }),
            UpdateState::Running => Some(UpdateProgress { operation_result_code: 1, ..blank }),
            UpdateState::Ended(result) => Some(UpdateProgress {
                operation_result_code: result.code,
                hresult: Some(Hresult(result.hresult).to_string()),
                name: match result.hresult {
                    0 => None,
                    code => Hresult(code).name().map(str::to_owned),
                },
                reboot_required: result.reboot_required,
                ..blank
            }),
        }
    }
}
