//! Services under Wine's real service control manager: how they stand, and restarting one with
//! those that depend on it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use serde_json::Value;
use wardring_wine_tests::prefix::Prefix;
use wardring_wine_tests::programs::{act, compile, prefix};

const PROGRAM: &str = r"C:\wardring\service.exe";
const SETTINGS: &str = r"SOFTWARE\WardringTests\MSSQLSERVER";
const SERVICES: &str = r"SYSTEM\CurrentControlSet\Services";

fn create(prefix: &Prefix, name: &str, start: &str, needs: Option<&str>) {
    let program = format!("{PROGRAM} {name}");
    let mut line = vec![name, "binPath=", &program, "start=", start];
    line.extend(needs.map(|needs| ["depend=", needs]).into_iter().flatten());
    prefix.create_service(&line).unwrap();
}

fn sample(prefix: &Prefix) -> Value {
    act(prefix, ["sample", "MSSQLSERVER", "SQLSERVERAGENT", "Reports", "wuauserv", "Nothing"])
        .unwrap()
}

fn states(sample: &Value) -> [&str; 3] {
    ["MSSQLSERVER", "SQLSERVERAGENT", "Reports"].map(|name| sample[name]["state"].as_str().unwrap())
}

fn pid(sample: &Value, name: &str) -> u64 {
    sample[name]["pid"].as_u64().unwrap_or_default()
}

#[test]
fn a_service_is_restarted_with_those_that_depend_on_it_and_its_refusal_is_told() {
    let prefix = prefix().unwrap();
    compile("service.c", &prefix.drive().join("wardring/service.exe")).unwrap();
    create(&prefix, "MSSQLSERVER", "auto", None);
    create(&prefix, "SQLSERVERAGENT", "demand", Some("MSSQLSERVER"));
    create(&prefix, "Reports", "demand", Some("SQLSERVERAGENT"));
    // Windows Update's service waits for its triggers.
    let update = format!(r"{SERVICES}\wuauserv");
    prefix.set(&update, "Start", "REG_DWORD", "3").unwrap();
    prefix.set(&format!(r"{update}\TriggerInfo\0"), "Action", "REG_DWORD", "1").unwrap();
    for name in ["MSSQLSERVER", "SQLSERVERAGENT"] {
        prefix.start_service(name).unwrap();
    }

    let before = sample(&prefix);
    assert_eq!(states(&before), ["Running", "Running", "Stopped"], "{before}");
    assert_eq!(before["MSSQLSERVER"]["start"], "Auto");
    assert_eq!(before["Nothing"]["state"], "Missing");
    assert_eq!(before["wuauserv"]["start"], "Demand", "{before}");
    let by_trigger = ["wuauserv", "SQLSERVERAGENT", "MSSQLSERVER"];
    let by_trigger = by_trigger.map(|name| before[name]["byTrigger"].as_bool().unwrap());
    assert_eq!(by_trigger, [true, false, false], "on demand alone is not enough: {before}");

    let restarted = act(&prefix, ["restart", "MSSQLSERVER"]).unwrap();
    assert_eq!(restarted["restarted"], true, "{restarted}");
    let after = sample(&prefix);
    assert_eq!(states(&after), ["Running", "Running", "Stopped"], "{after}");
    for name in ["MSSQLSERVER", "SQLSERVERAGENT"] {
        assert_ne!(pid(&before, name), pid(&after, name), "{name} runs as it did: {after}");
    }

    prefix.set(SETTINGS, "Refuse", "REG_DWORD", "42").unwrap();
    let refused = act(&prefix, ["restart", "MSSQLSERVER"]).unwrap();
    assert_eq!(refused["restarted"], false);
    let error = refused["error"].as_str().unwrap();
    assert!(error.contains("MSSQLSERVER") && error.contains("its own error 42"), "{error}");

    prefix.set(SETTINGS, "Refuse", "REG_DWORD", "0").unwrap();
    prefix.set(SETTINGS, "SlowMs", "REG_DWORD", "1500").unwrap();
    let restarted = act(&prefix, ["restart", "MSSQLSERVER"]).unwrap();
    assert_eq!(restarted["restarted"], true, "a slow start is waited for: {restarted}");
    let started = sample(&prefix);
    assert_eq!(states(&started), ["Running", "Running", "Stopped"], "what ran before runs again");

    prefix.stop_service("MSSQLSERVER").unwrap();
    prefix.set(&format!(r"{SERVICES}\MSSQLSERVER"), "Start", "REG_DWORD", "4").unwrap();
    let missing = act(&prefix, ["restart", "Nothing"]).unwrap();
    assert!(missing["error"].as_str().unwrap().contains("Nothing cannot be opened"), "{missing}");
}
