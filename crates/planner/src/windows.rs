//! MaintenanceWindows in a pass: which devices of a stage they keep back, whether a stage stands still for
//! them alone, and what their statuses say.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{Timestamp, tz::TimeZone};
use wardring_api::{
    Expedite, JobAction, LineState, MaintenanceWindowStatus, PatchRolloutSpec, PatchRolloutStatus,
    Permit, PermitStep, RollbackWindows, Stage, StageState, WindowAction, WindowType,
    conditions::{self, Truth},
    reasons::Reason,
};

use crate::{
    Action, DeviceRow, JobView, WindowView,
    agenda::{Agenda, Closed},
    calendar::zone,
    halt::current_stage,
    line::{Doing, Line, doing},
    plan::Lanes,
    validate::{Run, Scene},
    wake::Wake,
};

/// Which windows count for a stage: those that it names and those of its devices' groups, or, where it is
/// expedited, freezes alone.
#[derive(Clone, Copy)]
pub(crate) struct Hours<'a> {
    stage: &'a [String],
    only_freezes: bool,
}

impl<'a> Hours<'a> {
    pub fn new(stage: &'a Stage, expedite: Option<&Expedite>) -> Hours<'a> {
        let only_freezes = expedite.is_some_and(|expedite| expedite.ignore_windows);
        Hours { stage: &stage.windows, only_freezes }
    }

    /// Those that count without anybody's haste, and always for taking updates back.
    pub fn without_haste(self) -> Hours<'a> {
        Hours { only_freezes: false, ..self }
    }

    /// Those that count for the restart after the job's installation. What began in haste that somebody approved
    /// may be finished, whatever was edited since, as long as the rollout is still in a hurry: half installed is
    /// the worst place to be. The permit tells; what the rollout and the windows say by now does not.
    pub fn of_restart(self, expedite: Option<&Expedite>, job: &JobView) -> Hours<'a> {
        let hurries = expedite.is_some_and(|expedite| expedite.ignore_windows);
        let began_in_haste = |permit: &Permit| {
            permit.attempt == job.attempt && permit.step == PermitStep::Install && permit.expedited
        };
        let finishes = hurries && job.permitted.iter().any(began_in_haste);
        Hours { only_freezes: self.only_freezes || finishes, ..self }
    }

    /// The windows that concern the device, whose groups name `groups`.
    pub fn agenda(
        self,
        windows: &'a [Arc<WindowView>],
        groups: impl Iterator<Item = &'a [String]>,
        row: &'a DeviceRow,
    ) -> Agenda<'a> {
        let agenda = Agenda::new(windows, self.stage, groups, row);
        if self.only_freezes { agenda.only_freezes() } else { agenda }
    }
}

/// What the windows of one stage say about the devices of its namespace. Devices that are alike in all
/// that windows look at get one answer.
pub(crate) struct StageWindows<'a> {
    scene: &'a Scene<'a>,
    hours: Hours<'a>,
    /// Positions of windows that select some devices only.
    selective: Vec<u32>,
    /// Some window opens by each device's own clock.
    by_device: bool,
    /// Nothing could keep anything back.
    is_free: bool,
    known: BTreeMap<Alike, Result<Timestamp, Closed>>,
}

/// What windows look at: the action, the device's groups, its clock, and the windows that select it.
type Alike = (WindowAction, u32, Option<Arc<str>>, Vec<u32>);

