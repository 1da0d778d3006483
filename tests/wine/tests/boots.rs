//! Boots under Wine: one identity for one run of Windows, and the order of a restart.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use wardring_wine_tests::programs::{act, prefix};

#[test]
fn every_run_of_windows_has_one_identity_and_an_ordered_end_is_written_down() {
    let prefix = prefix().unwrap();
    let first = act(&prefix, ["boot"]).unwrap();
    // Wine's event log cannot be read, so nobody can tell why it booted, and nobody guesses.
    assert_eq!(first["kind"], "Unknown");
    assert_eq!(act(&prefix, ["boot"]).unwrap(), first);
    assert_eq!(act(&prefix, ["announce", "Patch night"]).unwrap()["announced"], true);

    // Wine takes the order and does not carry it out.
    let ordered = act(&prefix, ["reboot"]).unwrap();
    assert_eq!(ordered["ordered"], true, "{ordered}");
    let kept = |name: &str| prefix.wine(["reg", "query", r"HKLM\SOFTWARE\Wardring", "/v", name]);
    let id = first["id"].as_str().unwrap();
    assert!(kept("OrderedRestartOf").unwrap().contains(id));
    assert_eq!(act(&prefix, ["reboot"]).unwrap()["ordered"], true, "it may be repeated");
    assert_eq!(act(&prefix, ["boot"]).unwrap()["id"], first["id"]);

    prefix.restart().unwrap();
    let second = act(&prefix, ["boot"]).unwrap();
    assert_ne!(second["id"], first["id"]);
    assert!(kept("LastBoot").unwrap().contains(second["id"].as_str().unwrap()));
    let before = prefix.wine(["reg", "query", r"HKLM\SOFTWARE\Wardring\Boot", "/v", "Before"]);
    assert!(before.unwrap().contains(id), "the boot before is known");
    assert!(kept("OrderedRestartOf").unwrap().contains(id), "and so is who ended it");
}
