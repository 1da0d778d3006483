//! EmergencyStops: which devices they keep back, and what is told of it.
//!
//! A stop refuses what would begin: grants, and the permits of those that were granted before. It takes
//! nothing back, fails nothing and halts nothing; whoever deletes it lets every rollout go on from its
//! record. Rollbacks mend devices, so they go on unless the stop names them.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use wardring_api::{
    EmergencyStop, EmergencyStopSpec, JobAction, JobState, LineState, ResolvedUpdate,
    StoppedRollbacks,
    conditions::{self, clip},
    reasons::Reason,
};

use crate::{
    Decision, DeviceTable, EventKind, JobView, Selector, StopTally,
    explain::{devices, one_line},
    grants::Decisions,
    line::{Doing, Line, doing},
    order, rollback,
    validate::{Run, Scene, Stop},
};

/// Devices that a stop names as mid-flight.
const SAMPLE: usize = 20;

/// An EmergencyStop with its selector read.
#[derive(Clone, Debug, PartialEq)]
pub struct StopView {
    /// Name of the object.
    pub name: Arc<str>,
    /// What it stops, and why.
    pub spec: EmergencyStopSpec,
    /// Since when it is in force: when it was made, by the API server's clock.
    pub since: Option<Timestamp>,
    selector: Option<Selector>,
}

impl StopView {
    /// Reads a stop. One that is being deleted is in force until it is gone.
    pub fn new(stop: &EmergencyStop) -> StopView {
        StopView {
            name: stop.metadata.name.as_deref().unwrap_or_default().into(),
            selector: stop.spec.selector.as_ref().map(Selector::new),
            spec: stop.spec.clone(),
            since: stop.metadata.creation_timestamp.as_ref().map(|time| time.0),
        }
    }

    /// Whether it keeps a job with `action` for these KBs from going on, on a device with these labels.
    pub fn stops<'k>(
        &self,
        action: JobAction,
        mut kbs: impl Iterator<Item = &'k str>,
        labels: &BTreeMap<String, String>,
    ) -> bool {
        let named = &self.spec.kbs;
        self.concerns(action)
            && (named.is_empty()
                || kbs.any(|kb| named.iter().any(|stopped| stopped.as_str() == kb)))
            && self.selects(labels)
    }

    /// Whether it is meant for devices with these labels.
    pub(crate) fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.as_ref().is_none_or(|selector| selector.matches(labels))
    }

    fn concerns(&self, action: JobAction) -> bool {
        action != JobAction::Rollback || self.spec.rollbacks == StoppedRollbacks::Stop
    }

    /// `EmergencyStop erp-down is in force: the ERP does not answer.`
    pub fn sentence(&self) -> String {
        let reason = one_line(&self.spec.reason);
        let end = if reason.ends_with(['.', '!', '?']) { "" } else { "." };
        format!("EmergencyStop {} is in force: {reason}{end}", self.name)
    }
}

/// The first stop that keeps the job from going on.
pub(crate) fn stopping<'s>(
    stops: &'s [Arc<StopView>],
    job: &JobView,
    labels: &BTreeMap<String, String>,
) -> Option<&'s StopView> {
    let kbs = || job.kbs.iter().map(String::as_str);
    stops.iter().map(Arc::as_ref).find(|stop| stop.stops(job.action, kbs(), labels))
}

/// What the stops in force mean for one run: KBs are compared once per product.
#[derive(Clone, Debug, Default)]
pub(crate) struct Brakes<'a> {
    stops: Vec<Brake<'a>>,
}

#[derive(Clone, Debug)]
struct Brake<'a> {
    stop: &'a StopView,
    /// By product id; of no use where the stop names no KBs.
    products: Vec<bool>,
}

