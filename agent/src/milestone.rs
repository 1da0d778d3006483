//! The few events of an agent's life that an administrator looks for. They stand in the agent's log
//! like everything else; on Windows they stand in the event log as well, under fixed numbers.

use wardring_seal::JobKey;

use crate::state::{JobRun, Phase, State, UpdateState};

/// Target of the log lines that tell of a milestone.
pub const TARGET: &str = "wardring::milestone";

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Milestone {
    /// The agent runs.
    Started,
    /// The agent was told to stop.
    Stopping,
    /// The device has its certificate.
    Enrolled,
    /// A job was taken.
    JobAccepted,
    /// An update was installed, or removed.
    Installed,
    /// A restart was ordered.
    Rebooting,
    /// A job ended.
    Outcome,
    /// The device began to take an update back without a permit.
    RollsBackByItself,
    /// The agent was updated.
    Updated,
    /// An update of the agent was taken back, or not made.
    UpdateTakenBack,
    /// An administrator of the device paused the agent.
    Paused,
    /// The agent goes on after a pause.
    Resumed,
    /// Something was refused that somebody should know of.
    Refused,
}

impl Milestone {
    /// The number in the event log. It never changes: people filter by it.
    pub fn id(self) -> u32 {
        match self {
            Milestone::Started => 1,
            Milestone::Stopping => 2,
            Milestone::Enrolled => 3,
            Milestone::JobAccepted => 10,
            Milestone::Installed => 11,
            Milestone::Rebooting => 12,
            Milestone::Outcome => 13,
            Milestone::RollsBackByItself => 14,
            Milestone::Updated => 15,
            Milestone::UpdateTakenBack => 16,
            Milestone::Paused => 17,
            Milestone::Resumed => 18,
            Milestone::Refused => 20,
        }
    }

    /// Tells of it.
    pub fn tell(self, text: &str) {
        let event = self.id();
        match self {
            Milestone::Refused | Milestone::RollsBackByItself | Milestone::UpdateTakenBack => {
                tracing::error!(target: TARGET, event, "{text}")
            }
            _ => tracing::info!(target: TARGET, event, "{text}"),
        }
    }
}

/// What one step of the state machine means to an administrator.
pub fn passed(before: &State, after: &State) -> Vec<(Milestone, String)> {
    let mut passed = Vec::new();
    match (&before.paused, &after.paused) {
        (was, Some(pause)) if was.as_ref() != Some(pause) => {
            let text = format!("Nothing more is begun: {}.", pause.sentence());
            passed.push((Milestone::Paused, text));
        }
        (Some(_), None) => {
            passed.push((Milestone::Resumed, "The agent is no longer paused.".to_owned()));
        }
        _ => {}
    }
    let is_known = |key: &JobKey| before.finished.iter().any(|outcome| outcome.key == *key);
    for outcome in after.finished.iter().filter(|outcome| !is_known(&outcome.key)) {
        // People know the rollout by its name, which an outcome does not carry.
        let job = before.job.as_ref().filter(|job| job.payload.key == outcome.key);
        let rollout = job.map_or(&outcome.key.rollout_uid, |job| &job.payload.rollout);
        let text = format!(
            "The job of rollout {rollout}, attempt {}, ended as {:?}: {}",
            outcome.key.attempt, outcome.result, outcome.message
        );
        passed.push((Milestone::Outcome, text));
    }
    let Some(job) = &after.job else { return passed };
    let key = &job.payload.key;
    let earlier = before.job.as_ref().filter(|earlier| earlier.payload.key == *key);
    let rollout = &job.payload.rollout;
    if earlier.is_none() {
        let updates: Vec<&str> =
            job.payload.updates.iter().map(|update| update.kb.as_str()).collect();
        let text = format!(
            "A job of rollout {rollout} was accepted: {:?} of {}, attempt {}.",
            key.action,
            updates.join(", "),
            key.attempt
        );
        passed.push((Milestone::JobAccepted, text));
    }
    if let Some(own) = &job.own_rollback
        && earlier.is_none_or(|earlier| earlier.own_rollback.is_none())
    {
        let text = format!(
            "The device takes back by itself what the job of rollout {rollout} installed: {}.",
            own.why
        );
        passed.push((Milestone::RollsBackByItself, text));
    }
    for (index, update) in job.updates.iter().enumerate() {
        let UpdateState::Ended(result) = &update.state else { continue };
        let then = earlier.and_then(|earlier| earlier.updates.get(index)).map(|then| &then.state);
        if then != Some(&UpdateState::Running) {
            continue;
        }
        let done = match (job.is_rollback(), result.is_success()) {
            (true, true) => "was removed".to_owned(),
            (true, false) => format!("was not removed: {}", result.explanation()),
            (false, true) => "was installed".to_owned(),
            (false, false) => format!("was not installed: {}", result.explanation()),
        };
        passed.push((Milestone::Installed, format!("{} {done} (rollout {rollout}).", update.kb)));
    }
    if is_rebooting(job) && !earlier.is_some_and(is_rebooting) {
        passed.push((Milestone::Rebooting, format!("The device restarts for rollout {rollout}.")));
    }
    passed
}

fn is_rebooting(job: &JobRun) -> bool {
    matches!(job.phase, Phase::Rebooting { .. })
}
