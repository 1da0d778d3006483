//! A device, a gateway and a clock made of values, for the tests of the state machine. It does what
//! the driver and the platform promise, and keeps count of what really happened.

mod device;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use wardring_protocol::{PERMIT_LIFE_MS, PermitAnswer, Step, key_id};
use wardring_seal::{
    Action, AutonomousRollback, Check, HealthChecks, Hook, HookMoment, JobKey, JobPayload,
    OnUnhealthy, OutcomePayload, OutcomeResult, PAYLOAD_VERSION, Preflight, Probe, RebootRules,
    StorePolicy, UnlistedServices, UpdateKind, UpdateSource, UpdateTarget,
};

use super::*;

pub(super) const SERVICE: &str = "MSSQLSERVER";
pub(super) const PRODUCT: &str = "Windows Server 2022";
/// Time that a boot must hold in these tests.
const SETTLE_MS: u64 = 180_000;
const OLD: &str = "20348.2700";
const NEW: &str = "20348.2762";

/// How one update behaves.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub stand: Stand,
    pub reboot_required: bool,
    pub fails: bool,
    /// Codes with which the next installations fail, first the first one.
    pub failures: Vec<u32>,
    /// The same for its removals.
    pub removal_failures: Vec<u32>,
    pub reverts: bool,
    pub stops_service: bool,
    pub uninstallable: bool,
    pub crashes: u32,
    /// Somebody else installs it right before this job does.
    pub is_taken: bool,
    /// In force, it is the end of the network.
    pub kills_network: bool,
}

impl Default for Script {
    fn default() -> Self {
        Script {
            stand: Stand::Offered,
            reboot_required: true,
            fails: false,
            failures: Vec::new(),
            removal_failures: Vec::new(),
            reverts: false,
            stops_service: false,
            uninstallable: true,
            crashes: 0,
            is_taken: false,
            kills_network: false,
        }
    }
}

/// What people answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    Now,
    Later,
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    Offered,
    NotOffered,
    Superseded,
    NotApplicable,
    Pending,
    InForce,
    Removing,
}

