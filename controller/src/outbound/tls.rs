//! TLS towards servers that are not ours.

use std::sync::{Arc, OnceLock};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Why no TLS can be set up. None of these repeats what was given: it may be a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// The certificates to trust.
    #[error("caBundle holds no certificate (PEM) that can be trusted")]
    Roots,
    /// Nothing to trust.
    #[error(
        "this system has no certificates of public authorities; give the server's as `caBundle`"
    )]
    NoSystemRoots,
    /// The certificate to present.
    #[error("the client certificate and key cannot be read as PEM, or do not fit together")]
    Identity,
}

/// What to present to servers that ask who we are.
pub struct Identity<'a> {
    /// Chain, PEM.
    pub chain: &'a [u8],
    /// Private key, PEM.
    pub key: &'a [u8],
}

/// Trusts the certificates of `bundle` (PEM) alone, or without one the system's.
pub fn client_config(
    bundle: Option<&str>,
    identity: Option<Identity<'_>>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match bundle {
        Some(bundle) => Arc::new(read_roots(bundle)?),
        None => system_roots()?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows every version that this build has")
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = CertificateDer::pem_slice_iter(identity.chain)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| TlsError::Identity)?;
            let key =
                PrivateKeyDer::from_pem_slice(identity.key).map_err(|_| TlsError::Identity)?;
            builder.with_client_auth_cert(chain, key).map_err(|_| TlsError::Identity)?
        }
    };
    Ok(Arc::new(config))
}

fn read_roots(bundle: &str) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        store.add(certificate.map_err(|_| TlsError::Roots)?).map_err(|_| TlsError::Roots)?;
    }
    if store.is_empty() { Err(TlsError::Roots) } else { Ok(store) }
}

/// Read once: a container's do not change while it runs.
fn system_roots() -> Result<Arc<RootCertStore>, TlsError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(store)
    });
    if roots.is_empty() { Err(TlsError::NoSystemRoots) } else { Ok(roots.clone()) }
}
