//! The sentences: why a device or a rollout does not move, what it does, what became of it. The
//! controller's status and the plugin use the same ones, and everything here can be told from the
//! rollout, the slice line, the job, the device and its groups.

mod waits;

use std::sync::Arc;

use jiff::Timestamp;
use wardring_api::{
    AwaitingRebootAction, JobAction, LineState, PatchRollout, SliceLine, conditions::whole_seconds,
    reasons::Reason,
};

use crate::{
    DeviceRow, GroupView, HoldView, JobOutcome, JobView, Selector, StopView, Unheard, WindowView,
    canary::canary_gaps,
    caps::{Rules, later},
    emergency,
    line::{Doing, Frozen, Line, NONE, doing, failed_before, notes_itself},
    outcomes::is_released,
};
use waits::{begin_window, restart_window, waiting};

/// Objects that tell the story of one device in one rollout.
#[derive(Clone, Debug)]
pub struct DeviceStory<'a> {
    /// The instant.
    pub now: Timestamp,
    /// The rollout.
    pub rollout: &'a PatchRollout,
    /// Stage of the line's slice.
    pub stage: &'a str,
    /// The device's line.
    pub line: &'a SliceLine,
    /// The job that carries the device's name, of whatever rollout.
    pub job: Option<&'a JobView>,
    /// The device, unless it is gone.
    pub device: Option<&'a DeviceRow>,
    /// Groups of the namespace.
    pub groups: &'a [GroupView],
    /// Holds of the namespace.
    pub holds: &'a [HoldView],
    /// MaintenanceWindows of the namespace.
    pub windows: &'a [Arc<WindowView>],
    /// EmergencyStops of the cluster.
    pub stops: &'a [Arc<StopView>],
}

/// Where a device stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Reason word, as in conditions and slice lines.
    pub reason: Reason,
    /// The sentence.
    pub message: String,
    /// When it can change by itself.
    pub until: Option<Timestamp>,
}

/// Explains where a device stands and what it waits for.
pub fn explain_device(story: &DeviceStory<'_>) -> Explanation {
    let stage = story.rollout.spec.stages.iter().find(|stage| stage.name == story.stage);
    let Some(stage) = stage else {
        return Explanation {
            reason: Reason::RecordLost,
            message: format!(
                "{} is in stage {}, which the rollout no longer has.",
                story.line.device, story.stage
            ),
            until: None,
        };
    };
    let mut known = story.rollout.status.iter().flat_map(|status| &status.stages);
    let known = known.find(|known| known.name == story.stage).cloned().unwrap_or_default();
    let rules = Rules::of(stage, &known);
    let line = working_copy(story.line);
    let mut told = if line.state == LineState::Granted {
        let mut told = at_work(story, &rules);
        if story.device.is_some_and(|row| row.is_online() && is_released(row, &line)) {
            told.message.push_str(
                " A person asked to release it; that waits until it is done or falls silent, because it \
                 is in contact.",
            );
        }
        told
    } else if line.waits(&rules) {
        waiting(story, &line, &rules)
    } else {
        ended(story)
    };
    if line.failed_and_goes_on() {
        told.message.push_str(&history(story.line));
    }
    told
}

/// What became of the attempts before the one that waits or runs.
fn history(line: &SliceLine) -> String {
    let Some(was) = failed_before(line.was) else { return String::new() };
    let mut text = format!(" It was {} before", was.as_str());
    match line.was_reason {
        Some(reason) => text.push_str(&format!(": {}", lower_first(reason.meaning()))),
        None => text.push('.'),
    }
    if let Some(note) = &line.note {
        text.push_str(&format!(" What failed: {note}."));
    }
    text
}

