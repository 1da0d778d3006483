//! Downloading and installing.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use windows::Win32::Foundation::{E_INVALIDARG, HWND, VARIANT_BOOL, VARIANT_FALSE};
use windows::Win32::System::Com::IDispatch;
use windows::Win32::System::UpdateAgent::{
    DownloadPriority, IDownloadJob, IDownloadResult, IDownloadResult_Impl, IInstallationJob,
    IInstallationResult, IInstallationResult_Impl, IUpdateCollection, IUpdateDownloadResult,
    IUpdateDownloadResult_Impl, IUpdateDownloader, IUpdateDownloader_Impl,
    IUpdateInstallationResult, IUpdateInstallationResult_Impl, IUpdateInstaller,
    IUpdateInstaller_Impl, IUpdateInstaller2, IUpdateInstaller2_Impl, IUpdateInstaller3,
    IUpdateInstaller3_Impl, IUpdateInstaller4, IUpdateInstaller4_Impl, OperationResultCode,
};
use windows::Win32::System::Variant::VARIANT;
use windows_core::{BSTR, HRESULT, IUnknown, Ref, Result, implement};

use crate::session::Name;
use crate::world::{self, UnderWay, hresult, now_ms};

/// WU_E_INSTALL_NOT_ALLOWED.
const NOT_ALLOWED: HRESULT = HRESULT(0x8024_0016_u32 as i32);
/// WU_E_EXCLUSIVE_INSTALL_CONFLICT.
const EXCLUSIVE_CONFLICT: HRESULT = HRESULT(0x8024_0019_u32 as i32);
/// WU_E_EULAS_DECLINED.
const EULAS_DECLINED: HRESULT = HRESULT(0x8024_0023_u32 as i32);
/// WU_E_NO_UPDATE.
const NO_UPDATE: HRESULT = HRESULT(0x8024_0024_u32 as i32);
/// WU_E_DM_NOTDOWNLOADED.
const NOT_DOWNLOADED: HRESULT = HRESULT(0x8024_6003_u32 as i32);

/// How an act on one update ended.
#[derive(Clone, Copy)]
struct End {
    hresult: i32,
    reboot_required: bool,
}

impl End {
    fn code(self) -> OperationResultCode {
        OperationResultCode(if self.hresult == 0 { 2 } else { 4 })
    }
}

#[derive(Default)]
struct Chosen(Mutex<Option<IUpdateCollection>>);

impl Chosen {
    fn set(&self, updates: Ref<IUpdateCollection>) -> Result<()> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(updates.ok()?.clone());
        Ok(())
    }

    /// The id of the one update that was chosen: the agent never acts on several at once.
    fn only(&self) -> Result<String> {
        let mut ids = self.all()?;
        match ids.len() {
            1 => Ok(ids.remove(0)),
            _ => Err(E_INVALIDARG.into()),
        }
    }

    /// The same for an installation, where Windows refuses an exclusive update in company (Windows
    /// documentation, "Windows Update error codes by component").
    fn to_install(&self) -> Result<String> {
        let ids = self.all()?;
        let has_exclusive = world::with(|world| {
            let is_exclusive = |id: &String| world.update(id).is_some_and(|it| it.is_exclusive);
            ids.iter().any(is_exclusive)
        })?;
        if has_exclusive && ids.len() > 1 {
            return Err(EXCLUSIVE_CONFLICT.into());
        }
        self.only()
    }

    fn all(&self) -> Result<Vec<String>> {
        let chosen = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let chosen = chosen.ok_or(NO_UPDATE)?;
        // SAFETY: the collection is one of ours, and every method of it is safe on any thread.
        unsafe {
            (0..chosen.Count()?)
                .map(|index| Ok(chosen.get_Item(index)?.Identity()?.UpdateID()?.to_string()))
                .collect()
        }
    }
}

/// The downloader.
#[implement(IUpdateDownloader, IDispatch)]
#[derive(Default)]
pub struct Downloader {
    chosen: Chosen,
}

no_dispatch!(Downloader_Impl);

