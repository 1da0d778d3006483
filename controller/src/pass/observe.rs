//! Cache → snapshot: what one pass looks at, with the outcomes verified.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use wardring_api::{names, reasons::Reason};
use wardring_planner::{Guards, JobOutcome, JobView, LedgerView, Outcome, OutcomeResult, Snapshot};
use wardring_seal::{JobKey, OutcomePayload, Signed};

use super::{Desk, Memory, job::action};
use crate::cache::{CachedJob, Namespace, Stored};

/// Outcomes that were verified already, by device: a signature is checked once per version.
pub type Verified = BTreeMap<String, (u64, Arc<JobView>)>;

/// The snapshot of `namespace`, or nothing if the cache holds nothing of it.
pub fn observe(
    desk: &Desk,
    namespace: &str,
    memory: &mut Memory,
    terminating: bool,
    now: Timestamp,
) -> Option<Snapshot> {
    desk.cache.read(namespace, |space| {
        let space = space?;
        let ledger = ledger_view(space);
        let restored = restored_from_backup(desk, namespace, space, &ledger);
        let mut verified = Verified::new();
        let jobs = space
            .jobs
            .iter()
            .map(|(device, job)| {
                let view = verified_view(desk, namespace, device, job, &memory.verified, now);
                verified.insert(device.clone(), (job.version, view.clone()));
                view
            })
            .collect();
        memory.verified = verified;
        Some(Snapshot {
            namespace: namespace.to_owned(),
            now,
            guards: Guards {
                clock_trusted: desk.clock.is_trusted(),
                restored_from_backup: restored,
                namespace_terminating: terminating,
            },
            ledger,
            rollouts: space.rollouts.values().map(|stored| stored.value.clone()).collect(),
            slices: space.slices.values().map(|stored| stored.value.clone()).collect(),
            jobs,
            devices: space.devices.clone(),
            updates: space.updates.values().map(|stored| stored.value.clone()).collect(),
            holds: space.holds.values().map(|stored| (*stored.value).clone()).collect(),
            uncreated: memory.uncreated.clone(),
            cannot_create: memory.cannot_create.clone(),
        })
    })
}

fn ledger_view(space: &Namespace) -> LedgerView {
    match &space.ledger {
        None => LedgerView::default(),
        Some(stored) => {
            let status = stored.value.status.clone().unwrap_or_default();
            LedgerView { present: true, sequence: status.sequence, batch: status.batch }
        }
    }
}

/// The sequence that a person confirmed after a restore, if the ledger carries one.
pub fn confirmed_sequence(space: &Namespace) -> Option<i64> {
    let annotations = space.ledger.as_ref()?.value.metadata.annotations.as_ref()?;
    annotations.get(names::RESTORE_CONFIRMED_ANNOTATION)?.parse().ok()
}

/// Agents hold sealed jobs with a sequence that the ledger has not reached: it is older than they
/// are. Nothing may be granted until a person looked at what the restore lost.
fn restored_from_backup(
    desk: &Desk,
    namespace: &str,
    space: &Namespace,
    ledger: &LedgerView,
) -> Option<i64> {
    // Jobs and slices that outlived the ledger tell it, too.
    let jobs = space.jobs.values().map(|job| job.value.view.sequence).max().unwrap_or(0);
    let highest = desk.presence.highest_sequence(namespace).max(jobs);
    (ledger.present && highest > ledger.sequence).then_some(highest)
}

fn verified_view(
    desk: &Desk,
    namespace: &str,
    device: &str,
    job: &Stored<CachedJob>,
    known: &Verified,
    now: Timestamp,
) -> Arc<JobView> {
    let Some(signed) = &job.value.signed else { return job.value.view.clone() };
    if let Some((version, view)) = known.get(device)
        && *version == job.version
    {
        return view.clone();
    }
    let view = &job.value.view;
    let granted = JobKey {
        rollout_uid: view.rollout_uid.clone(),
        device_id: view.enrolment_id.clone(),
        attempt: view.attempt,
        action: action(view.action),
    };
    let signed = Signed {
        payload: signed.payload.clone(),
        signature: signed.signature.clone(),
        certificate: signed.certificate.clone(),
    };
    let outcome = match desk.identity.verify_outcome(&signed, namespace, &granted, now) {
        Ok(payload) => verified(view, payload),
        Err(error) => {
            tracing::warn!(namespace, device, %error, "an outcome does not verify and is not counted");
            JobOutcome::BadSignature
        }
    };
    Arc::new(JobView { outcome, ..JobView::clone(view) })
}

fn verified(view: &JobView, payload: OutcomePayload) -> JobOutcome {
    let Some(result) = OutcomeResult::parse(&format!("{:?}", payload.result)) else {
        return JobOutcome::BadSignature;
    };
    JobOutcome::Verified(Outcome {
        rollout_uid: payload.key.rollout_uid,
        enrolment_id: payload.key.device_id,
        attempt: payload.key.attempt,
        action: view.action,
        sequence: payload.sequence,
        result,
        reason: payload.reason.as_deref().and_then(Reason::parse),
        message: payload.message,
        boot_id: payload.boot_id,
        installed_in_boot: payload.installed_in_boot,
        reboot_required: payload.reboot_required,
        started: payload.started,
        build: payload.build,
    })
}
