//! The API server of the model: who may write what, and whose knowledge of it that makes old.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use wardring_api::{
    Batch, JobAction, PatchRollout, PatchRolloutStatus, Permit, SliceLine, StageCounts, conditions,
    names,
};
use wardring_planner::{
    GrantId, JobOutcome, JobView, LedgerView, NewApproval, NewJob, Outcome, SliceView, take_over,
};

use super::{
    Tenant,
    flaw::Flaw,
    held::{Held, digest},
    state::{Cluster, Done, Stand, State},
};

/// Uid of the one rollout.
pub const UID: &str = "0a1b2c3d-patch";

/// An object, as a bit of [`super::state::Leader::current`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// The rollout.
    Rollout,
    /// The ledger.
    Ledger,
    /// The slice of a stage.
    Slice(usize),
    /// The job of a device.
    Job(usize),
    /// PatchApprovals: they are created and read, and nobody here changes one.
    Approval,
}

impl Object {
    /// Its bit: up to four stages and twenty-six devices.
    pub fn bit(self) -> u32 {
        match self {
            Object::Rollout => 1,
            Object::Ledger => 1 << 1,
            Object::Slice(stage) => 1 << (2 + stage),
            Object::Job(device) => 1 << (6 + device),
            Object::Approval => 0,
        }
    }
}

/// A write of a controller.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Raises the sequence, and makes the ledger where there is none.
    Raise,
    /// Adds the finalizer.
    Finalize,
    /// The status, by its meaning.
    Status(Box<PatchRolloutStatus>),
    /// Creates the slice of a stage.
    CreateSlice(usize, Arc<SliceView>),
    /// Opens a batch over the sequence that the ledger must still have.
    Batch(i64, Batch),
    /// Lines of a stage's slice, by position.
    Lines(usize, Vec<(usize, SliceLine)>),
    /// Creates the job of a device.
    CreateJob(usize, Box<NewJob>),
    /// Deletes the job of a device.
    DeleteJob(usize),
    /// Asks people.
    CreateApproval(Box<NewApproval>),
}

impl Write {
    /// The object it is about.
    pub fn object(&self) -> Object {
        match self {
            Write::Raise | Write::Batch(..) => Object::Ledger,
            Write::Finalize | Write::Status(_) => Object::Rollout,
            Write::CreateSlice(stage, _) | Write::Lines(stage, _) => Object::Slice(*stage),
            Write::CreateJob(device, _) | Write::DeleteJob(device) => Object::Job(*device),
            Write::CreateApproval(_) => Object::Approval,
        }
    }

    /// Whether it makes an object rather than changing the version that was read.
    pub fn creates(&self) -> bool {
        matches!(self, Write::CreateSlice(..) | Write::CreateJob(..) | Write::CreateApproval(_))
    }

    /// The write with a digest, to be kept in a state.
    pub fn held(self) -> Held<Write> {
        let meaning = digest(format!("{self:?}"));
        Held::new(self, meaning)
    }
}

/// What a clock shows.
pub fn wall(minutes: u32) -> Timestamp {
    crate::clock::wall(u64::from(minutes) * crate::clock::MINUTE)
}

/// Minutes until `instant`, rounded up.
pub fn minutes(instant: Timestamp) -> u32 {
    let span: SignedDuration = instant.duration_since(wall(0));
    let seconds = u64::try_from(span.as_secs()).unwrap_or(0);
    u32::try_from(seconds.div_ceil(60)).unwrap_or(u32::MAX)
}

/// A rollout with the part of its status that later plans and permits read. Counters, conditions and
/// sentences tell people something; a plan computes them anew, and states must not differ in them.
pub fn rollout(
    mut rollout: PatchRollout,
    status: Option<PatchRolloutStatus>,
) -> Held<PatchRollout> {
    rollout.status = status.map(meaning);
    let (meta, status) = (&rollout.metadata, &rollout.status);
    let said = format!("{:?} {:?} {status:?}", meta.generation, meta.finalizers);
    Held::new(rollout, said)
}

