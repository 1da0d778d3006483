//! Signatures of programs, as Windows judges them (Microsoft Learn, "Example C Program: Verifying the
//! Signature of a PE File", `WinVerifyTrust`).

use std::io;
use std::path::Path;

use windows::Win32::Foundation::{
    HANDLE, HWND, TRUST_E_NOSIGNATURE, TRUST_E_PROVIDER_UNKNOWN, TRUST_E_SUBJECT_FORM_UNKNOWN,
};
use windows::Win32::Security::Cryptography::{
    CERT_CONTEXT, CERT_STRING_TYPE, CertNameToStrW, X509_ASN_ENCODING,
};
use windows::Win32::Security::WinTrust::{
    WINTRUST_ACTION_GENERIC_VERIFY_V2, WINTRUST_DATA, WINTRUST_DATA_0, WINTRUST_FILE_INFO,
    WTD_CACHE_ONLY_URL_RETRIEVAL, WTD_CHOICE_FILE, WTD_REVOKE_NONE, WTD_STATEACTION_CLOSE,
    WTD_STATEACTION_VERIFY, WTD_UI_NONE, WTHelperGetProvCertFromChain,
    WTHelperGetProvSignerFromChain, WTHelperProvDataFromStateData, WinVerifyTrust,
};
use windows::core::{HRESULT, PCWSTR};

use super::wide;

/// Names in the form of X.500 (`CERT_X500_NAME_STR`).
const X500: CERT_STRING_TYPE = CERT_STRING_TYPE(3);

/// Whose signature a file carries, by the full name in a certificate that Windows trusts; `None`
/// where it carries none. Asks no server: a device may have no way out.
///
/// # Errors
/// It carries one that is broken, or that Windows does not trust.
pub fn publisher(file: &Path) -> io::Result<Option<String>> {
    let name = wide(file);
    let mut info = WINTRUST_FILE_INFO {
        cbStruct: size_of::<WINTRUST_FILE_INFO>() as u32,
        pcwszFilePath: PCWSTR(name.as_ptr()),
        ..WINTRUST_FILE_INFO::default()
    };
    let mut data = WINTRUST_DATA {
        cbStruct: size_of::<WINTRUST_DATA>() as u32,
        dwUIChoice: WTD_UI_NONE,
        fdwRevocationChecks: WTD_REVOKE_NONE,
        dwUnionChoice: WTD_CHOICE_FILE,
        Anonymous: WINTRUST_DATA_0 { pFile: &raw mut info },
        dwStateAction: WTD_STATEACTION_VERIFY,
        dwProvFlags: WTD_CACHE_ONLY_URL_RETRIEVAL,
        ..WINTRUST_DATA::default()
    };
    let verified = HRESULT(call(&mut data));
    let signer = if verified.is_ok() { Some(signer(data.hWVTStateData)) } else { None };
    data.dwStateAction = WTD_STATEACTION_CLOSE;
    call(&mut data);
    match (verified, signer) {
        (_, Some(Some(name))) => Ok(Some(name)),
        (_, Some(None)) => Err(io::Error::other("its signature names nobody")),
        (TRUST_E_NOSIGNATURE | TRUST_E_SUBJECT_FORM_UNKNOWN | TRUST_E_PROVIDER_UNKNOWN, None) => {
            Ok(None)
        }
        (error, None) => Err(windows::core::Error::from_hresult(error).into()),
    }
}

fn call(data: &mut WINTRUST_DATA) -> i32 {
    let mut action = WINTRUST_ACTION_GENERIC_VERIFY_V2;
    // SAFETY: both live through the call, and what the second points to lives in the caller; the first
    // handle says that there is nobody to ask.
    unsafe {
        WinVerifyTrust(HWND(-1_isize as *mut _), &mut action, std::ptr::from_mut(data).cast())
    }
}

/// The subject of the certificate that signed.
fn signer(state: HANDLE) -> Option<String> {
    // SAFETY: the state is open until it is closed after this; each pointer is looked at before use and
    // points into it.
    unsafe {
        let provider = WTHelperProvDataFromStateData(state);
        if provider.is_null() {
            return None;
        }
        let signer = WTHelperGetProvSignerFromChain(provider, 0, false, 0);
        if signer.is_null() {
            return None;
        }
        let certificate = WTHelperGetProvCertFromChain(signer, 0);
        let context: *const CERT_CONTEXT = certificate.as_ref()?.pCert;
        let subject = &context.as_ref()?.pCertInfo.as_ref()?.Subject;
        let mut text = [0_u16; 1024];
        let length = CertNameToStrW(X509_ASN_ENCODING, subject, X500, Some(&mut text)) as usize;
        // The length counts the zero at the end; a name that is cut off is none.
        (2..text.len()).contains(&length).then(|| String::from_utf16_lossy(&text[..length - 1]))
    }
}
