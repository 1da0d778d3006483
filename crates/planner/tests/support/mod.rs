//! A small world in memory: an API server's worth of objects that plans are applied to, and agents
//! that do what a script says, asking the permit rule before every irreversible step. Time is a
//! number of minutes.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.
#![allow(dead_code)] // Each test binary uses its own part.

pub mod agent;
pub mod orders;
pub mod story;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use wardring_api::{
    Decided, DeviceGroupSpec, DeviceGroupStatus, EmergencyStop, EmergencyStopSpec, Gate,
    GateResult, LabelSelector, LineState, MaintenanceWindow, PatchApproval, PatchRollback,
    PatchRollbackStatus, PatchRollout, PatchRolloutSlice, PatchRolloutSliceSpec, PatchRolloutSpec,
    PatchRolloutStatus, SliceLine, UpdateHoldSpec, UpdateSpec, names,
};
use wardring_planner::{
    Action, ApprovalPolicy, DeviceRow, DeviceStory, DeviceTable, GrantId, GroupView, Guards,
    HoldView, JobView, LedgerView, Measurement, Outcome, OutcomeResult, Plan, RefusedHold,
    SliceView, Snapshot, StopView, WindowView, check,
    condition::{ConditionValue, judge},
    explain_device, plan, take_over,
};

use agent::Agent;

pub const SERVER: &str = "Windows Server 2022";

/// Everything there is.
#[derive(Clone)]
pub struct World {
    pub now: Timestamp,
    pub guards: Guards,
    pub ledger: LedgerView,
    pub rollouts: BTreeMap<String, PatchRollout>,
    pub slices: BTreeMap<String, PatchRolloutSlice>,
    pub jobs: BTreeMap<String, JobView>,
    pub devices: BTreeMap<String, DeviceRow>,
    pub groups: BTreeMap<String, GroupView>,
    pub updates: Vec<UpdateSpec>,
    pub holds: BTreeMap<String, UpdateHoldSpec>,
    pub stops: BTreeMap<String, EmergencyStopSpec>,
    pub windows: BTreeMap<String, MaintenanceWindow>,
    pub orders: BTreeMap<String, PatchRollback>,
    pub approvals: BTreeMap<String, PatchApproval>,
    pub approval_policy: ApprovalPolicy,
    pub agents: BTreeMap<String, Agent>,
    /// What providers answer to the gate of that name; without an answer, nobody measures it.
    pub meters: BTreeMap<String, Meter>,
    pub measurements: BTreeMap<(String, String, String), Measurement>,
    /// Grants whose job this controller knows it never asked for.
    pub uncreated: BTreeSet<GrantId>,
    /// Words with which the API server refuses UpdateHolds, and those that it refused.
    pub refuses_holds: Option<&'static str>,
    pub refused_holds: BTreeMap<String, RefusedHold>,
    pub events: Vec<String>,
    /// Conditions Quarantined, as they were written.
    pub quarantines: Vec<String>,
    /// Writes that would not be idle, for quiescence and write counts.
    pub writes: usize,
    /// Permits given.
    pub permits: Vec<Given>,
    pub next_uid: u32,
}

/// What a provider answers.
#[derive(Clone, Copy, Debug, PartialEq, serde::Deserialize)]
pub enum Meter {
    Value(f64),
    NoData,
    Refuses,
}

impl Meter {
    fn answer(self, gate: &Gate) -> (GateResult, Option<String>, String) {
        match self {
            Meter::Value(value) => {
                let value = ConditionValue::Number(value);
                let judged = judge(gate, &BTreeMap::from([("result".to_owned(), value)]));
                (judged.result, judged.value, judged.message)
            }
            Meter::NoData => (GateResult::NoData, None, "there is no data".to_owned()),
            Meter::Refuses => (GateResult::Error, None, "the connection was refused".to_owned()),
        }
    }
}

/// One permit that left.
#[derive(Clone, Debug)]
pub struct Given {
    pub rollout: String,
    pub device: String,
    pub step: wardring_api::PermitStep,
    pub action: wardring_api::JobAction,
    pub at: Timestamp,
}

pub fn start() -> Timestamp {
    "2026-11-20T22:00:00Z".parse().unwrap()
}

