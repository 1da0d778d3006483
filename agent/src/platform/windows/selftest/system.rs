//! Windows itself: version, rights, boots, events, services, power.

use super::super::boots::{self, Shutdown};
use super::super::registry::{LocalMachine, Registry, number, text};
use super::super::sessions::{active, people};
use super::super::{around, bitlocker, smbios};
use super::{LATER, Listed, SOON, must, refused, told};
use crate::ffi;
use crate::selftest::Finding;
use crate::selftest::Weight::{Assumed, Needed};
use crate::service::fit::OLDEST_BUILD;
use crate::state::{People, Power, Startup};

const CURRENT_VERSION: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
const SESSION_MANAGER: &str = r"SYSTEM\CurrentControlSet\Control\Session Manager";
const SERVICES: &str = r"SYSTEM\CurrentControlSet\Services";

pub(super) const CHECKS: &[Listed] = &[
    Listed(
        Needed,
        "windows-version",
        "this Windows is Windows 10 1607, Server 2016 or newer",
        SOON,
        version,
    ),
    Listed(
        Needed,
        "windows-revision",
        "Windows tells its revision (UBR), which proves a cumulative update",
        SOON,
        revision,
    ),
    Listed(Needed, "rights", "the agent runs with an administrator's rights", SOON, rights),
    Listed(
        Needed,
        "restart-right",
        "the agent may restart the device (SeShutdownPrivilege)",
        SOON,
        restart_right,
    ),
    Listed(
        Needed,
        "services",
        "the service manager lists services with their processes",
        LATER,
        services,
    ),
    Listed(
        Needed,
        "service-triggers",
        "a service that a trigger starts is known by its key TriggerInfo",
        SOON,
        triggers,
    ),
    Listed(Needed, "event-log", "the System log can be read, newest first", LATER, events),
    Listed(
        Needed,
        "boot-events",
        "the beginning of this boot is in the System log (Kernel-General 12 or EventLog 6005)",
        LATER,
        boot_events,
    ),
    Listed(
        Needed,
        "sessions",
        "Windows lists its sessions, so that a restart waits for people and tells them",
        SOON,
        sessions,
    ),
    Listed(Needed, "power", "Windows tells whether the device is plugged in", SOON, power),
    Listed(
        Needed,
        "startup",
        "BitLocker tells whether a person must be there when the device starts",
        LATER,
        startup,
    ),
    Listed(Needed, "disk", "Windows tells how much space is left on its disk", SOON, disk),
    Listed(
        Needed,
        "data-protection",
        "data protection (DPAPI) gives back what it took",
        LATER,
        protection,
    ),
    Listed(Needed, "firmware", "the firmware tells a serial number", SOON, firmware),
    Listed(
        Assumed,
        "boot-id",
        "BootId in the registry is the kernel's number of this boot",
        SOON,
        boot_id,
    ),
    Listed(
        Assumed,
        "session-lock",
        "Windows tells whether the session of a person is locked (WTSSessionInfoEx)",
        SOON,
        session_lock,
    ),
    Listed(
        Assumed,
        "shutdown-event",
        "Kernel-Power 109 stands in the System log for each shutdown, and its ShutdownActionType says \
         whether Windows went down to stay off",
        LATER,
        shutdown_event,
    ),
    Listed(
        Assumed,
        "delayed-start",
        "delayed services start some 120 s after the boot (AutoStartDelay is not set)",
        SOON,
        delayed_start,
    ),
    Listed(
        Assumed,
        "fast-startup",
        "switching off and on is a boot (fast startup is off)",
        SOON,
        fast_startup,
    ),
    Listed(
        Assumed,
        "active-hours",
        "the active hours that people set stand in the registry, below WindowsUpdate",
        SOON,
        active_hours,
    ),
    Listed(
        Assumed,
        "event-messages",
        "EventCreate.exe is there as the source of event texts",
        SOON,
        event_messages,
    ),
];

fn version() -> Finding {
    let build = text(&LocalMachine, CURRENT_VERSION, "CurrentBuild");
    let name = text(&LocalMachine, CURRENT_VERSION, "ProductName").unwrap_or_default();
    match build.as_deref().and_then(|build| build.parse::<u32>().ok()) {
        None => Finding::unknown("CurrentBuild is no number"),
        Some(build) if build >= OLDEST_BUILD => Finding::ok(format!("{name}, build {build}")),
        Some(build) => Finding::differs(format!("{name}, build {build}")),
    }
}

