//! Files that only their owner may read, and putting one in another's place in one step.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
#[cfg(windows)]
use std::time::Duration;

/// Renames `from` to `to`, over what may be there.
///
/// # Errors
/// The file system refuses; both files are as before.
#[cfg(not(windows))]
pub(crate) fn replace(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
}

/// Tries to rename over a file that somebody has open, which Windows refuses: a scanner, a backup or our
/// own `status` reads it and lets go again.
#[cfg(windows)]
const TRIES: u32 = 20;
#[cfg(windows)]
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// Renames `from` to `to`, over what may be there, through to the disk: Windows has no way to flush
/// a folder afterwards. Waits a moment for others to let go of either.
///
/// # Errors
/// The file system refuses; both files are as before.
#[cfg(windows)]
pub(crate) fn replace(from: &Path, to: &Path) -> io::Result<()> {
    for _ in 1..TRIES {
        match crate::ffi::replace(from, to) {
            Err(error) if is_held(&error) => std::thread::sleep(BETWEEN_TRIES),
            done => return done,
        }
    }
    crate::ffi::replace(from, to)
}

/// Reads a file. Waits a moment for others to let go of it.
///
/// # Errors
/// The file system refuses.
#[cfg(not(windows))]
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path)
}

/// Reads a file. Waits a moment for others to let go of it.
///
/// # Errors
/// The file system refuses.
#[cfg(windows)]
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    for _ in 1..TRIES {
        match fs::read(path) {
            Err(error) if is_held(&error) => std::thread::sleep(BETWEEN_TRIES),
            done => return done,
        }
    }
    fs::read(path)
}

/// Whether a file may only be open somewhere.
#[cfg(windows)]
fn is_held(error: &io::Error) -> bool {
    use windows::Win32::Foundation::{ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION};
    let held = [ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION].map(|code| code.0.cast_signed());
    error.raw_os_error().is_some_and(|code| held.contains(&code))
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
