//! The second opinion: each of these plans was right before it was spoiled, and is caught.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use std::sync::Arc;

use support::{SERVER, World, agent::Script};
use wardring_api::{Abort, EmergencyStop, Latch, LineState, StageState};
use wardring_planner::{
    Action, DeviceRow, DeviceTable, LineChange, Plan, RecallLine, RecordCause, RolloutRef,
    Snapshot, StopView, Unheard, check, plan,
};

/// A stage of three whose first grants are about to be written.
fn about_to_grant() -> (Snapshot, Plan) {
    let mut world = World::new();
    world.group("test");
    for name in ["test-1", "test-2", "test-3"] {
        world.device(name, "test", SERVER);
    }
    world.rollout(
        "november",
        "{updates: {select: {release: 2026-11}}, stages: [{name: test, group: test, \
         maxConcurrency: 2}, {name: next, group: test, minDevices: 0}]}",
    );
    loop {
        let next = world.plan();
        if next.actions.iter().any(|action| matches!(action, Action::OpenBatch { .. })) {
            return (world.snapshot(), next);
        }
        next.actions.iter().for_each(|action| world.apply(action));
    }
}

fn caught(snapshot: &Snapshot, plan: &Plan, rule: &str) {
    let violations = check(snapshot, plan);
    assert!(violations.iter().any(|found| found.rule == rule), "{rule}: {violations:#?}");
}

fn batch(plan: &mut Plan) -> &mut wardring_api::Batch {
    let found = plan.actions.iter_mut().find_map(|action| match action {
        Action::OpenBatch { batch, .. } => Some(batch),
        _ => None,
    });
    found.unwrap()
}

fn grants(plan: &mut Plan) -> &mut Vec<LineChange> {
    let found = plan.actions.iter_mut().find_map(|action| match action {
        Action::RecordLines { cause: RecordCause::Grants, changes, .. } => Some(changes),
        _ => None,
    });
    found.unwrap()
}

fn rollout(snapshot: &mut Snapshot) -> &mut wardring_api::PatchRollout {
    std::sync::Arc::make_mut(&mut snapshot.rollouts[0])
}

fn latch() -> Option<Latch> {
    Some(Latch {
        reason: "X".to_owned(),
        message: "x".to_owned(),
        at: support::start(),
        stage: None,
        uninstalls_nothing: false,
    })
}

#[test]
fn a_right_plan_passes() {
    let (snapshot, plan) = about_to_grant();
    assert_eq!(check(&snapshot, &plan), []);
}

#[test]
fn a_grant_before_the_agents_were_heard() {
    let (mut snapshot, plan) = about_to_grant();
    snapshot.guards.unheard = Some(Unheard { devices: 1, names: Vec::new(), until: None });
    caught(&snapshot, &plan, "S7");
}

#[test]
fn a_grant_that_is_not_written_ahead() {
    let (snapshot, mut plan) = about_to_grant();
    plan.actions.retain(|action| !matches!(action, Action::OpenBatch { .. }));
    caught(&snapshot, &plan, "S2");
}

#[test]
fn a_grant_over_the_cap() {
    let (snapshot, mut plan) = about_to_grant();
    batch(&mut plan).grants.push("test-3 1 Install".to_owned());
    caught(&snapshot, &plan, "S2");
}

#[test]
fn a_job_before_its_line() {
    let (snapshot, mut plan) = about_to_grant();
    plan.actions.retain(|action| matches!(action, Action::CreateJob(_)));
    caught(&snapshot, &plan, "S1");
}

#[test]
fn a_sequence_or_an_attempt_that_goes_back() {
    let (mut snapshot, plan) = about_to_grant();
    snapshot.ledger.sequence = 50;
    caught(&snapshot, &plan, "S4");
    let (snapshot, mut plan) = about_to_grant();
    batch(&mut plan).grants[0] = "test-1 7 Install".to_owned();
    caught(&snapshot, &plan, "S4");
}

#[test]
fn a_grant_of_a_rollout_that_stands_still() {
    let (mut snapshot, plan) = about_to_grant();
    rollout(&mut snapshot).spec.suspend = Some(true);
    caught(&snapshot, &plan, "S13");
    let (mut snapshot, plan) = about_to_grant();
    rollout(&mut snapshot).spec.abort = Some(Abort { reason: "x".to_owned() });
    caught(&snapshot, &plan, "S13");
    let (mut snapshot, plan) = about_to_grant();
    rollout(&mut snapshot).status.as_mut().unwrap().halted = latch();
    caught(&snapshot, &plan, "S6");
}

