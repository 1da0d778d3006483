//! Certificates of servers: the gateways, and the controller's presence endpoint.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::ring::ECDSA_P256_SHA256;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{GeneralName, X509Certificate};

use super::{Authority, IssueError, base_params, ia5, is_fresh, leaf_usage};
use crate::key::{generate_p256, read_p256};
use crate::roots::to_pem;

/// A server's certificate chain and key, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct ServingCertificate {
    /// Leaf, then root.
    pub chain_pem: String,
    /// PKCS#8 key: a secret.
    pub key_pem: String,
}

impl Authority {
    /// Issues a certificate, with a new key, for a server that answers to `hosts` (DNS names and IP
    /// addresses).
    pub fn issue_serving(
        &self,
        hosts: &[String],
        now: Timestamp,
        life: SignedDuration,
    ) -> Result<ServingCertificate, IssueError> {
        let name = hosts.first().map_or("wardring", |host| host.as_str());
        // A common name has at most 64 characters; servers are known by their alternative names.
        let mut params = base_params(name.get(..64).unwrap_or(name), now, life)?;
        params.subject_alt_names = hosts
            .iter()
            .map(|host| match host.parse::<IpAddr>() {
                Ok(address) => Ok(SanType::IpAddress(address)),
                Err(_) => ia5(host.clone()).map(SanType::DnsName),
            })
            .collect::<Result<_, _>>()?;
        leaf_usage(&mut params, ExtendedKeyUsagePurpose::ServerAuth);
        let key = generate_p256().map_err(IssueError::Key)?;
        let leaf = self.sign(&params, &key)?;
        Ok(ServingCertificate {
            chain_pem: to_pem("CERTIFICATE", &leaf) + &self.certificate_pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Whether a serving certificate may stay: issued by the issuing root, presented with it, for
    /// exactly `hosts`, together with its key, and with more than a third of its life left.
    pub fn keeps_serving(
        &self,
        serving: &ServingCertificate,
        hosts: &[String],
        now: Timestamp,
    ) -> bool {
        let chain: Option<Vec<_>> = CertificateDer::pem_slice_iter(serving.chain_pem.as_bytes())
            .map(|certificate| certificate.ok())
            .collect();
        let Some([leaf, root]) = chain.as_deref() else { return false };
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(leaf) else { return false };
        let has_its_key = read_p256(&serving.key_pem)
            .is_ok_and(|key| *parsed.public_key().subject_public_key.data == *key.public_key_raw());
        *root == self.roots().certificates()[0]
            && has_its_key
            && is_fresh(&parsed, now)
            && hosts_of(&parsed)
                .is_some_and(|found| found == hosts.iter().map(|host| canonical(host)).collect())
            && self.has_issued_server(leaf, now)
    }

    fn has_issued_server(&self, leaf: &CertificateDer<'_>, now: Timestamp) -> bool {
        let Ok(seconds) = u64::try_from(now.as_second()) else { return false };
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let anchors = self.roots().anchors();
        let purpose = KeyUsage::server_auth();
        EndEntityCert::try_from(leaf).is_ok_and(|leaf| {
            leaf.verify_for_usage(&[ECDSA_P256_SHA256], &anchors[..1], &[], at, purpose, None, None)
                .is_ok()
        })
    }
}

fn hosts_of(certificate: &X509Certificate<'_>) -> Option<BTreeSet<String>> {
    let names = certificate.subject_alternative_name().ok()??;
    names
        .value
        .general_names
        .iter()
        .map(|name| match name {
            GeneralName::DNSName(host) => Some((*host).to_owned()),
            GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
            _ => None,
        })
        .collect()
}

/// The one way to write a host: an IPv6 address has several.
fn canonical(host: &str) -> String {
    host.parse::<IpAddr>().map_or_else(|_| host.to_owned(), |address| address.to_string())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

impl fmt::Debug for ServingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServingCertificate(key hidden)")
    }
}
