//! `wardring_device_activity`: what the devices in flight are going through, for PromQL and inhibition.
//!
//! Series come and go with jobs, so there are never more than devices in flight, and never more than
//! [`MAX_SERIES`] whatever a fleet does.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};
use wardring_planner::{Activity, Doings};

/// Series of one scrape. What matters most to whoever is on call comes first.
pub const MAX_SERIES: usize = 5_000;

/// In which order activities are shown where not all fit.
const ORDER: [Doings; 6] = [
    Doings::Unreachable,
    Doings::Rebooting,
    Doings::AwaitingReboot,
    Doings::Verifying,
    Doings::RollingBack,
    Doings::Installing,
];

type ByNamespace = BTreeMap<String, Arc<[Activity]>>;

/// The last activities of every namespace; clones share them. Losing them is safe: passes fill them anew.
#[derive(Clone, Debug, Default)]
pub struct Activities {
    namespaces: Arc<Mutex<ByNamespace>>,
}

impl Activities {
    fn all(&self) -> MutexGuard<'_, ByNamespace> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pass looked at a namespace.
    pub fn note(&self, namespace: &str, activities: Vec<Activity>) {
        if activities.is_empty() {
            self.all().remove(namespace);
        } else {
            self.all().insert(namespace.to_owned(), activities.into());
        }
    }

    /// Forgets everything: another process leads now, and it tells.
    pub fn forget(&self) {
        self.all().clear();
    }
}

impl Collector for Activities {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        // A scrape that is read slowly must not keep a pass waiting.
        let all = self.all().clone();
        let help = "Devices in flight and what they are going through";
        let kind = MetricType::Gauge;
        let mut metric = encoder.encode_descriptor("wardring_device_activity", help, None, kind)?;
        let mut shown = 0;
        for doing in ORDER {
            for (namespace, activities) in &all {
                for one in activities.iter().filter(|one| one.doing == doing) {
                    if shown == MAX_SERIES {
                        return Ok(());
                    }
                    shown += 1;
                    let labels = [
                        ("namespace", namespace.as_str()),
                        ("device", &one.device),
                        ("hostname", &one.hostname),
                        ("rollout", &one.rollout),
                        ("stage", &one.stage),
                        ("activity", doing.as_str()),
                    ];
                    ConstGauge::new(1_i64).encode(metric.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn activity(device: &str, doing: Doings) -> Activity {
        Activity {
            device: device.to_owned(),
            hostname: device.to_owned(),
            rollout: "november".to_owned(),
            stage: "production".to_owned(),
            doing,
            since: None,
            until: None,
            ordered: None,
            is_slow: false,
            kbs: Vec::new(),
        }
    }

    fn series(metrics: &Metrics) -> Vec<String> {
        let text = metrics.encode().unwrap();
        let of_devices = text.lines().filter(|line| line.starts_with("wardring_device_activity{"));
        of_devices.map(str::to_owned).collect()
    }

    #[test]
    fn only_devices_in_flight_are_shown_and_nobody_once_another_process_leads() {
        let metrics = Metrics::new();
        metrics.activities.note("clinic", vec![activity("srv-1", Doings::Rebooting)]);
        assert_eq!(
            series(&metrics),
            ["wardring_device_activity{namespace=\"clinic\",device=\"srv-1\",hostname=\"srv-1\",\
              rollout=\"november\",stage=\"production\",activity=\"rebooting\"} 1"]
        );
        metrics.activities.note("clinic", Vec::new());
        assert!(series(&metrics).is_empty());
        metrics.activities.note("clinic", vec![activity("srv-1", Doings::Rebooting)]);
        metrics.activities.forget();
        assert!(series(&metrics).is_empty());
    }

    #[test]
    fn a_scrape_is_bounded_and_the_silent_are_never_cut_off() {
        let metrics = Metrics::new();
        let many = (0..MAX_SERIES).map(|n| activity(&format!("ws-{n}"), Doings::Installing));
        metrics.activities.note("clinic", many.collect());
        metrics.activities.note("lab", vec![activity("srv-1", Doings::Unreachable)]);
        let shown = series(&metrics);
        assert_eq!(shown.len(), MAX_SERIES);
        assert!(shown[0].contains("device=\"srv-1\""), "{}", shown[0]);
    }
}