/// The device and everything around the state machine.
#[derive(Clone, Debug)]
pub(super) struct Bench {
    pub state: State,
    pub wall: Timestamp,
    pub mono_ms: u64,
    pub boot: u32,
    pub boot_kind: BootKind,
    /// How long it had been off before this boot.
    pub off: Option<Off>,
    pub updates: BTreeMap<String, Script>,
    pub service: ServiceState,
    /// Services that no job names.
    pub others: BTreeMap<String, ServiceSample>,
    /// What the next jobs make of them.
    pub unlisted: UnlistedServices,
    /// How probes are answered.
    pub probes: BTreeMap<String, ProbeSample>,
    pub ports: BTreeSet<u16>,
    /// How the next hooks end; well when it is empty.
    pub hook_ends: VecDeque<Result<(), String>>,
    /// Hooks of the next jobs.
    pub hooks: Vec<Hook>,
    /// What the next jobs let the device take back by itself.
    pub autonomous: Option<AutonomousRollback>,
    /// Roles of the device.
    pub roles: Vec<String>,
    /// Who on the network answers, as long as it is there.
    pub witnesses: BTreeSet<Witness>,
    /// The network is not there, whatever is installed.
    pub is_unplugged: bool,
    /// When somebody on the network last answered, or the boot began.
    pub heard_mono_ms: u64,
    /// When it was last asked who answers, and nobody did.
    pub silence_mono_ms: Option<u64>,
    /// Crashes and losses of power since the first installation of the job in hand.
    pub crashes_since_install: u32,
    /// Rollbacks that the device began by itself, by key.
    pub own_rollbacks: BTreeMap<String, u32>,
    /// Hooks that were started, in order.
    pub hooks_run: Vec<String>,
    /// Hooks that ended well, with the boot.
    pub hooks_good: BTreeSet<(HookMoment, String, u32)>,
    pub restart_helps: bool,
    /// Looks before which the service still dies and is started again by Windows.
    pub deaths_left: u32,
    /// The service starts on demand, by a trigger.
    pub is_triggered: bool,
    pub ignores_reboots: bool,
    /// Windows answers no question any more.
    pub is_silent: bool,
    /// Windows is at work on something of its own.
    pub is_busy: bool,
    /// No gateway answers before this moment.
    pub cut_off_until_mono_ms: u64,
    /// When the running boot began.
    pub booted_mono_ms: u64,
    /// Kinds of the boots since something was installed or removed.
    pub boots_since_act: Vec<BootKind>,
    /// Looks at the device in this run of the agent.
    pub looks: u32,
    /// Countdowns that people were told of.
    pub announced: u32,
    /// Restarts that were taken back.
    pub taken_back: u32,
    /// What is around the device.
    pub around: Surroundings,
    /// Updates that the source offers as upgrades.
    pub upgrades: BTreeMap<String, String>,
    /// What the next restart upgrades.
    pub pending_upgrade: Option<&'static str>,
    /// Looks to which the registry does not tell the build.
    pub hides_build: u32,
    /// Build after the update KB1.
    pub new_build: &'static str,
    /// That build stays whatever becomes of the update.
    pub keeps_build: bool,
    /// Free space on the drive of Windows.
    pub free_disk_gb: Option<u32>,
    /// What Windows says of its component store.
    pub component_store: Option<StoreState>,
    /// Others that patch the device.
    pub other_patch_sources: Vec<String>,
    /// Requests to let the device restart.
    pub asked_to_leave: u32,
    /// How often people may put the restarts of the next jobs off.
    pub deferrals: u8,
    /// What they say to the next questions, after so many milliseconds; nothing when it is empty.
    pub replies: VecDeque<(Says, u64)>,
    /// What they were asked, and when.
    pub questions: Vec<(u64, Question)>,
    /// When they last agreed, and in which sessions.
    pub agreed: Option<(u64, BTreeSet<u32>)>,
    /// How often they put a restart off, as the job in hand was told.
    pub put_off: u32,
    /// What Windows waits between the order of a restart and the end of the boot.
    pub grace_ms: u64,
    /// A restart that was ordered and can be taken back.
    pub is_ending: bool,
    /// When the restart of this boot first looked who is there.
    pub due_since: Option<u64>,
    /// When it was last seen who is there, and who was.
    pub last_look: Option<(u64, Surroundings)>,
    /// The jobs say that power and a PIN do not matter.
    pub is_careless: bool,
    /// Whether each restart was to end programs.
    pub forced: Vec<bool>,
    pub pending_reboot: bool,
    /// No restart clears the sign of a pending one.
    pub pends_forever: bool,
    /// Nothing in the registry tells that an update waits for its restart.
    pub hides_pending: bool,
    pub pid: u32,
    pub results: BTreeMap<(String, String), ServicingResult>,
    /// What was asked and not answered yet: due time, turn, question.
    pub asked: VecDeque<(u64, u64, Ask)>,
    /// Answers for the next permits; granted when it is empty.
    pub permits: VecDeque<Option<PermitAnswer>>,
    pub permits_held: Vec<(Step, u64)>,
    /// Questions for a permit.
    pub permits_asked: u32,
    /// Times that an installation really began, by key and KB.
    pub installs: BTreeMap<(String, String), u32>,
    pub removals: u32,
    /// Keys of the grants for which something was removed.
    pub removed_for: Vec<String>,
    /// Own restarts that really happened, by key.
    pub reboots: BTreeMap<String, u32>,
    pub restarts_of_service: u32,
    pub outcomes: Vec<OutcomePayload>,
    pub states: Vec<String>,
    pub unexpected: Vec<Unexpected>,
    /// A restart is under way: nothing of this run is answered any more.
    pub is_down: bool,
}

pub(super) fn key(sequence: i64, action: Action) -> JobKey {
    JobKey {
        rollout_uid: "rollout".to_owned(),
        device_id: "id-1".to_owned(),
        attempt: u32::try_from(sequence).unwrap(),
        action,
    }
}

