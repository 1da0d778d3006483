//! A story as a file tells it: what there is, and what happens when.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde::Deserialize;
use wardring_api::{LineState, SliceLine};
use wardring_planner::{LiveHealth, Unheard, take_over};

use super::{
    Meter, SERVER, World,
    agent::{Agent, Script},
    start,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Story {
    pub story: String,
    pub devices: Vec<Devices>,
    #[serde(default)]
    pub groups: BTreeMap<String, serde_yaml::Value>,
    #[serde(default)]
    pub holds: BTreeMap<String, serde_yaml::Value>,
    pub rollouts: BTreeMap<String, serde_yaml::Value>,
    /// What providers answer to gates, by the gate's name.
    #[serde(default)]
    pub meters: BTreeMap<String, Meter>,
    #[serde(default)]
    pub happens: Vec<Happening>,
    /// Minutes to tell.
    pub minutes: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Devices {
    pub names: Vec<String>,
    pub group: String,
    #[serde(default)]
    pub product: Option<String>,
    #[serde(default)]
    pub script: Option<Script>,
    #[serde(default)]
    pub offline: bool,
    #[serde(default)]
    pub observe: bool,
    #[serde(default)]
    pub roles: Vec<wardring_api::DeviceRole>,
    #[serde(default)]
    pub model: Option<String>,
    /// Beside the label of the group.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Happening {
    pub minute: u32,
    #[serde(default)]
    pub device: Option<String>,
    #[serde(default)]
    pub rollout: Option<String>,
    #[serde(default)]
    pub stop: Option<serde_yaml::Value>,
    #[serde(default)]
    pub gate: Option<String>,
    #[serde(default)]
    pub says: Option<Meter>,
    #[serde(default)]
    pub order: Option<serde_yaml::Value>,
    pub what: What,
}

#[derive(Deserialize, Debug)]
pub enum What {
    Suspend,
    ForgetSuspend,
    Resume,
    Abort,
    Retry,
    DeleteRollout,
    DeleteDevice,
    Reenrol,
    GoesOffline,
    ComesBack,
    /// The agent sees that a service is worse than before the last installation.
    ServiceDies,
    /// The device crashes and comes back.
    Crashes,
    /// Everything is as before again.
    GetsWell,
    RepairedByHand,
    BehavesWell,
    JobDeleted,
    Release,
    ControllerCrash,
    RestoredFromBackup,
    RestoreConfirmed,
    LeaderListens,
    AgentsHeard,
    /// A person puts the EmergencyStop in force that the story names.
    Stop,
    LiftStop,
    /// From now on the provider answers this to the gate; without an answer it is dead.
    Meter,
    /// A person puts the gate's conditions right, or wrong.
    GateEdited,
    /// A person makes the PatchRollback that the story names.
    Order,
    DeleteOrder,
}

impl Story {
    pub fn world(&self) -> World {
        let mut world = World::new();
        for devices in &self.devices {
            world.group(&devices.group);
            for name in &devices.names {
                let product = devices.product.as_deref().unwrap_or(SERVER);
                let row = world.device(name, &devices.group, product);
                row.roles = devices.roles.clone().into();
                Arc::make_mut(&mut row.labels).extend(devices.labels.clone());
                row.model = devices.model.as_deref().map(Into::into);
                if devices.observe {
                    row.mode = wardring_api::DeviceMode::Observe;
                }
                if devices.offline {
                    row.online = Some(false);
                    row.online_since = Some(start());
                }
                if let Some(script) = devices.script {
                    world.agents.get_mut(name).unwrap().script = script;
                }
            }
        }
        for (name, extra) in &self.groups {
            let group = world.group(name);
            let mut spec = serde_yaml::to_value(&group.spec).unwrap();
            let fields = spec.as_mapping_mut().unwrap();
            fields.extend(extra.as_mapping().unwrap().clone());
            group.spec = serde_yaml::from_value(spec).unwrap();
        }
        for (name, spec) in &self.holds {
            world.holds.insert(name.clone(), serde_yaml::from_value(spec.clone()).unwrap());
        }
        world.meters = self.meters.clone();
        for (name, spec) in &self.rollouts {
            world.rollout(name, &serde_yaml::to_string(spec).unwrap());
        }
        world
    }
}

/// The agent of a device tells how it is since each rollout that was proven there.
pub fn falls_ill(world: &mut World, device: &str, how: impl Fn(&mut LiveHealth, Timestamp)) {
    let now = world.now;
    let proven = world
        .lines()
        .into_iter()
        .filter(|(_, _, line)| line.device == device && line.state == LineState::Succeeded);
    let tell = |(uid, _, line): (String, String, SliceLine)| {
        let mut health = LiveHealth {
            rollout_uid: uid.into(),
            attempt: line.attempt,
            service: false,
            probe: false,
            restarted: None,
            blind: false,
        };
        how(&mut health, now);
        health
    };
    let told = proven.map(tell).collect();
    world.devices.get_mut(device).unwrap().health = told;
}

pub fn happen(world: &mut World, happening: &Happening) {
    let device = happening.device.clone().unwrap_or_default();
    let rollout = happening.rollout.clone().unwrap_or_else(|| "november".to_owned());
    match happening.what {
        What::Suspend => world.edit(&rollout, |spec| spec.suspend = Some(true)),
        What::ForgetSuspend => world.edit(&rollout, |spec| spec.suspend = None),
        What::Resume => world.edit(&rollout, |spec| spec.suspend = Some(false)),
        What::Abort => world.edit(&rollout, |spec| {
            spec.abort = Some(wardring_api::Abort { reason: "wrong month".to_owned() });
        }),
        What::Retry => world.retry(&rollout),
        What::DeleteRollout => world.delete_rollout(&rollout),
        What::DeleteDevice => {
            world.devices.remove(&device);
        }
        What::Reenrol => {
            world.devices.get_mut(&device).unwrap().enrolment_id = Some("eid-new".into());
            world.agents.insert(device.clone(), Agent::new(&device));
        }
        What::GoesOffline => world.set_online(&device, false),
        What::ComesBack => world.set_online(&device, true),
        What::ServiceDies => falls_ill(world, &device, |health, _| health.service = true),
        What::Crashes => falls_ill(world, &device, |health, now| health.restarted = Some(now)),
        What::GetsWell => falls_ill(world, &device, |health, _| health.service = false),
        What::RepairedByHand => {
            let mut agent = world.agents.remove(&device).unwrap();
            agent.repair(world);
            world.agents.insert(device, agent);
        }
        What::BehavesWell => world.agents.get_mut(&device).unwrap().script = Script::Good,
        What::JobDeleted => {
            world.jobs.remove(&device).expect("there is a job to delete");
        }
        What::Release => {
            let now = world.now;
            world.devices.get_mut(&device).unwrap().release_requested_at = Some(now);
        }
        What::ControllerCrash => world.crash_after(2, |_| {}),
        What::RestoredFromBackup => world.guards.restored_from_backup = Some(900),
        What::RestoreConfirmed => {
            world.guards.restored_from_backup = None;
            world.ledger.sequence = take_over(world.ledger.sequence.max(900), 901);
        }
        What::LeaderListens => {
            let until = world.now + jiff::SignedDuration::from_mins(10);
            world.guards.unheard =
                Some(Unheard { devices: 2, names: Vec::new(), until: Some(until) });
        }
        What::AgentsHeard => world.guards.unheard = None,
        What::Stop => {
            let spec = serde_yaml::to_string(happening.stop.as_ref().unwrap()).unwrap();
            world.stop("ward-3", &spec);
        }
        What::LiftStop => world.stops.clear(),
        What::Meter => {
            let gate = happening.gate.clone().unwrap();
            match happening.says {
                Some(meter) => world.meters.insert(gate, meter),
                None => world.meters.remove(&gate),
            };
        }
        What::GateEdited => world.edit(&rollout, |spec| {
            let mut gates = spec.stages.iter_mut().flat_map(|stage| &mut stage.gates.before);
            let named = gates.find(|gate| Some(&gate.name) == happening.gate.as_ref());
            named.unwrap().success_condition = Some("result < 100".to_owned());
        }),
        What::Order => {
            let spec = serde_yaml::to_string(happening.order.as_ref().unwrap()).unwrap();
            world.order("erp-down", &spec);
        }
        What::DeleteOrder => world.orders.clear(),
    }
}
