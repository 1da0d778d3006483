//! What a seed stands for: a fleet, its groups and rollouts, and everything that befalls them.

use wardring_agent::state::BootKind;
use wardring_api::{
    Device, DeviceGroup, DeviceMode, EmergencyStop, PatchRollout, conditions, reasons::Reason,
};

use crate::{
    clock::{HOUR, MINUTE, Ms, SECOND, wall},
    device,
    hub::{Event, Hub, Process, Weather},
    person::Order,
    random::Random,
    world::{PRODUCTS, SERVICE, Script, World},
};

/// How a simulation is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The seed.
    pub seed: u64,
    /// Most devices.
    pub devices: usize,
    /// Whether anything goes wrong in the cluster and on the network.
    pub faults: bool,
    /// Whether people interfere.
    pub people: bool,
    /// Whether devices lose the network just when they were permitted something.
    pub cuts: bool,
    /// Prints the story.
    pub prints: bool,
}

/// When the faults end.
pub const CALM: Ms = 3 * HOUR;

/// A device as the scenario draws it.
pub(crate) fn devices(hub: &mut Hub, setup: &Setup) -> Vec<device::Device> {
    let count = hub.random.within(2..setup.devices.max(2) as u64 + 1) as usize;
    let worst = hub.random.pick(&[0, 100, 400, 1000]);
    (0..count)
        .map(|index| {
            let name = format!("dev-{index:02}");
            let product = if hub.random.chance(750) { PRODUCTS[0] } else { PRODUCTS[1] };
            let script =
                if hub.random.chance(worst) { hub.random.pick(&Script::ALL) } else { Script::Good };
            let skew = match hub.random.within(0..20) {
                0 => hub.random.within(0..4 * HOUR) as i64 - 2 * HOUR as i64,
                1..5 => hub.random.within(0..4 * MINUTE) as i64 - 2 * MINUTE as i64,
                _ => 0,
            };
            let skew = if setup.faults { skew } else { 0 };
            hub.tell(format!("{name}: {product}, {script:?}, clock off by {skew} ms"));
            device::Device::new(index, &name, World::new(product, script), skew)
        })
        .collect()
}

/// Creates the objects that exist before anything happens.
pub(crate) fn objects(hub: &mut Hub, devices: &[device::Device]) -> Vec<String> {
    let stages = hub.random.within(1..4) as usize;
    for stage in 0..stages {
        let cap = hub.random.pick(&[None, Some("1"), Some("50%"), Some("3")]);
        let spec = serde_json::json!({
            "selector": {"matchLabels": {"stage": stage_name(stage)}},
            "maxUnavailable": cap.map(number),
            "rollback": if hub.random.chance(100) { "Forbid" } else { "Allow" },
        });
        let spec = serde_json::from_value(spec).expect("the group reads");
        apply(hub, DeviceGroup::new(&stage_name(stage), spec).into());
    }
    for (index, device) in devices.iter().enumerate() {
        let stage = stage_name(index * stages / devices.len());
        apply(hub, object(hub.now, device, &stage).into());
    }
    let rollouts = if hub.random.chance(250) { 2 } else { 1 };
    (0..rollouts)
        .map(|index| {
            let name = format!("patch-{index}");
            let delay = if index == 0 { 0 } else { hub.random.within(0..HOUR) };
            let order = rollout(hub, &name, stages);
            hub.after(delay, Event::Person(order));
            name
        })
        .collect()
}

fn stage_name(index: usize) -> String {
    ["test", "work", "prod"][index].to_owned()
}

/// A count as the API writes it: a number, or a percentage in quotes.
fn number(text: &str) -> serde_json::Value {
    text.parse::<u32>().map_or_else(|_| text.into(), Into::into)
}

fn apply(hub: &mut Hub, object: crate::api::Object) {
    drop(hub.commit("person", crate::api::Write::Create(object)));
}

fn object(now: Ms, device: &device::Device, stage: &str) -> Device {
    let mut object = Device::new(&device.name, Default::default());
    let labels = [("stage".to_owned(), stage.to_owned())];
    object.metadata.labels = Some(labels.into());
    object.spec.mode = DeviceMode::Manage;
    object.spec.enrolment_id = Some(device.id.clone());
    let status = object.status.get_or_insert_default();
    let list = &mut status.conditions;
    conditions::set(list, conditions::ONLINE, true.into(), Reason::Planned, "", None, wall(now));
    object
}

