//! What MaintenanceWindows say about one action on one device. One rule for the planner, which grants,
//! the gateways, which permit, and the explanations, which tell.
//!
//! A stage and every group of a device may name windows; each of these lists must have one that is open
//! for the device. A Deny that selects the device keeps back what it does not allow, named or not.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use wardring_api::{
    OverrunAction, Span, WindowAction, WindowType, conditions::whole_seconds, reasons::Reason,
};

use crate::{DeviceRow, Opening, WindowView, calendar::zone, caps::later, explain::one_line};

/// Restarts after the end of a window whose overrun names no limit.
const OVERRUN: Span = Span::from_hours(1);
/// Steps from one obstacle to the next that are looked at for the first instant free of all of them.
const STEPS: usize = 128;

/// Why windows keep an action back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    pub reason: Reason,
    /// The sentence, without the device.
    pub message: String,
    /// When it may begin, if that is known.
    pub until: Option<Timestamp>,
}

/// What concerns one device: the lists of windows that it must keep to, and its clock.
pub(crate) struct Agenda<'a> {
    windows: &'a [Arc<WindowView>],
    lists: Vec<&'a [String]>,
    row: &'a DeviceRow,
    zone: Option<TimeZone>,
    /// The device has begun: no cutoff keeps it from going on.
    has_begun: bool,
}

