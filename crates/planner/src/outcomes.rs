//! What became of every grant: verified answers first, then the three clocks (never contacted,
//! silent after start, restarting), then what the API server and people did to devices and jobs.
//!
//! Nothing counts as success here but a verified answer to exactly this grant, from after the boot
//! where one was required. Silence ends as a failure of its own kind, never as nothing.

mod downloads;
mod recalls;

use jiff::{SignedDuration, Timestamp};
use wardring_api::{
    JobAction, LineState, OfflineAction, PatchRolloutSpec, PermitStep, SliceLine, reasons::Reason,
};

use crate::{
    DeviceRow, GrantId, JobOutcome, JobView, NO_PRODUCT, Outcome, OutcomeResult,
    caps::{Rules, later},
    emergency::Brakes,
    freeze, gates,
    halt::stood_still,
    line::{Doing, Line, NONE, doing},
    order,
    resolve::Coverage,
    rollback::Consent,
    validate::{Run, Scene, Stop},
    wake::Wake,
};

/// Grants that one device gets at most without ever beginning, so that an agent that always answers
/// NotStarted ends too.
const MAX_GRANTS: u32 = 100;

/// What a line becomes.
#[derive(Debug)]
enum Turn {
    Keep,
    Becomes(Line),
    /// Taken back: the job with this attempt goes first.
    TakenBack(Line, Option<u32>),
}

/// What decides about the lines of one stage.
struct Facts<'s, 'a> {
    scene: &'s Scene<'a>,
    uid: &'s str,
    stop: Option<Stop>,
    brakes: &'s Brakes<'a>,
    rules: Rules,
    /// When the stage opened, while offline devices' clocks run.
    opened: Option<Timestamp>,
    /// How long the rollout stood still since then, when nobody could begin.
    still: SignedDuration,
    /// Everything waits for a window now: nobody could begin in contact either.
    awaits: bool,
    /// The stage's group is gone: nobody is permitted anything until it is back.
    is_unlimited: bool,
    /// The PatchRollback that is being carried out was deleted.
    withdrawn: bool,
    /// A PatchRollback is being carried out, withdrawn or not.
    ordered: bool,
    /// It waits for a second person.
    unassented: bool,
    consent: &'s Consent,
    /// The rollout has devices download ahead, and no gate of the stage is in the way.
    downloads: bool,
    spec: &'s PatchRolloutSpec,
    coverage: &'s Coverage,
    covers: &'s dyn Fn(u16) -> bool,
}

/// Folds what happened into every frozen line of a run.
pub(crate) fn fold(run: &mut Run<'_>, scene: &Scene<'_>, wake: &mut Wake) {
    let awaits = run.awaits.is_some();
    let withdrawn = order::is_withdrawn(run, scene);
    let ordered = order::is_carried_out(run);
    let unassented = order::assent::is_awaited(run, scene);
    let downloads = run.rollout.spec.predownload.is_some();
    let are_unlimited: Vec<bool> = (0..run.stages.len())
        .map(|position| freeze::missing_group(run, position, scene).is_some())
        .collect();
    let Run { id, stop, stages, status, coverage, brakes, rollout, consent, .. } = run;
    let stages = stages.iter_mut().zip(&status.stages).zip(are_unlimited);
    for ((stage, stage_status), is_unlimited) in stages {
        let Some(frozen) = &mut stage.frozen else { continue };
        let facts = Facts {
            scene,
            uid: &id.uid,
            stop: *stop,
            brakes,
            rules: stage.rules,
            opened: stage_status
                .started_at
                .filter(|_| stage_status.state == wardring_api::StageState::Open),
            still: stood_still(stage_status),
            awaits,
            is_unlimited,
            withdrawn,
            ordered,
            unassented,
            consent,
            downloads: downloads && gates::bars_starts(stage.spec, stage_status).is_none(),
            spec: &rollout.spec,
            coverage,
            covers: &|product| coverage.covers(product),
        };
        for index in 0..frozen.lines.len() {
            let line = frozen.lines[index];
            if line.moved || !facts.is_live(&line) {
                continue;
            }
            let record = frozen.record(index);
            match facts.turn(&line, record, wake) {
                // The same answer read again is not news.
                Turn::Becomes(next) if (next.state, next.reason) == (line.state, line.reason) => {}
                Turn::Keep => {}
                Turn::Becomes(next) => {
                    frozen.lines[index] = next;
                    frozen.outcomes.insert(index);
                    frozen.notes.extend(facts.note(&line, &next).map(|note| (index, note)));
                }
                Turn::TakenBack(next, job) => {
                    frozen.lines[index] = next;
                    frozen.recalls.insert(index, job);
                }
            }
        }
    }
}

