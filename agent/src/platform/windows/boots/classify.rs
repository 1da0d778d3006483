//! Why the running boot came, by what the System log says about its beginning and about the end of
//! the boot before it.
//!
//! Events and their meaning: Windows documentation, "Troubleshoot unexpected reboots using system
//! event logs". Events of other providers with the same numbers are never looked at.

use jiff::{SignedDuration, Timestamp};

use super::event::Event;
use crate::state::{BootKind, Off};

const KERNEL: &str = "Microsoft-Windows-Kernel-General";
const POWER: &str = "Microsoft-Windows-Kernel-Power";
const EVENT_LOG: &str = "EventLog";
/// The same service under its newer name.
const EVENT_LOG_TOO: &str = "Microsoft-Windows-Eventlog";
const ERROR_REPORTING: &str = "Microsoft-Windows-WER-SystemErrorReporting";
const USER: &str = "User32";

/// What the log is asked for.
#[cfg_attr(not(windows), allow(dead_code, reason = "the log itself is there on Windows alone"))]
pub(super) const QUERY: &str = "*[System[Provider[@Name='Microsoft-Windows-Kernel-General' or \
    @Name='Microsoft-Windows-Kernel-Power' or @Name='EventLog' or \
    @Name='Microsoft-Windows-Eventlog' or @Name='Microsoft-Windows-WER-SystemErrorReporting' or \
    @Name='User32'] and (EventID=12 or EventID=13 or EventID=41 or EventID=109 or EventID=1001 or \
    EventID=1074 or EventID=6005 or EventID=6006 or EventID=6008 or EventID=6009)]]";

/// What Windows went down for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::platform::windows) enum Shutdown {
    ToStayOff,
    ToRestart,
}

impl Shutdown {
    /// By `ShutdownActionType` of Kernel-Power 109: of POWER_ACTION (Windows driver documentation,
    /// `ntpoapi.h`), PowerActionShutdown (4) and PowerActionShutdownOff (6) stay off, and
    /// PowerActionShutdownReset (5) restarts; none for any other. The text of User32 1074 says it, too, but
    /// in the language of the device.
    pub(super) fn of(event: &Event) -> Option<Shutdown> {
        match event.field("ShutdownActionType")? {
            "4" | "6" => Some(Shutdown::ToStayOff),
            "5" => Some(Shutdown::ToRestart),
            _ => None,
        }
    }
}

/// A clock that is set right after the boot moves the time of its first event against the uptime.
const TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// What an event says about boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// The operating system, or its log, began.
    Began,
    /// The boot before ended without a shutdown.
    WasCut,
    /// The boot before ended in a bug check.
    Crashed,
    /// Somebody ordered a shutdown or restart.
    Ordered,
    /// The operating system, or its log, ended.
    Ended,
}

impl Mark {
    fn of(event: &Event) -> Option<Mark> {
        match (event.provider.as_str(), event.id) {
            (KERNEL, 12) | (EVENT_LOG | EVENT_LOG_TOO, 6005 | 6009) => Some(Mark::Began),
            // The code is 0 after a loss of power, a reset, or a hang that somebody ended.
            (POWER, 41) => match event.field("BugcheckCode") {
                None | Some("" | "0" | "0x0") => Some(Mark::WasCut),
                Some(_) => Some(Mark::Crashed),
            },
            (EVENT_LOG | EVENT_LOG_TOO, 6008) => Some(Mark::WasCut),
            (ERROR_REPORTING, 1001) => Some(Mark::Crashed),
            (USER, 1074) => Some(Mark::Ordered),
            (KERNEL, 13) | (EVENT_LOG | EVENT_LOG_TOO, 6006) | (POWER, 109) => Some(Mark::Ended),
            _ => None,
        }
    }

    /// Whether it belongs to a beginning; the others belong to an end.
    fn is_of_beginning(self) -> bool {
        matches!(self, Mark::Began | Mark::WasCut | Mark::Crashed)
    }
}

/// What the agent itself knows about the running boot.
#[derive(Clone, Debug)]
pub(super) struct Circumstances<'a> {
    /// When it came, by the clock and the uptime.
    pub booted_at: Timestamp,
    /// The log's newest record when the boot before was explained.
    pub last_record: Option<u64>,
    /// The agent ordered the end of the boot before.
    pub is_ordered: bool,
    /// File name of the agent's program.
    pub program: &'a str,
}

