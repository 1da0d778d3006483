//! A bundle for whoever is asked for help: what the agent knows and did, in one archive, without any
//! secret. It is made from the data folder, whether the agent runs or not, and changes nothing.

mod archive;
mod scrub;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use self::archive::Archive;
pub use self::scrub::scrub;
use crate::files::private_file;
use crate::identity::IdentityFile;
use crate::journal::{Durability, Journal, Loaded};
use crate::platform::wall_clock;
use crate::{log, settings, status};

/// Most that is taken from one file; its end, where the newest is.
const MAX_FILE: u64 = 8 << 20;
/// The agent's own records beside the journal, as they are.
const RECORDS: [&str; 4] = ["settings.json", "installations", "updates", "update.json"];

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The archive.
    #[error("failed to write {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The data folder.
    #[error("failed to look into {folder}; are you an administrator?")]
    Look {
        /// Which.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Writes the bundle of a data folder to a new file. `device` is what the platform says of itself.
///
/// # Errors
/// The folder cannot be looked into, or the file cannot be written or is there already.
pub fn write(folder: &Path, device: &Value, path: &Path) -> Result<(), BundleError> {
    let listing = listing(folder)
        .map_err(|source| BundleError::Look { folder: folder.to_owned(), source })?;
    let failed = |source| BundleError::Write { path: path.to_owned(), source };
    if path.exists() {
        return Err(failed(io::Error::from(io::ErrorKind::AlreadyExists)));
    }
    let written = private_file(path).and_then(|file| {
        let mut archive = Clean { archive: Archive::new(file), secrets: secrets(folder) };
        archive.add("about.json", &pretty(&about(folder)))?;
        archive.add("files.txt", &listing)?;
        archive.add("status.json", &pretty(&status_of(folder)))?;
        archive.add("device.json", &pretty(device))?;
        archive.add("journal.json", &pretty(&journal(folder)))?;
        for name in RECORDS {
            archive.add_file(name, &folder.join(name))?;
        }
        for file in log::files(folder) {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            archive.add_file(&format!("{}/{name}", log::FOLDER), &file)?;
        }
        archive.archive.finish()?.sync_all()
    });
    written.map_err(|source| {
        // Half an archive helps nobody.
        let _ = fs::remove_file(path);
        failed(source)
    })
}

/// An archive that takes no secret.
struct Clean {
    archive: Archive<File>,
    secrets: Vec<String>,
}

impl Clean {
    fn add(&mut self, name: &str, text: &str) -> io::Result<()> {
        self.archive.add(name, scrub(text, &self.secrets).as_bytes())
    }

    /// Adds the end of a file; one that is not there is left out, one that cannot be read says so.
    fn add_file(&mut self, name: &str, path: &Path) -> io::Result<()> {
        match end_of(path) {
            Ok(text) => self.add(name, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => self.add(name, &format!("not readable: {error}\n")),
        }
    }
}

fn end_of(path: &Path) -> io::Result<String> {
    use std::io::{Seek, SeekFrom};
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_FILE)))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Secrets of this very device, so that they are found wherever they might have got to.
fn secrets(folder: &Path) -> Vec<String> {
    let mut secrets = IdentityFile::new(folder).secrets();
    secrets.extend(settings::waiting_token(folder).ok().flatten());
    secrets
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("a document has only string keys") + "\n"
}

fn about(folder: &Path) -> Value {
    json!({
        "agent": env!("CARGO_PKG_VERSION"),
        "built for": format!("{} {}", std::env::consts::ARCH, std::env::consts::OS),
        "written": wall_clock(),
        "data": folder,
    })
}

fn status_of(folder: &Path) -> Value {
    match status::read(folder) {
        Ok(status) => json!({ "status": status.document, "trouble": status.trouble }),
        Err(error) => json!({ "trouble": error.to_string() }),
    }
}

