//! rustls configurations: TLS 1.3 with ring, for both ends of every connection between our parts.
//!
//! rustls itself reads the clock here; an expired client certificate never opens a connection.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};

use crate::{DeviceKey, Fingerprint, Roots};

/// Why a TLS configuration cannot be made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TlsError {
    /// The server's own certificate or key.
    #[error("the certificate chain or private key of the server cannot be read")]
    Unreadable,
    /// rustls refused.
    #[error("failed to set up TLS")]
    Setup(#[source] Error),
}

/// Who may connect to a server.
#[derive(Clone, Copy, Debug)]
pub enum Clients<'a> {
    /// Anybody; the server asks for no certificate.
    Anonymous,
    /// Anybody; a certificate that is presented must be a valid device certificate of these roots.
    Devices(&'a Roots),
}

/// Configuration of a server whose certificate chain and key are PEM.
pub fn server_config(
    clients: Clients<'_>,
    chain_pem: &str,
    key_pem: &str,
) -> Result<ServerConfig, TlsError> {
    let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| TlsError::Unreadable)?;
    let key =
        PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| TlsError::Unreadable)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?;
    let builder = match clients {
        Clients::Anonymous => builder.with_no_client_auth(),
        Clients::Devices(roots) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(store(roots)), provider())
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| TlsError::Setup(Error::General(error.to_string())))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Setup)?;
    // A resumed session would not look at the client's certificate again, which may have expired.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Configuration of a client that trusts `roots`, with the device's certificate (DER) and key if it
/// is to present one.
pub fn client_config(
    roots: &Roots,
    identity: Option<(&[u8], &DeviceKey)>,
) -> Result<ClientConfig, TlsError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store(roots)), provider())
        .build()
        .map_err(|error| TlsError::Setup(Error::General(error.to_string())))?;
    let builder = client_builder()?.with_webpki_verifier(verifier);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from(certificate.to_vec())];
            builder
                .with_client_auth_cert(chain, PrivateKeyDer::Pkcs8(key.to_pkcs8()))
                .map_err(TlsError::Setup)
        }
    }
}

/// Configuration of a client at first contact: it trusts only the root that has this fingerprint,
/// which the server must present in its chain.
pub fn first_contact_config(pin: Fingerprint) -> Result<ClientConfig, TlsError> {
    let verifier = PinnedRoot { pin, provider: provider() };
    Ok(client_builder()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn client_builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, TlsError>
{
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)
}

fn store(roots: &Roots) -> RootCertStore {
    RootCertStore { roots: roots.anchors().into_iter().map(|anchor| anchor.to_owned()).collect() }
}

/// Trusts a server whose chain holds the pinned root. Everything else (signatures, validity, name,
/// purpose) is verified as usual, with that root as the only anchor.
#[derive(Debug)]
struct PinnedRoot {
    pin: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let unknown = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let root = intermediates
            .iter()
            .find(|certificate| Fingerprint::of(certificate) == self.pin)
            .ok_or_else(unknown)?;
        let roots = Roots::from_der(vec![root.to_vec()]).map_err(|_| unknown())?;
        WebPkiServerVerifier::builder_with_provider(
            Arc::new(store(&roots)),
            Arc::clone(&self.provider),
        )
        .build()
        .map_err(|_| unknown())?
        .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
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
