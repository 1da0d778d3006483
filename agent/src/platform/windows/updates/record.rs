//! The record of installations: which grant began which, and how it ended.
//!
//! It is written through to the disk before Windows is told to install and stays until many others
//! came after it, so that the same grant never installs the same update twice, whatever becomes of
//! the agent in between. A record that cannot be read bars every installation: it would be a guess.
//!
//! It also says which updates the agent hid after their removal: those alone it may show again.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wardring_protocol::key_id;
use wardring_seal::JobKey;

use crate::files::replace;
use crate::state::ServicingResult;

/// Installations that are remembered. A rollout brings about a dozen updates, and the journal keeps
/// the last 16 grants.
const REMEMBERED: usize = 256;
const SCHEMA: u32 = 1;
/// Updates that are remembered as hidden by us: many years of rollbacks. Who is forgotten stays hidden
/// until a person shows it again.
const HIDDEN: usize = 256;

/// One installation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Installation {
    /// Grant, KB and try.
    pub act: String,
    /// Boot in which it began.
    pub boot: String,
    /// When it began.
    pub began: Timestamp,
    /// Packages of Windows before it; none where they could not be listed.
    pub packages_before: Option<BTreeSet<String>>,
    /// How it ended; nothing while it runs, or when the agent did not see its end.
    pub result: Option<ServicingResult>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Book {
    schema: u32,
    /// Oldest first.
    installations: Vec<Installation>,
    /// Boot whose installations were committed: a second call before the restart may make the
    /// update fail (`nf-wuapi-iupdateinstaller4-commit.md`).
    #[serde(default)]
    committed_in: Option<String>,
    /// UpdateIDs that we hid, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hidden: Vec<String>,
    /// Of them, those that a step of a job shows at this moment.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    shown: BTreeSet<String>,
    /// What a newer agent wrote beside it: an agent that goes back and forth must not forget it.
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

/// The record in a folder.
#[derive(Clone, Debug)]
pub struct Record {
    path: PathBuf,
    /// One change at a time: a call that was given up may still come back.
    alone: Arc<Mutex<()>>,
}

/// Names the installation of an update for a grant; every try of it has its own name.
pub fn act(key: &JobKey, kb: &str, tries: u32) -> String {
    match tries {
        0 => format!("{} {kb}", key_id(key)),
        again => format!("{} {kb} again {again}", key_id(key)),
    }
}

/// The ClientApplicationID under which an installation enters the history of Windows Update: short,
/// and different for every grant and update.
pub fn client_id(act: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, act.as_bytes());
    let short: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("Wardring-{short}")
}

impl Record {
    /// The record in `folder`.
    pub fn new(folder: &Path) -> Record {
        Record { path: folder.join("installations"), alone: Arc::default() }
    }

    /// What is known of an installation.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn find(&self, act: &str) -> io::Result<Option<Installation>> {
        let book = self.read()?;
        Ok(book.installations.into_iter().find(|installation| installation.act == act))
    }

    /// Remembers that an installation begins; durable when it returns.
    ///
    /// # Errors
    /// The record cannot be read or written, or knows this installation already: it must not begin.
    pub fn begin(&self, installation: Installation) -> io::Result<()> {
        let _alone = self.alone();
        let mut book = self.read()?;
        if book.installations.iter().any(|known| known.act == installation.act) {
            return Err(io::Error::other("this installation began before"));
        }
        let surplus = (book.installations.len() + 1).saturating_sub(REMEMBERED);
        book.installations.drain(..surplus);
        book.installations.push(installation);
        self.write(&book)
    }

    /// Forgets an installation that did not begin after all.
    ///
    /// # Errors
    /// The record cannot be read or written; it then says more than happened, never less.
    pub fn withdraw(&self, act: &str) -> io::Result<()> {
        let _alone = self.alone();
        let mut book = self.read()?;
        book.installations.retain(|installation| installation.act != act);
        self.write(&book)
    }

    /// Remembers how an installation ended.
    ///
    /// # Errors
    /// The record cannot be read or written.
    pub fn end(&self, act: &str, result: &ServicingResult) -> io::Result<()> {
        let _alone = self.alone();
        let mut book = self.read()?;
        for installation in &mut book.installations {
            if installation.act == act {
                installation.result = Some(result.clone());
                // Only the difference was of interest.
                installation.packages_before = None;
            }
        }
        self.write(&book)
    }

    /// Whether something was installed in this boot and not committed yet; remembers that it is now.
    ///
    /// # Errors
    /// The record cannot be read or written, and nothing may be committed.
    pub fn take_commit(&self, boot: &str) -> io::Result<bool> {
        let _alone = self.alone();
        let mut book = self.read()?;
        let is_installed = |installation: &Installation| {
            let result = installation.result.as_ref();
            installation.boot == boot && result.is_some_and(ServicingResult::is_success)
        };
        let is_due = book.committed_in.as_deref() != Some(boot)
            && book.installations.iter().any(is_installed);
        if is_due {
            book.committed_in = Some(boot.to_owned());
            self.write(&book)?;
        }
        Ok(is_due)
    }

    /// Remembers that these updates are about to be hidden by us, or that they were installed. Whatever somebody
    /// else hid before is theirs and must not be among them.
    ///
    /// # Errors
    /// The record cannot be read or written.
    pub fn note_hidden(&self, ids: &BTreeSet<String>, is_hidden: bool) -> io::Result<()> {
        let _alone = self.alone();
        let mut book = self.read()?;
        let before = (book.hidden.clone(), book.shown.clone());
        book.hidden.retain(|id| !ids.contains(id));
        if !is_hidden {
            book.shown.retain(|id| !ids.contains(id));
        }
        if is_hidden {
            book.hidden.extend(ids.iter().cloned());
            let surplus = book.hidden.len().saturating_sub(HIDDEN);
            book.hidden.drain(..surplus);
        }
        if (&book.hidden, &book.shown) == (&before.0, &before.1) {
            return Ok(());
        }
        self.write(&book)
    }

    /// Remembers that a step shows these updates, which we hid, or that they are hidden again.
    ///
    /// # Errors
    /// The record cannot be read or written; what is shown would stay so if the agent died.
    pub fn note_shown(&self, ids: &BTreeSet<String>, is_shown: bool) -> io::Result<()> {
        let _alone = self.alone();
        let mut book = self.read()?;
        let before = book.shown.clone();
        book.shown.retain(|id| !ids.contains(id));
        if is_shown {
            book.shown.extend(ids.iter().cloned());
        }
        if book.shown == before { Ok(()) } else { self.write(&book) }
    }

    /// UpdateIDs that a step showed whose end the agent did not see.
    pub fn shown(&self) -> BTreeSet<String> {
        self.read().map(|book| book.shown).unwrap_or_default()
    }

    /// UpdateIDs that we hid; none where the record cannot be read, so that they stay hidden.
    pub fn hidden(&self) -> BTreeSet<String> {
        match self.read() {
            Ok(book) => book.hidden.into_iter().collect(),
            Err(error) => {
                tracing::error!(%error, "the record does not say which updates the agent hid");
                BTreeSet::new()
            }
        }
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> io::Result<Book> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Book::default()),
            Err(error) => return Err(error),
        };
        let book: Book = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
        if book.schema > SCHEMA {
            return Err(io::Error::other("a newer agent wrote it"));
        }
        Ok(book)
    }

    fn write(&self, book: &Book) -> io::Result<()> {
        let kept = Book { schema: SCHEMA, ..book.clone() };
        write(&self.path, &serde_json::to_vec(&kept).expect("a record has only string keys"))
    }
}

