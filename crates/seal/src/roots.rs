//! The one or two root certificates that everything is trusted by.

use std::fmt;
use std::str::FromStr;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::bytes::{from_base64, to_base64};

/// SHA-256 of a root certificate's DER; its text is lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Fingerprint of a certificate.
    pub fn of(der: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, der);
        Self(digest.as_ref().try_into().expect("a SHA-256 digest has 32 bytes"))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = RootsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| RootsError::NotAFingerprint)?;
        Ok(Self(bytes))
    }
}

/// One or two root certificates, the issuing one first. Two while an old and a new root overlap.
#[derive(Clone, PartialEq, Eq)]
pub struct Roots(Vec<CertificateDer<'static>>);

/// Why a set of root certificates cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootsError {
    /// None, or too many.
    #[error("there must be one or two root certificates, not {count}")]
    Count {
        /// How many there are.
        count: usize,
    },
    /// Not PEM or base64 of a certificate.
    #[error("root certificate number {number} cannot be read")]
    Unreadable {
        /// Which, from 1.
        number: usize,
    },
    /// Not hex of 32 bytes.
    #[error("the fingerprint of a root certificate must be 64 hexadecimal digits")]
    NotAFingerprint,
}

impl Roots {
    /// No root at all: nobody is trusted, and no seal holds. It has no fingerprint, and no token can name it.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Roots from DER certificates, the issuing one first.
    pub fn from_der(certificates: Vec<Vec<u8>>) -> Result<Self, RootsError> {
        if !(1..=2).contains(&certificates.len()) {
            return Err(RootsError::Count { count: certificates.len() });
        }
        let roots: Vec<_> = certificates.into_iter().map(CertificateDer::from).collect();
        for (index, root) in roots.iter().enumerate() {
            webpki::anchor_from_trusted_cert(root)
                .map_err(|_| RootsError::Unreadable { number: index + 1 })?;
        }
        Ok(Self(roots))
    }

    /// Roots from a PEM bundle.
    pub fn from_pem(pem: &str) -> Result<Self, RootsError> {
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
            .enumerate()
            .map(|(index, item)| match item {
                Ok(certificate) => Ok(certificate.to_vec()),
                Err(_) => Err(RootsError::Unreadable { number: index + 1 }),
            })
            .collect::<Result<_, _>>()?;
        Self::from_der(certificates)
    }

    /// Roots from base64 texts of DER, as they stand in messages and status.
    pub fn from_base64(texts: &[String]) -> Result<Self, RootsError> {
        let certificates = texts
            .iter()
            .enumerate()
            .map(|(index, text)| {
                from_base64(text).ok_or(RootsError::Unreadable { number: index + 1 })
            })
            .collect::<Result<_, _>>()?;
        Self::from_der(certificates)
    }

    /// Base64 texts of DER, as they stand in messages and status.
    pub fn to_base64(&self) -> Vec<String> {
        self.0.iter().map(|root| to_base64(root)).collect()
    }

    /// PEM bundle.
    pub fn to_pem(&self) -> String {
        self.0.iter().map(|root| to_pem("CERTIFICATE", root)).collect()
    }

    /// DER certificates, the issuing one first.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0
    }

    /// Fingerprint of the issuing root: the one that new tokens name.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0[0])
    }

    /// Fingerprints of all roots.
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        self.0.iter().map(|root| Fingerprint::of(root)).collect()
    }

    pub(crate) fn anchors(&self) -> Vec<TrustAnchor<'_>> {
        self.0
            .iter()
            .map(|root| {
                webpki::anchor_from_trusted_cert(root)
                    .expect("every root was read as a trust anchor when the set was made")
            })
            .collect()
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Roots").field(&self.fingerprints()).finish()
    }
}

/// PEM of some DER, 64 characters a line.
pub(crate) fn to_pem(label: &str, der: &[u8]) -> String {
    let text = to_base64(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|&byte| char::from(byte)));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}
