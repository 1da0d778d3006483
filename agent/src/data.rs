//! What is in the data folder: which files are the agent's own.

use std::fs;
use std::io;
use std::path::Path;

/// Everything that the agent writes there. A name with `*` stands for all that begin like it.
const OWN: [&str; 24] = [
    "identity.json",
    "identity.new",
    "installations",
    "installations.new",
    "journal",
    "journal.kept",
    "journal.new",
    "journal.prev",
    "lock",
    "log",
    "owner-*",
    "packages",
    "paused.json",
    "paused.new",
    "settings.json",
    "settings.new",
    "token",
    "token.new",
    "update.json",
    "update.lock",
    "update.new",
    "updates",
    "updates.new",
    "world*",
];

fn is_own(name: &str) -> bool {
    OWN.iter().any(|own| match own.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == *own,
    })
}

/// Removes the agent's files, and the folder when nothing else is in it. Whatever else somebody put
/// there stays: a data folder may have been named wrongly.
///
/// # Errors
/// A file cannot be removed; others may be gone.
pub fn purge(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut is_empty = true;
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(is_own) {
            is_empty = false;
        } else if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    if is_empty { fs::remove_dir(folder) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_the_agents_own_files_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("data");
        fs::create_dir_all(folder.join("log")).unwrap();
        fs::write(folder.join("log/agent.jsonl"), "{}").unwrap();
        fs::create_dir_all(folder.join("packages")).unwrap();
        fs::write(folder.join("packages/aa"), "a package").unwrap();
        for name in
            ["journal", "identity.json", "owner-7", "paused.json", "thesis.docx", "journals"]
        {
            fs::write(folder.join(name), name).unwrap();
        }
        purge(&folder).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["journals", "thesis.docx"]);

        for name in left {
            fs::remove_file(folder.join(name)).unwrap();
        }
        purge(&folder).unwrap();
        assert!(!folder.exists());
        purge(&folder).unwrap();
    }
}
