//! Every place of a job × everything that may happen to it there, and how it must end.
//!
//! The bench asserts on the way that nothing is begun without a permit of this run, that no two acts
//! run at once, that no device is called good that did not hold; the table says how each case ends.

use jiff::SignedDuration;
use wardring_seal::{Action, Hook, HookMoment, OutcomePayload, OutcomeResult};

use super::bench::{Bench, Says, Script, ended, ended_because, refused};
use super::*;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// A place that a job can be in, and how it gets there.
struct Place {
    name: &'static str,
    reach: fn() -> Bench,
}

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happens {
    Nothing,
    /// The agent is killed.
    Killed,
    /// The agent is killed right after it wrote what follows from the next answer.
    KilledAfterWriting,
    /// The write of what follows from the next answer is torn: the journal before it is in place.
    TornWrite,
    /// The journal cannot be written for three hours.
    DiskFull,
    /// The journal is lost.
    StateLost,
    Boot(BootKind),
    CrashesTwice,
    ClockForward {
        hours: i64,
    },
    ClockBack,
    /// Permits are refused for ten minutes.
    Suspended,
    /// Permits are refused for good.
    SuspendedForGood,
    Aborted,
    JobDeleted,
    NoGatewayFor {
        hours: u64,
    },
    NewerInstall,
    NewerRollback,
    Observe,
    /// Windows answers no question any more.
    WindowsHangs,
}

const EVENTS: [Happens; 25] = [
    Happens::Nothing,
    Happens::Killed,
    Happens::KilledAfterWriting,
    Happens::TornWrite,
    Happens::DiskFull,
    Happens::StateLost,
    Happens::Boot(BootKind::Expected),
    Happens::Boot(BootKind::Foreign),
    Happens::Boot(BootKind::Crash),
    Happens::Boot(BootKind::Dirty),
    Happens::Boot(BootKind::Unknown),
    Happens::CrashesTwice,
    Happens::ClockForward { hours: 6 },
    Happens::ClockForward { hours: 24 * 30 },
    Happens::ClockBack,
    Happens::Suspended,
    Happens::SuspendedForGood,
    Happens::Aborted,
    Happens::JobDeleted,
    Happens::NoGatewayFor { hours: 3 },
    Happens::NoGatewayFor { hours: 30 },
    Happens::NewerInstall,
    Happens::NewerRollback,
    Happens::Observe,
    Happens::WindowsHangs,
];

fn offered(mut bench: Bench, change: impl FnOnce(&mut wardring_seal::JobPayload)) -> Bench {
    let mut job = bench.job(1, Action::Install);
    change(&mut job);
    bench.take(Event::Offered(Box::new(job)));
    bench
}

fn until(mut bench: Bench, phase: &str, awaits: Awaits) -> Bench {
    bench.go_until(|bench| {
        let job = bench.state.job.as_ref();
        job.is_none_or(|job| job.phase.word() == phase && job.awaits == awaits)
    });
    assert!(bench.state.job.is_some(), "{phase} is never reached: {:?}", bench.outcomes);
    bench
}

fn installing_until(phase: &str, awaits: Awaits) -> Bench {
    until(offered(Bench::new(), |_| ()), phase, awaits)
}

/// A restart of which Windows has been told and that it has not begun.
fn told_to_restart(mut bench: Bench, phase: &str) -> Bench {
    bench.ignores_reboots = true;
    bench = until(bench, phase, Awaits::Answer);
    bench = until(bench, "Rebooting", Awaits::Answer);
    bench.ignores_reboots = false;
    bench
}

fn restart_first() -> Bench {
    let bench = Bench { pending_reboot: true, ..Bench::new() };
    until(offered(bench, |job| job.preflight.reboot_first = true), "RebootFirst", Awaits::Time)
}

fn rolling_back_until(phase: &str, awaits: Awaits) -> Bench {
    until(rolling_back(Bench::new()), phase, awaits)
}

fn rolling_back(mut bench: Bench) -> Bench {
    bench.carry_out_job(bench.job(1, Action::Install));
    bench.installs.clear();
    bench.take(Event::Offered(Box::new(bench.job(2, Action::Rollback))));
    bench
}

