//! A gateway process: mailbox, permit desk and report intake, with the real permit rule and the real
//! merge. Reads and the write that follows them are separate events, so that anything can come between.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::SignedDuration;
use wardring_api::{DeviceMode, Permit, PermitStep, SliceLine, conditions, reasons::Reason};
use wardring_gateway::{
    merge::{
        FactsReport, OutcomeReport, ProgressReport, apply_facts, apply_outcome, apply_permit,
        apply_progress, apply_refused_step, fingerprint, note_run, reduce, sighting,
    },
    runs::{Runs, Sighting},
};
use wardring_planner::{
    Circumstances, DeviceRow, DeviceTable, GroupView, HoldView, JobOutcome, JobView, PermitFacts,
    PermitRequest as Asked, PermitVerdict, StopView, missing_group, permit,
};
use wardring_protocol::{
    JobAnswer, JobQuery, Mode, PermitAnswer, PermitRequest, ReportAck, ReportBatch, Step, key_id,
};
use wardring_seal::JobKey;

use crate::{
    api::{Answer, Cache, Kind, Object, Stored, Write},
    clock::{HOUR, MINUTE, Ms, SECOND, skewed},
    device,
    hub::{Event, Hub, PATIENCE, Process, Sender},
    seal,
};

/// A Lease that did not move for this long says that nobody leads.
const LEASE: Ms = 15 * SECOND;
/// Conflicts borne.
const TRIES: u32 = 5;
/// Kinds that a gateway watches.
pub const WATCHED: [Kind; 3] = [Kind::Device, Kind::Job, Kind::Lease];

/// Which request of which run of which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Caller {
    pub device: usize,
    pub run: u64,
    pub request: u64,
}

/// What an agent asks.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Request {
    Poll(JobQuery),
    Permit(Box<PermitRequest>),
    Report(Box<ReportBatch>),
}

/// What reaches a gateway.
#[derive(Clone, Debug)]
pub enum What {
    /// A request, with name and enrolment id of the device that its certificate names.
    Request(Caller, String, String, Request),
    /// A watch delivers.
    Deliver(Kind, usize),
    /// The next step of an operation.
    Go(u64),
    /// The API server answered a write.
    Answer(u64, Box<Answer>),
    /// It did not answer in time.
    GiveUp(u64, u64),
    /// Time to tell the controllers who is in contact.
    Presence,
}

/// Something that takes several steps.
#[derive(Clone, Debug)]
struct Op {
    caller: Caller,
    device: String,
    id: String,
    tries: u32,
    token: u64,
    kind: OpKind,
}

#[derive(Clone, Debug)]
enum OpKind {
    /// Reads the job.
    Permit(Box<PermitRequest>),
    /// Reads everything else, decides and writes.
    Decide(Box<PermitRequest>, Box<Option<Stored>>),
    /// Appending the permit.
    Record(Box<PermitRequest>),
    /// Writing reports, one object after the other.
    Report(Box<Intake>),
}

#[derive(Clone, Debug)]
struct Intake {
    run: String,
    numbers: Vec<u64>,
    items: Vec<Item>,
    failed: Vec<u64>,
    highest: u64,
}

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "there are a few at a time, for a moment")]
enum Item {
    Job(JobKey, Option<ProgressReport>, Option<OutcomeReport>),
    Facts(FactsReport),
}

impl Item {
    fn number(&self) -> u64 {
        match self {
            Item::Job(_, progress, outcome) => {
                let progress = progress.as_ref().map(|report| report.seq);
                let outcome = outcome.as_ref().map(|report| report.seq);
                progress.into_iter().chain(outcome).min().unwrap_or(0)
            }
            Item::Facts(report) => report.seq,
        }
    }
}

/// A gateway.
#[derive(Debug)]
pub struct Gateway {
    index: usize,
    life: u64,
    is_alive: bool,
    skew_ms: i64,
    cache: Cache,
    /// The Lease as last seen, and when it was first seen to have moved to that.
    lease: Option<(u64, Option<Ms>)>,
    runs: BTreeMap<String, Runs>,
    heard: BTreeMap<String, Ms>,
    highest: BTreeMap<String, u64>,
    ops: BTreeMap<u64, Op>,
    tokens: u64,
}

impl Gateway {
    /// A process that is about to start.
    pub fn new(index: usize, skew_ms: i64) -> Gateway {
        Gateway {
            index,
            life: 0,
            is_alive: false,
            skew_ms,
            cache: Cache::default(),
            lease: None,
            runs: BTreeMap::new(),
            heard: BTreeMap::new(),
            highest: BTreeMap::new(),
            ops: BTreeMap::new(),
            tokens: 0,
        }
    }

