//! How long a pass takes over 100,000 devices in three stages: cold, and after one event. Prints one
//! JSON object; `cargo xtask bench plan` compares it with its limits.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // A stopwatch needs a clock.
#![allow(clippy::unwrap_used)] // A benchmark that cannot go on should say where.

use std::{collections::BTreeMap, hint::black_box, sync::Arc, time::Instant};

use wardring_api::{
    DeviceGroupSpec, LineState, PatchRollout, PatchRolloutSlice, PatchRolloutSliceSpec, SliceLine,
};
use wardring_planner::{
    Action, DeviceRow, DeviceTable, GroupView, Guards, JobOutcome, LedgerView, Outcome,
    OutcomeResult, Plan, SliceView, Snapshot, check, plan,
};

const DEVICES: usize = 100_000;
const ROUNDS: usize = 15;

fn main() {
    let mut snapshot = world();
    advance(&mut snapshot);
    let cold = measure(|| plan(&snapshot));
    // One event: a device in flight answered.
    answer_one(&mut snapshot);
    let event = measure(|| plan(&snapshot));
    let applied = plan(&snapshot);
    assert!(!applied.actions.is_empty(), "the answer leads to writes");
    let checked = measure(|| check(&snapshot, &applied));
    let idle = {
        let mut quiet = snapshot.clone();
        settle(&mut quiet);
        measure(|| plan(&quiet))
    };
    let scan = measure(|| scan(&snapshot));
    let to_scan: Vec<_> = event.iter().zip(&scan).map(|(event, scan)| event / scan).collect();
    println!(
        "{}",
        serde_json::json!({
            "bench": "plan", "coldMs": cold, "afterOneEventMs": event, "idleMs": idle,
            "checkMs": checked, "scanMs": scan, "eventToScan": to_scan,
        })
    );
}

/// Milliseconds of each round.
fn measure<T>(mut work: impl FnMut() -> T) -> Vec<f64> {
    let round = |_| {
        let start = Instant::now();
        black_box(work());
        start.elapsed().as_secs_f64() * 1000.0
    };
    (0..ROUNDS).map(round).collect()
}

/// The least that a pass must do: read every row and every line once.
fn scan(snapshot: &Snapshot) -> (usize, usize) {
    let rows = snapshot.devices.rows().iter();
    let online = rows.filter(|row| row.online == Some(true) && row.hold.is_none()).count();
    let lines = snapshot.slices.iter().flat_map(|slice| &slice.lines);
    (online, lines.filter(|line| line.state == LineState::Granted).count())
}

/// Three stages of a third of the fleet each, interleaved by name; the rollout is in its second.
fn world() -> Snapshot {
    let groups = ["test", "workstations", "production"].map(|name| {
        let yaml = format!("selector: {{matchLabels: {{stage: {name}}}}}\nmaxUnavailable: 50%");
        let spec: DeviceGroupSpec = serde_yaml::from_str(&yaml).unwrap();
        GroupView { name: name.to_owned(), spec, status: Default::default() }
    });
    let labels = ["test", "workstations", "production"]
        .map(|name| Arc::new(BTreeMap::from([("stage".to_owned(), name.to_owned())])));
    let rows = (0..DEVICES)
        .map(|number| {
            let mut row = DeviceRow::ready(&format!("device-{number:06}"), "Windows Server 2022");
            row.labels = labels[number % 3].clone();
            row
        })
        .collect();
    let spec = "
updates: {select: {release: 2026-11}}
stages:
  - {name: test, group: test, maxConcurrency: 100%}
  - {name: workstations, group: workstations, maxConcurrency: 2000, maxFailures: 1%}
  - {name: production, group: production}";
    let mut rollout = PatchRollout::new("november", serde_yaml::from_str(spec).unwrap());
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
        uncreated: Default::default(),
        cannot_create: Default::default(),
    }
}

/// Until the second stage is at work: every device of the first has succeeded.
fn advance(snapshot: &mut Snapshot) {
    for _ in 0..3 {
        let next = plan(snapshot);
        apply(snapshot, &next);
    }
    for job in snapshot.jobs.drain(..) {
        drop(job);
    }
    for slice in &mut snapshot.slices {
        for line in &mut Arc::make_mut(slice).lines {
            line.state = LineState::Succeeded;
            (line.attempt, line.tries, line.at) = (1, 1, Some(snapshot.now));
        }
    }
    settle(snapshot);
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
            Action::CreateJob(new) => snapshot.jobs.push(Arc::new(job(new, snapshot.now))),
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

fn job(new: &wardring_planner::NewJob, now: jiff::Timestamp) -> wardring_planner::JobView {
    wardring_planner::JobView {
        device: new.device.clone(),
        rollout: new.rollout.name.clone(),
        rollout_uid: new.rollout.uid.clone(),
        stage: new.stage.clone(),
        slice: new.slice.clone(),
        enrolment_id: new.enrolment_id.clone(),
        attempt: new.attempt,
        sequence: new.sequence,
        action: new.action,
        start_by: new.start_by,
        finish_by: new.finish_by,
        created_at: Some(now),
        permitted: Vec::new(),
        state: None,
        updated_at: None,
        message: None,
        unhealthy: Vec::new(),
        repaired: new.repaired,
        deleting: false,
        outcome: JobOutcome::None,
    }
}
