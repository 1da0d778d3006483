//! What the agent does next: `step(state, now, event)` gives the next state and a list of effects.
//!
//! Nothing in here touches a file, a clock or the network. The driver writes the new state to the
//! journal first and runs the effects after, and every effect is safe to run twice; so a crash at
//! any point converges. Every question to the outside carries the *turn* in which it was asked, and
//! an answer to an earlier turn is ignored: a late, doubled or reordered answer changes nothing.

mod accept;
mod autonomous;
mod boots;
mod changes;
mod contact;
mod deferral;
mod end;
mod event;
mod health;
mod hooks;
mod install;
mod job;
mod off;
mod pause;
mod permits;
mod preflight;
mod proof;
mod reboot;
mod retry;
mod rollback;
mod start;
mod surroundings;
mod unlisted;
mod verify;
mod wake;
mod watch;

pub use autonomous::OwnRollback;
pub use boots::{BootKind, BootRecord, Off};
pub use contact::{Contact, Witness};
pub use deferral::{Agreement, Question, Reply};
pub use event::{
    Answer, Ask, DownloadFailure, Effect, Event, Inspection, InstallFound, Reversible,
    ServicingResult, Start, StoreState, UpdateStatus,
};
pub use health::{Baseline, ProbeSample, ServiceSample, ServiceState, StartType, Verdict, judge};
pub use hooks::{AfterHook, HookRun};
pub use job::{Awaits, InstallRecord, JobRun, Phase, RebootWhy, UpdateRun, UpdateState};
pub use retry::Tries;
pub use surroundings::{People, Power, Startup, Surroundings, Waiting};
pub use watch::{Doubt, Look, Lookout, Watch};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use wardring_protocol::Mode;
use wardring_seal::{JobKey, OutcomePayload};

use crate::pause::Pause;

pub(crate) use self::end::sentence;

/// Own restarts one job may make. An update may need two, and a third clears what that left
/// behind; more would turn a bad update into a loop of our own making.
pub const MAX_REBOOTS: u32 = 3;
/// Ended jobs whose outcome is kept, so that a job that is offered again is answered, not run again.
pub const MAX_FINISHED: usize = 16;
/// Boots that are remembered.
const MAX_BOOTS: usize = 16;

/// The instant at which a step is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The device's clock, which people and thieves may move.
    pub wall: Timestamp,
    /// Milliseconds on a clock that only goes forward, from any origin of this run of the agent.
    pub mono_ms: u64,
}

/// Who this device is, from its certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Me {
    /// Namespace (tenant).
    pub namespace: String,
    /// Name of the device.
    pub device: String,
    /// Enrolment id.
    pub device_id: String,
}

/// Everything the agent must not forget. The journal holds exactly this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Who this device is; known once it is enrolled.
    pub me: Option<Me>,
    /// What people allow; Observe until a gateway said otherwise.
    pub mode: Mode,
    /// Why this build carries out no job at all, if so.
    pub refuses: Option<String>,
    /// An administrator of the device paused the agent. The mark in the data folder says so, not the
    /// journal.
    #[serde(skip)]
    pub paused: Option<Pause>,
    /// Roles of this device, by its own facts as this run of the agent began.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Number of the current question; only its answers count.
    pub turn: u64,
    /// Highest sealed sequence ever accepted.
    pub highest_sequence: i64,
    /// Running boot.
    pub boot: String,
    /// `build.UBR` as last seen.
    pub build: String,
    /// Last boots, oldest first.
    pub boots: Vec<BootRecord>,
    /// This run of the agent.
    #[serde(default)]
    pub run: String,
    /// When this run of the agent began, on its own clock: the boot has held at least since then.
    pub run_began_mono_ms: u64,
    /// The journal was lost and no job has been answered since.
    pub lost: bool,
    /// The job in hand.
    pub job: Option<JobRun>,
    /// Outcomes of the last jobs, oldest first.
    pub finished: Vec<OutcomePayload>,
    /// What earlier jobs installed and found before it, oldest first.
    pub records: Vec<InstallRecord>,
    /// Installations after which the device is looked at, oldest first.
    #[serde(default)]
    pub watches: Vec<Watch>,
}

impl Default for State {
    fn default() -> Self {
        State {
            me: None,
            mode: Mode::Observe,
            refuses: None,
            paused: None,
            roles: Vec::new(),
            turn: 0,
            highest_sequence: 0,
            boot: String::new(),
            build: String::new(),
            boots: Vec::new(),
            run: String::new(),
            run_began_mono_ms: 0,
            lost: false,
            job: None,
            finished: Vec::new(),
            records: Vec::new(),
            watches: Vec::new(),
        }
    }
}

impl State {
    /// Key of the job in hand, or else of the last one that ended: what a poll calls known.
    pub fn known(&self) -> Option<&JobKey> {
        let last = || self.finished.last().map(|outcome| &outcome.key);
        self.job.as_ref().map(|job| &job.payload.key).or_else(last)
    }
}

