//! What must always hold, over random fleets, reports and faults. A device's own story (what its
//! agent really did) is the witness; the planner's word about itself is not.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use proptest::{collection::vec, prelude::*, sample::select};
use support::{SERVER, World, agent::Fetch, agent::Script};
use wardring_api::{
    AwaitingRebootAction, FailureAction, JobAction, LineState, OfflineAction, PermitStep,
    RollbackScope, RolloutPhase, conditions,
};
use wardring_planner::{Action, Decision, plan};

/// Something that befalls the world.
#[derive(Clone, Debug)]
enum Fault {
    Suspend,
    Resume,
    Abort,
    Retry,
    DeleteRollout,
    Offline(usize),
    Online(usize),
    DeleteDevice(usize),
    Reenrol(usize),
    DeleteJob(usize),
    Hold(usize),
    Release(usize),
    /// The controller dies after so many writes.
    Crash(usize),
    /// The catalogue changes in mid-run.
    NewUpdate,
    RepairedByHand(usize),
    /// An EmergencyStop: for everything, for everything and rollbacks, for the first stage, for a KB.
    Stop(usize),
    LiftStop(usize),
    DeleteGroup(usize),
    RestoreGroup(usize),
}

/// Emergency stops, with the devices of which stage they concern, and whether rollbacks too.
const STOPS: [(&str, Option<&str>, bool); 4] = [
    ("{reason: ward closed}", None, false),
    ("{reason: ward closed, rollbacks: Stop}", None, true),
    ("{reason: ward closed, selector: {matchLabels: {stage: g0}}}", Some("g0"), false),
    ("{reason: ward closed, kbs: [KB5068787], rollbacks: Stop}", None, true),
];

/// A random run.
#[derive(Clone, Debug)]
struct Case {
    stages: Vec<StageCase>,
    action: FailureAction,
    scope: RollbackScope,
    on_halt: AwaitingRebootAction,
    group_limit: Option<u32>,
    /// Another rollout wants the devices of the first stage too.
    second: bool,
    /// The stages keep to windows, and devices download ahead of them, one at a time; this is how.
    ahead: Option<Fetch>,
    faults: Vec<(u32, Fault)>,
}

#[derive(Clone, Debug)]
struct StageCase {
    scripts: Vec<Script>,
    concurrency: u32,
    failures: u32,
    unreachable: u32,
    attempts: u32,
    offline: OfflineAction,
}

fn fault() -> impl Strategy<Value = Fault> {
    let device = 0..6usize;
    prop_oneof![
        1 => Just(Fault::Suspend),
        1 => Just(Fault::Resume),
        1 => Just(Fault::Abort),
        1 => Just(Fault::Retry),
        1 => Just(Fault::DeleteRollout),
        3 => device.clone().prop_map(Fault::Offline),
        3 => device.clone().prop_map(Fault::Online),
        1 => device.clone().prop_map(Fault::DeleteDevice),
        1 => device.clone().prop_map(Fault::Reenrol),
        1 => device.clone().prop_map(Fault::DeleteJob),
        1 => device.clone().prop_map(Fault::Hold),
        1 => device.clone().prop_map(Fault::Release),
        4 => (0..12usize).prop_map(Fault::Crash),
        1 => Just(Fault::NewUpdate),
        1 => device.clone().prop_map(Fault::RepairedByHand),
        2 => (0..STOPS.len()).prop_map(Fault::Stop),
        1 => (0..STOPS.len()).prop_map(Fault::LiftStop),
        2 => device.clone().prop_map(Fault::DeleteGroup),
        2 => device.prop_map(Fault::RestoreGroup),
    ]
}

fn stage(scripts: &'static [Script]) -> impl Strategy<Value = StageCase> {
    (
        vec(select(scripts), 1..4),
        1..3u32,
        0..2u32,
        0..2u32,
        1..3u32,
        select(
            &[
                OfflineAction::Wait,
                OfflineAction::Defer,
                OfflineAction::CatchUp,
                OfflineAction::Fail,
            ][..],
        ),
    )
        .prop_map(|(scripts, concurrency, failures, unreachable, attempts, offline)| {
            StageCase { scripts, concurrency, failures, unreachable, attempts, offline }
        })
}

