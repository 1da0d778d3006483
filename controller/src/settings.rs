//! Flags of the controller.

use std::{net::SocketAddr, time::Duration};

use clap::{Parser, ValueEnum};
use rustls::pki_types::ServerName;
use wardring_api::Span;

use crate::outbound::Network;

/// Decides, signs and publishes: the controller of a Wardring installation. The cluster is the one
/// of KUBECONFIG, or the one this process runs in.
#[derive(Clone, Debug, Parser)]
#[command(name = "wardring-controller", version)]
pub struct Settings {
    /// Namespace of this installation: the Lease, the certificate authority, the gateways.
    #[arg(long, env = "WARDRING_SYSTEM_NAMESPACE", default_value = "wardring-system")]
    pub system_namespace: String,

    /// Address of /healthz, /readyz and /metrics (plain HTTP).
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub http_listen: SocketAddr,

    /// Address at which gateways report who is in contact (TLS).
    #[arg(long, default_value = "0.0.0.0:8443")]
    pub presence_listen: SocketAddr,

    /// Host under which gateways reach the presence address.
    #[arg(long, env = "POD_IP", default_value = "127.0.0.1")]
    pub advertise_host: String,

    /// Name or address that the gateways' serving certificate is to carry (repeatable).
    #[arg(long = "gateway-host")]
    pub gateway_hosts: Vec<String>,

    /// Name of this process in the Lease, before a random part; by default the host's name.
    #[arg(long)]
    pub identity: Option<String>,

    /// A leader that has not renewed for this long may be replaced.
    #[arg(long, default_value = "15s")]
    pub lease_duration: Span,

    /// Pause between two renewals of the Lease; at most half of its duration.
    #[arg(long, default_value = "5s")]
    pub lease_renew: Span,

    /// How long the record of a run is kept after its rollout was deleted.
    #[arg(long, default_value = "90d")]
    pub record_retention: Span,

    /// How long a device may be out of contact before it is marked offline.
    #[arg(long, default_value = "10m")]
    pub offline_after: Span,

    /// Life of device certificates.
    #[arg(long, default_value = "90d")]
    pub certificate_life: Span,

    /// Network inside of which Notifiers may connect, such as 10.20.0.0/16, beside public addresses
    /// (repeatable).
    #[arg(long = "notify-network", value_parser = Network::parse)]
    pub notify_networks: Vec<Network>,

    /// Service account that may approve, as system:serviceaccount:NAMESPACE:NAME (repeatable). The admission
    /// policies must name the same ones.
    #[arg(long = "approval-account")]
    pub approval_accounts: Vec<String>,

    /// Namespaces that are worked on at the same time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub concurrency: u16,

    /// Shape of the log lines on standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Why these settings cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A span of no length.
    #[error("{flag} is zero: give it a span such as {example}")]
    Zero {
        /// The flag.
        flag: &'static str,
        /// A span that works.
        example: &'static str,
    },
    /// The Lease counts whole seconds.
    #[error(
        "--lease-duration {duration} is not a number of whole seconds, which is what a Lease holds: choose one, such as 15s"
    )]
    PartOfASecond {
        /// The duration.
        duration: Span,
    },
    /// The Lease would expire between two renewals.
    #[error(
        "--lease-renew {renew} is too slow for --lease-duration {duration}: choose at most half of the duration"
    )]
    SlowRenewal {
        /// Pause between renewals.
        renew: Span,
        /// Duration of the Lease.
        duration: Span,
    },
    /// Nothing a certificate can be for.
    #[error(
        "--gateway-host {host:?} is neither a DNS name nor an IP address: give it without scheme and port, such as patching.example.com"
    )]
    NoHost {
        /// What was given.
        host: String,
    },
}

impl Settings {
    /// Whether a controller can work with these settings.
    pub fn check(&self) -> Result<(), SettingsError> {
        for (flag, span, example) in [
            ("--lease-duration", self.lease_duration, "15s"),
            ("--lease-renew", self.lease_renew, "5s"),
            ("--offline-after", self.offline_after, "10m"),
            ("--certificate-life", self.certificate_life, "90d"),
        ] {
            if span.duration().is_zero() {
                return Err(SettingsError::Zero { flag, example });
            }
        }
        let (renew, duration) = (self.lease_renew, self.lease_duration);
        if duration.duration().subsec_nanos() != 0 {
            return Err(SettingsError::PartOfASecond { duration });
        }
        // A leader's term ends after two thirds of the duration: each renewal must come well before.
        if std_duration(renew).saturating_mul(2) > std_duration(duration) {
            return Err(SettingsError::SlowRenewal { renew, duration });
        }
        if let Some(host) = self.gateway_hosts.iter().find(|host| !is_host(host)) {
            return Err(SettingsError::NoHost { host: host.clone() });
        }
        Ok(())
    }

    /// The name under which this process stands in the Lease. Each call makes another one: two
    /// processes with one name would both take the Lease for theirs, and lead.
    pub fn holder(&self) -> String {
        let name = self.identity.clone().or_else(|| std::env::var("HOSTNAME").ok());
        let name = name.unwrap_or_else(|| "wardring".to_owned());
        format!("{name}_{:08x}", rand::random::<u32>())
    }
}

/// Whether clients can verify a certificate for this host. A final dot is no part of such a name.
fn is_host(host: &str) -> bool {
    match ServerName::try_from(host.strip_prefix("*.").unwrap_or(host)) {
        Ok(ServerName::DnsName(_)) => !host.ends_with('.'),
        Ok(ServerName::IpAddress(_)) => !host.starts_with('*'),
        _ => false,
    }
}

/// A span of the settings as the standard library's duration.
pub fn std_duration(span: Span) -> Duration {
    span.duration().unsigned_abs()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn processes_with_one_identity_stand_in_the_lease_under_two_names() {
        let settings =
            || Settings::try_parse_from(["wardring-controller", "--identity=a"]).unwrap();
        let (one, other) = (settings().holder(), settings().holder());
        assert!(one.starts_with("a_") && other.starts_with("a_"), "{one} {other}");
        assert_ne!(one, other);
    }
}