/// Why an event was refused; the state stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unexpected {
    /// The job is for another device.
    #[error("a job for device {device_id:?} of namespace {namespace:?} is not ours")]
    NotMine {
        /// Namespace of the job.
        namespace: String,
        /// Device of the job.
        device_id: String,
    },
    /// The job is older than one already seen.
    #[error("job sequence {offered} is not above {highest}, the highest seen")]
    OldSequence {
        /// Sequence of the job.
        offered: i64,
        /// Highest sequence seen.
        highest: i64,
    },
    /// A newer job came while an irreversible step runs; it is taken up when the step is over.
    #[error("a newer job must wait: the device is {phase}")]
    Busy {
        /// What it is doing.
        phase: &'static str,
    },
    /// An answer that the phase did not ask for.
    #[error("the answer {answer} was not asked for in phase {phase}")]
    Answer {
        /// The answer.
        answer: &'static str,
        /// The phase.
        phase: &'static str,
    },
}

/// Takes one step.
///
/// # Errors
/// An event that makes no sense in this state is refused as a value; the caller keeps its state.
pub fn step(state: &State, now: Now, event: Event) -> Result<(State, Vec<Effect>), Unexpected> {
    let mut mv = Move { state: state.clone(), now, effects: Vec::new() };
    if let (Event::ModeSet(_) | Event::Offered(_), Some(job)) = (&event, &mut mv.state.job) {
        // A gateway spoke.
        job.contact = Contact::default();
    }
    match event {
        Event::Started(start) => start::started(&mut mv, *start),
        Event::ModeSet(mode) => accept::mode_set(&mut mv, mode),
        Event::Paused(pause) => pause::set(&mut mv, pause),
        Event::Looked(looks) => watch::looked(&mut mv, looks),
        Event::Offered(payload) => accept::offered(&mut mv, *payload)?,
        Event::Answered { turn, .. } if turn != state.turn => {}
        Event::Answered { answer, .. } => answered(&mut mv, answer)?,
    }
    mv.report_progress(state);
    Ok((mv.state, mv.effects))
}

/// Leads an answer to the phase that asked.
fn answered(mv: &mut Move, answer: Answer) -> Result<(), Unexpected> {
    let name = answer.name();
    let Some(job) = mv.state.job.take() else {
        return Err(Unexpected::Answer { answer: name, phase: "Idle" });
    };
    if let Answer::Inspected(inspection) = &answer
        && proof::tells_build(inspection)
    {
        mv.state.build.clone_from(&inspection.build);
    }
    mv.state.job = match (job.phase.clone(), answer) {
        (_, Answer::Woke) => wake::woke(mv, job),
        (
            Phase::Preflight { .. }
            | Phase::Surveying { .. }
            | Phase::Settling { .. }
            | Phase::Verifying { .. },
            Answer::Inspected(seen),
        ) if !proof::tells_build(&seen) => {
            verify::blind(mv, job, "Windows does not tell its build", 1)
        }
        (Phase::Preflight { checks }, Answer::Inspected(found)) => {
            preflight::inspected(mv, job, checks, *found)
        }
        (Phase::Downloading { tries }, Answer::Downloaded(result)) => {
            install::downloaded(mv, job, tries, result)
        }
        (Phase::AwaitingInstall, Answer::Permit { asked_mono_ms, answer }) => {
            install::permit_answered(mv, job, asked_mono_ms, answer)
        }
        (Phase::Installing { index }, Answer::Installed(found)) => {
            install::installed(mv, job, index, found)
        }
        (Phase::Installing { index }, Answer::PermitExpired) => {
            install::installed(mv, job, index, InstallFound::NotBegun)
        }
        (
            Phase::AwaitingReboot { why, counted, tries },
            Answer::Permit { asked_mono_ms, answer },
        ) => reboot::permit_answered(mv, job, (why, counted, tries), asked_mono_ms, answer),
        (Phase::AwaitingReboot { .. }, Answer::LookedAround(seen)) => {
            reboot::looked(mv, job, &seen)
        }
        (Phase::AwaitingReboot { .. }, Answer::PeopleSaid(reply)) => {
            reboot::people_said(mv, job, reply)
        }
        (Phase::Rebooting { why, tries, .. }, Answer::Permit { asked_mono_ms, answer }) => {
            reboot::confirmed(mv, job, (why, tries), asked_mono_ms, answer)
        }
        (Phase::Rebooting { why, tries, .. }, Answer::RebootRefused(refusal)) => {
            reboot::refused(mv, job, why, tries, &refusal)
        }
        (Phase::Rebooting { why, tries, .. }, Answer::PermitExpired) => {
            reboot::again(mv, job, why, tries)
        }
        (Phase::Settling { checks }, Answer::Inspected(found)) => {
            verify::settled(mv, job, checks, *found)
        }
        (Phase::Verifying { good, samples }, Answer::Inspected(found)) => {
            verify::sampled(mv, job, good, samples, *found)
        }
        (Phase::AwaitingContact { is_healthy }, Answer::Contact(answered)) => {
            contact::looked(mv, job, is_healthy, &answered)
        }
        (Phase::AwaitingUninstall, Answer::Contact(answered)) => {
            contact::looked_once_more(mv, job, &answered)
        }
        (Phase::Remediating { samples, .. }, Answer::Restarted(result)) => {
            verify::restarted(mv, job, samples, result)
        }
        (Phase::RunningHook { index, next }, Answer::HookEnded(result)) => {
            hooks::ended(mv, job, index, next, result)
        }
        (Phase::RunningHook { next, .. }, Answer::PermitExpired) => hooks::go_on(mv, job, next),
        (Phase::Surveying { checks }, Answer::Inspected(found)) => {
            rollback::surveyed(mv, job, checks, *found)
        }
        (Phase::AwaitingUninstall, Answer::Permit { asked_mono_ms, answer }) => {
            rollback::permit_answered(mv, job, asked_mono_ms, answer)
        }
        (Phase::Uninstalling { index }, Answer::Uninstalled(found)) => {
            rollback::uninstalled(mv, job, index, found)
        }
        (Phase::Uninstalling { index }, Answer::PermitExpired) => {
            rollback::uninstalled(mv, job, index, InstallFound::NotBegun)
        }
        (_, Answer::Blind(why)) => verify::blind(mv, job, &why, 1),
        (phase, _) => return Err(Unexpected::Answer { answer: name, phase: phase.word() }),
    };
    Ok(())
}

