//! When a MaintenanceWindow is open. Pure arithmetic over instants: the zones are those that are built
//! into the program, so that every process gives the same answer whatever its host has installed.
//!
//! What happens when clocks change: a schedule's time that clocks skip opens at the instant they jump
//! to, one that comes twice opens the first time, and a window lasts its duration from the instant it
//! opened, in seconds that passed.

use std::sync::{Arc, LazyLock};

use croner::{Cron, parser::CronParser};
use jiff::{
    SignedDuration, Timestamp, ToSpan, Zoned,
    civil::{self, Date},
    tz::{TimeZone, TimeZoneDatabase},
};
use wardring_api::{
    MaintenanceWindow, MaintenanceWindowSpec, MaintenanceWindowStatus, Span, TimeOfDay,
    WeekOfMonth, Weekday, WindowAction, WindowType,
};

use crate::{Selector, caps::later};

/// How far ahead an opening is looked for.
const HORIZON: SignedDuration = SignedDuration::from_hours(5 * 366 * 24);
/// Longest window.
const LONGEST: Span = Span::from_hours(31 * 24);
/// Openings that follow one another without a pause and are taken as one.
const MERGED: usize = 64;
/// The zone of a window that opens by each device's own clock.
const DEVICE_ZONE: &str = "Device";

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// A zone by its IANA name.
pub(crate) fn zone(name: &str) -> Option<TimeZone> {
    ZONES.get(name).ok()
}

/// From when to when a window is open; `close` is the first instant at which it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// First instant.
    pub open: Timestamp,
    /// First instant after it.
    pub close: Timestamp,
}

/// A MaintenanceWindow, read.
#[derive(Clone, Debug)]
pub struct WindowView {
    /// Name of the object.
    pub name: Arc<str>,
    /// What it says.
    pub spec: MaintenanceWindowSpec,
    /// Generation of the object.
    pub generation: Option<i64>,
    /// What the controller last wrote.
    pub status: MaintenanceWindowStatus,
    selector: Option<Selector>,
    schedule: Result<Schedule, String>,
}

/// Two views of the same object say the same.
impl PartialEq for WindowView {
    fn eq(&self, other: &WindowView) -> bool {
        let said = |window: &WindowView| (window.name.clone(), window.generation);
        said(self) == said(other) && self.spec == other.spec && self.status == other.status
    }
}

#[derive(Clone, Debug)]
struct Schedule {
    rule: Rule,
    /// None: each device's own.
    zone: Option<TimeZone>,
    duration: SignedDuration,
}

#[derive(Clone, Debug)]
enum Rule {
    Cron(Box<Cron>),
    /// No such day ever comes.
    Never,
    PatchTuesday {
        plus_days: i64,
        at: TimeOfDay,
    },
    Monthly {
        nth: i8,
        day: civil::Weekday,
        at: TimeOfDay,
    },
    Once(Opening),
}

impl WindowView {
    /// Reads a window. One that is being deleted is in force until it is gone.
    pub fn new(window: &MaintenanceWindow) -> WindowView {
        let spec = window.spec.clone();
        WindowView {
            name: window.metadata.name.as_deref().unwrap_or_default().into(),
            generation: window.metadata.generation,
            status: window.status.clone().unwrap_or_default(),
            selector: spec.selector.as_ref().map(Selector::new),
            schedule: schedule(&spec),
            spec,
        }
    }

    /// Why its schedule cannot be read, if it cannot.
    pub fn problem(&self) -> Option<&str> {
        self.schedule.as_ref().err().map(String::as_str)
    }

    /// Whether it opens by each device's own clock.
    pub fn follows_devices(&self) -> bool {
        self.schedule.as_ref().is_ok_and(|schedule| {
            schedule.zone.is_none() && !matches!(schedule.rule, Rule::Once(_))
        })
    }

    /// Whether it concerns a device with these labels.
    pub(crate) fn selects(&self, labels: &std::collections::BTreeMap<String, String>) -> bool {
        self.selector.as_ref().is_none_or(|selector| selector.matches(labels))
    }

    /// Whether it lets `action` begin while it is open.
    pub(crate) fn allows(&self, action: WindowAction) -> bool {
        match (self.spec.allows.as_slice(), self.spec.kind) {
            ([], WindowType::Allow) => {
                matches!(action, WindowAction::Install | WindowAction::Reboot)
            }
            (list, _) => list.contains(&action),
        }
    }

