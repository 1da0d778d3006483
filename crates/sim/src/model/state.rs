//! A state of the model. Everything in it is small and canonical: no version numbers (whether what
//! somebody read is still current is one bit), no clock but a few ticks, and no order where none
//! matters.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use wardring_api::{PatchApproval, PatchRollout, PermitStep};
use wardring_planner::{JobView, LedgerView, OutcomeResult, SliceView};

use super::{
    brakes::{Answer, Sample},
    held::Held,
    leader::Planned,
    people::People,
    size::Faults,
};

/// Everything there is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// Minutes since the beginning.
    pub now: u32,
    /// What the API server stores.
    pub api: Cluster,
    /// Whose the Lease is.
    pub holder: Option<u8>,
    /// The controllers.
    pub leaders: Vec<Leader>,
    /// Writes of controllers that are still under way although their senders gave them up.
    pub late: Vec<Late>,
    /// The agents.
    pub agents: Vec<Agent>,
    /// The permit request that a gateway stands still over.
    pub frozen: Option<Request>,
    /// Faults that may still strike.
    pub left: Faults,
    /// What only the onlooker knows.
    pub truth: Truth,
    /// What people were asked and really said, which only the onlooker knows.
    pub people: People,
    /// Nothing happens any more.
    pub rests: bool,
}

/// What the API server stores: the very values that the planner and the permit rule read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cluster {
    /// The ledger, once there is one.
    pub ledger: Option<Held<LedgerView>>,
    /// The rollout.
    pub rollout: Held<PatchRollout>,
    /// The slice of each stage.
    pub slices: Vec<Option<Held<SliceView>>>,
    /// The job of each device.
    pub jobs: Vec<Option<Held<JobView>>>,
    /// An EmergencyStop is in force.
    pub stopped: bool,
    /// A freeze is in force.
    pub denied: bool,
    /// What people are asked and what they say, by name.
    pub approvals: Vec<Held<PatchApproval>>,
}

/// What a controller takes itself for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// It waits, or it lost the Lease and only finishes the plan it is in.
    Follower,
    /// It has the Lease and is about to raise the sequence.
    TakingOver,
    /// It leads.
    Leader,
}

/// A controller.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Leader {
    /// What it takes itself for.
    pub role: Role,
    /// The plan it carries out.
    pub work: Option<Work>,
    /// One bit per object: still as the plan saw it, or moved on only by this plan's own writes.
    pub current: u32,
    /// The newest answer to each gate that it had measured and that was not counted yet.
    pub samples: BTreeMap<u8, Sample>,
    /// Grants of its own term (device, attempt) whose job was certainly never asked for.
    pub uncreated: BTreeSet<(u8, u32)>,
}

/// A plan that is being carried out.
#[derive(Clone, Debug)]
pub struct Work {
    /// The plan.
    pub plan: Arc<Planned>,
    /// The action that is next.
    pub next: usize,
    /// Lines of the recall under way that were asked for.
    pub asked: usize,
    /// Of them, those whose job is gone.
    pub recalled: BTreeSet<usize>,
}

/// A write on its way that nobody waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Late {
    /// The write. It is dropped as soon as it can only be refused.
    pub write: Held<super::cluster::Write>,
    /// A batch that somebody sent before another leader had taken over.
    pub fenced: bool,
}

/// An agent with its device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Agent {
    /// Highest sealed sequence it holds.
    pub highest: i64,
    /// The job it has.
    pub task: Option<Task>,
    /// Jobs it ended.
    pub done: Vec<Done>,
    /// Installations that began on the device.
    pub installs: u8,
    /// Restarts of ours in the attempt under way.
    pub restarts: u8,
}

/// The job an agent has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Task {
    /// Attempt.
    pub attempt: u32,
    /// Sealed sequence.
    pub sequence: i64,
    /// Minute after which nothing is begun.
    pub start_by: u32,
    /// Minute after which nothing goes on.
    pub finish_by: u32,
    /// How far it is.
    pub phase: Phase,
}

/// How far a job is on its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It needs a permit.
    Needs(PermitStep),
    /// It asked for it in this minute, and waits for the gateway that stands still.
    Asked(PermitStep, u32),
    /// It installs.
    Installing,
    /// It restarts.
    Restarting,
}

/// A job that an agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Done {
    /// Attempt.
    pub attempt: u32,
    /// Sequence that the answer carries.
    pub sequence: i64,
    /// Result.
    pub result: OutcomeWord,
}

/// Results of the model's agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutcomeWord {
    /// Did not begin.
    NotStarted,
    /// Failed.
    Failed,
    /// Installed and proven.
    Succeeded,
}

impl OutcomeWord {
    /// The planner's word.
    pub fn result(self) -> OutcomeResult {
        match self {
            OutcomeWord::NotStarted => OutcomeResult::NotStarted,
            OutcomeWord::Failed => OutcomeResult::Failed,
            OutcomeWord::Succeeded => OutcomeResult::Succeeded,
        }
    }
}

/// What an agent asked a gateway for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asked {
    /// Device.
    pub device: u8,
    /// Attempt.
    pub attempt: u32,
    /// Step.
    pub step: PermitStep,
    /// Highest sequence the agent holds.
    pub highest: i64,
}

/// A permit request in the hands of a gateway that stands still between any two of its steps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// What was asked.
    pub asked: Asked,
    /// How far the gateway is.
    pub stand: Stand,
}

/// How far a gateway is with a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stand {
    /// It read the job, and nothing else; whether the job is still as it read it.
    ReadJob(Option<Held<JobView>>, bool),
    /// It decided to permit; whether the job is still as it read it.
    Decided(bool),
    /// The permit is recorded and not yet told.
    Recorded,
}

/// What only the onlooker knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Truth {
    /// When the halt was written.
    pub halted_at: Option<u32>,
    /// Since when nobody has the Lease.
    pub unled_since: Option<u32>,
    /// The rule that was broken.
    pub broken: Option<&'static str>,
    /// Whether minutes passed that nobody waited for.
    pub hurried: bool,
    /// Since when an EmergencyStop is in force.
    pub stopped_at: Option<u32>,
    /// Since when a freeze is in force.
    pub denied_at: Option<u32>,
    /// What the provider answered last to each gate, and when.
    pub answers: [Option<(u32, Answer)>; GATES],
    /// Gates that the provider ever let pass, as bits.
    pub passed: u16,
    /// Since when the record says of a stage that a gate of `during` fails or cannot be measured. It
    /// ends when the provider lets it pass, unless the gate halts.
    pub barred: [Option<u32>; STAGES],
}

/// Most stages of a model.
pub const STAGES: usize = 4;
/// Most gates of a model: one of each phase in each stage.
pub const GATES: usize = 3 * STAGES;
