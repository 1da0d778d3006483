//! Sealed work for test devices.

use jiff::{SignedDuration, Timestamp};
use wardring_seal::{
    Action, HealthChecks, JobKey, JobPayload, OnUnhealthy, PAYLOAD_VERSION, Preflight, RebootRules,
    StorePolicy, UnlistedServices, UpdateKind, UpdateSource, UpdateTarget,
};

use crate::gateway::NAMESPACE;

/// A job for device `srv-1`, with times that suit a test; its attempt is its sequence.
///
/// # Panics
/// The sequence is not a small positive number.
pub fn job(sequence: i64, action: Action) -> JobPayload {
    let later = |hours| Timestamp::now() + SignedDuration::from_hours(hours);
    JobPayload {
        version: PAYLOAD_VERSION,
        namespace: NAMESPACE.to_owned(),
        device: "srv-1".to_owned(),
        rollout: "2026-11".to_owned(),
        stage: "test".to_owned(),
        slice: "2026-11-test-0".to_owned(),
        key: JobKey {
            rollout_uid: "rollout".to_owned(),
            device_id: String::new(),
            attempt: u32::try_from(sequence).expect("tests count from one"),
            action,
        },
        sequence,
        updates: vec![UpdateTarget {
            kb: "KB5068787".to_owned(),
            product: "Windows Server 2022".to_owned(),
            kind: UpdateKind::Quality,
            target_build: Some("20348.2762".to_owned()),
            identities: Vec::new(),
            package: None,
        }],
        source: UpdateSource::Default,
        accept_eula: false,
        start_by: later(1),
        finish_by: later(2),
        preflight: Preflight {
            reboot_first: false,
            min_free_disk_gb: 0,
            require_reversible: false,
            ignore_attended_boot: false,
            ignore_battery: false,
            component_store: StorePolicy::Block,
            sole_source: false,
        },
        health: HealthChecks {
            services: ["MSSQLSERVER", "Spooler", "wuauserv"].map(str::to_owned).to_vec(),
            probes: Vec::new(),
            unlisted: UnlistedServices::Report,
            settle_ms: 20,
            restart_attempts: 2,
            sample_interval_ms: 20,
        },
        reboot: RebootRules {
            countdown_ms: 30,
            message: None,
            stuck_after_ms: 5_000,
            // Wine lists no sessions, and nobody knows who works there.
            wait_ms: 0,
            deferrals: 0,
            force: false,
            active_hours: None,
        },
        on_unhealthy: OnUnhealthy::Report,
        hooks: Vec::new(),
        autonomous_rollback: None,
    }
}
