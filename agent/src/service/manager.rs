//! The service control manager, with our service in it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use windows::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_SERVICE_DOES_NOT_EXIST, ERROR_SERVICE_MARKED_FOR_DELETE,
    ERROR_SERVICE_NOT_ACTIVE, WIN32_ERROR,
};
use windows_service::Error;
use windows_service::service::{
    Service, ServiceAccess, ServiceAction, ServiceActionType, ServiceDependency,
    ServiceErrorControl, ServiceExitCode, ServiceFailureActions, ServiceFailureResetPeriod,
    ServiceInfo, ServiceStartType, ServiceState, ServiceType, UserEventCode,
};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};

use super::command::Command;
use super::host::STOP_WITHIN;
use super::{DESCRIPTION, DISPLAY_NAME, NAME, program, update};
use crate::ffi;

/// Longest that a service may take to start or to stop. It says that it runs before it does
/// anything, and stops in the time that it asks Windows for.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Pauses before Windows starts an agent again that ended, the last one for all further ends.
const RESTART_AFTER: [Duration; 3] =
    [Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(300)];
/// So long without an end, and Windows counts anew.
const FORGIVEN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// What the service control manager does not do for us.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// No rights.
    #[error("this needs an administrator: start it from an elevated prompt")]
    NotAdministrator,
    /// The name is taken.
    #[error(
        "a service {NAME} exists and starts {found}, not {wanted}; remove that one first with `sc \
         delete {NAME}`"
    )]
    OtherProgram {
        /// What it starts.
        found: PathBuf,
        /// What ours starts.
        wanted: PathBuf,
    },
    /// An earlier removal is not over.
    #[error(
        "the service {NAME} is being removed; close the windows that show services, or restart"
    )]
    BeingRemoved,
    /// It does not come to the state it was told to.
    #[error("the service {NAME} is {found:?} after {waited_s} s")]
    Stuck {
        /// Where it is.
        found: ServiceState,
        /// How long it was waited for.
        waited_s: u64,
    },
    /// It ended right after its start.
    #[error("the service {NAME} started and ended at once ({code}); its log says why")]
    Ended {
        /// Its exit code.
        code: String,
    },
    /// Something else.
    #[error("Windows refused to {act} the service {NAME}")]
    Refused {
        /// What was tried.
        act: &'static str,
        /// Why.
        source: Error,
    },
}

fn refused(act: &'static str) -> impl Fn(Error) -> ManagerError {
    move |source| match code(&source) {
        Some(ERROR_ACCESS_DENIED) => ManagerError::NotAdministrator,
        Some(ERROR_SERVICE_MARKED_FOR_DELETE) => ManagerError::BeingRemoved,
        _ => ManagerError::Refused { act, source },
    }
}

/// Whether there is no service of that name.
pub(super) fn does_not_exist(error: &Error) -> bool {
    code(error) == Some(ERROR_SERVICE_DOES_NOT_EXIST)
}

fn code(error: &Error) -> Option<WIN32_ERROR> {
    let Error::Winapi(error) = error else { return None };
    error.raw_os_error().map(|code| WIN32_ERROR(code.cast_unsigned()))
}

/// The service control manager.
pub(super) struct Manager(ServiceManager);

/// Whether a service could be made; none is.
///
/// # Errors
/// It could not.
pub fn create_right() -> Result<(), ManagerError> {
    Manager::open().map(|_| ())
}

impl Manager {
    /// Opens it, for changes.
    pub fn open() -> Result<Manager, ManagerError> {
        let access = ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE;
        let manager = ServiceManager::local_computer(None::<&OsStr>, access);
        manager.map(Manager).map_err(refused("reach"))
    }

    /// Our service, where there is one.
    pub fn find(&self, program: &Path) -> Result<Option<Installed>, ManagerError> {
        let service = match self.0.open_service(NAME, ServiceAccess::ALL_ACCESS) {
            Ok(service) => service,
            Err(error) if does_not_exist(&error) => return Ok(None),
            Err(error) => return Err(refused("open")(error)),
        };
        let config = service.query_config().map_err(refused("look at"))?;
        let command = Command::parse(&config.executable_path.to_string_lossy());
        if !command.starts(program) && !command.starts(&program::beside(program)) {
            let (found, wanted) = (command.program, program.to_owned());
            return Err(ManagerError::OtherProgram { found, wanted });
        }
        Ok(Some(Installed { service, command }))
    }

    /// Makes our service.
    pub fn create(&self, command: Command) -> Result<Installed, ManagerError> {
        let made = self.0.create_service(&info(&command), ServiceAccess::ALL_ACCESS);
        Ok(Installed { service: made.map_err(refused("create"))?, command })
    }
}