fn case(scripts: &'static [Script], faults: usize) -> impl Strategy<Value = Case> {
    (
        vec(stage(scripts), 1..4),
        select(&[FailureAction::Halt, FailureAction::Rollback][..]),
        select(&[RollbackScope::Device, RollbackScope::Stage, RollbackScope::AllStages][..]),
        select(
            &[
                AwaitingRebootAction::Hold,
                AwaitingRebootAction::Finish,
                AwaitingRebootAction::Uninstall,
            ][..],
        ),
        proptest::option::of(1..3u32),
        any::<bool>(),
        vec((1..90u32, fault()), 0..=faults),
        select(&[None, Some(Fetch::Good), Some(Fetch::Fails), Some(Fetch::Hangs)][..]),
    )
        .prop_map(
            move |(stages, action, scope, on_halt, group_limit, second, befalls, ahead)| Case {
                stages,
                action,
                scope,
                on_halt,
                group_limit,
                second,
                faults: befalls,
                ahead: ahead.filter(|_| faults > 0),
            },
        )
}

/// Minutes that the faulty part of a run is watched.
const WATCHED: u32 = 100;

impl Case {
    fn world(&self) -> World {
        let mut world = World::new();
        let mut stages = Vec::new();
        for (position, stage) in self.stages.iter().enumerate() {
            let group = format!("g{position}");
            world.group(&group).spec.max_unavailable =
                self.group_limit.map(wardring_api::Cap::Count);
            for (number, script) in stage.scripts.iter().enumerate() {
                let name = format!("d{position}-{number}");
                world.device(&name, &group, SERVER);
                world.agents.get_mut(&name).unwrap().script = *script;
            }
            stages.push(serde_json::json!({
                "name": group, "group": group, "maxConcurrency": stage.concurrency,
                "maxFailures": stage.failures, "maxUnreachable": stage.unreachable,
                "minCoverage": "1%", "soak": "2m", "progressDeadline": "12h",
                "silenceDeadline": "30m", "deviceDeadline": "6h", "startWithin": "1h",
                "windows": if self.ahead.is_some() { vec!["soon", "later"] } else { vec![] },
                "retry": { "maxAttempts": stage.attempts, "backoff": "3m" },
                "offline": {
                    "action": format!("{:?}", stage.offline), "after": "20m", "closeAfter": "3h",
                },
            }));
        }
        for (name, from, until) in [
            ("soon", "2026-11-20T22:12:00Z", "2026-11-20T22:40:00Z"),
            ("later", "2026-11-20T23:00:00Z", "2027-11-20T23:00:00Z"),
        ] {
            let schedule = format!("{{once: {{from: {from}, until: {until}}}}}");
            if self.ahead.is_some() {
                world.window(name, &format!("{{type: Allow, schedule: {schedule}}}"));
            }
        }
        for agent in world.agents.values_mut() {
            agent.fetch = self.ahead.unwrap_or(Fetch::Good);
        }
        let ahead = serde_json::json!({ "ahead": "15m", "maxConcurrency": 1 });
        let spec = serde_json::json!({
            "predownload": self.ahead.map(|_| ahead),
            "updates": { "select": { "release": "2026-11" } },
            "stages": stages,
            "onFailure": {
                "action": format!("{:?}", self.action), "scope": format!("{:?}", self.scope),
                "maxConcurrency": 1,
            },
            "onHalt": { "installedAwaitingReboot": format!("{:?}", self.on_halt) },
        });
        world.rollout("november", &serde_yaml::to_string(&spec).unwrap());
        if self.second {
            world.rollout(
                "other",
                "{updates: {kbs: [KB5068787]}, stages: [{name: other, group: g0, minProven: 0, \
                 maxConcurrency: 2, maxFailures: 9, maxUnreachable: 9, minCoverage: 1%, \
                 progressDeadline: 12h, deviceDeadline: 6h, silenceDeadline: 30m}]}",
            );
        }
        world
    }

