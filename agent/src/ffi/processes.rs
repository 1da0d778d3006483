//! Processes: which ones run, and holding on to one with everything that it starts.

use std::os::windows::io::AsRawHandle;
use std::process::Child;

use windows::Win32::Foundation::{
    CloseHandle, ERROR_INVALID_PARAMETER, ERROR_NO_MORE_FILES, FILETIME, HANDLE,
};
use windows::Win32::Security::{GetTokenInformation, TOKEN_ELEVATION, TOKEN_QUERY, TokenElevation};
use windows::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, PROCESSENTRY32W, Process32FirstW, Process32NextW, TH32CS_SNAPPROCESS,
    TH32CS_SNAPTHREAD, THREADENTRY32, Thread32First, Thread32Next,
};
use windows::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE,
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION, JobObjectExtendedLimitInformation,
    SetInformationJobObject,
};
use windows::Win32::System::Threading::{
    GetExitCodeProcess, GetProcessTimes, OpenProcess, OpenProcessToken, OpenThread,
    PROCESS_NAME_WIN32, PROCESS_QUERY_LIMITED_INFORMATION, QueryFullProcessImageNameW,
    ResumeThread, THREAD_SUSPEND_RESUME,
};
use windows::core::{PCWSTR, PWSTR};

/// File names of the programs that run.
///
/// # Errors
/// Windows does not tell.
pub fn process_images() -> windows::core::Result<Vec<String>> {
    Ok(processes()?.into_iter().map(|(_, image)| image).collect())
}

/// Whether this program runs from below Windows' own folder and with the rights of an administrator, so
/// that it can be at work on Windows. A program of that name elsewhere, or one that an ordinary user left
/// open, is none. One that does not let itself be looked at counts, and each one where not even the agent
/// is said to have an administrator's rights. Files of the system folder are links to others below
/// Windows' folder, and nobody says which of the names a process is told by.
///
/// # Errors
/// Windows does not tell what runs.
pub fn is_at_work(image: &str) -> windows::core::Result<bool> {
    let system = super::system_folder()?;
    let windows = system.parent().unwrap_or(&system).join("").to_string_lossy().to_lowercase();
    let own = open(std::process::id()).and_then(|process| is_elevated(&process));
    let tells_rights = own.unwrap_or(false);
    let named = processes()?.into_iter().filter(|(_, name)| name.eq_ignore_ascii_case(image));
    let looked = |pid| {
        let process = open(pid)?;
        // Where it runs from comes first: whoever starts a program says who may ask for its rights.
        let is_of_windows = path(&process)?.to_lowercase().starts_with(&windows);
        windows::core::Result::Ok(is_of_windows && (!tells_rights || is_elevated(&process)?))
    };
    // One that ended since it was listed has no such number any more.
    let ended = ERROR_INVALID_PARAMETER.to_hresult();
    let is_it = |pid| looked(pid).unwrap_or_else(|error| error.code() != ended);
    Ok(named.map(|(pid, _)| pid).any(is_it))
}

/// When a process was made: ticks of 100 ns since 1601, by the clock as it was then. Numbers of processes
/// are given again, and this tells them apart.
///
/// # Errors
/// Windows does not tell.
pub fn made(child: &Child) -> windows::core::Result<u64> {
    made_at(HANDLE(child.as_raw_handle()))
}

/// The same for one that somebody else made, if it runs.
pub fn running_since(pid: u32) -> Option<u64> {
    let process = open(pid).ok()?;
    let mut code = 0;
    // SAFETY: the handle is open and `code` lives through the call.
    unsafe { GetExitCodeProcess(process.0, &mut code) }.ok()?;
    (code == super::STILL_ACTIVE).then(|| made_at(process.0).ok())?
}

fn made_at(process: HANDLE) -> windows::core::Result<u64> {
    let [mut made, mut ended, mut kernel, mut user] = [FILETIME::default(); 4];
    // SAFETY: the process is open, and the records live through the call.
    unsafe { GetProcessTimes(process, &mut made, &mut ended, &mut kernel, &mut user)? };
    Ok(u64::from(made.dwHighDateTime) << 32 | u64::from(made.dwLowDateTime))
}

fn open(pid: u32) -> windows::core::Result<Owned> {
    // SAFETY: plain values go in; the handle is closed by Owned.
    Ok(Owned(unsafe { OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, false, pid)? }))
}

