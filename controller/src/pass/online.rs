//! Device.status condition Online: the one thing that the controller writes on devices. A hint for
//! people and for eligibility, never proof, and never a heartbeat: it is written when it flips.

use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use wardring_api::{Device, JobState, PermitStep, conditions, names, reasons::Reason};
use wardring_planner::{DeviceRow, JobView};

use super::Desk;
use crate::presence::Contact;

/// A restart that we permitted explains silence for this long; after that the device is offline for
/// people, too (the job's own clocks run regardless).
const EXPECTED_REBOOT: SignedDuration = SignedDuration::from_mins(30);

/// Flips at once; more would compete with grants and outcomes for the API server.
const SIDE_BY_SIDE: usize = 4;

/// Flips per pass: a whole site that comes back must not hold up a halt.
const PER_PASS: usize = 200;

/// Writes Online where it flipped.
pub async fn mark(desk: &Desk, namespace: &str) {
    let now = Timestamp::now();
    let flips = desk.cache.read(namespace, |space| {
        let Some(space) = space else { return Vec::new() };
        let job = |name: &str| space.jobs.get(name).map(|job| job.value.view.clone());
        space
            .devices
            .rows()
            .iter()
            .filter(|row| row.enrolment_id.is_some())
            .filter_map(|row| {
                let contact = desk.presence.contact(namespace, &row.name);
                let online = flip(row, contact, || job(&row.name), now)?;
                Some((row.name.clone(), online))
            })
            .take(PER_PASS)
            .collect()
    });
    let api: Api<Device> = Api::namespaced(desk.client.clone(), namespace);
    stream::iter(flips)
        .for_each_concurrent(SIDE_BY_SIDE, |(name, online)| {
            let api = api.clone();
            async move {
                if let Err(error) = write(&api, &name, online, now).await {
                    tracing::warn!(namespace, device = &*name, %error, "Online was not written");
                }
            }
        })
        .await;
}

/// The value to write, if it is another one than the device's.
fn flip<J: AsRef<JobView>>(
    row: &DeviceRow,
    contact: Contact,
    job: impl FnOnce() -> Option<J>,
    now: Timestamp,
) -> Option<bool> {
    match contact {
        Contact::Unknown => None,
        Contact::Online { .. } => (row.online != Some(true)).then_some(true),
        Contact::Offline { .. } if row.online == Some(false) => None,
        Contact::Offline { .. } => {
            let expected = job().is_some_and(|job| restarts_as_permitted(job.as_ref(), now));
            (!expected).then_some(false)
        }
    }
}

fn restarts_as_permitted(job: &JobView, now: Timestamp) -> bool {
    let restarting = matches!(
        job.state,
        Some(JobState::AwaitingReboot | JobState::Rebooting | JobState::RebootFirst)
    );
    let last = job.permitted.iter().rev().find(|permit| permit.step == PermitStep::Reboot);
    restarting && last.is_some_and(|permit| now.duration_since(permit.at) < EXPECTED_REBOOT)
}

async fn write(
    api: &Api<Device>,
    name: &str,
    online: bool,
    now: Timestamp,
) -> Result<(), kube::Error> {
    let (reason, message) = if online {
        (Reason::AgentInContact, "an agent is in contact")
    } else {
        (Reason::Offline, "no agent has been in contact")
    };
    let mut list = Vec::new();
    conditions::set(&mut list, conditions::ONLINE, online.into(), reason, message, None, now);
    // Server-side apply, so that the list merges by type: the other conditions are the gateways'.
    let patch = json!({
        "apiVersion": "wardring.dev/v1alpha1",
        "kind": "Device",
        "metadata": {"name": name},
        "status": {"conditions": list},
    });
    let params = PatchParams::apply(names::CONTROLLER_MANAGER).force();
    api.patch_status(name, &params, &Patch::Apply(&patch)).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const NOBODY: fn() -> Option<Arc<JobView>> = || None;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn nothing_is_written_when_nothing_flipped_or_nothing_is_known() {
        let now = at("2026-11-21T02:00:00Z");
        let online = DeviceRow::ready("ws-1", "Windows 11");
        assert_eq!(flip(&online, Contact::Unknown, NOBODY, now), None);
        assert_eq!(flip(&online, Contact::Online { since: now }, NOBODY, now), None);
        let offline = DeviceRow { online: Some(false), ..online };
        assert_eq!(flip(&offline, Contact::Offline { since: now }, NOBODY, now), None);
    }

    #[test]
    fn a_device_that_falls_silent_or_comes_back_flips_once() {
        let now = at("2026-11-21T02:00:00Z");
        let online = DeviceRow::ready("ws-1", "Windows 11");
        assert_eq!(flip(&online, Contact::Offline { since: now }, NOBODY, now), Some(false));
        let offline = DeviceRow { online: Some(false), ..online.clone() };
        assert_eq!(flip(&offline, Contact::Online { since: now }, NOBODY, now), Some(true));
        let new = DeviceRow { online: None, ..online };
        assert_eq!(flip(&new, Contact::Online { since: now }, NOBODY, now), Some(true));
    }
}
