//! How a run moves from stage to stage: freeze, prove, soak, complete, freeze the next. One stage is
//! proven at a time, and the next one opens only behind a status write that says the last is, whether it
//! is completed or stays open for latecomers.

use wardring_api::{
    GatePhase, StageState, StageStatus, conditions::whole_seconds, reasons::Reason,
};

use crate::{
    Action, EventKind, approvals, canary,
    caps::later,
    explain, freeze, gates, halt,
    plan::Lanes,
    rollback, supersede, tail,
    validate::{Complaint, Run, Scene},
    wake::Wake,
};

/// Moves the run's current stage as far as it may go. What the stage waits for, if it is not for
/// devices, comes back as a complaint to show.
pub(crate) fn advance(
    run: &mut Run<'_>,
    scene: &Scene<'_>,
    wake: &mut Wake,
    lanes: &mut Lanes,
) -> Option<Complaint> {
    if run.stop.is_some()
        || run.gating
        || run.complaint.is_some()
        || scene.guard.is_some()
        || run.status.plan_hash.is_none()
        || !run.has_finalizer()
    {
        return None;
    }
    if run.status.stages.iter().all(|stage| stage.freeze_id.is_none()) {
        // A typo in a later stage is told before the first device is touched.
        let mut positions = 0..run.stages.len();
        run.complaint = positions.find_map(|position| {
            freeze::missing_group(run, position, scene).or_else(|| gates::unreadable(run, position))
        });
        if run.complaint.is_some() {
            return None;
        }
    }
    tail::follow(run, scene, wake);
    for position in 0..run.stages.len() {
        let waits = match run.status.stages[position].state {
            StageState::Completed | StageState::Tail => continue,
            StageState::Pending => return freeze(run, position, scene, lanes),
            StageState::Gated => return open(run, position, scene),
            StageState::Open | StageState::Soaking => prove(run, position, scene, wake),
        };
        if waits.is_some() || !run.status.stages[position].state.is_promoted() {
            return waits;
        }
    }
    None
}

/// Whether the stage is proven: every device that it waits for has a verdict, enough of them are really
/// installed and proven, enough are covered, and no rollback is under way.
fn prove(
    run: &mut Run<'_>,
    position: usize,
    scene: &Scene<'_>,
    wake: &mut Wake,
) -> Option<Complaint> {
    let waits = halt::shortfall(run, position);
    let is_waiting = tail::waits_for_devices(run, position, wake);
    let is_proven = waits.is_none()
        && !is_waiting
        && !rollback::concerns(run, position, scene)
        && !gates::interrupt_the_soak(run.stages[position].spec, &run.status.stages[position]);
    let soak = run.stages[position].rules.soak;
    let status = &mut run.status.stages[position];
    if !is_proven {
        if status.state == StageState::Soaking {
            // The soak must be continuous: what interrupts it starts it anew.
            status.state = StageState::Open;
            status.soak_started_at = None;
            run.gating = true;
        }
        return waits.filter(|_| !is_waiting);
    }
    if status.state == StageState::Open {
        status.state = StageState::Soaking;
        status.soak_started_at = Some(whole_seconds(scene.now));
        run.gating = true;
    }
    // Also where a device that was given up comes back while the stage is being watched.
    tail::begin(run, position, scene);
    let status = &mut run.status.stages[position];
    let since = status.soak_started_at.unwrap_or(scene.now);
    // What gates say against it, the status tells of each of them.
    let is_over = wake.is_due(later(since, soak));
    let spec = run.stages[position].spec;
    if is_over && gates::held(spec, status).is_none() {
        if let Some(unvouched) = approvals::unvouched(spec, GatePhase::After, scene) {
            return Some(unvouched);
        }
        if tail::promote(run, position, scene) {
            return None;
        }
        let status = &mut run.status.stages[position];
        status.state = StageState::Completed;
        status.completed_at = Some(whole_seconds(scene.now));
        status.gates.iter_mut().for_each(|gate| gate.next = None);
        run.gating = true;
        let name = run.stages[position].spec.name.clone();
        let counts = run.stages[position].tally.counts;
        run.emit(
            EventKind::Normal,
            Reason::Completed,
            format!(
                "Stage {name} is proven: {} succeeded.",
                explain::devices(counts.succeeded as usize)
            ),
        );
    }
    None
}

/// Opens a stage whose devices are frozen, once its gates have passed.
fn open(run: &mut Run<'_>, position: usize, scene: &Scene<'_>) -> Option<Complaint> {
    let (stage, status) = (run.stages[position].spec, &run.status.stages[position]);
    if !gates::have_passed(stage, status, GatePhase::Before) {
        return None;
    }
    if let Some(unvouched) = approvals::unvouched(stage, GatePhase::Before, scene) {
        return Some(unvouched);
    }
    if position == 0
        && let Err(unapproved) = supersede::begin(run, scene)
    {
        return Some(unapproved);
    }
    let (stage, status) = (run.stages[position].spec, &mut run.status.stages[position]);
    status.state = StageState::Open;
    (status.started_at, status.progress_since) = (Some(whole_seconds(scene.now)), None);
    let devices = explain::devices(status.counts.total as usize);
    run.gating = true;
    let note = format!("Stage {} opened with {devices}: its gates have passed.", stage.name);
    run.emit(EventKind::Normal, Reason::InProgress, note);
    None
}

/// Freezes the stage's membership: slices first, then the status that names their freeze id. It opens
/// with that, unless gates have to pass first.
fn freeze(
    run: &mut Run<'_>,
    position: usize,
    scene: &Scene<'_>,
    lanes: &mut Lanes,
) -> Option<Complaint> {
    let stage = run.stages[position].spec;
    let rules = run.stages[position].rules;
    let members = match freeze::members(run, position, scene) {
        Ok(members) => members,
        Err(complaint) => {
            run.complaint = Some(complaint);
            return None;
        }
    };
    if members.len() < rules.min_devices {
        return Some(halt::too_few(run, position, members.len()));
    }
    let (freeze_id, slices) = freeze::slices(run, position, &members, scene);
    let known = |name: &str| scene.snapshot.slices.iter().any(|slice| slice.name == name);
    for slice in slices {
        if !known(&slice.name) {
            lanes.slices.push(Action::CreateSlice(Box::new(slice)));
        }
    }
    let is_gated = stage.gates.before.iter().any(gates::is_enforced);
    run.status.stages[position] = StageStatus {
        name: stage.name.clone(),
        state: if is_gated { StageState::Gated } else { StageState::Open },
        freeze_id: Some(freeze_id),
        caps: Some(rules.caps(members.len(), members.len())),
        counts: wardring_api::StageCounts {
            total: members.len() as u32,
            pending: members.len() as u32,
            ..Default::default()
        },
        frozen_at: is_gated.then(|| whole_seconds(scene.now)),
        started_at: (!is_gated).then(|| whole_seconds(scene.now)),
        canary_gaps: canary::unproven(run, position, &members, scene),
        ..StageStatus::default()
    };
    run.gating = true;
    if let Some(gaps) = canary::canary_gaps(&run.status.stages[position]) {
        run.emit(EventKind::Warning, Reason::CanaryGap, gaps);
    }
    let devices = explain::devices(members.len());
    let note = if is_gated {
        format!("Stage {} froze {devices} and waits for its gates.", stage.name)
    } else {
        format!("Stage {} opened with {devices}.", stage.name)
    };
    run.emit(EventKind::Normal, Reason::InProgress, note);
    None
}