/// Explains what a rollout waits for, most important first. It says what the controller last wrote.
pub fn explain_rollout(rollout: &PatchRollout) -> Vec<String> {
    let Some(status) = &rollout.status else {
        return vec!["The controller has not looked at this rollout yet.".to_owned()];
    };
    let mut lines: Vec<String> = status.message.iter().cloned().collect();
    for waiting in &status.waiting_for {
        if !lines.contains(&waiting.message) {
            lines.push(waiting.message.clone());
        }
    }
    lines.extend(status.warnings.iter().cloned());
    if !status.uncovered_products.is_empty() {
        lines.push(uncovered(&status.uncovered_products));
    }
    lines.extend(status.stages.iter().filter_map(canary_gaps));
    lines
}

/// Names products that the run has nothing for.
pub(crate) fn uncovered(products: &[String]) -> String {
    format!("No update of this rollout is for {}.", products.join(", "))
}

fn at_work(story: &DeviceStory<'_>, rules: &Rules) -> Explanation {
    let device = &story.line.device;
    let uid = story.rollout.metadata.uid.as_deref().unwrap_or_default();
    let job = story.job.filter(|job| job.rollout_uid == uid && job.attempt == story.line.attempt);
    let say = |reason, message, until| Explanation { reason, message, until };
    let Some(job) = job else {
        return say(
            Reason::InProgress,
            format!("{device} is granted; its job is being made."),
            None,
        );
    };
    if job.outcome == JobOutcome::BadSignature {
        return say(
            Reason::BadSignature,
            format!("{device} sent an answer without a valid signature, which is not counted."),
            Some(job.finish_by),
        );
    }
    let verb = job.state.map_or("waits for contact".to_owned(), |state| format!("is {state:?}"));
    let stop = story.device.and_then(|row| emergency::stopping(story.stops, job, &row.labels));
    match doing(job) {
        Doing::NotBegun if stop.is_some() => say(
            Reason::EmergencyStop,
            format!("{device} has its job and does not begin: {}", told(stop)),
            None,
        ),
        Doing::AwaitingReboot if stop.is_some() => say(
            Reason::EmergencyStop,
            format!("{device} waits with its restart: {}", told(stop)),
            None,
        ),
        Doing::NotBegun if let Some(closed) = begin_window(story, job) => say(
            closed.reason,
            format!("{device} has its job and does not begin: {}", closed.message),
            closed.until,
        ),
        Doing::NotBegun => say(
            Reason::InProgress,
            format!("{device} has its job and has not begun; it may begin until {}.", job.start_by),
            Some(job.start_by),
        ),
        Doing::AwaitingReboot if is_restart_held(story) => say(
            Reason::RolloutStopped,
            format!("{device} installed, and its restart is held: the rollout stands still."),
            None,
        ),
        Doing::AwaitingReboot if held_group(story).is_some() => say(
            Reason::RebootsHeld,
            format!(
                "{device} waits with its restart: too many devices of group {} are unavailable.",
                held_group(story).unwrap_or_default()
            ),
            Some(job.finish_by),
        ),
        Doing::AwaitingReboot if let Some(closed) = restart_window(story, job) => say(
            closed.reason,
            format!("{device} waits with its restart: {}", closed.message),
            closed.until,
        ),
        Doing::Rebooting(since) => {
            let until = later(since, rules.reboot_deadline);
            let slow = story.now >= later(since, rules.reboot_slow_after);
            let since = whole_seconds(since);
            let word = if slow { "restarts slowly" } else { "restarts" };
            let message =
                format!("{device} {word} since {since}; it counts as unreachable from {until} on.");
            say(Reason::InProgress, message, Some(until))
        }
        Doing::Working if stop.is_some() => say(
            Reason::InProgress,
            format!(
                "{device} {verb} and may end that, but not restart: {} It must be done by {}.",
                told(stop),
                job.finish_by
            ),
            Some(job.finish_by),
        ),
        Doing::Working | Doing::AwaitingReboot => say(
            Reason::InProgress,
            format!("{device} {verb}; it must be done by {}.", job.finish_by),
            Some(job.finish_by),
        ),
    }
}

