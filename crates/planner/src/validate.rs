//! From loose API objects to the shapes the pass works on: everything sorted, joined and checked
//! once. After this no code asks again whether a slice is whole or a stage well-formed.

use std::sync::Arc;

use jiff::Timestamp;
use wardring_api::{
    JobAction, LineState, PatchRollback, PatchRollout, PatchRolloutStatus, Stage, StageCounts,
    StageStatus, names, reasons::Reason,
};

use crate::{
    DeviceRow, DeviceTable, Event, EventKind, JobView, RolloutRef, SliceView, Snapshot, WindowView,
    agenda::Closed,
    caps::{Rules, later},
    checks::asks_something,
    emergency::{Brakes, StopView},
    expedite, freeze,
    line::{Doing, Frozen, Line, NONE, Tally, doing},
    names::NameKey,
    order::{self, assent::Assent},
    packages,
    resolve::Coverage,
    rollback::Consent,
    tail,
    windows::Hours,
};

/// What every step of a pass may look at and none may change.
pub(crate) struct Scene<'a> {
    pub snapshot: &'a Snapshot,
    pub now: Timestamp,
    pub table: &'a DeviceTable,
    /// MaintenanceWindows by name.
    pub windows: Vec<Arc<WindowView>>,
    /// EmergencyStops by name.
    pub stops: Vec<&'a StopView>,
    /// PatchRollbacks, the oldest first.
    pub orders: Vec<&'a PatchRollback>,
    /// Jobs by device.
    pub jobs: Vec<&'a JobView>,
    /// By row: position of the device's job in `jobs`, or [`NONE`].
    row_jobs: Vec<u32>,
    /// Why nothing may be granted in the whole namespace.
    pub guard: Option<Complaint>,
}

/// Keys compared one after the other before names are: members of a stage lie close together.
const NEIGHBOURS: usize = 64;

/// Something that is wrong, in a word and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    pub reason: Reason,
    pub message: String,
}

impl Complaint {
    pub fn new(reason: Reason, message: impl Into<String>) -> Complaint {
        Complaint { reason, message: message.into() }
    }
}

impl<'a> Scene<'a> {
    fn new(snapshot: &'a Snapshot) -> Scene<'a> {
        let mut jobs: Vec<&JobView> = snapshot.jobs.iter().map(Arc::as_ref).collect();
        jobs.sort_by(|a, b| a.device.cmp(&b.device));
        let mut stops: Vec<&StopView> = snapshot.stops.iter().map(Arc::as_ref).collect();
        stops.sort_by(|a, b| a.name.cmp(&b.name));
        let mut windows = snapshot.windows.clone();
        windows.sort_by(|a, b| a.name.cmp(&b.name));
        let guards = &snapshot.guards;
        let guard = if !guards.clock_trusted {
            Some(Complaint::new(
                Reason::ClockSkew,
                "The clocks of the controller and the API server differ by more than 30 s; nothing \
                 is granted until they agree.",
            ))
        } else {
            guards.restored_from_backup.map(|highest| {
                Complaint::new(
                    Reason::RestoredFromBackup,
                    format!(
                        "Agents hold sequence {highest}, which this ledger (at {}) never gave: the \
                         cluster was restored from a backup. Nothing is granted until a person \
                         confirms it (annotation {}={highest} on PatchLedger {}).",
                        snapshot.ledger.sequence,
                        names::RESTORE_CONFIRMED_ANNOTATION,
                        names::LEDGER_NAME,
                    ),
                )
            })
        };
        let table: &DeviceTable = &snapshot.devices;
        let row_jobs = row_jobs(table, &jobs);
        let orders = order::sorted(&snapshot.orders);
        Scene { snapshot, now: snapshot.now, table, windows, stops, orders, jobs, row_jobs, guard }
    }

    /// The device of a line, unless it is gone.
    pub fn row(&self, line: &Line) -> Option<&'a DeviceRow> {
        self.table.rows().get(line.row as usize).map(|row| &**row)
    }

    /// The job that carries the line's device name, of whatever rollout.
    pub fn any_job(&self, line: &Line) -> Option<&'a JobView> {
        self.jobs.get(line.job as usize).copied()
    }

    /// The job that the line's last grant made.
    pub fn own_job(&self, line: &Line, rollout_uid: &str) -> Option<&'a JobView> {
        self.any_job(line).filter(|job| {
            job.rollout_uid == rollout_uid
                && job.attempt == line.attempt
                && job.action == line.action
        })
    }

    /// Whether a job of an ungranted line may have begun all the same: it holds a slot.
    pub fn leftover(&self, line: &Line) -> bool {
        matches!(line.state, LineState::Pending | LineState::NotStarted)
            && self
                .any_job(line)
                .is_some_and(|job| job.attempt == line.attempt && job.may_have_begun())
    }

    /// Counts what a granted line's device is doing about its restart.
    pub fn count_reboots(&self, line: &Line, rules: &Rules, counts: &mut StageCounts) {
        let job = self.any_job(line).filter(|job| job.attempt == line.attempt);
        match job.map(doing) {
            Some(Doing::AwaitingReboot) if line.action == JobAction::Install => {
                counts.installed_awaiting_reboot += 1;
            }
            Some(Doing::Rebooting(since)) => {
                counts.rebooting += 1;
                if self.now >= later(since, rules.reboot_slow_after) {
                    counts.reboot_slow += 1;
                }
            }
            _ => {}
        }
    }
}

