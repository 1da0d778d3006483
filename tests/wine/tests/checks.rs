//! Probes and hooks on Wine's real processes, drives, ports and access lists.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use wardring_wine_tests::prefix::Prefix;
use wardring_wine_tests::programs::{act, prefix};

/// Runs a hook and returns why it failed, or nothing.
fn hook(prefix: &Prefix, program: &str) -> String {
    hook_within(prefix, program, 60_000)
}

fn hook_within(prefix: &Prefix, program: &str, timeout_ms: u32) -> String {
    let hook = json!({ "moment": "BeforeInstall", "program": program, "timeoutMs": timeout_ms });
    let ended = act(prefix, ["hook", &hook.to_string()]).unwrap();
    ended["failed"].as_str().unwrap_or_default().to_owned()
}

fn only_for_the_owner(path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
}

fn write(folder: &Path, program: &str, lines: &[&str]) {
    let file = folder.join(program);
    fs::write(&file, lines.join("\r\n")).unwrap();
    only_for_the_owner(&file);
}

#[test]
fn a_hook_runs_from_a_protected_folder_alone_and_is_ended_with_all_it_started() {
    let prefix = prefix().unwrap();
    let data = prefix.drive().join("wardring/data");
    let folder = data.join("hooks");
    assert!(hook(&prefix, "drain.cmd").contains("is not there"));

    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    write(&folder, "drain.cmd", &["@echo %WARDRING_HOOK%> ran.txt", "@exit 0", ""]);
    let refused = hook(&prefix, "drain.cmd");
    assert!(refused.contains("hooks is open to"), "{refused}");
    only_for_the_owner(&folder);
    fs::set_permissions(folder.join("drain.cmd"), Permissions::from_mode(0o777)).unwrap();
    let refused = hook(&prefix, "drain.cmd");
    assert!(refused.contains("drain.cmd is open to"), "{refused}");
    assert!(!folder.join("ran.txt").exists());

    only_for_the_owner(&folder.join("drain.cmd"));
    assert_eq!(hook(&prefix, "drain.cmd"), "");
    let ran = fs::read_to_string(folder.join("ran.txt")).unwrap();
    assert_eq!(ran.trim(), "beforeInstall");

    write(&folder, "refuse.cmd", &["@exit 3", ""]);
    assert!(hook(&prefix, "refuse.cmd").contains('3'));
    assert!(hook(&prefix, "missing.cmd").contains("is not there"));
    for outside in [r"..\data\hooks\drain.cmd", r"C:\windows\system32\cmd.exe", "nul.cmd"] {
        assert!(hook(&prefix, outside).contains("is no name of a hook"), "{outside}");
    }

    write(&folder, "forever.cmd", &[":again", "@goto again", ""]);
    let left = || probe(&prefix, json!({ "type": "Process", "image": "cmd.exe" }));
    // One that starts another at once and ends leaves nothing behind.
    write(&folder, "leave.cmd", &["@start /b cmd.exe /c forever.cmd", "@exit 0", ""]);
    assert_eq!(hook(&prefix, "leave.cmd"), "");
    assert!(left()["Failed"].is_string(), "what it started runs: {}", left());

    let ended = hook_within(&prefix, "forever.cmd", 3_000);
    assert!(ended.contains("was not over in 3 s and was ended"), "{ended}");
    assert!(left()["Failed"].is_string(), "it still runs: {}", left());
}

/// The answer to one probe.
fn probe(prefix: &Prefix, check: Value) -> Value {
    let probes = json!([{ "name": "probe", "timeoutMs": 10_000, "check": check }]);
    act(prefix, ["probe", &probes.to_string()]).unwrap()["probe"].clone()
}

#[test]
fn what_only_windows_knows_is_asked_of_it() {
    let prefix = prefix().unwrap();
    let good = json!("Good");
    // The agent itself is the one process that surely runs.
    let own = "WARDRING-agent.exe";
    assert_eq!(probe(&prefix, json!({ "type": "Process", "image": own })), good);
    let missing = probe(&prefix, json!({ "type": "Process", "image": "sqlservr.exe" }));
    assert_eq!(missing["Failed"], "no process sqlservr.exe runs");

    assert_eq!(probe(&prefix, json!({ "type": "Disk", "minFreeGb": 0 })), good);
    let full = probe(&prefix, json!({ "type": "Disk", "drive": "C:", "minFreeGb": 4_000_000 }));
    assert!(full["Failed"].as_str().unwrap().contains("GB are free"), "{full}");

    let share = probe(&prefix, json!({ "type": "Smb", "share": "SYSVOL" }));
    assert!(share["Failed"].as_str().unwrap().contains("SYSVOL"), "{share}");
    // Wine has no event log; what cannot be read is never good.
    let log = json!({ "type": "EventLog", "log": "System", "provider": "Disk", "ids": [7],
        "withinMs": 600_000, "max": 0 });
    assert!(probe(&prefix, log)["Failed"].is_string());

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(probe(&prefix, json!({ "type": "Tcp", "port": port })), good);
    drop(listener);
    let closed = probe(&prefix, json!({ "type": "Tcp", "port": port }));
    assert!(closed["Failed"].as_str().unwrap().contains("takes no connection"), "{closed}");
    assert!(act(&prefix, ["ports"]).unwrap().is_array());
}
