//! Restarting one service. Nothing is killed and no start type is changed: what does not stop or
//! start by itself is reported with the numbers that Windows gave.

use std::thread;
use std::time::{Duration, Instant};

use windows::Win32::Foundation::{
    ERROR_SERVICE_ALREADY_RUNNING, ERROR_SERVICE_DISABLED, ERROR_SERVICE_NOT_ACTIVE,
};

use super::order::dependents;
use super::sample::{all, state};
use crate::ffi::{Service, ServiceStatus};
use crate::state::ServiceState;

/// Longest that one service may take to stop or to start.
const LIMIT: Duration = Duration::from_secs(120);
/// Between two looks; the documentation asks for a tenth of the hint, at least a second, which is
/// meant for services that hint at minutes.
const PAUSE: Duration = Duration::from_millis(250);
/// ERROR_SERVICE_SPECIFIC_ERROR: the service has a code of its own.
const OWN_CODE: u32 = 1066;

/// Restarts a service: those that depend on it and run are stopped first and started again after
/// it. Windows starts by itself what the service depends on.
pub(in crate::platform::windows) fn restart(name: &str) -> Result<(), String> {
    let all = all().map_err(|error| format!("the service manager does not answer: {error}"))?;
    let order = dependents(name, &all);
    let mut stopped: Vec<&String> = Vec::new();
    let mut result = Ok(());
    for dependent in &order {
        result = stop(dependent);
        if result.is_err() {
            break;
        }
        stopped.push(dependent);
    }
    let result = result.and_then(|()| stop(name)).and_then(|()| start(name));
    // What we stopped is started again whatever became of the rest.
    let again: Vec<String> =
        stopped.into_iter().rev().filter_map(|dependent| start(dependent).err()).collect();
    match result {
        Ok(()) if again.is_empty() => Ok(()),
        Ok(()) => Err(again.join("; ")),
        Err(error) => Err(error),
    }
}

fn stop(name: &str) -> Result<(), String> {
    let service = open(name)?;
    let status = look(name, &service)?;
    match state(status.state, status.pid) {
        ServiceState::Stopped => return Ok(()),
        ServiceState::StopPending => {}
        _ => match service.stop() {
            Err(error) if error.code() != ERROR_SERVICE_NOT_ACTIVE.to_hresult() => {
                return Err(format!("{name} does not stop: {error}"));
            }
            _ => {}
        },
    }
    wait(name, &service, ServiceState::Stopped)
}

fn start(name: &str) -> Result<(), String> {
    let service = open(name)?;
    match service.start() {
        Err(error) if error.code() == ERROR_SERVICE_DISABLED.to_hresult() => {
            return Err(format!("{name} is disabled, and its start type is not ours to change"));
        }
        Err(error) if error.code() != ERROR_SERVICE_ALREADY_RUNNING.to_hresult() => {
            let ended = look(name, &service).map(|status| ended(&status)).unwrap_or_default();
            return Err(format!("{name} does not start: {error}{ended}"));
        }
        _ => {}
    }
    wait(name, &service, ServiceState::Running)
}

/// Waits until a service is where it should be, or until it says that it will not get there.
fn wait(name: &str, service: &Service, wanted: ServiceState) -> Result<(), String> {
    let until = Instant::now() + LIMIT;
    loop {
        let status = look(name, service)?;
        let found = state(status.state, status.pid);
        if found == wanted {
            return Ok(());
        }
        if wanted == ServiceState::Running && found == ServiceState::Stopped {
            return Err(format!("{name} started and stopped again{}", ended(&status)));
        }
        if Instant::now() > until {
            let seconds = LIMIT.as_secs();
            return Err(format!("{name} is {} after {seconds} seconds", found.as_str()));
        }
        thread::sleep(PAUSE);
    }
}

/// What a service left when it ended.
fn ended(status: &ServiceStatus) -> String {
    match status.exit_code {
        0 => String::new(),
        OWN_CODE => format!(" (its own error {})", status.own_exit_code),
        code => format!(" (error {code})"),
    }
}

fn open(name: &str) -> Result<Service, String> {
    Service::open(name).map_err(|error| format!("{name} cannot be opened: {error}"))
}

fn look(name: &str, service: &Service) -> Result<ServiceStatus, String> {
    service.status().map_err(|error| format!("{name} cannot be looked at: {error}"))
}
