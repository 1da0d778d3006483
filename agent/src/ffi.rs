//! The calls into Windows that need `unsafe`, each behind a safe function. Nothing else in the agent
//! may use it.
#![allow(unsafe_code, reason = "the one place for calls into Windows")]

mod bitlocker;
mod configmgr;
mod events;
mod folders;
mod host;
pub mod look;
mod milestones;
mod neighbours;
mod ports;
mod power;
mod processes;
mod roots;
mod secret;
mod security;
mod services;
mod sessions;
mod trust;
mod wmi;
pub mod wua;

pub use bitlocker::system_drive_protection;
pub use configmgr::configmgr_waits_for_restart;
pub use events::newest_events;
pub use folders::{common_folders, delete_at_restart};
pub use host::serve;
pub use milestones::{EventSource, Weight};
pub use neighbours::{answers_echo, can_echo, find_neighbours, neighbours};
pub use ports::{find_listening_ports, listening_ports};
pub use power::{Restart, abort_restart, power_status, restart};
pub use processes::{ProcessGroup, is_at_work, made, process_images, running_since};
pub use roots::roots;
pub use secret::{unwrap, wrap};
pub use security::{create_folder, is_link, own_account, security_of};
pub use services::{Service, ServiceStatus};
pub use sessions::{ask, is_unlocked, lock, sessions, tell};
pub use trust::publisher;

use std::ffi::OsString;
use std::io;
use std::os::windows::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use windows::Win32::Foundation::{
    CloseHandle, ERROR_INVALID_PARAMETER, ERROR_MORE_DATA, WIN32_ERROR,
};
use windows::Win32::Storage::FileSystem::{
    GetDiskFreeSpaceExW, MOVEFILE_REPLACE_EXISTING, MOVEFILE_WRITE_THROUGH, MoveFileExW,
};
use windows::Win32::System::Registry::{HKEY, RegFlushKey};
use windows::Win32::System::Services::{
    CloseServiceHandle, ENUM_SERVICE_STATUS_PROCESSW, EnumServicesStatusExW, OpenSCManagerW,
    SC_ENUM_PROCESS_INFO, SC_HANDLE, SC_MANAGER_CONNECT, SC_MANAGER_ENUMERATE_SERVICE,
    SERVICE_STATE_ALL, SERVICE_WIN32,
};
use windows::Win32::System::SystemInformation::{
    GetLocalTime, GetSystemDirectoryW, GetSystemFirmwareTable, GetTickCount64, RSMB,
};
use windows::Win32::System::Threading::{
    GetExitCodeProcess, OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION,
};
use windows::core::{HSTRING, PCWSTR};

/// Exit code of a process that has not ended.
const STILL_ACTIVE: u32 = 259;

/// A service as the service control manager lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedService {
    /// Name.
    pub name: String,
    /// State, 1 to 7.
    pub state: u32,
    /// Its process; 0 is none.
    pub pid: u32,
    /// Bits of its type.
    pub kind: u32,
    /// Win32 error of its last end.
    pub exit_code: u32,
}

/// Every service of the device, in one call.
///
/// # Errors
/// The service control manager does not answer.
pub fn list_services() -> windows::core::Result<Vec<ListedService>> {
    let access = SC_MANAGER_CONNECT | SC_MANAGER_ENUMERATE_SERVICE;
    // SAFETY: null names mean this computer and its active database; the handle is closed by Manager.
    let manager = Manager(unsafe { OpenSCManagerW(PCWSTR::null(), PCWSTR::null(), access)? });
    // u64 keeps the records that Windows writes into it aligned.
    let mut buffer: Vec<u64> = Vec::new();
    loop {
        let (mut needed, mut count) = (0, 0);
        // SAFETY: any byte of initialised u64s may be written; the length is that of the buffer.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast::<u8>(), buffer.len() * 8)
        };
        // SAFETY: the pointers live through the call, and the slice carries its own length.
        let listed = unsafe {
            EnumServicesStatusExW(
                manager.0,
                SC_ENUM_PROCESS_INFO,
                SERVICE_WIN32,
                SERVICE_STATE_ALL,
                Some(bytes),
                &mut needed,
                &mut count,
                None,
                PCWSTR::null(),
            )
        };
        match listed {
            Ok(()) => return Ok(records(&buffer, count)),
            // Services may be added between the two calls: leave room for some.
            Err(error) if error.code() == ERROR_MORE_DATA.to_hresult() => {
                buffer = vec![0; buffer.len() + needed as usize / 8 + 512];
            }
            Err(error) => return Err(error),
        }
    }
}

