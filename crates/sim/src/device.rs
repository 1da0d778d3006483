//! A device: the agent's real state machine and outbox, driven on virtual time over a scripted Windows.
//!
//! What the driver of the real agent does with threads and files is done here with events: the state is
//! durable before an effect runs, and the process may die between the two.

use std::collections::BTreeSet;

use wardring_agent::{
    outbox::Outbox,
    state::{
        Answer, Ask, BootKind, BootRecord, Effect, Event as AgentEvent, InstallFound, Me, Now,
        Reply, Start, State, Surroundings, step,
    },
};
use wardring_protocol::{
    Facts, JobAnswer, JobQuery, PROTOCOL_VERSION, PermitAnswer, PermitRequest, ReportAck,
    ReportBatch, ReportBody, Step, key_id,
};
use wardring_seal::JobKey;

use crate::{
    clock::{HOUR, MINUTE, Ms, SECOND, skewed},
    gateway::{self, Request},
    hub::{Event, Hub},
    monitor::Act,
    seal,
    world::{Comeback, World},
};

/// Life of a request to a gateway.
const PATIENCE: Ms = 20 * SECOND;
/// Pause between polls of an agent that has nothing to do.
const IDLE: Ms = 45 * SECOND;
/// How often facts are looked at.
const FACTS: Ms = 5 * MINUTE;

/// What reaches a device.
#[derive(Clone, Debug)]
pub enum What {
    /// Windows is up after a boot of this kind.
    Up(BootKind),
    /// The agent's process starts.
    Launch,
    /// The agent's process is killed.
    Kill,
    /// Windows goes down.
    Down(BootKind),
    /// The agent's journal is lost; its process dies of that.
    LoseJournal,
    /// No gateway can be reached until the instant.
    CutOff(Ms),
    /// A person switches it on again.
    Repair,
    /// An installation or removal comes to its end.
    Ended(u32),
    /// To the run of the agent with this number.
    Run(u64, Inner),
}

/// What reaches one run of the agent.
#[derive(Clone, Debug)]
pub enum Inner {
    /// A timer, of a turn.
    Wake(u64),
    /// Something was found out, or done.
    Answer(u64, Box<Answer>),
    /// The last moment before an act: the permit is looked at once more.
    Act(u64, Box<Ask>),
    /// Time to poll.
    Poll,
    /// A gateway answered a poll.
    Polled(u64, Box<JobAnswer>),
    /// A gateway answered about a permit.
    Permitted(u64, Box<PermitAnswer>),
    /// A request got no answer.
    Unanswered(u64, Waiting),
    /// Time to send reports.
    Send,
    /// A gateway answered reports; `None` if it could not take them.
    Reported(u64, Box<Option<ReportAck>>),
    /// Time to look at the facts.
    Facts,
}

/// What a request was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Waiting {
    Poll,
    Permit,
    Report,
}

/// One run of the agent's process.
#[derive(Debug)]
struct Run {
    number: u64,
    id: String,
    begun: Ms,
    timer: u64,
    requests: u64,
    polling: Option<u64>,
    sending: Option<u64>,
    permit: Option<u64>,
    /// Turn and instant of the request for a permit.
    asked: (u64, Ms),
    pause: Ms,
    last_facts: Option<Facts>,
}

/// A device.
#[derive(Debug)]
pub struct Device {
    index: usize,
    /// Name.
    pub name: String,
    /// Enrolment id.
    pub id: String,
    /// Its Windows.
    pub world: World,
    /// What the journal holds.
    pub state: State,
    outbox: Outbox,
    run: Option<Run>,
    runs: u64,
    /// Whether Windows runs.
    pub is_up: bool,
    /// Its clock is so far off.
    pub skew_ms: i64,
    /// No gateway can be reached before this.
    pub cut_off_until: Ms,
    lost: bool,
    last_boot: BootKind,
    ends: u32,
}