fn journal(folder: &Path) -> Value {
    match Journal::new(folder, Durability::Disk).load() {
        Loaded::Fresh => Value::Null,
        Loaded::Lost(why) => json!({ "lost": why }),
        Loaded::Newer(layout) => json!({ "layout": layout }),
        Loaded::Found(saved) => json!({
            "state": saved.state,
            "reportsWaiting": !saved.outbox.is_empty(),
        }),
    }
}

/// Names, sizes and times of what is there: enough to see that something is missing or grew.
fn listing(folder: &Path) -> io::Result<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        lines.push(match entry.metadata() {
            Ok(metadata) => {
                let changed = metadata.modified().ok().map(jiff::Timestamp::try_from);
                let changed = changed.and_then(Result::ok).map(|time| time.to_string());
                let changed = changed.unwrap_or_else(|| "-".to_owned());
                format!("{:>10}  {changed}  {name}\n", metadata.len())
            }
            Err(error) => format!("         ?  {error}  {name}\n"),
        });
    }
    lines.sort();
    Ok(lines.concat())
}

#[cfg(test)]
mod tests {
    use wardring_seal::{DeviceKey, Fingerprint, Token};

    use super::*;
    use crate::identity::Applicant;
    use crate::journal::Saved;
    use crate::settings::{Settings, keep_token};

    /// Everything in the archive, by name.
    fn content(path: &Path) -> Vec<(String, String)> {
        let mut archive = zip::ZipArchive::new(File::open(path).unwrap()).unwrap();
        let count = archive.len();
        let mut read = |index| {
            let mut file = archive.by_index(index).unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            (file.name().unwrap().into_owned(), text)
        };
        (0..count).map(&mut read).collect()
    }

    #[test]
    fn a_bundle_holds_what_helps_and_no_secret_wherever_it_got_to() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path();
        let key = DeviceKey::generate().unwrap();
        let pem = key.to_pem();
        let applicant = Applicant { namespace: "a".to_owned(), device: "ws-1".to_owned(), key };
        IdentityFile::new(folder).keep_applicant(&applicant).unwrap();
        let token = Token::generate("a", "servers", Fingerprint::of(b"root")).unwrap().reveal();
        keep_token(folder, &token).unwrap();
        let settings = Settings {
            gateways: vec!["https://gateway:8443".to_owned()],
            proxy: Some("http://me:swordfish@proxy:3128".to_owned()),
            name: "ws-1".to_owned(),
        };
        settings.keep(folder).unwrap();
        Journal::new(folder, Durability::Disk).save(&Saved::default()).unwrap();
        fs::create_dir(folder.join(log::FOLDER)).unwrap();
        // What nobody should ever log, in a line of the log, in pieces.
        let piece = pem.lines().nth(1).unwrap();
        let line =
            format!("{{\"a\":\"{token}\",\"b\":\"{}\"}}\n{piece}\n", pem.replace('\n', "\\n"));
        fs::write(folder.join(log::FOLDER).join("agent.jsonl"), line).unwrap();

        let path = folder.join("bundle.zip");
        write(folder, &json!({ "product": "Windows Server 2022" }), &path).unwrap();

        let content = content(&path);
        let names: Vec<&str> = content.iter().map(|(name, _)| name.as_str()).collect();
        let expected = [
            "about.json",
            "files.txt",
            "status.json",
            "device.json",
            "journal.json",
            "settings.json",
            "log/agent.jsonl",
        ];
        assert_eq!(names, expected);
        let seed = token.split('.').nth(1).unwrap();
        for (name, text) in &content {
            for secret in [&token, seed, "swordfish", "PRIVATE", piece] {
                assert!(!text.contains(secret), "{name} holds a secret: {text}");
            }
        }
        let text = |name| &content.iter().find(|(found, _)| found == name).unwrap().1;
        assert!(text("settings.json").contains("https://gateway:8443"));
        assert!(text("status.json").contains("\"asking\": \"ws-1\""));
        assert!(text("journal.json").contains("highestSequence"));
        assert!(text("files.txt").contains("identity.json"));

        let again = write(folder, &Value::Null, &path).unwrap_err().to_string();
        assert!(again.contains("bundle.zip") && path.exists(), "{again}");
    }
}
