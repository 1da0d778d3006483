//! What is known of an update of the agent: a small file in the data folder.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::files::{private_file, replace};

const FILE: &str = "update.json";
/// Looks at a file that is there and cannot be read: it is being replaced, or a scanner has it.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Marker {
    /// The update under way.
    pub underway: Option<Underway>,
    /// How the last one ended.
    pub last: Option<Last>,
    /// The last program that was taken back, until another update succeeds.
    pub failed: Option<Failed>,
}

/// An update that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Underway {
    /// Version of the new program, by its own word.
    pub version: String,
    /// Its sum.
    pub sha256: String,
    /// Within which it must report, seconds.
    pub within_s: u64,
    /// How far it is.
    pub stage: Stage,
}

/// How far an update is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// The new program lies there, and nobody was told.
    Staged,
    /// The service tries it.
    Trying,
    /// It reported; the service is to start it.
    Proven,
    /// The service is the new program.
    Hosted,
    /// It is in the place of the old one, and the service starts it there.
    Placed,
}

/// How an update ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Last {
    /// Version of the new program.
    pub version: String,
    /// Its sum.
    pub sha256: String,
    /// How.
    pub end: End,
    /// Why, as a sentence without a full stop.
    pub why: String,
}

/// How an update ended, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum End {
    /// The new program runs.
    Done,
    /// It was tried and did not do; the old one runs.
    TakenBack,
    /// It was not tried to an end, for no fault of its own; the old one runs.
    Interrupted,
    /// The agent was at work; nothing was tried.
    Refused,
}

/// A program that was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failed {
    /// Its version.
    pub version: String,
    /// Its sum.
    pub sha256: String,
    /// Why.
    pub why: String,
    /// When.
    pub at: Timestamp,
}

impl Marker {
    /// Reads it. One that is not there, or that nobody can read, is one of no update: then the
    /// program that the service starts stays as it is. For one that nobody can read just now it waits a
    /// moment.
    pub fn load(folder: &Path) -> Marker {
        let file = folder.join(FILE);
        let mut read = fs::read(&file);
        for _ in 1..LOOKS {
            match &read {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    std::thread::sleep(BETWEEN_LOOKS);
                    read = fs::read(&file);
                }
                _ => break,
            }
        }
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Marker::default(),
            Err(error) => {
                tracing::warn!(%error, "what is known of the agent's update cannot be read");
                return Marker::default();
            }
        };
        serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, "what is known of the agent's update is damaged");
            Marker::default()
        })
    }

    /// Writes it, through to the disk.
    ///
    /// # Errors
    /// The old one is still in place.
    pub fn keep(&self, folder: &Path) -> io::Result<()> {
        let (file, new) = (folder.join(FILE), folder.join("update.new"));
        let text = serde_json::to_vec_pretty(self).expect("a marker has only string keys");
        let mut out = private_file(&new)?;
        out.write_all(&text)?;
        out.sync_all()?;
        drop(out);
        replace(&new, &file)
    }

    /// The same with the update under way at another stage.
    #[must_use]
    pub fn at(&self, stage: Stage) -> Marker {
        let underway = self.underway.clone().map(|underway| Underway { stage, ..underway });
        Marker { underway, ..self.clone() }
    }

    /// The same with the update under way ended.
    #[must_use]
    pub fn ended(&self, end: End, why: &str, now: Timestamp) -> Marker {
        let Some(Underway { version, sha256, .. }) = self.underway.clone() else {
            return self.clone();
        };
        let why = why.to_owned();
        let failed = match end {
            End::Done => None,
            End::TakenBack => Some(Failed {
                version: version.clone(),
                sha256: sha256.clone(),
                why: why.clone(),
                at: now,
            }),
            End::Interrupted | End::Refused => self.failed.clone(),
        };
        Marker { underway: None, last: Some(Last { version, sha256, end, why }), failed }
    }
}

/// Why the last update of this agent was taken back, if it was, as a sentence for the controller.
pub fn failure(folder: &Path) -> Option<String> {
    let failed = Marker::load(folder).failed?;
    let text = format!("{} was taken back at {:.0}: {}", failed.version, failed.at, failed.why);
    Some(text.chars().filter(|char| !char.is_control()).take(180).collect())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_marker_that_nobody_can_read_for_a_moment_is_read_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let failed = Failed {
            version: "0.2.0".to_owned(),
            sha256: "bb".to_owned(),
            why: "it ended at its start".to_owned(),
            at: Timestamp::UNIX_EPOCH,
        };
        let kept = Marker { failed: Some(failed), ..Marker::default() };
        // A link to itself is there and can be opened by nobody, until the file takes its place.
        std::os::unix::fs::symlink(FILE, folder.path().join(FILE)).unwrap();
        let (place, written) = (folder.path().to_owned(), kept.clone());
        let writer = std::thread::spawn(move || {
            std::thread::sleep(2 * BETWEEN_LOOKS);
            written.keep(&place).unwrap();
        });
        assert_eq!(Marker::load(folder.path()), kept);
        writer.join().unwrap();
    }
}
