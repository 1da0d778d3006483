//! Questions of the self-test to Windows that nothing else asks. Each only looks.

use windows::Win32::Foundation::{CloseHandle, HANDLE, LUID};
use windows::Win32::Security::{
    GetTokenInformation, LUID_AND_ATTRIBUTES, LookupPrivilegeValueW, SE_SHUTDOWN_NAME,
    TOKEN_PRIVILEGES, TOKEN_QUERY, TokenPrivileges,
};
use windows::Win32::System::Com::{CLSCTX_INPROC_SERVER, CoCreateInstance};
use windows::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};
use windows::Win32::System::UpdateAgent::{
    ISystemInformation, IUpdateCollection, IUpdateInstaller2, IUpdateInstaller4,
    IUpdateServiceManager, IUpdateSession, IUpdateSession3, SystemInformation, UpdateCollection,
    UpdateServiceManager, UpdateSession,
};
use windows::Win32::UI::Shell::IsUserAnAdmin;
use windows::core::{GUID, Interface, PCWSTR, Result};

use super::wua::Com;

/// Where Windows maps KUSER_SHARED_DATA into every process, and the place of BootId in it.
const BOOT_ID: usize = 0x7FFE_0000 + 0x2C4;

fn create<T: Interface>(class: &GUID) -> Result<T> {
    // SAFETY: every caller holds COM on this thread, and there is no outer object.
    unsafe { CoCreateInstance(class, None, CLSCTX_INPROC_SERVER) }
}

/// Whether the update agent gives a session of the kind that names its caller.
///
/// # Errors
/// It does not.
pub fn update_session() -> Result<()> {
    let _com = Com::begin()?;
    create::<IUpdateSession>(&UpdateSession)?.cast::<IUpdateSession3>().map(|_| ())
}

/// Whether it gives a searcher, a downloader and an installer that can be quiet and can commit.
///
/// # Errors
/// It does not.
pub fn update_installer() -> Result<()> {
    let _com = Com::begin()?;
    let session: IUpdateSession = create(&UpdateSession)?;
    // SAFETY: all objects live on this thread; nothing is searched, downloaded or installed.
    unsafe {
        session.CreateUpdateSearcher()?;
        session.CreateUpdateDownloader()?;
        let installer = session.CreateUpdateInstaller()?;
        installer.cast::<IUpdateInstaller2>()?;
        installer.cast::<IUpdateInstaller4>().map(|_| ())
    }
}

/// Whether it gives a collection to put updates into.
///
/// # Errors
/// It does not.
pub fn update_collection() -> Result<()> {
    let _com = Com::begin()?;
    let collection: IUpdateCollection = create(&UpdateCollection)?;
    // SAFETY: the object lives on this thread.
    unsafe { collection.Count() }.map(|_| ())
}

/// Whether it says that Windows waits for a restart.
///
/// # Errors
/// It does not say.
pub fn update_restart() -> Result<bool> {
    let _com = Com::begin()?;
    let system: ISystemInformation = create(&SystemInformation)?;
    // SAFETY: the object lives on this thread.
    unsafe { system.RebootRequired() }.map(|value| value.as_bool())
}

/// The sources that are registered.
///
/// # Errors
/// It does not say.
pub fn update_sources() -> Result<Vec<String>> {
    let _com = Com::begin()?;
    let manager: IUpdateServiceManager = create(&UpdateServiceManager)?;
    // SAFETY: all objects live on this thread; the index is below the count.
    unsafe {
        let services = manager.Services()?;
        (0..services.Count()?)
            .map(|index| Ok(services.get_Item(index)?.Name()?.to_string()))
            .collect()
    }
}

/// Number of entries in the update history.
///
/// # Errors
/// It does not say.
pub fn history_length() -> Result<i32> {
    let _com = Com::begin()?;
    let session: IUpdateSession = create(&UpdateSession)?;
    // SAFETY: all objects live on this thread.
    unsafe { session.CreateUpdateSearcher()?.GetTotalHistoryCount() }
}

/// Asks the update history for no entries at all.
///
/// # Errors
/// The update agent refuses such a question.
pub fn empty_history() -> Result<()> {
    let _com = Com::begin()?;
    let session: IUpdateSession = create(&UpdateSession)?;
    // SAFETY: all objects live on this thread.
    unsafe { session.CreateUpdateSearcher()?.QueryHistory(0, 0) }.map(|_| ())
}

/// Number of this boot, as the kernel shows it to every process.
pub fn kernel_boot_id() -> u32 {
    // SAFETY: Windows maps this page readable at this address into every process since Windows NT.
    unsafe { std::ptr::read_volatile(BOOT_ID as *const u32) }
}

/// Whether this process runs with an administrator's rights.
pub fn is_administrator() -> bool {
    // SAFETY: there is nothing that could go wrong.
    unsafe { IsUserAnAdmin() }.as_bool()
}

/// Whether this process may ask for the right to restart the computer.
///
/// # Errors
/// Windows does not tell.
pub fn may_restart() -> Result<bool> {
    let mut token = HANDLE::default();
    // SAFETY: the pseudo handle needs no closing; the token is closed below.
    unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &mut token)? };
    let found = privileges(token);
    // SAFETY: the token was opened by us and is used by nobody else.
    let _ = unsafe { CloseHandle(token) };
    let mut wanted = LUID::default();
    // SAFETY: the name is a constant of Windows, and `wanted` lives through the call.
    unsafe { LookupPrivilegeValueW(PCWSTR::null(), SE_SHUTDOWN_NAME, &mut wanted)? };
    Ok(found?.contains(&(wanted.HighPart, wanted.LowPart)))
}

fn privileges(token: HANDLE) -> Result<Vec<(i32, u32)>> {
    // A token has some 40 privileges at most; u64 keeps the records aligned.
    let mut buffer = vec![0_u64; 512];
    let mut used = 0;
    let bytes = u32::try_from(buffer.len() * 8).unwrap_or(u32::MAX);
    // SAFETY: the buffer holds as many bytes as we say, and everything lives through the call.
    unsafe {
        let start = Some(buffer.as_mut_ptr().cast());
        GetTokenInformation(token, TokenPrivileges, start, bytes, &mut used)?;
    }
    // SAFETY: any bytes are a number, and Windows wrote the count of the records first.
    let count = unsafe { buffer.as_ptr().cast::<u32>().read() } as usize;
    let start = std::mem::offset_of!(TOKEN_PRIVILEGES, Privileges);
    let most = (buffer.len() * 8 - start) / size_of::<LUID_AND_ATTRIBUTES>();
    // SAFETY: the records begin there, are plain numbers of four bytes, and lie within the buffer.
    let records = unsafe {
        let first = buffer.as_ptr().cast::<u8>().add(start).cast::<LUID_AND_ATTRIBUTES>();
        std::slice::from_raw_parts(first, count.min(most))
    };
    Ok(records.iter().map(|record| (record.Luid.HighPart, record.Luid.LowPart)).collect())
}
