//! What came of a story: checks for people, and one JSON object for machines.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};
use wardring_api::{RolloutPhase, StageCounts};

use super::screen::Screen;

/// The end of one scenario.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Which.
    pub scenario: &'static str,
    /// Phase of the rollout at the end.
    pub phase: Option<RolloutPhase>,
    /// Stages in order.
    pub stages: Vec<StageReport>,
    /// Names of the UpdateHolds in the namespace.
    pub holds: Vec<String>,
    /// API writes from the rollout's creation to its end, per device that got a permit.
    pub writes_per_device: Option<f64>,
    /// The same by resource.
    #[serde(skip)]
    pub writes: BTreeMap<String, f64>,
    /// Time from the rollout's creation to its end.
    pub seconds: f64,
    /// What should be true, and whether it is.
    #[serde(skip)]
    pub checks: Vec<Check>,
}

/// A stage at the end.
#[derive(Debug, Serialize)]
pub struct StageReport {
    /// Its name.
    pub name: String,
    /// Its counters.
    pub counts: StageCounts,
}

/// Something that should be true.
#[derive(Debug)]
pub struct Check {
    /// The sentence.
    pub sentence: String,
    /// Whether it is.
    pub holds: bool,
}

impl Report {
    /// Whether everything was as it should be.
    pub fn holds_true(&self) -> bool {
        self.checks.iter().all(|check| check.holds)
    }

    /// Shows the checks.
    pub fn print(&self, screen: &Screen) {
        for check in &self.checks {
            screen.verdict(check.holds, &check.sentence);
        }
        screen.say(&format!("  {:.1} s from the first apply to the end", self.seconds));
        if let Some(writes) = self.writes_per_device {
            let by: Vec<_> =
                self.writes.iter().map(|(name, writes)| format!("{name} {writes:.1}")).collect();
            let by = by.join(", ");
            screen.say(&format!("  {writes:.1} API writes per patched device ({by})"));
        }
    }

    /// One object: the report itself, or several under `scenarios`.
    pub fn json(reports: &[Report], elapsed: Duration) -> Value {
        match reports {
            [report] => json!(report),
            reports => json!({
                "scenario": "all",
                "scenarios": reports,
                "seconds": elapsed.as_secs_f64(),
            }),
        }
    }
}
