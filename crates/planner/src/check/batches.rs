//! Batches: what stands in the API server at the moment the ledger names new grants.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use wardring_api::{
    AwaitingRebootAction, Batch, Cap, DeviceMode, JobAction, LineState, PatchRollout,
    PatchRolloutStatus, RollbackWindows, SliceLine, StageState, WindowAction, WindowType,
};

use super::Replay;
use crate::{BATCH_SIZE, SliceView, WindowView, calendar, downloads::MAX_DOWNLOADS, expedite};

/// Devices of one stage that count against its limits.
#[derive(Default)]
pub(super) struct Flight {
    size: usize,
    /// Failures before this were answered by a person's retry.
    since: Option<Timestamp>,
    installing: BTreeSet<String>,
    rolling: BTreeSet<String>,
    /// Not in flight: they change nothing.
    downloading: BTreeSet<String>,
    failed: BTreeSet<String>,
}

/// What holds a slot of a line that is not granted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    None,
    /// Its job may have begun all the same.
    Begun,
    /// Its job is being deleted, and a permit may still win against that.
    Doubtful,
}

impl Flight {
    fn note(&mut self, line: &SliceLine, hold: Hold, most_tries: u32) {
        let since = self.since;
        let mut mark = |set: fn(&mut Flight) -> &mut BTreeSet<String>, holds: bool| {
            if holds {
                set(self).insert(line.device.clone());
            } else {
                set(self).remove(&line.device);
            }
        };
        let granted = line.state == LineState::Granted;
        let waits = matches!(line.state, LineState::Pending | LineState::NotStarted);
        let rollback = line.action == JobAction::Rollback;
        mark(|all| &mut all.installing, (granted && !rollback) || (waits && hold != Hold::None));
        mark(|all| &mut all.downloading, line.is_downloading());
        mark(|all| &mut all.rolling, rollback && (granted || hold == Hold::Doubtful));
        let failed = line.state == LineState::Failed && line.tries > 0;
        let counts = since.is_none_or(|since| line.at.is_none_or(|at| at >= since));
        mark(|all| &mut all.failed, failed && counts && line.tries >= most_tries);
    }
}

