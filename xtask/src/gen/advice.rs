//! What somebody on call does about a reason: written by hand, one entry for every reason that keeps
//! something from moving or says how it failed. The page `docs/operations/reasons.md` is made from it.

use std::fmt::Write as _;

use wardring_api::reasons::Reason::{self, *};

use super::NOTICE;

/// A part of the page.
struct Part {
    title: &'static str,
    about: &'static str,
    advice: &'static [(Reason, &'static str)],
}

/// The page.
pub(super) fn page() -> String {
    let mut page = format!(
        "<!-- {NOTICE} -->\n# What to do about a reason\n\n`kubectl wardring status` and `kubectl \
         wardring explain` name a reason for whatever does not move. Its meaning and what to do about \
         it stand here; the list of every word is in [the reference](../reference/reasons.md).\n"
    );
    for part in PARTS {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(page, "\n## {}\n\n{}", part.title, part.about);
        for (reason, advice) in part.advice {
            let _ = writeln!(page, "\n### {}\n", reason.as_str());
            let _ = writeln!(page, "{}\n\n**What to do.** {advice}", reason.meaning());
        }
    }
    page
}

const PARTS: &[Part] = &[
    Part {
        title: "A rollout stands still",
        about: "Nothing new begins in the whole rollout. What stands in `status.halted`, `status.suspended`, \
                `status.aborted` or the condition Stalled stays until a person acts.",
        advice: &[
            (
                SuspendedByPerson,
                "Ask whoever suspended it; `kubectl wardring resume NAME` lets it go on. Taking the field \
                 out of the manifest changes nothing, on purpose.",
            ),
            (
                AbortedByPerson,
                "Nothing: an end is final. A new PatchRollout with the same updates skips what is \
                 already proven.",
            ),
            (
                SupersededByRollout,
                "Nothing: the rollout that the message names goes on in its place. Devices that the message calls \
                 left out are in no stage of that one, or it has no update for their Windows; make a rollout \
                 for them if they shall be updated.",
            ),
            (
                SupersedesNotFound,
                "Make a new rollout with the right name in `supersedes`, or without it if there is nothing to \
                 take over. `kubectl get prollout` shows the names and ages.",
            ),
            (
                SupersedesUnapproved,
                "Give the first stage a gate of type Approval in `gates.before`, enforced and without \
                 `authorMayApprove`. Where that stage has opened already, abort this rollout and make a new one \
                 that asks; or abort the older one yourself, and this one goes on.",
            ),
            (
                FailureBudgetSpent,
                "`kubectl wardring status NAME` shows the failed devices and the first words of each. Mend \
                 or hold them, then `kubectl wardring retry NAME`; or raise `maxFailures` if these \
                 failures are borne. If the update is the cause, leave the halt in place.",
            ),
            (
                ApprovalRejected,
                "Talk to whoever rejected it; the message names them and says why. Change what they object \
                 to, then `kubectl wardring retry NAME` asks anew. Deleting the PatchApproval changes nothing.",
            ),
            (
                UnreachableBudgetSpent,
                "Look first at what the silent devices share: a switch, a hypervisor, a gateway. \
                 Nothing is taken back because of silence. Devices that come back healthy leave the \
                 count by themselves; then `kubectl wardring retry NAME`.",
            ),
            (
                ProgressDeadlineExceeded,
                "`kubectl wardring explain rollout NAME` says what the devices wait for. Mend that, or \
                 raise the stage's `progressDeadline`, then `kubectl wardring retry NAME`.",
            ),
            (
                NotEnoughProven,
                "The devices of the stage had nothing to install: the update is not offered to them, or \
                 they had it already. Approve it where they look for updates, or lower \
                 `minProven` if an empty stage is meant to open the next one.",
            ),
            (
                CoverageTooLow,
                "Too many devices of the stage were left out. `kubectl wardring status NAME` counts the \
                 deferred ones; bring them online, or lower `minCoverage`.",
            ),
            (
                TooFewDevices,
                "The stage's group or selector matches fewer devices than `minDevices`: a typo, or \
                 labels that are gone. `kubectl get devices -l …` shows what matches.",
            ),
            (GroupNotFound, "Create the DeviceGroup, or mend the stage's `group`."),
            (InvalidSpec, "The message names the field. Mend the manifest and apply it again."),
            (
                NothingSelected,
                "`kubectl get updates` lists what the devices report. Mend the selection, or wait until \
                 a device of the stages has searched for updates.",
            ),
            (
                RecordLost,
                "Slices of this run were deleted or changed by hand. Restore them from a backup, or end \
                 the rollout with `kubectl wardring abort NAME` and start a new one: what is \
                 installed stays proven by the devices themselves.",
            ),
            (
                RestoredFromBackup,
                "The cluster knows less than the devices. Look at what runs on them, then confirm with \
                 the annotation that the message gives.",
            ),
            (
                AgentsUnheard,
                "Wait: it ends when the agents in contact were heard or count as offline. If it does not, \
                 no gateway reports to the controller; look at the gateways.",
            ),
            (ClockSkew, "Set the clock of the controller's machine, or of the control plane."),
            (PlanRefused, "Nothing was written. Report it with the controller's log."),
            (
                RollbackFailed,
                "See the devices below it; each says what its removal failed with, and is quarantined: no \
                 rollout touches it. Mend or restore it, then say `kubectl wardring release device NAME`.",
            ),
            (
                Deleting,
                "Wait for the devices that have begun. `kubectl wardring status NAME` counts them.",
            ),
            (
                CrdOutdated,
                "Apply the CRDs of this version: `helm upgrade` with the chart, or `crds/`.",
            ),
            (
                GateWaiting,
                "Wait: the message says what the gate measures and when it does so next. A gate that never \
                 gets data waits for ever unless `noData` says otherwise.",
            ),
            (
                AwaitingApproval,
                "`kubectl wardring approve NAME` shows what is asked and takes the word of somebody who did \
                 not write the rollout and has the role `wardring-approve`; `reject` says no. The \
                 message says since what change it is asked anew, if it is.",
            ),
            (
                ApprovalPolicyBroken,
                "Approvals count only while the chart's ValidatingAdmissionPolicies `wardring-approvals` and \
                 `wardring-rollout-authors` and their bindings stand as this version installs them. The message says which \
                 one is missing or different: `helm upgrade` puts it back. What was asked before is asked anew then.",
            ),
            (
                GateFailed,
                "The message holds the value against its threshold. Mend the cause; a gate that holds \
                 recovers by itself, one that halted waits for `kubectl wardring retry NAME`.",
            ),
            (
                GateError,
                "Nobody answered, or nothing that can be read. Look at the provider that the gate names: \
                 `kubectl get gateproviders`.",
            ),
            (
                CredentialsUnusable,
                "Create the Secret with the key that the message names, and list it in the chart's `controller.gateSecrets`. Until then every gate at this provider is an error, and nothing starts behind it.",
            ),
            (
                SinkNotTold,
                "Look at the server that the Notifier names, and at the Secret and its annotation. What still holds is told as soon as the sink takes it; rollouts wait for no sink.",
            ),
            (
                SinkInvalid,
                "Mend what the message names in the Notifier: `kubectl describe notifier NAME`. Until then nobody is told by this sink; with a template that fails, all that is known is sent in place of its text.",
            ),
            (
                CorrelatedFailure,
                "Look at what the failed devices share: the message names it. Hold those devices or leave them out of the stage, then `kubectl wardring retry NAME`.",
            ),
            (
                CorrelatedSilence,
                "Look first at what the silent devices share: a site, a model, a driver. Nothing is taken back because of silence.",
            ),
            (
                RollbackOrdered,
                "A person ordered it: `kubectl get patchrollbacks` says who and why. The updates stay barred by an UpdateHold; a new rollout needs that hold deleted first.",
            ),
            (
                RollbackWithdrawn,
                "Look at the rollout's status for the devices that were taken back already, and order another PatchRollback for the rest if they are to follow.",
            ),
            (
                RollbackForbidden,
                "A grant that a group forbade after it was made; the controller takes it back. Change `rollback` of the group if the device is to follow.",
            ),
            (
                NothingToRollBack,
                "Look at the selection of the PatchRollback: the devices it names have nothing of the rollout.",
            ),
            (
                RolloutNotFound,
                "Name a PatchRollout that exists, in another PatchRollback: an order never waits for a rollout to come.",
            ),
            (WriteInFlight, "Wait a second; the next pass goes on."),
        ],
    },
    Part {
        title: "A device does not begin",
        about: "The device keeps what it has. Most of these end by themselves; `kubectl wardring explain \
                device NAME` says when.",
        advice: &[
            (ObserveMode, "Set `spec.mode: Manage` on the Device when it may be patched."),
            (
                Paused,
                "The Device's `status.paused` says why and since when. An administrator ends it on the device with \
                 `wardring-agent resume`; nobody can from the cluster.",
            ),
            (
                DeviceHeld,
                "Read the reason in `spec.hold` of the Device, and take the hold away when it no longer \
                 stands.",
            ),
            (
                Quarantined,
                "The condition Quarantined of the Device says why. `RollbackFailed` or `NotReversible`: an update left it \
                 damaged. Look at the device itself, mend it or restore it, then say `kubectl wardring release \
                 device NAME`. `TwoAgents`: two agents use its key; find the copy, and enrol one of the two anew.",
            ),
            (
                UpdateHeld,
                "`kubectl get updateholds` shows why the update is barred, with what was seen. Delete the \
                 hold when the cause is mended.",
            ),
            (
                UpdateHoldRefused,
                "The message names the UpdateHold and gives the API server's words: raise the quota for                  updateholds, let the controller's service account through the admission policy, or create                  the UpdateHold by that name yourself. A device that took the update back by itself gets                  no other job until then; everything else goes on.",
            ),
            (
                EmergencyStop,
                "`kubectl get estop` says who stopped what and why; `kubectl wardring lift`.",
            ),
            (
                UndeclaredRole,
                "Add the role to the `roles` of the device's group if the device may be patched with it; \
                 otherwise move the device to a group that is meant for it.",
            ),
            (
                PendingReboot,
                "Restart the device in its own time, or set `preflight.pendingReboot: RebootFirst` so that \
                 the agent does it first. The sources are in the Device's status.",
            ),
            (
                LowDiskSpace,
                "Make room on the drive of Windows (the Device's `status.freeDiskGb` tells how much there is, \
                 rounded down), or lower `preflight.minFreeDiskGb` of the next rollout.",
            ),
            (
                ComponentStoreDamaged,
                "On the device: `DISM /Online /Cleanup-Image /RestoreHealth`, then `/CheckHealth`. Where that \
                 cannot repair it, install Windows anew or upgrade it in place. An update that goes in all \
                 the same may be one that does not come out again.",
            ),
            (
                ComponentStoreUnknown,
                "The agent asks DISM twice a day; its log says why there is no answer. Agents from before \
                 this fact never tell it: update them, or use `componentStore: Block`.",
            ),
            (
                PatchAuthority,
                "The Device's condition SolePatchSource names what else patches it and the setting to \
                 change. With `patchAuthority: Observe` the group is only watched.",
            ),
            (Offline, "Look at the device, its network and its agent's log."),
            (NotEnrolled, "Enrol it: `kubectl wardring enroll` prints the line."),
            (
                Busy,
                "The other rollout's job comes first; `kubectl get patchjob DEVICE` names it. It ends by \
                 its own deadlines.",
            ),
            (SlotsTaken, "Wait, or raise the stage's `maxConcurrency`."),
            (OutsideWindow, "Wait: the message says when the window opens next."),
            (
                Frozen,
                "A MaintenanceWindow of type Deny is in force; its reason stands in the message.",
            ),
            (
                WindowNeverOpens,
                "Mend the windows or their selectors. A device that no window fits would wait for ever, so \
                 it is told at once.",
            ),
            (WindowNotFound, "Create the MaintenanceWindow, or take out its name."),
            (InvalidWindow, "The window's condition Ready says what cannot be read."),
            (NoTimeZone, "Set `spec.timeZone` of the Device."),
            (
                GroupUnavailable,
                "Wait for devices of the group to come back, or raise its `maxUnavailable`. Offline devices \
                 count.",
            ),
            (
                RebootsHeld,
                "The same: too many devices of the group are unavailable to restart another.",
            ),
            (
                CanaryGap,
                "Put a device of that product, model or role into an earlier stage, or set `requireProven: false` if it is borne.",
            ),
            (
                KeptApart,
                "Wait until the other device of the same value is back; `antiAffinity` of the group says how many may be away.",
            ),
            (
                RollbackAwaitsApproval,
                "`kubectl wardring approve NAME --rollback` shows which devices and takes the word of somebody who did not \
                 write the rollout and has the role `wardring-approve`; `reject` says no. A PatchRollback that asks is answered with \
                 `--order ORDER`, by somebody who did not write it. Where nobody can approve, one without `approvalAbove` asks \
                 nobody: `kubectl wardring rollback NAME --device DEVICE --reason …`.",
            ),
            (
                RollbackRejected,
                "Mend the devices by hand, order a rollback (`kubectl wardring rollback NAME --device DEVICE --reason …`), \
                 or go on with `kubectl wardring retry NAME`, which gives failed devices another attempt.",
            ),
            (
                RollbackAsks,
                "Decide: `kubectl wardring rollback ROLLOUT --device NAME --reason …` takes it back.",
            ),
            (
                SupersedesHeld,
                "The update contains one that is barred. Delete the UpdateHold when its cause is mended, or let it warn only (`includeSuperseding: Warn`).",
            ),
            (StageNotOpen, "Wait for the stages before it."),
            (RolloutStopped, "See why the rollout stands still."),
            (Backoff, "Wait, or change the stage's `retry.backoff`."),
            (
                NoFacts,
                "Wait for the device's first report; if none comes, look at its agent's log.",
            ),
            (
                ReportStale,
                "The device has not searched for updates lately; look at its agent's log.",
            ),
        ],
    },
    Part {
        title: "A device failed",
        about: "The device's own words stand in `status.stages[].failedSample` of the rollout, and its whole \
                answer in the job until the outcome is recorded.",
        advice: &[
            (Failed, "The detail behind it says how."),
            (
                Unreachable,
                "Go to the device's console, or ask the hypervisor. Its job stays: when it comes back, it \
                 says what became of the update.",
            ),
            (NotBack, "As Unreachable: it did not come back from its restart."),
            (
                RevertedByWindows,
                "Windows undid the update at boot. `C:\\Windows\\Logs\\CBS\\CBS.log` says which \
                 component failed; repair the component store before another attempt.",
            ),
            (
                NotReversible,
                "Windows has no way back for this update. Restore the device from its backup, or mend what \
                 broke. One that the update broke is quarantined until somebody says `kubectl wardring release \
                 device NAME`.",
            ),
            (
                ServiceDown,
                "The service was running before the update and was restarted several times without success. \
                 Its own log, and the System event log, say why.",
            ),
            (
                ProbeFailed,
                "What the probe asks worked before the update; ask it by hand on the device.",
            ),
            (
                HookFailed,
                "Run the program on the device by hand and look at its exit code; its folder must belong to \
                 administrators only.",
            ),
            (
                BootLoop,
                "Leave it alone until somebody sits before it. With `autonomousRollback` it takes the update \
                 back once by itself.",
            ),
            (
                UnexpectedRestart,
                "The System event log of that time says whether it was a bugcheck (1001) or a loss of power \
                 (41, 6008); the rest of its stage says whether the update did it.",
            ),
            (
                NetworkLost,
                "It took the update back by itself. Look at its network driver and settings.",
            ),
            (
                BuildFamilyChanged,
                "Look at the Device's build: it runs another version of Windows. Hold the update for every \
                 other device (`kubectl wardring hold update`). Windows' own way back, within ten days as it \
                 comes, is `DISM /Online /Initiate-OSUninstall`; servers have none but a backup. To bring a new \
                 version of Windows to devices is not supported yet: another tool has to do that, and the \
                 device goes on from what it is then.",
            ),
            (
                FeatureUpgrade,
                "Nothing was installed. The message says what calls it an upgrade. Take the KB out of the \
                 rollout, and decline the upgrade in WSUS. If it is wanted, another tool has to bring it: \
                 rolling out a new version of Windows is not supported yet.",
            ),
            (RebootStuck, "Look at the console for what refuses to end, then restart it by hand."),
            (
                InstallFailed,
                "The HRESULT in the message is explained in [the table](../reference/hresults.md).",
            ),
            (
                DownloadFailed,
                "Look at the way from the device to its update source: proxy, WSUS, disk.",
            ),
            (
                Downloading,
                "Nothing to do. The job goes when the window opens, or when somebody else needs the device.",
            ),
            (Downloaded, "Nothing to do: it installs when its window opens."),
            (PreflightFailed, "The message names the check; mend it on the device and retry."),
            (OnBattery, "Plug it in, or set `preflight.onBattery: Ignore`."),
            (
                AttendedBoot,
                "Somebody must be there to type the PIN, or BitLocker must be suspended for one restart; set \
                 `preflight.unattendedBoot: Ignore` if so.",
            ),
            (
                StateLost,
                "The agent's journal was lost in the middle of the work. What Windows says of itself is in \
                 the Device's status; retry when it is well.",
            ),
            (
                Replaced,
                "It was enrolled anew or deleted. A new rollout, or a retry, finds it as it is.",
            ),
            (CannotCreate, "The API server refused the job; the message gives its words."),
            (
                BadSignature,
                "The answer is not the device's. Look for two machines with one key, and at the gateway that \
                 brought it.",
            ),
            (StartByPassed, "It was granted and never began; it gets a new attempt by itself."),
            (
                FinishByPassed,
                "Look at what it still does; raise the stage's `deviceDeadline` if it is slow.",
            ),
            (OfflineTooLong, "Bring it online and retry, or choose another `offline.action`."),
            (Released, "A person let go of its job. Retry when the device may be patched again."),
            (NotStarted, "It gets a new attempt by itself; the message says why it did not begin."),
            (Deferred, "Bring it online; the next rollout takes it along."),
            (
                TailClosed,
                "Bring it online; the next rollout takes it along. `offline.closeAfter` is how long a stage stays open.",
            ),
            (
                PoweredOff,
                "Nothing failed, and nothing had begun: somebody had switched it off. It gets a new attempt by itself; where its stage is past, a retry or the next rollout takes it along.",
            ),
            (NotOffered, "Approve the update where the device looks for updates, such as WSUS."),
            (
                PatchedOutside,
                "Find out who else patches the device; it is not counted as a success.",
            ),
        ],
    },
    Part {
        title: "A permit is refused",
        about: "An agent that was about to install, remove or restart was told no, and asks again by itself as \
                long as its job stands.",
        advice: &[
            (NoSuchJob, "Nothing: the job was taken back or replaced."),
            (NotGranted, "Nothing: the record does not know this attempt any more."),
            (NoLeader, "No controller leads; look at the controller's pods."),
            (
                ApiUnavailable,
                "The gateway cannot read the API server, or more devices ask at once than it gets through; the sentence says which. Look at both; where they are well, let fewer devices begin at once.",
            ),
            (
                TwoAgents,
                "Two live agents use one key: a cloned machine. Enrol one of them anew; until then neither \
                 may do anything.",
            ),
            (TooLate, "Nothing: the device gets a new attempt."),
        ],
    },
    Part {
        title: "A device is not let in",
        about: "The EnrollmentRequest says why.",
        advice: &[
            (TokenRefused, "Make a new token: `kubectl wardring enroll`."),
            (
                MayNotReplace,
                "A device of this name is enrolled. If it is the same machine with a lost key, make a token \
                 with `--may-replace`.",
            ),
            (BadProof, "The request was changed on its way, or made with another token."),
            (StaleClaim, "Set the device's clock; the agent tries again by itself."),
            (
                CaMissing,
                "Restore the Secret that the message names. A new CA would lock out every enrolled device.",
            ),
        ],
    },
];

