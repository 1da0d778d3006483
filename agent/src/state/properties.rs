//! What must hold whatever happens: random updates, answers that are lost, doubled or late, agents
//! that die right after a journal write, restarts by anybody, refused permits and clocks that jump.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use proptest::prelude::*;
use wardring_seal::{
    Action, AutonomousRollback, Hook, HookMoment, JobKey, JobPayload, NetworkLost, OutcomePayload,
    OutcomeResult,
};

use super::bench::{Bench, Says, Script, Stand, ended, key, refused};
use super::*;
use crate::pause::Pause;

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
enum Happens {
    /// The next due thing.
    Next,
    /// Any open question is answered, in any order; a doubled answer leaves it open.
    Answer {
        which: usize,
        doubled: bool,
    },
    /// The agent dies right after it wrote what follows from an answer.
    DieAfterAnswer {
        which: usize,
    },
    /// The agent dies now.
    Die,
    /// An answer gets lost.
    Lose {
        which: usize,
    },
    /// Windows restarts without our order.
    Boot(BootKind),
    /// Somebody switches it off and on again, so many hours later.
    SwitchOff {
        hours: i64,
    },
    /// The next permits are answered like this.
    Refuse {
        times: usize,
        ends: bool,
    },
    NoGateway,
    /// A job is offered: 0 is the current one again, 1 a newer one.
    Offer {
        newer: bool,
        rollback: bool,
    },
    /// Time passes, or the wall clock alone jumps.
    Wait {
        minutes: u64,
    },
    Jump {
        minutes: i64,
    },
    Observe(bool),
    /// An administrator pauses the agent, or lets it go on; the bench asserts that it begins nothing.
    Pause(bool),
    /// The network goes, or comes back.
    Unplug(bool),
    /// The device is looked at after the ends of jobs, or does not let itself be looked at; the bench
    /// asserts that nothing follows.
    Look(bool),
    /// People come and go, or Windows does not tell; the same for power and active hours.
    Around(Option<u32>, Power, bool),
    /// What people say to the next question, after so many seconds.
    Says(Says, u64),
}

fn happens() -> impl Strategy<Value = Happens> {
    let which = 0..4_usize;
    prop_oneof![
        20 => Just(Happens::Next),
        6 => (which.clone(), any::<bool>())
            .prop_map(|(which, doubled)| Happens::Answer { which, doubled }),
        4 => which.clone().prop_map(|which| Happens::DieAfterAnswer { which }),
        3 => Just(Happens::Die),
        1 => which.prop_map(|which| Happens::Lose { which }),
        1 => prop_oneof![
            Just(BootKind::Foreign), Just(BootKind::Crash), Just(BootKind::Dirty),
            Just(BootKind::Unknown), Just(BootKind::Expected),
        ]
        .prop_map(Happens::Boot),
        1 => (0..40_i64).prop_map(|hours| Happens::SwitchOff { hours }),
        2 => (1..4_usize, any::<bool>()).prop_map(|(times, ends)| Happens::Refuse { times, ends }),
        1 => Just(Happens::NoGateway),
        2 => (any::<bool>(), any::<bool>())
            .prop_map(|(newer, rollback)| Happens::Offer { newer, rollback }),
        1 => (0..90_u64).prop_map(|minutes| Happens::Wait { minutes }),
        1 => (-600..600_i64).prop_map(|minutes| Happens::Jump { minutes }),
        1 => any::<bool>().prop_map(Happens::Observe),
        2 => any::<bool>().prop_map(Happens::Pause),
        2 => any::<bool>().prop_map(Happens::Look),
        2 => (prop::option::of(0..3_u32), power(), any::<bool>())
            .prop_map(|(active, power, hours)| Happens::Around(active, power, hours)),
        2 => (prop::sample::select(vec![Says::Now, Says::Later, Says::Nothing]), 0..400_u64)
            .prop_map(|(says, seconds)| Happens::Says(says, seconds)),
    ]
}

fn power() -> impl Strategy<Value = Power> {
    prop_oneof![
        4 => Just(Power::PluggedIn),
        1 => Just(Power::Battery(Some(50))),
        1 => Just(Power::Unknown),
    ]
}

