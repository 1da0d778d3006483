//! Being the service: from the start by the service control manager to the stop.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use windows_service::service::{
    ServiceControl, ServiceControlAccept, ServiceExitCode, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{
    ServiceControlHandlerResult, ServiceStatusHandle, register,
};

use super::NAME;
use super::event_log::EventLog;
use crate::folder::FolderError;
use crate::journal::Durability;
use crate::log::RotatingLog;
use crate::milestone::Milestone;
use crate::platform::windows::{OpenError, Windows};
use crate::run::{Ready, Setup, SetupError};
use crate::settings::{self, Settings, SettingsError};
use crate::{ffi, folder as data};

/// How long Windows waits for the agent before it goes down. What counts is in the journal already;
/// this is for ending calls in good order.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(20);
/// How long acts that hang in Windows are waited for at the end.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest that a gateway is asked to hold a poll, seconds.
const POLL_WAIT_S: u64 = 55;
/// The service's own exit code when it cannot begin; why stands in its log and the event log.
const CANNOT_BEGIN: u32 = 1;

static FOLDER: OnceLock<PathBuf> = OnceLock::new();
static STATUS: OnceLock<ServiceStatusHandle> = OnceLock::new();

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
    let handler = move |control| match control {
        // Told to Windows at once, done by the agent: a handler must return.
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
    // Before any work: Windows gives a service half a minute to say so.
    report(ServiceState::Running, 0);
    let code = match live(folder, stopped) {
        Ok(()) => 0,
        Err(error) => {
            Milestone::Refused.tell(&format!("The agent cannot run: {}.", whole(&error)));
            CANNOT_BEGIN
        }
    };
    report(ServiceState::Stopped, code);
}

/// An error with everything that led to it.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a text does not fail.
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

fn report(state: ServiceState, own_code: u32) {
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

fn live(folder: &Path, stop: watch::Receiver<bool>) -> Result<(), HostError> {
    // Until the folder is known to be ours, nothing may be written to it.
    let log = match data::secure(folder) {
        Ok(_) => RotatingLog::open(folder).map_err(HostError::Log),
        Err(error) => Err(error.into()),
    };
    let (log, trouble) = log.map_or_else(|error| (None, Some(error)), |log| (Some(log), None));
    begin_log(log);
    if let Some(trouble) = trouble {
        return Err(trouble);
    }
    let settings = Settings::load(folder)?;
    Milestone::Started.tell(&format!(
        "The agent {} runs as device {}.",
        env!("CARGO_PKG_VERSION"),
        settings.name
    ));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(HostError::Runtime)?;
    let end = runtime.block_on(until_stopped(folder, settings, stop));
    // A call into Windows that hangs does not end for us.
    runtime.shutdown_timeout(PATIENCE);
    if end.is_ok() {
        Milestone::Stopping.tell("The agent was told to stop, or Windows shuts down.");
    }
    end
}

/// Without a file, milestones still go to the event log.
fn begin_log(log: Option<RotatingLog>) {
    let filter = EnvFilter::try_from_env("WARDRING_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = log.map(|log| tracing_subscriber::fmt::layer().json().with_writer(log));
    tracing_subscriber::registry().with(filter).with(lines).with(EventLog::open()).init();
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "the agent failed")));
}

async fn until_stopped(
    folder: &Path,
    settings: Settings,
    mut stop: watch::Receiver<bool>,
) -> Result<(), HostError> {
    let begun = tokio::select! {
        begun = begin(folder, settings) => Some(begun?),
        _ = stop.wait_for(|stop| *stop) => None,
    };
    if let Some((device, ready)) = begun {
        ready.run(Arc::new(device), ready.gateway(), stop).await;
    }
    Ok(())
}

async fn begin(folder: &Path, settings: Settings) -> Result<(Windows, Ready), HostError> {
    let (data, proxy) = (folder.to_owned(), settings.proxy.clone());
    // It may wait half a minute for the event log.
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