    fn names(&self) -> Vec<String> {
        let stages = self.stages.iter().enumerate();
        stages
            .flat_map(|(position, stage)| {
                (0..stage.scripts.len()).map(move |number| format!("d{position}-{number}"))
            })
            .collect()
    }

    fn befall(&self, world: &mut World, fault: &Fault, watch: &mut Watch) {
        let names = self.names();
        let name = |device: &usize| names[device % names.len()].clone();
        if !world.rollouts.contains_key("november") {
            return;
        }
        match fault {
            Fault::Suspend => world.edit("november", |spec| spec.suspend = Some(true)),
            Fault::Resume => world.edit("november", |spec| spec.suspend = Some(false)),
            Fault::Abort => world.edit("november", |spec| {
                spec.abort = Some(wardring_api::Abort { reason: "enough".to_owned() });
            }),
            Fault::Retry => {
                watch.retries += 1;
                world.retry("november");
            }
            Fault::DeleteRollout => world.delete_rollout("november"),
            Fault::Offline(device) => world.set_online(&name(device), false),
            Fault::Online(device) => world.set_online(&name(device), true),
            Fault::DeleteDevice(device) => {
                world.devices.remove(&name(device));
            }
            Fault::Reenrol(device) => {
                let (name, now) = (name(device), world.now);
                if let Some(row) = world.devices.get_mut(&name) {
                    row.enrolment_id = Some(format!("eid-{now}").into());
                }
            }
            Fault::DeleteJob(device) => {
                world.jobs.remove(&name(device));
            }
            Fault::Hold(device) => {
                let until = world.now + SignedDuration::from_mins(20);
                if let Some(row) = world.devices.get_mut(&name(device)) {
                    let reason = "demo".to_owned();
                    row.hold = Some(Box::new(wardring_api::Hold { reason, until: Some(until) }));
                }
            }
            Fault::Release(device) => {
                let now = world.now;
                if let Some(row) = world.devices.get_mut(&name(device)) {
                    row.release_requested_at = Some(now);
                }
            }
            Fault::Crash(writes) => world.crash_after(*writes, |world| watch.look(world)),
            Fault::NewUpdate => world.updates.push(support::update("KB5099999", SERVER)),
            Fault::DeleteGroup(group) => {
                world.groups.remove(&format!("g{}", group % self.stages.len()));
            }
            Fault::RestoreGroup(group) => {
                let name = format!("g{}", group % self.stages.len());
                world.group(&name).spec.max_unavailable =
                    self.group_limit.map(wardring_api::Cap::Count);
            }
            Fault::Stop(number) => world.stop(&number.to_string(), STOPS[*number].0),
            Fault::LiftStop(number) => drop(world.stops.remove(&number.to_string())),
            Fault::RepairedByHand(device) => {
                if let Some(mut agent) = world.agents.remove(&name(device)) {
                    agent.repair(world);
                    world.agents.insert(name(device), agent);
                }
            }
        }
    }

    /// Runs the case and looks at every state between two writes.
    fn run(&self) -> (World, Watch) {
        let mut world = self.world();
        let mut watch = Watch::new(self);
        for minute in 0..WATCHED {
            for (_, fault) in self.faults.iter().filter(|(at, _)| *at == minute) {
                self.befall(&mut world, fault, &mut watch);
            }
            let given = world.permits.len();
            let plan = world.minute(|world| watch.look(world));
            under_no_stop(&world, given);
            watch.rest(&world, &plan);
        }
        (world, watch)
    }
}

