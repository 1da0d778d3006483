//! Holds the status that the model keeps against the one that is really stored: what a status tells
//! people must decide nothing.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use stateright::Model;
use wardring_api::PatchRolloutStatus;
use wardring_planner::{Action, Plan, plan};

use super::{
    Tenant,
    cluster::{STANDING, meaning},
    state::{Leader, State},
};
use crate::random::Random;

impl Tenant {
    /// Walks once, and plans at every step with the status as it would really be stored, counters and
    /// sentences and all: what is written must not differ.
    ///
    /// # Panics
    /// Where it does.
    pub fn compare_statuses(&self, seed: u64) {
        let mut random = Random::new(seed);
        let mut state = self.init_states().remove(0);
        let mut told = None;
        loop {
            for leader in &state.leaders {
                told = self.compare(&state, leader, told);
            }
            let mut steps = Vec::new();
            self.actions(&state, &mut steps);
            if steps.is_empty() {
                return;
            }
            let step = random.pick(&steps);
            let Some(next) = self.next_state(&state, step) else { return };
            state = next;
        }
    }

    /// Plans with the stored status, and with what an earlier plan told people in its place. Answers
    /// what this plan tells.
    fn compare(
        &self,
        state: &State,
        leader: &Leader,
        told: Option<PatchRolloutStatus>,
    ) -> Option<PatchRolloutStatus> {
        let mut snapshot = self.snapshot(state, leader);
        let without = plan(&snapshot);
        if let Some(told) = told
            && let Some(stored) = &mut Arc::make_mut(&mut snapshot.rollouts[0]).status
        {
            *stored = with_meaning(told, stored);
        }
        let with = plan(&snapshot);
        assert_eq!(decided(&with), decided(&without), "a status for people decides something");
        without.rollouts.first().map(|rollout| (*rollout.status).clone())
    }
}

/// What was told to people, around what decides.
fn with_meaning(told: PatchRolloutStatus, stored: &PatchRolloutStatus) -> PatchRolloutStatus {
    let mut mixed = PatchRolloutStatus {
        observed_generation: told.observed_generation,
        phase: told.phase,
        message: told.message,
        conditions: stored.conditions.clone(),
        current_stage: told.current_stage,
        progress: told.progress,
        next_evaluation: told.next_evaluation,
        waiting_for: told.waiting_for,
        ..stored.clone()
    };
    let is_for_people = |condition: &Condition| !STANDING.contains(&condition.type_.as_str());
    mixed.conditions.extend(told.conditions.into_iter().filter(is_for_people));
    if let (Some(halted), Some(told)) = (&mut mixed.halted, told.halted) {
        halted.message = told.message;
    }
    for (stage, told) in mixed.stages.iter_mut().zip(told.stages) {
        (stage.counts, stage.failed_sample) = (told.counts, told.failed_sample);
        for (gate, told) in stage.gates.iter_mut().zip(told.gates) {
            match (&mut gate.approval, told.approval) {
                (Some(asked), Some(told)) => asked.because = told.because,
                _ => gate.since = told.since,
            }
            (gate.next, gate.result) = (told.next, told.result);
            (gate.query, gate.value, gate.threshold) = (told.query, told.value, told.threshold);
            gate.message = told.message;
        }
    }
    mixed
}

/// What a plan writes that decides something, and the part of its status that does.
fn decided(plan: &Plan) -> (Vec<&Action>, Option<PatchRolloutStatus>) {
    let for_people = |action: &&Action| {
        matches!(
            action,
            Action::WriteStatus { .. } | Action::WriteApprovalStatus { .. } | Action::Emit(_)
        )
    };
    let actions = plan.actions.iter().filter(|action| !for_people(action)).collect();
    (actions, plan.rollouts.first().map(|all| meaning((*all.status).clone())))
}
