//! Taking an update back: the real platform with a DISM of the tests' own in the prefix's system32,
//! over packages in Wine's real registry.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use serde_json::{Value, json};
use wardring_wine_tests::fakewua::FakeWua;
use wardring_wine_tests::prefix::Prefix;
use wardring_wine_tests::programs::{act, compile, prefix};

const CBS: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing";
const SETTINGS: &str = r"SOFTWARE\WardringTests\Dism";
const ROLLUP: &str = "Package_for_RollupFix~31bf3856ad364e35~amd64~~20348.2762.1.12";
const STACK: &str = "Package_for_ServicingStack_2755~31bf3856ad364e35~amd64~~20348.2755.1.1";
const SINGLE: &str = "Package_for_KB5034441~31bf3856ad364e35~amd64~~10.0.1.1";
const FEATURE: &str = "OpenSSH-Server-Package~31bf3856ad364e35~amd64~~10.0.20348.1";
const UPDATE: [&str; 3] = ["KB5044281", "Quality", "20348.2762"];

fn put(prefix: &Prefix, package: &str, state: &str) {
    let key = format!(r"{CBS}\Packages\{package}");
    prefix.set(&key, "CurrentState", "REG_DWORD", state).unwrap();
    prefix.set(&key, "Visibility", "REG_DWORD", "1").unwrap();
}

fn uninstall<const N: usize>(prefix: &Prefix, packages: [&str; N]) -> Value {
    remove(prefix, "uninstall", UPDATE, packages)
}

