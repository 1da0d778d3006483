//! `update`: an administrator of this device, or a tool that runs as one, brings a new program.

use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::os::windows::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::admit::{Known, Offered, Refusal, Signer, Terms, admit, vouched};
use super::ground::Device;
use super::marker::{End, Stage, Underway};
use super::steps::{Ground, take_back};
use crate::ffi::{self, ProcessGroup};
use crate::files::replace;
use crate::folder::{self, FolderError};
use crate::platform::wall_clock;
use crate::platform::windows::unrest;
use crate::service::install::working_for;
use crate::service::manager::{Installed, Manager, ManagerError};
use crate::service::program;

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the service may take to begin, beyond the time of the trial.
const GRACE: Duration = Duration::from_secs(120);
/// How long the service may take to be the new program, once that has shown that it works.
const START_WITHIN: Duration = Duration::from_secs(90);
const CREATE_NO_WINDOW: u32 = 0x0800_0000;

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
    #[error(
        "the agent carries out a job of rollout {rollout} just now; update it when that has ended \
         (`wardring-agent status` says what it is doing)"
    )]
    AtWork {
        /// Name of the rollout.
        rollout: String,
    },
    /// Windows is at work.
    #[error("{why}; update the agent when that is over")]
    Unrest {
        /// Why, as a sentence.
        why: String,
    },
    /// Another update.
    #[error("another update of the agent is under way; wait for its end")]
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
    if let Some(rollout) = working_for(&folder) {
        return Err(UpdateError::AtWork { rollout });
    }
    if let Some(why) = unrest() {
        return Err(UpdateError::Unrest { why });
    }
    let known = Known {
        version: env!("CARGO_PKG_VERSION").to_owned(),
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
        take_back(&mut device, End::Interrupted, why, wall_clock())?;
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
    let version = own_version(device.next()).map_err(|why| UpdateError::Dead { why })?;
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

/// The version of a program, by its own word; that it says one shows that it runs on this Windows.
fn own_version(program: &Path) -> Result<String, String> {
    const LIMIT: Duration = Duration::from_secs(30);
    let group = ProcessGroup::new().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
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
                    let why = "it did not start as the service";
                    // It may be about to start, and must not while its place changes.
                    let _ = service.stop();
                    take_back(device, End::TakenBack, why, wall_clock())?;
                    service.start()?;
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
