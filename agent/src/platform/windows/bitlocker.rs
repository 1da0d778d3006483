//! Asking BitLocker what happens at the next start.
//!
//! WMI may hang, so it is asked on a thread of its own that can be left behind, and what it said is
//! kept for a while: protectors change rarely.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::around::{self, PROTECTORS};
use crate::ffi;
use crate::state::Startup;

/// Longest that BitLocker may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Longest that its answer is believed.
const KEPT: Duration = Duration::from_secs(300);

/// What is known, and whether a question is open. One that hangs is enough.
static KNOWN: Mutex<Known> = Mutex::new(Known { answer: None, is_asked: false });

struct Known {
    answer: Option<(Instant, Startup)>,
    is_asked: bool,
}

/// What happens at the next start, as BitLocker says now or said a few minutes ago.
pub(super) fn startup() -> Startup {
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    {
        let mut known = known();
        let is_fresh = |(at, _): &&(Instant, Startup)| at.elapsed() < KEPT;
        if let Some((_, startup)) = known.answer.as_ref().filter(is_fresh) {
            return startup.clone();
        }
        // A few minutes old, and the question is open.
        let is_near = |(at, _): &&(Instant, Startup)| at.elapsed() < 2 * KEPT;
        if let (true, Some((_, startup))) = (known.is_asked, known.answer.as_ref().filter(is_near))
        {
            return startup.clone();
        }
        if known.is_asked {
            return Startup::Unknown("BitLocker has not answered an earlier question".to_owned());
        }
        known.is_asked = true;
    }
    let (tx, rx) = channel();
    let asked = thread::Builder::new().name("bitlocker".to_owned()).spawn(move || {
        let startup = ask();
        let mut known = known();
        known.is_asked = false;
        known.answer = Some((Instant::now(), startup.clone()));
        // Nobody waits for it after the limit.
        let _ = tx.send(startup);
    });
    if let Err(error) = asked {
        known().is_asked = false;
        return Startup::Unknown(error.to_string());
    }
    rx.recv_timeout(LIMIT).unwrap_or_else(|error| {
        let why = match error {
            RecvTimeoutError::Timeout => "BitLocker does not answer",
            RecvTimeoutError::Disconnected => "the question to BitLocker failed",
        };
        Startup::Unknown(why.to_owned())
    })
}

/// The same as it is reported: one question that took too long is no news.
pub(super) fn reported() -> Startup {
    static TOLD: Mutex<Option<(Instant, Startup)>> = Mutex::new(None);
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    around::steady(startup(), &mut told, Instant::now())
}

/// The same without a limit, and without what was said before.
pub(super) fn ask() -> Startup {
    let answer = ffi::system_drive_protection(&PROTECTORS.map(|(kind, _)| kind));
    around::startup(answer.map_err(|error| (error.code().0, error.to_string())))
}
