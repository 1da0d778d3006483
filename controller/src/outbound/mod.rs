//! Connections that leave the installation: to what gates measure, at addresses that administrators
//! wrote down.
//!
//! A question goes to one address, with what its caller gave it and nothing else: no token of this
//! process, no proxy of its environment, no cookie, no second host. What comes back is small, in time,
//! and never repeated in an error: whoever reads a status must learn nothing of networks that only the
//! controller reaches.

mod address;
mod endpoint;
mod target;
mod tls;

pub use address::{Allowed, Forbidden, Network, NetworkError};
pub use endpoint::{Answer, Endpoint, Limits, Lookup, OutboundError, Question, system_lookup};
pub use target::{Host, Scheme, Target, TargetError};
pub use tls::{Identity, TlsError, client_config};

#[cfg(test)]
mod tests;
