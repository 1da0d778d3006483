//! Facts → Device status, with its conditions, within 3 KB.

use std::hash::{DefaultHasher, Hasher};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde::de::DeserializeOwned;
use wardring_api::{
    Attendance, ComponentStore, DeviceRole, DeviceStatus, Identity, LastScan, OperatingSystem,
    Paused, PendingRebootSource, ServiceState, ServiceStatus, Startup, UpdateCounts,
    conditions::{self, Truth, clip},
    reasons::Reason,
};
use wardring_protocol::Facts;

use super::health::{health, healthy, shorten};
use super::offered::offered;

/// Largest status, bytes of JSON; lists are cut until it fits.
const MAX_STATUS: usize = 3 * 1024;
/// Older scans say nothing about what is missing now.
const SCAN_IS_FRESH: SignedDuration = SignedDuration::from_hours(48);
const SUCCESS: &str = "0x00000000";

/// Facts with where they come from.
#[derive(Clone, Debug, PartialEq)]
pub struct FactsReport {
    /// Number of the report.
    pub seq: u64,
    /// The facts.
    pub facts: Facts,
    /// Running boot.
    pub boot_id: String,
    /// Enrolment that speaks.
    pub enrolment_id: String,
}

/// The status that facts make of a device with these conditions. Nothing else of the old status
/// survives: facts are everything that is known.
pub fn apply_facts(old: Vec<Condition>, report: &FactsReport, now: Timestamp) -> DeviceStatus {
    let facts = &report.facts;
    let mut status = DeviceStatus {
        conditions: old,
        identity: Some(Identity {
            hostname: clip(&facts.hostname, 63),
            fqdn: facts.fqdn.as_deref().map(|text| clip(text, 253)),
            addresses: facts.addresses.iter().take(8).map(|text| clip(text, 45)).collect(),
            serial: facts.serial.as_deref().map(|text| clip(text, 64)),
            model: facts.model.as_deref().map(|text| clip(text, 64)),
            roles: roles(&facts.roles),
        }),
        os: Some(OperatingSystem {
            product: clip(&facts.product, 128),
            build: clip(&facts.build, 32),
        }),
        agent_version: Some(clip(&facts.agent_version, 32)),
        agent_update_failed: facts.agent_update_failed.as_deref().map(|text| clip(text, 192)),
        boot_id: Some(report.boot_id.clone()),
        last_scan: facts.last_scan.as_ref().map(|scan| LastScan {
            time: conditions::whole_seconds(scan.time),
            source: scan.source.clone(),
            result: scan.result.clone(),
        }),
        updates: Some(UpdateCounts {
            installed: facts.installed_count,
            missing: facts.missing.len() as u32,
            failed: facts.failed.len() as u32,
        }),
        missing: kbs(&facts.missing),
        offered: offered(&facts.offered),
        failed: kbs(&facts.failed),
        pending_reboot: facts
            .pending_reboot
            .iter()
            .take(12)
            .map(|source| PendingRebootSource { source: source.source.clone(), hard: source.hard })
            .collect(),
        startup: facts.startup.as_ref().map(|startup| Startup {
            // A word we do not know is not "nobody".
            attendance: parse(&startup.attendance).unwrap_or(Attendance::Unknown),
            protectors: startup.protectors.iter().take(8).map(|text| clip(text, 64)).collect(),
        }),
        free_disk_gb: facts.free_disk_gb,
        component_store: facts
            .component_store
            .as_deref()
            // A word we do not know is not "healthy".
            .map(|word| parse(word).unwrap_or(ComponentStore::Unknown)),
        paused: facts.pause.as_ref().map(|pause| Paused {
            reason: clip(&pause.reason, 128),
            since: conditions::whole_seconds(pause.since),
            until: pause.until.map(conditions::whole_seconds),
        }),
        services: services(facts),
        health: health(&facts.health, now),
        other_patch_sources: facts
            .other_patch_sources
            .iter()
            .take(8)
            .map(|text| clip(text, 128))
            .collect(),
        report_seq: i64::try_from(report.seq).ok(),
    };
    judge(&mut status, report, now);
    fit(&mut status);
    status
}

