//! The mark by which an administrator of the device pauses its agent: a file in the data folder, which
//! is open to SYSTEM and the administrators only. It outlives restarts of agent and device.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::files::{private_file, replace};
use crate::state::sentence;

const FILE: &str = "paused.json";
/// Longest reason, characters.
const MAX_REASON: usize = 120;

/// A pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// Why, in an administrator's words; may be empty.
    #[serde(default)]
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// When it ends by itself, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Why an agent cannot be paused or resumed.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// There is no agent.
    #[error(
        "{folder} is no data folder of an agent; install the agent first, or name its folder with --data-dir"
    )]
    NoAgent {
        /// Which folder.
        folder: PathBuf,
    },
    /// It would be over.
    #[error("{until} has passed; name a time to come, such as 2027-01-31T06:00:00Z")]
    Passed {
        /// The time.
        until: Timestamp,
    },
    /// The file system refused.
    #[error("failed to access {path}; are you an administrator?")]
    Access {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Pause {
    /// A pause that begins now. What is not printable, or too long, is left out of the reason.
    ///
    /// # Errors
    /// It would be over already.
    pub fn new(
        reason: &str,
        until: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Pause, PauseError> {
        if let Some(until) = until.filter(|until| *until <= now) {
            return Err(PauseError::Passed { until });
        }
        Ok(Pause { reason: reason.to_owned(), since: now, until }.tellable())
    }

    /// The same as everybody who hears of it takes it: gateways refuse facts with characters that nobody
    /// sees, and the cluster knows no time after the year 2199. A mark may be written by hand.
    fn tellable(self) -> Pause {
        let reason: String = sentence(self.reason.trim()).chars().take(MAX_REASON).collect();
        Pause {
            reason: reason.trim().to_owned(),
            since: self.since.clamp(Timestamp::UNIX_EPOCH, last_moment()),
            until: self.until.map(|until| until.min(last_moment())),
        }
    }

    /// What people read.
    pub fn sentence(&self) -> String {
        let until = self.until.map(|until| format!(", until {}", whole(until))).unwrap_or_default();
        let reason = match self.reason.as_str() {
            "" => String::new(),
            reason => format!(": {reason}"),
        };
        let since = whole(self.since);
        format!("an administrator paused the agent on the device at {since}{until}{reason}")
    }

    /// Sets the mark, over an earlier one.
    ///
    /// # Errors
    /// There is no agent, or the file system refuses; an earlier mark is still there.
    pub fn set(&self, folder: &Path) -> Result<(), PauseError> {
        is_agents(folder)?;
        let path = folder.join(FILE);
        let bytes = serde_json::to_vec_pretty(self).expect("a pause has only string keys");
        let new = path.with_extension("new");
        let written = private_file(&new).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()?;
            drop(file);
            replace(&new, &path)
        });
        written.map_err(|source| PauseError::Access { path, source })
    }
}

/// Takes the mark away. False when there was none.
///
/// # Errors
/// There is no agent, or the file system refuses; the mark is still there.
pub fn lift(folder: &Path) -> Result<bool, PauseError> {
    is_agents(folder)?;
    let path = folder.join(FILE);
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(PauseError::Access { path, source }),
    }
}

/// The pause in force. A mark that cannot be read is one all the same: somebody set it.
pub fn look(folder: &Path, now: Timestamp) -> Option<Pause> {
    let path = folder.join(FILE);
    let unreadable = |why: String| {
        let modified = fs::metadata(&path).and_then(|data| data.modified()).ok();
        let since = modified.and_then(|time| Timestamp::try_from(time).ok()).unwrap_or_default();
        let reason = format!("its mark cannot be read ({why})");
        Pause { reason, since, until: None }
    };
    let pause: Pause = match fs::read(&path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).unwrap_or_else(|error| unreadable(error.to_string()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => unreadable(error.to_string()),
    };
    let pause = pause.tellable();
    (pause.until.is_none_or(|until| now < until)).then_some(pause)
}

fn is_agents(folder: &Path) -> Result<(), PauseError> {
    // An agent writes there before it does anything else.
    match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Ok(()),
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(PauseError::Access { path: folder.to_owned(), source })
        }
        _ => Err(PauseError::NoAgent { folder: folder.to_owned() }),
    }
}

