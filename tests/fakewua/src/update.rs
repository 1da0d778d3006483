//! One update, as a search found it.

use windows::Win32::Foundation::{
    DECIMAL, DECIMAL_0, DECIMAL_1, VARIANT_BOOL, VARIANT_FALSE, VARIANT_TRUE,
};
use windows::Win32::System::Com::IDispatch;
use windows::Win32::System::UpdateAgent::{
    DeploymentAction, DownloadPriority, ICategoryCollection, IImageInformation,
    IInstallationBehavior, IInstallationBehavior_Impl, IStringCollection, IUpdate, IUpdate_Impl,
    IUpdate2, IUpdate2_Impl, IUpdate3, IUpdate3_Impl, IUpdateCollection,
    IUpdateDownloadContentCollection, IUpdateHistoryEntry, IUpdateHistoryEntry_Impl,
    IUpdateIdentity, IUpdateIdentity_Impl, InstallationImpact, InstallationRebootBehavior,
    OperationResultCode, ServerSelection, UpdateOperation, UpdateType, daInstallation, iiNormal,
    iiRequiresExclusiveHandling, utDriver, utSoftware,
};
use windows::Win32::System::Variant::VARIANT;
use windows_core::{BSTR, Ref, Result, implement};

use crate::lists::{Categories, Texts};
use crate::world::{self, Entry, Update, hresult};

/// An update of the world, as it was when it was found.
#[implement(IUpdate3, IUpdate2, IUpdate, IDispatch)]
pub struct Found(pub Update);

no_dispatch!(Found_Impl);

fn text(text: &str) -> Result<BSTR> {
    Ok(BSTR::from(text))
}

impl IUpdate_Impl for Found_Impl {
    absent! {
        AutoSelectOnWebSites() -> VARIANT_BOOL;
        BundledUpdates() -> IUpdateCollection;
        CanRequireSource() -> VARIANT_BOOL;
        Deadline() -> VARIANT;
        DeltaCompressedContentAvailable() -> VARIANT_BOOL;
        DeltaCompressedContentPreferred() -> VARIANT_BOOL;
        Description() -> BSTR;
        EulaText() -> BSTR;
        HandlerID() -> BSTR;
        Image() -> IImageInformation;
        IsBeta() -> VARIANT_BOOL;
        IsMandatory() -> VARIANT_BOOL;
        Languages() -> IStringCollection;
        MinDownloadSize() -> DECIMAL;
        MoreInfoUrls() -> IStringCollection;
        RecommendedCpuSpeed() -> i32;
        RecommendedHardDiskSpace() -> i32;
        RecommendedMemory() -> i32;
        ReleaseNotes() -> BSTR;
        SecurityBulletinIDs() -> IStringCollection;
        SupportUrl() -> BSTR;
        UninstallationNotes() -> BSTR;
        UninstallationBehavior() -> IInstallationBehavior;
        UninstallationSteps() -> IStringCollection;
        CopyFromCache(&BSTR, VARIANT_BOOL) -> ();
        DownloadPriority() -> DownloadPriority;
        DownloadContents() -> IUpdateDownloadContentCollection;
    }

    fn Title(&self) -> Result<BSTR> {
        text(&self.0.title)
    }

    fn Categories(&self) -> Result<ICategoryCollection> {
        Ok(Categories(self.0.categories.clone()).into())
    }

    fn EulaAccepted(&self) -> Result<VARIANT_BOOL> {
        // Without this a search of thousands would read the world once for each of them.
        if !self.0.needs_eula {
            return Ok(VARIANT_TRUE);
        }
        world::with(|world| {
            let update = world.update(&self.0.id);
            VARIANT_BOOL::from(update.is_some_and(|update| !update.needs_eula))
        })
    }

    fn Identity(&self) -> Result<IUpdateIdentity> {
        Ok(Identity(self.0.id.clone(), self.0.revision).into())
    }

    fn InstallationBehavior(&self) -> Result<IInstallationBehavior> {
        Ok(Behavior(self.0.is_exclusive, self.0.reboot_behavior).into())
    }

    fn IsDownloaded(&self) -> Result<VARIANT_BOOL> {
        Ok(self.0.is_downloaded.into())
    }

    fn IsHidden(&self) -> Result<VARIANT_BOOL> {
        Ok(self.0.is_hidden.into())
    }

    fn SetIsHidden(&self, value: VARIANT_BOOL) -> Result<()> {
        world::with(|world| {
            world.log(if value.as_bool() { "Hide" } else { "Unhide" }, &self.0.id, "");
            if let Some(update) = world.update(&self.0.id) {
                update.is_hidden = value.as_bool();
            }
        })
    }