/// Whether the scan has grown so old that `UpToDate` must become Unknown although nothing was
/// reported; the status with that, if so.
pub fn judge_age(status: &DeviceStatus, now: Timestamp) -> Option<DeviceStatus> {
    let scan = status.last_scan.as_ref()?;
    let known = status.conditions.iter().find(|c| c.type_ == conditions::UP_TO_DATE)?;
    if known.status == Truth::Unknown.as_str() || now.duration_since(scan.time) <= SCAN_IS_FRESH {
        return None;
    }
    let mut status = status.clone();
    let message = format!("The last search for updates ended at {}.", scan.time);
    set(&mut status, conditions::UP_TO_DATE, Truth::Unknown, Reason::ScanTooOld, &message, now);
    Some(status)
}

/// Hash of everything that facts decide, and of nothing else: equal hashes mean that a write would
/// change nothing that people see. Conditions of other writers, transition times and the number of
/// the report stay out.
pub fn fingerprint(status: &DeviceStatus) -> u64 {
    let mut status = status.clone();
    status.report_seq = None;
    status.conditions.retain(|condition| OWN_CONDITIONS.contains(&condition.type_.as_str()));
    for condition in &mut status.conditions {
        condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
    }
    let bytes = serde_json::to_vec(&status).expect("a status is plain data");
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    hasher.finish()
}

const OWN_CONDITIONS: [&str; 4] = [
    conditions::PENDING_REBOOT,
    conditions::HEALTHY,
    conditions::UP_TO_DATE,
    conditions::SOLE_PATCH_SOURCE,
];

/// Whether these conditions say Quarantined.
pub fn is_quarantined(list: &[Condition]) -> bool {
    conditions::is_true(list, conditions::QUARANTINED)
}

/// Sets Quarantined because two agents run with one key. The message names the enrolment: a new
/// enrolment is the way out, since only one of the two gets it.
pub fn quarantine(list: &mut Vec<Condition>, enrolment_id: &str, now: Timestamp) {
    let message = format!(
        "Two live agents speak with enrolment {enrolment_id}: a copied disk or machine. Find the \
         copy, and enrol one of the two anew."
    );
    let truth = Truth::True;
    conditions::set(list, conditions::QUARANTINED, truth, Reason::TwoAgents, &message, None, now);
}

fn judge(status: &mut DeviceStatus, report: &FactsReport, now: Timestamp) {
    let is_ours = |condition: &Condition| {
        condition.type_ == conditions::QUARANTINED
            && condition.reason == Reason::TwoAgents.as_str()
            && !condition.message.contains(&report.enrolment_id)
    };
    status.conditions.retain(|condition| !is_ours(condition));

    let sources: Vec<_> = status.pending_reboot.iter().map(|source| &*source.source).collect();
    let (truth, reason, message) = if sources.is_empty() {
        let message = "Windows waits for no restart.".to_owned();
        (Truth::False, Reason::NoRestartPending, message)
    } else {
        let message = format!("Windows waits for a restart: {}.", some(&sources));
        (Truth::True, Reason::PendingReboot, message)
    };
    set(status, conditions::PENDING_REBOOT, truth, reason, &message, now);

    let (truth, reason, message) = healthy(&status.health, &report.facts.health);
    set(status, conditions::HEALTHY, truth, reason, &message, now);

    let (truth, reason, message) = up_to_date(status, now);
    set(status, conditions::UP_TO_DATE, truth, reason, &message, now);

    let (truth, reason, message) = if status.other_patch_sources.is_empty() {
        let message = "Nothing else patches this device.".to_owned();
        (Truth::True, Reason::SoleSource, message)
    } else {
        let others: Vec<_> = status.other_patch_sources.iter().map(String::as_str).collect();
        (Truth::False, Reason::PatchAuthority, format!("Also patched by: {}.", some(&others)))
    };
    set(status, conditions::SOLE_PATCH_SOURCE, truth, reason, &message, now);
}

