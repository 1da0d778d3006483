//! Signs that Windows waits for a restart, each with its name. Hard ones block an installation; the
//! rest is told to people and blocks nothing, because browsers and printers leave it behind daily.
//!
//! A sign that cannot be read is reported as such and never taken for its absence: a hard one then
//! blocks like one that is there.

use wardring_protocol::RebootSource;

use super::registry::{Registry, Unreadable};
use super::renames;

const CBS: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing";
const AUTO_UPDATE: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update";
const SESSION_MANAGER: &str = r"SYSTEM\CurrentControlSet\Control\Session Manager";
const COMPUTER_NAME: &str = r"SYSTEM\CurrentControlSet\Control\ComputerName";
const TCPIP: &str = r"SYSTEM\CurrentControlSet\Services\Tcpip\Parameters";
const NETLOGON: &str = r"SYSTEM\CurrentControlSet\Services\Netlogon";
const UPDATES: &str = r"SOFTWARE\Microsoft\Updates";
const SERVER_MANAGER: &str = r"SOFTWARE\Microsoft\ServerManager";
const RUN_ONCE: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\RunOnce";
/// What an administrator decides about the agent on this device.
const POLICY: &str = r"SOFTWARE\Policies\Wardring";
/// With it set to 1, pending renames of Windows' own files that an update left block, too.
const RENAMES_BLOCK: &str = "RenamesOfSystemFilesBlock";

/// Whether a sign blocks an installation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weight {
    Hard,
    Advisory,
}

/// What the agent knows by itself, beside the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// In this boot, an installation or removal of ours asked for a restart.
    pub is_asked_for: bool,
    /// Renames that were pending before the agent last touched anything.
    pub renames_before: Vec<String>,
    /// Whether the ConfigMgr client waits for one; `None` where there is no client.
    pub configmgr: Option<Result<bool, String>>,
}

/// Every sign that is there, or that cannot be read.
///
/// The signs and their weights: google/cabbie, ansible.windows `win_updates`, saltstack
/// `win_system.get_pending_reboot` and bcwilhite/PendingReboot, none of which knows all of them.
pub(super) fn sources(registry: &impl Registry, known: &Known) -> Vec<RebootSource> {
    use Weight::{Advisory, Hard};
    let key = |parent: &str, name: &str| registry.has_key(&format!(r"{parent}\{name}"));
    let set = |parent: &str, name: &str| {
        registry.value(parent, name).map(|value| value.is_some_and(|value| value.is_set()))
    };
    let names = (format!(r"{COMPUTER_NAME}\ActiveComputerName"), "ComputerName");
    let wanted = (format!(r"{COMPUTER_NAME}\ComputerName"), "ComputerName");
    let hosts = ((TCPIP.to_owned(), "Hostname"), (TCPIP.to_owned(), "NV Hostname"));
    let signs = [
        ("ComponentBasedServicing", Hard, key(CBS, "RebootPending")),
        ("ComponentBasedServicingInProgress", Hard, key(CBS, "RebootInProgress")),
        ("ComponentBasedServicingPackages", Hard, key(CBS, "PackagesPending")),
        ("WindowsUpdate", Hard, key(AUTO_UPDATE, "RebootRequired")),
        ("OwnWork", Hard, Ok(known.is_asked_for)),
        ("WindowsUpdateReporting", Advisory, key(AUTO_UPDATE, "PostRebootReporting")),
        ("UpdateExeVolatile", Advisory, set(UPDATES, "UpdateExeVolatile")),
        ("ComputerRename", Advisory, differ(registry, &names, &wanted)),
        ("HostnameChange", Advisory, differ(registry, &hosts.0, &hosts.1)),
        ("JoinDomain", Advisory, key(NETLOGON, "JoinDomain")),
        ("AvoidSpnSet", Advisory, key(NETLOGON, "AvoidSpnSet")),
        ("ServerManager", Advisory, set(SERVER_MANAGER, "CurrentRebootAttempts")),
        ("DvdRebootSignal", Advisory, set(RUN_ONCE, "DVDRebootSignal")),
    ];
    let mut found: Vec<RebootSource> = signs
        .into_iter()
        .filter_map(|(name, weight, is_there)| source(name, weight, &is_there))
        .collect();
    found.extend(configmgr(known));
    for (name, value) in [
        ("PendingFileRename", "PendingFileRenameOperations"),
        ("PendingFileRename2", "PendingFileRenameOperations2"),
    ] {
        let pending = registry.value(SESSION_MANAGER, value);
        let pending = pending.map(|value| value.and_then(|value| value.texts()));
        let weight =
            rename_weight(registry, known, pending.as_ref().ok().and_then(Option::as_deref));
        let is_there = pending.map(|texts| texts.is_some_and(|texts| !texts.is_empty()));
        found.extend(source(name, weight, &is_there));
    }
    found
}

