//! Devices and groups in a form that a pass over 100,000 of them can afford: one compact row each,
//! sorted by name, with products and group memberships resolved once per change.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use wardring_api::{
    Attendance, ComponentStore, Device, DeviceGroup, DeviceGroupSpec, DeviceGroupStatus,
    DeviceMode, DeviceRole, HealthSince, Hold, Reboots, UnhealthyKind,
    conditions::{self, Truth},
    names,
    reasons::Reason,
};

use crate::{names::NameKey, selector::Selector};

/// What the planner needs of one Device.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceRow {
    /// Name.
    pub name: Arc<str>,
    /// People's labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Which enrolment speaks for it.
    pub enrolment_id: Option<Arc<str>>,
    /// Observe or Manage.
    pub mode: DeviceMode,
    /// A person's hold.
    pub hold: Option<Box<Hold>>,
    /// An update left it damaged, two agents run with one key, or a person said so.
    pub quarantined: bool,
    /// Since when it is quarantined because an update left it damaged; only a person's release ends that.
    pub damaged_since: Option<Timestamp>,
    /// Whether an agent is in contact; `None` when nothing is known yet.
    pub online: Option<bool>,
    /// Since when `online` has its value.
    pub online_since: Option<Timestamp>,
    /// Reported host name, in lower case, where it differs from the Device's name.
    pub hostname: Option<Arc<str>>,
    /// Product that updates are matched by; `None` until the agent has reported it.
    pub product: Option<Arc<str>>,
    /// `build.UBR`.
    pub build: Option<Arc<str>>,
    /// Model of the hardware.
    pub model: Option<Arc<str>>,
    /// Roles that make a restart delicate.
    pub roles: Arc<[DeviceRole]>,
    /// Windows waits for a restart in a way that blocks an installation.
    pub hard_pending_reboot: bool,
    /// The device says that it would wait for a person at its next start, or that it cannot tell.
    pub attended_boot: bool,
    /// Free space on the drive of Windows, gigabytes, where the device tells.
    pub free_disk_gb: Option<u32>,
    /// What the device says of Windows' component store, if anything.
    pub component_store: Option<ComponentStore>,
    /// Why and until when an administrator paused the agent on the device, where one did; the reason may
    /// be empty.
    pub paused: Option<Box<Hold>>,
    /// Something else patches the device.
    pub other_patch_sources: bool,
    /// How it is since installations that ended well, as far as its agent looks at that.
    pub health: Box<[LiveHealth]>,
    /// Value of the release annotation, if it is a time.
    pub release_requested_at: Option<Timestamp>,
    /// IANA name of its zone, by people's word.
    pub time_zone: Option<Arc<str>>,
    /// The object is being deleted.
    pub deleting: bool,
}

/// How a device is since one installation that ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveHealth {
    /// Rollout of the installation.
    pub rollout_uid: Box<str>,
    /// Its attempt.
    pub attempt: u32,
    /// A service is worse than before.
    pub service: bool,
    /// A probe is worse than before.
    pub probe: bool,
    /// It crashed or lost power since; when it came back last, by the device's clock.
    pub restarted: Option<Timestamp>,
    /// The agent cannot look at the device.
    pub blind: bool,
}

impl LiveHealth {
    /// The same of an API object.
    pub fn of(all: &[HealthSince]) -> Box<[LiveHealth]> {
        let has =
            |since: &HealthSince, kind| since.unhealthy.iter().any(|found| found.kind == kind);
        let live = |since: &HealthSince| LiveHealth {
            rollout_uid: since.rollout_uid.as_str().into(),
            attempt: since.attempt,
            service: has(since, UnhealthyKind::Service),
            probe: has(since, UnhealthyKind::Probe),
            // One that does not say when is no better.
            restarted: (since.restarts > 0).then(|| since.last_restart.unwrap_or(Timestamp::MAX)),
            blind: since.blind,
        };
        all.iter().map(live).collect()
    }
}

impl DeviceRow {
    /// An online, enrolled, managed device with nothing in its way.
    pub fn ready(name: &str, product: &str) -> DeviceRow {
        DeviceRow {
            name: name.into(),
            labels: Arc::default(),
            enrolment_id: Some(format!("eid-{name}").into()),
            mode: DeviceMode::Manage,
            hold: None,
            quarantined: false,
            damaged_since: None,
            online: Some(true),
            online_since: None,
            hostname: None,
            product: Some(product.into()),
            build: None,
            model: None,
            roles: Arc::from([]),
            hard_pending_reboot: false,
            attended_boot: false,
            free_disk_gb: None,
            component_store: None,
            paused: None,
            other_patch_sources: false,
            health: Box::default(),
            release_requested_at: None,
            time_zone: None,
            deleting: false,
        }
    }

