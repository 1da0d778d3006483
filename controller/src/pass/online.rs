//! Device.status condition Online: the one thing that the controller writes on devices. A hint for
//! people and for eligibility, never proof, and never a heartbeat: it is written when it flips.

use std::time::Duration;

use futures::{StreamExt, future, stream};
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use wardring_api::{Device, JobState, LineState, PermitStep, conditions, names, reasons::Reason};
use wardring_planner::{DeviceRow, JobView};

use super::Desk;
use crate::{cache::Namespace, presence::Contact};

/// A restart that we permitted explains silence for at most this long; after that the device is
/// offline for people, too (the job's own clocks run regardless).
const EXPECTED_REBOOT: SignedDuration = SignedDuration::from_mins(30);

/// Key of it in the pace of a namespace.
pub const KEY: &str = "online";

/// Devices that no rollout is about may be tens of thousands, and passes follow one another many times a
/// second.
pub const EVERY: Duration = Duration::from_secs(1);

/// A device whose status the API server refuses, say by somebody's policy, is tried again this often.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// Flips at once; more would compete with grants and outcomes for the API server.
const SIDE_BY_SIDE: usize = 4;

/// Flips per pass: a whole site that comes back must not hold up a halt.
const PER_PASS: usize = 200;

/// How far a look at all devices came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// Nothing is left to write.
    All,
    /// The API server did not take all of it.
    Refused,
    /// People want something else, or it was more than one pass is for: the next one goes on.
    More,
}

impl Marked {
    /// When to look again without an event.
    pub fn looks_again_in(self) -> Option<Duration> {
        match self {
            Marked::All => None,
            Marked::Refused => Some(TRY_AGAIN),
            Marked::More => Some(EVERY),
        }
    }
}

/// Writes Online where it flipped.
pub async fn mark(desk: &Desk, namespace: &str) -> Marked {
    let (now, intent) = (Timestamp::now(), desk.intent(namespace));
    let flips: Vec<_> = desk.cache.read(namespace, |space| {
        let Some(space) = space else { return Vec::new() };
        let enrolled = space.devices.rows().iter().filter(|row| row.enrolment_id.is_some());
        let roll = desk.presence.roll(namespace);
        let contacts = enrolled.map(|row| (row, roll.contact(&row.name)));
        let may_flip = contacts.filter(|(row, contact)| flip(row, *contact, || false).is_some());
        let may_flip: Vec<_> = may_flip.collect();
        drop(roll);
        may_flip
            .into_iter()
            .filter_map(|(row, contact)| {
                let online = flip(row, contact, || restarts_as_permitted(space, &row.name, now))?;
                Some((row.name.clone(), online))
            })
            .take(PER_PASS)
            .collect()
    });
    let api: Api<Device> = Api::namespaced(desk.client.clone(), namespace);
    let count = flips.len();
    let goes_on = || desk.in_office() && desk.intent(namespace) == intent;
    let mut writes = stream::iter(flips)
        .take_while(|_| future::ready(goes_on()))
        .map(|(name, online)| {
            let api = api.clone();
            async move {
                let written = write(&api, &name, online, now).await;
                if let Err(error) = &written {
                    tracing::warn!(namespace, device = &*name, %error, "Online was not written");
                }
                written.is_ok()
            }
        })
        .buffer_unordered(SIDE_BY_SIDE);
    let (mut ended, mut refused) = (0, 0);
    while let Some(is_written) = writes.next().await {
        ended += 1;
        refused += usize::from(!is_written);
    }
    match refused {
        _ if ended < count || count == PER_PASS => Marked::More,
        0 => Marked::All,
        _ => Marked::Refused,
    }
}

/// The value to write, if it is another one than the device's.
fn flip(row: &DeviceRow, contact: Contact, restarts: impl FnOnce() -> bool) -> Option<bool> {
    match contact {
        Contact::Unknown => None,
        Contact::Online { .. } => (row.online != Some(true)).then_some(true),
        Contact::Offline { .. } if row.online == Some(false) => None,
        Contact::Offline { .. } => (!restarts()).then_some(false),
    }
}

