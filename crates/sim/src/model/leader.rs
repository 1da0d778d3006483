//! A controller of the model: it takes over, plans with the real planner, and carries the plan out
//! one write at a time, in the plan's order and with the plan's preconditions.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    hash::{Hash, Hasher},
    sync::Arc,
};

use jiff::Timestamp;
use wardring_api::{PatchRollout, StageState};
use wardring_planner::{Action, Guards, RecallLine, RecordCause, SliceView, Snapshot, check, plan};

use super::{
    Tenant, approvals,
    cluster::{Object, Write, grant, meaning, wall},
    flaw::Flaw,
    held::digest,
    state::{Late, Leader, Role, State, Work},
};

/// What the planner answered to one observation.
#[derive(Debug)]
pub struct Planned {
    /// Actions that write something, in order.
    pub actions: Vec<Action>,
    /// Digest of what is left from each action on.
    left: Vec<u64>,
    /// Objects that what is left from each action on is about.
    touches: Vec<u32>,
    /// When to plan again.
    pub next_evaluation: Option<Timestamp>,
    /// Gates to be measured, by number, and from which minute on.
    pub measure: Vec<(u8, u32)>,
    /// Gates that pass in it and had not, by number.
    pub passes: Vec<u8>,
    /// The rule that the second opinion finds broken.
    pub violation: Option<&'static str>,
}

impl Work {
    fn key(&self) -> (u64, usize, &BTreeSet<usize>) {
        (self.plan.left[self.next], self.asked, &self.recalled)
    }

    fn action(&self) -> Option<&Action> {
        self.plan.actions.get(self.next)
    }

    fn advance(&mut self) {
        self.next += 1;
        self.asked = 0;
        self.recalled.clear();
    }
}

