//! What every actor shares: the clock with its queue of events, the network, the API server, and the
//! monitor that looks on.

use std::collections::BTreeMap;

use crate::{
    api::{Answer, Api, Kind, Object, Write},
    clock::{Ms, SECOND},
    controller, device, gateway,
    monitor::Monitor,
    person::Order,
    random::Random,
    trace::Trace,
};

/// A client waits this long for an answer of the API server.
pub const PATIENCE: Ms = 10 * SECOND;

/// Something that happens at an instant.
#[derive(Clone, Debug)]
pub enum Event {
    /// A write reaches the API server.
    Write {
        /// Who sent it.
        from: Sender,
        /// Which of its writes.
        token: u64,
        /// The write.
        write: Box<Write>,
    },
    /// To a controller.
    Controller(usize, u64, controller::What),
    /// To a gateway.
    Gateway(usize, u64, gateway::What),
    /// To a device.
    Device(usize, device::What),
    /// A person does something.
    Person(Order),
    /// A process dies.
    Crash(Process),
    /// A process stands still until the instant, and then goes on as if nothing had happened.
    Freeze(Process, Ms),
    /// A process that died starts anew.
    Restart(Process),
    /// The faults end.
    Calm,
}

/// A process in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// A controller.
    Controller(usize),
    /// A gateway.
    Gateway(usize),
}

/// Who sent a write: the process and which life of it, so that answers to the dead are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The process.
    pub process: Process,
    /// Its life.
    pub life: u64,
}

/// What the network does, in cases of a thousand.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// A message does not arrive.
    pub lost: u64,
    /// A message arrives twice.
    pub doubled: u64,
    /// A message arrives late: after its sender has given up.
    pub late: u64,
    /// Longest lag of a watch.
    pub lag: Ms,
}

impl Weather {
    /// Nothing is lost, and nothing comes late.
    pub const CALM: Weather = Weather { lost: 0, doubled: 0, late: 0, lag: SECOND };

    /// Weather of some badness.
    pub fn draw(random: &mut Random) -> Weather {
        Weather {
            lost: random.pick(&[0, 5, 20, 80]),
            doubled: random.pick(&[0, 5, 40]),
            late: random.pick(&[0, 5, 30]),
            lag: random.pick(&[SECOND, 5 * SECOND, 40 * SECOND]),
        }
    }
}

/// What every actor shares.
#[derive(Debug)]
pub struct Hub {
    /// The instant.
    pub now: Ms,
    /// Where chance comes from.
    pub random: Random,
    /// The API server.
    pub api: Api,
    /// Who looks on.
    pub monitor: Monitor,
    /// The story.
    pub trace: Trace,
    /// The network.
    pub weather: Weather,
    /// Devices that were permitted something lose the network.
    pub cuts: bool,
    queue: BTreeMap<(Ms, u64), Event>,
    scheduled: u64,
}

impl Hub {
    /// A hub at the beginning of time.
    pub fn new(seed: u64, prints: bool) -> Hub {
        Hub {
            now: 0,
            random: Random::new(seed),
            api: Api::default(),
            monitor: Monitor::default(),
            trace: Trace::new(prints),
            weather: Weather::CALM,
            cuts: false,
            queue: BTreeMap::new(),
            scheduled: 0,
        }
    }

    /// Lets something happen after `delay`.
    pub fn after(&mut self, delay: Ms, event: Event) {
        self.scheduled += 1;
        self.queue.insert((self.now + delay, self.scheduled), event);
    }

    /// The next event, if it happens before `end`.
    pub fn next(&mut self, end: Ms) -> Option<Event> {
        let entry = self.queue.first_entry().filter(|entry| entry.key().0 < end)?;
        let ((now, _), event) = entry.remove_entry();
        self.now = now;
        Some(event)
    }

    /// Tells the story.
    pub fn tell(&mut self, line: impl AsRef<str>) {
        self.trace.tell(self.now, line.as_ref());
    }

