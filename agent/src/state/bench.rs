//! A device, a gateway and a clock made of values, for the tests of the state machine. It does what
//! the driver and the platform promise, and keeps count of what really happened.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use wardring_protocol::{PERMIT_LIFE_MS, PermitAnswer, Step, key_id};
use wardring_seal::{
    Action, AutonomousRollback, Check, HealthChecks, Hook, HookMoment, JobKey, JobPayload,
    OnUnhealthy, OutcomePayload, OutcomeResult, PAYLOAD_VERSION, Preflight, Probe, RebootRules,
    UpdateKind, UpdateSource, UpdateTarget,
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
    pub updates: BTreeMap<String, Script>,
    pub service: ServiceState,
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
    /// Requests to let the device restart.
    pub asked_to_leave: u32,
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
            updates: BTreeMap::from([("KB1".to_owned(), Script::default())]),
            service: ServiceState::Running,
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
            asked_to_leave: 0,
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
            },
            health: HealthChecks {
                services: vec![SERVICE.to_owned()],
                probes: self.probes.keys().map(|name| probe(name)).collect(),
                settle_ms: SETTLE_MS,
                restart_attempts: 2,
                sample_interval_ms: 20_000,
            },
            reboot: RebootRules {
                countdown_ms: 60_000,
                message: None,
                stuck_after_ms: 1_800_000,
                wait_ms: 7_200_000,
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
        };
        let (run, build) = (format!("run-{}", self.state.turn), self.build());
        let (roles, refuses) = (self.roles.clone(), None);
        let start = Start { run, me, boot, build, lost, refuses, roles };
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
        match step(&self.state, self.now(), event) {
            Ok((state, effects)) => {
                self.watch_own_rollback(&state);
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

    /// A rollback that nobody permitted begins once per job, on what that job installed, where the job
    /// asks for it, for crashes, and never on a device with a delicate role.
    fn watch_own_rollback(&mut self, next: &State) {
        let began =
            |state: &State| state.job.as_ref().is_some_and(|job| job.own_rollback.is_some());
        if let (Some(was), Some(job), true, false) =
            (&self.state.job, &next.job, began(&self.state), began(next))
            && was.payload.key == job.payload.key
        {
            assert!(was.may_be_called_off(), "called off in its middle");
            *self.own_rollbacks.get_mut(&key_id(&job.payload.key)).unwrap() -= 1;
        }
        let (false, true, Some(job)) = (began(&self.state), began(next), &next.job) else { return };
        let key = key_id(&job.payload.key);
        let asked = job.payload.autonomous_rollback.as_ref().unwrap();
        if job.own_rollback.as_ref().unwrap().reason == "BootLoop" {
            assert!(asked.boot_loop);
            assert!(self.crashes_since_install >= 2, "{} crashes", self.crashes_since_install);
        } else {
            let after_ms = asked.network_lost.as_ref().unwrap().after_ms;
            let silent_ms = self.mono_ms - self.heard_mono_ms.max(self.booted_mono_ms);
            assert!(silent_ms >= after_ms, "silent for {silent_ms} ms");
            let before = &job.baseline.as_ref().unwrap().witnesses;
            let needs_dns = |witness: &Witness| match witness {
                Witness::Gateway | Witness::Dns { .. } => true,
                Witness::Port { host, .. } => host.parse::<std::net::IpAddr>().is_err(),
                Witness::Router { .. } => false,
            };
            assert!(!before.iter().all(needs_dns), "{before:?}");
        }
        let delicate = ["DomainController", "ClusterNode"];
        assert!(!self.roles.iter().any(|role| delicate.contains(&role.as_str())));
        assert!(self.installs.keys().any(|(begun, _)| *begun == key), "nothing was installed");
        let times = self.own_rollbacks.entry(key).or_default();
        *times += 1;
        assert_eq!(*times, 1, "it rolled back by itself twice");
    }

    /// A good end is one of a boot that held, seen good often enough in one run of the agent.
    fn ended(&mut self, outcome: &OutcomePayload) {
        use OutcomeResult::{RolledBack, Succeeded};
        let is_new = self.outcomes.iter().all(|known| known.key != outcome.key);
        if is_new && outcome.started && matches!(outcome.result, Succeeded | RolledBack) {
            let is_hard = |kind: &&BootKind| matches!(kind, BootKind::Crash | BootKind::Dirty);
            let crashes = self.boots_since_act.iter().filter(is_hard).count();
            let held = self.mono_ms - self.booted_mono_ms;
            let wanted = if crashes == 0 { SETTLE_MS } else { 600_000 };
            assert!(crashes < 2, "a device that crashed {crashes} times is called good");
            let is_long = held >= wanted || self.boots_since_act.is_empty();
            assert!(is_long, "called good {held} ms after its boot, {crashes} crashes");
            assert!(self.looks >= 4, "called good after {} looks", self.looks);
        }
        self.outcomes.push(outcome.clone());
    }

    fn carry_out(&mut self, effect: Effect) {
        self.announced += u32::from(matches!(effect, Effect::Announce { .. }));
        self.asked_to_leave += u32::from(matches!(effect, Effect::AskToLeave { .. }));
        self.permits_asked +=
            u32::from(matches!(effect, Effect::Ask { ask: Ask::Permit { .. }, .. }));
        let Effect::Ask { turn, ask } = effect else { return };
        if matches!(ask, Ask::Install { .. } | Ask::Uninstall { .. }) {
            assert!(!self.is_acting(), "two acts at once: {ask:?}");
            self.boots_since_act.clear();
        }
        if let Ask::Install { key, .. } = &ask
            && !self.installs.keys().any(|(begun, _)| *begun == key_id(key))
        {
            self.crashes_since_install = 0;
        }
        if matches!(ask, Ask::LookAround { .. }) {
            self.due_since.get_or_insert(self.mono_ms);
        }
        if matches!(ask, Ask::Wake { .. }) {
            // The driver has one timer.
            self.asked.retain(|(_, _, open)| !matches!(open, Ask::Wake { .. }));
        }
        let due = match &ask {
            Ask::Wake { after_ms } => self.mono_ms + after_ms,
            _ => self.mono_ms,
        };
        match &ask {
            // Whoever carries an act out looks at the clock once more, at the last moment.
            Ask::Install { not_after_mono_ms, .. }
            | Ask::Uninstall { not_after_mono_ms, .. }
            | Ask::Reboot { not_after_mono_ms, .. }
                if *not_after_mono_ms <= self.mono_ms => {}
            Ask::RunHook { not_after_mono_ms: Some(not_after), .. }
                if *not_after <= self.mono_ms => {}
            Ask::RunHook { hook, .. } => {
                match hook.moment {
                    HookMoment::BeforeInstall
                        if self.state.job.as_ref().is_some_and(JobRun::is_rollback) =>
                    {
                        self.may_begin(Step::Uninstall)
                    }
                    HookMoment::BeforeInstall => self.may_begin(Step::Install),
                    HookMoment::BeforeReboot => self.may_begin(Step::Reboot),
                    HookMoment::AfterHealthy => {}
                }
                self.hooks_run.push(hook.program.clone());
            }
            // Acts begin when they are ordered; only their answers may be late.
            Ask::Install { key, update, tries, .. } => {
                self.may_begin(Step::Install);
                self.is_prepared(HookMoment::BeforeInstall);
                for earlier in 0..*tries {
                    let before = self.results.get(&act(key, &update.kb, earlier));
                    let is_failed = before.is_none_or(|result| result.code == 4);
                    assert!(is_failed, "tried again after {before:?}");
                }
                let name = act(key, &update.kb, *tries);
                *self.installs.entry(name.clone()).or_default() += 1;
                let script = self.updates.get_mut(&update.kb).unwrap();
                let result = if !script.failures.is_empty() {
                    result(4, script.failures.remove(0), false)
                } else if script.fails {
                    result(4, 0x8007_0643, false)
                } else {
                    script.stand =
                        if script.reboot_required { Stand::Pending } else { Stand::InForce };
                    let hresult = if script.is_taken { 0x0024_0006 } else { 0 };
                    result(2, hresult, script.reboot_required)
                };
                self.results.insert(name, result);
            }
            Ask::Uninstall { key, update, tries, .. } => {
                self.may_begin(Step::Uninstall);
                self.is_prepared(HookMoment::BeforeInstall);
                self.is_still_alone(key);
                self.removals += 1;
                self.removed_for.push(key_id(key));
                let script = self.updates.get_mut(&update.kb).unwrap();
                if !script.removal_failures.is_empty() {
                    let failed = result(4, script.removal_failures.remove(0), false);
                    self.results.insert(removal(key, &update.kb, *tries), failed);
                    self.asked.push_back((due, turn, ask));
                    return;
                }
                script.stand =
                    if script.reboot_required { Stand::Removing } else { Stand::Offered };
            }
            Ask::Reboot { key, boot_before, force, .. } => {
                self.may_begin(Step::Reboot);
                self.is_prepared(HookMoment::BeforeReboot);
                let is_ordered = matches!(
                    &self.state.job.as_ref().unwrap().phase,
                    Phase::Rebooting { boot_before: journalled, .. } if journalled == boot_before
                );
                assert!(is_ordered, "the intent stands in the journal before the order");
                self.is_considerate();
                if *boot_before == format!("boot-{}", self.boot) && !self.ignores_reboots {
                    self.forced.push(*force);
                    if self.grace_ms == 0 {
                        *self.reboots.entry(key_id(key)).or_default() += 1;
                        self.boot_now(BootKind::Expected);
                    } else {
                        self.is_ending = true;
                        self.asked.push_back((self.mono_ms + self.grace_ms, turn, ask));
                    }
                }
                return;
            }
            Ask::RestartService { .. } => {
                self.restarts_of_service += 1;
                if self.restart_helps {
                    self.service = ServiceState::Running;
                    self.pid += 1;
                }
            }
            _ => {}
        }
        self.asked.push_back((due, turn, ask));
    }

    /// Who on the network answers now.
    fn answering(&self) -> BTreeSet<Witness> {
        let kills = |script: &Script| script.stand == Stand::InForce && script.kills_network;
        if self.is_unplugged || self.updates.values().any(kills) {
            return BTreeSet::new();
        }
        let mut answering = self.witnesses.clone();
        if self.mono_ms < self.cut_off_until_mono_ms {
            answering.remove(&Witness::Gateway);
        }
        answering
    }

    /// Before the first removal for a lost network, somebody looked for it once more.
    fn is_still_alone(&self, key: &JobKey) {
        let own = self.state.job.as_ref().and_then(|job| job.own_rollback.as_ref());
        if own.is_some_and(|own| own.reason != "BootLoop")
            && !self.removed_for.contains(&key_id(key))
        {
            let since = self.silence_mono_ms.map(|at| self.mono_ms - at);
            assert!(since.is_some_and(|since| since <= PERMIT_LIFE_MS), "{since:?}");
        }
    }

    /// Whether an installation or removal has not told its end yet.
    fn is_acting(&self) -> bool {
        let is_act = |ask: &Ask| matches!(ask, Ask::Install { .. } | Ask::Uninstall { .. });
        self.asked.iter().any(|(_, _, ask)| is_act(ask))
    }

    fn may_begin(&mut self, step: Step) {
        let is_own = self.state.job.as_ref().is_some_and(|job| job.own_rollback.is_some());
        if is_own && step != Step::Install {
            return;
        }
        let is_held = self
            .permits_held
            .iter()
            .any(|(held, asked)| *held == step && self.mono_ms < asked + PERMIT_LIFE_MS);
        assert!(is_held, "{step:?} began without a permit of this run");
    }

    /// Nobody was there a moment ago, or the time that a restart waits for them is over.
    fn is_considerate(&self) {
        let waited = self.due_since.map_or(0, |since| self.mono_ms - since);
        let wait_ms = self.state.job.as_ref().unwrap().payload.reboot.wait_ms;
        let fresh = self.last_look.as_ref().filter(|(at, _)| self.mono_ms - at <= PERMIT_LIFE_MS);
        let has_own_rollback =
            self.state.job.as_ref().is_some_and(|job| job.own_rollback.is_some());
        let Some((_, seen)) = fresh else {
            assert!(has_own_rollback && waited >= wait_ms, "nobody looked who is there");
            return;
        };
        let is_nobody = seen.people.is_some_and(|people| people.active == 0);
        let is_free = is_nobody && seen.active_until.is_none();
        assert!(is_free || waited >= wait_ms, "{seen:?} after {waited} ms");
        let is_unknown = matches!(seen.startup, Startup::Unknown(_));
        let is_unattended =
            seen.startup == Startup::Unattended || (is_unknown && waited >= 7_200_000);
        let is_safe = seen.power == Power::PluggedIn && is_unattended;
        assert!(is_safe || has_own_rollback || self.is_careless, "a restart with {seen:?}");
    }

    /// Every hook that comes before this has ended well in this boot.
    fn is_prepared(&self, moment: HookMoment) {
        let job = self.state.job.as_ref().unwrap();
        if job.own_rollback.is_some() {
            return;
        }
        for hook in job.payload.hooks.iter().filter(|hook| hook.moment == moment) {
            let name = (moment, hook.program.clone(), self.boot);
            assert!(self.hooks_good.contains(&name), "without {name:?}");
        }
    }

    /// Windows goes down and comes up; the agent starts with [`Bench::start`].
    pub fn boot_now(&mut self, kind: BootKind) {
        self.crashes_since_install += u32::from(matches!(kind, BootKind::Crash | BootKind::Dirty));
        self.boot += 1;
        self.boot_kind = kind;
        self.silence_mono_ms = None;
        self.due_since = None;
        self.last_look = None;
        self.is_ending = false;
        self.booted_mono_ms = self.mono_ms;
        let waits = |script: &Script| matches!(script.stand, Stand::Pending | Stand::Removing);
        // The agent cannot know that a removal was done before it has looked: all crashes until then
        // are one.
        let removes = |job: &JobRun| job.is_rollback() && job.is_removing();
        let is_hard = |kind: &BootKind| matches!(kind, BootKind::Crash | BootKind::Dirty);
        let is_counted = self.state.job.as_ref().is_some_and(removes)
            && is_hard(&kind)
            && self.boots_since_act.iter().any(is_hard);
        if !self.updates.values().any(waits) && !is_counted {
            self.boots_since_act.push(kind);
        }
        self.pending_reboot = self.pends_forever;
        self.service = ServiceState::Running;
        self.pid += 1;
        for script in self.updates.values_mut() {
            script.stand = match script.stand {
                Stand::Pending if script.reverts => Stand::Offered,
                Stand::Pending => Stand::InForce,
                Stand::Removing => Stand::Offered,
                other => other,
            };
            if script.stand == Stand::InForce && script.stops_service {
                self.service = ServiceState::Stopped;
            }
        }
        self.is_down = true;
    }

    fn build(&self) -> String {
        let is_new = self.updates.get("KB1").is_some_and(|script| script.stand == Stand::InForce);
        if is_new { NEW } else { OLD }.to_owned()
    }

    fn inspection(&self) -> Inspection {
        let status = |script: &Script| {
            let reversible =
                if script.uninstallable { Reversible::Expected } else { Reversible::No };
            match script.stand {
                Stand::Offered => UpdateStatus::Offered(reversible),
                Stand::NotOffered => UpdateStatus::NotOffered,
                Stand::Superseded => UpdateStatus::Superseded,
                Stand::NotApplicable => UpdateStatus::NotApplicable,
                Stand::Pending => UpdateStatus::PendingReboot(reversible),
                Stand::InForce => UpdateStatus::Installed(reversible),
                Stand::Removing => UpdateStatus::Removing,
            }
        };
        let waits = |script: &Script| matches!(script.stand, Stand::Pending | Stand::Removing);
        let update_waits = !self.hides_pending && self.updates.values().any(waits);
        let is_pending = self.pending_reboot || update_waits;
        let sample = ServiceSample {
            state: self.service,
            start: StartType::Auto,
            pid: (self.service == ServiceState::Running).then_some(self.pid),
        };
        Inspection {
            product: PRODUCT.to_owned(),
            build: self.build(),
            updates: self.updates.iter().map(|(kb, script)| (kb.clone(), status(script))).collect(),
            services: BTreeMap::from([(SERVICE.to_owned(), sample)]),
            probes: self.probes.clone(),
            ports: self.ports.clone(),
            witnesses: BTreeSet::new(),
            hard_pending: Vec::from_iter(is_pending.then(|| "ComponentBasedServicing".to_owned())),
            busy: self.is_busy || self.is_acting(),
            free_disk_gb: 100,
            surroundings: self.around.clone(),
        }
    }

    /// Answers a question as things are now.
    ///
    /// A gateway answers a question for a permit as things are now, but the permit's life began at
    /// `due`, when it was asked.
    pub fn answer(&mut self, due: u64, ask: &Ask) -> Answer {
        match ask {
            Ask::Install { not_after_mono_ms, .. }
            | Ask::Uninstall { not_after_mono_ms, .. }
            | Ask::Reboot { not_after_mono_ms, .. }
                if *not_after_mono_ms <= due =>
            {
                Answer::PermitExpired
            }
            Ask::RunHook { not_after_mono_ms: Some(not_after), .. } if *not_after <= due => {
                Answer::PermitExpired
            }
            Ask::Wake { .. } => Answer::Woke,
            Ask::Permit { .. } if !self.answering().contains(&Witness::Gateway) => {
                Answer::Permit { asked_mono_ms: due, answer: None }
            }
            Ask::Permit { step, .. } => {
                let answer = self.permits.pop_front().unwrap_or(Some(PermitAnswer::Granted));
                if answer == Some(PermitAnswer::Granted) {
                    self.permits_held.push((*step, due));
                }
                Answer::Permit { asked_mono_ms: due, answer }
            }
            Ask::Inspect { witnesses, .. } => {
                self.looks += 1;
                let mut seen = self.inspection();
                if witnesses.is_some() {
                    seen.witnesses = self.answering();
                }
                Answer::Inspected(Box::new(seen))
            }
            Ask::SeekContact { .. } => {
                let answering = self.answering();
                if answering.is_empty() {
                    self.silence_mono_ms = Some(self.mono_ms);
                } else {
                    self.heard_mono_ms = self.mono_ms;
                    self.silence_mono_ms = None;
                }
                Answer::Contact(answering)
            }
            Ask::LookAround { .. } => {
                self.last_look = Some((self.mono_ms, self.around.clone()));
                Answer::LookedAround(self.around.clone())
            }
            Ask::Download { .. } => Answer::Downloaded(Ok(())),
            Ask::Install { key, update, tries, .. } | Ask::FindInstall { key, update, tries } => {
                let found = self.results.get(&act(key, &update.kb, *tries)).cloned();
                Answer::Installed(found.map_or(InstallFound::NotBegun, InstallFound::Ended))
            }
            Ask::RunHook { hook, .. } => {
                let ended = self.hook_ends.pop_front().unwrap_or(Ok(()));
                if ended.is_ok() {
                    self.hooks_good.insert((hook.moment, hook.program.clone(), self.boot));
                }
                Answer::HookEnded(ended)
            }
            Ask::Uninstall { key, update, tries, .. }
                if self.results.contains_key(&removal(key, &update.kb, *tries)) =>
            {
                let failed = self.results[&removal(key, &update.kb, *tries)].clone();
                Answer::Uninstalled(InstallFound::Ended(failed))
            }
            Ask::Uninstall { update, .. } => {
                let required = self.updates[&update.kb].reboot_required;
                Answer::Uninstalled(InstallFound::Ended(result(2, 0, required)))
            }
            Ask::RestartService { .. } if self.restart_helps => Answer::Restarted(Ok(())),
            Ask::RestartService { .. } => Answer::Restarted(Err("error 1053".to_owned())),
            Ask::Reboot { .. } => Answer::RebootRefused("it is never asked".to_owned()),
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

/// Name of one try of an installation.
fn act(key: &JobKey, kb: &str, tries: u32) -> (String, String) {
    let again = if tries == 0 { String::new() } else { format!(" again {tries}") };
    (key_id(key), format!("{kb}{again}"))
}

/// Name of one try of a removal.
fn removal(key: &JobKey, kb: &str, tries: u32) -> (String, String) {
    let (key, kb) = act(key, kb, tries);
    (key, format!("removal of {kb}"))
}

fn result(code: i32, hresult: u32, reboot_required: bool) -> ServicingResult {
    ServicingResult { code, hresult, reboot_required, packages: vec!["Package_for_KB".to_owned()] }
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
