//! What the tests need beside Rust and Go: Wine, a compiler for Windows, and Rust's target for it.
//! Missing ones are installed where that is possible; elsewhere the error says what to install.

use std::process::Command;

use anyhow::Result;
use wardring_harness::tools::{SystemTool, devcluster, ensure_apt, helm};

use crate::shell::{output, part, step};

/// The agent's target.
const WINDOWS: &str = "x86_64-pc-windows-gnu";

const SYSTEM: &[SystemTool] = &[
    SystemTool { program: "x86_64-w64-mingw32-gcc", package: "gcc-mingw-w64-x86-64" },
    SystemTool { program: "wine", package: "wine wine64" },
];

/// Sees to it that every tool is there.
pub fn prepare() -> Result<()> {
    part("system packages", || ensure_apt(SYSTEM))?;
    if !has_windows_target()? {
        step("rust for Windows", Command::new("rustup").args(["target", "add", WINDOWS]))?;
    }
    part("dev cluster", || devcluster().map(drop))?;
    part("helm", || helm().map(drop))
}

fn has_windows_target() -> Result<bool> {
    let mut ask = Command::new("rustc");
    ask.args(["--print", "target-libdir", "--target", WINDOWS]);
    Ok(std::path::Path::new(output(&mut ask)?.trim()).is_dir())
}
