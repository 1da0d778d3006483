//! What a support bundle says of Windows. Read only, and without asking Windows Update: the agent
//! may be at work meanwhile.

use serde_json::{Value, json};

use super::pending::{self, Known};
use super::registry::{LocalMachine, number, text};
use super::{computer_name, neighbours};
use crate::ffi;
use crate::service;

const CURRENT_VERSION: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";

/// What speaks against touching the agent itself just now, as a sentence: Windows waits for a restart
/// or is in the middle of servicing, or does not tell.
pub fn unrest() -> Option<String> {
    match pending::servicing(&LocalMachine) {
        Ok(pending::Servicing::AtWork) => {
            return Some("Windows installs or removes something just now".to_owned());
        }
        Err(error) => return Some(format!("Windows does not tell whether it installs: {error}")),
        Ok(_) => {}
    }
    let signs = pending::sources(&LocalMachine, &Known::default()).into_iter();
    let hard: Vec<String> = signs.filter(|sign| sign.hard).map(|sign| sign.source).collect();
    if hard.is_empty() {
        return None;
    }
    Some(format!("Windows waits for a restart ({})", hard.join(", ")))
}

/// Roles of this device, in the API's words.
pub fn roles() -> Vec<String> {
    neighbours::roles(&LocalMachine)
}

/// Who else patches this device, each with the setting to change.
pub fn others() -> Vec<String> {
    neighbours::others(&LocalMachine)
}

/// What is this machine's own and goes with no copy of its disk, where its firmware tells.
pub fn hardware() -> Option<String> {
    super::smbios::hardware(&ffi::firmware_tables())
}

/// Version, signs of a pending restart, neighbours and the state of our service.
pub fn for_support() -> Value {
    let read = |name| text(&LocalMachine, CURRENT_VERSION, name);
    let services = ffi::list_services().unwrap_or_default();
    let own = services.iter().find(|service| service.name.eq_ignore_ascii_case(service::NAME));
    json!({
        "computer": computer_name(),
        "productName": read("ProductName"),
        "displayVersion": read("DisplayVersion"),
        "installationType": read("InstallationType"),
        "build": read("CurrentBuild"),
        "ubr": number(&LocalMachine, CURRENT_VERSION, "UBR"),
        "uptimeMs": ffi::uptime_ms(),
        // What only the running agent knows stands in its log.
        "pendingReboot": pending::sources(&LocalMachine, &Known::default()),
        "roles": roles(),
        "otherPatchSources": neighbours::others(&LocalMachine),
        "service": own.map(|own| json!({ "state": own.state, "pid": own.pid })),
        "services": services.len(),
    })
}