fn up_to_date(status: &DeviceStatus, now: Timestamp) -> (Truth, Reason, String) {
    let Some(scan) = &status.last_scan else {
        let message = "Windows was not asked for updates yet.".to_owned();
        return (Truth::Unknown, Reason::ScanTooOld, message);
    };
    if scan.result != SUCCESS {
        let message = format!("The last search for updates ended with {}.", scan.result);
        return (Truth::Unknown, Reason::ScanFailed, message);
    }
    if now.duration_since(scan.time) > SCAN_IS_FRESH {
        let message = format!("The last search for updates ended at {}.", scan.time);
        return (Truth::Unknown, Reason::ScanTooOld, message);
    }
    let list = |kbs: &[String]| some(&kbs.iter().map(String::as_str).collect::<Vec<_>>());
    if !status.failed.is_empty() {
        let message = format!("Last installation failed: {}.", list(&status.failed));
        return (Truth::False, Reason::UpdatesFailed, message);
    }
    match status.updates {
        Some(UpdateCounts { missing: 1.., .. }) => {
            let message = format!("Offered and not installed: {}.", list(&status.missing));
            (Truth::False, Reason::UpdatesMissing, message)
        }
        _ => (Truth::True, Reason::NothingMissing, "Nothing is missing.".to_owned()),
    }
}

fn set(
    status: &mut DeviceStatus,
    kind: &str,
    truth: Truth,
    reason: Reason,
    message: &str,
    now: Timestamp,
) {
    conditions::set(&mut status.conditions, kind, truth, reason, &clip(message, 200), None, now);
}

/// The first three of a list, and how many more there are.
fn some(list: &[&str]) -> String {
    let shown: Vec<_> = list.iter().take(3).map(|item| clip(item, 48)).collect();
    match list.len().saturating_sub(3) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn kbs(list: &[String]) -> Vec<String> {
    list.iter().filter(|kb| kb.len() <= 10).take(16).cloned().collect()
}

fn roles(words: &[String]) -> Vec<DeviceRole> {
    // A word we do not know is no reason to take the device for one without a role.
    let known = |word: &String| parse(word).unwrap_or(DeviceRole::Unknown);
    let mut roles: Vec<DeviceRole> = words.iter().map(known).collect();
    roles.sort_unstable();
    roles.dedup();
    roles
}

/// Watched services, those that do not run first, so that a cut never hides one of them.
fn services(facts: &Facts) -> Vec<ServiceStatus> {
    let mut services: Vec<_> = facts
        .services
        .iter()
        .map(|service| ServiceStatus {
            name: service.name.clone(),
            // A word we do not know is not "running".
            state: parse(&service.state).unwrap_or(ServiceState::Stopped),
        })
        .collect();
    services.sort_by(|a, b| {
        let runs = |service: &ServiceStatus| service.state == ServiceState::Running;
        runs(a).cmp(&runs(b)).then_with(|| a.name.cmp(&b.name))
    });
    services.dedup_by(|a, b| a.name == b.name);
    services.truncate(32);
    services
}

pub(super) fn parse<T: DeserializeOwned>(word: &str) -> Option<T> {
    serde_json::from_value(serde_json::Value::String(word.to_owned())).ok()
}

fn fit(status: &mut DeviceStatus) {
    let size =
        |status: &DeviceStatus| serde_json::to_vec(status).expect("a status is plain data").len();
    while size(status) > MAX_STATUS {
        let runs = |service: &ServiceStatus| service.state == ServiceState::Running;
        let dropped = match status.services.last() {
            // What is broken stays longest, then what is missing.
            Some(last) if status.offered.is_empty() || runs(last) => {
                status.services.pop().is_some()
            }
            _ => status.offered.pop().is_some(),
        } || status.other_patch_sources.pop().is_some()
            || shorten(&mut status.health)
            || status.pending_reboot.pop().is_some();
        if !dropped {
            return;
        }
    }
}
