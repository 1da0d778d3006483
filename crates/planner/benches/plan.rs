//! How long a pass takes over 100,000 devices in three stages: cold, and after one event. Time is that
//! of the processor: a pass runs on one thread and waits for nothing, and so other work on the machine
//! counts less. Prints one JSON object; `cargo xtask bench plan` compares it with its limits.
#![allow(clippy::unwrap_used)] // A benchmark that cannot go on should say where.

use std::{collections::BTreeMap, hint::black_box, sync::Arc};

use rustix::time::{ClockId, clock_gettime};
use wardring_api::{
    DeviceGroupSpec, LineState, PatchRollout, PatchRolloutSlice, PatchRolloutSliceSpec, SliceLine,
};
use wardring_planner::{
    Action, DeviceRow, DeviceTable, GroupView, Guards, JobOutcome, JobView, LedgerView, Outcome,
    OutcomeResult, Plan, SliceView, Snapshot, check, plan,
};

const DEVICES: usize = 100_000;
const ROUNDS: usize = 15;
const STAGES: [&str; 3] = ["test", "workstations", "production"];
/// Devices of the open stage that have a job.
const IN_FLIGHT: usize = 2_000;

fn main() {
    let mut snapshot = world();
    let opening = advance(&mut snapshot);
    assert_eq!(snapshot.slices.iter().map(|slice| slice.lines.len()).sum::<usize>(), DEVICES);
    assert_eq!(snapshot.jobs.len(), IN_FLIGHT, "the last stage is at work");
    let frozen = measure(|| &opening, plan);
    // One event: a device in flight answered.
    answer_one(&mut snapshot);
    let applied = plan(&snapshot);
    assert!(!applied.actions.is_empty(), "the answer leads to writes");
    // As after a restart: everything was just read, and lies anywhere in memory.
    // The world is handed back, because taking it down is no part of a pass.
    let cold = measure(|| copied(&snapshot), |snapshot| (plan(&snapshot), snapshot));
    let event = measure(|| &snapshot, plan);
    let checked = measure(|| &snapshot, |snapshot| check(snapshot, &applied));
    let scan = measure(|| &snapshot, scan);
    let to_scan: Vec<_> = event.iter().zip(&scan).map(|(event, scan)| event / scan).collect();
    settle(&mut snapshot);
    let idle = measure(|| &snapshot, plan);
    println!(
        "{}",
        serde_json::json!({
            "bench": "plan", "coldMs": cold, "afterOneEventMs": event, "idleMs": idle,
            "opensStageMs": frozen, "checkMs": checked, "scanMs": scan, "eventToScan": to_scan,
        })
    );
}

/// Milliseconds of each round; what `given` makes is made before the watch starts.
fn measure<W, T>(given: impl Fn() -> W, work: impl Fn(W) -> T) -> Vec<f64> {
    let round = |_| {
        let world = given();
        let start = clock_gettime(ClockId::ThreadCPUTime);
        let result = black_box(work(world));
        let taken = clock_gettime(ClockId::ThreadCPUTime) - start;
        drop(result);
        taken.tv_sec as f64 * 1e3 + taken.tv_nsec as f64 / 1e6
    };
    (0..ROUNDS).map(round).collect()
}

/// The same, with every row, line and job in a place of its own.
fn copied(snapshot: &Snapshot) -> Snapshot {
    fn copy<T: Clone>(items: &[Arc<T>]) -> Vec<Arc<T>> {
        items.iter().map(|item| Arc::new((**item).clone())).collect()
    }
    let text = |text: &Arc<str>| Arc::<str>::from(&**text);
    let row = |row: &Arc<DeviceRow>| DeviceRow {
        name: text(&row.name),
        enrolment_id: row.enrolment_id.as_ref().map(text),
        ..DeviceRow::clone(row)
    };
    let rows = snapshot.devices.rows().iter().map(row).collect();
    Snapshot {
        devices: Arc::new(DeviceTable::new(rows, snapshot.devices.groups().to_vec())),
        rollouts: copy(&snapshot.rollouts),
        slices: copy(&snapshot.slices),
        jobs: copy(&snapshot.jobs),
        ..snapshot.clone()
    }
}

/// The least that a pass must do: read every row and every line once.
fn scan(snapshot: &Snapshot) -> (usize, usize) {
    let rows = snapshot.devices.rows().iter();
    let online = rows.filter(|row| row.online == Some(true) && row.hold.is_none()).count();
    let lines = snapshot.slices.iter().flat_map(|slice| &slice.lines);
    (online, lines.filter(|line| line.state == LineState::Granted).count())
}

