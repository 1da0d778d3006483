//! What an operator sets: flags, with an environment variable for each that differs per cluster.

use std::{net::SocketAddr, time::Duration};

use clap::{Parser, ValueEnum};
use wardring_api::Span;

/// Courier and permit desk between Windows devices and the API server.
#[derive(Clone, Debug, Parser)]
#[command(name = "wardring-gateway", version, args_override_self = true)]
pub struct Settings {
    /// Namespace of the installation: its Lease, roots and serving certificate.
    #[arg(long, env = "WARDRING_SYSTEM_NAMESPACE", default_value = "wardring-system")]
    pub system_namespace: String,
    /// Address for agents (mutual TLS).
    #[arg(long, default_value = "0.0.0.0:8443")]
    pub listen: SocketAddr,
    /// Address where only enrolment and renewal are served, without asking for a certificate.
    #[arg(long)]
    pub renew_listen: Option<SocketAddr>,
    /// Address for health and metrics (plain HTTP).
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub http_listen: SocketAddr,
    /// Name of this gateway, unique among its replicas; default: host name and a random part.
    #[arg(long, env = "POD_NAME")]
    pub name: Option<String>,
    /// Status writes per second at most, 0 for no limit; backs off further when the API server is slow.
    #[arg(long, default_value_t = 100)]
    pub write_cap: u32,
    /// How long a job's progress may wait to travel with a more important write.
    #[arg(long, default_value = "15s", value_parser = span)]
    pub progress_delay: Duration,
    /// How long the facts of a device may wait while it works on a job.
    #[arg(long, default_value = "60s", value_parser = span)]
    pub facts_delay: Duration,
    /// Time between polls of an idle agent; it counts as in contact for three of them.
    #[arg(long, default_value = "30s", value_parser = span)]
    pub poll_interval: Duration,
    /// Connections at most; more are closed at once, so that agents try another replica.
    #[arg(long, default_value_t = 20_000)]
    pub max_connections: usize,
    /// A connection without a request is closed after this time, or twice as long at most; also one whose
    /// headers trickle in. Keep it above 90 s: that long agents expect to use theirs again.
    #[arg(long, default_value = "100s", value_parser = span)]
    pub idle_timeout: Duration,
    /// Time for the body of a request to arrive; the largest takes it at 35 kbit/s.
    #[arg(long, default_value = "15s", value_parser = span)]
    pub body_timeout: Duration,
    /// Requests per second of one device, with a burst of ten times as many.
    #[arg(long, default_value_t = 5.0)]
    pub device_rate: f64,
    /// New enrolment requests per second over all devices, with a burst of ten times as many.
    #[arg(long, default_value_t = 20.0)]
    pub enrol_rate: f64,
    /// How long open requests may take to end after SIGTERM.
    #[arg(long, default_value = "20s", value_parser = span)]
    pub drain: Duration,
    /// Form of the log on standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

fn span(text: &str) -> Result<Duration, String> {
    let span: Span = text.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from(span.duration()).map_err(|error| error.to_string())
}
