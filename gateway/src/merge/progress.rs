//! Progress, outcomes and permits → PatchJob status.

use std::time::Duration;

use jiff::Timestamp;
use wardring_api::{
    BootKind, BootRecord, JobState, PatchJobStatus, Permit, PermitStep, SignedBytes, UpdateResult,
    conditions::clip,
};
use wardring_protocol::Signed;

use super::{ProgressReport, facts::parse};
use crate::runs::{Runs, Sighting};

/// Permits remembered; the schema's limit.
const MAX_PERMITS: usize = 8;
const MAX_BOOTS: usize = 8;
const MAX_RUNS: usize = 8;

/// Takes in progress of `attempt`, unless newer progress is there.
pub fn apply_progress(status: &mut PatchJobStatus, attempt: u32, report: &ProgressReport) {
    begin(status, attempt);
    let Ok(seq) = i64::try_from(report.seq) else { return };
    if status.report_seq.is_some_and(|newest| newest >= seq) {
        return;
    }
    let progress = &report.progress;
    status.report_seq = Some(seq);
    // Progress waits for its turn to be written. The instant of the write would make a device that is
    // silent by then look alive.
    status.updated_at = status.updated_at.max(Some(report.heard));
    status.message = Some(clip(&progress.message, 512)).filter(|text| !text.is_empty());
    status.updates = progress
        .updates
        .iter()
        .take(64)
        .map(|update| UpdateResult {
            kb: update.kb.clone(),
            operation_result_code: update.operation_result_code,
            hresult: update.hresult.clone(),
            name: update.name.as_deref().map(|name| clip(name, 128)),
            reboot_required: update.reboot_required,
        })
        .collect();
    let skip = progress.boots.len().saturating_sub(MAX_BOOTS);
    status.boots = progress
        .boots
        .iter()
        .skip(skip)
        .map(|boot| BootRecord {
            boot_id: boot.boot_id.clone(),
            at: boot.at,
            kind: parse(&boot.kind).unwrap_or(BootKind::Unknown),
        })
        .collect();
    status.unhealthy = progress.unhealthy.iter().take(64).cloned().collect();
    status.changes = progress.changes.iter().take(32).cloned().collect();
    if status.outcome.is_none() {
        // A word of a newer agent shows as nothing; keeping the old one would depend on the order.
        status.state = parse(&progress.state);
    }
}

/// Takes in the outcome of `attempt`; the first that is stored stays.
pub fn apply_outcome(status: &mut PatchJobStatus, attempt: u32, signed: &Signed, now: Timestamp) {
    begin(status, attempt);
    if status.outcome.is_some() {
        return;
    }
    status.outcome = Some(SignedBytes {
        payload: signed.payload.clone(),
        signature: signed.signature.clone(),
        certificate: signed.certificate.clone(),
    });
    status.state = Some(JobState::Done);
    status.updated_at = Some(now);
}

/// Appends a permit, and shows what the device is about to do.
pub fn apply_permit(status: &mut PatchJobStatus, permit: Permit) {
    begin(status, permit.attempt);
    if status.outcome.is_none() {
        status.state = Some(match permit.step {
            PermitStep::Install => JobState::Installing,
            PermitStep::Reboot => JobState::Rebooting,
            PermitStep::Uninstall => JobState::Uninstalling,
        });
    }
    status.updated_at = Some(permit.at);
    if status.permitted.len() == MAX_PERMITS {
        // The first says that the device began, which must never be forgotten.
        status.permitted.remove(1);
    }
    status.permitted.push(permit);
}

/// A device that asks for a step and does not get it waits for it: the state a gateway can know even
/// if the progress that said so was lost. Answers whether that is news.
pub fn apply_refused_step(
    status: &mut PatchJobStatus,
    attempt: u32,
    step: PermitStep,
    heard: Timestamp,
) -> bool {
    begin(status, attempt);
    let state = match step {
        PermitStep::Install => JobState::AwaitingInstall,
        PermitStep::Reboot => JobState::AwaitingReboot,
        // There is no state of waiting to uninstall.
        PermitStep::Uninstall => return false,
    };
    let is_news = status.outcome.is_none() && status.state != Some(state);
    if is_news {
        status.state = Some(state);
        status.updated_at = status.updated_at.max(Some(heard));
    }
    is_news
}

/// Takes note of the agent's run, whenever another one spoke last.
pub fn note_run(status: &mut PatchJobStatus, attempt: u32, run: &str) {
    begin(status, attempt);
    if status.runs.last().is_none_or(|last| last != run) {
        if status.runs.len() == MAX_RUNS {
            status.runs.remove(0);
        }
        status.runs.push(run.to_owned());
    }
}

/// What the runs that spoke of this attempt, at any gateway, say about the one that speaks now.
pub fn sighting(status: &PatchJobStatus, attempt: u32, run: &str) -> Sighting {
    let mut runs = Runs::default();
    if status.attempt == Some(attempt) {
        // The objects hold no times; what they hold ends with the attempt.
        for run in &status.runs {
            runs.note(run, Duration::ZERO);
        }
    }
    runs.note(run, Duration::ZERO)
}

/// What is there about an earlier attempt says nothing about this one.
fn begin(status: &mut PatchJobStatus, attempt: u32) {
    if status.attempt != Some(attempt) {
        let permitted = std::mem::take(&mut status.permitted);
        *status = PatchJobStatus { attempt: Some(attempt), permitted, ..Default::default() };
    }
}
