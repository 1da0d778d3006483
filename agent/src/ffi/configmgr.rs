//! What the ConfigMgr client says about a restart, over WMI.

use windows::Win32::System::Wmi::IWbemClassObject;

use super::wmi::{Privacy, Wmi, property};

/// Whether the ConfigMgr client waits for a restart, soft or hard. Blocks for as long as WMI does.
///
/// # Errors
/// WMI or the client does not answer.
pub fn configmgr_waits_for_restart() -> windows::core::Result<bool> {
    let wmi = Wmi::connect(r"ROOT\ccm\ClientSDK", Privacy::Call)?;
    let answer = wmi.call("CCM_ClientUtilities", "DetermineIfRebootPending", None)?;
    Ok(is_set(&answer, "IsHardRebootPending")? || is_set(&answer, "RebootPending")?)
}

fn is_set(answer: &IWbemClassObject, name: &str) -> windows::core::Result<bool> {
    bool::try_from(&property(answer, name)?)
}