#[test]
fn a_grant_under_a_guard() {
    let (mut snapshot, plan) = about_to_grant();
    snapshot.guards.clock_trusted = false;
    caught(&snapshot, &plan, "S7");
    snapshot.guards.clock_trusted = true;
    snapshot.guards.restored_from_backup = Some(900);
    caught(&snapshot, &plan, "S7");
}

#[test]
fn a_grant_of_a_device_that_may_not_be_touched() {
    let (mut snapshot, plan) = about_to_grant();
    let mut table = (*snapshot.devices).clone();
    let mut row = table.get("test-1").unwrap().clone();
    row.mode = wardring_api::DeviceMode::Observe;
    table.upsert(row);
    snapshot.devices = std::sync::Arc::new(table);
    caught(&snapshot, &plan, "S14");
}

#[test]
fn success_without_an_answer() {
    let (snapshot, mut plan) = about_to_grant();
    grants(&mut plan)[0].line.state = LineState::Succeeded;
    caught(&snapshot, &plan, "S9");
}

#[test]
fn installing_again_what_succeeded_or_has_had_its_tries() {
    for state in [LineState::Succeeded, LineState::Failed] {
        let (mut snapshot, plan) = about_to_grant();
        let slice = std::sync::Arc::make_mut(&mut snapshot.slices[0]);
        (slice.lines[0].state, slice.lines[0].tries) = (state, 1);
        caught(&snapshot, &plan, "S8");
    }
}

#[test]
fn a_stage_that_passes_without_proof_or_out_of_turn() {
    let (snapshot, mut plan) = about_to_grant();
    let rollout = RolloutRef {
        name: "november".to_owned(),
        uid: snapshot.rollouts[0].metadata.uid.clone().unwrap(),
    };
    let mut status = Box::new(snapshot.rollouts[0].status.clone().unwrap());
    status.stages[0].state = StageState::Completed;
    plan.actions = vec![Action::WriteStatus { rollout: rollout.clone(), status: status.clone() }];
    caught(&snapshot, &plan, "S17");
    caught(&snapshot, &plan, "S3");
    status.stages[0].state = StageState::Open;
    status.stages[1].freeze_id = Some("v1:x".to_owned());
    plan.actions = vec![Action::WriteStatus { rollout: rollout.clone(), status: status.clone() }];
    caught(&snapshot, &plan, "S3");
    status.stages[1].freeze_id = None;
    status.resolved_updates.pop();
    plan.actions = vec![Action::WriteStatus { rollout, status }];
    caught(&snapshot, &plan, "S12");
}

#[test]
fn a_recall_or_a_deletion_of_a_job_that_is_at_work() {
    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    world.rollout(
        "november",
        "{updates: {select: {release: 2026-11}}, stages: [{name: test, group: test}]}",
    );
    for _ in 0..3 {
        world.minute(|_| {});
    }
    let snapshot = world.snapshot();
    let mut line = snapshot.slices[0].lines[0].clone();
    assert!(world.jobs["test-1"].may_have_begun());
    line.state = LineState::Pending;
    let slice = snapshot.slices[0].name.clone();
    let lines = vec![RecallLine { change: LineChange { index: 0, line }, job_attempt: Some(1) }];
    let mut spoiled = plan(&snapshot);
    spoiled.actions = vec![Action::Recall { slice, lines }];
    caught(&snapshot, &spoiled, "S2");
    spoiled.actions = vec![Action::DeleteJob {
        device: "test-1".to_owned(),
        attempt: 1,
        rollout_uid: snapshot.jobs[0].rollout_uid.clone(),
        why: wardring_planner::JobEnd::Done,
    }];
    caught(&snapshot, &spoiled, "S2");
}

#[test]
fn a_grant_in_a_stage_whose_group_was_deleted() {
    let (mut snapshot, plan) = about_to_grant();
    let rows = snapshot.devices.rows().to_vec();
    snapshot.devices = std::sync::Arc::new(DeviceTable::new(rows, Vec::new()));
    caught(&snapshot, &plan, "S13");
}