impl Facts<'_, '_> {
    /// Whether anything can still happen to a line. Most lines of a long run are not.
    fn is_live(&self, line: &Line) -> bool {
        match line.state {
            LineState::Granted
            | LineState::Pending
            | LineState::NotStarted
            | LineState::Unreachable
            | LineState::RollbackFailed => true,
            LineState::Failed | LineState::RevertedByWindows => line.may_try_again(&self.rules),
            _ => false,
        }
    }

    /// What the answer that a line ends badly by says about it.
    fn note(&self, line: &Line, next: &Line) -> Option<String> {
        let is_bad = matches!(
            next.state,
            LineState::Failed
                | LineState::RevertedByWindows
                | LineState::RolledBack
                | LineState::NotReversible
                | LineState::RollbackFailed
        );
        let outcome = answer(line, self.scene.own_job(line, self.uid)?)?;
        // A device that was rolled back has nothing left to tell, unless it did so by itself.
        let tells = next.reason == Some(Reason::DownloadFailed)
            || is_bad && (next.state != LineState::RolledBack || next.was_reason.is_some());
        if tells { SliceLine::note_of(&outcome.message) } else { None }
    }

    /// The record is read only where it is needed: it lies in far memory, and most lines just wait.
    fn turn(&self, line: &Line, record: &SliceLine, wake: &mut Wake) -> Turn {
        let enrolment = || record.enrolment_id.as_deref();
        let job = self
            .scene
            .own_job(line, self.uid)
            .filter(|job| enrolment() == Some(job.enrolment_id.as_str()));
        match line.state {
            LineState::Granted => self.granted(line, &record.device, enrolment(), job, wake),
            LineState::Pending if line.is_downloading() => {
                self.downloading(line, &record.device, enrolment(), job, wake)
            }
            LineState::Pending | LineState::NotStarted => self.waiting(line, job, wake),
            LineState::Unreachable | LineState::RollbackFailed => {
                self.mailbox(line, enrolment(), job)
            }
            _ => match self.scene.row(line) {
                Some(_) => Turn::Keep,
                None => self.ends(line, LineState::Failed, Reason::Replaced, None),
            },
        }
    }

    fn granted(
        &self,
        line: &Line,
        device: &str,
        enrolment: Option<&str>,
        job: Option<&JobView>,
        wake: &mut Wake,
    ) -> Turn {
        if let Some(outcome) = job.and_then(|job| answer(line, job)) {
            return self.answered(line, outcome, job);
        }
        let row = self.scene.row(line).filter(|row| row.enrolment_id.as_deref() == enrolment);
        let Some(row) = row else {
            return self.ends(line, bad_end(line), Reason::Replaced, job);
        };
        // A device in contact may act at this moment: its slot is free once it has ended or fell silent.
        if is_released(row, line) && !row.is_online() {
            return self.ends(line, bad_end(line), Reason::Released, job);
        }
        let grant = GrantId {
            rollout_uid: self.uid.to_owned(),
            device: device.to_owned(),
            attempt: line.attempt,
        };
        match job {
            Some(job) if job.may_have_begun() || line.was_remade() => {
                self.begun(line, row, job, wake)
            }
            Some(job) => {
                if self.is_recalled(line) || self.is_kept_back(line, wake) {
                    return self.taken_back(line, None, Some(job.attempt));
                }
                if wake.is_due(job.start_by) {
                    return self.taken_back(line, Some(Reason::StartByPassed), Some(job.attempt));
                }
                Turn::Keep
            }
            None if self.scene.snapshot.cannot_create.contains_key(&grant) => {
                self.ends(line, bad_end(line), Reason::CannotCreate, None)
            }
            None => self.jobless(line, &grant, wake),
        }
    }

