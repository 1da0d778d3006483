//! A connection to WMI, for the few questions that nothing else answers.

use windows::Win32::Foundation::ERROR_NOT_FOUND;
use windows::Win32::System::Com::{
    CLSCTX_INPROC_SERVER, CoCreateInstance, CoSetProxyBlanket, EOAC_NONE, RPC_C_AUTHN_LEVEL_CALL,
    RPC_C_AUTHN_LEVEL_PKT_PRIVACY, RPC_C_IMP_LEVEL_IMPERSONATE,
};
use windows::Win32::System::Rpc::{RPC_C_AUTHN_WINNT, RPC_C_AUTHZ_NONE};
use windows::Win32::System::Variant::{VARIANT, VT_BSTR};
use windows::Win32::System::Wmi::{
    IWbemClassObject, IWbemContext, IWbemLocator, IWbemServices, WBEM_FLAG_FORWARD_ONLY,
    WBEM_FLAG_RETURN_IMMEDIATELY, WBEM_GENERIC_FLAG_TYPE, WBEM_INFINITE, WbemLocator,
};
use windows::core::{BSTR, HSTRING, IUnknown, Interface, PCWSTR, Result};

use super::wua::Com;

/// How what travels to WMI is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Privacy {
    /// Each call is authenticated.
    Call,
    /// It is encrypted as well, without which some providers do not answer.
    Packet,
}

/// A namespace of WMI on this computer. COM ends on this thread with the value.
pub(super) struct Wmi {
    services: IWbemServices,
    privacy: Privacy,
    // Last: the proxy is released before COM ends on this thread.
    _com: Com,
}

impl Wmi {
    /// Connects. Blocks for as long as WMI does.
    pub(super) fn connect(namespace: &str, privacy: Privacy) -> Result<Wmi> {
        let com = Com::begin()?;
        // SAFETY: COM runs on this thread until `com` is dropped, and there is no outer object.
        let locator: IWbemLocator =
            unsafe { CoCreateInstance(&WbemLocator, None, CLSCTX_INPROC_SERVER)? };
        let (namespace, none) = (BSTR::from(namespace), BSTR::new());
        let context = None::<&IWbemContext>;
        // SAFETY: the texts live through the call; empty ones mean the caller and this computer.
        let services =
            unsafe { locator.ConnectServer(&namespace, &none, &none, &none, 0, &none, context)? };
        protect(&services, privacy)?;
        Ok(Wmi { services, privacy, _com: com })
    }

    /// The object at a path, or a class by its name; WMI makes one where it can.
    pub(super) fn object(&self, path: &str) -> Result<IWbemClassObject> {
        let mut object = None;
        // SAFETY: path and object live through the call.
        unsafe {
            self.services.GetObject(
                &BSTR::from(path),
                WBEM_GENERIC_FLAG_TYPE(0),
                None::<&IWbemContext>,
                Some(&mut object),
                None,
            )?;
        }
        object.ok_or_else(windows::core::Error::empty)
    }

    /// The first object that a query finds.
    pub(super) fn first(&self, query: &str) -> Result<IWbemClassObject> {
        let (language, query) = (BSTR::from("WQL"), BSTR::from(query));
        // SAFETY: the texts live through the call.
        let found = unsafe {
            let flags = WBEM_FLAG_FORWARD_ONLY | WBEM_FLAG_RETURN_IMMEDIATELY;
            self.services.ExecQuery(&language, &query, flags, None::<&IWbemContext>)?
        };
        protect(&found, self.privacy)?;
        let (mut objects, mut count) = ([None], 0);
        // SAFETY: both places live through the call, and there is room for the one object.
        unsafe { found.Next(WBEM_INFINITE, &mut objects, &mut count) }.ok()?;
        let [object] = objects;
        object.ok_or_else(|| ERROR_NOT_FOUND.into())
    }

    /// Calls a method of an object or class; its answer.
    pub(super) fn call(
        &self,
        path: &str,
        method: &str,
        arguments: Option<&IWbemClassObject>,
    ) -> Result<IWbemClassObject> {
        let mut answer = None;
        // SAFETY: texts, arguments and answer live through the call.
        unsafe {
            self.services.ExecMethod(
                &BSTR::from(path),
                &BSTR::from(method),
                WBEM_GENERIC_FLAG_TYPE(0),
                None::<&IWbemContext>,
                arguments,
                Some(&mut answer),
                None,
            )?;
        }
        answer.ok_or_else(windows::core::Error::empty)
    }
}

/// Sets how calls over a proxy travel; each proxy has a setting of its own.
fn protect<P: Interface>(proxy: &P, privacy: Privacy) -> Result<()> {
    let proxy: IUnknown = proxy.cast()?;
    let level = match privacy {
        Privacy::Call => RPC_C_AUTHN_LEVEL_CALL,
        Privacy::Packet => RPC_C_AUTHN_LEVEL_PKT_PRIVACY,
    };
    // SAFETY: the proxy is alive; the rest are plain values. The agent asks as itself.
    unsafe {
        CoSetProxyBlanket(
            &proxy,
            RPC_C_AUTHN_WINNT,
            RPC_C_AUTHZ_NONE,
            PCWSTR::null(),
            level,
            RPC_C_IMP_LEVEL_IMPERSONATE,
            None,
            EOAC_NONE,
        )
    }
}

/// A property of an object.
pub(super) fn property(object: &IWbemClassObject, name: &str) -> Result<VARIANT> {
    let mut value = VARIANT::default();
    // SAFETY: the name and the value live through the call; the value clears itself.
    unsafe { object.Get(&HSTRING::from(name), 0, &mut value, None, None)? };
    Ok(value)
}

/// A value that is a text.
pub(super) fn text(value: &VARIANT) -> Result<String> {
    // SAFETY: every value says of what kind it is, and its fields are plain memory.
    let (kind, fields) = unsafe { (value.vt(), &value.Anonymous.Anonymous.Anonymous) };
    if kind != VT_BSTR {
        return Err(windows::core::Error::empty());
    }
    // SAFETY: of this kind, the text is what the value holds; it is copied while the value lives.
    Ok(unsafe { fields.bstrVal.to_string() })
}