/// Three stages of a third of the fleet each, interleaved by name.
fn world() -> Snapshot {
    let groups = STAGES.map(|name| {
        let yaml = format!("selector: {{matchLabels: {{stage: {name}}}}}\nmaxUnavailable: 50%");
        let spec: DeviceGroupSpec = serde_yaml::from_str(&yaml).unwrap();
        GroupView { name: name.to_owned(), spec, status: Default::default() }
    });
    let labels =
        STAGES.map(|name| Arc::new(BTreeMap::from([("stage".to_owned(), name.to_owned())])));
    let rows = (0..DEVICES)
        .map(|number| {
            let mut row = DeviceRow::ready(&format!("device-{number:06}"), "Windows Server 2022");
            row.labels = labels[number % 3].clone();
            row
        })
        .collect();
    let stages: String = STAGES
        .map(|name| format!("  - {{name: {name}, group: {name}, maxConcurrency: {IN_FLIGHT}}}\n"))
        .concat();
    let spec = format!("updates: {{select: {{release: 2026-11}}}}\nstages:\n{stages}");
    let mut rollout = PatchRollout::new("november", serde_yaml::from_str(&spec).unwrap());
    rollout.metadata.uid = Some("0001-november".to_owned());
    rollout.metadata.finalizers = Some(vec![wardring_api::names::FINALIZER.to_owned()]);
    let update = "{kb: KB5068787, title: t, product: Windows Server 2022, kind: Quality, \
                  release: 2026-11}";
    Snapshot {
        namespace: "tenant".to_owned(),
        now: "2026-11-20T22:00:00Z".parse().unwrap(),
        guards: Guards::default(),
        ledger: LedgerView { present: true, sequence: 0, batch: None },
        rollouts: vec![Arc::new(rollout)],
        slices: Vec::new(),
        jobs: Vec::new(),
        devices: Arc::new(DeviceTable::new(rows, groups.to_vec())),
        updates: vec![Arc::new(serde_yaml::from_str(update).unwrap())],
        holds: Vec::new(),
        windows: Vec::new(),
        orders: Vec::new(),
        approvals: Vec::new(),
        approval_policy: Default::default(),
        nonce: String::new(),
        stops: Vec::new(),
        measurements: Vec::new(),
        uncreated: Default::default(),
        cannot_create: Default::default(),
        refused_holds: Default::default(),
    }
}

/// Until the last stage is at work, all before it succeeded. Answers with the moment before the pass
/// that opens the last stage.
fn advance(snapshot: &mut Snapshot) -> Snapshot {
    for _ in 1..STAGES.len() {
        settle(snapshot);
        assert_eq!(snapshot.jobs.len(), IN_FLIGHT, "a stage is at work");
        snapshot.jobs.clear();
        for slice in &mut snapshot.slices {
            for line in &mut Arc::make_mut(slice).lines {
                line.state = LineState::Succeeded;
                (line.attempt, line.tries, line.at) = (1, 1, Some(snapshot.now));
            }
        }
    }
    let slices = |snapshot: &Snapshot| snapshot.slices.len();
    let (mut before, known) = (snapshot.clone(), slices(snapshot));
    while slices(snapshot) == known {
        before = snapshot.clone();
        apply(snapshot, &plan(&before));
    }
    settle(snapshot);
    before
}

fn settle(snapshot: &mut Snapshot) {
    loop {
        let next = plan(snapshot);
        if next.actions.is_empty() {
            return;
        }
        apply(snapshot, &next);
    }
}

fn answer_one(snapshot: &mut Snapshot) {
    let job = Arc::make_mut(&mut snapshot.jobs[1000]);
    job.outcome = JobOutcome::Verified(Outcome {
        rollout_uid: job.rollout_uid.clone(),
        enrolment_id: job.enrolment_id.clone(),
        attempt: job.attempt,
        action: job.action,
        sequence: job.sequence,
        result: OutcomeResult::Succeeded,
        reason: None,
        message: String::new(),
        boot_id: "b2".to_owned(),
        installed_in_boot: Some("b1".to_owned()),
        reboot_required: true,
        started: true,
        build: "20348.4405".to_owned(),
    });
}

fn apply(snapshot: &mut Snapshot, plan: &Plan) {
    for action in &plan.actions {
        match action {
            Action::WriteStatus { status, .. } => {
                Arc::make_mut(&mut snapshot.rollouts[0]).status = Some((**status).clone());
            }
            Action::CreateSlice(new) => {
                let spec = PatchRolloutSliceSpec {
                    rollout: new.rollout.name.clone(),
                    rollout_uid: new.rollout.uid.clone(),
                    stage: new.stage.clone(),
                    index: new.index,
                    of: new.of,
                    freeze_id: new.freeze_id.clone(),
                    lines: new.lines.iter().map(SliceLine::to_string).collect(),
                };
                let slice = PatchRolloutSlice::new(&new.name, spec);
                snapshot.slices.push(Arc::new(SliceView::new(&slice)));
            }
            Action::OpenBatch { batch, .. } => {
                snapshot.ledger.sequence = batch.sequence;
                snapshot.ledger.batch = Some(batch.clone());
            }
            Action::RecordLines { slice, changes, .. } => {
                let view = snapshot.slices.iter_mut().find(|view| view.name == *slice).unwrap();
                for change in changes {
                    Arc::make_mut(view).lines[change.index] = change.line.clone();
                }
            }
            Action::CreateJob(new) => {
                snapshot.jobs.push(Arc::new(JobView::fresh(new, snapshot.now)))
            }
            Action::DeleteJob { device, .. } => {
                snapshot.jobs.retain(|job| job.device != *device);
            }
            Action::WriteGroupStatus { group, status } => {
                Arc::make_mut(&mut snapshot.devices).set_group_status(group, status.clone());
            }
            _ => {}
        }
    }
}