    /// The opening that contains `at`, or else the next one, by the clock of `device_zone` where the
    /// window says so. None: never within five years, or it cannot be known.
    pub fn opening(&self, device_zone: Option<&TimeZone>, at: Timestamp) -> Option<Opening> {
        let schedule = self.schedule.as_ref().ok()?;
        if let Rule::Once(opening) = schedule.rule {
            return (at < opening.close).then_some(opening);
        }
        let zone = schedule.zone.as_ref().or(device_zone)?;
        // Whatever opened at or before this has closed.
        let behind = at.checked_sub(schedule.duration).unwrap_or(Timestamp::MIN);
        let first = schedule.rule.start_after(zone, behind)?;
        if first.duration_since(at) > HORIZON {
            return None;
        }
        let mut opening = Opening { open: first, close: later(first, schedule.duration) };
        let mut last = first;
        for _ in 0..MERGED {
            let Some(next) = schedule.rule.start_after(zone, last) else { break };
            if next > opening.close {
                break;
            }
            (last, opening.close) = (next, later(next, schedule.duration));
        }
        Some(opening)
    }
}

impl Rule {
    /// The first start strictly after `behind`.
    fn start_after(&self, zone: &TimeZone, behind: Timestamp) -> Option<Timestamp> {
        let local = behind.to_zoned(zone.clone());
        match self {
            Rule::Once(opening) => (opening.open > behind).then_some(opening.open),
            Rule::Never => None,
            Rule::Cron(cron) => {
                let next = cron.find_next_occurrence(&local, false).ok();
                let next = next.map(|next| next.timestamp());
                skipped(cron, &local, zone, next).or(next)
            }
            Rule::PatchTuesday { plus_days, at } => {
                // Days after it may lie in the next month.
                monthly(local.date(), 1, |month| {
                    let tuesday = month.nth_weekday_of_month(2, civil::Weekday::Tuesday).ok()?;
                    instant(tuesday.checked_add(plus_days.days()).ok()?, *at, zone)
                })
                .find(|start| *start > behind)
            }
            Rule::Monthly { nth, day, at } => monthly(local.date(), 0, |month| {
                instant(month.nth_weekday_of_month(*nth, *day).ok()?, *at, zone)
            })
            .find(|start| *start > behind),
        }
    }
}

/// What `of` makes of each month, from `back + 1` months before the one of `date` on.
fn monthly(
    date: Date,
    back: i64,
    of: impl Fn(Date) -> Option<Timestamp>,
) -> impl Iterator<Item = Timestamp> {
    let from = date.first_of_month().checked_sub((back + 1).months()).ok();
    let months = from.into_iter().flat_map(|from| {
        (0..=62_i64).filter_map(move |month| from.checked_add(month.months()).ok())
    });
    months.filter_map(of)
}

/// The instant of a local time: where clocks skip it, the one they jump to; where it comes twice, the
/// first.
fn instant(date: Date, at: TimeOfDay, zone: &TimeZone) -> Option<Timestamp> {
    let local = date.at(at.hour as i8, at.minute as i8, 0, 0);
    let ambiguous = zone.to_ambiguous_timestamp(local);
    match ambiguous.offset() {
        jiff::tz::AmbiguousOffset::Gap { .. } => {
            // As far behind the jump as the local time lies in the gap; the jump itself at the earliest.
            let behind = ambiguous.later().ok()?.checked_add(1.second()).ok()?;
            zone.preceding(behind).next().map(|transition| transition.timestamp())
        }
        _ => ambiguous.earlier().ok(),
    }
}

