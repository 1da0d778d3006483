//! One simulation: pops events, hands them to their actors, and judges the end.

use std::collections::BTreeMap;

use wardring_api::{RolloutPhase, reasons::Reason};

use crate::{
    api::{Kind, Object},
    clock::{HOUR, MINUTE, Ms, SECOND, wall},
    controller::{self, Controller},
    device::{self, Device},
    gateway::{self, Gateway},
    hub::{Event, Hub, Process, Sender, WATCHED, Weather},
    monitor::{Act, Broken},
    person,
    scenario::{self, CALM, Setup},
};

/// Longest life of a simulation: every deadline of three stages and more.
const END: Ms = 60 * HOUR;
/// No write for this long after the end of every rollout is rest.
const REST: Ms = HOUR;

/// What came of a simulation.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The seed.
    pub seed: u64,
    /// The first broken rules.
    pub broken: Vec<Broken>,
    /// Hash over the story.
    pub hash: u64,
    /// Lines of the story.
    pub lines: u64,
    /// How long it took, on virtual time.
    pub lasted: Ms,
    /// How each rollout ended.
    pub phases: Vec<Option<RolloutPhase>>,
    /// Acts that began.
    pub begun: BTreeMap<Act, u32>,
    /// Devices.
    pub devices: usize,
    /// Permits that were live when their device lost the network.
    pub cut_off: u32,
}

/// A whole cluster with its fleet.
#[derive(Debug)]
pub struct Simulation {
    setup: Setup,
    hub: Hub,
    controllers: Vec<Controller>,
    gateways: Vec<Gateway>,
    devices: Vec<Device>,
    rollouts: Vec<String>,
    frozen: BTreeMap<(bool, usize), Ms>,
    last_write: Ms,
}

impl Simulation {
    /// The world that a seed stands for.
    pub fn new(setup: Setup) -> Simulation {
        let mut hub = Hub::new(setup.seed, setup.prints);
        hub.cuts = setup.cuts;
        let devices = scenario::devices(&mut hub, &setup);
        let rollouts = scenario::objects(&mut hub, &devices);
        let skew = |hub: &mut Hub| {
            if setup.faults { hub.random.within(0..20 * SECOND) as i64 - 10_000 } else { 0 }
        };
        let controllers = (0..2).map(|index| Controller::new(index, skew(&mut hub))).collect();
        let gateways = (0..2).map(|index| Gateway::new(index, skew(&mut hub))).collect();
        if setup.faults {
            scenario::faults(&mut hub, devices.len());
        }
        if setup.people {
            scenario::people(&mut hub, &rollouts, &devices);
        }
        if setup.people {
            scenario::brakes(&mut hub, setup.seed);
        }
        hub.after(CALM, Event::Calm);
        let frozen = BTreeMap::new();
        let mut simulation = Simulation {
            setup,
            hub,
            controllers,
            gateways,
            devices,
            rollouts,
            frozen,
            last_write: 0,
        };
        simulation.start();
        simulation
    }

    fn start(&mut self) {
        let hub = &mut self.hub;
        self.gateways.iter_mut().for_each(|gateway| gateway.start(hub));
        self.controllers.iter_mut().for_each(|controller| controller.start(hub));
        for device in 0..self.devices.len() {
            let soon = hub.random.within(0..MINUTE);
            hub.after(soon, Event::Device(device, device::What::Launch));
        }
    }

    /// Runs until a rule is broken, or everything has come to rest.
    pub fn run(mut self) -> Verdict {
        while self.hub.monitor.broken.is_empty() {
            let Some(event) = self.hub.next(END) else {
                self.judge_end();
                break;
            };
            self.happens(event);
            if self.hub.now > CALM + HOUR && self.is_at_rest() {
                break;
            }
        }
        self.judge_devices();
        let phases = self.rollouts.iter().map(|name| phase(&self.hub, name)).collect();
        Verdict {
            seed: self.setup.seed,
            broken: self.hub.monitor.broken.clone(),
            hash: self.hub.trace.hash(),
            lines: self.hub.trace.lines(),
            lasted: self.hub.now,
            phases,
            begun: self.hub.monitor.begun.clone(),
            devices: self.devices.len(),
            cut_off: self.hub.monitor.cut_off,
        }
    }

    fn happens(&mut self, event: Event) {
        let process = match event {
            Event::Controller(index, ..) => Some(Process::Controller(index)),
            Event::Gateway(index, ..) => Some(Process::Gateway(index)),
            _ => None,
        };
        if let Some(until) = process.and_then(|process| self.thaws(process)) {
            let delay = until - self.hub.now;
            return self.hub.after(delay, event);
        }
        let hub = &mut self.hub;
        match event {
            Event::Write { from, token, write } => self.write(from, token, *write),
            Event::Controller(index, life, what) => {
                let controller = &mut self.controllers[index];
                if controller.is_alive() && (life == 0 || life == controller.life()) {
                    controller.take(hub, what);
                }
            }
            Event::Gateway(index, life, what) => {
                let gateway = &mut self.gateways[index];
                if gateway.is_alive() && (life == 0 || life == gateway.life()) {
                    gateway.take(hub, what);
                }
            }
            Event::Device(index, what) => self.devices[index].take(hub, what),
            Event::Person(order) => {
                let before = hub.api.log.len();
                person::obey(hub, order);
                self.spread(before);
            }
            Event::Crash(process) => self.crash(process),
            Event::Restart(process) => match process {
                Process::Controller(index) => self.controllers[index].start(hub),
                Process::Gateway(index) => self.gateways[index].start(hub),
            },
            Event::Freeze(process, until) => {
                hub.tell(format!("{process:?} is frozen until {}", wall(until)));
                self.frozen.insert(key(process), until);
            }
            Event::Calm => {
                hub.tell("calm");
                hub.cuts = false;
                hub.weather = Weather::CALM;
                for device in &mut self.devices {
                    device.cut_off_until = 0;
                    // What never comes to rest by itself would make the controller write for ever.
                    device.world.calm_down();
                }
            }
        }
    }