/// The full path of a process' program.
fn path(process: &Owned) -> windows::core::Result<String> {
    let mut path = vec![0_u16; 32_768];
    let mut length = path.len() as u32;
    // SAFETY: the buffer lives through the call and is as long as we say.
    unsafe {
        let path = PWSTR(path.as_mut_ptr());
        QueryFullProcessImageNameW(process.0, PROCESS_NAME_WIN32, path, &mut length)?;
    }
    Ok(String::from_utf16_lossy(&path[..length as usize]))
}

/// Whether a process has the rights of an administrator.
fn is_elevated(process: &Owned) -> windows::core::Result<bool> {
    let mut token = HANDLE::default();
    // SAFETY: the process is open; the token is closed by Owned.
    unsafe { OpenProcessToken(process.0, TOKEN_QUERY, &mut token)? };
    let token = Owned(token);
    let mut elevation = TOKEN_ELEVATION::default();
    let (size, mut written) = (size_of_val(&elevation) as u32, 0);
    // SAFETY: the record lives through the call and is as long as we say.
    unsafe {
        let record = Some((&raw mut elevation).cast());
        GetTokenInformation(token.0, TokenElevation, record, size, &mut written)?;
    }
    Ok(elevation.TokenIsElevated != 0)
}

/// Process and file name of each program that runs.
fn processes() -> windows::core::Result<Vec<(u32, String)>> {
    // SAFETY: plain values go in; the handle is closed by Owned.
    let snapshot = Owned(unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0)? });
    let mut entry = PROCESSENTRY32W {
        dwSize: size_of::<PROCESSENTRY32W>() as u32,
        ..PROCESSENTRY32W::default()
    };
    let mut running = Vec::new();
    // SAFETY: the record lives through the call and says how long it is.
    let mut found = unsafe { Process32FirstW(snapshot.0, &mut entry) };
    while found.is_ok() {
        let name = entry.szExeFile;
        let end = name.iter().position(|unit| *unit == 0).unwrap_or(name.len());
        running.push((entry.th32ProcessID, String::from_utf16_lossy(&name[..end])));
        // SAFETY: as above.
        found = unsafe { Process32NextW(snapshot.0, &mut entry) };
    }
    match found {
        Err(error) if error.code() != ERROR_NO_MORE_FILES.to_hresult() => Err(error),
        _ => Ok(running),
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

    /// Takes in a process that was made suspended, and sets it going: nothing that it starts is outside.
    ///
    /// # Errors
    /// Windows refuses; the process never runs, and is there until it is ended.
    pub fn begin(&self, child: &Child) -> windows::core::Result<()> {
        self.add(child)?;
        resume(child.id())
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

/// Sets the threads of a process going: one that was made suspended has one. Others may be put there by
/// guards of the device, and may be gone by now; they are none of ours.
fn resume(pid: u32) -> windows::core::Result<()> {
    // SAFETY: plain values go in; the handle is closed by Owned.
    let snapshot = Owned(unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPTHREAD, 0)? });
    let mut entry =
        THREADENTRY32 { dwSize: size_of::<THREADENTRY32>() as u32, ..THREADENTRY32::default() };
    let (mut is_going, mut refused) = (false, None);
    // SAFETY: the record lives through the call and says how long it is.
    let mut found = unsafe { Thread32First(snapshot.0, &mut entry) };
    while found.is_ok() {
        if entry.th32OwnerProcessID == pid {
            match resume_thread(entry.th32ThreadID) {
                Ok(()) => is_going = true,
                Err(error) => refused = Some(error),
            }
        }
        // SAFETY: as above.
        found = unsafe { Thread32Next(snapshot.0, &mut entry) };
    }
    match refused {
        _ if is_going => Ok(()),
        Some(error) => Err(error),
        // The end of the list is an error as well.
        None => found,
    }
}

fn resume_thread(id: u32) -> windows::core::Result<()> {
    // SAFETY: plain values go in; the handle is closed by Owned.
    let thread = Owned(unsafe { OpenThread(THREAD_SUSPEND_RESUME, false, id)? });
    // SAFETY: the thread is open.
    if unsafe { ResumeThread(thread.0) } == u32::MAX {
        return Err(windows::core::Error::from_thread());
    }
    Ok(())
}

struct Owned(HANDLE);

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the handle was opened by us and is used by nobody else. A failure leaks it at worst.
        let _ = unsafe { CloseHandle(self.0) };
    }
}
