//! What keeps devices back besides the rollout itself: windows, gates, and other rollouts. Each property
//! reckons for itself what it allows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use proptest::{collection::vec, prelude::*, sample::select};
use wardring_api::{
    AntiAffinity, GateResult, JobAction, LineState, PermitStep, RolloutPhase, StageState,
};

use crate::{
    GOOD, HONEST,
    case::{Case, case},
    config,
    support::{Given, Meter, SERVER, World, agent::Script, start},
};

/// A MaintenanceWindow in minutes since the beginning.
#[derive(Clone, Debug)]
struct Span {
    from: i64,
    lasts: i64,
    cutoff: i64,
    reboots: bool,
    finishes: bool,
}

/// Which windows a run has.
#[derive(Clone, Debug)]
struct Calendar {
    /// Of every stage of the first rollout; none is any time.
    stages: Vec<Span>,
    /// Of the first group, whichever rollout wants it.
    group: Vec<Span>,
    /// Freezes: of the first group alone, or of every device.
    freezes: Vec<(Span, bool)>,
}

fn span() -> impl Strategy<Value = Span> {
    (0..90_i64, 1..40_i64, 0..8_i64, any::<bool>(), any::<bool>()).prop_map(
        |(from, lasts, cutoff, reboots, finishes)| {
            // A window that could start nothing is refused.
            Span { from, lasts, cutoff: cutoff.min(lasts - 1), reboots, finishes }
        },
    )
}

fn calendar() -> impl Strategy<Value = Calendar> {
    (vec(span(), 0..4), vec(span(), 0..3), vec((span(), any::<bool>()), 0..3))
        .prop_map(|(stages, group, freezes)| Calendar { stages, group, freezes })
}

fn minute(at: Timestamp) -> i64 {
    at.duration_since(start()).as_mins()
}

impl Span {
    fn schedule(&self) -> String {
        let at = |minute| start() + SignedDuration::from_mins(minute);
        let (from, until) = (at(self.from), at(self.from + self.lasts));
        format!("schedule: {{once: {{from: {from}, until: {until}}}}}")
    }

    fn has(&self, minute: i64) -> bool {
        (self.from..self.from + self.lasts).contains(&minute)
    }

    /// Whether the step may begin in the window, or after it by its overrun.
    fn lets(&self, given: &Given, installed: Option<i64>) -> bool {
        let now = minute(given.at);
        if given.step == PermitStep::Install {
            return self.has(now)
                && (now == self.from || now < self.from + self.lasts - self.cutoff);
        }
        let overruns = self.finishes
            && installed.is_some_and(|installed| self.has(installed))
            && now < self.from + self.lasts + 60;
        self.reboots && (self.has(now) || overruns)
    }
}

impl Calendar {
    fn world(&self, case: &Case) -> World {
        let mut world = case.world();
        let mut allow = |prefix: &str, spans: &[Span]| -> Vec<String> {
            let names = spans.iter().enumerate().map(|(number, span)| {
                let name = format!("{prefix}-{number}");
                let allows = if span.reboots { "[Install, Reboot]" } else { "[Install]" };
                let overrun = if span.finishes { "Finish" } else { "Hold" };
                let spec = format!(
                    "{{type: Allow, allows: {allows}, startCutoff: {}m, overrun: {{action: {overrun}}}, {}}}",
                    span.cutoff,
                    span.schedule()
                );
                world.window(&name, &spec);
                name
            });
            names.collect()
        };
        let (stages, group) = (allow("stage", &self.stages), allow("group", &self.group));
        for (number, (span, first_only)) in self.freezes.iter().enumerate() {
            let selector = if *first_only { "selector: {matchLabels: {stage: g0}}, " } else { "" };
            let spec = format!("{{type: Deny, reason: month end, {selector}{}}}", span.schedule());
            world.window(&format!("freeze-{number}"), &spec);
        }
        world.group("g0").spec.windows = group;
        world.edit("november", |spec| {
            spec.stages.iter_mut().for_each(|stage| stage.windows.clone_from(&stages));
        });
        world
    }