fn revision() -> Finding {
    match number(&LocalMachine, CURRENT_VERSION, "UBR") {
        Some(revision) => Finding::ok(format!("UBR is {revision}")),
        None => Finding::differs(format!(r"there is no number UBR in HKLM\{CURRENT_VERSION}")),
    }
}

fn rights() -> Finding {
    if ffi::look::is_administrator() {
        Finding::ok("IsUserAnAdmin says so")
    } else {
        Finding::unknown("it does not now; the service does. Run this as an administrator")
    }
}

fn restart_right() -> Finding {
    match ffi::look::may_restart() {
        Ok(true) => Finding::ok("the token holds SeShutdownPrivilege"),
        Ok(false) => Finding::differs("the token does not hold SeShutdownPrivilege"),
        Err(error) => refused(&error),
    }
}

fn services() -> Finding {
    match ffi::list_services() {
        Err(error) => refused(&error),
        Ok(list) if list.is_empty() => Finding::differs("the list is empty"),
        Ok(list) => {
            let run = list.iter().filter(|service| service.pid != 0).count();
            let has = |name: &str| list.iter().any(|one| one.name.eq_ignore_ascii_case(name));
            let evidence = format!("{} services, {run} with a process", list.len());
            let missing: Vec<&str> =
                ["wuauserv", "TrustedInstaller"].into_iter().filter(|name| !has(name)).collect();
            match missing.as_slice() {
                [] => Finding::ok(evidence),
                missing => Finding::differs(format!("{evidence}; without {}", missing.join(", "))),
            }
        }
    }
}

fn triggers() -> Finding {
    let path = format!(r"{SERVICES}\wuauserv\TriggerInfo");
    match LocalMachine.has_key(&path) {
        Ok(true) => Finding::ok("wuauserv has it"),
        Ok(false) => Finding::differs("wuauserv, which triggers start, does not have it"),
        Err(error) => Finding::unknown(error.to_string()),
    }
}

fn events() -> Finding {
    match ffi::newest_events("System", "*", 1) {
        Ok(events) if events.is_empty() => Finding::unknown("the log is empty"),
        Ok(_) => Finding::ok("it was read"),
        Err(error) => refused(&error),
    }
}

fn find(query: &str, evidence: &str, absent: &str) -> Finding {
    match ffi::newest_events("System", query, 1) {
        Ok(events) if events.is_empty() => Finding::unknown(absent),
        Ok(_) => Finding::ok(evidence),
        Err(error) => Finding::unknown(format!("the log cannot be read: {}", told(&error))),
    }
}

fn boot_events() -> Finding {
    let query = "*[System[(EventID=12 and Provider[@Name='Microsoft-Windows-Kernel-General']) or \
                 (EventID=6005 and Provider[@Name='EventLog'])]]";
    find(query, "one of them is there", "neither is there; the log may have been cleared")
}

fn shutdown_event() -> Finding {
    let query = "*[System[EventID=109 and Provider[@Name='Microsoft-Windows-Kernel-Power']]]";
    match ffi::newest_events("System", query, 1).as_deref() {
        Ok([]) => Finding::unknown("it is not there; no shutdown may have been recorded yet"),
        Ok([newest, ..]) => match boots::shutdown(newest) {
            Some(Shutdown::ToStayOff) => Finding::ok("the newest one says that it was to stay off"),
            Some(Shutdown::ToRestart) => Finding::ok("the newest one says that it was to restart"),
            None => Finding::differs(
                "the newest one says neither; a device that a person switches off is not told as PoweredOff",
            ),
        },
        Err(error) => Finding::unknown(format!("the log cannot be read: {}", told(error))),
    }
}

fn session_lock() -> Finding {
    let people = || ffi::sessions().map(|sessions| active(&sessions));
    let locks: Result<Vec<_>, _> = people().and_then(|before| {
        let locks: Vec<_> =
            before.into_iter().map(|session| (session, ffi::lock(session))).collect();
        // Who logged off meanwhile has no lock.
        let now = people()?;
        locks
            .into_iter()
            .filter_map(|(session, lock)| now.contains(&session).then_some(lock))
            .collect()
    });
    match locks.as_deref() {
        Ok([]) => Finding::unknown("nobody is logged on; run it where somebody is"),
        Ok(locks) if locks.iter().all(|lock| matches!(lock, Some(0 | 1))) => {
            let unlocked = locks.iter().filter(|lock| **lock == Some(1)).count();
            Finding::ok(format!("{unlocked} of {} sessions are unlocked", locks.len()))
        }
        Ok(_) => {
            Finding::differs("it does not know it of all; those are not asked about a restart")
        }
        Err(error) => refused(error),
    }
}

