//! A gateway of the model: the real permit rule on a fresh read, then the permit appended by
//! compare-and-swap, then the answer. A gateway that works does all that at once; the one that
//! stands still may do so between any two of these.

use wardring_api::{JobAction, LineState, PatchRollout, SliceLine};
use wardring_planner::{Circumstances, JobView, PermitFacts, PermitRequest, PermitVerdict, permit};

use super::{
    Tenant,
    cluster::{self, UID, wall},
    flaw::Flaw,
    state::{Asked, Phase, Request, Stand, State, Task},
};

/// Every permit is asked for in the boot before the restart: the model's devices restart once per
/// installation, and need nothing afterwards.
const BOOT: &str = "before";

impl Tenant {
    /// The rule, with the job as it was read and everything else as it is.
    pub fn verdict(&self, state: &State, asked: &Asked, job: Option<&JobView>) -> PermitVerdict {
        let device = usize::from(asked.device);
        let (stage, position) = self.place(device);
        let id = format!("eid-{}", self.names[device]);
        let mut line = state.api.line(stage, position).cloned();
        if self.flaw == Some(Flaw::PermitByJob) {
            line = job.map(|job| SliceLine {
                attempt: job.attempt,
                state: LineState::Granted,
                enrolment_id: Some(id.clone()),
                ..SliceLine::pending(&self.names[device])
            });
        }
        let mut rollout: &PatchRollout = &state.api.rollout;
        let mut old;
        if self.flaw == Some(Flaw::PermitByOldRollout) {
            old = rollout.clone();
            old.status.get_or_insert_default().halted = None;
            rollout = &old;
        }
        let mut deaf;
        if matches!(
            self.flaw,
            Some(Flaw::PermitOutsideWindow | Flaw::PermitPastGates | Flaw::PermitUnapproved)
        ) {
            deaf = rollout.clone();
            self.deafen(&mut deaf);
            rollout = &deaf;
        }
        let windows = match self.flaw {
            Some(Flaw::PermitOutsideWindow) => &[],
            _ => self.windows(&state.api),
        };
        let stops = match self.flaw {
            Some(Flaw::PermitUnderStop) => &[],
            _ => self.stops(&state.api),
        };
        let known = job.map_or(i64::MAX, |job| job.sequence);
        permit(&PermitFacts {
            now: wall(state.now),
            request: PermitRequest {
                rollout_uid: UID,
                enrolment_id: &id,
                attempt: asked.attempt,
                action: JobAction::Install,
                step: asked.step,
                agent_run: "run",
                accepted_in: "run",
                boot_id: BOOT,
            },
            job,
            line: line.as_ref(),
            rollout: Some(rollout),
            device: self.devices.get(&self.names[device]),
            reboots_held_by: None,
            missing_group: None,
            watched_by: None,
            rollbacks_forbidden_by: None,
            rollbacks_asked_by: None,
            order: None,
            group_windows: &[],
            windows,
            stops,
            // Nobody bars an update in these walks.
            holds: &[],
            updates: &[],
            circumstances: Circumstances {
                leader_fresh: state.holder.is_some() || self.flaw == Some(Flaw::PermitUnled),
                restored_from_backup: asked.highest > known,
                ..Circumstances::GOOD
            },
        })
    }

    /// The verdict on what an agent needs, by a gateway that works.
    pub fn asked(&self, state: &State, asked: &Asked) -> PermitVerdict {
        let job = state.api.jobs[usize::from(asked.device)].as_ref();
        self.verdict(state, asked, job.map(|job| &**job))
    }

    /// A gateway that works answers at once.
    pub fn serve(&self, state: &mut State, asked: Asked) {
        let verdict = self.asked(state, &asked);
        if let PermitVerdict::Granted { repeated, .. } = verdict {
            self.permits(state, &asked);
            if !repeated && self.flaw != Some(Flaw::PermitUnrecorded) {
                self.record(state, &asked);
            }
        }
        let now = state.now;
        self.hears(state, asked, now, &verdict);
    }

    fn record(&self, state: &mut State, asked: &Asked) {
        let permit = cluster::permit(asked, state.now, BOOT);
        self.change_job(state, asked.device, |job| job.permitted.push(permit));
    }

    /// A gateway reads the job and stands still.
    pub fn freeze(&self, state: &mut State, asked: Asked) {
        let device = usize::from(asked.device);
        let stand = Stand::ReadJob(state.api.jobs[device].clone(), true);
        state.frozen = Some(Request { asked, stand });
        if let Some(task) = &mut state.agents[device].task {
            task.phase = Phase::Asked(asked.step, state.now);
        }
    }

    /// The agent waits no longer for the gateway that stands still.
    pub fn turn_away(&self, state: &mut State, device: usize) {
        if let Some(task) = &mut state.agents[device].task
            && let Phase::Asked(step, _) = task.phase
        {
            task.phase = Phase::Needs(step);
        }
    }

    /// The gateway that stands still takes its next step.
    pub fn thaw(&self, state: &mut State) {
        let Some(Request { asked, stand }) = state.frozen.take() else { return };
        let again = |stand| Some(Request { asked, stand });
        match stand {
            Stand::ReadJob(job, current) => match self.verdict(state, &asked, job.as_deref()) {
                PermitVerdict::Granted { repeated, .. } => {
                    self.permits(state, &asked);
                    let stand = if repeated { Stand::Recorded } else { Stand::Decided(current) };
                    state.frozen = again(stand);
                }
                verdict => self.tells(state, asked, &verdict),
            },
            Stand::Decided(_) if self.flaw == Some(Flaw::PermitUnrecorded) => {
                state.frozen = again(Stand::Recorded);
            }
            Stand::Decided(true) => {
                self.record(state, &asked);
                state.frozen = again(Stand::Recorded);
            }
            // Changed, deleted, or made anew: it looks again.
            Stand::Decided(false) => {
                let job = state.api.jobs[usize::from(asked.device)].clone();
                state.frozen = again(Stand::ReadJob(job, true));
            }
            Stand::Recorded => {
                let granted = PermitVerdict::Granted { repeated: false, expedited: false };
                self.tells(state, asked, &granted);
            }
        }
    }

    /// An answer reaches an agent, which listens only if it still waits for it.
    fn tells(&self, state: &mut State, asked: Asked, verdict: &PermitVerdict) {
        let task = state.agents[usize::from(asked.device)].task;
        if let Some(Task { attempt, phase: Phase::Asked(step, at), .. }) = task
            && (attempt, step) == (asked.attempt, asked.step)
        {
            self.hears(state, asked, at, verdict);
        }
    }
}
