//! Searches: to the end, and by random walks.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    time::{Duration, Instant},
};

use stateright::{Checker, Expectation, Model};

use super::{Step, Tenant, flaw::Flaw, size::Size};
use crate::random::Random;

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// The model.
    pub name: &'static str,
    /// Different states.
    pub states: usize,
    /// Steps of the longest way that was looked at.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// Broken rules, each with a way to it.
    pub broken: BTreeMap<&'static str, Vec<Step>>,
}

impl fmt::Display for Found {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Found { name, states, depth, took, broken } = self;
        write!(out, "{name}: {states} states, {depth} steps deep, {:.1} s", took.as_secs_f64())?;
        for (rule, steps) in broken {
            write!(out, "\n  {rule} breaks after {steps:?}")?;
        }
        Ok(())
    }
}

/// Searches a model to its end, or until every rule is broken.
pub fn exhaust(size: Size, flaw: Option<Flaw>) -> Found {
    let began = Instant::now();
    let checker = Tenant::new(size, flaw).recording().checker().threads(2).spawn_bfs().join();
    let mut broken: BTreeMap<_, _> =
        checker.discoveries().into_iter().map(|(rule, path)| (rule, path.into_actions())).collect();
    if broken.is_empty() && has_circle(checker.model().recorded()) {
        broken.insert("L1", Vec::new());
    }
    Found {
        name: size.name,
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        took: began.elapsed(),
        broken,
    }
}

/// Whether somebody can go on for ever: the steps between states lead back to where they came from.
fn has_circle(mut steps: Vec<(u64, u64)>) -> bool {
    steps.sort_unstable();
    steps.dedup();
    let mut states: Vec<u64> = steps.iter().flat_map(|(from, to)| [*from, *to]).collect();
    states.sort_unstable();
    states.dedup();
    let place = |state: &u64| states.binary_search(state).expect("every end is a state");
    let mut into = vec![0_u32; states.len()];
    for (_, to) in &steps {
        into[place(to)] += 1;
    }
    // Takes away what nothing leads to, until nothing is left but circles.
    let mut free: Vec<usize> = (0..states.len()).filter(|&index| into[index] == 0).collect();
    let mut taken = 0;
    while let Some(index) = free.pop() {
        taken += 1;
        let from = steps.partition_point(|(from, _)| *from < states[index]);
        for (_, to) in steps[from..].iter().take_while(|(from, _)| *from == states[index]) {
            let to = place(to);
            into[to] -= 1;
            if into[to] == 0 {
                free.push(to);
            }
        }
    }
    taken < states.len()
}

/// Walks through a model that is too large to be searched: from the beginning to rest, once for each
/// seed, until one breaks a rule.
pub fn walk(size: Size, flaw: Option<Flaw>, seeds: Range<u64>) -> Walked {
    let began = Instant::now();
    let tenant = Tenant::new(size, flaw);
    let (mut walks, mut length, mut broken) = (0, 0, None);
    let mut drawn = BTreeMap::new();
    for seed in seeds {
        let (steps, rule) = stroll(&tenant, seed);
        walks += 1;
        length += steps.len();
        for step in &steps {
            *drawn.entry(step.kind()).or_default() += 1;
        }
        broken = rule.map(|rule| (rule, seed, steps));
        if broken.is_some() {
            break;
        }
    }
    Walked { name: size.name, walks, steps: length, drawn, took: began.elapsed(), broken }
}

/// What random walks found.
#[derive(Debug)]
pub struct Walked {
    /// The model.
    pub name: &'static str,
    /// How many walks.
    pub walks: u64,
    /// Steps of all of them.
    pub steps: usize,
    /// How often each kind of step was drawn.
    pub drawn: BTreeMap<String, u32>,
    /// How long they took.
    pub took: Duration,
    /// The rule that was broken, with the seed of the walk and its steps.
    pub broken: Option<(&'static str, u64, Vec<Step>)>,
}

impl fmt::Display for Walked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Walked { name, walks, steps, took, broken, .. } = self;
        write!(out, "{name}: {walks} walks, {steps} steps, {:.1} s", took.as_secs_f64())?;
        if let Some((rule, seed, steps)) = broken {
            write!(out, "\n  {rule} breaks on the walk of seed {seed}: {steps:?}")?;
        }
        Ok(())
    }
}

/// One walk, with the rule it broke.
fn stroll(tenant: &Tenant, seed: u64) -> (Vec<Step>, Option<&'static str>) {
    let mut random = Random::new(seed);
    let rules = tenant.properties();
    let mut state = tenant.init_states().remove(0);
    let mut way = Vec::new();
    loop {
        for rule in rules.iter().filter(|rule| rule.expectation == Expectation::Always) {
            if !(rule.condition)(tenant, &state) {
                return (way, Some(rule.name));
            }
        }
        let mut steps = Vec::new();
        tenant.actions(&state, &mut steps);
        if steps.is_empty() {
            return (way, None);
        }
        let step = random.pick(&steps);
        let Some(next) = tenant.next_state(&state, step) else { return (way, None) };
        way.push(step);
        state = next;
    }
}