    /// The row of an API object.
    pub fn new(device: &Device) -> DeviceRow {
        let status = device.status.as_ref();
        let list = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
        let online = list.iter().find(|condition| condition.type_ == conditions::ONLINE);
        let annotations = device.metadata.annotations.as_ref();
        DeviceRow {
            name: device.metadata.name.as_deref().unwrap_or_default().into(),
            labels: Arc::new(device.metadata.labels.clone().unwrap_or_default()),
            enrolment_id: device.spec.enrolment_id.as_deref().map(Arc::from),
            mode: device.spec.mode,
            hold: device.spec.hold.clone().map(Box::new),
            quarantined: conditions::is_true(list, conditions::QUARANTINED),
            damaged_since: list
                .iter()
                .find(|condition| condition.type_ == conditions::QUARANTINED)
                .filter(|condition| is_damage(&condition.status, &condition.reason))
                .map(|condition| condition.last_transition_time.0),
            online: online.and_then(|condition| match condition.status.as_str() {
                "True" => Some(true),
                "False" => Some(false),
                _ => None,
            }),
            online_since: online.map(|condition| condition.last_transition_time.0),
            hostname: status.and_then(|status| status.identity.as_ref()).and_then(|identity| {
                host_name(&identity.hostname, device.metadata.name.as_deref())
            }),
            product: status
                .and_then(|status| status.os.as_ref())
                .filter(|os| !os.product.is_empty())
                .map(|os| Arc::from(os.product.as_str())),
            build: status.and_then(|status| status.os.as_ref()).map(|os| Arc::from(&*os.build)),
            model: status
                .and_then(|status| status.identity.as_ref()?.model.as_deref())
                .filter(|model| !model.is_empty())
                .map(Arc::from),
            roles: status
                .and_then(|status| status.identity.as_ref())
                .map(|identity| Arc::from(identity.roles.as_slice()))
                .unwrap_or_else(|| Arc::from([])),
            hard_pending_reboot: status
                .is_some_and(|status| status.pending_reboot.iter().any(|source| source.hard)),
            attended_boot: status
                .and_then(|status| status.startup.as_ref())
                .is_some_and(|startup| startup.attendance != Attendance::NotNeeded),
            free_disk_gb: status.and_then(|status| status.free_disk_gb),
            component_store: status.and_then(|status| status.component_store),
            paused: status.and_then(|status| status.paused.as_ref()).map(|paused| {
                let reason = paused.reason.clone();
                Box::new(Hold { reason, until: paused.until })
            }),
            other_patch_sources: status
                .is_some_and(|status| !status.other_patch_sources.is_empty()),
            health: LiveHealth::of(status.map_or(&[], |status| &status.health)),
            release_requested_at: annotations
                .and_then(|all| all.get(names::RELEASE_ANNOTATION))
                .and_then(|value| value.parse().ok()),
            time_zone: device.spec.time_zone.as_deref().map(Arc::from),
            deleting: device.metadata.deletion_timestamp.is_some(),
        }
    }

    /// The name that other systems know the device by: what it reports, else the Device's own name.
    pub fn hostname(&self) -> &str {
        self.hostname.as_deref().unwrap_or(&self.name)
    }

    /// Whether an agent is known to be in contact.
    pub fn is_online(&self) -> bool {
        self.online == Some(true)
    }
}

/// Whether a condition Quarantined with this status and reason tells of damage that an update left.
pub fn is_damage(status: &str, reason: &str) -> bool {
    let reasons = [Reason::RollbackFailed, Reason::NotReversible];
    status == Truth::True.as_str() && reasons.iter().any(|known| known.as_str() == reason)
}

/// A reported host name as it is kept: in lower case and without its domain, if it is a name at all and
/// says more than the Device's `name`. Devices report what they like, and this goes into labels.
pub fn host_name(reported: &str, name: Option<&str>) -> Option<Arc<str>> {
    let host = reported.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    let is_name = (1..=63).contains(&host.len()) && host.chars().all(is_part);
    (is_name && name != Some(&host)).then(|| host.into())
}

/// A DeviceGroup.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupView {
    /// Name.
    pub name: String,
    /// Selector and limits.
    pub spec: DeviceGroupSpec,
    /// What the controller last wrote.
    pub status: DeviceGroupStatus,
}

