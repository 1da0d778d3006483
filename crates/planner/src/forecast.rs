//! What would become of a rollout if every device did as it should: the same decisions and the same
//! permit rule, on a copy of the world in which time passes at once. Nothing is written anywhere.
//!
//! Assumed are how long devices take, that every gate which is measured outside passes, and that who is
//! offline stays so. Whether a device has an update already only its agent can tell.

mod fleet;
mod world;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use wardring_api::{
    LineState, PatchRollout, Reversible, RolloutPhase, StageStatus, reasons::Reason,
};

use crate::{
    Decision, DeviceStory, Explanation, RolloutDecisions, Snapshot,
    canary::canary_gaps,
    explain::{explain_device, explain_rollout, uncovered},
};
use world::World;

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
    /// Devices of the stages that open, in their order.
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
    /// Its frozen devices; none if it does not open.
    pub devices: Option<u32>,
    /// When its devices are chosen.
    pub opens: Option<Timestamp>,
    /// When it completes.
    pub completes: Option<Timestamp>,
    /// For how long each reason kept at least one device from starting, the longest first.
    pub held: Vec<(Reason, SignedDuration)>,
}

/// A device of a forecast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceForecast {
    /// Name.
    pub device: String,
    /// Its stage.
    pub stage: String,
    /// When it is first granted; none if it never is.
    pub starts: Option<Timestamp>,
    /// What it waited for last before that.
    pub waited_for: Option<Reason>,
    /// When it is done, and with what.
    pub done: Option<(Timestamp, LineState)>,
    /// Why it does not move in the end; none if it is done.
    pub held: Option<Explanation>,
    /// Whether what it gets can be taken back, as far as the catalogue knows.
    pub reversible: Reversible,
}

/// Looks ahead for the rollout of this uid. `None` if the snapshot has no such rollout.
pub fn forecast(snapshot: &Snapshot, uid: &str, assumptions: &Assumptions) -> Option<Forecast> {
    let mut world = World::new(snapshot, *assumptions);
    world.rollout(uid)?;
    let mut seen = Seen::default();
    let mut notes = None;
    let end = loop {
        let next = world.settle();
        let decided = world.decisions(uid)?;
        notes.get_or_insert_with(|| notes_of(&decided));
        seen.note(&decided, world.now());
        if decided.status.phase == Some(RolloutPhase::Completed) {
            break ForecastEnd::Completed(
                decided
                    .status
                    .stages
                    .iter()
                    .filter_map(|s| s.completed_at)
                    .max()
                    .unwrap_or(world.now()),
            );
        }
        let is_over = matches!(
            decided.status.phase,
            Some(RolloutPhase::Aborted | RolloutPhase::RolledBack | RolloutPhase::Invalid)
        );
        let sentences = explain_rollout(world.rollout(uid)?);
        match next.filter(|_| !is_over) {
            Some(next) if world.looks_on(next) => world.pass_time(next),
            Some(_) => break ForecastEnd::GoesOn { looked_until: world.now(), sentences },
            None => break ForecastEnd::Waits { since: seen.moved_at(snapshot.now), sentences },
        }
    };
    let decided = world.decisions(uid)?;
    Some(Forecast {
        made_at: snapshot.now,
        stages: stages(world.rollout(uid)?, &decided, &seen),
        devices: devices(&world, uid, &decided, &seen)?,
        notes: notes.unwrap_or_default(),
        end,
    })
}

fn notes_of(decided: &RolloutDecisions) -> Vec<String> {
    let status = &decided.status;
    let mut notes = status.warnings.clone();
    if !status.uncovered_products.is_empty() {
        notes.push(uncovered(&status.uncovered_products));
    }
    notes.extend(status.stages.iter().filter_map(canary_gaps));
    notes
}

/// What was seen of the rollout while time passed.
#[derive(Default)]
struct Seen {
    /// By stage and device.
    devices: BTreeMap<(String, String), Life>,
    /// By stage and reason: for how long some device was held.
    held: BTreeMap<(String, Reason), SignedDuration>,
    /// What is held since the last look.
    holding: Vec<(String, Reason)>,
    looked_at: Option<Timestamp>,
    moved_at: Option<Timestamp>,
}

/// A device's way through its stage.
#[derive(Default)]
struct Life {
    starts: Option<Timestamp>,
    waited_for: Option<Reason>,
    done: Option<(Timestamp, LineState)>,
}

impl Seen {
    fn note(&mut self, decided: &RolloutDecisions, now: Timestamp) {
        if let Some(before) = self.looked_at {
            for held in std::mem::take(&mut self.holding) {
                *self.held.entry(held).or_default() += now.duration_since(before);
            }
        }
        self.looked_at = Some(now);
        for stage in &decided.stages {
            let mut reasons: Vec<Reason> = Vec::new();
            for (device, decision) in stage.devices() {
                let key = (stage.stage.clone(), device.to_owned());
                let life = self.devices.entry(key).or_default();
                match decision {
                    Decision::Hold(reason) => {
                        if life.starts.is_none() {
                            life.waited_for = Some(reason);
                        }
                        if !reasons.contains(&reason) {
                            reasons.push(reason);
                        }
                    }
                    Decision::Start | Decision::Continue if life.starts.is_none() => {
                        life.starts = Some(now);
                        self.moved_at = Some(now);
                    }
                    Decision::Done(state) if life.done.is_none() => {
                        life.done = Some((now, state));
                        self.moved_at = Some(now);
                    }
                    _ => {}
                }
            }
            self.holding.extend(reasons.into_iter().map(|reason| (stage.stage.clone(), reason)));
        }
    }

    /// When something last happened.
    fn moved_at(&self, began: Timestamp) -> Timestamp {
        self.moved_at.unwrap_or(began)
    }
}

fn stages(rollout: &PatchRollout, decided: &RolloutDecisions, seen: &Seen) -> Vec<StageForecast> {
    let stage = |name: &String| {
        let of: Option<&StageStatus> = decided.status.stages.iter().find(|all| all.name == *name);
        let of = of.filter(|status| status.freeze_id.is_some());
        let mine = seen.held.iter().filter(|((stage, _), _)| stage == name);
        let mut held: Vec<(Reason, SignedDuration)> =
            mine.map(|((_, reason), time)| (*reason, *time)).collect();
        held.sort_by_key(|(reason, time)| (std::cmp::Reverse(*time), *reason));
        StageForecast {
            name: name.clone(),
            devices: of.map(|status| status.counts.total),
            opens: of.and_then(|status| status.frozen_at.or(status.started_at)),
            completes: of.and_then(|status| status.completed_at),
            held,
        }
    };
    rollout.spec.stages.iter().map(|spec| stage(&spec.name)).collect()
}

fn devices(
    world: &World,
    uid: &str,
    decided: &RolloutDecisions,
    seen: &Seen,
) -> Option<Vec<DeviceForecast>> {
    let rollout = world.rollout(uid)?;
    let mut all = Vec::new();
    for stage in &decided.stages {
        let lines = stage.slices.iter().flat_map(|slice| &slice.lines);
        for line in lines {
            let key = (stage.stage.clone(), line.device.clone());
            let life = seen.devices.get(&key);
            let done = life.and_then(|life| life.done);
            let held = done.is_none().then(|| {
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
                starts: life.and_then(|life| life.starts),
                waited_for: life.and_then(|life| life.waited_for),
                done,
                held,
                reversible: world.reversible(decided, &line.device),
            });
        }
    }
    Some(all)
}