fn script() -> impl Strategy<Value = Script> {
    let stand = prop_oneof![
        8 => Just(Stand::Offered),
        1 => Just(Stand::InForce),
        1 => Just(Stand::NotOffered),
    ];
    let failures = prop::collection::vec(prop::sample::select(CODES.to_vec()), 0..6);
    (stand, any::<bool>(), any::<[u8; 5]>(), failures).prop_map(scripted)
}

/// Codes of every class that an installation may fail with.
const CODES: [u32; 6] =
    [0x8007_2EE2, 0x8007_0020, 0x8024_0016, 0x8024_0017, 0x8007_0643, 0x8024_200B];

fn scripted((stand, reboot_required, dice, failures): (Stand, bool, [u8; 5], Vec<u32>)) -> Script {
    Script {
        stand,
        reboot_required,
        removal_failures: if dice[1] > 200 { failures.clone() } else { Vec::new() },
        failures: if dice[0] > 150 { failures } else { Vec::new() },
        fails: dice[0] < 40,
        reverts: dice[1] < 40,
        stops_service: dice[2] < 60,
        uninstallable: dice[3] > 30,
        crashes: if dice[4] < 40 { u32::from(dice[4] / 8) } else { 0 },
        is_taken: dice[3] > 235,
        kills_network: dice[4] > 215,
    }
}

/// Hooks of all moments or none, and how the first of them end.
fn hooks() -> impl Strategy<Value = (Vec<Hook>, Vec<Result<(), String>>)> {
    let moments = [HookMoment::BeforeInstall, HookMoment::BeforeReboot, HookMoment::AfterHealthy];
    let hooks = prop::sample::subsequence(moments.to_vec(), 0..=3).prop_map(|moments| {
        let hook = |moment: HookMoment| Hook {
            moment,
            program: format!("{}.cmd", moment.as_str()),
            timeout_ms: 300_000,
        };
        moments.into_iter().map(hook).collect()
    });
    let end = prop_oneof![4 => Just(Ok(())), 1 => Just(Err("exit code 1".to_owned()))];
    (hooks, prop::collection::vec(end, 0..8))
}

fn benches() -> impl Strategy<Value = Bench> {
    let deferrals = prop_oneof![Just(0_u8), 1..=10_u8];
    let inputs = (script(), prop::option::of(script()), any::<[bool; 7]>(), hooks(), deferrals);
    inputs.prop_map(|(first, second, flags, (hooks, hook_ends), deferrals)| {
        let mut bench = Bench { deferrals, ..Bench::new() }.with("KB1", first);
        if let Some(second) = second {
            bench = bench.with("KB2", second);
        }
        bench.restart_helps = flags[0];
        bench.pending_reboot = flags[1];
        bench.ignores_reboots = flags[2] && flags[3];
        bench.pends_forever = flags[2] && flags[4];
        bench.hides_pending = flags[5];
        if flags[6] && flags[3] {
            bench.service = ServiceState::Stopped;
        }
        bench.hooks = hooks;
        bench.hook_ends = hook_ends.into();
        bench
    })
}

/// The same, where jobs let the device take updates back by itself, or do not; some have a role that
/// forbids it.
fn autonomous_benches() -> impl Strategy<Value = Bench> {
    let asked = prop::option::weighted(0.8, (prop::bool::weighted(0.8), prop::bool::weighted(0.7)));
    let roles = prop_oneof![
        6 => Just(Vec::new()),
        1 => Just(vec!["DomainController".to_owned()]),
        1 => Just(vec!["Unknown".to_owned()]),
        1 => Just(vec!["RdsHost".to_owned(), "ClusterNode".to_owned()]),
    ];
    (benches(), asked, roles).prop_map(|(mut bench, asked, roles)| {
        bench.autonomous = asked.map(|(boot_loop, by_network)| {
            let rules = NetworkLost { after_ms: 1_800_000, witnesses: Vec::new() };
            AutonomousRollback { boot_loop, network_lost: by_network.then_some(rules) }
        });
        bench.roles = roles;
        bench.start(false);
        bench
    })
}

/// The same events with many more restarts that nobody ordered.
fn restless() -> impl Strategy<Value = Happens> {
    let kinds = [BootKind::Crash, BootKind::Dirty, BootKind::Foreign, BootKind::Unknown];
    prop_oneof![
        8 => happens(),
        10 => Just(Happens::Next),
        2 => prop::sample::select(kinds.to_vec()).prop_map(Happens::Boot),
        2 => any::<bool>().prop_map(Happens::Unplug),
    ]
}

