//! A copy of what one pass looks at, to which plans are applied.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use wardring_api::{Decided, GateResult, JobState, PatchApproval, PatchRollout, Reversible, names};

use super::{Assumptions, fleet};
use crate::{
    Action, ApprovalPolicy, DeviceRow, GroupView, Guards, HoldView, JobView, LedgerView,
    LineChange, Measurement, Plan, RolloutDecisions, SliceView, Snapshot, StopView, WindowView,
    plan,
};

/// Plans after which an instant has to be at rest.
const PASSES: usize = 10_000;
/// The least that time passes by: nobody needs a forecast by the second.
const STEP: SignedDuration = SignedDuration::from_mins(1);
/// The least until the plan wakes by itself, as a part of the time that has passed: a gate that is
/// measured every minute of a long soak is looked at now and then.
const STEP_PART: i32 = 500;

/// The copy.
pub(super) struct World {
    pub(super) snapshot: Snapshot,
    pub(super) assumptions: Assumptions,
    pub(super) jobs: BTreeMap<String, Arc<JobView>>,
    slices: BTreeMap<String, Arc<SliceView>>,
    rollouts: BTreeMap<String, Arc<PatchRollout>>,
    measurements: BTreeMap<(String, String, String), Measurement>,
    pub(super) fleet: fleet::Fleet,
    last: Plan,
    began: Timestamp,
    until: Timestamp,
}

impl World {
    pub fn new(snapshot: &Snapshot, assumptions: Assumptions) -> World {
        let mut snapshot = snapshot.clone();
        // Only the leader knows these; the forecast is for the time when nothing is in its way.
        snapshot.guards = Guards::default();
        let lines = snapshot.slices.iter().flat_map(|slice| &slice.lines);
        let highest =
            lines.map(|line| line.sequence).chain(snapshot.jobs.iter().map(|job| job.sequence));
        let sequence = highest.max().unwrap_or(0).max(snapshot.ledger.sequence);
        snapshot.ledger = LedgerView { present: true, sequence, batch: None };
        if assumptions.all_online {
            come_online(&mut snapshot);
        }
        expect_approvals(&mut snapshot);
        let until = snapshot.now.checked_add(assumptions.horizon).unwrap_or(Timestamp::MAX);
        let by_name = |slice: &Arc<SliceView>| (slice.name.clone(), slice.clone());
        let by_device = |job: &Arc<JobView>| (job.device.clone(), job.clone());
        let named = |rollout: &Arc<PatchRollout>| {
            (rollout.metadata.name.clone().unwrap_or_default(), rollout.clone())
        };
        let mut world = World {
            jobs: snapshot.jobs.iter().map(by_device).collect(),
            slices: snapshot.slices.iter().map(by_name).collect(),
            rollouts: snapshot.rollouts.iter().map(named).collect(),
            measurements: BTreeMap::new(),
            fleet: fleet::Fleet::default(),
            last: Plan::default(),
            assumptions,
            began: snapshot.now,
            until,
            snapshot,
        };
        let at_work: Vec<String> = world.jobs.keys().cloned().collect();
        at_work.iter().for_each(|device| world.takes_up(device));
        world
    }

    pub fn now(&self) -> Timestamp {
        self.snapshot.now
    }

    /// Whether this instant is still looked at.
    pub fn looks_on(&self, instant: Timestamp) -> bool {
        instant <= self.until
    }

    pub fn rollout(&self, uid: &str) -> Option<&PatchRollout> {
        let mine = |rollout: &&Arc<PatchRollout>| rollout.metadata.uid.as_deref() == Some(uid);
        self.rollouts.values().find(mine).map(AsRef::as_ref)
    }

    pub fn named(&self, name: &str) -> Option<&PatchRollout> {
        self.rollouts.get(name).map(AsRef::as_ref)
    }

    pub fn slice(&self, name: &str) -> Option<&SliceView> {
        self.slices.get(name).map(AsRef::as_ref)
    }

    pub fn job(&self, device: &str) -> Option<&JobView> {
        self.jobs.get(device).map(AsRef::as_ref)
    }

    pub fn device(&self, name: &str) -> Option<&DeviceRow> {
        self.snapshot.devices.get(name)
    }

    pub fn groups(&self) -> &[GroupView] {
        self.snapshot.devices.groups()
    }

    pub fn holds(&self) -> &[HoldView] {
        &self.snapshot.holds
    }

    pub fn windows(&self) -> &[Arc<WindowView>] {
        &self.snapshot.windows
    }

    pub fn stops(&self) -> &[Arc<StopView>] {
        &self.snapshot.stops
    }

    /// What was decided about the rollout last.
    pub fn decided(&self, uid: &str) -> Option<&RolloutDecisions> {
        self.last.rollouts.iter().find(|decided| decided.rollout.uid == uid)
    }