impl World {
    pub fn new() -> World {
        World {
            now: start(),
            guards: Guards::default(),
            ledger: LedgerView { present: true, sequence: 0, batch: None },
            rollouts: BTreeMap::new(),
            slices: BTreeMap::new(),
            jobs: BTreeMap::new(),
            devices: BTreeMap::new(),
            groups: BTreeMap::new(),
            updates: vec![update("KB5068787", SERVER), update("KB5068791", "Windows 11 24H2")],
            holds: BTreeMap::new(),
            stops: BTreeMap::new(),
            windows: BTreeMap::new(),
            orders: BTreeMap::new(),
            approvals: BTreeMap::new(),
            approval_policy: ApprovalPolicy::Intact {
                fingerprint: "policies-1".to_owned(),
                since: start() - SignedDuration::from_hours(24),
            },
            agents: BTreeMap::new(),
            meters: BTreeMap::new(),
            measurements: BTreeMap::new(),
            uncreated: BTreeSet::new(),
            refuses_holds: None,
            refused_holds: BTreeMap::new(),
            events: Vec::new(),
            quarantines: Vec::new(),
            writes: 0,
            permits: Vec::new(),
            next_uid: 0,
        }
    }

    /// Adds a group that selects devices by `stage=<name>`.
    pub fn group(&mut self, name: &str) -> &mut GroupView {
        let selector: LabelSelector =
            serde_yaml::from_str(&format!("matchLabels: {{stage: {name}}}")).unwrap();
        let spec: DeviceGroupSpec = DeviceGroupSpec {
            selector,
            patch_authority: Default::default(),
            roles: Vec::new(),
            max_unavailable: None,
            anti_affinity: Vec::new(),
            rollback: Default::default(),
            health_presets: Vec::new(),
            hooks: Default::default(),
            windows: Vec::new(),
        };
        let view = GroupView { name: name.to_owned(), spec, status: DeviceGroupStatus::default() };
        self.groups.entry(name.to_owned()).or_insert(view)
    }

    /// Adds a device with its agent.
    pub fn device(&mut self, name: &str, group: &str, product: &str) -> &mut DeviceRow {
        let mut row = DeviceRow::ready(name, product);
        row.labels = Arc::new(BTreeMap::from([("stage".to_owned(), group.to_owned())]));
        self.agents.insert(name.to_owned(), Agent::new(name));
        self.devices.insert(name.to_owned(), row);
        self.devices.get_mut(name).unwrap()
    }

    /// Creates a rollout from the YAML of its spec.
    pub fn rollout(&mut self, name: &str, spec: &str) {
        let spec: PatchRolloutSpec = serde_yaml::from_str(spec).expect("the spec reads");
        self.next_uid += 1;
        let mut rollout = PatchRollout::new(name, spec);
        rollout.metadata.uid = Some(format!("{:08x}-{name}", self.next_uid));
        rollout.metadata.generation = Some(1);
        rollout.metadata.creation_timestamp = Some(api_time(self.now));
        self.rollouts.insert(name.to_owned(), rollout);
    }

    pub fn edit(&mut self, rollout: &str, change: impl FnOnce(&mut PatchRolloutSpec)) {
        let rollout = self.rollouts.get_mut(rollout).unwrap();
        change(&mut rollout.spec);
        *rollout.metadata.generation.as_mut().unwrap() += 1;
    }

    /// Somebody approves whatever the rollout asks now.
    pub fn say_yes(&mut self, rollout: &str, by: &str) {
        let gates = self.status(rollout).stages.into_iter().flat_map(|stage| stage.gates);
        for asked in gates.filter_map(|gate| gate.approval) {
            let Some(approval) = self.approvals.get_mut(&asked.request) else { continue };
            if approval.spec.decision.is_none() {
                approval.spec.decision = Some(Decided::Approve);
                approval.spec.approver = Some(by.to_owned());
                approval.spec.reason = Some("INC-4711".to_owned());
            }
        }
    }

    /// Makes a rollout whose gates somebody other than its authors approves at once.
    pub fn approved_rollout(&mut self, name: &str, spec: &str) {
        self.rollout(name, spec);
        self.settle();
        self.say_yes(name, "bob");
        self.settle();
    }

    pub fn retry(&mut self, rollout: &str) {
        let stamp = self.now.to_string();
        let rollout = self.rollouts.get_mut(rollout).unwrap();
        let annotations = rollout.metadata.annotations.get_or_insert_default();
        annotations.insert(names::RETRY_ANNOTATION.to_owned(), stamp);
    }

