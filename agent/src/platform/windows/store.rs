//! Asking for the state of the component store, which takes DISM seconds, and longer beside other work.
//!
//! It is asked on a thread of its own that can be left behind. What it said is kept: for half a day for
//! the report, for minutes before an installation.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::dism;
use crate::state::StoreState;

/// Age at which it is asked anew for the report. Marks come from failed installations, after which a
/// job asks anyway, and from scans that people begin.
const REPORTED_FOR: Duration = Duration::from_secs(12 * 3600);
/// The same right before an installation.
const BEGUN_WITH: Duration = Duration::from_secs(600);
/// Longest that a look waits for DISM.
const LIMIT: Duration = Duration::from_secs(300);

/// What is known, and whether a question is open. One that hangs is enough.
static KNOWN: Mutex<Known> = Mutex::new(Known { answer: None, is_asked: false });

struct Known {
    answer: Option<(Instant, StoreState)>,
    is_asked: bool,
}

/// What is known by now; asks in the background where that is nothing or old. Unknown where DISM does
/// not answer: what was said long ago is no answer of today.
pub(super) fn known() -> Option<StoreState> {
    let (answer, is_asked) = {
        let known = lock();
        (known.answer.clone(), known.is_asked)
    };
    if let Some((_, state)) = answer.as_ref().filter(|(at, _)| at.elapsed() < REPORTED_FOR) {
        return Some(state.clone());
    }
    if !is_asked && let Err(error) = ask() {
        tracing::warn!(%error, "DISM cannot be asked for the state of the component store");
    }
    // Nobody waits for it: the next report tells.
    answer.map(|(at, state)| match state {
        _ if at.elapsed() > 2 * REPORTED_FOR => {
            StoreState::Unknown("DISM does not answer".to_owned())
        }
        state => state,
    })
}

/// What DISM says now, or said a few minutes ago. Waits for minutes at most.
pub(super) fn fresh() -> StoreState {
    let unknown = |why: &str| StoreState::Unknown(why.to_owned());
    let is_fresh = |(at, _): &(Instant, StoreState)| at.elapsed() < BEGUN_WITH;
    if let Some((_, state)) = lock().answer.clone().filter(is_fresh) {
        return state;
    }
    match ask() {
        Ok(answer) => answer.recv_timeout(LIMIT).unwrap_or_else(|error| match error {
            RecvTimeoutError::Timeout => unknown("DISM does not answer"),
            RecvTimeoutError::Disconnected => unknown("the question to DISM failed"),
        }),
        Err(error) => unknown(&error.to_string()),
    }
}

/// Asks DISM on a thread of its own, unless it has not answered yet.
fn ask() -> std::io::Result<Receiver<StoreState>> {
    let (tx, rx) = channel();
    if std::mem::replace(&mut lock().is_asked, true) {
        return Err(std::io::Error::other("DISM has not answered an earlier question"));
    }
    let asked = thread::Builder::new().name("dism-health".to_owned()).spawn(move || {
        let state = dism::health();
        {
            let mut known = lock();
            known.is_asked = false;
            known.answer = Some((Instant::now(), state.clone()));
        }
        // Nobody waits for it after the limit.
        let _ = tx.send(state);
    });
    if let Err(error) = asked {
        lock().is_asked = false;
        return Err(error);
    }
    Ok(rx)
}

fn lock() -> MutexGuard<'static, Known> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}