    /// Whether what the rollout has for the device can be taken back, by the catalogue's word.
    pub fn reversible(&self, decided: &RolloutDecisions, device: &str) -> Reversible {
        let product = self.device(device).and_then(|row| row.product.as_deref());
        let updates = &decided.status.resolved_updates;
        let mine = updates.iter().filter(|update| Some(&*update.product) == product);
        let known = mine.map(|update| {
            let same = |spec: &&Arc<wardring_api::UpdateSpec>| {
                spec.kb == update.kb && spec.product == update.product
            };
            let spec = self.snapshot.updates.iter().find(same);
            spec.map_or(Reversible::Unknown, |spec| spec.reversible)
        });
        let rank = |reversible: &Reversible| match reversible {
            Reversible::No => 0,
            Reversible::Unknown => 1,
            Reversible::Expected => 2,
        };
        known.min_by_key(rank).unwrap_or_default()
    }

    /// Plans and applies until nothing is left to do now. Returns when something happens next.
    pub fn settle(&mut self) -> Option<Timestamp> {
        for _ in 0..PASSES {
            self.snapshot.jobs = self.jobs.values().cloned().collect();
            self.snapshot.slices = self.slices.values().cloned().collect();
            self.snapshot.rollouts = self.rollouts.values().cloned().collect();
            self.snapshot.measurements = self.measurements.values().cloned().collect();
            self.last = plan(&self.snapshot);
            let measured = self.measure();
            let actions = std::mem::take(&mut self.last.actions);
            let applied = actions.iter().filter(|action| self.apply(action)).count();
            if applied == 0 && !measured {
                break;
            }
        }
        // Devices move to the minute; what wakes the plan again and again only every now and then.
        let soon = self.now().checked_add(STEP).ok()?;
        let step = STEP.max(self.now().duration_since(self.began) / STEP_PART);
        let later = self.now().checked_add(step).ok()?;
        let woken = self.last.next_evaluation.map(|at| at.max(later));
        [woken, self.fleet.next().map(|at| at.max(soon))].into_iter().flatten().min()
    }

    /// Lets time pass, and devices do what they do meanwhile.
    pub fn pass_time(&mut self, to: Timestamp) {
        self.snapshot.now = to;
        self.work();
    }

    /// Every gate that is measured outside passes.
    fn measure(&mut self) -> bool {
        let now = self.now();
        let due: Vec<Measurement> = self
            .last
            .measure
            .iter()
            .filter(|order| order.due <= now)
            .map(|order| Measurement {
                rollout_uid: order.rollout.uid.clone(),
                stage: order.stage.clone(),
                gate: order.gate.name.clone(),
                definition: order.status.definition.clone(),
                at: now,
                result: GateResult::Pass,
                query: None,
                value: None,
                message: "it is assumed to pass".to_owned(),
            })
            .collect();
        let mut measured = false;
        for taken in due {
            let key = (taken.rollout_uid.clone(), taken.stage.clone(), taken.gate.clone());
            if self.measurements.get(&key).is_none_or(|known| known.at < now) {
                self.measurements.insert(key, taken);
                measured = true;
            }
        }
        measured
    }

