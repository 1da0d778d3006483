//! What is seen of one rollout while time passes.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use wardring_api::{LineState, RolloutPhase, StageState, reasons::Reason};

use crate::{Decision, RolloutDecisions};

/// By stage, a life for each of its frozen devices, in their order.
#[derive(Default)]
pub(super) struct Seen {
    lives: BTreeMap<String, Vec<Life>>,
    /// By stage, when its first device downloads ahead.
    downloads: BTreeMap<String, Timestamp>,
    looked_at: Option<Timestamp>,
    moved_at: Option<Timestamp>,
    shape: Option<(Option<RolloutPhase>, Vec<StageState>)>,
}

/// A device's way through its stage.
#[derive(Clone, Default)]
pub(super) struct Life {
    /// When it was first granted.
    pub starts: Option<Timestamp>,
    /// What it waited for last before that.
    pub waited_for: Option<Reason>,
    /// Its outcome, and since when.
    pub done: Option<(Timestamp, LineState)>,
    holds: Option<Reason>,
    waits: Vec<(Reason, SignedDuration)>,
}

impl Life {
    fn waited(&mut self, time: SignedDuration) {
        let Some(reason) = self.holds.take() else { return };
        match self.waits.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, all)) => *all += time,
            None => self.waits.push((reason, time)),
        }
    }

    /// Takes in what was decided; whether that is a move.
    fn goes(&mut self, decision: Decision, known: Option<Timestamp>, now: Timestamp) -> bool {
        let since = known.unwrap_or(now);
        match decision {
            Decision::Hold(reason) => {
                if self.starts.is_none() {
                    self.waited_for = Some(reason);
                }
                (self.holds, self.done) = (Some(reason), None);
                false
            }
            Decision::Start | Decision::Continue => {
                let moves = self.starts.is_none() || self.done.is_some();
                self.starts.get_or_insert(since);
                self.done = None;
                moves
            }
            Decision::Done(state) if self.done.is_none_or(|(_, before)| before != state) => {
                self.done = Some((since, state));
                true
            }
            Decision::Done(_) => false,
        }
    }
}

impl Seen {
    /// Takes in what was decided at this instant.
    pub fn note(&mut self, decided: &RolloutDecisions, now: Timestamp) {
        let passed =
            self.looked_at.map_or(SignedDuration::ZERO, |before| now.duration_since(before));
        let is_first = self.looked_at.replace(now).is_none();
        let mut moved = is_first;
        for stage in &decided.stages {
            let lives = self.lives.entry(stage.stage.clone()).or_default();
            let lines = stage.slices.iter().flat_map(|slice| &slice.lines);
            lives.resize_with(stage.decisions.len(), Life::default);
            for ((life, line), decision) in lives.iter_mut().zip(lines).zip(&stage.decisions) {
                life.waited(passed);
                // What happened before the look began is told with its own time.
                let known = line.at.filter(|_| is_first);
                moved |= life.goes(*decision, known, now);
            }
        }
        let status = &decided.status;
        for stage in status.stages.iter().filter(|stage| stage.counts.downloading > 0) {
            self.downloads.entry(stage.name.clone()).or_insert(now);
        }
        let shape = (status.phase, status.stages.iter().map(|stage| stage.state).collect());
        if self.shape.as_ref() != Some(&shape) {
            self.shape = Some(shape);
            moved = true;
        }
        if moved {
            self.moved_at = Some(now);
        }
    }

    /// Stages whose devices download ahead, and from when on.
    pub fn downloads(&self) -> impl Iterator<Item = (&str, Timestamp)> {
        self.downloads.iter().map(|(stage, since)| (stage.as_str(), *since))
    }

    /// When something last happened.
    pub fn moved_at(&self) -> Timestamp {
        self.moved_at.unwrap_or(Timestamp::MIN)
    }

    /// The device at this position of a stage.
    pub fn life(&self, stage: &str, position: usize) -> Option<&Life> {
        self.lives.get(stage)?.get(position)
    }

    /// The longest that a device which starts waits for each reason, the longest first.
    pub fn waits(&self, stage: &str) -> Vec<(Reason, SignedDuration)> {
        let mut longest: BTreeMap<Reason, SignedDuration> = BTreeMap::new();
        let lives = self.lives.get(stage).into_iter().flatten();
        for (reason, time) in
            lives.filter(|life| life.starts.is_some()).flat_map(|life| &life.waits)
        {
            let known = longest.entry(*reason).or_default();
            *known = (*known).max(*time);
        }
        let mut waits: Vec<_> = longest.into_iter().filter(|(_, time)| !time.is_zero()).collect();
        waits.sort_by_key(|(reason, time)| (std::cmp::Reverse(*time), *reason));
        waits
    }
}
