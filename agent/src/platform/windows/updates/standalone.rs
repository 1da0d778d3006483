//! Packages that a job brings itself (`.msu`): installed by Windows' standalone installer, once per
//! grant like everything else.
//!
//! `wusa.exe` takes a package on every Windows that is supported; DISM's `/Add-Package` takes `.msu`
//! for images, and for the running Windows on newer ones only ("DISM operating system package
//! servicing command-line options"). Its exit codes are those of "Windows Update Standalone Installer
//! in Windows" (KB934307): HRESULTs of Windows Update, and numbers of Windows Installer.

use std::io;
use std::path::Path;

use jiff::Timestamp;
use wardring_seal::Package;

use super::install::{
    ABORTED, Act, BUSY_POLL, CLOCKS, FAILED, HISTORY, INSTALLATION, SUCCEEDED, difference, end,
    result, write_down,
};
use super::matching::matching;
use super::record::Installation;
use super::wua::{ALREADY_INSTALLED, CALL_CANCELLED, Failure, INSTALL_NOT_ALLOWED, Wua, kb_in};
use crate::platform::{Performed, Permit};
use crate::state::ServicingResult;

/// E_FAIL, where the installer could not even be started.
const FAIL: u32 = 0x8000_4005;
/// TRUST_E_NOSIGNATURE.
pub(super) const NO_SIGNATURE: u32 = 0x800B_0100;
/// CERT_E_UNTRUSTEDROOT stands for every signature that is not Microsoft's.
pub(super) const OTHER_SIGNER: u32 = 0x800B_0109;
/// ERROR_SUCCESS_REBOOT_INITIATED and ERROR_SUCCESS_REBOOT_REQUIRED.
const REBOOT_INITIATED: u32 = 1641;
const REBOOT_REQUIRED: u32 = 3010;
/// WU_S_REBOOT_REQUIRED.
const WU_REBOOT_REQUIRED: u32 = 0x0024_0005;

/// What packages need of Windows.
pub trait Standalone: Send + Sync {
    /// Whose signature a file carries, by the full name in a certificate that Windows trusts; `None`
    /// where it carries none.
    ///
    /// # Errors
    /// It carries one that is broken, or that Windows does not trust.
    fn publisher(&self, file: &Path) -> io::Result<Option<String>>;

    /// Runs the standalone installer to its end, without a restart: its exit code.
    ///
    /// # Errors
    /// It does not start.
    fn install(&self, file: &Path) -> io::Result<u32>;

    /// Whether a standalone installer of anybody who may install runs; also where nobody can tell.
    fn is_running(&self) -> bool;

    /// Bytes that are free on the disk of a folder.
    ///
    /// # Errors
    /// Windows does not tell.
    fn free_bytes(&self, folder: &Path) -> io::Result<u64>;

    /// Certificates (DER) of the roots that Windows trusts.
    fn roots(&self) -> Vec<Vec<u8>>;
}

/// Installs the package of an act that never began before. The file is looked at once more, and held
/// so that nobody changes it until the installer is done.
pub(super) fn begin(
    wua: &dyn Wua,
    act: &Act,
    package: &Package,
    permit: Permit,
) -> Result<Performed, Failure> {
    let (path, held) = act.shelf.take(package).map_err(|fault| {
        tracing::error!(kb = act.target.kb, %fault, "the package is not installed");
        Failure(fault.hresult)
    })?;
    while wua.is_busy()? || act.shelf.windows().is_running() {
        if !permit.is_alive() {
            return Ok(Performed::PermitExpired);
        }
        std::thread::sleep(BUSY_POLL);
    }
    if wua.reboot_required()? {
        return Err(Failure(INSTALL_NOT_ALLOWED));
    }
    let before = (act.packages)();
    if !permit.is_alive() || !write_down(act, before.as_ref(), permit) {
        return Ok(Performed::PermitExpired);
    }
    let mut ended = match act.shelf.windows().install(&path) {
        Ok(code) => ended(code),
        Err(error) => {
            tracing::error!(%error, "the standalone installer does not start");
            result(FAILED, FAIL, false)
        }
    };
    drop(held);
    ended.packages = difference(before.as_ref(), (act.packages)().as_ref());
    end(act, &ended);
    if ended.is_success() {
        act.shelf.remove(package);
    }
    Ok(Performed::Ended(ended))
}

