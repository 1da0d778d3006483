//! A namespace with living devices, and waiting for what becomes of its objects.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use wardring_api::{
    Device, DeviceGroup, PatchRollout, PatchRolloutSlice, PatchRolloutStatus, RolloutPhase,
    SliceLine, StageStatus, Update, conditions, names::ROLLOUT_LABEL,
};
use wardring_e2e::{Fleet, FleetFile, Installation, Tenant, TokenOptions};
use wardring_harness::{wait_until, wait_until_ok};

use super::{
    history::lines,
    manifests::{BUILDS, KB, PRODUCT, Plan},
};

/// What takes a moment.
pub const SHORT: Duration = Duration::from_secs(30);
/// What takes a whole rollout on a busy machine.
pub const LONG: Duration = Duration::from_secs(120);

/// The name of the rollouts here.
pub const ROLLOUT: &str = "november";

/// A namespace.
#[derive(Clone)]
pub struct Place {
    /// Its name.
    pub namespace: String,
    /// A client with the administrator's rights.
    pub client: Client,
}

impl Place {
    /// Makes a namespace with a catalogue, groups and enrolled devices, and waits until all of them
    /// are in contact and have reported.
    pub async fn open(
        installation: &Installation,
        namespace: &str,
        plan: &Plan,
    ) -> Result<(Place, Fleet)> {
        let (tenant, place) = Place::prepare(installation, namespace).await?;
        let mut file = FleetFile::default();
        let mut tokens = BTreeMap::new();
        for group in plan.groups() {
            let token = place.group(&tenant, &group, plan.names(&group).len()).await?;
            tokens.insert(group, token);
        }
        for (group, device, world) in &plan.devices {
            file.world(device, world.clone());
            file.device(device, device, &tokens[group]);
        }
        let fleet = tenant.fleet(&file).await?;
        for (_, device, _) in &plan.devices {
            place.until_heard(SHORT, device).await?;
        }
        Ok((place, fleet))
    }