/// The word of the ConfigMgr client. One that does not answer is told and blocks nothing: broken
/// clients are common, and restarting first would not mend them.
fn configmgr(known: &Known) -> Option<RebootSource> {
    match known.configmgr.as_ref()? {
        Ok(false) => None,
        Ok(true) => Some(RebootSource { source: "ConfigMgr".to_owned(), hard: true }),
        Err(error) => {
            tracing::warn!(error, "the ConfigMgr client does not tell whether it waits");
            Some(RebootSource { source: "ConfigMgrUnreadable".to_owned(), hard: false })
        }
    }
}

/// A pending rename is noise: virus scanners, browsers and printers leave some daily. It counts
/// only for a file of Windows, new since the agent began its work, where policy says so.
fn rename_weight(registry: &impl Registry, known: &Known, pending: Option<&[String]>) -> Weight {
    let says_so = registry.value(POLICY, RENAMES_BLOCK).ok().flatten();
    let counts = says_so.is_some_and(|value| value.is_set())
        && pending.is_some_and(|pending| renames::counts(pending, &known.renames_before));
    if counts { Weight::Hard } else { Weight::Advisory }
}

/// What is pending now, to be kept before the agent touches anything.
pub(super) fn pending_renames(registry: &impl Registry) -> Vec<String> {
    let pending = |name| registry.value(SESSION_MANAGER, name).ok().flatten();
    ["PendingFileRenameOperations", "PendingFileRenameOperations2"]
        .into_iter()
        .filter_map(|name| pending(name)?.texts())
        .flatten()
        .collect()
}

fn source(name: &str, weight: Weight, is_there: &Result<bool, Unreadable>) -> Option<RebootSource> {
    let hard = weight == Weight::Hard;
    match is_there {
        Ok(false) => None,
        Ok(true) => Some(RebootSource { source: name.to_owned(), hard }),
        Err(error) => {
            tracing::warn!(source = name, %error, "a sign of a pending restart is unreadable");
            Some(RebootSource { source: format!("{name}Unreadable"), hard })
        }
    }
}

/// Whether two texts are both there and differ.
fn differ(
    registry: &impl Registry,
    (left, left_name): &(String, &str),
    (right, right_name): &(String, &str),
) -> Result<bool, Unreadable> {
    let read = |path: &str, name: &str| {
        registry.value(path, name).map(|value| value.and_then(super::registry::Value::text))
    };
    let texts = read(left, left_name)?.zip(read(right, right_name)?);
    Ok(texts.is_some_and(|(left, right)| !left.eq_ignore_ascii_case(&right)))
}

/// What Windows' servicing is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Servicing {
    /// Nothing, or nothing but waiting for a restart.
    AtRest,
    /// It installs or removes something at this moment, as it does after a boot, too.
    AtWork,
}

/// What Windows' servicing is doing. Unreadable means at work: nothing is begun beside what nobody
/// can see.
///
/// `ServicingInProgress` (0 at rest, 1 waits for a restart, 2 at work): ansible.windows
/// `plugins/action/win_updates.py`, which waits for it after every boot.
pub(super) fn servicing(registry: &impl Registry) -> Result<Servicing, Unreadable> {
    let path = format!(r"{CBS}\Interface");
    let value = registry.value(&path, "ServicingInProgress")?;
    match value.and_then(|value| value.number()) {
        None | Some(0 | 1) => Ok(Servicing::AtRest),
        Some(_) => Ok(Servicing::AtWork),
    }
}

#[cfg(test)]
mod tests {
    use super::super::registry::tests::Hive;
    use super::*;

    fn told(hive: &Hive, known: &Known) -> Vec<(String, bool)> {
        sources(hive, known).into_iter().map(|source| (source.source, source.hard)).collect()
    }

    fn found(hive: &Hive) -> Vec<(String, bool)> {
        told(hive, &Known::default())
    }

    fn one(name: &str, hard: bool) -> Vec<(String, bool)> {
        vec![(name.to_owned(), hard)]
    }

