//! The agent is killed at every write of its journal, at two of three moments of each: with the new journal
//! flushed, between the two renames, and with the new one in place and nothing begun. Its service is
//! started again each time, and the job must end as it would have: one installation, one restart. Of what
//! a job can stand at, `RunningHook` and `AwaitingContact` are in the sweep of the state machine alone.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use serde_json::{Value, json};
use wardring_agent::journal::{Durability, Journal, Loaded};
use wardring_agent::state::MAX_REBOOTS;
use wardring_seal::{Action, JobPayload, OutcomePayload, OutcomeResult};
use wardring_wine_tests::gateway::TestGateway;
use wardring_wine_tests::jobs::job;
use wardring_wine_tests::killer::{Killer, Moment};
use wardring_wine_tests::registry::Changes;
use wardring_wine_tests::server::{Ends, Server, installed, removed};

const DEVICE: &str = "srv-1";
/// UBR before the first update.
const UBR: u32 = 4000;
const CURRENT_VERSION: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
const PACKAGES: &str =
    r"SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\Packages";
/// Where an installation stands on its way, and a rollback.
const INSTALLATION: [&str; 8] = [
    "Preflight",
    "Downloading",
    "AwaitingInstall",
    "Installing",
    "AwaitingReboot",
    "Rebooting",
    "Settling",
    "Verifying",
];
const ROLLBACK: [&str; 7] = [
    "Surveying",
    "AwaitingUninstall",
    "Uninstalling",
    "AwaitingReboot",
    "Rebooting",
    "Settling",
    "Verifying",
];
/// OperationResultCode: aborted.
const ABORTED: u64 = 5;
/// How long a job may take with all its kills.
const PATIENCE: Duration = Duration::from_secs(480);

/// A server, its gateway, and what was seen of it.
struct Rig {
    gateway: TestGateway,
    server: Server,
    jobs: i64,
    /// Kills after which the agent was started again.
    recovered: u64,
    /// Whole writes of the journal when the agent was last ended between the two renames of another, by us
    /// or with its Windows.
    cut_at: Option<u64>,
    /// Where jobs stood when the agent was killed.
    places: BTreeSet<String>,
    /// It is killed wherever the job stands, and not at writes by their number.
    everywhere: bool,
}

/// The end of a job.
struct Ended {
    outcome: OutcomePayload,
    /// Writes of the journal from the offer to the outcome.
    writes: u64,
    /// Restarts of Windows.
    restarts: usize,
    /// Calls of Windows Update's `Commit`.
    commits: usize,
    /// Kills that were planned and did not come: the job ended before.
    left: usize,
    /// Where the job stood when the agent was killed.
    places: Vec<String>,
}

impl Rig {
    async fn new() -> Rig {
        let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
        let create = || Server::create_mortal(UBR, &[], Changes::new());
        let server = tokio::task::spawn_blocking(create).await.unwrap().unwrap();
        server.install_agent(&[gateway.url()], &gateway.token.reveal(), DEVICE).unwrap();
        gateway.wait_for(DEVICE, "facts", |seen| seen.facts.is_some()).await;
        let (jobs, recovered, cut_at) = (0, 0, None);
        Rig { gateway, server, jobs, recovered, cut_at, places: BTreeSet::new(), everywhere: false }
    }

    fn killer(&self) -> &Killer {
        self.server.prefix.killer().unwrap()
    }

    /// A job of a rollout of its own.
    fn job(&mut self, action: Action, update: &Change) -> JobPayload {
        self.jobs += 1;
        let mut job = job(self.jobs, action);
        job.key.rollout_uid = format!("rollout-{}", self.jobs);
        job.updates[0].kb = format!("KB{}", update.kb);
        job.updates[0].target_build = Some(format!("20348.{}", update.ubr));
        job.health.services = vec!["MSSQLSERVER".to_owned()];
        // Wine takes the order to restart and leaves it at that: the test restarts.
        job.reboot.stuck_after_ms = 600_000;
        job
    }