fn told(stop: Option<&StopView>) -> String {
    stop.map(StopView::sentence).unwrap_or_default()
}

fn ended(story: &DeviceStory<'_>) -> Explanation {
    let line = story.line;
    let reason = Reason::parse(line.state.as_str()).unwrap_or(Reason::Failed);
    Explanation { reason, message: format!("{} {}", line.device, last_end(line)), until: None }
}

fn last_end(line: &SliceLine) -> String {
    let mut text = format!("is {}", line.state.as_str());
    if let Some(at) = line.at {
        text.push_str(&format!(" since {at}"));
    }
    let said = |reason: &Reason| reason.as_str() != line.state.as_str();
    match line.reason.filter(said) {
        Some(reason) => text.push_str(&format!(": {}", lower_first(reason.meaning()))),
        None => text.push('.'),
    }
    let told = failed_before(line.was).map(|was| failure(was, line.was_reason));
    let was = line.was.filter(|was| *was != LineState::Granted);
    if notes_itself(line.state, line.action)
        && let Some(note) = &line.note
    {
        text.push_str(&format!(" What failed: {note}."));
        text.push_str(&told.map_or(String::new(), |was| format!(" It was {was} before.")));
        return text;
    }
    match (&line.note, told, was) {
        (Some(note), Some(was), _) => {
            let is_past = line.action == JobAction::Install && line.state != LineState::RolledBack;
            let before = if is_past { " before" } else { "" };
            text.push_str(&format!(" What failed{before}: {note} ({was})."));
        }
        (Some(note), None, _) => text.push_str(&format!(" What failed: {note}.")),
        (None, _, Some(was)) => {
            text.push_str(&format!(" It was {} before.", failure(was, line.was_reason)));
        }
        (None, _, None) => {}
    }
    text
}

/// Whether the stop of the rollout keeps an installed device from restarting.
fn is_restart_held(story: &DeviceStory<'_>) -> bool {
    let rollout = story.rollout;
    let status = rollout.status.as_ref();
    let only_halted = rollout.spec.suspend != Some(true)
        && rollout.spec.abort.is_none()
        && rollout.metadata.deletion_timestamp.is_none()
        && status.is_some_and(|status| status.aborted.is_none() && status.suspended.is_none());
    if story.line.action == JobAction::Rollback {
        return is_stopped(rollout) && !only_halted;
    }
    let is_suspended = rollout.spec.suspend == Some(true)
        || status.is_some_and(|status| status.suspended.is_some());
    let finishes = rollout.spec.on_halt.installed_awaiting_reboot == AwaitingRebootAction::Finish
        && !is_suspended
        && rollout.metadata.deletion_timestamp.is_none();
    is_stopped(rollout) && !finishes
}

/// A group of the device whose restarts are held.
fn held_group<'a>(story: &DeviceStory<'a>) -> Option<&'a str> {
    let row = story.device?;
    let mut held = story.groups.iter().filter(|group| {
        group.holds_reboots_of(&row.labels)
            && Selector::new(&group.spec.selector).matches(&row.labels)
    });
    held.next().map(|group| group.name.as_str())
}

fn is_stopped(rollout: &PatchRollout) -> bool {
    let ordered = rollout.spec.suspend == Some(true) || rollout.spec.abort.is_some();
    ordered
        || rollout.metadata.deletion_timestamp.is_some()
        || rollout.status.as_ref().is_some_and(|status| {
            status.aborted.is_some() || status.suspended.is_some() || status.halted.is_some()
        })
}

pub(crate) fn working_copy(line: &SliceLine) -> Line {
    Line {
        state: line.state,
        action: line.action,
        reason: line.reason,
        was: line.was,
        was_reason: line.was_reason,
        ordered: line.ordered,
        attempt: line.attempt,
        tries: line.tries,
        downloads: line.downloads,
        downloaded: line.downloaded,
        sequence: line.sequence,
        at: line.at,
        row: NONE,
        job: NONE,
        moved: false,
        granted_now: false,
    }
}

