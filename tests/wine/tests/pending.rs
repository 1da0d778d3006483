//! Signs of a pending restart, roles and neighbours in Wine's real registry.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use serde_json::Value;
use wardring_wine_tests::prefix::Prefix;
use wardring_wine_tests::programs::{act, prefix};

const CBS: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing";
const AUTO_UPDATE: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update";
const SESSION_MANAGER: &str = r"SYSTEM\CurrentControlSet\Control\Session Manager";
const CONTROL: &str = r"SYSTEM\CurrentControlSet\Control";
const SERVICES: &str = r"SYSTEM\CurrentControlSet\Services";

fn signs(prefix: &Prefix) -> Vec<(String, bool)> {
    let facts = act(prefix, ["facts"]).unwrap();
    let signs = facts["pendingReboot"].as_array().unwrap().iter();
    let sign = |sign: &Value| {
        (sign["source"].as_str().unwrap().to_owned(), sign["hard"].as_bool().unwrap())
    };
    signs.map(sign).collect()
}

fn texts(facts: &Value, name: &str) -> Vec<String> {
    let texts = facts[name].as_array().unwrap().iter();
    texts.map(|text| text.as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_sign_is_told_by_name_and_only_hard_ones_stop_an_installation() {
    let prefix = prefix().unwrap();
    assert_eq!(signs(&prefix), []);

    for key in ["RebootPending", "RebootInProgress", "PackagesPending"] {
        prefix.make_key(&format!(r"{CBS}\{key}")).unwrap();
    }
    prefix.make_key(&format!(r"{AUTO_UPDATE}\RebootRequired")).unwrap();
    prefix.make_key(&format!(r"{AUTO_UPDATE}\PostRebootReporting")).unwrap();
    prefix.make_key(&format!(r"{SERVICES}\Netlogon\JoinDomain")).unwrap();
    prefix.set(r"SOFTWARE\Microsoft\Updates", "UpdateExeVolatile", "REG_DWORD", "1").unwrap();
    let rename = r"\??\C:\windows\system32\new.dll\0\??\C:\windows\system32\old.dll";
    let name = "PendingFileRenameOperations";
    prefix.set(SESSION_MANAGER, name, "REG_MULTI_SZ", rename).unwrap();
    let found = signs(&prefix);
    let expected = [
        ("ComponentBasedServicing", true),
        ("ComponentBasedServicingInProgress", true),
        ("ComponentBasedServicingPackages", true),
        ("WindowsUpdate", true),
        ("WindowsUpdateReporting", false),
        ("UpdateExeVolatile", false),
        ("JoinDomain", false),
        ("PendingFileRename", false),
    ];
    assert_eq!(found, expected.map(|(name, hard)| (name.to_owned(), hard)));

    let policy = r"SOFTWARE\Policies\Wardring";
    prefix.set(policy, "RenamesOfSystemFilesBlock", "REG_DWORD", "1").unwrap();
    assert_eq!(signs(&prefix).last(), Some(&("PendingFileRename".to_owned(), true)));
}

#[test]
fn roles_and_neighbours_are_told_with_the_setting_to_change() {
    let prefix = prefix().unwrap();
    let facts = act(&prefix, ["facts"]).unwrap();
    assert_eq!(texts(&facts, "roles"), [""; 0]);

    let options = format!(r"{CONTROL}\ProductOptions");
    prefix.set(&options, "ProductType", "REG_SZ", "LanmanNT").unwrap();
    for (service, start) in [("ClusSvc", "2"), ("vmms", "4"), ("CcmExec", "2")] {
        let key = format!(r"{SERVICES}\{service}");
        prefix.set(&key, "Start", "REG_DWORD", start).unwrap();
    }
    prefix
        .set(r"Cluster\Resources\4711", "Type", "REG_SZ", "ClusterAwareUpdatingResource")
        .unwrap();
    let policy = r"SOFTWARE\Policies\Microsoft\Windows\WindowsUpdate";
    prefix.set(policy, "SetComplianceDeadline", "REG_DWORD", "1").unwrap();
    let facts = act(&prefix, ["facts"]).unwrap();
    assert_eq!(texts(&facts, "roles"), ["DomainController", "ClusterNode"]);
    // There is a ConfigMgr service here and nothing behind it: that is told, and blocks nothing.
    assert_eq!(signs(&prefix), [("ConfigMgrUnreadable".to_owned(), false)]);
    let others = texts(&facts, "otherPatchSources");
    for word in ["SetComplianceDeadline", "ConfigMgr client", "Disable-CauClusterRole"] {
        assert!(others.iter().any(|other| other.contains(word)), "{word}: {others:?}");
    }
}