impl<'a> StageWindows<'a> {
    pub fn new(scene: &'a Scene<'a>, hours: Hours<'a>) -> StageWindows<'a> {
        let windows = scene.windows.iter().enumerate();
        let selective = windows.filter(|(_, window)| window.spec.selector.is_some());
        let denies = scene.windows.iter().any(|window| window.spec.kind == WindowType::Deny);
        let grouped = scene.table.groups().iter().any(|group| !group.spec.windows.is_empty());
        StageWindows {
            scene,
            hours,
            selective: selective.map(|(position, _)| position as u32).collect(),
            by_device: scene.windows.iter().any(|window| window.follows_devices()),
            is_free: hours.stage.is_empty() && !denies && !grouped,
            known: BTreeMap::new(),
        }
    }

    /// Whether `action` may begin now on the device at `position`: until when, or why not.
    pub fn say(&mut self, action: WindowAction, position: usize) -> Result<Timestamp, Closed> {
        if self.is_free {
            return Ok(Timestamp::MAX);
        }
        let (scene, hours) = (self.scene, self.hours);
        let row = &scene.table.rows()[position];
        let selects = |window: &&u32| scene.windows[**window as usize].selects(&row.labels);
        let alike = (
            action,
            scene.table.membership_of(position) as u32,
            row.time_zone.clone().filter(|_| self.by_device),
            self.selective.iter().filter(selects).copied().collect(),
        );
        let answer = || match action {
            WindowAction::Install => agenda(scene, hours, position).may_install(scene.now),
            WindowAction::Uninstall => {
                agenda(scene, hours.without_haste(), position).may_begin(action, scene.now)
            }
            _ => agenda(scene, hours, position).may_begin(action, scene.now),
        };
        self.known.entry(alike).or_insert_with(answer).clone()
    }
}

/// The windows that concern the device at `position`.
pub(crate) fn agenda<'a>(scene: &'a Scene<'a>, hours: Hours<'a>, position: usize) -> Agenda<'a> {
    hours.agenda(&scene.windows, lists(scene, position), &scene.table.rows()[position])
}

/// The lists of windows of the device's groups.
fn lists<'a>(scene: &'a Scene<'a>, position: usize) -> impl Iterator<Item = &'a [String]> {
    let table = scene.table;
    let groups = table.groups_of(position).iter();
    groups.map(|&group| table.groups()[group as usize].spec.windows.as_slice())
}

/// Whether the reason is one that windows give.
pub(crate) fn is_reason(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::OutsideWindow
            | Reason::Frozen
            | Reason::WindowNeverOpens
            | Reason::WindowNotFound
            | Reason::InvalidWindow
            | Reason::NoTimeZone
    )
}

/// Whether windows keep the run's rollbacks back.
pub(crate) fn rollbacks_wait(run: &Run<'_>) -> bool {
    of_rollbacks(&run.rollout.spec, Some(&run.status)) == RollbackWindows::Respect
}

/// Whether rollbacks wait for windows: as the person says who ordered them, or else the rollout.
pub(crate) fn of_rollbacks(
    spec: &PatchRolloutSpec,
    status: Option<&PatchRolloutStatus>,
) -> RollbackWindows {
    let rollback = status.and_then(|status| status.rollback.as_ref());
    let ordered = rollback.and_then(|rollback| rollback.ordered());
    ordered.map_or(spec.on_failure.windows, |order| order.windows)
}

/// Why all that the current stage still has to do waits for a window, if it does: then the stage's
/// deadline stands still. It does not while nobody knows of a way on. The reason is that of the first
/// device in the way.
pub(crate) fn standing(run: &Run<'_>, scene: &Scene<'_>) -> Option<Closed> {
    let position = current_stage(run)?;
    let (stage, status) = (&run.stages[position], &run.status.stages[position]);
    if run.stop.is_some() || status.state != StageState::Open {
        return None;
    }
    let mut windows = StageWindows::new(scene, stage.hours);
    if windows.is_free {
        return None;
    }
    let slots = status.caps.map_or(usize::MAX, |caps| caps.max_concurrency as usize);
    let (mut first, mut restarting, mut may_start) = (None, 0, false);
    for line in stage.frozen.iter().flat_map(|frozen| &frozen.lines) {
        let is_granted = line.state == LineState::Granted;
        if !is_granted && !line.waits(&stage.rules) || scene.row(line).is_none() {
            continue;
        }
        let closed = if is_granted {
            restarting += 1;
            let job = scene.own_job(line, run.uid());
            restart(run, job?, scene, stage.hours, line.row as usize)?
        } else {
            match windows.say(WindowAction::Install, line.row as usize) {
                Err(closed) => closed,
                // It may, once somebody who waits for a restart makes room.
                Ok(_) => {
                    may_start = true;
                    continue;
                }
            }
        };
        closed.until?;
        first.get_or_insert(closed);
    }
    first.filter(|_| !may_start || restarting >= slots)
}