/// S5: no permit since `given` that an EmergencyStop of this minute concerns.
fn under_no_stop(world: &World, given: usize) {
    for given in &world.permits[given..] {
        let concerns = |number: &String| {
            let (_, stage, rollbacks) = STOPS[number.parse::<usize>().unwrap()];
            stage.is_none_or(|stage| given.device.starts_with(&stage.replace('g', "d")))
                && (rollbacks || given.action != JobAction::Rollback)
        };
        let stop = world.stops.keys().find(|number| concerns(number));
        assert!(stop.is_none(), "S5: {given:?} under stop {stop:?}");
    }
}

/// What is remembered to compare with.
struct Watch {
    concurrency: BTreeMap<String, usize>,
    second: bool,
    attempts: BTreeMap<(String, String), u32>,
    succeeded: BTreeSet<(String, String, u32)>,
    sequence: i64,
    retries: u32,
    most_tries: u32,
    devices: usize,
    permits: usize,
    plan_hash: Option<(String, usize)>,
    opened: BTreeSet<String>,
    granted: BTreeSet<(String, String, u32)>,
}

impl Watch {
    fn new(case: &Case) -> Watch {
        let stages = case.stages.iter().enumerate();
        Watch {
            concurrency: stages
                .map(|(position, stage)| (format!("g{position}"), stage.concurrency as usize))
                .chain([("other".to_owned(), 2)])
                .collect(),
            second: case.second,
            succeeded: BTreeSet::new(),
            attempts: BTreeMap::new(),
            sequence: 0,
            retries: 0,
            most_tries: case.stages.iter().map(|stage| stage.attempts).max().unwrap_or(1),
            devices: case.names().len(),
            permits: 0,
            plan_hash: None,
            opened: BTreeSet::new(),
            granted: BTreeSet::new(),
        }
    }

    /// Holds after every single write.
    fn look(&mut self, world: &World) {
        let lines = world.lines();
        // S2: granted, about to be granted, or possibly begun, together never above the cap.
        for (stage, most) in &self.concurrency {
            let flying = lines.iter().filter(|(uid, of, line)| {
                let begun = world.jobs.get(&line.device).is_some_and(|job| {
                    job.rollout_uid == *uid
                        && job.may_have_begun()
                        && job.attempt == line.attempt
                        && matches!(line.state, LineState::Pending | LineState::NotStarted)
                        && job.outcome == wardring_planner::JobOutcome::None
                });
                let named = world.ledger.batch.as_ref().is_some_and(|batch| {
                    batch.rollout_uid == *uid
                        && line.sequence < batch.sequence
                        && batch.grants.contains(&format!(
                            "{} {} Install",
                            line.device,
                            line.attempt + 1
                        ))
                });
                let installing =
                    line.state == LineState::Granted && line.action == JobAction::Install;
                of == stage && (installing || begun || named)
            });
            let flying = flying.count();
            assert!(flying <= *most, "S2: {flying} in flight in {stage}, {most} allowed");
        }
        let rolling = lines.iter().filter(|(_, stage, line)| {
            let granted = line.state == LineState::Granted && stage != "other";
            granted && line.action == JobAction::Rollback
        });
        assert!(rolling.count() <= 1, "S2: two rollbacks at once");
        // S4: sequence and attempts only grow.
        assert!(world.ledger.sequence >= self.sequence, "S4: the sequence shrank");
        self.sequence = world.ledger.sequence;
        for (uid, _, line) in &lines {
            let seen = self.attempts.entry((uid.clone(), line.device.clone())).or_default();
            assert!(line.attempt >= *seen, "S4: the attempt of {} shrank", line.device);
            *seen = line.attempt;
        }
        // A download ahead has a cap of its own, and can act on nothing.
        for stage in self.concurrency.keys() {
            let mut fetching = lines.iter().filter(|all| all.1 == *stage && all.2.is_downloading());
            assert!(fetching.by_ref().count() <= 1, "S2: two devices of {stage} download");
        }
        for (_, _, line) in lines.iter().filter(|all| all.2.action == JobAction::Download) {
            assert_eq!(line.state, LineState::Pending, "a download ended as {line}");
        }
        // One device, one job: two rollouts never have it at once.
        let mut granted = BTreeSet::new();
        for (_, _, line) in lines.iter().filter(|(_, _, line)| line.is_in_force()) {
            assert!(granted.insert(&line.device), "two rollouts have {}", line.device);
        }
        self.limits(world, &lines);
        self.proofs(world, &lines);
    }