    fn IsInstalled(&self) -> Result<VARIANT_BOOL> {
        Ok(self.0.is_installed.into())
    }

    fn IsUninstallable(&self) -> Result<VARIANT_BOOL> {
        Ok(self.0.is_uninstallable.into())
    }

    fn LastDeploymentChangeTime(&self) -> Result<f64> {
        Ok(self.0.changed)
    }

    fn MaxDownloadSize(&self) -> Result<DECIMAL> {
        Ok(DECIMAL {
            wReserved: 0,
            Anonymous1: DECIMAL_0 { signscale: 0 },
            Hi32: 0,
            Anonymous2: DECIMAL_1 { Lo64: self.0.size },
        })
    }

    fn MsrcSeverity(&self) -> Result<BSTR> {
        text(&self.0.severity)
    }

    fn SupersededUpdateIDs(&self) -> Result<IStringCollection> {
        Ok(Texts(self.0.supersedes.clone()).into())
    }

    fn Type(&self) -> Result<UpdateType> {
        Ok(if self.0.is_driver { utDriver } else { utSoftware })
    }

    fn KBArticleIDs(&self) -> Result<IStringCollection> {
        Ok(Texts(self.0.kbs.clone()).into())
    }

    fn AcceptEula(&self) -> Result<()> {
        world::with(|world| {
            world.log("AcceptEula", &self.0.id, "");
            if let Some(update) = world.update(&self.0.id) {
                update.needs_eula = false;
            }
        })
    }

    fn DeploymentAction(&self) -> Result<DeploymentAction> {
        Ok(daInstallation)
    }
}

impl IUpdate2_Impl for Found_Impl {
    absent! {
        IsPresent() -> VARIANT_BOOL;
        CveIDs() -> IStringCollection;
        CopyToCache(Ref<IStringCollection>) -> ();
    }

    fn RebootRequired(&self) -> Result<VARIANT_BOOL> {
        Ok(self.0.reboot_required.into())
    }
}

impl IUpdate3_Impl for Found_Impl {
    fn BrowseOnly(&self) -> Result<VARIANT_BOOL> {
        Ok(self.0.is_optional.into())
    }
}

#[implement(IUpdateIdentity, IDispatch)]
struct Identity(String, i32);

no_dispatch!(Identity_Impl);

impl IUpdateIdentity_Impl for Identity_Impl {
    fn RevisionNumber(&self) -> Result<i32> {
        Ok(self.1)
    }

    fn UpdateID(&self) -> Result<BSTR> {
        text(&self.0)
    }
}

/// Whether it must be alone, and its RebootBehavior.
#[implement(IInstallationBehavior, IDispatch)]
struct Behavior(bool, i32);

no_dispatch!(Behavior_Impl);

impl IInstallationBehavior_Impl for Behavior_Impl {
    fn CanRequestUserInput(&self) -> Result<VARIANT_BOOL> {
        Ok(VARIANT_FALSE)
    }

    fn Impact(&self) -> Result<InstallationImpact> {
        Ok(if self.0 { iiRequiresExclusiveHandling } else { iiNormal })
    }

    fn RebootBehavior(&self) -> Result<InstallationRebootBehavior> {
        Ok(InstallationRebootBehavior(self.1))
    }

    fn RequiresNetworkConnectivity(&self) -> Result<VARIANT_BOOL> {
        Ok(VARIANT_TRUE)
    }
}

/// An entry of the history.
#[implement(IUpdateHistoryEntry, IDispatch)]
pub struct Past(pub Entry);

no_dispatch!(Past_Impl);

impl IUpdateHistoryEntry_Impl for Past_Impl {
    absent! {
        Description() -> BSTR;
        UnmappedResultCode() -> i32;
        ServerSelection() -> ServerSelection;
        ServiceID() -> BSTR;
        UninstallationSteps() -> IStringCollection;
        UninstallationNotes() -> BSTR;
        SupportUrl() -> BSTR;
    }

    fn Operation(&self) -> Result<UpdateOperation> {
        Ok(UpdateOperation(self.0.operation))
    }

    fn ResultCode(&self) -> Result<OperationResultCode> {
        Ok(OperationResultCode(self.0.code))
    }

    fn HResult(&self) -> Result<i32> {
        Ok(hresult(&self.0.hresult).0)
    }

    fn Date(&self) -> Result<f64> {
        Ok(self.0.date)
    }

    fn UpdateIdentity(&self) -> Result<IUpdateIdentity> {
        Ok(Identity(self.0.id.clone(), self.0.revision).into())
    }

    fn Title(&self) -> Result<BSTR> {
        text(&self.0.title)
    }

    fn ClientApplicationID(&self) -> Result<BSTR> {
        text(&self.0.client)
    }
}
