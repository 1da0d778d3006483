//! One tenant in small: every order of the steps that its controllers, gateways, agents and people can
//! take, searched to the end with stateright.
//!
//! What decides is the real thing: [`wardring_planner::plan`] and its second opinion
//! [`wardring_planner::check`] on real snapshots, the real permit rule on real views, and the plan's
//! own order of writes with its own preconditions. What is small is everything around it, and each
//! simplification leaves at least the orders that can really happen (`docs/decisions/0043` says why):
//!
//! - *Versions.* Compare-and-swap needs to know only whether an object changed since it was read, so
//!   that is one bit per reader and object. A write that can only be refused is dropped at once.
//! - *Watches.* A controller sees everything of one instant, and everything may change before its
//!   plan's first write, and between any two of them.
//! - *Time.* Ten minutes pass at once: more than a permit lives, more than a Lease lasts, as much as
//!   the shortest deadline. That they pass while somebody could act counts as a fault.
//! - *Status.* Counters, conditions and sentences are left out: the planner computes them anew and
//!   reads none of them back. A test holds the two against each other.
//! - *Gates* are asked of a provider outside: that it answers is a step of its own, and that it answers
//!   anything but a pass is a fault. An EmergencyStop and a freeze begin as faults, and are taken back
//!   some time later. See [`brakes`].
//! - *Agents* are re-told in `agent.rs`; the real ones have their own properties and walk in the fleet
//!   simulation. *Gateways* that work answer in one step; one that stands still may do so between any
//!   two of its reads, its write and its answer.
//! - *People* who have to approve a stage answer sooner or later; that they reject, take it back, change
//!   the rollout or fall silent is a fault. See [`approvals`], and [`people`] for what must hold.
//!
//! Faults strike only so often, see [`size::Faults`], in every order and at every moment.
//!
//! **L1** is not one of stateright's `eventually` properties: those miss counterexamples where paths
//! join or lead back. Instead, the end is a step of its own, [`Step::Rest`], taken where nobody can do
//! anything any more, and *every* state of rest must be completed, or halted by something that befell
//! it, or wait for people who said no or nothing. That nobody goes on for ever is shown by the steps themselves: noted during the search, they
//! lead nowhere back to where they came from. Finite steps and good ends are L1, without assuming
//! that anybody is fair.
//!
//! That the search would find what is broken is shown with mistakes that its shell can be told to
//! make, see [`flaw::Flaw`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, RwLock},
};

use stateright::{Model, Property};
use wardring_api::{PatchRollout, UpdateSpec};
use wardring_planner::{DeviceRow, DeviceTable, PermitVerdict};

pub mod agent;
pub mod approvals;
pub mod brakes;
pub mod cluster;
pub mod desk;
pub mod flaw;
pub mod held;
pub mod leader;
pub mod people;
pub mod rules;
pub mod search;
pub mod size;
pub mod state;
pub mod step;
mod told;

use brakes::Around;
use cluster::{Object, UID};
use flaw::Flaw;
use leader::Planned;
use size::{Size, TICK};
use state::{Agent, Cluster, Leader, Phase, Role, State, Truth};
pub use step::Step;

const PRODUCT: &str = "Windows Server 2022";

/// Minute after which nobody waits any longer: later than every deadline, so that whoever would wait for
/// ever comes to rest too, and is found.
const END: u32 = 5000;

/// The model.
pub struct Tenant {
    size: Size,
    flaw: Option<Flaw>,
    names: Vec<String>,
    devices: Arc<DeviceTable>,
    updates: Vec<Arc<UpdateSpec>>,
    around: Around,
    /// Plans by what they were made from: the planner is pure, so each is made once.
    plans: RwLock<HashMap<u64, Arc<Planned>>>,
    /// Every step, by the digests of its two ends.
    steps: Option<Mutex<Vec<(u64, u64)>>>,
}

