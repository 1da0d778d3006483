//! A Device as the controller reads it: only what the planner looks at is decoded, once. With 100,000
//! devices this decides what the controller weighs.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use wardring_api::{
    Attendance, ComponentStore, Device, DeviceMode, DeviceRole, HealthSince, Hold, conditions,
    names,
};
use wardring_planner::{DeviceRow, LiveHealth, host_name, is_damage};

use super::intern::Interner;

/// The wire form.
#[derive(Clone, Debug, Deserialize)]
pub struct SlimDevice {
    #[serde(deserialize_with = "slim_metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: SlimSpec,
    #[serde(default)]
    status: SlimStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimSpec {
    #[serde(default)]
    mode: DeviceMode,
    enrolment_id: Option<String>,
    hold: Option<Hold>,
    time_zone: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimStatus {
    #[serde(default)]
    conditions: Vec<SlimCondition>,
    identity: Option<SlimIdentity>,
    os: Option<SlimOs>,
    #[serde(default)]
    pending_reboot: Vec<SlimPendingReboot>,
    startup: Option<SlimStartup>,
    free_disk_gb: Option<u32>,
    component_store: Option<ComponentStore>,
    paused: Option<SlimPaused>,
    #[serde(default)]
    health: Vec<HealthSince>,
    #[serde(default)]
    other_patch_sources: Vec<IgnoredAny>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    reason: String,
    last_transition_time: Option<Timestamp>,
}

#[derive(Clone, Debug, Deserialize)]
struct SlimPaused {
    reason: String,
    until: Option<Timestamp>,
}

#[derive(Clone, Debug, Deserialize)]
struct SlimStartup {
    attendance: Attendance,
}

#[derive(Clone, Debug, Deserialize)]
struct SlimIdentity {
    model: Option<String>,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    roles: Vec<DeviceRole>,
}

#[derive(Clone, Debug, Deserialize)]
struct SlimOs {
    #[serde(default)]
    product: String,
    #[serde(default)]
    build: String,
}

#[derive(Clone, Debug, Deserialize)]
struct SlimPendingReboot {
    hard: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimMeta {
    name: String,
    namespace: String,
    resource_version: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    deletion_timestamp: Option<Timestamp>,
}

/// Metadata without managed fields, and with the one annotation that means something here.
fn slim_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let mut meta = SlimMeta::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: Some(meta.name),
        namespace: Some(meta.namespace),
        resource_version: Some(meta.resource_version),
        labels: Some(meta.labels),
        annotations: meta
            .annotations
            .remove_entry(names::RELEASE_ANNOTATION)
            .map(|entry| BTreeMap::from([entry])),
        deletion_timestamp: meta.deletion_timestamp.map(Time),
        ..ObjectMeta::default()
    })
}

