//! What tests and packages need beside Rust and Go: Wine, a compiler for Windows, Rust's target for
//! it, what makes and signs Windows' packages, and the monitoring that alerts are proven with.
//! Missing ones are installed where that is possible; elsewhere the error says what to install.

use std::process::Command;

use anyhow::Result;
use wardring_harness::monitoring::{ALERTMANAGER, PROMETHEUS};
use wardring_harness::tools::{SystemTool, devcluster, ensure_apt, helm};

use crate::shell::{output, part, step};

/// The agent's target.
pub const WINDOWS: &str = "x86_64-pc-windows-gnu";

const COMPILER: SystemTool =
    SystemTool { program: "x86_64-w64-mingw32-gcc", package: "gcc-mingw-w64-x86-64" };
/// For the fuzzers' runtime.
const CXX: SystemTool = SystemTool { program: "g++", package: "g++" };
const WINE: SystemTool = SystemTool { program: "wine", package: "wine wine64" };
const MSI: [SystemTool; 2] = [
    SystemTool { program: "wixl", package: "wixl" },
    SystemTool { program: "msibuild", package: "msitools" },
];
const SIGNER: SystemTool = SystemTool { program: "osslsigncode", package: "osslsigncode" };
/// Makes the certificates that tests sign programs with.
const OPENSSL: SystemTool = SystemTool { program: "openssl", package: "openssl" };

/// Sees to it that every tool of the tests is there.
pub fn prepare() -> Result<()> {
    part("system packages", || {
        let monitors = [PROMETHEUS, ALERTMANAGER];
        ensure_apt(&[&[CXX, COMPILER, WINE, SIGNER], &MSI[..], &[OPENSSL], &monitors].concat())
    })?;
    rust_for_windows()?;
    part("dev cluster", || devcluster().map(drop))?;
    part("helm", || helm().map(drop))
}

/// Sees to it that programs for Windows can be built.
pub fn prepare_windows() -> Result<()> {
    part("system packages", || ensure_apt(&[COMPILER]))?;
    rust_for_windows()
}

/// Sees to it that programs for Windows can be built and run.
pub fn prepare_wine() -> Result<()> {
    part("system packages", || ensure_apt(&[COMPILER, WINE]))?;
    rust_for_windows()
}

/// Sees to it that installers for Windows can be made.
pub fn prepare_packaging() -> Result<()> {
    part("packaging tools", || ensure_apt(&MSI))
}

/// Sees to it that programs for Windows can be signed.
pub fn prepare_signing() -> Result<()> {
    part("signing tool", || ensure_apt(&[SIGNER]))
}

fn rust_for_windows() -> Result<()> {
    if has_windows_target()? {
        return Ok(());
    }
    step("rust for Windows", Command::new("rustup").args(["target", "add", WINDOWS]))
}

fn has_windows_target() -> Result<bool> {
    let mut ask = Command::new("rustc");
    ask.args(["--print", "target-libdir", "--target", WINDOWS]);
    Ok(std::path::Path::new(output(&mut ask)?.trim()).is_dir())
}
