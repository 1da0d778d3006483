//! Who answers in the place of a gateway: it grants the permits of one job, and takes its reports.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use wardring_protocol::{
    JobAnswer, JobQuery, Mode, PermitAnswer, PermitRequest, Progress, ReportAck, ReportBatch,
    ReportBody, Step,
};
use wardring_seal::{Action, JobKey, OutcomePayload};

use super::Restarts;
use crate::gateway::{Gateway, GatewayError};
use crate::platform::wall_clock;

/// Pause of a job whose restart is left out; the exercise ends before it is over.
const LEFT_OUT_MS: u64 = 3_600_000;

/// The desk of one job.
pub struct Desk {
    key: JobKey,
    restarts: Restarts,
    /// Why the device must not be touched any more, if so.
    forbidden: Box<dyn Fn() -> Option<String> + Send + Sync>,
    progress: Mutex<Option<Progress>>,
    is_over: watch::Sender<bool>,
}

impl Desk {
    /// The desk of the job `key`.
    pub fn new(
        key: JobKey,
        restarts: Restarts,
        forbidden: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Desk {
        let is_over = watch::Sender::new(false);
        Desk { key, restarts, forbidden: Box::new(forbidden), progress: Mutex::default(), is_over }
    }

    /// Resolves when nothing more comes of the job: it ended, or waits for a restart that is left out.
    pub async fn over(&self) {
        let mut is_over = self.is_over.subscribe();
        // The sender lives as long as this.
        let _ = is_over.wait_for(|is_over| *is_over).await;
    }

    /// What its job does.
    pub fn action(&self) -> Action {
        self.key.action
    }

    /// Where the job stood last.
    pub fn progress(&self) -> Option<Progress> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Progress>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self, request: &PermitRequest) -> PermitAnswer {
        let is_of_its_kind = match request.step {
            Step::Install => self.key.action == Action::Install,
            Step::Uninstall => self.key.action == Action::Rollback,
            Step::Reboot => true,
        };
        if request.key != self.key || !is_of_its_kind {
            let message = "this is not the job of the exercise".to_owned();
            return PermitAnswer::Ended { reason: "NotMine".to_owned(), message };
        }
        if let Some(message) = (self.forbidden)() {
            return PermitAnswer::Ended { reason: "Forbidden".to_owned(), message };
        }
        if request.step == Step::Reboot && self.restarts == Restarts::LeftOut {
            self.is_over.send_replace(true);
            return PermitAnswer::Refused {
                reason: "RestartLeftOut".to_owned(),
                message: "restarts are left out of this exercise".to_owned(),
                retry_ms: LEFT_OUT_MS,
            };
        }
        PermitAnswer::Granted
    }
}

impl Gateway for Desk {
    async fn poll(&self, query: &JobQuery) -> Result<JobAnswer, GatewayError> {
        tokio::time::sleep(Duration::from_secs(query.wait)).await;
        // The only job stands in the journal, and it was accepted in this mode.
        Ok(JobAnswer { job: None, mode: Mode::Manage, next_poll_ms: 0, now: wall_clock() })
    }

    async fn permit(&self, request: &PermitRequest) -> Result<PermitAnswer, GatewayError> {
        let answer = self.judge(request);
        tracing::info!(step = ?request.step, ?answer, "a permit was asked for");
        Ok(answer)
    }

    async fn report(&self, batch: &ReportBatch) -> Result<ReportAck, GatewayError> {
        let mut is_over = false;
        for report in &batch.reports {
            match &report.body {
                ReportBody::Progress(progress) if progress.key == self.key => {
                    *self.lock() = Some(progress.clone());
                }
                // The outbox may still hold the end of the job before.
                ReportBody::Outcome(signed) => {
                    is_over |= key_of(&signed.payload) == Some(self.key.clone())
                }
                ReportBody::Progress(_) | ReportBody::Facts(_) => {}
            }
        }
        if is_over {
            self.is_over.send_replace(true);
        }
        let highest = batch.reports.iter().map(|report| report.seq).max().unwrap_or_default();
        Ok(ReportAck { acked_through: highest, highest_seen: highest, retry_ms: 0 })
    }

    async fn is_there(&self) -> bool {
        // It is no witness of the network.
        false
    }
}

/// Whose end an outcome is. It comes from our own journal, so its signature proves nothing more.
fn key_of(payload: &str) -> Option<JobKey> {
    serde_json::from_str::<OutcomePayload>(payload).ok().map(|outcome| outcome.key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(action: Action) -> JobKey {
        let id = "e1".to_owned();
        JobKey { rollout_uid: id.clone(), device_id: id, attempt: 1, action }
    }

    fn request(key: JobKey, step: Step) -> PermitRequest {
        PermitRequest {
            key,
            step,
            boot_id: "b".to_owned(),
            agent_run: "r".to_owned(),
            accepted_in: "r".to_owned(),
            highest_sequence: 1,
            now: wall_clock(),
        }
    }

    #[test]
    fn only_the_steps_of_its_own_job_are_permitted_and_only_as_long_as_the_device_is_nobodys() {
        use Action::{Install, Rollback};
        let desk = |action, forbidden: Option<&str>| {
            let forbidden = forbidden.map(str::to_owned);
            Desk::new(key(action), Restarts::Allowed, move || forbidden.clone())
        };
        let granted = |desk: &Desk, action, step| {
            desk.judge(&request(key(action), step)) == PermitAnswer::Granted
        };
        let install = desk(Install, None);
        assert!(granted(&install, Install, Step::Install));
        assert!(granted(&install, Install, Step::Reboot));
        assert!(!granted(&install, Install, Step::Uninstall));
        let removal = desk(Rollback, None);
        assert!(granted(&removal, Rollback, Step::Uninstall));
        assert!(!granted(&removal, Rollback, Step::Install));
        for step in [Step::Install, Step::Reboot] {
            assert!(!granted(&removal, Install, step), "another job's");
            let taken = desk(Install, Some("an agent was installed"));
            assert!(!granted(&taken, Install, step));
        }
        assert!(!*install.is_over.borrow());
    }

    #[test]
    fn a_restart_that_is_left_out_ends_the_exercise_there() {
        let desk = Desk::new(key(Action::Install), Restarts::LeftOut, || None);
        let asked = |step| desk.judge(&request(key(Action::Install), step));
        assert_eq!(asked(Step::Install), PermitAnswer::Granted);
        assert!(!*desk.is_over.borrow());
        assert!(matches!(asked(Step::Reboot), PermitAnswer::Refused { .. }));
        assert!(*desk.is_over.borrow());
    }
}