impl<'a> Brakes<'a> {
    pub fn new(updates: &[ResolvedUpdate], scene: &Scene<'a>) -> Brakes<'a> {
        let table = scene.table;
        let brake = |stop: &&'a StopView| Brake { stop, products: products(stop, updates, table) };
        Brakes { stops: scene.stops.iter().map(brake).collect() }
    }

    /// Whether no stop is in force anywhere.
    pub fn is_empty(&self) -> bool {
        self.stops.is_empty()
    }

    /// The stops that keep `action` from going on for the line's device, by name.
    pub fn of<'b>(
        &'b self,
        line: &Line,
        action: JobAction,
        scene: &'b Scene<'a>,
    ) -> impl Iterator<Item = &'a StopView> + 'b {
        let row = scene.row(line).filter(|_| !self.is_empty());
        let product = row.map(|_| scene.table.product_of(line.row as usize) as usize);
        self.stops.iter().filter_map(move |brake| {
            let (row, product) = (row?, product?);
            let is_named = brake.stop.spec.kbs.is_empty()
                || brake.products.get(product).copied().unwrap_or_default();
            // Its KBs are compared already.
            let selects = |selector: &Selector| selector.matches(&row.labels);
            (is_named
                && brake.stop.concerns(action)
                && brake.stop.selector.as_ref().is_none_or(selects))
            .then_some(brake.stop)
        })
    }

    /// Whether a stop keeps `action` from going on for the line's device.
    pub fn hold(&self, line: &Line, action: JobAction, scene: &Scene<'a>) -> bool {
        self.of(line, action, scene).next().is_some()
    }
}

fn products(stop: &StopView, updates: &[ResolvedUpdate], table: &DeviceTable) -> Vec<bool> {
    let is_stopped = |product: &str| {
        let mut here = updates.iter().filter(|update| *update.product == *product);
        here.any(|update| stop.spec.kbs.contains(&update.kb))
    };
    table.products().iter().map(|product| is_stopped(product)).collect()
}

