//! Flags of the controller.

use std::{net::SocketAddr, time::Duration};

use clap::{Parser, ValueEnum};
use wardring_api::Span;

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

    /// Name of this process in the Lease; by default the host's name and a random part.
    #[arg(long)]
    pub identity: Option<String>,

    /// A leader that has not renewed for this long may be replaced.
    #[arg(long, default_value = "15s")]
    pub lease_duration: Span,

    /// Pause between two renewals of the Lease.
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

impl Settings {
    /// The name under which this process stands in the Lease.
    pub fn holder(&self) -> String {
        self.identity.clone().unwrap_or_else(|| {
            let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "wardring".to_owned());
            format!("{host}-{:08x}", rand::random::<u32>())
        })
    }
}

/// A span of the settings as the standard library's duration.
pub fn std_duration(span: Span) -> Duration {
    span.duration().unsigned_abs()
}
