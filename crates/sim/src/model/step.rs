//! The steps that lead from one state to the next.

use super::{approvals::Word, brakes::Answer};

/// One step of somebody: of a controller or a device by number, where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A controller gets the Lease.
    Elect(u8),
    /// A leader looks at everything and plans.
    Observe(u8),
    /// A controller sends its next write, and hears the answer.
    Send(u8),
    /// A controller sends its next write, and gives it up.
    Delay(u8),
    /// A write that was given up reaches the API server.
    Land(u8),
    /// A controller dies.
    Crash(u8),
    /// A leader stands still in the middle of its plan for so long that it loses the Lease.
    Depose(u8),
    /// An agent takes up the job that is there.
    TakeUp(u8),
    /// An agent asks for a permit and hears the answer.
    Ask(u8),
    /// An agent asks the gateway that stands still.
    AskTheFrozen(u8),
    /// An agent gives that gateway up.
    TurnAway(u8),
    /// The gateway that stands still does one thing.
    Thaw,
    /// What is under way on a device ends.
    End(u8),
    /// An installation fails.
    Fail(u8),
    /// An agent's answer is recorded.
    Report(u8),
    /// A person deletes a job.
    DeleteJob(u8),
    /// Ten minutes pass although somebody could act.
    Hurry,
    /// Time passes until somebody's clock makes it act.
    Wait,
    /// A provider answers a gate, by number.
    Answer(u8, Answer),
    /// A person puts an EmergencyStop in force.
    Stop,
    /// A person lifts it.
    Lift,
    /// A person begins a freeze.
    BeginFreeze,
    /// A person ends it.
    EndFreeze,
    /// A person answers what a stage asks.
    Decide(u8, Word),
    /// Whoever approved takes it back.
    Withdraw(u8),
    /// A person changes the rollout: one slot more in each stage.
    Edit,
    /// From now on nobody approves anything.
    Neglect,
    /// Nothing happens any more.
    Rest,
}

impl Step {
    /// Its kind, in one word.
    pub fn kind(&self) -> String {
        let text = format!("{self:?}");
        text.split('(').next().unwrap_or_default().to_owned()
    }
}
