//! A prefix that every test begins with a copy of: Wine takes long to set one up, and all are alike.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::prefix::{MISSING, command};

/// Fills an empty folder with a fresh prefix whose Windows is switched off.
///
/// # Errors
/// Wine does not work, or the disk is full.
pub(crate) fn copy(to: &Path) -> anyhow::Result<()> {
    let template = template()?;
    let mut copy = Command::new("cp");
    copy.args(["--archive", "--reflink=auto", "--no-target-directory"]).arg(&template).arg(to);
    let copied = copy.status().context("failed to start cp")?;
    ensure!(copied.success(), "the prefix in {} cannot be copied", template.display());
    Ok(())
}

/// The prefix for this Wine, which is made where there is none: beside the programs that cargo
/// builds, so that it goes with them.
fn template() -> anyhow::Result<PathBuf> {
    let version = Command::new("wine").arg("--version").output().context(MISSING)?;
    let version = String::from_utf8_lossy(&version.stdout);
    let word = |char: char| if char.is_ascii_alphanumeric() { char } else { '-' };
    let name: String = version.trim().chars().map(word).collect();
    let program = std::env::current_exe().context("failed to find the running program")?;
    let is_cargos = |folder: &&Path| folder.join("CACHEDIR.TAG").is_file();
    let built = program.ancestors().find(is_cargos).or(program.parent());
    let built = built.context("the running program lies in no folder")?;
    let folder = built.join("tmp").join("prefixes");
    fs::create_dir_all(&folder).with_context(|| format!("failed to make {folder:?}"))?;
    // One at a time, whichever tests run at once; the lock goes with the file.
    let lock = File::create(folder.join("lock")).context("failed to make a lock")?;
    lock.lock().context("failed to wait for the lock")?;
    let template = folder.join(&name);
    if !template.exists() {
        let new = folder.join(format!("{name}.new"));
        if new.exists() {
            fs::remove_dir_all(&new).with_context(|| format!("failed to clear {new:?}"))?;
        }
        fs::create_dir(&new).with_context(|| format!("failed to make {new:?}"))?;
        let made = command(&new, "wine").args(["wineboot", "--init"]).status().context(MISSING)?;
        ensure!(made.success(), "Wine does not set up a prefix: {made}");
        // Its setup comes to its end before anything is copied.
        let ended = command(&new, "wineserver").arg("-w").status().context(MISSING)?;
        ensure!(ended.success(), "Wine's server ended with {ended}");
        fs::rename(&new, &template).context("failed to put the prefix to its place")?;
    }
    Ok(template)
}
