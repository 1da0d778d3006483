//! What is around a device, by Wine's real calls: sessions, power, BitLocker and active hours.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use wardring_wine_tests::programs::{act, prefix};

const SETTINGS: &str = r"SOFTWARE\Microsoft\WindowsUpdate\UX\Settings";
const POLICY: &str = r"SOFTWARE\Policies\Microsoft\Windows\WindowsUpdate";

#[test]
fn wine_names_no_session_so_somebody_may_be_there_and_power_and_startup_are_known() {
    let prefix = prefix().unwrap();
    let seen = act(&prefix, ["around"]).unwrap();
    // Every Windows has the session of its services: a list without it says nothing.
    assert_eq!(seen["people"], "None", "{seen}");
    assert_eq!(seen["power"], "PluggedIn", "{seen}");
    // Wine has no BitLocker, like a server without that feature.
    assert_eq!(seen["startup"], "Unattended", "{seen}");
    assert_eq!(act(&prefix, ["facts"]).unwrap()["startup"]["attendance"], "NotNeeded");
    // Nobody is there to be told; that is no error.
    assert_eq!(act(&prefix, ["ask-to-leave", "Patch night"]).unwrap()["asked"], true);
    // And nobody is there to agree to anything, or to put it off.
    assert_eq!(act(&prefix, ["ask-people", "Patch night"]).unwrap()["reply"], "Nothing");
}

#[test]
fn active_hours_are_those_of_the_rollout_or_those_in_the_registry() {
    let prefix = prefix().unwrap();
    let until = |arguments: &[&str]| {
        let seen = match arguments {
            [] => act(&prefix, ["around"]),
            [whose] => act(&prefix, ["around", whose]),
            [start, end, ..] => act(&prefix, ["around", start, end]),
        };
        seen.unwrap()["activeUntil"].as_u64()
    };
    assert_eq!(until(&[]), None, "nobody asked for any");
    // One of the two halves of the day is now, whatever the clock says.
    let halves = [until(&["0", "12"]), until(&["12", "0"])];
    assert!([[Some(12), None], [None, Some(0)]].contains(&halves), "{halves:?}");

    let set = |key: &str, start: &str, end: &str| {
        prefix.set(key, "ActiveHoursStart", "REG_DWORD", start).unwrap();
        prefix.set(key, "ActiveHoursEnd", "REG_DWORD", end).unwrap();
    };
    set(SETTINGS, "0", "12");
    assert_eq!(until(&["device"]), halves[0]);
    set(POLICY, "12", "0");
    assert_eq!(until(&["device"]), halves[0], "a policy that is not in force says nothing");
    prefix.set(POLICY, "SetActiveHours", "REG_DWORD", "1").unwrap();
    assert_eq!(until(&["device"]), halves[1]);
}