    /// Makes a namespace with a catalogue of the one update.
    pub async fn prepare<'a>(
        installation: &'a Installation,
        namespace: &str,
    ) -> Result<(Tenant<'a>, Place)> {
        let tenant = installation.tenant(namespace).await?;
        let place = Place { namespace: namespace.to_owned(), client: tenant.client().await? };
        place
            .create::<Update>(json!({
                "metadata": { "name": "kb5068787-windows-server-2022" },
                "spec": {
                    "kb": KB, "title": "2026-11 Cumulative Update", "product": PRODUCT,
                    "kind": "Quality", "release": "2026-11", "targetBuild": BUILDS[1],
                },
            }))
            .await?;
        Ok((tenant, place))
    }

    /// Makes a group and a token that enrols its devices.
    pub async fn group(&self, tenant: &Tenant<'_>, group: &str, devices: usize) -> Result<String> {
        let spec = json!({ "selector": { "matchLabels": { "group": group } } });
        self.create::<DeviceGroup>(json!({ "metadata": { "name": group }, "spec": spec })).await?;
        let label = format!("group={group}");
        let options =
            TokenOptions { name: group, labels: &[&label], max_uses: devices, may_replace: false };
        tenant.token(&options).await
    }

    /// Waits until a device is in contact and has reported.
    pub async fn until_heard(&self, limit: Duration, device: &str) -> Result<Device> {
        self.until(limit, device, "to be in contact and to report", |device: &Device| {
            device.status.as_ref().is_some_and(|status| {
                status.os.is_some() && conditions::is_true(&status.conditions, conditions::ONLINE)
            })
        })
        .await
    }

    /// Waits until a device counts as out of contact.
    pub async fn until_away(&self, limit: Duration, device: &str) -> Result<Device> {
        self.until(limit, device, "to be out of contact", |device: &Device| {
            device.status.as_ref().is_some_and(|status| {
                let online = status.conditions.iter().find(|all| all.type_ == conditions::ONLINE);
                online.is_some_and(|online| online.status == "False")
            })
        })
        .await
    }

    /// Objects of a kind.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates an object of which only metadata and spec are given.
    pub async fn create<K>(&self, object: Value) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + Serialize
            + DeserializeOwned,
    {
        let mut whole = json!({ "apiVersion": K::api_version(&()), "kind": K::kind(&()) });
        if let (Value::Object(whole), Value::Object(given)) = (&mut whole, object) {
            whole.extend(given);
        }
        let object: K = serde_json::from_value(whole).context("the manifest is wrong")?;
        let created = self.api::<K>().create(&PostParams::default(), &object).await;
        created.with_context(|| format!("failed to create a {}", K::kind(&())))
    }

    /// Merges `patch` into an object.
    pub async fn patch<K>(&self, name: &str, patch: Value) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let patched =
            self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.with_context(|| format!("failed to patch {} {name}", K::kind(&())))
    }

    /// Waits until an object is as wanted. `what` completes the sentence "waited for NAME …".
    pub async fn until<K>(
        &self,
        limit: Duration,
        name: &str,
        what: &str,
        check: impl Fn(&K) -> bool,
    ) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + Serialize
            + DeserializeOwned,
    {
        let api = self.api::<K>();
        wait_until_ok(limit, &format!("{name} {what}"), async || match api.get(name).await {
            Ok(object) if check(&object) => Ok(object),
            Ok(object) => {
                let status = json!(object)["status"].to_string();
                Err(status.chars().take(3_000).collect())
            }
            Err(error) => Err(error.to_string()),
        })
        .await
    }

    /// Waits until an object is gone.
    pub async fn until_gone<K>(&self, limit: Duration, name: &str) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let api = self.api::<K>();
        wait_until(limit, &format!("{name} to go"), async || {
            matches!(api.get_opt(name).await, Ok(None)).then_some(())
        })
        .await
    }

    /// Waits until the rollout's status is as wanted.
    pub async fn until_status(
        &self,
        limit: Duration,
        what: &str,
        check: impl Fn(&PatchRolloutStatus) -> bool,
    ) -> Result<PatchRolloutStatus> {
        let rollout = self.until::<PatchRollout>(limit, ROLLOUT, what, |rollout| {
            rollout.status.as_ref().is_some_and(&check)
        });
        Ok(rollout.await?.status.unwrap_or_default())
    }

    /// Waits until the rollout has reached a phase.
    pub async fn until_phase(&self, phase: RolloutPhase) -> Result<PatchRolloutStatus> {
        let what = format!("to be {phase:?}");
        self.until_status(LONG, &what, |status| status.phase == Some(phase)).await
    }

    /// The lines of the rollout's slices, by device.
    pub async fn lines(&self) -> Result<BTreeMap<String, SliceLine>> {
        let params = ListParams::default().labels(&format!("{ROLLOUT_LABEL}={ROLLOUT}"));
        let slices = self.api::<PatchRolloutSlice>().list(&params).await?.items;
        let lines = slices.iter().flat_map(lines);
        Ok(lines.map(|line| (line.device.clone(), line)).collect())
    }

    /// Waits until the record is as wanted: a halt is written before the lines that it follows from.
    pub async fn until_lines(
        &self,
        what: &str,
        check: impl Fn(&BTreeMap<String, SliceLine>) -> bool,
    ) -> Result<BTreeMap<String, SliceLine>> {
        wait_until_ok(LONG, what, async || {
            let lines = self.lines().await.map_err(|error| format!("{error:#}"))?;
            if check(&lines) { Ok(lines) } else { Err(format!("{lines:?}")) }
        })
        .await
    }

    /// Waits until the devices have reported builds as wanted: a facts report follows the outcome.
    pub async fn until_builds(
        &self,
        check: impl Fn(&BTreeMap<String, String>) -> bool,
    ) -> Result<()> {
        wait_until_ok(LONG, "the devices to report their builds", async || {
            let builds = self.builds().await.map_err(|error| format!("{error:#}"))?;
            if check(&builds) { Ok(()) } else { Err(format!("{builds:?}")) }
        })
        .await
    }

    /// Every device's `build.UBR`, as reported.
    pub async fn builds(&self) -> Result<BTreeMap<String, String>> {
        let devices = self.api::<Device>().list(&ListParams::default()).await?.items;
        let build = |device: &Device| {
            device.status.as_ref().and_then(|status| status.os.as_ref()).map(|os| os.build.clone())
        };
        Ok(devices
            .iter()
            .map(|device| (device.name_any(), build(device).unwrap_or_default()))
            .collect())
    }
}

/// A stage's status.
pub fn stage_of<'a>(status: &'a PatchRolloutStatus, name: &str) -> &'a StageStatus {
    let mut stages = status.stages.iter().filter(|stage| stage.name == name);
    stages.next().unwrap_or_else(|| panic!("the status has no stage {name}"))
}
