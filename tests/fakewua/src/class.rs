//! The entrance: which classes there are, and how one of them is made.

use std::ffi::c_void;

use windows::Win32::Foundation::VARIANT_BOOL;
use windows::Win32::Foundation::{CLASS_E_CLASSNOTAVAILABLE, CLASS_E_NOAGGREGATION, S_FALSE};
use windows::Win32::System::Com::IDispatch;
use windows::Win32::System::Com::{IClassFactory, IClassFactory_Impl};
use windows::Win32::System::UpdateAgent::{
    ISystemInformation, ISystemInformation_Impl, IUpdateCollection, IUpdateSession3,
    SystemInformation, UpdateCollection, UpdateSession,
};
use windows_core::{BOOL, BSTR, GUID, HRESULT, IUnknown, Interface, Ref, Result, implement};

use crate::lists::Updates;
use crate::session::Session;
use crate::world;

#[implement(IClassFactory)]
struct Factory(GUID);

impl IClassFactory_Impl for Factory_Impl {
    fn CreateInstance(
        &self,
        outer: Ref<IUnknown>,
        interface: *const GUID,
        object: *mut *mut c_void,
    ) -> Result<()> {
        if !outer.is_null() {
            return Err(CLASS_E_NOAGGREGATION.into());
        }
        let unknown: IUnknown = if self.0 == UpdateSession {
            IUpdateSession3::from(Session::default()).cast()?
        } else if self.0 == UpdateCollection {
            IUpdateCollection::from(Updates::default()).cast()?
        } else {
            ISystemInformation::from(System).cast()?
        };
        // SAFETY: COM hands in a place for the pointer, and the id of the interface.
        unsafe { unknown.query(interface, object).ok() }
    }

    fn LockServer(&self, _: BOOL) -> Result<()> {
        Ok(())
    }
}

#[implement(ISystemInformation, IDispatch)]
struct System;

no_dispatch!(System_Impl);

impl ISystemInformation_Impl for System_Impl {
    absent! { OemHardwareSupportLink() -> BSTR; }

    fn RebootRequired(&self) -> Result<VARIANT_BOOL> {
        world::with(|world| world.reboot_required.into())
    }
}

/// What COM asks of a server in a DLL.
///
/// # Safety
/// The pointers are COM's own.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn DllGetClassObject(
    class: *const GUID,
    interface: *const GUID,
    object: *mut *mut c_void,
) -> HRESULT {
    // SAFETY: COM hands in the id of the class.
    let class = unsafe { *class };
    if ![UpdateSession, UpdateCollection, SystemInformation].contains(&class) {
        return CLASS_E_CLASSNOTAVAILABLE;
    }
    let factory: IClassFactory = Factory(class).into();
    // SAFETY: COM hands in a place for the pointer, and the id of the interface.
    unsafe { factory.query(interface, object) }
}

/// It may never be unloaded: calls that were left behind are still inside.
#[unsafe(no_mangle)]
pub extern "system" fn DllCanUnloadNow() -> HRESULT {
    S_FALSE
}
