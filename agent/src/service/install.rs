//! Installing the agent: everything is looked at first, and what was done is taken back when
//! something later fails.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use wardring_seal::Token;

use super::command::Command;
use super::fit::{self, Unfit};
use super::manager::{Installed as Service, Manager, ManagerError};
use super::token_file::{self, TokenFileError};
use super::{Undo, event_log, exercise, program, update};
use crate::folder::{self, FolderError};
use crate::identity::{IdentityError, IdentityFile, Known};
use crate::journal::{Durability, Journal, Loaded, SCHEMA};
use crate::platform::windows::computer_name;
use crate::settings::{self, Settings, SettingsError};

/// What is to be installed.
#[derive(Clone, Debug)]
pub struct Order {
    /// Addresses of the gateways; those of the installation before, and its proxy, without any.
    pub gateways: Vec<String>,
    /// Proxy for all of them.
    pub proxy: Option<String>,
    /// Enrolment token; needed while the device is not enrolled.
    pub token: Option<String>,
    /// File with the token. It is read only when it is needed: an update outlives its share.
    pub token_file: Option<PathBuf>,
    /// Name of the device; the computer's without one.
    pub name: Option<String>,
    /// Data folder; the usual one without.
    pub folder: Option<PathBuf>,
    /// The program may take the place of a newer one.
    pub allow_downgrade: bool,
}

/// What was installed.
#[derive(Clone, Debug)]
pub struct Installed {
    /// Name of the device.
    pub device: String,
    /// The program that runs.
    pub program: PathBuf,
    /// Its data folder.
    pub folder: PathBuf,
    /// Whether the device was enrolled already, so that a token was not needed.
    pub is_enrolled: bool,
    /// Whether there was an installation before.
    pub is_update: bool,
    /// Version of the installed program, where that is newer than this one and stays.
    pub stays: Option<String>,
}

