//! Values that many states share: compared and hashed by what they mean, not by their bytes.

use std::{
    cmp::Ordering,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Deref,
    sync::Arc,
};

/// A shared value with the digest of its meaning. Two values with one digest are the same to the
/// search, as two states with one fingerprint are.
pub struct Held<T> {
    digest: u64,
    value: Arc<T>,
}

impl<T> Held<T> {
    /// Holds a value that means `meaning`.
    pub fn new(value: T, meaning: impl Hash) -> Held<T> {
        Held { digest: digest(meaning), value: Arc::new(value) }
    }

    /// The value, to be shared.
    pub fn shared(&self) -> Arc<T> {
        self.value.clone()
    }
}

/// A digest that is the same in every run.
pub fn digest(meaning: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    meaning.hash(&mut hasher);
    hasher.finish()
}

impl<T> Clone for Held<T> {
    fn clone(&self) -> Held<T> {
        Held { digest: self.digest, value: self.value.clone() }
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> PartialEq for Held<T> {
    fn eq(&self, other: &Held<T>) -> bool {
        self.digest == other.digest
    }
}

impl<T> Eq for Held<T> {}

impl<T> PartialOrd for Held<T> {
    fn partial_cmp(&self, other: &Held<T>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Held<T> {
    fn cmp(&self, other: &Held<T>) -> Ordering {
        self.digest.cmp(&other.digest)
    }
}

impl<T> Hash for Held<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl<T: fmt::Debug> fmt::Debug for Held<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(out)
    }
}