impl PartialEq for Work {
    fn eq(&self, other: &Work) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Work {}

impl PartialOrd for Work {
    fn partial_cmp(&self, other: &Work) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Work {
    fn cmp(&self, other: &Work) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl Hash for Work {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl Leader {
    /// A process that just started.
    pub fn idle() -> Leader {
        Leader {
            role: Role::Follower,
            work: None,
            current: 0,
            samples: BTreeMap::new(),
            uncreated: BTreeSet::new(),
        }
    }
}

impl Tenant {
    /// What the planner makes of what is stored now.
    pub fn planned(&self, state: &State, leader: &Leader) -> Arc<Planned> {
        let asked = state.people.askings.len();
        let key = digest((state.now, &state.api, &leader.samples, &leader.uncreated, asked));
        if let Some(known) = self.plans.read().expect("no thread panics").get(&key) {
            return known.clone();
        }
        let fresh = Arc::new(self.plan(&self.snapshot(state, leader)));
        self.plans.write().expect("no thread panics").insert(key, fresh.clone());
        fresh
    }

    /// Everything the planner sees: the stored objects, all of one instant. That a watch lags is
    /// what the steps between this and the plan's writes are for.
    pub fn snapshot(&self, state: &State, leader: &Leader) -> Snapshot {
        let api = &state.api;
        let uncreated = if self.flaw == Some(Flaw::NothingWasMade) {
            let lines = api.slices.iter().flatten().flat_map(|slice| &slice.lines);
            lines.map(|line| grant(&line.device, line.attempt)).collect()
        } else {
            let name = |device: u8| self.names[usize::from(device)].as_str();
            leader
                .uncreated
                .iter()
                .map(|(device, attempt)| grant(name(*device), *attempt))
                .collect()
        };
        Snapshot {
            namespace: "tenant".to_owned(),
            now: wall(state.now),
            guards: Guards::default(),
            ledger: api.ledger.as_deref().cloned().unwrap_or_default(),
            rollouts: vec![self.shown(&api.rollout.shared())],
            slices: api.slices.iter().flatten().map(super::held::Held::shared).collect(),
            jobs: api.jobs.iter().flatten().map(super::held::Held::shared).collect(),
            devices: self.devices.clone(),
            updates: self.updates.clone(),
            holds: Vec::new(),
            windows: self.windows(api).to_vec(),
            orders: Vec::new(),
            approvals: self.seen_approvals(api),
            approval_policy: approvals::policy(),
            nonce: approvals::nonce(state),
            stops: self.stops(api).to_vec(),
            measurements: self.measurements(state.now, leader),
            uncreated,
            cannot_create: Default::default(),
            refused_holds: Default::default(),
        }
    }

    /// The rollout, unless a flaw makes the planner see another one.
    fn shown(&self, rollout: &Arc<PatchRollout>) -> Arc<PatchRollout> {
        let mut shown = rollout.clone();
        match self.flaw {
            Some(Flaw::OneSlotMore) => {
                for stage in &mut Arc::make_mut(&mut shown).spec.stages {
                    stage.max_concurrency = Some(wardring_api::Cap::Count(self.size.cap + 1));
                }
            }
            Some(Flaw::EarlyStage) => {
                let status = Arc::make_mut(&mut shown).status.as_mut();
                for stage in status.into_iter().flat_map(|status| status.stages.first_mut()) {
                    if stage.state == StageState::Open {
                        stage.state = StageState::Completed;
                    }
                }
            }
            Some(Flaw::UngatedBefore | Flaw::UngatedAfter) => {
                if let Some(status) = &mut Arc::make_mut(&mut shown).status {
                    self.forge(status);
                }
            }
            _ => self.show_approvals(Arc::make_mut(&mut shown)),
        }
        shown
    }

    fn plan(&self, snapshot: &Snapshot) -> Planned {
        let plan = plan(snapshot);
        let violation = check(snapshot, &plan).first().map(|violation| violation.rule);
        let before = snapshot.rollouts[0].status.clone().map(meaning);
        let passes = self.passes(before.as_ref(), &plan);
        let measure = plan.measure.iter().map(|order| self.ordered(order)).collect();
        let mut actions: Vec<Action> = plan
            .actions
            .into_iter()
            .filter(|action| match action {
                // What only tells people something changes no decision.
                Action::WriteStatus { status, .. } => Some(meaning((**status).clone())) != before,
                Action::WriteApprovalStatus { .. }
                | Action::DeleteApproval { .. }
                | Action::Emit(_)
                | Action::WriteQuarantine { .. }
                | Action::WriteGroupStatus { .. }
                | Action::WriteWindowStatus { .. }
                | Action::WriteRollbackStatus { .. }
                | Action::CreateHold { .. } => false,
                _ => true,
            })
            .collect();
        if self.flaw == Some(Flaw::JobsFirst) {
            actions.sort_by_key(|action| !matches!(action, Action::CreateJob(_)));
        }
        let mut left = vec![0];
        let mut touches = vec![0];
        for action in actions.iter().rev() {
            left.push(digest((left.last(), format!("{action:?}"))));
            touches.push(touches.last().copied().unwrap_or(0) | self.touched(action));
        }
        left.reverse();
        touches.reverse();
        let next_evaluation = plan.next_evaluation;
        Planned { actions, left, touches, next_evaluation, measure, passes, violation }
    }

    /// The objects that an action's preconditions are about.
    fn touched(&self, action: &Action) -> u32 {
        match action {
            Action::AddFinalizer(_) | Action::WriteStatus { .. } | Action::ConfirmApproval(_) => {
                Object::Rollout.bit()
            }
            Action::OpenBatch { .. } => Object::Ledger.bit(),
            Action::RecordLines { slice, .. } => Object::Slice(self.stage_of(slice)).bit(),
            Action::Recall { slice, lines } => {
                lines.iter().fold(Object::Slice(self.stage_of(slice)).bit(), |all, line| {
                    all | Object::Job(self.device(&line.change.line.device)).bit()
                })
            }
            Action::DeleteJob { device, .. } => Object::Job(self.device(device)).bit(),
            _ => 0,
        }
    }

    /// The write that a settled controller sends next.
    pub fn next_write(&self, state: &State, leader: usize) -> Option<Write> {
        let leader = &state.leaders[leader];
        if leader.role == Role::TakingOver {
            return Some(Write::Raise);
        }
        let work = leader.work.as_ref()?;
        Some(match work.action()? {
            Action::AddFinalizer(_) => Write::Finalize,
            Action::WriteStatus { status, .. } => Write::Status(status.clone()),
            Action::CreateSlice(new) => {
                let view = SliceView::fresh(new, wall(state.now));
                Write::CreateSlice(self.stage_of(&new.name), Arc::new(view))
            }
            Action::OpenBatch { expected_sequence, batch } => {
                Write::Batch(*expected_sequence, batch.clone())
            }
            Action::RecordLines { slice, changes, .. } => {
                let changes = changes.iter().map(|change| (change.index, change.line.clone()));
                Write::Lines(self.stage_of(slice), changes.collect())
            }
            Action::Recall { slice, lines } => match next_job(lines, work.asked) {
                Some(index) => Write::DeleteJob(self.device(&lines[index].change.line.device)),
                None => Write::Lines(
                    self.stage_of(slice),
                    gone(lines, work)
                        .map(|line| (line.change.index, line.change.line.clone()))
                        .collect(),
                ),
            },
            Action::CreateJob(new) => Write::CreateJob(self.device(&new.device), new.clone()),
            Action::DeleteJob { device, .. } => Write::DeleteJob(self.device(device)),
            Action::CreateApproval(new) => Write::CreateApproval(new.clone()),
            _ => return None,
        })
    }

    /// The controller sends its next write, and the answer comes back.
    pub fn send(&self, state: &mut State, leader: usize) {
        let Some(write) = self.next_write(state, leader) else {
            self.confirm(state, leader);
            return;
        };
        self.asks(state, leader, &write);
        // Without a ledger nothing is granted at all, so even that flaw makes one.
        let skips = self.flaw == Some(Flaw::NoTakeOver) && state.api.ledger.is_some();
        let done = (write == Write::Raise && skips) || self.commit(state, &write);
        if state.leaders[leader].role == Role::TakingOver {
            if done {
                state.leaders[leader].role = Role::Leader;
                if self.flaw == Some(Flaw::LatchForgotten) {
                    self.forget_latches(state);
                }
                for late in &mut state.late {
                    late.fenced = matches!(*late.write, Write::Batch(..));
                }
            }
            return;
        }
        if done && matches!(write, Write::Batch(..)) && self.is_stale(state, leader) {
            state.breaks("S15");
        }
        let noted = if done { self.granted(state, leader, &write) } else { Vec::new() };
        let me = &mut state.leaders[leader];
        me.uncreated.extend(noted);
        let Some(work) = &mut me.work else { return };
        let deletes = matches!(write, Write::DeleteJob(_));
        if done && !deletes {
            me.current |= write.object().bit();
        }
        if let Some(Action::Recall { lines, .. }) = work.plan.actions.get(work.next)
            && let Some(index) = next_job(lines, work.asked)
        {
            if done {
                work.recalled.insert(index);
            }
            work.asked = index + 1;
        } else if done || matches!(write, Write::CreateJob(..) | Write::DeleteJob(_)) {
            work.advance();
        } else {
            me.work = None;
        }
    }

    /// The controller looks once more at what its plan relies on. Where that is not there any more, the
    /// status is left out, and the rest of the plan goes on.
    fn confirm(&self, state: &mut State, leader: usize) {
        let action = state.leaders[leader].work.as_ref().and_then(Work::action);
        let Some(Action::ConfirmApproval(used)) = action.cloned() else { return };
        let stands = self.is_confirmed(state, &used);
        let Some(work) = &mut state.leaders[leader].work else { return };
        work.advance();
        let is_left_out = |action: Option<&Action>| {
            matches!(action, Some(Action::ConfirmApproval(_) | Action::WriteStatus { .. }))
        };
        while !stands && is_left_out(work.action()) {
            work.advance();
        }
    }

    /// The controller sends its next write and gives it up; it lands later.
    pub fn delay(&self, state: &mut State, leader: usize) {
        let Some(write) = self.next_write(state, leader) else { return };
        self.asks(state, leader, &write);
        state.late.push(Late { write: write.held(), fenced: false });
        state.leaders[leader].work = None;
    }

    /// Whether another controller has taken over since this one led.
    fn is_stale(&self, state: &State, leader: usize) -> bool {
        let mut others = state.leaders.iter().enumerate().filter(|(index, _)| *index != leader);
        others.any(|(_, other)| other.role == Role::Leader)
    }

    /// From now on nobody can say that a job was never asked for.
    fn asks(&self, state: &mut State, leader: usize, write: &Write) {
        if let Write::CreateJob(device, new) = write {
            state.leaders[leader].uncreated.remove(&(*device as u8, new.attempt));
        }
    }

    /// Grants of the lines just written whose job was certainly never asked for.
    fn granted(&self, state: &State, leader: usize, write: &Write) -> Vec<(u8, u32)> {
        let action = state.leaders[leader].work.as_ref().and_then(Work::action);
        let is_grant =
            matches!(action, Some(Action::RecordLines { cause: RecordCause::Grants, .. }));
        let Write::Lines(_, changes) = write else { return Vec::new() };
        let granted = changes.iter().filter(|(_, line)| line.is_in_force());
        let named = granted.map(|(_, line)| (self.device(&line.device) as u8, line.attempt));
        if is_grant { named.collect() } else { Vec::new() }
    }

    /// Drops what can only be refused, and what does not matter any more. A write whose object
    /// changed changes nothing when it is sent, so nothing is lost by not sending it.
    pub fn settle(&self, state: &mut State, leader: usize) {
        let me = &mut state.leaders[leader];
        while let Some(work) = &mut me.work {
            let Some(action) = work.action() else {
                me.work = None;
                break;
            };
            let holds = |object: Object| me.current & object.bit() != 0;
            let verdict = match action {
                // Where the rollout changed, nothing that is confirmed can be written.
                Action::AddFinalizer(_)
                | Action::WriteStatus { .. }
                | Action::ConfirmApproval(_) => holds(Object::Rollout),
                Action::OpenBatch { .. } => {
                    holds(Object::Ledger) || self.flaw == Some(Flaw::LedgerAtWill)
                }
                Action::RecordLines { slice, .. } => {
                    holds(Object::Slice(self.stage_of(slice)))
                        || self.flaw == Some(Flaw::SliceAtWill)
                }
                Action::Recall { slice, lines } => match next_job(lines, work.asked) {
                    Some(index) => {
                        let device = self.device(&lines[index].change.line.device);
                        let there = state.api.jobs[device].is_some();
                        if holds(Object::Job(device))
                            || (there && self.flaw == Some(Flaw::DeleteAtWill))
                        {
                            break;
                        }
                        work.asked = index + 1;
                        continue;
                    }
                    None if gone(lines, work).next().is_none() => {
                        work.advance();
                        continue;
                    }
                    None => holds(Object::Slice(self.stage_of(slice))),
                },
                Action::DeleteJob { device, .. } => {
                    let device = self.device(device);
                    let there = state.api.jobs[device].is_some();
                    if !(holds(Object::Job(device))
                        || (there && self.flaw == Some(Flaw::DeleteAtWill)))
                    {
                        work.advance();
                        continue;
                    }
                    true
                }
                _ => true,
            };
            if !verdict {
                me.work = None;
            }
            break;
        }
        match &me.work {
            Some(work) => me.current &= work.plan.touches[work.next],
            None => me.current = 0,
        }
        if me.role != Role::Leader && me.work.is_none() {
            me.uncreated.clear();
        }
        self.settle_samples(state, leader);
    }
}

/// The next line of a recall whose job must go first.
fn next_job(lines: &[RecallLine], asked: usize) -> Option<usize> {
    (asked..lines.len()).find(|&index| lines[index].job_attempt.is_some())
}

/// Lines of a recall whose job is gone.
fn gone<'a>(lines: &'a [RecallLine], work: &Work) -> impl Iterator<Item = &'a RecallLine> {
    let recalled = work.recalled.clone();
    lines
        .iter()
        .enumerate()
        .filter(move |(index, line)| line.job_attempt.is_none() || recalled.contains(index))
        .map(|(_, line)| line)
}
