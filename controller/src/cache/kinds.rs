//! How each kind goes into the cache and out of it.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use kube::{Resource, core::NamespaceResourceScope};
use serde::de::DeserializeOwned;
use wardring_api::{
    DeviceGroup, MaintenanceWindow, PatchJob, PatchLedger, PatchRollout, PatchRolloutSlice, Update,
    UpdateHold,
    names::{CONTROLLER_MANAGER, LEDGER_NAME},
};
use wardring_planner::{HoldView, SliceView, WindowView};

use super::{
    device::SlimDevice,
    intern::Interner,
    namespace::{CachedJob, Namespace, Stored, group_view},
};

/// The kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// PatchLedger.
    Ledger,
    /// PatchRollout.
    Rollout,
    /// PatchRolloutSlice.
    Slice,
    /// PatchJob.
    Job,
    /// Device.
    Device,
    /// DeviceGroup.
    Group,
    /// Update.
    Update,
    /// UpdateHold.
    Hold,
    /// MaintenanceWindow.
    Window,
    /// PatchRollback.
    Rollback,
    /// PatchApproval.
    Approval,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 11] = [
        Kind::Ledger,
        Kind::Rollout,
        Kind::Slice,
        Kind::Job,
        Kind::Device,
        Kind::Group,
        Kind::Update,
        Kind::Hold,
        Kind::Window,
        Kind::Rollback,
        Kind::Approval,
    ];

    /// The kind as the API names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Ledger => "PatchLedger",
            Kind::Rollout => "PatchRollout",
            Kind::Slice => "PatchRolloutSlice",
            Kind::Job => "PatchJob",
            Kind::Device => "Device",
            Kind::Group => "DeviceGroup",
            Kind::Update => "Update",
            Kind::Hold => "UpdateHold",
            Kind::Window => "MaintenanceWindow",
            Kind::Rollback => "PatchRollback",
            Kind::Approval => "PatchApproval",
        }
    }
}

/// An object that the cache keeps.
pub trait Cached:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// Its kind.
    const KIND: Kind;

    /// Puts it into its namespace unless something newer is there. Says whether that changed
    /// anything that a pass looks at.
    fn put(self, space: &mut Namespace, pool: &mut Interner, version: u64) -> bool;

    /// Version of the one that is there, where versions are kept.
    fn known<'a>(space: &'a mut Namespace, name: &str) -> Option<&'a mut u64>;

    /// Takes it out. Says whether it was there.
    fn drop_from(space: &mut Namespace, name: &str) -> bool;

    /// Names of this kind's objects in the namespace.
    fn names_in(space: &Namespace) -> Vec<String>;
}

pub(super) fn stored<T>(object: &impl Resource, version: u64, value: T) -> Stored<T> {
    let uid = object.meta().uid.as_deref().unwrap_or_default();
    Stored { uid: Arc::from(uid), version, value: Arc::new(value) }
}

/// Puts `item` into `map` unless the same or a newer version is there.
pub(super) fn put_newer<T>(
    map: &mut BTreeMap<String, Stored<T>>,
    name: String,
    item: Stored<T>,
) -> bool {
    if map.get(&name).is_some_and(|known| known.version >= item.version) {
        return false;
    }
    map.insert(name, item);
    true
}

fn name_of(object: &impl Resource) -> String {
    object.meta().name.clone().unwrap_or_default()
}

/// Whether nobody but the controller ever wrote the object.
fn is_ours(object: &impl Resource) -> bool {
    let writers = object.meta().managed_fields.as_deref().unwrap_or_default();
    let is_controller = |name: &Option<String>| name.as_deref() == Some(CONTROLLER_MANAGER);
    !writers.is_empty() && writers.iter().all(|writer| is_controller(&writer.manager))
}

impl Cached for PatchLedger {
    const KIND: Kind = Kind::Ledger;

