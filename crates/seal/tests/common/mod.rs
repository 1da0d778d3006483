//! Builders for the tests: a root, an enrolled device, a job and its outcome.
#![allow(dead_code, reason = "every test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use jiff::{SignedDuration, Timestamp};
use wardring_seal::*;

pub const NAMESPACE: &str = "hospital";
pub const ENROLMENT: &str = "00aa11bb22cc33dd";
pub const LIFE: SignedDuration = SignedDuration::from_hours(90 * 24);

pub fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub fn now() -> Timestamp {
    at("2026-03-10T02:00:00Z")
}

pub fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

/// A device with its key and certificate (DER).
pub struct Enrolled {
    pub key: DeviceKey,
    pub certificate: Vec<u8>,
}

pub fn authority() -> Authority {
    Authority::create(now() - days(30)).unwrap()
}

pub fn request(key: &DeviceKey) -> CertificateRequest {
    CertificateRequest::parse(&key.csr("ws-17").unwrap()).unwrap()
}

pub fn enrol(authority: &Authority, namespace: &str, enrolment_id: &str) -> Enrolled {
    let key = DeviceKey::generate().unwrap();
    let certificate = authority
        .issue_device(&request(&key), namespace, enrolment_id, "ws-17", now(), LIFE)
        .unwrap();
    Enrolled { key, certificate }
}

pub fn enrolled(authority: &Authority) -> Enrolled {
    enrol(authority, NAMESPACE, ENROLMENT)
}

pub fn key() -> JobKey {
    JobKey {
        rollout_uid: "4f2c".into(),
        device_id: ENROLMENT.into(),
        attempt: 1,
        action: Action::Install,
    }
}

pub fn recipient() -> Recipient<'static> {
    Recipient { namespace: NAMESPACE, enrolment_id: ENROLMENT }
}

pub fn job() -> JobPayload {
    JobPayload {
        version: PAYLOAD_VERSION,
        namespace: NAMESPACE.into(),
        device: "ws-17".into(),
        rollout: "2026-11".into(),
        stage: "test".into(),
        slice: "2026-11-test-0".into(),
        key: key(),
        sequence: 7,
        updates: vec![UpdateTarget {
            kb: "KB5068787".into(),
            product: "Windows Server 2022".into(),
            kind: UpdateKind::Quality,
            target_build: Some("20348.4405".into()),
            identities: vec![],
            package: None,
        }],
        source: UpdateSource::Default,
        accept_eula: true,
        start_by: now() + SignedDuration::from_hours(4),
        finish_by: now() + SignedDuration::from_hours(8),
        preflight: Preflight {
            reboot_first: false,
            min_free_disk_gb: 10,
            require_reversible: false,
            ignore_attended_boot: false,
            ignore_battery: false,
            component_store: StorePolicy::Block,
            sole_source: false,
        },
        health: HealthChecks {
            services: vec!["MSSQLSERVER".into()],
            probes: Vec::new(),
            unlisted: UnlistedServices::Report,
            settle_ms: 1_000,
            restart_attempts: 3,
            sample_interval_ms: 100,
        },
        reboot: RebootRules {
            countdown_ms: 0,
            message: None,
            stuck_after_ms: 60_000,
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

pub fn outcome() -> OutcomePayload {
    OutcomePayload {
        version: PAYLOAD_VERSION,
        key: key(),
        sequence: 7,
        namespace: NAMESPACE.into(),
        device: "ws-17".into(),
        result: OutcomeResult::Succeeded,
        reason: None,
        message: "installed and proven".into(),
        boot_id: "boot-2".into(),
        installed_in_boot: Some("boot-1".into()),
        reboot_required: true,
        started: true,
        build: "20348.4405".into(),
        reboots: 1,
        at: now(),
    }
}

pub fn claim(key: &DeviceKey, token: Option<&str>) -> EnrolmentClaim {
    EnrolmentClaim {
        version: PAYLOAD_VERSION,
        namespace: NAMESPACE.into(),
        device: "ws-17".into(),
        token: token.map(str::to_owned),
        csr: key.csr("ws-17").unwrap(),
        at: now(),
    }
}

pub fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

pub fn from_base64(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}