    /// S14: whether every list that concerns the device lets the step begin, and no freeze keeps it.
    fn lets(&self, given: &Given, installed: Option<i64>) -> bool {
        let is_first = given.device.starts_with("d0-");
        let stages: &[Span] = if given.rollout == "november" { &self.stages } else { &[] };
        let group: &[Span] = if is_first { &self.group } else { &[] };
        let mut lists = [stages, group].into_iter().filter(|list| !list.is_empty());
        let frozen = self
            .freezes
            .iter()
            .any(|(span, first_only)| span.has(minute(given.at)) && (is_first || !first_only));
        // In a window that allows a restart, or within the overrun of that in which it installed.
        !frozen && lists.all(|list| list.iter().any(|span| span.lets(given, installed)))
    }

    /// Looks at the permits since `from`. Rollbacks keep to no windows here.
    fn judge(&self, world: &World, from: usize) {
        for (index, given) in world.permits.iter().enumerate().skip(from) {
            if given.action != JobAction::Install {
                continue;
            }
            let installed = world.permits[..index].iter().rfind(|earlier| {
                (&earlier.rollout, &earlier.device, earlier.step)
                    == (&given.rollout, &given.device, PermitStep::Install)
            });
            let installed = installed.map(|earlier| minute(earlier.at));
            assert!(self.lets(given, installed), "S14: minute {}: {given:?}", minute(given.at));
        }
    }
}

/// What a provider answers in one minute.
const ANSWERS: &[Option<Meter>] = &[
    Some(Meter::Value(0.0)),
    Some(Meter::Value(0.0)),
    Some(Meter::Value(0.0)),
    Some(Meter::Value(9.0)),
    Some(Meter::NoData),
    Some(Meter::Refuses),
    None,
];

/// Two stages of three devices, each behind a gate of every phase.
fn gated() -> World {
    let mut world = World::new();
    let gate = |name: &str| {
        format!(
            "[{{name: {name}, type: Prometheus, interval: 1m, successCondition: result < 1.0, \
             prometheus: {{provider: metrics, query: errors}}}}]"
        )
    };
    let stage = |name: &str| {
        format!(
            "{{name: {name}, group: {name}, maxConcurrency: 1, soak: 2m, gates: {{before: {}, \
             during: {}, after: {}}}}}",
            gate("before"),
            gate("during"),
            gate("after")
        )
    };
    for group in ["g0", "g1"] {
        world.group(group);
        for number in 0..3 {
            world.device(&format!("d{}-{number}", &group[1..]), group, SERVER);
        }
    }
    let spec = format!(
        "{{updates: {{select: {{release: 2026-11}}}}, stages: [{}, {}]}}",
        stage("g0"),
        stage("g1")
    );
    world.rollout("november", &spec);
    world
}

/// What providers answered, by stage and gate.
#[derive(Default)]
struct Answered {
    passed: BTreeSet<(String, String)>,
    /// When the gate was last let pass or failed, and which.
    last: BTreeMap<(String, String), (Timestamp, GateResult)>,
}

/// Minutes without an answer after which a gate certainly counts as not measured: four in a row are
/// borne, each at most two and a half minutes after the other.
const BLIND: i64 = 16;

impl Answered {
    fn note(&mut self, world: &World) {
        for ((_, stage, gate), taken) in &world.measurements {
            let key = (stage.clone(), gate.clone());
            match taken.result {
                GateResult::Pass => {
                    self.passed.insert(key.clone());
                    self.last.insert(key, (taken.at, taken.result));
                }
                GateResult::Fail => drop(self.last.insert(key, (taken.at, taken.result))),
                _ => {}
            }
        }
    }

    /// S7: an installation began although a gate of its stage was in the way a minute ago.
    fn judge(&self, world: &World, from: usize) {
        let installs = world.permits[from..].iter().filter(|all| all.step == PermitStep::Install);
        for given in installs {
            let stage = given.device.replace('d', "g")[..2].to_owned();
            let key = |gate: &str| (stage.clone(), gate.to_owned());
            assert!(self.passed.contains(&key("before")), "S7: {given:?} before its gate");
            if let Some((at, last)) = self.last.get(&key("during")) {
                assert_ne!(*last, GateResult::Fail, "S7: {given:?} under a gate that fails");
                let blind = given.at.duration_since(*at).as_mins();
                assert!(blind < BLIND, "S7: {given:?}, and nobody measured for {blind} minutes");
            }
        }
    }

