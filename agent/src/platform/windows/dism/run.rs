//! Removing packages with Windows' own `dism.exe`, and looking afterwards whether they are gone.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use wardring_seal::UpdateTarget;

use super::super::boots::OwnBoot;
use super::super::registry::LocalMachine;
use super::beside::Begun;
use super::package::{Identity, State, installed};
use super::plan::plan;
use super::table;
use crate::ffi;
use crate::hresult::Hresult;
use crate::platform::{Performed, Permit};
use crate::state::{ServicingResult, StoreState};

/// OperationResultCode.
const SUCCEEDED: i32 = 2;
const FAILED: i32 = 4;
/// E_UNEXPECTED: DISM said that all is well, and the package is still in force.
const UNEXPECTED: u32 = 0x8000_FFFF;
/// E_FAIL, where DISM could not even be started.
const FAIL: u32 = 0x8000_4005;
/// ERROR_SUCCESS_REBOOT_REQUIRED.
const REBOOT_REQUIRED: u32 = 3010;
/// After this long no further package is begun: five minutes before the job calls the removal a failure.
const GIVEN_UP: Duration = Duration::from_secs(3 * 3600 - 300);
/// How often it is looked whether an earlier DISM is done.
const BUSY_POLL: Duration = Duration::from_secs(1);

/// Removes an update by the identities that its installation brought, in reverse order. Blocks for
/// as long as DISM takes. One that is gone, or goes with the next restart, counts as removed, whoever
/// removed it.
pub(in crate::platform::windows) fn uninstall(
    boot: &OwnBoot,
    update: &UpdateTarget,
    identities: &[String],
    permit: Permit,
) -> Performed {
    if !is_alone(boot, permit) {
        return Performed::PermitExpired;
    }
    let packages = match installed(&LocalMachine) {
        Ok(packages) => packages,
        Err(error) => {
            tracing::error!(%error, "nothing is removed from a Windows that cannot be read");
            return Performed::Ended(failed(FAIL));
        }
    };
    let plan = match plan(update, identities, &packages) {
        Ok(plan) => plan,
        Err(refusal) => {
            tracing::error!(kb = update.kb, %refusal, "nothing is removed");
            return Performed::Ended(failed(refusal.hresult()));
        }
    };
    if !plan.left.is_empty() && !permit.is_alive() {
        return Performed::PermitExpired;
    }
    let mut reboot_required = plan.is_going;
    let began = Instant::now();
    for identity in &plan.left {
        // Nobody waits for it any more, and its job has ended.
        if began.elapsed() >= GIVEN_UP {
            tracing::error!(kb = update.kb, "the removal took too long, and is not gone on with");
            return Performed::Ended(ServicingResult { reboot_required, ..failed(FAIL) });
        }
        match remove(boot, identity) {
            Ok(asks) => reboot_required |= asks,
            // Another one may have come first, and have left this one nothing to do.
            Err(_) if listed().is_ok_and(|listed| is_gone(&listed, identity)) => {}
            // What the removals before it asked for stands all the same.
            Err(hresult) => {
                return Performed::Ended(ServicingResult { reboot_required, ..failed(hresult) });
            }
        }
    }
    Performed::Ended(verify(&plan.known, reboot_required))
}

/// Waits as long as the permit lives for a DISM that an agent before this one left at work; whether none
/// is.
fn is_alone(boot: &OwnBoot, permit: Permit) -> bool {
    let mut is_told = false;
    while let Some(begun) = left_at_work(boot) {
        if !permit.is_alive() {
            return false;
        }
        if !is_told {
            tracing::info!(pid = begun.pid, "the removal waits for one that is under way already");
            is_told = true;
        }
        std::thread::sleep(BUSY_POLL);
    }
    true
}

fn left_at_work(boot: &OwnBoot) -> Option<Begun> {
    let begun = Begun::parse(&boot.last_removal()?)?;
    let made = ffi::running_since(begun.pid)?;
    begun.is_waited_for(made, ffi::uptime_ms()).then_some(begun)
}

