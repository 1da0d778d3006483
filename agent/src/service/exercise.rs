//! An exercise as a service of its own: as SYSTEM it may ask Windows Update, it goes on after each
//! restart, and at its end it removes itself.
//!
//! It never runs beside the agent: it begins only where none ever was, looks again before each step,
//! and `install` and `run` refuse while it is there.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use windows_registry::LOCAL_MACHINE;
use windows_service::service::{
    Service, ServiceAccess, ServiceControl, ServiceDependency, ServiceErrorControl, ServiceInfo,
    ServiceStartType, ServiceState, ServiceType,
};
use windows_service::service_control_handler::{ServiceControlHandlerResult, register};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};

use super::host::{PATIENCE, STATUS, begin_log, report, runtime, told, whole};
use super::manager::{does_not_exist, started_again};
use super::{fit, program, uninstall};
use crate::chance;
use crate::exercise::{
    Consent, Ground, Paused, Record, RecordError, Trouble, Wish, choose, conduct, is_copy, refusal,
};
use crate::ffi;
use crate::folder::{self, FolderError};
use crate::identity::{IdentityFile, Known};
use crate::journal::{Durability, Journal, Loaded};
use crate::log::RotatingLog;
use crate::platform::windows::{OpenError, Windows, hardware, others, roles};
use crate::platform::{Machine, wall_clock};

/// Name of the service.
pub const NAME: &str = "WardringExercise";
/// Name of its folder among the programs' data.
const FOLDER: &str = "WardringExercise";
/// First and only argument of the program.
const ARGUMENT: &str = "exercise-service";
const PROGRAM: &str = "wardring-agent.exe";
/// Longest that the service may take to run after Windows' start, and to stop.
const WAIT: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Pauses before Windows starts it again that ended in the middle; after that it waits for the next boot.
const RESTART_AFTER: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];

