//! Removing the agent from a device.

use std::io;
use std::path::{Path, PathBuf};

use windows_registry::LOCAL_MACHINE;

use super::install::working_for;
use super::manager::{Manager, ManagerError};
use super::{event_log, exercise, program};
use crate::data;

/// What the agent keeps in the registry: which boot this is, and what it did in it.
pub(super) const OWN_KEY: &str = r"SOFTWARE\Wardring";

/// What is to become of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// It stays: a later installation goes on where this one ended.
    Keep,
    /// It goes, and with it the device's identity.
    Purge,
}

/// How the agent is to be removed.
#[derive(Clone, Copy, Debug)]
pub struct Removal {
    /// Its data.
    pub data: Data,
    /// Also while it carries out a job, of which nobody learns how it ends then.
    pub abandon_job: bool,
}

/// What was removed.
#[derive(Clone, Debug)]
pub struct Removed {
    /// There was a service.
    pub had_service: bool,
    /// The program is gone; otherwise it goes with the next restart of the device.
    pub is_program_gone: bool,
    /// The data folder, where it is still there.
    pub kept: Option<PathBuf>,
}

/// Why the agent is not, or not wholly, removed.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// The service control manager.
    #[error(transparent)]
    Manager(#[from] ManagerError),
    /// The agent is at work.
    #[error(
        "{why}; remove it when that is over, or with --abandon-job, and nobody learns how the job ends"
    )]
    AtWork {
        /// What it has in hand.
        why: String,
    },
    /// An exercise is under way.
    #[error(
        "an exercise is under way on this device; end it with `wardring-agent selftest --exercise \
         --forget` first"
    )]
    Exercise,
    /// Windows.
    #[error("Windows does not tell where programs and data belong")]
    Places(#[source] io::Error),
    /// The program.
    #[error("the service is removed, but not its program {program}; delete it by hand")]
    Program {
        /// Which.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The data.
    #[error("the agent is removed, but not all of its data in {folder}; delete the folder by hand")]
    Data {
        /// Which.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The registry.
    #[error("the agent is removed, but not its traces in the registry")]
    Registry(#[source] windows::core::Error),
}

/// Stops and removes the service and the program, and the data if that is wanted.
///
/// # Errors
/// Something is left, and the error says what.
pub fn uninstall(removal: Removal) -> Result<Removed, UninstallError> {
    if exercise::is_under_way() {
        return Err(UninstallError::Exercise);
    }
    let manager = Manager::open()?;
    let program = program::installed().map_err(UninstallError::Places)?;
    let found = manager.find(&program)?;
    let named = found.as_ref().and_then(|service| service.command.folder.clone());
    let folder = named.map_or_else(program::default_folder, Ok).map_err(UninstallError::Places)?;
    let at_rest = || match working_for(&folder).filter(|_| !removal.abandon_job) {
        Some(why) => Err(UninstallError::AtWork { why }),
        None => Ok(()),
    };
    // Also where the service stands still: somebody may have stopped it in the middle of a job.
    at_rest()?;
    if let Some(service) = &found {
        if service.is_active()? {
            service.stop()?;
            // It may have taken a job in between, and now it takes none.
            if let Err(at_work) = at_rest() {
                service.start()?;
                return Err(at_work);
            }
        }
        service.delete()?;
    }
    let had_service = found.is_some();
    // The service goes with the last handle to it.
    drop(found);
    event_log::unregister().map_err(UninstallError::Registry)?;
    let is_program_gone = program::remove(&program)
        .map_err(|source| UninstallError::Program { program: program.clone(), source })?;
    if removal.data == Data::Purge {
        let purged = data::purge(&folder);
        purged.map_err(|source| UninstallError::Data { folder: folder.clone(), source })?;
        forget_boots().map_err(UninstallError::Registry)?;
    }
    let kept = Some(folder).filter(|folder| exists(folder));
    Ok(Removed { had_service, is_program_gone, kept })
}

fn exists(folder: &Path) -> bool {
    // A folder that may not be looked into is one.
    folder.try_exists().unwrap_or(true)
}

/// Only together with the journal: a journal that finds this boot under a new name would take it for
/// the one after the restart.
pub(super) fn forget_boots() -> windows_registry::Result<()> {
    if LOCAL_MACHINE.open(OWN_KEY).is_err() {
        return Ok(());
    }
    LOCAL_MACHINE.remove_tree(OWN_KEY)
}
