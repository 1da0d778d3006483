//! A fake API server: objects with uids and versions, compare-and-swap, and the log that watches are
//! fed from. One write at a time, like etcd; everything that can go wrong on the way to it is the
//! network's to do.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use wardring_api::{
    Device, DeviceGroup, EmergencyStop, PatchJob, PatchLedger, PatchRollout, PatchRolloutSlice,
    UpdateHold,
};

use crate::clock::{Ms, wall};

/// Kind of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Ledger,
    Rollout,
    Slice,
    Job,
    Device,
    Group,
    Hold,
    Stop,
    Lease,
}

/// The Lease that elects the controller.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// Who leads.
    pub holder: usize,
    /// Raised by every renewal.
    pub renewals: u64,
}

/// An object of any kind.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Object {
    Ledger(Arc<PatchLedger>),
    Rollout(Arc<PatchRollout>),
    Slice(Arc<PatchRolloutSlice>),
    Job(Arc<PatchJob>),
    Device(Arc<Device>),
    Group(Arc<DeviceGroup>),
    Hold(Arc<UpdateHold>),
    Stop(Arc<EmergencyStop>),
    Lease(Lease),
}

macro_rules! objects {
    ($($kind:ident $type:ty, $as:ident;)+) => {
        $(impl From<$type> for Object {
            fn from(object: $type) -> Object {
                Object::$kind(Arc::new(object))
            }
        })+

        impl Object {
            /// Kind of the object.
            pub fn kind(&self) -> Kind {
                match self { $(Object::$kind(_) => Kind::$kind,)+ Object::Lease(_) => Kind::Lease }
            }

            /// Name of the object.
            pub fn name(&self) -> &str {
                self.meta().and_then(|meta| meta.name.as_deref()).unwrap_or("lease")
            }

            fn meta(&self) -> Option<&ObjectMeta> {
                match self { $(Object::$kind(object) => Some(&object.metadata),)+ Object::Lease(_) => None }
            }

            /// Its metadata, to change it.
            fn meta_mut(&mut self) -> Option<&mut ObjectMeta> {
                match self {
                    $(Object::$kind(object) => Some(&mut Arc::make_mut(object).metadata),)+
                    Object::Lease(_) => None,
                }
            }

            $(/// The object, if it is of this kind.
            pub fn $as(&self) -> Option<&Arc<$type>> {
                match self { Object::$kind(object) => Some(object), _ => None }
            })+
        }
    };
}

objects! {
    Ledger PatchLedger, ledger;
    Rollout PatchRollout, rollout;
    Slice PatchRolloutSlice, slice;
    Job PatchJob, job;
    Device Device, device;
    Group DeviceGroup, group;
    Hold UpdateHold, hold;
    Stop EmergencyStop, stop;
}

/// Kind and name.
pub type Key = (Kind, String);

/// An object as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Identity of this very object.
    pub uid: String,
    /// Version; grows with every write to anything.
    pub version: u64,
    /// The object.
    pub object: Object,
}

/// A write.
#[derive(Clone, Debug)]
pub enum Write {
    /// Create.
    Create(Object),
    /// Replace the version that was read.
    Replace {
        /// Uid that was read.
        uid: String,
        /// Version that was read.
        version: u64,
        /// The new object.
        object: Object,
    },
    /// Delete the version that was read (of whatever version without one).
    Delete {
        /// What.
        key: Key,
        /// Uid that was read.
        uid: String,
        /// Version that was read.
        version: Option<u64>,
    },
}

/// Why a write was refused.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// There is no such object.
    NotFound,
    /// It is not the version that was read.
    Conflict,
    /// Another one has the name.
    Exists(Box<Stored>),
}

/// What became of a write: the object as it is now, or as it was when it was deleted.
pub type Answer = Result<Stored, Refusal>;

/// One change, for watches.
#[derive(Clone, Debug)]
pub struct Change {
    /// Version of the change.
    pub version: u64,
    /// What changed.
    pub key: Key,
    /// What it is now; `None` if it is gone.
    pub now: Option<Stored>,
}

/// The server.
#[derive(Debug, Default)]
pub struct Api {
    objects: BTreeMap<Key, Stored>,
    /// Every change so far.
    pub log: Vec<Change>,
    version: u64,
    uids: u64,
}