/// Reads the records that Windows wrote at the beginning of `buffer`.
fn records(buffer: &[u64], count: u32) -> Vec<ListedService> {
    let size = size_of::<ENUM_SERVICE_STATUS_PROCESSW>();
    let count = (count as usize).min(buffer.len() * 8 / size);
    // SAFETY: the buffer is aligned, holds at least `count` records, and Windows filled them; their
    // names point into the same buffer, which outlives the slice.
    let records = unsafe {
        std::slice::from_raw_parts(buffer.as_ptr().cast::<ENUM_SERVICE_STATUS_PROCESSW>(), count)
    };
    let listed = records.iter().filter_map(|record| {
        // SAFETY: the name is a string with a terminating zero, within the buffer.
        let name = unsafe { record.lpServiceName.to_string() }.ok()?;
        let status = &record.ServiceStatusProcess;
        Some(ListedService {
            name,
            state: status.dwCurrentState.0,
            pid: status.dwProcessId,
            kind: status.dwServiceType.0,
            exit_code: status.dwWin32ExitCode,
        })
    });
    listed.collect()
}

struct Manager(SC_HANDLE);

impl Drop for Manager {
    fn drop(&mut self) {
        // SAFETY: the handle was opened by us and is used by nobody else. A failure leaks it at worst.
        let _ = unsafe { CloseServiceHandle(self.0) };
    }
}

/// Whether a process exists. One that may not be looked at does.
pub fn process_lives(pid: u32) -> bool {
    // SAFETY: plain values go in; the handle is closed below.
    match unsafe { OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, false, pid) } {
        Err(error) => error.code() != ERROR_INVALID_PARAMETER.to_hresult(),
        Ok(process) => {
            let mut code = 0;
            // SAFETY: the handle is open and `code` lives through the call.
            let asked = unsafe { GetExitCodeProcess(process, &mut code) };
            // SAFETY: the handle was opened by us and is used by nobody else.
            let _ = unsafe { CloseHandle(process) };
            asked.is_err() || code == STILL_ACTIVE
        }
    }
}

/// Milliseconds since the computer was switched on.
pub fn uptime_ms() -> u64 {
    // SAFETY: there is nothing that could go wrong.
    unsafe { GetTickCount64() }
}

/// The hour of the day by the clock that people see.
pub fn local_hour() -> u8 {
    // SAFETY: there is nothing that could go wrong.
    let now = unsafe { GetLocalTime() };
    u8::try_from(now.wHour).unwrap_or_default()
}

/// The folder of Windows' own programs. From Windows itself: an environment variable could name
/// another one.
///
/// # Errors
/// Windows does not tell.
pub fn system_folder() -> windows::core::Result<PathBuf> {
    // Longer than any path without a prefix.
    let mut buffer = [0_u16; 512];
    // SAFETY: the slice carries its own length.
    let length = unsafe { GetSystemDirectoryW(Some(&mut buffer)) } as usize;
    if length == 0 || length > buffer.len() {
        return Err(windows::core::Error::from_thread());
    }
    Ok(PathBuf::from(OsString::from_wide(&buffer[..length])))
}

/// The tables in which the firmware describes this computer; empty where there are none.
pub fn firmware_tables() -> Vec<u8> {
    // SAFETY: without a buffer nothing is written, and the length that is needed is returned.
    let length = unsafe { GetSystemFirmwareTable(RSMB, 0, None) };
    let mut tables = vec![0; length as usize];
    // SAFETY: the slice carries its own length.
    let written = unsafe { GetSystemFirmwareTable(RSMB, 0, Some(&mut tables)) };
    tables.truncate(written as usize);
    tables
}

/// Bytes that are free on the disk of a folder.
///
/// # Errors
/// Windows does not tell.
pub fn free_bytes(folder: &Path) -> windows::core::Result<u64> {
    let mut free = 0;
    // SAFETY: name and number live through the call.
    unsafe { GetDiskFreeSpaceExW(&wide(folder), None, None, Some(&mut free))? };
    Ok(free)
}

/// Writes what was set in a registry key through to the disk.
///
/// # Errors
/// Windows refuses.
pub fn flush(key: &windows_registry::Key) -> windows::core::Result<()> {
    // SAFETY: the key is open as long as it is borrowed.
    unsafe { RegFlushKey(HKEY(key.as_raw())) }.ok()
}

fn wide(path: &Path) -> HSTRING {
    HSTRING::from_wide(&path.as_os_str().encode_wide().collect::<Vec<_>>())
}

/// Puts one file in another's place, through to the disk.
///
/// # Errors
/// Windows refuses.
pub fn replace(from: &Path, to: &Path) -> io::Result<()> {
    let flags = MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH;
    // SAFETY: both names are strings with a terminating zero that live through the call.
    unsafe { MoveFileExW(&wide(from), &wide(to), flags) }.map_err(|error| win32(&error))
}

/// The same error by the number that the standard library knows.
fn win32(error: &windows::core::Error) -> io::Error {
    WIN32_ERROR::from_error(error)
        .map_or_else(|| error.clone().into(), |code| io::Error::from_raw_os_error(code.0 as i32))
}
