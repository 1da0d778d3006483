//! Why a device waits: for its turn, for a person, or for a window.

use std::sync::Arc;

use jiff::Timestamp;
use wardring_api::{
    ComponentStore, FullValue, JobAction, LineState, RollbackWindows, StageState, StageStatus,
    Waiting, WindowAction, reasons::Reason,
};

use super::{DeviceStory, Explanation, devices, is_stopped, last_end, lower_first, one_line, told};
use crate::{
    DeviceTable, JobView, Selector, StopView,
    agenda::{Agenda, Closed},
    canary::{self, canary_gaps},
    caps::{Rules, later},
    eligibility::{device_hold, pause},
    expedite, gates,
    line::Line,
    resolve::Coverage,
    tail,
    validate::Complaint,
    wake::Wake,
    windows::{self, Hours, installed_at},
};

/// The windows that the device has to keep to with an action, or with the restart of its job.
fn agenda<'a>(
    story: &DeviceStory<'a>,
    action: JobAction,
    restarts: Option<&JobView>,
) -> Option<Agenda<'a>> {
    let rollout = story.rollout;
    let known = rollout.status.as_ref().filter(|_| action != JobAction::Rollback);
    let stage = story.rollout.spec.stages.iter().find(|stage| stage.name == story.stage)?;
    let row = story.device?;
    let mine = story
        .groups
        .iter()
        .filter(|group| Selector::new(&group.spec.selector).matches(&row.labels));
    let lists = mine.map(|group| group.spec.windows.as_slice());
    let expedite = known.and_then(|status| expedite::in_force(rollout, status, stage));
    let mut hours = Hours::new(stage, expedite);
    if let Some(job) = restarts.filter(|_| action == JobAction::Install) {
        hours = hours.of_restart(rollout.spec.expedite.as_ref(), job);
    }
    Some(hours.agenda(story.windows, lists, row))
}

/// Whether rollbacks go on whatever the windows say.
fn ignores_windows(story: &DeviceStory<'_>) -> bool {
    let rollout = story.rollout;
    windows::of_rollbacks(&rollout.spec, rollout.status.as_ref()) == RollbackWindows::Ignore
}

/// Why a window keeps the device from beginning what its job asks, if one does.
pub(super) fn begin_window(story: &DeviceStory<'_>, job: &JobView) -> Option<Closed> {
    let ignores = ignores_windows(story);
    let begins = match job.action {
        JobAction::Rollback if ignores => return None,
        JobAction::Rollback => WindowAction::Uninstall,
        JobAction::Download => return None,
        JobAction::Install => WindowAction::Install,
    };
    agenda(story, job.action, None)?.may_begin(begins, story.now).err()
}

/// Why a window keeps the device from restarting, if one does.
pub(super) fn restart_window(story: &DeviceStory<'_>, job: &JobView) -> Option<Closed> {
    let ignores = ignores_windows(story);
    if job.action == JobAction::Rollback && ignores {
        return None;
    }
    agenda(story, job.action, Some(job))?.may_restart(installed_at(job), story.now).err()
}

/// The stop that keeps a device without a job from starting.
fn starting_stop<'a>(story: &DeviceStory<'a>) -> Option<&'a StopView> {
    let row = story.device?;
    let updates = story.rollout.status.iter().flat_map(|status| &status.resolved_updates);
    let here = updates.filter(|update| row.product.as_deref() == Some(&*update.product));
    let kbs = || here.clone().map(|update| update.kb.as_str());
    let mut stops = story.stops.iter().map(Arc::as_ref);
    stops.find(|stop| stop.stops(JobAction::Install, kbs(), &row.labels))
}