/// Why there is no exercise.
#[derive(Debug, thiserror::Error)]
pub enum ExerciseError {
    /// Not on this device, or not like this.
    #[error("no exercise takes place here: {0}")]
    Refused(String),
    /// Windows.
    #[error("Windows does not tell where programs and data belong")]
    Places(#[source] io::Error),
    /// The folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The program.
    #[error("failed to put the program to {program}")]
    Program {
        /// Where.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The service.
    #[error("Windows refused to {act} the service {NAME}; are you an administrator?")]
    Service {
        /// What was tried.
        act: &'static str,
        /// Why.
        source: windows_service::Error,
    },
    /// It does not run, and is not over.
    #[error(
        "the service {NAME} does not run, and the exercise is not over: look into {log}, start it \
         again with `sc start {NAME}`, or end it with `selftest --exercise --forget`"
    )]
    Stands {
        /// Its log.
        log: PathBuf,
    },
    /// There is none.
    #[error("there is no exercise on this device")]
    Nothing,
    /// What is left.
    #[error("the exercise is ended, but not all of it in {folder} is gone; delete the folder")]
    Left {
        /// Where.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The registry.
    #[error("the exercise is ended, but not its traces in the registry")]
    Registry(#[source] windows::core::Error),
}

/// The folder of an exercise.
///
/// # Errors
/// Windows does not tell where data belongs.
pub fn folder() -> Result<PathBuf, ExerciseError> {
    let common = ffi::common_folders().map_err(ExerciseError::Places)?;
    Ok(common.1.join(FOLDER))
}

/// Whether a service of this name is there; also where Windows does not tell.
fn has_service(name: &str) -> bool {
    let key = LOCAL_MACHINE.open(format!(r"SYSTEM\CurrentControlSet\Services\{name}"));
    !matches!(key, Err(error) if is_missing(&error))
}

fn is_missing(error: &windows::core::Error) -> bool {
    use windows::Win32::Foundation::{ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND};
    [ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND]
        .iter()
        .any(|code| error.code() == code.to_hresult())
}

/// Whether an exercise is under way: no agent runs beside it.
pub fn is_under_way() -> bool {
    has_service(NAME)
}

/// Whether an identity lies where the agent's data usually is.
fn has_identity() -> bool {
    let known = program::default_folder().map(|folder| IdentityFile::new(&folder).load());
    !matches!(known, Ok(Ok(Known::Nothing)))
}

/// Why the device must not be touched any more, if so. `began_on` is the machine's own on which the exercise
/// began: a copy of its disk may run elsewhere within the same day.
fn forbidden(began_on: Option<&str>) -> Option<String> {
    let ground = Ground {
        has_agent: has_service(super::NAME) || has_identity(),
        has_traces: false,
        roles: roles(),
        others: others(),
        is_copy: is_copy(began_on, hardware().as_deref()),
    };
    refusal(&ground, Consent::Given)
}

/// Begins an exercise: everything is looked at first.
///
/// # Errors
/// The device is not one for it, or Windows refuses.
pub fn begin(wish: Wish, consent: Consent) -> Result<(), ExerciseError> {
    let has_traces = has_identity()
        || !matches!(LOCAL_MACHINE.open(uninstall::OWN_KEY), Err(error) if is_missing(&error));
    let ground = Ground {
        has_agent: has_service(super::NAME),
        has_traces,
        roles: roles(),
        others: others(),
        is_copy: false,
    };
    if let Some(why) = refusal(&ground, consent) {
        return Err(ExerciseError::Refused(why));
    }
    fit::check().map_err(|unfit| ExerciseError::Refused(unfit.to_string()))?;
    let folder = folder()?;
    // What is there already, somebody else may have made who may still write to it.
    if !folder::secure(&folder)? {
        let why = format!("{} is there already; remove it with --forget", folder.display());
        return Err(ExerciseError::Refused(why));
    }
    let begun = set_up(&folder, wish);
    if begun.is_err() {
        // Nothing of it may begin by itself with the next start of Windows.
        if let Err(error) = clear(&folder) {
            tracing::error!(error = whole(&error), "a part of the exercise is left");
        }
    }
    begun
}

fn set_up(folder: &Path, wish: Wish) -> Result<(), ExerciseError> {
    // Not from where it was started: what runs as SYSTEM lies where only administrators may write.
    let program = folder.join(PROGRAM);
    let running = std::env::current_exe().map_err(ExerciseError::Places)?;
    program::copy(&running, &program)
        .map_err(|source| ExerciseError::Program { program: program.clone(), source })?;
    let record = Record::begin(chance::id(), wish, wall_clock());
    Record { hardware: hardware(), ..record }.save(folder)?;
    let refused = |act| move |source| ExerciseError::Service { act, source };
    let access = ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE;
    let manager = ServiceManager::local_computer(None::<&OsStr>, access);
    let manager = manager.map_err(refused("reach"))?;
    let service = manager.create_service(&info(&program), ServiceAccess::ALL_ACCESS);
    let service = service.map_err(refused("create"))?;
    let actions = started_again(&RESTART_AFTER);
    service.update_failure_actions(actions).map_err(refused("set the recovery of"))?;
    service.start::<&OsStr>(&[]).map_err(refused("start"))
}

/// Removes service and folder, wherever it stands.
fn clear(folder: &Path) -> Result<(), ExerciseError> {
    let refused = |act| move |source| ExerciseError::Service { act, source };
    if let Some(service) = find()? {
        // It may have ended by itself.
        let _ = service.stop();
        let begun = Instant::now();
        while is_running()? {
            if begun.elapsed() > WAIT {
                return Err(ExerciseError::Stands { log: folder.join("log") });
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        service.delete().map_err(refused("remove"))?;
    }
    let removed = std::fs::remove_dir_all(folder).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    });
    removed.map_err(|source| ExerciseError::Left { folder: folder.to_owned(), source })
}

fn info(program: &Path) -> ServiceInfo {
    ServiceInfo {
        name: NAME.into(),
        display_name: "Wardring exercise".into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: program.to_owned(),
        launch_arguments: vec![ARGUMENT.into()],
        dependencies: vec![ServiceDependency::Service("RpcSs".into())],
        account_name: None,
        account_password: None,
    }
}

/// Our service, where there is one.
fn find() -> Result<Option<Service>, ExerciseError> {
    let opened = ServiceManager::local_computer(None::<&OsStr>, ServiceManagerAccess::CONNECT)
        .and_then(|manager| manager.open_service(NAME, ServiceAccess::ALL_ACCESS));
    match opened {
        Ok(service) => Ok(Some(service)),
        Err(error) if does_not_exist(&error) => Ok(None),
        Err(source) => Err(ExerciseError::Service { act: "open", source }),
    }
}

/// The record of the exercise on this device, if there is one.
///
/// # Errors
/// It cannot be read.
pub fn record() -> Result<Option<Record>, ExerciseError> {
    Ok(Record::load(&folder()?)?)
}

/// Waits until the exercise is over, and hands each new state of its job to `tell`. Windows may end
/// this before; the exercise goes on by itself.
///
/// # Errors
/// There is none, or it stands still.
pub fn follow(mut tell: impl FnMut(&str)) -> Result<Record, ExerciseError> {
    let folder = folder()?;
    let mut said = String::new();
    let mut stands_since: Option<Instant> = None;
    loop {
        let is_running = is_running()?;
        // In this order: one that ended between the two has written that it is over.
        let record = Record::load(&folder)?.ok_or(ExerciseError::Nothing)?;
        if record.over.is_some() {
            return Ok(record);
        }
        let since = stands_since.get_or_insert_with(Instant::now);
        if is_running {
            stands_since = None;
        } else if since.elapsed() > WAIT {
            return Err(ExerciseError::Stands { log: folder.join("log") });
        }
        let state = state(&folder);
        if state != said {
            tell(&state);
            said = state;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn is_running() -> Result<bool, ExerciseError> {
    let Some(service) = find()? else { return Ok(false) };
    let status = service.query_status();
    let status = status.map_err(|source| ExerciseError::Service { act: "look at", source })?;
    Ok(status.current_state != ServiceState::Stopped)
}

fn state(folder: &Path) -> String {
    match Journal::new(folder, Durability::Disk).load() {
        Loaded::Found(saved) => match saved.state.job {
            Some(job) if job.message.is_empty() => job.phase.word().to_owned(),
            Some(job) => format!("{}: {}", job.phase.word(), job.message),
            None => "between its jobs".to_owned(),
        },
        // It is being replaced just now, or not written yet.
        _ => "searching for an update".to_owned(),
    }
}

/// Ends the exercise of this device, wherever it is, and removes what it knows. What it installed and
/// did not remove stays.
///
/// # Errors
/// There is none, or something of it stays.
pub fn forget() -> Result<(), ExerciseError> {
    let folder = folder()?;
    let is_under_way = find()?.is_some();
    if !is_under_way && !folder.exists() {
        return Err(ExerciseError::Nothing);
    }
    if is_under_way && let Ok(device) = Windows::open(&folder, None) {
        // One that it ordered would still come.
        device.take_back_restart();
    }
    clear(&folder)?;
    // Whoever ran here since has its own use for them.
    if is_under_way { forget_boots() } else { Ok(()) }
}

/// Forgets which boot this is, as long as no agent can know it.
fn forget_boots() -> Result<(), ExerciseError> {
    if has_service(super::NAME) || has_identity() {
        return Ok(());
    }
    uninstall::forget_boots().map_err(ExerciseError::Registry)
}

/// Is the service until the exercise pauses or is over.
///
/// # Errors
/// Windows did not start this process as the service.
pub fn host() -> Result<(), ExerciseError> {
    ffi::serve(NAME, serve).map_err(|source| ExerciseError::Service { act: "be", source })
}

fn serve() {
    let (stop, stopped) = watch::channel(false);
    let handler = move |control| match control {
        ServiceControl::Stop | ServiceControl::Preshutdown => {
            report(ServiceState::StopPending, 0);
            stop.send_replace(true);
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        _ => ServiceControlHandlerResult::NotImplemented,
    };
    let Ok(handle) = register(NAME, handler) else { return };
    STATUS.get_or_init(|| handle);
    report(ServiceState::Running, 0);
    let ended = live(stopped);
    if let Err(error) = &ended {
        tracing::error!(error = whole(error), "the exercise cannot go on");
    }
    report(ServiceState::Stopped, u32::from(ended.is_err()));
}

fn live(stop: watch::Receiver<bool>) -> Result<(), ExerciseError> {
    let folder = folder()?;
    // What is read there runs as SYSTEM.
    folder::check(&folder)?;
    begin_log(RotatingLog::open(&folder).ok());
    let Some(mut record) = Record::load(&folder)? else { return Ok(()) };
    if record.over.is_none() {
        match go_on(&folder, &mut record, stop) {
            Ok(Paused::Over) => {}
            Ok(Paused::DeviceDown | Paused::Stopped) => return Ok(()),
            Err(why) => {
                let left = record.leftover().map(|left| format!("; {left}")).unwrap_or_default();
                record.over = Some(format!("{why}{left}"));
            }
        }
        record.save(&folder)?;
        tracing::info!(over = record.over, "the exercise is over");
        // While its service is there, no agent runs that these belong to.
        forget_boots()?;
    }
    if let Some(service) = find()? {
        let removed = service.delete();
        removed.map_err(|source| ExerciseError::Service { act: "remove", source })?;
    }
    Ok(())
}

/// Goes on where it stands; an error is why it is over.
fn go_on(
    folder: &Path,
    record: &mut Record,
    stop: watch::Receiver<bool>,
) -> Result<Paused, String> {
    if let Some(why) = forbidden(record.hardware.as_deref()) {
        return Err(why);
    }
    if wall_clock() > record.ends() {
        return Err("it was not over within its day".to_owned());
    }
    let runtime = runtime().map_err(|error| whole(&error))?;
    let end = runtime.block_on(carry_on(folder, record, stop));
    // A call into Windows that hangs does not end for us.
    runtime.shutdown_timeout(PATIENCE);
    end
}

async fn carry_on(
    folder: &Path,
    record: &mut Record,
    mut stop: watch::Receiver<bool>,
) -> Result<Paused, String> {
    let data = folder.to_owned();
    // It may wait a minute for the event log.
    let opened = tokio::task::spawn_blocking(move || Windows::open(&data, None)).await;
    let opened = opened.expect("opening does not panic, and nothing cancels it");
    let device = Arc::new(opened.map_err(|error: OpenError| whole(&error))?);
    let chosen = match &record.chosen {
        Some(chosen) => chosen.clone(),
        None => {
            let found = tokio::select! {
                found = device.search(true) => found?,
                () = told(&mut stop) => return Ok(Paused::Stopped),
            };
            record.build_before = device.build();
            let chosen = choose(&found, record.wish.kb.as_deref(), &record.build_before);
            let chosen = chosen.map_err(|error| error.to_string())?;
            record.chosen = Some(chosen.clone());
            record.save(folder).map_err(|error| whole(&error))?;
            chosen
        }
    };
    let began_on = record.hardware.clone();
    let forbidden = move || forbidden(began_on.as_deref());
    let paused = conduct(folder, record, &chosen, Arc::clone(&device), forbidden, stop).await;
    let paused = paused.map_err(|error: Trouble| whole(&error))?;
    if paused == Paused::Over && record.removal.is_some() {
        let found = device.search(false).await.unwrap_or_default();
        let is_it = |identity: String| chosen.target.identities.contains(&identity);
        let update = found.iter().find(|update| is_it(update.identity.to_string()));
        record.is_hidden =
            update.filter(|update| !update.is_installed).map(|update| update.is_hidden);
    }
    Ok(paused)
}