/// What the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Why the boot came.
    Explained {
        /// The kind.
        kind: BootKind,
        /// The evidence, a sentence.
        evidence: String,
        /// How long the device had been off, where somebody had switched it off.
        off: Option<Off>,
        /// The newest record that belongs to the boot.
        record: u64,
    },
    /// The log does not speak of this boot yet.
    NotYet,
}

/// Explains the running boot by the log's events.
pub(super) fn classify(mut events: Vec<Event>, known: &Circumstances<'_>) -> Finding {
    // By place, not by time: the clock may have been set between two events.
    events.sort_by_key(|event| std::cmp::Reverse(event.record));
    let marks: Vec<(Mark, &Event)> =
        events.iter().filter_map(|event| Some((Mark::of(event)?, event))).collect();
    // A shutdown may be ordered already, while the boot is being explained.
    let first = marks.iter().position(|(mark, _)| mark.is_of_beginning());
    let Some(first) = first else { return Finding::NotYet };
    let length = beginning(&marks[first..]);
    let (now, before) = marks[first..].split_at(length);
    // The earliest: the log's own service starts a while after Windows.
    let is_began = |(mark, event): &&(Mark, &Event)| *mark == Mark::Began && is_ours(event, known);
    let Some((_, began)) = now.iter().rev().find(is_began) else { return Finding::NotYet };
    let end = before.iter().take_while(|(mark, _)| !mark.is_of_beginning());
    let end: Vec<(Mark, &Event)> = end.copied().collect();
    let (kind, evidence) = explain(now, &end, known);
    let record = now.iter().map(|(_, event)| event.record).max().unwrap_or_default();
    // What the agent ordered is a restart, however long it takes.
    let off = if kind == BootKind::Foreign { off(&end, began) } else { None };
    Finding::Explained { kind, evidence, off, record }
}

/// How long the device was off between a clean end and the beginning after it, where that was no restart.
///
/// Sleep and hibernation are no end, and neither is the shutdown of a Windows with Fast Startup, which
/// hibernates the system session (Windows driver documentation, "Distinguishing Fast Startup from Wake-from-
/// Hibernation"): our volatile key outlives all of them, and the boot stays the one that it was.
fn off(end: &[(Mark, &Event)], began: &Event) -> Option<Off> {
    // The newest alone: one before it was taken back. Without it, nobody knows that it was no restart.
    let is_order = |event: &Event| (event.provider.as_str(), event.id) == (POWER, 109);
    let (_, order) = end.iter().find(|(_, event)| is_order(event))?;
    let (_, ended) = end.iter().find(|(mark, _)| *mark == Mark::Ended)?;
    if Shutdown::of(order)? == Shutdown::ToStayOff {
        Off::between(ended.at, began.at)
    } else {
        None
    }
}

/// How many marks belong to one beginning: until the end of the boot before, or until something
/// that a boot says only once comes again, because the boot before had no end.
fn beginning(marks: &[(Mark, &Event)]) -> usize {
    let said = |(index, (mark, event)): (usize, &(Mark, &Event))| {
        let is_said = |(_, earlier): &(Mark, &Event)| {
            (&earlier.provider, earlier.id) == (&event.provider, event.id)
        };
        // A crash may be reported more than once.
        !mark.is_of_beginning() || (event.id != 1001 && marks[..index].iter().any(is_said))
    };
    marks.iter().enumerate().position(said).unwrap_or(marks.len())
}

/// Whether this beginning is the running boot's, and not that of the boot before: after a quick
/// crash the log may still end with that one.
fn is_ours(began: &Event, known: &Circumstances<'_>) -> bool {
    let is_new = known.last_record.is_none_or(|last| began.record > last);
    is_new && began.at.duration_since(known.booted_at).abs() < TOLERANCE
}

