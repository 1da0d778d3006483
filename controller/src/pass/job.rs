//! From the planner's exact wish for a job to the sealed payload and the object around it.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use kube::api::ObjectMeta;
use wardring_api::{
    ActiveHours, ActiveHoursType, AutonomousTrigger, ComponentStorePolicy, HoursOfDay, JobAction,
    PatchJob, PatchJobSpec, ResolvedUpdate, SealedBytes, UpdateKind, UpdateSource, names,
};
use wardring_planner::{self as planner, JobAutonomy, NewJob};
use wardring_seal::{
    self as seal, Action, HealthChecks, JobKey, JobPayload, KeyError, OnUnhealthy, PAYLOAD_VERSION,
    Preflight, RebootRules, StorePolicy, UpdateTarget,
};

use super::checks::{endpoint, hook, probe, unlisted};
use crate::identity::Identity;

/// The object to create for `job`, sealed for its one device.
pub fn sealed_job(
    identity: &Identity,
    namespace: &str,
    job: &NewJob,
) -> Result<PatchJob, KeyError> {
    let sealed = identity.seal(&payload(namespace, job))?;
    let labels = BTreeMap::from([
        (names::ROLLOUT_LABEL.to_owned(), job.rollout.name.clone()),
        (names::ROLLOUT_UID_LABEL.to_owned(), job.rollout.uid.clone()),
        (names::STAGE_LABEL.to_owned(), job.stage.clone()),
    ]);
    let repaired = (names::REPAIRED_ANNOTATION.to_owned(), "true".to_owned());
    let mut object = PatchJob::new(
        &job.device,
        PatchJobSpec {
            sealed: SealedBytes {
                payload: sealed.payload,
                signature: sealed.signature,
                key_id: sealed.key_id,
                certificate: sealed.certificate,
            },
            rollout: job.rollout.name.clone(),
            rollout_uid: job.rollout.uid.clone(),
            stage: job.stage.clone(),
            slice: job.slice.clone(),
            enrolment_id: job.enrolment_id.clone(),
            attempt: job.attempt,
            sequence: job.sequence,
            action: job.action,
            kbs: job.updates.iter().map(|update| update.kb.to_string()).collect(),
            start_by: job.start_by,
            finish_by: job.finish_by,
            autonomous_rollback: job.autonomy.sentence(),
        },
    );
    object.metadata = ObjectMeta {
        name: Some(job.device.clone()),
        labels: Some(labels),
        annotations: job.repaired.then(|| BTreeMap::from([repaired])),
        ..ObjectMeta::default()
    };
    Ok(object)
}

/// Whether an existing job is the very grant that `wanted` asks for.
pub fn is_same_grant(existing: &PatchJob, wanted: &NewJob) -> bool {
    let spec = &existing.spec;
    existing.metadata.deletion_timestamp.is_none()
        && spec.rollout_uid == wanted.rollout.uid
        && spec.attempt == wanted.attempt
        && spec.sequence == wanted.sequence
        && spec.action == wanted.action
        && spec.enrolment_id == wanted.enrolment_id
}

fn payload(namespace: &str, job: &NewJob) -> JobPayload {
    JobPayload {
        version: PAYLOAD_VERSION,
        namespace: namespace.to_owned(),
        device: job.device.clone(),
        rollout: job.rollout.name.clone(),
        stage: job.stage.clone(),
        slice: job.slice.clone(),
        key: JobKey {
            rollout_uid: job.rollout.uid.clone(),
            device_id: job.enrolment_id.clone(),
            attempt: job.attempt,
            action: action(job.action),
        },
        sequence: job.sequence,
        updates: job.updates.iter().map(target).collect(),
        source: match job.source {
            UpdateSource::Default => seal::UpdateSource::Default,
            UpdateSource::Wsus => seal::UpdateSource::Wsus,
            UpdateSource::WindowsUpdate => seal::UpdateSource::WindowsUpdate,
            UpdateSource::MicrosoftUpdate => seal::UpdateSource::MicrosoftUpdate,
        },
        accept_eula: job.accept_eula,
        start_by: job.start_by,
        finish_by: job.finish_by,
        preflight: Preflight {
            reboot_first: job.preflight.reboot_first,
            min_free_disk_gb: job.preflight.min_free_disk_gb,
            require_reversible: job.preflight.require_reversible,
            ignore_attended_boot: job.preflight.ignore_attended_boot,
            ignore_battery: job.preflight.ignore_battery,
            component_store: store_policy(job.preflight.component_store),
            sole_source: job.preflight.sole_source,
        },
        health: HealthChecks {
            services: job.health.services.clone(),
            probes: job.health.probes.iter().map(probe).collect(),
            unlisted: unlisted(job.health.unlisted),
            settle_ms: millis(job.health.settle),
            restart_attempts: job.health.restart_attempts,
            sample_interval_ms: millis(job.health.sample_interval),
        },
        reboot: RebootRules {
            countdown_ms: millis(job.reboot.countdown),
            message: job.reboot.message.clone(),
            stuck_after_ms: millis(job.reboot.stuck_after),
            wait_ms: millis(job.reboot.wait),
            deferrals: job.reboot.deferrals,
            force: job.reboot.force,
            active_hours: job.reboot.active_hours.as_ref().and_then(active_hours),
        },
        on_unhealthy: OnUnhealthy::Report,
        hooks: job.hooks.iter().map(hook).collect(),
        autonomous_rollback: autonomous(&job.autonomy),
    }
}

