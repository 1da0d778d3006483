//! Values that many devices share, kept once: products, builds, label sets, roles.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use wardring_api::DeviceRole;

/// Shared values. What nobody uses any more goes with [`Interner::forget_unused`].
#[derive(Debug, Default)]
pub struct Interner {
    texts: HashSet<Arc<str>>,
    labels: HashSet<Arc<BTreeMap<String, String>>>,
    roles: HashSet<Arc<[DeviceRole]>>,
}

impl Interner {
    /// The shared form of a text.
    pub fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let shared: Arc<str> = Arc::from(text);
        self.texts.insert(shared.clone());
        shared
    }

    /// The shared form of a label set.
    pub fn labels(&mut self, labels: BTreeMap<String, String>) -> Arc<BTreeMap<String, String>> {
        if let Some(known) = self.labels.get(&labels) {
            return known.clone();
        }
        let shared = Arc::new(labels);
        self.labels.insert(shared.clone());
        shared
    }

    /// The shared form of a list of roles.
    pub fn roles(&mut self, roles: &[DeviceRole]) -> Arc<[DeviceRole]> {
        if let Some(known) = self.roles.get(roles) {
            return known.clone();
        }
        let shared: Arc<[DeviceRole]> = Arc::from(roles);
        self.roles.insert(shared.clone());
        shared
    }

    /// Drops what only this pool still holds.
    pub fn forget_unused(&mut self) {
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.labels.retain(|labels| Arc::strong_count(labels) > 1);
        self.roles.retain(|roles| Arc::strong_count(roles) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_kept_once_and_forgotten_when_unused() {
        let mut pool = Interner::default();
        let first = pool.text("Windows Server 2022");
        let second = pool.text("Windows Server 2022");
        assert!(Arc::ptr_eq(&first, &second));
        drop((first, second));
        pool.forget_unused();
        assert!(pool.texts.is_empty());
    }
}