    /// S3: the second stage is frozen behind the gate after the first.
    fn in_turn(&self, world: &World) {
        let status = world.status("november");
        let Some(second) = status.stages.get(1) else { return };
        if second.freeze_id.is_some() {
            assert_eq!(status.stages[0].state, StageState::Completed, "S3");
            let after = ("g0".to_owned(), "after".to_owned());
            assert!(self.passed.contains(&after), "S3: g1 opened before the gate after g0 passed");
        }
    }
}

/// Label by which devices are kept apart: the two nodes of a cluster.
const PAIR: &str = "pair";

/// A world in which devices two by two are nodes of one cluster.
fn paired(case: &Case) -> World {
    let mut world = case.world();
    for (name, row) in &mut world.devices {
        let number: u32 = name[3..].parse().unwrap();
        let labels = Arc::make_mut(&mut row.labels);
        labels.insert(PAIR.to_owned(), format!("{}{}", &name[..3], number / 2));
    }
    for position in 0..case.stages.len() {
        let rule = AntiAffinity { key: PAIR.to_owned(), max: Some(1) };
        world.group(&format!("g{position}")).spec.anti_affinity = vec![rule];
    }
    world
}

/// S2 across rollouts: no two nodes of one cluster are at work at once.
fn kept_apart(world: &World) {
    let mut away: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let lines = world.lines();
    for (_, _, line) in lines.iter().filter(|all| all.2.state == LineState::Granted) {
        let Some(row) = world.devices.get(&line.device) else { continue };
        if row.enrolment_id.as_deref() == line.enrolment_id.as_deref() {
            away.entry(&row.labels[PAIR]).or_default().insert(line.device.clone());
        }
    }
    for (pair, away) in away {
        assert!(away.len() <= 1, "S2: {away:?} of {pair} are at work at once");
    }
}

proptest! {
    #![proptest_config(config())]

    /// S14. That nothing is granted outside a window is checked with every plan.
    #[test]
    fn nothing_begins_outside_its_windows(case in case(HONEST, 2), calendar in calendar()) {
        let world = calendar.world(&case);
        case.run_in(world, |_| {}, |world, given| calendar.judge(world, given));
    }

    /// L1: a window that opens again and stays open lets everything end well.
    #[test]
    fn a_run_ends_well_in_a_window_that_opens_again(
        mut case in case(GOOD, 0),
        first in span(),
        freeze in span(),
    ) {
        // Another rollout without windows may prove the update first, and this one then waits for a person.
        case.second = false;
        let first = Span { reboots: true, ..first };
        let again = Span { from: 200, lasts: 2000, reboots: true, ..first.clone() };
        let freezes = vec![(freeze, false)];
        let calendar = Calendar { stages: vec![first, again], group: Vec::new(), freezes };
        let world = calendar.world(&case);
        let (mut world, _) = case.run_in(world, |_| {}, |world, given| calendar.judge(world, given));
        for _ in 0..300 {
            let given = world.permits.len();
            world.minute(|_| {});
            calendar.judge(&world, given);
        }
        prop_assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
    }

    /// S3 and S7.
    #[test]
    fn nothing_begins_but_behind_its_gates(
        tape in vec((select(ANSWERS), select(ANSWERS), select(ANSWERS)), 20..120),
    ) {
        let (mut world, mut answered) = (gated(), Answered::default());
        for (before, during, after) in tape {
            for (gate, meter) in [("before", before), ("during", during), ("after", after)] {
                match meter {
                    Some(meter) => drop(world.meters.insert(gate.to_owned(), meter)),
                    None => drop(world.meters.remove(gate)),
                }
            }
            let given = world.permits.len();
            world.minute(|_| {});
            answered.judge(&world, given);
            answered.note(&world);
            answered.in_turn(&world);
        }
        for gate in ["before", "during", "after"] {
            world.meters.insert(gate.to_owned(), Meter::Value(0.0));
        }
        for _ in 0..120 {
            world.minute(|_| {});
        }
        prop_assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
    }

    /// S2. The limits of groups are watched in every run; this one also keeps devices apart.
    #[test]
    fn no_two_rollouts_take_both_nodes_of_a_cluster(mut case in case(Script::ALL, 3)) {
        case.second = true;
        let world = paired(&case);
        case.run_in(world, kept_apart, |_, _| {});
    }
}