pub(super) fn target(kb: &str) -> UpdateTarget {
    UpdateTarget {
        kb: kb.to_owned(),
        product: PRODUCT.to_owned(),
        kind: if kb == "KB1" { UpdateKind::Quality } else { UpdateKind::DotNet },
        target_build: (kb == "KB1").then(|| NEW.to_owned()),
        identities: Vec::new(),
        package: None,
    }
}

impl Bench {
    /// A device in mode Manage with one offered cumulative update, `KB1`.
    pub fn new() -> Bench {
        let mut bench = Bench {
            state: State::default(),
            wall: "2026-11-21T02:00:00Z".parse().unwrap(),
            mono_ms: 0,
            boot: 1,
            boot_kind: BootKind::Foreign,
            off: None,
            updates: BTreeMap::from([("KB1".to_owned(), Script::default())]),
            service: ServiceState::Running,
            others: BTreeMap::new(),
            unlisted: UnlistedServices::Report,
            probes: BTreeMap::new(),
            ports: BTreeSet::new(),
            hook_ends: VecDeque::new(),
            hooks: Vec::new(),
            autonomous: None,
            roles: Vec::new(),
            witnesses: BTreeSet::from([Witness::Gateway, router(), dns()]),
            is_unplugged: false,
            heard_mono_ms: 0,
            silence_mono_ms: None,
            crashes_since_install: 0,
            own_rollbacks: BTreeMap::new(),
            hooks_run: Vec::new(),
            hooks_good: BTreeSet::new(),
            restart_helps: false,
            deaths_left: 0,
            is_triggered: false,
            ignores_reboots: false,
            is_silent: false,
            is_busy: false,
            cut_off_until_mono_ms: 0,
            booted_mono_ms: 0,
            boots_since_act: Vec::new(),
            looks: 0,
            announced: 0,
            taken_back: 0,
            around: Surroundings::CLEAR,
            upgrades: BTreeMap::new(),
            pending_upgrade: None,
            hides_build: 0,
            new_build: NEW,
            keeps_build: false,
            free_disk_gb: Some(100),
            component_store: Some(StoreState::Healthy),
            other_patch_sources: Vec::new(),
            asked_to_leave: 0,
            deferrals: 0,
            replies: VecDeque::new(),
            questions: Vec::new(),
            agreed: None,
            put_off: 0,
            grace_ms: 0,
            is_ending: false,
            due_since: None,
            last_look: None,
            is_careless: false,
            forced: Vec::new(),
            pending_reboot: false,
            pends_forever: false,
            hides_pending: false,
            pid: 100,
            results: BTreeMap::new(),
            asked: VecDeque::new(),
            permits: VecDeque::new(),
            permits_held: Vec::new(),
            permits_asked: 0,
            installs: BTreeMap::new(),
            removals: 0,
            removed_for: Vec::new(),
            reboots: BTreeMap::new(),
            restarts_of_service: 0,
            outcomes: Vec::new(),
            states: Vec::new(),
            unexpected: Vec::new(),
            is_down: false,
        };
        bench.start(false);
        bench.take(Event::ModeSet(Mode::Manage));
        bench
    }

    pub fn with(mut self, kb: &str, script: Script) -> Bench {
        self.updates.insert(kb.to_owned(), script);
        self
    }

    pub fn job(&self, sequence: i64, action: Action) -> JobPayload {
        let later = |hours| self.wall + SignedDuration::from_hours(hours);
        JobPayload {
            version: PAYLOAD_VERSION,
            namespace: "tenant".to_owned(),
            device: "srv-1".to_owned(),
            rollout: "2026-11".to_owned(),
            stage: "test".to_owned(),
            slice: "slice-0".to_owned(),
            key: key(sequence, action),
            sequence,
            updates: self.updates.keys().map(|kb| target(kb)).collect(),
            source: UpdateSource::Default,
            accept_eula: false,
            start_by: later(4),
            finish_by: later(24),
            preflight: Preflight {
                reboot_first: false,
                min_free_disk_gb: 10,
                require_reversible: false,
                ignore_attended_boot: false,
                ignore_battery: false,
                component_store: StorePolicy::Block,
                sole_source: false,
            },
            health: HealthChecks {
                services: vec![SERVICE.to_owned()],
                probes: self.probes.keys().map(|name| probe(name)).collect(),
                unlisted: self.unlisted,
                settle_ms: SETTLE_MS,
                restart_attempts: 2,
                sample_interval_ms: 20_000,
            },
            reboot: RebootRules {
                countdown_ms: 60_000,
                message: None,
                stuck_after_ms: 1_800_000,
                wait_ms: 7_200_000,
                deferrals: self.deferrals,
                force: false,
                active_hours: None,
            },
            on_unhealthy: OnUnhealthy::Report,
            hooks: self.hooks.clone(),
            autonomous_rollback: self.autonomous.clone(),
        }
    }

