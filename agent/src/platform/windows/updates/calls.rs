//! Calls into Windows Update, each on a thread of its own that can be left behind.
//!
//! WUA has no time limits, and a service behind it that hangs would hang whoever waits for it
//! (`wua_sdk/guidelines-for-asynchronous-wua-operations.md`). COM wants its pointers on the thread
//! that made them. So every call gets a thread with a session of its own; one that does not come back
//! is left alone, because nothing can end it safely, and there may be only a few of those.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::wua::{Failure, TIME_OUT, Wua};

/// Threads that may be inside Windows Update at once: a scan, an act, and some that hang.
const MOST_CALLS: usize = 6;

/// Opens a session with the Windows Update Agent, on the thread that will use it.
pub type Connect = Arc<dyn Fn() -> Result<Box<dyn Wua>, Failure> + Send + Sync>;

/// Why a call has no answer of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The agent refused.
    #[error("Windows Update answered {0}")]
    Failed(Failure),
    /// It did not answer in time and is left alone.
    #[error("Windows Update did not answer within {} minutes", limit.as_secs().div_ceil(60))]
    Silent {
        /// How long it was waited for.
        limit: Duration,
    },
    /// Too many earlier calls hang.
    #[error("{MOST_CALLS} calls into Windows Update hang; restart the device")]
    TooMany,
}

impl CallError {
    /// The HRESULT to report.
    pub fn hresult(self) -> u32 {
        match self {
            CallError::Failed(Failure(hresult)) => hresult,
            CallError::Silent { .. } | CallError::TooMany => TIME_OUT,
        }
    }
}

/// The way to call.
#[derive(Clone)]
pub struct Calls {
    connect: Connect,
    running: Arc<AtomicUsize>,
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Calls {
    /// Calls made over sessions of `connect`.
    pub fn new(connect: Connect) -> Calls {
        Calls { connect, running: Arc::default() }
    }

    /// Begins a call; `done` gets its result on the call's thread.
    ///
    /// # Errors
    /// Too many earlier ones hang.
    pub fn start<T>(
        &self,
        act: impl FnOnce(&dyn Wua) -> Result<T, Failure> + Send + 'static,
        done: impl FnOnce(Result<T, Failure>) + Send + 'static,
    ) -> Result<(), CallError> {
        if self.running.fetch_add(1, Ordering::SeqCst) >= MOST_CALLS {
            self.running.fetch_sub(1, Ordering::SeqCst);
            return Err(CallError::TooMany);
        }
        let running = Running(Arc::clone(&self.running));
        let connect = Arc::clone(&self.connect);
        let thread = std::thread::Builder::new().name("windows-update".to_owned());
        let begun = thread.spawn(move || {
            let result = connect().and_then(|wua| act(wua.as_ref()));
            drop(running);
            done(result);
        });
        begun.map(|_| ()).map_err(|_| CallError::TooMany)
    }

    /// Calls and waits for at most `limit`.
    pub async fn call<T: Send + 'static>(
        &self,
        limit: Duration,
        act: impl FnOnce(&dyn Wua) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, CallError> {
        let (tx, rx) = tokio::sync::oneshot::channel();
        // Nobody waits for the result of a call that was given up.
        self.start(act, move |result| drop(tx.send(result)))?;
        match tokio::time::timeout(limit, rx).await {
            Ok(Ok(result)) => result.map_err(CallError::Failed),
            // The thread ended without a word.
            Ok(Err(_)) => Err(CallError::Failed(Failure(super::wua::UNEXPECTED))),
            Err(_) => Err(CallError::Silent { limit }),
        }
    }

    /// The same where nothing can be awaited.
    pub fn call_blocking<T: Send + 'static>(
        &self,
        limit: Duration,
        act: impl FnOnce(&dyn Wua) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, CallError> {
        let (tx, rx) = std::sync::mpsc::channel();
        self.start(act, move |result| drop(tx.send(result)))?;
        match rx.recv_timeout(limit) {
            Ok(result) => result.map_err(CallError::Failed),
            Err(_) => Err(CallError::Silent { limit }),
        }
    }
}
