//! DeviceGroups of a site.

use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use wardring_api::DeviceGroup;

use super::{Agent, Site, create, object};

pub fn groups(site: &Site) -> Api<DeviceGroup> {
    Api::namespaced(site.client.clone(), &site.tenant)
}

/// Makes a DeviceGroup with `more` in its spec of which the agent's device is one from now on. Answers what was
/// written, for whoever deletes the group and makes it anew.
pub async fn group_of(site: &Site, agent: &Agent, name: &str, more: Value) -> DeviceGroup {
    let labels = json!({ "site": site.tenant });
    let labelled = Patch::Merge(json!({ "metadata": { "labels": labels } }));
    site.devices().patch(&agent.name, &PatchParams::default(), &labelled).await.unwrap();
    let mut spec = more;
    spec["selector"] = json!({ "matchLabels": labels });
    let group: DeviceGroup = object(json!({
        "apiVersion": "wardring.dev/v1alpha1", "kind": "DeviceGroup",
        "metadata": { "name": name }, "spec": spec,
    }));
    create(&groups(site), &group).await;
    group
}