    fn now(&self) -> Now {
        Now { wall: self.wall, mono_ms: self.mono_ms }
    }

    pub fn advance(&mut self, ms: u64) {
        self.mono_ms += ms;
        self.wall += SignedDuration::from_millis(i64::try_from(ms).unwrap());
    }

    /// A new run of the agent, from the journal's text.
    pub fn start(&mut self, lost: bool) {
        let journal = serde_json::to_string(&self.state).unwrap();
        let read: State = serde_json::from_str(&journal).unwrap();
        // The pause stands in a file of its own.
        let paused = self.state.paused.take();
        assert_eq!(read, self.state, "the journal gives back what was written");
        if lost {
            self.state = State::default();
        }
        self.asked.clear();
        self.permits_held.clear();
        self.looks = 0;
        self.is_down = false;
        let me = Me {
            namespace: "tenant".to_owned(),
            device: "srv-1".to_owned(),
            device_id: "id-1".to_owned(),
        };
        let boot = BootRecord {
            boot_id: format!("boot-{}", self.boot),
            at: self.wall,
            kind: self.boot_kind,
            off: self.off,
        };
        let (run, build) = (format!("run-{}", self.state.turn), self.build());
        let (roles, refuses) = (self.roles.clone(), None);
        let start = Start { run, me, boot, build, lost, refuses, roles, paused };
        self.take(Event::Started(Box::new(start)));
    }

    /// Takes a step and carries out its effects, as the driver does.
    pub fn take(&mut self, event: Event) {
        let effects = self.take_without_effects(event);
        for effect in effects {
            self.carry_out(effect);
        }
    }

    /// Takes a step whose effects are lost: the agent dies right after it wrote the journal. Reports
    /// are part of what it wrote.
    pub fn take_without_effects(&mut self, event: Event) -> Vec<Effect> {
        self.hear(&event);
        match step(&self.state, self.now(), event) {
            Ok((state, effects)) => {
                self.watch_own_rollback(&state);
                assert!(state.paused.is_none() || !effects.iter().any(begins), "{effects:?}");
                self.state = state;
                for effect in &effects {
                    match effect {
                        Effect::Outcome(outcome) => self.ended(outcome),
                        Effect::Progress(progress) => self.states.push(progress.state.clone()),
                        Effect::TakeBackRestart => {
                            self.taken_back += 1;
                            self.is_ending = false;
                        }
                        Effect::Ask { .. }
                        | Effect::Announce { .. }
                        | Effect::AskToLeave { .. } => {}
                    }
                }
                effects
            }
            Err(unexpected) => {
                self.unexpected.push(unexpected);
                Vec::new()
            }
        }
    }

    /// Does the next thing that is due; time goes on to it. False when nothing is left to do.
    pub fn go_on(&mut self) -> bool {
        if self.is_down {
            self.advance(90_000);
            self.start(false);
            self.crash_on();
            return true;
        }
        let Some((turn, answer)) = self.next_answer() else { return false };
        if !self.is_down {
            self.take(Event::Answered { turn, answer });
        }
        true
    }