    pub fn delete_rollout(&mut self, rollout: &str) {
        let now = self.now;
        if let Some(rollout) = self.rollouts.get_mut(rollout) {
            rollout.metadata.deletion_timestamp.get_or_insert(api_time(now));
            if rollout.metadata.finalizers.as_ref().is_none_or(Vec::is_empty) {
                let name = rollout.metadata.name.clone().unwrap();
                self.rollouts.remove(&name);
            }
        }
    }

    pub fn set_online(&mut self, device: &str, online: bool) {
        let now = self.now;
        if let Some(row) = self.devices.get_mut(device)
            && row.online != Some(online)
        {
            row.online = Some(online);
            row.online_since = Some(now);
        }
    }

    pub fn status(&self, rollout: &str) -> PatchRolloutStatus {
        self.rollouts.get(rollout).and_then(|all| all.status.clone()).unwrap_or_default()
    }

    /// The line of a device in a rollout.
    pub fn line(&self, rollout: &str, device: &str) -> Option<SliceLine> {
        let uid = self.rollouts.get(rollout)?.metadata.uid.clone()?;
        self.lines()
            .into_iter()
            .find_map(|(of, _, line)| (of == uid && line.device == device).then_some(line))
    }

    pub fn state(&self, rollout: &str, device: &str) -> Option<LineState> {
        self.line(rollout, device).map(|line| line.state)
    }