/// A run of one bench and what was seen of it.
struct Watched {
    bench: Bench,
    sequence: i64,
    current: JobPayload,
    reboot_first: bool,
    /// The service did not run before anything happened.
    was_stopped: bool,
    baseline: Option<(JobKey, Baseline)>,
    /// The boots of each job, by number: their kind, and whether the device had been switched off before.
    /// The first is the one in which it was accepted.
    boots: BTreeMap<JobKey, BTreeMap<u32, (BootKind, bool)>>,
}

impl Watched {
    fn new(mut bench: Bench, reboot_first: bool) -> Watched {
        let mut current = bench.job(1, Action::Install);
        current.preflight.reboot_first = reboot_first;
        bench.take(Event::Offered(Box::new(current.clone())));
        let was_stopped = bench.service == ServiceState::Stopped;
        let (baseline, boots) = (None, BTreeMap::new());
        let mut watched =
            Watched { bench, sequence: 1, current, reboot_first, was_stopped, baseline, boots };
        watched.check();
        watched
    }

    fn happens(&mut self, what: Happens) {
        let bench = &mut self.bench;
        if bench.is_down {
            // Nothing else can happen to an agent whose Windows is down.
            bench.go_on();
            return self.check();
        }
        match what {
            Happens::Next => {
                bench.go_on();
            }
            Happens::Answer { which, doubled } => {
                if let Some((due, turn, ask)) = Self::open(bench, which) {
                    bench.advance(due.saturating_sub(bench.mono_ms));
                    let answer = bench.answer(due, &ask);
                    bench.take(Event::Answered { turn, answer: answer.clone() });
                    if doubled && !bench.is_down {
                        bench.take(Event::Answered { turn, answer });
                    }
                }
            }
            Happens::DieAfterAnswer { which } => {
                if let Some((due, turn, ask)) = Self::open(bench, which) {
                    bench.advance(due.saturating_sub(bench.mono_ms));
                    let answer = bench.answer(due, &ask);
                    bench.take_without_effects(Event::Answered { turn, answer });
                    bench.start(false);
                }
            }
            Happens::Die => bench.start(false),
            Happens::Lose { which } => {
                // A lost answer to an act is an agent that must be started again.
                Self::open(bench, which);
                bench.start(false);
            }
            Happens::Boot(kind) => bench.boot_now(kind),
            Happens::SwitchOff { hours } => bench.switch_off(hours),
            Happens::Refuse { times, ends } => {
                let answer = if ends { ended() } else { refused("RolloutStopped", 1_000) };
                bench.permits.extend(std::iter::repeat_n(answer, times));
            }
            Happens::NoGateway => bench.permits.push_back(None),
            Happens::Offer { newer, rollback } => {
                if newer {
                    self.sequence += 1;
                    let action = if rollback { Action::Rollback } else { Action::Install };
                    self.current = bench.job(self.sequence, action);
                    self.current.preflight.reboot_first = self.reboot_first;
                }
                bench.take(Event::Offered(Box::new(self.current.clone())));
            }
            Happens::Wait { minutes } => bench.advance(minutes * 60_000),
            Happens::Jump { minutes } => bench.wall += SignedDuration::from_mins(minutes),
            Happens::Observe(observes) => {
                let mode = if observes { Mode::Observe } else { Mode::Manage };
                bench.take(Event::ModeSet(mode));
            }
            Happens::Pause(pauses) => {
                let mark = pauses.then(|| Pause::new("surgery", None, bench.wall).unwrap());
                bench.take(Event::Paused(mark));
            }
            Happens::Unplug(is_unplugged) => bench.is_unplugged = is_unplugged,
            Happens::Look(true) => bench.look(),
            Happens::Look(false) => bench.take_look(Err("no answer".to_owned())),
            Happens::Around(active, power, is_active) => {
                bench.around.people = active.map(|active| People { active, disconnected: 0 });
                bench.around.power = power;
                bench.around.active_until = is_active.then_some(17);
            }
            Happens::Says(says, seconds) => bench.replies.push_back((says, seconds * 1_000)),
        }
        self.check();
    }

    fn open(bench: &mut Bench, which: usize) -> Option<(u64, u64, Ask)> {
        let index = which % bench.asked.len().max(1);
        bench.asked.remove(index)
    }

