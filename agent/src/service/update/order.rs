//! `update`: an administrator of this device, or a tool that runs as one, brings a new program.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::admit::{Known, Offered, Refusal, Signer, Terms, admit, vouched};
use super::ground::Device;
use super::marker::{End, Stage, Underway};
use super::steps::{Ground, take_back, unstage};
use crate::ffi;
use crate::files::replace;
use crate::folder::{self, FolderError};
use crate::platform::wall_clock;
use crate::platform::windows::unrest;
use crate::service::install::working_for;
use crate::service::manager::{Installed, Manager, ManagerError};
use crate::service::{NAME, program};

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the service may take to begin, beyond the time of the trial.
const GRACE: Duration = Duration::from_secs(120);
/// How long the service may take to be the new program, once that has shown that it works.
const START_WITHIN: Duration = Duration::from_secs(90);

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Order {
    /// The new program.
    pub from: PathBuf,
    /// What was said of it.
    pub terms: Terms,
    /// Within which it must report, seconds.
    pub within_s: u64,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Updated {
    /// This very program runs already.
    Already(String),
    /// This version runs now.
    Done(String),
}

/// Why the agent is the one that it was.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// There is no agent to update.
    #[error("no agent runs here as a service; use `wardring-agent install` of the new program")]
    NotRunning,
    /// The agent is at work.
    #[error("{why}; update it when that is over (`wardring-agent status` says what it is doing)")]
    AtWork {
        /// What it has in hand.
        why: String,
    },
    /// Windows is at work.
    #[error("{why}; update the agent when that is over")]
    Unrest {
        /// Why, as a sentence.
        why: String,
    },
    /// Another update.
    #[error(
        "another update of the agent is under way; wait for its end, and where it said that it is done, restart \
         the service {NAME}: its last step is done at the next start"
    )]
    Underway,
    /// The program cannot be taken.
    #[error("failed to take the program {path}")]
    Program {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its signature.
    #[error("Windows does not trust the signature of {path}")]
    Signature {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not admitted.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It does not run at all.
    #[error("the new program does not run here: {why}")]
    Dead {
        /// Why.
        why: String,
    },
    /// It was tried.
    #[error("version {version} was not taken over, and the agent before it runs: {why}")]
    NotTaken {
        /// Its version.
        version: String,
        /// Why.
        why: String,
    },
    /// The service does not answer.
    #[error("the service has not said how the update ended; `wardring-agent status` will")]
    Silent,
    /// The service control manager.
    #[error(transparent)]
    Manager(#[from] ManagerError),
    /// The data folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Files.
    #[error("failed to prepare the update")]
    Access(#[from] io::Error),
}

/// Checks a program, puts it beside the present one, has the service try it, and waits for the end.
///
/// # Errors
/// The agent is the one that it was, or [`UpdateError::Silent`].
pub fn update(order: &Order) -> Result<Updated, UpdateError> {
    let folder = program::used_folder()?;
    let mut device = Device::find(&folder)?;
    let service = Manager::open()?.find(device.present())?.ok_or(UpdateError::NotRunning)?;
    if !service.is_active()? {
        return Err(UpdateError::NotRunning);
    }
    folder::check(&folder)?;
    let lock = File::create(folder.join("update.lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(UpdateError::Underway),
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    let marker = device.marker();
    // What is only staged was left by an order that was ended; nobody works on it.
    if marker.underway.as_ref().is_some_and(|underway| underway.stage != Stage::Staged) {
        return Err(UpdateError::Underway);
    }
    if let Some(why) = working_for(&folder) {
        return Err(UpdateError::AtWork { why });
    }
    if let Some(why) = unrest() {
        return Err(UpdateError::Unrest { why });
    }
    let known = Known {
        version: installed_version(device.present())?,
        sha256: program::sum(device.present())?,
        signer: signer(device.present())?,
    };
    let staged = stage(order, &device, &known, marker.failed.as_ref());
    let Some(underway) = staged.inspect_err(|_| {
        // It is overwritten by the next one, and started by nobody.
        let _ = device.remove_next();
    })?
    else {
        device.remove_next()?;
        return Ok(Updated::Already(known.version));
    };
    device.keep(&super::Marker { underway: Some(underway.clone()), ..marker })?;
    if let Err(error) = service.tell_of_update() {
        let why = "the service could not be told";
        unstage(&mut device, End::Interrupted, why, wall_clock())?;
        return Err(error.into());
    }
    wait(&mut device, &service, &underway)
}

/// Copies the program to its place beside the present one and judges the copy, which nobody else can
/// change any more. None when it is the one that runs.
fn stage(
    order: &Order,
    device: &Device,
    known: &Known,
    failed: Option<&super::Failed>,
) -> Result<Option<Underway>, UpdateError> {
    let unusable = |source| UpdateError::Program { path: order.from.clone(), source };
    let new = device.next().with_extension("new");
    program::copy(&order.from, &new)
        .and_then(|()| replace(&new, device.next()))
        .map_err(unusable)?;
    let sha256 = program::sum(device.next())?;
    let signer = signer(device.next())?;
    // Before it is run for the first time.
    vouched(known, &sha256, &signer, order.terms.sha256.as_deref())?;
    let version = program::own_version(device.next()).map_err(|why| UpdateError::Dead { why })?;
    let offered = Offered { version: version.clone(), sha256: sha256.clone(), signer };
    let is_new = admit(known, &offered, &order.terms, failed)?;
    Ok(is_new.then_some(Underway {
        version,
        sha256,
        within_s: order.within_s,
        stage: Stage::Staged,
    }))
}

fn signer(path: &Path) -> Result<Signer, UpdateError> {
    let unsure = |source| UpdateError::Signature { path: path.to_owned(), source };
    Ok(ffi::publisher(path).map_err(unsure)?.map_or(Signer::Nobody, Signer::Publisher))
}

/// The version of the installed program, which need not be the one that was called.
fn installed_version(present: &Path) -> Result<String, UpdateError> {
    if std::env::current_exe().is_ok_and(|running| program::is_same(&running, present)) {
        return Ok(env!("CARGO_PKG_VERSION").to_owned());
    }
    program::own_version(present).map_err(|why| {
        let why = format!("the installed program does not say its version: {why}");
        io::Error::other(why).into()
    })
}

/// The service is the present program again. Whatever fails on the way, it is started.
fn give_up(device: &mut Device, service: &Installed) -> Result<(), UpdateError> {
    // It may be about to start, and must not while its place changes.
    let stopped = service.stop();
    // It may have started just before, and then it has the agent's work.
    let is_started = device.marker().underway.is_some_and(|it| it.stage != Stage::Proven);
    let taken = if is_started {
        Ok(())
    } else {
        take_back(device, End::TakenBack, "it did not start as the service", wall_clock())
    };
    // Windows may have been faster.
    let is_back = stopped.is_ok() && service.is_active().unwrap_or(false);
    if !is_back {
        service.start()?;
    }
    Ok(taken?)
}

/// Waits for the end, and sees to it that the service runs.
fn wait(
    device: &mut Device,
    service: &Installed,
    underway: &Underway,
) -> Result<Updated, UpdateError> {
    let until = Instant::now() + Duration::from_secs(underway.within_s) + GRACE;
    let mut proven: Option<Instant> = None;
    loop {
        let marker = device.marker();
        match marker.underway.map(|underway| underway.stage) {
            None => {
                let last = marker.last.filter(|last| last.sha256 == underway.sha256);
                return match last.map(|last| (last.end, last.why)) {
                    Some((End::Done, _)) => Ok(Updated::Done(underway.version.clone())),
                    Some((_, why)) => {
                        Err(UpdateError::NotTaken { version: underway.version.clone(), why })
                    }
                    // Somebody installed another one meanwhile.
                    None => Err(UpdateError::Silent),
                };
            }
            Some(Stage::Hosted | Stage::Placed) => {
                return Ok(Updated::Done(underway.version.clone()));
            }
            Some(Stage::Proven) => {
                let since = *proven.get_or_insert_with(Instant::now);
                if !service.is_active()? {
                    // Windows does so by itself after a pause. Whoever is later is told that it runs.
                    let _ = service.start();
                }
                if since.elapsed() > START_WITHIN {
                    give_up(device, service)?;
                }
            }
            Some(Stage::Staged | Stage::Trying) if Instant::now() > until => {
                return Err(UpdateError::Silent);
            }
            Some(Stage::Staged | Stage::Trying) if !service.is_active()? => {
                let why = "the service was stopped; its next start clears the rest".to_owned();
                return Err(UpdateError::NotTaken { version: underway.version.clone(), why });
            }
            Some(Stage::Staged | Stage::Trying) => {}
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
