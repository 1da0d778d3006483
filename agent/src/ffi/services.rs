//! Services, one by one: how one stands, and telling it to start or to stop.

use windows::Win32::System::Services::{
    CloseServiceHandle, ControlService, OpenSCManagerW, OpenServiceW, QueryServiceStatusEx,
    SC_HANDLE, SC_MANAGER_CONNECT, SC_STATUS_PROCESS_INFO, SERVICE_CONTROL_STOP,
    SERVICE_QUERY_STATUS, SERVICE_START, SERVICE_STATUS, SERVICE_STATUS_PROCESS, SERVICE_STOP,
    StartServiceW,
};
use windows::core::{HSTRING, PCWSTR};

/// How a service stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceStatus {
    /// State, 1 to 7.
    pub state: u32,
    /// Its process; 0 is none.
    pub pid: u32,
    /// Counts up while it starts or stops.
    pub checkpoint: u32,
    /// How long the next step may take, by its own word, milliseconds.
    pub wait_hint_ms: u32,
    /// Win32 error of its last end; 1066 means that the next one says more.
    pub exit_code: u32,
    /// Its own error code.
    pub own_exit_code: u32,
}

/// One service, opened to be looked at, started and stopped.
pub struct Service {
    handle: Handle,
    // After the service: it is closed first.
    _manager: Handle,
}

impl Service {
    /// Opens a service.
    ///
    /// # Errors
    /// It does not exist, or may not be touched.
    pub fn open(name: &str) -> windows::core::Result<Service> {
        let access = SERVICE_QUERY_STATUS | SERVICE_START | SERVICE_STOP;
        // SAFETY: null names mean this computer and its active database; Handle closes it.
        let manager =
            Handle(unsafe { OpenSCManagerW(PCWSTR::null(), PCWSTR::null(), SC_MANAGER_CONNECT)? });
        // SAFETY: the name lives through the call; Handle closes what is opened.
        let handle = Handle(unsafe { OpenServiceW(manager.0, &HSTRING::from(name), access)? });
        Ok(Service { handle, _manager: manager })
    }

    /// Looks at it.
    ///
    /// # Errors
    /// Windows does not tell.
    pub fn status(&self) -> windows::core::Result<ServiceStatus> {
        let (mut status, mut needed) = (SERVICE_STATUS_PROCESS::default(), 0);
        // SAFETY: the structure is plain numbers, so any byte of it may be written.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(
                (&raw mut status).cast::<u8>(),
                size_of::<SERVICE_STATUS_PROCESS>(),
            )
        };
        let level = SC_STATUS_PROCESS_INFO;
        // SAFETY: the handle is open; the slice carries its own length.
        unsafe { QueryServiceStatusEx(self.handle.0, level, Some(bytes), &mut needed)? };
        Ok(ServiceStatus {
            state: status.dwCurrentState.0,
            pid: status.dwProcessId,
            checkpoint: status.dwCheckPoint,
            wait_hint_ms: status.dwWaitHint,
            exit_code: status.dwWin32ExitCode,
            own_exit_code: status.dwServiceSpecificExitCode,
        })
    }

    /// Tells it to start, with what it depends on; does not wait until it runs.
    ///
    /// # Errors
    /// Windows refuses.
    pub fn start(&self) -> windows::core::Result<()> {
        // SAFETY: the handle is open; there are no arguments.
        unsafe { StartServiceW(self.handle.0, None) }
    }

    /// Tells it to stop; does not wait until it has.
    ///
    /// # Errors
    /// Windows refuses, for example because another service that depends on it runs.
    pub fn stop(&self) -> windows::core::Result<()> {
        let mut status = SERVICE_STATUS::default();
        // SAFETY: the handle is open, and the structure lives through the call.
        unsafe { ControlService(self.handle.0, SERVICE_CONTROL_STOP, &mut status) }
    }
}

struct Handle(SC_HANDLE);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle was opened by us and is used by nobody else. A failure leaks it at worst.
        let _ = unsafe { CloseServiceHandle(self.0) };
    }
}
