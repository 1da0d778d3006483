//! What goes out to be measured for gates, and what comes back. The shell connects, asks and judges one
//! answer; counting and consequences are the planner's.

use std::sync::Arc;

use jiff::Timestamp;
use wardring_api::{Gate, GatePhase, GateResult, GateStatus, StageCounts};

use crate::{RolloutRef, SliceView};

/// One measurement of one gate. The shell keeps the newest of each; one that is lost is taken again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// Uid of the rollout.
    pub rollout_uid: String,
    /// Name of the stage.
    pub stage: String,
    /// Name of the gate.
    pub gate: String,
    /// `status.definition` of the order it answers: one of a gate that was edited since does not count.
    pub definition: String,
    /// When it began.
    pub at: Timestamp,
    /// The outcome, as [`crate::condition::judge`] found it, or Error.
    pub result: GateResult,
    /// What was asked.
    pub query: Option<String>,
    /// What was answered, in at most 128 bytes.
    pub value: Option<String>,
    /// Why it is what it is, in at most 256 bytes; empty where the value says it all.
    pub message: String,
}

/// A gate that is active now and is measured outside.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasureOrder {
    /// The rollout.
    pub rollout: RolloutRef,
    /// Name of the stage.
    pub stage: String,
    /// Phase of the gate.
    pub phase: GatePhase,
    /// The gate.
    pub gate: Gate,
    /// When to measure; now, if that has passed.
    pub due: Timestamp,
    /// When the stage's devices were allowed to start, or were frozen if they are not yet.
    pub stage_began: Timestamp,
    /// Where the gate stands, with the digest of what it says and the beginning of its phase.
    pub status: GateStatus,
    /// The stage's devices.
    pub population: Population,
}

/// The frozen devices of a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Population {
    /// Their record, in order.
    pub slices: Arc<Vec<Arc<SliceView>>>,
    /// Their counters.
    pub counts: StageCounts,
}

impl Population {
    /// Names of the devices, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let lines = self.slices.iter().flat_map(|slice| &slice.lines);
        lines.map(|line| line.device.as_str())
    }
}
