//! The journal: the one file that the agent must not lose.
//!
//! A write goes to a temporary file, is flushed, and takes the journal's place by a rename; the file
//! before it stays as `.prev`. A crash at any byte leaves a whole journal: the new one, or the old one
//! whose effects are the last that ran. What cannot be read at all is [`Loaded::Lost`], never a guess.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{self, replace};
use crate::outbox::Outbox;
use crate::state::State;

/// Version of the file's layout. Every field that is added makes it another one: an agent that does not
/// know a field would leave it out of its next write, and do again what the field says is done. So a
/// newer layout is not read at all, and going back to an older agent is refused until that journal is at
/// rest elsewhere.
pub const SCHEMA: u32 = 4;
/// The oldest layout that is read: what it lacks was not there in its time either.
const OLDEST: u32 = 1;
const FILE: &str = "journal";
const PREVIOUS: &str = "journal.prev";
const TEMPORARY: &str = "journal.new";

/// What the journal holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Saved {
    /// The state machine's memory.
    pub state: State,
    /// Reports that no gateway has acknowledged.
    pub outbox: Outbox,
}

/// How far a write goes before the effects may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Through to the disk: survives a power failure.
    Disk,
    /// To the operating system: survives the end of the process. For simulated fleets.
    Process,
}

/// A journal in a folder.
#[derive(Clone, Debug)]
pub struct Journal {
    folder: PathBuf,
    durability: Durability,
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub enum Loaded {
    /// No journal was ever written here.
    Fresh,
    /// The journal, or the one before it when a crash came between two renames.
    Found(Box<Saved>),
    /// There is one and it cannot be read; the text says why.
    Lost(String),
    /// There is one of a newer agent, with this layout: it is whole, and not for us to replace.
    Newer(u32),
}

/// Why the journal cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write the journal in {folder}")]
pub struct WriteError {
    /// Where.
    pub folder: PathBuf,
    source: io::Error,
}

impl Journal {
    /// The folder that it is in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The journal of this folder.
    pub fn new(folder: &Path, durability: Durability) -> Journal {
        Journal { folder: folder.to_owned(), durability }
    }

    /// Reads the journal.
    ///
    /// A journal that exists and is damaged is lost even when `.prev` is whole: what was begun after
    /// `.prev` was written stands only in the damaged one.
    pub fn load(&self) -> Loaded {
        let main = self.folder.join(FILE);
        match read(&main) {
            Ok(saved) => Loaded::Found(Box::new(saved)),
            Err(Unreadable::Missing) => match read(&self.folder.join(PREVIOUS)) {
                Ok(saved) => Loaded::Found(Box::new(saved)),
                Err(Unreadable::Missing) => Loaded::Fresh,
                Err(Unreadable::Damaged(why)) => Loaded::Lost(why),
                Err(Unreadable::Newer(layout)) => Loaded::Newer(layout),
            },
            Err(Unreadable::Damaged(why)) => Loaded::Lost(why),
            Err(Unreadable::Newer(layout)) => Loaded::Newer(layout),
        }
    }

    /// Puts `saved` in the journal's place. When this returns, it is durable.
    ///
    /// # Errors
    /// The old journal is still in place, and no effect may run.
    pub fn save(&self, saved: &Saved) -> Result<(), WriteError> {
        self.try_save(saved).map_err(|source| WriteError { folder: self.folder.clone(), source })
    }