    fn check(&mut self) {
        let bench = &self.bench;
        if let Some(job) = &bench.state.job {
            let boots = self.boots.entry(job.payload.key.clone()).or_default();
            boots.insert(bench.boot, (bench.boot_kind, bench.off.is_some()));
        }
        for (install, times) in &bench.installs {
            assert!(*times <= 1, "{install:?} was begun {times} times");
        }
        for tried in bench.state.job.iter().flat_map(|job| job.tries.values()) {
            assert!(tried.failed <= 5, "{tried:?}");
        }
        if let Some(job) = &bench.state.job {
            assert!(job.waiting.deferred <= job.payload.reboot.deferrals, "{:?}", job.waiting);
        }
        for (key, reboots) in &bench.reboots {
            // A rollback that the device began by itself has a bound of its own.
            let bound = MAX_REBOOTS * (1 + bench.own_rollbacks.get(key).unwrap_or(&0));
            assert!(*reboots <= bound, "{reboots} restarts for {key}");
        }
        for (index, outcome) in bench.outcomes.iter().enumerate() {
            let same = |other: &&OutcomePayload| other.key == outcome.key;
            let first = bench.outcomes.iter().find(same).unwrap();
            assert_eq!(first, outcome, "outcome {index} contradicts an earlier one of its key");
            self.check_outcome(outcome);
        }
        let job = bench.state.job.as_ref();
        // A restart before anything was touched starts the service, and the baseline is taken after it.
        self.was_stopped &=
            bench.service == ServiceState::Stopped || job.is_none_or(|job| job.touched);
        assert!(bench.state.finished.len() <= MAX_FINISHED);
        // The baseline is final once anything was touched.
        let touched = job.filter(|job| job.touched);
        let baseline =
            touched.and_then(|job| Some((job.payload.key.clone(), job.baseline.clone()?)));
        if let (Some(before), Some(now)) = (&self.baseline, &baseline)
            && before.0 == now.0
        {
            assert_eq!(before.1, now.1, "the baseline was overwritten");
        }
        self.baseline = baseline;
        for unexpected in &bench.unexpected {
            assert!(
                !matches!(unexpected, Unexpected::Answer { .. } | Unexpected::NotMine { .. }),
                "{unexpected}"
            );
        }
    }

    fn check_outcome(&self, outcome: &OutcomePayload) {
        let begun = |(name, _): &(&(String, String), &u32)| {
            name.0 == wardring_protocol::key_id(&outcome.key)
        };
        let is_begun = self.bench.installs.iter().any(|install| begun(&install));
        if outcome.result == OutcomeResult::Succeeded {
            assert!(is_begun, "a success without an installation: {outcome:?}");
            if outcome.reboot_required {
                assert_ne!(
                    Some(&outcome.boot_id),
                    outcome.installed_in_boot.as_ref(),
                    "a success from before the restart"
                );
            }
        }
        if self.was_stopped && outcome.key.action == Action::Install {
            assert_ne!(outcome.reason.as_deref(), Some("ServiceDown"), "it never ran: {outcome:?}");
        }
        if outcome.result == OutcomeResult::NotStarted {
            assert!(!is_begun && !outcome.started, "begun, and called not started: {outcome:?}");
        }
        if outcome.result == OutcomeResult::PoweredOff {
            self.check_switched_off(outcome);
        }
        if outcome.key.action == Action::Install && is_begun {
            assert!(outcome.started, "an installation is denied: {outcome:?}");
        }
        let key = wardring_protocol::key_id(&outcome.key);
        let own = *self.bench.own_rollbacks.get(&key).unwrap_or(&0);
        if outcome.key.action == Action::Install && outcome.result == OutcomeResult::RolledBack {
            assert_eq!(own, 1, "taken back, and nobody asked for it: {outcome:?}");
        }
        assert!(outcome.reboots <= MAX_REBOOTS * (1 + own) && outcome.message.len() <= 256);
    }

    /// It was off for long within the job, and nothing else happened in it that would have to be told.
    fn check_switched_off(&self, outcome: &OutcomePayload) {
        assert_eq!(outcome.key.action, Action::Install, "a removal has an end of its own");
        let all = self.boots.get(&outcome.key).into_iter().flat_map(BTreeMap::values);
        let boots: Vec<&(BootKind, bool)> = all.skip(1).collect();
        let is_clean =
            |(kind, _): &&(BootKind, bool)| matches!(kind, BootKind::Foreign | BootKind::Expected);
        assert!(boots.iter().all(is_clean), "{boots:?}: {outcome:?}");
        assert!(boots.iter().any(|(_, was_off)| *was_off), "{boots:?}: {outcome:?}");
    }