impl GroupView {
    /// Whether the group keeps a device with these labels, which is one of its own, from restarting: too many
    /// of its devices are unavailable, or too many of those that it is kept apart from. A group that was just
    /// made, perhaps in the place of another one, shows nothing until its devices are counted.
    pub fn holds_reboots_of(&self, labels: &BTreeMap<String, String>) -> bool {
        let is_crowded = |full: &wardring_api::FullValue| {
            full.unavailable > full.max && labels.get(&full.key) == Some(&full.value)
        };
        let has_limits = self.spec.max_unavailable.is_some() || !self.spec.anti_affinity.is_empty();
        let is_uncounted = has_limits && self.status.devices == 0;
        is_uncounted
            || self.status.reboots == Reboots::Held
            || self.status.full.iter().any(is_crowded)
    }

    /// The view of an API object.
    pub fn new(group: &DeviceGroup) -> GroupView {
        GroupView {
            name: group.metadata.name.clone().unwrap_or_default(),
            spec: group.spec.clone(),
            status: group.status.clone().unwrap_or_default(),
        }
    }
}

/// Every device and group of a namespace, sorted by name, with memberships and products resolved.
/// The shell keeps one and changes single rows; a pass only reads it.
#[derive(Clone, Debug, Default)]
pub struct DeviceTable {
    /// Each by itself, so that a table that changes while a pass still reads it copies no row.
    rows: Vec<Arc<DeviceRow>>,
    /// Parallel to `rows`: what every pass asks of every row.
    briefs: Vec<Brief>,
    /// Parallel to `rows`: the names.
    keys: Vec<NameKey>,
    /// Lists of groups that some row is in, by position in `groups`.
    memberships: Vec<Arc<[u16]>>,
    groups: Vec<GroupView>,
    selectors: Vec<Selector>,
    products: Vec<Arc<str>>,
}

/// A row in eight bytes: a pass over every row must not visit each of them.
#[derive(Clone, Copy, Debug)]
struct Brief {
    /// Position in `memberships`.
    membership: u32,
    /// Position in `products`, or `NO_PRODUCT`.
    product: u16,
    online: bool,
    /// Online, and nothing else is noted about the device that could keep an update from it.
    clear: bool,
}

impl Brief {
    fn new(row: &DeviceRow, membership: u32, product: u16) -> Brief {
        let clear = row.is_online()
            && row.enrolment_id.is_some()
            && row.mode == DeviceMode::Manage
            && row.hold.is_none()
            && row.paused.is_none()
            && !row.quarantined
            && row.product.is_some()
            && row.roles.is_empty()
            && !row.hard_pending_reboot
            && !row.attended_boot
            && matches!(row.component_store, None | Some(ComponentStore::Healthy))
            && !row.other_patch_sources
            && !row.deleting;
        Brief { membership, product, online: row.is_online(), clear }
    }
}

/// Product id of a device that has not reported its product.
pub const NO_PRODUCT: u16 = u16::MAX;

impl DeviceTable {
    /// A table over rows and groups in any order. Of rows with one name the last stands.
    pub fn new(rows: Vec<impl Into<Arc<DeviceRow>>>, groups: Vec<GroupView>) -> DeviceTable {
        let rows = rows.into_iter().map(Into::into);
        let by_name: BTreeMap<Arc<str>, Arc<DeviceRow>> =
            rows.map(|row| (row.name.clone(), row)).collect();
        let mut table = DeviceTable { rows: by_name.into_values().collect(), ..Default::default() };
        table.products = {
            let mut all: Vec<_> = table.rows.iter().filter_map(|row| row.product.clone()).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        table.keys = table.rows.iter().map(|row| NameKey::new(&row.name)).collect();
        let brief = |row: &Arc<DeviceRow>| Brief::new(row, 0, table.product_id_of(row));
        table.briefs = table.rows.iter().map(brief).collect();
        table.set_groups(groups);
        table
    }

    /// Replaces the groups. Statuses alone are better changed by [`DeviceTable::set_group_status`].
    pub fn set_groups(&mut self, mut groups: Vec<GroupView>) {
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        self.selectors = groups.iter().map(|group| Selector::new(&group.spec.selector)).collect();
        self.groups = groups;
        let mut known: BTreeMap<Vec<u16>, u32> = BTreeMap::new();
        self.memberships.clear();
        for index in 0..self.rows.len() {
            let list = self.groups_of_labels(&self.rows[index].labels);
            let position = *known.entry(list).or_insert_with_key(|list| {
                self.memberships.push(Arc::from(list.as_slice()));
                self.memberships.len() as u32 - 1
            });
            self.briefs[index].membership = position;
        }
    }

    /// Takes over what was written to a group's status.
    pub fn set_group_status(&mut self, name: &str, status: DeviceGroupStatus) {
        if let Some(group) = self.groups.iter_mut().find(|group| group.name == name) {
            group.status = status;
        }
    }

    /// Adds or replaces one row.
    pub fn upsert(&mut self, row: DeviceRow) {
        let product = self.intern_product(&row);
        match self.position(&row.name) {
            Ok(index) => {
                let membership = if self.rows[index].labels == row.labels {
                    self.briefs[index].membership
                } else {
                    self.intern_membership(&row)
                };
                self.briefs[index] = Brief::new(&row, membership, product);
                self.rows[index] = Arc::new(row);
            }
            Err(index) => {
                let membership = self.intern_membership(&row);
                self.briefs.insert(index, Brief::new(&row, membership, product));
                self.keys.insert(index, NameKey::new(&row.name));
                self.rows.insert(index, Arc::new(row));
            }
        }
    }

    /// Removes one row.
    pub fn remove(&mut self, name: &str) {
        if let Ok(index) = self.position(name) {
            self.rows.remove(index);
            self.briefs.remove(index);
            self.keys.remove(index);
        }
    }

    /// Rows by name.
    pub fn rows(&self) -> &[Arc<DeviceRow>] {
        &self.rows
    }

    /// Groups by name.
    pub fn groups(&self) -> &[GroupView] {
        &self.groups
    }

    /// Products that devices reported.
    pub fn products(&self) -> &[Arc<str>] {
        &self.products
    }

    /// Position of a device, if there is one.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.position(name).ok()
    }