impl Resource for SlimDevice {
    type DynamicType = ();
    type Scope = kube::core::NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        Device::kind(&())
    }

    fn group(_: &()) -> Cow<'_, str> {
        Device::group(&())
    }

    fn version(_: &()) -> Cow<'_, str> {
        Device::version(&())
    }

    fn plural(_: &()) -> Cow<'_, str> {
        Device::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl SlimDevice {
    /// The planner's row, sharing what other devices have too.
    pub fn into_row(self, pool: &mut Interner) -> DeviceRow {
        let SlimDevice { metadata, spec, status } = self;
        let condition = |kind: &str| status.conditions.iter().find(|item| item.kind == kind);
        let online = condition(conditions::ONLINE);
        DeviceRow {
            name: metadata.name.as_deref().unwrap_or_default().into(),
            labels: pool.labels(metadata.labels.unwrap_or_default()),
            enrolment_id: spec.enrolment_id.as_deref().map(Arc::from),
            mode: spec.mode,
            hold: spec.hold.map(Box::new),
            quarantined: condition(conditions::QUARANTINED)
                .is_some_and(|condition| condition.status == "True"),
            damaged_since: condition(conditions::QUARANTINED)
                .filter(|condition| is_damage(&condition.status, &condition.reason))
                .and_then(|condition| condition.last_transition_time),
            online: online.and_then(|condition| match condition.status.as_str() {
                "True" => Some(true),
                "False" => Some(false),
                _ => None,
            }),
            online_since: online.and_then(|condition| condition.last_transition_time),
            hostname: status
                .identity
                .as_ref()
                .and_then(|identity| host_name(&identity.hostname, metadata.name.as_deref())),
            product: status
                .os
                .as_ref()
                .filter(|os| !os.product.is_empty())
                .map(|os| pool.text(&os.product)),
            build: status.os.as_ref().map(|os| pool.text(&os.build)),
            model: status
                .identity
                .as_ref()
                .and_then(|identity| identity.model.as_deref())
                .filter(|model| !model.is_empty())
                .map(|model| pool.text(model)),
            roles: pool.roles(status.identity.as_ref().map_or(&[], |identity| &identity.roles)),
            hard_pending_reboot: status.pending_reboot.iter().any(|source| source.hard),
            attended_boot: status
                .startup
                .is_some_and(|startup| startup.attendance != Attendance::NotNeeded),
            free_disk_gb: status.free_disk_gb,
            component_store: status.component_store,
            paused: status
                .paused
                .map(|paused| Box::new(Hold { reason: paused.reason, until: paused.until })),
            other_patch_sources: !status.other_patch_sources.is_empty(),
            health: LiveHealth::of(&status.health),
            release_requested_at: metadata
                .annotations
                .and_then(|all| all.get(names::RELEASE_ANNOTATION)?.parse().ok()),
            time_zone: spec.time_zone.as_deref().map(|zone| pool.text(zone)),
            deleting: metadata.deletion_timestamp.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slim_reading_says_the_same_as_the_whole_object() {
        let json = serde_json::json!({
            "apiVersion": "wardring.dev/v1alpha1",
            "kind": "Device",
            "metadata": {
                "name": "ws-17", "namespace": "clinic", "resourceVersion": "17", "uid": "u",
                "labels": { "ring": "test", "site": "north" },
                "annotations": {
                    "wardring.dev/release-requested-at": "2026-11-21T02:00:00Z", "other": "x"
                },
                "managedFields": [{ "manager": "someone", "fieldsV1": { "f:spec": {} } }],
            },
            "spec": {
                "mode": "Manage", "enrolmentId": "4f2a", "timeZone": "Europe/Berlin",
                "hold": { "reason": "surgery", "until": "2026-11-22T00:00:00Z" },
            },
            "status": {
                "conditions": [
                    { "type": "Online", "status": "True", "reason": "InContact", "message": "",
                      "lastTransitionTime": "2026-11-21T01:00:00Z" },
                    { "type": "Quarantined", "status": "True", "reason": "RollbackFailed",
                      "message": "", "lastTransitionTime": "2026-11-21T01:00:00Z" },
                ],
                "identity": {
                    "hostname": "DESK-4711", "model": "R640", "roles": ["HyperVHost"],
                    "addresses": ["::1"],
                },
                "os": { "product": "Windows Server 2022", "build": "20348.2762" },
                "missing": ["KB5068787"],
                "pendingReboot": [{ "source": "ComponentBasedServicing", "hard": true }],
                "startup": { "attendance": "Needed", "protectors": ["TpmAndPin"] },
                "freeDiskGb": 12, "componentStore": "Repairable",
                "paused": { "reason": "surgery", "since": "2026-11-21T02:00:00Z" },
                "services": [{ "name": "MSSQLSERVER", "state": "Running" }],
                "health": [{
                    "rolloutUid": "u", "attempt": 2, "since": "2026-11-21T02:00:00Z", "restarts": 1,
                    "unhealthy": [{
                        "kind": "Probe", "name": "web", "since": "2026-11-21T03:00:00Z",
                    }],
                    "lastRestart": "2026-11-21T04:00:00Z",
                }],
                "otherPatchSources": ["ConfigMgr"],
            },
        });
        let whole: Device = serde_json::from_value(json.clone()).unwrap();
        let slim: SlimDevice = serde_json::from_str(&json.to_string()).unwrap();

        assert_eq!(slim.into_row(&mut Interner::default()), DeviceRow::new(&whole));
    }

    #[test]
    fn a_device_without_status_is_read() {
        let text = r#"{"metadata":{"name":"a","namespace":"b","resourceVersion":"1"},"spec":{}}"#;
        let slim: SlimDevice = serde_json::from_str(text).unwrap();
        let row = slim.into_row(&mut Interner::default());
        assert_eq!((row.online, row.product), (None, None));
    }
}