/// One rollout while a pass works on it.
pub(crate) struct Run<'a> {
    pub rollout: &'a PatchRollout,
    pub id: RolloutRef,
    pub before: PatchRolloutStatus,
    /// The status as it will be.
    pub status: PatchRolloutStatus,
    pub stages: Vec<StageRun<'a>>,
    /// Why the rollout cannot be carried out as it stands.
    pub complaint: Option<Complaint>,
    /// Why nothing new starts.
    pub stop: Option<Stop>,
    /// Position of the rollout that takes this one's place.
    pub successor: Option<usize>,
    /// A write that later steps rely on changed in this pass: no grant before it is durable.
    pub gating: bool,
    /// What the resolved updates mean for each product.
    pub coverage: Coverage,
    /// What the EmergencyStops in force mean for it.
    pub brakes: Brakes<'a>,
    /// Those of them that keep something back which is still to be done.
    pub kept_back_by: Vec<&'a StopView>,
    /// Why all that the current stage still has to do waits for a window, if it does.
    pub awaits: Option<Closed>,
    /// How far a rollback goes without a person, as this pass counts it.
    pub consent: Consent,
    /// Orders that may have to wait for a second person.
    pub assents: Vec<Assent<'a>>,
    pub events: Vec<Event>,
}

/// Why nothing of a rollout starts, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    Deleting,
    Aborted,
    Suspended,
    Halted,
}

/// One stage of a run.
pub(crate) struct StageRun<'a> {
    pub spec: &'a Stage,
    pub rules: Rules,
    /// The windows that count for it.
    pub hours: Hours<'a>,
    pub frozen: Option<Frozen<'a>>,
    pub tally: Tally,
}

impl Run<'_> {
    pub fn uid(&self) -> &str {
        &self.id.uid
    }

    pub fn is_deleting(&self) -> bool {
        self.rollout.metadata.deletion_timestamp.is_some()
    }

    /// Whether an EmergencyStop keeps something back that is still to be done.
    pub fn is_kept_back(&self) -> bool {
        !self.kept_back_by.is_empty()
    }

    pub fn has_finalizer(&self) -> bool {
        let finalizers = self.rollout.metadata.finalizers.iter().flatten();
        finalizers.into_iter().any(|name| name == names::FINALIZER)
    }

    pub fn emit(&mut self, kind: EventKind, reason: Reason, note: String) {
        self.events.push(Event { rollout: self.id.clone(), kind, reason, note });
    }
}

/// Sorts, joins and checks a snapshot.
pub(crate) fn validate(snapshot: &Snapshot) -> (Scene<'_>, Vec<Run<'_>>) {
    let scene = Scene::new(snapshot);
    let mut slices: Vec<&Arc<SliceView>> = snapshot.slices.iter().collect();
    slices.sort_by(|a, b| slice_order(a).cmp(&slice_order(b)));
    let mut rollouts: Vec<&PatchRollout> = snapshot.rollouts.iter().map(Arc::as_ref).collect();
    rollouts.sort_by(|a, b| {
        (&a.metadata.name, &a.metadata.uid).cmp(&(&b.metadata.name, &b.metadata.uid))
    });
    let runs = rollouts.into_iter().map(|rollout| run(rollout, &slices, &scene)).collect();
    (scene, runs)
}

fn slice_order(slice: &SliceView) -> (&str, &str, &str, u32, &str) {
    (&slice.rollout_uid, &slice.stage, &slice.freeze_id, slice.index, &slice.name)
}