    fn put(mut self, space: &mut Namespace, _: &mut Interner, version: u64) -> bool {
        // The schema allows one name only; anything else is none of ours.
        if self.metadata.name.as_deref() != Some(LEDGER_NAME)
            || space.ledger.as_ref().is_some_and(|known| known.version >= version)
        {
            return false;
        }
        self.metadata.managed_fields = None;
        let sequence = self.status.as_ref().map_or(0, |status| status.sequence);
        let ledger = stored(&self.clone(), version, self);
        space.note_sequence(&ledger.uid, sequence);
        space.ledger = Some(ledger);
        true
    }

    fn known<'a>(space: &'a mut Namespace, _: &str) -> Option<&'a mut u64> {
        space.ledger.as_mut().map(|known| &mut known.version)
    }

    fn drop_from(space: &mut Namespace, name: &str) -> bool {
        name == LEDGER_NAME && space.ledger.take().is_some()
    }

    fn names_in(space: &Namespace) -> Vec<String> {
        space.ledger.iter().map(|_| LEDGER_NAME.to_owned()).collect()
    }
}

impl Cached for PatchRollout {
    const KIND: Kind = Kind::Rollout;

    fn put(mut self, space: &mut Namespace, _: &mut Interner, version: u64) -> bool {
        self.metadata.managed_fields = None;
        let name = name_of(&self);
        let wanted = |rollout: &PatchRollout| {
            let meta = &rollout.metadata;
            (meta.generation, meta.deletion_timestamp.clone(), meta.annotations.clone())
        };
        let is_new_intent =
            space.rollouts.get(&name).is_none_or(|known| wanted(&known.value) != wanted(&self));
        let item = stored(&self.clone(), version, self);
        let changed = put_newer(&mut space.rollouts, name, item);
        if changed && is_new_intent {
            space.intent += 1;
        }
        changed
    }

    fn known<'a>(space: &'a mut Namespace, name: &str) -> Option<&'a mut u64> {
        space.rollouts.get_mut(name).map(|known| &mut known.version)
    }

    fn drop_from(space: &mut Namespace, name: &str) -> bool {
        space.intent += 1;
        space.rollouts.remove(name).is_some()
    }

    fn names_in(space: &Namespace) -> Vec<String> {
        space.rollouts.keys().cloned().collect()
    }
}

impl Cached for PatchRolloutSlice {
    const KIND: Kind = Kind::Slice;

    fn put(self, space: &mut Namespace, _: &mut Interner, version: u64) -> bool {
        let item = stored(&self, version, SliceView::new(&self));
        put_newer(&mut space.slices, name_of(&self), item)
    }

    fn known<'a>(space: &'a mut Namespace, name: &str) -> Option<&'a mut u64> {
        space.slices.get_mut(name).map(|known| &mut known.version)
    }

    fn drop_from(space: &mut Namespace, name: &str) -> bool {
        space.slices.remove(name).is_some()
    }

    fn names_in(space: &Namespace) -> Vec<String> {
        space.slices.keys().cloned().collect()
    }
}

impl Cached for PatchJob {
    const KIND: Kind = Kind::Job;

    fn put(self, space: &mut Namespace, _: &mut Interner, version: u64) -> bool {
        let (name, job) = (name_of(&self), CachedJob::new(&self));
        let was_open = space.jobs.get(&name).is_none_or(|known| known.value.signed.is_none());
        // A device that failed may have to stop all others: neither the rest of a plan nor the pause
        // between two passes comes before that look.
        let is_bad_news = was_open && job.is_bad_news();
        let changed = put_newer(&mut space.jobs, name, stored(&self, version, job));
        space.intent += u64::from(changed && is_bad_news);
        changed
    }

    fn known<'a>(space: &'a mut Namespace, name: &str) -> Option<&'a mut u64> {
        space.jobs.get_mut(name).map(|known| &mut known.version)
    }

    fn drop_from(space: &mut Namespace, name: &str) -> bool {
        space.jobs.remove(name).is_some()
    }

    fn names_in(space: &Namespace) -> Vec<String> {
        space.jobs.keys().cloned().collect()
    }
}