    /// Every line as `(rollout uid, stage, line)`.
    pub fn lines(&self) -> Vec<(String, String, SliceLine)> {
        let all = self.slices.values().flat_map(|slice| {
            let spec = &slice.spec;
            spec.lines.iter().map(|text| {
                (spec.rollout_uid.clone(), spec.stage.clone(), text.parse().expect("a line reads"))
            })
        });
        all.collect()
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            namespace: "tenant".to_owned(),
            now: self.now,
            guards: self.guards.clone(),
            ledger: self.ledger.clone(),
            rollouts: self.rollouts.values().cloned().map(Arc::new).collect(),
            slices: self.slices.values().map(|slice| Arc::new(SliceView::new(slice))).collect(),
            jobs: self.jobs.values().cloned().map(Arc::new).collect(),
            devices: Arc::new(DeviceTable::new(
                self.devices.values().cloned().collect(),
                self.groups.values().cloned().collect(),
            )),
            updates: self.updates(),
            holds: self.holds(),
            windows: self.windows(),
            orders: self.orders.values().cloned().map(Arc::new).collect(),
            approvals: self.approvals.values().cloned().map(Arc::new).collect(),
            approval_policy: self.approval_policy.clone(),
            nonce: format!("n-{}", self.writes),
            stops: self.stops(),
            measurements: self.measurements.values().cloned().collect(),
            uncreated: self.uncreated.clone(),
            cannot_create: BTreeMap::new(),
            refused_holds: self.refused_holds.clone(),
        }
    }

    /// Every UpdateHold, as the gateways read it too.
    pub fn holds(&self) -> Vec<HoldView> {
        let view = |(name, spec): (&String, &UpdateHoldSpec)| HoldView {
            name: name.clone(),
            created_at: Some(self.now),
            spec: spec.clone(),
        };
        self.holds.iter().map(view).collect()
    }

    /// The catalogue, as the gateways read it too.
    pub fn updates(&self) -> Vec<Arc<UpdateSpec>> {
        self.updates.iter().cloned().map(Arc::new).collect()
    }

    /// Bars an update, from the YAML of the hold's spec.
    pub fn bar(&mut self, name: &str, spec: &str) {
        self.holds.insert(name.to_owned(), serde_yaml::from_str(spec).expect("the hold reads"));
    }

    /// Every EmergencyStop, as the gateways read it too.
    pub fn stops(&self) -> Vec<Arc<StopView>> {
        let view = |(name, spec): (&String, &EmergencyStopSpec)| {
            Arc::new(StopView::new(&EmergencyStop::new(name, spec.clone())))
        };
        self.stops.iter().map(view).collect()
    }

    /// Every MaintenanceWindow, as the gateways read it too.
    pub fn windows(&self) -> Vec<Arc<WindowView>> {
        self.windows.values().map(|window| Arc::new(WindowView::new(window))).collect()
    }

    /// Makes a MaintenanceWindow.
    pub fn window(&mut self, name: &str, spec: &str) {
        let spec = serde_yaml::from_str(spec).expect("the window reads");
        self.windows.insert(name.to_owned(), MaintenanceWindow::new(name, spec));
    }

    /// Orders a rollback, from the YAML of its spec.
    pub fn order(&mut self, name: &str, spec: &str) {
        let spec = serde_yaml::from_str(spec).expect("the order reads");
        self.next_uid += 1;
        let mut order = PatchRollback::new(name, spec);
        order.metadata.uid = Some(format!("{:08x}-{name}", self.next_uid));
        order.metadata.generation = Some(1);
        order.metadata.creation_timestamp = Some(api_time(self.now));
        self.orders.insert(name.to_owned(), order);
    }

    pub fn order_status(&self, order: &str) -> PatchRollbackStatus {
        self.orders.get(order).and_then(|all| all.status.clone()).unwrap_or_default()
    }

    /// Puts an EmergencyStop in force.
    pub fn stop(&mut self, name: &str, spec: &str) {
        self.stops.insert(name.to_owned(), serde_yaml::from_str(spec).expect("the stop reads"));
    }

    /// Plans and checks once.
    pub fn plan(&self) -> Plan {
        let snapshot = self.snapshot();
        let plan = plan(&snapshot);
        let violations = check(&snapshot, &plan);
        assert!(violations.is_empty(), "{violations:#?}\n{:#?}", plan.actions);
        plan
    }

    /// Plans and applies until nothing is left to do. `look` sees the world after every write.
    pub fn settle_watched(&mut self, mut look: impl FnMut(&World)) -> Plan {
        for _ in 0..40 {
            let plan = self.plan();
            let measured = self.measure(&plan);
            let is_refused = |action: &Action| {
                let known = action.hold().is_some_and(|name| self.refused_holds.contains_key(name));
                known && self.refuses_holds.is_some()
            };
            if plan.actions.iter().all(is_refused) && !measured {
                return plan;
            }
            for action in &plan.actions {
                if self.refuses(action) {
                    break;
                }
                self.apply(action);
                look(self);
            }
        }
        panic!("plans do not come to rest: {:#?}", self.plan().actions);
    }

    /// Whether the API server refuses the UpdateHold for the first time, which ends the plan.
    fn refuses(&mut self, action: &Action) -> bool {
        let (Some(words), Action::CreateHold { name, rollout_uid, .. }) =
            (self.refuses_holds, action)
        else {
            return false;
        };
        let (rollout_uid, words) = (rollout_uid.clone(), words.to_owned());
        self.refused_holds.insert(name.clone(), RefusedHold { rollout_uid, words }).is_none()
    }

    /// Takes the measurements that are due. Returns whether there was one.
    fn measure(&mut self, plan: &Plan) -> bool {
        let mut measured = false;
        for order in plan.measure.iter().filter(|order| order.due <= self.now) {
            let Some(meter) = self.meters.get(&order.gate.name) else { continue };
            let (result, value, message) = meter.answer(&order.gate);
            let key = (order.rollout.uid.clone(), order.stage.clone(), order.gate.name.clone());
            let (rollout_uid, stage, gate) = key.clone();
            let known = self.measurements.get(&key).map(|known| known.at);
            if known == Some(self.now) {
                continue;
            }
            measured = true;
            let definition = order.status.definition.clone();
            let (at, query) = (self.now, None);
            let taken = Measurement {
                rollout_uid,
                stage,
                gate,
                definition,
                at,
                result,
                query,
                value,
                message,
            };
            self.measurements.insert(key, taken);
        }
        measured
    }

    pub fn settle(&mut self) -> Plan {
        self.settle_watched(|_| {})
    }

    /// A controller works until it has opened a batch, and dies before it writes the batch's lines.
    pub fn die_with_a_batch_open(&mut self) {
        loop {
            let plan = self.plan();
            let opens = |action: &Action| matches!(action, Action::OpenBatch { .. });
            let opened = plan.actions.iter().position(opens);
            let written = opened.map_or(plan.actions.len(), |position| position + 1);
            plan.actions[..written].iter().for_each(|action| self.apply(action));
            if opened.is_some() {
                return;
            }
        }
    }

    /// A controller that dies after some writes of its plan and is followed by another one.
    pub fn crash_after(&mut self, writes: usize, mut look: impl FnMut(&World)) {
        let plan = self.plan();
        for action in plan.actions.iter().take(writes) {
            self.apply(action);
            look(self);
        }
        self.uncreated.clear();
        self.ledger.sequence = take_over(self.ledger.sequence, self.writes as u32);
    }

    /// One minute: time passes, agents act, the controller plans.
    pub fn minute(&mut self, look: impl FnMut(&World)) -> Plan {
        self.now += SignedDuration::from_mins(1);
        self.run_agents();
        self.settle_watched(look)
    }

    pub fn run_agents(&mut self) {
        let names: Vec<String> = self.agents.keys().cloned().collect();
        for name in names {
            let Some(mut agent) = self.agents.remove(&name) else { continue };
            agent.minute(self);
            self.agents.insert(name, agent);
        }
    }

    pub fn apply(&mut self, action: &Action) {
        self.writes += 1;
        match action {
            Action::AddFinalizer(id) => {
                let rollout = self.rollouts.get_mut(&id.name).unwrap();
                rollout
                    .metadata
                    .finalizers
                    .get_or_insert_default()
                    .push(names::FINALIZER.to_owned());
            }
            Action::RemoveFinalizer(id) => {
                let rollout = self.rollouts.get_mut(&id.name).unwrap();
                rollout.metadata.finalizers = None;
                if rollout.metadata.deletion_timestamp.is_some() {
                    self.rollouts.remove(&id.name);
                }
            }
            Action::WriteStatus { rollout, status } => {
                let rollout = self.rollouts.get_mut(&rollout.name).unwrap();
                assert_ne!(rollout.status.as_ref(), Some(&**status), "a write without a change");
                rollout.status = Some((**status).clone());
            }
            Action::CreateSlice(new) => {
                let spec = PatchRolloutSliceSpec {
                    rollout: new.rollout.name.clone(),
                    rollout_uid: new.rollout.uid.clone(),
                    stage: new.stage.clone(),
                    index: new.index,
                    of: new.of,
                    freeze_id: new.freeze_id.clone(),
                    lines: new.lines.iter().map(SliceLine::to_string).collect(),
                };
                let mut slice = PatchRolloutSlice::new(&new.name, spec);
                slice.metadata.creation_timestamp = Some(api_time(self.now));
                self.slices.entry(new.name.clone()).or_insert(slice);
            }
            Action::DeleteSlice { name } => {
                self.slices.remove(name);
            }
            Action::OpenBatch { expected_sequence, batch } => {
                assert_eq!(self.ledger.sequence, *expected_sequence, "the ledger moved");
                self.ledger.sequence = batch.sequence;
                self.ledger.batch = Some(batch.clone());
            }
            Action::RecordLines { slice, changes, .. } => {
                for change in changes {
                    self.write_line(slice, change.index, &change.line);
                }
            }
            Action::Recall { slice, lines } => {
                for line in lines {
                    if line.job_attempt.is_some() {
                        self.jobs.remove(&line.change.line.device);
                    }
                    self.write_line(slice, line.change.index, &line.change.line);
                }
            }
            Action::CreateJob(new) => {
                let job = JobView::fresh(new, self.now);
                let old = self.jobs.insert(new.device.clone(), job);
                assert!(old.is_none(), "two jobs for {}", new.device);
                assert!(!new.updates.is_empty(), "a job without updates for {}", new.device);
            }
            Action::DeleteJob { device, attempt, .. } => {
                let job = self.jobs.get(device).expect("the job exists");
                assert_eq!(job.attempt, *attempt);
                self.jobs.remove(device);
            }
            Action::ConfirmApproval(used) => {
                let approval = &self.approvals[&used.name];
                assert_eq!(approval.metadata.uid.as_ref(), Some(&used.uid));
                assert_eq!(approval.spec.approver.as_ref(), Some(&used.approver));
            }
            Action::CreateApproval(new) => {
                let mut approval = PatchApproval::new(&new.name, new.spec.clone());
                self.next_uid += 1;
                approval.metadata.uid = Some(format!("{:08x}-approval", self.next_uid));
                approval.metadata.generation = Some(1);
                approval.metadata.creation_timestamp = Some(api_time(self.now));
                self.approvals.entry(new.name.clone()).or_insert(approval);
            }
            Action::WriteApprovalStatus { name, uid, status } => {
                let approval = self.approvals.get_mut(name).unwrap();
                assert_eq!(approval.metadata.uid.as_ref(), Some(uid));
                assert_ne!(approval.status.as_ref(), Some(&**status), "a write without a change");
                approval.status = Some((**status).clone());
            }
            Action::DeleteApproval { name, .. } => {
                self.approvals.remove(name);
            }
            Action::CreateHold { name, .. } if self.refuses_holds.is_some() => {
                assert!(
                    self.refused_holds.contains_key(name),
                    "the plan ends with the first refusal"
                );
            }
            Action::CreateHold { name, spec, .. } => {
                self.refused_holds.remove(name);
                self.holds.insert(name.clone(), (**spec).clone());
            }
            Action::WriteQuarantine { device, quarantined, reason, message, since } => {
                let row = self.devices.get_mut(device).unwrap();
                let damaged_since = quarantined.then_some(*since);
                let before = (row.quarantined, row.damaged_since);
                assert_ne!(before, (*quarantined, damaged_since), "a write without a change");
                (row.quarantined, row.damaged_since) = (*quarantined, damaged_since);
                let text = format!("{device} {} {message}", reason.as_str());
                self.quarantines.push(text);
            }
            Action::WriteGroupStatus { group, status } => {
                self.groups.get_mut(group).unwrap().status = status.clone();
            }
            Action::WriteWindowStatus { window, status } => {
                self.windows.get_mut(window).unwrap().status = Some(status.clone());
            }
            Action::WriteRollbackStatus { rollback, status, .. } => {
                self.orders.get_mut(rollback).unwrap().status = Some((**status).clone());
            }
            Action::Emit(event) => {
                self.writes -= 1;
                self.events.push(format!("{} {}", event.reason.as_str(), event.note));
            }
        }
    }

    fn write_line(&mut self, slice: &str, index: usize, line: &SliceLine) {
        let slice = self.slices.get_mut(slice).unwrap();
        let text = line.to_string();
        assert_eq!(text.parse::<SliceLine>().unwrap(), *line, "a line reads back");
        slice.spec.lines[index] = text;
    }
}

