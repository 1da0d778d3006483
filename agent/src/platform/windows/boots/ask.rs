//! Asking the System log why the running boot came, for as long as that makes sense.

use std::time::Duration;

use super::classify::{Circumstances, Finding, classify};
use super::event::Event;
use crate::state::{BootKind, Off};

/// How long the event log may need after a boot until it tells of it: so many looks, so far apart.
const LOOKS: u32 = 60;
const PAUSE: Duration = Duration::from_millis(500);
/// An older boot that the log does not tell of is not waited for.
const YOUNG_MS: u64 = 10 * 60_000;

/// Why the System log does not tell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LogError {
    /// The service that keeps it has not started: it will.
    #[error("the event log service does not run yet")]
    NotReady,
    /// Anything else.
    #[error("failed to read the System log: {0}")]
    Unreadable(String),
    /// It can be read, and has no word about this boot.
    #[error("the System log does not tell of this boot")]
    Silent,
}

/// The System log.
pub(super) trait SystemLog {
    /// The newest events that tell of boots, newest first, each as XML.
    fn newest(&self) -> Result<Vec<String>, LogError>;
}

/// What the log says about the running boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Its kind.
    pub kind: BootKind,
    /// The evidence, a sentence.
    pub evidence: String,
    /// How long the device had been off, where somebody had switched it off.
    pub off: Option<Off>,
    /// Its newest record.
    pub record: u64,
}

/// What the log says about the running boot. Right
/// after a boot the log is behind, so it is asked again, with pauses.
pub(super) fn found(
    log: &impl SystemLog,
    known: &Circumstances<'_>,
    uptime_ms: u64,
    pause: impl Fn(Duration),
) -> Result<Told, LogError> {
    let mut looks = if uptime_ms < YOUNG_MS { LOOKS } else { 1 };
    loop {
        looks -= 1;
        match look(log, known) {
            Err(LogError::NotReady | LogError::Silent) if looks > 0 => pause(PAUSE),
            told => return told,
        }
    }
}

fn look(log: &impl SystemLog, known: &Circumstances<'_>) -> Result<Told, LogError> {
    let events: Vec<Event> = log.newest()?.iter().filter_map(|xml| Event::parse(xml)).collect();
    // Records begin anew when somebody clears the log.
    let newest = events.iter().map(|event| event.record).max().unwrap_or_default();
    let last_record = known.last_record.filter(|last| *last <= newest);
    match classify(events, &Circumstances { last_record, ..known.clone() }) {
        Finding::Explained { kind, evidence, off, record } => {
            Ok(Told { kind, evidence, off, record })
        }
        Finding::NotYet => Err(LogError::Silent),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use jiff::Timestamp;

    use super::*;

    /// A log that fills up while it is asked: it fails, is empty, then tells of a crash.
    struct Script {
        asked: Cell<u32>,
        ready_at: u32,
        tells_at: u32,
    }

    const BOOTED: i64 = 1_790_000_000;

    fn event(provider: &str, id: u32, record: u64) -> String {
        let at = Timestamp::from_second(BOOTED + 3).unwrap();
        format!(
            "<System><Provider Name='{provider}'/><EventID>{id}</EventID><TimeCreated \
             SystemTime='{at}'/><EventRecordID>{record}</EventRecordID></System>"
        )
    }

    impl SystemLog for Script {
        fn newest(&self) -> Result<Vec<String>, LogError> {
            self.asked.set(self.asked.get() + 1);
            match self.asked.get() {
                asked if asked < self.ready_at => Err(LogError::NotReady),
                asked if asked < self.tells_at => Ok(Vec::new()),
                _ => Ok(vec![event("EventLog", 6008, 8), event("EventLog", 6005, 7)]),
            }
        }
    }

    fn script(ready_at: u32, tells_at: u32) -> Script {
        Script { asked: Cell::new(0), ready_at, tells_at }
    }

    fn known(last_record: Option<u64>) -> Circumstances<'static> {
        let booted_at = Timestamp::from_second(BOOTED).unwrap();
        Circumstances { booted_at, last_record, is_ordered: false, program: "x" }
    }

    #[test]
    fn a_young_boot_is_waited_for_until_the_log_tells_of_it() {
        let log = script(3, 6);
        let told = found(&log, &known(None), 5_000, |_| {});
        assert_eq!(told.map(|told| told.kind), Ok(BootKind::Dirty));
        assert_eq!(log.asked.get(), 6);
    }

    #[test]
    fn the_wait_ends_without_a_guess() {
        let (never, silent) = (script(u32::MAX, u32::MAX), script(0, u32::MAX));
        assert_eq!(found(&never, &known(None), 5_000, |_| {}), Err(LogError::NotReady));
        assert_eq!(found(&silent, &known(None), 5_000, |_| {}), Err(LogError::Silent));
        assert_eq!(silent.asked.get(), LOOKS);
        let old = script(0, 2);
        assert_eq!(found(&old, &known(None), YOUNG_MS, |_| {}), Err(LogError::Silent));
        assert_eq!(old.asked.get(), 1);
    }

    #[test]
    fn a_log_that_was_cleared_counts_from_the_beginning_again() {
        let told = found(&script(0, 0), &known(Some(90_000)), 5_000, |_| {});
        assert_eq!(told.map(|told| (told.kind, told.record)), Ok((BootKind::Dirty, 8)));
        let explained = found(&script(0, 0), &known(Some(8)), YOUNG_MS, |_| {});
        assert_eq!(explained, Err(LogError::Silent), "that was the boot before");
    }

    #[test]
    fn a_log_that_cannot_be_read_is_not_waited_for() {
        struct Broken;
        impl SystemLog for Broken {
            fn newest(&self) -> Result<Vec<String>, LogError> {
                Err(LogError::Unreadable("invalid handle".to_owned()))
            }
        }
        let told = found(&Broken, &known(None), 0, |_| panic!("nothing to wait for"));
        assert_eq!(told, Err(LogError::Unreadable("invalid handle".to_owned())));
    }
}