impl Cached for DeviceGroup {
    const KIND: Kind = Kind::Group;

    fn put(self, space: &mut Namespace, _: &mut Interner, version: u64) -> bool {
        let name = name_of(&self);
        if space.groups.get(&name).is_some_and(|known| known.version >= version) {
            return false;
        }
        space.put_group(stored(&self, version, group_view(&self)));
        true
    }

    fn known<'a>(space: &'a mut Namespace, name: &str) -> Option<&'a mut u64> {
        space.groups.get_mut(name).map(|known| &mut known.version)
    }

    fn drop_from(space: &mut Namespace, name: &str) -> bool {
        let was_there = space.groups.remove(name).is_some();
        if was_there {
            space.intent += 1;
            space.refresh_groups();
        }
        was_there
    }

    fn names_in(space: &Namespace) -> Vec<String> {
        space.groups.keys().cloned().collect()
    }
}

impl Cached for Update {
    const KIND: Kind = Kind::Update;

    fn put(self, space: &mut Namespace, _: &mut Interner, version: u64) -> bool {
        let item = stored(&self, version, self.spec.clone());
        put_newer(&mut space.updates, name_of(&self), item)
    }

    fn known<'a>(space: &'a mut Namespace, name: &str) -> Option<&'a mut u64> {
        space.updates.get_mut(name).map(|known| &mut known.version)
    }

    fn drop_from(space: &mut Namespace, name: &str) -> bool {
        space.updates.remove(name).is_some()
    }

    fn names_in(space: &Namespace) -> Vec<String> {
        space.updates.keys().cloned().collect()
    }
}

impl Cached for UpdateHold {
    const KIND: Kind = Kind::Hold;

    fn put(self, space: &mut Namespace, _: &mut Interner, version: u64) -> bool {
        let name = name_of(&self);
        let created_at = self.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let view = HoldView { name: name.clone(), created_at, spec: self.spec.clone() };
        let changed = put_newer(&mut space.holds, name, stored(&self, version, view));
        // The echo of a bar that a pass put up itself must not stop that pass.
        space.intent += u64::from(changed && !is_ours(&self));
        changed
    }

    fn known<'a>(space: &'a mut Namespace, name: &str) -> Option<&'a mut u64> {
        space.holds.get_mut(name).map(|known| &mut known.version)
    }

    fn drop_from(space: &mut Namespace, name: &str) -> bool {
        space.holds.remove(name).is_some()
    }

    fn names_in(space: &Namespace) -> Vec<String> {
        space.holds.keys().cloned().collect()
    }
}

impl Cached for MaintenanceWindow {
    const KIND: Kind = Kind::Window;

    fn put(self, space: &mut Namespace, _: &mut Interner, version: u64) -> bool {
        let name = name_of(&self);
        let view = WindowView::new(&self);
        let known = space.windows.get(&name);
        let is_new_intent = known.is_none_or(|known| known.value.spec != view.spec);
        let changed = put_newer(&mut space.windows, name, stored(&self, version, view));
        space.intent += u64::from(changed && is_new_intent);
        changed
    }

    fn known<'a>(space: &'a mut Namespace, name: &str) -> Option<&'a mut u64> {
        space.windows.get_mut(name).map(|known| &mut known.version)
    }

    fn drop_from(space: &mut Namespace, name: &str) -> bool {
        space.intent += 1;
        space.windows.remove(name).is_some()
    }

    fn names_in(space: &Namespace) -> Vec<String> {
        space.windows.keys().cloned().collect()
    }
}

impl Cached for SlimDevice {
    const KIND: Kind = Kind::Device;

    // Devices come from their one watch only and are never fenced, so no version is kept per row.
    fn put(self, space: &mut Namespace, pool: &mut Interner, _: u64) -> bool {
        let row = self.into_row(pool);
        let known = space.devices.get(&row.name);
        if known == Some(&row) {
            return false;
        }
        if row.quarantined && known.is_some_and(|known| !known.quarantined) {
            space.note_quarantine(&row.name);
        }
        Arc::make_mut(&mut space.devices).upsert(row);
        true
    }

