//! Why a device stands where it stands: itself, its job, and its line in the record of every run.

use kube::ResourceExt;
use wardring_api::{
    Device, DeviceMode, LineState, PatchJob, PatchRolloutSlice, SliceLine, conditions,
};

/// The sentences, most important first.
pub fn sentences(
    device: &Device,
    job: Option<&PatchJob>,
    slices: &[PatchRolloutSlice],
) -> Vec<String> {
    let name = device.name_any();
    let mut lines = itself(device, &name);
    match job {
        Some(job) => lines.extend(of_job(job, &name)),
        None => lines.push(format!("{name} has no job now.")),
    }
    let mut found = false;
    for (slice, line) in lines_of(&name, slices) {
        found = true;
        lines.push(of_line(slice, &line, &name));
    }
    if !found {
        lines.push(format!("No rollout has {name} in a stage that was opened."));
    }
    lines
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
        lines.push(format!("  Services that do not run: {}.", status.unhealthy.join(", ")));
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

fn lines_of<'a>(
    name: &str,
    slices: &'a [PatchRolloutSlice],
) -> Vec<(&'a PatchRolloutSlice, SliceLine)> {
    let mut found = Vec::new();
    for slice in slices {
        let lines = slice.spec.lines.iter().filter_map(|line| line.parse::<SliceLine>().ok());
        found.extend(lines.filter(|line| line.device == name).map(|line| (slice, line)));
    }
    found
}

fn of_line(slice: &PatchRolloutSlice, line: &SliceLine, name: &str) -> String {
    let place = format!("rollout {}, stage {}", slice.spec.rollout, slice.spec.stage);
    let since = line.at.map(|at| format!(" since {at}")).unwrap_or_default();
    let state = match line.state {
        LineState::Pending => format!("{name} waits{since}"),
        LineState::Granted => format!("{name} has the word to go{since}"),
        state => format!("{name} is {}{since}", state.as_str()),
    };
    let detail = line.reason.map(|reason| format!(" ({}: {})", reason.as_str(), reason.meaning()));
    let before = line.was.map(|was| format!(", after it was {}", was.as_str()));
    let attempt =
        if line.attempt > 0 { format!(", attempt {}", line.attempt) } else { String::new() };
    format!(
        "In {place}{attempt}: {state}{}{}.",
        before.unwrap_or_default(),
        detail.unwrap_or_default()
    )
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

        assert_eq!(
            sentences(&device, None, &[slice]),
            [
                "srv-01 runs Windows Server 2022 20348.2762 and is in contact.",
                "A person holds it until spec.hold is removed: inventory",
                "srv-01 has no job now.",
                "In rollout 2026-11, stage test, attempt 2: srv-01 is RolledBack since 2026-11-21T02:14:09Z, after it was Failed (ServiceDown: A watched service does not run after the update.).",
            ]
        );
    }
}