/// A job that runs this hook.
fn running(mut bench: Bench, program: &str) -> Bench {
    bench.go_until(|bench| bench.hooks_run.last().is_some_and(|run| run == program));
    assert_eq!(bench.state.job.as_ref().map(|job| job.phase.word()), Some("RunningHook"));
    bench
}

fn with_hooks() -> Bench {
    let mut bench = Bench::new();
    let hook = |moment, program: &str| Hook {
        moment,
        program: program.to_owned(),
        timeout_ms: 10 * MINUTE_MS,
    };
    bench.hooks = vec![
        hook(HookMoment::BeforeInstall, "drain"),
        hook(HookMoment::BeforeReboot, "fail over"),
        hook(HookMoment::AfterHealthy, "resume"),
    ];
    bench
}

/// Somebody works there and says this to the first question.
fn with_people(says: Says) -> Bench {
    let people = Some(People { active: 1, disconnected: 0 });
    let around = Surroundings { people, ..Surroundings::CLEAR };
    Bench { around, deferrals: 2, replies: [(says, MINUTE_MS)].into(), ..Bench::new() }
}

fn places() -> Vec<Place> {
    use Awaits::{Answer, People, Time};
    let place = |name, reach| Place { name, reach };
    vec![
        place("looking", || offered(Bench::new(), |_| ())),
        place("waiting for a busy Windows", || {
            let bench = Bench { is_busy: true, ..Bench::new() };
            let bench = until(offered(bench, |_| ()), "Preflight", Time);
            Bench { is_busy: false, ..bench }
        }),
        place("told to restart first", restart_first),
        place("restarting first", || told_to_restart(restart_first(), "RebootFirst")),
        place("downloading", || installing_until("Downloading", Answer)),
        place("asking to install", || installing_until("AwaitingInstall", Answer)),
        place("refused to install", || {
            let mut bench = installing_until("AwaitingInstall", Answer);
            bench.permits.push_back(refused("RolloutStopped", 30_000));
            until(bench, "AwaitingInstall", Time)
        }),
        place("installing", || installing_until("Installing", Answer)),
        place("asking for the second update", || {
            let bench = Bench::new().with("KB2", Script::default());
            let mut bench = until(offered(bench, |_| ()), "Installing", Answer);
            bench.advance(2 * MINUTE_MS);
            until(bench, "AwaitingInstall", Answer)
        }),
        place("waiting to try again", || {
            let failures = vec![0x8007_2EE2];
            let bench = Bench::new().with("KB1", Script { failures, ..Script::default() });
            let bench = until(offered(bench, |_| ()), "Installing", Answer);
            until(bench, "AwaitingInstall", Time)
        }),
        place("asking to try again", || {
            let failures = vec![0x8007_2EE2];
            let bench = Bench::new().with("KB1", Script { failures, ..Script::default() });
            let bench = until(offered(bench, |_| ()), "Installing", Answer);
            let bench = until(bench, "AwaitingInstall", Time);
            until(bench, "AwaitingInstall", Answer)
        }),
        place("restarting before it tries again", || {
            let failures = vec![0x8024_0016];
            let bench = Bench::new().with("KB1", Script { failures, ..Script::default() });
            let bench = offered(bench, |job| job.preflight.reboot_first = true);
            until(bench, "RebootFirst", Time)
        }),
        place("asking people", || {
            until(offered(with_people(Says::Later), |_| ()), "AwaitingReboot", People)
        }),
        place("counting down since they agreed", || {
            until(offered(with_people(Says::Now), |_| ()), "AwaitingReboot", Time)
        }),
        place("counting down", || installing_until("AwaitingReboot", Time)),
        place("asking to restart", || installing_until("AwaitingReboot", Answer)),
        place("told to restart", || {
            told_to_restart(installing_until("AwaitingReboot", Time), "AwaitingReboot")
        }),
        place("down", || {
            let mut bench = installing_until("AwaitingReboot", Answer);
            bench.go_until(|bench| bench.is_down);
            bench
        }),
        place("settling", || installing_until("Settling", Time)),
        place("verifying", || installing_until("Verifying", Time)),
        place("restarting a service", || {
            let script = Script { stops_service: true, ..Script::default() };
            let bench = Bench { restart_helps: true, ..Bench::new() }.with("KB1", script);
            until(offered(bench, |_| ()), "Remediating", Answer)
        }),
        place("draining", || running(offered(with_hooks(), |_| ()), "drain")),
        place("failing over", || running(offered(with_hooks(), |_| ()), "fail over")),
        place("resuming", || running(offered(with_hooks(), |_| ()), "resume")),
        place("draining before the removal", || {
            let mut bench = with_hooks();
            bench.carry_out_job(bench.job(1, Action::Install));
            bench.installs.clear();
            bench.hooks_run.clear();
            bench.take(Event::Offered(Box::new(bench.job(2, Action::Rollback))));
            running(bench, "drain")
        }),
        place("surveying", || rolling_back_until("Accepted", Answer)),
        place("asking to remove", || rolling_back_until("Uninstalling", Answer)),
        place("removing", || {
            let mut bench = rolling_back_until("Uninstalling", Answer);
            bench.go_until(|bench| bench.removals > 0);
            bench
        }),
        place("waiting to remove again", || {
            let removal_failures = vec![0x800F_0902];
            let script = Script { removal_failures, ..Script::default() };
            let bench = Bench::new().with("KB1", script);
            until(rolling_back(bench), "Uninstalling", Time)
        }),
        place("restarting before it removes again", || {
            let removal_failures = vec![0x800F_0806];
            let script = Script { removal_failures, ..Script::default() };
            let bench = Bench::new().with("KB1", script);
            until(rolling_back(bench), "RebootFirst", Time)
        }),
        place("counting down after the removal", || rolling_back_until("AwaitingReboot", Time)),
        place("told to restart after the removal", || {
            let bench = rolling_back_until("AwaitingReboot", Time);
            told_to_restart(bench, "AwaitingReboot")
        }),
        place("settling after the removal", || rolling_back_until("Settling", Time)),
        place("verifying the removal", || rolling_back_until("Verifying", Time)),
    ]
}

