//! The running boot's identity and what is kept about boots in the registry.
//!
//! `HKLM\SOFTWARE\Wardring` holds what must outlive a boot; its key `Boot` is volatile, which means
//! that Windows forgets it with the boot (Windows documentation, `RegCreateKeyExW`,
//! `REG_OPTION_VOLATILE`). Neither a moved clock nor a restored journal can fake that.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use windows::Win32::Foundation::{ERROR_SERVICE_NOT_ACTIVE, WIN32_ERROR};
use windows_registry::{Key, LOCAL_MACHINE};

use super::ask::{LogError, SystemLog, Told, found};
use super::classify::{Circumstances, QUERY};
use crate::questions::Questions;
use crate::state::{BootKind, Off};
use crate::{chance, ffi};

const OWN_KEY: &str = r"SOFTWARE\Wardring";
const BOOT_KEY: &str = r"SOFTWARE\Wardring\Boot";
/// Volatile: identity of this boot, of the one before it, and why this one came.
const ID: &str = "Id";
const BEFORE: &str = "Before";
const KIND: &str = "Kind";
/// Volatile: since and until when the device had been off before, where somebody had switched it off; seconds
/// since 1970.
const OFF_SINCE: &str = "OffSince";
const OFF_UNTIL: &str = "OffUntil";
/// Volatile: which of our acts asked for a restart.
const ASKED_FOR: &str = "RestartAskedFor";
/// Volatile: whether we ever ordered the end of this boot.
const WAS_ORDERED: &str = "RestartWasOrdered";
/// Volatile: the process that removed something last.
const REMOVAL: &str = "Removal";
/// Volatile: the renames that were pending before our first act of this boot are kept.
const RENAMES_KEPT: &str = "RenamesKept";
/// Lasting: those renames, the last boot seen, the log's record that explained it, and the boot
/// whose end we ordered.
const RENAMES: &str = "RenamesBefore";
const LAST: &str = "LastBoot";
const LAST_RECORD: &str = "LastBootRecord";
const ORDERED: &str = "OrderedRestartOf";

/// The events of two boots, and of a dozen shutdowns that people ordered and took back.
const EVENTS: usize = 64;
/// RPC_S_SERVER_UNAVAILABLE and EPT_S_NOT_REGISTERED: the other side is not there yet.
const NOBODY_THERE: [WIN32_ERROR; 2] = [WIN32_ERROR(1722), WIN32_ERROR(1753)];

/// The running boot.
#[derive(Clone, Debug)]
pub(in crate::platform::windows) struct OwnBoot {
    /// Identity.
    pub id: String,
    /// Why it came.
    pub kind: BootKind,
    /// How long the device had been off before, where somebody had switched it off.
    pub off: Option<Off>,
}

/// What outlives a boot.
fn lasting() -> windows::core::Result<Key> {
    LOCAL_MACHINE.create(OWN_KEY)
}

/// What Windows forgets with the boot.
fn volatile() -> windows::core::Result<Key> {
    // Only this key may be volatile: others below ours will want to last.
    lasting()?;
    LOCAL_MACHINE.options().read().write().create().volatile().open(BOOT_KEY)
}

impl OwnBoot {
    /// Finds out which boot this is, and why it came. May wait a minute for the event log.
    pub fn find() -> windows::core::Result<OwnBoot> {
        let (lasting, volatile) = (lasting()?, volatile()?);
        let id = match volatile.get_string(ID) {
            Ok(id) if !id.is_empty() => id,
            _ => {
                let id = chance::id();
                volatile.set_string(BEFORE, lasting.get_string(LAST).unwrap_or_default())?;
                volatile.set_string(ID, &id)?;
                id
            }
        };
        // Also when it was known: the agent may have ended between the two writes.
        lasting.set_string(LAST, &id)?;
        let (kind, off) = match volatile.get_string(KIND).ok().and_then(|word| kind(&word)) {
            Some(kind) => (kind, kept_off(&volatile)),
            None => explain(&id, &lasting, &volatile)?,
        };
        Ok(OwnBoot { id, kind, off })
    }

    /// Remembers, through to the disk, that we are about to order the end of this boot.
    pub fn note_order(&self) -> windows::core::Result<()> {
        volatile()?.set_u32(WAS_ORDERED, 1)?;
        let lasting = lasting()?;
        lasting.set_string(ORDERED, &self.id)?;
        ffi::flush(&lasting)
    }

    /// Forgets an order that Windows did not take, or that was taken back.
    pub fn forget_order(&self) -> windows::core::Result<()> {
        lasting()?.set_string(ORDERED, "")
    }

    /// Whether we ordered the end of this boot and did not take that back.
    pub fn is_order_open(&self) -> bool {
        lasting().and_then(|key| key.get_string(ORDERED)).is_ok_and(|boot| boot == self.id)
    }

    /// Whether we ever ordered the end of this boot.
    pub fn was_ordered(&self) -> bool {
        volatile().and_then(|key| key.get_u32(WAS_ORDERED)).is_ok_and(|ordered| ordered != 0)
    }

    /// Remembers for the rest of this boot that an act of ours asked for a restart.
    pub fn note_restart_asked_for(&self, act: &str) -> windows::core::Result<()> {
        volatile()?.set_string(ASKED_FOR, act)
    }