    /// The row of a device, if there is one.
    pub fn get(&self, name: &str) -> Option<&DeviceRow> {
        self.find(name).map(|index| &*self.rows[index])
    }

    /// Position of a group, if there is one.
    pub fn find_group(&self, name: &str) -> Option<usize> {
        self.groups.binary_search_by(|group| group.name.as_str().cmp(name)).ok()
    }

    /// Groups of the device at `index`, by position.
    pub fn groups_of(&self, index: usize) -> &[u16] {
        &self.memberships[self.membership_of(index)]
    }

    /// Every list of groups that a device is or was in.
    pub(crate) fn memberships(&self) -> &[Arc<[u16]>] {
        &self.memberships
    }

    /// Which of [`DeviceTable::memberships`] is that of the device at `index`.
    pub(crate) fn membership_of(&self, index: usize) -> usize {
        self.briefs[index].membership as usize
    }

    /// Keys of the rows' names.
    pub(crate) fn keys(&self) -> &[NameKey] {
        &self.keys
    }

    /// Whether an agent is in contact with the device at `index`.
    pub(crate) fn is_online(&self, index: usize) -> bool {
        self.briefs[index].online
    }

    /// Whether the device at `index` is online, enrolled and managed, its product is known, and
    /// nothing is noted about it that could keep an update from it.
    pub(crate) fn is_clear(&self, index: usize) -> bool {
        self.briefs[index].clear
    }

    /// Product of the device at `index`, by position in [`DeviceTable::products`].
    pub fn product_of(&self, index: usize) -> u16 {
        self.briefs[index].product
    }

    /// Positions of a group's devices.
    pub fn members(&self, group: usize) -> Vec<usize> {
        let group = group as u16;
        let lists = self.memberships.iter();
        let has: Vec<bool> = lists.map(|list| list.binary_search(&group).is_ok()).collect();
        (0..self.rows.len()).filter(|&index| has[self.membership_of(index)]).collect()
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.rows.binary_search_by(|row| (*row.name).cmp(name))
    }

    fn groups_of_labels(&self, labels: &BTreeMap<String, String>) -> Vec<u16> {
        (0..self.selectors.len())
            .filter(|&group| self.selectors[group].matches(labels))
            .map(|group| group as u16)
            .collect()
    }

    fn intern_membership(&mut self, row: &DeviceRow) -> u32 {
        let list = self.groups_of_labels(&row.labels);
        let known = self.memberships.iter().position(|known| **known == *list);
        known.unwrap_or_else(|| {
            self.memberships.push(Arc::from(list));
            self.memberships.len() - 1
        }) as u32
    }

    fn product_id_of(&self, row: &DeviceRow) -> u16 {
        row.product
            .as_ref()
            .and_then(|product| self.products.iter().position(|known| known == product))
            .map_or(NO_PRODUCT, |position| position as u16)
    }

    fn intern_product(&mut self, row: &DeviceRow) -> u16 {
        if let Some(product) = &row.product
            && !self.products.contains(product)
        {
            // Ids only name positions; what is printed is sorted where it is printed.
            self.products.push(product.clone());
        }
        self.product_id_of(row)
    }
}
