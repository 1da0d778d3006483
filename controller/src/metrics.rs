//! The few numbers that say whether the controller works.

use std::sync::{Arc, atomic::AtomicU64};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};

use crate::activity::Activities;

/// Which pass results are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PassLabels {
    /// `ok`, `skipped`, `conflict`, `failed` or `refused`.
    pub result: &'static str,
}

/// One write to the API server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WriteLabels {
    /// Kind of the object.
    pub kind: &'static str,
    /// `create`, `replace`, `status`, `patch` or `delete`.
    pub verb: &'static str,
}

/// A safety rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RuleLabels {
    /// Its name, such as `S2`.
    pub rule: String,
}

/// Rollouts in one phase.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PhaseLabels {
    /// Namespace.
    pub namespace: String,
    /// Phase of the status.
    pub phase: String,
}

/// One namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NamespaceLabels {
    /// Namespace.
    pub namespace: String,
}

/// Measurements of gates at one provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MeasurementLabels {
    /// Name of the GateProvider; `none` if the gate named none that there is.
    pub provider: String,
    /// `pass`, `fail`, `inconclusive`, `nodata` or `error`.
    pub result: &'static str,
}

/// One GateProvider.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ProviderLabels {
    /// Its name; `none` if the gate named none that there is.
    pub provider: String,
}

/// One answer to an EnrollmentRequest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AnswerLabels {
    /// `Enroll` or `Renew`.
    pub kind: &'static str,
    /// `Issued`, or why not.
    pub reason: &'static str,
}

/// EnrollmentRequests that were removed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RemovalLabels {
    /// `answered`, `surplus` or `old`.
    pub why: &'static str,
}

/// Where EnrollmentRequests stand.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// `open` or `answered`.
    pub state: &'static str,
}

/// A certificate of this installation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CertificateLabels {
    /// `root`, `second-root`, `jobs`, `gateway` or `device`.
    pub certificate: &'static str,
}

/// The numbers; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Passes by result.
    pub passes: Family<PassLabels, Counter>,
    /// Time of one pass, writes included.
    pub pass_seconds: Histogram,
    /// Plans that broke a safety rule and were not applied.
    pub plan_violations: Family<RuleLabels, Counter>,
    /// Writes that reached the API server.
    pub writes: Family<WriteLabels, Counter>,
    /// Writes that lost against another writer.
    pub conflicts: Family<WriteLabels, Counter>,
    /// 1 while this process leads.
    pub leader: Gauge,
    /// Rollouts by phase.
    pub rollouts: Family<PhaseLabels, Gauge>,
    /// Devices granted and without outcome.
    pub devices_in_flight: Family<NamespaceLabels, Gauge>,
    /// Measurements of gates, by provider and result.
    pub gate_measurements: Family<MeasurementLabels, Counter>,
    /// Time of one measurement, waiting for a turn included.
    pub gate_seconds: Family<ProviderLabels, Histogram>,
    /// Gates that are being measured.
    pub gates_running: Gauge,
    /// How far our clock is behind the API server's.
    pub clock_skew_seconds: Gauge<f64, AtomicU64>,
    /// Answers to EnrollmentRequests.
    pub enrolment_answers: Family<AnswerLabels, Counter>,
    /// EnrollmentRequests that are there.
    pub enrolment_requests: Family<RequestLabels, Gauge>,
    /// EnrollmentRequests that were removed.
    pub enrolment_removals: Family<RemovalLabels, Counter>,
    /// Certificates issued.
    pub certificates_issued: Family<CertificateLabels, Counter>,
    /// When certificates expire, seconds since 1970.
    pub certificate_expiry: Family<CertificateLabels, Gauge>,
    /// What devices in flight are going through.
    pub activities: Activities,
    registry: Arc<Registry>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// Fresh numbers, registered under `wardring_controller_` except for those about devices.
    pub fn new() -> Metrics {
        let mut all = Registry::default();
        let activities = Activities::default();
        // Told of devices, and not of this process: without its prefix.
        all.register_collector(Box::new(activities.clone()));
        let registry = all.sub_registry_with_prefix("wardring_controller");
        // From 1 ms to about 30 s: a pass without writes takes milliseconds, a big one seconds.
        let pass_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let passes = Family::default();
        let plan_violations = Family::default();
        let writes = Family::default();
        let conflicts = Family::default();
        let leader: Gauge = Gauge::default();
        let rollouts = Family::default();
        let devices_in_flight = Family::default();
        let gate_measurements = Family::default();
        // From 5 ms to 40 s: a measurement ends after half a minute.
        let gate_seconds = Family::new_with_constructor(seconds_of_a_measurement as fn() -> _);
        let gates_running: Gauge = Gauge::default();
        let clock_skew_seconds = Gauge::default();
        let enrolment_answers = Family::default();
        let enrolment_requests = Family::default();
        let enrolment_removals = Family::default();
        let certificates_issued = Family::default();
        let certificate_expiry = Family::default();
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of this program", version);
        registry.register("passes", "Passes over a namespace, by result", passes.clone());
        registry.register("pass_seconds", "Time of one pass", pass_seconds.clone());
        registry.register(
            "plan_violations",
            "Plans that broke a safety rule and were not applied",
            plan_violations.clone(),
        );
        registry.register("writes", "Writes to the API server", writes.clone());
        registry.register("write_conflicts", "Writes that lost against another", conflicts.clone());
        registry.register("leader", "1 while this process leads", leader.clone());
        registry.register("rollouts", "Rollouts by phase", rollouts.clone());
        registry.register(
            "devices_in_flight",
            "Devices granted and without outcome",
            devices_in_flight.clone(),
        );
        registry.register(
            "gate_measurements",
            "Measurements of gates, by provider and result",
            gate_measurements.clone(),
        );
        registry.register(
            "gate_measurement_seconds",
            "Time of one measurement of a gate, waiting for a turn included",
            gate_seconds.clone(),
        );
        registry.register(
            "gates_measuring",
            "Gates that are being measured",
            gates_running.clone(),
        );
        registry.register(
            "clock_skew_seconds",
            "How far our clock is behind the API server's",
            clock_skew_seconds.clone(),
        );
        registry.register(
            "enrolment_answers",
            "Answers to EnrollmentRequests, by kind and reason",
            enrolment_answers.clone(),
        );
        registry.register(
            "enrolment_requests",
            "EnrollmentRequests that are there",
            enrolment_requests.clone(),
        );
        registry.register(
            "enrolment_removals",
            "EnrollmentRequests that were removed, and why",
            enrolment_removals.clone(),
        );
        registry.register(
            "certificates_issued",
            "Certificates issued",
            certificates_issued.clone(),
        );
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When a certificate expires, in seconds since 1970",
            certificate_expiry.clone(),
        );
        Metrics {
            passes,
            pass_seconds,
            plan_violations,
            writes,
            conflicts,
            leader,
            rollouts,
            devices_in_flight,
            gate_measurements,
            gate_seconds,
            gates_running,
            clock_skew_seconds,
            enrolment_answers,
            enrolment_requests,
            enrolment_removals,
            certificates_issued,
            certificate_expiry,
            activities,
            registry: Arc::new(all),
        }
    }

    /// The numbers in the text format of OpenMetrics.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn seconds_of_a_measurement() -> Histogram {
    Histogram::new(exponential_buckets(0.005, 2.0, 14))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_names_the_version() {
        let version = env!("CARGO_PKG_VERSION");
        let line = format!("wardring_controller_build_info{{version=\"{version}\"}} 1");
        let text = Metrics::new().encode().unwrap();
        assert!(text.lines().any(|found| found == line), "{text}");
    }
}
