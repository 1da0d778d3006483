//! Who owns a folder and who may use it.

use std::io;
use std::path::Path;

use windows::Win32::Foundation::{CloseHandle, HANDLE, HLOCAL, LocalFree};
use windows::Win32::Security::Authorization::{
    ConvertSecurityDescriptorToStringSecurityDescriptorW, ConvertSidToStringSidW,
    ConvertStringSecurityDescriptorToSecurityDescriptorW, GetNamedSecurityInfoW, SDDL_REVISION_1,
    SE_FILE_OBJECT,
};
use windows::Win32::Security::{
    DACL_SECURITY_INFORMATION, GetTokenInformation, OWNER_SECURITY_INFORMATION,
    PSECURITY_DESCRIPTOR, SECURITY_ATTRIBUTES, TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows::Win32::Storage::FileSystem::{
    CreateDirectoryW, FILE_ATTRIBUTE_REPARSE_POINT, GetFileAttributesW, INVALID_FILE_ATTRIBUTES,
};
use windows::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};
use windows::core::{HSTRING, PWSTR};

use super::{wide, win32};

/// Creates a folder that is protected from its first moment on, as the security descriptor in
/// Windows' own notation says.
///
/// # Errors
/// It is there already, or Windows refuses.
pub fn create_folder(folder: &Path, descriptor: &str) -> io::Result<()> {
    let mut parsed = Local(PSECURITY_DESCRIPTOR::default());
    // SAFETY: the text and the place for the result live through the call; Local frees the result.
    unsafe {
        ConvertStringSecurityDescriptorToSecurityDescriptorW(
            &HSTRING::from(descriptor),
            SDDL_REVISION_1,
            &mut parsed.0,
            None,
        )
    }
    .map_err(|error| win32(&error))?;
    let attributes = SECURITY_ATTRIBUTES {
        nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
        lpSecurityDescriptor: parsed.0.0,
        bInheritHandle: false.into(),
    };
    // SAFETY: name, attributes and the descriptor in them live through the call.
    unsafe { CreateDirectoryW(&wide(folder), Some(&attributes)) }.map_err(|error| win32(&error))
}

/// Owner and access list of a file or folder, in Windows' own notation.
///
/// # Errors
/// Windows does not tell.
pub fn security_of(path: &Path) -> io::Result<String> {
    let parts = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;
    let mut found = Local(PSECURITY_DESCRIPTOR::default());
    let name = wide(path);
    // SAFETY: the name and the place for the result live through the call; Local frees the result.
    let got = unsafe {
        GetNamedSecurityInfoW(&name, SE_FILE_OBJECT, parts, None, None, None, None, &mut found.0)
    };
    got.ok().map_err(|error| win32(&error))?;
    let mut text = PWSTR::null();
    // SAFETY: the descriptor is a valid one; the place for the text lives through the call.
    unsafe {
        ConvertSecurityDescriptorToStringSecurityDescriptorW(
            found.0,
            SDDL_REVISION_1,
            parts,
            &mut text,
            None,
        )
    }
    .map_err(|error| win32(&error))?;
    taken(text)
}

/// Whether a name stands for a place elsewhere: a link, a junction, a mount point.
///
/// # Errors
/// Windows does not tell.
pub fn is_link(path: &Path) -> io::Result<bool> {
    // SAFETY: the name lives through the call.
    let attributes = unsafe { GetFileAttributesW(&wide(path)) };
    if attributes == INVALID_FILE_ATTRIBUTES {
        return Err(io::Error::last_os_error());
    }
    Ok(attributes & FILE_ATTRIBUTE_REPARSE_POINT.0 != 0)
}

/// Security identifier of the account that this process runs as.
///
/// # Errors
/// Windows does not tell.
pub fn own_account() -> io::Result<String> {
    let mut token = HANDLE::default();
    // SAFETY: the pseudo handle needs no closing; the token is closed below.
    unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &mut token) }
        .map_err(|error| win32(&error))?;
    // A user's identifier has at most 68 bytes; u64 keeps the record aligned.
    let mut buffer = [0_u64; 32];
    let mut needed = 0;
    // SAFETY: the buffer lives through the call and is as long as we say.
    let asked = unsafe {
        GetTokenInformation(
            token,
            TokenUser,
            Some(buffer.as_mut_ptr().cast()),
            size_of_val(&buffer) as u32,
            &mut needed,
        )
    };
    // SAFETY: the handle was opened by us and is used by nobody else.
    let _ = unsafe { CloseHandle(token) };
    asked.map_err(|error| win32(&error))?;
    // SAFETY: Windows filled the aligned buffer with this record, whose identifier lies in it, too.
    let user = unsafe { &*buffer.as_ptr().cast::<TOKEN_USER>() };
    let mut text = PWSTR::null();
    // SAFETY: the identifier is a valid one; the place for the text lives through the call.
    unsafe { ConvertSidToStringSidW(user.User.Sid, &mut text) }.map_err(|error| win32(&error))?;
    taken(text)
}

/// Copies a text that Windows allocated, and frees it.
fn taken(text: PWSTR) -> io::Result<String> {
    // SAFETY: Windows returned a string with a terminating zero.
    let copy = unsafe { text.to_string() };
    // SAFETY: Windows allocated it for us this way, and nothing refers to it any more.
    let _ = unsafe { LocalFree(Some(HLOCAL(text.0.cast()))) };
    copy.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

struct Local(PSECURITY_DESCRIPTOR);

impl Drop for Local {
    fn drop(&mut self) {
        // SAFETY: Windows allocated it for us this way, or it is null, which is left alone.
        let _ = unsafe { LocalFree(Some(HLOCAL(self.0.0))) };
    }
}
