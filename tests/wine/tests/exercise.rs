//! `selftest --exercise` of the Windows build under Wine: a whole one over two restarts, by itself, and
//! the devices on which none takes place.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wardring_wine_tests::fakewua::FakeWua;
use wardring_wine_tests::prefix::{Agent, Prefix, build_agent};
use wardring_wine_tests::programs::compile;
use wardring_wine_tests::registry::Changes;

const AGENT: &str = r"C:\wardring\wardring-agent.exe";
const CONSENT: &str = "--yes-this-device-may-be-lost";
const CURRENT_VERSION: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
const PACKAGES: &str =
    r"SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\Packages";
const ROLLUP: &str = "Package_for_RollupFix~31bf3856ad364e35~amd64~~20348.2762.1.12";

/// A server that nobody manages, and that is offered two updates.
struct Device {
    prefix: Prefix,
    fake: FakeWua,
}

impl Device {
    fn new() -> Device {
        let prefix = Prefix::create(&build_agent().unwrap()).unwrap();
        let update = |number: u32, title: &str, size: u64, takes_ms: u64| {
            json!({"id": format!("aaaaaaaa-0000-0000-0000-00000000000{number}"), "revision": 1,
                   "title": title, "kbs": [format!("506000{number}")], "size": size,
                   "isUninstallable": true, "install": {"takesMs": takes_ms, "needsReboot": true}})
        };
        // Long enough to give it its package meanwhile, on a busy machine too.
        let updates = [
            update(1, "Kumulatives Update (KB5060001) (20348.2762)", 5 << 20, 20_000),
            update(2, "Update (KB5060002)", 900 << 20, 100),
        ];
        let fake = FakeWua::install(&prefix, &json!({ "updates": updates })).unwrap();
        compile("dism.c", &prefix.drive().join("windows/system32/dism.exe")).unwrap();
        let overrides = r"HKCU\Software\Wine\DllOverrides";
        prefix.wine(["reg", "add", overrides, "/v", "dism.exe", "/d", "native", "/f"]).unwrap();
        prefix.set(CURRENT_VERSION, "CurrentBuild", "REG_SZ", "20348").unwrap();
        prefix.set(CURRENT_VERSION, "UBR", "REG_DWORD", "2700").unwrap();
        Device { prefix, fake }
    }

    fn exercise(&self, more: &[&str]) -> (bool, String) {
        let line = [AGENT, "selftest", "--exercise", "--settle", "1", "--countdown", "1"];
        self.prefix.attempt(&[&line[..], more].concat()).unwrap()
    }

    fn refuses(&self, more: &[&str], why: &str) {
        let (is_done, said) = self.exercise(more);
        assert!(!is_done && said.contains(why), "{more:?}: {said}");
        assert!(!self.folder().exists() && !self.has_service(), "{said}");
        assert!(self.fake.calls("Download").is_empty());
    }

    fn begin(&self) -> Agent {
        let line = ["selftest", "--exercise", "--settle", "1", "--countdown", "1", CONSENT];
        self.prefix.start_agent(line).unwrap()
    }

    fn folder(&self) -> PathBuf {
        self.prefix.drive().join("ProgramData/WardringExercise")
    }

    fn has_service(&self) -> bool {
        self.prefix.attempt(&["sc", "query", "WardringExercise"]).unwrap().0
    }

    /// The job in its journal.
    fn job(&self) -> Value {
        let text = std::fs::read_to_string(self.folder().join("journal")).unwrap_or_default();
        let body = text.split_once('\n').map_or("null", |(_, body)| body);
        let journal: Value = serde_json::from_str(body).unwrap_or_default();
        journal["state"]["job"].clone()
    }