/// Puts a file in the place of another, through to the disk.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    replace(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wardring_seal::Action;

    fn installation(act: &str) -> Installation {
        Installation {
            act: act.to_owned(),
            boot: "b1".to_owned(),
            began: "2026-11-21T02:00:00Z".parse().unwrap(),
            packages_before: Some(BTreeSet::from(["a".to_owned()])),
            result: None,
        }
    }

    fn success() -> ServicingResult {
        ServicingResult { code: 2, hresult: 0, reboot_required: true, packages: Vec::new() }
    }

    #[test]
    fn an_installation_begins_once_whatever_becomes_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::new(folder.path());
        record.begin(installation("one")).unwrap();
        record.begin(installation("one")).unwrap_err();
        record.end("one", &success()).unwrap();
        record.begin(installation("one")).unwrap_err();
        assert_eq!(record.find("one").unwrap().unwrap().result, Some(success()));
        assert_eq!(record.find("two").unwrap(), None);
    }

    #[test]
    fn one_that_did_not_begin_after_all_may_begin_later() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::new(folder.path());
        record.begin(installation("one")).unwrap();
        record.withdraw("one").unwrap();
        record.begin(installation("one")).unwrap();
    }

    #[test]
    fn a_damaged_record_bars_every_installation() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::new(folder.path());
        record.begin(installation("one")).unwrap();
        fs::write(&record.path, b"{\"schema\":1,").unwrap();
        record.find("two").unwrap_err();
        record.begin(installation("two")).unwrap_err();
        fs::write(&record.path, b"{\"schema\":2,\"installations\":[]}").unwrap();
        record.begin(installation("two")).unwrap_err();
    }

    #[test]
    fn the_record_stays_small() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::new(folder.path());
        let installations = (0..REMEMBERED).map(|n| installation(&n.to_string())).collect();
        record.write(&Book { installations, ..Book::default() }).unwrap();
        record.begin(installation("newest")).unwrap();
        assert_eq!(record.read().unwrap().installations.len(), REMEMBERED);
        assert_eq!(record.find("0").unwrap(), None);
        assert!(record.find("newest").unwrap().is_some());
    }

    #[test]
    fn a_boot_is_committed_once_and_only_when_something_was_installed_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::new(folder.path());
        assert!(!record.take_commit("b1").unwrap());
        record.begin(installation("one")).unwrap();
        assert!(!record.take_commit("b1").unwrap(), "it has not ended");
        record.end("one", &success()).unwrap();
        assert!(record.take_commit("b1").unwrap());
        assert!(!record.take_commit("b1").unwrap(), "a second call may break the update");
        assert!(!record.take_commit("b2").unwrap());
    }

    #[test]
    fn every_grant_has_its_own_name_in_the_history_of_windows() {
        let key = |attempt| JobKey {
            rollout_uid: "r".to_owned(),
            device_id: "d".to_owned(),
            attempt,
            action: Action::Install,
        };
        let id = client_id(&act(&key(1), "KB1", 0));
        assert_eq!(id.len(), "Wardring-".len() + 16);
        assert_eq!(id, client_id(&act(&key(1), "KB1", 0)));
        assert_ne!(id, client_id(&act(&key(2), "KB1", 0)));
        assert_ne!(id, client_id(&act(&key(1), "KB2", 0)));
        assert_ne!(id, client_id(&act(&key(1), "KB1", 1)));
    }
}
