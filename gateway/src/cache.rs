//! The slim picture of devices and jobs that check-ins are answered from. Fed by one watch per kind;
//! it lags, so nothing irreversible is decided by it.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Instant,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tokio::sync::{Notify, watch};
use wardring_api::{Device, DeviceMode, DeviceStatus, JobAction, PatchJob, conditions};
use wardring_protocol::key_id;
use wardring_seal::{Action, JobKey, Sealed};

use crate::merge::fingerprint;

/// What a gateway keeps of a Device.
#[derive(Clone, Debug)]
pub struct KnownDevice {
    /// Namespace.
    pub namespace: Box<str>,
    /// Name.
    pub name: Box<str>,
    /// Version of the object.
    pub resource_version: Box<str>,
    /// Which enrolment speaks for it.
    pub enrolment_id: Option<Box<str>>,
    /// What people allow.
    pub mode: DeviceMode,
    /// Number of the report its facts are from.
    pub report_seq: i64,
    /// Hash of everything in the status that facts decide.
    pub fingerprint: u64,
    /// When Windows was last asked for updates, as seconds since 1970.
    pub scanned: Option<i64>,
    /// Conditions as JSON: a tenth of the memory of the parsed form.
    conditions: Box<[u8]>,
    /// When it came in.
    since: Instant,
}

impl KnownDevice {
    fn new(device: &Device) -> KnownDevice {
        let empty = DeviceStatus::default();
        let status = device.status.as_ref().unwrap_or(&empty);
        let meta = &device.metadata;
        KnownDevice {
            namespace: meta.namespace.as_deref().unwrap_or_default().into(),
            name: meta.name.as_deref().unwrap_or_default().into(),
            resource_version: meta.resource_version.as_deref().unwrap_or_default().into(),
            enrolment_id: device.spec.enrolment_id.as_deref().map(Box::from),
            mode: device.spec.mode,
            report_seq: status.report_seq.unwrap_or(0),
            fingerprint: fingerprint(status),
            scanned: status.last_scan.as_ref().map(|scan| scan.time.as_second()),
            conditions: serde_json::to_vec(&status.conditions)
                .expect("conditions are plain data")
                .into(),
            since: Instant::now(),
        }
    }

    /// The conditions.
    pub fn conditions(&self) -> Vec<Condition> {
        serde_json::from_slice(&self.conditions).expect("written by this process from conditions")
    }

    /// Whether `UpToDate` is still True or False.
    pub fn says_up_to_date(&self) -> bool {
        let is_it = |condition: &Condition| {
            condition.type_ == conditions::UP_TO_DATE && condition.status != "Unknown"
        };
        self.conditions().iter().any(is_it)
    }

    /// `namespace/enrolmentId`, if it is enrolled.
    pub fn peer_key(&self) -> Option<String> {
        self.enrolment_id.as_ref().map(|id| format!("{}/{id}", self.namespace))
    }
}

/// A PatchJob with what is asked of it at every poll.
#[derive(Debug)]
pub struct KnownJob {
    /// The object, without managed fields.
    pub job: PatchJob,
    /// The grant's key.
    pub key: JobKey,
    /// [`key_id`] of it.
    pub key_id: String,
    /// The bytes for the agent.
    pub sealed: Sealed,
    /// When it came in.
    since: Instant,
}

impl KnownJob {
    fn new(mut job: PatchJob) -> KnownJob {
        job.metadata.managed_fields = None;
        let key = job_key(&job);
        let sealed = &job.spec.sealed;
        let sealed = Sealed {
            payload: sealed.payload.clone(),
            signature: sealed.signature.clone(),
            key_id: sealed.key_id.clone(),
            certificate: sealed.certificate.clone(),
        };
        KnownJob { key_id: key_id(&key), key, sealed, job, since: Instant::now() }
    }

    /// Whether it was made again because somebody deleted it: the agent may answer what it got first.
    pub fn is_repaired(&self) -> bool {
        let annotations = self.job.metadata.annotations.as_ref();
        annotations.is_some_and(|all| all.contains_key(wardring_api::names::REPAIRED_ANNOTATION))
    }

    /// Whether the device's signed answer is stored.
    pub fn is_answered(&self) -> bool {
        self.job.status.as_ref().is_some_and(|status| status.outcome.is_some())
    }
}

/// The key of a job's grant.
pub fn job_key(job: &PatchJob) -> JobKey {
    JobKey {
        rollout_uid: job.spec.rollout_uid.clone(),
        device_id: job.spec.enrolment_id.clone(),
        attempt: job.spec.attempt,
        action: match job.spec.action {
            JobAction::Download => Action::Download,
            JobAction::Install => Action::Install,
            JobAction::Rollback => Action::Rollback,
        },
    }
}