pub(super) fn waiting(story: &DeviceStory<'_>, line: &Line, rules: &Rules) -> Explanation {
    let (device, rollout) = (&story.line.device, story.rollout);
    let (reason, until) = hold(story, line, rules);
    let message = match reason {
        Reason::InProgress => format!("{device} can start and is next."),
        Reason::EmergencyStop => {
            format!("{device} does not start: {}", told(starting_stop(story)))
        }
        Reason::DeviceHeld => {
            let held = story.device.and_then(|row| row.hold.as_ref());
            let why = held.map_or(String::new(), |hold| one_line(&hold.reason));
            format!("{device} does not start: a person holds it ({why}).")
        }
        Reason::Busy => {
            let other = story.job.map_or("another rollout", |job| job.rollout.as_str());
            format!("{device} does not start: it still has a job of {other}.")
        }
        Reason::RolloutStopped => {
            let status = rollout.status.as_ref();
            let latch = status.and_then(|status| {
                status.aborted.as_ref().or(status.suspended.as_ref()).or(status.halted.as_ref())
            });
            let why = latch.map_or(Reason::RolloutStopped.meaning(), |latch| &latch.message);
            format!("{device} does not start: {why}")
        }
        Reason::GateWaiting | Reason::GateFailed | Reason::GateError => {
            let why = gate_in_the_way(story).map_or(String::new(), |gate| gate.message);
            format!("{device} does not start: {why}")
        }
        _ if is_later(story, line, reason) => {
            format!("{device} gets its next attempt later; it {}", last_end(story.line))
        }
        Reason::CanaryGap if let Some(gaps) = unproven(story).and_then(canary_gaps) => {
            format!("{device} does not start, because requireProven asks for proof. {gaps}")
        }
        Reason::Paused if let Some(pause) = story.device.and_then(|row| row.paused.as_ref()) => {
            let until = pause.until.map(|until| format!(" until {until:.0}")).unwrap_or_default();
            let why = match pause.reason.as_str() {
                "" => String::new(),
                why => format!(": {}", one_line(why)),
            };
            format!(
                "{device} does not start: an administrator paused the agent on it{until}{why}. \
                 `wardring-agent resume` on the device lets it go on."
            )
        }
        Reason::LowDiskSpace => {
            let free = story.device.and_then(|row| row.free_disk_gb).unwrap_or_default();
            let needed = rollout.spec.preflight.min_free_disk_gb.unwrap_or_default();
            format!(
                "{device} does not start: the drive of Windows has {free} GB free, and minFreeDiskGb \
                 asks for {needed}."
            )
        }
        Reason::ComponentStoreDamaged => {
            let store = story.device.and_then(|row| row.component_store);
            let can = if store == Some(ComponentStore::Damaged) {
                "cannot be repaired; install Windows anew or upgrade it in place"
            } else {
                "can be repaired (DISM /Online /Cleanup-Image /RestoreHealth)"
            };
            format!(
                "{device} does not start: Windows' component store is damaged, and Windows says that it \
                 {can}."
            )
        }
        Reason::KeptApart if let Some((group, full)) = kept_apart(story) => format!(
            "{device} does not start: {} of group {group} with {}={} {} unavailable, and antiAffinity \
             allows {}.",
            devices(full.unavailable as usize),
            full.key,
            full.value,
            if full.unavailable == 1 { "is" } else { "are" },
            full.max
        ),
        reason if windows::is_reason(reason) => {
            let closed = agenda(story, JobAction::Install, None)
                .and_then(|all| all.may_install(story.now).err());
            let why = closed.map_or(reason.meaning().to_owned(), |closed| closed.message);
            format!("{device} does not start: {why}")
        }
        reason => format!("{device} does not start: {}", lower_first(reason.meaning())),
    };
    let message = format!("{message}{}", downloads(line, story.line.note.as_deref()));
    Explanation { reason, message, until }
}

/// Whether it waits for its next attempt alone: what it found on the spot is told by its last answer, since
/// the device reports nothing of it.
fn is_later(story: &DeviceStory<'_>, line: &Line, reason: Reason) -> bool {
    let reports = match reason {
        Reason::LowDiskSpace => story.device.is_some_and(|row| row.free_disk_gb.is_some()),
        Reason::ComponentStoreDamaged => story.device.is_some_and(|row| {
            matches!(
                row.component_store,
                Some(ComponentStore::Repairable | ComponentStore::Damaged)
            )
        }),
        _ => false,
    };
    let is_found = line.state == LineState::NotStarted && line.reason == Some(reason);
    reason == Reason::Backoff || (is_found && !reports)
}

/// What a device that waits has of its updates already.
fn downloads(line: &Line, note: Option<&str>) -> String {
    if line.is_downloading() {
        return " It downloads its updates meanwhile.".to_owned();
    }
    if line.downloaded {
        return " Its updates are downloaded.".to_owned();
    }
    if line.reason != Some(Reason::DownloadFailed) || line.action != JobAction::Download {
        return String::new();
    }
    let why = note.map_or(String::new(), |note| format!(": {note}"));
    format!(" Its download ahead failed{why}; it downloads when it installs, at the latest.")
}

/// The gate that lets nothing start in the device's stage, if one does.
fn gate_in_the_way(story: &DeviceStory<'_>) -> Option<Complaint> {
    let status = story.rollout.status.as_ref()?;
    let stage = story.rollout.spec.stages.iter().find(|stage| stage.name == story.stage)?;
    let known = status.stages.iter().find(|known| known.name == story.stage)?;
    let starts = known.state == StageState::Gated || tail::takes_devices(known);
    gates::bars_starts(stage, known).filter(|_| starts)
}

