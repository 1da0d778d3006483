//! Writing a device's status.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use wardring_api::{Device, DeviceStatus, names::GATEWAY_MANAGER};

use super::{TRIES, WriteError, Writer};
use crate::{
    cache::KnownDevice,
    merge::{FactsReport, apply_facts, fingerprint, is_quarantined, judge_age, quarantine},
};

/// Every field that facts decide; absent ones are removed by name.
const FIELDS: [&str; 20] = [
    "conditions",
    "identity",
    "os",
    "agentVersion",
    "agentUpdateFailed",
    "bootId",
    "lastScan",
    "updates",
    "missing",
    "offered",
    "failed",
    "pendingReboot",
    "startup",
    "freeDiskGb",
    "componentStore",
    "paused",
    "services",
    "health",
    "otherPatchSources",
    "reportSeq",
];

/// What a write starts from: the cache's slim form, or a fresh read.
struct Base {
    version: String,
    enrolment_id: Option<String>,
    report_seq: i64,
    fingerprint: u64,
    conditions: Vec<Condition>,
}

impl Base {
    fn of_known(device: &KnownDevice) -> Base {
        Base {
            version: device.resource_version.to_string(),
            enrolment_id: device.enrolment_id.as_deref().map(str::to_owned),
            report_seq: device.report_seq,
            fingerprint: device.fingerprint,
            conditions: device.conditions(),
        }
    }

    fn of_object(device: Device) -> Base {
        let status = device.status.unwrap_or_default();
        Base {
            version: device.metadata.resource_version.unwrap_or_default(),
            enrolment_id: device.spec.enrolment_id,
            report_seq: status.report_seq.unwrap_or(0),
            fingerprint: fingerprint(&status),
            conditions: status.conditions,
        }
    }
}

/// The status that a report would make of a known device, unless it is old or changes nothing.
pub(crate) fn wanted(
    device: &KnownDevice,
    report: &FactsReport,
    now: Timestamp,
) -> Option<DeviceStatus> {
    decide(&Base::of_known(device), report, now)
}

fn decide(base: &Base, report: &FactsReport, now: Timestamp) -> Option<DeviceStatus> {
    let is_late = i64::try_from(report.seq).is_ok_and(|seq| seq <= base.report_seq);
    let is_other = base.enrolment_id.as_deref() != Some(&report.enrolment_id);
    if is_late || is_other {
        return None;
    }
    let quarantined = is_quarantined(&base.conditions);
    let status = apply_facts(base.conditions.clone(), report, now);
    let lifts = quarantined && !is_quarantined(&status.conditions);
    (lifts || fingerprint(&status) != base.fingerprint).then_some(status)
}

/// Writes facts.
pub(super) async fn write(
    writer: &Writer,
    path: &str,
    report: FactsReport,
) -> Result<(), WriteError> {
    let cached = writer.shared.cache.device_at(path);
    let mut base = cached.map(|device| Base::of_known(&device));
    update(writer, path, &mut base, |base| decide(base, &report, Timestamp::now())).await
}

/// Reads, decides and writes until the write fits what was read.
async fn update(
    writer: &Writer,
    path: &str,
    base: &mut Option<Base>,
    decide: impl Fn(&Base) -> Option<DeviceStatus>,
) -> Result<(), WriteError> {
    let (namespace, name) = path.split_once('/').expect("made by `path`, which puts a slash");
    let api: Api<Device> = Api::namespaced(writer.shared.client.clone(), namespace);
    for _ in 0..TRIES {
        let current = match base.take() {
            Some(base) => base,
            None => match writer.call("read", api.get_opt(name)).await? {
                Some(device) => Base::of_object(device),
                None => return Ok(()),
            },
        };
        let Some(status) = decide(&current) else { return Ok(()) };
        let patch = patch(&current.version, &status);
        if write_once(writer, &api, name, patch).await? {
            return Ok(());
        }
    }
    Err(WriteError::Api("the device's status changes too fast".to_owned()))
}

fn patch(version: &str, status: &DeviceStatus) -> Value {
    let mut fields = serde_json::to_value(status).expect("a status is plain data");
    for field in FIELDS {
        if fields.get(field).is_none() {
            fields[field] = Value::Null;
        }
    }
    json!({ "metadata": { "resourceVersion": version }, "status": fields })
}

