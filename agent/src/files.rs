//! Files that only their owner may read, and putting one in another's place in one step.

use std::fs::{self, File, OpenOptions};
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

/// A new file that only its owner may read, from its first moment on; on Windows the folder sees to
/// that.
///
/// # Errors
/// The file system refuses.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