fn remove<const N: usize>(
    prefix: &Prefix,
    verb: &str,
    update: [&str; 3],
    packages: [&str; N],
) -> Value {
    let mut line = vec![r"C:\wardring\wardring-agent.exe", verb];
    line.extend(update);
    line.extend(packages);
    let text = prefix.run(&line).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// Hard signs of a pending restart.
fn pending(prefix: &Prefix) -> Vec<String> {
    let facts = act(prefix, ["facts"]).unwrap();
    let signs = facts["pendingReboot"].as_array().unwrap().iter();
    let hard = signs.filter(|sign| sign["hard"] == true);
    hard.map(|sign| sign["source"].as_str().unwrap().to_owned()).collect()
}

fn calls(prefix: &Prefix) -> Vec<String> {
    let log = std::fs::read_to_string(prefix.drive().join("dism.log")).unwrap_or_default();
    log.lines().filter(|line| line.contains("/Remove-Package")).map(str::to_owned).collect()
}

fn with_dism() -> Prefix {
    let prefix = prefix().unwrap();
    compile("dism.c", &prefix.drive().join("windows/system32/dism.exe")).unwrap();
    // Wine would take its own, which does nothing and says that it did.
    let overrides = r"HKCU\Software\Wine\DllOverrides";
    prefix.wine(["reg", "add", overrides, "/v", "dism.exe", "/d", "native", "/f"]).unwrap();
    // A DISM of anybody else is not started, wherever the agent was.
    std::fs::write(prefix.drive().join("wardring/dism.exe"), "not a program").unwrap();
    prefix
}

#[test]
fn an_update_goes_by_its_identity_once_and_the_restart_it_wants_is_known() {
    let prefix = with_dism();
    prefix.set(SETTINGS, "Garble", "REG_DWORD", "1").unwrap();
    put(&prefix, ROLLUP, "0x70");
    put(&prefix, STACK, "0x80");
    put(&prefix, FEATURE, "0x70");

    let late = remove(&prefix, "uninstall-late", UPDATE, [ROLLUP]);
    assert_eq!(late["begun"], false, "{late}");
    assert_eq!(calls(&prefix), [""; 0]);

    let removed = uninstall(&prefix, [STACK, FEATURE, ROLLUP]);
    assert_eq!((&removed["code"], &removed["rebootRequired"]), (&2.into(), &true.into()));
    assert_eq!(removed["packages"], serde_json::json!([ROLLUP]), "{removed}");
    let expected =
        format!("/Online /English /Quiet /NoRestart /Remove-Package /PackageName:{ROLLUP} ");
    assert_eq!(calls(&prefix), [expected]);
    assert_eq!(pending(&prefix), ["ComponentBasedServicing", "OwnWork"]);

    // Asked again after a crash: it is going already, and nothing is begun twice.
    let again = uninstall(&prefix, [ROLLUP]);
    assert_eq!((&again["code"], &again["rebootRequired"]), (&2.into(), &true.into()), "{again}");
    assert_eq!(calls(&prefix).len(), 1);

    prefix.restart().unwrap();
    prefix.wine(["reg", "delete", &format!(r"HKLM\{CBS}\Packages\{ROLLUP}"), "/f"]).unwrap();
    assert_eq!(pending(&prefix), [""; 0], "both signs end with the boot");
    let gone = uninstall(&prefix, [ROLLUP]);
    assert_eq!((&gone["code"], &gone["rebootRequired"]), (&2.into(), &false.into()), "{gone}");
}

#[test]
fn what_cannot_be_taken_back_is_said_and_no_exit_code_is_believed() {
    let prefix = with_dism();
    put(&prefix, ROLLUP, "0x70");
    put(&prefix, STACK, "0x80");
    put(&prefix, SINGLE, "0x80");
    let hresult = |result: &Value| result["hresult"].as_str().unwrap().to_owned();

    prefix.set(SETTINGS, "Lie", "REG_DWORD", "1").unwrap();
    let lie = uninstall(&prefix, [ROLLUP]);
    assert_eq!((&lie["code"], hresult(&lie).as_str()), (&4.into(), "0x8000FFFF"), "{lie}");
    prefix.set(SETTINGS, "Lie", "REG_DWORD", "0").unwrap();

    prefix.set(SETTINGS, "Fail", "REG_DWORD", "0x800f081f").unwrap();
    assert_eq!(hresult(&uninstall(&prefix, [ROLLUP])), "0x800F081F");
    prefix.set(SETTINGS, "Fail", "REG_DWORD", "0").unwrap();

    // A DISM that fails where another one was first has nothing left to do, and that is no failure.
    prefix.set(SETTINGS, "FailLate", "REG_DWORD", "0x800f0902").unwrap();
    let late = uninstall(&prefix, [ROLLUP]);
    assert_eq!((&late["code"], &late["rebootRequired"]), (&2.into(), &true.into()), "{late}");
    prefix.set(SETTINGS, "FailLate", "REG_DWORD", "0").unwrap();
    put(&prefix, ROLLUP, "0x70");

    let single = ["KB5034441", "Other", "-"];
    assert_eq!(hresult(&remove(&prefix, "uninstall", single, [])), "0x800F0825", "permanent");
    let before = calls(&prefix).len();
    assert_eq!(hresult(&uninstall(&prefix, [STACK])), "0x800F0825", "a servicing stack");
    let driver = ["KB5034441", "Driver", "-"];
    assert_eq!(hresult(&remove(&prefix, "uninstall", driver, [SINGLE])), "0x800F0825");
    let unknown = ["KB1", "Other", "-"];
    assert_eq!(hresult(&remove(&prefix, "uninstall", unknown, [])), "0x800F0805");
    let forged = remove(&prefix, "uninstall", unknown, [r"X /Add-Package:\\evil\x.cab"]);
    assert_eq!(hresult(&forged), "0x800F0805");
    assert_eq!(calls(&prefix).len(), before, "DISM was not even asked");
    // Found by its build alone, where nobody saw it come.
    assert_eq!(uninstall(&prefix, [])["packages"], serde_json::json!([ROLLUP]));
}

#[test]
fn the_component_store_is_what_dism_says_of_it_and_free_space_is_told() {
    let prefix = with_dism();
    // A look asks Windows Update, too.
    FakeWua::install(&prefix, &json!({ "updates": [] })).unwrap();
    let seen = || act(&prefix, ["inspect", "KB5044281", "Quality", "20348.2762"]).unwrap();
    for (state, expected) in [("0", "Healthy"), ("1", "Repairable"), ("2", "Damaged")] {
        prefix.set(SETTINGS, "Store", "REG_DWORD", state).unwrap();
        assert_eq!(seen()["componentStore"], format!("Some({expected})"));
    }
    prefix.set(SETTINGS, "Fail", "REG_DWORD", "5").unwrap();
    let said = seen()["componentStore"].to_string();
    assert!(said.contains("Unknown") && said.contains("DISM ended with"), "{said}");

    let facts = act(&prefix, ["facts"]).unwrap();
    let (told, free) =
        (facts["freeDiskGb"].as_u64().unwrap(), seen()["freeDiskGb"].as_u64().unwrap());
    assert!(told <= free + 1 && told + 32 > free, "{told} of {free}");
}
