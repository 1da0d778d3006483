//! What the API server stored, version by version: jobs, slice lines, rollouts and holds of every
//! namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use wardring_api::conditions::QUARANTINED;
use wardring_api::{
    Device, LineState, PatchJob, PatchLedger, PatchRollout, PatchRolloutSlice, RolloutPhase,
    SliceLine, UpdateHold,
};

/// How a run ended, in what must not depend on faults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    phase: Option<RolloutPhase>,
    /// Device, attempt and state of every line, in order.
    lines: BTreeSet<(String, u32, LineState)>,
    /// How many jobs every device had, by action.
    jobs: BTreeMap<(String, String), usize>,
    holds: usize,
}

/// What was seen of a namespace.
#[derive(Default)]
struct Seen {
    phase: Option<RolloutPhase>,
    slices: BTreeMap<String, (String, Vec<SliceLine>)>,
    /// The most lines of a stage that were Granted at once.
    granted: BTreeMap<String, usize>,
    /// Every job there ever was: device and action by uid.
    jobs: BTreeMap<String, (String, String)>,
    /// Jobs that are there.
    open: BTreeSet<String>,
    holds: BTreeSet<String>,
    /// Every condition Quarantined that a device had, without repetitions: status, reason, message and
    /// time, or nothing where it went away.
    quarantines: BTreeMap<String, Vec<Option<Condition>>>,
    sequences: Vec<i64>,
}

/// The record; it grows until the test ends.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<BTreeMap<String, Seen>>>);

impl Record {
    /// Begins to watch.
    pub fn begin(client: &Client) -> Record {
        let record = Record::default();
        record.watch(client, |seen, rollout: PatchRollout, _| {
            seen.phase = rollout.status.and_then(|status| status.phase);
        });
        record.watch(client, |seen, slice: PatchRolloutSlice, is_there| {
            let lines = slice.spec.lines.iter().map(|line| line.parse::<SliceLine>().unwrap());
            let lines: Vec<_> = lines.filter(|_| is_there).collect();
            let stage = slice.spec.stage.clone();
            seen.slices.insert(slice.name_any(), (stage.clone(), lines));
            let all = seen.slices.values().filter(|(of, _)| *of == stage);
            let granted = all.flat_map(|(_, lines)| lines);
            let granted = granted.filter(|line| line.state == LineState::Granted).count();
            let most = seen.granted.entry(stage).or_default();
            *most = granted.max(*most);
        });
        record.watch(client, |seen, job: PatchJob, is_there| {
            let uid = job.uid().unwrap_or_default();
            let action = format!("{:?}", job.spec.action);
            seen.jobs.insert(uid.clone(), (job.name_any(), action));
            if is_there {
                seen.open.insert(uid);
            } else {
                seen.open.remove(&uid);
            }
        });
        record.watch(client, |seen, hold: UpdateHold, _| {
            seen.holds.insert(hold.name_any());
        });
        record.watch(client, |seen, device: Device, _| {
            let mut list = device.status.iter().flat_map(|status| &status.conditions);
            let now = list.find(|condition| condition.type_ == QUARANTINED).cloned();
            let known = seen.quarantines.entry(device.name_any()).or_default();
            if known.last().is_none_or(|last| last.as_ref() != now.as_ref()) {
                known.push(now);
            }
        });
        record.watch(client, |seen, ledger: PatchLedger, _| {
            seen.sequences.extend(ledger.status.map(|status| status.sequence));
        });
        record
    }

    fn watch<K>(&self, client: &Client, note: impl Fn(&mut Seen, K, bool) + Send + 'static)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let seen = self.0.clone();
        let api: Api<K> = Api::all(client.clone());
        let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let (object, is_there) = match event {
                    Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                        (object, true)
                    }
                    Ok(watcher::Event::Delete(object)) => (object, false),
                    Ok(watcher::Event::Init | watcher::Event::InitDone) | Err(_) => continue,
                };
                let namespace = object.meta().namespace.clone().unwrap_or_default();
                let mut seen = seen.lock().unwrap();
                note(seen.entry(namespace).or_default(), object, is_there);
            }
        });
    }

    fn read<T>(&self, namespace: &str, read: impl FnOnce(&Seen) -> T) -> T {
        let seen = self.0.lock().unwrap();
        match seen.get(namespace) {
            Some(seen) => read(seen),
            None => read(&Seen::default()),
        }
    }

    /// How the run stands.
    pub fn ending(&self, namespace: &str) -> Ending {
        self.read(namespace, |seen| {
            let lines = seen.slices.values().flat_map(|(_, lines)| lines);
            let mut jobs = BTreeMap::new();
            for job in seen.jobs.values() {
                *jobs.entry(job.clone()).or_default() += 1;
            }
            Ending {
                phase: seen.phase,
                lines: lines.map(|line| (line.device.clone(), line.attempt, line.state)).collect(),
                jobs,
                holds: seen.holds.len(),
            }
        })
    }

    /// Whether the run is where it stays, and no job is left.
    pub fn is_over(&self, namespace: &str) -> bool {
        self.read(namespace, |seen| {
            let is_last =
                matches!(seen.phase, Some(RolloutPhase::Completed | RolloutPhase::RolledBack));
            let is_moving = |line: &SliceLine| line.state == LineState::Granted;
            let moving = seen.slices.values().flat_map(|(_, lines)| lines).any(is_moving);
            is_last && !moving && seen.open.is_empty() && !seen.jobs.is_empty()
        })
    }

    /// Whether the run has come to this end, and no job is left.
    pub fn has_ended(&self, namespace: &str, ending: &Ending) -> bool {
        let now = self.ending(namespace);
        self.read(namespace, |seen| seen.open.is_empty())
            && now.phase == ending.phase
            && now.lines == ending.lines
            && now.holds == ending.holds
    }

    /// What became of the condition Quarantined of a device, in order: `True RollbackFailed`.
    pub fn quarantines(&self, namespace: &str, device: &str) -> Vec<String> {
        self.read(namespace, |seen| {
            let told = seen.quarantines.get(device).into_iter().flatten();
            let words = |condition: &Option<Condition>| match condition {
                Some(condition) => format!("{} {}", condition.status, condition.reason),
                None => "none".to_owned(),
            };
            told.map(words).collect()
        })
    }

    /// Devices whose rollback failed, as recorded.
    pub fn damaged(&self, namespace: &str) -> usize {
        self.read(namespace, |seen| {
            let lines = seen.slices.values().flat_map(|(_, lines)| lines);
            lines.filter(|line| line.state == LineState::RollbackFailed).count()
        })
    }

    /// Where a run is, for people.
    pub fn summary(&self, namespace: &str) -> String {
        format!("{:?}", self.ending(namespace))
    }

    /// No stage had more devices in flight than its cap, and the sequence only grew.
    #[track_caller]
    pub fn assert_caps_kept(&self, namespace: &str, caps: &[(&str, usize)]) {
        self.read(namespace, |seen| {
            for (stage, cap) in caps {
                let most = seen.granted.get(*stage).copied().unwrap_or(0);
                assert!(most <= *cap, "{namespace}: {most} devices of stage {stage} at once");
            }
            assert!(seen.sequences.is_sorted(), "{namespace}: {:?}", seen.sequences);
        });
    }
}
