//! The data protection of Windows (DPAPI).

use std::io;

use windows::Win32::Foundation::{HLOCAL, LocalFree};
use windows::Win32::Security::Cryptography::{
    CRYPT_INTEGER_BLOB, CRYPTPROTECT_LOCAL_MACHINE, CRYPTPROTECT_UI_FORBIDDEN, CryptProtectData,
    CryptUnprotectData,
};
use windows::core::w;

use super::win32;

/// Encrypts for this computer: what comes out is of no use on another one.
///
/// # Errors
/// Windows refuses.
pub fn wrap(plain: &[u8]) -> io::Result<Vec<u8>> {
    let input = blob(plain)?;
    let mut output = CRYPT_INTEGER_BLOB::default();
    let flags = CRYPTPROTECT_LOCAL_MACHINE | CRYPTPROTECT_UI_FORBIDDEN;
    // SAFETY: the input, which is only read, and the place for the output live through the call.
    unsafe {
        CryptProtectData(&input, w!("Wardring device key"), None, None, None, flags, &mut output)
    }
    .map_err(|error| win32(&error))?;
    Ok(taken(output))
}

/// Decrypts what [`wrap`] made on this computer.
///
/// # Errors
/// It was made elsewhere, or is damaged.
pub fn unwrap(wrapped: &[u8]) -> io::Result<Vec<u8>> {
    let input = blob(wrapped)?;
    let mut output = CRYPT_INTEGER_BLOB::default();
    let flags = CRYPTPROTECT_UI_FORBIDDEN;
    // SAFETY: the input, which is only read, and the place for the output live through the call.
    unsafe { CryptUnprotectData(&input, None, None, None, None, flags, &mut output) }
        .map_err(|error| win32(&error))?;
    Ok(taken(output))
}

fn blob(bytes: &[u8]) -> io::Result<CRYPT_INTEGER_BLOB> {
    let length = u32::try_from(bytes.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "it is too long"))?;
    Ok(CRYPT_INTEGER_BLOB { cbData: length, pbData: bytes.as_ptr().cast_mut() })
}

/// Copies what Windows allocated, and frees it.
fn taken(output: CRYPT_INTEGER_BLOB) -> Vec<u8> {
    if output.pbData.is_null() {
        return Vec::new();
    }
    // SAFETY: Windows says that so many bytes begin there; nobody else holds them.
    let bytes = unsafe { std::slice::from_raw_parts_mut(output.pbData, output.cbData as usize) };
    let copy = bytes.to_vec();
    // One of the two is a key in the clear.
    bytes.fill(0);
    // SAFETY: Windows allocated it for us this way, and nothing refers to it any more.
    let _ = unsafe { LocalFree(Some(HLOCAL(output.pbData.cast()))) };
    copy
}
