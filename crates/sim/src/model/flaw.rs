//! Mistakes that the shell of the model can be told to make. Each one breaks a rule that the search
//! must find broken; otherwise the search would prove nothing.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A new leader acts without raising the sequence.
    NoTakeOver,
    /// The ledger is written whatever it says meanwhile.
    LedgerAtWill,
    /// Slice lines are written whatever the slice says meanwhile.
    SliceAtWill,
    /// A job is deleted whatever happened to it since it was read.
    DeleteAtWill,
    /// Jobs are created before their lines are written.
    JobsFirst,
    /// A leader takes it that no missing job was ever made.
    NothingWasMade,
    /// The planner is told of one slot more than the rollout has.
    OneSlotMore,
    /// The planner is told that the first stage is completed as soon as it is open.
    EarlyStage,
    /// The shell does not come back when the plan said it should.
    SleepsOn,
    /// A gateway permits without looking at the slice line.
    PermitByJob,
    /// A gateway permits by a rollout that it read long ago.
    PermitByOldRollout,
    /// A gateway permits although nobody leads.
    PermitUnled,
    /// A gateway answers without having recorded its permit.
    PermitUnrecorded,
    /// An agent acts on a permit however late it comes.
    LatePermit,
    /// An agent forgets what it has done.
    Forgetful,
    /// A gateway does not look at EmergencyStops.
    PermitUnderStop,
    /// A gateway leaves windows to the planner.
    PermitOutsideWindow,
    /// A gateway does not look at what gates say.
    PermitPastGates,
    /// The planner is handed an old answer as if it were new.
    OldSample,
    /// The planner is told that a provider lets a gate pass that did not answer.
    ErrorPasses,
    /// The planner is told that what comes before a stage has passed.
    UngatedBefore,
    /// The planner is told that what comes after a stage has passed.
    UngatedAfter,
    /// A new leader forgets what gates said under the one before.
    LatchForgotten,
    /// A controller takes an approval of anything for one of what is asked now.
    AnyApproval,
    /// A controller takes a rejection for an approval.
    RejectionApproves,
    /// A controller does not look whether an author approved their own rollout.
    AuthorApproves,
    /// A controller does not look when an approval expires.
    ApprovalOutlives,
    /// A controller takes what was approved for what the rollout says since it was changed.
    ApprovalOfOldSpec,
    /// A controller does not look once more before it writes that something is approved.
    ApprovalUnconfirmed,
    /// The planner is not told that somebody has rejected.
    RejectionForgotten,
    /// A gateway does not look whether what the stage does is approved.
    PermitUnapproved,
}

impl Flaw {
    /// Every mistake.
    pub const ALL: [Flaw; 31] = [
        Flaw::NoTakeOver,
        Flaw::LedgerAtWill,
        Flaw::SliceAtWill,
        Flaw::DeleteAtWill,
        Flaw::JobsFirst,
        Flaw::NothingWasMade,
        Flaw::OneSlotMore,
        Flaw::EarlyStage,
        Flaw::SleepsOn,
        Flaw::PermitByJob,
        Flaw::PermitByOldRollout,
        Flaw::PermitUnled,
        Flaw::PermitUnrecorded,
        Flaw::LatePermit,
        Flaw::Forgetful,
        Flaw::PermitUnderStop,
        Flaw::PermitOutsideWindow,
        Flaw::PermitPastGates,
        Flaw::OldSample,
        Flaw::ErrorPasses,
        Flaw::UngatedBefore,
        Flaw::UngatedAfter,
        Flaw::LatchForgotten,
        Flaw::AnyApproval,
        Flaw::RejectionApproves,
        Flaw::AuthorApproves,
        Flaw::ApprovalOutlives,
        Flaw::ApprovalOfOldSpec,
        Flaw::ApprovalUnconfirmed,
        Flaw::RejectionForgotten,
        Flaw::PermitUnapproved,
    ];
}
