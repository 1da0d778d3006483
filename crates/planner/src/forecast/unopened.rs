//! Stages that do not open as far as this looks: why, whom each would have, and what would keep these
//! devices from starting if it opened then.

use std::collections::BTreeMap;

use wardring_api::{
    PatchRollout, SliceLine, Stage, StageState, StageStatus, conditions::whole_seconds,
    reasons::Reason,
};

use super::{DeviceForecast, ForecastEnd, world::World};
use crate::{
    DeviceRow, DeviceStory, Explanation, RolloutDecisions, explain::explain_device, freeze,
    validate::Complaint, windows,
};

/// A stage that does not open.
pub(super) struct Unopened {
    /// Why, in one or two sentences.
    pub why: String,
    /// Who would be in it; none if its devices are chosen and it waits for its gates, or if its group does
    /// not exist.
    pub devices: Option<Vec<DeviceForecast>>,
}

/// The stages of the rollout that are not open in the end, by name.
pub(super) fn unopened(
    world: &World,
    rollout: &PatchRollout,
    decided: &RolloutDecisions,
    end: &ForecastEnd,
) -> BTreeMap<String, Unopened> {
    let table = &world.snapshot.devices;
    let mut taken = vec![false; table.rows().len()];
    let mut all = BTreeMap::new();
    for stage in &rollout.spec.stages {
        let known = decided.status.stages.iter().find(|known| known.name == stage.name);
        let frozen = known.filter(|known| known.freeze_id.is_some());
        let told = if let Some(frozen) = frozen {
            let mine = decided.stages.iter().filter(|all| all.stage == stage.name);
            let lines = mine.flat_map(|all| &all.slices).flat_map(|slice| &slice.lines);
            lines.filter_map(|line| table.find(&line.device)).for_each(|row| taken[row] = true);
            if frozen.state != StageState::Gated {
                continue;
            }
            Unopened { why: why(stage, decided, end, None), devices: None }
        } else {
            match freeze::wanted(stage, table) {
                Err(missing) => {
                    Unopened { why: why(stage, decided, end, Some(&missing)), devices: None }
                }
                Ok(mut members) => {
                    members.retain(|&row| !std::mem::replace(&mut taken[row], true));
                    let rows = members.into_iter().map(|row| &*table.rows()[row]);
                    let why = why(stage, decided, end, None);
                    let devices = Some(devices(world, rollout, decided, stage, &why, rows));
                    Unopened { why, devices }
                }
            }
        };
        all.insert(stage.name.clone(), told);
    }
    all
}

fn why(
    stage: &Stage,
    decided: &RolloutDecisions,
    end: &ForecastEnd,
    missing: Option<&Complaint>,
) -> String {
    let (until, sentences) = match end {
        ForecastEnd::Completed(_) => (String::new(), &[][..]),
        ForecastEnd::Waits { sentences, .. } => (String::new(), &sentences[..]),
        ForecastEnd::GoesOn { looked_until, sentences } => {
            (format!(" by {}", whole_seconds(*looked_until)), &sentences[..])
        }
    };
    let opens = format!("Stage {} does not open{until}:", stage.name);
    if let Some(missing) = missing {
        return format!("{opens} {}", missing.message);
    }
    let cause = sentences.first().map_or("", String::as_str);
    let is_unproven = |known: &&StageStatus| !known.state.is_promoted();
    let first = decided.status.stages.iter().find(is_unproven);
    let text = match first.filter(|first| first.name != stage.name) {
        Some(first) => format!("{opens} stage {} comes first. {cause}", first.name),
        None => format!("{opens} {cause}"),
    };
    text.trim_end().to_owned()
}

fn devices<'a>(
    world: &World,
    rollout: &PatchRollout,
    decided: &RolloutDecisions,
    stage: &Stage,
    why: &str,
    rows: impl Iterator<Item = &'a DeviceRow>,
) -> Vec<DeviceForecast> {
    let open = opened(rollout, &stage.name);
    rows.map(|row| {
        let line = SliceLine::pending(&row.name);
        let held = not_applicable(decided, row).unwrap_or_else(|| {
            let told = explain_device(&DeviceStory {
                now: world.now(),
                rollout: &open,
                stage: &stage.name,
                line: &line,
                job: world.job(&row.name),
                device: Some(row),
                groups: world.groups(),
                holds: world.holds(),
                windows: world.windows(),
                stops: world.stops(),
            });
            if is_ready(&told) { waits_for_stage(row, why) } else { told }
        });
        DeviceForecast {
            device: row.name.to_string(),
            stage: stage.name.clone(),
            starts: None,
            waited_for: None,
            done: None,
            held: Some(held),
            reversible: world.reversible(decided, &row.name),
        }
    })
    .collect()
}

/// The rollout as if it had come to this stage and nothing of the rollout itself were in its way.
fn opened(rollout: &PatchRollout, stage: &str) -> PatchRollout {
    let mut open = rollout.clone();
    (open.spec.suspend, open.spec.abort) = (None, None);
    if let Some(spec) = open.spec.stages.iter_mut().find(|spec| spec.name == stage) {
        spec.gates = Default::default();
    }
    let status = open.status.get_or_insert_default();
    (status.aborted, status.suspended, status.halted) = (None, None, None);
    if let Some(known) = status.stages.iter_mut().find(|known| known.name == stage) {
        (known.state, known.gates) = (StageState::Open, Vec::new());
    }
    open
}

/// Nothing of the device keeps it back but the time of day.
fn is_ready(told: &Explanation) -> bool {
    let opens_later = windows::is_reason(told.reason) && told.until.is_some();
    told.reason == Reason::InProgress || opens_later
}

fn waits_for_stage(row: &DeviceRow, why: &str) -> Explanation {
    let message = format!("{} could start, and when is unknown. {why}", row.name);
    Explanation { reason: Reason::StageNotOpen, message, until: None }
}

/// A device whose product no update of the rollout is for is done as soon as its stage opens. Of a rollout
/// that means nothing, nobody can tell.
fn not_applicable(decided: &RolloutDecisions, row: &DeviceRow) -> Option<Explanation> {
    let updates = &decided.status.resolved_updates;
    let product = row.product.as_deref()?;
    let is_covered = updates.iter().any(|update| *update.product == *product);
    (!is_covered && !updates.is_empty()).then(|| Explanation {
        reason: Reason::NotApplicable,
        message: format!("{} gets nothing: no update of this rollout is for {product}.", row.name),
        until: None,
    })
}