impl Replay<'_> {
    pub(super) fn open(&mut self, expected: i64, batch: &Batch) {
        let guards = &self.snapshot.guards;
        if !guards.clock_trusted
            || guards.restored_from_backup.is_some()
            || guards.unheard.is_some()
            || guards.namespace_terminating
        {
            self.breaks("S7", "a batch would open although nothing may be granted".to_owned());
        }
        if expected != self.sequence || batch.sequence <= expected {
            let message = format!("sequence {} would follow {}", batch.sequence, self.sequence);
            self.breaks("S4", message);
        }
        if batch.grants.is_empty() || batch.grants.len() > BATCH_SIZE {
            self.breaks("S2", format!("a batch of {} grants", batch.grants.len()));
        }
        if let Some((open, true)) = &self.batch
            && self.is_unwritten(open)
        {
            self.breaks("S2", "a batch would open over one whose lines are not written".to_owned());
        }
        self.sequence = batch.sequence;
        self.batch = Some((batch.clone(), true));
        for text in &batch.grants {
            self.grant(batch, text);
        }
        self.caps(batch);
        self.apart(batch);
    }

    /// Whether a line of the batch still lacks its sequence.
    fn is_unwritten(&self, batch: &Batch) -> bool {
        let Some(slice) = self.slices.get(batch.slice.as_str()) else { return false };
        if slice.damaged.is_some() {
            return false;
        }
        (0..slice.lines.len()).filter_map(|index| self.line(&batch.slice, index)).any(|line| {
            line.sequence < batch.sequence
                && batch.grants.iter().any(|text| {
                    let mut words = text.split(' ');
                    words.next() == Some(line.device.as_str())
                        && words.next().and_then(|word| word.parse().ok()) >= Some(line.attempt)
                })
        })
    }

    fn grant(&mut self, batch: &Batch, text: &str) {
        let mut words = text.split(' ');
        let device = words.next().unwrap_or_default().to_owned();
        let attempt: u32 = words.next().and_then(|word| word.parse().ok()).unwrap_or_default();
        let action = words.next().and_then(JobAction::parse);
        let Some(slice) = self.slices.get(batch.slice.as_str()).copied() else {
            return self.breaks("S2", format!("{device} would be granted in an unknown slice"));
        };
        let index = slice.lines.iter().position(|line| line.device == device);
        let Some(line) = index.and_then(|index| self.line(&slice.name, index)) else {
            return self.breaks("S2", format!("{device} is not in slice {}", slice.name));
        };
        let returns = line.state == LineState::Unreachable && attempt == line.attempt;
        if attempt != line.attempt + 1 && !returns {
            self.breaks(
                "S4",
                format!("{device} would go from attempt {} to {attempt}", line.attempt),
            );
        }
        let Some((rollout, status)) = self.rollouts.get(slice.rollout_uid.as_str()).cloned() else {
            return self.breaks("S1", format!("{device} would be granted for an unknown rollout"));
        };
        self.stopped(rollout, &status, &device, action, returns);
        self.stage_order(rollout, &status, slice, &device, action, returns);
        if action != Some(JobAction::Rollback) && !returns {
            self.gated(rollout, &status, &slice.stage, &device);
        }
        self.limits(rollout, slice, &device);
        self.eligible(&device);
        self.emergency(&slice.rollout_uid, &device, action.unwrap_or(JobAction::Install));
        if action != Some(JobAction::Rollback) && !returns {
            self.held(&slice.rollout_uid, &device);
        }
        if action == Some(JobAction::Install) && !returns {
            let stage = rollout.spec.stages.iter().find(|stage| stage.name == slice.stage);
            let most = stage.and_then(|stage| stage.retry.max_attempts).unwrap_or(1);
            if matches!(line.state, LineState::Succeeded | LineState::AlreadyInstalled)
                || line.tries >= most
            {
                self.breaks("S8", format!("{device} would be installed again"));
            }
        }
        if action == Some(JobAction::Download) {
            let may = line.state == LineState::Pending
                && !line.is_downloading()
                && !line.downloaded
                && line.downloads < MAX_DOWNLOADS;
            if !may || rollout.spec.predownload.is_none() {
                self.breaks("S8", format!("{device} would download again, or unasked"));
            }
        }
    }

    fn stopped(
        &mut self,
        rollout: &PatchRollout,
        status: &PatchRolloutStatus,
        device: &str,
        action: Option<JobAction>,
        returns: bool,
    ) {
        let is_install = action != Some(JobAction::Rollback);
        // A person's order goes on where the rest was ended.
        let uid = rollout.metadata.uid.as_deref().unwrap_or_default();
        let is_ordered = !is_install && self.order_of(uid).is_some();
        let is_aborted = rollout.spec.abort.is_some() || status.aborted.is_some();
        let over = rollout.metadata.deletion_timestamp.is_some()
            || (is_aborted && !is_ordered)
            || rollout.spec.suspend == Some(true)
            || status.suspended.is_some();
        let finishes = returns
            && rollout.spec.on_halt.installed_awaiting_reboot == AwaitingRebootAction::Finish;
        if over {
            self.breaks(
                "S13",
                format!("{device} would be granted although its rollout is stopped"),
            );
        }
        if status.halted.is_some() && is_install && !finishes {
            self.breaks("S6", format!("{device} would be granted although its rollout is halted"));
        }
    }

    fn stage_order(
        &mut self,
        rollout: &PatchRollout,
        status: &PatchRolloutStatus,
        slice: &SliceView,
        device: &str,
        action: Option<JobAction>,
        returns: bool,
    ) {
        let position = rollout.spec.stages.iter().position(|stage| stage.name == slice.stage);
        let stages = &status.stages;
        let stage = position.and_then(|position| stages.get(position));
        if stage.is_none_or(|stage| stage.freeze_id.as_ref() != Some(&slice.freeze_id)) {
            self.breaks("S3", format!("{device} is not in a frozen stage"));
        }
        let earlier = &stages[..position.unwrap_or(0).min(stages.len())];
        // A device that comes back goes on with what it began in its stage's turn.
        if action != Some(JobAction::Rollback)
            && !returns
            && earlier.iter().any(|stage| !stage.state.is_promoted())
        {
            self.breaks("S3", format!("{device} would be granted before the stages ahead of it"));
        }
        if let Some(stage) = stage.filter(|_| action != Some(JobAction::Rollback) && !returns) {
            let is_open = match stage.state {
                StageState::Open | StageState::Soaking | StageState::Tail => stage
                    .tail
                    .map_or(stage.state == StageState::Open, |tail| tail.closed_at.is_none()),
                StageState::Pending | StageState::Gated | StageState::Completed => false,
            };
            if !is_open {
                self.breaks("S3", format!("{device} would be granted in a stage that is not open"));
            }
        }
        if status.plan_hash.is_none() {
            self.breaks(
                "S12",
                format!("{device} would be granted before the updates are resolved"),
            );
        }
    }

    /// A group that was deleted lifts no limit: the stage that names it stands still.
    pub(super) fn limits(&mut self, rollout: &PatchRollout, slice: &SliceView, device: &str) {
        let stage = rollout.spec.stages.iter().find(|stage| stage.name == slice.stage);
        let Some(name) = stage.and_then(|stage| stage.group.as_ref()) else { return };
        if !self.snapshot.devices.groups().iter().any(|group| group.name == *name) {
            let message = format!("{device} would be granted, and its group {name} does not exist");
            self.breaks("S13", message);
        }
    }

    fn eligible(&mut self, device: &str) {
        let now = self.snapshot.now;
        let Some(row) = self.snapshot.devices.get(device) else {
            return self.breaks("S1", format!("{device} does not exist"));
        };
        let held = row.hold.as_ref().is_some_and(|hold| hold.until.is_none_or(|until| now < until));
        if row.mode != DeviceMode::Manage
            || row.enrolment_id.is_none()
            || row.quarantined
            || held
            || row.online != Some(true)
        {
            self.breaks("S14", format!("{device} may not be touched now"));
        }
    }

    /// Nothing begins under a person's brake.
    pub(super) fn emergency(&mut self, uid: &str, device: &str, action: JobAction) {
        let Some(row) = self.snapshot.devices.get(device) else { return };
        let status = self.rollouts.get(uid).map(|(_, status)| status);
        let updates = status.into_iter().flat_map(|status| &status.resolved_updates);
        let here = updates.filter(|update| row.product.as_deref() == Some(&*update.product));
        let kbs = || here.clone().map(|update| update.kb.as_str());
        let mut stops = self.snapshot.stops.iter();
        if let Some(stop) = stops.find(|stop| stop.stops(action, kbs(), &row.labels)) {
            let message = format!("{device} would be granted under EmergencyStop {}", stop.name);
            self.breaks("S5", message);
        }
    }

    /// Nothing is granted outside the windows that the stage and the device's groups name, and nothing in
    /// a freeze.
    pub(super) fn windows(
        &mut self,
        rollout: &PatchRollout,
        slice: &SliceView,
        device: &str,
        action: JobAction,
    ) {
        let (snapshot, now) = (self.snapshot, self.snapshot.now);
        let begins = match action {
            JobAction::Rollback => WindowAction::Uninstall,
            JobAction::Install | JobAction::Download => WindowAction::Install,
        };
        let uid = rollout.metadata.uid.as_deref().unwrap_or_default();
        let rollback = self.rollouts.get(uid).and_then(|(_, status)| status.rollback.as_ref());
        let order =
            rollback.filter(|all| all.completed_at.is_none()).and_then(|all| all.order.as_ref());
        let of_rollbacks = order.map_or(rollout.spec.on_failure.windows, |order| order.windows);
        let ignores = of_rollbacks == RollbackWindows::Ignore;
        let position = snapshot.devices.find(device);
        let Some(position) = position.filter(|_| action != JobAction::Rollback || !ignores) else {
            return;
        };
        let row = &snapshot.devices.rows()[position];
        let zone = row.time_zone.as_deref().and_then(calendar::zone);
        let is_open = |window: &WindowView| {
            let opening = window.opening(zone.as_ref(), now);
            opening.is_some_and(|opening| opening.open <= now && now < opening.close)
        };
        let concerns =
            |window: &WindowView| window.selects(&row.labels) && window.problem().is_none();
        let groups = snapshot.devices.groups_of(position).iter();
        let mut lists: Vec<&[String]> =
            groups.map(|&group| &*snapshot.devices.groups()[group as usize].spec.windows).collect();
        let stage = rollout.spec.stages.iter().find(|stage| stage.name == slice.stage);
        lists.extend(stage.map(|stage| &*stage.windows));
        let known = self.rollouts.get(uid).filter(|_| action != JobAction::Rollback);
        let expedite = known
            .zip(stage)
            .and_then(|((_, status), stage)| expedite::in_force(rollout, status, stage));
        if expedite.is_some_and(|expedite| expedite.ignore_windows) {
            lists.clear();
        }
        for list in lists.into_iter().filter(|list| !list.is_empty()) {
            let mut named =
                snapshot.windows.iter().filter(|all| list.contains(&all.name.to_string()));
            let lets = |window: &Arc<WindowView>| {
                window.spec.kind == WindowType::Allow
                    && concerns(window)
                    && window.allows(begins)
                    && is_open(window)
            };
            if !named.any(lets) {
                let list = list.join(", ");
                let message = format!("{device} would be granted outside of its windows ({list})");
                self.breaks("S14", message);
            }
        }
        let mut freezes = snapshot.windows.iter().filter(|all| all.spec.kind == WindowType::Deny);
        let bars = |window: &Arc<WindowView>| {
            window.selects(&row.labels) && !window.allows(begins) && is_open(window)
        };
        if let Some(freeze) = freezes.find(|window| bars(window)) {
            let message = format!("{device} would be granted in the freeze {}", freeze.name);
            self.breaks("S14", message);
        }
    }

    /// What holds a slot although the line says that nothing is granted.
    fn hold(&self, uid: &str, line: &SliceLine) -> Hold {
        let job = self.jobs.get(&line.device).copied().flatten();
        let has_begun = job.is_some_and(|job| {
            job.rollout_uid == uid && job.attempt == line.attempt && job.may_have_begun()
        });
        let doubtful = self.doubtful.contains(&(uid.to_owned(), line.device.clone()));
        match (doubtful, has_begun) {
            (true, _) => Hold::Doubtful,
            (false, true) => Hold::Begun,
            (false, false) => Hold::None,
        }
    }

    /// Adds up a stage once; every line written afterwards is noted.
    fn flight(&self, rollout: &PatchRollout, slice: &SliceView) -> Flight {
        let status = self.rollouts.get(slice.rollout_uid.as_str()).map(|(_, status)| status);
        let stage = status.and_then(|all| all.stages.iter().find(|all| all.name == slice.stage));
        let since = stage.and_then(|stage| stage.started_at);
        let mut flight = Flight { since, ..Flight::default() };
        let most = most_tries(rollout, &slice.stage);
        let same = |other: &&&SliceView| {
            other.rollout_uid == slice.rollout_uid
                && other.stage == slice.stage
                && other.freeze_id == slice.freeze_id
        };
        for view in self.slices.values().filter(same) {
            for (index, line) in view.lines.iter().enumerate() {
                flight.size += 1;
                let changed = self.changed.get(&(view.name.as_str(), index));
                let line = changed.unwrap_or(line);
                flight.note(line, self.hold(&slice.rollout_uid, line), most);
            }
        }
        flight
    }

    /// At the moment a batch is open: granted lines, its grants, and jobs that may have begun.
    fn caps(&mut self, batch: &Batch) {
        let Some(slice) = self.slices.get(batch.slice.as_str()).copied() else { return };
        let Some((rollout, _)) = self.rollouts.get(slice.rollout_uid.as_str()).cloned() else {
            return;
        };
        let Some(stage) = rollout.spec.stages.iter().find(|stage| stage.name == slice.stage) else {
            return;
        };
        let key = (slice.rollout_uid.clone(), slice.stage.clone());
        let mut flight = self.flights.remove(&key).unwrap_or_else(|| self.flight(rollout, slice));
        for text in &batch.grants {
            let mut words = text.split(' ');
            let device = words.next().unwrap_or_default().to_owned();
            if text.ends_with("Rollback") {
                flight.installing.remove(&device);
                flight.rolling.insert(device);
            } else if text.ends_with("Download") {
                flight.downloading.insert(device);
            } else {
                flight.installing.insert(device);
            }
        }
        let share = |cap: Cap| match cap {
            Cap::Count(count) => (count as usize).max(1),
            Cap::Percent(percent) => (flight.size * percent as usize / 100).max(1),
        };
        let has = |word: &str| batch.grants.iter().any(|text| text.ends_with(word));
        let (installs, rollbacks) = (flight.installing.len(), flight.rolling.len());
        let most = share(stage.max_concurrency.unwrap_or(Cap::Percent(10)));
        if has("Install") && installs > most {
            self.breaks("S2", format!("{installs} devices in flight, and {most} are allowed"));
        }
        let asked = rollout.spec.predownload.and_then(|all| all.max_concurrency);
        let (most, downloads) =
            (share(asked.unwrap_or(Cap::Percent(10))), flight.downloading.len());
        if has("Download") && downloads > most {
            self.breaks("S2", format!("{downloads} devices download, and {most} are allowed"));
        }
        let ordered =
            self.order_of(&slice.rollout_uid).and_then(|order| order.spec.max_concurrency);
        let most = ordered.or(rollout.spec.on_failure.max_concurrency).unwrap_or(Cap::Count(1));
        let most = share(most);
        if has("Rollback") && rollbacks > most {
            self.breaks("S2", format!("{rollbacks} rollbacks in flight, and {most} are allowed"));
        }
        let most = match stage.max_failures.unwrap_or(Cap::Count(0)) {
            Cap::Count(count) => count as usize,
            Cap::Percent(percent) => flight.size * percent as usize / 100,
        };
        // Who returns began long ago; the halt says what becomes of its restart.
        let begins = has("Install")
            && batch
                .grants
                .iter()
                .any(|text| text.ends_with("Install") && !self.returns(slice, text));
        if begins && flight.failed.len() > most {
            self.breaks("S6", format!("a grant in stage {} over its failure budget", stage.name));
        }
        self.flights.insert(key, flight);
    }

    /// Whether a grant only takes back in a device that was given up as silent.
    fn returns(&self, slice: &SliceView, text: &str) -> bool {
        let mut words = text.split(' ');
        let device = words.next();
        let attempt = words.next().and_then(|word| word.parse::<u32>().ok());
        let index = slice.lines.iter().position(|line| Some(line.device.as_str()) == device);
        let line = index.and_then(|index| self.line(&slice.name, index));
        line.is_some_and(|line| {
            line.state == LineState::Unreachable && attempt == Some(line.attempt)
        })
    }

    /// Keeps the sums of a stage true after one of its lines was written.
    pub(super) fn note(&mut self, view: &SliceView, line: &SliceLine) {
        let hold = self.hold(&view.rollout_uid, line);
        let rollout = self.rollouts.get(view.rollout_uid.as_str()).map(|(rollout, _)| *rollout);
        let most = rollout.map_or(1, |rollout| most_tries(rollout, &view.stage));
        let key = (view.rollout_uid.clone(), view.stage.clone());
        if let Some(flight) = self.flights.get_mut(&key) {
            flight.note(line, hold, most);
        }
    }
}

fn most_tries(rollout: &PatchRollout, stage: &str) -> u32 {
    let stage = rollout.spec.stages.iter().find(|known| known.name == stage);
    stage.and_then(|stage| stage.retry.max_attempts).unwrap_or(1)
}
