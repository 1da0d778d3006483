//! The roots that Windows trusts (Microsoft Learn, "CertOpenSystemStoreW").

use windows::Win32::Security::Cryptography::{
    CERT_CLOSE_STORE_FORCE_FLAG, CERT_CONTEXT, CertCloseStore, CertEnumCertificatesInStore,
    CertOpenSystemStoreW,
};
use windows::core::w;

/// Certificates (DER) of the roots that this account trusts, the computer's among them. Empty where
/// Windows does not tell.
pub fn roots() -> Vec<Vec<u8>> {
    let mut roots = Vec::new();
    // SAFETY: the store is closed below, after its last use; each certificate is valid until the next
    // one is asked for, which frees it, and its bytes are copied before.
    unsafe {
        let Ok(store) = CertOpenSystemStoreW(None, w!("ROOT")) else { return roots };
        let mut certificate: *const CERT_CONTEXT = std::ptr::null();
        loop {
            certificate =
                CertEnumCertificatesInStore(store, (!certificate.is_null()).then_some(certificate));
            let Some(found) = certificate.as_ref() else { break };
            let length = found.cbCertEncoded as usize;
            roots.push(std::slice::from_raw_parts(found.pbCertEncoded, length).to_vec());
        }
        // Nothing of it is in use any more.
        let _ = CertCloseStore(Some(store), CERT_CLOSE_STORE_FORCE_FLAG);
    }
    roots
}