    /// S13: a deleted group lifts none of its limits; the stages that name it grant nothing new.
    fn limits(&mut self, world: &World, lines: &[(String, String, wardring_api::SliceLine)]) {
        let mut granted = BTreeSet::new();
        for (uid, stage, line) in lines.iter().filter(|all| all.2.state == LineState::Granted) {
            let grant = (uid.clone(), line.device.clone(), line.attempt);
            let group = if stage == "other" { "g0" } else { stage };
            assert!(
                self.granted.contains(&grant) || world.groups.contains_key(group),
                "S13: {} was granted without group {group}",
                line.device
            );
            granted.insert(grant);
        }
        self.granted = granted;
    }

    fn proofs(&mut self, world: &World, lines: &[(String, String, wardring_api::SliceLine)]) {
        for (uid, stage, line) in lines {
            let Some(agent) = world.agents.get(&line.device) else { continue };
            // S9: success is what really is there, seen after the restart.
            let grant = (uid.clone(), line.device.clone(), line.attempt);
            if line.state == LineState::Succeeded && self.succeeded.insert(grant) {
                assert!(
                    agent.installed && agent.reboots > 0,
                    "S9: {} succeeded without proof",
                    line.device
                );
            }
            // S8: installations are bounded.
            let most = self.most_tries * (1 + self.retries) + u32::from(self.second);
            assert!(
                agent.begun <= most,
                "S8: {} began {} installs in stage {stage}",
                line.device,
                agent.begun
            );
        }
        let status = world.status("november");
        for pair in status.stages.windows(2) {
            // S3 and S17: the next stage is frozen only behind a proven one. Looked at when it opens:
            // a rollback may take the proof back later.
            let opens = pair[1].freeze_id.is_some() && self.opened.insert(pair[1].name.clone());
            if opens {
                assert!(pair[0].state.is_promoted(), "S3: {} opened", pair[1].name);
                let mut proven = lines.iter().filter(|(_, stage, line)| {
                    *stage == pair[0].name && line.state == LineState::Succeeded
                });
                assert!(proven.next().is_some(), "S17: {} opened on nothing", pair[1].name);
            }
        }
        // S12: what was resolved stays resolved.
        if let Some(hash) = &status.plan_hash {
            let now = (hash.clone(), status.resolved_updates.len());
            let first = self.plan_hash.get_or_insert_with(|| now.clone());
            assert_eq!(*first, now, "S12: the resolved updates changed");
        }
    }

    /// Holds when the controller has nothing left to do.
    fn rest(&mut self, world: &World, last: &wardring_planner::Plan) {
        let new = &world.permits[self.permits..];
        let download = new.iter().find(|given| given.action == JobAction::Download);
        assert!(download.is_none(), "a permit for a download: {download:?}");
        let status = world.status("november");
        let spec = world.rollouts.get("november").map(|rollout| &rollout.spec);
        let deleted = world
            .rollouts
            .get("november")
            .is_none_or(|rollout| rollout.metadata.deletion_timestamp.is_some());
        for given in new.iter().filter(|given| given.rollout == "november") {
            // S13: deleting starts nothing.
            assert!(!deleted || given.at < world.now, "S13: {given:?} after deletion");
        }
        self.permits = world.permits.len();
        // S6: a broken budget is a halt.
        if let Some(spec) = spec.filter(|_| !deleted) {
            for (stage, state) in spec.stages.iter().zip(&status.stages) {
                let most = stage.max_failures.map_or(0, |cap| cap.of(usize::MAX / 200));
                if state.counts.failed as usize > most && self.retries == 0 {
                    assert!(
                        status.halted.is_some() || status.aborted.is_some(),
                        "S6: {} failed and {most} are allowed",
                        state.counts.failed
                    );
                }
            }
        }
        self.explained(world, last);
    }