impl Tenant {
    /// A model of this size, with this mistake in its shell.
    pub fn new(size: Size, flaw: Option<Flaw>) -> Tenant {
        let count = usize::from(size.stages * size.devices);
        let names: Vec<String> = (0..count).map(|index| format!("ws-{index}")).collect();
        let rows = names.iter().enumerate().map(|(index, name)| {
            let stage = format!("stage-{}", index / usize::from(size.devices));
            DeviceRow {
                labels: Arc::new([("stage".to_owned(), stage)].into()),
                ..DeviceRow::ready(name, PRODUCT)
            }
        });
        let devices = Arc::new(DeviceTable::new(rows.collect(), Vec::new()));
        let update = serde_json::json!({
            "kb": "KB5068787", "title": "KB5068787", "product": PRODUCT, "kind": "Quality",
            "release": "2026-11",
        });
        let updates = vec![Arc::new(serde_json::from_value(update).expect("the update reads"))];
        let around = Around::new(&size.gates, size.window);
        Tenant {
            size,
            flaw,
            names,
            devices,
            updates,
            around,
            plans: RwLock::default(),
            steps: None,
        }
    }

    /// The model, noting every step that is taken.
    pub fn recording(self) -> Tenant {
        Tenant { steps: Some(Mutex::default()), ..self }
    }

    /// The steps that were taken, by the digests of their ends.
    pub fn recorded(&self) -> Vec<(u64, u64)> {
        let steps = self.steps.as_ref();
        steps
            .map_or_else(Vec::new, |all| std::mem::take(&mut all.lock().expect("no thread panics")))
    }

    /// Position of a device, by name.
    fn device(&self, name: &str) -> usize {
        self.names.iter().position(|known| known == name).expect("plans name devices of the table")
    }

    /// Stage of a slice, by name (`patch.0a1b2c3d.stage-0.…`).
    fn stage_of(&self, slice: &str) -> usize {
        let number = slice.split('.').nth(2).and_then(|stage| stage.strip_prefix("stage-"));
        number.and_then(|number| number.parse().ok()).expect("slices name their stage")
    }

    /// Stage of a device, and its place in the stage's slice.
    fn place(&self, device: usize) -> (usize, usize) {
        let size = usize::from(self.size.devices);
        (device / size, device % size)
    }

    fn devices_of(&self, stage: usize) -> std::ops::Range<usize> {
        let size = usize::from(self.size.devices);
        stage * size..(stage + 1) * size
    }

    fn rollout(&self) -> PatchRollout {
        let start_within = if self.size.patient { TICK * self.size.deadline } else { TICK };
        let (mut gates, windows) = brakes::stage_spec(&self.size.gates, self.size.window);
        approvals::ask_for(self.size.approval, &mut gates);
        let stages: Vec<_> = (0..self.size.stages)
            .map(|index| {
                let name = format!("stage-{index}");
                serde_json::json!({
                    "name": name, "selector": {"matchLabels": {"stage": name}},
                    "maxConcurrency": self.size.cap, "maxFailures": 0, "maxUnreachable": 0,
                    "minProven": 1, "minCoverage": "100%", "soak": "0s",
                    "progressDeadline": "6h", "startWithin": format!("{start_within}m"),
                    "deviceDeadline": format!("{}m", TICK * self.size.deadline),
                    "retry": {"maxAttempts": self.size.attempts, "backoff": format!("{TICK}m")},
                    "gates": gates, "windows": windows,
                })
            })
            .collect();
        let spec =
            serde_json::json!({"updates": {"select": {"release": "2026-11"}}, "stages": stages});
        let spec = serde_json::from_value(spec).expect("the rollout reads");
        let mut rollout = PatchRollout::new("patch", spec);
        rollout.metadata.uid = Some(UID.to_owned());
        if self.size.approval.is_some() {
            approvals::sign(&mut rollout);
        }
        rollout
    }

    /// Steps that somebody takes sooner or later.
    fn progress(&self, state: &State, steps: &mut Vec<Step>) {
        for (index, leader) in state.leaders.iter().enumerate() {
            let number = index as u8;
            if state.holder.is_none() {
                steps.push(Step::Elect(number));
            }
            if leader.role == Role::TakingOver || leader.work.is_some() {
                steps.push(Step::Send(number));
            } else if leader.role == Role::Leader && self.has_work(state, leader) {
                steps.push(Step::Observe(number));
            }
        }
        steps.extend((0..state.late.len()).map(|index| Step::Land(index as u8)));
        for (index, agent) in state.agents.iter().enumerate() {
            let number = index as u8;
            if self.offered(state, index).is_some() {
                steps.push(Step::TakeUp(number));
            }
            if self.needs(state, index).is_some_and(|asked| self.matters(state, &asked)) {
                steps.push(Step::Ask(number));
            }
            match agent.task.map(|task| task.phase) {
                Some(Phase::Asked(..)) => steps.push(Step::TurnAway(number)),
                Some(Phase::Installing | Phase::Restarting) => steps.push(Step::End(number)),
                _ => {}
            }
            if self.answer(state, index).is_some() {
                steps.push(Step::Report(number));
            }
        }
        if state.frozen.is_some() {
            steps.push(Step::Thaw);
        }
        self.progress_outside(state, steps);
        self.progress_by_people(state, steps);
    }

