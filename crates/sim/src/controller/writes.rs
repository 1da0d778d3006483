//! Actions of a plan, in order, one write at a time.

use wardring_api::{
    PatchJob, PatchJobSpec, PatchRollout, PatchRolloutSlice, PatchRolloutSliceSpec, SealedBytes,
    SliceLine, UpdateHold, conditions, names,
};
use wardring_planner::{Action, GrantId, NewJob, NewSlice, RecallLine, RolloutRef};

use super::{Controller, RETRY, Work, is_same_grant};
use crate::{
    api::{Answer, Kind, Object, Refusal, Stored, Write},
    hub::{Hub, Process},
    seal,
};

/// What to do about an action.
enum Step {
    Send(Write),
    /// Nothing needs to be written.
    Done,
    /// The plan no longer fits.
    Stop,
}

impl Controller {
    /// Begins the next write of the plan.
    pub(super) fn go_on(&mut self, hub: &mut Hub) {
        loop {
            let Some(work) = &mut self.work else { return };
            let Some(action) = work.actions.front() else {
                self.work = None;
                return self.pass_in(hub, 1);
            };
            if let Some(left) = &mut self.dies_after {
                if *left == 0 {
                    self.dies_after = None;
                    let process = Process::Controller(self.index);
                    hub.after(0, crate::hub::Event::Crash(process));
                    self.work = None;
                    return;
                }
                *left -= 1;
            }
            match step(action, work) {
                Step::Send(write) => {
                    if let Action::CreateJob(new) = action {
                        // From now on nobody can say that it was never asked for.
                        self.uncreated.remove(&grant(new));
                    }
                    let token = self.send(hub, write);
                    if let Some(work) = &mut self.work {
                        work.token = token;
                    }
                    return;
                }
                Step::Done => drop(work.actions.pop_front()),
                Step::Stop => {
                    hub.tell(format!("controller {} stops its plan", self.index));
                    self.work = None;
                    return self.pass_in(hub, RETRY);
                }
            }
        }
    }

    /// The answer to the write under way.
    pub(super) fn wrote(&mut self, hub: &mut Hub, answer: Answer) {
        let Some(work) = &mut self.work else { return };
        let Some(action) = work.actions.front().cloned() else { return };
        if let Action::Recall { lines, .. } = &action
            && let Some(index) = next_job(lines, work.asked)
        {
            // Only a job that we deleted ourselves, unpermitted as we knew it, is taken back. One that
            // is gone already may have begun before somebody deleted it.
            if answer.is_ok() {
                work.recalled.push(index);
                work.pins.remove(&(Kind::Job, lines[index].change.line.device.clone()));
            }
            work.asked = index + 1;
            return self.go_on(hub);
        }
        let is_deletion = matches!(action, Action::DeleteJob { .. } | Action::DeleteSlice { .. });
        let goes_on = match &answer {
            Ok(stored) => {
                let key = (stored.object.kind(), stored.object.name().to_owned());
                if is_deletion {
                    work.pins.remove(&key);
                } else {
                    work.pins.insert(key, stored.clone());
                    self.cache.wrote(stored);
                }
                true
            }
            Err(refusal) => match &action {
                Action::CreateJob(_) | Action::DeleteJob { .. } | Action::DeleteSlice { .. } => {
                    true
                }
                Action::WriteGroupStatus { .. }
                | Action::WriteQuarantine { .. }
                | Action::WriteWindowStatus { .. }
                | Action::WriteRollbackStatus { .. }
                | Action::CreateHold { .. } => true,
                Action::CreateSlice(new) => is_same_list(refusal, new),
                _ => false,
            },
        };
        if let (Action::CreateJob(new), Err(refusal)) = (&action, &answer)
            && !is_same_grant(refusal, new)
        {
            hub.tell(format!("the job of {} is in the way", new.device));
        }
        if let (Action::RecordLines { slice, cause, changes }, Ok(_)) = (&action, &answer) {
            let devices: Vec<&str> =
                changes.iter().map(|change| change.line.device.as_str()).collect();
            self.note_grants(slice, *cause, &devices);
        }
        if !goes_on {
            hub.tell(format!("controller {} stops its plan: {answer:?}", self.index));
            self.work = None;
            return self.pass_in(hub, RETRY);
        }
        if let Some(work) = &mut self.work {
            work.actions.pop_front();
            (work.recalled, work.asked) = (Vec::new(), 0);
        }
        self.go_on(hub);
    }
}