    /// A granted line whose job is not there: not made yet, or deleted by somebody.
    fn jobless(&self, line: &Line, grant: &GrantId, wake: &mut Wake) -> Turn {
        let foreign = self.scene.any_job(line).is_some_and(|job| job.rollout_uid != self.uid);
        if foreign {
            return self.taken_back(line, Some(Reason::Busy), None);
        }
        let granted_at = line.at.unwrap_or(self.scene.now);
        if self.scene.snapshot.uncreated.contains(grant) {
            if self.is_recalled(line) || self.is_kept_back(line, wake) {
                return self.taken_back(line, None, None);
            }
            if wake.is_due(later(granted_at, self.rules.start_within)) {
                return self.taken_back(line, Some(Reason::StartByPassed), None);
            }
        }
        if wake.is_due(later(granted_at, self.rules.device_deadline)) {
            return self.ends(line, LineState::Unreachable, Reason::FinishByPassed, None);
        }
        if self.scene.snapshot.uncreated.contains(grant) || line.was_remade() {
            return Turn::Keep;
        }
        // The line says it before the new job is there: a create request that was lost in the network
        // may still land when somebody deletes the new job too, and its job would look untouched.
        Turn::Becomes(Line { reason: Some(Reason::NoSuchJob), moved: true, ..*line })
    }

    /// A grant whose device may have begun: only an answer or a clock ends it.
    fn begun(&self, line: &Line, row: &DeviceRow, job: &JobView, wake: &mut Wake) -> Turn {
        let silent = |reason| self.ends(line, LineState::Unreachable, reason, Some(job));
        let doing = doing(job);
        if let Doing::Rebooting(since) = doing {
            wake.at(later(since, self.rules.reboot_slow_after));
            if wake.is_due(later(since, self.rules.reboot_deadline)) {
                return silent(Reason::NotBack);
            }
        } else if !row.is_online() {
            let permit = job.permitted.iter().map(|permit| permit.at).max();
            let heard = job.updated_at.max(permit).max(line.at).max(row.online_since);
            if let Some(heard) = heard
                && wake.is_due(later(heard, self.rules.silence_deadline))
            {
                return silent(Reason::Unreachable);
            }
        }
        // Held by us or paused on the spot, in contact and waiting for a person: the clock is not the
        // device's.
        let stopped = doing == Doing::AwaitingReboot
            && (matches!(self.stop, Some(Stop::Aborted | Stop::Suspended | Stop::Halted))
                || self.is_unlimited
                || self.brakes.hold(line, line.action, self.scene));
        let held = row.is_online() && (stopped || row.paused.is_some());
        if wake.is_due(job.finish_by) && !held {
            return match job.outcome {
                JobOutcome::BadSignature => {
                    self.ends(line, bad_end(line), Reason::BadSignature, Some(job))
                }
                _ => silent(Reason::FinishByPassed),
            };
        }
        Turn::Keep
    }

    /// A line without a grant.
    fn waiting(&self, line: &Line, job: Option<&JobView>, wake: &mut Wake) -> Turn {
        if let Some(job) = job.filter(|job| job.may_have_begun()) {
            // The grant was taken back and had begun all the same: its answer still counts.
            if let Some(outcome) = answer(line, job) {
                return self.answered(line, outcome, Some(job));
            }
            if wake.is_due(job.finish_by) {
                return self.ends(line, LineState::Unreachable, Reason::FinishByPassed, Some(job));
            }
            return Turn::Keep;
        }
        let (table, position) = (self.scene.table, line.row as usize);
        let is_clear = line.row != NONE && table.is_clear(position);
        let row = self.scene.row(line).filter(|row| is_clear || !row.deleting);
        let Some(row) = row else {
            return self.ends(line, LineState::Failed, Reason::Replaced, None);
        };
        let product = table.product_of(position);
        if product != NO_PRODUCT && !(self.covers)(product) {
            return self.ends(line, LineState::NotApplicable, Reason::NotApplicable, None);
        }
        if self.rules.is_closed && self.stop.is_none() {
            return self.ends(line, LineState::Deferred, Reason::TailClosed, None);
        }
        if line.grants() >= MAX_GRANTS {
            // What it never began for says more than that it never began.
            let reason = line.reason.unwrap_or(Reason::StartByPassed);
            return self.ends(line, LineState::Failed, reason, None);
        }
        let (Some(opened), None, false) = (self.opened, self.stop, table.is_online(position))
        else {
            return Turn::Keep;
        };
        // It could not have begun in contact either.
        if self.awaits || self.brakes.hold(line, JobAction::Install, self.scene) {
            return Turn::Keep;
        }
        let since = row.online_since.map_or(opened, |since| since.max(opened));
        let until = later(later(since, self.still), self.rules.offline_after);
        match self.rules.offline {
            OfflineAction::Wait | OfflineAction::CatchUp => Turn::Keep,
            OfflineAction::Defer if wake.is_due(until) => {
                self.ends(line, LineState::Deferred, Reason::Deferred, None)
            }
            OfflineAction::Fail if wake.is_due(until) => {
                self.ends(line, LineState::Failed, Reason::OfflineTooLong, None)
            }
            OfflineAction::Defer | OfflineAction::Fail => Turn::Keep,
        }
    }

