//! Which jobs are taken up, and what is answered to the others.

use wardring_protocol::Mode;
use wardring_seal::{Action, JobPayload, OutcomePayload, OutcomeResult};

use super::JobRun;
use super::end::End;
use super::{
    Effect, Move, Phase, Unexpected, UpdateState, autonomous, permits, preflight, rollback,
};

/// People changed what this device may do. A job that has not begun is given back; one that has is
/// left to the permits, because a half-patched device is worse than a patched one.
pub(super) fn mode_set(mv: &mut Move, mode: Mode) {
    mv.state.mode = mode;
    if mode == Mode::Manage {
        return;
    }
    if let Some(job) = mv.state.job.take_if(|job| !job.begun() && !job.phase.is_irreversible()) {
        mv.state.job = mv.finish(job, observing());
    }
}

/// A job arrived, its seal verified.
pub(super) fn offered(mv: &mut Move, payload: JobPayload) -> Result<(), Unexpected> {
    let is_mine = mv.state.me.as_ref().is_some_and(|me| {
        me.device_id == payload.key.device_id && me.namespace == payload.namespace
    });
    if !is_mine {
        let device_id = payload.key.device_id;
        return Err(Unexpected::NotMine { namespace: payload.namespace, device_id });
    }
    let highest = mv.state.highest_sequence;
    // The same grant under a higher sequence: a cluster restored from a backup gave it anew, because
    // it forgot that we have it. Only an answer with the new sequence is counted there.
    let sequence = payload.sequence;
    if let Some(job) = mv.state.job.as_mut().filter(|job| job.payload.key == payload.key) {
        job.payload.sequence = job.payload.sequence.max(sequence);
        mv.state.highest_sequence = highest.max(sequence);
        return Ok(());
    }
    // Answer again instead of running again: our first answer may have been lost.
    if let Some(at) = mv.state.finished.iter().position(|kept| kept.key == payload.key) {
        if sequence > mv.state.finished[at].sequence {
            let result = stands(&mv.state.finished, at);
            mv.state.finished[at] = OutcomePayload { sequence, ..result };
        }
        let answer = mv.state.finished[at].clone();
        mv.effects.push(Effect::Outcome(Box::new(answer)));
        mv.state.highest_sequence = highest.max(sequence);
        return Ok(());
    }
    if payload.sequence <= highest {
        return Err(Unexpected::OldSequence { offered: payload.sequence, highest });
    }
    if let Some(job) = mv.state.job.take_if(|job| !job.phase.is_irreversible()) {
        let sentence = "another job took this one's place";
        let end = End::stopped(&job, "NoSuchJob", sentence);
        // Whoever gives the new job says what is to run before it, too.
        mv.state.job = mv.close(job, end);
    }
    if let Some(job) = &mv.state.job {
        return Err(Unexpected::Busy { phase: job.phase.word() });
    }
    mv.state.highest_sequence = payload.sequence;
    accept(mv, payload);
    Ok(())
}

/// What an outcome comes to when it is asked for under a new sequence. A cluster restored from a backup
/// may have forgotten that what the device once proved was removed since.
fn stands(finished: &[OutcomePayload], at: usize) -> OutcomePayload {
    let answer = &finished[at];
    let removal = finished[at..].iter().rfind(|later| {
        later.key.rollout_uid == answer.key.rollout_uid
            && later.key.action == Action::Rollback
            && later.started
    });
    match removal {
        Some(removal) if answer.result == OutcomeResult::Succeeded => {
            OutcomePayload { key: answer.key.clone(), ..removal.clone() }
        }
        _ => answer.clone(),
    }
}

fn accept(mv: &mut Move, payload: JobPayload) {
    let is_rollback = payload.key.action == Action::Rollback;
    let first =
        if is_rollback { Phase::Surveying { checks: 0 } } else { Phase::Preflight { checks: 0 } };
    let mut job = JobRun::accepted(payload, (mv.now.wall, &mv.state.run), first);
    job.forbidding_role = autonomous::forbidding_role(&mv.state.roles).map(str::to_owned);
    mv.state.job = if mv.state.lost && job.payload.key.action == Action::Download {
        // Whoever asks to install is to hear of it.
        let sentence = "the agent lost its journal; nothing is downloaded before that is known";
        mv.finish(job, End::because(OutcomeResult::NotStarted, "StateLost", sentence))
    } else if mv.state.lost {
        // Whether this job had begun is exactly what was lost: guessing could install twice, and
        // what the device may do now says nothing about what was done on it before.
        mv.state.lost = false;
        let mut job = job;
        for update in &mut job.updates {
            update.state = UpdateState::Running;
        }
        let sentence = "the agent lost its journal and cannot tell what this job has done";
        let end = End::failed(&job, "StateLost", sentence);
        mv.finish(job, end)
    } else if let Some(sentence) = mv.state.refuses.clone() {
        mv.finish(job, End::because(OutcomeResult::NotStarted, "ObserveMode", sentence))
    } else if let Some(end) = permits::barred(mv, &job) {
        mv.finish(job, end)
    } else if is_rollback {
        rollback::begin(mv, job)
    } else if mv.is_restless() {
        let sentence = "the device restarts again and again; nothing new is begun on it";
        mv.finish(job, End::because(OutcomeResult::NotStarted, "BootLoop", sentence))
    } else {
        preflight::begin(mv, job)
    };
}

/// The end of a job on a device that people only let us watch.
pub(super) fn observing() -> End {
    let sentence = "the device is in mode Observe: the agent reports and touches nothing";
    End::because(OutcomeResult::NotStarted, "ObserveMode", sentence)
}