/// Whether a restart that we permitted explains the device's silence: its line waits for it still, and
/// the stage's `rebootDeadline` has not passed.
fn restarts_as_permitted(space: &Namespace, device: &str, now: Timestamp) -> bool {
    let Some(job) = space.jobs.get(device).map(|job| &*job.value.view) else { return false };
    let rollout = space.rollouts.get(&job.rollout).map(|rollout| &rollout.value.spec);
    let stage = rollout.and_then(|spec| spec.stages.iter().find(|stage| stage.name == job.stage));
    let deadline = stage.and_then(|stage| stage.reboot_deadline).map(|span| span.duration());
    // A line that has its verdict, such as Unreachable, waits for nothing.
    let waits = || {
        let slice = space.slices.get(&job.slice);
        let line =
            slice.and_then(|slice| slice.value.lines.iter().find(|line| line.device == device));
        line.is_none_or(|line| line.state == LineState::Granted)
    };
    is_restarting(job, deadline, now) && waits()
}

fn is_restarting(job: &JobView, deadline: Option<SignedDuration>, now: Timestamp) -> bool {
    let restarting = matches!(
        job.state,
        Some(JobState::AwaitingReboot | JobState::Rebooting | JobState::RebootFirst)
    );
    let limit = deadline.map_or(EXPECTED_REBOOT, |deadline| deadline.min(EXPECTED_REBOOT));
    let last = job.permitted.iter().rev().find(|permit| permit.step == PermitStep::Reboot);
    // As the planner counts: people may be warned for a while between the permit and the restart.
    let since = last.map(|permit| job.updated_at.map_or(permit.at, |heard| heard.max(permit.at)));
    restarting && since.is_some_and(|since| now.duration_since(since) < limit)
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
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        time::Instant,
    };

    use wardring_api::{SliceLine, presence::PresenceBatch};
    use wardring_planner::SliceView;

    use super::{
        super::{Memory, Pass, apply::tests::desk, pass},
        *,
    };
    use crate::{
        cache::{Cache, CachedJob, SlimDevice, Stored},
        events::tests::{api_server, refusal},
    };

    const CLINIC: &str = "clinic";

    const NOBODY: fn() -> bool = || false;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn stored<T>(value: serde_json::Value) -> T
    where
        T: serde::de::DeserializeOwned,
    {
        serde_json::from_value(value).unwrap()
    }

    fn cached<T>(value: T) -> Stored<T> {
        Stored { uid: "u-1".into(), version: 1, value: value.into() }
    }

    /// A namespace in which ws-1 was permitted to restart at two o'clock, and said so.
    fn restarting(state: LineState, deadline: Option<&str>) -> Namespace {
        let job = stored(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchJob",
            "metadata": { "name": "ws-1" },
            "spec": {
                "sealed": { "payload": "", "signature": "", "keyId": "k", "certificate": "" },
                "rollout": "november", "rolloutUid": "u-1", "stage": "test", "slice": "november-1",
                "enrolmentId": "e-1", "attempt": 1, "sequence": 7, "action": "Install",
                "kbs": ["KB5068787"],
                "startBy": "2026-11-21T06:00:00Z", "finishBy": "2026-11-22T02:00:00Z",
            },
            "status": {
                "state": "Rebooting", "attempt": 1, "updatedAt": "2026-11-21T02:00:00Z",
                "permitted": [{
                    "step": "Reboot", "at": "2026-11-21T02:00:00Z", "attempt": 1,
                    "bootId": "b-1", "agentRun": "r-1",
                }],
            },
        }));
        let rollout = stored(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchRollout",
            "metadata": { "name": "november", "uid": "u-1" },
            "spec": {
                "updates": { "kbs": ["KB5068787"] },
                "stages": [{ "name": "test", "groups": ["test"], "rebootDeadline": deadline }],
            },
        }));
        let line = SliceLine { state, attempt: 1, ..SliceLine::pending("ws-1") };
        let slice = stored(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchRolloutSlice",
            "metadata": { "name": "november-1" },
            "spec": {
                "rollout": "november", "rolloutUid": "u-1", "stage": "test", "index": 0, "of": 1,
                "freezeId": "f", "lines": [line.to_string()],
            },
        }));
        let mut space = Namespace::default();
        space.jobs.insert("ws-1".to_owned(), cached(CachedJob::new(&job)));
        space.rollouts.insert("november".to_owned(), cached(rollout));
        space.slices.insert("november-1".to_owned(), cached(SliceView::new(&slice)));
        space
    }

    /// What is written of ws-1, which has not been heard since its restart.
    fn silent(space: &Namespace, now: Timestamp) -> Option<bool> {
        let online = DeviceRow { online: Some(true), ..DeviceRow::ready("ws-1", "Windows 11") };
        flip(&online, Contact::Offline { since: now }, || restarts_as_permitted(space, "ws-1", now))
    }

    #[test]
    fn a_permitted_restart_explains_silence_until_the_stages_reboot_deadline() {
        let space = restarting(LineState::Granted, Some("20s"));
        assert_eq!(silent(&space, at("2026-11-21T02:00:19Z")), None);
        assert_eq!(silent(&space, at("2026-11-21T02:00:20Z")), Some(false));
    }

    #[test]
    fn a_permitted_restart_never_explains_more_than_half_an_hour_of_silence() {
        for deadline in [None, Some("2h")] {
            let space = restarting(LineState::Granted, deadline);
            assert_eq!(silent(&space, at("2026-11-21T02:29:59Z")), None);
            assert_eq!(silent(&space, at("2026-11-21T02:30:00Z")), Some(false));
        }
    }

    #[test]
    fn a_silent_device_whose_line_has_its_verdict_is_not_online() {
        let now = at("2026-11-21T02:01:00Z");
        for verdict in [LineState::Unreachable, LineState::Failed] {
            assert_eq!(silent(&restarting(verdict, Some("2h")), now), Some(false), "{verdict:?}");
        }
        let mut forgotten = restarting(LineState::Granted, None);
        forgotten.jobs.clear();
        assert_eq!(silent(&forgotten, now), Some(false));
    }

    #[test]
    fn nothing_is_written_when_nothing_flipped_or_nothing_is_known() {
        let now = at("2026-11-21T02:00:00Z");
        let online = DeviceRow::ready("ws-1", "Windows 11");
        assert_eq!(flip(&online, Contact::Unknown, NOBODY), None);
        assert_eq!(flip(&online, Contact::Online { since: now }, NOBODY), None);
        let offline = DeviceRow { online: Some(false), ..online };
        assert_eq!(flip(&offline, Contact::Offline { since: now }, NOBODY), None);
    }

    #[test]
    fn a_device_that_falls_silent_or_comes_back_flips_once() {
        let now = at("2026-11-21T02:00:00Z");
        let online = DeviceRow::ready("ws-1", "Windows 11");
        assert_eq!(flip(&online, Contact::Offline { since: now }, NOBODY), Some(false));
        let offline = DeviceRow { online: Some(false), ..online.clone() };
        assert_eq!(flip(&offline, Contact::Online { since: now }, NOBODY), Some(true));
        let new = DeviceRow { online: None, ..online };
        assert_eq!(flip(&new, Contact::Online { since: now }, NOBODY), Some(true));
    }

    /// A namespace with these devices, of none of which is known whether it is in contact.
    fn known(devices: &[&str]) -> Cache {
        let cache = Cache::default();
        for device in devices {
            cache.apply::<SlimDevice>(stored(json!({
                "apiVersion": "wardring.dev/v1alpha1", "kind": "Device",
                "metadata": { "name": device, "namespace": CLINIC, "resourceVersion": "3" },
                "spec": { "enrolmentId": format!("eid-{device}") },
            })));
        }
        cache
    }

    /// What a gateway tells of devices that came into contact.
    fn heard(number: u64, devices: &[&str]) -> PresenceBatch {
        let online = devices.iter().map(|name| (CLINIC.to_owned(), (*name).to_owned(), 7));
        let (gateway, session) = ("gateway-1".to_owned(), "s-1".to_owned());
        let online = online.collect();
        PresenceBatch { gateway, session, number, complete: true, online, offline: Vec::new() }
    }

    /// A person wants something else.
    fn surgery(cache: &Cache) {
        cache.apply::<wardring_api::UpdateHold>(stored(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "UpdateHold",
            "metadata": { "name": "surgery", "namespace": CLINIC, "resourceVersion": "9" },
            "spec": { "kbs": ["KB5068787"], "reason": "Surgery." },
        })));
    }

    #[tokio::test]
    async fn a_device_that_flips_right_after_others_is_marked_a_moment_later() {
        let marked = Arc::new(Mutex::new(Vec::new()));
        let notes = marked.clone();
        let (client, _) = api_server(move |path, mut body| {
            notes.lock().unwrap().push(path.to_owned());
            body["spec"] = json!({ "enrolmentId": "eid" });
            (200, body)
        });
        let marks = |device: &str| {
            let paths = marked.lock().unwrap();
            paths.iter().filter(|path| path.ends_with(&format!("/{device}/status"))).count()
        };
        let desk = desk(client, &known(&["ws-1", "ws-2"]));
        let mut memory = Memory { fenced: true, ..Memory::default() };
        desk.presence.hear(heard(0, &["ws-1"]));
        pass(&desk, CLINIC, &mut memory).await;
        assert_eq!((marks("ws-1"), marks("ws-2")), (1, 0));
        assert!(memory.pace.holds_back(KEY, EVERY), "all devices would be asked about at once");

        // However long the first pass took, this one follows within its pause.
        memory.pace.wrote(KEY, EVERY, Instant::now() + EVERY);
        desk.presence.hear(heard(1, &["ws-2"]));
        let Pass::Done(Some(due)) = pass(&desk, CLINIC, &mut memory).await else {
            panic!("nobody would look again");
        };
        assert_eq!(marks("ws-2"), 0);
        let left = due.duration_since(Timestamp::now());
        assert!(left <= SignedDuration::from_secs(2), "{left:?}");
        tokio::time::sleep(left.try_into().unwrap_or_default()).await;
        pass(&desk, CLINIC, &mut memory).await;
        assert_eq!(marks("ws-2"), 1);
    }

    #[tokio::test]
    async fn what_people_want_comes_before_marks_which_follow_a_moment_later() {
        let marked = Arc::new(Mutex::new(0));
        let count = marked.clone();
        let (client, _) = api_server(move |_, mut body| {
            *count.lock().unwrap() += 1;
            body["spec"] = json!({ "enrolmentId": "eid" });
            (200, body)
        });
        let cache = known(&["ws-1"]);
        let desk = desk(client, &cache);
        let mut memory = Memory { fenced: true, ..Memory::default() };
        desk.presence.hear(heard(0, &["ws-1"]));
        surgery(&cache);

        let Pass::Done(Some(due)) = pass(&desk, CLINIC, &mut memory).await else {
            panic!("nobody would look again");
        };
        assert_eq!(*marked.lock().unwrap(), 0);
        let left = due.duration_since(Timestamp::now());
        assert!(left <= SignedDuration::from_secs(2), "{left:?}");
        pass(&desk, CLINIC, &mut memory).await;
        assert_eq!(*marked.lock().unwrap(), 1);
    }

    #[tokio::test]
    async fn a_site_that_comes_back_keeps_nobody_waiting_who_wants_something() {
        let names: Vec<String> = (0..100).map(|at| format!("ws-{at:03}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (cache, marked) = (known(&names), Arc::new(Mutex::new(0)));
        let (shared, count) = (cache.clone(), marked.clone());
        let (client, _) = api_server(move |_, _| {
            *count.lock().unwrap() += 1;
            surgery(&shared);
            refusal(500, "InternalError")
        });
        let desk = desk(client, &cache);
        desk.presence.hear(heard(0, &names));
        assert_eq!(mark(&desk, CLINIC).await, Marked::More, "the rest is left to the next pass");
        let marked = *marked.lock().unwrap();
        assert!((1..=SIDE_BY_SIDE).contains(&marked), "{marked}");
    }
}
