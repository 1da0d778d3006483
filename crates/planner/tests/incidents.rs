//! Patch nights that went wrong for others, played twice: with the guardrails, where the story has to end
//! before production and to say why, and as somebody careless writes the rollout, where it does not.
//!
//! Each file of `tests/incidents` is one of them. What is public about such a night is told in words
//! of our own in its first line.
#![allow(clippy::disallowed_methods)] // The incidents are files.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use std::{collections::BTreeMap, path::Path};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use support::{
    World,
    story::{Story, happen},
};
use wardring_api::{AlertKind, PermitStep};
use wardring_planner::{
    Ended, MessageState, Sight, Told, ToldState, alerts, explain_rollout, to_tell,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Incident {
    /// With the guardrails.
    scene: Story,
    /// What the rollout says in the end, in words: sentences or parts of them, each of one line.
    says: Vec<String>,
    /// What people are told that goes wrong, in this order: the alert, with its device or, where it is
    /// about more than one, its stage.
    alerts: Vec<String>,
    /// From this minute on Wardring hears so little that it is itself that is cut off.
    #[serde(default)]
    blind_from: Option<u32>,
    /// The most devices of a stage's group on which the installation may begin.
    #[serde(default)]
    at_most: BTreeMap<String, u32>,
    /// Something is taken back.
    #[serde(default)]
    takes_back: bool,
    /// Spec of the same rollout without them.
    without: serde_yaml::Value,
}

/// Minutes that pass at once where no device has a job: four days of soak are long.
const IDLE: u32 = 30;
const PRODUCTION: &str = "production";

/// Plays the story, and hands every minute to `look`.
fn play(story: &Story, mut look: impl FnMut(u32, &World)) -> World {
    let mut world = story.world();
    world.settle();
    let mut minute = 0;
    while minute < story.minutes {
        let next = story.happens.iter().map(|all| all.minute).filter(|at| *at > minute).min();
        let idle = world.jobs.is_empty();
        let step = if idle { IDLE.min(next.unwrap_or(u32::MAX) - minute) } else { 1 };
        minute += step;
        for happening in story.happens.iter().filter(|happening| happening.minute == minute) {
            happen(&mut world, happening);
        }
        world.now += SignedDuration::from_mins(i64::from(step) - 1);
        world.minute(|_| {});
        look(minute, &world);
    }
    world
}

/// Somebody who is told of what a Notifier tells.
#[derive(Default)]
struct OnCall {
    told: Vec<Told>,
    alerts: Vec<String>,
}

/// Told only to whoever names it.
const UNTOLD: [AlertKind; 2] = [AlertKind::DeviceRebootExpected, AlertKind::DeviceNeedsRecovery];

impl OnCall {
    fn hears(&mut self, world: &World, sight: Sight) {
        let ended = |_: &Told| (Ended::Over, "");
        let all = alerts(&world.snapshot());
        let since = Timestamp::UNIX_EPOCH;
        let wanted: Vec<AlertKind> =
            AlertKind::ALL.iter().copied().filter(|kind| !UNTOLD.contains(kind)).collect();
        let telling = to_tell(&all, &mut self.told, &wanted, sight, since, world.now, &ended);
        for message in telling.messages {
            let alert = &message.alert;
            if message.state == MessageState::Firing {
                let about = if alert.device.is_empty() { &alert.stage } else { &alert.device };
                self.alerts.push(format!("{} {about}", alert.kind.as_str()).trim_end().to_owned());
            }
            let is_over = matches!(message.state, MessageState::Resolved(_));
            let state = if is_over { ToldState::Over } else { message.told.state };
            self.told.retain(|told| *told != message.told);
            self.told.push(Told { state, ..message.told });
        }
    }
}

/// Devices of a group on which an installation began.
fn begun(story: &Story, world: &World, group: &str) -> u32 {
    let mine = story.devices.iter().filter(|devices| devices.group == group);
    let names = mine.flat_map(|devices| &devices.names);
    names.filter(|name| world.agents[*name].begun > 0).count() as u32
}

fn judge(path: &Path) {
    let text = std::fs::read_to_string(path).unwrap();
    let mut incident: Incident = serde_yaml::from_str(&text).unwrap();
    let mut on_call = OnCall::default();
    let world = play(&incident.scene, |minute, world| {
        let since = incident.blind_from.filter(|from| *from <= minute).map(|from| {
            let ago = SignedDuration::from_mins((minute - from).into());
            world.now - ago
        });
        let sight = since.map_or(Sight::Clear, |since| Sight::Blind { since });
        on_call.hears(world, sight);
    });
    let (name, rollout) = world.rollouts.first_key_value().unwrap();
    let told = explain_rollout(rollout).join("\n");
    assert_eq!(begun(&incident.scene, &world, PRODUCTION), 0, "it reached production:\n{told}");
    for says in &incident.says {
        assert!(told.contains(says), "{says:?} is not said:\n{told}");
    }
    assert_eq!(on_call.alerts, incident.alerts, "what is told:\n{told}");
    for (group, most) in &incident.at_most {
        let begun = begun(&incident.scene, &world, group);
        assert!(begun <= *most, "it began on {begun} devices of {group}");
    }
    let takes_back = world.permits.iter().any(|given| given.step == PermitStep::Uninstall);
    assert_eq!(takes_back, incident.takes_back, "what is taken back:\n{told}");

    let without = std::mem::take(&mut incident.without);
    incident.scene.rollouts.insert(name.clone(), without);
    let careless = play(&incident.scene, |_, _| {});
    let told = explain_rollout(&careless.rollouts[name]).join("\n");
    assert!(begun(&incident.scene, &careless, PRODUCTION) > 0, "it shows nothing:\n{told}");
}

#[test]
fn every_incident_ends_before_production_and_only_because_of_the_guardrails() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/incidents");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let wrong: Vec<_> = files
        .iter()
        .filter(|file| std::panic::catch_unwind(|| judge(file)).is_err())
        .map(|file| file.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert!(wrong.is_empty(), "incidents that go another way: {wrong:?}");
}