/// Words of progress and of health, about which there is nothing to do.
#[cfg(test)]
const GOOD_NEWS: &[Reason] = &[
    Planned,
    NewGeneration,
    InProgress,
    Soaking,
    CatchingUp,
    Completed,
    RollingBack,
    RollbackSucceeded,
    AgentInContact,
    Succeeded,
    AlreadyInstalled,
    NotApplicable,
    Superseded,
    RolledBack,
    NoRestartPending,
    AsBefore,
    NotWatched,
    NothingMissing,
    UpdatesMissing,
    UpdatesFailed,
    ScanTooOld,
    ScanFailed,
    SoleSource,
    Issued,
    GatePassed,
    Approved,
    ProviderUsable,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_reason_is_advised_about_once_or_is_good_news() {
        let mut found: BTreeMap<Reason, usize> = BTreeMap::new();
        let advised = PARTS.iter().flat_map(|part| part.advice).map(|(reason, _)| reason);
        for reason in advised.chain(GOOD_NEWS) {
            *found.entry(*reason).or_default() += 1;
        }
        for reason in Reason::ALL {
            assert_eq!(found.get(reason), Some(&1), "{}", reason.as_str());
        }
    }

    #[test]
    fn every_reason_that_keeps_something_from_moving_has_an_anchor() {
        let page = page();
        for reason in PARTS.iter().flat_map(|part| part.advice).map(|(reason, _)| reason) {
            assert!(page.contains(&format!("\n### {}\n", reason.as_str())));
        }
    }
}
