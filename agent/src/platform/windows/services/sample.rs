//! How services stand.

use std::collections::{BTreeMap, BTreeSet};

use wardring_protocol::ServiceFact;

use super::super::registry::LocalMachine;
use super::order::Node;
use super::{is_automatic, is_delayed, needs, start_type, starts_by_trigger};
use crate::ffi::{self, ListedService};
use crate::state::{ServiceSample, ServiceState};

/// A service is stopped, by its own word.
const STOPPED: u32 = 1;

/// Services whose failure after a patch people notice first; reported where they exist, before any
/// job names its own.
const WELL_KNOWN: &[&str] = &[
    "ADWS",
    "BITS",
    "CertSvc",
    "ClusSvc",
    "CryptSvc",
    "DFSR",
    "DHCPServer",
    "DNS",
    "Dnscache",
    "EventLog",
    "Kdc",
    "LanmanServer",
    "LanmanWorkstation",
    "MSExchangeIS",
    "MSSQLSERVER",
    "Netlogon",
    "NTDS",
    "SQLSERVERAGENT",
    "Spooler",
    "TermService",
    "TrustedInstaller",
    "vmms",
    "W32Time",
    "W3SVC",
    "WAS",
    "WinRM",
    "Winmgmt",
    "wuauserv",
];

/// State of a service (Windows documentation, `SERVICE_STATUS_PROCESS`).
pub(super) fn state(state: u32, pid: u32) -> ServiceState {
    match state {
        // A process that was killed may leave its service running in the books.
        4 if pid != 0 && !ffi::process_lives(pid) => ServiceState::Stopped,
        2 => ServiceState::StartPending,
        3 => ServiceState::StopPending,
        4 => ServiceState::Running,
        5..=7 => ServiceState::Paused,
        _ => ServiceState::Stopped,
    }
}

fn find<'a>(listed: &'a [ListedService], name: &str) -> Option<&'a ListedService> {
    listed.iter().find(|service| service.name.eq_ignore_ascii_case(name))
}

/// Looks at services; one that does not exist is `Missing`.
pub(in crate::platform::windows) fn sample(
    names: &[String],
) -> Result<BTreeMap<String, ServiceSample>, String> {
    let listed = ffi::list_services().map_err(|error| error.to_string())?;
    let sample = |name: &String| {
        let sample =
            find(&listed, name).map_or_else(ServiceSample::missing, |service| ServiceSample {
                state: state(service.state, service.pid),
                start: start_type(&LocalMachine, name),
                pid: Some(service.pid).filter(|pid| *pid != 0),
                by_trigger: starts_by_trigger(&LocalMachine, name),
                delayed: is_delayed(&LocalMachine, name),
                // One whose process is gone has said nothing of its end.
                exit: Some(service.exit_code).filter(|_| service.state == STOPPED),
            });
        (name.clone(), sample)
    };
    Ok(names.iter().map(sample).collect())
}

/// Services that run because Windows starts them, and nothing else does.
pub(in crate::platform::windows) fn automatic() -> Result<BTreeSet<String>, String> {
    let listed = ffi::list_services().map_err(|error| error.to_string())?;
    let runs = |service: &&ListedService| {
        state(service.state, service.pid) == ServiceState::Running
            && is_automatic(&LocalMachine, &service.name, service.kind)
    };
    Ok(listed.iter().filter(runs).map(|service| service.name.clone()).collect())
}

/// What a report says about services.
pub(in crate::platform::windows) fn facts() -> Vec<ServiceFact> {
    let listed = ffi::list_services().unwrap_or_else(|error| {
        tracing::warn!(%error, "the service control manager does not answer");
        Vec::new()
    });
    let found = WELL_KNOWN.iter().filter_map(|name| find(&listed, name));
    let fact = |service: &ListedService| ServiceFact {
        name: service.name.clone(),
        state: state(service.state, service.pid).as_str().to_owned(),
    };
    found.map(fact).collect()
}

/// Every service with what it needs.
pub(super) fn all() -> windows::core::Result<BTreeMap<String, Node>> {
    let node = |service: ListedService| {
        let needs = needs(&LocalMachine, &service.name);
        let runs = state(service.state, service.pid) == ServiceState::Running;
        (service.name, Node { needs, runs })
    };
    Ok(ffi::list_services()?.into_iter().map(node).collect())
}
