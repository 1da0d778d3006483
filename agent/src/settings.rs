//! What an installed agent was told: a file in the data folder. The enrolment token lies beside it
//! until it has been used, and never in it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wardring_seal::{Token, TokenError};

use crate::client::{AddressError, Addresses};
use crate::files::{private_file, replace};

const FILE: &str = "settings.json";
const TOKEN: &str = "token";
/// The files that an installation writes.
pub const FILES: [&str; 2] = [FILE, TOKEN];
/// Longest name of a device: it is a label value and the name of objects.
const MAX_NAME: usize = 63;

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Addresses of the gateways.
    pub gateways: Vec<String>,
    /// Proxy for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Name of the device.
    pub name: String,
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// An address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The token.
    #[error("the token cannot be used")]
    Token(#[from] TokenError),
    /// The name.
    #[error(
        "`{name}` cannot be the name of a device: lower-case letters, digits and `-`, at most 63 \
         characters, beginning and ending with a letter or digit; give one with --name"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The file system refused.
    #[error("failed to access {path}")]
    Access {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There are none.
    #[error("{path} is not there; install the agent again with `wardring-agent install`")]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// The content is no settings.
    #[error("{path} is damaged ({why}); write it anew with `wardring-agent install`")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl Settings {
    /// Refuses what would only fail later.
    ///
    /// # Errors
    /// An address or the name cannot be used.
    pub fn check(&self) -> Result<(), SettingsError> {
        Addresses::parse(&self.gateways, self.proxy.as_deref())?;
        if is_name(&self.name) {
            return Ok(());
        }
        Err(SettingsError::Name { name: self.name.clone() })
    }

    /// Reads the settings of a data folder.
    ///
    /// # Errors
    /// They are not there or cannot be used.
    pub fn load(folder: &Path) -> Result<Settings, SettingsError> {
        let path = folder.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SettingsError::Missing { path });
            }
            Err(source) => return Err(SettingsError::Access { path, source }),
        };
        serde_json::from_slice(&bytes)
            .map_err(|error| SettingsError::Damaged { path, why: error.to_string() })
    }

    /// Writes the settings to a data folder.
    ///
    /// # Errors
    /// The old ones are still in place.
    pub fn keep(&self, folder: &Path) -> Result<(), SettingsError> {
        let text = serde_json::to_vec_pretty(self).expect("settings have only string keys");
        write(&folder.join(FILE), &text)
    }
}

/// Keeps a token until the device is enrolled.
///
/// # Errors
/// It is none, or cannot be written.
pub fn keep_token(folder: &Path, token: &str) -> Result<(), SettingsError> {
    let token = Token::parse(token)?;
    write(&folder.join(TOKEN), token.reveal().as_bytes())
}

/// The token that waits in a data folder.
///
/// # Errors
/// It is there and cannot be read.
pub fn waiting_token(folder: &Path) -> Result<Option<String>, SettingsError> {
    let path = folder.join(TOKEN);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SettingsError::Access { path, source }),
    }
}

/// Removes the token of a device that is enrolled.
///
/// # Errors
/// It is still there.
pub fn forget_token(folder: &Path) -> Result<(), SettingsError> {
    let path = folder.join(TOKEN);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(SettingsError::Access { path, source })
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), SettingsError> {
    let new = path.with_extension("new");
    let written = private_file(&new).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        drop(file);
        replace(&new, path)
    });
    written.map_err(|source| SettingsError::Access { path: path.to_owned(), source })
}

fn is_name(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(is_inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// The name of a computer as the name of a device: lower case, with `-` for what a name must not
/// hold; none when nothing of it is left.
pub fn device_name(computer: &str) -> Option<String> {
    let fitted: String = computer
        .to_lowercase()
        .chars()
        .map(|char| if char.is_ascii_lowercase() || char.is_ascii_digit() { char } else { '-' })
        .take(MAX_NAME)
        .collect();
    let name = fitted.trim_matches('-');
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use wardring_seal::Fingerprint;

    use super::*;

    fn settings() -> Settings {
        Settings {
            gateways: vec!["https://patching.example.com:8443".to_owned()],
            proxy: None,
            name: "ws-1".to_owned(),
        }
    }

    #[test]
    fn a_computers_name_is_made_to_fit() {
        for (computer, name) in [
            ("WS-1", Some("ws-1")),
            ("SQL_PROD.01", Some("sql-prod-01")),
            ("-Büro-", Some("b-ro")),
            ("__", None),
            ("", None),
        ] {
            assert_eq!(device_name(computer).as_deref(), name, "{computer}");
        }
        let long = device_name(&"x".repeat(80)).unwrap();
        assert!(long.len() == MAX_NAME && is_name(&long));
        let cut = device_name(&format!("{}-{}", "x".repeat(62), "y".repeat(9))).unwrap();
        assert!(is_name(&cut), "a name that was cut at a `-` is one: {cut}");
    }

    #[test]
    fn what_would_only_fail_later_is_refused() {
        settings().check().unwrap();
        for (bad, why) in [
            (Settings { gateways: vec!["http://x".to_owned()], ..settings() }, "https://HOST:PORT"),
            (Settings { gateways: Vec::new(), ..settings() }, "at least one gateway"),
            (Settings { proxy: Some("proxy".to_owned()), ..settings() }, "address of a proxy"),
            (Settings { name: "WS-1".to_owned(), ..settings() }, "lower-case letters"),
            (Settings { name: "a-".to_owned(), ..settings() }, "lower-case letters"),
        ] {
            let refused = bad.check().unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn settings_are_kept_and_the_token_is_not_among_them() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Settings::load(folder.path()).unwrap_err().to_string();
        assert!(missing.contains("wardring-agent install"), "{missing}");
        let root = Fingerprint::of(b"root");
        let token = Token::generate("patching", "servers", root).unwrap().reveal();
        settings().keep(folder.path()).unwrap();
        keep_token(folder.path(), &token).unwrap();

        assert_eq!(Settings::load(folder.path()).unwrap(), settings());
        assert_eq!(waiting_token(folder.path()).unwrap(), Some(token.clone()));
        let text = fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert!(!text.contains(&token));

        forget_token(folder.path()).unwrap();
        forget_token(folder.path()).unwrap();
        assert_eq!(waiting_token(folder.path()).unwrap(), None);
        assert!(keep_token(folder.path(), "half.a-token").is_err());
    }

    #[test]
    fn settings_with_a_word_that_nobody_knows_are_damaged() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), r#"{"gateway": "https://x", "name": "a"}"#).unwrap();
        let damaged = Settings::load(folder.path()).unwrap_err().to_string();
        assert!(damaged.contains("is damaged"), "{damaged}");
    }
}
