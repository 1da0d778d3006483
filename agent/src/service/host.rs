//! Being the service: from the start by the service control manager to the stop.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use windows_service::service::{
    ServiceControl, ServiceControlAccept, ServiceExitCode, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{
    ServiceControlHandlerResult, ServiceStatusHandle, register,
};

use super::NAME;
use super::contact::Noted;
use super::event_log::EventLog;
use super::install::working_for;
use super::update::{self, Begin, Device, Heed, Tried, Which};
use crate::folder::FolderError;
use crate::journal::Durability;
use crate::log::{RotatingLog, Seldom};
use crate::milestone::Milestone;
use crate::platform::windows::{OpenError, Windows};
use crate::platform::{Machine, wall_clock};
use crate::run::{Ready, Setup, SetupError};
use crate::settings::{self, Settings, SettingsError};
use crate::{ffi, folder as data};

/// How long Windows waits for the agent before it goes down. What counts is in the journal already;
/// this is for ending calls in good order.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(20);
/// How long acts that hang in Windows are waited for at the end.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Longest that a look at the device may take before the agent is exchanged.
const FACTS_WITHIN: Duration = Duration::from_secs(60);
/// Longest that a gateway is asked to hold a poll, seconds.
const POLL_WAIT_S: u64 = 55;
/// The service's own exit code when it cannot begin; why stands in its log and the event log.
const CANNOT_BEGIN: u32 = 1;
/// And when another program is to take over: an end that Windows takes for a failure, so that it starts
/// the service again, whoever else meant to.
const TAKEN_OVER: u32 = 2;
/// Pause between two tries to move a new program to the place of the old one, which somebody may still
/// use at a console.
const MOVE_AGAIN: Duration = Duration::from_secs(5);

static FOLDER: OnceLock<PathBuf> = OnceLock::new();
/// How Windows is told where the service of this process stands.
pub(super) static STATUS: OnceLock<ServiceStatusHandle> = OnceLock::new();

