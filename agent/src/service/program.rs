//! Where the installed program and its data are, and putting the program there.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};
use std::time::{Duration, Instant};

use ring::digest::{SHA256, digest};
use windows::Win32::Storage::FileSystem::FILE_SHARE_READ;
use windows_registry::LOCAL_MACHINE;

use super::command::Command;
use super::{NAME, Undo};
use crate::ffi::{self, ProcessGroup};
use crate::files::{private_file, replace};

const FOLDER: &str = "Wardring";
const PROGRAM: &str = "wardring-agent.exe";
const NEXT: &str = "wardring-agent-next.exe";
const CREATE_NO_WINDOW: u32 = 0x0800_0000;

/// The data folder of the installed agent, or where it would be.
///
/// # Errors
/// Windows does not tell where data belongs.
pub fn used_folder() -> io::Result<PathBuf> {
    let service = registry_line().map(|line| Command::parse(&line));
    match service.and_then(|service| service.folder) {
        Some(folder) => Ok(folder),
        None => default_folder(),
    }
}

/// The line that starts the service. From the registry, where everybody may read it.
fn registry_line() -> Option<String> {
    let key = format!(r"SYSTEM\CurrentControlSet\Services\{NAME}");
    LOCAL_MACHINE.open(key).and_then(|key| key.get_string("ImagePath")).ok()
}

/// The data folder of an agent that was not told another one.
pub(super) fn default_folder() -> io::Result<PathBuf> {
    Ok(ffi::common_folders()?.1.join(FOLDER))
}

/// Where the installed program is.
pub(super) fn installed() -> io::Result<PathBuf> {
    Ok(ffi::common_folders()?.0.join(FOLDER).join(PROGRAM))
}

/// Where a new program lies until it has shown that it works.
pub(super) fn beside(installed: &Path) -> PathBuf {
    installed.with_file_name(NEXT)
}

/// The sum of a file, as `sha256sum` writes it.
pub(super) fn sum(path: &Path) -> io::Result<String> {
    let digest = digest(&SHA256, &fs::read(path)?);
    Ok(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Keeps a file as it is for as long as the handle lives: others may read and start it, and neither write
/// nor replace it.
pub(super) fn hold(path: &Path) -> io::Result<File> {
    File::options().read(true).share_mode(FILE_SHARE_READ.0).open(path)
}

/// The version of a program, by its own word; that it says one shows that it runs on this Windows.
pub(super) fn own_version(program: &Path) -> Result<String, String> {
    const LIMIT: Duration = Duration::from_secs(30);
    let group = ProcessGroup::new().map_err(|error| error.to_string())?;
    let mut command = process::Command::new(program);
    command.arg("version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child =
        command.creation_flags(CREATE_NO_WINDOW).spawn().map_err(|error| error.to_string())?;
    group.add(&child).map_err(|error| error.to_string())?;
    let began = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if began.elapsed() < LIMIT => std::thread::sleep(Duration::from_millis(50)),
            Ok(None) => return Err(format!("it said no version within {} s", LIMIT.as_secs())),
            Err(error) => return Err(error.to_string()),
        }
    };
    if !status.success() {
        return Err(format!("asked for its version, it ended with {status}"));
    }
    let mut said = String::new();
    let out = child.stdout.take().ok_or("it has no output")?;
    // A version is a short line.
    out.take(64).read_to_string(&mut said).map_err(|error| error.to_string())?;
    Ok(said.trim().to_owned())
}

/// Puts a copy of one file into the place of another, in one step.
pub(super) fn put(from: &Path, to: &Path) -> io::Result<()> {
    let new = to.with_extension("new");
    copy(from, &new).and_then(|()| replace(&new, to))
}

/// Puts the running program in the place of the installed one, in one step.
pub(super) fn place(installed: &Path, undo: &mut Undo) -> io::Result<()> {
    let running = std::env::current_exe()?;
    if is_same(&running, installed) {
        return Ok(());
    }
    let folder = installed.parent().unwrap_or(installed).to_owned();
    if !folder.exists() {
        fs::create_dir_all(&folder)?;
        let made = folder.clone();
        undo.push(format!("{} is still there", folder.display()), move || {
            fs::remove_dir(made).map_err(|error| error.to_string())
        });
    }
    let (new, previous) = (installed.with_extension("new"), installed.with_extension("previous"));
    let target = installed.to_owned();
    let is_first = !installed.exists();
    if !is_first {
        fs::copy(installed, &previous)?;
    }
    let placed = copy(&running, &new).and_then(|()| replace(&new, installed));
    if let Err(error) = placed {
        // Neither was there before.
        let _ = fs::remove_file(&new);
        let _ = fs::remove_file(&previous);
        return Err(error);
    }
    undo.push(format!("{} is the new program", installed.display()), move || {
        let back = if is_first { fs::remove_file(target) } else { replace(&previous, &target) };
        back.map_err(|error| error.to_string())
    });
    Ok(())
}

/// Copies the content and nothing else: neither that the file is read-only nor where it came from.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let content = fs::read(from)?;
    let mut file = private_file(to)?;
    file.write_all(&content)?;
    file.sync_all()
}

/// Removes what [`place`] kept for the way back.
pub(super) fn forget_previous(installed: &Path) {
    // One that stays is replaced by the next installation.
    let _ = fs::remove_file(installed.with_extension("previous"));
}

/// Removes the installed program. The running one cannot be deleted, but moved: it goes with the next
/// restart then. True when all of it is gone now.
pub(super) fn remove(installed: &Path) -> io::Result<bool> {
    forget_previous(installed);
    let next = remove_one(&beside(installed))?;
    let is_gone = remove_one(installed)? && next;
    if let Some(folder) = installed.parent() {
        match fs::remove_dir(folder) {
            // What else is in there is somebody else's, such as the licence that an MSI put there.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            removed => found(removed)?,
        }
    }
    Ok(is_gone)
}

fn remove_one(program: &Path) -> io::Result<bool> {
    let is_running = std::env::current_exe().is_ok_and(|running| is_same(&running, program));
    if is_running {
        // Windows' own folder for temporary files: on the same disk, and no program is started from
        // there by name.
        let windows = ffi::system_folder().map_err(io::Error::from)?;
        let place = windows.parent().unwrap_or(&windows).join("Temp");
        let gone = place.join(format!("wardring-agent-removed-{}.exe", std::process::id()));
        replace(program, &gone)?;
        ffi::delete_at_restart(&gone)?;
    } else {
        found(fs::remove_file(program))?;
    }
    Ok(!is_running)
}

/// That something is not there is as good as having removed it.
fn found(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether two names are one file, links and upper case aside.
pub(super) fn is_same(one: &Path, other: &Path) -> bool {
    match (fs::canonicalize(one), fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}