    /// Remembers for the rest of this boot which process removes.
    pub fn note_removal(&self, process: &str) -> windows::core::Result<()> {
        volatile()?.set_string(REMOVAL, process)
    }

    /// The process that removed something last in this boot; none also where that cannot be read.
    pub fn last_removal(&self) -> Option<String> {
        volatile().and_then(|key| key.get_string(REMOVAL)).ok()
    }

    /// Keeps what is pending before our first act of this boot; later calls keep what was kept.
    pub fn keep_renames(&self, pending: &[String]) -> windows::core::Result<()> {
        let volatile = volatile()?;
        if volatile.get_u32(RENAMES_KEPT).is_ok_and(|kept| kept != 0) {
            return Ok(());
        }
        // One text: in a list, an empty name in the middle would end it.
        lasting()?.set_string(RENAMES, pending.join("\n"))?;
        volatile.set_u32(RENAMES_KEPT, 1)
    }

    /// What was pending before our last first act of a boot.
    pub fn renames_before(&self) -> Vec<String> {
        let kept = lasting().and_then(|key| key.get_string(RENAMES)).unwrap_or_default();
        if kept.is_empty() { Vec::new() } else { kept.split('\n').map(str::to_owned).collect() }
    }

    /// Whether an act of ours asked for a restart in this boot.
    pub fn is_restart_asked_for(&self) -> bool {
        volatile().and_then(|key| key.get_string(ASKED_FOR)).is_ok_and(|act| !act.is_empty())
    }
}

/// Asks the log why this boot came, and keeps the answer for the rest of the boot.
fn explain(
    id: &str,
    lasting: &Key,
    volatile: &Key,
) -> windows::core::Result<(BootKind, Option<Off>)> {
    let uptime_ms = ffi::uptime_ms();
    let before = volatile.get_string(BEFORE).unwrap_or_default();
    let ordered = lasting.get_string(ORDERED).unwrap_or_default();
    let program = std::env::current_exe().ok();
    let program = program.as_deref().and_then(Path::file_name).unwrap_or_default();
    let up = SignedDuration::from_millis(i64::try_from(uptime_ms).unwrap_or(i64::MAX));
    let known = Circumstances {
        booted_at: Timestamp::now().checked_sub(up).unwrap_or(Timestamp::UNIX_EPOCH),
        last_record: lasting.get_u64(LAST_RECORD).ok(),
        is_ordered: !before.is_empty() && ordered == before,
        program: &program.to_string_lossy(),
    };
    let log = Wevtapi { until: Instant::now() + LIMIT };
    match found(&log, &known, uptime_ms, thread::sleep) {
        Ok(Told { kind, evidence, off, record }) => {
            let off_since = off.map(|off| off.since.to_string());
            tracing::info!(boot = id, kind = kind.as_str(), evidence, off_since, "this boot");
            // The kind last: with it, all of it is kept.
            if let Some(off) = off {
                keep_off(volatile, off)?;
            }
            volatile.set_string(KIND, kind.as_str())?;
            lasting.set_u64(LAST_RECORD, record)?;
            Ok((kind, off))
        }
        Err(error) => {
            tracing::warn!(boot = id, %error, "nobody can tell why this boot came");
            Ok((BootKind::Unknown, None))
        }
    }
}

fn keep_off(volatile: &Key, off: Off) -> windows::core::Result<()> {
    // After 1970, or it was not taken for one.
    let second = |at: Timestamp| u64::try_from(at.as_second()).unwrap_or_default();
    volatile.set_u64(OFF_SINCE, second(off.since))?;
    volatile.set_u64(OFF_UNTIL, second(off.until))
}

fn kept_off(volatile: &Key) -> Option<Off> {
    let at = |name| {
        let second = volatile.get_u64(name).ok().and_then(|second| i64::try_from(second).ok())?;
        Timestamp::from_second(second).ok()
    };
    Some(Off { since: at(OFF_SINCE)?, until: at(OFF_UNTIL)? })
}

fn kind(word: &str) -> Option<BootKind> {
    use BootKind::{Crash, Dirty, Expected, Foreign};
    [Expected, Foreign, Crash, Dirty].into_iter().find(|kind| kind.as_str() == word)
}

/// The real log. Its service may hang, and what the agent is for does not wait for it.
struct Wevtapi {
    /// Until when it is asked, all looks together.
    until: Instant,
}

/// One question that hangs is enough.
static LOG: Questions = Questions::new("event log", 1);
/// Longest that all looks at it may take.
const LIMIT: Duration = Duration::from_secs(60);

impl SystemLog for Wevtapi {
    fn newest(&self) -> Result<Vec<String>, LogError> {
        let is_starting = |error: &windows::core::Error| {
            let code = error.code();
            code == ERROR_SERVICE_NOT_ACTIVE.to_hresult()
                || NOBODY_THERE.map(WIN32_ERROR::to_hresult).contains(&code)
        };
        let left = self.until.saturating_duration_since(Instant::now());
        let asked = LOG.answer(left, || ffi::newest_events("System", QUERY, EVENTS));
        asked.map_err(LogError::Unreadable)?.map_err(|error| {
            match error.code() {
                _ if is_starting(&error) => LogError::NotReady,
                // Refused without a reason, it would be quoted with "Success".
                code if code.is_ok() => LogError::Unreadable("no reason is given".to_owned()),
                _ => LogError::Unreadable(error.to_string()),
            }
        })
    }
}