/// The last second of the year 2199.
fn last_moment() -> Timestamp {
    Timestamp::constant(7_258_118_399, 0)
}

fn whole(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_mark_holds_until_it_is_lifted_or_its_time_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let now = at("2026-11-21T02:00:00Z");
        let refused = Pause::new("", None, now).unwrap().set(folder.path()).unwrap_err();
        assert!(refused.to_string().contains("install the agent first"), "{refused}");
        fs::write(folder.path().join("journal.json"), "{}").unwrap();
        assert!(!lift(folder.path()).unwrap());
        assert_eq!(look(folder.path(), now), None);

        let until = at("2026-11-21T04:00:00Z");
        let pause = Pause::new(" surgery\nin 2\u{7}", Some(until), now).unwrap();
        pause.set(folder.path()).unwrap();
        let sentence = look(folder.path(), at("2026-11-21T03:59:59Z")).unwrap().sentence();
        assert!(
            sentence.ends_with("at 2026-11-21T02:00:00Z, until 2026-11-21T04:00:00Z: surgery in 2"),
            "{sentence}"
        );
        assert_eq!(look(folder.path(), until), None, "its time is over");

        Pause::new("", None, now).unwrap().set(folder.path()).unwrap();
        assert!(look(folder.path(), at("2036-11-21T04:00:00Z")).is_some(), "it has no end");
        assert!(lift(folder.path()).unwrap());
        assert_eq!(look(folder.path(), now), None);
        assert!(Pause::new("", Some(now), now).unwrap_err().to_string().contains("has passed"));
    }

    #[test]
    fn a_mark_that_cannot_be_read_pauses_all_the_same_and_says_so_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "{").unwrap();
        let found = look(folder.path(), at("2026-11-21T02:00:00Z")).unwrap();
        assert!(found.sentence().contains("cannot be read"), "{}", found.sentence());
        let again = look(folder.path(), at("2026-11-21T03:00:00Z")).unwrap();
        assert_eq!(found, again, "it is not reported anew at every look");
    }

    #[test]
    fn whatever_a_mark_says_can_be_told() {
        let folder = tempfile::tempdir().unwrap();
        let now = at("2026-11-21T02:00:00Z");
        let unseen = "\u{FEFF}disk\u{202E} swap\u{200B}\n".repeat(60);
        let by_hand = serde_json::json!({"reason": unseen, "since": "0001-01-01T00:00:00Z",
            "until": "9000-01-01T00:00:00Z"});
        fs::write(folder.path().join(FILE), by_hand.to_string()).unwrap();
        let asked = Pause::new(&unseen, Some(at("9000-01-01T00:00:00Z")), now).unwrap();
        for pause in [look(folder.path(), now).unwrap(), asked] {
            let facts = wardring_protocol::PauseFact {
                reason: pause.reason.clone(),
                since: pause.since,
                until: pause.until,
            };
            let facts = wardring_protocol::Facts { pause: Some(facts), ..Default::default() };
            let report = wardring_protocol::Report {
                seq: 1,
                body: wardring_protocol::ReportBody::Facts(Box::new(facts)),
            };
            let batch = wardring_protocol::ReportBatch {
                version: wardring_protocol::PROTOCOL_VERSION,
                agent_run: "run".to_owned(),
                boot_id: "boot".to_owned(),
                now,
                uptime_ms: 1,
                reports: vec![report],
            };
            wardring_protocol::check_batch(&batch).unwrap();
            assert!(pause.reason.chars().count() <= MAX_REASON);
            assert!(pause.until.unwrap() <= at("2199-12-31T23:59:59Z"));
        }
    }
}
