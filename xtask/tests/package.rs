//! What goes to devices: packed, summed and signed with a key that is made for the test.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;
use zip::ZipArchive;

/// A folder with a small program for Windows to pack, and somebody who signs.
struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new() -> Desk {
        let desk = Desk { folder: tempfile::tempdir().unwrap() };
        fs::write(desk.path("program.c"), "int main(void) { return 0; }\n").unwrap();
        let mut build = Command::new("x86_64-w64-mingw32-gcc");
        build.arg(desk.path("program.c")).arg("-s").arg("-o").arg(desk.path("program.exe"));
        assert!(build.status().unwrap().success());
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Packs the program; its packages are in the folder `out`.
    fn package(&self, out: &str, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["package", "--package-version", "1.2.3", "--program"])
            .arg(self.path("program.exe"))
            .arg("--out")
            .arg(self.path(out))
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Makes a key and its certificate for signing code, as `key.pem` and `cert.pem`.
    fn make_key(&self) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "Test signer");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        fs::write(self.path("key.pem"), key.serialize_pem()).unwrap();
        fs::write(self.path("cert.pem"), cert.pem()).unwrap();
    }

    /// Whether a file is signed with that key.
    fn is_signed(&self, file: &Path) -> bool {
        let mut verify = Command::new("osslsigncode");
        verify.arg("verify").arg("-CAfile").arg(self.path("cert.pem")).arg("-in").arg(file);
        verify.output().unwrap().status.success()
    }
}

/// Names of what is in a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn sums_hold(folder: &Path) -> bool {
    let mut check = Command::new("sha256sum");
    check.args(["--check", "--strict", "SHA256SUMS"]).current_dir(folder);
    check.output().unwrap().status.success()
}

/// A file of an archive.
fn unpacked(archive: &Path, name: &str) -> Vec<u8> {
    let mut archive = ZipArchive::new(fs::File::open(archive).unwrap()).unwrap();
    let mut content = Vec::new();
    archive.by_name(name).unwrap().read_to_end(&mut content).unwrap();
    content
}

fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn packages_that_nobody_signed_say_so_and_come_out_the_same_each_time() {
    let desk = Desk::new();

    let said = succeeds(&desk.package("one", &[]));
    succeeds(&desk.package("two", &[]));

    assert!(said.contains("NOT SIGNED"), "{said}");
    let zip = "wardring-agent-1.2.3-x64-unsigned.zip";
    let msi = "wardring-agent-1.2.3-x64-unsigned.msi";
    assert_eq!(names(&desk.path("one")), ["SHA256SUMS", msi, zip]);
    assert!(sums_hold(&desk.path("one")));
    let archive = desk.path("one").join(zip);
    assert_eq!(fs::read(&archive).unwrap(), fs::read(desk.path("two").join(zip)).unwrap());
    let program = fs::read(desk.path("program.exe")).unwrap();
    assert_eq!(unpacked(&archive, "wardring-agent.exe"), program);
    let readme = String::from_utf8(unpacked(&archive, "README.txt")).unwrap();
    assert!(
        readme.contains("Wardring agent 1.2.3") && readme.contains("IS NOT SIGNED"),
        "{readme}"
    );
    let license = String::from_utf8(unpacked(&archive, "LICENSE.txt")).unwrap();
    assert!(license.contains("Apache License"), "{license}");
}

#[test]
fn packages_are_signed_with_the_users_key_and_replace_those_that_are_not() {
    let desk = Desk::new();
    desk.make_key();
    succeeds(&desk.package("out", &[]));
    let [key, cert] = ["key.pem", "cert.pem"].map(|name| desk.path(name));
    let signing = ["--sign-key", key.to_str().unwrap(), "--sign-cert", cert.to_str().unwrap()];

    let said = succeeds(&desk.package("out", &signing));

    assert!(!said.contains("NOT SIGNED"), "{said}");
    let out = desk.path("out");
    let installer = "wardring-agent-1.2.3-x64.msi";
    assert_eq!(names(&out), ["SHA256SUMS", installer, "wardring-agent-1.2.3-x64.zip"]);
    assert!(sums_hold(&out));
    assert!(desk.is_signed(&out.join(installer)));
    let program = desk.path("unpacked.exe");
    fs::write(&program, unpacked(&out.join("wardring-agent-1.2.3-x64.zip"), "wardring-agent.exe"))
        .unwrap();
    assert!(desk.is_signed(&program));
    assert!(!desk.is_signed(&desk.path("program.exe")), "the program itself is left alone");

    // The installer holds the signed program.
    let inside = Command::new("msiinfo")
        .arg("extract")
        .arg(out.join(installer))
        .arg("Binary.Agent")
        .output()
        .unwrap();
    assert!(inside.stdout == fs::read(&program).unwrap());

    // One other byte in the code is not what was signed.
    let mut other = fs::read(&program).unwrap();
    other[0x500] ^= 1;
    fs::write(&program, other).unwrap();
    assert!(!desk.is_signed(&program));
}

#[test]
fn a_key_that_does_not_fit_leaves_what_was_there() {
    let desk = Desk::new();
    desk.make_key();
    succeeds(&desk.package("out", &[]));
    let before = names(&desk.path("out"));
    let cert = desk.path("cert.pem");
    fs::write(desk.path("key.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let key = desk.path("key.pem");

    let output = desk.package(
        "out",
        &["--sign-key", key.to_str().unwrap(), "--sign-cert", cert.to_str().unwrap()],
    );

    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("signature of wardring-agent.exe failed"), "{said}");
    assert_eq!(names(&desk.path("out")), before);
}