/// `Meaning` as the second half of a sentence. Words like `UpdateHold` keep their capital.
pub(crate) fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next();
    let second = text.chars().nth(1);
    match (first, second) {
        (Some(first), Some(second))
            if !second.is_uppercase() && !text.starts_with("UpdateHold") =>
        {
            let keeps = text.starts_with("Windows") || text.starts_with("Wardring");
            if keeps { text.to_owned() } else { first.to_lowercase().chain(letters).collect() }
        }
        _ => text.to_owned(),
    }
}

/// One failed device as a status shows it: what failed, and what came of it.
pub(crate) fn failed(frozen: &Frozen<'_>, index: usize) -> String {
    let line = frozen.lines[index];
    let device = &frozen.record(index).device;
    let was = failed_before(line.was).filter(|_| !notes_itself(line.state, line.action));
    let word = match was {
        Some(was) => failure(was, line.was_reason),
        None => failure(line.state, line.reason),
    };
    let text = match frozen.note(index) {
        Some(note) => format!("{device}: {note} ({word})"),
        None => format!("{device}: {word}"),
    };
    match was {
        Some(_) if line.failed_and_goes_on() => format!("{text}, being tried again"),
        Some(_) => format!("{text}, {}", rolled(line.state, line.reason)),
        None => text,
    }
}

/// `Failed/ServiceDown`.
fn failure(state: LineState, reason: Option<Reason>) -> String {
    match reason.filter(|reason| reason.as_str() != state.as_str()) {
        Some(reason) => format!("{}/{}", state.as_str(), reason.as_str()),
        None => state.as_str().to_owned(),
    }
}

/// What came of the rollback that followed a failure.
fn rolled(state: LineState, reason: Option<Reason>) -> String {
    match state {
        LineState::Granted => "being rolled back".to_owned(),
        LineState::RolledBack => "rolled back".to_owned(),
        state => format!("then {}", failure(state, reason)),
    }
}

/// The first few failed devices in one phrase.
pub(crate) fn sample(frozen: &Frozen<'_>, failed_lines: &[usize]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> =
        failed_lines.iter().take(SHOWN).map(|&index| failed(frozen, index)).collect();
    let more = failed_lines.len().saturating_sub(SHOWN);
    if more > 0 { format!("{} and more", shown.join(", ")) } else { shown.join(", ") }
}

/// A number of devices, in words.
pub(crate) fn devices(count: usize) -> String {
    if count == 1 { "1 device".to_owned() } else { format!("{count} devices") }
}

/// What a person wrote, on one line: it goes into sentences of statuses, Events and logs.
pub(crate) fn one_line(text: &str) -> String {
    let text: String = text.chars().filter(|letter| !is_unseen(*letter)).collect();
    text.split(|letter: char| letter.is_control() || letter.is_whitespace())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Whether the character is not seen, or turns others round: text with it does not say what it seems to say.
pub fn is_unseen(letter: char) -> bool {
    matches!(letter, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Why a number of devices of a stage wait.
pub(crate) fn held(stage: &str, reason: Reason, count: usize) -> String {
    let verb = if count == 1 { "waits" } else { "wait" };
    let devices = format!("{} {verb}", devices(count));
    format!("Stage {stage}: {devices}: {}", lower_first(reason.meaning()))
}

/// Whom a new leader has not heard yet, as the rest of a sentence's paragraph.
pub(crate) fn not_heard(unheard: &Unheard) -> String {
    if unheard.until.is_none() {
        return " No gateway has reported to this controller yet.".to_owned();
    }
    if unheard.names.is_empty() {
        return String::new();
    }
    let more = if unheard.devices > unheard.names.len() { " and more" } else { "" };
    format!(
        " Not heard yet: {}{more}; who stays silent is waited for until it counts as offline.",
        unheard.names.join(", ")
    )
}