    fn thaws(&self, process: Process) -> Option<Ms> {
        self.frozen.get(&key(process)).copied().filter(|until| *until > self.hub.now)
    }

    fn crash(&mut self, process: Process) {
        let hub = &mut self.hub;
        match process {
            Process::Controller(index) => {
                if !self.controllers[index].is_alive() {
                    return;
                }
                self.controllers[index].crash(hub);
            }
            Process::Gateway(index) => {
                if !self.gateways[index].is_alive() {
                    return;
                }
                self.gateways[index].crash(hub);
            }
        }
        let pause = hub.random.within(SECOND..3 * MINUTE);
        hub.after(pause, Event::Restart(process));
        // Somewhere in its next life it dies between two writes.
        if let Process::Controller(index) = process
            && hub.weather.lost > 0
            && hub.random.chance(800)
        {
            let writes = hub.random.within(1..12);
            let at = pause + SECOND;
            hub.after(at, Event::Controller(index, 0, controller::What::DieAfter(writes)));
        }
    }

    /// A write reaches the API server.
    fn write(&mut self, from: Sender, token: u64, write: crate::api::Write) {
        let who = match from.process {
            Process::Controller(index) => format!("controller {index}"),
            Process::Gateway(index) => format!("gateway {index}"),
        };
        let before = self.hub.api.log.len();
        let answer = self.hub.commit(&who, write);
        if let (Process::Controller(_), Some(change)) = (from.process, self.hub.api.log.get(before))
            // Devices come and go without end, and their groups with them.
            && !matches!(change.key.0, Kind::Lease | Kind::Device | Kind::Group)
        {
            self.last_write = self.hub.now;
        }
        let answer = Box::new(answer);
        let event = match from.process {
            Process::Controller(index) => {
                Event::Controller(index, from.life, controller::What::Answer(token, answer))
            }
            Process::Gateway(index) => {
                Event::Gateway(index, from.life, gateway::What::Answer(token, answer))
            }
        };
        self.hub.send(event);
        self.spread(before);
    }

    /// Watches deliver what is new, each in its time.
    fn spread(&mut self, before: usize) {
        let until = self.hub.api.log.len();
        for position in before..until {
            let kind = self.hub.api.log[position].key.0;
            for (index, controller) in self.controllers.iter().enumerate() {
                if WATCHED.contains(&kind) && controller.is_alive() {
                    let lag = self.hub.lag();
                    let what = controller::What::Deliver(kind, position + 1);
                    self.hub.after(lag, Event::Controller(index, controller.life(), what));
                }
            }
            for (index, gateway) in self.gateways.iter().enumerate() {
                if gateway::WATCHED.contains(&kind) && gateway.is_alive() {
                    let lag = self.hub.lag();
                    let what = gateway::What::Deliver(kind, position + 1);
                    self.hub.after(lag, Event::Gateway(index, gateway.life(), what));
                }
            }
        }
    }

    fn is_at_rest(&self) -> bool {
        self.hub.now - self.last_write.max(CALM) > REST
            && self.rollouts.iter().all(|name| is_ended(&self.hub, name))
    }

    /// Whatever happened, every rollout ends or names why it stands.
    fn judge_end(&mut self) {
        let now = self.hub.now;
        for name in self.rollouts.clone() {
            if !is_ended(&self.hub, &name) {
                let phase = phase(&self.hub, &name);
                self.hub.monitor.breaks(now, "L1", format!("{name} is still {phase:?}"));
            }
        }
        if now - self.last_write <= REST {
            self.hub.monitor.breaks(now, "L1", "the controller writes without end".to_owned());
        }
    }

    fn judge_devices(&mut self) {
        for device in &self.devices {
            for twice in device.world.twice() {
                let how = format!("{} was begun twice: {twice}", device.name);
                self.hub.monitor.breaks(self.hub.now, "S8", how);
            }
        }
    }
}

fn key(process: Process) -> (bool, usize) {
    match process {
        Process::Controller(index) => (true, index),
        Process::Gateway(index) => (false, index),
    }
}

fn phase(hub: &Hub, name: &str) -> Option<RolloutPhase> {
    let stored = hub.api.get(Kind::Rollout, name)?;
    stored.object.rollout()?.status.as_ref()?.phase
}

/// Whether a rollout is gone, at its end, or stopped with a reason that only a person can lift.
fn is_ended(hub: &Hub, name: &str) -> bool {
    let Some(Object::Rollout(rollout)) = hub.api.get(Kind::Rollout, name).map(|all| &all.object)
    else {
        return true;
    };
    if rollout.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let Some(status) = &rollout.status else { return false };
    let waits = |reason: Reason| status.waiting_for.iter().any(|all| all.reason == reason.as_str());
    matches!(
        status.phase,
        Some(
            RolloutPhase::Completed
                | RolloutPhase::Halted
                | RolloutPhase::RolledBack
                | RolloutPhase::Aborted
                | RolloutPhase::Suspended
                | RolloutPhase::Invalid
        )
    ) || waits(Reason::TooFewDevices)
}

/// Runs one simulation.
pub fn simulate(setup: Setup) -> Verdict {
    Simulation::new(setup).run()
}