    fn has_work(&self, state: &State, leader: &Leader) -> bool {
        let planned = self.planned(state, leader);
        !planned.actions.is_empty() || planned.violation.is_some()
    }

    /// Whether the answer to a request changes anything.
    fn matters(&self, state: &State, asked: &state::Asked) -> bool {
        let begun = asked.step != wardring_api::PermitStep::Install;
        if self.is_out_of_time(state, asked) {
            return true;
        }
        match self.asked(state, asked) {
            PermitVerdict::Granted { .. } => true,
            PermitVerdict::Refused { .. } => false,
            PermitVerdict::Ended { reason, .. } => {
                !(begun && reason == wardring_api::reasons::Reason::NoSuchJob)
            }
        }
    }

    /// Steps that need not happen, and happen only so often.
    fn faults(&self, state: &State, steps: &mut Vec<Step>) {
        let left = state.left;
        for (index, leader) in state.leaders.iter().enumerate() {
            let number = index as u8;
            if left.delays > 0 && self.next_write(state, index).is_some() {
                steps.push(Step::Delay(number));
            }
            if left.crashes > 0 && (leader.role != Role::Follower || leader.work.is_some()) {
                steps.push(Step::Crash(number));
            }
            // One that has no plan under way knows in time that it no longer leads.
            if left.depositions > 0 && leader.role == Role::Leader && leader.work.is_some() {
                steps.push(Step::Depose(number));
            }
        }
        for (index, agent) in state.agents.iter().enumerate() {
            let number = index as u8;
            if left.deletions > 0 && state.api.jobs[index].is_some() {
                steps.push(Step::DeleteJob(number));
            }
            let asks = self.needs(state, index);
            if left.freezes > 0
                && state.frozen.is_none()
                && asks.is_some_and(|asked| !self.is_out_of_time(state, &asked))
            {
                steps.push(Step::AskTheFrozen(number));
            }
            if left.failures > 0
                && matches!(agent.task.map(|task| task.phase), Some(Phase::Installing))
            {
                steps.push(Step::Fail(number));
            }
        }
        self.faults_outside(state, steps);
        self.faults_by_people(state, steps);
        if left.ticks > 0 {
            steps.push(Step::Hurry);
        }
    }

    /// When somebody's own clock makes it act, once nothing else happens: the leader plans again when
    /// its plan said so, and agents end jobs whose time is over.
    fn wakes(&self, state: &State) -> Option<u32> {
        let leader = state.holder.map(|holder| &state.leaders[usize::from(holder)]);
        let next = leader.and_then(|leader| self.planned(state, leader).next_evaluation);
        // Windows open and close for ever. Once everything has ended or rests, nobody waits for them.
        let rests = self.is_over(state) || self.rests_for_people(state);
        let sleeps = self.flaw == Some(Flaw::SleepsOn) || (self.size.window && rests);
        let next = next.filter(|_| !sleeps).map(cluster::minutes);
        let tasks = state.agents.iter().filter_map(|agent| agent.task);
        let ends = tasks.flat_map(|task| [task.start_by + 1, task.finish_by + 1]);
        ends.chain(next).filter(|next| (state.now + 1..END).contains(next)).min()
    }

    fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Elect(number) => {
                state.holder = Some(number);
                state.truth.unled_since = None;
                let leader = &mut state.leaders[usize::from(number)];
                *leader = Leader { role: Role::TakingOver, ..Leader::idle() };
            }
            Step::Observe(number) => {
                let leader = &state.leaders[usize::from(number)];
                let plan = self.planned(state, leader);
                self.counts(state, &plan.passes);
                self.relies(state, &plan.actions);
                if plan.violation.is_some() {
                    state.breaks("plan check");
                }
                let leader = &mut state.leaders[usize::from(number)];
                leader.work =
                    Some(state::Work { plan, next: 0, asked: 0, recalled: Default::default() });
                leader.current = u32::MAX;
            }
            Step::Send(number) => self.send(state, usize::from(number)),
            Step::Delay(number) => {
                state.left.delays -= 1;
                self.delay(state, usize::from(number));
            }
            Step::Land(index) => {
                let late = state.late.remove(usize::from(index));
                if self.commit(state, &late.write) && late.fenced {
                    state.breaks("S15");
                }
            }
            Step::Crash(number) => {
                state.left.crashes -= 1;
                state.leaders[usize::from(number)] = Leader::idle();
                self.unled(state, number);
            }
            Step::Depose(number) => {
                state.left.depositions -= 1;
                state.leaders[usize::from(number)].role = Role::Follower;
                self.unled(state, number);
            }
            Step::TakeUp(number) => self.take_up(state, usize::from(number)),
            Step::Ask(number) => {
                let Some(asked) = self.needs(state, usize::from(number)) else { return };
                if self.is_out_of_time(state, &asked) {
                    self.gives_up(state, asked);
                } else {
                    self.serve(state, asked);
                }
            }
            Step::AskTheFrozen(number) => {
                state.left.freezes -= 1;
                if let Some(asked) = self.needs(state, usize::from(number)) {
                    self.freeze(state, asked);
                }
            }
            Step::TurnAway(number) => self.turn_away(state, usize::from(number)),
            Step::Thaw => self.thaw(state),
            Step::End(number) => self.ends(state, usize::from(number), false),
            Step::Fail(number) => {
                state.left.failures -= 1;
                self.ends(state, usize::from(number), true);
            }
            Step::Report(number) => self.report(state, usize::from(number)),
            Step::DeleteJob(number) => {
                state.left.deletions -= 1;
                let device = usize::from(number);
                state.api.jobs[device] = None;
                self.aged(state, Object::Job(device));
            }
            Step::Hurry => {
                state.left.ticks -= 1;
                state.truth.hurried = true;
                state.now += TICK;
            }
            Step::Wait => state.now = self.wakes(state).unwrap_or(state.now),
            Step::Answer(gate, answer) => self.answered(state, gate, answer),
            Step::Stop | Step::Lift | Step::BeginFreeze | Step::EndFreeze => {
                self.decide(state, step);
            }
            Step::Decide(stage, word) => self.says(state, usize::from(stage), word),
            Step::Withdraw(stage) => self.withdraws(state, usize::from(stage)),
            Step::Edit => self.edits(state),
            Step::Neglect => state.left.neglects -= 1,
            Step::Rest => state.rests = true,
        }
    }

    fn unled(&self, state: &mut State, number: u8) {
        if state.holder == Some(number) {
            state.holder = None;
            state.truth.unled_since = Some(state.now);
        }
    }

    /// One order for what has none: controllers are alike, and so are writes under way.
    fn canonical(&self, state: &mut State) {
        state.late.sort();
        if state.leaders.len() == 2 && state.leaders[1] < state.leaders[0] {
            state.leaders.swap(0, 1);
            state.holder = state.holder.map(|holder| 1 - holder);
        }
    }
}

impl Model for Tenant {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let count = self.names.len();
        vec![State {
            now: 0,
            api: Cluster {
                ledger: None,
                rollout: cluster::rollout(self.rollout(), None),
                slices: vec![None; usize::from(self.size.stages)],
                jobs: vec![None; count],
                stopped: false,
                denied: false,
                approvals: Vec::new(),
            },
            holder: None,
            leaders: vec![Leader::idle(); usize::from(self.size.leaders)],
            late: Vec::new(),
            agents: vec![Agent::default(); count],
            frozen: None,
            left: self.size.faults,
            truth: Truth { unled_since: Some(0), ..Truth::default() },
            people: people::People::default(),
            rests: false,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.rests || state.truth.broken.is_some() {
            return;
        }
        self.progress(state, steps);
        if steps.is_empty() {
            steps.push(if self.wakes(state).is_some() { Step::Wait } else { Step::Rest });
        }
        self.faults(state, steps);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        self.take(&mut state, step);
        for leader in 0..state.leaders.len() {
            self.settle(&mut state, leader);
        }
        self.written(&last.api, &mut state);
        self.canonical(&mut state);
        if let Some(steps) = &self.steps {
            let ends = (held::digest(last), held::digest(&state));
            steps.lock().expect("no thread panics").push(ends);
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Tenant>> {
        self.rules()
    }
}