    fn wait(&self, what: &str, mut met: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !met() {
            let log = || std::fs::read_to_string(self.folder().join("log/agent.jsonl"));
            let is_late = begun.elapsed() > Duration::from_secs(120);
            assert!(!is_late, "{what} did not come: {}\n{:?}", self.job(), log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn wait_for_restart(&self, action: &str) {
        let mut job = Value::Null;
        self.wait("the order to restart", || {
            job = self.job();
            job["phase"]["phase"] == "Rebooting" && job["payload"]["key"]["action"] == action
        });
        let query = ["reg", "query", r"HKLM\SOFTWARE\Wardring", "/v", "OrderedRestartOf"];
        let boot = job["phase"]["bootBefore"].as_str().unwrap().to_owned();
        self.wait("its note", || self.prefix.attempt(&query).unwrap().1.contains(&boot));
    }

    fn add_package(&self) {
        let key = format!(r"{PACKAGES}\{ROLLUP}");
        self.prefix.set(&key, "Visibility", "REG_DWORD", "1").unwrap();
        self.prefix.set(&key, "CurrentState", "REG_DWORD", "0x60").unwrap();
    }
}

/// Answer and evidence by check, and the exit code in the document.
fn rows(said: &str) -> (BTreeMap<String, (String, String)>, Value) {
    let start = said.find("{\n").unwrap_or_else(|| panic!("no document in {said}"));
    let mut documents = serde_json::Deserializer::from_str(&said[start..]).into_iter::<Value>();
    let document = documents.next().unwrap().unwrap();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let row = |row: &Value| (text(row, "check"), (text(row, "answer"), text(row, "evidence")));
    (document["checks"].as_array().unwrap().iter().map(row).collect(), document["exitCode"].clone())
}

#[test]
fn an_exercise_goes_through_both_restarts_by_itself_and_removes_its_service() {
    let device = Device::new();
    let console = device.begin();

    // Windows adds the package while it installs, and puts it in force at its start.
    device.wait("the installation", || device.fake.calls("Install").len() == 1);
    device.add_package();
    device.wait_for_restart("Install");
    drop(console);
    device.prefix.switch_off().unwrap();
    device.fake.finish_at_boot().unwrap();
    let in_force = Changes::new()
        .number(&format!(r"{PACKAGES}\{ROLLUP}"), "CurrentState", 0x70)
        .number(CURRENT_VERSION, "UBR", 2762);
    device.prefix.while_off(&in_force).unwrap();
    device.prefix.switch_on().unwrap();

    device.wait_for_restart("Rollback");
    let (is_done, said) = device
        .prefix
        .attempt(&[AGENT, "run", "--gateway", "https://x:1", "--name", "a", "--data-dir", r"C:\x"])
        .unwrap();
    assert!(!is_done && said.contains("no agent runs beside it"), "{said}");
    device.prefix.switch_off().unwrap();
    let mut world = device.fake.world().unwrap();
    world["updates"][0]["isInstalled"] = json!(false);
    device.fake.set_world(&world).unwrap();
    let gone =
        Changes::new().gone(&format!(r"{PACKAGES}\{ROLLUP}")).number(CURRENT_VERSION, "UBR", 2700);
    device.prefix.while_off(&gone).unwrap();
    device.prefix.switch_on().unwrap();

    let (_, said) = device.exercise(&["-o", "json"]);
    let (rows, exit_code) = rows(&said);
    for (check, answer, evidence) in [
        ("offer", "ok", "KB5060001, 5 MiB"),
        ("install", "ok", "OperationResultCode 2, 0x00000000, wants a restart"),
        // Wine's event log cannot be read, so nobody can tell why it booted.
        ("restart", "unknown", "1 ordered, boots: Unknown"),
        ("proof", "ok", "Succeeded, build 20348.2762"),
        ("packages", "ok", ROLLUP),
        ("removal", "ok", "RolledBack"),
        ("removal-restart", "unknown", "1 ordered, boots: Unknown"),
        ("absence", "ok", "the build is 20348.2700 again"),
        ("hidden", "ok", "finds it hidden"),
    ] {
        let (found, seen) = &rows[&format!("exercise-{check}")];
        assert!(found == answer && seen.contains(evidence), "{check}: {found}: {seen}\n{said}");
    }
    assert_eq!(exit_code, 2);
    assert_eq!((device.fake.calls("Install").len(), device.fake.calls("Download").len()), (1, 1));
    device.wait("the end of its service", || !device.has_service());

    // What is over is shown again, and nothing begins anew.
    let (is_done, said) = device.exercise(&[CONSENT]);
    assert!(!is_done && said.contains("7 ok, 0 differ, 2 unknown"), "{said}");
    assert_eq!(device.fake.calls("Install").len(), 1);
    for wish in [&["--no-restart"][..], &["--kb", "KB5060002"]] {
        let (is_done, said) = device.exercise(wish);
        assert!(!is_done && said.contains("leave the wish out to see it"), "{wish:?}: {said}");
    }
    let (is_done, said) = device.exercise(&["--forget"]);
    assert!(is_done && !device.folder().exists(), "{said}");
    assert!(!device.prefix.attempt(&["reg", "query", r"HKLM\SOFTWARE\Wardring"]).unwrap().0);
}

#[test]
fn no_exercise_takes_place_where_it_is_not_wanted_or_somebody_would_miss_the_device() {
    let device = Device::new();
    device.refuses(&[], "begin it on a device that may be lost");

    let options = r"SYSTEM\CurrentControlSet\Control\ProductOptions";
    device.prefix.set(options, "ProductType", "REG_SZ", "LanmanNT").unwrap();
    device.refuses(&[CONSENT], "works for others (DomainController)");
    device.prefix.set(options, "ProductType", "REG_SZ", "ServerNT").unwrap();

    let create = ["sc", "create", "WardringAgent", "binPath=", r"C:\windows\notepad.exe"];
    device.prefix.run(&create).unwrap();
    device.refuses(&[CONSENT], "its controller's to say");
    device.prefix.wine(["sc", "delete", "WardringAgent"]).unwrap();

    let identity = device.prefix.drive().join("ProgramData/Wardring");
    std::fs::create_dir_all(&identity).unwrap();
    std::fs::write(identity.join("identity.json"), "{}").unwrap();
    device.refuses(&[CONSENT], "an agent ran on this device");
    std::fs::remove_dir_all(&identity).unwrap();
    device.prefix.make_key(r"SOFTWARE\Wardring").unwrap();
    device.refuses(&[CONSENT], "an agent ran on this device");
    device.prefix.wine(["reg", "delete", r"HKLM\SOFTWARE\Wardring", "/f"]).unwrap();

    // Somebody who may still write there may have made it.
    std::fs::create_dir(device.folder()).unwrap();
    std::fs::set_permissions(device.folder(), Permissions::from_mode(0o700)).unwrap();
    let (is_done, said) = device.exercise(&[CONSENT]);
    assert!(!is_done && said.contains("is there already"), "{said}");
    assert!(!device.has_service());
    std::fs::remove_dir(device.folder()).unwrap();

    let (is_done, said) = device.exercise(&["--forget"]);
    assert!(!is_done && said.contains("there is no exercise"), "{said}");
}

#[test]
fn an_exercise_without_restarts_ends_before_the_first_one_and_keeps_the_agent_away_meanwhile() {
    let device = Device::new();
    let (is_done, said) =
        device.exercise(&[CONSENT, "--no-restart", "--kb", "5060002", "-o", "json"]);
    let (rows, exit_code) = rows(&said);
    let row = |check: &str| rows[&format!("exercise-{check}")].clone();
    assert_eq!((is_done, exit_code), (false, json!(2)));
    assert!(row("offer").1.starts_with("KB5060002, 900 MiB"), "{said}");
    assert_eq!(row("install").0, "ok", "{said}");
    for check in ["restart", "proof", "removal", "absence", "hidden"] {
        assert_eq!(row(check).0, "unknown", "{check}: {said}");
    }
    assert!(row("removal").1.contains("which was left out"), "{said}");
    assert!(device.fake.calls("Commit").is_empty());
    let ordered = ["reg", "query", r"HKLM\SOFTWARE\Wardring", "/v", "OrderedRestartOf"];
    assert!(!device.prefix.attempt(&ordered).unwrap().0, "nothing was ordered");

    let create = ["sc", "create", "WardringExercise", "binPath=", r"C:\windows\notepad.exe"];
    device.wait("the end of its service", || !device.has_service());
    device.prefix.run(&create).unwrap();
    let install = [AGENT, "install", "--gateway", "https://gw:8443", "--name", "srv-1"];
    let (is_done, said) = device.prefix.attempt(&install).unwrap();
    assert!(!is_done && said.contains("an exercise is under way"), "{said}");
}