/// Removes one package; whether Windows asks for a restart.
fn remove(boot: &OwnBoot, identity: &Identity) -> Result<bool, u32> {
    let name = format!("/PackageName:{}", identity.as_str());
    let arguments = ["/Online", "/English", "/Quiet", "/NoRestart", "/Remove-Package", &name];
    let ran = dism_noted(&arguments, |child| {
        let (pid, uptime_ms) = (child.id(), ffi::uptime_ms());
        let noted = ffi::made(child)
            .and_then(|made| boot.note_removal(&Begun { pid, made, uptime_ms }.to_string()));
        if let Err(error) = noted {
            tracing::warn!(%error, "another agent of this boot would not know that this DISM runs");
        }
    })?;
    tracing::info!(package = identity.as_str(), code = format!("0x{:08X}", ran.code), "dism ended");
    match ran.code {
        0 => Ok(false),
        REBOOT_REQUIRED => Ok(true),
        code => {
            let complaint = table::complaint(&ran.output);
            tracing::warn!(package = identity.as_str(), complaint, "dism removed nothing");
            Err(code)
        }
    }
}

/// Believes no exit code: asks DISM what is there now.
fn verify(known: &[Identity], reboot_required: bool) -> ServicingResult {
    let listed = match listed() {
        Ok(listed) => listed,
        Err(hresult) => return ServicingResult { reboot_required, ..failed(hresult) },
    };
    if let Some(left) = known.iter().find(|identity| !is_gone(&listed, identity)) {
        tracing::error!(package = left.as_str(), "dism says that it removed what is still there");
        return ServicingResult { reboot_required, ..failed(UNEXPECTED) };
    }
    let pends = known.iter().any(|identity| listed.get(identity) == Some(&State::UninstallPending));
    ServicingResult {
        code: SUCCEEDED,
        hresult: 0,
        reboot_required: reboot_required || pends,
        packages: known.iter().map(|identity| identity.as_str().to_owned()).collect(),
    }
}

/// Whether a package is not in force any more, or will not be after the next restart.
fn is_gone(listed: &BTreeMap<Identity, State>, identity: &Identity) -> bool {
    matches!(listed.get(identity), None | Some(State::Absent | State::UninstallPending))
}

/// The packages as DISM lists them.
///
/// # Errors
/// The code that DISM ended with, or why there is no list.
pub(in crate::platform::windows) fn listed() -> Result<BTreeMap<Identity, State>, u32> {
    let ran = dism(&["/Online", "/English", "/Get-Packages", "/Format:Table"])?;
    let listed = table::packages(&ran.output);
    // Every Windows has packages: a list without any was not understood.
    if ran.code != 0 || listed.is_empty() {
        let complaint = table::complaint(&ran.output);
        tracing::error!(code = format!("0x{:08X}", ran.code), complaint, "dism lists no packages");
        return Err(if ran.code == 0 { UNEXPECTED } else { ran.code });
    }
    Ok(listed)
}

/// What DISM says of the component store. It looks for a mark alone and ends within seconds.
pub(in crate::platform::windows) fn health() -> StoreState {
    match dism(&["/Online", "/English", "/Cleanup-Image", "/CheckHealth"]) {
        Ok(Ran { code: 0, output }) => super::health::read(&output),
        Ok(Ran { code, .. }) | Err(code) => {
            StoreState::Unknown(format!("DISM ended with {}", Hresult(code).explanation()))
        }
    }
}

struct Ran {
    code: u32,
    output: String,
}

/// Runs Windows' own DISM: by its absolute path, which Windows tells, never by a search path or a
/// setting. It is not ended when it takes long: a removal that is cut leaves Windows half changed.
fn dism(arguments: &[&str]) -> Result<Ran, u32> {
    dism_noted(arguments, |_| ())
}

/// The same; `note` is told the process as soon as it runs.
fn dism_noted(arguments: &[&str], note: impl FnOnce(&Child)) -> Result<Ran, u32> {
    let failed = |error: std::io::Error| {
        tracing::error!(%error, "dism does not start");
        FAIL
    };
    let folder = ffi::system_folder().map_err(|error| error.code().0.cast_unsigned())?;
    let child = Command::new(folder.join("dism.exe"))
        .args(arguments)
        .current_dir(&folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    note(&child);
    let ran = child.wait_with_output().map_err(failed)?;
    let code = ran.status.code().map_or(FAIL, i32::cast_unsigned);
    Ok(Ran { code, output: String::from_utf8_lossy(&ran.stdout).into_owned() })
}

fn failed(hresult: u32) -> ServicingResult {
    ServicingResult { code: FAILED, hresult, reboot_required: false, packages: Vec::new() }
}
