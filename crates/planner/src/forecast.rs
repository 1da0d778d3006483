//! What would become of a rollout if every device did as it should: the same decisions and the same
//! permit rule, on a copy of the world in which time passes at once. Nothing is written anywhere.
//!
//! Assumed are how long devices take, that every gate which is measured outside passes, and that who is
//! offline stays so. Whether a device has an update already only its agent can tell.

mod fleet;
mod seen;
mod unopened;
mod world;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use wardring_api::{
    Gate, GateResult, GateState, GateType, LineState, PatchRollout, Reversible, RolloutPhase,
    StageState, StageStatus, conditions::whole_seconds, reasons::Reason,
};

use crate::{
    Decision, DeviceStory, Explanation, RolloutDecisions, Snapshot,
    canary::canary_gaps,
    explain::{explain_device, explain_rollout, uncovered},
};
use seen::Seen;
use unopened::{Unopened, unopened};
use world::World;

/// A rollout of which nothing moved for so long before the end of the look does not go on: windows open
/// every month.
const STILL: SignedDuration = SignedDuration::from_hours(35 * 24);

/// What is assumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assumptions {
    /// From the permit to install until everything is installed.
    pub install: SignedDuration,
    /// From the permit to restart until the agent is back.
    pub restart: SignedDuration,
    /// Every enrolled device is in contact.
    pub all_online: bool,
    /// How far to look.
    pub horizon: SignedDuration,
}

impl Default for Assumptions {
    fn default() -> Assumptions {
        Assumptions {
            install: SignedDuration::from_mins(30),
            restart: SignedDuration::from_mins(10),
            all_online: false,
            horizon: SignedDuration::from_hours(60 * 24),
        }
    }
}

/// What would become of a rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// The instant it was made for.
    pub made_at: Timestamp,
    /// Its stages, in order.
    pub stages: Vec<StageForecast>,
    /// Devices of the stages that open, in their order, then those that the other stages would have.
    pub devices: Vec<DeviceForecast>,
    /// What to know before: warnings, products without an update, canary gaps.
    pub notes: Vec<String>,
    /// Why it ends.
    pub end: ForecastEnd,
}

/// How far a forecast comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForecastEnd {
    /// The rollout completes.
    Completed(Timestamp),
    /// Nothing moves any more without a person.
    Waits {
        /// Since when.
        since: Timestamp,
        /// What for, in sentences.
        sentences: Vec<String>,
    },
    /// It goes on beyond what was looked at.
    GoesOn {
        /// Until when it was looked.
        looked_until: Timestamp,
        /// What it waits for then, in sentences.
        sentences: Vec<String>,
    },
}

/// A stage of a forecast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageForecast {
    /// Name.
    pub name: String,
    /// Its frozen devices, or those that it would freeze in the end; none if its group does not exist.
    pub devices: Option<u32>,
    /// When its devices are chosen; none if it does not open.
    pub opens: Option<Timestamp>,
    /// Why it does not open as far as this looks, in one or two sentences.
    pub does_not_open: Option<String>,
    /// When it lets later stages go on, where it stays open for latecomers after that.
    pub goes_on: Option<Timestamp>,
    /// When it completes.
    pub completes: Option<Timestamp>,
    /// The longest that a device which starts waits for each reason, the longest first.
    pub held: Vec<(Reason, SignedDuration)>,
}

/// A device of a forecast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceForecast {
    /// Name.
    pub device: String,
    /// Its stage.
    pub stage: String,
    /// When it is first granted; none if it never is, or was done before.
    pub starts: Option<Timestamp>,
    /// What it waited for last before that.
    pub waited_for: Option<Reason>,
    /// When it is done, and with what.
    pub done: Option<(Timestamp, LineState)>,
    /// Where it stands in the end, unless that is good: why it does not move, or what became of it. Of a stage
    /// that does not open, what else would keep it back then, or else `StageNotOpen`.
    pub held: Option<Explanation>,
    /// Whether what it gets can be taken back, as far as the catalogue knows.
    pub reversible: Reversible,
}

/// Looks ahead for the rollout of this uid. `None` if the snapshot has no such rollout, or it is being
/// deleted.
pub fn forecast(snapshot: &Snapshot, uid: &str, assumptions: &Assumptions) -> Option<Forecast> {
    let mut world = World::new(snapshot, *assumptions);
    world.rollout(uid).filter(|rollout| rollout.metadata.deletion_timestamp.is_none())?;
    let mut seen = Seen::default();
    let end = loop {
        let next = world.settle();
        let decided = world.decided(uid)?;
        seen.note(decided, world.now());
        if decided.status.phase == Some(RolloutPhase::Completed) {
            let last = decided.status.stages.iter().filter_map(|stage| stage.completed_at).max();
            break ForecastEnd::Completed(last.unwrap_or(world.now()));
        }
        let stands = stands_still(decided);
        match next.filter(|_| !stands) {
            Some(next) if world.looks_on(next) => world.pass_time(next),
            Some(_) if seen.moved_at() >= world.now() - STILL || soaks(decided) => {
                let sentences = explain_rollout(world.rollout(uid)?);
                break ForecastEnd::GoesOn { looked_until: world.now(), sentences };
            }
            _ => {
                let sentences = explain_rollout(world.rollout(uid)?);
                break ForecastEnd::Waits { since: seen.moved_at(), sentences };
            }
        }
    };
    let (rollout, decided) = (world.rollout(uid)?, world.decided(uid)?);
    let unopened = unopened(&world, rollout, decided, &end);
    Some(Forecast {
        made_at: snapshot.now,
        stages: stages(rollout, decided, &seen, &unopened),
        devices: devices(&world, rollout, decided, &seen, unopened)?,
        notes: notes(snapshot, uid, decided).into_iter().chain(downloads(&seen)).collect(),
        end,
    })
}

