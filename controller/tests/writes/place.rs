//! Namespaces with a small rollout each.

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use wardring_api::{Device, DeviceGroup, PatchRollout, Update};

pub const KB: &str = "KB5068787";
pub const PRODUCT: &str = "Windows Server 2022";
pub const BUILDS: [&str; 2] = ["20348.4294", "20348.4405"];

/// A kind of rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Two stages that go well: two devices one after the other, then one.
    Good,
    /// The second of two devices fails, the rollout halts, and both are rolled back.
    Bad,
    /// The second of two devices fails, and its rollback fails, too.
    Damaged,
}

impl Shape {
    pub fn name(self) -> &'static str {
        match self {
            Shape::Good => "good",
            Shape::Bad => "bad",
            Shape::Damaged => "damaged",
        }
    }

    /// Stages with the devices that may be in flight at once.
    pub fn caps(self) -> &'static [(&'static str, usize)] {
        &[("test", 1), ("production", 1)]
    }

    /// Devices with their groups.
    pub fn devices(self) -> &'static [(&'static str, &'static str)] {
        &[("test-1", "test"), ("test-2", "test"), ("production-1", "production")]
    }

    fn spec(self) -> Value {
        let stage = |name: &str| json!({ "name": name, "group": name, "maxConcurrency": 1 });
        let mut spec = json!({
            "updates": { "kbs": [KB] },
            "stages": [stage("test"), stage("production")],
        });
        match self {
            Shape::Good => {}
            Shape::Bad => spec["onFailure"] = json!({ "action": "Rollback", "scope": "Stage" }),
            Shape::Damaged => spec["onFailure"] = json!({ "action": "Rollback" }),
        }
        spec
    }
}

/// Makes a namespace with devices, groups, catalogue, and then the rollout.
pub async fn create(client: &Client, namespace: &str, shape: Shape) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let object = serde_json::from_value(json!({ "metadata": { "name": namespace } }))?;
    namespaces.create(&PostParams::default(), &object).await?;
    let place = Place { client, namespace };
    let update = json!({
        "kb": KB, "title": "2026-11 Cumulative Update", "product": PRODUCT, "kind": "Quality",
        "release": "2026-11", "targetBuild": BUILDS[1],
    });
    place.create::<Update>("kb5068787", &json!({}), update).await?;
    for group in ["test", "production"] {
        let spec = json!({ "selector": { "matchLabels": { "group": group } } });
        place.create::<DeviceGroup>(group, &json!({}), spec).await?;
    }
    let devices: Api<Device> = Api::namespaced(client.clone(), namespace);
    for (device, group) in shape.devices() {
        let spec = json!({ "mode": "Manage", "enrolmentId": enrolment_id(device) });
        place.create::<Device>(device, &json!({ "group": group }), spec).await?;
        let status = json!({ "status": {
            "os": { "product": PRODUCT, "build": BUILDS[0] },
            "conditions": [{
                "type": "Online", "status": "True", "reason": "AgentInContact", "message": "",
                "lastTransitionTime": Timestamp::now(),
            }],
        } });
        devices.patch_status(device, &PatchParams::default(), &Patch::Merge(status)).await?;
    }
    place.create::<PatchRollout>("november", &json!({}), shape.spec()).await
}

/// The enrolment of a device, of the form that the signer gives.
pub fn enrolment_id(device: &str) -> String {
    device.bytes().map(|byte| format!("{byte:02x}")).collect()
}

struct Place<'a> {
    client: &'a Client,
    namespace: &'a str,
}

impl Place<'_> {
    async fn create<K>(&self, name: &str, labels: &Value, spec: Value) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + Serialize
            + DeserializeOwned,
    {
        let object: K = serde_json::from_value(json!({
            "apiVersion": K::api_version(&()), "kind": K::kind(&()),
            "metadata": { "name": name, "labels": labels },
            "spec": spec,
        }))?;
        let api: Api<K> = Api::namespaced(self.client.clone(), self.namespace);
        let created = api.create(&PostParams::default(), &object).await;
        created.map(|_| ()).with_context(|| format!("failed to create {} {name}", K::kind(&())))
    }
}