/// Conditions that later plans read back.
pub const STANDING: [&str; 2] = [conditions::EMERGENCY_STOPPED, conditions::AWAITING_WINDOW];

/// The part of a status that decides something.
pub fn meaning(mut status: PatchRolloutStatus) -> PatchRolloutStatus {
    for stage in &mut status.stages {
        stage.counts = StageCounts::default();
        stage.failed_sample.clear();
        for gate in &mut stage.gates {
            // How long people took is not their devices' lack of progress.
            match &mut gate.approval {
                Some(asked) => asked.because = None,
                None => gate.since = gate.started_at,
            }
            (gate.query, gate.value, gate.threshold) = (None, None, None);
            (gate.result, gate.next, gate.message) = (None, None, None);
        }
    }
    if let Some(halted) = &mut status.halted {
        halted.message.clear();
    }
    // Since when a rollout stands still: the time is not its devices' fault.
    status.conditions.retain(|condition| STANDING.contains(&condition.type_.as_str()));
    for condition in &mut status.conditions {
        condition.observed_generation = None;
        condition.reason.clear();
        condition.message.clear();
    }
    PatchRolloutStatus {
        observed_generation: None,
        phase: None,
        message: None,
        current_stage: None,
        progress: None,
        next_evaluation: None,
        waiting_for: Vec::new(),
        ..status
    }
}

/// A job as the planner sees it.
pub fn job(view: JobView) -> Held<JobView> {
    let permits: Vec<_> =
        view.permitted.iter().map(|all| (all.step, all.at, all.attempt)).collect();
    let answer = match &view.outcome {
        JobOutcome::Verified(outcome) => Some((outcome.attempt, outcome.sequence, outcome.result)),
        JobOutcome::None | JobOutcome::BadSignature => None,
    };
    let meaning = digest((
        (view.attempt, view.sequence, view.repaired, view.created_at),
        (view.start_by, view.finish_by, view.updated_at),
        (permits, answer.map(|(attempt, sequence, result)| (attempt, sequence, result as u8))),
    ));
    Held::new(view, meaning)
}

/// A slice as the planner sees it.
pub fn slice(view: SliceView) -> Held<SliceView> {
    let meaning = digest(view.lines.iter().map(SliceLine::to_string).collect::<Vec<_>>());
    Held::new(view, meaning)
}

fn ledger(view: LedgerView) -> Held<LedgerView> {
    let meaning = digest((view.sequence, format!("{:?}", view.batch)));
    Held::new(view, meaning)
}

impl Tenant {
    /// Whether a write is refused unless its object is as it was read.
    pub fn is_careful(&self, write: &Write) -> bool {
        match write {
            Write::Batch(..) => self.flaw != Some(Flaw::LedgerAtWill),
            Write::Lines(..) => self.flaw != Some(Flaw::SliceAtWill),
            Write::DeleteJob(_) => self.flaw != Some(Flaw::DeleteAtWill),
            Write::CreateSlice(..) | Write::CreateJob(..) | Write::CreateApproval(_) => false,
            Write::Raise | Write::Finalize | Write::Status(_) => true,
        }
    }

