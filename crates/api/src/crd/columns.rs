//! What `kubectl get` shows.

use serde_json::{Value, json};

enum Show {
    Always,
    Wide,
}
use Show::{Always, Wide};

type Column = (&'static str, &'static str, &'static str, Show);

/// Columns of a kind, as name, type, path and priority.
fn table(kind: &str) -> Vec<Column> {
    match kind {
        "PatchRollout" => vec![
            ("Phase", "string", ".status.phase", Always),
            ("Stage", "string", ".status.currentStage", Always),
            ("Done", "string", ".status.progress", Always),
            ("Message", "string", ".status.message", Always),
        ],
        "PatchRolloutSlice" => vec![
            ("Rollout", "string", ".spec.rollout", Always),
            ("Stage", "string", ".spec.stage", Always),
            ("Index", "integer", ".spec.index", Always),
            ("Of", "integer", ".spec.of", Always),
        ],
        "PatchJob" => vec![
            ("Rollout", "string", ".spec.rollout", Always),
            ("Stage", "string", ".spec.stage", Always),
            ("Action", "string", ".spec.action", Always),
            ("State", "string", ".status.state", Always),
            ("Attempt", "integer", ".spec.attempt", Always),
            ("Start-By", "string", ".spec.startBy", Wide),
            ("Message", "string", ".status.message", Wide),
        ],
        "PatchLedger" => vec![
            ("Sequence", "integer", ".status.sequence", Always),
            ("Holder", "string", ".status.holder", Always),
            ("Batch", "string", ".status.batch.slice", Wide),
        ],
        "Device" => vec![
            ("Online", "string", ".status.conditions[?(@.type==\"Online\")].status", Always),
            ("Reboot", "string", ".status.conditions[?(@.type==\"PendingReboot\")].status", Always),
            ("Missing", "integer", ".status.updates.missing", Always),
            ("Failed", "integer", ".status.updates.failed", Always),
            ("Build", "string", ".status.os.build", Always),
            ("Product", "string", ".status.os.product", Wide),
            ("Mode", "string", ".spec.mode", Wide),
            ("Agent", "string", ".status.agentVersion", Wide),
        ],
        "DeviceGroup" => vec![
            ("Devices", "integer", ".status.devices", Always),
            ("Unavailable", "integer", ".status.unavailable", Always),
            ("Max-Unavailable", "string", ".spec.maxUnavailable", Always),
            ("Reboots", "string", ".status.reboots", Always),
            ("Authority", "string", ".spec.patchAuthority", Wide),
            ("Rollback", "string", ".spec.rollback", Wide),
        ],
        "Update" => vec![
            ("KB", "string", ".spec.kb", Always),
            ("Product", "string", ".spec.product", Always),
            ("Kind", "string", ".spec.kind", Always),
            ("Release", "string", ".spec.release", Always),
            ("Build", "string", ".spec.targetBuild", Always),
            ("Title", "string", ".spec.title", Wide),
        ],
        "UpdateHold" => vec![
            ("KBs", "string", ".spec.kbs", Always),
            ("Rollout", "string", ".spec.rollout", Always),
            ("Reason", "string", ".spec.reason", Always),
        ],
        "PatchRollback" => vec![
            ("Rollout", "string", ".spec.rollout", Always),
            ("Phase", "string", ".status.phase", Always),
            ("Done", "string", ".status.progress", Always),
            ("Message", "string", ".status.message", Always),
            ("Reason", "string", ".spec.reason", Wide),
        ],
        "Notifier" => vec![
            ("Ready", "string", ".status.conditions[?(@.type==\"Ready\")].status", Always),
            ("Message", "string", ".status.conditions[?(@.type==\"Ready\")].message", Always),
        ],
        "MaintenanceWindow" => vec![
            ("Type", "string", ".spec.type", Always),
            ("Open", "boolean", ".status.open", Always),
            ("Opens", "string", ".status.nextOpen", Always),
            ("Closes", "string", ".status.nextClose", Always),
            ("Zone", "string", ".spec.timeZone", Wide),
            ("Reason", "string", ".spec.reason", Wide),
        ],
        "EmergencyStop" => vec![
            ("KBs", "string", ".spec.kbs", Always),
            ("Held", "integer", ".status.held", Always),
            ("Mid-Flight", "integer", ".status.midFlight", Always),
            ("Reason", "string", ".spec.reason", Always),
            ("Rollbacks", "string", ".spec.rollbacks", Wide),
        ],
        "PatchApproval" => vec![
            ("Rollout", "string", ".spec.rollout", Always),
            ("Subject", "string", ".spec.subject.type", Always),
            ("Stage", "string", ".spec.subject.stageGate.stage", Always),
            ("Gate", "string", ".spec.subject.stageGate.gate", Always),
            ("Phase", "string", ".status.phase", Always),
            ("By", "string", ".spec.approver", Always),
            ("Expires", "string", ".spec.expiresAt", Wide),
            ("Message", "string", ".status.message", Wide),
        ],
        "GateProvider" => vec![
            ("Type", "string", ".spec.type", Always),
            ("Ready", "string", ".status.conditions[?(@.type==\"Ready\")].status", Always),
            ("URL", "string", ".spec.url", Wide),
        ],
        // Not of type date: kubectl shows an instant that lies ahead as `<invalid>`.
        "EnrollmentToken" => vec![
            ("Uses", "integer", ".status.uses", Always),
            ("Max", "integer", ".spec.maxUses", Always),
            ("Expires", "string", ".spec.expiresAt", Always),
            ("Mode", "string", ".spec.mode", Wide),
        ],
        "EnrollmentRequest" => vec![
            ("Device", "string", ".spec.device", Always),
            ("Kind", "string", ".spec.kind", Always),
            ("Token", "string", ".spec.token", Always),
            ("Answered", "date", ".status.answeredAt", Always),
            ("Refused", "string", ".status.refused.reason", Always),
        ],
        _ => vec![],
    }
}

/// The printer columns of a kind; every kind ends with its age.
pub(super) fn columns(kind: &str) -> Value {
    let mut columns = table(kind);
    columns.push(("Age", "date", ".metadata.creationTimestamp", Always));
    columns
        .into_iter()
        .map(|(name, of_type, path, show)| {
            let priority = match show {
                Always => 0,
                Wide => 1,
            };
            json!({ "name": name, "type": of_type, "jsonPath": path, "priority": priority })
        })
        .collect()
}