/// The stops that keep something back which the run still has to do on frozen devices.
pub(crate) fn concerned<'a>(run: &Run<'a>, scene: &Scene<'a>) -> Vec<&'a StopView> {
    let is_over = matches!(run.stop, Some(Stop::Aborted | Stop::Deleting));
    let mut found: Vec<&StopView> = Vec::new();
    let all = if is_over { 0 } else { run.brakes.stops.len() };
    for stage in &run.stages {
        let mut lines = stage.frozen.iter().flat_map(|frozen| &frozen.lines);
        while found.len() < all
            && let Some(line) = lines.next()
        {
            let action = match line.state {
                LineState::Granted => line.action,
                _ if line.waits(&stage.rules) => JobAction::Install,
                LineState::Failed | LineState::RevertedByWindows | LineState::Succeeded
                    if rollback::is_running(run)
                        && (line.ordered || !order::is_carried_out(run)) =>
                {
                    JobAction::Rollback
                }
                _ => continue,
            };
            for stop in run.brakes.of(line, action, scene) {
                if !found.iter().any(|known| std::ptr::eq(*known, stop)) {
                    found.push(stop);
                }
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Whether the run's rollback may be standing still because of a stop: then its time does, too.
pub(crate) fn stops_rollback(run: &Run<'_>) -> bool {
    run.kept_back_by.iter().any(|stop| stop.spec.rollbacks == StoppedRollbacks::Stop)
}

/// Tells once that stops keep a run back, and once that they no longer do.
pub(crate) fn announce(run: &mut Run<'_>) {
    let was = conditions::is_true(&run.before.conditions, conditions::EMERGENCY_STOPPED);
    let over = matches!(run.stop, Some(Stop::Aborted | Stop::Deleting));
    if run.is_kept_back() && !was {
        let told = sentences(run);
        run.emit(EventKind::Warning, Reason::EmergencyStop, told);
    } else if was && !run.is_kept_back() && !over {
        let told = "No EmergencyStop keeps the rollout back any more; it goes on.".to_owned();
        run.emit(EventKind::Normal, Reason::InProgress, told);
    }
}

/// The sentences of the stops that keep something of the run back.
pub(crate) fn sentences(run: &Run<'_>) -> String {
    let told: Vec<String> = run.kept_back_by.iter().map(|stop| stop.sentence()).collect();
    clip(&told.join(" "), conditions::MAX_MESSAGE)
}

/// What one stop keeps back in one run.
#[derive(Default)]
struct Kept {
    held: usize,
    mid_flight: usize,
    awaiting_reboot: usize,
    sample: Vec<String>,
}

/// Adds up what `stop` keeps back in a run.
fn kept(run: &Run<'_>, decisions: &[Vec<Decision>], stop: &StopView, scene: &Scene<'_>) -> Kept {
    let mut kept = Kept::default();
    for (stage, decisions) in run.stages.iter().zip(decisions) {
        let Some(frozen) = &stage.frozen else { continue };
        for (index, (line, decision)) in frozen.lines.iter().zip(decisions).enumerate() {
            let is_held = *decision == Decision::Hold(Reason::EmergencyStop);
            let action = match line.state {
                LineState::Granted => line.action,
                _ if is_held && !line.waits(&stage.rules) => JobAction::Rollback,
                _ if is_held => JobAction::Install,
                _ => continue,
            };
            if !run.brakes.of(line, action, scene).any(|all| std::ptr::eq(all, stop)) {
                continue;
            }
            if is_held {
                kept.held += 1;
                continue;
            }
            let job = scene.own_job(line, run.uid());
            let Some(job) = job.filter(|job| job.may_have_begun()) else { continue };
            kept.mid_flight += 1;
            kept.awaiting_reboot += usize::from(doing(job) == Doing::AwaitingReboot);
            if kept.sample.len() < SAMPLE {
                let (device, state) = (&frozen.record(index).device, job.state);
                let state = state.unwrap_or(JobState::Installing);
                let (rollout, stage) = (&run.id.name, &stage.spec.name);
                kept.sample
                    .push(format!("{device} is {state:?} (rollout {rollout}, stage {stage})"));
            }
        }
    }
    kept
}

/// What every stop keeps back in this namespace.
pub(crate) fn tallies(
    runs: &[Run<'_>],
    decisions: &[Decisions],
    scene: &Scene<'_>,
) -> Vec<StopTally> {
    let tally = |stop: &&StopView| {
        let mut tally = StopTally { name: stop.name.clone(), ..StopTally::default() };
        for (run, decisions) in runs.iter().zip(decisions).filter(|(run, _)| run.is_kept_back()) {
            let kept = kept(run, decisions, stop, scene);
            tally.rollouts += u32::from(kept.held + kept.mid_flight > 0);
            tally.held += kept.held as u32;
            tally.mid_flight += kept.mid_flight as u32;
            tally.awaiting_reboot += kept.awaiting_reboot as u32;
            tally.sample.extend(kept.sample);
        }
        tally.sample.truncate(SAMPLE);
        tally
    };
    scene.stops.iter().map(tally).collect()
}

/// What a run's status says of each stop: sentence and number of devices.
pub(crate) fn told(
    run: &Run<'_>,
    decisions: &[Vec<Decision>],
    scene: &Scene<'_>,
) -> Vec<(String, u32)> {
    let mut list = Vec::new();
    for stop in &run.kept_back_by {
        let kept = kept(run, decisions, stop, scene);
        if kept.held + kept.mid_flight == 0 {
            continue;
        }
        let mut told = vec![stop.sentence()];
        if kept.held > 0 {
            let verb = if kept.held == 1 { "does" } else { "do" };
            told.push(format!("{} {verb} not start.", devices(kept.held)));
        }
        let working = kept.mid_flight - kept.awaiting_reboot;
        if working > 0 {
            told.push(format!("At work: {}, until a restart would be next.", devices(working)));
        }
        if kept.awaiting_reboot > 0 {
            told.push(format!("Waiting with the restart: {}.", devices(kept.awaiting_reboot)));
        }
        list.push((told.join(" "), (kept.held + kept.mid_flight) as u32));
    }
    list
}

/// Whether all that the current stage still has to do is kept back.
pub(crate) fn stands(run: &Run<'_>, position: usize, decisions: &[Decision]) -> bool {
    let counts = &run.stages[position].tally.counts;
    let held = decisions.iter().filter(|all| **all == Decision::Hold(Reason::EmergencyStop));
    run.is_kept_back()
        && counts.in_progress <= counts.installed_awaiting_reboot
        && held.count() >= counts.pending as usize
}