fn info(command: &Command) -> ServiceInfo {
    ServiceInfo {
        name: NAME.into(),
        display_name: DISPLAY_NAME.into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: command.program.clone(),
        launch_arguments: command.arguments(),
        // COM needs it. Nothing else: what fails after an update must not keep the agent away.
        dependencies: vec![ServiceDependency::Service("RpcSs".into())],
        account_name: None,
        account_password: None,
    }
}

/// Our service.
pub(super) struct Installed {
    service: Service,
    /// What it starts.
    pub command: Command,
}

/// What Windows does when a service dies: starts it again after each of these times, and forgets in a day.
pub(super) fn started_again(after: &[Duration]) -> ServiceFailureActions {
    let restart =
        |delay: &Duration| ServiceAction { action_type: ServiceActionType::Restart, delay: *delay };
    ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(FORGIVEN_AFTER),
        reboot_msg: None,
        command: None,
        actions: Some(after.iter().map(restart).collect()),
    }
}

impl Installed {
    /// Makes everything about it as it should be.
    pub fn configure(&self) -> Result<(), ManagerError> {
        let service = &self.service;
        service.change_config(&info(&self.command)).map_err(refused("change"))?;
        let actions = started_again(&RESTART_AFTER);
        service.update_failure_actions(actions).map_err(refused("set the recovery of"))?;
        // The service works without these, so a Windows that does not know one is told about only.
        let hints = [
            ("description", service.set_description(DESCRIPTION)),
            ("recovery after an error", service.set_failure_actions_on_non_crash_failures(true)),
            ("start without delay", service.set_delayed_auto_start(false)),
            ("time to stop", service.set_preshutdown_timeout(STOP_WITHIN)),
        ];
        for (hint, set) in hints {
            if let Err(error) = set {
                let code = code(&error).map(|code| code.0);
                tracing::info!(hint, code, "Windows does not take a setting of the service");
            }
        }
        Ok(())
    }

    /// Lets it start this program from its next start on, with the same arguments.
    pub fn start_with(&self, program: &Path) -> Result<(), ManagerError> {
        let command = Command { program: program.to_owned(), folder: self.command.folder.clone() };
        self.service.change_config(&info(&command)).map_err(refused("change"))
    }

    /// Tells it that a new program lies beside its own. Every user may tell a service such a thing
    /// (Microsoft Learn, "Service Security and Access Rights"), so the marker says whether it is true.
    pub fn tell_of_update(&self) -> Result<(), ManagerError> {
        let code = UserEventCode::from_raw(update::CONTROL).expect("it is one of 128 to 255");
        self.service.notify(code).map(|_| ()).map_err(refused("tell"))
    }

    /// Whether it runs, or is about to.
    pub fn is_active(&self) -> Result<bool, ManagerError> {
        let status = self.service.query_status().map_err(refused("look at"))?;
        Ok(status.current_state != ServiceState::Stopped)
    }

    /// Starts it, and waits until it says that it runs.
    pub fn start(&self) -> Result<(), ManagerError> {
        self.service.start::<&OsStr>(&[]).map_err(refused("start"))?;
        let begun = Instant::now();
        loop {
            let status = self.service.query_status().map_err(refused("look at"))?;
            match status.current_state {
                ServiceState::Running => return Ok(()),
                ServiceState::Stopped => {
                    let code = match status.exit_code {
                        ServiceExitCode::Win32(code) => format!("error {code}"),
                        ServiceExitCode::ServiceSpecific(code) => format!("own error {code}"),
                    };
                    return Err(ManagerError::Ended { code });
                }
                found => wait(begun, found)?,
            }
        }
    }

    /// Stops it, and waits until its process is gone: a program that runs cannot be replaced.
    pub fn stop(&self) -> Result<(), ManagerError> {
        let before = self.service.query_status().map_err(refused("look at"))?;
        match self.service.stop() {
            Err(error) if code(&error) == Some(ERROR_SERVICE_NOT_ACTIVE) => {}
            Err(error) if before.current_state != ServiceState::StopPending => {
                return Err(refused("stop")(error));
            }
            _ => {}
        }
        let begun = Instant::now();
        let lives = || before.process_id.is_some_and(|pid| pid != 0 && ffi::process_lives(pid));
        loop {
            let status = self.service.query_status().map_err(refused("look at"))?;
            if status.current_state == ServiceState::Stopped && !lives() {
                return Ok(());
            }
            wait(begun, status.current_state)?;
        }
    }

    /// Removes it.
    pub fn delete(&self) -> Result<(), ManagerError> {
        self.service.delete().map_err(refused("remove"))
    }
}

fn wait(begun: Instant, found: ServiceState) -> Result<(), ManagerError> {
    if begun.elapsed() > PATIENCE {
        return Err(ManagerError::Stuck { found, waited_s: PATIENCE.as_secs() });
    }
    std::thread::sleep(LOOK_AGAIN);
    Ok(())
}