    /// From here on nothing goes wrong any more: it must come to an end, and the end must be known.
    fn converge(mut self) {
        self.bench.permits.clear();
        if self.bench.is_down {
            self.bench.state.paused = None;
        } else {
            self.bench.take(Event::Paused(None));
        }
        for _ in 0..9_000 {
            if self.bench.state.job.is_none() && !self.bench.is_down {
                break;
            }
            if self.bench.asked.is_empty() && !self.bench.is_down {
                panic!("nothing is asked any more: {:#?}", self.bench.state.job);
            }
            self.happens(Happens::Next);
        }
        assert!(self.bench.state.job.is_none(), "it does not end: {:#?}", self.bench.state.job);
        // Every job that was accepted has an outcome. What was offered while the device was busy
        // is taken up when it is offered again.
        self.bench.take(Event::Offered(Box::new(self.current.clone())));
        while self.bench.state.job.is_some() || self.bench.is_down {
            self.happens(Happens::Next);
        }
        let is_answered = self.bench.outcomes.iter().any(|end| end.key == self.current.key);
        assert!(is_answered, "no outcome for {:?}", self.current.key);
        for outcome in &self.bench.outcomes {
            if outcome.result == OutcomeResult::Succeeded
                && outcome.key == key(self.sequence, Action::Install)
            {
                self.check_success();
            }
        }
    }

    /// The last job succeeded and nothing happened since: the device must be as it says.
    fn check_success(&self) {
        for (kb, script) in &self.bench.updates {
            let ran = self.bench.installs.keys().any(|(_, begun)| begun == kb);
            if ran && !script.fails && script.failures.is_empty() {
                assert_eq!(script.stand, Stand::InForce, "{kb} is not in force after a success");
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_nothing_is_done_twice_or_unasked_and_every_job_comes_to_an_end(
        bench in benches(),
        reboot_first in any::<bool>(),
        events in prop::collection::vec(happens(), 0..120),
    ) {
        let mut watched = Watched::new(bench, reboot_first);
        for event in events {
            watched.happens(event);
        }
        watched.converge();
    }

    #[test]
    fn a_device_rolls_back_by_itself_once_where_it_is_asked_to_and_never_by_role(
        bench in autonomous_benches(),
        events in prop::collection::vec(restless(), 0..120),
    ) {
        // What must hold is asserted where the rollback begins.
        let mut watched = Watched::new(bench, true);
        for event in events {
            watched.happens(event);
        }
        watched.converge();
    }

    #[test]
    fn the_same_events_lead_to_the_same_state(
        bench in benches(),
        events in prop::collection::vec(happens(), 0..60),
    ) {
        let run = || {
            let mut watched = Watched::new(bench.clone(), true);
            for event in &events {
                watched.happens(*event);
            }
            watched.bench.state
        };
        prop_assert_eq!(run(), run());
    }
}

#[test]
fn an_agent_that_dies_after_any_one_journal_write_comes_to_the_same_end() {
    let story = |die_at: usize| {
        let mut bench = Bench::new().with("KB2", Script::default());
        bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
        let mut written = 0;
        while bench.state.job.is_some() {
            written += 1;
            if written == die_at && !bench.is_down {
                let Some((due, turn, ask)) = bench.asked.pop_front() else { break };
                bench.advance(due.saturating_sub(bench.mono_ms));
                let answer = bench.answer(due, &ask);
                bench.take_without_effects(Event::Answered { turn, answer });
                bench.start(false);
            } else {
                bench.go_on();
            }
        }
        (bench, written)
    };
    let (undisturbed, writes) = story(usize::MAX);
    assert_eq!(undisturbed.outcomes[0].result, OutcomeResult::Succeeded);
    for die_at in 1..=writes {
        let (bench, _) = story(die_at);
        let outcome = &bench.outcomes[0];
        assert_eq!(outcome.result, OutcomeResult::Succeeded, "died at write {die_at}");
        assert!(bench.installs.values().all(|times| *times == 1), "died at write {die_at}");
        assert!(outcome.reboots <= 1, "died at write {die_at}");
    }
}