    /// A device that was given up; its job stays as lock and mailbox.
    fn mailbox(&self, line: &Line, enrolment: Option<&str>, job: Option<&JobView>) -> Turn {
        let Some(job) = job else { return Turn::Keep };
        if let Some(outcome) = answer(line, job) {
            match self.answered(line, outcome, Some(job)) {
                // The answer that is recorded already.
                Turn::Becomes(next) if next.state == line.state => {}
                turn => return turn,
            }
        }
        let row = self.scene.row(line).filter(|row| row.enrolment_id.as_deref() == enrolment);
        let reason = match row {
            None => Reason::Replaced,
            Some(row) if is_released(row, line) => Reason::Released,
            Some(_) => return Turn::Keep,
        };
        if line.reason == Some(reason) {
            return Turn::Keep;
        }
        // Still unreachable, and counted as that; only its job goes.
        Turn::Becomes(Line { reason: Some(reason), moved: true, ..*line })
    }

    fn answered(&self, line: &Line, outcome: &Outcome, job: Option<&JobView>) -> Turn {
        match line.action {
            JobAction::Rollback => self.rollback_answered(line, outcome),
            JobAction::Install => self.install_answered(line, outcome, job),
            JobAction::Download => self.downloaded(line, outcome),
        }
    }

    fn install_answered(&self, line: &Line, outcome: &Outcome, job: Option<&JobView>) -> Turn {
        let mut next = *line;
        let reason = outcome.reason;
        let (state, reason) = match outcome.result {
            OutcomeResult::Succeeded if !outcome.started => {
                (LineState::AlreadyInstalled, Some(Reason::AlreadyInstalled))
            }
            OutcomeResult::Succeeded if !is_from_after_the_boot(outcome) => {
                (LineState::Failed, Some(Reason::RebootStuck))
            }
            OutcomeResult::Succeeded => (LineState::Succeeded, None),
            OutcomeResult::AlreadyInstalled => (LineState::AlreadyInstalled, reason),
            OutcomeResult::NotApplicable => (LineState::NotApplicable, reason),
            OutcomeResult::NotOffered => (LineState::NotOffered, reason),
            OutcomeResult::Superseded => (LineState::Superseded, reason),
            OutcomeResult::PatchedOutside => (LineState::PatchedOutside, reason),
            OutcomeResult::PoweredOff if !outcome.started => return self.switched_off(line, job),
            OutcomeResult::PoweredOff => (LineState::PoweredOff, reason),
            // A device that may have begun before and has no attempts left is not asked again.
            OutcomeResult::NotStarted
                if !outcome.started && line.tries < self.rules.max_attempts =>
            {
                next.set(LineState::NotStarted, reason, self.scene.now);
                return Turn::Becomes(next);
            }
            OutcomeResult::NotStarted => (LineState::Failed, Some(Reason::NotStarted)),
            // Somebody on the spot let its time pass: no word about the update, and nothing that other
            // devices should be taken back for.
            OutcomeResult::Failed if reason == Some(Reason::Paused) => {
                (LineState::Unreachable, reason)
            }
            OutcomeResult::Failed => (LineState::Failed, reason.or(Some(Reason::Failed))),
            OutcomeResult::RevertedByWindows => (LineState::RevertedByWindows, reason),
            OutcomeResult::RolledBack => {
                (next.was, next.was_reason) = (Some(LineState::Failed), reason);
                (LineState::RolledBack, None)
            }
            OutcomeResult::NotReversible => (LineState::Failed, Some(Reason::NotReversible)),
            OutcomeResult::RollbackFailed => (LineState::RollbackFailed, reason),
        };
        // A later attempt may only have proven that an earlier one left the device broken.
        let failed_again =
            line.tries > 0 && matches!(state, LineState::Failed | LineState::RevertedByWindows);
        let may_have_begun = line.was_remade() || job.is_some_and(was_permitted_to_install);
        if outcome.started || may_have_begun || failed_again {
            next.tries += 1;
        }
        next.set(state, reason, self.scene.now);
        Turn::Becomes(next)
    }

