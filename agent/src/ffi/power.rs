//! Restarts of this computer, and what it runs on.

use windows::Win32::Foundation::{CloseHandle, ERROR_NOT_ALL_ASSIGNED, GetLastError, HANDLE, LUID};
use windows::Win32::Security::{
    AdjustTokenPrivileges, LUID_AND_ATTRIBUTES, LookupPrivilegeValueW, SE_PRIVILEGE_ENABLED,
    SE_SHUTDOWN_NAME, TOKEN_ADJUST_PRIVILEGES, TOKEN_PRIVILEGES, TOKEN_QUERY,
};
use windows::Win32::System::Power::{GetSystemPowerStatus, SYSTEM_POWER_STATUS};
use windows::Win32::System::Shutdown::{
    AbortSystemShutdownW, InitiateSystemShutdownExW, SHUTDOWN_REASON,
};
use windows::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};
use windows::core::{HSTRING, PCWSTR};

/// A restart to order.
#[derive(Clone, Debug)]
pub struct Restart<'a> {
    /// What people read meanwhile.
    pub message: &'a str,
    /// Seconds in which it can be taken back; 0 cannot be.
    pub grace_s: u32,
    /// Whether programs that do not end are ended.
    pub is_forced: bool,
    /// Microsoft's reason code.
    pub reason: u32,
}

/// Orders a restart. That Windows takes the order does not mean that it will carry it out.
///
/// # Errors
/// Windows refuses.
pub fn restart(order: &Restart<'_>) -> windows::core::Result<()> {
    enable_shutdown()?;
    let message = HSTRING::from(order.message);
    let reason = SHUTDOWN_REASON(order.reason);
    // SAFETY: the null name means this computer; the message lives through the call.
    unsafe {
        InitiateSystemShutdownExW(
            PCWSTR::null(),
            &message,
            order.grace_s,
            order.is_forced,
            true,
            reason,
        )
    }
}

/// Takes back a restart whose grace runs, whoever ordered it.
///
/// # Errors
/// None is pending, or Windows refuses.
pub fn abort_restart() -> windows::core::Result<()> {
    enable_shutdown()?;
    // SAFETY: the null name means this computer.
    unsafe { AbortSystemShutdownW(PCWSTR::null()) }
}

/// Switches on the privilege that restarts need; LocalSystem and administrators hold it, off.
fn enable_shutdown() -> windows::core::Result<()> {
    let mut token = HANDLE::default();
    let access = TOKEN_ADJUST_PRIVILEGES | TOKEN_QUERY;
    // SAFETY: the pseudo handle needs no closing; the token lives through the call and is closed
    // by Token.
    unsafe { OpenProcessToken(GetCurrentProcess(), access, &mut token)? };
    let token = Token(token);
    let mut luid = LUID::default();
    // SAFETY: the name is a constant of Windows, and `luid` lives through the call.
    unsafe { LookupPrivilegeValueW(PCWSTR::null(), SE_SHUTDOWN_NAME, &mut luid)? };
    let wanted = TOKEN_PRIVILEGES {
        PrivilegeCount: 1,
        Privileges: [LUID_AND_ATTRIBUTES { Luid: luid, Attributes: SE_PRIVILEGE_ENABLED }],
    };
    // SAFETY: the structure holds one privilege, as it says, and lives through the call.
    unsafe { AdjustTokenPrivileges(token.0, false, Some(&wanted), 0, None, None)? };
    // The call succeeds also when the token does not hold the privilege, and says so only here.
    // SAFETY: there is nothing that could go wrong.
    let last = unsafe { GetLastError() };
    if last == ERROR_NOT_ALL_ASSIGNED { Err(last.into()) } else { Ok(()) }
}

struct Token(HANDLE);

impl Drop for Token {
    fn drop(&mut self) {
        // SAFETY: the handle was opened by us and is used by nobody else. A failure leaks it at worst.
        let _ = unsafe { CloseHandle(self.0) };
    }
}

/// What the computer runs on, by Microsoft's numbers: ACLineStatus, BatteryFlag and BatteryLifePercent.
///
/// # Errors
/// Windows does not tell.
pub fn power_status() -> windows::core::Result<(u8, u8, u8)> {
    let mut status = SYSTEM_POWER_STATUS::default();
    // SAFETY: the structure lives through the call.
    unsafe { GetSystemPowerStatus(&mut status)? };
    Ok((status.ACLineStatus, status.BatteryFlag, status.BatteryLifePercent))
}