fn sessions() -> Finding {
    match ffi::sessions().map(|sessions| people(&sessions)) {
        Ok(None) => Finding::differs(
            "the list is empty; every Windows has the session of its services. Restarts wait for \
             people until their deadline",
        ),
        Ok(Some(People { active, disconnected })) => Finding::ok(format!(
            "{active} people are active, {disconnected} sessions are left open"
        )),
        Err(error) => refused(&error),
    }
}

fn power() -> Finding {
    match ffi::power_status().map(around::power) {
        Ok(Power::PluggedIn) => Finding::ok("plugged in, or without a battery"),
        Ok(Power::Battery(Some(percent))) => Finding::ok(format!("on battery, {percent} %")),
        Ok(Power::Battery(None)) => Finding::ok("on battery"),
        Ok(Power::Unknown) => Finding::unknown("it does not know; nothing is begun on it"),
        Err(error) => refused(&error),
    }
}

fn startup() -> Finding {
    match bitlocker::ask() {
        Startup::Unattended => Finding::ok("it starts without a person"),
        Startup::Attended(kinds) => {
            Finding::ok(format!("it waits for a person at every start: {}", kinds.join(", ")))
        }
        Startup::Unknown(why) => Finding::unknown(why),
        Startup::Unseen => Finding::unknown("nobody looked"),
    }
}

fn active_hours() -> Finding {
    let path = r"SOFTWARE\Microsoft\WindowsUpdate\UX\Settings";
    let (start, end) = around::active_hours(&LocalMachine);
    let evidence =
        format!("from {start:02}:00 to {end:02}:00; it is {:02} o'clock", ffi::local_hour());
    match number(&LocalMachine, path, "ActiveHoursStart") {
        Some(_) => Finding::ok(evidence),
        None => Finding::unknown(format!("HKLM\\{path} holds none; taken are those {evidence}")),
    }
}

fn disk() -> Finding {
    let free = ffi::system_folder().and_then(|folder| ffi::free_bytes(&folder));
    must(free, |bytes| format!("{} GB are free", bytes >> 30))
}

fn protection() -> Finding {
    let plain = b"Wardring selftest";
    match ffi::wrap(plain).and_then(|wrapped| ffi::unwrap(&wrapped)) {
        Ok(back) if back == plain => Finding::ok("it does"),
        Ok(_) => Finding::differs("it gives back something else"),
        Err(error) => Finding::differs(error.to_string()),
    }
}

fn firmware() -> Finding {
    match smbios::serial(&ffi::firmware_tables()) {
        Some(serial) => Finding::ok(serial),
        None => Finding::unknown("it tells none; the device is reported without one"),
    }
}

fn boot_id() -> Finding {
    let path = format!(r"{SESSION_MANAGER}\Memory Management\PrefetchParameters");
    let kernel = u64::from(ffi::look::kernel_boot_id());
    match number(&LocalMachine, &path, "BootId") {
        None => Finding::unknown(format!("the registry has no BootId; the kernel says {kernel}")),
        Some(id) if id == kernel => Finding::ok(format!("both say {id}")),
        Some(id) => Finding::differs(format!("the registry says {id}, the kernel {kernel}")),
    }
}

fn delayed_start() -> Finding {
    match number(&LocalMachine, r"SYSTEM\CurrentControlSet\Control", "AutoStartDelay") {
        None => Finding::ok("it is not set"),
        Some(seconds) => Finding::differs(format!("it is set to {seconds} s")),
    }
}

fn fast_startup() -> Finding {
    let path = format!(r"{SESSION_MANAGER}\Power");
    match number(&LocalMachine, &path, "HiberbootEnabled") {
        None | Some(0) => Finding::ok("HiberbootEnabled is not set"),
        Some(_) => Finding::unknown(
            "HiberbootEnabled is set: after switching off and on it may still be the old boot, and \
             what waits for a restart goes on waiting; a restart counts in any case",
        ),
    }
}

fn event_messages() -> Finding {
    match ffi::system_folder() {
        Ok(folder) if folder.join("EventCreate.exe").is_file() => Finding::ok("it is there"),
        Ok(folder) => Finding::differs(format!("it is not in {}", folder.display())),
        Err(error) => refused(&error),
    }
}
