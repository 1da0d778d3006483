//! What reaches the state machine, what it asks for, and what the platform tells it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wardring_protocol::{Mode, PermitAnswer, Progress, Step};
use wardring_seal::{ActiveHours, Hook, JobKey, JobPayload, OutcomePayload, Probe, UpdateTarget};

use crate::hresult::{Class, Hresult};
use crate::pause::Pause;

use super::{
    BootRecord, Look, Me, ProbeSample, Question, Reply, ServiceSample, Surroundings, Witness,
};

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A run of the agent begins; comes before any contact with a gateway.
    Started(Box<Start>),
    /// A gateway told what people allow.
    ModeSet(Mode),
    /// An administrator of the device paused the agent, or lets it go on.
    Paused(Option<Pause>),
    /// The device was looked at after the end of installations, one look for each that was asked for by
    /// [`super::State::lookouts`]; or it did not let itself be looked at, for this reason.
    Looked(Result<Vec<Look>, String>),
    /// A job whose seal was verified.
    Offered(Box<JobPayload>),
    /// The answer to an [`Ask`].
    Answered {
        /// Turn in which it was asked.
        turn: u64,
        /// The answer.
        answer: Answer,
    },
}

/// The beginning of a run of the agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// The run, random per start.
    pub run: String,
    /// Who this device is.
    pub me: Me,
    /// The running boot.
    pub boot: BootRecord,
    /// `build.UBR`.
    pub build: String,
    /// The journal could not be read, and the device was enrolled before.
    pub lost: bool,
    /// Why this build carries out no job, if so.
    pub refuses: Option<String>,
    /// Roles, in the API's words.
    pub roles: Vec<String>,
    /// The pause in force.
    pub paused: Option<Pause>,
}

/// Something to do after the state is durable.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "there are a few at a time, for a moment")]
pub enum Effect {
    /// A question or an act that is answered by [`Event::Answered`] with the same turn.
    Ask {
        /// The turn.
        turn: u64,
        /// What.
        ask: Ask,
    },
    /// Tell people on the device that it restarts.
    Announce {
        /// Text, if the rollout has one.
        message: Option<String>,
        /// Milliseconds until the restart.
        countdown_ms: u64,
    },
    /// Tell people on the device that it waits for them with its restart.
    AskToLeave {
        /// Text, if the rollout has one.
        message: Option<String>,
        /// Milliseconds until it waits no longer.
        within_ms: u64,
    },
    /// Take the ordered restart back, if Windows still can: it did not happen, and nobody waits for
    /// it any more.
    TakeBackRestart,
    /// Where the job stands, for people.
    Progress(Box<Progress>),
    /// The end of a job: to be signed, and to enter the outbox in the same write as the state.
    Outcome(Box<OutcomePayload>),
}