    /// L3: whatever does not move has a reason, and what can change by itself has a time.
    fn explained(&self, world: &World, last: &wardring_planner::Plan) {
        for rollout in &last.rollouts {
            let mut told = 0;
            let mut working = false;
            for stage in &rollout.stages {
                assert_eq!(stage.decisions.len(), stage.devices().count());
                told += stage.decisions.len();
                working |= stage.decisions.contains(&Decision::Continue);
                for (device, decision) in stage.devices() {
                    assert!(
                        decision != Decision::Start,
                        "{device} starts in a plan without writes"
                    );
                }
            }
            assert!(told <= self.devices);
            let is_over = matches!(
                rollout.status.phase,
                Some(RolloutPhase::Completed | RolloutPhase::Aborted | RolloutPhase::Suspended)
            );
            let waits = !rollout.status.waiting_for.is_empty();
            assert!(is_over || waits, "L3: nothing says why it stands: {:?}", rollout.status);
            let stands = matches!(
                rollout.status.phase,
                Some(RolloutPhase::Halted | RolloutPhase::RolledBack | RolloutPhase::RollingBack)
            );
            let held =
                rollout.status.stages.iter().all(|stage| {
                    stage.counts.in_progress == stage.counts.installed_awaiting_reboot
                });
            let kept =
                conditions::is_true(&rollout.status.conditions, conditions::EMERGENCY_STOPPED);
            let only_a_person_moves_it = is_over || kept || (stands && (held || !working));
            if !only_a_person_moves_it {
                assert!(
                    last.next_evaluation.is_some_and(|next| next > world.now),
                    "L3: no next evaluation: {:#?}",
                    rollout.status
                );
            }
        }
    }
}

const HONEST: &[Script] =
    &[Script::Good, Script::Good, Script::ServiceDown, Script::Silent, Script::AlreadyInstalled];
const NOTHING: &[Script] = &[Script::NotOffered, Script::AlreadyInstalled];
const GOOD: &[Script] = &[Script::Good];

