//! A random run: a fleet, one or two rollouts, and what befalls them.

use jiff::SignedDuration;
use proptest::{collection::vec, prelude::*, sample::select};
use wardring_api::{AwaitingRebootAction, FailureAction, OfflineAction, RollbackScope};

use crate::{
    support::{
        self, SERVER, World,
        agent::{Fetch, Script},
    },
    watch::{Watch, under_no_stop},
};

/// Something that befalls the world.
#[derive(Clone, Debug)]
pub enum Fault {
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
pub const STOPS: [(&str, Option<&str>, bool); 4] = [
    ("{reason: ward closed}", None, false),
    ("{reason: ward closed, rollbacks: Stop}", None, true),
    ("{reason: ward closed, selector: {matchLabels: {stage: g0}}}", Some("g0"), false),
    ("{reason: ward closed, kbs: [KB5068787], rollbacks: Stop}", None, true),
];

/// A random run.
#[derive(Clone, Debug)]
pub struct Case {
    pub stages: Vec<StageCase>,
    pub action: FailureAction,
    pub scope: RollbackScope,
    pub on_halt: AwaitingRebootAction,
    pub group_limit: Option<u32>,
    /// Another rollout wants the devices of the first stage too.
    pub second: bool,
    /// The stages keep to windows, and devices download ahead of them, one at a time; this is how.
    pub ahead: Option<Fetch>,
    pub faults: Vec<(u32, Fault)>,
}

#[derive(Clone, Debug)]
pub struct StageCase {
    scripts: Vec<Script>,
    pub concurrency: u32,
    failures: u32,
    unreachable: u32,
    pub attempts: u32,
    offline: OfflineAction,
}

pub fn fault() -> impl Strategy<Value = Fault> {
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

pub fn stage(scripts: &'static [Script]) -> impl Strategy<Value = StageCase> {
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

pub fn case(scripts: &'static [Script], faults: usize) -> impl Strategy<Value = Case> {
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
pub const WATCHED: u32 = 100;

impl Case {
    pub fn world(&self) -> World {
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

    pub fn names(&self) -> Vec<String> {
        let stages = self.stages.iter().enumerate();
        stages
            .flat_map(|(position, stage)| {
                (0..stage.scripts.len()).map(move |number| format!("d{position}-{number}"))
            })
            .collect()
    }

    pub fn befall(&self, world: &mut World, fault: &Fault, watch: &mut Watch) {
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
    pub fn run(&self) -> (World, Watch) {
        self.run_in(self.world(), |_| {}, |_, _| {})
    }

    /// The same in a world that was changed before. `look` sees it after every write, and `judge` after
    /// every minute, with the number of permits that there were before.
    pub fn run_in(
        &self,
        mut world: World,
        mut look: impl FnMut(&World),
        mut judge: impl FnMut(&World, usize),
    ) -> (World, Watch) {
        let mut watch = Watch::new(self);
        for minute in 0..WATCHED {
            for (_, fault) in self.faults.iter().filter(|(at, _)| *at == minute) {
                self.befall(&mut world, fault, &mut watch);
            }
            let given = world.permits.len();
            let plan = world.minute(|world| {
                watch.look(world);
                look(world);
            });
            under_no_stop(&world, given);
            judge(&world, given);
            watch.rest(&world, &plan);
        }
        (world, watch)
    }
}