/// A question or an act. `not_after_mono_ms` is the end of the permit: whoever carries the act out
/// compares it with the clock once more at the very last moment.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Wake me.
    Wake {
        /// After so many milliseconds.
        after_ms: u64,
    },
    /// Ask a gateway for a permit.
    Permit {
        /// For this grant.
        key: JobKey,
        /// For this step.
        step: Step,
        /// Run in which the job was accepted.
        accepted_in: String,
    },
    /// Look at the device.
    Inspect {
        /// Updates of interest.
        updates: Vec<UpdateTarget>,
        /// Services of interest.
        services: Vec<String>,
        /// Questions to it.
        probes: Vec<Probe>,
        /// Who on the network is asked as well, beside those that the device knows by itself; nobody
        /// at all where this is none.
        witnesses: Option<BTreeSet<Witness>>,
    },
    /// Look who on the network answers: these, and those that the device knows by itself.
    SeekContact {
        /// Who is asked as well.
        witnesses: BTreeSet<Witness>,
    },
    /// Look at what a restart would be in the way of.
    LookAround {
        /// Hours in which it waits, if any.
        hours: Option<ActiveHours>,
    },
    /// Ask those who work at the device whether it may restart now.
    AskPeople {
        /// What they are asked.
        question: Question,
    },
    /// Download updates; those that are there already cost nothing.
    Download {
        /// For this grant.
        key: JobKey,
        /// What.
        updates: Vec<UpdateTarget>,
    },
    /// Install one update, unless this grant has installed it already: then tell how that ended.
    Install {
        /// For this grant.
        key: JobKey,
        /// What.
        update: UpdateTarget,
        /// Number of the try. A try under a new number is an act of its own: this grant has seen all
        /// the earlier ones fail.
        tries: u32,
        /// End of the permit.
        not_after_mono_ms: u64,
    },
    /// Tell how an installation ended that an earlier run of the agent may have begun. Begins none.
    FindInstall {
        /// For this grant.
        key: JobKey,
        /// What.
        update: UpdateTarget,
        /// Number of the try.
        tries: u32,
    },
    /// Remove one update; one that is gone or going already counts as removed.
    Uninstall {
        /// For this grant.
        key: JobKey,
        /// What.
        update: UpdateTarget,
        /// Package identities that the installation added, as far as they are known.
        packages: Vec<String>,
        /// Number of the try.
        tries: u32,
        /// End of the permit.
        not_after_mono_ms: u64,
    },
    /// Restart one service, with those that depend on it.
    RestartService {
        /// Which.
        service: String,
    },
    /// Run a program of the hooks folder; it is ended when its time is over.
    RunHook {
        /// Which.
        hook: Hook,
        /// End of the permit for the step that it comes before, if there is one.
        not_after_mono_ms: Option<u64>,
    },
    /// Restart the device, if it still runs the boot named here. The answer is a new run of the agent.
    Reboot {
        /// For this grant.
        key: JobKey,
        /// Boot that is to end.
        boot_before: String,
        /// Whether programs that refuse to end are ended.
        force: bool,
        /// End of the permit.
        not_after_mono_ms: u64,
    },
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The time is over.
    Woke,
    /// What a gateway said.
    Permit {
        /// When it was asked, on the clock of [`super::Now::mono_ms`].
        asked_mono_ms: u64,
        /// The answer; `None` when no gateway could be reached.
        answer: Option<PermitAnswer>,
    },
    /// The permit was over before the act could begin; nothing was begun.
    PermitExpired,
    /// What the device looks like.
    Inspected(Box<Inspection>),
    /// The device could not be looked at; the text is a sentence.
    Blind(String),
    /// What a restart would be in the way of.
    LookedAround(Surroundings),
    /// What people said.
    PeopleSaid(Reply),
    /// Those that answered.
    Contact(BTreeSet<Witness>),
    /// How the download ended.
    Downloaded(Result<(), DownloadFailure>),
    /// How the installation ended.
    Installed(InstallFound),
    /// How the removal ended.
    Uninstalled(InstallFound),
    /// How the restart of the service ended; the error is a sentence.
    Restarted(Result<(), String>),
    /// How the hook ended; the error is a sentence.
    HookEnded(Result<(), String>),
    /// Windows refused to restart; the text is a sentence.
    RebootRefused(String),
}

impl Answer {
    /// Name for error messages.
    pub fn name(&self) -> &'static str {
        match self {
            Answer::Woke => "Woke",
            Answer::Permit { .. } => "Permit",
            Answer::PermitExpired => "PermitExpired",
            Answer::Inspected(_) => "Inspected",
            Answer::Blind(_) => "Blind",
            Answer::LookedAround(_) => "LookedAround",
            Answer::PeopleSaid(_) => "PeopleSaid",
            Answer::Contact(_) => "Contact",
            Answer::Downloaded(_) => "Downloaded",
            Answer::Installed(_) => "Installed",
            Answer::Uninstalled(_) => "Uninstalled",
            Answer::Restarted(_) => "Restarted",
            Answer::HookEnded(_) => "HookEnded",
            Answer::RebootRefused(_) => "RebootRefused",
        }
    }
}

/// Why a download failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownloadFailure {
    /// A sentence.
    pub sentence: String,
    /// What Windows answered, where it did.
    pub hresult: Option<Hresult>,
}

impl From<String> for DownloadFailure {
    fn from(sentence: String) -> DownloadFailure {
        DownloadFailure { sentence, hresult: None }
    }
}