#[test]
fn a_grant_under_an_emergency_stop_is_caught() {
    let (mut snapshot, plan) = about_to_grant();
    let spec = "{reason: ward closed, selector: {matchLabels: {stage: test}}}";
    let stop = EmergencyStop::new("ward", serde_yaml::from_str(spec).unwrap());
    snapshot.stops = vec![Arc::new(StopView::new(&stop))];
    caught(&snapshot, &plan, "S5");
}

#[test]
fn a_device_that_returns_to_a_rollout_that_halted_over_its_budget_is_no_new_start() {
    let mut world = World::new();
    world.group("test");
    for (name, script) in [("test-1", Script::Slow), ("test-2", Script::InstallFails)] {
        world.device(name, "test", SERVER);
        world.agents.get_mut(name).unwrap().script = script;
    }
    world.rollout(
        "november",
        "{updates: {select: {release: 2026-11}}, onHalt: {installedAwaitingReboot: Finish}, \
         stages: [{name: test, group: test, maxConcurrency: 1, maxUnreachable: 1, orderBy: Name}]}",
    );
    world.settle();
    let is_lost = |world: &World| world.state("november", "test-1") == Some(LineState::Unreachable);
    for _ in 0..2_000 {
        if is_lost(&world) {
            break;
        }
        world.minute(|_| {});
    }
    assert!(is_lost(&world));
    for _ in 0..2_000 {
        if world.status("november").halted.is_some() {
            break;
        }
        world.minute(|_| {});
    }
    let halted = world.status("november").halted.unwrap();
    assert_eq!(halted.reason, "FailureBudgetSpent");
    // Each minute plans, and a plan that breaks a rule would end the test.
    for _ in 0..300 {
        world.minute(|_| {});
    }
    assert!(!is_lost(&world), "it is taken back in");
}

/// The same grants as the close of a batch that a dead leader left open.
fn about_to_close() -> (Snapshot, Plan) {
    let (mut snapshot, mut plan) = about_to_grant();
    let open = batch(&mut plan).clone();
    plan.actions.retain(|action| !matches!(action, Action::OpenBatch { .. }));
    snapshot.ledger.sequence = open.sequence;
    snapshot.ledger.batch = Some(open);
    assert_eq!(check(&snapshot, &plan), []);
    (snapshot, plan)
}

#[test]
fn a_grant_of_what_somebody_bars_or_holds() {
    type Keep = fn(&mut Snapshot);
    let table: &[Keep] = &[
        |snapshot| bar(snapshot, "{kbs: [KB5068787], reason: r}"),
        |snapshot| bar(snapshot, "{kbs: [KB5068787], reason: r, devices: [test-1, test-2]}"),
        |snapshot| {
            let old = "{kb: KB5060001, title: t, product: Windows Server 2022, kind: Quality, \
                       release: 2026-10, supersededBy: KB5068787}";
            snapshot.updates.push(std::sync::Arc::new(serde_yaml::from_str(old).unwrap()));
            bar(snapshot, "{kbs: [KB5060001], reason: r, includeSuperseding: Hold}");
        },
        |snapshot| {
            let table = std::sync::Arc::make_mut(&mut snapshot.devices);
            let hold = wardring_api::Hold { reason: "surgery".to_owned(), until: None };
            for row in table.rows().to_vec() {
                let hold = Some(Box::new(hold.clone()));
                table.upsert(DeviceRow { hold, ..DeviceRow::clone(&row) });
            }
        },
        |snapshot| {
            let mut groups = snapshot.devices.groups().to_vec();
            groups[0].spec.patch_authority = wardring_api::PatchAuthority::Observe;
            let rows = snapshot.devices.rows().to_vec();
            snapshot.devices =
                std::sync::Arc::new(wardring_planner::DeviceTable::new(rows, groups));
        },
    ];
    for keep in table {
        for make in [about_to_grant, about_to_close] {
            let (mut snapshot, plan) = make();
            keep(&mut snapshot);
            caught(&snapshot, &plan, "S14");
        }
    }
    let (mut snapshot, plan) = about_to_grant();
    bar(&mut snapshot, "{kbs: [KB5068791], reason: r}");
    bar(&mut snapshot, "{kbs: [KB5068787], reason: r, devices: [ws-1]}");
    assert_eq!(check(&snapshot, &plan), []);
}

fn bar(snapshot: &mut Snapshot, spec: &str) {
    let spec = serde_yaml::from_str(spec).unwrap();
    let hold = wardring_planner::HoldView { name: "printing".to_owned(), created_at: None, spec };
    snapshot.holds.push(hold);
}
