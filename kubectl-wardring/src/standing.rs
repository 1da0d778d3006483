//! How a rollout stands, as far as it decides what a verb may confirm.

use std::fmt;

use kube::ResourceExt;
use wardring_api::{GateState, PatchRollout, RolloutPhase, names::RETRY_ANNOTATION};

/// What is certain about a rollout. A status that is missing or older than the spec makes nothing certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may move.
    Open,
    /// A person's suspension is latched, and the spec still asks for it.
    Suspended,
    /// Every stage is done, and nobody has asked for more.
    Completed,
    /// A person ended it.
    Aborted,
}

impl Standing {
    /// Reads it off the object.
    pub fn of(rollout: &PatchRollout) -> Standing {
        let Some(status) = &rollout.status else { return Standing::Open };
        if status.aborted.is_some() {
            Standing::Aborted
        } else if status.phase == Some(RolloutPhase::Completed) && is_current(rollout) {
            Standing::Completed
        } else if status.suspended.is_some() && rollout.spec.suspend == Some(true) {
            Standing::Suspended
        } else {
            Standing::Open
        }
    }

    /// Whether no device will get a permit of it any more.
    pub fn is_over(self) -> bool {
        matches!(self, Standing::Completed | Standing::Aborted)
    }

    /// Whether a suspension holds, is asked for, or cannot be ruled out.
    pub fn may_be_suspended(rollout: &PatchRollout) -> bool {
        let latched = rollout.status.as_ref().is_some_and(|status| status.suspended.is_some());
        latched || rollout.spec.suspend == Some(true) || !is_current(rollout)
    }

    /// Whether there is something that a retry could begin anew, or it cannot be ruled out.
    pub fn may_have_failed(rollout: &PatchRollout) -> bool {
        let Some(status) = &rollout.status else { return true };
        let stages = status.stages.iter().map(|stage| &stage.counts);
        let failed: u32 = stages
            .map(|counts| {
                // Among those that are not applicable are those that were not offered the update.
                counts.failed
                    + counts.unreachable
                    + counts.rolled_back
                    + counts.rollback_failed
                    + counts.deferred
                    + counts.not_applicable
            })
            .sum();
        let gates = status.stages.iter().flat_map(|stage| &stage.gates);
        let is_held = gates.into_iter().any(|gate| gate.state == GateState::Failed);
        failed > 0
            || is_held
            || status.halted.is_some()
            || status.rollback.is_some()
            || !is_current(rollout)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Whether the status speaks of the newest spec and of the newest retry.
fn is_current(rollout: &PatchRollout) -> bool {
    let Some(status) = &rollout.status else { return false };
    let retry = rollout.annotations().get(RETRY_ANNOTATION);
    status.observed_generation.is_some()
        && status.observed_generation == rollout.metadata.generation
        && (retry.is_none() || retry == status.last_handled_retry.as_ref())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rollout(spec: Value, status: Value) -> PatchRollout {
        let mut object = json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchRollout",
            "metadata": { "name": "2026-11", "generation": 3 },
            "spec": { "updates": {}, "stages": [{ "name": "test", "group": "test" }] },
            "status": status,
        });
        if let (Some(fields), Value::Object(more)) = (object["spec"].as_object_mut(), spec) {
            fields.extend(more);
        }
        serde_json::from_value(object).unwrap()
    }

    fn latch() -> Value {
        json!({ "reason": "AbortedByPerson", "message": "x", "at": "2026-11-21T02:05:00Z" })
    }

    #[test]
    fn only_a_current_status_says_that_a_rollout_is_over() {
        let completed = json!({ "phase": "Completed", "observedGeneration": 3 });
        let stale = json!({ "phase": "Completed", "observedGeneration": 2 });
        let mut retried = rollout(json!({}), completed.clone());
        retried.annotations_mut().insert(RETRY_ANNOTATION.to_owned(), "now".to_owned());

        assert_eq!(Standing::of(&rollout(json!({}), completed)), Standing::Completed);
        assert_eq!(Standing::of(&rollout(json!({}), stale)), Standing::Open);
        assert_eq!(Standing::of(&retried), Standing::Open);
        assert_eq!(Standing::of(&rollout(json!({}), Value::Null)), Standing::Open);
        let asked = json!({ "abort": { "reason": "x" } });
        let running = json!({ "phase": "Progressing", "observedGeneration": 3 });
        assert_eq!(Standing::of(&rollout(asked, running)), Standing::Open);
        let aborted = json!({ "phase": "Aborted", "aborted": latch() });
        assert_eq!(Standing::of(&rollout(json!({}), aborted)), Standing::Aborted);
    }

    #[test]
    fn a_suspension_that_is_being_taken_back_is_asked_for_again() {
        let status = json!({ "phase": "Suspended", "observedGeneration": 3, "suspended": latch() });
        let standing =
            |suspend| Standing::of(&rollout(json!({ "suspend": suspend }), status.clone()));

        assert_eq!(standing(true), Standing::Suspended);
        assert_eq!(standing(false), Standing::Open);
        let running = json!({ "phase": "Progressing", "observedGeneration": 3 });
        assert!(Standing::may_be_suspended(&rollout(json!({}), status)));
        assert!(Standing::may_be_suspended(&rollout(json!({}), Value::Null)));
        assert!(!Standing::may_be_suspended(&rollout(json!({}), running)));
    }

    #[test]
    fn a_retry_is_refused_only_if_certainly_nothing_failed_or_stopped() {
        let status = |field: &str, count: u32| {
            json!({
                "phase": "Progressing", "observedGeneration": 3,
                "stages": [{ "name": "test", "state": "Open", "counts": { field: count } }],
            })
        };
        let may = |status| Standing::may_have_failed(&rollout(json!({}), status));

        assert!(!may(status("succeeded", 4)));
        for field in
            ["failed", "unreachable", "rolledBack", "rollbackFailed", "deferred", "notApplicable"]
        {
            assert!(may(status(field, 1)), "{field}");
        }
        let mut halted = status("succeeded", 4);
        halted["halted"] = latch();
        assert!(may(halted));
        assert!(may(Value::Null));
    }

    #[test]
    fn a_gate_that_failed_can_be_answered_by_a_retry() {
        let gate = |state: &str| {
            json!({ "phase": "Progressing", "observedGeneration": 3, "stages": [{
                "name": "test", "state": "Gated", "gates": [{
                    "name": "board", "phase": "Before", "state": state, "definition": "d",
                    "since": "2026-11-21T02:05:00Z", "startedAt": "2026-11-21T02:05:00Z",
                }],
            }] })
        };
        assert!(Standing::may_have_failed(&rollout(json!({}), gate("Failed"))));
        assert!(!Standing::may_have_failed(&rollout(json!({}), gate("Waiting"))));
    }
}
