//! PatchApprovals in the cache. None of them interrupts a plan that is being carried out: whoever may only
//! approve must not hold up a halt, and what a plan relies on is read anew before it is written.

use kube::ResourceExt;
use wardring_api::PatchApproval;

use super::{
    Cached, Interner, Kind, Namespace,
    kinds::{put_newer, stored},
};

impl Cached for PatchApproval {
    const KIND: Kind = Kind::Approval;

    fn put(mut self, space: &mut Namespace, _: &mut Interner, version: u64) -> bool {
        // Whoever may make one may write a lot into these.
        self.metadata.managed_fields = None;
        self.metadata.annotations = None;
        self.metadata.labels = None;
        let name = self.name_any();
        put_newer(&mut space.approvals, name, stored(&self.clone(), version, self))
    }

    fn known<'a>(space: &'a mut Namespace, name: &str) -> Option<&'a mut u64> {
        space.approvals.get_mut(name).map(|known| &mut known.version)
    }

    fn drop_from(space: &mut Namespace, name: &str) -> bool {
        space.approvals.remove(name).is_some()
    }

    fn names_in(space: &Namespace) -> Vec<String> {
        space.approvals.keys().cloned().collect()
    }
}
