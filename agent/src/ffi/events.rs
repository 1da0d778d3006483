//! The event log (wevtapi).

use windows::Win32::Foundation::{ERROR_INSUFFICIENT_BUFFER, ERROR_NO_MORE_ITEMS};
use windows::Win32::System::EventLog::{
    EVT_HANDLE, EvtClose, EvtNext, EvtQuery, EvtQueryChannelPath, EvtQueryReverseDirection,
    EvtRender, EvtRenderEventXml,
};
use windows::core::HSTRING;

/// Longest wait for the next event, milliseconds.
const NEXT_LIMIT_MS: u32 = 10_000;

/// The newest events of a log that a query selects, newest first, as XML.
///
/// # Errors
/// The log cannot be read.
pub fn newest_events(log: &str, query: &str, count: usize) -> windows::core::Result<Vec<String>> {
    let flags = EvtQueryChannelPath.0 | EvtQueryReverseDirection.0;
    // SAFETY: both texts live through the call; the handle is closed by Handle.
    let found = unsafe { EvtQuery(None, &HSTRING::from(log), &HSTRING::from(query), flags)? };
    let found = Handle(found);
    let mut events = Vec::new();
    while events.len() < count {
        let (mut next, mut returned) = ([0_isize; 1], 0);
        // SAFETY: the array and the number live through the call; its length goes in with it.
        match unsafe { EvtNext(found.0, &mut next, NEXT_LIMIT_MS, 0, &mut returned) } {
            Ok(()) if returned == 1 => events.push(render(&Handle(EVT_HANDLE(next[0])))?),
            Ok(()) => break,
            Err(error) if error.code() == ERROR_NO_MORE_ITEMS.to_hresult() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(events)
}

fn render(event: &Handle) -> windows::core::Result<String> {
    let mut buffer: Vec<u16> = vec![0; 2048];
    loop {
        let bytes = u32::try_from(buffer.len() * 2).unwrap_or(u32::MAX);
        let (mut used, mut properties) = (0, 0);
        // SAFETY: the buffer holds as many bytes as we say, and everything lives through the call.
        let rendered = unsafe {
            EvtRender(
                None,
                event.0,
                EvtRenderEventXml.0,
                bytes,
                Some(buffer.as_mut_ptr().cast()),
                &mut used,
                &mut properties,
            )
        };
        match rendered {
            Ok(()) => {
                let text = &buffer[..(used as usize / 2).min(buffer.len())];
                return Ok(String::from_utf16_lossy(text).trim_end_matches('\0').to_owned());
            }
            Err(error)
                if error.code() == ERROR_INSUFFICIENT_BUFFER.to_hresult() && used > bytes =>
            {
                buffer = vec![0; used as usize / 2 + 1];
            }
            Err(error) => return Err(error),
        }
    }
}

struct Handle(EVT_HANDLE);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle was opened by us and is used by nobody else. A failure leaks it at worst.
        let _ = unsafe { EvtClose(self.0) };
    }
}