    /// Gives a job, kills the agent at these writes of it, and starts it again each time. A restart that
    /// is ordered is carried out with `boot`.
    async fn run(
        &mut self,
        job: JobPayload,
        kills: &[(u64, Moment)],
        boot: impl Fn(&Server),
    ) -> Ended {
        let begin = self.killer().writes();
        let (attempt, began) = (job.key.attempt, Instant::now());
        let mut kills = kills.iter();
        let mut planned = kills.next();
        if self.everywhere {
            self.killer().arm_everywhere();
        }
        self.arm(begin, planned);
        self.gateway.give(DEVICE, job);
        let orders = self.server.restarts_ordered();
        let (mut carried, mut restarts, mut places) = (orders, 0, Vec::new());
        let commits_before = self.server.updates.calls("Commit").len();
        let outcome = loop {
            let mut is_off = false;
            if self.server.restarts_ordered() > carried {
                // Off first: it may have been killed since it ordered that, and the boot would start it
                // before anybody saw what it left.
                tokio::task::block_in_place(|| self.server.prefix.switch_off()).unwrap();
                is_off = true;
                // It writes what gateways acknowledged, and may have been in the middle of that.
                if self.killer().kills() == self.recovered && !self.journal().exists() {
                    self.cut_at = Some(self.killer().writes());
                }
            }
            if self.killer().kills() > self.recovered {
                assert!(planned.is_some() || self.everywhere, "who was killed was to be");
                // Where nothing else is said, the journal is in its place.
                let moment = planned.map_or(Moment::InPlace, |(_, moment)| *moment);
                places.push(self.killed(moment));
                planned = kills.next();
                self.arm(begin, planned);
                if !is_off {
                    self.server.recover_agent().unwrap();
                }
            }
            if is_off {
                tokio::task::block_in_place(|| boot(&self.server));
                (carried, restarts) = (self.server.restarts_ordered(), restarts + 1);
            }
            let outcomes = self.gateway.seen(DEVICE).outcomes;
            let mut mine = outcomes.into_iter().filter(|outcome| outcome.key.attempt == attempt);
            if let Some(outcome) = mine.next() {
                assert_eq!(mine.next(), None, "beside {outcome:?}");
                break outcome;
            }
            let log = || self.server.log();
            assert!(began.elapsed() < PATIENCE, "{:?}: {}", self.server.place(), log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        self.killer().disarm();
        // What it writes after the outcome was given may have been its planned end.
        if self.killer().kills() > self.recovered {
            let moment = planned.map_or(Moment::InPlace, |(_, moment)| *moment);
            places.push(self.killed(moment));
            planned = kills.next();
            self.server.recover_agent().unwrap();
        }
        let left = usize::from(planned.is_some()) + kills.len();
        let commits = self.server.updates.calls("Commit").len() - commits_before;
        Ended { outcome, writes: self.killer().writes() - begin, restarts, commits, left, places }
    }

    fn journal(&self) -> PathBuf {
        self.server.prefix.drive().join("ProgramData/Wardring/journal")
    }

    fn arm(&self, begin: u64, kill: Option<&(u64, Moment)>) {
        if let Some((write, moment)) = kill {
            self.killer().arm(begin + write, *moment);
        }
    }

    /// The agent was killed: what it left can be read, and nothing of it is lost.
    fn killed(&mut self, moment: Moment) -> String {
        self.recovered += 1;
        let data = self.server.prefix.drive().join("ProgramData/Wardring");
        let loaded = Journal::new(&data, Durability::Disk).load();
        let Loaded::Found(_) = loaded else { panic!("{moment:?}: {loaded:?}") };
        let writes = self.killer().writes();
        if moment == Moment::Between {
            self.cut_at = Some(writes);
        }
        // Until a whole write has come after a cut one, none is in its place, also not at the next flush.
        let is_cut = self.cut_at == Some(writes);
        assert_eq!(self.journal().exists(), !is_cut, "{moment:?} after {writes} writes");
        let place = self.server.place().unwrap().unwrap_or_else(|| "at rest".to_owned());
        self.places.insert(place.clone());
        place
    }

    /// Whether the agent wrote down that it begins to install an update, and never that this was done.
    fn is_marked(&self, update: &Change) -> bool {
        let path = self.server.prefix.drive().join("ProgramData/Wardring/installations");
        let book: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let of_update = format!(" KB{}", update.kb);
        let is_it =
            |entry: &&Value| entry["act"].as_str().is_some_and(|act| act.ends_with(&of_update));
        let marked = book["installations"].as_array().into_iter().flatten().find(is_it);
        // Nobody saw an end, or what Windows Update knows was looked for and there was nothing.
        marked.is_some_and(|entry| {
            entry["result"]["code"].as_u64().is_none_or(|code| code == ABORTED)
        })
    }

    /// Nothing that a job can stand at was left out.
    fn was_killed_at(&self, all: &[&str]) {
        let missed: Vec<_> = all.iter().filter(|place| !self.places.contains(**place)).collect();
        assert!(missed.is_empty(), "never killed at {missed:?}, but at {:?}", self.places);
    }

    /// Every job kills the agent at one more of its writes with the journal in place, and half a job away
    /// from that before it is; until a job has no such write any more. What the agent writes beside the job
    /// moves the numbers, so that one more job kills it wherever it stands.
    async fn sweep(&mut self, mut job: impl AsyncFnMut(&mut Rig, u32, &[(u64, Moment)]) -> Ended) {
        let undisturbed = job(self, 0, &[]).await;
        let whole = undisturbed.writes;
        for number in 1.. {
            let write = u64::from(number);
            let other = if write % 2 == 0 { Moment::Between } else { Moment::Flushed };
            let mut kills = vec![(write, Moment::InPlace)];
            if write <= whole {
                kills.push(((write + whole / 2 - 1) % whole + 1, other));
                kills.sort_unstable();
            }
            let ended = job(self, number, &kills).await;
            if write > whole && ended.left > 0 {
                self.everywhere = true;
                job(self, number + 1, &[]).await;
                break;
            }
        }
    }
}

/// One update.
struct Change {
    kb: u32,
    ubr: u32,
    package: String,
}

impl Change {
    fn new(number: u32) -> Change {
        let ubr = UBR + 1 + number;
        let package = format!("Package_for_RollupFix~31bf3856ad364e35~amd64~~20348.{ubr}.1.12");
        Change { kb: 5_068_000 + number, ubr, package }
    }

    fn id(&self) -> String {
        format!("aaaaaaaa-0000-0000-0000-00000{}", self.kb)
    }

    /// A Windows Update that knows it alone.
    fn world(&self, is_installed: bool) -> Value {
        json!({ "updates": [{
            "id": self.id(), "revision": 200, "kbs": [self.kb.to_string()],
            "title": format!("Cumulative Update (KB{}) (20348.{})", self.kb, self.ubr),
            "isInstalled": is_installed, "install": { "takesMs": 100, "needsReboot": true },
        }] })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_at_any_write_of_its_journal_installs_once_and_restarts_once() {
    let mut rig = Rig::new().await;
    let mut unbegun = 0;
    rig.sweep(async |rig, number, kills| {
        let update = Change::new(number);
        rig.server.updates.set_world(&update.world(false)).unwrap();
        let job = rig.job(Action::Install, &update);
        let boot = |server: &Server| {
            let changes = installed(Changes::new(), &update.package);
            server.restart(update.ubr, Ends::Installed, changes).unwrap();
        };
        let ended = rig.run(job, kills, boot).await;

        let outcome = &ended.outcome;
        let installs = rig.server.updates.calls("Install");
        let mine = installs.iter().filter(|call| call["update"] == update.id().as_str()).count();
        // Who is killed right after it began one has not written the call down, but Windows did.
        let world = rig.server.updates.world().unwrap();
        let entries = world["history"].as_array().into_iter().flatten();
        let done = entries.filter(|entry| entry["id"] == update.id().as_str()).count();
        let mine = mine.max(done);
        if outcome.result == OutcomeResult::Failed {
            // Between its own mark that it begins and the call itself nobody can tell that Windows Update
            // was never asked: it does not begin again by itself, and says so.
            assert!(
                outcome.message.contains("WU_E_CALL_CANCELLED"),
                "{kills:?}: {}",
                outcome.message
            );
            assert_eq!((mine, ended.restarts), (0, 0), "{kills:?}: {installs:?}");
            let places = &ended.places;
            assert!(places.iter().any(|place| place == "Installing"), "{kills:?}: {places:?}");
            assert!(
                rig.is_marked(&update),
                "{kills:?}: it was cancelled and never marked as begun"
            );
            // It takes a write that happens to fall between the two: that of a report beside the job.
            unbegun += 1;
            assert!(unbegun <= 4, "{kills:?}: it happens in more jobs than can be chance");
            return ended;
        }
        assert_eq!(outcome.result, OutcomeResult::Succeeded, "{kills:?}: {}", outcome.message);
        assert_eq!(mine, 1, "{kills:?}: {installs:?}");
        assert_eq!(ended.restarts, 1, "{kills:?}");
        // A second one before the restart may make the update fail. Who is killed right before the call
        // leaves it out, which only upgrades of Windows would miss.
        let committed = if kills.is_empty() { 1..=1 } else { 0..=1 };
        assert!(committed.contains(&ended.commits), "{kills:?}: {} commits", ended.commits);
        assert!((1..=MAX_REBOOTS).contains(&outcome.reboots), "{kills:?}: {outcome:?}");
        ended
    })
    .await;
    rig.was_killed_at(&INSTALLATION);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_at_any_write_of_its_journal_removes_once_and_restarts_once() {
    let mut rig = Rig::new().await;
    rig.sweep(async |rig, number, kills| {
        let update = Change::new(number);
        rig.server.updates.set_world(&update.world(true)).unwrap();
        let ubr = update.ubr.to_string();
        rig.server.prefix.set(CURRENT_VERSION, "UBR", "REG_DWORD", &ubr).unwrap();
        let package = format!(r"{PACKAGES}\{}", update.package);
        rig.server.prefix.set(&package, "CurrentState", "REG_DWORD", "0x70").unwrap();
        let job = rig.job(Action::Rollback, &update);
        let boot = |server: &Server| {
            let changes = removed(Changes::new(), &update.package);
            server.restart(UBR, Ends::Offered, changes).unwrap();
        };
        let ended = rig.run(job, kills, boot).await;

        let outcome = &ended.outcome;
        assert_eq!(outcome.result, OutcomeResult::RolledBack, "{kills:?}: {}", outcome.message);
        let removals = rig.server.removals();
        let mine = removals.iter().filter(|line| line.contains(&update.package));
        assert_eq!(mine.count(), 1, "{kills:?}: {removals:?}");
        assert_eq!(ended.restarts, 1, "{kills:?}");
        assert!((1..=MAX_REBOOTS).contains(&outcome.reboots), "{kills:?}: {outcome:?}");
        ended
    })
    .await;
    rig.was_killed_at(&ROLLBACK);
}