fn rollout(hub: &mut Hub, name: &str, stages: usize) -> Order {
    let random = &mut hub.random;
    let all: Vec<_> = (0..stages)
        .map(|index| {
            let span = |random: &mut crate::random::Random, all: &[&'static str]| random.pick(all);
            serde_json::json!({
                "name": stage_name(index), "group": stage_name(index),
                "maxConcurrency": number(random.pick(&["1", "2", "50%", "100%"])),
                "maxFailures": number(random.pick(&["0", "1", "30%"])),
                "maxUnreachable": number(random.pick(&["0", "1", "30%"])),
                "minProven": random.pick(&[0, 1, 1]),
                "minCoverage": number(random.pick(&["100%", "50%"])),
                "soak": span(random, &["0s", "5m", "20m"]),
                "progressDeadline": "6h",
                "startWithin": span(random, &["15m", "1h"]),
                "silenceDeadline": "30m",
                "rebootSlowAfter": "15m",
                "rebootDeadline": span(random, &["1h", "2h"]),
                "deviceDeadline": span(random, &["3h", "4h"]),
                "offline": {
                    "action": span(random, &["Wait", "Defer", "Fail"]), "after": "1h",
                },
                "retry": {
                    "maxAttempts": random.pick(&[1, 2, 3]), "backoff": span(random, &["1m", "10m"]),
                },
            })
        })
        .collect();
    let spec = serde_json::json!({
        "updates": {"select": {"release": "2026-11"}},
        "stages": all,
        "preflight": {"pendingReboot": random.pick(&["Block", "RebootFirst"])},
        "health": {"services": [SERVICE], "settle": "1m", "sampleInterval": "10s"},
        "reboot": {"countdown": random.pick(&["10s", "2m"])},
        "onFailure": {
            "action": random.pick(&["Halt", "Rollback"]),
            "scope": random.pick(&["Device", "Stage", "AllStages"]),
            "maxConcurrency": random.pick(&[1, 2]),
        },
        "onHalt": {
            "installedAwaitingReboot": random.pick(&["Hold", "Finish", "Uninstall"]),
        },
    });
    let spec = serde_json::from_value(spec).expect("the rollout reads");
    Order::Apply(Box::new(PatchRollout::new(name, spec).into()))
}

/// Schedules what goes wrong in the cluster and on the network.
pub(crate) fn faults(hub: &mut Hub, devices: usize) {
    hub.weather = Weather::draw(&mut hub.random);
    hub.tell(format!("{:?}", hub.weather));
    for _ in 0..hub.random.within(0..12) {
        let at = hub.random.within(MINUTE..CALM);
        let process = match hub.random.within(0..6) {
            0..2 => Process::Controller(0),
            2..4 => Process::Controller(1),
            4 => Process::Gateway(0),
            _ => Process::Gateway(1),
        };
        let event = if hub.random.chance(500) {
            Event::Crash(process)
        } else {
            Event::Freeze(process, at + hub.random.within(SECOND..5 * MINUTE))
        };
        hub.after(at, event);
    }
    for _ in 0..hub.random.within(0..devices as u64 * 2) {
        let (at, device) = (hub.random.within(0..CALM), hub.random.within(0..devices as u64));
        let what = match hub.random.within(0..8) {
            0..3 => device::What::Kill,
            3 => device::What::Down(BootKind::Dirty),
            4 => device::What::Down(BootKind::Foreign),
            5 => device::What::LoseJournal,
            _ => device::What::CutOff(at + hub.random.within(MINUTE..3 * HOUR)),
        };
        hub.after(at, Event::Device(device as usize, what));
    }
}

/// Schedules what people do.
pub(crate) fn people(hub: &mut Hub, rollouts: &[String], devices: &[device::Device]) {
    for _ in 0..hub.random.within(0..6) {
        let at = hub.random.within(MINUTE..CALM);
        let rollout = rollouts[hub.random.within(0..rollouts.len() as u64) as usize].clone();
        let device = devices[hub.random.within(0..devices.len() as u64) as usize].name.clone();
        let order = match hub.random.within(0..12) {
            0 | 1 => {
                let later = at + hub.random.within(MINUTE..HOUR);
                hub.after(later, Event::Person(Order::Resume(rollout.clone())));
                Order::Suspend(rollout)
            }
            2 => Order::Abort(rollout),
            3 => Order::Delete(rollout),
            4..7 => Order::Retry(rollout),
            7 | 8 => Order::DeleteJob(device),
            9 => {
                let later = at + hub.random.within(MINUTE..HOUR);
                hub.after(later, Event::Person(Order::LetGoDevice(device.clone())));
                Order::HoldDevice(device)
            }
            10 => Order::Release(device),
            _ => Order::DeleteDevice(device),
        };
        hub.after(at, Event::Person(order));
    }
    for rollout in rollouts {
        hub.after(CALM, Event::Person(Order::Resume(rollout.clone())));
    }
}

/// Schedules emergency stops; all of them are lifted in the end. They are drawn from a source of their
/// own, so that a seed without one tells the story that it always told.
pub(crate) fn brakes(hub: &mut Hub, seed: u64) {
    let mut random = Random::new(!seed);
    if !random.chance(400) {
        return;
    }
    for number in 0..random.within(1..4) {
        let mut spec = serde_json::json!({
            "reason": "the ward's software does not start",
            "rollbacks": random.pick(&["Continue", "Stop"]),
        });
        if random.chance(300) {
            spec["kbs"] = serde_json::json!([random.pick(&["KB5068787", "KB5068001"])]);
        }
        if random.chance(400) {
            let stage = stage_name(random.within(0..3) as usize);
            spec["selector"] = serde_json::json!({"matchLabels": {"stage": stage}});
        }
        let name = format!("stop-{number}");
        let spec = serde_json::from_value(spec).expect("the stop reads");
        let stop = EmergencyStop::new(&name, spec);
        let at = random.within(MINUTE..CALM);
        let until = at + random.within(MINUTE..2 * HOUR);
        hub.after(at, Event::Person(Order::Apply(Box::new(stop.into()))));
        hub.after(until, Event::Person(Order::LiftStop(name)));
    }
}