/// Why nothing was installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// What was asked for cannot be.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The wrong Windows.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The token is missing.
    #[error(
        "this device is not enrolled yet; give a token with --token (kubectl wardring enroll makes one) or \
         its file with --token-file"
    )]
    NoToken,
    /// The token's file.
    #[error(transparent)]
    TokenFile(#[from] TokenFileError),
    /// The gateways are missing.
    #[error("no agent was installed here before; give the address of a gateway with --gateway")]
    NoGateway,
    /// The agent is at work.
    #[error("{why}; install when that is over (`wardring-agent status` says what it is doing)")]
    AtWork {
        /// What it has in hand.
        why: String,
    },
    /// The name of the computer is none for a device.
    #[error(
        "nothing of the computer's name {computer:?} can be a device's name; give one with --name"
    )]
    NoName {
        /// The computer's name.
        computer: String,
    },
    /// The device has another name.
    #[error(
        "this device is enrolled as {found}, and a name is for life; leave --name out, or remove the \
         agent with `wardring-agent uninstall --purge` first"
    )]
    OtherName {
        /// Its name.
        found: String,
    },
    /// The data is elsewhere.
    #[error(
        "the installed agent keeps its data in {found}; leave --data-dir out, or remove the agent with \
         `wardring-agent uninstall` first"
    )]
    OtherFolder {
        /// Where.
        found: PathBuf,
    },
    /// A newer agent was here.
    #[error(
        "the journal in {folder} was written by a newer agent (layout {layout}; this one reads \
         {SCHEMA}); install that one or a newer one"
    )]
    Newer {
        /// The data folder.
        folder: PathBuf,
        /// Layout of the journal.
        layout: u32,
    },
    /// The service control manager.
    #[error(transparent)]
    Manager(#[from] ManagerError),
    /// The data folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The identity.
    #[error("failed to read the device's identity")]
    Identity(#[from] IdentityError),
    /// The program.
    #[error("failed to put the program to {program}; is it in use, or kept away by a policy?")]
    Program {
        /// Where.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The event log.
    #[error("failed to register the source in the event log")]
    EventLog(#[source] windows::core::Error),
    /// Windows.
    #[error("Windows does not tell where programs and data belong")]
    Places(#[source] io::Error),
    /// An exercise is under way.
    #[error(
        "an exercise is under way on this device; install when it is over, or end it with \
         `wardring-agent selftest --exercise --forget`"
    )]
    Exercise,
    /// What was done could not be taken back.
    #[error("{error}; and it could not all be taken back: {}", .left.join("; "))]
    HalfDone {
        /// Why it failed.
        error: Box<InstallError>,
        /// What is left.
        left: Vec<String>,
    },
}

/// Installs the agent as a service and starts it, or brings an installed one up to date.
///
/// # Errors
/// Nothing was changed, or everything is as it was before.
pub fn install(order: &Order) -> Result<Installed, InstallError> {
    fit::check()?;
    check(order)?;
    if exercise::is_under_way() {
        return Err(InstallError::Exercise);
    }
    let manager = Manager::open()?;
    let program = program::installed().map_err(InstallError::Places)?;
    let found = manager.find(&program)?;
    let folder = choose_folder(order, found.as_ref())?;
    let mut undo = Undo::default();
    match carry_out(order, &manager, found, &program, &folder, &mut undo) {
        Ok(installed) => {
            program::forget_previous(&program);
            Ok(installed)
        }
        Err(error) => {
            let left = undo.back();
            if left.is_empty() {
                return Err(error);
            }
            Err(InstallError::HalfDone { error: Box::new(error), left })
        }
    }
}

/// Refuses what can be seen to be wrong before anything is touched.
fn check(order: &Order) -> Result<(), InstallError> {
    if let Some(token) = &order.token {
        Token::parse(token).map_err(SettingsError::Token)?;
    }
    if order.gateways.is_empty() {
        // What was installed before is looked at later.
        return Ok(());
    }
    // Any name will do where none is given: the computer's is looked at later.
    let name = order.name.clone().unwrap_or_else(|| "unnamed".to_owned());
    Ok(settings(order, name).check()?)
}

fn settings(order: &Order, name: String) -> Settings {
    Settings { gateways: order.gateways.clone(), proxy: order.proxy.clone(), name }
}

/// The settings that are to be: those of the order, or else those that are there.
fn choose_settings(order: &Order, folder: &Path, name: String) -> Result<Settings, InstallError> {
    if !order.gateways.is_empty() {
        return Ok(settings(order, name));
    }
    match Settings::load(folder) {
        Ok(before) => {
            let proxy = order.proxy.clone().or(before.proxy);
            Ok(Settings { gateways: before.gateways, proxy, name })
        }
        Err(SettingsError::Missing { .. }) => Err(InstallError::NoGateway),
        Err(error) => Err(error.into()),
    }
}

/// Refuses while the agent carries out a job: what it does in Windows goes on without it, and an end
/// that nobody saw counts as a failure.
fn at_rest(folder: &Path) -> Result<(), InstallError> {
    match working_for(folder) {
        Some(why) => Err(InstallError::AtWork { why }),
        None => Ok(()),
    }
}

/// Looks at a journal that cannot be read. The agent replaces it every few seconds, and for a moment of
/// that nobody else can open it; one that stays unreadable may hold a job.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// What the agent of this folder has in hand, as the beginning of a sentence.
pub(super) fn working_for(folder: &Path) -> Option<String> {
    let journal = Journal::new(folder, Durability::Disk);
    for _ in 0..LOOKS {
        match journal.load() {
            Loaded::Found(saved) => {
                let job = saved.state.job?;
                let rollout = job.payload.rollout;
                return Some(format!("the agent carries out a job of rollout {rollout} just now"));
            }
            Loaded::Fresh | Loaded::Newer(_) => return None,
            Loaded::Lost(_) => std::thread::sleep(BETWEEN_LOOKS),
        }
    }
    Some("the agent may carry out a job: its journal cannot be read".to_owned())
}

fn choose_folder(order: &Order, found: Option<&Service>) -> Result<PathBuf, InstallError> {
    // Without a trailing backslash, and whole: a service is started in another folder.
    let whole = |path: &Path| -> Result<PathBuf, InstallError> {
        let path = std::path::absolute(path).map_err(InstallError::Places)?;
        Ok(path.components().collect())
    };
    let wanted = order.folder.as_deref().map(whole).transpose()?;
    let used = found.and_then(|service| service.command.folder.clone());
    match (wanted, used) {
        (Some(wanted), Some(used)) if wanted != used => {
            Err(InstallError::OtherFolder { found: used })
        }
        (Some(folder), _) | (None, Some(folder)) => Ok(folder),
        (None, None) => program::default_folder().map_err(InstallError::Places),
    }
}

fn carry_out(
    order: &Order,
    manager: &Manager,
    found: Option<Service>,
    program: &Path,
    folder: &Path,
    undo: &mut Undo,
) -> Result<Installed, InstallError> {
    if folder::secure(folder)? {
        let made = folder.to_owned();
        undo.push(format!("{} is still there", folder.display()), move || {
            fs::remove_dir_all(made).map_err(|error| error.to_string())
        });
    }
    let identity = IdentityFile::new(folder).load()?;
    let stays = if order.allow_downgrade { None } else { newer(program) };
    let journal = Journal::new(folder, Durability::Disk).load();
    if let (Loaded::Newer(layout), None) = (journal, &stays) {
        return Err(InstallError::Newer { folder: folder.to_owned(), layout });
    }
    let name = choose_name(order, folder, &identity)?;
    let is_enrolled = matches!(identity, Known::Enrolled(_));
    let token = if is_enrolled { None } else { choose_token(order)? };
    if !is_enrolled && token.is_none() && settings::waiting_token(folder)?.is_none() {
        return Err(InstallError::NoToken);
    }
    let settings = choose_settings(order, folder, name)?;
    settings.check()?;

    let is_update = found.is_some();
    if let Some(service) = found.as_ref().filter(|service| service.is_active().unwrap_or(true)) {
        at_rest(folder)?;
        service.stop()?;
        let program = program.to_owned();
        undo.push("the service is stopped", move || with_service(&program, Service::start));
        // It may have taken a job in between, and now it takes none.
        at_rest(folder)?;
    }
    let placed = if stays.is_some() { Ok(()) } else { program::place(program, undo) };
    placed.map_err(|source| InstallError::Program { program: program.to_owned(), source })?;
    for file in settings::FILES {
        restore_later(&folder.join(file), undo)?;
    }
    settings.keep(folder)?;
    match &token {
        Some(token) => settings::keep_token(folder, token)?,
        None if is_enrolled => settings::forget_token(folder)?,
        None => {}
    }
    if event_log::register().map_err(InstallError::EventLog)? {
        undo.push("the source in the event log is registered", || {
            event_log::unregister().map_err(|error| error.to_string())
        });
    }
    let service = match found {
        // An update of the agent by itself may have been under way.
        Some(mut service) => {
            service.command.program = program.to_owned();
            service
        }
        None => {
            let (program, folder) = (program.to_owned(), Some(folder.to_owned()));
            let service = manager.create(Command { program: program.clone(), folder })?;
            undo.push("the service is still there", move || {
                with_service(&program, |service| service.stop().and_then(|()| service.delete()))
            });
            service
        }
    };
    service.configure()?;
    // What was beside the program is nobody's any more; what stays is cleared by the start.
    let cleared = update::forget(folder, program);
    cleared.map_err(|source| InstallError::Program { program: program.to_owned(), source })?;
    service.start()?;
    Ok(Installed {
        device: settings.name,
        program: program.to_owned(),
        folder: folder.to_owned(),
        is_enrolled,
        is_update,
        stays,
    })
}

/// The version of the installed program, where it is newer than this one: an agent that was updated by
/// itself is not to go back because the package that once brought it is repaired or assigned again.
fn newer(program: &Path) -> Option<String> {
    if !program.exists() {
        return None;
    }
    // One that does not tell is replaced: this may be the way to mend it.
    let version = program::own_version(program).ok()?;
    update::is_older(env!("CARGO_PKG_VERSION"), &version).then_some(version)
}

/// The token that was given, by itself or by its file.
fn choose_token(order: &Order) -> Result<Option<String>, InstallError> {
    match (&order.token, &order.token_file) {
        (Some(token), _) => Ok(Some(token.clone())),
        (None, Some(file)) => Ok(Some(token_file::read(file)?)),
        (None, None) => Ok(None),
    }
}

/// The device's name: for life once it is enrolled, else as told, as before, or the computer's.
fn choose_name(order: &Order, folder: &Path, identity: &Known) -> Result<String, InstallError> {
    if let Known::Enrolled(identity) = identity {
        let found = identity.me.device.clone();
        return match &order.name {
            Some(wanted) if *wanted != found => Err(InstallError::OtherName { found }),
            _ => Ok(found),
        };
    }
    if let Some(name) = &order.name {
        return Ok(name.clone());
    }
    if let Ok(before) = Settings::load(folder) {
        return Ok(before.name);
    }
    let computer = computer_name();
    settings::device_name(&computer).ok_or(InstallError::NoName { computer })
}

/// Lets a failure put a file back as it is now.
fn restore_later(path: &Path, undo: &mut Undo) -> Result<(), InstallError> {
    let before = match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => {
            return Err(SettingsError::Access { path: path.to_owned(), source }.into());
        }
    };
    let (path, what) = (path.to_owned(), format!("{} is the new one", path.display()));
    undo.push(what, move || {
        let restored = match before {
            Some(bytes) => fs::write(&path, bytes),
            None => fs::remove_file(&path).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }),
        };
        restored.map_err(|error| error.to_string())
    });
    Ok(())
}

/// Does something with the service on the way back, where it is still there.
fn with_service(
    program: &Path,
    act: impl FnOnce(&Service) -> Result<(), ManagerError>,
) -> Result<(), String> {
    let found = Manager::open().and_then(|manager| manager.find(program));
    let done = found.and_then(|service| service.map_or(Ok(()), |service| act(&service)));
    done.map_err(|error| error.to_string())
}