impl IUpdateDownloader_Impl for Downloader_Impl {
    absent! {
        ClientApplicationID() -> BSTR;
        SetClientApplicationID(&BSTR) -> ();
        IsForced() -> VARIANT_BOOL;
        SetIsForced(VARIANT_BOOL) -> ();
        Priority() -> DownloadPriority;
        SetPriority(DownloadPriority) -> ();
        Updates() -> IUpdateCollection;
        BeginDownload(Ref<IUnknown>, Ref<IUnknown>, &VARIANT) -> IDownloadJob;
        EndDownload(Ref<IDownloadJob>) -> IDownloadResult;
    }

    fn SetUpdates(&self, value: Ref<IUpdateCollection>) -> Result<()> {
        self.chosen.set(value)
    }

    fn Download(&self) -> Result<IDownloadResult> {
        let id = self.chosen.only()?;
        let update = world::with(|world| {
            world.log("Download", &id, "");
            world.update(&id).cloned()
        })?
        .ok_or(NO_UPDATE)?;
        if update.needs_eula {
            return Err(EULAS_DECLINED.into());
        }
        if let Some(fails) = &update.download.call_fails {
            return Err(hresult(fails).into());
        }
        std::thread::sleep(Duration::from_millis(update.download.takes_ms));
        let hresult = update.download.fails.as_deref().map_or(0, |fails| hresult(fails).0);
        if hresult == 0 {
            world::with(|world| {
                if let Some(update) = world.update(&id) {
                    update.is_downloaded = true;
                }
            })?;
        }
        Ok(Downloaded(End { hresult, reboot_required: false }).into())
    }
}

#[implement(IDownloadResult, IUpdateDownloadResult, IDispatch)]
struct Downloaded(End);

no_dispatch!(Downloaded_Impl);

impl IDownloadResult_Impl for Downloaded_Impl {
    fn HResult(&self) -> Result<i32> {
        Ok(self.0.hresult)
    }

    fn ResultCode(&self) -> Result<OperationResultCode> {
        Ok(self.0.code())
    }

    fn GetUpdateResult(&self, _: i32) -> Result<IUpdateDownloadResult> {
        Ok(Downloaded(self.0).into())
    }
}

impl IUpdateDownloadResult_Impl for Downloaded_Impl {
    fn HResult(&self) -> Result<i32> {
        Ok(self.0.hresult)
    }

    fn ResultCode(&self) -> Result<OperationResultCode> {
        Ok(self.0.code())
    }
}

/// The installer.
#[implement(IUpdateInstaller4, IUpdateInstaller3, IUpdateInstaller2, IUpdateInstaller, IDispatch)]
#[derive(Default)]
pub struct Installer {
    chosen: Chosen,
    client: Name,
}

no_dispatch!(Installer_Impl);

impl IUpdateInstaller_Impl for Installer_Impl {
    absent! {
        IsForced() -> VARIANT_BOOL;
        SetIsForced(VARIANT_BOOL) -> ();
        ParentHwnd() -> HWND;
        SetParentHwnd(HWND) -> ();
        SetParentWindow(Ref<IUnknown>) -> ();
        ParentWindow() -> IUnknown;
        Updates() -> IUpdateCollection;
        BeginInstall(Ref<IUnknown>, Ref<IUnknown>, &VARIANT) -> IInstallationJob;
        BeginUninstall(Ref<IUnknown>, Ref<IUnknown>, &VARIANT) -> IInstallationJob;
        EndInstall(Ref<IInstallationJob>) -> IInstallationResult;
        EndUninstall(Ref<IInstallationJob>) -> IInstallationResult;
        RunWizard(&BSTR) -> IInstallationResult;
        Uninstall() -> IInstallationResult;
        AllowSourcePrompts() -> VARIANT_BOOL;
    }

    fn ClientApplicationID(&self) -> Result<BSTR> {
        Ok(BSTR::from(self.client.get().as_str()))
    }

    fn SetClientApplicationID(&self, value: &BSTR) -> Result<()> {
        self.client.set(value);
        Ok(())
    }

