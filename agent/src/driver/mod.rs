//! The loop around the state machine: events in, journal, effects out.
//!
//! One run of the loop is one run of the agent in one boot. It decides nothing: what an event means
//! is [`crate::state::step`]'s to say, and no effect runs before the journal holds the state that
//! ordered it.

#[cfg(test)]
#[cfg(all(feature = "scripted", not(windows)))]
mod asked_tests;
mod commit;
mod effects;
mod facts;
#[cfg(test)]
mod hung_tests;
mod once;
mod poll;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use wardring_protocol::{Facts, JobAnswer, Report, ReportAck, ReportBatch, ReportBody};
use wardring_protocol::{PROTOCOL_VERSION, Sealed};
use wardring_seal::{Recipient, verify_job};

use self::once::OneAtATime;
use self::poll::View;
use crate::chance;
use crate::gateway::{Gateway, GatewayError};
use crate::identity::Credentials;
use crate::journal::{Journal, Loaded, Saved};
use crate::milestone::{self, Milestone};
use crate::pause;
use crate::platform::{Platform, wall_clock};
use crate::state::{self, Answer, Effect, Event, Look, Now, Start};

/// How often a device with a job is looked at for an administrator's pause; an idle one begins nothing, and
/// is looked at with each answer of a gateway.
const PAUSE_LOOK: Duration = Duration::from_secs(5);
/// First and longest pause after reports could not be delivered.
const SEND_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A clock that is further off than this breaks certificates and `startBy`.
const SKEW: jiff::SignedDuration = jiff::SignedDuration::from_mins(5);

/// What one device's agent is made of.
pub struct Agent<P, G> {
    /// The device.
    pub platform: Arc<P>,
    /// The gateways.
    pub gateway: Arc<G>,
    /// Key and certificate.
    pub credentials: Credentials,
    /// The journal.
    pub journal: Journal,
    /// Longest a gateway is asked to hold a poll, seconds.
    pub poll_wait_s: u64,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// The operating system ends; a new run follows in the next boot.
    DeviceDown,
    /// The agent was told to stop.
    Stopped,
}

enum Msg {
    Event(Event),
    Polled(Box<JobAnswer>, poll::Taken),
    Reported(Result<ReportAck, GatewayError>),
    /// None where the look at them failed.
    Facts(Option<Box<Facts>>),
    /// Each lookout's look, or why there is none.
    Looked(Result<Vec<Look>, String>),
}

impl<P: Platform, G: Gateway> Agent<P, G> {
    /// Runs until the device goes down or `stop` becomes true.
    pub async fn run(&self, stop: watch::Receiver<bool>) -> RunEnd {
        let (tx, mut rx) = mpsc::unbounded_channel();
        let mut run = Run {
            agent: self,
            id: chance::id(),
            begun: Instant::now(),
            saved: Saved::default(),
            view: watch::Sender::new(View::default()),
            tasks: JoinSet::new(),
            timer: None,
            facts_at: Some(Instant::now()),
            facts_due: Instant::now(),
            health_due: Instant::now() + facts::HEALTH_EVERY,
            reading: OneAtATime::default(),
            looking: OneAtATime::default(),
            pause_look_at: None,
            send_at: None,
            send_pause: SEND_RETRY.0,
            is_sending: false,
            has_news: false,
            last_facts: None,
            durable: commit::Durable::default(),
            stop: stop.clone(),
            tx,
        };
        run.start().await;
        run.spawn_poll();
        let (mut stop, ended) = (stop, self.platform.ended());
        let changed = self.platform.changed();
        tokio::pin!(ended, changed);
        loop {
            tokio::select! {
                biased;
                () = until_true(&mut stop) => return RunEnd::Stopped,
                () = &mut ended => return RunEnd::DeviceDown,
                Some(message) = rx.recv() => run.receive(message).await,
                () = at(run.timer.map(|(at, _)| at)) => run.wake().await,
                () = at(run.pause_look_at) => run.look_for_pause().await,
                () = at(run.send_at) => run.send(),
                () = &mut changed => {
                    changed.set(self.platform.changed());
                    run.look_soon();
                }
                () = at(run.facts_at) => run.look_at_facts(),
                Some(_) = run.tasks.join_next() => {}
            }
        }
    }
}

/// Resolves at the instant; never without one.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

async fn until_true(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // Nobody can stop this run any more.
        std::future::pending::<()>().await;
    }
}

