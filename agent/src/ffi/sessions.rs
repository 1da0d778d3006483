//! Sessions of people, and telling them something.

use windows::Win32::System::RemoteDesktop::{
    WTS_SESSION_INFOW, WTS_SESSIONSTATE_UNLOCK, WTSEnumerateSessionsW, WTSFreeMemory, WTSINFOEXW,
    WTSQuerySessionInformationW, WTSSendMessageW, WTSSessionInfoEx,
};
use windows::Win32::UI::WindowsAndMessaging::{
    MB_DEFBUTTON2, MB_ICONQUESTION, MB_ICONWARNING, MB_OK, MB_OKCANCEL, MB_TOPMOST,
    MESSAGEBOX_RESULT, MESSAGEBOX_STYLE,
};
use windows::core::{HSTRING, PWSTR};

/// Every session with its number and Windows' number for its state; no names.
///
/// # Errors
/// Windows does not tell.
pub fn sessions() -> windows::core::Result<Vec<(u32, i32)>> {
    let (mut first, mut count) = (std::ptr::null_mut::<WTS_SESSION_INFOW>(), 0);
    // SAFETY: both places live through the call; what Windows allocates is freed below.
    unsafe { WTSEnumerateSessionsW(None, 0, 1, &mut first, &mut count)? };
    if first.is_null() {
        return Ok(Vec::new());
    }
    // SAFETY: Windows says that so many records begin there; they are copied before they are freed.
    let records = unsafe { std::slice::from_raw_parts(first, count as usize) };
    let sessions = records.iter().map(|session| (session.SessionId, session.State.0)).collect();
    // SAFETY: Windows allocated it for us, and nothing refers to it any more.
    unsafe { WTSFreeMemory(first.cast()) };
    Ok(sessions)
}

/// Shows a message in a session for a while; does not wait for anybody to read it.
///
/// # Errors
/// The session is gone.
pub fn tell(session: u32, title: &str, message: &str, seconds: u32) -> windows::core::Result<()> {
    let style = MB_OK | MB_ICONWARNING;
    show(session, (title, message), style, seconds, false).map(drop)
}

/// Asks a question with the buttons OK and Cancel in a session, waits for a button at most so long, and tells
/// Windows' number for what came of it: that of the button, or 32000 (IDTIMEOUT). These buttons have no
/// letter of their own, and Enter, Space and Esc all press Cancel: what somebody was typing agrees to nothing
/// where the box gets the keyboard.
///
/// # Errors
/// The session is gone.
pub fn ask(session: u32, title: &str, message: &str, seconds: u32) -> windows::core::Result<i32> {
    let style = MB_OKCANCEL | MB_ICONQUESTION | MB_DEFBUTTON2 | MB_TOPMOST;
    // To Windows, no time at all is no end at all.
    show(session, (title, message), style, seconds.max(1), true)
}

/// Whether a session is known to be unlocked; one that is gone, or of which Windows does not know it, is not.
pub fn is_unlocked(session: u32) -> bool {
    lock(session).is_ok_and(|lock| lock == Some(WTS_SESSIONSTATE_UNLOCK))
}

/// Windows' number for the lock of a session: 0 locked, 1 unlocked, others where it does not know
/// (Windows documentation, `WTSINFOEX_LEVEL1_W`, `SessionFlags`); `None` where it answers in another shape.
///
/// # Errors
/// The session is gone.
pub fn lock(session: u32) -> windows::core::Result<Option<u32>> {
    let (mut told, mut bytes) = (PWSTR::null(), 0);
    let (class, into) = (WTSSessionInfoEx, &mut told);
    // SAFETY: both places live through the call; what Windows allocates is freed below.
    unsafe { WTSQuerySessionInformationW(None, session, class, into, &mut bytes)? };
    if told.is_null() {
        return Ok(None);
    }
    let is_whole = bytes as usize >= size_of::<WTSINFOEXW>();
    let lock = is_whole.then(|| {
        // SAFETY: so many bytes of it are there, of the shape that this class has; it is copied.
        let info = unsafe { told.0.cast::<WTSINFOEXW>().read_unaligned() };
        // SAFETY: level 1 is the only one there is, and every bit pattern is a number.
        let flags = unsafe { info.Data.WTSInfoExLevel1.SessionFlags };
        (info.Level == 1).then_some(flags.cast_unsigned())
    });
    // SAFETY: Windows allocated it for us, and nothing refers to it any more.
    unsafe { WTSFreeMemory(told.0.cast()) };
    Ok(lock.flatten())
}

fn show(
    session: u32,
    (title, message): (&str, &str),
    style: MESSAGEBOX_STYLE,
    seconds: u32,
    waits: bool,
) -> windows::core::Result<i32> {
    let (title, message) = (HSTRING::from(title), HSTRING::from(message));
    let bytes = |text: &HSTRING| u32::try_from(text.len() * 2).unwrap_or(u32::MAX);
    let mut response = MESSAGEBOX_RESULT::default();
    // SAFETY: the texts are as long as we say and live through the call, as does the response: it is
    // written before the call returns where it waits, and not at all where it does not.
    unsafe {
        WTSSendMessageW(
            None,
            session,
            &title,
            bytes(&title),
            &message,
            bytes(&message),
            style,
            seconds,
            &mut response,
            waits,
        )?;
    }
    Ok(response.0)
}
