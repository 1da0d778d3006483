//! PatchRollbacks in the cache: few, and kept whole.

use kube::ResourceExt;
use wardring_api::PatchRollback;

use super::{
    Cached, Interner, Kind, Namespace,
    kinds::{put_newer, stored},
};

impl Cached for PatchRollback {
    const KIND: Kind = Kind::Rollback;

    fn put(mut self, space: &mut Namespace, _: &mut Interner, version: u64) -> bool {
        self.metadata.managed_fields = None;
        let name = self.name_any();
        let wanted = |order: &PatchRollback| {
            (order.metadata.generation, order.metadata.deletion_timestamp.clone())
        };
        let known = space.rollbacks.get(&name);
        let is_new_intent = known.is_none_or(|known| wanted(&known.value) != wanted(&self));
        let changed = put_newer(&mut space.rollbacks, name, stored(&self.clone(), version, self));
        space.intent += u64::from(changed && is_new_intent);
        changed
    }

    fn known<'a>(space: &'a mut Namespace, name: &str) -> Option<&'a mut u64> {
        space.rollbacks.get_mut(name).map(|known| &mut known.version)
    }

    // Whoever deletes an order wants it to end now.
    fn drop_from(space: &mut Namespace, name: &str) -> bool {
        space.intent += 1;
        space.rollbacks.remove(name).is_some()
    }

    fn names_in(space: &Namespace) -> Vec<String> {
        space.rollbacks.keys().cloned().collect()
    }
}
