//! Names in a form that many of them can be compared in: a name's bytes lie anywhere in memory, a
//! slice's or a table's keys lie side by side.

use sha2::{Digest, Sha256};

/// The first half of a name's SHA-256. Nobody finds two names with one key, so equal keys are equal
/// names. Keys have no useful order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameKey(u128);

impl NameKey {
    pub fn new(name: &str) -> NameKey {
        let digest: [u8; 32] = Sha256::digest(name.as_bytes()).into();
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        NameKey(u128::from_be_bytes(half))
    }
}

/// The device names of a slice: one digest over all, and a key for each, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamesDigest {
    digest: [u8; 32],
    keys: Box<[NameKey]>,
}

impl NamesDigest {
    /// SHA-256 over the names, each ended by a line feed.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    pub(crate) fn keys(&self) -> &[NameKey] {
        &self.keys
    }
}

/// The digest of names in their order.
pub fn names_digest<'a>(names: impl Iterator<Item = &'a str>) -> NamesDigest {
    let mut keys = Vec::new();
    let digest = digest(names.inspect(|name| keys.push(NameKey::new(name))));
    NamesDigest { digest, keys: keys.into_boxed_slice() }
}

/// The digest alone.
pub(crate) fn digest<'a>(names: impl Iterator<Item = &'a str>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for name in names {
        hash.update(name.as_bytes());
        hash.update(b"\n");
    }
    hash.finalize().into()
}