pub fn api_time(at: Timestamp) -> Time {
    Time(at)
}

pub fn update(kb: &str, product: &str) -> UpdateSpec {
    serde_yaml::from_str(&format!(
        "{{kb: {kb}, title: '2026-11 {product}', product: {product}, kind: Quality, release: 2026-11}}"
    ))
    .unwrap()
}

/// A rollout of one stage, one device at a time.
pub const ONE_STAGE: &str = "
updates: {select: {release: 2026-11}}
stages: [{name: test, group: test, maxConcurrency: 1}]";

/// Two devices of one stage; the first is granted.
pub fn granted() -> World {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    world.device("test-2", "test", SERVER);
    world.rollout("november", ONE_STAGE);
    world.settle();
    assert_eq!(world.state("november", "test-1"), Some(LineState::Granted));
    world
}

/// How the first device answers when all went well.
pub fn good_answer(world: &World) -> Outcome {
    let job = &world.jobs["test-1"];
    Outcome {
        rollout_uid: job.rollout_uid.clone(),
        enrolment_id: job.enrolment_id.clone(),
        attempt: job.attempt,
        action: job.action,
        sequence: job.sequence,
        result: OutcomeResult::Succeeded,
        reason: None,
        message: String::new(),
        boot_id: "boot-2".to_owned(),
        installed_in_boot: Some("boot-1".to_owned()),
        reboot_required: true,
        started: true,
        build: "20348.4405".to_owned(),
    }
}

/// The sentence of `explain device` for the first device.
pub fn explained(world: &World) -> String {
    let line = world.line("november", "test-1").unwrap();
    let groups: Vec<_> = world.groups.values().cloned().collect();
    let told = explain_device(&DeviceStory {
        now: world.now,
        rollout: &world.rollouts["november"],
        stage: "test",
        line: &line,
        job: world.jobs.get("test-1"),
        device: world.devices.get("test-1"),
        groups: &groups,
        holds: &world.snapshot().holds,
        windows: &world.windows(),
        stops: &world.stops(),
    });
    told.message
}
