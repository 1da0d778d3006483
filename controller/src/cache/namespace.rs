//! What is known of one namespace.

use std::{collections::BTreeMap, sync::Arc};

use wardring_api::{
    DeviceGroup, GateState, GateType, PatchApproval, PatchJob, PatchLedger, PatchRollback,
    PatchRollout, RolloutPhase, SignedBytes, UpdateSpec,
};
use wardring_planner::{DeviceTable, GroupView, HoldView, JobView, SliceView, WindowView};
use wardring_seal::{Action as JobAction, OutcomePayload, OutcomeResult};

use super::Kind;

/// An object with what a compare-and-swap needs.
#[derive(Debug)]
pub struct Stored<T> {
    /// Uid of the object.
    pub uid: Arc<str>,
    /// Its resource version.
    pub version: u64,
    /// What is kept of it.
    pub value: Arc<T>,
}

impl<T> Clone for Stored<T> {
    fn clone(&self) -> Stored<T> {
        Stored { uid: self.uid.clone(), version: self.version, value: self.value.clone() }
    }
}

/// A job, and its signed answer as it came.
#[derive(Clone, Debug)]
pub struct CachedJob {
    /// What the planner reads, still without verified outcome.
    pub view: Arc<JobView>,
    /// The answer to verify.
    pub signed: Option<SignedBytes>,
}

impl CachedJob {
    /// What is kept of a job.
    pub fn new(job: &PatchJob) -> CachedJob {
        CachedJob {
            view: Arc::new(JobView::new(job, wardring_planner::JobOutcome::None)),
            signed: job.status.as_ref().and_then(|status| status.outcome.clone()),
        }
    }

    /// Whether it has an answer that may have to stop others: something went wrong on the device. The
    /// answer is not verified yet, so all that may follow from it is an earlier look.
    pub fn is_bad_news(&self) -> bool {
        let said = self.signed.as_ref().map(|signed| serde_json::from_str(&signed.payload));
        let Some(Ok(OutcomePayload { key, result, .. })) = said else { return false };
        match result {
            OutcomeResult::Failed
            | OutcomeResult::RevertedByWindows
            | OutcomeResult::NotReversible
            | OutcomeResult::RollbackFailed => true,
            // What was taken back although it was to be installed has failed.
            OutcomeResult::RolledBack => key.action == JobAction::Install,
            OutcomeResult::Succeeded
            | OutcomeResult::AlreadyInstalled
            | OutcomeResult::NotApplicable
            | OutcomeResult::NotOffered
            | OutcomeResult::Superseded
            | OutcomeResult::NotStarted
            | OutcomeResult::PatchedOutside
            | OutcomeResult::PoweredOff => false,
        }
    }
}

/// What is known of one namespace.
#[derive(Debug, Default)]
pub struct Namespace {
    /// Devices and groups.
    pub devices: Arc<DeviceTable>,
    /// Devices that became quarantined, until somebody takes the list.
    pub quarantined: Vec<String>,
    /// Rollouts by name.
    pub rollouts: BTreeMap<String, Stored<PatchRollout>>,
    /// Slices by name.
    pub slices: BTreeMap<String, Stored<SliceView>>,
    /// Jobs by name.
    pub jobs: BTreeMap<String, Stored<CachedJob>>,
    /// Groups by name.
    pub groups: BTreeMap<String, Stored<GroupView>>,
    /// Catalogue by name.
    pub updates: BTreeMap<String, Stored<UpdateSpec>>,
    /// Bars by name.
    pub holds: BTreeMap<String, Stored<HoldView>>,
    /// Maintenance windows by name.
    pub windows: BTreeMap<String, Stored<WindowView>>,
    /// People's orders to roll back, by name.
    pub rollbacks: BTreeMap<String, Stored<PatchRollback>>,
    /// People's words on what waits for one, by name.
    pub approvals: BTreeMap<String, Stored<PatchApproval>>,
    /// The ledger.
    pub ledger: Option<Stored<PatchLedger>>,
    /// Highest sequence ever seen in this very ledger: one that goes back was restored.
    pub highest_sequence: (Arc<str>, i64),
    /// Counts changes of what people want: a pass that is still writing looks at it again then, so
    /// that a halt does not wait behind a thousand grants.
    pub intent: u64,
    pub(super) floors: BTreeMap<Kind, u64>,
}

