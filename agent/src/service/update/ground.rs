//! The device as the ground of an update: two files beside each other, the line that starts the
//! service, and the marker.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::marker::{Marker, Underway};
use super::steps::{Ground, Which};
use crate::files::replace;
use crate::journal::{Durability, Journal, Loaded};
use crate::service::manager::Manager;
use crate::service::program;

const KEPT: &str = "journal.kept";
/// Looks at a journal that cannot be read, before it is taken for damaged.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// This device.
#[derive(Clone, Debug)]
pub struct Device {
    present: PathBuf,
    next: PathBuf,
    folder: PathBuf,
}

impl Device {
    /// The device whose agent keeps its data in `folder`.
    ///
    /// # Errors
    /// Windows does not tell where programs belong.
    pub fn find(folder: &Path) -> io::Result<Device> {
        let present = program::installed()?;
        let next = program::beside(&present);
        Ok(Device { present, next, folder: folder.to_owned() })
    }

    /// The program in the usual place.
    pub fn present(&self) -> &Path {
        &self.present
    }

    /// The program beside it.
    pub fn next(&self) -> &Path {
        &self.next
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Which of the two runs here; none where this is neither, such as at a console.
    pub fn running(&self) -> Option<Which> {
        let running = std::env::current_exe().ok()?;
        if program::is_same(&running, &self.next) {
            return Some(Which::Next);
        }
        program::is_same(&running, &self.present).then_some(Which::Present)
    }

    /// Keeps the journal as it is, before another program may write one of another kind.
    ///
    /// # Errors
    /// It is not kept.
    pub fn keep_journal(&self) -> io::Result<()> {
        let new = self.folder.join("update.new");
        match fs::copy(self.folder.join("journal"), &new) {
            Ok(_) => {
                fs::File::options().write(true).open(&new)?.sync_all()?;
                replace(&new, &self.folder.join(KEPT))
            }
            // A program that writes none has nothing to take back.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Ground for Device {
    fn marker(&self) -> Marker {
        Marker::load(&self.folder)
    }

    fn has_next(&self, underway: &Underway) -> bool {
        program::sum(&self.next).is_ok_and(|sum| sum == underway.sha256)
    }

    fn keep(&mut self, marker: &Marker) -> io::Result<()> {
        marker.keep(&self.folder)
    }

    fn start_with(&mut self, which: Which) -> io::Result<()> {
        let program = match which {
            Which::Present => &self.present,
            Which::Next => &self.next,
        };
        let change = || {
            let service = Manager::open()?.find(&self.present)?;
            service.map_or(Ok(()), |service| service.start_with(program))
        };
        change().map_err(io::Error::other)
    }

    fn place(&mut self) -> io::Result<()> {
        program::put(&self.next, &self.present)
    }

    fn remove_next(&mut self) -> io::Result<()> {
        remove_next(&self.present)
    }

    fn take_back_journal(&mut self, damaged: bool) -> io::Result<()> {
        let kept = self.folder.join(KEPT);
        if kept.exists() && !is_ours(&self.folder, damaged) {
            return replace(&kept, &self.folder.join("journal"));
        }
        found(fs::remove_file(kept))
    }
}

/// Whether the journal is one for this program. One that nobody can read counts as such unless
/// `damaged` says otherwise.
fn is_ours(folder: &Path, damaged: bool) -> bool {
    let journal = Journal::new(folder, Durability::Disk);
    for _ in 0..LOOKS {
        match journal.load() {
            Loaded::Newer(_) => return false,
            Loaded::Lost(_) if damaged => std::thread::sleep(BETWEEN_LOOKS),
            Loaded::Lost(_) | Loaded::Found(_) | Loaded::Fresh => return true,
        }
    }
    false
}

/// Removes the program beside this one, where it is there.
///
/// # Errors
/// It is still there.
pub fn remove_next(present: &Path) -> io::Result<()> {
    found(fs::remove_file(program::beside(present)))
}

/// Ends whatever update is under way: somebody installed a program by hand, and that one stays.
///
/// # Errors
/// Something of it is left.
pub fn forget(folder: &Path, present: &Path) -> io::Result<()> {
    for file in ["update.json", KEPT] {
        found(fs::remove_file(folder.join(file)))?;
    }
    remove_next(present)
}

/// That something is not there is as good as having removed it.
fn found(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
