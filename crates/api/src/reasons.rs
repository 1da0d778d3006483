//! Every reason word that a condition, an event, a slice line or an explanation may carry.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A reason, as it stands in conditions, events and slice lines.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason, in the order of the reference page.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)+];

            /// The CamelCase word.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)+ }
            }

            /// What the reason means and what to do about it.
            pub fn meaning(self) -> &'static str {
                match self { $(Reason::$name => concat!($($doc,)+).trim_ascii_start(),)+ }
            }

            /// The reason with this word, if there is one.
            pub fn parse(word: &str) -> Option<Reason> {
                Reason::ALL.iter().copied().find(|reason| reason.as_str() == word)
            }
        }
    };
}

reasons! {
    // Rollout.
    /// The controller has read this generation and planned it.
    Planned,
    /// The controller has not planned this generation yet.
    NewGeneration,
    /// Devices of the current stage are moving.
    InProgress,
    /// The stage is proven and is being watched for its soak time.
    Soaking,
    /// The stage is proven and later stages go on; it stays open for devices that are late.
    CatchingUp,
    /// Every stage is done.
    Completed,
    /// A person suspended the rollout; only an explicit `suspend: false` resumes it.
    SuspendedByPerson,
    /// A person ended the rollout.
    AbortedByPerson,
    /// Another rollout takes this one's place: nothing begins any more, and when all is quiet it is over.
    SupersededByRollout,
    /// The rollout that `supersedes` names does not exist, or is not older.
    SupersedesNotFound,
    /// The rollout would take another one's place, and its first stage asks no second person.
    SupersedesUnapproved,
    /// More devices failed than `maxFailures` allows.
    FailureBudgetSpent,
    /// More devices fell silent than `maxUnreachable` allows.
    UnreachableBudgetSpent,
    /// Devices that have something in common failed (`correlatedFailures`); the message names what.
    CorrelatedFailure,
    /// Devices that have something in common failed or fell silent (`correlatedFailures`); the message
    /// names what. Silence only halts and rolls nothing back.
    CorrelatedSilence,
    /// The stage did not finish within its `progressDeadline`.
    ProgressDeadlineExceeded,
    /// Fewer devices than `minProven` were really installed and proven, so nothing opens.
    NotEnoughProven,
    /// Fewer devices than `minCoverage` of the applicable ones are done.
    CoverageTooLow,
    /// The stage selects fewer devices than `minDevices`.
    TooFewDevices,
    /// A gate of the stage has not passed yet.
    GateWaiting,
    /// A gate of the stage passed.
    GatePassed,
    /// A gate of the stage failed; `onFailure` of the gate says what follows from it.
    GateFailed,
    /// A gate of the stage cannot be measured, and nothing starts while nobody can say whether it holds.
    GateError,
    /// A stage waits for a person's approval; `kubectl wardring approve` shows what is asked.
    AwaitingApproval,
    /// A person approved what a stage waited for.
    Approved,
    /// A person rejected what a stage asked for; nothing of it begins until somebody asks for a retry.
    ApprovalRejected,
    /// The admission policies that vouch for who approved are missing, changed or not enforced, so no
    /// approval counts.
    ApprovalPolicyBroken,
    /// A stage names a group that does not exist.
    GroupNotFound,
    /// The manifest is accepted by the schema but cannot be carried out.
    InvalidSpec,
    /// No Update object matches the selection.
    NothingSelected,
    /// The record of the run is gone or does not match its freeze id.
    RecordLost,
    /// Agents have seen a sequence that the ledger's history does not know: the cluster was restored
    /// from backup.
    RestoredFromBackup,
    /// A controller took over and hears first what the agents hold, so that it would notice a restore.
    AgentsUnheard,
    /// This process's clock and the API server's differ by more than 30 s.
    ClockSkew,
    /// A plan broke a safety rule and was not applied; this is a bug to report.
    PlanRefused,
    /// Devices are being rolled back.
    RollingBack,
    /// Every device to be rolled back is rolled back.
    RollbackSucceeded,
    /// A device could not be rolled back.
    RollbackFailed,
    /// A person ordered that what the rollout brought is taken back (a PatchRollback); nothing of it is
    /// installed any more.
    RollbackOrdered,
    /// The PatchRollback was deleted; what had not begun stays as it is.
    RollbackWithdrawn,
    /// A group of the device says `rollback: Ask`; nothing is taken back there until a person makes a
    /// PatchRollback.
    RollbackAsks,
    /// Taking the updates back from these devices waits for a person's approval; `kubectl wardring approve`
    /// shows what is asked.
    RollbackAwaitsApproval,
    /// A person rejected taking the updates back; these devices keep them until a retry or a PatchRollback.
    RollbackRejected,
    /// A group of the device says `rollback: Forbid`; nothing is taken back there.
    RollbackForbidden,
    /// No device that the PatchRollback names has anything of the rollout.
    NothingToRollBack,
    /// The PatchRollback names no PatchRollout that existed when it was made.
    RolloutNotFound,
    /// The rollout brings an update that took the place of one that an UpdateHold bars.
    SupersedesHeld,
    /// The rollout was deleted; jobs that have not started are recalled.
    Deleting,
    /// The CRDs in the cluster are older than the controller.
    CrdOutdated,
    // Why a device does not start (hold reasons).
    /// The device is in mode Observe: the agent scans and reports and touches nothing.
    ObserveMode,
    /// An administrator paused the agent on the device itself; `wardring-agent resume` there lets it go on.
    Paused,
    /// A person holds the device.
    DeviceHeld,
    /// The device is quarantined.
    Quarantined,
    /// An UpdateHold bars one of the updates on this device.
    UpdateHeld,
    /// An EmergencyStop is in force for the device or its updates; nothing begins until a person lifts
    /// it.
    EmergencyStop,
    /// The device reports a role that its group does not declare.
    UndeclaredRole,
    /// Windows waits for a restart that has nothing to do with this rollout.
    PendingReboot,
    /// The drive of Windows has less free space than `preflight.minFreeDiskGb` asks for; make room.
    LowDiskSpace,
    /// Windows' component store is damaged, so that updates may fail half-way and not be removable;
    /// repair it, or set `preflight.componentStore: Ignore`.
    ComponentStoreDamaged,
    /// The device does not say whether Windows' component store is sound, and the rollout asks for that
    /// (`preflight.componentStore: Require`).
    ComponentStoreUnknown,
    /// A group of the device only watches, or demands to be the only source while something else
    /// patches the device.
    PatchAuthority,
    /// No agent is in contact.
    Offline,
    /// An agent is in contact.
    AgentInContact,
    /// The device has no enrolment yet.
    NotEnrolled,
    /// The device is in the middle of another rollout's job.
    Busy,
    /// Every slot of the stage is taken.
    SlotsTaken,
    /// No maintenance window that the stage or a group of the device names is open.
    OutsideWindow,
    /// A freeze (a MaintenanceWindow of type Deny) is in force.
    Frozen,
    /// No maintenance window that the stage or a group of the device names ever opens for the device,
    /// or none allows it to install and to restart; mend the windows or their selectors.
    WindowNeverOpens,
    /// A stage or a group names a MaintenanceWindow that does not exist; create it, or take out its name.
    WindowNotFound,
    /// A MaintenanceWindow cannot be read; its condition Ready says why.
    InvalidWindow,
    /// A maintenance window opens by the device's own clock, and the Device has no `spec.timeZone`.
    NoTimeZone,
    /// The group's `maxUnavailable` is reached.
    GroupUnavailable,
    /// No earlier stage proved a device of the same product, model or role, and the stage asks for that
    /// (`requireProven`).
    CanaryGap,
    /// As many devices with the same value of a label that a group keeps apart (`antiAffinity`) are
    /// unavailable as may be.
    KeptApart,
    /// The group's reboots are held.
    RebootsHeld,
    /// The stage is not open yet.
    StageNotOpen,
    /// The rollout stands still (suspended, halted or aborted).
    RolloutStopped,
    /// The device waits for its next attempt.
    Backoff,
    /// The device's facts are not reported yet.
    NoFacts,
    /// The last report is too old to act on.
    ReportStale,
    /// The API server says so: another pass must finish first.
    WriteInFlight,
    // Outcomes and their details.
    /// Installed, and proven after the restart where one was needed.
    Succeeded,
    /// It was there already, proven by the device.
    AlreadyInstalled,
    /// None of the rollout's updates applies to the device's Windows.
    NotApplicable,
    /// The device's update source does not offer the update.
    NotOffered,
    /// A newer update took its place.
    Superseded,
    /// Never contacted within the time its stage allows.
    Deferred,
    /// A person shut the device down cleanly.
    PoweredOff,
    /// The device did not start in time; it gets a new attempt.
    NotStarted,
    /// Somebody else installed the update meanwhile.
    PatchedOutside,
    /// The device failed; details say how.
    Failed,
    /// The device fell silent after it started.
    Unreachable,
    /// Windows took the update back at boot.
    RevertedByWindows,
    /// The update is removed again, verified.
    RolledBack,
    /// The update cannot be removed.
    NotReversible,
    /// A watched service does not run after the update.
    ServiceDown,
    /// A probe that was answered well before the update no longer is.
    ProbeFailed,
    /// A hook, a program in the agent's hooks folder, is missing, not protected, or failed; the
    /// message names it. See the guide on hooks.
    HookFailed,
    /// The device restarts again and again.
    BootLoop,
    /// Nothing answered the device any more after the update, so that it took it back by itself.
    NetworkLost,
    /// Windows is another version since the update: a feature upgrade that came as something else. It
    /// is not taken back by removing an update.
    BuildFamilyChanged,
    /// What the device's source offers under this KB is an upgrade to another version of Windows, and the
    /// rollout does not name one; nothing was installed.
    FeatureUpgrade,
    /// The restart did not happen.
    RebootStuck,
    /// The device did not come back from its restart in time.
    NotBack,
    /// The installer returned an error.
    InstallFailed,
    /// The download failed.
    DownloadFailed,
    /// The device downloads its updates ahead of its window; nothing is installed.
    Downloading,
    /// The device has its updates ready and waits for its window.
    Downloaded,
    /// A check before the installation failed.
    PreflightFailed,
    /// The device runs on battery; plug it in, or set `preflight.onBattery: Ignore`.
    OnBattery,
    /// The device would wait for a person at its next start (BitLocker with a PIN, a password or a
    /// key), or cannot tell; set `preflight.unattendedBoot: Ignore` if somebody will be there.
    AttendedBoot,
    /// The agent lost its journal in the middle of a job.
    StateLost,
    /// The device was enrolled anew or deleted in the middle of a job.
    Replaced,
    /// The job could not be created.
    CannotCreate,
    /// The API server refuses an UpdateHold that follows from a rollback, for a quota, an admission policy
    /// or missing rights; the message names it. Until it is there, nothing bars the update.
    UpdateHoldRefused,
    /// The outcome arrived without a valid signature of the device.
    BadSignature,
    /// The last moment to begin (`startBy`) passed.
    StartByPassed,
    /// The job was not done by `finishBy`.
    FinishByPassed,
    /// The stage's offline policy is Fail, and the device was never contacted.
    OfflineTooLong,
    /// The stage's tail closed before the device could begin.
    TailClosed,
    /// A person released the device from its job.
    Released,
    // Permits refused.
    /// There is no such job, or it is another attempt's.
    NoSuchJob,
    /// The slice line does not say Granted with this attempt.
    NotGranted,
    /// The leader has not renewed its Lease lately.
    NoLeader,
    /// The gateway could not read the API server, or not in time.
    ApiUnavailable,
    /// Another live agent asks with the same key.
    TwoAgents,
    /// Too late to begin: `startBy` has passed.
    TooLate,
    // Conditions of a device.
    /// Windows waits for no restart.
    NoRestartPending,
    /// What the last installations' health checks named is as it was before them, and the device did not
    /// crash since, nor lose power twice.
    AsBefore,
    /// The device does not tell how it is: nothing was installed lately that was proven there, its agent is
    /// too old to look after the end of a job, it cannot look or does not for more than an hour, or nothing
    /// was named to be looked at.
    NotWatched,
    /// The device crashed, or lost power twice, after an installation was proven there.
    UnexpectedRestart,
    /// The device's update source offers nothing that is not installed.
    NothingMissing,
    /// Updates are offered and not installed.
    UpdatesMissing,
    /// The last installation of an update failed.
    UpdatesFailed,
    /// Windows was last asked for updates more than 48 h ago, or never.
    ScanTooOld,
    /// The last search for updates failed.
    ScanFailed,
    /// Nothing else patches the device.
    SoleSource,
    // Gate providers.
    /// Address, certificates and credentials of the GateProvider can be used.
    ProviderUsable,
    /// The Secret of the GateProvider is missing, lacks a key, or the controller may not read it; the
    /// message says which. Secrets that it may read stand in the chart's `controller.gateSecrets`.
    CredentialsUnusable,
    // Enrolment.
    /// The token is unknown, spent, expired or revoked.
    TokenRefused,
    /// The device exists and the token may not replace it.
    MayNotReplace,
    /// The proof over the signing request does not verify.
    BadProof,
    /// The claim was signed more than an hour before it was filed, or in the future; check the
    /// device's clock. The agent signs a new one.
    StaleClaim,
    /// A sink of a Notifier does not take what it is told; the message says why, and it is tried again.
    SinkNotTold,
    /// A sink of a Notifier cannot be used as it is written: its address, its certificates or its
    /// template; mend the Notifier.
    SinkInvalid,
    /// The certificate was issued.
    Issued,
    /// The CA's Secret is missing although devices are enrolled.
    CaMissing,
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn every_reason_has_a_meaning_and_reads_back() {
        for reason in Reason::ALL {
            assert!(reason.meaning().ends_with('.'), "{reason:?}");
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
    }
}
