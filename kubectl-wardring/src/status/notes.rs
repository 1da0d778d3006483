//! Lines between the rows: why it stands still, what it waits for, who failed.

use wardring_api::{PatchRollout, PatchRolloutStatus, StageState, StageStatus, conditions};

use super::tree::{View, age};
use crate::paint::Tone;

/// Samples shown without `-o wide`.
const SHORT_SAMPLE: usize = 5;

/// What to say below the row of a rollout.
pub fn of_rollout(
    rollout: &PatchRollout,
    status: &PatchRolloutStatus,
    view: &View,
) -> Vec<(Tone, String)> {
    let mut notes = Vec::new();
    if status.phase.is_none() {
        notes.push((
            Tone::Warn,
            "no controller has planned it yet; does wardring-controller run?".to_owned(),
        ));
    } else if status.observed_generation < rollout.metadata.generation {
        notes.push((Tone::Warn, "the newest edit is not planned yet".to_owned()));
    }
    let stops = [
        ("halted", Tone::Bad, &status.halted),
        ("suspended", Tone::Warn, &status.suspended),
        ("aborted", Tone::Warn, &status.aborted),
    ];
    for (word, tone, latch) in stops {
        if let Some(latch) = latch {
            let ago = age(view.now.duration_since(latch.at));
            notes.push((tone, format!("{word} {ago} ago: {} ({})", latch.message, latch.reason)));
        }
    }
    let stalled = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == conditions::STALLED && condition.status == "True");
    match (stalled, &status.message) {
        // The latch above says it already.
        _ if status.halted.is_some() || status.aborted.is_some() => {}
        (Some(stalled), _) => {
            notes.push((Tone::Bad, format!("{} ({})", stalled.message, stalled.reason)));
        }
        (None, Some(message)) => notes.push((Tone::Plain, message.clone())),
        (None, None) => {}
    }
    if !status.uncovered_products.is_empty() {
        let products = status.uncovered_products.join(", ");
        notes.push((Tone::Warn, format!("no selected update is for: {products}")));
    }
    // What stopped it stands above already.
    let stops = [&status.halted, &status.suspended, &status.aborted];
    let told = |message: &str| {
        stops.iter().any(|stop| stop.as_ref().is_some_and(|latch| latch.message == message))
    };
    for waiting in status.waiting_for.iter().filter(|waiting| !told(&waiting.message)) {
        let until = waiting.until.map(|until| format!(", until {until} at the latest"));
        notes.push((
            Tone::Plain,
            format!("waits: {} ({}){}", waiting.message, waiting.reason, until.unwrap_or_default()),
        ));
    }
    if let Some(rollback) = &status.rollback {
        let state = match rollback.completed_at {
            Some(at) => format!("ended {} ago", age(view.now.duration_since(at))),
            None => format!("under way for {}", age(view.now.duration_since(rollback.started_at))),
        };
        let scope = rollback.scope;
        notes.push((
            Tone::Warn,
            format!("rollback ({scope:?}, of stage {}) {state}", rollback.stage),
        ));
    }
    notes
}

/// What to say below the row of a stage.
pub fn of_stage(stage: &StageStatus, view: &View) -> Vec<(Tone, String)> {
    let mut notes = Vec::new();
    let counts = &stage.counts;
    if counts.installed_awaiting_reboot > 0 {
        let number = counts.installed_awaiting_reboot;
        notes.push((Tone::Busy, format!("{number} installed and waiting for their restart")));
    }
    if counts.rebooting > 0 {
        let slowly = match counts.reboot_slow {
            0 => String::new(),
            slow => format!(", {slow} of them slowly"),
        };
        let tone = if counts.reboot_slow > 0 { Tone::Warn } else { Tone::Busy };
        notes.push((tone, format!("{} restarting{slowly}", counts.rebooting)));
    }
    if counts.downloaded + counts.downloading > 0 {
        let loading = match counts.downloading {
            0 => String::new(),
            some => format!(", {some} downloading"),
        };
        notes.push((Tone::Dim, format!("{} downloaded ahead{loading}", counts.downloaded)));
    }
    if let (StageState::Soaking, Some(since)) = (stage.state, stage.soak_started_at) {
        let time = age(view.now.duration_since(since));
        notes.push((Tone::Busy, format!("proven; being watched for {time} now")));
    }
    if let Some(tail) = wardring_planner::tail_sentence(stage) {
        notes.push((Tone::Busy, tail));
    }
    notes.extend(wardring_planner::canary_gaps(stage).map(|gaps| (Tone::Warn, gaps)));
    let shown = if view.wide { stage.failed_sample.len() } else { SHORT_SAMPLE };
    let sample = stage.failed_sample.iter().take(shown);
    notes.extend(sample.map(|line| (Tone::Bad, format!("✗ {line}"))));
    if let Some(more @ 1..) = stage.failed_sample.len().checked_sub(shown) {
        notes.push((Tone::Dim, format!("… and {more} more; -o wide shows them")));
    }
    notes
}