impl Device {
    /// A device that is switched on.
    pub fn new(index: usize, name: &str, world: World, skew_ms: i64) -> Device {
        Device {
            index,
            name: name.to_owned(),
            id: format!("eid-{name}"),
            world,
            state: State::default(),
            outbox: Outbox::default(),
            run: None,
            runs: 0,
            is_up: true,
            skew_ms,
            cut_off_until: 0,
            lost: false,
            last_boot: BootKind::Unknown,
            ends: 0,
        }
    }

    fn after(&self, hub: &mut Hub, delay: Ms, what: What) {
        hub.after(delay, Event::Device(self.index, what));
    }

    fn inner(&self, hub: &mut Hub, delay: Ms, inner: Inner) {
        if let Some(run) = &self.run {
            self.after(hub, delay, What::Run(run.number, inner));
        }
    }

    /// Takes an event.
    pub fn take(&mut self, hub: &mut Hub, what: What) {
        match what {
            What::Up(kind) => self.up(hub, kind),
            What::Launch => self.launch(hub),
            What::Kill => {
                if self.run.take().is_some() {
                    hub.tell(format!("{}: the agent is killed", self.name));
                    let pause = hub.random.within(SECOND..MINUTE);
                    self.after(hub, pause, What::Launch);
                }
            }
            What::Down(kind) => self.down(hub, kind),
            What::LoseJournal => {
                hub.tell(format!("{}: loses its journal", self.name));
                (self.state, self.outbox) = (State::default(), Outbox::default());
                self.lost = true;
                self.take(hub, What::Kill);
            }
            What::CutOff(until) => {
                hub.tell(format!("{}: cut off", self.name));
                self.cut_off_until = until;
                hub.monitor.lost_contact(hub.now, &self.id);
            }
            What::Repair => self.up(hub, BootKind::Dirty),
            What::Ended(number) => {
                if number == self.ends && self.world.running.is_some() {
                    self.ended(hub);
                }
            }
            What::Run(number, inner) => {
                if self.run.as_ref().is_some_and(|run| run.number == number) {
                    self.inside(hub, inner);
                }
            }
        }
    }

    fn up(&mut self, hub: &mut Hub, kind: BootKind) {
        if self.is_up {
            return;
        }
        self.is_up = true;
        self.world.come_up();
        self.last_boot = kind;
        hub.tell(format!("{}: up in {} after {kind:?}", self.name, self.world.boot_id()));
        let pause = hub.random.within(SECOND..20 * SECOND);
        self.after(hub, pause, What::Launch);
        if self.world.crashes() {
            let soon = hub.random.within(30 * SECOND..4 * MINUTE);
            self.after(hub, soon, What::Down(BootKind::Crash));
        }
    }

    fn down(&mut self, hub: &mut Hub, kind: BootKind) {
        if !self.is_up || (kind == BootKind::Crash && !self.world.crashes()) {
            return;
        }
        (self.is_up, self.run) = (false, None);
        let comeback = self.world.go_down();
        hub.tell(format!("{}: down, {kind:?}, comes back {comeback:?}", self.name));
        let pause = match comeback {
            Comeback::Soon => hub.random.within(30 * SECOND..6 * MINUTE),
            Comeback::Late => hub.random.within(HOUR..4 * HOUR),
            Comeback::Never => return,
        };
        self.after(hub, pause, What::Up(kind));
    }

    fn launch(&mut self, hub: &mut Hub) {
        if !self.is_up || self.run.is_some() {
            return;
        }
        self.runs += 1;
        self.run = Some(Run {
            number: self.runs,
            id: format!("{}-run-{}", self.name, self.runs),
            begun: hub.now,
            timer: 0,
            requests: 0,
            polling: None,
            sending: None,
            permit: None,
            asked: (0, 0),
            pause: SECOND,
            last_facts: None,
        });
        let start = Start {
            run: format!("{}-run-{}", self.name, self.runs),
            me: Me {
                namespace: seal::NAMESPACE.to_owned(),
                device: self.name.clone(),
                device_id: self.id.clone(),
            },
            boot: BootRecord {
                boot_id: self.world.boot_id(),
                at: skewed(hub.now, self.skew_ms),
                kind: self.last_boot,
                off: None,
            },
            build: self.world.build(),
            lost: std::mem::take(&mut self.lost),
            refuses: None,
            roles: Vec::new(),
            paused: None,
        };
        self.happens(hub, AgentEvent::Started(Box::new(start)));
        let soon = hub.random.within(100..3 * SECOND);
        self.inner(hub, soon, Inner::Poll);
        self.inner(hub, soon, Inner::Facts);
        self.inner(hub, soon, Inner::Send);
    }

