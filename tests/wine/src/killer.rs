//! The end of the agent at a chosen moment of a chosen write of its journal, from outside: without a
//! word of it in the agent, and as suddenly as a power failure ends it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::programs::compile_preloaded;

/// Places of the numbers in the file that the library shares with us; see `shim/killer.c`.
const WRITES: u64 = 0;
const AT: u64 = 8;
const MOMENT: u64 = 16;
const KILLS: u64 = 32;
const BY_PLACE: u64 = 40;
const PLACES: u64 = 48;
const SIZE: usize = 1048;

/// The moments of a write: what lies on the disk after each is all that a write can leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// The new journal is flushed, and the old one in its place.
    Flushed = 1,
    /// The old one is put aside, and none in its place.
    Between = 2,
    /// The new one is in place, and nothing that it orders is begun.
    InPlace = 3,
}

impl Moment {
    /// All of them.
    pub const ALL: [Moment; 3] = [Moment::Flushed, Moment::Between, Moment::InPlace];
}

/// What ends the agent of one prefix.
pub struct Killer {
    folder: TempDir,
    page: File,
}

impl Killer {
    /// One that ends nobody yet.
    ///
    /// # Errors
    /// No C compiler is there.
    pub fn new() -> anyhow::Result<Killer> {
        let folder = tempfile::tempdir()?;
        compile_preloaded("killer.c", &folder.path().join("killer.so"))?;
        let mut open = File::options();
        let page = open.read(true).write(true).create_new(true).open(folder.path().join("page"))?;
        page.write_all_at(&[0; SIZE], 0)?;
        Ok(Killer { folder, page })
    }

    /// What is preloaded into Wine, and the variable that it reads.
    pub(crate) fn preloaded(&self) -> (PathBuf, (&'static str, PathBuf)) {
        let page = self.folder.path().join("page");
        (self.folder.path().join("killer.so"), ("WARDRING_TESTS_KILLER", page))
    }

    /// Ends the agent at this write, as [`Killer::writes`] counts; at the next one where that is over.
    ///
    /// # Panics
    /// The file is gone.
    pub fn arm(&self, write: u64, moment: Moment) {
        // The moment first: the agent may be writing right now.
        self.set(AT, 0);
        self.set(MOMENT, moment as u64);
        self.set(AT, write.max(self.writes() + 1));
    }

    /// Ends the agent wherever a job stands for the first time: at [`Moment::Flushed`], when what led
    /// there is done and not written down, and then at [`Moment::InPlace`], before anything else is begun.
    ///
    /// # Panics
    /// The file is gone.
    pub fn arm_everywhere(&self) {
        self.set(BY_PLACE, 1);
    }

    /// Where and when [`Killer::arm_everywhere`] ended it.
    ///
    /// # Panics
    /// The file is gone.
    pub fn places(&self) -> Vec<(String, Moment)> {
        let mut bytes = [0; SIZE - PLACES as usize];
        self.page.read_exact_at(&mut bytes, PLACES).expect("the file has its size");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let moment = |number: &str| {
            Moment::ALL.into_iter().find(|moment| (*moment as u64).to_string() == number)
        };
        let words = text.trim_end_matches('\0').split_whitespace();
        let parts = words.filter_map(|word| word.split_once('/'));
        parts.filter_map(|(place, number)| Some((place.to_owned(), moment(number)?))).collect()
    }

    /// Ends nobody any more; whether somebody was to be ended.
    ///
    /// # Panics
    /// The file is gone.
    pub fn disarm(&self) -> bool {
        let was_armed = self.get(AT) != 0;
        self.set(AT, 0);
        self.set(BY_PLACE, 0);
        was_armed
    }

    /// Whole writes so far.
    ///
    /// # Panics
    /// The file is gone.
    pub fn writes(&self) -> u64 {
        self.get(WRITES)
    }

    /// How often the agent was ended.
    ///
    /// # Panics
    /// The file is gone.
    pub fn kills(&self) -> u64 {
        self.get(KILLS)
    }

    fn get(&self, place: u64) -> u64 {
        let mut bytes = [0; 8];
        self.page.read_exact_at(&mut bytes, place).expect("eight bytes of an open file");
        u64::from_ne_bytes(bytes)
    }

    fn set(&self, place: u64, number: u64) {
        self.page.write_all_at(&number.to_ne_bytes(), place).expect("eight bytes of an open file");
    }
}

/// Where the job in a folder's journal stands: the phase, or nothing when there is no job. Between two
/// renames it is the journal before that counts.
///
/// # Errors
/// The journal is not whole.
pub fn place(data: &Path) -> anyhow::Result<Option<String>> {
    let main = data.join("journal");
    let path = if main.exists() { main } else { data.join("journal.prev") };
    let text = fs::read_to_string(&path).with_context(|| format!("failed to read {path:?}"))?;
    let (header, body) = text.split_once('\n').context("the first line has no end")?;
    let length = header.split(' ').nth(2).and_then(|length| length.parse().ok());
    ensure!(length == Some(body.len()), "{header:?}, and {} bytes", body.len());
    let saved: Value = serde_json::from_str(body).context("its content is no JSON")?;
    Ok(saved["state"]["job"]["phase"]["phase"].as_str().map(str::to_owned))
}
