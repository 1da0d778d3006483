//! May this device start? Reasons first, slot last: a device that could not start anyway must not
//! hold a slot, and one that waits for a slot must be able to start.

use jiff::SignedDuration;
use wardring_api::{
    ComponentStore, ComponentStorePolicy, DeviceGroupStatus, DeviceMode, FullValue, LineState,
    PatchAuthority, PatchRolloutSpec, PendingRebootPolicy, Reboots, RollbackPolicy,
    UnattendedBootPolicy, reasons::Reason,
};

use crate::{
    DeviceRow, DeviceTable,
    apart::Apart,
    caps::{Rules, group_limit, later},
    downloads::only_downloads,
    line::{Line, NONE},
    resolve::Coverage,
    validate::{Run, Scene},
    wake::Wake,
};

/// Why a device gets no install job, looking at the device and its groups alone.
pub(crate) fn device_hold(
    row: &DeviceRow,
    position: usize,
    spec: &PatchRolloutSpec,
    coverage: &Coverage,
    table: &DeviceTable,
    wake: &mut Wake,
) -> Option<Reason> {
    // Most devices are clear, and then their row need not be visited.
    let is_clear = table.is_clear(position);
    if !is_clear && let Some(reason) = person_hold(row, wake) {
        return Some(reason);
    }
    if let Some(reason) = group_hold(row, position, table) {
        return Some(reason);
    }
    let product = table.product_of(position);
    if !is_clear && row.product.is_none() {
        return Some(Reason::NoFacts);
    }
    if coverage.is_held(product, row) {
        return Some(Reason::UpdateHeld);
    }
    if spec.preflight.require_reversible && coverage.is_irreversible(product) {
        return Some(Reason::NotReversible);
    }
    if !table.is_online(position) {
        return Some(Reason::Offline);
    }
    if let Some(reason) = preflight_hold(row, is_clear, spec) {
        return Some(reason);
    }
    let attends = spec.preflight.unattended_boot == UnattendedBootPolicy::Require;
    if attends && !is_clear && row.attended_boot {
        return Some(Reason::AttendedBoot);
    }
    let blocks = spec.preflight.pending_reboot == PendingRebootPolicy::Block;
    (blocks && !is_clear && row.hard_pending_reboot).then_some(Reason::PendingReboot)
}

/// Why an installation that was granted and has not begun goes back. Silence has its own clock, and what the
/// device reports of itself may come and go within minutes and is the agent's to look at before it begins.
pub(crate) fn recall_hold(
    row: &DeviceRow,
    position: usize,
    spec: &PatchRolloutSpec,
    coverage: &Coverage,
    table: &DeviceTable,
    wake: &mut Wake,
) -> Option<Reason> {
    let passes = |reason: &Reason| {
        matches!(
            reason,
            Reason::Offline
                | Reason::NoFacts
                | Reason::LowDiskSpace
                | Reason::PendingReboot
                | Reason::ComponentStoreUnknown
                | Reason::ComponentStoreDamaged
                | Reason::AttendedBoot
        )
    };
    device_hold(row, position, spec, coverage, table, wake).filter(|reason| !passes(reason))
}

/// What the device itself reports that a job of the rollout would stop at before it begins. Facts come
/// with the contact and when they change, so those of a device that is online are minutes old.
///
/// A device that tells nothing of its disk is not held for that: every agent looks at it before it
/// begins. One that tells nothing of its component store is held where the rollout wants to know.
fn preflight_hold(row: &DeviceRow, is_clear: bool, spec: &PatchRolloutSpec) -> Option<Reason> {
    let rules = &spec.preflight;
    let is_too_little = |needed| row.free_disk_gb.is_some_and(|free| free < needed);
    if rules.min_free_disk_gb.is_some_and(is_too_little) {
        return Some(Reason::LowDiskSpace);
    }
    if rules.component_store == ComponentStorePolicy::Require
        && matches!(row.component_store, None | Some(ComponentStore::Unknown))
    {
        return Some(Reason::ComponentStoreUnknown);
    }
    let is_damaged = !is_clear
        && matches!(
            row.component_store,
            Some(ComponentStore::Repairable | ComponentStore::Damaged)
        );
    (is_damaged && rules.component_store != ComponentStorePolicy::Ignore)
        .then_some(Reason::ComponentStoreDamaged)
}