    /// Starts the process anew: nothing it knew is left.
    pub fn start(&mut self, hub: &mut Hub) {
        let life = self.life + 1;
        *self = Gateway { life, is_alive: true, ..Gateway::new(self.index, self.skew_ms) };
        for kind in WATCHED {
            self.cache.list_now(&hub.api, kind);
        }
        hub.tell(format!("gateway {} starts, life {life}", self.index));
        self.later(hub, SECOND, What::Presence);
    }

    /// The process dies.
    pub fn crash(&mut self, hub: &mut Hub) {
        hub.tell(format!("gateway {} dies", self.index));
        self.is_alive = false;
        self.life += 1;
    }

    /// The life that events must name; agents name none.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// Whether it runs.
    pub fn is_alive(&self) -> bool {
        self.is_alive
    }

    fn later(&self, hub: &mut Hub, delay: Ms, what: What) {
        hub.after(delay, Event::Gateway(self.index, self.life, what));
    }

    /// Takes an event.
    pub fn take(&mut self, hub: &mut Hub, what: What) {
        match what {
            What::Request(caller, device, id, request) => {
                self.asked(hub, caller, device, id, request);
            }
            What::Deliver(kind, until) => {
                self.cache.deliver(&hub.api, kind, until);
                if kind == Kind::Lease {
                    self.note_lease(hub.now);
                }
            }
            What::Go(number) => self.go_on(hub, number),
            What::Answer(token, answer) => {
                let found = self.ops.iter().find(|(_, op)| op.token == token);
                if let Some(number) = found.map(|(number, _)| *number) {
                    self.answered(hub, number, *answer);
                }
            }
            What::GiveUp(number, token) => {
                if self.ops.get(&number).is_some_and(|op| op.token == token) {
                    self.give_up(hub, number);
                }
            }
            What::Presence => {
                self.later(hub, 5 * SECOND, What::Presence);
                for controller in 0..2 {
                    let what = crate::controller::What::Presence(self.index, self.heard.clone());
                    hub.send(Event::Controller(controller, 0, what));
                }
            }
        }
    }

    fn note_lease(&mut self, now: Ms) {
        let Some(stored) = self.cache.get(Kind::Lease, "lease") else { return };
        let moved = match self.lease {
            Some((seen, moved)) if seen == stored.version => moved,
            Some(_) => Some(now),
            None => None,
        };
        self.lease = Some((stored.version, moved));
    }

    fn is_led(&self, now: Ms) -> bool {
        self.lease.is_some_and(|(_, moved)| moved.is_some_and(|moved| now - moved < LEASE))
    }

    fn reply(&self, hub: &mut Hub, caller: Caller, inner: device::Inner) {
        let what = device::What::Run(caller.run, inner);
        hub.send(Event::Device(caller.device, what));
    }

    fn asked(&mut self, hub: &mut Hub, caller: Caller, device: String, id: String, ask: Request) {
        // A certificate whose enrolment is no device's current one is refused.
        let known = self.cache.get(Kind::Device, &device).and_then(|all| all.object.device());
        if known.is_none_or(|device| device.spec.enrolment_id.as_deref() != Some(&id)) {
            return;
        }
        let mode = known.map_or(DeviceMode::Observe, |device| device.spec.mode);
        self.heard.insert(id.clone(), hub.now);
        let kind = match ask {
            Request::Poll(query) => {
                self.runs.entry(id.clone()).or_default().note(&query.run, clock(hub.now));
                let answer = self.poll(hub.now, &device, &id, &query, mode);
                let inner = device::Inner::Polled(caller.request, Box::new(answer));
                return self.reply(hub, caller, inner);
            }
            Request::Permit(request) => OpKind::Permit(request),
            Request::Report(batch) => {
                let status = known.and_then(|device| device.status.as_ref());
                let stored = status.and_then(|status| status.report_seq).unwrap_or(0);
                self.intake(hub.now, &id, *batch, u64::try_from(stored).unwrap_or(0))
            }
        };
        self.tokens += 1;
        let number = self.tokens;
        self.ops.insert(number, Op { caller, device, id, tries: 0, token: 0, kind });
        let pause = hub.latency();
        self.later(hub, pause, What::Go(number));
    }

