//! Restarts of this computer, and the people who are logged on to it.

use windows::Win32::Foundation::{CloseHandle, ERROR_NOT_ALL_ASSIGNED, GetLastError, HANDLE, LUID};
use windows::Win32::Security::{
    AdjustTokenPrivileges, LUID_AND_ATTRIBUTES, LookupPrivilegeValueW, SE_PRIVILEGE_ENABLED,
    SE_SHUTDOWN_NAME, TOKEN_ADJUST_PRIVILEGES, TOKEN_PRIVILEGES, TOKEN_QUERY,
};
use windows::Win32::System::RemoteDesktop::{
    WTS_SESSION_INFOW, WTSActive, WTSEnumerateSessionsW, WTSFreeMemory, WTSSendMessageW,
};
use windows::Win32::System::Shutdown::{
    AbortSystemShutdownW, InitiateSystemShutdownExW, SHUTDOWN_REASON,
};
use windows::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};
use windows::Win32::UI::WindowsAndMessaging::{MB_ICONWARNING, MB_OK, MESSAGEBOX_RESULT};
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

/// Sessions in which somebody works at this moment, on the spot or remotely.
///
/// # Errors
/// Windows does not tell.
pub fn active_sessions() -> windows::core::Result<Vec<u32>> {
    let (mut first, mut count) = (std::ptr::null_mut::<WTS_SESSION_INFOW>(), 0);
    // SAFETY: both places live through the call; what Windows allocates is freed below.
    unsafe { WTSEnumerateSessionsW(None, 0, 1, &mut first, &mut count)? };
    if first.is_null() {
        return Ok(Vec::new());
    }
    // SAFETY: Windows says that so many records begin there; they are copied before they are freed.
    let sessions = unsafe { std::slice::from_raw_parts(first, count as usize) };
    let active = sessions.iter().filter(|session| session.State == WTSActive);
    let ids = active.map(|session| session.SessionId).collect();
    // SAFETY: Windows allocated it for us, and nothing refers to it any more.
    unsafe { WTSFreeMemory(first.cast()) };
    Ok(ids)
}

/// Shows a message in a session for a while; does not wait for anybody to read it.
///
/// # Errors
/// The session is gone.
pub fn tell(session: u32, title: &str, message: &str, seconds: u32) -> windows::core::Result<()> {
    let (title, message) = (HSTRING::from(title), HSTRING::from(message));
    let bytes = |text: &HSTRING| u32::try_from(text.len() * 2).unwrap_or(u32::MAX);
    let mut response = MESSAGEBOX_RESULT::default();
    // SAFETY: the texts are as long as we say and live through the call, as does the response, which
    // nobody writes later because the call does not wait.
    unsafe {
        WTSSendMessageW(
            None,
            session,
            &title,
            bytes(&title),
            &message,
            bytes(&message),
            MB_OK | MB_ICONWARNING,
            seconds,
            &mut response,
            false,
        )
    }
}