/// Quarantines that are remembered for whoever announces them. Nobody does unless this process leads.
const QUARANTINES: usize = 32;

impl Namespace {
    /// Remembers that a device became quarantined.
    pub fn note_quarantine(&mut self, device: &str) {
        if self.quarantined.len() < QUARANTINES {
            self.quarantined.push(device.to_owned());
        }
    }

    /// Remembers how far a ledger was; another object has a history of its own.
    pub(super) fn note_sequence(&mut self, ledger: &Arc<str>, sequence: i64) {
        let (known, highest) = &mut self.highest_sequence;
        if known == ledger {
            *highest = sequence.max(*highest);
        } else {
            self.highest_sequence = (ledger.clone(), sequence);
        }
    }

    /// Version of the last consistent list of a kind.
    pub fn floor(&self, kind: Kind) -> u64 {
        self.floors.get(&kind).copied().unwrap_or(0)
    }

    /// Whether there is a run, or the record of one.
    pub fn has_runs(&self) -> bool {
        !(self.rollouts.is_empty() && self.slices.is_empty() && self.jobs.is_empty())
    }

    /// Whether a pass over the namespace can have anything to do.
    pub fn is_active(&self) -> bool {
        self.has_runs()
            || !self.groups.is_empty()
            || !self.windows.is_empty()
            || !self.rollbacks.is_empty()
            || !self.approvals.is_empty()
    }

    /// Whether a rollout here that is not over has a gate that waits for a person, or it or an order takes
    /// nothing back beyond a share without one.
    pub fn asks_people(&self) -> bool {
        let asks = |rollout: &PatchRollout| {
            let status = rollout.status.as_ref();
            let known = status.and_then(|status| status.rollback_approval.as_ref());
            let is_asked = known.is_some_and(|known| known.state != GateState::Failed);
            match status.and_then(|status| status.phase) {
                Some(RolloutPhase::Aborted) => false,
                // Broken devices may wait for it still.
                Some(RolloutPhase::Completed) => is_asked,
                _ => {
                    let mut gates = rollout.spec.stages.iter().flat_map(|stage| stage.gates.all());
                    rollout.spec.on_failure.approval_above.is_some()
                        || gates.any(|(_, gate)| gate.kind == GateType::Approval)
                }
            }
        };
        // A person's order may ask on a rollout that has ended long ago.
        let waits = |order: &PatchRollback| {
            let is_over = order.status.as_ref().is_some_and(|status| status.completed_at.is_some());
            order.spec.approval_above.is_some() && !is_over
        };
        self.rollouts.values().any(|stored| asks(&stored.value))
            || self.rollbacks.values().any(|stored| waits(&stored.value))
    }

    /// Takes the groups into the device table, with as little work as the change needs.
    pub(super) fn refresh_groups(&mut self) {
        let views = self.groups.values().map(|group| (*group.value).clone()).collect();
        Arc::make_mut(&mut self.devices).set_groups(views);
    }

    /// Puts one group.
    pub(super) fn put_group(&mut self, stored: Stored<GroupView>) {
        let name = stored.value.name.clone();
        let status = stored.value.status.clone();
        let is_same_spec =
            self.groups.get(&name).is_some_and(|known| known.value.spec == stored.value.spec);
        self.groups.insert(name.clone(), stored);
        if is_same_spec {
            Arc::make_mut(&mut self.devices).set_group_status(&name, status);
        } else {
            self.intent += 1;
            self.refresh_groups();
        }
    }
}

/// The view of a group object.
pub(super) fn group_view(group: &DeviceGroup) -> GroupView {
    GroupView::new(group)
}
