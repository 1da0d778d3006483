//! Why a device stands where it stands: itself, its job, and its line in the record of every run. What
//! keeps it from moving is said in the planner's own sentences.

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use wardring_api::{
    Device, DeviceGroup, DeviceMode, EmergencyStop, MaintenanceWindow, PatchJob, PatchRollout,
    PatchRolloutSlice, SliceLine, UpdateHold, conditions,
};
use wardring_planner::{
    DeviceRow, DeviceStory, GroupView, HoldView, JobOutcome, JobView, StopView, WindowView,
    explain_device,
};

/// Everything that the cluster knows about the case of one device.
pub struct Case {
    /// The device.
    pub device: Device,
    /// The job that carries its name.
    pub job: Option<PatchJob>,
    /// Slices of the namespace.
    pub slices: Vec<PatchRolloutSlice>,
    /// Rollouts of the namespace.
    pub rollouts: Vec<PatchRollout>,
    /// Groups of the namespace.
    pub groups: Vec<DeviceGroup>,
    /// Holds of the namespace.
    pub holds: Vec<UpdateHold>,
    /// MaintenanceWindows of the namespace.
    pub windows: Vec<MaintenanceWindow>,
    /// EmergencyStops of the cluster.
    pub stops: Vec<EmergencyStop>,
}

/// The sentences, most important first.
pub fn sentences(case: &Case, now: Timestamp) -> Vec<String> {
    let name = case.device.name_any();
    let mut lines = itself(&case.device, &name);
    match &case.job {
        Some(job) => lines.extend(of_job(job, &name)),
        None => lines.push(format!("{name} has no job now.")),
    }
    let stands = in_rollouts(case, &name, now);
    if stands.is_empty() {
        lines.push(format!("No rollout has {name} in a stage that was opened."));
    }
    lines.extend(stands);
    lines
}

/// A sentence for every rollout that has a line for the device.
fn in_rollouts(case: &Case, name: &str, now: Timestamp) -> Vec<String> {
    let job = case.job.as_ref().map(|job| JobView::new(job, JobOutcome::None));
    let row = DeviceRow::new(&case.device);
    let groups: Vec<_> = case.groups.iter().map(GroupView::new).collect();
    let holds: Vec<_> = case.holds.iter().map(hold_view).collect();
    let windows: Vec<_> = case.windows.iter().map(|all| Arc::new(WindowView::new(all))).collect();
    let stops: Vec<_> = case.stops.iter().map(|stop| Arc::new(StopView::new(stop))).collect();
    let mut sentences = Vec::new();
    for slice in &case.slices {
        let lines = slice.spec.lines.iter().filter_map(|line| line.parse::<SliceLine>().ok());
        for line in lines.filter(|line| line.device == name) {
            let spec = &slice.spec;
            let place = format!("In rollout {}, stage {}", spec.rollout, spec.stage);
            let same = |rollout: &&PatchRollout| rollout.uid().as_ref() == Some(&spec.rollout_uid);
            let Some(rollout) = case.rollouts.iter().find(same) else {
                sentences.push(format!("{place} (deleted since): {}.", line.state.as_str()));
                continue;
            };
            let story = DeviceStory {
                now,
                rollout,
                stage: &spec.stage,
                line: &line,
                job: job.as_ref(),
                device: Some(&row),
                groups: &groups,
                holds: &holds,
                windows: &windows,
                stops: &stops,
            };
            let explanation = explain_device(&story);
            sentences.push(format!("{place}: {}", explanation.message));
        }
    }
    sentences
}

fn hold_view(hold: &UpdateHold) -> HoldView {
    let created_at = hold.metadata.creation_timestamp.as_ref().map(|time| time.0);
    HoldView { name: hold.name_any(), created_at, spec: hold.spec.clone() }
}

fn itself(device: &Device, name: &str) -> Vec<String> {
    let status = device.status.clone().unwrap_or_default();
    let windows = match &status.os {
        Some(os) => format!("runs {} {}", os.product, os.build),
        None => "has not reported what it runs".to_owned(),
    };
    let online = status.conditions.iter().find(|condition| condition.type_ == conditions::ONLINE);
    let contact = match online.map(|condition| condition.status.as_str()) {
        Some("True") => "is in contact",
        Some("False") => "is not in contact",
        _ => "has no known contact",
    };
    let mut lines = vec![format!("{name} {windows} and {contact}.")];
    if device.spec.mode == DeviceMode::Observe {
        lines.push(format!(
            "{name} is in mode Observe, so it is never patched; `kubectl patch wdev {name} --type=merge -p '{{\"spec\":{{\"mode\":\"Manage\"}}}}'` changes that."
        ));
    }
    if device.spec.enrolment_id.is_none() {
        lines.push(format!("{name} is not enrolled; `kubectl wardring enroll` makes a token."));
    }
    if let Some(hold) = &device.spec.hold {
        let until = match hold.until {
            Some(until) => format!("until {until}"),
            None => "until spec.hold is removed".to_owned(),
        };
        lines.push(format!("A person holds it {until}: {}", hold.reason));
    }
    let concerns = [conditions::QUARANTINED, conditions::PENDING_REBOOT];
    let worth_telling = status.conditions.iter().filter(|condition| {
        condition.status == "True" && concerns.contains(&condition.type_.as_str())
            || condition.status == "False" && condition.type_ == conditions::HEALTHY
    });
    lines.extend(worth_telling.map(|condition| {
        format!("{} is {}: {}", condition.type_, condition.status, condition.message)
    }));
    lines
}