fn explain(
    now: &[(Mark, &Event)],
    end: &[(Mark, &Event)],
    known: &Circumstances<'_>,
) -> (BootKind, String) {
    let find = |marks: &[(Mark, &Event)], wanted: Mark| {
        marks.iter().find(|(mark, _)| *mark == wanted).map(|(_, event)| (*event).clone())
    };
    if let Some(event) = find(now, Mark::Crashed) {
        return (BootKind::Crash, format!("{} {} tells of a bug check", event.provider, event.id));
    }
    if let Some(event) = find(now, Mark::WasCut) {
        let sentence =
            format!("{} {} tells of an end without a shutdown", event.provider, event.id);
        return (BootKind::Dirty, sentence);
    }
    if end.is_empty() {
        return (BootKind::Unknown, "the log does not say how the boot before ended".to_owned());
    }
    let orders: Vec<String> = end
        .iter()
        .filter(|(mark, _)| *mark == Mark::Ordered)
        .map(|(_, event)| orderer(event))
        .collect();
    let is_ours = orders.iter().any(|program| program.eq_ignore_ascii_case(known.program));
    match orders.first() {
        _ if known.is_ordered && (is_ours || orders.is_empty()) => {
            (BootKind::Expected, "the agent ordered it, and Windows shut down cleanly".to_owned())
        }
        Some(program) => (BootKind::Foreign, format!("{program} ordered it")),
        None => {
            (BootKind::Foreign, "Windows shut down cleanly, and nobody says for whom".to_owned())
        }
    }
}

