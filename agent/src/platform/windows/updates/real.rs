//! Windows Update of this computer.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use windows_registry::LOCAL_MACHINE;

use super::agent::{Device, Limits, WindowsUpdate};
use super::policy::{AUTOMATIC, POLICY, Policy};
use super::shelf::Shelf;
use super::standalone::Standalone;
use crate::ffi;

/// Windows Update of this computer. What it knows is kept in `folder`; `build` tells the running
/// `build.UBR`, and `packages` what Windows is made of, with what waits for a restart. Packages of
/// jobs are fetched by `proxy`.
pub fn open(
    folder: &Path,
    boot: &str,
    proxy: Option<&str>,
    build: fn() -> String,
    packages: fn() -> Option<BTreeSet<String>>,
) -> WindowsUpdate {
    let device = Device { build, packages, policy: read_policy };
    let shelf = Shelf::new(folder, proxy, Arc::new(Installer));
    WindowsUpdate::open(folder, boot, device, Limits::default(), Arc::new(ffi::wua::open), shelf)
}

/// Windows' own standalone installer.
struct Installer;

impl Standalone for Installer {
    fn publisher(&self, file: &Path) -> io::Result<Option<String>> {
        ffi::publisher(file)
    }

    fn install(&self, file: &Path) -> io::Result<u32> {
        // By its absolute path, which Windows tells, never by a search path or a setting. It is not
        // ended when it takes long: an installation that is cut leaves Windows half changed.
        let folder = ffi::system_folder()?;
        let ran = Command::new(folder.join("wusa.exe"))
            .arg(file)
            .args(["/quiet", "/norestart"])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        ran.code().map(i32::cast_unsigned).ok_or_else(|| io::Error::other("it has no exit code"))
    }

    fn is_running(&self) -> bool {
        ffi::is_at_work("wusa.exe").unwrap_or(true)
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        Ok(ffi::free_bytes(folder)?)
    }

    fn roots(&self) -> Vec<Vec<u8>> {
        ffi::roots()
    }
}

/// The policies of this computer.
pub fn read_policy() -> Policy {
    let number = |path: &str, name: &str| LOCAL_MACHINE.open(path).ok()?.get_u32(name).ok();
    Policy {
        server: LOCAL_MACHINE.open(POLICY).and_then(|key| key.get_string("WUServer")).ok(),
        use_server: number(AUTOMATIC, "UseWUServer"),
        no_automatic: number(AUTOMATIC, "NoAutoUpdate"),
        options: number(AUTOMATIC, "AUOptions"),
        no_internet: number(POLICY, "DoNotConnectToWindowsUpdateInternetLocations"),
        no_access: number(POLICY, "DisableWindowsUpdateAccess"),
    }
}
