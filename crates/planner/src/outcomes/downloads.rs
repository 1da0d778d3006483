//! What became of a grant to download ahead. Every end leads back to where the line came from: a download
//! proves nothing, and one that failed is no failure of the patch.

use wardring_api::{JobAction, LineState, reasons::Reason};

use super::{Facts, Turn, answer, is_released};
use crate::{
    DeviceRow, GrantId, JobOutcome, JobView, Outcome, OutcomeResult, caps::later,
    eligibility::device_hold, line::Line, wake::Wake,
};

impl Facts<'_, '_> {
    pub(super) fn downloading(
        &self,
        line: &Line,
        device: &str,
        enrolment: Option<&str>,
        job: Option<&JobView>,
        wake: &mut Wake,
    ) -> Turn {
        if let Some(outcome) = job.and_then(|job| answer(line, job)) {
            return self.downloaded(line, outcome);
        }
        let is_called_off = !self.downloads
            || self.stop.is_some()
            || self.brakes.hold(line, JobAction::Download, self.scene);
        let row = self.scene.row(line).filter(|row| row.enrolment_id.as_deref() == enrolment);
        let is_kept_back = row.is_some_and(|row| {
            is_released(row, line) || self.is_held(row, line.row as usize, wake)
        });
        if is_called_off || is_kept_back {
            return self.called_off(line);
        }
        // What ends a line that waits ends one that downloads meanwhile.
        match self.waiting(line, None, wake) {
            Turn::Keep => {}
            turn => return turn,
        }
        // Enrolled anew: the job is for a key that is gone.
        let Some(row) = row else { return self.called_off(line) };
        let granted_at = line.at.unwrap_or(self.scene.now);
        let Some(job) = job else { return self.unmade(line, device, wake) };
        let heard = job.updated_at.max(line.at).max(row.online_since);
        let is_silent = !row.is_online()
            && heard.is_some_and(|at| wake.is_due(later(at, self.rules.silence_deadline)));
        let is_late =
            job.state.is_none() && wake.is_due(later(granted_at, self.rules.start_within));
        let is_over = wake.is_due(job.finish_by) || job.outcome == JobOutcome::BadSignature;
        if is_silent || is_late || is_over { self.not_downloaded(line) } else { Turn::Keep }
    }

    /// Whether the device may not be touched any more. There is no permit at which that would be asked.
    fn is_held(&self, row: &DeviceRow, position: usize, wake: &mut Wake) -> bool {
        let table = self.scene.table;
        let hold = device_hold(row, position, self.spec, self.coverage, table, wake);
        // Silence has its own time, and what is fetched takes room.
        hold.is_some_and(|reason| {
            !matches!(reason, Reason::Offline | Reason::NoFacts | Reason::LowDiskSpace)
        })
    }

    /// Without its job: not made yet, refused, or deleted by somebody.
    fn unmade(&self, line: &Line, device: &str, wake: &mut Wake) -> Turn {
        let grant = GrantId {
            rollout_uid: self.uid.to_owned(),
            device: device.to_owned(),
            attempt: line.attempt,
        };
        let granted_at = line.at.unwrap_or(self.scene.now);
        let is_late = wake.is_due(later(granted_at, self.rules.start_within));
        let is_foreign = self.scene.any_job(line).is_some();
        if self.scene.snapshot.uncreated.contains(&grant) && !is_late && !is_foreign {
            return Turn::Keep;
        }
        // It is not made twice: whoever has the first one would take the second for it.
        self.not_downloaded(line)
    }

    pub(super) fn downloaded(&self, line: &Line, outcome: &Outcome) -> Turn {
        match outcome.result {
            // What an earlier job did there is not known any more, and it says so once: agents from before
            // downloads were granted answer the installation that comes next as if nothing were lost.
            OutcomeResult::Failed if outcome.reason == Some(Reason::StateLost) => {
                let tries = line.tries + 1;
                let mut next = Line { action: JobAction::Install, tries, ..*line };
                next.set(LineState::Failed, outcome.reason, self.scene.now);
                Turn::Becomes(next)
            }
            // Nothing to download is as good; what it means, the installation finds.
            OutcomeResult::Succeeded
            | OutcomeResult::AlreadyInstalled
            | OutcomeResult::NotApplicable
            | OutcomeResult::Superseded
            | OutcomeResult::PatchedOutside => {
                let mut next = Line { downloaded: true, ..*line };
                next.set(LineState::Pending, Some(Reason::Downloaded), self.scene.now);
                Turn::Becomes(next)
            }
            OutcomeResult::NotOffered
            | OutcomeResult::PoweredOff
            | OutcomeResult::NotStarted
            | OutcomeResult::Failed
            | OutcomeResult::RevertedByWindows
            | OutcomeResult::RolledBack
            | OutcomeResult::NotReversible
            | OutcomeResult::RollbackFailed => self.not_downloaded(line),
        }
    }

    fn not_downloaded(&self, line: &Line) -> Turn {
        let mut next = *line;
        next.set(LineState::Pending, Some(Reason::DownloadFailed), self.scene.now);
        Turn::Becomes(next)
    }

    /// Nothing irreversible can have begun, so its job goes whatever the device does.
    fn called_off(&self, line: &Line) -> Turn {
        let mut next = *line;
        next.set(LineState::Pending, None, self.scene.now);
        Turn::TakenBack(next, self.scene.own_job(line, self.uid).map(|job| job.attempt))
    }
}
