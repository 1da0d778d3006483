//! Signs that Windows waits for a restart, each with its name. Hard ones block an installation; the
//! rest is told to people and blocks nothing, because browsers and printers leave it behind daily.

use wardring_protocol::RebootSource;

const CBS: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing";
const AUTO_UPDATE: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update";
const SESSION_MANAGER: &str = r"SYSTEM\CurrentControlSet\Control\Session Manager";
const COMPUTER_NAME: &str = r"SYSTEM\CurrentControlSet\Control\ComputerName";
const TCPIP: &str = r"SYSTEM\CurrentControlSet\Services\Tcpip\Parameters";
const NETLOGON: &str = r"SYSTEM\CurrentControlSet\Services\Netlogon";
const UPDATES: &str = r"SOFTWARE\Microsoft\Updates";
const SERVER_MANAGER: &str = r"SOFTWARE\Microsoft\ServerManager";
const RUN_ONCE: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\RunOnce";

/// What can be read below `HKEY_LOCAL_MACHINE`.
pub(super) struct Registry<'a> {
    /// Whether a key exists.
    pub has_key: &'a dyn Fn(&str) -> bool,
    /// Whether a value exists and is neither empty nor zero.
    pub is_set: &'a dyn Fn(&str, &str) -> bool,
    /// A text.
    pub text: &'a dyn Fn(&str, &str) -> Option<String>,
}

/// Every sign that is there.
pub(super) fn sources(registry: &Registry<'_>) -> Vec<RebootSource> {
    let key = |parent: &str, name: &str| (registry.has_key)(&format!(r"{parent}\{name}"));
    let set = |parent: &str, name: &str| (registry.is_set)(parent, name);
    let differ = |(left, left_name): (&str, &str), (right, right_name): (&str, &str)| {
        let texts = (registry.text)(left, left_name).zip((registry.text)(right, right_name));
        texts.is_some_and(|(left, right)| !left.eq_ignore_ascii_case(&right))
    };
    let (active, wanted) =
        (format!(r"{COMPUTER_NAME}\ActiveComputerName"), format!(r"{COMPUTER_NAME}\ComputerName"));
    let is_renamed = differ((&active, "ComputerName"), (&wanted, "ComputerName"));
    let signs = [
        ("ComponentBasedServicing", true, key(CBS, "RebootPending")),
        ("ComponentBasedServicingInProgress", true, key(CBS, "RebootInProgress")),
        ("ComponentBasedServicingPackages", true, key(CBS, "PackagesPending")),
        ("WindowsUpdate", true, key(AUTO_UPDATE, "RebootRequired")),
        ("WindowsUpdateReporting", false, key(AUTO_UPDATE, "PostRebootReporting")),
        ("PendingFileRename", false, set(SESSION_MANAGER, "PendingFileRenameOperations")),
        ("PendingFileRename2", false, set(SESSION_MANAGER, "PendingFileRenameOperations2")),
        ("UpdateExeVolatile", false, set(UPDATES, "UpdateExeVolatile")),
        ("ComputerRename", false, is_renamed),
        ("HostnameChange", false, differ((TCPIP, "Hostname"), (TCPIP, "NV Hostname"))),
        ("JoinDomain", false, key(NETLOGON, "JoinDomain")),
        ("AvoidSpnSet", false, key(NETLOGON, "AvoidSpnSet")),
        ("ServerManager", false, set(SERVER_MANAGER, "CurrentRebootAttempts")),
        ("DvdRebootSignal", false, set(RUN_ONCE, "DVDRebootSignal")),
    ];
    let found = signs.into_iter().filter(|(_, _, is_there)| *is_there);
    found.map(|(source, hard, _)| RebootSource { source: source.to_owned(), hard }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(keys: &[&str], values: &[(&str, &str, &str)]) -> Vec<(String, bool)> {
        let keys: Vec<String> = keys.iter().map(|key| key.to_lowercase()).collect();
        let text = |key: &str, name: &str| {
            let value = values.iter().find(|(path, value, _)| *path == key && *value == name);
            value.map(|(_, _, text)| (*text).to_owned())
        };
        let registry = Registry {
            has_key: &|path| keys.contains(&path.to_lowercase()),
            is_set: &|key, name| text(key, name).is_some(),
            text: &text,
        };
        sources(&registry).into_iter().map(|source| (source.source, source.hard)).collect()
    }

    #[test]
    fn servicing_and_windows_update_are_hard_and_left_over_renames_are_not() {
        assert_eq!(found(&[], &[]), []);
        let cbs = format!(r"{CBS}\RebootPending");
        let update = format!(r"{AUTO_UPDATE}\RebootRequired");
        let rename = (SESSION_MANAGER, "PendingFileRenameOperations", r"\??\C:\x.tmp");
        assert_eq!(
            found(&[&cbs, &update], &[rename]),
            [
                ("ComponentBasedServicing".to_owned(), true),
                ("WindowsUpdate".to_owned(), true),
                ("PendingFileRename".to_owned(), false)
            ]
        );
    }

    #[test]
    fn a_computer_that_keeps_its_name_does_not_wait_for_a_restart() {
        let (active, wanted) = (
            format!(r"{COMPUTER_NAME}\ActiveComputerName"),
            format!(r"{COMPUTER_NAME}\ComputerName"),
        );
        let names = |new| {
            [(active.as_str(), "ComputerName", "SRV-1"), (wanted.as_str(), "ComputerName", new)]
        };
        assert_eq!(found(&[], &names("srv-1")), []);
        assert_eq!(found(&[], &names("SRV-2")), [("ComputerRename".to_owned(), false)]);
    }
}
