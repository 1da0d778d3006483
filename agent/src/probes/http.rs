//! A GET of one URL. Certificates are not judged: what answers on a device often shows one that it
//! made itself, the question is whether something answers, and the request holds no secret.

use std::sync::Arc;

use reqwest::{Client, redirect};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

/// Longest part of a body that is read.
const MAX_BODY: usize = 64 * 1024;

/// Asks.
pub(super) async fn ask(url: &str, statuses: &[u16], contains: Option<&str>) -> Result<(), String> {
    let client = client().map_err(|error| format!("cannot ask: {error}"))?;
    let failed = |error: reqwest::Error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        format!("{url} gives no answer: {}", cause.unwrap_or_else(|| error.to_string()))
    };
    let mut response = client.get(url).send().await.map_err(failed)?;
    let status = response.status().as_u16();
    let is_good = match statuses {
        [] => (200..400).contains(&status),
        wanted => wanted.contains(&status),
    };
    if !is_good {
        return Err(format!("{url} answers with status {status}"));
    }
    let Some(text) = contains else { return Ok(()) };
    let mut body = Vec::new();
    while body.len() < MAX_BODY
        && let Some(part) = response.chunk().await.map_err(failed)?
    {
        body.extend_from_slice(&part);
    }
    body.truncate(MAX_BODY);
    let is_there = body.windows(text.len()).any(|part| part == text.as_bytes());
    if is_there { Ok(()) } else { Err(format!("the answer of {url} does not contain {text:?}")) }
}

fn client() -> Result<Client, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(redirect::Policy::none())
        .no_proxy()
        .user_agent(concat!("wardring-agent/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| error.to_string())
}

/// Takes any certificate, but only from somebody who holds its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
