//! The agent's log as a service: JSON lines in the data folder, in a bounded number of files of
//! bounded size.
//!
//! Crates for rotating logs turn over by time, and a day of a device that cannot reach its gateway
//! has no bound; so the writer is our own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;

/// Folder of the log in the data folder.
pub const FOLDER: &str = "log";
const NAME: &str = "agent.jsonl";
/// Size at which a file is turned over. Some weeks of an idle device.
const MAX_BYTES: u64 = 4 << 20;
/// Older files that are kept beside the one being written.
const OLDER: u32 = 4;

/// What is logged: by `WARDRING_LOG`, such as `info,wardring_agent::driver=debug`, or else everything
/// from this level on. Filters by fields would need an engine for patterns, which makes the program
/// larger by a twentieth.
pub fn filter(otherwise: LevelFilter) -> Targets {
    let told = std::env::var("WARDRING_LOG").ok().and_then(|text| text.parse().ok());
    told.unwrap_or_else(|| Targets::new().with_default(otherwise))
}

/// Pause between lines that others can cause as often as they like.
const SELDOM: Duration = Duration::from_secs(600);

/// A line that others can cause: written so seldom that it washes nothing else out of the log.
#[derive(Debug, Default)]
pub struct Seldom(Option<Instant>);

impl Seldom {
    /// Whether it is written now.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.0.is_none_or(|last| now.duration_since(last) >= SELDOM);
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}

/// Writes lines to the newest of a few files.
#[derive(Clone)]
pub struct RotatingLog(Arc<Mutex<Files>>);

struct Files {
    folder: PathBuf,
    max_bytes: u64,
    /// The newest file and its length; none after it could not be opened.
    open: Option<(File, u64)>,
}

impl RotatingLog {
    /// Begins, or goes on, in the log folder of this data folder.
    ///
    /// # Errors
    /// The folder or the file cannot be made.
    pub fn open(data: &Path) -> io::Result<RotatingLog> {
        RotatingLog::with_limit(data, MAX_BYTES)
    }

    fn with_limit(data: &Path, max_bytes: u64) -> io::Result<RotatingLog> {
        let folder = data.join(FOLDER);
        fs::create_dir_all(&folder)?;
        let mut files = Files { folder, max_bytes, open: None };
        files.reopen()?;
        Ok(RotatingLog(Arc::new(Mutex::new(files))))
    }
}

/// The files of a log, the newest first.
pub fn files(data: &Path) -> Vec<PathBuf> {
    let folder = data.join(FOLDER);
    (0..=OLDER).map(|age| path(&folder, age)).filter(|path| path.is_file()).collect()
}

fn path(folder: &Path, age: u32) -> PathBuf {
    match age {
        0 => folder.join(NAME),
        age => folder.join(format!("{NAME}.{age}")),
    }
}

impl Files {
    fn reopen(&mut self) -> io::Result<()> {
        let file = OpenOptions::new().create(true).append(true).open(path(&self.folder, 0))?;
        let length = file.metadata()?.len();
        self.open = Some((file, length));
        Ok(())
    }

    /// Makes the newest file the second newest, and so on; the oldest goes.
    fn turn_over(&mut self) -> io::Result<()> {
        // Windows renames no file that is open.
        self.open = None;
        for age in (0..OLDER).rev() {
            match fs::rename(path(&self.folder, age), path(&self.folder, age + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.reopen()
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        match &self.open {
            Some((_, written)) if *written > 0 && written + length > self.max_bytes => {
                self.turn_over()?;
            }
            Some(_) => {}
            None => self.reopen()?,
        }
        let Some((file, written)) = &mut self.open else { return Ok(()) };
        *written += length;
        file.write_all(line)
    }
}

impl Write for RotatingLog {
    /// Takes whole lines. One that cannot be written is lost: a full disk must not stop the agent.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = files.write(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for RotatingLog {
    type Writer = RotatingLog;

    fn make_writer(&'a self) -> RotatingLog {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_cause_is_written_once_in_ten_minutes() {
        let (mut line, begin) = (Seldom::default(), Instant::now());
        let told = |second: &u64| line.is_due(begin + Duration::from_secs(*second));
        assert_eq!((0..1500).filter(told).collect::<Vec<_>>(), [0, 600, 1200]);
    }

    #[test]
    fn a_log_that_is_written_for_ever_stays_within_its_bound_and_keeps_the_newest() {
        let data = tempfile::tempdir().unwrap();
        let mut log = RotatingLog::with_limit(data.path(), 100).unwrap();
        for number in 0..1_000 {
            let line = format!("line {number:04} ........................\n");
            log.write_all(line.as_bytes()).unwrap();
        }
        let files = files(data.path());
        assert_eq!(files.len(), 1 + OLDER as usize);
        assert!(files.iter().all(|file| fs::metadata(file).unwrap().len() <= 100));
        let newest = fs::read_to_string(&files[0]).unwrap();
        assert!(newest.lines().last().unwrap().starts_with("line 0999"), "{newest}");
        let next = fs::read_to_string(&files[1]).unwrap();
        let last: u32 = next.lines().last().unwrap()[5..9].parse().unwrap();
        let first: u32 = newest.lines().next().unwrap()[5..9].parse().unwrap();
        assert_eq!(last + 1, first, "no line is lost between two files");
    }

    #[test]
    fn a_restarted_agent_goes_on_in_the_same_file() {
        let data = tempfile::tempdir().unwrap();
        for line in ["one\n", "two\n"] {
            let mut log = RotatingLog::with_limit(data.path(), 8).unwrap();
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(path(&data.path().join(FOLDER), 0)).unwrap(), "one\ntwo\n");
        let mut log = RotatingLog::with_limit(data.path(), 8).unwrap();
        log.write_all(b"three\n").unwrap();
        assert_eq!(files(data.path()).len(), 2);
    }

    #[test]
    fn a_log_that_cannot_be_written_stops_nothing() {
        let data = tempfile::tempdir().unwrap();
        let mut log = RotatingLog::with_limit(data.path(), 8).unwrap();
        log.write_all(b"one two\n").unwrap();
        fs::remove_dir_all(data.path()).unwrap();
        log.write_all(b"three\n").unwrap();
        // As soon as there is room again, it goes on.
        fs::create_dir_all(data.path().join(FOLDER)).unwrap();
        log.write_all(b"four\n").unwrap();
        let text = fs::read_to_string(path(&data.path().join(FOLDER), 0)).unwrap();
        assert_eq!(text, "four\n");
    }
}