/// What people decided about the device, for installs and rollbacks alike.
fn person_hold(row: &DeviceRow, wake: &mut Wake) -> Option<Reason> {
    if row.enrolment_id.is_none() {
        return Some(Reason::NotEnrolled);
    }
    if row.mode != DeviceMode::Manage {
        return Some(Reason::ObserveMode);
    }
    if let Some(pause) = &row.paused
        && pause.until.is_none_or(|until| !wake.is_due(until))
    {
        return Some(Reason::Paused);
    }
    if let Some(hold) = &row.hold
        && hold.until.is_none_or(|until| !wake.is_due(until))
    {
        return Some(Reason::DeviceHeld);
    }
    row.quarantined.then_some(Reason::Quarantined)
}

/// What the device's groups say about installs on it.
fn group_hold(row: &DeviceRow, position: usize, table: &DeviceTable) -> Option<Reason> {
    let groups = || table.groups_of(position).iter().map(|&group| &table.groups()[group as usize]);
    let authority = |wanted| groups().any(|group| group.spec.patch_authority == wanted);
    if authority(PatchAuthority::Observe) {
        return Some(Reason::PatchAuthority);
    }
    if table.is_clear(position) {
        return None;
    }
    if row.other_patch_sources && authority(PatchAuthority::Exclusive) {
        return Some(Reason::PatchAuthority);
    }
    let declared = |role| groups().any(|group| group.spec.roles.contains(role));
    if !row.roles.iter().all(declared) {
        return Some(Reason::UndeclaredRole);
    }
    None
}

/// Why a device gets no rollback job now. An update that is barred or a restart that is pending is
/// no reason to leave it broken.
pub(crate) fn rollback_hold(row: &DeviceRow, wake: &mut Wake) -> Option<Reason> {
    person_hold(row, wake).or_else(|| (!row.is_online()).then_some(Reason::Offline))
}

/// What the device's groups say of rollbacks; the strictest one counts.
pub(crate) fn rollback_policy(position: usize, table: &DeviceTable) -> RollbackPolicy {
    let groups = table.groups_of(position).iter();
    let policies = groups.map(|&group| table.groups()[group as usize].spec.rollback);
    policies.max().unwrap_or_default()
}

/// Why a waiting line may not be granted yet, apart from slots.
pub(crate) fn line_hold(
    line: &Line,
    run: &Run<'_>,
    rules: &Rules,
    claims: &Claims,
    scene: &Scene<'_>,
    wake: &mut Wake,
) -> Option<Reason> {
    let Some(row) = scene.row(line) else { return Some(Reason::Replaced) };
    let position = line.row as usize;
    let spec = &run.rollout.spec;
    if let Some(reason) = device_hold(row, position, spec, &run.coverage, scene.table, wake) {
        return Some(reason);
    }
    if let Some(reason) = claims.hold(line, run.uid(), scene) {
        return Some(reason);
    }
    let failed_before = !matches!(line.state, LineState::Pending);
    let (pause, reason) = pause(line, rules);
    if let Some(at) = line.at.filter(|_| failed_before)
        && !wake.is_due(later(at, pause))
    {
        return Some(reason);
    }
    // Its packages said so, and they say it again at every attempt; a person's retry asks anew.
    if line.state == LineState::NotStarted
        && line.reason == Some(Reason::NotReversible)
        && spec.preflight.require_reversible
    {
        return Some(Reason::NotReversible);
    }
    claims.crowd(position, scene.table)
}