    /// What is answered next; time goes on to it.
    fn next_answer(&mut self) -> Option<(u64, Answer)> {
        let answers =
            |ask: &Ask| !self.is_silent || matches!(ask, Ask::Wake { .. } | Ask::Permit { .. });
        let open = self.asked.iter().enumerate().filter(|(_, (_, _, ask))| answers(ask));
        let first = open.min_by_key(|(_, (due, ..))| *due);
        let index = first.map(|(index, _)| index)?;
        let (due, turn, ask) = self.asked.remove(index).expect("the index was just found");
        self.advance(due.saturating_sub(self.mono_ms));
        if let (Ask::Reboot { key, .. }, true) = (&ask, self.is_ending) {
            *self.reboots.entry(key_id(key)).or_default() += 1;
            self.boot_now(BootKind::Expected);
        }
        Some((turn, self.answer(due, &ask)))
    }

    /// The next answer comes, and what follows from it is written; its effects are lost.
    pub fn without_effects(&mut self) {
        if let Some((turn, answer)) = self.next_answer() {
            self.take_without_effects(Event::Answered { turn, answer });
        }
    }

    /// The next answer comes, and the journal can only be written so much later: the effects wait.
    pub fn write_late(&mut self, late_ms: u64) {
        let Some((turn, answer)) = self.next_answer() else { return };
        let effects = self.take_without_effects(Event::Answered { turn, answer });
        self.advance(late_ms);
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn crash_on(&mut self) {
        for script in self.updates.values_mut() {
            if script.stand == Stand::InForce && script.crashes > 0 {
                script.crashes -= 1;
                self.advance(30_000);
                self.boot_now(BootKind::Crash);
                return;
            }
        }
    }

    /// Goes on until the job in hand ends or `until` holds.
    pub fn go_until(&mut self, until: impl Fn(&Bench) -> bool) {
        for _ in 0..2_000 {
            if until(self) || !self.go_on() {
                return;
            }
        }
        panic!("it does not come to an end: {:#?}", self.state.job);
    }

    /// Offers a job and goes on until it ends; its outcome.
    pub fn carry_out_job(&mut self, payload: JobPayload) -> OutcomePayload {
        let key = payload.key.clone();
        self.take(Event::Offered(Box::new(payload)));
        self.go_until(|bench| bench.state.job.is_none());
        let outcome = self.outcomes.iter().find(|outcome| outcome.key == key);
        outcome.expect("a job that ended has an outcome").clone()
    }

    pub fn installs_begun(&self) -> u32 {
        self.installs.values().sum()
    }

    pub fn reboots_made(&self) -> u32 {
        self.reboots.values().sum()
    }

    pub fn is_in_force(&self, kb: &str) -> bool {
        self.updates[kb].stand == Stand::InForce
    }
}

/// Whether it is something that an administrator keeps from beginning when he pauses the agent.
fn begins(effect: &Effect) -> bool {
    match effect {
        Effect::Announce { .. } | Effect::AskToLeave { .. } => true,
        Effect::Ask { ask, .. } => matches!(
            ask,
            Ask::Download { .. }
                | Ask::Install { .. }
                | Ask::Uninstall { .. }
                | Ask::Reboot { .. }
                | Ask::RestartService { .. }
                | Ask::AskPeople { .. }
        ),
        Effect::Outcome(_) | Effect::Progress(_) | Effect::TakeBackRestart => false,
    }
}

pub(super) fn router() -> Witness {
    Witness::Router { address: "10.0.0.1".parse().unwrap() }
}

pub(super) fn dns() -> Witness {
    Witness::Dns { address: "10.0.0.53".parse().unwrap() }
}

pub(super) fn probe(name: &str) -> Probe {
    let check = Check::Tcp { host: None, port: 443 };
    Probe { name: name.to_owned(), timeout_ms: 10_000, check }
}

pub(super) fn refused(reason: &str, retry_ms: u64) -> Option<PermitAnswer> {
    let message = format!("refused: {reason}");
    Some(PermitAnswer::Refused { reason: reason.to_owned(), message, retry_ms })
}

pub(super) fn ended() -> Option<PermitAnswer> {
    ended_because("NoSuchJob")
}

pub(super) fn ended_because(reason: &str) -> Option<PermitAnswer> {
    let message = format!("ended: {reason}");
    Some(PermitAnswer::Ended { reason: reason.to_owned(), message })
}
