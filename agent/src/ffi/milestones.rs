//! Writing to the event log.

use windows::Win32::Foundation::HANDLE;
use windows::Win32::System::EventLog::{
    DeregisterEventSource, EVENTLOG_ERROR_TYPE, EVENTLOG_INFORMATION_TYPE, EVENTLOG_WARNING_TYPE,
    RegisterEventSourceW, ReportEventW,
};
use windows::core::{HSTRING, PCWSTR};

/// How grave an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// As it should be.
    Information,
    /// To be looked at.
    Warning,
    /// Somebody must act.
    Error,
}

/// A source of events in the Application log.
pub struct EventSource(HANDLE);

// SAFETY: Windows lets every thread use the handle; it is closed once, with the value.
unsafe impl Send for EventSource {}
// SAFETY: as above.
unsafe impl Sync for EventSource {}

impl EventSource {
    /// Opens a source. One that is not registered writes all the same, with a less readable text.
    ///
    /// # Errors
    /// The event log does not run.
    pub fn open(name: &str) -> windows::core::Result<EventSource> {
        // SAFETY: the null name means this computer; the source's name lives through the call.
        let handle = unsafe { RegisterEventSourceW(PCWSTR::null(), &HSTRING::from(name))? };
        Ok(EventSource(handle))
    }

    /// Writes one event.
    ///
    /// # Errors
    /// The event log refuses.
    pub fn report(&self, weight: Weight, id: u32, text: &str) -> windows::core::Result<()> {
        let kind = match weight {
            Weight::Information => EVENTLOG_INFORMATION_TYPE,
            Weight::Warning => EVENTLOG_WARNING_TYPE,
            Weight::Error => EVENTLOG_ERROR_TYPE,
        };
        let text = HSTRING::from(text);
        let texts = [PCWSTR(text.as_ptr())];
        // SAFETY: the handle is open; the texts end with a zero and live through the call.
        unsafe { ReportEventW(self.0, kind, 0, id, None, 0, Some(&texts), None) }
    }
}

impl Drop for EventSource {
    fn drop(&mut self) {
        // SAFETY: the handle was opened by us and is used by nobody else. A failure leaks it at worst.
        let _ = unsafe { DeregisterEventSource(self.0) };
    }
}