/// One run.
struct Run<'a, P, G> {
    agent: &'a Agent<P, G>,
    /// Random identity of this run.
    id: String,
    begun: Instant,
    saved: Saved,
    /// What the poll needs to know.
    view: watch::Sender<View>,
    tasks: JoinSet<()>,
    /// When the state machine wants to be woken, and its turn.
    timer: Option<(Instant, u64)>,
    /// When the device is looked at because something may have changed.
    facts_at: Option<Instant>,
    /// When it is looked at anyway.
    facts_due: Instant,
    /// The look at its facts.
    reading: OneAtATime,
    /// When the device may be looked at once more after installations, with its facts.
    health_due: Instant,
    /// That look.
    looking: OneAtATime,
    /// When it is looked for a pause, while there is a job.
    pause_look_at: Option<Instant>,
    send_at: Option<Instant>,
    send_pause: Duration,
    is_sending: bool,
    /// Something entered the outbox since the batch under way was made.
    has_news: bool,
    last_facts: Option<Facts>,
    durable: commit::Durable,
    stop: watch::Receiver<bool>,
    tx: mpsc::UnboundedSender<Msg>,
}

impl<P: Platform, G: Gateway> Run<'_, P, G> {
    /// Loads the journal and tells the state machine which boot this is, before any contact.
    async fn start(&mut self) {
        let identity = self.agent.credentials.current();
        let mut lost = false;
        match self.agent.journal.load() {
            Loaded::Found(saved) => self.saved = *saved,
            // An enrolled device wrote one before it asked for its certificate.
            Loaded::Fresh => lost = true,
            // A newer one was refused before any run began.
            Loaded::Lost(_) | Loaded::Newer(_) => lost = true,
        }
        let boot = self.agent.platform.boot();
        self.take(Event::Started(Box::new(Start {
            run: self.id.clone(),
            me: identity.me.clone(),
            boot: boot.record(),
            build: self.agent.platform.build(),
            lost,
            refuses: self.agent.platform.refuses().map(str::to_owned),
            roles: self.agent.platform.roles(),
            paused: pause::look(self.agent.journal.folder(), wall_clock()),
        })))
        .await;
        self.look_for_pause().await;
        if !self.saved.outbox.is_empty() {
            self.send_at = Some(Instant::now());
        }
    }

    fn now(&self) -> Now {
        let mono_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { wall: wall_clock(), mono_ms }
    }

    /// Takes one step: the new state and its reports become durable, then the effects run.
    async fn take(&mut self, event: Event) {
        let (state, effects) = match state::step(&self.saved.state, self.now(), event) {
            Ok(stepped) => stepped,
            Err(unexpected) => {
                tracing::warn!(device = self.device(), %unexpected, "event refused");
                return;
            }
        };
        let is_changed = state != self.saved.state || !effects.is_empty();
        let passed = milestone::passed(&self.saved.state, &state);
        self.saved.state = state;
        for effect in &effects {
            self.enclose(effect);
        }
        if is_changed && !self.commit().await {
            return;
        }
        for (milestone, text) in passed {
            milestone.tell(&text);
        }
        for effect in effects {
            if let Effect::Ask { turn, ask } = effect {
                self.carry_out(turn, ask);
            } else if let Effect::Announce { message, countdown_ms } = effect {
                self.agent.platform.announce(message.as_deref(), countdown_ms);
            } else if let Effect::AskToLeave { message, within_ms } = effect {
                self.agent.platform.ask_to_leave(message.as_deref(), within_ms);
            } else if let Effect::TakeBackRestart = effect {
                self.agent.platform.take_back_restart();
            }
        }
    }

    /// Puts a report into the outbox, which is written together with the state.
    fn enclose(&mut self, effect: &Effect) {
        match effect {
            Effect::Progress(progress) => {
                self.saved.outbox.push(ReportBody::Progress((**progress).clone()), None);
            }
            Effect::Outcome(outcome) => {
                let identity = self.agent.credentials.current();
                tracing::info!(
                    device = outcome.device, rollout = outcome.key.rollout_uid,
                    result = ?outcome.result, outcome.message, "job ended"
                );
                match identity.key.sign_outcome(outcome, &identity.certificate) {
                    Ok(signed) => {
                        let body = ReportBody::Outcome(signed);
                        self.saved.outbox.push(body, Some(&outcome.key));
                    }
                    // The outcome stays among the finished ones; the next offer brings it up again.
                    Err(error) => tracing::error!(%error, "failed to sign an outcome"),
                }
            }
            Effect::Ask { .. }
            | Effect::Announce { .. }
            | Effect::AskToLeave { .. }
            | Effect::TakeBackRestart => return,
        }
        self.send_soon();
    }

    /// There is something new to send: at once, unless the gateways did not answer lately.
    fn send_soon(&mut self) {
        self.has_news = true;
        if self.send_pause == SEND_RETRY.0 {
            self.send_at = Some(Instant::now());
        } else {
            self.send_at.get_or_insert_with(Instant::now);
        }
    }

    /// Before anything that may begin something: an administrator may have paused the agent, or let it go
    /// on.
    async fn look_for_pause(&mut self) {
        let found = pause::look(self.agent.journal.folder(), wall_clock());
        if found != self.saved.state.paused {
            self.look_soon();
            self.take(Event::Paused(found)).await;
        }
        let has_job = self.saved.state.job.is_some();
        self.pause_look_at = has_job.then(|| Instant::now() + PAUSE_LOOK);
    }

    async fn receive(&mut self, message: Msg) {
        self.look_for_pause().await;
        match message {
            Msg::Event(event) => {
                self.look_soon();
                self.take(event).await;
            }
            Msg::Polled(answer, taken) => {
                // The answer has woken the device already: looking later would wake it once more.
                if Instant::now() >= self.facts_due {
                    self.look_at_facts();
                }
                self.polled(*answer, taken).await;
            }
            Msg::Reported(result) => self.reported(result).await,
            Msg::Facts(facts) => self.read(facts).await,
            Msg::Looked(looks) => self.looked(looks).await,
        }
    }

    async fn polled(&mut self, answer: JobAnswer, taken: poll::Taken) {
        let skew = answer.now.duration_since(wall_clock()).abs();
        if skew > SKEW {
            tracing::warn!(device = self.device(), ?skew, "this device's clock is off");
        }
        if self.saved.state.mode != answer.mode {
            self.take(Event::ModeSet(answer.mode)).await;
        }
        let before = self.saved.state.known().cloned();
        if let Some(sealed) = answer.job {
            self.offered(&sealed).await;
        }
        let is_taken = self.saved.state.known() != before.as_ref();
        // The poll may be over already when the run ends.
        let _ = taken.send(is_taken);
    }

    /// Believes a job only by its seal.
    async fn offered(&mut self, sealed: &Sealed) {
        let identity = self.agent.credentials.current();
        let recipient =
            Recipient { namespace: &identity.me.namespace, enrolment_id: &identity.me.device_id };
        match verify_job(sealed, &identity.roots, recipient, wall_clock()) {
            Ok(payload) => self.take(Event::Offered(Box::new(payload))).await,
            Err(error) => {
                tracing::error!(device = identity.me.device, %error, "a job is not believed");
                Milestone::Refused.tell(&format!("A job was not believed and not begun: {error}."));
            }
        }
    }

    async fn wake(&mut self) {
        self.look_for_pause().await;
        // What was found may have set it anew.
        let due = self.timer.take_if(|(at, _)| *at <= Instant::now());
        let Some((_, turn)) = due else { return };
        self.take(Event::Answered { turn, answer: Answer::Woke }).await;
    }

    /// Sends what waits, one batch at a time.
    fn send(&mut self) {
        self.send_at = None;
        let reports = self.saved.outbox.batch();
        if self.is_sending || reports.is_empty() {
            return;
        }
        self.is_sending = true;
        self.has_news = false;
        let batch = self.batch(reports);
        let (gateway, tx) = (Arc::clone(&self.agent.gateway), self.tx.clone());
        self.tasks.spawn(async move {
            let result = gateway.report(&batch).await;
            // Nobody reads it when the run is over.
            let _ = tx.send(Msg::Reported(result));
        });
    }

    fn batch(&self, reports: Vec<Report>) -> ReportBatch {
        ReportBatch {
            version: PROTOCOL_VERSION,
            agent_run: self.id.clone(),
            boot_id: self.saved.state.boot.clone(),
            now: wall_clock(),
            uptime_ms: self.agent.platform.boot().uptime_ms,
            reports,
        }
    }

    async fn reported(&mut self, result: Result<ReportAck, GatewayError>) {
        self.is_sending = false;
        match result {
            Ok(ack) => {
                self.saved.outbox.acked(&ack);
                self.commit().await;
                self.send_pause = SEND_RETRY.0;
                if self.has_news {
                    self.send_at = Some(Instant::now());
                } else if !self.saved.outbox.is_empty() {
                    // The gateway makes the rest durable later.
                    let pause =
                        Duration::from_millis(ack.retry_ms).clamp(SEND_RETRY.0, SEND_RETRY.1);
                    self.send_at = Some(Instant::now() + chance::around(pause));
                }
            }
            Err(error) => {
                tracing::warn!(device = self.device(), %error, "reports wait");
                if error.is_poison() {
                    // A report that no gateway accepts must not keep the outcomes behind it.
                    self.saved.outbox.keep_outcomes();
                    self.commit().await;
                }
                let pause = poll::asked_pause(&error).unwrap_or(self.send_pause);
                self.send_at = Some(Instant::now() + chance::around(pause));
                self.send_pause = (self.send_pause * 2).min(SEND_RETRY.1);
            }
        }
    }

    fn device(&self) -> &str {
        self.saved.state.me.as_ref().map_or("", |me| me.device.as_str())
    }
}