/// Why the service ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Not started by the service control manager.
    #[error(
        "only Windows starts this, as the service {NAME}: use `wardring-agent install` to set it up, or \
         `wardring-agent run` at a console"
    )]
    NotService(#[source] windows_service::Error),
    /// The data folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The log.
    #[error("failed to write the log")]
    Log(#[source] std::io::Error),
    /// The settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Windows.
    #[error(transparent)]
    Windows(#[from] OpenError),
    /// The agent.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The runtime.
    #[error("failed to start the runtime")]
    Runtime(#[source] std::io::Error),
}

/// Is the service until it is stopped.
///
/// # Errors
/// Windows did not start this process as the service.
pub fn host(folder: PathBuf) -> Result<(), HostError> {
    FOLDER.get_or_init(|| folder);
    ffi::serve(NAME, serve).map_err(HostError::NotService)
}

fn serve() {
    let Some(folder) = FOLDER.get() else { return };
    let (stop, stopped) = watch::channel(false);
    let (update, updated) = watch::channel(0_u64);
    let handler = move |control| match control {
        // Told to Windows at once, done by the agent: a handler must return.
        ServiceControl::Stop | ServiceControl::Preshutdown => {
            report(ServiceState::StopPending, 0);
            stop.send_replace(true);
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::UserEvent(event) if event.to_raw() == update::CONTROL => {
            update.send_modify(|times| *times += 1);
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        _ => ServiceControlHandlerResult::NotImplemented,
    };
    let Ok(handle) = register(NAME, handler) else { return };
    STATUS.get_or_init(|| handle);
    // Before any work: Windows gives a service half a minute to say so.
    report(ServiceState::Running, 0);
    let code = match live(folder, stopped, updated) {
        Ok(End::Stopped) => 0,
        Ok(End::TakenOver) => TAKEN_OVER,
        Err(error) => {
            Milestone::Refused.tell(&format!("The agent cannot run: {}.", whole(&error)));
            CANNOT_BEGIN
        }
    };
    report(ServiceState::Stopped, code);
}

/// An error with everything that led to it.
pub(super) fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a text does not fail.
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

pub(super) fn report(state: ServiceState, own_code: u32) {
    let Some(handle) = STATUS.get() else { return };
    let controls_accepted = match state {
        ServiceState::Running => ServiceControlAccept::STOP | ServiceControlAccept::PRESHUTDOWN,
        _ => ServiceControlAccept::empty(),
    };
    let exit_code = match own_code {
        0 => ServiceExitCode::NO_ERROR,
        code => ServiceExitCode::ServiceSpecific(code),
    };
    let status = ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state: state,
        controls_accepted,
        exit_code,
        checkpoint: u32::from(state == ServiceState::StopPending),
        wait_hint: if state == ServiceState::StopPending { STOP_WITHIN } else { Duration::ZERO },
        process_id: None,
    };
    if let Err(error) = handle.set_service_status(status) {
        tracing::error!(%error, "Windows does not take the state of the service");
    }
}

/// Why the service ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It was told to.
    Stopped,
    /// Windows is to start another program.
    TakenOver,
}

fn live(
    folder: &Path,
    stop: watch::Receiver<bool>,
    updated: watch::Receiver<u64>,
) -> Result<End, HostError> {
    let settings = prepared(folder)?;
    if begin_update(folder, stop.clone()) == End::TakenOver {
        return Ok(End::TakenOver);
    }
    Milestone::Started.tell(&format!(
        "The agent {} runs as device {}.",
        env!("CARGO_PKG_VERSION"),
        settings.name
    ));
    let runtime = runtime()?;
    let end = runtime.block_on(until_stopped(folder, settings, stop, updated));
    // A call into Windows that hangs does not end for us.
    runtime.shutdown_timeout(PATIENCE);
    if matches!(end, Ok(End::Stopped)) {
        Milestone::Stopping.tell("The agent was told to stop, or Windows shuts down.");
    }
    end
}

/// Is the agent on trial, until `stop` becomes true.
pub(super) fn try_out(folder: &Path, stop: watch::Receiver<bool>) -> Result<(), HostError> {
    let settings = prepared(folder)?;
    let runtime = runtime()?;
    let end = runtime.block_on(async {
        let mut stopped = stop.clone();
        let begun = tokio::select! {
            begun = begin(folder, settings) => begun?,
            () = told(&mut stopped) => return Ok(()),
        };
        let (device, ready) = begun;
        update::say("running");
        ready.run(Arc::new(device), Arc::new(update::OnTrial(ready.gateway())), stop).await;
        Ok(())
    });
    runtime.shutdown_timeout(PATIENCE);
    end
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, HostError> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().map_err(HostError::Runtime)
}

/// Judges the folder, begins the log and reads the settings.
fn prepared(folder: &Path) -> Result<Settings, HostError> {
    // Until the folder is known to be ours, nothing may be written to it.
    let log = match data::secure(folder) {
        Ok(_) => RotatingLog::open(folder).map_err(HostError::Log),
        Err(error) => Err(error.into()),
    };
    let (log, trouble) = log.map_or_else(|error| (None, Some(error)), |log| (Some(log), None));
    begin_log(log);
    match trouble {
        Some(trouble) => Err(trouble),
        None => Ok(Settings::load(folder)?),
    }
}

/// Goes on with an update that was under way when the service started.
fn begin_update(folder: &Path, stop: watch::Receiver<bool>) -> End {
    let begun = Device::find(folder).and_then(|mut device| {
        // At a console nothing is under way that this program is part of.
        let Some(this) = device.running() else { return Ok(Begin::Run(None)) };
        let begun = update::begin(&mut device, this, wall_clock())?;
        if begun == Begin::Move {
            std::thread::spawn(move || move_in(&mut device, &stop));
        }
        Ok(begun)
    });
    match begun {
        Ok(Begin::Restart) => return End::TakenOver,
        Ok(Begin::Run(Some(told))) => tracing::info!("{told}"),
        Ok(Begin::Move) => Milestone::Updated
            .tell(&format!("The agent was updated to {}.", env!("CARGO_PKG_VERSION"))),
        Ok(Begin::Run(None)) => {}
        // The agent matters more; the next start tries again.
        Err(error) => tracing::error!(%error, "an update of the agent is not cleared"),
    }
    End::Stopped
}

fn move_in(device: &mut Device, stop: &watch::Receiver<bool>) {
    while let Err(error) = update::move_in(device) {
        tracing::info!(%error, "the new program is not in its place yet");
        std::thread::sleep(MOVE_AGAIN);
        if *stop.borrow() {
            return;
        }
    }
}

/// Without a file, milestones still go to the event log.
pub(super) fn begin_log(log: Option<RotatingLog>) {
    let filter = crate::log::filter(LevelFilter::INFO);
    let lines = log.map(|log| tracing_subscriber::fmt::layer().json().with_writer(log));
    tracing_subscriber::registry().with(filter).with(lines).with(EventLog::open()).init();
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "the agent failed")));
}