fn schedule(spec: &MaintenanceWindowSpec) -> Result<Schedule, String> {
    let given = &spec.schedule;
    let fields = [
        given.cron.is_some(),
        given.patch_tuesday.is_some(),
        given.monthly.is_some(),
        given.once.is_some(),
    ];
    if fields.iter().filter(|given| **given).count() != 1 {
        return Err(
            "spec.schedule needs exactly one of `cron`, `patchTuesday`, `monthly` and `once`."
                .to_owned(),
        );
    }
    if let Some(once) = &given.once {
        if once.until <= once.from {
            return Err("spec.schedule.once: `until` must be later than `from`.".to_owned());
        }
        let opening = Opening { open: once.from, close: once.until };
        let duration = once.until.duration_since(once.from);
        if spec.start_cutoff.is_some_and(|cutoff| cutoff.duration() >= duration) {
            return Err("spec.startCutoff must be shorter than the window.".to_owned());
        }
        return Ok(Schedule { rule: Rule::Once(opening), zone: None, duration });
    }
    let duration = spec.duration.ok_or("spec.duration is missing: how long is it open?")?;
    if duration.duration().is_zero() || duration > LONGEST {
        return Err(format!("spec.duration must be more than 0s and at most {LONGEST}."));
    }
    if spec.start_cutoff.is_some_and(|cutoff| cutoff >= duration) {
        return Err("spec.startCutoff must be shorter than spec.duration.".to_owned());
    }
    let name = spec.time_zone.as_deref().ok_or("spec.timeZone is missing: by whose clock?")?;
    let zone = match name {
        DEVICE_ZONE => None,
        name => Some(zone(name).ok_or_else(|| {
            format!(
                "spec.timeZone: {name:?} is no zone of the IANA database; write one such as \
                 `Europe/Berlin`, or `Device`."
            )
        })?),
    };
    let rule = if let Some(cron) = &given.cron {
        recurring(cron)?
    } else if let Some(rule) = &given.patch_tuesday {
        Rule::PatchTuesday { plus_days: i64::from(rule.plus_days), at: rule.at }
    } else {
        let rule = given.monthly.as_ref().ok_or("spec.schedule is empty.")?;
        Rule::Monthly { nth: nth(rule.week), day: day(rule.day), at: rule.at }
    };
    Ok(Schedule { rule, zone, duration: duration.duration() })
}

/// Times that are looked at for one that clocks skip.
const SKIPPED: usize = 128;

/// The first start that clocks skip, if it comes before `next`: croner moves one to the jump where a cron
/// has a single time of day, and leaves it out where it has several.
fn skipped(
    cron: &Cron,
    local: &Zoned,
    zone: &TimeZone,
    next: Option<Timestamp>,
) -> Option<Timestamp> {
    let behind = local.timestamp();
    let mut civil = local.datetime();
    for _ in 0..SKIPPED {
        civil = cron.find_next_occurrence(&civil, false).ok()?;
        let at = TimeOfDay { hour: civil.hour() as u8, minute: civil.minute() as u8 };
        let start = instant(civil.date(), at, zone)?;
        if next.is_some_and(|next| start >= next) {
            return None;
        }
        if start > behind {
            return Some(start);
        }
    }
    None
}

fn recurring(text: &str) -> Result<Rule, String> {
    let problem = |why: &str| Err(format!("spec.schedule.cron: {text:?} {why}."));
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [_, _, day, _, weekday] = fields[..] else {
        return problem(
            "must have five fields: minute, hour, day of the month, month, day of the week",
        );
    };
    if day != "*" && weekday != "*" {
        // Cron opens on either, and whoever writes both means both.
        return problem(
            "names days of the month and days of the week, and would open on either; use `monthly`, \
             `patchTuesday`, or a weekday such as `TUE#2`",
        );
    }
    let cron = match CronParser::new().parse(text) {
        Ok(cron) => cron,
        Err(error) => return problem(&format!("cannot be read: {error}")),
    };
    let comes = cron.find_next_occurrence(&civil::date(2024, 1, 1).at(0, 0, 0, 0), false).is_ok();
    Ok(if comes { Rule::Cron(Box::new(cron)) } else { Rule::Never })
}

fn nth(week: WeekOfMonth) -> i8 {
    match week {
        WeekOfMonth::First => 1,
        WeekOfMonth::Second => 2,
        WeekOfMonth::Third => 3,
        WeekOfMonth::Fourth => 4,
        WeekOfMonth::Last => -1,
    }
}

fn day(day: Weekday) -> civil::Weekday {
    match day {
        Weekday::Monday => civil::Weekday::Monday,
        Weekday::Tuesday => civil::Weekday::Tuesday,
        Weekday::Wednesday => civil::Weekday::Wednesday,
        Weekday::Thursday => civil::Weekday::Thursday,
        Weekday::Friday => civil::Weekday::Friday,
        Weekday::Saturday => civil::Weekday::Saturday,
        Weekday::Sunday => civil::Weekday::Sunday,
    }
}

#[cfg(test)]
mod tests;