impl Api {
    /// One object.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Stored> {
        self.objects.get(&(kind, name.to_owned()))
    }

    /// Every object of a kind, by name.
    pub fn list(&self, kind: Kind) -> impl Iterator<Item = &Stored> {
        let from = (kind, String::new());
        self.objects.range(from..).take_while(move |(key, _)| key.0 == kind).map(|(_, all)| all)
    }

    /// Version of the last write.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Carries a write out at `now`.
    pub fn write(&mut self, write: Write, now: Ms) -> Answer {
        match write {
            Write::Create(object) => self.create(object, now),
            Write::Replace { uid, version, object } => {
                let key = (object.kind(), object.name().to_owned());
                self.find(&key, &uid, Some(version))?;
                let is_released = object.meta().is_some_and(|meta| {
                    meta.deletion_timestamp.is_some()
                        && meta.finalizers.as_ref().is_none_or(Vec::is_empty)
                });
                if is_released { self.remove(&key) } else { Ok(self.put(key, uid, object)) }
            }
            Write::Delete { key, uid, version } => {
                let found = self.find(&key, &uid, version)?.clone();
                let meta = found.object.meta();
                if meta.is_none_or(|meta| meta.finalizers.as_ref().is_none_or(Vec::is_empty)) {
                    return self.remove(&key);
                }
                if meta.is_some_and(|meta| meta.deletion_timestamp.is_some()) {
                    return Ok(found);
                }
                let mut object = found.object;
                if let Some(meta) = object.meta_mut() {
                    meta.deletion_timestamp = Some(Time(wall(now)));
                }
                Ok(self.put(key, uid, object))
            }
        }
    }

    fn create(&mut self, mut object: Object, now: Ms) -> Answer {
        let key = (object.kind(), object.name().to_owned());
        if let Some(found) = self.objects.get(&key) {
            return Err(Refusal::Exists(Box::new(found.clone())));
        }
        self.uids += 1;
        let uid = format!("{:08x}-{}", self.uids, key.1);
        if let Some(meta) = object.meta_mut() {
            meta.uid = Some(uid.clone());
            meta.generation = Some(1);
            meta.creation_timestamp = Some(Time(wall(now)));
        }
        Ok(self.put(key, uid, object))
    }

    fn find(&self, key: &Key, uid: &str, version: Option<u64>) -> Result<&Stored, Refusal> {
        let found = self.objects.get(key).ok_or(Refusal::NotFound)?;
        let is_it = found.uid == uid && version.is_none_or(|version| version == found.version);
        if is_it { Ok(found) } else { Err(Refusal::Conflict) }
    }

    fn put(&mut self, key: Key, uid: String, object: Object) -> Stored {
        self.version += 1;
        let stored = Stored { uid, version: self.version, object };
        self.objects.insert(key.clone(), stored.clone());
        self.log.push(Change { version: self.version, key, now: Some(stored.clone()) });
        stored
    }

    fn remove(&mut self, key: &Key) -> Answer {
        self.version += 1;
        let found = self.objects.remove(key).ok_or(Refusal::NotFound)?;
        self.log.push(Change { version: self.version, key: key.clone(), now: None });
        Ok(found)
    }
}

/// What one process knows of the objects: a watch per kind, each with its own lag.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    objects: BTreeMap<Key, Stored>,
    /// Newest version known of an object, also of one that is gone.
    known: BTreeMap<Key, u64>,
    /// Per kind: changes of the log that were delivered.
    delivered: BTreeMap<Kind, usize>,
}

impl Cache {
    /// One object.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Stored> {
        self.objects.get(&(kind, name.to_owned()))
    }

    /// Every object of a kind, by name.
    pub fn list(&self, kind: Kind) -> impl Iterator<Item = &Stored> {
        let from = (kind, String::new());
        self.objects.range(from..).take_while(move |(key, _)| key.0 == kind).map(|(_, all)| all)
    }

    /// The watch of `kind` delivers everything before position `until` of the log. Answers whether
    /// that was news.
    pub fn deliver(&mut self, api: &Api, kind: Kind, until: usize) -> bool {
        let from = self.delivered.get(&kind).copied().unwrap_or(0);
        let mut news = false;
        for change in api.log.get(from..until).unwrap_or_default() {
            if change.key.0 == kind {
                news |= self.take(&change.key, change.version, change.now.clone());
            }
        }
        self.delivered.insert(kind, from.max(until));
        news
    }

    /// A consistent list of `kind`, as it is now.
    pub fn list_now(&mut self, api: &Api, kind: Kind) {
        self.deliver(api, kind, api.log.len());
    }

    /// Takes in what a write of our own answered.
    pub fn wrote(&mut self, stored: &Stored) {
        let key = (stored.object.kind(), stored.object.name().to_owned());
        self.take(&key, stored.version, Some(stored.clone()));
    }

    fn take(&mut self, key: &Key, version: u64, now: Option<Stored>) -> bool {
        let known = self.known.entry(key.clone()).or_default();
        if *known >= version {
            return false;
        }
        *known = version;
        match now {
            Some(stored) => drop(self.objects.insert(key.clone(), stored)),
            None => drop(self.objects.remove(key)),
        }
        true
    }
}
