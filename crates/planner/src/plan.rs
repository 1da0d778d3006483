//! One pass, from top to bottom. The steps are those of a stage's life; each is a file of its own.

use std::{cmp::Reverse, sync::Arc};

use crate::{
    Action, Decision, DeviceTable, MeasureOrder, Plan, RolloutDecisions, Snapshot, StageDecisions,
    barring, damage, downloads,
    eligibility::Claims,
    emergency, freeze, gates, grants,
    halt::{self, Latched},
    jobs,
    ledger::{self, Pen},
    order, outcomes, resolve, rollback, stage, status, supersede,
    validate::{Complaint, Run, Scene, validate},
    wake::Wake,
    windows,
};

/// Actions by the place they have in a plan. The order of the fields is the order of the writes.
#[derive(Default)]
pub(crate) struct Lanes {
    /// Statuses that stop a rollout: before everything else, however much there is to do for others.
    pub stops: Vec<Action>,
    /// Finalizers that must be there before anything is granted. A rollout without one has begun nothing
    /// that could be stopped.
    pub guards: Vec<Action>,
    /// Lines of a batch that somebody left open.
    pub fences: Vec<Action>,
    pub recalls: Vec<Action>,
    /// Bars on what devices took back by themselves: before the outcome that tells of it, which is told
    /// once.
    pub bars: Vec<Action>,
    pub outcomes: Vec<Action>,
    pub retries: Vec<Action>,
    /// Which lines a PatchRollback reaches: before the status that names it.
    pub orders: Vec<Action>,
    pub slices: Vec<Action>,
    pub holds: Vec<Action>,
    /// Statuses that later passes build on.
    pub gates: Vec<Action>,
    pub batches: Vec<Action>,
    /// Jobs whose place a new grant takes.
    pub replaced: Vec<Action>,
    pub creations: Vec<Action>,
    pub deletions: Vec<Action>,
    pub statuses: Vec<Action>,
    pub groups: Vec<Action>,
    /// Devices that are left damaged: after the record that it follows from, and behind everything that
    /// others wait for. Until it is seen, their jobs keep everybody from them.
    pub quarantines: Vec<Action>,
    pub garbage: Vec<Action>,
    pub events: Vec<Action>,
    pub releases: Vec<Action>,
}

impl Lanes {
    fn into_actions(self) -> Vec<Action> {
        [
            self.stops,
            self.guards,
            self.fences,
            self.recalls,
            self.bars,
            self.outcomes,
            self.retries,
            self.orders,
            self.slices,
            self.holds,
            self.gates,
            self.batches,
            self.replaced,
            self.creations,
            self.deletions,
            self.statuses,
            self.groups,
            self.quarantines,
            self.garbage,
            self.events,
            self.releases,
        ]
        .concat()
    }
}

/// Decides what one namespace does next. Total: every snapshot has a plan. Deterministic: equal
/// snapshots have equal plans, whatever the order of their lists.
pub fn plan(snapshot: &Snapshot) -> Plan {
    let (scene, mut runs) = validate(snapshot);
    let (mut lanes, mut wake) = (Lanes::default(), Wake::new(snapshot.now));
    if snapshot.guards.namespace_terminating {
        return let_go(&runs, lanes);
    }
    // What people ordered comes first, and takes effect whatever else is wrong.
    supersede::find(&mut runs);
    // A retry waits for an order that asks.
    for run in runs.iter_mut().filter(|run| halt::asks_for_retry(run)) {
        run.assents = order::assent::weigh(run, &scene);
    }
    let mut latched: Vec<Latched> = runs.iter_mut().map(|run| halt::latch(run, &scene)).collect();
    supersede::latch(&mut runs, &mut latched, &scene);
    for run in &mut runs {
        run.consent = rollback::Consent::of(run, &scene);
        run.assents = order::assent::weigh(run, &scene);
    }
    let mut measure = Vec::new();
    let waits = if scene.guard.is_none() {
        decide(&mut runs, &latched, &scene, &mut lanes, &mut measure, &mut wake)
    } else {
        stand_still(&mut runs, &scene)
    };
    let mut claims = Claims::new(&runs, &scene);
    let mut pen = Pen::new(&scene);
    let mut decisions: Vec<grants::Decisions> = vec![Vec::new(); runs.len()];
    for turn in turns(&runs) {
        let run = &mut runs[turn];
        decisions[turn] = grants::admit(run, &scene, &mut claims, &mut pen, &mut lanes, &mut wake);
    }
    downloads::give_way(&mut runs, &claims, &scene);
    if scene.guard.is_none() {
        damage::write(&runs, &scene, &mut lanes);
        write_jobs(&runs, &scene, &mut lanes, &mut wake);
        write_groups(&claims, scene.table, &mut lanes);
        windows::write_statuses(&scene, &mut lanes, &mut wake);
        collect_garbage(&runs, &scene, &mut lanes, &mut wake);
    }
    let stops = emergency::tallies(&runs, &decisions, &scene);
    if scene.guard.is_none() {
        order::write_statuses(&runs, &decisions, &scene, &mut lanes);
        crate::approvals::write(&runs, &scene, &mut lanes, &mut wake);
    }
    if scene.guard.is_some() {
        order::write_rejections(&runs, &scene, &mut lanes);
    }
    let rollouts = publish(&mut runs, decisions, &waits, &latched, &scene, &mut lanes, &wake);
    let actions = lanes.into_actions();
    Plan { actions, rollouts, stops, measure, next_evaluation: wake.next() }
}