/// Whether the write was taken; false after a conflict.
async fn write_once(
    writer: &Writer,
    api: &Api<Device>,
    name: &str,
    patch: Value,
) -> Result<bool, WriteError> {
    let params = PatchParams { field_manager: Some(GATEWAY_MANAGER.into()), ..Default::default() };
    let patch = Patch::Merge(patch);
    let call = async {
        match api.patch_status(name, &params, &patch).await {
            Ok(device) => Ok(Some(device)),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let written = writer.call("device", call).await?;
    if let Some(device) = &written {
        writer.shared.cache.put_device(device);
    }
    Ok(written.is_some())
}

impl Writer {
    /// Quarantines a device at once, because two agents speak with its enrolment.
    pub async fn quarantine(&self, path: &str, enrolment_id: &str) -> Result<(), WriteError> {
        let change = |device: &Device| {
            let mut status = device.status.clone().unwrap_or_default();
            let is_theirs = device.spec.enrolment_id.as_deref() == Some(enrolment_id);
            if !is_theirs || is_quarantined(&status.conditions) {
                return None;
            }
            quarantine(&mut status.conditions, enrolment_id, Timestamp::now());
            Some(status)
        };
        self.change(path, change).await
    }

    /// Lets `UpToDate` of a device become Unknown because its scan has grown old.
    pub async fn age(&self, path: &str) -> Result<(), WriteError> {
        let change = |device: &Device| judge_age(device.status.as_ref()?, Timestamp::now());
        self.change(path, change).await
    }

    /// Changes the conditions of a device on a fresh read.
    async fn change(
        &self,
        path: &str,
        change: impl Fn(&Device) -> Option<DeviceStatus>,
    ) -> Result<(), WriteError> {
        let (namespace, name) = path.split_once('/').expect("made by `path`, which puts a slash");
        let api: Api<Device> = Api::namespaced(self.shared.client.clone(), namespace);
        for _ in 0..TRIES {
            let Some(device) = self.call("read", api.get_opt(name)).await? else { return Ok(()) };
            let Some(status) = change(&device) else { return Ok(()) };
            let patch = json!({
                "metadata": { "resourceVersion": device.metadata.resource_version },
                "status": { "conditions": status.conditions },
            });
            if write_once(self, &api, name, patch).await? {
                return Ok(());
            }
        }
        Err(WriteError::Api("the device's status changes too fast".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wardring_protocol::{
        Facts, HealthFact, Offered, PauseFact, RebootSource, Scan, ServiceFact, StartupFact,
    };

    #[test]
    fn every_field_of_the_status_is_removed_by_name_when_it_goes() {
        let some = |text: &str| Some(text.to_owned());
        let facts = Facts {
            hostname: "WS-1".to_owned(),
            fqdn: some("ws-1.example"),
            last_scan: Some(Scan {
                time: Timestamp::UNIX_EPOCH,
                source: "Default".to_owned(),
                result: "0x00000000".to_owned(),
            }),
            missing: vec!["KB5068787".to_owned()],
            offered: vec![Offered { kb: "KB5068787".to_owned(), ..Offered::default() }],
            failed: vec!["KB5068787".to_owned()],
            pending_reboot: vec![RebootSource { source: "Cbs".to_owned(), hard: true }],
            services: vec![ServiceFact { name: "W32Time".to_owned(), state: "Running".to_owned() }],
            startup: Some(StartupFact::default()),
            free_disk_gb: Some(12),
            component_store: some("Healthy"),
            pause: Some(PauseFact {
                reason: String::new(),
                since: Timestamp::UNIX_EPOCH,
                until: None,
            }),
            agent_update_failed: some("0.2.0 was taken back"),
            other_patch_sources: vec!["ConfigMgr".to_owned()],
            health: vec![HealthFact {
                rollout_uid: "u".to_owned(),
                attempt: 1,
                since: Timestamp::UNIX_EPOCH,
                blind: false,
                names_nothing: false,
                unhealthy: Vec::new(),
                restarts: 0,
                last_restart: None,
            }],
            ..Facts::default()
        };
        let report = FactsReport {
            seq: 1,
            facts,
            boot_id: "boot-1".to_owned(),
            enrolment_id: "e1".to_owned(),
        };
        let full = apply_facts(Vec::new(), &report, Timestamp::UNIX_EPOCH);
        let value = serde_json::to_value(&full).unwrap();
        let mut fields: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = FIELDS.to_vec();
        fields.sort_unstable();
        expected.sort_unstable();
        assert_eq!(fields, expected);
    }
}