    fn poll(
        &self,
        now: Ms,
        device: &str,
        id: &str,
        query: &JobQuery,
        mode: DeviceMode,
    ) -> JobAnswer {
        let job = self.cache.get(Kind::Job, device).and_then(|stored| stored.object.job());
        let news = job.filter(|job| {
            let is_answered = job.status.as_ref().is_some_and(|status| status.outcome.is_some());
            let known = key_of(job).map(|key| key_id(&key));
            job.spec.enrolment_id == id && !is_answered && known != query.known
        });
        JobAnswer {
            job: news.map(|job| seal::sealed(job)),
            mode: match mode {
                DeviceMode::Observe => Mode::Observe,
                DeviceMode::Manage => Mode::Manage,
            },
            next_poll_ms: 0,
            now: skewed(now, self.skew_ms),
        }
    }

    fn intake(&mut self, now: Ms, id: &str, batch: ReportBatch, stored: u64) -> OpKind {
        self.runs.entry(id.to_owned()).or_default().note(&batch.agent_run, clock(now));
        let (run, boot) = (batch.agent_run.clone(), batch.boot_id.clone());
        let numbers: Vec<u64> = batch.reports.iter().map(|report| report.seq).collect();
        let last = numbers.iter().copied().max().unwrap_or(0);
        let highest = self.highest.entry(id.to_owned()).or_default();
        *highest = (*highest).max(last).max(stored);
        let highest = *highest;
        let reduced = reduce(batch, skewed(now, self.skew_ms));
        let mut jobs: BTreeMap<JobKey, (Option<ProgressReport>, Option<OutcomeReport>)> =
            reduced.progress.into_iter().map(|(key, all)| (key, (Some(all), None))).collect();
        for (key, report) in reduced.outcomes {
            jobs.entry(key).or_default().1 = Some(report);
        }
        let mut items: Vec<Item> = jobs
            .into_iter()
            .filter(|(key, _)| key.device_id == id)
            .map(|(key, (progress, outcome))| Item::Job(key, progress, outcome))
            .collect();
        items.extend(reduced.facts.map(|(seq, facts)| {
            Item::Facts(FactsReport {
                seq,
                facts,
                boot_id: boot.clone(),
                enrolment_id: id.to_owned(),
            })
        }));
        OpKind::Report(Box::new(Intake { run, numbers, items, failed: Vec::new(), highest }))
    }

    /// The next step of an operation.
    fn go_on(&mut self, hub: &mut Hub, number: u64) {
        let Some(op) = self.ops.get(&number).cloned() else { return };
        let is_cut_off = hub.random.chance(hub.weather.lost);
        match op.kind.clone() {
            OpKind::Permit(_) | OpKind::Decide(..) if is_cut_off => self.give_up(hub, number),
            OpKind::Permit(request) => {
                let job = hub.api.get(Kind::Job, &op.device).cloned();
                self.set(number, OpKind::Decide(request, Box::new(job)));
                let pause = hub.latency();
                self.later(hub, pause, What::Go(number));
            }
            OpKind::Decide(request, job) => self.decide(hub, number, &op, *request, *job),
            OpKind::Record(_) => {}
            OpKind::Report(intake) => self.write_next(hub, number, &op, *intake),
        }
    }

    fn set(&mut self, number: u64, kind: OpKind) {
        if let Some(op) = self.ops.get_mut(&number) {
            op.kind = kind;
        }
    }

    fn send(&mut self, hub: &mut Hub, number: u64, write: Write) {
        self.tokens += 1;
        let token = self.tokens;
        if let Some(op) = self.ops.get_mut(&number) {
            op.token = token;
        }
        hub.write(Sender { process: Process::Gateway(self.index), life: self.life }, token, write);
        self.later(hub, PATIENCE, What::GiveUp(number, token));
    }