/// Seeds that failed once are run first, from then on. `PROPTEST_CASES` asks for more cases than
/// the 96 that every run of the tests affords.
fn config() -> ProptestConfig {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/properties.proptest-regressions");
    let persistence = proptest::test_runner::FileFailurePersistence::Direct(file);
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: if default.cases == 256 { 96 } else { default.cases },
        failure_persistence: Some(Box::new(persistence)),
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn caps_order_proof_and_budgets_hold_under_random_faults(case in case(Script::ALL, 6)) {
        case.run();
    }

    #[test]
    fn two_faults_at_honest_devices_break_nothing(case in case(HONEST, 2)) {
        case.run();
    }

    /// L1.
    #[test]
    fn a_good_run_completes_and_then_writes_nothing(case in case(GOOD, 0)) {
        let (mut world, _) = case.run();
        prop_assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
        let writes = world.writes;
        for _ in 0..200 {
            world.minute(|_| {});
        }
        prop_assert_eq!(world.writes, writes);
    }

    /// S17.
    #[test]
    fn nothing_to_install_never_opens_the_next_stage(mut case in case(NOTHING, 0)) {
        case.stages.push(case.stages[0].clone());
        let (world, _) = case.run();
        let status = world.status("november");
        prop_assert!(status.stages[1..].iter().all(|stage| stage.freeze_id.is_none()));
    }

    /// L4.
    #[test]
    fn no_dead_device_blocks_a_run_past_its_deadlines(case in case(Script::ALL, 4)) {
        let (mut world, _) = case.run();
        world.stops.clear();
        // Every deadline of every stage, one after the other, and that of a rollback, which has as long as
        // a stage and may begin with the last of them.
        for _ in 0..(13 * 60 * (case.stages.len() + 1) / 15) {
            world.now += SignedDuration::from_mins(14);
            world.minute(|_| {});
        }
        let stands = world.rollouts.get("november").is_none_or(|rollout| {
            let status = rollout.status.clone().unwrap_or_default();
            let waits_for_a_person = matches!(
                status.phase,
                Some(RolloutPhase::Completed | RolloutPhase::Aborted | RolloutPhase::Suspended
                    | RolloutPhase::Halted | RolloutPhase::RolledBack)
            );
            let lacks_group = status.waiting_for.iter().any(|all| all.reason == "GroupNotFound");
            (waits_for_a_person || lacks_group) && rollout.metadata.deletion_timestamp.is_none()
        });
        prop_assert!(stands, "{:#?}", world.status("november"));
    }

    /// L5.
    #[test]
    fn a_device_back_after_thirty_days_gets_the_current_job_once(days in 1..60i64) {
        let mut world = World::new();
        world.group("g");
        world.device("laptop", "g", SERVER);
        world.set_online("laptop", false);
        world.rollout("november", "updates: {select: {release: 2026-11}}
stages: [{name: g, group: g, progressDeadline: 100d}]");
        world.settle();
        world.now += SignedDuration::from_hours(days * 24);
        world.settle();
        prop_assert_eq!(world.state("november", "laptop"), Some(LineState::Pending));
        world.set_online("laptop", true);
        for _ in 0..20 {
            world.minute(|_| {});
        }
        prop_assert_eq!(world.state("november", "laptop"), Some(LineState::Succeeded));
        prop_assert_eq!(world.agents["laptop"].begun, 1);
    }

    /// S5: once a stop is written, no install begins and nothing but a finish restarts.
    #[test]
    fn no_permit_leaves_after_a_stop(case in case(GOOD, 0), minute in 1..40u32, stop in 0..4usize) {
        let mut world = case.world();
        for _ in 0..minute {
            world.minute(|_| {});
        }
        let given = world.permits.len();
        match stop {
            0 => world.edit("november", |spec| spec.suspend = Some(true)),
            1 => world.edit("november", |spec| {
                spec.abort = Some(wardring_api::Abort { reason: "enough".to_owned() });
            }),
            2 => world.delete_rollout("november"),
            _ => world.stop("all", "{reason: ward closed}"),
        }
        for _ in 0..30 {
            world.minute(|_| {});
        }
        let finishes = case.on_halt == AwaitingRebootAction::Finish && stop == 1;
        let later: Vec<_> = world.permits[given..]
            .iter()
            .filter(|given| given.rollout == "november")
            .filter(|given| !(finishes && given.step == PermitStep::Reboot))
            .collect();
        prop_assert!(later.is_empty(), "{:?}", later);
    }

    #[test]
    fn the_order_of_the_snapshot_does_not_matter(case in case(Script::ALL, 3), minute in 1..60u32) {
        let mut world = case.world();
        let mut watch = Watch::new(&case);
        for now in 0..minute {
            for (_, fault) in case.faults.iter().filter(|(at, _)| *at == now) {
                case.befall(&mut world, fault, &mut watch);
            }
            world.minute(|_| {});
        }
        world.run_agents();
        let mut snapshot = world.snapshot();
        let straight = plan(&snapshot);
        snapshot.rollouts.reverse();
        snapshot.slices.reverse();
        snapshot.jobs.reverse();
        snapshot.updates.reverse();
        snapshot.holds.reverse();
        let mut rows = snapshot.devices.rows().to_vec();
        rows.reverse();
        let mut groups = snapshot.devices.groups().to_vec();
        groups.reverse();
        snapshot.devices = std::sync::Arc::new(wardring_planner::DeviceTable::new(rows, groups));
        prop_assert_eq!(straight, plan(&snapshot));
    }

    #[test]
    fn planning_after_applying_changes_nothing(case in case(Script::ALL, 5)) {
        let (world, _) = case.run();
        let again = plan(&world.snapshot());
        prop_assert_eq!(again.actions, Vec::<Action>::new());
    }
}