    /// Somebody had switched the device off, and it began nothing: no word about the update. It begins anew, as
    /// from any other end that came too early, where it may and its stage still takes devices.
    fn switched_off(&self, line: &Line, job: Option<&JobView>) -> Turn {
        // One that was given up as silent counts this attempt already.
        let is_counted = line.state == LineState::Unreachable
            && (line.was_remade() || job.is_some_and(was_permitted_to_install));
        let tries = line.tries.saturating_sub(u32::from(is_counted));
        let mut next = Line { tries, ..*line };
        let takes_devices = !self.rules.is_closed && !self.rules.is_past;
        let (state, reason) = match tries {
            tries if takes_devices && tries < self.rules.max_attempts => {
                (LineState::NotStarted, Some(Reason::PoweredOff))
            }
            0 => (LineState::PoweredOff, Some(Reason::PoweredOff)),
            // What an earlier attempt left is not mended any more.
            _ => (LineState::Failed, line.was_reason.or(Some(Reason::PoweredOff))),
        };
        next.set(state, reason, self.scene.now);
        Turn::Becomes(next)
    }

    fn rollback_answered(&self, line: &Line, outcome: &Outcome) -> Turn {
        let mut next = *line;
        let (state, reason) = match outcome.result {
            OutcomeResult::RolledBack => (LineState::RolledBack, outcome.reason),
            OutcomeResult::NotReversible => (LineState::NotReversible, outcome.reason),
            OutcomeResult::NotStarted if !outcome.started && line.grants() < MAX_GRANTS => {
                let Turn::TakenBack(next, _) =
                    self.taken_back(line, Some(Reason::NotStarted), None)
                else {
                    return Turn::Keep;
                };
                return Turn::Becomes(next);
            }
            _ => (LineState::RollbackFailed, outcome.reason.or(Some(Reason::RollbackFailed))),
        };
        next.set(state, reason, self.scene.now);
        Turn::Becomes(next)
    }

    /// A grant ends without an answer.
    fn ends(&self, line: &Line, state: LineState, reason: Reason, job: Option<&JobView>) -> Turn {
        let mut next = *line;
        if line.state == LineState::Granted
            && line.action == JobAction::Install
            && (line.was_remade() || job.is_none_or(was_permitted_to_install))
        {
            // Without the job nobody can say that nothing began.
            next.tries += 1;
        }
        if line.action == JobAction::Download {
            // What became of the device is told as if it had never downloaded.
            next.action = JobAction::Install;
        }
        next.set(state, Some(reason), self.scene.now);
        Turn::Becomes(next)
    }
}

/// The bad end of a grant that can have no good one any more.
fn bad_end(line: &Line) -> LineState {
    match line.action {
        JobAction::Rollback => LineState::RollbackFailed,
        JobAction::Install | JobAction::Download => LineState::Failed,
    }
}

/// The verified answer to exactly this grant.
fn answer<'a>(line: &Line, job: &'a JobView) -> Option<&'a Outcome> {
    let JobOutcome::Verified(outcome) = &job.outcome else { return None };
    // A repaired job was sealed anew; the agent may answer what it accepted first.
    let sequence =
        outcome.sequence == job.sequence || (job.repaired && outcome.sequence <= job.sequence);
    (outcome.rollout_uid == job.rollout_uid
        && outcome.enrolment_id == job.enrolment_id
        && outcome.attempt == line.attempt
        && outcome.action == line.action
        && job.sequence <= line.sequence
        && sequence)
        .then_some(outcome)
}

/// Whether the success was seen after the restart that the installation asked for.
fn is_from_after_the_boot(outcome: &Outcome) -> bool {
    !outcome.reboot_required
        || (!outcome.boot_id.is_empty()
            && outcome.installed_in_boot.as_ref().is_some_and(|boot| *boot != outcome.boot_id))
}

fn was_permitted_to_install(job: &JobView) -> bool {
    job.repaired || job.permitted.iter().any(|permit| permit.step == PermitStep::Install)
}

/// Whether a person let go of the device after this grant (or after it was given up).
pub(crate) fn is_released(row: &DeviceRow, line: &Line) -> bool {
    match (row.release_requested_at, line.at) {
        (Some(requested), Some(at)) => requested >= at,
        _ => false,
    }
}