    fn now(&self, hub: &Hub) -> Now {
        let begun = self.run.as_ref().map_or(0, |run| run.begun);
        Now { wall: skewed(hub.now, self.skew_ms), mono_ms: hub.now - begun }
    }

    /// One step: the new state and its reports become durable, then the effects run, unless the
    /// process dies before or between.
    fn happens(&mut self, hub: &mut Hub, event: AgentEvent) {
        let (state, effects) = match step(&self.state, self.now(hub), event) {
            Ok(stepped) => stepped,
            Err(unexpected) => return hub.tell(format!("{}: refused: {unexpected}", self.name)),
        };
        if hub.weather.lost > 0 && hub.random.chance(2) {
            hub.tell(format!("{}: dies before the journal is written", self.name));
            return self.take(hub, What::Kill);
        }
        if state.highest_sequence < self.state.highest_sequence {
            hub.monitor.breaks(hub.now, "S4", format!("{} forgot a sequence", self.name));
        }
        self.state = state;
        for effect in &effects {
            match effect {
                Effect::Progress(progress) => {
                    self.outbox.push(ReportBody::Progress((**progress).clone()), None);
                }
                Effect::Outcome(outcome) => {
                    hub.tell(format!(
                        "{}: {:?} {:?}: {}",
                        self.name, outcome.key.action, outcome.result, outcome.message
                    ));
                    let (is_proven, carries) = (self.world.is_proven(), self.world.carries_any());
                    hub.monitor.concluded(&outcome.key, outcome.result, is_proven, carries);
                    let signed = seal::sign(outcome, &self.id);
                    self.outbox.push(ReportBody::Outcome(signed), Some(&outcome.key));
                }
                Effect::Ask { .. }
                | Effect::Announce { .. }
                | Effect::AskToLeave { .. }
                | Effect::TakeBackRestart => {}
            }
        }
        if hub.weather.lost > 0 && hub.random.chance(2) {
            hub.tell(format!("{}: dies after the journal is written", self.name));
            return self.take(hub, What::Kill);
        }
        if effects.iter().any(|effect| matches!(effect, Effect::Progress(_) | Effect::Outcome(_))) {
            self.inner(hub, 1, Inner::Send);
        }
        for effect in effects {
            if let Effect::Ask { turn, ask } = effect {
                self.carry_out(hub, turn, ask);
            }
        }
    }

    fn carry_out(&mut self, hub: &mut Hub, turn: u64, ask: Ask) {
        match ask {
            Ask::Wake { after_ms } => {
                if let Some(run) = &mut self.run {
                    run.timer = turn;
                }
                self.inner(hub, after_ms, Inner::Wake(turn));
            }
            Ask::Permit { key, step, accepted_in } => {
                self.ask_permit(hub, turn, key, step, accepted_in);
            }
            Ask::Inspect { .. }
            | Ask::LookAround { .. }
            | Ask::AskPeople { .. }
            | Ask::SeekContact { .. }
            | Ask::RestartService { .. }
            | Ask::RunHook { .. } => {
                let pause = hub.random.within(200..4 * SECOND);
                self.inner(hub, pause, Inner::Act(turn, Box::new(ask)));
            }
            Ask::Download { .. } => {
                let pause = hub.random.within(SECOND..2 * MINUTE);
                self.inner(hub, pause, Inner::Act(turn, Box::new(ask)));
            }
            // The journal and the platform take their time before anything begins.
            Ask::Install { .. } | Ask::Uninstall { .. } | Ask::Reboot { .. } => {
                let slow = hub.random.chance(30);
                let pause = hub.random.within(5..if slow { 90 * SECOND } else { 500 });
                self.inner(hub, pause, Inner::Act(turn, Box::new(ask)));
            }
            Ask::FindInstall { .. } => self.inner(hub, 50, Inner::Act(turn, Box::new(ask))),
        }
    }