    /// Does what a write would; false for what leaves nothing behind.
    fn apply(&mut self, action: &Action) -> bool {
        match action {
            Action::AddFinalizer(id) => self.change(&id.name, |rollout| {
                rollout
                    .metadata
                    .finalizers
                    .get_or_insert_default()
                    .push(names::FINALIZER.to_owned());
            }),
            Action::RemoveFinalizer(id) => {
                self.change(&id.name, |rollout| rollout.metadata.finalizers = None);
                let is_gone = |all: &PatchRollout| all.metadata.deletion_timestamp.is_some();
                if self.named(&id.name).is_some_and(is_gone) {
                    self.rollouts.remove(&id.name);
                }
            }
            Action::WriteStatus { rollout, status } => {
                self.change(&rollout.name, |rollout| rollout.status = Some((**status).clone()));
            }
            Action::CreateSlice(new) => {
                let view = Arc::new(SliceView::fresh(new, self.now()));
                self.slices.entry(new.name.clone()).or_insert(view);
            }
            Action::DeleteSlice { name } => {
                self.slices.remove(name);
            }
            Action::OpenBatch { batch, .. } => {
                self.snapshot.ledger.sequence = batch.sequence;
                self.snapshot.ledger.batch = Some(batch.clone());
            }
            Action::RecordLines { slice, changes, .. } => {
                changes.iter().for_each(|change| self.write_line(slice, change));
            }
            Action::Recall { slice, lines } => {
                for line in lines {
                    if line.job_attempt.is_some() {
                        self.drop_job(&line.change.line.device);
                    }
                    self.write_line(slice, &line.change);
                }
            }
            Action::CreateJob(new) => {
                let mut job = JobView::fresh(new, self.now());
                let waits = self.device(&new.device).is_some_and(|row| row.hard_pending_reboot);
                job.state = (waits && new.preflight.reboot_first).then_some(JobState::RebootFirst);
                self.jobs.insert(new.device.clone(), Arc::new(job));
                self.fleet.settles(&new.device, new.health.settle);
                self.takes_up(&new.device);
            }
            Action::DeleteJob { device, attempt, rollout_uid, .. } => {
                let is_meant =
                    |job: &JobView| (job.attempt, &job.rollout_uid) == (*attempt, rollout_uid);
                if !self.job(device).is_some_and(is_meant) {
                    return false;
                }
                self.drop_job(device);
            }
            Action::CreateHold { name, spec, .. } => {
                let view = HoldView {
                    name: name.clone(),
                    created_at: Some(self.now()),
                    spec: (**spec).clone(),
                };
                self.snapshot.holds.push(view);
            }
            Action::WriteQuarantine { device, quarantined, since, .. } => {
                if let Some(row) = self.device(device).cloned() {
                    let damaged_since = quarantined.then_some(*since);
                    let table = Arc::make_mut(&mut self.snapshot.devices);
                    table.upsert(DeviceRow { quarantined: *quarantined, damaged_since, ..row });
                }
            }
            Action::WriteGroupStatus { group, status } => {
                let table = Arc::make_mut(&mut self.snapshot.devices);
                table.set_group_status(group, status.clone());
            }
            Action::WriteWindowStatus { window, status } => {
                let mut all = self.snapshot.windows.iter_mut();
                if let Some(view) = all.find(|view| *view.name == **window) {
                    Arc::make_mut(view).status = status.clone();
                }
            }
            Action::WriteRollbackStatus { uid, status, .. } => {
                let mine = |order: &&mut Arc<wardring_api::PatchRollback>| {
                    order.metadata.uid.as_deref() == Some(uid)
                };
                if let Some(order) = self.snapshot.orders.iter_mut().find(mine) {
                    Arc::make_mut(order).status = Some((**status).clone());
                }
            }
            // Somebody approves at once.
            Action::CreateApproval(new) => {
                let mut approval = PatchApproval::new(&new.name, new.spec.clone());
                approval.metadata.uid = Some(format!("approval-{}", new.name));
                approval.spec.decision = Some(Decided::Approve);
                approval.spec.approver = Some(SOMEBODY.to_owned());
                approval.spec.reason = Some("it is assumed".to_owned());
                self.snapshot.approvals.push(Arc::new(approval));
            }
            Action::ConfirmApproval(_)
            | Action::WriteApprovalStatus { .. }
            | Action::DeleteApproval { .. } => return false,
            Action::Emit(_) => return false,
        }
        true
    }

    fn change(&mut self, rollout: &str, change: impl FnOnce(&mut PatchRollout)) {
        if let Some(rollout) = self.rollouts.get_mut(rollout) {
            change(Arc::make_mut(rollout));
        }
    }

    fn write_line(&mut self, slice: &str, change: &LineChange) {
        let Some(slice) = self.slices.get_mut(slice) else { return };
        if let Some(line) = Arc::make_mut(slice).lines.get_mut(change.index) {
            *line = change.line.clone();
        }
    }

    fn drop_job(&mut self, device: &str) {
        self.jobs.remove(device);
        self.fleet.forgets(device);
    }
}

fn come_online(snapshot: &mut Snapshot) {
    let rows = snapshot.devices.rows().iter();
    let away: Vec<Arc<DeviceRow>> = rows.filter(|row| !row.is_online()).cloned().collect();
    let table = Arc::make_mut(&mut snapshot.devices);
    for row in away {
        let row = DeviceRow::clone(&row);
        table.upsert(DeviceRow { online: Some(true), online_since: Some(snapshot.now), ..row });
    }
}

/// Who approves in a forecast.
const SOMEBODY: &str = "(somebody)";

/// Lets every approval be given as soon as it is asked for.
fn expect_approvals(snapshot: &mut Snapshot) {
    snapshot.nonce = "forecast".to_owned();
    snapshot.approval_policy =
        ApprovalPolicy::Intact { fingerprint: "forecast".to_owned(), since: Timestamp::MIN };
    for rollout in &mut snapshot.rollouts {
        let asks = |stage: &wardring_api::Stage| {
            stage.gates.all().any(|(_, gate)| gate.kind == wardring_api::GateType::Approval)
        };
        if rollout.spec.authors.is_empty() && rollout.spec.stages.iter().any(asks) {
            Arc::make_mut(rollout).spec.authors.push("(author)".to_owned());
        }
    }
}