/// What keeps an action back at one instant.
enum Obstacle<'a> {
    /// No window of that name.
    Missing(&'a str),
    /// A schedule that cannot be read, or `Device` on a device without a zone.
    Unknown(&'a WindowView, Reason),
    /// None of a list's windows concerns the device, or lets the action begin.
    Never(&'a [String]),
    /// The windows of a list are closed; the first to open, and from when to when.
    Shut(Option<(&'a WindowView, Opening)>, &'a [String]),
    /// A freeze, and its end.
    Frozen(&'a WindowView, Timestamp),
}

impl<'a> Agenda<'a> {
    /// `stage` are the names of the stage's windows, `groups` those of the device's groups.
    pub fn new(
        windows: &'a [Arc<WindowView>],
        stage: &'a [String],
        groups: impl Iterator<Item = &'a [String]>,
        row: &'a DeviceRow,
    ) -> Agenda<'a> {
        let lists = std::iter::once(stage).chain(groups).filter(|list| !list.is_empty()).collect();
        let zone = row.time_zone.as_deref().and_then(zone);
        Agenda { windows, lists, row, zone, has_begun: false }
    }

    /// The same for a device that has begun what it asks about: `startCutoff` was for the beginning.
    pub fn begun(mut self) -> Agenda<'a> {
        self.has_begun = true;
        self
    }

    /// The same without the lists: what freezes is all that keeps anything back.
    pub fn only_freezes(mut self) -> Agenda<'a> {
        self.lists.clear();
        self
    }

    /// Whether no window has a say on the device at all.
    pub fn is_free(&self) -> bool {
        self.lists.is_empty() && self.freezes().next().is_none()
    }

    fn freezes(&self) -> impl Iterator<Item = &'a WindowView> {
        let denies = self.windows.iter().map(Arc::as_ref);
        denies.filter(|all| all.spec.kind == WindowType::Deny && all.selects(&self.row.labels))
    }

    fn opening(&self, window: &WindowView, at: Timestamp) -> Option<Opening> {
        window.opening(self.zone.as_ref(), at)
    }

    /// Why nobody can say when the window is open for the device.
    fn unknown(&self, window: &WindowView) -> Option<Reason> {
        if window.problem().is_some() {
            Some(Reason::InvalidWindow)
        } else {
            (window.follows_devices() && self.zone.is_none()).then_some(Reason::NoTimeZone)
        }
    }

    /// Whether the action may begin at `at`: until when, or what keeps it back.
    fn at(&self, action: WindowAction, at: Timestamp) -> Result<Timestamp, Obstacle<'a>> {
        let mut until = Timestamp::MAX;
        for window in self.freezes().filter(|all| !all.allows(action)) {
            if let Some(reason) = self.unknown(window) {
                // Nobody knows when it is in force, so it is.
                return Err(Obstacle::Unknown(window, reason));
            }
            match self.opening(window, at) {
                Some(opening) if opening.open <= at => {
                    return Err(Obstacle::Frozen(window, opening.close));
                }
                Some(opening) => until = until.min(opening.open),
                None => {}
            }
        }
        for &list in &self.lists {
            until = until.min(self.open_in(list, action, at)?);
        }
        Ok(until)
    }

    /// Until when a window of the list lets the action begin.
    fn open_in(
        &self,
        list: &'a [String],
        action: WindowAction,
        at: Timestamp,
    ) -> Result<Timestamp, Obstacle<'a>> {
        let (mut until, mut next) = (None, None::<(&WindowView, Opening)>);
        let mut concerned = false;
        for name in list {
            let named = self.windows.iter().find(|window| *window.name == **name);
            let window: &WindowView = named.ok_or(Obstacle::Missing(name))?;
            let speaks = window.spec.kind == WindowType::Allow
                && window.allows(action)
                && window.selects(&self.row.labels);
            if !speaks {
                continue;
            }
            concerned = true;
            if let Some(reason) = self.unknown(window) {
                return Err(Obstacle::Unknown(window, reason));
            }
            let mut opening = self.opening(window, at);
            if let Some(now) = opening.filter(|now| now.open <= at) {
                let last = self.last_start(window, now, action);
                if at < last {
                    until = until.max(Some(last));
                    continue;
                }
                opening = self.opening(window, now.close);
            }
            let earlier =
                |opening: &Opening| next.is_none_or(|(_, known)| opening.open < known.open);
            if let Some(opening) = opening.filter(earlier) {
                next = Some((window, opening));
            }
        }
        match until {
            Some(until) => Ok(until),
            None if concerned => Err(Obstacle::Shut(next, list)),
            None => Err(Obstacle::Never(list)),
        }
    }

    /// The first instant at which the action does not begin any more.
    fn last_start(&self, window: &WindowView, now: Opening, action: WindowAction) -> Timestamp {
        let begins = action != WindowAction::Reboot && !self.has_begun;
        let cutoff = window.spec.start_cutoff.filter(|_| begins);
        let cutoff = cutoff.map_or(SignedDuration::ZERO, Span::duration);
        now.close.checked_sub(cutoff).unwrap_or(now.open).max(now.open)
    }

    /// The first instant from `from` on at which the action may begin.
    pub fn next(&self, action: WindowAction, from: Timestamp) -> Option<Timestamp> {
        let mut at = from;
        for _ in 0..STEPS {
            at = match self.at(action, at) {
                Ok(_) => return Some(at),
                Err(
                    Obstacle::Shut(Some((_, Opening { open: next, .. })), _)
                    | Obstacle::Frozen(_, next),
                ) if next > at => next,
                Err(_) => return None,
            };
        }
        None
    }

    /// Whether the action may begin at `at`: until when, or why not.
    pub fn may_begin(&self, action: WindowAction, at: Timestamp) -> Result<Timestamp, Closed> {
        self.at(action, at).map_err(|obstacle| self.tell(action, at, &obstacle))
    }

    /// Whether a device may be granted an installation at `at`: until when, or why not. What is installed
    /// has to restart some day.
    pub fn may_install(&self, at: Timestamp) -> Result<Timestamp, Closed> {
        if self.next(WindowAction::Reboot, at).is_none() {
            self.may_begin(WindowAction::Reboot, at)?;
        }
        self.may_begin(WindowAction::Install, at)
    }

    /// Whether a device that was permitted to install at `installed` may restart at `at`: in a window
    /// that allows it, or within the overrun of the one in which it installed. A freeze keeps it back
    /// in any case.
    pub fn may_restart(&self, installed: Option<Timestamp>, at: Timestamp) -> Result<(), Closed> {
        let action = WindowAction::Reboot;
        let obstacle = match self.at(action, at) {
            Ok(_) => return Ok(()),
            Err(obstacle) => obstacle,
        };
        let frozen = matches!(obstacle, Obstacle::Frozen(..) | Obstacle::Unknown(..));
        let overruns = |list: &&[String]| {
            self.open_in(list, action, at).is_ok()
                || installed.is_some_and(|installed| self.overruns(list, installed, at))
        };
        if !frozen && self.lists.iter().all(overruns) {
            return Ok(());
        }
        Err(self.tell(action, at, &obstacle))
    }

    /// Whether the window of the list in which the device installed lets it finish at `at`.
    fn overruns(&self, list: &[String], installed: Timestamp, at: Timestamp) -> bool {
        let named = |window: &&Arc<WindowView>| list.iter().any(|name| **name == *window.name);
        self.windows.iter().filter(named).any(|window| {
            let overrun = window.spec.overrun;
            let limit = overrun.limit.unwrap_or(OVERRUN).duration();
            let opening = self.opening(window, installed).filter(|all| all.open <= installed);
            window.spec.kind == WindowType::Allow
                && overrun.action == OverrunAction::Finish
                && window.allows(WindowAction::Reboot)
                && window.selects(&self.row.labels)
                && opening.is_some_and(|opening| at < later(opening.close, limit))
        })
    }

    /// From when on the time of a device counts that has `within` for everything, restart included. One
    /// that may have to wait for its restart, because what lets it ends before that, is not late.
    pub fn counts_from(&self, granted: Timestamp, within: SignedDuration) -> Timestamp {
        let action = WindowAction::Reboot;
        let next = |from| self.next(action, from).unwrap_or(granted).max(granted);
        match self.at(action, granted) {
            Ok(until) if until < later(granted, within) => next(until),
            Ok(_) => granted,
            Err(_) => next(granted),
        }
    }

    fn tell(&self, action: WindowAction, at: Timestamp, obstacle: &Obstacle<'_>) -> Closed {
        let next = || self.next(action, at).filter(|next| *next > at).map(whole_seconds);
        let (reason, message, until) = match obstacle {
            Obstacle::Missing(name) => {
                (Reason::WindowNotFound, format!("MaintenanceWindow {name} does not exist."), None)
            }
            Obstacle::Unknown(window, Reason::NoTimeZone) => (
                Reason::NoTimeZone,
                format!(
                    "MaintenanceWindow {} opens by the device's own clock, and spec.timeZone of the \
                     Device names no zone of the IANA database.",
                    window.name
                ),
                None,
            ),
            Obstacle::Unknown(window, reason) => (
                *reason,
                format!(
                    "MaintenanceWindow {} cannot be read: {}",
                    window.name,
                    window.problem().unwrap_or_default()
                ),
                None,
            ),
            Obstacle::Never(list) => (
                Reason::WindowNeverOpens,
                format!("No window of {} allows {} on this device.", list.join(", "), deed(action)),
                None,
            ),
            Obstacle::Shut(None, list) => (
                Reason::WindowNeverOpens,
                format!("No window of {} opens within five years.", list.join(", ")),
                None,
            ),
            Obstacle::Shut(Some((window, opening)), _) => {
                let (open, until) = (whole_seconds(opening.open), next());
                let close = whole_seconds(opening.close);
                let (reason, told) = match until {
                    Some(until) if until > open => (
                        Reason::OutsideWindow,
                        format!("; with everything else in the way, it may begin at {until}"),
                    ),
                    Some(_) => (Reason::OutsideWindow, String::new()),
                    None => (
                        Reason::WindowNeverOpens,
                        ", and something else is in the way then and ever after".to_owned(),
                    ),
                };
                let message = format!(
                    "MaintenanceWindow {} opens at {open} and closes at {close}{told}.",
                    window.name
                );
                (reason, message, until)
            }
            Obstacle::Frozen(window, close) => {
                let why = window.spec.reason.as_deref().map(one_line).unwrap_or_default();
                let why = if why.is_empty() { why } else { format!(": {why}") };
                (
                    Reason::Frozen,
                    format!(
                        "MaintenanceWindow {} is a freeze until {}{why}.",
                        window.name,
                        whole_seconds(*close)
                    ),
                    next(),
                )
            }
        };
        Closed { reason, message, until }
    }
}

fn deed(action: WindowAction) -> &'static str {
    match action {
        WindowAction::Install => "installing",
        WindowAction::Reboot => "a restart",
        WindowAction::Uninstall => "taking updates back",
    }
}