fn run<'a>(rollout: &'a PatchRollout, slices: &[&'a Arc<SliceView>], scene: &Scene<'a>) -> Run<'a> {
    let before = rollout.status.clone().unwrap_or_default();
    let id = RolloutRef {
        name: rollout.metadata.name.clone().unwrap_or_default(),
        uid: rollout.metadata.uid.clone().unwrap_or_default(),
    };
    let mut status = before.clone();
    status.stages = rollout.spec.stages.iter().map(|stage| stage_status(&before, stage)).collect();
    let mut complaint = spec_complaint(rollout);
    let mut stages = Vec::with_capacity(rollout.spec.stages.len());
    for (spec, stage_status) in rollout.spec.stages.iter().zip(&status.stages) {
        let frozen = match &stage_status.freeze_id {
            None => None,
            Some(freeze_id) => match whole(slices, &id.uid, &spec.name, freeze_id) {
                Ok(slices) => Some(join(slices, scene)),
                Err(problem) => {
                    complaint.get_or_insert_with(|| {
                        Complaint::new(
                            Reason::RecordLost,
                            format!(
                                "The record of stage {} is not what was frozen: {problem}. Nothing \
                                 starts any more; restore the PatchRolloutSlices or begin a new \
                                 rollout.",
                                spec.name
                            ),
                        )
                    });
                    None
                }
            },
        };
        let expedite = expedite::in_force(rollout, &before, spec);
        let rules = Rules::of(spec, stage_status).expedited(expedite);
        let hours = Hours::new(spec, expedite);
        stages.push(StageRun { spec, rules, hours, frozen, tally: Tally::default() });
    }
    Run {
        rollout,
        id,
        coverage: Coverage::default(),
        brakes: Brakes::new(&status.resolved_updates, scene),
        kept_back_by: Vec::new(),
        awaits: None,
        before,
        status,
        stages,
        complaint,
        stop: None,
        successor: None,
        gating: false,
        consent: Consent::default(),
        assents: Vec::new(),
        events: Vec::new(),
    }
}

fn stage_status(before: &PatchRolloutStatus, stage: &Stage) -> StageStatus {
    let known = before.stages.iter().find(|known| known.name == stage.name).cloned();
    known.unwrap_or_else(|| StageStatus { name: stage.name.clone(), ..StageStatus::default() })
}

/// What the schema's rules refuse, for clusters whose CRDs are older or whose objects are.
fn spec_complaint(rollout: &PatchRollout) -> Option<Complaint> {
    let spec = &rollout.spec;
    let invalid = |message: String| Some(Complaint::new(Reason::InvalidSpec, message));
    if let Some(message) = packages::complaint(&spec.updates) {
        return invalid(message);
    }
    if spec.stages.is_empty() {
        return invalid("spec.stages is empty: name at least one stage.".to_owned());
    }
    for (position, stage) in spec.stages.iter().enumerate() {
        if stage.group.is_some() == stage.selector.is_some() {
            return invalid(format!(
                "Stage {} needs exactly one of `group` and `selector`.",
                stage.name
            ));
        }
        if spec.stages[..position].iter().any(|earlier| earlier.name == stage.name) {
            return invalid(format!("Two stages are called {}.", stage.name));
        }
    }
    if let Some(message) = spec.stages.iter().find_map(tail::complaint) {
        return invalid(message);
    }
    let unasked = spec.health.probes.iter().find(|probe| !asks_something(probe))?;
    // Left out, it would pass for a probe that was answered.
    invalid(format!(
        "Probe {} lacks the field that its type {:?} names.",
        unasked.name, unasked.kind
    ))
}

/// The slices of a frozen stage, if all of them are there and say what was frozen.
fn whole<'a>(
    slices: &[&'a Arc<SliceView>],
    uid: &str,
    stage: &str,
    freeze_id: &str,
) -> Result<Vec<&'a Arc<SliceView>>, String> {
    let key = (uid, stage, freeze_id);
    let of = |slice: &SliceView| {
        let (uid, stage, freeze_id, ..) = slice_order(slice);
        (uid, stage, freeze_id).cmp(&key)
    };
    let from = slices.partition_point(|slice| of(slice).is_lt());
    let to = slices.partition_point(|slice| of(slice).is_le());
    let found = slices[from..to].to_vec();
    if let Some(problem) = found.iter().find_map(|slice| slice.damaged.as_ref()) {
        return Err(problem.clone());
    }
    let expected = found.first().map_or(0, |slice| slice.of as usize);
    if found.len() != expected
        || found.iter().enumerate().any(|(index, slice)| slice.index as usize != index)
    {
        return Err(format!("{} of {expected} slices are there", found.len()));
    }
    let has_all_keys =
        |slice: &&&Arc<SliceView>| slice.names_digest.keys().len() == slice.lines.len();
    if found.iter().filter(has_all_keys).count() != found.len()
        || freeze::freeze_id(found.iter().map(|slice| slice.names_digest.digest())) != freeze_id
    {
        return Err("its names do not add up to the freeze id".to_owned());
    }
    Ok(found)
}

/// Jobs of the table's rows. Both are sorted by name, so one walk does it.
fn row_jobs(table: &DeviceTable, jobs: &[&JobView]) -> Vec<u32> {
    let mut found = vec![NONE; table.rows().len()];
    let mut cursor = 0;
    for (position, job) in jobs.iter().enumerate() {
        let row = find_row(table, &mut cursor, NameKey::new(&job.device), &job.device);
        if let Some(known) = found.get_mut(row as usize).filter(|known| **known == NONE) {
            *known = position as u32;
        }
    }
    found
}