    fn decide(
        &mut self,
        hub: &mut Hub,
        number: u64,
        op: &Op,
        request: PermitRequest,
        stored: Option<Stored>,
    ) {
        let seen =
            self.runs.entry(op.id.clone()).or_default().note(&request.agent_run, clock(hub.now));
        let verdict = self.rule(hub, op, &request, stored.as_ref(), seen);
        let key = &request.key;
        hub.tell(format!(
            "gateway {}: {} {:?} {key:?}: {verdict:?}",
            self.index, op.device, request.step
        ));
        let job = stored.as_ref().and_then(|stored| stored.object.job());
        match (&verdict, job, &stored) {
            (&PermitVerdict::Granted { repeated: false, expedited }, Some(job), Some(stored)) => {
                let mut job = (**job).clone();
                let mut status = job.status.take().unwrap_or_default();
                let attempt = job.spec.attempt;
                note_run(&mut status, attempt, &request.agent_run);
                apply_permit(
                    &mut status,
                    Permit {
                        step: step_of(request.step),
                        at: skewed(hub.now, self.skew_ms),
                        attempt,
                        boot_id: request.boot_id.clone(),
                        agent_run: request.agent_run.clone(),
                        accepted_in: request.accepted_in.clone(),
                        expedited,
                    },
                );
                job.status = Some(status);
                let write = Write::Replace {
                    uid: stored.uid.clone(),
                    version: stored.version,
                    object: job.into(),
                };
                self.set(number, OpKind::Record(Box::new(request)));
                self.send(hub, number, write);
            }
            _ => {
                self.ops.remove(&number);
                if let PermitVerdict::Granted { .. } = verdict {
                    self.told(hub, op, &request);
                }
                if let PermitVerdict::Refused { .. } = verdict {
                    self.note_awaited(hub, &request, stored);
                }
                self.answer_permit(hub, op.caller, verdict);
            }
        }
    }

    /// Shows that the device waits, even if its own report of it was lost.
    fn note_awaited(&mut self, hub: &mut Hub, request: &PermitRequest, stored: Option<Stored>) {
        let Some(Stored { uid, version, object: Object::Job(job) }) = stored else { return };
        let mut job = (*job).clone();
        if key_of(&job).as_ref() != Some(&request.key) {
            return;
        }
        let (attempt, now) = (job.spec.attempt, skewed(hub.now, self.skew_ms));
        let status = job.status.get_or_insert_default();
        if apply_refused_step(status, attempt, step_of(request.step), now) {
            let sender = Sender { process: Process::Gateway(self.index), life: self.life };
            hub.write(sender, 0, Write::Replace { uid, version, object: job.into() });
        }
    }

    /// A permit leaves; whoever looks on notes until when it lives. In some worlds its device loses the
    /// network soon after.
    fn told(&self, hub: &mut Hub, op: &Op, request: &PermitRequest) {
        let step = step_of(request.step);
        let (run, boot) = (&request.agent_run, &request.boot_id);
        hub.monitor.told(hub.now, &request.key, step, run, boot);
        if hub.cuts && hub.random.chance(500) {
            let delay = hub.random.within(0..2 * MINUTE);
            let until = hub.now + delay + hub.random.within(MINUTE..HOUR);
            let what = device::What::CutOff(until);
            hub.after(delay, Event::Device(op.caller.device, what));
        }
    }

    fn answer_permit(&self, hub: &mut Hub, caller: Caller, verdict: PermitVerdict) {
        let answer = match verdict {
            PermitVerdict::Granted { .. } => PermitAnswer::Granted,
            PermitVerdict::Ended { reason, message } => {
                PermitAnswer::Ended { reason: reason.as_str().to_owned(), message }
            }
            PermitVerdict::Refused { reason, message, retry_after } => PermitAnswer::Refused {
                reason: reason.as_str().to_owned(),
                message,
                retry_ms: u64::try_from(retry_after.as_millis()).unwrap_or(1000),
            },
        };
        let inner = device::Inner::Permitted(caller.request, Box::new(answer));
        self.reply(hub, caller, inner);
    }