/// In which order rollouts take devices and places: by priority, then by age. Only a device that can
/// start takes anything, so whatever stands still keeps nothing from those behind it.
fn turns(runs: &[Run<'_>]) -> Vec<usize> {
    let rank = |turn: &usize| {
        let rollout = runs[*turn].rollout;
        let created = rollout.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (Reverse(rollout.spec.priority.unwrap_or_default()), created)
    };
    let mut turns: Vec<usize> = (0..runs.len()).collect();
    turns.sort_by_key(rank);
    turns
}

/// Everything up to the grants: what happened, what it means, and how far the stages move.
fn decide<'a>(
    runs: &mut [Run<'a>],
    latched: &[Latched],
    scene: &Scene<'a>,
    lanes: &mut Lanes,
    measure: &mut Vec<MeasureOrder>,
    wake: &mut Wake,
) -> Vec<(bool, Option<Complaint>)> {
    for run in runs.iter_mut() {
        resolve::resolve_run(run, scene);
    }
    ledger::close_open_batch(runs, scene, lanes, wake);
    let mut waits = Vec::with_capacity(runs.len());
    for (run, latched) in runs.iter_mut().zip(latched) {
        if !run.has_finalizer() && !run.is_deleting() {
            lanes.guards.push(Action::AddFinalizer(run.id.clone()));
        }
        outcomes::fold(run, scene, wake);
        lanes.bars.extend(barring::own_holds(run, scene));
        halt::add_up(run, scene);
        let moved = gates::follow(run, scene, wake, measure);
        let mut halted = halt::judge(run, scene, wake);
        if !halted {
            // What just ended, and whoever was just heard of, counts.
            run.assents = order::assent::weigh(run, scene);
        }
        // A stop is the first write of a pass, so what an order rests on would come after it.
        if !halted && !latched.stopped {
            halted = order::begin(run, scene, lanes);
        }
        run.gating |= moved;
        // A halt and its scope count at once.
        run.consent = rollback::Consent::of(run, scene);
        // A stop is written without looking at what anybody approved.
        if !halted && !latched.stopped {
            crate::approvals::follow_rollback(run, scene, wake);
            order::assent::follow(run, scene, wake);
        }
        if !halted {
            rollback::steer(run, scene, wake, lanes);
        }
        barring::make_up(run, scene, lanes, wake);
        let waiting = stage::advance(run, scene, wake, lanes);
        waits.push((halted || latched.stopped, waiting));
    }
    waits
}

/// Under a guard nothing is concluded; the counters still tell what is recorded.
fn stand_still(runs: &mut [Run<'_>], scene: &Scene<'_>) -> Vec<(bool, Option<Complaint>)> {
    runs.iter_mut()
        .map(|run| {
            halt::add_up(run, scene);
            // What a person said is not forgotten because nothing moves.
            run.gating |= gates::latch(run, scene);
            run.gating |= crate::approvals::latch_rollback(run, scene);
            order::assent::latch(run, scene);
            (false, None)
        })
        .collect()
}

fn write_jobs(runs: &[Run<'_>], scene: &Scene<'_>, lanes: &mut Lanes, wake: &mut Wake) {
    for run in runs {
        jobs::record_lines(run, scene, lanes);
        jobs::create(run, scene, lanes);
        if run.has_finalizer() && jobs::is_released(run, scene) {
            lanes.releases.push(Action::RemoveFinalizer(run.id.clone()));
        }
    }
    jobs::sweep(runs, scene, lanes, wake);
}

/// Group statuses, with the flag that holds restarts while too many devices are unavailable.
fn write_groups(claims: &Claims, table: &DeviceTable, lanes: &mut Lanes) {
    for (group, status) in table.groups().iter().zip(claims.statuses()) {
        if status != group.status {
            lanes.groups.push(Action::WriteGroupStatus { group: group.name.clone(), status });
        }
    }
}

/// Slices that nobody names: of a list that was not frozen after all, or of a run long gone.
fn collect_garbage(runs: &[Run<'_>], scene: &Scene<'_>, lanes: &mut Lanes, wake: &mut Wake) {
    for slice in freeze::garbage(runs, scene, wake) {
        lanes.garbage.push(Action::DeleteSlice { name: slice.to_owned() });
    }
    for (name, uid) in crate::approvals::garbage(runs, scene, wake) {
        lanes.garbage.push(Action::DeleteApproval { name, uid });
    }
    lanes.garbage.sort_by(|a, b| format!("{a:?}").cmp(&format!("{b:?}")));
}

/// Statuses, events and the decisions for whoever asks.
fn publish(
    runs: &mut [Run<'_>],
    decisions: Vec<grants::Decisions>,
    waits: &[(bool, Option<Complaint>)],
    latched: &[Latched],
    scene: &Scene<'_>,
    lanes: &mut Lanes,
    wake: &Wake,
) -> Vec<RolloutDecisions> {
    let mut rollouts = Vec::with_capacity(runs.len());
    for (index, (run, decisions)) in runs.iter_mut().zip(decisions).enumerate() {
        let (stopped, waiting) = &waits[index];
        let stopped = *stopped || latched[index].stopped;
        let is_news = status::publish(run, &decisions, waiting.as_ref(), scene, wake.next());
        // The finalizer comes first and alone: everything else relies on it.
        let is_guarded = run.has_finalizer() || run.is_deleting() || scene.guard.is_some();
        if is_news && is_guarded {
            let lane = match (stopped, run.gating) {
                (true, _) => &mut lanes.stops,
                (false, true) => &mut lanes.gates,
                (false, false) => &mut lanes.statuses,
            };
            // A stop waits for nothing, and what it halts is asked anew.
            let uses = if stopped { Vec::new() } else { crate::approvals::uses(run) };
            lane.extend(uses.into_iter().map(|one| Action::ConfirmApproval(Box::new(one))));
            let status = Box::new(run.status.clone());
            lane.push(Action::WriteStatus { rollout: run.id.clone(), status });
            status::announce(run);
            lanes.events.extend(run.events.drain(..).map(Action::Emit));
        }
        rollouts.push(told(run, decisions));
    }
    rollouts
}

fn told(run: &Run<'_>, decisions: grants::Decisions) -> RolloutDecisions {
    let stages = run
        .stages
        .iter()
        .zip(decisions)
        .filter_map(|(stage, decisions): (_, Vec<Decision>)| {
            let frozen = stage.frozen.as_ref()?;
            let counts = &stage.tally.counts;
            Some(StageDecisions {
                stage: stage.spec.name.clone(),
                verdict: format!(
                    "{} of {} devices are proven, {} at work, {} waiting, {} failed, {} unreachable.",
                    counts.succeeded,
                    counts.total,
                    counts.in_progress,
                    counts.pending,
                    counts.failed + counts.rolled_back + counts.rollback_failed,
                    counts.unreachable
                ),
                slices: frozen.slices.iter().map(|slice| Arc::clone(slice)).collect(),
                decisions,
            })
        })
        .collect();
    RolloutDecisions { rollout: run.id.clone(), stages, status: Box::new(run.status.clone()) }
}

/// In a namespace that is being deleted nothing is decided any more; nothing may hold it up either.
fn let_go(runs: &[Run<'_>], mut lanes: Lanes) -> Plan {
    for run in runs.iter().filter(|run| run.has_finalizer()) {
        lanes.releases.push(Action::RemoveFinalizer(run.id.clone()));
    }
    Plan { actions: lanes.into_actions(), ..Plan::default() }
}
