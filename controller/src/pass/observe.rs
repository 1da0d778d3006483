//! Cache → snapshot: what one pass looks at, with the outcomes verified.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use wardring_api::{names, reasons::Reason};
use wardring_planner::{
    ApprovalPolicy, DeviceRow, Guards, JobOutcome, JobView, LedgerView, Outcome, OutcomeResult,
    Snapshot, Unheard, foreign_sequence,
};
use wardring_seal::{JobKey, OutcomePayload, Signed};

use super::{Desk, Memory, job::action};
use crate::{
    cache::{CachedJob, Namespace, Stored},
    presence::Contact,
};

/// Outcomes that were verified already, by device: a signature is checked once per version.
pub type Verified = BTreeMap<String, (u64, Arc<JobView>)>;

/// The snapshot of `namespace`, or nothing if the cache holds nothing of it.
pub fn observe(
    desk: &Desk,
    namespace: &str,
    memory: &mut Memory,
    terminating: bool,
    approval_policy: ApprovalPolicy,
    now: Timestamp,
) -> Option<Snapshot> {
    let stops = desk.cache.stops(|known| known.views());
    desk.cache.read(namespace, |space| {
        let space = space?;
        let ledger = ledger_view(space);
        let listens = if memory.has_heard { None } else { unheard(desk, namespace, space) };
        memory.has_heard = listens.is_none();
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
                restored_from_backup: foreign(desk, namespace, space),
                unheard: listens,
                namespace_terminating: terminating,
            },
            ledger,
            rollouts: space.rollouts.values().map(|stored| stored.value.clone()).collect(),
            slices: space.slices.values().map(|stored| stored.value.clone()).collect(),
            jobs,
            devices: space.devices.clone(),
            updates: space.updates.values().map(|stored| stored.value.clone()).collect(),
            windows: space.windows.values().map(|stored| stored.value.clone()).collect(),
            stops,
            orders: space.rollbacks.values().map(|stored| stored.value.clone()).collect(),
            approvals: space.approvals.values().map(|stored| stored.value.clone()).collect(),
            approval_policy,
            nonce: format!("{:032x}", rand::random::<u128>()),
            holds: space.holds.values().map(|stored| (*stored.value).clone()).collect(),
            measurements: desk.gates.measurements(namespace),
            uncreated: memory.uncreated.clone(),
            cannot_create: memory.cannot_create.clone(),
            refused_holds: memory
                .refused_holds
                .iter()
                .map(|(name, refusal)| (name.clone(), refusal.refused.clone()))
                .collect(),
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

/// The highest sequence that somebody holds and the ledger never gave: the cluster was restored from
/// an older backup, and nothing may be granted until a person looked at what that lost.
pub fn foreign(desk: &Desk, namespace: &str, space: &Namespace) -> Option<i64> {
    let ledger = space.ledger.as_ref()?;
    let status = ledger.value.status.clone().unwrap_or_default();
    // Jobs and slices that outlived the ledger tell it, and so does our own memory of it.
    let jobs = space.jobs.values().map(|job| job.value.view.sequence).max();
    let lines = space.slices.values().flat_map(|slice| &slice.value.lines);
    let (known, highest) = &space.highest_sequence;
    let remembered = (*known == ledger.uid).then_some(*highest);
    let others = [jobs, lines.map(|line| line.sequence).max(), remembered];
    let above = others.into_iter().flatten().filter(|number| *number > status.sequence);
    let presented = desk.presence.sequences(namespace).into_iter().chain(above);
    foreign_sequence(status.sequence, &status.take_overs, presented)
}

/// Whom this leader has to hear before it can know that the cluster was not restored: every device
/// that is said to be in contact. One that stays silent is waited for until it counts as offline; one
/// that is offline presents its sequence when it comes, and that still tells.
fn unheard(desk: &Desk, namespace: &str, space: &Namespace) -> Option<Unheard> {
    // First, because a roll keeps everybody else out.
    let until = desk.presence.hears_until();
    let roll = desk.presence.roll(namespace);
    silent(space.devices.rows(), |device| roll.contact(&device.name), until)
}

/// Silent devices that a status names.
const NAMED: usize = 3;

fn silent(
    rows: &[Arc<DeviceRow>],
    contact: impl Fn(&DeviceRow) -> Contact,
    until: Option<Timestamp>,
) -> Option<Unheard> {
    let is_awaited = |row: &&Arc<DeviceRow>| {
        row.enrolment_id.is_some() && row.is_online() && contact(row) == Contact::Unknown
    };
    let devices = rows.iter().filter(is_awaited).count();
    let named = rows.iter().filter(is_awaited).take(NAMED);
    let names = named.map(|row| row.name.to_string()).collect();
    // Without a gateway nobody can be heard at all.
    (devices > 0 || until.is_none()).then_some(Unheard { devices, names, until })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Vec<Arc<DeviceRow>> {
        let online = DeviceRow::ready("ws-1", "Windows 11");
        let offline = DeviceRow { online: Some(false), ..DeviceRow::ready("ws-2", "Windows 11") };
        let stranger = DeviceRow { enrolment_id: None, ..DeviceRow::ready("ws-3", "Windows 11") };
        [online, offline, stranger].map(Arc::new).to_vec()
    }

    #[test]
    fn a_new_leader_listens_until_every_device_in_contact_was_heard_or_counts_as_offline() {
        let now = "2026-11-21T02:00:00Z".parse().unwrap();
        let nobody = |_: &DeviceRow| Contact::Unknown;
        assert_eq!(
            silent(&devices(), nobody, Some(now)),
            Some(Unheard { devices: 1, names: vec!["ws-1".to_owned()], until: Some(now) }),
            "the offline and the unenrolled are not waited for"
        );
        assert_eq!(silent(&devices(), |_| Contact::Online { since: now }, Some(now)), None);
        assert_eq!(silent(&devices(), |_| Contact::Offline { since: now }, Some(now)), None);
    }

    #[test]
    fn without_a_gateway_nothing_was_heard() {
        let now = "2026-11-21T02:00:00Z".parse().unwrap();
        let none = Some(Unheard { devices: 0, names: Vec::new(), until: None });
        assert_eq!(silent(&devices(), |_| Contact::Online { since: now }, None), none);
        assert_eq!(silent(&[], |_| Contact::Unknown, None), none);
    }
}
