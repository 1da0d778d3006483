//! A Windows Update for tests under Wine: the COM classes of the Windows Update Agent, registered in
//! a prefix in place of Wine's own, over a world in `C:\fakewua\world.json`.
//!
//! What is installed "goes on in the service": an installation that its caller does not live to see
//! ends all the same, because its end stands in the world. Every call that could change a device is
//! a line in `C:\fakewua\calls.jsonl`. Interfaces are those of Microsoft's sdk-api,
//! `sdk-api-src/content/wuapi`; what the agent does not use answers E_NOTIMPL.
#![cfg(windows)]
#![allow(non_snake_case, reason = "the methods have the names of their interfaces")]
#![allow(unsafe_code, reason = "a COM server is made of it")]

/// Answers E_NOTIMPL for methods that nothing here uses.
macro_rules! absent {
    ($($name:ident($($argument:ty),*) -> $result:ty;)*) => {
        $(fn $name(&self $(, _: $argument)*) -> windows_core::Result<$result> {
            Err(windows::Win32::Foundation::E_NOTIMPL.into())
        })*
    };
}

/// IDispatch for a class: nothing here is called by name.
macro_rules! no_dispatch {
    ($class:ident) => {
        impl windows::Win32::System::Com::IDispatch_Impl for $class {
            fn GetTypeInfoCount(&self) -> windows_core::Result<u32> {
                Ok(0)
            }
            fn GetTypeInfo(
                &self,
                _: u32,
                _: u32,
            ) -> windows_core::Result<windows::Win32::System::Com::ITypeInfo> {
                Err(windows::Win32::Foundation::E_NOTIMPL.into())
            }
            fn GetIDsOfNames(
                &self,
                _: *const windows_core::GUID,
                _: *const windows_core::PCWSTR,
                _: u32,
                _: u32,
                _: *mut i32,
            ) -> windows_core::Result<()> {
                Err(windows::Win32::Foundation::E_NOTIMPL.into())
            }
            fn Invoke(
                &self,
                _: i32,
                _: *const windows_core::GUID,
                _: u32,
                _: windows::Win32::System::Com::DISPATCH_FLAGS,
                _: *const windows::Win32::System::Com::DISPPARAMS,
                _: *mut windows::Win32::System::Variant::VARIANT,
                _: *mut windows::Win32::System::Com::EXCEPINFO,
                _: *mut u32,
            ) -> windows_core::Result<()> {
                Err(windows::Win32::Foundation::E_NOTIMPL.into())
            }
        }
    };
}

mod acts;
mod class;
mod lists;
mod services;
mod session;
mod update;
mod world;
