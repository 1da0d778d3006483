//! Packages that jobs bring themselves, on the real platform: fetched over TLS that Windows' own roots
//! judge, believed by SHA-256 and Authenticode, installed by a standalone installer of the tests' own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use wardring_seal::Authority;
use wardring_wine_tests::fakewua::FakeWua;
use wardring_wine_tests::prefix::Prefix;
use wardring_wine_tests::programs::{act, compile, prefix};
use wardring_wine_tests::signing::package;
use wardring_wine_tests::web::{Files, sha256, trust};

const SETTINGS: &str = r"SOFTWARE\WardringTests\Wusa";
const ROLLUP: &str = "Package_for_RollupFix~31bf3856ad364e35~amd64~~20348.2762.1.12";

/// A Windows with an update agent, a standalone installer, and no trust in the files' server yet.
fn windows() -> Prefix {
    let prefix = prefix().unwrap();
    FakeWua::install(&prefix, &json!({ "updates": [] })).unwrap();
    compile("wusa.c", &prefix.drive().join("windows/system32/wusa.exe")).unwrap();
    // Wine would take its own.
    let overrides = r"HKCU\Software\Wine\DllOverrides";
    prefix.wine(["reg", "add", overrides, "/v", "wusa.exe", "/d", "native", "/f"]).unwrap();
    prefix.set(SETTINGS, "Package", "REG_SZ", ROLLUP).unwrap();
    prefix
}

fn runs(prefix: &Prefix) -> Vec<String> {
    let log = std::fs::read_to_string(prefix.drive().join("wusa.log")).unwrap_or_default();
    log.lines().map(str::to_owned).collect()
}

fn kept(prefix: &Prefix) -> usize {
    let folder = std::fs::read_dir(prefix.drive().join("wardring/data/packages"));
    folder.into_iter().flatten().count()
}

/// Fetches and installs as the attempt of a grant, and what came of it.
async fn install(prefix: &Arc<Prefix>, attempt: &str, files: &Files, digest: &str) -> Value {
    let (prefix, attempt) = (Arc::clone(prefix), attempt.to_owned());
    let (url, digest) = (files.url.clone(), digest.to_owned());
    let acted =
        tokio::task::spawn_blocking(move || act(&prefix, ["bring", &attempt, &url, &digest]));
    acted.await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_very_package_that_microsoft_signed_is_installed_and_only_once() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = Arc::new(tokio::task::spawn_blocking(windows).await.unwrap());
    let authority = Authority::create(Timestamp::now()).unwrap();
    let make = |company| {
        let content = package(folder.path(), company).unwrap();
        (sha256(&content, folder.path()).unwrap(), content)
    };
    let (genuine, content) = make(Some("Microsoft Corporation"));
    let files = Files::serve(&authority, content).await.unwrap();

    // Whom Windows does not trust is not even asked.
    let refused = install(&prefix, "1", &files, &genuine).await;
    let failed = refused["failed"].as_str().unwrap();
    assert!(failed.contains("cannot be fetched: invalid peer certificate"), "{refused}");
    assert_eq!(files.asked(), 0);
    trust(&prefix, folder.path(), &authority).unwrap();

    // Another file than the job's, one that nobody signed, and one that somebody else signed.
    let other = install(&prefix, "1", &files, &"0a".repeat(32)).await;
    let failed = other["failed"].as_str().unwrap();
    assert!(failed.contains("is not the one that the job names"), "{other}");
    for (company, said) in
        [(None, "carries no signature"), (Some("Contoso"), "not signed by Microsoft but by")]
    {
        let (digest, content) = make(company);
        let files = Files::serve(&authority, content).await.unwrap();
        let refused = install(&prefix, "1", &files, &digest).await;
        assert!(refused["failed"].as_str().unwrap().contains(said), "{refused}");
    }
    assert_eq!(
        (runs(&prefix), kept(&prefix)),
        (vec![], 0),
        "nothing was begun, and nothing is left"
    );

    // What is called like the installer and lies elsewhere keeps nothing back.
    std::fs::create_dir(prefix.drive().join("elsewhere")).unwrap();
    compile("wusa.c", &prefix.drive().join("elsewhere/wusa.exe")).unwrap();
    prefix.set(SETTINGS, "TakesMs", "REG_DWORD", "600000").unwrap();
    prefix.wine(["start", "/b", r"C:\elsewhere\wusa.exe", "elsewhere"]).unwrap();
    let runs_elsewhere = async {
        while runs(&prefix).is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), runs_elsewhere).await.unwrap();
    prefix.set(SETTINGS, "TakesMs", "REG_DWORD", "0").unwrap();

    let installed = install(&prefix, "1", &files, &genuine).await;
    assert_eq!(
        (&installed["code"], &installed["rebootRequired"], &installed["packages"]),
        (&json!(2), &json!(true), &json!([ROLLUP])),
        "{installed}"
    );
    let line = format!(r"C:\wardring\data\packages\{genuine}.msu /quiet /norestart ");
    assert_eq!((runs(&prefix), kept(&prefix)), (vec!["elsewhere ".to_owned(), line], 0));
    // The same grant again, as after a crash: told, and not run.
    let again = install(&prefix, "1", &files, &genuine).await;
    assert_eq!((&again["code"], runs(&prefix).len()), (&json!(2), 2), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_under_the_installer_finds_its_end_and_never_runs_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = Arc::new(tokio::task::spawn_blocking(windows).await.unwrap());
    let authority = Authority::create(Timestamp::now()).unwrap();
    trust(&prefix, folder.path(), &authority).unwrap();
    let content = package(folder.path(), Some("Microsoft Corporation")).unwrap();
    let digest = sha256(&content, folder.path()).unwrap();
    let files = Files::serve(&authority, content).await.unwrap();

    prefix.set(SETTINGS, "TakesMs", "REG_DWORD", "6000").unwrap();
    let agent = prefix.start_agent(["bring", "1", &files.url, &digest]).unwrap();
    let began = async {
        while runs(&prefix).is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), began).await.unwrap();
    drop(agent);

    let found = install(&prefix, "1", &files, &digest).await;
    assert_eq!((&found["code"], &found["packages"]), (&json!(2), &json!([ROLLUP])), "{found}");
    assert_eq!(runs(&prefix).len(), 1);
}
