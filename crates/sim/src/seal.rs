//! Sealing and signing without cryptography: who signed stands in the clear. The real seal has its own
//! tests; here a run of a seed must be the same every time, and signatures are not.

use wardring_api::{
    AutonomousTrigger, ComponentStorePolicy, JobAction, PatchJob, UpdateSource as ApiSource,
    reasons::Reason,
};
use wardring_planner::{JobAutonomy, JobOutcome, NewJob, Outcome, OutcomeResult};
use wardring_protocol::{Sealed, Signed};
use wardring_seal::{
    Action, AutonomousRollback, HealthChecks, JobKey, JobPayload, OnUnhealthy, OutcomePayload,
    PAYLOAD_VERSION, Package, Preflight, RebootRules, StorePolicy, UnlistedServices, UpdateKind,
    UpdateSource, UpdateTarget,
};

/// The one namespace of a simulation.
pub const NAMESPACE: &str = "tenant";

/// The payload of a job.
pub fn payload(new: &NewJob) -> String {
    let ms = |span: jiff::SignedDuration| u64::try_from(span.as_millis()).unwrap_or(0);
    let payload = JobPayload {
        version: PAYLOAD_VERSION,
        namespace: NAMESPACE.to_owned(),
        device: new.device.clone(),
        rollout: new.rollout.name.clone(),
        stage: new.stage.clone(),
        slice: new.slice.clone(),
        key: JobKey {
            rollout_uid: new.rollout.uid.clone(),
            device_id: new.enrolment_id.clone(),
            attempt: new.attempt,
            action: action(new.action),
        },
        sequence: new.sequence,
        updates: new
            .updates
            .iter()
            .map(|update| UpdateTarget {
                kb: update.kb.to_string(),
                product: update.product.clone(),
                kind: kind(update.kind),
                target_build: update.target_build.clone(),
                identities: update.identities.clone(),
                package: update.package.as_ref().map(|package| Package {
                    url: package.url.clone(),
                    sha256: package.sha256.clone(),
                }),
            })
            .collect(),
        source: match new.source {
            ApiSource::Default => UpdateSource::Default,
            ApiSource::Wsus => UpdateSource::Wsus,
            ApiSource::WindowsUpdate => UpdateSource::WindowsUpdate,
            ApiSource::MicrosoftUpdate => UpdateSource::MicrosoftUpdate,
        },
        accept_eula: new.accept_eula,
        start_by: new.start_by,
        finish_by: new.finish_by,
        preflight: Preflight {
            reboot_first: new.preflight.reboot_first,
            min_free_disk_gb: new.preflight.min_free_disk_gb,
            require_reversible: new.preflight.require_reversible,
            ignore_attended_boot: new.preflight.ignore_attended_boot,
            ignore_battery: new.preflight.ignore_battery,
            component_store: store_policy(new.preflight.component_store),
            sole_source: new.preflight.sole_source,
        },
        health: HealthChecks {
            services: new.health.services.clone(),
            // The simulated devices have nothing to probe and no hooks.
            probes: Vec::new(),
            unlisted: UnlistedServices::Report,
            settle_ms: ms(new.health.settle),
            restart_attempts: new.health.restart_attempts,
            sample_interval_ms: ms(new.health.sample_interval),
        },
        reboot: RebootRules {
            countdown_ms: ms(new.reboot.countdown),
            message: new.reboot.message.clone(),
            stuck_after_ms: ms(new.reboot.stuck_after),
            wait_ms: ms(new.reboot.wait),
            deferrals: new.reboot.deferrals,
            force: new.reboot.force,
            // The simulated devices have no local time.
            active_hours: None,
        },
        on_unhealthy: OnUnhealthy::Report,
        hooks: Vec::new(),
        autonomous_rollback: match &new.autonomy {
            JobAutonomy::Allowed(allowed) => Some(AutonomousRollback {
                boot_loop: allowed.triggers.contains(&AutonomousTrigger::BootLoop),
                // The simulated devices have no network but their gateways.
                network_lost: None,
            }),
            JobAutonomy::NotAsked | JobAutonomy::Refused(_) => None,
        },
    };
    serde_json::to_string(&payload).expect("a payload is plain data")
}

/// The sealed form that a gateway hands on.
pub fn sealed(job: &PatchJob) -> Sealed {
    Sealed {
        payload: job.spec.sealed.payload.clone(),
        signature: String::new(),
        key_id: String::new(),
        certificate: String::new(),
    }
}

/// The payload, if it is sealed for this device.
pub fn open(sealed: &Sealed, device_id: &str) -> Option<JobPayload> {
    let payload: JobPayload = serde_json::from_str(&sealed.payload).ok()?;
    (payload.key.device_id == device_id && payload.namespace == NAMESPACE).then_some(payload)
}

/// An outcome signed by a device.
pub fn sign(outcome: &OutcomePayload, device_id: &str) -> Signed {
    Signed {
        payload: serde_json::to_string(outcome).expect("an outcome is plain data"),
        signature: format!("signed by {device_id}"),
        certificate: device_id.to_owned(),
    }
}

/// What a job's signed answer proves.
pub fn verified(job: &PatchJob) -> JobOutcome {
    let Some(signed) = job.status.as_ref().and_then(|status| status.outcome.as_ref()) else {
        return JobOutcome::None;
    };
    let outcome: Option<OutcomePayload> = serde_json::from_str(&signed.payload).ok();
    let id = &job.spec.enrolment_id;
    let genuine = outcome.filter(|outcome| {
        signed.signature == format!("signed by {id}")
            && outcome.key.device_id == *id
            && outcome.namespace == NAMESPACE
    });
    let Some(outcome) = genuine else { return JobOutcome::BadSignature };
    let Some(result) = OutcomeResult::parse(&format!("{:?}", outcome.result)) else {
        return JobOutcome::BadSignature;
    };
    JobOutcome::Verified(Outcome {
        rollout_uid: outcome.key.rollout_uid,
        enrolment_id: outcome.key.device_id,
        attempt: outcome.key.attempt,
        action: job_action(outcome.key.action),
        sequence: outcome.sequence,
        result,
        reason: outcome.reason.as_deref().and_then(Reason::parse),
        message: outcome.message,
        boot_id: outcome.boot_id,
        installed_in_boot: outcome.installed_in_boot,
        reboot_required: outcome.reboot_required,
        started: outcome.started,
        build: outcome.build,
    })
}

/// The API's word for an action.
pub fn job_action(action: Action) -> JobAction {
    match action {
        Action::Download => JobAction::Download,
        Action::Install => JobAction::Install,
        Action::Rollback => JobAction::Rollback,
    }
}

fn action(action: JobAction) -> Action {
    match action {
        JobAction::Download => Action::Download,
        JobAction::Install => Action::Install,
        JobAction::Rollback => Action::Rollback,
    }
}

fn kind(kind: wardring_api::UpdateKind) -> UpdateKind {
    use wardring_api::UpdateKind as Api;
    match kind {
        Api::Quality => UpdateKind::Quality,
        Api::DotNet => UpdateKind::DotNet,
        Api::ServicingStack => UpdateKind::ServicingStack,
        Api::Other => UpdateKind::Other,
        Api::FeatureUpdate => UpdateKind::FeatureUpdate,
        Api::Driver => UpdateKind::Driver,
        Api::Definition => UpdateKind::Definition,
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