    /// A write whose object is as it was read (or that does not ask) reaches the API server. Answers
    /// whether it was done.
    pub fn commit(&self, state: &mut State, write: &Write) -> bool {
        let now = wall(state.now);
        let api = &mut state.api;
        match write {
            Write::Raise => {
                let mut view = api.ledger.as_deref().cloned().unwrap_or_default();
                view.present = true;
                view.sequence = take_over(view.sequence, 0);
                api.ledger = Some(ledger(view));
            }
            Write::Finalize => {
                let mut object = PatchRollout::clone(&api.rollout);
                object.metadata.finalizers = Some(vec![names::FINALIZER.to_owned()]);
                let status = object.status.take();
                api.rollout = rollout(object, status);
            }
            Write::Status(status) => {
                let object = PatchRollout::clone(&api.rollout);
                api.rollout = rollout(object, Some((**status).clone()));
            }
            Write::CreateSlice(stage, new) => {
                if let Some(found) = &api.slices[*stage] {
                    return found.freeze_id == new.freeze_id;
                }
                api.slices[*stage] = Some(slice((**new).clone()));
            }
            Write::Batch(expected, batch) => {
                let Some(found) = &api.ledger else { return false };
                if found.sequence != *expected && self.flaw != Some(Flaw::LedgerAtWill) {
                    return false;
                }
                let batch = batch.clone();
                let sequence = batch.sequence;
                api.ledger =
                    Some(ledger(LedgerView { present: true, sequence, batch: Some(batch) }));
            }
            Write::Lines(stage, changes) => {
                let Some(found) = &api.slices[*stage] else { return false };
                let mut view = SliceView::clone(found);
                for (index, line) in changes {
                    view.lines[*index] = line.clone();
                }
                api.slices[*stage] = Some(slice(view));
            }
            Write::CreateJob(device, new) => {
                if api.jobs[*device].is_some() {
                    return false;
                }
                api.jobs[*device] = Some(job(JobView::fresh(new, now)));
            }
            Write::DeleteJob(device) => {
                if api.jobs[*device].take().is_none() {
                    return false;
                }
            }
            Write::CreateApproval(new) => self.asks_people(state, new),
        }
        self.aged(state, write.object());
        true
    }

    /// The object changed: what anybody else knows of it is old.
    pub fn aged(&self, state: &mut State, object: Object) {
        for leader in &mut state.leaders {
            leader.current &= !object.bit();
        }
        state.late.retain(|late| late.write.object() != object || !self.is_careful(&late.write));
        if let (Object::Job(device), Some(request)) = (object, &mut state.frozen)
            && usize::from(request.asked.device) == device
        {
            match &mut request.stand {
                Stand::ReadJob(_, current) | Stand::Decided(current) => *current = false,
                Stand::Recorded => {}
            }
        }
    }

    /// A gateway changes a job.
    pub fn change_job(&self, state: &mut State, device: u8, change: impl FnOnce(&mut JobView)) {
        let device = usize::from(device);
        let Some(found) = &state.api.jobs[device] else { return };
        let mut view = JobView::clone(found);
        change(&mut view);
        state.api.jobs[device] = Some(job(view));
        self.aged(state, Object::Job(device));
    }
}

/// A permit that was given now; nothing is expedited here.
pub fn permit(asked: &super::state::Asked, now: u32, boot: &str) -> Permit {
    Permit {
        step: asked.step,
        at: wall(now),
        attempt: asked.attempt,
        boot_id: boot.to_owned(),
        agent_run: "run".to_owned(),
        accepted_in: "run".to_owned(),
        expedited: false,
    }
}

/// The signed answer to a job.
pub fn outcome(view: &JobView, done: &Done, restarts: bool) -> Outcome {
    Outcome {
        rollout_uid: view.rollout_uid.clone(),
        enrolment_id: view.enrolment_id.clone(),
        attempt: done.attempt,
        action: JobAction::Install,
        sequence: done.sequence.max(view.sequence),
        result: done.result.result(),
        reason: None,
        message: String::new(),
        boot_id: if restarts { "after" } else { "before" }.to_owned(),
        installed_in_boot: Some("before".to_owned()),
        reboot_required: restarts,
        started: done.result != super::state::OutcomeWord::NotStarted,
        build: String::new(),
    }
}

impl Cluster {
    /// The line of a device, by stage and position.
    pub fn line(&self, stage: usize, position: usize) -> Option<&SliceLine> {
        self.slices[stage].as_ref()?.lines.get(position)
    }
}

/// The grant of a device.
pub fn grant(device: &str, attempt: u32) -> GrantId {
    GrantId { rollout_uid: UID.to_owned(), device: device.to_owned(), attempt }
}