/// The first thing that keeps a waiting device from starting.
fn hold(story: &DeviceStory<'_>, line: &Line, rules: &Rules) -> (Reason, Option<Timestamp>) {
    let rollout = story.rollout;
    let ended = rollout.status.as_ref().is_some_and(|status| status.aborted.is_some());
    if ended || rollout.spec.abort.is_some() {
        return (Reason::RolloutStopped, None);
    }
    let Some(row) = story.device else { return (Reason::Replaced, None) };
    if starting_stop(story).is_some() && rollout.metadata.deletion_timestamp.is_none() {
        return (Reason::EmergencyStop, None);
    }
    let status = rollout.status.clone().unwrap_or_default();
    let table = DeviceTable::new(vec![row.clone()], story.groups.to_vec());
    let coverage = Coverage::new(&status.resolved_updates, &[], story.holds, &table);
    let mut wake = Wake::new(story.now);
    if let Some(reason) = device_hold(row, 0, &rollout.spec, &coverage, &table, &mut wake) {
        return (reason, wake.next());
    }
    // Its own download gives way to the installation.
    if !line.is_downloading() && story.job.is_some() {
        return (Reason::Busy, None);
    }
    if unproven(story).is_some() {
        return (Reason::CanaryGap, None);
    }
    if is_stopped(rollout) {
        return (Reason::RolloutStopped, None);
    }
    let stage = status.stages.iter().find(|stage| stage.name == story.stage);
    let named = rollout.spec.stages.iter().find(|named| named.name == story.stage);
    if let Some(gate) = gate_in_the_way(story) {
        return (gate.reason, None);
    }
    if stage.is_none_or(|stage| !tail::takes_devices(stage)) {
        return (Reason::StageNotOpen, None);
    }
    let group = named.and_then(|named| named.group.as_deref());
    if group.is_some_and(|name| table.find_group(name).is_none()) {
        return (Reason::GroupNotFound, None);
    }
    let (pause, reason) = pause(line, rules);
    let again = line.at.map(|at| later(at, pause));
    if line.state != LineState::Pending && again.is_some_and(|again| story.now < again) {
        return (reason, again);
    }
    let listens = |waiting: &&Waiting| waiting.reason == Reason::AgentsUnheard.as_str();
    if let Some(waiting) = status.waiting_for.iter().find(listens) {
        return (Reason::AgentsUnheard, waiting.until.or(status.next_evaluation));
    }
    let closed =
        agenda(story, JobAction::Install, None).and_then(|all| all.may_install(story.now).err());
    if let Some(Closed { reason, until, .. }) = closed {
        return (reason, until);
    }
    let full = stage.is_some_and(|stage| {
        stage.caps.is_some_and(|caps| stage.counts.in_progress >= caps.max_concurrency)
    });
    if full {
        return (Reason::SlotsTaken, None);
    }
    let crowded = table.groups_of(0).iter().any(|&group| {
        let group = &table.groups()[group as usize];
        let size = group.status.devices as usize;
        group.spec.max_unavailable.is_some_and(|cap| {
            group.status.unavailable as usize >= crate::caps::group_limit(cap, size)
        })
    });
    if crowded {
        return (Reason::GroupUnavailable, None);
    }
    let reason = kept_apart(story).map_or(Reason::InProgress, |_| Reason::KeptApart);
    (reason, None)
}

/// The stage's status, if it asks for proof and says that the device is of a kind without.
fn unproven<'a>(story: &DeviceStory<'a>) -> Option<&'a StageStatus> {
    let stage = story.rollout.spec.stages.iter().find(|stage| stage.name == story.stage)?;
    let mut known = story.rollout.status.iter().flat_map(|status| &status.stages);
    let status = known.find(|status| status.name == story.stage)?;
    (stage.require_proven && canary::is_named(status, story.device?)).then_some(status)
}

/// The group, and what of it is full, that keeps the device apart from others.
fn kept_apart<'a>(story: &DeviceStory<'a>) -> Option<(&'a str, &'a FullValue)> {
    let labels = &story.device?.labels;
    let mine = story.groups.iter().filter(|group| {
        !group.status.full.is_empty() && Selector::new(&group.spec.selector).matches(labels)
    });
    let mut full = mine
        .flat_map(|group| group.status.full.iter().map(move |full| (group.name.as_str(), full)));
    full.find(|(_, full)| labels.get(&full.key) == Some(&full.value))
}
