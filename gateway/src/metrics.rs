//! Metrics, few and bounded: no label grows with the fleet.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};

use crate::{budget::Written, cache::Sizes};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Requests {
    route: &'static str,
    code: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Writes {
    kind: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Permits {
    step: &'static str,
    answer: &'static str,
}

/// Every metric of the gateway.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Requests, Counter>,
    /// The member of `requests` that counts most, found once.
    check_ins: Counter,
    writes: Family<Writes, Counter>,
    write_seconds: Histogram,
    permits: Family<Permits, Counter>,
    /// Open connections.
    pub connections: Gauge,
    /// Handshakes that failed.
    pub handshakes_failed: Counter,
    /// Connections closed because there were too many.
    pub connections_refused: Counter,
    /// Reports that were acked and dropped because they are nobody's.
    pub reports_dropped: Counter,
    waiting: Gauge,
    budget: Gauge<f64, AtomicU64>,
    devices: Gauge,
    jobs: Gauge,
    polled_for: Gauge,
}

impl Metrics {
    /// All of them, at zero.
    pub fn new() -> Metrics {
        let requests: Family<Requests, Counter> = Family::default();
        let mut metrics = Metrics {
            registry: Registry::with_prefix("wardring_gateway"),
            check_ins: requests.get_or_create_owned(&Requests { route: "job", code: 200 }),
            requests,
            writes: Family::default(),
            write_seconds: Histogram::new(exponential_buckets(0.002, 2.0, 12)),
            permits: Family::default(),
            connections: Gauge::default(),
            handshakes_failed: Counter::default(),
            connections_refused: Counter::default(),
            reports_dropped: Counter::default(),
            waiting: Gauge::default(),
            budget: Gauge::default(),
            devices: Gauge::default(),
            jobs: Gauge::default(),
            polled_for: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of this program", version);
        registry.register("requests", "Requests answered", metrics.requests.clone());
        registry.register("writes", "Calls to the API server by kind", metrics.writes.clone());
        registry.register(
            "write_seconds",
            "Time of calls to the API server",
            metrics.write_seconds.clone(),
        );
        registry.register("permits", "Permits asked for", metrics.permits.clone());
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register(
            "handshakes_failed",
            "TLS handshakes that failed",
            metrics.handshakes_failed.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections closed because there were too many",
            metrics.connections_refused.clone(),
        );
        registry.register(
            "reports_dropped",
            "Reports acked and dropped because no job of the device is meant",
            metrics.reports_dropped.clone(),
        );
        registry.register("writes_waiting", "Writes that wait", metrics.waiting.clone());
        registry.register(
            "write_budget",
            "Writes per second that we allow ourselves",
            metrics.budget.clone(),
        );
        registry.register("devices", "Devices in the cache", metrics.devices.clone());
        registry.register("jobs", "Jobs in the cache", metrics.jobs.clone());
        let polled_for = metrics.polled_for.clone();
        registry.register("devices_polled_for", "Devices for which a long poll waits", polled_for);
        metrics
    }

    /// Counts an answered request.
    pub fn answered(&self, route: &'static str, code: u16) {
        if route == "job" && code == 200 {
            self.check_ins.inc();
        } else {
            self.requests.get_or_create(&Requests { route, code }).inc();
        }
    }

    /// Counts a call to the API server.
    pub fn wrote(&self, kind: &'static str, written: Written) {
        let result = match written {
            Written::After(latency) => {
                self.write_seconds.observe(latency.as_secs_f64());
                "answered"
            }
            Written::Throttled => "throttled",
        };
        self.writes.get_or_create(&Writes { kind, result }).inc();
    }

    /// Counts a permit.
    pub fn permit(&self, step: &'static str, answer: &'static str) {
        self.permits.get_or_create(&Permits { step, answer }).inc();
    }

    /// The text that Prometheus scrapes.
    pub fn text(&self, load: (usize, usize, f64), sizes: Sizes) -> String {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.waiting.set(count(load.0 + load.1));
        self.budget.set(load.2);
        self.devices.set(count(sizes.devices));
        self.jobs.set(count(sizes.jobs));
        self.polled_for.set(count(sizes.polled_for));
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(_) => unreachable!("writing to a string does not fail"),
        }
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_names_the_version() {
        let version = env!("CARGO_PKG_VERSION");
        let line = format!("wardring_gateway_build_info{{version=\"{version}\"}} 1");
        let text = Metrics::new().text((0, 0, 0.0), Sizes::default());
        assert!(text.lines().any(|found| found == line), "{text}");
    }
}