    fn known<'a>(_: &'a mut Namespace, _: &str) -> Option<&'a mut u64> {
        None
    }

    fn drop_from(space: &mut Namespace, name: &str) -> bool {
        let is_there = space.devices.find(name).is_some();
        if is_there {
            Arc::make_mut(&mut space.devices).remove(name);
        }
        is_there
    }

    fn names_in(space: &Namespace) -> Vec<String> {
        space.devices.rows().iter().map(|row| row.name.to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(version: u64, managers: &[&str]) -> UpdateHold {
        let fields: Vec<_> =
            managers.iter().map(|name| serde_json::json!({ "manager": name })).collect();
        serde_json::from_value(serde_json::json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "UpdateHold",
            "metadata": {
                "name": "november-1", "namespace": "clinic",
                "resourceVersion": version.to_string(), "managedFields": fields,
            },
            "spec": { "kbs": ["KB5068787"], "reason": "It was rolled back." },
        }))
        .expect("a hold")
    }

    fn job(version: u64, action: &str, result: Option<&str>) -> PatchJob {
        let outcome = result.map(|result| {
            let payload = serde_json::json!({
                "version": 1, "sequence": 7, "namespace": "clinic", "device": "ward-1", "result": result,
                "key": { "rolloutUid": "u", "deviceId": "d", "attempt": 1, "action": action }, "message": "", "bootId": "b",
                "rebootRequired": false, "started": true, "build": "20348.1", "reboots": 0,
                "at": "2026-11-10T02:00:00Z",
            });
            serde_json::json!({ "payload": payload.to_string(), "signature": "", "certificate": "" })
        });
        let job = serde_json::json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchJob",
            "metadata": {
                "name": "ward-1", "namespace": "clinic", "resourceVersion": version.to_string(),
            },
            "spec": {
                "sealed": { "payload": "", "signature": "", "keyId": "", "certificate": "" },
                "rollout": "november",
                "rolloutUid": "u", "stage": "wards", "slice": "november-0", "enrolmentId": "d",
                "attempt": 1, "sequence": 7, "action": action, "kbs": ["KB5068787"],
                "startBy": "2026-11-10T02:00:00Z", "finishBy": "2026-11-10T06:00:00Z",
            },
            "status": { "outcome": outcome },
        });
        serde_json::from_value(job).expect("a job")
    }

    #[test]
    fn a_device_that_failed_is_looked_at_at_once_and_one_that_is_done_is_not() {
        let news = |action, result| {
            let (mut space, mut pool) = (Namespace::default(), Interner::default());
            for (version, result) in [(1, None), (2, Some(result)), (3, Some(result))] {
                assert!(job(version, action, result).put(&mut space, &mut pool, version));
            }
            space.intent
        };
        for result in ["Failed", "RevertedByWindows", "RolledBack"] {
            assert_eq!(news("Install", result), 1, "{result}");
        }
        for result in ["Succeeded", "NotApplicable", "NotStarted", "PoweredOff"] {
            assert_eq!(news("Install", result), 0, "{result}");
        }
        assert_eq!((news("Rollback", "RollbackFailed"), news("Rollback", "RolledBack")), (1, 0));
    }

    #[test]
    fn a_bar_is_what_people_want_unless_the_controller_put_it_up_itself() {
        let (mut space, mut pool) = (Namespace::default(), Interner::default());
        let mut put = |version, managers: &[&str]| {
            assert!(hold(version, managers).put(&mut space, &mut pool, version));
            space.intent
        };
        assert_eq!(put(1, &[CONTROLLER_MANAGER]), 0);
        assert_eq!(put(2, &[CONTROLLER_MANAGER, "kubectl-edit"]), 1);
        assert_eq!(put(3, &["kubectl-create"]), 2);
        assert_eq!(put(4, &[]), 3, "in doubt it is a person's");
    }
}