#[derive(Debug, Default)]
struct Tables {
    /// By `namespace/name`.
    devices: HashMap<Box<str>, Arc<KnownDevice>>,
    /// By `namespace/enrolmentId`. More than one device with the same enrolment is a person's
    /// mistake, and none of them is served.
    enrolments: HashMap<Box<str>, Vec<Arc<KnownDevice>>>,
    /// By `namespace/name`.
    jobs: HashMap<Box<str>, Arc<KnownJob>>,
    /// Polls that wait, by `namespace/name` of their device.
    waiting: HashMap<Box<str>, Arc<Notify>>,
}

/// How much the picture holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Devices.
    pub devices: usize,
    /// Jobs.
    pub jobs: usize,
    /// Devices for which a long poll waits.
    pub polled_for: usize,
}

/// The picture.
#[derive(Debug)]
pub struct Cache {
    tables: RwLock<Tables>,
    devices_moved: watch::Sender<u64>,
}

impl Default for Cache {
    fn default() -> Cache {
        Cache { tables: RwLock::default(), devices_moved: watch::Sender::new(0) }
    }
}

/// Which device speaks with an enrolment.
#[derive(Clone, Debug)]
pub enum Bound {
    /// This one.
    Device(Arc<KnownDevice>),
    /// None (never, not yet, or no longer).
    Nobody,
    /// More than one.
    Several,
}

impl Cache {
    /// The device that an enrolment (`namespace/enrolmentId`) speaks for.
    pub fn bound(&self, enrolment: &str) -> Bound {
        match self.read().enrolments.get(enrolment).map(Vec::as_slice) {
            None | Some([]) => Bound::Nobody,
            Some([device]) => Bound::Device(device.clone()),
            Some(_) => Bound::Several,
        }
    }

    /// The device's job.
    pub fn job(&self, device: &KnownDevice) -> Option<Arc<KnownJob>> {
        let tables = self.read();
        if tables.jobs.is_empty() {
            return None;
        }
        tables.jobs.get(path(&device.namespace, &device.name).as_str()).cloned()
    }

    /// The device at `namespace/name`.
    pub fn device_at(&self, path: &str) -> Option<Arc<KnownDevice>> {
        self.read().devices.get(path).cloned()
    }

    /// The job at `namespace/name`.
    pub fn job_at(&self, path: &str) -> Option<Arc<KnownJob>> {
        self.read().jobs.get(path).cloned()
    }

    /// Resolves when the device or its job changes after this call.
    pub fn changes_of(&self, device: &KnownDevice) -> Arc<Notify> {
        let key = path(&device.namespace, &device.name);
        self.write().waiting.entry(key.into()).or_default().clone()
    }

    /// Forgets the notifier of a device if nobody else waits on it.
    pub fn stop_waiting(&self, device: &KnownDevice, notify: Arc<Notify>) {
        let mut tables = self.write();
        // Two owners are the table and the caller.
        if Arc::strong_count(&notify) <= 2 {
            tables.waiting.remove(path(&device.namespace, &device.name).as_str());
        }
    }

    /// Moves whenever a device changes.
    pub fn devices_moved(&self) -> watch::Receiver<u64> {
        self.devices_moved.subscribe()
    }

    /// Devices for which `wanted` holds.
    pub fn devices_where(&self, wanted: impl Fn(&KnownDevice) -> bool) -> Vec<Arc<KnownDevice>> {
        self.read().devices.values().filter(|device| wanted(device)).cloned().collect()
    }

    /// How much it holds.
    pub fn sizes(&self) -> Sizes {
        let tables = self.read();
        Sizes {
            devices: tables.devices.len(),
            jobs: tables.jobs.len(),
            // A poll whose connection broke leaves its notifier behind until the device's next one.
            polled_for: tables.waiting.values().filter(|all| Arc::strong_count(all) > 1).count(),
        }
    }

    /// Takes in a version of a device, unless a newer one is here.
    pub fn put_device(&self, device: &Device) {
        self.take_device(device, None);
    }

    /// Takes in a device as a full list that began at `began` names it. What was known before the
    /// list began gives way even if it is newer: then the cluster was restored from a backup.
    pub fn put_listed_device(&self, device: &Device, began: Instant) {
        self.take_device(device, Some(began));
    }

