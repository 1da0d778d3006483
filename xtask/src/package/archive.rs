//! The zip. Nothing of the machine that makes it gets in: the same files make the same archive.

use std::{fs::File, io::Write, path::Path};

use anyhow::{Context, Result};
use zip::{CompressionMethod, DateTime, ZipWriter, write::SimpleFileOptions};

/// Writes files to an archive.
pub fn write(path: &Path, files: &[(&str, Vec<u8>)]) -> Result<()> {
    let file = File::create(path).with_context(|| format!("failed to make {}", path.display()))?;
    let mut archive = ZipWriter::new(file);
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(DateTime::default())
        .unix_permissions(0o644);
    for (name, content) in files {
        archive.start_file(*name, options)?;
        archive.write_all(content).with_context(|| format!("failed to pack {name}"))?;
    }
    archive.finish()?.sync_all().context("failed to write the archive")
}