impl DownloadFailure {
    /// Whether another try may end otherwise. Where Windows did not answer, it may.
    pub fn may_pass(&self) -> bool {
        self.hresult.is_none_or(|hresult| hresult.class() == Class::Retry)
    }
}

/// How an installation or a removal stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstallFound {
    /// It never began.
    NotBegun,
    /// It ended.
    Ended(ServicingResult),
}

/// How an installation or a removal ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicingResult {
    /// Microsoft's OperationResultCode.
    pub code: i32,
    /// HRESULT.
    pub hresult: u32,
    /// Whether a restart is needed.
    pub reboot_required: bool,
    /// Package identities that came or went.
    pub packages: Vec<String>,
}

impl ServicingResult {
    /// Whether Windows calls it a success (2, or 3: with errors). Proof is another matter.
    pub fn is_success(&self) -> bool {
        matches!(self.code, 2 | 3)
    }

    /// What it says about itself, for people.
    pub fn explanation(&self) -> String {
        match self.hresult {
            0 => format!("OperationResultCode {} and no HRESULT", self.code),
            code => Hresult(code).explanation(),
        }
    }

    /// Whether a restart is needed, by the flag or by the code.
    pub fn wants_restart(&self) -> bool {
        self.reboot_required || Hresult(self.hresult).class() == Class::DoneAfterReboot
    }
}

/// What the device looks like at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Windows product.
    pub product: String,
    /// `build.UBR`.
    pub build: String,
    /// Where each asked update stands, by KB.
    pub updates: BTreeMap<String, UpdateStatus>,
    /// Asked updates, by KB, that the source offers as upgrades to another version of Windows though the
    /// job does not call them that, each with what says so.
    pub upgrades: BTreeMap<String, String>,
    /// An upgrade to another version of Windows, under whatever number, that the next restart finishes.
    pub pending_upgrade: Option<String>,
    /// Each asked service.
    pub services: BTreeMap<String, ServiceSample>,
    /// Services that run because Windows starts them, and nothing else does.
    pub automatic: BTreeSet<String>,
    /// Each asked probe.
    pub probes: BTreeMap<String, ProbeSample>,
    /// TCP ports that are listened on, below those that Windows hands out by itself.
    pub ports: BTreeSet<u16>,
    /// Who on the network answered, where that was asked.
    pub witnesses: BTreeSet<Witness>,
    /// Hard signals that Windows waits for a restart, by name.
    pub hard_pending: Vec<String>,
    /// Windows is installing or removing something at this moment.
    pub busy: bool,
    /// Free space on the system drive, where Windows tells.
    pub free_disk_gb: Option<u32>,
    /// What Windows says of its component store; none where nobody asked.
    pub component_store: Option<StoreState>,
    /// Others that patch the device, each with the setting to change.
    pub other_patch_sources: Vec<String>,
    /// What is around the device.
    pub surroundings: Surroundings,
}

/// State of Windows' component store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// Nothing marked it as damaged.
    Healthy,
    /// Damaged; it can be repaired.
    Repairable,
    /// Damaged; it cannot be repaired.
    Damaged,
    /// Windows does not tell, for this reason.
    Unknown(String),
}

impl StoreState {
    /// The word of the API.
    pub fn as_str(&self) -> &'static str {
        match self {
            StoreState::Healthy => "Healthy",
            StoreState::Repairable => "Repairable",
            StoreState::Damaged => "Damaged",
            StoreState::Unknown(_) => "Unknown",
        }
    }
}

/// Where an update stands on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateStatus {
    /// The device's source offers it.
    Offered(Reversible),
    /// Installed.
    Installed(Reversible),
    /// Installed; a restart must finish it.
    PendingReboot(Reversible),
    /// Removed; a restart must finish it.
    Removing,
    /// A newer update took its place.
    Superseded,
    /// The source does not offer it.
    NotOffered,
    /// It is not for this Windows.
    NotApplicable,
}

/// Whether an update can be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reversible {
    /// It should be possible.
    Expected,
    /// It is not.
    No,
    /// Cannot be told.
    Unknown,
}