    fn take_device(&self, device: &Device, began: Option<Instant>) {
        let known = Arc::new(KnownDevice::new(device));
        let key = path(&known.namespace, &known.name);
        let mut tables = self.write();
        if let Some(old) = tables.devices.get(key.as_str()) {
            let gives_way = began.is_some_and(|began| old.since < began);
            if is_older(&known.resource_version, &old.resource_version) && !gives_way {
                return;
            }
            let old = old.clone();
            tables.unbind(&old);
        }
        if let Some(enrolment) = known.peer_key() {
            tables.enrolments.entry(enrolment.into()).or_default().push(known.clone());
        }
        tables.notify(&key);
        tables.devices.insert(key.into(), known);
        drop(tables);
        self.devices_moved.send_modify(|version| *version += 1);
    }

    /// Forgets a device.
    pub fn remove_device(&self, namespace: &str, name: &str) {
        let key = path(namespace, name);
        let mut tables = self.write();
        if let Some(old) = tables.devices.remove(key.as_str()) {
            tables.unbind(&old);
            tables.notify(&key);
        }
    }

    /// Takes in a version of a job, unless a newer one is here.
    pub fn put_job(&self, job: PatchJob) {
        self.take_job(job, None);
    }

    /// Takes in a job as a full list names it, like [`Cache::put_listed_device`].
    pub fn put_listed_job(&self, job: PatchJob, began: Instant) {
        self.take_job(job, Some(began));
    }

    fn take_job(&self, job: PatchJob, began: Option<Instant>) {
        let meta = &job.metadata;
        let key = path(
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        );
        let mut tables = self.write();
        if let Some(old) = tables.jobs.get(key.as_str())
            && began.is_none_or(|began| old.since >= began)
        {
            let versions = (&job.metadata.resource_version, &old.job.metadata.resource_version);
            if let (Some(new), Some(old)) = versions
                && is_older(new, old)
            {
                return;
            }
        }
        tables.notify(&key);
        tables.jobs.insert(key.into(), Arc::new(KnownJob::new(job)));
    }

    /// Forgets a job, unless it was made anew meanwhile.
    pub fn remove_job(&self, namespace: &str, name: &str, uid: Option<&str>) {
        let key = path(namespace, name);
        let mut tables = self.write();
        let same =
            |known: &Arc<KnownJob>| uid.is_none() || known.job.metadata.uid.as_deref() == uid;
        if tables.jobs.get(key.as_str()).is_some_and(same) {
            tables.jobs.remove(key.as_str());
            tables.notify(&key);
        }
    }

    /// Keeps only the devices that `listed` names (`namespace/name`), after a complete list.
    pub fn retain_devices(&self, listed: &std::collections::HashSet<String>) {
        let gone: Vec<_> = {
            let tables = self.read();
            let gone = tables.devices.iter().filter(|(key, _)| !listed.contains(&***key));
            gone.map(|(_, device)| device.clone()).collect()
        };
        for device in gone {
            self.remove_device(&device.namespace, &device.name);
        }
    }

    /// Keeps only the jobs that `listed` names (`namespace/name`), after a complete list.
    pub fn retain_jobs(&self, listed: &std::collections::HashSet<String>) {
        let mut tables = self.write();
        let gone: Vec<Box<str>> =
            tables.jobs.keys().filter(|key| !listed.contains(&***key)).cloned().collect();
        for key in gone {
            tables.jobs.remove(&key);
            tables.notify(&key);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn unbind(&mut self, device: &KnownDevice) {
        let Some(key) = device.peer_key() else { return };
        if let Some(bound) = self.enrolments.get_mut(key.as_str()) {
            bound.retain(|other| other.name != device.name);
            if bound.is_empty() {
                self.enrolments.remove(key.as_str());
            }
        }
    }

    fn notify(&self, key: &str) {
        if let Some(waiting) = self.waiting.get(key) {
            waiting.notify_waiters();
        }
    }
}

/// `namespace/name`.
pub fn path(namespace: &str, name: &str) -> String {
    let mut path = String::with_capacity(namespace.len() + 1 + name.len());
    path.push_str(namespace);
    path.push('/');
    path.push_str(name);
    path
}

/// Whether a resource version is older. They are decimal numbers that grow (API conventions since
/// 1.35); if one is not, the arriving one counts as newer.
pub(crate) fn is_older(arriving: &str, here: &str) -> bool {
    match (arriving.parse::<u64>(), here.parse::<u64>()) {
        (Ok(arriving), Ok(here)) => arriving < here,
        _ => false,
    }
}
