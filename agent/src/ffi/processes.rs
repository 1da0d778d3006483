//! Processes: which ones run, and holding on to one with everything that it starts.

use std::os::windows::io::AsRawHandle;
use std::process::Child;

use windows::Win32::Foundation::{CloseHandle, ERROR_NO_MORE_FILES, HANDLE};
use windows::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, PROCESSENTRY32W, Process32FirstW, Process32NextW, TH32CS_SNAPPROCESS,
};
use windows::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE,
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION, JobObjectExtendedLimitInformation,
    SetInformationJobObject,
};
use windows::core::PCWSTR;

/// File names of the programs that run.
///
/// # Errors
/// Windows does not tell.
pub fn process_images() -> windows::core::Result<Vec<String>> {
    // SAFETY: plain values go in; the handle is closed by Owned.
    let snapshot = Owned(unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0)? });
    let mut entry = PROCESSENTRY32W {
        dwSize: size_of::<PROCESSENTRY32W>() as u32,
        ..PROCESSENTRY32W::default()
    };
    let mut images = Vec::new();
    // SAFETY: the record lives through the call and says how long it is.
    let mut found = unsafe { Process32FirstW(snapshot.0, &mut entry) };
    while found.is_ok() {
        let name = entry.szExeFile;
        let end = name.iter().position(|unit| *unit == 0).unwrap_or(name.len());
        images.push(String::from_utf16_lossy(&name[..end]));
        // SAFETY: as above.
        found = unsafe { Process32NextW(snapshot.0, &mut entry) };
    }
    match found {
        Err(error) if error.code() != ERROR_NO_MORE_FILES.to_hresult() => Err(error),
        _ => Ok(images),
    }
}

/// Processes that end when this value does, at the latest with the agent (Microsoft Learn, "Job
/// Objects").
pub struct ProcessGroup(Owned);

impl ProcessGroup {
    /// A group of none.
    ///
    /// # Errors
    /// Windows refuses.
    pub fn new() -> windows::core::Result<ProcessGroup> {
        // SAFETY: no attributes and no name; the handle is closed by Owned.
        let group = ProcessGroup(Owned(unsafe { CreateJobObjectW(None, PCWSTR::null())? }));
        let mut limits = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
        limits.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE;
        // SAFETY: the record lives through the call and is as long as we say.
        unsafe {
            SetInformationJobObject(
                group.0.0,
                JobObjectExtendedLimitInformation,
                (&raw const limits).cast(),
                size_of_val(&limits) as u32,
            )?;
        }
        Ok(group)
    }

    /// Takes in a process; what it starts from here on is taken in, too.
    ///
    /// # Errors
    /// Windows refuses.
    pub fn add(&self, child: &Child) -> windows::core::Result<()> {
        // SAFETY: both handles are open as long as they are borrowed.
        unsafe { AssignProcessToJobObject(self.0.0, HANDLE(child.as_raw_handle())) }
    }
}

struct Owned(HANDLE);

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the handle was opened by us and is used by nobody else. A failure leaks it at worst.
        let _ = unsafe { CloseHandle(self.0) };
    }
}