/// How long a line waits after its last attempt, and what it waits for.
pub(crate) fn pause(line: &Line, rules: &Rules) -> (SignedDuration, Reason) {
    match found_on_the_spot(line) {
        Some(found) => (longer(rules.backoff, line.attempt), found),
        None => (rules.backoff, Reason::Backoff),
    }
}

/// What the device itself found before its last attempt and does not report, if that lasts: it would find
/// the same in ten minutes, at the cost of a grant each time.
fn found_on_the_spot(line: &Line) -> Option<Reason> {
    line.reason.filter(|reason| {
        line.state == LineState::NotStarted
            && matches!(
                reason,
                Reason::LowDiskSpace
                    | Reason::ComponentStoreDamaged
                    | Reason::ComponentStoreUnknown
                    | Reason::PatchAuthority
                    | Reason::PendingReboot
                    | Reason::PreflightFailed
            )
    })
}

/// The pause after so many grants: twice as long after each, up to half a day.
fn longer(backoff: SignedDuration, grants: u32) -> SignedDuration {
    const LONGEST: SignedDuration = SignedDuration::from_hours(12);
    let doubled = backoff.saturating_mul(1 << grants.saturating_sub(1).min(16));
    doubled.min(LONGEST.max(backoff))
}

/// Which devices are taken, and how many of each group are unavailable: one decision over all
/// rollouts of the namespace.
pub(crate) struct Claims {
    /// By row: in flight for some rollout.
    taken: Vec<bool>,
    /// By row: downloads ahead for some rollout. Such a device is there for whoever installs.
    fetching: Vec<bool>,
    /// By row: downloads, and somebody would begin on it now.
    wanted: Vec<bool>,
    /// By position of the group.
    groups: Vec<Load>,
    /// Which of their devices are kept apart.
    apart: Apart,
}

/// How many of a group's devices are unavailable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub size: usize,
    pub unavailable: usize,
    pub limit: Option<usize>,
}

impl Load {
    /// The group's status as it should be.
    fn status(&self, (full, more): (Vec<FullValue>, bool)) -> DeviceGroupStatus {
        // Values that the status has no room for must not restart either.
        let held = more || self.limit.is_some_and(|limit| self.unavailable > limit);
        DeviceGroupStatus {
            devices: self.size as u32,
            unavailable: self.unavailable as u32,
            reboots: if held { Reboots::Held } else { Reboots::Open },
            full,
        }
    }
}

