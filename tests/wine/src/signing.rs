//! Packages as Microsoft ships them, only that nobody trusts who signed them: small cabinets with an
//! Authenticode signature of a test's own key.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// A package with one file, signed by a company of this name; without a name nobody signed it.
///
/// # Errors
/// A tool is missing or refuses.
pub fn package(folder: &Path, company: Option<&str>) -> anyhow::Result<Vec<u8>> {
    let plain = folder.join("plain.msu");
    fs::write(&plain, cabinet(b"an update of a test"))?;
    let Some(company) = company else { return Ok(fs::read(plain)?) };
    let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.pem"));
    let subject = format!("/C=US/O={company}/CN={company}");
    run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", &subject])
        .args(["-addext", "extendedKeyUsage=codeSigning", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate))?;
    let signed = folder.join("signed.msu");
    let _ = fs::remove_file(&signed);
    run(Command::new("osslsigncode")
        .args(["sign", "-h", "sha256"])
        .args([Path::new("-certs"), &certificate, Path::new("-key"), &key])
        .args([Path::new("-in"), &plain, Path::new("-out"), &signed]))?;
    Ok(fs::read(signed)?)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = PathBuf::from(command.get_program());
    let output = command
        .output()
        .with_context(|| format!("failed to start {program:?}; install it with apt-get"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{program:?} refused: {said}");
    Ok(())
}

/// A cabinet with one uncompressed file ("Microsoft Cabinet Format", [MS-CAB]).
fn cabinet(content: &[u8]) -> Vec<u8> {
    const NAME: &[u8] = b"a.txt\0";
    const FILES: u32 = 36 + 8;
    let data = FILES + 16 + NAME.len() as u32;
    let size = data + 8 + content.len() as u32;
    let short = |number: usize| u16::try_from(number).expect("a small file").to_le_bytes();
    let mut bytes = b"MSCF".to_vec();
    for number in [0, size, 0, FILES, 0] {
        bytes.extend(u32::to_le_bytes(number));
    }
    // Version 1.3, one folder, one file, no flags, set 1, number 0.
    bytes.extend([3, 1]);
    for number in [1_u16, 1, 0, 1, 0] {
        bytes.extend(number.to_le_bytes());
    }
    // The folder: its data, one block, uncompressed.
    bytes.extend(data.to_le_bytes());
    bytes.extend([1, 0, 0, 0]);
    // The file: size, offset, folder, date, time, attributes, name.
    bytes.extend(u32::try_from(content.len()).expect("a small file").to_le_bytes());
    bytes.extend([0; 6]);
    bytes.extend([0x21, 0x5A, 0, 0, 0x20, 0]);
    bytes.extend(NAME);
    // The block: no checksum, sizes.
    bytes.extend([0; 4]);
    bytes.extend(short(content.len()));
    bytes.extend(short(content.len()));
    bytes.extend(content);
    bytes
}