    /// The rule, on what was just read.
    fn rule(
        &self,
        hub: &Hub,
        op: &Op,
        request: &PermitRequest,
        stored: Option<&Stored>,
        seen: Sighting,
    ) -> PermitVerdict {
        let api = &hub.api;
        let job = stored.and_then(|stored| stored.object.job());
        let view = job.map(|job| JobView::new(job, JobOutcome::None));
        let device = api.get(Kind::Device, &op.device).and_then(|all| all.object.device());
        let row = device.map(|device| DeviceRow::new(device));
        let slice = job.and_then(|job| api.get(Kind::Slice, &job.spec.slice));
        let line = slice.and_then(|stored| stored.object.slice()).and_then(|slice| {
            let mut lines = slice.spec.lines.iter().filter_map(|text| text.parse().ok());
            lines.find(|line: &SliceLine| line.device == op.device)
        });
        let rollout = job
            .and_then(|job| api.get(Kind::Rollout, &job.spec.rollout))
            .and_then(|stored| stored.object.rollout());
        let held = row.as_ref().and_then(|row| reboots_held_by(row, api));
        let key = &request.key;
        let recorded = job
            .and_then(|job| job.status.as_ref())
            .map_or(Sighting::One, |status| sighting(status, key.attempt, &request.agent_run));
        let known = job.map_or(i64::MAX, |job| job.spec.sequence);
        permit(&PermitFacts {
            now: skewed(hub.now, self.skew_ms),
            request: Asked {
                rollout_uid: &key.rollout_uid,
                enrolment_id: &op.id,
                attempt: key.attempt,
                action: seal::job_action(key.action),
                step: step_of(request.step),
                agent_run: &request.agent_run,
                accepted_in: &request.accepted_in,
                boot_id: &request.boot_id,
            },
            job: view.as_ref(),
            line: line.as_ref(),
            rollout: rollout.map(Arc::as_ref),
            device: row.as_ref(),
            reboots_held_by: held.as_deref(),
            missing_group: missing_group(
                rollout.map(Arc::as_ref),
                view.as_ref(),
                api.list(Kind::Group)
                    .filter_map(|stored| stored.object.group()?.metadata.name.as_deref()),
            ),
            // Nobody only watches, and nobody forbids or orders rollbacks in these stories.
            watched_by: None,
            rollbacks_forbidden_by: None,
            rollbacks_asked_by: None,
            order: None,
            group_windows: &[],
            windows: &[],
            stops: &stops(api),
            holds: &holds(api),
            // Nobody bars successors in these stories.
            updates: &[],
            circumstances: Circumstances {
                leader_fresh: self.is_led(hub.now),
                api_read: true,
                second_live_run: seen != Sighting::One || recorded != Sighting::One,
                clock_trusted: self.skew_ms.abs() <= 30_000,
                restored_from_backup: request.highest_sequence > known,
                namespace_deleting: false,
            },
        })
    }

    /// Writes the next report of a batch, or answers the batch.
    fn write_next(&mut self, hub: &mut Hub, number: u64, op: &Op, mut intake: Intake) {
        while let Some(item) = intake.items.first() {
            let write = match item {
                Item::Job(key, progress, outcome) => {
                    let stored = hub.api.get(Kind::Job, &op.device).cloned();
                    self.job_write(hub.now, key, progress, outcome, &intake, stored)
                }
                Item::Facts(report) => {
                    let stored = hub.api.get(Kind::Device, &op.device).cloned();
                    self.facts_write(hub.now, report, stored)
                }
            };
            if let Some(write) = write {
                self.set(number, OpKind::Report(Box::new(intake)));
                // The read and the write are two things; others may come between them.
                return self.send(hub, number, write);
            }
            intake.items.remove(0);
        }
        self.ops.remove(&number);
        let first_open = intake.failed.iter().min().copied();
        let acked = |seq: &&u64| first_open.is_none_or(|open| **seq < open);
        let ack = ReportAck {
            acked_through: intake.numbers.iter().rfind(acked).copied().unwrap_or(0),
            highest_seen: intake.highest,
            retry_ms: if first_open.is_some() { 1000 } else { 0 },
        };
        let inner = device::Inner::Reported(op.caller.request, Box::new(Some(ack)));
        self.reply(hub, op.caller, inner);
    }

    fn job_write(
        &self,
        now: Ms,
        key: &JobKey,
        progress: &Option<ProgressReport>,
        outcome: &Option<OutcomeReport>,
        intake: &Intake,
        stored: Option<Stored>,
    ) -> Option<Write> {
        let Stored { uid, version, object: Object::Job(job) } = stored? else { return None };
        if key_of(&job).as_ref() != Some(key) {
            // The grant is over; nobody waits for this report.
            return None;
        }
        let (attempt, now) = (job.spec.attempt, skewed(now, self.skew_ms));
        let mut status = job.status.clone().unwrap_or_default();
        if let Some(report) = progress {
            apply_progress(&mut status, attempt, report);
        }
        if let Some(report) = outcome {
            apply_outcome(&mut status, attempt, &report.signed, now);
        }
        note_run(&mut status, attempt, &intake.run);
        let same = job.status.as_ref() == Some(&status);
        let mut job = (*job).clone();
        job.status = Some(status);
        (!same).then(|| Write::Replace { uid, version, object: job.into() })
    }