    #[test]
    fn every_source_is_reported_by_its_own_name_and_weight() {
        let key = |path: String| Hive::default().key(&path);
        assert_eq!(found(&Hive::default()), []);
        assert_eq!(
            found(&key(format!(r"{CBS}\RebootPending"))),
            one("ComponentBasedServicing", true)
        );
        let in_progress = key(format!(r"{CBS}\RebootInProgress"));
        assert_eq!(found(&in_progress), one("ComponentBasedServicingInProgress", true));
        let packages = key(format!(r"{CBS}\PackagesPending"));
        assert_eq!(found(&packages), one("ComponentBasedServicingPackages", true));
        let required = key(format!(r"{AUTO_UPDATE}\RebootRequired\0b1c"));
        assert_eq!(found(&required), one("WindowsUpdate", true));
        let reporting = key(format!(r"{AUTO_UPDATE}\PostRebootReporting"));
        assert_eq!(found(&reporting), one("WindowsUpdateReporting", false));
        assert_eq!(found(&key(format!(r"{NETLOGON}\JoinDomain"))), one("JoinDomain", false));
        assert_eq!(found(&key(format!(r"{NETLOGON}\AvoidSpnSet"))), one("AvoidSpnSet", false));
        let number = |path, name, number| Hive::default().number(path, name, number);
        assert_eq!(found(&number(UPDATES, "UpdateExeVolatile", 0)), []);
        let exe = number(UPDATES, "UpdateExeVolatile", 4);
        assert_eq!(found(&exe), one("UpdateExeVolatile", false));
        let attempts = number(SERVER_MANAGER, "CurrentRebootAttempts", 1);
        assert_eq!(found(&attempts), one("ServerManager", false));
        let dvd = Hive::default().text(RUN_ONCE, "DVDRebootSignal", "x");
        assert_eq!(found(&dvd), one("DvdRebootSignal", false));
        let ours = Known { is_asked_for: true, ..Known::default() };
        assert_eq!(told(&Hive::default(), &ours), one("OwnWork", true));
        let client = |answer| Known { configmgr: Some(answer), ..Known::default() };
        assert_eq!(told(&Hive::default(), &client(Ok(false))), []);
        assert_eq!(told(&Hive::default(), &client(Ok(true))), one("ConfigMgr", true));
        let silent = client(Err("it does not answer".to_owned()));
        assert_eq!(told(&Hive::default(), &silent), one("ConfigMgrUnreadable", false));
    }

    #[test]
    fn what_cannot_be_read_is_reported_and_a_hard_sign_blocks() {
        let locked = Hive::default().locked(&format!(r"{CBS}\RebootPending"));
        assert_eq!(found(&locked), one("ComponentBasedServicingUnreadable", true));
        let rename = found(&Hive::default().locked(SESSION_MANAGER));
        let unreadable =
            ["PendingFileRenameUnreadable", "PendingFileRename2Unreadable"].map(str::to_owned);
        assert_eq!(rename, unreadable.map(|name| (name, false)));
    }

    #[test]
    fn a_computer_that_keeps_its_name_does_not_wait_for_a_restart() {
        let names = |new| {
            Hive::default()
                .text(&format!(r"{COMPUTER_NAME}\ActiveComputerName"), "ComputerName", "SRV-1")
                .text(&format!(r"{COMPUTER_NAME}\ComputerName"), "ComputerName", new)
        };
        assert_eq!(found(&names("srv-1")), []);
        assert_eq!(found(&names("SRV-2")), one("ComputerRename", false));
        let hosts = Hive::default().text(TCPIP, "Hostname", "a").text(TCPIP, "NV Hostname", "b");
        assert_eq!(found(&hosts), one("HostnameChange", false));
    }

    #[test]
    fn a_rename_blocks_only_by_policy_when_it_is_new_and_of_windows() {
        let rename = |path| {
            let name = "PendingFileRenameOperations";
            Hive::default().texts(SESSION_MANAGER, name, &[path, ""])
        };
        let system = r"\??\C:\Windows\System32\x.dll";
        let strict = |hive: Hive| hive.number(POLICY, RENAMES_BLOCK, 1);
        let advisory = one("PendingFileRename", false);
        assert_eq!(found(&rename(system)), advisory, "no policy");
        assert_eq!(found(&strict(rename(system))), one("PendingFileRename", true));
        assert_eq!(found(&strict(rename(r"\??\C:\Users\a\edge.tmp"))), advisory);
        let hive = strict(rename(system));
        let known = Known { renames_before: pending_renames(&hive), ..Known::default() };
        assert_eq!(told(&hive, &known), advisory, "it was there before");
        let second = "PendingFileRenameOperations2";
        let second = Hive::default().texts(SESSION_MANAGER, second, &["x", "y"]);
        assert_eq!(found(&second), one("PendingFileRename2", false));
    }

    #[test]
    fn servicing_that_nobody_can_see_is_not_at_rest() {
        let path = format!(r"{CBS}\Interface");
        let doing = |number| {
            servicing(&Hive::default().number(&path, "ServicingInProgress", number)).unwrap()
        };
        assert_eq!(servicing(&Hive::default()).unwrap(), Servicing::AtRest);
        assert_eq!((doing(0), doing(1)), (Servicing::AtRest, Servicing::AtRest));
        assert_eq!((doing(2), doing(7)), (Servicing::AtWork, Servicing::AtWork));
        assert!(servicing(&Hive::default().locked(&path)).is_err());
    }
}
