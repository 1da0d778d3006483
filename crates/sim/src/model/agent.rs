//! An agent of the model, in as many steps as matter to the cluster: it takes a job up, asks before
//! each irreversible step, begins, ends, and answers. The real one has its own tests; what is kept of
//! it here is which jobs it refuses, what it does with each answer, and that it answers again instead
//! of running again.

use wardring_api::PermitStep;
use wardring_planner::{JobOutcome, PermitVerdict};

use super::{
    Tenant,
    cluster::{minutes, outcome, wall},
    flaw::Flaw,
    state::{Agent, Asked, Done, OutcomeWord, Phase, State, Task},
};

impl Agent {
    fn end(&mut self, task: Task, result: OutcomeWord) {
        let Task { attempt, sequence, .. } = task;
        self.task = None;
        self.restarts = 0;
        self.done.push(Done { attempt, sequence, result });
    }

    /// Ends a job that did not come to its end: it failed if it had begun.
    fn stop(&mut self, task: Task) {
        let begun = !matches!(
            task.phase,
            Phase::Needs(PermitStep::Install) | Phase::Asked(PermitStep::Install, _)
        );
        self.end(task, if begun { OutcomeWord::Failed } else { OutcomeWord::NotStarted });
    }

    /// Whether something irreversible is under way, or was begun and is not over.
    pub fn is_at_work(&self) -> bool {
        self.task.is_some_and(|task| {
            !matches!(
                task.phase,
                Phase::Needs(PermitStep::Install) | Phase::Asked(PermitStep::Install, _)
            )
        })
    }

    /// Whether the device really has its update.
    pub fn is_proven(&self) -> bool {
        self.done.iter().any(|done| done.result == OutcomeWord::Succeeded)
    }
}

impl Tenant {
    /// The job that the agent would take up, if it asked for one.
    pub fn offered(&self, state: &State, device: usize) -> Option<Task> {
        let agent = &state.agents[device];
        let job = state.api.jobs[device].as_ref()?;
        let is_answered = job.outcome != JobOutcome::None;
        let is_known = agent.task.is_some_and(|task| task.attempt == job.attempt)
            || agent.done.iter().any(|done| done.attempt == job.attempt);
        let is_old = job.sequence <= agent.highest && self.flaw != Some(Flaw::Forgetful);
        let is_busy = agent
            .task
            .is_some_and(|task| matches!(task.phase, Phase::Installing | Phase::Restarting));
        (!is_answered && !is_known && !is_old && !is_busy).then_some(Task {
            attempt: job.attempt,
            sequence: job.sequence,
            start_by: minutes(job.start_by),
            finish_by: minutes(job.finish_by),
            phase: Phase::Needs(PermitStep::Install),
        })
    }

    /// The agent takes a job up; one that it was waiting with ends.
    pub fn take_up(&self, state: &mut State, device: usize) {
        let Some(task) = self.offered(state, device) else { return };
        let agent = &mut state.agents[device];
        if let Some(old) = agent.task {
            agent.stop(old);
        }
        agent.highest = agent.highest.max(task.sequence);
        agent.task = Some(task);
    }

    /// What the agent needs a permit for.
    pub fn needs(&self, state: &State, device: usize) -> Option<Asked> {
        let agent = &state.agents[device];
        let task = agent.task?;
        let Phase::Needs(step) = task.phase else { return None };
        let (attempt, highest) = (task.attempt, agent.highest);
        Some(Asked { device: device as u8, attempt, step, highest })
    }

    /// Whether the agent's own clock ends the job before it asks for anything.
    pub fn is_out_of_time(&self, state: &State, asked: &Asked) -> bool {
        let task = state.agents[usize::from(asked.device)].task;
        let begun = asked.step != PermitStep::Install;
        task.is_some_and(|task| (!begun && state.now > task.start_by) || state.now > task.finish_by)
    }

    /// The agent ends the job it has no time left for.
    pub fn gives_up(&self, state: &mut State, asked: Asked) {
        let agent = &mut state.agents[usize::from(asked.device)];
        if let Some(task) = agent.task {
            agent.stop(task);
        }
    }

    /// The agent hears the answer to what it asked for in the minute `asked_at`.
    pub fn hears(&self, state: &mut State, asked: Asked, asked_at: u32, verdict: &PermitVerdict) {
        let is_late = state.now != asked_at && self.flaw != Some(Flaw::LatePermit);
        let agent = &mut state.agents[usize::from(asked.device)];
        let Some(task) = agent.task.filter(|task| task.attempt == asked.attempt) else { return };
        let begun = asked.step != PermitStep::Install;
        match verdict {
            PermitVerdict::Granted { .. } if is_late => {
                agent.task = Some(Task { phase: Phase::Needs(asked.step), ..task });
            }
            PermitVerdict::Granted { .. } => self.begin(state, asked),
            PermitVerdict::Ended { reason, .. }
                if !(begun && *reason == wardring_api::reasons::Reason::NoSuchJob) =>
            {
                agent.stop(task);
            }
            // It asks again: where the job is still wanted it is made again.
            PermitVerdict::Refused { .. } | PermitVerdict::Ended { .. } => {
                agent.task = Some(Task { phase: Phase::Needs(asked.step), ..task });
            }
        }
    }

    /// Something irreversible begins.
    fn begin(&self, state: &mut State, asked: Asked) {
        let device = usize::from(asked.device);
        self.begins(state, device, asked.step);
        let agent = &mut state.agents[device];
        let Some(task) = &mut agent.task else { return };
        match asked.step {
            PermitStep::Reboot => {
                task.phase = Phase::Restarting;
                agent.restarts += 1;
            }
            PermitStep::Install | PermitStep::Uninstall => {
                task.phase = Phase::Installing;
                agent.installs += 1;
            }
        }
        self.under_way(state, device);
    }

    /// What is under way on the device comes to its end.
    pub fn ends(&self, state: &mut State, device: usize, failed: bool) {
        let agent = &mut state.agents[device];
        let Some(task) = &mut agent.task else { return };
        match task.phase {
            Phase::Installing if self.size.restarts && !failed => {
                task.phase = Phase::Needs(PermitStep::Reboot);
            }
            Phase::Installing | Phase::Restarting => {
                let task = *task;
                let result = if failed { OutcomeWord::Failed } else { OutcomeWord::Succeeded };
                agent.end(task, result);
            }
            Phase::Needs(_) | Phase::Asked(..) => {}
        }
    }

    /// The answer that the agent has for the job that is there, if it is not recorded.
    pub fn answer(&self, state: &State, device: usize) -> Option<Done> {
        let job = state.api.jobs[device].as_ref()?;
        if job.outcome != JobOutcome::None {
            return None;
        }
        state.agents[device].done.iter().find(|done| done.attempt == job.attempt).copied()
    }

    /// The answer is recorded in the job.
    pub fn report(&self, state: &mut State, device: usize) {
        let Some(done) = self.answer(state, device) else { return };
        let now = wall(state.now);
        let restarts = self.size.restarts && done.result == OutcomeWord::Succeeded;
        self.change_job(state, device as u8, |view| {
            view.outcome = JobOutcome::Verified(outcome(view, &done, restarts));
            view.updated_at = Some(now);
        });
        if self.flaw == Some(Flaw::Forgetful) {
            state.agents[device].done.clear();
        }
    }
}