/// What a damaged component store means, in the words of the seal.
fn store_policy(policy: ComponentStorePolicy) -> StorePolicy {
    match policy {
        ComponentStorePolicy::Block => StorePolicy::Block,
        ComponentStorePolicy::Require => StorePolicy::Require,
        ComponentStorePolicy::Ignore => StorePolicy::Ignore,
    }
}

/// What lets the device roll back by itself, if anything does.
fn autonomous(autonomy: &JobAutonomy) -> Option<seal::AutonomousRollback> {
    let JobAutonomy::Allowed(allowed) = autonomy else { return None };
    let network_lost = planner::network_lost(allowed).map(|(after, rules)| seal::NetworkLost {
        after_ms: millis(after),
        witnesses: rules.witnesses.iter().map(endpoint).collect(),
    });
    Some(seal::AutonomousRollback {
        boot_loop: allowed.triggers.contains(&AutonomousTrigger::BootLoop),
        network_lost,
    })
}

/// Type Fixed without its hours is refused at the door; what came past it waits for no hours.
fn active_hours(hours: &ActiveHours) -> Option<seal::ActiveHours> {
    match hours.kind {
        ActiveHoursType::Device => Some(seal::ActiveHours::Device {}),
        ActiveHoursType::Fixed => {
            let HoursOfDay { start, end } = hours.fixed?;
            Some(seal::ActiveHours::Fixed { start, end })
        }
    }
}

/// The sealed word for an action.
pub fn action(action: JobAction) -> Action {
    match action {
        JobAction::Download => Action::Download,
        JobAction::Install => Action::Install,
        JobAction::Rollback => Action::Rollback,
    }
}

fn target(update: &ResolvedUpdate) -> UpdateTarget {
    UpdateTarget {
        kb: update.kb.to_string(),
        product: update.product.clone(),
        kind: match update.kind {
            UpdateKind::Quality => seal::UpdateKind::Quality,
            UpdateKind::DotNet => seal::UpdateKind::DotNet,
            UpdateKind::ServicingStack => seal::UpdateKind::ServicingStack,
            UpdateKind::Other => seal::UpdateKind::Other,
            UpdateKind::FeatureUpdate => seal::UpdateKind::FeatureUpdate,
            UpdateKind::Driver => seal::UpdateKind::Driver,
            UpdateKind::Definition => seal::UpdateKind::Definition,
        },
        target_build: update.target_build.clone(),
        identities: update.identities.clone(),
        package: update.package.as_ref().map(|package| seal::Package {
            url: package.url.clone(),
            sha256: package.sha256.clone(),
        }),
    }
}

/// Whole milliseconds, as the sealed payload counts; a negative span (which no manifest can write)
/// counts as none.
pub(super) fn millis(span: SignedDuration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use wardring_api::PackageSource;

    use super::*;

    #[test]
    fn what_a_rollout_brings_itself_is_sealed_with_its_address_and_its_content() {
        let source = PackageSource { url: "https://f/1.msu".to_owned(), sha256: "0a".repeat(32) };
        let update = ResolvedUpdate {
            product: "Windows Server 2022".to_owned(),
            kb: "KB5070001".parse().expect("a KB number"),
            kind: UpdateKind::Quality,
            title: None,
            target_build: Some("20348.2800".to_owned()),
            identities: Vec::new(),
            package: Some(source.clone()),
        };
        let sealed = serde_json::to_value(target(&update)).expect("plain data");
        assert_eq!(
            sealed,
            serde_json::json!({
                "kb": "KB5070001", "product": "Windows Server 2022", "kind": "Quality",
                "targetBuild": "20348.2800",
                "package": { "url": source.url, "sha256": source.sha256 },
            })
        );
    }
}
