//! Gates against what they are measured at: the real Prometheus and Alertmanager, and GateProviders on a
//! real API server with the chart's roles.

#![expect(clippy::unwrap_used, reason = "helpers of tests may, as tests do")]

mod monitors;
mod providers;
