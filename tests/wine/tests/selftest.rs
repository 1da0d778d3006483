//! The self-test under Wine, which lacks much of Windows: it says what, changes nothing, and ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};
use wardring_wine_tests::fakewua::FakeWua;
use wardring_wine_tests::prefix::{Prefix, build_agent};
use wardring_wine_tests::programs::compile;

const AGENT: &str = r"C:\wardring\wardring-agent.exe";
const CURRENT_VERSION: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
const PACKAGES: &str =
    r"SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\Packages";

/// Answer and evidence of each check, and the exit code that the document tells.
struct Said {
    rows: BTreeMap<String, (String, String)>,
    exit_code: i64,
}

impl Said {
    fn answer(&self, check: &str) -> &str {
        &self.rows[check].0
    }

    fn evidence(&self, check: &str) -> &str {
        &self.rows[check].1
    }
}

fn selftest(prefix: &Prefix) -> Said {
    let (is_well, said) = prefix.attempt(&[AGENT, "selftest", "-o", "json"]).unwrap();
    let start = said.find("{\n").unwrap_or_else(|| panic!("no document in {said}"));
    let mut documents = serde_json::Deserializer::from_str(&said[start..]).into_iter::<Value>();
    let document = documents.next().unwrap().unwrap();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let row = |row: &Value| (text(row, "check"), (text(row, "answer"), text(row, "evidence")));
    let exit_code = document["exitCode"].as_i64().unwrap();
    assert_eq!(is_well, exit_code == 0, "{said}");
    Said { rows: document["checks"].as_array().unwrap().iter().map(row).collect(), exit_code }
}

/// Every file of the prefix, and its registry as text.
fn state(prefix: &Prefix) -> (BTreeSet<String>, Vec<Vec<u8>>) {
    let hives = ["SOFTWARE", "SYSTEM"].map(|hive| {
        let (key, file) = (format!(r"HKLM\{hive}"), format!(r"C:\{hive}.reg"));
        prefix.wine(["reg", "export", &key, &file, "/y"]).unwrap();
        std::fs::read(prefix.drive().join(format!("{hive}.reg"))).unwrap()
    });
    let mut files = BTreeSet::new();
    list(&prefix.drive(), &mut files);
    (files, hives.to_vec())
}

/// The state once nothing changes it any more: Wine's own services are at work for a while after a boot.
fn at_rest(prefix: &Prefix) -> (BTreeSet<String>, Vec<Vec<u8>>) {
    let mut before = state(prefix);
    for _ in 0..20 {
        let now = state(prefix);
        if traces(&before, &now).is_empty() {
            return now;
        }
        before = now;
    }
    panic!("this Windows never rests");
}