    fn inside(&mut self, hub: &mut Hub, inner: Inner) {
        match inner {
            Inner::Wake(turn) => {
                if self.run.as_ref().is_some_and(|run| run.timer == turn) {
                    self.happens(hub, AgentEvent::Answered { turn, answer: Answer::Woke });
                }
            }
            Inner::Answer(turn, answer) => {
                self.happens(hub, AgentEvent::Answered { turn, answer: *answer });
            }
            Inner::Act(turn, ask) => self.act(hub, turn, *ask),
            Inner::Poll => self.poll(hub),
            Inner::Polled(request, answer) => self.polled(hub, request, *answer),
            Inner::Permitted(request, answer) => {
                if self.settle(Waiting::Permit, request) {
                    self.permitted(hub, Some(*answer));
                }
            }
            Inner::Unanswered(request, waiting) => self.unanswered(hub, request, waiting),
            Inner::Send => self.send(hub),
            Inner::Reported(request, ack) => self.reported(hub, request, *ack),
            Inner::Facts => {
                self.inner(hub, FACTS, Inner::Facts);
                let facts = self.world.facts(&self.name, hub.now);
                let Some(run) = &mut self.run else { return };
                if run.last_facts.as_ref() != Some(&facts) {
                    run.last_facts = Some(facts.clone());
                    self.outbox.push(ReportBody::Facts(Box::new(facts)), None);
                    self.inner(hub, 1, Inner::Send);
                }
            }
        }
    }

    fn permitted(&mut self, hub: &mut Hub, answer: Option<PermitAnswer>) {
        let Some(run) = &self.run else { return };
        let (turn, asked) = run.asked;
        let asked_mono_ms = asked - run.begun;
        self.answer(hub, turn, Answer::Permit { asked_mono_ms, answer });
    }

    fn answer(&mut self, hub: &mut Hub, turn: u64, answer: Answer) {
        self.happens(hub, AgentEvent::Answered { turn, answer });
    }

    /// Does what was asked for.
    fn act(&mut self, hub: &mut Hub, turn: u64, ask: Ask) {
        let mono_ms = self.now(hub).mono_ms;
        match ask {
            Ask::Inspect { updates, services, probes, .. } => {
                let seen = self.world.inspect(&updates, &services, &probes);
                self.answer(hub, turn, Answer::Inspected(Box::new(seen)));
            }
            Ask::Download { .. } => {
                let fails = hub.weather.lost > 0 && hub.random.chance(50);
                let result = if fails { Err("no route".to_owned().into()) } else { Ok(()) };
                self.answer(hub, turn, Answer::Downloaded(result));
            }
            Ask::RestartService { .. } => {
                self.world.restart_service();
                self.answer(hub, turn, Answer::Restarted(Ok(())));
            }
            Ask::LookAround { .. } => {
                self.answer(hub, turn, Answer::LookedAround(Surroundings::CLEAR));
            }
            // They have no network but their gateways, and no job asks them to go by it.
            Ask::SeekContact { .. } => self.answer(hub, turn, Answer::Contact(BTreeSet::new())),
            // Nobody works at the simulated devices.
            Ask::AskPeople { .. } => self.answer(hub, turn, Answer::PeopleSaid(Reply::Nothing)),
            Ask::RunHook { .. } => self.answer(hub, turn, Answer::HookEnded(Ok(()))),
            // No scripted installation fails with a code that is tried again, so there is one try.
            Ask::Install { key, update, not_after_mono_ms, .. } => {
                self.service(hub, turn, key, &update.kb, Some((not_after_mono_ms, mono_ms)));
            }
            Ask::Uninstall { key, update, not_after_mono_ms, .. } => {
                self.service(hub, turn, key, &update.kb, Some((not_after_mono_ms, mono_ms)));
            }
            Ask::FindInstall { key, update, .. } => self.service(hub, turn, key, &update.kb, None),
            Ask::Reboot { key, boot_before, not_after_mono_ms, .. } => {
                if mono_ms >= not_after_mono_ms {
                    self.answer(hub, turn, Answer::PermitExpired);
                } else if boot_before == self.world.boot_id() {
                    self.begins(hub, key, Act::Reboot, "");
                    self.down(hub, BootKind::Expected);
                }
            }
            Ask::Wake { .. } | Ask::Permit { .. } => {}
        }
    }

