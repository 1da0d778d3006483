//! Stories: what happens when, and what the rollout and its devices say about it, in words.
//!
//! Each folder of `tests/scenarios` holds `story.yaml` and the telling in `expected.txt`. After a
//! change of behaviour, `BLESS=1 cargo test -p wardring-planner --test scenarios` writes the tellings
//! anew; the difference is what there is to review.
// The stories are files, and blessing them is a wish of the environment; the planner sees neither.
#![allow(clippy::disallowed_methods)]
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use support::{
    World,
    story::{Story, happen},
};
use wardring_api::{PatchRolloutStatus, SliceLine};
use wardring_planner::{DeviceStory, HoldView, explain_device, explain_rollout};

/// Tells everything that is new since the last minute.
struct Teller {
    text: String,
    told: BTreeMap<String, String>,
}

impl Teller {
    fn minute(&mut self, minute: u32, world: &World) {
        let mut lines = Vec::new();
        for (name, rollout) in &world.rollouts {
            let status = rollout.status.clone().unwrap_or_default();
            lines.push((format!("rollout {name}"), rollout_line(&status)));
            for (position, sentence) in explain_rollout(rollout).into_iter().enumerate().skip(1) {
                lines.push((format!("rollout {name} ({position})"), sentence));
            }
            for stage in &status.stages {
                let counts = serde_json_line(&stage.counts);
                let text = format!("{:?} {counts}", stage.state);
                lines.push((format!("stage {name}/{}", stage.name), text));
                for gate in &stage.gates {
                    let text = format!(
                        "{:?} {:?} {}",
                        gate.phase,
                        gate.state,
                        gate.message.as_deref().unwrap_or_default()
                    );
                    lines.push((format!("gate {name}/{}/{}", stage.name, gate.name), text));
                }
                for (position, sample) in stage.failed_sample.iter().enumerate() {
                    lines
                        .push((format!("stage {name}/{} ✗{position}", stage.name), sample.clone()));
                }
            }
            let uid = rollout.metadata.uid.clone().unwrap();
            for (_, stage, line) in world.lines().into_iter().filter(|(of, ..)| *of == uid) {
                let told = explained(world, rollout, &stage, &line);
                lines.push((format!("device {name}/{}", line.device), told));
            }
        }
        for (name, group) in &world.groups {
            if group.spec.max_unavailable.is_some() {
                lines.push((format!("group {name}"), format!("{:?}", group.status)));
            }
        }
        for name in world.orders.keys() {
            let status = world.order_status(name);
            let (phase, message) = (status.phase, status.message.unwrap_or_default());
            let phase = phase.map_or("-".to_owned(), |phase| format!("{phase:?}"));
            lines.push((format!("order {name}"), format!("{phase} {message}")));
            if !status.missing_fixes.is_empty() {
                lines.push((format!("order {name} fixes"), status.missing_fixes.join("; ")));
            }
        }
        for (name, hold) in &world.holds {
            let kbs: Vec<&str> = hold.kbs.iter().map(|kb| kb.as_str()).collect();
            let seen = hold.evidence.join("; ");
            let text = format!("{} — {} [{seen}]", kbs.join(", "), hold.reason);
            lines.push((format!("hold {name}"), text));
        }
        let jobs: Vec<String> = world.jobs.keys().cloned().collect();
        lines.push(("jobs".to_owned(), jobs.join(" ")));
        let now: BTreeMap<String, String> = lines.into_iter().collect();
        let gone: Vec<&String> = self.told.keys().filter(|key| !now.contains_key(*key)).collect();
        let mut news: Vec<(String, String)> = Vec::new();
        for (key, text) in &now {
            if self.told.get(key) != Some(text) {
                news.push((key.clone(), text.clone()));
            }
        }
        news.extend(gone.into_iter().map(|key| (key.clone(), "(gone)".to_owned())));
        if !news.is_empty() {
            let _ = writeln!(self.text, "+{}:{:02}", minute / 60, minute % 60);
            for (key, text) in news {
                let _ = writeln!(self.text, "  {key}: {text}");
            }
        }
        self.told = now;
    }
}

fn rollout_line(status: &PatchRolloutStatus) -> String {
    let conditions: Vec<String> = status
        .conditions
        .iter()
        .map(|condition| format!("{}={}", condition.type_, condition.status))
        .collect();
    let phase = status.phase.map_or("-".to_owned(), |phase| format!("{phase:?}"));
    let message = status.message.as_deref().unwrap_or_default();
    format!("{phase} [{}] {message}", conditions.join(" "))
}

fn serde_json_line(counts: &wardring_api::StageCounts) -> String {
    let value = serde_json::to_value(counts).unwrap();
    let fields = value.as_object().unwrap().iter().filter(|(_, value)| value.as_u64() != Some(0));
    fields.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

fn explained(
    world: &World,
    rollout: &wardring_api::PatchRollout,
    stage: &str,
    line: &SliceLine,
) -> String {
    let groups: Vec<_> = world.groups.values().cloned().collect();
    let holds: Vec<_> = world
        .holds
        .iter()
        .map(|(name, spec)| HoldView { name: name.clone(), created_at: None, spec: spec.clone() })
        .collect();
    let story = DeviceStory {
        now: world.now,
        rollout,
        stage,
        line,
        job: world.jobs.get(&line.device),
        device: world.devices.get(&line.device),
        groups: &groups,
        holds: &holds,
        windows: &world.windows(),
        stops: &world.stops(),
    };
    let told = explain_device(&story);
    format!("[{}] {}", told.reason.as_str(), told.message)
}

fn tell(folder: &Path) {
    let story: Story =
        serde_yaml::from_str(&std::fs::read_to_string(folder.join("story.yaml")).unwrap()).unwrap();
    let mut world = story.world();
    let mut teller = Teller { text: format!("{}\n\n", story.story), told: BTreeMap::new() };
    world.settle();
    teller.minute(0, &world);
    for minute in 1..=story.minutes {
        for happening in story.happens.iter().filter(|happening| happening.minute == minute) {
            let _ = writeln!(
                teller.text,
                "-- {:?} {}",
                happening.what,
                happening.device.as_deref().unwrap_or_default()
            );
            happen(&mut world, happening);
        }
        world.minute(|_| {});
        teller.minute(minute, &world);
    }
    for event in &world.events {
        let _ = writeln!(teller.text, "event: {event}");
    }
    let path = folder.join("expected.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &teller.text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == teller.text,
        "{} tells another story now (BLESS=1 accepts it):\n{}",
        folder.display(),
        difference(&expected, &teller.text)
    );
}

fn difference(expected: &str, told: &str) -> String {
    let first = expected.lines().zip(told.lines()).position(|(a, b)| a != b).unwrap_or(0);
    let show = |text: &str| text.lines().skip(first).take(12).collect::<Vec<_>>().join("\n");
    format!("expected from line {}:\n{}\n\ntold:\n{}", first + 1, show(expected), show(told))
}

#[test]
fn every_story_is_told_as_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut folders: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    assert!(!folders.is_empty());
    let told: Vec<_> = folders
        .iter()
        .filter(|folder| std::panic::catch_unwind(|| tell(folder)).is_err())
        .map(|folder| folder.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert!(told.is_empty(), "stories that differ: {told:?}");
}