fn of_job(job: &PatchJob, name: &str) -> Vec<String> {
    let spec = &job.spec;
    let status = job.status.clone().unwrap_or_default();
    let state = match status.state.filter(|_| status.attempt == Some(spec.attempt)) {
        Some(state) => format!("{state:?}"),
        None => "not taken up yet".to_owned(),
    };
    let mut lines = vec![format!(
        "{name} has a job of rollout {}, stage {}: {:?} of {}, attempt {}, {state}.",
        spec.rollout,
        spec.stage,
        spec.action,
        spec.kbs.join(", "),
        spec.attempt,
    )];
    if let Some(message) = &status.message {
        lines.push(format!("  It says: {message}"));
    }
    let permits = status.permitted.iter().filter(|permit| permit.attempt == spec.attempt);
    lines
        .extend(permits.map(|permit| {
            format!("  It was permitted to {} at {}.", verb(permit.step), permit.at)
        }));
    let started = status.permitted.iter().any(|permit| permit.attempt == spec.attempt);
    if !started {
        lines.push(format!(
            "  It may begin until {} and must be done by {}.",
            spec.start_by, spec.finish_by
        ));
    } else if status.outcome.is_none() {
        lines.push(format!("  It must be done by {}.", spec.finish_by));
    }
    if !status.unhealthy.is_empty() {
        lines.push(format!("  Not healthy: {}.", status.unhealthy.join(", ")));
    }
    if !status.changes.is_empty() {
        lines.push(format!("  Different from before: {}.", status.changes.join("; ")));
    }
    lines
}

fn verb(step: wardring_api::PermitStep) -> &'static str {
    match step {
        wardring_api::PermitStep::Install => "install",
        wardring_api::PermitStep::Reboot => "restart",
        wardring_api::PermitStep::Uninstall => "uninstall",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_device_is_explained_by_itself_its_job_and_its_line() {
        let device = serde_json::from_value(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "Device",
            "metadata": { "name": "srv-01" },
            "spec": { "mode": "Manage", "enrolmentId": "4f2a", "hold": { "reason": "inventory" } },
            "status": {
                "os": { "product": "Windows Server 2022", "build": "20348.2762" },
                "conditions": [{
                    "type": "Online", "status": "True", "reason": "InProgress", "message": "",
                    "lastTransitionTime": "2026-11-21T02:00:00Z",
                }],
            },
        }))
        .unwrap();
        let slice = serde_json::from_value(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchRolloutSlice",
            "metadata": { "name": "s" },
            "spec": {
                "rollout": "2026-11", "rolloutUid": "u", "stage": "test", "index": 0, "of": 1,
                "freezeId": "f",
                "lines": ["srv-00 0 Pending", "srv-01 2 RolledBack 2026-11-21T02:14:09Z was=Failed reason=ServiceDown"],
            },
        }))
        .unwrap();

        let rollout = serde_json::from_value(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchRollout",
            "metadata": { "name": "2026-11", "uid": "u" },
            "spec": { "updates": {}, "stages": [{ "name": "test", "group": "test" }] },
        }))
        .unwrap();
        let case = Case {
            device,
            job: None,
            slices: vec![slice],
            rollouts: vec![rollout],
            groups: Vec::new(),
            holds: Vec::new(),
            windows: Vec::new(),
            stops: Vec::new(),
        };

        assert_eq!(
            sentences(&case, "2026-11-21T03:00:00Z".parse().unwrap()),
            [
                "srv-01 runs Windows Server 2022 20348.2762 and is in contact.",
                "A person holds it until spec.hold is removed: inventory",
                "srv-01 has no job now.",
                "In rollout 2026-11, stage test: srv-01 is RolledBack since 2026-11-21T02:14:09Z: a watched service does not run after the update. It was Failed before.",
            ]
        );
    }
}
