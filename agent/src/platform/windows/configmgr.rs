//! Asking the ConfigMgr client whether it waits for a restart.
//!
//! `CCM_ClientUtilities.DetermineIfRebootPending` of `root\ccm\ClientSDK`, as bcwilhite/PendingReboot
//! asks it. WMI may hang, so it is asked on a thread of its own that can be left behind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::neighbours;
use super::registry::LocalMachine;
use crate::ffi;

/// Longest that the client may take.
const LIMIT: Duration = Duration::from_secs(20);
/// A question is open. One that hangs is enough.
static IS_ASKED: AtomicBool = AtomicBool::new(false);

/// Whether the client waits for a restart; `None` where there is no client.
pub(super) fn waits_for_restart() -> Option<Result<bool, String>> {
    if !neighbours::has_configmgr(&LocalMachine) {
        return None;
    }
    if IS_ASKED.swap(true, Ordering::SeqCst) {
        return Some(Err("an earlier question has no answer yet".to_owned()));
    }
    let (tx, rx) = channel();
    let asked = thread::Builder::new().name("configmgr".to_owned()).spawn(move || {
        let answer = ffi::configmgr_waits_for_restart();
        IS_ASKED.store(false, Ordering::SeqCst);
        // Nobody waits for it after the limit.
        let _ = tx.send(answer.map_err(|error| error.to_string()));
    });
    if let Err(error) = asked {
        IS_ASKED.store(false, Ordering::SeqCst);
        return Some(Err(error.to_string()));
    }
    Some(match rx.recv_timeout(LIMIT) {
        Ok(answer) => answer,
        Err(RecvTimeoutError::Timeout) => Err("it does not answer".to_owned()),
        Err(RecvTimeoutError::Disconnected) => Err("the question failed".to_owned()),
    })
}