    /// How long a message is under way.
    pub fn latency(&mut self) -> Ms {
        self.random.within(2..40)
    }

    /// Sends something over the network: it may be lost, doubled, late and overtaken.
    pub fn send(&mut self, event: Event) {
        let Weather { lost, doubled, late, .. } = self.weather;
        if self.random.chance(lost) {
            return;
        }
        let mut delay = self.latency();
        if self.random.chance(late) {
            delay += self.random.within(PATIENCE..120 * SECOND);
        }
        if self.random.chance(doubled) {
            let again = delay + self.random.within(0..5 * SECOND);
            self.after(again, event.clone());
        }
        self.after(delay, event);
    }

    /// Sends a write to the API server; the answer comes back as an event, or it does not.
    pub fn write(&mut self, from: Sender, token: u64, write: Write) {
        self.send(Event::Write { from, token, write: Box::new(write) });
    }

    /// How far a watch lags behind right now.
    pub fn lag(&mut self) -> Ms {
        let longest = self.weather.lag;
        if self.random.chance(700) { self.latency() } else { self.random.within(10..longest) }
    }

    /// Carries a write out and tells what came of it.
    pub fn commit(&mut self, who: &str, write: Write) -> Answer {
        let what = told(&write);
        let before = self.api.log.len();
        let answer = self.api.write(write, self.now);
        let outcome = match &answer {
            Ok(stored) => format!("v{}", stored.version),
            Err(crate::api::Refusal::Exists(_)) => "exists".to_owned(),
            Err(refusal) => format!("{refusal:?}"),
        };
        self.tell(format!("{who}: {what} -> {outcome}"));
        if self.api.log.len() > before {
            self.monitor.changed(&self.api, self.now, who);
        }
        answer
    }
}

/// A write in one line.
fn told(write: &Write) -> String {
    match write {
        Write::Create(object) => format!("create {}", shown(object)),
        Write::Replace { version, object, .. } => format!("replace v{version} {}", shown(object)),
        Write::Delete { key, version, .. } => format!("delete {:?} {} {version:?}", key.0, key.1),
    }
}

fn shown(object: &Object) -> String {
    let (kind, name) = (object.kind(), object.name());
    let detail = match object {
        Object::Slice(slice) => slice.spec.lines.join(" | "),
        Object::Ledger(ledger) => format!("{:?}", ledger.status),
        Object::Job(job) => {
            let status = job.status.as_ref();
            format!(
                "{:?} attempt {} seq {} permits {} state {:?} outcome {}",
                job.spec.action,
                job.spec.attempt,
                job.spec.sequence,
                status.map_or(0, |status| status.permitted.len()),
                status.and_then(|status| status.state),
                status.is_some_and(|status| status.outcome.is_some()),
            )
        }
        Object::Rollout(rollout) => {
            let status = rollout.status.as_ref();
            let stages = status.map(|status| {
                let stages = status.stages.iter().map(|stage| format!("{:?}", stage.state));
                stages.collect::<Vec<_>>().join(",")
            });
            let message = status.and_then(|status| status.message.clone());
            format!("{:?} {stages:?} {message:?}", status.and_then(|status| status.phase))
        }
        Object::Device(device) => {
            let online = device
                .status
                .as_ref()
                .and_then(|status| status.conditions.iter().find(|all| all.type_ == "Online"));
            format!("online {:?}", online.map(|online| online.status.clone()))
        }
        Object::Lease(lease) => format!("{lease:?}"),
        Object::Group(_) | Object::Hold(_) | Object::Stop(_) => String::new(),
    };
    format!("{kind:?} {name} {detail}")
}

/// Kinds that a controller watches.
pub const WATCHED: [Kind; 8] = [
    Kind::Ledger,
    Kind::Rollout,
    Kind::Slice,
    Kind::Job,
    Kind::Device,
    Kind::Group,
    Kind::Hold,
    Kind::Stop,
];