    fn facts_write(&self, now: Ms, report: &FactsReport, stored: Option<Stored>) -> Option<Write> {
        let Stored { uid, version, object: Object::Device(device) } = stored? else { return None };
        let old = device.status.clone().unwrap_or_default();
        let is_late = i64::try_from(report.seq).is_ok_and(|seq| Some(seq) <= old.report_seq);
        if is_late || device.spec.enrolment_id.as_ref() != Some(&report.enrolment_id) {
            return None;
        }
        let status = apply_facts(old.conditions.clone(), report, skewed(now, self.skew_ms));
        if fingerprint(&status) == fingerprint(&old) {
            return None;
        }
        let mut device = (*device).clone();
        device.status = Some(status);
        Some(Write::Replace { uid, version, object: device.into() })
    }

    fn answered(&mut self, hub: &mut Hub, number: u64, answer: Answer) {
        let Some(op) = self.ops.get_mut(&number) else { return };
        op.token = 0;
        op.tries += 1;
        if let Ok(stored) = &answer {
            self.cache.wrote(stored);
        }
        match (op.kind.clone(), answer.is_ok()) {
            (OpKind::Record(request), true) => {
                let op = op.clone();
                self.ops.remove(&number);
                self.told(hub, &op, &request);
                let verdict = PermitVerdict::Granted { repeated: false, expedited: false };
                self.answer_permit(hub, op.caller, verdict);
            }
            (_, false) if op.tries >= TRIES => self.give_up(hub, number),
            // Changed, deleted, or made anew: look again.
            (OpKind::Record(request), false) => {
                op.kind = OpKind::Permit(request);
                self.go_on(hub, number);
            }
            (OpKind::Report(mut intake), ok) => {
                if ok {
                    intake.items.remove(0);
                    op.tries = 0;
                    op.kind = OpKind::Report(intake);
                }
                self.go_on(hub, number);
            }
            _ => {}
        }
    }

    /// What cannot be read or written is refused, and the agent asks again.
    fn give_up(&mut self, hub: &mut Hub, number: u64) {
        let Some(op) = self.ops.remove(&number) else { return };
        match op.kind {
            OpKind::Report(mut intake) => {
                // Everything that is not durable stays with the agent.
                intake.failed.extend(intake.items.iter().map(Item::number));
                intake.items.clear();
                let op = Op { kind: OpKind::Report(intake.clone()), ..op };
                self.write_next(hub, number, &op, *intake);
            }
            _ => {
                let verdict = PermitVerdict::Refused {
                    reason: Reason::ApiUnavailable,
                    message: "The API server cannot be reached.".to_owned(),
                    retry_after: SignedDuration::from_secs(5),
                };
                self.answer_permit(hub, op.caller, verdict);
            }
        }
    }
}

/// The key of the grant that a job is about.
pub(crate) fn key_of(job: &wardring_api::PatchJob) -> Option<JobKey> {
    let payload: wardring_seal::JobPayload = serde_json::from_str(&job.spec.sealed.payload).ok()?;
    Some(payload.key)
}

/// The gateway's own clock, which only goes forward.
fn clock(now: Ms) -> std::time::Duration {
    std::time::Duration::from_millis(now)
}

fn step_of(step: Step) -> PermitStep {
    match step {
        Step::Install => PermitStep::Install,
        Step::Reboot => PermitStep::Reboot,
        Step::Uninstall => PermitStep::Uninstall,
    }
}

fn reboots_held_by(row: &DeviceRow, api: &crate::api::Api) -> Option<String> {
    let groups = api.list(Kind::Group).filter_map(|stored| stored.object.group());
    let groups = groups.map(|group| GroupView::new(group)).collect();
    let table = DeviceTable::new(vec![row.clone()], groups);
    let mut held = table.groups_of(0).iter().map(|&group| &table.groups()[usize::from(group)]);
    held.find(|group| group.holds_reboots_of(&row.labels)).map(|group| group.name.clone())
}

fn holds(api: &crate::api::Api) -> Vec<HoldView> {
    api.list(Kind::Hold)
        .filter_map(|stored| stored.object.hold().map(|hold| HoldView::new(hold)))
        .collect()
}

fn stops(api: &crate::api::Api) -> Vec<Arc<StopView>> {
    let all = api.list(Kind::Stop).filter_map(|stored| stored.object.stop());
    all.map(|stop| Arc::new(StopView::new(stop))).collect()
}

/// Whether a device's conditions say that it is quarantined.
pub(crate) fn is_quarantined(device: &wardring_api::Device) -> bool {
    let list = device.status.as_ref().map(|status| status.conditions.as_slice());
    conditions::is_true(list.unwrap_or_default(), conditions::QUARANTINED)
}
