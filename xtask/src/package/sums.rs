//! Sums of files, in the form that `sha256sum --check` reads.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Name of the file.
pub const FILE: &str = "SHA256SUMS";

/// Writes the sums of files in a folder.
pub fn write(folder: &Path, names: &[String]) -> Result<()> {
    let mut text = String::new();
    for name in names {
        let content = fs::read(folder.join(name))
            .with_context(|| format!("failed to read {name} for its sum"))?;
        text += &format!("{}  {name}\n", hex::encode(Sha256::digest(&content)));
    }
    fs::write(folder.join(FILE), text).context("failed to write the sums")
}
