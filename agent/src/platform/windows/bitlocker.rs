//! Asking BitLocker what happens at the next start.
//!
//! WMI may hang, so it is asked on a thread of its own that can be left behind, and what it said is
//! kept for a while: protectors change rarely.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::around::{self, PROTECTORS};
use crate::ffi;
use crate::state::Startup;

/// Longest that BitLocker may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Longest that its answer is believed.
const KEPT: Duration = Duration::from_secs(300);

/// What is known, and since when a question is open. One that hangs is enough.
static KNOWN: Mutex<Known> = Mutex::new(Known { answer: None, asked: None });
static ANSWERED: Condvar = Condvar::new();

struct Known {
    answer: Option<(Instant, Startup)>,
    asked: Option<Instant>,
}

fn known() -> MutexGuard<'static, Known> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What happens at the next start, as BitLocker says now or said a few minutes ago.
pub(super) fn startup() -> Startup {
    let mut known = known();
    // A few minutes old is good enough, and twice that while a question is open.
    let believed = if known.asked.is_some() { 2 * KEPT } else { KEPT };
    if let Some((_, startup)) = known.answer.as_ref().filter(|(at, _)| at.elapsed() < believed) {
        return startup.clone();
    }
    let asked = match known.asked {
        Some(at) if at.elapsed() >= LIMIT => {
            return Startup::Unknown("BitLocker has not answered an earlier question".to_owned());
        }
        // After a start, a job and the first facts ask at the same time: the one answer is for both.
        Some(at) => at,
        None => {
            let asked = thread::Builder::new().name("bitlocker".to_owned()).spawn(answer);
            if let Err(error) = asked {
                return Startup::Unknown(error.to_string());
            }
            *known.asked.insert(Instant::now())
        }
    };
    let left = LIMIT.saturating_sub(asked.elapsed());
    let waits = ANSWERED.wait_timeout_while(known, left, |known| known.asked == Some(asked));
    let (known, _) = waits.unwrap_or_else(PoisonError::into_inner);
    match &known.answer {
        Some((_, startup)) if known.asked != Some(asked) => startup.clone(),
        _ => Startup::Unknown("BitLocker does not answer".to_owned()),
    }
}

/// Asks, however long that takes, and keeps the answer.
fn answer() {
    let startup = ask();
    let mut known = known();
    known.asked = None;
    known.answer = Some((Instant::now(), startup));
    ANSWERED.notify_all();
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