    /// An installation or removal: how it ended, or that it runs, or its beginning within the permit.
    fn service(
        &mut self,
        hub: &mut Hub,
        turn: u64,
        key: JobKey,
        kb: &str,
        permit: Option<(u64, u64)>,
    ) {
        let is_removal = key.action == wardring_seal::Action::Rollback;
        let found = |ended| {
            if is_removal { Answer::Uninstalled(ended) } else { Answer::Installed(ended) }
        };
        if let Some(result) = self.world.ended(&key, kb) {
            return self.answer(hub, turn, found(InstallFound::Ended(result)));
        }
        let runs = self.world.running.as_ref();
        if let Some((.., until)) = runs.filter(|(of, what, _)| *of == key && what == kb) {
            // Somebody who asks while it runs waits for its end.
            let left = until.saturating_sub(hub.now) + 10;
            let ask = Ask::FindInstall { key, update: target(kb), tries: 0 };
            return self.inner(hub, left, Inner::Act(turn, Box::new(ask)));
        }
        let Some((not_after, mono)) = permit else {
            return self.answer(hub, turn, found(InstallFound::NotBegun));
        };
        if mono >= not_after {
            return self.answer(hub, turn, Answer::PermitExpired);
        }
        let act = if is_removal { Act::Uninstall } else { Act::Install };
        self.begins(hub, key.clone(), act, kb);
        let length = hub.random.within(30 * SECOND..8 * MINUTE);
        self.world.begin(&key, kb, hub.now + length);
        self.ends += 1;
        self.after(hub, length, What::Ended(self.ends));
        let ask = Ask::FindInstall { key, update: target(kb), tries: 0 };
        self.inner(hub, length + 10, Inner::Act(turn, Box::new(ask)));
    }

    fn ended(&mut self, hub: &mut Hub) {
        self.world.finish();
        hub.tell(format!("{}: servicing ended", self.name));
    }

    fn begins(&mut self, hub: &mut Hub, key: JobKey, act: Act, kb: &str) {
        hub.tell(format!("{}: BEGINS {act:?} {kb} attempt {}", self.name, key.attempt));
        let run = self.run.as_ref().map_or(String::new(), |run| run.id.clone());
        let boot = self.world.boot_id();
        let Hub { api, monitor, now, .. } = hub;
        monitor.begins(api, *now, &self.name, &key, act, kb, &run, &boot);
    }

    /// Sends a request to one of the gateways.
    fn request(&mut self, hub: &mut Hub, request: Request, waiting: Waiting) {
        let Some(run) = &mut self.run else { return };
        run.requests += 1;
        let number = run.requests;
        match waiting {
            Waiting::Poll => run.polling = Some(number),
            Waiting::Permit => run.permit = Some(number),
            Waiting::Report => run.sending = Some(number),
        }
        let from = gateway::Caller { device: self.index, run: run.number, request: number };
        self.inner(hub, PATIENCE, Inner::Unanswered(number, waiting));
        if hub.now < self.cut_off_until {
            return;
        }
        let gateway = hub.random.within(0..2) as usize;
        let what = gateway::What::Request(from, self.name.clone(), self.id.clone(), request);
        hub.send(Event::Gateway(gateway, 0, what));
    }