/// Why a device that installed waits with its restart, if a window is all that it waits for.
fn restart(
    run: &Run<'_>,
    job: &JobView,
    scene: &Scene<'_>,
    hours: Hours<'_>,
    position: usize,
) -> Option<Closed> {
    if job.action != JobAction::Install || doing(job) != Doing::AwaitingReboot {
        return None;
    }
    let hours = hours.of_restart(run.rollout.spec.expedite.as_ref(), job);
    agenda(scene, hours, position).may_restart(installed_at(job), scene.now).err()
}

/// Until when windows keep back a line that is to be taken back, if one does and that is known.
pub(crate) fn rollback_waits(
    run: &Run<'_>,
    scene: &Scene<'_>,
    is_target: impl Fn(usize, usize, &Line) -> bool,
) -> Option<Timestamp> {
    if !rollbacks_wait(run) {
        return None;
    }
    let mut first: Option<Timestamp> = None;
    for (position, stage) in run.stages.iter().enumerate() {
        let mut windows = StageWindows::new(scene, stage.hours);
        let lines = stage.frozen.iter().flat_map(|frozen| &frozen.lines);
        for (index, line) in lines.enumerate() {
            if !is_target(position, index, line) {
                continue;
            }
            let closed = windows.say(WindowAction::Uninstall, line.row as usize).err();
            if let Some(until) = closed.and_then(|closed| closed.until) {
                first = Some(first.map_or(until, |first| first.min(until)));
            }
        }
    }
    first
}

/// When the job was permitted to install, or to take back.
pub(crate) fn installed_at(job: &JobView) -> Option<Timestamp> {
    let installs = job
        .permitted
        .iter()
        .filter(|all| all.attempt == job.attempt && all.step != PermitStep::Reboot);
    installs.map(|permit| permit.at).max()
}

/// Statuses of windows that differ from what was last written.
pub(crate) fn write_statuses(scene: &Scene<'_>, lanes: &mut Lanes, wake: &mut Wake) {
    for window in &scene.windows {
        let status = status(window, scene);
        for instant in [status.next_open, status.next_close].into_iter().flatten() {
            wake.at(instant);
        }
        if status != window.status {
            let window = window.name.to_string();
            lanes.groups.push(Action::WriteWindowStatus { window, status });
        }
    }
}

fn status(window: &WindowView, scene: &Scene<'_>) -> MaintenanceWindowStatus {
    let mut status = MaintenanceWindowStatus {
        observed_generation: window.generation,
        conditions: window.status.conditions.clone(),
        ..MaintenanceWindowStatus::default()
    };
    for zone in zones(window, scene) {
        let Some(opening) = window.opening(zone.as_ref(), scene.now) else { continue };
        let is_open = opening.open <= scene.now;
        let next =
            if is_open { window.opening(zone.as_ref(), opening.close) } else { Some(opening) };
        if let Some(next) = next
            && status.next_open.is_none_or(|known| next.open < known)
        {
            status.next_open = Some(next.open);
            if !status.open && !is_open {
                status.next_close = Some(next.close);
            }
        }
        if is_open {
            let known = status.next_close.filter(|_| status.open);
            (status.open, status.next_close) = (true, known.max(Some(opening.close)));
        }
    }
    let is_over = window.spec.schedule.once.is_some() && status.next_close.is_none();
    let (truth, reason, message) = if let Some(problem) = window.problem() {
        (Truth::False, Reason::InvalidWindow, problem.to_owned())
    } else if is_over {
        (Truth::True, Reason::Completed, "It is over.".to_owned())
    } else if status.next_close.is_some() {
        (Truth::True, Reason::Planned, "Its schedule is in force.".to_owned())
    } else if window.follows_devices() {
        (Truth::False, Reason::NoTimeZone, Reason::NoTimeZone.meaning().to_owned())
    } else {
        let message = "It does not open within five years.".to_owned();
        (Truth::False, Reason::WindowNeverOpens, message)
    };
    let list = &mut status.conditions;
    conditions::set(list, conditions::READY, truth, reason, &message, window.generation, scene.now);
    status
}

/// The clocks by which the window opens, in order.
fn zones(window: &WindowView, scene: &Scene<'_>) -> Vec<Option<TimeZone>> {
    if !window.follows_devices() {
        return vec![None];
    }
    let rows = scene.table.rows().iter().filter(|row| window.selects(&row.labels));
    let names: BTreeSet<&str> = rows.filter_map(|row| row.time_zone.as_deref()).collect();
    names.into_iter().filter_map(zone).map(Some).collect()
}
