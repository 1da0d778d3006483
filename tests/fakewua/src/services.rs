//! The sources that are registered.

use windows::Win32::Foundation::VARIANT_BOOL;
use windows::Win32::System::Com::IDispatch;
use windows::Win32::System::UpdateAgent::{
    IUpdateService, IUpdateService2, IUpdateServiceCollection, IUpdateServiceManager,
    IUpdateServiceManager_Impl, IUpdateServiceManager2, IUpdateServiceManager2_Impl,
    IUpdateServiceRegistration, IUpdateServiceRegistration_Impl, UpdateServiceRegistrationState,
    usrsRegistered,
};
use windows::Win32::System::Variant::VARIANT;
use windows_core::{BSTR, Result, implement};

use crate::world::{self, hresult};

/// The manager.
#[implement(IUpdateServiceManager2, IUpdateServiceManager, IDispatch)]
pub struct Services;

no_dispatch!(Services_Impl);

impl IUpdateServiceManager_Impl for Services_Impl {
    absent! {
        Services() -> IUpdateServiceCollection;
        AddService(&BSTR, &BSTR) -> IUpdateService;
        RegisterServiceWithAU(&BSTR) -> ();
        RemoveService(&BSTR) -> ();
        UnregisterServiceWithAU(&BSTR) -> ();
        AddScanPackageService(&BSTR, &BSTR, i32) -> IUpdateService;
        SetOption(&BSTR, &VARIANT) -> ();
    }
}

impl IUpdateServiceManager2_Impl for Services_Impl {
    absent! {
        ClientApplicationID() -> BSTR;
        QueryServiceRegistration(&BSTR) -> IUpdateServiceRegistration;
    }

    fn SetClientApplicationID(&self, _: &BSTR) -> Result<()> {
        Ok(())
    }

    fn AddService2(&self, id: &BSTR, flags: i32, _: &BSTR) -> Result<IUpdateServiceRegistration> {
        let fails = world::with(|world| {
            world.log(&format!("AddService2 {flags}"), &id.to_string(), "");
            if world.register_fails.is_none() {
                world.services.push(id.to_string());
            }
            world.register_fails.clone()
        })?;
        match fails {
            Some(fails) => Err(hresult(&fails).into()),
            None => Ok(Registration.into()),
        }
    }
}

#[implement(IUpdateServiceRegistration, IDispatch)]
struct Registration;

no_dispatch!(Registration_Impl);

impl IUpdateServiceRegistration_Impl for Registration_Impl {
    absent! {
        ServiceID() -> BSTR;
        IsPendingRegistrationWithAU() -> VARIANT_BOOL;
        Service() -> IUpdateService2;
    }

    fn RegistrationState(&self) -> Result<UpdateServiceRegistrationState> {
        Ok(usrsRegistered)
    }
}