    /// Whether the answer is to the request that waits; it waits no longer then.
    fn settle(&mut self, waiting: Waiting, request: u64) -> bool {
        let Some(run) = &mut self.run else { return false };
        let slot = match waiting {
            Waiting::Poll => &mut run.polling,
            Waiting::Permit => &mut run.permit,
            Waiting::Report => &mut run.sending,
        };
        slot.take_if(|waits| *waits == request).is_some()
    }

    fn ask_permit(
        &mut self,
        hub: &mut Hub,
        turn: u64,
        key: JobKey,
        step: Step,
        accepted_in: String,
    ) {
        let Some(run) = &mut self.run else { return };
        run.asked = (turn, hub.now);
        let request = PermitRequest {
            key,
            step,
            boot_id: self.world.boot_id(),
            agent_run: run.id.clone(),
            accepted_in,
            highest_sequence: self.state.highest_sequence,
            now: skewed(hub.now, self.skew_ms),
        };
        self.request(hub, Request::Permit(Box::new(request)), Waiting::Permit);
    }

    fn unanswered(&mut self, hub: &mut Hub, request: u64, waiting: Waiting) {
        if !self.settle(waiting, request) {
            return;
        }
        match waiting {
            Waiting::Poll => {
                let pause = hub.random.within(SECOND..20 * SECOND);
                self.inner(hub, pause, Inner::Poll);
            }
            Waiting::Permit => self.permitted(hub, None),
            Waiting::Report => self.retry_send(hub),
        }
    }

    fn poll(&mut self, hub: &mut Hub) {
        let Some(run) = &self.run else { return };
        let query = JobQuery {
            known: self.state.known().map(key_id),
            wait: 0,
            run: run.id.clone(),
            boot: self.world.boot_id(),
            seq: self.state.highest_sequence,
        };
        self.request(hub, Request::Poll(query), Waiting::Poll);
    }

    fn polled(&mut self, hub: &mut Hub, request: u64, answer: JobAnswer) {
        if !self.settle(Waiting::Poll, request) {
            return;
        }
        let pause = if self.state.job.is_some() { 5 * SECOND } else { IDLE };
        let pause = hub.random.within(pause / 2..pause);
        self.inner(hub, pause, Inner::Poll);
        if self.state.mode != answer.mode {
            self.happens(hub, AgentEvent::ModeSet(answer.mode));
        }
        let Some(sealed) = answer.job else { return };
        match seal::open(&sealed, &self.id) {
            Some(payload) => self.happens(hub, AgentEvent::Offered(Box::new(payload))),
            None => hub.tell(format!("{}: a job is not believed", self.name)),
        }
    }

    fn send(&mut self, hub: &mut Hub) {
        let Some(run) = &self.run else { return };
        let reports = self.outbox.batch();
        if run.sending.is_some() || reports.is_empty() {
            return;
        }
        let batch = ReportBatch {
            version: PROTOCOL_VERSION,
            agent_run: run.id.clone(),
            boot_id: self.world.boot_id(),
            now: skewed(hub.now, self.skew_ms),
            uptime_ms: 0,
            reports,
        };
        self.request(hub, Request::Report(Box::new(batch)), Waiting::Report);
    }

    fn retry_send(&mut self, hub: &mut Hub) {
        let Some(run) = &mut self.run else { return };
        let pause = run.pause;
        run.pause = (run.pause * 2).min(MINUTE);
        self.inner(hub, pause, Inner::Send);
    }

    fn reported(&mut self, hub: &mut Hub, request: u64, ack: Option<ReportAck>) {
        if !self.settle(Waiting::Report, request) {
            return;
        }
        let Some(ack) = ack else { return self.retry_send(hub) };
        self.outbox.acked(&ack);
        if let Some(run) = &mut self.run {
            run.pause = SECOND;
        }
        if !self.outbox.is_empty() {
            self.inner(hub, SECOND, Inner::Send);
        }
    }
}

fn target(kb: &str) -> wardring_seal::UpdateTarget {
    wardring_seal::UpdateTarget {
        kb: kb.to_owned(),
        product: String::new(),
        kind: wardring_seal::UpdateKind::Other,
        target_build: None,
        identities: Vec::new(),
        package: None,
    }
}
