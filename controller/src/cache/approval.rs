//! PatchApprovals in the cache: few, and kept whole.

use kube::ResourceExt;
use wardring_api::PatchApproval;

use super::{
    Cached, Interner, Kind, Namespace,
    kinds::{put_newer, stored},
};

impl Cached for PatchApproval {
    const KIND: Kind = Kind::Approval;

    fn put(mut self, space: &mut Namespace, _: &mut Interner, version: u64) -> bool {
        self.metadata.managed_fields = None;
        let name = self.name_any();
        let wanted = |approval: &PatchApproval| {
            (approval.spec.decision, approval.metadata.deletion_timestamp.clone())
        };
        let known = space.approvals.get(&name);
        // One that only asks is the controller's own.
        let asks = self.spec.decision.is_none() && self.metadata.deletion_timestamp.is_none();
        let is_new_intent = known.map_or(!asks, |known| wanted(&known.value) != wanted(&self));
        let changed = put_newer(&mut space.approvals, name, stored(&self.clone(), version, self));
        space.intent += u64::from(changed && is_new_intent);
        changed
    }

    fn known<'a>(space: &'a mut Namespace, name: &str) -> Option<&'a mut u64> {
        space.approvals.get_mut(name).map(|known| &mut known.version)
    }

    // Whoever deletes an approval withdraws it now.
    fn drop_from(space: &mut Namespace, name: &str) -> bool {
        space.intent += 1;
        space.approvals.remove(name).is_some()
    }

    fn names_in(space: &Namespace) -> Vec<String> {
        space.approvals.keys().cloned().collect()
    }
}
