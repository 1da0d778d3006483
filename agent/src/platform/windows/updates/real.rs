//! Windows Update of this computer.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use windows_registry::LOCAL_MACHINE;

use super::agent::{Device, Limits, WindowsUpdate};
use super::policy::{AUTOMATIC, POLICY, Policy};
use crate::ffi;

/// Windows Update of this computer. What it knows is kept in `folder`; `build` tells the running
/// `build.UBR`, and `packages` what Windows is made of, with what waits for a restart.
pub fn open(
    folder: &Path,
    boot: &str,
    build: fn() -> String,
    packages: fn() -> BTreeSet<String>,
) -> WindowsUpdate {
    let device = Device { build, packages, policy: read_policy };
    WindowsUpdate::open(folder, boot, device, Limits::default(), Arc::new(ffi::wua::open))
}

/// The policies of this computer.
pub fn read_policy() -> Policy {
    let number = |path: &str, name: &str| LOCAL_MACHINE.open(path).ok()?.get_u32(name).ok();
    Policy {
        server: LOCAL_MACHINE.open(POLICY).and_then(|key| key.get_string("WUServer")).ok(),
        use_server: number(AUTOMATIC, "UseWUServer"),
        no_automatic: number(AUTOMATIC, "NoAutoUpdate"),
        options: number(AUTOMATIC, "AUOptions"),
    }
}
