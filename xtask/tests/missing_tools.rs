//! What a newcomer reads whose machine lacks something: one sentence that says what to do.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A PATH in which only these programs are, each a script with this body.
fn path_with(programs: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, body) in programs {
        let file = folder.path().join(name);
        fs::write(&file, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

/// What `cargo xtask test` says on a machine with this PATH and nothing built yet.
fn said(path: &Path) -> String {
    let nothing = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["test", "no-such-test"])
        .env("PATH", path)
        .env("WARDRING_TOOLS", nothing.path())
        .env_remove("KUBECONFIG")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    let (_, error) = text.split_once("error: ").unwrap();
    error.to_owned()
}

/// Programs that stand for what the system's packages bring, and for Rust.
const SYSTEM: [(&str, &str); 10] = [
    ("g++", "exit 0"),
    ("x86_64-w64-mingw32-gcc", "exit 0"),
    ("wine", "exit 0"),
    ("osslsigncode", "exit 0"),
    ("wixl", "exit 0"),
    ("msibuild", "exit 0"),
    ("openssl", "exit 0"),
    ("prometheus", "exit 0"),
    ("prometheus-alertmanager", "exit 0"),
    ("rustc", "echo /"),
];

#[test]
fn without_apt_the_packages_to_install_are_named() {
    let error = said(path_with(&[]).path());

    let sentence = "x86_64-w64-mingw32-gcc, wine, osslsigncode, wixl, msibuild, openssl, prometheus, \
                    prometheus-alertmanager are needed: `apt-get install g++ gcc-mingw-w64-x86-64 wine wine64 \
                    osslsigncode wixl msitools openssl prometheus prometheus-alertmanager` (as root)";
    assert!(error.contains(sentence), "{error}");
}

#[test]
fn an_apt_that_fails_leaves_its_own_words_and_the_next_step() {
    // Without rights the answer is the one above.
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    let path = path_with(&[("apt-get", "echo 'E: Unable to fetch some archives' >&2; exit 100")]);

    let error = said(path.path());

    assert!(
        error.contains(
            "install g++ gcc-mingw-w64-x86-64 wine wine64 osslsigncode wixl msitools openssl prometheus \
             prometheus-alertmanager yourself"
        ),
        "{error}"
    );
    assert!(error.contains("E: Unable to fetch some archives"), "{error}");
}

#[test]
fn without_go_or_with_an_old_one_it_says_which_go_to_install() {
    let old = ("go", "echo go1.20.1");
    for (programs, words) in [
        (SYSTEM.to_vec(), "Go was not found; install Go 1.26 or newer"),
        ([&SYSTEM[..], &[old]].concat(), "Go is too old (go1.20.1"),
    ] {
        let error = said(path_with(&programs).path());
        assert!(error.contains(words), "{error}");
        assert!(error.contains("or set KUBECONFIG to use a cluster that exists"), "{error}");
        assert_eq!(error.trim().lines().count(), 1, "{error}");
    }
}