/// Joins a stage's lines with devices and jobs.
fn join<'a>(slices: Vec<&'a Arc<SliceView>>, scene: &Scene<'a>) -> Frozen<'a> {
    let mut lines = Vec::with_capacity(slices.iter().map(|slice| slice.lines.len()).sum());
    let mut starts = Vec::with_capacity(slices.len());
    let mut cursor = 0;
    for slice in &slices {
        starts.push(lines.len());
        for (record, key) in slice.lines.iter().zip(slice.names_digest.keys()) {
            let row = find_row(scene.table, &mut cursor, *key, &record.device);
            let job = match row {
                // The job of a device that is gone.
                NONE => {
                    let name = record.device.as_str();
                    let found = scene.jobs.binary_search_by(|job| job.device.as_str().cmp(name));
                    found.map_or(NONE, |position| position as u32)
                }
                row => scene.row_jobs[row as usize],
            };
            lines.push(Line {
                state: record.state,
                action: record.action,
                reason: record.reason,
                was: record.was,
                was_reason: record.was_reason,
                ordered: record.ordered,
                attempt: record.attempt,
                tries: record.tries,
                downloads: record.downloads,
                downloaded: record.downloaded,
                sequence: record.sequence,
                at: record.at,
                row,
                job,
                moved: false,
                granted_now: false,
            });
        }
    }
    Frozen {
        slices,
        starts,
        lines,
        outcomes: Default::default(),
        retried: Default::default(),
        ordered: Default::default(),
        recalls: Default::default(),
        notes: Default::default(),
    }
}

/// Row of a device, or [`NONE`]. Lines and rows are sorted by name, so it nearly always lies close
/// behind the last one that was found; where it does not, it is merely found more slowly.
fn find_row(table: &DeviceTable, cursor: &mut usize, key: NameKey, name: &str) -> u32 {
    let mut ahead = table.keys()[*cursor..].iter().take(NEIGHBOURS);
    if let Some(offset) = ahead.position(|known| *known == key) {
        let row = *cursor + offset;
        debug_assert_eq!(&*table.rows()[row].name, name, "a key stands for one name");
        *cursor = row + 1;
        return row as u32;
    }
    let is_behind = |row: &DeviceRow| &*row.name >= name;
    if cursor.checked_sub(1).is_some_and(|last| is_behind(&table.rows()[last])) {
        *cursor = 0;
    }
    seek(table.rows(), |row| &row.name, cursor, name)
}

/// Position of `name` in `sorted`, looked for from `cursor` on in growing steps. Every comparison of
/// names is a visit to far memory.
fn seek<T>(sorted: &[T], key: impl Fn(&T) -> &str, cursor: &mut usize, name: &str) -> u32 {
    let (mut low, mut step) = (*cursor, 1);
    while sorted.get(low + step - 1).is_some_and(|item| key(item) < name) {
        low += step;
        step *= 2;
    }
    let high = (low + step).min(sorted.len());
    let found = sorted[low..high].binary_search_by(|item| key(item).cmp(name));
    let (Ok(offset) | Err(offset)) = found;
    *cursor = low + offset;
    found.map_or(NONE, |offset| (low + offset) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_finds_what_is_there_however_far_apart_and_nothing_else() {
        let sorted: Vec<String> = (0..200).map(|number| format!("ws-{:03}", number * 2)).collect();
        for stride in [1, 2, 3, 7, 16, 41, 150] {
            let mut cursor = 0;
            for number in (0..420).step_by(stride) {
                let name = format!("ws-{number:03}");
                let found = seek(&sorted, |text| text, &mut cursor, &name);
                let is_there = number % 2 == 0 && number < 400;
                assert_eq!(
                    found,
                    if is_there { number as u32 / 2 } else { NONE },
                    "{stride} {name}"
                );
            }
        }
    }

    #[test]
    fn a_device_is_found_wherever_its_line_stands_and_a_stranger_is_not() {
        let rows = (0..900).map(|number| DeviceRow::ready(&format!("ws-{:03}", number), "p"));
        let table = DeviceTable::new(rows.filter(|row| !row.name.ends_with('7')).collect(), vec![]);
        for stride in [1, 2, 3, 7, 63, 64, 65, 150, 611, 899] {
            let (mut cursor, mut number) = (0, 0);
            for _ in 0..1000 {
                let name = format!("ws-{number:03}");
                let found = find_row(&table, &mut cursor, NameKey::new(&name), &name);
                let expected = table.find(&name).map_or(NONE, |row| row as u32);
                assert_eq!(found, expected, "{stride} {name}");
                number = (number + stride) % 950;
            }
        }
    }
}
