//! Putting a file in another's place, in one step.

use std::io;
use std::path::Path;

/// Renames `from` to `to`, over what may be there.
///
/// # Errors
/// The file system refuses; both files are as before.
#[cfg(not(windows))]
pub(crate) fn replace(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
}

/// Renames `from` to `to`, over what may be there, through to the disk: Windows has no way to flush
/// a folder afterwards.
///
/// # Errors
/// The file system refuses; both files are as before.
#[cfg(windows)]
pub(crate) fn replace(from: &Path, to: &Path) -> io::Result<()> {
    crate::ffi::replace(from, to)
}