fn begins(bench: &mut Bench, event: Happens) {
    match event {
        Happens::Nothing => {}
        Happens::Killed => bench.start(false),
        Happens::KilledAfterWriting => {
            bench.without_effects();
            bench.start(false);
        }
        Happens::TornWrite => {
            let (before, told) = (bench.state.clone(), bench.outcomes.len());
            bench.without_effects();
            bench.state = before;
            // An outcome is in the same write.
            bench.outcomes.truncate(told);
            bench.start(false);
        }
        Happens::DiskFull => bench.write_late(3 * HOUR_MS),
        Happens::StateLost => {
            bench.start(true);
            bench.take(Event::ModeSet(Mode::Manage));
        }
        Happens::Boot(kind) => {
            bench.boot_now(kind);
            bench.go_on();
        }
        Happens::CrashesTwice => {
            for _ in 0..2 {
                bench.boot_now(BootKind::Crash);
                bench.go_on();
            }
        }
        Happens::ClockForward { hours } => bench.wall += SignedDuration::from_hours(hours),
        Happens::ClockBack => bench.wall -= SignedDuration::from_hours(6),
        Happens::Suspended => {
            bench.permits.extend((0..10).map(|_| refused("RolloutStopped", 60_000)))
        }
        Happens::SuspendedForGood => {
            bench.permits.extend((0..500).map(|_| refused("RolloutStopped", 600_000)));
        }
        Happens::Aborted => bench.permits.push_back(ended_because("AbortedByPerson")),
        Happens::JobDeleted => bench.permits.extend([ended(), ended()]),
        Happens::NoGatewayFor { hours } => {
            bench.cut_off_until_mono_ms = bench.mono_ms + hours * HOUR_MS;
        }
        Happens::NewerInstall => {
            bench.take(Event::Offered(Box::new(bench.job(9, Action::Install))));
        }
        Happens::NewerRollback => {
            bench.take(Event::Offered(Box::new(bench.job(9, Action::Rollback))));
        }
        Happens::Observe => bench.take(Event::ModeSet(Mode::Observe)),
        Happens::WindowsHangs => bench.is_silent = true,
    }
}

/// What the table needs to know about a job before something happens to it.
struct Before {
    job: JobRun,
    /// The restart that finishes the job is under way.
    is_down: bool,
}

impl Before {
    fn begun(&self) -> bool {
        self.job.begun()
    }