impl Claims {
    /// Adds up all runs: granted and unproven, silent, about to be granted, or offline.
    pub fn new(runs: &[Run<'_>], scene: &Scene<'_>) -> Claims {
        let table = scene.table;
        let mut taken = vec![false; table.rows().len()];
        let (mut fetching, wanted) = (taken.clone(), taken.clone());
        // Devices whose download is being called off: nobody else's yet, and not unavailable.
        let mut leaving = Vec::new();
        let mut silent = Vec::new();
        let frozen = runs.iter().flat_map(|run| &run.stages).flat_map(|stage| &stage.frozen);
        let lines = frozen.flat_map(|frozen| {
            let lines = frozen.lines.iter().enumerate();
            lines.map(|(index, line)| (line, frozen.is_being_recalled(index)))
        });
        for (line, is_being_recalled) in lines {
            let Some(taken) = taken.get_mut(line.row as usize) else { continue };
            match line.state {
                LineState::Granted => *taken = true,
                LineState::Pending if line.is_downloading() => fetching[line.row as usize] = true,
                _ if is_being_recalled && only_downloads(line) => leaving.push(line.row as usize),
                _ if is_being_recalled => *taken = true,
                LineState::Unreachable if line.job != NONE => silent.push(line.row as usize),
                _ if line.job != NONE && scene.leftover(line) => *taken = true,
                _ => {}
            }
        }
        for job in scene.jobs.iter().filter(|job| job.may_have_begun()) {
            // A rollout that is gone may still have a device at work.
            if !runs.iter().any(|run| run.uid() == job.rollout_uid)
                && let Some(row) = table.find(&job.device)
            {
                taken[row] = true;
            }
        }
        let mut unavailable = taken.clone();
        for row in silent {
            unavailable[row] = true;
        }
        for row in leaving {
            taken[row] = true;
        }
        let mut apart = Apart::new(table);
        // Devices share few lists of groups.
        let mut lists = vec![Load::default(); table.memberships().len()];
        for (position, unavailable) in unavailable.into_iter().enumerate() {
            let load = &mut lists[table.membership_of(position)];
            load.size += 1;
            if unavailable || !table.is_online(position) {
                load.unavailable += 1;
                // Nobody is behind an object that never enrolled.
                if unavailable || table.rows()[position].enrolment_id.is_some() {
                    apart.add(position, table);
                }
            }
        }
        let mut groups = vec![Load::default(); table.groups().len()];
        for (list, sum) in table.memberships().iter().zip(lists) {
            for &group in &**list {
                let load = &mut groups[group as usize];
                load.size += sum.size;
                load.unavailable += sum.unavailable;
            }
        }
        for (load, group) in groups.iter_mut().zip(table.groups()) {
            load.limit = group.spec.max_unavailable.map(|cap| group_limit(cap, load.size));
        }
        Claims { taken, fetching, wanted, groups, apart }
    }

    /// The status of every group as it should be, by position.
    pub fn statuses(&self) -> impl Iterator<Item = DeviceGroupStatus> {
        let loads = self.groups.iter().enumerate();
        loads.map(|(position, load)| load.status(self.apart.told(position)))
    }

    /// Whether another grant or an unfinished job has the device.
    pub fn hold(&self, line: &Line, uid: &str, scene: &Scene<'_>) -> Option<Reason> {
        let row = line.row as usize;
        match scene.any_job(line) {
            // It gives way to whoever can begin.
            _ if self.fetching[row] && !self.taken[row] => None,
            // What may have begun is waited for, however long that takes.
            Some(job) if job.rollout_uid == uid && job.may_have_begun() => Some(Reason::InProgress),
            // Our own old job goes first; the next pass grants.
            Some(job) if job.rollout_uid == uid => Some(Reason::WriteInFlight),
            Some(_) => Some(Reason::Busy),
            None => self.taken[row].then_some(Reason::Busy),
        }
    }

    /// Why a group of the device cannot spare it now.
    pub fn crowd(&self, row: usize, table: &DeviceTable) -> Option<Reason> {
        let has_room = table.groups_of(row).iter().all(|&group| {
            let load = self.groups[group as usize];
            load.limit.is_none_or(|limit| load.unavailable < limit)
        });
        if !has_room {
            return Some(Reason::GroupUnavailable);
        }
        (!self.apart.has_room(row, table)).then_some(Reason::KeptApart)
    }

    /// Whether the device downloads ahead for some rollout.
    pub fn is_fetching(&self, row: u32) -> bool {
        self.fetching[row as usize]
    }

    /// Takes a device to download ahead: it stays available.
    pub fn fetch(&mut self, row: u32) {
        self.fetching[row as usize] = true;
    }

    /// Wants a device that downloads ahead, to begin on it.
    pub fn want(&mut self, row: u32) {
        self.wanted[row as usize] = true;
    }

    /// Whether anybody wants such a device.
    pub fn wants_any(&self) -> bool {
        self.wanted.contains(&true)
    }

    /// Whether somebody wants a device that downloads ahead.
    pub fn is_wanted(&self, row: u32) -> bool {
        self.wanted.get(row as usize).is_some_and(|wanted| *wanted)
    }

    /// Takes a device: from now on it is unavailable in its groups.
    pub fn take(&mut self, row: usize, was_unavailable: bool, table: &DeviceTable) {
        self.taken[row] = true;
        if !was_unavailable {
            for &group in table.groups_of(row) {
                self.groups[group as usize].unavailable += 1;
            }
            self.apart.add(row, table);
        }
    }
}