    fn try_save(&self, saved: &Saved) -> io::Result<()> {
        let (main, new) = (self.folder.join(FILE), self.folder.join(TEMPORARY));
        let mut file = File::create(&new)?;
        file.write_all(&encode(saved))?;
        if self.durability == Durability::Disk {
            file.sync_all()?;
        }
        drop(file);
        match replace(&main, &self.folder.join(PREVIOUS)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        replace(&new, &main)?;
        self.sync_folder()
    }

    /// Windows writes a rename through by itself and cannot open a folder as a file.
    fn sync_folder(&self) -> io::Result<()> {
        if cfg!(unix) && self.durability == Durability::Disk {
            File::open(&self.folder)?.sync_all()?;
        }
        Ok(())
    }
}

#[derive(Debug)]
enum Unreadable {
    Missing,
    Damaged(String),
    Newer(u32),
}

impl From<&str> for Unreadable {
    fn from(why: &str) -> Unreadable {
        Unreadable::Damaged(why.to_owned())
    }
}

fn read(path: &Path) -> Result<Saved, Unreadable> {
    // One that a scanner holds for a moment is not lost.
    match files::read(path) {
        Ok(bytes) => decode(&bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Unreadable::Missing),
        Err(error) => Err(Unreadable::Damaged(error.to_string())),
    }
}

/// `wardring-journal <schema> <length> <crc32>`, a line end, and the JSON.
fn encode(saved: &Saved) -> Vec<u8> {
    framed(&body(saved))
}

pub(crate) fn body(saved: &Saved) -> Vec<u8> {
    serde_json::to_vec(saved).expect("the state has only string keys")
}

pub(crate) fn framed(body: &[u8]) -> Vec<u8> {
    let crc = crc32fast::hash(body);
    let mut bytes = format!("wardring-journal {SCHEMA} {} {crc:08x}\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Reads what [`encode`] wrote; any other bytes are an error, never a panic.
fn decode(bytes: &[u8]) -> Result<Saved, Unreadable> {
    let end = bytes.iter().position(|&byte| byte == b'\n').ok_or("the first line has no end")?;
    let (header, body) = (&bytes[..end], &bytes[end + 1..]);
    let header = std::str::from_utf8(header).map_err(|_| "the first line is not text")?;
    let fields: Vec<&str> = header.split(' ').collect();
    let ["wardring-journal", schema, length, crc] = fields[..] else {
        return Err("the first line is not a journal's".into());
    };
    if length.parse() != Ok(body.len()) {
        let found = body.len();
        return Err(Unreadable::Damaged(format!("it has {found} of {length} bytes")));
    }
    if u32::from_str_radix(crc, 16) != Ok(crc32fast::hash(body)) {
        return Err("its checksum does not fit".into());
    }
    match schema.parse() {
        Ok(OLDEST..=SCHEMA) => serde_json::from_slice(body)
            .map_err(|error| Unreadable::Damaged(format!("its content is not a state: {error}"))),
        Ok(newer) if newer > SCHEMA => Err(Unreadable::Newer(newer)),
        _ => Err(Unreadable::Damaged(format!("it has the unknown layout {schema}"))),
    }
}

/// What [`decode`] reads, for the fuzzer.
#[cfg(fuzzing)]
pub(crate) fn reread(bytes: &[u8]) -> Option<Saved> {
    decode(bytes).ok()
}

/// What [`encode`] writes, for the fuzzer.
#[cfg(fuzzing)]
pub(crate) fn rewritten(saved: &Saved) -> Vec<u8> {
    encode(saved)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn saved(turn: u64) -> Saved {
        let state = State { turn, boot: "boot-1".to_owned(), ..State::default() };
        Saved { state, ..Saved::default() }
    }

    fn journal() -> (tempfile::TempDir, Journal) {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path(), Durability::Disk);
        (folder, journal)
    }

    #[test]
    fn what_was_saved_is_found() {
        let (_folder, journal) = journal();
        assert_eq!(journal.load(), Loaded::Fresh);
        journal.save(&saved(1)).unwrap();
        journal.save(&saved(2)).unwrap();
        assert_eq!(journal.load(), Loaded::Found(Box::new(saved(2))));
    }

    #[test]
    fn a_write_torn_at_any_byte_leaves_the_journal_before_it() {
        let (folder, journal) = journal();
        journal.save(&saved(1)).unwrap();
        let whole = encode(&saved(2));
        for length in 0..=whole.len() {
            fs::write(folder.path().join(TEMPORARY), &whole[..length]).unwrap();
            assert_eq!(journal.load(), Loaded::Found(Box::new(saved(1))), "torn at {length}");
        }
        // Between the two renames the journal itself is missing.
        fs::rename(folder.path().join(FILE), folder.path().join(PREVIOUS)).unwrap();
        assert_eq!(journal.load(), Loaded::Found(Box::new(saved(1))));
    }

    #[test]
    fn a_journal_damaged_at_any_byte_is_lost_even_beside_a_whole_previous_one() {
        let (folder, journal) = journal();
        journal.save(&saved(1)).unwrap();
        journal.save(&saved(2)).unwrap();
        let whole = encode(&saved(2));
        let path = folder.path().join(FILE);
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(matches!(journal.load(), Loaded::Lost(_)), "cut at {length}");
            let mut flipped = whole.clone();
            flipped[length] ^= 0x20;
            fs::write(&path, &flipped).unwrap();
            // A flipped case inside the checksum's hex is the same number.
            let loaded = journal.load();
            let is_same = loaded == Loaded::Found(Box::new(saved(2)));
            assert!(
                matches!(loaded, Loaded::Lost(_)) || is_same,
                "flipped at {length}: {loaded:?}"
            );
        }
    }

    #[test]
    fn a_journal_of_an_older_agent_is_read_without_what_that_one_did_not_know() {
        let (folder, journal) = journal();
        let mut document = serde_json::to_value(saved(1)).unwrap();
        // Since layout 3.
        document["state"].as_object_mut().unwrap().remove("watches").unwrap();
        let body = serde_json::to_vec(&document).unwrap();
        let header = format!("wardring-journal 2 {} {:08x}\n", body.len(), crc32fast::hash(&body));
        fs::write(folder.path().join(FILE), [header.into_bytes(), body].concat()).unwrap();
        assert_eq!(journal.load(), Loaded::Found(Box::new(saved(1))));
    }

    #[test]
    fn a_journal_of_a_newer_layout_is_not_guessed_at() {
        let (folder, journal) = journal();
        journal.save(&saved(1)).unwrap();
        let text = fs::read_to_string(folder.path().join(FILE)).unwrap();
        let layout = |number: u32| {
            let of = format!("wardring-journal {number} ");
            text.replacen(&format!("wardring-journal {SCHEMA} "), &of, 1)
        };
        fs::write(folder.path().join(FILE), layout(SCHEMA + 1)).unwrap();
        assert_eq!(journal.load(), Loaded::Newer(SCHEMA + 1));
        for known in OLDEST..=SCHEMA {
            fs::write(folder.path().join(FILE), layout(known)).unwrap();
            assert_eq!(journal.load(), Loaded::Found(Box::new(saved(1))), "{known}");
        }
        fs::write(folder.path().join(FILE), layout(0)).unwrap();
        assert!(matches!(journal.load(), Loaded::Lost(_)));
        fs::write(folder.path().join(FILE), layout(SCHEMA + 1)).unwrap();
        // One that is damaged as well is damaged: nobody knows that it was newer.
        let path = folder.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() - 1]).unwrap();
        assert!(matches!(journal.load(), Loaded::Lost(_)));
    }
}