/// One step being taken.
struct Move {
    state: State,
    now: Now,
    effects: Vec<Effect>,
}

impl Move {
    /// Enters a phase: answers to everything asked before no longer count.
    fn enter(&mut self, job: &mut JobRun, phase: Phase) {
        self.state.turn += 1;
        job.phase = phase;
    }

    /// Asks something, in a turn of its own: late answers to earlier questions no longer count.
    /// Without an answer within `limit_ms` the job goes on without one.
    fn ask(&mut self, job: &mut JobRun, ask: Ask, limit_ms: u64) {
        self.state.turn += 1;
        self.effects.push(Effect::Ask { turn: self.state.turn, ask });
        self.wake(job, Awaits::Answer, limit_ms);
    }

    /// Does nothing for a while.
    fn pause(&mut self, job: &mut JobRun, after_ms: u64) {
        self.state.turn += 1;
        self.wake(job, Awaits::Time, after_ms);
    }

    fn wake(&mut self, job: &mut JobRun, awaits: Awaits, after_ms: u64) {
        job.awaits = awaits;
        self.effects.push(Effect::Ask { turn: self.state.turn, ask: Ask::Wake { after_ms } });
    }

    /// Whether the device is in a boot loop, as far as this job is concerned. What came before a
    /// rollback was accepted is what the rollback is for.
    fn loops(&self, job: &JobRun) -> bool {
        if let Some(own) = &job.own_rollback {
            return boots::is_loop(&own.boots, own.boots.len(), job.strikes);
        }
        let boots = if job.is_rollback() { &job.boots } else { &self.state.boots };
        boots::is_loop(boots, job.boots.len(), job.strikes)
    }

    /// Whether the device restarts too often for anything new to begin on it.
    fn is_restless(&self) -> bool {
        let held = self.now.mono_ms.saturating_sub(self.state.run_began_mono_ms);
        let held = SignedDuration::from_millis(i64::try_from(held).unwrap_or(i64::MAX));
        boots::is_restless(&self.state.boots, held)
    }

    /// Reports the job's state when people would see a difference.
    fn report_progress(&mut self, before: &State) {
        let Some(job) = &self.state.job else { return };
        let progress = job.progress();
        if before.job.as_ref().map(JobRun::progress).as_ref() != Some(&progress) {
            self.effects.push(Effect::Progress(Box::new(progress)));
        }
    }
}

#[cfg(test)]
mod autonomous_stories;
#[cfg(test)]
mod bench;
#[cfg(test)]
mod broken_stories;
#[cfg(test)]
mod check_stories;
#[cfg(test)]
mod considerate;
#[cfg(test)]
mod contact_stories;
#[cfg(test)]
mod deferral_stories;
#[cfg(test)]
mod layout;
#[cfg(test)]
mod milestones;
#[cfg(test)]
mod off_stories;
#[cfg(test)]
mod pause_stories;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod table;
#[cfg(test)]
mod troubles;
#[cfg(test)]
mod upgrade_stories;
#[cfg(test)]
mod watch_stories;