/// File name of the program that ordered a shutdown: `C:\Windows\System32\x.exe (COMPUTER)`.
fn orderer(event: &Event) -> String {
    let text = event.field("param1").unwrap_or_default();
    let path = text.rsplit_once(" (").map_or(text, |(path, _)| path);
    path.rsplit('\\').next().unwrap_or(path).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTED: i64 = 1_790_000_000;

    /// A log, oldest first: each event some seconds after the one before it.
    fn log(events: &[(&str, u32, &str)], newest_at: i64) -> Vec<Event> {
        let count = events.len() as i64;
        let event = |(index, (provider, id, data)): (usize, &(&str, u32, &str))| {
            let at = Timestamp::from_second(newest_at - (count - index as i64)).unwrap();
            let xml = format!(
                "<System><Provider Name='{provider}'/><EventID>{id}</EventID><TimeCreated \
                 SystemTime='{at}'/><EventRecordID>{}</EventRecordID></System><EventData>{data}\
                 </EventData>",
                100 + index
            );
            Event::parse(&xml).unwrap()
        };
        events.iter().enumerate().map(event).collect()
    }

    fn known() -> Circumstances<'static> {
        Circumstances {
            booted_at: Timestamp::from_second(BOOTED).unwrap(),
            last_record: None,
            is_ordered: false,
            program: "wardring-agent.exe",
        }
    }

    fn found(events: &[(&str, u32, &str)], known: &Circumstances<'_>) -> Option<BootKind> {
        match classify(log(events, BOOTED + 20), known) {
            Finding::Explained { kind, .. } => Some(kind),
            Finding::NotYet => None,
        }
    }

    const STARTED: [(&str, u32, &str); 3] =
        [(KERNEL, 12, ""), (EVENT_LOG, 6009, ""), (EVENT_LOG, 6005, "")];
    const STOPPED: [(&str, u32, &str); 3] =
        [(EVENT_LOG, 6006, ""), (POWER, 109, ""), (KERNEL, 13, "")];
    const OURS: (&str, u32, &str) = (
        USER,
        1074,
        r"<Data Name='param1'>C:\Program Files\Wardring\wardring-agent.exe (SRV-1)</Data>",
    );
    const WINDOWS: (&str, u32, &str) = (
        USER,
        1074,
        r"<Data Name='param1'>C:\Windows\servicing\TrustedInstaller.exe (SRV-1)</Data>",
    );

    fn boot(
        parts: &[&[(&'static str, u32, &'static str)]],
    ) -> Vec<(&'static str, u32, &'static str)> {
        parts.concat()
    }

    #[test]
    fn a_restart_that_the_agent_ordered_and_windows_carried_out_is_expected() {
        let ordered = Circumstances { is_ordered: true, ..known() };
        let clean = boot(&[&STARTED, &[OURS], &STOPPED, &STARTED]);
        assert_eq!(found(&clean, &ordered), Some(BootKind::Expected));
        let silent = boot(&[&STARTED, &STOPPED, &STARTED]);
        assert_eq!(found(&silent, &ordered), Some(BootKind::Expected));
    }

    #[test]
    fn a_clean_restart_by_anybody_else_is_foreign() {
        let theirs = boot(&[&STARTED, &[WINDOWS], &STOPPED, &STARTED]);
        assert_eq!(found(&theirs, &known()), Some(BootKind::Foreign));
        let ordered = Circumstances { is_ordered: true, ..known() };
        assert_eq!(found(&theirs, &ordered), Some(BootKind::Foreign));
        let forged = boot(&[&STARTED, &[OURS], &STOPPED, &STARTED]);
        assert_eq!(found(&forged, &known()), Some(BootKind::Foreign), "nothing was ordered");
    }

    #[test]
    fn a_bug_check_is_a_crash_and_a_cut_is_dirty_even_after_an_order() {
        let ordered = Circumstances { is_ordered: true, ..known() };
        let bug = (POWER, 41, "<Data Name='BugcheckCode'>159</Data>");
        let cut = (POWER, 41, "<Data Name='BugcheckCode'>0</Data>");
        let crash = boot(&[&STARTED, &[OURS], &STARTED, &[bug, (EVENT_LOG, 6008, "")]]);
        assert_eq!(found(&crash, &ordered), Some(BootKind::Crash));
        let dump = boot(&[&STARTED, &STARTED, &[cut, (ERROR_REPORTING, 1001, "")]]);
        assert_eq!(found(&dump, &known()), Some(BootKind::Crash));
        let power = boot(&[&STARTED, &[OURS], &STARTED, &[cut]]);
        assert_eq!(found(&power, &ordered), Some(BootKind::Dirty));
        assert_eq!(
            found(&boot(&[&STARTED, &[(EVENT_LOG, 6008, "")]]), &known()),
            Some(BootKind::Dirty)
        );
    }

    #[test]
    fn an_older_crash_does_not_colour_a_clean_boot() {
        let cut = (POWER, 41, "<Data Name='BugcheckCode'>0</Data>");
        let events = boot(&[&STARTED, &STARTED, &[cut], &[WINDOWS], &STOPPED, &STARTED]);
        assert_eq!(found(&events, &known()), Some(BootKind::Foreign));
        let later = boot(&[&STARTED, &STOPPED, &STARTED, &[OURS]]);
        assert_eq!(
            found(&later, &known()),
            Some(BootKind::Foreign),
            "the newest order is for later"
        );
    }

    #[test]
    fn a_log_that_says_nothing_explains_nothing() {
        assert_eq!(found(&[], &known()), None);
        assert_eq!(found(&STOPPED, &known()), None);
        assert_eq!(found(&STARTED, &known()), Some(BootKind::Unknown));
        assert_eq!(found(&[("Other", 41, ""), ("Other", 12, "")], &known()), None);
    }

    #[test]
    fn the_boot_before_is_not_taken_for_the_running_one() {
        let events = boot(&[&STARTED, &STOPPED, &STARTED]);
        let long_ago = log(&events, BOOTED - 3_600);
        assert_eq!(classify(long_ago, &known()), Finding::NotYet);
        // After a quick crash the times say nothing; the place in the log does.
        let explained = Circumstances { last_record: Some(108), ..known() };
        assert_eq!(classify(log(&events, BOOTED + 20), &explained), Finding::NotYet);
        let earlier = Circumstances { last_record: Some(102), ..known() };
        assert!(matches!(
            classify(log(&events, BOOTED + 20), &earlier),
            Finding::Explained { record: 108, .. }
        ));
    }

    #[test]
    fn the_program_behind_an_order_is_told() {
        let events = log(&boot(&[&STARTED, &[WINDOWS], &STOPPED, &STARTED]), BOOTED);
        let Finding::Explained { evidence, .. } = classify(events, &known()) else { panic!() };
        assert_eq!(evidence, "TrustedInstaller.exe ordered it");
    }

    /// The same log, after which the device was started `minutes` later than it went down.
    fn off_for(minutes: i64, log: &[(&str, u32, &str)], known: &Circumstances<'_>) -> Option<Off> {
        let mut events = self::log(log, BOOTED + 20);
        let began = events.iter().rposition(|event| event.id == 12).unwrap();
        for event in &mut events[..began] {
            event.at = Timestamp::from_second(BOOTED + 10 - minutes * 60).unwrap();
        }
        match classify(events, known) {
            Finding::Explained { off, .. } => off,
            Finding::NotYet => panic!("it is not explained"),
        }
    }

    const NIGHT: i64 = 600;
    const DOWN: [(&str, u32, &str); 3] = [
        (EVENT_LOG, 6006, ""),
        (POWER, 109, "<Data Name='ShutdownActionType'>6</Data>"),
        (KERNEL, 13, ""),
    ];

    #[test]
    fn a_device_that_somebody_switched_off_was_off_until_it_was_started() {
        let clean = boot(&[&STARTED, &DOWN, &STARTED]);
        let off = off_for(NIGHT, &clean, &known()).unwrap();
        assert_eq!(off.since.as_second(), BOOTED + 10 - NIGHT * 60);
        assert_eq!(off.until.as_second(), BOOTED + 17, "Windows began, not its log");
        // The start menu and `shutdown` say whose order it was.
        let menu = (USER, 1074, r"<Data Name='param1'>C:\Windows\Explorer.EXE (PC)</Data>");
        let ordered = boot(&[&STARTED, &[menu], &DOWN, &STARTED]);
        assert!(off_for(NIGHT, &ordered, &known()).is_some());
    }

    #[test]
    fn a_restart_is_no_time_off_however_long_it_takes() {
        let clean = boot(&[&STARTED, &DOWN, &STARTED]);
        assert_eq!(off_for(29, &clean, &known()), None);
        let reset = (POWER, 109, "<Data Name='ShutdownActionType'>5</Data>");
        let restart = boot(&[&STARTED, &[WINDOWS, STOPPED[0], reset, STOPPED[2]], &STARTED]);
        assert_eq!(off_for(NIGHT, &restart, &known()), None);
        // Where nobody says which of the two it was, it is none: of the log's service alone, and without the field.
        for untold in [&STOPPED[..], &STOPPED[..1]] {
            assert_eq!(off_for(NIGHT, &boot(&[&STARTED, untold, &STARTED]), &known()), None);
        }
        let ours = Circumstances { is_ordered: true, ..known() };
        let expected = boot(&[&STARTED, &[OURS], &DOWN, &STARTED]);
        assert_eq!(off_for(NIGHT, &expected, &ours), None);
        assert_eq!(off_for(NIGHT, &clean, &ours), None, "a restart that the agent ordered");
    }

    #[test]
    fn only_a_shutdown_that_says_so_was_meant_to_stay_off() {
        let said = |data: &str| Shutdown::of(&log(&[(POWER, 109, data)], BOOTED)[0]);
        let kind = |number: &str| said(&format!("<Data Name='ShutdownActionType'>{number}</Data>"));
        assert_eq!(["4", "6"].map(kind), [Some(Shutdown::ToStayOff); 2]);
        assert_eq!(kind("5"), Some(Shutdown::ToRestart));
        // Sleep, hibernation, an ejection, and what is no number.
        assert_eq!(["0", "2", "3", "7", "", "Shutdown"].map(kind), [None; 6]);
        assert_eq!(said(""), None);
    }

    #[test]
    fn a_device_that_crashed_or_lost_power_was_not_switched_off() {
        let bug = (POWER, 41, "<Data Name='BugcheckCode'>159</Data>");
        let cut = (POWER, 41, "<Data Name='BugcheckCode'>0</Data>");
        for hard in [bug, cut, (EVENT_LOG, 6008, ""), (ERROR_REPORTING, 1001, "")] {
            let down = boot(&[&STARTED, &DOWN, &STARTED, &[hard]]);
            assert_eq!(off_for(NIGHT, &down, &known()), None, "{hard:?}");
        }
        // An order that nobody saw carried out, and a boot that nobody saw end.
        let ordered = boot(&[&STARTED, &[WINDOWS], &STARTED]);
        assert_eq!(off_for(NIGHT, &ordered, &known()), None);
        assert_eq!(off_for(NIGHT, &boot(&[&STARTED, &STARTED]), &known()), None);
    }

    #[test]
    fn a_clock_that_was_set_back_or_by_years_makes_no_time_off() {
        let clean = boot(&[&STARTED, &DOWN, &STARTED]);
        assert_eq!(off_for(-NIGHT, &clean, &known()), None, "back");
        let years = 40 * 366 * 24 * 60;
        assert_eq!(off_for(years, &clean, &known()), None, "forward");
    }
}