/// The next line of a recall whose job must be deleted; lines without one are taken back with the
/// others.
fn next_job(lines: &[RecallLine], asked: usize) -> Option<usize> {
    (asked..lines.len()).find(|&index| lines[index].job_attempt.is_some())
}

fn grant(new: &NewJob) -> GrantId {
    GrantId {
        rollout_uid: new.rollout.uid.clone(),
        device: new.device.clone(),
        attempt: new.attempt,
    }
}

fn is_same_list(refusal: &Refusal, new: &NewSlice) -> bool {
    let Refusal::Exists(stored) = refusal else { return false };
    stored.object.slice().is_some_and(|slice| slice.spec.freeze_id == new.freeze_id)
}

/// The write that an action asks for next.
fn step(action: &Action, work: &Work) -> Step {
    let pin = |kind: Kind, name: &str| work.pins.get(&(kind, name.to_owned()));
    match action {
        Action::AddFinalizer(id) => with_rollout(pin(Kind::Rollout, &id.name), id, |rollout| {
            let all = rollout.metadata.finalizers.get_or_insert_default();
            all.push(names::FINALIZER.to_owned());
        }),
        Action::RemoveFinalizer(id) => with_rollout(pin(Kind::Rollout, &id.name), id, |rollout| {
            rollout.metadata.finalizers = None;
        }),
        Action::WriteStatus { rollout: id, status } => {
            with_rollout(pin(Kind::Rollout, &id.name), id, |rollout| {
                rollout.status = Some((**status).clone());
            })
        }
        Action::CreateSlice(new) => Step::Send(Write::Create(slice(new).into())),
        Action::DeleteSlice { name } => delete(Kind::Slice, name, pin(Kind::Slice, name)),
        Action::OpenBatch { expected_sequence, batch } => {
            let Some(stored) = pin(Kind::Ledger, names::LEDGER_NAME) else { return Step::Stop };
            let Some(ledger) = stored.object.ledger() else { return Step::Stop };
            let mut ledger = (**ledger).clone();
            let status = ledger.status.get_or_insert_default();
            if status.sequence != *expected_sequence {
                return Step::Stop;
            }
            status.sequence = batch.sequence;
            status.batch = Some(batch.clone());
            replace(stored, ledger.into())
        }
        Action::RecordLines { slice, changes, .. } => {
            let changes = changes.iter().map(|change| (change.index, &change.line));
            record(pin(Kind::Slice, slice), changes)
        }
        Action::Recall { slice, lines } => {
            if let Some(index) = next_job(lines, work.asked) {
                let device = &lines[index].change.line.device;
                let wanted = lines[index].job_attempt;
                let job = pin(Kind::Job, device)
                    .filter(|job| job.object.job().map(|job| job.spec.attempt) == wanted);
                return delete(Kind::Job, device, job);
            }
            let gone = |index: &usize| {
                lines[*index].job_attempt.is_none() || work.recalled.contains(index)
            };
            let gone = (0..lines.len()).filter(gone).map(|index| &lines[index].change);
            let changes: Vec<_> = gone.map(|change| (change.index, &change.line)).collect();
            if changes.is_empty() {
                return Step::Done;
            }
            record(pin(Kind::Slice, slice), changes.into_iter())
        }
        Action::CreateJob(new) => Step::Send(Write::Create(job(new).into())),
        Action::DeleteJob { device, attempt, rollout_uid, .. } => {
            let is_it = |stored: &&Stored| {
                stored.object.job().is_some_and(|job| {
                    job.spec.attempt == *attempt && job.spec.rollout_uid == *rollout_uid
                })
            };
            match pin(Kind::Job, device).filter(is_it) {
                Some(stored) => delete(Kind::Job, device, Some(stored)),
                None => Step::Done,
            }
        }
        Action::CreateHold { name, spec, .. } => {
            Step::Send(Write::Create(UpdateHold::new(name, (**spec).clone()).into()))
        }
        Action::WriteQuarantine { device, quarantined, reason, message, since } => {
            let Some(stored) = pin(Kind::Device, device) else { return Step::Done };
            let Some(object) = stored.object.device() else { return Step::Done };
            let mut object = (**object).clone();
            let list = &mut object.status.get_or_insert_default().conditions;
            let truth = (*quarantined).into();
            conditions::clear(list, conditions::QUARANTINED);
            conditions::set(list, conditions::QUARANTINED, truth, *reason, message, None, *since);
            replace(stored, object.into())
        }
        Action::WriteGroupStatus { group, status } => {
            let Some(stored) = pin(Kind::Group, group) else { return Step::Done };
            let Some(object) = stored.object.group() else { return Step::Done };
            let mut object = (**object).clone();
            object.status = Some(status.clone());
            replace(stored, object.into())
        }
        // The simulator has no windows, no orders and no approvals of people.
        Action::WriteWindowStatus { .. }
        | Action::WriteRollbackStatus { .. }
        | Action::ConfirmApproval(_)
        | Action::CreateApproval(_)
        | Action::WriteApprovalStatus { .. }
        | Action::DeleteApproval { .. }
        | Action::Emit(_) => Step::Done,
    }
}