    /// The permit to begin is in hand, and what comes next is not asked for again.
    fn is_about_to_begin(&self) -> bool {
        matches!(
            self.job.phase,
            Phase::RunningHook { next: AfterHook::Install | AfterHook::Uninstall, .. }
        )
    }

    /// No permit is needed any more: what is left is to look.
    fn is_settled(&self) -> bool {
        self.is_down || self.job.phase.is_proof()
    }

    /// A question for a permit is under way; its answer comes whatever the clock says.
    fn asks(&self) -> bool {
        let asks = matches!(
            self.job.phase,
            Phase::AwaitingInstall | Phase::AwaitingReboot { .. } | Phase::AwaitingUninstall
        );
        asks && self.job.awaits == Awaits::Answer
    }

    fn is_good(&self) -> (OutcomeResult, Option<&'static str>) {
        let rolls_back = self.job.is_rollback();
        (if rolls_back { OutcomeResult::RolledBack } else { OutcomeResult::Succeeded }, None)
    }

    fn is_bad(&self, reason: &'static str) -> (OutcomeResult, Option<&'static str>) {
        let rolls_back = self.job.is_rollback();
        let result = if rolls_back { OutcomeResult::RollbackFailed } else { OutcomeResult::Failed };
        (result, Some(reason))
    }

    fn is_stopped(&self, reason: &'static str) -> (OutcomeResult, Option<&'static str>) {
        if self.begun() { self.is_bad(reason) } else { (OutcomeResult::NotStarted, Some(reason)) }
    }

    /// How the job must end.
    fn end(&self, event: Happens) -> Option<(OutcomeResult, Option<&'static str>)> {
        let has_waiting = self.begun() && self.job.next_update().is_some();
        Some(match event {
            Happens::StateLost => self.is_bad("StateLost"),
            // What crashes before a removal is in force is what the rollback is for.
            Happens::CrashesTwice if self.job.is_rollback() && !self.is_settled() => self.is_good(),
            Happens::CrashesTwice if self.begun() => self.is_bad("BootLoop"),
            Happens::CrashesTwice => self.is_stopped("BootLoop"),
            // The rest is not begun after a restart in the middle.
            Happens::Boot(_) if has_waiting && !self.goes_on_after_any_restart() => {
                self.is_bad("InstallFailed")
            }
            Happens::Nothing
            | Happens::Killed
            | Happens::KilledAfterWriting
            | Happens::TornWrite
            | Happens::DiskFull
            | Happens::Boot(_)
            | Happens::ClockBack
            | Happens::Suspended
            | Happens::NoGatewayFor { hours: 3 } => self.is_good(),
            Happens::ClockForward { hours: 6 } if self.begun() || self.asks() => self.is_good(),
            Happens::ClockForward { .. } if self.is_settled() => self.is_good(),
            Happens::ClockForward { .. } if self.asks() && self.restarts() => self.is_good(),
            Happens::ClockForward { .. } if self.asks() => self.is_bad("FinishByPassed"),
            Happens::SuspendedForGood | Happens::NoGatewayFor { .. } if self.is_settled() => {
                self.is_good()
            }
            Happens::SuspendedForGood | Happens::NoGatewayFor { .. } | Happens::Aborted
                if self.is_about_to_begin() =>
            {
                let aborted = event == Happens::Aborted;
                self.is_bad(if aborted { "AbortedByPerson" } else { "FinishByPassed" })
            }
            Happens::JobDeleted if self.is_about_to_begin() => self.is_good(),
            Happens::ClockForward { .. }
            | Happens::SuspendedForGood
            | Happens::NoGatewayFor { .. } => {
                self.is_stopped(if self.begun() { "FinishByPassed" } else { "StartByPassed" })
            }
            Happens::Aborted if self.is_settled() => self.is_good(),
            Happens::Aborted => self.is_stopped("AbortedByPerson"),
            Happens::JobDeleted if self.begun() => self.is_good(),
            Happens::JobDeleted => self.is_stopped("NoSuchJob"),
            Happens::NewerInstall | Happens::NewerRollback if self.acts() => self.is_good(),
            Happens::NewerInstall | Happens::NewerRollback => self.is_stopped("NoSuchJob"),
            Happens::Observe if self.begun() => self.is_good(),
            Happens::Observe => self.is_stopped("ObserveMode"),
            Happens::WindowsHangs => return None,
        })
    }

