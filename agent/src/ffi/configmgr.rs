//! What the ConfigMgr client says about a restart, over WMI.

use windows::Win32::System::Com::{
    CLSCTX_INPROC_SERVER, CoCreateInstance, CoSetProxyBlanket, EOAC_NONE, RPC_C_AUTHN_LEVEL_CALL,
    RPC_C_IMP_LEVEL_IMPERSONATE,
};
use windows::Win32::System::Rpc::{RPC_C_AUTHN_WINNT, RPC_C_AUTHZ_NONE};
use windows::Win32::System::Variant::VARIANT;
use windows::Win32::System::Wmi::{
    IWbemClassObject, IWbemContext, IWbemLocator, WBEM_GENERIC_FLAG_TYPE, WbemLocator,
};
use windows::core::{BSTR, HSTRING, PCWSTR};

use super::wua::Com;

/// Whether the ConfigMgr client waits for a restart, soft or hard. Blocks for as long as WMI does.
///
/// # Errors
/// WMI or the client does not answer.
pub fn configmgr_waits_for_restart() -> windows::core::Result<bool> {
    let _com = Com::begin()?;
    // SAFETY: COM runs on this thread until the end of the function, and there is no outer object.
    let locator: IWbemLocator =
        unsafe { CoCreateInstance(&WbemLocator, None, CLSCTX_INPROC_SERVER)? };
    let (namespace, none) = (BSTR::from(r"ROOT\ccm\ClientSDK"), BSTR::new());
    let context = None::<&IWbemContext>;
    // SAFETY: the texts live through the call; empty ones mean the caller and this computer.
    let client =
        unsafe { locator.ConnectServer(&namespace, &none, &none, &none, 0, &none, context)? };
    // SAFETY: the proxy is alive; the rest are plain values. The agent asks as itself.
    unsafe {
        CoSetProxyBlanket(
            &client,
            RPC_C_AUTHN_WINNT,
            RPC_C_AUTHZ_NONE,
            PCWSTR::null(),
            RPC_C_AUTHN_LEVEL_CALL,
            RPC_C_IMP_LEVEL_IMPERSONATE,
            None,
            EOAC_NONE,
        )?;
    }
    let (class, method) =
        (BSTR::from("CCM_ClientUtilities"), BSTR::from("DetermineIfRebootPending"));
    let mut answer = None;
    // SAFETY: texts and answer live through the call; the method takes nothing.
    unsafe {
        client.ExecMethod(
            &class,
            &method,
            WBEM_GENERIC_FLAG_TYPE(0),
            context,
            None::<&IWbemClassObject>,
            Some(&mut answer),
            None,
        )?;
    }
    let answer = answer.ok_or_else(windows::core::Error::empty)?;
    Ok(is_set(&answer, "IsHardRebootPending")? || is_set(&answer, "RebootPending")?)
}

fn is_set(answer: &IWbemClassObject, name: &str) -> windows::core::Result<bool> {
    let mut value = VARIANT::default();
    // SAFETY: the name and the value live through the call; the value clears itself.
    unsafe { answer.Get(&HSTRING::from(name), 0, &mut value, None, None)? };
    bool::try_from(&value)
}