fn replace(stored: &Stored, object: Object) -> Step {
    Step::Send(Write::Replace { uid: stored.uid.clone(), version: stored.version, object })
}

fn delete(kind: Kind, name: &str, stored: Option<&Stored>) -> Step {
    let Some(stored) = stored else { return Step::Stop };
    Step::Send(Write::Delete {
        key: (kind, name.to_owned()),
        uid: stored.uid.clone(),
        version: Some(stored.version),
    })
}

fn with_rollout(
    stored: Option<&Stored>,
    id: &RolloutRef,
    change: impl FnOnce(&mut PatchRollout),
) -> Step {
    let Some(stored) = stored.filter(|stored| stored.uid == id.uid) else { return Step::Stop };
    let Some(rollout) = stored.object.rollout() else { return Step::Stop };
    let mut rollout = (**rollout).clone();
    change(&mut rollout);
    replace(stored, rollout.into())
}

fn record<'a>(
    stored: Option<&Stored>,
    changes: impl Iterator<Item = (usize, &'a SliceLine)>,
) -> Step {
    let Some(stored) = stored else { return Step::Stop };
    let Some(slice) = stored.object.slice() else { return Step::Stop };
    let mut slice = (**slice).clone();
    for (index, line) in changes {
        slice.spec.lines[index] = line.to_string();
    }
    replace(stored, slice.into())
}

fn slice(new: &NewSlice) -> PatchRolloutSlice {
    let spec = PatchRolloutSliceSpec {
        rollout: new.rollout.name.clone(),
        rollout_uid: new.rollout.uid.clone(),
        stage: new.stage.clone(),
        index: new.index,
        of: new.of,
        freeze_id: new.freeze_id.clone(),
        lines: new.lines.iter().map(SliceLine::to_string).collect(),
    };
    PatchRolloutSlice::new(&new.name, spec)
}

fn job(new: &NewJob) -> PatchJob {
    let spec = PatchJobSpec {
        sealed: SealedBytes {
            payload: seal::payload(new),
            signature: String::new(),
            key_id: String::new(),
            certificate: String::new(),
        },
        rollout: new.rollout.name.clone(),
        rollout_uid: new.rollout.uid.clone(),
        stage: new.stage.clone(),
        slice: new.slice.clone(),
        enrolment_id: new.enrolment_id.clone(),
        attempt: new.attempt,
        sequence: new.sequence,
        action: new.action,
        kbs: new.updates.iter().map(|update| update.kb.to_string()).collect(),
        start_by: new.start_by,
        finish_by: new.finish_by,
        autonomous_rollback: new.autonomy.sentence(),
    };
    let mut job = PatchJob::new(&new.device, spec);
    if new.repaired {
        let annotations = job.metadata.annotations.get_or_insert_default();
        annotations.insert(names::REPAIRED_ANNOTATION.to_owned(), "true".to_owned());
    }
    job
}