/// What an exit code of the standalone installer means.
fn ended(code: u32) -> ServicingResult {
    match code {
        0 => result(SUCCEEDED, 0, false),
        REBOOT_REQUIRED | WU_REBOOT_REQUIRED | REBOOT_INITIATED => result(SUCCEEDED, 0, true),
        ALREADY_INSTALLED => result(SUCCEEDED, ALREADY_INSTALLED, false),
        plain @ 1..=0xFFFF => result(FAILED, 0x8007_0000 | plain, false),
        code => result(FAILED, code, false),
    }
}

/// The end of an installation that nobody watched: the installer goes on when the agent is killed. Told
/// by the packages that came, else by what Windows Update says about the KB.
pub(super) fn seen_after(
    wua: &dyn Wua,
    act: &Act,
    begun: &Installation,
) -> Result<ServicingResult, Failure> {
    while wua.is_busy()? || act.shelf.windows().is_running() {
        std::thread::sleep(BUSY_POLL);
    }
    let waits = wua.reboot_required()?;
    let brought = difference(begun.packages_before.as_ref(), (act.packages)().as_ref());
    if brought.iter().any(|name| crate::platform::windows::dism::is_of(&act.target, name)) {
        return Ok(result(SUCCEEDED, 0, waits));
    }
    let found = super::install::known(wua, act.terms.source, &act.target)?;
    if matching(&act.target, &found).any(|update| update.is_installed || update.reboot_required) {
        return Ok(result(SUCCEEDED, 0, waits));
    }
    let history = wua.history(HISTORY)?;
    let is_after = |at: Option<Timestamp>| at.is_none_or(|at| at + CLOCKS >= begun.began);
    let own = history.iter().find(|entry| {
        entry.operation == INSTALLATION
            && is_after(entry.at)
            && kb_in(&entry.title).as_ref() == Some(&act.target.kb)
    });
    Ok(own.map_or(result(ABORTED, CALL_CANCELLED, false), |entry| {
        result(entry.code, entry.hresult, waits)
    }))
}

/// Whether the full name in a certificate (`C=US, O=Microsoft Corporation, CN=…`) is Microsoft's.
pub(super) fn is_microsoft(name: &str) -> bool {
    let mut is_quoted = false;
    let parts = name.split(|char| {
        is_quoted ^= char == '"';
        char == ',' && !is_quoted
    });
    parts.map(str::trim).any(|part| part == "O=Microsoft Corporation")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_of_the_installer_is_told_apart() {
        let told = |code| {
            let ended = ended(code);
            (ended.code, ended.hresult, ended.reboot_required)
        };
        assert_eq!(told(0), (SUCCEEDED, 0, false));
        for code in [3010, 0x0024_0005, 1641] {
            assert_eq!(told(code), (SUCCEEDED, 0, true));
        }
        assert_eq!(told(0x0024_0006), (SUCCEEDED, ALREADY_INSTALLED, false));
        assert_eq!(told(0x8024_0017), (FAILED, 0x8024_0017, false), "not applicable");
        assert_eq!(told(1058), (FAILED, 0x8007_0422, false), "the service is disabled");
    }

    #[test]
    fn only_the_organisation_of_the_signer_is_microsoft() {
        assert!(is_microsoft("C=US, S=Washington, O=Microsoft Corporation, CN=Microsoft Windows"));
        for other in [
            "",
            "CN=Microsoft Corporation",
            "O=Microsoft Corporation Ltd",
            "O=\"Microsoft Corporation, Inc\"",
            "CN=\"x, O=Microsoft Corporation, y\"",
            "OU=Microsoft Corporation",
            "CN=x O=Microsoft Corporation",
            "CN=\"\"\"x, O=Microsoft Corporation, y\"",
        ] {
            assert!(!is_microsoft(other), "{other}");
        }
    }
}