async fn until_stopped(
    folder: &Path,
    settings: Settings,
    stop: watch::Receiver<bool>,
    mut updated: watch::Receiver<u64>,
) -> Result<End, HostError> {
    loop {
        let mut stopped = stop.clone();
        let begun = tokio::select! {
            begun = begin(folder, settings.clone()) => Some(begun?),
            () = told(&mut stopped) => return Ok(End::Stopped),
            // A device that is not enrolled yet may need just this.
            () = ordered(folder, &mut updated) => None,
        };
        let mut was_in_contact = false;
        let mut refusal = None;
        if let Some((device, ready)) = begun {
            let device = Arc::new(device);
            let gateway = Arc::new(Noted::new(ready.gateway()));
            let (end, ended) = watch::channel(false);
            let run = ready.run(Arc::clone(&device), Arc::clone(&gateway), ended);
            tokio::pin!(run);
            tokio::select! {
                _ = &mut run => return Ok(End::Stopped),
                () = told(&mut stopped) => {
                    end.send_replace(true);
                    run.await;
                    return Ok(End::Stopped);
                }
                () = ordered(folder, &mut updated) => {
                    end.send_replace(true);
                    run.await;
                }
            }
            was_in_contact = gateway.has_contact();
            refusal = tokio::select! {
                refusal = not_now(folder, device) => refusal,
                () = told(&mut stopped) => return Ok(End::Stopped),
            };
        }
        // The lock on the folder is free: the new program takes it.
        let (data, stop) = (folder.to_owned(), stop.clone());
        let tried = tokio::task::spawn_blocking(move || {
            let mut device = Device::find(&data)?;
            if device.running() != Some(Which::Present) {
                return Ok(Tried::Nothing);
            }
            update::take_up(&mut device, refusal.as_deref(), was_in_contact, &stop)
        });
        match tried.await.expect("trying does not panic, and nothing cancels it") {
            Ok(Tried::Nothing) => {}
            Ok(Tried::Stopped) => return Ok(End::Stopped),
            Ok(Tried::Switched(told)) => {
                tracing::info!("{told}");
                return Ok(End::TakenOver);
            }
            Ok(Tried::Stays(told)) => Milestone::UpdateTakenBack.tell(&told),
            Err(error) => Milestone::UpdateTakenBack
                .tell(&format!("An update of the agent failed half-way: {error}.")),
        }
    }
}

/// Resolves when `stop` becomes true. What the channel hands out is let go of at once: whoever holds on to it
/// keeps the next control from being taken.
pub(super) async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Resolves when there is a new program to try. Never after the service was told to stop: Windows lets go
/// of the handler then, and with it of the channel.
async fn ordered(folder: &Path, updated: &mut watch::Receiver<u64>) {
    // Every user of the device may tell the service so, as often as he likes.
    let (mut stray, mut failed) = (Seldom::default(), Seldom::default());
    loop {
        // What is dropped half-way is looked at again.
        let mut seen = updated.clone();
        if seen.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let data = folder.to_owned();
        let heeded = tokio::task::spawn_blocking(move || heed(&data)).await;
        let heeded = heeded.expect("looking does not panic, and nothing cancels it");
        *updated = seen;
        match heeded {
            Ok(Heed::TakeUp) => return,
            Ok(Heed::Stay(told)) => Milestone::UpdateTakenBack.tell(&told),
            Ok(Heed::Ignore) if stray.is_due(Instant::now()) => {
                tracing::info!("the service was told of a new program, and there is none")
            }
            Ok(Heed::Ignore) => {}
            Err(error) if failed.is_due(Instant::now()) => {
                tracing::error!(%error, "an update of the agent is not cleared")
            }
            Err(_) => {}
        }
    }
}

fn heed(folder: &Path) -> std::io::Result<Heed> {
    let mut device = Device::find(folder)?;
    if device.running() != Some(Which::Present) {
        return Ok(Heed::Ignore);
    }
    update::heed(&mut device, || working_for(folder), wall_clock())
}

/// Why the agent cannot be exchanged now: it took a job since the order, or left something to a restart.
async fn not_now(folder: &Path, device: Arc<Windows>) -> Option<String> {
    if let Some(why) = working_for(folder) {
        return Some(why);
    }
    let looked = tokio::task::spawn_blocking(move || device.facts().pending_reboot);
    // The agent does nothing else meanwhile, so a Windows that does not answer must have an end.
    let Ok(looked) = tokio::time::timeout(FACTS_WITHIN, looked).await else {
        return Some("Windows does not tell whether it waits for a restart".to_owned());
    };
    let signs = looked.expect("looking does not panic, and nothing cancels it").into_iter();
    let hard: Vec<String> = signs.filter(|sign| sign.hard).map(|sign| sign.source).collect();
    let waits = || format!("Windows waits for a restart ({})", hard.join(", "));
    (!hard.is_empty()).then(waits)
}

async fn begin(folder: &Path, settings: Settings) -> Result<(Windows, Ready), HostError> {
    let (data, proxy) = (folder.to_owned(), settings.proxy.clone());
    // It may wait a minute for the event log.
    let opened = tokio::task::spawn_blocking(move || Windows::open(&data, proxy.as_deref())).await;
    let device = opened.expect("opening does not panic, and nothing cancels it")?;
    let setup = Setup {
        gateways: settings.gateways,
        proxy: settings.proxy,
        token: settings::waiting_token(folder)?,
        name: settings.name,
        folder: folder.to_owned(),
        durability: Durability::Disk,
        poll_wait_s: POLL_WAIT_S,
        // Nobody waits at a console: it is tried until somebody opens the way.
        enrol_within: Duration::MAX,
    };
    let ready = setup.prepare().await?;
    settings::forget_token(folder)?;
    Ok((device, ready))
}
