//! Where Windows keeps programs and the data of programs, and removing what is in use.

use std::io;
use std::path::{Path, PathBuf};

use windows::Win32::Storage::FileSystem::{MOVEFILE_DELAY_UNTIL_REBOOT, MoveFileExW};
use windows::Win32::System::Com::CoTaskMemFree;
use windows::Win32::UI::Shell::{
    FOLDERID_ProgramData, FOLDERID_ProgramFiles, KF_FLAG_DEFAULT, SHGetKnownFolderPath,
};
use windows::core::{GUID, PCWSTR};

use super::{wide, win32};

/// The folders of programs and of their data, in this order. From Windows itself: an environment
/// variable could name others.
///
/// # Errors
/// Windows does not tell.
pub fn common_folders() -> io::Result<(PathBuf, PathBuf)> {
    let known = |id| known_folder(id).map_err(|error| win32(&error));
    Ok((known(&FOLDERID_ProgramFiles)?, known(&FOLDERID_ProgramData)?))
}

fn known_folder(id: &GUID) -> windows::core::Result<PathBuf> {
    // SAFETY: the id lives through the call; the text that is returned is freed below.
    let text = unsafe { SHGetKnownFolderPath(id, KF_FLAG_DEFAULT, None)? };
    // SAFETY: Windows returned a string with a terminating zero.
    let path = unsafe { text.to_string() };
    // SAFETY: Windows allocated it for us this way, and nothing refers to it any more.
    unsafe { CoTaskMemFree(Some(text.0.cast())) };
    Ok(PathBuf::from(path?))
}

/// Lets Windows delete a file when it starts next: a running program cannot be deleted.
///
/// # Errors
/// Windows refuses.
pub fn delete_at_restart(path: &Path) -> io::Result<()> {
    // SAFETY: the name lives through the call; without a second one the file is deleted.
    unsafe { MoveFileExW(&wide(path), PCWSTR::null(), MOVEFILE_DELAY_UNTIL_REBOOT) }
        .map_err(|error| win32(&error))
}