    /// Something irreversible runs, and a newer job waits for its end.
    fn acts(&self) -> bool {
        self.job.phase.is_irreversible() && !self.is_down
    }

    /// The next try comes after a restart, and anybody's will do; a rollback looks anew after each.
    fn goes_on_after_any_restart(&self) -> bool {
        let waits = matches!(self.job.phase, Phase::AwaitingReboot { why: RebootWhy::First, .. });
        waits || self.job.is_rollback()
    }

    /// The permit asked for is the last one.
    fn restarts(&self) -> bool {
        matches!(self.job.phase, Phase::AwaitingReboot { why: RebootWhy::Finish, .. })
    }
}

/// Whoever waits says what for.
fn says_why_it_waits(bench: &Bench) -> bool {
    let Some(job) = &bench.state.job else { return true };
    let is_paused = job.awaits == Awaits::Time;
    let waits = match job.phase {
        Phase::AwaitingInstall | Phase::AwaitingUninstall => is_paused,
        // The countdown is announced; every other wait is not.
        Phase::AwaitingReboot { .. } => {
            is_paused && job.warned_mono_ms.is_none_or(|over| over <= bench.mono_ms)
        }
        Phase::Preflight { .. } | Phase::Downloading { .. } | Phase::Surveying { .. } => is_paused,
        Phase::Settling { checks } => is_paused && checks > 0,
        _ => false,
    };
    !waits || !job.message.is_empty()
}

fn goes_on_until_its_end(bench: &mut Bench, case: &str) {
    for _ in 0..50_000 {
        if bench.state.job.is_none() && !bench.is_down {
            return;
        }
        assert!(says_why_it_waits(bench), "{case}: it waits without a word");
        assert!(bench.go_on(), "{case}: nothing is left to do: {:#?}", bench.state.job);
    }
    panic!("{case}: it has no end: {:#?}", bench.state.job);
}

#[test]
fn wherever_a_job_is_and_whatever_happens_it_ends_as_the_table_says() {
    for place in places() {
        for event in EVENTS {
            let case = format!("{} × {event:?}", place.name);
            let mut bench = (place.reach)();
            let job = bench.state.job.clone().unwrap();
            let before = Before { is_down: bench.is_down, job };
            let known = bench.outcomes.len();
            let (key, payload) = (before.job.payload.key.clone(), before.job.payload.clone());
            if bench.is_down {
                bench.go_on();
            }
            begins(&mut bench, event);
            goes_on_until_its_end(&mut bench, &case);
            // Whatever was offered, and refused while something irreversible ran, is offered again.
            for action in [Action::Install, Action::Rollback] {
                let is_newer = match event {
                    Happens::NewerInstall => action == Action::Install,
                    Happens::NewerRollback => action == Action::Rollback,
                    _ => false,
                };
                if is_newer {
                    let newer = bench.carry_out_job(bench.job(9, action));
                    assert_eq!(newer.key.attempt, 9, "{case}");
                }
            }
            bench.take(Event::Offered(Box::new(payload)));
            goes_on_until_its_end(&mut bench, &case);

            let ends: Vec<&OutcomePayload> =
                bench.outcomes[known..].iter().filter(|outcome| outcome.key == key).collect();
            let first = *ends.first().unwrap_or_else(|| panic!("{case}: no outcome"));
            assert!(ends.iter().all(|end| *end == first), "{case}: it says two things");
            match before.end(event) {
                Some(expected) => {
                    let found = (first.result, first.reason.as_deref());
                    assert_eq!(found, expected, "{case}: {}", first.message);
                }
                None => {
                    let (good, _) = before.is_good();
                    assert_ne!(first.result, good, "{case}: nobody looked");
                }
            }
            assert!(bench.installs.values().all(|times| *times == 1), "{case}: installed twice");
            assert!(bench.reboots.values().all(|times| *times <= MAX_REBOOTS), "{case}");
            let touches = bench.installs_begun() + bench.removals > 0;
            assert!(
                touches || !matches!(first.result, OutcomeResult::Succeeded),
                "{case}: a success of nothing"
            );
        }
    }
}
