//! Why a rollout stands where it stands.

use kube::ResourceExt;
use wardring_api::{PatchRollout, StageState, conditions, reasons::Reason};

/// The sentences, most important first.
pub fn sentences(rollout: &PatchRollout) -> Vec<String> {
    let name = rollout.name_any();
    let Some(status) = &rollout.status else {
        return vec![format!(
            "No controller has planned {name} yet; see whether wardring-controller runs and is ready."
        )];
    };
    let phase = status.phase.map_or_else(|| "Unplanned".to_owned(), |phase| format!("{phase:?}"));
    let stage = status.current_stage.as_ref().map(|stage| format!(", at stage {stage}"));
    let mut lines = vec![format!("Rollout {name} is {phase}{}.", stage.unwrap_or_default())];
    if status.observed_generation < rollout.metadata.generation {
        lines.push(
            "Its newest edit is not planned yet, so what follows is about the one before."
                .to_owned(),
        );
    }
    let latches = [&status.halted, &status.suspended, &status.aborted];
    for latch in latches.into_iter().flatten() {
        lines.push(format!("{} (since {})", full_stop(&latch.message), latch.at));
        lines.extend(meaning(&latch.reason));
    }
    let stalled = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == conditions::STALLED && condition.status == "True");
    if let (Some(stalled), None) = (stalled, &status.halted) {
        lines.push(full_stop(&stalled.message));
        lines.extend(meaning(&stalled.reason));
    }
    if !status.resolved_updates.is_empty() {
        lines.push("It brings:".to_owned());
        lines.extend(status.resolved_updates.iter().map(|update| {
            let build = update.target_build.as_ref().map(|build| format!(" (to {build})"));
            format!("  {} for {}{}", update.kb, update.product, build.unwrap_or_default())
        }));
    }
    if !status.uncovered_products.is_empty() {
        let products = status.uncovered_products.join(", ");
        lines.push(format!(
            "No selected update is for {products}; such devices are left as they are."
        ));
    }
    for stage in &status.stages {
        let counts = &stage.counts;
        let sentence = match stage.state {
            StageState::Pending => {
                lines.extend(wardring_planner::canary_gaps(stage));
                continue;
            }
            StageState::Gated => "waits for its gates",
            StageState::Open => "is open",
            StageState::Soaking => "is proven and being watched",
            StageState::Tail => "is proven, and has latecomers",
            StageState::Completed => "is done",
        };
        lines.push(format!(
            "Stage {} {sentence}: {} of {} devices proven, {} had it already, {} moving, {} waiting, {} failed, {} unreachable.",
            stage.name,
            counts.succeeded,
            counts.total,
            counts.already_installed,
            counts.in_progress,
            counts.pending,
            counts.failed + counts.rollback_failed,
            counts.unreachable,
        ));
        let waits = |told: &&String| status.waiting_for.iter().any(|all| all.message == **told);
        let gates = stage.gates.iter().filter_map(|gate| gate.message.as_ref());
        lines.extend(gates.filter(|told| !waits(told)).map(|told| format!("  {told}")));
        lines.extend(wardring_planner::canary_gaps(stage));
        lines.extend(stage.failed_sample.iter().map(|sample| format!("  ✗ {sample}")));
    }
    // What stopped it stands above already.
    let told = |message: &str| {
        latches.iter().any(|latch| latch.as_ref().is_some_and(|latch| latch.message == message))
    };
    for waiting in status.waiting_for.iter().filter(|waiting| !told(&waiting.message)) {
        let until = waiting.until.map(|until| format!(" (until {until} at the latest)"));
        lines.push(format!(
            "It waits: {}{}",
            full_stop(&waiting.message),
            until.unwrap_or_default()
        ));
        lines.extend(meaning(&waiting.reason));
    }
    if let Some(next) = status.next_evaluation {
        lines.push(format!("Without an event, the next look is at {next}."));
    }
    lines
}

/// What the reason word means, for those who do not know it by heart.
fn meaning(reason: &str) -> Option<String> {
    Reason::parse(reason).map(|known| format!("  {reason}: {}", known.meaning()))
}

fn full_stop(sentence: &str) -> String {
    let text = sentence.trim_end();
    if text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_halt_is_explained_with_its_cause_and_the_meaning_of_its_reason() {
        let rollout = serde_json::from_value(json!({
            "apiVersion": "wardring.dev/v1alpha1",
            "kind": "PatchRollout",
            "metadata": { "name": "2026-11", "generation": 1 },
            "spec": { "updates": {}, "stages": [{ "name": "test", "group": "test" }] },
            "status": {
                "observedGeneration": 1,
                "phase": "Halted",
                "currentStage": "test",
                "halted": {
                    "reason": "FailureBudgetSpent", "message": "2 devices failed; 1 may",
                    "at": "2026-11-21T02:05:00Z",
                },
                "stages": [{
                    "name": "test", "state": "Open",
                    "counts": {
                        "total": 6, "failed": 2, "succeeded": 1, "alreadyInstalled": 2, "pending": 1,
                    },
                    "failedSample": ["srv-01: Failed — ServiceDown"],
                }],
            },
        }))
        .unwrap();

        assert_eq!(
            sentences(&rollout),
            [
                "Rollout 2026-11 is Halted, at stage test.",
                "2 devices failed; 1 may. (since 2026-11-21T02:05:00Z)",
                "  FailureBudgetSpent: More devices failed than `maxFailures` allows.",
                "Stage test is open: 1 of 6 devices proven, 2 had it already, 0 moving, 1 waiting, 2 failed, 0 unreachable.",
                "  ✗ srv-01: Failed — ServiceDown",
            ]
        );
    }
}