/// Files and lines of the registry that one state has and the other has not.
fn traces(
    before: &(BTreeSet<String>, Vec<Vec<u8>>),
    after: &(BTreeSet<String>, Vec<Vec<u8>>),
) -> Vec<String> {
    let lines = |state: &(BTreeSet<String>, Vec<Vec<u8>>)| {
        let mut lines = state.0.clone();
        for hive in &state.1 {
            // `reg export` writes UTF-16, and each key as a line in brackets before its values.
            let units = hive.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
            let text: String = char::decode_utf16(units).map(|char| char.unwrap_or('?')).collect();
            let mut key = "";
            for line in text.lines() {
                key = if line.starts_with('[') { line } else { key };
                lines.insert(format!("{key} {line}"));
            }
        }
        lines
    };
    let (before, after) = (lines(before), lines(after));
    let traces = before.symmetric_difference(&after);
    // Wine's desktop notes which screen it found, whenever it comes up.
    traces.filter(|line| !line.contains(r"\Control\Video\")).cloned().collect()
}

fn list(folder: &Path, files: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        files.insert(entry.path().display().to_string());
        if entry.file_type().unwrap().is_dir() {
            list(&entry.path(), files);
        }
    }
}

#[test]
fn what_wine_lacks_of_windows_is_listed_with_evidence_and_nothing_is_changed() {
    let prefix = Prefix::create(&build_agent().unwrap()).unwrap();
    selftest(&prefix);
    let before = at_rest(&prefix);

    let said = selftest(&prefix);

    let traces = traces(&before, &state(&prefix));
    assert!(traces.is_empty(), "a self-test leaves no trace: {traces:#?}");
    for (check, evidence) in [
        ("windows-revision", "there is no number UBR"),
        ("services", "without TrustedInstaller"),
        ("service-triggers", "wuauserv"),
        ("event-log", "the call fails"),
        ("sessions", "the list is empty"),
        ("packages", "the list is empty"),
        ("dism", "lists no packages"),
        ("update-session", "E_NOINTERFACE"),
        ("update-installer", "E_NOINTERFACE"),
        ("update-collection", "REGDB_E_CLASSNOTREG"),
        ("update-sources", "REGDB_E_CLASSNOTREG"),
    ] {
        assert_eq!(said.answer(check), "differs", "{check}: {}", said.evidence(check));
        assert!(said.evidence(check).contains(evidence), "{check}: {}", said.evidence(check));
    }
    for check in ["data-protection", "disk", "power", "restart-right", "rights", "update-restart"] {
        assert_eq!(said.answer(check), "ok", "{check}: {}", said.evidence(check));
    }
    // What Wine has is not lacking: its network, its processes, its service manager, its event log.
    for (check, evidence) in [
        ("certificate-roots", " roots"),
        ("network-neighbours", " routers, "),
        ("processes", "this one among them"),
        ("listening-ports", " ports"),
        ("configmgr", "there is no client"),
        ("data-folder", "is not there yet; `install` makes it"),
        ("event-source", "`install` registers the source"),
        ("service-right", "nothing was made"),
        ("standalone-installer", "wusa.exe"),
    ] {
        assert_eq!(said.answer(check), "ok", "{check}: {}", said.evidence(check));
        assert!(said.evidence(check).contains(evidence), "{check}: {}", said.evidence(check));
    }
    let untold = ["boot-id", "boot-events", "history-in-utc", "hidden-revisions", "msu-by-dism"];
    for check in untold.into_iter().chain(["signatures", "session-lock", "shutdown-event"]) {
        assert_eq!(said.answer(check), "unknown", "{check}: {}", said.evidence(check));
    }
    assert_eq!(said.exit_code, 1);

    let (is_well, table) = prefix.attempt(&[AGENT, "selftest"]).unwrap();
    assert!(!is_well);
    assert!(table.contains("DIFFERS  needed   windows-revision"), "{table}");
    assert!(table.contains(" differ, "), "{table}");
}

#[test]
fn what_a_windows_has_is_found_where_it_is() {
    let prefix = Prefix::create(&build_agent().unwrap()).unwrap();
    let update = |number: u32, is_installed: bool| {
        json!({"id": format!("aaaaaaaa-0000-0000-0000-00000000000{number}"), "revision": 1,
               "kbs": [format!("506000{number}")], "isInstalled": is_installed})
    };
    let history = json!([{"id": "aaaaaaaa-0000-0000-0000-000000000001", "revision": 1,
        "operation": 1, "code": 2, "hresult": "0x00000000", "date": 45_901.0, "title": "KB5060001"}]);
    let world = json!({"updates": [update(1, true), update(2, false)], "history": history});
    FakeWua::install(&prefix, &world).unwrap();
    compile("dism.c", &prefix.drive().join("windows/system32/dism.exe")).unwrap();
    let overrides = r"HKCU\Software\Wine\DllOverrides";
    prefix.wine(["reg", "add", overrides, "/v", "dism.exe", "/d", "native", "/f"]).unwrap();
    prefix.set(CURRENT_VERSION, "UBR", "REG_DWORD", "2700").unwrap();
    let package = "Package_for_RollupFix~31bf3856ad364e35~amd64~~20348.2700.1.5";
    let key = format!(r"{PACKAGES}\{package}");
    prefix.set(&key, "CurrentState", "REG_DWORD", "0x70").unwrap();
    prefix.set(&key, "Visibility", "REG_DWORD", "1").unwrap();

    let said = selftest(&prefix);
    for (check, evidence) in [
        ("windows-revision", "UBR is 2700"),
        ("packages", "1 packages"),
        ("dism", "1 packages"),
        ("package-states", "the same for 1 packages"),
        ("update-session", "it does"),
        ("update-collection", "an empty one was made"),
        ("update-busy", "IsBusy is false"),
        ("update-search", "2 updates, 1 of them installed"),
        ("update-history", "1 entries; the newest is 0x00000000 of KB5060001"),
    ] {
        assert_eq!(said.answer(check), "ok", "{check}: {}", said.evidence(check));
        assert!(said.evidence(check).contains(evidence), "{check}: {}", said.evidence(check));
    }

    // What DISM and the registry call by two names is what nobody here may rely on.
    prefix.set(&key, "CurrentState", "REG_DWORD", "0x33").unwrap();
    // Somebody made the data folder first, and Windows' installer is gone.
    std::fs::create_dir_all(prefix.drive().join("ProgramData/Wardring")).unwrap();
    std::fs::remove_file(prefix.drive().join("windows/system32/wusa.exe")).unwrap();
    let said = selftest(&prefix);
    for (check, evidence) in
        [("data-folder", "beside SYSTEM"), ("standalone-installer", "there is no")]
    {
        assert_eq!(said.answer(check), "differs", "{check}: {}", said.evidence(check));
        assert!(said.evidence(check).contains(evidence), "{check}: {}", said.evidence(check));
    }
    assert_eq!(said.answer("package-states"), "differs", "{}", said.evidence("package-states"));
    assert!(said.evidence("package-states").contains(package));
}
