//! What TLS found wrong with whoever answers.

use rustls::{CertificateError, Error as TlsFault};

use crate::gateway::TrustFault;
use crate::platform::wall_clock;

/// What TLS says, if it is at the bottom of an error.
pub(crate) fn tls_fault<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a TlsFault> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(fault) = error.downcast_ref() {
            return Some(fault);
        }
        // An I/O error hides what it was made of from the chain of sources.
        let hidden = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(hidden) = hidden
            && let Some(fault) = tls_fault(hidden)
        {
            return Some(fault);
        }
        next = error.source();
    }
    None
}

/// Why a server is not believed, if that is what TLS says.
pub(crate) fn trust_fault(fault: &TlsFault) -> Option<TrustFault> {
    let now = wall_clock();
    // Nobody reads fractions of a second off a clock that is hours off.
    let now = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
    let clock = |validity| Some(TrustFault::Clock { validity, clock: now });
    match fault {
        TlsFault::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => clock("expired"),
        TlsFault::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => clock("not valid yet"),
        TlsFault::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => Some(TrustFault::OtherHost),
        TlsFault::InvalidCertificate(_) => Some(TrustFault::OtherRoot),
        TlsFault::InvalidMessage(_) | TlsFault::PeerIncompatible(_) => {
            Some(TrustFault::NotTls { detail: fault.to_string() })
        }
        _ => None,
    }
}
