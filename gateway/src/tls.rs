//! TLS 1.3 towards agents.
//!
//! The handshake asks for a client certificate and proves that the peer holds its key. *Whose*
//! certificate it is, and whether a root stands behind it, is judged above TLS ([`crate::identity`]):
//! there a refusal can be a status and a sentence instead of an alert, and a change of roots needs no
//! new configuration. Nothing may read the peer's certificate but that module.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

/// Why a serving certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM of a chain or a key.
    #[error("the serving certificate or its key cannot be read")]
    Unreadable,
    /// Refused by the TLS library.
    #[error("failed to set up TLS with the serving certificate")]
    Setup(#[source] Error),
}

/// Whether a listener asks for client certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// Asks, and takes connections without one too.
    Certificate,
    /// Does not.
    Nothing,
}

/// The configurations in use; replaced when the serving certificate is renewed.
#[derive(Debug, Default)]
pub struct Serving {
    current: RwLock<Option<Pair>>,
}

#[derive(Clone, Debug)]
struct Pair {
    asking: Arc<ServerConfig>,
    anonymous: Arc<ServerConfig>,
}

impl Serving {
    /// Takes a new chain and key into use for connections from now on.
    pub fn replace(&self, chain_pem: &[u8], key_pem: &[u8]) -> Result<(), TlsError> {
        let pair = Pair {
            asking: Arc::new(configure(Asks::Certificate, chain_pem, key_pem)?),
            anonymous: Arc::new(configure(Asks::Nothing, chain_pem, key_pem)?),
        };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(pair);
        Ok(())
    }

    /// The configuration for the next connection, once there is a certificate.
    pub fn config(&self, asks: Asks) -> Option<Arc<ServerConfig>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|pair| match asks {
            Asks::Certificate => pair.asking.clone(),
            Asks::Nothing => pair.anonymous.clone(),
        })
    }
}

fn configure(asks: Asks, chain_pem: &[u8], key_pem: &[u8]) -> Result<ServerConfig, TlsError> {
    let chain = CertificateDer::pem_slice_iter(chain_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| TlsError::Unreadable)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| TlsError::Unreadable)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?;
    let builder = match asks {
        Asks::Nothing => builder.with_no_client_auth(),
        Asks::Certificate => builder.with_client_cert_verifier(Arc::new(HoldsKey { provider })),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Setup)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // No resumption: every connection proves its key anew, and no state is kept between them.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Verifies that the peer holds the key of the certificate it presents, and nothing else.
#[derive(Debug)]
struct HoldsKey {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for HoldsKey {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