    fn SetUpdates(&self, value: Ref<IUpdateCollection>) -> Result<()> {
        self.chosen.set(value)
    }

    fn SetAllowSourcePrompts(&self, _: VARIANT_BOOL) -> Result<()> {
        Ok(())
    }

    fn IsBusy(&self) -> Result<VARIANT_BOOL> {
        world::with(|world| world.is_busy().into())
    }

    fn RebootRequiredBeforeInstallation(&self) -> Result<VARIANT_BOOL> {
        world::with(|world| world.reboot_required.into())
    }

    fn Install(&self) -> Result<IInstallationResult> {
        let (id, client) = (self.chosen.to_install()?, self.client.get());
        let begun = world::with(|world| {
            world.log("Install", &id, &client);
            let is_busy = world.is_busy();
            let update = world.update(&id).ok_or(NO_UPDATE)?;
            let script = &mut update.install;
            match script.fails_left.as_mut() {
                Some(0) => script.fails = None,
                Some(left) => *left -= 1,
                None => {}
            }
            let update = update.clone();
            if is_busy {
                return Err(NOT_ALLOWED);
            }
            if update.needs_eula {
                return Err(EULAS_DECLINED);
            }
            if !update.is_downloaded {
                return Err(NOT_DOWNLOADED);
            }
            if let Some(fails) = &update.install.call_fails {
                return Err(hresult(fails));
            }
            let script = &update.install;
            let ends = (!script.hangs).then(|| now_ms() + script.takes_ms);
            world.under_way.push(UnderWay { id: id.clone(), client, ends });
            Ok(update)
        })?;
        let update = begun?;
        while world::with(|world| world.under_way.iter().any(|act| act.id == id))? {
            std::thread::sleep(Duration::from_millis(50));
        }
        let hresult = update.install.fails.as_deref().map_or(0, |fails| hresult(fails).0);
        let reboot_required = hresult == 0 && update.install.needs_reboot;
        Ok(Installed(End { hresult, reboot_required }).into())
    }
}

impl IUpdateInstaller2_Impl for Installer_Impl {
    fn ForceQuiet(&self) -> Result<VARIANT_BOOL> {
        Ok(VARIANT_FALSE)
    }

    fn SetForceQuiet(&self, _: VARIANT_BOOL) -> Result<()> {
        Ok(())
    }
}

impl IUpdateInstaller3_Impl for Installer_Impl {
    absent! {
        AttemptCloseAppsIfNecessary() -> VARIANT_BOOL;
        SetAttemptCloseAppsIfNecessary(VARIANT_BOOL) -> ();
    }
}

impl IUpdateInstaller4_Impl for Installer_Impl {
    fn Commit(&self, flags: u32) -> Result<()> {
        if flags != 0 {
            return Err(E_INVALIDARG.into());
        }
        world::with(|world| world.log("Commit", "", ""))
    }
}

#[implement(IInstallationResult, IUpdateInstallationResult, IDispatch)]
struct Installed(End);

no_dispatch!(Installed_Impl);

impl IInstallationResult_Impl for Installed_Impl {
    fn HResult(&self) -> Result<i32> {
        Ok(self.0.hresult)
    }

    fn RebootRequired(&self) -> Result<VARIANT_BOOL> {
        Ok(self.0.reboot_required.into())
    }

    fn ResultCode(&self) -> Result<OperationResultCode> {
        Ok(self.0.code())
    }

    fn GetUpdateResult(&self, _: i32) -> Result<IUpdateInstallationResult> {
        Ok(Installed(self.0).into())
    }
}

impl IUpdateInstallationResult_Impl for Installed_Impl {
    fn HResult(&self) -> Result<i32> {
        Ok(self.0.hresult)
    }

    fn RebootRequired(&self) -> Result<VARIANT_BOOL> {
        Ok(self.0.reboot_required.into())
    }

    fn ResultCode(&self) -> Result<OperationResultCode> {
        Ok(self.0.code())
    }
}