/// Whether only a person can move the rollout on: it stands, nothing is being taken back, and no device
/// is at work. Time goes on all the same, with windows that open and with other rollouts.
fn stands_still(decided: &RolloutDecisions) -> bool {
    let status = &decided.status;
    let is_stopped = match status.phase {
        Some(RolloutPhase::Aborted | RolloutPhase::RolledBack | RolloutPhase::Invalid) => true,
        Some(RolloutPhase::Halted) => {
            status.rollback.as_ref().is_none_or(|rollback| rollback.completed_at.is_some())
        }
        _ => false,
    };
    let all = decided.stages.iter().flat_map(|stage| &stage.decisions);
    let at_work = |decision: &Decision| matches!(decision, Decision::Start | Decision::Continue);
    is_stopped && !all.into_iter().any(at_work)
}

fn downloads(seen: &Seen) -> impl Iterator<Item = String> {
    seen.downloads().map(|(stage, since)| {
        let since = whole_seconds(since);
        format!("Devices of stage {stage} download ahead of their window from {since} on.")
    })
}

fn soaks(decided: &RolloutDecisions) -> bool {
    let soaks =
        |stage: &StageStatus| stage.soak_started_at.is_some() && stage.completed_at.is_none();
    decided.status.stages.iter().any(soaks)
}

/// What the status says in the end, and what of today is assumed to be otherwise.
fn notes(snapshot: &Snapshot, uid: &str, decided: &RolloutDecisions) -> Vec<String> {
    let status = &decided.status;
    let mut notes = status.warnings.clone();
    if !status.uncovered_products.is_empty() {
        notes.push(uncovered(&status.uncovered_products));
    }
    notes.extend(status.stages.iter().filter_map(canary_gaps));
    let mut rollouts = snapshot.rollouts.iter();
    let mine = rollouts.find(|rollout| rollout.metadata.uid.as_deref() == Some(uid));
    let stages = mine.and_then(|rollout| rollout.status.as_ref()).map(|status| &status.stages);
    for stage in mine.iter().flat_map(|rollout| &rollout.spec.stages) {
        let known = stages.and_then(|all| all.iter().find(|known| known.name == stage.name));
        let is_given = |gate: &Gate| {
            known.is_some_and(|known| {
                let mut gates = known.gates.iter();
                gates.any(|all| all.name == gate.name && all.state == GateState::Passed)
            })
        };
        for (_, gate) in stage.gates.all().filter(|(_, gate)| gate.kind == GateType::Approval) {
            if !is_given(gate) {
                notes.push(format!(
                    "Stage {} waits for a person's approval (gate {}); it is taken to be given at once.",
                    stage.name, gate.name
                ));
            }
        }
    }
    for stage in stages.into_iter().flatten() {
        for gate in &stage.gates {
            if matches!(gate.result, Some(GateResult::Fail | GateResult::Error)) {
                notes.push(format!(
                    "Gate {} of stage {} does not pass now; it is taken to pass from now on.",
                    gate.name, stage.name
                ));
            }
        }
    }
    notes
}

fn stages(
    rollout: &PatchRollout,
    decided: &RolloutDecisions,
    seen: &Seen,
    unopened: &BTreeMap<String, Unopened>,
) -> Vec<StageForecast> {
    let stage = |name: &String| {
        let of: Option<&StageStatus> = decided.status.stages.iter().find(|all| all.name == *name);
        let of = of.filter(|status| status.freeze_id.is_some());
        let opened = of.filter(|status| status.state != StageState::Gated);
        let shut = unopened.get(name);
        let wanted = || shut?.devices.as_ref().map(|devices| devices.len() as u32);
        StageForecast {
            name: name.clone(),
            devices: of.map(|status| status.counts.total).or_else(wanted),
            opens: opened.and_then(|status| status.frozen_at.or(status.started_at)),
            does_not_open: shut.map(|shut| shut.why.clone()),
            goes_on: of.and_then(|status| status.tail?.promoted_at),
            completes: of.and_then(|status| status.completed_at),
            held: seen.waits(name),
        }
    };
    rollout.spec.stages.iter().map(|spec| stage(&spec.name)).collect()
}

/// Whether this is how it has to end.
fn is_good(state: LineState) -> bool {
    matches!(state, LineState::Succeeded | LineState::AlreadyInstalled | LineState::PatchedOutside)
}

fn devices(
    world: &World,
    rollout: &PatchRollout,
    decided: &RolloutDecisions,
    seen: &Seen,
    mut unopened: BTreeMap<String, Unopened>,
) -> Option<Vec<DeviceForecast>> {
    let mut all = Vec::new();
    for stage in &decided.stages {
        let lines = stage.slices.iter().flat_map(|slice| &slice.lines);
        for (position, line) in lines.enumerate() {
            let life = seen.life(&stage.stage, position)?;
            let held = (!life.done.is_some_and(|(_, state)| is_good(state))).then(|| {
                explain_device(&DeviceStory {
                    now: world.now(),
                    rollout,
                    stage: &stage.stage,
                    line,
                    job: world.job(&line.device),
                    device: world.device(&line.device),
                    groups: world.groups(),
                    holds: world.holds(),
                    windows: world.windows(),
                    stops: world.stops(),
                })
            });
            all.push(DeviceForecast {
                device: line.device.clone(),
                stage: stage.stage.clone(),
                starts: life.starts,
                waited_for: life.waited_for,
                done: life.done,
                held,
                reversible: world.reversible(decided, &line.device),
            });
        }
    }
    for stage in &rollout.spec.stages {
        all.extend(unopened.remove(&stage.name).and_then(|shut| shut.devices).unwrap_or_default());
    }
    Some(all)
}
