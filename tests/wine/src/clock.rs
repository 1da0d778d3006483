//! A clock that runs ahead of this computer's: hours of a device pass in seconds of a test, without a
//! word of it in the agent. Only what measures spans runs ahead; the time of day stays true.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::programs::compile_preloaded;

/// How often the clock is moved.
const STEP: Duration = Duration::from_millis(10);

/// The clock of one prefix.
pub struct Clock {
    folder: TempDir,
    ahead: Arc<AtomicU64>,
}

impl Clock {
    /// A clock that shows what this computer's does.
    ///
    /// # Errors
    /// No C compiler is there.
    pub fn new() -> anyhow::Result<Clock> {
        let folder = tempfile::tempdir()?;
        compile_preloaded("clock.c", &folder.path().join("clock.so"))?;
        let clock = Clock { folder, ahead: Arc::default() };
        File::create(clock.page())?.write_all_at(&[0; 8], 0)?;
        Ok(clock)
    }

    /// What is preloaded into programs under this clock, and the variable that it reads.
    pub(crate) fn preloaded(&self) -> (PathBuf, (&'static str, PathBuf)) {
        (self.folder.path().join("clock.so"), ("WARDRING_TESTS_CLOCK", self.page()))
    }

    /// How far it is ahead.
    pub fn ahead(&self) -> Duration {
        Duration::from_nanos(self.ahead.load(Ordering::SeqCst))
    }

    /// Lets so much time pass for every span of the true one, until the value is dropped.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn hurry(&self, times: u32) -> anyhow::Result<Hurry> {
        let file = File::options().write(true).open(self.page())?;
        let (ahead, is_over) = (Arc::clone(&self.ahead), Arc::new(AtomicBool::new(false)));
        let ends = Arc::clone(&is_over);
        let moving = thread::spawn(move || {
            let mut last = Instant::now();
            while !ends.load(Ordering::SeqCst) {
                thread::sleep(STEP);
                let more = last.elapsed() * (times - 1);
                last = Instant::now();
                let more = u64::try_from(more.as_nanos()).unwrap_or(u64::MAX);
                let now = ahead.fetch_add(more, Ordering::SeqCst) + more;
                file.write_all_at(&now.to_ne_bytes(), 0).expect("eight bytes of an open file");
            }
        });
        Ok(Hurry { is_over, moving: Some(moving) })
    }

    fn page(&self) -> PathBuf {
        self.folder.path().join("ahead")
    }
}

/// The clock runs ahead as long as this lives.
pub struct Hurry {
    is_over: Arc<AtomicBool>,
    moving: Option<JoinHandle<()>>,
}

impl Drop for Hurry {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // It panics only where the disk is full, which the test notices.
        let _ = self.moving.take().map(JoinHandle::join);
    }
}
